"""Put other modules in the place of some, chosen by the pattern of their paths, and take them out again.

    with replace(model, "bert.encoder.layer.{0,5}.attention.self", lambda old: Mine(old.config, old.layer_idx)):
        ...                                     # layers 0 and 5 compute with `Mine`, on the weights of the old modules

The weights are carried over by name, all or none. A parameter that the old module shares with another place (the word
embeddings with the scoring matrix) stays shared. Everything else about the model, its `config` too, is not touched: a
builder that hands `old.config` on follows later switches like the module before it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Any

import torch
from torch import nn

from minitf.patterns import matches
from minitf.surgery.adapters import pieces_of
from minitf.surgery.saving import guard

__all__ = ["Replaced", "replace"]

Builder = Callable[[nn.Module], nn.Module]


class Replaced:
    """What `replace` did: the paths, and the way back.

    Attributes:
        paths: where a module was replaced, in the order of the tree.
    """

    def __init__(self, model: nn.Module, pairs: dict[str, tuple[nn.Module, nn.Module]]) -> None:
        self.model = model
        self.paths = list(pairs)
        self._pairs = pairs

    def undo(self) -> None:
        """The old modules return, with the weights that they had (those that are shared, with their present ones).

        Raises:
            RuntimeError: done already; a path holds yet another module by now; an adapter was added to the new one.
        """
        if not self._pairs:
            raise RuntimeError("this replacement was undone before.")
        for path, (_, new) in self._pairs.items():
            if self.model.get_submodule(path) is not new:
                raise RuntimeError(f"{path} was replaced once more since: undo the later replacement first.")
        for path, (old, new) in self._pairs.items():
            if lost := lost_adapters(new, old):
                raise RuntimeError(f"{path} has the adapters {lost} since, which would go: merge or delete them first.")
        for path, (old, new) in self._pairs.items():
            old.train(new.training)
            put(self.model, path, old)
            vars(new).pop("not_saved", None)
        self._pairs = {}
        guard(self.model)

    def __enter__(self) -> Replaced:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.undo()

    def __repr__(self) -> str:
        if not self._pairs:
            return f"Replaced({len(self.paths)} modules, undone)"
        lines = [f"  {path}: {type(old).__name__} -> {type(new).__name__}" for path, (old, new) in self._pairs.items()]
        return "\n".join([f"Replaced({len(lines)} modules)", *lines])


def replace(
    model: nn.Module,
    pattern: str | Iterable[str],
    builder: Builder,
    *,
    carry: bool = True,
    save_as_plain: bool = False,
) -> Replaced:
    """Put `builder(old)` in the place of every module whose path matches.

    Args:
        model: any `nn.Module`; give the model that will be used and saved, not a part of it.
        pattern: a path or pattern of `minitf.patterns`, or several.
        builder: called once for each module, gets it and returns its replacement. The replacement is moved to the
            device and dtype of the old module and takes over its training mode.
        carry: copy the parameters and buffers of the old module by name, `requires_grad` too; both must have the same
            names and shapes. False = the replacement keeps its own (a smaller or wrapped module).
        save_as_plain: let `save_pretrained` write the new modules' weights as if they were the old ones'. No file
            records the replacement: whoever loads it gets the old computation, and has to replace again. By default
            saving a model with replaced modules is an error that says so.

    Returns:
        `Replaced`: `.paths`, `.undo()`, and a context manager that undoes at the end of the block. An optimiser has to
        be built after the replacement: one from before holds the old parameters.

    Raises:
        ValueError: a pattern that matches nothing; one match within another; a module that is also somewhere else;
            weights that do not fit (the message lists the names); a shared parameter that would be torn apart; an
            adapter that would be lost.
        TypeError: the builder is no function (or a module), or returned something else than a new module. The model is
            then as it was.
    """
    if save_as_plain and not carry:
        raise ValueError("save_as_plain=True needs carry=True: only weights of the same names and shapes can be saved.")
    if isinstance(builder, nn.Module) or not callable(builder):  # a module can be called too, but not to build one
        raise TypeError(
            f"builder = {builder!r}: expected a function of the old module that returns a new one: lambda old: ..."
        )
    paths = matches(pattern, [path for path, _ in model.named_modules()])
    check_places(model, paths)
    pairs: dict[str, tuple[nn.Module, nn.Module]] = {}
    for path in paths:
        old = model.get_submodule(path)
        new = builder(old)
        if not isinstance(new, nn.Module):
            raise TypeError(f"{path}: the builder returned {new!r}; expected an nn.Module.")
        if any(new is other for pair in [(old,), *pairs.values()] for other in pair):
            raise TypeError(f"{path}: the builder returned a module that stands in the model; expected a new one.")
        like = next((p for p in old.parameters() if p.is_floating_point()), None)
        if like is not None:
            new.to(like.device, like.dtype)
        if lost := lost_adapters(old, new):
            raise ValueError(
                f"{path} has the adapters {lost}, which the new module has not: merge or delete them first."
            )
        if carry:
            carry_over(path, old, new)
        pairs[path] = (old, new)
    for path, (old, new) in pairs.items():
        keep_shared(model, path, old, new, carry=carry)
    for path, (old, new) in pairs.items():
        new.train(old.training)
        if not save_as_plain:
            said: Any = (  # a text, which torch's type hints for attributes of modules do not foresee
                f"is a {type(new).__name__} in the place of a {type(old).__name__}, which no file records: undo the "
                "replacement, or (if loading may give the old computation) replace with save_as_plain=True."
            )
            new.not_saved = said
        put(model, path, new)
    guard(model)
    return Replaced(model, pairs)


def lost_adapters(old: nn.Module, new: nn.Module) -> str:
    """The names of adapters with more pieces in `old` than in `new`, or an empty text."""
    counts = [{name: len(pieces) for name, pieces in pieces_of(module).items()} for module in (old, new)]
    return ", ".join(name for name, count in counts[0].items() if counts[1].get(name, 0) < count)


def put(model: nn.Module, path: str, module: nn.Module) -> None:
    owner, _, name = path.rpartition(".")
    setattr(model.get_submodule(owner), name, module)


def check_places(model: nn.Module, paths: list[str]) -> None:
    """Every module can be replaced for itself.

    Raises:
        ValueError: see `replace`.
    """
    chosen = set(paths)
    everywhere: dict[int, list[str]] = {}
    for path, module in model.named_modules(remove_duplicate=False):
        everywhere.setdefault(id(module), []).append(path)
    for path in paths:
        if not path:
            raise ValueError("the pattern matches the model itself: build another model instead.")
        above = next((other for other in paths if path.startswith(f"{other}.")), None)
        if above is not None:
            raise ValueError(f"the pattern matches {above} and, within it, {path}: replace one of the two.")
        others = [other for other in everywhere[id(model.get_submodule(path))] if other not in chosen]
        if others:
            raise ValueError(f"the module at {path} is also at {', '.join(others)}, where it would stay.")


def carry_over(path: str, old: nn.Module, new: nn.Module) -> None:
    """Copy the parameters and buffers of `old` into `new`.

    Raises:
        ValueError: other names or shapes, which are listed.
    """
    source, target = old.state_dict(), new.state_dict()
    faults = [f"{name} is missing in the new module" for name in source if name not in target]
    faults += [f"{name} is only in the new module" for name in target if name not in source]
    faults += [
        f"{name} has the shape {list(target[name].shape)}, the old one {list(tensor.shape)}"
        for name, tensor in source.items()
        if name in target and target[name].shape != tensor.shape
    ]
    if faults:
        raise ValueError(
            f"{path}: the weights of {type(old).__name__} do not fit {type(new).__name__}: {'; '.join(faults)}. "
            "Give the new module the same names and shapes, or carry nothing over (carry=False)."
        )
    new.load_state_dict(source)
    fresh = dict(new.named_parameters())
    for name, parameter in old.named_parameters():
        if name in fresh:  # otherwise it is a buffer now
            fresh[name].requires_grad_(parameter.requires_grad)


def keep_shared(model: nn.Module, path: str, old: nn.Module, new: nn.Module, *, carry: bool) -> None:
    """A parameter that `old` shares with a place outside of it is shared by `new` too.

    Raises:
        ValueError: the builder made one of its own, and nothing was carried over that it could share.
    """
    outside = {
        id(parameter): name
        for name, parameter in model.named_parameters(remove_duplicate=False)
        if not name.startswith(f"{path}.")
    }
    present = dict(new.named_parameters(remove_duplicate=False))
    for name, parameter in old.named_parameters(remove_duplicate=False):
        if id(parameter) not in outside or present.get(name) is parameter:
            continue
        if not carry:
            raise ValueError(
                f"{path}.{name} and {outside[id(parameter)]} are one parameter; with carry=False the new module has to "
                f"share it (new.{name} = old.{name}), or the tie has to be cut before (a copy in one of the places)."
            )
        owner, _, last = name.rpartition(".")
        if not isinstance(present.get(name), nn.Parameter):
            raise ValueError(f"{path}.{name} is shared with {outside[id(parameter)]}, so it has to be a parameter.")
        with torch.no_grad():
            setattr(new.get_submodule(owner), last, parameter)
