"""The deliberate differences from transformers that `minitf.tokenization` lists: both sides of each, side by side."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers
import transformers

from minitf.tokenization import BertTokenizer, BertTokenizerFast, Tokenizer
from tests.support import minilm_folder

SPECIALS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
NAMES = dict(zip(("pad_token", "unk_token", "cls_token", "sep_token", "mask_token"), SPECIALS, strict=True))


@pytest.fixture(scope="module")
def ours(form: Any) -> Tokenizer:
    return form.from_pretrained(minilm_folder())


@pytest.fixture(scope="module")
def theirs() -> Any:
    return transformers.BertTokenizer.from_pretrained(minilm_folder())


def folder_of(folder: Path, pieces: list[str], **settings: object) -> Path:
    (folder / "vocab.txt").write_text("".join(f"{piece}\n" for piece in pieces))
    if settings:
        (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder


@pytest.mark.parametrize("settings", ["{}", None])
def test_tokenizer_json_is_taken_as_it_is(form: Any, tmp_path: Path, settings: str | None) -> None:
    backend = json.loads((minilm_folder() / "tokenizer.json").read_text(encoding="utf-8"))
    backend["normalizer"] |= {"lowercase": False, "strip_accents": False}
    (tmp_path / "tokenizer.json").write_text(json.dumps(backend))
    if settings is not None:
        (tmp_path / "tokenizer_config.json").write_text(settings)
    assert form.from_pretrained(tmp_path).tokenize("a CAT") == ["a", "[UNK]"]
    assert transformers.BertTokenizer.from_pretrained(tmp_path).tokenize("a CAT") == ["a", "cat"]


def test_generic_classes_return_token_types(form: Any, tmp_path: Path) -> None:
    shutil.copy(minilm_folder() / "tokenizer.json", tmp_path)
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", **NAMES}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    encoding = form.from_pretrained(tmp_path)("a", "b")
    assert encoding["token_type_ids"] == [0, 0, 0, 1, 1]
    other = transformers.AutoTokenizer.from_pretrained(tmp_path)("a", "b")
    assert "token_type_ids" not in other
    assert other["input_ids"] == encoding["input_ids"]


@pytest.mark.parametrize(
    ("options", "words", "count"),
    [
        ({"max_length": 3}, "max_length=3 has no effect", 3),
        ({"max_length": 3, "padding": True}, "max_length=3 has no effect", 5),
        ({"max_length": 1, "truncation": True}, "max_length=1 leaves no room for the 2 special tokens", 5),
    ],
)
@pytest.mark.filterwarnings("ignore:`max_length` is ignored")
def test_max_length(ours: Tokenizer, theirs: Any, options: dict[str, Any], words: str, count: int) -> None:
    with pytest.raises(ValueError, match=words):
        ours("a b c", **options)
    assert len(theirs("a b c", **options)["input_ids"]) == count


def test_ids_outside_the_vocabulary(ours: Tokenizer, theirs: Any) -> None:
    for convert in (ours.decode, ours.convert_ids_to_tokens):
        with pytest.raises(ValueError, match="id 999999 at position 1 is outside the vocabulary"):
            convert([2006, 999_999])
    assert theirs.decode([2006, 999_999]) == "on"
    assert theirs.convert_ids_to_tokens([2006, 999_999]) == ["on", None]


def test_special_token_that_is_not_there(form: Any, tmp_path: Path) -> None:
    folder = folder_of(tmp_path, [*SPECIALS[:4], "a"], do_lower_case=True)
    makers: list[Callable[[], Tokenizer]] = [
        lambda: form(folder / "vocab.txt"),
        lambda: form.from_pretrained(folder),
    ]
    for make in makers:
        with pytest.raises(ValueError, match=r"has no mask_token '\[MASK\]'"):
            make()
    other = transformers.BertTokenizer.from_pretrained(folder)
    assert (other.mask_token_id, len(other)) == (5, 6)


def test_cased_vocabulary(form: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = folder_of(tmp_path, [*SPECIALS, *("The", "Cat", "Dog", "House", "Tree", "Sun", "a")])
    with caplog.at_level(logging.WARNING, logger="minitf"):
        pieces = form.from_pretrained(folder).tokenize("The a")
    assert [record.getMessage().count("looks cased") for record in caplog.records] == [1]
    assert pieces == transformers.BertTokenizer.from_pretrained(folder).tokenize("The a") == ["[UNK]", "a"]


def test_empty_list(ours: Tokenizer, theirs: Any) -> None:
    assert set(map(str, ours([]).values())) == {"[]"}
    assert {tuple(tensor.shape) for tensor in ours([], return_tensors="pt").values()} == {(0, 0)}
    for kind in (None, "pt"):
        with pytest.raises(IndexError):
            theirs([], return_tensors=kind)


@pytest.mark.parametrize(
    ("setting", "pieces"),
    [({"do_basic_tokenize": False}, ["[UNK]"]), ({"never_split": ["AB"]}, ["ab", ",", "ab", "AB"])],
)
def test_settings_of_the_python_tokenizer(tmp_path: Path, setting: dict[str, Any], pieces: list[str]) -> None:
    folder = folder_of(tmp_path, [*SPECIALS, "AB", "ab", ","], **setting)
    vocabulary = str(folder / "vocab.txt")
    name = next(iter(setting))
    for ours in (BertTokenizer.from_pretrained(folder), BertTokenizer(vocabulary, **setting)):
        assert ours.tokenize("AB,AB AB" if len(pieces) > 1 else "AB,AB") == pieces
    for make in (lambda: BertTokenizerFast.from_pretrained(folder), lambda: BertTokenizerFast(vocabulary, **setting)):
        with pytest.raises(
            ValueError, match=rf"{name}=.* is not possible on the tokenizers library: use BertTokenizer "
        ):
            make()
    for other in (
        transformers.BertTokenizer.from_pretrained(folder),
        transformers.BertTokenizer(vocab=vocabulary, **setting),
    ):
        assert other.tokenize("AB,AB") == ["ab", ",", "ab"]


@pytest.mark.parametrize("kind", ["pt", "np"])
def test_ragged_rows(ours: Tokenizer, theirs: Any, kind: Any) -> None:
    with pytest.raises(ValueError, match="pass padding=True"):
        ours(["a", "b c"], return_tensors=kind)
    if kind == "np":
        assert theirs(["a", "b c"], return_tensors=kind)["input_ids"].dtype == np.dtype(object)
    else:
        with pytest.raises(ValueError, match="padding=True"):
            theirs(["a", "b c"], return_tensors=kind)


@pytest.mark.parametrize("kind", ["tf", "mlx"])
def test_tensors_of_other_frameworks(ours: Tokenizer, theirs: Any, kind: Any) -> None:
    with pytest.raises(ValueError, match=f"return_tensors='{kind}' is not known; expected 'pt'"):
        ours("a", return_tensors=kind)
    if kind == "tf":
        with pytest.raises(ValueError, match="tf is not a valid TensorType"):
            theirs("a", return_tensors=kind)


def test_windows_that_would_have_no_effect(ours: Tokenizer, theirs: Any) -> None:
    for options in ({"return_overflowing_tokens": True}, {"stride": 1, "truncation": True, "max_length": 4}):
        with pytest.raises(ValueError, match="has no effect without"):
            ours("a b c", **options)
        theirs("a b c", **options)


def test_added_tokens_are_counted_and_shown_as_they_are(form: Any) -> None:
    ours, theirs = (kind.from_pretrained(minilm_folder()) for kind in (form, transformers.BertTokenizer))
    tokens = ["hello", "NewTok"]  # "hello" is a piece of the vocabulary
    assert (ours.add_tokens(tokens), theirs.add_tokens(tokens)) == (1, 2)
    assert len(ours) == len(theirs) == 30523
    assert ours.decode(30522) == ours.convert_ids_to_tokens(30522) == "NewTok"
    version = tuple(map(int, tokenizers.__version__.split(".")[:2]))
    assert theirs.convert_ids_to_tokens(30522) == ("newtok" if version >= (0, 23) else "NewTok")


def test_what_may_mean_two_things_or_nothing(form: Any) -> None:
    vocabulary = {token: number for number, token in enumerate([*SPECIALS, "a"])}
    ours, theirs = form(vocabulary), transformers.BertTokenizer(vocab=dict(vocabulary))
    with pytest.raises(
        ValueError, match="truncation=True needs a length, and this tokenizer knows no model_max_length"
    ):
        ours("a a", truncation=True)
    assert theirs("a a", truncation=True)["input_ids"] == ours("a a")["input_ids"]
    with pytest.raises(TypeError, match=r"text\[0\] is of type list, expected a str, or a tuple of two for a pair"):
        ours([["a", "a"]])
    assert theirs([["a", "a"]])["input_ids"] == ours([("a", "a")])["input_ids"] == [ours("a", "a")["input_ids"]]
    with pytest.raises(TypeError, match="use batch_decode"):
        ours.decode([[5], [5]])
    assert theirs.decode([[5], [5]]) == ours.batch_decode([[5], [5]]) == ["a", "a"]
