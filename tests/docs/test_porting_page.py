"""docs/porting.md and docs/dumps.md are true: their Python runs, their commands work, the C program writes a dump."""

from __future__ import annotations

import io
import json
import re
import shlex
import shutil
import subprocess
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import pytest
import torch

from minitf.cli import main
from minitf.parity.dumps import INPUTS, Dump, NameMap
from minitf.parity.faults import bert_faults
from tests.support import REPOSITORY

PAGES = {name: (REPOSITORY / "docs" / f"{name}.md").read_text(encoding="utf-8") for name in ("porting", "dumps")}


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGES[page], flags=re.DOTALL)


def test_the_guide_runs_and_prints_what_its_comments_say(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.set_num_threads(1)
    monkeypatch.chdir(tmp_path)
    scope: dict[str, Any] = {"__name__": "page"}
    checked = 0
    for number, block in enumerate(blocks("porting", "python")):
        printed = io.StringIO()
        with redirect_stdout(printed):
            exec(compile(block, f"docs/porting.md, block {number}", "exec"), scope)
        lines = printed.getvalue().splitlines()
        said = re.findall(r"^print\(.*\) {2,}# (.+)$|^# (.+)$", block, flags=re.MULTILINE)
        claims = [(beside or below).strip() for beside, below in said]
        assert len(claims) == len(lines), f"block {number} prints {lines}"
        for claim, line in zip(claims, lines, strict=True):
            assert line.startswith(claim.removesuffix("...").rstrip()), f"block {number}"
            checked += 1
    assert checked >= 14

    # The commands of the page, on the files that its Python has written.
    (tmp_path / "names.json").write_text(json.dumps(scope["names"]), encoding="utf-8")
    inside, layers = blocks("porting", "bash")[1], blocks("porting", "bash")[0]
    assert main(shlex.split(inside)[1:]) == 1
    assert "mistake: gelu-by-tanh + scores-scaled-by-width" in capsys.readouterr().out
    (tmp_path / "names.json").write_text('{"embedded": "embeddings.output", "l{}": "encoder.layer.{}.output"}')
    assert main(shlex.split(layers)[1:]) == 1
    assert "first divergence: encoder.layer.0.output" in capsys.readouterr().out
    assert "<title>" in (tmp_path / "layers.html").read_text(encoding="utf-8")


def test_what_the_page_on_dumps_shows_in_python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for block in blocks("dumps", "python"):
        exec(compile(block, "docs/dumps.md", "exec"), {})
    with Dump("port.safetensors") as dump:
        assert dict(dump) == {"transformer.wte.output": (1, 3, 4)}
        assert dump.inputs["input_ids"].tolist() == [[7, 8, 9]]


def test_the_program_in_c_writes_a_dump(tmp_path: Path) -> None:
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        pytest.skip("needs a C compiler")
    (tmp_path / "port.c").write_text(blocks("dumps", "c")[0])
    subprocess.run([compiler, "-Wall", "-Werror", "-o", "port", "port.c"], cwd=tmp_path, check=True)
    subprocess.run([str(tmp_path / "port")], cwd=tmp_path, check=True)
    with Dump(tmp_path / "port.safetensors") as dump:
        assert dict(dump) == {"transformer.wte.output": (1, 3, 4)}
        assert dump.inputs["input_ids"].tolist() == [[7, 8, 9]]
        assert dump.read("transformer.wte.output").flatten()[0] == 1.5


def test_the_name_map_of_the_page_is_one() -> None:
    rows = NameMap(json.loads(blocks("dumps", "json")[0])).applied(["emb", "block3/out", "block0/attn", "milliseconds"])
    assert rows["block3/out"].name == "bert.encoder.layer.3.output"
    assert rows["block0/attn"].axes == (1, 0, 2, 3)
    assert rows["milliseconds"].name is None


def test_names_and_links_exist() -> None:
    named = set(re.findall(r"`(\w+)`", PAGES["dumps"].split("**Inputs**")[1].split("- **`past")[0]))
    assert named <= {*INPUTS}
    assert {"gelu-by-tanh", "scores-scaled-by-width"} <= set(bert_faults.BY_NAME)
    for page, text in PAGES.items():
        links = [link for link in re.findall(r"\]\(([^)#]+)", text) if "://" not in link]
        assert links, page
        assert [link for link in links if not (REPOSITORY / "docs" / link).exists()] == []
