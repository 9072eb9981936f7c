"""`capture`: read any intermediate value of a model by its name."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn

from minitf.tracing.context import Context, call
from minitf.tracing.names import ALL, INSIDE, Choice, Names, key_error
from minitf.tracing.shapes import said_cost

__all__ = ["Record", "Step", "capture", "captured"]

logger = logging.getLogger("minitf.tracing")


class Values(Mapping[str, Tensor]):
    """Name -> tensor, in the order of execution. An alias and the name that it stands for find the same tensor."""

    def __init__(self, names: Names, choices: Iterable[Choice]) -> None:
        self._names = names
        self._shown: dict[str, list[str]] = {}
        for choice in choices:
            self._shown.setdefault(choice.name, []).append(choice.shown)
        self._tensors: dict[str, Tensor] = {}

    def put(self, name: str, tensor: Tensor, number: int = 1) -> None:
        """Keep the `number`-th value of this name."""
        suffix = f"#{number}" if number > 1 else ""
        self._tensors.update(dict.fromkeys((shown + suffix for shown in self._shown[name]), tensor))

    def add(self, name: str, tensor: Tensor, number: int) -> None:
        """The same, added to what is there."""
        key = self._shown[name][0] + (f"#{number}" if number > 1 else "")
        self.put(name, self._tensors[key] + tensor if key in self._tensors else tensor, number)

    def __getitem__(self, name: str) -> Tensor:
        base, mark, number = name.partition("#")
        full = self._names.aliases.get(base, base)
        for shown in (base, full, *self._shown.get(full, ())):
            if shown + mark + number in self._tensors:
                return self._tensors[shown + mark + number]
        if full not in self._shown:
            try:
                self._names.choose([base])
            except ValueError as error:  # the model has no such name
                raise key_error(str(error)) from None
            raise key_error(f"{name!r} was not asked for; capture was given other names.")
        raise key_error(f"{name!r} {self.missing(base)}")

    def missing(self, name: str) -> str:
        """Why there is no such value."""
        return "has no gradient: was capture called with gradients=True, and the loss with backward()?"

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)

    def __repr__(self) -> str:
        rows = (f"  {name}: {list(tensor.shape)}" for name, tensor in self.items())
        return "\n".join([f"{type(self).__name__} with {len(self)} tensors", *rows])


class Step(Values):
    """What one call of the model computed: name -> tensor, in the order of execution.

    A value that is computed several times in one call (layers that share a module, a feed-forward network in chunks) is
    `name`, `name#2`, ...

    Attributes:
        gradients: name -> gradient of the loss with respect to this tensor over all its uses, after `backward`, with
            `capture(..., gradients=True)`; several backward passes add up, as in `Tensor.grad`.
    """

    def __init__(self, names: Names, choices: Iterable[Choice]) -> None:
        choices = list(choices)
        super().__init__(names, choices)
        self.gradients = Values(names, choices)
        self._counts: dict[str, int] = {}

    def missing(self, name: str) -> str:
        if name.rpartition(".")[2] not in INSIDE:
            return "exists, but this call did not compute it."
        return (
            "exists, but this call did not compute it: the module did not run, or its attention is written with other "
            "functions than torch's matmul, softmax and scaled_dot_product_attention."
        )

    def number(self, name: str) -> int:
        """How many times this name was computed, with this time."""
        self._counts[name] = self._counts.get(name, 0) + 1
        return self._counts[name]


class Record(Mapping[str, Tensor]):
    """What `capture` saw. `record[name]` is the tensor if the model was called once; else `record.steps[i][name]`.

    Attributes:
        steps: one `Step` for each call of the model; a generation calls it once for the prompt and once for each token.
    """

    def __init__(self) -> None:
        self.steps: list[Step] = []

    @property
    def only(self) -> Step:
        """The single call.

        Raises:
            RuntimeError: the model was not called, or several times.
        """
        if len(self.steps) == 1:
            return self.steps[0]
        if not self.steps:
            raise RuntimeError(
                "nothing is recorded: the model that was given to capture was not called in the block (a call of one "
                "of its parts, of its forward, or of a compiled form of it does not count)."
            )
        raise RuntimeError(f"the model was called {len(self.steps)} times: choose a call, record.steps[0][name].")

    @property
    def gradients(self) -> Mapping[str, Tensor]:
        """`Step.gradients` of the single call."""
        return self.only.gradients

    def __getitem__(self, name: str) -> Tensor:
        return self.only[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.only)

    def __len__(self) -> int:
        return len(self.only)

    def __repr__(self) -> str:
        return "\n".join([f"Record of {len(self.steps)} calls", *map(repr, self.steps)])


class capture(Context):  # a context manager, used like a function
    """`with capture(model, names) as record: model(...)`: keep intermediate values by name.

    Args:
        model: any module; transformers' own, too. Its forward is not changed.
        wanted: "all", a name or pattern, or several; see `minitf.tracing.names` for both.
        copies: keep detached copies. False keeps the tensors themselves, in the graph; later operations in place change
            them.
        gradients: keep the gradients of the chosen tensors as well, see `Step.gradients`.

    The results of the model are the same bits as without capture, with one exception: `scores` and `probs` of
    `scaled_dot_product_attention`, which the kernel never stores, are computed beside it; only with `gradients=True` or
    `copies=False`, outside of `no_grad`, in place of it, so that they are part of the graph (equal up to rounding).

    With "all" the memory that the copies of one call take is logged first, as a warning, once.

    Raises:
        ValueError: unknown names. TypeError: a model that hooks do not reach.
        RuntimeError: during the call, gradients under `no_grad`, gradient checkpointing, a graph being recorded.
    """

    def __init__(
        self, model: nn.Module, wanted: str | Iterable[str], *, copies: bool = True, gradients: bool = False
    ) -> None:
        super().__init__(model, wanted)
        self.copies = copies
        self.gradients = gradients
        self.record = Record()
        self._sites: dict[str, list[Choice]] = {}
        for choice in self.choices:
            self._sites.setdefault(choice.name, []).append(choice)
        self._says_cost = any(choice.pattern == ALL for choice in self.choices)

    def sites(self) -> Mapping[str, list[Choice]]:
        return self._sites

    def takes_part(self, name: str) -> bool:
        return self.wants(name) and (self.gradients or not self.copies)

    def begins(self, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> None:
        if self.gradients and not torch.is_grad_enabled():
            raise RuntimeError("capture(gradients=True) under torch.no_grad(): nothing has a gradient there.")
        if self._says_cost:
            self._says_cost = False
            logger.warning("capture 'all': %s", said_cost(self.model, arguments, keywords))
        self.record.steps.append(Step(self.names, self.choices))

    def look(self, name: str, tensor: Tensor) -> Tensor:
        step = self.record.steps[-1]
        number = step.number(name)
        step.put(name, tensor.detach().clone() if self.copies else tensor, number)
        if self.gradients and tensor.requires_grad:
            keep = step.gradients.add
            tensor.register_hook(  # type: ignore[no-untyped-call]
                lambda gradient: keep(name, gradient.detach().clone(), number)
            )
        return tensor

    def __enter__(self) -> Record:
        self.record = Record()
        self.install()
        return self.record

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.remove()


def captured(
    model: nn.Module,
    inputs: Tensor | Mapping[str, Any],
    wanted: str | Iterable[str],
    *,
    copies: bool = True,
    gradients: bool = False,
) -> tuple[Any, Step]:
    """One call under `capture`.

    Args:
        inputs: a tensor (`model(inputs)`) or a mapping (`model(**inputs)`).
        model, wanted, copies, gradients: as in `capture`.

    Returns:
        What the model returned, and what was captured: name -> tensor, in the order of execution.
    """
    with capture(model, wanted, copies=copies, gradients=gradients) as record:
        output = call(model, inputs)
    return output, record.only
