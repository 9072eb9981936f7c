"""What happens to the numbers of one tensor between two programs: small operations, each with its way back.

No operation asks what a shape might mean. A table says which one applies; a tensor that it does not fit keeps its shape
in `shape`, so that the plan lists it as misshapen.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace

import torch

Shape = tuple[int, ...]


class Op(ABC):
    """One operation, both ways, on numbers and on a shape alone."""

    @property
    @abstractmethod
    def text(self) -> str:
        """What a report says of the tensors that it happens to, "" for nothing."""

    @abstractmethod
    def apply(self, tensor: torch.Tensor) -> torch.Tensor:
        """The tensor afterwards: the given one, a view of it, or a new contiguous one."""

    @abstractmethod
    def shape(self, shape: Shape) -> Shape:
        """The shape afterwards; the given shape if the operation does not fit it."""

    @abstractmethod
    def reversed(self) -> Op:
        """The operation that undoes this one."""

    def invert(self, tensor: torch.Tensor) -> torch.Tensor:
        """Undo `apply`."""
        return self.reversed().apply(tensor)

    def heads(self, shape: Shape) -> int | None:
        """How many attention heads a tensor of this shape has by what the operation says of it, None for nothing."""
        return None

    def for_heads(self, heads: int | None) -> Op:
        """The same operation where it needs the number of heads: with this one."""
        return self

    @property
    def needs_heads(self) -> bool:
        """Whether it cannot be applied before `for_heads` has told it the number of heads."""
        return False


@dataclass(frozen=True)
class Identity(Op):
    """The numbers as they are."""

    @property
    def text(self) -> str:
        return ""

    def apply(self, tensor: torch.Tensor) -> torch.Tensor:
        return tensor

    def shape(self, shape: Shape) -> Shape:
        return shape

    def reversed(self) -> Op:
        return self


@dataclass(frozen=True)
class Transpose(Op):
    """[A, B] -> [B, A]: TensorFlow kernels and GPT-2's Conv1D against torch's Linear."""

    @property
    def text(self) -> str:
        return "transposed"

    def apply(self, tensor: torch.Tensor) -> torch.Tensor:
        return tensor.t().contiguous()

    def shape(self, shape: Shape) -> Shape:
        return (shape[1], shape[0]) if len(shape) == 2 else shape

    def reversed(self) -> Op:
        return self


@dataclass(frozen=True)
class SqueezeFirst(Op):
    """[1, A, ...] -> [A, ...]: the kernels of GPT-2's TensorFlow code are those of a convolution of width 1."""

    @property
    def text(self) -> str:
        return "without the leading 1"

    def apply(self, tensor: torch.Tensor) -> torch.Tensor:
        return tensor.squeeze(0)

    def shape(self, shape: Shape) -> Shape:
        return shape[1:] if len(shape) > 1 and shape[0] == 1 else shape

    def reversed(self) -> Op:
        return UNSQUEEZE_FIRST


@dataclass(frozen=True)
class UnsqueezeFirst(Op):
    """[A, ...] -> [1, A, ...]."""

    @property
    def text(self) -> str:
        return "with a leading 1"

    def apply(self, tensor: torch.Tensor) -> torch.Tensor:
        return tensor.unsqueeze(0)

    def shape(self, shape: Shape) -> Shape:
        return (1, *shape)

    def reversed(self) -> Op:
        return SQUEEZE_FIRST


@dataclass(frozen=True)
class MergeHeads(Op):
    """[H, D, ...] -> [H * D, ...]: a program that keeps every attention head apart against one that does not.

    With `last`, the axis before D is brought to the end: [H, C, D] -> [H * D, C].

    Attributes:
        parts: how many such tensors (query, key, value) lie one after another along the first axis, which is
            [parts * H, ...] then. The number of heads is what is left of it, never a guess.
        last: whether C stands between H and D.
    """

    parts: int = 1
    last: bool = False

    @property
    def text(self) -> str:
        return "heads put side by side"

    def apply(self, tensor: torch.Tensor) -> torch.Tensor:
        return (tensor.transpose(1, 2) if self.last else tensor).flatten(0, 1).contiguous()

    def shape(self, shape: Shape) -> Shape:
        if not self._fits(shape):
            return shape
        return (shape[0] * shape[2], shape[1]) if self.last else (shape[0] * shape[1], *shape[2:])

    def _fits(self, shape: Shape) -> bool:
        return len(shape) == 3 if self.last else len(shape) in (2, 3)

    def reversed(self) -> Op:
        return SplitHeads(self.parts, self.last)

    def heads(self, shape: Shape) -> int | None:
        return shape[0] // self.parts if self._fits(shape) else None


@dataclass(frozen=True)
class SplitHeads(Op):
    """[H * D, ...] -> [H, D, ...], or with `last` [H * D, C] -> [H, C, D]: `MergeHeads` undone.

    The shape does not say how many heads there are: `for_heads` does, and `apply` without it is an error.
    """

    parts: int = 1
    last: bool = False
    count: int | None = None

    @property
    def text(self) -> str:
        return "heads apart"

    def apply(self, tensor: torch.Tensor) -> torch.Tensor:
        first = self._first(tuple(tensor.shape))
        apart = tensor.reshape(first, tensor.shape[0] // first, *tensor.shape[1:])
        return (apart.transpose(1, 2) if self.last else apart).contiguous()

    def _first(self, shape: Shape) -> int:
        if self.count is None:
            raise ValueError(
                "this layout keeps every attention head apart, and a shape does not say how many there are"
            )
        first = self.count * self.parts
        if shape[0] % first:
            parts = f" x {self.parts}" if self.parts > 1 else ""
            raise ValueError(f"{shape[0]} rows cannot be split into {self.count} heads{parts} of one size")
        return first

    def shape(self, shape: Shape) -> Shape:
        first = self._first(shape)
        size = shape[0] // first
        return (first, *shape[1:], size) if self.last else (first, size, *shape[1:])

    def reversed(self) -> Op:
        return MergeHeads(self.parts, self.last)

    def for_heads(self, heads: int | None) -> Op:
        return replace(self, count=heads)

    @property
    def needs_heads(self) -> bool:
        return self.count is None


@dataclass(frozen=True)
class Chain(Op):
    """Several operations, one after another."""

    steps: tuple[Op, ...]

    @property
    def text(self) -> str:
        return ", ".join(step.text for step in self.steps if step.text)

    def apply(self, tensor: torch.Tensor) -> torch.Tensor:
        for step in self.steps:
            tensor = step.apply(tensor)
        return tensor

    def shape(self, shape: Shape) -> Shape:
        for step in self.steps:
            shape = step.shape(shape)
        return shape

    def reversed(self) -> Op:
        return Chain(tuple(step.reversed() for step in reversed(self.steps)))

    def heads(self, shape: Shape) -> int | None:
        for step in self.steps:
            heads = step.heads(shape)
            if heads is not None:
                return heads
            shape = step.shape(shape)
        return None

    def for_heads(self, heads: int | None) -> Op:
        return Chain(tuple(step.for_heads(heads) for step in self.steps))

    @property
    def needs_heads(self) -> bool:
        return any(step.needs_heads for step in self.steps)


IDENTITY = Identity()
TRANSPOSE = Transpose()
SQUEEZE_FIRST = SqueezeFirst()
UNSQUEEZE_FIRST = UnsqueezeFirst()
MERGE_HEADS = MergeHeads()
