"""Any mask, any dtype: no NaN in the result or in a gradient, and 0 where a query may attend to nothing."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from minitf.attention import ATTENTION
from minitf.cache import KVCache
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


KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "encoder": ("BertModel", {}),
    "decoder": ("BertModel", {"is_decoder": True}),
    "GPT-2": ("GPT2Model", {}),
    "GPT-2, upcast": ("GPT2Model", {"reorder_and_upcast_attn": True}),
}


@functools.cache
def model_for(name: str, dtype: torch.dtype, kind: str) -> Any:
    class_name, settings = KINDS[kind]
    return build(class_name, attn_implementation=name, **settings).to(dtype)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", ["eager", "sdpa"])
@settings(max_examples=10, deadline=None, derandomize=True)
@given(data=st.data())
def test_models(name: str, dtype: torch.dtype, kind: str, data: st.DataObject) -> None:
    """Forward and every gradient, with masks of all three shapes and rows that hide everything."""
    shape, rows = data.draw(st.sampled_from([((3, 5), 3), ((3, 5, 5), 15), ((3, 1, 5, 5), 15)]))
    mask = data.draw(boolean_masks(shape, rows))
    model = model_for(name, dtype, kind)
    model.zero_grad()
    ids = torch.arange(15).reshape(3, 5)
    output = model(ids, attention_mask=mask, use_cache=False)
    assert output.last_hidden_state.dtype == dtype
    assert_finite(output.last_hidden_state)
    total = output.last_hidden_state.float().square().mean()
    if kind in ("encoder", "decoder"):
        assert_finite(output.pooler_output)
        total = total + output.pooler_output.float().mean()
    total.backward()
    assert_finite(*(parameter.grad for parameter in model.parameters()))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", ["eager", "sdpa"])
def test_a_row_that_hides_everything_is_the_layer_without_attention(name: str, dtype: torch.dtype) -> None:
    """Context 0: what is left of the attention block is the bias of its output layer and the residual."""
    model = model_for(name, dtype, "encoder")
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


@pytest.mark.parametrize("kind", ["GPT-2", "GPT-2, upcast"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", ["eager", "sdpa"])
def test_a_row_of_gpt2_that_hides_everything(name: str, dtype: torch.dtype, kind: str) -> None:
    """What the attention adds to the stream is then the bias of its output layer; so it is in steps with a cache."""
    model = model_for(name, dtype, kind)
    ids = torch.arange(10).reshape(2, 5)
    mask = torch.ones(2, 5)
    mask[1] = 0
    with torch.no_grad():
        hidden = model.wte(ids)
        attended, _ = model.h[0].attn(hidden, mask.bool()[:, None, None])
        assert torch.equal(attended[1], model.h[0].attn.c_proj.bias.expand(5, 64))
        assert not torch.equal(attended[0], attended[1])
        output = model(ids, attention_mask=mask, output_attentions=True)
        assert all(layer[1].abs().sum() == 0 for layer in output.attentions)
        assert_finite(output.last_hidden_state)
        cache, steps = KVCache(), []
        for place in range(5):
            step = model(ids[:, place : place + 1], cache, mask[:, : place + 1])
            steps.append(step.last_hidden_state)
        assert_finite(*steps)
        alone = model(ids[:1])  # the other row is as if it were alone
    close = {torch.float16: 0.02, torch.bfloat16: 0.2, torch.float32: 1e-5, torch.float64: 1e-12}[dtype]
    torch.testing.assert_close(torch.cat(steps, 1), output.last_hidden_state, rtol=0, atol=close)
    torch.testing.assert_close(output.last_hidden_state[:1], alone.last_hidden_state, rtol=0, atol=close)
