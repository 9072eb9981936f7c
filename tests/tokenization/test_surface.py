"""The tokenizer by itself: published ids, the traps of real files, clear errors, copies, tensors."""

from __future__ import annotations

import copy
import json
import pickle
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import minitf
from minitf.tokenization import BatchEncoding, BertTokenizer, Tokenizer
from tests.support import REPOSITORY, minilm_folder, shared_data

SPECIALS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


@pytest.fixture
def tok(form: Any) -> Tokenizer:
    return form.from_pretrained(minilm_folder())


def vocabulary(path: Path, pieces: list[str]) -> Path:
    path.write_text("".join(f"{piece}\n" for piece in pieces), encoding="utf-8")
    return path


def test_published_ids(tok: Tokenizer) -> None:
    assert tok.encode("Here is some text to encode") == [101, 2182, 2003, 2070, 3793, 2000, 4372, 16044, 102]
    assert tok.encode("hello world!") == [101, 7592, 2088, 999, 102]
    assert tok.convert_tokens_to_ids(tok.tokenize("hello world!")) == [7592, 2088, 999]
    assert tok(["Hello!", "Cool.", "Nice!"])["input_ids"] == [
        [101, 7592, 999, 102],
        [101, 4658, 1012, 102],
        [101, 3835, 999, 102],
    ]
    batch = tok(["I hate this so much!", "So have I!"], padding="max_length", max_length=16)
    assert batch["input_ids"][0] == [101, 1045, 5223, 2023, 2061, 2172, 999, 102] + [0] * 8
    assert batch["attention_mask"][0] == [1] * 8 + [0] * 8
    assert batch["input_ids"][1][:6] == [101, 2061, 2031, 1045, 999, 102]
    assert tok.tokenize("tokenizer") == ["token", "##izer"]


def test_published_chinese_ids(form: Any) -> None:
    tok = form.from_pretrained(f"{shared_data('vocab', 'bert-base-chinese')}/")
    assert tok.encode("遇见被老师提问问题") == [101, 6878, 6224, 6158, 5439, 2360, 2990, 7309, 7309, 7579, 102]


def test_names_resolve_from_the_package() -> None:
    assert minitf.BertTokenizer is BertTokenizer
    assert minitf.BatchEncoding is BatchEncoding


def test_reading_and_encoding_need_no_torch(form: Any) -> None:
    code = (
        f"import sys; from minitf.tokenization import {form.__name__} as T;"
        f"t = T.from_pretrained({str(minilm_folder())!r}); t('a b', return_tensors='np');"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=REPOSITORY)


def test_padding_and_truncation_stored_in_the_file_never_act(tok: Tokenizer, tmp_path: Path) -> None:
    stored = json.loads((minilm_folder() / "tokenizer.json").read_text(encoding="utf-8"))
    assert stored["truncation"]["max_length"] == 128
    assert stored["padding"]["strategy"] == {"Fixed": 128}
    assert len(tok.encode("a b")) == 4
    assert len(tok.encode("a " * 300)) == 302
    tok("a", padding="max_length", truncation=True, max_length=9)
    assert len(tok.encode("a " * 300)) == 302  # nor does the call before
    tok.save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "tokenizer.json").read_text(encoding="utf-8"))
    assert saved["truncation"] is None
    assert saved["padding"] is None


def test_one_text_gives_flat_lists_and_tensors_of_one_row(tok: Tokenizer) -> None:
    assert tok("a")["input_ids"] == [101, 1037, 102]
    tensors = tok("a", return_tensors="pt")
    assert tensors.input_ids.shape == (1, 3)
    assert tensors["input_ids"].dtype == torch.int64
    assert {**tensors}.keys() == {"input_ids", "token_type_ids", "attention_mask"}
    arrays = tok(["a", "b"], return_tensors="np", return_offsets_mapping=True)
    assert arrays.input_ids.dtype == np.int64
    assert arrays.offset_mapping.shape == (2, 3, 2)


