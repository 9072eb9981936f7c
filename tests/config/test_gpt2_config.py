"""GPT2Config: two names for each size, other people's files, and transformers both ways."""

from __future__ import annotations

import copy
import json
import pickle
import re
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st

import minitf
from minitf.activations import ACT2FN
from minitf.config import CONFIG_NAME, GPT2Config
from tests.config.test_config import comparable, write
from tests.support import shared_data

ALIASES = {
    "hidden_size": "n_embd",
    "max_position_embeddings": "n_positions",
    "num_attention_heads": "n_head",
    "num_hidden_layers": "n_layer",
}
SMALL = {"vocab_size": 31, "n_positions": 16, "n_embd": 8, "n_layer": 3, "n_head": 2}


# --------------------------------------------------------------------------------------------------------------------
# Names


def test_the_aliases_are_the_oracles() -> None:
    assert GPT2Config.attribute_map == transformers.GPT2Config.attribute_map == ALIASES


@pytest.mark.parametrize(("alias", "name"), ALIASES.items())
def test_an_alias_constructs_reads_and_sets(alias: str, name: str) -> None:
    config = GPT2Config(**{alias: 24})
    assert getattr(config, name) == getattr(config, alias) == 24
    setattr(config, alias, 48)
    assert getattr(config, name) == getattr(config, alias) == 48
    setattr(config, name, 12)
    assert getattr(config, alias) == 12
    assert alias not in config.__dict__
    assert alias not in config.to_dict()
    assert alias not in json.loads(config.to_json_string())
    assert getattr(GPT2Config.from_dict({alias: 24}), name) == 24
    assert getattr(GPT2Config.from_dict({}, **{alias: 24}), name) == 24
    with pytest.raises(ValueError, match=rf"GPT2Config\.{name} = 0: expected an integer >= 1"):
        setattr(config, alias, 0)
    with pytest.raises(ValueError, match=rf"GPT2Config\.{name} = '8': expected an integer >= 1"):
        GPT2Config(**{alias: "8"})


@pytest.mark.parametrize(("alias", "name"), ALIASES.items())
def test_both_names_at_once(tmp_path: Path, alias: str, name: str) -> None:
    with pytest.raises(TypeError, match=rf"'({alias}|{name})' .*'?({alias}|{name})"):
        GPT2Config(**{name: 12, alias: 24})
    assert getattr(GPT2Config(**{name: 24, alias: 24}), name) == 24
    write(tmp_path, {name: 12, alias: 24})
    with pytest.raises(ValueError, match=rf"config\.json.*{name}.*{alias}"):
        GPT2Config.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("name", "nearest"),
    [("n_layers", "n_layer"), ("n_heads", "n_head"), ("n_embed", "n_embd"), ("hidden_sise", "hidden_size"),
     ("activation_fn", "activation_function"), ("attn_dropout", "attn_pdrop")],
)  # fmt: skip
def test_unknown_names_name_the_nearest(name: str, nearest: str) -> None:
    with pytest.raises(TypeError, match=f"GPT2Config has no setting '{name}'; did you mean '{nearest}'"):
        GPT2Config(**{name: 1})
    with pytest.raises(AttributeError, match=f"GPT2Config has no setting '{name}'"):
        setattr(GPT2Config(), name, 1)


@pytest.mark.parametrize(
    "name", ["hidden_act", "layer_norm_eps", "type_vocab_size", "intermediate_size", "is_decoder", "n_ctx"]
)
def test_names_of_other_architectures_are_unknown(name: str) -> None:
    with pytest.raises(TypeError, match=f"GPT2Config has no setting '{name}'"):
        GPT2Config(**{name: 1})
    assert not hasattr(GPT2Config(), name)


# --------------------------------------------------------------------------------------------------------------------
# Values

