"""The recipes: each against its definition, written out another way."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

import minitf
from minitf import losses
from minitf.tracing import captured, patch
from minitf.tracing.recipes import (
    ablate_heads,
    activation_patching,
    attention_entropy,
    attention_probs,
    attention_rollout,
    head_importance,
    logit_attribution,
    logit_lens,
)
from tests.support import minilm_folder, shared_data
from tests.tracing.cases import FAMILIES, attention_path, inputs, model, pair


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@torch.no_grad()
def logits(net: Any, batch: dict[str, Any]) -> Tensor:
    result: Tensor = net(**batch).logits
    return result


# --------------------------------------------------------------------------------------------------------------------
# Heads


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("family", FAMILIES)
def test_zero_ablation_is_the_head_mask(family: str, attention: str) -> None:
    net, batch = model(family, attention), inputs(family)
    mask = torch.ones(2, 4)
    mask[0, [1, 3]] = mask[1, 0] = 0.0
    with ablate_heads(net, {0: [1, 3], 1: [0]}):
        ablated = logits(net, batch)
    masked = logits(net, {**batch, "head_mask": mask})
    assert (ablated - masked).abs().max() < 1e-5 * masked.abs().max()
    assert (ablated - logits(net, batch)).abs().max() > 1e-2


@pytest.mark.parametrize("family", FAMILIES)
def test_mean_ablation_leaves_padding_out(family: str) -> None:
    net, batch = model(family), inputs(family)
    name = f"{attention_path(family, 1)}.context"
    _, step = captured(net, batch, name)
    tokens = [step[name][row, 2, : int(batch["attention_mask"][row].sum())] for row in range(3)]
    mean = torch.cat(tokens).mean(0)  # [D]
    other = {**batch, "input_ids": batch["input_ids"].flip(1)}
    with ablate_heads(net, {1: [2]}, how="mean", reference=batch):
        _, seen = captured(net, other, name)
    _, plain = captured(net, other, name)
    assert torch.allclose(seen[name][:, 2], mean.expand(3, 7, 16), atol=1e-6)
    assert torch.equal(seen[name][:, [0, 1, 3]], plain[name][:, [0, 1, 3]])
    with ablate_heads(net, {1: [2]}, how="mean", reference=batch["input_ids"]):
        _, seen = captured(net, other, name)
    _, step = captured(net, batch["input_ids"], name)
    assert torch.allclose(seen[name][0, 2, 0], step[name][:, 2].reshape(-1, 16).mean(0), atol=1e-6)


@pytest.mark.parametrize("library", [0, 1], ids=["minitf", "transformers"])
@pytest.mark.parametrize("family", FAMILIES)
def test_resampling_every_head_of_the_first_layer_from_itself_changes_nothing(family: str, library: int) -> None:
    net, batch = pair(family, "sdpa")[library], inputs(family)
    plain = logits(net, batch)
    with ablate_heads(net, {0: range(4)}, how="resample", reference=batch):
        assert torch.equal(logits(net, batch), plain)
    other = {**batch, "input_ids": batch["input_ids"].flip(1)}
    with ablate_heads(net, {0: [2]}, how="resample", reference=other):
        changed = logits(net, batch)
    name = f"{attention_path(family, 0)}.context"
    _, good = captured(net, batch, name)
    _, bad = captured(net, other, name)
    mixed = good[name].clone()
    mixed[:, 2] = bad[name][:, 2]
    with patch(net, {name: mixed}):
        assert torch.equal(logits(net, batch), changed)
    assert not torch.equal(changed, plain)


def test_ablations_that_cannot_be() -> None:
    net, batch = model("gpt2"), inputs("gpt2")
    with pytest.raises(ValueError, match="how = 'median'; expected one of 'zero', 'mean', 'resample'"):
        ablate_heads(net, {0: [0]}, how="median")
    with pytest.raises(ValueError, match="how='mean' needs a reference"):
        ablate_heads(net, {0: [0]}, how="mean")
    with pytest.raises(ValueError, match="how='zero' uses no reference"):
        ablate_heads(net, {0: [0]}, reference=batch)
    with pytest.raises(ValueError, match=r"heads has 2: \[0\]; expected layers 0 to 1"):
        ablate_heads(net, {2: [0]})
    with pytest.raises(ValueError, match=r"heads has 0: \[\]; expected layers 0 to 1, each with its heads"):
        ablate_heads(net, {0: []})
    with pytest.raises(ValueError, match=r"heads \[0, 4\] of layer 1: expected 0 to 3"), ablate_heads(net, {1: [0, 4]}):
        logits(net, batch)
    short = {"input_ids": torch.tensor([[1, 2]])}
    with (
        pytest.raises(ValueError, match=r"its context has \[1, 4, 2, 16\], theirs \[3, 4, 7, 16\]"),
        ablate_heads(net, {1: [0]}, how="resample", reference=short),
    ):
        logits(net, batch)
    with pytest.raises(ValueError, match="Linear has no attention modules"):
        ablate_heads(torch.nn.Linear(2, 2), {0: [0]})


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("family", FAMILIES)
def test_head_importance_is_the_gradient_of_the_head_mask(family: str, attention: str) -> None:
    net, batch = model(family, attention), inputs(family, labels=True)
    mask = torch.ones(3, 2, 4, requires_grad=True)  # [B, L, H]
    (gradient,) = torch.autograd.grad(net(**batch, head_mask=mask).loss, mask)
    importance = head_importance(net, batch)
    assert torch.allclose(torch.stack(importance), gradient.abs().sum(0), rtol=1e-4, atol=1e-6)
    assert all(parameter.grad is None for parameter in net.parameters())
    labels = batch.pop("labels")
    own = losses.masked_language_model_loss if family == "bert" else losses.causal_language_model_loss
    again = head_importance(net, batch, lambda output: own(output.logits, labels))
    assert torch.allclose(torch.stack(again), torch.stack(importance))
    with pytest.raises(ValueError, match="needs a loss to differentiate: labels among the inputs"):
        head_importance(net, batch)


# --------------------------------------------------------------------------------------------------------------------
# Two prompts


@pytest.mark.parametrize("library", [0, 1], ids=["minitf", "transformers"])
@pytest.mark.parametrize("family", FAMILIES)
def test_activation_patching(family: str, library: int) -> None:
    net = pair(family, "sdpa")[library]
    clean = {"input_ids": torch.tensor([[5, 6, 7, 8]])}
    corrupted = {"input_ids": torch.tensor([[5, 9, 7, 8]])}

    def metric(output: Any) -> Tensor:
        difference: Tensor = output.logits[0, -1, 3] - output.logits[0, -1, 4]
        return difference

    with torch.no_grad():
        good, bad = (float(metric(net(**prompt))) for prompt in (clean, corrupted))
    grid = activation_patching(net, clean, corrupted, metric)
    assert grid.shape == (2, 4)
    # Before the first layer the prompts differ at one position, so only there is something to restore.
    assert torch.equal(grid[0, [0, 2, 3]], torch.tensor([bad] * 3))
    assert abs(float(grid[0, 1]) - good) < 1e-5
    assert abs(good - bad) > 1e-2
    # After the last layer the metric reads the last position.
    last = activation_patching(net, clean, corrupted, metric, names="layer.1.resid_post")
    assert torch.equal(last[0, :3], torch.tensor([bad] * 3))
    assert abs(float(last[0, 3]) - good) < 1e-5
    heads = activation_patching(net, clean, corrupted, metric, names="**.context")
    assert heads.shape == (2, 4)
    if family == "gpt2":  # causal: the first position is the same in both prompts
        assert torch.equal(heads[:, 0], torch.tensor([bad] * 2))
    with pytest.raises(ValueError, match=r"has shape \[1, 4, 64\] for clean and \[1, 3, 64\] for corrupted"):
        activation_patching(net, clean, {"input_ids": torch.tensor([[5, 9, 7]])}, metric)


# --------------------------------------------------------------------------------------------------------------------
# Lens and attribution


@pytest.mark.parametrize("library", [0, 1], ids=["minitf", "transformers"])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_lens_ends_with_the_logits_and_reads_the_stream(family: str, library: int) -> None:
    net, batch = pair(family, "eager")[library], inputs(family)
    lens = logit_lens(net, batch)
    assert lens.shape == (3, 3, 7, 61)
    assert torch.equal(lens[-1], logits(net, batch))
    with torch.no_grad():
        hidden = net(**batch, output_hidden_states=True).hidden_states
        for index in (0, 1):
            said = net.cls(hidden[index]) if family == "bert" else net.lm_head(net.transformer.ln_f(hidden[index]))
            assert torch.allclose(lens[index], said, atol=1e-5)
    with pytest.raises(ValueError, match="scores no words"):
        logit_lens(net.bert if family == "bert" else net.transformer, batch)


@pytest.mark.parametrize("library", [0, 1], ids=["minitf", "transformers"])
@pytest.mark.parametrize("by", ["head", "layer"])
def test_attributions_add_up_to_the_logit(by: str, library: int) -> None:
    net, batch = pair("gpt2", "sdpa")[library], inputs("gpt2")
    wanted = logits(net, batch)
    for token, position in ((7, -1), (60, 2)):
        terms = logit_attribution(net, batch, token, position=position, by=by)
        total = torch.stack(list(terms.values())).sum(0)
        assert (total - wanted[:, position, token]).abs().max() < 1e-5 * wanted.abs().max()
    assert list(terms) == [
        "embeddings",
        *(name for i in "01" for name in (*_attention(i, by), f"layer.{i}.mlp")),
        "bias",
    ]


def _attention(layer: str, by: str) -> list[str]:
    if by == "layer":
        return [f"layer.{layer}.attn"]
    return [*(f"layer.{layer}.head.{head}" for head in range(4)), f"layer.{layer}.attn.bias"]


def test_attribution_of_a_last_layer_head_is_what_its_ablation_takes_away() -> None:
    """With the LayerNorm's divisor kept: the terms are the effect, not only a sum that happens to fit."""
    net, batch = model("gpt2").double(), inputs("gpt2")
    term = logit_attribution(net, batch, 9)["layer.1.head.2"]
    path = "transformer.h.1"
    _, plain = captured(net, batch, ["transformer.ln_f.input", f"{path}.mlp.output"])
    with torch.no_grad(), ablate_heads(net, {1: [2]}), patch(net, {f"{path}.mlp.output": plain[f"{path}.mlp.output"]}):
        _, without = captured(net, batch, "transformer.ln_f.input")
    stream, other = plain["transformer.ln_f.input"][:, -1], without["transformer.ln_f.input"][:, -1]
    ln_f = net.transformer.ln_f
    scale = (stream.var(-1, unbiased=False, keepdim=True) + ln_f.eps).sqrt()
    both = [((x - x.mean(-1, keepdim=True)) / scale * ln_f.weight) @ net.lm_head.weight[9] for x in (stream, other)]
    assert torch.allclose(term, both[0] - both[1], atol=1e-10)


