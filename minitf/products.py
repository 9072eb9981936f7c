"""Matrix products of a decoding step: few rows, so their time is that of reading the matrix once.

A step multiplies one row for each sequence by every matrix of the model. The library that torch hands such a product
to runs it on one thread (MKL 2024.2 does for one row in float32), and one thread reads about half of what two can. So
the matrix is cut into as many parts as there are threads, and one batched product computes the parts side by side:

    x W   = x1 W1 + x2 W2             the rows of a `Conv1D` matrix, as stored, with the matching pieces of x
    x W^T = (x W1^T, x W2^T)          the rows of an `nn.Linear` matrix

Nothing is copied, converted or kept, so weights may change at any time. In half precision the row is instead a
weighted sum of the rows of W, which is what `embedding_bag` computes: torch's products convert the matrix first.

**Numbers.** A sum in two halves is rounded differently (about 1e-6 of the result in float32). So only a step under
`no_grad`, on more than one CPU thread, with a matrix of at least `SMALLEST` elements is cut. All else (prompts,
training, recorded graphs, everything on one thread) is torch's plain product: the same bits as in transformers.

Dimension letters: B batch, K inputs, N outputs, P parts.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minitf.checks import tracing

__all__ = ["Linear", "add_product", "add_rows", "linear_rows", "parts"]

SMALLEST = 2**18
"""Elements of the smallest matrix that is cut: 1 MiB in float32. A smaller one is read faster than threads meet."""
MOST_ROWS = 16
"""Sequences: with more rows the library uses its threads by itself, and arithmetic begins to count."""
MOST_PARTS = 8
"""More threads than this do not read faster, and every part of `x W` is one more row to add up."""
HALF = (torch.bfloat16, torch.float16)


def parts(x: Tensor, weight: Tensor) -> int:
    """Into how many parts the product of `x` `[B, 1, inputs]` is cut; 1 = it is torch's own."""
    if weight.numel() < SMALLEST or torch.is_grad_enabled() or tracing():
        return 1
    if x.dim() != 3 or x.shape[1] != 1 or x.shape[0] > MOST_ROWS:
        return 1
    if weight.device.type != "cpu" or not weight.is_contiguous():
        return 1
    if x.dtype != weight.dtype or torch.is_autocast_enabled("cpu"):
        return 1
    return min(torch.get_num_threads(), MOST_PARTS)


def add_product(bias: Tensor, x: Tensor, weight: Tensor) -> Tensor:
    """`bias + x W`: `[..., K]` -> `[..., N]`, `bias` `[N]`, `weight` `[K, N]` as in GPT-2's `Conv1D`."""
    flat = x.flatten(0, -2)  # [..., K]; not reshape(-1, K): a layer without heads has no inputs
    return add_rows(bias, flat, weight, parts(x, weight)).view(*x.shape[:-1], weight.shape[1])


def add_rows(bias: Tensor, rows: Tensor, weight: Tensor, count: int) -> Tensor:
    """`add_product` of `[B, K]`, in `count` parts if they can be equal."""
    if count == 1:
        return torch.addmm(bias, rows, weight)  # [B, N]
    inputs = weight.shape[0]
    while inputs % count:
        count -= 1
    if count == 1 or (rows.dtype in HALF and len(rows) > 1):
        return torch.addmm(bias, rows, weight)  # [B, N]
    if rows.dtype in HALF:
        numbers = torch.arange(inputs, device=rows.device).view(count, -1)  # [P, K / P]
        weights = rows.view(count, -1)  # [P, K / P]
        pieces = F.embedding_bag(numbers, weight, mode="sum", per_sample_weights=weights)  # [P, N]
        return (pieces.sum(0) + bias)[None]  # [1, N]
    x_pieces = rows.view(-1, count, inputs // count).transpose(0, 1)  # [P, B, K / P]
    pieces = torch.bmm(x_pieces, weight.view(count, -1, weight.shape[1]))  # [P, B, N]
    return pieces.sum(0) + bias  # [B, N]


def linear_rows(rows: Tensor, weight: Tensor, bias: Tensor | None, count: int) -> Tensor:
    """`rows W^T + bias`: `[B, K]` -> `[B, N]`, in `count` parts."""
    if count == 1 or rows.dtype in HALF:
        return F.linear(rows, weight, bias)  # [B, N]
    outputs, inputs = weight.shape
    even = outputs // count * count  # the rows that make parts of equal length
    columns = rows.t()  # [K, B]
    result = rows.new_empty(outputs, len(rows))  # [N, B]
    cut = weight[:even].view(count, -1, inputs)  # [P, N / P, K]
    torch.bmm(cut, columns.expand(count, -1, -1), out=result[:even].view(count, -1, len(rows)))
    if even < outputs:
        torch.mm(weight[even:], columns, out=result[even:])
    result = result.t().contiguous()  # [B, N]
    return result if bias is None else result + bias


class Linear(nn.Linear):
    """`nn.Linear`, whose product is cut between the threads in a decoding step."""

    def forward(self, input: Tensor) -> Tensor:
        count = parts(input, self.weight)
        if count == 1 or input.dtype in HALF:
            return super().forward(input)
        return linear_rows(input[:, 0], self.weight, self.bias, count)[:, None]  # [B, 1, N]
