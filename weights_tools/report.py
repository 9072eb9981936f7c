"""What loading a checkpoint did, readable by a student: names folded per layer, empty sections left out."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from weights_tools.regular import as_text

Shape = tuple[int, ...]
MAX_LINES = 40  # of one section; the lists themselves are always complete


def fold(names: Iterable[str]) -> list[str]:
    """Fold names that differ in one place into one line, order of first appearance.

    >>> fold(["layer.0.query.weight", "layer.0.query.bias", "layer.1.query.weight", "layer.1.query.bias", "pooler"])
    ['layer.{0..1}.query.{weight,bias}', 'pooler']
    >>> fold(["encoder/layer_0/query/kernel", "encoder/layer_1/query/kernel"])
    ['encoder/layer_{0..1}/query/kernel']

    Last parts are folded first, then numbers, from left to right; a fold stands for exactly the names that were given.
    A name with slashes has its parts between these, and its numbers at the end of a part, as TensorFlow writes them.
    """
    return [line for line, _ in fold_groups(names)]


def fold_groups(names: Iterable[str]) -> list[tuple[str, list[str]]]:
    """As `fold`; each line with the names that it stands for."""
    folded = _fold_last(dict.fromkeys(names))
    for place in range(max((line.count(_separator(line)) + 1 for line, _ in folded), default=0)):
        folded = _fold_number(folded, place)
    return folded


def _separator(name: str) -> str:
    return "/" if "/" in name else "."


def _fold_last(names: Iterable[str]) -> list[tuple[str, list[str]]]:
    groups: dict[str, list[str]] = {}
    for name in names:
        stem, separator, last = name.rpartition(_separator(name))
        # Numbers are folded to ranges later; a name of one part has nothing in common with its neighbours.
        groups.setdefault(name if not stem or last.isdigit() else stem + separator, []).append(name)
    return [
        (
            members[0] if len(members) == 1 else f"{key}{{{','.join(name.removeprefix(key) for name in members)}}}",
            members,
        )
        for key, members in groups.items()
    ]


def _fold_number(folded: list[tuple[str, list[str]]], place: int) -> list[tuple[str, list[str]]]:
    groups: dict[tuple[str, ...], list[tuple[int, str, list[str]]]] = {}
    for line, members in folded:
        separator = _separator(line)
        # A range that was folded before holds two dots, which separate nothing.
        parts = line.split(separator) if separator == "/" else re.split(r"(?<!\.)\.(?!\.)", line)
        stem = ".*?" if separator == "/" else ""
        number = re.fullmatch(rf"({stem})(0|[1-9]\d{{0,8}})", parts[place]) if place < len(parts) else None
        if number is None:
            groups[(line,)] = [(0, line, members)]
        else:
            template = (separator, *parts[:place], f"{number[1]}#", *parts[place + 1 :])
            groups.setdefault(template, []).append((int(number[2]), line, members))
    result = []
    for (separator, *parts), found in groups.items():
        line = found[0][1]
        if len(found) > 1:
            found.sort()
            parts[place] = parts[place].removesuffix("#") + _ranges([number for number, _, _ in found])
            line = separator.join(parts)
        result.append((line, [name for _, _, members in found for name in members]))
    return result


def _ranges(numbers: Sequence[int]) -> str:
    """[0, 1, 2, 5] -> "{0..2,5}"; a single number stays bare."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    texts = [str(first) if first == last else f"{first}..{last}" for first, last in runs]
    return texts[0] if len(numbers) == 1 else f"{{{','.join(texts)}}}"


