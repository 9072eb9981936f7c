"""Mistakes in BERT's trunk: embeddings, attention, layers, dropout. See bert_faults.py."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minitf.activations import GELUTanh
from minitf.models.bert import BertLayer, BertOutput, BertSelfAttention, BertSelfOutput
from minitf.parity.faults.injecting import (
    Changes,
    Fault,
    arguments_changed,
    attention_changed,
    embeddings,
    parts,
    replaced,
    wrapped,
)
from minitf.parity.faults.injecting import fault as add_to
from minitf.parity.faults.shared_mistakes import (
    eps_outside_the_root,
    eps_replaced,
    mask_as_bias,
    mask_inverted,
    softmax_in_half_precision,
)

FAULTS: list[Fault] = []
fault = partial(add_to, FAULTS)


# --------------------------------------------------------------------------------------------------------------------
# Embeddings


@fault(
    "token-types-not-added",
    "the embeddings of the segments (token_type_ids) are not added",
    "add token_type_embeddings(token_type_ids), for ids of 0 too: row 0 is not a row of zeros",
)
def _(model: Any) -> Changes:
    yield wrapped(embeddings(model).token_type_embeddings, "forward", lambda look_up, ids: 0 * look_up(ids))


@fault(
    "segments-inverted",
    "segment 0 and segment 1 are exchanged",
    "token_type_ids are 0 for the first sentence and all special tokens up to its [SEP], 1 for the second",
)
def _(model: Any) -> Changes:
    table = embeddings(model).token_type_embeddings
    yield wrapped(table, "forward", lambda look_up, ids: look_up(table.num_embeddings - 1 - ids))


def positions_moved(model: Any, by: int) -> Changes:
    table = embeddings(model).position_embeddings
    last = table.num_embeddings - 1
    yield wrapped(table, "forward", lambda look_up, ids: look_up((ids + by).clamp(max=last)))


@fault(
    "positions-off-by-one",
    "positions are counted from 1",
    "the first token ([CLS]) has position 0",
)
def _(model: Any) -> Changes:
    return positions_moved(model, 1)


@fault(
    "positions-with-robertas-offset",
    "positions are counted from 2, as RoBERTa does (its padding_idx + 1)",
    "BERT counts from 0; only RoBERTa and its relatives have the offset",
)
def _(model: Any) -> Changes:
    return positions_moved(model, 2)


@fault(
    "positions-skip-padding",
    "positions count only the tokens that the attention mask marks, as for a left-padded GPT-2",
    "BERT's positions are 0 ... T - 1 whatever the padding; pass position_ids to have them otherwise",
    needs="padding on the left, and absolute positions",
)
def _(model: Any) -> Changes:
    def change(given: dict[str, Any]) -> None:
        mask, ids = given["attention_mask"], given["input_ids"]
        if mask is not None and mask.dim() == 2 and ids is not None:
            given["position_ids"] = (mask.long().cumsum(-1) - 1).clamp(min=0)[:, -ids.shape[1] :]

    if model.config.position_embedding_type == "absolute":
        yield arguments_changed(model.base_model, change)


@fault(
    "word-embeddings-times-sqrt-of-width",
    "the word embeddings are multiplied by sqrt(hidden_size), as in the Transformer paper",
    "BERT adds them as they are",
)
def _(model: Any) -> Changes:
    table = embeddings(model).word_embeddings
    yield wrapped(table, "forward", lambda look_up, ids: look_up(ids) * table.embedding_dim**0.5)


@fault(
    "embedding-layernorm-skipped",
    "the sum of the embeddings goes into the first layer without LayerNorm",
    "apply embeddings.LayerNorm, then dropout",
)
def _(model: Any) -> Changes:
    yield replaced(embeddings(model), "LayerNorm", nn.Identity())


# --------------------------------------------------------------------------------------------------------------------
# Attention


@fault(
    "query-and-key-bias-swapped",
    "the biases of query and key are exchanged",
    "check the name mapping: query.bias belongs to query.weight; fused matrices are ordered query, key, value",
)
def _(model: Any) -> Changes:
    for module in parts(model, BertSelfAttention):
        yield replaced(module.query, "bias", module.key.bias)
        yield replaced(module.key, "bias", module.query.bias)


@fault(
    "value-bias-dropped",
    "the projection to values has no bias",
    "query, key and value all have a bias in BERT",
)
def _(model: Any) -> Changes:
    for module in parts(model, BertSelfAttention):
        yield replaced(module.value, "bias", None)


@fault(
    "attention-matrices-transposed",
    "the square matrices of the attention are used transposed",
    "torch stores [out, in] and TensorFlow and JAX [in, out]; the shape of a square matrix does not tell",
)
def _(model: Any) -> Changes:
    for module in parts(model, BertSelfAttention):
        for layer in (module.query, module.key, module.value):
            if layer.weight.shape[0] == layer.weight.shape[1]:
                yield replaced(layer, "weight", nn.Parameter(layer.weight.detach().t().contiguous()))


@fault(
    "heads-split-as-size-by-heads",
    "the columns of query, key and value are read as [D, H] instead of [H, D]",
    "view(B, T, H, D), then transpose: head h has the columns h * D ... (h + 1) * D",
    needs="more than one head",
)
def _(model: Any) -> Changes:
    def around(module: Any) -> Callable[..., Tensor]:
        def split(before: Any, x: Tensor) -> Tensor:
            batch, length, _ = x.shape
            x = x.view(batch, length, module.attention_head_size, module.num_attention_heads)  # [B, T, D, H]
            return x.permute(0, 3, 1, 2)  # [B, H, T, D]

        return split

    for module in parts(model, BertSelfAttention):
        if module.num_attention_heads > 1:
            yield wrapped(module, "transpose_for_scores", around(module))


@fault(
    "scores-not-scaled",
    "the scores are not divided by sqrt(D)",
    "multiply the scores by 1 / sqrt(head size) before the softmax",
)
def _(model: Any) -> Changes:
    yield from attention_changed(model, lambda module, call: call.update(scale=1.0))


@fault(
    "scores-scaled-by-width",
    "the scores are divided by sqrt(hidden_size) instead of sqrt(head size)",
    "the dot product runs over one head: D = hidden_size / heads",
    needs="more than one head",
)
def _(model: Any) -> Changes:
    if model.config.num_attention_heads > 1:
        scale = model.config.hidden_size**-0.5
        yield from attention_changed(model, lambda module, call: call.update(scale=scale))


@fault(
    "scores-scaled-by-layer-index",
    "the scores are also divided by the layer's number, as GPT-2's scale_attn_by_inverse_layer_idx does",
    "BERT divides by sqrt(D) only",
    needs="more than one layer",
)
def _(model: Any) -> Changes:
    yield from attention_changed(model, lambda module, call: call.update(scale=call["scale"] / (module.layer_idx + 1)))


@fault(
    "padding-mask-ignored",
    "tokens attend to padding",
    "pass attention_mask down to every layer",
    needs="padding in the batch",
)
def _(model: Any) -> Changes:
    yield arguments_changed(model.base_model, lambda given: given.update(attention_mask=None))


@fault(
    "mask-inverted",
    "what should be hidden is attended to, and the reverse",
    "attention_mask is 1 for tokens and 0 for padding; torch's MultiheadAttention means the opposite",
    needs="padding in the batch",
)
def _(model: Any) -> Changes:
    return mask_inverted(model)


@fault(
    "mask-of-minus-10000",
    "hidden keys get -10000 added to their scores, as in the first BERT, instead of the smallest float",
    "add torch.finfo(dtype).min, or use a boolean mask",
    needs="scores that differ by more than 10000",
)
def _(model: Any) -> Changes:
    return mask_as_bias(model, -10_000.0)


@fault(
    "mask-added-twice",
    "the smallest float is added for padding and again for causality: the sum is -inf",
    "join the masks as booleans, then add once",
    needs="a query that may attend to nothing: its softmax is NaN (a left-padded decoder)",
)
def _(model: Any) -> Changes:
    return mask_as_bias(model, -torch.inf)


@fault(
    "softmax-in-half-precision",
    "the softmax is computed in float16",
    "compute the softmax in the dtype of the scores, at least in float32",
)
def _(model: Any) -> Changes:
    return softmax_in_half_precision(model)


@fault(
    "residual-around-attention-left-out",
    "the input of the attention is not added to its output",
    "add the input before the LayerNorm: LayerNorm(input + dropout(dense(context)))",
)
def _(model: Any) -> Changes:
    for module in parts(model, BertSelfOutput):
        yield wrapped(module, "forward", lambda close, context, residual: close(context, torch.zeros_like(residual)))


# --------------------------------------------------------------------------------------------------------------------
# Layers: activation, LayerNorm, residuals


@fault(
    "gelu-by-tanh",
    "the tanh approximation of GELU, which is GPT-2's, instead of the exact one by erf",
    'BERT\'s "gelu" is x * (1 + erf(x / sqrt 2)) / 2; the approximation is called "gelu_new"',
    needs='hidden_act = "gelu"',
)
def _(model: Any) -> Changes:
    if model.config.hidden_act == "gelu":
        for module in model.modules():
            for name in ("intermediate_act_fn", "transform_act_fn"):
                if hasattr(module, name):
                    yield replaced(module, name, GELUTanh())


@fault(
    "layernorms-of-a-layer-confused",
    "the LayerNorm after the attention and the one after the feed-forward network are exchanged",
    "attention.output.LayerNorm comes first, output.LayerNorm second",
)
def _(model: Any) -> Changes:
    for layer in parts(model, BertLayer):
        yield replaced(layer.attention.output, "LayerNorm", layer.output.LayerNorm)
        yield replaced(layer.output, "LayerNorm", layer.attention.output.LayerNorm)


@fault(
    "layernorm-eps-1e-5",
    "LayerNorm has torch's default eps of 1e-5",
    "BERT's layer_norm_eps is 1e-12: read it from the configuration",
    needs="layer_norm_eps other than 1e-5",
)
def _(model: Any) -> Changes:
    return eps_replaced(model, 1e-5)


@fault(
    "layernorm-eps-outside-the-root",
    "(x - mean) / (sqrt(variance) + eps) instead of (x - mean) / sqrt(variance + eps)",
    "add eps to the variance, inside of the square root",
    needs="an eps that is not tiny: 1e-12 cannot be seen in float32",
)
def _(model: Any) -> Changes:
    return eps_outside_the_root(model)


@fault(
    "layernorm-before-residual",
    "x + LayerNorm(f(x)) instead of LayerNorm(x + f(x))",
    "BERT is post-norm: the residual is added first",
)
def _(model: Any) -> Changes:
    def around(module: Any) -> Callable[..., Tensor]:
        return lambda close, x, residual: module.LayerNorm(module.dropout(module.dense(x))) + residual

    for module in parts(model, BertSelfOutput, BertOutput):
        yield wrapped(module, "forward", around(module))


@fault(
    "pre-norm",
    "x + f(LayerNorm(x)), as GPT-2 does, instead of LayerNorm(x + f(x))",
    "BERT is post-norm: LayerNorm comes after the residual",
)
def _(model: Any) -> Changes:
    def normed_first(norm: nn.Module) -> Callable[..., Any]:
        return lambda forward, x, *args, **kwargs: forward(norm(x), *args, **kwargs)

    def close_without(module: Any) -> Callable[..., Tensor]:
        return lambda close, x, residual: module.dropout(module.dense(x)) + residual

    for layer in parts(model, BertLayer):
        yield wrapped(layer.attention.self, "forward", normed_first(layer.attention.output.LayerNorm))
        yield wrapped(layer.attention.output, "forward", close_without(layer.attention.output))
        yield wrapped(layer.intermediate, "forward", normed_first(layer.output.LayerNorm))
        yield wrapped(layer.output, "forward", close_without(layer.output))


@fault(
    "residual-from-the-layers-input",
    "after the feed-forward network the layer's input is added instead of the attention's output",
    "the second residual starts where the feed-forward network starts",
    needs="chunk_size_feed_forward = 0",
)
def _(model: Any) -> Changes:
    def remember(inputs: list[Tensor]) -> Callable[..., Any]:
        def around(forward: Any, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Any:
            inputs[:] = [hidden_states]
            return forward(hidden_states, *args, **kwargs)

        return around

    def use(inputs: list[Tensor]) -> Callable[..., Any]:
        return lambda close, x, residual: close(x, inputs[0])

    if model.config.chunk_size_feed_forward == 0:
        for layer in parts(model, BertLayer):
            inputs: list[Tensor] = []
            yield wrapped(layer, "forward", remember(inputs))
            yield wrapped(layer.output, "forward", use(inputs))


def encoder_output(model: Any, change: Callable[[tuple[Tensor, ...]], dict[str, Any]]) -> Changes:
    """`change(all hidden states)` gives the fields of the encoder's output that are wrong."""

    def around(forward: Any, *args: Any, **kwargs: Any) -> Any:
        wanted = kwargs.get("output_hidden_states", False)
        output = forward(*args, **{**kwargs, "output_hidden_states": True})
        wrong = {"hidden_states": output.hidden_states, **change(output.hidden_states)}
        if not wanted:
            wrong["hidden_states"] = None
        return dataclasses.replace(output, **wrong)

    yield wrapped(model.base_model.encoder, "forward", around)


