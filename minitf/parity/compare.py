"""`compare(a, b)`: where two implementations of a model first diverge.

Each side is a model (a folder, an object; minitf's or transformers') or a dump of what some other program computed. One
model is the *reference*. It runs three ways:

1. in the port's dtype, to a dump of its own;
2. in float64. Each value is compared with the port's at the moment it is computed, and with that of run 1, whose error
   is the noise floor (`minitf.parity.noise`);
3. if a value is beyond the floor: once more in both dtypes, now with *the port's values in place of its own* wherever
   the dump has them. So every operation gets the port's inputs, and errs by itself or not at all: this finds the
   operation that is wrong, also behind another one that is.

Two models are compared at the outputs of their layers first, then inside the first layer that differs.
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn

from minitf.parity.dumps import Dump, NameMap
from minitf.parity.noise import MARGIN, Difference, Floor, difference, fitted, floor_of, settled
from minitf.parity.runs import Call, coarse_names, in_dtype, observe, recorded, split_names, step_by_step, unknown_name
from minitf.parity.sides import Side, call_for, opened
from minitf.patterns import matches
from minitf.tracing.names import INSIDE, Names

__all__ = ["Comparison", "First", "Row", "compare"]

OK, MISMATCH, SHAPE, MISSING = "ok", "mismatch", "shape", "missing"
NOMINAL = 8.0
"""Roundings that count as noise between two dumps, where no reference tells how many there are."""
FIELDS = (
    "last_hidden_state", "pooler_output", "logits", "prediction_logits", "seq_relationship_logits", "start_logits",
    "end_logits", "mc_logits", "loss", "mc_loss",
)  # fmt: skip
"""Fields of an output that are compared beside the layers."""
STEPS = {
    "query": "the split of the query projection into heads",
    "key": "the split of the key projection into heads (or the cache)",
    "value": "the split of the value projection into heads (or the cache)",
    "scores": "query times key, the scale, and the mask",
    "probs": "the softmax over the keys",
    "context": "the probabilities times the values",
}
LISTED = 8  # names that are proposed for the next dump


@dataclass(frozen=True)
class Row:
    """One name.

    Attributes:
        name: in the reference's words.
        status: "ok", "mismatch", "shape" or "missing" (one side does not have it).
        shapes: the reference's and the port's; None = missing.
        apart: how far the port's value is from the reference's in float64. floor: the noise floor of this name.
        own: the same for the operation alone, computed from the port's own inputs; None = not computed.
        own_floor: its noise floor.
    """

    name: str
    status: str
    shapes: tuple[tuple[int, ...] | None, tuple[int, ...] | None]
    apart: Difference | None = None
    floor: Floor | None = None
    own: Difference | None = None
    own_floor: Floor | None = None

    @property
    def ratio(self) -> float | None:
        """`apart` in noise floors."""
        return None if self.apart is None or self.floor is None else self.floor.ratio(self.apart)

    @property
    def own_ratio(self) -> float | None:
        """`own` in noise floors."""
        return None if self.own is None or self.own_floor is None else self.own_floor.ratio(self.own)


@dataclass(frozen=True)
class First:
    """The first divergence.

    Attributes:
        name: the first value that differs although what it is computed from agrees.
        after: the last value before it that agrees; None = it is the first one.
        operation: what computes `name` from `after`, in words.
        between: values in between that the port did not show, to be dumped next. Empty = the operation is found.
    """

    name: str
    after: str | None
    operation: str
    between: tuple[str, ...] = ()


@dataclass(frozen=True)
class Comparison:
    """What `compare` found; `str()` of it is the table, `to_dict()` plain values.

    Attributes:
        reference, other: labels of the two sides. dtype: the port's. margin: floors that a port may be off.
        rows: one a name, in the order in which the reference computes them.
        first: the first divergence; None = there is none.
        wrong: names whose operation errs by itself, given the port's own inputs.
        notes: what limits the result, in sentences.
    """

    reference: str
    other: str
    dtype: str
    margin: float
    rows: tuple[Row, ...]
    first: First | None
    wrong: tuple[str, ...] = ()
    notes: tuple[str, ...] = field(default=())

    @property
    def diverges(self) -> bool:
        """Whether any value is beyond the noise, or of another shape."""
        return self.first is not None

    def __str__(self) -> str:
        from minitf.parity.report_text import comparison_text

        return "\n".join(comparison_text(self))

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain values, for JSON."""
        rows = [{**asdict(row), "ratio": row.ratio, "own_ratio": row.own_ratio} for row in self.rows]
        return {**asdict(self), "rows": rows, "diverges": self.diverges}


