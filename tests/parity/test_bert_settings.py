"""BERT against transformers 5.x away from the defaults: settings that change the numbers, and scores of any size."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.parity.bert_pairs import different, inputs_for, pair
from tests.support import random_value


@pytest.fixture(autouse=True)
def one_thread() -> Any:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


SETTINGS: dict[str, dict[str, Any]] = {
    # At the usual 1e-12 nobody can see whether eps stands inside or outside of the square root.
    "layer_norm_eps=0.25": {"layer_norm_eps": 0.25},
    "hidden_act=gelu_new": {"hidden_act": "gelu_new"},
    "hidden_act=relu": {"hidden_act": "relu"},
    "type_vocab_size=3": {"type_vocab_size": 3},
    "pad_token_id=7": {"pad_token_id": 7},
    "one head": {"num_attention_heads": 1},
    "five layers": {"num_hidden_layers": 5},
    "chunks of one position": {"chunk_size_feed_forward": 1},
}


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("class_name", ["BertForMaskedLM", "BertForSequenceClassification"])
def test_settings_that_change_the_numbers(setting: str, class_name: str) -> None:
    ours, theirs = pair(class_name, **SETTINGS[setting])
    inputs = inputs_for(class_name)
    with torch.no_grad():
        assert different(ours(**inputs), theirs(**inputs)) == []


@pytest.mark.parametrize("dropout", [None, 0.0, 0.5])
@pytest.mark.parametrize(
    "class_name", ["BertForSequenceClassification", "BertForMultipleChoice", "BertForTokenClassification"]
)
def test_dropout_of_classifiers(class_name: str, dropout: float | None) -> None:
    """`classifier_dropout` while training, with the same seed; None is `hidden_dropout_prob`."""
    ours, theirs = pair(class_name, hidden_dropout_prob=0.2, classifier_dropout=dropout)
    inputs = inputs_for(class_name)

    def trained(model: Any) -> Any:
        model.train()
        torch.manual_seed(1)
        output = model(**inputs)
        model.zero_grad()
        output.loss.backward()
        return {**output, "gradient": model.classifier.weight.grad.clone()}

    expected = trained(theirs)
    assert different(trained(ours), expected) == []
    ours.dropout = torch.nn.Dropout(ours.config.hidden_dropout_prob)  # the mistake: the setting is ignored
    assert different(trained(ours), expected) == ([] if dropout is None else ["gradient", "logits", "loss"])


def enlarge_scores_(model: torch.nn.Module, factor: float = 200.0) -> torch.nn.Module:
    """Multiply every query and key by `factor`, so that scores differ by far more than 10000."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".self.query." in name or ".self.key." in name:
                parameter.mul_(factor)
    return model


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("padding", ["right", "left"])
@pytest.mark.parametrize("class_name", ["BertForMaskedLM", "BertLMHeadModel"])
def test_what_is_hidden_stays_hidden_whatever_the_scores(class_name: str, padding: str, attention: str) -> None:
    """A mask of -10000, as the first BERT had it, lets padding through here; the smallest float does not."""
    settings = {"is_decoder": True} if class_name == "BertLMHeadModel" else {}
    ours, theirs = (enlarge_scores_(model) for model in pair(class_name, attention=attention, **settings))
    inputs = inputs_for(class_name, padding=padding)
    real = inputs["attention_mask"].bool()
    with torch.no_grad():
        mine, other = dict(ours(**inputs).items()), dict(theirs(**inputs).items())
    mine["logits"], other["logits"] = mine["logits"][real], other["logits"][real]
    assert different(mine, other) == []


def test_the_enlarged_scores_are_beyond_10000() -> None:
    ours, _ = pair("BertForMaskedLM")
    attention = enlarge_scores_(ours).bert.encoder.layer[0].attention.self
    hidden = torch.from_numpy(random_value("hidden states", (1, 50, 64))).float() * 4  # of deviation 1
    query = attention.transpose_for_scores(attention.query(hidden))
    key = attention.transpose_for_scores(attention.key(hidden))
    assert (query @ key.transpose(-1, -2) / 4).std() > 10_000
