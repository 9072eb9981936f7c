"""Stopping criteria beside transformers' own, and by hand."""

from __future__ import annotations

import functools
import itertools
import logging
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers.generation import stopping_criteria as theirs

from minitf.generation.stopping import (
    EosTokenCriteria,
    MaxLengthCriteria,
    MaxTimeCriteria,
    StoppingCriteria,
    StoppingCriteriaList,
    StopStringCriteria,
)
from minitf.tokenization import BertTokenizer
from tests.support import shared_data


@pytest.fixture(scope="module")
def byte_level() -> Any:
    """OpenAI's byte-level BPE of 50,257 tokens."""
    return transformers.GPT2Tokenizer.from_pretrained(shared_data("vocab", "gpt2"))


@pytest.fixture(scope="module")
def wordpiece() -> tuple[Any, Any]:
    """Google's uncased WordPiece, in transformers and in minitf."""
    folder = shared_data("vocab", "bert-base-uncased")
    return transformers.BertTokenizer.from_pretrained(folder), BertTokenizer(folder / "vocab.txt")


# --------------------------------------------------------------------------------------------------------------------
# Length, time, end token


@pytest.mark.parametrize("length", [1, 4, 5, 6])
def test_max_length(length: int) -> None:
    ids = torch.zeros(3, length, dtype=torch.long)
    found = MaxLengthCriteria(5)(ids)
    assert found.tolist() == [length >= 5] * 3
    assert torch.equal(found, theirs.MaxLengthCriteria(5)(ids, None))


def test_max_time_by_an_injected_clock() -> None:
    now = [100.0]
    criterion = MaxTimeCriteria(2.5, clock=lambda: now[0])
    for seconds, over in [(0.0, False), (2.5, False), (2.6, True)]:
        now[0] = 100.0 + seconds
        found = criterion(torch.zeros(2, 1))
        assert found.dtype == torch.bool
        assert found.tolist() == [over] * 2
    assert MaxTimeCriteria(2.5, initial_timestamp=90.0, clock=lambda: 93.0)(torch.zeros(1, 1)).tolist() == [True]


def test_max_time_by_the_clock_of_transformers() -> None:
    """Old code passes `time.time() - something` as the beginning."""
    import time

    ids = torch.zeros(2, 1, dtype=torch.long)
    for begin, over in [(time.time() - 60, True), (None, False)]:
        assert MaxTimeCriteria(30, begin)(ids).tolist() == [over] * 2
        assert theirs.MaxTimeCriteria(30, begin)(ids, None).tolist() == [over] * 2


@pytest.mark.parametrize("ends", [3, [3], [1, 3], torch.tensor(3), torch.tensor([1, 3])])
def test_end_tokens(ends: Any) -> None:
    ids = torch.tensor([[3, 0], [0, 3], [0, 1], [3, 2]])
    found = EosTokenCriteria(ends)(ids)
    assert found.tolist() == [False, True, 1 in torch.as_tensor(ends).reshape(-1).tolist(), False]
    assert torch.equal(found, theirs.EosTokenCriteria(ends)(ids, None))


ERRORS = [
    (lambda: MaxLengthCriteria(0), "max_length = 0: expected an integer >= 1"),
    (lambda: MaxLengthCriteria(2.0), "max_length = 2.0"),
    (lambda: MaxTimeCriteria(0), "max_time = 0: expected a number of seconds > 0"),
    (lambda: MaxTimeCriteria(float("nan")), "max_time = nan"),
    (lambda: EosTokenCriteria([]), r"eos_token_id = \[\]"),
    (lambda: EosTokenCriteria(-1), "integers >= 0"),
    (lambda: EosTokenCriteria(None), "eos_token_id = None"),
    (lambda: StopStringCriteria(None, []), r"stop_strings = \[\]"),
    (lambda: StopStringCriteria(None, ["a", ""]), "none of them empty"),
    (lambda: StopStringCriteria(None, [3]), "a list of strings"),
    (lambda: StopStringCriteria(None, "a\ufffd"), "without U\\+FFFD"),
]


