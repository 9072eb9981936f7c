"""`patch`: the same value changes nothing, another value has exactly its effect, and nothing is silent."""

from __future__ import annotations

import copy
from collections import namedtuple
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from minitf.tracing import capture, captured, names, patch, patched
from tests.tracing.cases import FAMILIES, attention_path, hooks, inputs, model, modes, pair


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def zero_head(head: int) -> Any:
    """A replacement of `context` that clears one head."""

    def replaced(context: Tensor) -> Tensor:
        context[:, head] = 0.0
        return context

    return replaced


@torch.no_grad()
def logits(net: Any, batch: dict[str, Any], patches: dict[str, Any] | None = None) -> Tensor:
    output = patched(net, batch, patches) if patches else net(**batch)
    result: Tensor = output.logits
    return result


# --------------------------------------------------------------------------------------------------------------------
# The effect


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("library", [0, 1], ids=["minitf", "transformers"])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_captured_value_changes_not_one_bit(family: str, library: int, attention: str) -> None:
    net, batch = pair(family, attention)[library], inputs(family)
    if library and family == "gpt2":
        del batch["token_type_ids"]
    plain = logits(net, batch)
    with torch.no_grad():
        _, step = captured(net, batch, "all")
    values = {name: value for name, value in step.items() if "#" not in name and "wte" not in name}  # used twice
    assert len(values) > 60
    different = [name for name in values if not torch.equal(logits(net, batch, {name: values[name]}), plain)]
    aliases = [name for name in names(net, aliases=True) if name not in set(names(net))]
    different += [name for name in aliases if not torch.equal(logits(net, batch, {name: step[name]}), plain)]
    assert different == []
    assert len(aliases) == 7
    assert torch.equal(logits(net, batch, values), plain)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("family", FAMILIES)
def test_every_value_of_the_trunk_has_an_effect(family: str, attention: str) -> None:
    """A patch that reaches only a copy would leave the logits as they are."""
    net, batch = model(family, attention), inputs(family)
    plain = logits(net, batch)
    # A constant change would vanish in the LayerNorm that follows.
    ramp = torch.linspace(0.5, 1.5, 16)
    path = attention_path(family, 1)
    for what in ("query", "key", "value", "context"):
        assert not torch.allclose(logits(net, batch, {f"{path}.{what}": lambda x: x * ramp}), plain, atol=1e-3), what
    for what in ("scores", "probs"):
        changed = logits(net, batch, {f"{path}.{what}": lambda x: x * 0.5})
        assert not torch.allclose(changed, plain, atol=1e-3), what
    wide = torch.linspace(0.5, 1.5, 64)
    for where in ("pre", "mid", "post"):
        changed = logits(net, batch, {f"layer.1.resid_{where}": lambda x: x * wide})
        assert not torch.allclose(changed, plain, atol=1e-3), where


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_head_zeroed_masked_and_pruned(family: str, attention: str) -> None:
    net, batch = model(family, attention), inputs(family)
    zeroed = logits(net, batch, {f"{attention_path(family, 0)}.context": zero_head(2)})
    mask = torch.ones(2, 4)
    mask[0, 2] = 0.0
    masked = logits(net, {**batch, "head_mask": mask})
    probs = logits(net, batch, {f"{attention_path(family, 0)}.probs": lambda x: x * mask[0][:, None, None]})
    other = copy.deepcopy(net)
    other.prune_heads({0: [2]})
    pruned = logits(other, batch)
    assert not torch.allclose(zeroed, logits(net, batch), atol=1e-2)
    for way in (masked, probs, pruned):
        assert (way - zeroed).abs().max() < 1e-5 * zeroed.abs().max()


