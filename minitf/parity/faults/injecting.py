"""How a mistake is made in a model and taken back: the mechanics of the tables of mistakes.

Nothing of the package is edited: a mistake replaces the smallest part that it concerns, a parameter, a method of one
module, a function of the package while one model's forward runs, or a method of the caches that one model fills.
Injections may be nested, for two mistakes at once. The file needs torch and minitf only, so a search through the
mistakes can use it.

Parts are found by their module paths, so a mistake in a parameter or a module works on any model that has those paths,
transformers' own too; only what replaces a function of minitf (attention, masks, losses, caches) needs a minitf model.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import nn

from minitf.cache import KVCache, StaticKVCache

Changes = Iterable[AbstractContextManager[None]]


@dataclass(frozen=True)
class Fault:
    """One mistake.

    Attributes:
        name: short and stable, for tables and for the command line.
        what: the mistake, in words.
        remedy: what the port should do instead, in words.
        changes: model -> the replacements that make the mistake; none if the model has no such part.
        needs: what a model or a call must have for the mistake to show; "" = any padded batch shows it.
    """

    name: str
    what: str
    remedy: str
    changes: Callable[[Any], Changes]
    needs: str = ""

    @contextmanager
    def inject(self, model: Any) -> Iterator[Any]:
        """The model with this mistake, until the block is left.

        Raises:
            ValueError: the model has no part that this mistake could concern.
        """
        changes = list(self.changes(model))
        if not changes:
            raise ValueError(f"{self.name} cannot be made in a {type(model).__name__} like this: {self.needs}.")
        with ExitStack() as stack:
            for change in changes:
                stack.enter_context(change)
            yield model


def fault(
    table: list[Fault], name: str, what: str, remedy: str, *, needs: str = ""
) -> Callable[[Callable[[Any], Changes]], Callable[[Any], Changes]]:
    """Decorator: a function `model -> replacements` becomes an entry of a table."""

    def add(changes: Callable[[Any], Changes]) -> Callable[[Any], Changes]:
        table.append(Fault(name, what, remedy, changes, needs))
        return changes

    return add


# --------------------------------------------------------------------------------------------------------------------
# Ways to change a model and to change it back


@contextmanager
def replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    """`owner.name` is `value` inside: a parameter, a submodule, a method of one object, a function of a module."""
    before = getattr(owner, name)
    registered = {**owner._parameters, **owner._modules} if isinstance(owner, nn.Module) else {}
    own = name in vars(owner) or name in registered
    setattr(owner, name, value)
    try:
        yield
    finally:
        if own:
            setattr(owner, name, before)
        else:
            delattr(owner, name)  # the method of the class shows again


@contextmanager
def wrapped(owner: Any, name: str, around: Callable[..., Any]) -> Iterator[None]:
    """Calls of `owner.name(...)` become `around(the function before, ...)`."""
    before = getattr(owner, name)

    def call(*args: Any, **kwargs: Any) -> Any:
        return around(before, *args, **kwargs)

    with replaced(owner, name, call):
        yield


def while_running(model: Any, *changes: Callable[[], AbstractContextManager[None]]) -> AbstractContextManager[None]:
    """Replacements of functions of the package, in force only during this model's forward."""

    def around(forward: Any, *args: Any, **kwargs: Any) -> Any:
        with ExitStack() as stack:
            for change in changes:
                stack.enter_context(change())
            return forward(*args, **kwargs)

    return wrapped(model, "forward", around)


def arguments_changed(module: Any, change: Callable[[dict[str, Any]], None]) -> AbstractContextManager[None]:
    """`change` edits the arguments of each forward of `module`, by name; those not given have their defaults."""
    signature = inspect.signature(type(module).forward)

    def around(forward: Any, *args: Any, **kwargs: Any) -> Any:
        bound = signature.bind(module, *args, **kwargs)
        bound.apply_defaults()
        change(bound.arguments)
        return forward(*bound.args[1:], **bound.kwargs)

    return wrapped(module, "forward", around)


def files_with(model: Any, function: str) -> list[Any]:
    """The files of minitf that the classes of this model come from and that use this function, base classes' too.

    Empty for a model that is not minitf's.
    """
    names = {kind.__module__ for module in model.modules() for kind in type(module).__mro__}
    files = [sys.modules[name] for name in sorted(names) if name.startswith("minitf.models.")]
    return [file for file in files if hasattr(file, function)]


def attention_changed(model: Any, change: Callable[[Any, dict[str, Any]], None]) -> Changes:
    """`change(module, call)` edits what this model's attention functions receive (see `minitf.attention`)."""
    own = set(model.modules())
    names = ("implementation", "module", "query", "key", "value", "mask")

    def around(attend: Any, *args: Any, **kwargs: Any) -> Any:
        call = {**dict(zip(names, args, strict=False)), **kwargs}
        if call["module"] in own:
            change(call["module"], call)
        return attend(**call)

    files = files_with(model, "attend")
    if files:
        yield while_running(model.base_model)  # changes nothing, but no faster way around a changed forward is taken
    for file in files:
        yield wrapped(file, "attend", around)


def caches_changed(model: Any, name: str, method: Callable[..., Any]) -> Changes:
    """A method of the caches that this model fills or continues, also when the caller calls it between two forwards.

    `method(cache, the method before, ...)` stands for it; a cache that this model has not seen is left alone.
    """
    files = files_with(model, "as_cache")
    seen: list[Any] = []

    def remember(as_cache: Any, *args: Any, **kwargs: Any) -> Any:
        cache = as_cache(*args, **kwargs)
        if not any(cache is one for one in seen):
            seen.append(cache)
        return cache

    def around(before: Any, cache: Any, *args: Any, **kwargs: Any) -> Any:
        own = partial(before, cache)
        if any(cache is one for one in seen):
            own = partial(method, cache, own)
        return own(*args, **kwargs)

    for file in files:
        yield while_running(model.base_model, partial(wrapped, file, "as_cache", remember))
    for kind in (KVCache, StaticKVCache) if files else ():
        if name in vars(kind):
            yield wrapped(kind, name, around)


def parts(model: Any, *types: type[nn.Module]) -> list[Any]:
    return [module for module in model.modules() if isinstance(module, types)]


def named(model: Any, name: str) -> list[Any]:
    """The submodule of this path, in a list; an empty list if there is none."""
    try:
        found = model.get_submodule(name)
    except AttributeError:
        return []
    return [] if found is None else [found]


def embeddings(model: Any) -> Any:
    """BertEmbeddings of any BERT class."""
    return model.base_model.embeddings