Sidelike = nn.Module | Dump | str | os.PathLike[str]


def compare(
    a: Sidelike,
    b: Sidelike,
    *,
    inputs: Call | Mapping[str, Tensor] | str | os.PathLike[str] | None = None,
    names: str | Iterable[str] | None = None,
    map: NameMap | Mapping[str, Any] | str | os.PathLike[str] | None = None,
    dtype: torch.dtype | None = None,
    margin: float = MARGIN,
) -> Comparison:
    """Compare two sides name by name.

    Args:
        a, b: each a model, a folder of a checkpoint ("transformers:FOLDER" for transformers' class), or a dump. The
            reference is `a`, or the model if only one is one.
        inputs: keyword arguments of the forward as tensors, or a file that holds them; None = those in the dump.
        names: names or patterns to compare; None = all that a dump has, or for two models the layers and then the
            inside of the first that differs.
        map: the name map of the dump (of `b`, if both are dumps); see `NameMap`.
        dtype: what the port computed in; None = as the dump (or the model) says.
        margin: how many noise floors the port may be off.

    Raises:
        ValueError: no inputs; a name that the reference does not compute; nothing to compare.
        TypeError, FileNotFoundError, WeightsError: a side that is no model and no dump.
    """
    wanted = None if names is None else [names] if isinstance(names, str) else list(names)
    with (
        opened(a, None if _is_dump(b) else map) as first,
        opened(b, map) as second,
        TemporaryDirectory(prefix="minitf-compare-") as folder,
    ):
        if first.model is None and second.model is not None:
            first, second = second, first
        if first.dump is not None and second.dump is not None:
            return _of_dumps(first, second, wanted, dtype, margin)
        assert first.model is not None
        call = call_for(second.dump, inputs)
        call.check(first.model)
        task = Task(first, second, call, margin, Path(folder), dtype)
        return task.with_dump(wanted) if second.dump is not None else task.with_model(wanted)


def _is_dump(side: Any) -> bool:
    return isinstance(side, Dump) or (isinstance(side, str | os.PathLike) and Path(side).is_file())


