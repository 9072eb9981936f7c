"""Which values a call computes, in what order and shape, and how much memory they take: from two very small calls.

A value's shape depends on the batch size and the number of tokens. Two calls, of 1 x 2 and of 2 x 3 tokens, tell which
of its dimensions is which: one that grows from 1 to 2 is the batch, from 2 to 3 the tokens, and one that stays is a
size of the model. The calls run in `eval()` mode without gradients and change nothing.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from minitf.tracing.context import Context
from minitf.tracing.hooks import own_calculation
from minitf.tracing.names import ALL, Choice, Names

__all__ = ["Outline", "memory_cost", "outline"]

SIZES = ({"B": 1, "T": 2, "E": 5}, {"B": 2, "T": 3, "E": 7})
"""Batch, tokens, and encoder positions of the two calls."""
LETTERS = {
    tuple(letters): Fraction(prod(SIZES[1][x] for x in letters), prod(SIZES[0][x] for x in letters))
    for letters in ("B", "T", "E", "BT", "BE")
}
KEY_AXES = {"key": 2, "value": 2, "scores": 3, "probs": 3}
"""Dimension of the key positions, which the cache adds to."""
CHOICES = ("BertForMultipleChoice", "GPT2DoubleHeadsModel")
"""Classes whose inputs are `[B, choices, T]`."""


@dataclass(frozen=True)
class Outline:
    """The shape of one value: letters and sizes.

    Attributes:
        dims: each a size, or a text such as "B", "T", "2BT": batch, tokens, "S" key positions (T and what the cache
            holds), "E" encoder positions.
        itemsize: bytes of one element.
    """

    dims: tuple[int | str, ...]
    itemsize: int

    def __str__(self) -> str:
        return f"[{', '.join(map(str, self.dims))}]"

    def shape(self, *, batch: int, tokens: int, past: int = 0, encoder: int = 0) -> tuple[int, ...]:
        """The numbers for a call of `[batch, tokens]` with `past` positions in the cache, `encoder` in the encoder."""
        sizes = {"B": batch, "T": tokens, "S": past + tokens, "E": encoder}
        numbers = []
        for dim in self.dims:
            if isinstance(dim, int):
                numbers.append(dim)
                continue
            letters = dim.lstrip("0123456789")
            numbers.append(int(dim.removesuffix(letters) or 1) * prod(sizes[letter] for letter in letters))
        return tuple(numbers)


class ShapesOnly(Context):
    """As capture of "all", but only shapes are kept."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model, ALL)
        self._sites = {choice.name: [choice] for choice in self.choices}
        self.found: dict[str, tuple[torch.Size, int]] = {}
        self.counts: dict[str, int] = {}

    def sites(self) -> Mapping[str, list[Choice]]:
        return self._sites

    def takes_part(self, name: str) -> bool:
        return False

    def look(self, name: str, tensor: Tensor) -> Tensor:
        self.counts[name] = number = self.counts.get(name, 0) + 1
        self.found[f"{name}#{number}" if number > 1 else name] = tensor.shape, tensor.element_size()
        return tensor

    def of(self, inputs: Mapping[str, Any]) -> dict[str, tuple[torch.Size, int]]:
        """Name -> (shape, bytes of an element), in the order of execution."""
        with own_calculation():
            self.install()
            try:
                self.model(**inputs)
            finally:
                self.remove()
        return self.found


def outline(model: nn.Module, pattern: str | Iterable[str] = ALL) -> dict[str, Outline]:
    """What a call computes: name -> shape in letters, in the order of execution.

    Args:
        model: a language model in the form of minitf or transformers, called with `input_ids` and, in a decoder with
            cross-attention, `encoder_hidden_states`.
        pattern: which names, as in `capture`.

    Raises:
        ValueError: `pattern` finds nothing. TypeError: the model does not take `input_ids`.
    """
    return outline_of_call(model, pattern, ("encoder_hidden_states",))


def outline_of_call(
    model: nn.Module, pattern: str | Iterable[str], given: Iterable[str], choices_each: int = 2
) -> dict[str, Outline]:
    """`outline` of a call that gets these inputs, where the model has a use for them, beside `input_ids`.

    `choices_each`: in a class with several choices for each row, how many.
    """
    choices = Names.of(model).choose(pattern)
    training = [module for module in model.modules() if module.training]
    try:
        for module in training:
            module.training = False
        with torch.no_grad():
            small, large = (ShapesOnly(model).of(example_inputs(model, sizes, given, choices_each)) for sizes in SIZES)
    finally:
        for module in training:
            module.training = True
    shown: dict[str, list[str]] = {}
    for choice in choices:
        shown.setdefault(choice.name, []).append(choice.shown)
    found = {}
    for key, (shape, itemsize) in small.items():
        name, mark, number = key.partition("#")
        for alias in shown.get(name, ()):
            found[alias + mark + number] = Outline(_letters(name, shape, large[key][0]), itemsize)
    return found


