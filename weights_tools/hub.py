"""From a name to a local folder: a path as it is, then the hub's cache on disk, then a download.

The cache (https://huggingface.co/docs/huggingface_hub/guides/manage-cache) is a folder per model:
`models--org--name/refs/main` holds the hash of the newest snapshot, `models--org--name/snapshots/<hash>/` its files, as
links into `blobs/` or as copies. It is read here without any request. Only a name that is not in it is downloaded, by
`huggingface_hub`, which is imported for that alone. Environment variables are read at every call.
"""

from __future__ import annotations

import difflib
import errno
import fnmatch
import os
import re
from collections.abc import Sequence
from pathlib import Path

from weights_tools.regular import shown

LONGEST_PATH = 1000  # nobody's path is longer, and file systems end at 4096

SAFETENSORS_PATTERNS = ("*.safetensors", "*.safetensors.index.json")
PICKLE_PATTERNS = ("pytorch_model*.bin", "pytorch_model.bin.index.json")
TEXT_PATTERNS = ("*.json", "*.txt", "*.model")
DEFAULT_PATTERNS = (*TEXT_PATTERNS, *SAFETENSORS_PATTERNS, *PICKLE_PATTERNS)

# https://huggingface.co/docs/hub/repositories-settings: letters, digits, "-", "_", "."; at most one "/".
REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]{0,95}(/[A-Za-z0-9_][\w.-]{0,95})?", re.ASCII)
WEIGHTS_SUFFIXES = (".safetensors", ".bin", ".pt", ".pth", ".json", ".ckpt", ".h5", ".npz", ".txt")


def resolve(
    name_or_path: str | os.PathLike[str],
    *,
    cache_dir: str | os.PathLike[str] | None = None,
    revision: str = "main",
    local_files_only: bool = False,
    token: str | bool | None = None,
    filenames: Sequence[str] = DEFAULT_PATTERNS,
) -> Path:
    """The local folder (or file) that `name_or_path` means.

    Args:
        name_or_path: an existing folder or file, which always wins (also a folder that is named like a model), or a
            model's name on the hub ("org/name", or "name" alone for the oldest ones).
        cache_dir: the cache to look in and download to; default: HF_HUB_CACHE, else HF_HOME/hub, else
            ~/.cache/huggingface/hub.
        revision: branch, tag, "refs/pr/1" or full hash.
        local_files_only: never ask the network (HF_HUB_OFFLINE=1 says the same).
        token: an access token for `huggingface_hub`; default: its own (HF_TOKEN, or the one it stored).
        filenames: patterns of the files that are wanted. A cached snapshot serves if it holds a match: of the weights
            among the patterns, if there are any, else of any pattern.

    Raises:
        FileNotFoundError: nothing was found; the message names what was tried and what to do. A text that can only be a
            path (it starts with ".", "/" or "~", has more than one separator or the suffix of a file, or its parent
            folder exists) is never asked for on the network. Also for an empty text.
        TypeError: `name_or_path` is no text and no path.
    """
    text = _checked_name(name_or_path)
    path = Path(text).expanduser()
    if _exists(path):
        return path
    if not isinstance(name_or_path, str) or _is_path(text):
        raise FileNotFoundError(f"{shown(text)}: no such file or folder{_near(path)} {_remedy(name_or_path, text)}")
    _check_revision(revision)
    cache = _cache(cache_dir)
    found, state = _cached(cache, text, revision, filenames)
    if found is not None:
        return found
    tried = [f"a folder {text!r} in {Path.cwd()}: there is none", f"the cache {cache}: {state}"]
    if local_files_only or os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"):
        why = "local_files_only=True" if local_files_only else "HF_HUB_OFFLINE is set"
        tried.append(f"no download: {why}")
        raise _not_found(text, tried, cache, filenames)
    try:
        return _download(text, cache, revision, token, filenames)
    except Exception as error:  # whatever the network or the library reports, the remedies are the same
        endpoint = os.environ.get("HF_ENDPOINT") or "https://huggingface.co"
        reason = str(error).strip().splitlines()[0][:300] if str(error).strip() else ""
        tried.append(f"download from {endpoint}: {type(error).__name__}: {reason}")
        raise _not_found(text, tried, cache, filenames) from error


def _is_path(text: str) -> bool:
    if not REPOSITORY.fullmatch(text) or ".." in text or text.startswith((".", "/", "~")):
        return True
    if text.endswith(WEIGHTS_SUFFIXES):
        return True
    return "/" in text and Path(text).parent.exists()


def _checked_name(name: object) -> str:
    """The text of a name or path. The messages call it what the callers' callers, the `from_pretrained`s, call it."""
    remedy = "Give the folder that holds the checkpoint, or a model's name on the hub, such as 'bert-base-uncased'."
    if isinstance(name, dict):
        remedy = "Build the configuration or the model from it, or give the folder that it came from."
    text = os.fspath(name) if isinstance(name, str | os.PathLike) else None
    if not isinstance(text, str):
        raise TypeError(
            f"pretrained_model_name_or_path is a {type(name).__name__}; expected a path or a model's name. {remedy}"
        )
    if not text.strip():
        raise FileNotFoundError(
            f"pretrained_model_name_or_path is {text!r}, an empty text; expected a path or a model's name. {remedy}"
        )
    return text


def _exists(path: Path) -> bool:
    """`path.exists()`; a name that the file system cannot hold (too long, a null character) does not exist."""
    try:
        return path.exists()
    except ValueError:
        return False
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            return False
        raise


