"""Logits processors beside transformers' own classes: equal bits on [B, V], errors, and properties.

Every comparison is `torch.equal`. Scores are random, full of ties, partly -inf, or what top-k leaves over.
"""

from __future__ import annotations

import itertools
import logging
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers.generation import logits_process as theirs

import minitf
from minitf.generation import processors, warpers
from minitf.generation.processors import LogitsProcessor, LogitsProcessorList, merge_custom
from tests.support import REPOSITORY, randomise_

INF = math.inf
SHAPES = [(1, 53, 1), (3, 53, 6), (2, 300, 9), (4, 777, 3), (2, 5, 4)]  # B, V, T
KINDS = ["random", "ties", "half precision", "some -inf", "few left", "flat", "peaked"]


def make_scores(kind: str, batch: int, size: int, seed: int = 0) -> torch.Tensor:
    """`[B, V]` float32 scores; at least one of a row is finite."""
    generator = torch.Generator().manual_seed(seed)
    scores = 3 * torch.randn(batch, size, generator=generator)
    if kind == "ties":
        scores = scores.round()
    if kind == "half precision":
        scores = scores.bfloat16().float()
    if kind == "some -inf":
        scores = scores.masked_fill(torch.rand(batch, size, generator=generator) < 0.4, -INF)
        scores[:, size // 2] = 1.0
    if kind == "few left":
        scores = scores.masked_fill(scores < scores.topk(min(7, size)).values[:, -1:], -INF)
    if kind == "flat":
        scores = scores * 1e-3
    if kind == "peaked":
        scores = scores * 20
    return scores


def make_ids(batch: int, size: int, length: int, seed: int = 0) -> torch.Tensor:
    """`[B, T]` ids of a small part of the vocabulary, so that sequences repeat themselves."""
    generator = torch.Generator().manual_seed(seed + 1)
    return torch.randint(0, min(size, 4), (batch, length), generator=generator)


def build(module: Any, name: str, arguments: dict[str, Any]) -> Any:
    return getattr(module, name)(**arguments)


def ours(name: str, **arguments: Any) -> Any:
    return build(warpers if hasattr(warpers, name) and name in warpers.__all__ else processors, name, arguments)


def compare(name: str, arguments: dict[str, Any], input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
    """Our scores, after the assertion that they are transformers' and that nothing was written into the arguments."""
    expected = build(theirs, name, arguments)(input_ids.clone(), scores.clone())
    held_ids, held_scores = input_ids.clone(), scores.clone()
    found = ours(name, **arguments)(input_ids, scores)
    assert torch.equal(input_ids, held_ids)
    assert torch.equal(scores, held_scores)
    assert found.shape == scores.shape
    assert found.dtype == scores.dtype
    assert torch.equal(found, expected), f"{name}({arguments}): {(found != expected).sum()} scores differ"
    return found


WARPERS: list[tuple[str, dict[str, Any]]] = [
    ("TemperatureLogitsWarper", {"temperature": 0.7}),
    ("TemperatureLogitsWarper", {"temperature": 3.0}),
    *[("TopKLogitsWarper", {"top_k": k}) for k in (1, 2, 10, 50, 10_000)],
    ("TopKLogitsWarper", {"top_k": 2, "min_tokens_to_keep": 4}),
    ("TopKLogitsWarper", {"top_k": 3, "filter_value": -5.0}),
    *[("TopPLogitsWarper", {"top_p": p}) for p in (0.0, 0.1, 0.5, 0.9, 0.95, 0.999, 1.0)],
    ("TopPLogitsWarper", {"top_p": 0.1, "min_tokens_to_keep": 3}),
    ("TopPLogitsWarper", {"top_p": 0.6, "filter_value": -50.0}),
    ("TopPLogitsWarper", {"top_p": 0.6, "min_tokens_to_keep": 1000}),
    *[("MinPLogitsWarper", {"min_p": p}) for p in (0.0, 0.05, 0.5, 1.0)],
    ("MinPLogitsWarper", {"min_p": 0.9, "min_tokens_to_keep": 3}),
    ("MinPLogitsWarper", {"min_p": 0.9, "min_tokens_to_keep": 1000, "filter_value": -9.0}),
    *[("TypicalLogitsWarper", {"mass": m}) for m in (0.05, 0.3, 0.9, 0.999)],
    ("TypicalLogitsWarper", {"mass": 0.1, "min_tokens_to_keep": 3, "filter_value": -9.0}),
    ("TypicalLogitsWarper", {}),
    *[("EpsilonLogitsWarper", {"epsilon": e}) for e in (3e-4, 0.01, 0.2, 0.99)],
    ("EpsilonLogitsWarper", {"epsilon": 0.3, "min_tokens_to_keep": 3, "filter_value": -9.0}),
    *[("EtaLogitsWarper", {"epsilon": e}) for e in (3e-4, 0.01, 0.2, 0.99)],
    ("EtaLogitsWarper", {"epsilon": 0.3, "min_tokens_to_keep": 3, "filter_value": -9.0}),
    *[("TopHLogitsWarper", {"top_h": h}) for h in (0.05, 0.4, 0.9, 1.0)],
    ("TopHLogitsWarper", {"top_h": 0.4, "filter_value": -9.0}),
]

# the ids fit the smallest vocabulary of SHAPES
OTHERS: list[tuple[str, dict[str, Any]]] = [
    ("RepetitionPenaltyLogitsProcessor", {"penalty": 1.3}),
    ("RepetitionPenaltyLogitsProcessor", {"penalty": 0.5}),
    ("RepetitionPenaltyLogitsProcessor", {"penalty": 1.3, "prompt_ignore_length": 2}),
    *[("NoRepeatNGramLogitsProcessor", {"ngram_size": n}) for n in (1, 2, 3, 4)],
    ("SequenceBiasLogitsProcessor", {"sequence_bias": {(2,): 1.5, (3,): -INF}}),
    ("SequenceBiasLogitsProcessor", {"sequence_bias": {(1, 2): 0.3, (2,): 0.1, (0, 2): 0.7, (3, 1, 2): -4.0}}),
    ("SequenceBiasLogitsProcessor", {"sequence_bias": [[[0, 1], 2.5], [[3], -1.0], [[1, 1, 1, 1, 1, 1], 2.0]]}),
    ("SequenceBiasLogitsProcessor", {"sequence_bias": {(i, j): 0.1 * i - 0.3 * j for i in range(4) for j in range(4)}}),
    ("NoBadWordsLogitsProcessor", {"bad_words_ids": [[1], [0, 2], [3, 3, 3], [2, 1, 0]]}),
    ("NoBadWordsLogitsProcessor", {"bad_words_ids": [[4], [0, 4], [1, 4]], "eos_token_id": [1, 2]}),
    ("SuppressTokensLogitsProcessor", {"suppress_tokens": [0, 4]}),
    *[("SuppressTokensAtBeginLogitsProcessor", {"begin_suppress_tokens": [1, 3], "begin_index": i}) for i in (1, 3, 4)],
    ("ForcedBOSTokenLogitsProcessor", {"bos_token_id": 4}),
    *[("ForcedEOSTokenLogitsProcessor", {"max_length": n, "eos_token_id": 3}) for n in (2, 5, 7, 8)],
    ("ForcedEOSTokenLogitsProcessor", {"max_length": 4, "eos_token_id": [0, 2]}),
    ("ForcedEOSTokenLogitsProcessor", {"max_length": 4, "eos_token_id": torch.tensor([0, 2])}),
    *[("MinLengthLogitsProcessor", {"min_length": n, "eos_token_id": 3}) for n in (0, 2, 4, 20)],
    ("MinLengthLogitsProcessor", {"min_length": 20, "eos_token_id": torch.tensor([1, 2])}),
    ("MinNewTokensLengthLogitsProcessor", {"prompt_length_to_skip": 1, "min_new_tokens": 3, "eos_token_id": [0, 1]}),
    ("MinNewTokensLengthLogitsProcessor", {"prompt_length_to_skip": 3, "min_new_tokens": 3, "eos_token_id": 2}),
    *[
        (
            "ExponentialDecayLengthPenalty",
            {"exponential_decay_length_penalty": (2, factor), "eos_token_id": ends, "input_ids_seq_length": 1},
        )
        for factor, ends in [(1.1, 2), (1.7, [0, 4]), (0.4, torch.tensor([1]))]
    ],
    ("LogitNormalization", {}),
    ("InfNanRemoveLogitsProcessor", {}),
]  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("name", "arguments"), WARPERS + OTHERS, ids=lambda value: str(value)[:60])
def test_equal_to_transformers(name: str, arguments: dict[str, Any], kind: str) -> None:
    for seed, (batch, size, length) in enumerate(SHAPES):
        compare(name, arguments, make_ids(batch, size, length, seed), make_scores(kind, batch, size, seed))


@pytest.mark.parametrize(("name", "arguments"), WARPERS + OTHERS, ids=lambda value: str(value)[:60])
def test_every_case_changes_something(name: str, arguments: dict[str, Any]) -> None:
    """So that an equality above is not one of two processors that do nothing; those that should not are listed."""
    idle = [{"top_k": 10_000}, {"top_p": 1.0}, {"min_p": 0.0}, {"min_length": 0}, {"min_tokens_to_keep": 1000}]
    if any(item in arguments.items() for case in idle for item in case.items()):
        return
    cases = [
        (make_ids(b, v, t, seed), make_scores("some -inf" if name.startswith("Inf") else "random", b, v, seed))
        for (b, v, t), seed in itertools.product([*SHAPES, (2, 50, 7)], range(4))
    ]
    assert any(not torch.equal(ours(name, **arguments)(ids, scores), scores) for ids, scores in cases)


@pytest.mark.parametrize("kind", ["random", "half precision", "few left", "peaked"])
@pytest.mark.parametrize("batch", [1, 2])
def test_equal_at_the_size_of_gpt2(kind: str, batch: int) -> None:
    """V = 50257, where transformers sorts in several passes and rounds long sums."""
    ids, scores = make_ids(batch, 50257, 5), make_scores(kind, batch, 50257)
    for name, arguments in WARPERS:
        compare(name, arguments, ids, scores)


@pytest.mark.parametrize("kept", [1, 2, 50, 200, 700, 900])
@pytest.mark.parametrize("size", [50257, 30522, 4096, 777])
def test_top_p_after_top_k_on_many_rows(kept: int, size: int) -> None:
    """Only the finite scores are sorted there; the sums must stay those of the whole row, bit for bit."""
    for seed in range(4):
        scores = make_scores("random", 3, size, seed)
        scores = ours("TopKLogitsWarper", top_k=kept)(torch.zeros(3, 1), scores)
        for top_p in (0.3, 0.8, 0.92):
            compare("TopPLogitsWarper", {"top_p": top_p}, torch.zeros(3, 1, dtype=torch.long), scores)


def test_the_sorted_end_of_a_row_has_the_probabilities_of_the_whole_row() -> None:
    the_sorted_end()


def the_sorted_end() -> None:
    for seed, (size, finite) in enumerate(itertools.product([16_411, 30_522, 50_257, 50_304], [1, 3, 17, 60, 64, 150])):
        scores = make_scores("random", 2, size, seed)
        scores = scores.masked_fill(scores < scores.topk(finite).values[:, -1:], -INF)
        end = warpers._ascending(scores, 1)
        whole = torch.sort(scores).values
        width = end.shape[1]
        assert finite <= width < size
        assert torch.equal(end, whole[:, size - width :])
        assert torch.equal(end.softmax(-1), whole.softmax(-1)[:, size - width :])


def test_the_sorted_end_on_a_processor_without_wide_registers() -> None:
    """The order in which torch adds depends on the registers that it finds; here it is told to use the narrowest."""
    check = f"import tests.generation.{Path(__file__).stem} as t; t.{the_sorted_end.__name__}()"
    environment = {**os.environ, "ATEN_CPU_CAPABILITY": "default"}
    done = subprocess.run(
        [sys.executable, "-c", check], cwd=REPOSITORY, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_top_p_cuts_between_equal_scores_where_transformers_does() -> None:
    """Which of two equal scores stays depends on the sorting algorithm; both sort in the same way."""
    ids = torch.zeros(1, 1, dtype=torch.long)
    split = 0
    for seed in range(30):
        scores = torch.randint(0, 3, (2, 400), generator=torch.Generator().manual_seed(seed)).float()
        found = compare("TopPLogitsWarper", {"top_p": 0.5}, ids, scores)
        lowest = found.masked_fill(found == -INF, INF).amin(dim=-1, keepdim=True)
        split += bool(((scores == lowest) & (found == -INF)).any())
    assert split > 10


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_types_of_scores(dtype: torch.dtype) -> None:
    """float32 is the protocol; others keep their type and the result of transformers."""
    for name, arguments in [*WARPERS, *OTHERS]:
        for batch, size, length in [(2, 53, 4)]:
            compare(name, arguments, make_ids(batch, size, length), make_scores("random", batch, size).to(dtype))


def test_under_inference_mode() -> None:
    with torch.inference_mode():
        ids, scores = make_ids(2, 300, 5), make_scores("random", 2, 300)
        for name, arguments in [*WARPERS, *OTHERS]:
            compare(name, arguments, ids, scores)


# --------------------------------------------------------------------------------------------------------------------
# Single processors


def test_repetition_penalty_leaves_out_the_padding_of_each_row() -> None:
    generator = torch.Generator().manual_seed(3)
    for batch, size, length in [(1, 9, 1), (3, 9, 6), (4, 300, 5)]:
        ids = torch.randint(0, size, (batch, length), generator=generator)
        scores = make_scores("random", batch, size)
        for highest in (0, 1, length):
            ignored = torch.randint(0, highest + 1, (batch,), generator=generator)
            compare("RepetitionPenaltyLogitsProcessor", {"penalty": 1.7, "prompt_ignore_length": ignored}, ids, scores)


def test_repetition_penalty_by_hand() -> None:
    ids = torch.tensor([[7, 7, 1, 2, 2], [5, 1, 6, 6, 0]])
    scores = torch.tensor([[1.0, 2.0, -3.0, 4.0, -5.0, 6.0, 7.0, 8.0]]).repeat(2, 1)
    found = ours("RepetitionPenaltyLogitsProcessor", penalty=2, prompt_ignore_length=torch.tensor([2, 0]))(ids, scores)
    assert found.tolist() == [[1, 1, -6, 4, -5, 6, 7, 8], [0.5, 1, -3, 4, -5, 3, 3.5, 8]]


def test_repetition_penalty_numbers_of_prompts_hold_for_their_beams() -> None:
    ids, scores = make_ids(6, 9, 4), make_scores("random", 6, 9)
    of_prompts = ours("RepetitionPenaltyLogitsProcessor", penalty=1.7, prompt_ignore_length=torch.tensor([3, 1]))
    of_rows = ours(
        "RepetitionPenaltyLogitsProcessor", penalty=1.7, prompt_ignore_length=torch.tensor([3] * 3 + [1] * 3)
    )
    assert torch.equal(of_prompts(ids, scores), of_rows(ids, scores))
    with pytest.raises(ValueError, match=r"prompt_ignore_length has 2 numbers, but input_ids 3 rows"):
        of_prompts(ids[:3], scores[:3])


def test_prefix_constraint_against_transformers() -> None:
    def allowed(prompt: int, ids: torch.Tensor) -> list[int]:
        return [prompt, int(ids[-1]) + 1, 4]

    for kind in KINDS:
        for beams, (batch, size, length) in [(1, (1, 53, 1)), (1, (3, 53, 6)), (2, (4, 777, 3)), (3, (3, 9, 5))]:
            arguments = {"prefix_allowed_tokens_fn": allowed, "num_beams": beams}
            compare(
                "PrefixConstrainedLogitsProcessor",
                arguments,
                make_ids(batch, size, length),
                make_scores(kind, batch, size),
            )


def test_prefix_constraint_wins_where_all_allowed_tokens_are_banned() -> None:
    """In one beam of a prompt they stay banned; only where all beams of it have nothing left, they come back."""
    scores = make_scores("random", 4, 9)
    scores[:3, [2, 5]] = -INF
    arguments = {"prefix_allowed_tokens_fn": lambda prompt, ids: [2, 5], "num_beams": 2}
    found = compare("PrefixConstrainedLogitsProcessor", arguments, make_ids(4, 9, 3), scores)
    assert found[0, 2] == 0.0
    assert found[2].tolist() == [-INF] * 9
    assert found[3, 5] == scores[3, 5]


def test_prefix_function_may_return_a_tensor_or_one_id() -> None:
    ids, scores = make_ids(2, 9, 3), make_scores("random", 2, 9)
    expected = ours("PrefixConstrainedLogitsProcessor", prefix_allowed_tokens_fn=lambda p, i: [3], num_beams=1)(
        ids, scores
    )
    for result in (3, torch.tensor([3]), torch.tensor(3), (3,), {3}, range(3, 4), np.array([3])):
        fn = {"prefix_allowed_tokens_fn": lambda p, i, result=result: result, "num_beams": 1}
        assert torch.equal(ours("PrefixConstrainedLogitsProcessor", **fn)(ids, scores), expected)


def test_decay_of_an_end_token_that_is_banned_or_huge() -> None:
    arguments = {"exponential_decay_length_penalty": (0, 10.0), "eos_token_id": [1, 2], "input_ids_seq_length": 0}
    scores = torch.tensor([[0.5, -INF, 2.0, 1.0]])
    found = compare("ExponentialDecayLengthPenalty", arguments, torch.zeros(1, 2, dtype=torch.long), scores)
    assert found.tolist() == [[0.5, -INF, 200.0, 1.0]]
    for length in (60, 5000):  # 10 ** 60 is too large for float32, 10 ** 5000 for any float
        late = ours("ExponentialDecayLengthPenalty", **arguments)(torch.zeros(1, length, dtype=torch.long), scores)
        assert late[0, 2] == torch.finfo(torch.float32).max
        assert late.softmax(-1).tolist() == [[0.0, 0.0, 1.0, 0.0]]


def test_invalid_values_are_replaced() -> None:
    scores = torch.tensor([[math.nan, INF, -INF, 1.5], [0.0, -0.5, 2.0, math.nan]])
    compare(
        "InfNanRemoveLogitsProcessor",
        {},
        torch.zeros(2, 1, dtype=torch.long),
        scores.nan_to_num(nan=3.0, posinf=INF, neginf=-INF),
    )
    found = ours("InfNanRemoveLogitsProcessor")(torch.zeros(2, 1), scores)
    largest = torch.finfo(torch.float32).max
    assert found.tolist() == [[0.0, largest, -largest, 1.5], [0.0, -0.5, 2.0, 0.0]]
    assert torch.equal(found, theirs.InfNanRemoveLogitsProcessor()(torch.zeros(2, 1), scores))


def test_bad_words_that_are_end_tokens_are_named(caplog: pytest.LogCaptureFixture) -> None:
    arguments = {"bad_words_ids": [[1], [4], [0, 4]], "eos_token_id": 4}
    with caplog.at_level(logging.WARNING, "minitf.generation"):
        found = compare("NoBadWordsLogitsProcessor", arguments, torch.tensor([[0], [1]]), make_scores("random", 2, 6))
    assert "[4]" in caplog.text
    assert (found == -INF).tolist() == [[False, True, False, False, True, False], [False, True] + [False] * 4]


def test_bias_tables_follow_the_size_of_the_scores() -> None:
    processor = ours("SequenceBiasLogitsProcessor", sequence_bias={(6,): 1.0})
    processor(make_ids(1, 9, 2), make_scores("random", 1, 9))
    with pytest.raises(ValueError, match=r"sequence_bias holds the id 6, but the vocabulary ends at 4"):
        processor(make_ids(1, 5, 2), make_scores("random", 1, 5))


@pytest.mark.parametrize("group", [0, 1, 2])
def test_hamming_diversity_by_hand(group: int) -> None:
    """4.49.0: the scores of a group minus penalty x (how many earlier beams of the prompt chose the token)."""
    chosen = [[3, 3, 1, 3, 0, 0], [5, 2, 2, 2, 0, 0]]  # two prompts, three groups of two beams; the last is open
    scores = make_scores("random", 4, 7)
    expected = scores.clone()
    for prompt, tokens in enumerate(chosen):
        for token in tokens[: 2 * group]:
            expected[2 * prompt : 2 * prompt + 2, token] -= 0.5
    processor = ours("HammingDiversityLogitsProcessor", diversity_penalty=0.5, num_beams=6, num_beam_groups=3)
    found = processor(make_ids(4, 7, 3), scores, current_tokens=torch.tensor(chosen).flatten(), beam_group_idx=group)
    # exact: 0.5 and its multiples are powers of two times small integers, so both orders of subtraction round once
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
    assert torch.equal(found[:, [4, 6]], scores[:, [4, 6]])
    assert torch.equal(found, scores) == (group == 0)


def test_hamming_diversity_counts() -> None:
    processor = ours("HammingDiversityLogitsProcessor", diversity_penalty=2.0, num_beams=4, num_beam_groups=2)
    found = processor(torch.zeros(2, 1), torch.zeros(2, 3), torch.tensor([1, 1, 0, 0]), 1)
    assert found.tolist() == [[0.0, -4.0, 0.0], [0.0, -4.0, 0.0]]


def test_hamming_diversity_refuses_what_it_cannot_read() -> None:
    processor = ours("HammingDiversityLogitsProcessor", diversity_penalty=2.0, num_beams=4, num_beam_groups=2)
    ids, scores = torch.zeros(2, 1), torch.zeros(2, 3)
    with pytest.raises(ValueError, match="needs current_tokens and beam_group_idx"):
        processor(ids, scores)
    with pytest.raises(ValueError, match=r"beam_group_idx = 2: expected 0 to 1"):
        processor(ids, scores, torch.tensor([1, 1, 0, 0]), 2)
    with pytest.raises(ValueError, match=r"shape \[3\] and scores 2 rows"):
        processor(ids, scores, torch.tensor([1, 1, 0]), 1)
    with pytest.raises(ValueError, match=r"shape \[4\] and scores 4 rows"):
        processor(torch.zeros(4, 1), torch.zeros(4, 3), torch.tensor([1, 1, 0, 0]), 1)


# --------------------------------------------------------------------------------------------------------------------
# Classifier-free guidance


def models() -> tuple[Any, Any]:
    """transformers' GPT-2 and ours, with the same random weights."""
    sizes = {"vocab_size": 31, "n_positions": 32, "n_embd": 32, "n_layer": 2, "n_head": 2}
    config = transformers.GPT2Config(**sizes, attn_implementation="eager")
    reference = randomise_(transformers.GPT2LMHeadModel(config)).eval()
    model = minitf.GPT2LMHeadModel(minitf.GPT2Config(**sizes, attn_implementation="eager")).eval()
    model.load_state_dict(reference.state_dict())
    return reference, model


GUIDED = "UnbatchedClassifierFreeGuidanceLogitsProcessor"


@pytest.mark.parametrize("use_cache", [True, False])
@pytest.mark.parametrize("negative", ["none", "ids", "ids and mask"])
def test_guidance_step_by_step(negative: str, use_cache: bool) -> None:
    """Equal bits with transformers' model in both, and with minitf's model and its KVCache in ours."""
    reference, model = models()
    arguments: dict[str, Any] = {"guidance_scale": 1.5, "use_cache": use_cache}
    if negative != "none":
        arguments["unconditional_ids"] = torch.tensor([[4, 5, 6], [7, 8, 9]])
    if negative == "ids and mask":
        arguments["unconditional_attention_mask"] = torch.tensor([[0, 1, 1], [1, 1, 1]])
    expected = theirs.UnbatchedClassifierFreeGuidanceLogitsProcessor(model=reference, **arguments)
    found = [ours(GUIDED, model=reference, **arguments), ours(GUIDED, model=model, **arguments)]
    ids = make_ids(2, 31, 4)
    with torch.no_grad():
        for step in range(4):
            scores = make_scores("random", 2, 31, step)
            there = expected(ids, scores)
            for processor in found:
                assert torch.equal(processor(ids, scores), there)
            ids = torch.cat([ids, there.argmax(-1, keepdim=True)], dim=1)


def test_guidance_of_scale_one_does_not_run_the_model() -> None:
    def fails(*_: Any, **__: Any) -> Any:
        raise AssertionError

    scores = make_scores("random", 2, 9)
    processor = ours(GUIDED, guidance_scale=1.0, model=fails)
    assert torch.equal(processor(make_ids(2, 9, 3), scores), scores.log_softmax(-1))


def recomputed(
    model: Any, scale: float, negative: torch.Tensor, new: torch.Tensor, scores: torch.Tensor
) -> torch.Tensor:
    with torch.no_grad():
        other = model(torch.cat([negative, new], dim=1)).logits[:, -1].log_softmax(-1)
    return other + scale * (scores.log_softmax(-1) - other)


def test_guidance_follows_beams_and_further_generations() -> None:
    """Rows change places, or another prompt begins: computed anew, where transformers goes on with a foreign cache."""
    _, model = models()
    negative = torch.tensor([[4, 5], [7, 8]])
    processor = ours(GUIDED, guidance_scale=2.0, model=model, unconditional_ids=negative)
    for seed in range(2):
        prompt = make_ids(2, 31, 3, seed).repeat_interleave(2, 0)
        rows = prompt
        for step in range(4):
            scores = make_scores("random", 4, 31, step)
            expected = recomputed(model, 2.0, negative.repeat_interleave(2, 0), rows[:, 3:], scores)
            torch.testing.assert_close(processor(rows, scores), expected, rtol=1e-5, atol=1e-5)
            rows = torch.cat([rows[[1, 0, 2, 2]], torch.tensor([[3], [step + 5], [9], [step]])], dim=1)


def test_guidance_begins_anew_with_another_prompt() -> None:
    """Without a negative prompt it starts from the last token of the prompt, wherever that stands."""
    _, model = models()
    processor = ours(GUIDED, guidance_scale=2.0, model=model)
    for length in (3, 5, 4):
        prompt = make_ids(1, 31, length, seed=length)
        for step in range(3):
            rows = torch.cat([prompt, torch.full((1, step), 9)], dim=1)
            scores = make_scores("random", 1, 31, step)
            expected = recomputed(model, 2.0, prompt[:, -1:], rows[:, length:], scores)
            torch.testing.assert_close(processor(rows, scores), expected, rtol=1e-5, atol=1e-5)


def test_guidance_uses_its_cache() -> None:
    reference, _ = models()
    lengths = []

    def counted(ids: torch.Tensor, **arguments: Any) -> Any:
        lengths.append(ids.shape[1])
        return reference(ids, **arguments)

    ids = make_ids(1, 31, 4)
    processor = ours(GUIDED, guidance_scale=1.5, model=counted, unconditional_ids=torch.tensor([[1, 2, 3]]))
    for step in range(3):
        processor(torch.cat([ids, torch.full((1, step), 5)], dim=1), make_scores("random", 1, 31))
    assert lengths == [3, 1, 1]


def test_guidance_refuses_rows_that_do_not_fit() -> None:
    reference, _ = models()
    processor = ours(GUIDED, guidance_scale=1.5, model=reference, unconditional_ids=torch.tensor([[1], [2]]))
    with pytest.raises(ValueError, match="unconditional_ids has 2 rows, but 3 rows are generated"):
        processor(make_ids(3, 31, 2), make_scores("random", 3, 31))


# --------------------------------------------------------------------------------------------------------------------
# Errors


# the settings of a class that are in order, each of which is replaced by wrong values
KEEP = {"min_tokens_to_keep": 1}
BANS = {"suppress_tokens": [1]}
AT_BEGIN = {"begin_suppress_tokens": [1], "begin_index": 1}
NEW = {"prompt_length_to_skip": 1, "min_new_tokens": 1, "eos_token_id": 1}
DECAY = {"exponential_decay_length_penalty": (1, 1.2), "eos_token_id": 1, "input_ids_seq_length": 1}
PREFIX = {"prefix_allowed_tokens_fn": len, "num_beams": 1}
GROUPS = {"diversity_penalty": 1.0, "num_beams": 4, "num_beam_groups": 2}
IDS = torch.tensor([[1, 2]])

ERRORS: list[tuple[str, dict[str, Any], dict[str, Any], str]] = [
    ("TemperatureLogitsWarper", {}, {"temperature": 0.0}, r"temperature = 0.0: expected .* > 0 .*do_sample=False"),
    ("TemperatureLogitsWarper", {}, {"temperature": -1}, "temperature = -1"),
    ("TemperatureLogitsWarper", {}, {"temperature": True}, "temperature = True"),
    ("TemperatureLogitsWarper", {}, {"temperature": "hot"}, "temperature = 'hot'"),
    ("TemperatureLogitsWarper", {}, {"temperature": math.nan}, "temperature = nan"),
    ("TemperatureLogitsWarper", {}, {"temperature": INF}, "temperature = inf"),
    ("TopKLogitsWarper", KEEP, {"top_k": 0}, "top_k = 0: expected an integer >= 1"),
    ("TopKLogitsWarper", KEEP, {"top_k": 2.0}, "top_k = 2.0"),
    ("TopKLogitsWarper", {"top_k": 2}, {"min_tokens_to_keep": 0}, "min_tokens_to_keep = 0"),
    ("TopPLogitsWarper", KEEP, {"top_p": 1.1}, "top_p = 1.1: expected a number from 0 to 1"),
    ("TopPLogitsWarper", KEEP, {"top_p": -0.1}, "top_p = -0.1"),
    ("TopPLogitsWarper", {"top_p": 0.5}, {"min_tokens_to_keep": 0}, "min_tokens_to_keep = 0"),
    ("MinPLogitsWarper", KEEP, {"min_p": 1.1}, "min_p = 1.1"),
    ("MinPLogitsWarper", {"min_p": 0.1}, {"min_tokens_to_keep": True}, "min_tokens_to_keep = True"),
    ("TypicalLogitsWarper", KEEP, {"mass": 1.0}, "mass = 1.0: expected a number > 0 and < 1"),
    ("TypicalLogitsWarper", {"mass": 0.5}, {"min_tokens_to_keep": -1}, "min_tokens_to_keep = -1"),
    ("EpsilonLogitsWarper", KEEP, {"epsilon": 0.0}, "epsilon = 0.0"),
    ("EpsilonLogitsWarper", {"epsilon": 0.1}, {"min_tokens_to_keep": 0}, "min_tokens_to_keep = 0"),
    ("EtaLogitsWarper", KEEP, {"epsilon": 1.0}, "epsilon = 1.0"),
    ("EtaLogitsWarper", {"epsilon": 0.1}, {"min_tokens_to_keep": 0}, "min_tokens_to_keep = 0"),
    ("TopHLogitsWarper", {}, {"top_h": 0}, "top_h = 0"),
    ("TopHLogitsWarper", {}, {"top_h": 1.5}, "top_h = 1.5"),
    ("RepetitionPenaltyLogitsProcessor", {}, {"penalty": 0.0}, "penalty = 0.0"),
    ("RepetitionPenaltyLogitsProcessor", {"penalty": 2}, {"prompt_ignore_length": -1}, "prompt_ignore_length = -1"),
    ("RepetitionPenaltyLogitsProcessor", {"penalty": 2}, {"prompt_ignore_length": torch.ones(2)}, r"shape \[B\]"),
    ("RepetitionPenaltyLogitsProcessor", {"penalty": 2}, {"prompt_ignore_length": IDS}, r"shape \[B\]"),
    ("RepetitionPenaltyLogitsProcessor", {"penalty": 2}, {"prompt_ignore_length": -IDS[0]}, r"shape \[B\]"),
    ("NoRepeatNGramLogitsProcessor", {}, {"ngram_size": 0}, "ngram_size = 0: expected an integer >= 1"),
    ("NoRepeatNGramLogitsProcessor", {}, {"ngram_size": 2.0}, "ngram_size = 2.0"),
    ("SequenceBiasLogitsProcessor", {}, {"sequence_bias": {}}, "at least one entry"),
    ("SequenceBiasLogitsProcessor", {}, {"sequence_bias": {3: 1.0}}, "at least one entry"),
    ("SequenceBiasLogitsProcessor", {}, {"sequence_bias": {(): 1.0}}, "a token id or a list of at least one"),
    ("SequenceBiasLogitsProcessor", {}, {"sequence_bias": {(-1,): 1.0}}, "integers >= 0"),
    ("SequenceBiasLogitsProcessor", {}, {"sequence_bias": {(1,): "a"}}, r"sequence_bias of \[1\] = 'a'"),
    ("SequenceBiasLogitsProcessor", {}, {"sequence_bias": {(1,): math.nan}}, r"sequence_bias of \[1\] = nan"),
    ("SequenceBiasLogitsProcessor", {}, {"sequence_bias": {(1,): INF}}, "a finite number or -inf"),
    ("SequenceBiasLogitsProcessor", {}, {"sequence_bias": [[[1, 2]]]}, "at least one entry"),
    ("SequenceBiasLogitsProcessor", {}, {"sequence_bias": [[[1], 1.0], [[1], 2.0]]}, r"\[1\] stands there twice"),
    ("NoBadWordsLogitsProcessor", {}, {"bad_words_ids": []}, "at least one list"),
    ("NoBadWordsLogitsProcessor", {}, {"bad_words_ids": [3]}, "a list of lists"),
    ("NoBadWordsLogitsProcessor", {}, {"bad_words_ids": [[]]}, "at least one"),
    ("NoBadWordsLogitsProcessor", {}, {"bad_words_ids": [[1.0]]}, "integers >= 0"),
    ("NoBadWordsLogitsProcessor", {"eos_token_id": 3}, {"bad_words_ids": [[3]]}, r"besides the end tokens \[3\]"),
    ("SuppressTokensLogitsProcessor", BANS, {"suppress_tokens": []}, r"suppress_tokens = \[\]"),
    ("SuppressTokensLogitsProcessor", BANS, {"suppress_tokens": [-1]}, "integers >= 0"),
    ("SuppressTokensLogitsProcessor", BANS, {"suppress_tokens": torch.ones(2)}, "integers >= 0"),
    ("SuppressTokensAtBeginLogitsProcessor", AT_BEGIN, {"begin_index": -1}, "begin_index = -1"),
    ("SuppressTokensAtBeginLogitsProcessor", AT_BEGIN, {"begin_suppress_tokens": None}, "begin_suppress_tokens = None"),
    ("ForcedBOSTokenLogitsProcessor", {}, {"bos_token_id": -1}, "bos_token_id = -1"),
    ("ForcedBOSTokenLogitsProcessor", {}, {"bos_token_id": [1]}, r"bos_token_id = \[1\]"),
    ("ForcedEOSTokenLogitsProcessor", {"eos_token_id": 1}, {"max_length": 0}, "max_length = 0"),
    ("ForcedEOSTokenLogitsProcessor", {"max_length": 5}, {"eos_token_id": True}, "integers >= 0"),
    ("MinLengthLogitsProcessor", {"eos_token_id": 1}, {"min_length": -1}, "min_length = -1"),
    ("MinLengthLogitsProcessor", {"min_length": 1}, {"eos_token_id": -1}, "integers >= 0"),
    ("MinNewTokensLengthLogitsProcessor", NEW, {"prompt_length_to_skip": -1}, "prompt_length_to_skip = -1"),
    ("MinNewTokensLengthLogitsProcessor", NEW, {"min_new_tokens": 1.5}, "min_new_tokens = 1.5"),
    ("ExponentialDecayLengthPenalty", DECAY, {"exponential_decay_length_penalty": 1.2}, "it begins, factor"),
    (
        "ExponentialDecayLengthPenalty",
        DECAY,
        {"exponential_decay_length_penalty": (-1, 1.2)},
        "the beginning of .* = -1",
    ),
    ("ExponentialDecayLengthPenalty", DECAY, {"exponential_decay_length_penalty": (1, 0)}, "the factor of .* = 0"),
    ("ExponentialDecayLengthPenalty", DECAY, {"input_ids_seq_length": -1}, "input_ids_seq_length = -1"),
    ("PrefixConstrainedLogitsProcessor", PREFIX, {"prefix_allowed_tokens_fn": [1]}, "a function"),
    ("PrefixConstrainedLogitsProcessor", PREFIX, {"num_beams": 0}, "num_beams = 0"),
    ("HammingDiversityLogitsProcessor", GROUPS, {"diversity_penalty": 0}, "diversity_penalty = 0"),
    ("HammingDiversityLogitsProcessor", GROUPS, {"num_beams": 1}, "num_beams = 1"),
    ("HammingDiversityLogitsProcessor", GROUPS, {"num_beam_groups": 1}, "num_beam_groups = 1"),
    ("HammingDiversityLogitsProcessor", GROUPS, {"num_beam_groups": 3}, "a divisor of num_beams = 4"),
    (GUIDED, {"model": len}, {"guidance_scale": INF}, "guidance_scale = inf"),
    (GUIDED, {"model": len, "guidance_scale": 2}, {"unconditional_ids": IDS[0]}, r"\[prompts, T\], not empty"),
    (GUIDED, {"model": len, "guidance_scale": 2}, {"unconditional_attention_mask": IDS}, "has no effect without"),
    (
        GUIDED,
        {"model": len, "guidance_scale": 2, "unconditional_ids": IDS},
        {"unconditional_attention_mask": IDS[:, :1]},
        r"expected \[1, 2\]",
    ),
]


@pytest.mark.parametrize(("name", "right", "wrong", "message"), ERRORS, ids=lambda value: str(value)[:50])
def test_refused_settings(name: str, right: dict[str, Any], wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ours(name, **{**right, **wrong})


OUTSIDE: list[tuple[str, dict[str, Any]]] = [
    ("SequenceBiasLogitsProcessor", {"sequence_bias": {(9, 1): 1.0}}),
    ("NoBadWordsLogitsProcessor", {"bad_words_ids": [[9]]}),
    ("SuppressTokensLogitsProcessor", {"suppress_tokens": [1, 9]}),
    ("SuppressTokensAtBeginLogitsProcessor", {"begin_suppress_tokens": 9, "begin_index": 1}),
    ("ForcedBOSTokenLogitsProcessor", {"bos_token_id": 9}),
    ("ForcedEOSTokenLogitsProcessor", {"max_length": 2, "eos_token_id": 9}),
    ("MinLengthLogitsProcessor", {"min_length": 5, "eos_token_id": [9]}),
    ("MinNewTokensLengthLogitsProcessor", {"prompt_length_to_skip": 1, "min_new_tokens": 5, "eos_token_id": 9}),
    ("ExponentialDecayLengthPenalty", {**DECAY, "exponential_decay_length_penalty": (0, 2.0), "eos_token_id": 9,
                                       "input_ids_seq_length": 0}),
    ("PrefixConstrainedLogitsProcessor", {"prefix_allowed_tokens_fn": lambda prompt, ids: [9], "num_beams": 1}),
]  # fmt: skip


@pytest.mark.parametrize(("name", "arguments"), OUTSIDE, ids=lambda value: str(value)[:50])
def test_ids_outside_the_vocabulary(name: str, arguments: dict[str, Any]) -> None:
    """transformers ignores some of these, and fails with an index error at others."""
    with pytest.raises(ValueError, match="holds the id 9, but the vocabulary ends at 8"):
        ours(name, **arguments)(torch.zeros(1, 1, dtype=torch.long), torch.zeros(1, 9))


@pytest.mark.parametrize("result", [[], (), torch.tensor([], dtype=torch.long)])
def test_prefix_function_without_a_token(result: Any) -> None:
    arguments = {"prefix_allowed_tokens_fn": lambda prompt, ids: result if prompt else [1], "num_beams": 2}
    message = r"allows no token after \[2, 3\] \(prompt 1\)"
    with pytest.raises(ValueError, match=message):
        ours("PrefixConstrainedLogitsProcessor", **arguments)(torch.tensor([[2, 3]] * 4), torch.zeros(4, 9))
    with pytest.raises(ValueError, match="unsatisfiable"):
        build(theirs, "PrefixConstrainedLogitsProcessor", arguments)(torch.tensor([[2, 3]] * 4), torch.zeros(4, 9))
    with pytest.raises(ValueError, match=r"the result of prefix_allowed_tokens_fn = None: expected a token id"):
        ours("PrefixConstrainedLogitsProcessor", prefix_allowed_tokens_fn=lambda prompt, ids: None, num_beams=1)(
            torch.tensor([[2, 3]]), torch.zeros(1, 9)
        )
    with pytest.raises(ValueError, match="3 rows; expected a multiple of num_beams = 2"):
        ours("PrefixConstrainedLogitsProcessor", **arguments)(torch.tensor([[2, 3]] * 3), torch.zeros(3, 9))


def test_unknown_parameters_are_refused() -> None:
    with pytest.raises(TypeError, match="device"):
        ours("MinLengthLogitsProcessor", min_length=1, eos_token_id=1, device="cpu")


def test_every_public_class_has_the_parameters_of_transformers() -> None:
    """The same names, order and defaults, but for `device`; the class of 4.49.0 has no counterpart in 5.x."""
    import inspect

    for module, name in [(processors, n) for n in processors.__all__] + [(warpers, n) for n in warpers.__all__]:
        if name in ("LogitsProcessorList", "merge_custom", "HammingDiversityLogitsProcessor"):
            continue
        here, there = (list(inspect.signature(getattr(m, name)).parameters.values()) for m in (module, theirs))
        wanted = [(p.name, p.default) for p in there if p.name != "device"]
        assert [(p.name, p.default) for p in here] == wanted, name


# --------------------------------------------------------------------------------------------------------------------
# The list


def test_a_list_applies_its_processors_in_order() -> None:
    ids, scores = make_ids(2, 50, 4), make_scores("random", 2, 50)
    names = [("TemperatureLogitsWarper", {"temperature": 0.5}), ("TopKLogitsWarper", {"top_k": 9}),
             ("TopPLogitsWarper", {"top_p": 0.8}), ("LogitNormalization", {})]  # fmt: skip
    here = LogitsProcessorList([ours(name, **arguments) for name, arguments in names])
    there = theirs.LogitsProcessorList([build(theirs, name, arguments) for name, arguments in names])
    assert torch.equal(here(ids, scores), there(ids, scores))
    assert LogitsProcessorList()(ids, scores) is scores
    swapped = LogitsProcessorList([lambda ids, s: s + 1, lambda ids, s: s * 2])
    assert swapped(ids, torch.zeros(2, 3)).tolist() == [[2.0] * 3] * 2


def test_a_list_hands_further_values_to_those_that_take_them() -> None:
    hamming = ours("HammingDiversityLogitsProcessor", diversity_penalty=2.0, num_beams=2, num_beam_groups=2)
    seen = []

    def custom(input_ids: torch.Tensor, scores: torch.Tensor, beam_group_idx: int) -> torch.Tensor:
        seen.append(beam_group_idx)
        return scores

    chain = LogitsProcessorList([ours("LogitNormalization"), hamming, custom])
    found = chain(torch.zeros(1, 1), torch.zeros(1, 2), current_tokens=torch.tensor([1, 0]), beam_group_idx=1)
    torch.testing.assert_close(found, torch.tensor([[-math.log(2), -math.log(2) - 2]]))
    assert seen == [1]
    with pytest.raises(TypeError, match=r"no processor of this list takes \['beam_group'\]"):
        chain(torch.zeros(1, 1), torch.zeros(1, 2), beam_group=1)


def test_a_list_checks_what_custom_processors_return() -> None:
    def forgets(input_ids: torch.Tensor, scores: torch.Tensor) -> None:
        return None

    class Widens(LogitsProcessor):
        def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
            return scores[:1]

    with pytest.raises(TypeError, match="forgets returned a NoneType"):
        LogitsProcessorList([forgets])(torch.zeros(2, 1), torch.zeros(2, 3))
    with pytest.raises(ValueError, match=r"Widens returned scores of shape \[1, 3\]; expected \[2, 3\]"):
        LogitsProcessorList([Widens()])(torch.zeros(2, 1), torch.zeros(2, 3))
    with pytest.raises(NotImplementedError, match="LogitsProcessor has no __call__"):
        LogitsProcessor()(torch.zeros(2, 1), torch.zeros(2, 3))


def test_merging_refuses_the_same_class_twice() -> None:
    default = LogitsProcessorList([ours("TopKLogitsWarper", top_k=5)])
    custom = [ours("TopPLogitsWarper", top_p=0.5), ours("TopPLogitsWarper", top_p=0.6), max, min]
    merged = merge_custom(default, custom, "logits processor")
    assert isinstance(merged, LogitsProcessorList)
    assert merged == [*default, *custom]
    assert len(default) == 1
    message = (
        r"logits processor TopKLogitsWarper is given twice: TopKLogitsWarper\(top_k=5, .*TopKLogitsWarper\(top_k=7, "
    )
    with pytest.raises(ValueError, match=message):
        merge_custom(default, [ours("TopKLogitsWarper", top_k=7)], "logits processor")
    with pytest.raises(ValueError, match=r"the same logits processor, TopPLogitsWarper\(top_p=0.5.* is passed twice"):
        merge_custom(default, [custom[0], custom[1], custom[0]], "logits processor")
    assert merge_custom([], [], "stopping criterion") == []


# --------------------------------------------------------------------------------------------------------------------
# Properties

rows = st.lists(st.floats(-30, 30, width=32), min_size=2, max_size=40)
shares = st.floats(0.0, 1.0)


@settings(max_examples=200, deadline=None)
@given(row=rows, top_p=shares, least=st.integers(1, 5))
def test_top_p_reaches_its_mass_with_as_few_tokens_as_possible(row: list[float], top_p: float, least: int) -> None:
    scores = torch.tensor([row])
    found = ours("TopPLogitsWarper", top_p=top_p, min_tokens_to_keep=least)(torch.zeros(1, 1), scores)
    kept = found[0] > -INF
    probs = scores.double().softmax(-1)[0]
    assert int(kept.sum()) >= min(least, len(row))
    assert float(probs[kept].sum()) >= top_p - 1e-5
    if int(kept.sum()) > least:
        assert float(probs[kept].sum() - probs[kept].min()) <= top_p + 1e-5
    assert torch.equal(found[0][kept], scores[0][kept])
    assert bool(kept.all()) or float(probs[kept].min()) >= float(probs[~kept].max()) - 1e-12


@settings(max_examples=200, deadline=None)
@given(row=rows, top_k=st.integers(1, 45))
def test_top_k_keeps_k_and_those_equal_to_the_last(row: list[float], top_k: int) -> None:
    found = ours("TopKLogitsWarper", top_k=top_k)(torch.zeros(1, 1), torch.tensor([row]))[0].tolist()
    limit = sorted(torch.tensor(row).tolist(), reverse=True)[: min(top_k, len(row))][-1]
    assert found == [score if score >= limit else -INF for score in torch.tensor(row).tolist()]


@settings(max_examples=100, deadline=None)
@given(row=rows, temperature=st.floats(0.05, 20))
def test_temperature_keeps_the_order_and_sharpens(row: list[float], temperature: float) -> None:
    scores = torch.tensor([row], dtype=torch.float64)
    found = ours("TemperatureLogitsWarper", temperature=temperature)(torch.zeros(1, 1), scores)
    order = scores[0].argsort(stable=True)
    assert bool((found[0][order].diff() >= 0).all())
    highest = [float(s.softmax(-1).max()) for s in (scores, found)]
    assert (highest[1] >= highest[0] - 1e-9) if temperature <= 1 else (highest[1] <= highest[0] + 1e-9)


@settings(max_examples=100, deadline=None)
@given(size=st.integers(1, 4), seed=st.integers(0, 10_000))
def test_no_ngram_comes_twice(size: int, seed: int) -> None:
    """Greedy decoding from random scores over five tokens, until nothing is left."""
    generator = torch.Generator().manual_seed(seed)
    processor = ours("NoRepeatNGramLogitsProcessor", ngram_size=size)
    ids = torch.zeros(1, 1, dtype=torch.long)
    for _ in range(30):
        scores = processor(ids, torch.randn(1, 5, generator=generator))
        if bool(scores.isneginf().all()):
            break
        ids = torch.cat([ids, scores.argmax(-1, keepdim=True)], dim=1)
    tokens = ids[0].tolist()
    grams = list(zip(*(tokens[i:] for i in range(size)), strict=False))
    assert len(grams) == len(set(grams))
    if size == 1:
        assert sorted(tokens) == [0, 1, 2, 3, 4]


@settings(max_examples=100, deadline=None)
@given(row=rows, min_p=shares, epsilon=st.floats(0.001, 0.999), top_h=st.floats(0.01, 1.0), mass=st.floats(0.01, 0.99))
def test_all_cuts_leave_scores_as_they_are_or_remove_them(
    row: list[float], min_p: float, epsilon: float, top_h: float, mass: float
) -> None:
    scores = torch.tensor([row])
    for name, arguments in [("MinPLogitsWarper", {"min_p": min_p}), ("EpsilonLogitsWarper", {"epsilon": epsilon}),
                            ("EtaLogitsWarper", {"epsilon": epsilon}), ("TopHLogitsWarper", {"top_h": top_h}),
                            ("TypicalLogitsWarper", {"mass": mass})]:  # fmt: skip
        found = ours(name, **arguments)(torch.zeros(1, 1), scores)
        kept = found > -INF
        assert bool(kept.any())
        assert torch.equal(found[kept], scores[kept])
        if name != "TypicalLogitsWarper":
            assert bool(kept[scores == scores.max()].any())


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10_000), batch=st.integers(2, 4))
def test_a_row_does_not_depend_on_its_neighbours(seed: int, batch: int) -> None:
    ids, scores = make_ids(batch, 40, 5, seed), make_scores("some -inf", batch, 40, seed)
    for name, arguments in [*WARPERS, *OTHERS]:
        processor = ours(name, **arguments)
        alone = torch.cat([processor(ids[i : i + 1], scores[i : i + 1]) for i in range(batch)])
        assert torch.equal(processor(ids, scores), alone), name
