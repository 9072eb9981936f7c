"""Any mask, any dtype: no NaN in the result or in a gradient, and 0 where a query may attend to nothing."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from minitf.attention import ATTENTION
from tests.controls.models import build

DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
B, T, S, H, D = 2, 3, 4, 2, 8


@st.composite
def boolean_masks(draw: st.DrawFn, shape: tuple[int, ...], rows: int) -> torch.Tensor:
    """A mask of this shape; whole rows (of the last dimension) are hidden more often than chance would hide them."""
    size = torch.Size(shape).numel()
    mask = torch.tensor(draw(st.lists(st.booleans(), min_size=size, max_size=size))).reshape(shape)
    hidden = draw(st.lists(st.booleans(), min_size=rows, max_size=rows))
    return mask & ~torch.tensor(hidden).reshape(*shape[:-1], 1)


def assert_finite(*tensors: torch.Tensor | None) -> None:
    for tensor in tensors:
        assert tensor is not None
        assert torch.isfinite(tensor).all()


@pytest.mark.parametrize("biased", [False, True], ids=["plain", "relative"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", ["eager", "sdpa"])
@settings(max_examples=30, deadline=None, derandomize=True)
@given(mask=boolean_masks((B, 1, T, S), B * T), size=st.sampled_from([1.0, 20.0]))
def test_attention(name: str, dtype: torch.dtype, biased: bool, mask: torch.Tensor, size: float) -> None:
    """Under every attention function: context 0 and gradient 0 for a query that may attend to nothing."""
    generator = torch.Generator().manual_seed(0)

    def tensor(*shape: int) -> torch.Tensor:
        return (size * torch.randn(*shape, generator=generator)).to(dtype).requires_grad_()

    query, key, value = tensor(B, H, T, D), tensor(B, H, S, D), tensor(B, H, S, D)
    bias = tensor(B, H, T, S) if biased else None
    context, probs = ATTENTION[name](
        torch.nn.Identity(), query, key, value, mask, scale=D**-0.5, dropout=0.0, bias=bias
    )
    assert context.dtype == dtype
    assert_finite(context)
    context.sum().backward()
    assert_finite(query.grad, key.grad, value.grad)
    nothing = ~mask.any(-1).expand(B, H, T)
    assert query.grad is not None
    assert torch.equal(context[nothing], torch.zeros_like(context[nothing]))
    assert torch.equal(query.grad[nothing], torch.zeros_like(query.grad[nothing]))
    if bias is not None:
        assert_finite(bias.grad)
    if probs is not None:
        assert_finite(probs)
        assert probs[nothing].abs().sum() == 0
        sums = probs.sum(-1)[~nothing]
        torch.testing.assert_close(sums, torch.ones_like(sums), rtol=0, atol=0.01)
        assert (probs.masked_select(~mask.expand_as(probs)) == 0).all()


MODELS: dict[tuple[str, torch.dtype, bool], Any] = {}


def model_for(name: str, dtype: torch.dtype, is_decoder: bool) -> Any:
    key = (name, dtype, is_decoder)
    if key not in MODELS:
        MODELS[key] = build("BertModel", attn_implementation=name, is_decoder=is_decoder).to(dtype)
    return MODELS[key]


@pytest.mark.parametrize("is_decoder", [False, True], ids=["encoder", "decoder"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", ["eager", "sdpa"])
@settings(max_examples=10, deadline=None, derandomize=True)
@given(data=st.data())
def test_models(name: str, dtype: torch.dtype, is_decoder: bool, data: st.DataObject) -> None:
    """Forward and every gradient, with masks of all three shapes and rows that hide everything."""
    shape, rows = data.draw(st.sampled_from([((3, 5), 3), ((3, 5, 5), 15), ((3, 1, 5, 5), 15)]))
    mask = data.draw(boolean_masks(shape, rows))
    model = model_for(name, dtype, is_decoder)
    model.zero_grad()
    ids = torch.arange(15).reshape(3, 5)
    output = model(ids, attention_mask=mask, use_cache=False)
    assert output.last_hidden_state.dtype == dtype
    assert_finite(output.last_hidden_state, output.pooler_output)
    (output.last_hidden_state.float().square().mean() + output.pooler_output.float().mean()).backward()
    assert_finite(*(parameter.grad for parameter in model.parameters()))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", ["eager", "sdpa"])
def test_a_row_that_hides_everything_is_the_layer_without_attention(name: str, dtype: torch.dtype) -> None:
    """Context 0: what is left of the attention block is the bias of its output layer and the residual."""
    model = model_for(name, dtype, False)
    ids = torch.arange(10).reshape(2, 5)
    mask = torch.ones(2, 5)
    mask[1] = 0
    with torch.no_grad():
        block = model.encoder.layer[0].attention
        hidden = model.embeddings(ids)
        attended = block(hidden, mask.bool()[:, None, None])[0]
        expected = block.output(torch.zeros_like(hidden), hidden)
        assert torch.equal(attended[1], expected[1])
        assert not torch.equal(attended[0], expected[0])
        probs = model(ids, attention_mask=mask, output_attentions=True).attentions
        assert all(layer[1].abs().sum() == 0 for layer in probs)
        assert_finite(model(ids, attention_mask=mask).last_hidden_state)
