"""TensorFlow 2's names: as TensorFlow wrote them, in HDF5 and in safetensors, with the tensors that it repeats."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import h5py
import pytest
import torch
from safetensors.torch import save_file

import minitf
from minitf.loading import LoadError
from tests.support import randomise_
from tests.weights.dialect_forge import (
    Tensors,
    bert,
    gpt2,
    hdf5,
    keras_bert,
    keras_gpt2,
    same_outputs,
    weights,
)
from weights_tools.files import WeightsError
from weights_tools.mapping import plan
from weights_tools.tables import named

WRITTEN = json.loads((Path(__file__).parent / "keras_names.json").read_text())


@pytest.fixture(autouse=True)
def one_thread() -> Any:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def as_written(name: str) -> tuple[Any, dict[str, Any]]:
    """The model whose file TensorFlow wrote, and what is known of the file."""
    facts = WRITTEN["files"][name]
    kind = "gpt2" if name.startswith("GPT2") else "bert"
    cross = {"add_cross_attention": True} if facts["cross"] else {}
    if cross and kind == "bert":
        cross["is_decoder"] = True
    config = (minitf.GPT2Config if kind == "gpt2" else minitf.BertConfig)(**WRITTEN["sizes"][kind], **cross)
    return randomise_(getattr(minitf, name)(config)).eval(), facts


def shapes(tensors: Tensors) -> dict[str, list[int]]:
    return {name: list(tensor.shape) for name, tensor in tensors.items()}


def full_names(model: Any, name: str) -> Tensors:
    base = {"BertModel": "bert.", "GPT2Model": "transformer."}.get(name, "")
    return {base + key: tensor for key, tensor in weights(model).items()}


@pytest.mark.parametrize("name", WRITTEN["files"])
def test_the_names_and_shapes_that_tensorflow_wrote(name: str) -> None:
    """The files of these tests are TensorFlow's, name by name, and every name of TensorFlow's has its place."""
    model, facts = as_written(name)
    by_hand = keras_gpt2 if name.startswith("GPT2") else keras_bert
    made = by_hand(full_names(model, name))
    assert shapes(made) == facts["safetensors"]
    assert shapes(hdf5(made, facts["model"])) == facts["h5"]
    targets = {key: tuple(tensor.shape) for key, tensor in weights(model).items()}
    for form in ("h5", "safetensors"):
        planned = plan(facts[form], targets, base_prefix=model.base_model_prefix)
        assert planned.dialect == ("keras-gpt2" if name.startswith("GPT2") else "keras-bert")
        assert set(planned.sources) == set(targets)
        assert planned.missing == planned.unexpected == planned.misshapen == planned.dropped == []
        repeated = len(facts["h5"]) - len(facts["safetensors"]) if form == "h5" else 0
        assert len(planned.duplicates) == repeated


def write_h5(tensors: Tensors, path: Path) -> Path:
    with h5py.File(path, "w") as file:
        for name, tensor in tensors.items():
            file.create_dataset(name, data=tensor.numpy())
    return path


@pytest.mark.parametrize(("make", "by_hand"), [(bert, keras_bert), (gpt2, keras_gpt2)])
def test_tf_model_h5(make: Any, by_hand: Any, tmp_path: Path) -> None:
    model = make()
    model.config.save_pretrained(tmp_path)
    write_h5(hdf5(by_hand(weights(model)), "tf_model_x_1"), tmp_path / "tf_model.h5")
    again = type(model).from_pretrained(tmp_path, strict=True)
    assert same_outputs(again, model)
    text = str(again.load_report)
    assert "as TensorFlow 2 names variables" in text
    layers = "encoder/layer_._{0..1}/" if make is bert else "transformer/h_._{0..1}/"
    assert layers in text
    trunk = type(model.base_model).from_pretrained(tmp_path, strict=True)
    assert same_outputs(trunk, model.base_model)


def test_tensors_that_are_repeated_must_be_equal(tmp_path: Path) -> None:
    model = bert()
    tensors = hdf5(keras_bert(weights(model)), "tf_bert_for_pre_training")
    copy = "mlm___cls/tf_bert_for_pre_training/bert/embeddings/LayerNorm/beta:0"
    tensors[copy] = tensors[copy] + 1
    path = write_h5(tensors, tmp_path / "tf_model.h5")
    with pytest.raises(
        ValueError, match=r"LayerNorm/beta:0 and .*LayerNorm/beta:0 hold different values, but they are one"
    ):
        minitf.BertForPreTraining.from_pretrained(path, config=model.config)


def test_older_names_of_embeddings_are_read_and_not_written(tmp_path: Path) -> None:
    model = gpt2()
    tensors = keras_gpt2(weights(model))
    tensors["transformer/wte/weight:0"] = tensors.pop("transformer/wte/embeddings:0")
    save_file({name: tensor.clone() for name, tensor in tensors.items()}, tmp_path / "model.safetensors")
    again = minitf.GPT2LMHeadModel.from_pretrained(tmp_path / "model.safetensors", config=model.config, strict=True)
    assert same_outputs(again, model)
    back = named("keras-gpt2").back()
    assert back.translate("transformer.wte.weight")[0] == "transformer/wte/embeddings:0"
    assert named("keras-bert").back().translate("bert.embeddings.word_embeddings.weight")[0] == (
        "bert/embeddings/word_embeddings/weight:0"
    )
    tensors["transformer/wte/embeddings:0"] = tensors["transformer/wte/weight:0"]
    save_file({name: tensor.clone() for name, tensor in tensors.items()}, tmp_path / "model.safetensors")
    with pytest.raises(WeightsError, match=r"transformer.wte.weight has two sources in the checkpoint"):
        minitf.GPT2LMHeadModel.from_pretrained(tmp_path / "model.safetensors", config=model.config)


def test_a_bias_of_another_rank_is_not_squeezed(tmp_path: Path) -> None:
    model = gpt2()
    tensors = keras_gpt2(weights(model))
    name = "transformer/h_._1/mlp/c_fc/bias:0"
    tensors[name] = tensors[name].repeat(2, 1)
    save_file({key: tensor.clone() for key, tensor in tensors.items()}, tmp_path / "model.safetensors")
    with pytest.raises(
        LoadError, match=r"transformer.h.1.mlp.c_fc.bias has the shape \[2, 128\] in the file and \[128\]"
    ):
        minitf.GPT2LMHeadModel.from_pretrained(tmp_path / "model.safetensors", config=model.config)


def test_an_unknown_variable_is_unexpected(tmp_path: Path) -> None:
    model = bert()
    tensors = {**keras_bert(weights(model)), "bert/pooler/dense/scale:0": torch.ones(3)}
    save_file({key: tensor.clone() for key, tensor in tensors.items()}, tmp_path / "model.safetensors")
    with pytest.raises(LoadError, match="1 names in the file are not explained: bert/pooler/dense/scale:0"):
        minitf.BertForPreTraining.from_pretrained(tmp_path / "model.safetensors", config=model.config)
