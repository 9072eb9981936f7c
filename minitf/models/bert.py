"""BERT (Devlin et al. 2018, arXiv:1810.04805): from `input_ids` to logits, top to bottom.

Classes, attribute names and numbers are those of Hugging Face transformers, so a checkpoint loads by its own names.
`LayerNorm` is not in snake case because Google's TensorFlow checkpoints call it so.

The trunk: BertModel = BertEmbeddings -> BertEncoder (L x BertLayer) -> BertPooler
A layer:   BertLayer = BertAttention (BertSelfAttention, BertSelfOutput) -> BertIntermediate -> BertOutput
The heads: below the ruled line; each is the trunk, a small module on top, and a loss from `minitf.losses`.

Dimension letters: B batch, T query positions, S key positions (T + what the cache holds), H heads, D head size,
C hidden size (C = H * D), F intermediate size, V vocabulary, L layers, N labels or choices.
"""
# Formatted by hand: long parameter lists with one name a line would bury the computation.
# fmt: off

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from minitf import losses, masks
from minitf.activations import get_activation
from minitf.attention import attend
from minitf.cache import KVCache, as_cache
from minitf.checks import check_choices, check_encoder_inputs, check_model_inputs, merge_choices
from minitf.config import BertConfig
from minitf.generation.mixin import GenerationMixin
from minitf.keywords import strict_keywords
from minitf.memory import apply_chunking_to_forward, checkpointed
from minitf.outputs import (
    BaseModelOutputWithPastAndCrossAttentions, BaseModelOutputWithPoolingAndCrossAttentions, BertForPreTrainingOutput,
    CausalLMOutputWithCrossAttentions, MaskedLMOutput, MultipleChoiceModelOutput, NextSentencePredictorOutput,
    QuestionAnsweringModelOutput, SequenceClassifierOutput, TokenClassifierOutput,
)
from minitf.pretrained import PreTrainedModel, find_pruneable_heads_and_indices, prune_linear_layer

__all__ = [
    "BertForMaskedLM", "BertForMultipleChoice", "BertForNextSentencePrediction", "BertForPreTraining",
    "BertForQuestionAnswering", "BertForSequenceClassification", "BertForTokenClassification", "BertLMHeadModel",
    "BertModel", "BertPreTrainedModel",
]

logger = logging.getLogger("minitf.models.bert")


