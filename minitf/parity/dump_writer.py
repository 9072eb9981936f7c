"""A dump, written with NumPy alone: named arrays in one safetensors file (the format: docs/dumps.md).

    with DumpWriter("port.safetensors") as dump:
        dump.add("input_ids", ids)
        x = dump.add("embeddings.output", embed(ids))      # add returns what it was given

This file imports nothing else of minitf, so it can be copied into a port that does not install it. JAX, MLX and CuPy
arrays are taken as well, if `numpy.asarray` takes them; bfloat16 arrays (of `ml_dtypes`) are stored as they are.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import numpy as np

__all__ = ["DumpWriter"]

# numpy's name of a dtype -> that of the format.
CODES = {
    "bool": "BOOL",
    "uint8": "U8",
    "int8": "I8",
    "int16": "I16",
    "int32": "I32",
    "int64": "I64",
    "float16": "F16",
    "bfloat16": "BF16",
    "float32": "F32",
    "float64": "F64",
}

Array = TypeVar("Array")


class DumpWriter:
    """Collects arrays in a file beside `path`, which appears when `close()` is called or the `with` block ends.

    Each array goes to the disk at once, so a dump may be larger than the memory. If the block ends with an exception
    there is no dump: half of one would look like a port that stops early.

    Args:
        path: the file to write, usually `*.safetensors`; one that exists is replaced.
        dtype: the dtype that the port computes in ("bfloat16", "float16" ...), if the arrays are stored in a wider one.
    """

    def __init__(self, path: str | os.PathLike[str], *, dtype: str | None = None) -> None:
        if dtype is not None and CODES.get(dtype, "I")[0] not in "FB":
            raise ValueError(f"dtype = {dtype!r}: expected float32, float64, bfloat16 or float16.")
        self.path = Path(path)
        self._header: dict[str, Any] = {} if dtype is None else {"__metadata__": {"dtype": dtype}}
        self._size = 0
        self._part = self.path.with_name(f".{self.path.name}.{os.getpid()}.part")
        self._data = self._part.open("w+b")

    def add(self, name: str, array: Array) -> Array:
        """Write one array under a name, and return it, so that a port can dump in the middle of an expression.

        Raises:
            ValueError: the name was used before (a loop over layers needs the layer's number in it).
            TypeError: not an array of numbers or truth values.
        """
        values = np.asarray(array)
        code = CODES.get(values.dtype.name)
        if code is None:
            raise TypeError(f"{name!r} has dtype {values.dtype}: expected one of {', '.join(CODES)}.")
        if values.dtype.byteorder == ">":
            values = values.astype(values.dtype.newbyteorder("<"))
        self.add_bytes(name, code, values.shape, values.tobytes())
        return array

    def add_bytes(self, name: str, code: str, shape: tuple[int, ...], data: bytes) -> None:
        """Write one array that is bytes already: little-endian, row by row; `code` as in the format ("BF16", "F32")."""
        if name in self._header:
            raise ValueError(f"{name!r} is in the dump already: every name is written once (put the layer into it).")
        begin, self._size = self._size, self._size + len(data)
        self._header[name] = {"dtype": code, "shape": list(shape), "data_offsets": [begin, self._size]}
        self._data.write(data)

    def close(self) -> None:
        """Put the header in front of the data, and the file in its place."""
        header = json.dumps(self._header).encode()
        header += b" " * (-len(header) % 8)  # the data begins at a multiple of 8
        whole = self._part.with_suffix(".whole")
        self._data.seek(0)
        with whole.open("wb") as file:
            file.write(len(header).to_bytes(8, "little") + header)
            shutil.copyfileobj(self._data, file)
        whole.replace(self.path)
        self.abandon()

    def abandon(self) -> None:
        """Forget what was added; there will be no file."""
        self._data.close()
        self._part.unlink(missing_ok=True)

    def __enter__(self) -> DumpWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.close()
        else:
            self.abandon()
