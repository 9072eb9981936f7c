"""Every `from_pretrained` takes the same hub keywords, which reach the files: from a hub on loopback, then offline."""

from __future__ import annotations

import inspect
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import constants

from minitf.config import BertConfig, PretrainedConfig
from minitf.generation.config import GenerationConfig
from minitf.models.auto import AutoConfig, AutoModel
from minitf.models.bert import BertModel
from minitf.pretrained import PreTrainedModel
from minitf.tokenization import BertTokenizer, BertTokenizerFast, GPT2Tokenizer, GPT2TokenizerFast
from minitf.tokenization.auto import AutoTokenizer
from minitf.tokenization.generic import PreTrainedTokenizerFast
from tests.support import randomise_
from tests.weights.hub_server import Hub, Repository, running
from weights_tools import open_checkpoint
from weights_tools.hub import resolve

PIECES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "b", "c"]
SIZES = {"vocab_size": 8, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
COMMIT = "9" * 40


@pytest.fixture(autouse=True)
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.set_num_threads(1)
    for variable in ("HF_ENDPOINT", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_TOKEN"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")


@pytest.fixture(scope="module")
def model() -> BertModel:
    model = BertModel(BertConfig(**SIZES)).eval()
    randomise_(model)
    return model


@pytest.fixture
def folder(model: BertModel, tmp_path: Path) -> Path:
    """The model, in full precision and as variant fp16, with a tokenizer."""
    folder = tmp_path / "folder"
    model.save_pretrained(folder)
    half = BertModel(model.config)
    half.load_state_dict(model.state_dict())
    half.half().save_pretrained(tmp_path / "half")
    shutil.copy(tmp_path / "half" / "model.safetensors", folder / "model.fp16.safetensors")
    (folder / "vocab.txt").write_text("\n".join(PIECES))
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "BertTokenizer", "padding_side": "left"})
    )
    (folder / "generation_config.json").write_text(json.dumps({"max_length": 33}))
    return folder


@pytest.fixture
def hub(folder: Path) -> Iterator[Hub]:
    with running() as hub:
        files = {f"inner/{entry.name}": entry.read_bytes() for entry in folder.iterdir() if entry.is_file()}
        hub.repositories["org/tiny"] = Repository({**files, "config.json": b"not this"}, {"v1": COMMIT}, token="secret")
        yield hub


@pytest.fixture
def keywords(hub: Hub, tmp_path: Path) -> dict[str, Any]:
    return {
        "endpoint": hub.url,
        "token": "secret",
        "revision": "v1",
        "subfolder": "inner",
        "cache_dir": tmp_path / "cache",
    }


LOADERS: dict[str, tuple[Callable[..., Any], Callable[[Any], object], object]] = {
    "BertConfig": (BertConfig.from_pretrained, lambda config: config.hidden_size, 8),
    "AutoConfig": (AutoConfig.from_pretrained, lambda config: config.hidden_size, 8),
    "GenerationConfig": (GenerationConfig.from_pretrained, lambda config: config.max_length, 33),
    "BertTokenizer": (BertTokenizer.from_pretrained, lambda t: (t.padding_side, len(t)), ("left", 8)),
    "BertTokenizerFast": (BertTokenizerFast.from_pretrained, lambda t: (t.padding_side, len(t)), ("left", 8)),
    "AutoTokenizer": (AutoTokenizer.from_pretrained, lambda t: (t.padding_side, len(t)), ("left", 8)),
    "BertModel": (BertModel.from_pretrained, lambda model: model.dtype, torch.float32),
    "AutoModel": (AutoModel.from_pretrained, lambda model: model.dtype, torch.float32),
}


@pytest.mark.parametrize("name", LOADERS)
def test_downloads_then_reads_the_cache(name: str, hub: Hub, keywords: dict[str, Any], tmp_path: Path) -> None:
    load, what, expected = LOADERS[name]
    assert what(load("org/tiny", **keywords)) == expected
    assert hub.tokens == {"secret"}
    assert "model.fp16.safetensors" not in hub.fetched()
    hub.asked.clear()
    offline = {**keywords, "local_files_only": True, "token": None, "endpoint": None}
    assert what(load("org/tiny", **offline)) == expected
    assert hub.asked == []


def test_one_after_the_other_completes_the_snapshot(hub: Hub, keywords: dict[str, Any]) -> None:
    """Each call finds what the one before left, and fetches the rest."""
    BertConfig.from_pretrained("org/tiny", **keywords)
    assert hub.fetched() == ["config.json"]
    assert len(AutoTokenizer.from_pretrained("org/tiny", **keywords)) == 8
    assert hub.fetched() == ["config.json", "tokenizer_config.json", "vocab.txt"]
    AutoModel.from_pretrained("org/tiny", **keywords)
    assert hub.fetched() == sorted(
        ["config.json", "generation_config.json", "model.safetensors", "tokenizer_config.json", "vocab.txt"]
    )


