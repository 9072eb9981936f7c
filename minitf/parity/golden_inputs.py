"""The inputs of a golden bundle: random tokens, and labels for every kind of head.

Labels score tokens only, and only tokens that are predicted from tokens: no loss may depend on what stands at padding,
which correct implementations compute differently.

Dimension letters: B batch, N choices, T positions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from minitf.losses import IGNORED
from minitf.parity.verify_inputs import make_batch

__all__ = ["LABELS", "PADDINGS", "labels_for", "random_inputs"]

LABELS = ("labels", "next_sentence_label", "mc_labels", "start_positions", "end_positions")
"""Arguments of the forward that a loss is made of."""
PADDINGS = ("right", "left", "none")
BY_CHOICE = ("BertForMultipleChoice", "GPT2DoubleHeadsModel")
"""Classes whose inputs are `[B, N, T]`."""
BY_ROW = ("ForSequenceClassification", "ForNextSentencePrediction", "ForMultipleChoice")
"""Classes with one label for each row."""


def random_inputs(model: Any, *, seed: int, rows: int, tokens: int, padding: str) -> dict[str, Tensor]:
    """Random tokens `[B, T]` or `[B, N, T]`, mask, and the segment and position ids that the class has a use for.

    Args:
        model: the one of minitf. seed: the same seed gives the same tokens. rows, tokens: B, T.
        padding: "right", "left" or "none".
    """
    choices = type(model).__name__ in BY_CHOICE
    return make_batch(model, padding=padding, rows=rows, tokens=tokens, seed=seed, choices=choices).ours


def labels_for(model: Any, inputs: dict[str, Tensor], numbers: Sequence[int] | None = None) -> dict[str, Tensor]:
    """Labels for the head of the model; empty for a trunk.

    Args:
        inputs: the arguments that will be given beside them.
        numbers: one label for each row, for the classes that have such; None = made up from row numbers and tokens.

    Raises:
        ValueError: `numbers` for a class whose labels are no such numbers, or not as many as there are rows.
    """
    name = type(model).__name__
    made = next((make for ending, make in MAKERS.items() if name.endswith(ending)), None)
    if numbers is None:
        return {} if made is None or "input_ids" not in inputs else made(model, inputs)
    problem = getattr(model.config, "problem_type", None)
    if not name.endswith(BY_ROW) or problem == "multi_label_classification":
        raise ValueError(
            f"{name} does not take one label a row: put its labels into the file of inputs "
            f"({', '.join(key for key in LABELS if key in model.forward_names) or 'it takes none'})."
        )
    rows = len(next(iter(inputs.values())))
    if len(numbers) != rows:
        raise ValueError(f"{len(numbers)} labels for {rows} rows: give one for each.")
    return {"labels": torch.tensor(numbers)}


def _tokens(inputs: dict[str, Tensor]) -> Tensor:
    mask = inputs.get("attention_mask")
    return torch.ones_like(inputs["input_ids"]) if mask is None else mask.long()


def _words(model: Any, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    return {"labels": inputs["input_ids"].masked_fill(_tokens(inputs) == 0, IGNORED)}


def _next_words(model: Any, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    mask = _tokens(inputs)
    before = torch.cat([torch.zeros_like(mask[..., :1]), mask[..., :-1]], -1)
    return {"labels": inputs["input_ids"].masked_fill(mask * before == 0, IGNORED)}


def _rows(model: Any, inputs: dict[str, Tensor], count: int) -> Tensor:
    return torch.arange(len(inputs["input_ids"])) % count


def _pretraining(model: Any, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    return {**_words(model, inputs), "next_sentence_label": _rows(model, inputs, 2)}


def _double_heads(model: Any, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    return {**_next_words(model, inputs), "mc_labels": _choice(model, inputs)["labels"]}


def _next_sentence(model: Any, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    return {"labels": _rows(model, inputs, 2)}


def _choice(model: Any, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    return {"labels": _rows(model, inputs, inputs["input_ids"].shape[1])}


def _regression(model: Any) -> bool:
    kind = model.config.problem_type
    return bool(kind == "regression" or (kind is None and model.config.num_labels == 1))


def _sequence(model: Any, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    count, rows = model.config.num_labels, len(inputs["input_ids"])
    if model.config.problem_type == "multi_label_classification":
        return {"labels": (torch.arange(rows)[:, None] + torch.arange(count)) % 2 * 1.0}
    if _regression(model):
        values = torch.arange(rows)[:, None] / 2 + torch.arange(count)
        return {"labels": values.squeeze(-1)}
    return {"labels": _rows(model, inputs, count)}


def _tags(model: Any, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    tags = inputs["input_ids"] % model.config.num_labels
    return {"labels": tags.masked_fill(_tokens(inputs) == 0, IGNORED)}


def _span(model: Any, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    mask = _tokens(inputs)
    first = mask.argmax(-1)
    return {"start_positions": first, "end_positions": first + mask.sum(-1) - 1}


MAKERS: dict[str, Callable[[Any, dict[str, Tensor]], dict[str, Tensor]]] = {
    "ForPreTraining": _pretraining,
    "ForMaskedLM": _words,
    "LMHeadModel": _next_words,
    "DoubleHeadsModel": _double_heads,
    "ForNextSentencePrediction": _next_sentence,
    "ForSequenceClassification": _sequence,
    "ForMultipleChoice": _choice,
    "ForTokenClassification": _tags,
    "ForQuestionAnswering": _span,
}
"""End of a class name -> its labels."""
