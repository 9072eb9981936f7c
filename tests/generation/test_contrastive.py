"""Contrastive search: against transformers 4.49.0 (goldens), against the naive search, and its own properties."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import minitf
from minitf.cache import KVCache
from tests.generation import definitions as naive
from tests.generation.goldens import assert_as_in_4_49, cases_of
from tests.goldens.bert_runs import Case
from tests.goldens.generation_runs import PAD, build

SEARCH: dict[str, Any] = {"penalty_alpha": 0.6, "top_k": 4, "pad_token_id": PAD, "max_new_tokens": 7}
PROMPT = torch.tensor([[7, 23, 41, 12, 5]])
RELATIVE = {"position_embedding_type": "relative_key_query"}
CROSS = {"add_cross_attention": True}


@functools.cache
def models() -> dict[str, Any]:
    kinds: dict[str, tuple[str, dict[str, Any]]] = {
        "GPT-2": ("GPT2LMHeadModel", {}),
        "GPT-2 with two heads": ("GPT2DoubleHeadsModel", {}),
        "GPT-2, eager": ("GPT2LMHeadModel", {"attn_implementation": "eager"}),
        "BERT": ("BertLMHeadModel", {}),
        "BERT, relative positions": ("BertLMHeadModel", RELATIVE),
    }
    return {name: build(minitf, Case("", "", "", k, "", c, {}, {"seed": 3})) for name, (k, c) in kinds.items()}


def model(name: str = "GPT-2") -> Any:
    return models()[name]


def ragged(rows: list[list[int]]) -> tuple[Tensor, Tensor]:
    longest = max(map(len, rows))
    ids = torch.tensor([[PAD] * (longest - len(row)) + row for row in rows])
    return ids, torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows])


@pytest.mark.parametrize("case", cases_of("contrastive"))
def test_tokens_scores_and_outputs_are_those_of_4_49(case: Case) -> None:
    assert_as_in_4_49(case, beams=False)


@pytest.mark.parametrize("name", sorted(models()))
@settings(max_examples=5, deadline=None)
@given(
    k=st.integers(2, 6),
    alpha=st.sampled_from([0.05, 0.4, 0.8, 1.0]),
    prompt=st.lists(st.integers(2, 60), min_size=1, max_size=5),
    ends=st.sampled_from([[], [13, 39, 12]]),
)
def test_equals_the_naive_search(name: str, k: int, alpha: float, prompt: list[int], ends: list[int]) -> None:
    one = model(name)
    if "two heads" in name:
        one = one.next_words
    expected = naive.contrastive(one, prompt, new=5, k=k, alpha=alpha, ends=ends)
    found = model(name).generate(
        torch.tensor([prompt]), penalty_alpha=alpha, top_k=k, max_new_tokens=5, eos_token_id=ends or None,
        pad_token_id=PAD,
    )  # fmt: skip
    assert found[0, len(prompt) :].tolist() == expected


@pytest.mark.parametrize("name", ["GPT-2", "BERT, relative positions"])
def test_up_to_the_last_position_of_the_model(name: str) -> None:
    """At the end k candidates do not fit side by side; the naive search knows nothing of that."""
    expected = naive.contrastive(model(name), [7], new=23, k=6, alpha=0.7, ends=[])
    found = model(name).generate(torch.tensor([[7]]), penalty_alpha=0.7, top_k=6, max_new_tokens=23)
    assert found[0, 1:].tolist() == expected


@settings(max_examples=10, deadline=None)
@given(lengths=st.lists(st.integers(1, 6), min_size=2, max_size=4), alpha=st.sampled_from([0.3, 0.9]))
def test_a_row_of_a_ragged_batch_is_what_it_is_alone(lengths: list[int], alpha: float) -> None:
    rows = [[(7 * row + 5 * place) % 50 + 9 for place in range(length)] for row, length in enumerate(lengths)]
    asked = {**SEARCH, "penalty_alpha": alpha, "max_new_tokens": 6}
    together = model().generate(*ragged(rows), **asked)
    for number, row in enumerate(rows):
        alone = model().generate(torch.tensor([row]), **asked)
        assert together[number, max(lengths) :].tolist() == alone[0, len(row) :].tolist()


def test_a_weight_of_the_penalty_near_zero_is_greedy_search() -> None:
    greedy = model().generate(PROMPT, max_new_tokens=8, pad_token_id=PAD)
    assert torch.equal(model().generate(PROMPT, **{**SEARCH, "penalty_alpha": 1e-7, "max_new_tokens": 8}), greedy)
    assert not torch.equal(model().generate(PROMPT, **{**SEARCH, "penalty_alpha": 0.9, "max_new_tokens": 8}), greedy)


@pytest.mark.parametrize("name", sorted(models()))
def test_cache_and_outputs_are_those_of_the_text_read_at_once(name: str) -> None:
    """What was tried out and not taken leaves no trace in keys, values, states, probabilities and scores."""
    one = model(name)
    words = getattr(one, "next_words", one)
    ids, mask = ragged([[7, 23, 41], [33]])
    out = one.generate(
        ids, mask, **SEARCH, return_dict_in_generate=True, output_logits=True, output_hidden_states=True,
        output_attentions=True,
    )  # fmt: skip
    text = out.sequences[:, :-1]
    mask = torch.cat([mask, torch.ones(2, text.shape[1] - 3, dtype=torch.long)], dim=1)
    placed = {} if "relative" in name else {"position_ids": minitf.masks.positions_from_mask(mask)}
    cache = KVCache()
    whole = words(
        input_ids=text, attention_mask=mask, past_key_values=cache, use_cache=True, output_hidden_states=True,
        output_attentions=True, **placed,
    )  # fmt: skip
    assert out.past_key_values.get_seq_length() == text.shape[1] == 3 + 6
    for mine, direct in zip(out.past_key_values, cache, strict=True):
        for left, right in zip(mine, direct, strict=True):
            torch.testing.assert_close(left[0], right[0], rtol=1e-5, atol=1e-5)
            torch.testing.assert_close(left[1, :, 2:], right[1, :, 2:], rtol=1e-5, atol=1e-5)
    for step in range(7):
        at = 2 + step
        torch.testing.assert_close(out.logits[step], whole.logits[:, at], rtol=1e-5, atol=1e-5)
        for layer, states in enumerate(out.hidden_states[step]):
            assert states.shape[1] == (3 if step == 0 else 1)
            torch.testing.assert_close(states[:, -1], whole.hidden_states[layer][:, at], rtol=1e-5, atol=1e-5)
        for layer, probs in enumerate(out.attentions[step]):
            assert probs.shape[2:] == ((3, 3) if step == 0 else (1, at + 1))
            expected = whole.attentions[layer][:, :, at, : at + 1]
            torch.testing.assert_close(probs[:, :, -1], expected, rtol=1e-5, atol=1e-5)


def test_the_cache_can_be_gone_on_with() -> None:
    """Greedy search that continues from it writes what it would write from the text."""
    out = model().generate(PROMPT, **SEARCH, return_dict_in_generate=True)
    on = {"max_new_tokens": 5, "pad_token_id": PAD}
    expected = model().generate(out.sequences, **on)
    assert torch.equal(model().generate(out.sequences, **on, past_key_values=out.past_key_values), expected)


def test_embeddings_in_the_place_of_ids() -> None:
    embeds = model().get_input_embeddings()(PROMPT)
    found = model().generate(inputs_embeds=embeds, **SEARCH)
    assert torch.equal(found, model().generate(PROMPT, **SEARCH)[:, 5:])


def test_token_types_and_an_encoder_are_read_by_every_candidate() -> None:
    """Against the same with a batch of candidates, made by the naive search's way: the whole text for every one."""
    one = build(minitf, Case("", "", "", "GPT2LMHeadModel", "", CROSS, {}, {"seed": 3}))
    states = torch.randn(1, 4, 32, generator=torch.Generator().manual_seed(0))

    def words(**inputs: Any) -> Any:
        types = torch.full_like(inputs["input_ids"], 9)
        return one(**inputs, token_type_ids=types, encoder_hidden_states=states)

    expected = naive.contrastive(words, [7, 23, 41], new=5, k=4, alpha=0.6, ends=[])
    found = one.generate(
        torch.tensor([[7, 23, 41]]), **{**SEARCH, "max_new_tokens": 5}, token_type_ids=torch.full((1, 3), 9),
        encoder_hidden_states=states,
    )  # fmt: skip
    assert found[0, 3:].tolist() == expected
    plain = one.generate(torch.tensor([[7, 23, 41]]), **{**SEARCH, "max_new_tokens": 5}, encoder_hidden_states=states)
    assert found.tolist() != plain.tolist()


