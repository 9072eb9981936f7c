"""Beam search and beam sampling beside transformers, and the scores of transitions.

Every bit is compared on one thread: tokens, scores, the scores of whole sequences, and which beam each token came from.
"""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch

from minitf.generation.transitions import compute_transition_scores
from tests.generation.pairs import (
    CLASSES,
    ENDS,
    PAD,
    POSITIONS,
    TOLERANCE,
    assert_lively,
    assert_same,
    both,
    lengths,
    pair,
    prompts,
)

EARLY: dict[str, Any] = {"eos_token_id": ENDS, "pad_token_id": PAD}
OFTEN: dict[str, Any] = {"eos_token_id": [*ENDS, 34, 28, 58, 54], "pad_token_id": PAD}
each_class = pytest.mark.parametrize("class_name", CLASSES)
each_way = pytest.mark.parametrize("do_sample", [False, True], ids=["search", "sample"])


@pytest.mark.parametrize("padding", ["none", "left"])
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@each_way
@each_class
def test_every_bit(class_name: str, do_sample: bool, attention: str, padding: str) -> None:
    models = pair(class_name, attention=attention)
    mine, other = both(models, prompts(padding), do_sample=do_sample, num_beams=3, length_penalty=0.5, **EARLY)
    assert_same(mine, other, tolerance=0)
    assert_lively(mine.sequences, 7)


@pytest.mark.parametrize("penalty", [-1.5, -0.5, 0.0, 0.7, 1.0, 2.5])
@pytest.mark.parametrize("stopping", [True, False, "never"])
@each_way
def test_early_stopping_and_length_penalty(stopping: Any, penalty: float, do_sample: bool) -> None:
    new = []
    for class_name, seed in itertools.product(CLASSES[:2], (0, 1)):
        mine, other = both(
            pair(class_name), prompts(seed=seed), num_beams=4, num_return_sequences=4, early_stopping=stopping,
            length_penalty=penalty, do_sample=do_sample, **OFTEN,
        )  # fmt: skip
        assert_same(mine, other, tolerance=0)
        new += lengths(mine.sequences, 7, OFTEN["eos_token_id"])
    if stopping is True or penalty < 2:  # else the longest are the best
        assert len(set(new)) >= 4, new  # results of 64 rows end at many different steps


def test_stopping_and_penalty_matter() -> None:
    """Else the grid above would prove little: with a penalty of 1 the three ways to stop give three results."""
    ours, _ = pair("GPT2LMHeadModel")
    settings = {"num_beams": 4, "num_return_sequences": 4, "max_new_tokens": 16, **OFTEN}
    found = {
        (stopping, penalty): str(
            ours.generate(**prompts(seed=1), early_stopping=stopping, length_penalty=penalty, **settings)
        )
        for stopping, penalty in itertools.product((True, False, "never"), (-1.5, 0.0, 1.0, 2.5))
    }
    assert len(set(found.values())) >= 7
    assert len({found[stopping, 1.0] for stopping in (True, False, "never")}) == 3


@pytest.mark.parametrize("ends", [None, 5, [18, 5], [7, 8, 9, 22, 34, 58, 12]], ids=str)
@pytest.mark.parametrize("beams", [2, 5])
@each_way
def test_any_number_of_end_tokens(ends: Any, beams: int, do_sample: bool) -> None:
    mine, other = both(
        pair("GPT2LMHeadModel"), prompts(), num_beams=beams, do_sample=do_sample, eos_token_id=ends, pad_token_id=PAD
    )
    assert_same(mine, other, tolerance=0)
    if isinstance(ends, list):
        assert min(lengths(mine.sequences, 7, ends)) < mine.sequences.shape[1] - 7


def test_the_end_token_that_was_found_is_written() -> None:
    """transformers 4.49.0 wrote the first of the list, whichever was found."""
    ours, _ = pair("GPT2LMHeadModel")
    found = ours.generate(**prompts(), num_beams=4, num_return_sequences=4, max_new_tokens=16, **EARLY)
    last = {row[7 + length - 1] for row, length in zip(found.tolist(), lengths(found, 7), strict=True)}
    assert len(last & set(ENDS)) >= 2


