"""What a tokenizer has inside: an `Engine` turns texts into encodings and ids into text.

There are two kinds. `PythonEngine`, below, is written out in plain Python, to be read and stepped through: a family of
tokenizers adds how a text is normalized and split into words (wordpiece.py, bpe.py). `FastEngine` (fast.py) hands the
same work to the `tokenizers` library. Both give the same ids, offsets, masks and texts.
"""

from __future__ import annotations

import copy
import re
import unicodedata
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

from tokenizers import AddedToken

from minitf.tokenization.call import Plan
from minitf.tokenization.characters import is_blank
from minitf.tokenization.encoding import Encoding, truncated
from minitf.tokenization.recipes import ByteLevelRecipe, WordPieceRecipe, processor_of
from minitf.tokenization.template import PLAIN, Template

# One input: a text, or its words if the caller has split it; or two of them.
Text: TypeAlias = "str | Sequence[str]"
Input: TypeAlias = "Text | tuple[Text, Text]"


class Piece(NamedTuple):
    """A token and the characters [start, stop) of the text that it stands for."""

    id: int
    token: str
    start: int
    stop: int


class Engine(ABC):
    """The part of a tokenizer that differs between plain Python and the `tokenizers` library."""

    @abstractmethod
    def token_to_id(self, token: str) -> int | None:
        """The id of a token, added ones included; None if there is no such token."""

    @abstractmethod
    def id_to_token(self, number: int) -> str | None:
        """The token of an id; None if there is none."""

    @abstractmethod
    def size(self, *, added: bool) -> int:
        """The number of tokens, with or without those that were added to the vocabulary."""

    @abstractmethod
    def vocabulary(self, *, added: bool) -> dict[str, int]:
        """A new dict from token to id."""

    @abstractmethod
    def added_tokens(self) -> dict[int, AddedToken]:
        """Id to token, for the tokens that are found in a text before it is split."""

    @abstractmethod
    def add(self, tokens: Sequence[AddedToken]) -> None:
        """Find these tokens in texts from now on; those that the vocabulary lacks get the next free ids."""

    @property
    @abstractmethod
    def template(self) -> Template | None:
        """What is put around texts; None if a tokenizer.json says it in a way that only the library understands."""

    @template.setter
    @abstractmethod
    def template(self, template: Template) -> None: ...

    @abstractmethod
    def added(self, pair: bool) -> int:
        """How many special tokens are put around one text or a pair."""

    @abstractmethod
    def encode(
        self, inputs: Sequence[Input], plan: Plan, *, special: bool, words: bool, split_special: bool
    ) -> Sequence[Any]:
        """Encodings of texts or pairs, truncated and padded.

        special: put special tokens around them. words: each text is a list of words. split_special: special tokens
        inside a text are text.
        """

    @abstractmethod
    def decode(self, ids: Sequence[int], *, skip_special: bool) -> str:
        """Text of ids that all exist."""

    @abstractmethod
    def join(self, tokens: Sequence[str]) -> str:
        """Text of tokens."""

    @property
    @abstractmethod
    def model_unk(self) -> str | None:
        """The token for words that the model cannot spell; None if it can spell everything."""

    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """What tokenizer_config.json says of it: the options in force."""

    @abstractmethod
    def files(self) -> dict[str, str]:
        """Names and contents of the classic vocabulary files; {} if the model has none."""

    @abstractmethod
    def tokenizer_json(self) -> str | None:
        """The content of a tokenizer.json that does the same; None if there can be none."""


class Aligned(NamedTuple):
    """A normalized text, and for each of its characters the place of the original character that it came from."""

    text: str
    origins: Sequence[int]

    def part(self, start: int, stop: int) -> Aligned:
        return Aligned(self.text[start:stop], self.origins[start:stop])

    def span(self, start: int, stop: int) -> tuple[int, int]:
        """Original (start, stop) of the normalized characters [start, stop), of which there is at least one."""
        return self.origins[start], self.origins[stop - 1] + 1