@pytest.mark.parametrize(("make", "message"), ERRORS, ids=[message for _, message in ERRORS])
def test_refused_settings(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


# --------------------------------------------------------------------------------------------------------------------
# The list


def test_one_criterion_of_a_list_is_enough() -> None:
    ids = torch.tensor([[0, 3], [0, 1], [0, 0]])
    criteria = StoppingCriteriaList([EosTokenCriteria(3), lambda ids, scores: ids[:, -1] == 1])
    assert criteria(ids, None).tolist() == [True, True, False]
    assert StoppingCriteriaList()(ids, None).tolist() == [False] * 3
    assert StoppingCriteriaList([lambda ids, scores: True])(ids, None).tolist() == [True] * 3
    assert criteria.max_length is None
    assert StoppingCriteriaList([*criteria, MaxLengthCriteria(7), MaxLengthCriteria(5)]).max_length == 7


def test_a_criterion_sees_the_scores() -> None:
    scores = torch.tensor([[0.0, 2.0], [0.0, 0.5]])
    criteria = StoppingCriteriaList([lambda ids, scores: scores.amax(-1) > 1])
    assert criteria(torch.zeros(2, 1), scores).tolist() == [True, False]


def test_answers_that_would_be_broadcast_are_refused() -> None:
    def column(input_ids: torch.Tensor, scores: Any) -> torch.Tensor:
        return torch.ones(2, 1, dtype=torch.bool)

    with pytest.raises(ValueError, match=r"column returned shape \[2, 1\]; expected \[2\]"):
        StoppingCriteriaList([column])(torch.zeros(2, 1), None)
    with pytest.raises(TypeError, match=r"returned a torch.int64 tensor; expected a boolean tensor \[2\]"):
        StoppingCriteriaList([lambda ids, scores: torch.ones(2, dtype=torch.long)])(torch.zeros(2, 1), None)
    with pytest.raises(TypeError, match="returned a NoneType"):
        StoppingCriteriaList([lambda ids, scores: None])(torch.zeros(2, 1), None)
    with pytest.raises(NotImplementedError, match="StoppingCriteria has no __call__"):
        StoppingCriteria()(torch.zeros(2, 1), None)


# --------------------------------------------------------------------------------------------------------------------
# Stop strings


@functools.cache
def prepared(module: Any, tokenizer: Any, *strings: str) -> Any:
    """transformers compares each string with all tokens first, which takes a second."""
    return module.StopStringCriteria(tokenizer, list(strings))


def both(tokenizers: tuple[Any, Any], strings: list[str], rows: list[list[int]]) -> list[bool]:
    """The answers of minitf (with the second tokenizer) for rows of any length, asserted to be transformers'."""
    expected, found = prepared(theirs, tokenizers[0], *strings), StopStringCriteria(tokenizers[1], strings)
    answers = []
    for ids in rows:
        there = bool(expected(torch.tensor([ids]), None))
        here = bool(found(torch.tensor([ids])))
        tokens = tokenizers[0].convert_ids_to_tokens(ids[-12:])
        assert here == there, f"{strings} after {tokens}: transformers says {there}"
        answers.append(here)
    return answers


def pieces(tokenizer: Any, *tokens: str) -> list[int]:
    ids = tokenizer.convert_tokens_to_ids(list(tokens))
    assert None not in ids
    assert len(set(tokens) & set(tokenizer.get_vocab())) == len(set(tokens))
    return list(ids)


BYTE_LEVEL_CASES = [
    (["st", "op"], True),
    (["stop"], True),
    (["st", "opera"], True),
    (["sto", "pper"], True),
    (["las", "topper"], True),
    (["s", "to", "pped"], True),
    (["stop", "at"], False),
    (["st", "op", "at"], False),
    (["st", "opera", "tion"], False),
    (["Ġst", "op"], True),
    (["st", "Ġop"], False),
    (["op"], False),
    (["stop", "stop"], True),
    (["stop", "s", "top"], True),
]


@pytest.mark.parametrize(("tokens", "expected"), BYTE_LEVEL_CASES, ids=str)
def test_the_string_must_end_in_the_newest_token(byte_level: Any, tokens: list[str], expected: bool) -> None:
    """The cases that the documentation of transformers gives, as far as they are tokens of GPT-2, and some more."""
    vocabulary = byte_level.get_vocab()
    split = list(itertools.chain.from_iterable([t] if t in vocabulary else list(t) for t in tokens))
    if all(token in vocabulary for token in tokens):
        assert both((byte_level, byte_level), ["stop"], [pieces(byte_level, *tokens)]) == [expected]
    both((byte_level, byte_level), ["stop"], [pieces(byte_level, *split)])


TEXTS = [
    "The biggest states are:\n- Alaska\n- Texas\n- California\n\nThe end. Thee end, the END; thend",
    "stop stopper nonstop s t o p st op. Stop! sstop stopstop",
    "a, b,, c.  d ...   e\n\n\nf\tg <|endoftext|> h",
    "中文文本：停止。继续，停止停",
    "naïve café déjà vu — “quoted” … 😀😃 👍🏽 end",
    "it's don't I'll you've we're 'quoted' end's",
]
STRINGS = [["stop"], ["\n"], [" Texas", "end"], ["..."], ["停止"], ["é"], ["😃"], ["🏽 end"], ["<|endoftext|>"],
           ["t's"], ["a", "b", "c"], ["California\n\nThe end. Thee end, the"]]  # fmt: skip


def test_every_prefix_of_real_texts_as_bytes(byte_level: Any) -> None:
    """Each token of each text as the newest one, characters of two to four bytes included; every string is found."""
    rows = [ids[:n] for ids in byte_level(TEXTS)["input_ids"] for n in range(1, len(ids) + 1)]
    for strings in STRINGS:
        assert any(both((byte_level, byte_level), strings, rows)), strings


def test_every_prefix_of_real_texts_as_words(wordpiece: tuple[Any, Any]) -> None:
    """Every row begins with [CLS], as a prompt of BERT does; see the next test for rows that begin with a word."""
    rows = [ids[:n] for ids in wordpiece[0](TEXTS)["input_ids"] for n in range(1, len(ids) + 1)]
    for strings in [["stop"], [" stop"], ["per", "top"], ["."], ["- texas"], ["[SEP]"], ["中 文"], ["s t o"], ["' s"],
                    ["[CLS] the"], ["e end, the end"]]:  # fmt: skip
        assert any(both(wordpiece, strings, rows)), strings
        both((wordpiece[0], wordpiece[0]), strings, rows)


def test_a_row_that_begins_with_a_word_has_no_space_before_it(wordpiece: tuple[Any, Any]) -> None:
    """The difference that the class names: the text of the row is "stop", without a space."""
    ids = torch.tensor([pieces(wordpiece[0], "stop")])
    assert not bool(StopStringCriteria(wordpiece[1], " stop")(ids))
    assert bool(StopStringCriteria(wordpiece[1], "stop")(ids))
    assert bool(theirs.StopStringCriteria(wordpiece[0], " stop")(ids, None))


def test_the_mark_of_a_continuation_is_not_text(wordpiece: tuple[Any, Any]) -> None:
    """Decoded alone, "##ing" would contain "#"."""
    rows = [pieces(wordpiece[0], *tokens) for tokens in (["[CLS]", "do", "##ing"], ["[CLS]", "do", "#"])]
    assert both(wordpiece, ["#"], rows) == [False, True]


@settings(max_examples=150, deadline=None)
@given(seed=st.integers(0, 10_000), length=st.integers(1, 12))
def test_random_bytes(byte_level: Any, seed: int, length: int) -> None:
    """Tokens of single bytes in any order, so that characters stay incomplete, break off and begin anew."""
    generator = np.random.default_rng(seed)
    parts = [byte_level.convert_tokens_to_ids(byte_level.tokenize(text)) for text in ("é", "停", "😃", "st", "op", " ")]
    ids = [int(i) for i in generator.choice(list(itertools.chain.from_iterable(parts)), length)]
    rows = [ids[:n] for n in range(1, length + 1)]
    both((byte_level, byte_level), ["stop", "é", "停", "😃", "st op"], rows)


def test_rows_of_a_batch_are_independent(byte_level: Any) -> None:
    rows = [pieces(byte_level, *row) for row in (["a", "st", "op"], ["st", "op", "a"], ["Ġ", "s", "top"])]
    for criterion in (StopStringCriteria(byte_level, "stop"), theirs.StopStringCriteria(byte_level, "stop")):
        assert criterion(torch.tensor(rows), None).tolist() == [True, False, True]


def test_only_the_end_of_a_row_is_decoded(byte_level: Any) -> None:
    class Counting:
        longest = 0

        def encode(self, text: str, add_special_tokens: bool) -> list[int]:
            return list(byte_level.encode(text, add_special_tokens=add_special_tokens))

        def decode(self, ids: list[int], **options: Any) -> str:
            self.longest = max(self.longest, len(ids))
            return str(byte_level.decode(ids, **options))

    counting = Counting()
    ids = torch.tensor([pieces(byte_level, *["a"] * 500, "st", "op")])
    assert StopStringCriteria(counting, ["stop"])(ids).tolist() == [True]
    assert counting.longest <= 5


def test_strings_that_the_tokenizer_cannot_produce_are_named(
    wordpiece: tuple[Any, Any], byte_level: Any, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "minitf.generation"):
        for string in ("stop", " stop", "ing", ".", "[SEP]", "中"):
            StopStringCriteria(wordpiece[1], string)
        for strings in STRINGS:
            StopStringCriteria(byte_level, strings)
        assert caplog.text == ""
        for string in ("STOP", "\n", "don't", "café"):
            caplog.clear()
            StopStringCriteria(wordpiece[1], ["stop", string])
            assert repr(string) in caplog.text
            assert "may never be found" in caplog.text
