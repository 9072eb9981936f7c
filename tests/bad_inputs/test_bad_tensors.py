"""Bad tensors into every class: an error that names the thing, its value, what was expected and the remedy.

What a check costs is measured by benchmarks/checks.py; that none of them breaks a graph is shown by tests/export, and
for shapes at the end of this file.
"""

from __future__ import annotations

import functools
import logging
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch

import minitf
from tests.controls.models import CLASSES, DECODERS, SEVERAL, TRUNKS, build, inputs_for, is_gpt2
from tests.controls.models import HEAD_CLASSES as HEADS

Inputs = dict[str, Any]


built = functools.cache(build)  # a refused call leaves the model as it is


def refused(class_name: str, inputs: Inputs, kind: type[Exception], *words: str, **settings: Any) -> str:
    """The message of the error; each of `words` must be in it."""
    model = built(class_name, **settings)
    with pytest.raises(kind) as caught:
        model(**inputs)
    assert type(caught.value) is kind
    message = str(caught.value)
    for word in words:
        assert word in message, f"{word!r} is not in: {message}"
    return message


def merged(class_name: str, shape: tuple[int, ...]) -> list[int]:
    """The shape as the trunk sees it: the choices of a row are rows."""
    return [shape[0] * shape[1], *shape[2:]] if class_name in SEVERAL else list(shape)


def changed(class_name: str, name: str, value: Any) -> Inputs:
    return {**inputs_for(class_name, labels=False), name: value}


def with_value(class_name: str, name: str, value: float, dtype: torch.dtype | None = None) -> Inputs:
    """One place of an input, in the second row and third column, holds `value`."""
    inputs = inputs_for(class_name, labels=False)
    tensor = inputs[name].clone() if dtype is None else inputs[name].to(dtype)
    tensor.flatten(0, -2)[1, 2] = value
    return {**inputs, name: tensor}


# ----------------------------------------------------------------------------------------------------------------- ids

OUTSIDE = [("input_ids", 61), ("input_ids", 50256), ("input_ids", -1), ("token_type_ids", 61), ("token_type_ids", -1)]


@pytest.mark.parametrize(("name", "value"), OUTSIDE)
@pytest.mark.parametrize("class_name", CLASSES)
def test_an_id_out_of_range(class_name: str, name: str, value: int) -> None:
    words = ("vocab_size is 61", "expected 0 to 60")
    if name == "token_type_ids" and not is_gpt2(class_name):  # GPT-2's token types are words
        words = ("type_vocab_size is 2", "expected 0 to 1")
    refused(class_name, with_value(class_name, name, value), ValueError, f"{name}[1, 2] = {value}", *words)


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.int16, torch.bool, torch.float32, torch.float16])
@pytest.mark.parametrize("name", ["input_ids", "token_type_ids"])
@pytest.mark.parametrize("class_name", CLASSES)
def test_ids_of_another_dtype(class_name: str, name: str, dtype: torch.dtype) -> None:
    inputs = changed(class_name, name, inputs_for(class_name)[name].to(dtype))
    refused(class_name, inputs, TypeError, f"{name} has dtype {dtype}", "torch.int64 or torch.int32")


@pytest.mark.parametrize("class_name", CLASSES)
def test_int32_ids_are_accepted(class_name: str) -> None:
    model, inputs = built(class_name), inputs_for(class_name)
    with torch.no_grad():
        expected = model(**inputs)
        got = model(**{name: value.to(torch.int32) for name, value in inputs.items()})
    assert all(torch.equal(a, b) for a, b in zip(got, expected, strict=True) if torch.is_tensor(a))


@pytest.mark.parametrize("name", ["input_ids", "token_type_ids", "attention_mask", "position_ids"])
@pytest.mark.parametrize("class_name", CLASSES)
def test_lists_are_no_tensors(class_name: str, name: str) -> None:
    value = inputs_for(class_name)["input_ids"].tolist()
    refused(class_name, changed(class_name, name, value), TypeError, f"{name} is a list", "expected a")


@pytest.mark.parametrize("class_name", CLASSES)
def test_ids_without_a_batch(class_name: str) -> None:
    ids = torch.tensor([1, 2, 3])
    message = refused(class_name, {"input_ids": ids}, ValueError, "[3]")
    remedy = "[batch, choices, positions]" if class_name in SEVERAL else "ids.unsqueeze(0)"
    assert remedy in message


