"""Every loss: values and gradients by hand in float64, what is not scored, warnings, dtypes, and the pictures."""

from __future__ import annotations

import inspect
import itertools
import math
import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers.loss.loss_utils import ForCausalLMLoss

from minitf import losses
from tests.support import random_value


def log_softmax(logits: np.ndarray) -> np.ndarray:
    largest = logits.max(-1, keepdims=True)
    shifted: np.ndarray = logits - largest
    result: np.ndarray = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
    return result


def cross_entropy(logits: np.ndarray, labels: np.ndarray) -> tuple[float, np.ndarray]:
    """The mean over the rows whose label is not -100, and its gradient, in a loop over rows."""
    rows, wanted = logits.reshape(-1, logits.shape[-1]), labels.reshape(-1)
    scored = [row for row in range(len(wanted)) if wanted[row] != -100]
    gradient = np.zeros_like(rows)
    total = 0.0
    for row in scored:
        logs = log_softmax(rows[row])
        total -= logs[wanted[row]]
        gradient[row] = np.exp(logs) / len(scored)
        gradient[row, wanted[row]] -= 1 / len(scored)
    return total / len(scored), gradient.reshape(logits.shape)


def logits_of(*shape: int, scale: float = 12.0) -> np.ndarray:
    return scale * random_value("logits", shape)


def assert_is(loss: Tensor, logits: Tensor, expected: tuple[float, np.ndarray]) -> None:
    """Value and gradient, to the last digits of float64."""
    assert loss.dtype == torch.float64
    assert loss.shape == ()
    loss.backward()
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()
    assert loss.item() == pytest.approx(expected[0], rel=1e-13)
    np.testing.assert_allclose(logits.grad.numpy(), expected[1], rtol=0, atol=1e-14)


def warnings_in(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == "minitf.losses"]


# ------------------------------------------------------------------------------------------- by hand, label by label

# loss, shape of the logits, labels (of which some are not scored)
CLASS_NUMBERS: dict[str, tuple[Callable[[Tensor, Tensor], Tensor], tuple[int, ...], list[Any]]] = {
    "masked words": (losses.masked_language_model_loss, (2, 4, 5), [[-100, 1, -100, 3], [-100, -100, 0, 4]]),
    "tokens": (losses.token_classification_loss, (2, 4, 3), [[-100, 1, 0, -100], [2, 2, -100, -100]]),
    "next sentence": (losses.next_sentence_loss, (4, 2), [0, 1, -100, 1]),
    "next sentence, a column": (losses.next_sentence_loss, (4, 2), [[0], [1], [-100], [1]]),
    "choices": (losses.multiple_choice_loss, (3, 4), [2, -100, 0]),
    "sequences": (losses.sequence_classification_loss, (4, 3), [1, -100, 0, 2]),
    "sequences, a column": (losses.sequence_classification_loss, (4, 3), [[1], [-100], [0], [2]]),
}


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32])
@pytest.mark.parametrize("kind", CLASS_NUMBERS)
def test_class_numbers_by_hand(kind: str, dtype: torch.dtype, caplog: pytest.LogCaptureFixture) -> None:
    function, shape, labels = CLASS_NUMBERS[kind]
    values = logits_of(*shape)
    logits = torch.from_numpy(values).requires_grad_()
    loss = function(logits, torch.tensor(labels, dtype=dtype))
    assert_is(loss, logits, cross_entropy(values, np.array(labels)))
    assert warnings_in(caplog) == []


@pytest.mark.parametrize("kind", CLASS_NUMBERS)
def test_what_is_not_scored_has_no_part_in_it(kind: str) -> None:
    """Neither in the value nor in the gradient, whatever the logits there say."""
    function, shape, labels = CLASS_NUMBERS[kind]
    ignored = torch.tensor(labels).reshape(shape[:-1]) == -100
    one, other = (torch.from_numpy(logits_of(*shape)).requires_grad_() for _ in range(2))
    with torch.no_grad():
        other[ignored] += torch.linspace(-1e4, 1e4, shape[-1], dtype=torch.float64)
    results = [function(logits, torch.tensor(labels)) for logits in (one, other)]
    assert torch.equal(*results)
    results[1].backward()
    assert other.grad is not None
    assert other.grad[ignored].abs().max() == 0
    assert bool((other.grad[~ignored].abs().amax(-1) > 0).all())