class Heard:
    """A streamer that keeps what it is told."""

    def __init__(self) -> None:
        self.told: list[list[int]] = []
        self.ended = False

    def put(self, value: Tensor) -> None:
        self.told.append(value.flatten().tolist())

    def end(self) -> None:
        self.ended = True


def test_each_token_is_streamed_as_it_is_chosen() -> None:
    heard = Heard()
    found = model().generate(PROMPT, **SEARCH, streamer=heard)
    assert heard.told == [PROMPT[0].tolist(), *([token] for token in found[0, 5:].tolist())]
    assert heard.ended


def test_one_step_reads_no_position_twice() -> None:
    """A call of the model for the prompt and one for the k candidates of each step, whose past is not repeated."""
    seen: list[tuple[tuple[int, ...], int]] = []

    def look(module: Any, args: Any, inputs: dict[str, Any]) -> None:
        seen.append((tuple(inputs["input_ids"].shape), inputs["past_key_values"].get_seq_length()))

    one = build(minitf, Case("", "", "", "GPT2LMHeadModel", "", {}, {}, {"seed": 3}))
    one.register_forward_pre_hook(look, with_kwargs=True)
    one.generate(PROMPT, **{**SEARCH, "max_new_tokens": 3})
    assert seen == [((1, 5), 0), ((1, 4), 5), ((1, 4), 6), ((1, 4), 7)]


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"use_cache": False}, r"contrastive_search tries candidates out on the cache: it needs use_cache=True"),
        ({"top_k": 62}, r"top_k = 62 candidates: expected at most vocab_size = 61"),
        ({"do_sample": True}, r"contrastive_search draws no samples"),
        ({"num_beams": 3}, r"contrastive_search keeps one sequence, but num_beams is 3"),
        ({"num_return_sequences": 2}, r"num_return_sequences = 2 has no effect in contrastive_search"),
        ({"top_p": 0.5}, r"top_p = 0.5 has no effect in contrastive_search"),
        ({"max_new_tokens": 20}, r"would make 25 positions; this model has 24"),
    ],
)
def test_settings_that_do_not_fit_are_errors(asked: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        model().generate(PROMPT, **{**SEARCH, **asked})


def test_a_cache_that_holds_positions_is_an_error() -> None:
    """Their hidden states are not in it, and 4.49.0 fails on a variable that was never set."""
    cache = KVCache()
    with torch.no_grad():
        model()(PROMPT[:, :3], past_key_values=cache)
    with pytest.raises(ValueError, match=r"past_key_values holds 3 positions, but contrastive_search compares"):
        model().generate(PROMPT, **SEARCH, past_key_values=cache)
    empty = KVCache()
    model().generate(PROMPT, **SEARCH, past_key_values=empty)
    assert empty.get_seq_length() == 5 + 6


def test_scores_that_are_not_numbers_name_the_step_and_the_row() -> None:
    one = build(minitf, Case("", "", "", "GPT2LMHeadModel", "", {}, {}, {"seed": 3}))
    with torch.no_grad():
        one.transformer.wpe.weight[2] = torch.nan
    with pytest.raises(ValueError, match=r"step 3 of generation: the model's scores of row 0 hold nan"):
        one.generate(torch.tensor([[7]]), **SEARCH)
