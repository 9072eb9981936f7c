"""Adapters: small trained pieces beside frozen weights. Add, choose, train, remove; each has a name.

    add_adapter(model, "reviews", Lora(r=4))            # active at once; changes nothing until it is trained
    print(train_adapter(model, "reviews"))              # the rest is frozen; prints how much is not
    ...                                                 # any loop, over the parameters with requires_grad
    save_adapter(model, folder, "reviews")              # alone: minitf.surgery.files
    merge(model)                                        # into the weights: minitf.surgery.merging

What a piece computes, and how it hangs on its layer, stands in `minitf.surgery.pieces`. Nothing else is kept about a
model: these functions look for the pieces in its tree, so a copy of a model has its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from torch import Tensor, nn

from minitf.patterns import matches
from minitf.surgery.pieces import (
    Bottleneck,
    BottleneckPiece,
    Lora,
    LoraPiece,
    Pieces,
    attach,
    columns,
    detach,
)
from minitf.surgery.saving import guard

__all__ = [
    "AdapterInfo",
    "Trainable",
    "add_adapter",
    "delete_adapter",
    "list_adapters",
    "set_active_adapters",
    "train_adapter",
]

_BERT = ("**.attention.self.{query,value}", None, "**.layer.*.{attention.output,output}.dropout")
DEFAULTS: dict[str, tuple[str, tuple[str, ...] | None, str]] = {
    "bert": _BERT,
    "roberta": _BERT,
    "electra": _BERT,
    "gpt2": ("**.attn.c_attn", ("query", "value"), "**.{attn.resid_dropout,mlp.dropout}"),
}
"""config.model_type -> (targets of LoRA, their parts, targets of bottlenecks), for settings that name no target."""


# --------------------------------------------------------------------------------------------------------------------
# What is there


@dataclass(frozen=True)
class AdapterInfo:
    """One adapter of a model.

    Attributes:
        name: its name. settings: its `Lora` or `Bottleneck`, with `targets` written out as paths.
        also: paths of the modules that were trained along with it (a head), and are saved with it.
        parameters: how many numbers its pieces have. active: whether they act on a call. trainable: whether all of
            them have `requires_grad`.
    """

    name: str
    settings: Lora | Bottleneck
    also: tuple[str, ...]
    parameters: int
    active: bool
    trainable: bool

    def __str__(self) -> str:
        places = len(self.settings.targets or ())
        state = f"{'active' if self.active else 'not active'}, {'trainable' if self.trainable else 'frozen'}"
        along = f", with {', '.join(self.also)}" if self.also else ""
        kind = type(self.settings).__name__
        return f"{self.name}: {kind} in {places} places, {self.parameters:,} parameters, {state}{along}"


def pieces_of(model: nn.Module) -> dict[str, dict[str, Any]]:
    """Adapter -> path of the layer -> its piece there, in the order of the tree."""
    found: dict[str, dict[str, Any]] = {}
    for path, module in model.named_modules():
        if isinstance(module, Pieces):
            for name, piece in module.items():
                found.setdefault(name, {})[path.removesuffix("adapters").removesuffix(".")] = piece
    return found


def list_adapters(model: nn.Module) -> list[AdapterInfo]:
    """The adapters of a model; `print(*list_adapters(model), sep="\\n")` shows them."""
    result = []
    for name, pieces in pieces_of(model).items():
        parameters = [parameter for piece in pieces.values() for parameter in piece.parameters()]
        first = next(iter(pieces.values()))
        count = sum(parameter.numel() for parameter in parameters)
        trainable = all(parameter.requires_grad for parameter in parameters)
        result.append(AdapterInfo(name, first.settings, first.also, count, first.active, trainable))
    return result


def own_paths(model: nn.Module) -> list[str]:
    """The paths of the model's own modules, without those of the pieces."""
    inside = tuple(f"{path}." for path, module in model.named_modules() if isinstance(module, Pieces))
    return [path for path, _ in model.named_modules() if not f"{path}.".startswith(inside)]


