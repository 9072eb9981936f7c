"""Time for memory: the feed-forward layer in pieces, and activations recomputed instead of stored."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

__all__ = ["apply_chunking_to_forward", "checkpointed"]


def apply_chunking_to_forward(
    forward: Callable[..., Tensor], chunk_size: int, chunk_dim: int, *inputs: Tensor
) -> Tensor:
    """`forward(*inputs)`, computed in pieces of `chunk_size` along `chunk_dim` and concatenated.

    The result is the same wherever `forward` treats the positions along `chunk_dim` independently, as a feed-forward
    layer does; only one piece of its wide intermediate activation exists at a time (Reformer, arXiv:2001.04451).

    Args:
        forward: a function of tensors that returns one tensor.
        chunk_size: positions in a piece; 0 computes everything at once. The last piece may be shorter.
        chunk_dim: dimension along which all inputs are split.

    Raises:
        ValueError: no input, inputs of different lengths along `chunk_dim`, or a negative `chunk_size`.
    """
    if not inputs:
        raise ValueError("apply_chunking_to_forward needs at least one tensor.")
    lengths = [tensor.shape[chunk_dim] for tensor in inputs]
    if any(length != lengths[0] for length in lengths[1:]):  # no set: while torch exports, a length is a symbol
        raise ValueError(f"apply_chunking_to_forward: the inputs have lengths {lengths} along dimension {chunk_dim}.")
    if chunk_size < 0:
        raise ValueError(f"chunk_size = {chunk_size}: expected a number of positions, or 0 for everything at once.")
    if chunk_size == 0:
        return forward(*inputs)
    pieces = zip(*(torch.split(tensor, chunk_size, dim=chunk_dim) for tensor in inputs), strict=True)
    return torch.cat([forward(*piece) for piece in pieces], dim=chunk_dim)


def checkpointed(module: Callable[..., Any], *inputs: Any, **settings: Any) -> Any:
    """`module(*inputs, **settings)`, whose activations are not kept but recomputed in the backward pass.

    The random state is restored for the second pass, so dropout drops the same values: gradients are those of the
    ordinary call (arXiv:1604.06174).
    """
    return checkpoint(module, *inputs, use_reentrant=False, **settings)