class BertEmbeddings(nn.Module):
    """The sum of three embeddings: which word, which segment, which position. Then LayerNorm and dropout."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.config = config
        self.word_embeddings = nn.Embedding(config.vocab_size, config.hidden_size, padding_idx=config.pad_token_id)
        self.position_embeddings = nn.Embedding(config.max_position_embeddings, config.hidden_size)
        self.token_type_embeddings = nn.Embedding(config.type_vocab_size, config.hidden_size)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(
        self, input_ids: Tensor | None = None, token_type_ids: Tensor | None = None, position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None, past_key_values_length: int = 0,
    ) -> Tensor:
        if inputs_embeds is None:
            assert input_ids is not None  # BertModel has checked that one of the two is given
            inputs_embeds = self.word_embeddings(input_ids)  # [B, T, C]
        batch, length, _ = inputs_embeds.shape
        device = inputs_embeds.device
        if position_ids is None:
            position_ids = torch.arange(past_key_values_length, past_key_values_length + length, device=device)  # [T]
            position_ids = position_ids[None]  # [1, T]
        if token_type_ids is None:
            token_type_ids = torch.zeros(batch, length, dtype=torch.long, device=device)  # [B, T]

        embeddings = inputs_embeds + self.token_type_embeddings(token_type_ids)  # [B, T, C]
        # Relative positions enter the attention scores instead; the table stays in the checkpoint, unused.
        if self.config.position_embedding_type == "absolute":
            embeddings = embeddings + self.position_embeddings(position_ids)  # [B, T, C]
        return self.dropout(self.LayerNorm(embeddings))  # [B, T, C]


class BertSelfAttention(nn.Module):
    """Queries, keys and values of all heads, each from one matrix, and the attention between them."""

    def __init__(self, config: BertConfig, layer_idx: int, position_embedding_type: str | None = None) -> None:
        super().__init__()
        self.config = config
        self.layer_idx = layer_idx
        self.position_embedding_type = position_embedding_type or config.position_embedding_type
        self.num_attention_heads = config.num_attention_heads
        self.attention_head_size = config.hidden_size // config.num_attention_heads
        self.all_head_size = self.num_attention_heads * self.attention_head_size  # smaller once heads are pruned

        self.query = nn.Linear(config.hidden_size, self.all_head_size)
        self.key = nn.Linear(config.hidden_size, self.all_head_size)
        self.value = nn.Linear(config.hidden_size, self.all_head_size)
        self.dropout = nn.Dropout(config.attention_probs_dropout_prob)

        if self.position_embedding_type != "absolute":
            # One vector for each distance from -(max - 1) to max - 1.
            self.distance_embedding = nn.Embedding(2 * config.max_position_embeddings - 1, self.attention_head_size)

    def transpose_for_scores(self, x: Tensor) -> Tensor:
        """Split the heads: the columns of head h are `h * D ... (h + 1) * D`."""
        batch, length, _ = x.shape
        x = x.view(batch, length, self.num_attention_heads, self.attention_head_size)  # [B, T or S, H, D]
        return x.transpose(1, 2)  # [B, H, T or S, D]

    def forward(
        self, hidden_states: Tensor, mask: Tensor | None = None, *, head_mask: Tensor | None = None,
        cache: KVCache | None = None, output_attentions: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        query = self.transpose_for_scores(self.query(hidden_states))  # [B, H, T, D]
        key = self.transpose_for_scores(self.key(hidden_states))  # [B, H, T, D]
        value = self.transpose_for_scores(self.value(hidden_states))  # [B, H, T, D]
        if cache is not None:
            key, value = cache.update(self.layer_idx, key, value)  # [B, H, S, D] both
        return self.attend(query, key, value, mask, head_mask, output_attentions)

    def attend(
        self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, head_mask: Tensor | None,
        output_attentions: bool,
    ) -> tuple[Tensor, Tensor | None]:
        """The chosen attention function on `[B, H, T, D]`, and the heads side by side again: `[B, T, H * D]`."""
        context, probs = attend(
            self.config.attn_implementation, self, query, key, value, mask, scale=self.attention_head_size**-0.5,
            dropout=self.dropout.p if self.training else 0.0, bias=self.relative_scores(query, key),
            head_mask=head_mask, output_attentions=output_attentions,
        )  # [B, H, T, D], [B, H, T, S]
        batch, _, length, _ = context.shape
        context = context.transpose(1, 2).reshape(batch, length, self.all_head_size)  # [B, T, C]
        return context, probs if output_attentions else None

    def relative_scores(self, query: Tensor, key: Tensor) -> Tensor | None:
        """What relative positions add to the scores before scaling; None for absolute positions.

        "relative_key" (Shaw et al., arXiv:1803.02155): the query also meets a vector for the distance to each key.
        "relative_key_query" (Huang et al., arXiv:2009.13658, method 4): so does the key.
        """
        if self.position_embedding_type == "absolute":
            return None
        query_length, key_length = query.shape[2], key.shape[2]
        # With a cache the queries are the last T of S positions, as in masks.causal.
        query_position = torch.arange(key_length - query_length, key_length, device=query.device)[:, None]  # [T, 1]
        key_position = torch.arange(key_length, device=query.device)[None, :]  # [1, S]
        row = query_position - key_position + self.config.max_position_embeddings - 1  # [T, S]
        distance = self.distance_embedding(row)  # [T, S, D]
        scores = torch.einsum("bhtd,tsd->bhts", query, distance)  # [B, H, T, S]
        if self.position_embedding_type == "relative_key_query":
            scores = scores + torch.einsum("bhsd,tsd->bhts", key, distance)  # [B, H, T, S]
        return scores


class BertCrossAttention(BertSelfAttention):
    """Attention to the hidden states of an encoder: queries from here, keys and values from there.

    It comes in addition to the self-attention of a decoder layer. The encoder does not change while decoding, so its
    keys and values are computed in the first step and kept in the cache. Positions are never relative here.
    """

    def __init__(self, config: BertConfig, layer_idx: int) -> None:
        super().__init__(config, layer_idx, position_embedding_type="absolute")

    def forward(  # type: ignore[override]  # the encoder's states are its second input
        self, hidden_states: Tensor, encoder_hidden_states: Tensor, mask: Tensor | None = None, *,
        head_mask: Tensor | None = None, cache: KVCache | None = None, output_attentions: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        query = self.transpose_for_scores(self.query(hidden_states))  # [B, H, T, D]
        kept = cache.cross(self.layer_idx) if cache is not None else None
        if kept is not None:
            key, value = kept  # [B, H, S, D] both
        else:
            key = self.transpose_for_scores(self.key(encoder_hidden_states))  # [B, H, S, D]
            value = self.transpose_for_scores(self.value(encoder_hidden_states))  # [B, H, S, D]
            if cache is not None:
                key, value = cache.set_cross(self.layer_idx, key, value)  # [B, H, S, D] both
        return self.attend(query, key, value, mask, head_mask, output_attentions)


class BertSelfOutput(nn.Module):
    """Mixes the heads and closes the residual, post-norm as in the paper: `LayerNorm(input + dropout(dense(x)))`."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, hidden_states: Tensor, input_tensor: Tensor) -> Tensor:
        hidden_states = self.dropout(self.dense(hidden_states))  # [B, T, C]
        return self.LayerNorm(hidden_states + input_tensor)  # [B, T, C]


