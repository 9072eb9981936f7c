"""GenerationConfig: every setting of `generate`, its default and its rule; JSON in and out.

The settings of one call are joined from four places, the later ones winning:

    the defaults below  <-  model.generation_config  <-  generate(generation_config=...)  <-  generate(top_k=5, ...)

`model.generation_config` comes from `generation_config.json` beside the weights or, for older checkpoints, from the
keys of `config.json` that belong here. A setting counts as *given* where it was written down; only what was given
takes part in the joining. Which strategy uses which setting stands in `minitf.generation.strategies`.

Names and defaults are those of transformers 5. Settings of transformers that do nothing here are refused by name.
"""

from __future__ import annotations

import copy
import json
import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, TypeVar

from minitf.config import (
    PretrainedConfig,
    Rule,
    flag,
    folder_to_write,
    is_integer,
    is_number,
    not_negative,
    optional_id,
    optional_ids,
    positive,
    positive_number,
    probability,
    read_json,
    ruled,
)
from minitf.keywords import nearest_name, strict_keywords

__all__ = ["GENERATION_CONFIG_NAME", "GenerationConfig", "UnknownSettingError"]

logger = logging.getLogger("minitf.generation")

GENERATION_CONFIG_NAME = "generation_config.json"

Config = TypeVar("Config", bound="GenerationConfig")


class UnknownSettingError(TypeError, ValueError):
    """A setting that does not exist: a TypeError, as for any unknown keyword, and a ValueError, as in transformers."""


# --------------------------------------------------------------------------------------------------------------------
# Rules


def optional(rule: Any) -> Any:
    """The same rule, or None, which is the default."""
    inner: Rule = rule.metadata["rule"]
    return ruled(None, f"{inner.description}, or None", lambda v: v is None or inner.accepts(v))


def is_ids(value: Any) -> bool:
    return isinstance(value, list) and len(value) > 0 and all(is_integer(i) and i >= 0 for i in value)


def is_lists_of_ids(value: Any) -> bool:
    return isinstance(value, list) and len(value) > 0 and all(is_ids(ids) for ids in value)


def is_words(value: Any) -> bool:
    """`[[5, 6], [[7], [8, 9]]]`: a word is a list of ids, or a list of alternatives."""
    return isinstance(value, list) and len(value) > 0 and all(is_ids(word) or is_lists_of_ids(word) for word in value)


def is_stop_strings(value: Any) -> bool:
    texts = [value] if isinstance(value, str) else value
    return isinstance(texts, list) and len(texts) > 0 and all(isinstance(text, str) and text for text in texts)


def is_decay(value: Any) -> bool:
    return (
        isinstance(value, (tuple, list)) and len(value) == 2 and is_integer(value[0]) and is_number(value[1])
    )  # fmt: skip


def is_sequence_bias(value: Any) -> bool:
    """`{(5, 6): -2.0}`, or as JSON can hold it, `[[[5, 6], -2.0]]`."""
    pairs = list(value.items()) if isinstance(value, dict) else value
    return isinstance(pairs, list) and len(pairs) > 0 and all(
        isinstance(pair, (tuple, list)) and len(pair) == 2 and isinstance(pair[0], (tuple, list))
        and is_ids(list(pair[0])) and is_number(pair[1])
        for pair in pairs
    )  # fmt: skip


IDS = "a non-empty list of token ids"


