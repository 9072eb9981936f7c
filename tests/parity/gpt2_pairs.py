"""A minitf GPT-2 and transformers' model of the same class with the same random parameters, and inputs for both.

The parity tests and the fault tests use the same functions: a fault test injects a mistake into our model and asserts
that the comparison of this file objects.
"""

from __future__ import annotations

from typing import Any

import torch
import transformers

import minitf
from minitf.masks import positions_from_mask
from tests.parity.bert_pairs import different, gradients
from tests.support import padded_batch, random_value, randomise_

__all__ = [
    "CHOICES", "CLASSES", "ENCODER_LENGTH", "HEADS", "TINY", "attended", "different", "encoder_inputs", "for_oracle",
    "gradients", "inputs_for", "labels_for", "objective", "pair",
]  # fmt: skip

HEADS = (
    "GPT2LMHeadModel",
    "GPT2DoubleHeadsModel",
    "GPT2ForSequenceClassification",
    "GPT2ForTokenClassification",
    "GPT2ForQuestionAnswering",
)
CLASSES = ("GPT2Model", *HEADS)

# Head size 16, a power of two: 1 / sqrt(16) is exact, so no rounding depends on how the scores are scaled.
TINY: dict[str, Any] = {
    "vocab_size": 61,
    "n_positions": 40,
    "n_embd": 64,
    "n_layer": 2,
    "n_head": 4,
    "n_inner": 96,
    "bos_token_id": 60,
    "eos_token_id": 60,
    "pad_token_id": 0,
}
CHOICES = 3
ENCODER_LENGTH = 5


def pair(
    class_name: str, *, attention: str = "eager", dtype: torch.dtype = torch.float32, **settings: Any
) -> tuple[Any, Any]:
    """(ours, theirs), both in eval mode with the same random parameters in every place."""
    settings = {**TINY, **settings}
    ours = getattr(minitf, class_name)(minitf.GPT2Config(**settings, attn_implementation=attention))
    config = transformers.GPT2Config(**settings)
    config._attn_implementation = attention
    theirs = getattr(transformers, class_name)(config)
    return randomise_(ours).to(dtype).eval(), randomise_(theirs).to(dtype).eval()


def inputs_for(
    class_name: str, *, padding: str = "right", labels: bool = True, positions: bool = True, seed: int = 0
) -> dict[str, torch.Tensor]:
    """A batch of 3 x 7 tokens (x 3 choices in the class with two heads) with padding, positions and labels.

    `positions`: give position_ids that count tokens only, as a batch needs that is padded on the left.
    """
    seeds = [seed + i for i in range(CHOICES)] if class_name == "GPT2DoubleHeadsModel" else [seed]
    batches = [padded_batch(vocab_size=TINY["vocab_size"], padding=padding, seed=number) for number in seeds]
    if positions:
        batches = [{**one, "position_ids": positions_from_mask(one["attention_mask"])} for one in batches]
    batch = batches[0]
    if class_name == "GPT2DoubleHeadsModel":
        batch = {name: torch.stack([one[name] for one in batches], 1) for name in batch}
        batch["mc_token_ids"] = last_token(batch["attention_mask"])
    return {**batch, **(labels_for(class_name, batch) if labels else {})}


def last_token(mask: torch.Tensor) -> torch.Tensor:
    """`[..., T]` of 1 and 0 -> `[...]`, the place of the last 1."""
    return (torch.arange(mask.shape[-1]) * mask).argmax(-1)


def labels_for(class_name: str, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Labels that score only real tokens, so that no loss depends on what stands at padding."""
    ids, mask = batch["input_ids"], batch["attention_mask"]
    rows = ids.shape[0]
    if class_name in ("GPT2LMHeadModel", "GPT2DoubleHeadsModel"):
        # The first token of a left-padded row would be predicted from a padding position: not scored.
        first = torch.cat([torch.zeros_like(mask[..., :1]), mask[..., :-1]], -1) == 0
        words = {"labels": ids.masked_fill((mask == 0) | first, -100)}
        choice = {"mc_labels": torch.arange(rows) % CHOICES} if class_name == "GPT2DoubleHeadsModel" else {}
        return {**words, **choice}
    if class_name == "GPT2ForSequenceClassification":
        return {"labels": torch.arange(rows) % 2}
    if class_name == "GPT2ForTokenClassification":
        return {"labels": (ids % 2).masked_fill(mask == 0, -100)}
    if class_name == "GPT2ForQuestionAnswering":
        # the last answer lies beyond the text: clamped and not scored
        return {"start_positions": torch.tensor([0, 2, 3][:rows]), "end_positions": torch.tensor([1, 4, 99][:rows])}
    return {}


def encoder_inputs() -> dict[str, torch.Tensor]:
    """States of an encoder, padded on the right, for a batch of 3."""
    states = random_value("encoder_hidden_states", (3, ENCODER_LENGTH, TINY["n_embd"]))
    return {
        "encoder_hidden_states": torch.from_numpy(states).float(),
        "encoder_attention_mask": torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0], [1, 0, 0, 0, 0]]),
    }


def for_oracle(inputs: dict[str, Any]) -> dict[str, Any]:
    """The oracle flattens every input of `[B, N, T]` but position_ids; everything else it takes as we do."""
    positions = inputs.get("position_ids")
    if positions is None or positions.dim() < 3:
        return inputs
    return {**inputs, "position_ids": positions.reshape(-1, positions.shape[-1])}


PER_TOKEN = {"last_hidden_state", "start_logits", "end_logits"}


def attended(class_name: str, output: Any, mask: torch.Tensor) -> dict[str, Any]:
    """The output with its per-token fields at real tokens only.

    A padding query of a left-padded row may attend to nothing, and there the two libraries differ on purpose (see
    `minitf.attention`): the oracle's eager attention gives it the mean of all values.
    """
    fields = dict(output.items())
    names = PER_TOKEN if class_name == "GPT2ForSequenceClassification" else {*PER_TOKEN, "logits"}
    return {name: value[mask.bool()] if name in names else value for name, value in fields.items()}


def objective(class_name: str, output: Any, mask: torch.Tensor) -> torch.Tensor:
    """The loss (both losses of two heads); without one, a fixed weighting of the outputs at real tokens.

    The loss of question answering is a softmax over all positions, padding included; so under left padding, where the
    libraries differ at padding, its logits at real tokens are weighted instead.
    """
    left_padded = not bool(mask[..., 0].all())
    if class_name == "GPT2DoubleHeadsModel":
        both: torch.Tensor = output.loss + 0.5 * output.mc_loss
        return both
    if class_name == "GPT2Model" or (class_name == "GPT2ForQuestionAnswering" and left_padded):
        total = torch.zeros(())
        for value in (value[mask.bool()] for name, value in output.items() if name in PER_TOKEN):
            total = total + (value * torch.linspace(-1, 1, value.numel(), dtype=value.dtype).reshape(value.shape)).sum()
        return total
    loss: torch.Tensor = output.loss
    return loss
