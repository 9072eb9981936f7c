"""`diagnose(reference, dump)`: which known mistake explains the numbers of a port.

The reference runs with each mistake of `minitf.parity.faults` injected, in float64, and every value that the dump holds
is compared. A port may make the same mistake a step earlier or later than the injection does (a wrong split of
`c_attn`, or a wrong order of its columns), so what counts are the *decisive* values: those that are wrong by
themselves, given the port's own inputs (`minitf.parity.compare`), and the results. A mistake *reproduces* the dump if
these agree within the noise floor, that of the reference with this very mistake. Its distance is that of the worst of
them, in noise floors: about 1 for the right one, and thousands for the others.

Two mistakes at once are tried if no single one explains the dump. Mistakes that compute the same on these inputs are
all named. Some have random numbers in them (dropout that was left on, a matrix that was newly initialised) and cannot
be reproduced; they are recognised by their marks, and the diagnosis says so.
"""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn

from minitf.parity.compare import MISSING, NOMINAL, OK, SHAPE, Row, Sidelike, Task
from minitf.parity.dumps import Dump, NameMap
from minitf.parity.faults import Fault, faults_for
from minitf.parity.faults.injecting import files_with
from minitf.parity.marks import RANDOM, mark_of
from minitf.parity.noise import MARGIN, Difference, Floor, difference, fitted, floor_of, ratio_of, settled
from minitf.parity.runs import Call, observe, recorded
from minitf.parity.sides import call_for, opened

__all__ = ["Candidate", "Diagnosis", "diagnose"]

NO_MISTAKE, FOUND, LIKELY, NONE = "no mistake", "found", "likely", "none of these"
CLOSE, NEARLY = 6, 100.0
"""So many of the nearest mistakes are judged by their own noise floor, which costs two more runs each; once one
reproduces the dump, only those that are so many margins away."""
TIED = 4.0
"""Mistakes that both reproduce the dump are told apart if one is this many times as far from it."""
MEMORY = 256_000_000
"""Bytes of the dump's values that are kept in memory instead of being read for every mistake."""
FIRST_OF_PAIR, MOST_PAIRS = 6, 400


@dataclass(frozen=True)
class Candidate:
    """One explanation: a mistake, or two at once.

    Attributes:
        names: of the mistakes, as in `minitf.parity.faults`. what, remedy: in words.
        distance: of the worst decisive value, in noise floors; inf where a shape differs or one side is NaN.
        worst: the name of that value.
        agreeing: how many of all values agree within the noise.
        reproduces: whether all decisive ones do.
        mark: by what it was recognised instead of by its numbers, which are random; "" = by its numbers.
    """

    names: tuple[str, ...]
    what: str
    remedy: str
    distance: float
    worst: str
    agreeing: int
    reproduces: bool
    mark: str = ""


