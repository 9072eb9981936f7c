"""Mistakes that cannot be reproduced number by number, and how the first wrong value of a dump betrays each.

Some have random numbers in them (`RANDOM`); a softmax in half precision rounds in every port at other steps.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["RANDOM", "mark_of"]

RANDOM = frozenset({"dropout-left-on", "decoder-untied", "lm-head-untied"})
"""Mistakes that give other numbers in every run, so only their mark tells."""

EXACTLY = 0.02
"""Relative spread that half precision leaves on a common factor."""
UNRELATED = 0.3
"""Correlation below which two tables of scores have nothing to do with each other."""


def mark_of(fault: str, model: Any, name: str, found: Tensor, expected: Tensor) -> str | None:
    """What in the first wrong value `name` betrays this mistake, in words; None = it is not this one.

    Args:
        fault: the name of a mistake in `minitf.parity.faults`. found, expected: the port's value and the reference's.
    """
    if fault == "dropout-left-on":
        return dropped(model, found, expected)
    if fault in ("decoder-untied", "lm-head-untied"):
        return unrelated_scores(model, name, found, expected)
    if fault == "softmax-in-half-precision":
        return half_numbers(name, found)
    return None


def half_numbers(name: str, found: Tensor) -> str | None:
    """Probabilities that float16 can hold without rounding; of float32 numbers one in 8,000 can."""
    if not name.endswith(".probs"):
        return None
    inner = found[(found > 0) & (found < 1)]
    if not inner.numel() or not bool((inner.half().double() == inner).all()):
        return None
    return f"all {inner.numel()} probabilities between 0 and 1 are numbers that float16 has"


def dropped(model: nn.Module, found: Tensor, expected: Tensor) -> str | None:
    """Zeros in the share of a dropout probability p, and all else larger by 1 / (1 - p)."""
    found, expected = torch.broadcast_tensors(found, expected)  # type: ignore[no-untyped-call]
    counted = expected != 0
    zeros = (found == 0) & counted
    kept = counted & ~zeros
    if not bool(zeros.any()) or not bool(kept.any()):
        return None
    share = int(zeros.sum()) / int(counted.sum())
    factor = (found[kept] / expected[kept]).median().item()
    for p in sorted({module.p for module in model.modules() if isinstance(module, nn.Dropout) and 0 < module.p < 1}):
        spread = 5 * (p * (1 - p) / int(counted.sum())) ** 0.5
        if abs(share - p) <= spread and abs(factor * (1 - p) - 1) <= EXACTLY:
            return f"{share:.1%} of the values are 0 and the others are {factor:.3f} times too large: dropout of {p:g}"
    return None


def unrelated_scores(model: Any, name: str, found: Tensor, expected: Tensor) -> str | None:
    """The scores of the words, and nothing before them, have no relation to the right ones."""
    layer = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    path = next((path for path, module in model.named_modules() if module is layer), None)
    if layer is None or name not in (f"{path}.output", "logits", "prediction_logits"):
        return None
    bias = 0.0 if layer.bias is None else layer.bias.detach().cpu()
    ours, theirs = ((value - bias).reshape(-1) for value in (expected, found))
    correlation = torch.corrcoef(torch.stack([ours, theirs]))[0, 1].item()
    if not abs(correlation) < UNRELATED:
        return None
    return f"its input agrees, and the scores have the correlation {correlation:.2f} with the right ones"
