"""Names of what can be captured or patched, and the patterns that choose among them.

    <module path>.input      the first tensor among the arguments of the module's forward, positional ones first
    <module path>.output     its result: the tensor, or the first tensor of a tuple, list, dictionary or output object

and inside attention, where B is the batch, H the heads, T the query positions, S the key positions, D the head size:

    <path>.query             [B, H, T, D]  as the product of scores receives it
    <path>.key               [B, H, S, D]  the same, with what the cache holds; before it is transposed
    <path>.scores            [B, H, T, S]  what the softmax receives: scaled, with bias and mask added
    <path>.probs             [B, H, T, S]  what dropout receives; no key is dropped yet, no head masked
    <path>.value             [B, H, S, D]
    <path>.context           [B, H, T, D]  of each head, before the output projection

In the blocks of GPT-2, which add up the residual stream themselves:

    <path>.resid_mid         [B, T, C]     between attention and feed-forward network: what `ln_2` receives, and what
                                           the feed-forward network's result is added to

Aliases, for a model with one stack of layers in the layout of BERT (`layer`) or GPT-2 (`h`):

    embeddings               [B, T, C]     the input of layer 0
    layer.3.resid_pre        [B, T, C]     the residual stream before layer 3
    layer.3.resid_mid        [B, T, C]     between its attention and its feed-forward network
    layer.3.resid_post       [B, T, C]     after layer 3
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from fnmatch import fnmatchcase

from torch import nn

__all__ = ["ALL", "INSIDE", "Choice", "Names", "expand", "names"]

ALL = "all"
"""In place of names: everything that a call computes, without the aliases."""
INSIDE = ("query", "key", "scores", "probs", "value", "context")
"""What attention modules have, in the order in which it is computed."""
ATTENTION_PATHS = frozenset({"self", "attn", "self_attn", "attention", "crossattention"})
"""Last part of the path of an attention module; where such modules contain each other, the innermost is meant."""
CONTAINERS = (nn.ModuleList, nn.ModuleDict, nn.ParameterList, nn.ParameterDict)
"""Modules without a forward: nothing goes in or comes out."""
RESIDUAL = {
    "layer": {"resid_pre": "input", "resid_mid": "attention.output.output", "resid_post": "output"},
    "h": {"resid_pre": "input", "resid_mid": "resid_mid", "resid_post": "output"},
}
"""Name of the list of layers -> alias -> name inside a layer. BERT's layers normalise after each residual sum, so the
stream between the parts is the output of a module; GPT-2's sum stands in the block itself."""
CROSS_RESIDUAL_MID = "crossattention.output.output"
"""`resid_mid` of a BERT layer with cross-attention."""
EMBEDDINGS = ("embeddings.output", "drop.output")


@dataclass(frozen=True)
class Choice:
    """One requested name.

    Attributes:
        shown: as the caller wrote it or the pattern found it, e.g. `layer.3.resid_post`.
        name: what it stands for, e.g. `bert.encoder.layer.3.output`.
        pattern: the pattern (without sets) that found it; `shown` itself for a plain name.
    """

    shown: str
    name: str
    pattern: str


@dataclass
class Names:
    """All names of a model, in the order of its module tree.

    Attributes:
        names: without aliases.
        aliases: alias -> name.
    """

    names: tuple[str, ...]
    aliases: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, model: nn.Module) -> Names:
        """Read the names off the module tree; nothing is computed."""
        modules = dict(model.named_modules())
        attention = set(attention_paths(modules))
        found: list[str] = []
        leave: list[str] = []  # paths whose output is still to come, outermost first
        for path, module in modules.items():
            while leave and not path.startswith(leave[-1] + "."):
                found.append(f"{leave.pop()}.output")
            if not path or isinstance(module, CONTAINERS):
                continue
            if path.endswith(".ln_2") and path.removesuffix("ln_2") + "mlp" in modules:
                found.append(path.removesuffix("ln_2") + "resid_mid")
            found.append(f"{path}.input")
            leave.append(path)
            if path in attention:
                found += [f"{path}.{what}" for what in INSIDE]
        found += [f"{path}.output" for path in reversed(leave)]
        self = cls(tuple(found))
        self._add_aliases(modules)
        return self

    def _add_aliases(self, modules: dict[str, nn.Module]) -> None:
        stacks = [
            path
            for path, module in modules.items()
            if isinstance(module, nn.ModuleList) and len(module) and path.rpartition(".")[2] in RESIDUAL
        ]
        known = set(self.names)
        stacks = [path for path in stacks if f"{path}.0.{RESIDUAL[path.rpartition('.')[2]]['resid_mid']}" in known]
        if len(stacks) != 1:
            return  # none, or an encoder and a decoder, whose numbers would mean two layers
        stack, kind = stacks[0], stacks[0].rpartition(".")[2]
        trunk = stack.removesuffix("encoder.layer") if kind == "layer" else stack.removesuffix(kind)
        for name in EMBEDDINGS:
            if trunk + name in known:
                self.aliases["embeddings"] = trunk + name
        for index in range(len(modules[stack])):  # type: ignore[arg-type]  # a ModuleList
            for alias, inner in RESIDUAL[kind].items():
                name = f"{stack}.{index}.{inner}"
                if alias == "resid_mid" and f"{stack}.{index}.{CROSS_RESIDUAL_MID}" in known:
                    name = f"{stack}.{index}.{CROSS_RESIDUAL_MID}"
                self.aliases[f"layer.{index}.{alias}"] = name

    def choose(self, wanted: str | Iterable[str]) -> list[Choice]:
        """The names that `wanted` asks for.

        Args:
            wanted: "all", a name or pattern, or several. In a pattern `*` is any text, `?` one character, `{0,5}` and
                `{0..5}` each of these numbers (or texts).

        Raises:
            KeyError: a name that the model does not have (with the nearest that it has), or a pattern that finds
                nothing; each element of a set must find something.
            TypeError, ValueError: not a name, or no name at all.
        """
        patterns = [wanted] if isinstance(wanted, str) else list(wanted)
        if not patterns:
            raise ValueError("no name is given; expected names, patterns, or 'all'.")
        chosen: dict[tuple[str, str], Choice] = {}
        everything = [*self.names, *self.aliases]
        for given in patterns:
            if not isinstance(given, str):
                raise TypeError(f"{given!r} is a {type(given).__name__}; expected a name or a pattern.")
            if given == ALL:
                chosen.update({(name, ALL): Choice(name, name, ALL) for name in self.names})
                continue
            for pattern in expand(given):
                found = [pattern] if not set("*?[") & set(pattern) else _matching(pattern, everything)
                if not found or (found == [pattern] and pattern not in self.aliases and pattern not in set(self.names)):
                    raise KeyError(_unknown(pattern, given, everything))
                for shown in found:
                    chosen[shown, pattern] = Choice(shown, self.aliases.get(shown, shown), pattern)
        return list(chosen.values())


