"""Every Unicode character, asked of minitf's tables and of the `tokenizers` library."""

from __future__ import annotations

import sys
import unicodedata
from collections.abc import Callable

import pytest
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

from minitf.tokenization import characters
from minitf.tokenization.bpe import bytes_to_unicode, split_words, unicode_to_bytes
from minitf.tokenization.engine import _is_word_char
from minitf.tokenization.wordpiece import BasicTokenizer

# All planes with assigned characters; of the private and empty ones one in a hundred.
EVERY = [
    chr(code)
    for code in range(sys.maxunicode + 1)
    if not 0xD800 <= code <= 0xDFFF and (code < 0x20000 or 0xE0000 <= code < 0xE1000 or code % 97 == 0)
]
SAMPLE = [char for char in EVERY if ord(char) < 0x3100 or ord(char) % 29 == 0]
KNOWN = [char for char in EVERY if unicodedata.category(char) != "Cn"]  # to the Python that runs this


def normalized_alike(normalizer: normalizers.Normalizer, form: Callable[[str], str], chars: list[str]) -> None:
    """Compared in blocks, because a call for each character would take long; "x" keeps neighbours apart."""
    for start in range(0, len(chars), 4096):
        block = chars[start : start + 4096]
        theirs = normalizer.normalize_str("x".join(block))
        if theirs != "x".join(map(form, block)):
            assert [(ascii(char), form(char)) for char in block] == [
                (ascii(char), normalizer.normalize_str(char)) for char in block
            ]
            pytest.fail("neighbours change each other")


@pytest.mark.parametrize(
    ("clean", "chinese", "strip"),
    [(True, True, True), (True, False, False), (False, True, False), (False, False, True)],
)
def test_clean_up_of_every_character(clean: bool, chinese: bool, strip: bool) -> None:
    theirs = normalizers.BertNormalizer(
        clean_text=clean, handle_chinese_chars=chinese, strip_accents=strip, lowercase=False
    )
    ours = BasicTokenizer(False, None, chinese, strip, clean_text=clean)
    normalized_alike(theirs, ours.form, EVERY)


def test_lower_case_of_every_character_that_python_knows() -> None:
    theirs = normalizers.BertNormalizer(
        clean_text=False, handle_chinese_chars=False, strip_accents=False, lowercase=True
    )
    ours = BasicTokenizer(True, None, False, False, clean_text=False)
    normalized_alike(theirs, ours.form, KNOWN)


def test_punctuation_and_blanks_of_every_character() -> None:
    theirs = pre_tokenizers.BertPreTokenizer()
    ours = BasicTokenizer(False, None, False, False, clean_text=False)
    for start in range(0, len(EVERY), 4096):
        text = "".join(f"a{char}" for char in EVERY[start : start + 4096])
        words = [(word.text, word.span(0, len(word.text))) for word in ours.words(ours.normalize(text))]
        assert words == theirs.pre_tokenize_str(text)


def test_combining_characters_are_put_in_the_same_order() -> None:
    marks = [char for char in KNOWN if characters.is_accent(char) or characters.has_fixed_order(char)]
    theirs = normalizers.NFD()
    for first in ("\u0301", "\u0334", "\u302e", "é"):
        text = "".join(f"a{first}{mark}b{mark}{first}" for mark in marks)
        assert characters.decomposed_in_order(text)[0] == theirs.normalize_str(text)


def test_the_byte_alphabet() -> None:
    table = bytes_to_unicode()
    assert sorted(table) == list(range(256))
    assert set(table.values()) == set(pre_tokenizers.ByteLevel.alphabet())
    assert (table[ord("A")], table[ord(" ")], table[ord("\n")]) == ("A", "Ġ", "Ċ")
    assert {char: byte for byte, char in table.items()} == unicode_to_bytes()
    assert not any(char.isspace() for char in table.values())


def test_the_published_pattern_on_every_character_that_python_knows() -> None:
    """Beside a letter, a number, another character, a blank and an apostrophe: what joins with what."""
    theirs = pre_tokenizers.ByteLevel(add_prefix_space=False)
    for before, after in (("a", "1"), ("1", "!"), ("!", "a"), (" ", "'"), ("\n", " "), ("'", "s")):
        chars = KNOWN if before == "a" else set(SAMPLE).intersection(KNOWN)
        text = "".join(f"{before}{char}{after}" for char in sorted(chars))
        assert split_words(text) == [span for _, span in theirs.pre_tokenize_str(text)]


def test_word_characters() -> None:
    """Around a token that must be a word of its own; but for circled letters, which the library counts as letters."""
    from tokenizers import AddedToken

    backend = Tokenizer(models.WordLevel({"[UNK]": 0}, unk_token="[UNK]"))
    backend.add_tokens([AddedToken("ab", single_word=True, normalized=False)])
    circled = {
        char for char in KNOWN if unicodedata.name(char, "").startswith(("CIRCLED LATIN", "NEGATIVE", "SQUARED"))
    }
    for char in sorted(set(SAMPLE).intersection(KNOWN) - circled):
        assert _is_word_char(char) == (backend.encode(f"ab{char}").ids[0] == 0), ascii(char)
