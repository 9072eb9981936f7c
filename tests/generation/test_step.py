"""A decoding step of GPT-2 beside the forward: every bit, under every setting; and what makes `generate` call the
forward instead, so that nothing which was changed in a model is passed over.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

import minitf
from minitf import attention, products
from minitf.activations import ACT2FN
from minitf.cache import KVCache, StaticKVCache
from minitf.masks import positions_from_mask
from minitf.models import gpt2, gpt2_step
from minitf.parity.faults.gpt2_cache_faults import FAULTS as CACHE_FAULTS
from minitf.parity.faults.gpt2_trunk_faults import FAULTS as TRUNK_FAULTS
from tests.generation.pairs import PAD, fresh, pair, prompts
from tests.support import random_value, randomise_

Change = Callable[[Any], Any]
OUT = {"output_logits": True, "return_dict_in_generate": True, "pad_token_id": PAD, "max_new_tokens": 6}


@torch.no_grad()
def assert_steps_are_the_forward(model: Any, batch: int = 2, *, padding: bool = True, steps: int = 5) -> None:
    """The same prompt into two caches; then words one by one, through the step and through the forward, with rows
    reordered on the way. Scores and the caches are compared bit for bit."""
    made = prompts("left" if padding else "none", batch=batch)
    ids, mask = made["input_ids"], made["attention_mask"] if padding else None
    plain, fast = KVCache(), KVCache()
    given = {} if mask is None else {"attention_mask": mask, "position_ids": positions_from_mask(mask)}
    for cache in (plain, fast):
        model(ids, past_key_values=cache, **given)
    assert gpt2_step.why_not(model, fast) is None
    step = gpt2_step.decoding_step(model, fast)
    assert step is not None
    for number in range(steps):
        words = torch.randint(0, 61, (batch, 1), generator=torch.Generator().manual_seed(number))
        positions = None
        if mask is not None:
            mask = torch.cat([mask, torch.ones(batch, 1, dtype=mask.dtype)], 1)
            positions = positions_from_mask(mask)
        found = step(words, positions, mask)
        now = {} if mask is None or positions is None else {"attention_mask": mask, "position_ids": positions[:, -1:]}
        expected = model(words, past_key_values=plain, **now).logits[:, -1]
        assert found.shape == (batch, 61)
        assert torch.equal(found, expected), f"step {number}: {(found - expected).abs().max()}"
        if number == 2:
            for cache in (plain, fast):
                cache.reorder(torch.arange(batch).flip(0))
            mask = None if mask is None else mask.flip(0)
    for (a, b), (c, d) in zip(plain, fast, strict=True):
        assert torch.equal(a, c)
        assert torch.equal(b, d)


@contextmanager
def threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("padding", [False, True], ids=["full", "padded"])
@pytest.mark.parametrize("batch", [1, 2, 3])
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"scale_attn_weights": False},
        {"scale_attn_by_inverse_layer_idx": True},
        {"scale_attn_weights": False, "scale_attn_by_inverse_layer_idx": True, "n_layer": 3},
        {"n_inner": None, "layer_norm_epsilon": 1e-3},
        {"n_head": 1},
        {"n_head": 16, "n_layer": 1},
        {"tie_word_embeddings": False},
    ],
    ids=str,
)
def test_settings(settings: dict[str, Any], batch: int, padding: bool) -> None:
    ours, _ = pair("GPT2LMHeadModel", **settings)
    assert_steps_are_the_forward(ours, batch, padding=padding)


@pytest.mark.parametrize("name", sorted(ACT2FN))
def test_activations(name: str) -> None:
    ours, _ = fresh("GPT2LMHeadModel")
    for block in ours.transformer.h:
        block.mlp.act = minitf.activations.get_activation(name).eval()
    assert_steps_are_the_forward(ours, 2)


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("batch", [1, 3])
def test_precisions_and_threads(dtype: torch.dtype, count: int, batch: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also with every product cut between two threads, which otherwise only large matrices are."""
    monkeypatch.setattr(products, "SMALLEST", 1)
    ours, _ = fresh("GPT2LMHeadModel")
    with threads(count):
        for padding in (False, True):
            assert_steps_are_the_forward(ours.to(dtype), batch, padding=padding)
        if count == 2 and dtype == torch.float32:
            assert products.parts(torch.zeros(batch, 1, 64), ours.lm_head.weight.detach()) == 1  # gradients are on
            with torch.no_grad():
                assert products.parts(torch.zeros(batch, 1, 64), ours.lm_head.weight) == 2


def test_pruned_heads() -> None:
    ours, _ = fresh("GPT2LMHeadModel")
    ours.prune_heads({0: [0, 2], 1: [1]})
    for batch in (1, 3):
        assert_steps_are_the_forward(ours, batch)