class Task:
    """One comparison with a model as reference: `first` is its side, `second` the port's."""

    def __init__(
        self, first: Side, second: Side, call: Call, margin: float, folder: Path, dtype: torch.dtype | None
    ) -> None:
        assert first.model is not None
        self.reference, self.labels, self.second = first.model, (first.label, second.label), second
        self.call, self.margin, self.folder = call, margin, folder
        if dtype is None and second.model is not None:
            dtype = next(second.model.parameters()).dtype
        self.dtype = dtype or (second.dump.dtype if second.dump is not None else torch.float32)
        self.names = Names.of(self.reference)
        # There is nothing more exact than float64 to take its floor from: `floor_of` scales that of float32.
        rough = torch.float32 if self.dtype == torch.float64 else self.dtype
        plain = step_by_step(self.reference)
        self.rough, self.exact = in_dtype(plain, rough), in_dtype(plain, torch.float64)
        self.notes: list[str] = []

    # -- the two kinds of port --------------------------------------------------------------------------------------

    def with_dump(self, wanted: list[str] | None) -> Comparison:
        """The port is a dump."""
        dump = self.second.dump
        assert dump is not None
        if not dump:
            raise ValueError(
                f"{self.labels[1]} holds inputs only ({', '.join(dump.inputs)}): add values that the port computed, "
                "such as logits (docs/dumps.md)."
            )
        chosen = list(dump) if wanted is None else self._chosen(wanted)
        return self.finished(self.judged(dump, chosen))

    def with_model(self, wanted: list[str] | None) -> Comparison:
        """The port is a model: its values go to a dump first."""
        assert self.second.model is not None
        chosen = self._chosen(wanted) if wanted is not None else [*coarse_names(self.reference), *FIELDS]
        rows = self._recorded(chosen, "layers")
        more = [name for name in coarse_names(self.second.model) if name not in self.names.names]
        if wanted is None and more:
            self.notes.append(f"Only {self.labels[1]} has {', '.join(more[:LISTED])}{' ...' if more[LISTED:] else ''}.")
        bad = next((row for row in rows if row.status in (MISMATCH, SHAPE)), None)
        if wanted is None and bad is not None and bad.name.endswith(".output"):
            path = bad.name.removesuffix("output")
            inside = [name for name in self.names.names if name.startswith(path) and name != bad.name]
            if inside:
                fine = self._recorded(inside, "inside")
                place = rows.index(bad)
                rows = [*rows[:place], *fine, *rows[place:]]
        return self.finished(rows)

    def _recorded(self, chosen: Sequence[str], file: str) -> list[Row]:
        assert self.second.model is not None
        known = Names.of(self.second.model)
        there = {*known.names, *known.aliases}
        ours = {*self.names.names, *self.names.aliases}
        theirs = [name for name in chosen if name in there or name not in ours]
        with recorded(self.second.model, self.call, theirs, self.folder / file) as dump:
            return self.judged(dump, chosen, strict=False)

    def _chosen(self, wanted: list[str]) -> list[str]:
        modules, fields = split_names(self.names, wanted)
        for name in fields:
            if name.partition(".")[0] not in (*FIELDS, "hidden_states"):
                raise unknown_name(
                    name, [*self.names.names, *FIELDS], "names has", "`minitf names FOLDER` lists what there is."
                )
        chosen = [choice.shown for choice in self.names.choose(modules)] if modules else []
        return list(dict.fromkeys([*chosen, *fields]))

    # -- the runs ----------------------------------------------------------------------------------------------------

    def judged(self, dump: Dump, chosen: Sequence[str], *, strict: bool = True) -> list[Row]:
        """Rows in the order of execution: the chosen names that the reference computes, and what one side lacks."""
        here = [name for name in chosen if name in dump]
        rows = self._pass(dump, here, "rough", None)
        seen = {row.name for row in rows}
        known = {*self.names.names, *self.names.aliases}
        for name in chosen:
            if name in seen:
                continue
            if strict and name in dump and name not in known:
                remedy = "Rename it with a name map, or leave it out (null in the name map)."
                raise unknown_name(name, [*known, *FIELDS], f"{dump.path.name} has", remedy)
            if name in dump or name in known:
                rows.append(Row(name, MISSING, (None, dump.get(name))))
        if not seen:
            raise ValueError(
                f"{self.labels[1]} has none of the values that are to be compared: {', '.join(chosen[:6])}."
            )
        if all(row.status in (OK, MISSING) for row in rows):
            return rows
        own = {row.name: row for row in self._pass(dump, here, "own", dump)}
        return [
            replace(row, own=own[row.name].apart, own_floor=own[row.name].floor) if row.name in own else row
            for row in rows
        ]

    def _pass(self, dump: Dump, names: Sequence[str], file: str, given: Dump | None) -> list[Row]:
        """Both runs of the reference; with `given`, each value is replaced by the port's once it was looked at."""
        mask = self.call.inputs.get("attention_mask")
        found: dict[str, tuple[Row, Difference, float]] = {}

        def instead(name: str, value: Tensor) -> Tensor | None:
            theirs = None if given is None else fitted(given.read(name), tuple(value.shape))
            return None if theirs is None or theirs.shape != value.shape else theirs

        path = self.folder / f"{file}-{dump.path.name}"
        with recorded(self.rough, self.call, names, path, instead if given is not None else None) as rough:

            def see(name: str, value: Tensor) -> Tensor | None:
                if name not in found:
                    shape = tuple(value.shape)
                    theirs = fitted(dump.read(name), shape)
                    shapes = (shape, dump[name])
                    error = difference(name, rough.read(name), value, self.dtype, mask)
                    row = Row(name, SHAPE, shapes)
                    if theirs is not None:
                        row = replace(row, status=OK, apart=difference(name, theirs, value, self.dtype, mask))
                    found[name] = (row, error, error.scale)
                return instead(name, value)

            observe(self.exact, self.call, names, see, replaces=given is not None)
        floors = settled(
            {name: floor_of(error, self.dtype) for name, (_, error, _) in found.items()},
            {name: error.count for name, (_, error, _) in found.items()},
            {name: scale for name, (_, _, scale) in found.items()},
        )
        return [self._verdict(row, floors[name]) for name, (row, _, _) in found.items()]

    def _verdict(self, row: Row, floor: Floor) -> Row:
        if row.apart is None:
            return row
        return replace(row, floor=floor, status=OK if floor.ratio(row.apart) <= self.margin else MISMATCH)

    # -- the conclusion ----------------------------------------------------------------------------------------------

    def finished(self, rows: list[Row]) -> Comparison:
        """The comparison with its first divergence."""
        kind = str(self.dtype).removeprefix("torch.")
        if all(row.status in (OK, MISSING) for row in rows):
            return Comparison(*self.labels, kind, self.margin, tuple(rows), None, notes=tuple(self.notes))
        home = self._homes([row.name for row in rows if row.status != MISSING])
        order = list(dict.fromkeys(home.values()))
        # A field of the output stands where its tensor was computed, what was not computed at the end.
        rows = sorted(rows, key=lambda row: order.index(home[row.name]) if row.name in home else len(order))
        wrong = tuple(r.name for r in rows if r.own_ratio is not None and r.own_ratio > self.margin)
        place = next(i for i, row in enumerate(rows) if row.status in (MISMATCH, SHAPE) or row.name in wrong)
        if not wrong and not any(row.status == SHAPE for row in rows):
            self.notes.append(
                "No operation errs by itself: the difference grows from step to step (less exact arithmetic)."
            )
        first = self._first(rows, place, home, order)
        return Comparison(*self.labels, kind, self.margin, tuple(rows), first, wrong, tuple(self.notes))

    def _first(self, rows: list[Row], place: int, home: dict[str, str], order: list[str]) -> First:
        name = rows[place].name
        after = next((row.name for row in reversed(rows[:place]) if row.status == OK), None)
        start = 0 if after is None else order.index(home[after]) + 1
        compared = {home[row.name] for row in rows if row.status != MISSING}
        steps = [other for other in order[start : order.index(home[name])] if other not in compared]
        # An input is the output of what came before; it is worth a line only where nothing else is.
        steps = [other for other in steps if not other.endswith(".input")] or steps
        return First(name, after, self._operation(name, home[name]), tuple(_spread(steps, LISTED)))

    def _homes(self, also: Sequence[str]) -> dict[str, str]:
        """Every name that the reference computes, in order -> the first name of the same tensor object.

        So `hidden_states.1`, a field of the output, is known to be the output of a layer, and an activation function
        that is called by a module of its own is not a step between two values.
        """
        objects: dict[str, Any] = {}
        home: dict[str, str] = {}

        def see(name: str, value: Tensor) -> None:
            home[name] = next((home[other] for other, there in objects.items() if there() is value), name)
            objects[name] = weakref.ref(value)

        observe(self.exact, self.call, ["all", *(name for name in also if name not in self.names.names)], see)
        return home

    def _operation(self, name: str, home: str) -> str:
        full = self.names.aliases.get(name, name)
        path, _, what = full.rpartition(".")
        if full not in self.names.names:
            return f"the field {name} of the output" + (f", which is {home}" if home != name else "")
        if what in INSIDE:
            return STEPS[what]
        kind = type(self.reference.get_submodule(path)).__name__
        return f"what goes into {path} ({kind})" if what == "input" else f"{path} ({kind})"


