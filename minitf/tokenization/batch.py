"""`BatchEncoding`: what a tokenizer returns, a mapping that goes straight into a model (`model(**encoding)`)."""

from __future__ import annotations

from collections import UserDict
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from minitf.tokenization.call import TENSOR_KINDS

if TYPE_CHECKING:
    import torch


class CharSpan(NamedTuple):
    """Characters [start, end) of a text."""

    start: int
    end: int


class TokenSpan(NamedTuple):
    """Tokens [start, end) of a row."""

    start: int
    end: int


class BatchEncoding(UserDict[str, Any]):
    """Names to lists, arrays or tensors: `input_ids`, `token_type_ids`, `attention_mask` and what else was asked for.

    For one text each value is a flat list of T integers; for B texts a list of B lists; with `return_tensors` one
    int64 array or tensor [B, T] (B = 1 for one text), `offset_mapping` [B, T, 2].

    Values are read by key or as attributes (`encoding.input_ids`), and the whole unpacks into a call (`**encoding`). An
    integer key gives the encoding of that row: an `Encoding` of minitf.tokenization.encoding, or, from a fast
    tokenizer, a `tokenizers.Encoding`, which has the same attributes. It may be changed like a dict
    (`encoding["labels"] = ...`).

    The methods that say where something is take the row first and then the place, or, for row 0, the place alone:
    `encoding.char_to_token(5)`, `encoding.char_to_token(2, 5)`. Characters and words are those of the first text of a
    pair unless `sequence_index=1`. They return None for what no token stands for, such as blanks.
    """

    def __init__(self, data: dict[str, Any] | None = None, encodings: Sequence[Any] | None = None) -> None:
        super().__init__(data or {})
        self._encodings = None if encodings is None else list(encodings)

    def __getitem__(self, key: str | int) -> Any:
        if isinstance(key, int):
            return self._encoding(key)
        if key not in self.data:
            raise KeyError(f"{key!r}: this encoding holds {', '.join(self.data) or 'nothing'}")
        return self.data[key]

    def __getattr__(self, name: str) -> Any:
        # Reached only for names that are no real attribute. `data` is missing while copy and pickle rebuild an object.
        data = self.__dict__.get("data", {})
        if name in data:
            return data[name]
        raise AttributeError(f"BatchEncoding has no {name!r}; it holds {', '.join(data) or 'nothing'}")

    @property
    def encodings(self) -> list[Any] | None:
        """The encoding of each row, or None for an object that no tokenizer made."""
        return self._encodings

    def _encoding(self, index: int) -> Any:
        if self._encodings is None:
            raise ValueError("this BatchEncoding was not made by a tokenizer: it knows no tokens or words, only values")
        if not -len(self._encodings) <= index < len(self._encodings):
            raise IndexError(f"text {index} asked for, but this encoding holds {len(self._encodings)} text(s)")
        return self._encodings[index]

    def tokens(self, batch_index: int = 0) -> list[str]:
        """The pieces of text `batch_index` (default 0), special and padding tokens included: T strings."""
        tokens: list[str] = self._encoding(batch_index).tokens
        return tokens

    def word_ids(self, batch_index: int = 0) -> list[int | None]:
        """For each token of text `batch_index` the number of the word it belongs to; None for special and padding
        tokens.
        """
        words: list[int | None] = self._encoding(batch_index).word_ids
        return words

    def sequence_ids(self, batch_index: int = 0) -> list[int | None]:
        """For each token 0 (first text of a pair), 1 (second text), or None for special and padding tokens."""
        sequences: list[int | None] = self._encoding(batch_index).sequence_ids
        return sequences

    @property
    def n_sequences(self) -> int | None:
        """1, or 2 for pairs; None for an object that no tokenizer made, or that holds no text."""
        if not self._encodings:
            return None
        return 1 + any(number == 1 for number in self._encodings[0].sequence_ids)

    def token_to_sequence(self, batch_or_token_index: int, token_index: int | None = None) -> int | None:
        """0 or 1: the text of the pair that a token belongs to; None for special and padding tokens."""
        row, token = self._row_and_token(batch_or_token_index, token_index)
        sequence: int | None = row.token_to_sequence(token)
        return sequence

    def token_to_chars(self, batch_or_token_index: int, token_index: int | None = None) -> CharSpan | None:
        """The characters of a token; None for special and padding tokens."""
        row, token = self._row_and_token(batch_or_token_index, token_index)
        span = row.token_to_chars(token)
        return None if span is None else CharSpan(*span)

    def token_to_word(self, batch_or_token_index: int, token_index: int | None = None) -> int | None:
        """The number of the word that a token belongs to; None for special and padding tokens."""
        row, token = self._row_and_token(batch_or_token_index, token_index)
        word: int | None = row.token_to_word(token)
        return word

    def char_to_token(
        self, batch_or_char_index: int, char_index: int | None = None, sequence_index: int = 0
    ) -> int | None:
        """The first token that stands for a character."""
        row, char = self._row_and_place(batch_or_char_index, char_index)
        token: int | None = row.char_to_token(char, sequence_index)
        return token

    def char_to_word(
        self, batch_or_char_index: int, char_index: int | None = None, sequence_index: int = 0
    ) -> int | None:
        """The number of the word that a character belongs to."""
        row, char = self._row_and_place(batch_or_char_index, char_index)
        word: int | None = row.char_to_word(char, sequence_index)
        return word

    def word_to_tokens(
        self, batch_or_word_index: int, word_index: int | None = None, sequence_index: int = 0
    ) -> TokenSpan | None:
        """The tokens of a word."""
        row, word = self._row_and_place(batch_or_word_index, word_index)
        span = row.word_to_tokens(word, sequence_index)
        return None if span is None else TokenSpan(*span)

    def word_to_chars(
        self, batch_or_word_index: int, word_index: int | None = None, sequence_index: int = 0
    ) -> CharSpan | None:
        """The characters of a word; None for a number that no word has."""
        row, word = self._row_and_place(batch_or_word_index, word_index)
        if row.word_to_tokens(word, sequence_index) is None:
            return None
        return CharSpan(*row.word_to_chars(word, sequence_index))

    def _row_and_place(self, first: int, second: int | None) -> tuple[Any, int]:
        row, place = (0, first) if second is None else (first, second)
        if place < 0:
            raise IndexError(f"place {place} asked for; places are counted from 0 on")
        return self._encoding(row), place

    def _row_and_token(self, first: int, second: int | None) -> tuple[Any, int]:
        row, token = (0, first) if second is None else (first, second)
        encoding = self._encoding(row)
        if not -len(encoding.ids) <= token < len(encoding.ids):
            raise IndexError(f"token {token} asked for, but the row has {len(encoding.ids)}")
        return encoding, token % len(encoding.ids)

    def convert_to_tensors(self, tensor_type: str | None = None) -> BatchEncoding:
        """Make int64 arrays ("np") or tensors ("pt") of the lists, in place, and return self; None changes nothing.

        Raises ValueError for an unknown kind and for rows of different lengths.
        """
        if tensor_type is not None:
            flat = {name: value for name, value in self.data.items() if not _is_nested(value) and _is_row(name)}
            self.data.update(to_arrays(self.data | {name: [value] for name, value in flat.items()}, tensor_type))
        return self

    def to(self, device: str | torch.device | int) -> BatchEncoding:
        """Move every tensor to `device`, in place, and return self.

        Raises TypeError when there is no tensor in it, because then nothing would move.
        """
        import torch

        tensors = {name: value for name, value in self.data.items() if isinstance(value, torch.Tensor)}
        if not tensors:
            raise TypeError(
                "this encoding holds lists, not tensors: tokenize with return_tensors='pt', then .to(device)"
            )
        self.data.update({name: value.to(device) for name, value in tensors.items()})
        return self


