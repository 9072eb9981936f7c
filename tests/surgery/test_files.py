"""An adapter alone in a file: small, whole or not at all, for one base, and never half loaded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

import minitf
from minitf.surgery import (
    AdapterFile,
    Bottleneck,
    Lora,
    add_adapter,
    delete_adapter,
    list_adapters,
    load_adapter,
    merge,
    read_adapter,
    save_adapter,
    train_adapter,
)
from minitf.surgery.files import KEY
from tests.support import minilm_folder
from tests.surgery.models import EVERY, base_state, bert, gpt2, logits, stir

SETTINGS = [Lora(r=3, alpha=5, dropout=0.1), Bottleneck(size=4)]


def saved(folder: Path, model: Any = None, settings: Any = None) -> tuple[nn.Module, Path]:
    model = bert() if model is None else model
    add_adapter(model, "a", settings)
    stir(model, "a")
    return model, save_adapter(model, folder, "a")


def rewritten(file: Path, change: Any) -> None:
    """The same file with other settings, or other tensors."""
    from safetensors import safe_open

    with safe_open(file, "pt") as opened:
        metadata = opened.metadata()
    tensors, content = load_file(file), json.loads(metadata[KEY])
    result = change(tensors, content)
    text = json.dumps(content) if result is None else result
    save_file(tensors, file, {"format": "pt", KEY: text})


@pytest.mark.parametrize("settings", SETTINGS, ids=lambda s: type(s).__name__)
@pytest.mark.parametrize("name", EVERY)
def test_into_a_fresh_base(name: str, settings: Any, tmp_path: Path) -> None:
    model, file = saved(tmp_path, EVERY[name](), settings)
    assert file == tmp_path / "adapter.safetensors"
    assert [path.name for path in tmp_path.iterdir()] == ["adapter.safetensors"]
    fresh = EVERY[name]()
    state = base_state(fresh)
    info = load_adapter(fresh, tmp_path)
    assert info == list_adapters(model)[0]
    assert torch.equal(logits(fresh), logits(model))
    assert all(torch.equal(tensor, state[key]) for key, tensor in base_state(fresh).items())
    load_adapter(fresh, file, name="again")
    assert torch.equal(logits(fresh), logits(model))
    assert [(one.name, one.active) for one in list_adapters(fresh)] == [("a", False), ("again", True)]


def test_between_minitf_and_transformers(tmp_path: Path) -> None:
    """The trees and weights are the same, so the file is too."""
    model, _ = saved(tmp_path, EVERY["minitf-gpt2"]())
    theirs = EVERY["transformers-gpt2"]()
    load_adapter(theirs, tmp_path)
    torch.testing.assert_close(logits(theirs), logits(model), rtol=1e-5, atol=1e-5)


def test_the_parts_come_back(tmp_path: Path) -> None:
    saved(tmp_path, gpt2(), Lora(r=2, targets="**.attn.c_attn", parts=("key",)))
    fresh = gpt2()
    load_adapter(fresh, tmp_path)
    assert list(fresh.transformer.h[0].attn.c_attn.adapters["a"].low) == ["key"]


def test_a_head_that_was_trained_along_is_in_the_file(tmp_path: Path) -> None:
    model, fresh = bert(), bert()
    with torch.no_grad():
        fresh.classifier.weight.normal_()  # every fresh base has another one
    add_adapter(model, "a")
    stir(model, "a")
    train_adapter(model, "a", also="classifier")
    model.eval()
    save_adapter(model, tmp_path, "a")
    assert {"classifier.weight", "classifier.bias"} < set(load_file(tmp_path / "adapter.safetensors"))
    assert load_adapter(fresh, tmp_path).also == ("classifier",)
    assert torch.equal(logits(fresh), logits(model))
    save_adapter(fresh, tmp_path / "again", "a")  # what was loaded with it is saved with it
    assert read_adapter(tmp_path / "again").also == ("classifier",)


def test_less_than_one_percent_of_a_real_model(tmp_path: Path) -> None:
    model = minitf.BertModel.from_pretrained(minilm_folder())
    add_adapter(model, "a")
    file = save_adapter(model, tmp_path, "a")
    assert file.stat().st_size < 0.01 * (minilm_folder() / "model.safetensors").stat().st_size
    load_adapter(minitf.BertModel.from_pretrained(minilm_folder()), file)


def test_notes_and_what_the_header_says(tmp_path: Path) -> None:
    model = bert()
    add_adapter(model, "a", Bottleneck(size=4))
    save_adapter(model, tmp_path, "a", notes={"data": "reviews", "accuracy": 0.91})
    said = read_adapter(tmp_path)
    assert isinstance(said, AdapterFile)
    assert (said.name, said.settings, said.also) == ("a", list_adapters(model)[0].settings, ())
    assert said.notes == {"data": "reviews", "accuracy": 0.91}
    assert set(said.base) == {name for name, _ in model.named_parameters() if ".adapters." not in name}
    with pytest.raises(TypeError, match="not JSON serializable"):
        save_adapter(model, tmp_path / "no", "a", notes={"x": object()})
    assert not (tmp_path / "no").exists()


def test_a_failed_save_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, file = saved(tmp_path)
    before = file.read_bytes()
    with pytest.raises(ValueError, match="the model has no adapter 'b'; it has 'a'"):
        save_adapter(model, tmp_path, "b")

    def full(descriptor: int) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr("os.fsync", full)
    stir(model, "a", seed=3)
    with pytest.raises(OSError, match="no space left"):
        save_adapter(model, tmp_path, "a")
    assert file.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["adapter.safetensors"]


# --------------------------------------------------------------------------------------------------------------------
# Another base


def test_another_base_is_refused_by_name(tmp_path: Path) -> None:
    model, file = saved(tmp_path)
    other = bert()
    with torch.no_grad():
        other.bert.encoder.layer[1].output.dense.bias[3] += 1e-6
    before = logits(other)
    message = (
        r"trained beside other weights: 1 of 41 parameters differ \(bert\.encoder\.layer\.1\.output\.dense\.bias\)"
    )
    with pytest.raises(ValueError, match=message):
        load_adapter(other, file)
    assert not list_adapters(other)
    assert torch.equal(logits(other), before)
    load_adapter(other, file, other_base=True)
    torch.testing.assert_close(logits(other), logits(model), rtol=1e-4, atol=1e-4)


def test_another_dtype_size_or_architecture(tmp_path: Path) -> None:
    _, file = saved(tmp_path)
    with pytest.raises(ValueError, match=r"41 of 41 parameters differ .* Load the same base in the same dtype"):
        load_adapter(bert().bfloat16(), file)
    half = bert().bfloat16()
    load_adapter(half, file, other_base=True)
    assert {p.dtype for p in half.parameters()} == {torch.bfloat16}
    wider = bert(hidden_size=64)
    with pytest.raises(ValueError, match="parameters differ"):
        load_adapter(wider, file)
    with pytest.raises(ValueError, match=r"query\.low\.whole\.A has the shape \[8, 32\], the model needs \[8, 64\]"):
        load_adapter(wider, file, other_base=True)
    for base in (bert("BertModel"), gpt2(), bert(num_hidden_layers=1)):
        with pytest.raises(ValueError, match=r"made for another model, which has bert\.encoder\.layer"):
            load_adapter(base, file, other_base=True)
        assert not list_adapters(base)


def test_a_merged_or_pruned_base_is_another_one(tmp_path: Path) -> None:
    model, file = saved(tmp_path)
    merge(model)
    with pytest.raises(ValueError, match="4 of 41 parameters differ"):
        load_adapter(model, file)
    pruned = bert()
    pruned.prune_heads({0: [1]})
    with pytest.raises(ValueError, match="7 of 41 parameters differ"):
        load_adapter(pruned, file)


def test_the_name_is_taken(tmp_path: Path) -> None:
    model, file = saved(tmp_path)
    with pytest.raises(ValueError, match="has an adapter 'a' already"):
        load_adapter(model, file)
    delete_adapter(model, "a")
    assert load_adapter(model, file).name == "a"


# --------------------------------------------------------------------------------------------------------------------
# Files that are none


def test_missing_and_foreign_files(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"adapter\.safetensors does not exist; expected a folder with"):
        load_adapter(bert(), tmp_path)
    with pytest.raises(FileNotFoundError, match="nowhere does not exist"):
        read_adapter(tmp_path / "nowhere")
    bert().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"its header has no 'minitf_adapter', so it is no adapter"):
        load_adapter(bert(), tmp_path / "model.safetensors")
    (tmp_path / "adapter.safetensors").write_bytes(b"not at all")
    with pytest.raises(ValueError, match=r"adapter\.safetensors"):
        load_adapter(bert(), tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda tensors, content: "{", "settings cannot be read"),
        (lambda tensors, content: "[1]", "settings cannot be read"),
        (lambda tensors, content: content.update(version=2), "version 2, and only 1 is known"),
        (lambda tensors, content: content.update(kind="Prefix"), r"settings cannot be read \('Prefix'\)"),
        (lambda tensors, content: content["settings"].update(rank=3), "unexpected keyword argument 'rank'"),
        (lambda tensors, content: content["settings"].update(r=-1), "r = -1: expected a positive integer"),
        (lambda tensors, content: content["settings"].update(targets=[]), "where paths should be"),
        (lambda tensors, content: content["settings"].update(targets=[3]), "where paths should be"),
        (lambda tensors, content: content["settings"].update(targets=["{0..9}{0..9}"]), "made for another model"),
        (lambda tensors, content: content.update(also=["**"]), "made for another model"),
        (lambda tensors, content: content.update(name="a.b"), "cannot have the name 'a.b'"),
        (
            lambda tensors, content: content["settings"].update(r=2),
            r"has the shape \[8, 32\], the model needs \[2, 32\]",
        ),
        (lambda tensors, content: content["settings"].update(r=10**9), "has at most rank 32"),
        (lambda tensors, content: tensors.update(extra=torch.ones(1)), "extra is not part of such an adapter"),
        (lambda tensors, content: tensors.popitem() and None, "is missing"),
        (
            lambda tensors, content: tensors.update({next(iter(tensors)): torch.ones(8, 32, dtype=torch.int64)}),
            "has the dtype torch.int64",
        ),
    ],
)
def test_a_damaged_file_is_an_error_and_the_model_is_as_it_was(change: Any, message: str, tmp_path: Path) -> None:
    _, file = saved(tmp_path)
    rewritten(file, change)
    fresh = bert()
    tree = list(fresh.named_modules())
    with pytest.raises(ValueError, match=message):
        load_adapter(fresh, file, other_base=True)
    assert list(fresh.named_modules()) == tree


def test_a_file_that_is_cut_off_leaves_the_head_as_it_was(tmp_path: Path) -> None:
    model = bert()
    add_adapter(model, "a")
    train_adapter(model, "a", also="classifier")
    file = save_adapter(model, tmp_path, "a")
    file.write_bytes(file.read_bytes()[:-100])
    fresh = bert()
    before = logits(fresh)
    with pytest.raises(ValueError, match="cut off"):
        load_adapter(fresh, file)
    assert torch.equal(logits(fresh), before)