def test_empty_input(tok: Tokenizer) -> None:
    assert tok("")["input_ids"] == [101, 102]
    assert tok("", add_special_tokens=False)["input_ids"] == []
    assert tok("   \n")["input_ids"] == [101, 102]
    assert dict(tok([])) == {"input_ids": [], "token_type_ids": [], "attention_mask": []}
    assert tok([], return_tensors="pt")["input_ids"].shape == (0, 0)
    assert tok([""], add_special_tokens=False, return_tensors="np", return_offsets_mapping=True)[
        "offset_mapping"
    ].shape == (1, 0, 2)
    assert tok.batch_decode([]) == []
    assert tok.decode([]) == ""


def test_batch_encoding(tok: Tokenizer) -> None:
    batch = tok(["hello wrld", "b"], padding=True, return_tensors="pt")
    assert batch.tokens(0) == ["[CLS]", "hello", "wr", "##ld", "[SEP]"]
    assert batch.tokens(1)[-2:] == ["[PAD]", "[PAD]"]
    assert batch.word_ids(0) == [None, 0, 1, 1, None]
    assert batch[0].tokens == batch.tokens(0)
    assert batch.to("cpu") is batch
    assert batch.to("meta")["input_ids"].device.type == "meta"
    batch["labels"] = [0, 1]
    assert batch.labels == [0, 1]
    assert "labels" in batch
    twin = pickle.loads(pickle.dumps(tok("a b")))
    assert twin["input_ids"] == [101, 1037, 1038, 102]
    assert twin.tokens() == ["[CLS]", "a", "b", "[SEP]"]
    with pytest.raises(AttributeError, match="no 'inputs_ids'; it holds input_ids"):
        _ = batch.inputs_ids
    with pytest.raises(KeyError, match="holds input_ids"):
        _ = batch["nothing"]
    with pytest.raises(IndexError, match="text 2 asked for"):
        batch.tokens(2)
    with pytest.raises(TypeError, match="return_tensors='pt'"):
        tok("a").to("cpu")
    with pytest.raises(ValueError, match="not made by a tokenizer"):
        BatchEncoding({"input_ids": [1]}).tokens()


@pytest.mark.parametrize(
    ("args", "keywords", "error", "words"),
    [
        ((5,), {}, TypeError, "text is of type int"),
        ((None,), {}, TypeError, "text is of type NoneType"),
        ((["a", None],), {}, TypeError, r"text\[1\] is of type NoneType"),
        ((["a", ["b"]],), {}, TypeError, r"text\[1\] is of type list"),
        ((np.array(["a"]),), {}, TypeError, "tolist"),
        ((["a", "b"], "c"), {}, TypeError, "text_pair is of type str; expected a list of 2"),
        (("a", ["b"]), {}, TypeError, "two lists"),
        ((["a", "b"], ["c"]), {}, ValueError, "2 elements and text_pair 1"),
        ((["a"], [3]), {}, TypeError, r"text_pair\[0\] is of type int"),
        (("x \ud83d",), {}, ValueError, r"U\+D83D at character 2"),
        (("a",), {"max_lenght": 3}, TypeError, "'max_lenght'; did you mean 'max_length'"),
        (("a",), {"max_length": 3}, ValueError, "max_length=3 has no effect without truncation"),
        (("a",), {"padding": True, "max_length": 3}, ValueError, "has no effect"),
        (("a",), {"pad_to_multiple_of": 8}, ValueError, "pad_to_multiple_of=8 has no effect without padding"),
        (("a",), {"padding_side": "left"}, ValueError, "padding_side='left' has no effect without padding"),
        (("a",), {"padding": True, "padding_side": "up"}, ValueError, "'up', expected 'left' or 'right'"),
        (("a",), {"padding": "max"}, ValueError, "padding='max' is not known"),
        (("a",), {"truncation": "first"}, ValueError, "truncation='first' is not known"),
        (("a",), {"truncation": True, "max_length": 1}, ValueError, "no room for the 2 special tokens"),
        (("a",), {"truncation": True, "max_length": 0}, ValueError, "max_length is 0"),
        (("a",), {"truncation": True, "max_length": 2.5}, ValueError, "max_length is 2.5"),
        (("a", "b"), {"truncation": True, "max_length": 2}, ValueError, "no room for the 3 special tokens"),
        (("a",), {"truncation": "only_second"}, ValueError, "second text for every text"),
        (("a", "b c d e"), {"truncation": "only_first", "max_length": 5}, ValueError, "cannot shorten"),
        (
            ("a",),
            {"truncation": True, "padding": True, "max_length": 9, "pad_to_multiple_of": 4},
            ValueError,
            "multiple",
        ),
        ((["a b", "c"],), {"return_tensors": "pt"}, ValueError, "padding=True"),
        (("a",), {"return_tensors": "tf"}, ValueError, "return_tensors='tf' is not known"),
    ],
)
def test_bad_calls(args: Any, keywords: Any, error: Any, words: str, tok: Tokenizer) -> None:
    with pytest.raises(error, match=words):
        tok(*args, **keywords)
    assert tok("a")["input_ids"] == [101, 1037, 102]  # an error leaves nothing behind


