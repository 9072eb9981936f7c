"""Mistakes in GPT-2's trunk: embeddings, attention, blocks, dropout, fresh weights. See gpt2_faults.py."""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minitf.parity.faults.injecting import (
    Changes,
    Fault,
    arguments_changed,
    attention_changed,
    files_with,
    parts,
    replaced,
    wrapped,
)
from minitf.parity.faults.injecting import fault as add_to
from minitf.parity.faults.shared_mistakes import (
    eps_outside_the_root,
    eps_replaced,
    head_mask_before_the_softmax,
    head_mask_ignored,
    mask_as_bias,
    mask_inverted,
    seen_up_to,
    softmax_in_half_precision,
    triangle_replaced,
)

FAULTS: list[Fault] = []
fault = partial(add_to, FAULTS)


def attentions(model: Any) -> list[Any]:
    """Every attention module, the cross-attention included."""
    found = [getattr(block, name, None) for block in model.base_model.h for name in ("attn", "crossattention")]
    return [module for module in found if module is not None]


# --------------------------------------------------------------------------------------------------------------------
# Embeddings


def positions_moved(model: Any, by: int) -> Changes:
    table = model.base_model.wpe
    last = table.num_embeddings - 1
    yield wrapped(table, "forward", lambda look_up, ids: look_up((ids + by).clamp(max=last)))


@fault(
    "positions-off-by-one",
    "positions are counted from 1",
    "the first token has position 0",
)
def _(model: Any) -> Changes:
    return positions_moved(model, 1)


@fault(
    "positions-with-opts-offset",
    "positions are counted from 2, as OPT does",
    "GPT-2 counts from 0",
)
def _(model: Any) -> Changes:
    return positions_moved(model, 2)


@fault(
    "position-embeddings-not-added",
    "the embeddings of the positions are not added, as in a model with rotary positions",
    "wte(input_ids) + wpe(position_ids)",
)
def _(model: Any) -> Changes:
    yield wrapped(model.base_model.wpe, "forward", lambda look_up, ids: 0 * look_up(ids))


def left_padded(mask: Tensor | None) -> bool:
    return mask is not None and mask.dim() == 2 and not bool(mask[:, 0].all())


@fault(
    "left-padding-without-shifted-positions",
    "positions count the padding on the left",
    "pass position_ids that count tokens only: positions_from_mask(attention_mask)",
    needs="padding on the left",
)
def _(model: Any) -> Changes:
    def change(given: dict[str, Any]) -> None:
        if left_padded(given["attention_mask"]):
            given["position_ids"] = None

    yield arguments_changed(model.base_model, change)


@fault(
    "token-types-not-added",
    "token_type_ids are accepted and not used",
    "add wte(token_type_ids), the rows of the word embeddings",
    needs="token_type_ids in the call",
)
def _(model: Any) -> Changes:
    def around(embed: Any, ids: Any, embeds: Any, types: Any, positions: Any) -> Tensor:
        return embed(ids, embeds, None, positions)

    if hasattr(model.base_model, "embed"):
        yield wrapped(model.base_model, "embed", around)


@fault(
    "token-types-from-the-positions-table",
    "the embeddings of token_type_ids are rows of wpe",
    "they are rows of wte: GPT-2 has no table of segments, its token types are special words",
    needs="token_type_ids in the call",
)
def _(model: Any) -> Changes:
    base = model.base_model

    def around(embed: Any, ids: Any, embeds: Any, types: Any, positions: Any) -> Tensor:
        if types is not None:
            ids, embeds = None, (base.wte(ids) if embeds is None else embeds) + base.wpe(types)
        return embed(ids, embeds, None, positions)

    if hasattr(base, "embed"):
        yield wrapped(base, "embed", around)


@fault(
    "word-embeddings-times-sqrt-of-width",
    "the word embeddings are multiplied by sqrt(n_embd), as in the Transformer paper",
    "GPT-2 adds them as they are",
)
def _(model: Any) -> Changes:
    table = model.base_model.wte
    yield wrapped(table, "forward", lambda look_up, ids: look_up(ids) * table.embedding_dim**0.5)


