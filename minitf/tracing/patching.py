"""`patch`: replace any intermediate value of a model by its name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any

from torch import Tensor, nn

from minitf.tracing.context import Context, call
from minitf.tracing.names import ALL, Choice

__all__ = ["Replacement", "patch", "patched"]

Replacement = Tensor | Callable[[Tensor], Tensor]
"""The new value, or a function that makes it from the old one."""


class patch(Context):  # a context manager, used like a function
    """`with patch(model, {name: replacement}): model(...)`: the model goes on with other values.

    Args:
        model: any module; transformers' own, too.
        patches: name or pattern (as in `capture`) -> a tensor, or a function `f(tensor) -> tensor`. The function gets a
            copy, which it may change in place, and is called each time that the value is computed (in a generation:
            for each token). Replacements have the shape, dtype and device of the value, and take part in autograd.

    `resid_mid` is the residual stream itself: what the feed-forward network reads *and* what it is added to. In GPT-2
    `h.3.ln_2.input` is only what the LayerNorm receives. `scores` and `probs` of `scaled_dot_product_attention` are
    replaced by computing this call step by step (equal up to rounding), unless the numbers are the same and gradients
    are off; patched elsewhere, the kernel is used.

    Raises:
        ValueError: unknown names; during the call, a replacement of another shape, dtype or device.
        TypeError: a model that hooks do not reach; a replacement that is neither tensor nor function.
        RuntimeError: at the end, a patch that replaced nothing; during the call, see `capture`.
    """

    def __init__(self, model: nn.Module, patches: Mapping[str, Replacement]) -> None:
        if not isinstance(patches, Mapping):
            raise TypeError(f"patches is a {type(patches).__name__}; expected {{name: tensor or function}}.")
        if ALL in patches:
            raise ValueError("patch replaces what is named; for everything of a kind use a pattern, '**.context'.")
        super().__init__(model, patches)
        self._sites: dict[str, list[Choice]] = {}
        self._replacements: dict[Choice, Replacement] = {}
        self._unused: dict[str, str] = {}  # pattern without sets -> as it was given
        for given, replacement in patches.items():
            if not isinstance(replacement, Tensor) and not callable(replacement):
                raise TypeError(
                    f"the replacement of {given!r} is a {type(replacement).__name__}; expected a tensor or a function."
                )
            for choice in self.names.choose(given):
                self._sites.setdefault(choice.name, []).append(choice)
                self._replacements[choice] = replacement
                self._unused[choice.pattern] = given
        self._fired: set[str] = set()

    def sites(self) -> Mapping[str, list[Choice]]:
        return self._sites

    def look(self, name: str, tensor: Tensor) -> Tensor:
        for choice in self._sites[name]:
            replacement = self._replacements[choice]
            new = replacement if isinstance(replacement, Tensor) else replacement(tensor.clone())
            check_replacement(choice.shown, tensor, new)
            self._fired.add(choice.pattern)
            tensor = new
        return tensor

    def __enter__(self) -> None:
        self._fired.clear()
        self.install()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.remove()
        silent = [pattern for pattern in self._unused if pattern not in self._fired]
        if kind is None and silent:
            raise RuntimeError(
                f"the patch of {', '.join(map(repr, silent))} replaced nothing: the model was not called in the block, "
                "or its call did not compute this value. capture(model, 'all') shows what a call computes."
            )


def check_replacement(name: str, old: Tensor, new: object) -> None:
    """A replacement must fit where the value stood.

    Raises:
        TypeError: not a tensor. ValueError: another shape, dtype or device; the message has both.
    """
    if not isinstance(new, Tensor):
        hint = ": did the function change it in place without returning it?" if new is None else "."
        raise TypeError(f"the function for {name!r} returned a {type(new).__name__}, expected a tensor{hint}")
    if new.shape != old.shape:
        raise ValueError(f"the replacement of {name!r} has shape {list(new.shape)}; the value has {list(old.shape)}.")
    if new.dtype != old.dtype or new.device != old.device:
        raise ValueError(
            f"the replacement of {name!r} is {new.dtype} on {new.device}; the value is {old.dtype} on {old.device}: "
            "convert it with .to(...)."
        )


def patched(model: nn.Module, inputs: Tensor | Mapping[str, Any], patches: Mapping[str, Replacement]) -> Any:
    """One call under `patch`: what the model returns with these values replaced.

    Args:
        inputs: a tensor (`model(inputs)`) or a mapping (`model(**inputs)`).
        model, patches: as in `patch`.
    """
    with patch(model, patches):
        return call(model, inputs)
