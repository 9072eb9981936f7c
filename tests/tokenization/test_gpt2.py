"""GPT-2's tokenizers, plain Python and fast: the ids of transformers 5.23, published ids, files, errors."""

from __future__ import annotations

import json
import pickle
import shutil
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken
from transformers import AutoTokenizer
from transformers import GPT2Tokenizer as OracleGPT2Tokenizer

from minitf.tokenization import GPT2Tokenizer, GPT2TokenizerFast, Tokenizer
from minitf.tokenization.bpe import Merger
from tests.goldens.make_tokenizer_goldens import VOCABULARIES
from tests.support import shared_data
from tests.tokenization.test_parity import assert_same
from tests.tokenization.texts import PAIRS, TEXTS

BYTES = {char: number for number, char in enumerate(json.loads((VOCABULARIES / "vocab.json").read_text("utf-8")))}


@pytest.fixture(scope="module")
def ours(gpt2_form: Any) -> Any:
    return gpt2_form.from_pretrained(VOCABULARIES)


@pytest.fixture(scope="module")
def oracle() -> Any:
    return OracleGPT2Tokenizer.from_pretrained(VOCABULARIES)


def test_published_ids(gpt2_form: Any) -> None:
    tok = gpt2_form.from_pretrained(shared_data("vocab", "gpt2"))
    assert tok.encode("Hello world") == [15496, 995]
    assert tok.encode(" Hello world") == [18435, 995]
    assert tok.tokenize("Hello world") == ["Hello", "Ġworld"]
    assert (tok.bos_token, tok.eos_token, tok.unk_token) == ("<|endoftext|>",) * 3
    assert (tok.pad_token, tok.pad_token_id, tok.eos_token_id, len(tok)) == (None, None, 50256, 50257)
    assert tok.all_special_tokens == ["<|endoftext|>"]
    added = {"bos_token": "<bos>", "eos_token": "<eos>", "pad_token": "<pad>"}
    assert tok.add_special_tokens(added) == 3
    assert (len(tok), tok.vocab_size) == (50260, 50257)
    assert (tok.bos_token, tok.eos_token, tok.pad_token_id) == ("<bos>", "<eos>", 50259)
    assert tok.add_special_tokens(added) == 0
    assert tok("a<eos>", padding="max_length", max_length=4)["input_ids"] == [64, 50258, 50259, 50259]


@pytest.mark.parametrize("vocabulary", ["small", "published"])
@pytest.mark.parametrize("options", [{}, {"add_prefix_space": True}, {"add_bos_token": True}], ids=str)
def test_texts(vocabulary: str, options: dict[str, Any], gpt2_form: Any) -> None:
    folder = VOCABULARIES if vocabulary == "small" else shared_data("vocab", "gpt2")
    ours, oracle = gpt2_form.from_pretrained(folder, **options), OracleGPT2Tokenizer.from_pretrained(folder, **options)
    extras = {"return_offsets_mapping": True, "return_special_tokens_mask": True, "return_token_type_ids": True}
    for text in TEXTS.values():
        a, b = ours(text, **extras), oracle(text, **extras)
        assert_same(a, b)
        assert a.tokens() == b.tokens()
        assert a.word_ids() == b.word_ids()
        assert ours.tokenize(text) == oracle.tokenize(text)
        for skip in (False, True):
            for clean in (None, True):
                how = {"skip_special_tokens": skip, "clean_up_tokenization_spaces": clean}
                assert ours.decode(a["input_ids"], **how) == oracle.decode(a["input_ids"], **how)
        if not options and "<|endoftext|>" not in text:
            assert ours.decode(a["input_ids"]) == text  # nothing is ever lost
    for pair in PAIRS:
        assert_same(ours(*pair, **extras), oracle(*pair, **extras))
        assert ours(*pair).sequence_ids() == oracle(*pair).sequence_ids()
    assert ours.num_special_tokens_to_add() == oracle.num_special_tokens_to_add()


