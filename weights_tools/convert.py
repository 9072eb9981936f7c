"""A checkpoint in another file format, under other names, in another dtype: `python -m weights_tools convert`.

Tensors are read when they are written, one at a time. All or nothing: a folder changes in one transaction
(`weights_tools.transaction`), a single file by one rename. Every name of the source is in the result or in the report.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch

from weights_tools.atomic import flush_folder, temporary_beside
from weights_tools.calls import WrongCall
from weights_tools.card import HEADING, Provenance, card, file_fact, is_ours, provenance
from weights_tools.common import WeightsError, listed, readable_size
from weights_tools.files import Checkpoint, bundle_index, not_outside
from weights_tools.keys import few, fold_pairs
from weights_tools.npz_writing import NAMES, write_npz
from weights_tools.regular import as_text, open_regular
from weights_tools.report import fold
from weights_tools.saving import (
    BIN_INDEX,
    DTYPE_NAMES,
    SAFETENSORS_INDEX,
    Pending,
    parse_size,
    save_checkpoint,
    write_bin,
    write_safetensors,
)
from weights_tools.transaction import transaction
from weights_tools.translation import HF, Translation, open_source, translate, where

SUFFIXES = {"safetensors": ".safetensors", "bin": ".bin", "npz": ".npz"}
# Suffixes of weights that are read and never written: a folder of such a name would surprise.
OTHER_SUFFIXES = (".pt", ".pth", ".ckpt", ".h5", ".hdf5", ".index", ".json", ".msgpack", ".onnx", ".gguf")
NPZ = "model.npz"
DTYPES = {
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
    "float64": torch.float64,
}
README, CONVERSION = "README.md", "CONVERSION.md"

# What lies beside weights and belongs to the same model: copied byte for byte, never translated.
CARRIED = (
    *("config.json", "generation_config.json", "bert_config.json", "hparams.json"),
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
    *("vocab.txt", "vocab.json", "merges.txt", "encoder.json", "vocab.bpe", "chat_template.jinja"),
    *("spiece.model", "sentencepiece.bpe.model", "tokenizer.model"),
    *(README, "LICENSE", "LICENSE.txt", "LICENSE.md", "NOTICE"),
)
# Configurations of other programs, which transformers does not read.
FOREIGN_CONFIGS = ("bert_config.json", "hparams.json")


class Target(NamedTuple):
    """Where the result goes: `place` is a folder, or one file; `to` is a key of `SUFFIXES`."""

    place: Path
    is_file: bool
    to: str


@dataclass
class Conversion(Provenance):
    """What `convert` did: `Provenance` with places.

    Attributes:
        source_path, destination: as paths; `to`: "safetensors", "bin" or "npz".
        left_behind: names beside the source's weights that were not copied.
        card: the name of the file that tells all this in the destination, or None.
    """

    source_path: str = ""
    destination: str = ""
    to: str = ""
    left_behind: list[str] = dataclasses.field(default_factory=list)
    card: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain values for `json.dumps`."""
        return asdict(self)

    def __str__(self) -> str:
        total = readable_size(sum(fact.size for fact in self.files))
        lines = [
            f"{self.source_path} ({self.container}, names: {self.dialect})",
            f"  -> {self.destination} ({self.to}, names: {self.into}): {len(self.renamed)} tensors, {total} in "
            f"{few([fact.name for fact in self.files])}",
        ]
        changed = [pair for pair in self.renamed if pair[0] != pair[1] or pair[2]]
        lines += [f"  renamed or changed ({len(changed)}):"] if changed else []
        lines += [f"    {_change(*pair)}" for pair in fold_pairs(changed)]
        for why in dict.fromkeys(why for _, why in self.dropped):
            names = [name for name, other in self.dropped if other == why]
            lines.append(f"  left out ({len(names)}): {few(fold(names))}: {why}")
        for old, new, names in self.dtypes:
            lines.append(f"  {old} to {new}: {len(names)} tensors")
        for title, names in (("copied", self.carried), ("not copied", self.left_behind)):
            if names:
                lines.append(f"  {title}: {', '.join(names)}")
        lines += [f"  card: {self.card}"] if self.card else []
        return as_text([*lines, *(f"  note: {note}" for note in self.notes)])


def _change(name: str, target: str, what: str) -> str:
    becomes = f" -> {target}" if target != name else ""
    return f"{name or '(not in the file)'}{becomes}" + (f"  [{what}]" if what else "")