REFUSED_VALUES = [
    *((name, value, "an integer >= 1") for name in SMALL for value in (0, -1, 1.0, None, True)),
    *(("n_inner", value, "an integer >= 1, or None") for value in (0, -1, 4.0, "8", True)),
    *(
        (name, value, "a number from 0 to 1")
        for name in ("resid_pdrop", "embd_pdrop", "attn_pdrop", "summary_first_dropout", "classifier_dropout")
        for value in (-0.1, 1.1, float("nan"), "0.1", True)
    ),
    *(
        (name, value, "a number > 0")
        for name in ("layer_norm_epsilon", "initializer_range")
        for value in (0.0, -1, None)
    ),
    *(
        (name, value, "True or False")
        for name in ("summary_use_proj", "summary_proj_to_labels", "scale_attn_weights", "reorder_and_upcast_attn",
                     "scale_attn_by_inverse_layer_idx", "use_cache", "add_cross_attention")
        for value in (0, 1, None)
    ),
    *(
        ("chunk_size_feed_forward", value, "0, because GPT-2's feed-forward layer does not run in pieces")
        for value in (1, 7, -1, None, False)
    ),
    *(("summary_type", value, "one of 'cls_index', 'last', 'first', 'mean'") for value in ("attn", "token_ids", None)),
    *(("summary_activation", value, "the name of an implemented activation, or None") for value in ("none", 3)),
    *(("activation_function", value, "the name of an implemented activation") for value in ("gelus", None, 3)),
    *((name, value, "a token id") for name in ("bos_token_id", "eos_token_id", "pad_token_id") for value in (-1, 0.0)),
]  # fmt: skip


@pytest.mark.parametrize(("name", "value", "rule"), REFUSED_VALUES, ids=lambda value: repr(value)[:40])
def test_value_is_refused_by_constructor_assignment_and_json(name: str, value: Any, rule: str) -> None:
    message = re.escape(f"GPT2Config.{name} = ") + ".*: expected .*" + re.escape(rule)
    with pytest.raises(ValueError, match=message):
        GPT2Config(**{name: value})
    config = GPT2Config()
    with pytest.raises(ValueError, match=message):
        setattr(config, name, value)
    assert config == GPT2Config()
    with pytest.raises(ValueError, match=r"made by hand: GPT2Config\." + name):
        GPT2Config.from_dict({name: value}, source="made by hand")


@pytest.mark.parametrize("values", [{"n_embd": 100}, {"n_head": 7}, {"hidden_size": 100}, {"num_attention_heads": 7}])
def test_the_width_is_divisible_by_the_heads(values: dict[str, Any]) -> None:
    message = r"n_embd = \d+ is not divisible by n_head = \d+: each head has n_embd / n_head columns"
    with pytest.raises(ValueError, match=message):
        GPT2Config(**values)
    config = GPT2Config()
    for name, value in values.items():
        setattr(config, name, value)
    with pytest.raises(ValueError, match=message):  # a single assignment may pass through a contradiction ...
        minitf.GPT2Model(config)  # ... but no model is made of one
    with pytest.raises(ValueError, match=message):
        config.to_json_string()


def test_facts_of_the_defaults() -> None:
    config = GPT2Config()
    assert (config.vocab_size, config.n_positions, config.n_embd, config.n_layer, config.n_head) == (
        50257,
        1024,
        768,
        12,
        12,
    )
    assert (config.bos_token_id, config.eos_token_id, config.pad_token_id) == (50256, 50256, None)
    assert (config.activation_function, config.layer_norm_epsilon, config.n_inner) == ("gelu_new", 1e-5, None)
    assert config.to_dict()["model_type"] == GPT2Config.model_type == "gpt2"
    assert minitf.GPT2LMHeadModel.config_class is GPT2Config


def test_functions_as_activations() -> None:
    config = GPT2Config(**SMALL, activation_function=torch.relu)
    assert minitf.GPT2Model(config).h[0].mlp.act is torch.relu
    with pytest.raises(ValueError, match=r"GPT2Config\.activation_function is a function, which JSON cannot hold"):
        config.to_json_string()


# --------------------------------------------------------------------------------------------------------------------
# Other people's files

PUBLISHED = {  # gpt2 as published
    "activation_function": "gelu_new",
    "architectures": ["GPT2LMHeadModel"],
    "attn_pdrop": 0.1,
    "bos_token_id": 50256,
    "embd_pdrop": 0.1,
    "eos_token_id": 50256,
    "initializer_range": 0.02,
    "layer_norm_epsilon": 1e-05,
    "model_type": "gpt2",
    "n_ctx": 1024,
    "n_embd": 768,
    "n_head": 12,
    "n_layer": 12,
    "n_positions": 1024,
    "resid_pdrop": 0.1,
    "summary_activation": None,
    "summary_first_dropout": 0.1,
    "summary_proj_to_labels": True,
    "summary_type": "cls_index",
    "summary_use_proj": True,
    "task_specific_params": {"text-generation": {"do_sample": True, "max_length": 50}},
    "vocab_size": 50257,
}


