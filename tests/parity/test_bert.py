"""BERT against transformers 5.x: equal bits in the forward pass, the loss, every gradient and ten optimiser steps."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
import torch.nn.functional as F

import minitf
from minitf.losses import causal_language_model_loss
from tests.parity.bert_pairs import CLASSES, HEADS, different, gradients, inputs_for, objective, pair

MASKS = ("none", "right", "left")


@pytest.fixture(autouse=True)
def one_thread() -> Any:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def is_causal(class_name: str) -> dict[str, Any]:
    return {"is_decoder": True} if class_name == "BertLMHeadModel" else {}


GRID = list(itertools.product(CLASSES, ("eager", "sdpa"), MASKS, (False, True), (torch.float32, torch.float64)))


@pytest.mark.slow
@pytest.mark.parametrize(("class_name", "attention", "padding", "training", "dtype"), GRID)
def test_forward_loss_and_every_gradient_are_equal(
    class_name: str, attention: str, padding: str, training: bool, dtype: torch.dtype
) -> None:
    """Bitwise, dropout included (same seed). At padding queries of a left-padded decoder eager differs on purpose."""
    ours, theirs = pair(class_name, attention=attention, dtype=dtype, **is_causal(class_name))
    inputs = inputs_for(class_name, padding=padding)
    results = []
    for model in (ours, theirs):
        model.train(training)
        torch.manual_seed(11)
        output = model(**inputs)
        loss = objective(class_name, output)
        if class_name == "BertLMHeadModel" and dtype == torch.float64:
            # The oracle rounds the logits to float32 before this one loss; ours keeps them, so both get ours.
            assert abs(loss.double() - causal_language_model_loss(output.logits, inputs["labels"])) < 1e-6
            loss = causal_language_model_loss(output.logits, inputs["labels"])
        loss.backward()
        results.append({**output, "loss": loss})
    mine, other = results
    if class_name == "BertLMHeadModel":
        real = inputs["attention_mask"].bool()
        mine["logits"], other["logits"] = mine["logits"][real], other["logits"][real]
    assert different(mine, other) == []
    theirs_gradients = gradients(theirs)
    for name, gradient in gradients(ours).items():
        expected = theirs_gradients[name]
        assert (gradient is None) == (expected is None), name
        assert gradient is None or torch.equal(gradient, expected), name


@pytest.mark.parametrize("class_name", CLASSES)
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_two_threads_and_another_head_size_agree_closely(class_name: str, attention: str) -> None:
    """Beside the equality stands the tolerance: head size 12 (no power of two), two threads."""
    torch.set_num_threads(2)
    ours, theirs = pair(class_name, attention=attention, hidden_size=48, **is_causal(class_name))
    inputs = inputs_for(class_name)
    with torch.no_grad():
        mine, other = dict(ours(**inputs).items()), dict(theirs(**inputs).items())
    if class_name == "BertLMHeadModel":
        real = inputs["attention_mask"].bool()
        mine["logits"], other["logits"] = mine["logits"][real], other["logits"][real]
    assert different(mine, other, lambda a, b: torch.allclose(a, b, rtol=1e-5, atol=2e-5)) == []


@pytest.mark.parametrize("class_name", CLASSES)
def test_eager_and_sdpa_agree_in_float64(class_name: str) -> None:
    eager, _ = pair(class_name, dtype=torch.float64, **is_causal(class_name))
    sdpa, _ = pair(class_name, attention="sdpa", dtype=torch.float64, **is_causal(class_name))
    inputs = inputs_for(class_name, padding="left")
    with torch.no_grad():
        # also at padding queries: a row that may attend to nothing has one result
        assert different(eager(**inputs), sdpa(**inputs), lambda a, b: torch.allclose(a, b, rtol=0, atol=1e-10)) == []


@pytest.mark.parametrize("class_name", CLASSES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_half_precision_is_as_close_to_float64_as_the_oracle(
    class_name: str, dtype: torch.dtype, attention: str
) -> None:
    """The error against float64 is at most 1.5 times that of transformers in the same half precision."""
    exact, _ = pair(class_name, dtype=torch.float64, attention=attention, **is_causal(class_name))
    ours, theirs = pair(class_name, dtype=dtype, attention=attention, **is_causal(class_name))
    inputs = inputs_for(class_name, labels=False)
    with torch.no_grad():
        reference, mine, other = exact(**inputs)[0], ours(**inputs)[0], theirs(**inputs)[0]
    assert torch.isfinite(mine).all()
    if class_name in ("BertModel", "BertLMHeadModel", "BertForMaskedLM", "BertForTokenClassification"):
        real = inputs["attention_mask"].bool()
        reference, mine, other = reference[real], mine[real], other[real]
    error = (mine.double() - reference).abs().max()
    assert error <= 1.5 * (other.double() - reference).abs().max()


@pytest.mark.parametrize("class_name", HEADS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_losses_in_half_precision_are_equal(class_name: str, dtype: torch.dtype, attention: str) -> None:
    """Bitwise. The left-to-right loss is summed in float32, every other one in the dtype of the logits."""
    ours, theirs = pair(class_name, dtype=dtype, attention=attention, **is_causal(class_name))
    for padding in MASKS:
        inputs = inputs_for(class_name, padding=padding)
        with torch.no_grad():
            mine, other = ours(**inputs), theirs(**inputs)
        left_to_right = class_name == "BertLMHeadModel"
        assert mine.loss.dtype == (torch.float32 if left_to_right else dtype)
        assert torch.isfinite(mine.loss)
        assert different({"loss": mine.loss}, {"loss": other.loss}) == []
        if left_to_right:
            rounded = F.cross_entropy(mine.logits[:, :-1].flatten(0, 1), inputs["labels"][:, 1:].flatten())
            assert rounded.float() != mine.loss


@pytest.mark.parametrize("class_name", CLASSES)
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_weights_after_ten_adamw_steps_with_dropout_are_equal(class_name: str, attention: str) -> None:
    ours, theirs = pair(class_name, attention=attention, **is_causal(class_name))
    for model in (ours, theirs):
        model.train()
        torch.manual_seed(5)
        optimiser = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.01)
        for step in range(10):
            optimiser.zero_grad()
            objective(class_name, model(**inputs_for(class_name, seed=step))).backward()
            optimiser.step()
    expected = theirs.state_dict()
    assert [name for name, tensor in ours.state_dict().items() if not torch.equal(tensor, expected[name])] == []


@pytest.mark.parametrize("class_name", CLASSES)
def test_hidden_states_and_attentions_are_equal(class_name: str) -> None:
    ours, theirs = pair(class_name, **is_causal(class_name))
    inputs = inputs_for(class_name, padding="none")
    with torch.no_grad():
        mine = ours(**inputs, output_hidden_states=True, output_attentions=True)
        other = theirs(**inputs, output_hidden_states=True, output_attentions=True)
    assert len(mine.hidden_states) == 3
    assert len(mine.attentions) == 2
    assert different(mine, other) == []
    hidden_states, attentions = mine[-2:]
    assert hidden_states is mine.hidden_states
    assert attentions is mine.attentions
    padded = inputs_for(class_name, padding="right")
    with torch.no_grad():
        mine = ours(**padded, output_hidden_states=True, output_attentions=True)
        other = theirs(**padded, output_hidden_states=True, output_attentions=True)
    assert different(mine, other) == []


@pytest.mark.parametrize("class_name", CLASSES)
def test_masks_of_three_and_four_dimensions(class_name: str) -> None:
    """[B, S], [B, T, S] and [B, 1, T, S] with the same content give the same bits; the oracle takes the last form."""
    ours, theirs = pair(class_name, attention="sdpa")
    inputs = inputs_for(class_name)
    padding = inputs.pop("attention_mask").bool()  # [B, S], in multiple choice [B, N, S]
    length = padding.shape[-1]
    square = torch.rand(*padding.shape, length, generator=torch.Generator().manual_seed(3)) > 0.3
    square = (square | torch.eye(length).bool()) & padding[..., None, :]
    square[..., 0] = True
    with torch.no_grad():
        three = ours(**inputs, attention_mask=square)
        four = ours(**inputs, attention_mask=square.unsqueeze(-3).long())
        assert different(three, four) == []
        plain = ours(**inputs, attention_mask=padding)
        repeated = ours(**inputs, attention_mask=padding[..., None, :].expand_as(square))
        assert different(plain, repeated) == []
        assert different(plain, three) != []
        if class_name != "BertForMultipleChoice":  # whose oracle flattens masks of two dimensions only
            assert different(three, theirs(**inputs, attention_mask=square[:, None])) == []


def test_inputs_embeds_and_position_ids() -> None:
    ours, theirs = pair("BertModel")
    inputs = inputs_for("BertModel")
    ids = inputs.pop("input_ids")
    positions = torch.arange(ids.shape[1]).flip(0) + 3
    with torch.no_grad():
        embeds = ours.get_input_embeddings()(ids)
        for position_ids in (positions, positions[None], positions[None].repeat(3, 1)):
            mine = ours(inputs_embeds=embeds, position_ids=position_ids, **inputs)
            other = theirs(inputs_embeds=embeds, position_ids=positions[None], **inputs)
            assert different(mine, other) == []
        by_ids = ours(ids, position_ids=positions, **inputs)
        assert different(by_ids, mine) == []


def test_float64_stays_float64() -> None:
    """Masks and positions are built in the model's dtype: nothing passes through float32."""
    ours, theirs = pair("BertModel", dtype=torch.float64)
    inputs = inputs_for("BertModel")
    with torch.no_grad():
        assert ours(**inputs).last_hidden_state.dtype == torch.float64
        assert different(ours(**inputs), theirs(**inputs)) == []


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("class_name", CLASSES)
def test_the_same_seed_draws_the_same_fresh_weights(class_name: str, seed: int) -> None:
    import transformers

    from tests.parity.bert_pairs import TINY

    torch.manual_seed(seed)
    ours = getattr(minitf, class_name)(minitf.BertConfig(**TINY))
    torch.manual_seed(seed)
    theirs = getattr(transformers, class_name)(transformers.BertConfig(**TINY))
    expected = theirs.state_dict()
    for name, tensor in ours.state_dict().items():
        assert torch.equal(tensor, expected[name]), name


