"""`BertTokenizer` on the `tokenizers` library: text to ids, masks and token types, and back.

The pipeline is the original BERT's (google-research/bert, tokenization.py): clean the text, put blanks around CJK
characters, lower-case and strip accents, split at blanks and punctuation, then cut each word greedily into the longest
pieces of the vocabulary ("##" marks a continuation).
"""

from __future__ import annotations

import copy
import json
import logging
import os
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, cast

from tokenizers import AddedToken, Encoding, Tokenizer
from tokenizers.models import WordPiece
from tokenizers.normalizers import BertNormalizer

from minitf.tokenization import files
from minitf.tokenization.arguments import UNSET, Unset, strict_keywords
from minitf.tokenization.batch import TENSOR_KINDS, BatchEncoding, to_arrays
from minitf.tokenization.call import Plan, make_plan, pair_up
from minitf.tokenization.options import (
    ADDED_TOKEN_KEYS,
    DEFAULTS,
    GENERIC_CLASSES,
    SPECIAL_TOKENS,
    UNKNOWN_LENGTH,
    checked,
    given,
    read_settings,
)
from weights_tools.hub import resolve

if TYPE_CHECKING:
    import numpy as np
    import torch

logger = logging.getLogger("minitf.tokenization")

Texts: TypeAlias = str | Sequence[str] | Sequence[tuple[str, str]]
Ids: TypeAlias = "int | Sequence[int] | np.ndarray[Any, Any] | torch.Tensor"
Side: TypeAlias = Literal["left", "right"]

_NORMALIZER_OPTIONS = ("do_lower_case", "strip_accents", "tokenize_chinese_chars")

# transformers' `clean_up_tokenization_spaces=True`, in its order: "it ' s fine ." becomes "it's fine."
_CLEAN_UPS = {
    " .": ".", " ?": "?", " !": "!", " ,": ",", " ' ": "'",
    " n't": "n't", " 'm": "'m", " 's": "'s", " 've": "'ve", " 're": "'re",
}  # fmt: skip


class SpecialToken:
    """Attribute `pad_token`: the token or None. Setting it checks that the vocabulary has it (ValueError if not)."""

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, tokenizer: BertTokenizer, owner: type) -> str | None:
        return tokenizer._special[self.name]

    def __set__(self, tokenizer: BertTokenizer, value: str | None) -> None:
        tokenizer._set_special(self.name, checked(self.name, value, "BertTokenizer"))


class SpecialTokenId:
    """Attribute `pad_token_id`: the id of `pad_token`, or None. Setting it sets the token."""

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name.removesuffix("_id")

    def __get__(self, tokenizer: BertTokenizer, owner: type) -> int | None:
        token = tokenizer._special[self.name]
        return None if token is None else tokenizer._id_of(token)

    def __set__(self, tokenizer: BertTokenizer, value: int | None) -> None:
        tokenizer._set_special(self.name, None if value is None else tokenizer._tokens_of([value])[0])


