"""Mistakes in GPT-2's heads and losses. See gpt2_faults.py."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from minitf.parity.faults.injecting import (
    Changes,
    Fault,
    arguments_changed,
    files_with,
    named,
    replaced,
    while_running,
    wrapped,
)
from minitf.parity.faults.injecting import fault as add_to
from minitf.parity.faults.shared_mistakes import (
    answers_beyond_the_text_scored,
    averaged_over_all_positions,
    ignored_labels_scored,
    loss_replaced,
    newly_initialised,
    not_shifted,
    several_labels_by_softmax,
    shifted_twice,
    squared_error_summed,
)

FAULTS: list[Fault] = []
fault = partial(add_to, FAULTS)

WORDS = ("GPT2LMHeadModel", "GPT2DoubleHeadsModel")
CLASSIFIER = "GPT2ForSequenceClassification"
QUESTIONS = "GPT2ForQuestionAnswering"

# --------------------------------------------------------------------------------------------------------------------
# Words


@fault(
    "lm-head-untied",
    "the matrix that scores the words is newly initialised instead of being the word embeddings",
    "tie lm_head.weight to transformer.wte.weight; most checkpoints do not store it",
    needs="a head that scores words",
)
def _(model: Any) -> Changes:
    for layer in named(model, "lm_head"):
        yield replaced(layer, "weight", newly_initialised(layer))


@fault(
    "label-shift-missing",
    "the loss scores position t against the token at t",
    "the model shifts: logits at t against the label at t + 1",
    needs="a language-model loss",
)
def _(model: Any) -> Changes:
    return loss_replaced(model, "causal_language_model_loss", not_shifted, *WORDS)


@fault(
    "label-shift-twice",
    "the labels are shifted before they are given to a model that shifts them",
    "give labels = input_ids; the shift happens in the loss and nowhere else",
    needs="a language-model loss",
)
def _(model: Any) -> Changes:
    return loss_replaced(model, "causal_language_model_loss", shifted_twice, *WORDS)


@fault(
    "loss-averaged-over-all-positions",
    "the loss is divided by the number of positions instead of the number of scored ones",
    "cross-entropy with ignore_index=-100 and the mean over what is left",
    needs="a language-model loss with labels of -100",
)
def _(model: Any) -> Changes:
    return loss_replaced(model, "causal_language_model_loss", averaged_over_all_positions, *WORDS)


@fault(
    "ignored-labels-scored",
    "labels of -100 are scored (as the token 0)",
    "leave labels of -100 out of the cross-entropy: ignore_index=-100",
    needs="a language-model loss with labels of -100",
)
def _(model: Any) -> Changes:
    return loss_replaced(model, "causal_language_model_loss", ignored_labels_scored, *WORDS)


@fault(
    "logits-of-the-first-positions-kept",
    "logits_to_keep keeps the first positions",
    "it keeps the last ones: the last row is the one that decoding needs",
    needs="logits_to_keep as a number",
)
def _(model: Any) -> Changes:
    def around(kept: Any, hidden_states: Tensor, keep: Any) -> Tensor:
        rows = kept(hidden_states, keep)
        return hidden_states[:, : rows.shape[1]] if isinstance(keep, int) else rows

    if type(model).__name__ == "GPT2LMHeadModel":
        for file in files_with(model, "kept_positions"):
            yield while_running(model, partial(wrapped, file, "kept_positions", around))


# --------------------------------------------------------------------------------------------------------------------
# Two heads


@fault(
    "mc-token-ids-ignored",
    "the second head reads the last position of each choice, whatever mc_token_ids say",
    "it reads the token that mc_token_ids name: the last one before the padding",
    needs="a second head, and padding on the right",
)
def _(model: Any) -> Changes:
    for head in named(model, "multiple_choice_head"):
        yield wrapped(head, "forward", lambda forward, hidden_states, cls_index=None: forward(hidden_states))


@fault(
    "choices-scored-by-the-wrong-row",
    "the batch of choices is unfolded as [N, B] instead of [B, N]",
    "[B, N, T] becomes [B * N, T] and back: the choices of a question stay together",
    needs="a second head",
)
def _(model: Any) -> Changes:
    def around(forward: Any, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        rows, choices, *sizes = hidden_states.shape
        folded = hidden_states.reshape(choices, rows, *sizes).transpose(0, 1)
        return forward(folded, *args, **kwargs)

    for head in named(model, "multiple_choice_head"):
        yield wrapped(head, "forward", around)


# --------------------------------------------------------------------------------------------------------------------
# The token that a classifier reads


def read_at(model: Any, position: Callable[[Tensor, int], Tensor]) -> Changes:
    """The classifier reads `position(ids, padding id)`, `[B, T]` -> `[B]`, whichever token it looks for."""
    ids: list[Tensor | None] = []

    def remember(given: dict[str, Any]) -> None:
        ids[:] = [given["input_ids"]]

    def around(forward: Any, hidden_states: Tensor) -> Tensor:
        logits = forward(hidden_states)  # [B, T, N]
        if ids[0] is None or model.config.pad_token_id is None:
            return logits
        rows = torch.arange(logits.shape[0], device=logits.device)
        return logits[rows, position(ids[0], model.config.pad_token_id)][:, None].expand_as(logits)  # [B, T, N]

    if type(model).__name__ == CLASSIFIER:
        yield arguments_changed(model.base_model, remember)
        yield wrapped(model.score, "forward", around)


@fault(
    "classifier-reads-the-last-position",
    "the classifier reads the last position, padding or not",
    "read the last token that is not config.pad_token_id",
    needs="a sequence classifier, and padding on the right",
)
def _(model: Any) -> Changes:
    return read_at(model, lambda ids, pad: torch.full_like(ids[:, 0], ids.shape[1] - 1))


@fault(
    "classifier-counts-tokens",
    "the classifier reads the position (number of tokens) - 1, as if the padding stood on the right",
    "read the last token that is not config.pad_token_id, on whichever side the padding stands",
    needs="a sequence classifier, and padding on the left",
)
def _(model: Any) -> Changes:
    return read_at(model, lambda ids, pad: (ids != pad).sum(-1) - 1)


@fault(
    "classifier-reads-the-token-before-the-last",
    "the classifier reads one token too early",
    "the last token that is not padding is the only one that has seen the whole text",
    needs="a sequence classifier",
)
def _(model: Any) -> Changes:
    def before(ids: Tensor, pad: int) -> Tensor:
        last = (torch.arange(ids.shape[1]) * (ids != pad)).argmax(-1)
        return (last - 1).clamp(min=0)

    return read_at(model, before)


@fault(
    "classifier-reads-the-first-padding",
    "the classifier reads the first padding token after the text",
    "the position of the first padding token, minus one; or count from the end",
    needs="a sequence classifier, and padding on the right",
)
def _(model: Any) -> Changes:
    return read_at(model, lambda ids, pad: (ids != pad).sum(-1).clamp(max=ids.shape[1] - 1))


@fault(
    "classifier-reads-the-first-token",
    "the classifier reads the first token, as BERT's does",
    "the first token has seen nothing but itself: read the last one",
    needs="a sequence classifier",
)
def _(model: Any) -> Changes:
    return read_at(model, lambda ids, pad: torch.zeros_like(ids[:, 0]))


@fault(
    "squared-error-summed",
    "the regression loss is the sum of the squared errors",
    "it is their mean",
    needs="a regression loss",
)
def _(model: Any) -> Changes:
    return loss_replaced(model, "sequence_classification_loss", squared_error_summed, CLASSIFIER)


@fault(
    "several-labels-by-softmax",
    "several labels for one text are scored by one softmax",
    "one sigmoid and one binary cross-entropy a label",
    needs="a loss with several labels for one text",
)
def _(model: Any) -> Changes:
    return loss_replaced(model, "sequence_classification_loss", several_labels_by_softmax, CLASSIFIER)


# --------------------------------------------------------------------------------------------------------------------
# Token labels, questions


@fault(
    "token-labels-shifted",
    "the labels of the tokens are shifted by one, as those of the language model",
    "a token's label belongs to the same position",
    needs="a token-classification loss",
)
def _(model: Any) -> Changes:
    def around(loss: Any, logits: Tensor, labels: Tensor) -> Tensor:
        return loss(logits[:, :-1], labels[:, 1:])

    return loss_replaced(model, "token_classification_loss", around, "GPT2ForTokenClassification")


@fault(
    "answers-beyond-the-text-scored",
    "an answer that lies beyond the text is scored at the last token",
    "clamp positions to the length, and ignore the length",
    needs="an answer beyond the text",
)
def _(model: Any) -> Changes:
    return loss_replaced(model, "question_answering_loss", answers_beyond_the_text_scored, QUESTIONS)


@fault(
    "answer-losses-summed",
    "the losses of start and end are added",
    "the loss is their mean",
    needs="a question-answering loss",
)
def _(model: Any) -> Changes:
    return loss_replaced(model, "question_answering_loss", lambda loss, *given: 2 * loss(*given), QUESTIONS)


@fault(
    "answer-start-and-end-exchanged",
    "the first column of the scores is taken for the end",
    "column 0 of qa_outputs is the start, column 1 the end",
    needs="a question-answering model",
)
def _(model: Any) -> Changes:
    for layer in named(model, "qa_outputs"):
        yield wrapped(layer, "forward", lambda forward, x: forward(x).flip(-1))
