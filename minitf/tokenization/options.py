"""The options of a tokenizer as data: names, defaults, and the check that each value passes."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tokenizers import AddedToken

from minitf.tokenization.arguments import UNSET
from weights_tools.regular import is_there, read_text

MAX_JSON_BYTES = 64 * 2**20  # settings and added tokens; published ones have at most a few MB

# "No limit known": the number that transformers stores for it. Compared with `>`, it never fires.
UNKNOWN_LENGTH = int(1e30)

SPECIAL_TOKENS = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")

# Options that are attributes of a tokenizer, to be changed at any time.
CHECKED_WHEN_SET = (
    *("model_max_length", "padding_side", "truncation_side", "clean_up_tokenization_spaces", "split_special_tokens"),
    *("pad_token_type_id", "model_input_names"),
)

# Defaults of every tokenizer, as in transformers.
_COMMON: dict[str, Any] = {
    **dict.fromkeys(SPECIAL_TOKENS),
    "additional_special_tokens": (),
    "model_max_length": UNKNOWN_LENGTH,
    "padding_side": "right",
    "truncation_side": "right",
    "clean_up_tokenization_spaces": False,
    "split_special_tokens": False,
    "pad_token_type_id": 0,
}

# Defaults of the original BERT (google-research/bert, tokenization.py) and of transformers' BertTokenizer.
BERT_DEFAULTS: dict[str, Any] = {
    **_COMMON,
    "do_lower_case": True,
    "strip_accents": None,
    "tokenize_chinese_chars": True,
    "do_basic_tokenize": True,
    "never_split": (),
    "unk_token": "[UNK]",
    "sep_token": "[SEP]",
    "pad_token": "[PAD]",
    "cls_token": "[CLS]",
    "mask_token": "[MASK]",
    "model_input_names": ["input_ids", "token_type_ids", "attention_mask"],
}

# Defaults of the original GPT-2 (openai/gpt-2, encoder.py) and of transformers' GPT2Tokenizer: one special token.
GPT2_DEFAULTS: dict[str, Any] = {
    **_COMMON,
    "add_prefix_space": False,
    "add_bos_token": False,
    "errors": "replace",
    **dict.fromkeys(("bos_token", "eos_token", "unk_token"), "<|endoftext|>"),
    "model_input_names": ["input_ids", "attention_mask"],
}

# Defaults of a tokenizer of no family, as of transformers' TokenizersBackend.
GENERIC_DEFAULTS: dict[str, Any] = {**_COMMON, "model_input_names": ["input_ids", "attention_mask"]}

TOKEN_FLAGS = ("content", "lstrip", "normalized", "rstrip", "single_word", "special")

# Classes whose tokenizer.json is the whole truth: transformers does not apply BERT's options to it either.
GENERIC_CLASSES = ("PreTrainedTokenizer", "PreTrainedTokenizerFast", "TokenizersBackend")

# Keys of tokenizer_config.json that say how tokens are added. They are applied once, not kept.
ADDED_TOKEN_KEYS = ("added_tokens_decoder", "extra_special_tokens")

_INPUT_NAMES = ("input_ids", "token_type_ids", "attention_mask")


def _is_length(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value >= 1


def _is_name_list(value: Any) -> bool:
    return isinstance(value, list | tuple) and "input_ids" in value and set(value) <= set(_INPUT_NAMES)


def _is_text_list(value: Any) -> bool:
    return isinstance(value, list | tuple) and all(isinstance(item, str) for item in value)


def _is_bool(value: Any) -> bool:
    return isinstance(value, bool)


def _is_type_id(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _is_side(value: Any) -> bool:
    return value in ("left", "right")


_CHECKS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "do_lower_case": (_is_bool, "true or false"),
    "strip_accents": (lambda value: value is None or _is_bool(value), "true, false or null (null: as do_lower_case)"),
    "tokenize_chinese_chars": (_is_bool, "true or false"),
    "model_max_length": (_is_length, "a number of tokens, 1 or more"),
    "padding_side": (_is_side, "'left' or 'right'"),
    "truncation_side": (_is_side, "'left' or 'right'"),
    "clean_up_tokenization_spaces": (_is_bool, "true or false"),
    "split_special_tokens": (_is_bool, "true or false"),
    "pad_token_type_id": (_is_type_id, "a token type id, 0 or more"),
    "model_input_names": (_is_name_list, f"a list that holds input_ids and others of {list(_INPUT_NAMES)}"),
    "do_basic_tokenize": (_is_bool, "true or false"),
    "never_split": (_is_text_list, "a list of words, or null (none)"),
    "add_prefix_space": (_is_bool, "true or false"),
    "add_bos_token": (_is_bool, "true or false"),
    "errors": (lambda value: value in ("replace", "ignore", "strict"), "'replace', 'ignore' or 'strict'"),
    "additional_special_tokens": (_is_text_list, "a list of tokens"),
    **dict.fromkeys(SPECIAL_TOKENS, (lambda value: value is None or isinstance(value, str), "a token or null (none)")),
}


def content_of(value: Any) -> Any:
    """The text of a token in any form: text, `AddedToken`, {"content": "[PAD]", "lstrip": false, ...}; else itself."""
    if isinstance(value, AddedToken):
        return value.content
    return value.get("content", value) if isinstance(value, Mapping) else value


def checked(name: str, value: Any, origin: str) -> Any:
    """`value` in its final form, or a ValueError that names origin, option, value and expectation."""
    if name in SPECIAL_TOKENS:
        value = content_of(value)
    if name == "additional_special_tokens":
        value = () if value is None else value.values() if isinstance(value, Mapping) else value
        value = value if isinstance(value, str) else tuple(map(content_of, value))
    if name == "never_split":
        value = () if value is None else tuple(sorted(value)) if isinstance(value, set | frozenset) else value
    if name == "model_max_length" and value is None:
        return UNKNOWN_LENGTH
    accept, expectation = _CHECKS[name]
    if not accept(value):
        raise ValueError(f"{origin}: {name} is {value!r}, expected {expectation}")
    if name == "model_max_length":
        return min(int(value), UNKNOWN_LENGTH)
    return tuple(value) if name == "never_split" else value


def given(options: Mapping[str, Any], origin: str) -> dict[str, Any]:
    """The options that were really given (not UNSET), checked."""
    return {name: checked(name, value, origin) for name, value in options.items() if value is not UNSET}


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in `path`; {} if there is no such file. ValueError if it holds anything else."""
    if not is_there(path):
        return {}
    text = read_text(path, MAX_JSON_BYTES, expected="a JSON object")
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not valid JSON ({error})") from None
    if not isinstance(value, dict):
        raise ValueError(f"{path} holds a JSON {type(value).__name__}, expected an object")
    return value


