"""A minitf model and transformers' model of the same class with the same random parameters, and inputs for both.

The parity tests and the fault tests use the same functions: a fault test injects a mistake into our model and asserts
that the comparison of this file objects.
"""

from __future__ import annotations

from typing import Any

import torch
import transformers

import minitf
from tests.support import padded_batch, randomise_

HEADS = (
    "BertForPreTraining",
    "BertLMHeadModel",
    "BertForMaskedLM",
    "BertForNextSentencePrediction",
    "BertForSequenceClassification",
    "BertForMultipleChoice",
    "BertForTokenClassification",
    "BertForQuestionAnswering",
)
CLASSES = ("BertModel", *HEADS)

# Head size 16, a power of two: 1 / sqrt(16) is exact, so no rounding depends on how the scores are scaled.
TINY: dict[str, Any] = {
    "vocab_size": 61,
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 96,
    "max_position_embeddings": 40,
}
CHOICES = 3


def pair(
    class_name: str, *, attention: str = "eager", dtype: torch.dtype = torch.float32, **settings: Any
) -> tuple[Any, Any]:
    """(ours, theirs), both in eval mode with the same random parameters in every place."""
    settings = {**TINY, **settings}
    ours = getattr(minitf, class_name)(minitf.BertConfig(**settings, attn_implementation=attention))
    config = transformers.BertConfig(**settings)
    config._attn_implementation = attention
    theirs = getattr(transformers, class_name)(config)
    return randomise_(ours).to(dtype).eval(), randomise_(theirs).to(dtype).eval()


def inputs_for(
    class_name: str, *, padding: str = "right", labels: bool = True, seed: int = 0
) -> dict[str, torch.Tensor]:
    """A batch of 3 x 7 tokens with padding, and labels (of which some are not scored) for a head class."""
    batch = padded_batch(vocab_size=TINY["vocab_size"], padding=padding, seed=seed)
    if class_name == "BertForMultipleChoice":
        batch = {
            name: torch.stack([(value + i) % 2 if name == "token_type_ids" else value for i in range(CHOICES)], 1)
            for name, value in batch.items()
        }
        others = [padded_batch(vocab_size=TINY["vocab_size"], padding=padding, seed=seed + i) for i in range(CHOICES)]
        batch["input_ids"] = torch.stack([other["input_ids"] for other in others], 1)
    return {**batch, **(labels_for(class_name, batch) if labels else {})}


def labels_for(class_name: str, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Labels that score only real tokens, so that no loss depends on what stands at padding."""
    ids, mask = batch["input_ids"], batch["attention_mask"]
    rows = ids.shape[0]
    each = torch.arange(rows) % 2
    words = ids.masked_fill(mask == 0, -100)
    if class_name == "BertLMHeadModel":
        # The first token of a left-padded row would be predicted from a padding position: not scored.
        first = torch.cat([torch.zeros_like(mask[:, :1]), mask[:, :-1]], 1) == 0
        return {"labels": words.masked_fill(first, -100)}
    if class_name == "BertForMaskedLM":
        return {"labels": words.masked_fill(torch.arange(ids.shape[1]) % 2 == 1, -100)}
    if class_name == "BertForPreTraining":
        return {"labels": words, "next_sentence_label": each}
    if class_name in ("BertForNextSentencePrediction", "BertForSequenceClassification"):
        return {"labels": each}
    if class_name == "BertForMultipleChoice":
        return {"labels": torch.arange(rows) % CHOICES}
    if class_name == "BertForTokenClassification":
        return {"labels": (ids % 2).masked_fill(mask == 0, -100)}
    if class_name == "BertForQuestionAnswering":
        # the last answer lies beyond the text: clamped and not scored
        return {"start_positions": torch.tensor([0, 2, 3][:rows]), "end_positions": torch.tensor([1, 4, 99][:rows])}
    return {}


def objective(class_name: str, output: Any) -> torch.Tensor:
    """The loss, or for the bare trunk a fixed weighting of both its outputs."""
    if class_name != "BertModel":
        loss: torch.Tensor = output.loss
        return loss
    hidden, pooled = output.last_hidden_state, output.pooler_output
    weights = torch.linspace(-1, 1, hidden.numel(), dtype=hidden.dtype).reshape(hidden.shape)
    return (hidden * weights).sum() + pooled.pow(2).sum()


def gradients(model: torch.nn.Module) -> dict[str, torch.Tensor | None]:
    return {name: parameter.grad for name, parameter in model.named_parameters()}


def different(ours: Any, theirs: Any, equal: Any = torch.equal) -> list[str]:
    """Names of the fields whose tensors differ; a field that only one side has counts as different.

    An empty tuple, which transformers returns for probabilities that it did not compute, counts as absent; caches are
    compared by the tests of cached decoding.
    """
    theirs = {name: value for name, value in theirs.items() if not (isinstance(value, tuple) and not value)}
    wrong = []
    for name in sorted({*ours.keys(), *theirs.keys()} - {"past_key_values"}):
        mine, other = dict(ours.items()).get(name), theirs.get(name)
        if isinstance(mine, tuple) and isinstance(other, tuple) and len(mine) == len(other):
            same = all(equal(a, b) for a, b in zip(mine, other, strict=True))
        else:
            same = torch.is_tensor(mine) and torch.is_tensor(other) and bool(equal(mine, other))
        if not same:
            wrong.append(name)
    return wrong
