"""Is a golden bundle what minitf computes here? Every array of it is computed again and compared.

    inputs, weights     equal
    integers            equal (tokens)
    float64             within `EXACT` of the array's largest value
    float32             bit for bit, if torch, numpy and the kind of processor are those that made the bundle; else
                        within `MARGIN` noise floors (`minitf.parity.noise`): the distance of the float32 that is
                        computed here from the bundle's float64

Another processor adds up a product in another order, which is all that may differ. A gradient that is zero but for
rounding (a key bias shifts all scores of a query alike) has no digits to agree in: gradients may differ by `DUST`
roundings of the largest one as well.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, cast

import numpy as np
import torch

import minitf
from minitf.parity.golden import PARTS, Array, Bundle, BundleError, digest, load
from minitf.parity.golden_making import Settings, as_arrays, computed, machine
from minitf.parity.noise import MARGIN, Difference, Floor, difference, floor_of, settled
from minitf.parity.verify_models import first_line
from minitf.pretrained import PreTrainedModel

__all__ = ["DUST", "EXACT", "Check", "Unlike", "build", "check"]

EXACT = 1e-10
"""Of float64, whose rounding is 1e-16: summation in another order was measured at 3e-15 (tests/goldens)."""
ROUNDED = 1e-5
"""Of float32 that has no float64 beside it: the scores of beams, which are float32 sums in every dtype."""
DUST = 16.0
"""Roundings of the largest gradient that a gradient may be off."""


@dataclass(frozen=True)
class Unlike:
    """One array that is not what it should be.

    Attributes:
        part, name: where it stands. what: in what it differs, in words.
    """

    part: str
    name: str
    what: str

    def __str__(self) -> str:
        return f"{self.part} {self.name}: {self.what}"


@dataclass(frozen=True)
class Check:
    """What `check` found.

    Attributes:
        bundle: its path. model: the class. same_machine: whether float32 had to be equal bit for bit.
        compared, identical, within: how many arrays both have; how many of them are equal bit for bit, and how many
            within the tolerance.
        unlike: arrays beyond the tolerance, in the order of computation.
    """

    bundle: str
    model: str
    same_machine: bool
    compared: int
    identical: int
    within: int
    unlike: tuple[Unlike, ...]

    @property
    def ok(self) -> bool:
        """Whether the bundle is what minitf computes here."""
        return not self.unlike

    def __str__(self) -> str:
        kind = "made with these versions on such a processor" if self.same_machine else "made elsewhere"
        head = f"{self.bundle}: {self.model}, {kind}"
        counts = f"{self.compared} arrays: {self.identical} identical, {self.within} within the tolerance"
        if self.ok:
            return f"{head}\n{counts}"
        more = f"\n(and {len(self.unlike) - 1} more)" if len(self.unlike) > 1 else ""
        return (
            f"{head}\n{counts}, {self.compared - self.identical - self.within} beyond it\nfirst: {self.unlike[0]}{more}"
        )

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain values, for JSON."""
        return {**asdict(self), "unlike": [asdict(row) for row in self.unlike], "ok": self.ok}


def check(bundle: Bundle | str | os.PathLike[str], model: PreTrainedModel | None = None) -> Check:
    """Compute a bundle again and compare.

    Args:
        bundle: or its path. model: whose numbers the bundle should be; None = one that is built from the bundle's
            configuration and weights.

    Raises:
        BundleError: a damaged bundle; one without weights, if no model is given; a model of another class.
    """
    found = bundle if isinstance(bundle, Bundle) else load(bundle)
    said = found.description
    if model is None:
        model = build(found)
    elif type(model).__name__ != said["class"]:
        raise BundleError(f"{found.path} is of {said['class']}, and the model is a {type(model).__name__}.")
    inputs = {name: torch.from_numpy(value) for name, value in found.part("inputs").items()}
    steps = {key: value for key, value in said["optimizer"].items() if key != "name"}
    searches = said["tokens"]
    chosen = {} if "new tokens" not in searches else {"new_tokens": searches["new tokens"], "beams": searches["beams"]}
    settings = Settings(names=tuple(said["names"]), optimizer=steps, **chosen)
    same = all(said["made with"].get(key) == value for key, value in machine().items())
    unlike: list[Unlike] = []
    compared = identical = beyond = 0
    made = []
    for part, tensors in computed(model, inputs, settings):
        made.append(part)
        ours = as_arrays(tensors)
        if part not in found.parts:
            unlike += _absent(found, part, ours)
            continue
        stored = found.part(part)
        exact = found.part(part.replace("float32", "float64")) if part.endswith("float32") and not same else None
        differing = _compared(part, ours, stored, _Tolerance(part, ours, stored, exact, same))
        both = ours.keys() & stored.keys()
        compared += len(both)
        identical += sum(same_bits(ours[name], stored[name]) for name in both)
        beyond += sum(row.name in both for row in differing)
        unlike += differing
    unlike += [Unlike(part, "", "minitf computes no such part") for part in found.parts if part not in made]
    unlike.sort(key=lambda row: PARTS.index(row.part))
    return Check(
        str(found.path), said["class"], same, compared, identical, compared - identical - beyond, tuple(unlike)
    )


