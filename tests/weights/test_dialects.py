"""The dialects of other programs: every name accounted for, every number where it belongs, both ways.

What another program's file looks like is written out a second time in `dialect_forge`, by hand and without the tables.
"""

from __future__ import annotations

import base64
import itertools
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import minitf
from minitf.loading import LoadError
from tests.support import padded_batch, randomise_, shared_data
from tests.weights.bundle_forge import bundle
from tests.weights.dialect_forge import (
    BERT,
    FOREIGN,
    GPT2,
    bert,
    from_scratch,
    google,
    gpt2,
    nano,
    openai,
    same_outputs,
    weights,
    written,
)
from weights_tools import tables
from weights_tools.files import WeightsError, open_checkpoint
from weights_tools.inspection import inspect
from weights_tools.mapping import SQUEEZE_FIRST, TRANSPOSE, UNSQUEEZE_FIRST, into_dialect, plan


@pytest.fixture(autouse=True)
def one_thread() -> Any:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def test_every_dialect_is_tried() -> None:
    assert list(FOREIGN) == [dialect.name for dialect in tables.DIALECTS]
    assert all(dialect.description for dialect in tables.DIALECTS)


@pytest.mark.parametrize("dialect", FOREIGN)
def test_there_and_back_bit_by_bit(dialect: str) -> None:
    foreign = FOREIGN[dialect]
    model = foreign.make()
    tensors = weights(model)
    there = into_dialect({foreign.base + name: t for name, t in tensors.items()}, dialect, num_heads=foreign.num_heads)
    expected = foreign.by_hand(tensors)
    for head in {"lm_head.weight", "out_head.weight"} & set(expected):  # a second name is not a second weight
        assert torch.equal(expected.pop(head), tensors["transformer.wte.weight"])
    wrapper = "module." if dialect == "hf-wrapped" else ""
    assert [wrapper + name for name in there] == list(expected)
    for name, tensor in there.items():
        assert torch.equal(tensor, expected[wrapper + name]), name
        assert tensor.is_contiguous()
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    made = plan(
        {name: tuple(tensor.shape) for name, tensor in there.items()}, shapes,
        dialect=dialect, base_prefix=model.base_model_prefix,
    )  # fmt: skip
    assert list(made.sources) == list(tensors)
    assert made.missing == made.unexpected == made.misshapen == made.dropped == made.duplicates == made.zeros == []
    assert len(made.joined) == (4 if dialect in ("llms-from-scratch", "transformer-lens-gpt2") else 0)
    assert list(made.heads) == ([] if foreign.num_heads is None else [foreign.num_heads])
    for target, (source, op) in made.sources.items():
        stored = torch.cat([there[part] for part in made.parts(source)]) if source in made.joined else there[source]
        assert torch.equal(made.numbers(source, there.__getitem__), tensors[target]), target
        assert torch.equal(op.reversed().for_heads(foreign.num_heads).apply(tensors[target]), stored), target


@pytest.mark.parametrize("name", ["BertForSequenceClassification", "BertForQuestionAnswering", "BertForMaskedLM"])
def test_the_heads_of_googles_programs(name: str, tmp_path: Path) -> None:
    model = bert(name, num_labels=2)
    there = into_dialect(weights(model), "google-bert")
    assert {key: t.tolist() for key, t in there.items()} == {
        key: t.tolist() for key, t in google(weights(model)).items()
    }
    index = bundle(there).write(tmp_path / "model.ckpt")
    again = getattr(minitf, name).from_pretrained(index, config=model.config, strict=True)
    assert same_outputs(again, model)


def test_no_way_back_for_a_name_that_a_dialect_does_not_have() -> None:
    with pytest.raises(WeightsError, match=r"score.weight: the dialect 'openai-gpt2' has no name for it .*Leave the"):
        into_dialect(weights(gpt2("GPT2ForSequenceClassification", pad_token_id=0)), "openai-gpt2")
    with pytest.raises(
        ValueError, match="dialect is 'keras'; expected one of 'keras-bert', 'keras-gpt2', 'google-bert', 'openai"
    ):
        into_dialect({}, "keras")


