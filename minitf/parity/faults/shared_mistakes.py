"""Mistakes that BERT and GPT-2 can both make, as functions that the tables of the two name and describe.

Each takes a model and yields the replacements that make the mistake (see injecting.py).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minitf import losses, masks
from minitf.losses import IGNORED
from minitf.parity.faults.injecting import Changes, attention_changed, parts, replaced, while_running, wrapped

# --------------------------------------------------------------------------------------------------------------------
# Attention and masks


def mask_as_bias(model: Any, hidden: float, *, inverted: bool = False) -> Changes:
    """Instead of the boolean mask `hidden` is added to the scaled scores at the hidden keys (or at all others)."""

    def change(module: Any, call: dict[str, Any]) -> None:
        mask, bias = call.pop("mask"), call.get("bias")
        call["mask"] = None
        if mask is None:
            return
        query, mask = call["query"], ~mask if inverted else mask
        added = torch.zeros_like(mask, dtype=query.dtype).masked_fill(~mask, hidden / call["scale"])
        call["bias"] = added if bias is None else bias + added

    return attention_changed(model, change)


def mask_inverted(model: Any) -> Changes:
    """Added, as in most ports: a query that then sees nothing gets the mean of all values."""
    return mask_as_bias(model, -1e30, inverted=True)


def softmax_in_half_precision(model: Any) -> Changes:
    def halved(softmax: Any, scores: Tensor, dim: int) -> Tensor:
        return softmax(scores.half(), dim=dim).to(scores.dtype)

    yield from attention_changed(model, lambda module, call: call.update(implementation="eager"))
    yield while_running(model, lambda: wrapped(torch, "softmax", halved))


def head_mask_ignored(model: Any) -> Changes:
    def change(module: Any, call: dict[str, Any]) -> None:
        if call["head_mask"] is not None:
            call["head_mask"] = 1 + 0 * call["head_mask"]  # its gradient exists and is 0

    return attention_changed(model, change)


def head_mask_before_the_softmax(model: Any) -> Changes:
    def change(module: Any, call: dict[str, Any]) -> None:
        if call["head_mask"] is not None:
            call["query"] = call["query"] * call["head_mask"]  # [B, H, T, D]: a factor on the query is one on the score
            call["head_mask"] = None

    return attention_changed(model, change)


def triangle_replaced(model: Any, triangle: Callable[[int, int], Tensor], *, only_with_cache: bool = False) -> Changes:
    """`triangle(T, S)`, `[T, S]`, stands for the causal mask of a decoder, single steps included.

    A `StaticKVCache` brings its own triangle, so a call with one is left as it is.
    """

    def around(build: Any, attention_mask: Any, **sizes: Any) -> Any:
        length, keys = sizes["query_length"], sizes["key_length"]
        if not sizes["is_causal"] or (only_with_cache and length == keys):
            return build(attention_mask, **sizes)
        wrong = triangle(length, keys)[None, None].to(sizes["device"])  # [1, 1, T, S]
        return masks.both(wrong, build(attention_mask, **{**sizes, "is_causal": False}))

    yield while_running(model.base_model, lambda: wrapped(masks, "for_self_attention", around))


def seen_up_to(by: int) -> Callable[[int, int], Tensor]:
    """The triangle of queries that see the keys up to `by` positions after themselves (0 is right)."""
    return lambda length, keys: torch.arange(keys) <= torch.arange(keys - length, keys)[:, None] + by


def upper_left(length: int, keys: int) -> Tensor:
    """The triangle of `[T, S]` that starts in the first column, as the is_causal of torch's kernel does."""
    return torch.ones(length, keys, dtype=torch.bool).tril()


# --------------------------------------------------------------------------------------------------------------------
# LayerNorm


def eps_outside_the_root(model: Any) -> Changes:
    """(x - mean) / (sqrt(variance) + eps)."""

    def outside(module: nn.LayerNorm) -> Callable[..., Tensor]:
        def around(norm: Any, x: Tensor) -> Tensor:
            variance = x.double().var(-1, unbiased=False, keepdim=True)
            more = (variance + module.eps).sqrt() / (variance.sqrt() + module.eps) - 1
            normalised = F.layer_norm(x, module.normalized_shape, eps=module.eps)
            return norm(x) + module.weight * normalised * more.to(x.dtype)  # written so that eps = 0 adds exactly 0

        return around

    for module in parts(model, nn.LayerNorm):
        yield wrapped(module, "forward", outside(module))


def eps_replaced(model: Any, eps: float) -> Changes:
    for module in parts(model, nn.LayerNorm):
        if module.eps != eps:
            yield replaced(module, "eps", eps)


# --------------------------------------------------------------------------------------------------------------------
# Heads and losses


def newly_initialised(layer: Any) -> nn.Parameter:
    """A matrix of the same size and spread as that of `layer`, and of other numbers."""
    own = torch.randn(layer.weight.shape, generator=torch.Generator().manual_seed(0)) * layer.weight.std().item()
    return nn.Parameter(own.to(layer.weight))


def loss_replaced(model: Any, name: str, around: Callable[..., Tensor], *classes: str) -> Changes:
    """A loss of `minitf.losses` is `around(the right one, ...)` in the classes that use it."""
    if type(model).__name__ in classes:
        yield while_running(model, lambda: wrapped(losses, name, around))


def averaged_over_all_positions(loss: Any, logits: Tensor, labels: Tensor) -> Tensor:
    return loss(logits, labels) * (labels != IGNORED).sum() / labels.numel()


def ignored_labels_scored(loss: Any, logits: Tensor, labels: Tensor) -> Tensor:
    return loss(logits, labels.clamp(min=0))


def not_shifted(loss: Any, logits: Tensor, labels: Tensor) -> Tensor:
    return losses.masked_language_model_loss(logits, labels)


def shifted_twice(loss: Any, logits: Tensor, labels: Tensor) -> Tensor:
    return loss(logits, F.pad(labels, (0, 1), value=IGNORED)[..., 1:])


def answers_beyond_the_text_scored(loss: Any, start: Tensor, end: Tensor, *positions: Tensor) -> Tensor:
    return loss(start, end, *(position.clamp(max=start.shape[1] - 1) for position in positions))


def squared_error_summed(loss: Any, logits: Tensor, labels: Tensor, problem_type: str | None) -> Tensor:
    regression = problem_type == "regression" or (problem_type is None and logits.shape[-1] == 1)
    return loss(logits, labels, problem_type) * (logits.numel() if regression else 1)


def several_labels_by_softmax(loss: Any, logits: Tensor, labels: Tensor, problem_type: str | None) -> Tensor:
    if labels.is_floating_point() and labels.shape == logits.shape and problem_type != "regression":
        return F.cross_entropy(logits, labels)
    return loss(logits, labels, problem_type)