@pytest.mark.parametrize("kind", [*CLASS_NUMBERS, "next word"])
def test_nothing_scored_is_nan_with_one_warning(kind: str, caplog: pytest.LogCaptureFixture) -> None:
    cases = {**CLASS_NUMBERS, "next word": (losses.causal_language_model_loss, (2, 4, 5), [[3, -100, -100, -100]] * 2)}
    function, shape, labels = cases[kind]
    given = torch.tensor(labels)
    given = given if kind == "next word" else torch.full_like(given, -100)  # the first label is never a target
    assert torch.isnan(function(torch.from_numpy(logits_of(*shape)), given))
    assert warnings_in(caplog) == ["labels: every label is -100 (not scored), so the loss is a mean over nothing: NaN."]


@pytest.mark.parametrize("kind", CLASS_NUMBERS)
def test_one_scored_label_is_enough(kind: str, caplog: pytest.LogCaptureFixture) -> None:
    function, shape, labels = CLASS_NUMBERS[kind]
    given = torch.full_like(torch.tensor(labels), -100)
    given.view(-1)[-1] = 1
    values = logits_of(*shape)
    logits = torch.from_numpy(values).requires_grad_()
    assert_is(function(logits, given), logits, cross_entropy(values, given.numpy()))
    assert warnings_in(caplog) == []


@pytest.mark.parametrize("kind", CLASS_NUMBERS)
def test_other_labels_are_refused_by_place_and_value(kind: str) -> None:
    function, shape, labels = CLASS_NUMBERS[kind]
    logits = torch.from_numpy(logits_of(*shape))
    for value in (-1, -99, -101, shape[-1]):
        wrong = torch.tensor(labels)
        wrong.view(-1)[1] = value
        expected = rf"labels\[[0-9, ]+\] = {value}; expected 0 to {shape[-1] - 1}, or -100"
        with pytest.raises(ValueError, match=expected):
            function(logits, wrong)
    with pytest.raises(ValueError, match=r"labels has the shape"):
        function(logits, torch.zeros(shape[0] + 1, dtype=torch.long))
    with pytest.raises(TypeError, match=r"labels is a list"):
        function(logits, labels)  # type: ignore[arg-type]


# ------------------------------------------------------------------------------------------------------ the next word

TEXT = [[3, 1, 4, 1, 0], [2, 0, 3, -100, -100]]


def next_words(labels: Sequence[Any]) -> np.ndarray:
    shifted = np.full_like(np.array(labels), -100)
    shifted[..., :-1] = np.array(labels)[..., 1:]
    return shifted


@pytest.mark.parametrize("choices", [False, True], ids=["[B, T]", "[B, N, T]"])
def test_next_words_by_hand(choices: bool, caplog: pytest.LogCaptureFixture) -> None:
    labels = [TEXT, TEXT[::-1], TEXT] if choices else TEXT
    values = logits_of(*np.array(labels).shape, 5)
    logits = torch.from_numpy(values).requires_grad_()
    assert_is(
        losses.causal_language_model_loss(logits, torch.tensor(labels)),
        logits,
        cross_entropy(values, next_words(labels)),
    )
    assert warnings_in(caplog) == []


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_next_words_are_summed_in_float32(dtype: torch.dtype) -> None:
    """Equal to the oracle's loss and gradient, bit for bit, and not what the logits' own dtype would give."""
    labels = torch.from_numpy(np.random.default_rng(0).integers(0, 50, (3, 40)))
    labels[1, 20:] = -100
    values = torch.from_numpy(logits_of(3, 40, 50)).to(dtype)
    ours, theirs = values.clone().requires_grad_(), values.clone().requires_grad_()
    loss = losses.causal_language_model_loss(ours, labels)
    expected = ForCausalLMLoss(theirs, labels, vocab_size=50)
    assert loss.dtype == expected.dtype == torch.float32
    assert torch.equal(loss, expected)
    loss.backward()
    expected.backward()
    assert ours.grad is not None
    assert theirs.grad is not None
    assert ours.grad.dtype == dtype
    assert torch.equal(ours.grad, theirs.grad)
    exact, _ = cross_entropy(values.double().numpy(), next_words(labels.tolist()))
    assert loss.item() == pytest.approx(exact, rel=1e-6)
    if dtype != torch.float32:
        targets = torch.from_numpy(next_words(labels.tolist()))
        own = torch.nn.functional.cross_entropy(values.reshape(-1, 50), targets.reshape(-1))
        assert abs(own.item() - exact) > 1e-5


