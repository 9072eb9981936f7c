"""What every public tokenizer function shares: a marker for "not given", and errors for keywords that do not exist."""

from __future__ import annotations

import enum

from minitf.keywords import strict_keywords

__all__ = ["UNSET", "Unset", "strict_keywords"]


class Unset(enum.Enum):
    """The default of options for which None is a value of its own (`pad_token=None`: this tokenizer has none)."""

    UNSET = "not given"

    def __repr__(self) -> str:
        return "<not given>"


UNSET = Unset.UNSET
