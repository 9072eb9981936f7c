"""Constrained beam search and its constraints: against transformers 4.49.0 (goldens), against the naive search, and
their own properties."""

from __future__ import annotations

import functools
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import minitf
from minitf.generation.constraints import Constraint, ConstraintListState, DisjunctiveConstraint, PhrasalConstraint
from tests.generation import definitions as naive
from tests.generation.goldens import (
    assert_as_in_4_49,
    assert_close,
    case_named,
    cases_of,
    goldens,
    new_tokens,
    result_of,
    with_the_first_end,
)
from tests.goldens.bert_runs import Case
from tests.goldens.generation_runs import PAD, build

SEARCH: dict[str, Any] = {
    "num_beams": 4, "pad_token_id": PAD, "max_new_tokens": 7, "return_dict_in_generate": True, "output_scores": True,
}  # fmt: skip
PROMPT = torch.tensor([[7, 23, 41, 12, 5]])


@functools.cache
def model(kind: str = "GPT2LMHeadModel", **config: Any) -> Any:
    return build(minitf, Case("", "", "", kind, "", config, {}, {"seed": 3}))


def phrases_of(words: list[Any]) -> list[list[list[int]]]:
    """`[[5, 6], [[7], [8, 9]]]` with every word as a list of phrases."""
    return [word if isinstance(word[0], list) else [word] for word in words]


def holds(text: list[int], words: list[Any]) -> bool:
    """Whether one phrase of each word stands in the text."""
    return all(
        any(text[at : at + len(phrase)] == phrase for phrase in word for at in range(len(text)))
        for word in phrases_of(words)
    )


def words_of(case: Case) -> list[Any]:
    return [*case.options.get("constraints", []), *case.options["settings"].get("force_words_ids", [])]


def trimmed(row: Tensor, origins: Tensor, start: int) -> list[int]:
    return row[start : start + int((origins >= 0).sum())].tolist()