def test_next_words_in_float64_stay_there() -> None:
    """Unlike the oracle, which rounds to float32."""
    values = logits_of(2, 5, 5)
    logits = torch.from_numpy(values)
    loss = losses.causal_language_model_loss(logits, torch.tensor(TEXT))
    exact, _ = cross_entropy(values, next_words(TEXT))
    assert loss.dtype == torch.float64
    assert loss.item() == pytest.approx(exact, rel=1e-14)
    oracle = ForCausalLMLoss(logits, torch.tensor(TEXT), vocab_size=5)
    assert oracle.dtype == torch.float32
    assert oracle.item() != loss.item()


@pytest.mark.parametrize("label", [1, -100])
def test_one_position_has_no_next_word(label: int, caplog: pytest.LogCaptureFixture) -> None:
    for shape in ((2, 1), (2, 3, 1)):
        caplog.clear()
        loss = losses.causal_language_model_loss(torch.zeros(*shape, 5), torch.full(shape, label))
        assert torch.isnan(loss)
        assert warnings_in(caplog) == ["labels: nothing to predict: one position has no next one, so the loss is NaN."]


def test_a_first_label_is_never_a_target_but_must_be_a_label() -> None:
    logits = torch.from_numpy(logits_of(2, 5, 5))
    results = []
    for first in (0, 3, -100):
        labels = torch.tensor(TEXT)
        labels[:, 0] = first
        results.append(losses.causal_language_model_loss(logits, labels))
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])
    with pytest.raises(ValueError, match=r"labels\[0, 0\] = 5; expected 0 to 4, or -100"):
        losses.causal_language_model_loss(logits, torch.tensor([[5, *TEXT[0][1:]], TEXT[1]]))


# ------------------------------------------------------------------------------------------- sequences by problem type


def squared(logits: np.ndarray, labels: np.ndarray) -> tuple[float, np.ndarray]:
    difference = logits - labels.reshape(logits.shape)
    return float(sum(value * value for value in difference.flat) / difference.size), 2 * difference / difference.size


def binary(logits: np.ndarray, labels: np.ndarray) -> tuple[float, np.ndarray]:
    chance = 1 / (1 + np.exp(-logits))
    each = -(labels * np.log(chance) + (1 - labels) * np.log(1 - chance))
    return float(each.sum() / each.size), (chance - labels) / each.size


SEVERAL = [[1.0, 0.0, 1.0], [0.0, 0.25, 1.0], [0.0, 0.0, 0.0]]
# problem type, does it also follow from the labels?, number of logits, labels, by hand
PROBLEMS: list[tuple[str, bool, int, list[Any], Any]] = [
    ("regression", True, 1, [0.8, -1.5, 3.0], squared),
    ("regression", True, 1, [[0.8], [-1.5], [3.0]], squared),
    ("regression", True, 1, [1, 0, 3], squared),
    ("regression", False, 3, [[0.8, 2.0, -1.0], [0.0, 0.5, 1.5], [9.0, 0.1, 0.2]], squared),
    ("single_label_classification", True, 3, [2, -100, 0], cross_entropy),
    ("multi_label_classification", True, 3, SEVERAL, binary),
    ("multi_label_classification", False, 3, [[1, 0, 1], [0, 0, 1], [0, 0, 0]], binary),
    ("multi_label_classification", False, 1, [1.0, 0.0, 0.5], lambda x, y: binary(x, y[:, None])),
]


