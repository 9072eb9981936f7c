"""A golden bundle: what a model computes from given inputs, step by step, to test another implementation against.

A bundle is a folder, or a `.zip` of it, of NumPy archives and one description:

    bundle.json               class, configuration, how everything was computed, versions, sha256 of every file
    inputs.npz                the arguments of the forward: input_ids, attention_mask, labels, ...
    weights.npz               parameter name -> value (may be left out)
    activations.float64.npz   the inputs again; every named value in the order of execution; the fields of the output
    gradients.float64.npz     parameter name -> gradient of the objective (the loss)
    updated.float64.npz       parameter name -> the parameter after one step of AdamW
    *.float32.npz             the same three in float32
    tokens.npz                of a decoder: prompts, and what greedy search and beam search make of them

Names are those of `minitf.tracing`, of the output's fields and of the state dict; docs/golden.md describes all of it.
This file reads bundles with NumPy alone. `minitf.parity.golden_making` makes them, `golden_check` computes them again.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

__all__ = ["DESCRIPTION", "FORMAT", "PARTS", "Array", "Bundle", "BundleError", "digest", "is_bundle", "load", "sha256"]

FORMAT = "minitf golden bundle, version 1"
DESCRIPTION = "bundle.json"
DTYPES = ("float64", "float32")
PARTS = (
    "inputs", "weights",
    *(f"{what}.{dtype}" for dtype in DTYPES for what in ("activations", "gradients", "updated")),
    "tokens",
)  # fmt: skip
"""Names of the parts, in the order in which they are computed; each is a file `PART.npz`."""
SAID = ("class", "config", "inputs", "names", "objective", "optimizer", "tokens", "weights", "made with", "files")
"""What every description says."""
SPANNED = 2**20  # bytes that are hashed at once

Array = npt.NDArray[Any]


class BundleError(ValueError):
    """A bundle that is damaged, incomplete, or none."""


@dataclass(frozen=True)
class Bundle:
    """A bundle that was opened; parts are read, and compared with their sha256, when they are asked for.

    Attributes:
        path: the folder or `.zip` file. description: what `bundle.json` says.
    """

    path: Path
    description: Mapping[str, Any]

    @property
    def parts(self) -> list[str]:
        """Those of `PARTS` that this bundle has."""
        return [part for part in PARTS if part in self.description["files"]]

    def part(self, name: str) -> dict[str, Array]:
        """Name -> array, in the order of the file.

        Args:
            name: one of `parts`, e.g. "activations.float64".

        Raises:
            BundleError: there is no such part, its file is not the one that was written, or it holds Python objects.
        """
        if name not in self.parts:
            raise BundleError(f"{self.path} has no part {name!r}; it has {', '.join(self.parts)}.")
        expected = self.description["files"][name]["sha256"]
        with _opened(self.path, f"{name}.npz") as file:
            found = sha256(file)
            if found != expected:
                raise BundleError(
                    f"{self.path}: {name}.npz has sha256 {found}, but {DESCRIPTION} says {expected}: the file is "
                    "damaged, or was changed after the bundle was made. Get or make the bundle again."
                )
            file.seek(0)
            try:
                with np.load(file, allow_pickle=False) as arrays:
                    return {key: arrays[key] for key in arrays.files}
            except (ValueError, zipfile.BadZipFile) as error:
                raise BundleError(f"{self.path}: {name}.npz is no archive of plain arrays ({error}).") from None

    def __repr__(self) -> str:
        return f"Bundle({str(self.path)!r}: {self.description['class']}; {', '.join(self.parts)})"


def load(path: str | os.PathLike[str]) -> Bundle:
    """Open a bundle. Nothing but its description is read.

    Args:
        path: the folder, or the `.zip` file.

    Raises:
        FileNotFoundError: there is nothing of that name. BundleError: it is no bundle, or files of it are missing.
    """
    place = Path(path)
    if not place.exists():
        raise FileNotFoundError(f"{place}: no such bundle; expected a folder with {DESCRIPTION}, or a .zip of one")
    with _opened(place, DESCRIPTION) as file:
        try:
            description = json.loads(file.read())
        except ValueError as error:
            raise BundleError(f"{place}: {DESCRIPTION} is not JSON ({error}).") from None
    said = description.get("format") if isinstance(description, dict) else None
    if said != FORMAT:
        raise BundleError(f"{place}: {DESCRIPTION} says format {said!r}; expected {FORMAT!r}.")
    missing = [key for key in SAID if key not in description]
    if missing:
        raise BundleError(f"{place}: {DESCRIPTION} does not say {missing[0]!r}: it is not what was written.")
    bundle = Bundle(place, description)
    files = description["files"]
    if not isinstance(files, dict) or not all(isinstance(row, dict) and "sha256" in row for row in files.values()):
        raise BundleError(f"{place}: {DESCRIPTION} has no 'files' with the sha256 of each.")
    strange = sorted(set(files) - set(PARTS))
    if strange:
        raise BundleError(f"{place}: {DESCRIPTION} lists {strange[0]!r}; expected parts of {', '.join(PARTS)}.")
    for part in bundle.parts:
        with _opened(place, f"{part}.npz"):
            pass
    return bundle


def is_bundle(path: Path) -> bool:
    """Whether this looks like a bundle, so that it may be replaced by another."""
    try:
        with _opened(path, DESCRIPTION):
            return True
    except (OSError, BundleError):
        return False


def digest(arrays: Mapping[str, Array]) -> str:
    """The sha256 of named arrays: of each, in the order of names, `NAME DTYPE SHAPE` as a line, and its bytes.

    It does not depend on the file that they are in, so the weights of a bundle without `weights.npz` are known by it.
    """
    whole = hashlib.sha256()
    for name in sorted(arrays):
        value = np.ascontiguousarray(arrays[name])
        whole.update(f"{name} {value.dtype.name} {list(value.shape)}\n".encode())
        whole.update(value.astype(value.dtype.newbyteorder("<"), copy=False).tobytes())
    return whole.hexdigest()


@contextlib.contextmanager
def _opened(place: Path, name: str) -> Iterator[IO[bytes]]:
    """The file `name` of a bundle."""
    if place.is_dir():
        if not (place / name).is_file():
            raise BundleError(f"{place} is no whole bundle: it has no {name}.")
        with (place / name).open("rb") as file:
            yield file
        return
    try:
        archive = zipfile.ZipFile(place)
    except zipfile.BadZipFile as error:
        raise BundleError(f"{place} is no bundle ({error}); expected a folder with {DESCRIPTION}, or a .zip.") from None
    with archive:
        try:
            entry = archive.open(name)
        except KeyError:
            raise BundleError(f"{place} is no whole bundle: it has no {name}.") from None
        with entry:
            try:
                yield entry
            except zipfile.BadZipFile as error:
                raise BundleError(f"{place}: {name} is damaged ({error}).") from None


def sha256(file: IO[bytes]) -> str:
    """The sha256 of what is left of an open file."""
    whole = hashlib.sha256()
    while block := file.read(SPANNED):
        whole.update(block)
    return whole.hexdigest()
