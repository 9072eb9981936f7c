"""Attention heads: scaled by a head mask, or cut out for good."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import minitf
from tests.controls.models import ATTENTION, HEAD_SIZE, HEADS, LAYERS, build, close, config
from tests.parity.bert_pairs import CLASSES, inputs_for
from tests.support import padded_batch

FACTORS = torch.linspace(0.2, 1.6, LAYERS * HEADS).reshape(LAYERS, HEADS)


def hidden(model: Any, head_mask: torch.Tensor | None = None, **more: Any) -> torch.Tensor:
    with torch.no_grad():
        state: torch.Tensor = model(**padded_batch(), head_mask=head_mask, **more).last_hidden_state
    return state


# ----------------------------------------------------------------------------------------------------------- head_mask


@pytest.mark.parametrize("attention", ATTENTION)
def test_every_form_says_the_same(attention: str) -> None:
    model = build(attn_implementation=attention)
    two = FACTORS[:1].expand(LAYERS, HEADS)
    forms = [
        two[0],  # [H]
        two,  # [L, H]
        two.expand(3, LAYERS, HEADS),  # [B, L, H]
        two[:, None, :, None, None],  # [L, 1, H, 1, 1]
        two[:, None, :, None, None].expand(LAYERS, 3, HEADS, 7, 7),  # [L, B, H, T, S]
        two.double(),
    ]
    results = [hidden(model, form) for form in forms]
    assert all(torch.equal(result, results[0]) for result in results)
    assert not close(results[0], hidden(model))


def test_rows_layers_and_heads_are_not_confused() -> None:
    """[B, L, H] with a factor of its own everywhere equals each row alone with its [L, H]."""
    model = build()
    factors = torch.rand(3, LAYERS, HEADS, generator=torch.Generator().manual_seed(0))
    together = hidden(model, factors)
    for row in range(3):
        assert close(hidden(model, factors[row])[row], together[row])
    assert not close(hidden(model, factors[0])[1], together[1])


def test_the_attention_functions_agree_to_the_bit() -> None:
    eager, sdpa = build(attn_implementation="eager"), build(attn_implementation="sdpa")
    assert torch.equal(hidden(eager, FACTORS), hidden(sdpa, FACTORS))
    gradients = []
    for model in (eager, sdpa):
        factors = FACTORS.clone().requires_grad_()
        model(**padded_batch(), head_mask=factors).pooler_output.sum().backward()
        gradients.append(factors.grad)
    assert torch.equal(*gradients)


@pytest.mark.parametrize("class_name", CLASSES)
def test_the_gradient_reaches_the_head_mask(class_name: str) -> None:
    """Head importance (arXiv:1905.10650): |d loss / d factor|, checked against a difference quotient."""
    model = build(class_name).double()
    inputs = inputs_for(class_name)

    def loss(factors: torch.Tensor) -> torch.Tensor:
        output = model(**inputs, head_mask=factors)
        value: torch.Tensor = output.pooler_output.square().sum() if class_name == "BertModel" else output.loss
        return value

    factors = FACTORS.double().requires_grad_()
    (gradient,) = torch.autograd.grad(loss(factors), factors)
    assert gradient.abs().min() > 0
    step = torch.zeros_like(factors)
    step[1, 2] = 1e-5
    with torch.no_grad():
        quotient = (loss(factors + step) - loss(factors - step)) / 2e-5
    torch.testing.assert_close(gradient[1, 2], quotient, rtol=1e-5, atol=1e-7)


def test_a_head_mask_scales_the_returned_probabilities() -> None:
    model = build()
    with torch.no_grad():
        plain = model(**padded_batch(), output_attentions=True).attentions[0]
        scaled = model(**padded_batch(), output_attentions=True, head_mask=FACTORS).attentions[0]
    assert torch.equal(scaled, plain * FACTORS[0][None, :, None, None])


def test_ones_change_nothing_and_zeros_do() -> None:
    model = build(attn_implementation="eager")
    assert torch.equal(hidden(model, torch.ones(HEADS)), hidden(model))
    assert not close(hidden(model, torch.zeros(HEADS)), hidden(model))


@pytest.mark.parametrize(
    "shape",
    [(3,), (1,), (), (HEADS, LAYERS), (1, HEADS), (2, LAYERS, HEADS), (3, HEADS, LAYERS), (3, LAYERS, HEADS, 1),
     (LAYERS, 2, HEADS, 1, 1), (3, 1, HEADS, 1, 1), (LAYERS, 1, 2, 1, 1)],
)  # fmt: skip
def test_wrong_shapes(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError) as caught:
        hidden(build(), torch.ones(shape))
    message = str(caught.value)
    assert f"head_mask has shape {list(shape)}" in message
    assert "[4], [2, 4] or [3, 2, 4]" in message


@pytest.mark.parametrize("kind", [torch.long, torch.bool, torch.float64])
def test_whole_numbers_and_booleans_are_factors_too(kind: torch.dtype) -> None:
    factors = torch.tensor([1, 0, 1, 1])
    assert torch.equal(hidden(build(), factors.to(kind)), hidden(build(), factors.float()))
    layers = torch.tensor([0.5, 1.0])
    assert torch.equal(
        hidden(build(), layers[:, None, None, None, None]), hidden(build(), layers[:, None].repeat(1, HEADS))
    )


def test_wrong_kinds() -> None:
    with pytest.raises(TypeError, match="head_mask is a list; expected a tensor"):
        hidden(build(), [1.0] * HEADS)
    for wrong in (float("nan"), float("inf")):
        with pytest.raises(ValueError, match="head_mask holds NaN or infinity"):
            hidden(build(), torch.full((HEADS,), wrong))


def test_the_classic_functions_of_pruning() -> None:
    from minitf.pretrained import find_pruneable_heads_and_indices, prune_linear_layer

    new, index = find_pruneable_heads_and_indices(
        [1, 3], 3, 2, {1}
    )  # four heads of two columns, head 1 is gone already
    assert (new, index.tolist()) == ({3}, [0, 1, 2, 3])
    layer = torch.nn.Linear(3, 8)
    smaller = prune_linear_layer(layer, torch.tensor([0, 5]))
    assert torch.equal(smaller.weight, layer.weight[[0, 5]])
    assert torch.equal(smaller.bias, layer.bias[[0, 5]])
    assert prune_linear_layer(layer, torch.tensor([2]), dim=1).in_features == 1
    model = build()
    attention = model.encoder.layer[0].attention
    attention.prune_heads([1])
    attention.prune_heads([1])
    assert attention.self.query.out_features == 48
    with pytest.raises(ValueError, match="head 9 does not exist: expected a number from 0 to 3"):
        attention.prune_heads([9])
    with pytest.raises(RuntimeError, match=r"layer 0 lacks the heads \[1\], but config.pruned_heads says \[\]"):
        model.save_pretrained("never-written")
    other = build()
    other._prune_heads({0: [1]})
    assert other.config.pruned_heads == {0: [1]}


# ------------------------------------------------------------------------------------------------------------- pruning


def masked_out(*heads: tuple[int, int]) -> torch.Tensor:
    mask = torch.ones(LAYERS, HEADS)
    for layer, head in heads:
        mask[layer, head] = 0
    return mask


@pytest.mark.parametrize("attention", ATTENTION)
def test_pruned_equals_masked(attention: str) -> None:
    model = build(attn_implementation=attention)
    expected = hidden(model, masked_out((0, 1), (1, 0), (1, 3)))
    before = model.num_parameters()
    model.prune_heads({0: [1], 1: [0, 3]})
    assert close(hidden(model), expected)
    assert model.num_parameters() == before - 3 * (4 * 64 * HEAD_SIZE + 3 * HEAD_SIZE)
    assert model.config.pruned_heads == {0: [1], 1: [0, 3]}
    shapes = [tuple(layer.attention.self.query.weight.shape) for layer in model.encoder.layer]
    assert shapes == [(48, 64), (32, 64)]
    probs = model(**padded_batch(), output_attentions=True).attentions
    assert [p.shape[1] for p in probs] == [3, 2]


@pytest.mark.parametrize("attention", ATTENTION)
def test_a_whole_layer(attention: str) -> None:
    model = build(attn_implementation=attention)
    expected = hidden(model, torch.tensor([[0.0] * HEADS, [1.0] * HEADS]))
    model.prune_heads({0: [0, 1, 2, 3]})
    assert close(hidden(model), expected)
    model(**padded_batch()).pooler_output.sum().backward()
    assert model.encoder.layer[0].attention.self.query.weight.shape == (0, 64)
    assert model.encoder.layer[0].attention.output.dense.bias.grad.abs().sum() > 0


def test_calls_add_up_and_count_from_the_unpruned_model() -> None:
    stepwise, at_once = build(), build()
    for heads in ({0: [1]}, {0: [2], 1: [-1]}, {0: [1, 2]}, {-1: [3]}, {}, {1: []}):
        stepwise.prune_heads(heads)
    at_once.prune_heads({0: [2, 1], 1: [3]})
    assert stepwise.config.pruned_heads == at_once.config.pruned_heads == {0: [1, 2], 1: [3]}
    assert torch.equal(hidden(stepwise), hidden(at_once))
    for one, other in zip(stepwise.parameters(), at_once.parameters(), strict=True):
        assert torch.equal(one, other)


def test_pruning_the_same_head_twice_changes_nothing() -> None:
    model = build()
    model.prune_heads({1: [2]})
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model.prune_heads({1: [2]})
    model.prune_heads({-1: [-2]})
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert model.config.pruned_heads == {1: [2]}


def test_a_head_mask_keeps_the_numbers_of_the_unpruned_model() -> None:
    model = build()
    expected = hidden(model, masked_out((0, 1)) * FACTORS)
    model.prune_heads({0: [1]})
    assert close(hidden(model, FACTORS), expected)
    assert close(hidden(model, FACTORS[:, None, :, None, None]), expected)
    factors = FACTORS.clone().requires_grad_()
    model(**padded_batch(), head_mask=factors).pooler_output.sum().backward()
    assert (factors.grad == 0).nonzero().tolist() == [[0, 1]]
    with pytest.raises(ValueError, match=r"head_mask has shape \[3\]"):
        hidden(model, torch.ones(3))


@pytest.mark.parametrize("class_name", CLASSES)
def test_pruning_survives_a_file(class_name: str, tmp_path: Path) -> None:
    model = build(class_name)
    model.prune_heads({0: [0, 1, 2, 3], 1: [1]})
    model.save_pretrained(tmp_path)
    loaded = getattr(minitf, class_name).from_pretrained(tmp_path, strict=True)
    assert loaded.config.pruned_heads == {0: [0, 1, 2, 3], 1: [1]}
    assert loaded.num_parameters() == model.num_parameters()
    inputs = inputs_for(class_name)
    with torch.no_grad():
        assert all(
            torch.equal(a, b) for a, b in zip(loaded(**inputs), model(**inputs), strict=True) if torch.is_tensor(a)
        )
    loaded.prune_heads({1: [2]})  # counted on from what the file says
    assert loaded.config.pruned_heads == {0: [0, 1, 2, 3], 1: [1, 2]}
    assert loaded.base_model.encoder.layer[1].attention.self.query.weight.shape == (32, 64)


def test_a_pruned_trunk_goes_into_a_head_class_and_back(tmp_path: Path) -> None:
    trunk = build("BertModel")
    trunk.prune_heads({0: [3]})
    trunk.save_pretrained(tmp_path / "trunk")
    classifier = minitf.BertForSequenceClassification.from_pretrained(tmp_path / "trunk")
    assert torch.equal(hidden(classifier.bert), hidden(trunk))
    classifier.prune_heads({1: [0]})
    classifier.save_pretrained(tmp_path / "classifier")
    again = minitf.BertModel.from_pretrained(tmp_path / "classifier")
    assert again.config.pruned_heads == {0: [3], 1: [0]}
    assert torch.equal(hidden(again), hidden(classifier.bert))


def test_a_configuration_with_pruned_heads_builds_a_pruned_model() -> None:
    model = minitf.BertForMaskedLM(config(pruned_heads={1: [0, 2]}))
    shapes = [tuple(layer.attention.output.dense.weight.shape) for layer in model.bert.encoder.layer]
    assert shapes == [(64, 64), (64, 32)]


def test_pruned_decoding_with_a_cache() -> None:
    model = build("BertLMHeadModel")
    model.prune_heads({0: [0, 1], 1: [3]})
    ids = padded_batch(padding="none")["input_ids"]
    with torch.no_grad():
        cache = model(ids[:, :5]).past_key_values
        assert [key.shape[1] for key, _ in cache] == [2, 3]
        assert close(model(ids[:, 5:], past_key_values=cache).logits, model(ids).logits[:, 5:])


def test_training_and_freezing_are_kept() -> None:
    model = build().train()
    for parameter in model.parameters():
        parameter.requires_grad = False
    model.prune_heads({0: [1]})
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert all(module.training for module in model.modules())


@pytest.mark.parametrize(
    ("heads", "message"),
    [
        ({2: [0]}, "layer 2 does not exist; this model has 2 layers"),
        ({-3: [0]}, "layer -3 does not exist"),
        ({0: [4]}, "head 4 does not exist; this model has 4 heads"),
        ({0: [0], 1: [-5]}, "head -5 does not exist"),
        ({0: [1.0]}, "head 1.0"),
        ({0: [True]}, "head True"),
        ({"0": [1]}, "layer '0'"),
    ],
)
def test_heads_that_do_not_exist(heads: Any, message: str) -> None:
    model = build()
    before = model.num_parameters()
    with pytest.raises(ValueError) as caught:
        model.prune_heads(heads)
    assert message in str(caught.value)
    assert model.num_parameters() == before  # refused before anything was cut
    assert model.config.pruned_heads == {}
