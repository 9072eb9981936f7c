"""What every container shares: the description of one tensor, exact reads, and what a file is by its first bytes."""

from __future__ import annotations

import codecs
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import torch

from weights_tools.regular import DOWNLOAD_AGAIN as DOWNLOAD_AGAIN
from weights_tools.regular import WeightsError as WeightsError
from weights_tools.regular import open_regular as open_regular
from weights_tools.regular import problem as problem
from weights_tools.regular import shown as shown


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
    """Fill `target` with the bytes at `offset`; a file that ends early is an error, never a short result."""
    file.seek(offset)
    done = 0
    while done < len(target):
        count = file.readinto(target[done:])  # type: ignore[attr-defined]
        if not count:
            raise problem(
                path,
                f"the file ends {len(target) - done} bytes too early",
                expected=f"{len(target)} bytes at offset {offset}",
                remedy="The file was cut off, or it changed while it was being read. " + DOWNLOAD_AGAIN,
                tensor=tensor,
            )
        done += count


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


def what_is_it(head: bytes, size: int) -> str:
    """What a file is by its first bytes: a key of the containers ("safetensors", "zip", "stream") or a description.

    A description contains a space, a key does not.
    """
    if size == 0:
        return "an empty file"
    # First, because its first four bytes (the length of the header) may look like the beginning of anything.
    if head[8:9] == b"{" and head[4:8] == b"\0\0\0\0":
        return "safetensors"
    if head.startswith(b"version https://git-lfs"):
        return "a Git-LFS pointer, not the file it points to"
    if head.startswith(b"PK\x03\x04"):
        return "zip"
    if head.startswith(b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."):
        return "stream"
    if head[257:262] == b"ustar" or head.startswith(b"storages\x00"):
        return "a tar archive (weights of torch before 0.1.10 look like this)"
    if head.startswith(b"\x89HDF"):
        return "an HDF5 file (TensorFlow or Keras weights)"
    if head.startswith(b"\x1f\x8b"):
        return "a gzip archive"
    if head.startswith(b"\x93NUMPY"):
        return "a single NumPy array"
    if head[:1] == b"\x80" and head[1:2] in b"\x00\x01\x02\x03\x04\x05" and len(head) > 2:
        return "a bare Python pickle, which may run any program when opened (it was not opened)"
    start = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if start.startswith((b"<!doctype", b"<html", b"<?xml", b"<head")):
        return "an HTML or XML page (a download that went to a web page)"
    if not _is_text(head, cut=size > len(head)):
        return "a file of unknown kind"
    return "a JSON file" if JSON_START.match(head) else "a text file"


# A brace or bracket alone is not enough: many vocabularies begin with the line [PAD].
JSON_START = re.compile(rb"(?:\xef\xbb\xbf)?\s*(?:\{\s*(?:\"|\}\s*\Z)|\[\s*(?:[\[\]{\"\d-]|true|false|null))")


def _is_text(head: bytes, *, cut: bool) -> bool:
    """Whether `head` is UTF-8 without control characters; `cut`: its last character may be incomplete."""
    try:
        text = codecs.getincrementaldecoder("utf-8")().decode(head, final=not cut)
    except UnicodeDecodeError:
        return False
    return all((char >= " " and char != "\x7f") or char in "\t\r\n" for char in text)


REMEDIES = {
    "a Git-LFS pointer": "Run `git lfs pull` in the repository it came from, or download the file from its web page.",
    "an HTML": "Download the file itself (on the hub: the `resolve` address, not the `blob` page).",
    "an empty": DOWNLOAD_AGAIN,
    "a tar": "Open it with the program that wrote it and save it again with torch.save(model.state_dict(), path).",
    "an HDF5": "Convert it to safetensors with TensorFlow first.",
    "a gzip": "Unpack it first.",
    "a bare": "Ask its author for safetensors, or for a file written by torch.save(model.state_dict(), path).",
    "a JSON": "Give the weights file itself, or the folder.",
    "the data": "Give its index (the file beside it that ends with .index), or what their names begin with.",
    "a text": "Give the weights file itself, or the folder; if it was meant to be the weights, download it again.",
}


def not_weights(path: Path, kind: str) -> WeightsError:
    """The error for a file that is something else altogether."""
    remedy = next((text for start, text in REMEDIES.items() if kind.startswith(start)), DOWNLOAD_AGAIN)
    return problem(
        path, f"this is {kind}", expected="weights (safetensors, torch.save, .npz or TensorFlow)", remedy=remedy
    )
