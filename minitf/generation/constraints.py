"""Constraints: words that the new tokens must contain, and how far a beam has come with all of them.

A `Constraint` follows a sequence token by token and says which tokens would bring it forward. Two kinds are here:

    PhrasalConstraint([5, 6])              the tokens 5, 6, one directly after the other
    DisjunctiveConstraint([[5, 6], [7]])   one of several phrases

`ConstraintListState` is the progress of one beam through a list of them. It works on one constraint at a time: the
first token that brings a pending one forward begins it, and from then on only that one advances, until it is complete
or a token breaks it (then it is pending again, at its beginning). So a phrase counts where it was begun on purpose or
by luck, but 5, 5, 6 does not complete [5, 6]: the second 5 breaks what the first began. This, the order of the pending
ones and the names of the methods are those of transformers up to 4.49.0, so constraints written for it work here.

Deliberate difference: alternatives with a common beginning. 4.49.0 shares their progress between the beams that try
each next token, so the first one tried spoils the others; here each has its own.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

__all__ = ["Constraint", "ConstraintListState", "DisjunctiveConstraint", "PhrasalConstraint"]

MOST_STEPS = 10_000  # of a constraint's own test; also how 4.49.0 recognises one that never ends


class Constraint(ABC):
    """What a sequence must contain, as an object with a state. Derive from it to make a further kind.

    A subclass sets `seqlen`, the tokens that the longest way to complete it takes, and calls `super().__init__()` last,
    which tests the rest. Always taking (the first of) `advance()` must complete it.

    Raises:
        ValueError: the subclass contradicts itself.
    """

    seqlen: int

    def __init__(self) -> None:
        self.test()

    def test(self) -> None:
        """Follow `advance()` on a copy until it is complete; for errors see the class."""
        probe, name = self.copy(), type(self).__name__
        if not isinstance(getattr(self, "seqlen", None), int) or self.seqlen < 1:
            raise ValueError(f"{name}.seqlen: expected the tokens that it takes at most, an integer >= 1.")
        for _ in range(MOST_STEPS):
            wanted = probe.advance()
            if wanted is None or wanted == []:
                raise ValueError(f"{name}.advance() returned {wanted!r} before it was complete: expected a token id.")
            token = wanted if isinstance(wanted, int) else wanted[0]
            if not probe.does_advance(token):
                raise ValueError(f"{name}.does_advance({token}) is False, though advance() returned this token.")
            stepped, completed, _ = probe.update(token)
            if not stepped:
                raise ValueError(f"{name}.update({token}) made no step, though does_advance says that it does.")
            if completed:
                break
        else:
            raise ValueError(f"{name} is not complete after {MOST_STEPS} tokens of advance().")
        if probe.remaining() != 0:
            raise ValueError(f"{name}.remaining() = {probe.remaining()} although it is complete: expected 0.")

    @abstractmethod
    def advance(self) -> int | list[int] | None:
        """The token, or the tokens, that would bring it forward; None if it is complete."""

    @abstractmethod
    def does_advance(self, token_id: int) -> bool:
        """Whether this token would bring it forward."""

    @abstractmethod
    def update(self, token_id: int) -> tuple[bool, bool, bool]:
        """Go on by this token: (came forward, is complete now, was thrown back to its beginning)."""

    @abstractmethod
    def reset(self) -> None:
        """Go back to the beginning."""

    @abstractmethod
    def remaining(self) -> int:
        """Tokens that are still missing, at most."""

    @abstractmethod
    def copy(self, stateful: bool = False) -> Constraint:
        """A new object: at its beginning, or with `stateful` as far as this one."""


class _Phrases(Constraint):
    """One of several phrases, followed token by token."""

    def __init__(self, phrases: Iterable[Iterable[int]]) -> None:
        self.phrases = [tuple(phrase) for phrase in phrases]
        self.seqlen = max(len(phrase) for phrase in self.phrases)
        self.written: tuple[int, ...] = ()

    def next_tokens(self) -> list[int]:
        """What may follow `written`, in the order of the phrases."""
        done = len(self.written)
        fitting = (phrase for phrase in self.phrases if phrase[:done] == self.written and len(phrase) > done)
        return list(dict.fromkeys(phrase[done] for phrase in fitting))

    @property
    def completed(self) -> bool:
        return self.written in self.phrases

    def does_advance(self, token_id: int) -> bool:
        return token_id in self.next_tokens()

    def update(self, token_id: int) -> tuple[bool, bool, bool]:
        if not self.does_advance(token_id):
            self.reset()
            return False, False, True
        self.written = (*self.written, token_id)
        return True, self.completed, False

    def reset(self) -> None:
        self.written = ()

    def remaining(self) -> int:
        return 0 if self.completed else self.seqlen - len(self.written)

    def least(self) -> int:
        """Tokens that are still missing, at least."""
        done = len(self.written)
        return min(len(phrase) - done for phrase in self.phrases if phrase[:done] == self.written)


class PhrasalConstraint(_Phrases):
    """These tokens must come, one directly after the other.

    Args:
        token_ids: at least one.

    Raises:
        ValueError: not a non-empty list of integers >= 0.
    """

    def __init__(self, token_ids: Sequence[int]) -> None:
        check_phrase("token_ids", token_ids)
        self.token_ids = list(token_ids)
        super().__init__([token_ids])

    def advance(self) -> int | None:
        return next(iter(self.next_tokens()), None)

    def copy(self, stateful: bool = False) -> PhrasalConstraint:
        new = PhrasalConstraint(self.token_ids)
        new.written = self.written if stateful else ()
        return new

    def __repr__(self) -> str:
        return f"PhrasalConstraint({self.token_ids})"


class DisjunctiveConstraint(_Phrases):
    """One of these phrases must come.

    Args:
        nested_token_ids: the phrases, none of which may begin with another one, because the longer could never be
            reached: the shorter would complete the constraint before.

    Raises:
        ValueError: not a non-empty list of phrases; a phrase that another one begins with, or that stands there twice.
    """

    def __init__(self, nested_token_ids: Sequence[Sequence[int]]) -> None:
        if not isinstance(nested_token_ids, (list, tuple)) or len(nested_token_ids) == 0:
            raise ValueError(f"nested_token_ids = {nested_token_ids!r}: expected a non-empty list of phrases.")
        for number, phrase in enumerate(nested_token_ids):
            check_phrase(f"nested_token_ids[{number}]", phrase)
        phrases = [list(phrase) for phrase in nested_token_ids]
        for number, phrase in enumerate(phrases):
            for other in phrases[:number] + phrases[number + 1 :]:
                if other[: len(phrase)] == phrase:
                    raise ValueError(
                        f"nested_token_ids holds {phrase} and {other}, which begins with it: the longer one could "
                        "never be reached. Leave it out."
                    )
        self.token_ids = phrases
        super().__init__(phrases)

    def advance(self) -> list[int] | None:
        return self.next_tokens() or None

    def copy(self, stateful: bool = False) -> DisjunctiveConstraint:
        new = DisjunctiveConstraint(self.token_ids)
        new.written = self.written if stateful else ()
        return new

    def __repr__(self) -> str:
        return f"DisjunctiveConstraint({self.token_ids})"


def check_phrase(name: str, phrase: Any) -> None:
    """Raises ValueError: not a non-empty list of token ids."""
    if not isinstance(phrase, (list, tuple)) or len(phrase) == 0:
        raise ValueError(f"{name} = {phrase!r}: expected a non-empty list of token ids.")
    for token in phrase:
        if isinstance(token, bool) or not isinstance(token, int) or token < 0:
            raise ValueError(f"{name} = {phrase!r} holds {token!r}: expected token ids, integers >= 0.")


@dataclass(frozen=True)
class ConstraintListState:
    """How far one sequence has come with several constraints; see the head of this file. It never changes.

    Attributes:
        pending: those that are not begun.
        current: the one that is being written, or None.
        complete: how many are.
        longest: tokens of the longest.
    """

    pending: tuple[Constraint, ...]
    current: Constraint | None
    complete: int
    longest: int

    @classmethod
    def of(cls, constraints: Sequence[Constraint]) -> ConstraintListState:
        """The state before the first token."""
        return cls(tuple(c.copy() for c in constraints), None, 0, max(c.seqlen for c in constraints))

    @property
    def completed(self) -> bool:
        return not self.pending and self.current is None

    @property
    def bank(self) -> int:
        """A number that grows with progress: `longest` for each complete one, and what is written of the current."""
        begun = 0 if self.current is None else self.longest - self.current.remaining()
        return self.complete * self.longest + begun

    def advance(self) -> list[int]:
        """The tokens that would bring the current constraint forward or, if there is none, begin a pending one."""
        wanted = [one.advance() for one in (self.pending if self.current is None else (self.current,))]
        lists = [[tokens] if isinstance(tokens, int) else tokens or [] for tokens in wanted]
        return [token for tokens in lists for token in tokens]

    def after(self, token: int) -> ConstraintListState:
        """The state one token later."""
        if self.completed:
            return self
        if self.current is not None:
            current = self.current.copy(stateful=True)
            _, completed, thrown_back = current.update(token)
            if thrown_back:
                return replace(self, current=None, pending=(*self.pending, current.copy()))
            return self._with(current, completed, self.pending)
        for place, one in enumerate(self.pending):
            if one.does_advance(token):
                begun = one.copy(stateful=True)
                _, completed, _ = begun.update(token)
                return self._with(begun, completed, self.pending[:place] + self.pending[place + 1 :])
        return self

    def _with(self, current: Constraint, completed: bool, pending: tuple[Constraint, ...]) -> ConstraintListState:
        if completed:
            return replace(self, current=None, complete=self.complete + 1, pending=pending)
        return replace(self, current=current, pending=pending)
