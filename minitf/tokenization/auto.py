"""`AutoTokenizer`: chooses the tokenizer of a checkpoint by what its files say, in this order.

1. `tokenizer_class` in tokenizer_config.json, then in config.json (where transformers 3 wrote it);
2. else the architecture of config.json (`minitf.architectures`);
3. else the tokenizer.json itself, which holds all its parts: a WordPiece model gives BERT's class, a byte-level BPE
   model GPT-2's, and any other `PreTrainedTokenizerFast`.

If the class or architecture is one that minitf has not, but there is a tokenizer.json, the third step decides, with a
warning. The classic vocabulary files alone decide nothing: a vocab.txt is read in one way by BERT and in another by
others.
"""

from __future__ import annotations

import importlib
import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from minitf.architectures import ARCHITECTURES, described_type
from minitf.keywords import strict_keywords
from minitf.tokenization import files
from minitf.tokenization.options import GENERIC_CLASSES, read_json
from minitf.tokenization.recipes import model_kind
from weights_tools.hub import resolve
from weights_tools.regular import is_there

if TYPE_CHECKING:
    from minitf.tokenization.base import Tokenizer

__all__ = ["AutoTokenizer"]

logger = logging.getLogger("minitf.tokenization")

CONFIG_FILE = files.CONFIG_FILE
VOCABULARY_FILES = ("vocab.txt", "vocab.json", "merges.txt")
REMEDY = "A tokenizer of your own is added by AutoTokenizer.register."
WANTED = (files.BACKEND_FILE, *VOCABULARY_FILES, *files.SETTINGS_FILES, CONFIG_FILE)


@dataclass(frozen=True)
class Pair:
    """The two forms of one tokenizer: plain Python, and on the `tokenizers` library. None: it has no such form."""

    slow: type[Any] | None
    fast: type[Any] | None

    def form(self, use_fast: bool) -> type[Any]:
        """The class for this form; ValueError if there is none."""
        chosen, other = (self.fast, self.slow) if use_fast else (self.slow, self.fast)
        if chosen is None:
            assert other is not None
            lacking = "on the tokenizers library" if use_fast else "in plain Python"
            raise ValueError(f"use_fast={use_fast}: {other.__name__} has no form {lacking}")
        return chosen


REGISTERED: dict[str, Pair] = {}
"""model_type -> classes, added by `AutoTokenizer.register`; goes before the table."""


