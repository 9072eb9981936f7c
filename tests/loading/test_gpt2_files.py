"""GPT-2's checkpoints: from and to transformers, between the classes, with and without prefix, with old buffers."""

from __future__ import annotations

import itertools
import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

import minitf
from tests.parity.gpt2_pairs import CLASSES, TINY, attended, different, for_oracle, inputs_for, pair
from tests.support import randomise_

HEAD_WEIGHTS = {
    "GPT2Model": [],
    "GPT2LMHeadModel": [],
    "GPT2DoubleHeadsModel": ["multiple_choice_head.summary.weight", "multiple_choice_head.summary.bias"],
    "GPT2ForSequenceClassification": ["score.weight"],
    "GPT2ForTokenClassification": ["classifier.weight", "classifier.bias"],
    "GPT2ForQuestionAnswering": ["qa_outputs.weight", "qa_outputs.bias"],
}


def saved(class_name: str, folder: Path, **settings: Any) -> Any:
    """A model with random values everywhere, saved into the folder."""
    model = randomise_(getattr(minitf, class_name)(minitf.GPT2Config(**{**TINY, **settings}))).eval()
    model.save_pretrained(folder)
    return model


def same(ours: Any, theirs: Any, class_name: str) -> bool:
    inputs = inputs_for(class_name)
    with torch.no_grad():
        outputs = (
            ours(**inputs),
            theirs(**(inputs if isinstance(theirs, minitf.GPT2PreTrainedModel) else for_oracle(inputs))),
        )
    return different(*(attended(class_name, output, inputs["attention_mask"]) for output in outputs)) == []


@pytest.mark.parametrize("class_name", CLASSES)
@pytest.mark.parametrize("safe", [True, False])
@pytest.mark.parametrize("settings", [{}, {"add_cross_attention": True}, {"tie_word_embeddings": False}], ids=str)
def test_what_is_saved_here_opens_in_transformers(
    tmp_path: Path, class_name: str, safe: bool, settings: dict[str, Any]
) -> None:
    ours, _ = pair(class_name, **settings)
    ours.save_pretrained(tmp_path, safe_serialization=safe, max_shard_size="60KB")
    theirs, info = getattr(transformers, class_name).from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    again = getattr(minitf, class_name).from_pretrained(tmp_path, strict=True)
    expected = theirs.state_dict()
    assert list(ours.state_dict()) == list(again.state_dict()) == list(expected)
    for name, tensor in ours.state_dict().items():
        assert torch.equal(tensor, expected[name]), name
        assert torch.equal(tensor, again.state_dict()[name]), name
    assert again.load_report.ok
    assert same(again, theirs, class_name)


@pytest.mark.parametrize("class_name", CLASSES)
@pytest.mark.parametrize("settings", [{}, {"add_cross_attention": True}, {"tie_word_embeddings": False}], ids=str)
def test_what_transformers_saves_opens_here(tmp_path: Path, class_name: str, settings: dict[str, Any]) -> None:
    _, theirs = pair(class_name, **settings)
    theirs.save_pretrained(tmp_path)
    ours = getattr(minitf, class_name).from_pretrained(tmp_path, attn_implementation="eager", strict=True)
    assert ours.load_report.ok
    assert ours.load_report.config_unknown == {}
    assert same(ours, theirs, class_name)


