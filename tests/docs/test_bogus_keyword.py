"""Nothing swallows a keyword: every public function, constructor and method is called with one that does not exist.

Python refuses it before the body runs, unless a signature ends in `**settings`. Those are listed here one by one,
each with a call that would succeed without the bogus keyword, so that a new one cannot slip in unchecked.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

import pytest
import torch
from torch import nn

import minitf
import weights_tools
from minitf.config import PretrainedConfig
from minitf.memory import checkpointed
from minitf.pretrained import PreTrainedModel

BOGUS = "bogus_keyword"
SIZES: dict[str, int] = {
    "vocab_size": 11,
    "hidden_size": 4,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 4,
    "max_position_embeddings": 8,
}


def modules() -> Iterator[ModuleType]:
    for package in (minitf, weights_tools):
        yield package
        for info in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
            if not info.name.endswith("__main__"):  # importing it runs the program
                yield importlib.import_module(info.name)


def public_objects() -> dict[str, Any]:
    """Dotted name -> function or class: `__all__`, and whatever else without an underscore a module defines."""
    found: dict[str, Any] = {}
    for module in modules():
        own = [name for name, value in vars(module).items() if getattr(value, "__module__", None) == module.__name__]
        for name in {*getattr(module, "__all__", ()), *own}:
            value = getattr(module, name)
            if not name.startswith("_") and (inspect.isclass(value) or inspect.isfunction(value)):
                found[f"{value.__module__}.{value.__qualname__}"] = value
    return found


def public_callables() -> dict[str, Callable[..., Any]]:
    """The functions, the classes (their constructors) and the public methods of the classes."""
    found: dict[str, Callable[..., Any]] = {}
    for path, value in public_objects().items():
        if not inspect.isclass(value):
            found[path] = value
            continue
        if not getattr(value, "_is_protocol", False) and not issubclass(value, type) and not inspect.isabstract(value):
            found[path] = value  # protocols and abstract classes only describe, and a metaclass is called by `class`
        for name, member in vars(value).items():
            if isinstance(member, (staticmethod, classmethod)):
                member = getattr(value, name)
            if isinstance(inspect.unwrap(getattr(member, "__func__", member)), FunctionType) and not name.startswith(
                "_"
            ):
                found[f"{path}.{name}"] = member
    return found


def swallows(function: Callable[..., Any]) -> bool:
    """Whether the signature ends in `**anything`; of a class, its constructor's."""
    target: Any = function
    if inspect.isclass(function):
        target = function.__init__
        if getattr(target, "__module__", "").partition(".")[0] not in ("minitf", "weights_tools"):
            return False  # torch's or Python's own, which refuse keywords in their bodies
    parameters = inspect.signature(target).parameters.values()
    return any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters)


CALLABLES = public_callables()
SWALLOWING = {name for name, function in CALLABLES.items() if swallows(function)}


def test_the_walk_finds_what_it_should() -> None:
    assert len(CALLABLES) > 250
    for name in (
        "minitf.models.bert.BertLayer",
        "minitf.models.bert.BertModel.forward",
        "minitf.models.bert.BertForQuestionAnswering.forward",
        "minitf.pretrained.PreTrainedModel.from_pretrained",
        "minitf.config.BertConfig",
        "minitf.attention.eager",
        "minitf.cache.KVCache.update",
        "minitf.losses.masked_language_model_loss",
        "minitf.cli.main",
        "weights_tools.files.open_checkpoint",
    ):
        assert name in CALLABLES


@pytest.mark.parametrize("name", sorted(set(CALLABLES) - SWALLOWING))
def test_bogus_keyword_is_a_type_error(name: str) -> None:
    with pytest.raises(TypeError, match=rf"{BOGUS}|takes no (keyword )?arguments|unexpected keyword"):
        CALLABLES[name](**{BOGUS: 1})


# --------------------------------------------------------------------------------------------------------------------
# Signatures that end in **settings


def folder_of(model_class: type[PreTrainedModel], folder: Path) -> Path:
    model(model_class).save_pretrained(folder)
    return folder


def model(model_class: type[PreTrainedModel]) -> Any:
    return model_class(model_class.config_class(**sizes_of(model_class.config_class)))


def sizes_of(config_class: type[PretrainedConfig]) -> dict[str, int]:
    """The small sizes under this class's names."""
    aliases = {**{name: name for name in config_class._fields()}, **config_class._aliases()}
    return {name: size for name, size in SIZES.items() if name in aliases}


CONFIGS = [v for v in public_objects().values() if inspect.isclass(v) and issubclass(v, PretrainedConfig)]
# Classes with a forward of their own: bases such as BertPreTrainedModel only hold what the others share.
MODELS = [
    v
    for v in public_objects().values()
    if inspect.isclass(v) and issubclass(v, PreTrainedModel) and v.forward is not nn.Module.forward
]


GENERATING = (
    "generate", "greedy_search", "sample", "beam_search", "beam_sample", "group_beam_search", "constrained_beam_search",
    "contrastive_search", "assisted_decoding",
)  # fmt: skip


