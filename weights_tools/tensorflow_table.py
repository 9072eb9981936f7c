"""The index of a TensorFlow checkpoint as sorted pairs of bytes: table blocks, snappy, and the fields of a message.

Format: tensorflow/core/lib/io/table_format.txt and leveldb's doc/table_format.md (blocks of keys, each shortened by
what it shares with the key before it; a footer that says where the block of blocks is), google/snappy's
format_description.txt, and https://protobuf.dev/programming-guides/encoding/ (messages). Knows no tensors.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from weights_tools.common import DOWNLOAD_AGAIN, WeightsError, problem, shown
from weights_tools.crc32c import crc32c, masked

FOOTER_BYTES = 48
MAGIC = bytes.fromhex("57fb808b247547db")
MAX_BYTES = 16_000_000  # of the file, of its blocks when they are unpacked, of its names
MAX_PAIRS = 200_000  # the largest published models have some thousand
PLAIN, SNAPPY = 0, 1

Fields = dict[int, list[int | bytes]]


class Damaged(Exception):
    """Bytes that are not what the format says; the caller knows the file and makes a `WeightsError` of it."""


def varint(data: bytes, here: int) -> tuple[int, int]:
    """The number that begins at `here` (seven bits a byte, lowest first, at most 64 in all), and where it ends."""
    value = 0
    for shift in range(0, 70, 7):
        if here >= len(data):
            raise Damaged("a number is cut off")
        byte = data[here]
        here += 1
        value |= (byte & 127) << shift
        if byte < 128:
            if value >= 2**64:
                break
            return value, here
    raise Damaged("a number has more than 64 bits")


def fields(data: bytes, known: dict[int, int]) -> Fields:
    """The fields of one protobuf message: number -> values, in order.

    Args:
        data: the message.
        known: field number -> wire type (0: number, 2: bytes, 5: four bytes, here returned as a number).

    Raises:
        Damaged: cut off, a field that is not known (it would be ignored), or of another type.
    """
    result: Fields = {}
    here = 0
    while here < len(data):
        tag, here = varint(data, here)
        number, kind = tag >> 3, tag & 7
        if known.get(number) != kind:
            raise Damaged(f"a message has field {number} of type {kind}, which its format does not have")
        value: int | bytes
        if kind == 0:
            value, here = varint(data, here)
        else:
            length, here = varint(data, here) if kind == 2 else (4, here)
            value = data[here : here + length]
            if len(value) < length:
                raise Damaged("a message is cut off")
            here += length
            if kind == 5:
                value = int.from_bytes(value, "little")
        result.setdefault(number, []).append(value)
    return result


def number(message: Fields, field: int) -> int:
    """The value of a field that occurs at most once; what is 0 is not written."""
    values = message.get(field, [0])
    if len(values) != 1 or not isinstance(values[0], int):
        raise Damaged(f"field {field} occurs {len(values)} times")
    return values[0]


def snappy(data: bytes, limit: int) -> bytes:
    """A snappy block unpacked.

    Raises:
        Damaged: not snappy, or more than `limit` bytes.
    """
    length, here = varint(data, 0)
    if length > limit:
        raise Damaged(f"a block would expand to {length} bytes")
    result = bytearray()
    while here < len(data):
        tag = data[here]
        here += 1
        if tag & 3 == 0:  # a piece of the text itself
            size = (tag >> 2) + 1
            if size > 60:
                extra = size - 60
                size = int.from_bytes(data[here : here + extra], "little") + 1
                here += extra
            if here + size > len(data):
                raise Damaged("a snappy block is cut off")
            result += data[here : here + size]
            here += size
        else:  # a repetition of what came `offset` bytes before, perhaps beyond itself
            size, offset, here = _copy(data, here, tag)
            if not 0 < offset <= len(result):
                raise Damaged("a snappy block repeats what it does not have")
            if len(result) + size > length:
                break
            start = len(result) - offset
            piece = bytes(result[start : start + size])
            result += (piece * (size // len(piece) + 1))[:size]
        if len(result) > length:
            break
    if len(result) != length:
        raise Damaged(f"a snappy block does not have the {length} bytes it claims")
    return bytes(result)


def _copy(data: bytes, here: int, tag: int) -> tuple[int, int, int]:
    """Length, offset and end of a repetition; its offset has 11, 16 or 32 bits."""
    width = {1: 1, 2: 2, 3: 4}[tag & 3]
    if here + width > len(data):
        raise Damaged("a snappy block is cut off")
    offset = int.from_bytes(data[here : here + width], "little")
    if width == 1:
        return (tag >> 2 & 7) + 4, (tag >> 5) << 8 | offset, here + 1
    return (tag >> 2) + 1, offset, here + width


class Table:
    """The pairs of one table file, in order.

    Args:
        path: the file, for the messages.
        content: all of it.

    Raises:
        WeightsError: cut off, damaged (every block has a checksum), keys out of order or twice, too large.
    """

    def __init__(self, path: Path, content: bytes) -> None:
        self._path = path
        self._content = content
        self._unpacked = 0
        try:
            self.pairs = list(self._read())
        except Damaged as error:
            raise self._broken(str(error)) from None

    def _broken(self, found: str) -> WeightsError:
        expected = "the index of a TensorFlow checkpoint, undamaged"
        return problem(self._path, found, expected=expected, remedy=DOWNLOAD_AGAIN)

    def _read(self) -> Iterator[tuple[bytes, bytes]]:
        footer = self._content[-FOOTER_BYTES:]
        if len(footer) < FOOTER_BYTES or not footer.endswith(MAGIC):
            raise Damaged("it does not end as a TensorFlow table does")
        here = 0
        for _ in range(2):  # the block about other blocks (unused by TensorFlow), then the block of blocks
            offset, here = varint(footer, here)
            size, here = varint(footer, here)
        if here > FOOTER_BYTES - len(MAGIC):
            raise Damaged("its footer is damaged")
        last: bytes | None = None
        end = count = 0
        for bound, handle in self._entries(self._block(offset, size)):
            begin, after = varint(handle, 0)
            length, after = varint(handle, after)
            if begin < end or after != len(handle):
                raise Damaged(f"the block before {shown(bound)} overlaps the one before it")
            end = begin + length + 5
            for key, value in self._entries(self._block(begin, length)):
                if last is not None and key <= last:
                    fault = "occurs more than once" if key == last else "is out of order"
                    raise Damaged(f"the name {shown(key.decode('utf-8', 'replace'))} {fault}")
                # TensorFlow looks a name up by these bounds: beyond them it would not find what is read here.
                if key > bound:
                    raise Damaged(f"the name {shown(key.decode('utf-8', 'replace'))} is in the wrong block")
                last = key
                count += 1
                if count > MAX_PAIRS:
                    raise Damaged(f"it has more than {MAX_PAIRS} names")
                yield key, value

    def _block(self, offset: int, size: int) -> bytes:
        end = offset + size
        if end + 5 > len(self._content) - FOOTER_BYTES:
            raise Damaged(f"a block of {size} bytes at {offset} reaches beyond the end")
        stored = int.from_bytes(self._content[end + 1 : end + 5], "little")
        if masked(crc32c(memoryview(self._content)[offset : end + 1])) != stored:
            raise Damaged(f"the block at {offset} is damaged (wrong checksum)")
        kind = self._content[end]
        block = self._content[offset:end]
        if kind == SNAPPY:
            block = snappy(block, MAX_BYTES - self._unpacked)
            self._unpacked += len(block)
        elif kind != PLAIN:
            raise Damaged(f"the block at {offset} is compressed by the unknown method {kind}")
        return block

    def _entries(self, block: bytes) -> Iterator[tuple[bytes, bytes]]:
        """The pairs of one block; the table of restarts behind them serves a search and is only counted."""
        restarts = int.from_bytes(block[-4:], "little")
        end = len(block) - 4 * (restarts + 1)
        if len(block) < 4 or end < 0:
            raise Damaged("a block is too short for its own table")
        here = 0
        key = b""
        block = block[:end]
        while here < end:
            shared, here = varint(block, here)
            fresh, here = varint(block, here)
            length, here = varint(block, here)
            if shared > len(key) or here + fresh + length > end:
                raise Damaged("an entry of a block reaches beyond its end")
            key = key[:shared] + block[here : here + fresh]
            here += fresh
            # A thousand keys of a megabyte that share all but one byte fit into a small file.
            self._unpacked += len(key)
            if self._unpacked > MAX_BYTES:
                raise Damaged(f"its names have more than {MAX_BYTES} bytes")
            yield key, block[here : here + length]
            here += length
