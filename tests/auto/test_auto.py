"""`AutoConfig` and `AutoModel...`: the class that is chosen is that of transformers, with the same weights."""

from __future__ import annotations

import json
import logging
import re
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

import minitf
from minitf import AutoConfig, AutoModel, BertConfig, BertModel, GPT2Config, PreTrainedModel
from minitf.architectures import ARCHITECTURES
from minitf.models import auto
from minitf.models.auto import AutoClass
from tests.support import minilm_folder, randomise_, shared_data

BERT: dict[str, int] = {
    "vocab_size": 61,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 48,
    "max_position_embeddings": 16,
}
GPT2: dict[str, int] = {
    "vocab_size": 61,
    "n_embd": 32,
    "n_layer": 2,
    "n_head": 2,
    "n_positions": 16,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
SIZES: dict[str, dict[str, int]] = {"bert": BERT, "gpt2": GPT2}
AUTO_CLASSES = AutoClass.__subclasses__()
PAIRS = [(auto_class, model_type) for auto_class in AUTO_CLASSES for model_type in ARCHITECTURES]
CHOOSABLE = [(a, t) for a, t in PAIRS if a.__name__ in ARCHITECTURES[t].classes]
LACKING = [(a, t) for a, t in PAIRS if a.__name__ not in ARCHITECTURES[t].classes]


def name_of(value: Any) -> str | None:
    return getattr(value, "__name__", None)


@pytest.fixture(autouse=True)
def clean_registries(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test registers is gone after it."""
    monkeypatch.setattr(auto, "REGISTERED_CONFIGS", {})
    for auto_class in AUTO_CLASSES:
        monkeypatch.setattr(auto_class, "registered", {})


def config_of(model_type: str, **more: Any) -> Any:
    return AutoConfig.for_model(model_type, **SIZES[model_type], **more)


def saved(folder: Path, model_type: str, auto_class: type[AutoClass] = AutoModel) -> Path:
    """A checkpoint of the class that `auto_class` chooses, all parameters random."""
    randomise_(auto_class.from_config(config_of(model_type))).save_pretrained(folder)
    return folder


def write(folder: Path, values: dict[str, Any]) -> Path:
    (folder / "config.json").write_text(json.dumps(values))
    return folder


# --------------------------------------------------------------------------------------------------------------------
# The class that is chosen


def test_every_class_of_the_task_list_is_there() -> None:
    tasks = [
        "AutoModel",
        *("AutoModelFor" + task for task in ("PreTraining", "MaskedLM", "CausalLM", "NextSentencePrediction")),
        *("AutoModelFor" + task for task in ("SequenceClassification", "MultipleChoice", "TokenClassification")),
        "AutoModelForQuestionAnswering",
    ]
    assert [auto_class.__name__ for auto_class in AUTO_CLASSES] == tasks
    assert all(getattr(minitf, name) is getattr(auto, name) for name in (*tasks, "AutoConfig"))


def test_every_model_class_of_the_library_stands_in_the_table() -> None:
    """A class that no row names could not be found by `architectures`."""
    named = {name for row in ARCHITECTURES.values() for name in (*row.classes.values(), *row.others)}
    classes = {
        name
        for name in minitf.__all__
        if isinstance(getattr(minitf, name), type) and issubclass(getattr(minitf, name), PreTrainedModel)
    }
    assert named == {name for name in classes if not name.endswith("PreTrainedModel")}


@pytest.mark.parametrize(("auto_class", "model_type"), PAIRS, ids=name_of)
def test_the_table_is_that_of_transformers(auto_class: type[AutoClass], model_type: str) -> None:
    oracle = getattr(transformers, auto_class.__name__)
    try:
        expected = type(oracle.from_config(transformers.AutoConfig.for_model(model_type, **SIZES[model_type]))).__name__
    except ValueError:
        expected = None
    assert ARCHITECTURES[model_type].classes.get(auto_class.__name__) == expected


@pytest.mark.parametrize(("auto_class", "model_type"), CHOOSABLE, ids=name_of)
def test_a_checkpoint_gives_the_class_and_weights_of_transformers(
    auto_class: type[AutoClass], model_type: str, tmp_path: Path
) -> None:
    folder = saved(tmp_path, model_type, auto_class)
    ours = auto_class.from_pretrained(folder)
    theirs = getattr(transformers, auto_class.__name__).from_pretrained(folder)
    assert type(ours).__name__ == type(theirs).__name__
    assert not ours.training
    assert ours.load_report is not None
    assert ours.load_report.ok
    expected = theirs.state_dict()
    assert list(ours.state_dict()) == list(expected)
    assert all(torch.equal(value, expected[name]) for name, value in ours.state_dict().items())


@pytest.mark.parametrize("dtype", [None, "float64", torch.bfloat16], ids=str)
@pytest.mark.parametrize(("auto_class", "model_type"), CHOOSABLE, ids=name_of)
def test_fresh_weights_are_those_of_transformers(auto_class: type[AutoClass], model_type: str, dtype: Any) -> None:
    named = {} if dtype is None else {"dtype": dtype}
    torch.manual_seed(5)
    ours = auto_class.from_config(config_of(model_type), **named)
    torch.manual_seed(5)
    config = transformers.AutoConfig.for_model(model_type, **SIZES[model_type])
    theirs = getattr(transformers, auto_class.__name__).from_config(config, **named)
    assert type(ours).__name__ == type(theirs).__name__
    assert ours.dtype == theirs.dtype
    expected = theirs.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in ours.state_dict().items())
    assert torch.get_default_dtype() is torch.float32


@pytest.mark.parametrize(("auto_class", "model_type"), LACKING, ids=name_of)
def test_a_head_that_an_architecture_lacks_names_those_that_it_has(
    auto_class: type[AutoClass], model_type: str, tmp_path: Path
) -> None:
    saved(tmp_path, model_type)
    for call in (
        lambda: auto_class.from_config(config_of(model_type)),
        lambda: auto_class.from_pretrained(tmp_path),
    ):
        with pytest.raises(ValueError, match=f"{auto_class.__name__}: the architecture '{model_type}' has") as caught:
            call()
        for name, chosen in ARCHITECTURES[model_type].classes.items():
            assert f"{name} ({chosen})" in str(caught.value)


def test_there_is_a_lacking_head_to_test() -> None:
    assert (auto.AutoModelForMaskedLM, "gpt2") in LACKING


def test_a_head_on_a_bare_trunk_is_fresh_and_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    saved(tmp_path, "bert")
    model = minitf.AutoModelForSequenceClassification.from_pretrained(tmp_path, num_labels=5)
    assert model.config.num_labels == 5
    assert "classifier.weight, classifier.bias newly initialised" in caplog.text


def test_real_checkpoints() -> None:
    assert type(AutoModel.from_pretrained(minilm_folder())) is BertModel
    folder = shared_data("checkpoints", "ticket-bert")
    model = minitf.AutoModelForSequenceClassification.from_pretrained(folder)
    assert type(model) is minitf.BertForSequenceClassification
    assert model.config.num_labels == 6
    model = minitf.AutoModelForCausalLM.from_pretrained(shared_data("checkpoints", "capp-gpt2"))
    assert type(model) is minitf.GPT2LMHeadModel


# --------------------------------------------------------------------------------------------------------------------
# What config.json says

GOOGLE = {**BERT, "type_vocab_size": 2, "hidden_act": "gelu", "initializer_range": 0.02}
OPENAI = {**GPT2, "n_ctx": 16, "layer_norm_epsilon": 1e-5, "initializer_range": 0.02}
GPT1 = {**OPENAI, "afn": "gelu", "n_special": 0}


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"model_type": "bert", "architectures": ["GPT2Model"]}, BertConfig),  # model_type goes first
        ({"model_type": "gpt2"}, GPT2Config),
        ({"architectures": ["BertForMaskedLM"]}, BertConfig),
        ({"architectures": ["GPT2DoubleHeadsModel"]}, GPT2Config),
        ({"architectures": ["GPT2LMHeadModel", "GPT2Model"], "model_type": ""}, GPT2Config),
        ({**GOOGLE, "architectures": None}, BertConfig),
        ({**OPENAI, "model_type": None}, GPT2Config),
    ],
)
def test_what_decides(tmp_path: Path, values: dict[str, Any], expected: type) -> None:
    assert type(AutoConfig.from_pretrained(write(tmp_path, values))) is expected
    assert type(AutoConfig.from_pretrained(tmp_path / "config.json")) is expected
    assert type(AutoConfig.from_dict(values)) is expected


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({}, "has no model_type and no architectures, and its keys are not those of one"),
        (GPT1, "its keys are not those of one"),
        ({**GOOGLE, "embedding_size": 8}, "its keys are not those of one"),  # an ELECTRA or ALBERT
        ({**GOOGLE, **OPENAI}, "its keys are not those of one"),
        ({**GOOGLE, "architectures": ["RobertaForMaskedLM"]}, "architectures ['RobertaForMaskedLM']; implemented"),
        ({"architectures": ["BertModel", "GPT2Model"]}, "architectures ['BertModel', 'GPT2Model']; implemented"),
        ({"architectures": ["BertModel", 3]}, "architectures ['BertModel', 3]; implemented"),
        ({"architectures": "Bert"}, "architectures 'Bert'; implemented"),
        ({"model_type": "roberta"}, "model_type 'roberta'; implemented are 'bert', 'gpt2'"),
        ({"model_type": "BERT"}, "model_type 'BERT'; did you mean 'bert'? implemented"),
        ({"model_type": 3}, "model_type 3; implemented"),
        ({"model_type": ["bert"]}, "model_type ['bert']; did you mean 'bert'? implemented"),
        ({"model_type": "own", "auto_map": {"AutoModel": "own.Own"}}, "(auto_map) is never run here"),
    ],
)
def test_what_is_not_implemented_lists_what_is(tmp_path: Path, values: dict[str, Any], words: str) -> None:
    write(tmp_path, values)
    for call in (lambda: AutoConfig.from_pretrained(tmp_path), lambda: AutoModel.from_pretrained(tmp_path)):
        with pytest.raises(ValueError, match=re.escape(words)) as caught:
            call()
        assert str(tmp_path / "config.json") in str(caught.value)
        assert "implemented are 'bert', 'gpt2'. " in str(caught.value)
        assert "AutoModel.register" in str(caught.value)


def test_a_conclusion_from_keys_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The published files of 2018 and 2019: neither model_type nor architectures."""
    folder = saved(tmp_path, "bert")
    expected = AutoModel.from_pretrained(folder).state_dict()
    assert caplog.text == ""
    write(folder, GOOGLE)
    with caplog.at_level(logging.WARNING):
        model = AutoModel.from_pretrained(folder)
    assert type(model) is BertModel
    assert all(torch.equal(value, expected[name]) for name, value in model.state_dict().items())
    assert caplog.text.count("has no model_type: taken for 'bert' because of its keys (hidden_size, ") == 1


def test_the_name_of_the_folder_decides_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "chinese-roberta-gpt2"
    folder.mkdir()
    assert type(AutoConfig.from_pretrained(write(folder, GOOGLE))) is BertConfig


def test_overrides_reach_the_configuration(tmp_path: Path) -> None:
    write(tmp_path, {"model_type": "gpt2", **GPT2})
    assert AutoConfig.from_pretrained(tmp_path, num_hidden_layers=1).n_layer == 1
    assert AutoConfig.from_dict({"model_type": "bert"}, num_labels=3).num_labels == 3
    assert AutoConfig.for_model("bert", hidden_size=24).hidden_size == 24
    with pytest.raises(ValueError, match="the call has model_type 'bertt'; implemented are"):
        AutoConfig.for_model("bertt")
    for nothing in ("", None):
        with pytest.raises(ValueError, match="expected one of 'bert', 'gpt2'"):
            AutoConfig.for_model(nothing)  # type: ignore[arg-type]


# --------------------------------------------------------------------------------------------------------------------
# Places


def test_a_weights_file_with_a_configuration(tmp_path: Path) -> None:
    folder = saved(tmp_path / "a", "bert")
    expected = AutoModel.from_pretrained(folder).state_dict()
    elsewhere = tmp_path / "b"
    elsewhere.mkdir()
    (folder / "config.json").rename(elsewhere / "bert.json")
    weights = folder / "model.safetensors"
    config = AutoConfig.from_pretrained(elsewhere / "bert.json")
    for given in (config, elsewhere / "bert.json", str(elsewhere / "bert.json")):
        model = AutoModel.from_pretrained(weights, config=given)
        assert all(torch.equal(value, expected[name]) for name, value in model.state_dict().items())
    with pytest.raises(FileNotFoundError, match=r"weights file without a config\.json beside it: pass config="):
        AutoModel.from_pretrained(weights)
    with pytest.raises(FileNotFoundError, match=r"holds no config\.json .*looked for config\.json and one of"):
        AutoModel.from_pretrained(folder)
    (elsewhere / "bert.json").rename(folder / "config.json")
    assert type(AutoModel.from_pretrained(weights)) is BertModel


def test_a_name_in_the_cache(tmp_path: Path) -> None:
    snapshot = tmp_path / "models--someone--bert" / "snapshots" / "0123abc"
    snapshot.parent.mkdir(parents=True)
    saved(snapshot, "bert")
    where: dict[str, Any] = {"cache_dir": tmp_path, "local_files_only": True}
    assert type(AutoConfig.from_pretrained("someone/bert", **where)) is BertConfig
    assert type(AutoModel.from_pretrained("someone/bert", **where)) is BertModel
    assert type(AutoModel.from_pretrained(snapshot, config="someone/bert", **where)) is BertModel
    for chooser in (AutoConfig, AutoModel):
        with pytest.raises(FileNotFoundError, match="'someone/gpt' was not found"):
            chooser.from_pretrained("someone/gpt", **where)
    with pytest.raises(FileNotFoundError, match="no such file or folder"):
        AutoModel.from_pretrained(tmp_path / "gone")


# --------------------------------------------------------------------------------------------------------------------
# Strictness


def test_misspelt_keywords(tmp_path: Path) -> None:
    folder = saved(tmp_path, "bert")
    config = config_of("bert")
    calls: list[tuple[Any, str]] = [
        (lambda **more: AutoModel.from_pretrained(folder, **more), "BertModel.from_pretrained has no setting"),
        (lambda **more: AutoModel.from_config(config, **more), r"BertModel\(\) has no argument"),
        (lambda **more: AutoConfig.from_pretrained(folder, **more), "BertConfig has no setting"),
        (lambda **more: AutoConfig.from_dict({"model_type": "bert"}, **more), "BertConfig has no setting"),
        (lambda **more: AutoConfig.for_model("bert", **more), "BertConfig has no setting"),
        (lambda **more: AutoModel.register(BertConfig, BertModel, **more), r"register\(\) has no argument"),
        (lambda **more: AutoModel.model_class(BertConfig, **more), r"model_class\(\) has no argument"),
    ]
    for call, words in calls:
        with pytest.raises(TypeError, match=f"{words} 'bogus_keyword'"):
            call(bogus_keyword=1)
    with pytest.raises(TypeError, match="no setting 'revison'; did you mean 'revision'"):
        AutoModel.from_pretrained(folder, revison="main")
    with pytest.raises(TypeError, match="no argument 'attn_implementaton'; did you mean 'attn_implementation'"):
        AutoModel.from_config(config, attn_implementaton="eager")
    with pytest.raises(TypeError, match="two names of one argument"):
        AutoModel.from_config(config, dtype="float16", torch_dtype="float16")
    with pytest.raises(ValueError, match="dtype = 'int8': expected float32"):
        AutoModel.from_config(config, dtype="int8")


def test_settings_arrive(tmp_path: Path) -> None:
    folder = saved(tmp_path, "bert")
    model, info = AutoModel.from_pretrained(
        folder, dtype="float64", attn_implementation="eager", output_loading_info=True, add_pooling_layer=False
    )
    assert (model.dtype, model.config.attn_implementation, model.pooler) == (torch.float64, "eager", None)
    assert info["missing_keys"] == []
    config = config_of("bert")
    model = AutoModel.from_config(
        config, torch_dtype=torch.float64, attn_implementation="eager", add_pooling_layer=False
    )
    assert (model.dtype, model.config.attn_implementation, model.pooler) == (torch.float64, "eager", None)
    assert (config.dtype, config.attn_implementation) == (None, "sdpa")  # a copy was changed
    assert model.config.dtype == "float64"
    assert model.training
    assert AutoModel.from_config(config_of("bert", dtype="bfloat16")).dtype == torch.bfloat16


def test_a_failed_construction_leaves_the_default_dtype() -> None:
    config = config_of("bert", dtype="float64")
    with pytest.raises(ValueError, match="attn_implementation 'flash' is not registered"):
        AutoModel.from_config(config, attn_implementation="flash")
    assert torch.get_default_dtype() is torch.float32


@pytest.mark.parametrize("chooser", [AutoConfig, *AUTO_CLASSES], ids=name_of)
def test_a_chooser_has_no_instances(chooser: Any) -> None:
    for arguments in ((), (config_of("bert"),)):
        with pytest.raises(
            TypeError, match=rf"{chooser.__name__} chooses a class .*{chooser.__name__}\.from_pretrained"
        ):
            chooser(*arguments)


def test_a_configuration_of_another_library(tmp_path: Path) -> None:
    folder = saved(tmp_path, "bert")
    theirs = transformers.AutoConfig.for_model("bert", **BERT)
    for call in (
        lambda: AutoModel.from_config(theirs),
        lambda: AutoModel.from_pretrained(folder, config=theirs),
    ):
        with pytest.raises(
            TypeError, match=r"transformers.*BertConfig; .*AutoConfig\.from_dict\(config\.to_dict\(\)\)"
        ):
            call()
    assert type(AutoConfig.from_dict(theirs.to_dict())) is BertConfig


# --------------------------------------------------------------------------------------------------------------------
# Classes of one's own


class OwnConfig(BertConfig):
    model_type = "own"


class OwnModel(BertModel):
    config_class = OwnConfig


class MyBertModel(BertModel):
    pass


def test_a_class_of_ones_own(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"knows no model class for OwnConfig .*AutoModel\.register\(OwnConfig"):
        AutoModel.from_config(OwnConfig(**BERT))
    OwnModel(OwnConfig(**BERT)).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="model_type 'own'; implemented are 'bert', 'gpt2'"):
        AutoModel.from_pretrained(tmp_path)
    AutoModel.register(OwnConfig, OwnModel)
    assert type(AutoConfig.from_pretrained(tmp_path)) is OwnConfig
    assert type(AutoConfig.for_model("own", **BERT)) is OwnConfig
    assert type(AutoModel.from_pretrained(tmp_path)) is OwnModel
    assert type(AutoModel.from_config(OwnConfig(**BERT))) is OwnModel
    AutoModel.register(OwnConfig, OwnModel)  # the same again changes nothing
    with pytest.raises(ValueError, match=r"'own' has no such class\. It has AutoModel \(OwnModel\)"):
        minitf.AutoModelForMaskedLM.from_pretrained(tmp_path)
    with pytest.raises(ValueError, match="implemented are 'bert', 'gpt2', 'own'"):
        AutoConfig.for_model("other")


def test_replacing_a_class_of_the_library(tmp_path: Path) -> None:
    saved(tmp_path, "bert")
    with pytest.raises(ValueError, match="AutoModel chooses BertModel for BertConfig already: pass exist_ok=True"):
        AutoModel.register(BertConfig, MyBertModel)
    AutoModel.register(BertConfig, MyBertModel, exist_ok=True)
    assert type(AutoModel.from_pretrained(tmp_path)) is MyBertModel
    assert type(minitf.AutoModelForMaskedLM.from_config(config_of("bert"))) is minitf.BertForMaskedLM
    with pytest.raises(ValueError, match="chooses MyBertModel for BertConfig already"):
        AutoModel.register(BertConfig, BertModel)
    AutoModel.register(BertConfig, BertModel, exist_ok=True)
    assert type(AutoModel.from_pretrained(tmp_path)) is BertModel


def test_what_cannot_be_registered() -> None:
    class NoType(BertConfig):
        model_type = ""

    class SameType(BertConfig):
        pass

    class NoTypeModel(BertModel):
        config_class = NoType

    class SameTypeModel(BertModel):
        config_class = SameType

    register: Any = AutoModel.register
    for arguments, error, words in (
        (
            (OwnConfig, BertModel),
            ValueError,
            "BertModel.config_class is BertConfig, but it is registered for OwnConfig",
        ),
        ((OwnConfig, torch.nn.Linear), TypeError, "expected a subclass of minitf.PreTrainedModel"),
        ((OwnConfig, OwnModel(OwnConfig(**BERT))), TypeError, "expected a subclass of minitf.PreTrainedModel"),
        (("own", OwnModel), TypeError, "config_class is 'own'; expected a subclass of minitf.PretrainedConfig"),
        ((transformers.BertConfig, BertModel), TypeError, "expected a subclass of minitf.PretrainedConfig"),
        ((NoType, NoTypeModel), ValueError, "model_type is '', but NoType.model_type is ''"),
        ((SameType, SameTypeModel), ValueError, "model_type 'bert' belongs to BertConfig: give SameType a model_type"),
    ):
        with pytest.raises(error, match=re.escape(words)):
            register(*arguments)
    with pytest.raises(ValueError, match=r"model_type is 'owm', but OwnConfig\.model_type is 'own'"):
        AutoConfig.register("owm", OwnConfig)
    assert auto.REGISTERED_CONFIGS == {}
    assert AutoModel.registered == {}


def test_replacing_a_configuration_of_the_library() -> None:
    class Longer(BertConfig):
        pass

    with pytest.raises(ValueError, match="belongs to BertConfig"):
        AutoConfig.register("bert", Longer)
    AutoConfig.register("bert", Longer, exist_ok=True)
    assert type(AutoConfig.from_dict({"architectures": ["BertModel"]})) is Longer
    assert type(AutoConfig.for_model("bert")) is Longer
    with pytest.raises(ValueError, match="AutoModel knows no model class for Longer"):
        AutoModel.from_config(Longer(**BERT))