def to_arrays(columns: dict[str, list[Any]], kind: str) -> dict[str, Any]:
    """Lists of B equally long rows to int64 arrays ("np") or tensors ("pt"), [B, T] each; no rows give [0, 0].

    Other columns (lengths, labels) keep their shape; fractions become float64.

    Raises ValueError for an unknown kind and for rows of different lengths.
    """
    if kind not in TENSOR_KINDS:
        raise ValueError(f"return_tensors={kind!r} is not known; expected 'pt' (torch), 'np' (numpy) or None (lists)")
    import numpy as np

    lengths = sorted({len(row) for row in columns["input_ids"]})
    if len(lengths) > 1:
        raise ValueError(
            f"texts of different lengths ({lengths[0]} to {lengths[-1]} tokens) do not fit into one tensor: "
            "pass padding=True (and truncation=True to cap the length), or leave return_tensors out"
        )
    length = lengths[0] if lengths else 0
    arrays = {}
    for name, rows in columns.items():
        try:
            array = np.array(rows)
        except ValueError:
            raise ValueError(
                f"{name} has rows of different lengths, which do not fit into one tensor: make them equally long, or "
                "leave return_tensors out"
            ) from None
        if _is_row(name):
            array = array.reshape((len(rows), length, 2) if name == "offset_mapping" else (len(rows), length))
        arrays[name] = array if array.dtype.kind == "f" and array.size else array.astype(np.int64)
    if kind == "np":
        return arrays
    import torch

    return {name: torch.from_numpy(array) for name, array in arrays.items()}


def _is_row(name: str) -> bool:
    """Whether the column has a row of T values for each text."""
    return name in ("input_ids", "token_type_ids", "attention_mask", "special_tokens_mask", "offset_mapping")


def _is_nested(value: Any) -> bool:
    return isinstance(value, list | tuple) and bool(value) and isinstance(value[0], list)
