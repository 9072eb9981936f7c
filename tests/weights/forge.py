"""Weights files as no honest program writes them: the raw material of the hostile-file tests."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch


def tensors(seed: int = 0) -> dict[str, torch.Tensor]:
    """A few small tensors of BERT's names."""
    generator = torch.Generator().manual_seed(seed)
    shapes = {
        "embeddings.word_embeddings.weight": (7, 4),
        "encoder.layer.0.attention.self.query.weight": (4, 4),
        "encoder.layer.0.attention.self.query.bias": (4,),
        "encoder.layer.1.attention.self.query.weight": (4, 4),
        "encoder.layer.1.attention.self.query.bias": (4,),
        "pooler.dense.bias": (4,),
    }
    return {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}


def safetensors_bytes(header: Any, data: bytes = b"", *, length: int | None = None) -> bytes:
    """A file from a header (bytes, or a value for JSON) and a body; `length` overrides the header's true length."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(text) if length is None else length).to_bytes(8, "little") + text + data


def torch_bytes(value: Any, *, old: bool = False) -> bytes:
    """What torch.save writes; `old`: in the form before torch 1.6."""
    stream = io.BytesIO()
    torch.save(value, stream, _use_new_zipfile_serialization=not old)
    return stream.getvalue()


def rezip(
    content: bytes,
    *,
    change: Callable[[str, bytes], bytes | None] = lambda name, data: data,
    compression: int = zipfile.ZIP_STORED,
    extra: dict[str, bytes] | None = None,
) -> bytes:
    """The same archive written anew: each record changed (None: left out), compressed, others added."""
    stream = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as source, zipfile.ZipFile(stream, "w", compression) as target:
        for record in source.infolist():
            data = change(record.filename, source.read(record))
            if data is not None:
                target.writestr(record.filename, data)
        for name, data in (extra or {}).items():
            target.writestr(name, data)
    return stream.getvalue()


def write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path