@pytest.mark.parametrize("results", [1, 2, 4])
@each_way
@each_class
def test_several_results(class_name: str, results: int, do_sample: bool) -> None:
    mine, other = both(
        pair(class_name), prompts(), num_beams=4, num_return_sequences=results, do_sample=do_sample, **EARLY
    )
    assert_same(mine, other, tolerance=0)
    assert len(mine.sequences) == 4 * results
    if not do_sample:
        ranked = mine.sequences_scores.view(4, results)
        assert torch.equal(ranked, ranked.sort(dim=1, descending=True).values)
        assert len({tuple(row) for row in mine.sequences.tolist()}) == 4 * results


@each_way
@each_class
def test_a_prompt_of_one_token_and_none(class_name: str, do_sample: bool) -> None:
    """The prompt is read once and not once for each beam, so products have other sizes here, and round otherwise."""
    for given in ({"input_ids": torch.tensor([[3], [44], [51]])}, {}):
        mine, other = both(pair(class_name), given, num_beams=3, do_sample=do_sample, **EARLY)
        assert_same(mine, other)


@pytest.mark.parametrize("start", [7, POSITIONS - 1])
@each_class
def test_up_to_the_last_position(class_name: str, start: int) -> None:
    given = prompts(length=start)
    mine, other = both(pair(class_name), given, num_beams=3, max_length=POSITIONS, length_penalty=3.0, pad_token_id=PAD)
    assert_same(mine, other, tolerance=0)
    assert mine.sequences.shape == (4, POSITIONS)


@each_way
@each_class
def test_without_a_cache(class_name: str, do_sample: bool) -> None:
    models = pair(class_name)
    mine, other = both(models, prompts(), num_beams=3, do_sample=do_sample, use_cache=False, **EARLY)
    assert_same(mine, other, tolerance=0)
    cached, _ = both(models, prompts(), num_beams=3, do_sample=do_sample, **EARLY)
    cached.past_key_values = None
    assert_same(mine, cached)


@each_class
def test_embeddings_types_and_positions(class_name: str) -> None:
    models = pair(class_name)
    made = prompts()
    embeds = models[0].get_input_embeddings()(made["input_ids"]).detach()
    mine, other = both(
        models, {"inputs_embeds": embeds, "attention_mask": made["attention_mask"]}, num_beams=3, **EARLY
    )
    assert_same(mine, other, tolerance=0)
    types = torch.randint(0, 2, (4, 7), generator=torch.Generator().manual_seed(2))
    positions = torch.arange(7).expand(4, -1) + torch.tensor([[0], [3], [9], [17]])
    for more in ({"token_type_ids": types}, {"position_ids": positions}):
        mine, other = both(models, {**prompts("none"), **more}, num_beams=3, **EARLY)
        assert_same(mine, other, tolerance=0)


@each_class
def test_a_conversation_continues_from_its_cache(class_name: str) -> None:
    ours, _ = pair(class_name)
    made = prompts("none")
    first = ours.generate(**made, max_new_tokens=4, pad_token_id=PAD, return_dict_in_generate=True)
    text = torch.cat([first.sequences, made["input_ids"][:, :3]], 1)
    settings = {"num_beams": 3, "max_new_tokens": 8, **EARLY}
    afresh = ours.generate(text, attention_mask=torch.ones_like(text), **settings)
    assert torch.equal(ours.generate(text, past_key_values=first.past_key_values, **settings), afresh)


@each_way
def test_attentions_and_hidden_states(do_sample: bool) -> None:
    for class_name in CLASSES:
        mine, other = both(
            pair(class_name, attention="eager"), prompts("none"), num_beams=3, do_sample=do_sample,
            output_attentions=True, output_hidden_states=True, **EARLY,
        )  # fmt: skip
        assert_same(mine, other, tolerance=0)
        for name in ("attentions", "hidden_states"):
            steps = list(zip(getattr(mine, name), getattr(other, name), strict=True))
            assert len(steps) == len(mine.scores)
            for a, b in steps:
                assert len(a[0]) == 12
                assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True)), name


