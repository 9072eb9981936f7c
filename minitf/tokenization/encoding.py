"""`Encoding`: one text (or pair) as pieces, and what is done to it: cut to a length, join with special tokens, pad.

This is the plain Python form of `tokenizers.Encoding`, with the same names, so that `BatchEncoding` holds either. The
rules (windows, which text of a pair loses pieces) are those of the `tokenizers` library, version 0.23; transformers'
old Python tokenizers had others for ties.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Literal, Protocol

Side = Literal["left", "right"]


class Piece(Protocol):
    """What a text is cut into: a token, and the characters [start, stop) of the text that it stands for."""

    @property
    def id(self) -> int: ...
    @property
    def token(self) -> str: ...
    @property
    def start(self) -> int: ...
    @property
    def stop(self) -> int: ...


@dataclass
class Encoding:
    """T tokens in columns of length T. `overflowing`: the windows that truncation made of the rest of the text."""

    ids: list[int] = field(default_factory=list)
    type_ids: list[int] = field(default_factory=list)
    tokens: list[str] = field(default_factory=list)
    offsets: list[tuple[int, int]] = field(default_factory=list)
    word_ids: list[int | None] = field(default_factory=list)
    sequence_ids: list[int | None] = field(default_factory=list)
    special_tokens_mask: list[int] = field(default_factory=list)
    attention_mask: list[int] = field(default_factory=list)
    overflowing: list[Encoding] = field(default_factory=list)

    @staticmethod
    def of_words(words: Iterable[tuple[int, Sequence[Piece]]], sequence: int) -> Encoding:
        """The pieces of the words (number, pieces) of the first (0) or second (1) text."""
        result = Encoding()
        for word, pieces in words:
            for piece in pieces:
                result.ids.append(piece.id)
                result.tokens.append(piece.token)
                result.offsets.append((piece.start, piece.stop))
                result.word_ids.append(word)
        count = len(result.ids)
        result.type_ids = [sequence] * count
        result.sequence_ids = [sequence] * count
        result.special_tokens_mask = [0] * count
        result.attention_mask = [1] * count
        return result

    @staticmethod
    def of_special(token: str, number: int, type_id: int, *, count: int = 1, attention: int = 1) -> Encoding:
        """`count` times a token that stands for no part of the text."""
        return Encoding(
            ids=[number] * count,
            type_ids=[type_id] * count,
            tokens=[token] * count,
            offsets=[(0, 0)] * count,
            word_ids=[None] * count,
            sequence_ids=[None] * count,
            special_tokens_mask=[1] * count,
            attention_mask=[attention] * count,
        )

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, window: slice) -> Encoding:
        """The tokens of a slice."""
        return Encoding(**{name: getattr(self, name)[window] for name in _COLUMNS})

    def __add__(self, other: Encoding) -> Encoding:
        """Both in a row, and every combination of their windows (self's windows vary slowest)."""
        joined = Encoding(**{name: getattr(self, name) + getattr(other, name) for name in _COLUMNS})
        rest = [one + second for one in self.overflowing for second in ([other[:], *other.overflowing])]
        joined.overflowing = rest + [self[:] + second for second in other.overflowing]
        return joined

    def with_type(self, type_id: int) -> Encoding:
        """The same with every token type replaced; the windows keep theirs, 0 or 1 (as in the library)."""
        changed = self[:]
        changed.type_ids = [type_id] * len(self)
        changed.overflowing = self.overflowing
        return changed

    def cut(self, length: int, stride: int, side: Side) -> Encoding:
        """At most `length` tokens; the rest in windows of the same length that share `stride` tokens with the last."""
        if len(self) <= length:
            return self
        if length == 0:
            return Encoding(overflowing=[self])
        first, *others = [self[start:stop] for start, stop in windows(len(self), length, stride, side)]
        first.overflowing = others
        return first

    def padded(self, length: int, token: str, number: int, type_id: int, side: Side) -> Encoding:
        """Filled up to `length` with a token that is not attended to, windows too."""
        missing = max(0, length - len(self))
        padding = Encoding.of_special(token, number, type_id, count=missing, attention=0)
        result = self[:] + padding if side == "right" else padding + self[:]
        result.overflowing = [window.padded(length, token, number, type_id, side) for window in self.overflowing]
        return result

    # Where is what? `None`: nowhere (blanks, special tokens). `sequence`: 0 or 1, the text of the pair.

    def _places(self, sequence: int) -> Iterator[int]:
        return (place for place, number in enumerate(self.sequence_ids) if number == sequence)

    def token_to_sequence(self, token: int) -> int | None:
        """The text (0 or 1) that the token at this place belongs to."""
        return self.sequence_ids[token] if 0 <= token < len(self) else None

    def token_to_chars(self, token: int) -> tuple[int, int] | None:
        """(start, stop) of the characters of a token."""
        return None if self.token_to_sequence(token) is None else self.offsets[token]

    def token_to_word(self, token: int) -> int | None:
        """The number of the token's word."""
        return None if self.token_to_sequence(token) is None else self.word_ids[token]

    def char_to_token(self, char: int, sequence: int = 0) -> int | None:
        """The first token that covers the character at this place."""
        covering = (
            place for place in self._places(sequence) if self.offsets[place][0] <= char < self.offsets[place][1]
        )
        return next(covering, None)

    def char_to_word(self, char: int, sequence: int = 0) -> int | None:
        """The number of the word that covers the character at this place."""
        token = self.char_to_token(char, sequence)
        return None if token is None else self.word_ids[token]

    def word_to_tokens(self, word: int, sequence: int = 0) -> tuple[int, int] | None:
        """(start, stop) of the tokens of a word."""
        places = [place for place in self._places(sequence) if self.word_ids[place] == word]
        return (places[0], places[-1] + 1) if places else None

    def word_to_chars(self, word: int, sequence: int = 0) -> tuple[int, int] | None:
        """(start, stop) of the characters of a word."""
        tokens = self.word_to_tokens(word, sequence)
        return None if tokens is None else (self.offsets[tokens[0]][0], self.offsets[tokens[1] - 1][1])


TOO_SHORT = "Truncation error: Sequence to truncate too short"  # the beginning is the library's

_COLUMNS = tuple(entry.name for entry in fields(Encoding) if entry.name != "overflowing")


def no_step(stride: int) -> str:
    """What is said where windows cannot move on."""
    return (
        f"stride={stride} leaves no step between windows (special tokens take room, and the other text of a pair); "
        "choose a smaller stride or a larger max_length"
    )


def windows(total: int, length: int, stride: int, side: Side) -> list[tuple[int, int]]:
    """(start, stop) of windows of `length` tokens over `total`, neighbours sharing `stride`, from the kept end on.

    A text cut on the right keeps its beginning, so the windows run from left to right; cut on the left, from right to
    left. The last window may be shorter.
    """
    step = length - stride
    if step < 1:
        raise ValueError(no_step(stride))
    found: list[tuple[int, int]] = []
    for offset in range(0, total, step):
        stop = min(offset + length, total)
        found.append((offset, stop) if side == "right" else (total - stop, total - offset))
        if stop == total:
            break
    return found


def longest_first(first: int, second: int, room: int) -> tuple[int, int]:
    """How many tokens each text of a pair keeps, of `room` in all, when the longer one gives way first.

    As if single tokens were dropped from the longer text. When both are down to half of the room, the first half goes
    to the shorter text and an odd token to the longer; of equally long texts the second gets it. (transformers' old
    Python tokenizers gave it to the first.)
    """
    shorter = min(first, second)
    kept = max(shorter, room - shorter) if shorter <= room else shorter
    if shorter + kept > room:
        shorter = room // 2
        kept = shorter + room % 2
    return (kept, shorter) if first > second else (shorter, kept)


def truncated(first: Encoding, second: Encoding | None, plan: dict[str, Any], added: int) -> list[Encoding]:
    """One text or a pair, cut so that `added` special tokens still fit. plan: max_length, stride, strategy, direction.

    Raises:
        ValueError: the one text that may be cut is too short to make room for the other.
    """
    room = plan["max_length"] - added
    stride, side = plan["stride"], plan["direction"]
    texts = [first] if second is None else [first, second]
    surplus = sum(map(len, texts)) - room
    if surplus <= 0:
        return texts
    if room == 0:
        lengths: tuple[int, ...] = (0,) * len(texts)
    elif plan["strategy"] == "longest_first":
        lengths = (room,) if second is None else longest_first(len(first), len(second), room)
    else:
        chosen = int(plan["strategy"] == "only_second")
        if len(texts[chosen]) <= surplus:
            raise ValueError(TOO_SHORT)
        lengths = tuple(len(text) - surplus * (place == chosen) for place, text in enumerate(texts))
    return [text.cut(length, stride, side) for text, length in zip(texts, lengths, strict=True)]
