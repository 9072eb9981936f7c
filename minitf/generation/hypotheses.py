"""Running beams and finished sequences, as the diverse and the constrained beam search keep them.

Both searches are those of transformers up to 4.49.0, whose bookkeeping differs a little from that of 5.x in `beams.py`:
each prompt (or group of beams) has K places for finished sequences, and is *done*, once and for all, as soon as

    early_stopping = True      K sequences have finished
    early_stopping = False     the worst of K finished ones is at least as good as the best candidate of this step would
                               be if it ended now
    early_stopping = "never"   the same, with length_penalty > 0 measured as if it reached the maximum length

A finished sequence has the score `sum of log-probabilities / new tokens ** length_penalty`, its end token included. Who
is not done when the maximum length is reached gives all running beams to the finished ones. The rows of a prompt that
is done go on, filled with the padding token, until all are done; their scores mean nothing.

Deliberate difference: a sequence ends with the end token that was found; 4.49.0 writes the first of `eos_token_id`.

Dimension letters: B prompts, K beams (of a group, or of all), R rows (B x all beams), T positions so far, N new tokens
so far, V vocabulary, C candidates.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from minitf.generation.outputs import GenerateBeamDecoderOnlyOutput
from minitf.generation.run import Run
from minitf.generation.stopping import EosTokenCriteria, StoppingCriteriaList

__all__ = ["Beams", "Candidate", "Finished", "Hypothesis", "best_candidates", "best_first", "ending", "output", "split"]

NEVER = -1.0e9  # a sum of log-probabilities that nothing real reaches; unlike -inf it can be added to and divided


class Candidate(NamedTuple):
    """A continuation of a beam: the sum of its log-probabilities, its new token, the beam's row, whether it ends."""

    total: float
    token: int
    row: int
    ends: bool = False


class Hypothesis(NamedTuple):
    """A finished sequence: its final score, its new tokens, and the row of the scores that each was chosen from."""

    score: float
    tokens: list[int]
    origins: list[int]


@dataclass
class Finished:
    """The K best finished sequences of one prompt, or of one of its groups.

    Attributes:
        places: K.
        penalty: `length_penalty`.
        early_stopping: see the head of this file.
        longest: new tokens that fit.
        kept: at most K, in the order in which they finished.
        done: whether nothing is added any more.
    """

    places: int
    penalty: float
    early_stopping: bool | str
    longest: int
    kept: list[Hypothesis] = field(default_factory=list)
    done: bool = False

    @classmethod
    def of(cls, run: Run, places: int) -> Finished:
        settings = run.settings
        return cls(places, settings.length_penalty, settings.early_stopping, run.max_length - run.sequences.shape[1])

    def add(self, total: float, tokens: list[int], origins: list[int]) -> None:
        """Take a sequence in, if it is better than the worst or a place is free."""
        score = total / len(tokens) ** self.penalty
        if len(self.kept) == self.places:
            if score <= self.worst:
                return
            del self.kept[min(range(self.places), key=lambda place: self.kept[place].score)]
        self.kept.append(Hypothesis(score, tokens, origins))

    @property
    def worst(self) -> float:
        return min(hypothesis.score for hypothesis in self.kept)

    def close_if_settled(self, best_total: float, new: int) -> None:
        """Decide whether this is done, after a step whose best candidate has `best_total` at `new` new tokens."""
        if len(self.kept) < self.places:
            return
        reach = self.longest if self.early_stopping == "never" and self.penalty > 0.0 else new
        self.done = self.early_stopping is True or self.worst >= best_total / reach**self.penalty


@dataclass
class Beams:
    """The running beams of all prompts.

    Attributes:
        sequences: `[R, T]`, prompt and new tokens.
        origins: `[R, N]`, the row of each step's scores that a new token was chosen from.
        totals: `[R]`, sums of log-probabilities.
    """

    sequences: Tensor
    origins: Tensor
    totals: Tensor

    @classmethod
    def first(cls, run: Run, leaders: Sequence[int]) -> Beams:
        """`num_beams` copies of each prompt. Only the beams `leaders` count in the first step, else it would find every
        continuation several times."""
        width = run.settings.num_beams
        sequences = run.sequences.repeat_interleave(width, dim=0)  # [R, T]
        totals = torch.full((len(run.sequences), width), NEVER, device=sequences.device)  # [B, K]
        totals[:, list(leaders)] = 0.0
        return cls(sequences, sequences.new_empty(len(sequences), 0), totals.flatten())

    def written(self, row: int) -> tuple[list[int], list[int]]:
        """The new tokens of a row, and their origins."""
        new = self.origins.shape[1]
        start = self.sequences.shape[1] - new
        return self.sequences[row, start:].tolist(), self.origins[row].tolist()

    def finish(self, candidate: Candidate, finished: Finished) -> None:
        """Hand a candidate that ends to the finished ones."""
        tokens, origins = self.written(candidate.row)
        finished.add(candidate.total, [*tokens, candidate.token], [*origins, candidate.row])

    def give_all(self, rows: Iterable[int], finished: Finished) -> None:
        """Hand running beams to the finished ones as they are, because there is no room for another token."""
        totals = self.totals.tolist()
        for row in rows:
            finished.add(totals[row], *self.written(row))

    def extended(self, chosen: Sequence[Candidate]) -> Beams:
        """Row i goes on as `chosen[i]`."""
        device = self.sequences.device
        rows = torch.tensor([candidate.row for candidate in chosen], device=device)  # [R]
        tokens = torch.tensor([candidate.token for candidate in chosen], device=device)  # [R]
        return Beams(
            torch.cat([self.sequences.index_select(0, rows), tokens[:, None]], dim=1),  # [R, T + 1]
            torch.cat([self.origins.index_select(0, rows), rows[:, None]], dim=1),  # [R, N + 1]
            torch.tensor([candidate.total for candidate in chosen], device=device),  # [R]
        )


