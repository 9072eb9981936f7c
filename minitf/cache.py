"""The key-value cache: what makes the cost of a new token independent of re-reading the old ones.

A decoder's keys and values of earlier positions never change, because attention is causal. So they are kept:

    cache = KVCache()
    model(prompt, past_key_values=cache)          # fills the cache with T positions
    model(next_token, past_key_values=cache)      # computes one position, attends to T + 1

The object belongs to the caller and is changed in place. It reads like the classic tuple of `(key, value)` pairs
(`cache[layer]`, `len(cache)`, iteration), and models accept such a tuple, which is copied and left as it is.

Dimension letters: B batch, T new positions, S positions so far (all places of a static cache), H heads, D head size.

Growth is amortised: each layer owns a buffer that doubles when it is full, so a sequence of n tokens is copied about
once in all, not once a token; it never grows beyond the longest sequence of the model. Where gradients are recorded,
positions are concatenated instead, because autograd forbids writing into a tensor that an earlier step still needs; so
they are while torch exports or traces, because an exported graph is a function of its inputs: it leaves the cache that
it is given as it is and returns a longer one.

`StaticKVCache` is the same for `torch.compile`: its shapes never change, and where it stands is a tensor.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import Tensor

from minitf.checks import tracing

__all__ = ["KVCache", "StaticKVCache", "as_cache"]


class _LayerCache:
    """Buffers of one layer. `key` and `value` are `[B, H, capacity, D]`; the first `length` positions are real."""

    def __init__(self) -> None:
        self.key: Tensor | None = None
        self.value: Tensor | None = None
        self.length = 0
        self.owned = False  # whether the buffers are this cache's own, so that it may write into them
        self.cross: tuple[Tensor, Tensor] | None = None  # keys and values of the encoder, computed once

    def view(self) -> tuple[Tensor, Tensor]:
        if self.key is None or self.value is None:
            raise IndexError("this layer of the cache is still empty: no forward has filled it.")
        return self.key.narrow(2, 0, self.length), self.value.narrow(2, 0, self.length)  # [B, H, S, D] each

    def append(self, key: Tensor, value: Tensor, longest: int | None) -> tuple[Tensor, Tensor]:
        if self.key is None or self.value is None:
            self.check_pair(key, value)
            if self.cross is not None:
                self.check_batch(key, self.cross[0])
            # Contiguous, because the heads of a fused projection are strided, and a product may round by its layout.
            self.key, self.value, self.length = key.contiguous(), value.contiguous(), key.shape[2]
            return self.key, self.value
        self.check_fit(key, self.key, "keys")
        self.check_fit(value, self.value, "values")
        self.check_pair(key, value)
        needed = self.length + key.shape[2]
        jit: Any = torch.jit
        recorded = torch.is_grad_enabled() and any(t.requires_grad for t in (key, value, self.key, self.value))
        if recorded or torch.compiler.is_exporting() or jit.is_tracing():
            past_key, past_value = self.view()
            self.key, self.value = torch.cat([past_key, key], dim=2), torch.cat([past_value, value], dim=2)
            self.length, self.owned = needed, False
            return self.key, self.value
        self._make_room(needed, longest)
        self.key.narrow(2, self.length, key.shape[2]).copy_(key)
        self.value.narrow(2, self.length, key.shape[2]).copy_(value)
        self.length = needed
        return self.view()

    def room(self, longest: int | None) -> tuple[Tensor, Tensor]:
        """The buffers, own and with place for one more position."""
        if self.key is None or self.value is None:
            raise ValueError("this layer of the cache is still empty: a decoding step goes on from a prompt.")
        self._make_room(self.length + 1, longest)
        return self.key, self.value

    def _make_room(self, needed: int, longest: int | None) -> None:
        if self.key is None or self.value is None:
            return
        if needed > self.key.shape[2] or not self.owned or _locked(self.key):
            capacity = max(2 * needed, 16)
            if longest is not None and needed <= longest:
                capacity = min(capacity, longest)
            self.key, self.value = self._grown(self.key, capacity), self._grown(self.value, capacity)
            self.owned = True

    def reorder(self, rows: Tensor, moved: Tensor | None) -> None:
        """Row i becomes the old row `rows[i]`; `moved` = the i that change, if only these may be written, else None."""
        if self.key is None or self.value is None:
            return
        own = self.owned and len(rows) == self.key.shape[0] and not _locked(self.key)
        if moved is not None and own and not torch.is_grad_enabled():
            for buffer in (self.key, self.value) if len(moved) else ():
                held = buffer.narrow(2, 0, self.length)  # [B, H, S, D]
                held.index_copy_(0, moved, held.index_select(0, rows[moved]))
            return
        self.key, self.value = self.key.index_select(0, rows), self.value.index_select(0, rows)  # [B, H, capacity, D]
        self.owned = True

    def whole(self) -> list[Tensor]:
        """The layer as tensors that are no part of a buffer, and the same objects each time until the cache changes.

        torch.export marks which dimensions of an input may vary, and can do so only on such tensors.
        """
        if self.key is None or self.value is None:
            return []
        if self.key.shape[2] != self.length or self.key._is_view() or self.value._is_view():
            self.key, self.value = (tensor.clone() for tensor in self.view())
        self.owned = False
        if self.cross is not None and any(tensor._is_view() for tensor in self.cross):
            self.cross = (self.cross[0].clone(), self.cross[1].clone())
        return [self.key, self.value, *(self.cross or ())]

    @staticmethod
    def check_pair(key: Tensor, value: Tensor) -> None:
        """A value for each key; one of another length would be broadcast."""
        if key.dim() != 4 or key.shape != value.shape or key.dtype != value.dtype:
            raise ValueError(
                f"keys of the shape {list(key.shape)} in {key.dtype} and values of the shape {list(value.shape)} in "
                f"{value.dtype}: expected both [batch, heads, positions, head size], alike."
            )

    @staticmethod
    def check_batch(new: Tensor, buffer: Tensor) -> None:
        """What the cache holds is for the rows of this call: one row would be broadcast to all."""
        if new.shape[0] != buffer.shape[0]:
            raise ValueError(
                f"the cache holds a batch of {buffer.shape[0]}, but this call has a batch of {new.shape[0]}: "
                "use cache.batch_repeat or cache.reorder, or start with an empty cache."
            )

    @classmethod
    def check_fit(cls, new: Tensor, buffer: Tensor, what: str) -> None:
        """Writing into a buffer would broadcast and convert without a word, so only what fits exactly is written."""
        cls.check_batch(new, buffer)
        if new.shape[1] != buffer.shape[1] or new.shape[3] != buffer.shape[3] or new.dtype != buffer.dtype:
            raise ValueError(
                f"the cache holds {what} of {buffer.shape[1]} heads x {buffer.shape[3]} in {buffer.dtype}, but this "
                f"call has {new.shape[1]} heads x {new.shape[3]} in {new.dtype}: it belongs to another model."
            )

    def _grown(self, buffer: Tensor, capacity: int) -> Tensor:
        """A longer buffer that holds the positions so far."""
        batch, heads, _, size = buffer.shape
        grown = buffer.new_empty(batch, heads, capacity, size)  # [B, H, capacity, D]
        grown[:, :, : self.length] = buffer[:, :, : self.length]
        return grown


def _locked(buffer: Tensor) -> bool:
    """Whether torch forbids writing into it: it was made under inference_mode, and that mode has been left."""
    return not torch.compiler.is_compiling() and buffer.is_inference() and not torch.is_inference_mode_enabled()


class KVCache:
    """Keys and values of every layer so far, for one batch; see the head of this file."""

    longest: int | None = None
    """Positions beyond which buffers need not grow, set by the model that fills them; None = not known."""

    def __init__(self) -> None:
        self._layers: list[_LayerCache] = []

    def update(self, layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Append `[B, H, T, D]` to a layer; returns all positions so far, `[B, H, S, D]` each.

        Raises:
            ValueError: batch, heads, head size or dtype differ from those that the cache holds.
        """
        return self._layer(layer).append(key, value, self.longest)

    def cross(self, layer: int) -> tuple[Tensor, Tensor] | None:
        """Keys and values of the encoder for the cross-attention of a layer, or None before the first step."""
        return self._layer(layer).cross

    def set_cross(self, layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Keep the encoder's keys and values `[B, H, S_encoder, D]`, which decoding does not change; returns them.

        Raises:
            ValueError: they differ in shape or dtype, or are for another batch than the cache holds.
        """
        entry = self._layer(layer)
        entry.check_pair(key, value)
        if entry.key is not None:
            entry.check_batch(key, entry.key)
        entry.cross = (key.contiguous(), value.contiguous())
        return entry.cross

    def get_seq_length(self, layer: int = 0) -> int:
        """S, the number of positions that a layer holds."""
        return self._layers[layer].length if layer < len(self._layers) else 0

    def nbytes(self) -> int:
        """Bytes of all buffers, the part that is not filled yet included."""
        held = [t for layer in self._layers for t in (layer.key, layer.value, *(layer.cross or ())) if t is not None]
        return sum(t.numel() * t.element_size() for t in held)

    def get_cross_length(self) -> int:
        """Positions of the encoder whose keys and values are held; 0 = none."""
        cross = self._layers[0].cross if self._layers else None
        return 0 if cross is None else cross[0].shape[2]

    def crop(self, length: int) -> None:
        """Forget all but the first `length` positions; a negative number forgets that many from the end.

        Raises:
            TypeError: not an integer. ValueError: more positions are asked for than there are.
        """
        keep = positions_to_keep(length, self.get_seq_length())
        for layer in self._layers:
            layer.length = min(layer.length, keep)

    def reorder(self, rows: Tensor, *, in_place: bool = False) -> None:
        """Row i of every layer becomes the old row `rows[i]`: what beam search does after choosing its beams.

        The number of rows may change, so `batch_select` and `batch_repeat` are special cases.

        Args:
            rows: `[new B]`.
            in_place: write only the rows that move, into the buffers that are there, where that is possible: most beams
                stay where they are. Tensors that were read from the cache before then change with it.

        Raises:
            TypeError: not a one-dimensional tensor of integers. IndexError: a row that the cache does not hold.
        """
        check_rows(rows, next((layer.key.shape[0] for layer in self._layers if layer.key is not None), None))
        moved = (rows != torch.arange(len(rows), device=rows.device)).nonzero()[:, 0] if in_place else None
        for layer in self._layers:
            layer.reorder(rows, moved)
            if layer.cross is not None:
                layer.cross = (layer.cross[0].index_select(0, rows), layer.cross[1].index_select(0, rows))

    def room(self, batch: int) -> list[tuple[Tensor, Tensor]]:
        """For a decoding step: the buffers `[B, H, capacity, D]` of every layer, with room for one more position.

        What is written there, at position `get_seq_length()`, belongs to the cache after `advance()`.

        Raises:
            ValueError: the cache holds another number of rows, or nothing yet.
        """
        buffers = [layer.room(self.longest) for layer in self._layers]
        if not buffers or buffers[0][0].shape[0] != batch:
            held = buffers[0][0].shape[0] if buffers else 0
            raise ValueError(f"the cache holds a batch of {held}, but this step has a batch of {batch}.")
        return buffers

    def advance(self) -> None:
        """Count the position that was written into the buffers of `room`."""
        for layer in self._layers:
            layer.length += 1

    def batch_select(self, rows: Tensor) -> None:
        """Keep only these rows of the batch."""
        self.reorder(rows)

    def batch_repeat(self, times: int) -> None:
        """Repeat each row of the batch, neighbours together (row 0, row 0, row 1, row 1, ...).

        Raises:
            ValueError: not an integer of at least 1.
        """
        if not isinstance(times, int) or isinstance(times, bool) or times < 1:
            raise ValueError(f"batch_repeat({times!r}): expected an integer >= 1.")
        if len(self) and self._layers[0].key is not None:
            rows = torch.arange(self._layers[0].key.shape[0], device=self._layers[0].key.device)
            self.reorder(rows.repeat_interleave(times))

    def __len__(self) -> int:
        return len(self._layers)

    def __getitem__(self, layer: int) -> tuple[Tensor, ...]:
        entry = self._layers[layer]
        return (*entry.view(), *entry.cross) if entry.cross is not None else entry.view()

    def __iter__(self) -> Iterator[tuple[Tensor, ...]]:
        return (self[layer] for layer in range(len(self)))

    def __repr__(self) -> str:
        return f"KVCache({len(self)} layers, {self.get_seq_length()} positions)"

    def _layer(self, layer: int) -> _LayerCache:
        while len(self._layers) <= layer:
            self._layers.append(_LayerCache())
        return self._layers[layer]


def positions_to_keep(length: int, held: int) -> int:
    """The argument of `crop` as a number from 0 to `held`; for its errors see there."""
    if not isinstance(length, int) or isinstance(length, bool):
        raise TypeError(f"crop({length!r}): expected a number of positions, an integer.")
    keep = length if length >= 0 else held + length
    if not 0 <= keep <= held:
        raise ValueError(f"crop({length}): the cache holds {held} positions.")
    return keep


def check_rows(rows: Tensor, held: int | None) -> None:
    """The argument of `reorder`; `held` = rows of the cache, None while it is empty. For its errors see there."""
    if not isinstance(rows, Tensor) or rows.dtype not in (torch.int64, torch.int32) or rows.dim() != 1:
        raise TypeError(f"rows = {rows!r}: expected a one-dimensional tensor of row numbers (torch.int64).")
    if held is not None and not tracing() and (rows.numel() == 0 or int(rows.min()) < 0 or int(rows.max()) >= held):
        raise IndexError(f"rows = {rows.tolist()}: expected numbers from 0 to {held - 1}, at least one.")


class StaticKVCache(KVCache):
    """Keys and values in buffers of a fixed length: for `torch.compile`, which builds one graph per set of shapes.

        cache = StaticKVCache(model.config, batch=1)
        model(prompt, past_key_values=cache)                     # as with KVCache
        step = torch.compile(model, fullgraph=True)
        step(next_token, past_key_values=cache)                  # one graph serves every step

    Attention runs over all `max_length` positions, the unfilled ones masked: the same numbers as with `KVCache` up to
    rounding, and without `torch.compile` slower. An `attention_mask` therefore has `max_length` columns. Only without
    gradients, and only for self-attention.

    Args:
        config: of the model: layers, heads and head size.
        batch: B.
        max_length: positions that fit; None = as many as the model has.
        dtype, device: of the model; None = torch's defaults.

    Raises:
        TypeError: a number that is no integer. ValueError: more positions than the model has, or less than one.
    """

    def __init__(
        self,
        config: Any,
        batch: int,
        max_length: int | None = None,
        *,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__()
        longest = config.max_position_embeddings
        self.max_length: int = longest if max_length is None else max_length
        for name, number in (("batch", batch), ("max_length", self.max_length)):
            if not isinstance(number, int) or isinstance(number, bool):
                raise TypeError(f"StaticKVCache({name}={number!r}): expected an integer.")
        if not 1 <= self.max_length <= longest or batch < 1:
            raise ValueError(
                f"StaticKVCache(batch={batch}, max_length={max_length}): expected a batch of at least 1, and 1 to "
                f"{longest} positions (max_position_embeddings)."
            )
        size = config.hidden_size // config.num_attention_heads
        self.keys: list[Tensor] = []
        self.values: list[Tensor] = []
        for layer in range(config.num_hidden_layers):
            heads = config.num_attention_heads - len(config.pruned_heads.get(layer, ()))
            shape = (batch, heads, self.max_length, size)
            # zeros, because a masked position counts 0 times its value, and 0 times what stands in fresh memory is NaN
            self.keys.append(torch.zeros(shape, dtype=dtype, device=device))
            self.values.append(torch.zeros(shape, dtype=dtype, device=device))
        self.length = torch.zeros((), dtype=torch.long, device=device)

    def update(self, layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Write `[B, H, T, D]` at the next T positions; returns the whole buffers, `[B, H, max_length, D]` each.

        Raises:
            ValueError: it does not fit, or gradients are recorded.
        """
        if torch.is_grad_enabled() and (key.requires_grad or value.requires_grad):
            raise ValueError("a StaticKVCache is overwritten in place, so it needs torch.no_grad(): else use KVCache.")
        _LayerCache.check_fit(key, self.keys[layer], "keys")
        _LayerCache.check_fit(value, self.values[layer], "values")
        positions = self.positions(key.shape[2])  # [T]
        self.keys[layer].index_copy_(2, positions, key)
        self.values[layer].index_copy_(2, positions, value)
        if layer == len(self) - 1:  # every layer of a call writes at the same positions
            self.length.add_(key.shape[2])
        return self.keys[layer], self.values[layer]

    def positions(self, length: int) -> Tensor:
        """`[T]`: the positions of the next `length` tokens.

        Raises:
            ValueError: they are more than fit (while a graph is recorded or runs, torch's own index error instead).
        """
        if not tracing() and self.get_seq_length() + length > self.max_length:
            raise ValueError(
                f"{length} positions after {self.get_seq_length()} in the cache do not fit into a StaticKVCache of "
                f"max_length {self.max_length}: make a longer one, or crop it."
            )
        return self.length + torch.arange(length, device=self.length.device)  # [T]

    def mask(self, length: int) -> Tensor:
        """`[1, 1, T, S]`: a query sees itself and everything before it, and nothing that is not filled."""
        key_position = torch.arange(self.max_length, device=self.length.device)  # [S]
        return (key_position[None] <= self.positions(length)[:, None])[None, None]  # [1, 1, T, S]

    def get_seq_length(self, layer: int = 0) -> int:
        return int(self.length)

    def nbytes(self) -> int:
        return sum(t.numel() * t.element_size() for t in (*self.keys, *self.values))

    def cross(self, layer: int) -> None:
        return None

    def set_cross(self, layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        raise ValueError("a StaticKVCache holds no keys of an encoder: use KVCache with cross-attention.")

    def crop(self, length: int) -> None:
        self.length.fill_(positions_to_keep(length, self.get_seq_length()))

    def reorder(self, rows: Tensor, *, in_place: bool = True) -> None:
        """As `KVCache.reorder`, but the number of rows stays, and it is always done in place.

        Raises:
            TypeError, IndexError: as there. ValueError: another number of rows.
        """
        check_rows(rows, self.keys[0].shape[0])
        if rows.shape[0] != self.keys[0].shape[0]:
            raise ValueError(f"a StaticKVCache of batch {self.keys[0].shape[0]} cannot become one of {rows.shape[0]}.")
        for buffer in (*self.keys, *self.values):
            buffer.copy_(buffer.index_select(0, rows))

    def batch_repeat(self, times: int) -> None:
        if times != 1 or isinstance(times, bool):
            raise ValueError(f"a StaticKVCache cannot grow {times} times: make it with the larger batch.")

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, layer: int) -> tuple[Tensor, ...]:
        length = self.get_seq_length()
        return self.keys[layer].narrow(2, 0, length), self.values[layer].narrow(2, 0, length)

    def __repr__(self) -> str:
        return f"StaticKVCache({len(self)} layers, {self.get_seq_length()} of {self.max_length} positions)"


def as_cache(
    past_key_values: KVCache | Sequence[Any] | None,
    layers: int | None = None,
    *,
    longest: int | None = None,
    static: bool = False,
) -> KVCache | None:
    """The caller's cache: the object itself, or a new one filled from the classic tuple.

    The tuple has one entry a layer, `(key, value)` or, with cross-attention, `(key, value, cross_key, cross_value)`,
    each `[B, H, S, D]`. Its tensors are never written to.

    Args:
        past_key_values: a cache, such a tuple, or None.
        layers: the layers of the model, which a filled cache must have; None = not checked.
        longest: positions of the model, beyond which the buffers need not grow; None = not known.
        static: whether the model can use a `StaticKVCache`.

    Raises:
        TypeError: neither a cache nor such a tuple.
        ValueError: another number of layers, layers that do not fit together, or a static cache where the model
            cannot use it.
    """
    held = len(past_key_values) if isinstance(past_key_values, (KVCache, tuple, list)) else 0
    if layers is not None and held not in (0, layers):
        raise ValueError(
            f"past_key_values holds {held} layers, but this model has {layers} layers: it belongs to another model."
        )
    if isinstance(past_key_values, StaticKVCache) and not static:
        raise ValueError("past_key_values is a StaticKVCache, which this model cannot use: pass a KVCache.")
    if past_key_values is None:
        return None
    if isinstance(past_key_values, KVCache):
        if past_key_values.longest is None:
            past_key_values.longest = longest
        check_layers(past_key_values)
        return past_key_values
    cache = KVCache()
    cache.longest = longest
    entries = past_key_values if isinstance(past_key_values, (tuple, list)) else [None]
    for layer, entry in enumerate(entries):
        if not isinstance(entry, (tuple, list)) or len(entry) not in (2, 4) or not all(map(torch.is_tensor, entry)):
            raise TypeError(
                f"past_key_values is a {type(past_key_values).__name__}; expected a minitf.cache.KVCache or the "
                "classic tuple with one (key, value) pair of tensors [B, H, S, D] a layer."
            )
        cache.update(layer, entry[0], entry[1])  # the first step after this copies into buffers of the cache's own
        if len(entry) == 4:
            cache.set_cross(layer, entry[2], entry[3])
    check_layers(cache)
    return cache


def check_layers(cache: KVCache) -> None:
    """Every layer holds as much as the first, by which the masks are built; a single step has none that would differ.

    Raises:
        ValueError: a layer with another number of positions, or of an encoder's.
    """
    if tracing():
        return
    lengths = [(layer.length, 0 if layer.cross is None else layer.cross[0].shape[2]) for layer in cache._layers]
    for layer, held in enumerate(lengths):
        if held != lengths[0]:
            raise ValueError(
                f"layer {layer} of the cache holds {held[0]} positions and {held[1]} of an encoder, but layer 0 holds "
                f"{lengths[0][0]} and {lengths[0][1]}: expected as many in every layer."
            )


def _tensors_of(cache: KVCache) -> tuple[list[Any], None]:
    """What torch.export sees of a cache: for each layer `[key, value]`, and the encoder's pair if there is one."""
    return [layer.whole() for layer in cache._layers], None


def _tensors_by_layer(cache: KVCache) -> tuple[list[Any], None]:
    return [(pytree.SequenceKey(number), entry) for number, entry in enumerate(_tensors_of(cache)[0])], None


def _cache_of(layers: Iterable[Any], context: None) -> KVCache:
    cache = KVCache()
    for number, entry in enumerate(layers):
        layer = cache._layer(number)
        if entry:
            layer.key, layer.value = entry[:2]
            layer.length = entry[0].shape[2] if torch.is_tensor(entry[0]) else 0  # torch also puts other things here
            layer.cross = tuple(entry[2:]) if len(entry) == 4 else None
    return cache


pytree.register_pytree_node(
    KVCache,
    _tensors_of,
    _cache_of,
    flatten_with_keys_fn=_tensors_by_layer,
    serialized_type_name="minitf.cache.KVCache",
)
