"""One file written by torch.save, opened so that a broken or hostile one can do no harm.

Two forms exist: the zip archive (torch 1.6 and later: `data.pkl`, one record per storage) and the stream before it
(five pickles, then the storages; most BERT files published before 2020). Before torch sees a file, its pickle is read
without executing it (`torch_pickle.py`) and every size it claims is compared with the bytes that are there. Then
`torch.load` with `weights_only=True` loads it, into memory, and the result must be what the pickle announced.
"""

from __future__ import annotations

import contextlib
import io
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

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
from weights_tools.recognise import not_weights, what_is_it
from weights_tools.torch_pickle import PLAIN_REMEDY, PickleFacts, StorageFact, TensorFact
from weights_tools.zip_records import DAMAGE, checked_records, open_archive

WRAPPERS = ("state_dict", "model_state_dict", "model", "module")
STREAM_MAGIC = 0x1950A86A20F9469CFC6C
STREAM_PROTOCOL = 1001


class TorchFile:
    """The tensors of one torch.save file.

    Opening reads the pickle only. The first `read` loads the file whole (the form offers no better) and compares the
    checksum of every storage; each tensor is handed out once without a copy and read again from disk if it is
    asked for a second time.

    Raises:
        WeightsError: see `torch_pickle.PickleFacts`; also records that are compressed, doubled, too short or damaged.
    """

    format = "pytorch"

    def __init__(self, path: Path) -> None:
        self.path = path
        self.metadata: dict[str, str] = {}
        self.notes: list[str] = []
        self._loaded: dict[str, torch.Tensor] | None = None
        self._checksums: dict[str, int] = {}  # of the storages, as the archive's directory has them
        self._wrapper: str | None = None
        self._source = UnchangedFile(path)
        try:
            head = bytearray(min(512, self._source.size))
            read_exactly(self._source.file, 0, memoryview(head), path)
            kind = what_is_it(bytes(head), self._source.size)
            if kind not in ("zip", "stream"):
                raise not_weights(path, kind)
            self._is_zip = kind == "zip"
            facts = self._zip_facts() if self._is_zip else self._stream_facts()
            self._facts = self._choose(facts.root)
            self._users = Counter(fact.storage.key for fact in self._facts.values())
        except BaseException:
            self.close()
            raise
        self.infos = {
            name: TensorInfo(name, fact.shape, fact.dtype, fact.nbytes, path) for name, fact in self._facts.items()
        }

    def _broken(self, found: str, expected: str, remedy: str = DOWNLOAD_AGAIN) -> WeightsError:
        return problem(self.path, found, expected=expected, remedy=remedy)

    # ------------------------------------------------------------------------------------------------ the zip archive

    def _zip_facts(self) -> PickleFacts:
        with self._open_zip() as archive:
            prefix = self._prefix(archive.namelist())
            methods = {zipfile.ZIP_STORED: "stored records, as torch.save writes"}
            records = {record.filename: record for record in checked_records(archive, self._source, methods)}
            byteorder = records.get(f"{prefix}byteorder")
            if byteorder is not None and (order := archive.read(byteorder)) != b"little":
                remedy = "Save it again on a little-endian machine, or as safetensors."
                raise self._broken(f"its byte order is {shown(order.decode('latin-1'))}", "little", remedy)
            # Read whole, because only then is its checksum compared.
            facts = PickleFacts(io.BytesIO(archive.read(records[f"{prefix}data.pkl"])), self.path)
        for key, storage in facts.storages.items():
            record = records.get(f"{prefix}data/{key}")
            if record is None:
                raise self._broken(f"record data/{key} is missing", "a record for every storage the pickle names")
            if record.file_size != storage.nbytes:
                found = f"record data/{key} has {record.file_size} bytes"
                raise self._broken(found, f"{storage.nbytes}, as the pickle says")
            self._checksums[key] = record.CRC
        return facts

    @contextlib.contextmanager
    def _open_zip(self) -> Iterator[zipfile.ZipFile]:
        try:
            with open_archive(self._source) as archive:
                yield archive
        except WeightsError:
            raise
        except DAMAGE as error:
            raise self._broken(f"the archive is damaged ({error})", "a whole zip archive") from None

    def _prefix(self, records: list[str]) -> str:
        pickles = [name for name in records if name.count("/") == 1 and name.endswith("/data.pkl")]
        if len(pickles) == 1:
            prefix = pickles[0].removesuffix("data.pkl")
            if f"{prefix}constants.pkl" in records:
                remedy = "Save model.state_dict() instead of a scripted model."
                raise self._broken("this is a TorchScript program", "weights alone", remedy)
            return prefix
        if records and all(name.endswith(".npy") for name in records):
            raise self._broken("this is a NumPy .npz archive", "a file written by torch.save", PLAIN_REMEDY)
        found = f"this is a zip archive of {listed(records, 4)}"
        raise self._broken(
            found, "an archive written by torch.save (with one data.pkl)", "Unpack it and give the folder."
        )

    # ------------------------------------------------------------------------------------------------- the old stream

    def _stream_facts(self) -> PickleFacts:
        with _Stream(self._source) as stream:
            stream.seek(0)
            magic, protocol, system = (PickleFacts(stream, self.path).root for _ in range(3))
            if magic != STREAM_MAGIC or protocol != STREAM_PROTOCOL or not isinstance(system, dict):
                raise self._broken("its first pickles are not torch's", "the header of torch.save")
            if system.get("little_endian") is not True:
                remedy = "Save it again on a little-endian machine, or as safetensors."
                raise self._broken("it was written by a big-endian machine", "little-endian numbers", remedy)
            facts = PickleFacts(stream, self.path)
            keys = PickleFacts(stream, self.path).root
            is_list = isinstance(keys, list) and all(isinstance(key, str) for key in keys)
            if not is_list or len(keys) != len(set(keys)) or set(keys) != set(facts.storages):
                raise self._broken("its list of storages disagrees with its tensors", "the same storages in both")
            end = self._check_storages(stream, [facts.storages[key] for key in keys])
        if end != self._source.size:
            raise self._broken(f"the file has {self._source.size} bytes", f"{end}, as its storages say")
        self.notes.append(f"{self.path.name} has the form of torch before 1.6, which holds no checksums")
        return facts

    def _check_storages(self, stream: Any, storages: list[StorageFact]) -> int:
        here: int = stream.tell()
        for storage in storages:
            stream.seek(here)
            numel = int.from_bytes(stream.read(8), "little", signed=True)
            if numel != storage.numel:
                found = f"storage {shown(storage.key)} has {numel} elements in its place"
                raise self._broken(found, f"{storage.numel}, as the pickle says")
            here += 8 + storage.nbytes
            if here > self._source.size:
                raise self._broken(f"the file ends inside storage {shown(storage.key)}", f"at least {here} bytes")
        return here

    # ------------------------------------------------------------------------------------------------- the dictionary

    def _choose(self, root: Any) -> dict[str, TensorFact]:
        """The dictionary of tensors: the root, or the one wrapper that training scripts put around it."""
        if not isinstance(root, dict):
            kind = "one tensor" if isinstance(root, TensorFact) else f"a {type(root).__name__}"
            raise self._broken(f"it holds {kind}", "a dictionary of names and tensors", PLAIN_REMEDY)
        wrappers = [key for key in WRAPPERS if _holds_tensors(root.get(key))]
        if len(wrappers) > 1:
            raise self._broken(f"it holds several state dicts: {listed(wrappers)}", "one", PLAIN_REMEDY)
        chosen = root
        if wrappers:
            self._wrapper = wrappers[0]
            chosen = root[self._wrapper]
            rest = [key for key in root if key != self._wrapper]
            beside = f"; beside it and not read: {listed(rest)}" if rest else ""
            self.notes.append(f"{self.path.name}: the weights are the entry {self._wrapper!r}{beside}")
        facts = {key: value for key, value in chosen.items() if isinstance(value, TensorFact)}
        if {"state", "param_groups"} <= set(chosen):
            remedy = "Give the weights that it was saved beside (pytorch_model.bin, model.safetensors)."
            raise self._broken("this is the state of an optimizer", "names and tensors", remedy)
        if not facts:
            raise self._broken(f"it holds no tensors (only {listed(chosen)})", "names and tensors", PLAIN_REMEDY)
        strange = [key for key in facts if not isinstance(key, str)]
        if strange:
            raise self._broken(f"tensors are named {listed(strange)}", "texts as names", PLAIN_REMEDY)
        others = [key for key in chosen if key not in facts]
        if others:
            self.notes.append(f"{self.path.name}: entries that are not tensors are left out: {listed(others)}")
        return facts

    # -------------------------------------------------------------------------------------------------------- loading

    def _load(self) -> dict[str, torch.Tensor]:
        self._source.check()
        self._source.file.seek(0)
        try:
            root = torch.load(self._source.file, map_location="cpu", weights_only=True, mmap=False)
        except MemoryError:
            raise
        except Exception as error:  # whatever a file provokes in the unpickler is the file's fault
            raise self._broken(f"torch cannot load it ({shown(str(error))})", "weights alone", PLAIN_REMEDY) from None
        self._source.check()
        if self._wrapper is not None:
            root = root[self._wrapper]
        tensors = {name: self._checked(name, root.get(name)) for name in self._facts}
        self._compare_checksums(tensors)
        return tensors

    def _compare_checksums(self, tensors: dict[str, torch.Tensor]) -> None:
        """torch compares none, so flipped bits would become wrong weights.

        The sums are taken of the memory that torch filled, not of the file: that is as good as comparing every byte
        with what the archive's directory says, however torch came by it.
        """
        compared: set[str] = set()
        for name, tensor in tensors.items():
            key = self._facts[name].storage.key
            expected = self._checksums.get(key)
            if expected is None or key in compared:
                continue
            memory = torch.empty(0, dtype=torch.uint8).set_(tensor.untyped_storage())
            if zlib.crc32(memory.numpy().data) != expected:
                found = f"its record data/{key} is damaged (wrong checksum)"
                remedy = (
                    DOWNLOAD_AGAIN + " (A file saved under set_crc32_options(False) has no checksums: save it again.)"
                )
                raise problem(self.path, found, expected="undamaged data", remedy=remedy, tensor=name)
            compared.add(key)

    def _checked(self, name: str, tensor: Any) -> torch.Tensor:
        fact = self._facts[name]
        if (
            not isinstance(tensor, torch.Tensor)
            or tensor.layout is not torch.strided
            or tensor.device.type != "cpu"
            or (tuple(tensor.shape), tensor.dtype) != (fact.shape, fact.dtype)
            or tensor.untyped_storage().nbytes() != fact.storage.nbytes
        ):
            raise problem(
                self.path,
                "torch loaded something else than the pickle announced",
                expected=f"shape {fact.shape} of {fact.dtype}",
                remedy=PLAIN_REMEDY,
                tensor=name,
            )
        return tensor.detach()

    def read(self, name: str) -> torch.Tensor:
        """The tensor, contiguous, in memory that nothing else refers to."""
        if self._loaded is None or name not in self._loaded:
            self._loaded = self._load()
        tensor = self._loaded.pop(name)
        fact = self._facts[name]
        if self._users[fact.storage.key] > 1 or fact.storage.nbytes != fact.nbytes or not tensor.is_contiguous():
            tensor = tensor.clone(memory_format=torch.contiguous_format)
        return tensor

    def read_into(self, name: str, out: torch.Tensor) -> torch.Tensor:
        """As `read`, into a contiguous CPU tensor of the file's dtype and shape."""
        return out.copy_(self.read(name))

    def read_mapped(self, name: str) -> torch.Tensor:
        """Refused: a pickled file is never mapped."""
        remedy = "Read it without mmap, or convert it to safetensors."
        raise problem(self.path, "a torch.save file", expected="a safetensors file to map", remedy=remedy, tensor=name)

    def release(self) -> None:
        """Give back the memory of tensors that nobody has asked for."""
        self._loaded = None

    def close(self) -> None:
        self.release()
        self._source.close()


class _Stream(io.BufferedReader):
    """Refuses to read more than the file has: Python would make room for whatever a damaged length claims."""

    def __init__(self, source: UnchangedFile) -> None:
        super().__init__(_KeepOpen(source.file))
        self._size = source.size

    def read(self, size: int | None = -1, /) -> bytes:
        if size is not None and size > self._size:
            raise EOFError(f"a length of {size} in a file of {self._size} bytes")
        return super().read(size)


class _KeepOpen:
    """A raw file for a `BufferedReader` that must not close it."""

    def __init__(self, file: Any) -> None:
        self._file = file

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    @property
    def closed(self) -> bool:
        return False

    def close(self) -> None:
        pass

    def flush(self) -> None:
        pass


def _holds_tensors(value: Any) -> bool:
    return isinstance(value, dict) and any(isinstance(item, TensorFact) for item in value.values())
