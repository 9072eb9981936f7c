"""Attention functions: eager against numpy, sdpa against eager, rows that may attend to nothing, the registry."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from minitf import attention, masks
from minitf.attention import ATTENTION, AttentionFunction, attend, eager, register, sdpa

B, H, T, S, D = 2, 3, 4, 7, 8
MODULE = nn.Identity()  # stands for the attention module that calls
DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
# Largest difference between the two functions, in units of the dtype's eps, for values near 1.
UNITS = 16


def tensors(dtype: torch.dtype = torch.float64, seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()

    return {"query": normal(B, H, T, D), "key": normal(B, H, S, D), "value": normal(B, H, S, D)}


def bias_of(dtype: torch.dtype = torch.float64, seed: int = 9) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(B, H, T, S, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()


def mask_of(kind: str, seed: int = 0) -> Tensor | None:
    generator = torch.Generator().manual_seed(seed)
    shapes = {"full": (B, 1, T, S), "padding": (B, 1, 1, S), "heads": (B, H, T, S), "shared": (1, 1, T, S)}
    if kind == "none":
        return None
    if kind == "causal":
        return masks.causal(T, S)
    mask = torch.rand(*shapes[kind], generator=generator) < 0.6
    mask[..., 0] = True  # no empty rows here
    return mask


def by_numpy(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    scale: float,
    bias: Tensor | None,
    heads: Tensor | None,
) -> tuple[np.ndarray, np.ndarray]:
    """The definition, one row at a time."""
    q, k, v = (t.detach().numpy() for t in (query, key, value))
    allowed = np.ones((B, H, T, S), bool) if mask is None else np.broadcast_to(mask.numpy(), (B, H, T, S))
    added = np.zeros((B, H, T, S)) if bias is None else bias.detach().numpy()
    factor = np.ones((B, H, T, S)) if heads is None else np.broadcast_to(heads.numpy(), (B, H, T, S))
    probs, context = np.zeros((B, H, T, S)), np.zeros((B, H, T, D))
    for index in np.ndindex(B, H, T):
        b, h, _ = index
        scores = (k[b, h] @ q[index] + added[index]) * scale
        keep = allowed[index]
        if keep.any():
            powers = np.exp(scores[keep] - scores[keep].max())
            probs[index][keep] = powers / powers.sum()
        probs[index] *= factor[index]
        context[index] = probs[index] @ v[b, h]
    return context, probs


MASKS = ["none", "full", "padding", "heads", "shared", "causal"]


@pytest.mark.parametrize("with_heads", [False, True], ids=["", "head_mask"])
@pytest.mark.parametrize("with_bias", [False, True], ids=["", "bias"])
@pytest.mark.parametrize("kind", MASKS)
def test_eager_is_the_definition(kind: str, with_bias: bool, with_heads: bool) -> None:
    given_, mask, scale = tensors(), mask_of(kind), 0.3
    bias = bias_of() if with_bias else None
    heads = torch.tensor([0.0, 1.0, 0.5], dtype=torch.float64)[None, :, None, None] if with_heads else None
    context, probs = eager(MODULE, **given_, mask=mask, scale=scale, dropout=0.0, bias=bias, head_mask=heads)
    expected_context, expected_probs = by_numpy(**given_, mask=mask, scale=scale, bias=bias, heads=heads)
    assert probs is not None
    np.testing.assert_allclose(context.detach().numpy(), expected_context, rtol=0, atol=1e-14)
    np.testing.assert_allclose(probs.detach().numpy(), expected_probs, rtol=0, atol=1e-14)


def test_eager_with_an_empty_row_is_the_definition() -> None:
    given_, mask = tensors(), mask_of("full")
    assert mask is not None
    mask[1, :, 2] = False
    context, probs = eager(MODULE, **given_, mask=mask, scale=0.3, dropout=0.0)
    expected_context, expected_probs = by_numpy(**given_, mask=mask, scale=0.3, bias=None, heads=None)
    assert probs is not None
    assert not context[1, :, 2].any()
    assert not probs[1, :, 2].any()
    np.testing.assert_allclose(context.detach().numpy(), expected_context, rtol=0, atol=1e-14)
    np.testing.assert_allclose(probs.detach().numpy(), expected_probs, rtol=0, atol=1e-14)


def both_with_gradients(
    dtype: torch.dtype, mask: Tensor | None, with_bias: bool, seed: int = 0
) -> tuple[list[Tensor], list[Tensor]]:
    """[context, gradient of every input] under eager and under sdpa."""
    results = []
    for function in (eager, sdpa):
        given_ = tensors(dtype, seed)
        bias = bias_of(dtype, seed + 1) if with_bias else None
        context, _ = function(MODULE, **given_, mask=mask, scale=D**-0.5, dropout=0.0, bias=bias)
        inputs = [*given_.values(), *([bias] if bias is not None else [])]
        weights = torch.linspace(-1, 1, context.numel(), dtype=torch.float64).reshape(context.shape).to(dtype)
        results.append([context.detach(), *torch.autograd.grad((context * weights).sum(), inputs)])
    return results[0], results[1]


@pytest.mark.parametrize("with_bias", [False, True], ids=["", "bias"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("kind", MASKS)
def test_sdpa_equals_eager(kind: str, dtype: torch.dtype, with_bias: bool) -> None:
    tolerance = 1e-12 if dtype == torch.float64 else UNITS * torch.finfo(dtype).eps
    for one, other in zip(*both_with_gradients(dtype, mask_of(kind), with_bias), strict=True):
        assert one.dtype == other.dtype == dtype
        torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    density=st.sampled_from([0.0, 0.15, 0.5, 0.9, 1.0]),
    shape=st.sampled_from([(B, 1, T, S), (B, H, T, S), (1, 1, T, S), (B, 1, 1, S), (1, H, 1, S)]),
    with_bias=st.booleans(),
)
def test_sdpa_equals_eager_for_any_mask(seed: int, density: float, shape: tuple[int, ...], with_bias: bool) -> None:
    mask = torch.rand(*shape, generator=torch.Generator().manual_seed(seed)) < density
    for one, other in zip(*both_with_gradients(torch.float64, mask, with_bias, seed), strict=True):
        assert torch.isfinite(one).all()
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("with_bias", [False, True], ids=["", "bias"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("rows", ["one row", "one sequence", "everything", "padding keys"])
@pytest.mark.parametrize("function", [eager, sdpa])
def test_a_row_that_may_attend_to_nothing_is_zero(
    function: AttentionFunction, rows: str, dtype: torch.dtype, with_bias: bool
) -> None:
    mask = torch.ones(B, 1, T, S, dtype=torch.bool)
    mask[:, :, :, 5:] = False
    empty = torch.zeros(B, 1, T, 1, dtype=torch.bool)
    if rows == "padding keys":
        mask = torch.ones(B, 1, 1, S, dtype=torch.bool)
        mask[1] = False
        empty[1] = True
    else:
        where: Any = {"one row": (0, 0, 1), "one sequence": (1,), "everything": ...}[rows]
        mask[where] = False
        empty[where] = True
    given_, bias = tensors(dtype), bias_of(dtype) if with_bias else None
    inputs = [*given_.values(), *([bias] if bias is not None else [])]
    context, probs = function(MODULE, **given_, mask=mask, scale=D**-0.5, dropout=0.0, bias=bias)
    hidden = empty.expand(B, H, T, 1)
    assert torch.equal(context.masked_select(hidden), torch.zeros(int(hidden.sum()) * D, dtype=dtype))
    assert torch.isfinite(context).all()
    if probs is not None:
        assert not probs.masked_select(hidden).any()
        assert torch.isfinite(probs).all()
    gradients = torch.autograd.grad(context.float().square().sum() + context.float().sum(), inputs)
    assert all(torch.isfinite(gradient).all() for gradient in gradients)
    # A query that attends to nothing has no influence, so no gradient reaches it.
    assert not gradients[0].masked_select(hidden).any()
    if not hidden.all():
        assert all(gradient.abs().max() > 0 for gradient in gradients)


@pytest.mark.parametrize("function", [eager, sdpa])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_hidden_keys_have_no_influence_at_all(function: AttentionFunction, dtype: torch.dtype) -> None:
    """Not even with scores of some hundreds: this is where the classic -10000 in half precision was not enough."""
    given_, mask = tensors(dtype), torch.ones(B, 1, 1, S, dtype=torch.bool)
    mask[:, :, :, 4:] = False
    context, _ = function(MODULE, **given_, mask=mask, scale=1.0, dropout=0.0)
    with torch.no_grad():
        given_["key"][:, :, 4:] = 50.0
        given_["value"][:, :, 4:] = 1000.0
    again, _ = function(MODULE, **given_, mask=mask, scale=1.0, dropout=0.0)
    assert torch.equal(context, again)


def test_head_mask_scales_whole_heads_and_has_a_gradient() -> None:
    given_ = tensors()
    plain, probs = eager(MODULE, **given_, mask=None, scale=0.3, dropout=0.0)
    heads = torch.tensor([0.0, 1.0, 0.25], dtype=torch.float64)[None, :, None, None].requires_grad_()
    context, masked = eager(MODULE, **given_, mask=None, scale=0.3, dropout=0.0, head_mask=heads)
    assert probs is not None
    assert masked is not None
    assert torch.equal(masked, probs * heads)
    assert not context[:, 0].any()
    assert torch.equal(context[:, 1], plain[:, 1])
    torch.testing.assert_close(context[:, 2], plain[:, 2] / 4, rtol=1e-14, atol=1e-14)
    (gradient,) = torch.autograd.grad(context.sum(), heads)
    torch.testing.assert_close(gradient.flatten(), plain.sum(dim=(0, 2, 3)), rtol=1e-12, atol=1e-12)


def test_sdpa_refuses_a_head_mask() -> None:
    with pytest.raises(ValueError, match="'sdpa' cannot apply a head_mask: use attn_implementation='eager'"):
        sdpa(MODULE, **tensors(), mask=None, scale=1.0, dropout=0.0, head_mask=torch.ones(H, 1, 1))


@pytest.mark.parametrize("name", ["eager", "sdpa"])
def test_dropout_drops_probabilities_and_keeps_their_mean(name: str) -> None:
    given_ = tensors(torch.float32)
    ones = {**given_, "value": torch.ones(B, H, S, D)}
    torch.manual_seed(0)
    contexts = torch.stack(
        [attend(name, MODULE, **ones, mask=None, scale=0.3, dropout=0.5)[0].detach() for _ in range(200)]
    )
    assert contexts.std() > 0.1
    assert abs(contexts.mean().item() - 1) < 0.02
    still, _ = attend(name, MODULE, **ones, mask=None, scale=0.3, dropout=0.0)
    torch.testing.assert_close(still, torch.ones_like(still))


def test_eager_returns_the_probabilities_after_dropout() -> None:
    torch.manual_seed(0)
    context, probs = eager(MODULE, **(given_ := tensors()), mask=None, scale=0.3, dropout=0.5)
    assert probs is not None
    assert bool((probs == 0).any())
    assert torch.equal(context, probs @ given_["value"])


# --------------------------------------------------------------------------------------------------------------------
# The registry


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """A registered function "recording" that notes what it receives and returns no probabilities."""
    calls: list[dict[str, Any]] = []

    def recording(
        module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, **settings: Any
    ) -> tuple[Tensor, None]:
        calls.append({"module": module, "mask": mask, **settings})
        return sdpa(module, query, key, value, mask, **settings)[0], None

    monkeypatch.setitem(ATTENTION, "recording", recording)
    return calls


def test_a_custom_function_receives_the_finished_mask(recorded: list[dict[str, Any]]) -> None:
    import minitf

    config = minitf.BertConfig(
        hidden_size=8,
        num_attention_heads=2,
        num_hidden_layers=1,
        intermediate_size=8,
        vocab_size=9,
        is_decoder=True,
        attn_implementation="recording",
    )
    model = minitf.BertModel(config).eval()
    padding = torch.tensor([[0, 1, 1], [1, 1, 1]])
    model(torch.ones(2, 3, dtype=torch.long), attention_mask=padding)
    (call,) = recorded
    assert call["module"] is model.encoder.layer[0].attention.self
    assert call["mask"].dtype == torch.bool
    assert torch.equal(call["mask"], masks.padding(padding) & masks.causal(3, 3))
    assert call["scale"] == 0.5
    assert call["dropout"] == 0.0
    model.train()(torch.ones(2, 3, dtype=torch.long), attention_mask=padding)
    assert recorded[-1]["dropout"] == config.attention_probs_dropout_prob


def test_probabilities_asked_of_a_function_that_has_none(recorded: list[dict[str, Any]]) -> None:
    with pytest.raises(ValueError, match="'recording' returns no probabilities, but output_attentions=True asks"):
        attend("recording", MODULE, **tensors(), mask=None, scale=1.0, dropout=0.0, output_attentions=True)
    context, probs = attend("recording", MODULE, **tensors(), mask=None, scale=1.0, dropout=0.0)
    assert context.shape == (B, H, T, D)
    assert probs is None


def test_a_custom_function_that_cannot_apply_a_head_mask_says_so(recorded: list[dict[str, Any]]) -> None:
    with pytest.raises(ValueError, match="head_mask"):
        attend("recording", MODULE, **tensors(), mask=None, scale=1.0, dropout=0.0, head_mask=torch.ones(H, 1, 1))


def test_sdpa_hands_over_to_eager_where_it_cannot_serve() -> None:
    heads, settings_ = torch.full((H, 1, 1), 0.5, dtype=torch.float64), {"scale": 0.3, "dropout": 0.0}
    for asked in ({"output_attentions": True}, {"head_mask": heads}):
        context, probs = attend("sdpa", MODULE, **tensors(), mask=None, **settings_, **asked)  # type: ignore[arg-type]
        expected, expected_probs = eager(
            MODULE,
            **tensors(),
            mask=None,
            **settings_,
            head_mask=asked.get("head_mask"),  # type: ignore[arg-type]
        )
        assert probs is not None
        assert expected_probs is not None
        assert torch.equal(context, expected)
        assert torch.equal(probs, expected_probs)
    assert attend("sdpa", MODULE, **tensors(), mask=None, scale=0.3, dropout=0.0)[1] is None


def test_unknown_name_lists_the_known() -> None:
    message = r"attn_implementation 'flash' is not registered; known: eager, sdpa.*\. Add one with"
    with pytest.raises(ValueError, match=message):
        attend("flash", MODULE, **tensors(), mask=None, scale=1.0, dropout=0.0)


def test_register() -> None:
    try:

        @register("mine")
        def mine(module: nn.Module, *args: Any, **settings: Any) -> tuple[Tensor, Tensor | None]:
            return eager(module, *args, **settings)

        assert ATTENTION["mine"] is mine
        register("mine")(mine)  # the same function again (a notebook cell run twice with the same object)
        with pytest.raises(ValueError, match="the attention function 'mine' exists already; choose another name"):
            register("mine")(sdpa)
        with pytest.raises(ValueError, match="'eager' exists already"):
            register("eager")(sdpa)
        context, probs = attend("mine", MODULE, **tensors(), mask=None, scale=1.0, dropout=0.0, output_attentions=True)
        assert probs is not None
        assert torch.equal(context, eager(MODULE, **tensors(), mask=None, scale=1.0, dropout=0.0)[0])
    finally:
        ATTENTION.pop("mine", None)


def test_all_functions_have_the_one_signature() -> None:
    protocol = inspect.signature(AttentionFunction.__call__)
    expected = [str(parameter) for name, parameter in protocol.parameters.items() if name != "self"]
    for function in (eager, sdpa):
        assert [str(parameter) for parameter in inspect.signature(function).parameters.values()] == expected
    assert {"eager", "sdpa"} <= ATTENTION.keys()
    assert attention.__doc__ is not None
    assert all(f"    {name.split(':')[0].strip('*')}" in attention.__doc__ for name in ("module", "query", "scale"))


# --------------------------------------------------------------------------------------------------------------------
# The two paths of sdpa that are there for speed


@pytest.mark.parametrize("length", [1, 2, 7, 64])
def test_the_triangle_of_a_prompt_is_left_to_the_kernel(length: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the mark the mask is not read; the result is that of the mask, and a joined mask has no mark."""
    generator = torch.Generator().manual_seed(length)
    query, key, value = torch.randn(3, 2, 3, length, 8, generator=generator, dtype=torch.float64)
    mask = masks.causal(length, length)
    assert mask.plain_causal  # type: ignore[attr-defined]
    assert not hasattr(masks.causal(length, length + 1), "plain_causal")
    joined = mask & torch.ones(2, 1, 1, length, dtype=torch.bool)
    assert not hasattr(joined, "plain_causal")
    seen = []
    kernel = torch.nn.functional.scaled_dot_product_attention
    monkeypatch.setattr(
        "torch.nn.functional.scaled_dot_product_attention",
        lambda *inputs, **named: seen.append(named["attn_mask"]) or kernel(*inputs, **named),
    )
    plain = {"scale": 0.3, "dropout": 0.0}
    results = [sdpa(MODULE, query, key, value, given, **plain)[0] for given in (mask, joined)]
    assert seen[0] is None
    assert seen[1] is joined
    assert torch.allclose(results[0], results[1], atol=1e-14)


@pytest.mark.parametrize("with_bias", [False, True], ids=["", "bias"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_a_single_query_in_half_precision_is_rounded_once(dtype: torch.dtype, with_bias: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    query = torch.randn(2, 3, 1, 8, generator=generator).to(dtype)
    key, value = torch.randn(2, 2, 3, 40, 8, generator=generator).to(dtype)
    bias = torch.randn(2, 3, 1, 40, generator=generator).to(dtype) if with_bias else None
    mask = torch.rand(2, 1, 1, 40, generator=generator) < 0.7
    plain = {"scale": 0.3, "dropout": 0.0}
    exact = eager(
        MODULE,
        query.double(),
        key.double(),
        value.double(),
        mask,
        bias=None if bias is None else bias.double(),
        **plain,
    )[0]
    with torch.no_grad():
        context = sdpa(MODULE, query, key, value, mask, bias=bias, **plain)[0]
    assert context.dtype == dtype
    assert ((context.double() - exact).abs() <= torch.finfo(dtype).eps * exact.abs() + 1e-6).all()
