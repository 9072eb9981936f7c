"""The batches that `minitf.parity.verify` gives to both libraries, what comes back, and the verdict on it.

Compared is what stands at tokens: what a model computes at padding differs on purpose (a query that may attend to
nothing; README, "Differences from transformers"). How far apart two right results may be is the noise floor of
`minitf.parity.noise`, here that of transformers' own arithmetic.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from minitf.loading import same_bits
from minitf.masks import positions_from_mask
from minitf.parity.noise import Difference, Floor, difference, floor_of, settled, token_rows
from minitf.parity.verify_report import DIFFERS, IDENTICAL, MULTIPLE, WITHIN

__all__ = ["Batch", "Verdict", "by_steps", "compare", "floors_of", "make_batch", "of_tokens_only", "outputs"]

CHOICES = 2
PIECES = (2, 1, 1)  # tokens that come after the prompt: two at once show how the causal mask lies over a cache


@dataclass(frozen=True)
class Batch:
    """Inputs `[B, T]`, or `[B, N, T]` with choices, of one kind of padding.

    ours, theirs: the keywords of the two forwards. mask: bool, True = token.
    """

    ours: dict[str, Tensor]
    theirs: dict[str, Tensor]
    mask: Tensor


def make_batch(model: Any, *, padding: str, rows: int, tokens: int, seed: int, choices: bool = False) -> Batch:
    """Random tokens of the vocabulary, never the padding token, which the classes for sequences look for.

    A model that is always a decoder gets `position_ids` that count tokens only, if there is padding.

    Args:
        model: the one of minitf, for its configuration and the names of its inputs.
        padding: "none", "right" or "left": the second row lacks a quarter of its tokens, the third a half, the fourth
            three quarters, and so on again; a single row lacks a quarter.
        rows, tokens: B, T. seed: the same seed gives the same batch. choices: make `[B, N, T]`.
    """
    generator = torch.Generator().manual_seed(seed)
    config = model.config
    shape = (rows, CHOICES, tokens) if choices else (rows, tokens)
    pad = config.pad_token_id or 0
    ids = torch.randint(0, max(config.vocab_size - 1, 1), shape, generator=generator)
    ids += ids >= pad
    lacking = torch.zeros((*shape[:-1], 1), dtype=torch.long)  # [B, 1] or [B, N, 1]
    if padding != "none":
        quarters = (torch.arange(rows) + (rows == 1)) % 4 * max(tokens // 4, 1)
        lacking += quarters.clamp(max=tokens - 1).view(rows, *[1] * (len(shape) - 1))
    place = torch.arange(tokens)
    mask = place >= lacking if padding == "left" else place < tokens - lacking
    inputs = {"input_ids": ids.masked_fill(~mask, pad), "attention_mask": mask.long()}
    if getattr(config, "type_vocab_size", 0) > 1:
        inputs["token_type_ids"] = torch.randint(0, 2, shape, generator=generator)
    if "mc_token_ids" in model.forward_names:
        inputs["mc_token_ids"] = (place * mask).argmax(-1)  # the last token
    theirs = dict(inputs)
    if model.always_decodes and padding != "none":
        inputs["position_ids"] = positions_from_mask(inputs["attention_mask"])
        theirs["position_ids"] = inputs["position_ids"].reshape(-1, tokens)  # transformers flattens all but these
    return Batch(inputs, theirs, mask)


@torch.no_grad()
def outputs(model: Any, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of one forward by name; the hidden states of every layer first, so that the first difference is the
    earliest. Choices of rows of tokens are rows (`[B * N, T, V]`), as in the trunk."""
    output = model(**inputs, output_hidden_states=True, return_dict=True)
    fields = dict(output.items())
    layers = {f"hidden_states[{i}]": state for i, state in enumerate(fields.pop("hidden_states", None) or ())}
    found = {**layers, **{name: value for name, value in fields.items() if isinstance(value, Tensor)}}
    return {name: value.flatten(0, 1) if value.dim() == 4 else value for name, value in found.items()}


