"""BERT in NumPy: trunk, masked-word head, classifier; each operation recorded under minitf's names, mistakes on demand.

From the paper (Devlin et al. 2018) and its description of the encoder (Vaswani et al. 2017, post-norm).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tests.bench.numpy_parts import Array, Port


class NumpyBert(Port):
    """`BertForMaskedLM`, or `BertForSequenceClassification` if the weights hold a classifier."""

    MISTAKES = frozenset(
        {
            "token-types-not-added",
            "positions-off-by-one",
            "positions-with-robertas-offset",
            "positions-skip-padding",
            "word-embeddings-times-sqrt-of-width",
            "embedding-layernorm-skipped",
            "query-and-key-bias-swapped",
            "value-bias-dropped",
            "attention-matrices-transposed",
            "heads-split-as-size-by-heads",
            "scores-not-scaled",
            "scores-scaled-by-layer-index",
            "padding-mask-ignored",
            "mask-inverted",
            "mask-of-minus-10000",
            "mask-added-twice",
            "softmax-in-half-precision",
            "residual-around-attention-left-out",
            "gelu-by-tanh",
            "layernorms-of-a-layer-confused",
            "layernorm-eps-1e-5",
            "layernorm-before-residual",
            "last-layer-left-out",
            "hidden-states-without-the-embeddings",
            "dropout-left-on",
            "pooler-left-out",
            "pooler-without-tanh",
            "prediction-bias-dropped",
            "decoder-untied",
            "masked-words-shifted",
            "ignored-labels-scored",
        }
    )

    def dense(self, path: str, x: Array, *, bias: bool = True) -> Array:
        y = x @ self.weights[f"{path}.weight"].T
        if bias:
            y = y + self.weights[f"{path}.bias"]
        return self.keep(f"{path}.output", y)

    def norm(self, path: str, x: Array, *, weights_of: str | None = None) -> Array:
        self.keep(f"{path}.input", x)
        own = weights_of or path
        eps = 1e-5 if self.has("layernorm-eps-1e-5") else self.config["layer_norm_eps"]
        y = self.normalised(x, eps) * self.weights[f"{own}.weight"] + self.weights[f"{own}.bias"]
        return self.keep(f"{path}.output", y)

    def gelu(self, x: Array) -> Array:
        return self.gelu_by_tanh(x) if self.has("gelu-by-tanh") else self.gelu_by_erf(x)

    def embed(self, ids: Array, types: Array, mask: Array) -> Array:
        path = "bert.embeddings"
        tables = {name: self.weights[f"{path}.{name}_embeddings.weight"] for name in ("word", "token_type", "position")}
        positions = np.arange(ids.shape[1])[None]
        if self.has("positions-off-by-one"):
            positions = positions + 1
        if self.has("positions-with-robertas-offset"):
            positions = positions + 2
        if self.has("positions-skip-padding"):
            positions = np.maximum(mask.cumsum(-1) - 1, 0)
        words = tables["word"][ids]
        if self.has("word-embeddings-times-sqrt-of-width"):
            words = words * words.dtype.type(words.shape[-1] ** 0.5)
        words = self.keep(f"{path}.word_embeddings.output", words)
        kinds = tables["token_type"][types]
        if self.has("token-types-not-added"):
            kinds = 0 * kinds
        kinds = self.keep(f"{path}.token_type_embeddings.output", kinds)
        places = self.keep(f"{path}.position_embeddings.output", tables["position"][positions])
        x = self.round(words + kinds) + places
        if not self.has("embedding-layernorm-skipped"):
            x = self.norm(f"{path}.LayerNorm", x)
        return self.keep(f"{path}.output", self.dropped(x, self.config["hidden_dropout_prob"]))

    def projected(self, path: str, x: Array, name: str, heads: int) -> Array:
        weight = self.weights[f"{path}.{name}.weight"]
        if self.has("attention-matrices-transposed"):
            weight = weight.T
        other = {"query": "key", "key": "query", "value": "value"}[name]
        bias = self.weights[f"{path}.{other if self.has('query-and-key-bias-swapped') else name}.bias"]
        if name == "value" and self.has("value-bias-dropped"):
            bias = 0 * bias
        flat = self.keep(f"{path}.{name}.output", x @ weight.T + bias)
        return self.keep(f"{path}.{name}", self.split(flat, heads))

    def attention(self, layer: int, x: Array, allowed: Array) -> Array:
        path, heads = f"bert.encoder.layer.{layer}.attention.self", self.config["num_attention_heads"]
        query, key, value = (self.projected(path, x, name, heads) for name in ("query", "key", "value"))
        scores = query @ key.swapaxes(-1, -2)
        if not self.has("scores-not-scaled"):
            scores = scores / scores.dtype.type(np.sqrt(query.shape[-1]))
        if self.has("scores-scaled-by-layer-index"):
            scores = scores / scores.dtype.type(layer + 1)
        scores = self.keep(f"{path}.scores", self.hidden_added(self.round(scores), allowed))
        probs = self.keep(f"{path}.probs", self.softmax(scores))
        context = self.keep(f"{path}.context", probs @ value)
        batch, _, length, _ = context.shape
        return self.keep(f"{path}.output", context.swapaxes(1, 2).reshape(batch, length, -1))

    def closed(self, path: str, x: Array, residual: Array, *, weights_of: str) -> Array:
        """The residual and its LayerNorm, after a dense layer."""
        x = self.dense(f"{path}.dense", x)
        if self.has("layernorm-before-residual"):
            return self.keep(f"{path}.output", self.norm(f"{path}.LayerNorm", x, weights_of=weights_of) + residual)
        return self.keep(f"{path}.output", self.norm(f"{path}.LayerNorm", x + residual, weights_of=weights_of))

    def layer(self, number: int, x: Array, allowed: Array) -> Array:
        path = f"bert.encoder.layer.{number}"
        first, second = f"{path}.attention.output.LayerNorm", f"{path}.output.LayerNorm"
        if self.has("layernorms-of-a-layer-confused"):
            first, second = second, first
        context = self.attention(number, x, allowed)
        residual = 0 * x if self.has("residual-around-attention-left-out") else x
        middle = self.closed(f"{path}.attention.output", context, residual, weights_of=first)
        wide = self.dense(f"{path}.intermediate.dense", middle)
        wide = self.keep(f"{path}.intermediate.output", self.gelu(wide))
        return self.keep(f"{path}.output", self.closed(f"{path}.output", wide, middle, weights_of=second))

    def trunk(self, inputs: dict[str, Array]) -> Array:
        ids = inputs["input_ids"]
        mask = inputs.get("attention_mask", np.ones_like(ids))
        types = inputs.get("token_type_ids", np.zeros_like(ids))
        allowed = np.ones_like(mask, bool) if self.has("padding-mask-ignored") else mask.astype(bool)
        x = self.embed(ids, types, mask)
        states = [x]
        for number in range(self.config["num_hidden_layers"]):
            states.append(self.layer(number, states[-1], allowed[:, None, None, :]))
        shown = [*states[1:], states[-1]] if self.has("hidden-states-without-the-embeddings") else states
        for number, state in enumerate(shown):
            self.keep(f"hidden_states.{number}", state)
        return states[-2] if self.has("last-layer-left-out") else states[-1]

    def word_scores(self, x: Array) -> Array:
        path = "cls.predictions"
        y = self.dense(f"{path}.transform.dense", x)
        y = self.keep(f"{path}.transform.transform_act_fn.output", self.gelu(y))
        y = self.norm(f"{path}.transform.LayerNorm", y)
        matrix = self.weights["bert.embeddings.word_embeddings.weight"]
        if self.has("decoder-untied"):
            matrix = np.random.default_rng(5).normal(scale=matrix.std(), size=matrix.shape).astype(matrix.dtype)
        scores = y @ matrix.T
        if not self.has("prediction-bias-dropped"):
            scores = scores + self.weights[f"{path}.bias"]
        return self.keep(f"{path}.decoder.output", scores)

    def pooled(self, x: Array) -> Array:
        if self.has("pooler-left-out"):
            return self.keep("bert.pooler.output", x[:, 0])
        y = self.dense("bert.pooler.dense", x[:, 0])
        return self.keep("bert.pooler.output", y if self.has("pooler-without-tanh") else np.tanh(y))

    def __call__(self, inputs: dict[str, Any]) -> dict[str, Array]:
        """Compute everything for the inputs (arrays by the names of the forward's arguments); the record."""
        x = self.trunk(inputs)
        if "classifier.weight" in self.weights:
            self.keep("logits", self.dense("classifier", self.pooled(x)))
            return self.record
        scores = self.keep("logits", self.word_scores(x))
        if "labels" in inputs:
            labels = inputs["labels"]
            if self.has("masked-words-shifted"):
                scores, labels = scores[:, :-1], labels[:, 1:]
            if self.has("ignored-labels-scored"):
                labels = np.maximum(labels, 0)
            self.keep("loss", self.cross_entropy(scores.reshape(-1, scores.shape[-1]), labels.reshape(-1)))
        return self.record
