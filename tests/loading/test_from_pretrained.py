"""from_pretrained and save_pretrained: what fits is loaded exactly, what does not is an error that says why."""

from __future__ import annotations

import json
import logging
import pickle
import re
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

import minitf
from minitf import BertConfig, BertForMaskedLM, BertForSequenceClassification, BertModel
from tests.parity.bert_pairs import TINY
from tests.support import padded_batch, randomise_


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A small checkpoint of BertModel with random values everywhere."""
    randomise_(BertModel(BertConfig(**TINY))).save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def edit_config(folder: Path, **values: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def edit_weights(folder: Path, change: Any) -> None:
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def equal(a: torch.nn.Module, b: torch.nn.Module) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a.parameters(), b.parameters(), strict=True))


# -- what people really have -----------------------------------------------------------------------------------------


def test_every_way_to_name_a_checkpoint(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = BertModel.from_pretrained(folder)
    config = BertConfig.from_pretrained(folder)
    weights = folder / "model.safetensors"
    monkeypatch.chdir(folder.parent)
    for name, settings in (
        (str(folder), {}),
        (f"{folder}/", {}),
        ("model", {}),
        ("./model/", {}),
        (weights, {}),
        (weights, {"config": config}),
        (folder, {"config": folder / "config.json"}),
        (folder, {"config": str(folder)}),
    ):
        assert equal(BertModel.from_pretrained(name, **settings), expected)


def test_a_weights_file_with_a_configuration_object(folder: Path, tmp_path: Path) -> None:
    model = BertModel.from_pretrained(folder)
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    loaded = BertModel.from_pretrained(tmp_path / "pytorch_model.bin", config=BertConfig.from_pretrained(folder))
    assert equal(loaded, model)
    with pytest.raises(FileNotFoundError, match=r"without a config\.json beside it: pass config="):
        BertModel.from_pretrained(tmp_path / "pytorch_model.bin")


def test_the_configuration_object_is_copied(folder: Path) -> None:
    config = BertConfig.from_pretrained(folder)
    model = BertModel.from_pretrained(folder, config=config, attn_implementation="eager")
    assert config.attn_implementation == "sdpa"
    assert model.config.attn_implementation == "eager"


def test_published_names_gamma_and_beta_and_the_prefix(folder: Path) -> None:
    expected = BertModel.from_pretrained(folder)

    def old_names(tensors: dict[str, torch.Tensor]) -> None:
        for name in list(tensors):
            new = "bert." + name.replace("LayerNorm.weight", "LayerNorm.gamma").replace(
                "LayerNorm.bias", "LayerNorm.beta"
            )
            tensors[new] = tensors.pop(name)

    edit_weights(folder, old_names)
    loaded = BertModel.from_pretrained(folder)
    assert equal(loaded, expected)
    assert loaded.load_report.dialect == "hf-legacy"
    assert len(loaded.load_report.renamed) == 10
    assert "bert.embeddings.LayerNorm.{" in str(loaded.load_report)
    assert "gamma" in str(loaded.load_report)
    head = BertForMaskedLM.from_pretrained(folder)
    assert equal(head.bert.embeddings, expected.embeddings)


def test_settings_go_to_the_configuration_or_the_constructor(folder: Path) -> None:
    model = BertForSequenceClassification.from_pretrained(folder, num_labels=5, output_hidden_states=True)
    assert model.classifier.out_features == 5
    assert model.config.id2label[4] == "LABEL_4"
    inputs = padded_batch(vocab_size=61)
    assert len(model(**inputs).hidden_states) == 3
    assert BertModel.from_pretrained(folder, add_pooling_layer=False).pooler is None


def test_hand_edited_config_changes_behaviour(folder: Path) -> None:
    inputs = padded_batch(vocab_size=61)
    assert BertModel.from_pretrained(folder)(**inputs).attentions is None
    before = BertModel.from_pretrained(folder)(**inputs).last_hidden_state
    edit_config(folder, output_attentions=True, hidden_act="gelu_new")
    after = BertModel.from_pretrained(folder)(**inputs)
    assert len(after.attentions) == 2
    assert not torch.equal(after.last_hidden_state, before)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16, "float64", "torch.bfloat16"])
def test_dtype_converts_and_says_so(folder: Path, dtype: Any) -> None:
    model = BertModel.from_pretrained(folder, dtype=dtype)
    wanted = dtype if isinstance(dtype, torch.dtype) else getattr(torch, dtype.removeprefix("torch."))
    assert {p.dtype for p in model.parameters()} == {wanted}
    exact = BertModel.from_pretrained(folder)
    for a, b in zip(model.parameters(), exact.parameters(), strict=True):
        assert torch.equal(a, b.to(wanted))
    assert len(model.load_report.converted) == len(list(model.parameters()))
    assert equal(BertModel.from_pretrained(folder, torch_dtype=dtype), model)


@pytest.mark.parametrize(
    ("stored", "value", "dtype", "words"),
    [
        (torch.float32, 1e5, "float16", r"infinite in float16 \(largest: 65504\): pass dtype='float32' or 'bfloat16'"),
        (torch.float64, -1e300, "float32", r"infinite in float32 \(largest: 3.40282e\+38\): pass dtype='float64'\."),
        (torch.float32, 3.4e38, "bfloat16", r"infinite in bfloat16"),
    ],
)
def test_no_number_becomes_infinite(folder: Path, stored: torch.dtype, value: float, dtype: str, words: str) -> None:
    """transformers converts without a word."""
    name = "encoder.layer.1.output.dense.bias"

    def change(tensors: dict[str, torch.Tensor]) -> None:
        tensors.update({key: tensor.to(stored) for key, tensor in tensors.items()})
        tensors[name][3], tensors[name][4] = value, torch.inf

    edit_weights(folder, change)
    with pytest.raises(RuntimeError, match=f"{re.escape(name)} holds numbers of .*{words}"):
        BertModel.from_pretrained(folder, dtype=dtype)
    assert BertModel.from_pretrained(folder, dtype=stored).state_dict()[name][3].isfinite()
    edit_weights(folder, lambda tensors: tensors[name].__setitem__(3, torch.inf))
    assert BertModel.from_pretrained(folder, dtype=dtype).state_dict()[name][3].isinf()  # as it is in the file


def test_the_stored_dtype_is_the_default(folder: Path, tmp_path: Path) -> None:
    BertModel.from_pretrained(folder).to(torch.bfloat16).save_pretrained(tmp_path / "half")
    assert json.loads((tmp_path / "half" / "config.json").read_text())["torch_dtype"] == "bfloat16"
    assert BertModel.from_pretrained(tmp_path / "half").dtype == torch.bfloat16
    edit_config(tmp_path / "half", torch_dtype=None)
    assert BertModel.from_pretrained(tmp_path / "half").dtype == torch.bfloat16
    assert BertModel.from_pretrained(tmp_path / "half", dtype="auto").load_report.converted == []
    with pytest.raises(ValueError, match="dtype = 'int8': expected float32"):
        BertModel.from_pretrained(folder, dtype="int8")
    with pytest.raises(TypeError, match="two names of one argument"):
        BertModel.from_pretrained(folder, dtype="float32", torch_dtype="float32")


def test_the_model_owns_its_memory_unless_mapped(folder: Path) -> None:
    inputs = padded_batch(vocab_size=61)
    model = BertModel.from_pretrained(folder)
    mapped = BertModel.from_pretrained(folder, mmap=True)
    assert equal(mapped, model)
    with torch.no_grad():
        before = model(**inputs).last_hidden_state
        assert torch.equal(mapped(**inputs).last_hidden_state, before)
    del mapped
    with (folder / "model.safetensors").open("r+b") as file:  # the file shrinks to nothing under the loaded model
        file.truncate(0)
    with torch.no_grad():
        assert torch.equal(model(**inputs).last_hidden_state, before)


def test_mmap_refuses_what_it_cannot_share(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="mmap=True shares the file's own memory"):
        BertModel.from_pretrained(folder, mmap=True, dtype="float64")
    BertModel.from_pretrained(folder).save_pretrained(tmp_path / "bin", safe_serialization=False)
    with pytest.raises(ValueError, match="expected a safetensors file to map"):
        BertModel.from_pretrained(tmp_path / "bin", mmap=True)


def test_loading_info_as_in_transformers(folder: Path) -> None:
    model, info = BertForSequenceClassification.from_pretrained(folder, output_loading_info=True)
    assert info == {
        "missing_keys": ["classifier.weight", "classifier.bias"], "unexpected_keys": [], "mismatched_keys": []
    }  # fmt: skip
    assert isinstance(model, BertForSequenceClassification)


def test_unknown_keys_are_kept_written_back_and_reported(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    edit_config(folder, pooler_type="first_token_transform", hiden_size=3)
    model = BertModel.from_pretrained(folder)
    assert model.load_report.config_unknown == {"pooler_type": "first_token_transform", "hiden_size": 3}
    assert "hiden_size" in str(model.load_report)
    assert "'hiden_size', which has no effect; did you mean 'hidden_size'?" in caplog.text
    model.save_pretrained(tmp_path / "again")
    assert json.loads((tmp_path / "again" / "config.json").read_text())["pooler_type"] == "first_token_transform"


def test_one_more_label_with_ignore_mismatched_sizes(folder: Path, tmp_path: Path) -> None:
    three = randomise_(BertForSequenceClassification(BertConfig(**TINY, num_labels=3)))
    three.save_pretrained(tmp_path / "three")
    load = BertForSequenceClassification.from_pretrained
    with pytest.raises(RuntimeError, match=r"classifier.weight has the shape \[3, 64\].*ignore_mismatched_sizes=True"):
        load(tmp_path / "three", num_labels=4)
    four = load(tmp_path / "three", num_labels=4, ignore_mismatched_sizes=True)
    assert four.classifier.out_features == 4
    assert equal(four.bert, three.bert)
    # the trunk is never initialised anew
    edit_weights(folder, lambda t: t.update({"embeddings.LayerNorm.bias": torch.zeros(65)}))
    with pytest.raises(RuntimeError, match=r"embeddings.LayerNorm.bias has the shape \[65\] in the file and \[64\]"):
        BertModel.from_pretrained(folder, ignore_mismatched_sizes=True)


def test_tied_names_with_different_values_are_an_error(tmp_path: Path) -> None:
    model = randomise_(BertForMaskedLM(BertConfig(**TINY)))
    model.save_pretrained(tmp_path)
    stored = load_file(tmp_path / "model.safetensors")
    assert "cls.predictions.decoder.weight" not in stored  # saved once
    assert "cls.predictions.decoder.bias" not in stored
    word = "bert.embeddings.word_embeddings.weight"
    edit_weights(tmp_path, lambda t: t.update({"cls.predictions.decoder.weight": t[word].clone()}))
    assert equal(BertForMaskedLM.from_pretrained(tmp_path), model)
    edit_weights(tmp_path, lambda t: t.update({"cls.predictions.decoder.weight": t[word] + 1}))
    with pytest.raises(
        ValueError,
        match="hold different values, but they are one parameter in this model: load with tie_word_embeddings=False",
    ):
        BertForMaskedLM.from_pretrained(tmp_path)
    untied = BertForMaskedLM.from_pretrained(tmp_path, tie_word_embeddings=False)
    assert torch.equal(untied.get_output_embeddings().weight, model.get_input_embeddings().weight + 1)


def test_the_bias_that_transformers_trained_untied_is_the_one_with_an_effect(tmp_path: Path) -> None:
    """5.x unties the bias's two names together with the matrix; only `decoder.bias` is used and trained there."""
    theirs = randomise_(transformers.BertForMaskedLM(transformers.BertConfig(**TINY, tie_word_embeddings=False))).eval()
    theirs.save_pretrained(tmp_path)
    ours = BertForMaskedLM.from_pretrained(tmp_path)
    inputs = padded_batch(vocab_size=61)
    assert not torch.equal(theirs.cls.predictions.bias, theirs.cls.predictions.decoder.bias)
    with torch.no_grad():
        assert torch.allclose(ours(**inputs).logits, theirs(**inputs).logits, atol=1e-5)
    assert "cls.predictions.decoder.bias is used" in str(ours.load_report)


