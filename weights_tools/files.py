"""Folder, file, shard index or TensorFlow checkpoint -> one lazy mapping of names to tensors; writing all or nothing.

`open_checkpoint(path)` finds out what `path` is by content, not by name, and returns a `Checkpoint`. Nothing outside
the folder is read, except what the links of a hub cache point to.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

import torch

from weights_tools.atomic import write_atomically
from weights_tools.common import (
    DOWNLOAD_AGAIN,
    TensorInfo,
    WeightsError,
    listed,
    open_regular,
    problem,
    read_exactly,
    readable_size,
    shown,
)
from weights_tools.hdf5_file import Hdf5File
from weights_tools.hub_files import MAX_INDEX_BYTES, is_index, variants_in
from weights_tools.hub_files import entries as weights_entries
from weights_tools.npz_file import NpzFile
from weights_tools.recognise import UNFINISHED, not_weights, unfinished, what_is_it
from weights_tools.regular import STAGE, is_there, unique_keys
from weights_tools.safetensors_file import SafetensorsFile
from weights_tools.saving import parse_size, save_checkpoint
from weights_tools.sentence_folder import followed, model_folder
from weights_tools.tensorflow_bundle import SUFFIX as BUNDLE_SUFFIX
from weights_tools.tensorflow_bundle import TensorFlowBundle, is_data
from weights_tools.tensorflow_table import MAGIC as BUNDLE_MAGIC
from weights_tools.torch_file import TorchFile
from weights_tools.transaction import stages_in, undisturbed

__all__ = [
    "Checkpoint",
    "TensorInfo",
    "WeightsError",
    "open_checkpoint",
    "parse_size",
    "save_checkpoint",
    "write_atomically",
]

# In a folder the first of these that exists is the checkpoint. `transformers` has the same order, and `save_checkpoint`
# relies on it.
PREFERENCE = weights_entries(None)
HDF5_SUFFIXES = (".h5", ".hdf5")
SHARD_NAME = re.compile(r".*-\d{5}-of-\d{5}$")
# What a folder without weights may hold in their place (the end of a name) -> what to do.
HINTS = {
    "saved_model.pb": "this is a TensorFlow SavedModel: give its folder `variables`",
    "flax_model.msgpack": "Flax weights are not read: get the safetensors or .bin file of the same model",
    ".gguf": "GGUF files are not read: get the safetensors or .bin file of the same model",
    ".onnx": "ONNX models are not read: get the safetensors or .bin file that it was exported from",
    **dict.fromkeys(UNFINISHED, "a download is unfinished: finish or repeat it"),
}


class Container(Protocol):
    """One file of tensors. A further file format is a class like this one and a line in `_open_file`."""

    path: Path
    format: str
    infos: dict[str, TensorInfo]
    metadata: dict[str, str]
    notes: list[str]

    def read(self, name: str) -> torch.Tensor: ...
    def read_into(self, name: str, out: torch.Tensor) -> torch.Tensor: ...
    def read_mapped(self, name: str) -> torch.Tensor: ...
    def release(self) -> None: ...
    def close(self) -> None: ...


class Checkpoint(Mapping[str, TensorInfo]):
    """The tensors of one checkpoint, whatever files they are in: a read-only mapping of name to `TensorInfo`.

    Attributes:
        path: what was opened: the folder, or the file that was named.
        files: the weights files, without the index (which stands here alone if a TensorFlow checkpoint lacks its data).
        format: "safetensors", "pytorch", "hdf5", "npz" or "tensorflow".
        metadata: the texts of a safetensors header, or of an index.
        notes: what a report should mention (both formats present, a wrapper dictionary, a misleading file name ...).
        total_bytes: the sum over all tensors.

    Use it as a context manager, or call `close()`; tensors that were read stay valid.
    """

    def __init__(
        self,
        path: Path,
        containers: Sequence[Container],
        *,
        notes: Sequence[str] = (),
        metadata: Mapping[str, str] | None = None,
        names: Sequence[str] | None = None,
    ) -> None:
        self.path = path
        self.files = tuple(file for container in containers for file in _files_of(container))
        self.format = containers[0].format
        self.metadata = dict(containers[0].metadata if metadata is None else metadata)
        self.notes = [*notes, *(note for container in containers for note in container.notes)]
        self._containers = list(containers)
        self._home = {name: container for container in containers for name in container.infos}
        self._names = list(self._home) if names is None else list(names)
        self._active: Container | None = None

    @property
    def total_bytes(self) -> int:
        return sum(info.nbytes for info in self.values())

    def names(self) -> list[str]:
        """The names in the order of the file (of the index, for shards)."""
        return list(self._names)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def __contains__(self, name: object) -> bool:
        return name in self._home

    def __getitem__(self, name: str) -> TensorInfo:
        return self._container(name).infos[name]

    def __repr__(self) -> str:
        total = readable_size(self.total_bytes)
        return f"Checkpoint({str(self.path)!r}: {len(self)} tensors, {total}, {len(self.files)} {self.format} file(s))"

    def _container(self, name: str) -> Container:
        try:
            return self._home[name]
        except KeyError:
            raise KeyError(f"{self.path} has no tensor {name!r}; it has {listed(self._names, 4)}") from None

    def read(self, name: str, *, dtype: torch.dtype | None = None, out: torch.Tensor | None = None) -> torch.Tensor:
        """The tensor `name` in memory that belongs to the caller, never a view of a mapped file.

        Args:
            name: one of `names()`.
            dtype: convert to this dtype; default: the file's (with `out`: out's).
            out: fill this tensor (of the file's shape, any strides, dtype and device) and return it.

        Raises:
            KeyError: no such tensor.
            ValueError: `out` has another shape, or both `out` and a different `dtype` were given.
            WeightsError: the file is cut off, damaged, or changed since it was opened.
        """
        container = self._container(name)
        info = container.infos[name]
        if self._active is not container and self._active is not None:
            self._active.release()
        self._active = container
        if out is None:
            tensor = container.read(name)
            return tensor if dtype is None else tensor.to(dtype)
        if tuple(out.shape) != info.shape:
            raise ValueError(f"out has shape {tuple(out.shape)}; tensor {name!r} of {info.file} has {info.shape}")
        if dtype is not None and dtype != out.dtype:
            raise ValueError(f"dtype={dtype} beside out of {out.dtype}: leave dtype out, out's own is used")
        with torch.no_grad():
            if out.dtype == info.dtype and out.device.type == "cpu" and out.is_contiguous():
                container.read_into(name, out.detach())
                return out
            return out.copy_(container.read(name))

    def can_map(self, name: str) -> bool:
        """Whether `read_mapped` works for `name`: its container is a safetensors file."""
        return self._container(name).format == "safetensors"

    def read_mapped(self, name: str) -> torch.Tensor:
        """A view of the mapped safetensors file: nothing is copied, and pages are read when they are touched.

        If the file shrinks or changes during the tensor's life, the process may crash or see other numbers: that is the
        price of mapping, which is why `read` does not map. For every other container this is a `WeightsError`.
        """
        return self._container(name).read_mapped(name)

    def close(self) -> None:
        """Close the files; reading afterwards is an error."""
        for container in self._containers:
            container.close()

    def __enter__(self) -> Checkpoint:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _files_of(container: Container) -> tuple[Path, ...]:
    return container.files if isinstance(container, TensorFlowBundle) else (container.path,)


def open_checkpoint(path: str | os.PathLike[str], *, variant: str | None = None) -> Checkpoint:
    """Open a checkpoint for reading; only headers are read.

    Args:
        path: a folder (the first of model.safetensors, model.safetensors.index.json, pytorch_model.bin,
            pytorch_model.bin.index.json; without these, the only other *.safetensors, *.bin, *.pt or *.pth in it;
            without these, the only *.h5 (tf_model.h5), *.npz or *.index of a TensorFlow checkpoint), a weights file of
            any name (its content decides), an index JSON, or what the names of a TensorFlow checkpoint begin with
            ("model.ckpt" for model.ckpt.index and model.ckpt.data-00000-of-00001; a file or folder of just this name
            comes first).
        variant: of a folder: "fp16" = model.fp16.safetensors and its like, and nothing else.

    Raises:
        FileNotFoundError: nothing there, or a folder without weights (the message lists what was looked for and what
            is there).
        WeightsError: a file that is broken, hostile or not weights.
        ValueError: a variant of a file, or one that cannot stand in a name.
        OSError: the operating system refuses (permission).
    """
    preference = weights_entries(variant)
    place = bundle_index(path) or Path(path).expanduser()
    if not os.fspath(path) or not place.exists():
        raise FileNotFoundError(
            f"{os.fspath(path)!r}: no such file or folder; expected a folder with weights or a weights file"
        )
    if variant is not None and not place.is_dir():
        raise ValueError(f"variant is {variant!r}, but {place} is a file: leave variant out, or give the folder")
    return undisturbed(
        place,
        lambda: _open_folder(place, variant) if place.is_dir() else _open_single(place),
        preference,
        drop=Checkpoint.close,
    )


def bundle_index(path: str | os.PathLike[str]) -> Path | None:
    """The index of the TensorFlow checkpoint that `path` is the beginning of, if there is one and nothing at `path`."""
    place = Path(path).expanduser()
    index = Path(f"{place}{BUNDLE_SUFFIX}")
    return index if os.fspath(path) and not os.path.exists(place) and os.path.exists(index) else None  # noqa: PTH110


def _open_folder(folder: Path, variant: str | None) -> Checkpoint:
    if inner := model_folder(folder):
        checkpoint = _open_folder(inner, variant)
        checkpoint.notes.append(followed(folder, inner))
        return checkpoint
    entries = sorted(entry.name for entry in folder.iterdir() if is_there(entry))
    preference = weights_entries(variant)
    present = [name for name in preference if name in entries]
    notes = [
        f"a save into this folder was interrupted, or is under way: {stage} holds files of it until the next save"
        for stage in stages_in(folder)
    ]
    if present:
        chosen = present[0]
        if len(present) > 1:
            notes.append(f"{' and '.join(present)} are present: {chosen} is used")
    elif variant is not None:
        there = ", ".join(map(repr, variants_in(entries))) or "none"
        raise FileNotFoundError(
            f"{folder}: no weights of variant {variant!r} here; looked for {', '.join(preference)}; variants that are "
            f"there: {there}"
        )
    else:
        chosen = _only_candidate(folder, entries)
        notes.append(f"there is none of {', '.join(PREFERENCE)}: {chosen}, the only weights file, is used")
    if is_index(chosen):
        checkpoint = _open_index(folder, folder / chosen, notes)
    else:
        container = _open_file(_inside(folder, chosen))
        checkpoint = Checkpoint(folder, [container], notes=[*notes, *_misnamed(container)])
    used = {file.name for file in checkpoint.files}
    idle = [name for name in entries if _is_shard(name) and name not in used]
    if idle and len(present) < 2:
        checkpoint.notes.append(f"shards that no index names are ignored: {listed(idle)}")
    return checkpoint


def _is_shard(name: str) -> bool:
    stem, _, suffix = name.rpartition(".")
    return suffix in ("safetensors", "bin") and SHARD_NAME.fullmatch(stem) is not None


def _only_candidate(folder: Path, entries: list[str]) -> str:
    suffixes = (".safetensors", ".bin", ".pt", ".pth")
    # training_args.bin, optimizer.pt and their like stand beside weights and are none.
    neighbours = ("training_args.bin", "optimizer.pt", "optimizer.bin", "scheduler.pt", "scaler.pt")
    found = [name for name in entries if name.endswith(suffixes) and name not in neighbours]
    whole = [name for name in found if not _is_shard(name)]
    if not found:
        whole = [name for name in entries if name.endswith((*HDF5_SUFFIXES, ".npz", BUNDLE_SUFFIX))]
    if len(whole) == 1:
        return whole[0]
    looked = (
        f"looked for {', '.join(PREFERENCE)} or one other *.safetensors, *.bin, *.pt, *.pth, "
        "else one *.h5, *.npz, *.index"
    )
    there = f"there are: {listed(entries, 12)}" if entries else "the folder is empty"
    there += "".join(f"; {hint}" for name, hint in HINTS.items() if any(entry.endswith(name) for entry in entries))
    if len(whole) > 1:
        there = f"several could be meant: {listed(whole)}; give the file itself"
    elif found:
        there = f"there are shards but no index JSON beside them: {listed(found)}"
    raise FileNotFoundError(f"{folder}: no weights here; {looked}; {there}")


def _open_single(path: Path) -> Checkpoint:
    kind = _kind(path)
    if kind == "a JSON file" and _has_weight_map(path):
        return _open_index(path.parent, path, [])
    container = _open_file(path)
    return Checkpoint(path, [container], notes=_misnamed(container))


def _kind(path: Path) -> str:
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        head = bytearray(min(512, size))
        read_exactly(file, 0, memoryview(head), path)
        tail = bytearray(min(len(BUNDLE_MAGIC), size))
        read_exactly(file, size - len(tail), memoryview(tail), path)
    if unfinished(path):
        return "an unfinished download, as its name says"
    kind = what_is_it(bytes(head), size)
    if kind == "zip":
        return "npz" if _begins_with_an_array(path, bytes(head)) else kind
    # A damaged beginning: the name says what it was meant to be, and that container's own error says more.
    if path.suffix == ".safetensors":
        damaged = kind == "a file of unknown kind" or kind.startswith("a bare Python pickle")
        return "safetensors" if damaged or (kind == "a text file" and head[8:10] == b'{"') else kind
    if is_data(path.name) and not kind.startswith(("a Git-LFS", "an HTML", "an empty")):
        return "the data of a TensorFlow checkpoint, without its index"
    if kind == "a file of unknown kind":
        if path.suffix == ".npz":
            return "npz"
        return "bundle" if path.suffix == BUNDLE_SUFFIX or tail == BUNDLE_MAGIC else kind
    return "a JSON file" if kind == "a text file" and path.suffix == ".json" else kind


def _begins_with_an_array(path: Path, head: bytes) -> bool:
    """Whether a zip archive is numpy's: by its first record, and by the file's name if that is torch's neither."""
    first = head[30 : 30 + int.from_bytes(head[26:28], "little")]
    return first.endswith(b".npy") or (path.suffix == ".npz" and not first.endswith(b"/data.pkl"))


def _open_file(path: Path) -> Container:
    kind = _kind(path)
    openers: dict[str, Callable[[Path], Container]] = {
        "safetensors": SafetensorsFile,
        "zip": TorchFile,
        "stream": TorchFile,
        "npz": NpzFile,
        "hdf5": Hdf5File,
        "bundle": lambda index: TensorFlowBundle(index, not_outside),
    }
    if kind not in openers:
        raise not_weights(path, kind)
    return openers[kind](path)


def _misnamed(container: Container) -> list[str]:
    wanted = {
        "safetensors": (".safetensors",),
        "pytorch": (".bin", ".pt", ".pth", ".ckpt"),
        "npz": (".npz",),
        "hdf5": HDF5_SUFFIXES,
        "tensorflow": (BUNDLE_SUFFIX,),
    }
    others = [suffix for kind, suffixes in wanted.items() if kind != container.format for suffix in suffixes]
    if container.path.suffix in others:
        return [f"{container.path.name} is a {container.format} file in spite of its name"]
    return []


# ------------------------------------------------------------------------------------------------------------ shards


def _inside(folder: Path, name: str) -> Path:
    """`folder / name`, which must be a plain name and must not lead out of the folder.

    The one exception are the links of a hub cache: `snapshots/<revision>/file -> ../../blobs/<hash>`.
    """
    if not name or name in (".", "..") or "/" in name or "\\" in name or "\0" in name or ":" in name:
        raise problem(
            folder,
            f"the index names the file {shown(name)}",
            expected="the plain name of a file in this folder",
            remedy="Do not load it: an honest index never points elsewhere.",
        )
    return not_outside(folder / name)


def not_outside(path: Path) -> Path:
    """`path` itself, unless it is a link out of its folder (and not one of a hub cache, or of an interrupted save)."""
    if not path.is_symlink():
        return path
    if not path.exists():
        missing = f"{path}: this link leads to {path.readlink()}, which does not exist"
        raise FileNotFoundError(f"{missing}; expected a file. {DOWNLOAD_AGAIN}")
    root, target = path.parent.resolve(), path.resolve()
    blobs = next((parent.parent / "blobs" for parent in (root, *root.parents) if parent.name == "snapshots"), None)
    staged = target.parent.parent.parent == root and target.parent.parent.name.startswith(STAGE)
    if target.parent == root or staged or (blobs is not None and target.parent == blobs):
        return path
    raise problem(
        path,
        f"this link leads out of the folder, to {target}",
        expected="a file in the folder (or a link of a hub cache into its own blobs)",
        remedy="If you trust it, give the path of the file itself, or put a copy in place of the link.",
    )


def _read_json(path: Path) -> Any:
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size > MAX_INDEX_BYTES:
            found = f"the index has {size} bytes"
            raise problem(path, found, expected=f"at most {MAX_INDEX_BYTES}", remedy=DOWNLOAD_AGAIN)
        text = bytearray(size)
        read_exactly(file, 0, memoryview(text), path)

    kind = what_is_it(bytes(text[:512]), size)
    if kind not in ("a JSON file", "a text file", "a file of unknown kind"):
        raise not_weights(path, kind, expected="an index in JSON")
    try:
        return json.loads(text.decode("utf-8"), object_pairs_hook=unique_keys)
    except (ValueError, RecursionError) as error:  # also a number of more digits than Python converts
        raise problem(path, f"not JSON ({error})", expected="an index in JSON", remedy=DOWNLOAD_AGAIN) from None


def _has_weight_map(path: Path) -> bool:
    value = _read_json(path)
    return isinstance(value, dict) and "weight_map" in value


def _open_index(folder: Path, index: Path, notes: list[str]) -> Checkpoint:
    content = _read_json(_inside(folder, index.name))
    weight_map = content.get("weight_map") if isinstance(content, dict) else None
    is_map = isinstance(weight_map, dict) and all(isinstance(value, str) for value in weight_map.values())
    if not is_map or not weight_map:
        found = f"weight_map is {shown(weight_map)}"
        raise problem(index, found, expected="an object of tensor name to file name", remedy=DOWNLOAD_AGAIN)
    shards = {name: _inside(folder, name) for name in dict.fromkeys(weight_map.values())}
    containers: list[Container] = []
    try:
        for name, shard in shards.items():
            containers.append(_open_shard(index, name, shard))
        _compare_with_index(index, weight_map, dict(zip(shards, containers, strict=True)))
    except BaseException:
        for container in containers:
            container.close()
        raise
    formats = {container.format for container in containers}
    if len(formats) > 1:
        notes = [*notes, f"the shards are of different formats: {', '.join(sorted(formats))}"]
    metadata = content.get("metadata") if isinstance(content.get("metadata"), dict) else {}
    for container in containers:
        notes = [*notes, *_misnamed(container)]
    texts = {str(key): str(value) for key, value in metadata.items()}
    path = folder if index.name in PREFERENCE else index
    checkpoint = Checkpoint(path, containers, notes=notes, metadata=texts, names=list(weight_map))
    total = metadata.get("total_size")
    if isinstance(total, int | float) and total != checkpoint.total_bytes:
        checkpoint.notes.append(f"{index.name} says {total} bytes in all, the shards hold {checkpoint.total_bytes}")
    return checkpoint


def _open_shard(index: Path, name: str, shard: Path) -> Container:
    try:
        return _open_file(shard)
    except FileNotFoundError:
        there = sorted(entry.name for entry in shard.parent.iterdir() if _is_shard(entry.name))
        found = f"the shard {name} is missing"
        beside = f"Shards that are there: {listed(there)}. " if there else ""
        # A missing file is a missing file, also where an index names it.
        error = problem(index, found, expected="every file that the index names", remedy=beside + DOWNLOAD_AGAIN)
        raise FileNotFoundError(str(error)) from None


def _compare_with_index(index: Path, weight_map: dict[str, str], containers: dict[str, Container]) -> None:
    remedy = "The index and the shards belong to different saves, or a download is incomplete. " + DOWNLOAD_AGAIN
    for shard, container in containers.items():
        for name in container.infos:
            if weight_map.get(name) != shard:
                other = weight_map.get(name)
                where = f"the index has it in {other}" if other else "the index does not name it"
                raise problem(
                    container.path, where, expected=f"{index.name} to name it here", remedy=remedy, tensor=name
                )
    for name, shard in weight_map.items():
        if name not in containers[shard].infos:
            found = f"{shard} does not hold it"
            raise problem(
                index, found, expected="every name in the shard that the index says", remedy=remedy, tensor=name
            )
