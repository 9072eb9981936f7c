"""What an adapter adds to one layer: the mathematics of LoRA and of bottlenecks, and how it is attached.

    LoRA (Hu et al. 2021, arXiv:2106.09685, section 4.1)         y = W x + b  becomes  y + alpha / r * B A dropout(x)
    bottleneck (Houlsby et al. 2019, arXiv:1902.00751, section 2.1)   y       becomes  y + up(gelu(down(y)))

A piece is a child of the layer that it changes, in `layer.adapters`, and a forward hook of the layer applies it. So the
layer, its path and its weights stay what they were: `bert.encoder.layer.0.attention.self.query.weight` has its name,
and beside it there is `...query.adapters.NAME.low.whole.A`.

Dimension letters: B batch, T positions, I inputs, O outputs, R rank.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["Bottleneck", "BottleneckPiece", "Lora", "LoraPiece", "LowRank", "Pieces", "attach", "detach", "layout"]


# --------------------------------------------------------------------------------------------------------------------
# Settings


@dataclass(frozen=True)
class Lora:
    """Low-rank adaptation of linear layers.

    Args:
        r: rank, the number of rows of A. alpha: the update is scaled by alpha / r.
        dropout: probability with which an input of the *update* is dropped while training.
        targets: pattern(s) of the layers (`nn.Linear` or GPT-2's `Conv1D`); None = the architecture's query and value
            layers, as in the paper (section 4.2).
        parts: of a layer that computes query, key and value side by side (`c_attn`), which of them; None = all of it,
            or, where `targets` is None too, ("query", "value").

    Raises:
        ValueError: a number out of range.
    """

    r: int = 8
    alpha: float = 16.0
    dropout: float = 0.0
    targets: str | tuple[str, ...] | None = None
    parts: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        check_number("r", self.r, whole=True)
        check_number("alpha", self.alpha)
        if isinstance(self.dropout, bool) or not isinstance(self.dropout, (int, float)) or not 0 <= self.dropout < 1:
            raise ValueError(f"dropout = {self.dropout!r}: expected a probability, 0 <= dropout < 1.")
        parts: Any = self.parts
        if parts is not None and (isinstance(parts, str) or not parts):
            raise ValueError(f'parts = {parts!r}: expected names in a tuple, such as ("query", "value").')
        freeze(self)


@dataclass(frozen=True)
class Bottleneck:
    """A small feed-forward network behind a part of each layer, with a residual connection around it.

    Args:
        size: width of the bottleneck.
        targets: pattern(s) of the modules whose output is changed; None = the dropout before each residual
            connection of the architecture, two a layer, as in the paper's figure 2.

    Raises:
        ValueError: `size` is no positive integer.
    """

    size: int = 64
    targets: str | tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        check_number("size", self.size, whole=True)
        freeze(self)


def check_number(name: str, value: Any, *, whole: bool = False) -> None:
    kinds = (int,) if whole else (int, float)
    if isinstance(value, bool) or not isinstance(value, kinds) or not 0 < value < math.inf:
        raise ValueError(f"{name} = {value!r}: expected a positive {'integer' if whole else 'number'}.")


def freeze(settings: Lora | Bottleneck) -> None:
    """Lists become tuples, so that settings from a JSON file equal those from Python."""
    for name in ("targets", "parts"):
        if isinstance(getattr(settings, name, None), list):
            object.__setattr__(settings, name, tuple(getattr(settings, name)))


# --------------------------------------------------------------------------------------------------------------------
# Layers


FUSED: dict[str, tuple[str, ...]] = {"c_attn": ("query", "key", "value")}
"""Last name of a layer -> what its outputs are, side by side and equally wide."""
FUSED_CROSS: dict[str, tuple[str, ...]] = {"c_attn": ("key", "value")}
"""The same in attention to an encoder, whose queries come from `q_attn`."""


def layout(layer: nn.Module, path: str) -> tuple[int, int, bool]:
    """(inputs, outputs, whether the weight is stored as `[inputs, outputs]`) of a linear layer.

    By the class, never by the shape: GPT-2's `attn.c_proj` is square. `Conv1D` is known by its name, because minitf and
    transformers have one each.

    Raises:
        TypeError: another kind of layer, or one whose owner uses the weight without calling the layer.
    """
    if type(layer).__name__ == "NonDynamicallyQuantizableLinear":
        fault = "nn.MultiheadAttention reads this layer's weight without calling it, so an adapter would have no effect"
        raise TypeError(f"{path}: {fault}.")
    if isinstance(layer, nn.Linear):
        return layer.in_features, layer.out_features, False
    if any(kind.__name__ == "Conv1D" for kind in type(layer).__mro__):
        convolution: Any = layer
        return convolution.nx, convolution.nf, True
    raise TypeError(f"{path} is a {type(layer).__name__}; LoRA changes nn.Linear and GPT-2's Conv1D.")


def columns(layer: nn.Module, path: str, parts: tuple[str, ...] | None, *, cross: bool) -> dict[str, tuple[int, int]]:
    """Part -> (first, behind the last) of the outputs that it is; `{"whole": (0, outputs)}` without parts.

    Raises:
        ValueError: the layer has no parts, or not these.
    """
    _, outputs, _ = layout(layer, path)
    if parts is None:
        return {"whole": (0, outputs)}
    known = (FUSED_CROSS if cross else FUSED).get(path.rpartition(".")[2])
    if known is None:
        raise ValueError(f"parts = {parts!r}: {path} is one layer, not several side by side; leave parts out.")
    wrong = [part for part in parts if part not in known]
    if wrong or len(set(parts)) < len(parts):
        raise ValueError(f"parts = {parts!r}: {path} has {', '.join(known)}, each to be named once at most.")
    width = outputs // len(known)
    return {part: (known.index(part) * width, (known.index(part) + 1) * width) for part in known if part in parts}


# --------------------------------------------------------------------------------------------------------------------
# Pieces


class LowRank(nn.Module):
    """The matrix `B A`, `[O, I]`, of rank R at most: A random, B zero, so a new one changes nothing.

    A is drawn as the paper's authors do it (`kaiming_uniform_(a=sqrt(5))` in microsoft/LoRA, loralib/layers.py), which
    is uniform within 1 / sqrt(I); the paper itself says Gaussian.
    """

    def __init__(self, inputs: int, outputs: int, r: int, like: Tensor) -> None:
        super().__init__()
        self.A = nn.Parameter(torch.empty(r, inputs, dtype=like.dtype, device=like.device))
        self.B = nn.Parameter(torch.zeros(outputs, r, dtype=like.dtype, device=like.device))
        nn.init.uniform_(self.A, -1 / math.sqrt(inputs), 1 / math.sqrt(inputs))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(F.linear(x, self.A), self.B)  # [B, T, O]


class LoraPiece(nn.Module):
    """LoRA of one layer.

    Args:
        path: of the layer, for messages. columns: see the function of that name.
    """

    def __init__(self, layer: nn.Module, path: str, settings: Lora, columns: dict[str, tuple[int, int]]) -> None:
        super().__init__()
        weight: Any = layer.weight
        self.inputs, self.outputs, self.transposed = layout(layer, path)
        smallest = min(self.inputs, *(end - start for start, end in columns.values()))
        if settings.r > smallest:
            raise ValueError(f"r = {settings.r}: the update of {path} has at most rank {smallest}; choose a smaller r.")
        self.path, self.active, self.columns = path, True, columns
        self.scale = settings.alpha / settings.r
        self.dropout = nn.Dropout(settings.dropout)
        self.low = nn.ModuleDict(
            {part: LowRank(self.inputs, end - start, settings.r, weight) for part, (start, end) in columns.items()}
        )

    def check_sizes(self, inputs: int, outputs: int) -> None:
        """The layer still has the sizes that it had when the adapter was added.

        Raises:
            RuntimeError: it was pruned or resized.
        """
        if (inputs, outputs) != (self.inputs, self.outputs):
            raise RuntimeError(
                f"{self.path} had {self.inputs} inputs and {self.outputs} outputs when the adapter was added, and has "
                f"{inputs} and {outputs} now: merge or delete adapters before pruning or resizing."
            )

    def forward(self, x: Tensor, output: Tensor) -> Tensor:
        self.check_sizes(x.shape[-1], output.shape[-1])
        x = self.dropout(x)
        if "whole" in self.low:
            update: Tensor = self.low["whole"](x) * self.scale  # [B, T, O]
            return output + update
        pieces, here = [], 0
        for part, (start, end) in self.columns.items():  # outputs between the parts keep their bits
            pieces += [output[..., here:start], output[..., start:end] + self.low[part](x) * self.scale]
            here = end
        return torch.cat([*pieces, output[..., here:]], dim=-1)  # [B, T, O]

    @torch.no_grad()
    def delta(self) -> Tensor:
        """`alpha / r * B A` as float64, in the layout of the layer's weight, 0 in the parts that are not adapted."""
        weight = next(self.parameters())
        delta = torch.zeros(self.outputs, self.inputs, dtype=torch.float64, device=weight.device)
        for part, (start, end) in self.columns.items():
            low: Any = self.low[part]
            delta[start:end] = self.scale * (low.B.double() @ low.A.double())
        return delta.t() if self.transposed else delta


class BottleneckPiece(nn.Module):
    """`y + up(gelu(down(y)))` of one module's output.

    The paper draws both matrices close to 0, so that a new adapter nearly is the identity (section 2.1). Here `up`
    starts at 0, so it is the identity exactly; `down` has the paper's standard deviation of 0.01. GELU is the
    authors' activation (google-research/adapter-bert, modeling.py).
    """

    def __init__(self, path: str, settings: Bottleneck, width: int, like: Tensor) -> None:
        super().__init__()
        self.path, self.active, self.width = path, True, width
        self.down = nn.Linear(width, settings.size, dtype=like.dtype, device=like.device)
        self.up = nn.Linear(settings.size, width, dtype=like.dtype, device=like.device)
        nn.init.trunc_normal_(self.down.weight, std=0.01, a=-0.02, b=0.02)
        for parameter in (self.down.bias, self.up.weight, self.up.bias):
            nn.init.zeros_(parameter)

    def forward(self, x: Tensor, output: Tensor) -> Tensor:
        if not isinstance(output, Tensor) or output.shape[-1] != self.width:
            found = f"{output.shape[-1]} wide" if isinstance(output, Tensor) else f"a {type(output).__name__}"
            needed = f"a bottleneck here needs a tensor {self.width} wide: choose another module as its target"
            raise RuntimeError(f"{self.path} returns an output that is {found}; {needed}.")
        added: Tensor = self.up(F.gelu(self.down(output)))  # [B, T, O]
        return output + added


class Pieces(nn.ModuleDict):
    """The pieces of one layer, by the adapter's name, and the hook that applies those that are active, in order."""

    not_saved = (
        "has adapters, which no plain checkpoint holds: surgery.merge(model) puts LoRA into the weights, "
        "surgery.save_adapter saves an adapter alone, surgery.delete_adapter removes it."
    )
    handle: torch.utils.hooks.RemovableHandle


def apply_pieces(layer: Any, inputs: tuple[Any, ...], output: Any) -> Any:
    """The forward hook."""
    for piece in layer.adapters.values():
        if piece.active:
            if not inputs:
                raise RuntimeError(f"{piece.path} is called with its input as a keyword, which adapters do not see.")
            output = piece(inputs[0], output)
    return output


def attach(layer: nn.Module, name: str, piece: nn.Module) -> None:
    """Add a piece under the adapter's name; the first one brings the hook."""
    holder: Any = layer
    if not isinstance(getattr(layer, "adapters", None), Pieces):
        holder.adapters = Pieces()
        holder.adapters.handle = layer.register_forward_hook(apply_pieces)
    holder.adapters[name] = piece
    piece.train(layer.training)


def detach(layer: nn.Module, name: str) -> nn.Module:
    """Take a piece away and return it; the last one takes the hook with it."""
    holder: Any = layer
    piece: nn.Module = holder.adapters.pop(name)
    if not holder.adapters:
        holder.adapters.handle.remove()
        del holder.adapters
    return piece