@pytest.mark.parametrize("empty", ["batch", "positions"])
@pytest.mark.parametrize("kind", ["input_ids", "inputs_embeds"])
@pytest.mark.parametrize("class_name", CLASSES)
def test_nothing_to_compute(class_name: str, kind: str, empty: str) -> None:
    ids = inputs_for(class_name)["input_ids"]
    ids = ids[:0] if empty == "batch" else ids[..., :0]
    value = ids if kind == "input_ids" else torch.zeros(*ids.shape, 64)
    words = (f"{kind} is empty", str(merged(class_name, tuple(value.shape))), "nothing to compute")
    refused(class_name, {kind: value}, ValueError, *words)


@pytest.mark.parametrize("class_name", CLASSES)
def test_neither_or_both_of_ids_and_embeddings(class_name: str) -> None:
    ids = inputs_for(class_name)["input_ids"]
    both = {"input_ids": ids, "inputs_embeds": torch.zeros(*ids.shape, 64)}
    refused(class_name, both, ValueError, "exactly one of input_ids and inputs_embeds", "both")
    refused(class_name, {}, ValueError, "input_ids", "inputs_embeds", "neither")


@pytest.mark.parametrize("class_name", CLASSES)
def test_embeddings_of_another_width_or_kind(class_name: str) -> None:
    shape = tuple(inputs_for(class_name)["input_ids"].shape)
    given = str(merged(class_name, (*shape, 32)))
    refused(class_name, {"inputs_embeds": torch.zeros(*shape, 32)}, ValueError, "inputs_embeds", given, "= 64]")
    wrong = {"inputs_embeds": torch.zeros(*shape, 64, dtype=torch.long)}
    refused(class_name, wrong, TypeError, "inputs_embeds is not a floating-point tensor")


@pytest.mark.parametrize("class_name", CLASSES)
def test_too_long(class_name: str) -> None:
    shape = (*inputs_for(class_name)["input_ids"].shape[:-1], 41)
    key = "n_positions" if is_gpt2(class_name) else "max_position_embeddings"
    words = ("41 positions", f"40 ({key})", "truncate")
    refused(class_name, {"input_ids": torch.ones(shape, dtype=torch.long)}, ValueError, "input_ids has", *words)
    refused(class_name, {"inputs_embeds": torch.ones(*shape, 64)}, ValueError, "inputs_embeds has", *words)


@pytest.mark.parametrize("class_name", CLASSES)
def test_segments_and_positions_of_another_shape(class_name: str) -> None:
    inputs = inputs_for(class_name, labels=False)
    for name in ("token_type_ids", "position_ids"):
        value = inputs["token_type_ids"][..., :6]
        words = (f"{name} has shape {merged(class_name, tuple(value.shape))}", str(merged(class_name, (3, 3, 7))[-1]))
        refused(class_name, {**inputs, name: value}, ValueError, *words)
    if class_name not in SEVERAL:
        key = "n_positions" if is_gpt2(class_name) else "max_position_embeddings"
        refused(class_name, {**inputs, "position_ids": torch.tensor([0, 1, 2, 3, 4, 5, 40])}, ValueError,
                "position_ids[0, 6] = 40", f"{key} is 40", "expected 0 to 39")  # fmt: skip


def test_positions_have_no_effect_with_relative_ones() -> None:
    inputs = {**inputs_for("BertModel"), "position_ids": torch.arange(7)}
    words = ("position_ids have no effect", "'relative_key'", "Leave them out")
    refused("BertModel", inputs, ValueError, *words, position_embedding_type="relative_key")


# --------------------------------------------------------------------------------------------------------------- masks


@pytest.mark.parametrize(
    ("value", "shown"), [(0.5, "0.5"), (float("nan"), "nan"), (-10000.0, "-10000.0"), (2.0, "2.0")]
)
@pytest.mark.parametrize("class_name", CLASSES)
def test_a_mask_holds_zeros_and_ones(class_name: str, value: float, shown: str) -> None:
    inputs = with_value(class_name, "attention_mask", value, torch.float32)
    words = (f"attention_mask holds {shown}", "1 (may be attended to) and 0 (may not)", "minitf.masks.from_additive")
    refused(class_name, inputs, ValueError, *words)


@pytest.mark.parametrize("class_name", CLASSES)
def test_an_additive_mask_is_converted_by_the_function_that_the_error_names(class_name: str) -> None:
    model, inputs = built(class_name), inputs_for(class_name)
    additive = (1.0 - inputs["attention_mask"]) * -10000.0
    with torch.no_grad():
        expected = model(**inputs)
        got = model(**{**inputs, "attention_mask": minitf.masks.from_additive(additive)})
    assert all(torch.equal(a, b) for a, b in zip(got, expected, strict=True) if torch.is_tensor(a))


