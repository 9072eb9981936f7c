"""Masks: each picture of the file's text, the corner of the causal triangle, the additive form and back."""

from __future__ import annotations

import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from minitf import masks

DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]


def picture(mask: torch.Tensor) -> list[str]:
    """`[T, S]` as lines of x (may be attended to) and . (may not)."""
    return [" ".join("x" if allowed else "." for allowed in row) for row in mask.tolist()]


def pictures_of_the_docstring() -> list[list[str]]:
    """The columns of the figure in the module's text, in the order of its head line."""
    assert masks.__doc__ is not None
    lines = masks.__doc__.splitlines()
    start = next(i for i, line in enumerate(lines) if "padding([B, S])" in line)
    rows = [line for line in lines[start + 1 : start + 4] if line.strip()]
    places = [lines[start].index(head) for head in ("padding([B", "causal(", "window(", "padding &")]
    columns = []
    for left, right in zip(places, [*places[1:], 200], strict=True):
        cells = [row[left:right].strip() for row in rows]
        columns.append([cell for cell in cells if cell])
    return columns


def test_every_picture_of_the_text_is_what_the_functions_return() -> None:
    tokens = torch.tensor([[1, 1, 1, 1, 0]])
    padding, causal = masks.padding(tokens), masks.causal(3, 5)
    drawn = [
        picture(padding[0, 0]),
        picture(causal[0, 0]),
        picture(masks.window(3, 5, 2)[0, 0]),
        picture((padding & causal)[0, 0]),
    ]
    assert drawn == pictures_of_the_docstring()
    assert [len(column) for column in drawn] == [1, 3, 3, 3]


@pytest.mark.parametrize(
    ("query", "key", "expected"),
    [
        (3, 3, ["x . .", "x x .", "x x x"]),  # a prompt
        (2, 4, ["x x x .", "x x x x"]),  # a chunk after a cache
        (1, 4, ["x x x x"]),  # one step
        (1, 1, ["x"]),
    ],
)
def test_causal_is_aligned_to_the_lower_right(query: int, key: int, expected: list[str]) -> None:
    assert picture(masks.causal(query, key)[0, 0]) == expected


sizes = st.integers(1, 12)


@settings(max_examples=60, deadline=None)
@given(query=sizes, past=st.integers(0, 12), window=st.integers(1, 14))
def test_causal_and_window_of_any_shape(query: int, past: int, window: int) -> None:
    key = query + past
    causal, local = masks.causal(query, key), masks.window(query, key, window)
    assert causal.shape == local.shape == (1, 1, query, key)
    assert causal.dtype == local.dtype == torch.bool
    for t in range(query):
        for s in range(key):
            distance = past + t - s
            assert bool(causal[0, 0, t, s]) == (distance >= 0)
            assert bool(local[0, 0, t, s]) == (0 <= distance < window)
    # Steps and chunks see what the same rows of a whole prompt see.
    assert torch.equal(masks.causal(key, key)[:, :, past:], causal)
    assert torch.equal(masks.window(key, key, window)[:, :, past:], local)
    assert torch.equal(masks.window(query, key, key), causal)


@settings(max_examples=40, deadline=None)
@given(batch=st.integers(1, 4), query=sizes, past=st.integers(0, 5), seed=st.integers(0, 999))
def test_padding_and_causal_join(batch: int, query: int, past: int, seed: int) -> None:
    tokens = torch.rand(batch, query + past, generator=torch.Generator().manual_seed(seed)) < 0.6
    padding, causal = masks.padding(tokens.long()), masks.causal(query, query + past)
    joined = masks.both(causal, padding)
    assert joined is not None
    assert joined.shape == (batch, 1, query, query + past)
    assert torch.equal(joined, padding & causal)
    assert torch.equal(joined[:, 0].any(1), tokens & causal[0, 0].any(0))


@settings(max_examples=40, deadline=None)
@given(
    shape=st.lists(st.integers(1, 4), min_size=1, max_size=4), seed=st.integers(0, 999), dtype=st.sampled_from(DTYPES)
)
def test_additive_form_and_back(shape: list[int], seed: int, dtype: torch.dtype) -> None:
    mask = torch.rand(*shape, generator=torch.Generator().manual_seed(seed)) < 0.5
    extended = masks.additive(mask, dtype)
    assert extended.dtype == dtype
    assert extended.shape == mask.shape
    assert torch.equal(extended == 0, mask)
    assert torch.equal(extended == torch.finfo(dtype).min, ~mask)
    back = mask[:, 0, 0] if mask.dim() == 4 and mask.shape[1:3] == (1, 1) else mask  # the classic padding mask
    assert torch.equal(masks.from_additive(extended), back)
    assert torch.equal(masks.additive(masks.from_additive(extended), dtype).reshape(extended.shape), extended)


@pytest.mark.parametrize("hidden", [-1e4, -65504.0, -1e9, float("-inf"), torch.finfo(torch.float32).min])
def test_from_additive_knows_every_classic_constant(hidden: float) -> None:
    assert masks.from_additive(torch.tensor([0.0, hidden, -0.0])).tolist() == [True, False, True]


@pytest.mark.parametrize("wrong", [1.0, -1.0, -9999.0, float("nan"), float("inf")])
def test_from_additive_refuses_a_bias(wrong: float) -> None:
    message = "an additive mask holds 0 (allowed) or a value <= -1e4 (hidden), but this one holds "
    with pytest.raises(ValueError, match=re.escape(f"{message}{wrong}")) as caught:
        masks.from_additive(torch.tensor([[0.0, wrong, -1e9]]))
    assert "Register an attention function" in str(caught.value)


def test_broadcastable_and_both() -> None:
    two, three, four = (torch.ones(shape, dtype=torch.bool) for shape in ((2, 5), (2, 3, 5), (2, 1, 3, 5)))
    shapes = [masks.broadcastable(mask).shape for mask in (two, three, four)]  # type: ignore[union-attr]
    assert shapes == [(2, 1, 1, 5), (2, 1, 3, 5), (2, 1, 3, 5)]
    assert masks.broadcastable(None) is None
    assert masks.broadcastable(four) is four
    assert masks.both(None, None) is None
    assert masks.both(two, None) is two
    assert masks.both(None, three) is three


def test_positions_from_mask() -> None:
    tokens = torch.tensor([[0, 0, 1, 1, 1], [1, 1, 1, 0, 0], [1, 1, 1, 1, 1]])
    positions = masks.positions_from_mask(tokens)
    assert positions.dtype == torch.int64
    for row, mask in zip(positions, tokens, strict=True):
        assert row[mask.bool()].tolist() == list(range(int(mask.sum())))  # tokens count from 0 on either side
    assert (positions >= 0).all()
    assert torch.equal(masks.positions_from_mask(tokens.bool()), positions)


def test_device_is_that_of_the_caller() -> None:
    meta = torch.device("meta")
    assert masks.causal(2, 3, meta).device == meta
    assert masks.window(2, 3, 1, meta).device == meta
    assert masks.additive(torch.ones(2, dtype=torch.bool, device=meta), torch.float32).device == meta