def test_attribution_with_cross_attention_pruned_heads_and_refusals() -> None:
    net = model("gpt2", add_cross_attention=True)
    net.prune_heads({0: [1]})
    states = torch.randn(3, 5, 64, generator=torch.Generator().manual_seed(0))
    batch = {**inputs("gpt2"), "encoder_hidden_states": states}
    terms = logit_attribution(net, batch, 5)
    total = torch.stack(list(terms.values())).sum(0)
    wanted = logits(net, batch)
    assert (total - wanted[:, -1, 5]).abs().max() < 1e-5 * wanted.abs().max()
    assert "layer.0.crossattention" in terms
    assert "layer.0.head.3" not in terms
    with pytest.raises(ValueError, match="BertForMaskedLM is no GPT-2 with lm_head"):
        logit_attribution(model("bert"), inputs("bert"), 5)
    with pytest.raises(ValueError, match="by = 'neuron'; expected 'head' or 'layer'"):
        logit_attribution(net, batch, 5, by="neuron")
    with pytest.raises(ValueError, match="training mode"):
        logit_attribution(net.train(), batch, 5)


# --------------------------------------------------------------------------------------------------------------------
# Attention maps


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_attention_probs_are_those_that_the_model_returns(attention: str) -> None:
    net, batch = model("bert", attention), inputs("bert")
    returned = net(**batch, output_attentions=True).attentions
    probs = attention_probs(net, batch)
    assert all(torch.allclose(mine, theirs, atol=1e-6) for mine, theirs in zip(probs, returned, strict=True))


