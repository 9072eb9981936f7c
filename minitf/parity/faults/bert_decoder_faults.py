"""Mistakes in BERT as a decoder, with relative positions, with a head mask. See bert_faults.py."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

from torch import Tensor

from minitf.models.bert import BertCrossAttention, BertSelfAttention
from minitf.parity.faults.injecting import (
    Changes,
    Fault,
    arguments_changed,
    attention_changed,
    embeddings,
    parts,
    replaced,
    wrapped,
)
from minitf.parity.faults.injecting import fault as add_to
from minitf.parity.faults.shared_mistakes import (
    head_mask_before_the_softmax,
    head_mask_ignored,
    seen_up_to,
    triangle_replaced,
    upper_left,
)

FAULTS: list[Fault] = []
fault = partial(add_to, FAULTS)

# --------------------------------------------------------------------------------------------------------------------
# Decoder: causal mask, cache, cross-attention


def causal_moved(model: Any, by: int, *, only_with_cache: bool = False) -> Changes:
    """A query at position i sees the keys up to i + `by`; in a decoder."""
    if model.config.is_decoder:
        yield from triangle_replaced(model, seen_up_to(by), only_with_cache=only_with_cache)


@fault(
    "causal-mask-missing",
    "a decoder sees the tokens that it has to predict",
    "with is_decoder each query sees itself and what is before it",
    needs="a decoder",
)
def _(model: Any) -> Changes:
    return causal_moved(model, 10**6)


@fault(
    "causal-mask-sees-the-next-token",
    "each query sees one token too many",
    "key position <= query position",
    needs="a decoder",
)
def _(model: Any) -> Changes:
    return causal_moved(model, 1)


@fault(
    "causal-mask-hides-the-token-itself",
    "key position < query position: a query does not see itself",
    "key position <= query position",
    needs="a decoder",
)
def _(model: Any) -> Changes:
    return causal_moved(model, -1)


@fault(
    "causal-mask-off-by-one-with-cache",
    "after a cache of n positions the first new query is taken for position n - 1",
    "the queries are the last T of S positions: align the triangle to the lower right",
    needs="a decoder with a cache",
)
def _(model: Any) -> Changes:
    return causal_moved(model, -1, only_with_cache=True)


@fault(
    "causal-mask-of-the-upper-left-with-cache",
    "after a cache the new queries see only as far as the first queries of a prompt",
    "the queries are the last T of S positions: align the triangle to the lower right",
    needs="a decoder with a cache",
)
def _(model: Any) -> Changes:
    if model.config.is_decoder:
        yield from triangle_replaced(model, upper_left, only_with_cache=True)


@fault(
    "positions-not-advanced-with-cache",
    "each piece of a text starts at position 0 again",
    "positions continue after those in the cache",
    needs="a decoder with a cache",
)
def _(model: Any) -> Changes:
    if model.config.is_decoder:
        yield arguments_changed(embeddings(model), lambda given: given.update(past_key_values_length=0))


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

    for module in parts(model, BertCrossAttention):
        yield arguments_changed(module, change)


@fault(
    "encoder-padding-ignored",
    "the decoder attends to the encoder's padding",
    "pass encoder_attention_mask to every cross-attention",
    needs="cross-attention to a padded encoder",
)
def _(model: Any) -> Changes:
    if parts(model, BertCrossAttention):
        yield arguments_changed(model.base_model, lambda given: given.update(encoder_attention_mask=None))


# --------------------------------------------------------------------------------------------------------------------
# Relative positions, head masks


def relative(model: Any, around: Callable[[Any], Callable[..., Any]], name: str = "relative_scores") -> Changes:
    """`around(module)` replaces a method of every attention module with relative positions."""
    for module in parts(model, BertSelfAttention):
        if module.position_embedding_type != "absolute":
            yield wrapped(module if name == "relative_scores" else module.distance_embedding, name, around(module))


@fault(
    "relative-positions-sign-flipped",
    "the distance is key position - query position",
    "row = query position - key position + max_position_embeddings - 1",
    needs="relative positions",
)
def _(model: Any) -> Changes:
    last = 2 * model.config.max_position_embeddings - 2
    return relative(model, lambda module: lambda look_up, row: look_up(last - row), "forward")


@fault(
    "relative-positions-not-advanced-with-cache",
    "with a cache the query positions start from 0 again",
    "the queries are the last T of S positions",
    needs="relative positions and a cache",
)
def _(model: Any) -> Changes:
    def around(module: Any) -> Callable[..., Any]:
        def scores(before: Any, query: Tensor, key: Tensor) -> Any:
            past = key.shape[2] - query.shape[2]
            with wrapped(module.distance_embedding, "forward", lambda look_up, row: look_up((row - past).clamp(min=0))):
                return before(query, key)

        return scores

    return relative(model, around)


@fault(
    "relative-positions-of-the-last-query-with-cache",
    "with a cache every new query gets the position of the last one, as in transformers 4.49",
    "the queries are the last T of S positions, each with its own",
    needs="relative positions, a cache, and more than one new token in a call",
)
def _(model: Any) -> Changes:
    def around(module: Any) -> Callable[..., Any]:
        def last(look_up: Any, row: Tensor) -> Tensor:
            return look_up(row if row.shape[0] == row.shape[1] else row[-1:].expand_as(row))

        return last

    return relative(model, around, "forward")


@fault(
    "relative-positions-not-scaled",
    "the relative scores are added after the division by sqrt(D)",
    "add them to the scores first, then scale the sum",
    needs="relative positions",
)
def _(model: Any) -> Changes:
    def change(module: Any, call: dict[str, Any]) -> None:
        if call["bias"] is not None:
            call["bias"] = call["bias"] / call["scale"]

    if model.config.position_embedding_type != "absolute":
        yield from attention_changed(model, change)


@fault(
    "relative-positions-of-the-query-only",
    "relative_key_query is computed as relative_key: the key does not meet the distance vectors",
    "add both terms, query * distance and key * distance",
    needs='position_embedding_type = "relative_key_query"',
)
def _(model: Any) -> Changes:
    for module in parts(model, BertSelfAttention):
        if module.position_embedding_type == "relative_key_query":
            yield replaced(module, "position_embedding_type", "relative_key")


@fault(
    "relative-positions-ignored",
    "the distance vectors are loaded and never used, as in transformers 5.x",
    "add the relative scores in every layer",
    needs="relative positions",
)
def _(model: Any) -> Changes:
    return relative(model, lambda module: lambda scores, query, key: None)


@fault(
    "absolute-positions-added-to-relative-ones",
    "the position embeddings are added although the positions are relative",
    "with relative positions the table position_embeddings stays unused",
    needs="relative positions",
)
def _(model: Any) -> Changes:
    if model.config.position_embedding_type != "absolute":
        absolute = copy.copy(model.config)
        absolute.position_embedding_type = "absolute"
        yield replaced(embeddings(model), "config", absolute)


@fault(
    "head-mask-ignored",
    "head_mask is accepted and not used, as in transformers 5.x",
    "multiply the probabilities of each head by its factor",
    needs="a head_mask",
)
def _(model: Any) -> Changes:
    return head_mask_ignored(model)


@fault(
    "head-mask-before-the-softmax",
    "the factor of a head is applied to its scores",
    "it is applied to the probabilities, after softmax and dropout",
    needs="a head_mask",
)
def _(model: Any) -> Changes:
    return head_mask_before_the_softmax(model)
