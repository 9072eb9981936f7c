"""Decoding with a cache: every way of feeding it equals the uncached numbers, and transformers' where it has one.

Left-padded rows are compared where there are tokens (see `gpt2_pairs.attended`). Equal up to rounding means 1e-5 of
the largest logit: a product over fewer rows may add up in another order.
"""

from __future__ import annotations

import functools
import itertools
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import minitf
from minitf.masks import positions_from_mask
from tests.parity.gpt2_pairs import TINY, encoder_inputs, inputs_for, pair

PADDINGS = ("none", "right", "left")
# Pieces of several tokens are what tells a causal mask aligned to the lower right from one that is off by a position.
PIECES = ([1] * 7, [4, 1, 1, 1], [2, 5], [3, 2, 2], [6, 1])
SETTINGS: dict[str, dict[str, Any]] = {
    "plain": {},
    "cross-attention": {"add_cross_attention": True},
    "scaled by layer": {"scale_attn_by_inverse_layer_idx": True},
    "upcast": {"reorder_and_upcast_attn": True},
}


@pytest.fixture(autouse=True)
def one_thread() -> Any:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def text(padding: str, *, encoder: bool = False) -> dict[str, torch.Tensor]:
    inputs = inputs_for("GPT2LMHeadModel", padding=padding, labels=False)
    return {**inputs, **(encoder_inputs() if encoder else {})}


def decode(
    model: Any, inputs: dict[str, torch.Tensor], lengths: list[int], cache: Any = None, start: int = 0
) -> tuple[torch.Tensor, Any]:
    """(logits of all pieces, the cache) of inputs fed in pieces of these lengths."""
    logits = []
    for length in lengths:
        step = {}
        for name, value in inputs.items():
            if name == "attention_mask":
                step[name] = value[:, : start + length]
            elif name.startswith("encoder_"):
                step[name] = value
            else:
                step[name] = value[:, start : start + length]
        output = model(**step, past_key_values=cache, use_cache=True)
        cache, start = output.past_key_values, start + length
        logits.append(output.logits)
    return torch.cat(logits, dim=1), cache


def assert_close(one: torch.Tensor, other: torch.Tensor) -> None:
    torch.testing.assert_close(one, other, rtol=0, atol=1e-5 * other.abs().max().item())


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("setting", SETTINGS)
def test_cached_equals_uncached_and_the_oracle(setting: str, padding: str, attention: str) -> None:
    """Prompt and single steps, a prompt in chunks, rows of different lengths; bitwise as the oracle where it can be."""
    ours, theirs = pair("GPT2LMHeadModel", attention=attention, **SETTINGS[setting])
    inputs = text(padding, encoder=setting == "cross-attention")
    real = inputs["attention_mask"].bool()
    with torch.no_grad():
        whole = ours(**inputs, use_cache=False).logits[real]
        for lengths in PIECES:
            logits, cache = decode(ours, inputs, lengths)
            assert cache.get_seq_length() == 7
            assert_close(logits[real], whole)
            expected, _ = decode(theirs, inputs, lengths)
            # Upcasting is implemented otherwise (see test_gpt2_settings), and the oracle copies the encoder's keys.
            if setting in ("plain", "scaled by layer"):
                assert torch.equal(logits[real], expected[real]), lengths
            else:
                assert_close(logits[real], expected[real])


@pytest.mark.parametrize("padding", PADDINGS)
def test_cached_equals_uncached_in_float64(padding: str) -> None:
    ours, _ = pair("GPT2LMHeadModel", attention="sdpa", dtype=torch.float64)
    inputs = text(padding)
    real = inputs["attention_mask"].bool()
    with torch.no_grad():
        whole = ours(**inputs, use_cache=False).logits[real]
        for lengths in PIECES:
            torch.testing.assert_close(decode(ours, inputs, lengths)[0][real], whole, rtol=0, atol=1e-11)


@pytest.mark.parametrize("padding", ["none", "right"])
def test_positions_continue_after_the_cache_by_themselves(padding: str) -> None:
    ours, theirs = pair("GPT2LMHeadModel", attention="sdpa")
    inputs = text(padding)
    without = {name: value for name, value in inputs.items() if name != "position_ids"}
    real = inputs["attention_mask"].bool()
    with torch.no_grad():
        for lengths in PIECES:
            logits, _ = decode(ours, without, lengths)
            assert torch.equal(logits[real], decode(ours, inputs, lengths)[0][real])
            assert torch.equal(logits[real], decode(theirs, without, lengths)[0][real])
        cache = ours(inputs["input_ids"][:, :4]).past_key_values
        stuck = ours(inputs["input_ids"][:, 4:], position_ids=torch.arange(3), past_key_values=tuple(cache)).logits
        right = ours(inputs["input_ids"][:, 4:], past_key_values=cache).logits
    assert (stuck - right).abs().max() > 0.1  # positions that are not advanced show


