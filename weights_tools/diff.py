"""Two checkpoints compared, whatever their files and names: the work behind `python -m weights_tools diff`."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import torch

from weights_tools.calls import WrongCall
from weights_tools.common import same_bits
from weights_tools.files import Checkpoint
from weights_tools.keys import few, without_layer
from weights_tools.regular import as_text
from weights_tools.report import fold
from weights_tools.translation import BASES, HF, Translation, open_source, translate

BLOCK = 2**22  # numbers that are compared at a time


@dataclass(frozen=True)
class Side:
    """One of the two checkpoints: its path, the dialect of its names and the reason why that is believed."""

    path: str
    format: str
    dialect: str
    reason: str


@dataclass(frozen=True)
class Difference:
    """How the numbers of one tensor differ.

    Attributes:
        name: Hugging Face's, or the file's own with raw=True.
        largest: the largest absolute difference; infinite where one is NaN or infinite and the other is not the same.
        count: how many numbers differ, of `numel`; 0 for equal numbers of different bits (0 and -0, kinds of NaN).
    """

    name: str
    largest: float
    count: int
    numel: int


@dataclass
class Comparison:
    """The result of `diff`. The lists hold names; see `same` for what counts as a difference.

    Attributes:
        first, second: the two `Side`s; `tolerance`: see `diff`.
        only_in_first, only_in_second: names that the other has not.
        shapes: (name, shape in the first, in the second); their numbers are not compared.
        dtypes: (name, dtype in the first, in the second).
        identical: names of equal shapes and bits (where the dtypes differ: of equal numbers).
        differences: where bits differ, also where numbers do by no more than `tolerance`.
        notes: what the two files, or their dialects, have to say.
    """

    first: Side
    second: Side
    tolerance: float | None
    only_in_first: list[str] = field(default_factory=list)
    only_in_second: list[str] = field(default_factory=list)
    shapes: list[tuple[str, tuple[int, ...], tuple[int, ...]]] = field(default_factory=list)
    dtypes: list[tuple[str, str, str]] = field(default_factory=list)
    identical: list[str] = field(default_factory=list)
    differences: list[Difference] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def same(self) -> bool:
        """Equal names and shapes, and equal dtypes and bits, or numbers within the tolerance if one was given."""
        if self.only_in_first or self.only_in_second or self.shapes:
            return False
        if self.tolerance is None:
            return not (self.dtypes or self.differences)
        return self.largest <= self.tolerance

    @property
    def largest(self) -> float:
        """The largest difference of any number, 0 if there is none."""
        return max((item.largest for item in self.differences), default=0.0)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for `json.dumps`; an infinite difference is the text "inf", because JSON has no such number."""
        content = {**asdict(self), "same": self.same, "largest": _number(self.largest)}
        for item in content["differences"]:
            item["largest"] = _number(item["largest"])
        return content

    def to_text(self, *, every_name: bool = False) -> str:
        """The readable form; layers folded unless `every_name`."""
        sides = (("A", self.first), ("B", self.second))
        lines = [f"{letter}  {side.path} ({side.format}, names: {side.dialect})" for letter, side in sides]
        for title, names in (("only in A", self.only_in_first), ("only in B", self.only_in_second)):
            _add(lines, title, len(names), names if every_name else fold(names))
        _add(lines, "shapes differ", len(self.shapes), self._grouped(self.shapes, every_name))
        kinds = {(first, second) for _, first, second in self.dtypes}
        every = len(self.dtypes) == len(self.identical) + len(self.differences) + len(self.shapes)
        short = [("every tensor", *kind) for kind in kinds] if every and len(kinds) == 1 else self.dtypes
        _add(lines, "dtypes differ", len(self.dtypes), self._grouped(short, every_name))
        _add(lines, "numbers differ", len(self.differences), _numbers(self.differences, every_name))
        lines += [f"  note: {note}" for note in self.notes]
        compared = len(self.identical) + len(self.differences)
        verdict = "the same" if self.same else "different"
        within = ""
        if self.tolerance is not None and self.differences:
            within = f" (tolerance {self.tolerance:g})"
        found = f"{len(self.identical)} of {compared} tensors identical"
        largest = f", largest difference {self.largest:.3g}{within}" if self.differences else ""
        return as_text([*lines, f"{verdict}: {found}{largest}"])

    def _grouped(self, items: Iterable[tuple[str, object, object]], every_name: bool) -> list[str]:
        groups: dict[tuple[str, str], list[str]] = {}
        for name, first, second in items:
            groups.setdefault((_plain(first), _plain(second)), []).append(name)
        return [
            f"{name}: {first} in A, {second} in B"
            for (first, second), names in groups.items()
            for name in (names if every_name else fold(names))
        ]


