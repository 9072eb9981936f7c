"""What every public tokenizer function shares: a marker for "not given", and errors for keywords that do not exist."""

from __future__ import annotations

import enum
import functools
import inspect
from collections.abc import Callable, Iterable
from difflib import get_close_matches
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")


class Unset(enum.Enum):
    """The default of options for which None is a value of its own (`pad_token=None`: this tokenizer has none)."""

    UNSET = "not given"

    def __repr__(self) -> str:
        return "<not given>"


UNSET = Unset.UNSET


def nearest(name: str, known: Iterable[str]) -> str:
    """`"; did you mean 'x'?"` for the closest of `known`, else all of them listed."""
    names = list(known)
    near = get_close_matches(name, names, n=1)
    return f"; did you mean {near[0]!r}?" if near else f"; known are {', '.join(names)}"


def strict_keywords(function: Callable[P, R]) -> Callable[P, R]:
    """Make an unknown keyword a TypeError that names the nearest real one (Python itself does so only from 3.14 on)."""
    known = [name for name in inspect.signature(function).parameters if name not in ("self", "cls")]

    @functools.wraps(function)
    def checked(*args: P.args, **kwargs: P.kwargs) -> R:
        for name in kwargs:
            if name not in known:
                raise TypeError(f"{function.__qualname__}() has no argument {name!r}{nearest(name, known)}")
        return function(*args, **kwargs)

    return checked
