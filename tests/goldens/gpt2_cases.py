"""The golden cases of GPT-2: what transformers 5.x dropped or changed, and 4.49.0 still computes.

Every batch is padded, on the right in one half of the cases and on the left in the other. Names say what differs.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tests.goldens.bert_cases import HEAD_MASKS, PRUNINGS, SIDES
from tests.goldens.bert_runs import Case

CROSS: dict[str, Any] = {"add_cross_attention": True}
ATTENTIONS: dict[str, Any] = {"output_attentions": True}
CACHED: dict[str, Any] = {"use_cache": True}


def head_mask_cases() -> Iterator[Case]:
    """Factors on the probabilities of each head; 5.x has no such argument."""
    for number, (form, mask) in enumerate(HEAD_MASKS.items()):
        inputs = {"padding": SIDES[number % 2], "head_mask": mask}
        yield Case(
            f"head_mask {form} trunk",
            "head_mask",
            "outputs, attention probabilities (they carry the factor), gradient with respect to the mask",
            "GPT2Model",
            "forward",
            {},
            {**inputs, "flags": ATTENTIONS},
            {"backward": True},
        )
        yield Case(
            f"head_mask {form} language model",
            "head_mask",
            "loss, logits, gradient of the loss with respect to the mask (head importance, arXiv:1905.10650)",
            "GPT2LMHeadModel",
            "forward",
            {},
            {**inputs, "labels": ["next_token"]},
            {"backward": True, "keep": ["loss"] if number % 2 else ["loss", "logits"]},
        )
    mask = HEAD_MASKS["[L, H] fractional"]
    further: dict[str, tuple[str, dict[str, Any], dict[str, Any], dict[str, Any]]] = {
        # name: class, config, inputs, options
        "cross-attention": ("GPT2Model", CROSS, {"padding": "left", "encoder": True, "flags": ATTENTIONS}, {}),
        "two heads": (
            "GPT2DoubleHeadsModel",
            {},
            {"padding": "right", "choices": 2},
            {"keep": ["mc_loss", "mc_logits"]},
        ),
        "classifier": (
            "GPT2ForSequenceClassification",
            {"num_labels": 3},
            {"padding": "right", "labels": ["class"]},
            {},
        ),
        "tagger": ("GPT2ForTokenClassification", {"num_labels": 4}, {"padding": "left", "labels": ["tags"]}, {}),
        "question answering": ("GPT2ForQuestionAnswering", {}, {"padding": "right", "labels": ["span"]}, {}),
        "scaled by layer": ("GPT2Model", {"scale_attn_by_inverse_layer_idx": True}, {"padding": "right"}, {}),
        "not scaled": ("GPT2Model", {"scale_attn_weights": False}, {"padding": "left"}, {}),
        "upcast": ("GPT2Model", {"reorder_and_upcast_attn": True}, {"padding": "left"}, {}),
        "float64": ("GPT2Model", {}, {"padding": "left"}, {"dtype": "float64"}),
        "heads of 8": (
            "GPT2Model",
            {"n_head": 4},
            {"padding": "right", "head_mask": [0.5, 1.0, 0.0, 1.5]},
            {"rounded": True},
        ),
    }
    for name, (model, config, inputs, options) in further.items():
        yield Case(
            f"head_mask {name}",
            "head_mask",
            "in another class, or with another setting",
            model,
            "forward",
            config,
            {"head_mask": mask, **inputs},
            {"backward": True, **options},
        )
    for side in SIDES:
        yield Case(
            f"no head_mask {side}",
            "head_mask",
            "the same trunk without a mask: what the cases above must differ from",
            "GPT2Model",
            "forward",
            {},
            {"padding": side},
            {"backward": True},
        )


def pruning_cases() -> Iterator[Case]:
    """Heads cut out of the matrices, numbered as in the unpruned model; gone from 5.x."""
    wide = {"n_embd": 64, "n_head": 4}
    for number, (name, steps) in enumerate(PRUNINGS.items()):
        yield Case(
            f"prune {name}", "pruning", "four heads of 16", "GPT2Model", "pruned", wide,
            {"padding": SIDES[number % 2]}, {"prune": steps},
        )  # fmt: skip
    steps = PRUNINGS["cumulative, the same layer"]
    further: dict[str, tuple[str, dict[str, Any], dict[str, Any], dict[str, Any]]] = {
        "heads of 8": ("GPT2Model", {"n_head": 4}, {"padding": "left"}, {"rounded": True}),
        "language model": ("GPT2LMHeadModel", wide, {"padding": "right"}, {}),
        "classifier": ("GPT2ForSequenceClassification", {**wide, "num_labels": 3}, {"padding": "right"}, {}),
    }
    for name, (model, config, inputs, options) in further.items():
        yield Case(
            f"prune {name}", "pruning", "in another class, or of another size", model, "pruned", config, inputs,
            {"prune": steps, **options},
        )  # fmt: skip


TUPLES: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    # name: class, config, inputs
    "GPT2Model": ("GPT2Model", CACHED, {}),
    "GPT2Model without cache": ("GPT2Model", {}, {}),
    "GPT2Model cross-attention": ("GPT2Model", {**CACHED, **CROSS}, {"encoder": True}),
    "GPT2LMHeadModel": ("GPT2LMHeadModel", CACHED, {"labels": ["next_token"]}),
    "GPT2LMHeadModel without labels": ("GPT2LMHeadModel", CACHED, {}),
    "GPT2LMHeadModel cross-attention": ("GPT2LMHeadModel", {**CACHED, **CROSS}, {"encoder": True}),
    "GPT2DoubleHeadsModel": (
        "GPT2DoubleHeadsModel",
        CACHED,
        {"padding": "right", "choices": 2, "labels": ["next_token"]},
    ),
    "GPT2ForSequenceClassification": (
        "GPT2ForSequenceClassification",
        {**CACHED, "num_labels": 3},
        {"labels": ["class"]},
    ),
    "GPT2ForTokenClassification": ("GPT2ForTokenClassification", {**CACHED, "num_labels": 4}, {"labels": ["tags"]}),
    "GPT2ForQuestionAnswering": ("GPT2ForQuestionAnswering", {}, {"padding": "right", "labels": ["span"]}),
}


def tuple_cases() -> Iterator[Case]:
    """`return_dict=False`, with hidden states and attentions."""
    for number, (name, (model, config, inputs)) in enumerate(TUPLES.items()):
        yield Case(
            f"tuple {name}", "tuples", "order, kinds and shapes of the plain tuple; loss and logits", model, "tuple",
            config, {"padding": SIDES[number % 2], **inputs},
        )  # fmt: skip


CASES: tuple[Case, ...] = (*head_mask_cases(), *pruning_cases(), *tuple_cases())