class BertAttention(nn.Module):
    """Self-attention (or cross-attention) with its output layer."""

    def __init__(self, config: BertConfig, layer_idx: int, is_cross_attention: bool = False) -> None:
        super().__init__()
        attention_class = BertCrossAttention if is_cross_attention else BertSelfAttention
        self.self = attention_class(config, layer_idx)
        self.output = BertSelfOutput(config)
        self.pruned_heads: set[int] = set()

    def forward(
        self, hidden_states: Tensor, mask: Tensor | None = None, *, encoder_hidden_states: Tensor | None = None,
        head_mask: Tensor | None = None, cache: KVCache | None = None, output_attentions: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        if head_mask is not None and self.pruned_heads:
            kept = [head for head in range(head_mask.shape[-3]) if head not in self.pruned_heads]
            head_mask = head_mask[..., kept, :, :]  # numbers in a head mask are those of the unpruned model
        encoder = () if encoder_hidden_states is None else (encoder_hidden_states,)
        context, probs = self.self(
            hidden_states, *encoder, mask, head_mask=head_mask, cache=cache, output_attentions=output_attentions
        )  # [B, T, C], [B, H, T, S]
        return self.output(context, hidden_states), probs  # [B, T, C], [B, H, T, S]

    def prune_heads(self, heads: Iterable[int]) -> None:
        """Cut heads (numbered as in the unpruned model) out of the four matrices; see `PreTrainedModel.prune_heads`."""
        attention, size = self.self, self.self.attention_head_size
        new, index = find_pruneable_heads_and_indices(heads, attention.num_attention_heads, size, self.pruned_heads)
        if not new:
            return
        for name in ("query", "key", "value"):
            setattr(attention, name, prune_linear_layer(getattr(attention, name), index, dim=0))  # rows: outputs
        self.output.dense = prune_linear_layer(self.output.dense, index, dim=1)  # columns: inputs
        attention.num_attention_heads, attention.all_head_size = len(index) // size, len(index)
        self.pruned_heads |= new


class BertIntermediate(nn.Module):
    """The first half of the feed-forward network: out to F columns, and the activation."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.intermediate_size)
        self.intermediate_act_fn = get_activation(config.hidden_act)

    def forward(self, hidden_states: Tensor) -> Tensor:
        return self.intermediate_act_fn(self.dense(hidden_states))  # [B, T, F]


class BertOutput(nn.Module):
    """The second half: back to C columns, and the residual: `LayerNorm(input + dropout(dense(x)))`."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.intermediate_size, config.hidden_size)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, hidden_states: Tensor, input_tensor: Tensor) -> Tensor:
        hidden_states = self.dropout(self.dense(hidden_states))  # [B, T, C]
        return self.LayerNorm(hidden_states + input_tensor)  # [B, T, C]


class BertLayer(nn.Module):
    """One layer: self-attention, in some decoders cross-attention, feed-forward; each closes its own residual."""

    def __init__(self, config: BertConfig, layer_idx: int) -> None:
        super().__init__()
        self.config = config
        self.attention = BertAttention(config, layer_idx)
        if config.add_cross_attention:
            self.crossattention = BertAttention(config, layer_idx, is_cross_attention=True)
        self.intermediate = BertIntermediate(config)
        self.output = BertOutput(config)

    def forward(
        self, hidden_states: Tensor, mask: Tensor | None = None, *, head_mask: Tensor | None = None,
        encoder_hidden_states: Tensor | None = None, encoder_mask: Tensor | None = None, cache: KVCache | None = None,
        output_attentions: bool = False,
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """`[B, T, C]` -> (`[B, T, C]`, self-attention probabilities, cross-attention probabilities)."""
        cross_probs = None
        attention_output, probs = self.attention(
            hidden_states, mask, head_mask=head_mask, cache=cache, output_attentions=output_attentions
        )  # [B, T, C], [B, H, T, S]
        if encoder_hidden_states is not None:
            attention_output, cross_probs = self.crossattention(
                attention_output, encoder_mask, encoder_hidden_states=encoder_hidden_states, head_mask=head_mask,
                cache=cache, output_attentions=output_attentions,
            )  # [B, T, C], [B, H, T, S]
        output = apply_chunking_to_forward(
            self.feed_forward_chunk, self.config.chunk_size_feed_forward, 1, attention_output
        )  # [B, T, C]
        return output, probs, cross_probs

    def feed_forward_chunk(self, attention_output: Tensor) -> Tensor:
        return self.output(self.intermediate(attention_output), attention_output)  # [B, T, C]


class BertEncoder(nn.Module):
    """L layers, one after the other."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.config = config
        self.layer = nn.ModuleList([BertLayer(config, layer_idx) for layer_idx in range(config.num_hidden_layers)])
        self.gradient_checkpointing = config.gradient_checkpointing

    def forward(
        self, hidden_states: Tensor, mask: Tensor | None = None, *, head_masks: Sequence[Tensor | None] | None = None,
        encoder_hidden_states: Tensor | None = None, encoder_mask: Tensor | None = None, cache: KVCache | None = None,
        output_attentions: bool = False, output_hidden_states: bool = False,
    ) -> BaseModelOutputWithPastAndCrossAttentions:
        all_hidden: list[Tensor] = [hidden_states]  # [B, T, C] each
        all_probs: list[Any] = []
        all_cross_probs: list[Any] = []
        for index, layer in enumerate(self.layer):
            run = partial(checkpointed, layer) if self.gradient_checkpointing and self.training else layer
            hidden_states, probs, cross_probs = run(
                hidden_states, mask, head_mask=head_masks[index] if head_masks is not None else None,
                encoder_hidden_states=encoder_hidden_states, encoder_mask=encoder_mask, cache=cache,
                output_attentions=output_attentions,
            )
            all_hidden.append(hidden_states)
            all_probs.append(probs)
            all_cross_probs.append(cross_probs)
        has_cross = output_attentions and encoder_hidden_states is not None
        return BaseModelOutputWithPastAndCrossAttentions(
            last_hidden_state=hidden_states, past_key_values=cache,
            hidden_states=tuple(all_hidden) if output_hidden_states else None,
            attentions=tuple(all_probs) if output_attentions else None,
            cross_attentions=tuple(all_cross_probs) if has_cross else None,
        )


class BertPooler(nn.Module):
    """A vector for the whole sequence: the first token ([CLS]) through a dense layer and tanh."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)
        self.activation = nn.Tanh()

    def forward(self, hidden_states: Tensor) -> Tensor:
        first_token = hidden_states[:, 0]  # [B, C]
        return self.activation(self.dense(first_token))  # [B, C]


class BertPreTrainedModel(PreTrainedModel):
    """What all BERT classes share with each other: configuration, names, and the sizes that a checkpoint must have."""

    config_class = BertConfig
    config: BertConfig
    base_model_prefix = "bert"
    size_rules: ClassVar[dict[str, tuple[str, ...]]] = {
        "embeddings.word_embeddings.weight": ("vocab_size", "hidden_size"),
        "embeddings.position_embeddings.weight": ("max_position_embeddings", "hidden_size"),
        "embeddings.token_type_embeddings.weight": ("type_vocab_size", "hidden_size"),
        "encoder.layer.0.intermediate.dense.weight": ("intermediate_size", "hidden_size"),
    }
    input_embeddings_path = "embeddings.word_embeddings"
    layers_rule: ClassVar[tuple[str, str]] = ("encoder.layer.{}.", "num_hidden_layers")
    # The pooler belongs to the next-sentence objective: checkpoints of other objectives come without one.
    fresh_parts: ClassVar[tuple[str, ...]] = ("pooler.",)
    head_parts: ClassVar[tuple[str, ...]] = ("cls.", "classifier.", "qa_outputs.")

    def attention_modules(self, layer: int) -> list[Any]:
        return [self.base_model.encoder.layer[layer].attention]


class BertModel(BertPreTrainedModel):
    """The trunk: hidden states of every token, and one pooled vector.

    Args:
        config: sizes and switches.
        add_pooling_layer: without it `pooler_output` is None and the checkpoint has no pooler.
    """

    @strict_keywords
    def __init__(self, config: BertConfig, add_pooling_layer: bool = True) -> None:
        super().__init__(config)
        self.embeddings = BertEmbeddings(config)
        self.encoder = BertEncoder(config)
        self.pooler = BertPooler(config) if add_pooling_layer else None
        self.post_init()

    def forward(
        self, input_ids: Tensor | None = None, attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None, position_ids: Tensor | None = None, *, head_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None, encoder_hidden_states: Tensor | None = None,
        encoder_attention_mask: Tensor | None = None, past_key_values: KVCache | Sequence[Any] | None = None,
        use_cache: bool | None = None, output_attentions: bool | None = None, output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> Any:
        """Hidden states of every token.

        Args:
            input_ids: `[B, T]`, int64 or int32. Exactly one of `input_ids` and `inputs_embeds` is given.
            attention_mask: `[B, S]` with 1 = token and 0 = padding, or `[B, T, S]` or `[B, 1, T, S]`; None = all ones.
                S is T plus the positions in the cache. In a decoder the causal mask is added to it.
            token_type_ids: `[B, T]`, 0 for the first and 1 for the second sentence; None = all 0.
            position_ids: `[T]`, `[1, T]` or `[B, T]`; None = 0 ... T - 1, after the positions in the cache.
            head_mask: `[H]`, `[L, H]` or `[B, L, H]`, a factor on the probabilities of each head (1 = unchanged).
            inputs_embeds: `[B, T, C]`, in place of the word embeddings of `input_ids`.
            encoder_hidden_states: `[B, S_encoder, C]` for the cross-attention, in every step; None leaves it out.
            encoder_attention_mask: `[B, S_encoder]`, 0 = padding of the encoder.
            past_key_values: a `KVCache`, which this call extends, or the classic tuple of (key, value) pairs.
            use_cache: return the cache; None = `config.use_cache` in a decoder, never in an encoder or while gradient
                checkpointing runs each layer twice.
            output_attentions, output_hidden_states, return_dict: None = what the configuration says.

        Returns:
            BaseModelOutputWithPoolingAndCrossAttentions, or the plain tuple of its values if not `return_dict`.

        Raises:
            ValueError, TypeError: see `minitf.checks`; the message names the argument, its value and what was expected.
        """
        config = self.config
        output_attentions = config.output_attentions if output_attentions is None else output_attentions
        output_hidden_states = config.output_hidden_states if output_hidden_states is None else output_hidden_states
        use_cache = self.wants_cache(use_cache, past_key_values)
        given = KVCache() if use_cache and past_key_values is None else past_key_values
        cache = as_cache(given, config.num_hidden_layers)
        past = cache.get_seq_length() if cache is not None else 0

        batch, length = check_model_inputs(config, input_ids, token_type_ids, position_ids, inputs_embeds, past)
        check_encoder_inputs(config, encoder_hidden_states, encoder_attention_mask, batch=batch, cache=cache)
        mask = masks.for_self_attention(
            attention_mask, batch=batch, query_length=length, key_length=past + length, is_causal=config.is_decoder,
            device=self.device,
        )  # [1 or B, 1, 1 or T, S]
        encoder_mask = masks.for_cross_attention(
            encoder_attention_mask, batch=batch, query_length=length, encoder_hidden_states=encoder_hidden_states
        )  # [B, 1, 1 or T, S]

        embedding_output = self.embeddings(input_ids, token_type_ids, position_ids, inputs_embeds, past)  # [B, T, C]
        encoded = self.encoder(
            embedding_output, mask, head_masks=self.get_head_mask(head_mask, config.num_hidden_layers, batch=batch),
            encoder_hidden_states=encoder_hidden_states, encoder_mask=encoder_mask, cache=cache,
            output_attentions=output_attentions, output_hidden_states=output_hidden_states,
        )
        sequence_output = encoded.last_hidden_state  # [B, T, C]
        output = BaseModelOutputWithPoolingAndCrossAttentions(
            last_hidden_state=sequence_output,
            pooler_output=self.pooler(sequence_output) if self.pooler is not None else None,
            hidden_states=encoded.hidden_states, past_key_values=cache if use_cache else None,
            attentions=encoded.attentions, cross_attentions=encoded.cross_attentions,
        )
        return self.returned(output, return_dict)


# ====================================================================================================================
# The heads
#
# Every head class holds the trunk as `self.bert`. The arguments of its forward are those of BertModel.forward, and
# `labels`; they are documented there. Models return logits: the softmax is part of the loss.


class BertPredictionHeadTransform(nn.Module):
    """One more dense layer before the words are scored: dense, activation, LayerNorm."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)
        self.transform_act_fn = get_activation(config.hidden_act)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def forward(self, hidden_states: Tensor) -> Tensor:
        return self.LayerNorm(self.transform_act_fn(self.dense(hidden_states)))  # [B, T, C]


class BertLMPredictionHead(nn.Module):
    """A score for every word. The matrix is that of the word embeddings; only the bias is new.

    `bias` and `decoder.bias` are one parameter under two names, because old checkpoints hold the first only.
    """

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.transform = BertPredictionHeadTransform(config)
        self.decoder = nn.Linear(config.hidden_size, config.vocab_size)
        self.bias = nn.Parameter(torch.zeros(config.vocab_size))

    def forward(self, hidden_states: Tensor) -> Tensor:
        return self.decoder(self.transform(hidden_states))  # [B, T, V]


class BertOnlyMLMHead(nn.Module):
    """Words only."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.predictions = BertLMPredictionHead(config)

    def forward(self, sequence_output: Tensor) -> Tensor:
        return self.predictions(sequence_output)  # [B, T, V]


class BertOnlyNSPHead(nn.Module):
    """Next sentence only: two scores from the pooled vector."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.seq_relationship = nn.Linear(config.hidden_size, 2)

    def forward(self, pooled_output: Tensor) -> Tensor:
        return self.seq_relationship(pooled_output)  # [B, 2]


class BertPreTrainingHeads(nn.Module):
    """Both objectives of the paper: words and next sentence."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.predictions = BertLMPredictionHead(config)
        self.seq_relationship = nn.Linear(config.hidden_size, 2)

    def forward(self, sequence_output: Tensor, pooled_output: Tensor) -> tuple[Tensor, Tensor]:
        return self.predictions(sequence_output), self.seq_relationship(pooled_output)  # [B, T, V], [B, 2]


class BertWithWordScores(BertPreTrainedModel):
    """What the classes that score words share: which parameters are tied, and where the scoring matrix is."""

    tied_weights: ClassVar[dict[str, str]] = {
        "cls.predictions.decoder.weight": "bert.embeddings.word_embeddings.weight",
        "cls.predictions.decoder.bias": "cls.predictions.bias",
    }

    cls: Any

    def get_output_embeddings(self) -> nn.Linear:
        decoder: nn.Linear = self.cls.predictions.decoder
        return decoder

    def set_output_embeddings(self, new_embeddings: nn.Linear) -> None:
        """Replace the scoring matrix and its bias; see `check_output_embeddings` for what fits."""
        self.check_output_embeddings(new_embeddings)
        self.cls.predictions.decoder = new_embeddings
        self.cls.predictions.bias = new_embeddings.bias


def classification_dropout(config: BertConfig) -> nn.Dropout:
    """Dropout before a classifier: `classifier_dropout`, or `hidden_dropout_prob` if that is None."""
    return nn.Dropout(config.hidden_dropout_prob if config.classifier_dropout is None else config.classifier_dropout)


class BertForPreTraining(BertWithWordScores):
    """The two objectives of the paper together: masked words and next sentence; the loss is their sum."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__(config)
        self.bert = BertModel(config)
        self.cls = BertPreTrainingHeads(config)
        self.post_init()

    def forward(
        self, input_ids: Tensor | None = None, attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None, position_ids: Tensor | None = None, *, head_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None, labels: Tensor | None = None, next_sentence_label: Tensor | None = None,
        output_attentions: bool | None = None, output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> Any:
        """`labels` `[B, T]` (-100 = not scored) and `next_sentence_label` `[B]` (0 = B follows A) come together."""
        if (labels is None) != (next_sentence_label is None):
            raise ValueError("the pre-training loss needs both labels and next_sentence_label, and only one is given.")
        trunk = self.bert(
            input_ids, attention_mask, token_type_ids, position_ids, head_mask=head_mask, inputs_embeds=inputs_embeds,
            output_attentions=output_attentions, output_hidden_states=output_hidden_states, return_dict=True,
        )
        words, next_sentence = self.cls(trunk.last_hidden_state, trunk.pooler_output)  # [B, T, V], [B, 2]
        loss = None
        if labels is not None and next_sentence_label is not None:
            loss = losses.masked_language_model_loss(words, labels)
            loss = loss + losses.next_sentence_loss(next_sentence, next_sentence_label, "next_sentence_label")
        output = BertForPreTrainingOutput(
            loss=loss, prediction_logits=words, seq_relationship_logits=next_sentence,
            hidden_states=trunk.hidden_states, attentions=trunk.attentions,
        )
        return self.returned(output, return_dict)


class BertLMHeadModel(GenerationMixin, BertWithWordScores):
    """BERT as a left-to-right language model: set `config.is_decoder`, or every token sees the one that it predicts."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__(config)
        if not config.is_decoder:
            logger.warning("BertLMHeadModel with is_decoder=False: every token sees the token that it has to predict.")
        self.bert = BertModel(config, add_pooling_layer=False)
        self.cls = BertOnlyMLMHead(config)
        self.post_init()

    def forward(
        self, input_ids: Tensor | None = None, attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None, position_ids: Tensor | None = None, *, head_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None, encoder_hidden_states: Tensor | None = None,
        encoder_attention_mask: Tensor | None = None, labels: Tensor | None = None,
        past_key_values: KVCache | Sequence[Any] | None = None, use_cache: bool | None = None,
        output_attentions: bool | None = None, output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> Any:
        """`labels` `[B, T]`, usually `input_ids`: the loss shifts them by one. With labels no cache is made."""
        if labels is not None and use_cache is None and past_key_values is None:
            use_cache = False  # scoring a text is one call: nothing comes after it
        trunk = self.bert(
            input_ids, attention_mask, token_type_ids, position_ids, head_mask=head_mask, inputs_embeds=inputs_embeds,
            encoder_hidden_states=encoder_hidden_states, encoder_attention_mask=encoder_attention_mask,
            past_key_values=past_key_values, use_cache=use_cache, output_attentions=output_attentions,
            output_hidden_states=output_hidden_states, return_dict=True,
        )
        logits = self.cls(trunk.last_hidden_state)  # [B, T, V]
        output = CausalLMOutputWithCrossAttentions(
            loss=losses.causal_language_model_loss(logits, labels) if labels is not None else None, logits=logits,
            past_key_values=trunk.past_key_values, hidden_states=trunk.hidden_states, attentions=trunk.attentions,
            cross_attentions=trunk.cross_attentions,
        )
        return self.returned(output, return_dict)


class BertForMaskedLM(BertWithWordScores):
    """Fill in the masked words."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__(config)
        if config.is_decoder:
            logger.warning("BertForMaskedLM with is_decoder=True: a masked word is predicted from the left side only.")
        self.bert = BertModel(config, add_pooling_layer=False)
        self.cls = BertOnlyMLMHead(config)
        self.post_init()

    def forward(
        self, input_ids: Tensor | None = None, attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None, position_ids: Tensor | None = None, *, head_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None, encoder_hidden_states: Tensor | None = None,
        encoder_attention_mask: Tensor | None = None, labels: Tensor | None = None,
        output_attentions: bool | None = None, output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> Any:
        """`labels` `[B, T]`: the original ids at the masked positions, -100 elsewhere. Nothing is shifted."""
        trunk = self.bert(
            input_ids, attention_mask, token_type_ids, position_ids, head_mask=head_mask, inputs_embeds=inputs_embeds,
            encoder_hidden_states=encoder_hidden_states, encoder_attention_mask=encoder_attention_mask, use_cache=False,
            output_attentions=output_attentions, output_hidden_states=output_hidden_states, return_dict=True,
        )
        logits = self.cls(trunk.last_hidden_state)  # [B, T, V]
        loss = losses.masked_language_model_loss(logits, labels) if labels is not None else None
        return self.returned(MaskedLMOutput(loss, logits, trunk.hidden_states, trunk.attentions), return_dict)


class BertForNextSentencePrediction(BertPreTrainedModel):
    """Does sentence B follow sentence A? Label and logit 0: it does; 1: it is a random sentence."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__(config)
        self.bert = BertModel(config)
        self.cls = BertOnlyNSPHead(config)
        self.post_init()

    def forward(
        self, input_ids: Tensor | None = None, attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None, position_ids: Tensor | None = None, *, head_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None, labels: Tensor | None = None, output_attentions: bool | None = None,
        output_hidden_states: bool | None = None, return_dict: bool | None = None,
    ) -> Any:
        """`labels` `[B]`: 0 = B follows A, 1 = B is a random sentence."""
        trunk = self.bert(
            input_ids, attention_mask, token_type_ids, position_ids, head_mask=head_mask, inputs_embeds=inputs_embeds,
            output_attentions=output_attentions, output_hidden_states=output_hidden_states, return_dict=True,
        )
        logits = self.cls(trunk.pooler_output)  # [B, 2]
        loss = losses.next_sentence_loss(logits, labels) if labels is not None else None
        output = NextSentencePredictorOutput(loss, logits, trunk.hidden_states, trunk.attentions)
        return self.returned(output, return_dict)


class BertForSequenceClassification(BertPreTrainedModel):
    """One label, several labels or a number for the whole sequence, from the pooled vector."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__(config)
        self.num_labels = config.num_labels
        self.bert = BertModel(config)
        self.dropout = classification_dropout(config)
        self.classifier = nn.Linear(config.hidden_size, config.num_labels)
        self.post_init()

    def forward(
        self, input_ids: Tensor | None = None, attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None, position_ids: Tensor | None = None, *, head_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None, labels: Tensor | None = None, output_attentions: bool | None = None,
        output_hidden_states: bool | None = None, return_dict: bool | None = None,
    ) -> Any:
        """`labels` and their loss follow `config.problem_type`: see `losses.sequence_classification_loss`."""
        trunk = self.bert(
            input_ids, attention_mask, token_type_ids, position_ids, head_mask=head_mask, inputs_embeds=inputs_embeds,
            output_attentions=output_attentions, output_hidden_states=output_hidden_states, return_dict=True,
        )
        logits = self.classifier(self.dropout(trunk.pooler_output))  # [B, N]
        loss = None
        if labels is not None:
            loss = losses.sequence_classification_loss(logits, labels, self.config.problem_type)
        return self.returned(SequenceClassifierOutput(loss, logits, trunk.hidden_states, trunk.attentions), return_dict)


class BertForMultipleChoice(BertPreTrainedModel):
    """Which of N texts fits best? Inputs are `[B, N, T]`; each choice is read alone and gets one score."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__(config)
        self.bert = BertModel(config)
        self.dropout = classification_dropout(config)
        self.classifier = nn.Linear(config.hidden_size, 1)
        self.post_init()

    @property
    def dummy_inputs(self) -> dict[str, Tensor]:
        return {name: value[:, None] for name, value in super().dummy_inputs.items()}

    def forward(
        self, input_ids: Tensor | None = None, attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None, position_ids: Tensor | None = None, *, head_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None, labels: Tensor | None = None, output_attentions: bool | None = None,
        output_hidden_states: bool | None = None, return_dict: bool | None = None,
    ) -> Any:
        """All inputs have the choices as second dimension, `[B, N, T]`; `labels` `[B]`: the right choice."""
        choices = check_choices(input_ids, inputs_embeds, attention_mask, token_type_ids, position_ids)
        trunk = self.bert(
            merge_choices(input_ids), merge_choices(attention_mask), merge_choices(token_type_ids),
            merge_choices(position_ids), head_mask=head_mask, inputs_embeds=merge_choices(inputs_embeds),
            output_attentions=output_attentions, output_hidden_states=output_hidden_states, return_dict=True,
        )
        scores = self.classifier(self.dropout(trunk.pooler_output))  # [B * N, 1]
        logits = scores.view(-1, choices)  # [B, N]
        loss = losses.multiple_choice_loss(logits, labels) if labels is not None else None
        output = MultipleChoiceModelOutput(loss, logits, trunk.hidden_states, trunk.attentions)
        return self.returned(output, return_dict)


class BertForTokenClassification(BertPreTrainedModel):
    """A label for every token (names, parts of speech)."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__(config)
        self.num_labels = config.num_labels
        self.bert = BertModel(config, add_pooling_layer=False)
        self.dropout = classification_dropout(config)
        self.classifier = nn.Linear(config.hidden_size, config.num_labels)
        self.post_init()

    def forward(
        self, input_ids: Tensor | None = None, attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None, position_ids: Tensor | None = None, *, head_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None, labels: Tensor | None = None, output_attentions: bool | None = None,
        output_hidden_states: bool | None = None, return_dict: bool | None = None,
    ) -> Any:
        """`labels` `[B, T]`: 0 ... N - 1, or -100 = not scored."""
        trunk = self.bert(
            input_ids, attention_mask, token_type_ids, position_ids, head_mask=head_mask, inputs_embeds=inputs_embeds,
            output_attentions=output_attentions, output_hidden_states=output_hidden_states, return_dict=True,
        )
        logits = self.classifier(self.dropout(trunk.last_hidden_state))  # [B, T, N]
        loss = losses.token_classification_loss(logits, labels) if labels is not None else None
        return self.returned(TokenClassifierOutput(loss, logits, trunk.hidden_states, trunk.attentions), return_dict)


class BertForQuestionAnswering(BertPreTrainedModel):
    """Where in the text does the answer start, and where does it end?"""

    def __init__(self, config: BertConfig) -> None:
        super().__init__(config)
        if config.num_labels != 2:
            raise ValueError(
                f"question answering has two labels, start and end, and num_labels is {config.num_labels}."
            )
        self.num_labels = config.num_labels
        self.bert = BertModel(config, add_pooling_layer=False)
        self.qa_outputs = nn.Linear(config.hidden_size, config.num_labels)
        self.post_init()

    def forward(
        self, input_ids: Tensor | None = None, attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None, position_ids: Tensor | None = None, *, head_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None, start_positions: Tensor | None = None, end_positions: Tensor | None = None,
        output_attentions: bool | None = None, output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> Any:
        """`start_positions`, `end_positions` `[B]`: first and last token of the answer; beyond T = not scored."""
        if (start_positions is None) != (end_positions is None):
            raise ValueError("the loss needs both start_positions and end_positions, and only one is given.")
        trunk = self.bert(
            input_ids, attention_mask, token_type_ids, position_ids, head_mask=head_mask, inputs_embeds=inputs_embeds,
            output_attentions=output_attentions, output_hidden_states=output_hidden_states, return_dict=True,
        )
        logits = self.qa_outputs(trunk.last_hidden_state)  # [B, T, 2]
        start_logits, end_logits = logits[..., 0].contiguous(), logits[..., 1].contiguous()  # [B, T], [B, T]
        loss = None
        if start_positions is not None and end_positions is not None:
            loss = losses.question_answering_loss(start_logits, end_logits, start_positions, end_positions)
        output = QuestionAnsweringModelOutput(
            loss=loss, start_logits=start_logits, end_logits=end_logits, hidden_states=trunk.hidden_states,
            attentions=trunk.attentions,
        )
        return self.returned(output, return_dict)
