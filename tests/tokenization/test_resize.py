"""Tokens that are added, and the embedding that has to follow."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from minitf import GPT2Config, GPT2LMHeadModel
from tests.support import shared_data


def test_the_embedding_follows_added_tokens(gpt2_form: Any) -> None:
    tokenizer = gpt2_form.from_pretrained(shared_data("vocab", "gpt2"))
    torch.manual_seed(0)
    model = GPT2LMHeadModel(GPT2Config(n_embd=4, n_layer=1, n_head=2, n_positions=16)).eval()
    before = model.get_input_embeddings().weight.detach().clone()
    added = tokenizer.add_special_tokens({"bos_token": "<bos>", "eos_token": "<eos>", "pad_token": "<pad>"})
    assert (added, len(tokenizer), tokenizer.pad_token_id) == (3, 50260, 50259)
    batch = tokenizer(["<bos>Hello world<eos>", "Hello"], padding=True, return_tensors="pt")
    with pytest.raises(ValueError, match=r"= 50257, but vocab_size is 50257: .*tokenizer"):
        model(**batch)
    model.resize_token_embeddings(len(tokenizer))
    assert model(**batch).logits.shape == (2, 4, 50260)
    assert model.config.vocab_size == 50260
    assert torch.equal(model.get_input_embeddings().weight[:50257], before)
