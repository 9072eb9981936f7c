"""The `minitf` command: what it prints, its numbers, its errors. In this process, but for what only a process shows."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from minitf import __version__, cli
from minitf.cli_output import above_each_other, escaped, padded, readable_bytes, shortened, table, to_json, width
from minitf.cli_run import pool
from minitf.config import BertConfig
from minitf.loading import LoadError
from minitf.models.bert import BertModel
from minitf.tokenization import BertTokenizer
from tests.support import REPOSITORY, minilm_folder, shared_data

TEXTS = [
    "A man is eating food.",
    "Someone has a meal.",
    "遇见被老师提问问题",
    "",
    "The stock market fell sharply today.",
]


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def folder() -> str:
    return str(minilm_folder())


@pytest.fixture(scope="module")
def expected() -> dict[str, torch.Tensor]:
    """What the library gives for TEXTS in one padded batch."""
    batch = BertTokenizer.from_pretrained(minilm_folder())(TEXTS, padding=True, return_tensors="pt")
    with torch.inference_mode():
        output = BertModel.from_pretrained(minilm_folder())(**batch)
    return {**batch, "last_hidden_state": output.last_hidden_state, "pooler_output": output.pooler_output}


def mean(expected: dict[str, torch.Tensor]) -> np.ndarray:
    """Mean pooling written out, text by text, without the padding, in float64."""
    rows = zip(expected["last_hidden_state"], expected["attention_mask"], strict=True)
    return np.stack([hidden[mask.bool()].double().mean(0).numpy() for hidden, mask in rows])


def call(capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[int, str, str]:
    code = cli.main(argv)
    out, err = capsys.readouterr()
    assert "Traceback" not in out + err
    return code, out, err


def feed(monkeypatch: pytest.MonkeyPatch, content: bytes) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))


def test_readable_listing(capsys: pytest.CaptureFixture[str], folder: str) -> None:
    code, out, err = call(capsys, "run", folder, *TEXTS)
    assert (code, err) == (0, "")
    assert "last_hidden_state [5, 11, 384]  pooler_output [5, 384]  pooled [5, 384]" in out
    lines = out.splitlines()
    assert "text 1 (8 tokens): A man is eating food." in lines
    pieces = lines.index("text 1 (8 tokens): A man is eating food.") + 1
    assert lines[pieces].split() == ["pieces", "[CLS]", "a", "man", "is", "eating", "food", ".", "[SEP]"]
    assert lines[pieces + 1].split() == ["ids", "101", "1037", "2158", "2003", "5983", "2833", "1012", "102"]
    assert lines[pieces].index("eating") == lines[pieces + 1].index("5983")
    assert "text 3 (11 tokens, 9 unknown to the vocabulary): 遇见被老师提问问题" in lines
    matrix = lines[lines.index("cosine similarity") + 2 :]
    assert [line.split()[0] for line in matrix] == ["1", "2", "3", "4", "5"]
    assert len({width(line) for line in matrix}) == 1  # aligned, wide characters too
    paraphrase, unrelated = float(matrix[0].split()[-4]), float(matrix[0].split()[-1])
    assert paraphrase > 0.6 > 0.2 > unrelated


def test_json_holds_the_numbers_of_the_library(
    capsys: pytest.CaptureFixture[str], folder: str, expected: dict[str, torch.Tensor]
) -> None:
    code, out, err = call(capsys, "run", folder, "--json", *TEXTS)
    assert (code, err) == (0, "")
    answer = json.loads(out)
    assert [row["text"] for row in answer["texts"]] == TEXTS
    assert answer["texts"][0]["input_ids"] == [101, 1037, 2158, 2003, 5983, 2833, 1012, 102]
    assert answer["texts"][3]["tokens"] == ["[CLS]", "[SEP]"]
    assert answer["shapes"]["last_hidden_state"] == [5, 11, 384]
    assert answer["model"] == {
        "folder": folder,
        "class": "BertModel",
        "layers": 6,
        "hidden_size": 384,
        "parameters": 22713216,
        "dtype": "float32",
        "device": "cpu",
        "attention": "sdpa",
    }
    pooled = np.array([row["pooled"] for row in answer["texts"]])
    assert np.array_equal(pooled, pooled.astype(np.float32))  # every float32 reads back as itself
    np.testing.assert_allclose(pooled, mean(expected), atol=1e-6)
    unit = mean(expected) / np.linalg.norm(mean(expected), axis=1, keepdims=True)
    np.testing.assert_allclose(answer["cosine_similarity"], unit @ unit.T, atol=1e-5)


def test_cls_pooling_and_npz(
    capsys: pytest.CaptureFixture[str], folder: str, expected: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    target = tmp_path / "out.bin"  # the name is taken as it is
    code, out, _ = call(capsys, "run", folder, "--pooling", "cls", "--npz", str(target), *TEXTS)
    assert code == 0
    assert f"wrote {target}" in out
    assert [path.name for path in tmp_path.iterdir()] == ["out.bin"]
    with np.load(target, allow_pickle=False) as arrays:
        assert set(arrays) == {"input_ids", "attention_mask", "last_hidden_state", "pooler_output", "pooled", "texts"}
        for name in ("input_ids", "attention_mask", "last_hidden_state", "pooler_output"):
            assert np.array_equal(arrays[name], expected[name].numpy()), name
        assert np.array_equal(arrays["pooled"], expected["last_hidden_state"][:, 0].numpy())
        assert arrays["texts"].tolist() == TEXTS


def test_batches_give_the_same_arrays(
    capsys: pytest.CaptureFixture[str], folder: str, expected: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    target = tmp_path / "out.npz"
    code, _, err = call(capsys, "run", folder, "--batch-size", "2", "--npz", str(target), *TEXTS)
    assert (code, err) == (0, "")  # no progress bar where stderr is no terminal
    with np.load(target) as arrays:
        np.testing.assert_allclose(arrays["last_hidden_state"], expected["last_hidden_state"].numpy(), atol=1e-5)
        np.testing.assert_allclose(arrays["pooled"], mean(expected), atol=1e-5)


def test_no_pooling(capsys: pytest.CaptureFixture[str], folder: str, expected: dict[str, torch.Tensor]) -> None:
    _, out, _ = call(capsys, "run", folder, "--pooling", "none", "--json", *TEXTS)
    answer = json.loads(out)
    assert answer["cosine_similarity"] is None
    assert "pooled" not in answer["shapes"]
    for row, hidden, mask in zip(
        answer["texts"], expected["last_hidden_state"], expected["attention_mask"], strict=True
    ):
        assert np.array_equal(np.array(row["token_vectors"], np.float32), hidden[mask.bool()].numpy())
    _, out, _ = call(capsys, "run", folder, "--pooling", "none", *TEXTS)
    assert "vector of the first token" in out
    assert "cosine" not in out


def test_attention_and_dtype(capsys: pytest.CaptureFixture[str], folder: str, tmp_path: Path) -> None:
    target = str(tmp_path / "out.npz")
    _, out, _ = call(capsys, "run", folder, "--attn", "eager", "--dtype", "float64", "--npz", target, "--json", "a b")
    facts = json.loads(out)["model"]
    assert (facts["attention"], facts["dtype"]) == ("eager", "float64")
    with np.load(target) as arrays:
        assert arrays["last_hidden_state"].dtype == arrays["pooled"].dtype == np.float64
    _, out, _ = call(capsys, "run", folder, "--dtype", "bfloat16", "--npz", target, "--json", "a b")
    with np.load(target) as arrays:
        assert arrays["last_hidden_state"].dtype == arrays["pooled"].dtype == np.float32


@pytest.mark.parametrize("side", ["right", "left"])
def test_pooling_leaves_padding_out(side: str) -> None:
    hidden = torch.arange(24, dtype=torch.float16).reshape(2, 3, 4)
    mask = torch.tensor([[1, 1, 1], [1, 0, 0] if side == "right" else [0, 0, 1]])
    only = hidden[1, 0 if side == "right" else 2].float()
    assert torch.equal(pool(hidden, mask, "mean"), torch.stack([hidden[0].float().mean(0), only]))
    assert torch.equal(pool(hidden, mask, "cls"), torch.stack([hidden[0, 0].float(), only]))
    assert pool(hidden, mask, "mean").dtype == torch.float32


def test_texts_from_stdin_and_file(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, folder: str, tmp_path: Path
) -> None:
    path = tmp_path / "texts.txt"
    path.write_bytes("\ufeffone\r\n\n中文 two\u2028still".encode())
    feed(monkeypatch, b"from stdin\n  \n")
    code, out, _ = call(capsys, "run", folder, "first", "-", "--json", "--file", str(path))
    assert code == 0
    texts = [row["text"] for row in json.loads(out)["texts"]]
    assert texts == ["first", "from stdin", "  ", "one", "", "中文 two\u2028still"]
    feed(monkeypatch, b"x\n")
    _, out, _ = call(capsys, "run", folder, "--file", "-", "--json")
    assert [row["text"] for row in json.loads(out)["texts"]] == ["x"]


def test_options_may_stand_between_texts(capsys: pytest.CaptureFixture[str], folder: str) -> None:
    code, out, _ = call(capsys, "run", "--json", folder, "a", "--pooling", "cls", "b", "--", "-c")
    assert code == 0
    assert [row["text"] for row in json.loads(out)["texts"]] == ["a", "b", "-c"]


def test_long_texts(capsys: pytest.CaptureFixture[str], folder: str) -> None:
    text = "a " * 600
    code, out, err = call(capsys, "run", folder, "short", text)
    assert (code, out) == (1, "")
    assert err.startswith("error: text 2 (a a a")
    assert "has 602 tokens; this model reads 512: pass --truncate" in err
    code, out, err = call(capsys, "run", folder, "--truncate", text)
    assert (code, err) == (0, "")
    assert "text 1 (512 tokens, shortened)" in out
    assert "(481 more)" in out
    assert max(width(line) for line in out.splitlines()) <= 100


def test_many_texts_are_shortened(capsys: pytest.CaptureFixture[str], folder: str) -> None:
    code, out, _ = call(capsys, "run", folder, *[f"text number {n}" for n in range(15)])
    assert code == 0
    assert "... and 3 more texts (--json or --npz hold them all)" in out
    assert "text 13" not in out


def test_a_text_cannot_steer_the_terminal(capsys: pytest.CaptureFixture[str], folder: str) -> None:
    _, out, _ = call(capsys, "run", folder, "a\x1b[31mred\u202eb", "x\ny")
    assert "\x1b" not in out
    assert "\u202e" not in out
    assert r"a\x1b[31mred\u202eb" in out
    assert r"x\ny" in out


def test_not_finite_values_are_said_and_json_stays_valid(
    capsys: pytest.CaptureFixture[str], folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    forward = BertModel.forward

    def broken(self: Any, *args: Any, **kwargs: Any) -> Any:
        output = forward(self, *args, **kwargs)
        output.last_hidden_state[1] = float("nan")
        return output

    monkeypatch.setattr(BertModel, "forward", broken)
    code, out, err = call(capsys, "run", folder, "--json", "a", "b")
    assert code == 0
    assert err == "warning: NaN or infinite values for text 2; try --dtype float32\n"
    assert json.loads(out)["texts"][1]["pooled"][0] is None


# info and env


def test_info(capsys: pytest.CaptureFixture[str], folder: str) -> None:
    code, out, err = call(capsys, "info", folder + "/")
    assert (code, err) == (0, "")
    for words in ("6 layers of width 384", "12 heads of 32", "encoder.layer.5", "22,713,216", "90.9 MB", "load report"):
        assert words in out
    code, out, _ = call(capsys, "info", folder, "--json")
    facts = json.loads(out)
    assert sum(facts["parts"].values()) == facts["parameters"] == 22713216
    assert list(facts["parts"]) == ["embeddings", *[f"encoder.layer.{n}" for n in range(6)], "pooler"]
    assert facts["memory_bytes"]["float32"] == 4 * 22713216
    assert facts["load_report"]["ok"] is True


def test_info_counts_the_heads_of_a_checkpoint(capsys: pytest.CaptureFixture[str]) -> None:
    folder = str(shared_data("checkpoints", "ticket-bert"))
    _, out, _ = call(capsys, "info", folder, "--json")
    assert json.loads(out)["heads_in_checkpoint"] == {"classifier": 6 * 96 + 6}
    _, out, _ = call(capsys, "info", folder)
    assert "classifier (head, not loaded)" in out
    assert "BertForSequenceClassification" in out


def test_info_without_a_tokenizer(capsys: pytest.CaptureFixture[str], folder: str, tmp_path: Path) -> None:
    for name in ("config.json", "model.safetensors"):
        shutil.copy(Path(folder) / name, tmp_path)
    code, out, _ = call(capsys, "info", str(tmp_path))
    assert code == 0
    assert "tokenizer: none in the folder" in out
    code, _, err = call(capsys, "run", str(tmp_path), "x")
    assert code == 1
    assert "no tokenizer in" in err


def test_env(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    code, out, _ = call(capsys, "env", "--json")
    assert code == 0
    facts = json.loads(out)
    assert facts["minitf"] == __version__
    assert facts["packages"]["torch"] == torch.__version__
    assert facts["devices"][0] == "cpu"
    monkeypatch.setattr("minitf.cli_info.PACKAGES", ("torch", "no-such-package"))
    _, out, _ = call(capsys, "env")
    assert "no-such-package  not installed" in out


# Errors


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        ((), "no command"),
        (("rnu",), "no command rnu, did you mean run?"),
        (("--verzion",), "did you mean --version?"),
        (("run",), "required: FOLDER"),
        (("run", "F"), "no text"),
        (("run", "F", "x", "--poling", "mean"), "no option --poling, did you mean --pooling?"),
        (("run", "F", "x", "--pool", "mean"), "no option --pool, did you mean --pooling?"),
        (("run", "F", "x", "--pooling", "max"), "invalid choice: 'max'"),
        (("run", "F", "x", "--dtype", "int8"), "invalid choice: 'int8'"),
        (("run", "F", "x", "--attn", "flash"), "invalid choice: 'flash'"),
        (("run", "F", "x", "--batch-size", "0"), "'0' is not a number of 1 or more"),
        (("run", "F", "--file"), "expected one argument"),
        (("run", "F", "-xyz"), "must come after --"),
        (("info",), "required: FOLDER"),
        (("info", "F", "G"), "G"),
        (("env", "--jsn"), "did you mean --json?"),
        (("--version", "run", "--bogus"), ""),
    ],
)
def test_wrong_calls(argv: Sequence[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = call(capsys, *argv)
    if argv[:1] == ("--version",):
        assert (code, out, err) == (0, f"minitf {__version__}\n", "")
        return
    assert (code, out) == (2, "")
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert words in err


def test_device_that_is_none_and_device_that_is_missing(capsys: pytest.CaptureFixture[str], folder: str) -> None:
    code, _, err = call(capsys, "run", folder, "x", "--device", "abacus")
    assert code == 2
    assert "--device abacus: not a device" in err
    code, _, err = call(capsys, "run", folder, "x", "--device", "cuda:99")
    assert code == 1
    assert "error: --device cuda:99 cannot be used here" in err


def broken_checkpoint(folder: Path, kind: str) -> Path:
    """A copy of the real checkpoint's small files, with the fault `kind`."""
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        shutil.copy(minilm_folder() / name, folder)
    weights = folder / "model.safetensors"
    if kind == "truncated":
        with (minilm_folder() / "model.safetensors").open("rb") as stream:
            weights.write_bytes(stream.read(100_000))
    elif kind == "corrupted":
        weights.write_bytes(b"\xff" * 1000)
    elif kind == "html":
        weights.write_bytes(b"<!DOCTYPE html><html>404</html>")
    elif kind == "pickle":
        (folder / "pytorch_model.bin").write_bytes(b"cos\nsystem\n(S'touch hacked'\ntR.")
    elif kind == "index":
        index = {"metadata": {}, "weight_map": {"embeddings.LayerNorm.bias": "../model.safetensors"}}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    elif kind == "config":
        (folder / "config.json").write_text("{")
    elif kind == "settings pipe":
        (folder / "tokenizer_config.json").unlink()
        os.mkfifo(folder / "tokenizer_config.json")
    elif kind == "tokenizer":
        (folder / "tokenizer.json").write_text("{")
    return folder


