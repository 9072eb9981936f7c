"""Where values are seen: hooks on modules, and a look into attention while it runs.

Attention is not cut into modules, so its inside is reached through the functions of torch that it calls: while an
attention module runs, a `TorchFunctionMode` sees

    matmul(query, key^T) -> ... -> softmax(scores) -> ... -> dropout(probs) -> ... -> matmul(probs, value) = context

on four-dimensional tensors, which is how minitf's and transformers' `eager` are written, or
`scaled_dot_product_attention(query, key, value)`. The fused kernel has no scores: to be seen they are computed beside
it, by the same steps as in `eager`, and its own result goes on unchanged. Only if they are *replaced* by
other numbers (or differentiated) the call is computed step by step instead, equal up to rounding.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

__all__ = [
    "InsideAttention",
    "InsideBlock",
    "Watcher",
    "first_tensor",
    "level",
    "own_calculation",
    "tap",
    "with_first_tensor",
]

MATMUL = {torch.matmul, Tensor.matmul, Tensor.__matmul__}
SOFTMAX = {torch.softmax, Tensor.softmax, F.softmax}
DROPOUT = {F.dropout, torch.dropout}
SDPA = F.scaled_dot_product_attention


class Watcher(Protocol):
    """What looks at values, and may replace them: a `capture` or a `patch`."""

    def at(self, name: str, tensor: Tensor) -> Tensor:
        """The value that the model goes on with."""

    def wants(self, name: str) -> bool:
        """Whether `at` does anything for this name."""

    def takes_part(self, name: str) -> bool:
        """Whether the model must go on with what `at` returned, or must have computed the value itself."""


_state = threading.local()


def level() -> int:
    """How many watchers are at work on each other's behalf: 0 while a model runs, 1 in the function of a patch, ..."""
    return getattr(_state, "level", 0)


@contextmanager
def own_calculation() -> Iterator[None]:
    """What is computed in here belongs to a watcher, not to the model: only what is entered in here sees it."""
    _state.level = level() + 1
    try:
        yield
    finally:
        _state.level = level() - 1


# --------------------------------------------------------------------------------------------------------------------
# The first tensor of arguments and results


def first_tensor(values: Any) -> tuple[Any, Tensor | None]:
    """(key, tensor) of the first tensor in a tuple, list, mapping or output object; (None, tensor) for a tensor."""
    if isinstance(values, Tensor):
        return None, values
    if isinstance(values, list | tuple):
        pairs: Any = enumerate(values)
    else:
        pairs = values.items() if hasattr(values, "items") else ()
    for key, value in pairs:
        if isinstance(value, Tensor):
            return key, value
    return None, None


def with_first_tensor(values: Any, key: Any, tensor: Tensor) -> Any:
    """`values` with the tensor that `first_tensor` found replaced; a copy, the caller's object stays as it is."""
    if key is None:
        return tensor
    if isinstance(values, tuple):
        changed = [tensor if index == key else value for index, value in enumerate(values)]
        return type(values)(*changed) if hasattr(values, "_fields") else tuple(changed)
    if isinstance(values, list):
        return [tensor if index == key else value for index, value in enumerate(values)]
    if isinstance(values, dict) and type(values) is dict:
        return {**values, key: tensor}
    fields = dict(values.items())
    return type(values)(**{**fields, key: tensor})


# --------------------------------------------------------------------------------------------------------------------
# Modes that are active while one module runs


