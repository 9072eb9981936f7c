"""Opening a file that must be a regular one, its text, and the error for a file that is wrong. Imports no torch."""

from __future__ import annotations

import os
import stat
import unicodedata
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, BinaryIO


class WeightsError(ValueError):
    """A file that is broken, hostile, or not what it should be.

    The message always holds: the file, the tensor or record (where one is concerned), what was found, what was
    expected, and what to do.
    """


MAX_CONFIG_BYTES = 16_000_000  # the largest published configurations have some hundred kB, all of it label names
DOWNLOAD_AGAIN = "Download or copy the file again and compare its size with the original's."


def shown(name: object, limit: int = 200) -> str:
    """`repr(name)`, shortened: a hostile file may hold names of megabytes, or control characters."""
    text = repr(name)
    return text if len(text) <= limit else f"{text[:limit]}... ({len(text)} characters)"


def escaped(text: str) -> str:
    """`text` with control, format and line-separator characters as escapes, so that no text can steer the terminal."""
    keep = "\u200d"  # the joiner inside emoji sequences
    return "".join(
        char.encode("unicode_escape").decode("ascii")
        if unicodedata.category(char) in ("Cc", "Cf", "Cs", "Zl", "Zp") and char not in keep
        else char
        for char in text
    )


def as_text(lines: Iterable[str]) -> str:
    """The lines of a report as one text; a line break inside a tensor's name makes no line of its own."""
    return "\n".join(map(escaped, lines))


def problem(file: Path, found: str, *, expected: str, remedy: str, tensor: str | None = None) -> WeightsError:
    """A `WeightsError` with all five parts in their fixed order."""
    where = f"{file}: tensor {shown(tensor)}: " if tensor is not None else f"{file}: "
    return WeightsError(f"{where}{found}; expected {expected}. {remedy}")


STAGE = ".save-"  # how the folder of a transaction's files begins (weights_tools.transaction)


def is_there(path: Path) -> bool:
    """Whether anything has this name: also a directory, a pipe, or a link that leads nowhere.

    `Path.is_file` would call all of these absent, and the reader would look for a file that he can see. One kind of
    link that leads nowhere is absent: a transaction's, before it wrote the file or after it removed it.
    """
    if os.path.exists(path):  # noqa: PTH110 (Path.exists raises where a folder on the way cannot be entered)
        return True
    try:
        return not str(path.readlink()).startswith(STAGE)
    except OSError:  # no link: it was not there, and may be now
        return os.path.lexists(path)


def open_regular(path: Path) -> BinaryIO:
    """Open `path` unbuffered for reading; it must be a regular file.

    The file is opened without blocking and only then examined, so that a named pipe that nobody writes to cannot hang
    the program, and so that nothing can be exchanged between the check and the opening.

    Raises:
        WeightsError: a directory, pipe, device or socket.
        OSError: the operating system's own error (missing, no permission), with the path.
    """
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
    try:
        descriptor = os.open(path, flags)
    except IsADirectoryError:
        raise _not_regular(path, "a directory") from None
    except OSError:
        if path.is_socket():  # the one kind that cannot even be opened
            raise _not_regular(path, "a socket") from None
        raise
    mode = os.fstat(descriptor).st_mode
    if not stat.S_ISREG(mode):
        os.close(descriptor)
        kinds = ((stat.S_ISDIR, "a directory"), (stat.S_ISFIFO, "a named pipe"))
        raise _not_regular(path, next((kind for test, kind in kinds if test(mode)), "a device"))
    return os.fdopen(descriptor, "rb", buffering=0)


def _not_regular(path: Path, kind: str) -> WeightsError:
    remedy = "Give the file itself, or the folder that holds it."
    return problem(path, f"this is {kind}", expected="a regular file", remedy=remedy)


def read_text(path: str | os.PathLike[str], limit: int, *, expected: str = "UTF-8 text") -> str:
    """The text of a regular UTF-8 file of at most `limit` bytes; line ends become newlines.

    Args:
        path: the file.
        limit: bytes; what is longer is not read.
        expected: what the file should be, for the messages ("a configuration in JSON").

    Raises:
        FileNotFoundError: nothing has this name, or it is a link that leads nowhere (the message says where to).
        WeightsError: a directory, pipe, device or socket; too long; not UTF-8.
        OSError: the operating system's own error.
    """
    place = Path(path)
    try:
        with open_regular(place) as file:
            # One byte more than allowed: the size that the system states may be outdated when the bytes arrive.
            data = _read(file, limit + 1)
            size = os.fstat(file.fileno()).st_size
    except FileNotFoundError:
        if place.is_symlink():
            missing = f"{place}: this link leads to {place.readlink()}, which does not exist"
            raise FileNotFoundError(f"{missing}; expected {expected}. {DOWNLOAD_AGAIN}") from None
        raise
    if len(data) > limit:
        remedy = "Is it the weights? Give the right file."
        raise problem(place, f"it has {size:,} bytes", expected=f"{expected} of at most {limit:,} bytes", remedy=remedy)
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        found = f"byte {error.object[error.start]:#04x} at offset {error.start} is not UTF-8 text"
        raise problem(place, found, expected=expected, remedy=DOWNLOAD_AGAIN) from None
    return text.replace("\r\n", "\n").replace("\r", "\n")


def unique_keys(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """The `object_pairs_hook` of `json.loads` that refuses a doubled key: one of its two values would be lost.

    Raises:
        ValueError: the message names the first such key.
    """
    result: dict[str, Any] = dict(pairs)
    if len(result) < len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise ValueError(f"the key {shown(key)} stands twice")
            seen.add(key)
    return result


def _read(file: BinaryIO, limit: int) -> bytes:
    parts: list[bytes] = []
    while limit > 0 and (part := file.read(min(limit, 2**24))):
        parts.append(part)
        limit -= len(part)
    return b"".join(parts)