@pytest.mark.parametrize(
    "kind", ["no weights", "truncated", "corrupted", "html", "pickle", "index", "config", "tokenizer", "settings pipe"]
)
def test_bad_checkpoints(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, err = call(capsys, "run", str(broken_checkpoint(tmp_path, kind)), "x")
    assert (code, out) == (1, "")
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert not (tmp_path / "hacked").exists()
    if kind == "no weights":
        assert "looked for model.safetensors" in err


def test_bad_places(
    capsys: pytest.CaptureFixture[str], folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))
    (tmp_path / "empty").mkdir()
    (tmp_path / "bad.txt").write_bytes(b"fine\n\xff\n")
    (tmp_path / "nothing.txt").write_bytes(b"")
    weights = str(Path(folder) / "model.safetensors")
    for argv, words in (
        (("run", "nofolder", "x"), "'nofolder': no such folder, and no model of that name in the local hub cache"),
        (("run", str(tmp_path / "gone"), "x"), "no such file or folder"),
        (("run", str(tmp_path / "empty"), "x"), "it is empty"),
        (("info", str(tmp_path / "empty")), "it is empty"),
        (("run", weights, "x"), "is a file; expected the folder"),
        (("run", folder, "--file", str(tmp_path / "gone")), "gone: No such file or directory"),
        (("run", folder, "--file", str(tmp_path)), "Is a directory"),
        (("run", folder, "--file", str(tmp_path / "bad.txt")), "bad.txt, line 2: byte 0xff is not UTF-8"),
        (("run", folder, "--file", str(tmp_path / "nothing.txt")), "no text: the input has no line"),
        (("run", folder, "x", "--npz", str(tmp_path / "no" / "x.npz")), "does not exist"),
        (("run", folder, "x", "--npz", str(tmp_path)), "is a folder"),
    ):
        code, out, err = call(capsys, *argv)
        assert (code, out) == (1, ""), argv
        assert err.startswith("error: "), argv
        assert err.count("\n") == 1, argv
        assert words in err, argv


