"""Text to ids and back. Public names resolve on first use; nothing here imports torch before a tensor is asked for.

Ids, masks, token types, offsets and decoded texts are those of transformers 5.23. The deliberate differences, each
tested beside transformers in tests/tokenization/test_differences.py:

- tokenizer_config.json states nothing about the normalizer, or is not there: tokenizer.json is taken as it is. There
  BERT's defaults win, so that a cased tokenizer.json is lower-cased.
- tokenizer_config.json names a generic class (`PreTrainedTokenizerFast` and the like): `token_type_ids` are returned
  all the same. There `AutoTokenizer` leaves them out, and the model takes zeros, also for the second text of a pair.
- `max_length` without `truncation` or `padding="max_length"`: an error. There the text is cut all the same, or with
  `padding=True` nothing happens. `max_length` below the number of special tokens: an error. There the text stays uncut.
- Ids outside the vocabulary, in `decode` and `convert_ids_to_tokens`: an error. There they are dropped, or become None.
- A special token that the vocabulary lacks: an error. There it is appended, and the model may have no row for it.
- A vocabulary that looks cased, without a word about `do_lower_case`: lower-cased as there, but with a warning.
- An empty list: empty lists, or tensors of shape [0, 0]. There an IndexError.
- `do_basic_tokenize=False` and `never_split`, as arguments or in tokenizer_config.json: an error, until the tokenizer
  written in Python comes. There they are ignored.
- `return_tensors` with rows of different lengths: an error that names `padding=True`, for "np" too, where transformers
  makes arrays of objects. "tf" is refused (as there), and so is "mlx".
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
    "Tokenizer",
    "WordpieceTokenizer",
]

if TYPE_CHECKING:
    from minitf.tokenization.base import Tokenizer as Tokenizer
    from minitf.tokenization.batch import BatchEncoding as BatchEncoding
    from minitf.tokenization.bpe import GPT2Tokenizer as GPT2Tokenizer
    from minitf.tokenization.fast import BertTokenizerFast as BertTokenizerFast
    from minitf.tokenization.fast import GPT2TokenizerFast as GPT2TokenizerFast
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