@contextmanager
def warnings_of_the_search() -> Iterator[list[str]]:
    """What is logged meanwhile (a fixture would be shared by all examples of a hypothesis test)."""
    said: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: said.append(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger("minitf.generation")
    logger.addHandler(handler)
    try:
        yield said
    finally:
        logger.removeHandler(handler)


# ---------------------------------------------------------------------------------------------------- 4.49.0's numbers


@pytest.mark.parametrize("case", cases_of("constrained", "outputs", "four results"))
def test_tokens_scores_and_origins_are_those_of_4_49(case: Case) -> None:
    assert_as_in_4_49(case, beams=True)
    for row in goldens()[case.name].tensors["sequences"].tolist():
        assert holds(row, words_of(case))  # so the test below names the only case where 4.49.0 misses some


def test_scores_are_log_probabilities_where_4_49_adds_the_sums_of_the_beams() -> None:
    case = case_named("constrained outputs")
    assert_as_in_4_49(case, beams=True, without=("scores",))
    ours, theirs = (result.tensors["scores"] for result in (result_of(case.name), goldens()[case.name]))  # [N, R, V]
    np.testing.assert_allclose(np.exp(ours.astype(np.float64)).sum(axis=-1), 1.0, rtol=1e-5)
    added = theirs - ours
    assert_close(case, "scores of the first beam in the first step", ours[0, 0], theirs[0, 0])
    assert (added[0, 1:] < -9e8).all()  # beams that do not count yet
    assert (added[1:] < -0.1).all()
    np.testing.assert_allclose(added[1:], np.broadcast_to(added[1:, :, :1], added[1:].shape), rtol=1e-5, atol=1e-5)


def test_sequences_that_hold_all_words_go_first() -> None:
    """4.49.0 returns them among others that miss some, by score alone. The best that holds them is the same."""
    case = case_named("constrained four results")
    with warnings_of_the_search() as said:
        result_of.__wrapped__(case.name)
    assert [message.split(" miss ")[0] for message in said] == [
        f"constrained beam search: 3 of 4 sequences of prompt {number}" for number in range(3)
    ]
    ours = result_of(case.name).tensors["sequences"]
    theirs = goldens()[case.name].tensors["sequences"]
    flags = [[holds(row, words_of(case)) for row in sequences.tolist()] for sequences in (ours, theirs)]
    assert flags[0] == [True, False, False, False] * 3
    assert flags[1] == [False, False, False, True] * 3
    first, last = with_the_first_end(case, ours)[::4], theirs[3::4]
    assert np.array_equal(first, last)


def test_the_end_token_that_was_found_is_written() -> None:
    changed = 0
    for name in ("short ones", "long ones", "sums"):
        case = case_named(f"constrained {name}")
        sequences = result_of(case.name).tensors["sequences"]
        changed += int((with_the_first_end(case, sequences) != sequences).sum())
        assert np.isin(new_tokens(case, sequences), case.options["settings"]["eos_token_id"]).any()
    assert changed > 0


# --------------------------------------------------------------------------------------------------------- definition

SEVERAL_WORDS: tuple[list[Any], ...] = (
    [[29]],
    [[29, 46]],
    [[48], [13]],
    [[[29, 46], [55], [3, 4]]],
    [[[29, 46, 3], [29, 55], [8]]],  # two alternatives begin alike
    [[13, 59], [[29, 46], [18]]],
    [[39, 39, 20]],
)


@settings(max_examples=15, deadline=None)
@given(
    words=st.sampled_from(SEVERAL_WORDS),
    beams=st.sampled_from([2, 3, 5]),
    ends=st.sampled_from([[], [32], [27, 49, 32], [27, 58]]),
    early=st.sampled_from([True, False, "never"]),
    length_penalty=st.sampled_from([-1.0, 0.0, 1.0, 2.5]),
    prompt=st.lists(st.integers(2, 60), min_size=1, max_size=5),
)
def test_equals_the_naive_search(
    words: list[Any], beams: int, ends: list[int], early: bool | str, length_penalty: float, prompt: list[int]
) -> None:
    kept, missing = naive.constrained(
        model(), prompt, new=5, beams=beams, words=phrases_of(words), ends=ends, length_penalty=length_penalty,
        early=early,
    )  # fmt: skip
    expected = (kept + missing)[:beams]
    asked = {"num_beams": beams, "early_stopping": early, "length_penalty": length_penalty, "max_new_tokens": 5}
    if holds(prompt, words):
        return  # an error of its own
    out = model().generate(
        torch.tensor([prompt]),
        **{**SEARCH, **asked, "eos_token_id": ends or None, "num_return_sequences": len(expected)},
        force_words_ids=words,
    )
    found = [trimmed(row, rows, len(prompt)) for row, rows in zip(out.sequences, out.beam_indices, strict=True)]
    assert found == [beam.tokens for beam in expected]
    torch.testing.assert_close(out.sequences_scores, torch.tensor([b.total for b in expected]), rtol=1e-5, atol=1e-5)


@settings(max_examples=15, deadline=None)
@given(
    phrases=st.lists(st.lists(st.integers(40, 60), min_size=1, max_size=3), min_size=1, max_size=3),
    length=st.integers(1, 4),
    room=st.integers(0, 3),
    kind=st.sampled_from(["GPT2LMHeadModel", "BertLMHeadModel"]),
)
def test_the_result_holds_all_words_or_a_warning_says_so(
    phrases: list[list[int]], length: int, room: int, kind: str
) -> None:
    """With no more room than the words take they are always there: the fullest bank goes first."""
    ids = torch.tensor([[2 + row + 5 * place for place in range(length)] for row in range(2)])
    asked = {**SEARCH, "max_new_tokens": sum(map(len, phrases)) + room, "force_words_ids": phrases, "eos_token_id": 32}
    with warnings_of_the_search() as said:
        out = model(kind).generate(ids, **asked)
    missing = [row for row, tokens in enumerate(out.sequences[:, length:].tolist()) if not holds(tokens, phrases)]
    assert set(missing) <= {int(message.split("prompt ")[1].split()[0]) for message in said}
    assert room > 0 or not said
    uncached = model(kind).generate(ids, **asked, use_cache=False)
    assert torch.equal(out.sequences, uncached.sequences)
    assert torch.equal(out.beam_indices, uncached.beam_indices)
    torch.testing.assert_close(out.sequences_scores, uncached.sequences_scores)


def test_a_beam_with_all_words_can_be_lost() -> None:
    """As in 4.49.0: once complete, nothing pushes it forward. It is not lost without a word, and more beams keep it."""
    asked = {**SEARCH, "max_new_tokens": 6, "force_words_ids": [[40], [41, 40, 40]]}
    with warnings_of_the_search() as said:
        few = model().generate(torch.tensor([[2]]), **asked).sequences[0, 1:].tolist()
    assert not holds(few, asked["force_words_ids"])
    assert said == [
        "constrained beam search: 1 of 1 sequences of prompt 0 miss a constraint: allow more beams, or less or more "
        "new tokens."
    ]
    with warnings_of_the_search() as said:
        many = model().generate(torch.tensor([[2]]), **{**asked, "num_beams": 12}).sequences[0, 1:].tolist()
    assert holds(many, asked["force_words_ids"])
    assert not said


def test_a_row_of_a_ragged_batch_is_what_it_is_alone() -> None:
    """Padding is no part of the text, even where a forced word has its id."""
    rows = [[7, 23, 41, 12, 5], [33, 8], [19]]
    ids = torch.tensor([[PAD] * (5 - len(row)) + row for row in rows])
    mask = torch.tensor([[0] * (5 - len(row)) + [1] * len(row) for row in rows])
    wanted = {**SEARCH, "force_words_ids": [[PAD, 46], [[13], [29, 59]]], "eos_token_id": [27, 32]}
    together = model().generate(ids, mask, **wanted)
    for number, row in enumerate(rows):
        alone = model().generate(torch.tensor([row]), torch.ones(1, len(row)).long(), **wanted)
        found = trimmed(together.sequences[number], together.beam_indices[number], 5)
        assert found == trimmed(alone.sequences[0], alone.beam_indices[0], len(row))
        torch.testing.assert_close(together.sequences_scores[number], alone.sequences_scores[0])


def test_origins_lead_to_the_scores() -> None:
    out = model().generate(
        torch.tensor([[7, 23], [9, 30]]), **SEARCH, num_return_sequences=2, eos_token_id=[27, 32],
        force_words_ids=[[13]], length_penalty=0.5,
    )  # fmt: skip
    for row, origins, score in zip(out.sequences, out.beam_indices, out.sequences_scores, strict=True):
        tokens = trimmed(row, origins, 2)
        total = sum(out.scores[step][origins[step], token] for step, token in enumerate(tokens))
        torch.testing.assert_close(total / len(tokens) ** 0.5, score)


def test_alternatives_that_begin_alike_are_each_followed() -> None:
    """4.49.0 shares the list of what is written between the states that it makes for the two next tokens."""
    state = ConstraintListState.of([DisjunctiveConstraint([[1, 2, 3], [1, 4]])]).after(1)
    assert state.advance() == [2, 4]
    second, other = state.after(2), state.after(4)
    assert (second.completed, second.bank, second.advance()) == (False, 2, [3])
    assert (other.completed, other.bank, other.advance()) == (True, 3, [])
    assert state.advance() == [2, 4]


def test_a_criterion_of_the_caller_ends_forced_tokens_too() -> None:
    """What a criterion ends is kept if it holds all words, and dropped if not."""

    def at_46(ids: Tensor, scores: Tensor) -> Tensor:
        return ids[:, -1] == 46

    asked = {**SEARCH, "force_words_ids": [[29, 46]], "early_stopping": True, "num_beams": 2, "length_penalty": -2.0}
    out = model().generate(PROMPT, **{**asked, "max_new_tokens": 12}, stopping_criteria=[at_46])
    assert out.sequences[0, -2:].tolist() == [29, 46]
    assert out.sequences.shape[1] < 5 + 12


# -------------------------------------------------------------------------------------------------------- constraints


@settings(max_examples=200)
@given(
    words=st.lists(
        st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=3), min_size=1, max_size=3), min_size=1, max_size=3
    ),
    text=st.lists(st.integers(0, 3), max_size=12),
)
def test_the_state_after_a_text_equals_the_naive_one(words: list[list[list[int]]], text: list[int]) -> None:
    try:
        constraints = [DisjunctiveConstraint(word) for word in words]
    except ValueError:
        assert any(a != b or word.count(a) > 1 for word in words for a in word for b in word if b[: len(a)] == a)
        return
    state = ConstraintListState.of(constraints)
    banks = [state.bank]
    for token in text:
        before = (state.bank, state.advance())
        after = state.after(token)
        assert (state.bank, state.advance()) == before  # a state never changes
        assert (token in before[1]) == (after.bank > before[0])  # exactly these tokens bring it forward
        state = after
        banks.append(state.bank)
    complete, pending, _ = naive.progress(text, words)
    assert state.complete == complete
    assert state.completed == (not pending)
    if not state.completed:
        assert state.bank == naive.bank(text, words)
    if state.completed:
        assert holds(text, words)


