"""`minitf golden`: what it writes and prints, its JSON, its exit codes, wrong calls."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import minitf
from minitf import cli
from minitf.parity.golden import load
from tests.bench.make_bundles import BERT, CASES, FOLDER
from tests.support import minilm_folder


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A BertForSequenceClassification of three labels."""
    place = tmp_path_factory.mktemp("checkpoints") / "classifier"
    CASES["bert-sequence"].build().save_pretrained(place)
    return str(place)


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory: pytest.TempPathFactory) -> str:
    place = tmp_path_factory.mktemp("checkpoints") / "gpt2"
    CASES["gpt2-lm"].build().save_pretrained(place)
    return str(place)


def call(capsys: pytest.CaptureFixture[str], *argv: str | Path) -> tuple[int, str, str]:
    code = cli.main(list(map(str, argv)))
    out, err = capsys.readouterr()
    assert "Traceback" not in out + err
    return code, out, err


def test_a_bundle_is_written_and_checked(capsys: pytest.CaptureFixture[str], gpt2: str, tmp_path: Path) -> None:
    place = tmp_path / "bundle"
    code, out, err = call(capsys, "golden", gpt2, "-o", place)
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[0] == f"{place}: GPT2LMHeadModel, evaluation mode, attention eager, one thread, CPU"
    assert lines[2].split() == ["part", "arrays", "size", "sha256"]
    assert [line.split()[0] for line in lines[3:12]] == load(place).parts
    assert lines[-1] == "gradients of the sum of loss"
    assert load(place).description["inputs"] == {
        "random": {"seed": 0, "rows": 3, "tokens": 8, "padding": "right"},
        "labels": "made up",
    }
    for further in ([], [gpt2]):
        code, out, err = call(capsys, "golden", "--check", place, *further)
        assert (code, err) == (0, "")
        first, second = out.splitlines()
        assert first == f"{place}: GPT2LMHeadModel, made with these versions on such a processor"
        count = sum(row["arrays"] for row in load(place).description["files"].values())
        assert second == f"{count} arrays: {count} identical, 0 within the tolerance"


def test_a_checkpoint_that_differs_ends_with_1(capsys: pytest.CaptureFixture[str], gpt2: str, tmp_path: Path) -> None:
    assert call(capsys, "golden", gpt2, "-o", tmp_path / "b.zip", "--no-weights")[0] == 0
    model = minitf.GPT2LMHeadModel.from_pretrained(gpt2)
    with torch.no_grad():
        model.transformer.h[1].ln_2.bias[3] += 1e-5
    model.save_pretrained(tmp_path / "other")
    code, out, err = call(capsys, "golden", "--check", tmp_path / "b.zip", tmp_path / "other")
    assert (code, err) == (1, "")
    assert "first: weights : their sha256 is " in out
    code, out, err = call(capsys, "golden", "--check", tmp_path / "b.zip", tmp_path / "other", "--json")
    assert code == 1
    found = json.loads(out)
    assert found["ok"] is False
    assert found["unlike"][0]["part"] == "weights"
    assert {"activations.float64", "gradients.float64"} <= {row["part"] for row in found["unlike"]}
    code, out, err = call(capsys, "golden", "--check", tmp_path / "b.zip")
    assert (code, out) == (1, "")
    assert err.startswith("error: ")
    assert "was made without weights: name the folder of the checkpoint too" in err


