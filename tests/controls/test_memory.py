"""Gradient checkpointing, the feed-forward layer in pieces, the trunk without pooler, frozen trunks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import minitf
from tests.controls.models import (
    CLASSES,
    DECODERS,
    HEAD_CLASSES,
    LAYERS,
    TRUNKS,
    blocks,
    build,
    close,
    inputs_for,
    is_gpt2,
    objective,
)
from tests.parity import bert_pairs
from tests.support import padded_batch


def count_calls(modules: Any) -> list[int]:
    """A list that grows by the number of positions of each call of these modules.

    Counted when a call begins, because recomputing stops as soon as it has all that the backward pass needs.
    """
    calls: list[int] = []
    for module in modules:
        module.register_forward_pre_hook(lambda _, inputs: calls.append(inputs[0].shape[1]))
    return calls


# -------------------------------------------------------------------------------------------- gradient checkpointing


@pytest.mark.parametrize("class_name", CLASSES)
def test_checkpointing_gives_equal_gradients_with_dropout_and_runs_layers_twice(class_name: str) -> None:
    # without a cache on either side: it stores keys contiguously, and a product may round by the layout
    model = build(class_name, use_cache=False).train()
    inputs = inputs_for(class_name)
    calls = count_calls(blocks(model))
    gradients = []
    for switch in (model.gradient_checkpointing_disable, model.gradient_checkpointing_enable):
        switch()
        model.zero_grad()
        calls.clear()
        torch.manual_seed(3)
        objective(class_name, model(**inputs)).backward()
        assert len(calls) == (2 * LAYERS if model.is_gradient_checkpointing else LAYERS)
        gradients.append({n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None})
    assert model.is_gradient_checkpointing
    assert gradients[0].keys() == gradients[1].keys()
    assert [name for name, gradient in gradients[0].items() if not torch.equal(gradient, gradients[1][name])] == []


def test_checkpointing_without_the_cache_that_was_the_default() -> None:
    model = build("GPT2LMHeadModel").double()
    inputs = inputs_for("GPT2LMHeadModel")
    gradients = []
    for enabled in (False, True):
        if enabled:
            model.train().gradient_checkpointing_enable()
            for module in model.modules():
                if isinstance(module, torch.nn.Dropout):
                    module.p = 0.0
        model.zero_grad()
        output = model(**inputs)
        assert (output.past_key_values is None) is enabled
        output.loss.backward()
        gradients.append([p.grad.clone() for p in model.parameters() if p.grad is not None])
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("class_name", DECODERS)
def test_checkpointing_with_everything_else_switched_on(class_name: str) -> None:
    """A head mask, probabilities, hidden states, chunks and cross-attention pass through the recomputed layer."""
    chunks = {} if is_gpt2(class_name) else {"chunk_size_feed_forward": 2}
    model = build(class_name, add_cross_attention=True, use_cache=False, **chunks).train()
    inputs = inputs_for(class_name)
    inputs["encoder_hidden_states"] = torch.randn(3, 4, 64)
    results = []
    for switch in (model.gradient_checkpointing_disable, model.gradient_checkpointing_enable):
        switch()
        head_mask = torch.full((4,), 0.5, requires_grad=True)
        torch.manual_seed(3)
        output = model(**inputs, head_mask=head_mask, output_attentions=True, output_hidden_states=True)
        output.hidden_states[1].retain_grad()
        (output.loss + output.attentions[1].square().sum() + output.cross_attentions[0].square().sum()).backward()
        results.append((output.loss.detach(), head_mask.grad, output.hidden_states[1].grad))
    assert all(torch.equal(one, other) for one, other in zip(*results, strict=True))


@pytest.mark.parametrize("trunk", TRUNKS)
def test_checkpointing_does_nothing_in_evaluation(trunk: str) -> None:
    model = build(trunk)
    model.gradient_checkpointing_enable()
    calls = count_calls(blocks(model))
    objective(trunk, model(**padded_batch())).backward()
    assert len(calls) == LAYERS


def test_only_the_form_that_is_implemented() -> None:
    model = build("GPT2LMHeadModel")
    assert model.supports_gradient_checkpointing
    model.gradient_checkpointing_enable({"use_reentrant": False})
    assert model.is_gradient_checkpointing
    model.gradient_checkpointing_disable()
    for settings in ({"use_reentrant": True}, {"preserve_rng_state": True}):
        with pytest.raises(ValueError, match="only use_reentrant=False is implemented"):
            model.gradient_checkpointing_enable(settings)
    assert not model.is_gradient_checkpointing


@pytest.mark.parametrize("class_name", DECODERS)
def test_checkpointing_and_the_cache(class_name: str) -> None:
    """A cache asked for is an error; the configuration's default gives way for the call and stays as it is."""
    model = build(class_name).train()
    model.gradient_checkpointing_enable()
    ids = padded_batch(padding="none")["input_ids"]
    written = model.config.to_json_string()
    assert model.config.use_cache
    assert model(ids).past_key_values is None
    for asked in ({"use_cache": True}, {"past_key_values": minitf.KVCache()}):
        with pytest.raises(
            ValueError, match=r"gradient checkpointing.*use_cache=False.*gradient_checkpointing_disable"
        ):
            model(ids, **asked)
    assert model(ids, use_cache=False).past_key_values is None
    assert model.config.to_json_string() == written
    assert isinstance(model.eval()(ids).past_key_values, minitf.KVCache)
    model.train().gradient_checkpointing_disable()
    assert isinstance(model(ids).past_key_values, minitf.KVCache)


