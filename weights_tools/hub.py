"""From a name to a local folder: a path as it is, then the hub's cache on disk, then a download.

The cache is read without any request (`weights_tools.hub_cache`). Only what is not in it is downloaded
(`weights_tools.hub_download`), and of a repository only the files that are needed (`weights_tools.hub_files`).
Environment variables are read at every call.
"""

from __future__ import annotations

import difflib
import errno
import os
import re
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from weights_tools.hub_cache import cache_folder, check_subfolder, find_cached, inside, is_set, place_for
from weights_tools.hub_download import Request, download, endpoint_of, list_files, reason, token_of
from weights_tools.hub_files import Want, entries, plain_names
from weights_tools.regular import shown
from weights_tools.sentence_folder import model_folder

LONGEST_PATH = 1000  # nobody's path is longer, and file systems end at 4096

# https://huggingface.co/docs/hub/repositories-settings: letters, digits, "-", "_", "."; at most one "/".
REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]{0,95}(/[A-Za-z0-9_][\w.-]{0,95})?", re.ASCII)
FILE_SUFFIXES = (".safetensors", ".bin", ".pt", ".pth", ".json", ".ckpt", ".h5", ".npz", ".txt")
BUNDLE_SUFFIX = ".index"  # TensorFlow names a checkpoint by what its files begin with


def resolve(
    name_or_path: str | os.PathLike[str],
    *,
    cache_dir: str | os.PathLike[str] | None = None,
    revision: str = "main",
    subfolder: str = "",
    variant: str | None = None,
    local_files_only: bool = False,
    token: str | bool | None = None,
    endpoint: str | None = None,
    filenames: Sequence[str] | None = None,
    essential: Sequence[Sequence[str]] = (),
) -> Path:
    """The local folder (or file) that `name_or_path` means.

    Args:
        name_or_path: an existing folder or file, which always wins (also a folder that is named like a model); what the
            names of a TensorFlow checkpoint begin with (its index file is returned); or a model's name on the hub
            ("org/name", or "name" alone for the oldest ones).
        cache_dir: the cache to look in and download to; default: HF_HUB_CACHE, else HF_HOME/hub, else
            ~/.cache/huggingface/hub.
        revision: branch, tag, "refs/pr/1" or full hash.
        subfolder: a folder inside the folder or repository, where all files are looked for.
        variant: of the weights: "fp16" looks for model.fp16.safetensors, and for nothing else.
        local_files_only: never ask the network (HF_HUB_OFFLINE=1 says the same).
        token: an access token; True or None = HF_TOKEN, else the one that `hf auth login` stored; False = none.
        endpoint: the address to download from; default: HF_ENDPOINT, else https://huggingface.co.
        filenames: plain names of the files that are wanted; None = a whole checkpoint: settings, vocabularies, and the
            weights in one form (safetensors, else a pickle; one file, else shards).
        essential: alternatives among `filenames`: a cached snapshot serves if it holds all names of one of them;
            default: any one file. Of a whole checkpoint it must hold the weights.

    Raises:
        FileNotFoundError: nothing was found; the message names what was tried and what to do. A text that can only be a
            path (it starts with ".", "/" or "~", has more than one separator or the suffix of a file, or its parent
            folder exists) is never asked for on the network. Also for an empty text.
        TypeError: `name_or_path` is no text and no path.
        ValueError: a revision, subfolder, variant, endpoint or token that cannot be one.
    """
    text = _checked_name(name_or_path)
    subfolder = check_subfolder(subfolder)
    entries(variant)  # a wrong variant is an error wherever the files are
    path = Path(text).expanduser()
    if _exists(path):
        return _local(path, subfolder, variant)
    if _exists(index := path.with_name(path.name + BUNDLE_SUFFIX) if path.name else path):
        return _local(index, subfolder, variant)
    if not isinstance(name_or_path, str) or _is_path(text):
        raise FileNotFoundError(f"{shown(text)}: no such file or folder{_near(path)} {_remedy(name_or_path, text)}")
    want = Want(None if filenames is None else tuple(filenames), tuple(map(tuple, essential)), variant)
    request = make_request(text, revision, subfolder, endpoint, token, want)
    tried = [f"a folder {text!r} in {Path.cwd()}: there is none"]
    return obtain(request, cache_folder(cache_dir), tried, local_files_only=local_files_only)[0]


def at_hand(name_or_path: str | os.PathLike[str]) -> Path:
    """What `name_or_path` means to a command that never asks the network: as `resolve`, with a short error.

    Raises:
        FileNotFoundError: neither a path nor in the cache. TypeError: no text and no path.
    """
    try:
        return resolve(name_or_path, local_files_only=True)
    except FileNotFoundError:
        if not isinstance(name_or_path, str) or not name_or_path.strip() or _is_path(name_or_path):
            raise
        _, state = find_cached(cache_folder(None), name_or_path, "main", "", Want())
        raise FileNotFoundError(
            f"{name_or_path!r}: no such folder, and no model of that name in the local hub cache ({state}); expected a "
            f"path or a model in the cache. Fetch it first: minitf fetch {name_or_path}"
        ) from None


