"""A checkpoint of TensorFlow (`tf.train.Saver`, `tf.train.Checkpoint`), read without TensorFlow.

`name.index` is a table of names (`tensorflow_table.py`); behind each name a message says dtype, shape, and where in
which of the files `name.data-00000-of-0000N` its bytes are. Formats: tensorflow/core/protobuf/tensor_bundle.proto,
framework/types.proto and tensor_shape.proto; what a writer does, util/tensor_bundle/tensor_bundle.cc.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from weights_tools.common import (
    DOWNLOAD_AGAIN,
    TensorInfo,
    UnchangedFile,
    listed,
    problem,
    read_exactly,
    shown,
)
from weights_tools.crc32c import crc32c, masked
from weights_tools.regular import is_there
from weights_tools.tensorflow_table import MAX_BYTES, Damaged, Fields, Table, fields, number

SUFFIX = ".index"

# types.proto: its number, TensorFlow's name without DT_, the dtype here (None: no tensor of numbers that torch has).
DTYPES: dict[int, tuple[str, torch.dtype | None]] = {
    1: ("FLOAT", torch.float32),
    2: ("DOUBLE", torch.float64),
    3: ("INT32", torch.int32),
    4: ("UINT8", torch.uint8),
    5: ("INT16", torch.int16),
    6: ("INT8", torch.int8),
    7: ("STRING", None),
    8: ("COMPLEX64", torch.complex64),
    9: ("INT64", torch.int64),
    10: ("BOOL", torch.bool),
    11: ("QINT8", None),
    12: ("QUINT8", None),
    13: ("QINT32", None),
    14: ("BFLOAT16", torch.bfloat16),
    15: ("QINT16", None),
    16: ("QUINT16", None),
    17: ("UINT16", torch.uint16),
    18: ("COMPLEX128", torch.complex128),
    19: ("HALF", torch.float16),
    20: ("RESOURCE", None),
    21: ("VARIANT", None),
    22: ("UINT32", torch.uint32),
    23: ("UINT64", torch.uint64),
    24: ("FLOAT8_E5M2", torch.float8_e5m2),
    25: ("FLOAT8_E4M3FN", torch.float8_e4m3fn),
}
REASONS = {"STRING": "text, not numbers", "RESOURCE": "a handle, not numbers", "VARIANT": "an object, not numbers"}

HEADER = {1: 0, 2: 0, 3: 2}  # num_shards, endianness, version
ENTRY = {1: 0, 2: 2, 3: 0, 4: 0, 5: 0, 6: 5, 7: 2}  # dtype, shape, shard_id, offset, size, crc32c, slices
SHAPE = {2: 2, 3: 0}  # dim, unknown_rank
DIMENSION = {1: 0, 2: 2}  # size, name
MAX_SHARDS = 99_999  # what fits into the names of the files
MAX_DIMENSIONS = 254  # TensorFlow's own limit


@dataclass(frozen=True)
class Entry:
    """One name of the index: TensorFlow's number of the dtype, shape, place, masked checksum, whether in parts."""

    dtype: int
    shape: tuple[int, ...]
    shard: int
    offset: int
    nbytes: int
    checksum: int
    is_sliced: bool


