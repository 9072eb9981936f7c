"""The checksum of TensorFlow's files against RFC 3720's examples and its definition."""

from __future__ import annotations

import random

import pytest

from tests.weights import bundle_forge
from weights_tools.crc32c import ROWS, crc32c, masked

# RFC 3720, appendix B.4, and the check value of the catalogue of CRC algorithms.
EXAMPLES = [
    (b"", 0),
    (b"123456789", 0xE3069283),
    (bytes(32), 0x8A9136AA),
    (b"\xff" * 32, 0x62A8AB43),
    (bytes(range(32)), 0x46DD794E),
    (bytes(reversed(range(32))), 0x113FDB5C),
]


@pytest.mark.parametrize(("data", "expected"), EXAMPLES, ids=range(len(EXAMPLES)))
def test_examples(data: bytes, expected: int) -> None:
    assert crc32c(data) == bundle_forge.crc32c(data) == expected


def test_every_length_around_the_rows() -> None:
    data = random.Random(0).randbytes(8 * ROWS[0] + 5)
    small = 4 * ROWS[1]
    for length in {*range(12), small - 1, small, small + 1, 2 * small - 1, 2 * small, 2 * small + 1, 7 * small + 3}:
        assert crc32c(data[:length]) == bundle_forge.crc32c(data[:length])
    for length in (8 * ROWS[0] - 1, 8 * ROWS[0], 8 * ROWS[0] + 5):  # two rows of the wide kind
        assert crc32c(memoryview(data)[:length]) == bundle_forge.crc32c(data[:length])


def test_zeros_in_front_and_single_bits_change_it() -> None:
    data = bytearray(12 * ROWS[0])
    seen = {crc32c(data), crc32c(data[:-1])}
    for place in (0, 1, 4 * ROWS[0], len(data) - 1):
        data[place] ^= 1
        seen.add(crc32c(data))
        data[place] ^= 1
    assert len(seen) == 6


def test_masked() -> None:
    # The mask of the checksum of nothing is the constant itself (tensorflow/core/lib/hash/crc32c.h).
    assert masked(0) == 0xA282EAD8
    assert masked(crc32c(b"foo")).to_bytes(4, "little") == bundle_forge.masked(b"foo")
    assert masked(0xFFFFFFFF) == 0xA282EAD7
