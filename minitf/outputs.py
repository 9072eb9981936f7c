"""What the models return: dataclasses with transformers' field names, in transformers' order.

One value can be reached in four ways:

    outputs.last_hidden_state        attribute
    outputs["last_hidden_state"]     string key
    outputs[0], outputs[-2:]         position among the values that are not None, as in the classic tuple
    last_hidden_state, pooled = ...  iteration over the values that are not None

Two outputs are equal if they are the same object: tensors cannot be compared to one truth value.

Iteration differs from transformers on purpose: there an output iterates its *keys* (it is a dictionary), so the line
`last_hidden_state, pooled = model(...)` of many tutorials unpacks two strings without a word. Keys are `.keys()`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NoReturn

import torch
from torch import Tensor

__all__ = [
    "BaseModelOutputWithPastAndCrossAttentions",
    "BaseModelOutputWithPoolingAndCrossAttentions",
    "BertForPreTrainingOutput",
    "CausalLMOutputWithCrossAttentions",
    "GPT2DoubleHeadsModelOutput",
    "MaskedLMOutput",
    "ModelOutput",
    "MultipleChoiceModelOutput",
    "NextSentencePredictorOutput",
    "QuestionAnsweringModelOutput",
    "SequenceClassifierOutput",
    "SequenceClassifierOutputWithPast",
    "TokenClassifierOutput",
]


@dataclass(eq=False)
class ModelOutput:
    """Base of the output classes. Fields that were not computed are None and left out of everything but attributes."""

    def keys(self) -> list[str]:
        """The names of the fields that are not None, in order."""
        return [name for name, _ in self.items()]

    def values(self) -> list[Any]:
        """The values of the fields that are not None, in order."""
        return [value for _, value in self.items()]

    def items(self) -> list[tuple[str, Any]]:
        """`(name, value)` of the fields that are not None, in order."""
        pairs = [(field.name, getattr(self, field.name)) for field in dataclasses.fields(self)]
        return [(name, value) for name, value in pairs if value is not None]

    def get(self, name: str, default: Any = None) -> Any:
        """The value of the field `name`, or `default` if it was not computed or this class has no such field."""
        return dict(self.items()).get(name, default)

    def to_tuple(self) -> tuple[Any, ...]:
        """The classic plain tuple: what `return_dict=False` returns."""
        return tuple(self.values())

    def __iter__(self) -> Iterator[Any]:
        return iter(self.values())

    def __len__(self) -> int:
        return len(self.items())

    def __contains__(self, name: object) -> bool:
        return name in self.keys()

    def __getitem__(self, key: str | int | slice) -> Any:
        if not isinstance(key, str):
            return self.to_tuple()[key]
        present = dict(self.items())
        if key in present:
            return present[key]
        names = [field.name for field in dataclasses.fields(self)]
        why = "was not computed by this call (it is None)" if key in names else f"is not one of {', '.join(names)}"
        raise KeyError(f"{type(self).__name__}: {key!r} {why}")

    def __getattr__(self, name: str) -> NoReturn:
        # Python comes here only for names that it found nowhere else.
        names = ", ".join(field.name for field in dataclasses.fields(self))
        raise AttributeError(f"{type(self).__name__} has no {name!r}; its fields are {names}", name=name, obj=self)


@dataclass(eq=False)
class BaseModelOutputWithPastAndCrossAttentions(ModelOutput):
    """Of an encoder or decoder stack.

    Attributes:
        last_hidden_state: `[B, T, C]`, output of the last layer.
        past_key_values: the cache, if `use_cache`.
        hidden_states: L + 1 tensors `[B, T, C]` (input of the first layer, then the output of each layer), if asked.
        attentions: L tensors `[B, H, T, S]`, the attention probabilities of each layer, if asked.
        cross_attentions: the same of the cross-attention (S = encoder positions), if asked and present.
    """

    last_hidden_state: Tensor | None = None
    past_key_values: Any = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None
    cross_attentions: tuple[Tensor, ...] | None = None


@dataclass(eq=False)
class BaseModelOutputWithPoolingAndCrossAttentions(ModelOutput):
    """Of BertModel: as above, and the pooled first token.

    Attributes:
        last_hidden_state: `[B, T, C]`, output of the last layer.
        pooler_output: `[B, C]`, `tanh(dense(first token))`; None without a pooling layer.
        hidden_states: L + 1 tensors `[B, T, C]` (embeddings, then the output of each layer), if asked.
        past_key_values: the cache, if `use_cache`.
        attentions: L tensors `[B, H, T, S]`, the attention probabilities of each layer, if asked.
        cross_attentions: the same of the cross-attention (S = encoder positions), if asked and present.
    """

    last_hidden_state: Tensor | None = None
    pooler_output: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    past_key_values: Any = None
    attentions: tuple[Tensor, ...] | None = None
    cross_attentions: tuple[Tensor, ...] | None = None


@dataclass(eq=False)
class BertForPreTrainingOutput(ModelOutput):
    """Of BertForPreTraining.

    Attributes:
        loss: scalar, the sum of the masked-token loss and the next-sentence loss, if labels are given.
        prediction_logits: `[B, T, V]`, scores of every word at every position.
        seq_relationship_logits: `[B, 2]`, scores of "B follows A" and "B is random".
        hidden_states, attentions: as in BertModel, if asked.
    """

    loss: Tensor | None = None
    prediction_logits: Tensor | None = None
    seq_relationship_logits: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None


@dataclass(eq=False)
class CausalLMOutputWithCrossAttentions(ModelOutput):
    """Of a causal language model.

    Attributes:
        loss: scalar, if labels are given.
        logits: `[B, T, V]`, scores of the next word at every position.
        past_key_values: the cache, if `use_cache`.
        hidden_states, attentions, cross_attentions: as in the trunk, if asked.
    """

    loss: Tensor | None = None
    logits: Tensor | None = None
    past_key_values: Any = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None
    cross_attentions: tuple[Tensor, ...] | None = None


@dataclass(eq=False)
class _LossAndLogits(ModelOutput):
    """The four fields that most heads return."""

    loss: Tensor | None = None
    logits: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None


@dataclass(eq=False)
class MaskedLMOutput(_LossAndLogits):
    """`logits` are `[B, T, V]`: scores of every word at every position; `loss` a scalar, if labels are given."""


@dataclass(eq=False)
class NextSentencePredictorOutput(_LossAndLogits):
    """`logits` are `[B, 2]`: scores of "B follows A" and "B is random"; `loss` a scalar, if labels are given."""


@dataclass(eq=False)
class SequenceClassifierOutput(_LossAndLogits):
    """`logits` are `[B, N]`: one score a label, before the softmax; `loss` a scalar, if labels are given."""


@dataclass(eq=False)
class MultipleChoiceModelOutput(_LossAndLogits):
    """`logits` are `[B, N]`: one score a choice, before the softmax; `loss` a scalar, if labels are given."""


@dataclass(eq=False)
class TokenClassifierOutput(_LossAndLogits):
    """`logits` are `[B, T, N]`: one score a label at every position; `loss` a scalar, if labels are given."""


@dataclass(eq=False)
class SequenceClassifierOutputWithPast(ModelOutput):
    """`logits` are `[B, N]`: one score a label, before the softmax; with the cache of the trunk."""

    loss: Tensor | None = None
    logits: Tensor | None = None
    past_key_values: Any = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None


@dataclass(eq=False)
class GPT2DoubleHeadsModelOutput(ModelOutput):
    """Of GPT2DoubleHeadsModel.

    Attributes:
        loss, mc_loss: scalars, of the words and of the choice, if their labels are given.
        logits: `[B, N, T, V]`, scores of the next word. mc_logits: `[B, N]`, the score of each choice.
        past_key_values: the cache, if `use_cache`.
        hidden_states, attentions: as in the trunk, if asked; the trunk's batch is `B * N`.
    """

    loss: Tensor | None = None
    mc_loss: Tensor | None = None
    logits: Tensor | None = None
    mc_logits: Tensor | None = None
    past_key_values: Any = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None


@dataclass(eq=False)
class QuestionAnsweringModelOutput(ModelOutput):
    """Of extractive question answering.

    Attributes:
        loss: scalar, the mean of the two cross-entropies, if positions are given.
        start_logits, end_logits: `[B, T]`, the score of each position as first and as last token of the answer.
        hidden_states, attentions: as in the trunk, if asked.
    """

    loss: Tensor | None = None
    start_logits: Tensor | None = None
    end_logits: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None


# torch.export takes an output apart into its tensors and puts it together again; the name is what its files say.
for _name in __all__:
    if _name != "ModelOutput":
        torch.export.register_dataclass(globals()[_name], serialized_type_name=f"minitf.outputs.{_name}")