def test_an_empty_folder_names_all_that_was_looked_for(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    for argv in (("run", str(tmp_path), "x"), ("info", str(tmp_path))):
        code, out, err = call(capsys, *argv)
        assert (code, out) == (1, "")
        assert err.startswith(f"error: {tmp_path} ")
        for name in ("config.json", "model.safetensors", "pytorch_model.bin"):
            assert f" {name}" in err, argv


@pytest.mark.parametrize("command", ["run", "info"])
def test_an_error_of_several_lines_keeps_them(
    command: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, folder: str
) -> None:
    def fail(*arguments: object, **options: object) -> None:
        raise RuntimeError("it does not fit:\n\n  a.weight  [1]   \n    b.weight  [2]\n")

    monkeypatch.setattr("minitf.models.bert.BertModel.from_pretrained", fail)
    texts = ["x"] if command == "run" else []
    code, out, err = call(capsys, command, folder, *texts)
    assert (code, out) == (1, "")
    assert err == "error: it does not fit:\n  a.weight  [1]\n    b.weight  [2]\n"


def test_weights_of_other_shapes_are_a_list(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    broken_checkpoint(tmp_path, "no weights")
    sizes = {"hidden_size": 8, "num_attention_heads": 2, "num_hidden_layers": 1, "vocab_size": 30522}
    BertModel(BertConfig(**sizes, intermediate_size=8)).save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert", **sizes, "intermediate_size": 9}))
    with pytest.raises(LoadError) as caught:
        BertModel.from_pretrained(tmp_path)
    code, out, err = call(capsys, "run", str(tmp_path), "x")
    assert (code, out) == (1, "")
    assert err == f"error: {str(caught.value).rstrip()}\n"
    assert err.count("\n") > 1


def test_debug_shows_the_traceback(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MINITF_DEBUG", "1")
    with pytest.raises(FileNotFoundError):
        cli.main(["run", str(tmp_path), "x"])


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (KeyboardInterrupt(), 130, ""),
        (BrokenPipeError(), 0, ""),
        (KeyError("inner"), 1, "error: KeyError: 'inner'\n"),
        (RuntimeError("several\n  lines"), 1, "error: several\n  lines\n"),
        (MemoryError(), 1, "error: MemoryError: \n"),
    ],
)
def test_how_errors_end(
    error: BaseException, code: int, words: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(arguments: Any) -> None:
        raise error

    monkeypatch.setattr(cli, "_leave_stdout_alone", lambda stream: None)
    monkeypatch.setitem(cli.COMMANDS, "env", (cli.env_parser, fail, ""))
    assert call(capsys, "env") == (code, "", words)


# Text on a terminal


def test_widths() -> None:
    assert [width(text) for text in ("abc", "中文", "é", "e\u0301", "👍", "👨\u200d👩", "")] == [3, 4, 1, 1, 2, 2, 0]
    assert padded("中", 4) == "中  "
    assert padded("7", 3, right=True) == "  7"
    assert shortened("中文中文中文", 8) == "中文..."
    assert shortened("short", 8) == "short"
    assert escaped("a\tb\x00") == r"a\tb\x00"
    assert table([["中", "1"], ["abc", "22"]], right=[False, True]) == ["中    1", "abc  22"]
    assert [readable_bytes(n) for n in (999, 1000, 90852864, 10**13)] == ["999 bytes", "1.0 kB", "90.9 MB", "10.0 TB"]
    assert to_json({"a": [1.5, float("nan"), float("inf")]}) == '{"a": [1.5, null, null]}'


def test_two_rows_are_broken_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    lines = above_each_other(
        [f"piece{n}" for n in range(9)], [str(n) for n in range(9)], names=("p", "id"), indent="  "
    )
    assert len(lines) == 6
    assert all(width(line) <= 40 for line in lines)
    assert [word for line in lines[::2] for word in line.split()[1:]] == [f"piece{n}" for n in range(9)]


# What only a process shows


def process(*argv: str, **options: Any) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY)}
    return subprocess.run(
        [sys.executable, *argv], capture_output=True, text=True, env=environment, timeout=120, check=False, **options
    )