def convert(
    source: str | os.PathLike[str],
    destination: str | os.PathLike[str],
    *,
    to: str | None = None,
    dialect: str | None = None,
    into: str = HF,
    num_heads: int | None = None,
    dtype: str | None = None,
    max_shard_size: int | str | None = None,
    unknown: str = "refuse",
    overwrite: bool = False,
    write_card: bool = True,
    progress: Callable[[int], object] | None = None,
) -> Conversion:
    """Write a checkpoint anew; the source is only read.

    Args:
        source: a folder, a weights file, a TensorFlow checkpoint, or a name in the hub's cache.
        destination: a file name that ends with .safetensors, .bin or .npz; any other name is a folder, which gets
            model.safetensors (or pytorch_model.bin, model.npz) and what lies beside the source's weights (`CARRIED`).
        to: "safetensors", "bin" or "npz"; default: what the file's name says, "safetensors" for a folder.
        dialect: whose names the source has; default: what its names say.
        into: whose names and layout the result has; default: Hugging Face's.
        num_heads: as for `translate`.
        dtype: "float32", "float16", "bfloat16" or "float64", of the floating-point tensors; default: the source's.
        max_shard_size: of the files in a folder, bytes or "5GB"; default "5GB"; for safetensors and bin.
        unknown: names without a counterpart: "refuse", "keep" (as they are) or "drop".
        overwrite: whether an existing file, or a folder that is not empty, may change. Files of the folder that the
            conversion does not write stay.
        write_card: write README.md with the provenance (CONVERSION.md where there is an author's README.md).
        progress: called with the bytes of each tensor when it has been read.

    Raises:
        WrongCall: arguments that contradict each other, or that do not exist.
        FileExistsError: the destination exists, and overwrite is False; or it is the source itself.
        WeightsError: the source is broken; names without a counterpart; numbers that the dtype cannot hold.
        OSError: no such source; the disk is full, no permission: the destination is then what it was.
    """
    target = _target(destination, to, max_shard_size)
    for name, value, choices in (("dtype", dtype, tuple(DTYPES)), ("unknown", unknown, ("refuse", "keep", "drop"))):
        if value is not None and value not in choices:
            raise WrongCall(f"{name} is {value!r}; expected one of {', '.join(choices)}")
    with open_source(source) as checkpoint:
        _check_place(checkpoint, target, overwrite)
        found = translate(checkpoint, dialect, into=into, num_heads=num_heads)
        if unknown == "keep":
            found.keep_unknown()
        elif unknown == "drop":
            found.drop_unknown()
        found.refuse_unknown("Keep such tensors as they are (--keep-unknown), or leave them out (--drop-unknown).")
        tensors = found.pending(DTYPES[dtype] if dtype else None)
        _check_dtypes(tensors, target.to)
        result = _described(source, checkpoint, found, tensors, target)
        counted = {name: _counted(tensor, progress) for name, tensor in tensors.items()} if progress else tensors
        is_new = not os.path.lexists(target.place)
        try:
            if target.is_file:
                _write_file(target, counted, checkpoint, result)
            else:
                _write_folder(target, counted, checkpoint, result, dtype, max_shard_size or "5GB", write_card)
        except BaseException:
            if is_new and not target.is_file:
                with contextlib.suppress(OSError):
                    target.place.rmdir()  # only if it is empty
            raise
    return result


def _target(destination: str | os.PathLike[str], to: str | None, max_shard_size: int | str | None) -> Target:
    place = Path(destination).expanduser()
    if to is not None and to not in SUFFIXES:
        raise WrongCall(f"to is {to!r}; expected one of {', '.join(SUFFIXES)}")
    if not os.fspath(destination):
        raise WrongCall("the destination is an empty text; expected a folder or a file name")
    if place.suffix in OTHER_SUFFIXES and not place.is_dir():
        raise WrongCall(
            f"{place.name}: {place.suffix} files are not written; expected a folder, or a file name that ends with "
            f"{', '.join(SUFFIXES.values())}"
        )
    by_name = next((kind for kind, suffix in SUFFIXES.items() if place.suffix == suffix), None)
    is_file = by_name is not None and not place.is_dir()
    if is_file and to is not None and to != by_name:
        raise WrongCall(f"{place.name} is a name for {by_name}, but {to} is asked for: change one of the two")
    kind = to or (by_name if is_file else None) or "safetensors"
    if max_shard_size is not None:
        if is_file or kind == "npz":
            raise WrongCall(
                f"a shard size has no effect on {'a single file' if is_file else 'npz'}: it is for a folder of "
                "safetensors or bin"
            )
        try:
            parse_size(max_shard_size)
        except ValueError as error:
            raise WrongCall(str(error)) from None
    return Target(place, is_file, kind)