# --------------------------------------------------------------------------------------------------------------------
# The layers of the attention: order of columns, transposes, biases


def columns_moved(layer: Any, order: Tensor) -> Changes:
    """The outputs of a Conv1D (or nn.Linear) in another order."""
    columns = layer.weight.dim() - 1 if not isinstance(layer, nn.Linear) else 0
    yield replaced(layer, "weight", nn.Parameter(layer.weight.detach().index_select(columns, order)))
    if layer.bias is not None:
        yield replaced(layer, "bias", nn.Parameter(layer.bias.detach()[order]))


@fault(
    "c-attn-read-as-key-query-value",
    "the columns of c_attn are taken for key, query, value",
    "c_attn computes query, key and value side by side, in this order",
)
def _(model: Any) -> Changes:
    for block in model.base_model.h:
        query, key, value = torch.arange(3 * block.attn.split_size).chunk(3)
        yield from columns_moved(block.attn.c_attn, torch.cat([key, query, value]))


@fault(
    "c-attn-read-head-by-head",
    "the columns of c_attn are taken for query, key, value of head 0, then of head 1, as in Megatron and GPT-NeoX",
    "all queries stand first, then all keys, then all values: [3, H, D] and not [H, 3, D]",
    needs="more than one head",
)
def _(model: Any) -> Changes:
    for block in model.base_model.h:
        heads = block.attn.num_heads
        if heads > 1:
            order = torch.arange(3 * block.attn.split_size).view(heads, 3, -1).transpose(0, 1)  # [3, H, D]
            yield from columns_moved(block.attn.c_attn, order.reshape(-1))


@fault(
    "heads-split-as-size-by-heads",
    "the columns of query, key and value are read as [D, H] instead of [H, D]",
    "view(B, T, H, D), then transpose: head h has the columns h * D ... (h + 1) * D",
    needs="more than one head",
)
def _(model: Any) -> Changes:
    for module in attentions(model):
        if module.num_heads > 1:
            wide = torch.arange(module.split_size).view(-1, module.num_heads).t().reshape(-1)  # of one matrix
            for layer in (module.c_attn, getattr(module, "q_attn", None)):
                if layer is not None:
                    shifts = range(0, layer.bias.shape[0], module.split_size)
                    yield from columns_moved(layer, torch.cat([wide + shift for shift in shifts]))


@fault(
    "c-attn-bias-dropped",
    "the projection to query, key and value has no bias",
    "every Conv1D of GPT-2 has a bias",
)
def _(model: Any) -> Changes:
    for module in attentions(model):
        yield replaced(module.c_attn, "bias", nn.Parameter(torch.zeros_like(module.c_attn.bias)))


@fault(
    "attention-c-proj-bias-dropped",
    "the layer after the attention has no bias",
    "attn.c_proj has a bias like every Conv1D of GPT-2",
)
def _(model: Any) -> Changes:
    for module in attentions(model):
        yield replaced(module.c_proj, "bias", nn.Parameter(torch.zeros_like(module.c_proj.bias)))


@fault(
    "mlp-c-proj-bias-dropped",
    "the second layer of the feed-forward network has no bias",
    "mlp.c_proj has a bias like every Conv1D of GPT-2",
)
def _(model: Any) -> Changes:
    for block in model.base_model.h:
        yield replaced(block.mlp.c_proj, "bias", nn.Parameter(torch.zeros_like(block.mlp.c_proj.bias)))


@fault(
    "c-proj-not-transposed",
    "the square matrix attn.c_proj is used transposed",
    "Conv1D stores [in, out] and nn.Linear [out, in]; the shape of a square matrix does not tell",
)
def _(model: Any) -> Changes:
    for module in attentions(model):
        weight = module.c_proj.weight
        if weight.shape[0] == weight.shape[1]:
            yield replaced(module.c_proj, "weight", nn.Parameter(weight.detach().t().contiguous()))


# --------------------------------------------------------------------------------------------------------------------
# Scores and their scale


