"""What is in a checkpoint, and what is unusual about it: the work behind `python -m weights_tools inspect`."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from weights_tools import tables
from weights_tools.common import TensorInfo, listed, readable_size
from weights_tools.files import Checkpoint, open_checkpoint
from weights_tools.mapping import matcher, own_targets
from weights_tools.regular import MAX_CONFIG_BYTES, as_text, is_there, read_text
from weights_tools.report import fold, fold_groups

HUGE_BYTES = 2**31  # programs that count bytes in 32 bits stop here

# How the names of the models that are implemented here, and of their heads, begin.
KNOWN_BEGINNINGS = {
    *("bert", "cls", "classifier", "qa_outputs", "embeddings", "encoder", "pooler"),
    *("transformer", "lm_head", "score", "multiple_choice_head", "h", "wte", "wpe", "ln_f"),
}

# (key in config.json, name of a tensor that has this size, axis)
SIZES = (
    ("vocab_size", "{path}word_embeddings.weight", 0),
    ("hidden_size", "{path}word_embeddings.weight", 1),
    ("max_position_embeddings", "{path}position_embeddings.weight", 0),
    ("type_vocab_size", "{path}token_type_embeddings.weight", 0),
    ("intermediate_size", "{path}layer.{layer}.intermediate.dense.weight", 0),
    ("vocab_size", "{path}wte.weight", 0),
    ("n_embd", "{path}wte.weight", 1),
    ("n_positions", "{path}wpe.weight", 0),
)
LAYERS = (
    ("num_hidden_layers", re.compile(r"(?:.*\.)?layer\.(\d+)\..*")),
    ("n_layer", re.compile(r"(?:.*\.)?h\.(\d+)\..*")),
)


@dataclass
class Inspection:
    """What `inspect` found.

    Attributes:
        checkpoint: what was opened; `dialect` and `reason`: whose names it uses.
        problems: findings that make it load wrongly or not at all (exit code 1).
        remarks: findings that are merely worth knowing.
    """

    checkpoint: Checkpoint
    dialect: str
    reason: str
    problems: list[str] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for `json.dumps`."""
        checkpoint = self.checkpoint
        return {
            "path": str(checkpoint.path),
            "format": checkpoint.format,
            "files": [str(file) for file in checkpoint.files],
            "metadata": checkpoint.metadata,
            "dialect": self.dialect,
            "parameters": sum(_numel(info) for info in checkpoint.values()),
            "total_bytes": checkpoint.total_bytes,
            "tensors": {
                name: {"shape": list(info.shape), "dtype": _dtype(info), "nbytes": info.nbytes, "file": info.file.name}
                for name, info in checkpoint.items()
            },
            "problems": self.problems,
            "remarks": self.remarks,
        }

    def to_text(self, *, every_name: bool = False) -> str:
        """The readable form; layers folded unless `every_name`."""
        checkpoint = self.checkpoint
        files = ", ".join(file.name for file in checkpoint.files[:4]) + (", ..." if len(checkpoint.files) > 4 else "")
        numbers = sum(_numel(info) for info in checkpoint.values())
        table = _table(checkpoint, every_name)
        lines = [
            f"{checkpoint.path}",
            f"  {len(checkpoint)} tensors, {numbers:,} numbers, {readable_size(checkpoint.total_bytes)}"
            f" in {len(checkpoint.files)} {checkpoint.format} file(s): {files}",
            f"  names: {self.dialect} ({self.reason})",
            "",
            *table,
        ]
        for title, findings in (("problems", self.problems), ("unusual", self.remarks)):
            if findings:
                lines += ["", f"{title}:", *(f"  - {finding}" for finding in findings)]
        if len(table) <= len(checkpoint):  # a line for the head of the table and one for every name
            lines += ["", "{...} stands for several names: --names lists every name"]
        return as_text(lines)


def inspect(path: str | Path, *, values: bool = False) -> Inspection:
    """Open `path` and collect what is unusual; `values=True` also reads every number (NaN, infinity, all zero).

    Raises:
        WeightsError, FileNotFoundError, OSError: as `open_checkpoint`.
    """
    checkpoint = open_checkpoint(path)
    dialect, reason = tables.recognise(checkpoint)
    result = Inspection(checkpoint, dialect.name, reason)
    if refusal := dialect.refuses(checkpoint):
        result.problems.append(refusal)
    result.remarks += checkpoint.notes
    _look_at_names(checkpoint, result)
    _look_at_dtypes(checkpoint, result)
    _look_at_config(checkpoint, result)
    if values:
        _look_at_values(checkpoint, result)
        result.remarks += dialect.look(checkpoint, checkpoint.read)
    return result


def _dtype(info: TensorInfo) -> str:
    return str(info.dtype).removeprefix("torch.")


def _numel(info: TensorInfo) -> int:
    return info.nbytes // info.dtype.itemsize