def test_a_token_that_breaks_a_phrase_does_not_begin_it_again() -> None:
    state = ConstraintListState.of([PhrasalConstraint([5, 6])])
    assert not state.after(5).after(5).after(6).completed
    assert state.after(5).after(5).after(5).after(6).completed
    assert state.after(9).after(5).after(6).completed


def test_one_token_brings_one_constraint_forward() -> None:
    state = ConstraintListState.of([PhrasalConstraint([5]), PhrasalConstraint([5])])
    assert not state.after(5).completed
    assert state.after(5).after(5).completed


def test_constraints_have_the_methods_of_4_49() -> None:
    phrase = PhrasalConstraint([5, 6])
    assert (phrase.seqlen, phrase.advance(), phrase.remaining()) == (2, 5, 2)
    assert (phrase.does_advance(5), phrase.does_advance(6)) == (True, False)
    assert phrase.update(5) == (True, False, False)
    assert phrase.copy().advance() == 5
    assert phrase.copy(stateful=True).advance() == 6
    assert phrase.update(7) == (False, False, True)
    assert phrase.update(5)[0]
    assert phrase.update(6) == (True, True, False)
    assert (phrase.advance(), phrase.remaining()) == (None, 0)
    phrase.reset()
    assert phrase.remaining() == 2
    either = DisjunctiveConstraint([[5, 6], [7]])
    assert (either.seqlen, either.advance()) == (2, [5, 7])
    assert either.update(7) == (True, True, False)
    assert (either.advance(), either.remaining()) == (None, 0)


