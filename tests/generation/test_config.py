"""GenerationConfig: rules, JSON in and out beside transformers', where settings come from, the file of a model."""

from __future__ import annotations

import copy
import dataclasses
import json
import logging
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

import minitf
from minitf.generation import prepare
from minitf.generation.config import GenerationConfig, UnknownSettingError
from tests.generation.pairs import ENDS, PAD, fresh, prompts

NAMES = [field.name for field in dataclasses.fields(GenerationConfig)]

BOGUS: dict[str, tuple[list[Any], str]] = {
    "max_length": ([0, -1, 2.5, "9", True, None], "an integer"),
    "max_new_tokens": ([0, -3, 1.5, True], "or None"),
    "min_length": ([-1, 0.5, None], "an integer"),
    "min_new_tokens": ([-1, 0.5], "or None"),
    "max_time": ([0, -1.0, "1"], "or None"),
    "stop_strings": (["", [], [""], [3], 3], "a text, a non-empty list of texts, or None"),
    "do_sample": ([1, 0, "yes", None], "True or False"),
    "num_beams": ([0, -2, 1.0, None], "an integer"),
    "num_beam_groups": ([0, 1.5, None], "an integer"),
    "penalty_alpha": ([-0.1, 1.1, "0.6"], "or None"),
    "constraints": (["word", 3, {}], "a list of minitf.generation.Constraint objects, or None"),
    "force_words_ids": ([[], [[]], [3], [["a"]], [[-1]], [[[5], []]]], "a list of words that must appear"),
    "prompt_lookup_num_tokens": ([0, -1, 2.5], "or None"),
    "early_stopping": (["always", 1, None, 0.5], "True, False or 'never'"),
    "length_penalty": (["1", None, float("nan"), float("inf")], "a number"),
    "diversity_penalty": (["1", None, float("nan")], "a number"),
    "temperature": ([0, 0.0, -1.0, "1", None, float("nan"), float("inf")], "> 0"),
    "top_k": ([-1, 2.5, None], "an integer"),
    "top_p": ([0.0, 1.1, -0.5, None], "a number > 0 and <= 1"),
    "min_p": ([-0.1, 1.1, "0"], "or None"),
    "top_h": ([0.0, 1.5], "a number > 0 and <= 1, or None"),
    "typical_p": ([0.0, 1.1, None], "a number > 0 and <= 1"),
    "epsilon_cutoff": ([-0.1, 1.0, None], "a number >= 0 and < 1"),
    "eta_cutoff": ([-0.1, 1.0, None], "a number >= 0 and < 1"),
    "repetition_penalty": ([0, -1.0, None], "> 0"),
    "no_repeat_ngram_size": ([-1, 1.5, None], "an integer"),
    "bad_words_ids": ([[], [5], [[]], [[-5]], [["a"]]], "a non-empty list of lists of token ids, or None"),
    "sequence_bias": ([{}, [], {5: 1.0}, {(5,): "much"}, {(): 1.0}, [[5, 1.0]]], "a dictionary {(id, id): number}"),
    "suppress_tokens": ([[], 5, [-1], [2.5]], "a non-empty list of token ids, or None"),
    "begin_suppress_tokens": ([[], 5, [-1]], "a non-empty list of token ids, or None"),
    "forced_bos_token_id": ([-1, 2.5, [5]], "or None"),
    "forced_eos_token_id": ([-1, 2.5, [2.5], "5"], "or None"),
    "exponential_decay_length_penalty": ([(1,), (1.5, 2.0), 3, (1, "2")], "(new tokens after which it begins, factor)"),
    "guidance_scale": ([0, -1.5, "2"], "or None"),
    "remove_invalid_values": ([1, None], "True or False"),
    "renormalize_logits": ([1, None], "True or False"),
    "num_assistant_tokens": ([0, 1.5, None], "an integer"),
    "num_assistant_tokens_schedule": (["fast", None, 3], "'constant', 'heuristic' or 'heuristic_transient'"),
    "assistant_confidence_threshold": ([-0.1, 1.5, None], "a number"),
    "max_matching_ngram_size": ([0, 1.5, None], "an integer"),
    "pad_token_id": ([-1, 2.5, "0", [1]], "or None"),
    "bos_token_id": ([-1, 2.5, [1]], "or None"),
    "eos_token_id": ([-1, 2.5, [2.5], [-1], "5"], "or None"),
    "num_return_sequences": ([0, 1.5, None], "an integer"),
    "use_cache": ([1, None], "True or False"),
    "output_scores": ([1, None], "True or False"),
    "output_logits": ([1, None], "True or False"),
    "output_attentions": ([1, None], "True or False"),
    "output_hidden_states": ([1, None], "True or False"),
    "return_dict_in_generate": ([1, None], "True or False"),
}

