"""The logits processors of sampling: they sharpen a distribution, or cut off its unlikely tokens.

Protocol and helpers are those of `processors.py`. All cut by the same pattern: which tokens stay, all others get
`filter_value` (-inf: probability 0). Where every token that stays could end a sequence, beam sampling would have
nothing to go on with; that is what `min_tokens_to_keep` is for.

Kept tokens and scores are those of transformers 5.23 on the CPU, bit for bit; the sums that decide are computed in
its order. What is faster is said where it is done.

Dimension letters: B rows, V vocabulary, W sorted scores (V, or only the end of them).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.distributions import Categorical

from minitf.generation.processors import LogitsProcessor, check_count, check_number

__all__ = [
    "EpsilonLogitsWarper",
    "EtaLogitsWarper",
    "MinPLogitsWarper",
    "TemperatureLogitsWarper",
    "TopHLogitsWarper",
    "TopKLogitsWarper",
    "TopPLogitsWarper",
    "TypicalLogitsWarper",
]


class TemperatureLogitsWarper(LogitsProcessor):
    """Divides the scores by a number: below 1 likely tokens become likelier, above 1 all become more alike.

    Args:
        temperature: > 0. Greedy decoding, the limit at 0, is `do_sample=False`.

    Raises:
        ValueError: another value.
    """

    def __init__(self, temperature: float) -> None:
        expected = "a finite number > 0 (for the most likely token at every step: do_sample=False)"
        self.temperature = check_number("temperature", temperature, expected, lambda v: 0 < v < math.inf)

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        return scores / self.temperature


class TopKLogitsWarper(LogitsProcessor):
    """Keeps the k highest scores, and those that equal the last of them (Fan et al. 2018, arXiv:1805.04833).

    Args:
        top_k: >= 1. As many as there are tokens, or more, keep all.
        filter_value: what the others get.
        min_tokens_to_keep: >= 1, a lower limit of `top_k`.

    Raises:
        ValueError: another value.
    """

    def __init__(self, top_k: int, filter_value: float = -math.inf, min_tokens_to_keep: int = 1) -> None:
        least = check_count("min_tokens_to_keep", min_tokens_to_keep, least=1)
        self.top_k = max(check_count("top_k", top_k, least=1), least)
        self.filter_value = filter_value
        self.min_tokens_to_keep = least

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        if self.top_k >= scores.shape[-1]:
            return scores
        best, tokens = scores.topk(self.top_k + 1)  # [B, k + 1] each
        last, next_best = best[:, -2:-1], best[:, -1:]  # [B, 1] each
        if bool((next_best < last).all()):
            # no score equals the last: writing k scores is faster than comparing V
            return torch.full_like(scores, self.filter_value).scatter_(1, tokens[:, :-1], best[:, :-1])
        return scores.masked_fill(scores < last, self.filter_value)


class TopPLogitsWarper(LogitsProcessor):
    """Keeps the most likely tokens that together have a probability of `top_p` (nucleus sampling).

    From Holtzman et al. 2019 (arXiv:1904.09751). From the least likely token on, those go whose probabilities add up to
    at most `1 - top_p`.

    Only how many stay is computed from sorted scores; which ones they are follows from the score of the last. Sorting
    scores alone is several times faster than sorting them with their tokens. Where that last score is shared by
    tokens that go, the order among equal scores decides, and the sort with tokens is done as transformers does it.

    Args:
        top_p: 0 to 1.
        filter_value: what the others get.
        min_tokens_to_keep: >= 1.

    Raises:
        ValueError: another value.
    """

    def __init__(self, top_p: float, filter_value: float = -math.inf, min_tokens_to_keep: int = 1) -> None:
        self.top_p = check_number("top_p", top_p, "a number from 0 to 1", lambda v: 0 <= v <= 1)
        self.filter_value = filter_value
        self.min_tokens_to_keep = check_count("min_tokens_to_keep", min_tokens_to_keep, least=1)

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        least = min(self.min_tokens_to_keep, scores.shape[-1])
        ascending = _ascending(scores, least)  # [B, W]
        removed = (ascending.softmax(dim=-1).cumsum(dim=-1) <= 1 - self.top_p).sum(dim=-1, keepdim=True)  # [B, 1]
        removed = removed.clamp(max=ascending.shape[-1] - least)  # [B, 1]
        lowest = ascending.gather(1, removed)  # [B, 1], the lowest score that stays
        below = ascending.gather(1, (removed - 1).clamp(min=0))  # [B, 1]
        if bool(((below == lowest) & (removed > 0)).any()):
            return self._split_equal_scores(scores, ascending.shape[-1] - removed)
        return scores.masked_fill(scores < lowest, self.filter_value)

    def _split_equal_scores(self, scores: Tensor, kept: Tensor) -> Tensor:
        tokens = torch.sort(scores).indices  # [B, V], the least likely first
        goes = torch.arange(scores.shape[-1], device=scores.device) < scores.shape[-1] - kept  # [B, V]
        return scores.masked_fill(torch.zeros_like(goes).scatter_(1, tokens, goes), self.filter_value)


def _ascending(scores: Tensor, least: int) -> Tensor:
    """The sorted scores, or the last W of them, at least `least`, if all before those are -inf: `[B, W]`.

    After top-k most scores are -inf, and finding the others is faster than sorting all. They have the probability 0
    exactly, so leaving them out changes no sum that is computed in the same order. `softmax` adds every 4th, 8th or
    16th number of a row (as many as a register of the processor holds), and then these sums; so W is V minus a multiple
    of 64, and at least that, because short rows are computed number by number.
    """
    size = scores.shape[-1]
    finite = max(int((scores > -math.inf).sum(dim=-1).max()), least, 64)
    width = finite + (size - finite) % 64
    if width * 64 <= size:  # up to here torch.topk keeps only the best while it reads; beyond it sorts as well
        return scores.topk(width).values.flip(-1)  # [B, W]
    if scores.device.type == "cpu" and scores.dtype in (torch.float32, torch.float64):
        return torch.from_numpy(np.sort(scores.detach().numpy(), axis=-1))  # 3 to 4 times faster than torch.sort
    return torch.sort(scores).values  # [B, V]


class MinPLogitsWarper(LogitsProcessor):
    """Keeps the tokens that have at least `min_p` times the probability of the most likely one.

    From Nguyen et al. 2024 (arXiv:2407.01082).

    Args:
        min_p: 0 to 1.
        filter_value: what the others get.
        min_tokens_to_keep: >= 1.

    Raises:
        ValueError: another value.
    """

    def __init__(self, min_p: float, filter_value: float = -math.inf, min_tokens_to_keep: int = 1) -> None:
        self.min_p = check_number("min_p", min_p, "a number from 0 to 1", lambda v: 0 <= v <= 1)
        self.filter_value = filter_value
        self.min_tokens_to_keep = check_count("min_tokens_to_keep", min_tokens_to_keep, least=1)

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        probs = scores.softmax(dim=-1)  # [B, V]
        goes = probs < self.min_p * probs.amax(dim=-1, keepdim=True)  # [B, V]
        if self.min_tokens_to_keep > 1:  # the most likely one stays anyway
            best = probs.topk(min(self.min_tokens_to_keep, probs.shape[-1])).indices  # [B, tokens that stay]
            goes.scatter_(1, best, False)
        return scores.masked_fill(goes, self.filter_value)


class TypicalLogitsWarper(LogitsProcessor):
    """Keeps the tokens whose information is closest to the expected, until they have the probability `mass`.

    Locally typical sampling (Meister et al. 2022, arXiv:2202.00666): very likely tokens can go as well.

    Args:
        mass: between 0 and 1, neither of them.
        filter_value: what the others get.
        min_tokens_to_keep: >= 1.

    Raises:
        ValueError: another value.
    """

    def __init__(self, mass: float = 0.9, filter_value: float = -math.inf, min_tokens_to_keep: int = 1) -> None:
        self.mass = check_number("mass", mass, "a number > 0 and < 1", lambda v: 0 < v < 1)
        self.filter_value = filter_value
        self.min_tokens_to_keep = check_count("min_tokens_to_keep", min_tokens_to_keep, least=1)

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        log_probs = scores.log_softmax(dim=-1)  # [B, V]
        entropy = -(log_probs * log_probs.exp()).nansum(dim=-1, keepdim=True)  # [B, 1]
        distance = (-log_probs - entropy).abs()  # [B, V], of each token's information to the expected
        nearest, tokens = torch.sort(distance)  # [B, V] each
        mass = scores.gather(-1, tokens).softmax(dim=-1).cumsum(dim=-1)  # [B, V]
        last = (mass < self.mass).sum(dim=-1, keepdim=True).clamp_(max=scores.shape[-1] - 1)  # [B, 1]
        goes = distance > nearest.gather(1, last)  # [B, V]
        if self.min_tokens_to_keep > 1:  # the nearest one stays anyway
            goes.scatter_(1, tokens[:, : self.min_tokens_to_keep], False)
        return scores.masked_fill(goes, self.filter_value)


class EpsilonLogitsWarper(LogitsProcessor):
    """Keeps the tokens that have at least the probability `epsilon` (Hewitt et al. 2022, arXiv:2210.15191).

    Args:
        epsilon: between 0 and 1, neither of them; the paper uses 3e-4 to 9e-4.
        filter_value: what the others get.
        min_tokens_to_keep: >= 1.

    Raises:
        ValueError: another value.
    """

    def __init__(self, epsilon: float, filter_value: float = -math.inf, min_tokens_to_keep: int = 1) -> None:
        self.epsilon = check_number("epsilon", epsilon, "a number > 0 and < 1", lambda v: 0 < v < 1)
        self.filter_value = filter_value
        self.min_tokens_to_keep = check_count("min_tokens_to_keep", min_tokens_to_keep, least=1)

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        unlikely = scores.softmax(dim=-1) < self.epsilon  # [B, V]
        return scores.masked_fill(unlikely & ~_highest(scores, self.min_tokens_to_keep), self.filter_value)


class EtaLogitsWarper(LogitsProcessor):
    """As `EpsilonLogitsWarper`, with a limit that falls where many tokens are possible.

    The limit is `min(epsilon, sqrt(epsilon) * exp(-entropy))`, one for each row (Hewitt et al. 2022, arXiv:2210.15191).

    Args:
        epsilon: between 0 and 1, neither of them; the paper uses 3e-4 to 4e-3.
        filter_value: what the others get.
        min_tokens_to_keep: >= 1.

    Raises:
        ValueError: another value.
    """

    def __init__(self, epsilon: float, filter_value: float = -math.inf, min_tokens_to_keep: int = 1) -> None:
        self.epsilon = check_number("epsilon", epsilon, "a number > 0 and < 1", lambda v: 0 < v < 1)
        self.filter_value = filter_value
        self.min_tokens_to_keep = check_count("min_tokens_to_keep", min_tokens_to_keep, least=1)

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        entropy = _distribution(scores).entropy()  # [B]
        epsilon = torch.tensor(self.epsilon, device=scores.device)
        eta = torch.min(epsilon, epsilon.sqrt() * torch.exp(-entropy))[:, None]  # [B, 1]
        unlikely = scores.softmax(dim=-1) < eta  # [B, V]
        return scores.masked_fill(unlikely & ~_highest(scores, self.min_tokens_to_keep), self.filter_value)


def _distribution(scores: Tensor) -> Any:
    return Categorical(logits=scores, validate_args=False)  # checking would cost as much as the rest


def _highest(scores: Tensor, count: int) -> Tensor:
    """Whether a score is one of the `count` highest of its row, or equals the last of them: `[B, V]`."""
    if count == 1:
        return scores >= scores.amax(dim=-1, keepdim=True)
    return scores >= scores.topk(min(count, scores.shape[-1])).values[:, -1:]


class TopHLogitsWarper(LogitsProcessor):
    """Keeps the most likely tokens until they have a share of the entropy (top-H, arXiv:2509.02510).

    Of the 100 highest scores, taken as the whole distribution, those stay whose terms `-p * log(p)`, summed from the
    most likely on, are at most `top_h` times the entropy. The most likely stays in any case.

    Args:
        top_h: > 0 and at most 1.
        filter_value: what the others get.

    Raises:
        ValueError: another value.
    """

    top_n = 100

    def __init__(self, top_h: float, filter_value: float = -math.inf) -> None:
        self.top_h = check_number("top_h", top_h, "a number > 0 and <= 1", lambda v: 0 < v <= 1)
        self.filter_value = filter_value

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        best, tokens = scores.topk(min(self.top_n, scores.shape[-1]))  # [B, top_n] each
        distribution = _distribution(best)
        probs = distribution.probs  # [B, top_n]
        allowed = (distribution.entropy() * self.top_h)[:, None]  # [B, 1]
        stays = (-probs * probs.log()).cumsum(dim=-1) <= allowed  # [B, top_n]; 0 * log(0) is nan, which does not stay
        stays[:, 0] = True
        kept = best.masked_fill(~stays, self.filter_value)  # [B, top_n]
        return torch.full_like(scores, self.filter_value).scatter_(1, tokens, kept)  # [B, V]
