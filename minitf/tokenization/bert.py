"""What both BERT tokenizers share: options, special tokens around a text, and how they are built."""

from __future__ import annotations

import logging
import os
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from tokenizers import AddedToken

from minitf.tokenization import files, loading
from minitf.tokenization.arguments import UNSET, Unset, strict_keywords
from minitf.tokenization.base import Side, Tokenizer
from minitf.tokenization.engine import Engine
from minitf.tokenization.options import BERT_DEFAULTS, SPECIAL_TOKENS, given
from minitf.tokenization.recipes import WordPieceRecipe
from minitf.tokenization.template import Template, bert_template

logger = logging.getLogger("minitf.tokenization")

T = TypeVar("T", bound="BertTokenizerBase")
Token = str | AddedToken

# Option -> field of the recipe.
RECIPE_FIELDS = {
    "do_lower_case": "lower_case",
    "strip_accents": "strip_accents",
    "tokenize_chinese_chars": "chinese",
    "do_basic_tokenize": "basic",
    "never_split": "never_split",
}


class BertTokenizerBase(Tokenizer):
    """Tokenizer of BERT checkpoints: `BertTokenizer` in plain Python, `BertTokenizerFast` on the `tokenizers` library.

    `BertTokenizer(vocab)` takes the path of a vocabulary file or a mapping from piece to id, and options by keyword;
    `BertTokenizer.from_pretrained(folder)` reads both from a checkpoint. `vocab_file=` is another name of `vocab` for a
    path (transformers 4.x calls it so).

    Options and defaults: do_lower_case=True, do_basic_tokenize=True (False: split at blanks only), never_split=None
    (words left as they are), strip_accents=None (as do_lower_case), tokenize_chinese_chars=True, unk_token="[UNK]",
    sep_token="[SEP]", pad_token="[PAD]", cls_token="[CLS]", mask_token="[MASK]", bos_token=None, eos_token=None (None:
    there is no such token), additional_special_tokens=None, model_max_length=None (tokens the model can read; None: not
    known), padding_side="right", truncation_side="right", clean_up_tokenization_spaces=False,
    split_special_tokens=False.

    Raises ValueError for a vocabulary that lacks a special token, or in which a piece stands twice; TypeError for both
    or neither of `vocab` and `vocab_file`.
    """

    DEFAULTS = BERT_DEFAULTS
    MODEL_KINDS: ClassVar[tuple[str, ...]] = ("WordPiece", "WordLevel")  # of a tokenizer.json
    vocab_files_names: ClassVar[Mapping[str, str]] = {"vocab_file": "vocab.txt"}

    @strict_keywords
    def __init__(
        self,
        vocab: str | os.PathLike[str] | Mapping[str, int] | None = None,
        do_lower_case: bool | Unset = UNSET,
        *,
        vocab_file: str | os.PathLike[str] | None = None,
        do_basic_tokenize: bool | Unset = UNSET,
        never_split: Collection[str] | Unset | None = UNSET,
        strip_accents: bool | Unset | None = UNSET,
        tokenize_chinese_chars: bool | Unset = UNSET,
        unk_token: Token | Unset = UNSET,
        sep_token: Token | Unset | None = UNSET,
        pad_token: Token | Unset | None = UNSET,
        cls_token: Token | Unset | None = UNSET,
        mask_token: Token | Unset | None = UNSET,
        bos_token: Token | Unset | None = UNSET,
        eos_token: Token | Unset | None = UNSET,
        additional_special_tokens: Sequence[Token] | Unset | None = UNSET,
        model_max_length: int | Unset | None = UNSET,
        padding_side: Side | Unset = UNSET,
        truncation_side: Side | Unset = UNSET,
        clean_up_tokenization_spaces: bool | Unset = UNSET,
        split_special_tokens: bool | Unset = UNSET,
    ) -> None:
        stated = given({name: value for name, value in locals().items() if name in BERT_DEFAULTS}, type(self).__name__)
        vocab = _one_vocabulary(vocab, vocab_file, type(self).__name__)
        origin = "the given mapping" if isinstance(vocab, Mapping) else str(vocab)
        pieces = dict(vocab) if isinstance(vocab, Mapping) else files.read_vocabulary(Path(vocab))
        files.check_ids(pieces, origin)
        options = BERT_DEFAULTS | stated
        loading.require_specials(pieces.__contains__, options | dict.fromkeys(_LATER), origin)
        self._assemble(self._engine_of_pieces(pieces, stated, origin), options, {}, origin)

    @classmethod
    @strict_keywords
    def from_pretrained(
        cls: type[T],
        pretrained_model_name_or_path: str | os.PathLike[str],
        *,
        do_lower_case: bool | None = None,
        do_basic_tokenize: bool | None = None,
        never_split: Collection[str] | Unset | None = UNSET,
        strip_accents: bool | Unset | None = UNSET,
        tokenize_chinese_chars: bool | None = None,
        unk_token: Token | Unset = UNSET,
        sep_token: Token | Unset | None = UNSET,
        pad_token: Token | Unset | None = UNSET,
        cls_token: Token | Unset | None = UNSET,
        mask_token: Token | Unset | None = UNSET,
        bos_token: Token | Unset | None = UNSET,
        eos_token: Token | Unset | None = UNSET,
        additional_special_tokens: Sequence[Token] | Unset | None = UNSET,
        model_max_length: int | Unset | None = UNSET,
        padding_side: Side | None = None,
        truncation_side: Side | None = None,
        clean_up_tokenization_spaces: bool | None = None,
        split_special_tokens: bool | None = None,
        cache_dir: str | os.PathLike[str] | None = None,
        local_files_only: bool = False,
        revision: str = "main",
        subfolder: str = "",
        token: str | bool | None = None,
        endpoint: str | None = None,
    ) -> T:
        """Tokenizer of a folder, of one file, or of a hub name.

        A folder must hold tokenizer.json or vocab.txt (the first wins); its tokenizer_config.json,
        special_tokens_map.json and added_tokens.json are obeyed. Of one file (`.json`: a tokenizer.json; any other
        name: a vocabulary, one piece a line) only that file is read. A hub name is looked up in the local cache and,
        unless `local_files_only`, downloaded; its keywords are those of `weights_tools.hub.resolve`.

        Keywords override what the files say (`do_lower_case=None` and the like: as the files say; for what None is a
        value of its own, leave the keyword out). Where tokenizer_config.json states `do_lower_case`, `strip_accents` or
        `tokenize_chinese_chars`, it wins over the normalizer inside tokenizer.json, as in transformers 5.23. Where it
        states nothing, tokenizer.json is taken as it is (transformers would apply its own defaults and lower-case a
        cased checkpoint). The padding and truncation stored in a tokenizer.json never act.

        Raises FileNotFoundError if there is no such place or no tokenizer in it, ValueError for files that are damaged
        or contradict each other, TypeError for an unknown keyword.
        """
        named = {name: value for name, value in locals().items() if name in BERT_DEFAULTS}
        hub = {"cache_dir": cache_dir, "local_files_only": local_files_only, "revision": revision, "token": token}
        hub |= {"subfolder": subfolder, "endpoint": endpoint}
        return cls._loaded(pretrained_model_name_or_path, named, _AS_THE_FILES, hub)

    def _make_template(self) -> Template:
        return bert_template(self._with_id(self.cls_token), self._with_id(self.sep_token))

    @property
    def do_lower_case(self) -> bool:
        """Whether the pipeline lower-cases (read from the normalizer that really runs)."""
        return bool(self._engine.settings().get("do_lower_case", False))

    def _repr_settings(self) -> dict[str, Any]:
        return {"do_lower_case": self.do_lower_case}

    @classmethod
    def _engine_of_recipe(cls, recipe: WordPieceRecipe) -> Engine:
        raise NotImplementedError

    @classmethod
    def _engine_of_files(cls, paths: list[Path], stated: Mapping[str, Any]) -> Engine:
        return cls._engine_of_pieces(files.read_vocabulary(paths[0]), stated, str(paths[0]))

    @classmethod
    def _engine_of_pieces(cls, pieces: Mapping[str, int], stated: Mapping[str, Any], origin: str) -> Engine:
        options = BERT_DEFAULTS | dict(stated)
        _warn_if_capitals_are_lost(pieces, stated, origin)
        if options["unk_token"] is None:
            raise ValueError(
                "unk_token is None; WordPiece needs a token for words that it cannot spell, such as '[UNK]'"
            )
        loading.require_specials(pieces.__contains__, {"unk_token": options["unk_token"]}, origin)
        chosen = {field: options[name] for name, field in RECIPE_FIELDS.items()}
        return cls._engine_of_recipe(WordPieceRecipe(pieces, unk_token=options["unk_token"], **chosen))


