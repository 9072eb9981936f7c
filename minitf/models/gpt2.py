"""GPT-2 (Radford et al. 2019, "Language Models are Unsupervised Multitask Learners"): from `input_ids` to logits.

Classes, attribute names and numbers are those of Hugging Face transformers, so a checkpoint loads by its own names.

The trunk: GPT2Model = word + position embeddings -> L x GPT2Block -> a last LayerNorm (`ln_f`)
A block:   x + attention(ln_1(x)), then x + feed-forward(ln_2(x)): LayerNorm stands *before* each part (pre-norm), where
           BERT has it after; the residual stream is never normalised, which is why `ln_f` is needed at the end.
The heads: below the ruled line; each is the trunk, a small module on top, and a loss from `minitf.losses`.

Dimension letters: B batch, T query positions, S key positions (T + what the cache holds), H heads, D head size,
C hidden size (C = H * D), F intermediate size, V vocabulary, L layers, N labels or choices.
"""
# Formatted by hand: long parameter lists with one name a line would bury the computation.
# fmt: off

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from minitf import losses, masks, products
from minitf.activations import get_activation
from minitf.attention import attend
from minitf.cache import KVCache, StaticKVCache, as_cache
from minitf.checks import (
    check_choices, check_encoder_inputs, check_ids, check_model_inputs, check_places, merge_choices, tracing,
)
from minitf.config import GPT2Config
from minitf.generation.mixin import GenerationMixin
from minitf.memory import checkpointed
from minitf.outputs import (
    BaseModelOutputWithPastAndCrossAttentions,
    CausalLMOutputWithCrossAttentions,
    GPT2DoubleHeadsModelOutput,
    QuestionAnsweringModelOutput,
    SequenceClassifierOutputWithPast,
    TokenClassifierOutput,
)
from minitf.pretrained import (
    INIT_RULES, InitRule, PreTrainedModel, find_pruneable_heads_and_indices, normal, prune_linear_layer, zeros,
)

__all__ = [
    "Conv1D", "GPT2DoubleHeadsModel", "GPT2ForQuestionAnswering", "GPT2ForSequenceClassification",
    "GPT2ForTokenClassification", "GPT2LMHeadModel", "GPT2Model", "GPT2PreTrainedModel",
]

logger = logging.getLogger("minitf.models.gpt2")


class Conv1D(nn.Module):
    """`x W + b` with `W` stored as `[inputs, outputs]`, the transpose of `nn.Linear`'s.

    OpenAI wrote the layer as a convolution of width 1, whose TensorFlow kernel has this layout, and every GPT-2
    checkpoint kept it. `attn.c_proj` is square, so a forgotten transpose there raises no error: never infer it.

    Args:
        nf: outputs. nx: inputs.
    """

    def __init__(self, nf: int, nx: int) -> None:
        super().__init__()
        self.nf = nf
        self.nx = nx
        self.weight = nn.Parameter(torch.empty(nx, nf))
        self.bias = nn.Parameter(torch.zeros(nf))
        nn.init.normal_(self.weight, std=0.02)

    def extra_repr(self) -> str:
        return f"nf={self.nf}, nx={self.nx}"

    def forward(self, x: Tensor) -> Tensor:
        return products.add_product(self.bias, x, self.weight)


