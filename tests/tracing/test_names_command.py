"""`minitf names`: what it lists, in letters and numbers, as text and JSON, and its errors."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from minitf import GPT2LMHeadModel, cli
from minitf.tracing import captured, names
from tests.support import REPOSITORY, minilm_folder
from tests.tracing.cases import model


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny GPT-2."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("names")
    model("gpt2").save_pretrained(folder)
    return folder


def test_every_name_has_its_place_and_shape(capsys: pytest.CaptureFixture[str], gpt2: Path) -> None:
    assert cli.main(["names", str(gpt2), "--tokens", "5", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    net = GPT2LMHeadModel.from_pretrained(gpt2)
    _, step = captured(net, torch.tensor([[1, 2, 3, 4, 5]]), "all")
    assert [(row["name"], tuple(row["shape"])) for row in facts["names"]] == [
        (name, tuple(value.shape)) for name, value in step.items()
    ]
    assert sum(row["bytes"] for row in facts["names"]) == sum(v.numel() * v.element_size() for v in step.values())
    assert facts["class"] == "GPT2LMHeadModel"
    assert facts["aliases"]["layer.1.resid_mid"] == "transformer.h.1.resid_mid"


def test_layers_are_folded_and_a_line_is_a_pattern(capsys: pytest.CaptureFixture[str], gpt2: Path) -> None:
    assert cli.main(["names", str(gpt2)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "GPT2LMHeadModel: 74 names, in the order of execution of one text"
    assert lines[1] == "B batch, T tokens, S key positions (T and the cache's)"
    rows = [line.split("  ") for line in lines[3 : lines.index("aliases") - 1]]
    assert [row[-1].strip() for row in rows if row[0].endswith(".attn.scores")] == ["[B, 4, T, S]"]
    net = GPT2LMHeadModel.from_pretrained(gpt2)
    found = [name for row in rows for name in names(net, row[0].strip())]
    assert len(found) == len(set(found)) == 74
    assert "layer.{0..1}.resid_post  = transformer.h.{0..1}.output" in lines


def test_a_pattern_with_numbers(capsys: pytest.CaptureFixture[str]) -> None:
    pattern = "layer.{0,5}.resid_post"
    assert cli.main(["names", str(minilm_folder()), "--pattern", pattern, "--tokens", "128"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "BertModel: 2 names, in the order of execution of one text of 128 tokens",
        "",
        "layer.{0,5}.resid_post  [1, 128, 384]  393.2 kB",
        "together                               393.2 kB",
    ]


@pytest.mark.parametrize(
    ("more", "message", "code"),
    [
        (["--pattern", "layer.{0..2}.resid_pre"], "'layer.2.resid_pre' (of 'layer.{0..2}.resid_pre') matches no", 1),
        (["--tokens", "41"], "--tokens 41: this model has 40 positions (max_position_embeddings)", 1),
        (["--tokens", "0"], "'0' is not a number of 1 or more", 2),
        (["--token", "3"], "no option --token, did you mean --tokens?", 2),
    ],
)
def test_errors(capsys: pytest.CaptureFixture[str], gpt2: Path, more: list[str], message: str, code: int) -> None:
    assert cli.main(["names", str(gpt2), *more]) == code
    said = capsys.readouterr()
    assert message in said.err
    assert said.out == ""


def test_help_comes_without_torch() -> None:
    code = "import sys; from minitf.cli import main; main(['names', '--help']); assert 'torch' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=REPOSITORY, check=False)
    assert done.returncode == 0, done.stderr
    assert "--pattern" in done.stdout
