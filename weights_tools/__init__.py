"""Bytes and names: reading, checking, renaming and writing the weights files that people have. Knows no modules."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from weights_tools.atomic import write_atomically
    from weights_tools.files import (
        Checkpoint,
        TensorInfo,
        WeightsError,
        open_checkpoint,
        parse_size,
        save_checkpoint,
    )
    from weights_tools.hub import resolve
    from weights_tools.mapping import Dialect, Plan, Row, plan
    from weights_tools.report import LoadReport, fold

_HOMES = {
    "atomic": ("write_atomically",),
    "files": (
        "Checkpoint",
        "TensorInfo",
        "WeightsError",
        "open_checkpoint",
        "parse_size",
        "save_checkpoint",
    ),
    "hub": ("resolve",),
    "mapping": ("Dialect", "Plan", "Row", "plan"),
    "report": ("LoadReport", "fold"),
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}

__all__ = [
    "Checkpoint",
    "Dialect",
    "LoadReport",
    "Plan",
    "Row",
    "TensorInfo",
    "WeightsError",
    "fold",
    "open_checkpoint",
    "parse_size",
    "plan",
    "resolve",
    "save_checkpoint",
    "write_atomically",
]


def __getattr__(name: str) -> object:
    """Import a public name when it is first used (PEP 562), so that `--help` does not pay for torch."""
    if name not in _HOME_OF:
        raise AttributeError(f"module 'weights_tools' has no attribute {name!r}")
    return getattr(importlib.import_module(f"weights_tools.{_HOME_OF[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
