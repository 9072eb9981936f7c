"""From the names in a file to the names of a model: invertible tables, and a plan that accounts for every name.

A `Dialect` is a table of rows "source pattern -> target pattern"; the first row that matches a name decides.
Placeholders:

- `{path}`  nothing, or any text that ends with a dot ("", "bert.", "bert.encoder.layer.0.output.");
- `{rest}`  any text;
- `{layer}` and any other word: a text without dots and slashes ("0", "11", "query").

`plan` applies a table to the names of a checkpoint, adds or removes the base prefix ("bert."), and sorts every name
into exactly one list. Only names decide; a shape is compared, never guessed from. What happens to numbers is in `ops`;
what other programs put around a name is in `wrappers`. `plan_back` and `into_dialect` are the way into another dialect.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch

from weights_tools.common import TensorInfo, WeightsError
from weights_tools.ops import IDENTITY as IDENTITY
from weights_tools.ops import SQUEEZE_FIRST as SQUEEZE_FIRST
from weights_tools.ops import TRANSPOSE as TRANSPOSE
from weights_tools.ops import UNSQUEEZE_FIRST as UNSQUEEZE_FIRST
from weights_tools.ops import Op as Op
from weights_tools.ops import Shape as Shape
from weights_tools.report import fold


@dataclass(frozen=True)
class Row:
    """One line of a dialect.

    Attributes:
        source, target: patterns with the same placeholders; `target=None` drops the name by this rule.
        op: what happens to the tensor.
        why: the reason of a drop (compulsory there), or a remark.
        only_zeros: dropped only if every number is 0, which the caller reads (`Plan.must_be_zero`).
        read_only: an older name that is read but never written: another row has the name that is written.
    """

    source: str
    target: str | None
    op: Op = IDENTITY
    why: str = ""
    only_zeros: bool = False
    read_only: bool = False

    def __post_init__(self) -> None:
        if self.target is None and not self.why:
            raise ValueError(f"the row {self.source!r} drops a name without saying why: give why=")
        if self.target is not None and set(_placeholders(self.source)) != set(_placeholders(self.target)):
            raise ValueError(
                f"the row {self.source!r} -> {self.target!r} has different placeholders: it has no inverse"
            )

    def match(self, name: str) -> str | None:
        """The target name for `name`, "" for a dropped name, None if this row does not speak of it."""
        match = matcher(self.source)(name)
        if match is None:
            return None
        return self.target.format(**match) if self.target is not None else ""


def _placeholders(pattern: str) -> list[str]:
    return re.findall(r"\{(\w+)\}", pattern)


@functools.cache
def matcher(pattern: str) -> Callable[[str], dict[str, str] | None]:
    """Compile a pattern to a function: name -> values of the placeholders, or None."""
    kinds = {"path": r"(?:.+\.)?", "rest": r".*"}
    expression = ""
    for part in re.split(r"(\{\w+\})", pattern):
        if part.startswith("{"):
            word = part[1:-1]
            expression += f"(?P<{word}>{kinds.get(word, '[^./]+')})"
        else:
            expression += re.escape(part)
    compiled = re.compile(expression, re.DOTALL)

    def match(name: str) -> dict[str, str] | None:
        found = compiled.fullmatch(name)
        return found.groupdict() if found else None

    return match


def matching(patterns: Iterable[str], names: Iterable[str], unwrapped: Callable[[str], str] | None = None) -> list[str]:
    """The names that one of the patterns describes, with what is around them taken off by `unwrapped`."""
    matchers = [matcher(pattern) for pattern in patterns]
    bare = ((name, unwrapped(name) if unwrapped else name) for name in names)
    return [name for name, inner in bare if any(match(inner) is not None for match in matchers)]


def invert(rows: Iterable[Row]) -> tuple[Row, ...]:
    """The table from target names back to source names; rows that drop a name or only read it are left out."""
    return tuple(
        Row(row.target, row.source, row.op.reversed(), row.why)
        for row in rows
        if row.target is not None and not row.read_only
    )


def _nothing(names: Iterable[str]) -> str | None:
    return None


def _no_findings(names: Iterable[str], read: Callable[[str], torch.Tensor]) -> list[str]:
    return []


def as_it_is(name: str) -> str:
    """A name without wrappers."""
    return name


@dataclass(frozen=True)
class Join:
    """Tensors that one program keeps apart and Hugging Face holds as one: joined along their first axis, before any op.

    Attributes:
        parts: patterns with the same placeholders, in the order of the joined tensor; of equal sizes.
        whole: the pattern of the name under which the rows speak of all of them. A file that lacks one of the parts has
            no whole: the others are unexpected there.
    """

    parts: tuple[str, ...]
    whole: str


@dataclass(frozen=True)
class Dialect:
    """The names that one program writes.

    Attributes:
        name: what `--dialect` and reports call it.
        rows: the table, first match decides; a name that no row matches is unexpected.
        description: one line for the reader.
        recognise: the reason why these names are of this dialect, or None.
        joins: what is put together before the table is asked.
        unwrapped: a name without what other programs put before and between its parts; the table is asked for this.
        repeats: whether its files hold some tensors twice, in different wrappings: they must be equal then.
        zeros: patterns of target names that are 0 in a file which has none of them: its program computes without. If it
            has one of them, the others are missing.
        remark: what every report of this dialect should mention, or "".
        refuses: the reason why files with such names, though they are of this dialect, cannot be translated, or None.
        look: what the numbers say and the names do not, a sentence each, from the names and a way to read one of them:
            for who reads every number anyway (`inspect --values`).
    """

    name: str
    rows: tuple[Row, ...]
    description: str
    recognise: Callable[[Iterable[str]], str | None]
    unwrapped: Callable[[str], str] = as_it_is
    repeats: bool = False
    zeros: tuple[str, ...] = ()
    remark: str = ""
    joins: tuple[Join, ...] = ()
    refuses: Callable[[Iterable[str]], str | None] = _nothing
    look: Callable[[Iterable[str], Callable[[str], torch.Tensor]], list[str]] = _no_findings

    @property
    def keeps_heads_apart(self) -> bool:
        """Whether its tensors have an axis for the attention heads, so that the way into it needs their number."""
        return any(row.op.reversed().needs_heads for row in self.rows)

    def knows(self, name: str) -> bool:
        """Whether a row or a join speaks of this very name; a row for any name does not count."""
        row = self.translate(name)[1]
        parts = (part for join in self.joins for part in join.parts)
        return (row is not None and row.source != "{rest}") or any(
            matcher(part)(self.unwrapped(name)) for part in parts
        )

    def translate(self, name: str) -> tuple[str | None, Row | None]:
        """(target name, row); target None: dropped by that row; both None: the table does not know the name."""
        name = self.unwrapped(name)
        for row in self.rows:
            target = row.match(name)
            if target is not None:
                return target or None, row
        return None, None

    def drops(self, name: str) -> str:
        """Why a row leaves this name out, "" if none does."""
        row = self.translate(name)[1]
        return row.why if row is not None and row.target is None else ""

    def back(self) -> Dialect:
        """The table from Hugging Face's names to this dialect's; it knows no name that this one drops."""
        return Dialect(self.name, invert(self.rows), self.description, self.recognise)


class Source(NamedTuple):
    """Where a target's numbers come from."""

    name: str
    op: Op


