"""What one tokenizer call asks for: the texts in one form, and its padding and truncation, checked."""

from __future__ import annotations

import logging
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Protocol

from minitf.tokenization.options import UNKNOWN_LENGTH, checked

TENSOR_KINDS = ("pt", "np")

logger = logging.getLogger("minitf.tokenization")

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
    def num_special_tokens_to_add(self, pair: bool = False) -> int: ...


@dataclass(frozen=True)
class Plan:
    """Keywords for `Tokenizer.enable_truncation` and `enable_padding`; None where there is none."""

    truncation: dict[str, Any] | None
    padding: dict[str, Any] | None


_OF_WORDS = "for texts that are split into words pass is_split_into_words=True"
_OF_PAIRS = "a pair is a tuple of two lists of words, or use text_pair"


def _checked_text(value: Any, where: str, nested: str = _OF_WORDS) -> str:
    if not isinstance(value, str):
        remedy = "; pass a list (`.tolist()`)" if hasattr(value, "tolist") else ""
        if isinstance(value, list | tuple):
            remedy = f"; {nested}"
        raise TypeError(f"{where} is of type {type(value).__name__}, expected str{remedy}")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        raise ValueError(
            f"{where} holds half a surrogate pair (U+{ord(value[error.start]):04X} at character {error.start}), which "
            "is no Unicode text: decode its source with errors='replace'"
        ) from None
    return str(value)


def _checked_words(value: Any, where: str) -> list[str]:
    if not isinstance(value, list | tuple):
        remedy = "; a plain str needs no is_split_into_words" if isinstance(value, str) else ""
        raise TypeError(f"{where} is of type {type(value).__name__}, expected a list of words{remedy}")
    return [_checked_text(word, f"{where}[{index}]", _OF_PAIRS) for index, word in enumerate(value)]


def pair_up(text: Any, text_pair: Any, words: bool = False) -> tuple[list[Any], bool]:
    """(texts or pairs as a list, whether several were given). words: each text is a list of words.

    TypeError or ValueError that says which element is wrong.
    """
    check = _checked_words if words else _checked_text
    several = isinstance(text, list | tuple) and (not words or (bool(text) and isinstance(text[0], list | tuple)))
    if not several:
        first = check(text, "text")
        if text_pair is None:
            return [first], False
        if isinstance(text_pair, list | tuple) and not words:
            raise TypeError("text is one str but text_pair is a list; expected one str for both, or two lists")
        second = check(text_pair, "text_pair")
        return [(first, second) if second else first], False
    if text_pair is None:
        return [_single_or_pair(item, index, words) for index, item in enumerate(text)], True
    if not isinstance(text_pair, list | tuple):
        raise TypeError(
            f"text is a list but text_pair is of type {type(text_pair).__name__}; expected a list of {len(text)} texts"
        )
    if len(text) != len(text_pair):
        raise ValueError(f"text has {len(text)} elements and text_pair {len(text_pair)}; expected as many of both")
    pairs = enumerate(zip(text, text_pair, strict=True))
    return [(check(a, f"text[{i}]"), check(b, f"text_pair[{i}]")) for i, (a, b) in pairs], True


def _single_or_pair(item: Any, index: int, words: bool) -> Any:
    check = _checked_words if words else _checked_text
    if isinstance(item, tuple) and len(item) == 2 and (not words or not isinstance(item[0], str)):
        return check(item[0], f"text[{index}][0]"), check(item[1], f"text[{index}][1]")
    if not words and isinstance(item, Sequence) and not isinstance(item, str):
        raise TypeError(
            f"text[{index}] is of type {type(item).__name__}, expected a str, or a tuple of two for a pair (for texts "
            "that are split into words: is_split_into_words=True)"
        )
    return check(item, f"text[{index}]")


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