def test_the_leading_1() -> None:
    tensor = torch.arange(6.0).view(1, 2, 3)
    assert SQUEEZE_FIRST.shape((1, 2, 3)) == tuple(SQUEEZE_FIRST.apply(tensor).shape) == (2, 3)
    assert UNSQUEEZE_FIRST.shape((2, 3)) == (1, 2, 3)
    for op in (SQUEEZE_FIRST, TRANSPOSE):
        value = tensor if op is SQUEEZE_FIRST else tensor[0]
        assert torch.equal(op.invert(op.apply(value)), value)
        assert torch.equal(op.reversed().apply(op.apply(value)), value)
    assert torch.equal(UNSQUEEZE_FIRST.invert(tensor), tensor[0])
    assert UNSQUEEZE_FIRST.reversed() is SQUEEZE_FIRST
    # Another size than 1 is not squeezed: the plan lists it as misshapen.
    assert SQUEEZE_FIRST.shape((2, 3)) == (2, 3)


# ----------------------------------------------------------------------------------------------------- files that load


@pytest.mark.parametrize("dialect", FOREIGN)
def test_the_file_of_each_dialect_computes_the_same(dialect: str, tmp_path: Path) -> None:
    foreign = FOREIGN[dialect]
    model = foreign.make()
    path = written(foreign.by_hand(weights(model)), tmp_path, model.config)
    # nanoGPT's names, with biases, are Hugging Face's: only the caller can know (see the tests of recognition).
    forced = {"dialect": dialect} if dialect == "nanogpt" else {}
    again = type(model).from_pretrained(path, config=model.config, strict=True, **forced, **foreign.settings)
    assert again.load_report.ok
    assert again.load_report.dialect == dialect
    assert same_outputs(again, model)
    chosen = type(model).from_pretrained(path, config=model.config, strict=True, dialect=dialect, **foreign.settings)
    assert same_outputs(chosen, model)
    assert f"the names are of the dialect {dialect!r}: chosen by the caller" in chosen.load_report.notes
    explained = [note for note in again.load_report.notes if note.startswith("the names are of the dialect")]
    if dialect in ("hf", "hf-legacy"):
        assert explained == []
    else:
        assert len(explained) == 1
        assert explained[0] in str(again.load_report)
        reason = explained[0].partition(f"the names are of the dialect {dialect!r}: ")[2]
        with open_checkpoint(path) as checkpoint:
            assert reason == ("chosen by the caller" if forced else tables.recognise(checkpoint)[1])


@pytest.mark.parametrize("dialect", ["google-bert", "openai-gpt2"])
def test_the_trunk_alone_and_its_prefix(dialect: str, tmp_path: Path) -> None:
    make, by_hand = FOREIGN[dialect].make, FOREIGN[dialect].by_hand
    model = make()
    path = written(by_hand(weights(model)), tmp_path, model.config)
    trunk = type(model.base_model).from_pretrained(path, config=model.config, strict=True)
    assert same_outputs(trunk, model.base_model)
    dropped = [name for name, _ in trunk.load_report.dropped]
    assert dropped == [name for name in sorted(by_hand(weights(model))) if name.startswith("cls/")]


def test_the_state_dict_that_transformers_has_is_the_one_that_is_read(tmp_path: Path) -> None:
    """The oracle's own model, its weights written in Google's and in OpenAI's names: the oracle's own logits."""
    import transformers

    for ours, config, by_hand in (
        ("BertForMaskedLM", transformers.BertConfig(**BERT, attn_implementation="eager"), google),
        ("GPT2LMHeadModel", transformers.GPT2Config(**GPT2, attn_implementation="eager"), openai),
    ):
        theirs = randomise_(getattr(transformers, ours)(config)).eval()
        path = written(by_hand(weights(theirs)), tmp_path, config)
        own = minitf.BertConfig(**BERT) if "Bert" in ours else minitf.GPT2Config(**GPT2)
        model = getattr(minitf, ours).from_pretrained(path, config=own, attn_implementation="eager", strict=True)
        batch = padded_batch(length=9, padding="none")
        with torch.no_grad():
            assert torch.equal(model(batch["input_ids"]).logits, theirs(batch["input_ids"], return_dict=True).logits)


