"""Attention masks: booleans with one meaning, True = this key may be attended to.

A mask is `[B, 1, T, S]` or broadcasts to it. It is built once, in the model's forward, from the small predicates of
this file joined by `&`, and every attention function receives it finished:

    padding([B, S])     causal(T, S), T=3, S=5      window(T, S, 2)          padding & causal
    x x x x .           x x x . .                   . x x . .                x x x . .
                        x x x x .                   . . x x .                x x x x .
                        x x x x x                   . . . x x                x x x x .

Dimension letters: B batch, T query positions, S key positions (S = T + what a cache holds).

The classic code carries the same information as an *additive* mask, 0 or a huge negative number that is added to the
scores; here that form exists only inside the eager attention function, by `additive`. A row in which nothing may be
attended to (a padding token of a left-padded decoder, say) has the result 0 under every attention function and dtype.
"""

from __future__ import annotations

import torch
from torch import Tensor

from minitf.checks import check_attention_mask, tracing

__all__ = [
    "additive",
    "both",
    "broadcastable",
    "causal",
    "for_cross_attention",
    "for_self_attention",
    "from_additive",
    "padding",
    "positions_from_mask",
    "window",
]


def padding(attention_mask: Tensor) -> Tensor:
    """`[B, S]` of 1 (token) and 0 (padding) -> `[B, 1, 1, S]`: no query may attend to a padding key."""
    return attention_mask[:, None, None, :].to(torch.bool)  # [B, 1, 1, S]


def causal(query_length: int, key_length: int, device: torch.device | None = None) -> Tensor:
    """`[1, 1, T, S]`: a query sees itself and everything before it.

    The queries are the *last* T of S positions, so the triangle is aligned to the lower right corner and the one line
    serves a whole prompt (T = S), a chunk after a cache (T < S) and a single step (T = 1, all True).

    The triangle of a whole prompt carries the attribute `plain_causal`: a kernel that computes just this pattern need
    not read the mask (`attention.sdpa`).
    """
    query_position = torch.arange(key_length - query_length, key_length, device=device)[:, None]  # [T, 1]
    key_position = torch.arange(key_length, device=device)[None, :]  # [1, S]
    mask = (key_position <= query_position)[None, None]  # [1, 1, T, S]
    if not tracing() and query_length == key_length:
        mask.plain_causal = True  # type: ignore[attr-defined]  # lost as soon as the mask is joined with another
    return mask


def window(query_length: int, key_length: int, size: int, device: torch.device | None = None) -> Tensor:
    """`[1, 1, T, S]`: a query sees itself and the `size - 1` positions before it (causal sliding window)."""
    query_position = torch.arange(key_length - query_length, key_length, device=device)[:, None]  # [T, 1]
    key_position = torch.arange(key_length, device=device)[None, :]  # [1, S]
    distance = query_position - key_position  # [T, S]
    return ((distance >= 0) & (distance < size))[None, None]  # [1, 1, T, S]


def positions_from_mask(attention_mask: Tensor) -> Tensor:
    """`[B, S]` of 1 and 0 -> `[B, S]` position ids that count tokens only: the first token of every row has position 0.

    What a batch that is padded on the left needs. Padding before the first token gets 0 too; nothing attends to it.

        0 0 1 1 1   ->   0 0 0 1 2
    """
    return (attention_mask.long().cumsum(-1) - 1).clamp(min=0)  # [B, S]


def additive(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """The classic "extended" form of a boolean mask: 0 where attention is allowed, `finfo(dtype).min` where not.

    `finfo.min` and not `-inf`, because a row of nothing but `-inf` has the softmax NaN. Not -10000 either, as old code
    had it: a score larger than that shows through.
    """
    allowed = torch.zeros((), dtype=dtype, device=mask.device)
    return torch.where(mask, allowed, torch.finfo(dtype).min)


def from_additive(mask: Tensor) -> Tensor:
    """An additive mask (0 = allowed, any value <= -1e4 = hidden) -> the boolean form that models take.

    The classic extended padding mask `[B, 1, 1, S]` becomes `[B, S]`; other shapes stay.

    Raises:
        ValueError: some value is neither, so the tensor is a bias on the scores and not a mask.
    """
    hidden = mask <= -1e4
    if not bool((hidden | (mask == 0)).all()):
        wrong = mask[~(hidden | (mask == 0))].flatten()[0].item()
        raise ValueError(
            f"an additive mask holds 0 (allowed) or a value <= -1e4 (hidden), but this one holds {wrong}: "
            "that is a bias on the scores, not a mask. Register an attention function to add a bias."
        )
    return ~(hidden[:, 0, 0] if hidden.dim() == 4 and hidden.shape[1:3] == (1, 1) else hidden)


def broadcastable(mask: Tensor | None) -> Tensor | None:
    """A checked boolean mask `[B, S]`, `[B, T, S]` or `[B, 1, T, S]` -> `[B, 1, 1 or T, S]`; None stays None."""
    if mask is None or mask.dim() == 4:
        return mask
    return padding(mask) if mask.dim() == 2 else mask[:, None]  # [B, 1, 1, S] or [B, 1, T, S]


def both(first: Tensor | None, second: Tensor | None) -> Tensor | None:
    """Allowed by both masks; None = everything is allowed."""
    if first is None or second is None:
        return second if first is None else first
    return first & second  # [B, 1, T, S] or broadcastable


def for_self_attention(
    attention_mask: Tensor | None,
    *,
    batch: int,
    query_length: int,
    key_length: int,
    is_causal: bool,
    device: torch.device,
) -> Tensor | None:
    """The caller's mask, checked, and the causal triangle: what hides a key from a query, in one boolean mask.

    Args:
        attention_mask: `[B, S]`, `[B, T, S]` or `[B, 1, T, S]`; for its errors see `minitf.checks`.
        batch, query_length, key_length: B, T and S.
        is_causal: whether a query may not see what comes after it.
        device: where the triangle is made.

    Returns:
        `[1 or B, 1, 1 or T, S]`; None if nothing is hidden.
    """
    checked = check_attention_mask(attention_mask, batch=batch, query_length=query_length, key_length=key_length)
    mask = broadcastable(checked)  # [B, 1, 1 or T, S]
    if is_causal and (tracing() or query_length > 1):  # a single query is the last position: nothing lies after it
        mask = both(causal(query_length, key_length, device), mask)  # [1 or B, 1, T, S]
    return mask


def for_cross_attention(
    encoder_attention_mask: Tensor | None, *, batch: int, query_length: int, encoder_hidden_states: Tensor | None
) -> Tensor | None:
    """The encoder's padding, checked, as a boolean `[B, 1, 1 or T, S_encoder]`; None if nothing is hidden."""
    if encoder_hidden_states is None:
        return None
    checked = check_attention_mask(
        encoder_attention_mask,
        batch=batch,
        query_length=query_length,
        key_length=encoder_hidden_states.shape[1],
        name="encoder_attention_mask",
    )
    return broadcastable(checked)  # [B, 1, 1 or T, S]
