"""A minitf decoder and transformers' model of the same class that say something: lively texts that end early.

All parameters are random, and then the mean of what the model says is taken out, because a random model's biases would
make it repeat one word for ever. So its texts have many different tokens, and with `ENDS` most rows end early, at
different steps; `assert_lively` says so in the tests.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
import transformers

import minitf
from tests.parity.bert_pairs import TINY as BERT_TINY
from tests.parity.gpt2_pairs import TINY as GPT2_TINY
from tests.support import padded_batch, randomise_

__all__ = [
    "CLASSES", "ENDS", "PAD", "POSITIONS", "TOLERANCE", "VOCABULARY", "assert_lively", "assert_same", "both", "centre_",
    "fresh",
    "lengths", "pair", "prompts",
]  # fmt: skip

CLASSES = ("GPT2LMHeadModel", "BertLMHeadModel", "GPT2DoubleHeadsModel")
VOCABULARY, POSITIONS = 61, 40
ENDS = [5, 57, 18, 35]
PAD = 1
TOLERANCE = 1e-5
TOKENS: dict[str, Any] = {"bos_token_id": 60, "eos_token_id": None, "pad_token_id": None}


def fresh(class_name: str, *, attention: str = "sdpa", seed: int = 0, **settings: Any) -> tuple[Any, Any]:
    """(ours, theirs) in eval mode with the same parameters, made anew: for tests that change them."""
    tiny = {"is_decoder": True, **BERT_TINY} if class_name.startswith("Bert") else GPT2_TINY
    settings = {**tiny, **TOKENS, **settings}
    kind = "BertConfig" if class_name.startswith("Bert") else "GPT2Config"
    ours = getattr(minitf, class_name)(getattr(minitf, kind)(**settings, attn_implementation=attention)).eval()
    centre_(randomise_(ours, seed))
    config = getattr(transformers, kind)(**settings)
    config._attn_implementation = attention
    theirs = getattr(transformers, class_name)(config).eval()
    theirs.load_state_dict(ours.state_dict())
    return ours, theirs


@functools.cache
def pair(class_name: str, **settings: Any) -> tuple[Any, Any]:
    """As `fresh`, made once in a process: for tests that leave the models as they are."""
    return fresh(class_name, **settings)


@torch.no_grad()
def centre_(model: Any) -> None:
    """Take the mean of what the model says about random texts out of its last bias."""
    generator = torch.Generator().manual_seed(1)
    size, positions = model.config.vocab_size, model.config.max_position_embeddings
    text = torch.randint(0, size, (32, min(24, positions)), generator=generator)
    if hasattr(model, "transformer"):
        model.transformer.ln_f.bias -= model.transformer(text).last_hidden_state.mean((0, 1))
    else:
        model.cls.predictions.bias -= model(text).logits.mean((0, 1))


def prompts(padding: str = "left", *, batch: int = 4, length: int = 7, seed: int = 0) -> dict[str, torch.Tensor]:
    """`input_ids` and `attention_mask` `[batch, length]`, without end or padding tokens in the text."""
    made = padded_batch(batch=batch, length=length, vocab_size=VOCABULARY, padding=padding, seed=seed, pad_token_id=PAD)
    ids, mask = made["input_ids"], made["attention_mask"]
    for token in [PAD, *ENDS]:
        ids = torch.where((ids == token) & (mask == 1), (20 + token) % VOCABULARY, ids)
    return {"input_ids": ids, "attention_mask": mask}


def both(
    models: tuple[Any, Any],
    inputs: dict[str, Any],
    *,
    seed: int = 0,
    only_theirs: dict[str, Any] | None = None,
    **settings: Any,
) -> tuple[Any, Any]:
    """The outputs of both `generate`, with scores, for the same random numbers and by default up to 16 new tokens."""
    if not {"max_length", "max_new_tokens"} & settings.keys():
        settings["max_new_tokens"] = 16
    wanted = {"return_dict_in_generate": True, "output_scores": True, "output_logits": True}
    found = []
    for model, others in zip(models, ({}, only_theirs or {}), strict=True):
        torch.manual_seed(seed)
        found.append(model.generate(**inputs, **wanted, **settings, **others))
    return found[0], found[1]


def assert_same(mine: Any, other: Any, tolerance: float = TOLERANCE) -> None:
    """Every token, every score, every beam; `tolerance` 0 = every bit."""
    assert torch.equal(mine.sequences, other.sequences)
    for name in ("scores", "logits"):
        ours, theirs = getattr(mine, name), getattr(other, name)
        assert len(ours) == len(theirs) > 0, name
        for step, (a, b) in enumerate(zip(ours, theirs, strict=True)):
            torch.testing.assert_close(
                a, b, rtol=0, atol=tolerance, msg=lambda text, n=name, s=step: f"{n} {s}: {text}"
            )
    if other.get("sequences_scores") is not None:
        torch.testing.assert_close(mine.sequences_scores, other.sequences_scores, rtol=0, atol=tolerance)
        assert torch.equal(mine.beam_indices, other.beam_indices)
    if other.past_key_values is not None:
        assert mine.past_key_values.get_seq_length() == other.past_key_values.get_seq_length()


def lengths(sequences: torch.Tensor, start: int, ends: list[int] = ENDS) -> list[int]:
    """New tokens of each row, its end token included."""
    found = []
    for row in sequences[:, start:].tolist():
        ended = [place for place, token in enumerate(row) if token in ends]
        found.append(ended[0] + 1 if ended else len(row))
    return found


def assert_lively(sequences: torch.Tensor, start: int) -> None:
    """Many different tokens, rows that end early, and at different steps."""
    new = lengths(sequences, start)
    words = {token for row, n in zip(sequences[:, start:].tolist(), new, strict=True) for token in row[:n]}
    assert len(words) >= 8, words
    assert len(set(new)) >= 2, new
    assert min(new) < sequences.shape[1] - start, new