def problem_types() -> list[Any]:
    yes_no = torch.tensor([[1.0, 0.0, 1.0, 0.0], [0.0, 0.0, 1.0, 1.0], [1.0, 1.0, 0.0, 0.0]])
    return [
        pytest.param({"num_labels": 1}, torch.tensor([0.3, -1.2, 2.0]), id="regression, one number"),
        pytest.param({"num_labels": 4, "problem_type": "regression"}, yes_no * 3 - 1, id="regression, four numbers"),
        pytest.param({"num_labels": 4}, torch.tensor([3, 0, 2]), id="one label of four"),
        pytest.param({"num_labels": 4}, torch.tensor([3, -100, 2]), id="one label of four, one not scored"),
        pytest.param({"num_labels": 4}, yes_no, id="several labels of four"),
        pytest.param({"num_labels": 2}, torch.tensor([[1], [0], [1]]), id="labels as a column"),
    ]


@pytest.mark.parametrize(("settings", "labels"), problem_types())
def test_sequence_classification_losses_by_problem_type(settings: dict[str, Any], labels: torch.Tensor) -> None:
    number = settings.pop("num_labels")
    ours, theirs = pair("BertForSequenceClassification", num_labels=number, **settings)
    inputs = inputs_for("BertForSequenceClassification", labels=False)
    mine, other = ours(**inputs, labels=labels), theirs(**inputs, labels=labels)
    assert torch.equal(mine.loss, other.loss)
    assert ours.config.problem_type == settings.get("problem_type")  # inferred for the call, not written to the config
    mine.loss.backward()
    other.loss.backward()
    assert torch.equal(ours.classifier.weight.grad, theirs.classifier.weight.grad)


@pytest.mark.parametrize("class_name", HEADS)
def test_untied_weights(class_name: str) -> None:
    ours, theirs = pair(class_name, tie_word_embeddings=False, **is_causal(class_name))
    if class_name in ("BertForPreTraining", "BertLMHeadModel", "BertForMaskedLM"):
        assert ours.get_output_embeddings().weight is not ours.get_input_embeddings().weight
        # without ties 5.x leaves `cls.predictions.bias` without effect; here the two names stay one parameter
        theirs.cls.predictions.decoder.bias.data.copy_(ours.cls.predictions.bias.data)
    inputs = inputs_for(class_name)
    with torch.no_grad():
        assert different(ours(**inputs), theirs(**inputs)) == []
