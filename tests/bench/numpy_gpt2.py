"""GPT-2 in NumPy: trunk, word scores, a key-value cache; each operation recorded by name, mistakes on demand.

From the papers (Radford et al. 2018 and 2019: pre-norm, a LayerNorm after the last block, the tanh form of GELU).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tests.bench.numpy_parts import Array, Port


class NumpyGPT2(Port):
    """`GPT2LMHeadModel`; matrices are stored as `[in, out]`, query, key and value side by side."""

    MISTAKES = frozenset(
        {
            "positions-off-by-one",
            "positions-with-opts-offset",
            "left-padding-without-shifted-positions",
            "word-embeddings-times-sqrt-of-width",
            "c-attn-read-as-key-query-value",
            "c-attn-read-head-by-head",
            "heads-split-as-size-by-heads",
            "attention-c-proj-bias-dropped",
            "c-proj-not-transposed",
            "scores-not-scaled",
            "scores-scaled-by-layer-index",
            "padding-mask-ignored",
            "mask-inverted",
            "mask-of-minus-10000",
            "mask-added-twice",
            "softmax-in-half-precision",
            "causal-mask-missing",
            "causal-mask-sees-the-next-token",
            "gelu-by-erf",
            "layernorm-eps-1e-12",
            "ln-1-and-ln-2-swapped",
            "ln-f-affine-skipped",
            "ln-f-left-out",
            "hidden-states-before-ln-f",
            "last-block-left-out",
            "post-norm",
            "attention-and-mlp-in-parallel",
            "dropout-left-on",
            "lm-head-untied",
            "label-shift-missing",
            "label-shift-twice",
            "causal-mask-off-by-one-with-cache",
            "causal-mask-of-the-upper-left-with-cache",
            "positions-not-advanced-with-cache",
            "cache-keys-and-values-swapped",
        }
    )

    def dense(self, path: str, x: Array, *, bias: bool = True, transposed: bool = False) -> Array:
        weight = self.weights[f"{path}.weight"]
        y = x @ (weight.T if transposed else weight)
        return self.keep(f"{path}.output", y + self.weights[f"{path}.bias"] if bias else y)

    def norm(self, path: str, x: Array, *, weights_of: str | None = None, affine: bool = True) -> Array:
        own = weights_of or path
        eps = 1e-12 if self.has("layernorm-eps-1e-12") else self.config["layer_norm_epsilon"]
        y = self.normalised(x, eps)
        if affine:
            y = y * self.weights[f"{own}.weight"] + self.weights[f"{own}.bias"]
        return self.keep(f"{path}.output", y)

    def three(self, path: str, x: Array) -> list[Array]:
        """Query, key and value of every head, `[B, H, T, D]` each."""
        heads = self.config["n_head"]
        flat = self.dense(f"{path}.c_attn", x)
        if self.has("c-attn-read-head-by-head"):
            batch, length, width = flat.shape
            apart = flat.reshape(batch, length, heads, 3, width // 3 // heads)
            return [apart[:, :, :, part].transpose(0, 2, 1, 3) for part in range(3)]
        parts = np.split(flat, 3, axis=-1)
        if self.has("c-attn-read-as-key-query-value"):
            parts = [parts[1], parts[0], parts[2]]
        return [self.split(part, heads) for part in parts]

    def allowed(self, layer_keys: int, length: int, mask: Array) -> Array:
        """`[B, 1, T, S]`: which key a query may see."""
        past = layer_keys - length
        ahead = 0
        if self.has("causal-mask-missing"):
            ahead = layer_keys
        elif self.has("causal-mask-sees-the-next-token"):
            ahead = 1
        elif self.has("causal-mask-off-by-one-with-cache") and past:
            ahead = -1
        start = 0 if self.has("causal-mask-of-the-upper-left-with-cache") else past
        triangle = np.arange(layer_keys)[None] <= np.arange(start, start + length)[:, None] + ahead
        shown = np.ones_like(mask, bool) if self.has("padding-mask-ignored") else mask.astype(bool)
        return triangle[None, None] & shown[:, None, None, :]

    def attention(self, layer: int, x: Array, mask: Array, cache: dict[int, tuple[Array, Array]] | None) -> Array:
        path = f"transformer.h.{layer}.attn"
        query, key, value = self.three(path, x)
        if cache is not None:
            if layer in cache:
                old_key, old_value = cache[layer]
                if self.has("cache-keys-and-values-swapped"):
                    old_key, old_value = old_value, old_key
                key, value = np.concatenate([old_key, key], 2), np.concatenate([old_value, value], 2)
            cache[layer] = key, value
        query = self.keep(f"{path}.query", query)
        key, value = self.keep(f"{path}.key", key), self.keep(f"{path}.value", value)
        scores = query @ key.swapaxes(-1, -2)
        if not self.has("scores-not-scaled"):
            scores = scores / scores.dtype.type(np.sqrt(query.shape[-1]))
        if self.has("scores-scaled-by-layer-index"):
            scores = scores / scores.dtype.type(layer + 1)
        allowed = self.allowed(key.shape[2], query.shape[2], mask)
        scores = self.keep(f"{path}.scores", self.hidden_added(self.round(scores), allowed))
        probs = self.keep(f"{path}.probs", self.softmax(scores))
        context = self.keep(f"{path}.context", probs @ value)
        batch, _, length, _ = context.shape
        merged = self.keep(f"{path}.c_proj.input", context.swapaxes(1, 2).reshape(batch, length, -1))
        bias = not self.has("attention-c-proj-bias-dropped")
        return self.dense(f"{path}.c_proj", merged, bias=bias, transposed=self.has("c-proj-not-transposed"))

    def feed_forward(self, path: str, x: Array) -> Array:
        wide = self.dense(f"{path}.mlp.c_fc", x)
        wide = self.gelu_by_erf(wide) if self.has("gelu-by-erf") else self.gelu_by_tanh(wide)
        return self.dense(f"{path}.mlp.c_proj", self.keep(f"{path}.mlp.act.output", wide))

    def block(self, number: int, x: Array, mask: Array, cache: dict[int, tuple[Array, Array]] | None) -> Array:
        path = f"transformer.h.{number}"
        first, second = f"{path}.ln_1", f"{path}.ln_2"
        if self.has("ln-1-and-ln-2-swapped"):
            first, second = second, first
        if self.has("post-norm"):
            x = self.norm(f"{path}.ln_1", x + self.attention(number, x, mask, cache), weights_of=first)
            return self.norm(f"{path}.ln_2", x + self.feed_forward(path, x), weights_of=second)
        attended = self.attention(number, self.norm(f"{path}.ln_1", x, weights_of=first), mask, cache)
        middle = self.keep(f"{path}.resid_mid", x + attended)
        read = x if self.has("attention-and-mlp-in-parallel") else middle
        return middle + self.feed_forward(path, self.norm(f"{path}.ln_2", read, weights_of=second))

    def read(
        self, ids: Array, mask: Array, positions: Array | None, cache: dict[int, tuple[Array, Array]] | None, past: int
    ) -> Array:
        """Hidden states `[B, T, C]` of the tokens that come after `past` others."""
        if positions is None or self.has("left-padding-without-shifted-positions"):
            positions = np.arange(past, past + ids.shape[1])[None]
        if past and self.has("positions-not-advanced-with-cache"):
            positions = positions - past
        positions = positions + self.has("positions-off-by-one") + 2 * self.has("positions-with-opts-offset")
        words = self.weights["transformer.wte.weight"][ids]
        if self.has("word-embeddings-times-sqrt-of-width"):
            words = words * words.dtype.type(words.shape[-1] ** 0.5)
        words = self.keep("transformer.wte.output", words)
        x = words + self.keep("transformer.wpe.output", self.weights["transformer.wpe.weight"][positions])
        x = self.keep("transformer.drop.output", self.dropped(self.round(x), self.config["embd_pdrop"]))
        states = [x]
        for number in range(self.config["n_layer"]):
            states.append(self.keep(f"transformer.h.{number}.output", self.block(number, states[-1], mask, cache)))
        x = states[-2] if self.has("last-block-left-out") else states[-1]
        if not self.has("ln-f-left-out"):
            x = self.norm("transformer.ln_f", x, affine=not self.has("ln-f-affine-skipped"))
        last = states[-1] if self.has("hidden-states-before-ln-f") else x
        for number, state in enumerate([*states[:-1], last]):
            self.keep(f"hidden_states.{number}", state)
        return x

    def __call__(self, inputs: dict[str, Any]) -> dict[str, Array]:
        """Compute everything for the inputs; with `past_length` the record is that of the second of two calls."""
        ids, past = inputs["input_ids"], int(inputs.get("past_length", 0))
        mask = inputs.get("attention_mask", np.ones_like(ids))
        positions = inputs.get("position_ids")
        cache: dict[int, tuple[Array, Array]] = {}
        if past:
            self.read(ids[:, :past], mask[:, :past], None if positions is None else positions[:, :past], cache, 0)
            self.record.clear()
        x = self.read(ids[:, past:], mask, None if positions is None else positions[:, past:], cache, past)
        matrix = self.weights["transformer.wte.weight"]
        if self.has("lm-head-untied"):
            matrix = np.random.default_rng(5).normal(scale=matrix.std(), size=matrix.shape).astype(matrix.dtype)
        scores = self.keep("lm_head.output", x @ matrix.T)
        self.keep("logits", scores)
        if "labels" in inputs:
            labels = inputs["labels"]
            if self.has("label-shift-twice"):
                labels = np.concatenate([labels[:, 1:], np.full_like(labels[:, :1], -100)], 1)
            if not self.has("label-shift-missing"):
                scores, labels = scores[:, :-1], labels[:, 1:]
            self.keep("loss", self.cross_entropy(scores.reshape(-1, scores.shape[-1]), labels.reshape(-1)))
        return self.record
