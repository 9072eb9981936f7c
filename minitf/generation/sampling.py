"""Greedy search and sampling: one token after the other, chosen from the scores of the last position.

    greedy      the token with the highest score
    sampling    a token drawn with the probability softmax(scores), after the processors have cut and sharpened them
                (temperature, top-k, top-p, ...; Holtzman et al. 2020, arXiv:1904.09751, on why sampling needs cutting)

Dimension letters: B rows, T positions so far, V vocabulary.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from minitf.generation.outputs import GenerateDecoderOnlyOutput
from minitf.generation.run import Run

__all__ = ["choose_tokens", "sample"]


def sample(run: Run) -> GenerateDecoderOnlyOutput:
    """Continue each row until it ends, one token a step; rows that ended are filled with `run.pad`."""
    settings, sequences = run.settings, run.sequences  # [B, T]
    logits = run.steps.logits(sequences)  # [B, V]
    times = settings.num_return_sequences  # each prompt was read once, and is continued so many times
    run.steps.repeat(times, len(sequences))
    sequences, logits = sequences.repeat_interleave(times, 0), logits.repeat_interleave(times, 0)
    unfinished = torch.ones(len(sequences), dtype=torch.bool, device=sequences.device)  # [B]
    all_unfinished = True
    all_logits: list[Tensor] = []
    all_scores: list[Tensor] = []
    while True:
        scores = logits  # [B, V]
        if run.processors:
            scores = run.processors(sequences, logits)  # [B, V]
            run.steps.refuse_nothing(scores.amax(dim=-1).masked_fill(~unfinished, 0.0))  # a row that ended chooses none
        if settings.output_logits:
            all_logits.append(logits)
        if settings.output_scores:
            all_scores.append(scores)
        tokens = choose_tokens(scores, settings.do_sample, run.generator)  # [B]
        if not all_unfinished:
            tokens = torch.where(unfinished, tokens, run.pad)  # [B]
        sequences = torch.cat([sequences, tokens[:, None]], dim=1)  # [B, T + 1]
        if run.streamer is not None:
            run.streamer.put(tokens)
        if run.stopping:
            unfinished = unfinished & ~run.stopping(sequences, scores)  # [B]
            all_unfinished = bool(unfinished.all())
        if sequences.shape[1] >= run.max_length or not (all_unfinished or bool(unfinished.any())):
            break
        logits = run.steps.logits(sequences)  # [B, V]
    if run.streamer is not None:
        run.streamer.end()
    return GenerateDecoderOnlyOutput(
        sequences=sequences,
        scores=tuple(all_scores) if settings.output_scores else None,
        logits=tuple(all_logits) if settings.output_logits else None,
        **run.collected(),
    )


def choose_tokens(scores: Tensor, do_sample: bool, generator: Any = None) -> Tensor:
    """`[B, V]` scores -> `[B]` tokens."""
    if not do_sample:
        return scores.argmax(dim=-1)  # [B]
    probs = torch.softmax(scores, dim=-1)  # [B, V]
    return torch.multinomial(probs, num_samples=1, generator=generator)[:, 0]  # [B]
