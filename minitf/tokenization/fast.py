"""`BertTokenizerFast` and `GPT2TokenizerFast`: the same as wordpiece.py and bpe.py, on the `tokenizers` library."""

from __future__ import annotations

import copy
import json
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Encoding, Tokenizer
from tokenizers.models import BPE, WordPiece
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import ByteLevel

from minitf.tokenization import files
from minitf.tokenization.bert import BertTokenizerBase
from minitf.tokenization.call import Plan
from minitf.tokenization.encoding import TOO_SHORT, no_step
from minitf.tokenization.engine import Engine, Input
from minitf.tokenization.gpt2 import GPT2TokenizerBase, warn_if_bytes_vanish
from minitf.tokenization.recipes import (
    ByteLevelRecipe,
    WordPieceRecipe,
    byte_level_files,
    pairs_of,
    processor_of,
    template_of,
    wordpiece_files,
)
from minitf.tokenization.template import Template


class FastEngine(Engine):
    """A `tokenizers.Tokenizer`. Its padding and truncation are state, so they are set and reset at each call."""

    def __init__(self, backend: Tokenizer, template: Template | None) -> None:
        self.backend = backend
        self._template = template
        self._lock = threading.Lock()
        self._renamed: dict[int, AddedToken] = {}
        self._find_renamed()

    def _find_renamed(self) -> None:
        # tokenizers 0.23 shows an added token by its normalized form ("NewTok" as "newtok"), and does not skip it then
        # if it is special; older versions do not. The token as it was added is right, under every version.
        added = self.backend.get_added_tokens_decoder().items()
        self._renamed = {number: token for number, token in added if token.normalized}

    @classmethod
    def of_json(cls, path: Path, text: str) -> FastEngine:
        """The pipeline of a tokenizer.json, whatever it is, without the padding and truncation stored in it.

        Published files carry settings of somebody's last call (the MiniLM checkpoint: truncate to 128 and pad to 128).
        Acting on them would change every result without a word, so they are reset: padding and truncation come from the
        call only. Raises ValueError for a file that is not one, and for ids with gaps.
        """
        try:
            backend = Tokenizer.from_str(text)
        except Exception as error:  # the library raises plain Exception
            raise ValueError(f"{path} is not a tokenizer.json ({error})") from None
        backend.no_truncation()
        backend.no_padding()
        count = backend.get_vocab_size()
        missing = next((number for number in range(count) if backend.id_to_token(number) is None), None)
        files.check_gap(missing, count, str(path))
        return cls(backend, template_of(json.loads(text)))

    def token_to_id(self, token: str) -> int | None:
        number: int | None = self.backend.token_to_id(token)
        return number

    def id_to_token(self, number: int) -> str | None:
        if number in self._renamed:
            return str(self._renamed[number].content)
        token: str | None = self.backend.id_to_token(number) if 0 <= number < 2**32 else None
        return token

    def size(self, *, added: bool) -> int:
        return int(self.backend.get_vocab_size(with_added_tokens=added))

    def vocabulary(self, *, added: bool) -> dict[str, int]:
        vocabulary: dict[str, int] = self.backend.get_vocab(with_added_tokens=added)
        return vocabulary

    def added_tokens(self) -> dict[int, AddedToken]:
        return dict(sorted(self.backend.get_added_tokens_decoder().items()))

    def add(self, tokens: Sequence[AddedToken]) -> None:
        for token in tokens:
            (self.backend.add_special_tokens if token.special else self.backend.add_tokens)([token])
        self._find_renamed()

    @property
    def template(self) -> Template | None:
        return self._template

    @template.setter
    def template(self, template: Template) -> None:
        self._template = template
        self.backend.post_processor = processor_of(template)

    def added(self, pair: bool) -> int:
        return int(self.backend.num_special_tokens_to_add(pair))

    def encode(
        self, inputs: Sequence[Input], plan: Plan, *, special: bool, words: bool, split_special: bool
    ) -> Sequence[Encoding]:
        with self._lock:
            try:
                if plan.truncation is not None:
                    self.backend.enable_truncation(**plan.truncation)
                if plan.padding is not None:
                    self.backend.enable_padding(**plan.padding)
                self.backend.encode_special_tokens = split_special
                encodings: list[Encoding] = self.backend.encode_batch(
                    inputs, is_pretokenized=words, add_special_tokens=special
                )
                return encodings
            except BaseException as error:
                # The library raises plain Exception, and an error of its own kind where it panics.
                if TOO_SHORT in str(error):
                    raise ValueError(TOO_SHORT) from None
                if "stride" in str(error):
                    raise ValueError(no_step(plan.truncation["stride"] if plan.truncation else 0)) from None
                raise
            finally:
                self.backend.no_truncation()
                self.backend.no_padding()

    def decode(self, ids: Sequence[int], *, skip_special: bool) -> str:
        if self._renamed.keys().isdisjoint(ids):
            return str(self.backend.decode(list(ids), skip_special_tokens=skip_special))
        special = {number for number, token in self.added_tokens().items() if token.special} if skip_special else set()
        return self.join([str(self.id_to_token(number)) for number in ids if number not in special])

    def join(self, tokens: Sequence[str]) -> str:
        decoder = self.backend.decoder
        return str(decoder.decode(list(tokens))) if decoder is not None else " ".join(tokens)

    @property
    def model_unk(self) -> str | None:
        unk: str | None = getattr(self.backend.model, "unk_token", None)
        return unk

    def settings(self) -> dict[str, Any]:
        normalizer, splitter = self.backend.normalizer, self.backend.pre_tokenizer
        found: dict[str, Any] = {}
        if isinstance(normalizer, BertNormalizer):
            found["do_lower_case"] = normalizer.lowercase
            found["strip_accents"] = normalizer.strip_accents
            found["tokenize_chinese_chars"] = normalizer.handle_chinese_chars
        if isinstance(splitter, ByteLevel):
            found["add_prefix_space"] = splitter.add_prefix_space
        return found

    def files(self) -> dict[str, str]:
        vocabulary = self.vocabulary(added=False)
        if isinstance(self.backend.model, WordPiece):
            return wordpiece_files(vocabulary)
        if isinstance(self.backend.model, BPE):
            merges = json.loads(self.backend.to_str())["model"]["merges"]
            return byte_level_files(vocabulary, pairs_of(merges))
        return {}

    def tokenizer_json(self) -> str | None:
        return str(self.backend.to_str(pretty=True))

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_lock"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _lock=threading.Lock())

    def __copy__(self) -> FastEngine:
        return copy.deepcopy(self)  # a shallow copy would share the backend, whose tokens can be changed