def _spread(names: Sequence[str], count: int) -> list[str]:
    """At most so many of the names, evenly, the last one among them."""
    if len(names) <= count:
        return list(names)
    return [names[(index + 1) * len(names) // count - 1] for index in range(count)]


def _of_dumps(
    first: Side, second: Side, wanted: list[str] | None, dtype: torch.dtype | None, margin: float
) -> Comparison:
    """Two dumps: no reference to run, so the noise floor is a guess, and an operation cannot be looked at alone."""
    ours, theirs = first.dump, second.dump
    assert ours is not None
    assert theirs is not None
    kind = dtype or max((ours.dtype, theirs.dtype), key=lambda one: torch.finfo(one).eps)
    names = list(dict.fromkeys([*ours, *theirs])) if wanted is None else matches(wanted, [*ours, *theirs])
    mask = ours.inputs.get("attention_mask", theirs.inputs.get("attention_mask"))
    step = NOMINAL * float(torch.finfo(kind).eps) / 2
    rows = []
    for name in names:
        shapes = (ours.get(name), theirs.get(name))
        if None in shapes:
            rows.append(Row(name, MISSING, shapes))
            continue
        value = ours.read(name)
        other = fitted(theirs.read(name), tuple(value.shape))
        if other is None:
            rows.append(Row(name, SHAPE, shapes))
            continue
        apart = difference(name, other, value, kind, mask)
        floor = Floor(step * apart.scale, step)
        rows.append(Row(name, OK if floor.ratio(apart) <= margin else MISMATCH, shapes, apart, floor))
    if all(row.status == MISSING for row in rows):
        raise ValueError(f"{first.label} and {second.label} have no name in common.")
    place = next((index for index, row in enumerate(rows) if row.status in (MISMATCH, SHAPE)), None)
    found = None
    if place is not None:
        after = next((row.name for row in reversed(rows[:place]) if row.status == OK), None)
        found = First(rows[place].name, after, "what computes it (give a model as reference to find out)")
    note = f"Two dumps: the noise is taken for {NOMINAL:.0f} roundings, and the order is that of {first.label}."
    return Comparison(
        first.label, second.label, str(kind).removeprefix("torch."), margin, tuple(rows), found, notes=(note,)
    )