class GPT2Attention(nn.Module):
    """Self-attention, or attention to an encoder, with its output layer `c_proj`.

    `c_attn` computes query, key and value of all heads side by side, in this order.
    """

    def __init__(self, config: GPT2Config, layer_idx: int, is_cross_attention: bool = False) -> None:
        super().__init__()
        self.config = config
        self.layer_idx = layer_idx
        self.is_cross_attention = is_cross_attention
        self.num_heads = config.n_head
        self.head_dim = config.n_embd // config.n_head
        self.split_size = config.n_embd  # columns of each of query, key and value; fewer once heads are pruned
        self.pruned_heads: set[int] = set()

        self.scaling = self.head_dim**-0.5 if config.scale_attn_weights else 1.0
        if config.scale_attn_by_inverse_layer_idx:
            self.scaling /= float(layer_idx + 1)

        self.c_attn = Conv1D((2 if is_cross_attention else 3) * config.n_embd, config.n_embd)
        if is_cross_attention:
            self.q_attn = Conv1D(config.n_embd, config.n_embd)
        self.c_proj = Conv1D(config.n_embd, config.n_embd)
        self.attn_dropout = nn.Dropout(config.attn_pdrop)
        self.resid_dropout = nn.Dropout(config.resid_pdrop)

    def split_heads(self, x: Tensor) -> Tensor:
        """The columns of head h are `h * D ... (h + 1) * D`."""
        batch, length, _ = x.shape
        x = x.view(batch, length, self.num_heads, self.head_dim)  # [B, T or S, H, D]
        return x.transpose(1, 2)  # [B, H, T or S, D]

    def forward(
        self, hidden_states: Tensor, mask: Tensor | None = None, *, encoder_hidden_states: Tensor | None = None,
        head_mask: Tensor | None = None, cache: KVCache | None = None, output_attentions: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        if encoder_hidden_states is not None:
            query, key, value = self.encoder_keys(hidden_states, encoder_hidden_states, cache)
        else:
            batch, length, _ = hidden_states.shape
            three = self.c_attn(hidden_states).view(batch, length, 3, self.num_heads, self.head_dim)  # [B, T, 3, H, D]
            query, key, value = three.permute(2, 0, 3, 1, 4)  # [B, H, T, D], [B, H, T, D], [B, H, T, D]
            if cache is not None:
                key, value = cache.update(self.layer_idx, key, value)  # [B, H, S, D], [B, H, S, D]
        if head_mask is not None and self.pruned_heads:
            kept = [head for head in range(head_mask.shape[-3]) if head not in self.pruned_heads]
            head_mask = head_mask[..., kept, :, :]  # numbers in a head mask are those of the unpruned model
        dtype = value.dtype
        if self.config.reorder_and_upcast_attn and dtype.itemsize < 4:  # for training in half precision
            query, key, value = query.float(), key.float(), value.float()  # [B, H, T, D], [B, H, S, D], [B, H, S, D]
        context, probs = attend(
            self.config.attn_implementation, self, query, key, value, mask, scale=self.scaling,
            dropout=self.attn_dropout.p if self.training else 0.0, head_mask=head_mask,
            output_attentions=output_attentions,
        )  # [B, H, T, D], [B, H, T, S]
        batch, _, length, _ = context.shape
        context = context.to(dtype).transpose(1, 2).reshape(batch, length, self.split_size)  # [B, T, C]
        return self.resid_dropout(self.c_proj(context)), probs if output_attentions else None  # [B, T, C], [B, H, T, S]

    def encoder_keys(
        self, hidden_states: Tensor, encoder_hidden_states: Tensor, cache: KVCache | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Queries from here, keys and values from the encoder; these two are computed once and kept in the cache."""
        query = self.split_heads(self.q_attn(hidden_states))  # [B, H, T, D]
        kept = cache.cross(self.layer_idx) if cache is not None else None
        if kept is not None:
            return query, *kept  # [B, H, T, D], [B, H, S, D], [B, H, S, D]
        key, value = self.c_attn(encoder_hidden_states).chunk(2, dim=2)  # [B, S, C], [B, S, C]
        key, value = self.split_heads(key), self.split_heads(value)  # [B, H, S, D], [B, H, S, D]
        if cache is not None:
            key, value = cache.set_cross(self.layer_idx, key, value)  # [B, H, S, D], [B, H, S, D]
        return query, key, value  # [B, H, T, D], [B, H, S, D], [B, H, S, D]

    def prune_heads(self, heads: Iterable[int]) -> None:
        """Cut heads (numbered as in the unpruned model) out of the matrices; see `PreTrainedModel.prune_heads`."""
        new, columns = find_pruneable_heads_and_indices(heads, self.num_heads, self.head_dim, self.pruned_heads)
        if not new:
            return
        parts = 2 if self.is_cross_attention else 3  # key, value; query, key, value
        three = torch.cat([columns + part * self.split_size for part in range(parts)])
        self.c_attn = prune_linear_layer(self.c_attn, three, dim=1)
        if self.is_cross_attention:
            self.q_attn = prune_linear_layer(self.q_attn, columns, dim=1)
        self.c_proj = prune_linear_layer(self.c_proj, columns, dim=0)
        self.num_heads, self.split_size = len(columns) // self.head_dim, len(columns)
        self.pruned_heads |= new


class GPT2MLP(nn.Module):
    """The feed-forward network: out to F columns, the activation, and back."""

    def __init__(self, intermediate_size: int, config: GPT2Config) -> None:
        super().__init__()
        self.c_fc = Conv1D(intermediate_size, config.n_embd)
        self.c_proj = Conv1D(config.n_embd, intermediate_size)
        self.act = get_activation(config.activation_function)
        self.dropout = nn.Dropout(config.resid_pdrop)

    def forward(self, hidden_states: Tensor) -> Tensor:
        hidden_states = self.act(self.c_fc(hidden_states))  # [B, T, F]
        return self.dropout(self.c_proj(hidden_states))  # [B, T, C]


class GPT2Block(nn.Module):
    """One layer: self-attention, in some decoders cross-attention, feed-forward; each adds to the residual stream."""

    def __init__(self, config: GPT2Config, layer_idx: int) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(config.n_embd, eps=config.layer_norm_epsilon)
        self.attn = GPT2Attention(config, layer_idx)
        self.ln_2 = nn.LayerNorm(config.n_embd, eps=config.layer_norm_epsilon)
        if config.add_cross_attention:
            self.crossattention = GPT2Attention(config, layer_idx, is_cross_attention=True)
            self.ln_cross_attn = nn.LayerNorm(config.n_embd, eps=config.layer_norm_epsilon)
        self.mlp = GPT2MLP(config.n_inner if config.n_inner is not None else 4 * config.n_embd, config)

    def forward(
        self, hidden_states: Tensor, mask: Tensor | None = None, *, head_mask: Tensor | None = None,
        encoder_hidden_states: Tensor | None = None, encoder_mask: Tensor | None = None, cache: KVCache | None = None,
        output_attentions: bool = False,
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """`[B, T, C]` -> (`[B, T, C]`, self-attention probabilities, cross-attention probabilities)."""
        cross_probs = None
        attn_output, probs = self.attn(
            self.ln_1(hidden_states), mask, head_mask=head_mask, cache=cache, output_attentions=output_attentions
        )  # [B, T, C], [B, H, T, S]
        hidden_states = attn_output + hidden_states  # [B, T, C]
        if encoder_hidden_states is not None:
            attn_output, cross_probs = self.crossattention(
                self.ln_cross_attn(hidden_states), encoder_mask, encoder_hidden_states=encoder_hidden_states,
                head_mask=head_mask, cache=cache, output_attentions=output_attentions,
            )  # [B, T, C], [B, H, T, S]
            hidden_states = hidden_states + attn_output  # [B, T, C]
        hidden_states = hidden_states + self.mlp(self.ln_2(hidden_states))  # [B, T, C]
        return hidden_states, probs, cross_probs


def scaled_residual(module: nn.Module, parameter: Tensor, config: Any) -> None:
    """GPT-2's paper scales the layers that write into the residual stream by 1 / sqrt(number of such layers), 2 L."""
    parameter.normal_(mean=0.0, std=config.initializer_range / math.sqrt(2 * config.n_layer))


class GPT2PreTrainedModel(PreTrainedModel):
    """What all GPT-2 classes share: configuration, names, fresh weights, and the sizes that a checkpoint must have."""

    config_class = GPT2Config
    config: GPT2Config
    base_model_prefix = "transformer"
    always_decodes = True
    init_rules: ClassVar[tuple[InitRule, ...]] = (
        *INIT_RULES,
        (Conv1D, "weight", normal),
        (Conv1D, "bias", zeros),
        (GPT2Attention, "c_proj.weight", scaled_residual),
        (GPT2MLP, "c_proj.weight", scaled_residual),
    )
    size_rules: ClassVar[dict[str, tuple[str, ...]]] = {
        "wte.weight": ("vocab_size", "n_embd"),
        "wpe.weight": ("n_positions", "n_embd"),
    }
    input_embeddings_path = "wte"
    layers_rule: ClassVar[tuple[str, str]] = ("h.{}.", "n_layer")
    head_parts: ClassVar[tuple[str, ...]] = (
        "lm_head.", "multiple_choice_head.", "score.", "classifier.", "qa_outputs.",
    )

    def attention_modules(self, layer: int) -> list[Any]:
        return [self.base_model.h[layer].attn]


class GPT2Model(GPT2PreTrainedModel):
    """The trunk: hidden states of every token."""

    def __init__(self, config: GPT2Config) -> None:
        super().__init__(config)
        self.wte = nn.Embedding(config.vocab_size, config.n_embd)
        self.wpe = nn.Embedding(config.n_positions, config.n_embd)
        self.drop = nn.Dropout(config.embd_pdrop)
        self.h = nn.ModuleList([GPT2Block(config, layer_idx) for layer_idx in range(config.n_layer)])
        self.ln_f = nn.LayerNorm(config.n_embd, eps=config.layer_norm_epsilon)
        self.gradient_checkpointing = config.gradient_checkpointing
        self.post_init()

    def forward(
        self, input_ids: Tensor | None = None, past_key_values: KVCache | Sequence[Any] | None = None,
        attention_mask: Tensor | None = None, token_type_ids: Tensor | None = None, position_ids: Tensor | None = None,
        *, head_mask: Tensor | None = None, inputs_embeds: Tensor | None = None,
        encoder_hidden_states: Tensor | None = None, encoder_attention_mask: Tensor | None = None,
        use_cache: bool | None = None, output_attentions: bool | None = None, output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> Any:
        """Hidden states of every token.

        Args:
            input_ids: `[B, T]`, int64 or int32. Exactly one of `input_ids` and `inputs_embeds` is given.
            past_key_values: a `KVCache`, which this call extends, or the classic tuple of (key, value) pairs.
            attention_mask: `[B, S]` with 1 = token and 0 = padding, or `[B, T, S]` or `[B, 1, T, S]`; None = all ones.
                S is T plus the positions in the cache. The causal mask is added to it.
            token_type_ids: `[B, T]`, rows of the *word* embeddings that are added (GPT-2 has no table of segments).
            position_ids: `[T]`, `[1, T]` or `[B, T]`; None = 0 ... T - 1, after the positions in the cache. A batch
                that is padded on the left needs them: `minitf.masks.positions_from_mask(attention_mask)`.
            head_mask: `[H]`, `[L, H]` or `[B, L, H]`, a factor on the probabilities of each head (1 = unchanged).
            inputs_embeds: `[B, T, C]`, in place of the word embeddings of `input_ids`.
            encoder_hidden_states: `[B, S_encoder, C]` for the cross-attention.
            encoder_attention_mask: `[B, S_encoder]`, 0 = padding of the encoder.
            use_cache: return the cache; None = `config.use_cache`, but not while gradient checkpointing runs each
                layer twice.
            output_attentions, output_hidden_states, return_dict: None = what the configuration says.

        Returns:
            BaseModelOutputWithPastAndCrossAttentions, or the plain tuple of its values if not `return_dict`.
            `hidden_states` are the L inputs of the blocks and, last, the output of `ln_f` (not of the last block).

        Raises:
            ValueError, TypeError: see `minitf.checks`; the message names the argument, its value and what was expected.
        """
        config = self.config
        output_attentions = config.output_attentions if output_attentions is None else output_attentions
        output_hidden_states = config.output_hidden_states if output_hidden_states is None else output_hidden_states
        use_cache = self.wants_cache(use_cache, past_key_values)
        given = KVCache() if use_cache and past_key_values is None else past_key_values
        cache = as_cache(given, config.n_layer, longest=config.n_positions, static=True)
        static = cache if isinstance(cache, StaticKVCache) else None  # counts its positions in a tensor, not here
        past = cache.get_seq_length() if cache is not None and static is None else 0

        batch, length = check_model_inputs(config, input_ids, token_type_ids, position_ids, inputs_embeds, past)
        check_encoder_inputs(config, encoder_hidden_states, encoder_attention_mask, batch=batch, cache=cache)
        if position_ids is None:
            warn_of_left_padding(attention_mask)
        mask = masks.for_self_attention(
            attention_mask, batch=batch, query_length=length,
            key_length=past + length if static is None else static.max_length, is_causal=static is None,
            device=self.wte.weight.device,
        )  # [1 or B, 1, 1 or T, S]
        if static is not None:
            mask = masks.both(static.mask(length), mask)  # [1 or B, 1, T, S]
        encoder_mask = masks.for_cross_attention(
            encoder_attention_mask, batch=batch, query_length=length, encoder_hidden_states=encoder_hidden_states
        )  # [B, 1, 1 or T, S]
        head_masks = self.get_head_mask(head_mask, config.n_layer, batch=batch)

        if position_ids is None:
            positions = torch.arange(past, past + length, device=self.wte.weight.device)  # [T]
            position_ids = (positions if static is None else static.positions(length))[None]  # [1, T]
        hidden_states = self.embed(input_ids, inputs_embeds, token_type_ids, position_ids)  # [B, T, C]

        all_hidden, all_probs, all_cross_probs = [], [], []
        recompute = self.gradient_checkpointing and self.training
        for index, block in enumerate(self.h):
            all_hidden.append(hidden_states)
            run = partial(checkpointed, block) if recompute else block
            hidden_states, probs, cross_probs = run(
                hidden_states, mask, head_mask=head_masks[index],
                encoder_hidden_states=encoder_hidden_states, encoder_mask=encoder_mask, cache=cache,
                output_attentions=output_attentions,
            )
            all_probs.append(probs)
            all_cross_probs.append(cross_probs)
        hidden_states = self.ln_f(hidden_states)  # [B, T, C]
        has_cross = output_attentions and encoder_hidden_states is not None
        output = BaseModelOutputWithPastAndCrossAttentions(
            last_hidden_state=hidden_states, past_key_values=cache if use_cache else None,
            hidden_states=(*all_hidden, hidden_states) if output_hidden_states else None,
            attentions=tuple(all_probs) if output_attentions else None,
            cross_attentions=tuple(all_cross_probs) if has_cross else None,
        )
        return self.returned(output, return_dict)

    def embed(
        self, input_ids: Tensor | None, inputs_embeds: Tensor | None, token_type_ids: Tensor | None,
        position_ids: Tensor,
    ) -> Tensor:
        """The sum of word and position embeddings (and of token types, which are words here), and dropout."""
        if inputs_embeds is None:
            inputs_embeds = self.wte(input_ids)  # [B, T, C]
        hidden_states = inputs_embeds + self.wpe(position_ids)  # [B, T, C]
        if token_type_ids is not None:
            hidden_states = hidden_states + self.wte(token_type_ids)  # [B, T, C]
        return self.drop(hidden_states)  # [B, T, C]


_said: set[str] = set()  # warnings of this file that were given already


def warn_of_left_padding(attention_mask: Tensor | None) -> None:
    """Say, once in a process, that a left-padded batch without position ids gives its tokens shifted positions."""
    if attention_mask is None or attention_mask.dim() != 2 or "left padding" in _said or tracing():
        return
    if not bool(attention_mask[:, 0].all()):
        _said.add("left padding")
        logger.warning(
            "attention_mask pads on the left and position_ids are not given, so the first token of a padded row does "
            "not have position 0: pass position_ids=minitf.masks.positions_from_mask(attention_mask)."
        )


def warn_of_padding_at_the_end(attention_mask: Tensor | None) -> None:
    """Say, once in a process, that the last position is classified although the mask hides it."""
    if attention_mask is None or attention_mask.dim() != 2 or "padding at the end" in _said or tracing():
        return
    if not bool(attention_mask[:, -1].all()):
        _said.add("padding at the end")
        logger.warning(
            "attention_mask hides the last position of a row, and inputs_embeds do not say which token is the last: "
            "the padding is classified. Pad on the left, or pass input_ids."
        )


# ====================================================================================================================
# The heads
#
# Every head class holds the trunk as `self.transformer`. The arguments of its forward are those of GPT2Model.forward,
# and `labels`; they are documented there. Models return logits: the softmax is part of the loss.


class GPT2WithWordScores(GPT2PreTrainedModel):
    """What the classes that score words share: the scoring matrix is that of the word embeddings."""

    tied_weights: ClassVar[dict[str, str]] = {"lm_head.weight": "transformer.wte.weight"}
    lm_head: nn.Linear

    def get_output_embeddings(self) -> nn.Linear:
        return self.lm_head

    def set_output_embeddings(self, new_embeddings: nn.Linear) -> None:
        """Replace the scoring matrix; see `check_output_embeddings` for what fits."""
        self.check_output_embeddings(new_embeddings)
        self.lm_head = new_embeddings


class GPT2LMHeadModel(GenerationMixin, GPT2WithWordScores):
    """The language model: a score for every word as the next one."""

    def __init__(self, config: GPT2Config) -> None:
        super().__init__(config)
        self.transformer = GPT2Model(config)
        self.lm_head = products.Linear(config.n_embd, config.vocab_size, bias=False)
        self.post_init()

    def forward(
        self, input_ids: Tensor | None = None, past_key_values: KVCache | Sequence[Any] | None = None,
        attention_mask: Tensor | None = None, token_type_ids: Tensor | None = None, position_ids: Tensor | None = None,
        *, head_mask: Tensor | None = None, inputs_embeds: Tensor | None = None,
        encoder_hidden_states: Tensor | None = None, encoder_attention_mask: Tensor | None = None,
        labels: Tensor | None = None, use_cache: bool | None = None, logits_to_keep: int | Tensor = 0,
        output_attentions: bool | None = None, output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> Any:
        """`labels` `[B, T]`, usually `input_ids`: the loss shifts them by one.

        `logits_to_keep`: only the last so many positions (0 = all), or these positions (a one-dimensional tensor): the
        scores of a whole prompt, `[B, T, V]`, are its most expensive part, and decoding needs the last row alone.
        """
        if labels is not None and not (isinstance(logits_to_keep, int) and logits_to_keep == 0):
            raise ValueError("labels score every position, so logits_to_keep must be 0 beside them.")
        outputs = self.transformer(
            input_ids, past_key_values, attention_mask, token_type_ids, position_ids, head_mask=head_mask,
            inputs_embeds=inputs_embeds, encoder_hidden_states=encoder_hidden_states,
            encoder_attention_mask=encoder_attention_mask, use_cache=use_cache, output_attentions=output_attentions,
            output_hidden_states=output_hidden_states, return_dict=True,
        )
        hidden_states = kept_positions(outputs.last_hidden_state, logits_to_keep)
        logits = self.lm_head(hidden_states)
        output = CausalLMOutputWithCrossAttentions(
            loss=losses.causal_language_model_loss(logits, labels) if labels is not None else None, logits=logits,
            past_key_values=outputs.past_key_values, hidden_states=outputs.hidden_states, attentions=outputs.attentions,
            cross_attentions=outputs.cross_attentions,
        )
        return self.returned(output, return_dict)

    def decoding_step(self, cache: KVCache, inputs: dict[str, Any]) -> Any:
        """For `generate`: one token through this model without its modules, or None; see `minitf.models.gpt2_step`."""
        from minitf.models.gpt2_step import decoding_step

        return decoding_step(self, cache) if not inputs else None


def kept_positions(hidden_states: Tensor, logits_to_keep: int | Tensor) -> Tensor:
    """The last `logits_to_keep` positions of `[B, T, C]` (0 = all), or the positions that a tensor lists.

    Raises:
        ValueError: a negative number, or more positions than there are; a tensor that is empty, not of one dimension,
            or with a position that is not there (-1 = the last). TypeError: neither an int nor a tensor of integers.
    """
    if isinstance(logits_to_keep, Tensor):
        check_places(logits_to_keep, hidden_states.shape[1], "logits_to_keep")
        return hidden_states[:, logits_to_keep]
    if not isinstance(logits_to_keep, int) or isinstance(logits_to_keep, bool):
        raise TypeError(f"logits_to_keep = {logits_to_keep!r}: expected a number, or a tensor of positions.")
    if not 0 <= logits_to_keep <= hidden_states.shape[1]:
        raise ValueError(f"logits_to_keep = {logits_to_keep}: expected 0 (all) to {hidden_states.shape[1]}.")
    return hidden_states[:, hidden_states.shape[1] - logits_to_keep :] if logits_to_keep else hidden_states


class GPT2SequenceSummary(nn.Module):
    """One vector (or score) for a sequence: a chosen token, dropout, a linear layer, an activation."""

    def __init__(self, config: GPT2Config, num_labels: int) -> None:
        super().__init__()
        self.summary_type = config.summary_type
        self.summary: nn.Module = nn.Identity()
        if config.summary_use_proj:
            self.summary = nn.Linear(config.n_embd, num_labels if config.summary_proj_to_labels else config.n_embd)
        chosen = get_activation(config.summary_activation) if config.summary_activation else nn.Identity()
        self.activation = chosen
        dropout = config.summary_first_dropout
        self.first_dropout: nn.Module = nn.Dropout(dropout) if dropout > 0 else nn.Identity()
        self.last_dropout = nn.Identity()  # older configurations had one; the name stays in the module tree

    def forward(self, hidden_states: Tensor, cls_index: Tensor | None = None) -> Tensor:
        """`hidden_states` `[B, N, T, C]`; `cls_index` `[B, N]` picks a token of each (None = the last)."""
        if self.summary_type == "first":
            chosen = hidden_states[..., 0, :]
        elif self.summary_type == "mean":
            chosen = hidden_states.mean(dim=-2)
        elif self.summary_type == "last" or cls_index is None:
            chosen = hidden_states[..., -1, :]
        else:
            index = cls_index[..., None, None].expand(*cls_index.shape, 1, hidden_states.shape[-1])
            chosen = hidden_states.gather(-2, index).squeeze(-2)
        return self.last_dropout(self.activation(self.summary(self.first_dropout(chosen))))


class GPT2DoubleHeadsModel(GenerationMixin, GPT2WithWordScores):
    """Two heads: the next word, and which of N continuations is right. Inputs are `[B, N, T]`."""

    def __init__(self, config: GPT2Config) -> None:
        super().__init__(config)
        self.transformer = GPT2Model(config)
        self.lm_head = products.Linear(config.n_embd, config.vocab_size, bias=False)
        self.multiple_choice_head = GPT2SequenceSummary(config, num_labels=1)
        self.post_init()

    def forward(
        self, input_ids: Tensor | None = None, past_key_values: KVCache | Sequence[Any] | None = None,
        attention_mask: Tensor | None = None, token_type_ids: Tensor | None = None, position_ids: Tensor | None = None,
        *, head_mask: Tensor | None = None, inputs_embeds: Tensor | None = None, mc_token_ids: Tensor | None = None,
        labels: Tensor | None = None, mc_labels: Tensor | None = None, use_cache: bool | None = None,
        output_attentions: bool | None = None, output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> Any:
        """`mc_token_ids` `[B, N]`: the token whose vector is scored; None = the last. For `summary_type` "cls_index".

        `labels` `[B, N, T]` give `loss`, `mc_labels` `[B]` (the right continuation) give `mc_loss`. `hidden_states`,
        as transformers has them, are `[B * N, T, C]` but for the last, which is `[B, N, T, C]`.
        """
        choices = check_choices(input_ids, inputs_embeds, attention_mask, token_type_ids, position_ids)
        self.check_choosing(input_ids if input_ids is not None else inputs_embeds, mc_token_ids, mc_labels)
        outputs = self.transformer(
            merge_choices(input_ids), past_key_values, merge_choices(attention_mask), merge_choices(token_type_ids),
            merge_choices(position_ids), head_mask=head_mask, inputs_embeds=merge_choices(inputs_embeds),
            use_cache=use_cache, output_attentions=output_attentions, output_hidden_states=output_hidden_states,
            return_dict=True,
        )
        merged = outputs.last_hidden_state  # [B * N, T, C]
        hidden_states = merged.view(-1, choices, *merged.shape[1:])  # [B, N, T, C]
        logits = self.lm_head(hidden_states)
        mc_logits = self.multiple_choice_head(hidden_states, mc_token_ids).squeeze(-1)
        loss, mc_loss = None, None
        if labels is not None:
            loss = losses.causal_language_model_loss(logits, labels)
        if mc_labels is not None:
            mc_loss = losses.multiple_choice_loss(mc_logits, mc_labels, "mc_labels")
        all_hidden = (*outputs.hidden_states[:-1], hidden_states) if outputs.hidden_states is not None else None
        output = GPT2DoubleHeadsModelOutput(
            loss=loss, mc_loss=mc_loss, logits=logits, mc_logits=mc_logits, past_key_values=outputs.past_key_values,
            hidden_states=all_hidden, attentions=outputs.attentions,
        )
        return self.returned(output, return_dict)


    def next_words(self, input_ids: Tensor | None = None, **inputs: Any) -> Any:
        """For `generate`: the forward with one continuation each, so inputs `[B, T]` give `logits` `[B, T, V]`."""
        inputs = {**inputs, "input_ids": input_ids}
        for name in ("input_ids", "inputs_embeds", "attention_mask", "token_type_ids", "position_ids"):
            if inputs.get(name) is not None:
                inputs[name] = inputs[name][:, None]
        output = self(**inputs)
        output.logits = output.logits[:, 0]
        if output.hidden_states is not None:
            output.hidden_states = (*output.hidden_states[:-1], output.hidden_states[-1][:, 0])
        return output

    @property
    def dummy_inputs(self) -> dict[str, Tensor]:
        """`input_ids` `[3, 1, 5]`: one continuation each."""
        return {name: value[:, None] for name, value in super().dummy_inputs.items()}

    def check_choosing(self, given: Any, mc_token_ids: Tensor | None, mc_labels: Tensor | None) -> None:
        """Which token is scored, and which choice is right; `given` is `[B, N, T, ...]`."""
        config = self.config
        if mc_labels is not None and not (config.summary_use_proj and config.summary_proj_to_labels):
            raise ValueError(
                "mc_labels need a score for each choice, but this model makes a vector of it: set "
                "config.summary_use_proj and config.summary_proj_to_labels, or leave mc_labels out."
            )
        if mc_token_ids is None:
            return
        if config.summary_type != "cls_index":
            raise ValueError(f"mc_token_ids have no effect with summary_type {config.summary_type!r}: leave them out.")
        if isinstance(mc_token_ids, Tensor) and mc_token_ids.shape != given.shape[:2]:
            raise ValueError(
                f"mc_token_ids has shape {list(mc_token_ids.shape)}; expected {list(given.shape[:2])}, a position for "
                "each choice."
            )
        check_ids(mc_token_ids, given.shape[2], "mc_token_ids", "the number of positions")


class GPT2ForSequenceClassification(GPT2PreTrainedModel):
    """One label, several or a number for the sequence, from its last token: the only one that has seen it all."""

    def __init__(self, config: GPT2Config) -> None:
        super().__init__(config)
        self.num_labels = config.num_labels
        self.transformer = GPT2Model(config)
        self.score = nn.Linear(config.n_embd, self.num_labels, bias=False)
        self.post_init()

    @property
    def dummy_inputs(self) -> dict[str, Tensor]:
        """`input_ids` `[3, 5]`; only the first row without a padding token, which a batch needs."""
        rows = 1 if self.config.pad_token_id is None else 3
        return {name: value[:rows] for name, value in super().dummy_inputs.items()}

    def forward(
        self, input_ids: Tensor | None = None, past_key_values: KVCache | Sequence[Any] | None = None,
        attention_mask: Tensor | None = None, token_type_ids: Tensor | None = None, position_ids: Tensor | None = None,
        *, head_mask: Tensor | None = None, inputs_embeds: Tensor | None = None, labels: Tensor | None = None,
        use_cache: bool | None = None, output_attentions: bool | None = None, output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> Any:
        """`labels` and their loss follow `config.problem_type`: see `losses.sequence_classification_loss`.

        The last token of a row is the last that is not `config.pad_token_id`, on whichever side the padding stands;
        without such an id, and for `inputs_embeds`, it is the last position, so then a batch must not be padded on the
        right.
        """
        pad_token_id = self.config.pad_token_id
        if input_ids is not None and pad_token_id is None and input_ids.shape[0] > 1:
            raise ValueError(
                "the last token of each row is found by config.pad_token_id, which is None: set it, or classify one "
                "sequence at a time."
            )
        outputs = self.transformer(
            input_ids, past_key_values, attention_mask, token_type_ids, position_ids, head_mask=head_mask,
            inputs_embeds=inputs_embeds, use_cache=use_cache, output_attentions=output_attentions,
            output_hidden_states=output_hidden_states, return_dict=True,
        )
        if input_ids is None:
            warn_of_padding_at_the_end(attention_mask)
        logits = self.score(outputs.last_hidden_state)  # [B, T, N]
        last = torch.full((logits.shape[0],), logits.shape[1] - 1, device=logits.device)  # [B]
        if input_ids is not None and pad_token_id is not None:
            position = torch.arange(input_ids.shape[1], device=logits.device)  # [T]
            last = (position * (input_ids != pad_token_id)).argmax(-1)  # [B]
        pooled_logits = logits[torch.arange(logits.shape[0], device=logits.device), last]  # [B, N]
        loss = None
        if labels is not None:
            loss = losses.sequence_classification_loss(pooled_logits, labels, self.config.problem_type)
        output = SequenceClassifierOutputWithPast(
            loss=loss, logits=pooled_logits, past_key_values=outputs.past_key_values,
            hidden_states=outputs.hidden_states, attentions=outputs.attentions,
        )
        return self.returned(output, return_dict)


class GPT2ForTokenClassification(GPT2PreTrainedModel):
    """A label for every token, from the tokens up to it."""

    def __init__(self, config: GPT2Config) -> None:
        super().__init__(config)
        self.num_labels = config.num_labels
        self.transformer = GPT2Model(config)
        self.dropout = nn.Dropout(0.1 if config.classifier_dropout is None else config.classifier_dropout)
        self.classifier = nn.Linear(config.n_embd, config.num_labels)
        self.post_init()

    def forward(
        self, input_ids: Tensor | None = None, past_key_values: KVCache | Sequence[Any] | None = None,
        attention_mask: Tensor | None = None, token_type_ids: Tensor | None = None, position_ids: Tensor | None = None,
        *, head_mask: Tensor | None = None, inputs_embeds: Tensor | None = None, labels: Tensor | None = None,
        use_cache: bool | None = None, output_attentions: bool | None = None, output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> Any:
        """`labels` `[B, T]`: 0 ... N - 1, or -100 = not scored. A cache is filled, if it is given, but not returned."""
        if use_cache and past_key_values is None:
            raise ValueError(
                "use_cache=True has no effect: this class returns no cache. Give it one to fill, "
                "past_key_values=minitf.KVCache(), or leave it out."
            )
        outputs = self.transformer(
            input_ids, past_key_values, attention_mask, token_type_ids, position_ids, head_mask=head_mask,
            inputs_embeds=inputs_embeds, use_cache=use_cache, output_attentions=output_attentions,
            output_hidden_states=output_hidden_states, return_dict=True,
        )
        logits = self.classifier(self.dropout(outputs.last_hidden_state))  # [B, T, N]
        loss = losses.token_classification_loss(logits, labels) if labels is not None else None
        output = TokenClassifierOutput(
            loss=loss, logits=logits, hidden_states=outputs.hidden_states, attentions=outputs.attentions,
        )
        return self.returned(output, return_dict)


class GPT2ForQuestionAnswering(GPT2PreTrainedModel):
    """Where in the text does the answer start, and where does it end?"""

    def __init__(self, config: GPT2Config) -> None:
        super().__init__(config)
        self.num_labels = config.num_labels
        self.transformer = GPT2Model(config)
        self.qa_outputs = nn.Linear(config.n_embd, 2)
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
        outputs = self.transformer(
            input_ids, None, attention_mask, token_type_ids, position_ids, head_mask=head_mask,
            inputs_embeds=inputs_embeds, output_attentions=output_attentions,
            output_hidden_states=output_hidden_states, return_dict=True,
        )
        logits = self.qa_outputs(outputs.last_hidden_state)  # [B, T, 2]
        start_logits, end_logits = logits[..., 0].contiguous(), logits[..., 1].contiguous()  # [B, T], [B, T]
        loss = None
        if start_positions is not None and end_positions is not None:
            loss = losses.question_answering_loss(start_logits, end_logits, start_positions, end_positions)
        output = QuestionAnsweringModelOutput(
            loss=loss, start_logits=start_logits, end_logits=end_logits, hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )
        return self.returned(output, return_dict)