GOOD: dict[str, Any] = {
    "max_new_tokens": 7,
    "do_sample": True,
    "top_k": 0,
    "top_p": 0.9,
    "temperature": 0.7,
    "eos_token_id": ENDS,
    "pad_token_id": 0,
    "sequence_bias": {(5, 6): -2.0, (7,): 1.5},
    "bad_words_ids": [[3], [4, 5]],
    "exponential_decay_length_penalty": (3, 1.2),
    "early_stopping": "never",
    "stop_strings": ["\n\n", "end"],
}


def test_every_setting_has_bogus_values() -> None:
    assert set(BOGUS) == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_bogus_values(name: str) -> None:
    """Refused by the constructor, by assignment, and from a file, which is named; the message says what is expected."""
    values, expected = BOGUS[name]
    for value in values:
        with pytest.raises(ValueError, match=rf"^GenerationConfig\.{name} = ") as error:
            GenerationConfig(**{name: value})
        assert expected in str(error.value)
        config = GenerationConfig()
        with pytest.raises(ValueError, match=rf"GenerationConfig\.{name} = "):
            setattr(config, name, value)
        assert config == GenerationConfig()
        if value is not None and value != getattr(GenerationConfig, name):
            with pytest.raises(ValueError, match=rf"^file\.json: GenerationConfig\.{name} = "):
                GenerationConfig.from_dict({name: value}, source="file.json")


@pytest.mark.parametrize("name", NAMES)
def test_the_default_passes_its_own_rule(name: str) -> None:
    default = getattr(GenerationConfig(), name)
    config = GenerationConfig(**{name: default})
    assert config.given() == {name: default}


def test_defaults_are_those_of_transformers() -> None:
    """But where theirs is None, which they resolve to these values at the start of generate()."""
    theirs = transformers.GenerationConfig()
    for name in NAMES:
        if name in ("constraints", "force_words_ids", "diversity_penalty", "num_beam_groups", "penalty_alpha"):
            continue  # gone from 5.x
        value = getattr(theirs, name)
        assert value is None or value == getattr(GenerationConfig(), name), name


@pytest.mark.parametrize("name", ["max_new_token", "topk", "num_beam", "temperatur", "_REFUSED", "given", "labels"])
def test_unknown_names(name: str) -> None:
    for kind in (TypeError, ValueError, UnknownSettingError):
        with pytest.raises(kind, match=rf"has no setting '{name}'"):
            GenerationConfig(**{name: 1})
    config = GenerationConfig(top_k=3)
    with pytest.raises(UnknownSettingError):
        setattr(config, name, 1)
    with pytest.raises(UnknownSettingError):
        config.update(top_p=0.5, **{name: 1})
    assert config.given() == {"top_k": 3}
    with pytest.raises(UnknownSettingError):
        GenerationConfig.from_dict({}, **{name: 1})


def test_the_nearest_name_is_said() -> None:
    with pytest.raises(UnknownSettingError, match=r"'max_new_token'.*max_new_tokens"):
        GenerationConfig(max_new_token=3)


@pytest.mark.parametrize("name", sorted(GenerationConfig._REFUSED))
def test_settings_that_do_nothing_here(name: str) -> None:
    harmless, why = GenerationConfig._REFUSED[name]
    for value in harmless:
        assert GenerationConfig(**{name: value}) == GenerationConfig()
    with pytest.raises(ValueError, match=rf"{name} = 3 would have no effect: {why}"):
        GenerationConfig(**{name: 3})
    with pytest.raises(ValueError, match=rf"^file\.json: {name} = 3 would have no effect: {why}"):
        GenerationConfig.from_dict({name: 3}, source="file.json")


def test_joining() -> None:
    """What was given wins, even if it is the default's value; what was not given does not take part."""
    model = GenerationConfig(top_k=7, temperature=0.5, num_beams=3)
    call = GenerationConfig(top_k=50, top_p=0.9)
    joined = GenerationConfig().joined(model, call)
    assert joined.given() == {"top_k": 50, "temperature": 0.5, "num_beams": 3, "top_p": 0.9}
    assert model.joined(None) == model
    assert model.given() == {"top_k": 7, "temperature": 0.5, "num_beams": 3}
    assert call.given() == {"top_k": 50, "top_p": 0.9}


