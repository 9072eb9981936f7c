"""What `minitf.parity.verify` found, as rows, and the parity statement that a user can paste in an issue."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

__all__ = ["DIFFERS", "IDENTICAL", "MULTIPLE", "NOT_APPLICABLE", "WITHIN", "Row", "VerifyReport"]

IDENTICAL, WITHIN, DIFFERS, NOT_APPLICABLE = "identical", "within", "differs", "not applicable"
MULTIPLE = 4
"""A row is within the noise if its difference is at most this many times the noise floor: two correct programs are each
about one floor away from the exact result, and a maximum over few values scatters by as much again."""

HEADER = ("check", "class", "dtype", "attention", "padding", "result", "max difference", "noise floor", "")


@dataclass(frozen=True)
class Row:
    """One comparison.

    Attributes:
        check: "weights", "forward", "cache", "cache = whole", "greedy", "4 beams" or "tokenizer".
        name: the class, of models or tokenizers.
        dtype, attention, padding: how it was computed; "" where the check has none.
        result: "identical" (every bit, every token), "within" (of `MULTIPLE` times the floor), "differs", or
            "not applicable".
        difference: the largest absolute difference, in the field that is nearest to its limit, or beyond it; None where
            the check compares no numbers. floor: the noise floor of that field.
        times: how many times the floor the difference is, by the larger of two measures, the largest difference and the
            relative L2 norm (`minitf.parity.noise`); at most `MULTIPLE` is within.
        where: the first place that differs, with both values; or why the check was not applicable; or a remark.
    """

    check: str
    name: str
    dtype: str = ""
    attention: str = ""
    padding: str = ""
    result: str = IDENTICAL
    difference: float | None = None
    floor: float | None = None
    times: float = 0.0
    where: str = ""

    def __str__(self) -> str:
        how = " ".join(part for part in (self.name, self.check, self.dtype, self.attention, self.padding) if part)
        numbers = "" if self.difference is None else f", max difference {self.difference:.1e}"
        if self.difference is not None and self.floor is not None:
            numbers += f" = {self.times:.2g} times the noise floor of {self.floor:.1e}"
        return f"{how}: {self.result}{numbers}{f'; {self.where}' if self.where else ''}"


@dataclass
class VerifyReport:
    """Everything that `verify` found; `print(report)` is the table and the parity statement.

    Attributes:
        rows: the comparisons, in the order in which they were made.
        versions: "minitf", "transformers", "torch", "python", "cpu" -> text.
        checkpoint: the folder's name (without its path); `files`: file name -> SHA-256, in hexadecimal.
        settings: "classes", "dtypes", "attention", "padding", "tokens", "batch", "seed", "threads".
        notes: what a reader of the rows must know: what was excluded, and how transformers got the weights.
    """

    rows: list[Row]
    versions: dict[str, str]
    checkpoint: str
    files: dict[str, str]
    settings: dict[str, Any]
    notes: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether outputs were compared at all, and no row differs."""
        compared = any(row.check == "forward" and row.result != NOT_APPLICABLE for row in self.rows)
        return compared and not any(row.result == DIFFERS for row in self.rows)

    @property
    def worst(self) -> Row | None:
        """The row with the largest difference in multiples of its floor; None if every compared row is identical."""
        unequal = [row for row in self.rows if row.result in (WITHIN, DIFFERS)]
        return max(unequal, key=lambda row: (row.result == DIFFERS, row.times), default=None)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; an infinite difference stays infinite."""
        return {
            "ok": self.ok,
            "versions": dict(self.versions),
            "checkpoint": self.checkpoint,
            "files": dict(self.files),
            "settings": dict(self.settings),
            "rows": [asdict(row) for row in self.rows],
            "notes": list(self.notes),
            "statement": self.statement(),
        }

    def statement(self) -> str:
        """The parity statement: what was compared on which machine, and the worst row."""
        versions, settings = self.versions, self.settings
        counts = Counter(row.result for row in self.rows)
        compared = len(self.rows) - counts[NOT_APPLICABLE]
        verdict = "PARITY" if self.ok else "NO PARITY" if counts[DIFFERS] else "NOTHING COMPARED"
        lines = [
            f"{verdict}: minitf {versions['minitf']} and transformers {versions['transformers']} "
            f"(torch {versions['torch']}, Python {versions['python']}, {versions['cpu']}, "
            f"threads: {settings['threads']})",
            f"checkpoint: {self.checkpoint}",
            *(f"  {name} sha256 {digest}" for name, digest in self.files.items()),
            f"compared: {', '.join(settings['classes']) or 'no class'}; {', '.join(settings['dtypes'])}; "
            f"{', '.join(settings['attention'])}; padding {', '.join(settings['padding'])}; "
            f"{settings['batch']} rows of {settings['tokens']} tokens, seed {settings['seed']}",
            f"rows: {compared} compared, {counts[IDENTICAL]} identical, {counts[WITHIN]} within {MULTIPLE} times the "
            f"noise floor, {counts[DIFFERS]} differ; {counts[NOT_APPLICABLE]} not applicable",
        ]
        if compared:
            lines.append(f"worst row: {self.worst or 'none, every compared row is identical'}")
        return "\n".join([*lines, *(f"note: {note}" for note in self.notes)])

    def __str__(self) -> str:
        rows = [HEADER, *map(_cells, _folded(self.rows))]
        widths = [max(len(row[column]) for row in rows) for column in range(len(HEADER))]
        lines = []
        for *cells, where in rows:
            texts = [cell.ljust(size) for cell, size in zip(cells, widths, strict=False)]
            lines.append("  ".join(texts).rstrip())
            lines += [f"    {where}"] * bool(where)
        return "\n".join([*lines, "", self.statement()])


def _folded(rows: Sequence[Row]) -> list[Row]:
    """Rows that passed alike, for every combination of some attention functions and paddings, as one: the worst."""
    groups: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault((row.check, row.name, row.dtype, row.result, row.where), []).append(row)
    folded: list[Row] = []
    for alike in groups.values():
        attention = list(dict.fromkeys(row.attention for row in alike))
        padding = list(dict.fromkeys(row.padding for row in alike))
        if alike[0].result == DIFFERS or len(alike) != len(attention) * len(padding):
            folded += alike
        else:
            worst = max(alike, key=lambda row: (row.times, -(row.floor or 0.0)))
            folded.append(replace(worst, attention=", ".join(attention), padding=", ".join(padding)))
    return folded


def _cells(row: Row) -> tuple[str, ...]:
    numbers = ("" if value is None else f"{value:.1e}" for value in (row.difference, row.floor))
    return (row.check, row.name, row.dtype, row.attention, row.padding, row.result, *numbers, row.where)
