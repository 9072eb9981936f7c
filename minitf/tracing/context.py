"""What `capture` and `patch` share: hooks on a model from the beginning of a `with` block to its end."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from minitf.tracing.hooks import (
    InsideAttention,
    InsideBlock,
    first_tensor,
    level,
    own_calculation,
    tap,
    with_first_tensor,
)
from minitf.tracing.names import INSIDE, Choice, Names

__all__ = ["Context", "call"]


class Context:
    """Base of the context managers. Only what happens within a call of `model` itself counts, not calls of its parts.

    Contexts may be nested, on the same model or on a part of it: each value passes them in the order in which they were
    entered. A capture sees what patches entered before it have done.

    Raises:
        TypeError: not an `nn.Module`, or one that hooks do not reach (compiled, scripted).
    """

    def __init__(self, model: nn.Module, wanted: str | Iterable[str]) -> None:
        check_reachable(model)
        self.model = model
        self.names = Names.of(model)
        self.choices = self.names.choose(wanted)
        self.depth = 0  # calls of the model that are running
        self.level = 0  # of own_calculation, where this context was entered
        self._remove: list[Callable[[], None]] = []
        self._tapped: set[tuple[str, Any]] = set()

    def at(self, name: str, tensor: Tensor) -> Tensor:
        """The value that the model goes on with."""
        if not self.wants(name):
            return tensor
        with own_calculation():
            return self.look(name, tensor)

    def look(self, name: str, tensor: Tensor) -> Tensor:
        """`at`, for a chosen name during a call."""
        raise NotImplementedError(f"{type(self).__name__} does not say what it does with a value.")

    def wants(self, name: str) -> bool:
        return self.depth > 0 and self.level == level() and name in self.sites()

    def takes_part(self, name: str) -> bool:
        return self.wants(name)

    def sites(self) -> Mapping[str, list[Choice]]:
        """Where to look -> the choices that look there."""
        raise NotImplementedError(f"{type(self).__name__} does not say where it looks.")

    def begins(self, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> None:
        """A call of the model begins."""

    # -- from here on: entering and leaving --------------------------------------------------------------------------

    def install(self) -> None:
        """Place the hooks."""
        if self._remove:
            raise RuntimeError(f"this {type(self).__name__} is active already: make a second one for a nested block.")
        self.depth, self.level = 0, level()
        try:
            self._keep(self.model.register_forward_pre_hook(self._started, with_kwargs=True))
            self._keep(self.model.register_forward_hook(self._ended, always_call=True))
            for name in self.sites():
                self._watch(name)
        except BaseException:
            self.remove()
            raise

    def remove(self) -> None:
        """Take all hooks away."""
        while self._remove:
            self._remove.pop()()
        self._tapped.clear()

    def _keep(self, handle: Any) -> None:
        self._remove.append(handle.remove)

    def _watch(self, name: str) -> None:
        path, _, what = name.rpartition(".")
        module = self.model.get_submodule(path)
        if what == "input":
            self._keep(module.register_forward_pre_hook(self._input(name), with_kwargs=True))
        elif what == "output":
            self._keep(module.register_forward_hook(self._output(name)))
        elif what in INSIDE:
            self._tap(module, path, InsideAttention, module)
        else:
            self._tap(module, path, InsideBlock, module.get_submodule("ln_2"))

    def _tap(self, module: nn.Module, path: str, mode: Any, start: nn.Module) -> None:
        if (path, mode) not in self._tapped:
            self._tapped.add((path, mode))
            self._remove.append(tap(module, path, self, mode, start))

    def _started(self, module: nn.Module, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> None:
        if self.level != level():
            return
        if self.depth == 0:
            check_call(self.model)
            self.begins(arguments, keywords)
        self.depth += 1

    def _ended(self, module: nn.Module, arguments: Any, output: Any) -> None:
        if self.level == level():
            self.depth = max(self.depth - 1, 0)

    def _input(self, name: str) -> Callable[..., Any]:
        def hook(module: nn.Module, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> Any:
            key, tensor = first_tensor(arguments)
            if tensor is None:
                word, tensor = first_tensor(keywords)
                if tensor is None:
                    return None
                seen = self.at(name, tensor)
                return None if seen is tensor else (arguments, {**keywords, word: seen})
            seen = self.at(name, tensor)
            return None if seen is tensor else (with_first_tensor(arguments, key, seen), keywords)

        return hook

    def _output(self, name: str) -> Callable[..., Any]:
        def hook(module: nn.Module, arguments: Any, output: Any) -> Any:
            key, tensor = first_tensor(output)
            if tensor is None:
                return None
            seen = self.at(name, tensor)
            return None if seen is tensor else with_first_tensor(output, key, seen)

        return hook


def check_reachable(model: nn.Module) -> None:
    """Refuse what hooks do not reach, instead of seeing nothing.

    Raises:
        TypeError: not a module; compiled by `torch.compile` or scripted.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"the model is a {type(model).__name__}; expected a torch.nn.Module.")
    for path, module in model.named_modules():
        where = f"its part {path!r}" if path else "the model"
        if hasattr(module, "_orig_mod") or getattr(module, "_compiled_call_impl", None) is not None:
            raise TypeError(
                f"{where} is compiled (torch.compile), and hooks do not reach into compiled code: use the model from "
                "before (compiled._orig_mod), and compile it afterwards."
            )
        if isinstance(module, torch.jit.ScriptModule):
            raise TypeError(f"{where} is a torch.jit program, which hooks do not reach: use the model it came from.")


def check_call(model: nn.Module) -> None:
    """Refuse calls whose values would not be those of the model's own forward.

    Raises:
        RuntimeError: torch records a graph, or gradient checkpointing will run the layers a second time.
    """
    jit: Any = torch.jit
    if torch.compiler.is_compiling() or jit.is_tracing():
        raise RuntimeError(
            "the model is being compiled or traced inside of a capture or patch, whose hooks would become part of the "
            "graph: leave the block first."
        )
    for path, module in model.named_modules():
        if module.training and getattr(module, "gradient_checkpointing", False):
            raise RuntimeError(
                f"gradient checkpointing is on in {path or 'the model'}: its layers run again in the backward pass, "
                "when a patch may be gone. Switch it off (model.gradient_checkpointing_disable()), or use model.eval()."
            )


def call(model: nn.Module, inputs: Tensor | Mapping[str, Any]) -> Any:
    """`model(inputs)` for a tensor, `model(**inputs)` for a mapping.

    Raises:
        TypeError: `inputs` is neither.
    """
    if isinstance(inputs, Tensor):
        return model(inputs)
    if hasattr(inputs, "keys"):
        return model(**inputs)
    raise TypeError(f"inputs is a {type(inputs).__name__}; expected a tensor, or a mapping of the call's arguments.")