def scaling_multiplied(model: Any, factor: Callable[[int, Any], float]) -> Changes:
    """`factor(layer, attention)` multiplies the scale of the scores; none where it is 1."""
    for module in attentions(model):
        by = factor(module.layer_idx, module)
        if by != 1.0:
            yield replaced(module, "scaling", module.scaling * by)


@fault(
    "scores-not-scaled",
    "the scores are not divided by sqrt(D)",
    "multiply the scores by 1 / sqrt(head size) before the softmax",
    needs="scale_attn_weights=True",
)
def _(model: Any) -> Changes:
    scaled = model.config.scale_attn_weights
    return scaling_multiplied(model, lambda layer, module: module.head_dim**0.5 if scaled else 1.0)


@fault(
    "scores-scaled-by-width",
    "the scores are divided by sqrt(n_embd) instead of sqrt(head size)",
    "the dot product runs over one head: D = n_embd / n_head",
    needs="scale_attn_weights=True and more than one head",
)
def _(model: Any) -> Changes:
    scaled = model.config.scale_attn_weights
    return scaling_multiplied(model, lambda layer, module: model.config.n_head**-0.5 if scaled else 1.0)


@fault(
    "scale-attn-weights-ignored",
    "the scores are divided by sqrt(D) although scale_attn_weights is False",
    "read scale_attn_weights: without it the scores stay as they are",
    needs="scale_attn_weights=False",
)
def _(model: Any) -> Changes:
    scaled = model.config.scale_attn_weights
    return scaling_multiplied(model, lambda layer, module: 1.0 if scaled else module.head_dim**-0.5)


@fault(
    "layer-scaling-ignored",
    "scale_attn_by_inverse_layer_idx is accepted and not used, as by transformers 4.49 under sdpa",
    "divide the scores of layer i, counted from 0, by i + 1",
    needs="scale_attn_by_inverse_layer_idx=True and more than one layer",
)
def _(model: Any) -> Changes:
    by_layer = model.config.scale_attn_by_inverse_layer_idx
    return scaling_multiplied(model, lambda layer, module: layer + 1.0 if by_layer else 1.0)


@fault(
    "layer-scaling-counted-from-zero",
    "with scale_attn_by_inverse_layer_idx the scores of layer i are divided by i (the first ones by nothing)",
    "divide the scores of layer i, counted from 0, by i + 1",
    needs="scale_attn_by_inverse_layer_idx=True and more than one layer",
)
def _(model: Any) -> Changes:
    by_layer = model.config.scale_attn_by_inverse_layer_idx
    return scaling_multiplied(model, lambda layer, module: (layer + 1) / max(layer, 1) if by_layer else 1.0)


@fault(
    "scores-scaled-by-layer-index",
    "the scores of layer i are divided by i + 1 although the configuration does not say so",
    "only with scale_attn_by_inverse_layer_idx, which is False in OpenAI's models",
    needs="scale_attn_by_inverse_layer_idx=False and more than one layer",
)
def _(model: Any) -> Changes:
    by_layer = model.config.scale_attn_by_inverse_layer_idx
    return scaling_multiplied(model, lambda layer, module: 1.0 if by_layer else 1 / (layer + 1))


@fault(
    "upcasting-ignored",
    "reorder_and_upcast_attn is accepted and not used: half precision stays half precision",
    "compute scores and softmax in float32 and round the result",
    needs="reorder_and_upcast_attn=True and half precision",
)
def _(model: Any) -> Changes:
    if model.config.reorder_and_upcast_attn and model.dtype.itemsize < 4 and files_with(model, "attend"):
        config = copy.copy(model.config)
        config.reorder_and_upcast_attn = False
        for module in attentions(model):
            yield replaced(module, "config", config)


@fault(
    "softmax-in-half-precision",
    "the softmax is computed in float16",
    "compute the softmax in the dtype of the scores, at least in float32",
)
def _(model: Any) -> Changes:
    return softmax_in_half_precision(model)


# --------------------------------------------------------------------------------------------------------------------
# Masks


