"""One safetensors file: 8 bytes with the length of a JSON header, the header, then the tensors one after another.

Format: https://github.com/huggingface/safetensors (README, "Format"). The header is examined here, so that an error can
name the tensor, and then by the `safetensors` library, whose verdict is final.
"""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from weights_tools.common import (
    DOWNLOAD_AGAIN,
    TensorInfo,
    UnchangedFile,
    WeightsError,
    listed,
    problem,
    read_exactly,
    shown,
)

MAX_HEADER_BYTES = 100_000_000  # the library's own limit
MAX_DIMENSIONS = 64  # torch's own limit

DTYPES: dict[str, torch.dtype] = {
    "BOOL": torch.bool,
    "U8": torch.uint8,
    "I8": torch.int8,
    "U16": torch.uint16,
    "I16": torch.int16,
    "U32": torch.uint32,
    "I32": torch.int32,
    "U64": torch.uint64,
    "I64": torch.int64,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F32": torch.float32,
    "F64": torch.float64,
    "C64": torch.complex64,
}


class SafetensorsFile:
    """The tensors of one file; every read fills memory that the caller owns.

    Args:
        path: the file, of any name.

    Raises:
        WeightsError: the header or the length of the file is wrong; nothing was read beyond the header.
    """

    format = "safetensors"

    def __init__(self, path: Path) -> None:
        self.path = path
        self.notes: list[str] = []
        self._source = UnchangedFile(path)
        self._mapped: Any = None
        try:
            header, start = self._read_header()
            self.metadata = self._take_metadata(header)
            self._offsets: dict[str, int] = {}
            self.infos: dict[str, TensorInfo] = {}
            self._take_entries(header, start)
            self._ask_the_library()
        except BaseException:
            self.close()
            raise

    def _read_header(self) -> tuple[dict[str, Any], int]:
        size = self._source.size
        if size < 8:
            raise self._broken(f"{size} bytes in all", "at least 8 bytes, the length of the header")
        prefix = bytearray(8)
        read_exactly(self._source.file, 0, memoryview(prefix), self.path)
        length = int.from_bytes(prefix, "little")
        if length > MAX_HEADER_BYTES:
            raise self._broken(f"the header claims {length} bytes", f"at most {MAX_HEADER_BYTES}")
        if 8 + length > size:
            raise self._broken(f"the header claims {length} bytes, the file has {size}", "the whole header")
        text = bytearray(length)
        read_exactly(self._source.file, 8, memoryview(text), self.path)
        try:
            header = json.loads(text.decode("utf-8"), object_pairs_hook=self._unique, parse_constant=self._no_constant)
        except WeightsError:
            raise
        except (ValueError, RecursionError) as error:  # also a number of more digits than Python converts
            raise self._broken(f"the header is not JSON ({error})", "a JSON object") from None
        if not isinstance(header, dict):
            raise self._broken(f"the header is a JSON {type(header).__name__}", "a JSON object")
        return header, 8 + length

    def _unique(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        result = dict(pairs)
        if len(result) != len(pairs):
            doubled = sorted(name for name, times in Counter(name for name, _ in pairs).items() if times > 1)
            raise self._broken(f"the header names {listed(doubled)} more than once", "every name once")
        return result

    def _no_constant(self, text: str) -> None:
        raise self._broken(f"the header contains the number {text}", "integers")

    def _take_metadata(self, header: dict[str, Any]) -> dict[str, str]:
        metadata = header.pop("__metadata__", None)
        if metadata is None:
            return {}
        if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
            raise self._broken(f"__metadata__ is {shown(metadata)}", "an object of texts")
        return metadata

    def _take_entries(self, header: dict[str, Any], start: int) -> None:
        entries = [(*self._entry(name, value), name) for name, value in header.items()]
        here = 0
        for begin, end, shape, dtype, name in sorted(entries, key=lambda entry: entry[:2]):
            if begin != here:
                fault = "overlaps the tensor before it" if begin < here else f"leaves {begin - here} bytes unused"
                raise self._broken(f"its data starts at {begin} and {fault}", f"a start at {here}", name)
            here = end
            self._offsets[name] = start + begin
            self.infos[name] = TensorInfo(name, shape, dtype, end - begin, self.path)
        if start + here != self._source.size:
            expected = f"{start + here} bytes, as the header says"
            raise self._broken(f"the file has {self._source.size} bytes", expected)
        # Sorted by position for the checks above; listed as the header lists them.
        self.infos = {name: self.infos[name] for name in header}

    def _entry(self, name: str, value: Any) -> tuple[int, int, tuple[int, ...], torch.dtype]:
        if not isinstance(value, dict) or set(value) != {"dtype", "shape", "data_offsets"}:
            raise self._broken(f"the entry is {shown(value)}", "dtype, shape and data_offsets", name)
        dtype = DTYPES.get(value["dtype"]) if isinstance(value["dtype"], str) else None
        if dtype is None:
            raise self._broken(f"its dtype is {shown(value['dtype'])}", f"one of {', '.join(DTYPES)}", name)
        shape, offsets = value["shape"], value["data_offsets"]
        # The product of very many sizes would take for ever.
        if not _sizes(shape) or len(shape) > MAX_DIMENSIONS:
            expected = f"a list of at most {MAX_DIMENSIONS} sizes, none negative"
            raise self._broken(f"its shape is {shown(shape)}", expected, name)
        if not _sizes(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
            raise self._broken(f"its data_offsets are {shown(offsets)}", "[begin, end]", name)
        needed = dtype.itemsize
        for size in shape:
            needed *= size
        if offsets[1] - offsets[0] != needed:
            found = f"its data has {offsets[1] - offsets[0]} bytes"
            raise self._broken(found, f"{needed} bytes for shape {tuple(shape)} of {value['dtype']}", name)
        return offsets[0], offsets[1], tuple(shape), dtype

    def _ask_the_library(self) -> None:
        try:
            with safe_open(self.path, framework="np"):
                pass
        except (SafetensorError, OSError) as error:
            raise self._broken(f"the safetensors library refuses it ({error})", "a valid file") from None

    def _broken(self, found: str, expected: str, tensor: str | None = None) -> Exception:
        remedy = "The file is cut off, damaged or not safetensors. " + DOWNLOAD_AGAIN
        return problem(self.path, found, expected=expected, remedy=remedy, tensor=tensor)

    def read(self, name: str) -> torch.Tensor:
        """The tensor in memory of its own, filled straight from the file: no second copy, no page stays mapped."""
        info = self.infos[name]
        return self.read_into(name, torch.empty(info.shape, dtype=info.dtype))

    def read_into(self, name: str, out: torch.Tensor) -> torch.Tensor:
        """As `read`, into a contiguous CPU tensor of the file's dtype and shape."""
        if out.numel():
            target = out.reshape(-1).view(torch.uint8).numpy().data
            read_exactly(self._source.file, self._offsets[name], target, self.path, name)
        self._source.check()
        return out

    def read_mapped(self, name: str) -> torch.Tensor:
        """The tensor as a view of the mapped file: no copy, but the file must stay as it is for its whole life."""
        if self._mapped is None:
            self._mapped = safe_open(self.path, framework="pt")
        tensor: torch.Tensor = self._mapped.get_tensor(name)
        return tensor

    def release(self) -> None:
        """Nothing is held between reads."""

    def close(self) -> None:
        self._mapped = None
        self._source.close()


def _sizes(value: object) -> bool:
    return isinstance(value, list) and all(type(item) is int and 0 <= item < 2**63 for item in value)
