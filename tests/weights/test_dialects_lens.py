"""TransformerLens: heads kept apart, numbers that are looked at before they are left out, files that were processed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import minitf
from minitf.loading import LoadError
from tests.weights.dialect_forge import Tensors, bert, gpt2, lens_bert, lens_gpt2, same_outputs, weights, written
from weights_tools.files import WeightsError
from weights_tools.inspection import inspect
from weights_tools.mapping import into_dialect, plan, plan_back
from weights_tools.ops import MERGE_HEADS, TRANSPOSE, Chain, MergeHeads, Op, SplitHeads

H, C, D = 2, 6, 3


@pytest.fixture(autouse=True)
def one_thread() -> Any:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


# ------------------------------------------------------------------------------------------------------- operations


@pytest.mark.parametrize(
    ("op", "before", "after"),
    [
        (MERGE_HEADS, (H, D), (H * D,)),
        (MERGE_HEADS, (H, D, C), (H * D, C)),
        (MergeHeads(last=True), (H, C, D), (H * D, C)),
        (MergeHeads(parts=3), (3 * H, D), (3 * H * D,)),
        (Chain((MergeHeads(parts=3, last=True), TRANSPOSE)), (3 * H, C, D), (C, 3 * H * D)),
        (Chain((MERGE_HEADS, TRANSPOSE)), (H, D, C), (C, H * D)),
    ],
)
def test_heads_side_by_side_and_apart(op: Op, before: tuple[int, ...], after: tuple[int, ...]) -> None:
    tensor = torch.randn(before)
    merged = op.apply(tensor)
    assert tuple(merged.shape) == op.shape(before) == after
    assert merged.is_contiguous()
    assert op.heads(before) == H
    apart = op.reversed().for_heads(H)
    assert torch.equal(apart.apply(merged), tensor)
    assert apart.shape(after) == before
    assert apart.apply(merged).is_contiguous()
    assert op.reversed().needs_heads
    assert not apart.needs_heads
    assert not op.needs_heads
    assert torch.equal(apart.reversed().apply(tensor), merged)
    for use in (op.invert, op.reversed().shape):
        with pytest.raises(ValueError, match="a shape does not say how many there are"):
            use(merged if use == op.invert else after)


def test_what_each_operation_does_to_numbers() -> None:
    query = torch.arange(2 * 3 * 2.0).view(2, 3, 2)  # 2 heads, width 3, head size 2
    by_hand = torch.stack([query[head, :, column] for head in range(2) for column in range(2)])
    assert torch.equal(MergeHeads(last=True).apply(query), by_hand)
    assert MergeHeads(last=True).apply(query).tolist()[1] == [1.0, 3.0, 5.0]
    out = torch.arange(2 * 2 * 3.0).view(2, 2, 3)  # 2 heads, head size 2, width 3
    assert MERGE_HEADS.apply(out).tolist() == [[0, 1, 2], [3, 4, 5], [6, 7, 8], [9, 10, 11]]


def test_what_does_not_fit_keeps_its_shape() -> None:
    assert MERGE_HEADS.shape((4,)) == (4,)
    assert MergeHeads(last=True).shape((4, 5)) == (4, 5)
    assert MergeHeads(last=True).heads((4, 5)) is None
    with pytest.raises(ValueError, match="10 rows cannot be split into 2 heads x 3 of one size"):
        SplitHeads(parts=3).for_heads(2).apply(torch.ones(10))


def test_the_number_of_heads_is_told_or_an_error() -> None:
    tensors = weights(gpt2())
    with pytest.raises(ValueError, match=r"keeps every attention head apart.*pass num_heads= \(num_attention_heads or"):
        into_dialect(tensors, "transformer-lens-gpt2")
    with pytest.raises(ValueError, match="num_heads=2 has no effect: the dialect 'nanogpt' does not keep"):
        into_dialect(tensors, "nanogpt", num_heads=2)
    with pytest.raises(ValueError, match="96 rows cannot be split into 5 heads x 3 of one size"):
        into_dialect(tensors, "transformer-lens-gpt2", num_heads=5)
    shapes = {way.target: way.shape(tuple(tensors[way.source].shape))
              for way in plan_back(tensors, "transformer-lens-gpt2", num_heads=4)}  # fmt: skip
    assert shapes["blocks.0.attn.W_K"] == (4, 32, 8)
    assert shapes["blocks.1.attn.b_V"] == (4, 8)
    assert shapes["blocks.1.attn.W_O"] == (4, 8, 32)
    assert shapes == {name: tuple(tensor.shape) for name, tensor in lens_gpt2(tensors, heads=4).items()}


# ---------------------------------------------------------------------------------------------------- files that load


def complete(tensors: Tensors) -> Tensors:
    """What `HookedTransformer.state_dict()` has besides: the scoring matrix, its bias of zeros, masks."""
    mask = {f"blocks.{layer}.attn.mask": torch.ones(16, 16).tril().bool() for layer in range(2)}
    ignore = {f"blocks.{layer}.attn.IGNORE": torch.tensor(-torch.inf) for layer in range(2)}
    scores = {"unembed.W_U": tensors["embed.W_E"].T.contiguous(), "unembed.b_U": torch.zeros(61)}
    return {**tensors, **scores, **mask, **ignore}


def test_the_whole_state_dict_of_a_hooked_transformer(tmp_path: Path) -> None:
    model = gpt2()
    tensors = complete(lens_gpt2(weights(model)))
    again = minitf.GPT2LMHeadModel.from_pretrained(written(tensors, tmp_path, model.config), strict=True)
    report = again.load_report
    assert same_outputs(again, model)
    assert [name for name, _ in report.dropped if "attn" not in name] == ["unembed.b_U"]
    assert sorted(name for name, _ in report.dropped if "attn" in name) == sorted(
        f"blocks.{layer}.attn.{name}" for layer in range(2) for name in ("mask", "IGNORE")
    )
    text = str(report)
    assert "heads put side by side, transposed: transformer.h.{0..1}.attn.c_attn.weight" in text
    assert "names do not tell whether weights were centred" in text
    assert "blocks.{0..1}.attn.W_Q+W_K+W_V -> transformer.h.{0..1}.attn.c_attn.weight" in text
    # Both names of the scoring matrix are compared, in one layout.
    tensors["unembed.W_U"] = tensors["unembed.W_U"] + 1
    path = written(tensors, tmp_path, model.config)
    with pytest.raises(ValueError, match=r"unembed.W_U and embed.W_E hold different values.*tie_word_embeddings=False"):
        minitf.GPT2LMHeadModel.from_pretrained(path)
    untied = minitf.GPT2LMHeadModel.from_pretrained(path, tie_word_embeddings=False, strict=True)
    assert torch.equal(untied.lm_head.weight, model.transformer.wte.weight + 1)
    tensors["unembed.b_U"][3] = 1e-9
    with pytest.raises(
        LoadError, match=r"unembed.b_U holds numbers other than 0, and this model has no place for them"
    ):
        minitf.GPT2LMHeadModel.from_pretrained(written(tensors, tmp_path, model.config), tie_word_embeddings=False)


def test_the_whole_state_dict_of_a_hooked_encoder(tmp_path: Path) -> None:
    model = bert()
    tensors = lens_bert(weights(model))
    tensors["unembed.W_U"] = tensors["embed.embed.W_E"].T.contiguous()
    tensors |= {"blocks.0.attn.mask": torch.ones(16, 16).bool(), "blocks.1.attn.IGNORE": torch.tensor(-torch.inf)}
    again = minitf.BertForPreTraining.from_pretrained(written(tensors, tmp_path, model.config), strict=True)
    assert same_outputs(again, model)
    assert again.load_report.dialect == "transformer-lens-bert"
    assert len(again.load_report.dropped) == 2
    trunk = minitf.BertModel.from_pretrained(tmp_path, strict=True)
    assert same_outputs(trunk, model.bert)


@pytest.mark.parametrize(("make", "by_hand"), [(gpt2, lens_gpt2), (bert, lens_bert)])
def test_another_number_of_heads_is_refused_though_every_shape_fits(make: Any, by_hand: Any, tmp_path: Path) -> None:
    model = make()
    path = written(by_hand(weights(model), 4), tmp_path, model.config)
    with pytest.raises(LoadError, match=r"blocks.0.attn.\w_Q has 4 attention heads, but the configuration has .* = 2"):
        type(model).from_pretrained(path)
    key = "n_head" if make is gpt2 else "num_attention_heads"
    again = type(model).from_pretrained(path, strict=True, **{key: 4})
    assert same_outputs(again, make(**{key: 4}))
    mixed = {**by_hand(weights(model), 2), **{k: t for k, t in by_hand(weights(model), 4).items() if "blocks.1" in k}}
    path = written(mixed, tmp_path, model.config)
    with pytest.raises(LoadError, match=r"blocks.1.attn.\w_Q has 4 attention heads"):
        type(model).from_pretrained(path)


def test_square_matrices_are_not_turned_by_their_shape(tmp_path: Path) -> None:
    """One head: W_Q is [1, C, C], W_O is [1, C, C], W_in may be square too; only the table knows which is turned."""
    model = bert(num_attention_heads=1, intermediate_size=32)
    again = minitf.BertModel.from_pretrained(
        written(lens_bert(weights(model), 1), tmp_path, model.config), strict=True
    )  # fmt: skip
    layer, own = model.bert.encoder.layer[1], again.encoder.layer[1]
    for path in ("attention.self.query", "attention.output.dense", "intermediate.dense", "output.dense"):
        weight = layer.get_submodule(path).weight
        assert weight.shape == (32, 32)
        assert torch.equal(own.get_submodule(path).weight, weight)
    stored = lens_bert(weights(model), 1)["blocks.1.attn.W_Q"]
    assert torch.equal(stored[0], layer.attention.self.query.weight.T)


def test_a_part_of_query_key_and_value_is_no_whole(tmp_path: Path) -> None:
    model = gpt2()
    tensors = lens_gpt2(weights(model))
    del tensors["blocks.1.attn.W_K"]
    with pytest.raises(
        LoadError, match=r"not explained: blocks.1.attn.\{W_Q,W_V\}.*missing in the file: transformer.h.1"
    ):
        minitf.GPT2LMHeadModel.from_pretrained(written(tensors, tmp_path, model.config))


# ------------------------------------------------------------------------------------------------- files that do not


def folded(model: nn.Module) -> Tensors:
    """What HookedTransformer.from_pretrained keeps by default: every LayerNorm folded into what reads it."""
    tensors = complete(lens_gpt2(weights(model)))
    for layer in range(2):
        block = f"blocks.{layer}."
        for norm, readers in (("ln1", ("attn.W_Q", "attn.W_K", "attn.W_V")), ("ln2", ("mlp.W_in",))):
            scale, shift = tensors.pop(f"{block}{norm}.w"), tensors.pop(f"{block}{norm}.b")
            for reader in readers:
                bias = block + reader.replace("W_", "b_")
                tensors[bias] = tensors[bias] + torch.einsum("...cd,c->...d", tensors[block + reader], shift)
                tensors[block + reader] = tensors[block + reader] * scale[:, None]
    scale, shift = tensors.pop("ln_final.w"), tensors.pop("ln_final.b")
    tensors["unembed.b_U"] = shift @ tensors["unembed.W_U"]
    tensors["unembed.W_U"] = tensors["unembed.W_U"] * scale[:, None]
    return tensors


@pytest.mark.parametrize("forced", [{}, {"dialect": "transformer-lens-gpt2"}])
def test_folded_layer_norms_are_refused_with_the_reason(forced: dict[str, str], tmp_path: Path) -> None:
    model = gpt2()
    path = written(folded(model), tmp_path, model.config)
    reason = (
        r"it has none of blocks.\{0..1\}.ln1.\{b,w\}, blocks.\{0..1\}.ln2.\{b,w\}, ln_final.\{b,w\}: LayerNorm was "
        r"folded into the matrices .*Save the state dict of HookedTransformer.from_pretrained_no_processing"
    )
    with pytest.raises(WeightsError, match="the names are of the dialect 'transformer-lens-gpt2' .*but " + reason):
        minitf.GPT2LMHeadModel.from_pretrained(path, **forced)
    found = inspect(path)
    assert len(found.problems) == 1
    assert found.problems[0].startswith("it has none of blocks.{0..1}.ln1")


def test_one_layer_norm_that_is_missing_is_missing(tmp_path: Path) -> None:
    model = gpt2()
    tensors = lens_gpt2(weights(model))
    del tensors["blocks.1.ln1.w"]
    with pytest.raises(LoadError, match=r"1 weights are missing in the file: transformer.h.1.ln_1.weight"):
        minitf.GPT2LMHeadModel.from_pretrained(written(tensors, tmp_path, model.config))


def centred(tensors: Tensors) -> Tensors:
    """center_writing_weights, as from_pretrained does it: W_E, W_pos, W_O, W_out and their biases."""
    result = dict(tensors)
    for name, tensor in tensors.items():
        if name.endswith(("W_E", "W_pos", "W_O", "b_O", "W_out", "b_out")):
            result[name] = tensor - tensor.mean(-1, keepdim=True)
    return result


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_centred_weights_compute_the_same_logits_and_are_found_in_the_numbers(
    dtype: torch.dtype, tmp_path: Path
) -> None:
    model = gpt2()
    plain = {name: tensor.to(dtype) for name, tensor in lens_gpt2(weights(model)).items()}
    moved = {name: tensor.to(dtype) for name, tensor in centred(lens_gpt2(weights(model))).items()}
    assert not any(
        "centred" in remark for remark in inspect(written(plain, tmp_path, model.config), values=True).remarks
    )
    path = written(moved, tmp_path, model.config)
    found = [remark for remark in inspect(path, values=True).remarks if remark.startswith("centred")]
    assert found == [
        "centred (center_writing_weights), so that hidden states are not those of the original: "
        "blocks.{0..1}.attn.W_O, blocks.{0..1}.mlp.W_out, embed.W_E, pos_embed.W_pos"
    ]
    assert not any("centred" in remark for remark in inspect(path).remarks)


def test_what_centring_changes(tmp_path: Path) -> None:
    """The claim of the table's remark: logits stay, hidden states do not; W_U centred moves logits by one number."""
    model = gpt2()
    tensors = complete(lens_gpt2(weights(model)))  # the scoring matrix is kept as it was
    moved = {**centred(tensors), "unembed.W_U": tensors["unembed.W_U"] - tensors["unembed.W_U"].mean(-1, keepdim=True)}
    path = written(moved, tmp_path, model.config)
    again = minitf.GPT2LMHeadModel.from_pretrained(path, tie_word_embeddings=False, strict=True)
    ids = torch.tensor([[5, 17, 3, 60, 1]])
    with torch.no_grad():
        one, other = model(ids, output_hidden_states=True), again(ids, output_hidden_states=True)
    assert torch.allclose(one.logits.log_softmax(-1), other.logits.log_softmax(-1), atol=2e-5)
    assert not torch.allclose(one.hidden_states[1], other.hidden_states[1], atol=1e-2)
    assert torch.allclose(
        one.hidden_states[1].sub(one.hidden_states[1].mean(-1, keepdim=True)), other.hidden_states[1], atol=2e-5
    )
    found = [remark for remark in inspect(path, values=True).remarks if remark.startswith("centred")]
    assert found[1] == "centred (center_unembed), so that logits are not those of the original: unembed.W_U"


def test_a_file_of_both_classes_is_no_file_of_one(tmp_path: Path) -> None:
    """Names of a HookedEncoder beside those of a HookedTransformer are unexpected; nothing is loaded by halves."""
    model = gpt2()
    tensors = {**lens_gpt2(weights(model)), "embed.embed.W_E": torch.ones(61, 32)}
    save_file(tensors, tmp_path / "both.safetensors")
    for forced in ({}, {"dialect": "transformer-lens-gpt2"}):
        with pytest.raises(LoadError, match=r"not explained|no tensor of this file fits"):
            minitf.GPT2LMHeadModel.from_pretrained(tmp_path / "both.safetensors", config=model.config, **forced)


def test_nothing_but_the_table_merges_heads() -> None:
    """A tensor of Hugging Face's name with an axis of heads stays misshapen."""
    made = plan({"transformer.h.0.attn.c_proj.weight": (2, 16, 32)}, {"transformer.h.0.attn.c_proj.weight": (32, 32)})
    assert made.misshapen == [("transformer.h.0.attn.c_proj.weight", (2, 16, 32), (32, 32))]
