"""What the two NumPy ports share: arithmetic in a chosen precision, and the recording of every step.

Written from the papers (Vaswani et al. 2017, Devlin et al. 2018, Radford et al. 2019, Hendrycks & Gimpel 2016), not
from any implementation: a port that somebody else could have made.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Set
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]

_erf = np.vectorize(math.erf, otypes=[np.float64])


def to_bfloat16(x: Array) -> Array:
    """float32 numbers rounded to the nearest bfloat16 (ties to even), still stored as float32."""
    x = np.asarray(x, dtype=np.float32)
    bits = x.reshape(-1).view(np.uint32).reshape(x.shape)
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) & np.uint32(0xFFFF0000)
    return np.where(np.isnan(x), np.float32(np.nan), rounded.astype(np.uint32).view(np.float32))


ROUNDING: dict[str, Callable[[Array], Array]] = {
    "float32": lambda x: np.asarray(x, dtype=np.float32),
    "float64": lambda x: np.asarray(x, dtype=np.float64),
    "bfloat16": to_bfloat16,
}


class Port:
    """Weights by name, one rounding after every operation, and a record of what was computed.

    `mistakes`: names of switches; every port lists those that it knows in `MISTAKES`.
    """

    MISTAKES: frozenset[str] = frozenset()

    def __init__(
        self, weights: Mapping[str, Array], config: Mapping[str, Any], dtype: str, mistakes: Set[str] = frozenset()
    ) -> None:
        assert mistakes <= self.MISTAKES, mistakes - self.MISTAKES
        self.round = ROUNDING[dtype]
        self.weights = {name: self.round(value) for name, value in weights.items()}
        self.config = config
        self.mistakes = mistakes
        self.record: dict[str, Array] = {}

    def has(self, mistake: str) -> bool:
        assert mistake in self.MISTAKES, mistake
        return mistake in self.mistakes

    def keep(self, name: str, value: Array) -> Array:
        value = self.round(value)
        assert name not in self.record, name
        self.record[name] = value
        return value

    def gelu_by_erf(self, x: Array) -> Array:
        return x * (0.5 * (1.0 + _erf(x.astype(np.float64) / math.sqrt(2.0))).astype(x.dtype))

    def gelu_by_tanh(self, x: Array) -> Array:
        return 0.5 * x * (1.0 + np.tanh(math.sqrt(2.0 / math.pi) * (x + 0.044715 * x**3)))

    def normalised(self, x: Array, eps: float) -> Array:
        centred = x - x.mean(-1, keepdims=True)
        return centred / np.sqrt((centred * centred).mean(-1, keepdims=True) + x.dtype.type(eps))

    def softmax(self, scores: Array) -> Array:
        if self.has("softmax-in-half-precision"):
            scores = scores.astype(np.float16)
        with np.errstate(invalid="ignore"):
            powers = np.exp(scores - scores.max(-1, keepdims=True))
            return (powers / powers.sum(-1, keepdims=True)).astype(self.weights_dtype)

    @property
    def weights_dtype(self) -> Any:
        return next(iter(self.weights.values())).dtype

    def split(self, x: Array, heads: int) -> Array:
        """[B, T, H * D] -> [B, H, T, D]."""
        batch, length, width = x.shape
        if self.has("heads-split-as-size-by-heads"):
            return x.reshape(batch, length, width // heads, heads).transpose(0, 3, 1, 2)
        return x.reshape(batch, length, heads, width // heads).transpose(0, 2, 1, 3)

    def dropped(self, x: Array, p: float) -> Array:
        """Dropout of the embeddings, if it was left on."""
        if not self.has("dropout-left-on"):
            return x
        kept = np.random.default_rng(3).random(x.shape) >= p
        return np.where(kept, x / x.dtype.type(1 - p), 0).astype(x.dtype)

    def hidden_added(self, scores: Array, allowed: Array) -> Array:
        """Scores with a huge negative number on the keys that a query must not see."""
        if self.has("mask-inverted"):
            allowed = ~allowed
        hidden = -10_000.0 if self.has("mask-of-minus-10000") else np.finfo(np.float32).min / 2
        if self.has("mask-added-twice"):
            hidden = -np.inf
        return scores + np.where(allowed, 0.0, hidden).astype(scores.dtype)

    @staticmethod
    def cross_entropy(scores: Array, labels: Array) -> Array:
        """Mean over the labels that are not -100: [N, V], [N] -> []."""
        scores, labels = scores[labels != -100], labels[labels != -100]
        largest = scores.max(-1, keepdims=True)
        logarithm = np.log(np.exp(scores - largest).sum(-1)) + largest[:, 0]
        return (logarithm - scores[np.arange(len(labels)), labels]).mean()
