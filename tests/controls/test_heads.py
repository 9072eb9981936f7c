"""Attention heads: scaled by a head mask, or cut out for good."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import minitf
from tests.controls.models import (
    ATTENTION,
    CLASSES,
    DECODERS,
    HEAD_SIZE,
    HEADS,
    LAYERS,
    TRUNKS,
    build,
    close,
    config,
    inputs_for,
    is_gpt2,
    objective,
    widths,
)
from tests.support import padded_batch

FACTORS = torch.linspace(0.2, 1.6, LAYERS * HEADS).reshape(LAYERS, HEADS)


def hidden(model: Any, head_mask: torch.Tensor | None = None, **more: Any) -> torch.Tensor:
    with torch.no_grad():
        state: torch.Tensor = model(**padded_batch(), head_mask=head_mask, **more).last_hidden_state
    return state


# ----------------------------------------------------------------------------------------------------------- head_mask


@pytest.mark.parametrize("attention", ATTENTION)
@pytest.mark.parametrize("trunk", TRUNKS)
def test_every_form_says_the_same(trunk: str, attention: str) -> None:
    model = build(trunk, attn_implementation=attention)
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


@pytest.mark.parametrize("trunk", TRUNKS)
def test_rows_layers_and_heads_are_not_confused(trunk: str) -> None:
    """[B, L, H] with a factor of its own everywhere equals each row alone with its [L, H]."""
    model = build(trunk)
    factors = torch.rand(3, LAYERS, HEADS, generator=torch.Generator().manual_seed(0))
    together = hidden(model, factors)
    for row in range(3):
        assert close(hidden(model, factors[row])[row], together[row])
    assert not close(hidden(model, factors[0])[1], together[1])


@pytest.mark.parametrize("trunk", TRUNKS)
def test_the_attention_functions_agree_to_the_bit(trunk: str) -> None:
    eager, sdpa = build(trunk, attn_implementation="eager"), build(trunk, attn_implementation="sdpa")
    assert torch.equal(hidden(eager, FACTORS), hidden(sdpa, FACTORS))
    gradients = []
    for model in (eager, sdpa):
        factors = FACTORS.clone().requires_grad_()
        objective(trunk, model(**padded_batch(), head_mask=factors)).backward()
        gradients.append(factors.grad)
    assert torch.equal(*gradients)


@pytest.mark.parametrize("class_name", CLASSES)
def test_the_gradient_reaches_the_head_mask(class_name: str) -> None:
    """Head importance (arXiv:1905.10650): |d loss / d factor|, checked against a difference quotient."""
    model = build(class_name).double()
    inputs = inputs_for(class_name)

    def loss(factors: torch.Tensor) -> torch.Tensor:
        return objective(class_name, model(**inputs, head_mask=factors))

    factors = FACTORS.double().requires_grad_()
    (gradient,) = torch.autograd.grad(loss(factors), factors)
    assert gradient.abs().min() > 0
    step = torch.zeros_like(factors)
    step[1, 2] = 1e-5
    with torch.no_grad():
        quotient = (loss(factors + step) - loss(factors - step)) / 2e-5
    torch.testing.assert_close(gradient[1, 2], quotient, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("trunk", TRUNKS)
def test_a_head_mask_scales_the_returned_probabilities(trunk: str) -> None:
    model = build(trunk)
    with torch.no_grad():
        plain = model(**padded_batch(), output_attentions=True).attentions[0]
        scaled = model(**padded_batch(), output_attentions=True, head_mask=FACTORS).attentions[0]
    assert torch.equal(scaled, plain * FACTORS[0][None, :, None, None])


@pytest.mark.parametrize("trunk", TRUNKS)
def test_ones_change_nothing_and_zeros_do(trunk: str) -> None:
    model = build(trunk, attn_implementation="eager")
    assert torch.equal(hidden(model, torch.ones(HEADS)), hidden(model))
    assert not close(hidden(model, torch.zeros(HEADS)), hidden(model))


@pytest.mark.parametrize(
    "shape",
    [(3,), (1,), (), (HEADS, LAYERS), (1, HEADS), (2, LAYERS, HEADS), (3, HEADS, LAYERS), (3, LAYERS, HEADS, 1),
     (LAYERS, 2, HEADS, 1, 1), (3, 1, HEADS, 1, 1), (LAYERS, 1, 2, 1, 1)],
)  # fmt: skip
@pytest.mark.parametrize("trunk", TRUNKS)
def test_wrong_shapes(trunk: str, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError) as caught:
        hidden(build(trunk), torch.ones(shape))
    message = str(caught.value)
    assert f"head_mask has shape {list(shape)}" in message
    assert "[4], [2, 4] or [3, 2, 4]" in message


@pytest.mark.parametrize("kind", [torch.long, torch.bool, torch.float64])
@pytest.mark.parametrize("trunk", TRUNKS)
def test_whole_numbers_and_booleans_are_factors_too(trunk: str, kind: torch.dtype) -> None:
    factors = torch.tensor([1, 0, 1, 1])
    assert torch.equal(hidden(build(trunk), factors.to(kind)), hidden(build(trunk), factors.float()))
    layers = torch.tensor([0.5, 1.0])
    assert torch.equal(
        hidden(build(trunk), layers[:, None, None, None, None]), hidden(build(trunk), layers[:, None].repeat(1, HEADS))
    )


@pytest.mark.parametrize("trunk", TRUNKS)
def test_wrong_kinds(trunk: str) -> None:
    with pytest.raises(TypeError, match="head_mask is a list; expected a tensor"):
        hidden(build(trunk), [1.0] * HEADS)
    for wrong in (float("nan"), float("inf")):
        with pytest.raises(ValueError, match="head_mask holds NaN or infinity"):
            hidden(build(trunk), torch.full((HEADS,), wrong))


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


def test_the_classic_functions_cut_a_conv1d_across() -> None:
    """Its rows are the inputs: `dim=1` cuts outputs and their biases, where `dim=0` does in an `nn.Linear`."""
    from minitf.pretrained import prune_linear_layer

    model = build("GPT2Model")
    layer = model.h[0].attn.c_attn
    fewer = prune_linear_layer(layer, torch.tensor([0, 5, 190]), dim=1)
    assert torch.equal(fewer.weight, layer.weight[:, [0, 5, 190]])
    assert torch.equal(fewer.bias, layer.bias[[0, 5, 190]])
    assert (fewer.nx, fewer.nf) == (64, 3)
    narrower = prune_linear_layer(layer, torch.tensor([2, 3]), dim=0)
    assert torch.equal(narrower.weight, layer.weight[[2, 3]])
    assert torch.equal(narrower.bias, layer.bias)
    assert (narrower.nx, narrower.nf) == (2, 192)
    attention = model.h[0].attn
    attention.prune_heads([1])
    attention.prune_heads([1])
    assert attention.c_attn.nf == 3 * 48
    with pytest.raises(ValueError, match="head 9 does not exist: expected a number from 0 to 3"):
        attention.prune_heads([9])
    with pytest.raises(RuntimeError, match=r"layer 0 lacks the heads \[1\], but config.pruned_heads says \[\]"):
        model.save_pretrained("never-written")


# ------------------------------------------------------------------------------------------------------------- pruning


def masked_out(*heads: tuple[int, int]) -> torch.Tensor:
    mask = torch.ones(LAYERS, HEADS)
    for layer, head in heads:
        mask[layer, head] = 0
    return mask


@pytest.mark.parametrize("attention", ATTENTION)
@pytest.mark.parametrize("trunk", TRUNKS)
def test_pruned_equals_masked(trunk: str, attention: str) -> None:
    model = build(trunk, attn_implementation=attention)
    expected = hidden(model, masked_out((0, 1), (1, 0), (1, 3)))
    before = model.num_parameters()
    model.prune_heads({0: [1], 1: [0, 3]})
    assert close(hidden(model), expected)
    assert model.num_parameters() == before - 3 * (4 * 64 * HEAD_SIZE + 3 * HEAD_SIZE)
    assert model.config.pruned_heads == {0: [1], 1: [0, 3]}
    assert widths(model) == [48, 32]
    probs = model(**padded_batch(), output_attentions=True).attentions
    assert [p.shape[1] for p in probs] == [3, 2]


@pytest.mark.parametrize("attention", ATTENTION)
@pytest.mark.parametrize("trunk", TRUNKS)
def test_a_whole_layer(trunk: str, attention: str) -> None:
    model = build(trunk, attn_implementation=attention)
    expected = hidden(model, torch.tensor([[0.0] * HEADS, [1.0] * HEADS]))
    model.prune_heads({0: [0, 1, 2, 3]})
    assert close(hidden(model), expected)
    objective(trunk, model(**padded_batch())).backward()
    assert widths(model) == [0, 64]
    output = model.h[0].attn.c_proj if is_gpt2(trunk) else model.encoder.layer[0].attention.output.dense
    assert output.bias.grad.abs().sum() > 0


@pytest.mark.parametrize("trunk", TRUNKS)
def test_calls_add_up_and_count_from_the_unpruned_model(trunk: str) -> None:
    stepwise, at_once = build(trunk), build(trunk)
    for heads in ({0: [1]}, {0: [2], 1: [-1]}, {0: [1, 2]}, {-1: [3]}, {}, {1: []}):
        stepwise.prune_heads(heads)
    at_once.prune_heads({0: [2, 1], 1: [3]})
    assert stepwise.config.pruned_heads == at_once.config.pruned_heads == {0: [1, 2], 1: [3]}
    assert torch.equal(hidden(stepwise), hidden(at_once))
    for one, other in zip(stepwise.parameters(), at_once.parameters(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("trunk", TRUNKS)
def test_pruning_the_same_head_twice_changes_nothing(trunk: str) -> None:
    model = build(trunk)
    model.prune_heads({1: [2]})
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model.prune_heads({1: [2]})
    model.prune_heads({-1: [-2]})
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert model.config.pruned_heads == {1: [2]}


@pytest.mark.parametrize("trunk", TRUNKS)
def test_a_head_mask_keeps_the_numbers_of_the_unpruned_model(trunk: str) -> None:
    model = build(trunk)
    expected = hidden(model, masked_out((0, 1)) * FACTORS)
    model.prune_heads({0: [1]})
    assert close(hidden(model, FACTORS), expected)
    assert close(hidden(model, FACTORS[:, None, :, None, None]), expected)
    factors = FACTORS.clone().requires_grad_()
    objective(trunk, model(**padded_batch(), head_mask=factors)).backward()
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
    assert widths(loaded) == [0, 32]


@pytest.mark.parametrize("class_name", ["BertForSequenceClassification", "GPT2ForSequenceClassification"])
def test_a_pruned_trunk_goes_into_a_head_class_and_back(class_name: str, tmp_path: Path) -> None:
    name = "GPT2Model" if is_gpt2(class_name) else "BertModel"
    trunk = build(name)
    trunk.prune_heads({0: [3]})
    trunk.save_pretrained(tmp_path / "trunk")
    classifier = getattr(minitf, class_name).from_pretrained(tmp_path / "trunk")
    assert torch.equal(hidden(classifier.base_model), hidden(trunk))
    classifier.prune_heads({1: [0]})
    classifier.save_pretrained(tmp_path / "classifier")
    again = getattr(minitf, name).from_pretrained(tmp_path / "classifier")
    assert again.config.pruned_heads == {0: [3], 1: [0]}
    assert torch.equal(hidden(again), hidden(classifier.base_model))


@pytest.mark.parametrize("class_name", CLASSES)
def test_a_configuration_with_pruned_heads_builds_a_pruned_model(class_name: str) -> None:
    model = getattr(minitf, class_name)(config(class_name, pruned_heads={1: [0, 2]}))
    assert widths(model) == [64, 32]


def test_pruning_leaves_cross_attention_whole() -> None:
    """As transformers 4.49 did; a head mask still counts the heads of the unpruned model, in both attentions."""
    ids, states = padded_batch(padding="none")["input_ids"], torch.randn(3, 5, 64)
    model = build("GPT2Model", add_cross_attention=True)
    pruned = build("GPT2Model", add_cross_attention=True)
    pruned.prune_heads({0: [1], 1: [0, 3]})
    with torch.no_grad():
        for layer, heads in ((0, [1]), (1, [0, 3])):
            for head in heads:  # what the head adds to the stream
                model.h[layer].attn.c_proj.weight[head * HEAD_SIZE : (head + 1) * HEAD_SIZE] = 0
        for mask in (None, FACTORS):
            given = {"encoder_hidden_states": states, "head_mask": mask, "output_attentions": True}
            expected, got = model(ids, **given), pruned(ids, **given)
            assert close(got.last_hidden_state, expected.last_hidden_state)
            assert [probs.shape[1] for probs in got.attentions] == [3, 2]
            assert [probs.shape[1] for probs in got.cross_attentions] == [4, 4]
            cache = pruned(ids[:, :4], encoder_hidden_states=states, head_mask=mask).past_key_values
            rest = pruned(ids[:, 4:], cache, encoder_hidden_states=states, head_mask=mask).last_hidden_state
            assert close(rest, expected.last_hidden_state[:, 4:])
    assert [tensor.shape[1] for tensor in cache[0]] == [3, 3, 4, 4]


@pytest.mark.parametrize("class_name", DECODERS)
def test_pruned_decoding_with_a_cache(class_name: str) -> None:
    model = build(class_name)
    model.prune_heads({0: [0, 1], 1: [3]})
    ids = padded_batch(padding="none")["input_ids"]
    with torch.no_grad():
        cache = model(ids[:, :5]).past_key_values
        assert [key.shape[1] for key, _ in cache] == [2, 3]
        assert close(model(ids[:, 5:], past_key_values=cache).logits, model(ids).logits[:, 5:])


@pytest.mark.parametrize("trunk", TRUNKS)
def test_training_and_freezing_are_kept(trunk: str) -> None:
    model = build(trunk).train()
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
@pytest.mark.parametrize("trunk", TRUNKS)
def test_heads_that_do_not_exist(trunk: str, heads: Any, message: str) -> None:
    model = build(trunk)
    before = model.num_parameters()
    with pytest.raises(ValueError) as caught:
        model.prune_heads(heads)
    assert message in str(caught.value)
    assert model.num_parameters() == before  # refused before anything was cut
    assert model.config.pruned_heads == {}
