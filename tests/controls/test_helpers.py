"""The public helpers of the classic names, and switches that are set in the configuration."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

import minitf
from tests.controls.models import (
    CLASSES,
    HEADS,
    LAYERS,
    SEVERAL,
    TRUNKS,
    build,
    close,
    config,
    inputs_for,
    is_gpt2,
    objective,
)
from tests.support import padded_batch

# ---------------------------------------------------------------------------------------------------------- activation


@pytest.mark.parametrize(
    ("class_name", "key"), [("BertForMaskedLM", "hidden_act"), ("GPT2LMHeadModel", "activation_function")]
)
def test_an_activation_given_as_a_function(class_name: str, key: str, tmp_path: Path) -> None:
    named, given = build(class_name, **{key: "relu"}), build(class_name, **{key: F.relu})
    with torch.no_grad():
        assert torch.equal(named(**padded_batch()).logits, given(**padded_batch()).logits)
        assert not close(build(class_name)(**padded_batch()).logits, given(**padded_batch()).logits)
        for twin in (copy.deepcopy(given), pickle.loads(pickle.dumps(given))):
            assert torch.equal(twin(**padded_batch()).logits, given(**padded_batch()).logits)
    with pytest.raises(ValueError, match=rf"{key} is a function, which JSON cannot hold.*ACT2FN"):
        given.save_pretrained(tmp_path)
    assert not list(tmp_path.iterdir())


# --------------------------------------------------------------------------------------------------------------- masks


def test_extended_attention_mask() -> None:
    model = build()
    padding = padded_batch()["attention_mask"]
    extended = model.get_extended_attention_mask(padding, (3, 7))
    minimum = torch.finfo(torch.float32).min
    assert extended.shape == (3, 1, 1, 7)
    assert torch.equal(extended[:, 0, 0] == 0, padding.bool())
    assert torch.equal(extended[:, 0, 0] == minimum, ~padding.bool())
    square = torch.rand(3, 7, 7) > 0.5
    assert torch.equal(model.get_extended_attention_mask(square, (3, 7))[:, 0] == 0, square)
    assert model.double().get_extended_attention_mask(padding, (3, 7)).min() == torch.finfo(torch.float64).min
    for decoder in (build("BertModel", is_decoder=True), build("GPT2Model")):
        causal = decoder.get_extended_attention_mask(padding, (3, 7))
        assert causal.shape == (3, 1, 7, 7)
        assert torch.equal(causal[:, 0] == 0, padding.bool()[:, None] & torch.ones(7, 7).tril().bool())
        assert decoder.get_extended_attention_mask(padding, (3, 2)).shape == (3, 1, 2, 7)
    with pytest.raises(ValueError, match=r"attention_mask has shape \[7\].*expected"):
        model.get_extended_attention_mask(padding[0], (3, 7))


@pytest.mark.parametrize("trunk", TRUNKS)
def test_invert_attention_mask(trunk: str) -> None:
    model = build(trunk)
    padding = padded_batch()["attention_mask"]
    inverted = model.invert_attention_mask(padding)
    assert torch.equal(inverted, build().get_extended_attention_mask(padding, (3, 7)))
    assert model.half().invert_attention_mask(padding[:, None].expand(3, 7, 7)).dtype == torch.float16


# A batch of two with three keys: a mask for all queries of a row, and one for each query.
PADDING = torch.tensor([[1, 1, 1], [1, 1, 0]])
SQUARE = torch.tensor([[[1, 0, 0], [1, 1, 0], [0, 1, 1]], [[1, 1, 0], [1, 1, 0], [0, 0, 0]]])
# What transformers 4.49.0 (5.x has no such methods) returned for BertModel(BertConfig(vocab_size=11, hidden_size=8,
# num_hidden_layers=2, num_attention_heads=2, intermediate_size=8, is_decoder=...)) from
# `model.get_extended_attention_mask(mask, (2, T))` and `model.invert_attention_mask(mask)`: 1 stands for 0.0 and 0 for
# -3.4028234663852886e+38; no other value occurred.
RECORDED_SQUARE = [[[[1, 0, 0], [1, 1, 0], [0, 1, 1]]], [[[1, 1, 0], [1, 1, 0], [0, 0, 0]]]]
RECORDED_MASKS: list[tuple[str, bool, torch.Tensor, int, list[Any]]] = [
    ("extended", False, PADDING, 3, [[[[1, 1, 1]]], [[[1, 1, 0]]]]),
    (
        "extended",
        True,
        PADDING,
        3,
        [[[[1, 0, 0], [1, 1, 0], [1, 1, 1]]], [[[1, 0, 0], [1, 1, 0], [1, 1, 0]]]],
    ),
    ("extended", True, PADDING, 2, [[[[1, 1, 0], [1, 1, 1]]], [[[1, 1, 0], [1, 1, 0]]]]),
    ("extended", False, SQUARE, 3, RECORDED_SQUARE),
    ("extended", True, SQUARE, 3, RECORDED_SQUARE),
    ("inverted", False, PADDING, 3, [[[[1, 1, 1]]], [[[1, 1, 0]]]]),
    ("inverted", False, SQUARE, 3, RECORDED_SQUARE),
]


@pytest.mark.parametrize(("method", "is_decoder", "mask", "queries", "recorded"), RECORDED_MASKS)
def test_the_masks_are_those_of_transformers_4(
    method: str, is_decoder: bool, mask: torch.Tensor, queries: int, recorded: list[Any]
) -> None:
    model = build(is_decoder=is_decoder)
    if method == "extended":
        ours = model.get_extended_attention_mask(mask, (2, queries))
    else:
        ours = model.invert_attention_mask(mask)
    expected = torch.where(torch.tensor(recorded) == 1, 0.0, -3.4028234663852886e38)
    assert ours.dtype == torch.float32
    assert torch.equal(ours, expected)


# What 4.49.0 returned from `model.get_head_mask(torch.tensor(given), 2)`, of the shape [L, 1, H, 1, 1].
RECORDED_HEAD_MASKS: dict[str, tuple[list[Any], list[Any]]] = {
    "[H]": ([0.5, 0.25], [[[[[0.5]], [[0.25]]]], [[[[0.5]], [[0.25]]]]]),
    "[L, H]": ([[0.5, 0.25], [1.0, 0.0]], [[[[[0.5]], [[0.25]]]], [[[[1.0]], [[0.0]]]]]),
}


@pytest.mark.parametrize("kind", RECORDED_HEAD_MASKS)
def test_the_head_masks_are_those_of_transformers_4(kind: str) -> None:
    given, recorded = RECORDED_HEAD_MASKS[kind]
    layers = build(num_attention_heads=2).get_head_mask(torch.tensor(given), LAYERS)
    assert torch.equal(torch.stack(layers), torch.tensor(recorded))


@pytest.mark.parametrize("trunk", TRUNKS)
def test_get_head_mask(trunk: str) -> None:
    model = build(trunk)
    assert model.get_head_mask(None, LAYERS) == [None] * LAYERS  # as transformers 4.49.0
    factors = torch.rand(3, LAYERS, HEADS)
    for given, shape in ((factors[0, 0], (1, 4, 1, 1)), (factors[0], (1, 4, 1, 1)), (factors, (3, 4, 1, 1))):
        layers = model.get_head_mask(given, LAYERS)
        assert [tuple(layer.shape) for layer in layers] == [shape] * LAYERS
    assert torch.equal(model.get_head_mask(factors, LAYERS)[1][:, :, 0, 0], factors[:, 1])
    assert model.half().get_head_mask(factors, LAYERS)[0].dtype == torch.float16


# ------------------------------------------------------------------------------------------------------------ the tree


@pytest.mark.parametrize("class_name", CLASSES)
def test_trunk_prefix_and_dummy_inputs(class_name: str) -> None:
    model = build(class_name)
    prefix = "transformer" if is_gpt2(class_name) else "bert"
    assert model.base_model_prefix == prefix
    assert model.base_model is (model if class_name in TRUNKS else getattr(model, prefix))
    inputs = model.dummy_inputs
    shape = (3, 1, 5) if class_name in SEVERAL else (3, 5)
    assert {name: tuple(value.shape) for name, value in inputs.items()} == {"input_ids": shape}
    assert len(model(**inputs)) > 0
    small = getattr(minitf, class_name)(config(class_name, vocab_size=3))
    assert small.dummy_inputs["input_ids"].max() < 3
    if is_gpt2(class_name):
        unpadded = getattr(minitf, class_name)(config(class_name, pad_token_id=None))
        assert len(unpadded(**unpadded.dummy_inputs)) > 0


@pytest.mark.parametrize("class_name", CLASSES)
def test_init_weights_and_post_init_draw_fresh_weights(class_name: str) -> None:
    """By the rules, in one order: a second call with the same seed gives the same weights."""
    model = build(class_name)
    states = []
    for initialise in (model.init_weights, model.post_init):
        torch.manual_seed(2)
        model.base_model.init_weights()
        initialise()
        states.append({name: tensor.clone() for name, tensor in model.state_dict().items()})
    assert all(torch.equal(tensor, states[1][name]) for name, tensor in states[0].items())
    for name, tensor in states[0].items():
        spread = 0.01 if name.endswith("c_proj.weight") else 0.02  # 0.02 / sqrt(2 * 2 layers)
        if name.endswith(("LayerNorm.weight", "ln_1.weight", "ln_2.weight", "ln_f.weight")):
            assert torch.equal(tensor, torch.ones_like(tensor)), name
        elif name.endswith("bias"):
            assert tensor.abs().max() == 0, name
        elif tensor.numel() > 1000:
            assert 0.85 * spread < tensor.std() < 1.15 * spread, name
    words = model.get_input_embeddings().weight
    assert bool(words[0].any()) is is_gpt2(class_name)  # BERT's padding token is 0; GPT-2 has none
    model.check_ties()


# ------------------------------------------------------------------------------------------------------------ switches


@pytest.mark.parametrize("class_name", CLASSES)
def test_outputs_asked_for_in_the_configuration(class_name: str) -> None:
    model = build(class_name)
    inputs = inputs_for(class_name)
    with torch.no_grad():
        plain = model(**inputs)
        asked = model(**inputs, output_hidden_states=True, output_attentions=True)
        model.config.output_hidden_states = model.config.output_attentions = True
        configured = model(**inputs)
        refused = model(**inputs, output_hidden_states=False, output_attentions=False)
    assert plain.hidden_states is plain.attentions is refused.hidden_states is refused.attentions is None
    assert len(configured.hidden_states) == LAYERS + 1
    assert len(configured.attentions) == LAYERS
    for name in ("hidden_states", "attentions"):
        assert all(torch.equal(a, b) for a, b in zip(configured[name], asked[name], strict=True))
    model.config.return_dict = False
    assert type(model(**inputs)) is tuple
    assert type(model(**inputs, return_dict=True)) is type(plain)


@pytest.mark.parametrize("class_name", CLASSES)
@pytest.mark.parametrize("checkpointing", [False, True], ids=["stored", "recomputed"])
def test_gradients_of_hidden_states(class_name: str, checkpointing: bool) -> None:
    """The tensors in the output are those that the next layer reads, so gradients arrive at them."""
    model: Any = build(class_name).train(checkpointing)
    if checkpointing:
        model.gradient_checkpointing_enable()
    output = model(**inputs_for(class_name), output_hidden_states=True, output_attentions=True)
    states = (*output.hidden_states, *output.attentions)
    assert len(states) == 2 * LAYERS + 1
    for state in states:
        state.retain_grad()
    objective(class_name, output).backward()
    assert all(state.grad is not None and state.grad.abs().sum() > 0 for state in states)


# ------------------------------------------------------------------------------------------------------- the tutorials


def test_the_loss_of_a_language_model_can_be_made_outside() -> None:
    """Labels equal to the ids count every token, padding too; -100 leaves tokens out; the shift is the model's."""
    model, inputs = build("GPT2LMHeadModel"), inputs_for("GPT2LMHeadModel", labels=False)
    ids, mask = inputs["input_ids"], inputs["attention_mask"]
    with torch.no_grad():
        output = model(**inputs, labels=ids)
        outside = F.cross_entropy(output.logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())
        torch.testing.assert_close(output.loss, outside)
        tokens = model(**inputs, labels=ids.masked_fill(mask == 0, -100)).loss
        scored = mask[:, 1:].bool()
        torch.testing.assert_close(tokens, F.cross_entropy(output.logits[:, :-1][scored], ids[:, 1:][scored]))
    assert not torch.allclose(tokens, output.loss)
    assert torch.equal(output[0], output.loss)
    assert torch.equal(output[1], output.logits)


@pytest.mark.parametrize("class_name", CLASSES)
def test_the_last_two_are_hidden_states_and_attentions(class_name: str, tmp_path: Path) -> None:
    """`all_hidden_states, all_attentions = model(input_ids)[-2:]`, asked for while loading, for all classes."""
    build(class_name).save_pretrained(tmp_path)
    model = getattr(minitf, class_name).from_pretrained(tmp_path, output_hidden_states=True, output_attentions=True)
    with torch.no_grad():
        hidden_states, attentions = model(inputs_for(class_name)["input_ids"])[-2:]
    assert (len(hidden_states), len(attentions)) == (LAYERS + 1, LAYERS)
    rows = 9 if class_name in SEVERAL else 3
    assert attentions[0].shape == (rows, HEADS, 7, 7)
    assert hidden_states[0].shape == (rows, 7, 64)
