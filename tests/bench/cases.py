"""Small models with every parameter random, their inputs, and dumps of what ports compute from them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import minitf
from minitf.masks import positions_from_mask
from minitf.parity.dump_writer import DumpWriter
from minitf.parity.runs import Call
from tests.bench.numpy_bert import NumpyBert
from tests.bench.numpy_gpt2 import NumpyGPT2
from tests.support import padded_batch, randomise_

BERT: dict[str, Any] = {
    "vocab_size": 61,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 48,
    "max_position_embeddings": 24,
}
GPT2: dict[str, Any] = {"vocab_size": 61, "n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 24, "pad_token_id": 0}
IGNORED = -100


@dataclass(frozen=True)
class Case:
    """A class, its settings, and what it is called with.

    `extra`: further inputs by name, or "labels" for the usual ones; `past`: positions in the cache; `large`: factor on
    the query matrices; `drop`: inputs that are left out.
    """

    kind: str
    padding: str = "right"
    settings: Mapping[str, Any] = field(default_factory=dict)
    extra: Mapping[str, Any] = field(default_factory=dict)
    labels: bool = False
    past: int = 0
    large: float = 1.0
    drop: tuple[str, ...] = ()

    def model(self) -> Any:
        """The model, in evaluation mode."""
        sizes = BERT if self.kind.startswith("Bert") else GPT2
        config = (minitf.BertConfig if sizes is BERT else minitf.GPT2Config)(**{**sizes, **self.settings})
        model = randomise_(getattr(minitf, self.kind)(config)).eval()
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if name.endswith(("query.weight", "c_attn.weight")):
                    parameter *= self.large
        return model

    def inputs(self) -> dict[str, Tensor]:
        """Arguments of the forward."""
        inputs: dict[str, Tensor] = dict(padded_batch(padding=self.padding))
        mask = inputs["attention_mask"]
        if self.kind.startswith("GPT2"):
            del inputs["token_type_ids"]
            inputs["position_ids"] = positions_from_mask(mask)
        if self.labels:
            # No label is predicted from padding, also if it is shifted twice: such a query may attend to nothing.
            first = mask.cumsum(-1) <= (2 if self.kind in ("GPT2LMHeadModel", "BertLMHeadModel") else 0)
            inputs["labels"] = inputs["input_ids"].masked_fill(first | (mask == 0), IGNORED)
        inputs |= {
            name: value if isinstance(value, Tensor) else torch.tensor(value) for name, value in self.extra.items()
        }
        return {name: value for name, value in inputs.items() if name not in self.drop}

    def call(self) -> Call:
        """The same with what is in the cache."""
        return Call(self.inputs(), self.past)


PORTED: dict[str, Case] = {
    "words": Case("BertForMaskedLM", labels=True),
    "words, left": Case("BertForMaskedLM", padding="left"),
    "words, large scores": Case("BertForMaskedLM", large=20000.0),
    "classes": Case("BertForSequenceClassification"),
    "next word": Case("GPT2LMHeadModel", padding="left", labels=True),
    "next word, cached": Case("GPT2LMHeadModel", padding="none", past=4, drop=("position_ids",)),
    "next word, large scores": Case("GPT2LMHeadModel", large=20000.0),
}
"""What the NumPy ports can compute."""


def ported(case: Case, model: Any, *, dtype: str = "float32", mistakes: Set[str] = frozenset()) -> dict[str, Any]:
    """What a NumPy port records, by name."""
    port = NumpyBert if case.kind.startswith("Bert") else NumpyGPT2
    weights = {name: value.numpy() for name, value in model.state_dict().items()}
    inputs: dict[str, Any] = {name: value.numpy() for name, value in case.inputs().items()}
    return port(weights, model.config.to_dict(), dtype, mistakes)({**inputs, "past_length": case.past})


def dumped(
    path: Path,
    case: Case,
    record: Mapping[str, Any],
    *,
    dtype: str | None = None,
    only: Iterable[str] | None = None,
) -> Path:
    """A dump of a record, of `only` these names or of all, with the inputs."""
    with DumpWriter(path, dtype=dtype) as dump:
        for name, value in case.inputs().items():
            dump.add(name, value.numpy())
        if case.past:
            dump.add("past_length", case.past)
        for name in record if only is None else only:
            dump.add(name, record[name])
    return path
