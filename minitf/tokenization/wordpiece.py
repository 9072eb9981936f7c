"""BERT's tokenizer in plain Python, to be read and stepped through: `BertTokenizer`.

A text goes through two steps (google-research/bert, tokenization.py; Schuster and Nakajima 2012, "Japanese and Korean
voice search"):

1. `BasicTokenizer`: clean the text, put blanks around CJK characters, strip accents, lower-case; then split at
   blanks and punctuation. "Héllo, 世界" becomes "hello", ",", "世", "界".
2. `WordpieceTokenizer`: cut each word into pieces of the vocabulary, from the left, always the longest that fits.
   Pieces inside a word start with "##": "tokenizer" becomes "token", "##izer". A word that cannot be spelt is "[UNK]".

Every character remembers the place in the original text that it came from: the offsets of the pieces.
`BertTokenizerFast` (fast.py) gives the same ids and offsets.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from minitf.tokenization import characters
from minitf.tokenization.arguments import strict_keywords
from minitf.tokenization.bert import RECIPE_FIELDS, BertTokenizerBase
from minitf.tokenization.engine import Aligned, Piece, PythonEngine
from minitf.tokenization.loading import python_engine
from minitf.tokenization.recipes import WordPieceRecipe

MAXIMUM_CACHE = 2**16  # words whose pieces are remembered

_WORDS = re.compile(
    f"[{characters.PUNCTUATION_PATTERN}]|[^{characters.PUNCTUATION_PATTERN}{characters.BLANK_PATTERN}]+"
)
_BETWEEN_BLANKS = re.compile(r"\S+")  # the words of `str.split`

# What decoding closes up, piece by piece: "fine ." becomes "fine."
_BLANKS_BEFORE = {
    " .": ".", " ?": "?", " !": "!", " ,": ",", " ' ": "'", " n't": "n't", " 'm": "'m",
    " do not": " don't", " 's": "'s", " 've": "'ve", " 're": "'re",
}  # fmt: skip


class BasicTokenizer:
    """Clean-up, and splitting at blanks and punctuation.

    do_lower_case: default True. never_split: words (between blanks) that are left as they are; default none.
    tokenize_chinese_chars: CJK characters are words of their own; default True. strip_accents: default None, as
    do_lower_case. do_split_on_punc: default True. clean_text: remove control characters; default True.
    """

    @strict_keywords
    def __init__(
        self,
        do_lower_case: bool = True,
        never_split: Collection[str] | None = None,
        tokenize_chinese_chars: bool = True,
        strip_accents: bool | None = None,
        do_split_on_punc: bool = True,
        *,
        clean_text: bool = True,
    ) -> None:
        self.do_lower_case = do_lower_case
        self.never_split = frozenset(never_split or ())
        self.tokenize_chinese_chars = tokenize_chinese_chars
        self.strip_accents = strip_accents
        self.do_split_on_punc = do_split_on_punc
        self.clean_text = clean_text
        self._forms = _Memory(self.form)
        self._spaced = _Memory(self._spaced_form)

    @strict_keywords
    def tokenize(self, text: str, never_split: Collection[str] | None = None) -> list[str]:
        """The words of `text`. never_split: further words for this call."""
        keep = self.never_split.union(never_split or ())
        return [word.text for word in self.words(self.normalize(text, keep), keep)]

    def form(self, char: str) -> str:
        """What becomes of one character: nothing, a blank, itself with blanks around, or its plain lower-case form."""
        return self._plain_form(self._spaced_form(char))

    def _spaced_form(self, char: str) -> str:
        if self.clean_text:
            if characters.is_control(char):
                return ""
            if characters.is_blank(char):
                return " "
        if self.tokenize_chinese_chars and characters.is_ideograph(char):
            return f" {char} "
        return char

    @property
    def _strips(self) -> bool:
        return self.do_lower_case if self.strip_accents is None else self.strip_accents

    def _plain_form(self, text: str) -> str:
        if self._strips:
            parts = "".join(map(characters.decomposed, text))
            text = "".join(char for char in parts if not characters.is_accent(char))
        return self._lowered(text)

    def _lowered(self, text: str) -> str:
        # Each character alone: Python lower-cases a "Σ" at the end of a word differently, which no BERT has seen.
        return "".join(char.lower() for char in text) if self.do_lower_case else text

    def normalize(self, text: str, never_split: Collection[str] = ()) -> Aligned:
        """The text as it will be split, and for each of its characters the place of the original one."""
        if never_split:
            return self._normalize_around(text, never_split)
        if self._strips and characters.has_fixed_order(text):
            return self._normalize_in_order(text)
        forms = [self._forms[char] for char in text]
        origins = [place for place, form in enumerate(forms) for _ in form]
        return Aligned("".join(forms), origins)

    def _normalize_in_order(self, text: str) -> Aligned:
        """The same for a text with combining characters that are no accents: taken apart as a whole, then stripped."""
        forms = [self._spaced[char] for char in text]
        origins = [place for place, form in enumerate(forms) for _ in form]
        parts, places = characters.decomposed_in_order("".join(forms))
        pairs = zip(parts, places, strict=True)
        lowered = [(self._lowered(char), origins[place]) for char, place in pairs if not characters.is_accent(char)]
        return Aligned("".join(form for form, _ in lowered), [place for form, place in lowered for _ in form])

    def _normalize_around(self, text: str, never_split: Collection[str]) -> Aligned:
        """The same, but words of `never_split` keep their accents and capitals."""
        forms = [self._spaced[char] for char in text]
        spaced = "".join(forms)
        kept = [match.span() for match in _BETWEEN_BLANKS.finditer(spaced) if match.group() in never_split]
        protected = {place for start, stop in kept for place in range(start, stop)}
        origins = [place for place, form in enumerate(forms) for _ in form]
        plain = [char if place in protected else self._plain_form(char) for place, char in enumerate(spaced)]
        places = [origins[place] for place, form in enumerate(plain) for _ in form]
        return Aligned("".join(plain), places)

    def words(self, aligned: Aligned, never_split: Collection[str] = ()) -> Iterator[Aligned]:
        """The normalized text split at blanks, and each punctuation character as a word of its own."""
        if not never_split and self.do_split_on_punc:
            for match in _WORDS.finditer(aligned.text):
                yield aligned.part(*match.span())
            return
        for match in _BETWEEN_BLANKS.finditer(aligned.text):
            word = aligned.part(*match.span())
            if not self.do_split_on_punc or word.text in never_split:
                yield word
            else:
                yield from (word.part(*part.span()) for part in _WORDS.finditer(word.text))


class _Memory(dict[str, str]):
    """What a function gave for each character so far."""

    def __init__(self, function: Callable[[str], str]) -> None:
        super().__init__()
        self.function = function

    def __missing__(self, char: str) -> str:
        self[char] = form = self.function(char)
        return form


class Cut(NamedTuple):
    """A piece of a word: its token, and its characters [start, stop)."""

    token: str
    start: int
    stop: int


class WordpieceTokenizer:
    """Greedy longest match. vocab: the pieces. max_input_chars_per_word: a longer word is `unk_token`; default 100."""

    @strict_keywords
    def __init__(
        self,
        vocab: Collection[str],
        unk_token: str = "[UNK]",
        max_input_chars_per_word: int = 100,
        *,
        prefix: str = "##",
    ) -> None:
        self.vocab = vocab
        self.unk_token = unk_token
        self.max_input_chars_per_word = max_input_chars_per_word
        self.prefix = prefix
        self._cache: dict[str, list[Cut]] = {}

    def tokenize(self, text: str) -> list[str]:
        """The pieces of all words of `text`, which blanks separate."""
        return [cut.token for match in _BETWEEN_BLANKS.finditer(text) for cut in self.cuts(match.group())]

    def cuts(self, word: str) -> list[Cut]:
        """The pieces of one word, with their places in it."""
        if word not in self._cache:
            if len(self._cache) >= MAXIMUM_CACHE:
                self._cache.clear()
            self._cache[word] = self._cut(word)
        return self._cache[word]

    def _cut(self, word: str) -> list[Cut]:
        whole = [Cut(self.unk_token, 0, len(word))]
        if len(word) > self.max_input_chars_per_word:
            return whole
        cuts: list[Cut] = []
        start = 0
        while start < len(word):
            for stop in range(len(word), start, -1):
                piece = word[start:stop] if start == 0 else self.prefix + word[start:stop]
                if piece in self.vocab:
                    break
            else:  # not even one character fits: the whole word is unknown, also the pieces found before
                return whole
            cuts.append(Cut(piece, start, stop))
            start = stop
        return cuts


class WordPieceEngine(PythonEngine):
    """Both steps, with ids, and the way back."""

    def __init__(self, recipe: WordPieceRecipe) -> None:
        super().__init__(recipe)
        self.recipe = recipe
        self.basic = BasicTokenizer(
            recipe.lower_case,
            recipe.never_split,
            recipe.chinese,
            recipe.strip_accents,
            clean_text=recipe.clean,
        )
        self.wordpiece = WordpieceTokenizer(self.pieces, recipe.unk_token, recipe.longest_word, prefix=recipe.prefix)

    def normalize(self, text: str) -> Aligned:
        if not self.recipe.basic:
            return Aligned(text, range(len(text)))
        return self.basic.normalize(text, self.basic.never_split)

    def split(self, aligned: Aligned) -> Iterator[list[Piece]]:
        keep = self.basic.never_split
        for word in self._words(aligned):
            if word.text in keep:
                number = self.pieces.get(word.text, self.pieces[self.recipe.unk_token])
                yield [Piece(number, word.text, *word.span(0, len(word.text)))]
                continue
            yield [
                Piece(self.pieces[cut.token], cut.token, *word.span(cut.start, cut.stop))
                for cut in self.wordpiece.cuts(word.text)
            ]

    def _words(self, aligned: Aligned) -> Iterator[Aligned]:
        if self.recipe.basic:
            return self.basic.words(aligned, self.basic.never_split)
        return (aligned.part(*match.span()) for match in _BETWEEN_BLANKS.finditer(aligned.text))

    def join(self, tokens: Sequence[str]) -> str:
        """Pieces to text: "##" continues a word, anything else starts one; blanks before punctuation go."""
        parts = []
        for place, token in enumerate(tokens):
            if place and token.startswith(self.recipe.prefix):
                part = token[len(self.recipe.prefix) :]
            else:
                part = f" {token}" if place else token
            for blank, closed in _BLANKS_BEFORE.items() if self.recipe.cleanup else ():
                part = part.replace(blank, closed)
            parts.append(part)
        return "".join(parts)

    def settings(self) -> dict[str, Any]:
        recipe = self.recipe
        found: dict[str, Any] = {
            "do_lower_case": recipe.lower_case,
            "strip_accents": recipe.strip_accents,
            "tokenize_chinese_chars": recipe.chinese,
        }
        if not recipe.basic:
            found["do_basic_tokenize"] = False
        if recipe.never_split:
            found["never_split"] = list(recipe.never_split)
        return found


class BertTokenizer(BertTokenizerBase):
    """BERT's tokenizer in plain Python; `BertTokenizerFast` does the same faster."""

    is_fast = False

    @classmethod
    def _engine_of_recipe(cls, recipe: WordPieceRecipe) -> WordPieceEngine:
        return WordPieceEngine(recipe)

    @classmethod
    def _engine_of_json(cls, path: Path, text: str, stated: Mapping[str, Any]) -> PythonEngine:
        changes = {field: stated[name] for name, field in RECIPE_FIELDS.items() if name in stated}
        return python_engine(cls, WordPieceRecipe, path, text, changes)