def read_settings(folder: Path, defaults: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """(stated options, all other keys) of tokenizer_config.json and special_tokens_map.json in `folder`.

    defaults: the options that the tokenizer has. As in transformers 5.23, special_tokens_map.json is not read where
    tokenizer_config.json has added_tokens_decoder; where both name a special token, special_tokens_map.json wins, and
    its `additional_special_tokens` count where tokenizer_config.json states none. Keys that are not known are returned
    among the others and written back on saving; they have no effect. That is also true of call settings that old
    versions of transformers stored by accident (`max_length`, `truncation_strategy`, `stride`): padding and truncation
    come from the call only. Raises ValueError for values of the wrong type.
    """
    path = folder / "tokenizer_config.json"
    config = read_json(path)
    if "max_len" in config and "model_max_length" not in config:
        config["model_max_length"] = config.pop("max_len")  # its name before transformers 3
    raw = {name: config.pop(name) for name in defaults if name in config}
    stated = {name: checked(name, value, str(path)) for name, value in raw.items()}
    found: dict[str, Any] = {}
    tokens_path = folder / "special_tokens_map.json"
    if "added_tokens_decoder" not in config:
        found = read_json(tokens_path)
    tokens = {name: value for name, value in found.items() if name in SPECIAL_TOKENS}
    stated.update({name: checked(name, value, str(tokens_path)) for name, value in tokens.items()})
    extra = _extra_tokens(raw | config, path)
    if extra:
        found.pop("additional_special_tokens", None)
    extra += _extra_tokens(found, tokens_path)
    if extra:
        stated["additional_special_tokens"] = tuple(dict.fromkeys(map(content_of, extra)))
    config["_tokens"] = [
        value for value in (*(raw | tokens).values(), *extra) if isinstance(value, Mapping) and "content" in value
    ]
    return stated, config


def _extra_tokens(values: Mapping[str, Any], path: Path) -> list[Any]:
    """The additional special tokens that a file states, each in the form it has there; ValueError if they are none."""
    found: list[Any] = []
    for name in ("additional_special_tokens", "extra_special_tokens"):  # the second: its name since transformers 5
        stated = values.get(name) or ()
        checked("additional_special_tokens", stated, str(path))
        found += stated.values() if isinstance(stated, Mapping) else stated
    return found


def added_token(value: Any, *, special: bool) -> AddedToken:
    """A token to add, in any form. Text alone: found literally if special, else after normalization.

    Raises TypeError for what is no token and ValueError for an empty one.
    """
    if isinstance(value, AddedToken):
        token = AddedToken(**{flag: getattr(value, flag) for flag in TOKEN_FLAGS})
        token.special = special or value.special
    elif isinstance(value, Mapping) and isinstance(value.get("content"), str):
        special = special or bool(value.get("special", False))
        flags = {name: bool(value.get(name, False)) for name in ("single_word", "lstrip", "rstrip")}
        token = AddedToken(
            value["content"], normalized=bool(value.get("normalized", not special)), special=special, **flags
        )
    elif isinstance(value, str):
        token = AddedToken(value, normalized=not special, special=special)
    else:
        raise TypeError(f"a token to add is of type {type(value).__name__}, expected str or tokenizers.AddedToken")
    if not token.content:
        raise ValueError("a token to add is '', an empty text; expected at least one character")
    return token