@pytest.mark.parametrize(("source", "target"), list(itertools.product(CLASSES, CLASSES)))
def test_any_class_loads_any_others_checkpoint(
    tmp_path: Path, source: str, target: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The trunk is exact; heads that the file does not hold are new, said in one line, and refused by strict=True."""
    model = saved(source, tmp_path)
    with caplog.at_level(logging.WARNING):
        loaded, info = getattr(minitf, target).from_pretrained(tmp_path, output_loading_info=True)
    trunk = model.base_model.state_dict()
    for name, tensor in loaded.base_model.state_dict().items():
        assert torch.equal(tensor, trunk[name]), name
    held = set(HEAD_WEIGHTS[source])
    fresh = [name for name in HEAD_WEIGHTS[target] if name not in held]
    assert info["missing_keys"] == fresh
    assert info["unexpected_keys"] == []
    assert len(caplog.records) == bool(fresh)
    for name in fresh:
        assert name in caplog.text
    dropped = [name for name, _ in loaded.load_report.dropped]
    assert dropped == sorted(held - set(HEAD_WEIGHTS[target]))
    if target in ("GPT2LMHeadModel", "GPT2DoubleHeadsModel"):
        assert loaded.lm_head.weight is loaded.transformer.wte.weight
    if fresh:
        with pytest.raises(RuntimeError, match="strict=True, but the file does not hold"):
            getattr(minitf, target).from_pretrained(tmp_path, strict=True)


OLD = "GPT-2's causal mask, a constant and not a bias"


def add_buffers(tensors: dict[str, torch.Tensor], prefix: str, cross: bool) -> list[str]:
    """The buffers that transformers wrote before 2023 (masked_bias) and until 2024 (bias), as uint8 and bool."""
    names = []
    for layer in range(TINY["n_layer"]):
        for attention in ["attn", *(["crossattention"] if cross else [])]:
            triangle = torch.ones(1, 1, 40, 40).tril()
            tensors[f"{prefix}h.{layer}.{attention}.bias"] = triangle.to(torch.uint8 if layer else torch.bool)
            tensors[f"{prefix}h.{layer}.{attention}.masked_bias"] = torch.tensor(-1e4)
            names += [f"{prefix}h.{layer}.{attention}.{name}" for name in ("bias", "masked_bias")]
    return names


@pytest.mark.parametrize("class_name", ["GPT2Model", "GPT2LMHeadModel", "GPT2ForTokenClassification"])
@pytest.mark.parametrize("prefix", ["", "transformer."])
@pytest.mark.parametrize("cross", [False, True])
@pytest.mark.parametrize("form", ["model.safetensors", "pytorch_model.bin"])
def test_old_files_with_buffers_with_and_without_the_prefix(
    tmp_path: Path, class_name: str, prefix: str, cross: bool, form: str
) -> None:
    """`gpt2` itself is such a file: a bare GPT2Model with the buffers. Each is dropped by a rule, and listed."""
    model = saved("GPT2Model", tmp_path / "new", add_cross_attention=cross)
    tensors = {f"{prefix}{name}": tensor for name, tensor in load_file(tmp_path / "new" / "model.safetensors").items()}
    buffers = add_buffers(tensors, prefix, cross)
    (tmp_path / "old").mkdir()
    config = json.loads((tmp_path / "new" / "config.json").read_text())
    config.update(architectures=["GPT2LMHeadModel"], torch_dtype=None)
    (tmp_path / "old" / "config.json").write_text(json.dumps(config))
    if form == "model.safetensors":
        save_file(tensors, tmp_path / "old" / form, metadata={"format": "pt"})
    else:
        torch.save(tensors, tmp_path / "old" / form)
    loaded = getattr(minitf, class_name).from_pretrained(tmp_path / "old")
    for name, tensor in loaded.base_model.state_dict().items():
        assert torch.equal(tensor, model.state_dict()[name]), name
        assert tensor.dtype == torch.float32
    dropped = dict(loaded.load_report.dropped)
    assert sorted(dropped) == sorted(buffers)
    assert {dropped[name] for name in buffers if name.endswith("n.bias")} == {OLD}
    assert loaded.load_report.unexpected == []
    assert "attn.{bias, masked_bias}" in str(loaded.load_report) or "attn.bias" in str(loaded.load_report)
    loaded.save_pretrained(tmp_path / "again")
    assert not any("masked_bias" in name for name in load_file(tmp_path / "again" / "model.safetensors"))


def test_a_file_with_lm_head_and_embeddings(tmp_path: Path) -> None:
    """Old `.bin` files hold the tied matrix under both names: equal values load, different ones are an error."""
    model = saved("GPT2LMHeadModel", tmp_path)
    assert "lm_head.weight" not in load_file(tmp_path / "model.safetensors")
    (tmp_path / "model.safetensors").unlink()
    torch.save(dict(model.state_dict()), tmp_path / "pytorch_model.bin")
    loaded = minitf.GPT2LMHeadModel.from_pretrained(tmp_path, strict=True)
    assert loaded.lm_head.weight is loaded.transformer.wte.weight
    assert torch.equal(loaded.lm_head.weight, model.lm_head.weight)
    torch.save({**model.state_dict(), "lm_head.weight": model.lm_head.weight + 1}, tmp_path / "pytorch_model.bin")
    with pytest.raises(ValueError, match=r"lm_head\.weight.*hold different values.*tie_word_embeddings=False"):
        minitf.GPT2LMHeadModel.from_pretrained(tmp_path)
    untied = minitf.GPT2LMHeadModel.from_pretrained(tmp_path, tie_word_embeddings=False)
    assert torch.equal(untied.lm_head.weight, model.lm_head.weight + 1)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"vocab_size": 60}, r"vocab_size = 60, but .*wte\.weight .* expected vocab_size = 61"),
        ({"n_positions": 39}, r"n_positions = 39, but .*wpe\.weight .* expected n_positions = 40"),
        ({"n_embd": 32}, r"n_embd = 32, but .* expected n_embd = 64"),
        ({"n_layer": 1}, r"n_layer = 1: if fewer"),
        ({"n_layer": 3}, r"weights are missing.*h\.2\."),
        ({"n_layer": 1000}, r"n_layer = 1000, but the file holds only"),
        ({"n_inner": 128}, r"mlp\.c_fc\.weight has the shape \[64, 96\] in the file and \[64, 128\] in the model"),
        ({"add_cross_attention": True}, r"crossattention"),
    ],
)
def test_a_configuration_that_does_not_fit_the_file(tmp_path: Path, values: dict[str, Any], message: str) -> None:
    saved("GPT2Model", tmp_path)
    with pytest.raises(RuntimeError, match=message):
        minitf.GPT2LMHeadModel.from_pretrained(tmp_path, **values)


def test_a_transposed_square_matrix_is_not_guessed(tmp_path: Path) -> None:
    """`c_proj` is square: nothing says how it lies, so it is read as it stands; a transposed `c_attn` is an error."""
    model = saved("GPT2Model", tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    tensors["h.0.attn.c_proj.weight"] = tensors["h.0.attn.c_proj.weight"].t().contiguous()
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    loaded = minitf.GPT2Model.from_pretrained(tmp_path)
    assert torch.equal(loaded.h[0].attn.c_proj.weight, model.h[0].attn.c_proj.weight.t())
    tensors["h.0.attn.c_attn.weight"] = tensors["h.0.attn.c_attn.weight"].t().contiguous()
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(RuntimeError, match=r"c_attn\.weight has the shape \[192, 64\] in the file and \[64, 192\]"):
        minitf.GPT2Model.from_pretrained(tmp_path)


def test_three_added_special_tokens(tmp_path: Path) -> None:
    """The tutorial's 50257 -> 50260, here 61 -> 64: old rows keep their bits, the scores follow, both sides load it."""
    model = saved("GPT2LMHeadModel", tmp_path)
    before = model.transformer.wte.weight.detach().clone()
    embeddings = model.resize_token_embeddings(64)
    assert (embeddings.num_embeddings, model.lm_head.out_features, model.config.vocab_size) == (64, 64, 64)
    assert torch.equal(model.lm_head.weight[:61], before)
    assert model.lm_head.weight is model.get_input_embeddings().weight
    assert model.get_output_embeddings().weight.shape == (64, 64)
    model.save_pretrained(tmp_path / "larger")
    ids = torch.tensor([[61, 62, 63, 5]])
    theirs = transformers.GPT2LMHeadModel.from_pretrained(tmp_path / "larger")
    with torch.no_grad():
        assert torch.equal(model(ids).logits, theirs(ids).logits)
        assert torch.equal(minitf.GPT2LMHeadModel.from_pretrained(tmp_path / "larger")(ids).logits, model(ids).logits)
    assert model.resize_token_embeddings(pad_to_multiple_of=10).num_embeddings == 70


def test_pruned_heads_survive_saving(tmp_path: Path) -> None:
    model = saved("GPT2LMHeadModel", tmp_path)
    model.prune_heads({0: [1, 3], 1: [0]})
    model.prune_heads({1: [2]})
    model.save_pretrained(tmp_path / "pruned")
    loaded = minitf.GPT2LMHeadModel.from_pretrained(tmp_path / "pruned", strict=True)
    assert loaded.config.pruned_heads == {0: [1, 3], 1: [0, 2]}
    assert loaded.transformer.h[0].attn.c_attn.weight.shape == (64, 96)
    assert same(loaded, model, "GPT2LMHeadModel")