def test_ties_survive_a_move_and_an_assigned_state_dict() -> None:
    model = BertForMaskedLM(BertConfig(**TINY))
    model.load_state_dict({name: tensor.clone() for name, tensor in model.state_dict().items()}, assign=True)
    model.check_ties()
    model.to("meta")
    model.check_ties()


def test_fewer_layers_only_when_asked(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(RuntimeError, match=r"more layers than num_hidden_layers = 1.*strict=False") as raised:
        BertModel.from_pretrained(folder, num_hidden_layers=1)
    assert "not loaded" in str(raised.value)
    assert "newly initialised" not in str(raised.value)
    with pytest.raises(RuntimeError, match=r"fewer layers than num_hidden_layers = 3"):
        BertModel.from_pretrained(folder, num_hidden_layers=3)
    with pytest.raises(RuntimeError, match=r"Compare position_embedding_type"):
        BertModel.from_pretrained(folder, position_embedding_type="relative_key")
    with caplog.at_level(logging.WARNING, logger="minitf"):
        model = BertModel.from_pretrained(folder, num_hidden_layers=1, strict=False)
    assert len(model.encoder.layer) == 1
    assert "left out, because no rule explains them: encoder.layer.1." in caplog.text


# -- bad input: each a clear error, within a second --------------------------------------------------------------------


class Payload:
    """What a hostile pickle does: run code when it is opened."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> Any:
        return (Path.touch, (self.marker,))


def break_empty(folder: Path) -> None:
    for file in folder.iterdir():
        file.unlink()


def break_no_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def break_truncated(folder: Path) -> None:
    data = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(data[: len(data) // 2])


def break_header(folder: Path) -> None:
    data = bytearray((folder / "model.safetensors").read_bytes())
    data[20:40] = b"\xff" * 20
    (folder / "model.safetensors").write_bytes(data)


def break_pickle(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    torch.save({"weight": Payload(folder.parent / "executed")}, folder / "pytorch_model.bin")


def break_bare_pickle(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Payload(folder.parent / "executed")))


def break_shard_index(folder: Path) -> None:
    names = list(load_file(folder / "model.safetensors"))
    (folder / "model.safetensors").rename(folder.parent / "outside.safetensors")
    index = {"metadata": {}, "weight_map": dict.fromkeys(names, "../outside.safetensors")}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def break_missing(folder: Path) -> None:
    edit_weights(folder, lambda t: t.pop("encoder.layer.1.attention.self.query.bias"))


def break_extra(folder: Path) -> None:
    edit_weights(folder, lambda t: t.update({"encoder.layer.1.adapter.weight": torch.zeros(2)}))


def break_misshapen(folder: Path) -> None:
    edit_config(folder, hidden_size=32)


def break_vocabulary(folder: Path) -> None:
    edit_config(folder, vocab_size=60)


def break_layers(folder: Path) -> None:
    edit_config(folder, num_hidden_layers=10**9)


def break_integers(folder: Path) -> None:
    edit_weights(folder, lambda t: t.update({"embeddings.LayerNorm.bias": torch.zeros(64, dtype=torch.int64)}))


def break_model_type(folder: Path) -> None:
    edit_config(folder, model_type="gpt2")


def break_config_value(folder: Path) -> None:
    edit_config(folder, position_embedding_type="rotary")


def break_config_json(folder: Path) -> None:
    (folder / "config.json").write_text("{not json")


def break_other_architecture(folder: Path) -> None:
    save_file(
        {"h.0.attn.c_attn.weight": torch.zeros(4, 4)} | {f"x{i}": torch.zeros(1) for i in range(5)},
        folder / "model.safetensors",
    )


BAD = [
    (break_empty, FileNotFoundError, r"no config\.json and no weights \(it is empty\): looked for.*model\.safetensors"),
    (break_no_weights, FileNotFoundError, r"model\.safetensors.*pytorch_model\.bin"),
    (break_truncated, ValueError, r"model\.safetensors"),
    (break_header, ValueError, r"model\.safetensors"),
    (break_pickle, ValueError, r"pytorch_model\.bin"),
    (break_bare_pickle, ValueError, r"pytorch_model\.bin"),
    (break_shard_index, ValueError, r"\.\./outside\.safetensors"),
    (break_missing, RuntimeError, r"missing in the file: encoder\.layer\.1\.attention\.self\.query\.bias\. Is the "),
    (break_extra, RuntimeError, r"1 names in the file are not explained: encoder\.layer\.1\.adapter\.weight"),
    (break_misshapen, RuntimeError, r"hidden_size = 32.*expected hidden_size = 64"),
    (break_vocabulary, RuntimeError, r"vocab_size = 60.*expected vocab_size = 61"),
    (break_layers, RuntimeError, r"num_hidden_layers = 1000000000, but the file holds only 39 tensors"),
    (break_integers, RuntimeError, r"embeddings\.LayerNorm\.bias is stored as integers"),
    (break_model_type, ValueError, r"model_type 'gpt2', but BertConfig reads 'bert'"),
    (break_config_value, ValueError, r"position_embedding_type = 'rotary': expected one of 'absolute'"),
    (break_config_json, ValueError, r"config\.json is not a readable JSON file"),
    (break_other_architecture, RuntimeError, r"no tensor of this file fits BertModel"),
]  # fmt: skip


@pytest.mark.parametrize(("damage", "error", "message"), BAD, ids=[damage.__name__[6:] for damage, _, _ in BAD])
def test_bad_folders(folder: Path, damage: Any, error: type[Exception], message: str) -> None:
    damage(folder)
    start = time.process_time()
    with pytest.raises(error, match=message):
        BertModel.from_pretrained(folder)
    assert time.process_time() - start < 1.0
    assert not (folder.parent / "executed").exists()


def test_a_missing_or_unreadable_path(tmp_path: Path) -> None:
    start = time.process_time()
    with pytest.raises(FileNotFoundError, match="no/such/folder"):
        BertModel.from_pretrained("./no/such/folder")
    (tmp_path / "config.json").mkdir()
    with pytest.raises(ValueError, match=r"config\.json: this is a directory; expected a regular file"):
        BertModel.from_pretrained(tmp_path)
    assert time.process_time() - start < 1.0


def test_misspelt_arguments_name_the_nearest(folder: Path) -> None:
    with pytest.raises(TypeError, match="no setting 'num_label'; did you mean 'num_labels'"):
        BertForSequenceClassification.from_pretrained(folder, num_label=3)
    with pytest.raises(TypeError, match="no setting 'atn_implementation'; did you mean 'attn_implementation'"):
        BertModel.from_pretrained(folder, atn_implementation="eager")
    with pytest.raises(TypeError, match="did you mean 'attention_mask'"):
        BertModel.from_pretrained(folder)(torch.tensor([[1]]), atention_mask=None)
    with pytest.raises(ValueError, match="strict = 'yes': expected 'auto', True or False"):
        BertModel.from_pretrained(folder, strict="yes")
    with pytest.raises(ValueError, match="strict = 1: expected 'auto', True or False"):
        BertModel.from_pretrained(folder, strict=1)
    with pytest.raises(TypeError, match=r"BertModel needs a BertConfig of minitf, and got a builtins\.str"):
        BertModel("bert-base-uncased")
    with pytest.raises(TypeError, match=r"got a transformers\..*from_dict\(config\.to_dict\(\)\)"):
        BertModel(transformers.BertConfig())
    with pytest.raises(TypeError, match=r"config is a transformers\..*from_dict\(config\.to_dict\(\)\)"):
        BertModel.from_pretrained(folder, config=transformers.BertConfig())
    assert BertConfig.from_dict(transformers.BertConfig(**TINY).to_dict()).hidden_size == 64
    with pytest.raises(TypeError, match="did you mean 'add_pooling_layer'"):
        BertModel(BertConfig(**TINY), add_poling_layer=False)
    with pytest.raises(TypeError, match="did you mean 'max_shard_size'"):
        BertModel.from_pretrained(folder).save_pretrained(folder, max_shard=1)


def test_bad_calls_of_a_loaded_model(folder: Path) -> None:
    model = BertModel.from_pretrained(folder)
    ids = torch.ones(2, 5, dtype=torch.long)
    with pytest.raises(ValueError, match=r"input_ids has 600 positions; this model has 40 \(max_position_embeddings\)"):
        model(torch.ones(1, 600, dtype=torch.long))
    with pytest.raises(ValueError, match=r"input_ids\[1, 3\] = 61, but vocab_size is 61"):
        model(ids.index_put((torch.tensor(1), torch.tensor(3)), torch.tensor(61)))
    with pytest.raises(ValueError, match=r"attention_mask has shape \[2, 4\].*5 key positions"):
        model(ids, attention_mask=torch.ones(2, 4))
    with pytest.raises(ValueError, match="not registered; known: eager, sdpa"):
        BertModel.from_pretrained(folder, attn_implementation="flash")
    model.config.attn_implementation = "flash"
    with pytest.raises(ValueError, match="not registered; known: eager, sdpa"):
        model(ids)


# -- saving ------------------------------------------------------------------------------------------------------------


def test_saving_refuses_a_file_and_a_function(folder: Path, tmp_path: Path) -> None:
    model = BertModel.from_pretrained(folder)
    (tmp_path / "file").write_text("")
    with pytest.raises(NotADirectoryError, match="needs a folder"):
        model.save_pretrained(tmp_path / "file")
    model.config.hidden_act = torch.nn.functional.relu
    with pytest.raises(ValueError, match="hidden_act is a function, which JSON cannot hold"):
        model.save_pretrained(tmp_path / "other")
    assert not (tmp_path / "other").exists()
    model.config.hidden_act = "gelu"
    with pytest.raises(ValueError, match="max_shard_size"):
        model.save_pretrained(tmp_path / "other", max_shard_size="abc")
    assert not (tmp_path / "other").exists()
    for nothing in ("", None):
        with pytest.raises(ValueError, match="the working directory is '\\.'"):
            model.save_pretrained(nothing)


def test_repr_is_one_line() -> None:
    text = repr(BertModel(BertConfig(**TINY)))
    assert text == "BertModel(2 layers, 63,... parameters, float32, cpu)".replace(
        "63,...", f"{BertModel(BertConfig(**TINY)).num_parameters():,}"
    )
    assert (
        minitf.BertModel(BertConfig(**TINY)).get_memory_footprint()
        == 4 * BertModel(BertConfig(**TINY)).num_parameters()
    )
