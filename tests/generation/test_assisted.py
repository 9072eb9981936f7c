"""Assisted decoding: the tokens of plain decoding whatever is drafted, and with the same seed those of transformers.

The naive version of each rule (no cache, everything recomputed, the definition written out) stands in this file.
"""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import minitf
from minitf.cache import KVCache
from minitf.generation import assisted
from tests.generation.assisted_pairs import (
    DRAFTS,
    NO_END,
    PADDED,
    PADDED_MASK,
    PROMPT,
    REPEATED,
    draft_pair,
    drafters,
    ours,
    prepared,
    pretend_scikit_learn,
    spied,
    target,
    theirs,
)
from tests.parity import bert_pairs, gpt2_pairs
from tests.support import random_value, randomise_

WANTED = {
    "return_dict_in_generate": True, "output_scores": True, "output_logits": True, "output_attentions": True,
    "output_hidden_states": True,
}  # fmt: skip


@pytest.fixture(autouse=True)
def scikit_learn(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend_scikit_learn(monkeypatch)


# --------------------------------------------------------------------------------------------------------------------
# The naive versions: no cache, everything recomputed, the definition


def next_scores(model: Any, ids: Tensor) -> Tensor:
    """`[1, T]` -> `[V]`."""
    scores: Tensor = model(ids).logits[0, -1]
    return scores


@torch.no_grad()
def naive_greedy(model: Any, draft: Any, ids: Tensor, new: int, length: int) -> Tensor:
    """Draft `length` tokens with the draft model's best ones, keep what equals the model's best ones, add one."""
    end = ids.shape[1] + new
    while ids.shape[1] < end:
        guess = ids
        for _ in range(min(length, end - ids.shape[1] - 1)):
            guess = torch.cat([guess, next_scores(draft, guess).argmax().view(1, 1)], 1)
        start = ids.shape[1]
        while True:
            token = next_scores(model, ids).argmax().view(1, 1)
            ids = torch.cat([ids, token], 1)
            place = ids.shape[1] - 1
            if place >= guess.shape[1] or int(guess[0, place]) != int(token) or ids.shape[1] == end:
                break
        assert ids.shape[1] > start
    return ids


@torch.no_grad()
def naive_sampling(model: Any, draft: Any, ids: Tensor, new: int, length: int) -> Tensor:
    """Algorithm 1 of Leviathan et al. 2023, one round after the other."""
    end = ids.shape[1] + new
    while ids.shape[1] < end:
        start, guess, q = ids.shape[1], ids, []
        count = min(length, end - start - 1)
        for _ in range(count):
            q.append(next_scores(draft, guess).softmax(-1))
            guess = torch.cat([guess, torch.multinomial(q[-1], 1).view(1, 1)], 1)
        p = [next_scores(model, guess[:, : start + i]).softmax(-1) for i in range(count + 1)]
        r = torch.rand(count) if count else torch.zeros(0)
        x = guess[0, start:].tolist()
        n = next((i for i in range(count) if r[i] > p[i][x[i]] / q[i][x[i]]), count)
        last = p[n]
        if n < count:
            last = (p[n] - q[n]).clamp(min=0)
            last = last / last.sum()
        ids = torch.cat([guess[:, : start + n], torch.multinomial(last, 1).view(1, 1)], 1)
    return ids


@pytest.mark.parametrize("which", DRAFTS)
@pytest.mark.parametrize("length", [1, 4])
def test_naive_versions_agree(which: str, length: int) -> None:
    draft = draft_pair(which)[0]
    call = {"assistant_model": draft, "num_assistant_tokens": length, "assistant_confidence_threshold": 0.0}
    greedy = ours(max_new_tokens=14, **call)
    assert greedy.equal(naive_greedy(target()[0], draft, PROMPT, 14, length))
    for seed in range(4):
        drawn = ours(max_new_tokens=14, do_sample=True, top_k=0, seed=seed, **call)
        torch.manual_seed(seed)
        assert drawn.equal(naive_sampling(target()[0], draft, PROMPT, 14, length))


# --------------------------------------------------------------------------------------------------------------------
# Greedy: the tokens of greedy search


@pytest.mark.parametrize("which", DRAFTS)
@pytest.mark.parametrize(
    "drafting", [{}, {"num_assistant_tokens": 1}, {"num_assistant_tokens": 3, "assistant_confidence_threshold": 0.0}]
)
def test_greedy_is_greedy_search(which: str, drafting: dict[str, Any]) -> None:
    our_draft, their_draft = draft_pair(which)
    for prompt in (PROMPT, REPEATED, PROMPT[:, :1]):
        plain = ours(prompt, max_new_tokens=18)
        assert ours(prompt, max_new_tokens=18, assistant_model=our_draft, **drafting).equal(plain)
        oracle = theirs(prompt, max_new_tokens=18, assistant_model=their_draft, drafting=drafting)
        assert oracle.equal(plain)


@pytest.mark.parametrize("count", [1, 2, 10])
@pytest.mark.parametrize("size", [1, 2, 3])
def test_greedy_lookup_is_greedy_search(count: int, size: int) -> None:
    for prompt in (PROMPT, REPEATED, PROMPT[:, :1]):
        plain = ours(prompt, max_new_tokens=18)
        call = {"prompt_lookup_num_tokens": count, "max_matching_ngram_size": size, "max_new_tokens": 18}
        assert ours(prompt, **call).equal(plain)
        assert theirs(prompt, **call).equal(plain)


@given(
    ids=st.lists(st.integers(1, 60), min_size=1, max_size=12),
    new=st.integers(1, 20),
    which=st.sampled_from(DRAFTS),
    count=st.integers(1, 9),
    threshold=st.sampled_from([0.0, 0.2, 0.4, 1.0]),
    looked_up=st.booleans(),
)
@settings(max_examples=40, deadline=None)
def test_any_draft_gives_greedy_search(
    ids: list[int], new: int, which: str, count: int, threshold: float, looked_up: bool
) -> None:
    prompt = torch.tensor([ids])
    call: dict[str, Any] = {"prompt_lookup_num_tokens": count}
    if not looked_up:
        call = {"assistant_model": draft_pair(which)[0], "num_assistant_tokens": count}
        call["assistant_confidence_threshold"] = threshold
    found = ours(prompt, max_new_tokens=new, **call)
    assert found.equal(ours(prompt, max_new_tokens=new))
    assert found.shape[1] == len(ids) + new


def test_processors_change_both() -> None:
    """Forbidden n-grams, a bias and guidance: greedy search with the same settings is the oracle."""
    for call in (
        {"no_repeat_ngram_size": 2, "repetition_penalty": 1.4},
        {"sequence_bias": {(27,): -5.0}, "suppress_tokens": [24]},
        {"guidance_scale": 1.7},
        {"logits_processor": [lambda ids, scores: scores.roll(ids.shape[1], dims=1)]},
        {"prefix_allowed_tokens_fn": lambda row, ids: [int(ids[-1] + 1) % 61, int(ids[-1] + 7) % 61]},
    ):
        plain = ours(max_new_tokens=15, **call)
        for which in DRAFTS:
            assert ours(max_new_tokens=15, assistant_model=draft_pair(which)[0], **call).equal(plain)
        assert ours(max_new_tokens=15, prompt_lookup_num_tokens=3, **call).equal(plain)


# --------------------------------------------------------------------------------------------------------------------
# Sampling: the tokens of transformers, and the distribution of plain sampling

SAMPLING: list[dict[str, Any]] = [
    {},
    {"top_k": 0},
    {"temperature": 0.7},
    {"temperature": 1.5, "top_k": 9, "top_p": 0.8},
    {"min_p": 0.05, "typical_p": 0.9, "repetition_penalty": 1.3, "renormalize_logits": True},
    {"epsilon_cutoff": 0.02, "no_repeat_ngram_size": 3, "top_k": 0},
]


@pytest.mark.parametrize("extra", SAMPLING, ids=str)
@pytest.mark.parametrize("which", DRAFTS)
def test_sampled_tokens_of_transformers(which: str, extra: dict[str, Any]) -> None:
    our_draft, their_draft = draft_pair(which)
    call = {"do_sample": True, "max_new_tokens": 20, **extra}
    for seed in range(2):
        found = ours(seed=seed, assistant_model=our_draft, **call)
        assert found.equal(theirs(seed=seed, assistant_model=their_draft, **call))
    assert not found.equal(ours(seed=seed + 1, assistant_model=our_draft, **call)), "other seeds, other tokens"


@pytest.mark.parametrize("extra", SAMPLING, ids=str)
def test_sampled_lookups_of_transformers(extra: dict[str, Any]) -> None:
    for prompt, count in ((PROMPT, 2), (REPEATED, 5)):
        call = {"do_sample": True, "max_new_tokens": 20, "prompt_lookup_num_tokens": count, **extra}
        for seed in range(2):
            assert ours(prompt, seed=seed, **call).equal(theirs(prompt, seed=seed, **call))


def test_private_random_state() -> None:
    call = {"do_sample": True, "max_new_tokens": 20, "assistant_model": draft_pair("near")[0]}
    expected = ours(seed=5, **call)
    before = torch.get_rng_state()
    found = target()[0].generate(PROMPT, generator=torch.Generator().manual_seed(5), **call)
    assert found.equal(expected)
    assert torch.get_rng_state().equal(before)


def chi_square(counts: dict[tuple[int, ...], int], probs: dict[tuple[int, ...], float]) -> float:
    """In standard deviations above its mean, outcomes with less than 5 expected draws together."""
    draws = sum(counts.values())
    cells = [(counts.get(key, 0), draws * p) for key, p in probs.items() if draws * p >= 5]
    rest = (draws - sum(n for n, _ in cells), draws - sum(e for _, e in cells))
    cells += [rest] if rest[1] > 1 else []
    freedom = len(cells) - 1
    assert freedom > 9
    return (sum((n - e) ** 2 / e for n, e in cells) - freedom) / math.sqrt(2 * freedom)


def markov_draws(draws: int) -> tuple[dict[tuple[int, ...], int], dict[tuple[int, ...], float]]:
    """Three tokens of a chain of 4 states, drawn by rounds of `speculative` with drafts of another chain."""
    generator = torch.Generator().manual_seed(3)
    p = (1.5 * torch.randn(4, 4, generator=generator)).softmax(-1)
    q = (1.5 * torch.randn(4, 4, generator=generator)).softmax(-1)
    p[1, 2] = q[2, 1] = q[0, 3] = 0.0  # what only one of the two can say
    p, q = p / p.sum(-1, keepdim=True), q / q.sum(-1, keepdim=True)
    counts: dict[tuple[int, ...], int] = {}
    for _ in range(draws):
        tokens = [0]
        while len(tokens) < 4:
            text = list(tokens)
            for _ in range(2):
                text.append(int(torch.multinomial(q[text[-1]], 1, generator=generator)))
            scored = assisted.speculative(
                torch.tensor(text[-2:]),
                q[text[-3:-1]],
                lambda place, text=text: p[text[place - 3]][None].log(),
                generator,
            )
            tokens += [int(token) for token, _ in scored]
        key = tuple(tokens[1:4])
        counts[key] = counts.get(key, 0) + 1
    chain = p.tolist()
    exact = {
        (a, b, c): chain[0][a] * chain[a][b] * chain[b][c] for a in range(4) for b in range(4) for c in range(4)
    }  # fmt: skip
    return counts, exact


def test_distribution_of_the_rule() -> None:
    assert chi_square(*markov_draws(2500)) < 4


@pytest.mark.parametrize("wrong", ["everything is kept", "another token from p"])
def test_distribution_of_wrong_rules(wrong: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The test above notices what people get wrong."""
    if wrong == "everything is kept":
        monkeypatch.setattr(assisted.torch, "rand", lambda *size, **_: torch.zeros(*size))
    else:
        monkeypatch.setattr(assisted, "residual", lambda probs, drafted: probs)
    assert chi_square(*markov_draws(500)) > 8


@torch.no_grad()
def test_distribution_of_generate() -> None:
    """Two tokens of a vocabulary of 6, with temperature: as often as the model's own probabilities say."""
    model, draft = (
        randomise_(minitf.GPT2LMHeadModel(minitf.GPT2Config(**{**gpt2_pairs.TINY, **NO_END, **sizes})), seed).eval()
        for seed, sizes in ((0, {"vocab_size": 6, "n_layer": 1}), (1, {"vocab_size": 6, "n_layer": 1, "n_embd": 16}))
    )
    generator, prompt = torch.Generator().manual_seed(0), torch.tensor([[1, 4]])
    counts: dict[tuple[int, ...], int] = {}
    for _ in range(400):
        call = {"max_new_tokens": 2, "do_sample": True, "temperature": 4.0, "generator": generator}
        key = tuple(model.generate(prompt, assistant_model=draft, **call)[0, 2:].tolist())
        counts[key] = counts.get(key, 0) + 1
    exact = {}
    first = (next_scores(model, prompt) / 4.0).softmax(-1)
    for a in range(6):
        second = (next_scores(model, torch.cat([prompt, torch.tensor([[a]])], 1)) / 4.0).softmax(-1)
        exact.update({(a, b): float(first[a] * second[b]) for b in range(6)})
    assert chi_square(counts, exact) < 4


def test_residual() -> None:
    p, q = torch.tensor([[0.5, 0.3, 0.2]]), torch.tensor([[0.1, 0.3, 0.6]])
    assert assisted.residual(p, q).equal(torch.tensor([[1.0, 0.0, 0.0]]))
    assert assisted.residual(p, p).equal(p), "rounding left nothing: p itself"


# --------------------------------------------------------------------------------------------------------------------
# Where it ends


class Recorder:
    """A streamer."""

    def __init__(self) -> None:
        self.parts: list[Tensor] = []
        self.ended = 0

    def put(self, value: Tensor) -> None:
        assert not self.ended
        self.parts.append(value)

    def end(self) -> None:
        self.ended += 1


@pytest.mark.parametrize(("ends", "length"), [(45, 4), ([58, 55], 17), ([3, 4, 60], 25)])
def test_end_token_in_a_draft(ends: Any, length: int) -> None:
    call = {"max_new_tokens": 25, "eos_token_id": ends, "pad_token_id": 0}
    plain = ours(**call)
    assert plain.shape[1] == PROMPT.shape[1] + length
    for drafter in drafters():
        assert ours(**call, **drafter).equal(plain)
    listed = ends if isinstance(ends, list) else [ends]
    call["do_sample"] = True
    for seed in range(2):
        for which in DRAFTS:
            found = ours(seed=seed, assistant_model=draft_pair(which)[0], **call)
            assert found.equal(theirs(seed=seed, assistant_model=draft_pair(which)[1], **call))
            new = found[0, PROMPT.shape[1] :].tolist()
            assert not set(new[:-1]) & set(listed), "nothing comes after an end token"
            assert new[-1] in listed or len(new) == 25


class Letters:
    """A tokenizer: each token is a letter."""

    def encode(self, text: str, add_special_tokens: bool) -> list[int]:
        return [ord(letter) - 60 for letter in text]

    def decode(self, ids: list[int], skip_special_tokens: bool, clean_up_tokenization_spaces: bool) -> str:
        return "".join(chr(60 + number) for number in ids)


def test_stop_string_in_a_draft() -> None:
    """It ends with the string, although the round went on."""
    text = Letters().decode(ours(max_new_tokens=20)[0, PROMPT.shape[1] :].tolist(), False, False)
    for start in (0, 4, 15):
        call = {"max_new_tokens": 20, "stop_strings": text[start : start + 2], "tokenizer": Letters()}
        plain = ours(**call)
        assert plain.shape[1] == PROMPT.shape[1] + text.index(text[start : start + 2]) + 2
        for drafter in drafters():
            assert ours(**call, **drafter).equal(plain)


def test_minimum_length() -> None:
    for minimum in ({"min_new_tokens": 12}, {"min_length": 18}):
        call = {"max_new_tokens": 20, "eos_token_id": 27, "pad_token_id": 0, **minimum}
        plain = ours(**call)
        assert plain.shape[1] >= 18
        for drafter in drafters():
            assert ours(**call, **drafter).equal(plain)
        for seed in range(2):
            call["do_sample"] = True
            expected = theirs(seed=seed, assistant_model=draft_pair("near")[1], **call)
            assert ours(seed=seed, assistant_model=draft_pair("near")[0], **call).equal(expected)


def test_own_criterion_in_a_draft() -> None:
    """It is asked after each token, with that token's scores, as in plain decoding."""
    for position in range(7, 20):
        seen: list[tuple[int, int]] = []

        def criterion(ids: Tensor, scores: Tensor, position: int = position, seen: Any = seen) -> Tensor:
            seen.append((ids.shape[1], int(scores.argmax())))
            return torch.tensor([ids.shape[1] == position])

        plain = ours(max_new_tokens=20, stopping_criteria=[criterion])
        assert plain.shape[1] == position
        expected = list(seen)
        for drafter in drafters():
            seen.clear()
            assert ours(max_new_tokens=20, stopping_criteria=[criterion], **drafter).equal(plain)
            assert seen == expected


def test_maximum_time() -> None:
    """It is over at once: one token, although a round may have made more."""
    for drafter in drafters():
        assert ours(max_new_tokens=20, max_time=1e-9, **drafter).shape[1] == PROMPT.shape[1] + 1


@pytest.mark.parametrize("do_sample", [False, True])
def test_streamer_gets_each_token_in_order(do_sample: bool) -> None:
    for drafter in drafters():
        streamer = Recorder()
        found = ours(max_new_tokens=20, streamer=streamer, do_sample=do_sample, **drafter)
        assert torch.cat([part.flatten() for part in streamer.parts]).equal(found[0])
        assert [part.numel() for part in streamer.parts] == [PROMPT.shape[1]] + [1] * 20
        assert streamer.ended == 1


@pytest.mark.parametrize("new", [1, 2, 3, 34])
def test_no_token_too_many(new: int) -> None:
    """Up to the last of the model's 40 positions."""
    plain = ours(max_new_tokens=new)
    for drafter in drafters():
        assert ours(max_new_tokens=new, **drafter).equal(plain)
        assert ours(max_length=6 + new, **drafter).equal(plain)
        drawn = ours(max_new_tokens=new, do_sample=True, **drafter)
        assert drawn.shape == plain.shape


# --------------------------------------------------------------------------------------------------------------------
# What is returned


def close(found: Any, expected: Any) -> None:
    """Nested tuples of tensors, of the same shapes and up to rounding of the same values."""
    if isinstance(expected, Tensor):
        assert found.shape == expected.shape
        torch.testing.assert_close(found, expected, atol=2e-5, rtol=1e-5)
        return
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        close(one, other)


def test_outputs_are_those_of_greedy_search() -> None:
    """One entry for each token, whatever was drafted; for transformers' own greedy search the same entries."""
    model, oracle = target("eager")
    call = {"max_new_tokens": 12, "repetition_penalty": 1.2, **WANTED}
    plain = ours(model=model, **call)
    for drafter in drafters():
        found = ours(model=model, **call, **drafter)
        assert found.sequences.equal(plain.sequences)
        for name in ("scores", "logits", "attentions", "hidden_states"):
            assert len(found[name]) == 12
            close(found[name], plain[name])
        assert found.past_key_values.get_seq_length() == plain.past_key_values.get_seq_length() == 17
    expected = theirs(model=oracle, **call)
    for name in ("scores", "logits", "attentions", "hidden_states"):
        close(found[name], expected[name])


def test_scores_are_those_of_transformers() -> None:
    model, oracle = target("eager")
    for which in DRAFTS:
        our_draft, their_draft = draft_pair(which)
        for do_sample in (False, True):
            call = {"max_new_tokens": 12, "do_sample": do_sample, "temperature": 0.8 if do_sample else 1.0, **WANTED}
            found = ours(model=model, assistant_model=our_draft, **call)
            expected = theirs(model=oracle, assistant_model=their_draft, **call)
            assert found.sequences.equal(expected.sequences)
            close(found.scores, expected.scores)
            close(found.logits, expected.logits)
            for name in ("attentions", "hidden_states"):
                close(found[name][0], expected[name][0])
                assert [one[0].shape for one in found[name]] == [other[0].shape for other in expected[name]]


def test_the_first_round_of_transformers_returns_other_positions() -> None:
    """Why hidden states are compared with greedy search: this difference is on purpose."""
    model, oracle = target("eager")
    call = {"max_new_tokens": 6, **WANTED}
    found = ours(model=model, assistant_model=draft_pair("same")[0], **call)
    expected = theirs(model=oracle, assistant_model=draft_pair("same")[1], **call)
    read_again = expected.hidden_states[1][0]
    assert not torch.allclose(found.hidden_states[1][0], read_again, atol=1e-3)
    torch.testing.assert_close(found.hidden_states[0][0][:, :1], read_again, atol=1e-5, rtol=1e-5)


def test_a_conversation_goes_on() -> None:
    """The caller's cache holds all but the last token after each turn, and the next turn starts from it."""
    for drafter in drafters():
        cache, ids = KVCache(), PROMPT
        for turn in range(3):
            found = ours(ids, max_new_tokens=5, past_key_values=cache, **drafter)
            assert found.equal(ours(ids, max_new_tokens=5)), turn
            assert cache.get_seq_length() == found.shape[1] - 1
            ids = torch.cat([found, torch.tensor([[17 + turn, 40]])], 1)


@pytest.mark.parametrize("do_sample", [False, True])
def test_left_padding(do_sample: bool) -> None:
    call = {"attention_mask": PADDED_MASK, "max_new_tokens": 15, "do_sample": do_sample, "pad_token_id": 0}
    for which in DRAFTS:
        our_draft, their_draft = draft_pair(which)
        found = ours(PADDED, assistant_model=our_draft, **call)
        assert found.equal(theirs(PADDED, assistant_model=their_draft, **call))
        if not do_sample:
            assert found[:, 3:].equal(ours(max_new_tokens=15))
    found = ours(PADDED, prompt_lookup_num_tokens=3, **call)
    assert found.equal(theirs(PADDED, prompt_lookup_num_tokens=3, **call))


def test_further_inputs_go_on() -> None:
    """Positions and types of the caller's, in both models; a head mask and an encoder's states where they belong."""
    inputs = {
        "position_ids": torch.tensor([[3, 4, 5, 6, 7, 8]]),
        "token_type_ids": torch.tensor([[50, 50, 50, 51, 51, 52]]),
    }
    plain = ours(max_new_tokens=15, **inputs)
    assert not plain.equal(ours(max_new_tokens=15))
    half = {"head_mask": torch.tensor([[1.0, 0.0, 1.0, 0.5], [1.0, 1.0, 0.0, 1.0]])}
    for drafter in drafters():
        assert ours(max_new_tokens=15, **inputs, **drafter).equal(plain)
        assert ours(max_new_tokens=15, **half, **drafter).equal(ours(max_new_tokens=15, **half))


def test_the_same_model_drafts_with_the_same_inputs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drafts of the same model are always right, so it must have seen the same."""
    mine, _ = spied(monkeypatch)
    model = gpt2_pairs.pair("GPT2LMHeadModel", attention="sdpa", **NO_END, add_cross_attention=True)[0]
    states = torch.from_numpy(random_value("encoder_hidden_states", (1, 5, 64))).float()
    encoder = {"encoder_hidden_states": states, "encoder_attention_mask": torch.tensor([[1, 1, 1, 1, 0]])}
    types_and_places = {"position_ids": 2 + torch.arange(9)[None], "token_type_ids": torch.arange(30, 39)[None]}
    for inputs in (encoder, types_and_places, {**encoder, "attention_mask": PADDED_MASK}):
        mine.clear()
        call = {"max_new_tokens": 21, "assistant_confidence_threshold": 0.0, "num_assistant_tokens": 6}
        found = ours(PADDED, model=model, assistant_model=model, **call, **inputs)
        assert found.equal(ours(PADDED, model=model, max_new_tokens=21, **inputs))
        assert [length for length, _ in mine] == [9, 16, 23], "all 6 drafted tokens and one more, every round"
    found = ours(model=model, assistant_model=draft_pair("near")[0], max_new_tokens=15, **encoder)
    assert found.equal(ours(model=model, max_new_tokens=15, **encoder)), "a draft model without an encoder"


def test_a_prompt_of_embeddings() -> None:
    embeds = target()[0].transformer.wte(PROMPT)
    plain = ours(None, inputs_embeds=embeds, max_new_tokens=15)  # type: ignore[arg-type]
    found = ours(None, inputs_embeds=embeds, max_new_tokens=15, prompt_lookup_num_tokens=3, **WANTED)  # type: ignore[arg-type]
    assert found.sequences.equal(plain)
    assert found.attentions[-1][0].shape[-1] == 6 + 14
    with pytest.raises(ValueError, match=r"inputs_embeds are embeddings of this model.*pass input_ids"):
        ours(None, inputs_embeds=embeds, max_new_tokens=5, assistant_model=draft_pair("same")[0])  # type: ignore[arg-type]


@pytest.mark.parametrize("do_sample", [False, True])
def test_bert_decoder(do_sample: bool) -> None:
    """A BERT decoder drafts, is drafted for, and the two families for one another."""
    config: dict[str, Any] = {"is_decoder": True, "pad_token_id": 0}
    model, oracle = bert_pairs.pair("BertLMHeadModel", attention="sdpa", **config)
    small, their_small = bert_pairs.pair("BertLMHeadModel", attention="sdpa", **config, num_hidden_layers=1)
    call = {"max_new_tokens": 14, "do_sample": do_sample}
    for our_draft, their_draft in ((small, their_small), (model, oracle), draft_pair("near")):
        for seed in range(2 if do_sample else 1):
            found = ours(model=model, assistant_model=our_draft, seed=seed, **call)
            assert found.equal(theirs(model=oracle, assistant_model=their_draft, seed=seed, **call))
            drawn = ours(assistant_model=small, seed=seed, **call)
            assert drawn.equal(theirs(assistant_model=their_small, seed=seed, **call))
    if not do_sample:
        assert found.equal(ours(model=model, max_new_tokens=14))
        assert found.equal(ours(model=model, max_new_tokens=14, prompt_lookup_num_tokens=3))


# --------------------------------------------------------------------------------------------------------------------
# What is refused


def test_refused() -> None:
    draft = draft_pair("same")[0]
    with pytest.raises(ValueError, match=r"the prompt has 2 rows.*one by one"):
        ours(PROMPT.repeat(2, 1), max_new_tokens=3, assistant_model=draft)
    with pytest.raises(ValueError, match=r"the prompt has 2 rows.*one by one"):
        ours(PROMPT.repeat(2, 1), max_new_tokens=3, prompt_lookup_num_tokens=3)
    for drafter in drafters():
        with pytest.raises(ValueError, match=r"needs the cache.*drop use_cache=False"):
            ours(max_new_tokens=3, use_cache=False, **drafter)
    with pytest.raises(ValueError, match=r"assisted_decoding and prompt_lookup at once"):
        ours(max_new_tokens=3, assistant_model=draft, prompt_lookup_num_tokens=3)
    with pytest.raises(ValueError, match=r"num_return_sequences = 2 has no effect"):
        ours(max_new_tokens=3, assistant_model=draft, do_sample=True, num_return_sequences=2)
    for name, value in {"num_assistant_tokens": 3, "assistant_confidence_threshold": 0.1}.items():
        with pytest.raises(ValueError, match=rf"{name} = {value} has no effect in prompt_lookup"):
            ours(max_new_tokens=3, prompt_lookup_num_tokens=3, **{name: value})


def test_refused_draft_models() -> None:
    def small(**sizes: Any) -> Any:
        return minitf.GPT2LMHeadModel(minitf.GPT2Config(**{**gpt2_pairs.TINY, **NO_END, **sizes})).eval()

    with pytest.raises(ValueError, match=r"a vocabulary of 62 tokens and this model one of 61"):
        ours(max_new_tokens=3, assistant_model=small(vocab_size=62))
    with pytest.raises(ValueError, match=r"has 37 positions .* to read 38, for a maximum length of 40"):
        ours(max_length=40, assistant_model=small(n_positions=37))
    call = {"num_assistant_tokens": 40, "assistant_confidence_threshold": 0.0}
    assert ours(max_length=40, assistant_model=small(n_positions=38), **call).equal(ours(max_length=40))
    encoder = minitf.BertLMHeadModel(minitf.BertConfig(**bert_pairs.TINY)).eval()
    with pytest.raises(ValueError, match=r"encoder"):
        ours(max_new_tokens=3, assistant_model=encoder)
    with pytest.raises(TypeError, match=r"assistant_model is a transformers.*expected a model of minitf"):
        ours(max_new_tokens=3, assistant_model=draft_pair("same")[1])
    with pytest.raises(TypeError, match=r"assistant_model is a builtins.str"):
        ours(max_new_tokens=3, assistant_model="gpt2")


def test_invalid_scores_are_named() -> None:
    """The model's with the number of the round's first token, the draft model's as its own."""
    broken = prepared(gpt2_pairs.pair("GPT2LMHeadModel", **NO_END), 5)[0]
    with torch.no_grad():
        broken.transformer.wpe.weight[9] = math.nan
    call = {"num_assistant_tokens": 2, "assistant_confidence_threshold": 0.0, "max_new_tokens": 9}
    with pytest.raises(ValueError, match=r"^step 4 of generation: the model's scores of row 0 hold nan"):
        ours(model=broken, assistant_model=draft_pair("same")[0], **call)
    with pytest.raises(ValueError, match=r"^assistant_model \(GPT2LMHeadModel\): step"):
        ours(assistant_model=broken, **call)
