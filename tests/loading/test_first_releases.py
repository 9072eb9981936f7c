"""Checkpoints as Google and OpenAI published them: named by what their files' names begin with, configured by the
file that came with them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from minitf import BertConfig, BertForPreTraining, GPT2Config, GPT2LMHeadModel
from tests.support import shared_data
from tests.weights.bundle_forge import bundle
from tests.weights.forge import tensors


def test_google() -> None:
    folder = shared_data("checkpoints", "keras-bert-toy-tf1")
    note = "the configuration is bert_config.json, the form of the model's first release"
    models = [BertForPreTraining.from_pretrained(place) for place in (folder / "bert_model.ckpt", folder)]
    models.append(BertForPreTraining.from_pretrained(f"{folder}/bert_model.ckpt.index"))
    for model in models:
        assert note in model.load_report.notes
        assert model.config.hidden_size == 4
    given = BertForPreTraining.from_pretrained(folder / "bert_model.ckpt", config=folder / "bert_config.json")
    assert note not in given.load_report.notes
    for name, value in given.state_dict().items():
        assert all(torch.equal(model.state_dict()[name], value) for model in models)


def test_openai() -> None:
    folder = shared_data("checkpoints", "keras-gpt2-toy-tf1")
    for config in (None, folder / "hparams.json", GPT2Config.from_pretrained(folder / "hparams.json")):
        model = GPT2LMHeadModel.from_pretrained(folder / "model.ckpt", config=config)
        assert (model.config.vocab_size, model.config.n_positions) == (356, 20)
        assert model.config.unknown_keys == {}
        noted = "the configuration is hparams.json, the form of the model's first release" in model.load_report.notes
        assert noted == (config is None)


def test_other_names_of_keys_hold_in_that_file_only(tmp_path: Path) -> None:
    """The config.json of transformers has n_ctx beside n_positions, without an effect."""
    for name in ("hparams.json", "config.json"):
        (tmp_path / name).write_text(json.dumps({"n_vocab": 7, "n_ctx": 3, "n_layer": 1}))
    assert GPT2Config.from_pretrained(tmp_path / "hparams.json").vocab_size == 7
    config = GPT2Config.from_pretrained(tmp_path)
    assert (config.vocab_size, config.n_positions) == (50257, 1024)
    assert config.unknown_keys == {"n_vocab": 7, "n_ctx": 3}


def test_config_json_comes_first(tmp_path: Path) -> None:
    bundle(tensors()).write(tmp_path / "bert_model.ckpt")
    (tmp_path / "bert_config.json").write_text("{nonsense")
    BertConfig().save_pretrained(tmp_path)
    with pytest.raises(RuntimeError, match="num_hidden_layers = 12, but the file holds only 6 tensors"):
        BertForPreTraining.from_pretrained(tmp_path / "bert_model.ckpt")


@pytest.mark.parametrize("place", ["bert_model.ckpt", "."])
def test_no_configuration(tmp_path: Path, place: str) -> None:
    bundle(tensors()).write(tmp_path / "bert_model.ckpt")
    (tmp_path / "hparams.json").write_text("{}")  # OpenAI's, not BERT's
    with pytest.raises(FileNotFoundError, match=r"without a config\.json beside it|holds no config\.json"):
        BertForPreTraining.from_pretrained(tmp_path / place)
