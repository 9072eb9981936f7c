"""How the tests of the tables look for a mistake: by one of the parity tests, and by what it changes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from minitf.parity.faults.injecting import Fault


@dataclass(frozen=True)
class Probe:
    """One parity test, and what is measured beside it.

    Attributes:
        parity: calls the parity test; raises AssertionError if our model is not the oracle's equal.
        build: a model in evaluation mode, freshly initialised (True) or with all parameters random (False).
        run: what the model computes, all tensors whose difference is measured.
        builds_itself: the parity test makes its models of the class itself and leaves them as they are initialised.
    """

    parity: Callable[[], None]
    build: Callable[[bool], Any]
    run: Callable[[Any], list[Tensor]]
    builds_itself: bool = False


def tensors(output: Any) -> list[Tensor]:
    """All tensors of an output but those of the cache."""
    flat: list[Tensor] = []
    for name, value in output.items():
        if name != "past_key_values":
            flat += [value] if torch.is_tensor(value) else list(value)
    return [value.detach() for value in flat]


def difference(fault: Fault, probe: Probe, *, fresh: bool) -> float:
    """Largest absolute difference that the mistake makes to anything that the probe computes; NaN counts as inf."""
    model = probe.build(fresh)
    sound = probe.run(model)
    with fault.inject(model):
        wrong = probe.run(model)
    assert [value.shape for value in wrong] == [value.shape for value in sound]
    largest = max(float((a - b).abs().max()) for a, b in zip(wrong, sound, strict=True))
    return largest if largest == largest else float("inf")
