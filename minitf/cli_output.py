"""Text for a terminal: the width of wide characters, safe and shortened labels, aligned tables, valid JSON."""

from __future__ import annotations

import json
import math
import shutil
import unicodedata
from collections.abc import Sequence
from typing import Any

from weights_tools.regular import escaped as escaped


def width(text: str) -> int:
    """Columns of a terminal that `text` takes: 2 for wide (Chinese, emoji), 0 for combining characters, else 1."""
    columns = 0
    joined = False
    for char in text:
        if char == "\u200d":
            joined = True  # what follows is drawn into the same picture
            continue
        if unicodedata.category(char) in ("Mn", "Me", "Cf") or joined:
            joined = False
            continue
        columns += 2 if unicodedata.east_asian_width(char) in ("W", "F") else 1
    return columns


def shortened(text: str, limit: int) -> str:
    """`text` escaped, and cut to at most `limit` columns with "..." at the end."""
    text = escaped(text)
    if width(text) <= limit:
        return text
    while text and width(text) > limit - 3:
        text = text[:-1]
    return text.rstrip("\u200d ") + "..."


def padded(text: str, columns: int, *, right: bool = False) -> str:
    """`text` filled with blanks to `columns` terminal columns, on its right or (for numbers) on its left."""
    blanks = " " * max(columns - width(text), 0)
    return blanks + text if right else text + blanks


def table(rows: Sequence[Sequence[str]], *, right: Sequence[bool]) -> list[str]:
    """Lines with aligned columns, two blanks between them. `right`: which columns align to the right."""
    columns = [max(width(row[index]) for row in rows) for index in range(len(right))]
    return ["  ".join(padded(cell, columns[i], right=right[i]) for i, cell in enumerate(row)).rstrip() for row in rows]


def terminal_columns() -> int:
    """Columns of the terminal, 100 where there is none, never less than 40."""
    return max(shutil.get_terminal_size((100, 24)).columns, 40)


def above_each_other(upper: Sequence[str], lower: Sequence[str], *, names: tuple[str, str], indent: str) -> list[str]:
    """Two rows of cells, cell below cell, broken into as many pairs of lines as the terminal needs."""
    head = max(width(name) for name in names)
    room = terminal_columns() - len(indent) - head
    lines: list[str] = []
    block: list[tuple[str, str]] = []
    used = 0
    for pair in [*zip(upper, lower, strict=True), None]:
        cell = 0 if pair is None else 2 + max(width(pair[0]), width(pair[1]))
        if block and (pair is None or used + cell > room):
            rows = ([names[0], *[a for a, _ in block]], [names[1], *[b for _, b in block]])
            lines += [indent + line for line in table(rows, right=[False] * len(rows[0]))]
            block, used = [], 0
        if pair is not None:
            block.append(pair)
            used += cell
    return lines


def readable_bytes(count: int) -> str:
    """90852864 -> "90.9 MB" (decimal units)."""
    value = float(count)
    for unit in ("bytes", "kB", "MB", "GB"):
        if value < 1000:
            return f"{value:.0f} {unit}" if unit == "bytes" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} TB"


def to_json(value: Any) -> str:
    """One JSON object; numbers that JSON does not have (NaN, infinity) become null."""
    return json.dumps(_finite(value), ensure_ascii=True, allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
