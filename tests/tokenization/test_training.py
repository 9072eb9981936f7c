"""Vocabularies that are learnt: the rule by hand, the same in every process, the files open in transformers."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import transformers
from tokenizers import BertWordPieceTokenizer, ByteLevelBPETokenizer

from minitf.tokenization import BertTokenizer, BertTokenizerFast, GPT2Tokenizer, GPT2TokenizerFast
from minitf.tokenization.auto import AutoTokenizer
from minitf.tokenization.training import BERT_SPECIAL_TOKENS, TextFiles, train_bpe, train_wordpiece
from tests.support import REPOSITORY

PROBES = [
    "Hello World, the tokenizer's vocabulary!",
    "Ünïcödé café  and\ttabs\n",
    "遇见老师 👨‍👩‍👧 \u200f\u00a0x",
    "[MASK] in <|endoftext|> the text",
    "supercalifragilistic" * 8,
    "",
    "   ",
]


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Some hundred lines of English and of Python; copies, so that every reader sees the same."""
    folder = tmp_path_factory.mktemp("corpus")
    return [Path(shutil.copy(REPOSITORY / name, folder)) for name in ("README.md", "minitf/config.py")]


@pytest.fixture(scope="module")
def corpus(sources: list[Path]) -> list[str]:
    return list(TextFiles(sources))


@pytest.fixture(scope="module")
def wordpiece(corpus: list[str]) -> BertTokenizerFast:
    return train_wordpiece(corpus, vocab_size=1200)


@pytest.fixture(scope="module")
def bpe(corpus: list[str]) -> GPT2TokenizerFast:
    return train_bpe(corpus, vocab_size=1200)


def in_order(vocabulary: dict[str, int]) -> list[str]:
    assert sorted(vocabulary.values()) == list(range(len(vocabulary)))
    return sorted(vocabulary, key=vocabulary.__getitem__)


# --------------------------------------------------------------------------------------------------------------------
# What is learnt


def test_byte_pairs_by_hand() -> None:
    """Sennrich's rule on a text small enough to follow: the pair that stands most often is joined, again and again."""
    tokenizer = train_bpe(["low low low lower lower newest newest newest widest"], vocab_size=256 + 5)
    pieces = in_order(tokenizer.get_vocab())
    words = {"low": 1, "Ġlow": 2, "Ġlower": 2, "Ġnewest": 3, "Ġwidest": 1}
    spelt = {word: list(word) for word in words}
    for expected in pieces[256:-1]:
        pairs: Counter[tuple[str, str]] = Counter()
        for word, count in words.items():
            for pair in zip(spelt[word], spelt[word][1:], strict=False):
                pairs[pair] += count
        most = max(pairs.values())
        joined = {first + second: (first, second) for (first, second), count in pairs.items() if count == most}
        assert expected in joined
        for letters in spelt.values():
            for place in reversed(range(len(letters) - 1)):
                if tuple(letters[place : place + 2]) == joined[expected]:
                    letters[place : place + 2] = [expected]
    assert len(pieces[256:-1]) == 4


def test_the_order_of_a_bpe_vocabulary_is_that_of_gpt2(bpe: GPT2TokenizerFast) -> None:
    pieces = in_order(bpe.get_vocab())
    assert len(pieces) == 1200
    assert pieces[:3] == ["!", '"', "#"]
    assert pieces[255] == "Ń"
    assert len(pieces[256]) == 2
    assert pieces[-1] == "<|endoftext|>" == bpe.eos_token


def test_the_merges_are_those_of_the_library(corpus: list[str], bpe: GPT2TokenizerFast, tmp_path: Path) -> None:
    theirs = ByteLevelBPETokenizer()
    theirs.train_from_iterator(corpus, vocab_size=1199, show_progress=False)
    theirs.save_model(str(tmp_path))
    bpe.save_vocabulary(tmp_path / "ours")
    ours, expected = (tmp_path / name / "merges.txt" for name in ("ours", ""))
    assert ours.read_text(encoding="utf-8").splitlines()[1:] == expected.read_text(encoding="utf-8").splitlines()[1:]