def test_every_swallowing_signature_is_known() -> None:
    known = {
        "minitf.config.PretrainedConfig.from_dict",
        "minitf.config.PretrainedConfig.from_json_file",
        "minitf.config.PretrainedConfig.from_pretrained",
        *(f"minitf.generation.mixin.GenerationMixin.{name}" for name in GENERATING),
        "minitf.generation.config.GenerationConfig",
        "minitf.generation.config.GenerationConfig.from_dict",
        "minitf.generation.config.GenerationConfig.from_pretrained",
        "minitf.generation.config.GenerationConfig.update",
        "minitf.memory.checkpointed",
        "minitf.models.auto.AutoClass.from_config",  # these five: tests/auto/test_auto.py calls them
        "minitf.models.auto.AutoClass.from_pretrained",
        "minitf.models.auto.AutoConfig.for_model",
        "minitf.models.auto.AutoConfig.from_dict",
        "minitf.models.auto.AutoConfig.from_pretrained",
        "minitf.models.gpt2.GPT2DoubleHeadsModel.next_words",
        "minitf.pretrained.PreTrainedModel.from_pretrained",
        "minitf.tokenization.auto.AutoTokenizer.from_pretrained",  # tests/auto/test_auto_tokenizer.py
    }
    assert known == SWALLOWING


@pytest.mark.parametrize("config_class", CONFIGS, ids=lambda c: c.__name__)
def test_configurations(config_class: type[PretrainedConfig], tmp_path: Path) -> None:
    config_class(**sizes_of(config_class)).save_pretrained(tmp_path)
    calls: list[Callable[..., Any]] = [
        config_class,
        lambda **more: config_class.from_dict({}, **more),
        lambda **more: config_class.from_json_file(tmp_path / "config.json", **more),
        lambda **more: config_class.from_pretrained(tmp_path, **more),
    ]
    for call in calls:
        call()
        with pytest.raises(TypeError, match=f"{config_class.__name__} has no setting '{BOGUS}'"):
            call(**{BOGUS: 1})
    if "hidden_size" in config_class._fields():
        with pytest.raises(TypeError, match="has no setting 'hidden_sizes'; did you mean 'hidden_size'"):
            config_class.from_pretrained(tmp_path, hidden_sizes=4)


@pytest.mark.parametrize("model_class", MODELS, ids=lambda c: c.__name__)
def test_models(model_class: type[PreTrainedModel], tmp_path: Path) -> None:
    folder = folder_of(model_class, tmp_path)
    loaded = model_class.from_pretrained(folder)
    with pytest.raises(TypeError, match=f"{model_class.__name__}.from_pretrained has no setting '{BOGUS}'"):
        model_class.from_pretrained(folder, **{BOGUS: 1})
    with pytest.raises(TypeError, match="has no setting 'output_attention'; did you mean 'output_attentions'"):
        model_class.from_pretrained(folder, output_attention=True)
    with pytest.raises(TypeError, match=BOGUS):
        loaded(torch.ones(1, 2, dtype=torch.long), **{BOGUS: 1})
    with pytest.raises(TypeError, match="attention_masks"):
        loaded(torch.ones(1, 2, dtype=torch.long), attention_masks=torch.ones(1, 2))


@pytest.mark.parametrize("name", GENERATING)
def test_generation(name: str) -> None:
    decoder = model(minitf.GPT2LMHeadModel).eval()
    with pytest.raises(TypeError, match=rf"generate\(\) has no setting '{BOGUS}'"):
        getattr(decoder, name)(torch.ones(1, 2, dtype=torch.long), **{BOGUS: 1})
    with pytest.raises(TypeError, match="has no setting 'max_new_token'; did you mean 'max_new_tokens'"):
        getattr(decoder, name)(torch.ones(1, 2, dtype=torch.long), max_new_token=1)


def test_the_forward_of_two_heads_as_generate_calls_it() -> None:
    with pytest.raises(TypeError, match=BOGUS):
        model(minitf.GPT2DoubleHeadsModel).eval().next_words(torch.ones(1, 2, dtype=torch.long), **{BOGUS: 1})


def test_generation_settings(tmp_path: Path) -> None:
    config = minitf.GenerationConfig(top_k=3)
    config.save_pretrained(tmp_path)
    calls: list[Callable[..., Any]] = [
        minitf.GenerationConfig,
        config.update,
        lambda **more: minitf.GenerationConfig.from_dict({}, **more),
        lambda **more: minitf.GenerationConfig.from_pretrained(tmp_path, **more),
    ]
    for call in calls:
        call()
        with pytest.raises(TypeError, match=f"has no setting '{BOGUS}'"):
            call(**{BOGUS: 1})


def test_checkpointed_hands_keywords_on_to_a_function_that_refuses_them() -> None:
    assert checkpointed(torch.relu, torch.ones(1)).item() == 1
    with pytest.raises(TypeError, match=BOGUS):
        checkpointed(lambda x: x, torch.ones(1), **{BOGUS: 1})


def test_the_check_would_notice() -> None:
    def careless(x: int = 0, **kwargs: Any) -> int:
        return x

    assert swallows(careless)
    assert careless(**{BOGUS: 1}) == 0

    class Careless:
        def __init__(self, **kwargs: Any) -> None:
            self.kwargs = kwargs

    Careless.__init__.__module__ = "minitf.other"
    assert swallows(Careless)
    assert not swallows(minitf.BertModel)
    assert not swallows(ValueError)