def _check_place(checkpoint: Checkpoint, target: Target, overwrite: bool) -> None:
    place = target.place
    own = [*checkpoint.files, checkpoint.path] if target.is_file else [where(checkpoint), checkpoint.path]
    if os.path.lexists(place) and any(file.exists() and place.exists() and place.samefile(file) for file in own):
        raise FileExistsError(
            f"{place} is the source itself; expected another place. A conversion never writes over what it reads: "
            "write to a new place, look at it, then remove the old one."
        )
    if overwrite or not os.path.lexists(place):
        return
    if target.is_file or not place.is_dir():
        raise FileExistsError(f"{place} exists; expected a new name, or --overwrite to replace it")
    there = _names(place)
    if there:
        raise FileExistsError(
            f"{place} is not empty (it holds {listed(there, 4)}); expected a new folder, or --overwrite to replace the "
            "checkpoint in it"
        )


def _check_dtypes(tensors: Mapping[str, Pending], to: str) -> None:
    held = {"safetensors": DTYPE_NAMES, "npz": NAMES}.get(to)
    for name, tensor in tensors.items():
        if held is not None and tensor.dtype not in held:
            raise WeightsError(
                f"{name} has dtype {_text(tensor.dtype)}, which {to} cannot hold. Convert it (--dtype float32 holds "
                "every bfloat16 and 8-bit number exactly), or choose another format."
            )


def _described(
    source: str | os.PathLike[str],
    checkpoint: Checkpoint,
    found: Translation,
    tensors: Mapping[str, Pending],
    target: Target,
) -> Conversion:
    dtypes: dict[tuple[str, str], list[str]] = {}
    for name, item in found.items.items():
        if tensors[name].dtype != item.dtype:
            dtypes.setdefault((_text(item.dtype), _text(tensors[name].dtype)), []).append(name)
    folder = f"{where(checkpoint)}{os.sep}"
    is_place = os.path.lexists(Path(source).expanduser()) or bundle_index(source) is not None
    return Conversion(
        source=checkpoint.path.resolve().name if is_place else os.fspath(source),
        container=checkpoint.format,
        dialect=found.dialect,
        reason=found.reason,
        into=found.into,
        source_files=[],
        files=[],
        renamed=[(name, item.name, item.what) for item in found.items.values() for name in item.sources or ("",)],
        dropped=found.dropped,
        dtypes=[(old, new, names) for (old, new), names in dtypes.items()],
        carried=[],
        notes=[note.replace(folder, "") for note in found.notes],
        source_path=str(checkpoint.path),
        destination=str(target.place),
        to=target.to,
    )


