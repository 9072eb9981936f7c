"""Options as attributes: what may be set, what is refused; and the option that GPT-2's files state in vain."""

from __future__ import annotations

import copy
import json
import pickle
from pathlib import Path
from typing import Any

import pytest
import transformers

from minitf.tokenization import BertTokenizer, Tokenizer
from tests.support import minilm_folder


@pytest.fixture
def tok(form: Any) -> Any:
    return form.from_pretrained(minilm_folder())


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("model_max_length", 0, "model_max_length is 0, expected a number of tokens"),
        ("model_max_length", -1, "model_max_length is -1"),
        ("padding_side", "up", "expected 'left' or 'right'"),
        ("truncation_side", "up", "expected 'left' or 'right'"),
        ("clean_up_tokenization_spaces", "no", "is 'no', expected true or false"),
        ("split_special_tokens", 1, "is 1, expected true or false"),
        ("pad_token_type_id", -1, "expected a token type id"),
        ("pad_token_type_id", True, "expected a token type id"),
        ("model_input_names", ["input_idz"], "expected a list that holds input_ids"),
    ],
)
def test_a_wrong_value_is_refused_and_changes_nothing(tok: Tokenizer, name: str, value: Any, words: str) -> None:
    before = getattr(tok, name)
    with pytest.raises(ValueError, match=words):
        setattr(tok, name, value)
    assert getattr(tok, name) == before


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("paddding_side", "padding_side"),
        ("pad_tokn", "pad_token"),
        ("max_model_length", "model_max_length"),
        ("eos_token_ids", "eos_token"),
    ],
)
def test_a_misspelt_attribute_is_refused(tok: Tokenizer, name: str, meant: str) -> None:
    with pytest.raises(AttributeError, match=f"has no attribute '{name}' to set; did you mean '{meant}'"):
        setattr(tok, name, "left")
    assert not hasattr(tok, name)


def test_what_is_set_has_effect_and_travels_with_copies(tok: Any) -> None:
    tok.model_max_length = 4
    tok.model_input_names = ["input_ids"]
    tok.truncation_side = "left"
    tok.remark = "attributes of your own are yours"
    for twin in (tok, copy.deepcopy(tok), pickle.loads(pickle.dumps(tok))):
        assert dict(twin("a b c d", truncation=True)) == {"input_ids": [101, 1039, 1040, 102]}
        assert twin.remark == tok.remark
    tok.model_max_length = None
    assert tok.model_max_length == int(1e30)
    tok.model_input_names.append("attention_mask")
    assert BertTokenizer.DEFAULTS["model_input_names"] == ["input_ids", "token_type_ids", "attention_mask"]


def said(caplog: pytest.LogCaptureFixture) -> int:
    return sum("is passed over" in record.getMessage() for record in caplog.records)


def test_clean_up_of_byte_level_text_is_done_only_if_the_caller_asks(
    gpt2_form: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """transformers 4 wrote clean_up_tokenization_spaces=true beside every tokenizer; 5.23 passes it over for BPE."""
    alphabet = sorted({chr(code) for code in range(33, 127)} | {"Ġ"})
    pieces = {piece: number for number, piece in enumerate([*alphabet, "<|endoftext|>"])}
    transformers.GPT2Tokenizer(vocab=pieces, merges=[]).save_pretrained(tmp_path)
    path = tmp_path / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"clean_up_tokenization_spaces": True}))
    ours, theirs = gpt2_form.from_pretrained(tmp_path), transformers.GPT2Tokenizer.from_pretrained(tmp_path)
    assert theirs.clean_up_tokenization_spaces
    text = "x , y ."
    ids = ours.encode(text)
    assert ours.decode(ids) == theirs.decode(ids) == text
    assert said(caplog) == 1
    caplog.clear()
    assert ours.decode(ids, clean_up_tokenization_spaces=True) == "x, y."
    ours.clean_up_tokenization_spaces = True
    assert ours.decode(ids) == "x, y."
    for stated, expected in ((True, "x, y."), (False, text)):
        assert gpt2_form.from_pretrained(tmp_path, clean_up_tokenization_spaces=stated).decode(ids) == expected
    assert said(caplog) == 0
    ours.clean_up_tokenization_spaces = False
    ours.save_pretrained(tmp_path / "again")
    caplog.clear()
    gpt2_form.from_pretrained(tmp_path / "again")
    assert said(caplog) == 0
