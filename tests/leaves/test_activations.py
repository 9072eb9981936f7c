"""Activations: bit for bit those of transformers, and the statements about them hold."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from transformers.activations import ACT2FN as THEIRS

from minitf.activations import ACT2FN, get_activation

DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]


def inputs(dtype: torch.dtype) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    spread = torch.randn(4001, generator=generator, dtype=torch.float64) * 4
    return torch.cat([spread, torch.tensor([0.0, -0.0, 30.0, -30.0, 1e-7, -1e-7])]).to(dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", ACT2FN)
def test_equal_to_transformers_with_gradients(name: str, dtype: torch.dtype) -> None:
    ours, theirs = inputs(dtype).requires_grad_(), inputs(dtype).requires_grad_()
    result, expected = get_activation(name)(ours), THEIRS[name](theirs)
    assert torch.equal(result, expected)
    weights = torch.linspace(-1, 1, result.numel(), dtype=torch.float64).to(dtype)
    (result * weights).sum().backward()
    (expected * weights).sum().backward()
    assert ours.grad is not None
    assert theirs.grad is not None
    assert torch.equal(ours.grad, theirs.grad)
    assert torch.isfinite(result).all()


def test_the_names_that_published_configurations_use_are_there() -> None:
    assert {"gelu", "gelu_new", "gelu_pytorch_tanh", "gelu_fast", "quick_gelu", "relu", "silu", "tanh"} <= ACT2FN.keys()


def test_the_two_gelus_differ_by_at_most_what_the_text_says() -> None:
    x = torch.linspace(-10, 10, 2_000_001, dtype=torch.float64)
    difference = (get_activation("gelu")(x) - get_activation("gelu_new")(x)).abs().max().item()
    assert 4.6e-4 < difference <= 4.8e-4
    assert torch.allclose(get_activation("gelu")(x), get_activation("gelu_new")(x), rtol=0, atol=1e-3)


def test_gelu_is_x_times_the_gaussian_distribution_function() -> None:
    x = torch.linspace(-5, 5, 101, dtype=torch.float64)
    by_hand = torch.tensor([v * (1 + math.erf(v / math.sqrt(2))) / 2 for v in x.tolist()], dtype=torch.float64)
    for name in ("gelu", "gelu_python"):
        torch.testing.assert_close(get_activation(name)(x), by_hand, rtol=1e-14, atol=1e-15)


@pytest.mark.parametrize("name", ["gelu_new", "gelu_pytorch_tanh", "gelu_fast"])
def test_three_spellings_of_one_curve(name: str) -> None:
    x = torch.linspace(-6, 6, 1001, dtype=torch.float64)
    torch.testing.assert_close(get_activation(name)(x), get_activation("gelu_new")(x), rtol=0, atol=1e-9)


@pytest.mark.parametrize("name", ACT2FN)
def test_each_call_makes_a_module_of_its_own_without_state(name: str) -> None:
    first, second = get_activation(name), get_activation(name)
    assert isinstance(first, nn.Module)
    assert first is not second
    assert not first.state_dict()


def test_function_unchanged_and_unknown_name() -> None:
    assert get_activation(torch.relu) is torch.relu
    with pytest.raises(ValueError, match=r"activation 'geluu' is not implemented; known: gelu, .*takes new names"):
        get_activation("geluu")


def test_a_researcher_adds_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    from minitf.config import BertConfig

    class Cube(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x**3

    with pytest.raises(ValueError, match="hidden_act = 'cube'"):
        BertConfig(hidden_act="cube")
    monkeypatch.setitem(ACT2FN, "cube", Cube)
    assert isinstance(get_activation(BertConfig(hidden_act="cube").hidden_act), Cube)