@pytest.mark.parametrize("dtype", [torch.bool, torch.int8, torch.int32, torch.float16, torch.float64])
@pytest.mark.parametrize("class_name", CLASSES)
def test_masks_of_every_dtype_say_the_same(class_name: str, dtype: torch.dtype) -> None:
    model, inputs = built(class_name), inputs_for(class_name)
    with torch.no_grad():
        expected = model(**inputs)
        got = model(**{**inputs, "attention_mask": inputs["attention_mask"].to(dtype)})
    assert all(torch.equal(a, b) for a, b in zip(got, expected, strict=True) if torch.is_tensor(a))


BROADCASTABLE = [
    (1, 7),
    (3, 1),
    (7,),
    (1, 1),
    (1, 7, 7),
    (3, 1, 7),
    (3, 7, 1),
    (1, 1, 7, 7),
    (3, 1, 1, 7),
    (3, 4, 7, 7),
]


@pytest.mark.parametrize("shape", [*BROADCASTABLE, (3, 6), (4, 7), (3, 7, 6), (3, 2, 7, 7), (3, 1, 7, 7, 1)])
@pytest.mark.parametrize("class_name", [name for name in CLASSES if name not in SEVERAL])
def test_a_mask_of_another_shape_is_refused_even_if_it_would_broadcast(class_name: str, shape: tuple[int, ...]) -> None:
    words = (
        f"attention_mask has shape {list(shape)}",
        "batch 3, 7 query and 7 key positions",
        "[3, 7], [3, 7, 7], [3, 1, 7, 7]",
    )
    refused(class_name, changed(class_name, "attention_mask", torch.ones(shape)), ValueError, *words)


@pytest.mark.parametrize("shape", [*BROADCASTABLE, (3, 7)])
@pytest.mark.parametrize("class_name", DECODERS)
def test_a_mask_of_the_encoder_of_another_shape(class_name: str, shape: tuple[int, ...]) -> None:
    inputs = {
        "input_ids": inputs_for(class_name)["input_ids"],
        "encoder_hidden_states": torch.zeros(3, 5, 64),
        "encoder_attention_mask": torch.ones([5 if size == 7 else size for size in shape]),
    }
    if shape == (3, 7):
        inputs["encoder_attention_mask"] = torch.ones(3, 7)
    given = list(inputs["encoder_attention_mask"].shape)
    words = (f"encoder_attention_mask has shape {given}", "batch 3, 7 query and 5 key positions", "[3, 5]")
    refused(class_name, inputs, ValueError, *words, add_cross_attention=True)


@pytest.mark.parametrize("name", ["attention_mask", "token_type_ids", "position_ids"])
@pytest.mark.parametrize("class_name", SEVERAL)
def test_choices_and_rows_are_not_exchanged(class_name: str, name: str) -> None:
    """[N, B, T] has as many rows as [B, N, T] once they are merged."""
    inputs = {key: value[:2] for key, value in inputs_for(class_name, labels=False).items()}
    value = inputs["token_type_ids"].transpose(0, 1)
    words = (f"{name} has shape [3, 2, 7]", "input_ids has batch 2 and 3 choices", "[2, 3, positions]")
    refused(class_name, {**inputs, name: value}, ValueError, *words)
    for shape in ((7,), (2, 7), (6, 7), (2, 1, 7)):
        wrong = {**inputs, name: torch.ones(shape, dtype=torch.long)}
        refused(class_name, wrong, ValueError, f"{name} has shape {list(shape)}", "2 and 3 choices")


# -------------------------------------------------------------------------------------------------------------- labels

# class -> (name of a label argument, its shape, the largest label)
LABELS = {
    "BertForPreTraining": [("labels", (3, 7), 60), ("next_sentence_label", (3,), 1)],
    "BertLMHeadModel": [("labels", (3, 7), 60)],
    "BertForMaskedLM": [("labels", (3, 7), 60)],
    "BertForNextSentencePrediction": [("labels", (3,), 1)],
    "BertForSequenceClassification": [("labels", (3,), 1)],
    "BertForMultipleChoice": [("labels", (3,), 2)],
    "BertForTokenClassification": [("labels", (3, 7), 1)],
    "BertForQuestionAnswering": [("start_positions", (3,), 7), ("end_positions", (3,), 7)],
    "GPT2LMHeadModel": [("labels", (3, 7), 60)],
    "GPT2DoubleHeadsModel": [("labels", (3, 3, 7), 60), ("mc_labels", (3,), 2)],
    "GPT2ForSequenceClassification": [("labels", (3,), 1)],
    "GPT2ForTokenClassification": [("labels", (3, 7), 1)],
    "GPT2ForQuestionAnswering": [("start_positions", (3,), 7), ("end_positions", (3,), 7)],
}
ANSWERS = ("BertForQuestionAnswering", "GPT2ForQuestionAnswering")
SEQUENCES = ("BertForSequenceClassification", "GPT2ForSequenceClassification")
ARGUMENTS = [(class_name, *argument) for class_name, arguments in LABELS.items() for argument in arguments]