def test_lists_are_the_configs_own() -> None:
    ends = [5, 6]
    config = GenerationConfig(eos_token_id=ends)
    joined = GenerationConfig().joined(config)
    ends.append(7)
    assert config.eos_token_id == joined.eos_token_id == [5, 6]
    assert config.ends() == [5, 6]
    assert GenerationConfig(eos_token_id=4).ends() == [4]
    assert GenerationConfig().ends() == []


def test_copies_pickles_and_equality() -> None:
    config = GenerationConfig(**GOOD)
    for other in (copy.deepcopy(config), copy.copy(config), pickle.loads(pickle.dumps(config))):
        assert other == config
        assert other.to_dict() == config.to_dict()
        other.top_k = 9
        assert other != config
        assert config.top_k == 0
    assert config != object()
    assert repr(GenerationConfig(top_k=3)) == "GenerationConfig(top_k=3)"
    with pytest.raises(TypeError, match="unhashable"):
        hash(config)
    assert eval(repr(config)) == config


# --------------------------------------------------------------------------------------------------------------------
# JSON


def test_round_trip(tmp_path: Path) -> None:
    config = GenerationConfig.from_dict({**GOOD, "_from_model_config": True, "my_key": [1, 2]})
    config.save_pretrained(tmp_path / "new" / "folder")
    path = tmp_path / "new" / "folder" / "generation_config.json"
    again = GenerationConfig.from_pretrained(path.parent)
    assert again.given().keys() == GOOD.keys()
    assert again.unknown_keys == {"my_key": [1, 2]}
    again.save_pretrained(tmp_path)
    assert (tmp_path / "generation_config.json").read_text() == path.read_text()
    assert GenerationConfig.from_pretrained(path) == again
    assert GenerationConfig.from_pretrained(path, top_k=3).top_k == 3


