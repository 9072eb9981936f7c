"""Every setting of the scores through `generate`, beside transformers: alone and in plausible combinations."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
import transformers

from minitf.generation.config import GenerationConfig
from minitf.generation.strategies import SPECIAL
from tests.generation.pairs import CLASSES, ENDS, PAD, assert_same, both, lengths, pair, prompts

EARLY: dict[str, Any] = {"eos_token_id": ENDS, "pad_token_id": PAD}

SCORES: dict[str, Any] = {
    "repetition_penalty": 1.7,
    "no_repeat_ngram_size": 1,
    "bad_words_ids": [[34], [28, 34], [11]],
    "sequence_bias": {(28,): -4.0, (19, 54): 6.0, (34,): 3.0},
    "suppress_tokens": [28, 34, 19],
    "begin_suppress_tokens": list(range(2, 50)),
    "forced_eos_token_id": 18,
    "exponential_decay_length_penalty": (3, 1.4),
    "guidance_scale": 1.6,
    "remove_invalid_values": True,
    "renormalize_logits": True,
    "min_length": 15,
    "min_new_tokens": 9,
}
"""A value of every setting that changes scores in every strategy; `forced_bos_token_id` has its own test."""

SAMPLING: dict[str, Any] = {
    "temperature": 0.6,
    "top_k": 4,
    "top_p": 0.5,
    "min_p": 0.3,
    "top_h": 0.4,
    "typical_p": 0.4,
    "epsilon_cutoff": 0.02,
    "eta_cutoff": 0.05,
}

TOGETHER: list[dict[str, Any]] = [
    {"do_sample": True, "temperature": 0.8, "top_k": 20, "top_p": 0.9},
    {"do_sample": True, "temperature": 1.5, "top_k": 0, "min_p": 0.05, "repetition_penalty": 1.2},
    {"do_sample": True, "typical_p": 0.7, "no_repeat_ngram_size": 2, "num_return_sequences": 3},
    {"do_sample": True, "epsilon_cutoff": 0.01, "eta_cutoff": 0.01, "renormalize_logits": True},
    {"do_sample": True, "repetition_penalty": 1.3, "num_return_sequences": 2},
    {"repetition_penalty": 1.3, "no_repeat_ngram_size": 3, "min_new_tokens": 5},
    {"num_beams": 4, "no_repeat_ngram_size": 2, "early_stopping": True, "length_penalty": 2.0, "min_length": 12},
    {"num_beams": 3, "repetition_penalty": 1.4, "renormalize_logits": True, "num_return_sequences": 3},
    {"num_beams": 3, "do_sample": True, "top_p": 0.8, "temperature": 0.7, "num_return_sequences": 2},
    {"num_beams": 3, "exponential_decay_length_penalty": [2, 1.3], "bad_words_ids": [[34, 28], [54]]},
    {"forced_eos_token_id": [18, 5], "suppress_tokens": [54]},
]


def test_no_setting_is_left_out() -> None:
    """A new setting that changes scores has to be added above; the others are named here and have tests elsewhere."""
    elsewhere = {
        "max_length", "max_new_tokens", "max_time", "stop_strings", "do_sample", "num_beams", "num_beam_groups",
        "penalty_alpha", "constraints", "force_words_ids", "prompt_lookup_num_tokens", "early_stopping",
        "length_penalty", "diversity_penalty", "forced_bos_token_id", "num_assistant_tokens",
        "num_assistant_tokens_schedule", "assistant_confidence_threshold", "max_matching_ngram_size", "pad_token_id",
        "bos_token_id", "eos_token_id", "num_return_sequences", "use_cache", "output_scores", "output_logits",
        "output_attentions", "output_hidden_states", "return_dict_in_generate",
    }  # fmt: skip
    assert {field.name for field in dataclasses.fields(GenerationConfig)} == {*elsewhere, *SCORES, *SAMPLING}
    assert set(SAMPLING) <= SPECIAL
    assert not set(SCORES) & SPECIAL


WAYS: list[dict[str, Any]] = [{}, {"do_sample": True}, {"num_beams": 3}, {"num_beams": 3, "do_sample": True}]


@pytest.mark.parametrize("way", WAYS, ids=str)
@pytest.mark.parametrize("name", SCORES)
def test_scores(name: str, way: dict[str, Any]) -> None:
    """Guidance with beams has its own test below, because transformers goes on with the texts of other beams there."""
    settings = {**way, name: SCORES[name]}
    models = pair("GPT2LMHeadModel")
    if name == "guidance_scale" and "num_beams" in way:
        models = (models[0], models[0])
    mine, other = both(models, prompts(), **settings, **EARLY)
    assert_same(mine, other, tolerance=1e-5 if name == "guidance_scale" else 0)
    plain, _ = both(models, prompts(), **way, **EARLY)
    same = torch.equal(plain.sequences, mine.sequences)
    assert same == (name in ("remove_invalid_values", "renormalize_logits")), "the value above has no effect"


@pytest.mark.parametrize("way", WAYS[1::2], ids=str)
@pytest.mark.parametrize("name", SAMPLING)
def test_sampling(name: str, way: dict[str, Any]) -> None:
    models = pair("GPT2LMHeadModel")
    mine, other = both(models, prompts(), **way, **{name: SAMPLING[name]}, **EARLY)
    assert_same(mine, other, tolerance=0)
    plain, _ = both(models, prompts(), **way, **EARLY)
    assert not torch.equal(plain.scores[0], mine.scores[0])


@pytest.mark.parametrize("settings", TOGETHER, ids=str)
@pytest.mark.parametrize("class_name", CLASSES[:2])
def test_together(class_name: str, settings: dict[str, Any]) -> None:
    for seed in (0, 1):
        mine, other = both(pair(class_name), prompts(seed=seed), seed=seed, **settings, **EARLY)
        assert_same(mine, other, tolerance=0)


@pytest.mark.parametrize("way", WAYS, ids=str)
def test_forced_bos(way: dict[str, Any]) -> None:
    """Only a prompt of one token has a second one to force."""
    given = {"input_ids": torch.tensor([[3], [44], [51]])}
    settings = {**way, "forced_bos_token_id": 40, "begin_suppress_tokens": [34, 19, 28], **EARLY}
    mine, other = both(pair("GPT2LMHeadModel"), given, **settings)
    assert_same(mine, other)
    assert set(mine.sequences[:, 1].tolist()) == {40}


@pytest.mark.parametrize("way", WAYS[:2], ids=str)
@pytest.mark.parametrize("use_cache", [True, False])
def test_guidance_by_a_negative_prompt(way: dict[str, Any], use_cache: bool) -> None:
    made, negative = prompts(), prompts(length=5, seed=3)
    more = {
        "negative_prompt_ids": negative["input_ids"],
        "negative_prompt_attention_mask": negative["attention_mask"],
    }
    mine, other = both(
        pair("GPT2LMHeadModel"), {**made, **more}, guidance_scale=1.8, use_cache=use_cache, **way, **EARLY
    )
    assert_same(mine, other, tolerance=2e-5)
    plain, _ = both(pair("GPT2LMHeadModel"), made, guidance_scale=1.8, use_cache=use_cache, **way, **EARLY)
    assert not torch.equal(plain.scores[0], mine.scores[0])


@pytest.mark.parametrize("negative", [False, True])
@pytest.mark.parametrize("way", WAYS[2:], ids=str)
def test_guidance_with_beams(way: dict[str, Any], negative: bool) -> None:
    """Each beam's scores are those of its own text: the guided log-probabilities of the sequence, computed anew."""
    ours, _ = pair("GPT2LMHeadModel")
    made, other = prompts("none"), prompts("none", length=5, seed=3)["input_ids"]
    more = {"negative_prompt_ids": other} if negative else {}
    settings = {**way, "guidance_scale": 1.5, "top_k": 0} if "do_sample" in way else {**way, "guidance_scale": 1.5}
    torch.manual_seed(0)
    out = ours.generate(
        **made, **more, **settings, max_new_tokens=9, output_scores=True, return_dict_in_generate=True, **EARLY
    )
    found = ours.compute_transition_scores(out.sequences, out.scores, out.beam_indices)
    begin = other if negative else made["input_ids"][:, -1:]
    for row, length in enumerate((out.beam_indices >= 0).sum(1).tolist()):
        new = out.sequences[row : row + 1, 7 : 7 + length]
        with torch.no_grad():
            guided = ours(torch.cat([made["input_ids"][row : row + 1], new], 1)).logits[0, 6:-1].log_softmax(-1)
            free = ours(torch.cat([begin[row : row + 1], new], 1)).logits[0, begin.shape[1] - 1 : -1].log_softmax(-1)
        expected = (free + 1.5 * (guided - free)).gather(1, new[0, :, None])[:, 0]
        torch.testing.assert_close(found[row, :length], expected, rtol=0, atol=3e-5)