@cache
def _cached() -> tuple[Tokenizer, Tokenizer, Any]:
    return (
        GPT2Tokenizer.from_pretrained(VOCABULARIES),
        GPT2TokenizerFast.from_pretrained(VOCABULARIES),
        OracleGPT2Tokenizer.from_pretrained(VOCABULARIES),
    )


@settings(max_examples=300, deadline=None)
@given(
    text=st.text(st.characters(exclude_categories=("Cs", "Cn")), max_size=40)
    | st.text("a '\n\t1!sé<|endoftext|>", max_size=40),
    pair=st.none() | st.text(max_size=0) | st.text("a b'ré ", max_size=10),
)
def test_any_unicode_text(text: str, pair: str | None) -> None:
    python, fast, oracle = _cached()
    a, b, c = (tok(text, pair, return_offsets_mapping=True) for tok in (python, fast, oracle))
    assert_same(a, c)
    assert_same(b, c)
    assert a.tokens() == b.tokens() == c.tokens()
    assert a.word_ids() == b.word_ids() == c.word_ids()
    assert python.decode(a["input_ids"]) == fast.decode(a["input_ids"]) == oracle.decode(a["input_ids"])


@settings(max_examples=100, deadline=None)
@given(ids=st.lists(st.integers(0, 599), max_size=12), skip=st.booleans())
def test_any_ids_are_decoded_alike(ids: list[int], skip: bool) -> None:
    """Also bytes that are no UTF-8."""
    texts = {tok.decode(ids, skip_special_tokens=skip) for tok in _cached()}
    assert len(texts) == 1


def test_merging_by_rank() -> None:
    merger = Merger([("a", "b"), ("b", "c"), ("ab", "c"), ("a", "a")])
    assert merger.merge("abc") == ["abc"]
    assert merger.merge("bcabc") == ["bc", "abc"]
    assert merger.merge("aaab") == ["aa", "ab"]
    assert merger.merge("aaaaa") == ["aa", "aa", "a"]
    assert merger.merge("x") == ["x"]
    assert merger.merge("") == []
    assert merger.merge("ab" * 20_000) == ["ab"] * 20_000  # in less than the square of the length


def test_words_need_a_prefix_space(ours: Any, oracle: Any, gpt2_form: Any) -> None:
    with pytest.raises(ValueError, match=r"as if no blanks stood between them; .*add_prefix_space=True"):
        ours(["Hello", "world"], is_split_into_words=True)
    # transformers 5.23 encodes "Helloworld" here.
    assert oracle.decode(oracle(["Hello", "world"], is_split_into_words=True)["input_ids"]) == "Helloworld"
    with_space = gpt2_form.from_pretrained(VOCABULARIES, add_prefix_space=True)
    other = OracleGPT2Tokenizer.from_pretrained(VOCABULARIES, add_prefix_space=True)
    words = ["Hello", "wörld", "", "世界"]
    a = with_space(words, is_split_into_words=True, return_offsets_mapping=True)
    b = other(words, is_split_into_words=True, return_offsets_mapping=True)
    assert_same(a, b)
    assert a.word_ids() == b.word_ids()
    assert with_space.decode(a["input_ids"]) == " Hello wörld 世界"


def test_padding_needs_a_pad_token(gpt2_form: Any) -> None:
    tok = gpt2_form.from_pretrained(VOCABULARIES)
    with pytest.raises(ValueError, match=r"has none: set tokenizer.pad_token .*add_special_tokens\(\{'pad_token'"):
        tok(["a", "b c"], padding=True)
    tok.pad_token = tok.eos_token
    batch = tok(["a", "b c"], padding=True, padding_side="left", return_tensors="pt")
    assert batch.input_ids[0, 0] == tok.eos_token_id == 599
    assert torch.equal(batch.attention_mask, torch.tensor([[0, 1], [1, 1]]))
    assert list(batch) == ["input_ids", "attention_mask"]