@pytest.mark.parametrize("library", [0, 1], ids=["minitf", "transformers"])
def test_the_stream_in_the_middle_is_replaced_for_both_its_uses(library: int) -> None:
    net, batch = pair("gpt2", "sdpa")[library], inputs("gpt2")
    new = torch.randn(3, 7, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad(), patch(net, {"layer.1.resid_mid": new}), capture(net, "layer.1.resid_post") as record:
        net(**batch)
        block = net.transformer.h[1]
        expected = new + block.mlp(block.ln_2(new))
    assert torch.equal(record["layer.1.resid_post"], expected)
    # What the LayerNorm alone receives is another place.
    with torch.no_grad(), patch(net, {"transformer.h.1.ln_2.input": new}), capture(net, "layer.1.*") as record:
        net(**batch)
    assert not torch.allclose(record["layer.1.resid_post"], expected, atol=1e-2)


def test_a_part_that_is_called_on_its_own_leaves_no_mode_behind() -> None:
    net, batch = model("gpt2"), inputs("gpt2")
    plain, hidden = logits(net, batch), torch.ones(1, 2, 64)
    with torch.no_grad(), patch(net, {"layer.0.resid_mid": lambda x: x * 2}):
        net.transformer.h[0].ln_2(hidden)
        net.transformer.h[0](hidden)  # nor is it patched: only calls of the model are
        assert modes() == 0
        assert not torch.equal(net(**batch).logits, plain)
        assert modes() == 0


@pytest.mark.parametrize("family", FAMILIES)
def test_the_end_of_the_stream_gives_the_logits(family: str) -> None:
    net, batch = model(family), inputs(family)
    new = torch.randn(3, 7, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = net.cls(new) if family == "bert" else net.lm_head(net.transformer.ln_f(new))
    assert torch.equal(logits(net, batch, {"layer.1.resid_post": new}), expected)


@pytest.mark.parametrize("family", FAMILIES)
def test_another_prompt_put_in_whole_gives_its_logits(family: str) -> None:
    net, batch = model(family), inputs(family)
    other = {**batch, "input_ids": batch["input_ids"].flip(1)}
    with torch.no_grad():
        _, step = captured(net, other, "embeddings")
    assert torch.equal(logits(net, batch, {"embeddings": step["embeddings"]}), logits(net, other))


@pytest.mark.parametrize("library", [0, 1], ids=["minitf", "transformers"])
def test_the_result_of_a_part_that_returns_an_object(library: int) -> None:
    net, batch = pair("gpt2", "sdpa")[library], inputs("gpt2")
    new = torch.randn(3, 7, 64, generator=torch.Generator().manual_seed(0))
    assert torch.equal(logits(net, batch, {"transformer.output": new}), net.lm_head(new))


def test_modules_with_keywords_tuples_and_dictionaries() -> None:
    Pair = namedtuple("Pair", "number first second")

    class Part(nn.Module):
        def forward(self, *, x: Tensor, kind: str) -> Any:
            made: dict[str, Any] = {
                "tuple": (None, x, x), "list": [1, x], "dict": {"a": None, "b": x}, "pair": Pair(2, x, x)
            }  # fmt: skip
            return made[kind]

    class Whole(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.part = Part()

        def forward(self, x: Tensor, kind: str) -> Any:
            return self.part(kind=kind, x=x)

    whole, x, new = Whole(), torch.zeros(2), torch.ones(2)
    for kind, where in {"tuple": 1, "list": 1, "dict": "b", "pair": 1}.items():
        plain = whole(x, kind)
        out = patched(whole, {"x": x, "kind": kind}, {"part.output": new})
        assert type(out) is type(plain)
        assert len(out) == len(plain)
        assert out[where] is new
        assert patched(whole, {"x": x, "kind": kind}, {"part.input": new})[where] is new


def test_a_function_may_change_its_copy_in_place() -> None:
    net, batch = model("bert"), inputs("bert")
    path = attention_path("bert", 0)

    def emptied(hidden: Tensor) -> Tensor:
        return hidden.zero_()

    with torch.no_grad(), patch(net, {f"{path}.input": emptied}), capture(net, "**.layer.0.**") as record:
        net(**batch)
    assert (record[f"{path}.input"] == 0).all()
    assert (record["bert.encoder.layer.0.input"] != 0).all()  # the same tensor, the residual, stays


def test_a_function_may_call_the_model() -> None:
    net, batch = model("gpt2"), inputs("gpt2")
    calls = []

    def other_prompt(resid: Tensor) -> Tensor:
        calls.append(resid)
        _, step = captured(net, {**batch, "input_ids": batch["input_ids"].flip(1)}, "layer.0.resid_post")
        hidden: Tensor = net.transformer(input_ids=batch["input_ids"].flip(1)).last_hidden_state
        assert hidden.shape == step["layer.0.resid_post"].shape
        return step["layer.0.resid_post"]

    result = logits(net, batch, {"layer.0.resid_post": other_prompt})
    assert len(calls) == 1
    with torch.no_grad():
        _, step = captured(net, {**batch, "input_ids": batch["input_ids"].flip(1)}, "layer.0.resid_post")
    assert torch.equal(result, logits(net, batch, {"layer.0.resid_post": step["layer.0.resid_post"]}))


# --------------------------------------------------------------------------------------------------------------------
# Generation, gradients, nesting


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_a_generation_with_a_head_ablated_is_that_of_the_pruned_model(attention: str) -> None:
    net = model("gpt2", attention)
    other = copy.deepcopy(net)
    other.prune_heads({1: [0]})
    prompt, settings = torch.tensor([[5, 6, 7]]), {"max_new_tokens": 8, "eos_token_id": None, "no_repeat_ngram_size": 1}
    pruned = other.generate(prompt, **settings)
    with patch(net, {f"{attention_path('gpt2', 1)}.context": zero_head(0)}):
        ablated = net.generate(prompt, **settings)
    assert torch.equal(ablated, pruned)
    assert not torch.equal(net.generate(prompt, **settings), pruned)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("what", ["key", "scores", "probs", "context", "resid_mid"])
def test_a_patched_tensor_takes_part_in_autograd(what: str, attention: str) -> None:
    net, batch = model("gpt2", attention), inputs("gpt2", labels=True)
    name = "layer.0.resid_mid" if what == "resid_mid" else f"{attention_path('gpt2', 0)}.{what}"
    with capture(net, name, gradients=True) as record:
        net(**batch).loss.backward()
    leaf = record[name].clone().requires_grad_()
    patched(net, batch, {name: leaf}).loss.backward()
    assert leaf.grad is not None
    assert torch.allclose(leaf.grad, record.gradients[name], atol=1e-6)


@pytest.mark.parametrize("name", ["transformer.h.0.attn.query", "transformer.h.0.mlp.output", "layer.0.resid_mid"])
def test_contexts_act_in_the_order_in_which_they_were_entered(name: str) -> None:
    net, batch = model("gpt2"), inputs("gpt2")
    _, plain = captured(net, batch, name)
    with (
        torch.no_grad(),
        capture(net, name) as before,
        patch(net, {name: lambda x: x + 1}),
        capture(net.transformer, name.removeprefix("transformer.")) as between,
        patch(net, {name: lambda x: x * 2}),
        capture(net, [name, "layer.0.resid_post"]) as after,
    ):
        net(**batch)
    assert torch.equal(before[name], plain[name])
    assert torch.equal(between[name.removeprefix("transformer.")], plain[name] + 1)
    assert torch.equal(after[name], (plain[name] + 1) * 2)
    once = {name: lambda x: (x + 1) * 2}
    with torch.no_grad(), patch(net, once), capture(net, "layer.0.resid_post") as together:
        net(**batch)
    assert torch.equal(after["layer.0.resid_post"], together["layer.0.resid_post"])
    assert hooks(net) == modes() == 0


def test_several_names_for_one_place_apply_in_their_order() -> None:
    net, batch = model("bert"), inputs("bert")
    name = "bert.encoder.layer.0.output"
    both = logits(net, batch, {"layer.0.resid_post": lambda x: x + 1, name: lambda x: x * 2})
    assert torch.equal(both, logits(net, batch, {name: lambda x: (x + 1) * 2}))


# --------------------------------------------------------------------------------------------------------------------
# Errors


def test_a_patch_that_replaced_nothing_is_an_error() -> None:
    net, batch = model("gpt2", add_cross_attention=True), inputs("gpt2")
    with pytest.raises(RuntimeError, match=r"the patch of 'transformer.h.0.crossattention.probs' replaced nothing"):
        logits(net, batch, {"transformer.h.0.crossattention.probs": torch.zeros_like})
    not_called = r"the patch of 'lm_head.output' replaced nothing: the model was not called"
    with pytest.raises(RuntimeError, match=not_called), patch(net, {"lm_head.output": torch.zeros_like}):
        net.transformer(**batch)
    with pytest.raises(RuntimeError, match=r"the patch of 'transformer.h.1.crossattention.context' replaced nothing"):
        logits(net, batch, {"transformer.h.{0.attn,1.crossattention}.context": torch.zeros_like})
    logits(net, batch, {"**.context": torch.zeros_like})  # a pattern may find names that this call does not compute
    with pytest.raises(ZeroDivisionError), patch(net, {"lm_head.output": torch.zeros_like}):
        _ = 1 / 0  # the real error is the one to see
    assert hooks(net) == modes() == 0


def test_replacements_that_do_not_fit() -> None:
    net, batch = model("gpt2"), inputs("gpt2")
    name = "transformer.h.0.attn.context"
    message = r"the replacement of 'transformer.h.0.attn.context' has shape \[3, 4, 7\]; the value has \[3, 4, 7, 16\]"
    with pytest.raises(ValueError, match=message):
        logits(net, batch, {name: torch.zeros(3, 4, 7)})
    with pytest.raises(ValueError, match=r"is torch.float64 on cpu; the value is torch.float32 on cpu: convert it"):
        logits(net, batch, {name: lambda x: x.double()})
    with pytest.raises(TypeError, match="returned a NoneType, expected a tensor: did the function change it in place"):
        logits(net, batch, {name: lambda x: None})
    with pytest.raises(TypeError, match=r"the replacement of 'transformer.h.0.attn.context' is a float; expected a"):
        patch(net, {name: 0.0})  # type: ignore[dict-item]
    with pytest.raises(TypeError, match="patches is a list; expected"):
        patch(net, [name])  # type: ignore[arg-type]
    with pytest.raises(
        ValueError, match=r"'transformer.h.0.attn.contexts' matches no name here; did you mean 'transfo"
    ):
        patch(net, {"transformer.h.0.attn.contexts": torch.zeros_like})
    with pytest.raises(ValueError, match=r"for everything of a kind use a pattern, '\*\*.context'"):
        patch(net, {"all": torch.zeros_like})
    with pytest.raises(ValueError, match="no name is given"):
        patch(net, {})
    assert hooks(net) == modes() == 0
    assert torch.equal(logits(net, batch), logits(net, batch, {name: lambda x: x}))


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("name", ["**.scores", "**.h.0.output", "layer.0.resid_mid", "**.h.0.attn.input"])
def test_a_function_that_fails_leaves_nothing_behind(name: str, attention: str) -> None:
    net, batch = model("gpt2", attention), inputs("gpt2")
    plain = logits(net, batch)

    def fail(value: Tensor) -> Tensor:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        logits(net, batch, {name: fail})
    assert hooks(net) == modes() == 0
    assert torch.equal(logits(net, batch), plain)