@pytest.mark.parametrize("class_name", CLASSES[1:])
def test_guidance_of_other_classes(class_name: str) -> None:
    mine, other = both(pair(class_name), prompts(), guidance_scale=1.8, **EARLY)
    assert_same(mine, other)


@pytest.mark.parametrize("way", WAYS, ids=str)
def test_allowed_tokens(way: dict[str, Any]) -> None:
    def allowed(row: int, ids: torch.Tensor) -> list[int]:
        return [(int(ids[-1]) + step) % 61 for step in (1, 2, 3 + row)]

    mine, other = both(pair("GPT2LMHeadModel"), prompts(), prefix_allowed_tokens_fn=allowed, **way, **EARLY)
    assert_same(mine, other, tolerance=0)


@pytest.mark.parametrize("way", WAYS, ids=str)
def test_processors_and_criteria_of_the_caller(way: dict[str, Any]) -> None:
    """They run between those of the settings and the cuts of sampling."""

    def favour(ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        scores = scores.clone()
        scores[:, 40:50] += 2.5
        return scores

    def enough(ids: torch.Tensor, scores: torch.Tensor, **others: Any) -> torch.Tensor:
        return (ids[:, 7:] >= 40).sum(1) >= 4

    models, settings = pair("GPT2LMHeadModel"), {**way, "no_repeat_ngram_size": 2, **EARLY}
    mine = []
    for model, lists in zip(models, (list, transformers.LogitsProcessorList), strict=True):
        torch.manual_seed(3)
        criteria = list if lists is list else transformers.StoppingCriteriaList
        mine.append(
            model.generate(
                **prompts(), **settings, max_new_tokens=20, logits_processor=lists([favour]),
                stopping_criteria=criteria([enough]), output_scores=True, output_logits=True,
                return_dict_in_generate=True,
            )
        )  # fmt: skip
    assert_same(*mine, tolerance=0)
    assert len(mine[0].scores) < 20


def test_minimum_and_maximum_lengths() -> None:
    models = pair("GPT2LMHeadModel")
    for settings in (
        {"min_length": 20, "max_length": 21},
        {"min_new_tokens": 14, "max_new_tokens": 15},
        {"min_length": 0, "max_new_tokens": 1},
    ):
        mine, other = both(models, prompts(), **settings, **EARLY)
        assert_same(mine, other, tolerance=0)
    assert mine.sequences.shape == (4, 8)
    embeds = {"inputs_embeds": models[0].get_input_embeddings()(prompts()["input_ids"]).detach()}
    for settings in ({"min_new_tokens": 14, "max_new_tokens": 15}, {"min_length": 20, "max_length": 21}):
        mine, other = both(models, embeds, **settings, **EARLY)
        assert_same(mine, other, tolerance=0)
        assert min(lengths(mine.sequences, 0)) >= 13
