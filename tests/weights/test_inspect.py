"""`python -m weights_tools inspect`: what it prints, what it finds unusual, exit codes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.support import REPOSITORY, minilm_folder, shared_data
from tests.weights.forge import tensors
from weights_tools.__main__ import main
from weights_tools.files import save_checkpoint
from weights_tools.inspection import inspect


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "HF_HUB_OFFLINE": "1"}
    return subprocess.run(
        [sys.executable, "-m", "weights_tools", *arguments], capture_output=True, text=True, env=environment
    )


def test_text_of_a_real_checkpoint() -> None:
    folder = shared_data("checkpoints", "ticket-bert")
    result = command("inspect", str(folder))
    assert (result.returncode, result.stderr) == (0, "")
    lines = result.stdout.splitlines()
    assert lines[:3] == [
        str(folder),
        "  41 tensors, 215,910 numbers, 863.6 kB in 1 safetensors file(s): model.safetensors",
        "  names: hf (no name is of another dialect)",
    ]
    rows = [line.split("  ") for line in lines[4:]]
    cells = [[cell.strip() for cell in row if cell.strip()] for row in rows]
    assert cells[0] == ["name", "shape", "dtype", "size"]
    assert ["bert.embeddings.word_embeddings.weight", "[424, 96]", "float32", "162.8 kB"] in cells
    query = "bert.encoder.layer.{0..1}.attention.self.query.weight"
    assert [query, "[96, 96]", "float32", "36.9 kB x 2"] in cells
    assert "unusual" not in result.stdout


def test_errors_are_one_line_on_stderr(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    (tmp_path / "model.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0{")
    result = command("inspect", str(tmp_path))
    assert (result.returncode, result.stdout) == (1, "")
    errors = [result.stderr]
    for path in (tmp_path / "nothing", "org/name"):
        assert main(["inspect", str(path)]) == 1
        printed = capsys.readouterr()
        assert printed.out == ""
        errors.append(printed.err)
    for error in errors:
        assert error.startswith("error: ")
        assert error.count("\n") == 1


def test_wrong_calls() -> None:
    for arguments in ([], ["inspect"], ["inspct", "x"], ["inspect", "x", "--colour"]):
        with pytest.raises(SystemExit) as stopped:
            main(arguments)
        assert stopped.value.code == 2


def test_help_does_not_import_torch() -> None:
    code = (
        "import sys; from weights_tools.__main__ import main\n"
        "try: main(['inspect', '--help'])\n"
        "except SystemExit as stop: assert stop.code == 0\n"
        "assert 'torch' not in sys.modules and 'numpy' not in sys.modules"
    )
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert (result.returncode, result.stderr) == (0, "")
    assert "--values" in result.stdout


def test_closed_pipe() -> None:
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    line = f"{sys.executable} -m weights_tools inspect '{minilm_folder()}' --names | head -1"
    result = subprocess.run(["bash", "-c", line], capture_output=True, text=True, env=environment)
    assert result.stderr == ""


def test_json(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    save_checkpoint(tmp_path, tensors())
    assert main(["inspect", str(tmp_path), "--json"]) == 0
    content = json.loads(capsys.readouterr().out)
    assert content["parameters"] == 72
    assert content["total_bytes"] == 288
    assert content["tensors"]["pooler.dense.bias"] == {
        "shape": [4],
        "dtype": "float32",
        "nbytes": 16,
        "file": "model.safetensors",
    }
    assert content["problems"] == []
    assert content["remarks"] == ["there is no config.json beside the weights"]


def test_names(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    save_checkpoint(tmp_path, tensors())
    main(["inspect", str(tmp_path)])
    folded = capsys.readouterr().out
    assert "encoder.layer.{0..1}.attention.self.query.weight" in folded
    assert folded.endswith("\n\n{...} stands for several names: --names lists every name\n")
    main(["inspect", str(tmp_path), "--names"])
    printed = capsys.readouterr().out
    assert "--names" not in printed
    assert all(printed.count(f"  {name} ") == 1 for name in tensors())


def test_nothing_folded_needs_no_hint(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    save_checkpoint(tmp_path, {"pooler.dense.weight": torch.ones(4, 4)})
    main(["inspect", str(tmp_path)])
    assert "--names" not in capsys.readouterr().out


def findings(folder: Path, state: dict[str, torch.Tensor], config: dict | None = None, *, values: bool = False):
    save_checkpoint(folder, state)
    if config is not None:
        (folder / "config.json").write_text(json.dumps(config))
    with (found := inspect(folder, values=values)).checkpoint:
        return found.problems, found.remarks


FINE = {"vocab_size": 7, "hidden_size": 4, "num_hidden_layers": 2}


def test_nothing_unusual(tmp_path: Path) -> None:
    assert findings(tmp_path, tensors(), FINE, values=True) == ([], [])


@pytest.mark.parametrize(
    ("change", "remark"),
    [
        (
            {"embeddings.position_ids": torch.arange(3)},
            "embeddings.position_ids: a constant (0, 1, 2, ...), not a weight",
        ),
        (
            {"pooler.LayerNorm.gamma": torch.ones(4)},
            "older or foreign names (hf-legacy): 'pooler.LayerNorm.gamma' and 0 more names say gamma or beta",
        ),
        (
            {"pooler.dense.weight": torch.ones(4, 4, dtype=torch.float16)},
            "weights of different dtypes: float32 (6), float16 (1: pooler.dense.weight)",
        ),
        ({"module.x": torch.ones(1)}, "1 name(s) begin with 'module', which no BERT or GPT-2 class has"),
        ({"pooler.nothing": torch.ones(0)}, "tensors without any number: pooler.nothing"),
        ({"pooler.zero": torch.zeros(3)}, "all numbers are zero in pooler.zero"),
    ],
)
def test_remarks(tmp_path: Path, change: dict, remark: str) -> None:
    assert findings(tmp_path, tensors() | change, FINE, values=True) == ([], [remark])


@pytest.mark.parametrize(
    ("change", "config", "problem"),
    [
        ({"pooler.dense.weight": torch.ones(4, 4, dtype=torch.int8)}, {}, "'pooler.dense.weight (int8)'"),
        (
            {"pooler.x": torch.tensor([1.0, float("nan"), float("inf")])},
            {},
            "pooler.x holds 1 NaN and 1 infinite value(s) of 3",
        ),
        ({}, {"vocab_size": 8}, "says vocab_size = 8, embeddings.word_embeddings.weight has [7, 4]"),
        ({}, {"hidden_size": "4"}, "says hidden_size = '4', embeddings.word_embeddings.weight has [7, 4]"),
        ({}, {"num_hidden_layers": 12}, "says num_hidden_layers = 12, the weights have 2"),
    ],
)
def test_problems(tmp_path: Path, change: dict, config: dict, problem: str) -> None:
    problems, _ = findings(tmp_path, tensors() | change, FINE | config, values=True)
    assert len(problems) == 1
    assert problem in problems[0]
    assert main(["inspect", str(tmp_path), "--values"]) == 1


@pytest.mark.parametrize("text", ["{", "[]", "\xff"])
def test_unreadable_config(tmp_path: Path, text: str) -> None:
    save_checkpoint(tmp_path, tensors())
    (tmp_path / "config.json").write_bytes(text.encode("latin-1"))
    with (found := inspect(tmp_path)).checkpoint:
        assert found.problems[0].startswith("config.json cannot be read: ")


def test_both_formats(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, tensors(), format="pytorch")
    _, remarks = findings(tmp_path, tensors(), FINE)
    assert remarks == ["model.safetensors and pytorch_model.bin are present: model.safetensors is used"]


def test_eight_bit_values(tmp_path: Path) -> None:
    state = {name: tensor.to(torch.float8_e4m3fn) for name, tensor in tensors().items()}
    assert findings(tmp_path, state, FINE, values=True) == ([], [])
