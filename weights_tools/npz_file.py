"""One `.npz` file: numpy's zip archive of arrays, each in the form `.npy`, read without pickle and without surprise.

Format: `numpy.lib.format` (its docstring describes `.npy`); the archive: `zip_records.py`. numpy itself reads the
arrays' headers; before that, every size it would trust is compared with what is there.
"""

from __future__ import annotations

import io
import math
import zipfile
from pathlib import Path
from typing import IO

import numpy as np
import torch

from weights_tools.common import (
    DOWNLOAD_AGAIN,
    TensorInfo,
    UnchangedFile,
    WeightsError,
    listed,
    problem,
    shown,
)
from weights_tools.zip_records import DAMAGE, checked_records, open_archive

# numpy's `dtype.str` without the byte order.
DTYPES: dict[str, torch.dtype] = {
    "b1": torch.bool,
    "u1": torch.uint8,
    "i1": torch.int8,
    "u2": torch.uint16,
    "i2": torch.int16,
    "u4": torch.uint32,
    "i4": torch.int32,
    "u8": torch.uint64,
    "i8": torch.int64,
    "f2": torch.float16,
    "f4": torch.float32,
    "f8": torch.float64,
    "c8": torch.complex64,
    "c16": torch.complex128,
}
MAX_HEADER_BYTES = 10_000  # numpy's own limit
MAX_DIMENSIONS = 64  # numpy's own limit
# Deflate can make a thousand bytes of one. Weights compress to half at best; zeros, masks and tables to far less.
EXPANSION, FREE_BYTES = 100, 64_000_000

SAVE_AGAIN = "Ask its author for plain numbers: numpy.savez(path, **{name: array.astype(numpy.float32)})."