@dataclass
class LoadReport:
    """What became of every name of a checkpoint and of every parameter of the model.

    Attributes:
        checkpoint: the folder or file; `files`: the weights files; `format`: "safetensors" or "pytorch".
        dialect: whose names the checkpoint uses (`weights_tools.tables`).
        renamed: (name in the file, name in the model).
        dropped: (name in the file, why it is not a weight of this model).
        missing: parameters that the checkpoint does not hold: newly initialised.
        unexpected: names in the file that no rule explains.
        misshapen: (parameter, shape in the file, shape in the model): newly initialised, when that was asked for.
        converted: (parameter, dtype in the file, dtype in the model).
        config_unknown: keys of config.json that the configuration does not know, with their values.
        notes: anything else worth saying.
        refused: whether the checkpoint was not loaded, so that nothing was initialised either.
    """

    checkpoint: str
    files: list[str] = field(default_factory=list)
    format: str = ""
    dialect: str = ""
    renamed: list[tuple[str, str]] = field(default_factory=list)
    dropped: list[tuple[str, str]] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    misshapen: list[tuple[str, Shape, Shape]] = field(default_factory=list)
    converted: list[tuple[str, str, str]] = field(default_factory=list)
    config_unknown: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    refused: bool = False

    @property
    def ok(self) -> bool:
        """Every parameter came from the checkpoint, and every name of the checkpoint is explained."""
        return not (self.missing or self.unexpected or self.misshapen)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for `json.dumps`; tuples become lists there."""
        return {**asdict(self), "ok": self.ok}

    def _verdict(self) -> str:
        if self.refused:
            return "not loaded"
        if self.ok:
            return "everything fits"
        if self.unexpected or self.misshapen:
            return "not everything fits"
        return f"everything in it fits, {len(self.missing)} parameters are not in it"

    def sections(self) -> list[tuple[str, list[str]]]:
        """(title, lines) of the sections that have anything to say."""
        fresh = "" if self.refused else ", newly initialised"
        every = [
            (f"missing{fresh} ({len(self.missing)})", fold(self.missing)),
            (f"misshapen{fresh} ({len(self.misshapen)})", _misshapen(self.misshapen)),
            (f"unexpected ({len(self.unexpected)})", fold(self.unexpected)),
            (f"renamed ({len(self.renamed)})", _renamed(self.renamed)),
            (f"dropped ({len(self.dropped)})", _grouped(self.dropped, "{names}: {key}")),
            (f"converted ({len(self.converted)})", _converted(self.converted)),
            (f"unknown keys in config.json, kept ({len(self.config_unknown)})", _config(self.config_unknown)),
            ("notes", list(self.notes)),
        ]
        return [(title, lines) for title, lines in every if lines]

    def __str__(self) -> str:
        kind = ", ".join(text for text in (self.format, f"names: {self.dialect}" if self.dialect else "") if text)
        head = f"{self.checkpoint}" + (f" ({kind})" if kind else "")
        lines = [f"{head}: {self._verdict()}"]
        for title, content in self.sections():
            lines.append(f"  {title}:")
            lines += [f"    {line}" for line in content[:MAX_LINES]]
            if len(content) > MAX_LINES:
                lines.append(f"    ... and {len(content) - MAX_LINES} more lines")
        return as_text(lines)


def _groups(pairs: Iterable[tuple[Any, str]]) -> dict[Any, list[str]]:
    groups: dict[Any, list[str]] = {}
    for key, name in pairs:
        groups.setdefault(key, []).append(name)
    return groups


def _grouped(pairs: Iterable[tuple[str, str]], text: str) -> list[str]:
    groups = _groups((key, name) for name, key in pairs)
    return [text.format(names=name, key=key) for key, names in groups.items() for name in fold(names)]


def _misshapen(items: Iterable[tuple[str, Shape, Shape]]) -> list[str]:
    groups = _groups(((tuple(disk), tuple(model)), name) for name, disk, model in items)
    return [
        f"{name}: {list(disk)} in the checkpoint, {list(model)} in the model"
        for (disk, model), names in groups.items()
        for name in fold(names)
    ]


def _converted(items: Iterable[tuple[str, str, str]]) -> list[str]:
    groups = _groups((f"{old} -> {new}", name) for name, old, new in items)
    return [f"{name}: {key}" for key, names in groups.items() for name in fold(names)]


def _renamed(pairs: Sequence[tuple[str, str]]) -> list[str]:
    """A line where the names of one line become those of another; else layers folded, else name by name."""
    targets: dict[str, list[tuple[str, str]]] = {}
    for source, target in pairs:
        targets.setdefault(source, []).append((source, target))
    lines: list[str] = []
    for _, members in fold_groups(targets):
        group = [pair for source in members for pair in targets[source]]
        if (line := _rename(group)) is not None:
            lines.append(line)
            continue
        families: dict[str, list[tuple[str, str]]] = {}
        for pair in group:
            family = " -> ".join(re.sub(r"\d+(?=[./])", "#", name, count=1) for name in pair)  # without the layer
            families.setdefault(family, []).append(pair)
        for alike in families.values():
            line = _rename(alike)
            lines += [line] if line is not None else [" -> ".join(pair) for pair in alike]
    return lines


def _rename(pairs: Sequence[tuple[str, str]]) -> str | None:
    """One line for all of them, if either side folds to one."""
    sides = [fold(side) for side in zip(*pairs, strict=True)]
    return " -> ".join(side[0] for side in sides) if all(len(side) == 1 for side in sides) else None


def _config(values: dict[str, Any]) -> list[str]:
    return [f"{key} = {value!r}" for key, value in values.items()]