class Block(nn.Module):
    """One block of nanoGPT, from its description: pre-norm, fused query/key/value, all layers nn.Linear."""

    def __init__(self, width: int, heads: int, bias: bool) -> None:
        super().__init__()
        self.heads = heads
        self.ln_1, self.ln_2 = nn.LayerNorm(width, bias=bias), nn.LayerNorm(width, bias=bias)
        self.attn = nn.ModuleDict(
            {"c_attn": nn.Linear(width, 3 * width, bias=bias), "c_proj": nn.Linear(width, width, bias=bias)}
        )
        self.mlp = nn.ModuleDict(
            {"c_fc": nn.Linear(width, 4 * width, bias=bias), "c_proj": nn.Linear(4 * width, width, bias=bias)}
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        query, key, value = (
            part.unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for part in self.attn["c_attn"](self.ln_1(x)).chunk(3, -1)
        )
        context = nn.functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        x = x + self.attn["c_proj"](context.transpose(1, 2).flatten(2))
        return x + self.mlp["c_proj"](nn.functional.gelu(self.mlp["c_fc"](self.ln_2(x))))


class NanoGPT(nn.Module):
    def __init__(self, vocabulary: int, positions: int, width: int, layers: int, heads: int, bias: bool) -> None:
        super().__init__()
        self.transformer = nn.ModuleDict(
            {
                "wte": nn.Embedding(vocabulary, width),
                "wpe": nn.Embedding(positions, width),
                "h": nn.ModuleList([Block(width, heads, bias) for _ in range(layers)]),
                "ln_f": nn.LayerNorm(width, bias=bias),
            }
        )
        self.lm_head = nn.Linear(width, vocabulary, bias=False)
        self.transformer["wte"].weight = self.lm_head.weight

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        x = self.transformer["wte"](ids) + self.transformer["wpe"].weight[: ids.shape[1]]
        for block in self.transformer["h"]:
            x = block(x)
        return self.lm_head(self.transformer["ln_f"](x))


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("wrapper", ["", "_orig_mod.", "module.", "module._orig_mod."])
def test_a_nanogpt_that_computes(bias: bool, wrapper: str, tmp_path: Path) -> None:
    """Not our model renamed, but one of nn.Linear layers: its logits, from the ckpt.pt that its program writes."""
    theirs = randomise_(NanoGPT(61, 16, 32, 2, 2, bias)).eval()
    state = {wrapper + name: tensor for name, tensor in theirs.state_dict().items()}
    torch.save({"model": state, "model_args": {"bias": bias}, "iter_num": 3}, tmp_path / "ckpt.pt")
    config = minitf.GPT2Config(**GPT2, activation_function="gelu")
    known = not bias or wrapper == "_orig_mod."
    forced = {} if known else {"dialect": "nanogpt"}
    model = minitf.GPT2LMHeadModel.from_pretrained(tmp_path / "ckpt.pt", config=config, strict=True, **forced)
    ids = padded_batch(length=9, padding="none")["input_ids"]
    with torch.no_grad():
        assert torch.allclose(model(ids).logits, theirs(ids), atol=2e-6, rtol=0)
    report = model.load_report
    assert report.dialect == "nanogpt"
    assert any(note.startswith("transposed: transformer.h.{0..1}.attn.c_attn.weight") for note in report.notes)
    assert any("activation_function='gelu'" in note for note in report.notes)
    absent = [note for note in report.notes if note.startswith("0, because the file has none of them")]
    assert len(absent) == (not bias)
    biases = [parameter for name, parameter in model.named_parameters() if name.endswith(".bias")]
    assert all(bool(parameter.any()) == bias for parameter in biases)
    assert len(biases) == 13
    if not known:
        with pytest.raises(LoadError, match=r"would fit transposed: .*pass dialect='nanogpt'"):
            minitf.GPT2LMHeadModel.from_pretrained(tmp_path / "ckpt.pt", config=config)


def test_a_bias_that_is_missing_among_others_is_missing(tmp_path: Path) -> None:
    """Zero by rule is only what the program never had."""
    model = gpt2()
    tensors = nano(weights(model))
    tensors.pop("transformer.h.1.mlp.c_fc.bias")
    path = written(tensors, tmp_path, model.config)
    with pytest.raises(LoadError, match=r"1 weights are missing in the file: transformer.h.1.mlp.c_fc.bias"):
        minitf.GPT2LMHeadModel.from_pretrained(path, dialect="nanogpt")


def test_query_key_and_value_apart(tmp_path: Path) -> None:
    """All three or none: what is joined is said by the report, and a part alone is no whole."""
    model = gpt2()
    tensors = {**from_scratch(weights(model)), "trf_blocks.0.att.mask": torch.ones(16, 16).triu(1)}
    report = minitf.GPT2LMHeadModel.from_pretrained(written(tensors, tmp_path, model.config)).load_report
    whole = "trf_blocks.1.att.W_query+W_key+W_value.weight"
    assert (whole, "transformer.h.1.attn.c_attn.weight") in report.renamed
    assert report.dropped == [("trf_blocks.0.att.mask", "the causal mask, a constant")]
    without = {name: tensor for name, tensor in tensors.items() if not re.search(r"W_\w+.bias", name)}
    again = minitf.GPT2LMHeadModel.from_pretrained(written(without, tmp_path, model.config), strict=True)
    assert not any(block.attn.c_attn.bias.any() for block in again.transformer.h)
    assert all(block.attn.c_proj.bias.any() for block in again.transformer.h)
    assert any("transformer.h.{0..1}.attn.c_attn.bias" in note for note in again.load_report.notes)
    for lost in ("trf_blocks.1.att.W_key.weight", "trf_blocks.0.att.W_value.bias"):
        fewer = {name: tensor for name, tensor in tensors.items() if name != lost}
        with pytest.raises(LoadError, match=r"names in the file are not explained: trf_blocks.\d.att.W_(query|key)"):
            minitf.GPT2LMHeadModel.from_pretrained(written(fewer, tmp_path, model.config))
    assert not any("which no BERT" in remark for remark in inspect(written(tensors, tmp_path, model.config)).remarks)
    odd = inspect(written({**tensors, "extra.weight": torch.ones(2)}, tmp_path, model.config)).remarks
    assert "1 name(s) begin with 'extra', which no BERT or GPT-2 class has" in odd
    narrow = {**tensors, "trf_blocks.1.att.W_key.weight": torch.ones(31, 32)}
    with pytest.raises(LoadError, match=r"1 weights are missing in the file: transformer.h.1.attn.c_attn.weight"):
        minitf.GPT2LMHeadModel.from_pretrained(written(narrow, tmp_path, model.config))
    integers = {**tensors, "trf_blocks.1.att.W_value.weight": torch.ones(32, 32, dtype=torch.int64)}
    with pytest.raises(LoadError, match=r"h.1.attn.c_attn.weight is stored as integers"):
        minitf.GPT2LMHeadModel.from_pretrained(written(integers, tmp_path, model.config))
    path = written({f"module.{name}": tensor for name, tensor in tensors.items()}, tmp_path, model.config)
    assert same_outputs(minitf.GPT2LMHeadModel.from_pretrained(path, strict=True), model)
    with pytest.raises(ValueError, match="has another layout there"):
        minitf.GPT2LMHeadModel.from_pretrained(path, mmap=True)


# --------------------------------------------------------------------------------------------------------- recognition


@pytest.mark.parametrize(
    ("names", "dialect", "reason"),
    [
        (["global_step", "bert/pooler/dense/bias"], "google-bert", "'bert/pooler/dense/bias' and 0 more names begin"),
        (["model/h0/ln_1/g", "model/wte"], "openai-gpt2", "'model/h0/ln_1/g' and 1 more names begin as OpenAI's"),
        (["transformer.h.0.attn.c_attn.weight", "transformer.h.0.attn.bias"], "nanogpt", "written with bias=False"),
        (["_orig_mod.transformer.h.0.attn.c_attn.weight", "_orig_mod.transformer.h.0.attn.c_attn.bias"],
         "nanogpt", "every name begins with '_orig_mod.', as nanoGPT's"),
        (["trf_blocks.0.att.mask", "x"], "llms-from-scratch", "'trf_blocks.0.att.mask' and 0 more"),
        (["module.transformer.h.0.ln_1.gamma"], "nanogpt-gamma", "'module.transformer.h.0.ln_1.gamma' and 0 more"),
        (["transformer.h.0.attn.c_attn.weight", "transformer.h.0.attn.c_attn.bias"], "hf", "no name is of another"),
        (["transformer.h.0.attn.c_attn.weight", "transformer.ln_f.bias"], "hf", "no name is of another"),
        (["module.bert.a", "module.cls.b"], "hf-wrapped", "every name begins with 'module.', as DataParallel, DDP or"),
        (["model.bert.a", "model.cls.b"], "hf-wrapped", "every name begins with 'model.', as a program that holds"),
        (["_orig_mod.bert.a"], "hf-wrapped", "'_orig_mod.bert.a' holds '_orig_mod', which torch.compile puts there"),
        (["a", "b._fsdp_wrapped_module.c"], "hf-wrapped", "'b._fsdp_wrapped_module.c' holds '_fsdp_wrapped_module'"),
        (["module.bert.a", "cls.b"], "hf", "no name is of another"),
        (["model.bert.a", "cls.b"], "hf", "no name is of another"),
        (["module.bert.LayerNorm.gamma"], "hf-wrapped", "every name begins with 'module.'"),
        (["bert.LayerNorm.gamma", "bert.x"], "hf-legacy", "'bert.LayerNorm.gamma' and 0 more names say gamma or beta"),
        (["bert/tf_bert_model/bert/pooler/dense/bias:0"], "keras-bert", "0 more names, as TensorFlow 2 names"),
        (["bert/pooler/dense/bias:0", "x"], "keras-bert", "'bert/pooler/dense/bias:0' and 0 more names, as"),
        (["score/kernel:0", "transformer/h_._0/ln_1/beta:0"], "keras-gpt2", "'transformer/h_._0/ln_1/beta:0' and 0"),
        (["blocks.0.ln1.w", "embed.embed.W_E"], "transformer-lens-bert", "'embed.embed.W_E' and 0 more names"),
        (["blocks.0.attn.W_Q", "blocks.0.ln1.w", "blocks.0.ln1.b"], "transformer-lens-gpt2",
         "'blocks.0.attn.W_Q' and 0 more names: matrices of a HookedTransformer"),
        (["layers.0.mha.query.bias", "embeddings.x"], "curated-transformers", "'layers.0.mha.query.bias' and 0 more"),
        (["0.auto_model.a", "1.x"], "sentence-transformers", "'0.auto_model.a' and 0 more names"),
        ([], "hf", "no name is of another"),
    ],
)  # fmt: skip
def test_names_decide_and_say_why(names: list[str], dialect: str, reason: str) -> None:
    found, why = tables.recognise(names)
    assert found.name == dialect
    assert reason in why
    made = plan(dict.fromkeys(names, (1,)), {"x": (1,)})
    assert (made.dialect, made.reason) == (dialect, why)


def test_a_layout_that_names_do_not_tell_is_refused_with_the_remedy(tmp_path: Path) -> None:
    model = gpt2()
    path = written(nano(weights(model)), tmp_path, model.config)
    with pytest.raises(LoadError, match=r"c_attn.weight would fit transposed: .*pass dialect='nanogpt'"):
        minitf.GPT2LMHeadModel.from_pretrained(path)
    assert same_outputs(minitf.GPT2LMHeadModel.from_pretrained(path, dialect="nanogpt"), model)
    path = written(weights(model), tmp_path, model.config)
    with pytest.raises(LoadError, match=r"c_attn.weight would fit as it stands: .*pass dialect='hf'"):
        minitf.GPT2LMHeadModel.from_pretrained(path, dialect="nanogpt")
    # torch.compile's prefix is before nanoGPT's names more often than before these: the shapes say that it was wrong.
    path = written({f"_orig_mod.{name}": t for name, t in weights(model).items()}, tmp_path, model.config)
    with pytest.raises(LoadError, match=r"pass dialect='hf' \('hf-wrapped'\)"):
        minitf.GPT2LMHeadModel.from_pretrained(path)
    assert same_outputs(minitf.GPT2LMHeadModel.from_pretrained(path, dialect="hf-wrapped"), model)
    # Another misfit is not blamed on the layout.
    with pytest.raises(LoadError) as caught:
        minitf.GPT2LMHeadModel.from_pretrained(path, n_positions=15, dialect="hf-wrapped")
    assert "dialect=" not in str(caught.value)


def test_a_dialect_by_name(tmp_path: Path) -> None:
    model = gpt2()
    path = written(weights(model), tmp_path, model.config)
    there = ", ".join(repr(name) for name in FOREIGN)
    with pytest.raises(ValueError, match=f"dialect is 'nanogtp'; expected one of {there}"):
        minitf.GPT2LMHeadModel.from_pretrained(path, dialect="nanogtp")
    with pytest.raises(TypeError, match=r"no setting 'dialekt'.*dialect"):
        minitf.GPT2LMHeadModel.from_pretrained(path, dialekt="nanogpt")
    with pytest.raises(LoadError, match="no tensor of this file fits"):
        minitf.GPT2LMHeadModel.from_pretrained(path, dialect="google-bert")
    report = minitf.AutoModelForCausalLM.from_pretrained(path, dialect="hf").load_report
    assert report.notes == ["the names are of the dialect 'hf': chosen by the caller"]


@pytest.mark.parametrize("dialect", FOREIGN)
def test_sizes_of_a_configuration_are_compared_in_every_dialect(dialect: str, tmp_path: Path) -> None:
    model = FOREIGN[dialect].make()
    tensors = FOREIGN[dialect].by_hand(weights(model))
    is_bert = isinstance(model, minitf.BertPreTrainedModel)
    path = written(tensors, tmp_path, model.config)
    model.config.save_pretrained(tmp_path)
    place = tmp_path / "model.ckpt.index" if path != tmp_path else tmp_path
    assert inspect(place).problems == []
    sizes = {"num_hidden_layers": 3, "vocab_size": 60} if is_bert else {"n_layer": 3, "vocab_size": 60}
    (tmp_path / "config.json").write_text(json.dumps({**model.config.to_dict(), **sizes}))
    said = inspect(place).problems
    assert len(said) == 2
    assert all(any(f"config.json says {key} = {value}" in line for line in said) for key, value in sizes.items())


def test_what_curated_transformers_0_wrote_is_refused_by_name(tmp_path: Path) -> None:
    model = bert("BertModel", add_pooling_layer=False)
    tensors = {"layers.0.mha.input.weight": torch.ones(96, 32), "embeddings.word_embeddings.weight": torch.ones(61, 32)}
    path = written(tensors, tmp_path, model.config)
    reason = r"'layers.0.mha.input.weight' joins query, key and value, as curated-transformers 0.x did"
    with pytest.raises(WeightsError, match=rf"of the dialect 'curated-transformers' \(.*\), but {reason}"):
        minitf.BertModel.from_pretrained(path)
    assert any(re.match(reason, problem) for problem in inspect(path).problems)


def test_two_wrappings_of_one_name_are_two_sources() -> None:
    source = {"_orig_mod.transformer.h.0.ln_1.gamma": (4,), "module.transformer.h.0.ln_1.gamma": (4,)}
    with pytest.raises(WeightsError, match=r"two sources in the checkpoint, '_orig_mod\..*' and 'module\."):
        plan(source, {"transformer.h.0.ln_1.weight": (4,)})


def test_a_layer_is_one_part_between_slashes() -> None:
    """`output/dense` ends the name of two layers: `layer_{layer}` must not swallow `attention`."""
    table = next(dialect for dialect in tables.DIALECTS if dialect.name == "google-bert")
    for middle in ("output", "attention/output"):
        target, _ = table.translate(f"bert/encoder/layer_11/{middle}/dense/kernel")
        assert target == f"bert.encoder.layer.11.{middle.replace('/', '.')}.dense.weight"


def test_what_an_optimizer_left_is_dropped_by_rule_and_listed(tmp_path: Path) -> None:
    model = bert()
    tensors = google(weights(model))
    slots = ("adam_m", "adam_v", "Adam", "Adam_1", "AdamWeightDecayOptimizer", "AdamWeightDecayOptimizer_1")
    left = {f"bert/pooler/dense/{kind}/{slot}": torch.ones(3) for slot in slots for kind in ("kernel", "bias")}
    left |= {"beta1_power": torch.ones(()), "beta2_power": torch.ones(()), "global_step": torch.tensor(7)}
    index = bundle({**tensors, **left}).write(tmp_path / "model.ckpt")
    again = minitf.BertForPreTraining.from_pretrained(index, config=model.config, strict=True)
    assert {name for name, _ in again.load_report.dropped} == set(left)
    assert same_outputs(again, model)
    index = bundle({**tensors, "bert/pooler/dense/kernel/momentum": torch.ones(3)}).write(tmp_path / "other.ckpt")
    with pytest.raises(LoadError, match="1 names in the file are not explained: bert/pooler/dense/kernel/momentum"):
        minitf.BertForPreTraining.from_pretrained(index, config=model.config)


def test_a_mapped_file_has_no_other_layout(tmp_path: Path) -> None:
    model = gpt2()
    path = written(nano(weights(model)), tmp_path, model.config)
    with pytest.raises(ValueError, match=r"mmap=True shares .*c_attn.weight has another layout .*pass mmap=False"):
        minitf.GPT2LMHeadModel.from_pretrained(path, dialect="nanogpt", mmap=True)
    path = written(weights(model), tmp_path, model.config)
    assert same_outputs(minitf.GPT2LMHeadModel.from_pretrained(path, mmap=True), model)


def test_the_folder_of_a_sentence_transformer(tmp_path: Path) -> None:
    """Its first module's folder is one of Hugging Face's, named as it is."""
    model = bert("BertModel")
    model.save_pretrained(tmp_path / "0_Transformer")
    assert same_outputs(minitf.BertModel.from_pretrained(tmp_path / "0_Transformer", strict=True), model)


# ---------------------------------------------------------------------------------------------------------- real files


def test_googles_names_written_by_tensorflow() -> None:
    folder = shared_data("checkpoints", "keras-bert-toy-tf1")
    config = minitf.BertConfig(
        vocab_size=15, hidden_size=4, num_hidden_layers=2, num_attention_heads=4, intermediate_size=16,
        max_position_embeddings=16,
    )  # fmt: skip
    index = folder / "bert_model.ckpt.index"
    model = minitf.BertForPreTraining.from_pretrained(index, config=config, strict=True)
    report = model.load_report
    with open_checkpoint(index) as checkpoint:
        assert len(checkpoint) == 139
        assert len(report.renamed) == 46
        dropped = [name for name, _ in report.dropped]
        assert dropped == [name for name in checkpoint if name.endswith(("/adam_m", "/adam_v"))] + ["global_step"]
        assert sorted([*dropped, *(name for name, _ in report.renamed)]) == sorted(checkpoint)
        weight = model.bert.encoder.layer[1].attention.self.key.weight
        assert torch.equal(weight, checkpoint.read("bert/encoder/layer_1/attention/self/key/kernel").T)
        scores = model.cls.seq_relationship.weight
        assert torch.equal(scores, checkpoint.read("cls/seq_relationship/output_weights"))
    assert report.dialect == "google-bert"
    assert report.ok
    assert "names are of the dialect 'google-bert': 'bert/embeddings/LayerNorm/beta' and" in str(report)
    assert model(torch.tensor([[1, 5, 14]])).prediction_logits.isfinite().all()
    # The configuration that lies beside it is Google's own, and it is this one.
    again = minitf.BertForPreTraining.from_pretrained(index, config=folder / "bert_config.json")
    assert same_parameters(model, again)


def same_parameters(one: nn.Module, other: nn.Module) -> bool:
    pairs = zip(weights(one).items(), weights(other).items(), strict=True)
    return all(a == b and torch.equal(x, y) for (a, x), (b, y) in pairs)


def test_the_index_of_googles_own_checkpoint_fits_name_by_name() -> None:
    folder = shared_data("checkpoints", "tf1-index-only")
    config = minitf.BertConfig.from_pretrained(folder / "uncased_L-8_H-512_A-8.bert_config.json")
    with torch.device("meta"):
        model = minitf.BertForPreTraining(config)
    shapes = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    with open_checkpoint(folder / "uncased_L-8_H-512_A-8.ckpt.index") as checkpoint:
        made = plan(checkpoint, shapes, base_prefix="bert")
        assert made.fits == len(shapes) == len(checkpoint) == 142
    assert made.missing == made.unexpected == made.misshapen == made.dropped == []


def test_openais_names_written_by_tensorflow() -> None:
    index = shared_data("checkpoints", "keras-gpt2-toy-tf1", "model.ckpt.index")
    config = minitf.GPT2Config(vocab_size=356, n_positions=20, n_embd=15, n_head=5, n_layer=3,
                               bos_token_id=None, eos_token_id=None)  # fmt: skip
    model = minitf.GPT2LMHeadModel.from_pretrained(index, config=config, strict=True)
    report = model.load_report
    assert report.dialect == "openai-gpt2"
    assert (len(report.renamed), report.dropped, report.ok) == (40, [], True)
    with open_checkpoint(index) as checkpoint:
        assert sorted(name for name, _ in report.renamed) == sorted(checkpoint)
        stored = checkpoint.read("model/h2/attn/c_proj/w")
        assert torch.equal(model.transformer.h[2].attn.c_proj.weight, stored[0])
    assert model(torch.tensor([[0, 355, 7]])).logits.isfinite().all()
    remarks = inspect(index).remarks
    assert not any("which no BERT or GPT-2 class has" in remark for remark in remarks)
    assert any(remark.startswith("older or foreign names (openai-gpt2)") for remark in remarks)


def test_a_nanogpt_written_by_hand() -> None:
    """gamma, no biases, CUDA storages, nested under "model": every name is used, every bias is 0 by the rule."""
    file = shared_data("checkpoints", "gpt-by-hand-nanogpt", "ckpt.pt")
    config = minitf.GPT2Config(vocab_size=32, n_positions=8, n_embd=16, n_head=2, n_layer=2, activation_function="gelu",
                               bos_token_id=None, eos_token_id=None)  # fmt: skip
    with open_checkpoint(file) as checkpoint:
        tensors = {name: checkpoint.read(name) for name in checkpoint}
    tied = torch.equal(tensors["lm_head.weight"], tensors["transformer.wte.weight"])
    config.tie_word_embeddings = tied
    model = minitf.GPT2LMHeadModel.from_pretrained(file, config=config, strict=True)
    report = model.load_report
    assert report.dialect == "nanogpt-gamma"
    assert "'transformer.h.0.ln_1.gamma' and 4 more names: GPT-2 with gamma" in str(report)
    assert "0, because the file has none of them and its program computes without: transformer.h" in str(report)
    assert (report.missing, report.unexpected, report.dropped) == ([], [], [])
    assert len(tensors) == 16
    theirs = NanoGPT(32, 8, 16, 2, 2, bias=False)
    if not tied:
        theirs.lm_head.weight = nn.Parameter(torch.empty_like(theirs.lm_head.weight))
    theirs.load_state_dict({name.replace(".gamma", ".weight"): tensor for name, tensor in tensors.items()})
    ids = torch.tensor([[0, 31, 5, 5, 17, 2, 9, 1]])
    with torch.no_grad():
        assert torch.allclose(model(ids).logits, theirs(ids), atol=5e-6, rtol=0)


def test_a_mingpt_that_sorts(tmp_path: Path) -> None:
    """The author's JSON as a torch.save file: its names are Hugging Face's, its layout and its head are its own."""
    contents = json.loads(shared_data("checkpoints", "gpt-nano-sort", "gpt-nano-sort-model.json").read_text())
    sizes = contents.pop("config")
    tensors = {
        name: torch.from_numpy(
            np.frombuffer(base64.b64decode(entry["data"]), dtype="<f4").reshape(entry["shape"]).astype(np.float32)
        )
        for name, entry in contents.items()
    }
    torch.save(tensors, tmp_path / "model.pt")
    config = minitf.GPT2Config(
        vocab_size=sizes["vocab_size"], n_positions=sizes["block_size"], n_embd=sizes["n_embd"],
        n_layer=sizes["n_layer"], n_head=sizes["n_head"], tie_word_embeddings=False, bos_token_id=None,
        eos_token_id=None,
    )  # fmt: skip
    load = minitf.GPT2LMHeadModel.from_pretrained
    with pytest.raises(LoadError, match="pass dialect='nanogpt'"):
        load(tmp_path / "model.pt", config=config)
    with pytest.raises(ValueError, match=r"hold different values.*tie_word_embeddings=False"):
        load(tmp_path / "model.pt", config=config, dialect="nanogpt", tie_word_embeddings=True)
    model = load(tmp_path / "model.pt", config=config, dialect="nanogpt", strict=True)
    assert model.load_report.dropped == [
        (f"transformer.h.{layer}.attn.bias", "the causal mask, a constant and not a bias") for layer in range(3)
    ]
    sequences = torch.tensor(list(itertools.product(range(3), repeat=6)))
    ids = sequences
    with torch.no_grad():
        for _ in range(6):
            ids = torch.cat([ids, model(ids).logits[:, -1:].argmax(-1)], 1)
    assert torch.equal(ids[:, 6:], sequences.sort(1).values)
