"""What may go into a model: ids, positions, embeddings and masks, checked before anything is computed.

An out-of-range id is an index error deep inside torch (or silent garbage on an accelerator), and a mask of the wrong
shape that happens to broadcast is no error at all. Here each is an error that names the argument, the value, where it
stands, what was expected and the remedy. Each check is one pass over a small integer tensor. Checks of *values* are
left out while torch records a graph (compile, export, jit.trace), because reading a value would break the graph;
checks of shapes stay.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from minitf.cache import KVCache

__all__ = [
    "check_attention_mask",
    "check_choices",
    "check_embeds",
    "check_ids",
    "check_length",
    "check_model_inputs",
    "check_places",
    "check_positions",
    "merge_choices",
    "tracing",
]

_INTEGERS = (torch.int64, torch.int32)


def tracing() -> bool:
    """Whether torch is recording this call (compile, export, jit.trace): then no value of a tensor may be read."""
    jit: Any = torch.jit
    return bool(torch.compiler.is_compiling() or jit.is_tracing())


def check_ids(ids: Tensor, size: int, name: str, what: str) -> None:
    """Integer ids in `0 ... size - 1`.

    Args:
        ids: `[B, T]` token ids, segment ids or labels.
        size: number of rows of the table that the ids look up.
        name: the argument, e.g. "input_ids".
        what: the key of the configuration that gives `size`, e.g. "vocab_size".

    Raises:
        TypeError: not an int64 or int32 tensor.
        ValueError: empty, or an id out of range (the message names its position).
    """
    if not isinstance(ids, Tensor):
        raise TypeError(
            f"{name} is a {type(ids).__name__}; expected an integer tensor (torch.tensor(ids), or return_tensors='pt')."
        )
    if ids.dtype not in _INTEGERS:
        raise TypeError(f"{name} has dtype {ids.dtype}; expected token ids as torch.int64 or torch.int32.")
    if ids.dim() != 2:
        raise ValueError(
            f"{name} has shape {list(ids.shape)}; expected [batch, positions] (for one sequence: ids.unsqueeze(0))."
        )
    if tracing():
        return
    if ids.numel() == 0:
        raise ValueError(f"{name} is empty, shape {list(ids.shape)}: there is nothing to compute.")
    low, high = torch.aminmax(ids)
    if int(low) < 0 or int(high) >= size:
        row, column = ((ids < 0) | (ids >= size)).nonzero()[0].tolist()
        raise ValueError(
            f"{name}[{row}, {column}] = {int(ids[row, column])}, but {what} is {size}: expected 0 to {size - 1}."
            + (" Does the tokenizer belong to this checkpoint?" if name == "input_ids" else "")
        )


def check_embeds(embeds: Tensor, hidden_size: int, name: str = "inputs_embeds") -> None:
    """A floating-point `[B, T, C]`.

    Raises:
        TypeError: not a floating-point tensor.
        ValueError: wrong shape or empty.
    """
    if not isinstance(embeds, Tensor) or not embeds.is_floating_point():
        raise TypeError(f"{name} is not a floating-point tensor; expected [batch, positions, hidden_size].")
    if embeds.dim() != 3 or embeds.shape[-1] != hidden_size:
        raise ValueError(
            f"{name} has shape {list(embeds.shape)}; expected [batch, positions, hidden_size = {hidden_size}]."
        )
    if not tracing() and embeds.numel() == 0:
        raise ValueError(f"{name} is empty, shape {list(embeds.shape)}: there is nothing to compute.")


def check_length(length: int, maximum: int, name: str, what: str = "max_position_embeddings", past: int = 0) -> None:
    """No more positions than the model has embeddings for.

    Raises:
        ValueError: `past + length > maximum`.
    """
    if past + length > maximum:
        held = f" after {past} in the cache" if past else ""
        raise ValueError(
            f"{name} has {length} positions{held}; this model has {maximum} ({what}): truncate, or use a longer "
            "checkpoint."
        )


def check_positions(
    position_ids: Tensor, batch: int, length: int, maximum: int, what: str = "max_position_embeddings"
) -> None:
    """`position_ids` is `[T]`, `[1, T]` or `[B, T]`, each in `0 ... maximum - 1`.

    Raises:
        TypeError, ValueError: as `check_ids`.
    """
    if isinstance(position_ids, Tensor) and position_ids.dim() == 1:
        position_ids = position_ids[None]  # [1, T]
    check_ids(position_ids, maximum, "position_ids", what)
    if tuple(position_ids.shape) not in ((1, length), (batch, length)):
        raise ValueError(
            f"position_ids has shape {list(position_ids.shape)}; expected [{length}], [1, {length}] or "
            f"[{batch}, {length}]."
        )


def check_places(places: Tensor, length: int, name: str) -> None:
    """A one-dimensional tensor of positions, `-length ... length - 1`, at least one.

    Raises:
        TypeError: not of integers. ValueError: another shape, empty, or a position that is not there.
    """
    if places.dtype not in _INTEGERS:
        raise TypeError(f"{name} has dtype {places.dtype}; expected positions as torch.int64 or torch.int32.")
    if places.dim() != 1 or places.shape[0] == 0:
        raise ValueError(f"{name} has shape {list(places.shape)}; expected [positions], at least one.")
    if tracing():
        return
    low, high = torch.aminmax(places)
    if int(low) < -length or int(high) >= length:
        raise ValueError(f"{name} = {places.tolist()}: expected positions from {-length} to {length - 1}.")


def check_model_inputs(
    config: Any,
    input_ids: Tensor | None,
    token_type_ids: Tensor | None,
    position_ids: Tensor | None,
    inputs_embeds: Tensor | None,
    past: int,
) -> tuple[int, int]:
    """(B, T) of a call whose inputs are in order.

    Args:
        config: gives `vocab_size`, `hidden_size`, `max_position_embeddings` and, for segments, `type_vocab_size`.
        input_ids, token_type_ids, position_ids, inputs_embeds: as in the forward of the models.
        past: positions that the cache holds.

    Raises:
        TypeError, ValueError: both or neither of ids and embeddings, or an input that one of the checks above refuses.
    """
    if (input_ids is None) == (inputs_embeds is None):
        given = "neither is" if input_ids is None else "both are"
        raise ValueError(f"exactly one of input_ids and inputs_embeds is needed, and {given} given.")
    if input_ids is not None:
        name = "input_ids"
        check_ids(input_ids, config.vocab_size, name, "vocab_size")
        batch, length = input_ids.shape
    else:
        assert inputs_embeds is not None
        name = "inputs_embeds"
        check_embeds(inputs_embeds, config.hidden_size)
        batch, length = inputs_embeds.shape[:2]
    # the key by its own name in this configuration: GPT-2 calls it n_positions
    key = getattr(config, "attribute_map", {}).get("max_position_embeddings", "max_position_embeddings")
    check_length(length, config.max_position_embeddings, name, key, past=past)
    if token_type_ids is not None:
        # GPT-2 has no table of segments: its token types are rows of the word embeddings
        # (By `vars`, because a configuration searches the near names of what it lacks: slow, and torch.compile stops.)
        size = "type_vocab_size" if "type_vocab_size" in vars(config) else "vocab_size"
        check_ids(token_type_ids, getattr(config, size), "token_type_ids", size)
        if tuple(token_type_ids.shape) != (batch, length):
            raise ValueError(f"token_type_ids has shape {list(token_type_ids.shape)}; {name} has [{batch}, {length}].")
    if position_ids is not None:
        if vars(config).get("position_embedding_type", "absolute") != "absolute":
            raise ValueError(
                f"position_ids have no effect with position_embedding_type {config.position_embedding_type!r}: "
                "distances follow from the order of the tokens. Leave them out."
            )
        check_positions(position_ids, batch, length, config.max_position_embeddings, key)
    return batch, length


def check_choices(
    input_ids: Tensor | None,
    inputs_embeds: Tensor | None,
    attention_mask: Tensor | None = None,
    token_type_ids: Tensor | None = None,
    position_ids: Tensor | None = None,
) -> int:
    """N of inputs that hold N texts in each row: `input_ids` `[B, N, T]` or `inputs_embeds` `[B, N, T, C]`.

    The other inputs must begin with the same B and N, because `[N, B, T]` would be merged to as many rows.

    Raises:
        TypeError: not a tensor. ValueError: neither, or without the dimension of the choices.
    """
    name, given = ("input_ids", input_ids) if input_ids is not None else ("inputs_embeds", inputs_embeds)
    others = {"attention_mask": attention_mask, "token_type_ids": token_type_ids, "position_ids": position_ids}
    for key, value in {name: given, **others}.items():
        if value is not None and not isinstance(value, Tensor):
            raise TypeError(f"{key} is a {type(value).__name__}; expected a tensor [batch, choices, positions].")
    if given is None or given.dim() != (3 if input_ids is not None else 4):
        raise ValueError(
            "this head needs input_ids [batch, choices, positions] (or inputs_embeds, a dimension more), and got "
            f"{'neither' if given is None else list(given.shape)}."
        )
    batch, choices = given.shape[:2]
    for key, value in others.items():
        if value is not None and (value.dim() < 3 or value.shape[0] != batch or value.shape[1] != choices):
            raise ValueError(
                f"{key} has shape {list(value.shape)}, but {name} has batch {batch} and {choices} choices: expected "
                f"[{batch}, {choices}, positions]."
            )
    return choices


def merge_choices(x: Tensor | None) -> Tensor | None:
    """`[B, N, ...]` -> `[B * N, ...]`: the trunk reads every choice as a sequence of its own."""
    return x if x is None else x.flatten(0, 1)


def check_encoder_inputs(
    config: Any,
    encoder_hidden_states: Tensor | None,
    encoder_attention_mask: Tensor | None,
    *,
    batch: int | None = None,
    cache: KVCache | None = None,
) -> None:
    """What cross-attention reads is given to a model that has it, and its mask is not given without it.

    Args:
        config: gives `hidden_size` and `add_cross_attention`.
        encoder_hidden_states, encoder_attention_mask: as in the forward of the models.
        batch: B, which the states never broadcast over; None = not checked.
        cache: if it holds keys of an encoder, the states must be those that it was filled from. Only their length is
            compared: their values are not read again.

    Raises:
        TypeError, ValueError: an input that would have no effect, or of the wrong shape.
    """
    held = cache.get_cross_length() if cache is not None else 0
    if encoder_hidden_states is None:
        if held:
            raise ValueError(
                f"encoder_hidden_states is not given, but the cache holds {held} positions of an encoder, which this "
                "step would not look at: pass the states in every step."
            )
        if encoder_attention_mask is not None:
            raise ValueError("encoder_attention_mask is given without encoder_hidden_states: it would have no effect.")
        return
    if not config.add_cross_attention:
        raise ValueError(
            "encoder_hidden_states need a decoder with cross-attention (config.is_decoder = True, "
            "config.add_cross_attention = True): this model would not look at them."
        )
    check_embeds(encoder_hidden_states, config.hidden_size, name="encoder_hidden_states")
    rows, positions = encoder_hidden_states.shape[:2]
    if batch is not None and rows != batch:
        raise ValueError(f"encoder_hidden_states has batch {rows}, but this call has batch {batch}: expected the same.")
    if held and positions != held:
        raise ValueError(
            f"encoder_hidden_states has {positions} positions, but the cache holds the keys of {held}: expected the "
            "same states in every step, or an empty cache."
        )


def check_attention_mask(
    attention_mask: Tensor | None, *, batch: int, query_length: int, key_length: int, name: str = "attention_mask"
) -> Tensor | None:
    """The caller's mask as booleans of the same shape; None if nothing is masked.

    Args:
        attention_mask: `[B, S]` (padding: 1 or True = token, 0 or False = padding), `[B, T, S]` or `[B, 1, T, S]`
            (which query may attend to which key). Boolean, integer or float with the values 0 and 1 only.
        batch, query_length, key_length: B, T and S of this call. A mask never broadcasts over the batch, because one
            of the wrong shape would then be used without a word.

    Raises:
        TypeError: not a tensor.
        ValueError: wrong shape, or a value other than 0 and 1 (an additive mask, NaN).
    """
    if attention_mask is None:
        return None
    if not isinstance(attention_mask, Tensor):
        raise TypeError(f"{name} is a {type(attention_mask).__name__}; expected a tensor.")
    shape = tuple(attention_mask.shape)
    full = (batch, 1, query_length, key_length)
    expected = {2: (batch, key_length), 3: (batch, query_length, key_length), 4: full}
    if shape != expected.get(len(shape)):
        shapes = ", ".join(str(list(s)) for s in expected.values())
        raise ValueError(
            f"{name} has shape {list(shape)}, but this call has batch {batch}, {query_length} query and {key_length} "
            f"key positions: expected one of {shapes}."
        )
    if attention_mask.dtype != torch.bool and not tracing():
        valid = (attention_mask == 0) | (attention_mask == 1)
        if not bool(valid.all()):
            wrong = attention_mask[~valid].flatten()[0].item()
            raise ValueError(
                f"{name} holds {wrong}; expected only 1 (may be attended to) and 0 (may not). "
                "For an additive mask (0 and large negative numbers) pass minitf.masks.from_additive(mask)."
            )
    mask = attention_mask.to(torch.bool)
    if not tracing() and bool(mask.all()):
        return None  # nothing is hidden: attention functions have a faster path without a mask
    return mask