def test_the_published_file(tmp_path: Path) -> None:
    """n_ctx is a key that nothing reads; task_specific_params belong to generation. Both are kept and listed."""
    write(tmp_path, PUBLISHED)
    config = GPT2Config.from_pretrained(tmp_path)
    assert config.unknown_keys == {"n_ctx": 1024, "task_specific_params": PUBLISHED["task_specific_params"]}
    assert config.task_specific_params["text-generation"]["max_length"] == 50
    assert config.n_ctx == 1024
    written = json.loads(config.to_json_string())
    assert {key: written[key] for key in PUBLISHED} == PUBLISHED
    assert GPT2Config.from_dict(written) == config
    assert {key: value for key, value in config.to_dict().items() if key not in config.unknown_keys} == {
        **GPT2Config().to_dict(), "architectures": ["GPT2LMHeadModel"],
    }  # fmt: skip


@pytest.mark.parametrize("name", ["gpt2-medium", "gpt2-large", "gpt2-xl"])
def test_the_larger_models(name: str) -> None:
    """Their published parameter counts (with one matrix for words and scores)."""
    layers, width, heads, parameters = {
        "gpt2-medium": (24, 1024, 16, 354_823_168),
        "gpt2-large": (36, 1280, 20, 774_030_080),
        "gpt2-xl": (48, 1600, 25, 1_557_611_200),
    }[name]
    with torch.device("meta"):
        model = minitf.GPT2LMHeadModel(GPT2Config(n_layer=layers, n_embd=width, n_head=heads))
    assert model.num_parameters() == parameters


def test_the_shared_checkpoint() -> None:
    config = GPT2Config.from_pretrained(shared_data("checkpoints", "capp-gpt2"))
    assert (config.n_embd, config.n_layer, config.n_head, config.vocab_size, config.n_positions) == (64, 4, 4, 53, 512)
    assert config.unknown_keys == {"n_ctx": 512}
    assert (config.pad_token_id, config.eos_token_id) == (52, 51)


def test_another_architectures_file(tmp_path: Path) -> None:
    minitf.BertConfig().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="says model_type 'bert', but GPT2Config reads 'gpt2'"):
        GPT2Config.from_pretrained(tmp_path)


TO_SHARE: list[dict[str, Any]] = [
    {},
    {**SMALL, "n_inner": 20, "activation_function": "relu", "layer_norm_epsilon": 1e-6, "torch_dtype": "float16"},
    {"scale_attn_weights": False, "scale_attn_by_inverse_layer_idx": True, "reorder_and_upcast_attn": True},
    {"summary_type": "mean", "summary_use_proj": False, "summary_activation": "tanh", "summary_proj_to_labels": False},
    {"summary_first_dropout": 0.0, "resid_pdrop": 0.0, "embd_pdrop": 0.2, "attn_pdrop": 0.3, "classifier_dropout": 0.5},
    {"add_cross_attention": True, "use_cache": False, "tie_word_embeddings": False, "output_attentions": True},
    {"bos_token_id": 1, "eos_token_id": [1, 2], "pad_token_id": 3, "problem_type": "regression", "num_labels": 1},
    {"id2label": {0: "a", 1: "b", 2: "c"}, "label2id": {"a": 0, "b": 1, "c": 2}},
    {"hidden_size": 48, "num_hidden_layers": 5, "num_attention_heads": 3, "max_position_embeddings": 7},
]


@pytest.mark.parametrize("values", TO_SHARE, ids=range(len(TO_SHARE)))
def test_transformers_reads_ours_and_we_read_theirs(tmp_path: Path, values: dict[str, Any]) -> None:
    ours = GPT2Config(**values)
    ours.save_pretrained(tmp_path / "ours")
    theirs = transformers.GPT2Config.from_pretrained(tmp_path / "ours")
    mine, read = comparable(ours.to_dict()), comparable(theirs.to_dict())
    shared = mine.keys() & read.keys()
    assert len(shared) >= 34
    assert {key: mine[key] for key in shared} == {key: read[key] for key in shared}
    assert set(ALIASES.values()) | {"n_inner", "summary_type", "scale_attn_weights", "eos_token_id", "dtype"} <= shared

    direct = transformers.GPT2Config(**values)
    direct.save_pretrained(tmp_path / "theirs")
    again = GPT2Config.from_pretrained(tmp_path / "theirs")
    assert again.unknown_keys == {}
    back, original = comparable(again.to_dict()), comparable(direct.to_dict())
    shared = back.keys() & original.keys()
    assert {key: back[key] for key in shared} == {key: original[key] for key in shared}
    assert back.items() >= {(k, v) for k, v in mine.items() if isinstance(v, (int, float, str))}