def test_entropy() -> None:
    probs = torch.tensor([[1.0, 0.0, 0.0, 0.0], [0.25, 0.25, 0.25, 0.25], [0.5, 0.5, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]])
    wanted = torch.tensor([0.0, math.log(4), math.log(2), 0.0])
    assert torch.allclose(attention_entropy(probs), wanted)
    net, batch = model("gpt2"), inputs("gpt2")
    entropy = attention_entropy(attention_probs(net, batch)[0])
    assert entropy.shape == (3, 4, 7)
    assert (entropy[:, :, 0] == 0).all()  # the first token sees itself
    assert (entropy <= math.log(7)).all()


def test_rollout() -> None:
    first = torch.tensor([[[[1.0, 0.0], [0.5, 0.5]], [[1.0, 0.0], [0.1, 0.9]]]])  # [1, 2, 2, 2]
    second = torch.tensor([[[[1.0, 0.0], [0.8, 0.2]]]])
    a1 = torch.tensor([[1.0, 0.0], [0.15, 0.85]])
    a2 = torch.tensor([[1.0, 0.0], [0.4, 0.6]])
    rollout = attention_rollout([first, second])
    assert torch.allclose(rollout[0, 0], a1)
    assert torch.allclose(rollout[1, 0], a2 @ a1)
    net, batch = model("bert"), inputs("bert")
    assert torch.allclose(attention_rollout(attention_probs(net, batch)).sum(-1), torch.ones(2, 3, 7), atol=1e-6)
    with pytest.raises(ValueError, match=r"probs has shapes \[\[1, 2, 1, 3\]\]; expected \[B, H, T, T\]"):
        attention_rollout([torch.zeros(1, 2, 1, 3)])
    with pytest.raises(ValueError, match=r"probs has shapes \[\]"):
        attention_rollout([])


def test_real_checkpoints() -> None:
    bert = minitf.BertModel.from_pretrained(minilm_folder())
    ids = torch.tensor([[101, 2182, 2003, 1037, 6251, 102]])
    plain = bert(ids).last_hidden_state
    _, step = captured(bert, ids, "layer.{0..5}.resid_post")
    assert torch.equal(step["layer.5.resid_post"], plain)
    gpt2 = minitf.GPT2LMHeadModel.from_pretrained(shared_data("checkpoints", "capp-gpt2"))
    terms = logit_attribution(gpt2, torch.tensor([[11, 12, 13]]), 40)
    wanted = gpt2(torch.tensor([[11, 12, 13]])).logits[0, -1, 40]
    assert abs(float(torch.stack(list(terms.values())).sum() - wanted.detach())) < 1e-4 * abs(float(wanted.detach()))
