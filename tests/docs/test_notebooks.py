"""Notebooks are documentation that runs: each is executed, and what is committed reads well without running it."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any

import pytest

from tests.support import REPOSITORY

NOTEBOOKS = sorted((REPOSITORY / "notebooks").glob("*.ipynb"))
# Where files are on the machine of whoever ran it. A path in an output says nothing to a reader and changes each time.
MACHINE_PATH = re.compile(
    r"(?<![\w.])/(?:home|root|tmp|var|usr|opt|work|Users|private)/|[A-Z]:\\\\?Users|site-packages"
)


def read(path: Path) -> Any:
    import nbformat

    return nbformat.read(path, as_version=4)


def code_of(path: Path) -> list[str]:
    return [cell.source for cell in read(path).cells if cell.cell_type == "code"]


def texts_of(outputs: list[Any]) -> list[str]:
    """Everything in the outputs of a cell that is text: streams, results, errors; pictures are left out."""
    found: list[str] = []
    for output in outputs:
        found += [output.get("text", ""), *output.get("traceback", [])]
        found += [str(value) for kind, value in output.get("data", {}).items() if kind.startswith("text/")]
    return found


def test_there_are_notebooks() -> None:
    assert "01_one_forward_by_hand.ipynb" in [path.name for path in NOTEBOOKS]


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_runs(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from nbclient import NotebookClient

    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))  # the kernel runs in a folder of its own
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    notebook = read(path)
    # A failing cell raises CellExecutionError, whose message is the cell and its traceback.
    NotebookClient(
        notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}
    ).execute()
    codes = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in codes] == list(range(1, len(codes) + 1))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_its_committed_outputs_are_those_of_a_clean_run(path: Path) -> None:
    codes = [cell for cell in read(path).cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in codes] == list(range(1, len(codes) + 1)), "run all cells, in order"
    outputs = [output for cell in codes for output in cell.outputs]
    assert outputs, "commit the notebook with its outputs"
    assert all(output.output_type != "error" for output in outputs)
    assert all(output.get("name") != "stderr" for output in outputs), "a warning was printed"
    for text in texts_of(outputs):
        assert "Traceback (most recent call last)" not in text
        assert not MACHINE_PATH.search(text), text


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_uses_the_library_and_redefines_nothing(path: Path) -> None:
    nodes = [node for code in code_of(path) for node in ast.walk(ast.parse(code))]
    imported = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    imported += [node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)]
    assert "minitf" in {name.partition(".")[0] for name in imported}
    assert not [node.name for node in nodes if isinstance(node, ast.ClassDef)]
    assert [node for node in nodes if isinstance(node, ast.Assert)], "claims are asserts"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("/Users/me/x", True),
        ("File /usr/lib/python3", True),
        ("C:\\Users\\me", True),
        ("lib/site-packages/x", True),
        ("encoder.layer.0/var/y", False),
        ("https://arxiv.org/abs/1706.03762", False),
    ],
)
def test_machine_paths_are_recognised(text: str, expected: bool) -> None:
    assert bool(MACHINE_PATH.search(text)) is expected
