"""Small models with every parameter random, ours and transformers', and the inputs that the tests give them."""

from __future__ import annotations

from typing import Any

import torch
import transformers
from torch import Tensor, nn

import minitf
from tests.support import padded_batch, randomise_

BERT = {
    "vocab_size": 61,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 48,
    "max_position_embeddings": 24,
}
GPT2 = {"vocab_size": 61, "n_positions": 24, "n_embd": 32, "n_layer": 2, "n_head": 2}


def bert(kind: str = "BertForSequenceClassification", library: Any = minitf, **settings: Any) -> Any:
    return randomise_(getattr(library, kind)(library.BertConfig(**{**BERT, **settings}))).eval()


def gpt2(kind: str = "GPT2LMHeadModel", library: Any = minitf, **settings: Any) -> Any:
    return randomise_(getattr(library, kind)(library.GPT2Config(**{**GPT2, **settings}))).eval()


def minitf_bert() -> nn.Module:
    return bert()


def transformers_bert() -> nn.Module:
    return bert(library=transformers)


def minitf_gpt2() -> nn.Module:
    return gpt2()


def transformers_gpt2() -> nn.Module:
    return gpt2(library=transformers)


EVERY = {
    "minitf-bert": minitf_bert,
    "transformers-bert": transformers_bert,
    "minitf-gpt2": minitf_gpt2,
    "transformers-gpt2": transformers_gpt2,
}


def batch(model: Any) -> dict[str, Tensor]:
    """A padded batch, on the side that the architecture is used to."""
    if model.config.model_type == "gpt2":
        inputs = padded_batch(padding="right")
        del inputs["token_type_ids"]
        return inputs
    return padded_batch(padding="right")


def logits(model: Any) -> Tensor:
    with torch.no_grad():
        return model(**batch(model)).logits


def stir(model: nn.Module, name: str, seed: int = 0) -> None:
    """Give the pieces of an adapter random values: as added they change nothing, and would prove nothing."""
    from minitf.surgery.adapters import pieces_named

    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for piece in pieces_named(model, name).values():
            for parameter in piece.parameters():
                parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))


def base_state(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items() if ".adapters." not in name}
