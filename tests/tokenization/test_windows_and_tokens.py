"""What both forms of both families share: windows, words, padding after the fact, places, added tokens, old names."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken
from transformers import AutoTokenizer
from transformers import GPT2Tokenizer as OracleGPT2Tokenizer

from minitf.tokenization import BertTokenizer, BertTokenizerFast, GPT2Tokenizer, GPT2TokenizerFast, Tokenizer
from minitf.tokenization import call as call_module
from minitf.tokenization.wordpiece import BasicTokenizer, WordpieceTokenizer
from tests.goldens.make_tokenizer_goldens import VOCABULARIES
from tests.support import minilm_folder
from tests.tokenization.test_parity import assert_same

FIRST, SECOND = "one two three four five six seven eight", "a b c d e f g h i"


@pytest.fixture
def tok(form: Any) -> Tokenizer:
    tokenizer: Tokenizer = form.from_pretrained(minilm_folder())
    return tokenizer


@pytest.fixture(scope="module")
def oracle() -> Any:
    return AutoTokenizer.from_pretrained(minilm_folder())


# Windows


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("strategy", [True, "only_first", "only_second"])
@pytest.mark.parametrize("stride", [0, 1, 2])
def test_windows(stride: int, strategy: Any, side: Any, tok: Tokenizer, oracle: Any) -> None:
    try:
        tok.truncation_side = oracle.truncation_side = side
        options = {"truncation": strategy, "stride": stride, "return_overflowing_tokens": True, "return_length": True}
        options |= {"return_offsets_mapping": True, "return_special_tokens_mask": True}
        for length in (16, 17, 18):
            a, b = (t(FIRST, SECOND, max_length=length, **options) for t in (tok, oracle))
            assert_same(a, b)
            assert [a.word_ids(i) for i in range(len(a.encodings))] == [b.word_ids(i) for i in range(len(b.encodings))]
            texts = [FIRST, "short", SECOND]
            batch = {"max_length": length, "padding": True, "return_tensors": "pt", **options}
            assert_same(tok(texts, texts[::-1], **batch), oracle(texts, texts[::-1], **batch))
        if strategy is True:
            assert_same(tok(FIRST, max_length=6, **options), oracle(FIRST, max_length=6, **options))
    finally:
        oracle.truncation_side = "right"


def test_windows_by_hand(tok: Tokenizer) -> None:
    batch = tok("a b c d e", truncation=True, max_length=5, stride=1, return_overflowing_tokens=True)
    assert [tok.decode(row, skip_special_tokens=True) for row in batch["input_ids"]] == ["a b c", "c d e"]
    assert batch["overflow_to_sample_mapping"] == [0, 0]
    assert tok(["a b c", "a"], truncation=True, max_length=3, return_overflowing_tokens=True)[
        "overflow_to_sample_mapping"
    ] == [0, 0, 0, 1]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"return_overflowing_tokens": True}, "no effect without truncation=True"),
        ({"stride": 2, "truncation": True}, "stride=2 has no effect without return_overflowing_tokens=True"),
        ({"stride": -1}, "stride is -1, expected an integer of 0 or more"),
        ({"stride": True}, "stride is True"),
        (
            {"stride": 3, "truncation": True, "max_length": 5, "return_overflowing_tokens": True},
            "stride=3 leaves no step: a window has 3 tokens",
        ),
    ],
)
def test_bad_windows(options: dict[str, Any], words: str, tok: Tokenizer) -> None:
    with pytest.raises(ValueError, match=words):
        tok("a b c", **options)
    assert tok("a")["input_ids"] == [101, 1037, 102]


def test_windows_of_a_pair_that_cannot_move_on(tok: Tokenizer) -> None:
    options = {"truncation": True, "max_length": 7, "stride": 2, "return_overflowing_tokens": True}
    with pytest.raises(ValueError, match="stride=2 leaves no step between windows"):
        tok(FIRST, SECOND, **options)
    assert tok("a")["input_ids"] == [101, 1037, 102]


# Words


@pytest.mark.parametrize("pair", [None, ["I", "unbelievable"], []])
def test_texts_that_are_split_into_words(pair: Any, tok: Tokenizer, oracle: Any) -> None:
    words = ["Hello", "unbelievable", "", "don't", "[SEP]", "世界"]
    options = {"is_split_into_words": True, "return_offsets_mapping": True}
    a, b = tok(words, pair, **options), oracle(words, pair, **options)
    assert_same(a, b)
    assert a.word_ids() == b.word_ids()
    assert a.tokens() == b.tokens()
    batch = [words, ["a"], words[::-1]]
    options |= {"padding": True, "truncation": True, "max_length": 9, "return_tensors": "np"}
    assert_same(tok(batch, **options), oracle(batch, **options))
    assert_same(tok(batch, batch[::-1], **options), oracle(batch, batch[::-1], **options))
    couples = [(words, ["a"]), (["b"], words)]
    assert_same(tok(couples, **options), oracle(couples, **options))


def test_bad_words(tok: Tokenizer) -> None:
    with pytest.raises(TypeError, match="text is of type str, expected a list of words; a plain str needs no"):
        tok("a b", is_split_into_words=True)
    with pytest.raises(TypeError, match=r"text\[1\] is of type int, expected str"):
        tok(["a", 3], is_split_into_words=True)  # type: ignore[list-item]
    with pytest.raises(TypeError, match="is_split_into_words=True"):
        tok([["a", "b"]])


# One text, several texts, old names


def test_the_old_methods(tok: Tokenizer) -> None:
    assert_same(tok.encode_plus("a", "b"), tok("a", "b"))
    assert_same(tok.encode_plus(["a", "b"], is_split_into_words=True), tok("a b"))
    assert_same(tok.batch_encode_plus(["a", ("b", "c")], padding=True), tok(["a", ("b", "c")], padding=True))
    assert tok.encode_plus("hello world!")["input_ids"] == [101, 7592, 2088, 999, 102]
    assert tok.batch_encode_plus(["hello mars!"])["input_ids"] == [[101, 7592, 7733, 999, 102]]
    with pytest.raises(TypeError, match=r"takes one text .*batch_encode_plus"):
        tok.encode_plus(["a", "b"])
    with pytest.raises(TypeError, match="takes a list of texts or pairs, got str; for one text use encode_plus"):
        tok.batch_encode_plus("a")


def test_names_of_old_tutorials(
    tok: Tokenizer, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(call_module, "_noted", set())
    old = tok.encode_plus("a b c d", max_length=5, pad_to_max_length=True, truncation=True, return_attention_mask=True)
    assert_same(old, tok("a b c d", max_length=5, padding="max_length", truncation=True))
    pair = {"text": FIRST, "text_pair": SECOND, "max_length": 12}
    for truncation in (False, True):
        assert_same(
            tok.encode_plus(**pair, truncation_strategy="longest_first", truncation=truncation),
            tok(**pair, truncation="longest_first"),
        )
    assert_same(tok.encode_plus(["a", "b"], is_pretokenized=True), tok("a b"))
    assert [record.getMessage() for record in caplog.records] == [
        "pad_to_max_length is the old name of an option: taken as padding='max_length'",
        "truncation_strategy is the old name of an option: taken as truncation='longest_first'",
        "is_pretokenized is the old name of an option: taken as is_split_into_words=True",
    ]
    assert tok.encode("a", pad_to_max_length=False) == [101, 1037, 102]
    with pytest.raises(ValueError, match="pad_to_max_length=True means padding='max_length', but padding='longest'"):
        tok("a", padding="longest", pad_to_max_length=True)
    with pytest.raises(ValueError, match="but truncation='only_first' is given: leave truncation_strategy out"):
        tok("a", "b", truncation="only_first", truncation_strategy="only_second", max_length=5)
    with pytest.raises(ValueError, match="truncation_strategy='first' is not known"):
        tok("a", truncation_strategy="first", max_length=5)


def test_lengths_and_silence(tok: Tokenizer, oracle: Any, caplog: pytest.LogCaptureFixture) -> None:
    assert_same(tok("a b", return_length=True), oracle("a b", return_length=True))
    options = {"return_length": True, "padding": True, "return_tensors": "pt"}
    assert_same(tok(["a b", "a"], **options), oracle(["a b", "a"], **options))
    tok("a " * 600, verbose=False)
    assert not caplog.records


# Ids with special tokens


def test_special_tokens_around_ids(tok: Tokenizer) -> None:
    assert tok.build_inputs_with_special_tokens([7, 8]) == [101, 7, 8, 102]
    assert tok.build_inputs_with_special_tokens([7], [8, 9]) == [101, 7, 102, 8, 9, 102]
    assert tok.create_token_type_ids_from_sequences([7], [8, 9]) == [0, 0, 0, 1, 1, 1]
    assert tok.create_token_type_ids_from_sequences([7]) == [0, 0, 0]
    assert tok.get_special_tokens_mask([7], [8, 9]) == [1, 0, 1, 0, 0, 1]
    assert tok.get_special_tokens_mask([101, 7, 102], already_has_special_tokens=True) == [1, 0, 1]
    with pytest.raises(ValueError, match="takes one finished sequence"):
        tok.get_special_tokens_mask([101], [102], already_has_special_tokens=True)
    pair = tok("a", "b c", return_special_tokens_mask=True)
    ids = [tok.encode(text, add_special_tokens=False) for text in ("a", "b c")]
    assert tok.build_inputs_with_special_tokens(*ids) == pair["input_ids"]
    assert tok.create_token_type_ids_from_sequences(*ids) == pair["token_type_ids"]
    assert tok.get_special_tokens_mask(*ids) == pair["special_tokens_mask"]


# Where is what?


@pytest.mark.parametrize("options", [{}, {"padding": "max_length", "max_length": 20, "padding_side": "left"}])
def test_places(options: dict[str, Any], tok: Tokenizer, oracle: Any) -> None:
    texts = ["unbelievable  Café, no", "second text"]
    a, b = tok(*texts, **options), oracle(*texts, **options)
    assert a.n_sequences == b.n_sequences == 2
    for token in range(len(a["input_ids"])):
        for name in ("token_to_chars", "token_to_word", "token_to_sequence"):
            assert getattr(a, name)(token) == getattr(b, name)(token), (name, token)
            assert getattr(a, name)(0, token) == getattr(b, name)(0, token)
    for place in range(24):
        for sequence in (0, 1):
            for name in ("char_to_token", "char_to_word", "word_to_tokens"):
                mine = getattr(a, name)(0, place, sequence)
                assert mine == getattr(b, name)(0, place, sequence), (name, place)
            if a.word_to_tokens(0, place, sequence) is not None:
                assert a.word_to_chars(0, place, sequence) == b.word_to_chars(0, place, sequence)
            else:
                assert a.word_to_chars(0, place, sequence) is None
    start = a.token_to_chars(a.char_to_token(0))
    assert (start.start, start.end) == (0, 12)  # type: ignore[union-attr]
    assert tok("a").n_sequences == 1
    assert tok([]).n_sequences is None
    with pytest.raises(IndexError, match="token 99 asked for"):
        a.token_to_chars(99)
    with pytest.raises(IndexError, match="counted from 0"):
        a.char_to_token(-1)


def test_an_encoding_is_a_mapping_of_lists(tok: Tokenizer) -> None:
    """What `datasets.map` asks of a function's result."""
    batch = tok(["a", "b c"])
    assert isinstance(batch, Mapping)
    assert all(isinstance(rows, list) and len(rows) == 2 for rows in batch.values())
    tensors = tok(["a", "b"]).convert_to_tensors("pt")
    assert tensors.input_ids.shape == (2, 3)
    assert tok("a").convert_to_tensors("np")["input_ids"].tolist() == [[101, 1037, 102]]
    assert tok("a").convert_to_tensors()["input_ids"] == [101, 1037, 102]


