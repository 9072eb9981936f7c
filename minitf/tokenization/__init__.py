"""Text to ids and back. Public names resolve on first use; nothing here imports torch before a tensor is asked for.

`BertTokenizer` (wordpiece.py) and `GPT2Tokenizer` (bpe.py) are written in plain Python, to be read; `BertTokenizerFast`
and `GPT2TokenizerFast` (fast.py) do the same on the `tokenizers` library, and `PreTrainedTokenizerFast` (generic.py)
reads any other tokenizer.json. All have the surface of `Tokenizer` (base.py).

docs/tokenization.md says where to step through, and lists every deliberate difference from transformers.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

_HOMES = {
    "BatchEncoding": "minitf.tokenization.batch",
    "BasicTokenizer": "minitf.tokenization.wordpiece",
    "BertTokenizer": "minitf.tokenization.wordpiece",
    "BertTokenizerFast": "minitf.tokenization.fast",
    "GPT2Tokenizer": "minitf.tokenization.bpe",
    "GPT2TokenizerFast": "minitf.tokenization.fast",
    "PreTrainedTokenizerFast": "minitf.tokenization.generic",
    "Tokenizer": "minitf.tokenization.base",
    "WordpieceTokenizer": "minitf.tokenization.wordpiece",
}

__all__ = [
    "BasicTokenizer",
    "BatchEncoding",
    "BertTokenizer",
    "BertTokenizerFast",
    "GPT2Tokenizer",
    "GPT2TokenizerFast",
    "PreTrainedTokenizerFast",
    "Tokenizer",
    "WordpieceTokenizer",
]

if TYPE_CHECKING:
    from minitf.tokenization.base import Tokenizer as Tokenizer
    from minitf.tokenization.batch import BatchEncoding as BatchEncoding
    from minitf.tokenization.bpe import GPT2Tokenizer as GPT2Tokenizer
    from minitf.tokenization.fast import BertTokenizerFast as BertTokenizerFast
    from minitf.tokenization.fast import GPT2TokenizerFast as GPT2TokenizerFast
    from minitf.tokenization.generic import PreTrainedTokenizerFast as PreTrainedTokenizerFast
    from minitf.tokenization.wordpiece import BasicTokenizer as BasicTokenizer
    from minitf.tokenization.wordpiece import BertTokenizer as BertTokenizer
    from minitf.tokenization.wordpiece import WordpieceTokenizer as WordpieceTokenizer


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'minitf.tokenization' has no attribute {name!r}; it has {', '.join(__all__)}")
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