def test_defaults_equal_those_of_transformers() -> None:
    mine, theirs = comparable(GPT2Config().to_dict()), comparable(transformers.GPT2Config().to_dict())
    assert theirs.keys() - mine.keys() == {"_name_or_path", "transformers_version", "is_encoder_decoder"}
    # Keys that transformers 5 dropped although published files and 4.x code use them, and one that it reads if set.
    assert mine.keys() - theirs.keys() == {
        "gradient_checkpointing",
        "pruned_heads",
        "torchscript",
        "classifier_dropout",
    }
    shared = mine.keys() & theirs.keys()
    assert {key: mine[key] for key in shared} == {key: theirs[key] for key in shared}


# --------------------------------------------------------------------------------------------------------------------
# Any valid configuration


@st.composite
def valid_settings(draw: st.DrawFn) -> dict[str, Any]:
    heads, layers = draw(st.integers(1, 6)), draw(st.integers(1, 5))
    fractions = st.floats(0, 1)
    names = {name: draw(st.sampled_from([name, alias])) for alias, name in ALIASES.items()}
    flags = ("summary_use_proj", "summary_proj_to_labels", "scale_attn_weights", "scale_attn_by_inverse_layer_idx",
             "reorder_and_upcast_attn", "use_cache", "add_cross_attention", "tie_word_embeddings")  # fmt: skip
    values = {
        "n_inner": draw(st.none() | st.integers(1, 4096)),
        "activation_function": draw(st.sampled_from(sorted(ACT2FN))),
        **{name: draw(fractions) for name in ("resid_pdrop", "embd_pdrop", "attn_pdrop", "summary_first_dropout")},
        "layer_norm_epsilon": draw(st.floats(min_value=1e-30, max_value=1e3)),
        "summary_type": draw(st.sampled_from(["cls_index", "last", "first", "mean"])),
        "summary_activation": draw(st.none() | st.sampled_from(sorted(ACT2FN))),
        **{name: draw(st.booleans()) for name in flags},
        "eos_token_id": draw(st.none() | st.integers(0, 99) | st.lists(st.integers(0, 99), min_size=1, max_size=3)),
        "pruned_heads": {
            draw(st.integers(0, layers - 1)): sorted(draw(st.sets(st.integers(0, heads - 1), min_size=1)))
        },
    }
    kept = draw(st.sets(st.sampled_from(sorted(values)))) | {"pruned_heads"}
    sizes = {names["n_head"]: heads, names["n_embd"]: heads * draw(st.integers(1, 64)), names["n_layer"]: layers,
             names["n_positions"]: draw(st.integers(1, 4096))}  # fmt: skip
    return {**sizes, **{name: value for name, value in values.items() if name in kept}}


@settings(max_examples=80, deadline=None)
@given(values=valid_settings())
def test_any_valid_configuration_makes_the_round_trip(values: dict[str, Any]) -> None:
    config = GPT2Config(**values)
    for name, value in values.items():
        assert getattr(config, name) == value
    text = config.to_json_string()
    assert GPT2Config.from_dict(json.loads(text)) == config == GPT2Config.from_dict(config.to_dict())
    assert GPT2Config.from_dict(json.loads(text)).to_json_string() == text
    assert copy.deepcopy(config) == config == pickle.loads(pickle.dumps(config))
    named = {ALIASES.get(name, name): value for name, value in values.items()}
    assert GPT2Config(**named) == config


def test_a_hand_edited_file_behaves_so(tmp_path: Path) -> None:
    minitf.GPT2Model(GPT2Config(**SMALL, bos_token_id=1, eos_token_id=1)).save_pretrained(tmp_path)
    ids = torch.tensor([[1, 2, 3]])
    before = minitf.GPT2Model.from_pretrained(tmp_path)(ids)
    assert before.attentions is None
    values = json.loads((tmp_path / CONFIG_NAME).read_text())
    write(tmp_path, {**values, "output_attentions": True, "scale_attn_weights": False, "use_cache": False})
    after = minitf.GPT2Model.from_pretrained(tmp_path)(ids)
    assert len(after.attentions) == 3
    assert after.past_key_values is None
    assert not torch.equal(after.last_hidden_state, before.last_hidden_state)