class BertTokenizer:
    """Tokenizer of BERT checkpoints.

    `BertTokenizer(vocab)` takes the path of a vocabulary file or a mapping from piece to id, and options by keyword;
    `BertTokenizer.from_pretrained(folder)` reads both from a checkpoint. `vocab_file=` is another name of `vocab` for a
    path (transformers 4.x calls it so).

    Options and defaults: do_lower_case=True, strip_accents=None (as do_lower_case), tokenize_chinese_chars=True,
    unk_token="[UNK]", sep_token="[SEP]", pad_token="[PAD]", cls_token="[CLS]", mask_token="[MASK]" (None: there is no
    such token), model_max_length=None (tokens the model can read; None: not known), padding_side="right",
    truncation_side="right".

    Raises ValueError for a vocabulary that lacks a special token, or in which a piece stands twice; TypeError for both
    or neither of `vocab` and `vocab_file`.
    """

    unk_token, unk_token_id = SpecialToken(), SpecialTokenId()
    sep_token, sep_token_id = SpecialToken(), SpecialTokenId()
    pad_token, pad_token_id = SpecialToken(), SpecialTokenId()
    cls_token, cls_token_id = SpecialToken(), SpecialTokenId()
    mask_token, mask_token_id = SpecialToken(), SpecialTokenId()

    is_fast = True
    name_or_path = ""

    @strict_keywords
    def __init__(
        self,
        vocab: str | os.PathLike[str] | Mapping[str, int] | None = None,
        *,
        vocab_file: str | os.PathLike[str] | None = None,
        do_lower_case: bool | Unset = UNSET,
        strip_accents: bool | Unset | None = UNSET,
        tokenize_chinese_chars: bool | Unset = UNSET,
        unk_token: str | Unset = UNSET,
        sep_token: str | Unset | None = UNSET,
        pad_token: str | Unset | None = UNSET,
        cls_token: str | Unset | None = UNSET,
        mask_token: str | Unset | None = UNSET,
        model_max_length: int | Unset | None = UNSET,
        padding_side: Side | Unset = UNSET,
        truncation_side: Side | Unset = UNSET,
    ) -> None:
        named = {name: value for name, value in locals().items() if name in DEFAULTS}
        stated = given(named, "BertTokenizer")
        vocab = _one_vocabulary(vocab, vocab_file)
        origin = "the given mapping" if isinstance(vocab, Mapping) else str(vocab)
        pieces = dict(vocab) if isinstance(vocab, Mapping) else files.read_vocabulary(Path(vocab))
        if sorted(pieces.values()) != list(range(len(pieces))):
            raise ValueError(
                f"{origin}: ids must be 0 .. {len(pieces) - 1}, one each, as there are {len(pieces)} pieces"
            )
        _warn_if_capitals_are_lost(pieces, stated, origin)
        options = DEFAULTS | stated
        _require_specials(pieces, options, origin)
        self._assemble(files.wordpiece_backend(pieces, options), options, {}, origin)

    @classmethod
    @strict_keywords
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | os.PathLike[str],
        *,
        do_lower_case: bool | None = None,
        strip_accents: bool | Unset | None = UNSET,
        tokenize_chinese_chars: bool | None = None,
        unk_token: str | Unset = UNSET,
        sep_token: str | Unset | None = UNSET,
        pad_token: str | Unset | None = UNSET,
        cls_token: str | Unset | None = UNSET,
        mask_token: str | Unset | None = UNSET,
        model_max_length: int | Unset | None = UNSET,
        padding_side: Side | None = None,
        truncation_side: Side | None = None,
        cache_dir: str | os.PathLike[str] | None = None,
        local_files_only: bool = False,
        revision: str = "main",
        token: str | None = None,
    ) -> BertTokenizer:
        """Tokenizer of a folder, of one file, or of a hub name.

        A folder must hold tokenizer.json or vocab.txt (the first wins); its tokenizer_config.json and
        special_tokens_map.json are obeyed. Of one file (`.json`: a tokenizer.json; any other name: a vocabulary, one
        piece a line) only that file is read. A hub name is looked up in the local cache and, unless `local_files_only`,
        downloaded.

        Keywords override what the files say (`do_lower_case=None` and the like: as the files say; for what None is a
        value of its own, leave the keyword out). Where tokenizer_config.json states `do_lower_case`, `strip_accents` or
        `tokenize_chinese_chars`, it wins over the normalizer inside tokenizer.json, as in transformers 5.23. Where it
        states nothing, tokenizer.json is taken as it is (transformers would apply its own defaults and lower-case a
        cased checkpoint). The padding and truncation stored in a tokenizer.json never act.

        Raises FileNotFoundError if there is no such place or no tokenizer in it, ValueError for files that are damaged
        or contradict each other, TypeError for an unknown keyword.
        """
        named = {name: value for name, value in locals().items() if name in DEFAULTS}
        unchanged = ("do_lower_case", "tokenize_chinese_chars", "padding_side", "truncation_side")
        named = {name: UNSET if value is None and name in unchanged else value for name, value in named.items()}
        keywords = given(named, "BertTokenizer.from_pretrained")
        place = _place(pretrained_model_name_or_path, cache_dir, local_files_only, revision, token)
        path = files.find_file(place) if place.is_dir() else place
        stated, config = read_settings(place) if place.is_dir() else ({}, {})
        generic = config.get("tokenizer_class") in GENERIC_CLASSES

        if path.suffix == ".json":
            backend = files.read_backend(path)
            in_force = keywords if generic else stated | keywords
            _override_normalizer(backend, {k: v for k, v in in_force.items() if k in _NORMALIZER_OPTIONS}, path)
            options = DEFAULTS | stated | keywords
        else:
            pieces = files.read_vocabulary(path)
            _warn_if_capitals_are_lost(pieces, stated | keywords, str(path))
            options = DEFAULTS | stated | keywords
            _require_specials(pieces, {"unk_token": options["unk_token"]}, str(path))
            backend = files.wordpiece_backend(pieces, options)
        extra = []
        if place.is_dir():
            extra = files.add_tokens(backend, place, config, from_vocabulary=path.suffix != ".json")
        _require_specials(backend, options, str(path))

        tokenizer = cls.__new__(cls)
        tokenizer._assemble(backend, options, config, str(pretrained_model_name_or_path))
        tokenizer._extra_special_tokens = extra
        return tokenizer

    def _assemble(self, backend: Tokenizer, options: dict[str, Any], config: dict[str, Any], name: str) -> None:
        self._backend = backend
        self._lock = threading.Lock()
        self._config = {key: value for key, value in config.items() if key not in ADDED_TOKEN_KEYS}
        self._special: dict[str, str | None] = {key: options[key] for key in SPECIAL_TOKENS}
        self._extra_special_tokens: list[str] = []
        self._warned_too_long = False
        self.name_or_path = name
        self.model_max_length: int = options["model_max_length"]
        self.clean_up_tokenization_spaces: bool = options["clean_up_tokenization_spaces"]
        self.pad_token_type_id: int = options["pad_token_type_id"]
        self.model_input_names = list(options["model_input_names"])
        self.padding_side = options["padding_side"]
        self.truncation_side = options["truncation_side"]
        backend.encode_special_tokens = options["split_special_tokens"]
        present = [token for token in self._special.values() if token is not None]
        backend.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in present])
        if self._config.get("tokenizer_class") not in GENERIC_CLASSES or backend.post_processor is None:
            self._set_template()

    # Special tokens

    def _set_special(self, name: str, token: str | None) -> None:
        if token is not None:
            if self._backend.token_to_id(token) is None:
                raise ValueError(
                    f"{name} {token!r} is not in the vocabulary of {len(self)} tokens; set one that it has"
                )
            self._backend.add_special_tokens([AddedToken(token, normalized=False, special=True)])
        if name == "unk_token" and token != self._special[name]:
            raise ValueError(
                f"unk_token is {self._special[name]!r} inside the model and cannot change to {token!r} after loading"
            )
        self._special[name] = token
        if name in ("cls_token", "sep_token"):
            self._set_template()

    def _set_template(self) -> None:
        ends = [(token, self._id_of(token)) if token else None for token in (self.cls_token, self.sep_token)]
        self._backend.post_processor = files.bert_template(*ends)

    @property
    def special_tokens_map(self) -> dict[str, str]:
        """Attribute name to token, for the special tokens that there are."""
        return {name: token for name, token in self._special.items() if token is not None}

    @property
    def all_special_tokens(self) -> list[str]:
        """The named special tokens, then the additional ones, each once."""
        return list(dict.fromkeys([*self.special_tokens_map.values(), *self._extra_special_tokens]))

    @property
    def all_special_ids(self) -> list[int]:
        """The ids of `all_special_tokens`."""
        return [self._id_of(token) for token in self.all_special_tokens]

    def num_special_tokens_to_add(self, pair: bool = False) -> int:
        """Special tokens put around one text (2 for BERT) or a pair (3)."""
        return int(self._backend.num_special_tokens_to_add(pair))

    # Vocabulary

    @property
    def backend_tokenizer(self) -> Tokenizer:
        """The `tokenizers.Tokenizer` inside."""
        return self._backend

    @property
    def vocab_size(self) -> int:
        """Pieces of the vocabulary, added tokens not counted; `len(tokenizer)` counts them."""
        return int(self._backend.get_vocab_size(with_added_tokens=False))

    def __len__(self) -> int:
        return int(self._backend.get_vocab_size())

    def __bool__(self) -> bool:
        return True  # a tokenizer is never "empty", and `if tokenizer` should not count the vocabulary

    def get_vocab(self) -> dict[str, int]:
        """A new dict from token to id, added tokens included."""
        vocabulary: dict[str, int] = self._backend.get_vocab()
        return vocabulary

    def _id_of(self, token: str) -> int:
        number = self._backend.token_to_id(token)
        if number is not None:
            return int(number)
        if self.unk_token is None:
            raise ValueError(f"{token!r} is not in the vocabulary and there is no unk_token to stand for it")
        return cast("int", self._backend.token_to_id(self.unk_token))

    def _tokens_of(self, ids: Sequence[int]) -> list[str]:
        tokens = []
        for position, number in enumerate(ids):
            token = self._backend.id_to_token(number) if number >= 0 else None
            if token is None:
                raise ValueError(f"id {number} at position {position} is outside the vocabulary (0 to {len(self) - 1})")
            tokens.append(token)
        return tokens

    def convert_tokens_to_ids(self, tokens: str | Sequence[str]) -> int | list[int]:
        """Id of one token (int) or of several (list). What is not in the vocabulary becomes `unk_token_id`."""
        return self._id_of(tokens) if isinstance(tokens, str) else [self._id_of(token) for token in tokens]

    def convert_ids_to_tokens(self, ids: Ids, skip_special_tokens: bool = False) -> str | list[str]:
        """Token of one id (str) or of several (list). ValueError for an id outside the vocabulary."""
        if isinstance(ids, int):
            return self._tokens_of([ids])[0]
        tokens = self._tokens_of(_id_list(ids))
        special = set(self.all_special_tokens) if skip_special_tokens else set()
        return [token for token in tokens if token not in special]

    def convert_tokens_to_string(self, tokens: Sequence[str]) -> str:
        """Pieces joined to text: "##" continues a word, blanks before punctuation go."""
        decoder = self._backend.decoder
        return str(decoder.decode(list(tokens))) if decoder is not None else " ".join(tokens)

    # Text to ids

    @strict_keywords
    def __call__(
        self,
        text: Texts,
        text_pair: str | Sequence[str] | None = None,
        *,
        add_special_tokens: bool = True,
        padding: bool | Literal["longest", "max_length", "do_not_pad"] = False,
        truncation: bool | Literal["longest_first", "only_first", "only_second", "do_not_truncate"] = False,
        max_length: int | None = None,
        pad_to_multiple_of: int | None = None,
        padding_side: Side | None = None,
        return_tensors: Literal["pt", "np"] | None = None,
        return_token_type_ids: bool | None = None,
        return_attention_mask: bool | None = None,
        return_offsets_mapping: bool = False,
        return_special_tokens_mask: bool = False,
    ) -> BatchEncoding:
        """Tokenize one text or a list of texts, alone or in pairs.

        text: a string; or a list of B strings; or a list of B tuples (text, second text).
        text_pair: the second text(s), of the same form. A single empty second text counts as none, one in a list
            counts as a second text of length 0 (both as in transformers).
        padding: True or "longest" (to the longest of the batch), "max_length" (to `max_length`, by default to
            `model_max_length`), False. On `padding_side`, by default the tokenizer's.
        truncation: True or "longest_first" (of a pair, the longer one loses tokens first), "only_first", "only_second",
            False; to `max_length`, by default `model_max_length`, special tokens included.
        pad_to_multiple_of: round the padded length up to a multiple of this.
        return_tensors: "pt" (torch) or "np" (numpy), int64 [B, T]; None gives lists, flat ones for a single string.
        return_token_type_ids, return_attention_mask: None follows `model_input_names` (BERT: both).
        return_offsets_mapping: (start, end) characters in the text for each token.
        return_special_tokens_mask: 1 where a token was put there by the tokenizer or is padding.

        An empty string gives [CLS] [SEP]; an empty list gives empty lists, or [0, 0] tensors. A text longer than
        `model_max_length` that is not truncated is logged once as a warning.

        Raises TypeError for what is no text (says which element) and ValueError for options that contradict each other
        or would have no effect, rows of different lengths with `return_tensors`, and a `max_length` that cannot be met.
        """
        if return_tensors not in (None, *TENSOR_KINDS):
            raise ValueError(
                f"return_tensors={return_tensors!r} is not known; expected 'pt' (torch), 'np' (numpy) or None"
            )
        inputs, batched = pair_up(text, text_pair)
        pairs = [isinstance(item, tuple) for item in inputs]
        plan = make_plan(
            self,
            padding=padding,
            truncation=truncation,
            max_length=max_length,
            pad_to_multiple_of=pad_to_multiple_of,
            padding_side=padding_side,
            least=max((self.num_special_tokens_to_add(pair) for pair in set(pairs)), default=0)
            if add_special_tokens
            else 0,
            all_pairs=all(pairs),
        )
        encodings = self._run(inputs, plan, add_special_tokens)
        self._warn_if_too_long(encodings)

        wanted = {
            "input_ids": True,
            "token_type_ids": _asked(return_token_type_ids, "token_type_ids" in self.model_input_names),
            "attention_mask": _asked(return_attention_mask, "attention_mask" in self.model_input_names),
            "special_tokens_mask": return_special_tokens_mask,
            "offset_mapping": return_offsets_mapping,
        }
        sources = {"input_ids": "ids", "token_type_ids": "type_ids", "offset_mapping": "offsets"}
        columns = {
            name: [getattr(encoding, sources.get(name, name)) for encoding in encodings]
            for name, asked in wanted.items()
            if asked
        }
        if return_tensors is not None:
            return BatchEncoding(to_arrays(columns, return_tensors), encodings)
        return BatchEncoding(columns if batched else {name: rows[0] for name, rows in columns.items()}, encodings)

    def _run(self, inputs: list[str | tuple[str, str]], plan: Plan, add_special_tokens: bool) -> list[Encoding]:
        """Encode a batch. Padding and truncation are state of the backend, so they are set and reset under a lock."""
        with self._lock:
            try:
                if plan.truncation is not None:
                    self._backend.enable_truncation(**plan.truncation)
                if plan.padding is not None:
                    self._backend.enable_padding(**plan.padding)
                encodings: list[Encoding] = self._backend.encode_batch(inputs, add_special_tokens=add_special_tokens)
                return encodings
            except Exception as error:  # the library raises plain Exception
                if "Truncation error" not in str(error) or plan.truncation is None:
                    raise
                limit, strategy = plan.truncation["max_length"], plan.truncation["strategy"]
                raise ValueError(
                    f"truncation={strategy!r} cannot shorten a text to max_length={limit}: the other text of the pair "
                    "is "
                    "too long on its own; use 'longest_first' or a larger max_length"
                ) from None
            finally:
                self._backend.no_truncation()
                self._backend.no_padding()

    def _warn_if_too_long(self, encodings: list[Encoding]) -> None:
        if self._warned_too_long:
            return
        for index, encoding in enumerate(encodings):
            if len(encoding.ids) > self.model_max_length:
                self._warned_too_long = True
                logger.warning(
                    "text %d has %d tokens; this model reads %d (model_max_length): pass truncation=True. Later texts "
                    "that "
                    "are too long are not reported again",
                    index,
                    len(encoding.ids),
                    self.model_max_length,
                )
                return

    @strict_keywords
    def encode(
        self,
        text: str | Sequence[str],
        text_pair: str | Sequence[str] | None = None,
        *,
        add_special_tokens: bool = True,
        padding: bool | Literal["longest", "max_length", "do_not_pad"] = False,
        truncation: bool | Literal["longest_first", "only_first", "only_second", "do_not_truncate"] = False,
        max_length: int | None = None,
        pad_to_multiple_of: int | None = None,
        padding_side: Side | None = None,
        return_tensors: Literal["pt", "np"] | None = None,
    ) -> Any:
        """`input_ids` alone: a list of T ids for one text, or what `return_tensors` asks for. Arguments as in a
        call.
        """
        return self(
            text,
            text_pair,
            add_special_tokens=add_special_tokens,
            padding=padding,
            truncation=truncation,
            max_length=max_length,
            pad_to_multiple_of=pad_to_multiple_of,
            padding_side=padding_side,
            return_tensors=return_tensors,
        )["input_ids"]

    def tokenize(self, text: str, pair: str | None = None, add_special_tokens: bool = False) -> list[str]:
        """The pieces of `text` (and `pair`) as strings, without special tokens unless asked for."""
        if not isinstance(text, str):
            raise TypeError(f"tokenize() takes one str, got {type(text).__name__}; for lists call the tokenizer itself")
        return self(text, pair, add_special_tokens=add_special_tokens).tokens()

    # Ids to text

    @strict_keywords
    def decode(
        self, token_ids: Ids, skip_special_tokens: bool = False, clean_up_tokenization_spaces: bool | None = None
    ) -> str:
        """Text of one id or one sequence of ids (list, array or tensor [T]).

        "##" pieces join their word and blanks before punctuation go, by the tokenizer.json's decoder.
        `clean_up_tokenization_spaces=True` also closes contractions ("it ' s" to "it's"); None follows the tokenizer's
        attribute of that name (False unless its tokenizer_config.json says otherwise). Same text as transformers 5.23.

        Raises ValueError for ids outside the vocabulary (also -100, the label that means "ignore") and for nested
        lists.
        """
        ids = [token_ids] if isinstance(token_ids, int) else _id_list(token_ids)
        self._tokens_of(ids)
        text = str(self._backend.decode(ids, skip_special_tokens=skip_special_tokens))
        if self.clean_up_tokenization_spaces if clean_up_tokenization_spaces is None else clean_up_tokenization_spaces:
            for blank, closed in _CLEAN_UPS.items():
                text = text.replace(blank, closed)
        return text

    @strict_keywords
    def batch_decode(
        self,
        sequences: Sequence[Sequence[int]] | np.ndarray[Any, Any] | torch.Tensor,
        skip_special_tokens: bool = False,
        clean_up_tokenization_spaces: bool | None = None,
    ) -> list[str]:
        """`decode` of each row of B id lists, or of an array or tensor [B, T]."""
        return [
            self.decode(
                cast("Ids", row),
                skip_special_tokens=skip_special_tokens,
                clean_up_tokenization_spaces=clean_up_tokenization_spaces,
            )
            for row in sequences
        ]

    # Options, copies, files

    @property
    def padding_side(self) -> Side:
        """Where padding goes: "right" or "left" (ValueError for anything else)."""
        return self._padding_side

    @padding_side.setter
    def padding_side(self, side: Side) -> None:
        self._padding_side: Side = checked("padding_side", side, "BertTokenizer")

    @property
    def truncation_side(self) -> Side:
        """The end that truncation cuts off: "right" or "left" (ValueError for anything else)."""
        return self._truncation_side

    @truncation_side.setter
    def truncation_side(self, side: Side) -> None:
        self._truncation_side: Side = checked("truncation_side", side, "BertTokenizer")

    @property
    def do_lower_case(self) -> bool:
        """Whether the pipeline lower-cases (read from the normalizer that really runs)."""
        normalizer = self._backend.normalizer
        return bool(normalizer.lowercase) if isinstance(normalizer, BertNormalizer) else False

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_lock"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _lock=threading.Lock())

    def __copy__(self) -> BertTokenizer:
        return copy.deepcopy(self)  # a shallow copy would share the backend, whose special tokens can be changed

    def __repr__(self) -> str:
        limit = "unknown" if self.model_max_length >= UNKNOWN_LENGTH else self.model_max_length
        return (
            f"BertTokenizer({len(self)} tokens, do_lower_case={self.do_lower_case}, model_max_length={limit}, "
            f"padding_side={self.padding_side!r})"
        )

    def save_pretrained(self, save_directory: str | os.PathLike[str]) -> tuple[str, ...]:
        """Write tokenizer.json, tokenizer_config.json, special_tokens_map.json and (for WordPiece) vocab.txt.

        The folder is made if need be. Each file is replaced as a whole, tokenizer.json last. Returns the paths written.
        Both minitf and transformers read the folder back to the same ids. Raises NotADirectoryError if the path is a
        file.
        """
        from weights_tools import write_atomically

        folder = Path(save_directory)
        if folder.exists() and not folder.is_dir():
            raise NotADirectoryError(f"{folder} is a file; expected a folder to save the tokenizer in")
        folder.mkdir(parents=True, exist_ok=True)
        texts = {
            "special_tokens_map.json": json.dumps(self._special, indent=2) + "\n",
            "tokenizer_config.json": json.dumps(self._saved_config(), indent=2, sort_keys=True, ensure_ascii=False)
            + "\n",
            files.BACKEND_FILE: self._backend.to_str(pretty=True),
        }
        pieces = self._backend.get_vocab(with_added_tokens=False)
        if isinstance(self._backend.model, WordPiece) and not any("\n" in piece or "\r" in piece for piece in pieces):
            texts = {
                files.VOCABULARY_FILE: "".join(f"{piece}\n" for piece in sorted(pieces, key=pieces.__getitem__)),
                **texts,
            }
        for name, text in texts.items():
            write_atomically(folder / name, text.encode("utf-8"))
        return tuple(str(folder / name) for name in texts)

    def _saved_config(self) -> dict[str, Any]:
        config = {"tokenizer_class": "BertTokenizer", **self._config, **self._special}
        for name in ("clean_up_tokenization_spaces", "model_input_names", "padding_side", "truncation_side"):
            config[name] = getattr(self, name)
        flags = ("content", "lstrip", "normalized", "rstrip", "single_word", "special")
        config["added_tokens_decoder"] = {
            str(number): {flag: getattr(token, flag) for flag in flags}
            for number, token in sorted(self._backend.get_added_tokens_decoder().items())
        }
        if self._extra_special_tokens:
            config["additional_special_tokens"] = self._extra_special_tokens
        if self.model_max_length < UNKNOWN_LENGTH:
            config["model_max_length"] = self.model_max_length
        normalizer = self._backend.normalizer
        if isinstance(normalizer, BertNormalizer):
            config["do_lower_case"] = normalizer.lowercase
            config["strip_accents"] = normalizer.strip_accents
            config["tokenize_chinese_chars"] = normalizer.handle_chinese_chars
        if self._backend.encode_special_tokens:
            config["split_special_tokens"] = True
        return config