def pieces_named(model: nn.Module, name: str) -> dict[str, Any]:
    """Path -> piece of one adapter.

    Raises:
        ValueError: the model has no adapter of this name; the message lists those that it has.
    """
    found = pieces_of(model)
    if name not in found:
        near = get_close_matches(str(name), found, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else f"; it has {', '.join(map(repr, found)) or 'none'}."
        raise ValueError(f"the model has no adapter {name!r}{hint}")
    return found[name]


def as_names(names: str | Iterable[str]) -> list[str]:
    return [names] if isinstance(names, str) else list(names)


# --------------------------------------------------------------------------------------------------------------------
# Add and remove


def add_adapter(model: nn.Module, name: str, settings: Lora | Bottleneck | None = None) -> AdapterInfo:
    """Give the model a new adapter. Its output stays what it was until the adapter is trained.

    The new adapter is the active one, and the only one: `set_active_adapters` chooses several, in one call.

    Args:
        model: any `nn.Module`; give the model that will be used and saved, not a part of it.
        name: a text without dots.
        settings: `Lora(...)` or `Bottleneck(...)`; None = `Lora()`.

    Raises:
        ValueError: a name that is taken or not possible, targets that match nothing, a rank that is too large.
        TypeError: settings of another kind, or a target that such an adapter cannot change. Nothing is added then.
    """
    settings = Lora() if settings is None else settings
    if not isinstance(settings, (Lora, Bottleneck)):
        raise TypeError(f"settings = {settings!r}: expected Lora(...) or Bottleneck(...).")
    check_name(model, name)
    add_pieces(model, name, make_pieces(model, settings), settings, also=())
    return next(info for info in list_adapters(model) if info.name == name)


def check_text(kind: str, name: str) -> None:
    """A name that torch accepts for a child of an `nn.ModuleDict`."""
    if not isinstance(name, str) or not name or "." in name or hasattr(nn.ModuleDict(), name):
        raise ValueError(f"{kind} cannot have the name {name!r}: expected a text without dots, such as 'reviews'.")


def check_name(model: nn.Module, name: str) -> None:
    check_text("an adapter", name)
    if name in pieces_of(model):
        raise ValueError(f"the model has an adapter {name!r} already: choose another name, or delete_adapter first.")


def make_pieces(model: nn.Module, settings: Lora | Bottleneck) -> dict[str, LoraPiece | BottleneckPiece]:
    """Path -> new piece, not yet attached.

    Raises:
        ValueError, TypeError: see `add_adapter`.
    """
    targets, parts = settings.targets, settings.parts if isinstance(settings, Lora) else None
    if targets is None:
        kind = getattr(getattr(model, "config", None), "model_type", None)
        if kind not in DEFAULTS:
            raise ValueError(
                f"targets are not given, and there are defaults for {', '.join(DEFAULTS)} only, not for {kind!r}: "
                "name the layers, for example Lora(targets='**.query')."
            )
        lora_targets, lora_parts, bottleneck_targets = DEFAULTS[kind]
        targets = lora_targets if isinstance(settings, Lora) else bottleneck_targets
        parts = lora_parts if parts is None else parts
    pieces: dict[str, LoraPiece | BottleneckPiece] = {}
    for path in matches(targets, own_paths(model)):
        layer = model.get_submodule(path)
        if not isinstance(getattr(layer, "adapters", Pieces()), Pieces):
            raise TypeError(f"{path} has an attribute 'adapters' of its own, where the pieces would have to stand.")
        if isinstance(settings, Lora):
            owner = model.get_submodule(path.rpartition(".")[0])
            cross = bool(getattr(owner, "is_cross_attention", False))
            pieces[path] = LoraPiece(layer, path, settings, columns(layer, path, parts, cross=cross))
        else:
            pieces[path] = BottleneckPiece(path, settings, *width_of(model, layer, path))
    return pieces


def width_of(model: nn.Module, layer: Any, path: str) -> tuple[int, Tensor]:
    """(width of a module's output, a parameter whose dtype and device a bottleneck there should have)."""
    config = getattr(model, "config", None)
    for owner, name in ((layer, "out_features"), (layer, "nf"), (config, "hidden_size")):
        width = getattr(owner, name, None)
        if isinstance(width, int):
            return width, next(p for p in [*layer.parameters(), *model.parameters()] if p.is_floating_point())
    raise ValueError(f"{path}: the width of its output is not known; choose a linear layer as the target.")


def add_pieces(
    model: nn.Module,
    name: str,
    pieces: dict[str, LoraPiece | BottleneckPiece],
    settings: Lora | Bottleneck,
    also: tuple[str, ...],
) -> None:
    """Attach the pieces, and let this adapter be the active one."""
    written_out = resolved(settings, pieces)
    for path, piece in pieces.items():
        holder: Any = piece
        holder.settings, holder.also = written_out, also
        attach(model.get_submodule(path), name, piece)
    guard(model)
    set_active_adapters(model, name)


def resolved(settings: Lora | Bottleneck, pieces: dict[str, LoraPiece | BottleneckPiece]) -> Lora | Bottleneck:
    """The settings with paths and parts written out."""
    paths = tuple(pieces)
    if isinstance(settings, Bottleneck):
        return Bottleneck(settings.size, paths)
    first: Any = pieces[paths[0]]
    parts = None if "whole" in first.columns else tuple(first.columns)
    return Lora(settings.r, settings.alpha, settings.dropout, paths, parts)


def delete_adapter(model: nn.Module, name: str) -> None:
    """Remove an adapter. What was frozen stays frozen, and a head that was trained along stays as it is.

    Raises:
        ValueError: there is none of this name.
    """
    for path in pieces_named(model, name):
        detach(model.get_submodule(path), name)
    guard(model)


# --------------------------------------------------------------------------------------------------------------------
# Choose and train


def set_active_adapters(model: nn.Module, names: str | Iterable[str] | None) -> None:
    """Exactly these adapters act from now on; None or () = the model computes as if it had none.

    Several LoRA updates of one layer add up; several bottlenecks follow each other in the order in which they were
    added.

    Raises:
        ValueError: a name that the model does not have; nothing changes then.
    """
    wanted = [] if names is None else as_names(names)
    for name in wanted:
        pieces_named(model, name)
    for name, pieces in pieces_of(model).items():
        for piece in pieces.values():
            piece.active = name in wanted


@dataclass(frozen=True)
class Trainable:
    """What `train_adapter` left trainable, in numbers; `str()` is one line."""

    names: tuple[str, ...]
    trainable: int
    total: int

    def __str__(self) -> str:
        share = 100 * self.trainable / self.total
        return f"{', '.join(self.names)}: {self.trainable:,} of {self.total:,} parameters are trainable ({share:.3f} %)"


def train_adapter(model: nn.Module, names: str | Iterable[str], *, also: str | Sequence[str] = ()) -> Trainable:
    """Make these adapters the active ones, put the model into training mode, and freeze everything else.

    `model.requires_grad_(True)` ends it. Give the optimiser the parameters with `requires_grad` only, and build it
    afterwards.

    Args:
        names: one adapter or several.
        also: path pattern(s) of modules that are trained along, such as a fresh "classifier"; they are saved with the
            adapter.

    Raises:
        ValueError: no name, a name that the model does not have, a pattern that matches nothing.
    """
    wanted = as_names(names)
    if not wanted:
        raise ValueError("no adapter is named: nothing would be trained.")
    chosen = [piece for name in wanted for piece in pieces_named(model, name).values()]
    along = tuple(matches(also, [path for path in own_paths(model) if path])) if also else ()
    check_not_shared(model, along)
    set_active_adapters(model, wanted)
    model.train()
    model.requires_grad_(False)
    for module in [*chosen, *(model.get_submodule(path) for path in along)]:
        module.requires_grad_(True)
    for name, pieces in pieces_of(model).items():  # within a module that is trained along there may be other adapters
        for piece in pieces.values():
            piece.requires_grad_(name in wanted)
    for piece in chosen:
        piece.also = along
    parameters = list(model.parameters())
    trainable = sum(parameter.numel() for parameter in parameters if parameter.requires_grad)
    return Trainable((*wanted, *along), trainable, sum(parameter.numel() for parameter in parameters))


def check_not_shared(model: nn.Module, along: tuple[str, ...]) -> None:
    """No parameter of these modules is one of the frozen ones under a second name.

    Raises:
        ValueError: one is.
    """
    inside = tuple(f"{path}." for path in along)
    everywhere = list(model.named_parameters(remove_duplicate=False))
    frozen = {id(parameter): name for name, parameter in everywhere if not name.startswith(inside)}
    for name, parameter in everywhere:
        if name.startswith(inside) and id(parameter) in frozen:
            raise ValueError(
                f"also: {name} is the same parameter as {frozen[id(parameter)]}, which stays frozen: name the parts "
                "without it."
            )
