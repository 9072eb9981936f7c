"""The contract: class by class the same tree as transformers - keys, shapes, order, module paths, output fields."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
import transformers
import transformers.modeling_outputs
import transformers.models.bert.modeling_bert
import transformers.models.gpt2.modeling_gpt2

import minitf
import minitf.outputs
from tests.parity import bert_pairs, gpt2_pairs

CLASSES = (*bert_pairs.CLASSES, *gpt2_pairs.CLASSES)
SETTINGS: dict[str, dict[str, Any]] = {
    "default": {},
    "cross-attention": {"is_decoder": True, "add_cross_attention": True},
    "untied": {"num_labels": 2, "tie_word_embeddings": False},
}
FURTHER_OF_GPT2: dict[str, dict[str, Any]] = {
    "five layers, another width inside": {"n_layer": 5, "n_inner": 24},
    "four times the width inside": {"n_inner": None},
    "five labels": {"num_labels": 5},
    "a summary without projection": {"summary_use_proj": False},
    "a summary of the hidden size": {"summary_proj_to_labels": False, "summary_activation": "tanh"},
    "a summary without dropout": {"summary_first_dropout": 0.0},
}
CASES = [(name, label, settings) for name in CLASSES for label, settings in SETTINGS.items()]
CASES += [(name, label, settings) for name in gpt2_pairs.CLASSES for label, settings in FURTHER_OF_GPT2.items()]


def both(class_name: str, **settings: Any) -> tuple[Any, Any]:
    family = "GPT2" if class_name in gpt2_pairs.CLASSES else "Bert"
    if family == "GPT2":
        settings.pop("is_decoder", None)  # it always is one
    settings = {**(gpt2_pairs.TINY if family == "GPT2" else bert_pairs.TINY), **settings}
    with torch.device("meta"):
        return (
            getattr(minitf, class_name)(getattr(minitf, f"{family}Config")(**settings)),
            getattr(transformers, class_name)(getattr(transformers, f"{family}Config")(**settings)),
        )


@pytest.mark.parametrize(
    ("class_name", "label", "settings"), CASES, ids=[f"{name}, {label}" for name, label, _ in CASES]
)
def test_keys_shapes_order_and_module_paths(class_name: str, label: str, settings: dict[str, Any]) -> None:
    ours, theirs = both(class_name, **settings)
    assert [(k, v.shape) for k, v in ours.state_dict().items()] == [
        (k, v.shape) for k, v in theirs.state_dict().items()
    ]
    assert [name for name, _ in ours.named_modules()] == [name for name, _ in theirs.named_modules()]
    kinds = [(type(a).__name__, type(b).__name__) for a, b in zip(ours.modules(), theirs.modules(), strict=True)]
    # activations have shorter names here; every other node of the tree has transformers' class name
    assert {(a, b) for a, b in kinds if a != b} <= {("GELU", "GELUActivation"), ("NewGELU", "NewGELUActivation")}
    assert [n for n, _ in ours.named_buffers()] == []  # positions are computed, not stored
    assert ours.base_model_prefix == theirs.base_model_prefix
    assert type(ours.base_model).__name__ == type(theirs.base_model).__name__


@pytest.mark.parametrize("class_name", CLASSES)
def test_ties_are_the_oracles(class_name: str) -> None:
    ours, theirs = both(class_name)
    assert ours.ties() == (theirs.all_tied_weights_keys or {})


def output_classes() -> list[str]:
    return [name for name in minitf.outputs.__all__ if name != "ModelOutput"]


@pytest.mark.parametrize("name", output_classes())
def test_output_fields_and_their_order(name: str) -> None:
    homes = (
        transformers.modeling_outputs,
        transformers.models.bert.modeling_bert,
        transformers.models.gpt2.modeling_gpt2,
    )
    theirs = next(getattr(home, name) for home in homes if hasattr(home, name))
    ours = getattr(minitf.outputs, name)
    assert [f.name for f in dataclasses.fields(ours)] == [f.name for f in dataclasses.fields(theirs)]


@pytest.mark.parametrize("class_name", CLASSES)
def test_each_class_returns_the_oracles_output_class(class_name: str) -> None:
    pairs: Any = gpt2_pairs if class_name in gpt2_pairs.CLASSES else bert_pairs
    ours, theirs = pairs.pair(class_name)
    inputs = pairs.inputs_for(class_name)
    given = gpt2_pairs.for_oracle(inputs)
    for flags in ({}, {"output_hidden_states": True, "output_attentions": True}):
        mine, other = ours(**inputs, **flags), theirs(**given, **flags)
        assert type(mine).__name__ == type(other).__name__
        # 5.x has () for the attentions to an encoder that it was not given; 4.x and ours leave such a field out
        assert mine.keys() == [k for k, value in other.items() if not (isinstance(value, tuple) and not value)]
        plain, classic = ours(**inputs, **flags, return_dict=False), theirs(**given, **flags, return_dict=False)
        classic = [value for value in classic if not (isinstance(value, tuple) and not value)]
        assert isinstance(plain, tuple)
        assert [structure(value) for value in plain] == [structure(value) for value in classic]
        tensors = [(a, b) for a, b in zip(plain, classic, strict=True) if torch.is_tensor(a)]
        assert all(torch.equal(a, b) for a, b in tensors)


def structure(value: Any) -> Any:
    """Shapes of a nested output; a cache, which 5.x reads out with a third entry, as keys and values of its layers."""
    if torch.is_tensor(value):
        return list(value.shape)
    if isinstance(value, tuple):
        return [structure(entry) for entry in value]
    return [[structure(tensor) for tensor in list(layer)[:2]] for layer in value]


def test_bert_base_has_the_published_sizes() -> None:
    with torch.device("meta"):
        model = minitf.BertModel(minitf.BertConfig())
    assert model.num_parameters() == 109_482_240
    kinds = [type(module).__name__ for module in model.modules()]
    assert kinds.count("Dropout") == 37
    assert kinds.count("LayerNorm") == 25
    assert (
        sum(name.rpartition(".")[2] == "dense" for name, _ in model.named_modules()) == 37
    )  # three a layer, the pooler's
    assert kinds.count("Linear") == 73
    assert [name for name, _ in model.named_children()] == ["embeddings", "encoder", "pooler"]
    attention = model.encoder.layer[0].attention.self
    assert (attention.num_attention_heads, attention.attention_head_size, attention.all_head_size) == (12, 64, 768)
    assert tuple(model.get_input_embeddings().weight.shape) == (30522, 768)
    assert model.get_input_embeddings().padding_idx == 0


def test_forward_of_the_trunk_has_the_thirteen_classic_arguments_in_order() -> None:
    import inspect

    names = list(inspect.signature(minitf.BertModel.forward).parameters)[1:]
    assert names == [
        "input_ids", "attention_mask", "token_type_ids", "position_ids", "head_mask", "inputs_embeds",
        "encoder_hidden_states", "encoder_attention_mask", "past_key_values", "use_cache", "output_attentions",
        "output_hidden_states", "return_dict",
    ]  # fmt: skip


def test_gpt2_small_has_the_published_sizes() -> None:
    with torch.device("meta"):
        model = minitf.GPT2LMHeadModel(minitf.GPT2Config())
    assert model.num_parameters() == 124_439_808
    assert sum(value.numel() for value in model.state_dict().values()) == 124_439_808 + 50257 * 768  # lm_head: a name
    assert model.transformer.num_parameters() == 124_439_808
    assert [name for name, _ in model.named_children()] == ["transformer", "lm_head"]
    assert [name for name, _ in model.transformer.named_children()] == ["wte", "wpe", "drop", "h", "ln_f"]
    assert len(model.transformer.h) == 12
    kinds = [type(module).__name__ for module in model.modules()]
    assert kinds.count("Conv1D") == 48  # c_attn, c_proj, c_fc, c_proj of every layer
    assert kinds.count("LayerNorm") == 25
    assert kinds.count("Dropout") == 37
    assert kinds.count("Linear") == 1
    shapes = {name: tuple(value.shape) for name, value in model.transformer.h[0].state_dict().items()}
    assert shapes["attn.c_attn.weight"] == (768, 2304)
    assert shapes["attn.c_proj.weight"] == (768, 768)
    assert shapes["mlp.c_fc.weight"] == (768, 3072)
    assert shapes["mlp.c_proj.weight"] == (3072, 768)
    assert tuple(model.transformer.wpe.weight.shape) == (1024, 768)
    assert model.lm_head.weight is model.transformer.wte.weight
    attention = model.transformer.h[0].attn
    assert (attention.num_heads, attention.head_dim, attention.split_size) == (12, 64, 768)


def test_gpt2_forward_has_the_classic_arguments_in_order() -> None:
    """head_mask, which 5.x dropped and 4.x had sixth, can only be given by name: by position it would be misread."""
    import inspect

    for class_name in gpt2_pairs.CLASSES:
        mine = list(inspect.signature(getattr(minitf, class_name).forward).parameters.values())[1:]
        other = list(inspect.signature(getattr(transformers, class_name).forward).parameters)[1:-1]
        assert [p.name for p in mine if p.kind is p.POSITIONAL_OR_KEYWORD] == other[: 4 + ("past_key_values" in other)]
        names = [p.name for p in mine]
        controls = {"head_mask", "output_attentions", "output_hidden_states", "return_dict"}
        assert [name for name in names if name not in controls] == other
