"""Small models with random parameters everywhere, for the tests of this folder."""

from __future__ import annotations

from typing import Any

import torch

import minitf
from tests.support import randomise_

SIZES: dict[str, Any] = {
    "vocab_size": 61,
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 96,
    "max_position_embeddings": 40,
}
LAYERS, HEADS, HEAD_SIZE = 2, 4, 16
ATTENTION = ("eager", "sdpa")


def config(**settings: Any) -> minitf.BertConfig:
    return minitf.BertConfig(**{**SIZES, **settings})


def build(class_name: str = "BertModel", *, arguments: dict[str, Any] | None = None, **settings: Any) -> Any:
    """A model in eval mode; `arguments` go to its constructor, `settings` to its configuration."""
    if class_name == "BertLMHeadModel":
        settings = {"is_decoder": True, **settings}
    model = getattr(minitf, class_name)(config(**settings), **(arguments or {}))
    return randomise_(model).eval()


def close(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Equal up to the rounding of float32: within 1e-5 of the largest value."""
    return one.shape == other.shape and bool((one - other).abs().max() <= 1e-5 * other.abs().max())
