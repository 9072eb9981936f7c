"""`BatchEncoding`: what a tokenizer returns, a mapping that goes straight into a model (`model(**encoding)`)."""

from __future__ import annotations

from collections import UserDict
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from tokenizers import Encoding

TENSOR_KINDS = ("pt", "np")


class BatchEncoding(UserDict[str, Any]):
    """Names to lists, arrays or tensors: `input_ids`, `token_type_ids`, `attention_mask` and what else was asked for.

    For one text each value is a flat list of T integers; for B texts a list of B lists; with `return_tensors` one
    int64 array or tensor [B, T] (B = 1 for one text), `offset_mapping` [B, T, 2].

    Values are read by key or as attributes (`encoding.input_ids`), and the whole unpacks into a call (`**encoding`). An
    integer key gives the `tokenizers.Encoding` of that text. It may be changed like a dict (`encoding["labels"] =
    ...`).
    """

    def __init__(self, data: dict[str, Any] | None = None, encodings: Sequence[Encoding] | None = None) -> None:
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
    def encodings(self) -> list[Encoding] | None:
        """The `tokenizers.Encoding` of each text, or None for an object that no tokenizer made."""
        return self._encodings

    def _encoding(self, index: int) -> Encoding:
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
        shape = (len(rows), length, 2) if name == "offset_mapping" else (len(rows), length)
        arrays[name] = np.array(rows, dtype=np.int64).reshape(shape)
    if kind == "np":
        return arrays
    import torch

    return {name: torch.from_numpy(array) for name, array in arrays.items()}