class AutoTokenizer:
    """Chooses the tokenizer class of a checkpoint; see the head of this file for the rule."""

    def __init__(self, name: object = None) -> None:
        raise TypeError(
            "AutoTokenizer chooses a class and has no instances: use AutoTokenizer.from_pretrained(folder)."
        )

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | os.PathLike[str],
        *,
        use_fast: bool = True,
        config: Any = None,
        tokenizer_type: str | None = None,
        cache_dir: str | os.PathLike[str] | None = None,
        revision: str = "main",
        subfolder: str = "",
        local_files_only: bool = False,
        token: str | bool | None = None,
        endpoint: str | None = None,
        **options: Any,
    ) -> Any:
        """The tokenizer of a folder, of a tokenizer.json, or of a hub name, by the chosen class's `from_pretrained`.

        Args:
            pretrained_model_name_or_path: a folder that holds a tokenizer and tokenizer_config.json or config.json (a
                tokenizer.json needs neither); the path of a tokenizer.json; a name on the hub.
            use_fast: the form on the `tokenizers` library (`BertTokenizerFast`); False = the one in plain Python.
            config: a configuration, whose `model_type` decides instead of the files.
            tokenizer_type: a `model_type` that decides instead of the files ("bert").
            subfolder: the folder inside, where the files are.
            cache_dir, revision, local_files_only, token, endpoint: for names, see `weights_tools.hub.resolve`.
            **options: of the chosen class, e.g. `do_lower_case=False`.

        Raises:
            FileNotFoundError: no such place, or no tokenizer in it.
            ValueError: the files do not say which tokenizer it is, or one that is not implemented; damaged files.
            TypeError: an unknown option; both `config` and `tokenizer_type`.
        """
        if not isinstance(use_fast, bool):
            raise TypeError(f"use_fast is {use_fast!r}; expected True or False")
        hub: dict[str, Any] = {
            "cache_dir": cache_dir,
            "revision": revision,
            "subfolder": subfolder,
            "local_files_only": local_files_only,
            "token": token,
            "endpoint": endpoint,
        }
        stated = _stated_type(config, tokenizer_type)
        if stated is not None:
            pair = _pair_of_type(stated)
        else:
            own = _own_vocabularies()
            wanted = dict.fromkeys([*WANTED, *(name for names in own for name in names)])
            essential = ((files.BACKEND_FILE,), ("vocab.txt",), ("vocab.json", "merges.txt"), *own)
            place = resolve(pretrained_model_name_or_path, filenames=[*wanted], essential=essential, **hub)
            pair = _pair_of_place(place)
        return pair.form(use_fast).from_pretrained(pretrained_model_name_or_path, **hub, **options)

    @classmethod
    @strict_keywords
    def register(
        cls,
        config_class: type[Any],
        slow_tokenizer_class: type[Tokenizer] | None = None,
        fast_tokenizer_class: type[Tokenizer] | None = None,
        exist_ok: bool = False,
    ) -> None:
        """Let checkpoints of your own architecture, or whose files name your class, choose a tokenizer of your own.

        Args:
            config_class: its configuration class; the `model_type` counts.
            slow_tokenizer_class, fast_tokenizer_class: subclasses of `Tokenizer`, one or both; `is_fast` says which.
            exist_ok: replace classes that are there already.

        Raises:
            TypeError: not such classes. ValueError: no `model_type`; no class; or classes are there already.
        """
        model_type = getattr(config_class, "model_type", None)
        if not isinstance(model_type, str) or not model_type:
            raise ValueError(f"{config_class!r} has model_type {model_type!r}; expected a configuration class with one")
        for name, tokenizer_class, fast in (
            ("slow_tokenizer_class", slow_tokenizer_class, False),
            ("fast_tokenizer_class", fast_tokenizer_class, True),
        ):
            if tokenizer_class is not None:
                _check_class(name, tokenizer_class, fast)
        if slow_tokenizer_class is None and fast_tokenizer_class is None:
            raise ValueError("no tokenizer class: give slow_tokenizer_class, fast_tokenizer_class or both")
        if (model_type in REGISTERED or model_type in ARCHITECTURES) and not exist_ok:
            raise ValueError(f"model_type {model_type!r} has a tokenizer already: pass exist_ok=True to replace it")
        REGISTERED[model_type] = Pair(slow_tokenizer_class, fast_tokenizer_class)


def _check_class(name: str, tokenizer_class: object, fast: bool) -> None:
    from minitf.tokenization.base import Tokenizer

    if not (isinstance(tokenizer_class, type) and issubclass(tokenizer_class, Tokenizer)):
        raise TypeError(f"{name} is {tokenizer_class!r}; expected a subclass of minitf.tokenization.Tokenizer")
    if tokenizer_class.is_fast is not fast:
        raise TypeError(
            f"{name} is {tokenizer_class.__name__}, whose is_fast is {tokenizer_class.is_fast}: give it as "
            f"{'slow' if fast else 'fast'}_tokenizer_class"
        )


def _implemented() -> str:
    return ", ".join(repr(name) for name in sorted({*ARCHITECTURES, *REGISTERED}))


def _named(name: str) -> Pair:
    """The two forms of a tokenizer of the library, by the name of the plain one."""
    module = importlib.import_module("minitf.tokenization")
    return Pair(getattr(module, name), getattr(module, name + "Fast"))


def _own_vocabularies() -> list[tuple[str, ...]]:
    """The vocabulary files of the registered classes."""
    classes = [form for pair in REGISTERED.values() for form in (pair.slow, pair.fast) if form is not None]
    return list(dict.fromkeys(tuple(form.vocab_files_names.values()) for form in classes))


def _stated_type(config: Any, tokenizer_type: str | None) -> str | None:
    """The `model_type` that the caller decides by, or None."""
    if config is None:
        return tokenizer_type
    if tokenizer_type is not None:
        raise TypeError("config and tokenizer_type both decide which tokenizer it is: give one")
    model_type = getattr(config, "model_type", None)
    if not isinstance(model_type, str):
        raise TypeError(f"config is of type {type(config).__name__}; expected a configuration, with a model_type")
    return model_type


