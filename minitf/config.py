"""Configurations: one dataclass per architecture, strict in both directions.

* In Python an unknown keyword or attribute is an error that names the nearest real one.
* In `config.json` an unknown key is kept, written back and listed (`config.unknown_keys`), because real files carry
  keys of other tools; a known key with a value that changes the mathematics and is not implemented is an error.
* Every value is checked where it is set: the error names key, value and rule.

A rule is declared beside its field: `hidden_size: int = positive(768)`.
"""

from __future__ import annotations

import copy
import dataclasses
import json
import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from minitf.keywords import nearest_name, strict_keywords

__all__ = ["BertConfig", "GPT2Config", "PretrainedConfig"]

CONFIG_NAME = "config.json"
MAX_LABELS = 1_000_000

Config = TypeVar("Config", bound="PretrainedConfig")


# --------------------------------------------------------------------------------------------------------------------
# Rules: what a value must be, in words and as a test


@dataclass(frozen=True)
class Rule:
    """What a field accepts: a description for the error message and the test itself."""

    description: str
    accepts: Callable[[Any], bool]


def is_integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)  # True is an int in Python, but not a size


def is_number(value: Any) -> bool:
    return (isinstance(value, float) and math.isfinite(value)) or is_integer(value)


def is_string_list(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def is_pruned_heads(value: Any) -> bool:
    return isinstance(value, dict) and all(
        is_integer(layer) and isinstance(heads, list) and all(is_integer(h) for h in heads)
        for layer, heads in value.items()
    )


def is_label_names(value: Any) -> bool:
    if not isinstance(value, dict) or not value or not all(is_integer(number) for number in value):
        return False
    return sorted(value) == list(range(len(value))) and all(isinstance(name, str) for name in value.values())


def is_label_numbers(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(k, str) and is_integer(v) for k, v in value.items())


def ruled(default: Any, description: str, accepts: Callable[[Any], bool]) -> Any:
    """A dataclass field with a rule; a mutable default is copied for each instance."""
    metadata = {"rule": Rule(description, accepts)}
    if isinstance(default, (dict, list)):
        return dataclasses.field(default_factory=lambda: copy.copy(default), metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def positive(default: int) -> Any:
    return ruled(default, "an integer >= 1", lambda v: is_integer(v) and v >= 1)


def not_negative(default: int) -> Any:
    return ruled(default, "an integer >= 0", lambda v: is_integer(v) and v >= 0)


def optional_id(default: int | None) -> Any:
    return ruled(default, "a token id (an integer >= 0) or None", lambda v: v is None or (is_integer(v) and v >= 0))


def optional_ids(default: int | None) -> Any:
    def accepts(value: Any) -> bool:
        ids = value if isinstance(value, list) and value else [value]
        return value is None or all(is_integer(i) and i >= 0 for i in ids)

    return ruled(default, "a token id, a list of token ids, or None", accepts)


def probability(default: float) -> Any:
    return ruled(default, "a number from 0 to 1", lambda v: is_number(v) and 0 <= v <= 1)


def optional_probability(default: float | None) -> Any:
    return ruled(default, "a number from 0 to 1, or None", lambda v: v is None or (is_number(v) and 0 <= v <= 1))


def positive_number(default: float) -> Any:
    return ruled(default, "a number > 0", lambda v: is_number(v) and v > 0)


def flag(default: bool) -> Any:
    return ruled(default, "True or False", lambda v: isinstance(v, bool))


def one_of(default: str | None, *choices: str | None) -> Any:
    return ruled(default, "one of " + ", ".join(repr(c) for c in choices), lambda v: v in choices)


def is_activation(value: Any) -> bool:
    from minitf.activations import ACT2FN  # imported here: `import minitf.config` does not import torch

    is_function = callable(value) and not isinstance(value, type)  # a class would make modules, not numbers
    return is_function or (isinstance(value, str) and value in ACT2FN)


def activation(default: str) -> Any:
    return ruled(
        default, "the name of an implemented activation (minitf.activations.ACT2FN) or a function", is_activation
    )


DTYPES = ("float32", "float16", "bfloat16", "float64")


# --------------------------------------------------------------------------------------------------------------------
# The base class


class StrictKeywords(type):
    """Metaclass of configurations: resolves alias keywords and refuses unknown ones before `__init__` runs.

    A dataclass would refuse an unknown keyword too, but without naming the nearest real one, and it cannot take a
    keyword that is another name of a field (`num_labels`, `torch_dtype`, GPT-2's `hidden_size` for `n_embd`).
    """

    def __call__(cls: Any, *values: Any, **settings: Any) -> Any:
        if values:
            raise TypeError(f"{cls.__name__} takes its settings by name: {cls.__name__}(vocab_size=30522, ...).")
        resolved = cls._resolve(settings)
        labels = {name: resolved.pop(name, None) for name in ("id2label", "label2id", "num_labels")}
        config = super().__call__(**resolved)
        config._set_labels(**labels)
        return config


@dataclass(kw_only=True, repr=False, eq=False)
class PretrainedConfig(metaclass=StrictKeywords):
    """Base of all configurations: the keys that every architecture shares, JSON in and out, strictness.

    Raises:
        TypeError: an unknown keyword.
        ValueError: a value that its rule refuses; the message names key, value and rule.
    """

    model_type: ClassVar[str] = ""
    attribute_map: ClassVar[dict[str, str]] = {}
    """Other name -> field. The aliases work for reading, setting and as constructor keywords."""
    original_file: ClassVar[tuple[str, dict[str, str]]] = ("", {})
    """What the model's first release has in place of config.json: its name, and keys that have other names there."""

    architectures: list[str] | None = ruled(
        None, "a list of class names, or None", lambda v: v is None or is_string_list(v)
    )
    dtype: str | None = one_of(None, None, *DTYPES)
    output_hidden_states: bool = flag(False)
    output_attentions: bool = flag(False)
    return_dict: bool = flag(True)
    tie_word_embeddings: bool = flag(True)
    chunk_size_feed_forward: int = not_negative(0)
    pruned_heads: dict[int, list[int]] = ruled({}, "a dictionary {layer: [heads]} of integers", is_pruned_heads)
    id2label: dict[int, str] = ruled(
        {0: "LABEL_0", 1: "LABEL_1"},
        "a non-empty dictionary {0: name, 1: name, ...} without gaps",
        is_label_names,
    )
    label2id: dict[str, int] | None = ruled(
        None, "the inverse of id2label, {name: 0, name: 1, ...}", lambda v: v is None or is_label_numbers(v)
    )
    problem_type: str | None = one_of(
        None, None, "regression", "single_label_classification", "multi_label_classification"
    )
    attn_implementation: str = ruled("sdpa", "the name of an attention function", lambda v: isinstance(v, str))
    """Which attention function computes: how, not what, so it is not written to config.json."""

    _ALIASES: ClassVar[dict[str, str]] = {"torch_dtype": "dtype", "_attn_implementation": "attn_implementation"}
    _REFUSED: ClassVar[dict[str, tuple[Any, str]]] = {
        "is_encoder_decoder": (False, "encoder-decoder models are not implemented"),
        "quantization_config": (None, "quantised weights are not implemented"),
        "cross_attention_hidden_size": (None, "cross-attention to another width is not implemented"),
        "tie_encoder_decoder": (False, "tying an encoder to a decoder is not implemented"),
    }
    """Known key -> (the only value that is implemented, why any other is refused)."""
    _PROVENANCE: ClassVar[tuple[str, ...]] = ("_name_or_path", "transformers_version", "_commit_hash")
    _NOT_IN_JSON: ClassVar[tuple[str, ...]] = ("attn_implementation",)

    def __post_init__(self) -> None:
        self.validate()

    # -- names and values ------------------------------------------------------------------------------------------

    @classmethod
    def _fields(cls) -> dict[str, dataclasses.Field[Any]]:
        return {field.name: field for field in dataclasses.fields(cls)}

    @classmethod
    def _aliases(cls) -> dict[str, str]:
        return {**PretrainedConfig._ALIASES, **cls.attribute_map}

    @classmethod
    def _resolve(cls, settings: Mapping[str, Any]) -> dict[str, Any]:
        """Aliases replaced by field names; TypeError for an unknown name or one field given under two names."""
        resolved: dict[str, Any] = {}
        first: dict[str, str] = {}
        for name, value in settings.items():
            if name == "model_type" and value == cls.model_type:
                continue  # `BertConfig(**config.to_dict())`
            field = cls._aliases().get(name, name)
            if field not in cls._fields() and field != "num_labels":
                if name in cls._REFUSED:
                    cls._refuse({name: value}, cls.__name__)
                    continue  # the only value that is implemented
                known = [*cls._fields(), *cls._aliases(), "num_labels"]
                raise TypeError(f"{cls.__name__} has no setting {name!r}{nearest_name(name, known)}")
            if field in resolved and resolved[field] != value:
                raise TypeError(
                    f"{cls.__name__}: {first[field]!r} and {name!r} are one setting under two names: drop one."
                )
            resolved[field] = value
            first.setdefault(field, name)
        return resolved

    def __setattr__(self, name: str, value: Any) -> None:
        name = self._aliases().get(name, name)
        field = self._fields().get(name)
        if field is None:
            if name in self._kept:
                self._refuse({name: value}, type(self).__name__)
                self._kept[name] = value
                return
            if not name.startswith("_") and not isinstance(getattr(type(self), name, None), property):
                raise AttributeError(
                    f"{type(self).__name__} has no setting {name!r}{nearest_name(name, self._fields())}"
                )
            object.__setattr__(self, name, value)
            return
        if name == "dtype" and value is not None:
            value = str(value).removeprefix("torch.")  # a torch.dtype is stored under its JSON name
        rule: Rule | None = field.metadata.get("rule")
        if rule is not None and not rule.accepts(value):
            raise ValueError(f"{type(self).__name__}.{name} = {value!r}: expected {rule.description}.")
        if isinstance(value, (dict, list)):
            value = copy.deepcopy(value)  # the caller's object may change later, unchecked
        if name == "id2label":
            object.__setattr__(self, "label2id", {label: i for i, label in value.items()})
        elif name == "label2id":
            value = self._follow(value)
        object.__setattr__(self, name, value)

    def __getattr__(self, name: str) -> Any:  # only called when normal look-up fails: aliases and unknown JSON keys
        field = type(self)._aliases().get(name)
        if field is not None:
            return getattr(self, field)
        if name != "_kept" and name in self._kept:
            return self._kept[name]
        raise AttributeError(f"{type(self).__name__} has no setting {name!r}{nearest_name(name, self._fields())}")

    def validate(self) -> None:
        """Check the rules that join several keys. Runs at construction and again when a model is built.

        Raises:
            ValueError: the keys contradict each other.
        """
        for name in self._fields():  # a list or dictionary may have been changed in place since it was set
            if isinstance(getattr(self, name), (dict, list)):
                rule: Rule = self._fields()[name].metadata["rule"]
                if not rule.accepts(getattr(self, name)):
                    raise ValueError(
                        f"{type(self).__name__}.{name} = {getattr(self, name)!r}: expected {rule.description}."
                    )
        if self.label2id != {label: i for i, label in self.id2label.items()} or len(self.label2id) != self.num_labels:
            raise self._contradiction(self.id2label, self.label2id)
        # Every architecture has these two names, some as aliases. Negative numbers count from the end.
        if not self.pruned_heads:
            return
        layers, heads = self.num_hidden_layers, self.num_attention_heads
        pruned: dict[int, list[int]] = {}
        for layer, numbers in self.pruned_heads.items():
            if not -layers <= layer < layers or not all(-heads <= number < heads for number in numbers):
                raise ValueError(
                    f"{type(self).__name__}.pruned_heads = {self.pruned_heads!r} names heads that do not exist: this "
                    f"model has {layers} layers of {heads} heads, counted from 0."
                )
            cut = pruned.get(layer % layers, [])
            pruned[layer % layers] = sorted({*cut, *(number % heads for number in numbers)})
        if pruned != self.pruned_heads:
            self.pruned_heads = pruned

    # -- labels ----------------------------------------------------------------------------------------------------

    @property
    def num_labels(self) -> int:
        """Number of labels of a classification head: the length of `id2label`. Setting it renames the labels."""
        return len(self.id2label)

    @num_labels.setter
    def num_labels(self, number: int) -> None:
        self._set_num_labels(number)

    def _set_num_labels(self, number: int) -> None:
        if not is_integer(number) or number < 1:
            raise ValueError(f"{type(self).__name__}.num_labels = {number!r}: expected an integer >= 1.")
        if number > MAX_LABELS:  # each gets a name, so a file's number alone could fill the memory
            raise ValueError(f"{type(self).__name__}.num_labels = {number!r}: expected at most {MAX_LABELS}.")
        if number != len(self.id2label):
            self.id2label = {i: f"LABEL_{i}" for i in range(number)}

    def _set_labels(self, id2label: Any, label2id: Any, num_labels: Any) -> None:
        """The constructor's three ways to describe the labels; None = not given. What is not given follows."""
        if label2id is not None:
            self.label2id = label2id
        if id2label is not None:
            if label2id is not None and id2label != self.id2label:
                raise self._contradiction(id2label, label2id)
            self.id2label = id2label
        if num_labels is not None:
            if (id2label is not None or label2id is not None) and num_labels != self.num_labels:
                raise ValueError(
                    f"{type(self).__name__}: num_labels={num_labels!r}, but id2label names {self.num_labels} labels: "
                    "drop one of them."
                )
            self._set_num_labels(num_labels)
        self.validate()

    def _follow(self, label2id: dict[str, int] | None) -> dict[str, int]:
        """Let `id2label` follow a new `label2id`; None = let `label2id` follow `id2label`."""
        if label2id is None:
            return {label: i for i, label in self.id2label.items()}
        inverse = {number: label for label, number in sorted(label2id.items(), key=lambda item: item[1])}
        if len(inverse) != len(label2id) or not is_label_names(inverse):
            raise ValueError(
                f"{type(self).__name__}.label2id = {label2id!r}: expected the numbers 0 to {len(label2id) - 1}, "
                "each once."
            )
        object.__setattr__(self, "id2label", inverse)
        return label2id

    def _contradiction(self, id2label: Any, label2id: Any) -> ValueError:
        return ValueError(
            f"{type(self).__name__}: id2label {id2label!r} and label2id {label2id!r} contradict each other: "
            "give one of them, the other follows."
        )

    # -- JSON ------------------------------------------------------------------------------------------------------

    @property
    def unknown_keys(self) -> dict[str, Any]:
        """Keys of `config.json` that minitf does not know: kept, written back, and without any effect.

        Keys that only say where the file comes from (`_name_or_path`, `transformers_version`) are kept but not listed.
        """
        known = (*self._PROVENANCE, *self._REFUSED)  # a refused key that is here has the value that is implemented
        return {key: value for key, value in self._kept.items() if key not in known}

    @property
    def _kept(self) -> dict[str, Any]:
        kept: dict[str, Any] = self.__dict__.get("_unknown", {})
        return kept

    def to_dict(self) -> dict[str, Any]:
        """All keys as plain values, unknown ones included, `model_type` first; a deep copy."""
        known = {name: getattr(self, name) for name in self._fields() if name not in self._NOT_IN_JSON}
        return copy.deepcopy({"model_type": self.model_type, **known, **self._kept})

    def to_json_string(self) -> str:
        """The text of `config.json`: every key, also those with default values, sorted, `torch_dtype` for dtype.

        Raises:
            ValueError: a value that JSON cannot hold (an activation given as a function); keys that contradict each
                other, which could not be read back.
        """
        self.validate()
        values = self.to_dict()
        # The name that every version of transformers reads.
        values["torch_dtype"] = values.pop("dtype")
        functions = [key for key, value in values.items() if callable(value)]
        if functions:
            raise ValueError(
                f"{type(self).__name__}.{functions[0]} is a function, which JSON cannot hold: register it in "
                "minitf.activations.ACT2FN and set its name."
            )
        return json.dumps(values, indent=2, sort_keys=True, ensure_ascii=False) + "\n"

    @strict_keywords
    def to_json_file(self, json_file_path: str | os.PathLike[str]) -> None:
        """Write `to_json_string()` all or nothing (temporary file, fsync, rename)."""
        from weights_tools.atomic import write_atomically

        write_atomically(Path(json_file_path), self.to_json_string().encode())

    @strict_keywords
    def save_pretrained(self, save_directory: str | os.PathLike[str]) -> None:
        """Write `config.json` into a folder, which is made if need be.

        Raises:
            ValueError: an empty or missing name, or a value that JSON cannot hold. NotADirectoryError: a file.
        """
        folder = folder_to_write(save_directory)
        self.to_json_string()  # fails, if it does, before anything is made
        folder.mkdir(parents=True, exist_ok=True)
        self.to_json_file(folder / CONFIG_NAME)

    @classmethod
    def from_dict(
        cls: type[Config], config_dict: Mapping[str, Any], *, source: str = "the dictionary", **overrides: Any
    ) -> Config:
        """A configuration from the contents of a `config.json`; `overrides` are settings as in the constructor.

        Raises:
            ValueError: another `model_type`; a value that its rule refuses; a known key whose value is not implemented.
            TypeError: an unknown override.
        """
        values: dict[str, Any] = copy.deepcopy(dict(config_dict))
        model_type = values.pop("model_type", None)
        if model_type not in (None, "", cls.model_type):
            raise ValueError(
                f"{source} says model_type {model_type!r}, but {cls.__name__} reads {cls.model_type!r}: "
                "load it with the class of that architecture."
            )
        cls._refuse(values, source)
        overrides = cls._resolve(overrides)
        for key in ("id2label", "pruned_heads"):  # JSON keys are strings
            if isinstance(values.get(key), dict):
                values[key] = _integer_keys(values[key], f"{source}: {key}")
        labels = cls._labels_of(values, overrides, source)
        known = {key: value for key, value in values.items() if cls._aliases().get(key, key) in cls._fields()}
        unknown = {key: value for key, value in values.items() if key not in known}
        try:
            resolved = cls._resolve({**known, **labels})
        except TypeError as error:  # one setting under two names with two values
            raise ValueError(f"{source}: {error}") from error
        try:
            config: Config = cls(**{**resolved, **overrides})
        except ValueError as error:
            raise ValueError(f"{source}: {error}") from error
        object.__setattr__(config, "_unknown", unknown)
        return config

    @classmethod
    def _refuse(cls, values: Mapping[str, Any], source: str) -> None:
        for key, (implemented, why) in cls._REFUSED.items():
            if key in values and values[key] != implemented:
                raise ValueError(f"{source} has {key} = {values[key]!r}, but {why}: expected {implemented!r}.")

    @classmethod
    def _labels_of(cls, values: dict[str, Any], overrides: Mapping[str, Any], source: str) -> dict[str, Any]:
        """Take the label keys out of a file's `values`; returns those that hold beside the overrides.

        Published files write null for "the default", and old ones count the labels (`num_labels`, `_num_labels`)
        beside naming them.
        """
        names = {key: values.pop(key, None) for key in ("id2label", "label2id")}
        names = {key: value for key, value in names.items() if value is not None}
        counts = [count for key in ("num_labels", "_num_labels") if (count := values.pop(key, None)) is not None]
        if overrides.get("id2label") is not None or overrides.get("label2id") is not None:
            return {}  # the caller names the labels: nothing of the file's applies
        if overrides.get("num_labels") is not None:  # the file's names hold as long as their number is right
            return names if all(len(value) == overrides["num_labels"] for value in names.values()) else {}
        if any(count != counts[0] for count in counts):
            raise ValueError(
                f"{source} has num_labels = {counts[0]!r} and _num_labels = {counts[1]!r}: drop one of them."
            )
        return {**names, "num_labels": counts[0]} if counts else names

    @classmethod
    def from_json_file(cls: type[Config], json_file: str | os.PathLike[str], **overrides: Any) -> Config:
        """A configuration from one JSON file of any name."""
        return cls.from_dict(read_json(Path(json_file)), source=str(json_file), **overrides)

    @classmethod
    def get_config_dict(
        cls,
        pretrained_model_name_or_path: str | os.PathLike[str],
        *,
        cache_dir: str | os.PathLike[str] | None = None,
        revision: str = "main",
        subfolder: str = "",
        local_files_only: bool = False,
        token: str | bool | None = None,
        endpoint: str | None = None,
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """`(contents of config.json, {})`, as in transformers, where the second part held unused keywords."""
        hub = {
            "cache_dir": cache_dir,
            "revision": revision,
            "subfolder": subfolder,
            "local_files_only": local_files_only,
            "token": token,
            "endpoint": endpoint,
        }
        path = _config_file(pretrained_model_name_or_path, hub)
        return read_json(path), {}

    @classmethod
    def from_pretrained(
        cls: type[Config],
        pretrained_model_name_or_path: str | os.PathLike[str],
        *,
        cache_dir: str | os.PathLike[str] | None = None,
        revision: str = "main",
        subfolder: str = "",
        local_files_only: bool = False,
        token: str | bool | None = None,
        endpoint: str | None = None,
        **overrides: Any,
    ) -> Config:
        """Read a configuration from a folder, a JSON file or a model name; `overrides` replace single keys.

        Args:
            pretrained_model_name_or_path: a folder that holds `config.json`, a JSON file of any name (Google's
                bert_config.json and OpenAI's hparams.json are understood), or a name on the Hugging Face hub (looked
                for in the local cache first).
            subfolder: the folder inside, where the files are.
            cache_dir, revision, local_files_only, token, endpoint: for names, see `weights_tools.hub.resolve`.
            **overrides: settings as in the constructor, e.g. `num_hidden_layers=10`.

        Raises:
            FileNotFoundError: no such file; the message says what was looked for.
            ValueError: not JSON, or a value that is refused.
            TypeError: an unknown override.
        """
        hub = {
            "cache_dir": cache_dir,
            "revision": revision,
            "subfolder": subfolder,
            "local_files_only": local_files_only,
            "token": token,
            "endpoint": endpoint,
        }
        path = _config_file(pretrained_model_name_or_path, hub)
        original, names = cls.original_file
        values = {names.get(key, key) if path.name == original else key: v for key, v in read_json(path).items()}
        return cls.from_dict(values, source=str(path), **overrides)

    # -- Python's protocols ----------------------------------------------------------------------------------------

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and isinstance(other, PretrainedConfig) and self.to_dict() == other.to_dict()

    __hash__ = None  # type: ignore[assignment]  # mutable

    def __repr__(self) -> str:
        return f"{type(self).__name__} {json.dumps(self.to_dict(), indent=2, sort_keys=True, default=repr)}"


def folder_to_write(save_directory: str | os.PathLike[str]) -> Path:
    """The folder of a `save_pretrained`, as a path.

    Raises:
        ValueError: an empty name or None, which would mean the working directory without saying so.
        NotADirectoryError: there is a file of that name.
    """
    if save_directory is None or not str(save_directory):
        raise ValueError(f"save_directory = {save_directory!r}: expected a folder; the working directory is '.'.")
    folder = Path(save_directory)
    if folder.is_file():
        raise NotADirectoryError(f"{folder} is a file; save_pretrained needs a folder.")
    return folder


def _integer_keys(mapping: Mapping[Any, Any], where: str) -> dict[int, Any]:
    try:
        integers = {int(key) if isinstance(key, str) else key: value for key, value in mapping.items()}
    except ValueError as error:
        raise ValueError(f"{where} = {dict(mapping)!r}: expected integers as keys.") from error
    if len(integers) != len(mapping):
        raise ValueError(f"{where} = {dict(mapping)!r}: a number stands there twice.")
    return integers


def _config_file(name_or_path: str | os.PathLike[str], hub: Mapping[str, Any]) -> Path:
    from weights_tools.hub import resolve
    from weights_tools.regular import is_there

    path = resolve(name_or_path, filenames=(CONFIG_NAME,), **hub)
    if not path.is_dir():
        return path
    if not is_there(path / CONFIG_NAME):
        present = ", ".join(sorted(p.name for p in path.iterdir())[:12]) or "nothing"
        raise FileNotFoundError(f"{path} holds no {CONFIG_NAME} (it holds: {present}).")
    return path / CONFIG_NAME


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file; a doubled key is an error, because one of the two values would be dropped silently."""
    from weights_tools.recognise import not_weights, what_is_it
    from weights_tools.regular import MAX_CONFIG_BYTES, read_text, unique_keys

    try:
        text = read_text(path, MAX_CONFIG_BYTES, expected="a JSON file")
        kind = what_is_it(text[:512].encode(), len(text))
        if kind.startswith(("a Git-LFS", "an HTML")):
            raise not_weights(path, kind, expected="a configuration in JSON")
        values = json.loads(text, object_pairs_hook=unique_keys)
    except (ValueError, RecursionError) as error:  # JSONDecodeError and UnicodeDecodeError are ValueErrors
        raise ValueError(f"{path} is not a readable JSON file: {error}") from error
    if not isinstance(values, dict):
        raise ValueError(
            f"{path} holds a JSON {type(values).__name__}; expected an object with the configuration's keys."
        )
    return values


# --------------------------------------------------------------------------------------------------------------------
# The architectures


@dataclass(kw_only=True, repr=False, eq=False)
class BertConfig(PretrainedConfig):
    """Configuration of BERT (arXiv:1810.04805); the defaults are those of bert-base-uncased.

    Attributes:
        vocab_size: V, rows of the word embeddings.
        hidden_size: C, width of the residual stream; divisible by `num_attention_heads`.
        num_hidden_layers: L.
        num_attention_heads: H; the head size D is `hidden_size / num_attention_heads`.
        intermediate_size: F, width of the feed-forward layer (4 C in the paper).
        hidden_act: activation of the feed-forward layer, a name in `minitf.activations.ACT2FN` or a function.
        hidden_dropout_prob, attention_probs_dropout_prob: dropout while training.
        max_position_embeddings: longest sequence.
        type_vocab_size: number of segments (sentence A, sentence B).
        initializer_range: standard deviation of fresh weights.
        layer_norm_eps: 1e-12, Google's value; torch's own default is 1e-5.
        pad_token_id: its word embedding starts at 0 and gets no gradient.
        position_embedding_type: "absolute", "relative_key" (arXiv:1803.02155) or "relative_key_query"
            (arXiv:2009.13658).
        is_decoder: causal attention. add_cross_attention: each layer also attends to an encoder.
        classifier_dropout: of the classification heads; None means `hidden_dropout_prob`.
    """

    model_type: ClassVar[str] = "bert"
    original_file: ClassVar[tuple[str, dict[str, str]]] = ("bert_config.json", {})  # of Google

    vocab_size: int = positive(30522)
    hidden_size: int = positive(768)
    num_hidden_layers: int = positive(12)
    num_attention_heads: int = positive(12)
    intermediate_size: int = positive(3072)
    hidden_act: str | Callable[[Any], Any] = activation("gelu")
    hidden_dropout_prob: float = probability(0.1)
    attention_probs_dropout_prob: float = probability(0.1)
    max_position_embeddings: int = positive(512)
    type_vocab_size: int = positive(2)
    initializer_range: float = positive_number(0.02)
    layer_norm_eps: float = positive_number(1e-12)
    pad_token_id: int | None = optional_id(0)
    position_embedding_type: str = one_of("absolute", "absolute", "relative_key", "relative_key_query")
    use_cache: bool = flag(True)
    classifier_dropout: float | None = optional_probability(None)
    is_decoder: bool = flag(False)
    add_cross_attention: bool = flag(False)
    gradient_checkpointing: bool = flag(False)
    torchscript: bool = flag(False)
    bos_token_id: int | None = optional_id(None)
    eos_token_id: int | list[int] | None = optional_ids(None)

    def validate(self) -> None:
        super().validate()
        if self.hidden_size % self.num_attention_heads != 0:
            raise ValueError(
                f"BertConfig.hidden_size = {self.hidden_size} is not divisible by num_attention_heads = "
                f"{self.num_attention_heads}: each head has hidden_size / num_attention_heads columns."
            )
        if self.pad_token_id is not None and self.pad_token_id >= self.vocab_size:
            raise ValueError(
                f"BertConfig.pad_token_id = {self.pad_token_id} is outside of the vocabulary of "
                f"{self.vocab_size} words."
            )
        if self.add_cross_attention and not self.is_decoder:
            raise ValueError("BertConfig.add_cross_attention = True needs is_decoder = True.")


@dataclass(kw_only=True, repr=False, eq=False)
class GPT2Config(PretrainedConfig):
    """Configuration of GPT-2; the defaults are those of the smallest model (124M).

    Attributes:
        vocab_size: V, rows of the word embeddings.
        n_positions: longest sequence. n_embd: C, divisible by `n_head`. n_layer: L. n_head: H.
        n_inner: F, width of the feed-forward layer; None means 4 C.
        activation_function: OpenAI's tanh approximation of GELU is called "gelu_new".
        resid_pdrop, embd_pdrop, attn_pdrop: dropout while training.
        layer_norm_epsilon: 1e-5.
        initializer_range: standard deviation of fresh weights; layers that write into the residual stream get this
            divided by sqrt(2 L).
        summary_*: the second head of GPT2DoubleHeadsModel.
        scale_attn_weights: scale the scores by 1 / sqrt(D). scale_attn_by_inverse_layer_idx: and by 1 / (layer + 1).
        reorder_and_upcast_attn: scores and softmax in float32 where the model is in half precision.
        add_cross_attention: each layer also attends to an encoder.

    The names of other architectures work too: `hidden_size`, `max_position_embeddings`, `num_attention_heads`,
    `num_hidden_layers`.
    """

    model_type: ClassVar[str] = "gpt2"
    original_file: ClassVar[tuple[str, dict[str, str]]] = (
        "hparams.json",  # of OpenAI
        {"n_vocab": "vocab_size", "n_ctx": "n_positions"},
    )
    attribute_map: ClassVar[dict[str, str]] = {
        "hidden_size": "n_embd",
        "max_position_embeddings": "n_positions",
        "num_attention_heads": "n_head",
        "num_hidden_layers": "n_layer",
    }

    vocab_size: int = positive(50257)
    n_positions: int = positive(1024)
    n_embd: int = positive(768)
    n_layer: int = positive(12)
    n_head: int = positive(12)
    n_inner: int | None = ruled(None, "an integer >= 1, or None", lambda v: v is None or (is_integer(v) and v >= 1))
    activation_function: str | Callable[[Any], Any] = activation("gelu_new")
    resid_pdrop: float = probability(0.1)
    embd_pdrop: float = probability(0.1)
    attn_pdrop: float = probability(0.1)
    layer_norm_epsilon: float = positive_number(1e-5)
    initializer_range: float = positive_number(0.02)
    summary_type: str = one_of("cls_index", "cls_index", "last", "first", "mean")
    summary_use_proj: bool = flag(True)
    summary_activation: str | None = ruled(
        None, "the name of an implemented activation, or None", lambda v: v is None or is_activation(v)
    )
    summary_proj_to_labels: bool = flag(True)
    summary_first_dropout: float = probability(0.1)
    scale_attn_weights: bool = flag(True)
    scale_attn_by_inverse_layer_idx: bool = flag(False)
    reorder_and_upcast_attn: bool = flag(False)
    use_cache: bool = flag(True)
    classifier_dropout: float | None = optional_probability(None)
    add_cross_attention: bool = flag(False)
    chunk_size_feed_forward: int = ruled(
        0, "0, because GPT-2's feed-forward layer does not run in pieces", lambda v: is_integer(v) and v == 0
    )
    gradient_checkpointing: bool = flag(False)
    torchscript: bool = flag(False)
    bos_token_id: int | None = optional_id(50256)
    eos_token_id: int | list[int] | None = optional_ids(50256)
    pad_token_id: int | None = optional_id(None)

    def validate(self) -> None:
        super().validate()
        if self.n_embd % self.n_head != 0:
            raise ValueError(
                f"GPT2Config.n_embd = {self.n_embd} is not divisible by n_head = {self.n_head}: each head has "
                "n_embd / n_head columns."
            )
