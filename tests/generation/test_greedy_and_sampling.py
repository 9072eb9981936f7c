"""Greedy search and sampling beside transformers: every token, every bit of every score.

On one thread and with the same parameters both libraries do the same arithmetic, so the comparison is of bits unless a
test says another tolerance.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers

from minitf.cache import KVCache
from tests.generation.pairs import (
    CLASSES,
    ENDS,
    PAD,
    POSITIONS,
    VOCABULARY,
    assert_lively,
    assert_same,
    both,
    centre_,
    fresh,
    lengths,
    pair,
    prompts,
)
from tests.support import random_value, randomise_

EARLY: dict[str, Any] = {"eos_token_id": ENDS, "pad_token_id": PAD}
each_class = pytest.mark.parametrize("class_name", CLASSES)
each_way = pytest.mark.parametrize("do_sample", [False, True], ids=["greedy", "sampled"])


@pytest.mark.parametrize("padding", ["none", "left"])
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@each_way
@each_class
def test_every_bit(class_name: str, do_sample: bool, attention: str, padding: str) -> None:
    mine, other = both(pair(class_name, attention=attention), prompts(padding), do_sample=do_sample, **EARLY)
    assert_same(mine, other, tolerance=0)
    assert_lively(mine.sequences, 7)


@pytest.mark.parametrize("ends", [None, 5, [18], [57, 5]], ids=str)
@each_way
def test_any_number_of_end_tokens(ends: Any, do_sample: bool) -> None:
    mine, other = both(
        pair("GPT2LMHeadModel"), prompts(), do_sample=do_sample, eos_token_id=ends, pad_token_id=PAD, max_new_tokens=24
    )
    assert_same(mine, other, tolerance=0)
    new = lengths(mine.sequences, 7, [] if ends is None else [ends] if isinstance(ends, int) else ends)
    assert (min(new) < 24) == (ends is not None)


def test_the_first_end_token_fills_where_there_is_no_padding_token() -> None:
    mine, other = both(pair("GPT2LMHeadModel"), prompts("none"), eos_token_id=ENDS, pad_token_id=None)
    assert_same(mine, other, tolerance=0)
    new = lengths(mine.sequences, 7)
    for row, length in zip(mine.sequences[:, 7:], new, strict=True):
        assert row[length:].tolist() == [ENDS[0]] * (mine.sequences.shape[1] - 7 - length)
    assert len(set(new)) > 1


@pytest.mark.parametrize("results", [1, 2, 5])
@pytest.mark.parametrize("class_name", CLASSES[:2])
def test_several_samples_of_each_prompt(class_name: str, results: int) -> None:
    mine, other = both(pair(class_name), prompts(), do_sample=True, num_return_sequences=results, **EARLY)
    assert_same(mine, other, tolerance=0)
    assert len(mine.sequences) == 4 * results
    if results == 5:
        assert len({tuple(row) for row in mine.sequences[:5].tolist()}) == 5


@each_way
@each_class
def test_a_prompt_of_one_token(class_name: str, do_sample: bool) -> None:
    ids = torch.tensor([[3], [44], [51], [60]])
    mine, other = both(pair(class_name), {"input_ids": ids}, do_sample=do_sample, **EARLY)
    assert_same(mine, other, tolerance=0)
    assert_lively(mine.sequences, 1)


@each_way
@each_class
def test_without_a_prompt(class_name: str, do_sample: bool) -> None:
    """Both start from the bos token of the configuration, or of the call."""
    for settings in ({}, {"bos_token_id": 3}):
        mine, other = both(pair(class_name), {}, do_sample=do_sample, **settings)
        assert_same(mine, other, tolerance=0)
        assert mine.sequences[0, 0] == settings.get("bos_token_id", 60)


@pytest.mark.parametrize("start", [7, POSITIONS - 1])
@each_class
def test_up_to_the_last_position(class_name: str, start: int) -> None:
    mine, other = both(pair(class_name), prompts("left", length=start), max_length=POSITIONS, pad_token_id=PAD)
    assert_same(mine, other, tolerance=0)
    assert mine.sequences.shape == (4, POSITIONS)


@pytest.mark.filterwarnings("ignore:Using the model-agnostic default")
@each_class
def test_twenty_new_tokens_unless_said(class_name: str) -> None:
    ours, theirs = pair(class_name)
    mine = ours.generate(**prompts(), pad_token_id=PAD)
    assert torch.equal(mine, theirs.generate(**prompts(), pad_token_id=PAD))
    assert mine.shape == (4, 27)
    near_the_end = prompts(length=POSITIONS - 3)
    assert ours.generate(**near_the_end, pad_token_id=PAD).shape == (4, POSITIONS)  # no more than there are


@each_way
@each_class
def test_without_a_cache(class_name: str, do_sample: bool) -> None:
    models = pair(class_name)
    mine, other = both(models, prompts(), do_sample=do_sample, use_cache=False, **EARLY)
    assert_same(mine, other, tolerance=0)
    assert mine.past_key_values is None
    cached, _ = both(models, prompts(), do_sample=do_sample, **EARLY)
    cached.past_key_values = None
    assert_same(mine, cached)


@each_class
def test_embeddings_as_a_prompt(class_name: str) -> None:
    models = pair(class_name)
    made = prompts()
    embeds = models[0].get_input_embeddings()(made["input_ids"]).detach()
    given = {"inputs_embeds": embeds, "attention_mask": made["attention_mask"]}
    mine, other = both(models, given, **EARLY)
    assert_same(mine, other, tolerance=0)
    by_ids, _ = both(models, made, **EARLY)
    assert torch.equal(mine.sequences, by_ids.sequences[:, 7:])  # the prompt has no ids to return
    assert torch.equal(
        models[0].generate(**given, use_cache=False, max_new_tokens=16, **EARLY), by_ids.sequences[:, 7:]
    )


@pytest.mark.parametrize("use_cache", [True, False])
@each_class
def test_token_types_go_on_with_the_last(class_name: str, use_cache: bool) -> None:
    types = torch.randint(0, 2, (4, 7), generator=torch.Generator().manual_seed(2))
    models = pair(class_name)
    mine, other = both(models, {**prompts(), "token_type_ids": types}, use_cache=use_cache, **EARLY)
    assert_same(mine, other, tolerance=0)
    without, _ = both(models, prompts(), **EARLY)
    assert not torch.equal(mine.scores[0], without.scores[0])


@each_class
def test_positions_go_on_by_one(class_name: str) -> None:
    models = pair(class_name)
    positions = torch.arange(7).expand(4, -1) + torch.tensor([[0], [3], [9], [17]])
    mine, other = both(models, {**prompts("none"), "position_ids": positions}, **EARLY)
    assert_same(mine, other, tolerance=0)
    without, _ = both(models, prompts("none"), **EARLY)
    assert torch.equal(mine.scores[0][0], without.scores[0][0])
    assert not torch.equal(mine.scores[0][1], without.scores[0][1])


@each_way
@pytest.mark.parametrize("class_name", CLASSES[:2])
def test_cross_attention(class_name: str, do_sample: bool) -> None:
    models = pair(class_name, add_cross_attention=True)
    states = torch.from_numpy(random_value("encoder", (4, 5, 64))).float()
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0], [1, 0, 0, 0, 0], [1, 1, 1, 1, 0]])
    given = {**prompts(), "encoder_hidden_states": states, "encoder_attention_mask": mask}
    for settings in ({}, {"use_cache": False}, {"num_return_sequences": 2} if do_sample else {"num_beams": 2}):
        # of itself transformers makes the wrong kind of cache for BERT here, and stops with an AttributeError
        right = transformers.EncoderDecoderCache(transformers.DynamicCache(), transformers.DynamicCache())
        theirs = {"past_key_values": right} if settings != {"use_cache": False} else {}
        mine, other = both(models, given, do_sample=do_sample, only_theirs=theirs, **EARLY, **settings)
        assert_same(mine, other, tolerance=0)
    given["encoder_hidden_states"] = states.flip(0)
    settings = {"return_dict_in_generate": True, "output_logits": True, "max_new_tokens": 1}
    changed = models[0].generate(**given, **EARLY, **settings)
    assert not torch.equal(changed.logits[0], mine.logits[0][: len(mine.logits[0]) : len(mine.logits[0]) // 4])


@each_class
def test_a_conversation_continues_from_its_cache(class_name: str) -> None:
    """Three turns: each passes the whole text and the cache, of which only the new part is computed."""
    models = pair(class_name)
    texts = [prompts()["input_ids"]] * 2
    mask = prompts()["attention_mask"]
    caches: list[Any] = [KVCache(), transformers.DynamicCache()]
    for turn in range(3):
        outs = []
        for model, text, cache in zip(models, texts, caches, strict=True):
            seen: list[int] = []
            handle = model.base_model.register_forward_pre_hook(
                lambda module, args, kwargs, seen=seen: seen.append(
                    (args[0] if args else kwargs["input_ids"]).shape[-1]
                ),
                with_kwargs=True,
            )
            outs.append(
                model.generate(
                    text, attention_mask=mask, past_key_values=cache, max_new_tokens=4, pad_token_id=PAD,
                    output_scores=True, output_logits=True, return_dict_in_generate=True,
                )
            )  # fmt: skip
            handle.remove()
            assert seen[0] == (7 if turn == 0 else 4)  # three of the user's, and the last of the model
        assert_same(outs[0], outs[1], tolerance=0)
        assert outs[0].past_key_values is caches[0]
        afresh = models[0].generate(outs[0].sequences[:, :-4], attention_mask=mask, max_new_tokens=4, pad_token_id=PAD)
        assert torch.equal(afresh, outs[0].sequences)
        more = torch.randint(20, 30, (4, 3), generator=torch.Generator().manual_seed(turn))
        texts = [torch.cat([out.sequences, more], 1) for out in outs]
        mask = torch.cat([mask, torch.ones(4, 7, dtype=torch.long)], 1)


def test_the_classic_tuple_is_a_cache_too() -> None:
    ours, _ = pair("GPT2LMHeadModel")
    text = prompts("none")["input_ids"]
    first = ours.generate(text, max_new_tokens=3, return_dict_in_generate=True, pad_token_id=PAD)
    pairs = tuple((key.clone(), value.clone()) for key, value in first.past_key_values)
    held = [key.clone() for key, _ in pairs]
    again = ours.generate(first.sequences, past_key_values=pairs, max_new_tokens=5, pad_token_id=PAD)
    assert torch.equal(again, ours.generate(text, max_new_tokens=8, pad_token_id=PAD))
    assert all(torch.equal(a, key) for a, (key, _) in zip(held, pairs, strict=True))


@each_way
@each_class
def test_attentions_and_hidden_states(class_name: str, do_sample: bool) -> None:
    models = pair(class_name, attention="eager")
    asked = {"output_attentions": True, "output_hidden_states": True}
    for use_cache in (True, False):
        mine, other = both(models, prompts("none"), do_sample=do_sample, use_cache=use_cache, **asked, **EARLY)
        assert_same(mine, other, tolerance=0)
        for name in ("attentions", "hidden_states"):
            ours, theirs = getattr(mine, name), getattr(other, name)
            assert len(ours) == len(theirs) == len(mine.scores)
            for step, (a, b) in enumerate(zip(ours, theirs, strict=True)):
                assert len(a) == len(b) == (2 if name == "attentions" else 3)
                new = 7 + step if step == 0 or not use_cache else 1
                shape = (4, 4, new, 7 + step) if name == "attentions" else (4, new, 64)
                assert all(x.shape == shape and torch.equal(x, y) for x, y in zip(a, b, strict=True)), (name, step)


def test_several_samples_have_their_own_attentions() -> None:
    models = pair("GPT2LMHeadModel", attention="eager")
    mine, other = both(
        models, prompts("none"), do_sample=True, num_return_sequences=2, output_attentions=True,
        output_hidden_states=True, **EARLY,
    )  # fmt: skip
    for name in ("attentions", "hidden_states"):
        for a, b in zip(getattr(mine, name), getattr(other, name), strict=True):
            assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True)), name


def test_a_private_random_state() -> None:
    """`generator=` draws the same numbers as the global state would, and leaves that alone."""
    ours, _ = pair("GPT2LMHeadModel")
    settings = {"do_sample": True, "max_new_tokens": 12, **EARLY}
    torch.manual_seed(5)
    expected = ours.generate(**prompts(), **settings)
    torch.manual_seed(6)
    before = torch.get_rng_state()
    found = ours.generate(**prompts(), **settings, generator=torch.Generator().manual_seed(5))
    assert torch.equal(found, expected)
    assert torch.equal(before, torch.get_rng_state())
    beams = {**settings, "num_beams": 3}
    torch.manual_seed(5)
    expected = ours.generate(**prompts(), **beams)
    assert torch.equal(ours.generate(**prompts(), **beams, generator=torch.Generator().manual_seed(5)), expected)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("class_name", CLASSES[:2])
def test_other_precisions(class_name: str, dtype: torch.dtype) -> None:
    """float64 gives the same tokens as transformers (whose scores are float32 as well); half precision may differ in
    a product's last bit, so what it wrote is scored again by the plain forward."""
    models = tuple(model.to(dtype) for model in fresh(class_name))
    mine, other = both(models, prompts(), **EARLY)
    assert all(score.dtype == torch.float32 for score in mine.scores)
    if dtype == torch.float64:
        assert_same(mine, other, tolerance=1e-6)
        return
    first = mine.scores[0] - other.scores[0]
    assert first.abs().max() < 0.02 * other.scores[0].abs().max()
    without = models[0].generate(**prompts("none"), max_new_tokens=1, use_cache=False)
    assert without.shape == (4, 8)


@pytest.mark.parametrize("kind", ["relative_key", "relative_key_query"])
@each_way
def test_relative_positions(kind: str, do_sample: bool) -> None:
    """transformers 5 no longer has them; the golden numbers hold for the forward, which a loop of its own repeats."""
    ours, _ = fresh("BertLMHeadModel")
    model = type(ours)(type(ours.config)(**{**ours.config.to_dict(), "position_embedding_type": kind})).eval()
    centre_(randomise_(model))
    made = prompts()
    torch.manual_seed(0)
    found = (
        model.generate(**made, do_sample=do_sample, top_k=0, max_new_tokens=10)
        if do_sample
        else model.generate(**made, max_new_tokens=10, pad_token_id=PAD)
    )
    torch.manual_seed(0)
    ids, mask = made["input_ids"], made["attention_mask"]
    for _ in range(10):
        with torch.no_grad():
            scores = model(ids, attention_mask=mask).logits[:, -1]
        new = torch.multinomial(scores.softmax(-1), 1) if do_sample else scores.argmax(-1, keepdim=True)
        ids, mask = torch.cat([ids, new], 1), torch.cat([mask, torch.ones_like(new)], 1)
    assert torch.equal(found, ids)
    assert ids.max() < VOCABULARY
