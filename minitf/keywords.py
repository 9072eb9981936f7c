"""Misspelt keywords: a TypeError that names the nearest real one (Python itself does so only from 3.14 on)."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable
from difflib import get_close_matches
from typing import ParamSpec, TypeVar

__all__ = ["nearest_name", "refuse_unknown", "strict_keywords"]

P = ParamSpec("P")
R = TypeVar("R")


def nearest_name(name: str, names: Iterable[str]) -> str:
    """`"; did you mean 'hidden_size'?"` for the closest of `names`, or an empty string if none is close."""
    near = get_close_matches(name, list(names), n=1)
    return f"; did you mean {near[0]!r}?" if near else ""


def refuse_unknown(function: str, given: Iterable[str], known: Iterable[str]) -> None:
    """Check keywords before a call.

    Args:
        function: the name to show.
        given: the keywords of the call. known: the parameters that exist.

    Raises:
        TypeError: one of `given` is not known; the message names the nearest, or all if none is near.
    """
    names = list(known)
    for name in given:
        if name not in names:
            raise TypeError(
                f"{function}() has no argument {name!r}{nearest_name(name, names) or '; known are ' + ', '.join(names)}"
            )


def strict_keywords(function: Callable[P, R]) -> Callable[P, R]:
    """Decorator: an unknown keyword of this function is refused with the nearest real one."""
    known = [name for name in inspect.signature(function).parameters if name not in ("self", "cls")]

    @functools.wraps(function)
    def checked(*args: P.args, **kwargs: P.kwargs) -> R:
        refuse_unknown(function.__qualname__, kwargs, known)
        return function(*args, **kwargs)

    return checked
