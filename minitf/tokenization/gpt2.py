"""What both GPT-2 tokenizers share: options, special tokens around a text, and how they are built."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeVar

from tokenizers import AddedToken, pre_tokenizers

from minitf.tokenization import files, loading
from minitf.tokenization.arguments import UNSET, Unset, strict_keywords
from minitf.tokenization.base import Side, Tokenizer
from minitf.tokenization.engine import Engine
from minitf.tokenization.options import GPT2_DEFAULTS, given
from minitf.tokenization.recipes import ByteLevelRecipe
from minitf.tokenization.template import Template, gpt2_template

logger = logging.getLogger("minitf.tokenization")

T = TypeVar("T", bound="GPT2TokenizerBase")
Token = str | AddedToken
Errors = Literal["replace", "ignore", "strict"]
Pair = str | Sequence[str]

RECIPE_FIELDS = {"add_prefix_space": "add_prefix_space", "errors": "errors"}


class GPT2TokenizerBase(Tokenizer):
    """Tokenizer of GPT-2 checkpoints: `GPT2Tokenizer` in plain Python, `GPT2TokenizerFast` on the `tokenizers` library.

    `GPT2Tokenizer(vocab, merges)` takes the paths of vocab.json and merges.txt, or a mapping from piece to id and a
    list of pairs (most frequent first; ("a", "b") or "a b"), and options by keyword;
    `GPT2Tokenizer.from_pretrained(folder)` reads them from a checkpoint. `vocab_file=` and `merges_file=` are other
    names for the paths.

    Options and defaults: unk_token, bos_token and eos_token="<|endoftext|>", pad_token, sep_token, cls_token and
    mask_token=None (None: there is no such token; GPT-2 has no padding), additional_special_tokens=None,
    add_prefix_space=False (True: the first word is treated like one after a blank), add_bos_token=False,
    errors="replace" (what decoding does with bytes that are no UTF-8; plain Python also "ignore" and "strict"),
    model_max_length=None (not known; GPT-2's is 1024), padding_side="right", truncation_side="right",
    clean_up_tokenization_spaces=False, split_special_tokens=False.

    A vocabulary that lacks some of the 256 bytes gives unk_token for them. Raises ValueError for a vocabulary that
    lacks a special token, or whose ids have gaps, and for merges of unknown pieces; TypeError for a missing vocabulary.
    """

    DEFAULTS = GPT2_DEFAULTS
    MODEL_KINDS: ClassVar[tuple[str, ...]] = ("BPE",)  # of a tokenizer.json
    vocab_files_names: ClassVar[Mapping[str, str]] = {"vocab_file": "vocab.json", "merges_file": "merges.txt"}

    @strict_keywords
    def __init__(
        self,
        vocab: str | os.PathLike[str] | Mapping[str, int] | None = None,
        merges: str | os.PathLike[str] | Sequence[Pair] | None = None,
        *,
        vocab_file: str | os.PathLike[str] | None = None,
        merges_file: str | os.PathLike[str] | None = None,
        errors: Errors | Unset = UNSET,
        unk_token: Token | Unset | None = UNSET,
        bos_token: Token | Unset | None = UNSET,
        eos_token: Token | Unset | None = UNSET,
        pad_token: Token | Unset | None = UNSET,
        sep_token: Token | Unset | None = UNSET,
        cls_token: Token | Unset | None = UNSET,
        mask_token: Token | Unset | None = UNSET,
        add_prefix_space: bool | Unset = UNSET,
        add_bos_token: bool | Unset = UNSET,
        additional_special_tokens: Sequence[Token] | Unset | None = UNSET,
        model_max_length: int | Unset | None = UNSET,
        padding_side: Side | Unset = UNSET,
        truncation_side: Side | Unset = UNSET,
        clean_up_tokenization_spaces: bool | Unset = UNSET,
        split_special_tokens: bool | Unset = UNSET,
    ) -> None:
        stated = given({name: value for name, value in locals().items() if name in GPT2_DEFAULTS}, type(self).__name__)
        owner = type(self).__name__
        vocab = _one_of(vocab, vocab_file, "vocab", "the path of a vocab.json, or a mapping from piece to id", owner)
        merges = _one_of(merges, merges_file, "merges", "the path of a merges.txt, or a list of pairs", owner)
        origin = "the given mapping" if isinstance(vocab, Mapping) else str(vocab)
        pieces = dict(vocab) if isinstance(vocab, Mapping) else files.read_json_vocabulary(Path(vocab))
        pairs = files.read_merges(Path(merges)) if isinstance(merges, str | os.PathLike) else _pairs(merges)
        options = GPT2_DEFAULTS | stated
        loading.require_specials(pieces.__contains__, options, origin)
        self._assemble(self._engine_of_pieces(pieces, pairs, stated, origin), options, {}, origin)

    @classmethod
    @strict_keywords
    def from_pretrained(
        cls: type[T],
        pretrained_model_name_or_path: str | os.PathLike[str],
        *,
        errors: Errors | None = None,
        unk_token: Token | Unset | None = UNSET,
        bos_token: Token | Unset | None = UNSET,
        eos_token: Token | Unset | None = UNSET,
        pad_token: Token | Unset | None = UNSET,
        sep_token: Token | Unset | None = UNSET,
        cls_token: Token | Unset | None = UNSET,
        mask_token: Token | Unset | None = UNSET,
        add_prefix_space: bool | None = None,
        add_bos_token: bool | None = None,
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
        """Tokenizer of a folder, of a tokenizer.json, or of a hub name.

        A folder must hold tokenizer.json, or vocab.json and merges.txt (the first wins); its tokenizer_config.json,
        special_tokens_map.json and added_tokens.json are obeyed. A hub name is looked up in the local cache and, unless
        `local_files_only`, downloaded; its keywords are those of `weights_tools.hub.resolve`.

        Keywords override what the files say (`add_prefix_space=None` and the like: as the files say; for what None is a
        value of its own, leave the keyword out). Where tokenizer_config.json states `add_prefix_space`, it wins over
        the tokenizer.json, as in transformers 5.23. The padding and truncation stored in a tokenizer.json never act.
        Nor does `clean_up_tokenization_spaces: true` of a tokenizer_config.json, which transformers 4 wrote beside
        every tokenizer: it would take blanks out of the decoded text that the model has written ("x , y"). As in
        transformers 5.23 it is noted in the log and passed over; the keyword, the attribute and the argument of
        `decode` are obeyed.

        Raises FileNotFoundError if there is no such place or no tokenizer in it, ValueError for files that are damaged
        or contradict each other, TypeError for an unknown keyword.
        """
        named = {name: value for name, value in locals().items() if name in GPT2_DEFAULTS}
        hub = {"cache_dir": cache_dir, "local_files_only": local_files_only, "revision": revision, "token": token}
        hub |= {"subfolder": subfolder, "endpoint": endpoint}
        tokenizer = cls._loaded(pretrained_model_name_or_path, named, _AS_THE_FILES, hub)
        if clean_up_tokenization_spaces is None:
            pass_over_clean_up(tokenizer)
        return tokenizer

    def _make_template(self) -> Template:
        if not self.add_bos_token:
            return gpt2_template(None)
        if self.bos_token is None:
            raise ValueError(
                "add_bos_token=True needs a bos_token, and it is None: name one, or leave add_bos_token out"
            )
        return gpt2_template(self._with_id(self.bos_token))

    @property
    def add_prefix_space(self) -> bool:
        """Whether a text that starts with no blank gets one."""
        return bool(self._engine.settings().get("add_prefix_space", False))

    @property
    def add_bos_token(self) -> bool:
        """Whether bos_token is put before each text."""
        return bool(self._options["add_bos_token"])

    def _repr_settings(self) -> dict[str, Any]:
        return {"add_prefix_space": self.add_prefix_space}

    def _saved_config(self) -> dict[str, Any]:
        config = super()._saved_config()
        return config | {"add_bos_token": True} if self.add_bos_token else config

    def _check_words(self) -> None:
        if not self.add_prefix_space:
            raise ValueError(
                "is_split_into_words=True with add_prefix_space=False: the words would be encoded as if no blanks "
                f"stood between them; load the tokenizer with {type(self).__name__}.from_pretrained(..., "
                "add_prefix_space=True)"
            )

    @classmethod
    def _engine_of_recipe(cls, recipe: ByteLevelRecipe) -> Engine:
        raise NotImplementedError

    @classmethod
    def _engine_of_files(cls, paths: list[Path], stated: Mapping[str, Any]) -> Engine:
        if len(paths) == 1:
            raise ValueError(
                f"{paths[0]}: expected a folder with vocab.json and merges.txt, or a tokenizer.json; for two files: "
                f"{cls.__name__}(vocab_file=..., merges_file=...)"
            )
        pieces, merges = files.read_json_vocabulary(paths[0]), files.read_merges(paths[1])
        return cls._engine_of_pieces(pieces, merges, stated, str(paths[0]))

    @classmethod
    def _engine_of_pieces(
        cls, pieces: Mapping[str, int], merges: Sequence[tuple[str, str]], stated: Mapping[str, Any], origin: str
    ) -> Engine:
        options = GPT2_DEFAULTS | dict(stated)
        files.check_ids(pieces, origin)
        files.check_merges(merges, pieces, origin)
        lacking = missing_bytes(pieces)
        unk = None
        if lacking:
            unk = options["unk_token"]
            if unk is None or unk not in pieces:
                raise ValueError(
                    f"{origin} lacks {len(lacking)} of the 256 bytes (such as {lacking[0]!r}) and has no unk_token "
                    f"{unk!r} to stand for them; name one that it has (unk_token=...)"
                )
        chosen = {field: options[name] for name, field in RECIPE_FIELDS.items()}
        return cls._engine_of_recipe(ByteLevelRecipe(pieces, merges, unk_token=unk, **chosen))


# Keywords of from_pretrained for which None means: as the files say.
_AS_THE_FILES = (
    *("errors", "add_prefix_space", "add_bos_token", "padding_side", "truncation_side"),
    *("clean_up_tokenization_spaces", "split_special_tokens"),
)


def pass_over_clean_up(tokenizer: Tokenizer) -> None:
    """Undo the clean-up that files ask for in vain, and say so: see `from_pretrained`."""
    if tokenizer.clean_up_tokenization_spaces:
        tokenizer.clean_up_tokenization_spaces = False
        logger.warning(
            "%s: clean_up_tokenization_spaces=true of its tokenizer_config.json is passed over, as it would take "
            "blanks out of byte-level text: pass clean_up_tokenization_spaces=True for it, or False to confirm",
            tokenizer.name_or_path,
        )


def missing_bytes(pieces: Mapping[str, int]) -> list[str]:
    """The characters of the byte alphabet that are no pieces of a vocabulary."""
    return sorted(set(pre_tokenizers.ByteLevel.alphabet()) - set(pieces))


def warn_if_bytes_vanish(pieces: Mapping[str, int], unk_token: str | None, origin: str) -> None:
    """A tokenizer.json may lack bytes and name no token for them: its text then disappears, so it is said."""
    lacking = missing_bytes(pieces) if unk_token is None else []
    if lacking:
        logger.warning(
            "%s lacks %d of the 256 bytes (such as %r) and has no unk_token inside: they are left out of every text",
            origin,
            len(lacking),
            lacking[0],
        )


def _one_of(first: Any, second: Any, name: str, expected: str, owner: str) -> Any:
    """What an argument or its other name `..._file` gives; TypeError for both, neither, or something else."""
    if first is not None and second is not None:
        raise TypeError(f"{owner}() got both {name} and {name}_file, which are names of the same thing: give one")
    value = first if second is None else second
    fits = (
        isinstance(value, str | os.PathLike | Mapping) if name == "vocab" else isinstance(value, Sequence | os.PathLike)
    )
    if fits and (second is None or isinstance(second, str | os.PathLike)):
        return value
    found = f"got no {name}" if value is None else f"got {name} of type {type(value).__name__}"
    raise TypeError(
        f"{owner}() {found}; give {name}=, {expected}, or load a checkpoint's folder with "
        f"{owner}.from_pretrained(folder)"
    )


def _pairs(merges: Sequence[Pair]) -> list[tuple[str, str]]:
    found = []
    for number, pair in enumerate(merges):
        parts = pair.split(" ") if isinstance(pair, str) else list(pair)
        if len(parts) != 2 or not all(isinstance(part, str) and part for part in parts):
            raise ValueError(f"merges[{number}] is {pair!r}; expected two pieces, ('a', 'b') or 'a b'")
        found.append((parts[0], parts[1]))
    return found