def test_texts_of_a_real_checkpoint(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    name = "layer.{0,5}.resid_post"
    texts = ("--text", "A cat sat.", "--text", "It slept all day.")
    options = ("--names", name, "--names", "embeddings", "--no-weights", "--json")
    code, out, err = call(capsys, "golden", minilm_folder(), "-o", tmp_path / "b", *texts, *options)
    assert (code, err) == (0, "")
    said = json.loads(out)
    assert said["inputs"] == {"texts": ["A cat sat.", "It slept all day."], "labels": "none"}
    assert said["names"] == [name, "embeddings"]
    assert said["weights"]["stored"] is False
    assert said["bundle"] == str(tmp_path / "b")
    bundle = load(tmp_path / "b")
    assert bundle.part("inputs")["input_ids"][0].tolist() == [101, 1037, 4937, 2938, 1012, 102, 0]
    assert list(bundle.part("activations.float32")) == [
        *("input_ids", "token_type_ids", "attention_mask"),
        *("embeddings", "layer.0.resid_post", "layer.5.resid_post", "last_hidden_state", "pooler_output"),
    ]


def test_a_trunk_without_pooler(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    minitf.BertModel(minitf.BertConfig(**BERT), add_pooling_layer=False).save_pretrained(tmp_path / "model")
    code, out, err = call(capsys, "golden", tmp_path / "model", "-o", tmp_path / "b")
    assert code == 0
    assert err.endswith(f"warning: computed without the pooler, which {tmp_path / 'model'} does not hold\n")
    assert "gradients of the weighted sum of last_hidden_state\n" in out
    for further in ([], [tmp_path / "model"]):
        assert call(capsys, "golden", "--check", tmp_path / "b", *further)[0] == 0


def test_labels(capsys: pytest.CaptureFixture[str], classifier: str, tmp_path: Path) -> None:
    small = ("--batch", "2", "--tokens", "4")
    assert call(capsys, "golden", classifier, "-o", tmp_path / "a", *small, "--labels", "2,1")[0] == 0
    assert load(tmp_path / "a").part("inputs")["labels"].tolist() == [2, 1]
    assert load(tmp_path / "a").description["inputs"]["labels"] == "given"
    code, out, _ = call(capsys, "golden", classifier, "-o", tmp_path / "b", *small, "--labels", "none")
    assert code == 0
    assert "labels" not in load(tmp_path / "b").part("inputs")
    assert "gradients of the weighted sum of logits\n" in out
    code, _, err = call(capsys, "golden", classifier, "-o", tmp_path / "c", *small, "--labels", "2,7")
    assert code == 1
    assert "7" in err
    code, _, err = call(capsys, "golden", classifier, "-o", tmp_path / "c", *small, "--labels", "0,1,2")
    assert (code, err) == (1, "error: 3 labels for 2 rows: give one for each.\n")
    code, _, err = call(capsys, "golden", classifier, "-o", tmp_path / "c", "--labels", "one")
    assert (code, err) == (2, "error: --labels one: expected numbers as in 1,0,2, or none\n")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]


def test_inputs_of_a_file(capsys: pytest.CaptureFixture[str], classifier: str, tmp_path: Path) -> None:
    file = tmp_path / "inputs.npz"
    np.savez(file, input_ids=np.array([[1, 2, 3]], dtype=np.int32), labels=np.array([2]))
    assert call(capsys, "golden", classifier, "-o", tmp_path / "a", "--inputs", file)[0] == 0
    bundle = load(tmp_path / "a")
    assert {key: value.tolist() for key, value in bundle.part("inputs").items()} == {
        "input_ids": [[1, 2, 3]],
        "labels": [2],
    }
    assert bundle.description["inputs"] == {"file": "inputs.npz", "labels": "of the file"}
    code, _, err = call(capsys, "golden", classifier, "-o", tmp_path / "b", "--inputs", file, "--labels", "1")
    assert code == 2
    assert "holds labels already: leave --labels out" in err
    np.savez(file, input_ids=np.array([[1, 2, 3]]), past_length=np.array(2))
    code, _, err = call(capsys, "golden", classifier, "-o", tmp_path / "b", "--inputs", file)
    assert code == 1
    assert "has past_length 2; a bundle has no call before" in err
    np.savez(file, input_ids=np.array([[1, 2, 99]]))
    code, _, err = call(capsys, "golden", classifier, "-o", tmp_path / "b", "--inputs", file)
    assert code == 1
    assert "input_ids[0, 2] = 99, but vocab_size is 7" in err
    assert not (tmp_path / "b").exists()


def test_a_bundle_is_not_replaced_by_chance(capsys: pytest.CaptureFixture[str], gpt2: str, tmp_path: Path) -> None:
    place = tmp_path / "b"
    assert call(capsys, "golden", gpt2, "-o", place, "--seed", "1")[0] == 0
    before = load(place).description
    code, _, err = call(capsys, "golden", gpt2, "-o", place, "--seed", "2")
    assert code == 1
    assert "is there: give another name, or overwrite it (overwrite=True, --overwrite)" in err
    assert load(place).description == before
    assert call(capsys, "golden", gpt2, "-o", place, "--seed", "2", "--overwrite")[0] == 0
    assert load(place).description["files"]["inputs"] != before["files"]["inputs"]


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["GPT2"], "-o OUT, what to write, is missing"),
        (["-o", "OUT"], "FOLDER, the checkpoint, is missing"),
        (["GPT2", "-o", "OUT", "--text", "a", "--seed", "1"], "--text and --seed both say what to compute"),
        (["GPT2", "-o", "OUT", "--text", "a", "--inputs", "x.npz"], "--text and --inputs both say what to compute"),
        (["GPT2", "-o", "OUT", "--inputs", "x.npz", "--padding", "left"], "--inputs and --padding both say"),
        (["--check", "OUT", "--seed", "0"], "so --seed has no effect: leave it out"),
        (["--check", "OUT", "-o", "x"], "so -o has no effect"),
        (["--check", "OUT", "--class", "BertModel"], "so --class has no effect"),
        (["--check", "OUT", "--no-weights"], "so --no-weights has no effect"),
        (["GPT2", "-o", "OUT", "--padding", "middle"], "invalid choice"),
        (["GPT2", "-o", "OUT", "--batch", "0"], "'0' is not a number of 1 or more"),
        (["GPT2", "-o", "OUT", "--label", "1"], "no option --label, did you mean --labels?"),
    ],
)
def test_wrong_calls_end_with_2(
    argv: list[str], message: str, capsys: pytest.CaptureFixture[str], gpt2: str, tmp_path: Path
) -> None:
    given = [{"GPT2": gpt2, "OUT": str(tmp_path / "out")}.get(word, word) for word in argv]
    code, out, err = call(capsys, "golden", *given)
    assert (code, out) == (2, "")
    assert message in err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--class", "BertForMaskedLM"], "does not hold cls.predictions.bias"),
        (["--class", "BertForMaskedLN"], "--class BertForMaskedLN: no such class of models in minitf"),
        (["--class", "BertConfig"], "--class BertConfig: no such class of models in minitf"),
        (["--names", "layer.9.resid_post"], "layer.9.resid_post"),
        (["--text", "hello"], "tokenizer"),
        (["--tokens", "13"], "13 positions; this model has 12"),
    ],
)
def test_work_that_cannot_be_done_ends_with_1(
    options: list[str], message: str, capsys: pytest.CaptureFixture[str], classifier: str, tmp_path: Path
) -> None:
    code, out, err = call(capsys, "golden", classifier, "-o", tmp_path / "out", *options)
    assert (code, out) == (1, "")
    assert message in err
    assert list(tmp_path.iterdir()) == []


def test_what_is_checked_must_be_a_bundle(capsys: pytest.CaptureFixture[str], classifier: str, tmp_path: Path) -> None:
    code, _, err = call(capsys, "golden", "--check", tmp_path / "nothing")
    assert code == 1
    assert "no such bundle" in err
    code, _, err = call(capsys, "golden", "--check", classifier)
    assert code == 1
    assert "is no whole bundle: it has no bundle.json" in err
    code, _, err = call(capsys, "golden", "--check", FOLDER / "gpt2-lm.zip", classifier)
    assert code == 1
    assert "says model_type 'bert', but GPT2Config reads 'gpt2'" in err


def test_a_choice_of_texts_cannot_be_read_from_one_text(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    CASES["bert-multiple-choice"].build().save_pretrained(tmp_path / "model")
    code, _, err = call(capsys, "golden", tmp_path / "model", "-o", tmp_path / "out", "--text", "hello")
    assert code == 1
    assert "BertForMultipleChoice reads [rows, choices, tokens]: give --inputs FILE, or --seed." in err
