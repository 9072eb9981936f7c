"""`python -m weights_tools keys | diff | verify`, and what all commands share: JSON, exit codes, pipes, progress."""

from __future__ import annotations

import contextlib
import io
import json
import math
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from minitf import BertConfig, BertModel
from minitf.loading import LoadError
from tests.support import REPOSITORY, minilm_folder, shared_data
from tests.weights.dialect_forge import FOREIGN, bert, weights
from tests.weights.forge import tensors
from weights_tools import __main__ as command_line
from weights_tools.__main__ import main
from weights_tools.calls import WrongCall
from weights_tools.convert import convert
from weights_tools.diff import diff
from weights_tools.files import WeightsError, save_checkpoint
from weights_tools.keys import few, fold_pairs, keys


def saved(path: Path, state: dict[str, torch.Tensor]) -> str:
    save_file({name: tensor.contiguous().clone() for name, tensor in state.items()}, path)
    return str(path)


# ----------------------------------------------------------------------------------------------------------------- keys


def test_every_name_has_its_line(capsys: pytest.CaptureFixture[str]) -> None:
    index = shared_data("checkpoints", "keras-bert-toy-tf1", "bert_model.ckpt.index")
    assert main(["keys", str(index)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == str(index)
    assert lines[1].startswith("  names: google-bert ('bert/embeddings/LayerNorm/beta' and 116 more names begin as")
    assert lines[2] == "  under names of hf (46):"
    assert "    bert/pooler/dense/kernel -> bert.pooler.dense.weight  [transposed]" in lines
    assert "  dropped (93):" in lines
    assert "    global_step: the count of training steps, not a weight" in lines
    query = "attention/self/query/kernel -> bert.encoder.layer.{0..1}.attention.self.query.weight  [transposed]"
    assert f"    bert/encoder/layer_{{0..1}}/{query}" in lines
    assert main(["keys", str(index), "--names"]) == 0
    every = capsys.readouterr().out
    assert "{" not in every
    assert every.count("\n") == 4 + 139


@pytest.mark.parametrize("dialect", FOREIGN)
def test_json_accounts_for_every_name(dialect: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    foreign = FOREIGN[dialect]
    state = foreign.by_hand(weights(foreign.make()))
    path = saved(tmp_path / "a.safetensors", state)
    assert main(["keys", path, "--dialect", dialect, "--json"]) == 0
    content = json.loads(capsys.readouterr().out)
    assert set(content) == {"path", "dialect", "reason", "into", "notes", "keys"}
    assert (content["dialect"], content["reason"], content["into"]) == (dialect, "chosen by the caller", "hf")
    listed = [key for key in content["keys"] if key["name"]]
    assert {key["name"] for key in listed} == set(state)
    for key in listed:
        assert set(key) == {"name", "target", "what", "shape", "dtype", "state"}
        assert (key["shape"], key["dtype"]) == (list(state[key["name"]].shape), "float32")
        assert (key["state"] == "used") == (key["target"] is not None)
    assert all(key["what"] for key in listed if key["state"] == "dropped")


def test_unknown_names_are_exit_code_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = saved(tmp_path / "a.safetensors", {"bert/pooler/dense/bias": torch.ones(2), "bert/pooler/x": torch.ones(2)})
    assert main(["keys", path]) == 1
    assert (
        "  no counterpart (1):\n    bert/pooler/x: the dialect 'google-bert' does not know" in capsys.readouterr().out
    )
    # Hugging Face's names have no table to miss, on the way back they have.
    path = saved(tmp_path / "b.safetensors", {"bert.pooler.dense.bias": torch.ones(2), "bert.x": torch.ones(2)})
    assert main(["keys", path]) == 0
    assert main(["keys", path, "--to-dialect", "google-bert"]) == 1


def test_the_prefix_of_a_trunk_is_added_where_the_dialect_has_it(tmp_path: Path) -> None:
    found = keys(saved(tmp_path / "a.safetensors", weights(bert("BertModel"))), into="google-bert")
    assert {key.state for key in found.keys} == {"used"}
    assert any(key.target == "bert/embeddings/word_embeddings" for key in found.keys)
    assert found.notes == ["names of a trunk without its prefix: it was added where the dialect has it"]


def test_folding_of_pairs() -> None:
    pairs = [(f"h{n}/ln_{m}/g", f"h.{n}.ln_{m}.weight", "") for n in range(3) for m in (1, 2)]
    assert fold_pairs(pairs) == [(f"h{{0..2}}/ln_{m}/g", f"h.{{0..2}}.ln_{m}.weight", "") for m in (1, 2)]
    # What does not fold alike on both sides stays as it is.
    odd = [("a.0.x", "b.0.y", ""), ("a.1.x", "b.7.y", "")]
    assert fold_pairs(odd) == [("a.{0..1}.x", "b.{0,7}.y", "")]
    assert fold_pairs([("a.0.x", "b.y", ""), ("a.1.x", "b.y", "")]) == [("a.{0..1}.x", "b.y", "")]
    assert fold_pairs(odd, every_name=True) == odd
    assert few(["a", "b", "c"], 2) == "a, b and 1 more"


# ----------------------------------------------------------------------------------------------------------------- diff


def test_equal_under_other_names_and_in_another_container(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    index = shared_data("checkpoints", "keras-bert-toy-tf1", "bert_model.ckpt.index")
    convert(index, tmp_path / "b.npz")
    assert main(["diff", str(index), str(tmp_path / "b.npz")]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith(
        f"A  {index} (tensorflow, names: google-bert)\nB  {tmp_path / 'b.npz'} (npz, names: hf)\n"
    )
    assert printed.endswith("the same: 46 of 46 tensors identical\n")
    assert "A: not compared: global_step: the count of training steps, not a weight" in printed
    assert main(["diff", str(index), str(tmp_path / "b.npz"), "--raw"]) == 1
    printed = capsys.readouterr().out
    assert "only in A (139):" in printed
    assert "only in B (46):" in printed


def test_what_differs_is_told_by_layer(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one = weights(bert())
    two = {name: tensor.clone() for name, tensor in one.items()}
    key = "bert.encoder.layer.{}.attention.self.key.weight"
    one[key.format(0)][0, 0], two[key.format(0)][0, 0] = 0.25, 0.75
    one[key.format(1)][3, :2], two[key.format(1)][3, :2] = 1.0, -1.0
    two["bert.pooler.dense.bias"] = two["bert.pooler.dense.bias"].double()
    two["cls.predictions.bias"] = torch.ones(60)
    del two["cls.seq_relationship.bias"]
    two["extra"] = torch.ones(1)
    paths = saved(tmp_path / "a.safetensors", one), saved(tmp_path / "b.safetensors", two)
    assert main(["diff", *paths]) == 1
    lines = capsys.readouterr().out.splitlines()
    for title, content in {
        "only in A (1)": "cls.seq_relationship.bias",
        "only in B (1)": "extra",
        "shapes differ (1)": "cls.predictions.bias: [61] in A, [60] in B",
        "dtypes differ (1)": "bert.pooler.dense.bias: float32 in A, float64 in B",
        "numbers differ (2)": f"{key.format('{0..1}')}: 3 of 2,048 numbers, largest difference 2 (layer 1)",
    }.items():
        assert lines[lines.index(f"  {title}:") + 1] == f"    {content}"
    assert lines[-1] == f"different: {len(one) - 4} of {len(one) - 2} tensors identical, largest difference 2"
    assert main(["diff", *paths, "--json"]) == 1
    content = json.loads(capsys.readouterr().out)
    assert set(content) == {
        "first", "second", "tolerance", "only_in_first", "only_in_second", "shapes", "dtypes", "identical",
        "differences", "notes", "same", "largest",
    }  # fmt: skip
    assert (content["same"], content["largest"]) == (False, 2.0)
    assert content["differences"][0] == {"name": key.format(0), "largest": 0.5, "count": 1, "numel": 1024}
    assert main(["diff", *paths, "--quiet"]) == 1
    assert capsys.readouterr().out == ""


def test_a_tolerance_is_for_numbers_and_dtypes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = shared_data("checkpoints", "ticket-bert")
    convert(source, tmp_path / "half", dtype="float16")
    found = diff(source, tmp_path / "half")
    assert (found.same, len(found.dtypes)) == (False, 41)
    assert "  dtypes differ (41):\n    every tensor: float32 in A, float16 in B\n" in found.to_text()
    assert 0 < found.largest < 1e-3
    for tolerance, code in ((1e-3, 0), (found.largest, 0), (found.largest / 2, 1), (0.0, 1)):
        assert main(["diff", str(source), str(tmp_path / "half"), "--tolerance", repr(tolerance)]) == code
    assert f"largest difference {found.largest:.3g} (tolerance 0)" in capsys.readouterr().out
    # A tensor that is missing is no matter of tolerance.
    state = {"a": torch.ones(2)}
    paths = saved(tmp_path / "a.safetensors", state), saved(tmp_path / "b.safetensors", state | {"b": torch.ones(2)})
    assert main(["diff", *paths, "--tolerance", "inf"]) == 1


@pytest.mark.parametrize(
    ("one", "two", "largest", "count", "same"),
    [
        ([1.0, math.nan], [1.0, math.nan], 0.0, None, True),
        ([1.0, math.nan], [1.0, 2.0], math.inf, 1, False),
        ([math.inf], [math.inf], 0.0, None, True),
        ([math.inf], [-math.inf], math.inf, 1, False),
        ([math.inf], [1.0], math.inf, 1, False),
        ([0.0, 1.0], [-0.0, 1.0], 0.0, 0, False),
        ([1e30], [-1e30], 2 * float(torch.tensor(1e30)), 1, False),
    ],
)
def test_numbers_that_are_none(
    one: list[float], two: list[float], largest: float, count: int | None, same: bool, tmp_path: Path
) -> None:
    paths = [saved(tmp_path / f"{n}.safetensors", {"w": torch.tensor(side)}) for n, side in enumerate((one, two))]
    found = diff(*paths)
    assert found.same is same
    assert found.largest == largest
    assert [item.count for item in found.differences] == ([] if count is None else [count])
    assert json.loads(json.dumps(found.to_dict(), allow_nan=False))["largest"] == (largest if largest < 1e99 else "inf")
    if count == 0:
        assert "w: equal numbers of different bits (0 and -0, or kinds of NaN)" in found.to_text()
        assert diff(*paths, tolerance=0).same


def test_a_trunk_with_and_without_its_prefix(tmp_path: Path) -> None:
    model = bert()
    whole = saved(tmp_path / "a.safetensors", weights(model))
    trunk = saved(tmp_path / "b.safetensors", weights(model.bert))
    for first, second, letter in ((whole, trunk, "B"), (trunk, whole, "A")):
        found = diff(first, second)
        assert len(found.identical) == len(weights(model.bert))
        assert found.notes == [f"{letter} has no 'bert.' prefix: compared as if it had"]
        heads = found.only_in_first if letter == "B" else found.only_in_second
        assert len(heads) == len(weights(model)) - len(weights(model.bert))
        assert [*found.only_in_first, *found.only_in_second] == heads


def test_wrong_calls_of_diff(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = saved(tmp_path / "a.safetensors", tensors())
    for options, error in (
        (["--tolerance", "-1"], "tolerance is -1.0; expected a number that is not negative"),
        (["--tolerance", "nan"], "tolerance is nan; expected"),
        (["--raw", "--dialect", "hf"], "raw=True translates nothing, so a dialect would have no effect"),
        (["--dialect-b", "keras"], "dialect is 'keras'; expected one of"),
    ):
        assert main(["diff", path, path, *options]) == 2
        assert error in capsys.readouterr().err
    with pytest.raises(WrongCall):
        diff(path, path, tolerance=-0.1)
    for pair in ((path, tmp_path / "nothing"), (tmp_path / "nothing", path)):
        assert main(["diff", *map(str, pair)]) == 1
        assert "nothing" in capsys.readouterr().err


def test_two_copies_of_one_tensor_must_agree(tmp_path: Path) -> None:
    """A dialect whose files repeat tensors: equal copies are one, others an error, and never half of them."""
    name = "transformer.h.0.ln_1.weight"
    state = {f"_orig_mod.{name}": torch.ones(2), f"module.{name}": torch.ones(2)}
    path = saved(tmp_path / "a.safetensors", state)
    with pytest.raises(WeightsError, match="two sources in the checkpoint"):
        keys(path, dialect="nanogpt")


# ------------------------------------------------------------------------------------------------------- what all share


def run(line: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "HF_HUB_OFFLINE": "1"}
    line = line.replace("WT", f"{sys.executable} -m weights_tools")
    return subprocess.run(["bash", "-c", line], capture_output=True, text=True, env=environment, cwd=cwd)


def test_a_reader_that_has_seen_enough(tmp_path: Path) -> None:
    (tmp_path / "m").symlink_to(minilm_folder())
    result = run("WT keys m --names | head -1; WT diff m m --json | head -c 10; WT convert m out | head -1", tmp_path)
    assert result.stderr == ""
    assert result.stdout.startswith('m\n{\n  "first')
    assert (tmp_path / "out" / "model.safetensors").exists()


def test_nothing_but_results_on_stdout(tmp_path: Path) -> None:
    saved(tmp_path / "a.safetensors", tensors())
    result = run("WT convert a.safetensors b.npz --quiet && WT convert a.safetensors c --json", tmp_path)
    assert (result.returncode, result.stderr) == (0, "")
    content = json.loads(result.stdout)
    assert set(content) == {
        "source", "source_path", "destination", "container", "to", "dialect", "reason", "into", "source_files", "files",
        "renamed", "dropped", "dtypes", "carried", "left_behind", "card", "notes",
    }  # fmt: skip
    assert content["files"][0]["name"] == "model.safetensors"
    assert re.fullmatch(r"[0-9a-f]{64}", content["files"][0]["sha256"])
    assert content["files"][0]["size"] == (tmp_path / "c" / "model.safetensors").stat().st_size
    assert len(content["renamed"]) == len(tensors())
    failed = run("WT convert a.safetensors b.npz --json", tmp_path)
    assert (failed.returncode, failed.stdout) == (1, "")
    assert failed.stderr == "error: b.npz exists; expected a new name, or --overwrite to replace it\n"


def test_help_waits_for_nothing() -> None:
    code = (
        "import sys; from weights_tools.__main__ import main\n"
        "for command in ('inspect', 'keys', 'diff', 'convert', 'verify'):\n"
        "    try: main([command, '--help'])\n"
        "    except SystemExit as stop: assert stop.code == 0\n"
        "assert 'torch' not in sys.modules and 'numpy' not in sys.modules"
    )
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert (result.returncode, result.stderr) == (0, "")
    for option in ("--max-shard-size", "--tolerance", "--to-dialect", "--values"):
        assert option in result.stdout


def test_verify_is_minitfs(monkeypatch: pytest.MonkeyPatch) -> None:
    import minitf.cli

    calls: list[list[str]] = []
    monkeypatch.setattr(minitf.cli, "main", lambda arguments: calls.append(arguments) or 7)
    assert main(["verify", "folder", "--quick", "--json"]) == 7
    assert calls == [["verify", "folder", "--quick", "--json"]]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_bar_where_somebody_sees_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = saved(tmp_path / "a.safetensors", tensors())
    for screen, limit, options, shown in (
        (Terminal(), 100, [], True),
        (Terminal(), 100, ["--quiet"], False),
        (Terminal(), 10**6, [], False),
        (io.StringIO(), 100, [], False),
    ):
        monkeypatch.setattr(sys, "stderr", screen)
        monkeypatch.setattr(command_line, "BAR_BYTES", limit)
        assert main(["diff", path, path, *options]) == 0
        assert ("%" in screen.getvalue()) == shown
        assert main(["convert", path, str(tmp_path / "b.npz"), "--overwrite", *options]) == 0
        assert (screen.getvalue().count("0.00/288") == 2) == shown


def test_progress_counts_every_byte(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "a", tensors())
    seen: list[int] = []
    convert(tmp_path / "a", tmp_path / "b", progress=seen.append)
    assert sum(seen) == 288
    diff(tmp_path / "a", tmp_path / "b", progress=seen.append)
    assert sum(seen) == 2 * 288


def test_interrupted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    path = saved(tmp_path / "a.safetensors", tensors())

    plain = os.fsync

    def stop(descriptor: int) -> None:
        monkeypatch.setattr(os, "fsync", plain)
        raise KeyboardInterrupt

    for place in ("b", "c.npz"):
        monkeypatch.setattr(os, "fsync", stop)
        assert main(["convert", path, str(tmp_path / place)]) == 130
    assert capsys.readouterr().err == "interrupted\n" * 2
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.safetensors"]


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["diff", "A", "A", "--json", "--quiet"], 2, "--quiet: not allowed with argument --json"),
        (["diff", "A", "A", "--names", "--quiet"], 2, "--quiet: not allowed with argument --names"),
        (["convert", "A", "B", "--json", "--quiet"], 2, "--quiet: not allowed with argument --json"),
        (["keys", "A", "--json", "--names"], 2, "--names: not allowed with argument --json"),
        (["inspect", "A", "--json", "--names"], 2, "--names: not allowed with argument --json"),
        (["keys", "A", "--to-dialect", "transformer-lens-bert", "--heads", "0"], 1, "num_heads=0: expected the number"),
        (["keys", "A", "--to-dialect", "transformer-lens-bert", "--heads", "-2"], 1, "num_heads=-2: expected the numb"),
        (["inspect", "nope"], 1, "error: 'nope': no such folder, and no model of that name in the local hub cache "),
        (
            ["keys", "org/nope"],
            1,
            "(models--org--nope is not there); expected a path or a model in the cache. Fetch it ",
        ),
        (["diff", "A", "nope"], 1, "first: minitf fetch nope"),
    ],
)
def test_calls_that_make_no_sense(
    words: list[str],
    code: int,
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    saved(tmp_path / "A", weights(bert()))
    with contextlib.suppress(SystemExit) if code == 2 else contextlib.nullcontext():
        assert main(words) == 1
    err = capsys.readouterr().err
    assert message in err
    assert code == 2 or err.count("\n") == 1


def test_a_name_cannot_steer_the_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    """Whoever looks at a file of a stranger prints the stranger's texts."""
    evil = "bert.\x1b[2J\u2028evil\nweight"
    config = BertConfig(vocab_size=9, hidden_size=4, num_hidden_layers=1, num_attention_heads=1, intermediate_size=4)
    BertModel(config).save_pretrained(tmp_path / "model")
    file = tmp_path / "model" / "model.safetensors"
    state = {**load_file(file), evil: torch.ones(2)}
    save_file(state, file)
    other = saved(tmp_path / "other.safetensors", {**state, evil: torch.zeros(2)})
    texts = []
    for words in (["inspect"], ["inspect", "--names"], ["inspect", "--values"], ["keys"], ["keys", "--names"]):
        main([words[0], str(file), *words[1:]])
    for words in (["diff", other], ["diff", other, "--raw"], ["convert", str(tmp_path / "npz"), "--to-dialect", "hf"]):
        main([words[0], str(file), *words[1:]])
    main(["inspect", str(tmp_path / "gone\x1b[2J" / "x")])
    texts += capsys.readouterr()
    with pytest.raises(LoadError) as refusal:
        BertModel.from_pretrained(tmp_path / "model")
    texts += [str(refusal.value), str(BertModel.from_pretrained(tmp_path / "model", strict=False).load_report)]
    texts.append(caplog.text)
    for text in texts:
        assert "\\x1b[2J" in text
        assert not {"\x1b", "\u2028"} & set(text)
        assert "evil\n" not in text