@fault(
    "padding-mask-ignored",
    "tokens attend to padding",
    "pass attention_mask down to every layer",
    needs="padding on the left: tokens never see what stands to their right",
)
def _(model: Any) -> Changes:
    yield arguments_changed(model.base_model, lambda given: given.update(attention_mask=None))


@fault(
    "padding-mask-inverted",
    "the attention mask is read as 1 = padding, 0 = token",
    "attention_mask is 1 for tokens and 0 for padding; torch's MultiheadAttention means the opposite",
    needs="an attention_mask in the call",
)
def _(model: Any) -> Changes:
    def change(given: dict[str, Any]) -> None:
        mask = given["attention_mask"]
        if mask is not None:
            given["attention_mask"] = ~mask if mask.dtype == torch.bool else 1 - mask

    yield arguments_changed(model.base_model, change)


@fault(
    "mask-inverted",
    "what should be hidden is attended to, and the reverse: queries see the later tokens and the padding",
    "a query sees itself and the tokens before it",
)
def _(model: Any) -> Changes:
    return mask_inverted(model)


@fault(
    "mask-of-minus-10000",
    "hidden keys get -10000 added to their scores, as in early ports, instead of the smallest float",
    "add torch.finfo(dtype).min, or use a boolean mask",
    needs="scores that differ by more than 10000",
)
def _(model: Any) -> Changes:
    return mask_as_bias(model, -10_000.0)


@fault(
    "mask-added-twice",
    "the smallest float is added for padding and again for causality: the sum is -inf",
    "join the masks as booleans, then add once",
    needs="a query that may attend to nothing (padding on the left): under eager its softmax is NaN",
)
def _(model: Any) -> Changes:
    return mask_as_bias(model, -torch.inf)


@fault(
    "causal-mask-missing",
    "each token sees the tokens that it has to predict",
    "each query sees itself and what is before it",
)
def _(model: Any) -> Changes:
    return triangle_replaced(model, seen_up_to(10**6))


@fault(
    "causal-mask-sees-the-next-token",
    "each query sees one token too many",
    "key position <= query position",
)
def _(model: Any) -> Changes:
    return triangle_replaced(model, seen_up_to(1))


@fault(
    "causal-mask-hides-the-token-itself",
    "key position < query position: a query does not see itself",
    "key position <= query position",
)
def _(model: Any) -> Changes:
    return triangle_replaced(model, seen_up_to(-1))


@fault(
    "head-mask-ignored",
    "head_mask is accepted and not used, as in transformers 5.x",
    "multiply the probabilities of each head by its factor",
    needs="a head_mask",
)
def _(model: Any) -> Changes:
    return head_mask_ignored(model)


@fault(
    "head-mask-before-the-softmax",
    "the factor of a head is applied to its scores",
    "it is applied to the probabilities, after softmax and dropout",
    needs="a head_mask",
)
def _(model: Any) -> Changes:
    return head_mask_before_the_softmax(model)


# --------------------------------------------------------------------------------------------------------------------
# Blocks: activation, LayerNorm, residuals


@fault(
    "gelu-by-erf",
    "the exact GELU by erf, which is BERT's, instead of the tanh approximation",
    'GPT-2\'s activation is the tanh approximation, "gelu_new"; "gelu" in OpenAI\'s own code means the same',
    needs='activation_function = "gelu_new"',
)
def _(model: Any) -> Changes:
    if model.config.activation_function == "gelu_new":
        for block in model.base_model.h:
            yield replaced(block.mlp, "act", nn.GELU())


@fault(
    "layernorm-eps-1e-12",
    "LayerNorm has BERT's eps of 1e-12",
    "GPT-2's layer_norm_epsilon is 1e-5: read it from the configuration",
    needs="layer_norm_epsilon other than 1e-12",
)
def _(model: Any) -> Changes:
    return eps_replaced(model, 1e-12)


@fault(
    "layernorm-eps-outside-the-root",
    "(x - mean) / (sqrt(variance) + eps) instead of (x - mean) / sqrt(variance + eps)",
    "add eps to the variance, inside of the square root",
)
def _(model: Any) -> Changes:
    return eps_outside_the_root(model)