def _near(path: Path) -> str:
    """The end of a sentence: the names beside it that look like it, and the folder on the way that is missing."""
    last = path.absolute()
    parent = last.parent
    while not _exists(parent):
        last, parent = parent, parent.parent
    if not parent.is_dir():
        return f"; {parent} is a file."
    try:
        near = difflib.get_close_matches(last.name[:300], [entry.name for entry in parent.iterdir()], n=3)
    except OSError:
        return "."
    missing = "" if last == path.absolute() else f"; there is no {shown(last.name, 100)} in {parent}"
    return missing + (f"; did you mean {' or '.join(repr(str(parent / name)) for name in near)}?" if near else ".")


def _remedy(name: object, text: str) -> str:
    if len(text) > LONGEST_PATH:
        return f"It has {len(text):,} characters: give a path or a name, not the content of a file."
    if not isinstance(name, str) and REPOSITORY.fullmatch(text):
        return f"A path object always means the disk: for the model of that name on the hub give the text {text!r}."
    return "Give a folder that exists, or a model's name on the hub, such as 'bert-base-uncased'."


def _check_revision(revision: str) -> None:
    parts = revision.split("/") if isinstance(revision, str) else [""]
    if any(part in ("", ".", "..") or "\\" in part or "\0" in part for part in parts):
        raise ValueError(f"revision is {revision!r}; expected a branch, a tag, 'refs/pr/1' or a full hash")


def _cache(cache_dir: str | os.PathLike[str] | None) -> Path:
    if cache_dir is not None:
        return Path(cache_dir).expanduser()
    for variable in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
        if os.environ.get(variable):
            return Path(os.environ[variable]).expanduser()
    if os.environ.get("HF_HOME"):
        return Path(os.environ["HF_HOME"]).expanduser() / "hub"
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "huggingface" / "hub"


def _cached(cache: Path, name: str, revision: str, filenames: Sequence[str]) -> tuple[Path | None, str]:
    """(the snapshot, "") or (None, why there is none)."""
    home = cache / f"models--{name.replace('/', '--')}"
    snapshots = home / "snapshots"
    if not snapshots.is_dir():
        return None, f"{home.name} is not there"
    commit = revision
    reference = home / "refs" / revision.removeprefix("refs/")
    if revision.startswith("refs/") and not reference.is_file():
        reference = home / "refs" / revision
    if reference.is_file():
        commit = reference.read_text(encoding="utf-8", errors="replace").strip()
        if not re.fullmatch(r"[\w.-]+", commit) or commit in (".", ".."):
            return None, f"{reference} holds {commit[:60]!r}, which is no hash"
    else:
        # A cache made by hand: one snapshot and no note which is the newest.
        only = [entry.name for entry in snapshots.iterdir() if entry.is_dir()]
        if revision == "main" and len(only) == 1:
            commit = only[0]
    snapshot = snapshots / commit
    if not snapshot.is_dir():
        there = ", ".join(sorted(entry.name for entry in snapshots.iterdir())) or "none"
        return None, f"{home.name} has no snapshot of revision {revision!r} (snapshots: {there})"
    if not holds(snapshot, filenames):
        there = ", ".join(sorted(entry.name for entry in snapshot.iterdir())) or "nothing"
        return None, f"{snapshot} holds {there}, but none of what is wanted"
    return snapshot, ""


def holds(folder: Path, filenames: Sequence[str]) -> bool:
    """Whether `folder` has what `resolve` calls a match. A link whose blob is gone does not count."""
    weights = [pattern for pattern in filenames if pattern in (*SAFETENSORS_PATTERNS, *PICKLE_PATTERNS)]
    wanted = weights or filenames
    names = [entry.name for entry in folder.iterdir() if entry.exists()]
    return any(fnmatch.fnmatchcase(name, pattern) for name in names for pattern in wanted)


def _download(name: str, cache: Path, revision: str, token: str | bool | None, filenames: Sequence[str]) -> Path:
    from huggingface_hub import snapshot_download

    def fetch(patterns: Sequence[str]) -> Path:
        folder = snapshot_download(
            name,
            revision=revision,
            cache_dir=cache,
            token=token,
            allow_patterns=list(patterns),
            endpoint=os.environ.get("HF_ENDPOINT") or None,
        )
        return Path(folder)

    # The same weights are often there twice, as safetensors and as a pickle: the second is fetched only for want of the
    # first.
    first = [pattern for pattern in filenames if pattern not in PICKLE_PATTERNS]
    folder = fetch(first or filenames)
    if not holds(folder, filenames) and len(first) != len(filenames):
        folder = fetch(filenames)
    if not holds(folder, filenames):
        there = ", ".join(sorted(entry.name for entry in folder.iterdir())) or "nothing"
        raise FileNotFoundError(f"the repository has none of {', '.join(filenames)} (of what was asked for: {there})")
    return folder


def _not_found(name: str, tried: Sequence[str], cache: Path, filenames: Sequence[str]) -> FileNotFoundError:
    attempts = "".join(f"\n  - {line}" for line in tried)
    home = cache / f"models--{name.replace('/', '--')}" / "snapshots" / "main"
    return FileNotFoundError(
        f"{name!r} was not found. Tried:{attempts}\n"
        "What helps:\n"
        f"  - give a local folder that holds the files ({', '.join(filenames)});\n"
        "  - set HF_ENDPOINT to a mirror that can be reached;\n"
        f"  - copy the files into the cache: {home}"
    )