@torch.no_grad()
def by_steps(model: Any, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The last hidden states or the logits `[B, T, ...]`: of a prompt first, then of the tokens after it in `PIECES`
    (one by one, if there are fewer), each with the cache of what came before."""
    length = inputs["input_ids"].shape[-1]
    pieces = (length - sum(PIECES), *PIECES) if length > sum(PIECES) else (1,) * length
    cache, end, found = None, 0, []
    for piece in pieces:
        start, end = end, end + piece
        step = {name: value[:, start:end] for name, value in inputs.items()}
        step["attention_mask"] = inputs["attention_mask"][:, :end]
        output = model(**step, past_key_values=cache, use_cache=True, return_dict=True)
        cache = output.past_key_values
        found.append(dict(output.items()))
    name = "logits" if "logits" in found[0] else "last_hidden_state"
    return {name: torch.cat([fields[name] for fields in found], dim=1)}


def of_tokens_only(found: Mapping[str, Tensor], mask: Tensor) -> dict[str, Tensor]:
    """The fields that have an entry for each token."""
    return {name: value for name, value in found.items() if token_rows(name, tuple(value.shape), mask) is not None}


def floors_of(
    own: Mapping[str, Tensor], exact: Mapping[str, Tensor], mask: Tensor, dtype: torch.dtype
) -> dict[str, Floor]:
    """The noise floor of each field in `dtype`.

    Args:
        own: transformers' result in `dtype`; for float64 that in float32, whose error is scaled.
        exact: transformers' result in float64. mask: as in `Batch`.
    """
    errors = {name: difference(name, own[name], value, dtype, mask) for name, value in exact.items()}
    return settled(
        {name: floor_of(error, dtype) for name, error in errors.items()},
        {name: error.count for name, error in errors.items()},
        {name: error.scale for name, error in errors.items()},
    )


@dataclass(frozen=True)
class Verdict:
    """`result`, `difference`, `floor`, `times` and `where` of a `verify_report.Row`."""

    result: str
    difference: float | None = None
    floor: float | None = None
    times: float = 0.0
    where: str = ""


def compare(
    ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor], floors: Mapping[str, Floor], mask: Tensor
) -> Verdict:
    """The verdict on the fields of one row; its numbers are those of the field that is nearest to its limit.

    Fields come in the order of the computation, so the first that differs is where the two part.
    """
    if ours.keys() != theirs.keys():
        return Verdict(DIFFERS, where=f"only one side returns {', '.join(sorted({*ours} ^ {*theirs}))}")
    identical, where, worst = True, "", (-1.0, 0.0, 0.0)
    for name, mine in ours.items():
        other = theirs[name]
        if mine.shape != other.shape or mine.dtype != other.dtype:
            shapes = [f"{list(value.shape)} {str(value.dtype).removeprefix('torch.')}" for value in (mine, other)]
            return Verdict(DIFFERS, where=f"{name} is {shapes[0]} in minitf, {shapes[1]} in transformers")
        rows = token_rows(name, tuple(mine.shape), mask)
        at_tokens = [value.contiguous() if rows is None else value.masked_select(rows) for value in (mine, other)]
        identical &= same_bits(at_tokens[0], at_tokens[1])
        apart = difference(name, mine, other, mine.dtype, mask)
        times = floors[name].ratio(apart)
        worst = max(worst, (times, apart.max_abs, floors[name].max_abs))
        if times > MULTIPLE and not where:
            where = f"first in {_first(name, mine, other, rows, apart, MULTIPLE * floors[name].max_abs)}"
    times, largest, floor = worst
    return Verdict(DIFFERS if where else IDENTICAL if identical else WITHIN, largest, floor, times, where)


def _first(name: str, mine: Tensor, other: Tensor, rows: Tensor | None, apart: Difference, limit: float) -> str:
    """The first entry of a field that is beyond `limit` (the worst, if it is only their sum), with both values."""
    beyond = (mine != other) & ~((mine.double() - other.double()).abs() <= limit)  # so that NaN is beyond
    if rows is not None:
        beyond &= rows | (mine.isnan() & ~other.isnan())  # NaN at padding goes on to the tokens
    places = beyond.nonzero()
    place = tuple(places[0].tolist()) if len(places) else apart.position
    return f"{name} at {list(place)}: {mine[place].item():.7g} in minitf, {other[place].item():.7g} in transformers"