def test_rows_of_a_left_padded_batch_continue_as_if_alone() -> None:
    ours, _ = pair("GPT2LMHeadModel", attention="sdpa")
    inputs = text("left")
    with torch.no_grad():
        logits, _ = decode(ours, inputs, [5, 1, 1])
        for row in range(3):
            real = inputs["attention_mask"][row].bool()
            alone = ours(
                inputs["input_ids"][row : row + 1, real], token_type_ids=inputs["token_type_ids"][row : row + 1, real]
            )
            assert_close(logits[row : row + 1, real], alone.logits)


@functools.cache
def model_with(attention: str) -> Any:
    return pair("GPT2LMHeadModel", attention=attention)[0]


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_any_split_of_any_batch_into_pieces(data: st.DataObject) -> None:
    """Random lengths, rows, left padding, pieces and attention function: the logits at tokens never change."""
    attention = data.draw(st.sampled_from(["eager", "sdpa"]))
    rows = data.draw(st.integers(1, 3))
    length = data.draw(st.integers(1, 20))
    pads = data.draw(st.lists(st.integers(0, length - 1), min_size=rows, max_size=rows))
    cuts = data.draw(st.sets(st.integers(1, length - 1))) if length > 1 else set()
    places = [0, *sorted(cuts), length]
    mask = (torch.arange(length) >= torch.tensor(pads)[:, None]).long()
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 99)))
    ids = torch.randint(1, TINY["vocab_size"], (rows, length), generator=generator)
    inputs = {"input_ids": ids, "attention_mask": mask, "position_ids": positions_from_mask(mask)}
    ours = model_with(attention)
    with torch.no_grad():
        whole = ours(**inputs, use_cache=False).logits
        logits, cache = decode(ours, inputs, [b - a for a, b in itertools.pairwise(places)])
    assert cache.get_seq_length() == length
    assert_close(logits[mask.bool()], whole[mask.bool()])


# ------------------------------------------------------------------------------------- what is done to a cache between


def test_crop_forgets_positions() -> None:
    ours, theirs = pair("GPT2LMHeadModel", attention="sdpa")
    inputs, other = text("none"), inputs_for("GPT2LMHeadModel", padding="none", labels=False, seed=1)
    joined = {name: torch.cat([inputs[name][:, :3], other[name][:, 3:]], dim=1) for name in inputs}
    with torch.no_grad():
        whole = ours(**joined).logits[:, 3:]
        for crop in (3, -4):
            results = []
            for model in (ours, theirs):
                _, cache = decode(model, inputs, [2, 1, 1, 1, 1, 1])
                cache.crop(crop if model is ours else -4)  # 5.x takes negative numbers only
                assert cache.get_seq_length() == 3
                results.append(decode(model, joined, [1, 2, 1], cache, start=3)[0])
            assert torch.equal(*results)
            assert_close(results[0], whole)


ROWS = torch.tensor([2, 0, 0, 1])


@pytest.mark.parametrize("padding", ["none", "left"])
@pytest.mark.parametrize("setting", ["plain", "cross-attention"])
def test_reorder_repeat_and_select_rows(setting: str, padding: str) -> None:
    """After each, decoding continues as if the batch had always had these rows; bitwise as the oracle's cache."""
    ours, theirs = pair("GPT2LMHeadModel", attention="sdpa", **SETTINGS[setting])
    inputs = text(padding, encoder=setting == "cross-attention")
    steps = {
        "reorder": (ROWS, lambda cache: cache.reorder(ROWS), lambda cache: cache.batch_select_indices(ROWS)),
        "repeat": (
            torch.arange(3).repeat_interleave(2),
            lambda cache: cache.batch_repeat(2),
            lambda cache: cache.batch_repeat_interleave(2),
        ),
        "select": (
            torch.tensor([1]),
            lambda cache: cache.batch_select(torch.tensor([1])),
            lambda cache: cache.batch_select_indices(torch.tensor([1])),
        ),
    }
    for rows, change, change_theirs in steps.values():
        chosen = {name: value[rows] for name, value in inputs.items()}
        real = chosen["attention_mask"][:, 4:].bool()
        with torch.no_grad():
            results = []
            for model, action in ((ours, change), (theirs, change_theirs)):
                _, cache = decode(model, inputs, [3, 1])
                action(cache)
                results.append(decode(model, chosen, [1, 2], cache, start=4)[0][real])
            whole = ours(**chosen, use_cache=False).logits[:, 4:][real]
        assert_close(results[0], whole)
        if setting == "plain":
            assert torch.equal(*results)
        else:
            assert_close(*results)


