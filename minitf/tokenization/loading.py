"""`from_pretrained` of all tokenizers: from a folder, file or name to an engine and its options."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from minitf.tokenization import files
from minitf.tokenization.engine import Engine, PythonEngine
from minitf.tokenization.options import GENERIC_CLASSES, SPECIAL_TOKENS, added_token, read_settings
from minitf.tokenization.recipes import NotThisPipeline, added_tokens_of, model_kind, template_of
from weights_tools.hub import resolve


@dataclass(frozen=True)
class Source:
    """What is known of a tokenizer before it is built.

    paths: a tokenizer.json, or the vocabulary files. stated: options that the folder's settings state. config: what
    else they hold. keywords: options of the call. folder: None if a single file was given.
    """

    paths: list[Path]
    stated: dict[str, Any]
    config: dict[str, Any]
    keywords: dict[str, Any]
    folder: Path | None

    @property
    def is_backend(self) -> bool:
        """Whether it is a tokenizer.json."""
        return len(self.paths) == 1 and self.paths[0].suffix == ".json"

    @property
    def is_generic(self) -> bool:
        """Whether the tokenizer.json is the whole truth, because its class is none of a family."""
        return self.is_backend and self.config.get("tokenizer_class") in GENERIC_CLASSES

    @property
    def in_force(self) -> dict[str, Any]:
        """The options that override a tokenizer.json."""
        return self.keywords if self.is_generic else self.stated | self.keywords


def find(
    name: str | os.PathLike[str],
    keywords: Mapping[str, Any],
    defaults: Mapping[str, Any],
    vocabulary_files: tuple[str, ...],
    hub: Mapping[str, Any],
) -> Source:
    """Look up `name`. keywords: options of the call, checked. hub: keywords of `weights_tools.hub.resolve`.

    Raises FileNotFoundError if there is no such place or no tokenizer in it, ValueError for settings of the wrong form.
    """
    wanted = (files.BACKEND_FILE, *vocabulary_files, *files.SETTINGS_FILES)
    # The settings first: see `Want.chosen`. config.json too, by which AutoTokenizer chooses.
    essential = ((files.BACKEND_FILE,), vocabulary_files)
    place = resolve(name, filenames=(files.CONFIG_FILE, *wanted), essential=essential, **hub)
    if not place.is_dir():
        return Source([place], {}, {}, dict(keywords), None)
    paths = files.find_files(place, vocabulary_files)
    stated, config = read_settings(place, defaults)
    if "never_split" in stated:  # old versions wrote the special tokens there, which are never split anyway
        special = {str(stated.get(token, defaults[token])) for token in SPECIAL_TOKENS}
        stated["never_split"] = tuple(word for word in stated["never_split"] if word not in special)
    return Source(paths, stated, config, dict(keywords), place)


def python_engine(cls: Any, recipe_class: Any, path: Path, text: str, changes: Mapping[str, Any]) -> PythonEngine:
    """The engine in plain Python for a tokenizer.json.

    cls: the tokenizer's class. changes: fields of the recipe that options override. Raises ValueError for a file that
    is none, or whose pipeline is another than the recipe's.
    """
    from dataclasses import replace

    content = files.parse_backend(path, text)
    try:
        recipe = recipe_class.of_json(content)
        template = template_of(content)
        if template is None:
            raise NotThisPipeline(f"its post_processor is {content['post_processor']['type']}")
    except NotThisPipeline as error:
        remedy = f"use {cls.__name__}Fast, on the tokenizers library"
        if model_kind(content["model"]) not in cls.MODEL_KINDS:
            remedy = f"{cls.__name__} is for {' and '.join(cls.MODEL_KINDS)}; AutoTokenizer finds the right class"
        raise ValueError(f"{path}: {error}, which plain Python does not follow: {remedy}") from None
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is not a tokenizer.json ({type(error).__name__}: {error})") from None
    added = added_tokens_of(content)
    numbers = {*recipe.vocabulary.values(), *added}
    count = len({*recipe.vocabulary, *(token.content for token in added.values())})
    files.check_gap(next((number for number in range(count) if number not in numbers), None), count, str(path))
    engine: PythonEngine = cls._engine_of_recipe(replace(recipe, **changes))
    for number, token in sorted(added.items()):
        engine.add([token])
        check_number(engine, number, token.content, str(path))
    engine.template = template
    return engine


def add_stated(engine: Engine, source: Source) -> None:
    """Add the tokens that the settings of a folder state, and set the flags of special tokens in their long form.

    Raises ValueError when a token's stated id is not the one it would get.
    """
    if source.folder is None:
        return
    stated = files.stated_tokens(source.folder, source.config, from_vocabulary=not source.is_backend)
    for number, token in stated.items():
        # For a piece of the vocabulary this only sets the flags (special: never split, skipped by decode).
        engine.add([token])
        check_number(engine, number, token.content, str(source.folder))
    known = {token.content for token in engine.added_tokens().values()}
    flagged = {value["content"]: value for value in source.config.get("_tokens", ())}  # in their long form
    for content, value in flagged.items():
        if content not in known and engine.token_to_id(content) is not None:
            engine.add([added_token(value, special=True)])
    extra = source.stated.get("additional_special_tokens", ())
    engine.add([added_token(flagged.get(token, token), special=True) for token in extra if token not in known])


def check_number(engine: Engine, number: int, content: str, origin: str) -> None:
    """ValueError if a token did not get the id that was stated for it."""
    actual = engine.token_to_id(content)
    if actual != number:
        raise ValueError(f"{origin}: added token {content!r} is stated with id {number}, but would get id {actual}")


def require_specials(has: Any, options: Mapping[str, Any], origin: str) -> None:
    """ValueError for special tokens that the vocabulary lacks. has: whether a token is there."""
    missing = {
        name: options[name] for name in SPECIAL_TOKENS if options.get(name) is not None and not has(options[name])
    }
    if missing:
        listed = ", ".join(f"{name} {token!r}" for name, token in missing.items())
        first = next(iter(missing))
        raise ValueError(
            f"{origin} has no {listed}: name the token that it uses ({first}=...), or None if the model has none "
            f"({first}=None)"
        )
