"""A state dict that is in memory already, with the surface of a file: what `from_pretrained(state_dict=...)` reads."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch

from weights_tools.common import TensorInfo, problem


class MemoryFile:
    """The tensors of a mapping; what is read is a copy.

    Args:
        tensors: name -> dense tensor, on any device.
        path: what reports and errors call it.

    Raises:
        TypeError: not a mapping of texts to dense tensors.
    """

    format = "memory"

    def __init__(self, tensors: Mapping[str, torch.Tensor], path: Path = Path("state_dict")) -> None:
        if not isinstance(tensors, Mapping):
            raise TypeError(f"{path} is a {type(tensors).__name__}; expected a mapping of names to tensors")
        for name, tensor in tensors.items():
            dense = isinstance(tensor, torch.Tensor) and tensor.layout is torch.strided and not tensor.is_quantized
            if not isinstance(name, str) or not dense or tensor.device.type == "meta":
                place = f" ({tensor.layout}, {tensor.device})" if isinstance(tensor, torch.Tensor) else ""
                kind = type(tensor).__name__ + place
                raise TypeError(f"{path}: {name!r} is a {kind}; expected a dense torch.Tensor with data")
        self.path = path
        self.notes: list[str] = []
        self.metadata: dict[str, str] = {}
        self.infos = {
            name: TensorInfo(name, tuple(tensor.shape), tensor.dtype, tensor.nbytes, path)
            for name, tensor in tensors.items()
        }
        self._tensors = dict(tensors)

    def read(self, name: str) -> torch.Tensor:
        return self._tensors[name].detach().to("cpu", copy=True).contiguous()

    def read_into(self, name: str, out: torch.Tensor) -> torch.Tensor:
        return out.copy_(self._tensors[name].detach())

    def read_mapped(self, name: str) -> torch.Tensor:
        raise problem(
            self.path, "these tensors are in memory, and no file is mapped", expected="safetensors",
            remedy="Leave mmap out.", tensor=name,
        )  # fmt: skip

    def release(self) -> None:
        """Nothing is held."""

    def close(self) -> None:
        """Nothing is open."""
