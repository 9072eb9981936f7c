"""A dump: one file of named arrays that an implementation computed, and what it computed them from.

The file is safetensors or `.npz` (`weights_tools` opens both). Its names are those of `minitf.tracing`
(`bert.encoder.layer.0.attention.self.probs`), those of the output's fields (`logits`, `loss`), and those of the
forward's tensor arguments (`input_ids`), so that the reference can be run on the same inputs. A port with names of its
own brings a *name map*, a JSON file. docs/dumps.md describes both for writers in any language.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from torch import Tensor

from minitf.parity.dump_writer import DumpWriter
from weights_tools import open_checkpoint

__all__ = ["INPUTS", "Dump", "NameMap", "write_dump"]

INPUTS = (
    "input_ids", "attention_mask", "token_type_ids", "position_ids", "inputs_embeds", "head_mask",
    "encoder_hidden_states", "encoder_attention_mask", "mc_token_ids", "labels", "next_sentence_label",
    "start_positions", "end_positions", "mc_labels",
)  # fmt: skip
"""Names that are arguments of the forward, not activations."""
PAST = "past_length"
"""A number: so many positions of `input_ids` were read in a call before, into the cache; the activations are those of
the call that read the rest."""

DTYPES = {
    "float64": torch.float64, "float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16,
}  # fmt: skip
CODES = {
    torch.bool: "BOOL", torch.uint8: "U8", torch.int8: "I8", torch.int16: "I16", torch.int32: "I32",
    torch.int64: "I64", torch.float16: "F16", torch.bfloat16: "BF16", torch.float32: "F32", torch.float64: "F64",
}  # fmt: skip


@dataclass(frozen=True)
class Row:
    """One row of a name map: the reference's name (None = not compared), and the order of the axes."""

    name: str | None
    axes: tuple[int, ...] | None = None


