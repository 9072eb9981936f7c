"""The key-value cache: the same numbers as concatenation, growth that is amortised, tensors of the caller untouched."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from minitf.cache import KVCache, as_cache

B, H, D = 2, 3, 4


def states(length: int, seed: int = 0, batch: int = B, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    key, value = torch.randn(2, batch, H, length, D, generator=generator, dtype=torch.float64).to(dtype)
    return key, value


def filled(*lengths: int, layers: int = 2) -> tuple[KVCache, list[tuple[Tensor, Tensor]]]:
    """A cache after these calls, and what concatenation gives."""
    cache, expected = KVCache(), []
    for layer in range(layers):
        pieces = [states(length, seed=100 * layer + i) for i, length in enumerate(lengths)]
        for key, value in pieces:
            cache.update(layer, key, value)
        expected.append((torch.cat([k for k, _ in pieces], 2), torch.cat([v for _, v in pieces], 2)))
    return cache, expected


def assert_holds(cache: KVCache, expected: list[tuple[Tensor, Tensor]]) -> None:
    assert len(cache) == len(expected)
    for layer, (key, value) in enumerate(expected):
        assert torch.equal(cache[layer][0], key)
        assert torch.equal(cache[layer][1], value)
        assert cache.get_seq_length(layer) == key.shape[2]


@settings(max_examples=60, deadline=None)
@given(lengths=st.lists(st.integers(1, 20), min_size=1, max_size=12))
def test_views_equal_concatenation(lengths: list[int]) -> None:
    cache, past_key, past_value = KVCache(), *states(0)
    for step, length in enumerate(lengths):
        key, value = states(length, seed=step)
        past_key, past_value = torch.cat([past_key, key], 2), torch.cat([past_value, value], 2)
        got_key, got_value = cache.update(0, key, value)
        assert torch.equal(got_key, past_key)
        assert torch.equal(got_value, past_value)
        assert cache.get_seq_length() == past_key.shape[2]


@pytest.mark.parametrize("prompt", [1, 15, 16, 100])
def test_growth_is_amortised(prompt: int) -> None:
    """1000 steps: a logarithmic number of buffers, and no more than two copies of each position in all."""
    cache, steps = KVCache(), 1000
    key, _ = cache.update(0, *states(prompt))
    storage, moves, copied = key.untyped_storage().data_ptr(), 0, 0
    for step in range(steps):
        key, _ = cache.update(0, *states(1, seed=step))
        if key.untyped_storage().data_ptr() != storage:
            storage, moves = key.untyped_storage().data_ptr(), moves + 1
            copied += cache.get_seq_length()
    total = prompt + steps
    assert moves <= 8
    assert copied <= 2 * total
    capacity = key.untyped_storage().nbytes() // (B * H * D * key.element_size())
    assert capacity <= 2 * total  # the price: at most twice the memory


def test_positions_already_handed_out_stay_as_they_are() -> None:
    cache, _ = filled(3, 1)
    early = cache[0][0]
    kept = early.clone()
    for step in range(50):
        cache.update(0, *states(1, seed=step))
    assert torch.equal(early, kept)


def test_reads_like_the_classic_tuple() -> None:
    cache, expected = filled(3, 2)
    assert len(cache) == 2
    assert [len(entry) for entry in cache] == [2, 2]
    assert cache[0][0].shape == (B, H, 5, D)
    assert cache[-1][0] is not None
    assert torch.equal(cache[-1][0], expected[1][0])
    (key, value), _ = cache
    assert torch.equal(key, expected[0][0])
    assert torch.equal(value, expected[0][1])
    assert repr(cache) == "KVCache(2 layers, 5 positions)"
    assert repr(KVCache()) == "KVCache(0 layers, 0 positions)"
    with pytest.raises(IndexError):
        _ = cache[2]


def test_empty_cache() -> None:
    cache = KVCache()
    assert len(cache) == cache.get_seq_length() == cache.get_seq_length(5) == 0
    assert cache.cross(0) is None
    cache.crop(0)
    cache.reorder(torch.tensor([0]))
    cache.batch_repeat(3)
    cache = KVCache()
    cache.update(1, *states(2))
    with pytest.raises(IndexError, match="this layer of the cache is still empty: no forward has filled it"):
        _ = cache[0]


@pytest.mark.parametrize(("length", "left"), [(5, 5), (3, 3), (0, 0), (-1, 4), (-5, 0)])
def test_crop(length: int, left: int) -> None:
    cache, expected = filled(3, 2)
    cache.crop(length)
    assert_holds(cache, [(key[:, :, :left], value[:, :, :left]) for key, value in expected])
    new = states(2, seed=7)
    for layer in range(2):
        cache.update(layer, *new)
    assert_holds(
        cache,
        [
            (torch.cat([key[:, :, :left], new[0]], 2), torch.cat([value[:, :, :left], new[1]], 2))
            for key, value in expected
        ],
    )


@pytest.mark.parametrize("length", [6, -6, 100])
def test_crop_errors(length: int) -> None:
    cache, expected = filled(3, 2)
    with pytest.raises(ValueError, match=rf"crop\({length}\): the cache holds 5 positions"):
        cache.crop(length)
    assert_holds(cache, expected)


def test_reorder_select_and_repeat() -> None:
    changes: list[tuple[Callable[[KVCache], None], list[int]]] = [
        (lambda cache: cache.reorder(torch.tensor([1, 0])), [1, 0]),
        (lambda cache: cache.reorder(torch.tensor([1, 1, 0])), [1, 1, 0]),
        (lambda cache: cache.batch_select(torch.tensor([1])), [1]),
        (lambda cache: cache.batch_repeat(1), [0, 1]),
        (lambda cache: cache.batch_repeat(3), [0, 0, 0, 1, 1, 1]),
    ]
    for change, rows in changes:
        cache, expected = filled(3, 2)
        cross = states(6, seed=50)
        cache.set_cross(1, *cross)
        before = cache[0][0]
        kept = before.clone()
        change(cache)
        assert_holds(cache, [(key[rows], value[rows]) for key, value in expected])
        changed = cache.cross(1)
        assert changed is not None
        assert torch.equal(changed[0], cross[0][rows])
        assert torch.equal(changed[1], cross[1][rows])
        assert torch.equal(before, kept)  # what was handed out earlier
        new = states(1, batch=len(rows))
        cache.update(0, *new)
        assert torch.equal(cache[0][0], torch.cat([expected[0][0][rows], new[0]], 2))
    with pytest.raises(IndexError):
        filled(3)[0].reorder(torch.tensor([0, 2]))


def test_cross_attention_entries() -> None:
    cache, _ = filled(3)
    key, value = states(6, seed=50)
    cache.set_cross(0, key, value)
    assert cache.cross(0) == (key, value)
    assert cache.cross(1) is None
    assert len(cache[0]) == 4
    assert cache[0][2] is key
    cache.crop(1)
    assert cache.cross(0) == (key, value)  # the encoder does not shrink with the decoder


@pytest.mark.parametrize(
    ("new", "message"),
    [
        (
            torch.ones(3, H, 1, D),
            r"the cache holds a batch of 2, but this call has a batch of 3: use cache\.batch_repeat",
        ),
        (torch.ones(1, H, 1, D), r"the cache holds a batch of 2, but this call has a batch of 1"),  # would broadcast
        (torch.ones(B, 1, 1, D), r"the cache holds keys of 3 heads x 4 .* has 1 heads x 4 .* belongs to another model"),
        (torch.ones(B, H, 1, 1), r"the cache holds keys of 3 heads x 4 .* has 3 heads x 1"),
        (torch.ones(B, H, 1, D).double(), r"in torch\.float32, but this call has .* in torch\.float64"),
    ],
)
def test_what_does_not_fit_is_refused(new: Tensor, message: str) -> None:
    for lengths in ((3,), (3, 2)):
        cache, expected = filled(*lengths, layers=1)
        with pytest.raises(ValueError, match=message):
            cache.update(0, new, new)
        with pytest.raises(ValueError, match=message.replace("keys", "values")):
            cache.update(0, states(1)[0], new)
        assert_holds(cache, expected)


def pairs(*shapes: tuple[int, ...]) -> tuple[Tensor, ...]:
    return tuple(torch.ones(shape) for shape in shapes)


FIVE, THREE = (B, H, 5, D), (B, H, 3, D)
# what a caller may have put together by hand: each entry of these would be broadcast, or misread, somewhere
UNEQUAL: dict[str, tuple[tuple[tuple[Tensor, ...], ...], str]] = {
    "a value for every second key": ((pairs(FIVE, THREE),), r"keys of the shape \[2, 3, 5, 4\].*expected both"),
    "without heads": ((pairs((B, 5, D), (B, 5, D)),), r"expected both \[batch, heads, positions, head size\]"),
    "another dtype": (
        ((torch.ones(FIVE), torch.ones(FIVE).double()),),
        r"keys .* in torch\.float32 and values .* in torch\.float64: expected both",
    ),
    "layers of different lengths": (
        (pairs(FIVE, FIVE), pairs(THREE, THREE)),
        "layer 1 of the cache holds 3 positions and 0 of an encoder, but layer 0 holds 5 and 0: expected as many",
    ),
    "an encoder of one row": (
        (pairs(FIVE, FIVE, (1, H, 3, D), (1, H, 3, D)),),
        "the cache holds a batch of 2, but this call has a batch of 1",
    ),
    "an encoder's value for every second key": ((pairs(FIVE, FIVE, FIVE, THREE),), "expected both"),
    "an encoder in one layer": (
        (pairs(FIVE, FIVE, THREE, THREE), pairs(FIVE, FIVE)),
        "layer 1 of the cache holds 5 positions and 0 of an encoder, but layer 0 holds 5 and 3",
    ),
    "encoders of different lengths": (
        (pairs(FIVE, FIVE, THREE, THREE), pairs(FIVE, FIVE, FIVE, FIVE)),
        "layer 1 of the cache holds 5 positions and 5 of an encoder, but layer 0 holds 5 and 3",
    ),
}


def by_hand(past: tuple[tuple[Tensor, ...], ...]) -> KVCache:
    cache = KVCache()
    for layer, entry in enumerate(past):
        cache.update(layer, entry[0], entry[1])
        if len(entry) == 4:
            cache.set_cross(layer, entry[2], entry[3])
    return cache


@pytest.mark.parametrize("kind", UNEQUAL)
def test_what_does_not_fit_together_is_refused(kind: str) -> None:
    past, message = UNEQUAL[kind]
    with pytest.raises(ValueError, match=message):
        as_cache(past)
    with pytest.raises(ValueError, match=message):
        as_cache(by_hand(past))


def test_later_positions_need_a_value_each_too() -> None:
    cache, expected = filled(3, layers=1)
    with pytest.raises(ValueError, match=r"keys of the shape \[2, 3, 2, 4\] .* values of the shape \[2, 3, 1, 4\]"):
        cache.update(0, states(2)[0], states(1)[0])
    assert_holds(cache, expected)


def test_an_encoder_that_comes_first() -> None:
    cache = KVCache()
    cache.set_cross(0, *pairs(THREE, THREE))
    with pytest.raises(ValueError, match="the cache holds a batch of 2, but this call has a batch of 1"):
        cache.update(0, *pairs((1, H, 5, D), (1, H, 5, D)))
    cache.update(0, *pairs(FIVE, FIVE))
    assert [tensor.shape[2] for tensor in cache[0]] == [5, 5, 3, 3]


# --------------------------------------------------------------------------------------------------------------------
# The classic tuple


def legacy(layers: int = 2, cross: bool = False) -> tuple[tuple[Tensor, ...], ...]:
    return tuple((*states(3, seed=i), *(states(5, seed=50 + i) if cross else ())) for i in range(layers))


@pytest.mark.parametrize("cross", [False, True])
@pytest.mark.parametrize("container", [tuple, list])
def test_tuple_in_and_out(container: Any, cross: bool) -> None:
    past = container(container(entry) for entry in legacy(cross=cross))
    originals = [[tensor.clone() for tensor in entry] for entry in past]
    cache = as_cache(past)
    assert isinstance(cache, KVCache)
    again = tuple(cache)
    assert [len(entry) for entry in again] == [4 if cross else 2] * 2
    for entry, original in zip(again, originals, strict=True):
        assert all(torch.equal(one, other) for one, other in zip(entry, original, strict=True))
    for step in range(30):  # far beyond the first buffer
        for layer in range(2):
            cache.update(layer, *states(1, seed=step))
    cache.crop(1)
    cache.update(0, *states(2))
    cache.reorder(torch.tensor([1, 0]))
    for entry, original in zip(past, originals, strict=True):
        assert all(torch.equal(one, other) for one, other in zip(entry, original, strict=True))


def test_the_callers_tensors_are_never_written_to() -> None:
    cache, key, value = KVCache(), *states(3)
    wide = torch.zeros(B, H, 50, D)  # a slice of a larger tensor: there would be room to write
    wide[:, :, :3] = key
    cache.update(0, wide[:, :, :3], value)
    cache.crop(1)
    cache.update(0, *states(4, seed=1))
    assert torch.equal(wide[:, :, :3], key)
    assert not wide[:, :, 3:].any()
    new = states(1, seed=2)
    cache.update(0, *new)
    new[0].fill_(9.0)  # nor do later changes of theirs reach the cache
    wide.fill_(9.0)
    assert not (cache[0][0] == 9).any()


def test_as_cache_of_cache_and_none() -> None:
    cache = KVCache()
    assert as_cache(cache) is cache  # the caller's own object: changed in place
    assert as_cache(None) is None
    empty = as_cache(())
    assert isinstance(empty, KVCache)
    assert len(empty) == 0


@pytest.mark.parametrize(
    "wrong",
    [
        3,
        "past",
        torch.ones(2),
        {"key": 1},
        (None,),
        ((1, 2),),
        (states(1)[0],),
        ((states(1)[0],),),
        [[*states(1), None]],
    ],
    ids=range(9),
)
def test_as_cache_refuses_everything_else(wrong: Any) -> None:
    message = (
        r"past_key_values is a \w+; expected a minitf\.cache\.KVCache or the classic tuple with one \(key, value\)"
    )
    with pytest.raises(TypeError, match=message):
        as_cache(wrong)


# --------------------------------------------------------------------------------------------------------------------
# Gradients and modes


def test_gradients_reach_every_step() -> None:
    cache, leaves, total = KVCache(), [], torch.zeros(())
    for step in range(5):
        key, value = (tensor.requires_grad_() for tensor in states(2, seed=step))
        leaves += [key, value]
        all_keys, all_values = cache.update(0, key, value)
        total = total + (all_keys * all_values).sum()  # saves both for the backward pass
    gradients = torch.autograd.grad(total, leaves)
    for step in range(5):
        key, value = states(2, seed=step)
        assert torch.allclose(gradients[2 * step], (5 - step) * value)
        assert torch.allclose(gradients[2 * step + 1], (5 - step) * key)


@pytest.mark.parametrize("trained", ["key", "value"])
def test_only_one_of_the_two_is_trained(trained: str) -> None:
    cache, first = KVCache(), states(2)
    leaf = first[0 if trained == "key" else 1].requires_grad_()
    cache.update(0, *first)
    total = torch.zeros(())
    for step in range(3):
        key, value = cache.update(0, *states(1, seed=step))
        total = total + (key.exp() * value.exp()).sum()
    (gradient,) = torch.autograd.grad(total, leaf)
    assert torch.isfinite(gradient).all()
    other = first[1 if trained == "key" else 0]
    assert torch.allclose(gradient, 3 * leaf.detach().exp() * other.exp())


def test_from_training_to_no_grad_and_back() -> None:
    cache, expected = KVCache(), []
    for step, mode in enumerate([torch.enable_grad, torch.no_grad, torch.no_grad, torch.enable_grad]):
        key, value = states(2, seed=step)
        expected.append(key)
        with mode():
            got, _ = cache.update(0, key.clone().requires_grad_(mode is torch.enable_grad), value)
        assert got.requires_grad == (mode is torch.enable_grad)
        assert torch.equal(got.detach(), torch.cat(expected, 2))


def test_filled_under_inference_mode_and_continued_outside() -> None:
    cache = KVCache()
    with torch.inference_mode():
        for step in range(3):
            cache.update(0, *states(1, seed=step))
    with torch.no_grad():
        for step in range(3, 6):
            key, _ = cache.update(0, *states(1, seed=step))
    assert torch.equal(key, torch.cat([states(1, seed=step)[0] for step in range(6)], 2))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16], ids=str)
def test_dtype_is_kept(dtype: torch.dtype) -> None:
    cache = KVCache()
    for step in range(4):
        key, value = cache.update(0, *states(3, seed=step, dtype=dtype))
        assert key.dtype == value.dtype == dtype


def test_deepcopy_and_pickle_are_independent() -> None:
    cache, expected = filled(3, 2)
    for again in (copy.deepcopy(cache), pickle.loads(pickle.dumps(cache))):
        assert_holds(again, expected)
        again.update(0, *states(1))
        assert_holds(cache, expected)


# --------------------------------------------------------------------------------------------------------------------
# Memory


def test_buffers_end_with_the_longest_sequence() -> None:
    """A decode to the last position of a model holds no slack; beyond it growth is amortised again."""
    cache = KVCache()
    assert as_cache(cache, longest=100) is cache
    cache.update(0, *states(10))
    capacities = []
    for step in range(150):
        cache.update(0, *states(1, seed=step))
        capacities.append(cache.nbytes() // (2 * B * H * D * 4))
    assert capacities[89] == 100  # 10 + 90 positions
    assert max(capacities[:90]) == 100
    assert capacities[90] == 202
    assert cache.get_seq_length() == 160


def test_bytes_of_buffers_and_encoder() -> None:
    cache, _ = filled(3)
    assert KVCache().nbytes() == 0
    assert cache.nbytes() == 2 * 2 * B * H * 3 * D * 4
    cache.set_cross(0, *states(6))
    assert cache.nbytes() == 2 * 2 * B * H * 3 * D * 4 + 2 * B * H * 6 * D * 4


def test_wrong_lengths_and_rows_are_refused_before_anything_changes() -> None:
    cache = KVCache()
    cache.update(0, torch.zeros(2, 1, 3, 2), torch.zeros(2, 1, 3, 2))
    for length in (1.5, True, None):
        with pytest.raises(TypeError, match=r"crop\(.*expected a number of positions, an integer"):
            cache.crop(length)  # type: ignore[arg-type]
    for times in (0, -1, 1.0, True):
        with pytest.raises(ValueError, match=r"batch_repeat\(.*expected an integer >= 1"):
            cache.batch_repeat(times)  # type: ignore[arg-type]
    for rows in ([0], torch.tensor([0.0]), torch.tensor(0)):
        with pytest.raises(TypeError, match="expected a one-dimensional tensor of row numbers"):
            cache.reorder(rows)  # type: ignore[arg-type]
    for numbers in ([2], [-1], []):
        with pytest.raises(IndexError, match="expected numbers from 0 to 1, at least one"):
            cache.batch_select(torch.tensor(numbers, dtype=torch.long))
    assert cache.get_seq_length() == 3
    assert cache[0][0].shape == (2, 1, 3, 2)