@dataclass(init=False, repr=False, eq=False)
class GenerationConfig:
    """The settings of `generate`; see the head of this file for how they are joined.

    Raises:
        UnknownSettingError: a name that does not exist (a TypeError and a ValueError); the message names the nearest.
        ValueError: a value that its rule refuses, or a setting of transformers that has no effect here.
    """

    # -- how long ------------------------------------------------------------------------------------------------
    max_length: int = positive(20)
    """Positions of prompt and new tokens together. Not given: 20 new tokens, as far as the model has positions."""
    max_new_tokens: int | None = optional(positive(1))
    min_length: int = not_negative(0)
    """No end token before so many positions, the prompt's included."""
    min_new_tokens: int | None = optional(not_negative(0))
    max_time: float | None = optional(positive_number(1.0))
    """Seconds after which no further token is begun."""
    stop_strings: str | list[str] | None = ruled(
        None, "a text, a non-empty list of texts, or None", lambda v: v is None or is_stop_strings(v)
    )
    """Stop when one of these texts has been written; needs `generate(tokenizer=...)`."""

    # -- which strategy ------------------------------------------------------------------------------------------
    do_sample: bool = flag(False)
    num_beams: int = positive(1)
    num_beam_groups: int = positive(1)
    penalty_alpha: float | None = optional(probability(0.6))
    """Contrastive search: weight of the penalty for repeating what was said."""
    constraints: list[Any] | None = ruled(
        None, "a list of minitf.generation.Constraint objects, or None", lambda v: v is None or isinstance(v, list)
    )
    force_words_ids: list[Any] | None = ruled(
        None,
        "a list of words that must appear, each a list of token ids or a list of alternatives, or None",
        lambda v: v is None or is_words(v),
    )
    prompt_lookup_num_tokens: int | None = optional(positive(1))
    """Draft so many tokens at a time by looking the last words up in the text so far."""

    # -- beams ---------------------------------------------------------------------------------------------------
    early_stopping: bool | str = ruled(False, "True, False or 'never'", lambda v: isinstance(v, bool) or v == "never")
    """When beam search ends: True = as soon as there are `num_beams` finished sequences; False = when no running beam
    looks able to become better; "never" = when none can (`minitf.generation.beams` has the formulas)."""
    length_penalty: float = ruled(1.0, "a number", is_number)
    """A sequence's score is the sum of its log-probabilities / new tokens ** length_penalty: > 0 favours long ones."""
    diversity_penalty: float = ruled(0.0, "a number", is_number)
    """Diverse beam search: subtracted from a token for each beam of an earlier group that chose it in this step."""

    # -- sampling: what remains of the distribution --------------------------------------------------------------
    temperature: float = positive_number(1.0)
    top_k: int = not_negative(50)
    """Keep the k most probable tokens; 0 = all. Also the number of candidates of contrastive search."""
    top_p: float = ruled(1.0, "a number > 0 and <= 1", lambda v: is_number(v) and 0 < v <= 1)
    min_p: float | None = optional(probability(0.0))
    top_h: float | None = ruled(
        None, "a number > 0 and <= 1, or None", lambda v: v is None or (is_number(v) and 0 < v <= 1)
    )
    typical_p: float = ruled(1.0, "a number > 0 and <= 1", lambda v: is_number(v) and 0 < v <= 1)
    epsilon_cutoff: float = ruled(0.0, "a number >= 0 and < 1", lambda v: is_number(v) and 0 <= v < 1)
    eta_cutoff: float = ruled(0.0, "a number >= 0 and < 1", lambda v: is_number(v) and 0 <= v < 1)

    # -- scores: what is favoured or forbidden -------------------------------------------------------------------
    repetition_penalty: float = positive_number(1.0)
    no_repeat_ngram_size: int = not_negative(0)
    bad_words_ids: list[list[int]] | None = ruled(
        None, "a non-empty list of lists of token ids, or None", lambda v: v is None or is_lists_of_ids(v)
    )
    sequence_bias: Any = ruled(
        None,
        "a dictionary {(id, id): number}, the same as a list of pairs, or None",
        lambda v: v is None or is_sequence_bias(v),
    )
    suppress_tokens: list[int] | None = ruled(None, f"{IDS}, or None", lambda v: v is None or is_ids(v))
    begin_suppress_tokens: list[int] | None = ruled(None, f"{IDS}, or None", lambda v: v is None or is_ids(v))
    forced_bos_token_id: int | None = optional_id(None)
    forced_eos_token_id: int | list[int] | None = optional_ids(None)
    exponential_decay_length_penalty: tuple[int, float] | None = ruled(
        None, "(new tokens after which it begins, factor), or None", lambda v: v is None or is_decay(v)
    )
    guidance_scale: float | None = optional(positive_number(1.0))
    """Classifier-free guidance: > 1 moves the scores away from those of the negative prompt."""
    remove_invalid_values: bool = flag(False)
    """Replace nan and inf in the scores instead of stopping with an error."""
    renormalize_logits: bool = flag(False)

    # -- drafting (assisted decoding) ----------------------------------------------------------------------------
    num_assistant_tokens: int = positive(20)
    num_assistant_tokens_schedule: str = ruled(
        "constant",
        "'constant', 'heuristic' or 'heuristic_transient'",
        lambda v: v in ("constant", "heuristic", "heuristic_transient"),
    )
    assistant_confidence_threshold: float = probability(0.4)
    """A draft ends early at a token that the draft model gives less than this probability."""
    max_matching_ngram_size: int = positive(2)
    """Prompt lookup: the longest run of last tokens that is looked up."""

    # -- tokens with a meaning -----------------------------------------------------------------------------------
    pad_token_id: int | None = optional_id(None)
    """What fills finished rows; None = the first end token."""
    bos_token_id: int | None = optional_id(None)
    eos_token_id: int | list[int] | None = optional_ids(None)
    """The tokens that end a sequence."""

    # -- what is returned ----------------------------------------------------------------------------------------
    num_return_sequences: int = positive(1)
    use_cache: bool = flag(True)
    output_scores: bool = flag(False)
    output_logits: bool = flag(False)
    output_attentions: bool = flag(False)
    output_hidden_states: bool = flag(False)
    return_dict_in_generate: bool = flag(False)

    # Without annotations, which would make them fields to `__dataclass_fields__`, and so settings.
    _REFUSED = MappingProxyType({
        "encoder_no_repeat_ngram_size": ((0, None), "it is for encoder-decoders, which this package does not have"),
        "encoder_repetition_penalty": ((1.0, None), "it is for encoder-decoders, which this package does not have"),
        "decoder_start_token_id": ((None,), "it is for encoder-decoders, which this package does not have"),
        "watermarking_config": ((None,), "watermarks are not implemented"),
        "low_memory": ((False, None), "beams are always computed together"),
        "cache_implementation": ((None, "dynamic"), "pass the cache itself as past_key_values"),
        "token_healing": ((False, None), "token healing is not implemented"),
        "dola_layers": ((None,), "DoLa decoding is not implemented"),
    })  # fmt: skip
    """Setting of transformers -> (the values without effect, why any other is refused)."""
    _OF_OTHERS = (
        "assistant_early_exit", "assistant_lookbehind", "cache_config", "disable_compile", "forced_decoder_ids",
        "is_assistant", "target_lookbehind", "use_model_defaults",
    )  # fmt: skip
    """Settings of transformers for encoder-decoders and for how it computes, whose names look like one of these."""
    _PROVENANCE = ("_from_model_config", "transformers_version")
    _NOT_IN_JSON = ("constraints",)

    def __init__(self, **settings: Any) -> None:
        for name, value in settings.items():
            setattr(self, name, value)

    def __setattr__(self, name: str, value: Any) -> None:
        field = self.__dataclass_fields__.get(name)
        if field is None:
            if not self._refuse(name, value, type(self).__name__):
                known = sorted(self.__dataclass_fields__)
                raise UnknownSettingError(f"{type(self).__name__} has no setting {name!r}{nearest_name(name, known)}")
            return
        rule: Rule = field.metadata["rule"]
        if isinstance(value, tuple) and name != "exponential_decay_length_penalty":
            value = list(value)
        if not rule.accepts(value):
            raise ValueError(f"{type(self).__name__}.{name} = {value!r}: expected {rule.description}.")
        object.__setattr__(self, name, copy.copy(value) if name == "constraints" else copy.deepcopy(value))

    @classmethod
    def _refuse(cls, name: str, value: Any, where: str) -> bool:
        """Whether `name` is a setting of transformers only, with a value that changes nothing.

        Raises:
            ValueError: it is one, with a value that would.
        """
        if name not in cls._REFUSED:
            return False
        harmless, why = cls._REFUSED[name]
        if value not in harmless:
            raise ValueError(f"{where}: {name} = {value!r} would have no effect: {why}.")
        return True

    # -- joining ---------------------------------------------------------------------------------------------------

    def given(self) -> dict[str, Any]:
        """The settings that were written down, whatever their values, in the order of this file."""
        return {name: self.__dict__[name] for name in self.__dataclass_fields__ if name in self.__dict__}

    def joined(self, *later: GenerationConfig | None) -> GenerationConfig:
        """A copy in which what the later ones were given replaces what this one was given."""
        result = copy.copy(self)
        for config in later:
            if config is not None:
                result.__dict__.update(copy.copy(config.__dict__))
        return result

    def update(self, **settings: Any) -> None:
        """Set several settings.

        Raises:
            UnknownSettingError, ValueError: see the class; nothing was set then.
        """
        type(self)(**settings)
        for name, value in settings.items():
            setattr(self, name, value)

    def ends(self) -> list[int]:
        """The end tokens as a list, which may be empty."""
        end = self.eos_token_id
        return [] if end is None else [end] if isinstance(end, int) else list(end)

    # -- JSON ------------------------------------------------------------------------------------------------------

    @property
    def unknown_keys(self) -> dict[str, Any]:
        """Keys of `generation_config.json` that minitf does not know: kept, written back, and without any effect."""
        kept: dict[str, Any] = self.__dict__.get("_kept", {})
        return {key: value for key, value in kept.items() if key not in self._PROVENANCE}

    def to_dict(self) -> dict[str, Any]:
        """The settings that were given, and unknown keys of the file, as plain values; a deep copy."""
        values = {name: value for name, value in self.given().items() if name not in self._NOT_IN_JSON}
        if isinstance(values.get("sequence_bias"), dict):  # JSON has no lists as keys
            values["sequence_bias"] = [[list(ids), bias] for ids, bias in values["sequence_bias"].items()]
        return copy.deepcopy({**self.__dict__.get("_kept", {}), **values})

    def to_json_string(self) -> str:
        """The text of `generation_config.json`, sorted.

        Raises:
            ValueError: `constraints` are given, which are objects that JSON cannot hold.
        """
        if self.constraints is not None:
            raise ValueError("constraints are objects, which JSON cannot hold: pass them to generate(), or use "
                             "force_words_ids.")  # fmt: skip
        return json.dumps(self.to_dict(), indent=2, sort_keys=True, ensure_ascii=False) + "\n"

    @strict_keywords
    def save_pretrained(self, save_directory: str | os.PathLike[str]) -> None:
        """Write `generation_config.json` into a folder, which is made if need be. All or nothing.

        Raises:
            ValueError: an empty or missing name, or a value that JSON cannot hold. NotADirectoryError: a file.
        """
        from weights_tools.atomic import write_atomically

        folder = folder_to_write(save_directory)
        text = self.to_json_string()
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(folder / GENERATION_CONFIG_NAME, text.encode())

    @classmethod
    def from_dict(
        cls: type[Config], values: Mapping[str, Any], *, source: str = "the dictionary", **settings: Any
    ) -> Config:
        """The contents of a `generation_config.json`; `settings` replace single keys.

        null means "not set". transformers 4 can write out every setting, null and defaults too; where there is a null,
        a default means nothing either.

        Raises:
            ValueError: a value that its rule refuses, or a setting that would have no effect.
            UnknownSettingError: an unknown name among `settings`. (An unknown key of the file is kept and listed in
                `unknown_keys`; one that is nearly the name of a setting is named in a warning.)
        """
        config = cls()
        kept = {}
        written_out = any(value is None for name, value in values.items() if name in cls.__dataclass_fields__)
        for name, value in values.items():
            if name not in cls.__dataclass_fields__:
                cls._refuse(name, value, source)
                kept[name] = copy.deepcopy(value)
            elif value is not None and not (written_out and value == getattr(cls, name)):
                try:
                    setattr(config, name, value)
                except ValueError as error:
                    raise ValueError(f"{source}: {error}") from error
        object.__setattr__(config, "_kept", kept)
        for name, value in config.unknown_keys.items():
            near = nearest_name(name, cls.__dataclass_fields__)
            if near and value is not None and name not in (*cls._REFUSED, *cls._OF_OTHERS):
                logger.warning("%s: %s = %r has no effect: there is no such setting%s", source, name, value, near)
        config.update(**settings)
        return config

    @classmethod
    def from_pretrained(
        cls: type[Config],
        pretrained_model_name_or_path: str | os.PathLike[str],
        *,
        config_file_name: str = GENERATION_CONFIG_NAME,
        cache_dir: str | os.PathLike[str] | None = None,
        revision: str = "main",
        subfolder: str = "",
        local_files_only: bool = False,
        token: str | bool | None = None,
        endpoint: str | None = None,
        **settings: Any,
    ) -> Config:
        """Read the settings from a folder, a JSON file or a model name; `settings` replace single keys.

        For `cache_dir`, `revision`, `subfolder`, `local_files_only`, `token` and `endpoint` see
        `weights_tools.hub.resolve`.

        Raises:
            FileNotFoundError: no such file. ValueError: not JSON, or a value that is refused.
            UnknownSettingError: an unknown name among `settings`.
        """
        from weights_tools.hub import resolve

        path = resolve(
            pretrained_model_name_or_path,
            cache_dir=cache_dir,
            revision=revision,
            subfolder=subfolder,
            local_files_only=local_files_only,
            token=token,
            endpoint=endpoint,
            filenames=(config_file_name,),
        )
        path = path / config_file_name if path.is_dir() else path
        if not path.exists():
            raise FileNotFoundError(f"{path.parent} holds no {config_file_name}: pass the settings to generate().")
        return cls.from_dict(read_json(path), source=str(path), **settings)

    @classmethod
    def from_model_config(cls: type[Config], config: PretrainedConfig, *, task: str = "text-generation") -> Config:
        """What a model configuration says about generation: its special tokens and, in older files, more.

        Before there was a `generation_config.json`, `config.json` held such settings by their own names, and under
        `task_specific_params[task]` those of one task, which go first.
        """
        kept = config.to_dict()
        tasks = kept.get("task_specific_params")
        params = tasks.get(task) if isinstance(tasks, dict) else None
        values = {name: kept[name] for name in cls.__dataclass_fields__ if name in kept and name not in _OF_THE_MODEL}
        values.update({k: v for k, v in (params or {}).items() if k in cls.__dataclass_fields__})
        return cls.from_dict(values, source="config.json")

    # -- Python's protocols ----------------------------------------------------------------------------------------

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and isinstance(other, GenerationConfig) and self.given() == other.given()

    __hash__ = None  # type: ignore[assignment]  # mutable

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in self.given().items())})"


_OF_THE_MODEL = ("output_attentions", "output_hidden_states", "use_cache")
"""Keys of a model's configuration that speak of its forward, not of `generate`."""
