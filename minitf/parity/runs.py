"""One call of a model, watched: every value is handed on at the moment it is computed, and none is kept.

So two implementations of any size are compared with the memory of the models and a few tensors: what must be waited for
(the other model's values) goes to a dump on the disk.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from minitf.parity.dump_writer import DumpWriter
from minitf.parity.dumps import PAST, Dump, write_tensor
from minitf.tracing.context import Context
from minitf.tracing.names import Choice, Names

__all__ = ["Call", "Observer", "coarse_names", "in_dtype", "observe", "recorded", "step_by_step", "unknown_name"]

See = Callable[[str, Tensor], "Tensor | None"]
BY_POSITION = ("input_ids", "token_type_ids", "position_ids", "inputs_embeds", "labels")
"""Arguments whose axis 1 are the positions of a call; the attention mask covers the cache too."""
CACHE = "past_key_values"


@dataclass(frozen=True)
class Call:
    """What a model is called with.

    Attributes:
        inputs: keyword arguments of the forward, tensors.
        past_length: so many positions are read in a call before, into the cache; the call that counts reads the rest.
    """

    inputs: Mapping[str, Tensor] = field(default_factory=dict)
    past_length: int = 0

    def check(self, model: nn.Module) -> None:
        """Raises: ValueError: the model's forward does not take these arguments, or there is nothing left to read."""
        if not self.inputs:
            raise ValueError(
                "there are no inputs to run the reference on: put input_ids (and attention_mask ...) into the dump, or "
                "give inputs (--inputs FILE, --text TEXT)."
            )
        known = inspect.signature(type(model).forward).parameters
        open_ended = any(parameter.kind is parameter.VAR_KEYWORD for parameter in known.values())
        for name in self.inputs:
            if name not in known and not open_ended:
                raise ValueError(
                    f"the inputs hold {name!r}, which {type(model).__name__}.forward does not take; leave it out, or "
                    "compare with the class that takes it (config.json, architectures)."
                )
        length = self.length
        if not 0 <= self.past_length < max(length, 1):
            raise ValueError(f"{PAST} = {self.past_length}: expected 0 ... {length - 1}, the inputs have {length}.")

    @property
    def length(self) -> int:
        """Positions of both calls together."""
        if "input_ids" in self.inputs:
            return int(self.inputs["input_ids"].shape[-1])
        return int(self.inputs["inputs_embeds"].shape[-2]) if "inputs_embeds" in self.inputs else 0

    def parts(self, model: nn.Module) -> list[dict[str, Any]]:
        """The arguments of each call, floating-point ones in the model's dtype, all on its device."""
        first = next(model.parameters())
        given: dict[str, Any] = {
            name: value.to(first.device, first.dtype if value.is_floating_point() and name != "labels" else value.dtype)
            for name, value in self.inputs.items()
        }
        if not self.past_length:
            return [given]
        before, after = dict(given), dict(given)
        for name in BY_POSITION:
            if name in given and given[name].dim() > 1:
                before[name], after[name] = given[name][:, : self.past_length], given[name][:, self.past_length :]
        if "attention_mask" in given:
            before["attention_mask"] = given["attention_mask"][:, : self.past_length]
        before.pop("labels", None)
        return [{**before, "use_cache": True}, {**after, "use_cache": True}]


class Observer(Context):
    """Hands each chosen value to `see(name, value)`; what `see` returns takes the value's place if `replaces`.

    Names are those that the caller asked for, so an alias stays one.
    """

    def __init__(self, model: nn.Module, wanted: Sequence[str], see: See, *, replaces: bool = False) -> None:
        super().__init__(model, wanted)
        self.see = see
        self.replaces = replaces
        self._sites: dict[str, list[Choice]] = {}
        for choice in self.choices:
            # GPT-2's residual stream is read twice, by ln_2 and by the block's own sum: replace it for both.
            both = choice.name.removesuffix("ln_2.input") + "resid_mid"
            site = both if replaces and both in self.names.names else choice.name
            self._sites.setdefault(site, []).append(choice)

    def sites(self) -> Mapping[str, list[Choice]]:
        return self._sites

    def takes_part(self, name: str) -> bool:
        return self.replaces and self.wants(name)

    def look(self, name: str, tensor: Tensor) -> Tensor:
        for choice in self._sites[name]:
            new = self.see(choice.shown, tensor)
            if self.replaces and new is not None:
                tensor = new.to(tensor)
        return tensor


