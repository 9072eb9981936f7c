"""One HDF5 file of floating-point arrays in groups: `tf_model.h5`, or what Keras's `save_weights` writes.

Formats: https://support.hdfgroup.org/documentation/hdf5/latest/_f_m_t3.html; the filters are described there too. What
is where is found out by h5py (extra `tf`) in a process of its own (`hdf5_listing.py` says why); the numbers are read
here.
"""

from __future__ import annotations

import importlib.util
import json
import math
import os
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np
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

DTYPES = {"f2": torch.float16, "f4": torch.float32, "f8": torch.float64}
MAX_SECONDS = 60
# Deflate can make a thousand bytes of one. Weights compress to half at best; zeros and tables to far less.
EXPANSION, FREE_BYTES = 100, 64_000_000

DEFLATE, SHUFFLE = 1, 2
FILTERS = {3: "fletcher32", 4: "szip", 5: "nbit", 6: "scaleoffset", 32000: "lzf", 32001: "blosc", 32015: "zstd"}
REPACK = "Write it anew with HDF5's own tool: h5repack -f NONE -l CONTI old.h5 new.h5"

# The child looks for modules where this process does, not in its working folder or by its environment.
PROGRAM = "import json, sys; sys.path[:] = json.loads(sys.argv[1]); from weights_tools.hdf5_listing import main; main()"