def test_other_error_handlers_than_replace() -> None:
    half = [next(i for i, byte in enumerate(BYTES) if byte == "Ã")]
    for errors, expected in (("replace", "\ufffd"), ("ignore", "")):
        assert GPT2Tokenizer.from_pretrained(VOCABULARIES, errors=errors).decode(half) == expected  # type: ignore[arg-type]
    with pytest.raises(UnicodeDecodeError):
        GPT2Tokenizer.from_pretrained(VOCABULARIES, errors="strict").decode(half)
    with pytest.raises(ValueError, match="errors='strict' is not possible on the tokenizers library"):
        GPT2TokenizerFast.from_pretrained(VOCABULARIES, errors="strict")


# Files


@pytest.mark.parametrize("options", [{}, {"add_prefix_space": True, "model_max_length": 77}, {"add_bos_token": True}])
def test_saved_files_open_everywhere(options: dict[str, Any], gpt2_form: Any, tmp_path: Path) -> None:
    tok = gpt2_form.from_pretrained(VOCABULARIES, **options)
    tok.add_special_tokens({"pad_token": "<pad>"})
    tok.add_tokens(["Newtoken", AddedToken("[x]", lstrip=True)])
    written = tok.save_pretrained(tmp_path)
    names = ["merges.txt", "special_tokens_map.json", "tokenizer.json", "tokenizer_config.json", "vocab.json"]
    assert sorted(Path(path).name for path in written) == sorted(p.name for p in tmp_path.iterdir()) == names
    assert (tmp_path / "merges.txt").read_bytes() == (VOCABULARIES / "merges.txt").read_bytes()
    texts = [*TEXTS.values(), "a Newtokens  [x] b"]
    expected = tok(texts, padding=True)
    (tmp_path / "config.json").write_text('{"model_type": "gpt2"}')
    for again in (GPT2Tokenizer, GPT2TokenizerFast, AutoTokenizer):
        assert_same(again.from_pretrained(tmp_path)(texts, padding=True), expected)  # type: ignore[attr-defined]
    assert GPT2Tokenizer.from_pretrained(tmp_path / "tokenizer.json", pad_token="<pad>").pad_token_id == 600
    (tmp_path / "tokenizer.json").unlink()  # the classic files and the config must be enough
    for again in (GPT2Tokenizer, GPT2TokenizerFast):
        assert_same(again.from_pretrained(tmp_path)(texts, padding=True), expected)  # type: ignore[attr-defined]
        assert again.from_pretrained(tmp_path).model_max_length == tok.model_max_length  # type: ignore[attr-defined]


def test_from_two_files_or_from_memory(gpt2_form: Any, ours: Any) -> None:
    vocab, merges = VOCABULARIES / "vocab.json", VOCABULARIES / "merges.txt"
    pairs = [tuple(line.split()) for line in merges.read_text("utf-8").splitlines()[1:]]
    for tok in (
        gpt2_form(vocab, merges),
        gpt2_form(vocab_file=str(vocab), merges_file=str(merges)),
        gpt2_form(BYTES, pairs),
        gpt2_form(vocab=BYTES, merges=[" ".join(pair) for pair in pairs]),
    ):
        assert tok.encode(TEXTS["mixed"]) == ours.encode(TEXTS["mixed"])
    twin = pickle.loads(pickle.dumps(ours))
    assert twin.encode(TEXTS["mixed"]) == ours.encode(TEXTS["mixed"])


SMALL = {"a": 0, "b": 1, "ab": 2, "<|endoftext|>": 3}


def test_a_vocabulary_without_all_bytes_says_unknown(gpt2_form: Any) -> None:
    tok = gpt2_form(SMALL, [("a", "b")])
    assert tok.encode("abc") == [2, 3]
    assert tok.encode("é") == [3, 3]
    # transformers 5.23 leaves such bytes out without a word
    assert OracleGPT2Tokenizer(vocab=SMALL, merges=[("a", "b")])("abc")["input_ids"] == [2]
    with pytest.raises(ValueError, match=r"lacks 254 of the 256 bytes .* has no unk_token None"):
        gpt2_form(SMALL, [("a", "b")], unk_token=None)


