"""Beam search: keep the K most probable beginnings instead of one (and beam sampling, which draws them).

One step, for each prompt:

    K running beams x V words          sum of log-probabilities of every continuation
    the best 2 K of these              (or, sampling, 2 K drawn from softmax(sums)); with E > 1 end tokens (E + 1) K
    those that ended                   compete, by sum / length ** length_penalty, for the K places of the finished
    the best K of those that did not   are the running beams of the next step, and the cache follows them

There are 2 K candidates because in the worst case each beam's best continuation is its end, and K must go on. Only
candidates among the best K may finish: one that ends in a lower place would not have been kept as a beam either.

When to stop, with `early_stopping`:

    True       as soon as K sequences have finished
    False      when the best running beam, ended *now*, would be no better than the worst of K finished ones
    "never"    when it could not become better at any length: with length_penalty > 0 it is measured as if it reached
               the maximum length without losing any more probability

Scores of a sequence: `sum of log-probabilities / new tokens ** length_penalty`. Log-probabilities are negative, so a
*positive* penalty favours long sequences. The length counts new tokens only, the end token included.

Dimension letters: B prompts, K beams, T positions so far, N new tokens at most, V vocabulary, C candidates.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

import torch
from torch import Tensor

from minitf.generation.outputs import GenerateBeamDecoderOnlyOutput
from minitf.generation.run import Run

__all__ = ["beam_search"]

logger = logging.getLogger("minitf.generation")

NEVER = -1.0e9  # a sum of log-probabilities that nothing real reaches; unlike -inf it can be added to and divided


@dataclass
class Beams:
    """K sequences for each of B prompts, best first.

    Attributes:
        tokens: `[B, K, T + N]`; what is not written yet holds the padding token.
        sums: `[B, K]`, of a running beam the sum of log-probabilities, of a finished one its final score.
        origins: `[B, K, N]`, the row of the step's scores that each new token was chosen from; -1 = not written.
        finished: `[B, K]`, whether the place holds a finished sequence.
    """

    tokens: Tensor
    sums: Tensor
    origins: Tensor
    finished: Tensor

    def chosen(self, places: Tensor) -> Beams:
        """The beams at `places` `[B, K]` of each prompt."""
        return Beams(*(gather(part, places) for part in (self.tokens, self.sums, self.origins, self.finished)))

    def joined(self, other: Beams) -> Beams:
        pairs = ((getattr(self, name), getattr(other, name)) for name in ("tokens", "sums", "origins", "finished"))
        return Beams(*(torch.cat(pair, dim=1) for pair in pairs))


def gather(values: Tensor, places: Tensor) -> Tensor:
    """`values` `[B, K, ...]` at `places` `[B, n]` of the second dimension: `[B, n, ...]`."""
    return torch.take_along_dim(values, places.view(*places.shape, *(1,) * (values.dim() - 2)), dim=1)


def beam_search(run: Run) -> GenerateBeamDecoderOnlyOutput:
    """Search (or, with `do_sample`, sample) with `num_beams` beams; see the head of this file."""
    settings, width = run.settings, run.settings.num_beams
    prompts, start = run.sequences.shape  # B, T
    running, best = first_beams(run)
    improvable = torch.ones(prompts, 1, dtype=torch.bool, device=run.sequences.device)  # [B, 1]
    all_logits: list[Tensor] = []
    all_scores: list[Tensor] = []

    logits = run.steps.logits(run.sequences)  # [B, V]
    run.steps.repeat(width, prompts)
    logits = logits.repeat_interleave(width, dim=0)  # [B * K, V]
    length = start
    while True:
        rows = running.tokens[:, :, :length].flatten(0, 1)  # [B * K, T]
        scores = run.processors(rows, torch.log_softmax(logits, dim=-1))  # [B * K, V]
        if settings.output_logits:
            all_logits.append(logits)
        if settings.output_scores:
            all_scores.append(scores)
        sums = (scores.view(prompts, width, -1) + running.sums[:, :, None]).flatten(1)  # [B, K * V]
        if run.processors:
            run.steps.refuse_nothing(sums.amax(dim=-1).masked_fill(~improvable[:, 0], 0.0))
        candidates = continuations(run, running, sums, length)
        ended = run.stopping(candidates.tokens[:, :, : length + 1].flatten(0, 1), scores).view(prompts, -1)  # [B, C]
        if length + 1 >= run.max_length:
            ended = torch.ones_like(ended)
        best = keep_finished(run, best, candidates, ended, improvable, length + 1 - start)

        open_sums = candidates.sums + ended * NEVER  # [B, C]
        places = open_sums.topk(width).indices  # [B, K]
        running = candidates.chosen(places)
        running.sums = gather(open_sums, places)  # [B, K]
        length += 1
        improvable = improvable & can_improve(run, running, best, length - start)
        full = settings.early_stopping is True and bool(best.finished.all())
        if full or bool(ended.all()) or not bool(improvable.any()):
            break
        run.steps.reorder(running.origins[:, :, length - 1 - start].flatten())
        logits = run.steps.logits(running.tokens[:, :, :length].flatten(0, 1))  # [B * K, V]
    return result(run, best, all_scores, all_logits)


def first_beams(run: Run) -> tuple[Beams, Beams]:
    """K copies of each prompt to begin with, of which only the first counts, and K empty places for finished ones."""
    prompts, start = run.sequences.shape
    width, new = run.settings.num_beams, run.max_length - start
    tokens = run.sequences.new_full((prompts, width, run.max_length), run.pad)  # [B, K, T + N]
    tokens[:, :, :start] = run.sequences[:, None]
    origins = tokens.new_full((prompts, width, new), -1)  # [B, K, N]
    nothing = torch.full((prompts, width), NEVER, device=tokens.device)  # [B, K]
    first = nothing.clone()
    first[:, 0] = 0.0  # else the first step would find every continuation K times
    none = torch.zeros(prompts, width, dtype=torch.bool, device=tokens.device)  # [B, K]
    return Beams(tokens, first, origins, none), Beams(tokens.clone(), nothing, origins.clone(), none.clone())


def continuations(run: Run, running: Beams, sums: Tensor, length: int) -> Beams:
    """The candidates of a step: beams of `length + 1` positions, C for each prompt, best first (or as drawn).

    Args:
        sums: `[B, K * V]` of every continuation.
    """
    prompts, width = running.sums.shape
    words = sums.shape[1] // width  # V
    count = max(2, 1 + len(run.settings.ends())) * width  # C
    if run.settings.do_sample:
        places = torch.multinomial(torch.softmax(sums, dim=-1), count, generator=run.generator)  # [B, C]
        sums = sums.gather(1, places)  # [B, C]
    else:
        sums, places = sums.topk(count)  # [B, C], [B, C]
    beams = places // words  # [B, C]
    candidates = running.chosen(beams)
    candidates.sums = sums
    candidates.tokens[:, :, length] = places % words
    row = beams + width * torch.arange(prompts, device=beams.device)[:, None]  # [B, C]
    candidates.origins[:, :, length - run.sequences.shape[1]] = row
    return candidates


def keep_finished(run: Run, best: Beams, candidates: Beams, ended: Tensor, improvable: Tensor, new: int) -> Beams:
    """The best K of what had finished before and the candidates that end now.

    Args:
        ended: `[B, C]`. improvable: `[B, 1]`, False = this prompt's result is settled. new: new tokens of a candidate.
    """
    width = run.settings.num_beams
    top = torch.arange(ended.shape[1], device=ended.device) < width  # [C]
    ended = ended & top  # [B, C]
    scores = candidates.sums / new**run.settings.length_penalty  # [B, C]
    full = best.finished.all(dim=1, keepdim=True) & (run.settings.early_stopping is True)  # [B, 1]
    for barred in (full, ~improvable, ~ended):
        scores = scores + barred * NEVER  # [B, C]
    both = best.joined(Beams(candidates.tokens, scores, candidates.origins, ended))
    return both.chosen(both.sums.topk(width).indices)


def can_improve(run: Run, running: Beams, best: Beams, new: int) -> Tensor:
    """`[B, 1]`: whether the best running beam may still become better than the worst finished sequence."""
    penalty = run.settings.length_penalty
    longest = run.max_length - run.sequences.shape[1]
    reach = longest if run.settings.early_stopping == "never" and penalty > 0.0 else new
    possible = running.sums[:, :1] / reach**penalty  # [B, 1]
    worst = torch.where(best.finished, best.sums.min(dim=1, keepdim=True).values, NEVER)  # [B, K]
    better: Tensor = (possible > worst).any(dim=1, keepdim=True)  # [B, 1]
    return better


def say_missing(run: Run, best: Beams) -> None:
    """Name the prompts that have fewer sequences than are returned, as transformers does not.

    Too few words may be left to make K different sequences. Their places keep copies, or nothing but padding, with
    sums about `NEVER`; tokens and scores are those of transformers all the same.
    """
    count = run.settings.num_return_sequences
    lengths = (best.origins >= 0).sum(dim=2)  # [B, K]
    totals = best.sums * lengths.clamp(min=1) ** run.settings.length_penalty  # [B, K]
    real = (best.finished & (totals > NEVER / 2))[:, :count].sum(dim=1)  # [B]
    for prompt, found in enumerate(real.tolist()):
        if found < count:
            logger.warning(
                "prompt %d has only %d sequences that the settings allow, and num_return_sequences is %d: the others "
                "are copies or padding, with sequences_scores far below all real ones.", prompt, found, count,
            )  # fmt: skip


def result(run: Run, best: Beams, scores: list[Tensor], logits: list[Tensor]) -> GenerateBeamDecoderOnlyOutput:
    """The first `num_return_sequences` of each prompt, cut to the longest."""
    say_missing(run, best)
    settings, start = run.settings, run.sequences.shape[1]
    wanted = slice(settings.num_return_sequences)
    origins = best.origins[:, wanted].flatten(0, 1)  # [B * results, N]
    new = int((origins >= 0).sum(dim=1).max())
    return GenerateBeamDecoderOnlyOutput(
        sequences=best.tokens[:, wanted, : start + new].flatten(0, 1),
        sequences_scores=best.sums[:, wanted].flatten() if settings.output_scores else None,
        scores=tuple(scores) if settings.output_scores else None,
        logits=tuple(logits) if settings.output_logits else None,
        beam_indices=origins[:, :new],
        **run.collected(),
    )
