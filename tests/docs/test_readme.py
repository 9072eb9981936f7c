"""The README is true: its Python runs, its links exist, its table names every class, its commands are real."""

from __future__ import annotations

import io
import re
from contextlib import redirect_stdout
from pathlib import Path

import pytest

import minitf
from minitf.models import bert
from tests.support import REPOSITORY

README = (REPOSITORY / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)


@pytest.mark.parametrize("number", range(len(BLOCKS)))
def test_python_blocks_run_and_print_what_their_comments_say(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # some write files
    block = BLOCKS[number]
    printed = io.StringIO()
    with redirect_stdout(printed):
        exec(compile(block, f"README.md, Python block {number}", "exec"), {"__name__": "readme"})
    claims = re.findall(r"^print\(.*?\)\s+# (torch\.Size.*|BertModel\(.*|\{.*)$", block, flags=re.MULTILINE)
    for claim in claims:
        assert claim.strip() in printed.getvalue()
    assert len(claims) >= 1


def test_there_are_python_blocks() -> None:
    assert len(BLOCKS) >= 2


def test_relative_links_exist() -> None:
    links = [link for link in re.findall(r"\]\(([^)#]+)", README) if "://" not in link]
    assert len(links) > 10
    assert [
        link for link in links if not (REPOSITORY / link).exists() and not (REPOSITORY / "minitf" / link).exists()
    ] == []


def test_the_class_table_is_complete() -> None:
    public = {name for name in bert.__all__ if name != "BertPreTrainedModel"}
    assert set(re.findall(r"^\| `(Bert\w+)` \|", README, flags=re.MULTILINE)) == public
    assert all(hasattr(minitf, name) for name in public)


def test_the_blocks_that_ci_runs_are_there() -> None:
    script = (REPOSITORY / ".ci" / "run").read_text(encoding="utf-8")
    for name in ("run", "test"):
        assert f"readme_block {name}" in script
        assert re.search(rf"<!-- ci: {name} -->\n```bash\n.+?```", README, flags=re.DOTALL)
    assert ".venv/bin/python -m pytest\n" in README


def test_no_placeholder_is_left_and_every_figure_names_its_command() -> None:
    assert not re.search(r"^[A-Z]{4,}$", README, flags=re.MULTILINE)
    table = README.split("| what | command | measured |")[1].split("\n\n")[0]
    commands = re.findall(r"`python (benchmarks/\w+\.py)`", table)
    assert len(commands) >= 5
    assert all((REPOSITORY / command).is_file() for command in commands)
