"""How far two values are apart, and how far apart two correct implementations may be.

**The noise floor** of a name is the reference's own error: its value computed in the port's dtype against its value in
float64. A port rounds in other places than the reference, but not much worse; it is judged against `MARGIN` times the
floor. So a float32 port is held to float32, a bfloat16 port to bfloat16, and nobody chooses a tolerance.

Two measures are taken, and both must be within their floors: the relative L2 norm of the difference, which is a steady
estimate of the noise, and the largest absolute difference, which a single wrong row cannot hide from.

**What is compared.** Values at tokens: what a model computes at padding is not part of its result, and differs between
correct implementations (only NaN where the reference has a number is a difference there too). Of `scores`, hidden keys
count as hidden or not: whether a port adds -10000, -1e9, the smallest number or minus infinity is its own affair as
long as the softmax makes it 0.

Dimension letters: B batch, T query positions, S key positions, H heads.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import median

import torch
from torch import Tensor

__all__ = ["MARGIN", "Difference", "Floor", "difference", "fitted", "floor_of", "ratio_of", "settled", "token_rows"]

MARGIN = 16.0
"""A port may be this many times as far from float64 as the reference's own arithmetic in the same dtype."""
HIDDEN = -5_000.0
"""A score below this is that of a hidden key."""
FEW = 256
"""A tensor of fewer numbers can be rounded well by chance, so its floor is at least that of the median name."""
INSIDE = ("query", "key", "value", "scores", "probs", "context")
"""Inside attention: `[B, H, T or S, ...]`."""
PAIRS = ("start_logits", "end_logits")
"""The fields of an output that are `[B, T]`."""


@dataclass(frozen=True)
class Difference:
    """How far `found` is from `expected`.

    Attributes:
        max_abs: largest absolute difference; inf where one of the two is NaN or infinite and the other is not.
        relative_l2: L2 norm of the difference over the L2 norm of what is expected.
        ulp: `max_abs` in units in the last place of the expected value there, in the port's dtype.
        position: indices of the worst element.
        found, expected: the two values there.
        scale: largest absolute value that is expected.
        count: how many numbers were compared.
    """

    max_abs: float
    relative_l2: float
    ulp: float
    position: tuple[int, ...]
    found: float
    expected: float
    scale: float
    count: int


@dataclass(frozen=True)
class Floor:
    """The noise floor of one name in one dtype: the two measures of `Difference` that a verdict uses."""

    max_abs: float
    relative_l2: float

    def ratio(self, apart: Difference) -> float:
        """How many times the floor the difference is, by the worse of the two measures."""
        pairs = ((apart.max_abs, self.max_abs), (apart.relative_l2, self.relative_l2))
        return max(0.0 if not a else a / b if b else math.inf for a, b in pairs)


def token_rows(name: str, shape: tuple[int, ...], mask: Tensor | None) -> Tensor | None:
    """Which entries of a value belong to tokens: boolean, broadcastable to `shape`; None = all of them.

    Args:
        name: decides where the positions are: axis 2 inside attention, else axis 1.
        mask: attention_mask `[B, S]` (or `[B, N, S]` for choices); None, or a mask of another form, = all are tokens.
    """
    if mask is None or mask.dim() not in (2, 3):
        return None
    if len(shape) < 3 and name not in PAIRS:
        return None
    tokens = mask.reshape(-1, mask.shape[-1]).bool()  # [B, S]
    axis = 2 if name.rpartition(".")[2] in INSIDE and len(shape) == 4 else 1
    length = shape[axis]
    if shape[0] != tokens.shape[0] or length > tokens.shape[1]:
        return None
    # With a cache the T positions of a call are the last of S.
    return tokens[:, -length:].reshape(len(tokens), *[1] * (axis - 1), length, *[1] * (len(shape) - axis - 1))


def fitted(value: Tensor, shape: tuple[int, ...]) -> Tensor | None:
    """`value` in this shape, where only a batch axis of 1 may be left out or repeated; None = it does not fit."""
    if tuple(value.shape) == shape:
        return value
    if shape[:1] == (1,) and tuple(value.shape) == shape[1:]:
        return value[None]
    if tuple(value.shape) == (1, *shape):
        return value[0]
    if value.dim() == len(shape) and value.shape[1:] == shape[1:] and 1 in (value.shape[0], shape[0]):
        return value
    return None


def hidden_alike(found: Tensor, expected: Tensor) -> tuple[Tensor, Tensor]:
    """Scores in which a key that both hide is 0 (it adds to no norm), and one that only one hides is `HIDDEN`."""
    both = (found < HIDDEN) & (expected < HIDDEN)
    return found.clamp(min=HIDDEN).masked_fill(both, 0.0), expected.clamp(min=HIDDEN).masked_fill(both, 0.0)