def _table(checkpoint: Checkpoint, every_name: bool) -> list[str]:
    groups: dict[tuple[tuple[int, ...], str], list[str]] = {}
    for name, info in checkpoint.items():
        groups.setdefault((info.shape, _dtype(info)), []).append(name)
    first = {name: index for index, name in enumerate(checkpoint)}
    rows: list[tuple[int, str, str, str, str]] = []
    for (shape, dtype), names in groups.items():
        nbytes = checkpoint[names[0]].nbytes
        for text, members in [(name, [name]) for name in names] if every_name else fold_groups(names):
            size = readable_size(nbytes) + (f" x {len(members)}" if len(members) > 1 else "")
            rows.append((first[members[0]], text, str(list(shape)), dtype, size))
    cells = [("name", "shape", "dtype", "size"), *(row[1:] for row in sorted(rows))]
    widths = [max(len(row[column]) for row in cells) for column in range(4)]
    return [
        "  " + "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip() for row in cells
    ]


def _look_at_names(checkpoint: Checkpoint, result: Inspection) -> None:
    buffers: dict[str, list[str]] = {}
    strange: Counter[str] = Counter()
    dialect = tables.named(result.dialect)
    for name in checkpoint:
        if why := dialect.drops(name):
            buffers.setdefault(why, []).append(name)
        beginning = re.split(r"[./]", dialect.unwrapped(name), maxsplit=1)[0]
        if beginning not in KNOWN_BEGINNINGS and not dialect.knows(name):
            strange[beginning] += 1
    if result.dialect != tables.DIALECTS[-1].name:
        result.remarks.append(f"older or foreign names ({result.dialect}): {result.reason}")
    for why, names in buffers.items():
        result.remarks.append(f"{', '.join(fold(names))}: {why}")
    for beginning, count in strange.items():
        result.remarks.append(f"{count} name(s) begin with {beginning!r}, which no BERT or GPT-2 class has")
    empty = [name for name, info in checkpoint.items() if not info.nbytes]
    if empty:
        result.remarks.append(f"tensors without any number: {', '.join(fold(empty))}")
    huge = [name for name, info in checkpoint.items() if info.nbytes >= HUGE_BYTES]
    if huge:
        result.remarks.append(f"tensors of {readable_size(HUGE_BYTES)} or more: {', '.join(fold(huge))}")


def _look_at_dtypes(checkpoint: Checkpoint, result: Inspection) -> None:
    floats: dict[str, list[str]] = {}
    integers: list[str] = []
    counters: list[str] = []
    for name, info in checkpoint.items():
        if info.dtype.is_floating_point:
            floats.setdefault(_dtype(info), []).append(name)
        elif checkpoint.format == "tensorflow" and not info.shape:
            counters.append(name)
        elif not tables.named(result.dialect).drops(name):
            integers.append(f"{name} ({_dtype(info)})")
    if len(floats) > 1:
        counts = ", ".join(
            f"{dtype} ({len(names)}{': ' + ', '.join(fold(names)[:2]) if len(names) < 4 else ''})"
            for dtype, names in floats.items()
        )
        result.remarks.append(f"weights of different dtypes: {counts}")
    if counters:
        result.remarks.append(f"whole numbers that count (steps, saves) and are no weights: {listed(counters, 4)}")
    if integers:
        result.problems.append(f"not floating point, where weights are expected: {listed(integers, 4)}")


def _look_at_config(checkpoint: Checkpoint, result: Inspection) -> None:
    folder = checkpoint.path if checkpoint.path.is_dir() else checkpoint.path.parent
    file = folder / "config.json"
    if not is_there(file):
        result.remarks.append("there is no config.json beside the weights")
        return
    try:
        config = json.loads(read_text(file, MAX_CONFIG_BYTES, expected="a configuration in JSON"))
        if not isinstance(config, dict):
            raise ValueError(f"a JSON {type(config).__name__}, not an object")
    except (ValueError, OSError, RecursionError) as error:
        result.problems.append(f"config.json cannot be read: {error}")
        return
    result.problems += disagreements(config, own_targets(checkpoint))


def disagreements(config: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]) -> list[str]:
    """Sizes in a config.json that are not those of Hugging Face's names, one sentence each."""
    found: dict[str, str] = {}
    for key, pattern, axis in SIZES:
        for name, shape in shapes.items():
            if key not in config or len(shape) != 2 or matcher(pattern)(name) is None:
                continue
            if shape[axis] != config[key]:
                found.setdefault(key, f"config.json says {key} = {config[key]!r}, {name} has {list(shape)}")
    for key, pattern_ in LAYERS:
        layers = {int(match[1]) for match in map(pattern_.fullmatch, shapes) if match}
        if key in config and layers and config[key] != max(layers) + 1:
            found[key] = f"config.json says {key} = {config[key]!r}, the weights have {max(layers) + 1}"
    return list(found.values())


def _look_at_values(checkpoint: Checkpoint, result: Inspection) -> None:
    zero: list[str] = []
    for name, info in checkpoint.items():
        if not info.nbytes or not info.dtype.is_floating_point or tables.named(result.dialect).drops(name):
            continue
        tensor = checkpoint.read(name)
        if info.dtype.itemsize == 1:
            tensor = tensor.to(torch.float32)  # few operations exist for 8-bit floats
        nan, infinite = int(tensor.isnan().sum()), int(tensor.isinf().sum())
        counts = [f"{count} {kind}" for count, kind in ((nan, "NaN"), (infinite, "infinite")) if count]
        if counts:
            result.problems.append(f"{name} holds {' and '.join(counts)} value(s) of {_numel(info)}")
        elif not bool(tensor.any()):
            zero.append(name)
    if zero:
        result.remarks.append(f"all numbers are zero in {', '.join(fold(zero))}")