# every answer is clamped: see test_answers_outside_of_the_text
@pytest.mark.parametrize(("class_name", "name", "shape", "last"), [a for a in ARGUMENTS if a[0] not in ANSWERS])
def test_labels_out_of_range(class_name: str, name: str, shape: tuple[int, ...], last: int) -> None:
    for value in (last + 1, -1, -101, 10**6):
        inputs = inputs_for(class_name)
        labels = inputs[name].clone()
        labels.flatten()[1] = value
        place = str([0, 0, 1][-len(shape) :])
        words = (f"{name}{place} = {value}", f"expected 0 to {last}", "-100 for a position not scored")
        refused(class_name, {**inputs, name: labels}, ValueError, *words)


@pytest.mark.parametrize(("class_name", "name", "shape", "last"), ARGUMENTS)
def test_labels_of_another_kind(class_name: str, name: str, shape: tuple[int, ...], last: int) -> None:
    inputs = inputs_for(class_name)
    kinds = [torch.bool, torch.int8, torch.int16]
    if class_name not in SEQUENCES:  # floating-point labels mean several labels there
        kinds += [torch.float32, torch.float64]
    for dtype in kinds:
        wrong = {**inputs, name: torch.zeros(shape, dtype=dtype)}
        refused(class_name, wrong, TypeError, f"{name} has dtype {dtype}", "torch.int64 or torch.int32")
    wrong = {**inputs, name: inputs[name].tolist()}
    refused(class_name, wrong, TypeError, f"{name} is a list", "expected a tensor")


@pytest.mark.parametrize(("class_name", "name", "shape", "last"), ARGUMENTS)
def test_labels_of_another_shape(class_name: str, name: str, shape: tuple[int, ...], last: int) -> None:
    inputs = inputs_for(class_name)
    for wrong in ((2, *shape[1:]), (*shape, 2), (1, *shape), ()):
        labels = torch.zeros(wrong, dtype=torch.long)
        words = (f"{name} has the shape {list(wrong)}", f"need {list(shape)}")
        refused(class_name, {**inputs, name: labels}, ValueError, *words)


@pytest.mark.parametrize("class_name", HEADS)
def test_no_label_at_all_is_nan_with_one_warning(class_name: str, caplog: pytest.LogCaptureFixture) -> None:
    """-100 everywhere; for an answer, positions beyond the text."""
    unscored = 99 if class_name in ANSWERS else -100
    inputs = inputs_for(class_name)
    name = LABELS[class_name][0][0]
    for argument, *_ in LABELS[class_name] if class_name in ANSWERS else LABELS[class_name][:1]:
        inputs[argument] = torch.full_like(inputs[argument], unscored)
    with caplog.at_level(logging.WARNING, logger="minitf.losses"):
        loss = build(class_name)(**inputs).loss
    assert loss.isnan()
    messages = [record.getMessage() for record in caplog.records]
    assert len(messages) == 1, messages
    assert re.match(rf"{name}: every label is .* \(not scored\).*NaN", messages[0])


@pytest.mark.parametrize("class_name", HEADS)
def test_one_label_is_enough_for_a_loss_without_warning(class_name: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="minitf.losses"):
        assert build(class_name)(**inputs_for(class_name)).loss.isfinite()
    assert caplog.records == []


def test_no_right_choice_at_all(caplog: pytest.LogCaptureFixture) -> None:
    inputs = inputs_for("GPT2DoubleHeadsModel")
    inputs["mc_labels"] = torch.full((3,), -100)
    with caplog.at_level(logging.WARNING, logger="minitf.losses"):
        output = build("GPT2DoubleHeadsModel")(**inputs)
    assert output.mc_loss.isnan()
    assert output.loss.isfinite()
    assert [record.getMessage().split(":")[0] for record in caplog.records] == ["mc_labels"]


