"""A head mask of each row follows its row, to beams and to several results."""

from __future__ import annotations

import pytest
import torch

from minitf import GPT2Config, GPT2LMHeadModel
from tests.support import randomise_

HOW = [
    {},
    {"num_beams": 3},
    {"num_beams": 3, "num_return_sequences": 2},
    {"num_beams": 4, "num_beam_groups": 2, "diversity_penalty": 0.5},
    {"num_beams": 3, "force_words_ids": [[9]]},
    {"penalty_alpha": 0.6, "top_k": 3},
]


@pytest.mark.parametrize("how", HOW, ids=str)
def test_each_row_keeps_its_own(how: dict[str, object]) -> None:
    config = GPT2Config(
        vocab_size=30, n_embd=32, n_layer=2, n_head=2, n_positions=32, bos_token_id=None, eos_token_id=None
    )
    model = GPT2LMHeadModel(config).eval()
    randomise_(model, seed=3)
    ids = torch.tensor([[3, 4, 5], [6, 7, 8]])
    masks = torch.tensor([[[1.0, 0.0], [0.5, 1.0]], [[0.0, 1.0], [1.0, 1.0]]])  # [B, L, H]
    together = model.generate(ids, max_new_tokens=8, head_mask=masks, **how)
    apart = [model.generate(ids[r : r + 1], max_new_tokens=8, head_mask=masks[r], **how) for r in range(2)]
    assert torch.equal(together, torch.cat(apart))
    assert not torch.equal(together, model.generate(ids, max_new_tokens=8, **how))