# Padding after the fact


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("options", [{}, {"padding": "max_length", "max_length": 9}, {"pad_to_multiple_of": 4}])
@pytest.mark.parametrize("kind", [None, "pt", "np"])
def test_pad(kind: Any, options: dict[str, Any], side: Any, tok: Tokenizer, oracle: Any) -> None:
    texts = ["a b c", "a", "hello world"]
    rows = [dict(tok(text, return_special_tokens_mask=True), label=number) for number, text in enumerate(texts)]
    options = {"return_tensors": kind, "padding_side": side, **options}
    assert_same(tok.pad(rows, **options), oracle.pad(rows, **options))
    columns = dict(tok(texts))
    assert_same(tok.pad(columns, **options), oracle.pad(columns, **options))
    ids = {"input_ids": columns["input_ids"]}
    assert_same(tok.pad(ids, **options), oracle.pad(ids, **options))
    arrays = [{"input_ids": torch.tensor(row)} for row in ids["input_ids"]]
    assert tok.pad(arrays, **{**options, "return_tensors": None}) == tok.pad(ids, **{**options, "return_tensors": None})


def test_pad_one_text_and_bad_input(tok: Tokenizer) -> None:
    one = tok("a b", return_offsets_mapping=True)
    padded = tok.pad(one, padding="max_length", max_length=6)
    assert padded["input_ids"] == [101, 1037, 1038, 102, 0, 0]
    assert padded["offset_mapping"][-2:] == [(0, 0), (0, 0)]
    assert tok.pad(tok(["a", "b c"]), return_attention_mask=False).keys() == one.keys() - {"offset_mapping"}
    assert tok.pad([], return_tensors="np")["input_ids"].shape == (0, 0)
    assert tok.pad({"input_ids": np.array([[1, 2]])})["attention_mask"] == [[1, 1]]
    for given_, error, words in (
        ({"ids": [1]}, ValueError, "needs input_ids, and got ids"),
        ("a", TypeError, r"pad\(\) got str"),
        ([{"input_ids": [1]}, {"ids": [1]}], ValueError, r"element 1 has \['ids'\]"),
        ({"input_ids": [[1, 2]], "attention_mask": [[1]]}, ValueError, r"attention_mask has rows of lengths \[1\]"),
    ):
        with pytest.raises(error, match=words):
            tok.pad(given_)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="labels has rows of different lengths"):
        tok.pad({"input_ids": [[1], [2]], "labels": [[1], [2, 3]]}, return_tensors="pt")
    with pytest.raises(ValueError, match="max_length=3 has no effect"):
        tok.pad(one, max_length=3)


