"""Stopping criteria: each says which rows are finished.

    criterion(input_ids, scores) -> finished

`input_ids` `[B, T]` are the tokens so far, the newest included; `scores` `[B, V]` the scores it was chosen from. The
answer is `[B]` booleans. Names and parameters are those of transformers 5.23.

Deliberate differences: `MaxLengthCriteria` has no `max_position_embeddings`, which there causes a warning; here the
model itself refuses more positions than it has. For `StopStringCriteria` see there.

Dimension letters: B rows, T positions so far, V vocabulary.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from minitf.generation.processors import TokenIds, check_count, check_ids, check_number, refuse

__all__ = [
    "EosTokenCriteria",
    "MaxLengthCriteria",
    "MaxTimeCriteria",
    "StopStringCriteria",
    "StoppingCriteria",
    "StoppingCriteriaList",
]

logger = logging.getLogger("minitf.generation")


class StoppingCriteria:
    """Base class of criteria. A plain function with the same two arguments is a criterion as well."""

    def __call__(self, input_ids: Tensor, scores: Tensor | None) -> Tensor:
        """Which rows are finished.

        Args:
            input_ids: `[B, T]` int64.
            scores: `[B, V]` float32, or None where the caller has none.

        Returns:
            `[B]` booleans, True = finished.
        """
        raise NotImplementedError(
            f"{type(self).__name__} has no __call__(input_ids, scores): every criterion needs one."
        )


class StoppingCriteriaList(list[Callable[..., Any]]):
    """Criteria of which one is enough."""

    def __call__(self, input_ids: Tensor, scores: Tensor | None) -> Tensor:
        """As `StoppingCriteria`. A criterion may also answer with one boolean for all rows.

        Raises:
            TypeError: a criterion returns neither a boolean nor a tensor of booleans.
            ValueError: a tensor of another shape than `[B]`.
        """
        finished = torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)  # [B]
        for criterion in self:
            finished = finished | _answer(criterion, input_ids, scores)  # [B]
        return finished

    @property
    def max_length(self) -> int | None:
        """Positions at which the first `MaxLengthCriteria` of the list ends a row; None if there is none."""
        return next((criterion.max_length for criterion in self if isinstance(criterion, MaxLengthCriteria)), None)


def _answer(criterion: Callable[..., Any], input_ids: Tensor, scores: Tensor | None) -> Tensor | bool:
    answer = criterion(input_ids, scores)
    if isinstance(answer, bool):
        return answer
    name = getattr(criterion, "__name__", type(criterion).__name__)
    if not isinstance(answer, Tensor) or answer.dtype != torch.bool:
        kind = f"{answer.dtype} tensor" if isinstance(answer, Tensor) else type(answer).__name__
        raise TypeError(f"{name} returned a {kind}; expected a boolean tensor [{len(input_ids)}], True = finished.")
    if answer.shape != input_ids.shape[:1]:
        raise ValueError(f"{name} returned shape {list(answer.shape)}; expected [{len(input_ids)}], one a row.")
    return answer


class MaxLengthCriteria(StoppingCriteria):
    """All rows are finished at `max_length` positions, the prompt included.

    Args:
        max_length: >= 1.

    Raises:
        ValueError: another value.
    """

    def __init__(self, max_length: int) -> None:
        self.max_length = check_count("max_length", max_length, least=1)

    def __call__(self, input_ids: Tensor, scores: Tensor | None = None) -> Tensor:
        return torch.full(input_ids.shape[:1], input_ids.shape[1] >= self.max_length, device=input_ids.device)  # [B]


class MaxTimeCriteria(StoppingCriteria):
    """All rows are finished after the step during which the time ran out.

    Args:
        max_time: seconds, > 0.
        initial_timestamp: when the time began, by `clock`; None = when this object is made.
        clock: a function without arguments that returns seconds.

    Raises:
        ValueError: another value.
    """

    def __init__(
        self, max_time: float, initial_timestamp: float | None = None, *, clock: Callable[[], float] = time.time
    ) -> None:
        self.max_time = check_number("max_time", max_time, "a number of seconds > 0", lambda v: v > 0)
        self.clock = clock
        self.initial_timestamp = clock() if initial_timestamp is None else initial_timestamp

    def __call__(self, input_ids: Tensor, scores: Tensor | None = None) -> Tensor:
        over = self.clock() - self.initial_timestamp > self.max_time
        return torch.full(input_ids.shape[:1], over, device=input_ids.device)  # [B]


class EosTokenCriteria(StoppingCriteria):
    """A row is finished when its newest token is an end token.

    Args:
        eos_token_id: the end token or tokens.

    Raises:
        ValueError: not an id.
    """

    def __init__(self, eos_token_id: TokenIds) -> None:
        self.eos_token_id = check_ids("eos_token_id", eos_token_id)

    def __call__(self, input_ids: Tensor, scores: Tensor | None = None) -> Tensor:
        return torch.isin(input_ids[:, -1], torch.tensor(self.eos_token_id, device=input_ids.device))  # [B]


class StopStringCriteria(StoppingCriteria):
    """A row is finished when its newest token completes one of these strings in the decoded text.

    The newest token may go on after the string: "stop" is found in "st" + "opera". A string that was complete before
    the newest token does not count, so one in the prompt does not end a row; one that begins in the prompt does.

    Only the end of a row is decoded. A string of n bytes lies within the last n tokens, as each that takes part in it
    adds at least one byte; with one token more, none of them is the first of a text, which is written differently
    (without a space, and WordPiece keeps its "##").

    Rows and steps are those of transformers 5.23, which compares prepared tables of all tokens instead of text, except:
    a row that begins with the string's first word has no space before it here, as in its text; a string that this
    tokenizer can hardly produce is named in a warning, while there it is an error if no token at all fits its end; ids
    that the tokenizer does not know are its error.

    Args:
        tokenizer: has `encode(text, add_special_tokens=)` and `decode(ids, skip_special_tokens=,
            clean_up_tokenization_spaces=)`.
        stop_strings: one string or several. Special tokens are text too, "[SEP]" for example.

    Raises:
        ValueError: no string, an empty one, or one with U+FFFD, which stands for incomplete characters.
    """

    def __init__(self, tokenizer: Any, stop_strings: str | Sequence[str]) -> None:
        strings = [stop_strings] if isinstance(stop_strings, str) else stop_strings
        if not isinstance(strings, (list, tuple)) or not strings or not all(isinstance(s, str) and s for s in strings):
            refuse("stop_strings", stop_strings, "a string or a list of strings, none of them empty")
        if any("\ufffd" in string for string in strings):
            refuse("stop_strings", stop_strings, "text without U+FFFD, which stands for an incomplete character")
        self.tokenizer = tokenizer
        self.stop_strings = tuple(strings)
        self._tail = max(len(string.encode()) for string in strings) + 1
        for string in strings:
            self._warn_if_foreign(string)

    def __call__(self, input_ids: Tensor, scores: Tensor | None = None) -> Tensor:
        rows = input_ids[:, -self._tail :].tolist()  # [B, tail]
        return torch.tensor([self._completes(row) for row in rows], dtype=torch.bool, device=input_ids.device)  # [B]

    def _completes(self, ids: list[int]) -> bool:
        text = self._decode(ids)
        if not any(string in text for string in self.stop_strings):
            return False
        # what the newest token has not changed: a character that it completes was U+FFFD before
        before = self._decode(ids[:-1])
        unchanged = next(
            (i for i, (old, new) in enumerate(zip(before, text, strict=False)) if old != new),
            min(len(before), len(text)),
        )
        return any(text.rfind(string) + len(string) > unchanged for string in self.stop_strings if string in text)

    def _decode(self, ids: list[int]) -> str:
        if not ids:
            return ""
        text: str = self.tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
        return text

    def _warn_if_foreign(self, string: str) -> None:
        """Say it if the string does not survive encoding and decoding: lower-cased, or other spaces, for example."""
        for text in (string, f"x{string}x"):
            found = self._decode(list(self.tokenizer.encode(text, add_special_tokens=False)))
            if string in found:
                return
        logger.warning("stop_strings: this tokenizer turns %r into %r, so it may never be found.", string, found)