@pytest.mark.parametrize(("problem_type", "follows", "count", "labels", "by_hand"), PROBLEMS)
def test_problem_types_by_hand(problem_type: str, follows: bool, count: int, labels: list[Any], by_hand: Any) -> None:
    values = logits_of(3, count, scale=6.0)
    given = (
        torch.tensor(labels, dtype=torch.float64) if isinstance(np.ravel(labels)[0], float) else torch.tensor(labels)
    )
    expected = by_hand(values, given.numpy())
    for asked in (problem_type, *([None] if follows else [])):
        logits = torch.from_numpy(values).requires_grad_()
        assert_is(losses.sequence_classification_loss(logits, given, asked), logits, expected)


def test_refusals_by_problem_type() -> None:
    logits = torch.zeros(3, 3)
    refused: list[tuple[Any, str | None, str]] = [
        (torch.tensor([0.0, 1.0, 0.0]), None, r"labels have the shape \[3\].*needs \[3, 3\]"),
        (torch.full((3, 3), -100.0), None, r"labels\[0, 0\] = -100; expected 1 \(the label holds\)"),
        (torch.full((3, 3), 1.5), "multi_label_classification", r"labels\[0, 0\] = 1.5; expected 1"),
        (torch.full((3, 3), math.nan), "regression", r"labels\[0, 0\] = nan; expected a finite number"),
        (torch.full((3, 3), math.inf), "regression", r"labels\[0, 0\] = inf; expected a finite number"),
        (torch.zeros(3, 3), "several", r"problem_type = 'several': expected 'regression'"),
    ]
    for labels, problem_type, message in refused:
        with pytest.raises(ValueError, match=message):
            losses.sequence_classification_loss(logits, labels, problem_type)
    with pytest.raises(TypeError, match=r"labels has dtype torch.float32"):
        losses.sequence_classification_loss(logits, torch.zeros(3), "single_label_classification")


# ---------------------------------------------------------------------------------------------------------- questions


def answers(values: np.ndarray, positions: Sequence[int]) -> tuple[float, np.ndarray]:
    """Of logits [B, T]; a position at or beyond T is not scored, a negative one is 0."""
    length = values.shape[1]
    return cross_entropy(values, np.array([-100 if at >= length else max(at, 0) for at in positions]))


@pytest.mark.parametrize(
    ("starts", "ends", "warned"),
    [
        ([1, 0, 3], [1, 2, 3], []),
        ([1, 4, 3], [1, 99, 3], []),  # the second answer is cut off
        ([1, 2, 3], [1, 4, 3], []),  # of the second only the end is
        ([1, -1, 3], [1, 2, 3], ["start_positions"]),
        ([1, -100, 3], [1, -100, 3], ["start_positions", "end_positions"]),
    ],
)
@pytest.mark.parametrize("column", [False, True], ids=["[B]", "[B, 1]"])
def test_answers_by_hand(
    starts: list[int], ends: list[int], warned: list[str], column: bool, caplog: pytest.LogCaptureFixture
) -> None:
    values = (logits_of(3, 4), -logits_of(3, 4))
    logits = [torch.from_numpy(value).requires_grad_() for value in values]
    given = [torch.tensor(positions)[:, None] if column else torch.tensor(positions) for positions in (starts, ends)]
    loss = losses.question_answering_loss(*logits, *given)
    first, second = answers(values[0], starts), answers(values[1], ends)
    assert_is(loss, logits[0], ((first[0] + second[0]) / 2, first[1] / 2))
    np.testing.assert_allclose(logits[1].grad.numpy(), second[1] / 2, rtol=0, atol=1e-14)  # type: ignore[union-attr]
    assert warnings_in(caplog) == [
        f"{name}: a negative position is scored as 0, the first token; -100 ignores nothing here." for name in warned
    ]


