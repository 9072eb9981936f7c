"""BERT (Devlin et al. 2018, arXiv:1810.04805): from `input_ids` to logits, top to bottom.

Classes, attribute names and numbers are those of Hugging Face transformers, so a checkpoint loads by its own names.
`LayerNorm` is not in snake case because Google's TensorFlow checkpoints call it so.

The trunk: BertModel = BertEmbeddings -> BertEncoder (L x BertLayer) -> BertPooler
A layer:   BertLayer = BertAttention (BertSelfAttention, BertSelfOutput) -> BertIntermediate -> BertOutput

Dimension letters: B batch, T query positions, S key positions (T + what the cache holds), H heads, D head size,
C hidden size (C = H * D), F intermediate size, V vocabulary, L layers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from minitf import masks
from minitf.activations import get_activation
from minitf.attention import attend
from minitf.cache import KVCache, as_cache
from minitf.checks import check_attention_mask, check_embeds, check_ids, check_length, check_positions
from minitf.config import BertConfig
from minitf.memory import apply_chunking_to_forward, checkpointed
from minitf.outputs import BaseModelOutputWithPastAndCrossAttentions, BaseModelOutputWithPoolingAndCrossAttentions
from minitf.pretrained import PreTrainedModel, keep_heads

__all__ = ["BertModel", "BertPreTrainedModel"]


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
        self,
        input_ids: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        past_key_values_length: int = 0,
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

    def __init__(self, config: BertConfig, layer_idx: int) -> None:
        super().__init__()
        self.config = config
        self.layer_idx = layer_idx
        self.num_attention_heads = config.num_attention_heads
        self.attention_head_size = config.hidden_size // config.num_attention_heads
        self.all_head_size = self.num_attention_heads * self.attention_head_size  # smaller once heads are pruned

        self.query = nn.Linear(config.hidden_size, self.all_head_size)
        self.key = nn.Linear(config.hidden_size, self.all_head_size)
        self.value = nn.Linear(config.hidden_size, self.all_head_size)
        self.dropout = nn.Dropout(config.attention_probs_dropout_prob)

        if config.position_embedding_type != "absolute":
            # One vector for each distance from -(max - 1) to max - 1.
            self.distance_embedding = nn.Embedding(2 * config.max_position_embeddings - 1, self.attention_head_size)

    def transpose_for_scores(self, x: Tensor) -> Tensor:
        """Split the heads: the columns of head h are `h * D ... (h + 1) * D`."""
        batch, length, _ = x.shape
        x = x.view(batch, length, self.num_attention_heads, self.attention_head_size)  # [B, T, H, D]
        return x.transpose(1, 2)  # [B, H, T, D]

    def forward(
        self,
        hidden_states: Tensor,
        mask: Tensor | None = None,
        *,
        head_mask: Tensor | None = None,
        cache: KVCache | None = None,
        output_attentions: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        query = self.transpose_for_scores(self.query(hidden_states))  # [B, H, T, D]
        key = self.transpose_for_scores(self.key(hidden_states))  # [B, H, T, D]
        value = self.transpose_for_scores(self.value(hidden_states))  # [B, H, T, D]
        if cache is not None:
            key, value = cache.update(self.layer_idx, key, value)  # [B, H, S, D] both
        return attend_heads(
            self, query, key, value, mask, self.relative_scores(query, key), head_mask, output_attentions
        )

    def relative_scores(self, query: Tensor, key: Tensor) -> Tensor | None:
        """What relative positions add to the scores before scaling; None for absolute positions.

        "relative_key" (Shaw et al., arXiv:1803.02155): the query also meets a vector for the distance to each key.
        "relative_key_query" (Huang et al., arXiv:2009.13658, method 4): so does the key.
        """
        kind = self.config.position_embedding_type
        if kind == "absolute":
            return None
        query_length, key_length = query.shape[2], key.shape[2]
        # With a cache the queries are the last T of S positions, as in masks.causal.
        query_position = torch.arange(key_length - query_length, key_length, device=query.device)[:, None]  # [T, 1]
        key_position = torch.arange(key_length, device=query.device)[None, :]  # [1, S]
        row = query_position - key_position + self.config.max_position_embeddings - 1  # [T, S]
        distance = self.distance_embedding(row)  # [T, S, D]
        scores = torch.einsum("bhtd,tsd->bhts", query, distance)  # [B, H, T, S]
        if kind == "relative_key_query":
            scores = scores + torch.einsum("bhsd,tsd->bhts", key, distance)  # [B, H, T, S]
        return scores


class BertCrossAttention(BertSelfAttention):
    """Attention to the hidden states of an encoder: queries from here, keys and values from there.

    It comes in addition to the self-attention of a decoder layer. The encoder does not change while decoding, so its
    keys and values are computed in the first step and kept in the cache. Positions are never relative here.
    """

    def __init__(self, config: BertConfig, layer_idx: int) -> None:
        super().__init__(config, layer_idx)
        if config.position_embedding_type != "absolute":
            del self.distance_embedding

    def forward(  # type: ignore[override]  # the encoder's states are its second input
        self,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor,
        mask: Tensor | None = None,
        *,
        head_mask: Tensor | None = None,
        cache: KVCache | None = None,
        output_attentions: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        query = self.transpose_for_scores(self.query(hidden_states))  # [B, H, T, D]
        kept = cache.cross(self.layer_idx) if cache is not None else None
        if kept is not None:
            key, value = kept  # [B, H, S, D] both
        else:
            key = self.transpose_for_scores(self.key(encoder_hidden_states))  # [B, H, S, D]
            value = self.transpose_for_scores(self.value(encoder_hidden_states))  # [B, H, S, D]
            if cache is not None:
                cache.set_cross(self.layer_idx, key, value)
        return attend_heads(self, query, key, value, mask, None, head_mask, output_attentions)


def attend_heads(
    module: BertSelfAttention,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    bias: Tensor | None,
    head_mask: Tensor | None,
    output_attentions: bool,
) -> tuple[Tensor, Tensor | None]:
    """The chosen attention function on `[B, H, T, D]`, and the heads side by side again: `[B, T, H * D]`."""
    context, probs = attend(
        module.config.attn_implementation,
        module,
        query,
        key,
        value,
        mask,
        scale=module.attention_head_size**-0.5,
        dropout=module.dropout.p if module.training else 0.0,
        bias=bias,
        head_mask=head_mask,
        output_attentions=output_attentions,
    )  # [B, H, T, D], [B, H, T, S]
    batch, _, length, _ = context.shape
    context = context.transpose(1, 2).reshape(batch, length, module.all_head_size)  # [B, T, C]
    return context, probs if output_attentions else None


class BertSelfOutput(nn.Module):
    """Mixes the heads and closes the residual: `LayerNorm(input + dropout(dense(context)))`. Post-norm, as in the paper."""

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
        self,
        hidden_states: Tensor,
        mask: Tensor | None = None,
        *,
        encoder_hidden_states: Tensor | None = None,
        head_mask: Tensor | None = None,
        cache: KVCache | None = None,
        output_attentions: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        if head_mask is not None and self.pruned_heads:
            kept = [head for head in range(head_mask.shape[-3]) if head not in self.pruned_heads]
            head_mask = head_mask[..., kept, :, :]  # numbers in a head mask are those of the unpruned model
        encoder = () if encoder_hidden_states is None else (encoder_hidden_states,)
        context, probs = self.self(
            hidden_states, *encoder, mask, head_mask=head_mask, cache=cache, output_attentions=output_attentions
        )  # [B, T, C], [B, H, T, S]
        return self.output(context, hidden_states), probs  # [B, T, C], [B, H, T, S]

    def prune_heads(self, heads: set[int]) -> None:
        """Cut heads (numbered as in the unpruned model) out of the four matrices; see `PreTrainedModel.prune_heads`."""
        new = sorted(heads - self.pruned_heads)
        if not new:
            return
        attention = self.self
        present = [
            h for h in range(attention.num_attention_heads + len(self.pruned_heads)) if h not in self.pruned_heads
        ]
        kept = [place for place, head in enumerate(present) if head not in new]  # places in the present matrices
        size = attention.attention_head_size
        for name in ("query", "key", "value"):
            setattr(attention, name, keep_heads(getattr(attention, name), kept, size, dim=0))  # rows: outputs
        self.output.dense = keep_heads(self.output.dense, kept, size, dim=1)  # columns: inputs
        attention.num_attention_heads = len(kept)
        attention.all_head_size = len(kept) * size
        self.pruned_heads |= set(new)


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
        self,
        hidden_states: Tensor,
        mask: Tensor | None = None,
        *,
        head_mask: Tensor | None = None,
        encoder_hidden_states: Tensor | None = None,
        encoder_mask: Tensor | None = None,
        cache: KVCache | None = None,
        output_attentions: bool = False,
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """`[B, T, C]` -> (`[B, T, C]`, self-attention probabilities, cross-attention probabilities)."""
        cross_probs = None
        attention_output, probs = self.attention(
            hidden_states, mask, head_mask=head_mask, cache=cache, output_attentions=output_attentions
        )  # [B, T, C], [B, H, T, S]
        if encoder_hidden_states is not None:
            attention_output, cross_probs = self.crossattention(
                attention_output,
                encoder_mask,
                encoder_hidden_states=encoder_hidden_states,
                head_mask=head_mask,
                cache=cache,
                output_attentions=output_attentions,
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
        self,
        hidden_states: Tensor,
        mask: Tensor | None = None,
        *,
        head_masks: Sequence[Tensor | None] | None = None,
        encoder_hidden_states: Tensor | None = None,
        encoder_mask: Tensor | None = None,
        cache: KVCache | None = None,
        output_attentions: bool = False,
        output_hidden_states: bool = False,
    ) -> BaseModelOutputWithPastAndCrossAttentions:
        all_hidden: list[Tensor] = [hidden_states]  # [B, T, C] each
        all_probs: list[Any] = []
        all_cross_probs: list[Any] = []
        for index, layer in enumerate(self.layer):
            settings = {
                "head_mask": head_masks[index] if head_masks is not None else None,
                "encoder_hidden_states": encoder_hidden_states,
                "encoder_mask": encoder_mask,
                "cache": cache,
                "output_attentions": output_attentions,
            }
            if self.gradient_checkpointing and self.training:
                hidden_states, probs, cross_probs = checkpointed(layer, hidden_states, mask, **settings)
            else:
                hidden_states, probs, cross_probs = layer(hidden_states, mask, **settings)  # [B, T, C], ...
            all_hidden.append(hidden_states)
            all_probs.append(probs)
            all_cross_probs.append(cross_probs)
        has_cross = output_attentions and encoder_hidden_states is not None
        return BaseModelOutputWithPastAndCrossAttentions(
            last_hidden_state=hidden_states,
            past_key_values=cache,
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
    layers_rule: ClassVar[tuple[str, str]] = ("encoder.layer.{}.", "num_hidden_layers")
    # The pooler belongs to the next-sentence objective: checkpoints of other objectives come without one.
    fresh_parts: ClassVar[tuple[str, ...]] = ("pooler.",)
    head_parts: ClassVar[tuple[str, ...]] = ("cls.", "classifier.", "qa_outputs.")

    def layer_modules(self) -> list[nn.Module]:
        return list(self.base_model.encoder.layer)

    def attention_modules(self, layer: int) -> list[nn.Module]:
        return [self.layer_modules()[layer].attention]


class BertModel(BertPreTrainedModel):
    """The trunk: hidden states of every token, and one pooled vector.

    Args:
        config: sizes and switches.
        add_pooling_layer: without it `pooler_output` is None and the checkpoint has no pooler.
    """

    def __init__(self, config: BertConfig, add_pooling_layer: bool = True) -> None:
        super().__init__(config)
        self.embeddings = BertEmbeddings(config)
        self.encoder = BertEncoder(config)
        self.pooler = BertPooler(config) if add_pooling_layer else None
        self.post_init()

    def get_input_embeddings(self) -> nn.Embedding:
        return self.embeddings.word_embeddings

    def set_input_embeddings(self, value: nn.Embedding) -> None:
        self.embeddings.word_embeddings = value

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        *,
        head_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        encoder_hidden_states: Tensor | None = None,
        encoder_attention_mask: Tensor | None = None,
        past_key_values: KVCache | Sequence[Any] | None = None,
        use_cache: bool | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
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
            encoder_hidden_states: `[B, S_encoder, C]` for the cross-attention.
            encoder_attention_mask: `[B, S_encoder]`, 0 = padding of the encoder.
            past_key_values: a `KVCache`, which this call extends, or the classic tuple of (key, value) pairs.
            use_cache: return the cache; None = `config.use_cache` in a decoder, never in an encoder.
            output_attentions, output_hidden_states, return_dict: None = what the configuration says.

        Returns:
            BaseModelOutputWithPoolingAndCrossAttentions, or the plain tuple of its values if not `return_dict`.

        Raises:
            ValueError, TypeError: see `minitf.checks`; the message names the argument, its value and what was expected.
        """
        config = self.config
        output_attentions = config.output_attentions if output_attentions is None else output_attentions
        output_hidden_states = config.output_hidden_states if output_hidden_states is None else output_hidden_states
        cache = self.cache_of_call(past_key_values, use_cache)
        past = cache.get_seq_length() if cache is not None else 0
        batch, length = self.check_inputs(input_ids, token_type_ids, position_ids, inputs_embeds, past)

        mask = self.self_attention_mask(attention_mask, batch, length, past)
        encoder_mask = self.cross_attention_mask(encoder_hidden_states, encoder_attention_mask, batch, length)
        embedding_output = self.embeddings(input_ids, token_type_ids, position_ids, inputs_embeds, past)  # [B, T, C]
        encoded = self.encoder(
            embedding_output,
            mask,
            head_masks=self.get_head_mask(head_mask, config.num_hidden_layers, batch=batch),
            encoder_hidden_states=encoder_hidden_states,
            encoder_mask=encoder_mask,
            cache=cache,
            output_attentions=output_attentions,
            output_hidden_states=output_hidden_states,
        )
        sequence_output = encoded.last_hidden_state  # [B, T, C]
        output = BaseModelOutputWithPoolingAndCrossAttentions(
            last_hidden_state=sequence_output,
            pooler_output=self.pooler(sequence_output) if self.pooler is not None else None,  # [B, C]
            hidden_states=encoded.hidden_states,
            past_key_values=encoded.past_key_values,
            attentions=encoded.attentions,
            cross_attentions=encoded.cross_attentions,
        )
        return self.returned(output, return_dict)

    def cache_of_call(self, past_key_values: KVCache | Sequence[Any] | None, use_cache: bool | None) -> KVCache | None:
        """The cache that this call fills: the caller's, a new one, or None. Only a decoder has one."""
        if not self.config.is_decoder:
            if use_cache or past_key_values is not None:
                raise ValueError(
                    "use_cache and past_key_values need a decoder (config.is_decoder = True): in an encoder every "
                    "token attends to the later ones too, so earlier keys and values change with each new token."
                )
            return None
        if self.encoder.gradient_checkpointing and self.training:
            if use_cache or past_key_values is not None:
                raise ValueError(
                    "a cache cannot be used with gradient checkpointing, which runs each layer twice: pass "
                    "use_cache=False, or call model.gradient_checkpointing_disable()."
                )
            return None  # config.use_cache is a default, and this call cannot follow it
        use_cache = self.config.use_cache if use_cache is None else use_cache
        if past_key_values is not None:
            return as_cache(past_key_values)
        return KVCache() if use_cache else None

    def check_inputs(
        self,
        input_ids: Tensor | None,
        token_type_ids: Tensor | None,
        position_ids: Tensor | None,
        inputs_embeds: Tensor | None,
        past: int,
    ) -> tuple[int, int]:
        """(B, T) of a call whose inputs are in order; see `minitf.checks` for the errors."""
        config = self.config
        if (input_ids is None) == (inputs_embeds is None):
            given = "neither" if input_ids is None else "both"
            raise ValueError(f"exactly one of input_ids and inputs_embeds is needed, and {given} is given.")
        if input_ids is not None:
            check_ids(input_ids, config.vocab_size, "input_ids", "vocab_size")
            batch, length = input_ids.shape
        else:
            assert inputs_embeds is not None
            check_embeds(inputs_embeds, config.hidden_size)
            batch, length = inputs_embeds.shape[:2]
        name = "input_ids" if input_ids is not None else "inputs_embeds"
        check_length(length, config.max_position_embeddings, name, past=past)
        if token_type_ids is not None:
            check_ids(token_type_ids, config.type_vocab_size, "token_type_ids", "type_vocab_size")
            if token_type_ids.shape != (batch, length):
                raise ValueError(
                    f"token_type_ids has shape {list(token_type_ids.shape)}; {name} has [{batch}, {length}]."
                )
        if position_ids is not None:
            if config.position_embedding_type != "absolute":
                raise ValueError(
                    f"position_ids have no effect with position_embedding_type {config.position_embedding_type!r}: "
                    "distances follow from the order of the tokens. Leave them out."
                )
            check_positions(position_ids, batch, length, config.max_position_embeddings)
        return batch, length

    def self_attention_mask(self, attention_mask: Tensor | None, batch: int, length: int, past: int) -> Tensor | None:
        """Padding, and in a decoder the causal triangle: boolean `[B, 1, 1 or T, S]`; None if nothing is hidden."""
        checked = check_attention_mask(attention_mask, batch=batch, query_length=length, key_length=past + length)
        mask = masks.broadcastable(checked)  # [B, 1, 1, S] or [B, 1, T, S]
        if not self.config.is_decoder or length == 1:
            return mask  # a single query is the last position: nothing lies after it
        return masks.both(masks.causal(length, past + length, self.device), mask)  # [B, 1, T, S] or [1, 1, T, S]

    def cross_attention_mask(
        self, encoder_hidden_states: Tensor | None, encoder_attention_mask: Tensor | None, batch: int, length: int
    ) -> Tensor | None:
        """The padding of the encoder: boolean `[B, 1, 1 or T, S_encoder]`; None if nothing is hidden."""
        if encoder_hidden_states is None:
            if encoder_attention_mask is not None:
                raise ValueError(
                    "encoder_attention_mask is given without encoder_hidden_states: it would have no effect."
                )
            return None
        if not self.config.add_cross_attention:
            raise ValueError(
                "encoder_hidden_states need a decoder with cross-attention (config.is_decoder = True, "
                "config.add_cross_attention = True): this model would not look at them."
            )
        check_embeds(encoder_hidden_states, self.config.hidden_size, name="encoder_hidden_states")
        checked = check_attention_mask(
            encoder_attention_mask,
            batch=batch,
            query_length=length,
            key_length=encoder_hidden_states.shape[1],
            name="encoder_attention_mask",
        )
        return masks.broadcastable(checked)  # [B, 1, 1, S] or [B, 1, T, S]