@dataclass(frozen=True)
class Request:
    """The options of one call, those of a tokenizer's `__call__`, with the old names already taken into account."""

    add_special_tokens: bool = True
    padding: Any = False
    truncation: Any = False
    max_length: int | None = None
    stride: int = 0
    words: bool = False
    pad_to_multiple_of: int | None = None
    padding_side: Any = None
    return_tensors: str | None = None
    return_token_type_ids: bool | None = None
    return_attention_mask: bool | None = None
    return_overflowing_tokens: bool = False
    return_special_tokens_mask: bool = False
    return_offsets_mapping: bool = False
    return_length: bool = False
    split_special_tokens: bool | None = None
    verbose: bool = True

    @staticmethod
    def of(arguments: Mapping[str, Any]) -> Request:
        """From the arguments of a public method (other names are passed over: its texts, and `self`).

        The names of transformers 2, which old tutorials use, count too, each with a note in the log:
        `pad_to_max_length=True` is padding="max_length", `truncation_strategy="longest_first"` is truncation of that
        name, `is_pretokenized` is `is_split_into_words`. Raises ValueError if old and new disagree, and for an unknown
        `return_tensors`.
        """
        names = {entry.name for entry in fields(Request)}
        options = {name: value for name, value in arguments.items() if name in names}
        options["words"] = arguments.get("is_split_into_words", False)
        _check_kinds(options)
        old = {name: arguments[name] for name in _OLD_NAMES if arguments.get(name) is not None}
        for name, value in old.items():
            new, meant = _OLD_NAMES[name](value)
            given = options[new]
            if given is True and new == "truncation" and meant != "do_not_truncate":
                given = meant
            if given not in (False, None, meant):
                raise ValueError(
                    f"{name}={value!r} means {_shown(new)}={meant!r}, but {_shown(new)}={given!r} is given: leave "
                    f"{name} out"
                )
            options[new] = meant
            if name not in _noted:
                _noted.add(name)
                logger.warning("%s is the old name of an option: taken as %s=%r", name, _shown(new), meant)
        kind = options.get("return_tensors")
        if kind not in (None, *TENSOR_KINDS):
            raise ValueError(
                f"return_tensors={kind!r} is not known; expected 'pt' (torch), 'np' (numpy) or None (lists)"
            )
        return Request(**options)


def _check_kinds(options: dict[str, Any]) -> None:
    """TypeError for a switch that is neither true nor false; whole numbers of any kind (numpy's) become int."""
    for name in _SWITCHES & options.keys():
        switch = options[name]
        if not isinstance(switch, bool) and not (switch is None and name in _THREE_WAY):
            expected = "True, False or None" if name in _THREE_WAY else "True or False"
            raise TypeError(f"{_shown(name)} is {switch!r}, expected {expected}")
    for name in ("max_length", "stride", "pad_to_multiple_of"):
        value: Any = options.get(name)
        if hasattr(value, "__index__") and not isinstance(value, bool):
            options[name] = operator.index(value)


def _shown(name: str) -> str:
    return "is_split_into_words" if name == "words" else name


_THREE_WAY = {"return_token_type_ids", "return_attention_mask", "split_special_tokens"}
_SWITCHES = _THREE_WAY | {
    "add_special_tokens",
    "words",
    "return_overflowing_tokens",
    "return_special_tokens_mask",
    "return_offsets_mapping",
    "return_length",
    "verbose",
}

# Old name -> function from its value to the new name (a field of Request) and value.
_OLD_NAMES: dict[str, Callable[[Any], tuple[str, Any]]] = {
    "pad_to_max_length": lambda value: ("padding", "max_length" if value else False),
    "truncation_strategy": lambda value: (
        "truncation",
        _choice("truncation_strategy", value, "longest_first", "do_not_truncate", TRUNCATION),
    ),
    "is_pretokenized": lambda value: ("words", bool(value)),
}
_noted: set[str] = set()  # old names that were used and reported