@pytest.mark.parametrize("class_name", [*DECODERS, "GPT2DoubleHeadsModel"])
def test_the_first_label_of_a_language_model_is_never_a_target(
    class_name: str, caplog: pytest.LogCaptureFixture
) -> None:
    inputs = inputs_for(class_name)
    inputs["labels"] = torch.full_like(inputs["labels"], -100)
    inputs["labels"][..., 0] = 5
    with caplog.at_level(logging.WARNING, logger="minitf.losses"):
        assert build(class_name)(**inputs).loss.isnan()
    assert len(caplog.records) == 1


@pytest.mark.parametrize("class_name", ANSWERS)
def test_answers_outside_of_the_text(class_name: str, caplog: pytest.LogCaptureFixture) -> None:
    """Beyond the end: not scored. Negative: the first token, with a warning."""
    model = build(class_name)
    inputs = inputs_for(class_name, labels=False)

    def loss(start: list[int], end: list[int]) -> torch.Tensor:
        value: torch.Tensor = model(**inputs, start_positions=torch.tensor(start), end_positions=torch.tensor(end)).loss
        return value

    with torch.no_grad():
        assert torch.equal(loss([1, 2, 7], [3, 4, 7]), loss([1, 2, 1000], [3, 4, 8]))
        assert not torch.equal(loss([1, 2, 6], [3, 4, 6]), loss([1, 2, 7], [3, 4, 7]))
        assert caplog.records == []
        assert torch.equal(loss([-1, 2, 3], [3, 4, 5]), loss([0, 2, 3], [3, 4, 5]))
    assert [record.getMessage().split(":")[0] for record in caplog.records] == ["start_positions"]


def test_one_of_two_labels() -> None:
    for class_name, pair in (
        ("BertForPreTraining", ("labels", "next_sentence_label")),
        *((name, ("start_positions", "end_positions")) for name in ANSWERS),
    ):
        for left_out in pair:
            inputs = inputs_for(class_name)
            del inputs[left_out]
            refused(class_name, inputs, ValueError, f"both {pair[0]} and {pair[1]}", "only one is given")


@pytest.mark.parametrize("class_name", SEQUENCES)
def test_labels_of_several_classes_and_numbers(class_name: str) -> None:
    inputs = inputs_for(class_name, labels=False)

    def given(labels: torch.Tensor) -> Inputs:
        return {**inputs, "labels": labels}

    for value, shown in ((2.0, "2"), (-100.0, "-100"), (float("nan"), "nan")):
        labels = torch.zeros(3, 4)
        labels[2, 1] = value
        words = (f"labels[2, 1] = {shown}", "expected 1 (the label holds), 0 (it does not)")
        refused(class_name, given(labels), ValueError, *words, num_labels=4)
    shapes = ("[3, 5]", "'multi_label_classification' with 4 labels", "[3, 4]")
    refused(class_name, given(torch.zeros(3, 5)), ValueError, *shapes, num_labels=4)
    for value, shown in ((float("nan"), "nan"), (float("inf"), "inf")):
        labels = torch.tensor([0.5, value, 1.0])
        words = (f"labels[1, 0] = {shown}", "expected a finite number")
        refused(class_name, given(labels), ValueError, *words, num_labels=1)
    model = build(class_name, num_labels=4)
    assert model(**given(torch.full((3, 4), 0.3))).loss.isfinite()


# -------------------------------------------------------------------------------------------------------------- graphs

SHAPES: list[tuple[Callable[[Inputs], Inputs], str]] = [
    (lambda inputs: {**inputs, "attention_mask": torch.ones(1, 7)}, "attention_mask has shape"),
    (lambda inputs: {**inputs, "token_type_ids": inputs["token_type_ids"][:, :6]}, "token_type_ids has shape"),
    (lambda inputs: {"input_ids": torch.ones(3, 41, dtype=torch.long)}, "input_ids has 41 positions"),
    (lambda inputs: {**inputs, "input_ids": inputs["input_ids"].float()}, "input_ids has dtype"),
]


@pytest.mark.parametrize(("change", "message"), SHAPES)
@pytest.mark.parametrize("trunk", TRUNKS)
def test_shapes_and_dtypes_are_checked_while_a_graph_is_recorded(
    trunk: str, change: Callable[[Inputs], Inputs], message: str
) -> None:
    model = build(trunk)
    with pytest.raises((ValueError, TypeError), match=message):
        torch.export.export(model, (), change(inputs_for(trunk)))
