"""Values of the wrong kind, beside those that only look so: numpy's numbers, scalars of torch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from minitf.tokenization import GPT2Tokenizer, GPT2TokenizerFast
from tests.support import minilm_folder

SPECIALS = {"[PAD]": 0, "[UNK]": 1, "[CLS]": 2, "[SEP]": 3, "[MASK]": 4}


@pytest.fixture(scope="module")
def tok(form: Any) -> Any:
    return form.from_pretrained(minilm_folder())


@pytest.mark.parametrize(
    "name",
    [
        *("add_special_tokens", "is_split_into_words", "return_overflowing_tokens", "return_special_tokens_mask"),
        *("return_offsets_mapping", "return_length", "verbose"),
    ],
)
@pytest.mark.parametrize("value", ["no", 1, None])
def test_a_switch_is_true_or_false(tok: Any, name: str, value: Any) -> None:
    with pytest.raises(TypeError, match=f"{name} is {value!r}, expected True or False"):
        tok("a", **{name: value})


@pytest.mark.parametrize("name", ["return_token_type_ids", "return_attention_mask", "split_special_tokens"])
def test_a_switch_that_may_be_none(tok: Any, name: str) -> None:
    tok("a", **{name: None})
    with pytest.raises(TypeError, match=f"{name} is 'no', expected True, False or None"):
        tok("a", **{name: "no"})


def test_whole_numbers_of_any_kind(tok: Any) -> None:
    number = np.int64(4)
    expected = tok("a b c", truncation=True, max_length=4, padding=True, pad_to_multiple_of=2)
    assert tok("a b c", truncation=True, max_length=number, padding=True, pad_to_multiple_of=np.int32(2)) == expected
    for wrong in (4.0, True, "4"):
        with pytest.raises(ValueError, match=r"max_length is .* expected an integer"):
            tok("a", truncation=True, max_length=wrong)
    for one in (np.int64(7592), torch.tensor(7592), 7592):
        assert tok.decode(one) == tok.decode([one]) == "hello"
        assert tok.convert_ids_to_tokens(one) == "hello"
        assert tok.convert_ids_to_tokens([one]) == ["hello"]
    assert tok.decode(list(torch.tensor([7592, 2088]))) == tok.decode(tuple(np.array([7592, 2088]))) == "hello world"
    for rows in ([[7592]], [torch.tensor([7592, 2088])], [np.array([7592])]):
        with pytest.raises(TypeError, match=r"position 0 is of type .*; use batch_decode"):
            tok.decode(rows)
    for fraction in (np.float64(7592), torch.tensor(1.5), 7592.0):
        with pytest.raises(TypeError, match=r"expected (int|token ids)"):
            tok.decode([fraction])


def test_tokens_and_second_texts_of_another_kind(tok: Any) -> None:
    for tokens in ([5], 5, ["a", None]):
        with pytest.raises(TypeError):
            tok.convert_tokens_to_ids(tokens)
    with pytest.raises(TypeError, match="a token is of type int, expected str: 5"):
        tok.convert_tokens_to_ids(["a", 5])
    for second in (0, 5, b"b"):
        with pytest.raises(TypeError, match=r"text_pair is of type (int|bytes), expected str"):
            tok("a", second)
    with pytest.raises(TypeError, match=r"text\[0\]\[0\] is of type list, .*a pair is a tuple of two lists of words"):
        tok([[["a"], ["b"]]], is_split_into_words=True)
    assert tok([(["a"], ["b"])], is_split_into_words=True)["input_ids"] == [[101, 1037, 102, 1038, 102]]


def test_ids_that_are_wrong_are_named(form: Any) -> None:
    with pytest.raises(ValueError, match=r"'\[MASK\]' and 'a' both have the id 4"):
        form(SPECIALS | {"a": 4})
    with pytest.raises(ValueError, match=r"ids must be 0 \.\. 5, .*; no piece has the id 5"):
        form(SPECIALS | {"a": 9})


def test_the_remedy_for_another_model_is_one(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"its model is WordPiece, not BPE, .*: GPT2Tokenizer is for BPE; AutoTok"):
        GPT2Tokenizer.from_pretrained(minilm_folder())
    with pytest.raises(ValueError, match="holds a WordPiece model; GPT2TokenizerFast reads BPE"):
        GPT2TokenizerFast.from_pretrained(minilm_folder())
    content = json.loads((minilm_folder() / "tokenizer.json").read_text(encoding="utf-8"))
    del content["model"]["type"]
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match="its model is WordPiece, not BPE"):
        GPT2Tokenizer.from_pretrained(tmp_path)