@dataclass(frozen=True)
class Diagnosis:
    """What `diagnose` found; `str()` of it is a report, `to_dict()` plain values.

    Attributes:
        reference, other, dtype: the two sides, and what the port computes in.
        verdict: "no mistake" (the reference itself reproduces the dump), "found", "likely" (recognised by its mark),
            or "none of these".
        best: the explanations; several if they compute the same here. Empty unless "found" or "likely".
        ratio: how many times farther from the dump the next explanation is that has none of the mistakes of `best`.
        distance: of the reference without any mistake.
        ranked: every candidate, nearest first. values: how many values were compared. decisive: their names.
        unseen: mistakes that change nothing on these inputs, so the dump says nothing about them.
    """

    reference: str
    other: str
    dtype: str
    verdict: str
    best: tuple[Candidate, ...]
    ratio: float | None
    distance: float
    ranked: tuple[Candidate, ...]
    values: int
    decisive: tuple[str, ...]
    unseen: tuple[str, ...]
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        from minitf.parity.report_text import diagnosis_text

        return "\n".join(diagnosis_text(self))

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain values, for JSON."""
        return asdict(self)


def diagnose(
    reference: Sidelike,
    dump: Dump | str | os.PathLike[str],
    *,
    inputs: Call | Mapping[str, Tensor] | str | os.PathLike[str] | None = None,
    map: NameMap | Mapping[str, Any] | str | os.PathLike[str] | None = None,
    dtype: torch.dtype | None = None,
    margin: float = MARGIN,
) -> Diagnosis:
    """Search the known mistakes for the one that gives the numbers of a dump.

    Args:
        reference: a model of minitf, or the folder of its checkpoint.
        dump, inputs, map, dtype, margin: as in `compare`.

    Raises:
        ValueError: no table of mistakes for this architecture; what `compare` refuses. TypeError: the sides are not a
            model and a dump.
    """
    with (
        opened(reference) as first,
        opened(dump, map) as second,
        TemporaryDirectory(prefix="minitf-diagnose-") as folder,
    ):
        if first.model is None or second.dump is None:
            raise TypeError("diagnose needs a model (or its folder) and a dump, in this order.")
        if not files_with(first.model, "attend"):  # many mistakes replace functions of minitf
            kind = f"{type(first.model).__module__}.{type(first.model).__name__}"
            raise TypeError(
                f"the reference {first.label} is a {kind}, and mistakes are made in models of minitf: give its folder."
            )
        faults = faults_for(first.model)
        call = call_for(second.dump, inputs)
        call.check(first.model)
        task = Task(first, second, call, margin, Path(folder), dtype)
        return _Search(task, second.dump, faults).result()


class _Search:
    """The candidates of one dump and how far each is from it."""

    def __init__(self, task: Task, dump: Dump, faults: Sequence[Fault]) -> None:
        self.task, self.dump, self.faults = task, dump, faults
        self.mask = task.call.inputs.get("attention_mask")
        self.rows = [row for row in task.judged(dump, list(dump)) if row.status != MISSING]
        self.names = [row.name for row in self.rows]
        wrong = [r.name for r in self.rows if r.status == SHAPE or (r.own_ratio or 0.0) > task.margin]
        known = {*task.names.names, *task.names.aliases}
        fields = [name for name in self.names if name not in known]
        results = [*[name for name in self.names if name in known][-1:], *fields]
        self.decisive = tuple(dict.fromkeys([*wrong, *results] if wrong else self.names))
        self.floors = {row.name: row.floor for row in self.rows if row.floor is not None}
        self.kept: dict[str, Tensor] = {}
        self.room = MEMORY
        self.unseen: list[str] = []
        self.notes: list[str] = []

    def result(self) -> Diagnosis:
        ratios = {row.name: row.ratio if row.ratio is not None else math.inf for row in self.rows}
        plain = _worst(ratios)[0]
        singles = list(self._singles())
        if all(row.status == OK for row in self.rows):
            return self._diagnosis(NO_MISTAKE, plain, sorted(singles, key=_order))
        found = self._settled(singles)
        if not any(one.reproduces for one in found):
            marked = [one for fault in self.faults if (one := self._marked(fault)) is not None]
            if marked:
                return self._diagnosis(LIKELY, plain, [*marked, *found])
            found = self._settled([*found, *self._pairs(found)])
        return self._diagnosis(FOUND if any(one.reproduces for one in found) else NONE, plain, found)

    # -- single mistakes ---------------------------------------------------------------------------------------------

    def _singles(self) -> Iterator[Candidate]:
        with recorded(self.task.exact, self.task.call, self.names, self.task.folder / "plain") as plain:
            for fault in self.faults:
                if fault.name in RANDOM or not list(fault.changes(self.task.exact)):
                    continue  # it has its mark only, or this model has no part that it could concern
                try:
                    ratios, effect = self._ratios([fault], plain)
                except ValueError as refusal:  # the model's own checks
                    self.notes.append(f"{fault.name} was not tried: {refusal}")
                    continue
                if effect <= 1.0:
                    self.unseen.append(fault.name)
                else:
                    yield self._candidate([fault], ratios)

    def _ratios(self, faults: Sequence[Fault], plain: Dump | None = None) -> tuple[dict[str, float], float]:
        """How far each value of the dump is from the reference with these mistakes, and what they change at most."""
        ratios: dict[str, float] = {}
        effect = 0.0

        def see(name: str, value: Tensor) -> None:
            nonlocal effect
            if name not in ratios:
                ratios[name] = self._ratio(name, self._theirs(name), value)
                if plain is not None and effect <= 1.0:
                    effect = max(effect, self._ratio(name, plain.read(name), value))

        with _injected(faults, self.task.exact):
            observe(self.task.exact, self.task.call, self.names, see)
        return ratios, effect

    def _ratio(self, name: str, value: Tensor, computed: Tensor) -> float:
        """How far a value is from what was computed, in floors of the sound reference."""
        other, floor = fitted(value, tuple(computed.shape)), self.floors.get(name)
        if other is None:
            return math.inf
        if floor is None:  # the sound reference has another shape, so it has no floor for this one
            step = NOMINAL * float(torch.finfo(self.task.dtype).eps) / 2
            floor = Floor(step * float(computed.abs().max()), step)
        if other.shape != computed.shape:
            return floor.ratio(difference(name, other, computed, self.task.dtype, self.mask))
        return ratio_of(name, other.double(), computed, floor, self.mask)

    def _theirs(self, name: str) -> Tensor:
        """The dump's value; kept while there is room, since every mistake is compared with it."""
        value = self.kept.get(name)
        if value is None:
            value = self.dump.read(name).double()
            if self.room >= value.nbytes:
                self.room -= value.nbytes
                self.kept[name] = value
        return value

    def _candidate(self, faults: Sequence[Fault], ratios: Mapping[str, float]) -> Candidate:
        distance, worst = _worst({name: ratios[name] for name in self.decisive if name in ratios})
        margin = self.task.margin
        return Candidate(
            tuple(fault.name for fault in faults),
            "; and ".join(fault.what for fault in faults),
            "; and ".join(fault.remedy for fault in faults),
            distance,
            worst,
            sum(ratio <= margin for ratio in ratios.values()),
            distance <= margin,
        )

    def _settled(self, candidates: Sequence[Candidate]) -> list[Candidate]:
        """The candidates in order; the nearest ones by the noise floor of the reference with their own mistake."""
        ordered = sorted(candidates, key=_order)
        # Once one reproduces the dump, only those that nearly do are of interest.
        clear = bool(ordered) and ordered[0].reproduces
        near = [one for one in ordered[:CLOSE] if not clear or one.distance <= NEARLY * self.task.margin]
        judged = [self._by_own_floor(one) for one in near]
        return sorted([*judged, *ordered[len(near) :]], key=_order)

    def _by_own_floor(self, candidate: Candidate) -> Candidate:
        faults = [fault for name in candidate.names for fault in self.faults if fault.name == name]
        task, dtype = self.task, self.task.dtype
        apart: dict[str, Difference] = {}
        errors: dict[str, Difference] = {}
        path = task.folder / "own-floor"
        with ExitStack() as stack:
            with _injected(faults, task.rough):
                rough = stack.enter_context(recorded(task.rough, task.call, self.names, path))

            def see(name: str, value: Tensor) -> None:
                theirs = fitted(self.dump.read(name), tuple(value.shape))
                if name not in errors and theirs is not None:
                    apart[name] = difference(name, theirs, value, dtype, self.mask)
                    errors[name] = difference(name, rough.read(name), value, dtype, self.mask)

            with _injected(faults, task.exact):
                observe(task.exact, task.call, self.names, see)
        own = settled(
            {name: floor_of(error, dtype) for name, error in errors.items()},
            {name: error.count for name, error in errors.items()},
            {name: error.scale for name, error in errors.items()},
        )
        ratios = {name: _larger(own[name], self.floors.get(name)).ratio(apart[name]) for name in apart}
        whole = {name: ratios.get(name, math.inf) for name in self.names}
        again = self._candidate(faults, whole)
        return min(candidate, again, key=_order)

    # -- two at once, and the random ones ----------------------------------------------------------------------------

    def _pairs(self, singles: Sequence[Candidate]) -> Iterator[Candidate]:
        """Pairs whose first mistake explains more values than none does; if none does so, of the nearest ones."""
        agreeing = sum(row.status == OK for row in self.rows)
        better = [one for one in singles if one.agreeing > agreeing]
        firsts = sorted(better, key=lambda one: -one.agreeing)[:FIRST_OF_PAIR] or list(singles[:FIRST_OF_PAIR])
        by_name = {fault.name: fault for fault in self.faults}
        pairs = list(
            dict.fromkeys(
                tuple(sorted((a.names[0], b.names[0]))) for a in firsts for b in singles if a.names != b.names
            )
        )
        for pair in pairs[:MOST_PAIRS]:
            faults = [by_name[name] for name in pair]
            if all(list(fault.changes(self.task.exact)) for fault in faults):
                yield self._candidate(faults, self._ratios(faults)[0])
        if len(pairs) > MOST_PAIRS:
            self.notes.append(f"Of {len(pairs)} pairs of mistakes the first {MOST_PAIRS} were tried.")

    def _marked(self, fault: Fault) -> Candidate | None:
        """The candidate of a mistake with random numbers in it, if the dump bears its mark."""
        place = next(i for i, row in enumerate(self.rows) if row.status != OK)
        row: Row = self.rows[place]
        if row.status == SHAPE:
            return None
        expected: list[Tensor] = []
        observe(self.task.exact, self.task.call, [row.name], lambda name, value: expected.append(value.cpu()))
        found = fitted(self.dump.read(row.name), tuple(expected[0].shape))
        assert found is not None  # its row has no status of a shape
        mark = mark_of(fault.name, self.task.exact, row.name, found.double(), expected[0])
        if mark is None:
            return None
        agreeing = sum(one.status == OK for one in self.rows)
        return replace(self._candidate([fault], {row.name: row.ratio or 0.0}), agreeing=agreeing, mark=mark)

    def _diagnosis(self, verdict: str, plain: float, ranked: list[Candidate]) -> Diagnosis:
        best: list[Candidate] = []
        if verdict == LIKELY:
            best = [one for one in ranked if one.mark]
        elif verdict == FOUND:
            first = ranked[0]
            alike = [one for one in ranked if one.reproduces and len(one.names) == len(first.names)]
            near = TIED * max(first.distance, 1.0)
            best = [one for one in alike if one.agreeing == first.agreeing and one.distance <= near]
        rest = [one for one in ranked if one not in best]
        own = {name for one in best for name in one.names}
        others = [plain, *(one.distance for one in rest if not own & set(one.names))]
        ratio = min(others) / max(best[0].distance, 1.0) if best and verdict == FOUND else None
        return Diagnosis(
            *self.task.labels, str(self.task.dtype).removeprefix("torch."), verdict, tuple(best), ratio, plain,
            (*best, *rest), len(self.rows), self.decisive, tuple(self.unseen), tuple(self.notes),
        )  # fmt: skip