def _kind(backend: Tokenizer, path: Path, known: tuple[str, ...], reader: str) -> None:
    kind = type(backend.model).__name__
    if kind not in known:
        raise ValueError(f"{path} holds a {kind} model; {reader} reads {' and '.join(known)}")


class BertTokenizerFast(BertTokenizerBase):
    """`BertTokenizer` on the `tokenizers` library: the same results, many times faster.

    It has no `never_split` and no `do_basic_tokenize=False`, and reads any tokenizer.json with a WordPiece or WordLevel
    model, whatever its other parts are.
    """

    is_fast = True

    @property
    def backend_tokenizer(self) -> Tokenizer:
        """The `tokenizers.Tokenizer` inside."""
        return _backend_of(self._engine)

    @classmethod
    def _engine_of_recipe(cls, recipe: WordPieceRecipe) -> FastEngine:
        backend = recipe.backend()
        if backend is None:
            name = f"never_split={list(recipe.never_split)}" if recipe.never_split else "do_basic_tokenize=False"
            raise ValueError(f"{name} is not possible on the tokenizers library: use BertTokenizer (plain Python)")
        return FastEngine(backend, None)

    @classmethod
    def _engine_of_json(cls, path: Path, text: str, stated: Mapping[str, Any]) -> FastEngine:
        engine = FastEngine.of_json(path, text)
        _kind(engine.backend, path, cls.MODEL_KINDS, cls.__name__)
        cls._refuse_slow_options(stated)
        options = {name: stated[name] for name in _NORMALIZER_OPTIONS if name in stated}
        if not options:
            return engine
        present = engine.backend.normalizer
        if present is not None and not isinstance(present, BertNormalizer):
            raise ValueError(
                f"{path}: {', '.join(f'{k}={v}' for k, v in options.items())} cannot be applied to its "
                f"{type(present).__name__} normalizer; leave it out, or load the vocab.txt instead"
            )
        merged: dict[str, Any] = {name: cls.DEFAULTS[name] for name in _NORMALIZER_OPTIONS}
        if present is not None:
            merged = engine.settings()
        merged |= options
        engine.backend.normalizer = BertNormalizer(
            clean_text=True if present is None else present.clean_text,
            handle_chinese_chars=merged["tokenize_chinese_chars"],
            strip_accents=merged["strip_accents"],
            lowercase=merged["do_lower_case"],
        )
        return engine

    @classmethod
    def _refuse_slow_options(cls, stated: Mapping[str, Any]) -> None:
        if stated.get("never_split") or not stated.get("do_basic_tokenize", True):
            cls._engine_of_recipe(
                WordPieceRecipe(
                    {}, basic=stated.get("do_basic_tokenize", True), never_split=stated.get("never_split", ())
                )
            )


_NORMALIZER_OPTIONS = ("do_lower_case", "strip_accents", "tokenize_chinese_chars")


class GPT2TokenizerFast(GPT2TokenizerBase):
    """`GPT2Tokenizer` on the `tokenizers` library: the same results, many times faster.

    It reads any tokenizer.json with a BPE model, and has no `errors` other than "replace".
    """

    is_fast = True

    @property
    def backend_tokenizer(self) -> Tokenizer:
        """The `tokenizers.Tokenizer` inside."""
        return _backend_of(self._engine)

    @classmethod
    def _engine_of_recipe(cls, recipe: ByteLevelRecipe) -> FastEngine:
        backend = recipe.backend()
        if backend is None:
            raise ValueError(
                f"errors={recipe.errors!r} is not possible on the tokenizers library: use GPT2Tokenizer (plain Python)"
            )
        return FastEngine(backend, None)

    @classmethod
    def _engine_of_json(cls, path: Path, text: str, stated: Mapping[str, Any]) -> FastEngine:
        engine = FastEngine.of_json(path, text)
        _kind(engine.backend, path, cls.MODEL_KINDS, cls.__name__)
        if stated.get("errors", "replace") != "replace":
            cls._engine_of_recipe(ByteLevelRecipe({}, (), errors=stated["errors"]))
        if isinstance(engine.backend.pre_tokenizer, ByteLevel):
            warn_if_bytes_vanish(engine.vocabulary(added=False), engine.model_unk, str(path))
        if "add_prefix_space" in stated:
            splitter = engine.backend.pre_tokenizer
            if not isinstance(splitter, ByteLevel):
                kind = "none" if splitter is None else type(splitter).__name__
                if stated["add_prefix_space"]:
                    raise ValueError(f"{path}: add_prefix_space=True cannot be applied to its pre_tokenizer ({kind})")
                return engine
            splitter.add_prefix_space = stated["add_prefix_space"]
            engine.backend.pre_tokenizer = splitter
        return engine


def _backend_of(engine: Engine) -> Tokenizer:
    assert isinstance(engine, FastEngine)
    return engine.backend