class Hdf5File:
    """The floating-point arrays of one file, in whatever groups; every read fills memory that the caller owns.

    A name is the full path without the leading "/": "bert/tf_bert_model/bert/embeddings/.../gamma:0". What is not
    floating-point (texts, step counters) is left out and noted. Numbers are read from contiguous data sets, and from
    chunked ones with the filters gzip and shuffle. HDF5 has no checksum of numbers that are not compressed: a flipped
    bit there changes that one number, and nobody can notice.

    Args:
        path: the file, of any name.

    Raises:
        WeightsError: the file is damaged or cut off; links of any kind but the ordinary; numbers in other files, of
            unusual types, never written, overlapping or outside the file; other filters; absurd expansion; libhdf5
            crashed, or did not finish within a minute.
        ImportError: h5py is not installed.
    """

    format = "hdf5"

    def __init__(self, path: Path) -> None:
        self.path = path
        self.metadata: dict[str, str] = {}
        self.notes: list[str] = []
        self.infos: dict[str, TensorInfo] = {}
        self._entries: dict[str, dict[str, Any]] = {}
        self._source = UnchangedFile(path)
        try:
            found = _listing(self._source)
            self._source.check()
            if "refused" in found:
                what, expected, tensor = found["refused"]
                raise self._broken(what if what.isprintable() else shown(what), expected, tensor=tensor)
            for entry in found["tensors"]:
                self._take(entry)
            self._check_places()
            self._note_others(found["others"])
        except BaseException:
            self.close()
            raise

    def _broken(self, found: str, expected: str, remedy: str = DOWNLOAD_AGAIN, tensor: str | None = None) -> Exception:
        return problem(self.path, found, expected=expected, remedy=remedy, tensor=tensor)

    def _note_others(self, others: dict[str, str]) -> None:
        for reason in dict.fromkeys(others.values()):
            names = [name for name, why in others.items() if why == reason]
            self.notes.append(f"left out: {listed(names)} ({reason})")
        if not self.infos:
            remedy = "Give the file that `save_pretrained` or `save_weights` wrote."
            raise self._broken("it holds no floating-point arrays", "weights", remedy)

    def _take(self, entry: dict[str, Any]) -> None:
        name, shape, chunks = entry["name"], tuple(entry["shape"]), entry["chunks"]
        if not name.isprintable():  # also what is not UTF-8
            raise self._broken("its name is not a printable text", "a plain name", tensor=name)
        dtype = DTYPES[entry["dtype"][1:]]
        # Also the strides have to be counted, although a size of 0 makes the product small.
        if math.prod(size for size in shape if size) * dtype.itemsize >= 2**63:
            raise self._broken(f"its shape is {shown(shape)}", "a tensor of less than 2**63 bytes", tensor=name)
        nbytes = math.prod(shape) * dtype.itemsize
        if chunks is not None:
            self._check_chunks(entry, dtype.itemsize)
        elif nbytes and not entry["pieces"]:
            raise self._broken("its numbers were never written", "numbers", tensor=name)
        elif nbytes and entry["pieces"][0][3] != nbytes:
            found = f"its data has {entry['pieces'][0][3]} bytes"
            raise self._broken(found, f"{nbytes} for shape {shape} of {dtype}", tensor=name)
        self._entries[name] = entry
        self.infos[name] = TensorInfo(name, shape, dtype, nbytes, self.path)

    def _check_chunks(self, entry: dict[str, Any], itemsize: int) -> None:
        name, shape, chunks, filters = entry["name"], entry["shape"], entry["chunks"], entry["filters"]
        others = [FILTERS.get(number, f"number {number}") for number in filters if number not in (DEFLATE, SHUFFLE)]
        if others:
            raise self._broken(f"it is stored with the filter {others[0]}", "gzip or shuffle", REPACK, name)
        counts = [-(-size // step) for size, step in zip(shape, chunks, strict=True)]
        firsts = {tuple(piece[0]) for piece in entry["pieces"]}
        on_grid = all(
            first % step == 0 and first < size
            for place in firsts
            for first, step, size in zip(place, chunks, shape, strict=True)
        )
        if not on_grid or len(firsts) != len(entry["pieces"]) or len(firsts) != math.prod(counts):
            found = f"{len(firsts)} of its {math.prod(counts)} pieces were written"
            raise self._broken(found, "each piece once", tensor=name)
        limit = EXPANSION * self._source.size + FREE_BYTES
        total = len(firsts) * math.prod(chunks) * itemsize
        if total > limit:
            found = f"it would expand to {total} bytes, the file has {self._source.size}"
            raise self._broken(found, f"at most {limit}", REPACK, name)

    def _check_places(self) -> None:
        here = 0
        pieces = [
            (offset, size, name) for name, entry in self._entries.items() for _, _, offset, size in entry["pieces"]
        ]
        for offset, size, name in sorted(pieces):
            if size and offset < here:
                found = f"its data starts at {offset} and overlaps other data"
                raise self._broken(found, f"a start at {here} or later", tensor=name)
            here = max(here, offset + size)
            if here > self._source.size:
                found = f"its data ends at {here}, the file at {self._source.size}"
                raise self._broken(found, "data inside the file", tensor=name)

    # -------------------------------------------------------------------------------------------------------- reading

    def read(self, name: str) -> torch.Tensor:
        """The array as a contiguous tensor in memory of its own.

        Raises:
            WeightsError: the file was cut off or changed, or compressed data is damaged.
        """
        info = self.infos[name]
        return self.read_into(name, torch.empty(info.shape, dtype=info.dtype))

    def read_into(self, name: str, out: torch.Tensor) -> torch.Tensor:
        """As `read`, into a contiguous CPU tensor of the file's dtype and shape."""
        entry = self._entries[name]
        if out.numel():
            if entry["chunks"] is None:
                target = out.reshape(-1).view(torch.uint8).numpy().data
                read_exactly(self._source.file, entry["pieces"][0][2], target, self.path, name)
            else:
                self._read_chunks(entry, out.numpy())
            if entry["dtype"].startswith(">") == (sys.byteorder == "little"):
                out.numpy().byteswap(inplace=True)
        self._source.check()
        return out

    def _read_chunks(self, entry: dict[str, Any], out: np.ndarray[Any, Any]) -> None:
        chunks = entry["chunks"]
        nbytes = math.prod(chunks) * out.itemsize
        for firsts, left_out, offset, size in entry["pieces"]:
            raw = bytearray(size)
            read_exactly(self._source.file, offset, memoryview(raw), self.path, entry["name"])
            plain = self._unfiltered(bytes(raw), entry, left_out, nbytes, out.itemsize)
            piece = np.frombuffer(plain, dtype=out.dtype).reshape(chunks)
            # A piece at the edge is stored whole; what lies beyond the edge is nothing.
            ends = [min(first + step, end) for first, step, end in zip(firsts, chunks, out.shape, strict=True)]
            inside = tuple(slice(0, end - first) for first, end in zip(firsts, ends, strict=True))
            out[tuple(map(slice, firsts, ends))] = piece[inside]

    def _unfiltered(self, data: bytes, entry: dict[str, Any], left_out: int, nbytes: int, itemsize: int) -> bytes:
        for number, kind in reversed(list(enumerate(entry["filters"]))):
            if left_out >> number & 1:
                continue
            if kind == DEFLATE:
                inflater = zlib.decompressobj()
                try:
                    data = inflater.decompress(data, nbytes + 1)
                except zlib.error as error:
                    raise self._broken(f"its data is damaged ({error})", "gzip", tensor=entry["name"]) from None
                if not inflater.eof:
                    raise self._broken("its data is damaged", f"{nbytes} bytes in gzip", tensor=entry["name"])
            elif len(data) == nbytes:
                data = np.frombuffer(data, np.uint8).reshape(itemsize, -1).T.tobytes()
        if len(data) != nbytes:
            raise self._broken(f"a piece has {len(data)} bytes", f"{nbytes}", tensor=entry["name"])
        return data

    def read_mapped(self, name: str) -> torch.Tensor:
        """Refused: only safetensors files are mapped."""
        remedy = "Read it without mmap, or convert it to safetensors."
        raise self._broken("an HDF5 file", "a safetensors file to map", remedy, name)

    def release(self) -> None:
        """Nothing is held between reads."""

    def close(self) -> None:
        self._source.close()


def _listing(source: UnchangedFile) -> dict[str, Any]:
    """What `hdf5_listing.listing` says, from a child that got the open file."""
    if importlib.util.find_spec("h5py") is None:
        raise ImportError(f"{source.path} is an HDF5 file; reading it needs h5py: pip install 'minitf[tf]'")
    source.file.seek(0)
    # Filters that the environment could name are programs; threads of a linear-algebra library are only memory.
    environment = {**os.environ, "HDF5_PLUGIN_PRELOAD": "::", "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    try:
        done = subprocess.run(
            [sys.executable, "-I", "-c", PROGRAM, json.dumps(sys.path)],
            stdin=source.file,
            capture_output=True,
            timeout=MAX_SECONDS,
            env=environment,
        )
        found: dict[str, Any] = json.loads(done.stdout)
    except subprocess.TimeoutExpired:
        fault = f"did not finish within {MAX_SECONDS} s"
    except ValueError:
        fault = f"crashed, exit code {done.returncode} {shown(done.stderr[-200:].decode('utf-8', 'replace').strip())}"
    else:
        return found
    found_out = f"libhdf5 {fault} (in a process of its own)"
    raise problem(source.path, found_out, expected="a whole HDF5 file", remedy=DOWNLOAD_AGAIN)
