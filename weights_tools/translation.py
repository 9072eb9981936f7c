"""A checkpoint under other names, without a model: what each tensor becomes, and the tensors, one at a time.

Every name goes through Hugging Face's: the dialect of the file says what that is (`mapping.plan`), and the dialect that
is wanted says what becomes of it there (`mapping.plan_back`). Each name of the file is used, or listed with the reason
why it is not.
"""

from __future__ import annotations

import functools
import json
import os
from dataclasses import dataclass, field
from pathlib import Path

import torch

from weights_tools import tables
from weights_tools.calls import WrongCall
from weights_tools.common import WeightsError, overflows, same_bits
from weights_tools.files import Checkpoint, bundle_index, open_checkpoint
from weights_tools.hub import at_hand
from weights_tools.mapping import Dialect, Plan, Way, own_targets, plan, plan_back
from weights_tools.ops import IDENTITY, Shape
from weights_tools.regular import MAX_CONFIG_BYTES, is_there, problem, read_text
from weights_tools.report import fold
from weights_tools.saving import Pending

HF = "hf"
# The attributes under which a class with a head holds its trunk, as the tables of other programs name it.
BASES = ("bert.", "transformer.")
# Two names of one weight: transformers ties the first to the second, and other programs have the second only.
TIES = {
    "cls.predictions.decoder.weight": "bert.embeddings.word_embeddings.weight",
    "cls.predictions.decoder.bias": "cls.predictions.bias",
    "lm_head.weight": "transformer.wte.weight",
}
HEAD_KEYS = ("num_attention_heads", "n_head")


@dataclass(frozen=True)
class Item:
    """One tensor of the result.

    Attributes:
        name: its name there; `hf`: Hugging Face's name of it, or of the tensor that it is a part of.
        sources: its names in the file: several are joined; none: it is 0 by the dialect's rule.
        shape: in the result; `dtype`: in the file.
        what: what happens to the numbers, in words; "" for nothing.
        way: from Hugging Face's tensor to this one.
    """

    name: str
    hf: str
    sources: tuple[str, ...]
    shape: Shape
    dtype: torch.dtype
    what: str
    way: Way