def diff(
    first: str | os.PathLike[str],
    second: str | os.PathLike[str],
    *,
    tolerance: float | None = None,
    dialects: tuple[str | None, str | None] = (None, None),
    raw: bool = False,
    progress: Callable[[int], object] | None = None,
) -> Comparison:
    """Compare two checkpoints, tensor by tensor, under Hugging Face's names; two tensors are in memory at a time.

    Args:
        first, second: folders, weights files, TensorFlow checkpoints, or names in the hub's cache.
        tolerance: numbers may differ by so much, and dtypes may differ; default: every bit counts.
        dialects: whose names the two have; default: what their names say.
        raw: compare the files' own names and layouts, nothing translated and nothing dropped.
        progress: called with the bytes of each tensor (of the first checkpoint) when it has been compared.

    Raises:
        FileNotFoundError, WeightsError, OSError: as `open_checkpoint`; names that the dialect does not know.
        WrongCall: an unknown dialect, a negative tolerance, a dialect beside raw=True.
    """
    if tolerance is not None and not tolerance >= 0:
        raise WrongCall(f"tolerance is {tolerance!r}; expected a number that is not negative")
    if raw and any(dialects):
        raise WrongCall("raw=True translates nothing, so a dialect would have no effect: give one or the other")
    with open_source(first) as one, open_source(second) as two:
        a, b = (_view(checkpoint, dialect, raw) for checkpoint, dialect in ((one, dialects[0]), (two, dialects[1])))
        result = Comparison(_side(a), _side(b), tolerance)
        for letter, view in (("A", a), ("B", b)):
            result.notes += [f"{letter}: {note}" for note in view.notes]
            for why in dict.fromkeys(why for _, why in view.dropped):
                names = fold(name for name, other in view.dropped if other == why)
                result.notes.append(f"{letter}: not compared: {few(names)}: {why}")
        _compare(a, b, result, {} if raw else _prefixes(a, b, result), progress)
    return result


def _view(checkpoint: Checkpoint, dialect: str | None, raw: bool) -> Translation:
    view = translate(checkpoint, HF if raw else dialect)
    if raw:
        view.unknown = [(name, "") for name in checkpoint if name not in view.items]
        view.dropped = []
    # A name that no table knows is compared as it is: the other checkpoint may have it too.
    view.keep_unknown()
    return view


def _side(view: Translation) -> Side:
    return Side(str(view.checkpoint.path), view.checkpoint.format, view.dialect, view.reason)


def _prefixes(first: Translation, second: Translation, result: Comparison) -> dict[str, str]:
    """Name in the second -> name in the first, where only one of them has the prefix of the trunk."""
    for base in BASES:
        has = [any(name.startswith(base) for name in view.items) for view in (first, second)]
        if has[0] == has[1]:
            continue
        whole, bare = (first, second) if has[0] else (second, first)
        pairs = [(name, base + name) for name in bare.items if base + name in whole.items]
        if pairs:
            result.notes.append(f"{'B' if has[0] else 'A'} has no {base!r} prefix: compared as if it had")
        return dict(pairs) if has[0] else {long: short for short, long in pairs}
    return {}


def _compare(
    first: Translation,
    second: Translation,
    result: Comparison,
    renamed: Mapping[str, str],
    progress: Callable[[int], object] | None,
) -> None:
    names = {renamed.get(name, name): name for name in second.items}
    result.only_in_first = [name for name in first.items if name not in names]
    result.only_in_second = [other for name, other in names.items() if name not in first.items]
    for name, one in first.items.items():
        if name not in names:
            continue
        two = second.items[names[name]]
        if one.dtype != two.dtype:
            result.dtypes.append((name, _plain(one.dtype), _plain(two.dtype)))
        if one.shape != two.shape:
            result.shapes.append((name, one.shape, two.shape))
            continue
        numbers = first.read(name), second.read(two.name)
        difference = None if same_bits(*numbers) else _difference(name, *numbers)
        if difference is None or (one.dtype != two.dtype and not difference.count):
            result.identical.append(name)
        else:
            result.differences.append(difference)
        if progress is not None:
            progress(numbers[0].nbytes)


def _difference(name: str, first: torch.Tensor, second: torch.Tensor) -> Difference:
    largest, count = 0.0, 0
    kind = torch.complex128 if first.is_complex() or second.is_complex() else torch.float64
    # Blocks, because numbers that take 8 bytes each would otherwise take more memory than the tensor itself.
    for one, two in zip(*(torch.split(side.reshape(-1), BLOCK) for side in (first, second)), strict=True):
        a, b = one.to(kind), two.to(kind)
        unequal = (a != b) & ~(a.isnan() & b.isnan())
        gap = (a[unequal] - b[unequal]).abs()
        count += gap.numel()
        if gap.numel():
            largest = max(largest, float(gap.nan_to_num(nan=math.inf, posinf=math.inf).max()))
    return Difference(name, largest, count, first.numel())


def _add(lines: list[str], title: str, count: int, content: list[str]) -> None:
    if content:
        lines += [f"  {title} ({count}):", *(f"    {line}" for line in content)]


def _plain(value: object) -> str:
    return str(list(value)) if isinstance(value, tuple) else str(value).removeprefix("torch.")


def _number(value: float) -> float | str:
    return value if math.isfinite(value) else str(value)


def _numbers(differences: list[Difference], every_name: bool) -> list[str]:
    """One line for the layers of one kind of tensor: the largest difference of any, and where it is."""
    families: dict[str, list[Difference]] = {}
    for item in differences:
        families.setdefault(item.name if every_name else without_layer(item.name), []).append(item)
    lines = []
    for members in families.values():
        worst = max(members, key=lambda item: item.largest)
        count, numel = sum(item.count for item in members), sum(item.numel for item in members)
        layer = re.search(r"(?<=\D)\d+", worst.name)
        where = f" (layer {layer[0]})" if layer and len(members) > 1 else ""
        found = f"{count:,} of {numel:,} numbers, largest difference {worst.largest:.3g}{where}"
        if not count:
            found = "equal numbers of different bits (0 and -0, or kinds of NaN)"
        lines += [f"{name}: {found}" for name in fold(item.name for item in members)[:1]]
    return lines