@fault(
    "ln-1-and-ln-2-swapped",
    "the LayerNorm before the attention and the one before the feed-forward network are exchanged",
    "ln_1 stands before attn, ln_2 before mlp",
)
def _(model: Any) -> Changes:
    for block in model.base_model.h:
        yield replaced(block, "ln_1", block.ln_2)
        yield replaced(block, "ln_2", block.ln_1)


@fault(
    "ln-f-affine-skipped",
    "the last LayerNorm normalises and then neither multiplies by its weight nor adds its bias",
    "load ln_f.weight and ln_f.bias and apply them",
)
def _(model: Any) -> Changes:
    norm = model.base_model.ln_f
    yield wrapped(norm, "forward", lambda forward, x: F.layer_norm(x, norm.normalized_shape, eps=norm.eps))


@fault(
    "ln-f-left-out",
    "the result is taken before the last LayerNorm",
    "the blocks' sum is never normalised inside of them, so ln_f comes after the last one",
)
def _(model: Any) -> Changes:
    yield replaced(model.base_model, "ln_f", nn.Identity())


@fault(
    "hidden-states-before-ln-f",
    "the last entry of hidden_states is the output of the last block",
    "hidden_states are the L inputs of the blocks and, last, the output of ln_f",
    needs="output_hidden_states=True, with return_dict=True",
)
def _(model: Any) -> Changes:
    before: list[Tensor] = []

    def remember(norm: Any, x: Tensor) -> Tensor:
        before[:] = [x]
        return norm(x)

    def around(forward: Any, *args: Any, **kwargs: Any) -> Any:
        output = forward(*args, **kwargs)
        states = getattr(output, "hidden_states", None)
        if states is None:
            return output
        return dataclasses.replace(output, hidden_states=(*states[:-1], before[0]))

    yield wrapped(model.base_model.ln_f, "forward", remember)
    yield wrapped(model.base_model, "forward", around)


@fault(
    "hidden-states-without-the-embeddings",
    "hidden_states starts with the output of the first block (and ends with that of ln_f twice)",
    "hidden_states[0] is the output of the embeddings, hidden_states[i] the input of block i",
    needs="output_hidden_states=True, with return_dict=True",
)
def _(model: Any) -> Changes:
    def around(forward: Any, *args: Any, **kwargs: Any) -> Any:
        output = forward(*args, **kwargs)
        states = getattr(output, "hidden_states", None)
        return output if states is None else dataclasses.replace(output, hidden_states=(*states[1:], states[-1]))

    yield wrapped(model.base_model, "forward", around)