def ending(run: Run, sequences: Tensor, scores: Tensor) -> tuple[Tensor, Tensor]:
    """Which of `[n, T]` sequences end with their last token: by an end token, and by another criterion, `[n]` each."""
    ends = torch.tensor(run.settings.ends(), dtype=torch.long, device=sequences.device)  # [E]
    by_token = torch.isin(sequences[:, -1], ends)  # [n]
    others = StoppingCriteriaList([one for one in run.stopping if not isinstance(one, EosTokenCriteria)])
    return by_token, others(sequences, scores) if others else torch.zeros_like(by_token)


def best_candidates(
    run: Run, beams: Beams, totals: Tensor, rows: Tensor, scores: Tensor
) -> tuple[list[list[Candidate]], bool]:
    """The best C continuations of each prompt's beams, best first, and whether generation has to stop with them.

    C is 2 K, and with E > 1 end tokens (E + 1) K, because in the worst case each beam's best continuations are its
    ends, and K must go on. Generation has to stop where another criterion than the end token ends them all (the time
    is up).

    Args:
        totals: `[B, K, V]`, the sum of log-probabilities of every continuation.
        rows: `[B, K]`, the rows of these beams among all.
        scores: `[R, V]` of this step, for the criteria.
    """
    prompts, width, words = totals.shape
    count = min(max(2, 1 + len(run.settings.ends())) * width, width * words)  # C
    best, places = totals.flatten(1).topk(count)  # [B, C], [B, C]
    tokens, parents = places % words, rows.gather(1, places // words)  # [B, C], [B, C]
    sequences = torch.cat([beams.sequences[parents.flatten()], tokens.view(-1, 1)], dim=1)  # [B * C, T + 1]
    by_token, by_criterion = ending(run, sequences, scores)  # [B * C], [B * C]
    stop = bool(by_criterion.all())
    ends = (by_token if stop else by_token | by_criterion).view(prompts, count)  # [B, C]
    listed = zip(best.tolist(), tokens.tolist(), parents.tolist(), ends.tolist(), strict=True)
    return [[Candidate(*one) for one in zip(*prompt, strict=True)] for prompt in listed], stop


def split(candidates: Sequence[Candidate], size: int) -> tuple[list[Candidate], list[Candidate]]:
    """Those that finish, and the `size` that go on, each best first.

    Only the best `size` may finish: an end in a lower place would not have been kept as a beam either. Where too few
    are left to go on (only stop strings can do that), ended ones fill the places, with a score that nothing needs.
    """
    ended = [candidate for candidate in candidates[:size] if candidate.ends]
    going = [candidate for candidate in candidates if not candidate.ends][:size]
    spare = [candidate._replace(total=candidate.total + NEVER) for candidate in candidates if candidate.ends]
    return ended, going + spare[: size - len(going)]


def output(
    run: Run, ranked: Sequence[Sequence[Hypothesis]], scores: list[Tensor], logits: list[Tensor]
) -> GenerateBeamDecoderOnlyOutput:
    """The first `num_return_sequences` of each prompt, filled up to the longest.

    Args:
        ranked: for each prompt its finished sequences, best first.
    """
    settings, device = run.settings, run.sequences.device
    wanted = [hypothesis for prompt in ranked for hypothesis in prompt[: settings.num_return_sequences]]
    longest = max(len(hypothesis.tokens) for hypothesis in wanted)  # N
    tokens = torch.full((len(wanted), longest), run.pad, device=device)  # [B * results, N]
    origins = torch.full_like(tokens, -1)  # [B * results, N]
    for row, hypothesis in enumerate(wanted):
        tokens[row, : len(hypothesis.tokens)] = torch.tensor(hypothesis.tokens, device=device)
        origins[row, : len(hypothesis.tokens)] = torch.tensor(hypothesis.origins, device=device)
    prompts = run.sequences.repeat_interleave(settings.num_return_sequences, dim=0)  # [B * results, T]
    final = torch.tensor([hypothesis.score for hypothesis in wanted], device=device)  # [B * results]
    return GenerateBeamDecoderOnlyOutput(
        sequences=torch.cat([prompts, tokens], dim=1),  # [B * results, T + N]
        sequences_scores=final if settings.output_scores else None,
        scores=tuple(scores) if settings.output_scores else None,
        logits=tuple(logits) if settings.output_logits else None,
        beam_indices=origins,
        **run.collected(),
    )


def best_first(hypotheses: Iterable[Hypothesis]) -> list[Hypothesis]:
    """By score; of equal ones the later finished first."""
    return sorted(hypotheses, key=lambda hypothesis: hypothesis.score)[::-1]
