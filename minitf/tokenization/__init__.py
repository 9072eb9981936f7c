"""Text to ids and back. Public names resolve on first use; nothing here imports torch before a tensor is asked for."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

_HOMES = {
    "BertTokenizer": "minitf.tokenization.fast",
    "BatchEncoding": "minitf.tokenization.batch",
}

__all__ = ["BatchEncoding", "BertTokenizer"]

if TYPE_CHECKING:
    from minitf.tokenization.batch import BatchEncoding as BatchEncoding
    from minitf.tokenization.fast import BertTokenizer as BertTokenizer


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'minitf.tokenization' has no attribute {name!r}; it has {', '.join(__all__)}")
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
