"""What researchers do with `capture` and `patch`, each as one function: ablation, patching, lenses, attribution, maps.

Every function works on the models of minitf and of transformers. `inputs` is a tensor of ids or a mapping of the call's
arguments. Heads are numbered as the model has them now: after pruning, the remaining ones from 0.

Dimension letters: B batch, T query positions, S key positions, H heads, D head size, C hidden size, V vocabulary,
L layers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from minitf.tracing.names import Names
from minitf.tracing.patching import patch, patched
from minitf.tracing.recording import captured

__all__ = [
    "ablate_heads",
    "activation_patching",
    "attention_entropy",
    "attention_probs",
    "attention_rollout",
    "head_importance",
    "logit_attribution",
    "logit_lens",
]

Inputs = Tensor | Mapping[str, Any]
ABLATIONS = ("zero", "mean", "resample")


def self_attention(model: nn.Module) -> list[str]:
    """Paths of the self-attention modules, one for each layer.

    Raises:
        ValueError: the model has none.
    """
    inside = [name.removesuffix(".context") for name in Names.of(model).names if name.endswith(".context")]
    paths = [path for path in inside if "crossattention" not in path]
    if not paths:
        raise ValueError(f"{type(model).__name__} has no attention modules that minitf.tracing knows by their paths.")
    return paths


# --------------------------------------------------------------------------------------------------------------------
# Heads


def ablate_heads(
    model: nn.Module, heads: Mapping[int, Iterable[int]], *, how: str = "zero", reference: Inputs | None = None
) -> patch:
    """`with ablate_heads(model, {layer: [head, ...]}): ...`: run the model without what these heads contribute.

    Args:
        heads: layer -> its heads, both from 0, as in `prune_heads`.
        how: what takes the place of a head's `context` `[B, T, D]`:
            "zero": 0, as `head_mask` and `prune_heads` do (Michel et al. 2019, arXiv:1905.10650).
            "mean": its mean over the rows and positions of `reference` that are not padding (a mean over one prompt
                position at a time is in Wang et al. 2022, arXiv:2211.00593, where prompts share a template).
            "resample": its value for `reference`, row by row and position by position, which therefore has the shape of
                the inputs (Chan et al. 2022, "Causal scrubbing").
        reference: the inputs that "mean" and "resample" are computed from, now, with one call.

    Returns:
        The context manager.

    Raises:
        ValueError: another `how`; `reference` missing, or without a use; a layer or head that the model does not have
            (a head: when the model is called); shapes that differ.
    """
    paths = self_attention(model)
    if how not in ABLATIONS:
        raise ValueError(f"how = {how!r}; expected one of {', '.join(map(repr, ABLATIONS))}.")
    if (reference is None) != (how == "zero"):
        raise ValueError(f"how={how!r} {'uses no' if how == 'zero' else 'needs a'} reference.")
    wanted = {layer: list(numbers) for layer, numbers in heads.items()}
    for layer, numbers in wanted.items():
        if not 0 <= layer < len(paths) or not numbers:
            raise ValueError(
                f"heads has {layer}: {numbers}; expected layers 0 to {len(paths) - 1}, each with its heads."
            )
    sites = {layer: f"{paths[layer]}.context" for layer in wanted}
    values: dict[int, Tensor] = {}
    if reference is not None:
        with torch.no_grad():
            _, step = captured(model, reference, list(sites.values()))
        values = {layer: step[name] for layer, name in sites.items()}  # [B, H, T, D] each
        if how == "mean":
            values = {layer: _mean_of_tokens(value, reference) for layer, value in values.items()}  # [H, 1, D]
    return patch(model, {sites[layer]: _without(layer, wanted[layer], values.get(layer)) for layer in wanted})


def _without(layer: int, heads: list[int], value: Tensor | None) -> Callable[[Tensor], Tensor]:
    def ablated(context: Tensor) -> Tensor:
        count = context.shape[1]
        if min(heads) < 0 or max(heads) >= count:
            raise ValueError(f"heads {heads} of layer {layer}: expected 0 to {count - 1}.")
        if value is not None and value.dim() == 4 and value.shape != context.shape:
            raise ValueError(
                f"resampling needs a reference of the inputs' shape: its context has {list(value.shape)}, theirs "
                f"{list(context.shape)}."
            )
        context[:, heads] = 0.0 if value is None else value[..., heads, :, :]
        return context

    return ablated


def _mean_of_tokens(context: Tensor, inputs: Inputs) -> Tensor:
    """Mean of `[B, H, T, D]` over the positions that `attention_mask` (if there is one) calls tokens: `[H, 1, D]`."""
    mask = None if isinstance(inputs, Tensor) else inputs.get("attention_mask")
    if mask is None:
        mask = torch.ones(context.shape[0], context.shape[2], device=context.device)
    if mask.shape != (context.shape[0], context.shape[2]):
        raise ValueError(f"attention_mask has shape {list(mask.shape)}; a mean needs [batch, tokens] of the reference.")
    tokens = mask.to(torch.bool)[:, None, :, None]  # [B, 1, T, 1]
    mean: Tensor = (context * tokens).sum(dim=(0, 2), keepdim=True)[0] / tokens.sum()  # [H, 1, D]
    return mean


def head_importance(model: nn.Module, inputs: Inputs, loss: Callable[[Any], Tensor] | None = None) -> list[Tensor]:
    """How much the loss would change with each head: the sum over rows of `|d loss / d head_mask|`.

    Michel et al. 2019 (arXiv:1905.10650), equation 2: the expectation over examples of the absolute gradient of the
    loss with respect to a factor on the head, which is `|context . d loss / d context|`. With a loss that is a mean
    over rows the sum over rows is that expectation. The paper also divides each layer by its L2 norm; that is left to
    the caller. Parameters get no gradient.

    Args:
        loss: from what the model returns, a scalar; None = its `loss` (give `labels` among the inputs).

    Returns:
        `[H]` for each layer.

    Raises:
        ValueError: there is no loss, or nothing of the model that needs a gradient.
    """
    names = [f"{path}.context" for path in self_attention(model)]
    with torch.enable_grad():
        output, step = captured(model, inputs, names, copies=False)
        value = loss(output) if loss is not None else getattr(output, "loss", None)
        if not isinstance(value, Tensor) or not value.requires_grad:
            raise ValueError(
                "head_importance needs a loss to differentiate: labels among the inputs, or loss=a function of the "
                "output; and parameters that require gradients."
            )
        contexts = [step[name] for name in names]  # [B, H, T, D] each
        gradients = torch.autograd.grad(value, contexts)
    return [(c.detach() * g).sum(dim=(2, 3)).abs().sum(dim=0) for c, g in zip(contexts, gradients, strict=True)]


# --------------------------------------------------------------------------------------------------------------------
# Two prompts


def activation_patching(
    model: nn.Module,
    clean: Inputs,
    corrupted: Inputs,
    metric: Callable[[Any], Tensor | float],
    *,
    names: str | Iterable[str] = "layer.*.resid_pre",
) -> Tensor:
    """Where does the information stand? The metric of the corrupted call with one value of the clean call put back.

    Meng et al. 2022 (arXiv:2202.05262, causal tracing) and Heimersheim and Nanda 2024 (arXiv:2404.15255): for every
    name and position the model runs on `corrupted`, and this value at this position is that of `clean`.

    Args:
        clean, corrupted: inputs of the same shape.
        metric: from what the model returns, a number; e.g. the difference of two logits at the last position.
        names: which values, `[B, T, C]` or `[B, H, T, D]`; a row of the result each.

    Returns:
        `[names, T]`, the metric; rows in the order of execution. N * T calls of the model are made.

    Raises:
        ValueError: the two calls differ in their shapes.
    """
    with torch.no_grad():
        _, good = captured(model, clean, names)
        _, bad = captured(model, corrupted, names)
        for name, value in good.items():
            if bad[name].shape != value.shape:
                raise ValueError(
                    f"{name!r} has shape {list(value.shape)} for clean and {list(bad[name].shape)} for corrupted: both "
                    "prompts need the same number of rows and tokens."
                )
        grid = [
            [
                float(metric(patched(model, corrupted, {name: _at_position(value, position)})))
                for position in range(value.shape[-2])
            ]
            for name, value in good.items()
        ]
    return torch.tensor(grid)


def _at_position(value: Tensor, position: int) -> Callable[[Tensor], Tensor]:
    def restored(other: Tensor) -> Tensor:
        other[..., position, :] = value[..., position, :]
        return other

    return restored


# --------------------------------------------------------------------------------------------------------------------
# The residual stream in the words of the vocabulary


def logit_lens(model: nn.Module, inputs: Inputs) -> Tensor:
    """What the model would say if it ended after each layer: its own head on the residual stream.

    nostalgebraist 2020, "interpreting GPT: the logit lens". GPT-2: `lm_head(ln_f(stream))`. BERT: `cls.predictions`,
    with its dense layer and LayerNorm. All of these were trained for the last layer only.

    Returns:
        `[L + 1, B, T, V]`: of the embeddings, then after each layer; the last is the model's own logits.

    Raises:
        ValueError: the model scores no words.
    """
    with torch.no_grad():
        _, step = captured(model, inputs, ["embeddings", "layer.*.resid_post"])
        return torch.stack([_words(model, stream) for stream in step.values()])


def _words(model: Any, stream: Tensor) -> Tensor:
    modules = dict(model.named_modules())
    if "transformer.ln_f" in modules and "lm_head" in modules:
        return modules["lm_head"](modules["transformer.ln_f"](stream))  # type: ignore[no-any-return]
    if "cls.predictions" in modules:
        return modules["cls.predictions"](stream)  # type: ignore[no-any-return]
    raise ValueError(
        f"{type(model).__name__} scores no words: the lens needs a language model (lm_head, or cls.predictions)."
    )


def logit_attribution(
    model: nn.Module, inputs: Inputs, token: int, *, position: int = -1, by: str = "head"
) -> dict[str, Tensor]:
    """One logit of GPT-2 as a sum: what the embeddings, each head and each feed-forward network write into it.

    Direct logit attribution (Elhage et al. 2021, "A Mathematical Framework for Transformer Circuits"). The residual
    stream x is a sum of terms c, and `logit = w . ln_f(x)`. LayerNorm divides by the standard deviation of x; with this
    one number kept as it is in the call, all else is linear, and a term contributes
    `w . (gain * (c - mean(c))) / std(x)`. The terms therefore add up to the logit exactly, up to rounding; they say
    nothing about what a head does through later layers.

    Args:
        token: the word whose logit is taken apart. position: of the logit.
        by: "head", or "layer" for the whole attention of a layer with its output bias.

    Returns:
        name -> `[B]`: "embeddings", "layer.0.head.3" and "layer.0.attn.bias" (or "layer.0.attn"),
        "layer.0.crossattention" if it runs, "layer.0.mlp", "bias" (of `ln_f` and, if there is one, of `lm_head`).

    Raises:
        ValueError: not a GPT-2 with `lm_head` (BERT normalises after every layer and scores words through a dense
            layer, so its logits are no such sum); a model in training mode; another `by`.
    """
    modules: dict[str, Any] = dict(model.named_modules())
    if "transformer.ln_f" not in modules or "lm_head" not in modules:
        raise ValueError(
            f"{type(model).__name__} is no GPT-2 with lm_head: only there is a logit linear in the residual stream. "
            "BERT normalises it after every layer, and scores words through one more dense layer."
        )
    if by not in ("head", "layer"):
        raise ValueError(f"by = {by!r}; expected 'head' or 'layer'.")
    if model.training:
        raise ValueError("the model is in training mode, where dropout makes another sum: call model.eval() first.")
    wanted = ["embeddings", "**.attn.context", "**.attn.output", "**.mlp.output", "transformer.ln_f.input"]
    crossed = [name for name in Names.of(model).names if name.endswith(".crossattention.output")]
    ln_f, lm_head = modules["transformer.ln_f"], modules["lm_head"]
    with torch.no_grad():
        _, step = captured(model, inputs, [*wanted, *crossed])
        at = {name: value.select(-2, position) for name, value in step.items()}  # [B, C], of a context [B, H, D]
        gain = lm_head.weight[token] * ln_f.weight  # [C]
        direction = gain - gain.mean()  # [C]; w . (gain * (c - mean(c))) = c . (gain * w - mean(gain * w))
        stream = at["transformer.ln_f.input"]
        scale = (stream.var(dim=-1, unbiased=False) + ln_f.eps).rsqrt()  # [B]
        terms = {"embeddings": at["embeddings"] @ direction}
        for path in self_attention(model):
            block = path.removesuffix(".attn")
            layer = f"layer.{block.rpartition('.')[2]}"
            terms |= _attention_terms(layer, modules[path], at, path, direction, by)
            if f"{block}.crossattention.output" in at:
                terms[f"{layer}.crossattention"] = at[f"{block}.crossattention.output"] @ direction
            terms[f"{layer}.mlp"] = at[f"{block}.mlp.output"] @ direction
        terms = {name: term * scale for name, term in terms.items()}
        bias = lm_head.weight[token] @ ln_f.bias + (0.0 if lm_head.bias is None else lm_head.bias[token])
        terms["bias"] = bias.expand(len(stream)).clone()
    return terms


def _attention_terms(
    layer: str, attention: Any, at: Mapping[str, Tensor], path: str, direction: Tensor, by: str
) -> dict[str, Tensor]:
    if by == "layer":
        return {f"{layer}.attn": at[f"{path}.output"] @ direction}
    context = at[f"{path}.context"]  # [B, H, D]
    weight = attention.c_proj.weight @ direction  # [H * D]; c_proj is stored as [inputs, outputs]
    heads = (context * weight.view(context.shape[1:])).sum(dim=-1)  # [B, H]
    terms = {f"{layer}.head.{head}": heads[:, head] for head in range(heads.shape[1])}
    return {**terms, f"{layer}.attn.bias": (attention.c_proj.bias @ direction).expand(len(heads))}


# --------------------------------------------------------------------------------------------------------------------
# Attention maps


def attention_probs(model: nn.Module, inputs: Inputs) -> list[Tensor]:
    """The self-attention's probabilities, `[B, H, T, S]` for each layer, whatever the attention implementation."""
    names = [f"{path}.probs" for path in self_attention(model)]
    with torch.no_grad():
        _, step = captured(model, inputs, names)
    return [step[name] for name in names]