@pytest.mark.parametrize(
    ("vocab", "merges", "error", "words"),
    [
        (SMALL | {"c": 5}, [], ValueError, r"ids must be 0 \.\. 4"),
        (SMALL | {"c": 3}, [], ValueError, r"ids must be 0 \.\. 4"),
        (SMALL, [("a", "c")], ValueError, r"merge 0 \(a c\) names 'c', which is not in the vocabulary"),
        (SMALL, [("b", "a")], ValueError, r"merge 0 \(b a\) names 'ba'"),
        (SMALL, [("a", "b"), ("a", "b")], ValueError, r"merge 1 \(a b\) stands already at 0"),
        (SMALL, [("a", "b", "c")], ValueError, r"merges\[0\] is"),
        ({"a": 0, "b": 1}, [], ValueError, r"has no bos_token '<\|endoftext\|>'.*bos_token=None"),
        (None, [], TypeError, "got no vocab; give vocab="),
        (SMALL, None, TypeError, "got no merges; give merges="),
        (["a"], [], TypeError, "got vocab of type list"),
    ],
)
def test_bad_vocabularies(vocab: Any, merges: Any, error: Any, words: str, gpt2_form: Any) -> None:
    with pytest.raises(error, match=words):
        gpt2_form(vocab, merges)


@pytest.mark.parametrize(
    ("files", "words"),
    [
        (
            {"vocab.json": b"{}"},
            "looked for tokenizer.json and vocab.json with merges.txt, the folder holds vocab.json",
        ),
        ({"vocab.json": b"{", "merges.txt": b""}, "is not valid JSON"),
        ({"vocab.json": b"[]", "merges.txt": b""}, "holds no vocabulary"),
        ({"vocab.json": b'{"a": 0, "a": 1}', "merges.txt": b""}, "'a' stands twice"),
        ({"vocab.json": b'{"a": "0"}', "merges.txt": b""}, "the id of 'a' is '0', expected a whole number"),
        ({"vocab.json": b'{"a": 0}', "merges.txt": b"\xff"}, "is not UTF-8"),
        (
            {"vocab.json": b'{"a": 0}', "merges.txt": b"#version: 0.2\na b c\n"},
            "line 2 is 'a b c'; expected two pieces",
        ),
        ({"tokenizer.json": b'{"model": 3}'}, "is not a tokenizer.json"),
        ({"tokenizer_config.json": b'{"add_prefix_space": 1}'}, "add_prefix_space is 1, expected true or false"),
        ({"tokenizer_config.json": b'{"errors": "no"}'}, "errors is 'no', expected 'replace'"),
        ({"added_tokens.json": b'{"Newtoken": 900}'}, "stated with id 900, but would get id 600"),
    ],
)
def test_bad_folders(files: dict[str, bytes], words: str, gpt2_form: Any, tmp_path: Path) -> None:
    if not {"vocab.json", "tokenizer.json"} & files.keys():
        for name in ("vocab.json", "merges.txt"):
            shutil.copy(VOCABULARIES / name, tmp_path)
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    with pytest.raises((ValueError, FileNotFoundError), match=words):
        gpt2_form.from_pretrained(tmp_path)


def test_one_vocab_json_is_not_enough(gpt2_form: Any) -> None:
    with pytest.raises(ValueError, match=r"is not a tokenizer\.json"):
        gpt2_form.from_pretrained(VOCABULARIES / "vocab.json")
    with pytest.raises(ValueError, match=r"expected a folder with vocab.json and merges.txt.*merges_file="):
        gpt2_form.from_pretrained(VOCABULARIES / "merges.txt")


def test_a_tokenizer_json_that_lacks_bytes_is_said(
    gpt2_form: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    OracleGPT2Tokenizer(vocab=SMALL, merges=[("a", "b")]).save_pretrained(tmp_path)
    tok = gpt2_form.from_pretrained(tmp_path)
    assert "lacks 254 of the 256 bytes" in caplog.text
    assert "left out of every text" in caplog.text
    assert tok.encode("abc") == [2]
