"""Every dialect against the oracle: transformers' own models, all classes of which the dialect has the weights.

Random weights of transformers -> the dialect's file -> minitf: the same bits under the same names, the same outputs;
and back into transformers.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import nn

import minitf
from tests.support import padded_batch, randomise_
from tests.weights.dialect_forge import BERT, FOREIGN, GPT2, Tensors, weights, written
from weights_tools import tables
from weights_tools.mapping import into_dialect, own_targets, plan

BERT_HEADS = [
    "BertModel", "BertForPreTraining", "BertForMaskedLM", "BertLMHeadModel", "BertForNextSentencePrediction",
    "BertForSequenceClassification", "BertForMultipleChoice", "BertForTokenClassification", "BertForQuestionAnswering",
]  # fmt: skip
GPT2_HEADS = [
    "GPT2Model", "GPT2LMHeadModel", "GPT2DoubleHeadsModel", "GPT2ForSequenceClassification",
    "GPT2ForTokenClassification", "GPT2ForQuestionAnswering",
]  # fmt: skip
MASKED = ["BertModel", "BertForPreTraining", "BertForMaskedLM", "BertLMHeadModel", "BertForNextSentencePrediction"]
CLASSES = {
    "keras-bert": BERT_HEADS,
    "keras-gpt2": ["GPT2Model", "GPT2LMHeadModel", "GPT2DoubleHeadsModel", "GPT2ForSequenceClassification"],
    "google-bert": [*MASKED, "BertForSequenceClassification", "BertForMultipleChoice", "BertForQuestionAnswering"],
    "openai-gpt2": ["GPT2Model", "GPT2LMHeadModel"],
    "transformer-lens-bert": MASKED,
    "transformer-lens-gpt2": ["GPT2Model", "GPT2LMHeadModel"],
    "curated-transformers": ["BertModel"],
    "llms-from-scratch": ["GPT2Model", "GPT2LMHeadModel"],
    "nanogpt-gamma": ["GPT2Model", "GPT2LMHeadModel"],
    "nanogpt": ["GPT2Model", "GPT2LMHeadModel"],
    "sentence-transformers": [*BERT_HEADS, *GPT2_HEADS],
    "hf-wrapped": [*BERT_HEADS, *GPT2_HEADS],
    "hf-legacy": BERT_HEADS,
    "hf": [*BERT_HEADS, *GPT2_HEADS],
}


def test_every_dialect_is_here() -> None:
    assert list(CLASSES) == [dialect.name for dialect in tables.DIALECTS] == list(FOREIGN)


@pytest.fixture(autouse=True)
def one_thread() -> Any:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def oracle(name: str, **settings: Any) -> Any:
    is_bert = name.startswith("Bert")
    sizes: dict[str, Any] = {**(BERT if is_bert else {**GPT2, "pad_token_id": 0}), "num_labels": 2}
    decoder = {"is_decoder": True} if name == "BertLMHeadModel" else {}
    config_class = transformers.BertConfig if is_bert else transformers.GPT2Config
    config = config_class(**sizes, **decoder, attn_implementation="eager")
    return randomise_(getattr(transformers, name)(config, **settings)).eval()


def with_base(tensors: Tensors, name: str) -> Tensors:
    base = "bert." if name == "BertModel" else "transformer." if name == "GPT2Model" else ""
    return {base + key: tensor for key, tensor in tensors.items()}


def outputs(model: nn.Module, name: str) -> tuple[torch.Tensor, ...]:
    batch = padded_batch(length=9)
    if name.startswith("GPT2"):
        batch.pop("token_type_ids")
    if name.endswith(("MultipleChoice", "DoubleHeadsModel")):
        batch = {key: tensor[:, None].repeat(1, 2, 1) for key, tensor in batch.items()}
    with torch.no_grad():
        values = model(**batch, return_dict=True).to_tuple()
    return tuple(value for value in values if isinstance(value, torch.Tensor))


@pytest.mark.parametrize(("dialect", "name"), [(dialect, name) for dialect, names in CLASSES.items() for name in names])
def test_the_oracles_weights_through_each_dialect(dialect: str, name: str, tmp_path: Path) -> None:
    foreign = FOREIGN[dialect]
    theirs = oracle(name, **foreign.settings)
    tensors = weights(theirs)
    # Hugging Face's own dialects keep the names of the bare model, the others have one spelling only.
    full = tensors if dialect.startswith(("hf", "sentence")) else with_base(tensors, name)
    there = into_dialect(full, dialect, num_heads=foreign.num_heads)
    assert sum(tensor.numel() for tensor in there.values()) == sum(tensor.numel() for tensor in tensors.values())

    config_class = minitf.BertConfig if name.startswith("Bert") else minitf.GPT2Config
    config = config_class.from_dict(theirs.config.to_dict())
    forced = {"dialect": dialect} if dialect in ("nanogpt", "hf-wrapped") else {}
    model = getattr(minitf, name).from_pretrained(
        written(there, tmp_path, config), config=config, strict=True, attn_implementation="eager",
        **forced, **foreign.settings,
    )  # fmt: skip
    assert (model.load_report.ok, model.load_report.dialect) == (True, dialect)
    own, state = model.state_dict(), theirs.state_dict()
    assert list(own) == list(state)
    assert all(torch.equal(own[key], state[key]) for key in state)
    expected = outputs(theirs, name)
    assert all(torch.equal(a, b) for a, b in zip(outputs(model, name), expected, strict=True))

    again = oracle(name, **foreign.settings)
    for parameter in again.parameters():
        nn.init.zeros_(parameter)
    again.load_state_dict(model.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(outputs(again, name), expected, strict=True))


@pytest.mark.parametrize("dialect", CLASSES)
def test_without_a_model_to_compare_with(dialect: str) -> None:
    """`own_targets`: Hugging Face's names and shapes of everything in the file are those of the oracle."""
    foreign = FOREIGN[dialect]
    name = CLASSES[dialect][0 if dialect == "curated-transformers" else 1]
    tensors = weights(oracle(name, **foreign.settings))
    full = tensors if dialect.startswith(("hf", "sentence")) else with_base(tensors, name)
    there = into_dialect(full, dialect, num_heads=foreign.num_heads)
    shapes = {key: tuple(tensor.shape) for key, tensor in there.items()}
    targets = own_targets(shapes, dialect)
    assert targets == {key: tuple(tensor.shape) for key, tensor in full.items()}
    made = plan(shapes, targets, dialect=dialect)
    assert made.fits == len(full)
    assert all(torch.equal(made.numbers(made.sources[key].name, there.__getitem__), full[key]) for key in full)
