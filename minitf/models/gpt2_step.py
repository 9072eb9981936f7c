"""One token through GPT-2, written as the operations themselves: what decoding repeats, without the modules around it.

For a small model nearly all the time of a step is Python's: modules, their checks, their optional arguments. Here the
same operations stand in one function, in the same order on the same values, so the scores are the same bits as those of
`GPT2LMHeadModel.forward`, which is its oracle in the tests. It is also the shortest complete description of what the
model computes.

A step is only built for a model that is exactly the one in `gpt2.py`: a hook, a replaced or subclassed module, another
attention function, a head mask, training mode or gradients have their effect in the forward, so `decoding_step` returns
None and `generate` calls the forward. Nothing that was changed can be passed over.

Dimension letters: B rows, S positions with this one, H heads, D head size, C hidden size, F intermediate, V vocabulary.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minitf import activations, attention, products
from minitf.cache import KVCache, StaticKVCache
from minitf.checks import tracing
from minitf.models import gpt2

__all__ = ["DecodingStep", "decoding_step", "why_not"]

ATTENTION = attention.ATTENTION["sdpa"]
PLAIN: dict[Any, Any] = {
    kind: kind.forward  # type: ignore[attr-defined]  # mypy sees only what all these classes share
    for kind in (
        gpt2.GPT2LMHeadModel, gpt2.GPT2Model, gpt2.GPT2Block, gpt2.GPT2Attention, gpt2.GPT2MLP, gpt2.Conv1D,
        products.Linear, nn.LayerNorm, nn.Embedding, nn.Dropout, nn.ModuleList,
        *(kind for kind in activations.ACT2FN.values() if isinstance(kind, type)),
    )
}  # fmt: skip
"""The modules that a step stands for, with the forward that they had when this file was read."""


def decoding_step(model: Any, cache: KVCache) -> DecodingStep | None:
    """The step of a `GPT2LMHeadModel` that goes on from `cache`; None where only the forward will do (`why_not`)."""
    return DecodingStep(model, cache) if why_not(model, cache) is None else None


def why_not(model: Any, cache: KVCache) -> str | None:
    """The first reason, in words, why the forward must be called; None = a step does the same."""
    if torch.is_grad_enabled() or tracing() or torch.is_autocast_enabled(model.device.type):
        return "gradients, a recorded graph or autocast"
    config = model.config
    patched = attention.ATTENTION["sdpa"] is not ATTENTION or vars(gpt2)["attend"] is not attention.attend
    if config.attn_implementation != "sdpa" or patched:
        return "another attention function than sdpa"
    if type(cache) is not KVCache or isinstance(cache, StaticKVCache) or cache.get_cross_length():
        return "another kind of cache, or one with an encoder's keys"
    if config.output_attentions or config.output_hidden_states or config.reorder_and_upcast_attn:
        return "outputs or an order of operations that the configuration asks for"
    hooks: Any = nn.modules.module
    if hooks._global_forward_hooks or hooks._global_forward_pre_hooks:
        return "a hook on all modules"
    for name, module in model.named_modules():
        if PLAIN.get(type(module)) is not type(module).forward or "forward" in vars(module):
            return f"{name or 'the model'} is not what gpt2.py makes of it"
        if module._forward_hooks or module._forward_pre_hooks:
            return f"a hook on {name or 'the model'}"
        if module.training:
            return f"{name or 'the model'} is in training mode"
        if any(type(parameter) is not nn.Parameter for parameter in module.parameters(recurse=False)):
            return f"a parameter of {name} is of another type"
        if getattr(module, "max_norm", None) is not None:
            return f"{name} shortens the vectors that it looks up (max_norm)"
    for block in model.transformer.h:
        if block.attn.num_heads == 0 or not isinstance(block.mlp.act, nn.Module):
            return "a layer without heads, or with a function of the caller's as activation"
    return None


class DecodingStep:
    """`step(ids, positions, mask)` -> the scores of the next token; extends the cache by one position."""

    def __init__(self, model: Any, cache: KVCache) -> None:
        trunk = model.transformer
        self.cache = cache
        self.words, self.places = trunk.wte.weight, trunk.wpe.weight  # [V, C], [n_positions, C]
        self.last_norm, self.scores, self.bias = norm(trunk.ln_f), model.lm_head.weight, model.lm_head.bias
        self.blocks = [
            (
                norm(block.ln_1), pair(block.attn.c_attn), pair(block.attn.c_proj), block.attn.num_heads,
                block.attn.head_dim, block.attn.scaling,
                norm(block.ln_2), pair(block.mlp.c_fc), block.mlp.act.forward, pair(block.mlp.c_proj),
            )
            for block in trunk.h
        ]  # fmt: skip
        self.rows = 0
        self.cuts: list[tuple[int, int, int, int]] = []
        self.score_cut = 1

    def cut(self, rows: int) -> None:
        """Into how many parts each product is cut (`minitf.products`), which depends on the number of rows."""

        def parts(weight: Tensor) -> int:
            return products.parts(weight.new_empty(rows, 1, 1), weight)

        self.rows = rows
        self.cuts = [
            (parts(c_attn[1]), parts(c_proj[1]), parts(c_fc[1]), parts(down[1]))
            for _, c_attn, c_proj, _, _, _, _, c_fc, _, down in self.blocks
        ]
        self.score_cut = parts(self.scores)

    def __call__(self, ids: Tensor, positions: Tensor | None, mask: Tensor | None) -> Tensor:
        """`[B, V]` scores of what follows `ids`.

        Args:
            ids: `[B, 1]`.
            positions: `[B, S]` position ids of all positions so far; None = 0 ... S - 1.
            mask: `[B, S]`, 0 = padding; None = no padding.
        """
        rows, past = ids.shape[0], self.cache.get_seq_length()
        if rows != self.rows:
            self.cut(rows)
        place = self.places.select(0, past) if positions is None else self.places[positions[:, -1]]  # [C] or [B, C]
        hidden = torch.embedding(self.words, ids.select(1, 0)) + place  # [B, C]
        allowed = None if mask is None else mask[:, None, None].to(torch.bool)  # [B, 1, 1, S]
        buffers = self.cache.room(rows)
        for block, cut, (keys, values) in zip(self.blocks, self.cuts, buffers, strict=True):
            ln_1, c_attn, c_proj, heads, size, scale, ln_2, c_fc, act, down = block
            normed = torch.layer_norm(hidden, *ln_1)  # [B, C]
            three = products.add_rows(c_attn[0], normed, c_attn[1], cut[0]).view(rows, 3, heads, 1, size)
            query, key, value = three.unbind(1)  # [B, H, 1, D], [B, H, 1, D], [B, H, 1, D]
            keys.narrow(2, past, 1).copy_(key)
            values.narrow(2, past, 1).copy_(value)
            context = attend(query, keys.narrow(2, 0, past + 1), values.narrow(2, 0, past + 1), allowed, scale)
            context = context.reshape(rows, heads * size)  # [B, C]
            hidden = products.add_rows(c_proj[0], context, c_proj[1], cut[1]) + hidden  # [B, C]
            normed = torch.layer_norm(hidden, *ln_2)  # [B, C]
            wide = act(products.add_rows(c_fc[0], normed, c_fc[1], cut[2]))  # [B, F]
            hidden = hidden + products.add_rows(down[0], wide, down[1], cut[3])  # [B, C]
        self.cache.advance()
        hidden = torch.layer_norm(hidden, *self.last_norm)  # [B, C]
        return products.linear_rows(hidden, self.scores, self.bias, self.score_cut)  # [B, V]


def attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scale: float) -> Tensor:
    """One query for each head, `[B, H, 1, D]`, to S keys; in half precision as `minitf.attention.sdpa` does it."""
    if query.dtype in attention.HALF:
        return ATTENTION(nn.Identity(), query, key, value, mask, scale=scale, dropout=0.0)[0]  # [B, H, 1, D]
    return F.scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=scale)  # [B, H, 1, D]


def norm(layer: nn.LayerNorm) -> tuple[Any, ...]:
    """The arguments of `torch.layer_norm` after the input."""
    return layer.normalized_shape, layer.weight, layer.bias, layer.eps


def pair(layer: Any) -> tuple[Tensor, Tensor]:
    return layer.bias, layer.weight