def test_after_resizing() -> None:
    ours, _ = fresh("GPT2LMHeadModel")
    ours.resize_token_embeddings(64)
    made = prompts("none")["input_ids"]
    assert torch.equal(scores_of(ours, made), scores_of(ours, made, by_the_forward=True))


def test_a_bias_of_the_scores() -> None:
    """`lm_head` has none, but whoever adds one sees it in every step."""
    ours, _ = fresh("GPT2LMHeadModel")
    made = prompts("none")["input_ids"]
    before = scores_of(ours, made)
    ours.lm_head.bias = nn.Parameter(torch.from_numpy(random_value("bias", (61,))).float())
    after = scores_of(ours, made)
    assert torch.equal(after, scores_of(ours, made, by_the_forward=True))
    assert not torch.equal(before, after)


def test_one_description_of_the_model() -> None:
    """`why_not` reads the classes as they were when the file was read, so it knows when one was patched."""
    for kind, forward in gpt2_step.PLAIN.items():
        assert kind.forward is forward, kind


# --------------------------------------------------------------------------------------------------------------------
# What must go through the forward


def scores_of(model: Any, ids: Tensor, *, by_the_forward: bool = False, **given: Any) -> Tensor:
    """`[steps, B, V]`: the scores that `generate` sees, of greedy search; with or without the step."""
    with ExitStack() as stack:
        if by_the_forward:
            patch = stack.enter_context(pytest.MonkeyPatch.context())
            patch.setattr(type(model), "decoding_step", lambda model, cache, inputs: None)
        torch.manual_seed(0)
        out = model.generate(ids, **given, **OUT)
    return torch.stack(out.logits)


def grown(x: Tensor) -> Tensor:
    return 1.5 * x


@contextmanager
def hook(model: Any) -> Iterator[None]:
    handle = model.transformer.h[1].mlp.register_forward_hook(lambda module, args, out: grown(out))
    yield
    handle.remove()


@contextmanager
def pre_hook(model: Any) -> Iterator[None]:
    handle = model.transformer.h[0].attn.c_attn.register_forward_pre_hook(lambda module, args: (grown(args[0]),))
    yield
    handle.remove()


@contextmanager
def hook_of_the_model(model: Any) -> Iterator[None]:
    handle = model.lm_head.register_forward_hook(lambda module, args, out: grown(out))
    yield
    handle.remove()


@contextmanager
def global_hook(model: Any) -> Iterator[None]:
    handle = nn.modules.module.register_module_forward_hook(
        lambda module, args, out: grown(out) if isinstance(module, nn.LayerNorm) else None
    )
    yield
    handle.remove()


@contextmanager
def global_pre_hook(model: Any) -> Iterator[None]:
    handle = nn.modules.module.register_module_forward_pre_hook(
        lambda module, args: (grown(args[0]),) if isinstance(module, gpt2.GPT2MLP) else None
    )
    yield
    handle.remove()


@contextmanager
def replaced_module(model: Any) -> Iterator[None]:
    model.transformer.h[0].mlp.act = nn.Softplus().eval()
    yield


@contextmanager
def plain_linear(model: Any) -> Iterator[None]:
    model.lm_head = randomise_(nn.Linear(64, 61)).eval()
    yield


class OtherBlock(gpt2.GPT2Block):
    def forward(self, *args: Any, **kwargs: Any) -> Any:
        hidden, *others = super().forward(*args, **kwargs)
        return grown(hidden), *others


@contextmanager
def subclass(model: Any) -> Iterator[None]:
    model.transformer.h[1].__class__ = OtherBlock
    yield


@contextmanager
def patched_class(model: Any) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        before = gpt2.GPT2MLP.forward
        patch.setattr(gpt2.GPT2MLP, "forward", lambda module, x: grown(before(module, x)))
        yield


@contextmanager
def patched_class_of_torch(model: Any) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        before = nn.LayerNorm.forward
        patch.setattr(nn.LayerNorm, "forward", lambda module, x: grown(before(module, x)))
        yield


@contextmanager
def instance_forward(model: Any) -> Iterator[None]:
    layer = model.transformer.h[0].mlp
    before = layer.forward
    layer.forward = lambda x: grown(before(x))
    yield
    del layer.forward


def louder(*args: Any, **kwargs: Any) -> Any:
    context, probs = attention.sdpa(*args, **kwargs)
    return grown(context), probs


@contextmanager
def other_attention(model: Any) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(attention.ATTENTION, "louder", louder)
        model.config.attn_implementation = "louder"
        yield
        model.config.attn_implementation = "sdpa"


@contextmanager
def replaced_attention(model: Any) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(attention.ATTENTION, "sdpa", louder)
        yield