def make_request(
    name: str, revision: str, subfolder: str, endpoint: str | None, token: str | bool | None, want: Want
) -> Request:
    """A checked request.

    Raises:
        FileNotFoundError: `name` cannot be a model's.
        ValueError: a revision, subfolder, variant, endpoint or token that cannot be one.
        TypeError: a token that is neither a text nor True, False or None.
    """
    if not REPOSITORY.fullmatch(name) or ".." in name:
        raise FileNotFoundError(
            f"{shown(name)} is no name of a model on the hub; expected 'organisation/name' or 'name'"
        )
    parts = revision.split("/") if isinstance(revision, str) else [""]
    if any(part in ("", ".", "..") or "\\" in part or "\0" in part for part in parts):
        raise ValueError(f"revision is {revision!r}; expected a branch, a tag, 'refs/pr/1' or a full hash")
    if token is not None and not isinstance(token, str | bool):
        raise TypeError(f"token is a {type(token).__name__}; expected a text, True, False or None")
    if isinstance(token, str) and not re.fullmatch(r"[!-~]+", token):  # which the message must not show
        raise ValueError(
            f"token is a text of {len(token)} characters with blanks, breaks or none at all; expected a token"
        )
    entries(want.variant)
    return Request(name, revision, check_subfolder(subfolder), endpoint_of(endpoint), token_of(token), want)


def obtain(
    request: Request,
    cache: Path,
    tried: Sequence[str] = (),
    *,
    local_files_only: bool = False,
    local_dir: Path | None = None,
    update: bool = False,
) -> tuple[Path, bool]:
    """(the folder that holds the files, whether the endpoint was asked for them).

    Args:
        request: what is wanted.
        cache: where to look, and where downloads go.
        tried: what was tried before, for the message.
        local_files_only: never ask the network.
        local_dir: a folder that gets plain files: copies of the cache's, or else a download past the cache.
        update: ask even if the cache would serve: a branch may have moved on. Only what is new is downloaded.

    Raises:
        FileNotFoundError: it failed; the message says why, and what to do instead.
    """
    found, state = find_cached(cache, request.name, request.revision, request.subfolder, request.want)
    if found is not None and update:
        found, state = None, "not used, because an update is wanted"
    if found is not None:
        return (found if local_dir is None else _copied(request, found, local_dir)), False
    tried = [*tried, f"the cache {cache}: {state}"]
    if why := offline(local_files_only):
        raise _not_found(request, [*tried, f"no download: {why}"], cache)
    names = None
    try:
        listing = list_files(request)
        names = listing.files
        return download(request, listing, cache, local_dir), True
    except Exception as error:  # whatever the network or the library reports, the remedies are the same
        if type(error) is FileNotFoundError:  # it was reached, and another endpoint has no other files
            raise FileNotFoundError(f"{request.name!r} at {request.endpoint}: {error}") from None
        line = f"download from {request.endpoint}: {reason(error, request)}"
        raise _not_found(request, [*tried, line], cache, names) from error


def _copied(request: Request, source: Path, local_dir: Path) -> Path:
    folder = local_dir / request.subfolder
    folder.mkdir(parents=True, exist_ok=True)
    for names in request.want.chosen(plain_names(source)):
        for name in names:
            part = folder / f"{name}.part"
            shutil.copyfile(source / name, part)
            part.replace(folder / name)
    return folder


def offline(local_files_only: bool) -> str:
    """Why there are no downloads; "" = there are."""
    if local_files_only:
        return "local_files_only=True"
    # `huggingface_hub` obeys both.
    return next((f"{name} is set" for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE") if is_set(name)), "")


def wanted_urls(request: Request, *, local_files_only: bool = False) -> tuple[list[str], str]:
    """(the address of every file that a download would fetch, why these are only the standard names or "").

    Raises:
        FileNotFoundError: the endpoint answered: there is no such model or revision, it lacks what is needed, or
            access is refused.
    """
    why = offline(local_files_only)
    if not why:
        try:
            # The commit's own address: what is fetched later belongs together.
            listing = list_files(request)
            return [replace(request, revision=listing.commit).url(name) for name in listing.files], ""
        except FileNotFoundError as error:
            raise FileNotFoundError(f"{request.name!r} at {request.endpoint}: {error}") from None
        except Exception as error:
            why = f"{request.endpoint}: {reason(error, request)}"
            status = getattr(getattr(error, "response", None), "status_code", None)
            if status in (401, 403, 404):
                raise FileNotFoundError(f"{request.name!r} at {why}") from error
    return [request.url(name) for name in request.want.standard()], why


def _local(path: Path, subfolder: str, variant: str | None) -> Path:
    if path.is_dir():
        place = inside(path, subfolder)
        if not place.is_dir():
            raise FileNotFoundError(f"{path} has no folder {subfolder!r}{_near(place)}")
        return (None if subfolder else model_folder(place)) or place
    for name, value in (("subfolder", subfolder), ("variant", variant)):
        if value:
            raise ValueError(f"{name} is {value!r}, but {path} is a file: leave {name} out, or give the folder")
    return path


def _is_path(text: str) -> bool:
    if not REPOSITORY.fullmatch(text) or ".." in text or text.startswith((".", "/", "~")):
        return True
    if text.endswith(FILE_SUFFIXES):
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


def _not_found(
    request: Request, tried: Sequence[str], cache: Path, names: Sequence[str] | None = None
) -> FileNotFoundError:
    """The error. names: the files that are needed; None = they are not known, only what they are called as a rule."""
    guess = names is None and request.want.filenames is None
    which = " (those that exist; older models have pytorch_model.bin in place of model.safetensors)" if guess else ""
    addresses = "".join(f"\n      {request.url(name)}" for name in names or request.want.standard())
    attempts = "".join(f"\n  - {line}" for line in tried)
    place = place_for(cache, request.name, request.revision) / request.subfolder
    return FileNotFoundError(
        f"{request.name!r} was not found. Tried:{attempts}\n"
        "What helps:\n"
        "  - a mirror that can be reached: give endpoint= or set HF_ENDPOINT;\n"
        f"  - a local folder in place of the name, with these files, downloaded by other means{which}:{addresses}\n"
        f"  - a copy of these files in the cache: {place}"
    )
