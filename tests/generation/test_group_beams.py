"""Diverse beam search: against transformers 4.49.0 (goldens), against the naive search, and its own properties."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import minitf
from tests.generation import definitions as naive
from tests.generation.goldens import (
    assert_as_in_4_49,
    case_named,
    cases_of,
    new_tokens,
    result_of,
    with_the_first_end,
)
from tests.goldens.bert_runs import Case
from tests.goldens.generation_runs import PAD, build

SEARCH: dict[str, Any] = {
    "num_beams": 4, "num_beam_groups": 2, "diversity_penalty": 1.0, "pad_token_id": PAD, "max_new_tokens": 7,
    "return_dict_in_generate": True, "output_scores": True,
}  # fmt: skip
PROMPT = torch.tensor([[7, 23, 41, 12, 5]])


@functools.cache
def model(kind: str = "GPT2LMHeadModel", **config: Any) -> Any:
    return build(minitf, Case("", "", "", kind, "", config, {}, {"seed": 3}))


def trimmed(row: Tensor, origins: Tensor, start: int) -> list[int]:
    """The new tokens of a row without what fills it up."""
    return row[start : start + int((origins >= 0).sum())].tolist()


@pytest.mark.parametrize("case", cases_of("groups"))
def test_tokens_scores_and_outputs_are_those_of_4_49(case: Case) -> None:
    assert_as_in_4_49(case, beams=True)


def test_the_end_token_that_was_found_is_written() -> None:
    """4.49.0 writes the first of the list."""
    changed = 0
    for name in ("short ones", "long ones", "sums", "strong penalty"):
        case = case_named(f"groups {name}")
        sequences = result_of(case.name).tensors["sequences"]
        changed += int((with_the_first_end(case, sequences) != sequences).sum())
        ends = case.options["settings"]["eos_token_id"]
        for row in new_tokens(case, sequences):
            at = np.flatnonzero(np.isin(row, ends))
            assert len(at) <= 1  # and padding after it
            assert len(at) == 0 or (row[at[0] + 1 :] == PAD).all()
    assert changed > 0


@settings(max_examples=12, deadline=None)
@given(
    shape=st.sampled_from([(2, 2), (4, 2), (3, 3), (6, 2), (6, 3)]),
    penalty=st.sampled_from([0.2, 1.0, 6.0]),
    ends=st.sampled_from([[], [32], [39], [49, 32, 39], [27, 20]]),
    early=st.sampled_from([True, False, "never"]),
    length_penalty=st.sampled_from([-1.0, 0.0, 1.0, 2.5]),
    prompt=st.lists(st.integers(2, 60), min_size=1, max_size=5),
)
def test_equals_the_naive_search(
    shape: tuple[int, int], penalty: float, ends: list[int], early: bool | str, length_penalty: float, prompt: list[int]
) -> None:
    beams, groups = shape
    expected = naive.groups(
        model(), prompt, new=5, beams=beams, groups=groups, penalty=penalty, ends=ends, pad=PAD,
        length_penalty=length_penalty, early=early,
    )  # fmt: skip
    out = model().generate(
        torch.tensor([prompt]),
        **{
            **SEARCH, "max_new_tokens": 5, "num_beams": beams, "num_beam_groups": groups, "diversity_penalty": penalty,
            "early_stopping": early, "length_penalty": length_penalty, "num_return_sequences": beams,
            "eos_token_id": ends or None,
        },
    )  # fmt: skip
    found = [trimmed(row, rows, len(prompt)) for row, rows in zip(out.sequences, out.beam_indices, strict=True)]
    assert found == [beam.tokens for beam in expected]
    torch.testing.assert_close(out.sequences_scores, torch.tensor([b.total for b in expected]), rtol=1e-5, atol=1e-5)


@settings(max_examples=10, deadline=None)
@given(lengths=st.lists(st.integers(1, 6), min_size=2, max_size=3), ends=st.sampled_from([[32], [39, 49]]))
def test_a_row_does_not_depend_on_its_neighbours_nor_on_the_cache(lengths: list[int], ends: list[int]) -> None:
    """A ragged batch, padded on the left, against one prompt after the other; with a cache and without."""
    rows = [[(7 * row + 5 * place) % 50 + 9 for place in range(length)] for row, length in enumerate(lengths)]
    longest = max(lengths)
    ids = torch.tensor([[PAD] * (longest - len(row)) + row for row in rows])
    mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows])
    wanted = {**SEARCH, "eos_token_id": ends, "num_return_sequences": 2}
    together = model().generate(ids, mask, **wanted)
    uncached = model().generate(ids, mask, **wanted, use_cache=False)
    assert torch.equal(together.sequences, uncached.sequences)
    assert torch.equal(together.beam_indices, uncached.beam_indices)
    torch.testing.assert_close(together.sequences_scores, uncached.sequences_scores)
    for number, row in enumerate(rows):
        alone = model().generate(torch.tensor([row]), **wanted)
        for place in range(2):
            both = trimmed(together.sequences[2 * number + place], together.beam_indices[2 * number + place], longest)
            assert both == trimmed(alone.sequences[place], alone.beam_indices[place], len(row))


def test_the_first_group_is_beam_search() -> None:
    """Nothing was chosen before it, so it loses nothing; without end tokens all of its beams are in the result."""
    out = model().generate(PROMPT, **{**SEARCH, "num_beams": 6, "num_return_sequences": 6})
    plain = model().beam_search(
        PROMPT, num_beams=3, num_return_sequences=3, max_new_tokens=7, pad_token_id=PAD, output_scores=True,
        return_dict_in_generate=True,
    )  # fmt: skip
    first = (out.beam_indices < 3).all(dim=1)  # [6]: rows 0, 1, 2 are those of the first group
    assert int(first.sum()) == 3
    assert torch.equal(out.sequences[first], plain.sequences)
    torch.testing.assert_close(out.sequences_scores[first], plain.sequences_scores)


def test_groups_differ_the_more_the_higher_the_penalty() -> None:
    """With a penalty beyond any log-probability no two groups choose the same token at a step."""
    search = {**SEARCH, "num_beams": 3, "num_beam_groups": 3, "num_return_sequences": 3}
    far = model().generate(PROMPT, **{**search, "diversity_penalty": 1000.0}).sequences[:, 5:]
    near = model().generate(PROMPT, **{**search, "diversity_penalty": 0.001}).sequences[:, 5:]
    assert all(len(set(step)) == 3 for step in far.T.tolist())
    assert any(len(set(step)) < 3 for step in near.T.tolist())


@pytest.mark.parametrize("kind", ["GPT2LMHeadModel", "BertLMHeadModel"])
def test_origins_lead_to_the_scores_of_every_group(kind: str) -> None:
    """The scores at `beam_indices` add up to `sequences_scores`; in 4.49.0 this holds for the first group only."""
    ids = torch.tensor([[7, 23, 41], [9, 30, 2]])
    wanted = {**SEARCH, "num_return_sequences": 4, "eos_token_id": 32, "length_penalty": 1.5, "num_beam_groups": 4}
    out = model(kind).generate(ids, **wanted)
    groups = set()
    for row, origins, score in zip(out.sequences, out.beam_indices, out.sequences_scores, strict=True):
        tokens = trimmed(row, origins, 3)
        total = sum(out.scores[step][origins[step], token] for step, token in enumerate(tokens))
        torch.testing.assert_close(total / len(tokens) ** 1.5, score)
        groups.add(int(origins[0]) % 4)
    assert groups == {0, 1, 2, 3}


def test_a_criterion_of_the_caller_ends_a_beam_as_an_end_token_does() -> None:
    by_token = model().generate(PROMPT, **SEARCH, eos_token_id=39, num_return_sequences=4)
    by_criterion = model().generate(
        PROMPT, **SEARCH, num_return_sequences=4, stopping_criteria=[lambda ids, scores: ids[:, -1] == 39]
    )
    assert torch.equal(by_criterion.beam_indices, by_token.beam_indices)
    assert bool((by_token.beam_indices < 0).any())  # some ended early
    written = by_token.beam_indices >= 0
    assert torch.equal(by_criterion.sequences[:, 5:][written], by_token.sequences[:, 5:][written])


def test_when_the_time_is_up_the_running_beams_are_the_result() -> None:
    def after_three(ids: Tensor, scores: Tensor) -> Tensor:
        return torch.full((len(ids),), ids.shape[1] >= 8)

    stopped = model().generate(PROMPT, **SEARCH, num_return_sequences=4, stopping_criteria=[after_three])
    short = model().generate(PROMPT, **{**SEARCH, "max_new_tokens": 3}, num_return_sequences=4)
    assert torch.equal(stopped.sequences, short.sequences)
    torch.testing.assert_close(stopped.sequences_scores, short.sequences_scores)


def test_a_processor_that_holds_an_entry_for_each_row_sees_all_rows() -> None:
    """The repetition penalty knows the padding of every row, and allowed tokens are asked for by prompt."""
    ids, mask = torch.tensor([[PAD, PAD, 23, 41], [9, 30, 2, 6]]), torch.tensor([[0, 0, 1, 1], [1, 1, 1, 1]])
    wanted = {**SEARCH, "repetition_penalty": 1.5}
    both = model().generate(ids, mask, **wanted)
    alone = model().generate(ids[:1, 2:], **wanted)
    assert torch.equal(both.sequences[:1, 4:], alone.sequences[:, 2:])
    allowed = {0: [10, 11, 12, 13, 14, 15, 16, 17], 1: [20, 21, 22, 23, 24, 25, 26, 27]}
    out = model().generate(ids, mask, **SEARCH, prefix_allowed_tokens_fn=lambda row, text: allowed[row])
    assert [set(row) <= set(allowed[number]) for number, row in enumerate(out.sequences[:, 4:].tolist())] == [True] * 2


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"num_beams": 5}, r"num_beams = 5 cannot be divided into num_beam_groups = 2"),
        ({"diversity_penalty": 0.0}, r"diversity_penalty = 0.0: expected a number > 0"),
        ({"diversity_penalty": -1.0}, r"diversity_penalty = -1.0: expected a number > 0"),
        ({"num_return_sequences": 5}, r"num_return_sequences = 5 is more than num_beams = 4"),
        ({"num_beams": 1}, r"group_beam_search needs num_beams > 1"),
        ({"do_sample": True}, r"group_beam_search draws no samples"),
    ],
)
def test_settings_that_do_not_fit_are_errors(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        model().generate(PROMPT, **{**SEARCH, **wrong})


def test_a_streamer_is_an_error() -> None:
    with pytest.raises(ValueError, match="a streamer cannot follow group_beam_search"):
        model().generate(PROMPT, **SEARCH, streamer=object())
