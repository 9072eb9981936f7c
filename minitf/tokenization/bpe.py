"""GPT-2's tokenizer in plain Python, to be read and stepped through: `GPT2Tokenizer`.

Byte-level byte-pair encoding (Radford et al. 2019, section 2.2; openai/gpt-2, encoder.py; Sennrich et al. 2016):

1. `split_words`: cut the text with the published pattern. Words keep the blank before them: "Hello world" becomes
   "Hello", " world".
2. `bytes_to_unicode`: write each of a word's UTF-8 bytes as one visible character. A blank becomes "Ġ": "Ġworld".
   So 256 characters spell every text there is, and nothing is ever unknown.
3. `Merger`: join neighbours, always the pair that stands first in merges.txt, until no pair is left that stands there.

Every byte remembers the character of the text that it came from: the offsets of the pieces. `GPT2TokenizerFast`
(fast.py) gives the same ids and offsets.
"""

from __future__ import annotations

import heapq
import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from minitf.tokenization import characters
from minitf.tokenization.engine import Aligned, Piece, PythonEngine
from minitf.tokenization.gpt2 import RECIPE_FIELDS, GPT2TokenizerBase, warn_if_bytes_vanish
from minitf.tokenization.loading import python_engine
from minitf.tokenization.recipes import ByteLevelRecipe

MAXIMUM_CACHE = 2**16  # words whose pieces are remembered


@lru_cache(maxsize=1)
def bytes_to_unicode() -> dict[int, str]:
    """Byte (0 to 255) to the character that stands for it in vocab.json and merges.txt.

    The vocabulary files are text, one merge a line with a blank between the two parts, so no byte may be written as a
    blank, a line end or something invisible. The 188 bytes that are visible characters in Latin-1 stand for themselves;
    the other 68 get the characters from U+0100 on, in order: the blank, byte 32, is the 33rd of them, "Ġ" (U+0120).
    """
    visible = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    hidden = [byte for byte in range(256) if byte not in visible]
    return {byte: chr(byte) for byte in visible} | {byte: chr(256 + place) for place, byte in enumerate(hidden)}


@lru_cache(maxsize=1)
def unicode_to_bytes() -> dict[str, int]:
    """The way back: character to byte."""
    return {char: byte for byte, char in bytes_to_unicode().items()}


# The published pattern is
#   's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+
# Python's `re` knows no \p{L} (letters) and \p{N} (numbers). So it is not matched against the text, but against a text
# of the same length that holds the class of each character: L, N, O (others) and S (white space). The blank, the
# apostrophe and the eight letters of the contractions keep their own character, because the pattern asks for them.
_CONTRACTION_LETTERS = "strevmld"
_PATTERN = re.compile(rf"'s|'t|'re|'ve|'m|'ll|'d| ?[L{_CONTRACTION_LETTERS}]+| ?N+| ?[O']+|[S ]+(?![^S ])|[S ]+")


@lru_cache(maxsize=2**16)
def _character_class(char: str) -> str:
    if char in _CONTRACTION_LETTERS or char in " '":
        return char
    if characters.is_blank(char):
        return "S"
    category = unicodedata.category(char)[0]
    return category if category in "LN" else "O"


def split_words(text: str) -> list[tuple[int, int]]:
    """(start, stop) of the words of `text`: contractions, letters, numbers, other characters, blanks.

    A blank before a word belongs to it; of several blanks only the last does. Together the words are the whole text.
    """
    return [match.span() for match in _PATTERN.finditer("".join(map(_character_class, text)))]


