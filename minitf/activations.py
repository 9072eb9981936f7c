"""Activation functions by the names that checkpoints use (`hidden_act`, `activation_function`).

The trap of this file is that "gelu" means two functions:

* **BERT** (Google, 2018) says `gelu` and means the exact one, `x * Phi(x)` with the Gaussian distribution function
  `Phi(x) = (1 + erf(x / sqrt 2)) / 2` (google-research/bert, `modeling.py`; Hendrycks and Gimpel, arXiv:1606.08415).
* **GPT-2** (OpenAI, 2019) says `gelu` in its own code and means the tanh approximation of the same curve
  (openai/gpt-2, `model.py`). In checkpoints that one is called `gelu_new`.

The two differ by at most 4.8e-4, which passes `allclose(1e-3)` and still changes the logits: it is the most common
mistake in ports of these models. Every name is a small `nn.Module` without parameters, because the activation is a
node of the module tree (`encoder.layer.0.intermediate.intermediate_act_fn`) that can be hooked and replaced.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minitf.checks import tracing

__all__ = ["ACT2FN", "get_activation"]


class GELU(nn.Module):
    """`x * Phi(x)`, exact by erf: BERT's "gelu"."""

    def forward(self, x: Tensor) -> Tensor:
        return F.gelu(x)


class GELUPython(nn.Module):
    """The same function as `GELU` written out; differs from torch's kernel in the last bit."""

    def forward(self, x: Tensor) -> Tensor:
        return x * 0.5 * (1.0 + torch.erf(x / math.sqrt(2.0)))


class NewGELU(nn.Module):
    """The tanh approximation written out as OpenAI did: GPT-2's "gelu_new"."""

    def forward(self, x: Tensor) -> Tensor:
        if torch.is_grad_enabled() or tracing():
            return 0.5 * x * (1.0 + torch.tanh(math.sqrt(2.0 / math.pi) * (x + 0.044715 * torch.pow(x, 3.0))))
        # The same operations in the same order, so the same bits, in one buffer instead of eight: most of the time of
        # a long prompt's activation is the fetching of fresh memory.
        inner = torch.pow(x, 3.0).mul_(0.044715).add_(x).mul_(math.sqrt(2.0 / math.pi))
        return inner.tanh_().add_(1.0).mul_(0.5 * x)


class GELUTanh(nn.Module):
    """The tanh approximation by torch's fused kernel: the same curve as `NewGELU`, other roundings, faster."""

    def forward(self, x: Tensor) -> Tensor:
        return F.gelu(x, approximate="tanh")


class FastGELU(nn.Module):
    """The tanh approximation with the constant sqrt(2/pi) rounded to ten digits, as some ports wrote it."""

    def forward(self, x: Tensor) -> Tensor:
        return 0.5 * x * (1.0 + torch.tanh(x * 0.7978845608 * (1.0 + 0.044715 * x * x)))


class QuickGELU(nn.Module):
    """`x * sigmoid(1.702 x)`: the coarsest approximation of the three (Hendrycks and Gimpel, section 2)."""

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(1.702 * x)


class ReLUSquared(nn.Module):
    """`relu(x) ** 2` (Primer, arXiv:2109.08668)."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.square(F.relu(x))


class Linear(nn.Module):
    """The identity: a feed-forward block without a non-linearity."""

    def forward(self, x: Tensor) -> Tensor:
        return x


ACT2FN: dict[str, Callable[[], nn.Module]] = {
    "gelu": GELU,
    "gelu_python": GELUPython,
    "gelu_new": NewGELU,
    "gelu_pytorch_tanh": GELUTanh,
    "gelu_fast": FastGELU,
    "quick_gelu": QuickGELU,
    "relu": nn.ReLU,
    "relu2": ReLUSquared,
    "relu6": nn.ReLU6,
    "leaky_relu": nn.LeakyReLU,
    "sigmoid": nn.Sigmoid,
    "silu": nn.SiLU,
    "swish": nn.SiLU,
    "mish": nn.Mish,
    "tanh": nn.Tanh,
    "linear": Linear,
}
"""Name in a config -> class of the activation. A researcher adds a name by `ACT2FN["mine"] = MyModule`."""


def get_activation(name_or_function: str | Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """The activation of a config value: a new module for a name, a function unchanged.

    Each call makes a new module, so that every layer owns a node of its own in the module tree.

    Raises:
        ValueError: the name is unknown; the message lists the known ones.
    """
    if not isinstance(name_or_function, str):
        return name_or_function
    if name_or_function not in ACT2FN:
        raise ValueError(
            f"activation {name_or_function!r} is not implemented; known: {', '.join(ACT2FN)}. "
            "A function is accepted too, and minitf.activations.ACT2FN takes new names."
        )
    return ACT2FN[name_or_function]()