def test_padding_token_0_is_one() -> None:
    """5.x takes a `pad_token_id` of 0 for none, and fills beams that end early with the first end token."""
    settings = {"num_beams": 3, "num_return_sequences": 3, "length_penalty": -1.0, "eos_token_id": ENDS}
    for fill, theirs in ((0, ENDS[0]), (PAD, PAD)):
        mine, other = both(pair("GPT2LMHeadModel"), prompts(), pad_token_id=fill, **settings)
        new = lengths(mine.sequences, 7)
        assert len(set(new)) > 1
        for row, row_there, n in zip(mine.sequences[:, 7:].tolist(), other.sequences[:, 7:].tolist(), new, strict=True):
            assert row[:n] == row_there[:n]
            assert set(row[n:]) <= {fill}
            assert set(row_there[n:]) <= {theirs}


def test_padding_without_an_end_token() -> None:
    """Rows that a criterion of the caller's ends are filled with `pad_token_id`; transformers writes -1, no token."""

    def stop(ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        return (ids[:, -1] == 34) | (ids[:, -1] == 58)

    ours, _ = pair("GPT2LMHeadModel")
    settings = {"num_beams": 3, "num_return_sequences": 3, "length_penalty": -1.0, "max_new_tokens": 12}
    found = ours.generate(**prompts(), pad_token_id=PAD, stopping_criteria=[stop], **settings)
    new = lengths(found, 7, [34, 58])
    assert len(set(new)) > 1
    assert all(row[7 + n :].tolist() == [PAD] * (found.shape[1] - 7 - n) for row, n in zip(found, new, strict=True))


# --------------------------------------------------------------------------------------------------------------------
# The scores of transitions


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"do_sample": True, "num_return_sequences": 2},
        {"num_beams": 3},
        {"num_beams": 3, "num_return_sequences": 3, "length_penalty": -1.0},
        {"num_beams": 3, "do_sample": True, "num_return_sequences": 2, "top_k": 9},
    ],
    ids=str,
)
def test_transition_scores(settings: dict[str, Any], normalize: bool) -> None:
    models = pair("GPT2LMHeadModel")
    outs = both(models, prompts(), **settings, **EARLY)
    found, expected = (
        model.compute_transition_scores(
            out.sequences, out.scores, getattr(out, "beam_indices", None), normalize_logits=normalize
        )
        for model, out in zip(models, outs, strict=True)
    )
    torch.testing.assert_close(found, expected, rtol=0, atol=TOLERANCE if normalize else 0)
    assert found.shape == (len(outs[0].sequences), outs[0].sequences.shape[1] - 7)


@pytest.mark.parametrize("penalty", [-1.0, 0.0, 1.0, 2.0])
def test_transition_scores_add_up_to_those_of_the_sequences(penalty: float) -> None:
    mine, _ = both(
        pair("GPT2LMHeadModel"), prompts(), num_beams=4, num_return_sequences=4, length_penalty=penalty, **EARLY
    )
    steps = compute_transition_scores(mine.sequences, mine.scores, mine.beam_indices)
    new = torch.tensor(lengths(mine.sequences, 7))
    assert torch.equal(new, (mine.beam_indices >= 0).sum(1))
    torch.testing.assert_close(steps.sum(1) / new**penalty, mine.sequences_scores, rtol=1e-6, atol=TOLERANCE)


def test_transition_scores_of_things_that_do_not_belong_together() -> None:
    ours, _ = pair("GPT2LMHeadModel")
    mine, _ = both(pair("GPT2LMHeadModel"), prompts(), num_beams=3, **EARLY)
    with pytest.raises(ValueError, match=r"scores is empty: pass output_scores=True"):
        ours.compute_transition_scores(mine.sequences, None)
    with pytest.raises(ValueError, match=r"sequences has 4 rows and scores are of 12: pass the output's beam_indices"):
        ours.compute_transition_scores(mine.sequences, mine.scores)
    with pytest.raises(ValueError, match=r"do not belong together"):
        ours.compute_transition_scores(mine.sequences, mine.scores[:2], mine.beam_indices)
    with pytest.raises(ValueError, match=r"do not belong together"):
        ours.compute_transition_scores(mine.sequences, mine.scores, mine.beam_indices[:2])
    few = tuple(score[:, :3] for score in mine.scores)
    with pytest.raises(ValueError, match=r"a token or row that scores \[12, 3\] do not have"):
        ours.compute_transition_scores(mine.sequences, few, mine.beam_indices)
    with pytest.raises(ValueError, match=r"a token or row that scores \[12, 61\] do not have"):
        ours.compute_transition_scores(mine.sequences, mine.scores, mine.beam_indices + 9)
