"""`AutoTokenizer`: which class it chooses, beside transformers, and what it says when it cannot."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import transformers

import minitf
from minitf import BertConfig
from minitf.architectures import ARCHITECTURES
from minitf.tokenization import BertTokenizer, BertTokenizerFast, GPT2Tokenizer, GPT2TokenizerFast, auto
from minitf.tokenization.auto import AutoTokenizer
from tests.support import minilm_folder, shared_data

TEXTS = ["Hello World", "naïve café, don't!", "遇见 老师", ""]
PIECES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "hello", "world", "##s", "h", "w"]
GOOGLE: dict[str, Any] = {  # the keys of Google's bert_config.json
    "hidden_size": 8,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 8,
    "type_vocab_size": 2,
}


@pytest.fixture(autouse=True)
def clean_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(auto, "REGISTERED", {})


def folder_with(
    folder: Path,
    *,
    config: dict[str, Any] | None = None,
    settings: dict[str, Any] | None = None,
    kind: str = "bert",
    classic: bool = True,
    backend: bool = True,
) -> Path:
    """A folder with a tokenizer of this kind, and just these other files."""
    folder.mkdir(exist_ok=True)
    if kind == "bert":
        tokenizer: Any = BertTokenizerFast({piece: number for number, piece in enumerate(PIECES)})
    else:
        vocabulary = {piece: number for number, piece in enumerate([*sorted(alphabet()), "<|endoftext|>", "he"])}
        tokenizer = GPT2TokenizerFast(vocabulary, [("h", "e")])
    tokenizer.save_pretrained(folder)
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        (folder / name).unlink()
    if not backend:
        (folder / "tokenizer.json").unlink()
    if not classic:
        for name in ("vocab.txt", "vocab.json", "merges.txt"):
            (folder / name).unlink(missing_ok=True)
    for name, content in (("config.json", config), ("tokenizer_config.json", settings)):
        if content is not None:
            (folder / name).write_text(json.dumps(content))
    return folder


def alphabet() -> list[str]:
    from tokenizers.pre_tokenizers import ByteLevel

    return list(ByteLevel.alphabet())


# --------------------------------------------------------------------------------------------------------------------
# The class that is chosen


def test_the_table_is_that_of_transformers(tmp_path: Path) -> None:
    for model_type, row in ARCHITECTURES.items():
        kind = "bert" if row.tokenizer == "BertTokenizer" else "gpt2"
        folder = folder_with(tmp_path / model_type, config={"model_type": model_type}, kind=kind)
        assert type(transformers.AutoTokenizer.from_pretrained(folder)).__name__ == row.tokenizer
        assert type(AutoTokenizer.from_pretrained(folder)).__name__ == row.tokenizer + "Fast"
        assert type(AutoTokenizer.from_pretrained(folder, use_fast=False)).__name__ == row.tokenizer


def test_real_folders_give_the_ids_of_transformers(tmp_path: Path) -> None:
    gpt2 = tmp_path / "gpt2"
    shutil.copytree(shared_data("vocab", "gpt2"), gpt2)
    (gpt2 / "config.json").write_text('{"model_type": "gpt2"}')
    ticket_bert = shared_data("checkpoints", "ticket-bert")  # its model is WordLevel, which has no plain form
    for folder, forms in ((minilm_folder(), (True, False)), (ticket_bert, (True,)), (gpt2, (True, False))):
        theirs = transformers.AutoTokenizer.from_pretrained(folder)
        for use_fast in forms:
            ours = AutoTokenizer.from_pretrained(folder, use_fast=use_fast)
            assert ours.is_fast is use_fast
            assert [ours(text)["input_ids"] for text in TEXTS] == [theirs(text)["input_ids"] for text in TEXTS]
    assert AutoTokenizer.from_pretrained(gpt2)("Hello world")["input_ids"] == [15496, 995]


FAST, SLOW = {"bert": BertTokenizerFast, "gpt2": GPT2TokenizerFast}, {"bert": BertTokenizer, "gpt2": GPT2Tokenizer}


@pytest.mark.parametrize(
    ("kind", "files"),
    [
        ("bert", {"settings": {"tokenizer_class": "BertTokenizer"}}),
        ("bert", {"settings": {"tokenizer_class": "BertTokenizerFast"}}),
        ("bert", {"settings": {"tokenizer_class": "BertTokenizer"}, "config": {"model_type": "gpt2"}}),
        ("bert", {"settings": {"tokenizer_class": "PreTrainedTokenizerFast"}}),
        ("bert", {"settings": {"tokenizer_class": "TokenizersBackend"}, "config": {"model_type": "gpt2"}}),
        ("bert", {"settings": {}, "config": {"tokenizer_class": "BertTokenizer", "model_type": "x"}}),
        ("bert", {"settings": {"tokenizer_class": None}, "config": {"model_type": "bert"}}),
        ("bert", {"config": {"architectures": ["BertModel"]}}),
        ("bert", {"config": {"model_type": "bert"}, "backend": False}),
        ("bert", {"config": GOOGLE, "backend": False}),
        ("bert", {}),
        ("gpt2", {"settings": {"tokenizer_class": "GPT2Tokenizer"}}),
        ("gpt2", {"settings": {"tokenizer_class": "PreTrainedTokenizerFast"}}),
        ("gpt2", {"config": {"model_type": "gpt2"}, "backend": False}),
        ("gpt2", {"classic": False}),
    ],
)
def test_what_decides(kind: str, files: dict[str, Any], tmp_path: Path) -> None:
    folder_with(tmp_path, kind=kind, **files)
    assert type(AutoTokenizer.from_pretrained(tmp_path)) is FAST[kind]
    assert type(AutoTokenizer.from_pretrained(str(tmp_path) + "/", use_fast=True)) is FAST[kind]
    assert type(AutoTokenizer.from_pretrained(tmp_path, use_fast=False)) is SLOW[kind]


@pytest.mark.parametrize("kind", ["bert", "gpt2"])
def test_a_tokenizer_json_by_its_path(kind: str, tmp_path: Path) -> None:
    folder_with(tmp_path, kind=kind)
    assert type(AutoTokenizer.from_pretrained(tmp_path / "tokenizer.json")) is FAST[kind]


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"settings": {"tokenizer_class": "RobertaTokenizer"}}, "has tokenizer_class 'RobertaTokenizer'; implemented"),
        ({"config": {"model_type": "roberta"}}, "has model_type 'roberta'; implemented are 'bert', 'gpt2'"),
        ({"config": {}}, "config.json has no model_type and no architectures"),
    ],
)
def test_an_unknown_name_leaves_the_tokenizer_json(
    files: dict[str, Any], words: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder_with(tmp_path, kind="gpt2", **files)
    assert type(AutoTokenizer.from_pretrained(tmp_path)) is GPT2TokenizerFast
    assert words in caplog.text
    assert "tokenizer.json is read as it is, by GPT2TokenizerFast" in caplog.text
    caplog.clear()
    (tmp_path / "tokenizer.json").unlink()
    with pytest.raises(ValueError, match=re.escape(words)):
        AutoTokenizer.from_pretrained(tmp_path)
    assert caplog.text == ""


def test_the_caller_may_decide(tmp_path: Path) -> None:
    folder_with(tmp_path, backend=False)
    for named in ({"tokenizer_type": "bert"}, {"config": BertConfig()}, {"config": transformers.BertConfig()}):
        assert type(AutoTokenizer.from_pretrained(tmp_path, **named)) is BertTokenizerFast
    with pytest.raises(TypeError, match="both decide"):
        AutoTokenizer.from_pretrained(tmp_path, config=BertConfig(), tokenizer_type="bert")
    with pytest.raises(TypeError, match="config is of type dict; expected a configuration"):
        AutoTokenizer.from_pretrained(tmp_path, config={"model_type": "bert"})
    with pytest.raises(ValueError, match=r"no tokenizer for the model_type 'xlnet'; there are .* 'bert', 'gpt2'"):
        AutoTokenizer.from_pretrained(tmp_path, tokenizer_type="xlnet")


def test_options_reach_the_class(tmp_path: Path) -> None:
    folder_with(tmp_path, config={"model_type": "bert"}, backend=False)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path, do_lower_case=False, model_max_length=7)
    assert (tokenizer.do_lower_case, tokenizer.model_max_length) == (False, 7)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path, use_fast=False, never_split=["Hello"])
    assert tokenizer.tokenize("Hello world") == ["Hello", "world"]
    with pytest.raises(TypeError, match=r"do_lowercase.*did you mean 'do_lower_case'"):
        AutoTokenizer.from_pretrained(tmp_path, do_lowercase=False)
    with pytest.raises(TypeError, match="has no argument 'bogus_keyword'"):
        AutoTokenizer.from_pretrained(tmp_path, bogus_keyword=1)
    with pytest.raises(TypeError, match="use_fast is 1; expected True or False"):
        AutoTokenizer.from_pretrained(tmp_path, use_fast=1)  # type: ignore[arg-type]


# --------------------------------------------------------------------------------------------------------------------
# Errors


def test_vocabulary_files_alone_decide_nothing(tmp_path: Path) -> None:
    folder_with(tmp_path, backend=False)
    with pytest.raises(ValueError, match=r"holds neither a tokenizer_config.json .* nor a config.json.*tokenizer_type"):
        AutoTokenizer.from_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"vocab.txt is a single file.*BertTokenizer.from_pretrained"):
        AutoTokenizer.from_pretrained(tmp_path / "vocab.txt")


def test_places_without_a_tokenizer(tmp_path: Path) -> None:
    with pytest.raises(
        FileNotFoundError, match=r"no tokenizer in .*looked for tokenizer.json, vocab.txt.*holds nothing"
    ):
        AutoTokenizer.from_pretrained(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(FileNotFoundError, match="no tokenizer in"):
        AutoTokenizer.from_pretrained(tmp_path)
    with pytest.raises(FileNotFoundError, match="no such file or folder"):
        AutoTokenizer.from_pretrained(tmp_path / "gone")
    with pytest.raises(FileNotFoundError, match="was not found"):
        AutoTokenizer.from_pretrained("someone/bert", cache_dir=tmp_path, local_files_only=True)


def test_a_name_in_the_cache(tmp_path: Path) -> None:
    snapshot = tmp_path / "models--someone--bert" / "snapshots" / "0123abc"
    snapshot.parent.mkdir(parents=True)
    folder_with(snapshot, config={"model_type": "bert"})
    tokenizer = AutoTokenizer.from_pretrained("someone/bert", cache_dir=tmp_path, local_files_only=True)
    assert (type(tokenizer), tokenizer.name_or_path) == (BertTokenizerFast, "someone/bert")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", "is not a tokenizer.json (Expecting property name"),
        ("[]", "is not a tokenizer.json (it has no 'model')"),
        ("{}", "is not a tokenizer.json (it has no 'model')"),
        ('{"model": {"type": "Unigram"}, "pre_tokenizer": {"type": "Metaspace"}}', "its model has no 'vocab'"),
        ('{"model": {"type": "BPE"}, "pre_tokenizer": null}', "its model has no 'vocab'"),
    ],
)
def test_a_tokenizer_json_that_is_none(content: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(ValueError, match=re.escape(words)) as caught:
        AutoTokenizer.from_pretrained(tmp_path)
    assert str(tmp_path / "tokenizer.json") in str(caught.value)


@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json"])
def test_broken_settings_are_errors(name: str, tmp_path: Path) -> None:
    folder_with(tmp_path)
    (tmp_path / name).write_text("{")
    with pytest.raises(ValueError, match=f"{name} is not valid JSON"):
        AutoTokenizer.from_pretrained(tmp_path)
    (tmp_path / name).write_text('{"tokenizer_class": 3}')
    with pytest.raises(ValueError, match=f"{name} has tokenizer_class 3; expected the name of a class"):
        AutoTokenizer.from_pretrained(tmp_path)


def test_it_has_no_instances() -> None:
    with pytest.raises(TypeError, match=r"AutoTokenizer chooses a class .*AutoTokenizer\.from_pretrained"):
        AutoTokenizer()
    assert minitf.AutoTokenizer is AutoTokenizer


# --------------------------------------------------------------------------------------------------------------------
# Classes of one's own


class OwnConfig(BertConfig):
    model_type = "own"


class OwnTokenizer(BertTokenizer):
    pass


class OwnTokenizerFast(BertTokenizerFast):
    pass


def test_a_tokenizer_of_ones_own(tmp_path: Path) -> None:
    folder_with(tmp_path, config={"model_type": "own"}, backend=False)
    with pytest.raises(ValueError, match=r"'own'; implemented .*AutoTokenizer\.register"):
        AutoTokenizer.from_pretrained(tmp_path)
    AutoTokenizer.register(OwnConfig, fast_tokenizer_class=OwnTokenizerFast)
    assert type(AutoTokenizer.from_pretrained(tmp_path)) is OwnTokenizerFast
    assert type(AutoTokenizer.from_pretrained(tmp_path, config=OwnConfig())) is OwnTokenizerFast
    with pytest.raises(ValueError, match="use_fast=False: OwnTokenizerFast has no form in plain Python"):
        AutoTokenizer.from_pretrained(tmp_path, use_fast=False)
    with pytest.raises(ValueError, match="has a tokenizer already: pass exist_ok=True"):
        AutoTokenizer.register(OwnConfig, OwnTokenizer)
    AutoTokenizer.register(OwnConfig, OwnTokenizer, OwnTokenizerFast, exist_ok=True)
    assert type(AutoTokenizer.from_pretrained(tmp_path, use_fast=False)) is OwnTokenizer
    (tmp_path / "config.json").unlink()
    AutoTokenizer.from_pretrained(tmp_path, tokenizer_type="own").save_pretrained(tmp_path)
    assert json.loads((tmp_path / "tokenizer_config.json").read_text())["tokenizer_class"] == "OwnTokenizer"
    assert type(AutoTokenizer.from_pretrained(tmp_path)) is OwnTokenizerFast


def test_replacing_a_tokenizer_of_the_library(tmp_path: Path) -> None:
    folder_with(tmp_path, config={"model_type": "bert"})
    with pytest.raises(ValueError, match="'bert' has a tokenizer already"):
        AutoTokenizer.register(BertConfig, OwnTokenizer)
    AutoTokenizer.register(BertConfig, OwnTokenizer, OwnTokenizerFast, exist_ok=True)
    assert type(AutoTokenizer.from_pretrained(tmp_path)) is OwnTokenizerFast


def test_what_cannot_be_registered() -> None:
    register: Any = AutoTokenizer.register
    for arguments, error, words in (
        ((OwnConfig,), ValueError, "no tokenizer class: give"),
        ((dict, OwnTokenizer), ValueError, "has model_type None; expected a configuration class"),
        ((OwnConfig, OwnTokenizerFast), TypeError, "whose is_fast is True: give it as fast_tokenizer_class"),
        ((OwnConfig, None, OwnTokenizer), TypeError, "whose is_fast is False: give it as slow_tokenizer_class"),
        ((OwnConfig, dict), TypeError, "slow_tokenizer_class is <class 'dict'>; expected a subclass"),
    ):
        with pytest.raises(error, match=re.escape(words)):
            register(*arguments)
    with pytest.raises(TypeError, match=r"register\(\) has no argument 'bogus_keyword'"):
        register(OwnConfig, OwnTokenizer, bogus_keyword=1)
    assert auto.REGISTERED == {}
