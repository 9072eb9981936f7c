"""Decoder mode: causal attention, the cache in every way of feeding it, cross-attention, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import minitf
from tests.controls.models import ATTENTION, DECODERS, HEADS, LAYERS, build, close, is_gpt2
from tests.support import padded_batch

POSITIONS = ("absolute", "relative_key", "relative_key_query")
KINDS = [*(("BertLMHeadModel", {"position_embedding_type": kind}) for kind in POSITIONS), ("GPT2LMHeadModel", {})]
"""Every kind of decoder. How GPT-2 is fed with a cache is tested in tests/parity/test_gpt2_cache.py."""
PIECES = ([1] * 7, [4, 3], [1, 6], [6, 1], [2, 1, 3, 1])
ENCODER_LENGTH = 5


def encoder(batch: int = 3) -> dict[str, torch.Tensor]:
    """What a decoder with cross-attention reads: states of an encoder, and a mask with padding in one row."""
    states = torch.randn(batch, ENCODER_LENGTH, 64, generator=torch.Generator().manual_seed(7))
    mask = torch.ones(batch, ENCODER_LENGTH, dtype=torch.long)
    mask[-1, 3:] = 0
    return {"encoder_hidden_states": states, "encoder_attention_mask": mask}


def positions_of(mask: torch.Tensor) -> torch.Tensor:
    """Numbers that begin at the first real token; padding on the left gets 0."""
    return (mask.cumsum(1) - 1).clamp(min=0)


def decode(model: Any, inputs: dict[str, torch.Tensor], lengths: list[int], cache: Any = None, start: int = 0) -> Any:
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


# ------------------------------------------------------------------------------------------------------------- causal


@pytest.mark.parametrize("attention", ATTENTION)
@pytest.mark.parametrize(("class_name", "settings"), KINDS)
def test_a_later_token_changes_nothing_before_it(attention: str, class_name: str, settings: dict[str, Any]) -> None:
    model = build(class_name, attn_implementation=attention, **settings)
    ids = padded_batch(padding="none")["input_ids"]
    with torch.no_grad():
        logits = model(ids).logits
        for place in range(7):
            changed = ids.clone()
            changed[:, place] = (changed[:, place] + 1) % 61
            other = model(changed).logits
            assert torch.equal(logits[:, :place], other[:, :place])
            assert not torch.equal(logits[:, place], other[:, place])


def test_an_encoder_looks_both_ways_and_a_decoder_does_not() -> None:
    ids = padded_batch(padding="none")["input_ids"]
    changed = ids.clone()
    changed[:, -1] = (changed[:, -1] + 1) % 61
    with torch.no_grad():
        for is_decoder in (False, True):
            model = build("BertModel", is_decoder=is_decoder)
            same = torch.equal(model(ids).last_hidden_state[:, 0], model(changed).last_hidden_state[:, 0])
            assert same is is_decoder


@pytest.mark.parametrize("class_name", DECODERS)
def test_a_square_mask_joins_the_causal_one(class_name: str) -> None:
    """[B, T, S] from the caller and the triangle: a key must be allowed by both."""
    model = build(class_name, attn_implementation="eager")
    ids = padded_batch(padding="none")["input_ids"]
    square = torch.rand(3, 7, 7, generator=torch.Generator().manual_seed(1)) > 0.4
    square |= torch.eye(7, dtype=torch.bool)
    with torch.no_grad():
        probs = model(ids, attention_mask=square, output_attentions=True).attentions[0]
    allowed = (square & torch.ones(7, 7).tril().bool())[:, None].expand_as(probs)
    assert torch.equal(probs > 0, allowed)


# -------------------------------------------------------------------------------------------------------------- cache


@pytest.mark.parametrize("positions", POSITIONS)
@pytest.mark.parametrize("padding", ["none", "right", "left"])
@pytest.mark.parametrize("attention", ATTENTION)
def test_cached_equals_uncached(attention: str, padding: str, positions: str) -> None:
    model = build("BertLMHeadModel", attn_implementation=attention, position_embedding_type=positions)
    inputs = padded_batch(padding=padding)
    if positions == "absolute" and padding != "none":
        inputs["position_ids"] = positions_of(inputs["attention_mask"])
    with torch.no_grad():
        whole = model(**inputs, use_cache=False).logits
        for lengths in PIECES:
            logits, cache = decode(model, inputs, lengths)
            assert close(logits, whole), lengths
            assert cache.get_seq_length() == 7


def test_left_padding_with_positions_equals_no_padding() -> None:
    """The continuation of a row does not depend on how much padding stands before it."""
    model = build("BertLMHeadModel")
    inputs = padded_batch(padding="left")
    inputs["position_ids"] = positions_of(inputs["attention_mask"])
    with torch.no_grad():
        logits, _ = decode(model, inputs, [6, 1])
        for row in range(3):
            real = inputs["attention_mask"][row].bool()
            alone = model(inputs["input_ids"][row : row + 1, real], None, inputs["token_type_ids"][row : row + 1, real])
            assert close(logits[row : row + 1, real], alone.logits)


def test_positions_continue_after_the_cache_by_themselves() -> None:
    model = build("BertLMHeadModel")
    ids = padded_batch(padding="none")["input_ids"]
    with torch.no_grad():
        cache = model(ids[:, :4]).past_key_values
        given = model(ids[:, 4:], position_ids=torch.arange(4, 7), past_key_values=tuple(cache)).logits
        wrong = model(ids[:, 4:], position_ids=torch.arange(3), past_key_values=tuple(cache)).logits
        own = model(ids[:, 4:], past_key_values=cache).logits
    assert torch.equal(own, given)
    assert not torch.equal(own, wrong)


@pytest.mark.parametrize("positions", POSITIONS)
def test_crop_forgets_positions(positions: str) -> None:
    model = build("BertLMHeadModel", position_embedding_type=positions)
    inputs = padded_batch(padding="none")
    other = padded_batch(padding="none", seed=1)
    joined = {name: torch.cat([inputs[name][:, :3], other[name][:, 3:]], dim=1) for name in inputs}
    with torch.no_grad():
        _, cache = decode(model, inputs, [2, 1, 1, 1, 1, 1])
        cache.crop(3)
        logits, _ = decode(model, joined, [1, 2, 1], cache, start=3)
        assert close(logits, model(**joined).logits[:, 3:])


def test_reorder_moves_rows() -> None:
    model = build("BertLMHeadModel")
    inputs = padded_batch(padding="none")
    rows = torch.tensor([2, 0, 0, 1])
    chosen = {name: value[rows] for name, value in inputs.items()}
    with torch.no_grad():
        _, cache = decode(model, inputs, [3, 1])
        cache.reorder(rows)
        logits, _ = decode(model, chosen, [1, 2], cache, start=4)
        assert close(logits, model(**chosen).logits[:, 4:])


def test_the_classic_tuple_goes_in_and_comes_out() -> None:
    model = build("BertLMHeadModel")
    ids = padded_batch(padding="none")["input_ids"]
    with torch.no_grad():
        cache = model(ids[:, :4]).past_key_values
        classic = tuple((key.clone(), value.clone()) for key, value in cache)
        before = [tensor.clone() for entry in classic for tensor in entry]
        assert [tuple(tensor.shape) for tensor in before] == [(3, HEADS, 4, 16)] * 2 * LAYERS
        for _ in range(2):  # a tuple is never extended, so a second call sees the same
            output = model(ids[:, 4:], past_key_values=classic)
            assert [len(entry) for entry in output.past_key_values] == [2] * LAYERS
            assert output.past_key_values.get_seq_length() == 7
            assert torch.equal(
                output.logits, model(ids[:, 4:], past_key_values=[list(pair) for pair in classic]).logits
            )
        assert all(torch.equal(a, b) for a, b in zip(before, [t for e in classic for t in e], strict=True))
        assert close(output.logits, model(ids).logits[:, 4:])


def test_use_cache_by_argument_and_by_configuration() -> None:
    model = build("BertLMHeadModel")
    ids = padded_batch(padding="none")["input_ids"]
    with torch.no_grad():
        assert isinstance(model(ids).past_key_values, minitf.KVCache)
        assert model(ids, use_cache=False).past_key_values is None
        model.config.use_cache = False
        assert model(ids).past_key_values is None
        assert isinstance(model(ids, use_cache=True).past_key_values, minitf.KVCache)
        own = minitf.KVCache()
        assert model(ids, past_key_values=own, use_cache=True).past_key_values is own
        assert own.get_seq_length() == 7


def test_labels_alone_make_no_cache() -> None:
    model = build("BertLMHeadModel")
    ids = padded_batch(padding="none")["input_ids"]
    assert model(ids, labels=ids).past_key_values is None
    assert model(ids, labels=ids, use_cache=True).past_key_values is not None


def test_gradients_flow_through_the_cache() -> None:
    model = build("BertLMHeadModel").double()
    ids = padded_batch(padding="none")["input_ids"]
    gradients = []
    for lengths in ([7], [3, 1, 1, 2]):
        model.zero_grad()
        logits, _ = decode(model, {"input_ids": ids}, lengths)
        logits.square().mean().backward()
        gradients.append([p.grad.clone() for p in model.parameters() if p.grad is not None])
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-11)


# ---------------------------------------------------------------------------------------------------- cross-attention


@pytest.mark.parametrize("positions", POSITIONS)
@pytest.mark.parametrize("attention", ATTENTION)
def test_cached_equals_uncached_with_cross_attention(attention: str, positions: str) -> None:
    model = build(
        "BertLMHeadModel",
        add_cross_attention=True,
        attn_implementation=attention,
        position_embedding_type=positions,
    )
    inputs = {**padded_batch(padding="right"), **encoder()}
    with torch.no_grad():
        whole = model(**inputs, use_cache=False).logits
        for lengths in PIECES:
            assert close(decode(model, inputs, lengths)[0], whole), lengths


def test_keys_of_the_encoder_are_computed_once() -> None:
    model = build("BertLMHeadModel", add_cross_attention=True)
    calls: list[str] = []
    for number, layer in enumerate(model.bert.encoder.layer):
        for name in ("key", "value"):
            module = getattr(layer.crossattention.self, name)
            module.register_forward_hook(lambda *_, called=f"{name} {number}": calls.append(called))
    with torch.no_grad():
        _, cache = decode(model, {**padded_batch(padding="none"), **encoder()}, [3, 1, 1, 1, 1])
    assert sorted(calls) == ["key 0", "key 1", "value 0", "value 1"]
    assert [tuple(tensor.shape) for tensor in cache[0]] == [(3, 4, 7, 16)] * 2 + [(3, 4, ENCODER_LENGTH, 16)] * 2


@pytest.mark.parametrize("class_name", DECODERS)
def test_a_classic_tuple_of_four_with_reordered_rows(class_name: str) -> None:
    model = build(class_name, add_cross_attention=True)
    inputs = {**padded_batch(padding="none"), **encoder()}
    rows = torch.tensor([1, 1, 0])
    chosen = {name: value[rows] for name, value in inputs.items()}
    with torch.no_grad():
        whole = model(**chosen, use_cache=False).logits[:, 4:]
        _, cache = decode(model, inputs, [4])
        classic = tuple(tuple(tensor[rows] for tensor in entry) for entry in cache)
        assert [len(entry) for entry in classic] == [4, 4]
        assert close(decode(model, chosen, [1, 2], classic, start=4)[0], whole)
        cache.reorder(rows)
        assert close(decode(model, chosen, [1, 2], cache, start=4)[0], whole)


@pytest.mark.parametrize("class_name", DECODERS)
def test_the_encoder_is_read_and_its_padding_is_not(class_name: str) -> None:
    model = build(class_name, add_cross_attention=True).base_model
    ids = padded_batch(padding="none")["input_ids"]
    given = encoder()
    with torch.no_grad():
        plain = model(ids, **given, output_attentions=True)
        padded = given["encoder_hidden_states"].clone()
        padded[-1, 3:] += 1
        at_padding = model(ids, **{**given, "encoder_hidden_states": padded}).last_hidden_state
        read = given["encoder_hidden_states"].clone()
        read[:, 0] += 1
        elsewhere = model(ids, **{**given, "encoder_hidden_states": read}).last_hidden_state
    assert close(at_padding, plain.last_hidden_state)
    assert not close(elsewhere, plain.last_hidden_state)
    assert [tuple(probs.shape) for probs in plain.cross_attentions] == [(3, HEADS, 7, ENCODER_LENGTH)] * LAYERS
    assert plain.cross_attentions[0][-1, :, :, 3:].abs().max() == 0


# ------------------------------------------------------------------------------------------------------------ refused


def refused(model: Any, *words: str, kind: type[Exception] = ValueError, **inputs: Any) -> None:
    with pytest.raises(kind) as caught:
        model(**inputs)
    for word in words:
        assert word in str(caught.value), f"{word!r} is not in: {caught.value}"


def test_an_encoder_has_no_cache() -> None:
    ids = padded_batch(padding="none")["input_ids"]
    model = build("BertModel")
    refused(model, "use_cache", "is_decoder = True", input_ids=ids, use_cache=True)
    refused(model, "past_key_values", "is_decoder = True", input_ids=ids, past_key_values=minitf.KVCache())
    assert model(ids).past_key_values is None
    assert model(ids, use_cache=False).past_key_values is None


def test_an_overflow_after_a_cache_names_both_lengths() -> None:
    model = build("BertLMHeadModel")
    cache = model(torch.ones(1, 38, dtype=torch.long)).past_key_values
    refused(
        model, "input_ids has 3 positions", "38 in the cache", "40", "max_position_embeddings", "truncate",
        input_ids=torch.ones(1, 3, dtype=torch.long), past_key_values=cache,
    )  # fmt: skip
    assert cache.get_seq_length() == 38  # refused before anything was written


@pytest.mark.parametrize("class_name", DECODERS)
def test_a_mask_must_cover_the_cache(class_name: str) -> None:
    model = build(class_name)
    ids = padded_batch(padding="none")["input_ids"]
    cache = model(ids[:, :4]).past_key_values
    refused(
        model, "attention_mask has shape [3, 3]", "3 query and 7 key positions", "[3, 7]",
        input_ids=ids[:, 4:], attention_mask=torch.ones(3, 3), past_key_values=cache,
    )  # fmt: skip


@pytest.mark.parametrize("class_name", DECODERS)
def test_a_cache_of_another_batch_or_model(class_name: str) -> None:
    model = build(class_name)
    ids = padded_batch(padding="none")["input_ids"]
    cache = model(ids[:, :4]).past_key_values
    refused(model, "batch of 3", "batch of 2", "reorder", input_ids=ids[:2, 4:], past_key_values=cache)
    refused(model, "past_key_values is a str", "KVCache", kind=TypeError, input_ids=ids, past_key_values="cache")
    deeper = build(class_name, num_hidden_layers=3)
    refused(deeper, "2 layers", "3 layers", input_ids=ids[:, 4:], past_key_values=model(ids[:, :4]).past_key_values)
    shallow = build(class_name, num_hidden_layers=1)
    refused(shallow, "2 layers", "1 layer", input_ids=ids[:, 4:], past_key_values=model(ids[:, :4]).past_key_values)
    for other, *words in (
        (build(class_name, num_attention_heads=2), "holds keys of 4 heads x 16", "has 2 heads x 32"),
        (build(class_name, hidden_size=32), "holds keys of 4 heads x 16", "has 4 heads x 8"),
        (build(class_name).double(), "in torch.float32", "in torch.float64"),
        (build(class_name).half(), "in torch.float32", "in torch.float16"),
    ):
        refused(other, *words, "belongs to another model", input_ids=ids[:, 4:], past_key_values=cache)
    assert cache.get_seq_length() == 4
    uneven = [(key[:, :, : 4 - layer], value[:, :, : 4 - layer]) for layer, (key, value) in enumerate(cache)]
    # a single step has no mask that could tell: the numbers would be wrong without a word
    refused(model, "layer 1 of the cache holds 3", "layer 0 holds 4", input_ids=ids[:, 4:5], past_key_values=uneven)


@pytest.mark.parametrize("class_name", DECODERS)
def test_cross_attention_inputs_that_would_have_no_effect(class_name: str) -> None:
    ids = padded_batch(padding="none")["input_ids"]
    given = encoder()
    states, mask = given["encoder_hidden_states"], given["encoder_attention_mask"]
    for plain in (build(class_name), build("GPT2Model" if is_gpt2(class_name) else "BertModel")):
        refused(plain, "encoder_hidden_states", "add_cross_attention", input_ids=ids, encoder_hidden_states=states)
    model = build(class_name, add_cross_attention=True)
    refused(model, "encoder_attention_mask", "no effect", input_ids=ids, encoder_attention_mask=mask)
    with torch.no_grad():
        cache = model(ids[:, :4], **given).past_key_values
    step = {"input_ids": ids[:, 4:], "past_key_values": cache}
    refused(model, "encoder_hidden_states", "cache", **step)
    refused(model, "encoder_hidden_states has 4", "cache", "5", **step, encoder_hidden_states=states[:, :4])
    one_row = tuple((*entry[:2], entry[2][:1], entry[3][:1]) for entry in cache)  # of the encoder: no broadcasting
    refused(
        model, "holds a batch of 3", "has a batch of 1",
        input_ids=ids[:, 4:], past_key_values=one_row, encoder_hidden_states=states,
    )  # fmt: skip
    assert cache.get_seq_length() == 4


@pytest.mark.parametrize("class_name", DECODERS)
def test_the_batch_of_the_encoder_is_never_broadcast(class_name: str) -> None:
    model = build(class_name, add_cross_attention=True)
    ids = padded_batch(padding="none")["input_ids"]
    states = encoder()["encoder_hidden_states"]
    refused(model, "encoder_hidden_states", "batch 1", "batch 3", input_ids=ids, encoder_hidden_states=states[:1])
    refused(model, "encoder_hidden_states", "[3, 5, 32]", "64", input_ids=ids, encoder_hidden_states=states[..., :32])