@pytest.mark.parametrize("trunk", TRUNKS)
def test_old_files_switch_checkpointing_on_by_the_configuration(trunk: str, tmp_path: Path) -> None:
    build(trunk).save_pretrained(tmp_path)
    for value in (True, False):
        file = tmp_path / "config.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), "gradient_checkpointing": value}))
        assert getattr(minitf, trunk).from_pretrained(tmp_path).is_gradient_checkpointing is value


# -------------------------------------------------------------------------------------------------------------- chunks


@pytest.mark.parametrize(("size", "pieces"), [(0, [7]), (1, [1] * 7), (2, [2, 2, 2, 1]), (7, [7]), (50, [7])])
@pytest.mark.parametrize("class_name", ["BertModel", "BertForMaskedLM"])
def test_the_feed_forward_layer_runs_in_pieces(class_name: str, size: int, pieces: list[int]) -> None:
    model = build(class_name)
    inputs = inputs_for(class_name)
    with torch.no_grad():
        plain = model(**inputs)
    model.config.chunk_size_feed_forward = size
    intermediate = count_calls(layer.intermediate for layer in model.base_model.encoder.layer)
    output = count_calls(layer.output for layer in model.base_model.encoder.layer)
    chunked = model(**inputs)
    assert intermediate == output == pieces * LAYERS
    for one, other in zip(chunked, plain, strict=True):
        assert close(one, other)


def test_gradients_of_chunks() -> None:
    model = build("BertForSequenceClassification").double()
    inputs = inputs_for("BertForSequenceClassification")
    gradients = []
    for size in (0, 3):
        model.config.chunk_size_feed_forward = size
        model.zero_grad()
        model(**inputs).loss.backward()
        gradients.append([p.grad.clone() for p in model.parameters() if p.grad is not None])
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)


# ----------------------------------------------------------------------------------------------- pooler and freezing


def test_without_a_pooler() -> None:
    model = build("BertModel", arguments={"add_pooling_layer": False})
    assert model.pooler is None
    assert not [name for name in model.state_dict() if "pooler" in name]
    output = model(**padded_batch())
    assert output.pooler_output is None
    assert output.keys() == ["last_hidden_state"]
    whole = build("BertModel")
    assert torch.equal(output.last_hidden_state, whole(**padded_batch()).last_hidden_state)


@pytest.mark.parametrize("class_name", bert_pairs.HEADS)
def test_which_classes_have_a_pooler(class_name: str) -> None:
    without = ("BertLMHeadModel", "BertForMaskedLM", "BertForTokenClassification", "BertForQuestionAnswering")
    assert (build(class_name).bert.pooler is None) is (class_name in without)


@pytest.mark.parametrize("class_name", HEAD_CLASSES)
def test_a_frozen_trunk_gets_no_gradients_and_does_not_move(class_name: str) -> None:
    # all of GPT2LMHeadModel's head is tied to the trunk
    model = build(class_name, tie_word_embeddings=class_name != "GPT2LMHeadModel").train()
    trunk = f"{model.base_model_prefix}."
    for parameter in model.base_model.parameters():
        parameter.requires_grad = False
    head = [name for name, p in model.named_parameters() if p.requires_grad]
    assert head
    assert not [name for name in head if name.startswith(trunk)]
    assert model.num_parameters(only_trainable=True) == sum(model.get_parameter(name).numel() for name in head)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    optimiser = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.1)
    objective(class_name, model(**inputs_for(class_name))).backward()
    optimiser.step()
    got = [name for name, parameter in model.named_parameters() if parameter.grad is not None]
    assert got == head
    tied = {target for target, source in model.ties().items() if source.startswith(trunk)}
    moved = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    aliases = {target for target, source in model.ties().items() if source in head}
    assert moved == {*head, *aliases} - tied
