"""What one tokenizer call asks for: the texts in one form, and its padding and truncation, checked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from minitf.tokenization.options import UNKNOWN_LENGTH, checked

PADDING = ("longest", "max_length", "do_not_pad")
TRUNCATION = ("longest_first", "only_first", "only_second", "do_not_truncate")


class Settings(Protocol):
    """The attributes of a tokenizer that a plan depends on."""

    model_max_length: int
    pad_token_type_id: int

    @property
    def padding_side(self) -> Any: ...
    @property
    def truncation_side(self) -> Any: ...
    @property
    def pad_token(self) -> str | None: ...
    @property
    def pad_token_id(self) -> int | None: ...


@dataclass(frozen=True)
class Plan:
    """Keywords for `Tokenizer.enable_truncation` and `enable_padding`; None where there is none."""

    truncation: dict[str, Any] | None
    padding: dict[str, Any] | None


def _checked_text(value: Any, where: str) -> str:
    if not isinstance(value, str):
        remedy = "; pass a list (`.tolist()`)" if hasattr(value, "tolist") else ""
        raise TypeError(f"{where} is of type {type(value).__name__}, expected str{remedy}")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        raise ValueError(
            f"{where} holds half a surrogate pair (U+{ord(value[error.start]):04X} at character {error.start}), which "
            "is no "
            "Unicode text: decode its source with errors='replace'"
        ) from None
    return str(value)


def pair_up(text: Any, text_pair: Any) -> tuple[list[str | tuple[str, str]], bool]:
    """(texts or pairs as a list, whether a list was given). TypeError or ValueError that says which element is
    wrong.
    """
    if not isinstance(text, list | tuple):
        first = _checked_text(text, "text")
        if text_pair is None or text_pair == "":
            return [first], False
        if isinstance(text_pair, list | tuple):
            raise TypeError("text is one str but text_pair is a list; expected one str for both, or two lists")
        return [(first, _checked_text(text_pair, "text_pair"))], False
    if text_pair is None:
        return [_single_or_pair(item, index) for index, item in enumerate(text)], True
    if not isinstance(text_pair, list | tuple):
        raise TypeError(
            f"text is a list but text_pair is of type {type(text_pair).__name__}; expected a list of {len(text)} texts"
        )
    if len(text) != len(text_pair):
        raise ValueError(f"text has {len(text)} elements and text_pair {len(text_pair)}; expected as many of both")
    pairs = enumerate(zip(text, text_pair, strict=True))
    return [(_checked_text(a, f"text[{i}]"), _checked_text(b, f"text_pair[{i}]")) for i, (a, b) in pairs], True


def _single_or_pair(item: Any, index: int) -> str | tuple[str, str]:
    if isinstance(item, tuple) and len(item) == 2:
        return _checked_text(item[0], f"text[{index}][0]"), _checked_text(item[1], f"text[{index}][1]")
    if isinstance(item, Sequence) and not isinstance(item, str):
        raise TypeError(f"text[{index}] is of type {type(item).__name__}, expected a str, or a tuple of two for a pair")
    return _checked_text(item, f"text[{index}]")


def _choice(name: str, value: Any, default: str, off: str, known: tuple[str, ...]) -> str:
    if value is True:
        return default
    if value is False or value is None:
        return off
    if value not in known:
        raise ValueError(f"{name}={value!r} is not known; expected True, False or one of {', '.join(map(repr, known))}")
    return str(value)


def _positive(name: str, value: Any) -> None:
    if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
        raise ValueError(f"{name} is {value!r}, expected an integer of 1 or more")


def make_plan(
    settings: Settings,
    *,
    padding: Any,
    truncation: Any,
    max_length: int | None,
    pad_to_multiple_of: int | None,
    padding_side: Any,
    least: int,
    all_pairs: bool,
) -> Plan:
    """Check the options of a call against each other and against the tokenizer.

    least: special tokens that will be added at most. all_pairs: every text has a second one.
    Raises ValueError for unknown values, options that would have no effect, a length that is not known or too small.
    """
    pad = _choice("padding", padding, "longest", "do_not_pad", PADDING)
    cut = _choice("truncation", truncation, "longest_first", "do_not_truncate", TRUNCATION)
    pads, cuts = pad != "do_not_pad", cut != "do_not_truncate"
    _positive("max_length", max_length)
    _positive("pad_to_multiple_of", pad_to_multiple_of)
    side = settings.padding_side if padding_side is None else checked("padding_side", padding_side, "tokenizer call")
    if max_length is not None and not cuts and pad != "max_length":
        raise ValueError(
            f"max_length={max_length} has no effect without truncation=True or padding='max_length': add one of them"
        )
    for name, value in (("pad_to_multiple_of", pad_to_multiple_of), ("padding_side", padding_side)):
        if value is not None and not pads:
            raise ValueError(
                f"{name}={value!r} has no effect without padding: add padding=True or padding='max_length'"
            )
    length = settings.model_max_length if max_length is None else max_length
    if length >= UNKNOWN_LENGTH and (cuts or pad == "max_length"):
        reason = f"truncation={truncation!r}" if cuts else f"padding={padding!r}"
        raise ValueError(f"{reason} needs a length, and this tokenizer knows no model_max_length: pass max_length=...")
    if cuts and length < least:
        raise ValueError(f"max_length={length} leaves no room for the {least} special tokens; expected {least} or more")
    if cut == "only_second" and not all_pairs:
        raise ValueError(
            "truncation='only_second' needs a second text for every text: pass text_pair, or use truncation=True"
        )
    if pads and settings.pad_token is None:
        raise ValueError(
            "padding needs a pad token and this tokenizer has none: set tokenizer.pad_token to one of its tokens"
        )
    if cuts and pads and pad_to_multiple_of is not None and length % pad_to_multiple_of:
        raise ValueError(
            f"truncation to max_length={length} does not fit pad_to_multiple_of={pad_to_multiple_of}; choose a "
            "multiple of it"
        )
    return Plan(
        truncation={"max_length": length, "strategy": cut, "direction": settings.truncation_side} if cuts else None,
        padding={
            "length": length if pad == "max_length" else None,
            "direction": side,
            "pad_id": settings.pad_token_id,
            "pad_token": settings.pad_token,
            "pad_type_id": settings.pad_token_type_id,
            "pad_to_multiple_of": pad_to_multiple_of,
        }
        if pads
        else None,
    )