def _pair_of_type(model_type: str) -> Pair:
    if model_type in REGISTERED:
        return REGISTERED[model_type]
    if model_type in ARCHITECTURES:
        return _named(ARCHITECTURES[model_type].tokenizer)
    raise ValueError(f"no tokenizer for the model_type {model_type!r}; there are tokenizers for {_implemented()}")


def _pair_of_place(place: Path) -> Pair:
    """The classes for what lies at `place`, a folder or a file."""
    if not place.is_dir():
        if place.suffix != ".json":
            raise ValueError(
                f"{place} is a single file, which does not say which tokenizer reads it: give the folder, or take the "
                "class itself, such as BertTokenizer.from_pretrained"
            )
        return _pair_of_backend(place)
    backend = place / files.BACKEND_FILE
    name, origin = _stated_class(place)
    if name in GENERIC_CLASSES and is_there(backend):
        return _pair_of_backend(backend)
    if name is not None:
        found = _pair_of_name(name)
        if found is not None:
            return found
        problem = f"{origin} has tokenizer_class {name!r}; implemented are {', '.join(_class_names())}"
    elif is_there(place / CONFIG_FILE):
        values = read_json(place / CONFIG_FILE)
        try:
            return _pair_of_type(described_type(values, str(place / CONFIG_FILE), REGISTERED, REMEDY))
        except ValueError as error:
            problem = str(error)
    elif is_there(backend):
        return _pair_of_backend(backend)
    else:
        raise _nothing_says(place)
    if not is_there(backend):
        raise ValueError(problem)
    pair = _pair_of_backend(backend)
    logger.warning("%s. tokenizer.json is read as it is, by %s", problem.rstrip("."), pair.form(True).__name__)
    return pair


def _stated_class(folder: Path) -> tuple[str | None, Path]:
    """(the `tokenizer_class` that a file of the folder names, the file); (None, ...) if there is none."""
    path = folder / CONFIG_FILE
    for path in (folder / "tokenizer_config.json", folder / CONFIG_FILE):
        name = read_json(path).get("tokenizer_class")
        if name is not None and not isinstance(name, str):
            raise ValueError(f"{path} has tokenizer_class {name!r}; expected the name of a class")
        if name:
            return name, path
    return None, path


def _class_names() -> list[str]:
    """The plain names of all tokenizers that files can name."""
    own = [c.__name__ for pair in REGISTERED.values() for c in (pair.slow, pair.fast) if c is not None]
    return sorted({*(row.tokenizer for row in ARCHITECTURES.values()), *own})


def _pair_of_name(name: str) -> Pair | None:
    for pair in REGISTERED.values():
        if name in {c.__name__ for c in (pair.slow, pair.fast) if c is not None}:
            return pair
    plain = name.removesuffix("Fast")
    return _named(plain) if plain in {row.tokenizer for row in ARCHITECTURES.values()} else None


def _nothing_says(folder: Path) -> Exception:
    """The error for a folder without settings: what is there, what is missing, what to do."""
    held = sorted(entry.name for entry in folder.iterdir())
    if not set(held) & set(WANTED):
        listing = ", ".join(held[:8]) if held else "nothing"
        return FileNotFoundError(
            f"no tokenizer in {folder}: looked for {', '.join(WANTED)}; the folder holds {listing}. Give the folder of "
            "a checkpoint"
        )
    return ValueError(
        f"{folder} holds neither a tokenizer_config.json that names a tokenizer_class nor a {CONFIG_FILE}, so nothing "
        "says which tokenizer it is: add one of them, pass tokenizer_type='bert' (there are tokenizers for "
        f"{_implemented()}), or take the class itself, such as BertTokenizer.from_pretrained"
    )


def _pair_of_backend(path: Path) -> Pair:
    """The classes for the model inside a tokenizer.json: of a family, or the one that reads any."""
    content = files.parse_backend(path, files.read_text(path))
    kind = model_kind(content["model"])
    if kind in ("WordPiece", "WordLevel"):
        return _named("BertTokenizer")
    splitter = content.get("pre_tokenizer")
    if kind == "BPE" and isinstance(splitter, Mapping) and splitter.get("type") == "ByteLevel":
        return _named("GPT2Tokenizer")
    return Pair(None, importlib.import_module("minitf.tokenization").PreTrainedTokenizerFast)
