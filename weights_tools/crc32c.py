"""CRC-32C (Castagnoli), the checksum of TensorFlow's checkpoints, fast enough for whole models without compiled code.

Polynomial and bit order: RFC 3720, appendix B.4 (its examples are in the tests). A checksum is linear: a word of the
message can be taken away and another one, 4n bytes later, changed instead, so that the checksum stays the same. So the
rows of a message are folded into its last row, thousands of words per step of numpy, and only what is left of it goes
through the textbook's loop over bytes.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import numpy.typing as npt

POLYNOMIAL = 0x82F63B78  # x^32 + x^28 + ..., lowest power first
# Words per row, powers of two. Longer rows pay in long messages only, and must stay in the processor's cache.
ROWS = (16384, 64)
MASK = 0xA282EAD8  # TensorFlow stores this constant plus the rotated checksum: a checksum over checksums is a poor one

Words = npt.NDArray[np.uint32]


def crc32c(data: bytes | bytearray | memoryview) -> int:
    """The CRC-32C of `data` (any contiguous buffer), 0 <= result < 2**32."""
    view = memoryview(data).cast("B")
    state = 0xFFFFFFFF
    for width in ROWS:
        rows = len(view) // (4 * width)
        if rows > 1:
            folded = _fold(np.frombuffer(view, "<u4", rows * width).reshape(rows, width), state)
            # The rest is checked as if the message had begun with the folded row, which holds the state already.
            view = memoryview(folded.tobytes() + bytes(view[4 * rows * width :]))
            state = 0
    table = _byte_table()
    for byte in bytes(view):
        state = table[(state ^ byte) & 255] ^ state >> 8
    return state ^ 0xFFFFFFFF


def masked(crc: int) -> int:
    """The form in which TensorFlow stores a checksum (tensorflow/core/lib/hash/crc32c.h)."""
    return ((crc >> 15 | crc << 17) + MASK) & 0xFFFFFFFF


def _fold(rows: npt.NDArray[np.uint32], state: int) -> Words:
    """One row with the checksum of all `rows` [R, width], the register being `state` before and 0 after."""
    low, high = _shift_tables(rows.shape[1])
    result: Words = rows[0].astype("<u4")
    result[0] ^= np.uint32(state)
    index: npt.NDArray[Any] = np.empty(result.shape, np.intp)  # `take` would convert anything else to it
    upper = np.empty_like(result)
    for row in rows[1:]:
        np.right_shift(result, 16, out=index, casting="unsafe")
        high.take(index, out=upper, mode="clip")
        np.bitwise_and(result, 0xFFFF, out=index, casting="unsafe")
        low.take(index, out=result, mode="clip")
        result ^= upper
        result ^= row
    return result


@functools.cache
def _byte_table() -> tuple[int, ...]:
    table = []
    for value in range(256):
        for _ in range(8):
            value = value >> 1 ^ (POLYNOMIAL if value & 1 else 0)
        table.append(value)
    return tuple(table)


def _apply(columns: list[int], value: int) -> int:
    """The product of a matrix over the bits (32 columns) and a vector of 32 bits."""
    result = 0
    while value:
        bit = value & -value
        result ^= columns[bit.bit_length() - 1]
        value ^= bit
    return result


@functools.cache
def _shift_tables(width: int) -> tuple[Words, Words]:
    """What a word becomes `width` words later: for its lower and for its upper half, all 65536 of each."""
    # The register after one more bit of zeros; squared five times it is one word, then as often as the width demands.
    columns = [POLYNOMIAL if bit == 0 else 1 << (bit - 1) for bit in range(32)]
    for _ in range(5 + width.bit_length() - 1):
        columns = [_apply(columns, column) for column in columns]
    tables = []
    for first in (0, 16):
        table = np.zeros(65536, "<u4")
        for bit in range(16):
            table[1 << bit : 2 << bit] = table[: 1 << bit] ^ np.uint32(columns[first + bit])
        tables.append(table)
    return tables[0], tables[1]
