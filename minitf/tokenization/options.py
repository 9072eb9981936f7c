"""The options of a BERT tokenizer as data: names, defaults, and the check that each value passes."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from minitf.tokenization.arguments import UNSET
from weights_tools.regular import is_there, read_text

MAX_JSON_BYTES = 64 * 2**20  # settings and added tokens; published ones have at most a few MB

# "No limit known": the number that transformers stores for it. Compared with `>`, it never fires.
UNKNOWN_LENGTH = int(1e30)

SPECIAL_TOKENS = ("unk_token", "sep_token", "pad_token", "cls_token", "mask_token")

# Defaults of the original BERT (google-research/bert, tokenization.py) and of transformers' BertTokenizer.
DEFAULTS: dict[str, Any] = {
    "do_lower_case": True,
    "strip_accents": None,
    "tokenize_chinese_chars": True,
    "unk_token": "[UNK]",
    "sep_token": "[SEP]",
    "pad_token": "[PAD]",
    "cls_token": "[CLS]",
    "mask_token": "[MASK]",
    "model_max_length": UNKNOWN_LENGTH,
    "padding_side": "right",
    "truncation_side": "right",
    "clean_up_tokenization_spaces": False,
    "split_special_tokens": False,
    "pad_token_type_id": 0,
    "model_input_names": ["input_ids", "token_type_ids", "attention_mask"],
}

# Classes whose tokenizer.json is the whole truth: transformers does not apply BERT's options to it either.
GENERIC_CLASSES = ("PreTrainedTokenizer", "PreTrainedTokenizerFast", "TokenizersBackend")

# Keys of tokenizer_config.json that say how tokens are added. They are applied once, not kept.
ADDED_TOKEN_KEYS = ("added_tokens_decoder", "additional_special_tokens", "extra_special_tokens")


def _is_length(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value >= 1


def _is_name_list(value: Any) -> bool:
    return isinstance(value, list | tuple) and "input_ids" in value and set(value) <= set(DEFAULTS["model_input_names"])


def _is_bool(value: Any) -> bool:
    return isinstance(value, bool)


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
    "pad_token_type_id": (lambda value: isinstance(value, int) and value >= 0, "a token type id, 0 or more"),
    "model_input_names": (_is_name_list, f"a list that holds input_ids and others of {DEFAULTS['model_input_names']}"),
    **dict.fromkeys(SPECIAL_TOKENS, (lambda value: value is None or isinstance(value, str), "a token or null (none)")),
}


def checked(name: str, value: Any, origin: str) -> Any:
    """`value` in its final form, or a ValueError that names origin, option, value and expectation."""
    if name in SPECIAL_TOKENS and isinstance(value, Mapping):
        value = value.get("content", value)  # the long form {"content": "[PAD]", "lstrip": false, ...}
    if name == "model_max_length" and value is None:
        return UNKNOWN_LENGTH
    accept, expectation = _CHECKS[name]
    if not accept(value):
        raise ValueError(f"{origin}: {name} is {value!r}, expected {expectation}")
    if name == "model_max_length":
        return min(int(value), UNKNOWN_LENGTH)
    return value


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


def read_settings(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """(stated options, all other keys) of tokenizer_config.json and special_tokens_map.json in `folder`.

    Where both name a special token, special_tokens_map.json wins, as in transformers 5.23. Keys that are not known
    are returned among the others and written back on saving; they have no effect. That is also true of call settings
    that old versions of transformers stored by accident (`max_length`, `truncation_strategy`, `stride`): padding and
    truncation come from the call only. Raises ValueError for values of the wrong type and for `do_basic_tokenize=false`
    and `never_split`, which change the ids and which this tokenizer does not implement.
    """
    path = folder / "tokenizer_config.json"
    config = read_json(path)
    if "max_len" in config and "model_max_length" not in config:
        config["model_max_length"] = config.pop("max_len")  # its name before transformers 3
    stated = {name: checked(name, config.pop(name), str(path)) for name in DEFAULTS if name in config}
    tokens_path = folder / "special_tokens_map.json"
    tokens = read_json(tokens_path)
    stated.update({name: checked(name, tokens[name], str(tokens_path)) for name in SPECIAL_TOKENS if name in tokens})
    if config.get("do_basic_tokenize") is False:
        raise ValueError(f"{path}: do_basic_tokenize is false, which is not implemented; expected true")
    unsplit = set(config.get("never_split") or ()) - {str(value) for value in stated.values()}
    if unsplit:
        raise ValueError(f"{path}: never_split is {sorted(unsplit)}, which is not implemented; expected null")
    return stated, config
