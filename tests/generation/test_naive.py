"""The fast loops beside their definitions (`naive.py`), and what must hold for any prompts (by hypothesis)."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from minitf.generation import prepare
from minitf.generation.beams import beam_search
from minitf.generation.config import GenerationConfig
from tests.generation import naive
from tests.generation.pairs import CLASSES, ENDS, PAD, TOLERANCE, VOCABULARY, pair

MODELS = CLASSES[:2]
NEW = 8
EARLY: dict[str, Any] = {"eos_token_id": [*ENDS, 34, 28, 58, 54], "pad_token_id": PAD}
words = st.integers(2, VOCABULARY - 1)
ragged = st.lists(st.lists(words, min_size=1, max_size=9), min_size=1, max_size=4)
searched = settings(max_examples=12, deadline=None, derandomize=True)


def padded(texts: list[list[int]]) -> dict[str, torch.Tensor]:
    """Texts of any lengths as a batch, padded on the left."""
    longest = max(map(len, texts))
    ids = torch.tensor([[PAD] * (longest - len(text)) + text for text in texts])
    mask = torch.tensor([[0] * (longest - len(text)) + [1] * len(text) for text in texts])
    return {"input_ids": ids, "attention_mask": mask}


def new_words(sequences: torch.Tensor, start: int, ends: list[int]) -> list[list[int]]:
    """The new words of each row, up to its end token."""
    found = []
    for row in sequences[:, start:].tolist():
        over = [place for place, word in enumerate(row) if word in ends]
        found.append(row[: over[0] + 1] if over else row)
    return found


@functools.cache
def recalled(class_name: str) -> naive.Score:
    """The naive score of a model, each text computed once in a process."""
    score = naive.scorer(pair(class_name)[0])
    held: dict[tuple[int, ...], list[float]] = {}

    def remember(text: list[int]) -> list[float]:
        key = tuple(text)
        if key not in held:
            held[key] = score(text)
        return held[key]

    return remember


# --------------------------------------------------------------------------------------------------------------------
# Beside the definitions


@pytest.mark.parametrize("class_name", MODELS)
@searched
@given(texts=ragged)
def test_greedy(class_name: str, texts: list[list[int]]) -> None:
    made = padded(texts)
    found = pair(class_name)[0].generate(**made, max_new_tokens=NEW, **EARLY)
    expected = [naive.greedy(recalled(class_name), text, NEW, EARLY["eos_token_id"]) for text in texts]
    assert new_words(found, made["input_ids"].shape[1], EARLY["eos_token_id"]) == expected


@pytest.mark.parametrize("class_name", MODELS)
@searched
@given(texts=ragged, seed=st.integers(0, 99), temperature=st.sampled_from([0.6, 1.0, 1.7]),
       top_k=st.sampled_from([1, 7, VOCABULARY]), top_p=st.sampled_from([0.3, 0.85]))  # fmt: skip
def test_sampling(
    class_name: str, texts: list[list[int]], seed: int, temperature: float, top_k: int, top_p: float
) -> None:
    made, cuts = padded(texts), {"temperature": temperature, "top_k": top_k, "top_p": top_p}
    torch.manual_seed(seed)
    found = pair(class_name)[0].generate(**made, max_new_tokens=NEW, do_sample=True, **cuts, **EARLY)
    torch.manual_seed(seed)
    expected = naive.sample(recalled(class_name), texts, NEW, EARLY["eos_token_id"], **cuts)
    assert new_words(found, made["input_ids"].shape[1], EARLY["eos_token_id"]) == expected


@pytest.mark.parametrize("do_sample", [False, True], ids=["search", "sample"])
@pytest.mark.parametrize("class_name", MODELS)
@searched
@given(texts=st.lists(st.lists(words, min_size=1, max_size=6), min_size=1, max_size=3), width=st.integers(2, 4),
       penalty=st.sampled_from([-1.0, 0.0, 1.0, 2.0]), stopping=st.sampled_from([True, False, "never"]),
       seed=st.integers(0, 99))  # fmt: skip
def test_beams(
    class_name: str, do_sample: bool, texts: list[list[int]], width: int, penalty: float, stopping: Any, seed: int
) -> None:
    made, ends = padded(texts), EARLY["eos_token_id"]
    how = {"length_penalty": penalty, "early_stopping": stopping, "do_sample": do_sample}
    cuts = {"top_k": 0} if do_sample else {}
    torch.manual_seed(seed)
    out = pair(class_name)[0].generate(
        **made, max_new_tokens=5, num_beams=width, num_return_sequences=width, output_scores=True,
        return_dict_in_generate=True, **how, **cuts, **EARLY,
    )  # fmt: skip
    torch.manual_seed(seed)
    expected = naive.beams(recalled(class_name), texts, width, 5, ends, **how)
    found = new_words(out.sequences, made["input_ids"].shape[1], ends)
    assert found == [text for one in expected for _, text in one]
    scores = torch.tensor([score for one in expected for score, _ in one])
    torch.testing.assert_close(out.sequences_scores, scores, rtol=1e-5, atol=TOLERANCE)


@pytest.mark.parametrize("penalty", [-1.0, 0.0, 0.6, 1.0, 2.0])
@pytest.mark.parametrize("ends", [[4], [0, 3]], ids=str)
def test_a_wide_beam_finds_the_best_of_all(ends: list[int], penalty: float) -> None:
    """With as many beams as there are texts, and early_stopping="never", the search misses nothing."""
    ours, _ = pair("GPT2LMHeadModel", vocab_size=5, bos_token_id=1, seed=3)
    score, width = naive.scorer(ours), 5**3
    for prompt in ([1, 2, 3], [4]):
        out = ours.generate(
            torch.tensor([prompt]), torch.ones(1, len(prompt)), num_beams=width, num_return_sequences=20,
            max_new_tokens=3, eos_token_id=ends, pad_token_id=1, length_penalty=penalty, early_stopping="never",
            output_scores=True, return_dict_in_generate=True,
        )  # fmt: skip
        expected = naive.best_of_all(score, prompt, 3, ends, 5, penalty)[:20]
        torch.testing.assert_close(
            out.sequences_scores, torch.tensor([value for value, _ in expected]), rtol=1e-5, atol=TOLERANCE
        )
        assert new_words(out.sequences, len(prompt), ends) == [text for _, text in expected]
    if penalty in (-1.0, 2.0):  # short texts win, or long ones
        assert (len(expected[0][1]) < 3) == (penalty < 0)


# --------------------------------------------------------------------------------------------------------------------
# What must hold for any prompts


@pytest.mark.parametrize("how", [{}, {"do_sample": True}, {"num_beams": 3}, {"num_beams": 3, "do_sample": True}],
                         ids=str)  # fmt: skip
@pytest.mark.parametrize("class_name", CLASSES)
@searched
@given(texts=ragged, seed=st.integers(0, 99))
def test_cached_is_uncached(class_name: str, how: dict[str, Any], texts: list[list[int]], seed: int) -> None:
    ours, found = pair(class_name)[0], []
    for use_cache in (True, False):
        torch.manual_seed(seed)
        found.append(
            ours.generate(
                **padded(texts), max_new_tokens=NEW, use_cache=use_cache, output_scores=True,
                return_dict_in_generate=True, **how, **EARLY,
            )
        )  # fmt: skip
    assert torch.equal(found[0].sequences, found[1].sequences)
    for a, b in zip(found[0].scores, found[1].scores, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=3 * TOLERANCE)  # one position and many round differently


@pytest.mark.parametrize("how", [{}, {"num_beams": 3}, {"repetition_penalty": 1.4}], ids=str)
@pytest.mark.parametrize("class_name", CLASSES)
@searched
@given(texts=ragged)
def test_a_ragged_batch_is_one_by_one(class_name: str, how: dict[str, Any], texts: list[list[int]]) -> None:
    ours, made = pair(class_name)[0], padded(texts)
    together = ours.generate(**made, max_new_tokens=NEW, **how, **EARLY)
    alone = [ours.generate(torch.tensor([text]), max_new_tokens=NEW, **how, **EARLY) for text in texts]
    found = new_words(together, made["input_ids"].shape[1], EARLY["eos_token_id"])
    assert found == [
        new_words(one, len(text), EARLY["eos_token_id"])[0] for one, text in zip(alone, texts, strict=True)
    ]


@pytest.mark.parametrize("how", [{}, {"num_beams": 3}], ids=str)
@pytest.mark.parametrize("class_name", CLASSES)
@searched
@given(text=st.lists(words, min_size=3, max_size=8), neighbours=st.lists(words, min_size=16, max_size=16))
def test_a_row_does_not_depend_on_its_neighbours(
    class_name: str, how: dict[str, Any], text: list[int], neighbours: list[int]
) -> None:
    ours, length = pair(class_name)[0], len(text)
    others = [[neighbours[:length], neighbours[-length:]], [[7], [9] * length]]
    found = []
    for one, other in others:
        out = ours.generate(
            **padded([one, text, other]), max_new_tokens=NEW, output_scores=True, return_dict_in_generate=True, **how,
            **EARLY,
        )  # fmt: skip
        rows = how.get("num_beams", 1)
        found.append((new_words(out.sequences, length, EARLY["eos_token_id"])[1], out.scores[0][rows : 2 * rows]))
    assert found[0][0] == found[1][0]
    torch.testing.assert_close(found[0][1], found[1][1], rtol=0, atol=TOLERANCE)


def beam_loop(model: Any, made: dict[str, torch.Tensor], call: GenerationConfig) -> torch.Tensor:
    """`beam_search` with whatever `num_beams` says: `generate` itself runs the greedy loop for one beam."""
    start = prepare.prompt(model, call, made["input_ids"], made["attention_mask"], None, {})
    limits = prepare.limits(call, GenerationConfig(), start, model.config.max_position_embeddings)
    processors = prepare.processors_for(
        call, limits, start.mask, guidance=None, prefix_allowed_tokens_fn=None, custom=None
    )
    stopping = prepare.stopping_for(call, None, None)
    run = prepare.run_for(
        model, call, "beam_search", start, limits, processors, stopping, generator=None, streamer=None, draft=None
    )
    with torch.no_grad():
        sequences: torch.Tensor = beam_search(run).sequences
    return sequences


@pytest.mark.parametrize("class_name", MODELS)
@searched
@given(texts=ragged, penalty=st.sampled_from([-1.0, 0.0, 1.0, 2.0]))
def test_one_beam_is_greedy(class_name: str, texts: list[list[int]], penalty: float) -> None:
    ours, made = pair(class_name)[0], padded(texts)
    start, ends = made["input_ids"].shape[1], EARLY["eos_token_id"]
    expected = new_words(ours.generate(**made, max_new_tokens=NEW, **EARLY), start, ends)
    ways = [(True, penalty), (False, 0.0), ("never", 0.0)]  # else the only beam goes on to look for a better end
    for stopping, exponent in ways:
        call = GenerationConfig(
            num_beams=1, max_new_tokens=NEW, early_stopping=stopping, length_penalty=exponent, **EARLY
        )
        assert new_words(beam_loop(ours, made, call), start, ends) == expected
