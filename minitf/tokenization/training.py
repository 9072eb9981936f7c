"""Learning a vocabulary from text, with the `tokenizers` library: WordPiece for BERT, byte-level BPE for GPT-2.

Both begin with single characters (BPE: with the 256 bytes) and join, again and again, the two neighbouring pieces that
stand together most often in the words of the text, until the vocabulary is full (Sennrich et al., arXiv:1508.07909;
Radford et al. 2019, "Language Models are Unsupervised Multitask Learners"). The library learns WordPiece by the same
rule; Google's own program was never published.

The same texts give the same vocabulary, in every process and with any number of threads. For byte-level BPE the library
does that by itself. For WordPiece it does not: the "##" forms of the characters get their ids in the order of a hash
table, and ties between pairs are decided by id. So the characters are collected first, here, and given their ids in
the order of Unicode; this takes a second pass over the texts, and about twice the time.
"""

from __future__ import annotations

import json
import logging
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers

from minitf.tokenization.arguments import strict_keywords
from minitf.tokenization.fast import BertTokenizerFast, GPT2TokenizerFast
from weights_tools.regular import open_regular

__all__ = ["BERT_SPECIAL_TOKENS", "GPT2_SPECIAL_TOKEN", "TextFiles", "train_bpe", "train_wordpiece"]

logger = logging.getLogger("minitf.tokenization")

BERT_SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
"""The first rows of a vocabulary that is learnt here, so that `pad_token_id` is 0 as in `BertConfig`."""

GPT2_SPECIAL_TOKEN = "<|endoftext|>"
"""The last row, as in OpenAI's vocabulary."""

NO_TEXT = "there is no text to learn from: every line is empty or holds only blanks"
EVERY_WORD = 2**31  # a vocabulary size that no text reaches


class TextFiles:
    """The lines of UTF-8 files as texts, each with its line end (a newline); may be read any number of times.

    Args:
        paths: the files, read in this order. A byte-order mark at the start of a file is dropped.

    Raises:
        FileNotFoundError, ValueError: at once, not after an hour, for what is no regular file. ValueError: while
            reading, for a line that is not UTF-8; the message names file, line and byte.
    """

    @strict_keywords
    def __init__(self, paths: Sequence[str | os.PathLike[str]]) -> None:
        if isinstance(paths, str | os.PathLike):
            raise TypeError(f"paths is a single path, {str(paths)!r}; expected a list of them")
        self.paths = [Path(path) for path in paths]
        for path in self.paths:
            open_regular(path).close()

    def __iter__(self) -> Iterator[str]:
        for path in self.paths:
            with path.open("rb") as stream:
                for number, line in enumerate(stream, start=1):
                    try:
                        text = line.decode("utf-8-sig" if number == 1 else "utf-8")
                    except UnicodeDecodeError as error:
                        raise ValueError(
                            f"{path}, line {number}: byte {line[error.start]:#04x} is not UTF-8; convert the file to "
                            "UTF-8 first"
                        ) from None
                    yield text[:-2] + "\n" if text.endswith("\r\n") else text


@strict_keywords
def train_wordpiece(
    texts: Iterable[str],
    *,
    vocab_size: int = 30522,
    do_lower_case: bool = True,
    strip_accents: bool | None = None,
    tokenize_chinese_chars: bool = True,
    min_frequency: int = 2,
    limit_alphabet: int | None = None,
    show_progress: bool = False,
) -> BertTokenizerFast:
    """A BERT tokenizer with a vocabulary learnt from texts; `save_pretrained` writes its files.

    The special tokens come first, then the characters, then their "##" forms, then what was joined.

    Args:
        texts: read two or three times; an iterator, which can be read once, is kept in memory.
        vocab_size: pieces, special tokens included; fewer, with a warning, if the text gives no more.
        do_lower_case, strip_accents, tokenize_chinese_chars: BERT's normalisation, of the texts and of the tokenizer
            (`strip_accents=None`: as `do_lower_case`).
        min_frequency: a pair that stands less often than this is not joined.
        limit_alphabet: keep only this many characters, the most frequent ones; words with others become [UNK], and a
            warning counts them. None = every character of the text.
        show_progress: the library's bars on stderr.

    Raises:
        TypeError: what is no text. ValueError: no text at all, a bad number, or a vocabulary too small for the
            characters of the text; the message says how many it needs.
    """
    _check_numbers(vocab_size=vocab_size, min_frequency=min_frequency, limit_alphabet=limit_alphabet)
    texts = _readable_again(texts)
    backend = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer(
        clean_text=True,
        handle_chinese_chars=tokenize_chinese_chars,
        strip_accents=strip_accents,
        lowercase=do_lower_case,
    )
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    starting, continuing = _characters(backend, texts, limit_alphabet, show_progress)
    fixed = [*BERT_SPECIAL_TOKENS, *sorted(starting), *sorted("##" + character for character in continuing)]
    if vocab_size < len(fixed):
        raise ValueError(
            f'vocab_size = {vocab_size} is too small for this text: its {len(starting)} characters, their "##" forms '
            f"and the special tokens are {len(fixed)} pieces; give at least {len(fixed)}, or leave rare characters out "
            "(limit_alphabet)"
        )
    trainer = trainers.WordPieceTrainer(
        vocab_size=vocab_size,
        min_frequency=min_frequency,
        special_tokens=fixed,  # only so that these get the first ids, in this order
        initial_alphabet=sorted(starting),
        limit_alphabet=len(starting),
        show_progress=show_progress,
    )
    backend.train_from_iterator(iter(texts), trainer)
    vocabulary: dict[str, int] = backend.get_vocab()
    _say_if_smaller(vocabulary, vocab_size)
    return BertTokenizerFast(
        vocabulary,
        do_lower_case=do_lower_case,
        strip_accents=strip_accents,
        tokenize_chinese_chars=tokenize_chinese_chars,
    )


