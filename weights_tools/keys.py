"""What the names of a checkpoint become: the work behind `python -m weights_tools keys`. Only headers are read."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from weights_tools.regular import as_text
from weights_tools.report import fold
from weights_tools.translation import HF, Translation, open_source, translate


@dataclass(frozen=True)
class Key:
    """One name of the file.

    Attributes:
        name: in the file; "" for a tensor that the file lacks and that is 0 by the dialect's rule.
        target: what it becomes; None: it is dropped, or unknown.
        what: what happens to the numbers, or why there is no target; "" for nothing.
        shape: in the file (of the result where the file has none); `dtype`: in the file, as "float32".
        state: "used", "dropped" or "unknown".
    """

    name: str
    target: str | None
    what: str
    shape: tuple[int, ...]
    dtype: str
    state: str


@dataclass
class Keys:
    """The result of `keys`: see `Translation` for `dialect`, `reason`, `into`, `notes`."""

    path: str
    dialect: str
    reason: str
    into: str
    keys: list[Key]
    notes: list[str]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for `json.dumps`."""
        return {
            **{name: getattr(self, name) for name in ("path", "dialect", "reason", "into", "notes")},
            "keys": [{**vars(key), "shape": list(key.shape)} for key in self.keys],
        }

    def to_text(self, *, every_name: bool = False) -> str:
        """The readable form; layers folded unless `every_name`."""
        used = [key for key in self.keys if key.state == "used"]
        lines = [self.path, f"  names: {self.dialect} ({self.reason})"]
        lines.append(f"  under names of {self.into} ({len(used)}):")
        pairs = [(key.name or "(not in the file)", key.target or "", key.what) for key in used]
        for name, target, what in fold_pairs(pairs, every_name=every_name):
            becomes = f" -> {target}" if target != name else ""
            lines.append(f"    {name}{becomes}" + (f"  [{what}]" if what else ""))
        for state, title in (("dropped", "dropped"), ("unknown", "no counterpart")):
            found = [key for key in self.keys if key.state == state]
            if found:
                lines.append(f"  {title} ({len(found)}):")
            for why in dict.fromkeys(key.what for key in found):
                names = [key.name for key in found if key.what == why]
                lines += [f"    {name}: {why}" for name in (names if every_name else fold(names))]
        return as_text([*lines, *(f"  note: {note}" for note in self.notes)])


def keys(
    path: str | os.PathLike[str], *, dialect: str | None = None, into: str = HF, num_heads: int | None = None
) -> Keys:
    """What every name of a checkpoint becomes under the names of `into`.

    Args:
        path: a folder, a weights file, a TensorFlow checkpoint, or a name in the hub's cache.
        dialect: whose names the file has; default: what its names say.
        into: whose names are wanted; default: Hugging Face's.
        num_heads: as for `translate`.

    Raises:
        FileNotFoundError, WeightsError, OSError: as `open_checkpoint`; two names that become one.
        WrongCall: an unknown dialect (lists those that exist); `num_heads` is needed, or has no effect.
    """
    with open_source(path) as checkpoint:
        found = translate(checkpoint, dialect, into=into, num_heads=num_heads)
        lines = [*_used(found), *_others(found)]
        order = {name: index for index, name in enumerate(checkpoint)}
        lines.sort(key=lambda key: order.get(key.name, len(order)))
        return Keys(str(checkpoint.path), found.dialect, found.reason, into, lines, found.notes)


def _used(found: Translation) -> Iterable[Key]:
    for item in found.items.values():
        for name in item.sources:
            info = found.checkpoint[name]
            yield Key(name, item.name, item.what, info.shape, _text(info.dtype), "used")
        if not item.sources:
            yield Key("", item.name, item.what, item.shape, _text(item.dtype), "used")


def _others(found: Translation) -> Iterable[Key]:
    for state, pairs in (("dropped", found.dropped), ("unknown", found.unknown)):
        for name, why in pairs:
            info = found.checkpoint.get(name)
            shape, dtype = (info.shape, _text(info.dtype)) if info else ((), "")
            yield Key(name, None, why, shape, dtype, state)


def _text(dtype: object) -> str:
    return str(dtype).removeprefix("torch.")


def few(names: Sequence[str], limit: int = 4) -> str:
    """The first names, and how many more there are: "a, b and 3 more"."""
    text = ", ".join(names[:limit])
    return text if len(names) <= limit else f"{text} and {len(names) - limit} more"


def fold_pairs(pairs: Sequence[tuple[str, str, str]], *, every_name: bool = False) -> list[tuple[str, str, str]]:
    """(name, target, what) with the layers folded where both sides fold into one line each; else as they are.

    >>> fold_pairs([("h.0.g", "x.0.w", ""), ("h.1.g", "x.1.w", "")])
    [('h.{0..1}.g', 'x.{0..1}.w', '')]
    """
    if every_name:
        return list(pairs)
    families: dict[tuple[str, ...], list[tuple[str, str]]] = {}
    for name, target, what in pairs:
        family = (without_layer(name), without_layer(target), what)
        families.setdefault(family, []).append((name, target))
    result = []
    for (_, _, what), members in families.items():
        sides = [fold(side) for side in zip(*members, strict=True)]
        if all(len(side) == 1 for side in sides):
            result.append((sides[0][0], sides[1][0], what))
        else:
            result += [(name, target, what) for name, target in members]
    return result


def without_layer(name: str) -> str:
    """A name without the number of its layer: the first number after the beginning, in every dialect."""
    return re.sub(r"(?<=\D)\d+", "#", name, count=1)
