"""What every container shares: the description of one tensor, and exact reads."""

from __future__ import annotations

import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import torch

from weights_tools.regular import DOWNLOAD_AGAIN as DOWNLOAD_AGAIN
from weights_tools.regular import WeightsError as WeightsError
from weights_tools.regular import open_regular as open_regular
from weights_tools.regular import problem as problem
from weights_tools.regular import shown as shown

LARGE = 2**21  # bytes from which a second thread is worth its start


@dataclass(frozen=True)
class TensorInfo:
    """One tensor as its file describes it; nothing of its data has been read.

    `nbytes` counts the tensor's own elements; `file` is the file (the shard) that holds it.
    """

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    nbytes: int
    file: Path


def listed(names: Iterable[object], limit: int = 8) -> str:
    """The first few names, and how many more there are."""
    every = list(names)
    text = ", ".join(shown(name, 100) for name in every[:limit])
    return text if len(every) <= limit else f"{text} and {len(every) - limit} more"


def readable_size(nbytes: int) -> str:
    """1234567 -> "1.2 MB" (decimal units, as file listings and the hub use)."""
    size = float(nbytes)
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"


def read_exactly(file: BinaryIO, offset: int, target: memoryview, path: Path, tensor: str | None = None) -> None:
    """Fill `target` with the bytes at `offset`; a file that ends early is an error, never a short result.

    What is large is read in two halves at once: to make fresh pages of memory is half of the work.
    """
    at_places = hasattr(os, "preadv")
    if at_places and len(target) >= LARGE:
        half = len(target) // 2
        with ThreadPoolExecutor(1) as thread:
            rest = thread.submit(_read_at, file.fileno(), offset + half, target[half:])
            done = _read_at(file.fileno(), offset, target[:half]) + rest.result()
    else:
        done = _read_at(file.fileno(), offset, target) if at_places else _read_on(file, offset, target)
    if done < len(target):
        raise problem(
            path,
            f"the file ends {len(target) - done} bytes too early",
            expected=f"{len(target)} bytes at offset {offset}",
            remedy="The file was cut off, or it changed while it was being read. " + DOWNLOAD_AGAIN,
            tensor=tensor,
        )


def _read_at(descriptor: int, offset: int, target: memoryview) -> int:
    done = 0
    while done < len(target) and (count := os.preadv(descriptor, [target[done:]], offset + done)):
        done += count
    return done


def _read_on(file: BinaryIO, offset: int, target: memoryview) -> int:
    """The same where the system cannot read at a place (Windows)."""
    file.seek(offset)
    done = 0
    while done < len(target) and (count := file.readinto(target[done:])):  # type: ignore[attr-defined]
        done += count
    return done


class UnchangedFile:
    """An open file and what it looked like when it was opened, to notice that somebody rewrote it meanwhile."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.file = open_regular(path)
        self._seen = self._look()
        self.size = self._seen[0]

    def _look(self) -> tuple[int, int]:
        status = os.fstat(self.file.fileno())
        return status.st_size, status.st_mtime_ns

    def check(self) -> None:
        """Raise `WeightsError` if size or modification time are no longer those of the opening."""
        now = self._look()
        if now != self._seen:
            raise problem(
                self.path,
                f"the file changed after it was opened ({self._seen[0]} bytes then, {now[0]} bytes now)",
                expected="a file that stays as it is while it is read",
                remedy="Wait until whoever writes it has finished, then load again.",
            )

    def close(self) -> None:
        self.file.close()


def same_bits(first: torch.Tensor, second: torch.Tensor) -> bool:
    """Equal shape, dtype and bits; NaN equals the same NaN."""
    alike = first.shape == second.shape and first.dtype == second.dtype
    return alike and torch.equal(*(tensor.contiguous().reshape(-1).view(torch.uint8) for tensor in (first, second)))


def overflows(tensor: torch.Tensor, dtype: torch.dtype) -> bool:
    """Whether a finite number of `tensor` becomes infinite in `dtype`; a conversion keeps the order of numbers."""
    for block in torch.split(tensor.reshape(-1), 2**22):
        # Few operations exist for 8-bit floats. NaN would hide the extremes, and what is infinite stays so.
        numbers = block if block.dtype.itemsize > 1 else block.to(torch.float32)
        if numbers.numel() and not all(extreme.isfinite() for extreme in numbers.aminmax()):
            numbers = numbers[numbers.isfinite()]
        if numbers.numel() and any(extreme.to(dtype).isinf() for extreme in numbers.aminmax()):
            return True
    return False