def observe(model: nn.Module, call: Call, names: Iterable[str], see: See, *, replaces: bool = False) -> None:
    """Run the model in evaluation mode and without gradients; `see` gets each value, the fields of the output last.

    Args:
        names: those of `minitf.tracing`, patterns too, and of fields of the output: `logits`, `hidden_states.3`. What
            the call does not compute is not seen; that is for the caller to notice.
        replaces: what `see` returns for a name of a module goes on in its place.
    """
    known = Names.of(model)
    modules, fields = split_names(known, names)
    states = any(name.startswith("hidden_states") for name in fields)
    *before, last = call.parts(model)
    options: dict[str, Any] = {"return_dict": True} | ({"output_hidden_states": True} if states else {})
    with torch.no_grad(), evaluating(model):
        for part in before:
            last[CACHE] = model(**part, return_dict=True)[CACHE]
        if modules:
            context = Observer(model, modules, see, replaces=replaces)
            context.install()
            try:
                output = model(**last, **options)
            finally:
                context.remove()
        else:
            output = model(**last, **options)
    for name, value in output_fields(output):
        if name in fields:
            see(name, value)


def split_names(known: Names, names: Iterable[str]) -> tuple[list[str], list[str]]:
    """(names or patterns of what modules compute, names that can only be fields of the output)."""
    exact = {*known.names, *known.aliases}
    modules = [name for name in names if name in exact or name == "all" or set("*?[{") & set(name)]
    chosen = set(modules)
    return modules, [name for name in names if name not in chosen]


def output_fields(output: Any) -> Iterator[tuple[str, Tensor]]:
    """Every tensor of an output object by name; entries of a tuple are `hidden_states.0`, `.1` ..."""
    for name, value in output.items():
        if isinstance(value, Tensor):
            yield name, value
        elif isinstance(value, tuple) and name != CACHE:
            yield from ((f"{name}.{index}", part) for index, part in enumerate(value) if isinstance(part, Tensor))


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode inside; each module's own mode afterwards."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


@contextmanager
def recorded(
    model: nn.Module, call: Call, names: Iterable[str], path: Path, instead: See | None = None
) -> Iterator[Dump]:
    """The values of one call as a dump at `path`.

    Args:
        instead: what the model goes on with in place of a value, once it is written; None = as it is.
    """
    with DumpWriter(path) as writer:
        seen: set[str] = set()

        def see(name: str, value: Tensor) -> Tensor | None:
            # A module that runs twice in a call (weights shared between layers) is compared at its first run.
            if name not in seen:
                seen.add(name)
                write_tensor(writer, name, value)
            return None if instead is None else instead(name, value)

        observe(model, call, names, see, replaces=instead is not None)
    with Dump(path) as dump:
        yield dump


def in_dtype(model: nn.Module, dtype: torch.dtype) -> nn.Module:
    """The model itself if it has this dtype, else a copy that computes in it."""
    kinds = {parameter.dtype for parameter in model.parameters()}
    return model if kinds == {dtype} else _copied(model, lambda value: value.to(dtype, copy=True))


def step_by_step(model: nn.Module) -> nn.Module:
    """The model, or a copy on the same weights, that computes attention by `eager`: the fused kernel has no scores, nor
    their NaN."""
    if getattr(getattr(model, "config", None), "attn_implementation", None) != "sdpa":
        return model
    eager = _copied(model, lambda value: value)
    config: Any = eager.config
    config.attn_implementation = "eager"
    return eager


def _copied(model: nn.Module, change: Callable[[Tensor], Tensor]) -> nn.Module:
    """A copy whose floating-point parameters and buffers are `change(those of the model)`, so that no weight is in the
    memory in one form more than is needed."""
    changed: dict[int, Any] = {}
    for tensor in [*model.parameters(), *model.buffers()]:
        value = change(tensor.detach()) if tensor.is_floating_point() else tensor.detach()
        is_parameter = isinstance(tensor, nn.Parameter)
        changed[id(tensor)] = nn.Parameter(value, tensor.requires_grad) if is_parameter else value
    return copy.deepcopy(model, changed)


def coarse_names(model: nn.Module) -> list[str]:
    """Outputs of the layers and of what stands before and after them, in the order of the module tree."""

    def outputs(module: nn.Module, path: str) -> Iterator[str]:
        for name, child in module.named_children():
            below = f"{path}.{name}" if path else name
            if any(isinstance(part, nn.ModuleList) for part in child.modules()):
                yield from outputs(child, below)
            else:
                yield f"{below}.output"

    return list(outputs(model, ""))


def unknown_name(name: str, known: Iterable[str], where: str, remedy: str) -> ValueError:
    """The error for a name that the reference does not have."""
    near = get_close_matches(name, list(known), n=2, cutoff=0.5)
    hint = f"; near names are {' and '.join(near)}" if near else ""
    return ValueError(f"{where} {name!r}, which the reference does not compute{hint}. {remedy}")
