"""What stands on one side of a comparison: a dump, a live model, or the folder of a checkpoint."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from minitf.parity.dumps import INPUTS, PAST, Dump, NameMap
from minitf.parity.runs import Call
from weights_tools import open_checkpoint
from weights_tools.hub import at_hand

__all__ = ["Side", "call_for", "load_model", "opened", "read_inputs"]

FOREIGN = "transformers:"
"""In front of a folder: load it with the installed transformers instead of minitf."""


@dataclass(frozen=True)
class Side:
    """`label` for reports, and a model or a dump. As a context manager: a dump that was opened here is closed."""

    label: str
    model: nn.Module | None = None
    dump: Dump | None = None
    own: bool = False

    def __enter__(self) -> Side:
        return self

    def __exit__(self, *error: object) -> None:
        if self.dump is not None and self.own:
            self.dump.close()


def opened(side: Any, names: NameMap | Mapping[str, Any] | str | os.PathLike[str] | None = None) -> Side:
    """Find out what `side` is and open it.

    Args:
        side: an `nn.Module`, a `Dump`, the path of a dump, or a folder (or name in the local hub cache) of a
            checkpoint; "transformers:FOLDER" loads it with transformers.
        names: the name map of a dump that is opened here.

    Raises:
        TypeError: none of these. FileNotFoundError, WeightsError: no such file, or not a dump.
    """
    if isinstance(side, nn.Module):
        return Side(type(side).__name__, model=side)
    if isinstance(side, Dump):
        return Side(side.path.name, dump=side)
    if not isinstance(side, str | os.PathLike):
        raise TypeError(f"{side!r} is a {type(side).__name__}; expected a folder, a dump or a model.")
    path = Path(side)
    if path.is_file():
        return Side(path.name, dump=Dump(path, names), own=True)
    return Side(os.fspath(side), model=load_model(os.fspath(side)))


def load_model(name: str) -> Any:
    """The model of a checkpoint: the class that `architectures` in its config.json names, else the trunk.

    Raises:
        FileNotFoundError: no such folder. ValueError: the class is in neither library.
    """
    foreign = name.startswith(FOREIGN)
    folder = at_hand(name.removeprefix(FOREIGN))
    from minitf import AutoConfig, AutoModel

    kind = next(iter(AutoConfig.from_pretrained(folder).architectures or ()), "AutoModel")
    if foreign:
        from minitf.parity.verify_models import import_transformers

        library: Any = import_transformers()
        library.utils.logging.disable_progress_bar()
        return getattr(library, kind).from_pretrained(folder)
    import minitf

    return getattr(minitf, kind, AutoModel).from_pretrained(folder)


def read_inputs(path: str | os.PathLike[str]) -> Call:
    """The inputs that a safetensors or `.npz` file holds; what else is in it (activations) is left alone.

    Raises:
        ValueError: there are none.
    """
    with open_checkpoint(path) as file:
        found = {name: file.read(name) for name in file.names() if name in INPUTS}
        past = int(file.read(PAST)) if PAST in file else 0
    if not found:
        raise ValueError(f"{path} holds no inputs; expected arrays named {', '.join(INPUTS[:4])} ...")
    return Call({name: v if v.is_floating_point() else v.long() for name, v in found.items()}, past)


def call_for(dump: Dump | None, inputs: Call | Mapping[str, Tensor] | str | os.PathLike[str] | None) -> Call:
    """The call that gave a dump: its own inputs, and those that are given.

    Raises:
        ValueError: an input that is given and stands in the dump with another value.
    """
    if isinstance(inputs, Call):
        given = inputs
    else:
        given = read_inputs(inputs) if isinstance(inputs, str | os.PathLike) else Call(dict(inputs or {}))
    if dump is None:
        return given
    for name, value in dump.inputs.items():
        other = given.inputs.get(name)
        if other is not None and not torch.equal(other.to(value.dtype), value):
            raise ValueError(f"{name} is given, and stands in {dump.path} with other values; leave one of them out.")
    return Call({**dump.inputs, **given.inputs}, dump.past_length or given.past_length)