def test_the_classic_tuple_goes_in_and_comes_out() -> None:
    ours, _ = pair("GPT2LMHeadModel", attention="sdpa")
    ids = text("none")["input_ids"]
    with torch.no_grad():
        cache = ours(ids[:, :4]).past_key_values
        classic = tuple((key.clone(), value.clone()) for key, value in cache)
        before = [tensor.clone() for entry in classic for tensor in entry]
        assert [tuple(tensor.shape) for tensor in before] == [(3, 4, 4, 16)] * 4
        for _ in range(2):  # a tuple is never extended, so a second call sees the same
            output = ours(ids[:, 4:], past_key_values=classic)
            assert output.past_key_values.get_seq_length() == 7
            assert [len(entry) for entry in output.past_key_values] == [2, 2]
            assert torch.equal(output.logits, ours(ids[:, 4:], [list(entry) for entry in classic]).logits)
        assert all(torch.equal(a, b) for a, b in zip(before, [t for e in classic for t in e], strict=True))
        assert torch.equal(output.logits, ours(ids[:, 4:], past_key_values=cache).logits)
        assert_close(output.logits, ours(ids).logits[:, 4:])


def test_the_oracles_keys_and_values_continue_here() -> None:
    """What 4.x calls the legacy cache: its pairs are ours, so a prefix computed there is continued here."""
    ours, theirs = pair("GPT2LMHeadModel", attention="sdpa")
    ids = text("none")["input_ids"]
    with torch.no_grad():
        layers = theirs(ids[:, :4], use_cache=True).past_key_values
        classic = tuple((layer[0], layer[1]) for layer in layers)
        own = ours(ids[:, :4]).past_key_values
        assert all(torch.equal(a, b) for x, y in zip(classic, own, strict=True) for a, b in zip(x, y, strict=True))
        assert torch.equal(ours(ids[:, 4:], classic).logits, theirs(ids[:, 4:], past_key_values=layers).logits)


def test_keys_of_the_encoder_are_computed_once() -> None:
    ours, _ = pair("GPT2LMHeadModel", add_cross_attention=True)
    calls: list[int] = []
    for number, block in enumerate(ours.transformer.h):
        block.crossattention.c_attn.register_forward_hook(lambda *_, layer=number: calls.append(layer))
    with torch.no_grad():
        _, cache = decode(ours, text("none", encoder=True), [3, 1, 1, 1, 1])
    assert calls == [0, 1]
    assert [tuple(tensor.shape) for tensor in cache[0]] == [(3, 4, 7, 16)] * 2 + [(3, 4, 5, 16)] * 2


def test_gradients_flow_through_the_cache() -> None:
    ours, _ = pair("GPT2LMHeadModel", dtype=torch.float64)
    inputs = text("none")
    results = []
    for lengths in ([7], [3, 1, 1, 2]):
        ours.zero_grad()
        decode(ours, inputs, lengths)[0].square().mean().backward()
        results.append([p.grad.clone() for p in ours.parameters() if p.grad is not None])
    assert len(results[0]) == len(list(ours.parameters()))
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("class_name", ["GPT2Model", "GPT2DoubleHeadsModel", "GPT2ForSequenceClassification"])
def test_every_class_with_a_cache_returns_one_that_continues(class_name: str) -> None:
    ours, _ = pair(class_name)
    inputs = inputs_for(class_name, labels=False, padding="none")
    inputs.pop("mc_token_ids", None)
    first = {name: value[..., :4] for name, value in inputs.items()}
    rest = {name: value[..., 4:] if name != "attention_mask" else value for name, value in inputs.items()}
    with torch.no_grad():
        cache = ours(**first).past_key_values
        assert isinstance(cache, minitf.KVCache)
        output = ours(**rest, past_key_values=cache)
        whole = ours(**inputs)
    assert cache.get_seq_length() == 7
    for name in set(output.keys()) - {"past_key_values"}:
        per_token = name in ("last_hidden_state", "logits") and class_name != "GPT2ForSequenceClassification"
        expected = whole[name][..., 4:, :] if per_token else whole[name]
        assert_close(output[name], expected)


def test_use_cache_by_argument_and_by_configuration() -> None:
    ours, _ = pair("GPT2LMHeadModel")
    ids = text("none")["input_ids"]
    with torch.no_grad():
        assert isinstance(ours(ids).past_key_values, minitf.KVCache)
        assert ours(ids, use_cache=False).past_key_values is None
        ours.config.use_cache = False
        assert ours(ids).past_key_values is None
        own = minitf.KVCache()
        assert ours(ids, past_key_values=own, use_cache=True).past_key_values is own
        assert own.get_seq_length() == 7


