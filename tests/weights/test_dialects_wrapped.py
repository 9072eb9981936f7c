"""What programs put around a model's names: torch.compile, DataParallel, FSDP, DeepSpeed, Lightning; and mixtures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper

import minitf
from minitf.loading import LoadError
from tests.weights.dialect_forge import FOREIGN, Tensors, bert, gpt2, nano, same_outputs, weights, written
from weights_tools import tables
from weights_tools.files import WeightsError
from weights_tools.inspection import inspect
from weights_tools.wrappers import unwrapped, wrapping


@pytest.fixture(autouse=True)
def one_thread() -> Any:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize(
    ("name", "bare"),
    [
        ("bert.pooler.dense.bias", "bert.pooler.dense.bias"),
        ("module._orig_mod.module.wte.weight", "wte.weight"),
        ("model.bert.x", "bert.x"),
        ("_forward_module.model.bert.x", "bert.x"),
        ("a._fsdp_wrapped_module.b._checkpoint_wrapped_module._orig_mod.c", "a.b.c"),
        ("bert.model.x", "bert.model.x"),
        ("modules.x", "modules.x"),
        ("module", "module"),
        ("module.model", "model"),
    ],
)
def test_a_name_without_wrappers(name: str, bare: str) -> None:
    assert unwrapped(name) == bare


def test_why_names_are_wrapped() -> None:
    assert wrapping([]) is None
    assert wrapping(["module.a", "b"]) is None
    assert wrapping(["a", "b._orig_mod.c"]) == "'b._orig_mod.c' holds '_orig_mod', which torch.compile puts there"
    assert wrapping(["module.a"]) == "every name begins with 'module.', as DataParallel, DDP or DeepSpeed leaves it"


def by_torch(model: nn.Module, wrapper: str) -> dict[str, torch.Tensor]:
    if wrapper == "compile":
        return torch.compile(model).state_dict()
    if wrapper == "parallel":
        return nn.DataParallel(model).state_dict()
    both = nn.DataParallel(torch.compile(model))
    return both.state_dict()


@pytest.mark.parametrize("wrapper", ["compile", "parallel", "both"])
def test_the_state_dicts_of_torchs_own_wrappers(wrapper: str, tmp_path: Path) -> None:
    model = bert()
    state = by_torch(model, wrapper)
    assert not set(state) & set(model.state_dict())
    torch.save(state, tmp_path / "model.bin")
    again = minitf.BertForPreTraining.from_pretrained(tmp_path / "model.bin", config=model.config, strict=True)
    assert again.load_report.dialect == "hf-wrapped"
    assert same_outputs(again, model)


def test_the_name_that_torchs_checkpoint_wrapper_puts_there() -> None:
    wrapped = checkpoint_wrapper(nn.Linear(2, 2))
    inner = [name for name, _ in wrapped.named_modules() if name]
    assert inner == ["_checkpoint_wrapped_module"]


def fsdp(tensors: Tensors) -> Tensors:
    """The root and every layer wrapped, as an auto wrap policy does it; the attention checkpointed besides."""
    result = {}
    for name, tensor in tensors.items():
        inside = name.replace("attention.", "attention._checkpoint_wrapped_module.")
        for layer in ("bert.encoder.layer.0.", "bert.encoder.layer.1.", "transformer.h.0.", "transformer.h.1."):
            inside = inside.replace(layer, f"{layer}_fsdp_wrapped_module.")
        result[f"_fsdp_wrapped_module.{inside}"] = tensor
    return result


def legacy(tensors: Tensors) -> Tensors:
    return {
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): tensor
        for name, tensor in tensors.items()
    }


CONSOLIDATED = {
    "FSDP": lambda state: fsdp(state),
    "FSDP of some layers": lambda state: {k.removeprefix("_fsdp_wrapped_module."): t for k, t in fsdp(state).items()},
    "DeepSpeed": lambda state: {"module": {f"module.{k}": t for k, t in state.items()}, "ds_version": "0.14.0",
                                "dp_world_size": 8, "global_steps": 12, "ds_config": {"train_batch_size": 32}},
    "DeepSpeed under Lightning": lambda state: {f"_forward_module.model.{k}": t for k, t in state.items()},
    "Lightning": lambda state: {"epoch": 3, "global_step": 17, "pytorch-lightning_version": "2.2.1",
                                "state_dict": {f"model.{k}": t for k, t in state.items()},
                                "hyper_parameters": {"lr": 0.1}, "callbacks": {}},
}  # fmt: skip


@pytest.mark.parametrize("old", [False, True])
@pytest.mark.parametrize("program", CONSOLIDATED)
def test_consolidated_files_of_training_programs(program: str, old: bool, tmp_path: Path) -> None:
    model = bert()
    state = weights(model)
    torch.save(CONSOLIDATED[program](legacy(state) if old else state), tmp_path / "saved.ckpt")
    again = minitf.BertForPreTraining.from_pretrained(tmp_path / "saved.ckpt", config=model.config, strict=True)
    assert again.load_report.dialect == "hf-wrapped"
    assert same_outputs(again, model)
    text = str(again.load_report)
    assert "the names are of the dialect 'hf-wrapped': " in text
    if program in ("DeepSpeed", "Lightning"):
        assert "saved.ckpt: the weights are the entry" in text
    assert not any("which no BERT" in remark for remark in inspect(tmp_path / "saved.ckpt").remarks)


def test_a_wrapped_nanogpt_and_a_wrapped_book(tmp_path: Path) -> None:
    model = gpt2()
    state = nano(weights(model))
    torch.save({"state_dict": fsdp(state)}, tmp_path / "ckpt.pt")
    again = minitf.GPT2LMHeadModel.from_pretrained(tmp_path / "ckpt.pt", config=model.config, dialect="nanogpt")
    assert same_outputs(again, model)
    for dialect in ("llms-from-scratch", "nanogpt-gamma", "transformer-lens-gpt2"):
        state = {f"model._orig_mod.{name}": t for name, t in FOREIGN[dialect].by_hand(weights(model)).items()}
        save_file({name: t.clone() for name, t in state.items()}, tmp_path / "model.safetensors")
        again = minitf.GPT2LMHeadModel.from_pretrained(tmp_path / "model.safetensors", config=model.config, strict=True)
        assert again.load_report.dialect == dialect
        assert same_outputs(again, model)


def test_both_spellings_of_one_layer_norm_behind_a_wrapper(tmp_path: Path) -> None:
    model = bert()
    state = {f"module.{name}": tensor for name, tensor in weights(model).items()}
    state["module.bert.embeddings.LayerNorm.gamma"] = torch.ones(32)
    torch.save(state, tmp_path / "model.bin")
    with pytest.raises(
        WeightsError, match=r"LayerNorm.weight has two sources .*LayerNorm.weight' and .*LayerNorm.gamma'"
    ):
        minitf.BertForPreTraining.from_pretrained(tmp_path / "model.bin", config=model.config)


# --------------------------------------------------------------------------------------------------------- mixtures

# nanoGPT's names are Hugging Face's, and files with gamma differ in the names of their LayerNorms only.
MIXED = [name for name in FOREIGN if name not in ("hf", "hf-legacy", "nanogpt")]


@pytest.mark.parametrize("foreign_first", [True, False])
@pytest.mark.parametrize("dialect", MIXED)
def test_half_of_one_dialect_and_half_of_another_is_not_loaded(
    dialect: str, foreign_first: bool, tmp_path: Path
) -> None:
    foreign = FOREIGN[dialect]
    model = foreign.make()
    tensors = weights(model)
    layer = "encoder.layer.1." if isinstance(model, minitf.BertPreTrainedModel) else "transformer.h.1."
    moved = {name: tensor for name, tensor in tensors.items() if (layer in name) == foreign_first}
    kept = {name: tensor for name, tensor in tensors.items() if name not in moved}
    mixture = {**foreign.by_hand(moved), **kept}
    mixture.pop("lm_head.weight", None)
    save_file({name: tensor.clone() for name, tensor in mixture.items()}, tmp_path / "mixture.safetensors")
    for forced in ({}, {"dialect": dialect}, {"dialect": "hf"}):
        if dialect == "hf-wrapped" and forced.get("dialect") == dialect:
            continue  # asked for: what has no wrapper needs none taken off, and each name is one tensor of this model
        with pytest.raises((LoadError, WeightsError), match=r"not explained|no tensor of this|would fit"):
            type(model).from_pretrained(
                tmp_path / "mixture.safetensors", config=model.config, **forced, **foreign.settings
            )


@pytest.mark.parametrize("asked", [dialect.name for dialect in tables.DIALECTS])
@pytest.mark.parametrize("dialect", ["keras-gpt2", "openai-gpt2", "transformer-lens-gpt2", "llms-from-scratch", "hf"])
def test_a_wrong_dialect_is_an_error_that_says_what_would_fit(dialect: str, asked: str, tmp_path: Path) -> None:
    model = gpt2()
    tensors = FOREIGN[dialect].by_hand(weights(model))
    tensors.pop("out_head.weight", None)
    path = written(tensors, tmp_path, model.config)
    if asked == dialect or {asked, dialect} <= {"hf", "hf-legacy", "hf-wrapped"}:
        again = minitf.GPT2LMHeadModel.from_pretrained(path, config=model.config, dialect=asked, strict=True)
        assert same_outputs(again, model)
        return
    with pytest.raises((LoadError, WeightsError)) as caught:
        minitf.GPT2LMHeadModel.from_pretrained(path, config=model.config, dialect=asked)
    if asked.startswith("nanogpt") and dialect == "hf":
        assert "pass dialect='hf'" in str(caught.value)
    else:
        assert f"the file is of the dialect {dialect!r} (" in str(caught.value)
        assert f"not {asked!r} as asked" in str(caught.value)