@dataclass
class Plan:
    """What becomes of every name. Each source name is in exactly one of `sources`, `dropped`, `unexpected`,
    `misshapen`, `duplicates`; each target name in exactly one of `sources`, `missing`, `misshapen`, `zeros`.

    Attributes:
        sources: target name -> (source name, op).
        renamed: (source, target) where the dialect changed the name (the base prefix is not counted: `prefix_note`).
        dropped: (source, why).
        missing: target names without a source.
        unexpected: source names that nothing explains.
        misshapen: (target, shape in the file after the op, shape of the model).
        duplicates: (source alias, source canonical): two names for one tied weight, or two copies that the program
            writes, both in the file; the caller reads both (`numbers`) and requires equal bits.
        zeros: target names that the file lacks because its program computes without them: 0, by the dialect's rule.
            They are in none of the other lists.
        joined: name of a whole -> the names of its parts in the file (`Join`). The other lists speak of the whole.
        ops: source name -> what happens to its numbers, for all of `sources` and `duplicates`.
        must_be_zero: those of `dropped` that may be dropped only if every number is 0: the caller reads them.
        heads: number of attention heads -> the first source name that has so many, where the layout of the file says
            so. A merged tensor has the same shape for any number of them: the caller compares with the configuration.
        dialect: the name of the dialect; `reason`: why it was chosen; `remark`: the dialect's own.
        prefix_note: what was done about the base prefix, or "".
    """

    sources: dict[str, Source] = field(default_factory=dict)
    renamed: list[tuple[str, str]] = field(default_factory=list)
    dropped: list[tuple[str, str]] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    misshapen: list[tuple[str, Shape, Shape]] = field(default_factory=list)
    duplicates: list[tuple[str, str]] = field(default_factory=list)
    zeros: list[str] = field(default_factory=list)
    joined: dict[str, tuple[str, ...]] = field(default_factory=dict)
    ops: dict[str, Op] = field(default_factory=dict)
    must_be_zero: list[str] = field(default_factory=list)
    heads: dict[int, str] = field(default_factory=dict)
    dialect: str = ""
    reason: str = ""
    remark: str = ""
    prefix_note: str = ""

    @property
    def fits(self) -> int:
        """How many target tensors have a source of the right shape."""
        return len(self.sources)

    def parts(self, name: str) -> tuple[str, ...]:
        """The names in the file that `name`, of `sources`, stands for: itself, or its parts, in order."""
        return self.joined.get(name, (name,))

    def numbers(self, name: str, read: Callable[[str], torch.Tensor]) -> torch.Tensor:
        """What `name`, of `sources` or `duplicates`, becomes; `read` gives the tensor of one name in the file."""
        pieces = [read(part) for part in self.parts(name)]
        return self.ops[name].apply(pieces[0] if len(pieces) == 1 else torch.cat(pieces))

    def notes(self) -> list[str]:
        """What a report should say beside its lists: the dialect and why, the prefix, what was done to the numbers."""
        notes = [self.prefix_note] if self.prefix_note else []
        # Hugging Face's own names, found in the ordinary way, are nothing to explain.
        if self.dialect not in ("hf", "hf-legacy") or self.reason == CHOSEN:
            notes.append(f"the names are of the dialect {self.dialect!r}: {self.reason}")
        done: dict[str, list[str]] = {}
        for target, source in self.sources.items():
            if source.op.text:
                done.setdefault(source.op.text, []).append(target)
        notes += [f"{text}: {', '.join(fold(targets))}" for text, targets in done.items()]
        if self.zeros:
            notes.append(
                f"0, because the file has none of them and its program computes without: {', '.join(fold(self.zeros))}"
            )
        return [*notes, self.remark] if self.remark else notes