@pytest.mark.parametrize("load", [BertModel.from_pretrained, AutoModel.from_pretrained])
def test_variant(load: Callable[..., Any], hub: Hub, keywords: dict[str, Any], model: BertModel) -> None:
    loaded = load("org/tiny", variant="fp16", dtype="auto", **keywords)
    expected = model.state_dict()["embeddings.word_embeddings.weight"].half()
    assert torch.equal(loaded.state_dict()["embeddings.word_embeddings.weight"].half(), expected)
    assert "model.safetensors" not in hub.fetched()


def public_loaders() -> dict[str, Callable[..., Any]]:
    classes = (
        *(PretrainedConfig, AutoConfig, GenerationConfig, AutoTokenizer, AutoModel, PreTrainedModel, BertTokenizer),
        *(BertTokenizerFast, GPT2Tokenizer, GPT2TokenizerFast, PreTrainedTokenizerFast),
    )
    return {cls.__name__: cls.from_pretrained for cls in classes}


@pytest.mark.parametrize("name", public_loaders())
def test_signatures_agree(name: str) -> None:
    """The keywords of `resolve` with its defaults; `variant` where weights are read and nowhere else."""
    theirs = inspect.signature(public_loaders()[name]).parameters
    for keyword, parameter in inspect.signature(resolve).parameters.items():
        if keyword in ("name_or_path", "filenames", "essential"):
            continue
        if keyword == "variant" and name not in ("AutoModel", "PreTrainedModel"):
            assert keyword not in theirs
            continue
        assert theirs[keyword].default == parameter.default
        assert str(theirs[keyword].annotation) == str(parameter.annotation)


class TestLocally:
    """The same keywords for a folder on disk."""

    @pytest.mark.parametrize("name", LOADERS)
    def test_subfolder(self, name: str, folder: Path) -> None:
        load, what, expected = LOADERS[name]
        assert what(load(folder.parent, subfolder=folder.name)) == expected
        with pytest.raises(ValueError, match=r"subfolder is '\.\.'; expected the name of a folder inside"):
            load(folder, subfolder="..")

    def test_variant(self, folder: Path, model: BertModel) -> None:
        name = "embeddings.word_embeddings.weight"
        with open_checkpoint(folder, variant="fp16") as checkpoint:
            assert checkpoint[name].dtype == torch.float16
            assert [file.name for file in checkpoint.files] == ["model.fp16.safetensors"]
        with open_checkpoint(folder) as checkpoint:
            assert checkpoint[name].dtype == torch.float32
        loaded = BertModel.from_pretrained(folder, variant="fp16", dtype="float32")
        assert torch.equal(loaded.state_dict()[name], model.state_dict()[name].half().float())

    @pytest.mark.parametrize("format", ["safetensors", "bin"])
    def test_sharded_variant(self, folder: Path, model: BertModel, tmp_path: Path, format: str) -> None:
        model.save_pretrained(tmp_path / "shards", max_shard_size="1KB", safe_serialization=format == "safetensors")
        whole = "model" if format == "safetensors" else "pytorch_model"
        index = folder / f"{whole}.{format}.index.fp16.json"
        content = json.loads((tmp_path / "shards" / f"{whole}.{format}.index.json").read_text())
        renamed = {shard: shard.replace(whole, f"{whole}.fp16") for shard in set(content["weight_map"].values())}
        for old, new in renamed.items():
            shutil.copy(tmp_path / "shards" / old, folder / new)
        content["weight_map"] = {tensor: renamed[shard] for tensor, shard in content["weight_map"].items()}
        index.write_text(json.dumps(content))
        (folder / "model.fp16.safetensors").unlink()
        assert len(renamed) > 1
        with open_checkpoint(folder, variant="fp16") as checkpoint:
            assert {file.name for file in checkpoint.files} == set(renamed.values())
        loaded = AutoModel.from_pretrained(folder, variant="fp16")
        assert all(torch.equal(loaded.state_dict()[name], value) for name, value in model.state_dict().items())

    def test_variant_that_is_not_there(self, folder: Path) -> None:
        for load in (open_checkpoint, BertModel.from_pretrained):
            with pytest.raises(
                FileNotFoundError,
                match=r"no weights of variant 'bf16' here; looked for model\.bf16\.safe.*there: 'fp16'",
            ):
                load(folder, variant="bf16")

    @pytest.mark.parametrize("load", [open_checkpoint, BertModel.from_pretrained, AutoModel.from_pretrained])
    def test_variant_of_a_file(self, folder: Path, load: Callable[..., Any]) -> None:
        with pytest.raises(ValueError, match=r"variant is 'fp16', but .*model\.safetensors is a file"):
            load(folder / "model.safetensors", variant="fp16")


def test_tokenizer_settings_are_never_left_behind(hub: Hub, keywords: dict[str, Any]) -> None:
    """An interrupted first call must not make a second one read the vocabulary without its settings."""
    hub.status["/tokenizer_config.json"] = 404
    with pytest.raises(FileNotFoundError, match="download from"):
        BertTokenizer.from_pretrained("org/tiny", **keywords)
    with pytest.raises(FileNotFoundError, match=r"vocab\.txt"):
        BertTokenizer.from_pretrained("org/tiny", **{**keywords, "local_files_only": True})
    hub.status.clear()
    assert BertTokenizer.from_pretrained("org/tiny", **keywords).padding_side == "left"
