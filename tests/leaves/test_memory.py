"""Chunking that really splits, and checkpointing with the gradients of the ordinary call."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from minitf.memory import apply_chunking_to_forward, checkpointed


def feed_forward() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 10), nn.GELU(), nn.Linear(10, 6)).double()


@pytest.mark.parametrize("chunk_size", [0, 1, 2, 3, 4, 7, 100])
@pytest.mark.parametrize("chunk_dim", [0, 1, -2])
def test_pieces_give_the_whole(chunk_size: int, chunk_dim: int) -> None:
    network, x = feed_forward(), torch.randn(3, 7, 6, dtype=torch.float64)
    seen: list[tuple[int, ...]] = []

    def watched(piece: Tensor) -> Tensor:
        seen.append(tuple(piece.shape))
        out: Tensor = network(piece)
        return out

    result = apply_chunking_to_forward(watched, chunk_size, chunk_dim, x)
    torch.testing.assert_close(result, network(x), rtol=0, atol=1e-14)
    length = x.shape[chunk_dim]
    expected = [length] if chunk_size == 0 else [min(chunk_size, length - i) for i in range(0, length, chunk_size)]
    assert [shape[chunk_dim] for shape in seen] == expected  # it really splits, the last piece being what is left


def test_several_inputs_are_split_together() -> None:
    a, b = torch.arange(10.0).reshape(2, 5), torch.arange(10.0, 20.0).reshape(2, 5)
    assert torch.equal(apply_chunking_to_forward(torch.add, 2, 1, a, b), a + b)


def test_gradients_of_chunks() -> None:
    network, x = feed_forward(), torch.randn(3, 7, 6, dtype=torch.float64)
    whole = torch.autograd.grad(network(x).square().sum(), list(network.parameters()))
    pieces = torch.autograd.grad(apply_chunking_to_forward(network, 3, 1, x).square().sum(), list(network.parameters()))
    for one, other in zip(whole, pieces, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


def test_chunking_errors() -> None:
    with pytest.raises(ValueError, match="needs at least one tensor"):
        apply_chunking_to_forward(torch.relu, 2, 1)
    with pytest.raises(ValueError, match=r"the inputs have lengths \[4, 5\] along dimension 1"):
        apply_chunking_to_forward(torch.add, 2, 1, torch.ones(2, 4), torch.ones(2, 5))
    with pytest.raises(ValueError, match=r"chunk_size = -1: expected"):
        apply_chunking_to_forward(torch.relu, -1, 1, torch.ones(2, 4))


def test_checkpointed_gradients_are_equal_with_dropout() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(6, 50), nn.Dropout(0.5), nn.Linear(50, 6)).double().train()
    calls = []
    network[0].register_forward_hook(lambda *_: calls.append(1))
    results = []
    for recompute in (False, True):
        x = torch.randn(4, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(3)).requires_grad_()
        torch.manual_seed(5)
        out = checkpointed(network, x) if recompute else network(x)
        torch.rand(7)  # the random state moves on before the second pass, which must not matter
        grads = torch.autograd.grad(out.square().sum(), [x, *network.parameters()])
        results.append([out.detach(), *grads])
    assert len(calls) == 3  # once, then once forward and once more in the backward pass
    assert all(torch.equal(one, other) for one, other in zip(*results, strict=True))


def test_checkpointed_keeps_no_activations() -> None:
    """The wide activations inside are not saved for the backward pass."""
    network, x = feed_forward(), torch.randn(4, 6, dtype=torch.float64)
    saved: dict[bool, list[tuple[int, ...]]] = {False: [], True: []}
    for recompute, shapes in saved.items():

        def pack(tensor: Tensor, shapes: list[tuple[int, ...]] = shapes) -> Tensor:
            shapes.append(tuple(tensor.shape))
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            out = checkpointed(network, x.requires_grad_()) if recompute else network(x.requires_grad_())
        assert out.requires_grad
    assert (4, 10) in saved[False]
    assert (4, 10) not in saved[True]


def test_checkpointed_passes_keywords_and_refuses_bogus_ones() -> None:
    def scaled(x: Tensor, *, factor: float = 1.0) -> tuple[Tensor, None]:
        return x * factor, None

    x = torch.ones(3, requires_grad=True)
    out, nothing = checkpointed(scaled, x, factor=2.0)
    out.sum().backward()
    assert nothing is None
    assert x.grad is not None
    assert x.grad.tolist() == [2.0, 2.0, 2.0]
    with pytest.raises(TypeError, match="factr"):
        checkpointed(scaled, x, factr=2.0)
