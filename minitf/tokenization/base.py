"""`Tokenizer`: what all tokenizers can do, whatever they have inside. Text to ids, ids to text, files."""

from __future__ import annotations

import copy
import json
import logging
import operator
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeAlias, TypeVar, cast

from minitf.keywords import nearest_name
from minitf.tokenization import files, loading
from minitf.tokenization.arguments import UNSET, strict_keywords
from minitf.tokenization.batch import BatchEncoding, to_arrays
from minitf.tokenization.call import Plan, Request, make_plan, pair_up
from minitf.tokenization.encoding import TOO_SHORT
from minitf.tokenization.engine import Engine, Input
from minitf.tokenization.options import (
    ADDED_TOKEN_KEYS,
    CHECKED_WHEN_SET,
    SPECIAL_TOKENS,
    TOKEN_FLAGS,
    UNKNOWN_LENGTH,
    added_token,
    checked,
    given,
)
from minitf.tokenization.padding import pad_columns
from minitf.tokenization.special import SpecialTokens
from minitf.tokenization.template import Template

if TYPE_CHECKING:
    import numpy as np
    import torch

T = TypeVar("T", bound="Tokenizer")

logger = logging.getLogger("minitf.tokenization")

Words: TypeAlias = Sequence[str]
Texts: TypeAlias = "str | Sequence[str] | Sequence[tuple[str, str]] | Sequence[Words] | Sequence[tuple[Words, Words]]"
Pairs: TypeAlias = "str | Sequence[str] | Sequence[Words]"
Ids: TypeAlias = "int | Sequence[int] | np.ndarray[Any, Any] | torch.Tensor"
Side: TypeAlias = Literal["left", "right"]
Padding: TypeAlias = "bool | Literal['longest', 'max_length', 'do_not_pad']"
Truncation: TypeAlias = "bool | Literal['longest_first', 'only_first', 'only_second', 'do_not_truncate']"
Kind: TypeAlias = "Literal['pt', 'np']"

# transformers' `clean_up_tokenization_spaces=True`, in its order: "it ' s fine ." becomes "it's fine."
_CLEAN_UPS = {
    " .": ".", " ?": "?", " !": "!", " ,": ",", " ' ": "'",
    " n't": "n't", " 'm": "'m", " 's": "'s", " 've": "'ve", " 're": "'re",
}  # fmt: skip