class PythonEngine(Engine):
    """Text to words to pieces to ids, in plain Python. A family gives `normalize`, `split`, `join` and `settings`."""

    def __init__(self, recipe: WordPieceRecipe | ByteLevelRecipe) -> None:
        self.pieces = dict(recipe.vocabulary)
        self._made_of = recipe
        self._ids = dict(self.pieces)
        self._tokens = {number: token for token, number in self._ids.items()}
        self._added: dict[int, AddedToken] = {}
        self._finders: dict[bool, tuple[_Finder, _Finder]] = {}
        self._template = PLAIN

    def normalize(self, text: str) -> Aligned:
        """Clean-up before the text is split, with origins counted from 0. Of the family."""
        raise NotImplementedError(f"{type(self).__name__} does not say how a text is cleaned up.")

    def split(self, aligned: Aligned) -> Iterator[list[Piece]]:
        """The words of a normalized text, each cut into pieces of the vocabulary. Of the family."""
        raise NotImplementedError

    def join(self, tokens: Sequence[str]) -> str:
        """Of the family."""
        raise NotImplementedError

    def settings(self) -> dict[str, Any]:
        """Of the family."""
        raise NotImplementedError

    # Vocabulary

    def token_to_id(self, token: str) -> int | None:
        return self._ids.get(token)

    def id_to_token(self, number: int) -> str | None:
        return self._tokens.get(number)

    def size(self, *, added: bool) -> int:
        return len(self._ids if added else self.pieces)

    def vocabulary(self, *, added: bool) -> dict[str, int]:
        return dict(self._ids if added else self.pieces)

    def added_tokens(self) -> dict[int, AddedToken]:
        return dict(sorted(self._added.items()))

    def add(self, tokens: Sequence[AddedToken]) -> None:
        for token in tokens:
            number = self._ids.setdefault(token.content, len(self._ids))
            self._tokens[number] = token.content
            self._added[number] = copy.copy(token)
        self._finders.clear()

    @property
    def template(self) -> Template | None:
        return self._template

    @template.setter
    def template(self, template: Template) -> None:
        self._template = template

    def added(self, pair: bool) -> int:
        return self._template.added(pair)

    # Text to ids

    def encode(
        self, inputs: Sequence[Input], plan: Plan, *, special: bool, words: bool, split_special: bool
    ) -> Sequence[Encoding]:
        made = [self._encode(one, plan, special, words, split_special) for one in inputs]
        if plan.padding is None:
            return made
        length = plan.padding["length"] or max(map(len, made), default=0)
        multiple = plan.padding["pad_to_multiple_of"] or 1
        length = -(-length // multiple) * multiple  # rounded up
        token, number, type_id = (plan.padding[name] for name in ("pad_token", "pad_id", "pad_type_id"))
        return [encoding.padded(length, token, number, type_id, plan.padding["direction"]) for encoding in made]

    def _encode(self, one: Input, plan: Plan, special: bool, words: bool, split_special: bool) -> Encoding:
        texts: Sequence[Text] = one if isinstance(one, tuple) else (one,)
        pair = len(texts) == 2
        parts = [
            Encoding.of_words(self._numbered(text, words, split_special), sequence)
            for sequence, text in enumerate(texts)
        ]
        if plan.truncation is not None:
            added = self._template.added(pair) if special else 0
            parts = truncated(parts[0], parts[1] if pair else None, plan.truncation, added)
        result = Encoding()
        for slot in self._template.slots(pair):
            if slot.token is None:
                result = result + parts[slot.sequence].with_type(slot.type_id)
            elif special:
                result = result + Encoding.of_special(slot.token, slot.id, slot.type_id)
        return result

    def _numbered(self, text: Text, words: bool, split_special: bool) -> Iterator[tuple[int, list[Piece]]]:
        """(number of the word, its pieces). For a text that the caller has split, his words are counted."""
        if not words:
            yield from enumerate(self.words(str(text), split_special=split_special))
            return
        for number, word in enumerate(text):
            for pieces in self.words(word, split_special=split_special):
                yield number, pieces

    def words(self, text: str, *, split_special: bool = False) -> Iterator[list[Piece]]:
        """The words of a text, each as a list of pieces with their places in the text.

        Added tokens are found first: those that are matched literally in the raw text, the others after normalization
        (of both). What lies between them is split into words.
        """
        literal, normalized = self._finders_of(split_special)
        for start, stop, number in literal.find(text):
            if number is not None:
                yield [Piece(number, text[start:stop], start, stop)]
                continue
            part = self.normalize(text[start:stop])
            aligned = Aligned(part.text, [start + origin for origin in part.origins] if start else part.origins)
            for begin, end, inner in normalized.find(aligned.text):
                if inner is None:
                    yield from self.split(aligned.part(begin, end))
                else:
                    yield [Piece(inner, aligned.text[begin:end], *aligned.span(begin, end))]

    def _finders_of(self, split_special: bool) -> tuple[_Finder, _Finder]:
        """For added tokens matched literally, and for those matched in the normalized text."""
        if split_special not in self._finders:
            tokens = {n: token for n, token in self._added.items() if not (token.special and split_special)}
            literal = {token.content: (n, token) for n, token in tokens.items() if not token.normalized}
            normalized: dict[str, tuple[int, AddedToken]] = {}
            for n, token in sorted(tokens.items(), key=lambda item: not item[1].special):
                if token.normalized:  # of two that become the same the first counts
                    normalized.setdefault(self.normalize(token.content).text, (n, token))
            self._finders[split_special] = _Finder(literal), _Finder(normalized)
        return self._finders[split_special]

    # Ids to text

    def decode(self, ids: Sequence[int], *, skip_special: bool) -> str:
        special = {number for number, token in self._added.items() if token.special} if skip_special else set()
        return self.join([self._tokens[number] for number in ids if number not in special])

    @property
    def model_unk(self) -> str | None:
        return self._made_of.unk_token

    # Files

    def files(self) -> dict[str, str]:
        return self._made_of.files()

    def tokenizer_json(self) -> str | None:
        backend = self._made_of.backend()
        if backend is None:
            return None
        for token in self.added_tokens().values():
            (backend.add_special_tokens if token.special else backend.add_tokens)([token])
        backend.post_processor = processor_of(self._template)
        return str(backend.to_str(pretty=True))


class _Finder:
    """Finds added tokens in a text: from left to right, the longest where several begin at one place."""

    def __init__(self, tokens: Mapping[str, tuple[int, AddedToken]]) -> None:
        self.tokens = tokens
        contents = sorted(filter(None, tokens), key=len, reverse=True)
        self.pattern = re.compile("|".join(map(re.escape, contents))) if contents else None

    def find(self, text: str) -> Iterator[tuple[int, int, int | None]]:
        """(start, stop, id of the token, or None for the text between tokens), nothing empty."""
        done = 0
        for match in self.pattern.finditer(text) if self.pattern else ():
            number, token = self.tokens[match.group()]
            start, stop = match.span()
            if token.single_word and (_is_word_char(text[start - 1 : start]) or _is_word_char(text[stop : stop + 1])):
                continue
            while token.lstrip and start > done and is_blank(text[start - 1]):
                start -= 1
            while token.rstrip and stop < len(text) and is_blank(text[stop]):
                stop += 1
            if done < start:
                yield done, start, None
            yield start, stop, number
            done = stop
        if done < len(text):
            yield done, len(text), None


def _is_word_char(char: str) -> bool:
    """What `\\w` means to the library: letters, marks, digits, connecting punctuation, joiners. Not the empty text."""
    if not char:
        return False
    category = unicodedata.category(char)
    return category[0] in "LM" or category in ("Nd", "Nl", "Pc") or char in "\u200c\u200d"
