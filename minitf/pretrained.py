"""PreTrainedModel: what every model class does besides computing. Initialise, tie, resize, prune, load, save.

It knows no architecture: a model class declares the few facts that differ (`config_class`, `base_model_prefix`,
`size_rules`, `init_rules`, `tied_weights`) as data, and the code here follows them. How a checkpoint becomes a model
stands in `minitf.loading`.
"""

from __future__ import annotations

import copy
import inspect
import operator
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import torch
from torch import Tensor, nn

from minitf import masks
from minitf.attention import function_named
from minitf.cache import KVCache
from minitf.checks import check_attention_mask, tracing
from minitf.config import PretrainedConfig
from minitf.keywords import nearest_name, refuse_unknown, strict_keywords

if TYPE_CHECKING:
    from minitf.outputs import ModelOutput
    from weights_tools.report import LoadReport

__all__ = [
    "INIT_RULES",
    "InitRule",
    "PreTrainedModel",
    "find_pruneable_heads_and_indices",
    "normal",
    "prune_linear_layer",
    "zeros",
]

Model = TypeVar("Model", bound="PreTrainedModel")


# --------------------------------------------------------------------------------------------------------------------
# Initialisation: one table


InitRule = tuple[type[nn.Module], str, Callable[[nn.Module, Tensor, PretrainedConfig], None]]
"""(type of module, name of its parameter, what fills it)."""


def normal(module: nn.Module, parameter: Tensor, config: Any) -> None:
    """Gaussian around 0 with the standard deviation `initializer_range` (0.02 in both papers' code)."""
    parameter.normal_(mean=0.0, std=config.initializer_range)


def normal_without_padding(module: nn.Module, parameter: Tensor, config: Any) -> None:
    """As `normal`, but the row of the padding token is 0."""
    normal(module, parameter, config)
    padding_idx = getattr(module, "padding_idx", None)
    if padding_idx is not None:
        parameter[padding_idx].zero_()


def zeros(module: nn.Module, parameter: Tensor, config: Any) -> None:
    parameter.zero_()


def ones(module: nn.Module, parameter: Tensor, config: Any) -> None:
    parameter.fill_(1.0)


INIT_RULES: tuple[InitRule, ...] = (
    (nn.Linear, "weight", normal),
    (nn.Linear, "bias", zeros),
    (nn.Embedding, "weight", normal_without_padding),
    (nn.LayerNorm, "weight", ones),
    (nn.LayerNorm, "bias", zeros),
)
"""How fresh parameters are filled. Modules are visited children first, in the order of the module tree, and torch's own
defaults were drawn before, while the modules were built: in this order the same seed gives transformers' weights."""


# --------------------------------------------------------------------------------------------------------------------
# The base class


