"""Training an adapter: what is frozen, what moves, how much that is; and bottlenecks by their formula."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from minitf.surgery import (
    Bottleneck,
    Lora,
    add_adapter,
    delete_adapter,
    list_adapters,
    merge,
    set_active_adapters,
    train_adapter,
)
from minitf.surgery.adapters import pieces_named
from tests.surgery.models import EVERY, base_state, batch, bert, gpt2, logits, stir


def loss_of(model: Any) -> torch.Tensor:
    inputs = batch(model)
    labels = inputs["input_ids"] if model.config.model_type == "gpt2" else torch.tensor([0, 1, 1])
    loss: torch.Tensor = model(**inputs, labels=labels).loss
    return loss


def train(model: nn.Module, steps: int = 20) -> list[float]:
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    losses = []
    for _ in range(steps):
        loss = loss_of(model)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize("settings", [Lora(r=4, dropout=0.1), Bottleneck(size=6)], ids=lambda s: type(s).__name__)
@pytest.mark.parametrize("name", EVERY)
def test_twenty_steps_lower_the_loss_and_leave_every_base_weight_as_it_was(name: str, settings: Any) -> None:
    torch.manual_seed(0)
    model = EVERY[name]()
    state = base_state(model)
    add_adapter(model, "a", settings)
    train_adapter(model, "a")
    losses = train(model)
    assert sum(losses[-5:]) < 0.9 * sum(losses[:5])
    assert all(torch.equal(tensor, state[key]) for key, tensor in base_state(model).items())
    assert all(p.grad is None for key, p in model.named_parameters() if ".adapters." not in key)
    moved = [p for piece in pieces_named(model, "a").values() for p in piece.parameters()]
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in moved)


def test_train_adapter_counts_what_it_left_trainable() -> None:
    model = bert()
    total = sum(p.numel() for p in model.parameters())
    info = add_adapter(model, "a", Lora(r=2))
    assert info.parameters == 4 * 2 * (32 + 32)
    result = train_adapter(model, "a", also="classifier")
    assert result.trainable == info.parameters + 32 * 2 + 2
    assert result.total == total + info.parameters
    assert result.trainable == sum(p.numel() for p in model.parameters() if p.requires_grad)
    share = 100 * result.trainable / result.total
    assert str(result) == f"a, classifier: 578 of {result.total:,} parameters are trainable ({share:.3f} %)"
    assert model.training
    assert str(list_adapters(model)[0]) == "a: Lora in 4 places, 512 parameters, active, trainable, with classifier"


def test_only_the_named_adapters_are_trained_and_active() -> None:
    model = gpt2()
    for name in "abc":
        add_adapter(model, name, Lora(r=2))
        stir(model, name, seed=ord(name))
    assert [(info.name, info.active) for info in list_adapters(model)] == [("a", False), ("b", False), ("c", True)]
    train_adapter(model, ["a", "c"])
    assert [(info.active, info.trainable) for info in list_adapters(model)] == [
        (True, True),
        (False, False),
        (True, True),
    ]
    b = [p.clone() for piece in pieces_named(model, "b").values() for p in piece.parameters()]
    train(model, steps=2)
    after = [p for piece in pieces_named(model, "b").values() for p in piece.parameters()]
    assert all(torch.equal(one, two) for one, two in zip(b, after, strict=True))
    set_active_adapters(model, "b")
    assert [info.active for info in list_adapters(model)] == [False, True, False]


def test_a_module_trained_along_may_hold_other_adapters_which_stay_frozen() -> None:
    model = bert()
    add_adapter(model, "a", Lora(r=2))
    add_adapter(model, "b", Lora(r=2))
    train_adapter(model, "b", also="bert.encoder.layer.1")
    trainable = {key for key, p in model.named_parameters() if p.requires_grad}
    assert not [key for key in trainable if ".adapters.a." in key]
    assert "bert.encoder.layer.1.output.dense.weight" in trainable
    assert "bert.encoder.layer.0.output.dense.weight" not in trainable
    assert len([key for key in trainable if ".adapters.b." in key]) == 8


@pytest.mark.parametrize(
    ("names", "also", "message"),
    [
        ("b", (), "the model has no adapter 'b'; it has 'a'"),
        ([], (), "no adapter is named: nothing would be trained"),
        ("a", "clasifier", "did you mean 'classifier'"),
        ("a", "**.adapters", "matches no name here"),
    ],
)
def test_train_adapter_in_vain_changes_nothing(names: Any, also: Any, message: str) -> None:
    model = bert()
    add_adapter(model, "a")
    with pytest.raises(ValueError, match=message):
        train_adapter(model, names, also=also)
    assert all(p.requires_grad for p in model.parameters())
    assert not model.training


def test_a_tied_matrix_is_not_trained_along_by_its_other_name() -> None:
    model = bert("BertForMaskedLM")
    add_adapter(model, "a")
    with pytest.raises(
        ValueError, match=r"cls\.predictions\.decoder\.weight is the same parameter as bert\.embeddings"
    ):
        train_adapter(model, "a", also="cls")
    train_adapter(model, "a", also="cls.predictions.transform")
    assert not model.bert.embeddings.word_embeddings.weight.requires_grad


def test_unknown_names_of_the_other_functions() -> None:
    model = bert()
    for function in (delete_adapter, set_active_adapters):
        with pytest.raises(ValueError, match="the model has no adapter 'a'; it has none"):
            function(model, "a")
    add_adapter(model, "reviews")
    with pytest.raises(ValueError, match="did you mean 'reviews'"):
        set_active_adapters(model, ["reviews", "review"])
    assert list_adapters(model)[0].active


def test_dropout_acts_in_training_only() -> None:
    layer = nn.Sequential(nn.Linear(8, 8)).eval()
    x = torch.ones(1, 8)
    add_adapter(layer, "a", Lora(r=2, dropout=0.5, targets="0"))
    stir(layer, "a")
    assert not layer[0].adapters["a"].dropout.training  # an adapter takes over the mode of its layer
    assert torch.equal(layer(x), layer(x))
    layer.train()
    assert len({layer(x).sum().item() for _ in range(8)}) > 1
    torch.manual_seed(1)
    kept = F.dropout(x, 0.5)
    torch.manual_seed(1)
    low = layer[0].adapters["a"].low["whole"]
    torch.testing.assert_close(layer(x), layer[0].weight @ x[0] + layer[0].bias + 8 * kept @ low.A.t() @ low.B.t())


# --------------------------------------------------------------------------------------------------------------------
# Bottlenecks


def test_a_bottleneck_by_hand_on_bert() -> None:
    """Houlsby et al., figure 2: behind the projection and its dropout, before the residual and the LayerNorm."""
    model = bert("BertModel")
    add_adapter(model, "a", Bottleneck(size=5))
    stir(model, "a")
    layer = model.encoder.layer[0]
    x, context = torch.randn(2, 3, 32), torch.randn(2, 3, 32)
    for output, inputs in ((layer.attention.output, context), (layer.output, torch.randn(2, 3, 48))):
        piece = output.dropout.adapters["a"]
        projected = output.dense(inputs)
        hidden = F.gelu(projected @ piece.down.weight.t() + piece.down.bias)
        changed = projected + hidden @ piece.up.weight.t() + piece.up.bias
        torch.testing.assert_close(output(inputs, x), output.LayerNorm(changed + x))


def test_a_bottleneck_by_hand_on_gpt2() -> None:
    model = gpt2()
    add_adapter(model, "a", Bottleneck(size=5))
    mlp, x = model.transformer.h[1].mlp, torch.randn(2, 3, 32)
    projected = mlp(x)
    stir(model, "a")
    piece = mlp.dropout.adapters["a"]
    torch.testing.assert_close(mlp(x), projected + piece.up(F.gelu(piece.down(projected))))


@pytest.mark.parametrize("name", EVERY)
def test_a_new_bottleneck_is_the_identity_in_two_places_a_layer(name: str) -> None:
    model = EVERY[name]()
    before = logits(model)
    info = add_adapter(model, "a", Bottleneck(size=5))
    assert info.parameters == 4 * (2 * 32 * 5 + 5 + 32)
    assert torch.equal(logits(model), before)
    down = pieces_named(model, "a")[info.settings.targets[0]].down.weight
    assert 0.005 < down.std() < 0.015
    stir(model, "a")
    assert not torch.allclose(logits(model), before, atol=1e-3)
    delete_adapter(model, "a")
    assert torch.equal(logits(model), before)


def test_bottlenecks_follow_each_other_in_the_order_in_which_they_were_added() -> None:
    layer, x = nn.Sequential(nn.Linear(4, 6)), torch.randn(3, 4)
    plain = layer(x)
    for seed, name in enumerate(("b", "a")):
        add_adapter(layer, name, Bottleneck(size=2, targets="0"))
        stir(layer, name, seed)
    set_active_adapters(layer, ["a", "b"])
    first, second = layer[0].adapters["b"], layer[0].adapters["a"]
    once = plain + first.up(F.gelu(first.down(plain)))
    torch.testing.assert_close(layer(x), once + second.up(F.gelu(second.down(once))))


def test_where_a_bottleneck_does_not_fit() -> None:
    model = bert("BertModel")
    add_adapter(model, "a", Bottleneck(size=5, targets="**.attention.self"))
    with pytest.raises(
        RuntimeError, match=r"attention\.self returns an output that is a tuple; a bottleneck here needs"
    ):
        model(torch.tensor([[1, 2]]))
    delete_adapter(model, "a")
    add_adapter(model, "a", Bottleneck(size=5, targets="**.intermediate"))
    with pytest.raises(
        RuntimeError, match=r"intermediate returns an output that is 48 wide; .* needs a tensor 32 wide"
    ):
        model(torch.tensor([[1, 2]]))
    with pytest.raises(ValueError, match="the width of its output is not known"):
        add_adapter(nn.Sequential(nn.Linear(2, 2), nn.ReLU()), "a", Bottleneck(targets="1"))


def test_lora_beside_a_bottleneck_is_merged_alone() -> None:
    model = gpt2()
    add_adapter(model, "low", Lora(r=2))
    add_adapter(model, "neck", Bottleneck(size=3))
    stir(model, "low")
    stir(model, "neck", seed=1)
    set_active_adapters(model, ["low", "neck"])
    both = logits(model)
    merged = merge(model, "low")
    assert [info.name for info in list_adapters(model)] == ["neck"]
    torch.testing.assert_close(logits(model), both, rtol=1e-5, atol=1e-5)
    other = copy.deepcopy(model)
    merged.undo()
    assert torch.equal(logits(model), both)
    assert len(list_adapters(other)) == 1