def _text(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _counted(tensor: Pending, progress: Callable[[int], object]) -> Pending:
    def read() -> torch.Tensor:
        result = tensor.read()
        progress(tensor.nbytes)
        return result

    return dataclasses.replace(tensor, read=read)


# ------------------------------------------------------------------------------------------------------------- writing


def _source_files(checkpoint: Checkpoint) -> list[Path]:
    """The weights files that are read, and their index."""
    indices = [checkpoint.path, *(where(checkpoint) / name for name in (SAFETENSORS_INDEX, BIN_INDEX))]
    used = indices if len(checkpoint.files) > 1 or checkpoint.format == "tensorflow" else []
    same_kind = {"safetensors": SAFETENSORS_INDEX, "pytorch": BIN_INDEX}.get(checkpoint.format)
    found = [file for file in used if file.is_file() and file.name in (checkpoint.path.name, same_kind)]
    return list(dict.fromkeys([*checkpoint.files, *found]))


def _write_file(target: Target, tensors: Mapping[str, Pending], checkpoint: Checkpoint, result: Conversion) -> None:
    place = target.place
    place.parent.mkdir(parents=True, exist_ok=True)
    with temporary_beside(place) as temporary:
        if target.to == "bin":
            write_bin(temporary, tensors)
        else:
            with temporary.open("xb") as file:
                if target.to == "npz":
                    write_npz(file, tensors)
                else:
                    write_safetensors(file, tensors, {"format": "pt"})
        result.source_files = [file_fact(file) for file in _source_files(checkpoint)]
        result.files = [file_fact(temporary, place.name)]
        with temporary.open("rb+") as written:
            os.fsync(written.fileno())
        temporary.replace(place)
    flush_folder(place.parent)


def _write_folder(
    target: Target,
    tensors: Mapping[str, Pending],
    checkpoint: Checkpoint,
    result: Conversion,
    dtype: str | None,
    max_shard_size: int | str,
    write_card: bool,
) -> None:
    place = target.place
    carried, earlier = _beside(checkpoint, result)
    _note_configs(carried, dtype, result)
    _note_what_stays(target, carried, result)
    ours = [name for name in (README, CONVERSION) if name not in carried and _is_ours(place / name)]
    if write_card:
        foreign = README in carried or (README not in ours and os.path.lexists(place / README))
        result.card = CONVERSION if foreign else README

    def describe(written: Mapping[str, Path]) -> bytes:
        result.source_files = [file_fact(file) for file in _source_files(checkpoint)]
        result.files = [file_fact(path, name) for name, path in written.items()]
        return _card_text(result, carried, earlier).encode()

    # A card of an earlier conversion speaks of weights that are gone.
    files: dict[str, bytes | Callable[[Mapping[str, Path]], bytes] | None] = {**carried, **dict.fromkeys(ours)}
    if result.card:
        files[result.card] = describe
    if target.to == "npz":
        written = _write_npz_folder(place, tensors, files)
    else:
        format = "pytorch" if target.to == "bin" else target.to
        written = save_checkpoint(place, tensors, max_shard_size=max_shard_size, format=format, files=files)
    if not result.card:
        describe({path.name: path for path in written})


def _write_npz_folder(
    place: Path,
    tensors: Mapping[str, Pending],
    files: Mapping[str, bytes | Callable[[Mapping[str, Path]], bytes] | None],
) -> list[Path]:
    with transaction(place) as change:
        path = change.path(NPZ)
        with path.open("wb") as file:
            write_npz(file, tensors)
        for name, data in files.items():
            if data is None:
                change.remove(name)
            else:
                change.write(name, data({NPZ: path}) if callable(data) else data)
    return [place / NPZ]


def _beside(checkpoint: Checkpoint, result: Conversion) -> tuple[dict[str, bytes], str]:
    """The files beside the weights that belong to the model, and what the card of an earlier conversion tells."""
    folder = where(checkpoint)
    weights = {file.name for file in _source_files(checkpoint)} | {checkpoint.path.name}
    contents: dict[str, bytes] = {}
    earlier = ""
    for name in _names(folder):
        if name in (*CARRIED, CONVERSION) and not (folder / name).is_dir():
            with open_regular(not_outside(folder / name)) as file:
                content = b"".join(iter(functools.partial(file.read, 2**20), b""))
            text = content.decode("utf-8", errors="replace") if name in (README, CONVERSION) else ""
            if is_ours(text):
                earlier = text[text.index(HEADING) :]
            elif name in CARRIED:
                contents[name] = content
            else:
                result.left_behind.append(name)
        elif name not in weights and not name.startswith("."):
            result.left_behind.append(name)
    result.carried = list(contents)
    return contents, earlier


def _note_configs(carried: Mapping[str, bytes], dtype: str | None, result: Conversion) -> None:
    """What a reader of the copied configuration should know; it is never changed."""
    config = _json(carried.get("config.json", b""))
    stated = str(config.get("dtype", config.get("torch_dtype", ""))).removeprefix("torch.")
    if dtype and stated not in ("", "None", dtype):
        result.notes.append(
            f"config.json is copied as it is and says dtype {stated}: programs that follow it convert to {stated} again"
        )
    for name in FOREIGN_CONFIGS:
        if name in carried and "config.json" not in carried:
            result.notes.append(f"{name} is copied as it is, not translated: there is no config.json in the result")


def _note_what_stays(target: Target, carried: Mapping[str, bytes], result: Conversion) -> None:
    """Files of the destination that the conversion neither writes nor removes, where they matter."""
    place = target.place
    there = _names(place) if place.is_dir() else []
    stays = [name for name in there if name in CARRIED and name not in carried and not _is_ours(place / name)]
    if stays:
        result.notes.append(f"already in {place.name} and left as they were: {', '.join(stays)}")
    others = [name for name in there if name.endswith((*SUFFIXES.values(), *OTHER_SUFFIXES)) and name != NPZ]
    weights = [name for name in others if not name.endswith(".json") or name.endswith(".index.json")]
    if target.to == "npz" and weights:
        raise FileExistsError(
            f"{place} holds other weights ({listed(weights, 4)}), which would be read in place of {NPZ}; expected a "
            "folder without, or the name of a file that ends with .npz"
        )


def _names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


def _is_ours(path: Path) -> bool:
    return path.is_file() and is_ours(path.read_text(encoding="utf-8", errors="replace"))


def _card_text(result: Conversion, carried: Mapping[str, bytes], earlier: str) -> str:
    text = provenance(result)
    if result.card == README:
        model_type = _json(carried.get("config.json", b"")).get("model_type")
        text = card(result, model_type=model_type if isinstance(model_type, str) else None)
    return text + (f"\n{earlier}" if earlier else "")


def _json(content: bytes) -> dict[str, Any]:
    try:
        value = json.loads(content or b"{}")
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}