def _asked(wish: bool | None, default: bool) -> bool:
    return default if wish is None else wish


def _one_vocabulary(
    vocab: str | os.PathLike[str] | Mapping[str, int] | None, vocab_file: str | os.PathLike[str] | None
) -> str | os.PathLike[str] | Mapping[str, int]:
    """What `vocab` or its other name `vocab_file` gives; TypeError for both, neither, or what is no vocabulary."""
    if vocab is not None and vocab_file is not None:
        raise TypeError("BertTokenizer() got both vocab and vocab_file, which are names of the same thing: give one")
    name, value = ("vocab", vocab) if vocab_file is None else ("vocab_file", vocab_file)
    if isinstance(value, str | os.PathLike) or (isinstance(value, Mapping) and name == "vocab"):
        return value
    found = "got no vocabulary" if value is None else f"got {name} of type {type(value).__name__}"
    raise TypeError(
        f"BertTokenizer() {found}; give vocab=, the path of a vocabulary file or a mapping from piece to id, or load a "
        "checkpoint's folder with BertTokenizer.from_pretrained(folder)"
    )


def _id_list(ids: Any) -> list[int]:
    """A flat list of int from a list, tuple, array or tensor; errors that name the remedy for anything else."""
    if hasattr(ids, "tolist"):
        ids = ids.tolist()
        ids = [ids] if isinstance(ids, int) else ids
    if isinstance(ids, str) or not isinstance(ids, Sequence):
        raise TypeError(f"expected token ids (int, list, array or tensor), got {type(ids).__name__}")
    for position, number in enumerate(ids):
        if not isinstance(number, int):
            remedy = "; use batch_decode for several sequences" if isinstance(number, Sequence) else ""
            raise TypeError(f"token id at position {position} is of type {type(number).__name__}, expected int{remedy}")
    return list(ids)