class Tap:
    """All watchers of the inside of one module, in the order in which their contexts were entered.

    One mode serves them all: modes of several contexts would see arguments in the reverse order. It is active from the
    beginning of `start`, which is the module itself or a part of it, to the end of the module.
    """

    def __init__(self, module: nn.Module, mode: type[Inside], start: nn.Module) -> None:
        self.watchers: list[tuple[Watcher, str]] = []
        self.running: list[Inside | None] = []  # one for each call of the module that has begun; None before `start`
        self.mode = mode
        self.handles = [
            module.register_forward_pre_hook(self.begin),
            start.register_forward_pre_hook(self.enter),
            module.register_forward_hook(self.leave, always_call=True),
        ]

    def begin(self, module: nn.Module, arguments: Any) -> None:
        self.running.append(None)

    def enter(self, start: nn.Module, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
        if not self.running or self.running[-1] is not None:
            return arguments  # the part is called on its own, or a second time
        mode = self.mode(self)
        arguments = mode.started(arguments)
        mode.__enter__()  # type: ignore[no-untyped-call]
        self.running[-1] = mode
        return arguments

    def leave(self, module: nn.Module, arguments: Any, output: Any) -> None:
        # Nothing is there if the module failed before this tap was reached.
        mode = self.running.pop() if self.running else None
        if mode is not None:
            mode.__exit__(None, None, None)  # type: ignore[no-untyped-call]

    def at(self, what: str, tensor: Tensor) -> Tensor:
        for watcher, path in list(self.watchers):
            tensor = watcher.at(f"{path}.{what}", tensor)
        return tensor

    def any(self, what: str, *, part: bool = False) -> bool:
        """Whether a watcher wants this value; `part`: and takes part in the computation with it."""
        return any(w.takes_part(f"{p}.{what}") if part else w.wants(f"{p}.{what}") for w, p in self.watchers)


class Inside(TorchFunctionMode):
    """Base of the modes: what happens to functions of torch while a module runs."""

    def __init__(self, here: Tap) -> None:
        super().__init__()
        self.here = here
        self.level = level()

    def started(self, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
        """The positional arguments with which the module goes on."""
        return arguments

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        return self.called(func, args, kwargs) if self.level == level() else func(*args, **kwargs)

    def called(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """What a call of `func` by the model returns."""
        raise NotImplementedError(f"{type(self).__name__} does not say what happens to a function.")


_taps: dict[type[Inside], WeakKeyDictionary[nn.Module, Tap]] = {}


def tap(module: nn.Module, path: str, watcher: Watcher, mode: type[Inside], start: nn.Module) -> Callable[[], None]:
    """Let `watcher` see the inside of `module`, from the call of `start` (itself, or a part of it) to its end.

    Returns:
        What to call at the end. It also leaves a mode that an interrupted call left behind.
    """
    taps = _taps.setdefault(mode, WeakKeyDictionary())
    if module not in taps:
        taps[module] = Tap(module, mode, start)
    here = taps[module]
    entry = (watcher, path)
    here.watchers.append(entry)

    def remove() -> None:
        while here.running:
            here.leave(module, None, None)
        here.watchers.remove(entry)
        if not here.watchers:
            for handle in here.handles:
                handle.remove()
            taps.pop(module, None)

    return remove


class InsideAttention(Inside):
    """Sees the steps of one call of an attention module; see the head of this file."""

    def __init__(self, here: Tap) -> None:
        super().__init__(here)
        self.next = "product"  # -> softmax -> dropout -> value, and again

    def called(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if func is SDPA:
            return self.fused(*args, **kwargs)
        if func in MATMUL and len(args) == 2 and args[0].dim() == args[1].dim() == 4:
            return self.product(func, *args)
        if func in SOFTMAX and args and args[0].dim() == 4:
            self.next = "dropout"
            return func(self.here.at("scores", args[0]), *args[1:], **kwargs)
        if func in DROPOUT and args and self.next == "dropout" and args[0].dim() == 4:
            self.next = "value"
            return func(self.here.at("probs", args[0]), *args[1:], **kwargs)
        return func(*args, **kwargs)

    def product(self, func: Any, left: Tensor, right: Tensor) -> Tensor:
        at = self.here.at
        if self.next == "product":
            self.next = "softmax"
            query, key = at("query", left), at("key", right.transpose(-1, -2))  # [B, H, T, D], [B, H, S, D]
            return func(query, key.transpose(-1, -2))  # type: ignore[no-any-return]
        if self.next == "softmax":
            return func(left, right)  # type: ignore[no-any-return]  # a term of the scores
        probs = at("probs", left) if self.next == "dropout" else left  # [B, H, T, S]
        self.next = "product"
        return at("context", func(probs, at("value", right)))

    def fused(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        *,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> Tensor:
        here = self.here
        query, key = here.at("query", query), here.at("key", key)
        if not here.any("scores") and not here.any("probs"):
            value = here.at("value", value)
            context = SDPA(query, key, value, attn_mask, dropout_p, is_causal, scale=scale, enable_gqa=enable_gqa)
            return here.at("context", context)
        graph = torch.is_grad_enabled() and (here.any("scores", part=True) or here.any("probs", part=True))
        with torch.set_grad_enabled(graph):
            groups = query.shape[1] // key.shape[1] if enable_gqa else 1  # heads that share a key
            scores, nothing = fused_scores(query, shared(key, groups), attn_mask, is_causal, scale)  # [B, H, T, S]
            seen = here.at("scores", scores)
            probs = torch.softmax(seen, dim=-1).masked_fill(nothing, 0.0)
            seen_probs = here.at("probs", probs)
        value = here.at("value", value)
        # A patch with the same numbers leaves the kernel's result as it is, to the bit.
        if graph or not (torch.equal(seen, scores) and torch.equal(seen_probs, probs)):
            dropped = F.dropout(seen_probs, p=dropout_p, training=dropout_p > 0.0)
            context = torch.matmul(dropped, shared(value, groups))  # [B, H, T, D]
        else:
            context = SDPA(query, key, value, attn_mask, dropout_p, is_causal, scale=scale, enable_gqa=enable_gqa)
        return here.at("context", context)


def shared(tensor: Tensor, groups: int) -> Tensor:
    """Keys or values `[B, H / groups, S, D]` repeated for the query heads that share them, as sdpa's `enable_gqa`."""
    return tensor if groups == 1 else tensor.repeat_interleave(groups, dim=1)


def fused_scores(
    query: Tensor, key: Tensor, mask: Tensor | None, is_causal: bool, scale: float | None
) -> tuple[Tensor, Tensor]:
    """The scores that `scaled_dot_product_attention` never stores, by the steps of `eager`.

    Returns:
        `[B, H, T, S]`: scaled, the mask added (hidden = the smallest number of the dtype), and a boolean tensor that is
        broadcastable to `[B, H, T, 1]`: the queries that may attend to nothing, whose probabilities are 0.
    """
    scores = torch.matmul(query, key.transpose(-1, -2)) * (query.shape[-1] ** -0.5 if scale is None else scale)
    if is_causal:
        mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=query.device).tril()  # [T, S], aligned as sdpa's
    if mask is None:
        return scores, torch.zeros((), dtype=torch.bool, device=query.device)
    if mask.dtype != torch.bool:
        nothing = torch.isneginf(mask).all(dim=-1, keepdim=True)
        return scores + mask.masked_fill(nothing, 0.0), nothing
    nothing = ~mask.any(dim=-1, keepdim=True)
    hidden = ~(mask | nothing)
    smallest = torch.finfo(scores.dtype).min
    return scores + torch.zeros_like(hidden, dtype=scores.dtype).masked_fill(hidden, smallest), nothing


class InsideBlock(Inside):
    """From the second LayerNorm to the end of a pre-norm block: sees the residual stream, and replaces both its uses.

    The block adds the stream to the feed-forward's result itself, so replacing what the LayerNorm receives would
    replace one of two uses. Every function of torch that gets the old tensor gets the new one instead.
    """

    def started(self, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
        self.old, *others = arguments
        self.new = self.here.at("resid_mid", self.old)
        return (self.new, *others)

    def called(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return func(*(self.new if value is self.old else value for value in args), **kwargs)