# Added tokens


def test_add_tokens(tok: Tokenizer, oracle: Any) -> None:
    assert tok.add_tokens("NewTok") == 1
    assert tok.add_tokens(["hello", "NewTok", "zz", "zz"]) == 1  # "hello" is a piece; transformers counts it
    assert (len(tok), tok.vocab_size) == (30524, 30522)
    assert tok.get_added_vocab()["NewTok"] == tok.convert_tokens_to_ids("NewTok") == 30522
    ids = tok.encode("a NewTok, newtokens zz hello", add_special_tokens=False)
    assert ids == [1037, 30522, 1010, 30522, 4372, 2015, 30523, 7592]
    assert tok.decode(ids) == "a NewTok, NewTok ens zz hello"
    # tokenizers 0.23, and with it transformers 5.23, shows such a token in its normalized form
    assert tok.convert_ids_to_tokens(30522) == "NewTok"
    assert tok.add_tokens([AddedToken("<y>", special=True)], special_tokens=False) == 1
    assert tok.decode(tok.encode("a <y>"), skip_special_tokens=True) == "a"
    assert tok.add_tokens(["[SEP]"]) == 0
    assert tok.added_tokens_decoder[102].special  # once special, always special
    for bad, error, words in (
        ("", ValueError, "an empty text"),
        ([3], TypeError, "a token to add is of type int"),
    ):
        with pytest.raises(error, match=words):
            tok.add_tokens(bad)  # type: ignore[arg-type]