@dataclass
class _Candidate:
    source: str
    mapped: str  # the name that the dialect gives, before the base prefix is added or removed
    op: Op
    target: str = ""


def plan(
    source: Mapping[str, TensorInfo] | Mapping[str, Shape],
    target: Mapping[str, Shape],
    *,
    dialect: Dialect | str | None = None,
    base_prefix: str = "",
    other_heads: Sequence[str] = (),
    aliases: Mapping[str, str] | None = None,
    model_name: str = "this model",
) -> Plan:
    """Decide for every name of `source` what it becomes in `target`, and for every target where it comes from.

    Args:
        source: a `Checkpoint`, or name -> shape.
        target: the model's own names and shapes.
        dialect: a `Dialect` or its name; default: the first of `tables.DIALECTS` that recognises the names.
        base_prefix: the attribute under which classes with a head hold the trunk ("bert"), without the dot. It is added
            or removed as a whole where the checkpoint and the model differ; no other prefix is ever guessed.
        other_heads: patterns of names (without base prefix) that sibling classes have and `model_name` may leave
            unused.
        aliases: tied name -> the name it is tied to. The pair counts as one target. An alias in the file beside its
            canonical name is listed in `duplicates`; alone, it is the source of the canonical name; and if `target`
            lists the alias too, it has the canonical name's source.
        model_name: for the reasons of dropped heads.

    Raises:
        WeightsError: two source names (that are not tied) for one target, both are named; or names of a dialect that
            say that the weights were changed in a way that cannot be undone.
        ValueError: an unknown dialect name (lists those that exist).
    """
    table, reason = _dialect(dialect, source)
    if refusal := table.refuses(source):
        raise WeightsError(f"the names are of the dialect {table.name!r} ({reason}), but {refusal}")
    shapes, joined = _join({name: _shape(source[name]) for name in source}, table)
    result = Plan(dialect=table.name, reason=reason, remark=table.remark, joined=joined)
    ties = {alias: canonical for alias, canonical in (aliases or {}).items() if alias in target or canonical in target}
    candidates: list[_Candidate] = []
    for name in shapes:
        mapped, row = table.translate(name)
        if row is None:
            result.unexpected.append(name)
        elif mapped is None and name not in target:
            result.dropped.append((name, row.why))
            result.must_be_zero += [name] if row.only_zeros else []
        else:
            candidates.append(_Candidate(name, name if mapped is None else mapped, row.op))
    known = {*target, *ties, *ties.values()}
    note = _place(candidates, known, base_prefix)
    # Where a table writes the prefix, the file does not have it, and there is nothing to explain.
    if base_prefix and any(item.mapped == table.unwrapped(item.source) for item in candidates):
        result.prefix_note = note
    used = _choose(candidates, known, ties, table, result)
    heads = [pattern for head in other_heads for pattern in (head, f"{base_prefix}.{head}" if base_prefix else head)]
    for item in candidates:
        if item.target in known:
            continue
        if any(matcher(pattern)(item.mapped) is not None for pattern in heads):
            result.dropped.append((item.source, f"weights of a task head that {model_name} does not have"))
        else:
            result.unexpected.append(item.source)
    _compare_shapes(shapes, target, ties, used, result)
    if not any(matcher(pattern)(item.mapped) for pattern in table.zeros for item in candidates):
        result.zeros = [name for name in result.missing if any(matcher(pattern)(name) for pattern in table.zeros)]
        result.missing = [name for name in result.missing if name not in result.zeros]
    return result