def test_constraints_cannot_be_written(tmp_path: Path) -> None:
    config = GenerationConfig(constraints=[object()])
    with pytest.raises(ValueError, match="constraints are objects, which JSON cannot hold"):
        config.save_pretrained(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_transformers_reads_our_file(tmp_path: Path) -> None:
    settings = {key: value for key, value in GOOD.items() if key != "early_stopping"}
    GenerationConfig(**settings).save_pretrained(tmp_path)
    theirs = transformers.GenerationConfig.from_pretrained(tmp_path)
    for name, value in settings.items():
        found = getattr(theirs, name)
        if name == "sequence_bias":
            assert found == [[[5, 6], -2.0], [[7], 1.5]]
        else:
            assert found == (list(value) if isinstance(value, tuple) else value), name


def test_we_read_the_file_of_transformers(tmp_path: Path) -> None:
    settings = {**GOOD, "sequence_bias": [[[5, 6], -2.0], [[7], 1.5]], "num_beams": 3}
    transformers.GenerationConfig(**settings).save_pretrained(tmp_path)
    ours = GenerationConfig.from_pretrained(tmp_path)
    assert ours.to_dict()["transformers_version"] == transformers.__version__
    assert "transformers_version" not in ours.unknown_keys
    for name, value in settings.items():
        found = getattr(ours, name)
        assert found == (list(value) if isinstance(value, tuple) and isinstance(found, list) else value), name


LONG_FILE = {
    "_from_model_config": True, "assistant_confidence_threshold": 0.4, "assistant_early_exit": None,
    "assistant_lookbehind": 10, "begin_suppress_tokens": None, "bos_token_id": 50256, "cache_config": None,
    "cache_implementation": None, "constraints": None, "decoder_start_token_id": None, "diversity_penalty": 0.0,
    "do_sample": True, "early_stopping": False, "encoder_no_repeat_ngram_size": 0, "encoder_repetition_penalty": 1.0,
    "eos_token_id": 50256, "epsilon_cutoff": 0.0, "eta_cutoff": 0.0, "exponential_decay_length_penalty": None,
    "forced_bos_token_id": None, "forced_decoder_ids": None, "force_words_ids": None, "guidance_scale": None,
    "is_assistant": False, "length_penalty": 1.0, "low_memory": None, "max_length": 50, "max_matching_ngram_size": None,
    "max_new_tokens": None, "max_time": None, "min_length": 0, "min_new_tokens": None, "min_p": None,
    "no_repeat_ngram_size": 0, "num_assistant_tokens": 20, "num_assistant_tokens_schedule": "constant",
    "num_beam_groups": 1, "num_beams": 1, "num_return_sequences": 1, "output_attentions": False,
    "output_hidden_states": False, "output_logits": None, "output_scores": False, "pad_token_id": None,
    "penalty_alpha": None, "prefill_chunk_size": None, "remove_invalid_values": False, "renormalize_logits": False,
    "repetition_penalty": 1.0, "return_dict_in_generate": False, "return_legacy_cache": True, "sequence_bias": None,
    "stop_strings": None, "suppress_tokens": None, "temperature": 1.0, "token_healing": False, "top_k": 50,
    "top_p": 1.0, "transformers_version": "4.49.0", "typical_p": 1.0, "use_cache": True, "watermarking_config": None,
}  # fmt: skip
"""Every key that `GenerationConfig.to_dict()` of transformers 4.49.0 writes."""


def test_a_long_file_of_transformers_4() -> None:
    """It writes out every default and null; only what differs counts as given, and the rest has no effect there."""
    config = GenerationConfig.from_dict(LONG_FILE)
    assert config.given() == {"bos_token_id": 50256, "do_sample": True, "eos_token_id": 50256, "max_length": 50}
    assert set(config.unknown_keys) == {
        "assistant_early_exit", "assistant_lookbehind", "cache_config", "forced_decoder_ids", "is_assistant",
        "prefill_chunk_size", "return_legacy_cache",
    } | {name for name in LONG_FILE if name in GenerationConfig._REFUSED}  # fmt: skip


@pytest.mark.parametrize(
    ("text", "message"), [("{", "JSON"), ("[1]", "JSON|object"), ('{"top_k": -1}', r"top_k = -1: expected")]
)
def test_broken_files_are_named(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "generation_config.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=message) as error:
        GenerationConfig.from_pretrained(tmp_path)
    assert str(path) in str(error.value)


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"generation_config\.json"):
        GenerationConfig.from_pretrained(tmp_path)


# --------------------------------------------------------------------------------------------------------------------
# The model's own settings


def tiny(class_name: str = "GPT2LMHeadModel", **settings: Any) -> Any:
    sizes = {"vocab_size": 11, "n_positions": 16, "n_embd": 8, "n_layer": 1, "n_head": 2}
    config = minitf.GPT2Config(**{**sizes, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 3, **settings})
    return getattr(minitf, class_name)(config).eval()


def test_from_model_config() -> None:
    config = tiny().generation_config
    assert config.given() == {"pad_token_id": 3, "bos_token_id": 1, "eos_token_id": 2}


def test_settings_of_an_old_config_json(caplog: pytest.LogCaptureFixture) -> None:
    """They are defaults, those of the task first, and are named once."""
    prepare._said.clear()
    values = {
        **tiny().config.to_dict(),
        "max_length": 9,
        "top_k": 4,
        "output_hidden_states": False,
        "task_specific_params": {"text-generation": {"max_length": 12, "do_sample": True}, "other": {"num_beams": 3}},
    }
    model = minitf.GPT2LMHeadModel(minitf.GPT2Config.from_dict(values)).eval()
    with caplog.at_level(logging.WARNING, "minitf.generation"):
        assert model.generation_config.given() == {
            "max_length": 12, "do_sample": True, "top_k": 4, "pad_token_id": 3, "bos_token_id": 1, "eos_token_id": 2,
        }  # fmt: skip
        ids = torch.tensor([[5, 6, 7]])
        assert model.generate(ids, eos_token_id=[10], suppress_tokens=[10]).shape == (1, 12)
    said = [record.getMessage() for record in caplog.records]
    assert said == ["generation settings from config.json are in use: max_length = 12, do_sample = True, top_k = 4."]


def test_from_model_config_reads_the_task() -> None:
    values = {**tiny().config.to_dict(), "task_specific_params": {"summarization": {"num_beams": 3, "prefix": "x"}}}
    config = minitf.GPT2Config.from_dict(values)
    assert GenerationConfig.from_model_config(config).num_beams == 1
    assert GenerationConfig.from_model_config(config, task="summarization").num_beams == 3


def test_precedence() -> None:
    """defaults <- model.generation_config <- generation_config= <- keywords, seen by the number of new tokens."""
    model = tiny(eos_token_id=None)
    ids = torch.tensor([[5, 6, 7]])

    def new(**call: Any) -> int:
        return model.generate(ids, **call).shape[1] - 3

    assert new() == 13  # 20, as far as the model has positions
    model.generation_config = GenerationConfig(max_new_tokens=7)
    assert new() == 7
    assert new(generation_config=GenerationConfig(max_new_tokens=5)) == 5
    assert new(generation_config=GenerationConfig(max_new_tokens=5), max_new_tokens=3) == 3
    assert new(max_length=8) == 5  # the model's max_new_tokens gives way to the call's max_length
    assert new(max_new_tokens=None) == 13  # None takes the model's setting back
    assert new(top_k=None) == 7  # None = not given, where it is no value
    model.generation_config = GenerationConfig(max_length=9)
    assert new() == 6
    assert new(max_new_tokens=2) == 2
    assert model.generation_config.given() == {"max_length": 9}  # a call leaves the settings as they are


def test_only_a_config_of_this_package() -> None:
    model = tiny()
    with pytest.raises(TypeError, match=r"transformers.*expected a minitf GenerationConfig"):
        model.generate(torch.tensor([[5]]), generation_config=transformers.GenerationConfig())
    with pytest.raises(TypeError, match="is a dict; expected a minitf GenerationConfig"):
        model.generation_config = {"top_k": 3}


@pytest.mark.parametrize("class_name", ["GPT2LMHeadModel", "GPT2DoubleHeadsModel", "BertLMHeadModel"])
def test_saved_and_loaded_with_the_model(tmp_path: Path, class_name: str) -> None:
    ours, _ = fresh(class_name)
    ours.generation_config = GenerationConfig(max_new_tokens=5, num_beams=2, pad_token_id=PAD, eos_token_id=ENDS)
    ours.save_pretrained(tmp_path)
    again = type(ours).from_pretrained(tmp_path)
    assert again.generation_config == ours.generation_config
    made = prompts()
    assert torch.equal(again.generate(**made), ours.generate(**made))
    theirs = getattr(transformers, class_name).from_pretrained(tmp_path)
    assert torch.equal(theirs.generate(**made), ours.generate(**made))


def test_a_trunk_or_an_encoder_leaves_none_behind(tmp_path: Path) -> None:
    """generation_config.json is there exactly if the model in the folder can generate."""
    model = tiny()
    file = tmp_path / "generation_config.json"
    model.save_pretrained(tmp_path)
    assert json.loads(file.read_text())["eos_token_id"] == 2
    model.transformer.save_pretrained(tmp_path)
    assert not file.exists()
    model.save_pretrained(tmp_path)
    assert file.exists()
    sizes = {"vocab_size": 11, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    minitf.BertLMHeadModel(minitf.BertConfig(**sizes, is_decoder=True)).save_pretrained(tmp_path)
    assert file.exists()
    minitf.BertLMHeadModel(minitf.BertConfig(**sizes)).save_pretrained(tmp_path)
    assert not file.exists()


def test_a_broken_file_beside_the_weights(tmp_path: Path) -> None:
    tiny().save_pretrained(tmp_path)
    file = tmp_path / "generation_config.json"
    file.write_text('{"temperature": 0}')
    with pytest.raises(ValueError, match=r"temperature = 0: expected") as error:
        minitf.GPT2LMHeadModel.from_pretrained(tmp_path)
    assert str(file) in str(error.value)
    file.unlink()
    assert minitf.GPT2LMHeadModel.from_pretrained(tmp_path).generation_config.eos_token_id == 2


def test_settings_in_config_json_are_not_said_to_be_without_effect(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Old files hold settings of `generate`; a misspelt key of the model is still named, and null asks for nothing."""
    ours, _ = fresh("GPT2LMHeadModel")
    ours.save_pretrained(tmp_path)
    (tmp_path / "generation_config.json").unlink()
    path = tmp_path / "config.json"
    old = {
        "forced_bos_token_id": 3,
        "output_scores": False,
        "decoder_start_token_id": None,
        "n_layers": 2,
        "n_head_": None,
    }
    path.write_text(json.dumps({**json.loads(path.read_text()), **old}))
    with caplog.at_level(logging.WARNING, "minitf"):
        model = minitf.GPT2LMHeadModel.from_pretrained(tmp_path)
    said = [record.getMessage() for record in caplog.records if "which has no effect" in record.getMessage()]
    assert len(said) == 1
    assert said[0].startswith("config.json has the key 'n_layers', which has no effect; did you mean")
    assert model.generation_config.forced_bos_token_id == 3