def test_add_special_tokens(tok: Tokenizer) -> None:
    tokens = {"bos_token": "<s>", "additional_special_tokens": ["<a>", AddedToken("<b>", lstrip=True)]}
    assert tok.add_special_tokens(tokens) == 3
    assert (tok.bos_token, tok.bos_token_id, tok.eos_token, tok.eos_token_id) == ("<s>", 30522, None, None)
    assert tok.additional_special_tokens == tok.extra_special_tokens == ["<a>", "<b>"]
    assert tok.additional_special_tokens_ids == [30523, 30524]
    assert tok.all_special_tokens == ["<s>", "[UNK]", "[SEP]", "[PAD]", "[CLS]", "[MASK]", "<a>", "<b>"]
    assert tok("x   <b>")[0].offsets[2] == (1, 7)
    assert tok.add_special_tokens({"additional_special_tokens": ["<c>"]}, replace_additional_special_tokens=False) == 1
    assert tok.additional_special_tokens == ["<a>", "<b>", "<c>"]
    assert tok.add_special_tokens({"additional_special_tokens": ["[unused0]"]}) == 0
    assert tok.additional_special_tokens == ["[unused0]"]
    assert tok.add_special_tokens({"cls_token": "<cls>"}) == 1
    assert tok.encode("a") == [30526, 1037, 102]
    for bad, error, words in (
        ({"pad_tokn": "x"}, ValueError, "'pad_tokn' is no special token; did you mean 'pad_token'"),
        ({"unk_token": "<u>"}, ValueError, "cannot change to '<u>'"),
        ({"additional_special_tokens": "<a>"}, TypeError, "is '<a>', expected a list of tokens"),
        (["<a>"], TypeError, "takes a dict .*add_tokens"),
        ({"pad_token": 3}, TypeError, "of type int"),
    ):
        with pytest.raises(error, match=words):
            tok.add_special_tokens(bad)  # type: ignore[arg-type]
    assert len(tok) == 30527