def _place(
    name: str | os.PathLike[str],
    cache_dir: str | os.PathLike[str] | None,
    local_files_only: bool,
    revision: str,
    token: str | None,
) -> Path:
    """The folder or file that `name` means."""
    return resolve(
        name,
        cache_dir=cache_dir,
        revision=revision,
        local_files_only=local_files_only,
        token=token,
        filenames=files.TOKENIZER_FILES,
    )


def _override_normalizer(backend: Tokenizer, stated: dict[str, Any], path: Path) -> None:
    """Put the stated normalizer options in the place of those in tokenizer.json."""
    if not stated:
        return
    present = backend.normalizer
    if present is not None and not isinstance(present, BertNormalizer):
        raise ValueError(
            f"{path}: {', '.join(f'{k}={v}' for k, v in stated.items())} cannot be applied to its "
            f"{type(present).__name__} normalizer; leave it out, or load the vocab.txt instead"
        )
    options = {name: DEFAULTS[name] for name in _NORMALIZER_OPTIONS}
    if present is not None:
        options = {
            "do_lower_case": present.lowercase,
            "strip_accents": present.strip_accents,
            "tokenize_chinese_chars": present.handle_chinese_chars,
        }
    replacement = files.bert_normalizer(options | stated)
    if present is not None:
        replacement.clean_text = present.clean_text
    backend.normalizer = replacement


def _require_specials(vocabulary: Tokenizer | Mapping[str, int], options: Mapping[str, Any], origin: str) -> None:
    has = (
        vocabulary.__contains__
        if isinstance(vocabulary, Mapping)
        else lambda token: vocabulary.token_to_id(token) is not None
    )
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


def _warn_if_capitals_are_lost(pieces: Mapping[str, int], stated: Mapping[str, Any], origin: str) -> None:
    """Lower-casing by default makes the capitals of a cased vocabulary unreachable, and nothing else would say so."""
    if "do_lower_case" in stated:
        return
    capitals = sum(piece != piece.lower() for piece in pieces)
    if capitals * 20 > len(pieces) and capitals > len(SPECIAL_TOKENS):
        logger.warning(
            "%s looks cased (%d of %d pieces have capitals), but text is lower-cased by default: pass "
            "do_lower_case=False, "
            "or True to confirm",
            origin,
            capitals,
            len(pieces),
        )
