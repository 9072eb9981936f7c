"""What an HDF5 file holds and where its numbers are, found out by libhdf5 in a process of its own.

The format is large and its only reader is a C library that was not made for hostile files: of two thousand files with
a few random bytes changed, one makes it loop for ever, and files made on purpose have crashed it. So this module runs
as a child with limits of time and memory, gets the open file as its standard input, reads no tensor, and prints a list
of places as JSON. `hdf5_file.py` starts it, checks every place and reads the numbers itself.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import math
import sys
from typing import Any

MAX_SECONDS = 30  # of processor time; the largest published file takes a tenth of a second
MAX_MEMORY = 2_000_000_000
MAX_OBJECTS = 100_000
MAX_PIECES = 500_000
MAX_DEPTH = 64
MAX_DIMENSIONS = 32  # HDF5's own limit


class Refused(Exception):
    """found, expected, and the full path of the object if one is concerned."""


def limit_this_process() -> None:
    """Processor time and memory, where the system can limit them (not on Windows: there, the parent's clock alone)."""
    with contextlib.suppress(ImportError):
        import resource

        limits = (("RLIMIT_CPU", MAX_SECONDS), ("RLIMIT_AS", MAX_MEMORY), ("RLIMIT_CORE", 0))
        for name, limit in limits:
            with contextlib.suppress(AttributeError, ValueError, OSError):
                resource.setrlimit(getattr(resource, name), (limit, limit))


def listing(file: Any) -> dict[str, Any]:
    """{"tensors": [...], "others": {path: what it is}}, or {"refused": [found, expected, path or None]}.

    Args:
        file: the HDF5 file, open for reading.

    A tensor is {"name", "dtype" (numpy's: "<f4"), "shape", "chunks" (the shape of a piece, or None), "filters" (their
    numbers in the order of writing), "pieces": [[indices of the first element, filters left out (bits), offset,
    bytes], ...]}.
    """
    import h5py

    try:
        with h5py.File(file, "r", locking=False) as root:
            walk = _Walk(h5py)
            walk.group(root, "", 0)
            return {"tensors": walk.tensors, "others": walk.others}
    except Refused as refusal:
        return {"refused": refusal.args}
    except Exception as error:  # whatever a file provokes in the library is the file's fault
        return {"refused": [f"libhdf5 cannot read it ({str(error)[:300]})", "a whole HDF5 file", None]}


class _Walk:
    def __init__(self, h5py: Any) -> None:
        self.h5py = h5py
        self.tensors: list[dict[str, Any]] = []
        self.others: dict[str, str] = {}
        self.count = 0
        self.seen: dict[Any, str] = {}
        types = h5py.h5t
        # Compared as libhdf5 compares types: h5py itself would give odd ones numpy's nearest type and convert.
        self.floats = {
            f"{mark}f{size}": getattr(types, f"IEEE_F{8 * size}{order}")
            for size, (mark, order) in itertools.product((2, 4, 8), (("<", "LE"), (">", "BE")))
        }

    def group(self, group: Any, path: str, depth: int) -> None:
        if depth > MAX_DEPTH:
            raise Refused(f"its groups are nested more than {MAX_DEPTH} deep", "the groups of a model", path)
        names = set()
        for name in group:
            inner = f"{path}/{name}" if path else name
            self.count += 1
            if self.count > MAX_OBJECTS:
                raise Refused(f"it holds more than {MAX_OBJECTS} objects", "the weights of a model", None)
            if name in names:
                raise Refused("the name occurs more than once", "every name once", inner)
            names.add(name)
            self.item(group, name, inner, depth)

    def item(self, group: Any, name: str, path: str, depth: int) -> None:
        h5py = self.h5py
        link = group.get(name, getlink=True)
        if not isinstance(link, h5py.HardLink):
            kind = "a link into another file" if isinstance(link, h5py.ExternalLink) else "a soft link"
            raise Refused(f"it is {kind}", "an object of this file", path)
        found = group[name]
        address = h5py.h5o.get_info(found.id).addr
        if address in self.seen:
            raise Refused(f"it is the same object as {self.seen[address]!r}", "one name for each object", path)
        self.seen[address] = path
        if isinstance(found, h5py.Group):
            self.group(found, path, depth + 1)
        elif isinstance(found, h5py.Dataset):
            self.dataset(found, path)
        else:
            self.others[path] = "a type"

    def dataset(self, dataset: Any, path: str) -> None:
        h5py = self.h5py
        kind = dataset.id.get_type()
        space = dataset.id.get_space()
        if kind.get_class() != h5py.h5t.FLOAT:
            self.others[path] = "no floating-point numbers"
            return
        if space.get_simple_extent_type() == h5py.h5s.NULL:
            self.others[path] = "an empty data set"
            return
        dtype = next((name for name, standard in self.floats.items() if kind.equal(standard)), None)
        if dtype is None:
            raise Refused("its numbers are of an unusual type", "IEEE numbers of 2, 4 or 8 bytes", path)
        settings = dataset.id.get_create_plist()
        if settings.get_external_count():
            raise Refused("its numbers are in another file", "numbers in this file", path)
        shape = list(space.get_simple_extent_dims())
        layout = settings.get_layout()
        entry = {"name": path, "dtype": dtype, "shape": shape, "chunks": None, "filters": [], "pieces": []}
        if layout == h5py.h5d.CHUNKED:
            entry |= self.chunked(dataset, settings, shape, path)
        elif layout == h5py.h5d.CONTIGUOUS:
            offset = dataset.id.get_offset()
            if offset is not None:
                entry["pieces"] = [[[0] * len(shape), 0, offset, dataset.id.get_storage_size()]]
        else:
            word = "virtual" if layout == h5py.h5d.VIRTUAL else "compact"
            raise Refused(f"its layout is {word}", "contiguous or chunked numbers", path)
        self.tensors.append(entry)

    def chunked(self, dataset: Any, settings: Any, shape: list[int], path: str) -> dict[str, Any]:
        chunks = list(settings.get_chunk())
        wanted = math.prod(-(-size // step) for size, step in zip(shape, chunks, strict=True))
        filters = [settings.get_filter(number)[0] for number in range(settings.get_nfilters())]
        pieces: list[Any] = []
        if wanted > MAX_PIECES:
            raise Refused(f"it is stored in {wanted} pieces", f"at most {MAX_PIECES}", path)

        def take(piece: Any) -> bool | None:
            pieces.append([list(piece.chunk_offset), piece.filter_mask, piece.byte_offset, piece.size])
            return True if len(pieces) > wanted else None  # anything but None stops

        if wanted:
            dataset.id.chunk_iter(take)
        return {"chunks": chunks, "filters": filters, "pieces": pieces}


def main() -> None:
    """Standard input is the file, standard output gets the listing."""
    limit_this_process()
    with open(0, "rb", buffering=0, closefd=False) as file:
        json.dump(listing(file), sys.stdout)
