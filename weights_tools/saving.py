"""Writing so that a kill at any moment leaves either the whole old checkpoint or the whole new one.

A checkpoint is committed by one rename or one removal, because a folder is read in a fixed order of preference
(`model.safetensors`, its index, `pytorch_model.bin`, its index; `transformers` has the same):

1. Shards are created under names that no file has yet, and flushed. No index names them, so nobody reads them.
2. The entry (the single file, or the index) is written to a temporary file, flushed, and renamed into place.
   If nothing that a reader would prefer is in the folder, this rename is the commit: both sides of it are whole.
3. Entries that a reader would prefer are removed, the least preferred first. Until the last one is gone the old
   checkpoint is read, whose files are all still there; that last removal is the commit.
4. Only then go files that nobody reads any more: the replaced entries of the same format, and the shards of the index
   that was in place before.

Two saves into one folder wait for each other: they lock the folder, and a lock dies with its holder. An interrupted
save may leave shards or a temporary file that no index names; they are never read.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch

from weights_tools.atomic import flush_folder, temporary_beside, write_atomically
from weights_tools.safetensors_file import DTYPES

__all__ = ["parse_size", "save_checkpoint", "write_atomically"]

SAFETENSORS, SAFETENSORS_INDEX = "model.safetensors", "model.safetensors.index.json"
BIN, BIN_INDEX = "pytorch_model.bin", "pytorch_model.bin.index.json"
ORDER = (SAFETENSORS, SAFETENSORS_INDEX, BIN, BIN_INDEX)
ENTRIES = {"safetensors": (SAFETENSORS, SAFETENSORS_INDEX), "pytorch": (BIN, BIN_INDEX)}

UNITS = {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
UNITS |= {"KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "TIB": 2**40}


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
    tensors: Mapping[str, torch.Tensor],
    *,
    max_shard_size: int | str = "5GB",
    metadata: dict[str, str] | None = None,
    format: str = "safetensors",
) -> list[Path]:
    """Write `tensors` into `folder`, all or nothing (how: see the head of this file).

    Args:
        folder: created if need be.
        tensors: name -> dense tensor, any device. Every name is stored as a whole contiguous tensor of its own: views
            and shared memory are copied, so tied weights that should be stored once must be passed under one name.
        max_shard_size: bytes, or "5GB", "50KiB" ...; what exceeds it is split into shards with an index. A tensor
            larger than this has a shard to itself.
        metadata: texts for the safetensors header; default {"format": "pt"}, which `transformers` asks for.
        format: "safetensors" -> model.safetensors, "pytorch" -> pytorch_model.bin.

    Returns:
        The files of the new checkpoint, the index last.

    Raises:
        TypeError: a value is not a tensor, or not a dense one.
        ValueError: nothing to save, unknown format, wrong size; the message names it.
        OSError: the disk is full, no permission, ...; the old checkpoint is then untouched.

    Replaced files of the same format are removed. Files of the other format are removed only where a reader would
    prefer them (safetensors, when saving "pytorch"). Of two writers at once the second waits for the first.
    """
    if format not in ENTRIES:
        raise ValueError(f"format is {format!r}; expected one of {', '.join(map(repr, ENTRIES))}")
    limit = parse_size(max_shard_size)
    _check_tensors(tensors, format)
    header = {"format": "pt"} if metadata is None else dict(metadata)
    if not all(isinstance(text, str) for pair in header.items() for text in pair):
        raise TypeError(f"metadata is {header!r}; expected a dictionary of texts")
    place = Path(folder)
    place.mkdir(parents=True, exist_ok=True)
    with _only_writer(place):
        old_shards = {name: _shards_of(place / name) for name in ORDER if name.endswith(".json")}
        groups = _split(tensors, limit)
        if len(groups) == 1:
            files = [_save_single(place / ENTRIES[format][0], tensors, header, format)]
        else:
            files = _save_shards(place, tensors, groups, header, format)
        _remove_replaced(place, files[-1].name, old_shards)
    return files


@contextlib.contextmanager
def _only_writer(folder: Path) -> Iterator[None]:
    """Wait until no other save into `folder` is under way; the system lifts the lock when its holder dies."""
    if os.name != "posix":
        yield
        return
    import fcntl

    descriptor = os.open(folder, os.O_RDONLY)
    try:
        # Some network file systems know no locks; a save there is as good as without other writers.
        with contextlib.suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _save_single(entry: Path, tensors: Mapping[str, torch.Tensor], metadata: dict[str, str], format: str) -> Path:
    with temporary_beside(entry) as temporary:
        _write_tensors(temporary, tensors, list(tensors), metadata, format)
        temporary.replace(entry)
    flush_folder(entry.parent)
    return entry


def _save_shards(
    place: Path,
    tensors: Mapping[str, torch.Tensor],
    groups: list[list[str]],
    metadata: dict[str, str],
    format: str,
) -> list[Path]:
    single, index = ENTRIES[format]
    written: list[Path] = []
    weight_map: dict[str, str] = {}
    try:
        for number, names in enumerate(groups, 1):
            written.append(_new_shard(place / single, number, len(groups)))
            _write_tensors(written[-1], tensors, names, metadata, format)
            weight_map |= dict.fromkeys(names, written[-1].name)
        flush_folder(place)
        total = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
        content = {"metadata": {"total_size": total}, "weight_map": weight_map}
        write_atomically(place / index, (json.dumps(content, indent=2) + "\n").encode())
    except BaseException:
        if _shards_of(place / index).isdisjoint(shard.name for shard in written):
            for shard in written:
                with contextlib.suppress(OSError):
                    shard.unlink()
        raise
    return [*written, place / index]


def _check_tensors(tensors: Mapping[str, torch.Tensor], format: str) -> None:
    if not tensors:
        raise ValueError("tensors is empty; expected at least one named tensor")
    for name, tensor in tensors.items():
        if not isinstance(name, str) or name == "__metadata__":
            raise TypeError(f"the name {name!r} cannot be stored; expected a text other than '__metadata__'")
        if not isinstance(tensor, torch.Tensor):
            raise TypeError(f"{name} is a {type(tensor).__name__}; expected a torch.Tensor")
        if tensor.layout is not torch.strided or tensor.is_quantized or tensor.device.type == "meta":
            kind = "on the meta device, without data" if tensor.device.type == "meta" else "sparse or quantised"
            raise TypeError(f"{name} is {kind}; expected a dense tensor: convert it first")
        if format == "safetensors" and tensor.dtype not in DTYPES.values():
            raise TypeError(f"{name} has dtype {tensor.dtype}, which safetensors cannot hold: convert it first")


def _split(tensors: Mapping[str, torch.Tensor], limit: int) -> list[list[str]]:
    groups: list[list[str]] = [[]]
    used = 0
    for name, tensor in tensors.items():
        nbytes = tensor.numel() * tensor.element_size()
        if groups[-1] and used + nbytes > limit:
            groups.append([])
            used = 0
        groups[-1].append(name)
        used += nbytes
    return groups


def _new_shard(single: Path, number: int, count: int) -> Path:
    """Create an empty file under a name that nothing has yet; creating it reserves the name against other writers."""
    token = ""
    while True:
        shard = single.with_name(f"{single.stem}{token}-{number:05d}-of-{count:05d}{single.suffix}")
        try:
            with shard.open("xb"):
                return shard
        except FileExistsError:
            token = f"-{secrets.token_hex(4)}"


def _write_tensors(
    path: Path, tensors: Mapping[str, torch.Tensor], names: list[str], metadata: dict[str, str], format: str
) -> None:
    seen: set[int] = set()
    ready: dict[str, torch.Tensor] = {}
    for name in names:
        tensor = tensors[name].detach().to("cpu").resolve_conj().resolve_neg().contiguous()
        storage = tensor.untyped_storage()
        # safetensors refuses memory that several names share; torch.save writes the whole of it for each view.
        is_part = format == "pytorch" and storage.nbytes() != tensor.numel() * tensor.element_size()
        if is_part or (tensor.numel() and storage.data_ptr() in seen):
            tensor = tensor.clone()
        seen.add(tensor.untyped_storage().data_ptr())
        ready[name] = tensor
    if format == "safetensors":
        from safetensors import SafetensorError
        from safetensors.torch import save_file

        try:
            save_file(ready, path, metadata=metadata)
        except SafetensorError as error:
            raise OSError(f"{path}: cannot be written ({error})") from error
    else:
        torch.save(ready, path)
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def _shards_of(index: Path) -> set[str]:
    """The plain file names in an index that is being replaced; an unreadable one names nothing to remove."""
    try:
        weight_map = json.loads(index.read_bytes())["weight_map"]
        names = set(weight_map.values())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return set()
    pattern = re.compile(r"(model|pytorch_model)[^/\\]*-\d{5}-of-\d{5}\.(safetensors|bin)")
    return {name for name in names if isinstance(name, str) and pattern.fullmatch(name)}


def _remove_replaced(place: Path, entry: str, old_shards: dict[str, set[str]]) -> None:
    """Steps 3 and 4 of the head of this file."""
    rank = ORDER.index(entry)
    same_format = next(names for names in ENTRIES.values() if entry in names)
    preferred = list(reversed(ORDER[:rank]))
    below = [name for name in ORDER[rank + 1 :] if name in same_format]
    replaced_shards = set(old_shards.get(entry, set()))
    for name in preferred + below:
        with contextlib.suppress(FileNotFoundError):
            (place / name).unlink()
            replaced_shards |= old_shards.get(name, set())
    flush_folder(place)
    in_use: set[str] = set()
    for name in ORDER:
        in_use |= _shards_of(place / name) if name.endswith(".json") else set()
    for shard in sorted(replaced_shards - in_use):
        (place / shard).unlink(missing_ok=True)