@dataclass
class Translation:
    """What `translate` found; `read` and `pending` give the numbers.

    Attributes:
        checkpoint: the open file.
        dialect, reason: whose names the file has, and why that is believed; `into`: whose names the result has.
        items: name in the result -> `Item`, in the order of the file.
        dropped: (name in the file, why it is not in the result).
        unknown: (name, why): names in the file that its dialect does not know, and Hugging Face's that `into` has not.
        notes: anything else worth saying.
    """

    checkpoint: Checkpoint
    dialect: str
    reason: str
    into: str
    items: dict[str, Item] = field(default_factory=dict)
    dropped: list[tuple[str, str]] = field(default_factory=list)
    unknown: list[tuple[str, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    _plan: Plan = field(default_factory=Plan, repr=False)
    _shapes: dict[str, Shape] = field(default_factory=dict, repr=False)
    # Tensors of which further parts are wanted, and how many: one container reads the whole file for one tensor.
    _held: dict[str, tuple[torch.Tensor, int]] = field(default_factory=dict, repr=False)

    @property
    def renamed(self) -> list[tuple[str, str]]:
        """(name in the file, name in the result) where they differ."""
        return [(source, item.name) for item in self.items.values() for source in item.sources if source != item.name]

    @property
    def changed(self) -> dict[str, list[str]]:
        """What happens to numbers -> the names in the result to which it happens."""
        result: dict[str, list[str]] = {}
        for item in self.items.values():
            if item.what:
                result.setdefault(item.what, []).append(item.name)
        return result

    def keep_unknown(self) -> None:
        """Take what no table knows into the result, under the name and in the layout that it has."""
        for name, why in self.unknown:
            if name in self.items:
                raise WeightsError(
                    f"{self.checkpoint.path}: {name!r} is unknown ({why}) and cannot be kept under its own name, which "
                    "another tensor of the result has. Leave it out."
                )
            self.items[name] = self._item(name, Way(name, name, IDENTITY))
        self.unknown = []

    def drop_unknown(self) -> None:
        """Leave out what no table knows; it is listed among what was dropped."""
        self.dropped += [(name, f"left out as asked: {why}") for name, why in self.unknown]
        self.unknown = []

    def refuse_unknown(self, remedy: str) -> None:
        """Raise `WeightsError`, which names them, if there are any; `remedy` ends the message."""
        if not self.unknown:
            return
        whys = dict.fromkeys(why for _, why in self.unknown)
        lists = [f"{why}: {', '.join(fold(name for name, other in self.unknown if other == why))}" for why in whys]
        raise WeightsError(
            f"{self.checkpoint.path}: {len(self.unknown)} name(s) have no counterpart: {'; '.join(lists)}. {remedy}"
        )

    def read(self, name: str) -> torch.Tensor:
        """The tensor `name` of the result, in the file's dtype. It may be a view of the mapped file: use it at once.

        Raises:
            WeightsError, OSError: as `Checkpoint.read`.
        """
        item = self.items[name]
        tensor, left = self._held.pop(item.hf, (None, item.way.parts))
        if tensor is None:
            tensor = self._in_hf(item)
        if left > 1:
            self._held[item.hf] = (tensor, left - 1)
        return item.way.apply(tensor)

    def pending(self, dtype: torch.dtype | None = None) -> dict[str, Pending]:
        """All of them, to be read when they are written: what `save_checkpoint` takes.

        Args:
            dtype: of the floating-point tensors; default: the file's. A finite number that would become infinite is a
                `WeightsError` when its turn comes.
        """
        result = {}
        for name, item in self.items.items():
            stored = dtype if dtype is not None and item.dtype.is_floating_point else item.dtype
            result[name] = Pending(item.shape, stored, functools.partial(self._fitting, name, stored))
        return result

    def _fitting(self, name: str, dtype: torch.dtype) -> torch.Tensor:
        tensor = self.read(name)
        if dtype != tensor.dtype and overflows(tensor, dtype):
            kind = str(dtype).removeprefix("torch.")
            raise WeightsError(
                f"{self.checkpoint.path}: {name} holds numbers beyond the largest of {kind}, "
                f"{torch.finfo(dtype).max:g}, which would become infinite. Choose another dtype."
            )
        return tensor

    def _in_hf(self, item: Item) -> torch.Tensor:
        if not item.sources:
            return torch.zeros(self._shapes[item.hf], dtype=item.dtype)
        source = self._plan.sources.get(item.hf)
        # What is changed is copied: from the mapped file, so that no other copy is in memory beside it.
        changed = bool((source and source.op.text) or item.way.op.text)

        def read(name: str) -> torch.Tensor:
            mapped = changed and self.checkpoint.can_map(name)
            return self.checkpoint.read_mapped(name) if mapped else self.checkpoint.read(name)

        return self._plan.numbers(source.name, read) if source else read(item.hf)

    def _plain(self, hf: str) -> torch.Tensor:
        """The tensor under Hugging Face's name."""
        return self._in_hf(self._item(hf, Way(hf, hf, IDENTITY)))

    def _item(self, hf: str, way: Way) -> Item:
        source = self._plan.sources.get(hf)
        sources = self._plan.parts(source.name) if source else () if hf in self._plan.zeros else (hf,)
        # A bias that the file lacks is stored as the weight beside it.
        first = sources[0] if sources else self._item(hf.removesuffix("bias") + "weight", way).sources[0]
        words = [f"{len(sources)} joined"] if len(sources) > 1 else [] if sources else ["0: its program has none"]
        words += [op.text for op in (source.op if source else IDENTITY, way.op) if op.text]
        if way.parts > 1:
            words.append(f"part {way.part + 1} of {way.parts}")
        shape = self._shapes.get(hf, self.checkpoint[first].shape)
        return Item(way.target, hf, sources, way.shape(shape), self.checkpoint[first].dtype, ", ".join(words), way)


def open_source(path: str | os.PathLike[str]) -> Checkpoint:
    """Open what a command was given: a folder, a file, a TensorFlow checkpoint, or a name in the hub's cache.

    Raises:
        FileNotFoundError, WeightsError, OSError: as `at_hand` (never a download) and `open_checkpoint`.
    """
    is_here = os.fspath(path) and os.path.lexists(Path(path).expanduser())
    return open_checkpoint(path if is_here else bundle_index(path) or at_hand(path))


def translate(
    checkpoint: Checkpoint, dialect: Dialect | str | None = None, *, into: str = HF, num_heads: int | None = None
) -> Translation:
    """Decide what every tensor of a checkpoint becomes under the names of `into`.

    Only headers are read, except where two names may be two of one weight, or a name may be left out only if its
    numbers are 0.

    Args:
        checkpoint: open; it must stay open as long as the result is used.
        dialect: whose names the file has; default: what its names say (`tables.recognise`).
        into: whose names are wanted; default: Hugging Face's.
        num_heads: the number of attention heads, if `into` keeps each head apart; default: what the layout of the file
            or the config.json beside it says.

    Raises:
        WeightsError: two names of the file become one and hold other numbers; numbers that would be lost; weights that
            were changed in a way that cannot be undone.
        WrongCall: an unknown dialect (lists those that exist); `num_heads` is needed, or has no effect.
    """
    table = _known(into)
    back = table.back()
    dialect = _known(dialect) if isinstance(dialect, str) else dialect
    shapes = own_targets(checkpoint, dialect)
    made = plan(checkpoint, shapes, dialect=dialect)
    result = Translation(checkpoint, made.dialect, made.reason, into, dropped=list(made.dropped))
    result._plan, result._shapes = made, shapes
    result.notes = [*checkpoint.notes, *([made.remark] if made.remark else [])]
    result.unknown = [(name, f"the dialect {made.dialect!r} does not know") for name in made.unexpected]
    _check_numbers(result, made)
    if num_heads is not None and not table.keeps_heads_apart:
        raise WrongCall(
            f"num_heads={num_heads} has no effect: the dialect {into!r} does not keep attention heads apart"
        )
    if num_heads is None and table.keeps_heads_apart:
        num_heads = _heads(checkpoint, made, into)
    full = _with_base(shapes, back)
    if any(name != hf for name, hf in full.items()):
        result.notes.append("names of a trunk without its prefix: it was added where the dialect has it")
    known = [name for name in full if back.translate(name)[0] is not None]
    for way in plan_back(known, into, num_heads=num_heads):
        result.items[way.target] = result._item(full[way.source], way)
    for name, hf in full.items():
        tied = full.get(TIES.get(name, ""))
        if name in known:
            continue
        if tied is not None and same_bits(result._plain(hf), result._plain(tied)):
            why = f"the same numbers as {TIES[name]}, and the dialect {into!r} has one name for both"
            result.dropped += [(source, why) for source in made.parts(made.sources[hf].name)]
        else:
            result.unknown.append((hf, f"the dialect {into!r} has no name for"))
    return result


def _check_numbers(result: Translation, made: Plan) -> None:
    """Names that the plan leaves out on a condition: two copies are equal, numbers without a place are 0."""
    for alias, canonical in made.duplicates:
        first, second = (made.numbers(name, result.checkpoint.read) for name in (alias, canonical))
        if not same_bits(first, second):
            raise WeightsError(
                f"{result.checkpoint.path}: {alias!r} and {canonical!r} are two copies of one tensor and hold "
                "different numbers. Remove the wrong one from the file: nothing here can tell which it is."
            )
        result.dropped.append((alias, f"the same numbers as {canonical}"))
    for name in made.must_be_zero:
        if bool(result.checkpoint.read(name).any()):
            why = next(why for dropped, why in made.dropped if dropped == name)
            raise WeightsError(
                f"{result.checkpoint.path}: {name!r} holds numbers other than 0, for which there is no place ({why})."
            )


def _known(name: str) -> Dialect:
    try:
        return tables.named(name)
    except ValueError as error:
        raise WrongCall(str(error)) from None


def _heads(checkpoint: Checkpoint, made: Plan, into: str) -> int:
    """The number of attention heads by the layout of the file, else by the config.json beside it."""
    if len(made.heads) == 1:
        return next(iter(made.heads))
    file = where(checkpoint) / "config.json"
    config = {}
    if is_there(file):
        text = read_text(file, MAX_CONFIG_BYTES, expected="a configuration in JSON")
        try:
            config = json.loads(text)
        except (ValueError, RecursionError) as error:
            remedy = "Repair it, or give the number of heads (num_heads=, --heads)."
            raise problem(file, f"not JSON ({error})", expected="a configuration in JSON", remedy=remedy) from None
    found = [config[key] for key in HEAD_KEYS if key in config] if isinstance(config, dict) else []
    if not found or type(found[0]) is not int or found[0] < 1:
        raise WrongCall(
            f"the dialect {into!r} keeps every attention head apart, and neither the file nor a config.json beside it "
            "says how many there are: give their number (num_heads=, --heads)"
        )
    return found[0]


def _with_base(names: dict[str, Shape], back: Dialect) -> dict[str, str]:
    """Names with the prefix of the trunk as the table has them -> the same without; what has a prefix stays."""
    if any(name.startswith(BASES) for name in names):
        return {name: name for name in names}
    result = {}
    for name in names:
        known = (base + name for base in BASES if not back.knows(name) and back.knows(base + name))
        result[next(known, name)] = name
    return result


def where(checkpoint: Checkpoint) -> Path:
    """The folder that the weights are in, where their config.json is expected."""
    return checkpoint.files[0].parent
