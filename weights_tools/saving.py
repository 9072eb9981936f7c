"""Writing a checkpoint, all or nothing: every file of it, and of the checkpoint that it replaces, in one transaction.

A folder is read in a fixed order of preference (`model.safetensors`, its index, `pytorch_model.bin`, its index;
`transformers` has the same). So a save removes the entries that a reader would prefer to the new one, and those of its
own format that it replaces, with their shards: all at the moment at which the new files appear
(`weights_tools.transaction`). Shards get names that no file in the folder has, so that a reader who has just read the
old index never meets a new shard.

Tensors are written one after another: a value may be `Pending`, which is read when its turn comes, so that a
conversion holds one tensor at a time.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy
import torch

from weights_tools.atomic import write_atomically
from weights_tools.hub_files import entries
from weights_tools.safetensors_file import DTYPES
from weights_tools.transaction import Transaction, transaction

__all__ = ["Pending", "parse_size", "save_checkpoint", "write_atomically", "write_bin", "write_safetensors"]

ORDER = entries(None)
SAFETENSORS, SAFETENSORS_INDEX, BIN, BIN_INDEX = ORDER
ENTRIES = {"safetensors": (SAFETENSORS, SAFETENSORS_INDEX), "pytorch": (BIN, BIN_INDEX)}

UNITS = {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
UNITS |= {"KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "TIB": 2**40}

DTYPE_NAMES = {dtype: name for name, dtype in DTYPES.items()}
# The order in which the safetensors library stores the dtypes.
WIDEST_FIRST = (
    *("U64", "I64", "F64", "C64", "F32", "U32", "I32", "BF16", "F16", "U16", "I16"),
    *("F8_E4M3", "F8_E5M2", "I8", "U8", "BOOL"),
)
BLOCK = 2**24  # bytes that are made contiguous, converted and written at a time


@dataclass(frozen=True)
class Pending:
    """A tensor that is read when it is written, in place of a tensor in memory.

    Attributes:
        shape: its shape; `read` must return it.
        dtype: what is stored; what `read` returns is converted, a block at a time.
        read: returns the tensor, on any device; called once.
    """

    shape: tuple[int, ...]
    dtype: torch.dtype
    read: Callable[[], torch.Tensor]

    @property
    def nbytes(self) -> int:
        """Bytes in the file."""
        count = 1
        for size in self.shape:
            count *= size
        return count * self.dtype.itemsize


def parse_size(size: int | str) -> int:
    """Bytes: 50000, "50KB" (50,000), "50KiB" or "50kiB" (51,200), "1.5GB"; case does not matter.

    Raises:
        ValueError: not a number and a unit, or not positive.
    """
    if isinstance(size, int) and not isinstance(size, bool) and size > 0:
        return size
    if isinstance(size, str):
        match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kmgt]?i?b)?\s*", size, re.IGNORECASE)
        unit = (match[2] or "B").upper() if match else ""
        if match and unit in UNITS and (count := int(float(match[1]) * UNITS[unit])) > 0:
            return count
    raise ValueError(f'max_shard_size is {size!r}; expected a positive number of bytes or a text like "5GB" or "50KiB"')


def save_checkpoint(
    folder: str | os.PathLike[str],
    tensors: Mapping[str, torch.Tensor | Pending],
    *,
    max_shard_size: int | str = "5GB",
    metadata: dict[str, str] | None = None,
    format: str = "safetensors",
    files: Mapping[str, bytes | Callable[[Mapping[str, Path]], bytes] | None] | None = None,
) -> list[Path]:
    """Write `tensors` into `folder`, all or nothing (how: see `weights_tools.transaction`).

    Args:
        folder: created if need be.
        tensors: name -> dense tensor, any device, or `Pending`. Every name is stored as a whole contiguous tensor of
            its own: views and shared memory are written out, so tied weights that should be stored once must be passed
            under one name.
        max_shard_size: bytes, or "5GB", "50KiB" ...; what exceeds it is split into shards with an index. A tensor
            larger than this has a shard to itself.
        metadata: texts for the safetensors header; default {"format": "pt"}, which `transformers` asks for.
        format: "safetensors" -> model.safetensors, "pytorch" -> pytorch_model.bin.
        files: further files of the folder that change in the same moment: name -> content, None removes one; a function
            is given the written weights files, name -> where they can be read now, and returns the content.

    Returns:
        The weights files of the new checkpoint, the index last.

    Raises:
        TypeError: a value is not a tensor, or not a dense one.
        ValueError: nothing to save, unknown format, wrong size; the message names it.
        OSError: the disk is full, no permission, ...; the old checkpoint is then untouched.

    Replaced files of the same format are removed. Files of the other format are removed only where a reader would
    prefer them (safetensors, when saving "pytorch"). Of two writers at once the second waits for the first.
    """
    header, limit = _checked(tensors, max_shard_size, metadata, format)
    with transaction(folder) as change:
        written = _stage(change, _split(tensors, limit), header, format)
        places = {name: change.path(name) for name in written}
        for name, data in (files or {}).items():
            if data is None:
                change.remove(name)
            else:
                change.write(name, data(places) if callable(data) else data)
        change.path(written[-1])  # where files can only be replaced one after another: the entry last
        _remove_replaced(change, written)
    return [Path(folder) / name for name in written]


def _stage(
    change: Transaction, groups: list[dict[str, torch.Tensor | Pending]], header: dict[str, str], format: str
) -> list[str]:
    """Write the weights files, one for each group, and the index; their names, the index last."""
    single, index = ENTRIES[format]
    shards = [single] if len(groups) == 1 else _free_names(change.folder, single, len(groups))
    for shard, group in zip(shards, groups, strict=True):
        path = change.path(shard)
        if format == "safetensors":
            with path.open("wb") as file:
                write_safetensors(file, group, header)
        else:
            write_bin(path, group)
    written = shards if len(groups) == 1 else [*shards, index]
    if len(groups) > 1:
        content = {
            "metadata": {"total_size": sum(value.nbytes for group in groups for value in group.values())},
            "weight_map": {name: shard for shard, group in zip(shards, groups, strict=True) for name in group},
        }
        change.write(index, (json.dumps(content, indent=2) + "\n").encode())
    return written


def _checked(
    tensors: Mapping[str, torch.Tensor | Pending],
    max_shard_size: int | str,
    metadata: dict[str, str] | None,
    format: str,
) -> tuple[dict[str, str], int]:
    """(texts for the header, bytes of a shard at most), before anything is written."""
    if format not in ENTRIES:
        raise ValueError(f"format is {format!r}; expected one of {', '.join(map(repr, ENTRIES))}")
    limit = parse_size(max_shard_size)
    _check_tensors(tensors, format)
    header = {"format": "pt"} if metadata is None else dict(metadata)
    if not all(isinstance(text, str) for pair in header.items() for text in pair):
        raise TypeError(f"metadata is {header!r}; expected a dictionary of texts")
    return header, limit


def _remove_replaced(change: Transaction, written: list[str]) -> None:
    """What a reader would prefer to the new entry, the entries of its format, and the shards of both."""
    entry = written[-1]
    same_format = next(names for names in ENTRIES.values() if entry in names)
    gone = [name for rank, name in enumerate(ORDER) if rank <= ORDER.index(entry) or name in same_format]
    staying = [name for name in ORDER if name not in gone]
    in_use = set(written).union(*(_shards_of(change.folder / name) for name in staying))
    for name in gone:
        for file in (name, *sorted(_shards_of(change.folder / name))):
            if file not in in_use:
                change.remove(file)


def _shards_of(index: Path) -> set[str]:
    """The plain file names in an index that is being replaced; an unreadable one names nothing to remove."""
    try:
        weight_map = json.loads(index.read_bytes())["weight_map"] if index.suffix == ".json" else {}
        names = set(weight_map.values())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return set()
    pattern = re.compile(r"(model|pytorch_model)[^/\\]*-\d{5}-of-\d{5}\.(safetensors|bin)")
    return {name for name in names if isinstance(name, str) and pattern.fullmatch(name)}


def _check_tensors(tensors: Mapping[str, torch.Tensor | Pending], format: str) -> None:
    if not tensors:
        raise ValueError("tensors is empty; expected at least one named tensor")
    for name, tensor in tensors.items():
        if not isinstance(name, str) or name == "__metadata__":
            raise TypeError(f"the name {name!r} cannot be stored; expected a text other than '__metadata__'")
        if not isinstance(tensor, torch.Tensor | Pending):
            raise TypeError(f"{name} is a {type(tensor).__name__}; expected a torch.Tensor")
        if isinstance(tensor, torch.Tensor) and tensor.device.type == "meta":
            raise TypeError(f"{name} is on the meta device, without data; expected a dense tensor: convert it first")
        if isinstance(tensor, torch.Tensor) and (tensor.layout is not torch.strided or tensor.is_quantized):
            raise TypeError(f"{name} is sparse or quantised; expected a dense tensor: convert it first")
        if format == "safetensors" and tensor.dtype not in DTYPE_NAMES:
            raise TypeError(f"{name} has dtype {tensor.dtype}, which safetensors cannot hold: convert it first")


def _split(tensors: Mapping[str, torch.Tensor | Pending], limit: int) -> list[dict[str, torch.Tensor | Pending]]:
    groups: list[dict[str, torch.Tensor | Pending]] = [{}]
    used = 0
    for name, tensor in tensors.items():
        if groups[-1] and used + tensor.nbytes > limit:
            groups.append({})
            used = 0
        groups[-1][name] = tensor
        used += tensor.nbytes
    return groups


def _free_names(folder: Path, single: str, count: int) -> list[str]:
    """`model-00001-of-00003.safetensors` ..., with something between if a file of one of these names is there."""
    stem, _, suffix = single.rpartition(".")
    token = ""
    while True:
        names = [f"{stem}{token}-{number:05d}-of-{count:05d}.{suffix}" for number in range(1, count + 1)]
        if not any(os.path.lexists(folder / name) for name in names):
            return names
        token = f"-{secrets.token_hex(4)}"


# --------------------------------------------------------------------------------------------------------- one file


def write_safetensors(
    file: BinaryIO, tensors: Mapping[str, torch.Tensor | Pending], metadata: Mapping[str, str] | None = None
) -> None:
    """Write one safetensors file, a tensor at a time; the bytes are those that `safetensors.torch.save_file` writes.

    The library wants all tensors at once; a conversion should hold one. The format
    (https://github.com/huggingface/safetensors, README, "Format"): eight bytes with the length of the header, the
    header in JSON, padded with spaces to a multiple of eight, then the tensors, widest dtype first, then by name.

    Raises:
        TypeError: a dtype that the format does not know. ValueError: a `Pending` tensor came with another shape.
        OSError: the disk is full, or this is a big-endian machine (the format is little-endian).
    """
    if sys.byteorder != "little":
        raise OSError("safetensors files are little-endian, and this machine is not: nothing was written")
    order = sorted(tensors, key=lambda name: (WIDEST_FIRST.index(DTYPE_NAMES[tensors[name].dtype]), name.encode()))
    header: dict[str, object] = {"__metadata__": dict(metadata)} if metadata else {}
    offset = 0
    for name in order:
        tensor = tensors[name]
        end = offset + tensor.nbytes
        header[name] = {
            "dtype": DTYPE_NAMES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [offset, end],
        }
        offset = end
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    file.write(len(text).to_bytes(8, "little") + text)
    for name in order:
        # A loop variable would keep the last tensor alive while the next one is read.
        file.writelines(block.view(torch.uint8).numpy().data for block in blocks(name, tensors[name]))


def write_bin(path: Path, tensors: Mapping[str, torch.Tensor | Pending]) -> None:
    """Write what `torch.load` reads. torch.save wants all tensors at once: pending ones go through a temporary file.

    Raises:
        ValueError: a `Pending` tensor came with another shape. OSError: the disk is full.
    """
    scratch = path.with_name(f"{path.name}.{secrets.token_hex(4)}.tmp")
    ready: dict[str, torch.Tensor] = {}
    try:
        with scratch.open("xb") as file:
            for name, tensor in tensors.items():
                if isinstance(tensor, Pending):
                    ready[name] = _through(file, name, tensor)
                else:
                    ready[name] = _alone(tensor)
        with path.open("wb") as file:
            try:
                torch.save(ready, file)
            except RuntimeError as error:  # torch's writer says nothing of what the system said
                if isinstance(error.__context__, OSError):
                    raise error.__context__ from None
                raise
    finally:
        ready.clear()
        scratch.unlink(missing_ok=True)


def _through(file: BinaryIO, name: str, tensor: Pending) -> torch.Tensor:
    """Append the tensor to `file`; the result lives in the mapped file and not in memory."""
    start = file.tell()
    file.writelines(block.view(torch.uint8).numpy().data for block in blocks(name, tensor))
    file.flush()
    if not tensor.nbytes:
        return torch.empty(tensor.shape, dtype=tensor.dtype)
    mapped = numpy.memmap(file.name, numpy.uint8, mode="c", offset=start, shape=(tensor.nbytes,))
    return torch.from_numpy(mapped).view(tensor.dtype).reshape(tensor.shape)


def _alone(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor in memory of its own size and on the CPU: torch.save writes the whole of what a view looks at."""
    tensor = tensor.detach().to("cpu").resolve_conj().resolve_neg().contiguous()
    whole = tensor.untyped_storage().nbytes() == tensor.nbytes
    return tensor if whole else tensor.clone()


def blocks(name: str, value: torch.Tensor | Pending) -> Iterator[torch.Tensor]:
    """The numbers in row-major order, as contiguous one-dimensional pieces in the dtype that is stored.

    Raises:
        ValueError: a `Pending` tensor came with another shape; `name` is for this message.
    """
    tensor = value.read() if isinstance(value, Pending) else value
    if tuple(tensor.shape) != tuple(value.shape):
        raise ValueError(f"{name} has the shape {list(tensor.shape)}, announced was {list(value.shape)}")
    tensor = tensor.detach().to("cpu").resolve_conj().resolve_neg()
    rows = tensor.reshape(1) if tensor.dim() == 0 else tensor
    step = max(1, BLOCK * len(rows) // max(1, tensor.nbytes))
    for start in range(0, len(rows) if tensor.nbytes else 0, step):
        yield rows[start : start + step].to(value.dtype).contiguous().reshape(-1)