class NpzFile:
    """The arrays of one file; every read fills memory that the caller owns and compares the archive's checksum.

    Names are the records' names without ".npy". Opening reads the archive's directory and the header of each array.
    Arrays of the other byte order or in Fortran's order are read as what they are and returned in the ordinary form.

    Args:
        path: the file, of any name.

    Raises:
        WeightsError: the archive is damaged, cut off or expands to absurd sizes; records that overlap, occur twice or
            are no arrays; arrays of Python objects, texts, records or types that torch has not.
    """

    format = "npz"

    def __init__(self, path: Path) -> None:
        self.path = path
        self.metadata: dict[str, str] = {}
        self.notes: list[str] = []
        self.infos: dict[str, TensorInfo] = {}
        self._records: dict[str, zipfile.ZipInfo] = {}
        self._layouts: dict[str, tuple[np.dtype[np.generic], bool, int]] = {}  # dtype, Fortran's order, header's length
        self._source = UnchangedFile(path)
        try:
            self._archive = open_archive(self._source)
            self._records = self._checked_records()
            for name in self._records:
                self._take_header(name)
        except BaseException:
            self.close()
            raise

    def _broken(self, found: str, expected: str, remedy: str = DOWNLOAD_AGAIN, tensor: str | None = None) -> Exception:
        return problem(self.path, found, expected=expected, remedy=remedy, tensor=tensor)

    # -------------------------------------------------------------------------------------------------- the archive

    def _damaged(self, error: Exception, tensor: str | None = None) -> Exception:
        return self._broken(f"the archive is damaged ({error})", "a whole zip archive", tensor=tensor)

    def _checked_records(self) -> dict[str, zipfile.ZipInfo]:
        records = self._archive.infolist()
        others = [record.orig_filename for record in records if not record.orig_filename.endswith(".npy")]
        if others:
            raise self._broken(f"it holds something else than arrays: {listed(others)}", "*.npy alone")
        methods = {zipfile.ZIP_STORED: "stored", zipfile.ZIP_DEFLATED: "deflated, as numpy writes"}
        ordered = checked_records(self._archive, self._source, methods)
        if not ordered:
            raise self._broken("it holds no arrays", "names and arrays", "Was it saved by numpy.savez(path, **arrays)?")
        self._check_expansion(sum(record.file_size for record in ordered))
        return {record.filename.removesuffix(".npy"): record for record in records}

    def _check_expansion(self, total: int) -> None:
        limit = EXPANSION * self._source.size + FREE_BYTES
        if total > limit:
            found = f"it would expand from {self._source.size} to {total} bytes"
            remedy = "If it is honest, write it with numpy.savez, which does not compress."
            raise self._broken(found, f"at most {limit}", remedy)

    # --------------------------------------------------------------------------------------------------- the arrays

    def _take_header(self, name: str) -> None:
        try:
            with self._archive.open(self._records[name]) as file:
                header = self._header_bytes(file, name)
        except DAMAGE as error:
            if isinstance(error, WeightsError):
                raise
            raise self._damaged(error, name) from None
        shape, is_fortran, dtype = self._parsed(header, name)
        torch_dtype = DTYPES.get(dtype.str[1:]) if dtype.names is None else None
        if torch_dtype is None:
            raise self._broken(f"its dtype is {shown(str(dtype))}{_why(dtype)}", "numbers", SAVE_AGAIN, name)
        sizes_fit = all(type(size) is int and 0 <= size < 2**63 for size in shape) and len(shape) <= MAX_DIMENSIONS
        # Also the strides have to be counted, although a size of 0 makes the product small.
        if not sizes_fit or math.prod(size for size in shape if size) * dtype.itemsize >= 2**63:
            raise self._broken(f"its shape is {shown(shape)}", f"up to {MAX_DIMENSIONS} sizes", tensor=name)
        nbytes = math.prod(shape) * dtype.itemsize
        claimed = self._records[name].file_size
        if len(header) + nbytes != claimed:
            found = f"its record has {claimed} bytes"
            expected = f"{len(header) + nbytes} for shape {shape} of {dtype}"
            raise self._broken(found, expected, tensor=name)
        self._layouts[name] = (dtype, is_fortran and len(shape) > 1, len(header))
        self.infos[name] = TensorInfo(name, shape, torch_dtype, nbytes, self.path)

    def _header_bytes(self, file: IO[bytes], name: str) -> bytes:
        """Magic, version, length and text of the header; its length is examined before numpy would believe it."""
        start = file.read(8)
        version = tuple(start[6:8])
        if start[:6] != b"\x93NUMPY" or version not in ((1, 0), (2, 0)):
            # Version 3 exists for the names of fields in records, which no weights have.
            raise self._broken(f"it begins with {start!r}", "a .npy array of version 1.0 or 2.0", tensor=name)
        count = 2 if version == (1, 0) else 4
        prefix = file.read(count)
        length = int.from_bytes(prefix, "little")
        if length > MAX_HEADER_BYTES:
            raise self._broken(f"its header claims {length} bytes", f"at most {MAX_HEADER_BYTES}", tensor=name)
        text = file.read(length)
        if len(prefix) < count or len(text) < length:
            raise self._broken("its record ends inside the header", "a whole array", tensor=name)
        return start + prefix + text

    def _parsed(self, header: bytes, name: str) -> tuple[tuple[int, ...], bool, np.dtype[np.generic]]:
        stream = io.BytesIO(header)
        try:
            version = np.lib.format.read_magic(stream)
            read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            shape, is_fortran, dtype = read(stream)
        except Exception as error:  # a literal in Python's syntax: whatever it provokes is the file's fault
            raise self._broken(
                f"its header is damaged ({shown(str(error))})", "what numpy.save writes", tensor=name
            ) from None
        return shape, is_fortran, dtype

    def read(self, name: str) -> torch.Tensor:
        """The array as a contiguous tensor in memory of its own.

        Raises:
            WeightsError: the data is damaged, cut off or not as long as its header says; the file changed.
        """
        info = self.infos[name]
        return self.read_into(name, torch.empty(info.shape, dtype=info.dtype))

    def read_into(self, name: str, out: torch.Tensor) -> torch.Tensor:
        """As `read`, into a contiguous CPU tensor of the file's dtype and shape."""
        dtype, is_fortran, skipped = self._layouts[name]
        # Fortran's order is the ordinary order of the transposed array.
        raw = torch.empty(out.shape[::-1], dtype=out.dtype) if is_fortran else out
        numbers = raw.reshape(-1).view(torch.uint8).numpy()
        try:
            with self._archive.open(self._records[name]) as file:
                file.read(skipped)
                self._fill(file, numbers.data, name)
        except DAMAGE as error:
            if isinstance(error, WeightsError):
                raise
            raise self._damaged(error, name) from None
        self._source.check()
        if not dtype.isnative:
            # A complex number is two numbers, each of them turned around.
            width = dtype.itemsize // 2 if dtype.kind == "c" else dtype.itemsize
            numbers.view(f"u{width}").byteswap(inplace=True)
        if raw.dtype is torch.bool and raw.numel() and int(numbers.max()) > 1:
            raise self._broken("it holds truth values other than 0 and 1", "booleans", tensor=name)
        return out.copy_(raw.permute(*reversed(range(raw.dim())))) if is_fortran else out

    def _fill(self, file: IO[bytes], target: memoryview, name: str) -> None:
        done = 0
        while done < len(target):
            part = file.read(min(2**20, len(target) - done))
            if not part:
                raise self._broken(f"its data ends {len(target) - done} bytes too early", "a whole array", tensor=name)
            target[done : done + len(part)] = part
            done += len(part)
        # zipfile compares the checksum when it has seen the end.
        if file.read(1):
            raise self._broken("its data is longer than its header says", "equal sizes", tensor=name)

    def read_mapped(self, name: str) -> torch.Tensor:
        """Refused: an archive is never mapped."""
        remedy = "Read it without mmap, or convert it to safetensors."
        raise self._broken("an .npz archive", "a safetensors file to map", remedy, name)

    def release(self) -> None:
        """Nothing is held between reads."""

    def close(self) -> None:
        self._source.close()


def _why(dtype: np.dtype[np.generic]) -> str:
    if dtype.hasobject:
        return ", Python objects, which may run any program when opened (they were not opened)"
    if dtype.kind == "V":
        return ", bytes without a meaning (bfloat16 arrays of ml_dtypes are saved like this)"
    return ""
