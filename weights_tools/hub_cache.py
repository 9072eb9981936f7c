"""The hub's cache on disk, read without any request (https://huggingface.co/docs/huggingface_hub/guides/manage-cache).

A folder per model: `models--org--name/refs/main` holds the hash of a snapshot, `models--org--name/snapshots/<hash>/`
its files, as links into `blobs/` or, made by hand, as copies. Environment variables are read at every call.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from weights_tools.hub_files import Want, plain_names
from weights_tools.regular import shown


def is_set(variable: str) -> bool:
    """Whether a switch of the environment is on, as `huggingface_hub` reads it."""
    return os.environ.get(variable, "").upper() in ("1", "ON", "YES", "TRUE")


def cache_folder(cache_dir: str | os.PathLike[str] | None) -> Path:
    """`cache_dir`, else HF_HUB_CACHE, else HF_HOME/hub, else ~/.cache/huggingface/hub."""
    if cache_dir is not None:
        return Path(cache_dir).expanduser().absolute()
    # https://huggingface.co/docs/huggingface_hub/package_reference/environment_variables
    places = (("HF_HUB_CACHE", "."), ("HUGGINGFACE_HUB_CACHE", "."), ("HF_HOME", "hub"))
    for variable, inside_it in (*places, ("XDG_CACHE_HOME", "huggingface/hub")):
        if value := os.environ.get(variable):
            return Path(os.path.expandvars(value)).expanduser().absolute() / inside_it
    return Path.home() / ".cache" / "huggingface" / "hub"


def home_of(cache: Path, name: str) -> Path:
    """The folder of one model in the cache."""
    return cache / f"models--{name.replace('/', '--')}"


def place_for(cache: Path, name: str, revision: str) -> Path:
    """The snapshot of a revision, or where a copy of it made by hand is found."""
    snapshot, _ = find_snapshot(cache, name, revision)
    return snapshot or home_of(cache, name) / "snapshots" / revision


def find_snapshot(cache: Path, name: str, revision: str) -> tuple[Path | None, str]:
    """(the snapshot's folder, "") or (None, why there is none). What the snapshot holds is not looked at."""
    home = home_of(cache, name)
    snapshots = home / "snapshots"
    if not snapshots.is_dir():
        return None, f"{home.name} is not there"
    commit = revision
    reference = home / "refs" / revision.removeprefix("refs/")
    if revision.startswith("refs/") and not reference.is_file():
        reference = home / "refs" / revision  # what the library writes; the other form is git's own
    if reference.is_file():
        # A file made by an editor ends with a line break.
        commit = reference.read_text(encoding="utf-8", errors="replace").strip()
        if not re.fullmatch(r"[\w.-]+", commit) or commit in (".", ".."):
            return None, f"{reference} holds {shown(commit, 60)}, which is no hash"
    elif not (home / "refs").is_dir() and not (home / "blobs").is_dir():
        # Made by hand: one snapshot and no note which is the newest. (The library writes no note either for a hash that
        # was asked for by itself, and that need not be the newest.)
        only = [entry.name for entry in snapshots.iterdir() if entry.is_dir()]
        if revision == "main" and len(only) == 1:
            commit = only[0]
    snapshot = snapshots / commit
    if not snapshot.is_dir():
        there = ", ".join(sorted(entry.name for entry in snapshots.iterdir())) or "none"
        return None, f"{home.name} has no snapshot of revision {revision!r} (snapshots: {there})"
    return snapshot, ""


def find_cached(cache: Path, name: str, revision: str, subfolder: str, want: Want) -> tuple[Path | None, str]:
    """(the folder that serves, "") or (None, why the cache does not)."""
    snapshot, why = find_snapshot(cache, name, revision)
    if snapshot is None:
        return None, why
    folder = inside(snapshot, subfolder)
    if not folder.is_dir():
        return None, f"{snapshot} has no folder {subfolder!r}"
    names = plain_names(folder)
    lacking = want.lacking(names, folder)
    if not lacking:
        return folder, ""
    return None, f"{folder} holds {', '.join(sorted(names)) or 'nothing'}: {lacking}"


def check_subfolder(subfolder: str) -> str:
    """`subfolder` without a slash at its end; "" = none.

    Raises:
        ValueError: it is absolute, leads upwards or is no text.
    """
    text = subfolder.rstrip("/") if isinstance(subfolder, str) and not subfolder.startswith("/") else "/"
    parts = text.split("/") if text else []
    if any(part in ("", ".", "..") or re.search(r"[\\:\0]", part) for part in parts):
        raise ValueError(f"subfolder is {subfolder!r}; expected the name of a folder inside, such as 'encoder', or ''")
    return text


def inside(folder: Path, subfolder: str) -> Path:
    """`folder / subfolder`, whether it exists or not.

    Raises:
        ValueError: a link on the way leads out of `folder`.
    """
    place = folder / subfolder if subfolder else folder
    root, target = folder.resolve(), place.resolve()
    if target != root and root not in target.parents:
        raise ValueError(
            f"subfolder {subfolder!r} of {folder} leads to {target}; expected a folder inside. If you trust it, give "
            "that path itself."
        )
    return place
