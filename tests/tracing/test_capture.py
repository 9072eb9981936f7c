"""`capture`: the same names and bits in both libraries, no trace in the results, steps, gradients, errors."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import minitf
from minitf.cache import KVCache
from minitf.tracing import capture, captured, memory_cost, names, outline, patch
from tests.tracing.cases import FAMILIES, attention_path, hooks, inputs, model, modes, pair


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def no_grad_logits(net: Any, batch: dict[str, Any], **more: Any) -> torch.Tensor:
    with torch.no_grad():
        logits: torch.Tensor = net(**batch, **more).logits
    return logits


# --------------------------------------------------------------------------------------------------------------------
# The values


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("family", FAMILIES)
def test_transformers_models_have_the_same_names_in_the_same_order_with_the_same_bits(
    family: str, attention: str
) -> None:
    ours, theirs = pair(family, attention)
    batch = inputs(family)
    output, mine = captured(ours, batch, "all")
    reference, other = captured(theirs, batch, "all")
    assert list(mine) == list(other)
    assert [name for name in mine if not torch.equal(mine[name], other[name])] == []
    assert torch.equal(output.logits, reference.logits)
    assert len([name for name in mine if name.endswith((".scores", ".probs", ".context"))]) == 6


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("library", [0, 1], ids=["minitf", "transformers"])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_results_are_the_same_bits_as_without(family: str, library: int, attention: str) -> None:
    net, batch = pair(family, attention)[library], inputs(family)
    plain = no_grad_logits(net, batch)
    with capture(net, "all") as record:
        seen = no_grad_logits(net, batch)
    assert torch.equal(seen, plain)
    assert len(record) > 60
    assert hooks(net) == 0


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_captured_is_what_the_model_computes(family: str, attention: str) -> None:
    net, batch = model(family, attention), inputs(family)
    output, step = captured(net, batch, "all")
    wanted = net(**batch, output_hidden_states=True, output_attentions=True)
    path = attention_path(family, 1)
    query, key, scores, probs, value, context = (
        step[f"{path}.{what}"] for what in ("query", "key", "scores", "probs", "value", "context")
    )
    assert query.shape == key.shape == value.shape == context.shape == (3, 4, 7, 16)
    assert torch.allclose(step[f"{path}.probs"], wanted.attentions[1], atol=1e-6)
    assert torch.equal(probs, torch.softmax(scores, -1))
    allowed = probs > 0
    assert torch.allclose(scores[allowed], (query @ key.transpose(-1, -2) * 0.25)[allowed], atol=1e-5)
    assert (scores[~allowed] < -1e37).all()
    assert (~allowed).any()
    assert torch.allclose(probs @ value, context, atol=1e-5)
    for index in range(2):
        # Nearly: output_attentions makes every layer eager.
        assert torch.allclose(step[f"layer.{index}.resid_pre"], wanted.hidden_states[index], atol=1e-5)
    assert torch.equal(step["layer.0.resid_post"], step["layer.1.resid_pre"])
    assert torch.equal(step["embeddings"], step["layer.0.resid_pre"])
    last = "cls.output" if family == "bert" else "lm_head.output"
    assert torch.equal(step[last], output.logits)


def test_the_stream_in_the_middle_of_a_layer() -> None:
    _, step = captured(model("gpt2"), inputs("gpt2"), "all")
    assert torch.equal(step["layer.1.resid_mid"], step["layer.1.resid_pre"] + step["transformer.h.1.attn.output"])
    assert torch.equal(step["layer.1.resid_post"], step["layer.1.resid_mid"] + step["transformer.h.1.mlp.output"])
    _, step = captured(model("bert"), inputs("bert"), "all")
    assert torch.equal(step["layer.1.resid_mid"], step["bert.encoder.layer.1.intermediate.input"])


def test_copies_are_detached_and_stay_when_the_model_changes() -> None:
    net, batch = model("bert"), inputs("bert")
    name = "cls.predictions.decoder.output"
    output, step = captured(net, batch, name)
    assert step[name].grad_fn is None
    before = step[name].clone()
    output.logits.detach().zero_()
    assert torch.equal(step[name], before)
    output, step = captured(net, batch, name, copies=False)
    assert step[name] is output.logits


def test_only_what_was_asked_for_is_kept_in_the_order_of_execution() -> None:
    net, batch = model("gpt2"), inputs("gpt2")
    _, step = captured(net, batch, ["**.ln_f.output", "layer.{0..1}.resid_post", "transformer.h.1.attn.probs"])
    assert list(step) == [
        "layer.0.resid_post",
        "transformer.h.1.attn.probs",
        "layer.1.resid_post",
        "transformer.ln_f.output",
    ]
    assert step["transformer.h.0.output"] is step["layer.0.resid_post"]
    assert len(step) == 4


# --------------------------------------------------------------------------------------------------------------------
# What attention can be asked to do


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("kind", ["relative_key", "relative_key_query"])
def test_relative_positions_are_in_the_scores(kind: str, attention: str) -> None:
    net, batch = model("bert", attention, position_embedding_type=kind), inputs("bert")
    _, step = captured(net, batch, "**.attention.self.*")
    path = attention_path("bert", 0)
    layer = net.bert.encoder.layer[0].attention.self
    bias = layer.relative_scores(step[f"{path}.query"], step[f"{path}.key"])
    plain = step[f"{path}.query"] @ step[f"{path}.key"].transpose(-1, -2)
    allowed = step[f"{path}.probs"] > 0
    assert torch.allclose(step[f"{path}.scores"][allowed], ((plain + bias) * 0.25)[allowed], atol=1e-5)
    assert torch.allclose(step[f"{path}.probs"] @ step[f"{path}.value"], step[f"{path}.context"], atol=1e-5)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("family", FAMILIES)
def test_pruned_heads(family: str, attention: str) -> None:
    net, batch = model(family, attention), inputs(family)
    net.prune_heads({0: [1, 3]})
    plain = no_grad_logits(net, batch)
    output, step = captured(net, batch, "**.{query,probs,context}")
    assert torch.equal(output.logits, plain)
    assert step[f"{attention_path(family, 0)}.probs"].shape == (3, 2, 7, 7)
    assert step[f"{attention_path(family, 1)}.context"].shape == (3, 4, 7, 16)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_head_mask_acts_after_the_probabilities(family: str) -> None:
    net, batch = model(family), inputs(family)
    mask = torch.tensor([1.0, 0.0, 1.0, 1.0])
    plain = no_grad_logits(net, batch, head_mask=mask)
    output, step = captured(net, {**batch, "head_mask": mask}, "all")
    assert torch.equal(output.logits, plain)
    path = attention_path(family, 0)
    assert (step[f"{path}.probs"].sum(-1)[:, 1] - 1).abs().max() < 1e-5
    assert (step[f"{path}.context"][:, 1] == 0).all()


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("family", FAMILIES)
def test_cross_attention_and_the_cache(family: str, attention: str) -> None:
    more = {"is_decoder": True} if family == "bert" else {}
    net = model(family, attention, add_cross_attention=True, **more)
    ids = torch.tensor([[5, 6, 7, 8]])
    states = torch.randn(1, 5, 64, generator=torch.Generator().manual_seed(0))
    cache = KVCache()
    call = {"encoder_hidden_states": states, "past_key_values": cache, "use_cache": True}
    with torch.no_grad(), capture(net, "**.{query,key,probs}") as record:
        net(ids[:, :3], **call)
        last = net(ids[:, 3:], **call).logits
    with torch.no_grad():
        whole = net(ids, encoder_hidden_states=states).logits
    assert torch.allclose(last[:, -1], whole[:, -1], atol=1e-5)
    own = attention_path(family, 1)
    cross = own.replace("attention.self", "crossattention.self").replace(".attn", ".crossattention")
    first, second = record.steps
    assert first[f"{own}.probs"].shape == (1, 4, 3, 3)
    assert second[f"{own}.probs"].shape == (1, 4, 1, 4)
    assert second[f"{own}.key"].shape == (1, 4, 4, 16)
    assert torch.equal(second[f"{own}.key"][:, :, :3], first[f"{own}.key"])
    assert second[f"{cross}.query"].shape == (1, 4, 1, 16)
    assert second[f"{cross}.probs"].shape == (1, 4, 1, 5)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_a_query_that_may_attend_to_nothing_has_no_probability(attention: str) -> None:
    net, batch = model("gpt2", attention), inputs("gpt2", padding="left")
    _, step = captured(net, batch, "**.{probs,context}")
    path = attention_path("gpt2", 0)
    assert batch["attention_mask"][1, 0] == 0
    assert (step[f"{path}.probs"][1, :, 0] == 0).all()
    assert (step[f"{path}.context"][1, :, 0] == 0).all()


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_dropout_comes_after_the_probabilities(attention: str) -> None:
    net, batch = model("bert", attention, attention_probs_dropout_prob=0.5), inputs("bert")
    net.train()
    torch.manual_seed(3)
    plain = net(**batch).logits
    torch.manual_seed(3)
    output, step = captured(net, batch, "**.probs")
    assert torch.equal(output.logits, plain)
    assert (step[f"{attention_path('bert', 0)}.probs"].sum(-1) - 1).abs().max() < 1e-5


@pytest.mark.parametrize("upcast", [torch.bfloat16, torch.float64])
def test_other_dtypes(upcast: torch.dtype) -> None:
    net, batch = model("gpt2", "sdpa", reorder_and_upcast_attn=True).to(upcast), inputs("gpt2")
    plain = no_grad_logits(net, batch)
    with torch.no_grad():
        output, step = captured(net, batch, "all")
    assert torch.equal(output.logits, plain)
    expected = torch.float32 if upcast == torch.bfloat16 else upcast  # what reorder_and_upcast_attn is for
    assert step[f"{attention_path('gpt2', 0)}.scores"].dtype == expected


def test_a_chunked_feed_forward_is_numbered() -> None:
    net, batch = model("bert", chunk_size_feed_forward=3), inputs("bert")
    _, step = captured(net, batch, "bert.encoder.layer.0.intermediate.output")
    name = "bert.encoder.layer.0.intermediate.output"
    assert list(step) == [name, f"{name}#2", f"{name}#3"]
    assert [step[key].shape[1] for key in step] == [3, 3, 1]


def test_any_module() -> None:
    net = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    _, step = captured(net, torch.ones(2, 3), "**")
    assert list(step) == ["0.input", "0.output", "1.input", "1.output", "2.input", "2.output"]


class Fused(nn.Module):
    """Attention that is one call of the fused kernel."""

    def __init__(self, **settings: Any) -> None:
        super().__init__()
        self.settings = settings

    def forward(self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        return F.scaled_dot_product_attention(query, key, value, **self.settings)


FLOATS = torch.tensor([[0.0, -1.0, -torch.inf, 2.0, 0.5], [-torch.inf] * 5, [0.0] * 5])
KERNEL_CALLS = {
    "plain": {},
    "scale": {"scale": 0.3},
    "causal": {"is_causal": True},
    "boolean": {"attn_mask": torch.isfinite(FLOATS)},
    "float": {"attn_mask": FLOATS},
    "shared keys": {"enable_gqa": True, "attn_mask": FLOATS},
}


@pytest.mark.parametrize("name", KERNEL_CALLS)
def test_scores_and_probabilities_of_every_call_of_the_fused_kernel(name: str) -> None:
    settings = KERNEL_CALLS[name]
    net = nn.ModuleDict({"attn": Fused(**settings)})
    net.forward = lambda *args: net["attn"](*args)  # type: ignore[method-assign]
    generator = torch.Generator().manual_seed(0)
    keys = 2 if "enable_gqa" in settings else 4
    query = torch.randn(2, 4, 3, 8, generator=generator)
    key, value = torch.randn(2, 2, keys, 5, 8, generator=generator).unbind(0)
    with capture(net, "attn.*") as record:
        result = net(query, key, value)
    assert torch.equal(result, F.scaled_dot_product_attention(query, key, value, **settings))
    assert torch.equal(record["attn.context"], result)
    assert torch.equal(record["attn.key"], key)
    many = value.repeat_interleave(4 // keys, dim=1)
    assert torch.allclose(record["attn.probs"] @ many, result, atol=1e-6)
    if "attn_mask" in settings:
        assert (record["attn.probs"][:, :, 1] == 0).all()  # may attend to nothing
    with torch.no_grad(), patch(net, {"attn.probs": torch.zeros_like}):
        assert (net(query, key, value) == 0).all()
    with torch.no_grad(), patch(net, {"attn.scores": lambda scores: scores + 1}):  # the softmax does not see it
        assert torch.allclose(net(query, key, value), result, atol=1e-6)


def test_attention_by_operators_and_methods() -> None:
    class Attention(nn.Module):
        def forward(self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
            return (query @ key.mT).softmax(-1).matmul(value)

    class Whole(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.self_attn = Attention()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.self_attn(x, x + 1, x + 2) + self.self_attn(x, x, x)

    x = torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(0))
    _, step = captured(Whole(), x, "self_attn.{query,key,scores,probs,value,context}")
    inside = ("query", "key", "scores", "probs", "value", "context")
    assert list(step) == [f"self_attn.{what}{again}" for again in ("", "#2") for what in inside]
    assert torch.equal(step["self_attn.key"], x + 1)
    assert torch.equal(step["self_attn.value#2"], x)
    assert torch.equal(step["self_attn.scores"], x @ (x + 1).mT)
    assert repr(step).splitlines()[:2] == ["Step with 12 tensors", "  self_attn.query: [2, 3, 4, 5]"]


# --------------------------------------------------------------------------------------------------------------------
# Several calls


@pytest.mark.parametrize("library", [0, 1], ids=["minitf", "transformers"])
@pytest.mark.parametrize("settings", [{}, {"num_beams": 2}], ids=["greedy", "beams"])
def test_a_generation_has_a_step_for_each_call(library: int, settings: dict[str, int]) -> None:
    net = pair("gpt2", "sdpa")[library]
    prompt = torch.tensor([[5, 6, 7]])
    settings = {**settings, "max_new_tokens": 4, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    plain = net.generate(prompt, attention_mask=torch.ones_like(prompt), **settings)
    with capture(net, ["layer.1.resid_post", "**.h.0.attn.probs"]) as record:
        tokens = net.generate(prompt, attention_mask=torch.ones_like(prompt), **settings)
    assert torch.equal(tokens, plain)
    assert len(record.steps) == 4
    assert [step["transformer.h.0.attn.probs"].shape[-1] for step in record.steps] == [3, 4, 5, 6]
    with pytest.raises(RuntimeError, match=r"called 4 times: choose a call, record\.steps\[0\]\[name\]"):
        record["layer.1.resid_post"]


def test_nothing_recorded_is_said() -> None:
    net, batch = model("gpt2"), inputs("gpt2")
    with capture(net, "transformer.ln_f.output") as record:
        net.transformer(**batch)
    with pytest.raises(RuntimeError, match="of its forward, or of a compiled form of it does not count"):
        record["transformer.ln_f.output"]
    with capture(net.transformer, "ln_f.output") as record:
        net(**batch)
    assert record["ln_f.output"].shape == (3, 7, 64)


def test_a_capture_can_be_used_twice_but_not_nested_in_itself() -> None:
    net, batch = model("gpt2"), inputs("gpt2")
    context = capture(net, "**.probs")
    with context as first:
        net(**batch)
    with context as second:
        net(**batch)
        with pytest.raises(RuntimeError, match="active already"), context:
            raise AssertionError("not reached")
    assert len(first.steps) == len(second.steps) == 1
    assert hooks(net) == 0


# --------------------------------------------------------------------------------------------------------------------
# Gradients


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("family", FAMILIES)
def test_gradients_are_those_of_autograd(family: str, attention: str) -> None:
    net, batch = model(family, attention), inputs(family, labels=True)
    path = attention_path(family, 0)
    with capture(net, [f"{path}.*", "layer.*.resid_*"], gradients=True) as record:
        net(**batch).loss.backward()
    with capture(net, [f"{path}.*", "layer.*.resid_*"], copies=False) as tensors:
        loss = net(**batch).loss
    wanted = dict(zip(tensors, torch.autograd.grad(loss, list(tensors.values())), strict=True))
    assert set(record.gradients) == set(tensors)
    assert [name for name in wanted if not torch.equal(record.gradients[name], wanted[name])] == []
    assert all(record.gradients[f"{path}.{what}"].abs().sum() > 0 for what in ("query", "scores", "probs", "context"))


def test_gradients_add_up_and_their_absence_is_said() -> None:
    net, batch = model("gpt2"), inputs("gpt2", labels=True)
    with capture(net, "transformer.ln_f.output", gradients=True) as record:
        loss = net(**batch).loss
    with pytest.raises(KeyError, match=r"'transformer.ln_f.output' has no gradient"):
        record.gradients["transformer.ln_f.output"]
    loss.backward(retain_graph=True)
    once = record.gradients["transformer.ln_f.output"].clone()
    loss.backward()
    assert torch.equal(record.gradients["transformer.ln_f.output"], once + once)
    with (
        pytest.raises(RuntimeError, match="nothing has a gradient"),
        torch.no_grad(),
        capture(net, "**.probs", gradients=True),
    ):
        net(**batch)
    assert hooks(net) == 0


# --------------------------------------------------------------------------------------------------------------------
# Errors, and what they leave behind


class Stop(BaseException):
    """As KeyboardInterrupt: not an Exception, so torch does not call the hooks that end a call."""


@pytest.mark.parametrize("kind", [RuntimeError, Stop])
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_an_exception_leaves_neither_hooks_nor_modes(attention: str, kind: type[BaseException]) -> None:
    net, batch = model("gpt2", attention), inputs("gpt2")
    plain = no_grad_logits(net, batch)

    def fail(*_: Any) -> None:
        assert modes() == 1  # the failure happens while attention is looked into
        raise kind("in the middle")

    handle = net.transformer.h[1].attn.c_attn.register_forward_hook(fail)
    with pytest.raises(kind, match="in the middle"), capture(net, "all"):
        net(**batch)
    handle.remove()
    assert hooks(net) == 0
    assert modes() == 0
    assert torch.equal(no_grad_logits(net, batch), plain)


def test_a_call_that_failed_does_not_hide_the_next() -> None:
    net, batch = model("gpt2"), inputs("gpt2")
    with capture(net, "**.probs") as record:
        with pytest.raises(ValueError, match="vocab_size"):
            net(torch.tensor([[99]]))
        net(**batch)
    assert [len(step) for step in record.steps] == [0, 2]


def test_names_that_are_not_there() -> None:
    net = model("gpt2")
    with pytest.raises(ValueError, match=r"'transformer.h.2.attn.probs' matches no name here; did you mean 'transfor"):
        capture(net, "transformer.h.2.attn.probs")
    with pytest.raises(ValueError, match=r"'layer.2.resid_pre' \(of 'layer.\{0..2\}.resid_pre'\) matches no name here"):
        capture(net, "layer.{0..2}.resid_pre")
    with pytest.raises(ValueError, match=r"'\*\*\.self\.\*' matches no name here"):
        capture(net, ["lm_head.output", "**.self.*"])
    with pytest.raises(ValueError, match="no name is given"):
        capture(net, [])
    with pytest.raises(TypeError, match="3 is a int; expected a name"):
        capture(net, [3])  # type: ignore[list-item]
    assert hooks(net) == 0


def test_names_that_were_not_asked_for_or_not_computed() -> None:
    net, batch = model("gpt2", add_cross_attention=True), inputs("gpt2")
    _, step = captured(net, batch, ["**.crossattention.probs", "lm_head.output"])
    with pytest.raises(KeyError, match=r"'transformer.h.0.crossattention.probs' exists, but this call did not compute"):
        step["transformer.h.0.crossattention.probs"]
    with pytest.raises(KeyError, match=r"'transformer.ln_f.output' was not asked for"):
        step["transformer.ln_f.output"]
    with pytest.raises(KeyError, match=r"'lm_head.outputs' matches no name here; did you mean 'lm_head.output'"):
        step["lm_head.outputs"]
    assert "lm_head.output" in step
    assert "transformer.ln_f.output" not in step


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_what_hooks_do_not_reach_is_refused() -> None:
    net, batch = model("gpt2"), inputs("gpt2")
    with pytest.raises(TypeError, match=r"the model is compiled \(torch.compile\)"):
        capture(torch.compile(net), "all")  # type: ignore[arg-type]
    traced = torch.jit.trace(nn.Linear(2, 2), torch.ones(1, 2))
    with pytest.raises(TypeError, match=r"is a torch.jit program"):
        capture(traced, "all")
    with pytest.raises(TypeError, match="the model is a dict; expected a torch"):
        capture({}, "all")  # type: ignore[arg-type]
    net.config.use_cache = False
    with pytest.raises(RuntimeError, match="being compiled or traced"), capture(net, "**.probs"):
        torch.jit.trace(net, batch["input_ids"], strict=False, check_trace=False)
    net.gradient_checkpointing_enable()
    net.train()
    with pytest.raises(RuntimeError, match="gradient checkpointing is on in transformer"), capture(net, "**.probs"):
        net(**batch)
    net.eval()
    assert len(captured(net, batch, "**.probs")[1]) == 2
    with pytest.raises(TypeError, match="inputs is a list; expected a tensor, or a mapping"):
        captured(net, [1, 2], "**.probs")  # type: ignore[arg-type]


def test_a_part_that_is_compiled_in_place_is_refused() -> None:
    net = model("gpt2")
    net.transformer.h[1].compile()
    with pytest.raises(TypeError, match=r"its part 'transformer.h.1' is compiled"):
        capture(net, "all")


# --------------------------------------------------------------------------------------------------------------------
# Names, shapes, cost


def test_names_and_aliases() -> None:
    net = model("bert")
    found = names(net)
    assert len(found) == len(set(found))
    assert found.index("bert.encoder.layer.0.attention.self.scores") < found.index("bert.encoder.layer.0.output")
    assert "bert.encoder.layer.input" not in found  # a list of modules has no forward
    assert names(net, "layer.*.resid_mid") == ["layer.0.resid_mid", "layer.1.resid_mid"]
    assert names(net, "{layer.1.resid_pre,cls.output}") == ["layer.1.resid_pre", "cls.output"]
    assert set(names(net, aliases=True)) - set(found) == {
        "embeddings",
        *(f"layer.{index}.resid_{where}" for index in (0, 1) for where in ("pre", "mid", "post")),
    }


@pytest.mark.parametrize("bad", ["layer.{0,", "layer.}0{.x", "layer.{}.resid_pre", "layer.{3..1}.resid_pre"])
def test_sets_that_are_none(bad: str) -> None:
    with pytest.raises(ValueError, match=r"brace without its partner|an empty alternative|counts backwards"):
        names(model("bert"), bad)


@pytest.mark.parametrize("library", [0, 1], ids=["minitf", "transformers"])
@pytest.mark.parametrize("family", FAMILIES)
def test_outline_and_cost_are_those_of_the_real_call(family: str, library: int) -> None:
    net, batch = pair(family, "sdpa")[library], {"input_ids": inputs(family)["input_ids"]}
    net.train()
    state = torch.random.get_rng_state()
    shapes = outline(net)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(part.training for part in net.modules())
    net.eval()
    _, step = captured(net, batch, "all")
    assert list(shapes) == list(step)
    real = {name: tuple(tensor.shape) for name, tensor in step.items()}
    assert {name: shape.shape(batch=3, tokens=7) for name, shape in shapes.items()} == real
    assert str(shapes[f"{attention_path(family, 0)}.scores"]) == "[B, 4, T, S]"
    assert str(outline(net, "layer.1.resid_mid")["layer.1.resid_mid"]) == "[B, T, 64]"


@pytest.mark.parametrize("family", FAMILIES)
def test_the_cost_is_exact_and_said_once_before_the_call(family: str, caplog: pytest.LogCaptureFixture) -> None:
    net, batch = model(family), inputs(family)
    cost = memory_cost(net, batch)
    with caplog.at_level(logging.WARNING, "minitf.tracing"), capture(net, "all") as record:
        net(**batch)
        net(**batch)
    assert cost == sum(tensor.numel() * tensor.element_size() for tensor in record.steps[0].values())
    assert [entry.message for entry in caplog.records] == [
        f"capture 'all': the copies of this call take {cost:,} bytes."
    ]
    caplog.clear()
    with caplog.at_level(logging.WARNING, "minitf.tracing"):
        captured(nn.Sequential(nn.Linear(2, 2)), torch.ones(1, 2), "all")
    assert "cannot be told beforehand (inputs has neither input_ids nor inputs_embeds" in caplog.records[0].message
    with pytest.raises(TypeError, match=r"Sequential.forward has no input_ids"):
        outline(nn.Sequential(nn.Linear(2, 2)))


def test_the_cost_with_a_cache_and_an_encoder() -> None:
    net = model("gpt2", add_cross_attention=True)
    cache, states = KVCache(), torch.zeros(2, 5, 64)
    ids = torch.tensor([[1, 2, 3], [4, 5, 6]])
    net(ids, past_key_values=cache, use_cache=True, encoder_hidden_states=states)
    call = {"input_ids": ids[:, :1], "past_key_values": cache, "encoder_hidden_states": states}
    with pytest.raises(TypeError, match="neither input_ids nor inputs_embeds"):
        memory_cost(net, {})
    pattern = "**.{query,key,scores,probs,value,context}"
    cost = memory_cost(net, call, pattern)
    assert cache.get_seq_length() == 3
    _, step = captured(net, call, pattern)
    assert cost == sum(tensor.numel() * tensor.element_size() for tensor in step.values())


def test_the_cost_of_several_choices() -> None:
    config = minitf.BertConfig(vocab_size=61, hidden_size=64, num_hidden_layers=1, num_attention_heads=4)
    net, ids = minitf.BertForMultipleChoice(config).eval(), torch.ones(2, 3, 5, dtype=torch.long)
    _, step = captured(net, ids, "all")
    assert (
        memory_cost(net, ids, "**")
        == memory_cost(net, ids)
        == sum(tensor.numel() * tensor.element_size() for tensor in step.values())
    )


def test_the_cost_call_is_seen_by_nobody_else() -> None:
    net, batch = model("gpt2"), inputs("gpt2")
    with capture(net, "**.probs") as outer, capture(net, "all") as inner:
        net(**batch)
    assert len(outer.steps) == len(inner.steps) == 1
    assert set(outer) < set(inner)


@pytest.mark.parametrize("name", ["BertForMultipleChoice", "GPT2DoubleHeadsModel", "BertModel", "GPT2Model"])
def test_outline_of_other_classes(name: str) -> None:
    config: Any = minitf.BertConfig if name.startswith("Bert") else minitf.GPT2Config
    settings = {"vocab_size": 61, "hidden_size": 64, "num_hidden_layers": 1, "num_attention_heads": 4}
    if name.startswith("GPT2"):
        settings = {"vocab_size": 61, "n_embd": 64, "n_layer": 1, "n_head": 4}
    net = getattr(minitf, name)(config(**settings))
    choices = name in ("BertForMultipleChoice", "GPT2DoubleHeadsModel")
    assert str(outline(net, "layer.0.resid_pre")["layer.0.resid_pre"]) == f"[{'2B' if choices else 'B'}, T, 64]"