def _order(one: Candidate) -> tuple[Any, ...]:
    """What reproduces the dump comes first, and among that what agrees with most of it; then by distance."""
    distance = math.inf if math.isnan(one.distance) else one.distance
    return (False, len(one.names), -one.agreeing, distance) if one.reproduces else (True, distance)


@contextmanager
def _quiet() -> Iterator[None]:
    logger = logging.getLogger("minitf")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _injected(faults: Sequence[Fault], model: nn.Module) -> ExitStack:
    """All these mistakes in the model, until the block is left; what the model says of such a call concerns nobody."""
    stack = ExitStack()
    stack.enter_context(_quiet())
    try:
        for fault in faults:
            stack.enter_context(fault.inject(model))
    except BaseException:
        stack.close()
        raise
    return stack


def _worst(ratios: Mapping[str, float]) -> tuple[float, str]:
    name = max(ratios, key=lambda one: math.inf if math.isnan(ratios[one]) else ratios[one])
    return ratios[name], name


def _larger(own: Floor, plain: Floor | None) -> Floor:
    """A mistake may shrink the noise to nothing (a factor of 0); it is then that of the sound reference."""
    if plain is None:
        return own
    return Floor(max(own.max_abs, plain.max_abs), max(own.relative_l2, plain.relative_l2))
