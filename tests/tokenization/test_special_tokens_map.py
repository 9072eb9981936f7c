"""special_tokens_map.json beside tokenizer_config.json and added_tokens.json, as old checkpoints have them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from tests.support import minilm_folder

TEXTS = ["Hello <e1> World x[unused5] [MASK] y", "<e1>"]


def folder_of(folder: Path, config: dict[str, Any], **others: Any) -> Path:
    """A folder with a vocab.txt alone, and these settings."""
    for name in ("vocab.txt", "config.json"):
        shutil.copy(minilm_folder() / name, folder)
    for name, content in {"tokenizer_config": {"do_lower_case": True} | config, **others}.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    return folder


def assert_same_as_theirs(ours: Any, theirs: Any) -> None:
    ids = [ours.encode(text) for text in TEXTS]
    assert ids == [theirs.encode(text) for text in TEXTS]
    for skip in (False, True):
        assert ours.batch_decode(ids, skip_special_tokens=skip) == theirs.batch_decode(ids, skip_special_tokens=skip)
    assert len(ours) == len(theirs)
    assert set(ours.all_special_tokens) == set(theirs.all_special_tokens)
    assert ours.pad_token_id == theirs.pad_token_id


@pytest.mark.parametrize(
    ("config", "stated", "added"),
    [
        ({}, {"additional_special_tokens": ["<e1>", "[unused5]"]}, 1),
        ({}, {"extra_special_tokens": ["<e1>"]}, 1),
        ({"additional_special_tokens": ["[unused5]"]}, {"additional_special_tokens": ["<e1>"]}, 0),
        ({"extra_special_tokens": ["[unused5]"]}, {"extra_special_tokens": ["<e1>"]}, 1),
        ({"pad_token": "[PAD]"}, {"pad_token": "[unused5]"}, 0),
        ({"pad_token": "[PAD]", "added_tokens_decoder": {}}, {"pad_token": "[unused5]"}, 0),
        ({"added_tokens_decoder": {}}, {"additional_special_tokens": ["<e1>"]}, 0),
    ],
    ids=str,
)
def test_what_the_map_states(
    form: Any, config: dict[str, Any], stated: dict[str, Any], added: int, tmp_path: Path
) -> None:
    folder = folder_of(tmp_path, config, special_tokens_map=stated)
    ours = form.from_pretrained(folder)
    assert len(ours) - ours.vocab_size == added
    assert_same_as_theirs(ours, AutoTokenizer.from_pretrained(folder))


@pytest.mark.parametrize("file", ["tokenizer_config", "special_tokens_map"])
def test_additional_tokens_in_their_long_form_keep_their_flags(form: Any, file: str, tmp_path: Path) -> None:
    """transformers 5.23 cannot read these; 4.49 wrote them."""
    flags = {"lstrip": False, "rstrip": False, "normalized": False, "single_word": False}
    tokens = [{"content": "<e1>", **flags, "lstrip": True}, {"content": "[unused5]", **flags, "rstrip": True}]
    stated = {file: {"additional_special_tokens": tokens}}
    ours = form.from_pretrained(folder_of(tmp_path, stated.pop("tokenizer_config", {}), **stated))
    offsets = ours("a <e1>b [unused5] c", return_offsets_mapping=True)["offset_mapping"]
    assert offsets[1:-1] == [(0, 1), (1, 6), (6, 7), (8, 18), (18, 19)]
    ours.save_pretrained(tmp_path / "again")
    again = form.from_pretrained(tmp_path / "again")
    assert again("a <e1>b [unused5] c", return_offsets_mapping=True)["offset_mapping"] == offsets


def test_an_added_token_that_the_map_calls_special_is_special(form: Any, tmp_path: Path) -> None:
    """So in 4.49. In 5.23 it is among the special tokens, but is neither matched literally nor skipped."""
    folder = folder_of(
        tmp_path, {}, added_tokens={"<e1>": 30522}, special_tokens_map={"additional_special_tokens": ["<e1>"]}
    )
    ours = form.from_pretrained(folder)
    assert ours.encode("a <e1> <E1>", add_special_tokens=False) == [1037, 30522, 1026, 1041, 2487, 1028]
    assert ours.decode([1037, 30522], skip_special_tokens=True) == "a"
    theirs = AutoTokenizer.from_pretrained(folder)
    assert "<e1>" in theirs.all_special_tokens
    assert theirs.encode("a <e1> <E1>", add_special_tokens=False) == [1037, 30522, 30522]
    assert theirs.decode([1037, 30522], skip_special_tokens=True) == "a <e1>"


def test_additional_tokens_that_are_none(form: Any, tmp_path: Path) -> None:
    folder = folder_of(tmp_path, {}, special_tokens_map={"additional_special_tokens": [3]})
    with pytest.raises(ValueError, match=r"special_tokens_map\.json: additional_special_tokens is \(3,\), expected"):
        form.from_pretrained(folder)
