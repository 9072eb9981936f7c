"""The folder of a SentenceTransformer leads to its model, wherever `modules.json` says that it is, and nowhere else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import minitf
from tests.support import minilm_folder
from tests.weights.dialect_forge import bert, same_outputs, weights
from weights_tools.__main__ import main
from weights_tools.files import WeightsError, open_checkpoint
from weights_tools.hub import resolve
from weights_tools.sentence_folder import model_folder

OLD = "sentence_transformers.models.Transformer"
NEW = "sentence_transformers.base.modules.transformer.Transformer"  # version 6


def saved(folder: Path, path: object = "0_Transformer", kind: str = OLD) -> tuple[Any, Path]:
    """A folder as SentenceTransformer.save writes it: a list of modules, the model in its own folder."""
    model = bert("BertModel")
    inner = folder / ("0_Transformer" if path == "0_Transformer" else "x")
    model.save_pretrained(inner)
    modules = [
        {"idx": 0, "name": "0", "path": path, "type": kind},
        {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
    ]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text('{"word_embedding_dimension": 32}')
    return model, inner


@pytest.mark.parametrize("kind", [OLD, NEW])
def test_the_outer_folder(kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "my-model"
    model, inner = saved(folder, kind=kind)
    assert model_folder(folder) == resolve(folder) == inner
    note = "modules.json of my-model is a SentenceTransformer's: its model, in 0_Transformer, is read, and nothing else"
    again = minitf.BertModel.from_pretrained(folder, strict=True)
    assert same_outputs(again, model)
    assert again.load_report.notes == [note]
    # It finds the folder before the class: the report names that.
    chosen = minitf.AutoModel.from_pretrained(folder, strict=True)
    assert same_outputs(chosen, model)
    assert chosen.load_report.checkpoint == str(inner)
    with open_checkpoint(folder) as checkpoint:
        assert set(checkpoint) == set(weights(model))
        assert checkpoint.notes == [note]
    assert main(["inspect", str(folder)]) == 0
    assert "0_Transformer" in capsys.readouterr().out
    assert minitf.BertConfig.from_pretrained(folder).hidden_size == 32
    # Asked for by name, it is what it is.
    assert minitf.BertModel.from_pretrained(inner, strict=True).load_report.notes == []
    assert same_outputs(minitf.BertModel.from_pretrained(folder, subfolder="0_Transformer", strict=True), model)


def test_the_newer_layout_is_the_folder_itself() -> None:
    folder = minilm_folder()
    assert (folder / "modules.json").exists()
    assert model_folder(folder) is None
    with open_checkpoint(folder) as checkpoint:
        assert not any("modules.json" in note for note in checkpoint.notes)


def test_a_model_in_the_folder_itself_comes_first(tmp_path: Path) -> None:
    """A folder that is a model is this model, whatever a file beside it says."""
    saved(tmp_path)
    own = bert("BertModel", num_hidden_layers=1)
    own.save_pretrained(tmp_path)
    assert model_folder(tmp_path) is None
    assert same_outputs(minitf.BertModel.from_pretrained(tmp_path, strict=True), own)


@pytest.mark.parametrize("path", ["..", "../x", "/etc", "a/b", "a\\b", "C:x", ".", 7, None, ["x"], "x\0"])
def test_a_path_that_leads_elsewhere(path: object, tmp_path: Path) -> None:
    folder = tmp_path / "outer"
    saved(folder, path)
    for use in (open_checkpoint, resolve, minitf.BertModel.from_pretrained):
        with pytest.raises(
            WeightsError, match=r"modules.json: it names the folder .*expected the plain name of a folder"
        ):
            use(folder)


def test_a_link_that_leads_elsewhere(tmp_path: Path) -> None:
    folder = tmp_path / "outer"
    _, inner = saved(folder)
    inner.rename(tmp_path / "elsewhere")
    inner.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(WeightsError, match="expected the plain name of a folder in this one"):
        open_checkpoint(folder)


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    _, inner = saved(tmp_path / "outer")
    inner.rename(tmp_path / "moved")
    with pytest.raises(
        FileNotFoundError, match=r"modules.json: it names the folder '0_Transformer', which is not there"
    ):
        minitf.BertModel.from_pretrained(tmp_path / "outer")


@pytest.mark.parametrize(
    "content",
    ["[]", "{}", "3", '["x"]', '[{"path": "0_Transformer"}]', '[{"type": 3, "path": "0_Transformer"}]',
     '[{"type": "sentence_transformers.models.WordEmbeddings", "path": "0_Transformer"}]',
     '[{"type": "evil.Transformer", "path": "0_Transformer"}]'],
)  # fmt: skip
def test_a_listing_without_a_transformer_leads_nowhere(content: str, tmp_path: Path) -> None:
    saved(tmp_path)
    (tmp_path / "modules.json").write_text(content)
    assert model_folder(tmp_path) is None
    with pytest.raises(FileNotFoundError, match="no weights here"):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b"[", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b"\xff", "is not UTF-8"),
        (b" " * 1_000_001, "it has 1,000,001"),
    ],
)
def test_a_listing_that_cannot_be_read(content: bytes, found: str, tmp_path: Path) -> None:
    saved(tmp_path)
    (tmp_path / "modules.json").write_bytes(content)
    with pytest.raises(WeightsError, match=rf"modules.json: .*{found}.*expected"):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize("attribute", ["auto_model", "model"])
def test_the_state_dict_of_the_program(attribute: str, tmp_path: Path) -> None:
    """`auto_model` until version 5, `model` in version 6; a buffer below it is dropped by rule."""
    model = bert("BertModel")
    state = {f"0.{attribute}.{name}": tensor for name, tensor in weights(model).items()}
    state[f"0.{attribute}.embeddings.position_ids"] = torch.arange(16)[None]
    torch.save(state, tmp_path / "state.pt")
    again = minitf.BertModel.from_pretrained(tmp_path / "state.pt", config=model.config, strict=True)
    assert same_outputs(again, model)
    assert again.load_report.dialect == "sentence-transformers"
    assert [name for name, _ in again.load_report.dropped] == [f"0.{attribute}.embeddings.position_ids"]