def make_plan(settings: Settings, request: Request, *, least: int, all_pairs: bool) -> Plan:
    """Check the options of a call against each other and against the tokenizer.

    least: special tokens that will be added at most. all_pairs: every text has a second one.
    Raises ValueError for unknown values, options that would have no effect, a length that is not known or too small.
    """
    pad = _choice("padding", request.padding, "longest", "do_not_pad", PADDING)
    cut = _choice("truncation", request.truncation, "longest_first", "do_not_truncate", TRUNCATION)
    pads, cuts = pad != "do_not_pad", cut != "do_not_truncate"
    multiple = request.pad_to_multiple_of
    _positive("max_length", request.max_length)
    _positive("pad_to_multiple_of", multiple)
    _check_effects(request, pad, cuts)
    length = settings.model_max_length if request.max_length is None else request.max_length
    if length >= UNKNOWN_LENGTH and (cuts or pad == "max_length"):
        reason = f"truncation={request.truncation!r}" if cuts else f"padding={request.padding!r}"
        raise ValueError(f"{reason} needs a length, and this tokenizer knows no model_max_length: pass max_length=...")
    if cuts and length < least:
        raise ValueError(f"max_length={length} leaves no room for the {least} special tokens; expected {least} or more")
    # The library counts the special tokens here even if none are added.
    room = length - max(least, settings.num_special_tokens_to_add())
    if request.stride and request.stride >= room:
        raise ValueError(
            f"stride={request.stride} leaves no step: a window has {room} tokens beside the special ones; "
            "choose a smaller stride or a larger max_length"
        )
    if cut == "only_second" and not all_pairs:
        raise ValueError(
            "truncation='only_second' needs a second text for every text: pass text_pair, or use truncation=True"
        )
    if pads and settings.pad_token is None:
        raise ValueError(
            "padding needs a pad token and this tokenizer has none: set tokenizer.pad_token to one of its tokens "
            "(tokenizer.pad_token = tokenizer.eos_token), or add one with "
            "tokenizer.add_special_tokens({'pad_token': '[PAD]'}) and resize the model's embedding to len(tokenizer)"
        )
    if cuts and pads and multiple is not None and length % multiple:
        raise ValueError(
            f"truncation to max_length={length} does not fit pad_to_multiple_of={multiple}; choose a multiple of it"
        )
    side = settings.padding_side
    if request.padding_side is not None:
        side = checked("padding_side", request.padding_side, "tokenizer call")
    truncation = {
        "max_length": length,
        "strategy": cut,
        "direction": settings.truncation_side,
        "stride": request.stride,
    }
    filling = {
        "length": length if pad == "max_length" else None,
        "direction": side,
        "pad_id": settings.pad_token_id,
        "pad_token": settings.pad_token,
        "pad_type_id": settings.pad_token_type_id,
        "pad_to_multiple_of": multiple,
    }
    return Plan(truncation=truncation if cuts else None, padding=filling if pads else None)


def _check_effects(request: Request, pad: str, cuts: bool) -> None:
    """ValueError for an option that would have no effect."""
    if request.max_length is not None and not cuts and pad != "max_length":
        raise ValueError(
            f"max_length={request.max_length} has no effect without truncation=True or padding='max_length': add one "
            "of them"
        )
    for name in ("pad_to_multiple_of", "padding_side"):
        value = getattr(request, name)
        if value is not None and pad == "do_not_pad":
            raise ValueError(
                f"{name}={value!r} has no effect without padding: add padding=True or padding='max_length'"
            )
    stride = request.stride
    if not isinstance(stride, int) or isinstance(stride, bool) or stride < 0:
        raise ValueError(f"stride is {stride!r}, expected an integer of 0 or more")
    if request.return_overflowing_tokens and not cuts:
        raise ValueError("return_overflowing_tokens=True has no effect without truncation=True: add it")
    if stride and not request.return_overflowing_tokens:
        raise ValueError(f"stride={stride} has no effect without return_overflowing_tokens=True: add it")