def test_the_order_of_a_wordpiece_vocabulary(corpus: list[str], wordpiece: BertTokenizerFast) -> None:
    pieces = in_order(wordpiece.get_vocab())
    assert len(pieces) == 1200
    assert tuple(pieces[:5]) == BERT_SPECIAL_TOKENS
    assert (wordpiece.pad_token_id, wordpiece.unk_token_id) == (0, 1)
    normal = wordpiece.backend_tokenizer.normalizer
    characters = sorted({c for line in corpus for c in normal.normalize_str(line) if not c.isspace()})
    assert pieces[5 : 5 + len(characters)] == characters
    inside = [piece for piece in pieces[5 + len(characters) :] if len(piece) == 3 and piece.startswith("##")]
    assert inside == sorted(inside)
    joined = pieces[5 + len(characters) + len(inside) :]
    assert all(len(piece.removeprefix("##")) > 1 for piece in joined)
    assert len(joined) > 500


def test_wordpiece_is_as_the_library_learns_it(corpus: list[str]) -> None:
    """Its own result differs from run to run where pairs tie; most pieces do not."""
    theirs = BertWordPieceTokenizer()
    theirs.train_from_iterator(corpus, vocab_size=600, limit_alphabet=10**6, show_progress=False)
    ours = set(train_wordpiece(corpus, vocab_size=600).get_vocab())
    assert len(ours & set(theirs.get_vocab())) > 0.95 * 600


def test_every_text_that_was_learnt_from_can_be_spelt(
    corpus: list[str], wordpiece: BertTokenizerFast, bpe: GPT2TokenizerFast
) -> None:
    rows = wordpiece([line for line in corpus if max(map(len, line.split()), default=0) <= 100])["input_ids"]
    assert not any(wordpiece.unk_token_id in row for row in rows)
    assert bpe.batch_decode(bpe(corpus)["input_ids"]) == corpus


def test_options_reach_the_vocabulary() -> None:
    texts = ["Élan Vital élan vital"] * 5
    pieces = train_wordpiece(texts, vocab_size=60).get_vocab()
    assert "elan" in pieces
    assert not any(piece != piece.lower() for piece in pieces if not piece.startswith("["))
    cased = train_wordpiece(texts, vocab_size=60, do_lower_case=False)
    assert {"Élan", "Vital", "vital"} <= set(cased.get_vocab())
    assert (cased.do_lower_case, cased.tokenize("Élan")) == (False, ["Élan"])
    kept = train_wordpiece(texts, vocab_size=60, strip_accents=False)
    assert "élan" in kept.get_vocab()
    assert kept.tokenize("ÉLAN") == ["élan"]
    chinese = ["老师老师"] * 5
    assert "老师" not in train_wordpiece(chinese, vocab_size=60).get_vocab()
    assert "老师" in train_wordpiece(chinese, vocab_size=60, tokenize_chinese_chars=False).get_vocab()
    rare = ["aab aab", "cd"]
    assert "cd" in train_wordpiece(rare, vocab_size=60, min_frequency=1).get_vocab()
    assert "cd" not in train_wordpiece(rare, vocab_size=60, min_frequency=2).get_vocab()
    assert "cd" not in train_bpe(rare, vocab_size=300).get_vocab()
    assert "cd" in train_bpe(rare, vocab_size=300, min_frequency=1).get_vocab()
    assert "Ġab" not in train_bpe(["ab"] * 5, vocab_size=300).get_vocab()
    spaced = train_bpe(["ab"] * 5, vocab_size=300, add_prefix_space=True)
    assert "Ġab" in spaced.get_vocab()
    assert spaced.tokenize("ab") == ["Ġab"]


def test_a_limited_alphabet(caplog: pytest.LogCaptureFixture) -> None:
    texts = ["aaab abc abd", "ace"]  # a 6, b 3, c 2, then d and e: the first in Unicode
    tokenizer = train_wordpiece(texts, vocab_size=60, limit_alphabet=4)
    assert "limit_alphabet = 4 leaves out 1 of 5 characters, which stand 1 times in the text" in caplog.text
    pieces = in_order(tokenizer.get_vocab())
    assert pieces[5:13] == ["a", "b", "c", "d", "##a", "##b", "##c", "##d"]
    assert not any("e" in piece for piece in pieces)
    assert tokenizer.tokenize("abd ace") == ["ab", "##d", "[UNK]"]
    caplog.clear()
    train_wordpiece(texts, vocab_size=60, limit_alphabet=5)
    assert "limit_alphabet" not in caplog.text


