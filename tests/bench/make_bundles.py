"""The ready-made golden bundles: `python -m tests.bench.make_bundles`, from the root of the repository.

Tiny models whose parameters are all random (`tests.support.random_value`), one bundle for each class and each feature
that numbers can go wrong in. The same versions on the same kind of processor make the same bytes. What a bundle is:
docs/golden.md; `tests/bench/test_golden.py` computes all of them again, and compares with transformers.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

import minitf
from minitf.parity.golden import Bundle
from minitf.parity.golden_inputs import labels_for, random_inputs
from minitf.parity.golden_making import make
from tests.support import random_value, randomise_

ROWS = 2
FOLDER = Path(__file__).parent / "bundles"

BERT: dict[str, Any] = {
    "vocab_size": 7,
    "hidden_size": 4,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 4,
    "max_position_embeddings": 12,
}
GPT2: dict[str, Any] = {
    "vocab_size": 7,
    "n_positions": 12,
    "n_embd": 4,
    "n_layer": 1,
    "n_head": 2,
    "n_inner": 4,
    "bos_token_id": 6,
    "eos_token_id": 6,
    "pad_token_id": 0,
}
# Two layers of 8: the two bundles in which layers and sizes can be told apart.
WIDE: dict[str, Any] = {"hidden_size": 8, "num_hidden_layers": 2, "intermediate_size": 12, "vocab_size": 11}
WIDE_GPT2: dict[str, Any] = {"n_embd": 8, "n_layer": 2, "n_inner": 12, "vocab_size": 11, "n_positions": 16}
DECODER: dict[str, Any] = {"is_decoder": True, "bos_token_id": 5, "eos_token_id": 6}


def livelier_(model: Any) -> Any:
    """`random_value` is made for models of width 64; in narrow ones it would leave all attention weights alike."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 2:
                parameter.mul_((64 / model.config.hidden_size) ** 0.5)
    return model


@dataclass(frozen=True)
class Case:
    """One bundle.

    Attributes:
        model: the class. settings: what differs from `BERT` or `GPT2`. padding: side. prune: layer -> heads.
        tokens: in a row; there are `ROWS`.
    """

    model: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    padding: str = "right"
    prune: Mapping[int, list[int]] = field(default_factory=dict)
    tokens: int = 4

    def build(self, library: Any = minitf, **changes: Any) -> Any:
        """The model of this library with the case's parameters, not pruned."""
        is_bert = self.model.startswith("Bert")
        config_class, base = (library.BertConfig, BERT) if is_bert else (library.GPT2Config, GPT2)
        model = getattr(library, self.model)(config_class(**{**base, **self.settings, **changes}))
        return livelier_(randomise_(model)).eval()

    def pruned(self) -> Any:
        """minitf's model, with its heads cut out."""
        model = self.build()
        model.prune_heads(self.prune)
        return model

    def inputs(self, model: Any) -> dict[str, torch.Tensor]:
        """Tokens, mask, labels; of a decoder with cross-attention the encoder's states too."""
        inputs = random_inputs(model, seed=0, rows=ROWS, tokens=self.tokens, padding=self.padding)
        if self.settings.get("add_cross_attention"):
            states = random_value("encoder_hidden_states", (ROWS, 3, model.config.hidden_size))
            inputs["encoder_hidden_states"] = torch.from_numpy(states).float()
            inputs["encoder_attention_mask"] = torch.tensor([[1, 1, 1], [1, 1, 0]])
        return {**inputs, **labels_for(model, inputs)}


CASES: dict[str, Case] = {
    "bert-model": Case("BertModel", WIDE, tokens=5),
    "bert-model-left": Case("BertModel", padding="left"),
    "bert-pretraining": Case("BertForPreTraining"),
    "bert-masked-lm": Case("BertForMaskedLM"),
    "bert-decoder": Case("BertLMHeadModel", DECODER, padding="left"),
    "bert-decoder-cross-attention": Case("BertLMHeadModel", {**DECODER, "add_cross_attention": True}),
    "bert-next-sentence": Case("BertForNextSentencePrediction"),
    "bert-sequence": Case("BertForSequenceClassification", {"num_labels": 3}),
    "bert-multiple-choice": Case("BertForMultipleChoice"),
    "bert-token": Case("BertForTokenClassification", {"num_labels": 3}, padding="left"),
    "bert-question": Case("BertForQuestionAnswering"),
    "bert-relative-key": Case("BertForMaskedLM", {"position_embedding_type": "relative_key"}),
    "bert-relative-key-query": Case("BertModel", {"position_embedding_type": "relative_key_query"}, padding="left"),
    "bert-pruned": Case("BertModel", {"hidden_size": 8, "num_attention_heads": 4}, prune={0: [0, 2]}),
    "gpt2-model": Case("GPT2Model"),
    "gpt2-lm": Case("GPT2LMHeadModel", WIDE_GPT2, padding="left", tokens=5),
    "gpt2-double-heads": Case("GPT2DoubleHeadsModel"),
    "gpt2-sequence": Case("GPT2ForSequenceClassification", {"num_labels": 3}, padding="left"),
    "gpt2-token": Case("GPT2ForTokenClassification", {"num_labels": 3}, padding="left"),
    "gpt2-question": Case("GPT2ForQuestionAnswering"),
    "gpt2-pruned": Case("GPT2LMHeadModel", {"n_embd": 8, "n_head": 4}, prune={0: [1, 2]}),
}


def write(name: str, folder: Path) -> Bundle:
    """Make one of `CASES` as `NAME.zip` in a folder, in place of one that is there."""
    case = CASES[name]
    model = case.pruned() if case.prune else case.build()
    how = {"made by": "tests/bench/make_bundles.py", "padding": case.padding}
    return make(model, case.inputs(model), folder / f"{name}.zip", source=how, overwrite=True)


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Make the ready-made golden bundles.")
    parser.add_argument("--folder", type=Path, default=FOLDER, help="where they go (default: beside this script)")
    folder = parser.parse_args(arguments).folder
    folder.mkdir(exist_ok=True)
    total = sum(write(name, folder).path.stat().st_size for name in CASES)
    print(f"{len(CASES)} bundles, {total} bytes in {folder}")


if __name__ == "__main__":
    main()