class Tokenizer(SpecialTokens):
    """Base of all tokenizers. A family (bert.py, gpt2.py) adds its options and the special tokens around a text; a form
    (plain Python, or the `tokenizers` library) adds the engine.
    """

    vocab_files_names: ClassVar[Mapping[str, str]]  # as in transformers: argument to file name
    is_fast: ClassVar[bool]
    IS_FAMILY: ClassVar[bool] = True  # it has special tokens of its own to put around a text
    name_or_path = ""

    # Options that can be changed at any time; a wrong value is a ValueError.
    model_max_length: int  # tokens that the model can read; 10**30 if that is not known
    padding_side: Side
    truncation_side: Side  # the end that truncation cuts off
    clean_up_tokenization_spaces: bool  # of `decode`
    split_special_tokens: bool  # special tokens inside a text are text
    pad_token_type_id: int
    model_input_names: list[str]  # what a call returns

    def _assemble(
        self, engine: Engine, options: Mapping[str, Any], config: Mapping[str, Any], name: str, family: bool = True
    ) -> None:
        """Fill a new object. family: put the family's special tokens around texts; else those of the tokenizer.json."""
        self._engine = engine
        self._options = {key: options[key] for key in self.DEFAULTS}
        self._config = {key: value for key, value in config.items() if key not in (*ADDED_TOKEN_KEYS, "_tokens")}
        self._special = {key: options[key] for key in SPECIAL_TOKENS}
        self._extra = list(options["additional_special_tokens"])
        self._keep_template = not family
        self._warned_too_long = False
        self.name_or_path = name
        for option in CHECKED_WHEN_SET:
            setattr(self, option, options[option])
        self.model_input_names = list(self.model_input_names)  # the default's own list stays as it is
        present = [token for token in (*self._special.values(), *self._extra) if token is not None]
        self._add([added_token(token, special=True) for token in dict.fromkeys(present)])
        self._refresh_template()

    @classmethod
    def _loaded(
        cls: type[T],
        name: str | os.PathLike[str],
        named: Mapping[str, Any],
        as_the_files: Sequence[str],
        hub: Mapping[str, Any],
    ) -> T:
        """`from_pretrained` of every family. as_the_files: keywords for which None means "not given"."""
        named = {key: UNSET if value is None and key in as_the_files else value for key, value in named.items()}
        keywords = given(named, f"{cls.__name__}.from_pretrained")
        source = loading.find(name, keywords, cls.DEFAULTS, tuple(cls.vocab_files_names.values()), hub)
        path = source.paths[0]
        options = {**cls.DEFAULTS, **source.stated, **keywords}
        family = cls.IS_FAMILY
        if source.is_backend:
            text = files.read_text(path)
            engine = cls._engine_of_json(path, text, source.in_force)
            bare = json.loads(text).get("post_processor") is None
            family = bare or (family and not source.is_generic)
        else:
            engine = cls._engine_of_files(source.paths, source.stated | keywords)
        loading.add_stated(engine, source)
        loading.require_specials(lambda token: engine.token_to_id(token) is not None, options, str(path))
        tokenizer = cls.__new__(cls)
        tokenizer._assemble(engine, options, source.config, str(name), family)
        return tokenizer

    @classmethod
    def _engine_of_files(cls, paths: list[Path], stated: Mapping[str, Any]) -> Engine:
        """The engine of vocabulary files, with the options that were stated."""
        raise NotImplementedError(f"{cls.__name__} does not say how its vocabulary files are read.")

    @classmethod
    def _engine_of_json(cls, path: Path, text: str, stated: Mapping[str, Any]) -> Engine:
        """The engine of a tokenizer.json, with the stated options in the place of what it says."""
        raise NotImplementedError(f"{cls.__name__} does not say how its tokenizer.json is read.")

    # Vocabulary

    @property
    def vocab_size(self) -> int:
        """Pieces of the vocabulary, added tokens not counted; `len(tokenizer)` counts them."""
        return self._engine.size(added=False)

    def __len__(self) -> int:
        return self._engine.size(added=True)

    def __bool__(self) -> bool:
        return True  # a tokenizer is never "empty", and `if tokenizer` should not count the vocabulary

    def get_vocab(self) -> dict[str, int]:
        """A new dict from token to id, added tokens included."""
        return self._engine.vocabulary(added=True)

    @property
    def vocab(self) -> dict[str, int]:
        """The same as `get_vocab()`."""
        return self.get_vocab()

    def convert_tokens_to_ids(self, tokens: str | Sequence[str]) -> Any:
        """Id of one token (int) or of several (list). What is not in the vocabulary becomes `unk_token_id`."""
        return self._id_of(tokens) if isinstance(tokens, str) else [self._id_of(token) for token in tokens]

    def convert_ids_to_tokens(self, ids: Ids, skip_special_tokens: bool = False) -> Any:
        """Token of one id (str) or of several (list). ValueError for an id outside the vocabulary."""
        if _is_number(ids):
            return self._tokens_of(_id_list([ids]))[0]
        tokens = self._tokens_of(_id_list(ids))
        special = set(self.all_special_tokens) if skip_special_tokens else set()
        return [token for token in tokens if token not in special]

    def convert_tokens_to_string(self, tokens: Sequence[str]) -> str:
        """Pieces joined to text, special tokens too (BERT: "##" continues a word, blanks before punctuation go)."""
        return self._engine.join(tokens)

    # Special tokens around ids

    def _slots(self, pair: bool) -> Any:
        template: Template | None = self._engine.template
        if template is None:
            raise ValueError(
                f"{self.name_or_path}: the post-processor of its tokenizer.json is of a kind whose special tokens are "
                "not known outside the tokenizers library; tokenize texts instead of joining ids"
            )
        return template.slots(pair)

    def num_special_tokens_to_add(self, pair: bool = False) -> int:
        """Special tokens put around one text (BERT: 2, GPT-2: 0) or a pair (3, 0)."""
        return self._engine.added(pair)

    def build_inputs_with_special_tokens(
        self, token_ids_0: Sequence[int], token_ids_1: Sequence[int] | None = None
    ) -> list[int]:
        """The ids of one text or a pair with the special ids around them."""
        parts = (token_ids_0, () if token_ids_1 is None else token_ids_1)
        slots = self._slots(token_ids_1 is not None)
        return [n for slot in slots for n in (parts[slot.sequence] if slot.token is None else [slot.id])]

    def create_token_type_ids_from_sequences(
        self, token_ids_0: Sequence[int], token_ids_1: Sequence[int] | None = None
    ) -> list[int]:
        """The token types (0, and 1 from the second text on) of what `build_inputs_with_special_tokens` gives."""
        parts = (token_ids_0, () if token_ids_1 is None else token_ids_1)
        slots = self._slots(token_ids_1 is not None)
        return [slot.type_id for slot in slots for _ in (parts[slot.sequence] if slot.token is None else [slot.id])]

    def get_special_tokens_mask(
        self,
        token_ids_0: Sequence[int],
        token_ids_1: Sequence[int] | None = None,
        already_has_special_tokens: bool = False,
    ) -> list[int]:
        """1 where `build_inputs_with_special_tokens` puts a special token, 0 elsewhere.

        already_has_special_tokens: `token_ids_0` is a finished sequence; 1 where a special id stands. ValueError if
        `token_ids_1` is given as well.
        """
        if already_has_special_tokens:
            if token_ids_1 is not None:
                raise ValueError(
                    "already_has_special_tokens=True takes one finished sequence, but token_ids_1 is given: leave it "
                    "out"
                )
            special = set(self.all_special_ids)
            return [int(number in special) for number in token_ids_0]
        parts = (token_ids_0, () if token_ids_1 is None else token_ids_1)
        slots = self._slots(token_ids_1 is not None)
        masks = [[1] if slot.token is not None else [0] * len(parts[slot.sequence]) for slot in slots]
        return [bit for mask in masks for bit in mask]

    # Text to ids

    @strict_keywords
    def __call__(
        self,
        text: Texts,
        text_pair: Pairs | None = None,
        *,
        add_special_tokens: bool = True,
        padding: Padding = False,
        truncation: Truncation = False,
        max_length: int | None = None,
        stride: int = 0,
        is_split_into_words: bool = False,
        pad_to_multiple_of: int | None = None,
        padding_side: Side | None = None,
        return_tensors: Kind | None = None,
        return_token_type_ids: bool | None = None,
        return_attention_mask: bool | None = None,
        return_overflowing_tokens: bool = False,
        return_special_tokens_mask: bool = False,
        return_offsets_mapping: bool = False,
        return_length: bool = False,
        split_special_tokens: bool | None = None,
        verbose: bool = True,
        pad_to_max_length: bool | None = None,
        truncation_strategy: str | None = None,
        is_pretokenized: bool | None = None,
    ) -> BatchEncoding:
        """Tokenize one text or a list of texts, alone or in pairs.

        text: a string; or a list of B strings; or a list of B tuples (text, second text). With `is_split_into_words`
            each string is a list of words instead.
        text_pair: the second text(s), of the same form. A single empty second text counts as none, one in a list
            counts as a second text of length 0 (both as in transformers).
        padding: True or "longest" (to the longest of the batch), "max_length" (to `max_length`, by default to
            `model_max_length`), False. On `padding_side`, by default the tokenizer's.
        truncation: True or "longest_first" (of a pair, the longer one loses tokens first), "only_first", "only_second",
            False; to `max_length`, by default `model_max_length`, special tokens included.
        return_overflowing_tokens: each text gives as many rows as it takes to hold all of it, the windows that
            truncation makes, neighbours sharing `stride` tokens (default 0); "overflow_to_sample_mapping" says which
            text a row came from. Lists then have two levels also for a single text.
        is_split_into_words: offsets count from the beginning of each word. GPT-2 needs add_prefix_space=True for it.
        pad_to_multiple_of: round the padded length up to a multiple of this.
        return_tensors: "pt" (torch) or "np" (numpy), int64 [B, T]; None gives lists, flat ones for a single text.
        return_token_type_ids, return_attention_mask: None follows `model_input_names` (BERT: both; GPT-2: the mask).
        return_offsets_mapping: (start, end) characters in the text for each token.
        return_special_tokens_mask: 1 where a token was put there by the tokenizer or is padding.
        return_length: "length", the tokens of each row, padding included.
        split_special_tokens: special tokens inside a text are text; None follows the attribute of that name.
        verbose: False leaves out the warning about texts that are too long.
        pad_to_max_length, truncation_strategy, is_pretokenized: names of transformers 2, which old tutorials use:
            padding="max_length", truncation=..., is_split_into_words.

        An empty string gives [CLS] [SEP] with BERT; an empty list gives empty lists, or [0, 0] tensors. A text longer
        than `model_max_length` that is not truncated is logged once as a warning.

        Raises TypeError for what is no text (says which element) and ValueError for options that contradict each other
        or would have no effect, rows of different lengths with `return_tensors`, and a `max_length` that cannot be met.
        """
        return self._encoded(text, text_pair, Request.of(locals()))

    @strict_keywords
    def encode_plus(
        self,
        text: str | Words,
        text_pair: str | Words | None = None,
        *,
        add_special_tokens: bool = True,
        padding: Padding = False,
        truncation: Truncation = False,
        max_length: int | None = None,
        stride: int = 0,
        is_split_into_words: bool = False,
        pad_to_multiple_of: int | None = None,
        padding_side: Side | None = None,
        return_tensors: Kind | None = None,
        return_token_type_ids: bool | None = None,
        return_attention_mask: bool | None = None,
        return_overflowing_tokens: bool = False,
        return_special_tokens_mask: bool = False,
        return_offsets_mapping: bool = False,
        return_length: bool = False,
        split_special_tokens: bool | None = None,
        verbose: bool = True,
        pad_to_max_length: bool | None = None,
        truncation_strategy: str | None = None,
        is_pretokenized: bool | None = None,
    ) -> BatchEncoding:
        """One text or pair, as by calling the tokenizer. Raises TypeError for several texts."""
        request = Request.of(locals())
        if isinstance(text, list | tuple) and not (request.words and all(isinstance(word, str) for word in text)):
            raise TypeError(
                "encode_plus() takes one text (with is_split_into_words=True: one list of words); for several texts "
                "use batch_encode_plus or call the tokenizer"
            )
        return self._encoded(text, text_pair, request)

    @strict_keywords
    def batch_encode_plus(
        self,
        batch_text_or_text_pairs: Texts,
        *,
        add_special_tokens: bool = True,
        padding: Padding = False,
        truncation: Truncation = False,
        max_length: int | None = None,
        stride: int = 0,
        is_split_into_words: bool = False,
        pad_to_multiple_of: int | None = None,
        padding_side: Side | None = None,
        return_tensors: Kind | None = None,
        return_token_type_ids: bool | None = None,
        return_attention_mask: bool | None = None,
        return_overflowing_tokens: bool = False,
        return_special_tokens_mask: bool = False,
        return_offsets_mapping: bool = False,
        return_length: bool = False,
        split_special_tokens: bool | None = None,
        verbose: bool = True,
        pad_to_max_length: bool | None = None,
        truncation_strategy: str | None = None,
        is_pretokenized: bool | None = None,
    ) -> BatchEncoding:
        """A list of texts, or of tuples (text, second text), as by calling the tokenizer. Raises TypeError for one
        text.
        """
        if not isinstance(batch_text_or_text_pairs, list | tuple):
            raise TypeError(
                f"batch_encode_plus() takes a list of texts or pairs, got {type(batch_text_or_text_pairs).__name__}; "
                "for one text use encode_plus or call the tokenizer"
            )
        return self._encoded(batch_text_or_text_pairs, None, Request.of(locals()))

    def _encoded(self, text: Any, text_pair: Any, request: Request) -> BatchEncoding:
        if request.words:
            self._check_words()
        inputs, batched = pair_up(text, text_pair, request.words)
        pairs = [isinstance(item, tuple) for item in inputs]
        most = max((self._engine.added(pair) for pair in set(pairs)), default=0) if request.add_special_tokens else 0
        plan = make_plan(self, request, least=most, all_pairs=all(pairs))
        encodings: Sequence[Any] = self._run(inputs, plan, request)
        samples = list(range(len(encodings)))
        if request.return_overflowing_tokens:
            samples = [index for index, encoding in enumerate(encodings) for _ in (encoding, *encoding.overflowing)]
            encodings = [window for encoding in encodings for window in (encoding, *encoding.overflowing)]
        if request.verbose:
            self._warn_if_too_long(encodings)
        names = self.model_input_names
        wanted = {
            "input_ids": True,
            "token_type_ids": _asked(request.return_token_type_ids, "token_type_ids" in names),
            "attention_mask": _asked(request.return_attention_mask, "attention_mask" in names),
            "special_tokens_mask": request.return_special_tokens_mask,
            "offset_mapping": request.return_offsets_mapping,
        }
        columns: dict[str, list[Any]] = {
            name: [getattr(encoding, _SOURCES.get(name, name)) for encoding in encodings]
            for name, asked in wanted.items()
            if asked
        }
        if request.return_length:
            columns["length"] = [len(row) for row in columns["input_ids"]]
        if request.return_overflowing_tokens:
            columns["overflow_to_sample_mapping"] = samples
        if request.return_tensors is not None:
            return BatchEncoding(to_arrays(columns, request.return_tensors), encodings)
        if not batched and not request.return_overflowing_tokens:
            columns = {name: rows if name == "length" else rows[0] for name, rows in columns.items()}
        return BatchEncoding(columns, encodings)

    def _check_words(self) -> None:
        """Refuse words instead of texts where they would give wrong ids."""

    def _run(self, inputs: Sequence[Input], plan: Plan, request: Request) -> Sequence[Any]:
        split = _asked(request.split_special_tokens, self.split_special_tokens)
        try:
            return self._engine.encode(
                inputs, plan, special=request.add_special_tokens, words=request.words, split_special=split
            )
        except ValueError as error:
            if str(error) != TOO_SHORT or plan.truncation is None:
                raise
            limit, strategy = plan.truncation["max_length"], plan.truncation["strategy"]
            raise ValueError(
                f"truncation={strategy!r} cannot shorten a text to max_length={limit}: the other text of the pair is "
                "too long on its own; use 'longest_first' or a larger max_length"
            ) from None

    def _warn_if_too_long(self, encodings: Sequence[Any]) -> None:
        if self._warned_too_long:
            return
        for index, encoding in enumerate(encodings):
            if len(encoding.ids) > self.model_max_length:
                self._warned_too_long = True
                logger.warning(
                    "text %d has %d tokens; this model reads %d (model_max_length): pass truncation=True. Later texts "
                    "that are too long are not reported again",
                    index,
                    len(encoding.ids),
                    self.model_max_length,
                )
                return

    @strict_keywords
    def encode(
        self,
        text: Texts,
        text_pair: Pairs | None = None,
        *,
        add_special_tokens: bool = True,
        padding: Padding = False,
        truncation: Truncation = False,
        max_length: int | None = None,
        is_split_into_words: bool = False,
        pad_to_multiple_of: int | None = None,
        padding_side: Side | None = None,
        return_tensors: Kind | None = None,
        split_special_tokens: bool | None = None,
        verbose: bool = True,
        pad_to_max_length: bool | None = None,
        truncation_strategy: str | None = None,
        is_pretokenized: bool | None = None,
    ) -> Any:
        """`input_ids` alone: a list of T ids for one text, or what `return_tensors` asks for. Options as in a call."""
        return self._encoded(text, text_pair, Request.of(locals()))["input_ids"]

    def tokenize(
        self,
        text: str | Words,
        pair: str | Words | None = None,
        add_special_tokens: bool = False,
        *,
        is_split_into_words: bool = False,
        split_special_tokens: bool | None = None,
    ) -> list[str]:
        """The pieces of `text` (and `pair`) as strings, without special tokens unless asked for."""
        if not isinstance(text, str) and not is_split_into_words:
            raise TypeError(f"tokenize() takes one str, got {type(text).__name__}; for lists call the tokenizer itself")
        return self._encoded(text, pair, Request.of(locals() | {"verbose": False})).tokens()

    @strict_keywords
    def pad(
        self,
        encoded_inputs: Mapping[str, Any] | Sequence[Mapping[str, Any]],
        padding: Padding = True,
        max_length: int | None = None,
        pad_to_multiple_of: int | None = None,
        padding_side: Side | None = None,
        return_attention_mask: bool | None = None,
        return_tensors: Kind | None = None,
        verbose: bool = True,
    ) -> BatchEncoding:
        """Bring encoded texts to one length.

        encoded_inputs: what a call returned (one text or several), or a list of such, as a collator gets it. Padded are
            input_ids, attention_mask (made if it is not there), token_type_ids, special_tokens_mask and offset_mapping;
            other values (labels) are handed on.
        padding, max_length, pad_to_multiple_of, padding_side, return_tensors: as in a call.
        return_attention_mask: None follows `model_input_names`. verbose: no effect; nothing is logged here.

        Raises ValueError if there are no input_ids, if there is no pad token, and for options that contradict each
        other.
        """
        request = Request.of(locals())
        plan = make_plan(self, request, least=0, all_pairs=False)
        masks = _asked(return_attention_mask, "attention_mask" in self.model_input_names)
        columns, batched = pad_columns(encoded_inputs, plan.padding, attention_mask=masks)
        if return_tensors is not None:
            return BatchEncoding(to_arrays(columns, return_tensors))
        return BatchEncoding(columns if batched else {name: rows[0] for name, rows in columns.items()})

    # Ids to text

    @strict_keywords
    def decode(
        self, token_ids: Ids, skip_special_tokens: bool = False, clean_up_tokenization_spaces: bool | None = None
    ) -> str:
        """Text of one id or one sequence of ids (list, array or tensor [T]).

        BERT: "##" pieces join their word and blanks before punctuation go. GPT-2: the bytes of all pieces as UTF-8,
        with U+FFFD where they are none. `clean_up_tokenization_spaces=True` also closes contractions ("it ' s" to
        "it's"); None follows the attribute of that name (False unless a BERT's tokenizer_config.json says otherwise).
        Same text as transformers 5.23, which does not obey it for GPT-2.

        Raises ValueError for ids outside the vocabulary (also -100, the label that means "ignore"), TypeError for
        nested lists.
        """
        ids = _id_list([token_ids] if _is_number(token_ids) else token_ids)
        self._tokens_of(ids)
        text = self._engine.decode(ids, skip_special=skip_special_tokens)
        clean = _asked(clean_up_tokenization_spaces, self.clean_up_tokenization_spaces)
        return self.clean_up_tokenization(text) if clean else text

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

    @staticmethod
    def clean_up_tokenization(out_string: str) -> str:
        """English text without the blanks that tokenizing put before punctuation: "it ' s fine ." is "it's fine."."""
        for blank, closed in _CLEAN_UPS.items():
            out_string = out_string.replace(blank, closed)
        return out_string

    # Options, copies, files

    def __setattr__(self, name: str, value: Any) -> None:
        """Options are checked when they are set: ValueError for a value, AttributeError for a name that is misspelt."""
        if name in CHECKED_WHEN_SET:
            value = checked(name, value, type(self).__name__)
        elif not (name.startswith("_") or any(name in vars(cls) for cls in type(self).__mro__)):
            hint = nearest_name(name, [*CHECKED_WHEN_SET, *SPECIAL_TOKENS])
            if hint:
                raise AttributeError(f"{type(self).__name__} has no attribute {name!r} to set{hint}")
        object.__setattr__(self, name, value)

    def __copy__(self) -> Tokenizer:
        return copy.deepcopy(self)  # a shallow copy would share the engine, whose tokens can be changed

    def __repr__(self) -> str:
        limit = "unknown" if self.model_max_length >= UNKNOWN_LENGTH else self.model_max_length
        settings = "".join(f", {name}={value}" for name, value in self._repr_settings().items())
        return (
            f"{type(self).__name__}({len(self)} tokens{settings}, model_max_length={limit}, "
            f"padding_side={self.padding_side!r})"
        )

    def _repr_settings(self) -> dict[str, Any]:
        return {}

    @strict_keywords
    def save_vocabulary(
        self, save_directory: str | os.PathLike[str], filename_prefix: str | None = None
    ) -> tuple[str, ...]:
        """Write the classic files alone (BERT: vocab.txt; GPT-2: vocab.json and merges.txt); returns their paths.

        filename_prefix: "bert" makes it "bert-vocab.txt". Added tokens are not in these files. Raises ValueError for a
        model that has no such files, NotADirectoryError if the path is a file.
        """
        texts = self._engine.files()
        if not texts:
            raise ValueError("this tokenizer has no classic vocabulary files; save_pretrained writes a tokenizer.json")
        prefix = f"{filename_prefix}-" if filename_prefix else ""
        return files.write_all(Path(save_directory), {prefix + name: text for name, text in texts.items()})

    def save_pretrained(self, save_directory: str | os.PathLike[str]) -> tuple[str, ...]:
        """Write the vocabulary files, special_tokens_map.json, tokenizer_config.json and tokenizer.json.

        The folder is made if need be. Each file is replaced as a whole, tokenizer.json last. What the `tokenizers`
        library cannot do (`never_split`) gives no tokenizer.json, and one that lies there is removed. Returns the paths
        written. Both minitf and transformers read the folder back to the same ids. Raises NotADirectoryError if the
        path is a file.
        """
        texts = dict(self._engine.files())
        texts["special_tokens_map.json"] = json.dumps(self._special, indent=2) + "\n"
        settings = json.dumps(self._saved_config(), indent=2, sort_keys=True, ensure_ascii=False)
        texts["tokenizer_config.json"] = settings + "\n"
        backend = self._engine.tokenizer_json()
        if backend is not None:
            texts[files.BACKEND_FILE] = backend
        written = files.write_all(Path(save_directory), texts)
        if backend is None:
            (Path(save_directory) / files.BACKEND_FILE).unlink(missing_ok=True)
        return written

    def _saved_config(self) -> dict[str, Any]:
        config = {"tokenizer_class": type(self).__name__.removesuffix("Fast"), **self._config, **self._special}
        for name in ("clean_up_tokenization_spaces", "model_input_names", "padding_side", "truncation_side"):
            config[name] = getattr(self, name)
        config["added_tokens_decoder"] = {
            str(number): {flag: getattr(token, flag) for flag in TOKEN_FLAGS}
            for number, token in self._engine.added_tokens().items()
        }
        if self._extra:
            config["additional_special_tokens"] = self._extra
        if self.model_max_length < UNKNOWN_LENGTH:
            config["model_max_length"] = self.model_max_length
        if self.split_special_tokens:
            config["split_special_tokens"] = True
        return config | self._engine.settings()


