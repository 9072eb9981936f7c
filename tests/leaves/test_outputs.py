"""Output classes: four ways to a value, None left out, the field names and orders of transformers."""

from __future__ import annotations

import copy
import dataclasses
import pickle
from typing import Any

import pytest
import torch
import transformers.modeling_outputs
import transformers.models.bert.modeling_bert
import transformers.models.gpt2.modeling_gpt2

from minitf import outputs
from minitf.outputs import BaseModelOutputWithPoolingAndCrossAttentions, ModelOutput, QuestionAnsweringModelOutput

CLASSES = [getattr(outputs, name) for name in outputs.__all__ if name != "ModelOutput"]


@pytest.fixture
def full() -> BaseModelOutputWithPoolingAndCrossAttentions:
    """As after a call with output_hidden_states=True and output_attentions=True: no cache, no cross-attention."""
    hidden = tuple(torch.full((1,), float(i)) for i in range(3))
    return BaseModelOutputWithPoolingAndCrossAttentions(
        last_hidden_state=hidden[-1], pooler_output=torch.ones(1), hidden_states=hidden, attentions=hidden[:2]
    )


def test_four_ways_to_one_value(full: BaseModelOutputWithPoolingAndCrossAttentions) -> None:
    assert full.last_hidden_state is full["last_hidden_state"] is full[0]
    assert full.pooler_output is full["pooler_output"] is full[1]
    first, pooled, hidden, attentions = full
    assert first is full.last_hidden_state
    assert pooled is full.pooler_output
    assert full[-1] is attentions is full.attentions
    assert full[-2:] == (hidden, attentions) == (full.hidden_states, full.attentions)
    assert full[:2] == (first, pooled)
    assert full[1:] == (pooled, hidden, attentions)
    assert full[::2] == (first, hidden)


def test_none_is_left_out(full: BaseModelOutputWithPoolingAndCrossAttentions) -> None:
    names = ["last_hidden_state", "pooler_output", "hidden_states", "attentions"]
    assert full.keys() == names
    assert [name for name, _ in full.items()] == names
    assert len(full) == len(full.values()) == len(full.to_tuple()) == len(list(full)) == 4
    assert type(full.to_tuple()) is tuple
    assert all(a is b for a, b in zip(full.to_tuple(), full.values(), strict=True))
    assert full.past_key_values is None
    assert "attentions" in full
    assert "past_key_values" not in full
    assert "nonsense" not in full
    assert 0 not in full


def test_double_star(full: BaseModelOutputWithPoolingAndCrossAttentions) -> None:
    def consumer(*, last_hidden_state: torch.Tensor, pooler_output: torch.Tensor, **rest: Any) -> list[str]:
        assert last_hidden_state is full.last_hidden_state
        return list(rest)

    assert consumer(**full) == ["hidden_states", "attentions"]
    assert dict(full.items()).keys() == dict(**full).keys()


def test_errors_say_why(full: BaseModelOutputWithPoolingAndCrossAttentions) -> None:
    name = "BaseModelOutputWithPoolingAndCrossAttentions"
    with pytest.raises(KeyError, match=f"{name}: 'past_key_values' was not computed by this call"):
        full["past_key_values"]
    with pytest.raises(KeyError, match=f"{name}: 'pooled' is not one of last_hidden_state, pooler_output"):
        full["pooled"]
    with pytest.raises(IndexError):
        full[4]
    with pytest.raises(TypeError):
        full[1.5]  # type: ignore[index]
    with pytest.raises(AttributeError, match=f"{name} has no 'logits'; its fields are last_hidden_state, pool"):
        _ = full.logits
    assert not hasattr(full, "logits")
    assert getattr(full, "logits", 3) == 3
    with pytest.raises(TypeError, match="logit"):
        QuestionAnsweringModelOutput(logit=torch.ones(1))  # type: ignore[call-arg]


def test_get(full: BaseModelOutputWithPoolingAndCrossAttentions) -> None:
    assert full.get("pooler_output") is full.pooler_output
    assert full.get("past_key_values") is full.get("logits") is None
    assert full.get("past_key_values", 1) == full.get("logits", default=1) == 1


@pytest.mark.parametrize("ours", [ModelOutput, *CLASSES], ids=lambda c: c.__name__)
def test_equality_is_identity(ours: type[ModelOutput]) -> None:
    values = {field.name: torch.ones(2) for field in dataclasses.fields(ours)}
    one, other = ours(**values), ours(**values)
    assert one == one
    assert one != other
    assert one in [other, one]
    assert len({one, other}) == 2


def test_empty_values_are_not_none() -> None:
    empty = BaseModelOutputWithPoolingAndCrossAttentions(last_hidden_state=torch.empty(0), hidden_states=())
    assert empty.keys() == ["last_hidden_state", "hidden_states"]
    assert empty[1] == ()


def test_copy_and_pickle(full: BaseModelOutputWithPoolingAndCrossAttentions) -> None:
    for again in (copy.deepcopy(full), pickle.loads(pickle.dumps(full))):
        assert again.keys() == full.keys()
        assert torch.equal(again[0], full[0])
    full.pooler_output = None
    assert full[1] is full.hidden_states


@pytest.mark.parametrize("ours", CLASSES, ids=lambda c: c.__name__)
def test_names_and_order_of_the_fields(ours: type[ModelOutput]) -> None:
    homes = (
        transformers.modeling_outputs,
        transformers.models.bert.modeling_bert,
        transformers.models.gpt2.modeling_gpt2,
    )
    theirs = next(getattr(home, ours.__name__) for home in homes if hasattr(home, ours.__name__))
    names = [field.name for field in dataclasses.fields(ours)]
    assert names == [field.name for field in dataclasses.fields(theirs)]
    assert all(field.default is None for field in dataclasses.fields(ours))
    values = {name: torch.full((1,), float(i)) for i, name in enumerate(names)}
    assert ours(**values).to_tuple() == theirs(**values).to_tuple() == tuple(values.values())
    skipped = {name: value for i, (name, value) in enumerate(values.items()) if i % 2}
    assert ours(**skipped).to_tuple() == theirs(**skipped).to_tuple()
    assert issubclass(ours, ModelOutput)
    assert ours.__doc__