# ------------------------------------------------------------------------------------------------------------- greedy


def greedy(model: Any, ids: torch.Tensor, mask: torch.Tensor, steps: int) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """The plain loop: (prompt and new tokens, the logits of every step)."""
    cache, scores, step = minitf.KVCache(), [], ids
    for _ in range(steps):
        positions = positions_from_mask(mask)[:, -step.shape[1] :]
        logits = model(step, cache, mask, position_ids=positions, logits_to_keep=1).logits[:, -1]
        step = logits.argmax(-1, keepdim=True)
        ids, mask = torch.cat([ids, step], 1), torch.cat([mask, torch.ones_like(step)], 1)
        scores.append(logits)
    return ids, scores


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("padding", ["none", "left"])
def test_greedy_decoding_is_the_oracles_token_for_token(padding: str, attention: str) -> None:
    """30 steps; the logits of every step have the oracle's bits."""
    ours, theirs = pair("GPT2LMHeadModel", attention=attention, eos_token_id=None, bos_token_id=None)
    inputs = text(padding)
    ids, mask = inputs["input_ids"], inputs["attention_mask"]
    with torch.no_grad():
        tokens, scores = greedy(ours, ids, mask, 30)
        expected = theirs.generate(
            ids, attention_mask=mask, max_new_tokens=30, do_sample=False, output_logits=True,
            return_dict_in_generate=True, pad_token_id=0,
        )  # fmt: skip
    assert torch.equal(tokens, expected.sequences)
    assert [
        step for step, (a, b) in enumerate(zip(scores, expected.logits, strict=True)) if not torch.equal(a, b)
    ] == []


def test_greedy_decoding_equals_decoding_without_a_cache() -> None:
    ours, _ = pair("GPT2LMHeadModel", attention="sdpa")
    ids, mask = text("none")["input_ids"], text("none")["attention_mask"]
    with torch.no_grad():
        tokens, scores = greedy(ours, ids, mask, 33)
        assert tokens.shape == (3, 40)
        whole = ours(tokens, use_cache=False).logits
    for step, logits in enumerate(scores):
        assert_close(logits, whole[:, 6 + step])


# ------------------------------------------------------------------------------------------------------------ refused


@pytest.mark.parametrize("held", [0, 7, 39, 40])
def test_past_the_last_position_is_an_error_that_says_so(held: int) -> None:
    ours, _ = pair("GPT2LMHeadModel")
    cache = minitf.KVCache()
    if held:
        ours(torch.ones(1, held, dtype=torch.long), cache)
    words = (
        r"input_ids has \d+ positions.*40 \(n_positions\).*truncate"
        if not held
        else rf"{held} in the cache.*n_positions"
    )
    with pytest.raises(ValueError, match=words):
        ours(torch.ones(1, 41 - held, dtype=torch.long), cache)
    assert cache.get_seq_length() == held  # refused before anything was written
    if held < 40:
        assert ours(torch.ones(1, 40 - held, dtype=torch.long), cache).past_key_values.get_seq_length() == 40


def test_a_mask_must_cover_the_cache() -> None:
    ours, _ = pair("GPT2LMHeadModel")
    ids = text("none")["input_ids"]
    cache = ours(ids[:, :4]).past_key_values
    with pytest.raises(ValueError, match=r"attention_mask has shape \[3, 3\].*3 query and 7 key positions"):
        ours(ids[:, 4:], cache, torch.ones(3, 3))
    with pytest.raises(ValueError, match=r"batch of 3, but this call has a batch of 2"):
        ours(ids[:2, 4:], cache)
    deeper, _ = pair("GPT2LMHeadModel", n_layer=3)
    with pytest.raises(ValueError, match="2 layers, but this model has 3 layers"):
        deeper(ids[:, 4:], cache)


def test_left_padding_without_positions_is_said_once(caplog: pytest.LogCaptureFixture, monkeypatch: Any) -> None:
    from minitf.models import gpt2

    monkeypatch.setattr(gpt2, "_said", set())
    ours, _ = pair("GPT2LMHeadModel")
    left, right = text("left"), text("right")
    for inputs in (right, left):
        ours(**inputs)
        ours(inputs["input_ids"], attention_mask=right["attention_mask"])
    assert caplog.records == []
    for _ in range(2):
        ours(left["input_ids"], attention_mask=left["attention_mask"])
    assert [record.name for record in caplog.records] == ["minitf.models.gpt2"]
    assert "positions_from_mask(attention_mask)" in caplog.text