def test_bad_ids(tok: Tokenizer) -> None:
    for bad in (30522, -100):
        with pytest.raises(ValueError, match=f"id {bad} at position 1 is outside the vocabulary"):
            tok.decode([101, bad])
        with pytest.raises(ValueError, match="outside the vocabulary"):
            tok.convert_ids_to_tokens([101, bad])
    with pytest.raises(TypeError, match="batch_decode"):
        tok.decode([[101], [102]])
    with pytest.raises(TypeError, match="position 0 is of type float"):
        tok.decode(torch.tensor([1.5]))
    with pytest.raises(TypeError, match="got str"):
        tok.decode("hello")
    with pytest.raises(TypeError, match="tokenize"):
        tok.tokenize(["a"])


@pytest.mark.parametrize("name", ["__call__", "encode", "decode", "batch_decode"])
def test_unknown_keywords(name: str, tok: Tokenizer) -> None:
    with pytest.raises(TypeError, match="no argument 'bogus'"):
        getattr(tok, name)("a", bogus=1)


def test_unknown_keywords_of_the_constructors(form: Any) -> None:
    with pytest.raises(TypeError, match="'do_lowercase'; did you mean 'do_lower_case'"):
        form.from_pretrained(minilm_folder(), do_lowercase=True)  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="'do_lowercase'; did you mean 'do_lower_case'"):
        form(minilm_folder() / "vocab.txt", do_lowercase=True)  # type: ignore[call-arg]


def test_one_warning_for_texts_that_are_too_long(tok: Tokenizer, caplog: pytest.LogCaptureFixture) -> None:
    tok(["a", "a " * 600], truncation=True)
    assert not caplog.records
    tok(["a", "b " * 600, "c " * 700])
    tok("d " * 600)
    assert len(caplog.records) == 1
    assert caplog.records[0].name == "minitf.tokenization"
    assert "text 1 has 602 tokens; this model reads 512" in caplog.text
    assert "truncation=True" in caplog.text