def test_special_tokens_as_text(tok: Tokenizer, oracle: Any) -> None:
    text = "a [SEP] b"
    assert tok(text, split_special_tokens=True)["input_ids"] == oracle(text, split_special_tokens=True)["input_ids"]
    assert tok.tokenize(text, split_special_tokens=True) == ["a", "[", "sep", "]", "b"]
    oracle(text, split_special_tokens=False)  # transformers keeps the last value
    assert tok.tokenize(text) == ["a", "[SEP]", "b"]


def test_replaced_unused_lines(form: Any, tmp_path: Path) -> None:
    """Lines [unused...] of a vocabulary are there to be replaced by words of one's own."""
    lines = (minilm_folder() / "vocab.txt").read_text(encoding="utf-8").split("\n")
    lines[1:3] = ["minitf", "##izable"]
    (tmp_path / "vocab.txt").write_text("\n".join(lines), encoding="utf-8")
    assert form.from_pretrained(tmp_path).encode("minitf") == [101, 1, 102]
    assert form.from_pretrained(tmp_path).tokenize("minitfizable") == ["minitf", "##izable"]


def test_python_settings_are_saved_without_a_tokenizer_json(tmp_path: Path) -> None:
    tok = BertTokenizer.from_pretrained(minilm_folder())
    tok.save_pretrained(tmp_path)
    assert (tmp_path / "tokenizer.json").exists()
    special = BertTokenizer(minilm_folder() / "vocab.txt", never_split=["u.s."], do_lower_case=True)
    special.save_pretrained(tmp_path)
    assert not (tmp_path / "tokenizer.json").exists()  # it could not say it, and would win
    again = BertTokenizer.from_pretrained(tmp_path)
    assert again.tokenize("in u.s. it") == special.tokenize("in u.s. it") == ["in", "u.s.", "it"]
    with pytest.raises(ValueError, match=r"never_split=.*use BertTokenizer"):
        BertTokenizerFast.from_pretrained(tmp_path)


