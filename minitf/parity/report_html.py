"""A comparison as one HTML page: no script, nothing from the network, light and dark."""

from __future__ import annotations

import math
from html import escape
from typing import TYPE_CHECKING

from minitf.parity.report_text import HEAD, cells, first_text

if TYPE_CHECKING:
    from minitf.parity.compare import Comparison, Row

__all__ = ["comparison_page"]

STYLE = """
:root { color-scheme: light dark; --ok: light-dark(#1a7f37, #57ab5a); --bad: light-dark(#b42318, #ff7b72);
  --soft: light-dark(#f4f4f5, #232329); --line: light-dark(#dcdce0, #3a3a42); --quiet: light-dark(#62626b, #a0a0aa); }
body { font: 14px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 84rem; padding: 0 1.5rem; }
h1 { font-size: 1.3rem; margin: 0 0 .2rem; } .sides { color: var(--quiet); margin: 0 0 1.2rem; }
.verdict { background: var(--soft); border-left: 4px solid var(--ok); padding: .8rem 1rem; white-space: pre-wrap;
  font: 13px/1.5 ui-monospace, monospace; overflow-wrap: anywhere; }
.diverges .verdict { border-color: var(--bad); }
.wide { overflow-x: auto; margin-top: 1.2rem; }
table { border-collapse: collapse; font: 12.5px/1.5 ui-monospace, monospace; width: 100%; }
th { text-align: left; color: var(--quiet); font-weight: 600; } th, td { padding: .15rem .7rem; white-space: nowrap; }
td, th { border-bottom: 1px solid var(--line); } .number { text-align: right; }
.ok .status { color: var(--ok); } .mismatch .status, .shape .status { color: var(--bad); font-weight: 600; }
.missing { color: var(--quiet); } .first td { background: light-dark(#fdecea, #40211f); }
.bar { display: inline-block; height: .55rem; background: var(--ok); vertical-align: middle; }
.mismatch .bar { background: var(--bad); } .track { width: 9rem; }
"""
KINDS = ("", ' class="status"', *[' class="number"'] * 5, "")
LONGEST = 8.0  # a bar is full at 10 ** LONGEST noise floors


def comparison_page(found: Comparison) -> str:
    """The whole page; every row of the table, with a bar for the logarithm of its distance in noise floors."""
    head = "".join(f"<th{kind}>{escape(title)}</th>" for kind, title in zip(KINDS, HEAD, strict=True))
    rows = "\n".join(_row(row, found) for row in found.rows)
    state = "diverges" if found.diverges else "agrees"
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(found.other)}: {state}</title>\n<style>{STYLE}</style>\n</head>\n"
        f'<body class="{state}">\n<h1>{escape(found.other)} against {escape(found.reference)}</h1>\n'
        f'<p class="sides">{escape(found.dtype)}; a value agrees within {found.margin:g} noise floors</p>\n'
        f'<div class="verdict">{escape(chr(10).join(first_text(found)))}</div>\n'
        f'<div class="wide"><table>\n<thead><tr>{head}<th>noise floors, logarithmic</th></tr></thead>\n'
        f"<tbody>\n{rows}\n</tbody>\n</table></div>\n</body>\n</html>\n"
    )


def _row(row: Row, found: Comparison) -> str:
    shown = cells(row)
    first = " first" if found.first is not None and row.name == found.first.name else ""
    columns = "".join(f"<td{kind}>{escape(cell)}</td>" for kind, cell in zip(KINDS, shown, strict=True))
    ratio = row.ratio
    length = 0.0 if not ratio else 1.0 if math.isinf(ratio) else min(max(math.log10(ratio * 10) / LONGEST, 0.0), 1.0)
    bar = f'<span class="bar" style="width:{100 * length:.0f}%"></span>'
    return f'<tr class="{row.status}{first}">{columns}<td class="track">{bar}</td></tr>'