class PreTrainedModel(nn.Module):
    """Base of all models; see the head of this file.

    Args:
        config: an instance of the class's `config_class`; the model keeps a reference, so switches such as
            `model.config.output_attentions = True` act on the next call.

    Raises:
        TypeError: another kind of configuration.
        ValueError: the configuration contradicts itself.
    """

    config_class: ClassVar[type[PretrainedConfig]] = PretrainedConfig
    base_model_prefix: ClassVar[str] = ""
    """Name under which a head class holds its trunk, e.g. "bert"."""
    always_decodes: ClassVar[bool] = False
    """Whether the architecture is a decoder whatever the configuration says."""
    supports_gradient_checkpointing: ClassVar[bool] = True
    init_rules: ClassVar[tuple[InitRule, ...]] = INIT_RULES
    size_rules: ClassVar[dict[str, tuple[str, ...]]] = {}
    """Tensor of the trunk -> the configuration keys that give its shape, for errors in the configuration's words."""
    input_embeddings_path: ClassVar[str] = ""
    """Where the trunk keeps the module that turns token ids into vectors."""
    layers_rule: ClassVar[tuple[str, str]] = ("", "")
    """(name of layer {} in the trunk, the configuration key that counts the layers)."""
    fresh_parts: ClassVar[tuple[str, ...]] = ()
    """Parts of the trunk that a checkpoint may lack; they are then newly initialised and named."""
    head_parts: ClassVar[tuple[str, ...]] = ()
    """Where this family's task heads live: such weights may stay unused by a class without that head."""
    tied_weights: ClassVar[dict[str, str]] = {}
    """Parameter -> the parameter that it shares, if `config.tie_word_embeddings`."""

    forward_names: ClassVar[frozenset[str]] = frozenset()
    """The parameters of `forward`; set for every class when it is defined."""

    load_report: LoadReport | None = None
    """What `from_pretrained` read, renamed, dropped and newly initialised; None for a model built from a config."""

    def __init__(self, config: PretrainedConfig) -> None:
        super().__init__()
        self.config: Any = config
        if not isinstance(config, self.config_class):
            raise TypeError(
                f"{type(self).__name__} needs a {self.config_class.__name__} of minitf, and got a "
                f"{type(config).__module__}.{type(config).__qualname__}; for a folder or a name there is "
                f"{type(self).__name__}.from_pretrained, for another library's configuration "
                f"{self.config_class.__name__}.from_dict(config.to_dict())."
            )
        config.validate()
        function_named(config.attn_implementation)  # an unknown name is an error now, not at the first call

    def __init_subclass__(cls, **settings: Any) -> None:
        super().__init_subclass__(**settings)
        cls.forward_names = frozenset(inspect.signature(cls.forward).parameters) - {"self"}

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """As torch's, after a misspelt keyword was refused with the nearest real one."""
        if not self.forward_names.issuperset(kwargs) and "forward" not in self.__dict__:
            refuse_unknown(f"{type(self).__name__}.forward", kwargs, sorted(self.forward_names))
        return super().__call__(*args, **kwargs)

    def post_init(self) -> None:
        """The end of every model's constructor: fresh weights and ties, and the heads that the configuration prunes."""
        self.init_weights()
        if self.base_model is self and self.config.pruned_heads:
            self._cut(self.config.pruned_heads)

    def init_weights(self) -> None:
        """Fill all parameters by `init_rules`, then tie. A trunk inside a head class has filled its own already."""
        for target, source in self.ties().items():
            in_trunk = source.startswith(f"{self.base_model_prefix}.")  # where its own rule has filled it
            if in_trunk and self.get_parameter(target) is self.get_parameter(source):
                owner, _, name = target.rpartition(".")
                setattr(self.get_submodule(owner), name, nn.Parameter(torch.empty_like(self.get_parameter(source))))
        if self.device.type != "meta":
            self._fill(self, None)
        self.tie_weights()
        self._copy_weights()

    @torch.no_grad()
    def _fill(self, module: nn.Module, only: set[str] | None, path: str = "") -> None:
        """Apply the table to `module`, children first; `only` restricts it to these parameter names."""
        for name, child in module.named_children():
            if only is None and isinstance(child, PreTrainedModel):
                continue
            self._fill(child, only, f"{path}{name}.")
        for name, parameter in module.named_parameters(recurse=False):
            if only is not None and path + name not in only:
                continue
            for module_type, parameter_name, fill in self.init_rules:
                if isinstance(module, module_type) and name == parameter_name:
                    fill(module, parameter, self.config)
        for module_type, inner_name, fill in self.init_rules:  # a rule for a parameter of a child: drawn again, last
            if "." in inner_name and isinstance(module, module_type) and (only is None or path + inner_name in only):
                fill(module, module.get_parameter(inner_name), self.config)

    def read_beside(self, folder: Path) -> None:
        """Read what belongs to the model and lies beside its weights; `GenerationMixin` does."""

    def files_beside(self) -> dict[str, bytes | None]:
        """The same, to be written with the weights: name -> content, None removes what another model left there."""
        return {"generation_config.json": None}

    # -- the tree --------------------------------------------------------------------------------------------------

    @property
    def base_model(self) -> Any:
        """The trunk: the submodule named `base_model_prefix`, or the model itself if it is the trunk."""
        return getattr(self, self.base_model_prefix, self)

    @property
    def dummy_inputs(self) -> dict[str, Tensor]:
        """A small batch that the model accepts, for tracing and smoke tests: `input_ids` `[3, 5]`."""
        ids = [[7, 6, 0, 0, 1], [1, 2, 3, 0, 0], [0, 0, 0, 4, 5]]
        return {"input_ids": torch.tensor(ids, device=self.device) % self.config.vocab_size}

    @property
    def device(self) -> torch.device:
        """Device of the parameters (of the first, should they differ)."""
        return next(self.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """dtype of the parameters (of the first floating-point one, should they differ)."""
        return next(p.dtype for p in self.parameters() if p.is_floating_point())

    def num_parameters(self, only_trainable: bool = False, exclude_embeddings: bool = False) -> int:
        """Number of parameters; shared ones count once.

        Args:
            only_trainable: leave out those with `requires_grad = False`.
            exclude_embeddings: leave out the weights of all `nn.Embedding` modules.
        """
        embeddings = (
            {id(m.weight) for m in self.modules() if isinstance(m, nn.Embedding)} if exclude_embeddings else set()
        )
        return sum(
            p.numel() for p in self.parameters() if (p.requires_grad or not only_trainable) and id(p) not in embeddings
        )

    def get_memory_footprint(self) -> int:
        """Bytes of all parameters and buffers; shared ones count once."""
        return sum(t.numel() * t.element_size() for t in [*self.parameters(), *self.buffers()])

    def get_input_embeddings(self) -> nn.Embedding:
        """The module that turns token ids into vectors."""
        embeddings: nn.Embedding = self.base_model.get_submodule(self.input_embeddings_path)
        return embeddings

    def set_input_embeddings(self, value: nn.Embedding) -> None:
        """Replace the module that turns token ids into vectors; the tied scoring matrix follows.

        Raises:
            ValueError: another width, or another number of rows (that is what `resize_token_embeddings` is for).
        """
        shape, expected = (value.num_embeddings, value.embedding_dim), (self.config.vocab_size, self.config.hidden_size)
        if shape != expected:
            raise ValueError(
                f"the new embeddings have {shape[0]} rows of {shape[1]}; vocab_size is {expected[0]} "
                f"and hidden_size {expected[1]}: resize_token_embeddings changes the number of rows."
            )
        owner, _, name = self.input_embeddings_path.rpartition(".")
        setattr(self.base_model.get_submodule(owner), name, value)
        self.tie_weights()
        self._copy_weights()

    def __repr__(self) -> str:
        # one line instead of torch's tree of some hundred; a submodule still prints as a tree: print(model.encoder)
        layers = getattr(self.config, self.layers_rule[1], "?")
        return (
            f"{type(self).__name__}({layers} layers, {self.num_parameters():,} parameters, "
            f"{str(self.dtype).removeprefix('torch.')}, {self.device})"
        )

    # -- ties ------------------------------------------------------------------------------------------------------

    def ties(self) -> dict[str, str]:
        """The ties in force: parameter -> the parameter that it shares.

        Without `config.tie_word_embeddings` the scoring matrix is a parameter of its own; a tie inside the head (the
        bias, which has two names) stays. `config.torchscript` unties too, because a traced graph cannot share.
        """
        embeddings = f"{self.base_model_prefix}."
        untied = not self.config.tie_word_embeddings or getattr(self.config, "torchscript", False)
        return {t: s for t, s in self.tied_weights.items() if not (untied and s.startswith(embeddings))}

    def copies(self) -> dict[str, str]:
        """Under `config.torchscript`: parameter -> the parameter whose values it begins with instead of sharing it."""
        in_force = self.ties() if self.config.tie_word_embeddings else self.tied_weights
        return {target: source for target, source in self.tied_weights.items() if target not in in_force}

    def tie_weights(self) -> None:
        """Let every tied parameter be the one that it shares."""
        for target, source in self.ties().items():
            owner, _, name = target.rpartition(".")
            setattr(self.get_submodule(owner), name, self.get_parameter(source))

    def _copy_weights(self) -> None:
        for target, source in self.copies().items():
            owner, _, name = target.rpartition(".")
            setattr(self.get_submodule(owner), name, nn.Parameter(self.get_parameter(source).detach().clone()))

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        """Behind `to`, `half`, `cuda`, ...: a move that replaces parameters must not break the ties."""
        move: Any = super()._apply
        moved = move(fn, recurse)
        self._share()
        return moved

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """As torch's; tied names stay one parameter also under `assign=True`."""
        result = super().load_state_dict(state_dict, strict=strict, assign=assign)
        self._share()
        return result

    def _share(self) -> None:
        for target, source in self.ties().items():
            owner, _, name = target.rpartition(".")
            setattr(self.get_submodule(owner), name, self.get_parameter(source))

    def check_ties(self) -> None:
        """Every tie in force holds. Runs before saving, where the two names are stored once.

        Raises:
            RuntimeError: a tied parameter was replaced, and its new values would be lost without a word.
        """
        for target, source in self.ties().items():
            if self.get_parameter(target) is not self.get_parameter(source):
                raise RuntimeError(
                    f"{target} and {source} are tied by the configuration, but are two different parameters now: call "
                    "tie_weights() to share again (the first is dropped), or set config.tie_word_embeddings = False."
                )

    def get_output_embeddings(self) -> nn.Linear | None:
        """The layer that scores the words of the vocabulary, or None in a class without one."""
        return None

    def check_output_embeddings(self, new_embeddings: nn.Linear) -> None:
        """A replacement for the scoring layer must fit the configuration and its ties.

        Raises:
            ValueError: wrong shape, no bias, or a matrix of its own although the configuration ties it.
        """
        shape = (self.config.vocab_size, self.config.hidden_size)
        old = self.get_output_embeddings()
        has_bias, needs_bias = new_embeddings.bias is not None, old is not None and old.bias is not None
        if tuple(new_embeddings.weight.shape) != shape or has_bias != needs_bias:
            raise ValueError(
                f"the new output embeddings have the shape {list(new_embeddings.weight.shape)} and "
                f"{'a' if has_bias else 'no'} bias; expected {list(shape)} and {'a' if needs_bias else 'no'} bias."
            )
        tied = any(source.startswith(f"{self.base_model_prefix}.") for source in self.ties().values())
        if tied and new_embeddings.weight is not self.get_input_embeddings().weight:
            raise ValueError(
                "the output embeddings are tied to the input embeddings, so a matrix of their own would have no "
                "effect: set config.tie_word_embeddings = False first, or share the weight of get_input_embeddings()."
            )

    def resize_token_embeddings(self, new_num_tokens: int | None = None, pad_to_multiple_of: int | None = None) -> Any:
        """Change the vocabulary to `new_num_tokens` rows: old rows keep their bits, new ones need training.

        The scoring matrix and its bias follow, tied or not, and so does `config.vocab_size`.

        Args:
            new_num_tokens: rows; None = as many as there are.
            pad_to_multiple_of: round the number of rows up to a multiple of this.

        Returns:
            The input embeddings, an `nn.Embedding`.

        Raises:
            ValueError: not a positive number, or one that would cut off a special token of the configuration.
        """
        old = self.get_input_embeddings()
        rows = old.num_embeddings if new_num_tokens is None else new_num_tokens
        multiple = 1 if pad_to_multiple_of is None else pad_to_multiple_of
        for name, number in (("new_num_tokens", rows), ("pad_to_multiple_of", multiple)):
            if isinstance(number, bool) or not isinstance(number, int) or number < 1:
                raise ValueError(f"{name} = {number!r}: expected an integer >= 1.")
        rows = -(-rows // multiple) * multiple
        if rows == old.num_embeddings:
            return old  # the same parameters, which an optimiser may hold
        self._check_special_tokens(old, rows)
        fresh = nn.Embedding(rows, old.embedding_dim, padding_idx=old.padding_idx).to(
            old.weight.device, old.weight.dtype
        )
        self._fill(fresh, None)
        old.weight = grown(fresh.weight, old.weight)
        old.num_embeddings = rows
        self.config.vocab_size = rows
        decoder = self.get_output_embeddings()
        if decoder is not None:
            self._resize_scores(decoder, rows)
        self.tie_weights()
        return old

    def _check_special_tokens(self, embeddings: nn.Embedding, rows: int) -> None:
        """A padding or end token without a row would be looked for in vain, without a word."""
        if embeddings.padding_idx is not None and embeddings.padding_idx >= rows:
            raise ValueError(f"{rows} rows would cut off the padding token {embeddings.padding_idx}.")
        for name in ("pad_token_id", "bos_token_id", "eos_token_id"):
            value = getattr(self.config, name, None)
            for token in value if isinstance(value, list) else [value]:
                if token is not None and rows <= token < embeddings.num_embeddings:
                    raise ValueError(f"{rows} rows would cut off config.{name} = {value}: set another one first.")

    def _resize_scores(self, decoder: nn.Linear, rows: int) -> None:
        fresh = nn.Linear(decoder.in_features, rows, bias=decoder.bias is not None)
        fresh = fresh.to(decoder.weight.device, decoder.weight.dtype)
        self._fill(fresh, None)
        decoder.weight = grown(fresh.weight, decoder.weight)
        for target, source in [*self.tied_weights.items()]:
            if decoder.bias is not None and self.get_parameter(target) is decoder.bias:
                owner, _, name = source.rpartition(".")
                setattr(self.get_submodule(owner), name, grown(fresh.bias, decoder.bias))
        decoder.out_features = rows

    # -- heads -----------------------------------------------------------------------------------------------------

    def attention_modules(self, layer: int) -> list[Any]:
        """The attention modules of a layer that pruning cuts; each architecture says which."""
        raise NotImplementedError(f"{type(self).__name__} does not say where its attention modules are.")

    def get_head_mask(
        self, head_mask: Tensor | None, num_hidden_layers: int, *, batch: int | None = None
    ) -> Sequence[Tensor | None]:
        """A head mask of any accepted shape as one factor for each layer, broadcastable to `[B, H, T, S]`.

        Args:
            head_mask: `[H]` (every layer), `[L, H]`, `[B, L, H]`, or the classic five-dimensional
                `[L, 1 or B, 1 or H, 1 or T, 1 or S]`; numbers or booleans. None = no head is masked.
            num_hidden_layers: L.
            batch: B, to check `[B, L, H]`.

        Raises:
            TypeError: not a tensor. ValueError: another shape, NaN or infinity.
        """
        if head_mask is None:
            return [None] * num_hidden_layers
        if not isinstance(head_mask, Tensor):
            raise TypeError(f"head_mask is a {type(head_mask).__name__}; expected a tensor, a factor for each head.")
        if not tracing() and not bool(torch.isfinite(head_mask).all()):
            raise ValueError("head_mask holds NaN or infinity; expected a factor for each head, 1 = unchanged.")
        layers, heads = num_hidden_layers, self.config.num_attention_heads
        shape = tuple(head_mask.shape)
        head_mask = head_mask.to(self.dtype)
        if shape == (heads,):
            return [head_mask[None, :, None, None]] * layers  # [1, H, 1, 1]
        if shape == (layers, heads):
            return [row[None, :, None, None] for row in head_mask]  # [1, H, 1, 1]
        if len(shape) == 3 and shape[1:] == (layers, heads) and (batch is None or shape[0] == batch):
            return [head_mask[:, layer, :, None, None] for layer in range(layers)]  # [B, H, 1, 1]
        if (
            len(shape) == 5
            and shape[0] == layers
            and shape[2] in (1, heads)
            and (batch is None or shape[1] in (1, batch))
        ):
            return list(head_mask.expand(-1, -1, heads, -1, -1))  # [1 or B, H, 1 or T, 1 or S]
        raise ValueError(
            f"head_mask has shape {list(shape)}; expected [{heads}], [{layers}, {heads}] or "
            f"[{'batch' if batch is None else batch}, {layers}, {heads}] (heads; layers, heads; batch, layers, heads)."
        )

    def prune_heads(self, heads_to_prune: Mapping[int, Sequence[int]]) -> None:
        """Remove attention heads for good: their rows and columns leave the matrices.

        Args:
            heads_to_prune: `{layer: [heads]}` in the numbers of the unpruned model; layers and heads may be negative,
                counted from the end. Calls add up, and all heads of a layer may go (then only its biases are left).

        `config.pruned_heads` records all pruned heads and is applied again when the saved model is loaded.

        Raises:
            ValueError: a layer or head that does not exist.
        """
        layers = getattr(self.config, self.layers_rule[1])
        heads = self.config.num_attention_heads
        wanted: dict[int, set[int]] = {}
        for layer, numbers in heads_to_prune.items():
            cut = wanted.setdefault(counted_from_end("layer", layer, layers), set())
            cut.update(counted_from_end("head", number, heads) for number in numbers)
        self._cut(wanted)
        merged = {layer: set(cut) for layer, cut in self.config.pruned_heads.items()}
        for layer, new in wanted.items():
            merged[layer] = merged.get(layer, set()) | new
        self.config.pruned_heads = {layer: sorted(merged[layer]) for layer in sorted(merged) if merged[layer]}

    def _prune_heads(self, heads_to_prune: Mapping[int, Sequence[int]]) -> None:
        """The classic name of `prune_heads`."""
        self.prune_heads(heads_to_prune)

    def check_pruned_heads(self) -> None:
        """The configuration records what was cut. Runs before saving, where it is the only record.

        Raises:
            RuntimeError: heads were cut in a submodule, past `prune_heads`.
        """
        for layer in range(getattr(self.config, self.layers_rule[1])):
            for attention in self.attention_modules(layer):
                recorded = set(self.config.pruned_heads.get(layer, []))
                if attention.pruned_heads != recorded:
                    raise RuntimeError(
                        f"layer {layer} lacks the heads {sorted(attention.pruned_heads)}, but config.pruned_heads says "
                        f"{sorted(recorded)}: prune with model.prune_heads, which records it."
                    )

    def _cut(self, heads: Mapping[int, Any]) -> None:
        for layer, numbers in heads.items():
            for attention in self.attention_modules(layer):
                attention.prune_heads(set(numbers))

    # -- masks, by the classic names -------------------------------------------------------------------------------

    def get_extended_attention_mask(
        self, attention_mask: Tensor, input_shape: Sequence[int], *, dtype: torch.dtype | None = None
    ) -> Tensor:
        """The classic additive mask `[B, 1, 1 or T, S]`: 0 = allowed, `finfo(dtype).min` = not; causal in a decoder.

        For code written against transformers 4.x; the models here build a boolean mask instead (`minitf.masks`).

        Args:
            attention_mask: `[B, S]` or `[B, T, S]`, 1 = token.
            input_shape: (B, T).
            dtype: of the result; None = the model's.

        Raises:
            TypeError, ValueError: as for the `attention_mask` of a call.
        """
        batch, length = input_shape
        keys = attention_mask.shape[-1] if isinstance(attention_mask, Tensor) else length
        check_attention_mask(attention_mask, batch=batch, query_length=length, key_length=keys)
        mask = masks.broadcastable(attention_mask.to(torch.bool))
        assert mask is not None
        if attention_mask.dim() == 2 and (self.always_decodes or self.config.is_decoder):
            mask = mask & masks.causal(length, keys, attention_mask.device)
        return masks.additive(mask, dtype or self.dtype)

    def invert_attention_mask(self, encoder_attention_mask: Tensor) -> Tensor:
        """The classic additive form of an encoder's padding mask: `[B, S]` or `[B, T, S]` -> `[B, 1, 1 or T, S]`."""
        shape = encoder_attention_mask.shape
        check_attention_mask(
            encoder_attention_mask,
            batch=shape[0],
            query_length=shape[-2],
            key_length=shape[-1],
            name="encoder_attention_mask",
        )
        mask = masks.broadcastable(encoder_attention_mask.to(torch.bool))
        assert mask is not None
        return masks.additive(mask, self.dtype)

    # -- memory ----------------------------------------------------------------------------------------------------

    def gradient_checkpointing_enable(self, gradient_checkpointing_kwargs: Mapping[str, Any] | None = None) -> None:
        """From now on, while training, recompute each layer's activations in the backward pass."""
        given = dict(gradient_checkpointing_kwargs or {})
        if given.pop("use_reentrant", False) or given:
            raise ValueError(
                f"gradient_checkpointing_kwargs = {gradient_checkpointing_kwargs!r}: only use_reentrant=False is "
                "implemented, the form of torch.utils.checkpoint that computes the same gradients in every case."
            )
        self._set_gradient_checkpointing(True)

    def gradient_checkpointing_disable(self) -> None:
        """Store activations again."""
        self._set_gradient_checkpointing(False)

    @property
    def is_gradient_checkpointing(self) -> bool:
        """Whether any part of the model recomputes its activations."""
        return any(getattr(module, "gradient_checkpointing", False) for module in self.modules())

    def wants_cache(self, use_cache: bool | None, past_key_values: Any) -> bool:
        """Whether a call of the trunk keeps keys and values: the argument, else the configuration's default.

        Raises:
            ValueError: a cache is asked for where there can be none.
        """
        asked = bool(use_cache) or past_key_values is not None
        if not (self.always_decodes or self.config.is_decoder):
            if asked:
                raise ValueError(
                    "use_cache and past_key_values need a decoder (config.is_decoder = True): in an encoder every "
                    "token attends to the later ones too, so earlier keys and values change with each new token."
                )
            return False
        if self.training and self.is_gradient_checkpointing:
            if asked:
                raise ValueError(
                    "a cache cannot be used with gradient checkpointing, which runs layers twice: pass "
                    "use_cache=False, or call model.gradient_checkpointing_disable()."
                )
            return False  # config.use_cache is a default, and this call cannot follow it
        return bool(self.config.use_cache) if use_cache is None else use_cache

    def _set_gradient_checkpointing(self, value: bool) -> None:
        parts: list[Any] = [module for module in self.modules() if hasattr(module, "gradient_checkpointing")]
        for module in parts:
            module.gradient_checkpointing = value

    # -- results ---------------------------------------------------------------------------------------------------

    def returned(self, output: ModelOutput, return_dict: bool | None) -> Any:
        """The output object, or its plain tuple if `return_dict` (or the configuration) says so.

        Under `config.torchscript` a cache in the tuple is the classic tuple too, because a traced graph returns
        nothing but tensors and tuples.
        """
        torchscript = getattr(self.config, "torchscript", False)
        if return_dict is None:
            return_dict = self.config.return_dict and not torchscript
        if return_dict:
            return output
        values = output.to_tuple()
        return tuple(tuple(v) if isinstance(v, KVCache) else v for v in values) if torchscript else values

    # -- disk ------------------------------------------------------------------------------------------------------

    @classmethod
    def from_pretrained(
        cls: type[Model],
        pretrained_model_name_or_path: str | os.PathLike[str] | None,
        *,
        config: PretrainedConfig | str | os.PathLike[str] | None = None,
        state_dict: Mapping[str, Tensor] | None = None,
        dtype: torch.dtype | str | None = None,
        torch_dtype: torch.dtype | str | None = None,
        attn_implementation: str | None = None,
        strict: bool | str = "auto",
        ignore_mismatched_sizes: bool = False,
        mmap: bool = False,
        dialect: str | None = None,
        output_loading_info: bool = False,
        cache_dir: str | os.PathLike[str] | None = None,
        revision: str = "main",
        subfolder: str = "",
        variant: str | None = None,
        local_files_only: bool = False,
        token: str | bool | None = None,
        endpoint: str | None = None,
        **settings: Any,
    ) -> Any:
        """A model with the weights of a checkpoint, in `eval()` mode, with `model.load_report`.

        Args:
            pretrained_model_name_or_path: a folder, one weights file, or a name on the Hugging Face hub.
            config: a configuration object (copied) or a path to one; None = `config.json` beside the weights.
            state_dict: weights in memory (copied) in place of those of the folder, by the same rules; the first
                argument may then be None, if `config` is given.
            dtype, torch_dtype: a dtype or its name; None or "auto" = what `config.json` says, else what the file holds.
            attn_implementation: "sdpa" (default), "eager" or a registered name.
            strict: "auto" = every weight of the trunk must be there and every key of the file must be explained; a task
                head that the file does not hold is newly initialised and named in one line. True = nothing may be
                newly initialised. False = load what fits, and say what did not.
            ignore_mismatched_sizes: initialise *heads* of another shape anew (another number of labels, say).
            mmap: let parameters share the pages of the mapped file instead of memory of their own: faster to load,
                but the file must not change while the model lives. safetensors only, without a change of dtype.
            dialect: whose names and layouts the file has, a name of `weights_tools.tables.DIALECTS` ("google-bert",
                "nanogpt", ...); None = recognised by the names, with the reason in the report.
            output_loading_info: return `(model, {"missing_keys": [], "unexpected_keys": [], "mismatched_keys": []})`.
            subfolder, variant: the folder inside where the files are; "fp16" = the weights in model.fp16.safetensors.
            cache_dir, revision, local_files_only, token, endpoint: for names, see `weights_tools.hub.resolve`.
            **settings: keys of the configuration to replace (`num_labels=5`), or arguments of the model's constructor.

        Raises:
            FileNotFoundError: no such folder, or no weights in it. ValueError: a broken or hostile file, a bad value.
            RuntimeError: the weights do not fit the model, or a number not the `dtype`; with the folded report.
            TypeError: an unknown setting; one that says where to look for weights that are given (`state_dict`).
        """
        from minitf.loading import load_pretrained

        if dtype is not None and torch_dtype is not None:
            raise TypeError("dtype and torch_dtype are two names of one argument: give one.")
        model = load_pretrained(
            cls,
            pretrained_model_name_or_path,
            config=config,
            state_dict=state_dict,
            dtype=dtype if dtype is not None else torch_dtype,
            attn_implementation=attn_implementation,
            strict=strict,
            ignore_mismatched_sizes=ignore_mismatched_sizes,
            mmap=mmap,
            dialect=dialect,
            hub={"cache_dir": cache_dir, "revision": revision, "local_files_only": local_files_only, "token": token}
            | {"subfolder": subfolder, "variant": variant, "endpoint": endpoint},
            settings=settings,
        )
        if not output_loading_info:
            return model
        report = model.load_report
        assert report is not None
        return model, {
            "missing_keys": list(report.missing),
            "unexpected_keys": list(report.unexpected),
            "mismatched_keys": list(report.misshapen),
        }

    @strict_keywords
    def save_pretrained(
        self,
        save_directory: str | os.PathLike[str],
        *,
        state_dict: Mapping[str, Tensor] | None = None,
        max_shard_size: int | str = "5GB",
        safe_serialization: bool = True,
    ) -> None:
        """Write `config.json`, the weights and, of a model that generates, `generation_config.json` into a folder.

        All or nothing, also if the process is killed. The files open in transformers by the same class name. A
        parameter that is shared is stored once. Weights that an earlier save left in the folder are replaced.

        Args:
            save_directory: the folder, made if need be.
            state_dict: the values to store in place of the model's own (an average of several, say): every name of the
                model's state dict, a shared parameter under either name.
            max_shard_size: bytes, or "5GB" (10^9), "50KiB" (2^10); larger models are written in several files.
            safe_serialization: False writes `pytorch_model.bin` instead of safetensors.

        Raises:
            TypeError, ValueError: `state_dict` is not one of this model; an unreadable size; an empty name.
            NotADirectoryError: the folder is a file. OSError: the disk is full, ...; the folder is then as before.
        """
        from minitf.saving import save_model

        save_model(
            self,
            save_directory,
            state_dict=state_dict,
            max_shard_size=max_shard_size,
            safe_serialization=safe_serialization,
        )


def counted_from_end(kind: str, number: Any, count: int) -> int:
    """A layer or head number as 0 ... count - 1; negative ones count from the end.

    Raises:
        ValueError: not an integer, or out of range.
    """
    try:
        exact = operator.index(number)
    except TypeError:
        exact = count
    if isinstance(number, bool) or not -count <= exact < count:
        raise ValueError(f"prune_heads: {kind} {number!r} does not exist; this model has {count} {kind}s.")
    return exact % count


def grown(fresh: Any, old: Tensor) -> Any:
    """`fresh` with as many rows of `old` as both have."""
    rows = min(fresh.shape[0], old.shape[0])
    with torch.no_grad():
        fresh[:rows] = old[:rows]
    fresh.requires_grad_(old.requires_grad)
    return fresh


def find_pruneable_heads_and_indices(
    heads: Iterable[int], n_heads: int, head_size: int, already_pruned_heads: set[int]
) -> tuple[set[int], Tensor]:
    """Which heads are still to be cut, and which rows of the present matrices stay.

    Args:
        heads: numbers in the unpruned model.
        n_heads: heads that are there now. head_size: D.
        already_pruned_heads: numbers, in the unpruned model, that were cut before.

    Returns:
        (the heads that are not cut yet, the indices that stay, a one-dimensional int64 tensor).

    Raises:
        ValueError: a head that the unpruned model does not have.
    """
    total = n_heads + len(already_pruned_heads)
    new = set(heads) - already_pruned_heads
    for head in new:
        if isinstance(head, bool) or not isinstance(head, int) or not 0 <= head < total:
            raise ValueError(f"head {head!r} does not exist: expected a number from 0 to {total - 1}.")
    present = [head for head in range(total) if head not in already_pruned_heads]
    kept = [place for place, head in enumerate(present) if head not in new]
    index = [place * head_size + i for place in kept for i in range(head_size)]
    return new, torch.tensor(index, dtype=torch.long)


def prune_linear_layer(layer: Any, index: Tensor, dim: int = 0) -> Any:
    """A copy of a linear layer with only these rows (`dim=0`) or columns (`dim=1`) of its weight.

    The bias follows the outputs, which are the rows of an `nn.Linear` and the columns of GPT-2's `Conv1D`.
    """
    linear = isinstance(layer, nn.Linear)
    sizes = ("out_features", "in_features") if linear else ("nx", "nf")
    chosen = index.to(layer.weight.device)
    smaller = copy.deepcopy(layer)
    setattr(smaller, sizes[dim], len(index))
    with torch.no_grad():
        weight = layer.weight.index_select(dim, chosen)
        smaller.weight = nn.Parameter(weight, requires_grad=layer.weight.requires_grad)
        if layer.bias is not None and dim == (0 if linear else 1):
            bias = layer.bias.index_select(0, chosen)
            smaller.bias = nn.Parameter(bias, requires_grad=layer.bias.requires_grad)
    return smaller


def unknown_setting(model_class: type, name: str, known: Sequence[str]) -> TypeError:
    """The error for a keyword that neither the configuration nor the constructor knows."""
    return TypeError(f"{model_class.__name__}.from_pretrained has no setting {name!r}{nearest_name(name, known)}")