@fault(
    "last-layer-left-out",
    "the result is taken before the last layer",
    "last_hidden_state is the output of the last layer, hidden_states[-1]",
)
def _(model: Any) -> Changes:
    return encoder_output(model, lambda states: {"last_hidden_state": states[-2]})


@fault(
    "hidden-states-without-the-embeddings",
    "hidden_states starts with the output of the first layer (and ends with the last one twice)",
    "hidden_states[0] is the output of the embeddings, hidden_states[i] that of layer i",
    needs="output_hidden_states=True",
)
def _(model: Any) -> Changes:
    return encoder_output(model, lambda states: {"hidden_states": (*states[1:], states[-1])})


# --------------------------------------------------------------------------------------------------------------------
# Dropout


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
    yield from attention_changed(model, lambda module, call: call.update(dropout=module.dropout.p))


@fault(
    "attention-dropout-missing",
    "the attention probabilities are never dropped",
    "dropout of attention_probs_dropout_prob after the softmax",
    needs="training mode",
)
def _(model: Any) -> Changes:
    yield from attention_changed(model, lambda module, call: call.update(dropout=0.0))


@fault(
    "dropout-of-whole-embeddings",
    "the embeddings of a token are dropped together or not at all",
    "the dropout after the embeddings is elementwise; only attention dropout drops whole tokens",
    needs="training mode",
)
def _(model: Any) -> Changes:
    yield wrapped(embeddings(model).dropout, "forward", lambda drop, x: x * drop(torch.ones_like(x[..., :1])))


@fault(
    "embedding-dropout-before-layernorm",
    "the embeddings are dropped before their LayerNorm",
    "embeddings: sum, LayerNorm, dropout",
    needs="training mode",
)
def _(model: Any) -> Changes:
    dropout = embeddings(model).dropout
    yield wrapped(embeddings(model).LayerNorm, "forward", lambda norm, x: norm(dropout(x)))
    yield replaced(embeddings(model), "dropout", nn.Identity())
