"""`PreTrainedTokenizerFast`: any tokenizer.json, whatever its parts are, exactly as it is."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from tokenizers import AddedToken
from tokenizers import Tokenizer as Backend
from tokenizers.models import BPE

from minitf.tokenization import files, loading
from minitf.tokenization.arguments import UNSET, Unset, strict_keywords
from minitf.tokenization.base import Side, Tokenizer
from minitf.tokenization.engine import Engine
from minitf.tokenization.fast import FastEngine
from minitf.tokenization.gpt2 import pass_over_clean_up
from minitf.tokenization.options import GENERIC_DEFAULTS, given
from minitf.tokenization.template import PLAIN, Template

T = TypeVar("T", bound="PreTrainedTokenizerFast")
Token = str | AddedToken


class PreTrainedTokenizerFast(Tokenizer):
    """A tokenizer of no family, on the `tokenizers` library: its tokenizer.json says everything.

    `PreTrainedTokenizerFast(tokenizer_file="tokenizer.json")`, or `tokenizer_object=` with a `tokenizers.Tokenizer`
    (which is copied); `from_pretrained` reads a folder. The pipeline, and the special tokens that it puts around a
    text, are those of the file. Which token is `pad_token` and so on is said by the keywords, or by the folder's
    tokenizer_config.json and special_tokens_map.json.

    Options and defaults: the special tokens bos_token, eos_token, unk_token, sep_token, pad_token, cls_token,
    mask_token=None, additional_special_tokens=None, model_max_length=None (not known), padding_side="right",
    truncation_side="right", clean_up_tokenization_spaces=False, split_special_tokens=False. A call returns input_ids
    and attention_mask; `model_input_names` adds token_type_ids (all as in transformers 5.23).

    Raises ValueError for a file that is no tokenizer.json and for a special token that it lacks; TypeError for both or
    neither of `tokenizer_file` and `tokenizer_object`.
    """

    DEFAULTS = GENERIC_DEFAULTS
    IS_FAMILY = False
    vocab_files_names: ClassVar[Mapping[str, str]] = {"tokenizer_file": files.BACKEND_FILE}
    is_fast = True

    @strict_keywords
    def __init__(
        self,
        *,
        tokenizer_file: str | os.PathLike[str] | None = None,
        tokenizer_object: Backend | None = None,
        bos_token: Token | Unset | None = UNSET,
        eos_token: Token | Unset | None = UNSET,
        unk_token: Token | Unset | None = UNSET,
        sep_token: Token | Unset | None = UNSET,
        pad_token: Token | Unset | None = UNSET,
        cls_token: Token | Unset | None = UNSET,
        mask_token: Token | Unset | None = UNSET,
        additional_special_tokens: Sequence[Token] | Unset | None = UNSET,
        model_max_length: int | Unset | None = UNSET,
        padding_side: Side | Unset = UNSET,
        truncation_side: Side | Unset = UNSET,
        clean_up_tokenization_spaces: bool | Unset = UNSET,
        split_special_tokens: bool | Unset = UNSET,
    ) -> None:
        owner = type(self).__name__
        stated = given({name: value for name, value in locals().items() if name in GENERIC_DEFAULTS}, owner)
        if (tokenizer_file is None) == (tokenizer_object is None):
            raise TypeError(
                f"{owner}() takes either tokenizer_file=, the path of a tokenizer.json, or tokenizer_object=, a "
                f"tokenizers.Tokenizer; a folder is read by {owner}.from_pretrained(folder)"
            )
        origin, text = "the given tokenizer", ""
        if tokenizer_file is not None:
            origin, text = str(tokenizer_file), files.read_text(Path(tokenizer_file))
        elif isinstance(tokenizer_object, Backend):
            text = tokenizer_object.to_str()
        else:
            raise TypeError(f"{owner}(): tokenizer_object is of type {type(tokenizer_object).__name__}")
        engine = FastEngine.of_json(Path(origin), text)
        options = GENERIC_DEFAULTS | stated
        later = {"additional_special_tokens": None}  # added to the vocabulary if it lacks them
        loading.require_specials(lambda token: engine.token_to_id(token) is not None, options | later, origin)
        self._assemble(engine, options, {}, origin, family=engine.backend.post_processor is None)

    @classmethod
    @strict_keywords
    def from_pretrained(
        cls: type[T],
        pretrained_model_name_or_path: str | os.PathLike[str],
        *,
        bos_token: Token | Unset | None = UNSET,
        eos_token: Token | Unset | None = UNSET,
        unk_token: Token | Unset | None = UNSET,
        sep_token: Token | Unset | None = UNSET,
        pad_token: Token | Unset | None = UNSET,
        cls_token: Token | Unset | None = UNSET,
        mask_token: Token | Unset | None = UNSET,
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
        """Tokenizer of a folder that holds a tokenizer.json, of that file, or of a hub name.

        tokenizer_config.json, special_tokens_map.json and added tokens are obeyed; the options of a family in them
        (`do_lower_case`, `add_prefix_space`) are not, as in transformers. Keywords override what the files say.

        Raises FileNotFoundError if there is no such place or no tokenizer.json in it, ValueError for files that are
        damaged or contradict each other, TypeError for an unknown keyword.
        """
        named = {name: value for name, value in locals().items() if name in GENERIC_DEFAULTS}
        hub = {"cache_dir": cache_dir, "local_files_only": local_files_only, "revision": revision, "token": token}
        hub |= {"subfolder": subfolder, "endpoint": endpoint}
        tokenizer = cls._loaded(pretrained_model_name_or_path, named, _AS_THE_FILES, hub)
        if clean_up_tokenization_spaces is None and isinstance(tokenizer.backend_tokenizer.model, BPE):
            pass_over_clean_up(tokenizer)
        return tokenizer

    @property
    def backend_tokenizer(self) -> Backend:
        """The `tokenizers.Tokenizer` inside."""
        assert isinstance(self._engine, FastEngine)
        return self._engine.backend

    def _make_template(self) -> Template:
        return PLAIN  # of a file without a post-processor; any other is kept

    def _saved_config(self) -> dict[str, Any]:
        return super()._saved_config() | {"tokenizer_class": "PreTrainedTokenizerFast"}

    @classmethod
    def _engine_of_files(cls, paths: list[Path], stated: Mapping[str, Any]) -> Engine:
        raise ValueError(f"{paths[0]}: {cls.__name__} reads a {files.BACKEND_FILE}, or a folder that holds one")

    @classmethod
    def _engine_of_json(cls, path: Path, text: str, stated: Mapping[str, Any]) -> Engine:
        return FastEngine.of_json(path, text)


# Keywords of from_pretrained for which None means: as the files say.
_AS_THE_FILES = ("padding_side", "truncation_side", "clean_up_tokenization_spaces", "split_special_tokens")
