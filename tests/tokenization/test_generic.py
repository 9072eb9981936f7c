"""`PreTrainedTokenizerFast` reads any tokenizer.json, as transformers' class of that name does."""

from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path
from typing import Any

import pytest
import transformers
from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors

import minitf
from minitf.tokenization import PreTrainedTokenizerFast
from minitf.tokenization.auto import AutoTokenizer
from tests.support import minilm_folder, shared_data

TEXTS = ["the cat , the dog", "The CAT sat.", "", "cat's <pad> x"]


def unigram() -> Backend:
    letters = [(letter, -4.0) for letter in "abcdefghijklmnopqrstuvwxyz,.'"]
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0), ("▁the", -1.0), ("▁cat", -1.5), *letters]
    backend = Backend(models.Unigram(pieces, unk_id=2))
    backend.normalizer = normalizers.Lowercase()
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.decoder = decoders.Metaspace()
    backend.post_processor = processors.TemplateProcessing("$A </s>", "$A </s> $B:1 </s>:1", [("</s>", 1)])
    return backend


def bpe() -> Backend:
    pieces = ["<pad>", "</s>", "<unk>", *"abcdefghijklmnopqrstuvwxyz,.'", "th", "the"]
    backend = Backend(
        models.BPE({piece: n for n, piece in enumerate(pieces)}, [("t", "h"), ("th", "e")], unk_token="<unk>")
    )
    backend.normalizer = normalizers.Lowercase()
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    return backend


NAMES = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}


@pytest.fixture(params=[unigram, bpe], ids=["unigram", "bpe"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    request.param().save(str(tmp_path / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": True, **NAMES}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    return tmp_path


def assert_same(ours: Any, theirs: Any) -> None:
    options = {"padding": True, "truncation": True, "max_length": 9, "return_offsets_mapping": True}
    for batch in (TEXTS, [("the cat", "a dog"), ("", "cat")]):
        a, b = ours(batch, **options), theirs(batch, **options)
        assert dict(a) == dict(b)
        for row in range(len(batch)):
            assert (a.tokens(row), a.word_ids(row), a.sequence_ids(row)) == (
                b.tokens(row), b.word_ids(row), b.sequence_ids(row)
            )  # fmt: skip
        for skip in (False, True):
            assert ours.batch_decode(a["input_ids"], skip_special_tokens=skip) == theirs.batch_decode(
                b["input_ids"], skip_special_tokens=skip
            )
    assert ours.get_vocab() == theirs.get_vocab()
    assert ours.all_special_tokens == theirs.all_special_tokens
    assert ours.num_special_tokens_to_add(True) == theirs.num_special_tokens_to_add(True)


def test_a_folder_is_read_as_transformers_reads_it(folder: Path, tmp_path: Path) -> None:
    ours, theirs = (
        minitf.PreTrainedTokenizerFast.from_pretrained(folder),
        transformers.AutoTokenizer.from_pretrained(folder),
    )
    assert_same(ours, theirs)
    assert_same(pickle.loads(pickle.dumps(ours)), theirs)
    assert type(AutoTokenizer.from_pretrained(folder)) is PreTrainedTokenizerFast
    with pytest.raises(ValueError, match="use_fast=False: PreTrainedTokenizerFast has no form in plain Python"):
        AutoTokenizer.from_pretrained(folder, use_fast=False)
    ours.add_tokens(["dog"])
    ours.save_pretrained(tmp_path / "again")
    again = AutoTokenizer.from_pretrained(tmp_path / "again")
    assert again.get_vocab() == ours.get_vocab()
    assert_same(again, transformers.AutoTokenizer.from_pretrained(tmp_path / "again"))


@pytest.mark.parametrize("make", [unigram, bpe])
def test_from_an_object_or_a_file(make: Any, tmp_path: Path) -> None:
    backend = make()
    backend.save(str(tmp_path / "any-name.json"))
    theirs = transformers.PreTrainedTokenizerFast(tokenizer_object=make(), **NAMES)
    ours = PreTrainedTokenizerFast(tokenizer_object=backend, **NAMES)
    assert_same(ours, theirs)
    assert_same(PreTrainedTokenizerFast(tokenizer_file=tmp_path / "any-name.json", **NAMES), theirs)
    assert_same(PreTrainedTokenizerFast.from_pretrained(tmp_path / "any-name.json", **NAMES), theirs)
    ours.add_tokens(["new"])
    assert backend.token_to_id("new") is None  # the object was copied


def test_published_files_of_a_family_are_taken_as_they_are(tmp_path: Path) -> None:
    shutil.copy(minilm_folder() / "tokenizer.json", tmp_path)
    (tmp_path / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "BertTokenizer", "do_lower_case": False, "pad_token": "[PAD]"})
    )
    tok = PreTrainedTokenizerFast.from_pretrained(tmp_path)
    assert dict(tok("HELLO")) == {"input_ids": [101, 7592, 102], "attention_mask": [1, 1, 1]}
    tok.model_input_names = ["input_ids", "token_type_ids"]
    assert dict(tok("HELLO", "a")) == {"input_ids": [101, 7592, 102, 1037, 102], "token_type_ids": [0, 0, 0, 1, 1]}
    assert PreTrainedTokenizerFast.from_pretrained(shared_data("checkpoints", "ticket-bert")).encode("the") != []


def test_what_cannot_be_read(tmp_path: Path) -> None:
    for arguments in ({}, {"tokenizer_file": "a", "tokenizer_object": bpe()}):
        with pytest.raises(TypeError, match=r"takes either tokenizer_file=.*or tokenizer_object="):
            PreTrainedTokenizerFast(**arguments)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="tokenizer_object is of type str"):
        PreTrainedTokenizerFast(tokenizer_object="a")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"has no mask_token '\[MASK\]'"):
        PreTrainedTokenizerFast(tokenizer_object=bpe(), mask_token="[MASK]")
    with pytest.raises(TypeError, match="no argument 'pad_tokn'; did you mean 'pad_token'"):
        PreTrainedTokenizerFast.from_pretrained(tmp_path, pad_tokn="x")  # type: ignore[call-arg]
    with pytest.raises(FileNotFoundError, match=r"no tokenizer in .*tokenizer\.json"):
        PreTrainedTokenizerFast.from_pretrained(tmp_path)
    for name in ("tokenizer.json", "vocab.txt"):
        (tmp_path / name).write_text('{"version": "1.0"}')
        with pytest.raises(ValueError, match=r"is not a tokenizer\.json|reads a tokenizer\.json"):
            PreTrainedTokenizerFast.from_pretrained(tmp_path / name)
