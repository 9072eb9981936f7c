"""The settings of `GenerationConfig` as options of `minitf generate`: one for each field, checked by its rule.

    --top-k 5                 numbers                           top_k = 5
    --do-sample               flags, and --no-do-sample         do_sample = True
    --eos-token-id 5,6        ids, or JSON: [5, 6]              eos_token_id = [5, 6]
    --bad-words-ids 5,6       one word, or JSON: [[5, 6], [7]]  bad_words_ids = [[5, 6]]
    --sequence-bias JSON      [[[5, 6], -2.0]]                  sequence_bias = [[[5, 6], -2.0]]

Only options that were given take part; the others stay with the model's `generation_config` and the defaults.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from typing import Any

from minitf.config import Rule
from minitf.generation.config import GenerationConfig

__all__ = ["NOT_OPTIONS", "SECTIONS", "add_settings", "given_settings", "option"]

SECTIONS: dict[str, dict[str, str]] = {
    "how long": {
        "max_length": "prompt and new tokens together (default: 20 new tokens, as far as the model goes)",
        "max_new_tokens": "new tokens at most",
        "min_length": "no end token before so many tokens, the prompt's included",
        "min_new_tokens": "no end token before so many new tokens",
        "max_time": "begin no further token after so many seconds",
        "stop_strings": "stop when this text has been written; may be given several times",
    },
    "which strategy": {
        "do_sample": "draw each token instead of taking the most probable one",
        "num_beams": "beam search: keep so many beginnings",
        "num_beam_groups": "diverse beam search: divide the beams into so many groups",
        "penalty_alpha": "contrastive search, with --top-k: weight of the penalty for repetition",
        "force_words_ids": "beam search for texts that hold this word: ids, or JSON with words and alternatives",
        "prompt_lookup_num_tokens": "draft so many tokens at a time by looking the last words up in the text",
    },
    "beams": {
        "early_stopping": "true: end with the first N finished texts; false: when no beam looks able to become better; "
        "never: when none can",
        "length_penalty": "score = log-probability / new tokens ** this; > 0 favours long texts",
        "diversity_penalty": "diverse beam search: subtracted for each earlier group that chose the token",
    },
    "sampling: what remains of the distribution": {
        "temperature": "divide the scores by this: < 1 sharpens, > 1 flattens",
        "top_k": "keep the so many most probable tokens, 0: all; candidates of contrastive search",
        "top_p": "keep the most probable tokens that together reach this probability",
        "min_p": "keep tokens with at least this part of the best one's probability",
        "top_h": "keep the most probable tokens that together hold this part of the entropy",
        "typical_p": "keep the tokens whose surprise is nearest to the expected, up to this probability",
        "epsilon_cutoff": "drop tokens below this probability",
        "eta_cutoff": "drop tokens below a probability that follows from this and the entropy",
    },
    "scores: what is favoured or forbidden": {
        "repetition_penalty": "> 1 lowers the scores of tokens that are in the text already",
        "no_repeat_ngram_size": "no run of so many tokens twice; 0: off",
        "bad_words_ids": "words that must not appear: ids of one, or JSON for several",
        "sequence_bias": "added to the score of a token that completes a sequence",
        "suppress_tokens": "tokens that never appear",
        "begin_suppress_tokens": "tokens that do not come first",
        "forced_bos_token_id": "the first new token, after a prompt of one token",
        "forced_eos_token_id": "the last token, if the maximum length is reached",
        "exponential_decay_length_penalty": "after so many new tokens, raise the end token's score by this factor",
        "guidance_scale": "classifier-free guidance: > 1 moves the scores away from those without the prompt",
        "remove_invalid_values": "replace nan and inf in the scores instead of stopping with an error",
        "renormalize_logits": "normalise the scores after all changes",
    },
    "drafting": {
        "num_assistant_tokens": "tokens of a draft by --assistant",
        "num_assistant_tokens_schedule": "how the length of a draft changes",
        "assistant_confidence_threshold": "a draft ends at a token to which --assistant gives less probability",
        "max_matching_ngram_size": "prompt lookup: the longest run of last tokens that is looked up",
    },
    "tokens with a meaning": {
        "pad_token_id": "what fills texts that ended earlier than others (default: the first end token)",
        "bos_token_id": "what a text without a prompt begins with",
        "eos_token_id": "the tokens that end a text",
    },
    "what is returned": {
        "num_return_sequences": "so many texts",
        "use_cache": "keep keys and values instead of computing them again for each token",
        "output_scores": "with --json: the scores of all words at each step, after all changes",
        "output_logits": "with --json: the model's scores of all words at each step",
        "output_attentions": "with --json: all attention probabilities",
        "output_hidden_states": "with --json: all hidden states",
    },
}
"""Section -> setting -> its line in --help. Sections and order are those of `minitf.generation.config`."""

NOT_OPTIONS: dict[str, str] = {
    "constraints": "constraints are Python objects; --force-words-ids says the same as numbers",
    "return_dict_in_generate": "the command prints text, or with --json everything that was asked for",
}
"""Settings that are no options -> why."""

_NAMES = {"stop_strings": ("--stop", "--stop-strings")}
_METAVARS = {
    "max_time": "SECONDS",
    "stop_strings": "TEXT",
    "early_stopping": "WHEN",
    "num_assistant_tokens_schedule": "NAME",
    "exponential_decay_length_penalty": "N,FACTOR",
    "sequence_bias": "JSON",
}
_EXPECTED = {
    "early_stopping": "true, false or never",
    "sequence_bias": "JSON with ids and a number for each sequence, like [[[5, 6], -2.0]]",
    "stop_strings": "a text that is not empty",
}
_SCHEDULES = ("constant", "heuristic", "heuristic_transient")
_EARLY = {"true": True, "false": False, "never": "never"}


def option(name: str) -> str:
    """`top_k` -> `--top-k`, the option of a setting."""
    return "--" + name.replace("_", "-")


def add_settings(parser: argparse.ArgumentParser) -> None:
    """Add an option for each setting, grouped as in `minitf.generation.config`; none has a default of its own."""
    for title, settings in SECTIONS.items():
        group = parser.add_argument_group(title)
        for name, line in settings.items():
            _add(group, name, line)


def given_settings(arguments: argparse.Namespace) -> dict[str, Any]:
    """The settings whose options were given, in the order of `GenerationConfig`."""
    names = [name for settings in SECTIONS.values() for name in settings]
    return {name: getattr(arguments, name) for name in names if hasattr(arguments, name)}


def _add(group: Any, name: str, line: str) -> None:
    kind = str(GenerationConfig.__dataclass_fields__[name].type)
    default = getattr(GenerationConfig, name)
    common: dict[str, Any] = {"dest": name, "default": argparse.SUPPRESS}
    flags = _NAMES.get(name, (option(name),))
    if kind == "bool":
        shown = " (default: on)" if default else ""
        group.add_argument(*flags, action=argparse.BooleanOptionalAction, help=line + shown, **common)
        return
    said = "default" in line or default is None or name == "num_return_sequences"
    shown = "" if said else f" (default: {str(default).lower() if isinstance(default, bool) else default})"
    if name == "stop_strings":
        group.add_argument(*flags, action="append", metavar="TEXT", type=_value(name, str), help=line, **common)
        return
    choices = f": {', '.join(_SCHEDULES)}" if name == "num_assistant_tokens_schedule" else ""
    metavar, read = _reader(name, kind)
    group.add_argument(*flags, metavar=metavar, type=_value(name, read), help=line + choices + shown, **common)


def _reader(name: str, kind: str) -> tuple[str, Callable[[str], Any]]:
    """How a value is called in --help, and how it is read; what cannot be read raises ValueError."""
    readers: dict[str, tuple[str, Callable[[str], Any]]] = {
        "int": ("N", int),
        "float": ("X", float),
        "str": ("NAME", str),
        "bool | str": ("WHEN", _EARLY.__getitem__),
        "int | list[int]": ("IDS", _id_or_ids),
        "list[int]": ("IDS", _ids),
        "list[list[int]]": ("IDS", _words),
        "list[Any]": ("IDS", _words),
        "tuple[int, float]": ("PAIR", _pair),
        "Any": ("JSON", json.loads),
    }
    metavar, read = readers[kind.removesuffix(" | None")]
    return _METAVARS.get(name, metavar), read


def _value(name: str, read: Callable[[str], Any]) -> Callable[[str], Any]:
    """Text of the command line -> value, refused by the rule of the setting with an error that argparse shows."""
    rule: Rule = GenerationConfig.__dataclass_fields__[name].metadata["rule"]

    def value(text: str) -> Any:
        try:
            found = read(text)
            accepted = found is not None and rule.accepts(found)
        except (ValueError, KeyError, RecursionError):
            accepted = False
        if not accepted:
            expected = _EXPECTED.get(name) or rule.description.removesuffix(", or None") + _form(read)
            raise argparse.ArgumentTypeError(f"{text!r}: expected {expected}")
        return found

    return value


def _form(read: Callable[[str], Any]) -> str:
    """How such a value is written on the command line."""
    if read in (_ids, _id_or_ids):
        return ", like 5 or 5,6"
    if read is _words:
        return ", like 5,6 for one word or [[5, 6], [7]]"
    return ", like 30,1.05" if read is _pair else ""


def _ids(text: str) -> list[int]:
    """`5,6` or `[5, 6]`."""
    if text.lstrip().startswith("["):
        found: list[int] = json.loads(text)
        return found
    return [int(part) for part in text.split(",")]


def _id_or_ids(text: str) -> int | list[int]:
    ids = _ids(text)
    return ids[0] if len(ids) == 1 else ids


def _words(text: str) -> list[Any]:
    """`5,6`, one word, or JSON: a list of words."""
    if text.lstrip().startswith("["):
        found: list[Any] = json.loads(text)
        return found
    return [_ids(text)]


def _pair(text: str) -> tuple[int, float]:
    """`30,1.05` or `[30, 1.05]`."""
    begin, factor = text.strip().strip("[]").split(",")
    return int(begin), float(factor)
