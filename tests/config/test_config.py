"""The configuration's strictness: what is refused, what is kept, what is written, and that others can read it."""

from __future__ import annotations

import copy
import json
import math
import pickle
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st

import minitf
from minitf.activations import ACT2FN
from minitf.config import CONFIG_NAME, BertConfig, PretrainedConfig, nearest_name
from tests.support import minilm_folder, shared_data


def write(folder: Path, values: Any, name: str = CONFIG_NAME) -> Path:
    """A folder with a config.json of these contents (a string is written as it is); returns the file."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    path.write_text(values if isinstance(values, str) else json.dumps(values), encoding="utf-8")
    return path


SMALL = {"hidden_size": 8, "num_attention_heads": 2, "num_hidden_layers": 3, "intermediate_size": 12, "vocab_size": 31}


# --------------------------------------------------------------------------------------------------------------------
# Names


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("hidden_sizes", "hidden_size"),
        ("num_layers", "num_labels"),
        ("num_attention_head", "num_attention_heads"),
        ("intermediatesize", "intermediate_size"),
        ("torch_dtypes", "torch_dtype"),
        ("output_attention", "output_attentions"),
    ],
)
def test_unknown_keyword_names_the_nearest(name: str, nearest: str) -> None:
    with pytest.raises(TypeError, match=f"BertConfig has no setting '{name}'; did you mean '{nearest}'"):
        BertConfig(**{name: 1})


def test_unknown_keyword_far_from_everything() -> None:
    with pytest.raises(TypeError, match=r"BertConfig has no setting 'zzz'$"):
        BertConfig(zzz=1)


def test_positional_arguments_are_refused() -> None:
    with pytest.raises(TypeError, match="takes its settings by name"):
        BertConfig(30522)  # type: ignore[call-arg]


def test_unknown_attribute_reading_and_setting() -> None:
    config = BertConfig()
    with pytest.raises(AttributeError, match="BertConfig has no setting 'hidden_sise'; did you mean 'hidden_size'"):
        config.hidden_sise = 4
    with pytest.raises(AttributeError, match="BertConfig has no setting 'hidden_sise'; did you mean 'hidden_size'"):
        _ = config.hidden_sise
    assert not hasattr(config, "n_embd")
    with pytest.raises(AttributeError, match="model_type"):
        config.model_type = "gpt2"  # type: ignore[misc]
    with pytest.raises(AttributeError):
        config.unknown_keys = {}  # type: ignore[misc]


def test_nearest_name() -> None:
    assert nearest_name("attension", ["attention", "other"]) == "; did you mean 'attention'?"
    assert nearest_name("xyz", ["attention", "other"]) == ""


def test_aliases_read_set_and_construct() -> None:
    config = BertConfig(torch_dtype=torch.float16)
    assert config.dtype == config.torch_dtype == "float16"  # stored under its JSON name
    config.torch_dtype = "torch.bfloat16"
    assert config.dtype == "bfloat16"
    config._attn_implementation = "eager"
    assert config.attn_implementation == config._attn_implementation == "eager"
    assert "torch_dtype" not in config.__dict__
    with pytest.raises(TypeError, match=r"'dtype' and 'torch_dtype' are one setting under two names"):
        BertConfig(dtype="float32", torch_dtype="float16")
    assert BertConfig(dtype="float32", torch_dtype="float32").dtype == "float32"


def test_aliases_of_an_architecture() -> None:
    class Renamed(BertConfig):
        attribute_map = {"n_embd": "hidden_size", "n_layer": "num_hidden_layers"}  # noqa: RUF012

    config = Renamed(n_embd=24)
    assert config.hidden_size == config.n_embd == 24
    config.n_layer = 2
    assert config.num_hidden_layers == 2
    assert "n_embd" not in config.to_dict()
    assert Renamed.from_dict({"n_embd": 36}).hidden_size == 36
    with pytest.raises(ValueError, match=r"Renamed\.num_hidden_layers = 0"):
        config.n_layer = 0


def test_settings_stand_in_the_instance_dictionary() -> None:
    assert BertConfig(initializer_range=0.5).__dict__["initializer_range"] == 0.5


# --------------------------------------------------------------------------------------------------------------------
# Values

NAN, INFINITE = math.nan, math.inf
SIZES = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
SIZES += ("max_position_embeddings", "type_vocab_size")
FLAGS = ("output_hidden_states", "output_attentions", "return_dict", "tie_word_embeddings", "use_cache", "is_decoder")
FLAGS += ("add_cross_attention", "gradient_checkpointing", "torchscript")

REFUSED_VALUES = [
    *((name, value, "an integer >= 1") for name in SIZES for value in (0, -1, 1.0, "8", None, True, NAN, [8])),
    *(("chunk_size_feed_forward", value, "an integer >= 0") for value in (-1, 0.5, None, False)),
    *((name, value, "True or False") for name in FLAGS for value in (0, 1, None, "true")),
    *(
        (name, value, "a number from 0 to 1")
        for name in ("hidden_dropout_prob", "attention_probs_dropout_prob", "classifier_dropout")
        for value in (-0.1, 1.1, NAN, INFINITE, "0.1", True)
    ),
    ("hidden_dropout_prob", None, "a number from 0 to 1"),
    *(
        (name, value, "a number > 0")
        for name in ("initializer_range", "layer_norm_eps")
        for value in (0.0, -1e-12, NAN, INFINITE, -INFINITE, "1e-12", None, True)
    ),
    *(
        (name, value, "a token id")
        for name in ("pad_token_id", "bos_token_id", "eos_token_id")
        for value in (-1, 0.0, "0", True, NAN)
    ),
    *(("eos_token_id", value, "a list of token ids") for value in ([], [1, -1], [True], [[1]])),
    *(("hidden_act", value, "the name of an implemented activation") for value in ("gelus", None, 3, ["gelu"])),
    *(
        ("position_embedding_type", value, "one of 'absolute', 'relative_key', 'relative_key_query'")
        for value in ("rotary", None, "Absolute", ["absolute"])
    ),
    *(("problem_type", value, "one of None, 'regression'") for value in ("classification", 1)),
    *(("dtype", value, "one of None, 'float32'") for value in ("int8", torch.int64, "float", 32)),
    *(("architectures", value, "a list of class names") for value in ("BertModel", [1], ("BertModel",))),
    *(("attn_implementation", value, "the name of an attention function") for value in (None, 1)),
    *(
        ("pruned_heads", value, "a dictionary {layer: [heads]}")
        for value in (None, [0], {0: 1}, {0: [0.5]}, {"0": [1]}, {True: [0]})
    ),
    *(
        ("id2label", value, "a non-empty dictionary {0: name, 1: name, ...} without gaps")
        for value in (
            {},
            {1: "a"},
            {0: "a", 2: "b"},
            ["a", "b"],
            {"0": "a"},
            {0: 1},
            {False: "a", True: "b"},
            {None: "a"},
        )
    ),
    *(("label2id", value, "the inverse of id2label") for value in (["a"], {0: 0}, {"a": "0"}, {"a": False})),
    *(("num_labels", value, "an integer >= 1") for value in (0, -1, 2.0, "2", True)),
]


@pytest.mark.parametrize(("name", "value", "rule"), REFUSED_VALUES, ids=lambda value: repr(value)[:40])
def test_value_is_refused_by_constructor_assignment_and_json(name: str, value: Any, rule: str) -> None:
    message = re.escape(f"BertConfig.{name} = ") + ".*: expected .*" + re.escape(rule)
    with pytest.raises(ValueError, match=message):
        BertConfig(**{name: value})
    config = BertConfig()
    before = config.to_dict()
    with pytest.raises(ValueError, match=message):
        setattr(config, name, value)
    assert config.to_dict() == before
    if name not in ("pruned_heads", "id2label"):  # their JSON keys are strings: tested on their own below
        with pytest.raises(ValueError, match=r"made by hand: BertConfig\." + name):
            BertConfig.from_dict({name: value}, source="made by hand")


def test_huge_integer_is_not_an_accident() -> None:
    assert BertConfig(layer_norm_eps=10**400).layer_norm_eps == 10**400  # a number > 0, however silly
    with pytest.raises(ValueError, match="a number from 0 to 1"):
        BertConfig(hidden_dropout_prob=10**400)


@pytest.mark.parametrize("name", ACT2FN)
def test_every_activation_is_accepted(name: str) -> None:
    assert BertConfig(hidden_act=name).hidden_act == name


def test_hidden_act_as_a_function() -> None:
    config = BertConfig(hidden_act=torch.relu)
    assert config.hidden_act is torch.relu
    assert "relu" in repr(config)
    assert copy.deepcopy(config) == config
    with pytest.raises(ValueError, match=r"BertConfig\.hidden_act is a function, which JSON cannot hold: register it"):
        config.to_json_string()


def test_function_is_not_written_to_disk(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="hidden_act is a function"):
        BertConfig(hidden_act=torch.relu).save_pretrained(tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"hidden_size": 100}, r"hidden_size = 100 is not divisible by num_attention_heads = 12"),
        ({"num_attention_heads": 7}, r"hidden_size = 768 is not divisible by num_attention_heads = 7"),
        ({"vocab_size": 5, "pad_token_id": 5}, r"pad_token_id = 5 is outside of the vocabulary of 5 words"),
        ({"add_cross_attention": True}, r"add_cross_attention = True needs is_decoder = True"),
        (
            {"pruned_heads": {12: [0]}},
            r"pruned_heads = \{12: \[0\]\} names heads that do not exist.*12 layers of 12 heads",
        ),
        ({"pruned_heads": {0: [0, 12]}}, r"pruned_heads = \{0: \[0, 12\]\} names heads that do not exist"),
    ],
)
def test_keys_that_contradict_each_other(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        BertConfig(**values)
    config = BertConfig()
    for name, value in values.items():
        setattr(config, name, value)
    with pytest.raises(ValueError, match=message):  # a single assignment may pass through a contradiction ...
        config.validate()
    with pytest.raises(ValueError, match=message):  # ... but neither a model nor a file is made of one
        minitf.BertModel(config)
    with pytest.raises(ValueError, match=message):
        config.to_json_string()


def test_negative_layers_and_heads_count_from_the_end() -> None:
    """What transformers 4.49 wrote after `prune_heads({0: [1], -1: [0]})`."""
    config = BertConfig.from_dict({"pruned_heads": {"-1": [0], "0": [1, -1], "11": [3]}})
    assert config.pruned_heads == {11: [0, 3], 0: [1, 11]}
    with pytest.raises(ValueError, match=r"pruned_heads = \{-13: \[0\]\} names heads that do not exist"):
        BertConfig(pruned_heads={-13: [0]})


def test_pruned_heads_under_the_names_of_gpt2() -> None:
    assert minitf.GPT2Config(n_layer=2, pruned_heads={1: [11]}).pruned_heads == {1: [11]}
    with pytest.raises(ValueError, match=r"GPT2Config\.pruned_heads = \{2: \[0\]\} .* 2 layers of 12 heads"):
        minitf.GPT2Config(n_layer=2, pruned_heads={2: [0]})


@pytest.mark.parametrize(
    ("key", "refused", "implemented", "why"),
    [
        ("is_encoder_decoder", True, False, "encoder-decoder models are not implemented"),
        ("quantization_config", {"bits": 8}, None, "quantised weights are not implemented"),
        ("cross_attention_hidden_size", 32, None, "cross-attention to another width is not implemented"),
        ("tie_encoder_decoder", True, False, "tying an encoder to a decoder is not implemented"),
    ],
)
def test_known_key_with_an_unimplemented_value(
    tmp_path: Path, key: str, refused: Any, implemented: Any, why: str
) -> None:
    path = write(tmp_path, {key: refused})
    with pytest.raises(
        ValueError, match=re.escape(f"{path} has {key} = {refused!r}, but {why}: expected {implemented!r}")
    ):
        BertConfig.from_pretrained(tmp_path)
    write(tmp_path, {key: implemented})
    config = BertConfig.from_pretrained(tmp_path)
    assert config.unknown_keys == {}  # known, and what it says holds
    assert json.loads(config.to_json_string())[key] == implemented
    with pytest.raises(ValueError, match=why):
        setattr(config, key, refused)
    with pytest.raises(ValueError, match=why):
        BertConfig(**{key: refused})
    assert BertConfig(**{key: implemented}) == BertConfig()


def test_mutable_values_are_copied() -> None:
    labels, pruned, files = {0: "no", 1: "yes"}, {0: [1]}, {"id2label": {"0": "a"}, "task_specific": {"x": [1]}}
    config = BertConfig(id2label=labels, pruned_heads=pruned)
    labels[2] = "maybe"
    pruned[0].append(5)
    assert config.id2label == {0: "no", 1: "yes"}
    assert config.pruned_heads == {0: [1]}
    config = BertConfig.from_dict(files)
    files["task_specific"]["x"].append(2)
    assert config.task_specific == {"x": [1]}
    config.to_dict()["task_specific"]["x"].append(3)
    assert config.task_specific == {"x": [1]}
    first, second = BertConfig(), BertConfig()
    first.pruned_heads[0] = [1]
    first.id2label[0] = "x"
    assert second.pruned_heads == {}
    assert second.id2label == {0: "LABEL_0", 1: "LABEL_1"}


def test_in_place_changes_are_checked_when_they_are_used() -> None:
    config = BertConfig()
    config.id2label[0] = "negative"
    with pytest.raises(ValueError, match=r"id2label .* and label2id .* contradict each other"):
        minitf.BertModel(config)
    config = BertConfig()
    config.pruned_heads["0"] = [1]  # type: ignore[index]
    with pytest.raises(ValueError, match="pruned_heads"):
        config.to_json_string()


# --------------------------------------------------------------------------------------------------------------------
# Labels


def test_labels_follow_each_other() -> None:
    config = BertConfig()
    assert config.num_labels == 2
    assert config.id2label == {0: "LABEL_0", 1: "LABEL_1"}
    assert config.label2id == {"LABEL_0": 0, "LABEL_1": 1}

    config.num_labels = 3
    assert config.id2label == {0: "LABEL_0", 1: "LABEL_1", 2: "LABEL_2"}
    assert config.label2id == {"LABEL_0": 0, "LABEL_1": 1, "LABEL_2": 2}

    config.id2label = {0: "no", 1: "yes"}
    assert config.label2id == {"no": 0, "yes": 1}
    assert config.num_labels == 2
    config.num_labels = 2  # the number is right already: the names stay
    assert config.id2label == {0: "no", 1: "yes"}

    config.label2id = {"b": 1, "c": 2, "a": 0}
    assert config.id2label == {0: "a", 1: "b", 2: "c"}
    assert list(config.id2label) == [0, 1, 2]
    assert config.num_labels == 3


@pytest.mark.parametrize(
    "values",
    [
        {"id2label": {0: "a", 1: "b", 2: "c"}},
        {"label2id": {"a": 0, "b": 1, "c": 2}},
        {"label2id": {"c": 2, "a": 0, "b": 1}, "num_labels": 3},
        {"id2label": {0: "a", 1: "b", 2: "c"}, "label2id": {"a": 0, "b": 1, "c": 2}, "num_labels": 3},
        {"id2label": {0: "a", 1: "b", 2: "c"}, "label2id": None, "num_labels": None},
    ],
)
def test_labels_given_to_the_constructor_or_in_json(values: dict[str, Any]) -> None:
    for config in (BertConfig(**values), BertConfig.from_dict(json.loads(json.dumps(values)))):
        assert config.num_labels == 3
        assert config.id2label == {0: "a", 1: "b", 2: "c"}
        assert config.label2id == {"a": 0, "b": 1, "c": 2}
        config.validate()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"id2label": {0: "a", 1: "b"}, "label2id": {"a": 1, "b": 0}}, "contradict each other"),
        ({"id2label": {0: "a", 1: "b"}, "label2id": {"a": 0}}, "contradict each other"),
        ({"id2label": {0: "a", 1: "b"}, "label2id": {"a": 0, "c": 1}}, "contradict each other"),
        ({"id2label": {0: "a", 1: "a"}}, "contradict each other"),  # one name cannot mean two numbers
        ({"label2id": {"a": 0, "b": 0}}, "the numbers 0 to 1, each once"),
        ({"label2id": {"a": 1, "b": 2}}, "the numbers 0 to 1, each once"),
        ({"id2label": {0: "a", 1: "b"}, "num_labels": 3}, r"num_labels=3, but id2label names 2 labels"),
        ({"label2id": {"a": 0, "b": 1}, "num_labels": 3}, r"num_labels=3, but id2label names 2 labels"),
    ],
)
def test_labels_that_contradict_each_other(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        BertConfig(**values)
    with pytest.raises(ValueError, match="the dictionary: .*" + message):
        BertConfig.from_dict(json.loads(json.dumps(values)))


def test_labels_in_old_files() -> None:
    assert BertConfig.from_dict({"num_labels": 5}).id2label[4] == "LABEL_4"
    assert BertConfig.from_dict({"_num_labels": 3}).num_labels == 3
    assert BertConfig.from_dict({"num_labels": 3, "id2label": None, "label2id": None}).num_labels == 3
    old = BertConfig.from_dict({"_num_labels": 2, "num_labels": 2, "id2label": {"0": "x", "1": "y"}})
    assert old.label2id == {"x": 0, "y": 1}
    assert old.unknown_keys == {}
    assert "num_labels" not in json.loads(old.to_json_string())
    with pytest.raises(ValueError, match="num_labels=5, but id2label names 2 labels"):
        BertConfig.from_dict({"_num_labels": 5, "id2label": {"0": "x", "1": "y"}})
    with pytest.raises(ValueError, match="num_labels = 2 and _num_labels = 3"):
        BertConfig.from_dict({"num_labels": 2, "_num_labels": 3})
    with pytest.raises(ValueError, match=r"num_labels = 'two': expected an integer >= 1"):
        BertConfig.from_dict({"num_labels": "two"})


@pytest.mark.parametrize(
    "keys", [{"x": 1, "y": 2}, {"0": "a", "00": "b"}, {"0": "a", "1.5": "b"}], ids=["words", "twice", "fraction"]
)
def test_integer_keys_of_json(keys: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"the dictionary: id2label = .*(integers as keys|stands there twice)"):
        BertConfig.from_dict({"id2label": keys})


def test_labels_and_overrides() -> None:
    file = {"id2label": {"0": "x", "1": "y"}, "label2id": {"x": 0, "y": 1}}
    assert BertConfig.from_dict(file, num_labels=2).id2label == {0: "x", 1: "y"}
    assert BertConfig.from_dict(file, num_labels=4).label2id == {f"LABEL_{i}": i for i in range(4)}
    assert BertConfig.from_dict(file, id2label={0: "a"}).label2id == {"a": 0}
    assert BertConfig.from_dict(file, label2id={"a": 0, "b": 1, "c": 2}).id2label == {0: "a", 1: "b", 2: "c"}
    counted = {"num_labels": 2, **file}
    assert BertConfig.from_dict(counted, num_labels=4).num_labels == 4
    assert BertConfig.from_dict(counted, id2label={0: "a", 1: "b", 2: "c"}).num_labels == 3
    with pytest.raises(ValueError, match="num_labels=3, but id2label names 1"):
        BertConfig.from_dict(file, num_labels=3, id2label={0: "a"})


# --------------------------------------------------------------------------------------------------------------------
# JSON


def test_unknown_json_key_is_kept_listed_and_written_back(tmp_path: Path) -> None:
    path = write(tmp_path / "a", {**SMALL, "directionality": "bidi", "nested": {"a": [1, None]}, "_name_or_path": "x"})
    config = BertConfig.from_pretrained(tmp_path / "a")
    assert config.unknown_keys == {"directionality": "bidi", "nested": {"a": [1, None]}}
    assert config.directionality == "bidi"
    assert config._name_or_path == "x"  # provenance: kept, not listed
    config.directionality = "left"
    config.save_pretrained(tmp_path / "b")
    written = json.loads((tmp_path / "b" / CONFIG_NAME).read_text())
    assert written["directionality"] == "left"
    assert written["nested"] == {"a": [1, None]}
    assert written["_name_or_path"] == "x"
    assert BertConfig.from_pretrained(tmp_path / "b") == config
    assert config != BertConfig.from_json_file(path)
    with pytest.raises(TypeError, match="directionality"):  # kept from a file, and still no setting
        BertConfig.from_pretrained(tmp_path / "a", directionality="left")


def test_unknown_key_cannot_shadow_the_class(tmp_path: Path) -> None:
    write(tmp_path, {"to_dict": 1, "validate": 2, "_fields": 3, "unknown_keys": 4})
    config = BertConfig.from_pretrained(tmp_path)
    assert config.unknown_keys == {"to_dict": 1, "validate": 2, "_fields": 3, "unknown_keys": 4}
    assert config.to_dict()["to_dict"] == 1
    config.validate()


@pytest.mark.parametrize("as_path", [str, Path], ids=["str", "Path"])
def test_places_to_read_from(tmp_path: Path, as_path: Any) -> None:
    path = write(tmp_path / "folder", SMALL)
    other = write(tmp_path, SMALL, name="bert_config.json")
    expected = BertConfig(**SMALL)
    for place in (tmp_path / "folder", path, other):
        assert BertConfig.from_pretrained(as_path(place)) == expected
    assert BertConfig.from_pretrained(f"{tmp_path / 'folder'}/") == expected
    assert BertConfig.from_json_file(as_path(other)) == expected
    assert BertConfig.get_config_dict(as_path(tmp_path / "folder")) == (SMALL, {})
    assert BertConfig.get_config_dict(as_path(path)) == (SMALL, {})


def test_relative_folder_name_is_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "bert-base-uncased", SMALL)
    monkeypatch.chdir(tmp_path)
    assert BertConfig.from_pretrained("bert-base-uncased").hidden_size == 8


def test_overrides(tmp_path: Path) -> None:
    write(tmp_path, {**SMALL, "torch_dtype": "float16"})
    config = BertConfig.from_pretrained(tmp_path, num_hidden_layers=10, output_attentions=True, dtype="float64")
    assert (config.num_hidden_layers, config.output_attentions, config.dtype) == (10, True, "float64")
    assert BertConfig.from_pretrained(tmp_path, torch_dtype=torch.float32).dtype == "float32"
    assert BertConfig.from_json_file(tmp_path / CONFIG_NAME, hidden_size=16).hidden_size == 16
    with pytest.raises(TypeError, match="'num_hidden_layer'; did you mean 'num_hidden_layers'"):
        BertConfig.from_pretrained(tmp_path, num_hidden_layer=10)
    with pytest.raises(ValueError, match=r"hidden_size = 9 is not divisible"):
        BertConfig.from_pretrained(tmp_path, hidden_size=9)
    with pytest.raises(TypeError, match="one setting under two names"):
        BertConfig.from_pretrained(tmp_path, dtype="float32", torch_dtype="float16")


def test_one_setting_under_two_names_in_a_file(tmp_path: Path) -> None:
    path = write(tmp_path, {"dtype": "float32", "torch_dtype": "float16"})
    with pytest.raises(ValueError, match=re.escape(str(path)) + ".*'dtype' and 'torch_dtype' are one setting"):
        BertConfig.from_pretrained(tmp_path)
    write(tmp_path, {"dtype": "float16", "torch_dtype": "float16"})
    assert BertConfig.from_pretrained(tmp_path).dtype == "float16"


def test_very_many_keys_are_read_in_time(tmp_path: Path) -> None:
    """Each compared with each, 100,000 labels took minutes."""
    labels = {str(number): f"label {number}" for number in range(100_000)}
    path = write(tmp_path, {"id2label": labels})
    start = time.perf_counter()
    assert BertConfig.from_pretrained(path).num_labels == 100_000
    assert time.perf_counter() - start < 20


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"hidden_size": 768, "hidden_size": 384}', "the key 'hidden_size' stands twice"),
        ('{"id2label": {"0": "a", "0": "b"}}', "the key '0' stands twice"),
        ('{"hidden_size": 768,}', "is not a readable JSON file"),
        ("", "is not a readable JSON file"),
        ("hello", "is not a readable JSON file"),
        ("[" * 100_000, "is not a readable JSON file"),
        ("[1, 2]", "holds a JSON list; expected an object"),
        ('"bert"', "holds a JSON str; expected an object"),
        ("null", "holds a JSON NoneType; expected an object"),
        ('{"layer_norm_eps": NaN}', "layer_norm_eps = nan: expected a number > 0"),
        ('{"initializer_range": 1e400}', "initializer_range = inf: expected a number > 0"),
        ('{"hidden_size": true}', "hidden_size = True: expected an integer >= 1"),
    ],
)
def test_broken_json(tmp_path: Path, text: str, message: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(ValueError, match=re.escape(str(path)) + ".*" + message):
        BertConfig.from_pretrained(tmp_path)


def test_file_that_is_not_text(tmp_path: Path) -> None:
    (tmp_path / CONFIG_NAME).write_bytes(b"\xff\xfe\x00\x80 not utf-8")
    with pytest.raises(ValueError, match="is not a readable JSON file"):
        BertConfig.from_pretrained(tmp_path)


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"holds no config\.json \(it holds: nothing\)"):
        BertConfig.from_pretrained(tmp_path)
    (tmp_path / "notes.txt").touch()
    with pytest.raises(FileNotFoundError, match=r"holds no config\.json \(it holds: notes\.txt\)"):
        BertConfig.get_config_dict(tmp_path)
    with pytest.raises(FileNotFoundError, match="absent"):
        BertConfig.from_json_file(tmp_path / "absent.json")
    with pytest.raises(NotADirectoryError, match="is a file; save_pretrained needs a folder"):
        BertConfig().save_pretrained(tmp_path / "notes.txt")


@pytest.mark.parametrize("values", [{}, {"model_type": None}, {"model_type": ""}, {"model_type": "bert"}])
def test_model_type_may_be_missing(tmp_path: Path, values: dict[str, Any]) -> None:
    write(tmp_path, {**SMALL, **values})
    assert BertConfig.from_pretrained(tmp_path).to_dict()["model_type"] == "bert"


@pytest.mark.parametrize("model_type", ["gpt2", "roberta", "BERT", 3])
def test_another_model_type_names_both(tmp_path: Path, model_type: Any) -> None:
    path = write(tmp_path, {**SMALL, "model_type": model_type})
    with pytest.raises(
        ValueError, match=re.escape(f"{path} says model_type {model_type!r}, but BertConfig reads 'bert'")
    ):
        BertConfig.from_pretrained(tmp_path)


def test_hand_edited_file_behaves_so(tmp_path: Path) -> None:
    minitf.BertModel(BertConfig(**SMALL)).save_pretrained(tmp_path)
    ids = torch.tensor([[1, 2, 3]])
    assert minitf.BertModel.from_pretrained(tmp_path)(ids).attentions is None
    values = json.loads((tmp_path / CONFIG_NAME).read_text())
    write(tmp_path, {**values, "output_attentions": True, "output_hidden_states": True})
    outputs = minitf.BertModel.from_pretrained(tmp_path)(ids)
    assert len(outputs.attentions) == 3
    assert len(outputs.hidden_states) == 4


def test_folder_is_made_and_the_file_replaced(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "b"
    BertConfig(num_hidden_layers=2).save_pretrained(folder)
    BertConfig(num_hidden_layers=4).save_pretrained(folder)
    assert [path.name for path in folder.iterdir()] == [CONFIG_NAME]
    assert BertConfig.from_pretrained(folder).num_hidden_layers == 4


def test_the_attention_function_is_not_part_of_the_file() -> None:
    config = BertConfig(attn_implementation="eager")
    assert "attn_implementation" not in config.to_dict()
    assert config == BertConfig()  # how it is computed, not what
    assert copy.deepcopy(config).attn_implementation == "eager"
    assert pickle.loads(pickle.dumps(config)).attn_implementation == "eager"
    assert BertConfig.from_dict({"_attn_implementation": "eager"}).attn_implementation == "eager"


# --------------------------------------------------------------------------------------------------------------------
# Python's protocols


def test_equality_copy_and_pickle() -> None:
    config = BertConfig.from_dict({**SMALL, "other_tool": [1], "pruned_heads": {"1": [0]}}, id2label={0: "a"})
    assert config == BertConfig.from_dict(config.to_dict())
    assert config != BertConfig(**SMALL)
    assert config != config.to_dict()
    for again in (copy.copy(config), copy.deepcopy(config), pickle.loads(pickle.dumps(config))):
        assert again == config
        assert again is not config
        assert again.unknown_keys == {"other_tool": [1]}
        assert (again.num_labels, again.pruned_heads) == (1, {1: [0]})
    deep = copy.deepcopy(config)
    deep.id2label[0] = "b"
    deep.unknown_keys["other_tool"].append(2)
    assert config.id2label == {0: "a"}
    assert config.other_tool == [1]
    with pytest.raises(TypeError, match="unhashable"):
        hash(config)

    class Relative(BertConfig):
        pass

    assert Relative() != BertConfig()


def test_repr_names_the_class_and_every_value() -> None:
    """The printed facts of the configuration (bert-base-uncased)."""
    text = repr(BertConfig())
    assert text.startswith("BertConfig {")
    facts = json.loads(text.removeprefix("BertConfig "))
    assert facts["layer_norm_eps"] == 1e-12
    assert facts["model_type"] == "bert"
    assert facts["pad_token_id"] == 0
    assert facts["num_hidden_layers"] == 12
    assert facts["vocab_size"] == 30522
    assert facts["num_attention_heads"] == 12
    assert facts["hidden_size"] // facts["num_attention_heads"] == 64
    assert facts["intermediate_size"] == 3072 == 4 * facts["hidden_size"]
    assert facts["max_position_embeddings"] == 512
    assert facts["output_hidden_states"] is False
    assert facts["hidden_act"] == "gelu"
    assert list(facts) == sorted(facts)


def test_class_facts() -> None:
    assert issubclass(BertConfig, PretrainedConfig)
    assert BertConfig.__module__ == "minitf.config"
    assert minitf.BertConfig is BertConfig
    assert minitf.BertModel.config_class is BertConfig


def test_a_configuration_determines_one_model() -> None:
    def shapes(config: BertConfig) -> dict[str, torch.Size]:
        with torch.device("meta"):
            return {name: tensor.shape for name, tensor in minitf.BertModel(config).state_dict().items()}

    config = BertConfig(**SMALL)
    assert shapes(config) == shapes(BertConfig.from_dict(config.to_dict()))
    assert shapes(config) != shapes(BertConfig(**{**SMALL, "num_hidden_layers": 2}))


def test_importing_the_configuration_does_not_import_torch() -> None:
    code = "import sys, minitf.config; assert 'torch' not in sys.modules; print('free of torch')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "free of torch\n"


# --------------------------------------------------------------------------------------------------------------------
# Other people's files

CHINESE = {  # bert-base-chinese and bert-base-multilingual-cased as published
    "architectures": ["BertForMaskedLM"],
    "attention_probs_dropout_prob": 0.1,
    "directionality": "bidi",
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.1,
    "hidden_size": 768,
    "initializer_range": 0.02,
    "intermediate_size": 3072,
    "layer_norm_eps": 1e-12,
    "max_position_embeddings": 512,
    "model_type": "bert",
    "num_attention_heads": 12,
    "num_hidden_layers": 12,
    "pad_token_id": 0,
    "pooler_fc_size": 768,
    "pooler_num_attention_heads": 12,
    "pooler_num_fc_layers": 3,
    "pooler_size_per_head": 128,
    "pooler_type": "first_token_transform",
    "type_vocab_size": 2,
    "vocab_size": 21128,
}
GOOGLE = {  # bert_config.json of Google's release: neither model_type nor layer_norm_eps
    "attention_probs_dropout_prob": 0.1,
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.1,
    "hidden_size": 768,
    "initializer_range": 0.02,
    "intermediate_size": 3072,
    "max_position_embeddings": 512,
    "num_attention_heads": 12,
    "num_hidden_layers": 12,
    "type_vocab_size": 2,
    "vocab_size": 30522,
}
UNCASED = {  # bert-base-uncased as published
    **GOOGLE,
    "architectures": ["BertForMaskedLM"],
    "gradient_checkpointing": False,
    "layer_norm_eps": 1e-12,
    "model_type": "bert",
    "pad_token_id": 0,
    "position_embedding_type": "absolute",
    "transformers_version": "4.6.0.dev0",
    "use_cache": True,
}
FINE_TUNED = {  # a classifier saved by an early version of transformers
    **GOOGLE,
    "_num_labels": 3,
    "do_sample": False,
    "eos_token_ids": 0,
    "finetuning_task": "mnli",
    "id2label": {"0": "LABEL_0", "1": "LABEL_1", "2": "LABEL_2"},
    "is_decoder": False,
    "label2id": {"LABEL_0": 0, "LABEL_1": 1, "LABEL_2": 2},
    "layer_norm_eps": 1e-12,
    "num_return_sequences": 1,
    "output_past": True,
    "pruned_heads": {},
    "torchscript": False,
    "use_bfloat16": False,
}


@pytest.mark.parametrize(
    ("values", "unknown"),
    [
        (
            CHINESE,
            {
                "directionality",
                "pooler_fc_size",
                "pooler_num_attention_heads",
                "pooler_num_fc_layers",
                "pooler_size_per_head",
                "pooler_type",
            },
        ),
        (GOOGLE, set()),
        (UNCASED, set()),
        (
            FINE_TUNED,
            {"do_sample", "eos_token_ids", "finetuning_task", "num_return_sequences", "output_past", "use_bfloat16"},
        ),
    ],
    ids=["chinese", "google", "uncased", "fine-tuned"],
)
def test_published_files(tmp_path: Path, values: dict[str, Any], unknown: set[str]) -> None:
    write(tmp_path, values)
    config = BertConfig.from_pretrained(tmp_path)
    assert set(config.unknown_keys) == unknown
    plain = {key: value for key, value in values.items() if key not in ("model_type", "_num_labels", "id2label")}
    for key, value in plain.items():
        assert getattr(config, key) == value
    written = json.loads(config.to_json_string())
    assert {key: written[key] for key in plain} == plain
    assert BertConfig.from_dict(written) == config


def test_the_real_checkpoints() -> None:
    config = BertConfig.from_pretrained(minilm_folder())
    assert (config.hidden_size, config.num_hidden_layers, config.num_attention_heads) == (384, 6, 12)
    assert config.vocab_size == 30522


def test_the_shared_checkpoints() -> None:
    config = BertConfig.from_pretrained(shared_data("checkpoints", "ticket-bert"))
    assert (config.hidden_size, config.num_hidden_layers, config.num_labels) == (96, 2, 6)


TO_SHARE: list[dict[str, Any]] = [
    {},
    {**SMALL, "hidden_act": "gelu_new", "layer_norm_eps": 1e-5, "pad_token_id": None, "torch_dtype": "float16"},
    {"is_decoder": True, "add_cross_attention": True, "use_cache": False, "eos_token_id": [1, 2], "bos_token_id": 3},
    {
        "id2label": {0: "a", 1: "b", 2: "c"},
        "label2id": {"a": 0, "b": 1, "c": 2},
        "problem_type": "multi_label_classification",
        "classifier_dropout": 0.3,
    },
    {"tie_word_embeddings": False, "output_attentions": True, "output_hidden_states": True, "return_dict": False},
    {"chunk_size_feed_forward": 2, "architectures": ["BertModel"], "initializer_range": 0.5},
]


def comparable(values: dict[str, Any]) -> dict[str, Any]:
    """A config.json as both libraries mean it: one name for the dtype, integer label numbers."""
    values = dict(values)
    dtype = values.pop("torch_dtype", None) or values.pop("dtype", None)
    values.pop("dtype", None)
    labels = {int(number): name for number, name in (values.get("id2label") or {}).items()}
    return {**values, "dtype": str(dtype).removeprefix("torch."), "id2label": labels}


@pytest.mark.parametrize("values", TO_SHARE, ids=range(len(TO_SHARE)))
def test_transformers_reads_ours_and_we_read_theirs(tmp_path: Path, values: dict[str, Any]) -> None:
    ours = BertConfig(**values)
    ours.save_pretrained(tmp_path / "ours")
    theirs = transformers.BertConfig.from_pretrained(tmp_path / "ours")
    mine, read = comparable(ours.to_dict()), comparable(theirs.to_dict())
    shared = mine.keys() & read.keys()
    assert len(shared) >= 28
    assert {key: mine[key] for key in shared} == {key: read[key] for key in shared}
    assert {"vocab_size", "hidden_act", "id2label", "dtype", "layer_norm_eps", "is_decoder"} <= shared

    direct = transformers.BertConfig(**values)
    direct.save_pretrained(tmp_path / "theirs")
    again = BertConfig.from_pretrained(tmp_path / "theirs")
    assert again.unknown_keys == {}
    back, original = comparable(again.to_dict()), comparable(direct.to_dict())
    shared = back.keys() & original.keys()
    assert {key: back[key] for key in shared} == {key: original[key] for key in shared}
    assert comparable(again.to_dict()).items() >= {(k, v) for k, v in mine.items() if isinstance(v, (int, float, str))}


def test_defaults_equal_those_of_transformers() -> None:
    mine, theirs = comparable(BertConfig().to_dict()), comparable(transformers.BertConfig().to_dict())
    only_theirs = theirs.keys() - mine.keys()
    assert only_theirs == {"_name_or_path", "transformers_version", "is_encoder_decoder"}
    # Keys that transformers 5 dropped although published files and 4.x code use them.
    assert mine.keys() - theirs.keys() == {
        "gradient_checkpointing",
        "position_embedding_type",
        "pruned_heads",
        "torchscript",
    }
    assert {key: mine[key] for key in mine.keys() & theirs.keys()} == {
        key: theirs[key] for key in mine.keys() & theirs.keys()
    }


# --------------------------------------------------------------------------------------------------------------------
# Any valid configuration

words = st.text(min_size=1, max_size=8)
fractions = st.floats(0, 1) | st.integers(0, 1)
positives = st.floats(min_value=1e-30, max_value=1e3)
ids = st.integers(0, 99)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)


@st.composite
def valid_settings(draw: st.DrawFn) -> dict[str, Any]:
    heads = draw(st.integers(1, 6))
    layers = draw(st.integers(1, 5))
    decoder = draw(st.booleans())
    flags = ("output_hidden_states", "output_attentions", "return_dict", "tie_word_embeddings", "use_cache")
    values: dict[str, Any] = {
        "vocab_size": draw(st.integers(100, 10**6)),
        "num_attention_heads": heads,
        "hidden_size": heads * draw(st.integers(1, 64)),
        "num_hidden_layers": layers,
        "intermediate_size": draw(st.integers(1, 4096)),
        "max_position_embeddings": draw(st.integers(1, 4096)),
        "type_vocab_size": draw(st.integers(1, 8)),
        "hidden_act": draw(st.sampled_from(sorted(ACT2FN))),
        "hidden_dropout_prob": draw(fractions),
        "attention_probs_dropout_prob": draw(fractions),
        "classifier_dropout": draw(st.none() | fractions),
        "initializer_range": draw(positives),
        "layer_norm_eps": draw(positives),
        "pad_token_id": draw(st.none() | ids),
        "bos_token_id": draw(st.none() | ids),
        "eos_token_id": draw(st.none() | ids | st.lists(ids, min_size=1, max_size=3)),
        "position_embedding_type": draw(st.sampled_from(["absolute", "relative_key", "relative_key_query"])),
        "is_decoder": decoder,
        "add_cross_attention": decoder and draw(st.booleans()),
        "gradient_checkpointing": draw(st.booleans()),
        "torchscript": draw(st.booleans()),
        "chunk_size_feed_forward": draw(st.integers(0, 9)),
        "dtype": draw(st.sampled_from([None, "float32", "float16", "bfloat16", "float64"])),
        "architectures": draw(st.none() | st.lists(words, max_size=2)),
        "pruned_heads": draw(
            st.dictionaries(
                st.integers(0, layers - 1),
                st.lists(st.integers(0, heads - 1), max_size=heads, unique=True).map(sorted),
                max_size=3,
            )
        ),
        "id2label": dict(enumerate(draw(st.lists(words, min_size=1, max_size=5, unique=True)))),
        "problem_type": draw(
            st.sampled_from([None, "regression", "single_label_classification", "multi_label_classification"])
        ),
        **{name: draw(st.booleans()) for name in flags},
    }
    kept = draw(st.sets(st.sampled_from(sorted(values)), max_size=len(values)))
    sizes = {"vocab_size", "num_attention_heads", "hidden_size", "num_hidden_layers", "pruned_heads", "is_decoder"}
    return {name: value for name, value in values.items() if name in kept | sizes}


@settings(max_examples=150, deadline=None)
@given(
    values=valid_settings(), extra=st.dictionaries(st.text("abcxyz_", min_size=3, max_size=9), json_values, max_size=3)
)
def test_any_valid_configuration_makes_the_round_trip(values: dict[str, Any], extra: dict[str, Any]) -> None:
    config = BertConfig(**values)
    for name, value in values.items():
        assert getattr(config, name) == value
    text = config.to_json_string()
    assert BertConfig.from_dict(json.loads(text)) == config
    assert BertConfig.from_dict(config.to_dict()) == config
    assert BertConfig.from_dict(json.loads(text)).to_json_string() == text
    with_extra = BertConfig.from_dict({**json.loads(text), **extra})
    assert with_extra.unknown_keys == extra
    assert BertConfig.from_dict(json.loads(with_extra.to_json_string())) == with_extra
    assert copy.deepcopy(with_extra) == with_extra == pickle.loads(pickle.dumps(with_extra))
