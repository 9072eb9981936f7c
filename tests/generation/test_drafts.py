"""What is drafted: lookups by their rules, and by a model every draft of transformers, of the same length.

The naive version of the lookup, by comparing lists, stands in this file.
"""

from __future__ import annotations

import math
import types
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from minitf.generation import drafts
from minitf.generation.config import GenerationConfig
from tests.generation.assisted_pairs import (
    DRAFTS,
    draft_pair,
    literal_roc_curve,
    ours,
    pretend_scikit_learn,
    spied,
    target,
    theirs,
)


@pytest.fixture(autouse=True)
def scikit_learn(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend_scikit_learn(monkeypatch)


@pytest.mark.parametrize("seed", range(6))
def test_naive_lookup(seed: int) -> None:
    """The first earlier place of the last two tokens, else of the last one, by comparing lists."""
    generator = torch.Generator().manual_seed(seed)
    text = torch.randint(1, 6, (17,), generator=generator).tolist()

    def naive() -> list[int]:
        for size in (2, 1):
            for start in range(len(text) - size):
                if text[start : start + size] == text[-size:]:
                    return text[start + size : start + size + 4]
        return []

    assert lookup(text, prompt_lookup_num_tokens=4) == naive()


def lookup(text: list[int], processors: Any = (), max_length: int = 40, **settings: Any) -> list[int]:
    run = types.SimpleNamespace(
        settings=GenerationConfig(**settings),
        steps=types.SimpleNamespace(model=target()[0], offset=0),
        max_length=max_length,
        processors=list(processors),
    )
    found, probs = drafts.LookupDrafter(run).draft(torch.tensor([text]))  # type: ignore[arg-type]
    assert probs is None
    return found.tolist()


def test_lookup_rules() -> None:
    text = [4, 5, 6, 7, 8, 4, 9, 4, 5]
    assert lookup(text, prompt_lookup_num_tokens=3) == [6, 7, 8]
    assert lookup(text, prompt_lookup_num_tokens=30) == [6, 7, 8, 4, 9, 4, 5], "no further than the text"
    assert lookup([*text[:-1], 3], prompt_lookup_num_tokens=3) == [], "3 was not there before"
    assert lookup(text, prompt_lookup_num_tokens=3, eos_token_id=[8, 50]) == [6, 7], "cut before an end token"
    assert lookup(text, prompt_lookup_num_tokens=3, eos_token_id=6) == []
    assert lookup([1, 2, 3, 9, 2, 3, 8, 1, 2, 3], prompt_lookup_num_tokens=1, max_matching_ngram_size=3) == [9]
    assert lookup([2, 3, 8, 1, 2, 3, 9, 1, 2, 3], prompt_lookup_num_tokens=1, max_matching_ngram_size=3) == [9]
    assert lookup([2, 3, 8, 1, 2, 3, 9, 1, 2, 3], prompt_lookup_num_tokens=1) == [8], "2 tokens are looked up"
    assert lookup(text, prompt_lookup_num_tokens=3, max_length=len(text) + 1) == [], "the model's token is the last"
    assert lookup([7] * 38, prompt_lookup_num_tokens=9) == [7, 7], "no further than the model's 40 positions"

    def no_seven(ids: Tensor, scores: Tensor) -> Tensor:
        return scores.index_fill(1, torch.tensor([7]), -math.inf)

    def no_six(ids: Tensor, scores: Tensor) -> Tensor:
        return scores.index_fill(1, torch.tensor([6]), torch.finfo(torch.float32).min)

    assert lookup(text, [no_seven], prompt_lookup_num_tokens=3) == [6], "cut before a forbidden token"
    assert lookup([4, 5, 6, 5, 9, 4, 5], [no_six], prompt_lookup_num_tokens=2) == [9, 4], "another match is taken"
    assert lookup(text, [no_six], prompt_lookup_num_tokens=2) == []


@pytest.mark.parametrize("which", DRAFTS)
@pytest.mark.parametrize("do_sample", [False, True])
@pytest.mark.parametrize(
    "drafting",
    [
        {},
        {"num_assistant_tokens": 3},
        {"num_assistant_tokens": 2, "num_assistant_tokens_schedule": "heuristic_transient"},
        {"num_assistant_tokens": 5, "num_assistant_tokens_schedule": "heuristic"},
        {"assistant_confidence_threshold": 0.0, "num_assistant_tokens": 4},
        {"assistant_confidence_threshold": 0.8},
    ],
    ids=str,
)
def test_drafts_of_transformers(
    which: str, do_sample: bool, drafting: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every draft of every round, also when the settings come from the draft model's generation_config."""
    mine, other = spied(monkeypatch)
    our_draft, their_draft = draft_pair(which)
    call = {"do_sample": do_sample, "max_new_tokens": 24, "seed": 7}
    theirs(assistant_model=their_draft, drafting=drafting, **call)
    monkeypatch.setattr(our_draft, "generation_config", GenerationConfig())
    ours(assistant_model=our_draft, **drafting, **call)
    assert mine == other
    mine.clear()
    our_draft.generation_config = GenerationConfig(**drafting)
    ours(assistant_model=our_draft, **call)
    assert mine == other
    assert our_draft.generation_config.num_assistant_tokens == their_draft.generation_config.num_assistant_tokens or (
        drafting.get("num_assistant_tokens_schedule") != "heuristic"
    )


def test_heuristic_schedule_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    draft = draft_pair("same")[0]
    for schedule, expected in (("heuristic", 9), ("heuristic_transient", 3), ("constant", 3)):
        monkeypatch.setattr(draft, "generation_config", GenerationConfig(num_assistant_tokens=3))
        call = {"num_assistant_tokens_schedule": schedule, "assistant_confidence_threshold": 0.0}
        ours(max_new_tokens=18, assistant_model=draft, **call)  # 3 + 1, 5 + 1, 7 + 1: three whole drafts
        assert draft.generation_config.num_assistant_tokens == expected


def test_heuristic_schedule_after_an_end_token(monkeypatch: pytest.MonkeyPatch) -> None:
    """The fourth token of the first draft ends it; the model's own token is dropped, so transformers counts 3 of 4."""
    drafting = {"num_assistant_tokens": 6, "num_assistant_tokens_schedule": "heuristic"}
    drafting["assistant_confidence_threshold"] = 0.0
    our_draft, their_draft = draft_pair("same")
    monkeypatch.setattr(our_draft, "generation_config", GenerationConfig(**drafting))
    call = {"max_new_tokens": 18, "eos_token_id": 45, "pad_token_id": 0}
    found = ours(assistant_model=our_draft, **call)
    assert found.equal(theirs(assistant_model=their_draft, drafting=drafting, **call))
    assert our_draft.generation_config.num_assistant_tokens == 5
    assert their_draft.generation_config.num_assistant_tokens == 5


def test_settings_of_the_call_win(monkeypatch: pytest.MonkeyPatch) -> None:
    mine, _ = spied(monkeypatch)
    draft = draft_pair("same")[0]
    monkeypatch.setattr(draft, "generation_config", GenerationConfig(num_assistant_tokens=3))
    call = {"assistant_model": draft, "assistant_confidence_threshold": 0.0, "max_new_tokens": 12}
    ours(**call)
    assert len(mine[0][1]) == 3
    mine.clear()
    ours(**call, num_assistant_tokens=5)
    assert len(mine[0][1]) == 5


@given(judged=st.lists(st.tuples(st.sampled_from([0.1, 0.25, 0.4, 0.5, 0.9]), st.booleans()), min_size=2, max_size=30))
@settings(deadline=None)
def test_threshold_is_the_cheapest(judged: list[tuple[float, bool]]) -> None:
    sure, right = [p for p, _ in judged], [r for _, r in judged]
    if len(set(right)) < 2:
        right[0] = not right[0]
    fpr, tpr, thresholds = literal_roc_curve([int(r) for r in right], sure)
    assert drafts.best_threshold(sure, right) == thresholds[int((fpr + 3 * (1 - tpr)).argmin())]