class _Quoted(str):
    """A message that KeyError shows as it is, without quotes and escapes."""

    def __repr__(self) -> str:
        return str(self)


def key_error(message: str) -> KeyError:
    """A KeyError whose text reads as it is written."""
    return KeyError(_Quoted(message))


def _unknown(pattern: str, given: str, known: Sequence[str]) -> str:
    part = f" (from {given!r})" if given != pattern else ""
    if set("*?[") & set(pattern):
        return _Quoted(f"the pattern {pattern!r}{part} finds no name; `minitf.tracing.names(model)` lists them.")
    near = get_close_matches(pattern, known, n=3)
    hint = f"; near names are {', '.join(near)}" if near else "; `minitf.tracing.names(model)` lists them"
    return _Quoted(f"the model has no {pattern!r}{part}{hint}.")


def _matching(pattern: str, names: Iterable[str]) -> list[str]:
    return [name for name in names if fnmatchcase(name, pattern)]


def expand(pattern: str) -> list[str]:
    """`"a.{0,2..4}.b"` -> `["a.0.b", "a.2.b", "a.3.b", "a.4.b"]`; a pattern without sets is returned alone.

    Raises:
        ValueError: a set that is empty, not closed, or counts backwards.
    """
    match = re.search(r"\{([^{}]*)\}", pattern)
    if match is None:
        if "{" in pattern or "}" in pattern:
            raise ValueError(f"{pattern!r} has a brace without its partner; a set is written {{0,5}} or {{0..5}}.")
        return [pattern]
    elements: list[str] = []
    for element in match[1].split(","):
        bounds = re.fullmatch(r"(\d+)\.\.(\d+)", element.strip())
        values = [str(n) for n in range(int(bounds[1]), int(bounds[2]) + 1)] if bounds else [element.strip()]
        if not values or not values[0]:
            raise ValueError(f"{match[0]!r} in {pattern!r} is not a set; expected {{0,5}} or {{0..5}}.")
        elements += values
    before, after = pattern[: match.start()], pattern[match.end() :]
    return [whole for element in elements for whole in expand(before + element + after)]


def attention_paths(modules: dict[str, nn.Module]) -> list[str]:
    """Paths of the attention modules: the innermost whose last part is in `ATTENTION_PATHS`."""
    paths = [path for path in modules if path.rpartition(".")[2] in ATTENTION_PATHS]
    return [path for path in paths if not any(other.startswith(path + ".") for other in paths)]


def names(model: nn.Module, pattern: str | Iterable[str] = ALL, *, aliases: bool = False) -> list[str]:
    """What can be captured or patched in a model, in the order of its module tree.

    The tree says what exists, not what a call computes: `minitf.tracing.outline` makes a small call, and so knows the
    order of execution and the shapes.

    Args:
        model: any module; transformers' own, too.
        pattern: as in `capture`.
        aliases: with "all", list the aliases as well, at the end.

    Raises:
        KeyError: `pattern` finds nothing.
    """
    known = Names.of(model)
    found = [choice.shown for choice in known.choose(pattern)]
    return [*found, *known.aliases] if aliases and pattern == ALL else list(dict.fromkeys(found))