class Ascending(Constraint):
    """Three tokens of which each is one more than the one before: a constraint that no list of phrases could be."""

    seqlen = 3

    def __init__(self) -> None:
        self.last: int | None = None
        self.length = 0
        super().__init__()

    def advance(self) -> int | list[int] | None:
        if self.length == 3:
            return None
        return list(range(40, 50)) if self.last is None else self.last + 1

    def does_advance(self, token_id: int) -> bool:
        wanted = self.advance()
        return token_id in wanted if isinstance(wanted, list) else token_id == wanted

    def update(self, token_id: int) -> tuple[bool, bool, bool]:
        if not self.does_advance(token_id):
            self.reset()
            return False, False, True
        self.last, self.length = token_id, self.length + 1
        return True, self.length == 3, False

    def reset(self) -> None:
        self.last, self.length = None, 0

    def remaining(self) -> int:
        return 3 - self.length

    def copy(self, stateful: bool = False) -> Ascending:
        new = object.__new__(type(self))
        new.last, new.length = (self.last, self.length) if stateful else (None, 0)
        return new


def test_a_kind_of_constraint_of_ones_own() -> None:
    sequence = model().generate(PROMPT, **SEARCH, constraints=[Ascending()]).sequences[0, 5:].tolist()
    runs = [sequence[at : at + 3] for at in range(5) if sequence[at] in range(40, 50)]
    assert any(run == [run[0], run[0] + 1, run[0] + 2] for run in runs)


