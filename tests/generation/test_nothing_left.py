"""What stops a generation that cannot go on: every token forbidden."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import torch

from minitf import GPT2Config, GPT2LMHeadModel

VOCABULARY = 12
WAYS = {
    "greedy": {},
    "sampling": {"do_sample": True},
    "beams": {"num_beams": 2},
    "sampled beams": {"num_beams": 2, "do_sample": True},
    "groups": {"num_beams": 2, "num_beam_groups": 2, "diversity_penalty": 1.0},
    "constrained": {"num_beams": 2, "force_words_ids": [[9, 10, 11]]},
    "contrastive": {"penalty_alpha": 0.6, "top_k": 3},
}


@pytest.fixture(scope="module")
def model() -> GPT2LMHeadModel:
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=VOCABULARY, n_embd=16, n_layer=1, n_head=1, n_positions=32, bos_token_id=1, eos_token_id=2
    )
    return GPT2LMHeadModel(config).eval()


def two_steps_then_nothing(ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
    return scores if ids.shape[1] < 5 else torch.full_like(scores, float("-inf"))


@pytest.mark.parametrize("how", WAYS.values(), ids=WAYS.keys())
def test_every_token_forbidden_is_an_error_that_names_step_and_row(model: GPT2LMHeadModel, how: dict[str, Any]) -> None:
    ids = torch.tensor([[3, 4, 5], [6, 7, 8]])
    with pytest.raises(ValueError, match="step 3 of generation: every token of row 0 is forbidden"):
        model.generate(
            ids, max_new_tokens=6, eos_token_id=0, pad_token_id=0, logits_processor=[two_steps_then_nothing], **how
        )


def test_drafts_too(model: GPT2LMHeadModel) -> None:
    with pytest.raises(ValueError, match="every token of row 0 is forbidden"):
        model.generate(
            torch.tensor([[3, 4, 3, 4]]),
            max_new_tokens=6,
            eos_token_id=0,
            prompt_lookup_num_tokens=2,
            logits_processor=[two_steps_then_nothing],
        )


def two_steps_then(value: float) -> Any:
    def spoilt(ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        return scores if ids.shape[1] < 5 else scores.index_fill(1, torch.tensor([7]), value)

    return spoilt


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("how", [*WAYS.values(), {"prompt_lookup_num_tokens": 2}], ids=[*WAYS, "drafts"])
def test_a_processor_that_spoils_the_scores(model: GPT2LMHeadModel, how: dict[str, Any], value: float) -> None:
    """The model's scores are finite, those after the processors are not; transformers' greedy search writes 7."""
    ids = torch.tensor([[3, 4, 5]])
    call: dict[str, Any] = {"max_new_tokens": 6, "eos_token_id": 0, "pad_token_id": 0, "min_new_tokens": 6, **how}
    with pytest.raises(ValueError, match=rf"step 3 of generation: the scores of row 0 hold {value} after the processo"):
        model.generate(ids, logits_processor=[two_steps_then(value)], **call)


@pytest.mark.parametrize("how", [WAYS["greedy"], WAYS["contrastive"]], ids=["greedy", "contrastive"])
def test_a_row_that_ended_has_nothing_to_choose(model: GPT2LMHeadModel, how: dict[str, Any]) -> None:
    def first_row_ends(ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        scores = scores.clone()
        scores[0] = float("-inf")
        if ids.shape[1] == 3:
            scores[0, 0] = 0.0
        return scores

    ids = torch.tensor([[3, 4, 5], [6, 7, 8]])
    found = model.generate(
        ids,
        max_new_tokens=4,
        min_new_tokens=0,
        eos_token_id=0,
        pad_token_id=9,
        logits_processor=[first_row_ends],
        **how,
    )
    assert found[0, 3:].tolist()[:2] == [0, 9]


def test_contrastive_search_takes_no_forbidden_candidate(model: GPT2LMHeadModel) -> None:
    """Two words are allowed and four are candidates: unlikeness alone would choose a forbidden one."""
    ids = torch.tensor([[3, 4, 5], [6, 7, 8]])
    found = model.generate(
        ids, max_new_tokens=8, eos_token_id=None, penalty_alpha=0.9, top_k=4, suppress_tokens=[*range(7), *range(9, 12)]
    )
    assert set(found[:, 3:].flatten().tolist()) <= {7, 8}


@pytest.mark.parametrize("how", [WAYS["beams"], WAYS["sampled beams"]], ids=["search", "sample"])
@pytest.mark.parametrize("penalty", [-1.0, 0.0, 1.0, 3.0])
def test_fewer_sequences_than_asked_for_are_said(
    model: GPT2LMHeadModel, how: dict[str, Any], penalty: float, caplog: pytest.LogCaptureFixture
) -> None:
    """Two words make four texts of two tokens; eight of three."""
    ids = torch.tensor([[3, 4, 5]])
    call: dict[str, Any] = {
        **how, "num_beams": 6, "num_return_sequences": 6, "suppress_tokens": [*range(7), *range(9, 12)],
        "eos_token_id": None, "pad_token_id": 0, "length_penalty": penalty,
    }  # fmt: skip
    with caplog.at_level(logging.WARNING, "minitf.generation"):
        found = model.generate(ids, max_new_tokens=3, **call)
        assert len({tuple(row) for row in found.tolist()}) == 6
        assert not caplog.records
        model.generate(ids, max_new_tokens=2, **call)
    assert [record.getMessage()[:57] for record in caplog.records] == [
        "prompt 0 has only 4 sequences that the settings allow, an"
    ]
