"""The losses of the task heads, each a function of logits and labels; what the models call, importable on their own.

Everywhere a label of -100 means "not scored". If nothing is scored the mean is over nothing: the loss is NaN, as torch
and transformers have it, and one warning says so.

Dimension letters: B batch, T positions, V vocabulary, N labels or choices.
"""

from __future__ import annotations

import logging

import torch
import torch.nn.functional as F
from torch import Tensor

from minitf.checks import tracing

__all__ = [
    "IGNORED",
    "causal_language_model_loss",
    "masked_language_model_loss",
    "multiple_choice_loss",
    "next_sentence_loss",
    "question_answering_loss",
    "sequence_classification_loss",
    "token_classification_loss",
]

IGNORED = -100
"""The label that is not scored: torch's default `ignore_index`."""

logger = logging.getLogger("minitf.losses")


def masked_language_model_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy at the masked positions; nothing is shifted: position t predicts the token that stood at t.

        input     the  [MASK]  sat   [MASK]
        labels   -100   cat   -100    down
        scored           x             x

    Args:
        logits: `[B, T, V]`.
        labels: `[B, T]`, the original ids at the scored positions, -100 elsewhere.

    Returns:
        The mean over the scored positions, a scalar.
    """
    check_labels(labels, logits.shape[:-1], logits.shape[-1], "labels", ignored=IGNORED)
    return F.cross_entropy(logits.reshape(-1, logits.shape[-1]), labels.reshape(-1).long(), ignore_index=IGNORED)


def causal_language_model_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of the next token. The labels are the inputs; the shift happens here and nowhere else.

        input     the   cat   sat   down
        labels    the   cat   sat   down
        predicts  cat   sat   down   -        the logits at t are scored against the label at t + 1

    The last position predicts nothing, and the first label is never a target; a single position has nothing to predict,
    so its loss is NaN, with a warning. Half precision is summed in float32.

    Args:
        logits: `[B, T, V]`, or `[B, N, T, V]` of N choices.
        labels: `[B, T]` or `[B, N, T]`, usually `input_ids` with -100 at the padding; every token counts, the prompt's
            too.

    Returns:
        The mean over the scored positions, a scalar.
    """
    single = logits.shape[-2] == 1
    check_labels(labels, logits.shape[:-1], logits.shape[-1], "labels", ignored=IGNORED, from_column=1, warn=not single)
    if single and not tracing():
        logger.warning("labels: nothing to predict: one position has no next one, so the loss is NaN.")
    if logits.dtype in (torch.float16, torch.bfloat16):
        logits = logits.float()
    if logits.dim() == 4:
        # transformers cuts the last position off here and ignores it below; a mean over other rows rounds otherwise.
        logits, targets = logits[..., :-1, :], labels[..., 1:].long()  # [B, N, T - 1, V], [B, N, T - 1]
    else:
        # The labels move left and the last column becomes -100: no copy of the logits without their last row.
        targets = F.pad(labels.long(), (0, 1), value=IGNORED)[:, 1:]  # [B, T]
    return F.cross_entropy(logits.reshape(-1, logits.shape[-1]), targets.reshape(-1), ignore_index=IGNORED)


def next_sentence_loss(logits: Tensor, labels: Tensor, name: str = "labels") -> Tensor:
    """Cross-entropy of "does sentence B follow sentence A": label 0 = it does, 1 = it is a random sentence.

        input     cats  purr  they  sleep       labels 0    B goes on from A
        input     cats  purr  banks open        labels 1    B is from elsewhere
        sentence  A     A     B     B

    Args:
        logits: `[B, 2]`. labels: `[B]` or `[B, 1]`, 0, 1 or -100.
        name: what the caller's argument is called, for errors.
    """
    labels = without_column(labels, name)
    check_labels(labels, logits.shape[:1], 2, name, ignored=IGNORED)
    return F.cross_entropy(logits, labels.long(), ignore_index=IGNORED)