def broken(**changes: Any) -> type[Constraint]:
    return type("Broken", (Ascending,), changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seqlen": 0}, r"Broken\.seqlen: expected the tokens that it takes"),
        ({"advance": lambda self: None}, r"Broken\.advance\(\) returned None before it was complete"),
        ({"does_advance": lambda self, token_id: False}, r"Broken\.does_advance\(40\) is False"),
        ({"update": lambda self, token_id: (False, False, False)}, r"Broken\.update\(40\) made no step"),
        ({"update": lambda self, token_id: (True, False, False)}, r"Broken is not complete after 10000 tokens"),
        ({"remaining": lambda self: 1}, r"Broken\.remaining\(\) = 1 although it is complete"),
    ],
)
def test_a_constraint_that_contradicts_itself_is_an_error(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        broken(**changes)()


# ------------------------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("build_one", "message"),
    [
        (lambda: PhrasalConstraint([]), r"token_ids = \[\]: expected a non-empty list"),
        (lambda: PhrasalConstraint([5, -1]), r"token_ids = \[5, -1\] holds -1: expected token ids"),
        (lambda: PhrasalConstraint([5, True]), r"holds True: expected token ids"),
        (lambda: PhrasalConstraint(5), r"token_ids = 5: expected a non-empty list"),
        (lambda: DisjunctiveConstraint([]), r"nested_token_ids = \[\]: expected a non-empty list of phrases"),
        (lambda: DisjunctiveConstraint([5, 6]), r"nested_token_ids\[0\] = 5: expected a non-empty list"),
        (lambda: DisjunctiveConstraint([[5], []]), r"nested_token_ids\[1\] = \[\]: expected a non-empty list"),
        (lambda: DisjunctiveConstraint([[5, 6], [5]]), r"holds \[5\] and \[5, 6\], which begins with it"),
        (lambda: DisjunctiveConstraint([[5], [5]]), r"holds \[5\] and \[5\], which begins with it"),
    ],
)
def test_phrases_that_are_none_are_errors(build_one: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_one()


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"constraints": []}, r"constraints = \[\] asks for nothing"),
        ({"force_words_ids": [[61]]}, r"PhrasalConstraint\(\[61\]\) holds the id 61; expected 0 to 60"),
        ({"force_words_ids": [[[5], [5, 6]]]}, r"holds \[5\] and \[5, 6\], which begins with it"),
        ({"force_words_ids": [[3, 32]], "eos_token_id": [9, 32]}, r"holds 32, an end token"),
        ({"force_words_ids": [[3, 4, 5, 6], [8, 9, 10, 11]]}, r"need at least 8 tokens, and 7 new ones fit"),
        ({"force_words_ids": [[3, 4], [[8, 9], [1, 2]]], "max_new_tokens": 3}, r"at least 4 tokens, and 3 new"),
        ({"force_words_ids": [[3, 4]], "suppress_tokens": [4]}, r"cannot be fulfilled: suppress_tokens"),
        ({"force_words_ids": [[[3], [4]]], "suppress_tokens": [4], "bad_words_ids": [[3]]}, r"cannot be fulfilled"),
        ({"force_words_ids": [[23, 41]]}, r"the constraints have no effect: every prompt contains"),
        ({"force_words_ids": [[3]], "num_beams": 1}, r"constrained_beam_search needs num_beams > 1"),
        ({"force_words_ids": [[3]], "do_sample": True}, r"constrained_beam_search draws no samples"),
        ({"force_words_ids": [[3]], "num_beam_groups": 2, "diversity_penalty": 1.0}, r"and group_beam_search at once"),
        ({"force_words_ids": [[3]], "num_return_sequences": 5}, r"num_return_sequences = 5 is more than num_beams"),
        ({"force_words_ids": [[3]], "streamer": object()}, r"a streamer cannot follow constrained_beam_search"),
    ],
)
def test_what_cannot_be_fulfilled_is_an_error(asked: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        model().generate(PROMPT, **{**SEARCH, **asked})


def test_what_is_no_constraint_is_an_error() -> None:
    with pytest.raises(TypeError, match=r"constraints holds \[5, 6\]: expected minitf.generation.Constraint objects"):
        model().generate(PROMPT, **SEARCH, constraints=[[5, 6]])


def test_a_constraint_that_one_prompt_holds_counts_there() -> None:
    """As in 4.49.0 the prompt is the beginning of the text. Only where all prompts hold it, it has no effect."""
    ids = torch.tensor([[7, 23, 41], [9, 30, 2]])
    out = model().generate(ids, **SEARCH, force_words_ids=[[23, 41]])
    free = model().generate(ids[:1], num_beams=4, pad_token_id=PAD, max_new_tokens=7)
    assert not holds(out.sequences[0, 3:].tolist(), [[23, 41]])
    assert holds(out.sequences[1, 3:].tolist(), [[23, 41]])
    assert torch.equal(out.sequences[:1], free)
