"""A comparison, and a diagnosis, as text for a terminal."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from minitf.parity.compare import Comparison, Row
    from minitf.parity.diagnose import Diagnosis

__all__ = ["HEAD", "cells", "comparison_text", "diagnosis_text", "first_text", "number"]

HEAD = ("name", "status", "max abs", "rel. L2", "ULP", "x floor", "alone", "worst element")
AROUND = (6, 10)  # rows that are printed before and after the first divergence of a long table
LONG = 40


def number(value: float | None) -> str:
    """Three digits; "" for None."""
    return "" if value is None else f"{value:.3g}"


def cells(row: Row) -> tuple[str, ...]:
    """One line of the table, under `HEAD`."""
    if row.apart is None:
        ours, theirs = ("missing" if shape is None else str(list(shape)) for shape in row.shapes)
        return (row.name, row.status, "", "", "", "", "", f"{ours} / {theirs}")
    apart = row.apart
    where = ""
    if row.status != "ok":
        where = f"{list(apart.position)}: {apart.found:.6g}, expected {apart.expected:.6g}"
    measures = (apart.max_abs, apart.relative_l2, apart.ulp, row.ratio, row.own_ratio)
    return (row.name, row.status, *map(number, measures), where)


def first_text(found: Comparison) -> list[str]:
    """The conclusion, in sentences."""
    count = sum(row.status == "ok" for row in found.rows)
    lines = []
    if found.first is None:
        lines.append(f"no divergence: {count} of {len(found.rows)} values agree within {found.margin:g} noise floors")
    else:
        first = found.first
        lines.append(f"first divergence: {first.name}")
        lines.append(f"  computed by:     {first.operation}")
        lines.append(f"  agrees up to:    {first.after or 'nothing before it was compared'}")
        if first.between:
            lines.append("  dump these next, to see which step in between it is:")
            lines += [f"    {name}" for name in first.between]
        others = [name for name in found.wrong if name != first.name]
        if others:
            lines.append("wrong by themselves too, given the port's own inputs:")
            lines += [f"    {name}" for name in others[:12]]
            lines += [f"    ... and {len(others) - 12} more"] if len(others) > 12 else []
    missing = sum(row.status == "missing" for row in found.rows)
    if missing:
        lines.append(f"missing on one side: {missing} of {len(found.rows)} names")
    return [*lines, *found.notes]


def shown(found: Comparison) -> tuple[Sequence[Row], int]:
    """The rows of a table that fits a screen, and how many are left out."""
    rows = found.rows
    if len(rows) <= LONG:
        return rows, 0
    names = [row.name for row in rows]
    place = names.index(found.first.name) if found.first is not None else 0
    start = max(place - AROUND[0], 0)
    part = rows[start : start + sum(AROUND)]
    return part, len(rows) - len(part)


def comparison_text(found: Comparison) -> list[str]:
    """Header, table, conclusion."""
    from minitf.cli_output import table

    rows, left_out = shown(found)
    lines = [f"reference: {found.reference}", f"port:      {found.other} ({found.dtype})", ""]
    lines += table([HEAD, *map(cells, rows)], right=[False, False, True, True, True, True, True, False])
    if left_out:
        lines.append(f"... {left_out} more rows: to_dict() (--json) and the HTML page have them all")
    return [*lines, "", *first_text(found)]


def diagnosis_text(found: Diagnosis, top: int = 5) -> list[str]:
    """The verdict with its remedy, then the nearest `top` candidates."""
    from minitf.cli_output import table

    lines = [f"reference: {found.reference}", f"port:      {found.other} ({found.dtype}), {found.values} values", ""]
    if found.verdict == "no mistake":
        lines.append(f"no mistake: the reference reproduces every value (worst: {number(found.distance)} noise floors)")
    elif found.verdict == "none of these":
        lines += [
            "none of these: no known mistake, alone or with another, gives these numbers",
            f"  the sound reference is {number(found.distance)} noise floors away; the nearest are below",
            "  `minitf compare` shows where the port first diverges",
        ]
    for number_of, one in enumerate(found.best):
        tied = "or " if number_of else ""
        certain = "likely " if one.mark else ""
        lines.append(f"{tied}{certain}mistake: {' + '.join(one.names)}")
        lines.append(f"  what:   {one.what}")
        lines.append(f"  remedy: {one.remedy}")
        if one.mark:
            lines.append(f"  mark:   {one.mark} (its numbers are random, so they cannot be reproduced)")
    if len(found.best) > 1:
        lines.append("these compute the same on this input")
    if found.ratio is not None:
        best = found.best[0]
        lines += [
            f"  reproduces {best.agreeing} of {found.values} values, with all {len(found.decisive)} decisive ones",
            f"  (worst: {number(best.distance)} floors); without them the next is {number(found.ratio)} times as far",
        ]
    rows = [
        (" + ".join(one.names), number(one.distance), f"{one.agreeing}/{found.values}", one.worst)
        for one in found.ranked[:top]
    ]
    if rows:
        head = ("candidate", "worst, in floors", "agreeing", "worst value")
        lines += ["", *table([head, *rows], right=[False, True, True, False])]
    if found.unseen:
        unseen = f"not decided, since these {len(found.unseen)} change nothing here: {', '.join(found.unseen)}"
        lines += ["", *textwrap.wrap(unseen, 120, subsequent_indent="  ", break_on_hyphens=False)]
    return [*lines, *found.notes]
