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
from tests.parity.bert_pairs import CLASSES, TINY

SETTINGS: list[dict[str, Any]] = [
    {},
    {"is_decoder": True, "add_cross_attention": True},
    {"num_labels": 2, "tie_word_embeddings": False},
]


def both(class_name: str, **settings: Any) -> tuple[Any, Any]:
    with torch.device("meta"):
        return (
            getattr(minitf, class_name)(minitf.BertConfig(**{**TINY, **settings})),
            getattr(transformers, class_name)(transformers.BertConfig(**{**TINY, **settings})),
        )


@pytest.mark.parametrize("class_name", CLASSES)
@pytest.mark.parametrize("settings", SETTINGS, ids=["encoder", "cross-attention", "untied"])
def test_keys_shapes_order_and_module_paths(class_name: str, settings: dict[str, Any]) -> None:
    ours, theirs = both(class_name, **settings)
    assert [(k, v.shape) for k, v in ours.state_dict().items()] == [
        (k, v.shape) for k, v in theirs.state_dict().items()
    ]
    assert [name for name, _ in ours.named_modules()] == [name for name, _ in theirs.named_modules()]
    kinds = [(type(a).__name__, type(b).__name__) for a, b in zip(ours.modules(), theirs.modules(), strict=True)]
    # activations have shorter names here; every other node of the tree has transformers' class name
    assert {a for a, b in kinds if a != b} <= {"GELU"}
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
    from tests.parity.bert_pairs import inputs_for, pair

    ours, theirs = pair(class_name)
    inputs = inputs_for(class_name)
    mine, other = ours(**inputs), theirs(**inputs)
    assert type(mine).__name__ == type(other).__name__
    assert mine.keys() == list(other.keys())
    plain, classic = ours(**inputs, return_dict=False), theirs(**inputs, return_dict=False)
    assert isinstance(plain, tuple)
    assert len(plain) == len(classic)
    assert all(torch.equal(a, b) for a, b in zip(plain, classic, strict=True))


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
