"""TensorFlow checkpoints written without TensorFlow: by the book for the round trips, against it for the hostile ones.

The formats are those of `weights_tools/tensorflow_table.py` and `tensorflow_bundle.py`; nothing of these is used here.
"""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass, field
from pathlib import Path

import torch

MAGIC = struct.pack("<Q", 0xDB4775248B80FB57)
NUMBERS = {
    torch.float32: 1,
    torch.float64: 2,
    torch.int32: 3,
    torch.uint8: 4,
    torch.int16: 5,
    torch.int8: 6,
    torch.complex64: 8,
    torch.int64: 9,
    torch.bool: 10,
    torch.bfloat16: 14,
    torch.uint16: 17,
    torch.complex128: 18,
    torch.float16: 19,
    torch.uint32: 22,
    torch.uint64: 23,
    torch.float8_e5m2: 24,
    torch.float8_e4m3fn: 25,
}


def crc32c(data: bytes) -> int:
    """The definition, bit by bit."""
    state = 0xFFFFFFFF
    for byte in data:
        state ^= byte
        for _ in range(8):
            state = state >> 1 ^ (0x82F63B78 if state & 1 else 0)
    return state ^ 0xFFFFFFFF


def masked(data: bytes) -> bytes:
    crc = crc32c(data)
    return struct.pack("<I", (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF)


def varint(value: int) -> bytes:
    value %= 2**64  # negative numbers in two's complement
    result = bytearray()
    while value > 127:
        result.append(value & 127 | 128)
        value >>= 7
    return bytes([*result, value])


def message(*parts: tuple[int, int | bytes]) -> bytes:
    """Fields in order: numbers as varints, bytes with their length; a zero is left out, as protobuf does."""
    result = b""
    for number, value in parts:
        if isinstance(value, bytes):
            result += varint(number << 3 | 2) + varint(len(value)) + value
        elif value:
            result += varint(number << 3) + varint(value)
    return result


def header(shards: int = 1, endianness: int = 0) -> bytes:
    return message((1, shards), (2, endianness), (3, message((1, 1))))


def entry(
    dtype: int,
    shape: list[int],
    data: bytes = b"",
    *,
    shard: int = 0,
    offset: int = 0,
    size: int | None = None,
    more: bytes = b"",
) -> bytes:
    """The message of one variable whose data is `data`; `size` overrides the true size."""
    dimensions = message(*((2, message((1, length))) for length in shape))
    place = ((3, shard), (4, offset), (5, len(data) if size is None else size))
    return message((1, dtype), (2, dimensions), *place) + b"\x35" + masked(data) + more


def block(pairs: list[tuple[bytes, bytes]], every: int = 16) -> bytes:
    """The pairs with their keys shortened by what they share; a restart with a whole key `every` so many."""
    result = bytearray()
    restarts = [0]
    last = b""
    for index, (key, value) in enumerate(pairs):
        shared = len(os.path.commonprefix([key, last])) if index % every else 0  # noqa: RUF071 (bytes are meant, no paths)
        if index and not index % every:
            restarts.append(len(result))
        result += varint(shared) + varint(len(key) - shared) + varint(len(value)) + key[shared:] + value
        last = key
    return bytes(result) + struct.pack(f"<{len(restarts) + 1}I", *restarts, len(restarts))


def snappy(data: bytes) -> bytes:
    """A valid snappy block: literals, and a copy for each run of one byte (which overlaps itself)."""
    result = bytearray(varint(len(data)))
    here = 0
    while here < len(data):
        run = 1
        while here + run < len(data) and data[here + run] == data[here] and run < 65:
            run += 1
        if run > 4:
            result += bytes([0, data[here]])  # the byte once
            if run - 1 <= 11:
                result += bytes([1 | (run - 1 - 4) << 2, 1])
            elif run % 2:
                result += bytes([2 | (run - 2) << 2, 1, 0])
            else:
                result += bytes([3 | (run - 2) << 2, 1, 0, 0, 0])
            here += run
            continue
        piece = data[here : here + 70]
        short = bytes([(len(piece) - 1) << 2]) if len(piece) <= 60 else bytes([60 << 2, len(piece) - 1])
        result += short + piece
        here += len(piece)
    return bytes(result)


def table(blocks: list[list[tuple[bytes, bytes]]], *, compress: bool = False, kind: int | None = None) -> bytes:
    """A table file of these blocks; `kind` overrides the type byte."""
    content = bytearray()

    def add(plain: bytes) -> bytes:
        stored = (snappy(plain) if compress else plain) + bytes([compress if kind is None else kind])
        handle = varint(len(content)) + varint(len(stored) - 1)
        content.extend(stored + masked(stored))
        return handle

    handles = [(pairs[-1][0], add(block(pairs))) for pairs in blocks]
    footer = add(block([])) + add(block(handles, every=1))
    return bytes(content) + footer.ljust(40, b"\0") + MAGIC


def raw(tensor: torch.Tensor) -> bytes:
    return bytes(tensor.contiguous().reshape(-1).view(torch.uint8).tolist())


@dataclass
class Bundle:
    """The files of a checkpoint as bytes: the index, and the data of each shard."""

    index: bytes
    shards: list[bytes] = field(default_factory=list)

    def write(self, prefix: Path) -> Path:
        """Write the files and return the index."""
        for number, data in enumerate(self.shards):
            prefix.with_name(f"{prefix.name}.data-{number:05d}-of-{len(self.shards):05d}").write_bytes(data)
        index = prefix.with_name(f"{prefix.name}.index")
        index.write_bytes(self.index)
        return index


def bundle(
    tensors: dict[str, torch.Tensor],
    *,
    shards: int = 1,
    per_block: int = 1000,
    compress: bool = False,
    align: int = 1,
    texts: tuple[str, ...] = (),
) -> Bundle:
    """A checkpoint by the book: variables dealt to the shards in turn, `per_block` names to a block.

    Args:
        align: the data of each variable begins at a multiple of so many bytes.
        texts: names of further entries that hold a text, as `_CHECKPOINTABLE_OBJECT_GRAPH` does.
    """
    data = [bytearray() for _ in range(shards)]
    pairs = [(b"", header(shards))]
    for index, name in enumerate(sorted([*tensors, *texts], key=str.encode)):
        shard = data[index % shards]
        shard.extend(bytes(-len(shard) % align))
        content = raw(tensors[name]) if name in tensors else b"\x05\x12\x34\x56\x78hello"
        shape = list(tensors[name].shape) if name in tensors else []
        dtype = NUMBERS[tensors[name].dtype] if name in tensors else 7
        pairs.append((name.encode(), entry(dtype, shape, content, shard=index % shards, offset=len(shard))))
        shard.extend(content)
    blocks = [pairs[start : start + per_block] for start in range(0, len(pairs), per_block)]
    return Bundle(table(blocks, compress=compress), [bytes(shard) for shard in data])
