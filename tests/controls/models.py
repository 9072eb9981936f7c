"""Small models with random parameters everywhere, of both architectures, and what differs in how they are asked."""

from __future__ import annotations

from typing import Any

import torch

import minitf
from tests.parity import bert_pairs, gpt2_pairs
from tests.support import randomise_

SIZES: dict[str, Any] = {
    "vocab_size": 61,
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 96,
    "max_position_embeddings": 40,
}
LAYERS, HEADS, HEAD_SIZE = 2, 4, 16
ATTENTION = ("eager", "sdpa")

TRUNKS = ("BertModel", "GPT2Model")
DECODERS = ("BertLMHeadModel", "GPT2LMHeadModel")
HEAD_CLASSES = (*bert_pairs.HEADS, *gpt2_pairs.HEADS)
CLASSES = (*bert_pairs.CLASSES, *gpt2_pairs.CLASSES)
SCORING = (
    "BertForPreTraining", "BertLMHeadModel", "BertForMaskedLM", "GPT2LMHeadModel", "GPT2DoubleHeadsModel",
)  # fmt: skip
"""The classes that score words."""
SEVERAL = {"BertForMultipleChoice": bert_pairs.CHOICES, "GPT2DoubleHeadsModel": gpt2_pairs.CHOICES}
"""The classes whose inputs are [B, N, T], and N."""


def is_gpt2(class_name: str) -> bool:
    return class_name.startswith("GPT2")


def sizes(class_name: str = "BertModel") -> dict[str, Any]:
    """SIZES under the names of the architecture's configuration."""
    if not is_gpt2(class_name):
        return SIZES
    return {"n_inner" if name == "intermediate_size" else name: size for name, size in SIZES.items()}


def config(class_name: str = "BertModel", /, **settings: Any) -> Any:
    if is_gpt2(class_name):  # the token that its sequence classification looks for is no default of GPT-2
        return minitf.GPT2Config(**{**sizes(class_name), "pad_token_id": 0, **settings})
    return minitf.BertConfig(**{**SIZES, **settings})


def build(class_name: str = "BertModel", *, arguments: dict[str, Any] | None = None, **settings: Any) -> Any:
    """A model in eval mode; `arguments` go to its constructor, `settings` to its configuration."""
    if class_name == "BertLMHeadModel":
        settings = {"is_decoder": True, **settings}
    model = getattr(minitf, class_name)(config(class_name, **settings), **(arguments or {}))
    return randomise_(model).eval()


def inputs_for(class_name: str, **options: Any) -> dict[str, torch.Tensor]:
    """A padded batch with labels; see the functions of the two architectures."""
    return (gpt2_pairs if is_gpt2(class_name) else bert_pairs).inputs_for(class_name, **options)


def objective(class_name: str, output: Any) -> torch.Tensor:
    """The loss (or both); of a trunk, a number that depends on its output."""
    if class_name in TRUNKS:
        state: torch.Tensor = output.last_hidden_state if is_gpt2(class_name) else output.pooler_output
        return state.square().sum()
    loss: torch.Tensor = output.loss + output.mc_loss if class_name == "GPT2DoubleHeadsModel" else output.loss
    return loss


def blocks(model: Any) -> Any:
    """The layers of a model, a ModuleList."""
    return model.base_model.h if isinstance(model, minitf.GPT2PreTrainedModel) else model.base_model.encoder.layer


def widths(model: Any) -> list[int]:
    """Columns of the queries of each layer: heads that are left times 16."""
    if isinstance(model, minitf.GPT2PreTrainedModel):
        attentions = [block.attn for block in blocks(model)]
        assert all(attention.c_attn.nf == 3 * attention.c_proj.nx for attention in attentions)
        return [attention.c_proj.nx for attention in attentions]
    return [block.attention.self.query.out_features for block in blocks(model)]


def words(class_name: str) -> str:
    """The name of the word embeddings in the state dict."""
    if is_gpt2(class_name):
        return "wte.weight" if class_name in TRUNKS else "transformer.wte.weight"
    return f"{'' if class_name in TRUNKS else 'bert.'}embeddings.word_embeddings.weight"


def scores(class_name: str) -> list[str]:
    """The names of what grows with the vocabulary in a head, the tied ones included."""
    if class_name not in SCORING:
        return []
    if is_gpt2(class_name):
        return ["lm_head.weight"]
    return ["cls.predictions.bias", "cls.predictions.decoder.bias", "cls.predictions.decoder.weight"]


def close(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Equal up to the rounding of float32: within 1e-5 of the largest value."""
    return one.shape == other.shape and bool((one - other).abs().max() <= 1e-5 * other.abs().max())