def test_answers_that_are_all_cut_off_are_nan_with_one_warning(caplog: pytest.LogCaptureFixture) -> None:
    logits = torch.from_numpy(logits_of(3, 4))
    loss = losses.question_answering_loss(logits, logits, torch.tensor([4, 5, 99]), torch.tensor([4, 7, 99]))
    assert torch.isnan(loss)
    (message,) = warnings_in(caplog)
    assert message.startswith("start_positions: every label is 4 (not scored)")
    caplog.clear()
    assert torch.isnan(losses.question_answering_loss(logits, logits, torch.tensor([0, 1, 2]), torch.tensor([4] * 3)))
    (message,) = warnings_in(caplog)
    assert message.startswith("end_positions: every label is 4 (not scored)")


# ------------------------------------------------------------------------------------------------------- the pictures

LOSSES = [name for name in losses.__all__ if name.endswith("_loss")]


def rows_of(name: str) -> list[tuple[str, list[str]]]:
    """The rows of the first picture of a docstring: what stands before the gap, and the tokens up to the remark.

    `    input     the   cat   sat   down        a remark` -> ("input", ["the", "cat", "sat", "down"])
    """
    text = inspect.getdoc(getattr(losses, name)) or ""
    lines = text.splitlines()
    first = next((number for number, line in enumerate(lines) if line.startswith("    ")), len(lines))
    rows = []
    for line in itertools.takewhile(lambda line: line.startswith("    "), lines[first:]):
        label, _, rest = re.sub(r"^(\S+(?: \S+)*)\s{2,}", r"\1\t", line.strip()).partition("\t")
        rows.append((label, re.split(r"\s{7,}", rest)[0].split()))
    return rows


def picture_of(name: str) -> dict[str, list[str]]:
    """The rows of a picture by what stands before them."""
    return dict(rows_of(name))


def test_there_are_seven_losses() -> None:
    assert len(LOSSES) == 7
    assert all(callable(getattr(losses, name)) for name in LOSSES)


@pytest.mark.parametrize("name", LOSSES)
def test_every_loss_has_a_picture_of_four_tokens(name: str) -> None:
    texts = [tokens for label, tokens in rows_of(name) if label.split()[0] in ("input", "choice", "context")]
    assert texts, f"{name} has no picture with a row of tokens"
    for tokens in texts:
        assert len(tokens) == 4, tokens
        assert all(re.fullmatch(r"[A-Za-z]+|\[(CLS|SEP|MASK)\]", token) for token in tokens), tokens


def certain(wanted: list[str], words: list[str]) -> Tensor:
    """`[1, 4, V]`: logits that leave no doubt about the wanted words; "-" and -100 want nothing."""
    logits = torch.zeros(1, 4, len(words))
    for position, word in enumerate(wanted):
        if word in words:
            logits[0, position, words.index(word)] = 1000.0
    return logits


def as_labels(tokens: list[str], words: list[str]) -> Tensor:
    return torch.tensor([[words.index(token) if token in words else -100 for token in tokens]])


def test_the_pictures_say_what_the_losses_do() -> None:
    """A model that predicts what a picture asks for has the loss 0; one that is off by a position has not."""
    rows = picture_of("causal_language_model_loss")
    words = rows["labels"]
    labels = as_labels(rows["labels"], words)
    assert rows["input"] == rows["labels"]
    assert losses.causal_language_model_loss(certain(rows["predicts"], words), labels) == 0
    assert losses.causal_language_model_loss(certain(rows["labels"], words), labels) > 100

    rows = picture_of("masked_language_model_loss")
    words = ["cat", "down", "sat", "the"]
    labels = as_labels(rows["labels"], words)
    assert [word == "[MASK]" for word in rows["input"]] == (labels[0] != -100).tolist()
    assert losses.masked_language_model_loss(certain(rows["labels"], words), labels) == 0
    assert losses.masked_language_model_loss(certain(["-", *rows["labels"][:-1]], words), labels) > 1

    rows = picture_of("token_classification_loss")
    labels = torch.tensor([[int(label) for label in rows["labels"]]])
    assert losses.token_classification_loss(certain(rows["labels"], ["0", "1"]), labels) == 0
