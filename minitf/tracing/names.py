"""Names of what can be captured or patched; patterns choose among them as in `minitf.patterns`.

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

from collections.abc import Iterable
from dataclasses import dataclass, field

from torch import nn

from minitf.patterns import expand, matches

__all__ = ["ALL", "INSIDE", "Choice", "Names", "key_error", "names"]

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
EMBEDDINGS = ("embeddings_project.output", "embeddings.output", "drop.output")
"""What enters layer 0, the first of these that the trunk has."""


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
                self.aliases.setdefault("embeddings", trunk + name)
        for index in range(len(modules[stack])):  # type: ignore[arg-type]  # a ModuleList
            for alias, inner in RESIDUAL[kind].items():
                name = f"{stack}.{index}.{inner}"
                if alias == "resid_mid" and f"{stack}.{index}.{CROSS_RESIDUAL_MID}" in known:
                    name = f"{stack}.{index}.{CROSS_RESIDUAL_MID}"
                self.aliases[f"layer.{index}.{alias}"] = name

    def choose(self, wanted: str | Iterable[str]) -> list[Choice]:
        """The names that `wanted` asks for.

        Args:
            wanted: "all", a name or a pattern of `minitf.patterns` (`layer.*.resid_post`, `**.probs`,
                `layer.{0,5}.resid_pre`, `layer.{0..5}.resid_pre`), or several.

        Raises:
            ValueError: a name that the model does not have, with the nearest that it has; a pattern that finds nothing,
                or an element of a set that does; no name at all.
            TypeError: not a name.
        """
        patterns = [wanted] if isinstance(wanted, str) else list(wanted)
        if not patterns:
            raise ValueError("no name is given; expected names, patterns, or 'all'.")
        chosen: dict[tuple[str, str], Choice] = {}
        known = dict.fromkeys([*self.names, *self.aliases])
        for given in patterns:
            if not isinstance(given, str):
                raise TypeError(f"{given!r} is a {type(given).__name__}; expected a name or a pattern.")
            if given == ALL:
                chosen.update({(name, ALL): Choice(name, name, ALL) for name in self.names})
                continue
            if given not in known:
                matches(given, known)  # its error says which element of a set finds nothing
            for pattern in expand(given):
                for shown in [pattern] if pattern in known else matches(pattern, known):
                    chosen[shown, pattern] = Choice(shown, self.aliases.get(shown, shown), pattern)
        return list(chosen.values())


class _Quoted(str):
    """A message that KeyError shows as it is, without quotes and escapes."""

    def __repr__(self) -> str:
        return str(self)


def key_error(message: str) -> KeyError:
    """A KeyError whose text reads as it is written."""
    return KeyError(_Quoted(message))


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
        ValueError: `pattern` finds nothing.
    """
    known = Names.of(model)
    found = [choice.shown for choice in known.choose(pattern)]
    return [*found, *known.aliases] if aliases and pattern == ALL else list(dict.fromkeys(found))