@contextmanager
def patched_attention(model: Any) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        before = gpt2.attend

        def around(*args: Any, **kwargs: Any) -> Any:
            context, probs = before(*args, **kwargs)
            return grown(context), probs

        patch.setattr(gpt2, "attend", around)
        yield


@contextmanager
def training(model: Any) -> Iterator[None]:
    model.train()
    yield
    model.eval()


@contextmanager
def one_module_in_training(model: Any) -> Iterator[None]:
    model.transformer.h[0].attn.resid_dropout.train()
    yield
    model.eval()


@contextmanager
def autocast(model: Any) -> Iterator[None]:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        yield


class Grown(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return grown(x)


@contextmanager
def parametrized(model: Any) -> Iterator[None]:
    parametrize.register_parametrization(model.transformer.h[0].attn.c_proj, "weight", Grown())
    yield


class OtherParameter(nn.Parameter):
    @classmethod
    def __torch_function__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = super().__torch_function__(function, types, args, kwargs or {})
        return grown(result) if function is torch.addmm else result


@contextmanager
def other_parameter(model: Any) -> Iterator[None]:
    layer = model.transformer.h[0].mlp.c_proj
    layer.weight = OtherParameter(layer.weight.detach())
    yield


@contextmanager
def bounded_words(model: Any) -> Iterator[None]:
    """`nn.Embedding(max_norm=...)` shortens the vectors that it looks up, in place."""
    model.transformer.wte.max_norm = 0.5
    yield


CHANGES: dict[str, tuple[Change, str]] = {
    "hook": (hook, r"a hook on transformer\.h\.1\.mlp"),
    "pre-hook": (pre_hook, r"a hook on transformer\.h\.0\.attn\.c_attn"),
    "hook on lm_head": (hook_of_the_model, r"a hook on lm_head"),
    "global hook": (global_hook, "a hook on all modules"),
    "global pre-hook": (global_pre_hook, "a hook on all modules"),
    "replaced module": (replaced_module, r"transformer\.h\.0\.mlp\.act is not what gpt2\.py makes of it"),
    "plain nn.Linear": (plain_linear, "lm_head is not what"),
    "subclass": (subclass, r"transformer\.h\.1 is not what"),
    "patched class": (patched_class, r"transformer\.h\.0\.mlp is not what"),
    "patched class of torch": (patched_class_of_torch, r"transformer\.h\.0\.ln_1 is not what"),
    "instance's forward": (instance_forward, r"transformer\.h\.0\.mlp is not what"),
    "other attention": (other_attention, "another attention function"),
    "replaced attention": (replaced_attention, "another attention function"),
    "patched attention": (patched_attention, "another attention function"),
    "training": (training, "training mode"),
    "one module in training": (one_module_in_training, r"transformer\.h\.0\.attn\.resid_dropout is in training mode"),
    "autocast": (autocast, "autocast"),
    "parametrized": (parametrized, r"transformer\.h\.0\.attn\.c_proj is not what"),
    "other parameter": (other_parameter, r"a parameter of transformer\.h\.0\.mlp\.c_proj is of another type"),
    "bounded words": (bounded_words, r"transformer\.wte"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_change_is_seen(name: str) -> None:
    """`why_not` says what it is, and it has the effect in `generate` that it has in the forward."""
    change, reason = CHANGES[name]
    ours, _ = fresh("GPT2LMHeadModel")
    ids = prompts("none")["input_ids"]
    before = scores_of(ours, ids)
    with torch.no_grad():
        cache = ours(ids, use_cache=True).past_key_values
        assert gpt2_step.why_not(ours, cache) is None
        with change(ours):
            said = gpt2_step.why_not(ours, cache)
            assert said is not None

            assert re.search(reason, said), said
            assert gpt2_step.decoding_step(ours, cache) is None
            found = scores_of(ours, ids)
        again, _ = fresh("GPT2LMHeadModel")  # because some changes act on the weights themselves
        with change(again):
            expected = scores_of(again, ids, by_the_forward=True)
    assert torch.equal(found, expected)
    assert not torch.equal(found[-1], before[-1])


@pytest.mark.parametrize("flag", ["output_attentions", "output_hidden_states"])
def test_outputs_that_the_configuration_asks_for(flag: str) -> None:
    ours, _ = fresh("GPT2LMHeadModel", **{flag: True})
    ids = prompts("none")["input_ids"]
    with torch.no_grad():
        assert "outputs" in str(gpt2_step.why_not(ours, ours(ids, use_cache=True).past_key_values))
    assert torch.equal(scores_of(ours, ids), scores_of(ours, ids, by_the_forward=True))


def test_other_orders_of_operations() -> None:
    ours, _ = fresh("GPT2LMHeadModel", reorder_and_upcast_attn=True)
    ids, half = prompts("none")["input_ids"], ours.bfloat16()
    with torch.no_grad():
        assert "order of operations" in str(gpt2_step.why_not(half, half(ids, use_cache=True).past_key_values))
    assert torch.equal(scores_of(half, ids), scores_of(half, ids, by_the_forward=True))


def test_gradients_other_caches_and_layers_without_heads() -> None:
    ours, _ = fresh("GPT2LMHeadModel")
    ids = prompts("none")["input_ids"]
    cache = ours(ids, use_cache=True).past_key_values
    assert "gradients" in str(gpt2_step.why_not(ours, cache))
    with torch.no_grad():
        assert gpt2_step.why_not(ours, cache) is None

        class OtherCache(KVCache):
            pass

        for other in (StaticKVCache(ours.config, batch=4), OtherCache()):
            assert "another kind of cache" in str(gpt2_step.why_not(ours, other))
        ours.prune_heads({1: [0, 1, 2, 3]})
        assert "without heads" in str(gpt2_step.why_not(ours, cache))
    assert torch.equal(scores_of(ours, ids), scores_of(ours, ids, by_the_forward=True))


@pytest.mark.parametrize("name", ["head_mask", "token_type_ids", "encoder_hidden_states"])
def test_arguments_that_a_step_does_not_have(name: str) -> None:
    """Each has its effect in every step, not only in the prompt."""
    ours, _ = fresh("GPT2LMHeadModel", add_cross_attention=name == "encoder_hidden_states")
    ids = prompts("none")["input_ids"]
    values: dict[str, Tensor] = {
        "head_mask": torch.tensor([[1.0, 0.0, 1.0, 0.5], [0.0, 1.0, 1.0, 1.0]]),
        "token_type_ids": torch.full_like(ids, 9),
        "encoder_hidden_states": torch.from_numpy(random_value("states", (4, 5, 64))).float(),
    }
    given = {name: values[name]}
    found = scores_of(ours, ids, **given)
    assert torch.equal(found, scores_of(ours, ids, by_the_forward=True, **given))
    assert not torch.equal(found[-1], scores_of(ours, ids)[-1])
    uncached = torch.stack(ours.generate(ids, **given, **OUT, use_cache=False).logits)
    torch.testing.assert_close(found, uncached, rtol=0, atol=1e-4)


def test_steps_are_taken() -> None:
    """Else the comparisons above would compare the forward with itself."""
    ours, _ = fresh("GPT2LMHeadModel")
    with pytest.MonkeyPatch.context() as patch:
        calls: list[int] = []
        before = gpt2_step.DecodingStep.__call__

        def counted(step: Any, ids: Tensor, *others: Any) -> Tensor:
            calls.append(len(ids))
            return before(step, ids, *others)

        patch.setattr(gpt2_step.DecodingStep, "__call__", counted)
        made = prompts()
        for settings in ({}, {"do_sample": True}, {"num_beams": 3}, {"num_beams": 3, "do_sample": True}):
            calls.clear()
            ours.generate(**made, max_new_tokens=6, pad_token_id=PAD, **settings)
            assert calls == [4 * settings.get("num_beams", 1)] * 5


@pytest.mark.parametrize("entry", [*TRUNK_FAULTS, *CACHE_FAULTS], ids=lambda entry: entry.name)
def test_mistakes_show_in_generation_as_in_the_forward(entry: Any) -> None:
    """A mistake that is made in a model on purpose is in its texts: the step goes around none of them."""
    ours, _ = fresh("GPT2LMHeadModel")
    made = prompts()
    given = {"attention_mask": made["attention_mask"]}
    if not list(entry.changes(ours)):
        with pytest.raises(ValueError, match=r"cannot be made in a GPT2LMHeadModel like this"), entry.inject(ours):
            pass
        return
    with entry.inject(ours):
        found = scores_of(ours, made["input_ids"], **given)
        expected = scores_of(ours, made["input_ids"], by_the_forward=True, **given)
    assert torch.equal(found.nan_to_num(), expected.nan_to_num())


def test_most_mistakes_change_the_scores() -> None:
    """How many of them this model and prompt show: the test above would be empty without."""
    healthy, _ = pair("GPT2LMHeadModel")
    made = prompts()
    given = {"attention_mask": made["attention_mask"]}
    before = scores_of(healthy, made["input_ids"], **given)
    seen = 0
    for entry in TRUNK_FAULTS:
        ours, _ = fresh("GPT2LMHeadModel")
        if list(entry.changes(ours)):
            with entry.inject(ours):
                seen += not torch.equal(scores_of(ours, made["input_ids"], **given), before)
    assert seen >= 0.6 * len(TRUNK_FAULTS), (seen, len(TRUNK_FAULTS))
