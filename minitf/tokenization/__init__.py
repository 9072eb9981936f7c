"""Text to ids and back. Public names resolve on first use; nothing here imports torch before a tensor is asked for.

`BertTokenizer` (wordpiece.py) and `GPT2Tokenizer` (bpe.py) are written in plain Python, to be read; `BertTokenizerFast`
and `GPT2TokenizerFast` (fast.py) do the same on the `tokenizers` library, and `PreTrainedTokenizerFast` (generic.py)
reads any other tokenizer.json. All have the surface of `Tokenizer` (base.py).

Ids, masks, token types, offsets and decoded texts are those of transformers 5.23, in both forms. The deliberate
differences, each tested beside transformers in tests/tokenization (test_differences.py, test_gpt2.py):

- tokenizer_config.json states nothing about the normalizer, or is not there: tokenizer.json is taken as it is. There
  BERT's defaults win, so that a cased tokenizer.json is lower-cased.
- tokenizer_config.json names a generic class (`PreTrainedTokenizerFast` and the like): `token_type_ids` are returned
  all the same. There `AutoTokenizer` leaves them out, and the model takes zeros, also for the second text of a pair.
- `max_length` without `truncation` or `padding="max_length"`: an error. There the text is cut all the same, or with
  `padding=True` nothing happens. `max_length` below the number of special tokens: an error. There the text stays uncut.
  `stride` without `return_overflowing_tokens`, and that without `truncation`: errors. There they are ignored.
- `truncation=True` where no `model_max_length` is known: an error. There nothing is cut.
- A list of two texts inside a list: an error, as it may be a pair or a text split into words; a pair is a tuple.
- `decode` of nested lists: an error that names `batch_decode`. There it returns a list.
- `clean_up_tokenization_spaces=True` of the caller is obeyed by byte-level tokenizers too. There it never is; in
  tokenizer_config.json alone it is passed over by both.
- A token that added_tokens.json holds and special_tokens_map.json calls special is special, as in 4.49. There it is
  listed as special, but found in the normalized text and never skipped.
- Attributes: a wrong `padding_side` and the like, and a misspelt name, are errors. There they are taken.
- Ids outside the vocabulary, in `decode` and `convert_ids_to_tokens`: an error. There they are dropped, or become None.
- A special token that the vocabulary lacks: an error. There it is appended, and the model may have no row for it.
- `add_tokens` returns by how much the vocabulary grew. There tokens that it has already are counted too.
- An added token that is found in the normalized text (`add_tokens(["NewTok"])` of an uncased BERT) is shown as it was
  added. There, since tokenizers 0.23, by `decode` and `convert_ids_to_tokens` in its normalized form ("newtok").
- A vocabulary that looks cased, without a word about `do_lower_case`: lower-cased as there, but with a warning.
- An empty list: empty lists, or tensors of shape [0, 0]. There an IndexError.
- `do_basic_tokenize=False` and `never_split`, as arguments or in tokenizer_config.json: obeyed by `BertTokenizer`, an
  error in `BertTokenizerFast`, as the library has nothing like them. There they are ignored.
- A byte-level vocabulary without all 256 bytes: `unk_token` for those. There they vanish.
- `is_split_into_words` of GPT-2 without `add_prefix_space`: an error. There the words are joined without blanks.
- `return_tensors` with rows of different lengths: an error that names `padding=True`, for "np" too, where transformers
  makes arrays of objects. "tf" is refused (as there), and so is "mlx".

Plain Python reads a tokenizer.json only if it holds exactly BERT's or GPT-2's pipeline; the fast classes read any with
a WordPiece or WordLevel (BERT) or BPE (GPT-2) model. A character that Unicode got after the Python in use was made
counts as no letter in plain Python, and has no lower case.

Of the tokenizers that transformers 4.49.0 had in Python, ours differ (tests/tokenization/test_goldens.py):

- `longest_first` on a tie: when both texts of a pair are equally long and one more token must go, ours take it from the
  text that was shorter in the beginning, of equals from the first. There always from the second.
- Windows (`return_overflowing_tokens`) are further rows, as in the fast classes. There a list of the surplus ids.
- Letters and accents are not composed (NFC) before they are looked up, if accents are kept.
- A capital Sigma at the end of a word becomes the same small letter as anywhere.
- Punctuation, accents and control characters are those of Unicode 8, under every version of Python; the ideographs
  U+2B820 to U+2B91F are no words of their own (characters.py).
- `never_split` words keep their capitals. There the text is lower-cased before they are looked for.
- `add_prefix_space` puts no second blank before a blank, none into an empty text, and one after each special token.
- Token types of GPT-2 with `add_bos_token` count the bos tokens.
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
