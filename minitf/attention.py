"""Attention functions, by name: `eager` (the reference, returns the probabilities) and `sdpa` (fast).

Every function has one signature,

    f(module, query, key, value, mask, *, scale, dropout, bias=None, head_mask=None) -> (context, probs or None)

    module     the attention module that calls (to reach its attributes)
    query      [B, H, T, D]
    key, value [B, H, S, D]
    mask       boolean [B, 1, T, S] or broadcastable, True = may be attended to; None = everything may
    scale      factor on the scores, a float (1 / sqrt(D) in BERT and GPT-2)
    dropout    probability with which a *probability* is dropped; 0.0 outside of training
    bias       [B, H, T, S], added to the scores before they are scaled (relative positions); None = nothing
    head_mask  [H] or [B, H], or broadcastable to [B, H, T, S]: factor on the probabilities of each head; None = 1
    context    [B, H, T, D]
    probs      [B, H, T, S] after dropout and head mask, as transformers returns them; None if not computed

Dimension letters: B batch, T query positions, S key positions, H heads, D head size.

A query that may attend to nothing gets the context 0 and the probabilities 0, under every function and dtype. (In
transformers such a row is the mean of all values, padding included, under eager, and 0 under sdpa.)

`ATTENTION["mine"] = f`, or `register("mine")` as a decorator, adds a function; `config.attn_implementation = "mine"`
picks it. Because it receives the finished mask, it cannot lose the padding.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minitf.checks import tracing

__all__ = ["ATTENTION", "AttentionFunction", "attend", "eager", "function_named", "register", "sdpa"]


HALF = (torch.bfloat16, torch.float16)


class AttentionFunction(Protocol):
    """The signature of an attention function; see the head of this file."""

    def __call__(
        self,
        module: nn.Module,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        mask: Tensor | None,
        *,
        scale: float,
        dropout: float,
        bias: Tensor | None = None,
        head_mask: Tensor | None = None,
    ) -> tuple[Tensor, Tensor | None]: ...


def eager(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    *,
    scale: float,
    dropout: float,
    bias: Tensor | None = None,
    head_mask: Tensor | None = None,
) -> tuple[Tensor, Tensor | None]:
    """Scaled dot-product attention in the words of the paper: `softmax(scale * Q K^T) V` (arXiv:1706.03762, 3.2.1).

    The scores are scaled because the dot product of two random D-vectors has the variance D: unscaled, the softmax
    would saturate and pass no gradient.
    """
    scores = torch.matmul(query, key.transpose(-1, -2))  # [B, H, T, S]
    if bias is not None:
        scores = scores + bias  # [B, H, T, S]
    scores = scores * scale  # [B, H, T, S]
    if mask is None:
        probs = torch.softmax(scores, dim=-1)  # [B, H, T, S]
    else:
        # The classic form: a huge negative number on the hidden keys, whose exponential is exactly 0. A row that may
        # attend to nothing is left unmasked, so that its softmax and gradient are finite, and its result is set to 0.
        nothing = ~mask.any(dim=-1, keepdim=True)  # [B, 1, T, 1] or broadcastable
        hidden = ~(mask | nothing)  # [B, 1, T, S] or broadcastable
        minimum = torch.finfo(scores.dtype).min
        scores = scores + torch.zeros_like(hidden, dtype=scores.dtype).masked_fill(hidden, minimum)  # [B, H, T, S]
        probs = torch.softmax(scores, dim=-1).masked_fill(nothing, 0.0)  # [B, H, T, S]
    # Dropping a probability drops the whole key for this query; unusual, but taken from the Transformer paper.
    probs = F.dropout(probs, p=dropout, training=dropout > 0.0)
    if head_mask is not None:
        probs = probs * head_mask  # [B, H, T, S]
    return torch.matmul(probs, value), probs  # [B, H, T, D], [B, H, T, S]


def sdpa(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    *,
    scale: float,
    dropout: float,
    bias: Tensor | None = None,
    head_mask: Tensor | None = None,
) -> tuple[Tensor, Tensor | None]:
    """torch's fused kernel: the same numbers up to rounding, without ever storing the [B, H, T, S] probabilities.

    A single query in half precision, on the CPU and without gradients, is computed in float32 and rounded once.

    Raises:
        ValueError: a head mask is given; the kernel has no place for one (`attend` sends such a call to `eager`).
    """
    if head_mask is not None:
        raise ValueError("the attention function 'sdpa' cannot apply a head_mask: use attn_implementation='eager'.")
    dtype = query.dtype
    if dtype in HALF and not tracing() and query.shape[2] == 1 and query.is_cpu and not torch.is_grad_enabled():
        # A decoding step: the kernel's own conversion of the keys takes three times as long as one to float32.
        query, key, value = query.float(), key.float(), value.float()  # [B, H, T, D], [B, H, S, D], [B, H, S, D]
        bias = bias if bias is None else bias.float()  # [B, H, T, S]
    if bias is not None:
        bias = bias * scale  # [B, H, T, S]; the kernel adds its mask after scaling
        mask = bias if mask is None else bias.masked_fill(~mask, float("-inf"))  # [B, H, T, S]
    # The kernel knows the triangle of a whole prompt itself, and then leaves out the blocks above it.
    triangle = getattr(mask, "plain_causal", False)
    context = F.scaled_dot_product_attention(
        query, key, value, attn_mask=None if triangle else mask, dropout_p=dropout, is_causal=triangle, scale=scale
    )
    return context.to(dtype), None  # [B, H, T, D]


ATTENTION: dict[str, AttentionFunction] = {"eager": eager, "sdpa": sdpa}
"""Name in `config.attn_implementation` -> attention function."""


def register(name: str) -> Callable[[AttentionFunction], AttentionFunction]:
    """Decorator: `@register("mine")` adds an attention function under a name of its own.

    Raises:
        ValueError: the name is taken by another function.
    """

    def add(function: AttentionFunction) -> AttentionFunction:
        if ATTENTION.get(name, function) is not function:
            raise ValueError(f"the attention function {name!r} exists already; choose another name.")
        ATTENTION[name] = function
        return function

    return add


def function_named(implementation: str) -> AttentionFunction:
    """The attention function of this name.

    Raises:
        ValueError: there is none; the message lists those that exist.
    """
    function = ATTENTION.get(implementation)
    if function is None:
        raise ValueError(
            f"attn_implementation {implementation!r} is not registered; known: {', '.join(ATTENTION)}. "
            "Add one with minitf.attention.register."
        )
    return function


def attend(
    implementation: str,
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    *,
    scale: float,
    dropout: float,
    bias: Tensor | None = None,
    head_mask: Tensor | None = None,
    output_attentions: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """Call the attention function of this name, or `eager` where `sdpa` cannot serve the call.

    `sdpa` neither returns probabilities nor applies a head mask, so a call that asks for either is computed by `eager`:
    the same mathematics, rounded differently (about 1e-6 in float32).

    Raises:
        ValueError: unknown name, or a registered function that returned no probabilities although they were asked for.
    """
    if implementation == "sdpa" and (output_attentions or head_mask is not None):
        implementation = "eager"
    context, probs = function_named(implementation)(
        module, query, key, value, mask, scale=scale, dropout=dropout, bias=bias, head_mask=head_mask
    )
    if output_attentions and probs is None:
        raise ValueError(
            f"the attention function {implementation!r} returns no probabilities, but output_attentions=True asks for "
            "them: use attn_implementation='eager'."
        )
    return context, probs
