"""Mistakes in GPT-2's decoding with a cache and in its cross-attention. See gpt2_faults.py."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from minitf.parity.faults.gpt2_trunk_faults import columns_moved, left_padded
from minitf.parity.faults.injecting import (
    Changes,
    Fault,
    arguments_changed,
    attention_changed,
    caches_changed,
    replaced,
)
from minitf.parity.faults.injecting import fault as add_to
from minitf.parity.faults.shared_mistakes import seen_up_to, triangle_replaced, upper_left

FAULTS: list[Fault] = []
fault = partial(add_to, FAULTS)

# --------------------------------------------------------------------------------------------------------------------
# Masks and positions of a call that continues


def held(given: dict[str, Any]) -> int:
    """The positions in the cache, or in the classic tuple, that a forward is given."""
    past = given["past_key_values"]
    if past is None or len(past) == 0:
        return 0
    return int(past.get_seq_length()) if hasattr(past, "get_seq_length") else int(past[0][0].shape[2])


@fault(
    "causal-mask-off-by-one-with-cache",
    "after a cache of n positions the first new query is taken for position n - 1",
    "the queries are the last T of S positions: align the triangle to the lower right",
    needs="a cache",
)
def _(model: Any) -> Changes:
    return triangle_replaced(model, seen_up_to(-1), only_with_cache=True)


@fault(
    "causal-mask-of-the-upper-left-with-cache",
    "after a cache the new queries see only as far as the first queries of a prompt, as with the kernel's is_causal",
    "the queries are the last T of S positions: align the triangle to the lower right",
    needs="a cache",
)
def _(model: Any) -> Changes:
    return triangle_replaced(model, upper_left, only_with_cache=True)


@fault(
    "causal-mask-missing-with-cache",
    "after a cache there is no causal mask, which is right for a single token and wrong for a piece of several",
    "a query of a piece does not see the later ones of the same piece",
    needs="a cache, and more than one new token in a call",
)
def _(model: Any) -> Changes:
    return triangle_replaced(model, seen_up_to(10**6), only_with_cache=True)


@fault(
    "positions-not-advanced-with-cache",
    "each piece of a text starts at position 0 again",
    "positions continue after those in the cache",
    needs="a cache, and no position_ids in the call",
)
def _(model: Any) -> Changes:
    def change(given: dict[str, Any]) -> None:
        if given["position_ids"] is None and held(given):
            tokens = given["inputs_embeds"] if given["input_ids"] is None else given["input_ids"]
            given["position_ids"] = torch.arange(tokens.shape[1], device=tokens.device)

    yield arguments_changed(model.base_model, change)


@fault(
    "positions-count-padding-with-cache",
    "the prompt counts its tokens only, and the next token gets the length of the padded row as its position",
    "cut position_ids of every step out of positions_from_mask(attention_mask)",
    needs="padding on the left and a cache",
)
def _(model: Any) -> Changes:
    def change(given: dict[str, Any]) -> None:
        if left_padded(given["attention_mask"]) and held(given):
            given["position_ids"] = None

    yield arguments_changed(model.base_model, change)


@fault(
    "padding-forgotten-with-cache",
    "the prompt hides its padding, and the next tokens attend to it",
    "an attention_mask covers the positions in the cache too: pass it at every step",
    needs="padding on the left and a cache",
)
def _(model: Any) -> Changes:
    def change(given: dict[str, Any]) -> None:
        if held(given):
            given["attention_mask"] = None

    yield arguments_changed(model.base_model, change)


# --------------------------------------------------------------------------------------------------------------------
# What the cache holds


def past_replaced(model: Any, wrong: Callable[[Any, int, Tensor, Tensor], tuple[Tensor, Tensor]]) -> Changes:
    """`wrong(cache, S of before, keys, values)` are the keys and values before this call, `[B, H, S of before, D]`."""

    def update(cache: Any, before: Any, layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        past = cache.get_seq_length(layer)
        keys, values = before(layer, key, value)
        if not past:
            return keys, values
        old_keys, old_values = wrong(cache, past, keys[:, :, :past], values[:, :, :past])
        return torch.cat([old_keys, keys[:, :, past:]], 2), torch.cat([old_values, values[:, :, past:]], 2)

    return caches_changed(model, "update", update)


@fault(
    "cache-keys-and-values-swapped",
    "the pair of a layer is stored as (key, value) and read as (value, key)",
    "(key, value), in this order, in the classic tuple too",
    needs="a cache",
)
def _(model: Any) -> Changes:
    return past_replaced(model, lambda cache, past, keys, values: (values, keys))


@fault(
    "cache-of-the-first-layer-in-all",
    "every layer continues the keys and values of layer 0",
    "each layer has its own entry: pass the layer's index to the cache",
    needs="a cache and more than one layer",
)
def _(model: Any) -> Changes:
    def first(cache: Any, past: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        key, value = cache[0][:2]
        return key[:, :, :past], value[:, :, :past]

    return past_replaced(model, first)


@fault(
    "cache-moved-by-one-position",
    "the keys of the past stand one position too far to the left (the first one at the end)",
    "key and value of a position are written at the same place",
    needs="a cache of more than one position",
)
def _(model: Any) -> Changes:
    return past_replaced(model, lambda cache, past, keys, values: (keys.roll(-1, 2), values))


# --------------------------------------------------------------------------------------------------------------------
# What is done to a cache between two calls


def rows_of(cache: Any) -> int:
    return int(cache[0][0].shape[0])


def as_they_stand(cache: Any, wanted: Tensor) -> Tensor:
    """As many rows as wanted, in the order in which the cache holds them."""
    return torch.arange(len(wanted), device=wanted.device) % rows_of(cache)


@fault(
    "cache-reorder-forgotten",
    "beams go on with the keys and values of the beams that stood in their rows before",
    "cache.reorder(rows) whenever the rows of the batch change",
    needs="a cache that is reordered",
)
def _(model: Any) -> Changes:
    def reorder(cache: Any, before: Any, rows: Tensor) -> None:
        before(as_they_stand(cache, rows))

    return caches_changed(model, "reorder", reorder)


@fault(
    "cache-reordered-backwards",
    "row i goes to row rows[i] instead of coming from there",
    "row i of the new cache is row rows[i] of the old one: index_select, not scatter",
    needs="a cache that is reordered",
)
def _(model: Any) -> Changes:
    def reorder(cache: Any, before: Any, rows: Tensor) -> None:
        wrong = as_they_stand(cache, rows)
        for place, row in enumerate(rows.tolist()):
            wrong[row % len(rows)] = place % rows_of(cache)
        before(wrong)

    return caches_changed(model, "reorder", reorder)


@fault(
    "cache-reordered-in-the-first-layer-only",
    "only the entry of layer 0 is reordered",
    "reorder key and value of every layer",
    needs="a cache that is reordered, of more than one layer",
)
def _(model: Any) -> Changes:
    def reorder(cache: Any, before: Any, rows: Tensor) -> None:
        stand = as_they_stand(cache, rows)
        others = [(entry, entry.key[stand], entry.value[stand]) for entry in cache._layers[1:]]
        before(rows)
        for entry, key, value in others:
            entry.key, entry.value = key, value

    return caches_changed(model, "reorder", reorder)


@fault(
    "cache-values-not-reordered",
    "only the keys are reordered",
    "reorder key and value of every layer",
    needs="a cache that is reordered",
)
def _(model: Any) -> Changes:
    def reorder(cache: Any, before: Any, rows: Tensor) -> None:
        stand = as_they_stand(cache, rows)
        values = [(entry, entry.value[stand]) for entry in cache._layers]
        before(rows)
        for entry, value in values:
            entry.value = value

    return caches_changed(model, "reorder", reorder)


@fault(
    "cache-of-the-encoder-not-reordered",
    "the rows of the text are reordered and the keys and values of the encoder are not",
    "reorder the cross-attention's entries too, or repeat the encoder's rows in the same way",
    needs="cross-attention and a cache that is reordered",
)
def _(model: Any) -> Changes:
    def reorder(cache: Any, before: Any, rows: Tensor) -> None:
        stand = as_they_stand(cache, rows)
        entries = [(entry, tuple(t[stand] for t in entry.cross)) for entry in cache._layers if entry.cross is not None]
        before(rows)
        for entry, cross in entries:
            entry.cross = cross

    if model.config.add_cross_attention:
        yield from caches_changed(model, "reorder", reorder)


@fault(
    "cache-tiled-instead-of-repeated",
    "rows are repeated as 0 1 2 0 1 2",
    "the copies of a row are neighbours: 0 0 1 1 2 2 (repeat_interleave)",
    needs="a cache whose rows are repeated",
)
def _(model: Any) -> Changes:
    def batch_repeat(cache: Any, before: Any, times: int) -> None:
        cache.reorder(torch.arange(rows_of(cache)).repeat(times))

    return caches_changed(model, "batch_repeat", batch_repeat)


def kept_by_crop(cache: Any, length: int) -> int:
    return length if length >= 0 else int(cache.get_seq_length()) + length


@fault(
    "cache-crop-off-by-one",
    "crop keeps one position too many",
    "crop(n) keeps the positions 0 ... n - 1",
    needs="a cache that is cropped",
)
def _(model: Any) -> Changes:
    def crop(cache: Any, before: Any, length: int) -> None:
        before(min(kept_by_crop(cache, length) + 1, cache.get_seq_length()))

    return caches_changed(model, "crop", crop)


@fault(
    "cache-crop-keeps-the-end",
    "crop keeps the last positions, as a sliding window does",
    "crop(n) keeps the first n positions: it takes back what came after them",
    needs="a cache that is cropped",
)
def _(model: Any) -> Changes:
    def crop(cache: Any, before: Any, length: int) -> None:
        keep = kept_by_crop(cache, length)
        if keep:
            last = [[tensor[:, :, -keep:].clone() for tensor in entry[:2]] for entry in cache]
            before(length)
            for entry, (key, value) in zip(cache, last, strict=True):
                entry[0].copy_(key)
                entry[1].copy_(value)

    return caches_changed(model, "crop", crop)


# --------------------------------------------------------------------------------------------------------------------
# Cross-attention


def crosses(model: Any) -> list[Any]:
    return [block.crossattention for block in model.base_model.h if hasattr(block, "crossattention")]


@fault(
    "cross-attention-to-the-decoder",
    "keys and values of the cross-attention come from the decoder itself",
    "queries from the decoder, keys and values from encoder_hidden_states",
    needs="cross-attention",
)
def _(model: Any) -> Changes:
    def change(given: dict[str, Any]) -> None:
        own, mask = given["hidden_states"], given["mask"]
        fits = mask is not None and mask.shape[-1] == own.shape[1]
        given.update(encoder_hidden_states=own, mask=mask if fits else None)

    for module in crosses(model):
        yield arguments_changed(module, change)


@fault(
    "encoder-padding-ignored",
    "the text attends to the encoder's padding",
    "pass encoder_attention_mask to every cross-attention",
    needs="cross-attention to a padded encoder",
)
def _(model: Any) -> Changes:
    if crosses(model):
        yield arguments_changed(model.base_model, lambda given: given.update(encoder_attention_mask=None))


@fault(
    "causal-mask-on-the-encoder",
    "token i sees only the encoder's states up to i",
    "the cross-attention has no causal mask: the whole encoder is there before the first token",
    needs="cross-attention",
)
def _(model: Any) -> Changes:
    own = crosses(model)

    def change(module: Any, call: dict[str, Any]) -> None:
        if any(module is one for one in own):
            triangle = upper_left(call["query"].shape[2], call["key"].shape[2])[None, None]  # [1, 1, T, S]
            call["mask"] = triangle if call["mask"] is None else triangle & call["mask"]

    if own:
        yield from attention_changed(model, change)


@fault(
    "cross-c-attn-read-as-value-key",
    "the columns of crossattention.c_attn are taken for value, key",
    "it computes key and value side by side, in this order",
    needs="cross-attention",
)
def _(model: Any) -> Changes:
    for module in crosses(model):
        key, value = torch.arange(2 * module.split_size).chunk(2)
        yield from columns_moved(module.c_attn, torch.cat([value, key]))


@fault(
    "ln-cross-attn-and-ln-2-swapped",
    "the LayerNorm before the cross-attention and the one before the feed-forward network are exchanged",
    "ln_cross_attn stands before crossattention, ln_2 before mlp",
    needs="cross-attention",
)
def _(model: Any) -> Changes:
    for block in model.base_model.h:
        if hasattr(block, "crossattention"):
            yield replaced(block, "ln_2", block.ln_cross_attn)
            yield replaced(block, "ln_cross_attn", block.ln_2)


@fault(
    "cross-attention-only-in-the-prompt",
    "the steps after the prompt leave the cross-attention out",
    "every step attends to the encoder, whose keys and values are in the cache",
    needs="cross-attention and a cache",
)
def _(model: Any) -> Changes:
    def change(given: dict[str, Any], layer: int) -> None:
        if given["cache"] is not None and given["cache"].get_seq_length(layer):
            given["encoder_hidden_states"] = None

    for layer, block in enumerate(model.base_model.h):
        if hasattr(block, "crossattention"):
            yield arguments_changed(block, partial(change, layer=layer))


@fault(
    "cross-attention-computed-again",
    "keys and values of the encoder are computed again at every step: the same numbers, at the price of a prompt",
    "compute them in the first call and keep them in the cache",
    needs="cross-attention and a cache; and only the work tells, not the numbers",
)
def _(model: Any) -> Changes:
    if crosses(model):
        yield from caches_changed(model, "cross", lambda cache, before, layer: None)
