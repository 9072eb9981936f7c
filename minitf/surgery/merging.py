"""LoRA put into the weights, `W + alpha / r * B A`, and taken out again.

A merged model is a plain one: its tree, its names and its speed are those of the base, and `save_pretrained` writes a
checkpoint that any program opens. The sum is computed in float64 and rounded once to the dtype of the weight, so
outputs agree with those of the separate form up to rounding. The way back does not subtract, which would not give the
old bits: it returns the weights of before, which `Merged` keeps.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn

from minitf.surgery.adapters import as_names, list_adapters, pieces_named
from minitf.surgery.pieces import LoraPiece, attach, detach, layout
from minitf.surgery.saving import guard

__all__ = ["Merged", "merge"]


@dataclass(frozen=True)
class Before:
    """One layer before the merge: its weight, all its pieces in their order, and those of them that are merged."""

    weight: Tensor
    pieces: dict[str, nn.Module]
    chosen: list[LoraPiece]

    @torch.no_grad()
    def merged(self) -> Tensor:
        """The weight after the merge."""
        deltas = torch.stack([piece.delta() for piece in self.chosen])
        return (self.weight.double() + deltas.sum(dim=0)).to(self.weight.dtype)


class Merged:
    """What `merge` did, and the way back: `.undo()`, or the end of a `with` block. Without it the merge is for good.

    Attributes:
        names: the adapters that are in the weights now. paths: the layers.
    """

    def __init__(self, model: nn.Module, names: list[str], layers: dict[str, Before]) -> None:
        self.model, self.names, self.paths = model, names, list(layers)
        self._layers = layers

    def undo(self) -> None:
        """The weights of before return, bit for bit, and the adapters beside them.

        Raises:
            RuntimeError: done already; a weight is not what the merge made of it; a name is taken by a newer adapter.
        """
        if not self._layers:
            raise RuntimeError("this merge was undone before.")
        for path, before in self._layers.items():
            now: Any = self.model.get_submodule(path)
            same = now.weight.dtype == before.weight.dtype and now.weight.device == before.weight.device
            if not same or not torch.equal(now.weight, before.merged()):
                raise RuntimeError(f"{path}.weight was changed after the merge; undoing it would lose the change.")
            if any(name in getattr(now, "adapters", ()) for name in self.names):
                raise RuntimeError(f"{path} has an adapter of the same name by now: delete it first.")
        for path, before in self._layers.items():
            layer: Any = self.model.get_submodule(path)
            with torch.no_grad():
                layer.weight.copy_(before.weight)
            later = {name: detach(layer, name) for name in list(getattr(layer, "adapters", ()))}
            for name, piece in {**before.pieces, **later}.items():  # in the order of before, so that sums round alike
                if name in self.names or name in later:
                    attach(layer, name, piece)
        self._layers = {}
        guard(self.model)

    def __enter__(self) -> Merged:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.undo()

    def __repr__(self) -> str:
        undone = "" if self._layers else ", undone"
        return f"Merged({', '.join(self.names)} into {len(self.paths)} layers{undone})"


def merge(model: nn.Module, names: str | Iterable[str] | None = None) -> Merged:
    """Put LoRA into the weights and take its pieces away: the same function, a plain model.

    Args:
        names: one adapter or several, active or not; None = all active ones.

    Returns:
        `Merged`, which keeps the weights of before until it is forgotten.

    Raises:
        ValueError: no adapter is active or named; one of them is a bottleneck, which is no matrix; a layer shares its
            weight with another place, which would be changed as well. RuntimeError: a layer was pruned or resized since
            the adapter was added. Nothing is merged then.
    """
    active = [info.name for info in list_adapters(model) if info.active]
    chosen = list(dict.fromkeys(active if names is None else as_names(names)))
    if not chosen:
        raise ValueError("no adapter is active, and none is named: there is nothing to merge.")
    places: dict[str, list[LoraPiece]] = {}
    for name in chosen:
        for path, piece in pieces_named(model, name).items():
            if not isinstance(piece, LoraPiece):
                raise ValueError(f"{name!r} is a bottleneck, which no matrix can hold: only LoRA can be merged.")
            places.setdefault(path, []).append(piece)
    for path, pieces in places.items():
        check_own_weight(model, path)
        for piece in pieces:
            piece.check_sizes(*layout(model.get_submodule(path), path)[:2])
    layers: dict[str, Before] = {}
    for path, pieces in places.items():
        layer: Any = model.get_submodule(path)
        layers[path] = Before(layer.weight.detach().clone(), dict(layer.adapters.items()), pieces)
        with torch.no_grad():
            layer.weight.copy_(layers[path].merged())
        for name in chosen:
            if name in getattr(layer, "adapters", ()):
                detach(layer, name)
    guard(model)
    return Merged(model, chosen, layers)


def check_own_weight(model: nn.Module, path: str) -> None:
    """The layer's weight is a parameter of its own.

    Raises:
        ValueError: it stands in a second place too, or is computed from other parameters.
    """
    weight: Any = dict(model.get_submodule(path).named_parameters(recurse=False)).get("weight")
    if weight is None:
        raise ValueError(f"{path}.weight is no parameter (a parametrization?), so nothing can be merged into it.")
    others = [
        name
        for name, parameter in model.named_parameters(remove_duplicate=False)
        if parameter is weight and name != f"{path}.weight"
    ]
    if others:
        raise ValueError(
            f"{path}.weight is the same parameter as {', '.join(others)}, which a merge would change too: keep the "
            "adapter beside the weights, or cut the tie first."
        )
