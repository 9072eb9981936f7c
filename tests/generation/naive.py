"""The strategies by their definitions: no cache, no batch, no padding, every text scored anew, in plain lists.

They are slow on purpose: they are the oracle of the loops in `minitf.generation`. `score(text)` gives the scores of the
next word after a text, a list of V numbers. Random numbers are drawn as the fast loops draw them, once a step for all
prompts, or nothing could be compared.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch

__all__ = ["beams", "best_of_all", "greedy", "log_probabilities", "sample", "scorer"]

Text = list[int]
Score = Callable[[Text], list[float]]


def scorer(model: Any) -> Score:
    """`score` of a model: one text, one forward of all its positions."""

    @torch.no_grad()
    def score(text: Text) -> list[float]:
        logits = model(torch.tensor([text]), use_cache=False).logits[0, -1]
        return [float(value) for value in logits]

    return score


def log_probabilities(scores: list[float]) -> list[float]:
    total = math.log(sum(math.exp(score - max(scores)) for score in scores)) + max(scores)
    return [score - total for score in scores]


def probabilities(scores: list[float]) -> list[float]:
    return [math.exp(value) for value in log_probabilities(scores)]


def greedy(score: Score, prompt: Text, new: int, ends: list[int]) -> Text:
    """The best word, again and again, up to an end token; returns the new words."""
    text: Text = []
    while len(text) < new and (not text or text[-1] not in ends):
        scores = score(prompt + text)
        text.append(scores.index(max(scores)))
    return text


def sample(
    score: Score, prompts: list[Text], new: int, ends: list[int], *, temperature: float, top_k: int, top_p: float
) -> list[Text]:
    """Words drawn from what temperature, top-k and top-p leave; a prompt that ended draws on, for nothing."""
    texts: list[Text] = [[] for _ in prompts]
    over = [False for _ in prompts]
    while not all(over) and max(map(len, texts)) < new:
        rows = []
        for prompt, text in zip(prompts, texts, strict=True):
            scores = [value / temperature for value in score(prompt + text)]
            order = sorted(range(len(scores)), key=lambda word: -scores[word])[:top_k]
            shares = probabilities([scores[word] for word in order])
            kept = [word for place, word in enumerate(order) if sum(shares[:place]) < top_p]
            row = [0.0] * len(scores)
            for word, share in zip(kept, probabilities([scores[word] for word in kept]), strict=True):
                row[word] = share
            rows.append(row)
        drawn = torch.multinomial(torch.tensor(rows), 1)[:, 0].tolist()
        for index, word in enumerate(drawn):
            texts[index].append(word)
            over[index] = over[index] or word in ends
    return [text[: 1 + next((i for i, word in enumerate(text) if word in ends), len(text))] for text in texts]


@dataclass
class Search:
    """One prompt's beams `(sum, words)` and finished sequences `(score, words)`, both best first."""

    running: list[tuple[float, Text]] = field(default_factory=lambda: [(0.0, [])])
    finished: list[tuple[float, Text]] = field(default_factory=list)
    settled: bool = False


def beams(
    score: Score,
    prompts: list[Text],
    width: int,
    new: int,
    ends: list[int],
    *,
    length_penalty: float = 1.0,
    early_stopping: bool | str = False,
    do_sample: bool = False,
) -> list[list[tuple[float, Text]]]:
    """The `width` best `(score, new words)` of each prompt, best first."""
    searches = [Search() for _ in prompts]
    candidates = max(2, 1 + len(ends)) * width
    for length in range(1, new + 1):
        every = [continuations(score, prompt, search) for prompt, search in zip(prompts, searches, strict=True)]
        chosen = drawn(every, candidates, width) if do_sample else [best(one, candidates) for one in every]
        for search, found in zip(searches, chosen, strict=True):
            advance(search, found, width, length, new, ends, length_penalty, early_stopping)
        if all(search.settled for search in searches):
            break
    return [search.finished for search in searches]


def continuations(score: Score, prompt: Text, search: Search) -> list[tuple[float, Text]]:
    """All of them, beam by beam and word by word."""
    return [
        (total + value, [*words, word])
        for total, words in search.running
        for word, value in enumerate(log_probabilities(score(prompt + words)))
    ]


def best(every: list[tuple[float, Text]], count: int) -> list[tuple[float, Text]]:
    return sorted(every, key=lambda one: -one[0])[:count]


def drawn(every: list[list[tuple[float, Text]]], count: int, width: int) -> list[list[tuple[float, Text]]]:
    """`count` different continuations of each prompt, drawn by softmax(sum). In the first step there is one beam, and
    the places of the others have probability 0."""
    full = max(map(len, every)) if any(len(one[0][1]) > 1 for one in every) else width * len(every[0])
    rows = [[*probabilities([total for total, _ in one]), *[0.0] * (full - len(one))] for one in every]
    places = torch.multinomial(torch.tensor(rows), count).tolist()
    return [[one[place] for place in row] for one, row in zip(every, places, strict=True)]


def advance(
    search: Search, found: list[tuple[float, Text]], width: int, length: int, new: int, ends: list[int],
    length_penalty: float, early_stopping: bool | str,
) -> None:  # fmt: skip
    """One step of one prompt: who ends, who goes on, and whether the result can still change."""
    ended = [length == new or words[-1] in ends for _, words in found]
    full = early_stopping is True and len(search.finished) == width
    for (total, words), over in list(zip(found, ended, strict=True))[:width]:
        if over and not search.settled and not full:
            search.finished.append((total / length**length_penalty, words))
    search.finished = best(search.finished, width)
    search.running = best([one for one, over in zip(found, ended, strict=True) if not over], width)
    if len(search.finished) == width and search.running:
        reach = new if early_stopping == "never" and length_penalty > 0 else length
        possible = search.running[0][0] / reach**length_penalty
        search.settled = search.settled or early_stopping is True or possible <= search.finished[-1][0]
    search.settled = search.settled or not search.running


def best_of_all(
    score: Score, prompt: Text, new: int, ends: list[int], words: int, length_penalty: float
) -> list[tuple[float, Text]]:
    """Every text of up to `new` words, best first: what a search approximates."""
    found = []
    for length in range(1, new + 1):
        for text in itertools.product(range(words), repeat=length):
            inner_end = any(word in ends for word in text[:-1])
            if inner_end or (length < new and text[-1] not in ends):
                continue
            total = sum(log_probabilities(score(prompt + list(text[:place])))[word] for place, word in enumerate(text))
            found.append((total / length**length_penalty, list(text)))
    return sorted(found, key=lambda one: -one[0])