def test_a_text_that_gives_less_is_said(caplog: pytest.LogCaptureFixture) -> None:
    assert len(train_wordpiece(["ab ab"], vocab_size=100)) == 5 + 2 + 1 + 1
    assert "the text gives only 9 pieces, not the 100 of vocab_size" in caplog.text
    caplog.clear()
    assert len(train_bpe(["ab ab"], vocab_size=300)) == 256 + 1 + 1
    assert "the text gives only 258 pieces, not the 300" in caplog.text


# --------------------------------------------------------------------------------------------------------------------
# The same, always

HASHES = """
import hashlib, json, sys
from minitf.tokenization.training import TextFiles, train_bpe, train_wordpiece
texts = TextFiles(sys.argv[1:])
for made in (train_wordpiece(texts, vocab_size=1200), train_wordpiece(texts, vocab_size=900, limit_alphabet=40),
             train_bpe(texts, vocab_size=1200)):
    print(hashlib.sha256(made.backend_tokenizer.to_str().encode()).hexdigest())
"""


def test_every_process_learns_the_same(
    sources: list[Path], wordpiece: BertTokenizerFast, bpe: GPT2TokenizerFast
) -> None:
    """The library's own WordPiece does not (its hash tables are seeded anew), nor would more threads leave it alone."""
    runs = []
    for parallel in ("false", "true"):
        for seed in ("1", "2"):
            environment = {**os.environ, "TOKENIZERS_PARALLELISM": parallel, "PYTHONHASHSEED": seed}
            done = subprocess.run(
                [sys.executable, "-c", HASHES, *map(str, sources)],
                capture_output=True,
                text=True,
                check=True,
                cwd=REPOSITORY,
                env=environment,
            )
            runs.append(done.stdout.split())
    assert [len(run) for run in runs] == [3] * 4
    assert len({tuple(run) for run in runs}) == 1
    here = [hashlib.sha256(made.backend_tokenizer.to_str().encode()).hexdigest() for made in (wordpiece, bpe)]
    assert here == [runs[0][0], runs[0][2]]


# --------------------------------------------------------------------------------------------------------------------
# The files