def attention_entropy(probs: Tensor) -> Tensor:
    """How widely each query looks: `-sum p ln p` over the keys, in nats; 0 = one key, ln S = all alike.

    Ghader and Monz 2017 (arXiv:1710.03348); for the heads of BERT, Clark et al. 2019 (arXiv:1906.04341), section 3.3.

    Args:
        probs: `[..., S]`.

    Returns:
        `[...]`. A query that may attend to nothing has the entropy 0.
    """
    entropy: Tensor = torch.special.entr(probs).sum(dim=-1)
    return entropy


def attention_rollout(probs: Sequence[Tensor]) -> Tensor:
    """How much of each input token has come to each position after each layer, by multiplying the attention maps.

    Abnar and Zuidema 2020 (arXiv:2005.00928), section 3: `A = 0.5 W + 0.5 I` for the residual connection, with W the
    mean over the heads, rows divided by their sum; the rollout of layer i is `A_i A_(i-1) ... A_1`.

    Args:
        probs: `[B, H, T, T]` for each layer, from `attention_probs` of a call without a cache.

    Returns:
        `[L, B, T, T]`; rows (positions after the layer) add up to 1.

    Raises:
        ValueError: no layers, or maps that are not square.
    """
    if not probs or any(layer.dim() != 4 or layer.shape[-1] != layer.shape[-2] for layer in probs):
        shapes = [list(layer.shape) for layer in probs]
        raise ValueError(f"probs has shapes {shapes}; expected [B, H, T, T] for each layer (a call without a cache).")
    reached: list[Tensor] = []
    for layer in probs:
        attention = layer.mean(dim=1)  # [B, T, T]
        mixed = 0.5 * attention + 0.5 * torch.eye(attention.shape[-1], dtype=attention.dtype, device=attention.device)
        mixed = mixed / mixed.sum(dim=-1, keepdim=True)
        reached.append(mixed @ reached[-1] if reached else mixed)
    return torch.stack(reached)