def test_help_and_version_do_not_import_torch() -> None:
    code = (
        "import sys; from minitf.cli import main\n"
        "for argv in (['--help'], ['--version'], ['run', '--help'], ['info', '--help'], ['env', '--help'], ['run']):\n"
        "    main(argv)\n"
        "assert not {'torch', 'numpy', 'tokenizers'} & set(sys.modules)\n"
    )
    result = process("-c", code)
    assert result.returncode == 0, result.stderr
    assert "FOLDER" in result.stdout
    assert "commands:" in result.stdout


def test_a_wrong_folder_is_reported_before_torch_is_imported(tmp_path: Path) -> None:
    code = (
        "import sys; from minitf.cli import main\n"
        f"assert main(['run', {str(tmp_path / 'gone')!r}, 'x']) == 1\n"
        "assert 'torch' not in sys.modules\n"
    )
    result = process("-c", code)
    assert result.returncode == 0, result.stderr


def test_as_a_module(folder: str) -> None:
    result = process("-m", "minitf", "run", folder, "a b")
    assert (result.returncode, result.stderr) == (0, "")
    assert "text 1 (4 tokens): a b" in result.stdout


def test_a_reader_that_stops_early_sees_no_error() -> None:
    command = f"{sys.executable} -m minitf env | true; exit ${{PIPESTATUS[0]}}"
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    result = subprocess.run(
        ["bash", "-c", command], capture_output=True, text=True, env=environment, timeout=120, check=False
    )
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


def test_the_bar_needs_a_terminal_and_several_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    from minitf.cli_run import progress

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    assert list(progress(iter([1]), 1)) == [1]
    assert screen.getvalue() == ""
    assert list(progress(iter([1, 2, 3]), 3)) == [1, 2, 3]
    assert "0/3" in screen.getvalue()