class Merger:
    """Byte-pair encoding of one word. merges: pairs, the most frequent (to be joined first) first."""

    def __init__(self, merges: Sequence[tuple[str, str]]) -> None:
        self.ranks = {pair: rank for rank, pair in enumerate(merges)}

    def merge(self, symbols: Sequence[str]) -> list[str]:
        """Join the neighbours whose pair has the lowest rank (the leftmost of equals) until no pair has one.

        Looking at all pairs again after each step would take time that grows with the square of the word's length. So
        the candidates wait in a queue, and each merge only adds the two pairs that it made.
        """
        parts: list[str] = list(symbols)
        before, after = list(range(-1, len(parts) - 1)), [*range(1, len(parts)), -1]
        queue: list[tuple[int, int]] = []  # (rank of the pair, place of its left part)

        def propose(left: int) -> None:
            if left >= 0 and after[left] >= 0 and (pair := (parts[left], parts[after[left]])) in self.ranks:
                heapq.heappush(queue, (self.ranks[pair], left))

        for place in range(len(parts) - 1):
            propose(place)
        while queue:
            rank, left = heapq.heappop(queue)
            right = after[left]
            # Meanwhile one of the two may have been joined with another neighbour.
            if right < 0 or self.ranks.get((parts[left], parts[right])) != rank:
                continue
            parts[left] += parts[right]
            parts[right] = ""
            after[left] = after[right]
            if after[right] >= 0:
                before[after[right]] = left
            after[right] = -1
            propose(before[left])
            propose(left)
        return [part for part in parts if part]


class Cut(NamedTuple):
    """A piece of a word: its id, its token, and its bytes [start, stop) of the word."""

    id: int
    token: str
    start: int
    stop: int


class ByteLevelEngine(PythonEngine):
    """All three steps, with ids, and the way back."""

    def __init__(self, recipe: ByteLevelRecipe) -> None:
        super().__init__(recipe)
        self.recipe = recipe
        self.merger = Merger(recipe.merges)
        self._cache: dict[str, list[Cut]] = {}

    def normalize(self, text: str) -> Aligned:
        """GPT-2 has no clean-up: every text can be decoded back to itself."""
        return Aligned(text, range(len(text)))

    def split(self, aligned: Aligned) -> Iterator[list[Piece]]:
        if self.recipe.add_prefix_space and not aligned.text.startswith(" "):
            aligned = Aligned(" " + aligned.text, [aligned.origins[0], *aligned.origins])
        for start, stop in split_words(aligned.text):
            word, origins = aligned.part(start, stop)
            if not word.isascii():  # several bytes come from one character
                origins = [origin for char, origin in zip(word, origins, strict=True) for _ in char.encode("utf-8")]
            yield [Piece(cut.id, cut.token, origins[cut.start], origins[cut.stop - 1] + 1) for cut in self.cuts(word)]

    def cuts(self, word: str) -> list[Cut]:
        """The pieces of one word, with the bytes of the word that they stand for."""
        if word not in self._cache:
            if len(self._cache) >= MAXIMUM_CACHE:
                self._cache.clear()
            self._cache[word] = self._cut(word)
        return self._cache[word]

    def _cut(self, word: str) -> list[Cut]:
        symbols = [bytes_to_unicode()[byte] for byte in word.encode("utf-8")]
        cuts: list[Cut] = []
        start = 0
        for part in self.merger.merge(symbols):
            stop = start + len(part)
            token = part
            if part not in self.pieces and self.recipe.unk_token is not None:  # a byte that this vocabulary lacks
                token = self.recipe.unk_token
            if token in self.pieces:
                cuts.append(Cut(self.pieces[token], token, start, stop))
            start = stop
        return cuts

    def join(self, tokens: Sequence[str]) -> str:
        """Pieces to text: characters to bytes, all bytes together to UTF-8 (a character may be cut in two pieces)."""
        table = unicode_to_bytes()
        data = bytearray()
        for token in tokens:
            known = all(char in table for char in token)
            data += bytes(table[char] for char in token) if known else token.encode("utf-8")  # an added token
        return data.decode("utf-8", errors=self.recipe.errors)

    def settings(self) -> dict[str, Any]:
        return {"add_prefix_space": self.recipe.add_prefix_space, "errors": self.recipe.errors}


class GPT2Tokenizer(GPT2TokenizerBase):
    """GPT-2's tokenizer in plain Python; `GPT2TokenizerFast` does the same faster."""

    is_fast = False

    @classmethod
    def _engine_of_recipe(cls, recipe: ByteLevelRecipe) -> ByteLevelEngine:
        return ByteLevelEngine(recipe)

    @classmethod
    def _engine_of_json(cls, path: Path, text: str, stated: Mapping[str, Any]) -> PythonEngine:
        changes = {field: stated[name] for name, field in RECIPE_FIELDS.items() if name in stated}
        engine = python_engine(cls, ByteLevelRecipe, path, text, changes)
        warn_if_bytes_vanish(engine.vocabulary(added=False), engine.model_unk, str(path))
        return engine