def example_inputs(
    model: nn.Module, sizes: Mapping[str, int], given: Iterable[str], choices_each: int
) -> dict[str, Tensor]:
    """`input_ids` `[B, T]` of zeros, and those of `given` that the shapes of values depend on.

    Raises:
        TypeError: the model's forward has no `input_ids`.
    """
    arguments = inspect.signature(model.forward).parameters
    if "input_ids" not in arguments:
        raise TypeError(f"{type(model).__name__}.forward has no input_ids, so it cannot be called for its shapes.")
    parameter = next((p for p in model.parameters() if p.is_floating_point()), torch.empty(0))
    middle = (choices_each,) if type(model).__name__ in CHOICES else ()
    ids = torch.zeros(sizes["B"], *middle, sizes["T"], dtype=torch.long, device=parameter.device)
    config: Any = getattr(model, "config", None)
    possible = {"token_type_ids": ids, "position_ids": ids}
    if getattr(config, "add_cross_attention", False):
        possible["encoder_hidden_states"] = parameter.new_zeros(sizes["B"], sizes["E"], config.hidden_size)
    return {"input_ids": ids, **{key: possible[key] for key in given if key in possible and key in arguments}}


def _letters(name: str, small: torch.Size, large: torch.Size) -> tuple[int | str, ...]:
    dims: list[int | str] = []
    for one, two in zip(small, large, strict=True):
        letters = [letters for letters, ratio in LETTERS.items() if one and Fraction(two, one) == ratio]
        if one == two or not letters:
            dims.append(one)
            continue
        factor = one // prod(SIZES[0][letter] for letter in letters[0])
        dims.append(("" if factor == 1 else str(factor)) + "".join(letters[0]))
    axis = KEY_AXES.get(name.rpartition(".")[2])
    if axis is not None and len(dims) == 4 and dims[axis] == "T":
        dims[axis] = "S"
    return tuple(dims)


def memory_cost(
    model: nn.Module,
    inputs: Tensor | Mapping[str, Any],
    pattern: str | Iterable[str] = ALL,
) -> int:
    """Bytes that the copies of one call's values will take; the call itself is not made, only `outline`'s small ones.

    Args:
        inputs: of the call: `input_ids` `[B, T]`, or a mapping with `input_ids` or `inputs_embeds`, and what else the
            call gets.
        pattern: which names, as in `capture`.

    A feed-forward network in chunks (`chunk_size_feed_forward`) is counted for a call of two tokens.

    Raises:
        ValueError: `pattern` finds nothing. TypeError: neither ids nor embeddings are among the inputs.
    """
    given: dict[str, Any] = {"input_ids": inputs} if isinstance(inputs, Tensor) else dict(inputs)
    ids, embeds, encoder = (given.get(key) for key in ("input_ids", "inputs_embeds", "encoder_hidden_states"))
    if ids is not None:
        length = ids.shape
    elif embeds is not None:
        length = embeds.shape[:-1]
    else:
        raise TypeError("inputs has neither input_ids nor inputs_embeds, which say how long the call is.")
    cache: Any = given.get("past_key_values")
    if cache is None:
        past = 0
    else:
        past = cache.get_seq_length() if hasattr(cache, "get_seq_length") else cache[0][0].shape[2]
    sizes = {"batch": length[0], "tokens": length[-1], "past": int(past)}
    others = [key for key, value in given.items() if value is not None]
    wanted = list(dict.fromkeys(choice.name for choice in Names.of(model).choose(pattern)))  # an alias costs nothing
    total = 0
    for value in outline_of_call(model, wanted, others, length[1] if len(length) == 3 else 2).values():
        total += value.itemsize * prod(value.shape(**sizes, encoder=0 if encoder is None else encoder.shape[1]))
    return total


def said_cost(model: nn.Module, arguments: tuple[Any, ...], keywords: Mapping[str, Any]) -> str:
    """The sentence that `capture(model, "all")` logs."""
    try:
        bound = inspect.signature(model.forward).bind_partial(*arguments, **keywords).arguments
        cost = memory_cost(model, bound)
    except Exception as error:  # any model may be captured; only what it costs is not known then
        return f"every value is copied; how much that is cannot be told beforehand ({error})."
    return f"the copies of this call take {cost:,} bytes."