class TensorFlowBundle:
    """The variables of one checkpoint; every read fills memory that the caller owns and compares the checksum.

    All variables are listed, an optimizer's too; what is no tensor of numbers is in `skipped`, with the reason, and in
    `notes`. An index whose data files are all absent can be listed, but not read.

    Args:
        path: the index file, of any name.
        check: called with the path of each data file before it is opened; returns it, or refuses a link.

    Raises:
        FileNotFoundError: some data files are there and others are not.
        WeightsError: the index or a message in it is damaged; places that overlap or lie beyond the end of their file;
            sizes that disagree with the shape; numbers of a big-endian machine.
    """

    format = "tensorflow"

    def __init__(self, path: Path, check: Callable[[Path], Path] = lambda path: path) -> None:
        self.path = path
        self.metadata: dict[str, str] = {}
        self.notes: list[str] = []
        self.infos: dict[str, TensorInfo] = {}
        self.skipped: dict[str, str] = {}
        self._check = check
        self._shards: dict[int, UnchangedFile] = {}
        try:
            entries = self._read_index()
            self._check_places(entries)
            self._open_shards(entries)
            self._take(entries)
        except BaseException:
            self.close()
            raise

    @property
    def files(self) -> tuple[Path, ...]:
        """The data files, or the index if it stands alone."""
        return tuple(self._shards[shard].path for shard in sorted(self._shards)) or (self.path,)

    def _broken(self, found: str, expected: str, remedy: str = DOWNLOAD_AGAIN, tensor: str | None = None) -> Exception:
        return problem(self.path, found, expected=expected, remedy=remedy, tensor=tensor)

    # ------------------------------------------------------------------------------------------------------ the index

    def _read_index(self) -> dict[str, Entry]:
        source = UnchangedFile(self.path)
        try:
            if source.size > MAX_BYTES:
                raise self._broken(f"the index has {source.size} bytes", f"at most {MAX_BYTES}")
            content = bytearray(source.size)
            read_exactly(source.file, 0, memoryview(content), self.path)
            source.check()
        finally:
            source.close()
        pairs = Table(self.path, bytes(content)).pairs
        if not pairs or pairs[0][0] != b"":
            # The format before 2016: one file, its header under the same name but of another message.
            raise self._broken("its table has no header", "a checkpoint of TensorFlow 0.12 or later (an index)")
        self._take_header(pairs[0][1])
        # Keys that begin with 0 are no names but parts of partitioned variables, whose own entries say so.
        self._parts = sum(key[0] == 0 for key, _ in pairs[1:])
        return {self._name(key): self._entry(self._name(key), value) for key, value in pairs[1:] if key[0] != 0}

    def _take_header(self, message: bytes) -> None:
        try:
            header = fields(message, HEADER)
            self._num_shards = number(header, 1)
            order = number(header, 2)
        except Damaged as error:
            remedy = "A checkpoint of TensorFlow before 0.12 must be written again by tf.train.Saver."
            raise self._broken(f"its header is damaged ({error})", "number of files, byte order", remedy) from None
        if order != 0:
            remedy = "Write it again on a little-endian machine."
            raise self._broken("it was written by a big-endian machine", "little-endian numbers", remedy)
        if not 0 < self._num_shards <= MAX_SHARDS:
            raise self._broken(f"its header claims {self._num_shards} data files", f"1 to {MAX_SHARDS}")

    def _name(self, key: bytes) -> str:
        try:
            return key.decode("utf-8")
        except UnicodeDecodeError:
            raise self._broken(f"a variable is named {shown(key)}", "names in UTF-8") from None

    def _entry(self, name: str, message: bytes) -> Entry:
        try:
            content = fields(message, ENTRY)
            shape = self._shape(content)
            entry = Entry(
                dtype=number(content, 1),
                shape=shape,
                shard=number(content, 3),
                offset=number(content, 4),
                nbytes=number(content, 5),
                checksum=number(content, 6),
                is_sliced=7 in content,
            )
        except Damaged as error:
            raise self._broken(f"its entry is damaged ({error})", "dtype, shape, place", tensor=name) from None
        if entry.dtype not in DTYPES:
            raise self._broken(
                f"its dtype has the number {entry.dtype}", f"one of {min(DTYPES)} to {max(DTYPES)}", tensor=name
            )
        if entry.shard >= self._num_shards:
            found = f"it is in data file {entry.shard}"
            raise self._broken(found, f"0 to {self._num_shards - 1}, as the header says", tensor=name)
        dtype = DTYPES[entry.dtype][1]
        # Also the strides have to be counted, although a size of 0 makes the product small.
        if dtype is not None and math.prod(size for size in shape if size) * dtype.itemsize >= 2**63:
            raise self._broken(f"its shape is {shown(shape)}", "a tensor of less than 2**63 bytes", tensor=name)
        if dtype is not None and not entry.is_sliced and entry.nbytes != (needed := math.prod(shape) * dtype.itemsize):
            expected = f"{needed} for shape {shape} of {dtype}"
            raise self._broken(f"its data has {entry.nbytes} bytes", expected, tensor=name)
        return entry

    @staticmethod
    def _shape(content: Fields) -> tuple[int, ...]:
        messages = content.get(2, [b""])
        if len(messages) != 1 or not isinstance(messages[0], bytes):
            raise Damaged(f"it has {len(messages)} shapes")
        shape = fields(messages[0], SHAPE)
        if number(shape, 3):
            raise Damaged("its shape is unknown")
        dimensions = shape.get(2, [])
        if len(dimensions) > MAX_DIMENSIONS:
            raise Damaged(f"it has {len(dimensions)} dimensions")
        sizes = [number(fields(item, DIMENSION), 1) for item in dimensions if isinstance(item, bytes)]
        if any(size >= 2**63 for size in sizes):  # a negative number is written as a huge one
            raise Damaged("a size is negative")
        return tuple(sizes)

    # ------------------------------------------------------------------------------------------------- the data files

    def _check_places(self, entries: dict[str, Entry]) -> None:
        ends: dict[int, int] = {}
        ordered = sorted(entries.items(), key=lambda item: (item[1].shard, item[1].offset, item[1].nbytes))
        for name, entry in ordered:
            here = ends.get(entry.shard, 0)
            if entry.nbytes and entry.offset < here:
                found = f"its data starts at {entry.offset} and overlaps the tensor before it"
                raise self._broken(found, f"a start at {here} or later", tensor=name)
            if entry.nbytes:
                ends[entry.shard] = entry.offset + entry.nbytes
        self._ends = ends

    def _shard_path(self, shard: int) -> Path:
        name = f"{self.path.name.removesuffix(SUFFIX)}.data-{shard:05d}-of-{self._num_shards:05d}"
        return self.path.with_name(name)

    def _open_shards(self, entries: dict[str, Entry]) -> None:
        wanted = sorted({entry.shard for entry in entries.values()})
        paths = {shard: self._shard_path(shard) for shard in wanted}
        there = [shard for shard in wanted if is_there(paths[shard])]
        absent = [paths[shard].name for shard in wanted if shard not in there]
        if absent and there:
            found = f"data files are missing: {listed(absent)}"
            error = problem(self.path, found, expected="all that the index names", remedy=DOWNLOAD_AGAIN)
            raise FileNotFoundError(str(error))
        if absent:
            self.notes.append(
                f"the data is not here ({listed(absent, 3)}): names, shapes and dtypes are known, numbers are not"
            )
        for shard in there:
            source = self._shards[shard] = UnchangedFile(self._check(paths[shard]))
            end = self._ends.get(shard, 0)
            if source.size < end:
                found = f"the file has {source.size} bytes"
                raise problem(source.path, found, expected=f"at least {end}, as the index says", remedy=DOWNLOAD_AGAIN)
            if source.size > end:
                self.notes.append(f"{source.path.name} has {source.size - end} bytes more than the index mentions")

    def _take(self, entries: dict[str, Entry]) -> None:
        self._entries: dict[str, Entry] = {}
        for name, entry in entries.items():
            kind, dtype = DTYPES[entry.dtype]
            if dtype is None:
                self.skipped[name] = REASONS.get(kind, "a quantised type, which torch has not")
                continue
            nbytes = math.prod(entry.shape) * dtype.itemsize
            self._entries[name] = entry
            self.infos[name] = TensorInfo(name, entry.shape, dtype, nbytes, self._shard_path(entry.shard))
        for reason in dict.fromkeys(self.skipped.values()):
            names = [name for name, why in self.skipped.items() if why == reason]
            self.notes.append(f"left out: {listed(names)} ({reason})")
        sliced = [name for name, entry in self._entries.items() if entry.is_sliced]
        if sliced or self._parts:
            self.notes.append(f"stored in {self._parts} part(s), which cannot be read here: {listed(sliced)}")

    # -------------------------------------------------------------------------------------------------------- reading

    def read(self, name: str) -> torch.Tensor:
        """The variable in memory of its own, filled straight from the data file.

        Raises:
            WeightsError: its data file is not here; the data is damaged or cut off; the file changed; the variable is
                stored in parts (a partitioned variable).
        """
        self._check_readable(name)
        info = self.infos[name]
        return self.read_into(name, torch.empty(info.shape, dtype=info.dtype))

    def _check_readable(self, name: str) -> None:
        entry = self._entries[name]
        if entry.is_sliced:
            remedy = "Load it in TensorFlow and save it unpartitioned."
            raise self._broken("it is a partitioned variable, stored in parts", "a whole variable", remedy, name)
        if entry.shard not in self._shards:
            file = self._shard_path(entry.shard).name
            remedy = f"Put {file} beside {self.path.name}, then load again."
            raise self._broken(f"its data is not here: {file} is missing", "index and data together", remedy, name)

    def read_into(self, name: str, out: torch.Tensor) -> torch.Tensor:
        """As `read`, into a contiguous CPU tensor of the file's dtype and shape."""
        self._check_readable(name)
        entry, source = self._entries[name], self._shards[self._entries[name].shard]
        numbers = out.reshape(-1).view(torch.uint8).numpy()
        if out.numel():
            read_exactly(source.file, entry.offset, numbers.data, source.path, name)
        source.check()
        if masked(crc32c(numbers.data)) != entry.checksum:
            found = "its data is damaged (wrong checksum)"
            raise problem(source.path, found, expected="undamaged data", remedy=DOWNLOAD_AGAIN, tensor=name)
        if out.dtype is torch.bool and out.numel() and int(numbers.max()) > 1:
            raise self._broken("it holds truth values other than 0 and 1", "booleans", tensor=name)
        return out

    def read_mapped(self, name: str) -> torch.Tensor:
        """Refused: a mapped file would be used without its checksum."""
        remedy = "Read it without mmap, or convert it to safetensors."
        raise self._broken("a TensorFlow checkpoint", "a safetensors file to map", remedy, name)

    def release(self) -> None:
        """Nothing is held between reads."""

    def close(self) -> None:
        for source in self._shards.values():
            source.close()


def is_data(name: str) -> bool:
    """Whether a file has the name of a checkpoint's data."""
    stem, _, count = name.rpartition("-of-")
    rest, _, shard = stem.rpartition("-")
    return rest.endswith(".data") and shard.isdigit() and count.isdigit()