def test_save_vocabulary(tok: Tokenizer, tmp_path: Path) -> None:
    (path,) = tok.save_vocabulary(tmp_path, filename_prefix="my")
    assert Path(path).name == "my-vocab.txt"
    assert Path(path).read_bytes() == (minilm_folder() / "vocab.txt").read_bytes()


# The two steps by themselves


def test_the_steps_of_wordpiece() -> None:
    basic = BasicTokenizer()
    assert basic.tokenize("Héllo,\tWORLD 世界!") == ["hello", ",", "world", "世", "界", "!"]
    assert basic.tokenize("A.B c.D", never_split=["c.D"]) == ["a", ".", "b", "c.D"]
    assert BasicTokenizer(do_split_on_punc=False).tokenize("A.B c") == ["a.b", "c"]
    assert BasicTokenizer(do_lower_case=False).tokenize("Héllo") == ["Héllo"]
    pieces = WordpieceTokenizer({"un", "##aff", "##able", "x"}, "[UNK]", 8)
    assert pieces.tokenize("unaffable x") == ["[UNK]", "x"]  # longer than 8 characters
    assert pieces.tokenize("unable unaff unx") == ["un", "##able", "un", "##aff", "[UNK]"]


# Any text with any added tokens, in both forms


@cache
def _pairs() -> list[tuple[Tokenizer, Tokenizer]]:
    tokens = [
        AddedToken("New tok", normalized=True),
        AddedToken("é", single_word=True, normalized=True),
        AddedToken(" x", normalized=False),
        AddedToken("<m>", lstrip=True, rstrip=True, special=True),
        AddedToken("<m>>", single_word=True),
        AddedToken("ab", single_word=True, normalized=False),
    ]
    found = [
        (BertTokenizer.from_pretrained(minilm_folder()), BertTokenizerFast.from_pretrained(minilm_folder())),
        (GPT2Tokenizer.from_pretrained(VOCABULARIES), GPT2TokenizerFast.from_pretrained(VOCABULARIES)),
        (
            GPT2Tokenizer.from_pretrained(VOCABULARIES, add_prefix_space=True),
            GPT2TokenizerFast.from_pretrained(VOCABULARIES, add_prefix_space=True),
        ),
    ]
    for pair in found:
        for tok in pair:
            tok.add_tokens(tokens)
    return found


@settings(max_examples=300, deadline=None)
@given(
    text=st.lists(
        st.sampled_from(
            ["New tok", "new TOK", "é", "É", " x", "<m>", "<m>>", "ab", " ", "a", "_", "1", "\n", "中", "\u0301"]
        )
    ).map("".join),
    number=st.integers(0, 2),
    split=st.booleans(),
)
def test_added_tokens_are_found_alike(text: str, number: int, split: bool) -> None:
    python, fast = _pairs()[number]
    options = {"return_offsets_mapping": True, "split_special_tokens": split}
    a, b = python(text, **options), fast(text, **options)
    assert_same(a, b)
    assert a.tokens() == b.tokens()
    assert a.word_ids() == b.word_ids()
    for skip in (False, True):
        assert python.decode(a["input_ids"], skip) == fast.decode(a["input_ids"], skip)


def test_the_notes_go_to_the_log_of_the_package() -> None:
    assert call_module.logger is logging.getLogger("minitf.tokenization")


def test_both_oracles_agree_on_the_small_vocabulary() -> None:
    """The small vocabularies say the same to transformers, else the tests above would compare something else."""
    assert len(OracleGPT2Tokenizer.from_pretrained(VOCABULARIES)) == len(GPT2Tokenizer.from_pretrained(VOCABULARIES))
