"""Mistakes in BERT's heads and losses. See bert_faults.py."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from minitf.losses import IGNORED
from minitf.parity.faults.injecting import Changes, Fault, named, replaced, wrapped
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


def pooler(model: Any) -> list[Any]:
    return named(model.base_model, "pooler")


def transform(model: Any) -> list[Any]:
    return named(model, "cls.predictions.transform")


# --------------------------------------------------------------------------------------------------------------------
# Heads


@fault(
    "pooler-left-out",
    "the first token's hidden state is used as it is",
    "pooler_output = tanh(pooler.dense(first token))",
    needs="a pooler",
)
def _(model: Any) -> Changes:
    for module in pooler(model):
        yield wrapped(module, "forward", lambda pool, hidden: hidden[:, 0])


@fault(
    "pooler-without-tanh",
    "the pooler is a dense layer without activation",
    "pooler_output = tanh(pooler.dense(first token))",
    needs="a pooler",
)
def _(model: Any) -> Changes:
    for module in pooler(model):
        yield replaced(module, "activation", nn.Identity())


@fault(
    "pooler-of-the-last-token",
    "the pooler reads the last position, as a classifier on GPT-2 does",
    "it reads the first one, [CLS]",
    needs="a pooler",
)
def _(model: Any) -> Changes:
    for module in pooler(model):
        yield wrapped(module, "forward", lambda pool, hidden: pool(hidden[:, -1:]))


@fault(
    "pooler-of-the-mean",
    "the pooler reads the mean of all positions",
    "it reads the first one, [CLS]; mean pooling is something that users do with last_hidden_state",
    needs="a pooler",
)
def _(model: Any) -> Changes:
    for module in pooler(model):
        yield wrapped(module, "forward", lambda pool, hidden: pool(hidden.mean(1, keepdim=True)))


@fault(
    "gelu-of-the-transform-missing",
    "the dense layer before the word scores has no activation",
    "transform: dense, activation, LayerNorm",
    needs="a head that scores words",
)
def _(model: Any) -> Changes:
    for module in transform(model):
        yield replaced(module, "transform_act_fn", nn.Identity())


@fault(
    "layernorm-of-the-transform-skipped",
    "the LayerNorm before the word scores is skipped",
    "transform: dense, activation, LayerNorm",
    needs="a head that scores words",
)
def _(model: Any) -> Changes:
    for module in transform(model):
        yield replaced(module, "LayerNorm", nn.Identity())


@fault(
    "prediction-bias-dropped",
    "the word scores have no bias",
    "load cls.predictions.bias: it is the decoder's bias",
    needs="a head that scores words",
)
def _(model: Any) -> Changes:
    for decoder in named(model, "cls.predictions.decoder"):
        yield replaced(decoder, "bias", None)


@fault(
    "decoder-untied",
    "the matrix that scores the words is newly initialised instead of being the word embeddings",
    "tie cls.predictions.decoder.weight to the word embeddings; most checkpoints do not store it",
    needs="a head that scores words",
)
def _(model: Any) -> Changes:
    for decoder in named(model, "cls.predictions.decoder"):
        yield replaced(decoder, "weight", newly_initialised(decoder))


# --------------------------------------------------------------------------------------------------------------------
# Losses


WORDS = ("BertForMaskedLM", "BertForPreTraining")


@fault(
    "loss-averaged-over-all-positions",
    "the loss is divided by the number of positions instead of the number of scored ones",
    "cross-entropy with ignore_index=-100 and the mean over what is left",
    needs="a masked-word loss with labels of -100",
)
def _(model: Any) -> Changes:
    return loss_replaced(model, "masked_language_model_loss", averaged_over_all_positions, *WORDS)


@fault(
    "ignored-labels-scored",
    "labels of -100 are scored (as the token 0)",
    "leave labels of -100 out of the cross-entropy: ignore_index=-100",
    needs="a masked-word loss with labels of -100",
)
def _(model: Any) -> Changes:
    return loss_replaced(model, "masked_language_model_loss", ignored_labels_scored, *WORDS)


@fault(
    "masked-words-shifted",
    "the labels of the masked words are shifted by one, as those of a left-to-right model",
    "a masked word is predicted at its own position; only BertLMHeadModel shifts",
    needs="a masked-word loss",
)
def _(model: Any) -> Changes:
    def around(loss: Any, logits: Tensor, labels: Tensor) -> Tensor:
        return loss(logits[:, :-1], labels[:, 1:])

    return loss_replaced(model, "masked_language_model_loss", around, *WORDS)


@fault(
    "label-shift-missing",
    "the left-to-right loss scores position t against the token at t",
    "the model shifts: logits at t against the label at t + 1",
    needs="a left-to-right loss",
)
def _(model: Any) -> Changes:
    return loss_replaced(model, "causal_language_model_loss", not_shifted, "BertLMHeadModel")


@fault(
    "label-shift-twice",
    "the labels are shifted before they are given to a model that shifts them",
    "give labels = input_ids; the shift happens in the loss and nowhere else",
    needs="a left-to-right loss",
)
def _(model: Any) -> Changes:
    return loss_replaced(model, "causal_language_model_loss", shifted_twice, "BertLMHeadModel")


@fault(
    "next-sentence-labels-inverted",
    "label 1 means that sentence B follows sentence A",
    "0 = B follows A, 1 = B is a random sentence",
    needs="a next-sentence loss",
)
def _(model: Any) -> Changes:
    def around(loss: Any, logits: Tensor, labels: Tensor, *name: str) -> Tensor:
        return loss(logits, torch.where(labels == IGNORED, labels, 1 - labels), *name)

    return loss_replaced(model, "next_sentence_loss", around, "BertForNextSentencePrediction", "BertForPreTraining")


@fault(
    "pretraining-losses-averaged",
    "the loss of BertForPreTraining is the mean of its two losses",
    "it is their sum",
    needs="both pre-training losses",
)
def _(model: Any) -> Changes:
    if type(model).__name__ == "BertForPreTraining":
        for name in ("masked_language_model_loss", "next_sentence_loss"):
            yield from loss_replaced(
                model, name, lambda loss, *given: loss(*given) / 2, "BertForPreTraining"
            )  # halves of both: half of their sum


QUESTIONS = "BertForQuestionAnswering"


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


CLASSIFIER = "BertForSequenceClassification"


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