def _asked(wish: bool | None, default: bool) -> bool:
    return default if wish is None else wish


_SOURCES = {"input_ids": "ids", "token_type_ids": "type_ids", "offset_mapping": "offsets"}


def _is_number(value: Any) -> bool:
    """A whole number of any kind: int, or a scalar of numpy or torch."""
    if isinstance(value, int):
        return True
    if getattr(value, "ndim", None) != 0:
        return False
    try:
        operator.index(value)
    except TypeError:  # a fraction
        return False
    return True


def _id_list(ids: Any) -> list[int]:
    """A flat list of int from a list, tuple, array or tensor; errors that name the remedy for anything else."""
    if hasattr(ids, "tolist"):
        ids = ids.tolist()
        ids = [ids] if isinstance(ids, int) else ids
    if isinstance(ids, str) or not isinstance(ids, Sequence):
        raise TypeError(f"expected token ids (int, list, array or tensor), got {type(ids).__name__}")
    for position, number in enumerate(ids):
        if not _is_number(number):
            nested = isinstance(number, Sequence) or hasattr(number, "tolist")
            remedy = "; use batch_decode for several sequences" if nested else ""
            raise TypeError(f"token id at position {position} is of type {type(number).__name__}, expected int{remedy}")
    return [number if type(number) is int else operator.index(number) for number in ids]