@fault(
    "last-block-left-out",
    "the result is taken before the last block",
    "n_layer counts the blocks; ln_f comes after the last one",
)
def _(model: Any) -> Changes:
    def around(forward: Any, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Any:
        _, *others = forward(hidden_states, *args, **kwargs)
        return (hidden_states, *others)

    if files_with(model, "attend"):
        yield wrapped(model.base_model.h[-1], "forward", around)


def block_rewritten(model: Any, order: Callable[[Any, Tensor, Callable[[Tensor], Tensor]], Tensor]) -> Changes:
    """`order(block, x, attend)` is what a block without cross-attention computes; `attend` is its self-attention."""

    def rewritten(block: Any) -> Callable[..., Any]:
        def around(forward: Any, x: Tensor, mask: Any = None, **given: Any) -> Any:
            probs = []

            def attend(y: Tensor) -> Tensor:
                wanted = ("head_mask", "cache", "output_attentions")
                context, p = block.attn(y, mask, **{name: given[name] for name in wanted if name in given})
                probs.append(p)
                return context

            return order(block, x, attend), probs[0], None

        return around

    for block in model.base_model.h:
        if files_with(model, "attend") and not hasattr(block, "crossattention"):
            yield wrapped(block, "forward", rewritten(block))


@fault(
    "post-norm",
    "LayerNorm(x + f(x)), as BERT does, instead of x + f(LayerNorm(x))",
    "GPT-2 is pre-norm: LayerNorm stands before attention and feed-forward network",
    needs="blocks without cross-attention",
)
def _(model: Any) -> Changes:
    def order(block: Any, x: Tensor, attend: Any) -> Tensor:
        x = block.ln_1(x + attend(x))
        return block.ln_2(x + block.mlp(x))

    return block_rewritten(model, order)


@fault(
    "residual-of-the-normalised-input",
    "x = LayerNorm(x), then x + f(x): the residual starts after the LayerNorm",
    "the residual stream itself is never normalised: x + f(LayerNorm(x))",
    needs="blocks without cross-attention",
)
def _(model: Any) -> Changes:
    def order(block: Any, x: Tensor, attend: Any) -> Tensor:
        x = block.ln_1(x)
        x = block.ln_2(x + attend(x))
        return x + block.mlp(x)

    return block_rewritten(model, order)


@fault(
    "attention-and-mlp-in-parallel",
    "the feed-forward network reads the block's input instead of the attention's sum, as in GPT-J",
    "first add the attention, then feed the sum to ln_2 and mlp",
    needs="blocks without cross-attention",
)
def _(model: Any) -> Changes:
    def order(block: Any, x: Tensor, attend: Any) -> Tensor:
        return x + attend(block.ln_1(x)) + block.mlp(block.ln_2(x))

    return block_rewritten(model, order)


@fault(
    "residual-around-attention-left-out",
    "the input of the attention is not added to its output",
    "x + attn(ln_1(x))",
    needs="blocks without cross-attention",
)
def _(model: Any) -> Changes:
    def order(block: Any, x: Tensor, attend: Any) -> Tensor:
        x = attend(block.ln_1(x))
        return x + block.mlp(block.ln_2(x))

    return block_rewritten(model, order)


# --------------------------------------------------------------------------------------------------------------------
# Dropout, fresh weights


@fault(
    "dropout-left-on",
    "dropout drops in evaluation too",
    "call model.eval(), and use F.dropout only with training=self.training",
)
def _(model: Any) -> Changes:
    def drop(module: nn.Dropout) -> Callable[..., Tensor]:
        return lambda forward, x: F.dropout(x, module.p, training=True)

    for module in parts(model, nn.Dropout):
        yield wrapped(module, "forward", drop(module))
    yield from attention_changed(model, lambda module, call: call.update(dropout=module.attn_dropout.p))


@fault(
    "attention-dropout-missing",
    "the attention probabilities are never dropped",
    "dropout of attn_pdrop after the softmax",
    needs="training mode",
)
def _(model: Any) -> Changes:
    return attention_changed(model, lambda module, call: call.update(dropout=0.0))


@fault(
    "residual-dropout-missing",
    "what attention and feed-forward network write into the residual stream is never dropped",
    "dropout of resid_pdrop after attn.c_proj and after mlp.c_proj",
    needs="training mode",
)
def _(model: Any) -> Changes:
    for block in model.base_model.h:
        yield wrapped(block.attn.resid_dropout, "forward", lambda drop, x: x)
        yield wrapped(block.mlp.dropout, "forward", lambda drop, x: x)


@fault(
    "dropout-of-whole-embeddings",
    "the embeddings of a token are dropped together or not at all",
    "the dropout after the embeddings is elementwise; only attention dropout drops whole tokens",
    needs="training mode",
)
def _(model: Any) -> Changes:
    yield wrapped(model.base_model.drop, "forward", lambda drop, x: x * drop(torch.ones_like(x[..., :1])))


@fault(
    "residual-initialisation-forgotten",
    "the layers that write into the residual stream are drawn as wide as all others",
    "draw both c_proj with initializer_range / sqrt(2 * n_layer) (GPT-2's paper, section 2.3)",
    needs="a model that was only initialised: a checkpoint overwrites it",
)
def _(model: Any) -> Changes:
    wider = math.sqrt(2 * model.config.n_layer)
    for block in model.base_model.h:
        for part in (block.attn, getattr(block, "crossattention", None), block.mlp):
            if part is not None:
                yield replaced(part.c_proj, "weight", nn.Parameter(part.c_proj.weight.detach() * wider))