def token_classification_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of one label a token.

        input    [CLS]   Ada   codes  [SEP]
        labels   -100     1      0    -100        1 = name, 0 = other

    Args:
        logits: `[B, T, N]`. labels: `[B, T]`, 0 ... N - 1 or -100.
    """
    check_labels(labels, logits.shape[:-1], logits.shape[-1], "labels", ignored=IGNORED)
    return F.cross_entropy(logits.reshape(-1, logits.shape[-1]), labels.reshape(-1).long(), ignore_index=IGNORED)


def sequence_classification_loss(logits: Tensor, labels: Tensor, problem_type: str | None = None) -> Tensor:
    """The loss of a label (or several, or a number) for the whole sequence, by problem type.

        input    a   good   film  [SEP]

        problem_type                   labels           loss
        single_label_classification    1                cross-entropy
        multi_label_classification     [1., 0., 1.]     one binary cross-entropy a label
        regression                     0.8              mean squared error

    Without `problem_type` it follows from the labels: one logit means regression, integer labels mean one label of N,
    floating-point labels mean several labels of N.

    Args:
        logits: `[B, N]`.
        labels: `[B]` integers; or `[B]` numbers (N = 1), `[B, N]` numbers (regression); or `[B, N]` of 0 to 1.
        problem_type: one of the three names above; None = inferred.

    Raises:
        ValueError, TypeError: labels of another shape, kind or range.
    """
    count = logits.shape[-1]
    check_is_tensor(labels, "labels")
    if problem_type is None:
        several = "multi_label_classification" if labels.is_floating_point() else "single_label_classification"
        problem_type = "regression" if count == 1 else several
    if problem_type == "single_label_classification":
        labels = without_column(labels, "labels")
        check_labels(labels, logits.shape[:1], count, "labels", ignored=IGNORED)
        return F.cross_entropy(logits, labels.long(), ignore_index=IGNORED)
    if labels.dim() == 1 and count == 1:
        labels = labels[:, None]  # [B, 1]
    if labels.shape != logits.shape:
        raise ValueError(
            f"labels have the shape {list(labels.shape)}, but problem_type {problem_type!r} with {count} labels needs "
            f"{list(logits.shape)}."
        )
    if not labels.is_floating_point():
        labels = labels.to(logits.dtype)  # [B, N]; whole numbers lose nothing
    if problem_type == "regression":
        check_values(labels, float("-inf"), float("inf"), "expected a finite number")
        return F.mse_loss(logits, labels)
    if problem_type == "multi_label_classification":
        check_values(labels, 0.0, 1.0, "expected 1 (the label holds), 0 (it does not) or a probability between them")
        return F.binary_cross_entropy_with_logits(logits, labels)
    raise ValueError(
        f"problem_type = {problem_type!r}: expected 'regression', 'single_label_classification' or "
        "'multi_label_classification'."
    )


def multiple_choice_loss(logits: Tensor, labels: Tensor, name: str = "labels") -> Tensor:
    """Cross-entropy over the choices of a question: each choice got one score.

        choice 0    who   purrs  [SEP]  dogs       score -1.3
        choice 1    who   purrs  [SEP]  cats       score  2.4      labels 1
        choice 2    who   purrs  [SEP]  fish       score  0.2

    Args:
        logits: `[B, N]`, the score of each choice. labels: `[B]`, the right choice, or -100.
        name: what the caller's argument is called, for errors.
    """
    check_labels(labels, logits.shape[:1], logits.shape[1], name, ignored=IGNORED)
    return F.cross_entropy(logits, labels.long(), ignore_index=IGNORED)


def question_answering_loss(
    start_logits: Tensor, end_logits: Tensor, start_positions: Tensor, end_positions: Tensor
) -> Tensor:
    """Mean of two cross-entropies: where the answer starts and where it ends.

        context   the   cat   sat   down        question: who sat?
        start            x                      start_positions 1
        end              x                      end_positions   1

    A position at or beyond T is clamped to T, which is the ignored index: an answer that was truncated away is not
    scored. A negative position is clamped to 0, the first token ([CLS]: "no answer"), with a warning, because other
    losses ignore -100.

    Args:
        start_logits, end_logits: `[B, T]`. start_positions, end_positions: `[B]` or `[B, 1]`, integers.
    """
    length = start_logits.shape[1]
    losses = []
    unscored = False
    for name, logits, positions in (
        ("start_positions", start_logits, start_positions),
        ("end_positions", end_logits, end_positions),
    ):
        positions = without_column(positions, name)
        check_is_integer(positions, name)
        if not tracing() and bool((positions < 0).any()):
            logger.warning("%s: a negative position is scored as 0, the first token; -100 ignores nothing here.", name)
        positions = positions.clamp(0, length)  # [B]
        # An answer that is cut off has lost both its ends: one warning is enough.
        unscored = check_labels(positions, logits.shape[:1], length, name, ignored=length, warn=not unscored)
        losses.append(F.cross_entropy(logits, positions.long(), ignore_index=length))
    return (losses[0] + losses[1]) / 2


def without_column(labels: Tensor, name: str) -> Tensor:
    """`[B, 1]` -> `[B]`: a column of labels, as data sets often have them. Other shapes stay."""
    check_is_tensor(labels, name)
    return labels.reshape(-1) if labels.dim() == 2 and labels.shape[1] == 1 else labels


def check_is_tensor(labels: Tensor, name: str) -> None:
    """Raises TypeError for a list or an array."""
    if not isinstance(labels, Tensor):
        raise TypeError(f"{name} is a {type(labels).__name__}; expected a tensor (torch.tensor(labels)).")


def check_is_integer(labels: Tensor, name: str) -> None:
    """Raises TypeError for what is no int64 or int32 tensor."""
    check_is_tensor(labels, name)
    if labels.dtype not in (torch.int64, torch.int32):
        raise TypeError(f"{name} has dtype {labels.dtype}; expected class numbers as torch.int64 or torch.int32.")


def check_values(labels: Tensor, low: float, high: float, expected: str) -> None:
    """Floating-point labels are finite and in `low ... high`.

    Raises:
        ValueError: one is not; the message says which.
    """
    if tracing():
        return
    wrong = ~(torch.isfinite(labels) & (labels >= low) & (labels <= high))
    if bool(wrong.any()):
        place = wrong.nonzero()[0].tolist()
        raise ValueError(f"labels{place} = {labels[tuple(place)].item():g}; {expected}.")


def check_labels(
    labels: Tensor,
    shape: torch.Size,
    count: int,
    name: str,
    *,
    ignored: int,
    from_column: int = 0,
    warn: bool = True,
) -> bool:
    """Integer labels of the right shape in `0 ... count - 1`, or `ignored`; a warning if none of them is scored.

    Returns:
        Whether none of them is scored; False while torch records a graph, when values are not read.

    Raises:
        TypeError: not an int64 or int32 tensor. ValueError: another shape, or a label out of range (the message says
            where).
    """
    check_is_integer(labels, name)
    if labels.shape != shape:
        raise ValueError(f"{name} has the shape {list(labels.shape)}; the logits need {list(shape)}.")
    if tracing():
        return False
    wrong = ((labels < 0) | (labels >= count)) & (labels != ignored)
    if bool(wrong.any()):
        place = wrong.nonzero()[0].tolist()
        value = int(labels[tuple(place)])
        raise ValueError(f"{name}{place} = {value}; expected 0 to {count - 1}, or {ignored} for a position not scored.")
    unscored = bool((labels[..., from_column:] == ignored).all())
    if unscored and warn:
        logger.warning("%s: every label is %d (not scored), so the loss is a mean over nothing: NaN.", name, ignored)
    return unscored
