"""`minitf verify`: what it prints, its JSON, its exit codes, wrong calls."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

import minitf
from minitf import cli
from tests.parity.bert_pairs import TINY
from tests.support import minilm_folder, randomise_


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    place = tmp_path_factory.mktemp("checkpoint") / "tiny-bert"
    randomise_(minitf.BertForMaskedLM(minitf.BertConfig(**TINY))).save_pretrained(place)
    return str(place)


def call(capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[int, str, str]:
    code = cli.main(argv)
    out, err = capsys.readouterr()
    assert "Traceback" not in out + err
    return code, out, err


class Terminal(io.StringIO):
    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


def test_the_table_and_the_statement(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = call(capsys, "verify", str(minilm_folder()), "--quick")
    assert (code, err) == (0, "")
    table, _, statement = out.partition("\n\n")
    assert table.splitlines()[0].split()[:3] == ["check", "class", "dtype"]
    assert [line.split()[0] for line in table.splitlines()[1:]] == [
        "weights",
        "forward",
        "cache",
        "an",
        *["tokenizer"] * 2,
    ]
    lines = statement.splitlines()
    assert lines[0].startswith(f"PARITY: minitf {minitf.__version__} and transformers 5.")
    assert "threads: 1" in lines[0]
    assert lines[1] == "checkpoint: model"
    assert lines[2].startswith("  model.safetensors sha256 53aa51172d142c89")
    assert "worst row: none, every compared row is identical" in lines
    assert str(minilm_folder()) not in out


def test_json_and_the_settings(capsys: pytest.CaptureFixture[str], folder: str) -> None:
    numbers = ("--tokens", "9", "--batch", "2", "--seed", "5", "--threads", "2")
    options = ("--class", "BertForMaskedLM", "--dtype", "float64", "--dtype", "float32", *numbers, "--json")
    code, out, err = call(capsys, "verify", folder, *options)
    assert (code, err) == (0, "")
    answer = json.loads(out)
    assert answer["ok"] is True
    assert answer["checkpoint"] == "tiny-bert"
    assert answer["settings"] == {
        "classes": ["BertForMaskedLM"],
        "dtypes": ["float64", "float32"],
        "attention": ["eager", "sdpa"],
        "padding": ["none", "right", "left"],
        "tokens": 9,
        "batch": 2,
        "seed": 5,
        "threads": 2,
    }
    assert sum(row["check"] == "forward" for row in answer["rows"]) == 2 * 2 * 3
    assert answer["statement"].startswith("PARITY: ")


def test_a_difference_is_exit_code_1_after_the_report(
    capsys: pytest.CaptureFixture[str], folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    load = minitf.BertForMaskedLM.from_pretrained.__func__
    planted = classmethod(lambda cls, place, **settings: load(cls, place, **settings, hidden_act="gelu_new"))
    monkeypatch.setattr(minitf.BertForMaskedLM, "from_pretrained", planted)
    code, out, err = call(capsys, "verify", folder, "--quick")
    assert (code, err) == (1, "")
    assert "NO PARITY: " in out
    assert out.count("first in hidden_states[1] at [0, 0, ") == 3  # two rows, and the worst of them again
    code, out, _ = call(capsys, "verify", folder, "--quick", "--json")
    assert code == 1
    assert json.loads(out)["ok"] is False


def test_progress_on_a_terminal_only(
    capsys: pytest.CaptureFixture[str], folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    screen = Terminal()
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stderr", screen)
        assert cli.main(["verify", folder, "--quick"]) == 0
    assert "BertForMaskedLM weights float32" in screen.getvalue()
    assert screen.getvalue().rstrip(" ").endswith("\r")  # and it is wiped out
    out, err = capsys.readouterr()
    assert err == ""
    assert "PARITY: " in out


@pytest.mark.parametrize(
    ("argv", "code", "words"),
    [
        ((), 2, "required: FOLDER"),
        (("FOLDER", "--dtype", "float8"), 2, "invalid choice: 'float8'"),
        (("FOLDER", "--tokens", "0"), 2, "'0' is not a number of 1 or more"),
        (("FOLDER", "--tokens", "1"), 2, "tokens = 1: expected an integer of 2 or more"),
        (("FOLDER", "--tokens", "41"), 2, "tokens = 41, but this model reads 40"),
        (("FOLDER", "--seed", "-1"), 2, "'-1' is not a number of 0 or more"),
        (
            ("FOLDER", "--class", "BertForMaskLM"),
            2,
            "class 'BertForMaskLM': this checkpoint is a bert; expected one of",
        ),
        (("FOLDER", "--fast"), 2, "no option --fast"),
        (("FOLDER", "--class", "BertForTokenClassification"), 2, "the file does not hold classifier.{weight,bias}"),
        (("FOLDER", "--dialect", "elvish"), 1, "elvish"),
        (("nofolder",), 1, "'nofolder': no such folder, and no model of that name in the local hub cache"),
        ((".",), 1, "config.json"),
    ],
)
def test_wrong_calls(
    argv: Sequence[str], code: int, words: str, capsys: pytest.CaptureFixture[str], folder: str
) -> None:
    found, out, err = call(capsys, "verify", *(folder if word == "FOLDER" else word for word in argv))
    assert (found, out) == (code, "")
    assert err.startswith("error: ")
    assert words in err


def test_without_transformers(capsys: pytest.CaptureFixture[str], folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    code, out, err = call(capsys, "verify", folder)
    assert (code, out) == (1, "")
    assert "pip install transformers" in err


def test_the_top_lists_it(capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = call(capsys, "--help")
    assert "verify" in out
    _, out, _ = call(capsys, "verify", "--help")
    assert "statement that can be pasted in an issue" in out


def test_any_folder_of_the_hub_cache(
    capsys: pytest.CaptureFixture[str], folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    snapshot = tmp_path / "models--someone--tiny" / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    for file in Path(folder).iterdir():
        (snapshot / file.name).write_bytes(file.read_bytes())
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    code, out, _ = call(capsys, "verify", "someone/tiny", "--quick")
    assert code == 0
    assert "checkpoint: someone/tiny\n" in out
