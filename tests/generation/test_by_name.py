"""The strategies by name, and the recorded continuation of a trained model."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import minitf
from tests.generation.pairs import CLASSES, ENDS, PAD, assert_same, fresh, pair, prompts
from tests.support import shared_data

NAMES: dict[str, dict[str, Any]] = {
    "greedy_search": {"num_beams": 1, "do_sample": False},
    "sample": {"num_beams": 1, "do_sample": True},
    "beam_search": {"num_beams": 4, "do_sample": False},
    "beam_sample": {"num_beams": 4, "do_sample": True},
}
OUT = {"output_scores": True, "output_logits": True, "return_dict_in_generate": True}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("class_name", CLASSES)
def test_a_name_is_generate_with_its_settings(class_name: str, name: str) -> None:
    ours, _ = pair(class_name)
    settings = {"max_new_tokens": 9, "eos_token_id": ENDS, "pad_token_id": PAD, **OUT}
    found = []
    for call in (getattr(ours, name), lambda **given: ours.generate(**given, **NAMES[name])):
        torch.manual_seed(1)
        found.append(call(**prompts(), **settings))
    assert_same(found[0], found[1], tolerance=0)


def test_the_callers_settings_go_along() -> None:
    ours, _ = pair("GPT2LMHeadModel")
    made = prompts()
    call = {"max_new_tokens": 5, "pad_token_id": PAD}
    found = ours.beam_search(made["input_ids"], made["attention_mask"], num_beams=2, length_penalty=0.0, **call)
    assert torch.equal(found, ours.generate(**made, num_beams=2, length_penalty=0.0, **call))
    config = minitf.GenerationConfig(no_repeat_ngram_size=1, **call)
    found = ours.greedy_search(made["input_ids"], made["attention_mask"], config)
    assert torch.equal(found, ours.generate(**made, no_repeat_ngram_size=1, **call))


def test_a_name_wins_over_the_models_own_settings() -> None:
    ours, _ = fresh("GPT2LMHeadModel")
    expected = ours.generate(**prompts(), max_new_tokens=5, pad_token_id=PAD)
    ours.generation_config = minitf.GenerationConfig(do_sample=True, num_beams=3, max_new_tokens=5, pad_token_id=PAD)
    assert torch.equal(ours.greedy_search(**prompts()), expected)


@pytest.mark.parametrize(
    ("name", "settings", "other"),
    [
        ("greedy_search", {"do_sample": True}, "sample"),
        ("greedy_search", {"num_beams": 3}, "beam_search"),
        ("sample", {"do_sample": False}, "greedy_search"),
        ("beam_search", {"num_beams": 1}, "greedy_search"),
        ("beam_search", {"do_sample": True}, "beam_sample"),
        ("beam_search", {"num_beam_groups": 2}, "group_beam_search"),
        ("group_beam_search", {"num_beam_groups": 1}, "beam_search"),
        ("constrained_beam_search", {}, "beam_search"),
        ("contrastive_search", {"penalty_alpha": 0.0}, "greedy_search"),
        ("assisted_decoding", {}, "greedy_search"),
    ],
)
def test_settings_that_choose_another(name: str, settings: dict[str, Any], other: str) -> None:
    ours, _ = pair("GPT2LMHeadModel")
    with pytest.raises(ValueError, match=rf"{name}\(\) with these settings would be {other}: see minitf"):
        getattr(ours, name)(**prompts(), pad_token_id=PAD, max_new_tokens=3, **settings)


@pytest.mark.parametrize("name", NAMES)
def test_unknown_settings(name: str) -> None:
    ours, _ = pair("GPT2LMHeadModel")
    with pytest.raises(TypeError, match=r"has no setting 'max_new_token'.*max_new_tokens"):
        getattr(ours, name)(**prompts(), max_new_token=3)


# --------------------------------------------------------------------------------------------------------------------
# A trained model: manufacturing processes of a part, by an independent author

PROMPT = [2, 8, 14, 17, 22, 25, 49]
RECORDED = [30, 45, 40, 42, 50, 32, 40, 37, 42, 50, 33, 40, 37, 42, 50, 51]


@pytest.mark.parametrize("settings", [{}, {"num_beams": 3}, {"num_beams": 3, "early_stopping": True}], ids=str)
@pytest.mark.parametrize("use_cache", [True, False])
def test_the_recorded_continuation(settings: dict[str, Any], use_cache: bool) -> None:
    """It ends with the end token of the model's own generation_config.json."""
    model = minitf.GPT2LMHeadModel.from_pretrained(shared_data("checkpoints", "capp-gpt2"))
    assert model.generation_config.given() == {"pad_token_id": 52, "bos_token_id": 50256, "eos_token_id": 51}
    found = model.generate(torch.tensor([PROMPT]), max_new_tokens=40, use_cache=use_cache, **settings)
    assert found.tolist() == [PROMPT + RECORDED]


def test_the_recorded_score() -> None:
    model = minitf.GPT2LMHeadModel.from_pretrained(shared_data("checkpoints", "capp-gpt2"))
    out = model.generate(torch.tensor([PROMPT]), max_new_tokens=1, **OUT)
    assert out.logits[0][0, 30].item() == pytest.approx(8.40386, abs=5e-6)
