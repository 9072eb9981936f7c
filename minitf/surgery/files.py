"""An adapter alone in a file: `adapter.safetensors`, tensors and settings together, a fraction of the model's size.

The settings are a JSON text in the header's metadata, under `minitf_adapter`:

    version    1
    name       the adapter's name
    kind       "Lora" or "Bottleneck", with its `settings`; `targets` are the paths of the layers
    also       paths of modules that were trained along, and stand in the file whole
    base       {parameter: hash}: what the adapter was trained on, all that is not in the file itself
    notes      whatever the caller added

One file is replaced by one rename, so settings and tensors are never of two saves. An adapter works on the weights
that it was trained beside, and on others it is noise: the hashes (64 bits of SHA-256 over dtype, shape and bytes) tell
which parameters differ.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from minitf.surgery.adapters import AdapterInfo, add_pieces, check_name, list_adapters, make_pieces, pieces_named
from minitf.surgery.pieces import Bottleneck, Lora, Pieces
from weights_tools.atomic import write_atomically
from weights_tools.files import Checkpoint, open_checkpoint

__all__ = ["FILE_NAME", "AdapterFile", "load_adapter", "read_adapter", "save_adapter"]

FILE_NAME = "adapter.safetensors"
KEY = "minitf_adapter"
VERSION = 1
KINDS: dict[str, type[Lora] | type[Bottleneck]] = {"Lora": Lora, "Bottleneck": Bottleneck}


@dataclass(frozen=True)
class AdapterFile:
    """What the header of an adapter file says; see the head of this module."""

    name: str
    settings: Lora | Bottleneck
    also: tuple[str, ...] = ()
    base: dict[str, str] = field(default_factory=dict, repr=False)
    notes: dict[str, Any] = field(default_factory=dict)


def save_adapter(
    model: nn.Module, path: str | os.PathLike[str], name: str, *, notes: Mapping[str, Any] | None = None
) -> Path:
    """Write one adapter, and what was trained along with it, into a folder: all or nothing.

    Args:
        path: the folder, made if need be; the file in it is `adapter.safetensors`.
        name: of the adapter.
        notes: anything that JSON can hold, to be read back with `read_adapter`.

    Returns:
        The file.

    Raises:
        ValueError: the model has no such adapter. OSError: the disk is full, no permission, ...
    """
    from safetensors.torch import save

    pieces = pieces_named(model, name)
    info = next(one for one in list_adapters(model) if one.name == name)
    tensors = {key: tensor.detach().cpu().contiguous() for key, tensor in stored(model, pieces, info.also).items()}
    content = {
        "version": VERSION,
        "name": name,
        "kind": type(info.settings).__name__,
        "settings": asdict(info.settings),
        "also": list(info.also),
        "base": fingerprints(model, info.also),
        "notes": dict(notes or {}),
    }
    metadata = {"format": "pt", KEY: json.dumps(content)}
    folder = Path(path)
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / FILE_NAME, save(tensors, metadata=metadata))
    return folder / FILE_NAME


def load_adapter(
    model: nn.Module, path: str | os.PathLike[str], name: str | None = None, *, other_base: bool = False
) -> AdapterInfo:
    """Give the model an adapter from a file; it is the active one then, and the only one.

    Its parameters require gradients, as those of any fresh module; what else is frozen stays so. Modules that were
    trained along (a head) are overwritten with those of the file.

    Args:
        path: a folder with `adapter.safetensors`, or the file.
        name: None = the name in the file.
        other_base: the model's weights may differ from those that the adapter was trained beside (another dtype, a
            model trained on). Layers and shapes must be the same in any case.

    Raises:
        FileNotFoundError: no such file. ValueError: not an adapter, or damaged; a name that is taken; another base: the
            message lists the layers or parameters that differ. The model is then as it was.
    """
    file = file_of(path)
    with open_checkpoint(file) as checkpoint:
        content = parsed(checkpoint, file)
        chosen = content.name if name is None else name
        check_name(model, chosen)
        present = dict(model.named_modules())
        absent = [place for place in [*(content.settings.targets or ()), *content.also] if place not in present]
        if absent:
            kind = type(model).__name__
            raise ValueError(f"{file}: made for another model, which has {some(absent)}; this {kind} has not.")
        if not other_base:
            check_base(model, content, file)
        pieces = make_pieces(model, content.settings)
        targets = stored(model, pieces, content.also)
        check_shapes(checkpoint, targets, file)
        values = {key: checkpoint.read(key) for key in targets}  # all of them, before the model is touched
    for key, tensor in targets.items():
        tensor.copy_(values[key])
    add_pieces(model, chosen, pieces, content.settings, content.also)
    return next(info for info in list_adapters(model) if info.name == chosen)


def read_adapter(path: str | os.PathLike[str]) -> AdapterFile:
    """What an adapter file says about itself; no tensor is read.

    Raises:
        FileNotFoundError: no such file. ValueError: not an adapter of minitf, or a damaged one.
    """
    file = file_of(path)
    with open_checkpoint(file) as checkpoint:
        return parsed(checkpoint, file)


def file_of(path: str | os.PathLike[str]) -> Path:
    file = Path(path)
    file = file / FILE_NAME if file.is_dir() else file
    if not file.is_file():
        raise FileNotFoundError(f"{file} does not exist; expected a folder with {FILE_NAME}, or such a file.")
    return file


def parsed(checkpoint: Checkpoint, file: Path) -> AdapterFile:
    """The metadata as an object.

    Raises:
        ValueError: missing, broken, or of a later version.
    """
    text = checkpoint.metadata.get(KEY)
    if text is None:
        raise ValueError(f"{file}: its header has no {KEY!r}, so it is no adapter that save_adapter wrote.")
    try:
        content = json.loads(text)
        if content["version"] != VERSION:
            raise ValueError(f"version {content['version']!r}, and only {VERSION} is known")
        settings = KINDS[content["kind"]](**content["settings"])
        also = tuple(content["also"])
        if not settings.targets or not all(isinstance(path, str) for path in (*settings.targets, *also)):
            raise ValueError(f"targets {settings.targets!r} and also {also!r}, where paths should be")
        return AdapterFile(str(content["name"]), settings, also, dict(content["base"]), dict(content["notes"]))
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(f"{file}: the adapter's settings cannot be read ({error}).") from None


# --------------------------------------------------------------------------------------------------------------------
# What is in the file, and what it was trained beside


def stored(model: nn.Module, pieces: Mapping[str, nn.Module], also: tuple[str, ...]) -> dict[str, Tensor]:
    """Name in the file -> tensor: `<layer>.<name in the piece>`, and the modules that were trained along, whole."""
    result = {f"{path}.{key}": tensor for path, piece in pieces.items() for key, tensor in piece.state_dict().items()}
    inside = inside_pieces(model)
    for path in also:
        for key, tensor in model.get_submodule(path).state_dict(prefix=f"{path}.").items():
            if not key.startswith(inside):
                result[key] = tensor
    return result


def inside_pieces(model: nn.Module) -> tuple[str, ...]:
    return tuple(f"{path}." for path, module in model.named_modules() if isinstance(module, Pieces))


def fingerprints(model: nn.Module, also: tuple[str, ...]) -> dict[str, str]:
    """Parameter -> hash, of all parameters but those of adapters, of `also` and of other heads; shared ones once."""
    heads = (path for path, module in model.named_modules() if getattr(module, "beside_base", False))
    left_out = (*inside_pieces(model), *(f"{path}." for path in (*also, *heads)))
    return {
        name: fingerprint(parameter) for name, parameter in model.named_parameters() if not name.startswith(left_out)
    }


def fingerprint(tensor: Tensor) -> str:
    """16 hexadecimal digits of the SHA-256 of dtype, shape and bytes."""
    plain = tensor.detach().cpu().contiguous()
    digest = hashlib.sha256(f"{plain.dtype} {list(plain.shape)} ".encode())
    digest.update(plain.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()[:16]


def check_base(model: nn.Module, content: AdapterFile, file: Path) -> None:
    """The model has the weights that the adapter was trained beside.

    Raises:
        ValueError: it has others; the message names some that differ.
    """
    here = fingerprints(model, content.also)
    differing = [name for name in here if content.base.get(name) != here[name]]
    differing += [name for name in content.base if name not in here]
    if differing:
        raise ValueError(
            f"{file}: the adapter was trained beside other weights: {len(differing)} of {len(content.base)} parameters "
            f"differ ({some(differing)}). Load the same base in the same dtype; if only a head differs, train it along "
            "with the adapter (train_adapter(..., also=...)); or accept it with other_base=True."
        )


def check_shapes(checkpoint: Checkpoint, expected: Mapping[str, Tensor], file: Path) -> None:
    """The file has exactly these tensors.

    Raises:
        ValueError: names or shapes differ, which are listed.
    """
    faults = [f"{name} is missing" for name in expected if name not in checkpoint]
    faults += [f"{name} is not part of such an adapter" for name in checkpoint if name not in expected]
    faults += [
        f"{name} has the shape {list(checkpoint[name].shape)}, the model needs {list(tensor.shape)}"
        for name, tensor in expected.items()
        if name in checkpoint and checkpoint[name].shape != tuple(tensor.shape)
    ]
    faults += [
        f"{name} has the dtype {info.dtype}"
        for name, info in checkpoint.items()
        if name in expected and info.dtype.is_floating_point != expected[name].is_floating_point()
    ]
    if faults:
        raise ValueError(f"{file}: does not fit this model: {some(faults)}.")


def some(names: list[str]) -> str:
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