def test_a_cased_vocabulary_that_would_be_lower_cased_is_said(
    form: Any, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    path = vocabulary(tmp_path / "v.txt", [*SPECIALS, "Apple", "apple", "Pear", "pear", "Fig", "fig"])
    assert form.from_pretrained(path).tokenize("Apple") == ["apple"]
    assert "looks cased" in caplog.text
    assert "do_lower_case=False" in caplog.text
    caplog.clear()
    assert form.from_pretrained(path, do_lower_case=False).tokenize("Apple") == ["Apple"]
    form.from_pretrained(minilm_folder() / "vocab.txt")
    assert not caplog.records


def test_lengths_that_are_not_known(form: Any, tmp_path: Path) -> None:
    tok = form(vocabulary(tmp_path / "v", [*SPECIALS, "a"]))
    assert tok.model_max_length == int(1e30)
    assert "model_max_length=unknown" in repr(tok)
    for options in ({"padding": "max_length"}, {"truncation": True}):
        with pytest.raises(ValueError, match="knows no model_max_length: pass max_length"):
            tok("a", **options)
    assert tok("a", padding="max_length", max_length=5)["input_ids"] == [2, 5, 3, 0, 0]
    assert form({"a": 5, **{t: i for i, t in enumerate(SPECIALS)}}, model_max_length=4).encode(
        "a a a", truncation=True
    ) == [2, 5, 5, 3]


def test_special_tokens_can_be_set(tok: Tokenizer) -> None:
    tok.pad_token = None
    assert tok.pad_token is None
    assert tok.pad_token_id is None
    with pytest.raises(ValueError, match="padding needs a pad token"):
        tok(["a", "b c"], padding=True)
    tok.pad_token_id = 1
    assert tok.pad_token == "[unused0]"
    assert tok(["a", "b c"], padding=True)["input_ids"][0] == [101, 1037, 102, 1]
    tok.cls_token = "[unused1]"
    assert tok.encode("a") == [2, 1037, 102]
    tok.sep_token_id = None
    assert tok.encode("a", "b") == [2, 1037, 1038]
    assert tok.num_special_tokens_to_add() == 1
    for name, value, words in (
        ("mask_token", "[NOPE]", "not in the vocabulary"),
        ("mask_token_id", 99999, "outside the vocabulary"),
        ("mask_token", 5, "expected a token"),
        ("unk_token", "[MASK]", "cannot change"),
        ("padding_side", "up", "expected 'left' or 'right'"),
        ("truncation_side", None, "expected 'left' or 'right'"),
    ):
        with pytest.raises(ValueError, match=words):
            setattr(tok, name, value)


def test_copies_are_independent(form: Any, tok: Tokenizer) -> None:
    for twin in (pickle.loads(pickle.dumps(tok)), copy.deepcopy(tok), copy.copy(tok)):
        assert twin.encode("a b") == tok.encode("a b")
        twin.cls_token = "[unused1]"
        assert tok.encode("a") == [101, 1037, 102]
    settings = "30522 tokens, do_lower_case=True, model_max_length=512, padding_side='right'"
    assert repr(tok) == f"{type(tok).__name__}({settings})"
    assert tok  # true, whatever len() says


def test_calls_from_several_threads_do_not_mix_their_padding(tok: Tokenizer) -> None:
    wrong: list[Any] = []

    def work(length: int) -> None:
        for _ in range(200):
            got = tok(["a b c"], padding="max_length", truncation=True, max_length=length)["input_ids"][0]
            if len(got) != length:
                wrong.append((length, len(got)))

    threads = [threading.Thread(target=work, args=(length,)) for length in (4, 9, 17)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


# Files


def test_one_vocabulary_file_of_any_name(form: Any, tmp_path: Path) -> None:
    for name in ("bert-base-uncased-vocab.txt", "pieces", "v.vocab"):
        path = tmp_path / name
        shutil.copy(minilm_folder() / "vocab.txt", path)
        for tok in (form.from_pretrained(path), form.from_pretrained(str(path)), form(path)):
            assert tok.encode("hello world!") == [101, 7592, 2088, 999, 102]
    assert form.from_pretrained(minilm_folder() / "tokenizer.json").encode("hello") == [101, 7592, 102]


def test_line_ends_of_windows(form: Any, tmp_path: Path) -> None:
    (tmp_path / "vocab.txt").write_bytes("\r\n".join([*SPECIALS, "a", "b"]).encode())
    assert form.from_pretrained(tmp_path).encode("b a") == [2, 6, 5, 3]


def test_a_folder_relative_to_the_working_directory(form: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "gpt2").mkdir()  # named like a model on the hub: the folder wins
    vocabulary(tmp_path / "gpt2" / "vocab.txt", [*SPECIALS, "a"])
    monkeypatch.chdir(tmp_path)
    assert form.from_pretrained("gpt2").encode("a") == [2, 5, 3]


def test_a_name_is_looked_up_in_the_local_cache(form: Any, tmp_path: Path) -> None:
    snapshot = tmp_path / "models--some--bert" / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    (tmp_path / "models--some--bert" / "refs").mkdir()
    (tmp_path / "models--some--bert" / "refs" / "main").write_text("0" * 40)
    vocabulary(snapshot / "vocab.txt", [*SPECIALS, "a"])
    tok = form.from_pretrained("some/bert", cache_dir=tmp_path, local_files_only=True)
    assert tok.encode("a") == [2, 5, 3]
    with pytest.raises(FileNotFoundError, match="some/other"):
        form.from_pretrained("some/other", cache_dir=tmp_path, local_files_only=True)


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({}, "looked for tokenizer.json and vocab.txt, the folder holds nothing"),
        ({"model.safetensors": b"x"}, "the folder holds model.safetensors"),
        ({"vocab.txt": b""}, "empty"),
        ({"vocab.txt": b"[PAD]\n\xff\xfe"}, "byte 0xff at offset 6 is not UTF-8 text"),
        ({"vocab.txt": b"\xef\xbb\xbf[PAD]\n[UNK]"}, "byte-order mark"),
        ({"vocab.txt": b"[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\na\nb\na\n"}, "'a' stands on line 6 and again on line 8"),
        ({"vocab.txt": b"[UNK]\n[CLS]\n[SEP]\n[MASK]\na\n"}, r"has no pad_token '\[PAD\]': .*pad_token=None"),
        ({"vocab.txt": b"[PAD]\n[CLS]\n[SEP]\n[MASK]\na\n"}, r"has no unk_token '\[UNK\]'"),
        ({"tokenizer.json": b"{"}, "is not a tokenizer.json"),
        ({"tokenizer.json": b"<html>"}, "is not a tokenizer.json"),
        ({"tokenizer_config.json": b"{,}"}, "tokenizer_config.json is not valid JSON"),
        ({"tokenizer_config.json": b"[]"}, "holds a JSON list"),
        ({"tokenizer_config.json": b'{"do_lower_case": "no"}'}, "do_lower_case is 'no', expected true or false"),
        ({"tokenizer_config.json": b'{"model_max_length": 0}'}, "model_max_length is 0"),
        ({"tokenizer_config.json": b'{"padding_side": "up"}'}, "padding_side is 'up'"),
        ({"tokenizer_config.json": b'{"pad_token": 3}'}, "pad_token is 3"),
        ({"tokenizer_config.json": b'{"pad_token": "[X]"}'}, r"has no pad_token '\[X\]'"),
        ({"tokenizer_config.json": b'{"do_basic_tokenize": "no"}'}, "do_basic_tokenize is 'no'"),
        ({"tokenizer_config.json": b'{"never_split": "abc"}'}, "never_split is 'abc', expected a list of words"),
        ({"tokenizer_config.json": b'{"added_tokens_decoder": {"9": {"content": "new"}}}'}, "stated with id 9"),
        ({"tokenizer_config.json": b'{"added_tokens_decoder": {"x": "new"}}'}, "expected an id"),
        ({"added_tokens.json": b'{"new": 9}'}, "stated with id 9, but would get id 6"),
    ],
)
def test_bad_folders(form: Any, files: dict[str, bytes], words: str, tmp_path: Path) -> None:
    if not {"vocab.txt", "tokenizer.json", "model.safetensors"} & files.keys() and files:
        vocabulary(tmp_path / "vocab.txt", [*SPECIALS, "a"])
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    with pytest.raises((ValueError, FileNotFoundError), match=words):
        form.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"vocab": {"[PAD]": 0, "[UNK]": 1, "[CLS]": 2, "[SEP]": 3, "[MASK]": 4, "a": 7}}, "no piece has the id 5"),
        (
            {"vocab": {"[PAD]": 0, "[UNK]": 1, "[CLS]": 2, "[SEP]": 3, "[MASK]": 4, "a": 5, "b": 5}},
            "no piece has the id 6",
        ),
        ({"vocab": {"[UNK]": 0, "[CLS]": 1, "[SEP]": 2, "[MASK]": 3}}, r"has no pad_token '\[PAD\]'"),
        ({"type": "BPE", "vocab": {"a": 0}, "merges": []}, "BPE"),
    ],
)
def test_bad_tokenizer_json(form: Any, change: dict[str, Any], words: str, tmp_path: Path) -> None:
    model = {
        "type": "WordPiece",
        "unk_token": "[UNK]",
        "continuing_subword_prefix": "##",
        "max_input_chars_per_word": 100,
        **change,
    }
    content = json.loads((minilm_folder() / "tokenizer.json").read_text(encoding="utf-8"))
    content |= {"added_tokens": [], "post_processor": None, "model": model}
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=words):
        form.from_pretrained(tmp_path)


