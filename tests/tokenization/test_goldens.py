"""The plain Python tokenizers against the golden ids of transformers 4.49.0 (tests/goldens), whose own were Python too.

Everything is equal but the cases listed here. Most of these follow the `tokenizers` library, and so transformers 5.x
and its fast classes, which differ from the old Python classes in these points.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

import minitf
from minitf import tokenization
from tests.goldens import make_tokenizer_goldens as goldens

COMMITTED = Path(goldens.__file__).parent / goldens.FILE
FRESH = Path(os.environ.get("MINITF_GOLDENS", COMMITTED.parent)) / goldens.FILE
GOLDENS = json.loads((FRESH if FRESH.exists() else COMMITTED).read_text(encoding="utf-8"))["cases"]

# (case, text) -> why it is meant to differ.
COMPOSED = "4.49 composes letters and accents (NFC) before it looks them up; the library does not"
LOWERED = "4.49 lower-cases the whole text first, so that a never_split word with capitals never matches"
PREFIX = "4.49 puts the blank of add_prefix_space also before a blank and into an empty text, and only once in a text"
TYPES = "4.49 forgets the bos tokens in the token types, so that these are too short"
SIGMA = "4.49 lower-cases a Σ at the end of a word to ς; the library has one lower case of each character"
DIFFERENT = {
    ("BertTokenizer cased", "decomposed accents"): COMPOSED,
    ("BertTokenizer cased never_split", "decomposed accents"): COMPOSED,
    ("BertTokenizer uncased with accents", "decomposed accents"): COMPOSED,
    ("BasicTokenizer", "decomposed accents"): COMPOSED,
    ("BasicTokenizer", "sigma at the end"): SIGMA,
    ("BertTokenizer never_split", "mixed"): LOWERED,
    ("BertTokenizer never_split", "accents"): LOWERED,
    **{
        ("GPT2Tokenizer prefix", name): PREFIX
        for name in ("blanks", "empty", "only spaces", "special tokens inside", "pair 2", "pair 2 joined")
    },
    **{("GPT2Tokenizer bos", f"pair {number}"): TYPES for number in range(3)},
}


class Classes:
    """minitf's classes under the names that the golden script asks for."""

    __version__ = minitf.__version__
    BertTokenizer = tokenization.BertTokenizer
    GPT2Tokenizer = tokenization.GPT2Tokenizer
    BasicTokenizer = tokenization.BasicTokenizer


@pytest.fixture(scope="module")
def ours() -> dict[str, Any]:
    cases: dict[str, Any] = json.loads(json.dumps(goldens.make(Classes)))["cases"]
    return cases


@pytest.mark.parametrize("name", [name for name in GOLDENS if not name.endswith("truncation")])
def test_texts(name: str, ours: dict[str, Any]) -> None:
    assert ours.keys() == GOLDENS.keys()
    assert ours[name].keys() == GOLDENS[name].keys()
    differing = {text for text, golden in GOLDENS[name].items() if ours[name][text] != golden}
    assert differing == {text for case, text in DIFFERENT if case == name}


@pytest.mark.parametrize("name", ["BertTokenizer", "GPT2Tokenizer"])
def test_truncation_of_pairs(name: str, ours: dict[str, Any]) -> None:
    """Equal, but for ties of `longest_first`: when both texts are down to the same length and one token must still go,
    4.49 takes it from the second text, the library from the one that was shorter in the beginning (of equals, the
    first).
    """
    mine, theirs = ours[f"{name} truncation"], GOLDENS[f"{name} truncation"]
    assert mine.keys() == theirs.keys()
    ties = 0
    for case, golden in theirs.items():
        if mine[case] != golden:
            ties += 1
            assert "longest_first" in case
            assert not case.startswith("first longer")
            assert len(mine[case]) == len(golden)
    assert 0 < ties < len(theirs) / 2
