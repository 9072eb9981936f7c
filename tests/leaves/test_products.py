"""Products of a decoding step that are cut between the threads: right, and left whole where they should be."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from minitf import products


@pytest.fixture(autouse=True)
def small_matrices_are_cut(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    before = torch.get_num_threads()
    monkeypatch.setattr(products, "SMALLEST", 1)
    yield
    torch.set_num_threads(before)


def operands(
    batch: int, inputs: int, outputs: int, dtype: torch.dtype = torch.float32
) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(inputs)
    bias, x, weight = (
        torch.randn(shape, generator=generator, dtype=torch.float64)
        for shape in ((outputs,), (batch, 1, inputs), (inputs, outputs))
    )
    return bias.to(dtype), x.to(dtype), weight.to(dtype)


def plain(bias: Tensor, x: Tensor, weight: Tensor) -> Tensor:
    return torch.addmm(bias, x.reshape(-1, x.shape[-1]), weight).view(*x.shape[:-1], -1)


TOLERANCE = {torch.float64: 1e-13, torch.float32: 1e-5, torch.bfloat16: 4e-2, torch.float16: 5e-3}


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("threads", [2, 3, 4])
@pytest.mark.parametrize(("batch", "inputs", "outputs"), [(1, 48, 20), (1, 47, 7), (1, 1, 1), (3, 48, 20), (16, 6, 5)])
def test_close_to_the_exact_product(threads: int, batch: int, inputs: int, outputs: int, dtype: torch.dtype) -> None:
    torch.set_num_threads(threads)
    bias, x, weight = operands(batch, inputs, outputs, dtype)
    linear = products.Linear(inputs, outputs, bias=False).to(dtype)
    linear.weight = nn.Parameter(weight.t().contiguous())
    exact = plain(bias.double(), x.double(), weight.double())
    scale = (1 + x.abs().double()).matmul(weight.abs().double()) + 1  # of the terms of the sums
    with torch.no_grad():
        for result, expected in ((products.add_product(bias, x, weight), exact), (linear(x), exact - bias.double())):
            assert result.shape == (batch, 1, outputs)
            assert result.dtype == dtype
            assert result.is_contiguous()
            assert ((result.double() - expected).abs() <= TOLERANCE[dtype] * scale).all()


def test_the_bias_of_a_linear_layer_is_added() -> None:
    torch.set_num_threads(2)
    linear, x = products.Linear(48, 21), torch.randn(2, 1, 48)
    with torch.no_grad():
        assert torch.allclose(linear(x), nn.functional.linear(x, linear.weight, linear.bias), atol=1e-5)


def differs(monkeypatch: pytest.MonkeyPatch, x: Tensor, weight: Tensor) -> bool:
    """Whether a product is computed by another function of torch than the plain one."""
    called = []
    addmm = torch.addmm
    monkeypatch.setattr(torch, "addmm", lambda *inputs: called.append(1) or addmm(*inputs))
    products.add_product(torch.zeros(weight.shape[1]), x, weight)
    return not called


def test_what_is_cut_and_what_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.set_num_threads(2)
    weight, step = torch.randn(48, 20), torch.randn(1, 1, 48)
    with torch.no_grad():
        assert differs(monkeypatch, step, weight)
        assert differs(monkeypatch, torch.randn(16, 1, 48), weight)
        for other in (torch.randn(17, 1, 48), torch.randn(1, 2, 48), torch.randn(1, 48), torch.randn(2, 1, 1, 48)):
            assert not differs(monkeypatch, other, weight)
        assert not differs(monkeypatch, step, torch.randn(20, 48).t())
        monkeypatch.setattr(products, "SMALLEST", weight.numel() + 1)
        assert not differs(monkeypatch, step, weight)
        monkeypatch.setattr(products, "SMALLEST", weight.numel())
        assert differs(monkeypatch, step, weight)
        torch.set_num_threads(1)
        assert not differs(monkeypatch, step, weight)
        torch.set_num_threads(2)
    assert not differs(monkeypatch, step, weight)  # gradients are recorded


def test_one_thread_and_gradients_keep_the_bits() -> None:
    bias, x, weight = operands(2, 48, 20)
    expected = plain(bias, x, weight)
    linear = products.Linear(48, 20)
    torch.set_num_threads(2)
    assert torch.equal(products.add_product(bias, x, weight), expected)
    torch.set_num_threads(1)
    with torch.no_grad():
        assert torch.equal(products.add_product(bias, x, weight), plain(bias, x, weight))
        assert torch.equal(linear(x), nn.functional.linear(x, linear.weight, linear.bias))


def test_a_changed_weight_takes_effect() -> None:
    """Nothing of a weight is kept between two calls."""
    torch.set_num_threads(2)
    bias, x, weight = operands(1, 48, 20)
    with torch.no_grad():
        products.add_product(bias, x, weight)
        weight.mul_(2.0)
        assert torch.allclose(products.add_product(bias, x, weight), plain(bias, x, weight), atol=1e-4)


def test_autocast_keeps_its_dtype() -> None:
    torch.set_num_threads(2)
    bias, x, weight = operands(1, 48, 20)
    linear = products.Linear(48, 20)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert products.add_product(bias, x, weight).dtype == torch.bfloat16
        assert linear(x).dtype == torch.bfloat16
