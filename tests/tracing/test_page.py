"""docs/tracing.md is true: its Python prints what it says, its links, functions and names exist."""

from __future__ import annotations

import io
import re
from contextlib import redirect_stdout
from typing import Any

import torch

from minitf.tracing import names, recipes
from minitf.tracing.names import INSIDE
from tests.support import REPOSITORY
from tests.tracing.cases import model

PAGE = (REPOSITORY / "docs" / "tracing.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)


def test_the_blocks_run_in_order_and_print_what_their_comments_say() -> None:
    torch.set_num_threads(1)
    scope: dict[str, Any] = {"__name__": "page"}
    checked = 0
    for number, block in enumerate(BLOCKS):
        printed = io.StringIO()
        with redirect_stdout(printed):
            exec(compile(block, f"docs/tracing.md, block {number}", "exec"), scope)
        said = re.findall(r"^ *print\(.*\) *# (.+)$", block, flags=re.MULTILINE)
        lines = printed.getvalue().splitlines()
        assert len(said) == len(lines), f"block {number} prints {lines}"
        for claim, line in zip(said, lines, strict=True):
            assert line == claim or (claim.endswith(" ...") and line.startswith(claim.removesuffix(" ..."))), line
            checked += 1
    assert len(BLOCKS) == 4
    assert checked == 13


def test_the_links_exist() -> None:
    links = [link for link in re.findall(r"\]\(([^)#]+)", PAGE) if "://" not in link]
    assert len(links) >= 2
    assert [link for link in links if not (REPOSITORY / "docs" / link).exists()] == []


def test_the_table_of_recipes_is_the_list_of_recipes() -> None:
    table = PAGE.split("## Recipes")[1].split("```")[0]
    assert sorted(re.findall(r"^\| `(\w+)\(", table, flags=re.MULTILINE)) == sorted(recipes.__all__)


def test_the_names_beside_those_of_transformerlens_exist() -> None:
    table = PAGE.split("## Names in TransformerLens")[1]
    rows = [re.split(r" *\| *", line)[2:4] for line in table.splitlines() if line.startswith("| `")]
    checked = 0
    for family, column, attention in (
        ("gpt2", 0, "transformer.h.3.attn"),
        ("bert", 1, "bert.encoder.layer.3.attention.self"),
    ):
        settings = {"n_layer": 4} if family == "gpt2" else {"num_hidden_layers": 4}
        known = set(names(model(family, **settings), aliases=True))
        for row in rows:
            for name in re.findall(r"`([^`]+)`", row[column]):
                full = re.sub(r"^\.\.\.(attn|self)", attention, name)
                assert full in known, name
                checked += 1
    assert checked == 2 * 19


def test_the_names_inside_attention_are_explained() -> None:
    assert all(f"`.{what}`" in PAGE or f".{what}`" in PAGE for what in INSIDE)
