"""Models and calls that the tests of tracing share: both libraries, equal weights, what attention can do."""

from __future__ import annotations

from typing import Any

import torch

import minitf
from tests.parity import bert_pairs, gpt2_pairs
from tests.support import randomise_

FAMILIES = ("bert", "gpt2")


def pair(family: str, attention: str = "eager", **settings: Any) -> tuple[Any, Any]:
    """(minitf's, transformers') language model with equal random weights, in eval mode."""
    if family == "bert":
        return bert_pairs.pair("BertForMaskedLM", attention=attention, **settings)
    return gpt2_pairs.pair("GPT2LMHeadModel", attention=attention, **settings)


def model(family: str, attention: str = "sdpa", **settings: Any) -> Any:
    """minitf's language model with random weights, in eval mode."""
    if family == "bert":
        config: Any = minitf.BertConfig(**{**bert_pairs.TINY, **settings}, attn_implementation=attention)
        built: Any = minitf.BertForMaskedLM(config) if not config.is_decoder else minitf.BertLMHeadModel(config)
    else:
        config = minitf.GPT2Config(**{**gpt2_pairs.TINY, **settings}, attn_implementation=attention)
        built = minitf.GPT2LMHeadModel(config)
    return randomise_(built).eval()


def inputs(family: str, *, labels: bool = False, padding: str = "right") -> dict[str, torch.Tensor]:
    """A batch of 3 x 7 tokens with padding."""
    if family == "bert":
        return bert_pairs.inputs_for("BertForMaskedLM", labels=labels, padding=padding)
    return gpt2_pairs.inputs_for("GPT2LMHeadModel", labels=labels, padding=padding)


def attention_path(family: str, layer: int) -> str:
    """Path of the self-attention of a layer."""
    return f"bert.encoder.layer.{layer}.attention.self" if family == "bert" else f"transformer.h.{layer}.attn"


def hooks(module: torch.nn.Module) -> int:
    """How many hooks there are in the whole tree."""
    return sum(len(part._forward_hooks) + len(part._forward_pre_hooks) for part in module.modules())


def modes() -> int:
    """How many torch function modes are active."""
    return torch._C._len_torch_function_stack()  # type: ignore[attr-defined,no-any-return]