# Keywords of from_pretrained for which None means: as the files say.
_AS_THE_FILES = (
    *("do_lower_case", "do_basic_tokenize", "tokenize_chinese_chars", "padding_side", "truncation_side"),
    *("clean_up_tokenization_spaces", "split_special_tokens"),
)
_LATER = ("additional_special_tokens",)  # added to the vocabulary if it lacks them


def _one_vocabulary(
    vocab: str | os.PathLike[str] | Mapping[str, int] | None, vocab_file: str | os.PathLike[str] | None, owner: str
) -> str | os.PathLike[str] | Mapping[str, int]:
    """What `vocab` or its other name `vocab_file` gives; TypeError for both, neither, or what is no vocabulary."""
    if vocab is not None and vocab_file is not None:
        raise TypeError(f"{owner}() got both vocab and vocab_file, which are names of the same thing: give one")
    name, value = ("vocab", vocab) if vocab_file is None else ("vocab_file", vocab_file)
    if isinstance(value, str | os.PathLike) or (isinstance(value, Mapping) and name == "vocab"):
        return value
    found = "got no vocabulary" if value is None else f"got {name} of type {type(value).__name__}"
    raise TypeError(
        f"{owner}() {found}; give vocab=, the path of a vocabulary file or a mapping from piece to id, or load a "
        f"checkpoint's folder with {owner}.from_pretrained(folder)"
    )


def _warn_if_capitals_are_lost(pieces: Mapping[str, int], stated: Mapping[str, Any], origin: str) -> None:
    """Lower-casing by default makes the capitals of a cased vocabulary unreachable, and nothing else would say so."""
    if "do_lower_case" in stated or not stated.get("do_basic_tokenize", True):
        return
    capitals = sum(piece != piece.lower() for piece in pieces)
    if capitals * 20 > len(pieces) and capitals > len(SPECIAL_TOKENS):
        logger.warning(
            "%s looks cased (%d of %d pieces have capitals), but text is lower-cased by default: pass "
            "do_lower_case=False, or True to confirm",
            origin,
            capitals,
            len(pieces),
        )
