"""StaticKVCache: one compiled graph for every step, and the same tokens as with the cache that grows."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend

import minitf
from minitf.cache import KVCache, StaticKVCache, as_cache
from minitf.masks import positions_from_mask
from tests.support import randomise_

SIZES = {"vocab_size": 61, "n_positions": 24, "n_embd": 32, "n_layer": 2, "n_head": 4}


def model(**settings: Any) -> minitf.GPT2LMHeadModel:
    config = minitf.GPT2Config(**{**SIZES, **settings})
    return randomise_(minitf.GPT2LMHeadModel(config)).eval()  # type: ignore[return-value]


def ids(batch: int = 2, length: int = 5) -> Tensor:
    return torch.randint(1, 61, (batch, length), generator=torch.Generator().manual_seed(0))


def greedy(run: Any, first: Any, cache: KVCache, prompt: Tensor, steps: int) -> tuple[Tensor, Tensor]:
    """(tokens `[B, steps]`, all logits): the prompt through `first`, the steps through `run`."""
    logits = [first(prompt, past_key_values=cache, logits_to_keep=1).logits]
    for _ in range(steps - 1):
        logits.append(run(logits[-1].argmax(-1), past_key_values=cache, logits_to_keep=1).logits)
    joined = torch.cat(logits, 1)
    return joined.argmax(-1), joined


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_one_graph_serves_every_step(backend: str, attention: str) -> None:
    ours = model(attn_implementation=attention)
    torch._dynamo.reset()
    counter = CompileCounterWithBackend(backend)
    step = torch.compile(ours, fullgraph=True, backend=counter)
    with torch.no_grad():
        expected, numbers = greedy(ours, ours, KVCache(), ids(), 18)
        tokens, logits = greedy(step, ours, StaticKVCache(ours.config, batch=2), ids(), 18)
    assert counter.frame_count == 1
    assert torch.equal(tokens, expected)
    assert torch.allclose(logits, numbers, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_chunks_steps_and_crop_as_with_the_cache_that_grows(dtype: torch.dtype) -> None:
    ours = model().to(dtype)
    static, growing = StaticKVCache(ours.config, batch=2, max_length=20, dtype=dtype), KVCache()
    tolerance = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 0.3}[dtype]
    text = ids(length=16)
    with torch.no_grad():
        for start, end in ((0, 6), (6, 9), (9, 10), (10, 16)):
            got = ours(text[:, start:end], past_key_values=static).logits
            assert torch.allclose(got, ours(text[:, start:end], past_key_values=growing).logits, atol=tolerance)
        assert static.get_seq_length() == growing.get_seq_length() == 16
        for one, other in zip(static, growing, strict=True):
            assert all(torch.allclose(a, b, atol=tolerance) for a, b in zip(one, other, strict=True))
        for cache in (static, growing):
            cache.crop(-9)
            cache.reorder(torch.tensor([1, 0]))
        flipped = text.flip(0)
        got = ours(flipped[:, 7:9], past_key_values=static).logits
        assert torch.allclose(got, ours(flipped[:, 7:9], past_key_values=growing).logits, atol=tolerance)
        assert torch.allclose(got, ours(flipped[:, :9]).logits[:, 7:], atol=tolerance)


def test_left_padding_needs_a_mask_as_wide_as_the_cache() -> None:
    ours, text = model(), ids(length=7)
    mask = torch.ones(2, 7, dtype=torch.long)
    mask[1, :3] = 0
    static = StaticKVCache(ours.config, batch=2, max_length=10)
    wide = torch.cat([mask, torch.ones(2, 3, dtype=torch.long)], 1)
    positions = positions_from_mask(mask)
    with torch.no_grad():
        whole = ours(text, attention_mask=mask, position_ids=positions).logits
        for start, end in ((0, 5), (5, 6), (6, 7)):
            got = ours(text[:, start:end], static, attention_mask=wide, position_ids=positions[:, start:end]).logits
            real = mask[:, start:end].bool()
            assert torch.allclose(got[real], whole[:, start:end][real], atol=1e-5)
        with pytest.raises(ValueError, match=r"attention_mask has shape \[2, 8\], but .* 10 key positions"):
            ours(text[:, :1], static, attention_mask=wide[:, :8])


def test_pruned_heads_have_no_place_in_the_buffers() -> None:
    ours = model()
    ours.prune_heads({1: [0, 2]})
    static = StaticKVCache(ours.config, batch=2)
    with torch.no_grad():
        got = ours(ids(), past_key_values=static).logits
        assert torch.allclose(got, ours(ids()).logits, atol=1e-5)
    assert static.nbytes() == 2 * 2 * 24 * 8 * 4 * (4 + 2)


def test_what_does_not_fit_is_refused() -> None:
    ours = model()
    static = StaticKVCache(ours.config, batch=2, max_length=8)
    with torch.no_grad():
        ours(ids(), past_key_values=static)
        with pytest.raises(ValueError, match=r"5 positions after 5 in the cache do not fit into .* max_length 8"):
            ours(ids(), past_key_values=static)
        with pytest.raises(ValueError, match="the cache holds a batch of 2, but this call has a batch of 1"):
            ours(ids(1, 1), past_key_values=static)
        assert static.get_seq_length() == 5
    with pytest.raises(ValueError, match=r"overwritten in place, so it needs torch\.no_grad"):
        ours(ids(2, 1), past_key_values=static)
    for batch, length in ((0, 8), (1, 25), (1, 0)):
        with pytest.raises(ValueError, match=r"expected a batch of at least 1, and 1 to 24 positions"):
            StaticKVCache(ours.config, batch=batch, max_length=length)
    for arguments in ({"batch": True}, {"batch": 2.0}, {"batch": 2, "max_length": 4.0}):
        with pytest.raises(TypeError, match=r"StaticKVCache\((batch|max_length)=.*\): expected an integer"):
            StaticKVCache(ours.config, **arguments)  # type: ignore[arg-type]
    for length in (1.5, True, "1"):
        with pytest.raises(TypeError, match=r"crop\(.*expected a number of positions, an integer"):
            static.crop(length)  # type: ignore[arg-type]
    for rows in ([0, 1], torch.tensor([0.0, 1.0]), torch.tensor(1)):
        with pytest.raises(TypeError, match="expected a one-dimensional tensor of row numbers"):
            static.reorder(rows)  # type: ignore[arg-type]
    for numbers in ([0, 2], [-1, 0], []):
        with pytest.raises(IndexError, match="expected numbers from 0 to 1, at least one"):
            static.reorder(torch.tensor(numbers, dtype=torch.long))
    for change, message in (
        (lambda: static.crop(6), r"crop\(6\): the cache holds 5 positions"),
        (lambda: static.reorder(torch.tensor([0])), "of batch 2 cannot become one of 1"),
        (lambda: static.batch_repeat(2), "cannot grow 2 times"),
        (lambda: static.batch_repeat(True), "cannot grow True times"),
        (lambda: static.set_cross(0, torch.ones(1), torch.ones(1)), "holds no keys of an encoder"),
        (lambda: as_cache(static, 2), "which this model cannot use: pass a KVCache"),
        (lambda: as_cache(static, 3, static=True), "holds 2 layers, but this model has 3 layers"),
    ):
        with pytest.raises(ValueError, match=message):
            change()
    assert repr(static) == "StaticKVCache(2 layers, 5 of 8 positions)"
    assert static.cross(0) is None
    static.batch_repeat(1)


def test_bert_refuses_it_instead_of_attending_to_unfilled_positions() -> None:
    config = minitf.BertConfig(
        vocab_size=61, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64, is_decoder=True
    )
    decoder = minitf.BertModel(config).eval()
    with torch.no_grad(), pytest.raises(ValueError, match="StaticKVCache, which this model cannot use"):
        decoder(ids(), past_key_values=StaticKVCache(config, batch=2))