def build(bundle: Bundle) -> PreTrainedModel:
    """The model of a bundle, from its own configuration and weights.

    Raises:
        BundleError: it has no weights, or they do not fit its configuration.
    """
    said = bundle.description
    if "weights" not in bundle.parts:
        raise BundleError(f"{bundle.path} was made without weights: name the folder of the checkpoint too.")
    kind = getattr(minitf, said["class"], None)
    if not (isinstance(kind, type) and issubclass(kind, PreTrainedModel)):
        raise BundleError(f"{bundle.path} is of {said['class']!r}, which is no class of minitf.")
    weights = {name: torch.from_numpy(value) for name, value in bundle.part("weights").items()}
    poolerless = kind is minitf.BertModel and not any(name.startswith("pooler.") for name in weights)
    options = {"add_pooling_layer": False} if poolerless else {}
    load_model: Any = kind.from_pretrained
    try:
        config = minitf.AutoConfig.from_dict(said["config"])
        model = load_model(None, config=config, state_dict=weights, strict=True, dialect="hf", **options)
    except (ValueError, TypeError, RuntimeError) as error:
        raise BundleError(
            f"{bundle.path}: its weights and its configuration do not fit: {first_line(error)}"
        ) from error
    return cast(PreTrainedModel, model)


def _absent(bundle: Bundle, part: str, ours: Mapping[str, Array]) -> list[Unlike]:
    """A part that minitf computes and the bundle does not have."""
    if part != "weights":
        return [Unlike(part, "", "the bundle does not have it")]
    expected, found = bundle.description["weights"]["sha256"], digest(ours)
    if found == expected:
        return []
    return [Unlike(part, "", f"their sha256 is {found}; the bundle was made from {expected}: another checkpoint")]


def same_bits(one: Array, other: Array) -> bool:
    """Whether two arrays have the same bytes, shape and dtype."""
    return (one.dtype, one.shape) == (other.dtype, other.shape) and one.tobytes() == other.tobytes()


def _compared(part: str, ours: Mapping[str, Array], stored: Mapping[str, Array], tolerance: _Tolerance) -> list[Unlike]:
    """The arrays of a part that differ."""
    found = [Unlike(part, name, "the bundle does not have it") for name in ours if name not in stored]
    for name, value in stored.items():
        mine = ours.get(name)
        if mine is None:
            found.append(Unlike(part, name, "minitf does not compute it"))
        elif (mine.shape, mine.dtype) != (value.shape, value.dtype):
            kinds = [f"{list(array.shape)} {array.dtype}" for array in (value, mine)]
            found.append(Unlike(part, name, f"{kinds[0]} in the bundle, {kinds[1]} computed"))
        elif not same_bits(mine, value):
            one, limit = _difference(name, mine, value), tolerance.of(name)
            if not one.max_abs <= limit:
                allowed = f"; allowed is {limit:.3g}" if limit else ", and they must be equal"
                place = f"at {list(one.position)}: " if one.position else ""
                values = f"{one.expected:.9g} in the bundle, {one.found:.9g} computed, {one.max_abs:.3g} apart"
                found.append(Unlike(part, name, f"{place}{values}{allowed}"))
    return found


def _difference(name: str, mine: Array, value: Array) -> Difference:
    dtype = torch.float32 if value.dtype == np.float32 else torch.float64
    return difference(name, torch.from_numpy(mine), torch.from_numpy(value), dtype)


class _Tolerance:
    """How far each array of a part may be off, as largest absolute difference.

    Args:
        ours, stored: the arrays that are computed, and those of the bundle.
        exact: the bundle's in float64, if these are in float32 and need not be equal.
        same: whether float32 must be equal.
    """

    def __init__(
        self,
        part: str,
        ours: Mapping[str, Array],
        stored: Mapping[str, Array],
        exact: Mapping[str, Array] | None,
        same: bool,
    ) -> None:
        self.stored = stored
        given = part in ("inputs", "weights")
        self.relative = {} if given else {"float64": EXACT, **({} if same else {"float32": ROUNDED})}
        self.dust, self.floors = 0.0, None if exact is None else _floors(ours, exact)
        if part.startswith("gradients"):
            eps = float(torch.finfo(torch.float64 if part.endswith("float64") else torch.float32).eps)
            self.dust = DUST * eps * max((float(np.abs(value).max()) for value in stored.values()), default=0.0)

    def of(self, name: str) -> float:
        """The limit of one array; 0 = it must be equal."""
        value = self.stored[name]
        if value.dtype.name not in self.relative:
            return 0.0
        if self.floors is not None:
            # What is computed here is one floor away from float64 itself.
            return (MARGIN + 1) * self.floors[name].max_abs + self.dust if name in self.floors else 0.0
        return self.relative[value.dtype.name] * _difference(name, value, value).scale + self.dust


def _floors(ours: Mapping[str, Array], exact: Mapping[str, Array]) -> dict[str, Floor]:
    """The noise floor of each array in float32: what is computed here, against float64."""
    both = [name for name in exact if name in ours and ours[name].shape == exact[name].shape]
    errors = {name: _difference(name, ours[name], exact[name]) for name in both}
    return settled(
        {name: floor_of(error, torch.float32) for name, error in errors.items()},
        {name: error.count for name, error in errors.items()},
        {name: error.scale for name, error in errors.items()},
    )