class NameMap:
    """Their names -> ours. `{}` stands for a number, the same one on both sides.

        {"blk{}/attn/q": "transformer.h.{}.attn.query",
         "blk{}/scores": {"name": "transformer.h.{}.attn.scores", "axes": [1, 0, 2, 3]},
         "timing": null}

    `axes` is how the stored array is transposed to have the reference's order: axis i of the result is axis `axes[i]`
    of theirs, as in `numpy.transpose`. null leaves an array out.

    Raises:
        ValueError: a value that is none of the three forms, another number of `{}` on the two sides, axes that are no
            permutation.
    """

    def __init__(self, rows: Mapping[str, Any], source: str = "the name map") -> None:
        self.source = source
        self.rows = {theirs: self._row(theirs, value) for theirs, value in rows.items()}

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> NameMap:
        """From a JSON file."""
        try:
            rows = json.loads(Path(path).read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(f"{path} is not JSON ({error}); expected an object of their names to ours.") from None
        if not isinstance(rows, dict):
            raise ValueError(f"{path} holds a JSON {type(rows).__name__}; expected an object of their names to ours.")
        return cls(rows, str(path))

    def _row(self, theirs: str, value: Any) -> Row:
        axes = None
        name = value
        if isinstance(value, dict):
            name, axes = value.get("name"), value.get("axes")
            whole = isinstance(axes, list) and sorted(map(str, axes)) == sorted(map(str, range(len(axes))))
            if set(value) - {"name", "axes"} or not isinstance(name, str) or not (axes is None or whole):
                raise ValueError(
                    f'{self.source}: {theirs!r} -> {value!r}; expected {{"name": a name, "axes": each axis once}}.'
                )
        if name is not None and not isinstance(name, str):
            raise ValueError(f'{self.source}: {theirs!r} -> {value!r}; expected a name, {{"name", "axes"}}, or null.')
        if name is not None and theirs.count("{}") != name.count("{}"):
            raise ValueError(f"{self.source}: {theirs!r} and {name!r} do not have the same number of {{}}.")
        return Row(name, None if axes is None else tuple(axes))

    def applied(self, stored: Iterable[str]) -> dict[str, Row]:
        """Each stored name -> its row; a name that no row of the map fits stands for itself.

        Raises:
            ValueError: a row that fits no stored name, or two stored names for one of the reference's.
        """
        found: dict[str, Row] = {}
        used: set[str] = set()
        forms = {t: re.compile(re.escape(t).replace(re.escape("{}"), r"(\d+)")) for t in self.rows}
        names = list(stored)
        for name in names:
            hits = [(t, match) for t, form in forms.items() if (match := form.fullmatch(name))]
            exact = [(t, match) for t, match in hits if t == name] or hits
            if not exact:
                found[name] = Row(name)
                continue
            theirs, match = exact[0]
            used.update(t for t, _ in hits)
            row = self.rows[theirs]
            found[name] = Row(row.name and row.name.replace("{}", "%s") % match.groups(), row.axes)
        for theirs in self.rows:
            if theirs not in used:
                near = get_close_matches(theirs, names, n=1)
                hint = f"; did you mean {near[0]!r}?" if near else ""
                raise ValueError(f"{self.source}: {theirs!r} fits no array of the dump{hint}")
        homes: dict[str, str] = {}
        for theirs, row in found.items():
            if row.name in homes:
                raise ValueError(f"{self.source}: {homes[row.name]!r} and {theirs!r} are both {row.name!r}.")
            if row.name is not None:
                homes[row.name] = theirs
        return found


class Dump(Mapping[str, tuple[int, ...]]):
    """A dump as a mapping of the reference's names to shapes; arrays are read one at a time, when they are asked for.

    Args:
        path: a safetensors or `.npz` file.
        names: the name map: an object of `NameMap`, a dictionary, or the path of a JSON file.

    Attributes:
        inputs: the tensors of the forward's arguments, read at once; ids as int64.
        past_length: positions that were read into the cache before; 0 = there was no cache.
        dtype: what the port computed in: as the file's metadata say, else what most of its values are stored in. (One
            array in half precision among float32 ones is to be seen as a mistake, not to excuse all others.)

    Raises:
        ValueError: a name map that does not fit; ids or a `past_length` that are no whole numbers; complex values.
        `WeightsError`: not such a file.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        names: NameMap | Mapping[str, Any] | str | os.PathLike[str] | None = None,
    ) -> None:
        self.path = Path(path)
        if not isinstance(names, NameMap):
            names = NameMap.read(names) if isinstance(names, str | os.PathLike) else NameMap(names or {})
        self._file = open_checkpoint(self.path)
        rows = names.applied(self._file.names())
        self._stored = {row.name: (theirs, row.axes) for theirs, row in rows.items() if row.name is not None}
        self._shapes = {
            name: self._shape(*self._stored[name]) for name in self._stored if name not in (*INPUTS, PAST, "dtype")
        }
        self.inputs = {name: self._input(name) for name in INPUTS if name in self._stored}
        self.past_length = self._past() if PAST in self._stored else 0
        self.dtype = self._dtype()

    def _shape(self, stored: str, axes: tuple[int, ...] | None) -> tuple[int, ...]:
        shape, dtype = self._file[stored].shape, self._file[stored].dtype
        if dtype.is_complex:
            raise ValueError(f"{self.path}: {stored!r} holds complex numbers, which no model here computes.")
        if axes is None:
            return shape
        if len(axes) != len(shape):
            raise ValueError(f"{stored!r} has shape {shape}; the name map orders {len(axes)} axes.")
        return tuple(shape[axis] for axis in axes)

    def _input(self, name: str) -> Tensor:
        value = self.read(name)
        ids = name.endswith(("_ids", "_mask")) and name != "head_mask"
        if ids and bool(value.double().frac().any()):
            raise ValueError(f"{self.path}: {name!r} holds numbers that are not whole; expected integers of any width.")
        return value.long() if ids or not value.is_floating_point() else value

    def _past(self) -> int:
        value = self.read(PAST)
        if value.numel() != 1 or value.double().frac().item() != 0:
            raise ValueError(f"{self.path}: {PAST} is {value.tolist()}; expected one whole number.")
        return int(value)

    def _dtype(self) -> torch.dtype:
        said = self._file.metadata.get("dtype")
        if said is not None:
            if said not in DTYPES:
                raise ValueError(f"{self.path}: its metadata say dtype {said!r}; expected one of {', '.join(DTYPES)}.")
            return DTYPES[said]
        kinds = [self._file[self._stored[name][0]].dtype for name in self._shapes]
        counts = {kind: kinds.count(kind) for kind in DTYPES.values() if kind in kinds}
        return max(counts, key=lambda kind: (counts[kind], torch.finfo(kind).eps), default=torch.float32)

    def read(self, name: str) -> Tensor:
        """The array of this name, its axes in the reference's order, in the dtype of the file.

        Raises:
            KeyError: the dump has no such name.
        """
        if name not in self._stored:
            raise KeyError(f"{self.path} has no {name!r}.")
        stored, axes = self._stored[name]
        value = self._file.read(stored)
        return value if axes is None else value.permute(axes)

    def __getitem__(self, name: str) -> tuple[int, ...]:
        return self._shapes[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._shapes)

    def __len__(self) -> int:
        return len(self._shapes)

    def __repr__(self) -> str:
        return f"Dump({str(self.path)!r}: {len(self)} activations, inputs {', '.join(self.inputs) or 'none'})"

    def close(self) -> None:
        """Close the file; reading afterwards is an error."""
        self._file.close()

    def __enter__(self) -> Dump:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def write_tensor(dump: DumpWriter, name: str, value: Tensor) -> None:
    """Add a tensor of any device and floating-point dtype to a dump that is being written."""
    plain = value.detach().cpu().contiguous()
    data = plain.reshape(-1).view(torch.uint8).numpy().tobytes() if plain.numel() else b""
    dump.add_bytes(name, CODES[plain.dtype], tuple(plain.shape), data)


def write_dump(path: str | os.PathLike[str], tensors: Mapping[str, Tensor]) -> None:
    """Write tensors, inputs and activations alike, as one dump.

    Args:
        path: the safetensors file. tensors: name -> tensor.
    """
    with DumpWriter(path) as dump:
        for name, value in tensors.items():
            write_tensor(dump, name, value)
