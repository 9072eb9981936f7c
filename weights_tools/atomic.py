"""Writing one file so that nobody ever sees half of it. Imports no torch: configurations and tokenizers use it."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO


def write_atomically(path: str | os.PathLike[str], data: bytes | Callable[[BinaryIO], None]) -> None:
    """Write a file so that `path` at every moment is either what it was or all of the new content.

    Args:
        path: the file; its folder must exist. A link is replaced, not followed. Permissions of a file stay as they are.
        data: the bytes, or a function that writes them to the open file it is given.

    Raises:
        OSError: the disk is full, no permission, ...; `path` is then unchanged.
    """
    target = Path(path)
    with temporary_beside(target) as temporary:
        with temporary.open("xb") as file:
            if callable(data):
                data(file)
            else:
                file.write(data)
            file.flush()
            os.fsync(file.fileno())
        keep_permissions(target, temporary)
        temporary.replace(target)
    flush_folder(target.parent)


@contextlib.contextmanager
def temporary_beside(target: Path) -> Iterator[Path]:
    """A fresh name beside `target`; what is left there when the block ends is removed."""
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(4)}.tmp")
    try:
        with full_disk_named(target):
            yield temporary
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def full_disk_named(place: Path) -> Iterator[None]:
    """What the system says of a write to a full disk names no file; here it gets this name."""
    try:
        yield
    except OSError as error:
        if error.filename is None and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            error.filename = os.fspath(place)
        raise


def keep_permissions(present: Path, new: Path) -> None:
    """Give the file `new`, which will replace `present`, its permissions: what was private stays private."""
    if present.is_file() and not present.is_symlink():
        shutil.copymode(present, new)


def flush_folder(folder: Path) -> None:
    """Make renames and removals in `folder` durable (POSIX; Windows offers no such call and needs none)."""
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