def own_targets(
    source: Mapping[str, TensorInfo] | Mapping[str, Shape], dialect: Dialect | str | None = None
) -> dict[str, Shape]:
    """Hugging Face's names and shapes of everything in a file, without a model to compare with: a `target` for `plan`.

    Names that the dialect drops or does not know are left out. A bias that is 0 by the dialect's rule follows its
    weight, and is as long as the weight's last axis (so it is for LayerNorm and for Conv1D, which alone have the rule).

    Raises:
        ValueError: an unknown dialect name (lists those that exist).
    """
    table, _ = _dialect(dialect, source)
    shapes, _ = _join({name: _shape(source[name]) for name in source}, table)
    found: dict[str, Shape] = {}
    for name, shape in shapes.items():
        target, row = table.translate(name)
        if target is not None and row is not None:
            found[target] = row.op.shape(shape)
    zeros = [matcher(pattern) for pattern in table.zeros]
    if any(match(name) for match in zeros for name in found):
        return found
    result: dict[str, Shape] = {}
    for name, shape in found.items():
        result[name] = shape
        bias = name.removesuffix("weight") + "bias"
        if name.endswith(".weight") and any(match(bias) for match in zeros):
            result[bias] = shape[-1:]
    return result


class Way(NamedTuple):
    """How a tensor of another program comes from one of Hugging Face's: `op`, then part `part` of `parts` equal ones.

    `target`, `source`: the other program's name and Hugging Face's.
    """

    target: str
    source: str
    op: Op
    part: int = 0
    parts: int = 1

    def apply(self, tensor: torch.Tensor) -> torch.Tensor:
        """The numbers of `target`, from those of `source`."""
        result = self.op.apply(tensor)
        return result if self.parts == 1 else result.chunk(self.parts)[self.part].clone()

    def shape(self, shape: Shape) -> Shape:
        """The shape of `target`, from that of `source`."""
        result = self.op.shape(shape)
        return result if self.parts == 1 else (result[0] // self.parts, *result[1:])


def plan_back(names: Iterable[str], dialect: Dialect | str, *, num_heads: int | None = None) -> list[Way]:
    """The way of every name into another program's: `into_dialect` without the tensors.

    Args:
        names: Hugging Face's, with the base prefix ("bert.", "transformer."). Of a tied weight the first name; the
            second beside it ("lm_head.weight") for a program that stores both (TransformerLens).
        dialect: a `Dialect` or its name. Wrappers ("module.") are not put on again.
        num_heads: the number of attention heads in the model's configuration, for the dialects that keep each head
            apart (`Dialect.keeps_heads_apart`), and only for these.

    Returns:
        In the order of `names`; a name that the dialect keeps apart has one entry for each part, one after another.

    Raises:
        ValueError: an unknown dialect name (lists those that exist); `num_heads` missing, without effect or no number.
        WeightsError: a name that the dialect has no counterpart for.
    """
    table, _ = _dialect(dialect, ())
    if table.keeps_heads_apart != (num_heads is not None):
        raise ValueError(
            f"the dialect {table.name!r} keeps every attention head apart, and a shape does not say how many "
            "there are: pass num_heads= (num_attention_heads or n_head in the configuration)."
            if num_heads is None
            else f"num_heads={num_heads} has no effect: the dialect {table.name!r} does not keep attention heads apart."
        )
    if num_heads is not None and (type(num_heads) is not int or num_heads < 1):
        raise ValueError(f"num_heads={num_heads!r}: expected the number of attention heads, 1 or more.")
    back = table.back()
    ways: list[Way] = []
    for name in names:
        target, row = back.translate(name)
        if target is None or row is None:
            raise WeightsError(
                f"{name}: the dialect {table.name!r} has no name for it ({table.description}). Leave the tensor out, "
                "or choose another dialect."
            )
        parts = _parts_of(target, table)
        op = row.op.for_heads(num_heads)
        ways += [Way(part, name, op, index, len(parts)) for index, part in enumerate(parts)]
    return ways


def into_dialect(
    tensors: Mapping[str, torch.Tensor], dialect: Dialect | str, *, num_heads: int | None = None
) -> dict[str, torch.Tensor]:
    """The same weights under the names and in the layout of another program: the way back of `plan`.

    Args:
        tensors: as the names of `plan_back`.
        dialect, num_heads: as for `plan_back`.

    Returns:
        The dialect's names, in the order of `tensors`; tensors that need no change are the given ones.

    Raises:
        ValueError, WeightsError: as `plan_back`.
    """
    return {way.target: way.apply(tensors[way.source]) for way in plan_back(tensors, dialect, num_heads=num_heads)}


def _parts_of(name: str, table: Dialect) -> list[str]:
    """The names under which the dialect keeps `name`: its parts, or itself."""
    for join in table.joins:
        match = matcher(join.whole)(name)
        if match is not None:
            return [part.format(**match) for part in join.parts]
    return [name]


def _join(shapes: dict[str, Shape], table: Dialect) -> tuple[dict[str, Shape], dict[str, tuple[str, ...]]]:
    """(shapes with each complete set of parts as one entry, name of the whole -> names of its parts)."""
    found: dict[str, dict[int, str]] = {}
    for name in shapes if table.joins else ():
        for join in table.joins:
            for index, pattern in enumerate(join.parts):
                match = matcher(pattern)(table.unwrapped(name))
                if match is not None:
                    # A second name of one part keeps its own name, and is unexpected under it.
                    found.setdefault(join.whole.format(**match), dict.fromkeys(range(len(join.parts)), ""))
                    found[join.whole.format(**match)][index] = found[join.whole.format(**match)][index] or name
    wholes = {
        whole: tuple(parts.values())
        for whole, parts in found.items()
        if all(parts.values()) and len({shapes[name] for name in parts.values()}) == 1 and shapes[parts[0]]
    }
    owner = {name: whole for whole, names in wholes.items() for name in names}
    result: dict[str, Shape] = {}
    for name, shape in shapes.items():
        if name not in owner:
            result[name] = shape
        elif owner[name] not in result:
            result[owner[name]] = (shape[0] * len(wholes[owner[name]]), *shape[1:])
    return result, wholes


CHOSEN = "chosen by the caller"


def _dialect(dialect: Dialect | str | None, names: Iterable[str]) -> tuple[Dialect, str]:
    from weights_tools import tables

    if isinstance(dialect, Dialect):
        return dialect, CHOSEN
    if dialect is not None:
        return tables.named(dialect), CHOSEN
    return tables.recognise(names)


def _place(candidates: list[_Candidate], known: set[str], base_prefix: str) -> str:
    """Fill in `target` of every candidate: its mapped name with the base prefix as the model has it."""
    for item in candidates:
        item.target = item.mapped
    if not base_prefix:
        return ""
    prefix = f"{base_prefix}."
    model_has = any(name.startswith(prefix) for name in known)
    file_has = any(item.mapped.startswith(prefix) for item in candidates)
    if model_has and not file_has:
        added = [item for item in candidates if item.mapped not in known and prefix + item.mapped in known]
        for item in added:
            item.target = prefix + item.mapped
        return f"checkpoint has no '{prefix}' prefix: added to all backbone names" if added else ""
    if file_has and not model_has:
        for item in candidates:
            item.target = item.mapped.removeprefix(prefix)
        return f"checkpoint has the prefix '{prefix}': removed from all backbone names"
    return ""


def _choose(
    candidates: list[_Candidate], known: set[str], ties: Mapping[str, str], table: Dialect, result: Plan
) -> dict[str, _Candidate]:
    """One candidate for each canonical target; the other names of a tied weight become `duplicates`."""
    claims: dict[str, list[_Candidate]] = {}
    for item in candidates:
        if item.target in known:
            claims.setdefault(ties.get(item.target, item.target), []).append(item)
    used = {}
    for canonical, items in claims.items():
        by_target: dict[str, _Candidate] = {}
        for item in items:
            other = by_target.setdefault(item.target, item)
            if other is not item and not (
                table.repeats and table.unwrapped(other.source) == table.unwrapped(item.source)
            ):
                raise WeightsError(
                    f"{item.target} has two sources in the checkpoint, {other.source!r} and {item.source!r}; "
                    "expected one. Remove the wrong one from the file: nothing here can tell which it is."
                )
        first = by_target.get(canonical, items[0])
        used[canonical] = first
        result.duplicates += [(item.source, first.source) for item in items if item is not first]
        result.ops.update((item.source, item.op) for item in items)
    return used


def _compare_shapes(
    source: Mapping[str, Shape],
    target: Mapping[str, Shape],
    ties: Mapping[str, str],
    used: Mapping[str, _Candidate],
    result: Plan,
) -> None:
    for name, expected in target.items():
        item = used.get(ties.get(name, name))
        if item is None:
            result.missing.append(name)
            continue
        if item.mapped != item.source:
            result.renamed.append((item.source, name))
        heads = item.op.heads(source[item.source])
        if heads is not None:
            result.heads.setdefault(heads, result.parts(item.source)[0])
        shape = item.op.shape(source[item.source])
        if shape == tuple(expected):
            result.sources[name] = Source(item.source, item.op)
        else:
            result.misshapen.append((name, shape, tuple(expected)))


def _shape(value: TensorInfo | Shape) -> Shape:
    return value.shape if isinstance(value, TensorInfo) else tuple(value)
