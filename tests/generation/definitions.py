"""The three searches once more, straight from their definitions: the oracles of the fast ones.

One prompt, Python lists and loops, the whole text through the model for every score, no cache, no batch. Nothing is
shared with the library but the model.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import torch

__all__ = ["NaiveBeam", "constrained", "contrastive", "groups", "log_probs"]


@torch.no_grad()
def log_probs(model: Any, text: list[int], **inputs: Any) -> list[float]:
    """Of every word as the next one."""
    logits = model(input_ids=torch.tensor([text]), use_cache=False, **inputs).logits[0, -1].float()
    scores: list[float] = torch.log_softmax(logits, dim=-1).tolist()
    return scores


@dataclass
class NaiveBeam:
    """New tokens and the sum of their log-probabilities; of a finished one the final score."""

    tokens: list[int] = field(default_factory=list)
    total: float = 0.0


@dataclass
class NaivePlaces:
    """The finished sequences of one beam search, by the rules of transformers 4.49.0."""

    size: int
    penalty: float
    early: bool | str
    longest: int
    kept: list[NaiveBeam] = field(default_factory=list)
    done: bool = False

    def add(self, beam: NaiveBeam) -> None:
        self.kept.append(NaiveBeam(beam.tokens, beam.total / len(beam.tokens) ** self.penalty))
        self.kept = sorted(self.kept, key=lambda one: -one.total)[: self.size]

    def look(self, best: float, new: int) -> None:
        if len(self.kept) < self.size:
            return
        reach = self.longest if self.early == "never" and self.penalty > 0 else new
        self.done = self.early is True or self.kept[-1].total >= best / reach**self.penalty


def continuations(
    model: Any, prompt: list[int], beams: list[NaiveBeam], count: int, lost: dict[int, float] | None = None
) -> list[NaiveBeam]:
    """The best `count` of all. `lost`: what is subtracted from a token."""
    found = []
    for beam in beams:
        for token, score in enumerate(log_probs(model, prompt + beam.tokens)):
            found.append(NaiveBeam([*beam.tokens, token], beam.total + score - (lost or {}).get(token, 0.0)))
    return sorted(found, key=lambda one: -one.total)[:count]


def groups(
    model: Any, prompt: list[int], *, new: int, beams: int, groups: int, penalty: float, ends: list[int], pad: int,
    length_penalty: float = 1.0, early: bool | str = False,
) -> list[NaiveBeam]:  # fmt: skip
    """Diverse beam search: all finished sequences, best first."""
    size = beams // groups
    count = max(2, 1 + len(ends)) * size
    running = [[NaiveBeam()] for _ in range(groups)]  # later K / G of each
    places = [NaivePlaces(size, length_penalty, early, new) for _ in range(groups)]
    for length in range(1, new + 1):
        lost: dict[int, float] = {}
        for group in range(groups):
            if places[group].done:
                lost[pad] = lost.get(pad, 0.0) + size * penalty
                continue
            candidates = continuations(model, prompt, running[group], count, lost)
            for candidate in candidates[:size]:
                if candidate.tokens[-1] in ends:
                    places[group].add(candidate)
            running[group] = [one for one in candidates if one.tokens[-1] not in ends][:size]
            places[group].look(candidates[0].total, length)
            for beam in running[group]:
                lost[beam.tokens[-1]] = lost.get(beam.tokens[-1], 0.0) + penalty
        if all(place.done for place in places):
            break
    for group in range(groups):
        for beam in [] if places[group].done else running[group]:
            places[group].add(beam)
    return sorted((one for place in places for one in place.kept), key=lambda one: -one.total)


# --------------------------------------------------------------------------------------------------------------------
# Constrained beam search


def progress(text: list[int], words: list[list[list[int]]]) -> tuple[int, list[list[list[int]]], list[int] | None]:
    """(how many words are complete, the pending ones, what of one is written), a word being a list of phrases."""
    pending, complete = list(words), 0
    current: list[list[int]] | None = None
    written: list[int] = []
    for token in text:
        if current is None:
            current = next((word for word in pending if any(phrase[0] == token for phrase in word)), None)
            if current is None:
                continue
            pending.remove(current)
            written = [token]
        elif any(phrase[: len(written) + 1] == [*written, token] for phrase in current):
            written = [*written, token]
        else:  # thrown back
            pending, current = [*pending, current], None
            continue
        if written in current:
            complete, current = complete + 1, None
    return complete, pending if current is None else [current], None if current is None else written


def bank(text: list[int], words: list[list[list[int]]]) -> int:
    longest = max(len(phrase) for word in words for phrase in word)
    complete, pending, written = progress(text, words)
    if written is None:
        return complete * longest
    return complete * longest + longest - (max(map(len, pending[0])) - len(written))


def forward_tokens(text: list[int], words: list[list[list[int]]]) -> list[int]:
    """What would bring a text on."""
    _, pending, written = progress(text, words)
    begun = written or []
    fitting = [phrase for word in pending for phrase in word if phrase[: len(begun)] == begun]
    return [phrase[len(begun)] for phrase in fitting]


def constrained(
    model: Any, prompt: list[int], *, new: int, beams: int, words: list[list[list[int]]], ends: list[int],
    length_penalty: float = 1.0, early: bool | str = False,
) -> tuple[list[NaiveBeam], list[NaiveBeam]]:  # fmt: skip
    """Constrained beam search: finished sequences with all words, best first, and running ones that miss some."""
    running, count = [NaiveBeam()], max(2, 1 + len(ends)) * beams
    place = NaivePlaces(beams, length_penalty, early, new)
    for length in range(1, new + 1):
        candidates = continuations(model, prompt, running, count)
        for one in candidates[:beams]:
            if one.tokens[-1] in ends and progress(prompt + one.tokens[:-1], words)[0] == len(words):
                place.add(one)
        going = [one for one in candidates if one.tokens[-1] not in ends][:beams]
        seen = [one.tokens for one in going]
        for beam in running:
            scores = log_probs(model, prompt + beam.tokens)
            complete = progress(prompt + beam.tokens, words)[0] == len(words)
            for token in [] if complete else forward_tokens(prompt + beam.tokens, words):
                if [*beam.tokens, token] not in seen:
                    seen.append([*beam.tokens, token])
                    going.append(NaiveBeam([*beam.tokens, token], beam.total + scores[token]))
        running = of_all_banks(prompt, going, words)[:beams] if len(going) > beams else going
        place.look(candidates[0].total, length)
        if place.done:
            return place.kept, []
    missing = []
    for beam in running:
        if progress(prompt + beam.tokens, words)[0] == len(words):
            place.add(beam)
        else:
            missing.append(NaiveBeam(beam.tokens, beam.total / len(beam.tokens) ** length_penalty))
    return place.kept, sorted(missing, key=lambda one: -one.total)


def of_all_banks(prompt: list[int], beams: list[NaiveBeam], words: list[list[list[int]]]) -> list[NaiveBeam]:
    """The best of each bank, the fullest bank first, then the second best of each, ..."""
    banks: dict[int, list[NaiveBeam]] = {}
    for beam in sorted(beams, key=lambda one: -one.total):
        banks.setdefault(bank(prompt + beam.tokens, words), []).append(beam)
    fullest_first = [banks[number] for number in sorted(banks, reverse=True)]
    longest = max(map(len, fullest_first))
    return [members[place] for place in range(longest) for members in fullest_first if place < len(members)]


# --------------------------------------------------------------------------------------------------------------------
# Contrastive search


@torch.no_grad()
def last_states(model: Any, text: list[int]) -> list[list[float]]:
    """The hidden state of the last layer at every position."""
    out = model(input_ids=torch.tensor([text]), use_cache=False, output_hidden_states=True)
    states: list[list[float]] = out.hidden_states[-1][0].tolist()
    return states


def cosine(one: list[float], other: list[float]) -> float:
    product = sum(a * b for a, b in zip(one, other, strict=True))
    return product / math.sqrt(sum(a * a for a in one)) / math.sqrt(sum(b * b for b in other))


def contrastive(model: Any, prompt: list[int], *, new: int, k: int, alpha: float, ends: list[int]) -> list[int]:
    """Contrastive search: the new tokens."""
    text = list(prompt)
    for _ in range(new):
        scores = log_probs(model, text)
        candidates = sorted(range(len(scores)), key=lambda token: -scores[token])[:k]
        worth = []
        for token in candidates:
            *before, state = last_states(model, [*text, token])
            worth.append((1 - alpha) * math.exp(scores[token]) - alpha * max(cosine(state, old) for old in before))
        text.append(candidates[worth.index(max(worth))])
        if text[-1] in ends:
            break
    return text[len(prompt) :]
