"""Several files of one folder replaced in one step: a kill at any moment leaves all of the old ones or all of the new.

A rename replaces one file at a time, and a checkpoint is more than one: `config.json`, the weights or their index and
shards, `generation_config.json`. So that every reader, of whatever library, sees either all old or all new files:

1. `.save-TOKEN/new/` receives the new files; nobody reads there.
2. `.save-TOKEN/old/` receives a second name (a hard link) of each file that will be replaced or removed.
3. The link `.save-TOKEN/current` leads to `old`, and each of these names in the folder becomes a link to
   `.save-TOKEN/current/NAME`: its content stays what it was. A name that is new leads nowhere: it is not there yet.
4. `current` is replaced by a link that leads to `new`. This rename is the commit: every name changes at once.
5. Clean-up: each link is replaced by the file that it leads to, or removed if it leads nowhere; `.save-TOKEN` goes.

After a kill the links stay, and lead to whole old or whole new files. The next transaction in the folder does step 5
for them; until then `.save-TOKEN` holds what the links lead to. Two transactions wait for each other: they lock the
folder, and a lock dies with its holder. A file that is replaced keeps its permissions.

A file system without links (FAT, Windows without the right to make them) gets the files one after another, each whole,
in the order in which they were written, and a warning. Imports no torch: configurations and tokenizers use it.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import logging
import os
import secrets
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO, TypeVar

from weights_tools.atomic import flush_folder, full_disk_named, keep_permissions
from weights_tools.regular import STAGE, problem

logger = logging.getLogger("weights_tools.transaction")

OLD, NEW, CURRENT = "old", "new", "current"
TRIES = 8  # so often a reader looks again at files that are wrong beside an unfinished transaction
PATIENCE = 30  # seconds in which a reader waits for writers to leave the files alone while it reads them

Result = TypeVar("Result")


class Transaction:
    """What will change in one folder; see `transaction`."""

    def __init__(self, folder: Path, stage: Path) -> None:
        self.folder = folder
        self._stage = stage
        self._written: dict[str, None] = {}  # an ordered set
        self._removed: dict[str, None] = {}

    def path(self, name: str) -> Path:
        """Where to write the new content of the file `name` (a plain name)."""
        if not name or "/" in name or "\\" in name or name.startswith(STAGE):
            raise ValueError(f"{name!r}: expected the plain name of a file")
        self._written.pop(name, None)
        self._written[name] = None
        return self.staged(name)

    def staged(self, name: str) -> Path:
        """Where the new content of the file `name` is until the transaction ends."""
        return self._stage / NEW / name

    def write(self, name: str, data: bytes | Callable[[BinaryIO], None]) -> None:
        """Give the file `name` this content: bytes, or a function that writes them to the open file it is given."""
        with self.path(name).open("wb") as file:
            if callable(data):
                data(file)
            else:
                file.write(data)

    def remove(self, name: str) -> None:
        """Let there be no file `name` afterwards; nothing happens if there is none."""
        self._removed[name] = None

    def _commit(self) -> None:
        for name in self._written:
            with (self._stage / NEW / name).open("rb+") as file:
                os.fsync(file.fileno())
            keep_permissions(self.folder / name, self._stage / NEW / name)
        removed = [name for name in self._removed if name not in self._written and os.path.lexists(self.folder / name)]
        if not self._written and not removed:
            return
        names = [*self._written, *removed]
        for name in names:
            if (self.folder / name).is_dir():
                raise IsADirectoryError(f"{self.folder / name}: this is a directory; expected a file, to replace it")
        if not self._keep(names):
            self._one_after_another(removed)
            return
        (self._stage / CURRENT).symlink_to(OLD)
        for folder in (self._stage / OLD, self._stage / NEW, self._stage):
            flush_folder(folder)
        for name in names:
            _replace_by_link(self.folder / name, Path(self._stage.name, CURRENT, name), self._stage)
        flush_folder(self.folder)
        _replace_by_link(self._stage / CURRENT, Path(NEW), self._stage)  # the commit
        flush_folder(self._stage)

    def _keep(self, names: list[str]) -> bool:
        """Step 2; False if this file system or this user cannot make links. Nothing in the folder has changed yet."""
        try:
            (self._stage / "probe").symlink_to(NEW)
            if self._written:  # step 5 makes hard links to them, and some file systems know only symbolic ones
                (self._stage / "probe-file").hardlink_to(self._stage / NEW / next(iter(self._written)))
            for name in names:
                present, kept = self.folder / name, self._stage / OLD / name
                if present.is_symlink():  # of a hub cache: a link of the same meaning, two folders further down
                    target = present.readlink()
                    kept.symlink_to(target if target.is_absolute() else Path("..", "..", target))
                elif present.exists():
                    kept.hardlink_to(present)
        except NotImplementedError:
            return False
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS):
                raise
            return False
        return True

    def _one_after_another(self, removed: list[str]) -> None:
        logger.warning(
            "%s: no links can be made here, so the files are replaced one after another: an interruption now would "
            "leave some old and some new ones.",
            self.folder,
        )
        for name in self._written:
            (self._stage / NEW / name).replace(self.folder / name)
        flush_folder(self.folder)
        for name in removed:
            (self.folder / name).unlink(missing_ok=True)


@contextlib.contextmanager
def transaction(folder: str | os.PathLike[str]) -> Iterator[Transaction]:
    """Change several files of `folder` (created if need be) when the block ends; nothing if it raises.

        with transaction(folder) as change:
            change.write("config.json", b"{}")
            change.remove("pytorch_model.bin")

    Raises:
        OSError: the disk is full, no permission, ...: before the commit nothing has changed; after it (a failure of the
            clean-up) everything has. Where no links can be made, the files before the one that failed have changed.
        IsADirectoryError: a directory stands where a file should go.
    """
    place = Path(folder)
    if place.is_symlink() and not place.exists():
        raise FileNotFoundError(
            f"{place}: this link leads to {place.readlink()}, which does not exist; expected a folder. Make that "
            "folder, or remove the link."
        )
    place.mkdir(parents=True, exist_ok=True)
    with _only_writer(place), full_disk_named(place):
        for entry in sorted(place.iterdir()):
            if _is_stage(entry):
                _settle(place, entry)  # what an interrupted transaction left
        stage = place / f"{STAGE}{secrets.token_hex(4)}"
        try:
            for directory in (stage, stage / OLD, stage / NEW):
                directory.mkdir()
            change = Transaction(place, stage)
            yield change
            change._commit()
        finally:
            _settle(place, stage)


def write_together(folder: str | os.PathLike[str], files: Mapping[str, bytes | None]) -> None:
    """Write these files into `folder`, all or nothing; None removes one. Errors: those of `transaction`."""
    with transaction(folder) as change:
        for name, data in files.items():
            if data is None:
                change.remove(name)
            else:
                change.write(name, data)


def _is_stage(entry: Path) -> bool:
    """Whether a transaction made this. In a folder from a stranger, `current` might lead to a file that nobody gave."""
    if not entry.name.startswith(STAGE) or any(place.is_symlink() for place in (entry, entry / OLD, entry / NEW)):
        return False
    current = entry / CURRENT
    leads_inside = current.is_symlink() and current.readlink() in (Path(OLD), Path(NEW))
    return entry.is_dir() and (leads_inside or not os.path.lexists(current))


def _settle(folder: Path, stage: Path) -> None:
    """Step 5, for a transaction that was committed or not."""
    for entry in sorted(folder.iterdir()):
        if not entry.is_symlink() or entry.readlink() != Path(stage.name, CURRENT, entry.name):
            continue
        kept = stage / CURRENT / entry.name
        if kept.is_symlink():
            target = kept.readlink()
            _replace_by_link(entry, target if target.is_absolute() else Path(*target.parts[2:]), stage)
        elif kept.exists():
            again = stage / f"file-{secrets.token_hex(4)}"
            again.hardlink_to(kept)  # and not `kept` itself: somebody may be following the link at this moment
            again.replace(entry)
        else:
            entry.unlink()
    flush_folder(folder)
    if stage.exists():  # it does not, if the disk was full already when it was to be made
        shutil.rmtree(stage)


def _replace_by_link(entry: Path, target: Path, stage: Path) -> None:
    """Make `entry` a link to `target` in one step."""
    temporary = stage / f"link-{secrets.token_hex(4)}"
    temporary.symlink_to(target)
    temporary.replace(entry)


@contextlib.contextmanager
def _only_writer(folder: Path) -> Iterator[None]:
    """Wait until no other transaction in `folder` is under way; the system lifts the lock when its holder dies."""
    if os.name != "posix":
        yield
        return
    import fcntl

    descriptor = os.open(folder, os.O_RDONLY)
    try:
        # Some network file systems know no locks; a save there is as good as without other writers.
        with contextlib.suppress(OSError):
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                logger.warning("%s: another save into this folder is under way; waiting until it ends.", folder)
                fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


# ------------------------------------------------------------------------------------------------------------- readers


def undisturbed(
    place: Path,
    read: Callable[[], Result],
    names: Sequence[str],
    *,
    drop: Callable[[Result], object] = lambda result: None,
) -> Result:
    """What `read` returns, if no transaction came between; else `drop` it and read again.

    Args:
        place: the folder, or a file in it.
        read: reads several of its files.
        names: the files of the folder that must be of one transaction.

    Raises:
        WeightsError: the folder changed every time. Errors of `read`, if the folder stayed as it was.
    """
    folder = place if place.is_dir() else place.parent
    watched = [folder / name for name in (*names, place.name)]
    end = time.monotonic() + PATIENCE
    for attempt in itertools.count():
        before = _look(watched)
        try:
            result = read()
        except (OSError, ValueError, RuntimeError):
            # A folder that stays as it is may still be in the middle of step 5, or be left there by a kill.
            if _look(watched) == before and (attempt >= TRIES or not stages_in(folder)):
                raise
        else:
            if _look(watched) == before:
                return result
            drop(result)
        if time.monotonic() > end:
            break
        time.sleep(min(0.001 * 2**attempt, 0.1))
    raise problem(
        place,
        f"it changed again and again while it was being read, for {PATIENCE} seconds",
        expected="files that stay as they are while they are read",
        remedy="Wait until whoever writes them has finished, then load again.",
    )


def stages_in(folder: Path) -> list[str]:
    """The folders of saves that are under way, or were interrupted; none where the folder cannot be listed."""
    with contextlib.suppress(OSError):
        return sorted(entry.name for entry in folder.iterdir() if entry.name.startswith(STAGE))
    return []


def _look(files: Iterable[Path]) -> list[tuple[str, int, int, int]]:
    """What tells one state of these files from the next: identity, size and time of those that are there."""
    seen = []
    for file in files:
        with contextlib.suppress(OSError):
            status = file.stat()
            seen.append((file.name, status.st_ino, status.st_size, status.st_mtime_ns))
    return seen