def difference(
    name: str, found: Tensor, expected: Tensor, dtype: torch.dtype, mask: Tensor | None = None
) -> Difference:
    """Compare two tensors of shapes that broadcast; everything is computed in float64.

    Args:
        name: as in `token_rows`. dtype: whose units in the last place `ulp` counts.
    """
    both = (found.detach().cpu().double(), expected.detach().cpu().double())
    found, expected = torch.broadcast_tensors(*both)  # type: ignore[no-untyped-call]
    if name.endswith(".scores"):
        found, expected = hidden_alike(found, expected)
    apart = (found - expected).abs()
    same = (found == expected) | (found.isnan() & expected.isnan())
    apart = apart.nan_to_num(nan=math.inf, posinf=math.inf).masked_fill(same, 0.0)
    size = expected.nan_to_num(nan=0.0, posinf=0.0, neginf=0.0)
    rows = token_rows(name, tuple(apart.shape), mask)
    if rows is not None:
        # A NaN at padding is no harmless difference: the next product hands it on to the tokens.
        poison = found.isnan() & ~expected.isnan()
        apart, size = apart.masked_fill(~rows & ~poison, 0.0), size.masked_fill(~rows, 0.0)
    if not apart.numel():
        return Difference(0.0, 0.0, 0.0, (), 0.0, 0.0, 0.0, 0)
    worst = int(apart.argmax())
    position = tuple(int(i) for i in torch.unravel_index(torch.tensor(worst), apart.shape))
    max_abs, norm = float(apart.reshape(-1)[worst]), float(size.norm())
    there = float(expected[position])
    counted = apart.numel() if rows is None else int(rows.expand(apart.shape).sum())
    return Difference(
        max_abs=max_abs,
        relative_l2=float(apart.norm()) / norm if norm else (math.inf if max_abs else 0.0),
        ulp=max_abs / last_place(there, dtype),
        position=position,
        found=float(found[position]),
        expected=there,
        scale=float(size.abs().max()),
        count=counted,
    )


def ratio_of(name: str, found: Tensor, expected: Tensor, floor: Floor, mask: Tensor | None = None) -> float:
    """`floor.ratio(difference(...))` of float64 tensors of one shape, and no more than that: for a search."""
    found, expected = found.cpu(), expected.cpu()
    if name.endswith(".scores"):
        found, expected = hidden_alike(found, expected)
    apart = (found - expected).abs()
    rows, zero = token_rows(name, tuple(apart.shape), mask), apart.new_zeros(())
    if rows is not None:
        apart = torch.where(rows | apart.isnan(), apart, zero)
    largest = float(apart.max()) if apart.numel() else 0.0
    if not math.isfinite(largest):  # NaN on one side, or on both, where it may be the same
        return floor.ratio(difference(name, found, expected, torch.float64, mask))
    norm = float((expected if rows is None else torch.where(rows, expected, zero)).norm())
    l2 = float(apart.norm()) / norm if norm else (math.inf if largest else 0.0)
    return floor.ratio(Difference(largest, l2, 0.0, (), 0.0, 0.0, 0.0, 0))


def last_place(value: float, dtype: torch.dtype) -> float:
    """The distance from `value` to the next number of the dtype."""
    info = torch.finfo(dtype)
    size = max(abs(value), info.tiny) if math.isfinite(value) else info.max
    return math.ldexp(float(info.eps), math.frexp(size)[1] - 1)


def floor_of(own_error: Difference, dtype: torch.dtype) -> Floor:
    """The floor from the reference's own error, never below one rounding of the value itself.

    For float64 there is nothing more exact to measure against: give it the error of float32, which is scaled.
    """
    eps = float(torch.finfo(dtype).eps)
    scale = eps / float(torch.finfo(torch.float32).eps) if dtype == torch.float64 else 1.0
    return Floor(max(own_error.max_abs * scale, eps / 2 * own_error.scale), max(own_error.relative_l2 * scale, eps / 2))


def settled(floors: dict[str, Floor], counts: dict[str, int], scales: dict[str, float]) -> dict[str, Floor]:
    """Floors in which those of small tensors are at least the median of all; see `FEW`."""
    if not floors:
        return {}
    finite = [floor.relative_l2 for floor in floors.values() if math.isfinite(floor.relative_l2)]
    middle = median(finite) if finite else 0.0
    return {
        name: floor
        if counts[name] >= FEW
        else Floor(max(floor.max_abs, middle * scales[name]), max(floor.relative_l2, middle))
        for name, floor in floors.items()
    }
