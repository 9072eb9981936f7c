"""Module paths chosen by a pattern, such as `bert.encoder.layer.{0,5}.attention.*`; for `minitf.tracing` and `surgery`.

    *         any characters within one part of the path (parts are what dots separate); `layer.*` is every layer
    **        any characters, dots included; `**.query` is every query layer, whatever holds it
    {0,5}     one of these texts: layers 0 and 5
    {0..5}    one of these numbers, both ends included
    all else  itself

A path without signs is a pattern that matches itself. Every alternative of a brace must match something: `{0,12}` in a
model of 12 layers is an error that names the path with 12, not the five letters less that a shell would give.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from difflib import get_close_matches

__all__ = ["expand", "matches"]

BRACE = re.compile(r"\{([^{}]*)\}")
RANGE = re.compile(r"(\d+)\.\.(\d+)")


def expand(pattern: str) -> list[str]:
    """The pattern with its braces written out, in order: `"a.{0..2}.{b,c}"` -> `["a.0.b", "a.0.c", "a.1.b", ...]`.

    Raises:
        ValueError: a brace without its partner or within another, an empty alternative, or a range that runs backwards.
    """
    found = BRACE.search(pattern)
    if found is None:
        if "{" in pattern or "}" in pattern:
            raise ValueError(f"the pattern {pattern!r} has a brace without its partner: expected {{0,5}} or {{0..5}}.")
        return [pattern]
    inside = found[1]
    numbers = RANGE.fullmatch(inside)
    if numbers:
        first, last = int(numbers[1]), int(numbers[2])
        if first > last:
            raise ValueError(f"the pattern {pattern!r} counts backwards: expected {{{last}..{first}}}.")
        choices = [str(number) for number in range(first, last + 1)]
    else:
        choices = [choice.strip() for choice in inside.split(",")]
    if not all(choices) or any(BRACE.search(choice) or "{" in choice for choice in choices):
        raise ValueError(f"the pattern {pattern!r} has an empty alternative: expected {{0,5}} or {{0..5}}.")
    before, after = pattern[: found.start()], pattern[found.end() :]
    if "{" in before:
        raise ValueError(f"the pattern {pattern!r} has a brace within a brace: write two patterns.")
    return [before + choice + rest for choice in choices for rest in expand(after)]


def matches(pattern: str | Iterable[str], names: Iterable[str]) -> list[str]:
    """The names that a pattern (or any of several) matches, in the order of `names`, each once.

    Raises:
        ValueError: the pattern, or one alternative of its braces, matches nothing; the message has the nearest names,
            or what there is below the part of the path that exists. Also for no pattern at all.
        TypeError: a pattern that is no text.
    """
    known = list(names)
    patterns = list(pattern) if isinstance(pattern, Iterable) and not isinstance(pattern, str) else [pattern]
    for one in patterns:
        if not isinstance(one, str):
            raise TypeError(f"the pattern {one!r} is no text: expected a path such as 'encoder.layer.0', or several.")
    if not patterns:
        raise ValueError("no pattern is given: expected a path such as 'encoder.layer.0', or '**' for every name.")
    chosen: set[str] = set()
    for one in patterns:
        for path in expand(one):
            form = regular(path)
            hits = [name for name in known if form.fullmatch(name)]
            if not hits:
                origin = "" if path == one else f" (of {one!r})"
                raise ValueError(f"{path!r}{origin} matches no name here{nearest(path, known)}")
            chosen.update(hits)
    return [name for name in known if name in chosen]


def regular(path: str) -> re.Pattern[str]:
    """The regular expression of a pattern without braces."""
    signs = {"**": ".*", "*": "[^.]*"}
    return re.compile("".join(signs.get(part, re.escape(part)) for part in re.split(r"(\*\*|\*)", path)), re.DOTALL)


def nearest(path: str, known: Sequence[str]) -> str:
    """What to write instead: near names; else what follows the longest beginning of the path that exists."""
    parts = path.split(".")
    if "*" not in path and not parts[-1].isdigit() and (near := get_close_matches(path, known, n=3)):
        return f"; did you mean {' or '.join(map(repr, near))}?"
    split = [name.split(".") for name in known if name]
    for length in range(len(parts) - 1, 0, -1):
        start = ".".join(parts[:length])
        form = regular(start)
        below = {p[length]: None for p in split if len(p) > length and form.fullmatch(".".join(p[:length]))}
        if below and set(parts[:length]) != {"**"}:
            return f": below {start!r} there are {listed(below, parts[length])}"
    if parts[0] == "**":
        return f": the names end with {listed({p[-1]: None for p in split}, parts[-1])}"
    return f": the names begin with {listed({p[0]: None for p in split}, parts[0])}"


def listed(names: Iterable[str], missed: str) -> str:
    """A dozen of the names, and the one that was probably meant."""
    every = list(names)
    close = get_close_matches(missed, every, n=1)
    text = ", ".join(every[:12]) + (", ..." if len(every) > 12 else "")
    return f"{text}; did you mean {close[0]!r}?" if close else text