@strict_keywords
def train_bpe(
    texts: Iterable[str],
    *,
    vocab_size: int = 50257,
    add_prefix_space: bool = False,
    min_frequency: int = 2,
    show_progress: bool = False,
) -> GPT2TokenizerFast:
    """A GPT-2 tokenizer with a byte-level BPE vocabulary learnt from texts; `save_pretrained` writes its files.

    The 256 bytes come first, then what was joined, at last `<|endoftext|>`: the order of OpenAI's vocabulary.

    Args:
        texts: read once. Blanks and line ends are part of them: a text should keep its own.
        vocab_size: pieces, bytes and `<|endoftext|>` included; fewer, with a warning, if the text gives no more.
        add_prefix_space: the first word of a text counts like the others, as one behind a blank.
        min_frequency: a pair that stands less often than this is not joined.
        show_progress: the library's bars on stderr.

    Raises:
        TypeError: what is no text. ValueError: no text at all, a bad number, or a vocabulary that cannot hold the
            bytes.
    """
    _check_numbers(vocab_size=vocab_size, min_frequency=min_frequency)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    if vocab_size <= len(alphabet):
        raise ValueError(
            f"vocab_size = {vocab_size} is too small: the {len(alphabet)} bytes and {GPT2_SPECIAL_TOKEN} need "
            f"{len(alphabet) + 1}"
        )
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=add_prefix_space)
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - 1,
        min_frequency=min_frequency,
        initial_alphabet=alphabet,
        special_tokens=[],
        show_progress=show_progress,
    )
    checked = _Checked(_refuse_single(texts))
    backend.train_from_iterator(iter(checked), trainer)
    if not checked.found:
        raise ValueError(NO_TEXT)
    model = json.loads(backend.to_str())["model"]
    vocabulary: dict[str, int] = {**model["vocab"], GPT2_SPECIAL_TOKEN: len(model["vocab"])}
    _say_if_smaller(vocabulary, vocab_size)
    return GPT2TokenizerFast(vocabulary, model["merges"], add_prefix_space=add_prefix_space)


class _Checked:
    """Passes texts on, refuses what is none, and notes whether any of them holds more than blanks."""

    def __init__(self, texts: Iterable[str]) -> None:
        self.texts = texts
        self.found = False

    def __iter__(self) -> Iterator[str]:
        for number, text in enumerate(self.texts):
            if not isinstance(text, str):
                raise TypeError(f"text {number} is of type {type(text).__name__}; expected a string")
            self.found = self.found or bool(text.strip())
            yield text


def _refuse_single(texts: Iterable[str]) -> Iterable[str]:
    if isinstance(texts, str):
        raise TypeError("texts is a single string; expected several texts, such as a list or TextFiles([path])")
    return texts


def _readable_again(texts: Iterable[str]) -> Iterable[str]:
    texts = _refuse_single(texts)
    return list(texts) if iter(texts) is texts else texts


def _characters(
    backend: Tokenizer, texts: Iterable[str], limit: int | None, show_progress: bool
) -> tuple[set[str], set[str]]:
    """(the characters of the texts, those that stand inside a word), after the backend's normalisation.

    The words are collected by the library, which is many times faster than asking it for each text.
    """
    collector = Tokenizer(models.WordLevel(unk_token="[UNK]"))
    collector.normalizer, collector.pre_tokenizer = backend.normalizer, backend.pre_tokenizer
    trainer = trainers.WordLevelTrainer(
        vocab_size=EVERY_WORD, min_frequency=0, special_tokens=[], show_progress=show_progress
    )
    collector.train_from_iterator(iter(_Checked(texts)), trainer)
    words = collector.get_vocab()
    if not words:
        raise ValueError(NO_TEXT)
    starting = {character for word in words for character in word}
    continuing = {character for word in words for character in word[1:]}
    if limit is None or limit >= len(starting):
        return starting, continuing
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(backend.normalizer.normalize_str(text))
    ranked = sorted(starting, key=lambda character: (-counts[character], character))
    left_out = sum(counts[character] for character in ranked[limit:])
    logger.warning(
        "limit_alphabet = %d leaves out %d of %d characters, which stand %d times in the text; words with them become "
        "[UNK]",
        limit,
        len(ranked) - limit,
        len(ranked),
        left_out,
    )
    kept = set(ranked[:limit])
    return kept, continuing & kept


def _check_numbers(**numbers: int | None) -> None:
    for name, value in numbers.items():
        if value is None and name == "limit_alphabet":
            continue
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(f"{name} = {value!r}: expected an integer >= 1")


def _say_if_smaller(vocabulary: dict[str, int], asked: int) -> None:
    if len(vocabulary) < asked:
        logger.warning(
            "the text gives only %d pieces, not the %d of vocab_size: give more text, or a lower min_frequency",
            len(vocabulary),
            asked,
        )