def test_bad_single_files(form: Any, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not UTF-8"):
        form.from_pretrained(minilm_folder() / "model.safetensors")
    with pytest.raises(FileNotFoundError, match=r"vocab\.txt"):
        form.from_pretrained(tmp_path / "nowhere" / "vocab.txt")
    with pytest.raises(ValueError, match="this is a device; expected a regular file"):
        form.from_pretrained("/dev/null")
    with pytest.raises(ValueError, match=r"ids must be 0 \.\. 4"):
        form({token: number + 1 for number, token in enumerate(SPECIALS)})
    with pytest.raises(ValueError, match="unk_token is None"):
        form({token: number for number, token in enumerate(SPECIALS)}, unk_token=None)  # type: ignore[arg-type]


def test_options_that_cannot_be_applied_are_an_error(form: Any, tmp_path: Path) -> None:
    backend = json.loads((minilm_folder() / "tokenizer.json").read_text(encoding="utf-8"))
    (tmp_path / "tokenizer.json").write_text(json.dumps(backend | {"normalizer": {"type": "Lowercase"}}))
    words = "do_lower_case=False cannot be applied to its Lowercase normalizer"
    if form is BertTokenizer:
        words = "its normalizer is Lowercase, not BertNormalizer, .*: use BertTokenizerFast"
    with pytest.raises(ValueError, match=words):
        form.from_pretrained(tmp_path, do_lower_case=False)


def test_saving_over_a_file_is_an_error_and_saving_again_replaces(form: Any, tok: Tokenizer, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(NotADirectoryError, match="is a file"):
        tok.save_pretrained(tmp_path / "file")
    tok.save_pretrained(tmp_path / "t")
    tok.pad_token = "[unused0]"
    tok.save_pretrained(tmp_path / "t")
    assert form.from_pretrained(tmp_path / "t").pad_token == "[unused0]"
    assert (tmp_path / "t" / "vocab.txt").read_bytes() == (minilm_folder() / "vocab.txt").read_bytes()


def test_unknown_keys_of_the_config_are_written_back(form: Any, tmp_path: Path) -> None:
    vocabulary(tmp_path / "vocab.txt", [*SPECIALS, "a"])
    (tmp_path / "tokenizer_config.json").write_text('{"do_lower_case": true, "my_note": [1]}')
    form.from_pretrained(tmp_path).save_pretrained(tmp_path / "again")
    assert json.loads((tmp_path / "again" / "tokenizer_config.json").read_text())["my_note"] == [1]


def test_vocab_file_is_another_name_of_vocab(form: Any, tmp_path: Path) -> None:
    path = vocabulary(tmp_path / "vocab.txt", [*SPECIALS, "a"])
    for value in (path, str(path)):
        assert form(vocab_file=value).get_vocab() == form(value).get_vocab()
    with pytest.raises(TypeError, match="got both vocab and vocab_file"):
        form(path, vocab_file=path)
    with pytest.raises(TypeError, match=r"got no vocabulary; give vocab=.*from_pretrained\(folder\)"):
        form()
    with pytest.raises(TypeError, match="got vocab_file of type dict"):
        form(vocab_file={"a": 1})  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="got vocab of type list"):
        form(["a"])  # type: ignore[arg-type]


def test_places_that_are_none(form: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    vocabulary(tmp_path / "vocab.txt", [*SPECIALS, "a"])
    monkeypatch.chdir(tmp_path)  # an empty text must not mean this folder
    with pytest.raises(FileNotFoundError, match="pretrained_model_name_or_path is '', an empty text"):
        form.from_pretrained("")
    with pytest.raises(FileNotFoundError, match="It has 5,000 characters"):
        form.from_pretrained("x" * 5000)
    for value in (None, {"a": 1}):
        with pytest.raises(TypeError, match="pretrained_model_name_or_path is a"):
            form.from_pretrained(value)  # type: ignore[arg-type]