@pytest.mark.parametrize("kind", ["wordpiece", "bpe"])
def test_the_folder_opens_everywhere_with_the_same_ids(
    kind: str, corpus: list[str], tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    tokenizer: Any = request.getfixturevalue(kind)
    tokenizer.save_pretrained(tmp_path)
    classic = {"vocab.txt"} if kind == "wordpiece" else {"vocab.json", "merges.txt"}
    assert {"tokenizer.json", "tokenizer_config.json", *classic} <= {path.name for path in tmp_path.iterdir()}
    texts = [*PROBES, *corpus[:60]]
    expected = [tokenizer(text)["input_ids"] for text in texts]
    name = "BertTokenizer" if kind == "wordpiece" else "GPT2Tokenizer"
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert type(theirs).__name__ == name
    assert [theirs(text)["input_ids"] for text in texts] == expected
    (tmp_path / "tokenizer.json").unlink()  # the classic files alone, by the readable classes and by theirs
    for reader in (BertTokenizer, BertTokenizerFast) if kind == "wordpiece" else (GPT2Tokenizer, GPT2TokenizerFast):
        assert [reader.from_pretrained(tmp_path)(text)["input_ids"] for text in texts] == expected
    assert type(AutoTokenizer.from_pretrained(tmp_path)) is type(tokenizer)
    theirs = getattr(transformers, name).from_pretrained(tmp_path)
    assert [theirs(text)["input_ids"] for text in texts] == expected
    settings = json.loads((tmp_path / "tokenizer_config.json").read_text(encoding="utf-8"))
    assert settings["tokenizer_class"] == name


def test_a_cased_vocabulary_stays_cased_in_transformers(corpus: list[str], tmp_path: Path) -> None:
    tokenizer = train_wordpiece(corpus, vocab_size=1200, do_lower_case=False)
    tokenizer.save_pretrained(tmp_path)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert tokenizer.tokenize("BertTokenizer") == theirs.tokenize("BertTokenizer")
    assert any(piece != piece.lower() for piece in tokenizer.tokenize("BertTokenizer"))


# --------------------------------------------------------------------------------------------------------------------
# Texts and their errors


def test_lines_of_files(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes("\ufeffone\r\ntwo\n\nth\u2028ree".encode())
    (tmp_path / "b.txt").write_bytes(b"four\n")
    texts = TextFiles([tmp_path / "a.txt", str(tmp_path / "b.txt")])
    expected = ["one\n", "two\n", "\n", "th\u2028ree", "four\n"]
    assert list(texts) == list(texts) == expected


def test_bad_files(tmp_path: Path) -> None:
    (tmp_path / "bad.txt").write_bytes(b"fine\nb\xffd\n")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(FileNotFoundError, match="gone"):
        TextFiles([tmp_path / "gone"])
    with pytest.raises(ValueError, match="a directory; expected a regular file"):
        TextFiles([tmp_path])
    with pytest.raises(ValueError, match="a named pipe; expected a regular file"):
        TextFiles([tmp_path / "pipe"])
    with pytest.raises(TypeError, match="paths is a single path"):
        TextFiles(str(tmp_path / "bad.txt"))
    for train in (train_wordpiece, train_bpe):
        with pytest.raises(ValueError, match=r"bad.txt, line 2: byte 0xff is not UTF-8; convert"):
            train(TextFiles([tmp_path / "bad.txt"]), vocab_size=300)


def test_an_iterator_is_read_once_and_enough() -> None:
    def lines() -> Iterator[str]:
        yield "low lower lowest"
        yield "new newer newest"

    options: dict[str, Any] = {"vocab_size": 40, "limit_alphabet": 9}
    assert train_wordpiece(lines(), **options).get_vocab() == train_wordpiece(list(lines()), **options).get_vocab()
    assert train_bpe(lines(), vocab_size=280).get_vocab() == train_bpe(list(lines()), vocab_size=280).get_vocab()


@pytest.mark.parametrize("train", [train_wordpiece, train_bpe], ids=lambda f: f.__name__)
@pytest.mark.parametrize(
    ("texts", "options", "error", "words"),
    [
        ([], {}, ValueError, "there is no text to learn from"),
        (["", "  \n", "\t"], {}, ValueError, "there is no text to learn from"),
        ("one text", {}, TypeError, "texts is a single string; expected several"),
        (["a", b"b"], {}, TypeError, "text 1 is of type bytes; expected a string"),
        (["a", ["b"]], {}, TypeError, "text 1 is of type list; expected a string"),
        (["a"], {"vocab_size": 0}, ValueError, "vocab_size = 0: expected an integer >= 1"),
        (["a"], {"vocab_size": 1e3}, ValueError, "vocab_size = 1000.0: expected an integer"),
        (["a"], {"vocab_size": True}, ValueError, "vocab_size = True: expected an integer"),
        (["a"], {"min_frequency": -1}, ValueError, "min_frequency = -1: expected an integer >= 1"),
        (["a"], {"vocab_size": 5}, ValueError, "vocab_size = 5 is too small"),
        (["a"], {"vocab_sise": 300}, TypeError, "no argument 'vocab_sise'; did you mean 'vocab_size'"),
    ],
)
def test_bad_calls(train: Any, texts: Any, options: dict[str, Any], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=re.escape(words)):
        train(texts, **options)


def test_a_vocabulary_that_is_too_small_says_how_many_it_needs(caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(ValueError, match=r"its 4 characters, their .* are 11 pieces; give at least 11, or leave"):
        train_wordpiece(["abc d"], vocab_size=10)
    with caplog.at_level(logging.WARNING):
        assert len(train_wordpiece(["abc d"], vocab_size=11)) == 11
    assert caplog.text == ""
    with pytest.raises(ValueError, match=r"256 bytes and <\|endoftext\|> need 257"):
        train_bpe(["abc d"], vocab_size=256)
    assert len(train_bpe(["abc d"], vocab_size=257)) == 257
    with pytest.raises(ValueError, match="limit_alphabet = 0: expected"):
        train_wordpiece(["abc d"], limit_alphabet=0)
