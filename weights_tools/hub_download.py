"""Downloads from the hub or a mirror, by `huggingface_hub`, which is imported for that alone.

The library keeps the connections, the locks between processes and the progress bar (HF_HUB_DISABLE_PROGRESS_BARS=1
turns it off), and goes on by Range where a connection was cut. Here it is decided which files are asked for, in which
order, and what a failure means. The addresses are those of https://huggingface.co/docs/hub/api and https://huggingface.co/docs/huggingface_hub/package_reference/file_download.
"""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from weights_tools.hub_cache import is_set
from weights_tools.hub_files import Want, plain_names

HUB = "https://huggingface.co"
LISTING_SECONDS = 10  # for the first answer; an endpoint that answers nothing must not hold up the program


@dataclass(frozen=True)
class Request:
    """What is asked of which endpoint. subfolder: "" = none. token: None = the library's own, False = none."""

    name: str
    revision: str
    subfolder: str
    endpoint: str
    token: str | bool | None
    want: Want

    def path(self, filename: str) -> str:
        """The file's path in the repository."""
        return f"{self.subfolder}/{filename}" if self.subfolder else filename

    def url(self, filename: str) -> str:
        """Where a browser, wget or curl finds the file."""
        return f"{self.endpoint}/{self.name}/resolve/{quote(self.revision, safe='')}/{quote(self.path(filename))}"


@dataclass(frozen=True)
class Listing:
    """What is to be fetched of one commit: `first`, then `then` (see `Want.chosen`)."""

    commit: str
    first: list[str]
    then: list[str]

    @property
    def files(self) -> list[str]:
        return [*self.first, *self.then]


def endpoint_of(endpoint: str | None) -> str:
    """`endpoint`, else HF_ENDPOINT, else the hub itself, without a slash at its end.

    Raises:
        ValueError: it is no http or https address.
    """
    source = "endpoint" if endpoint is not None else "HF_ENDPOINT"
    address = endpoint if endpoint is not None else os.environ.get("HF_ENDPOINT") or HUB
    if not isinstance(address, str) or not re.fullmatch(r"https?://[^\s/?#]+(/[^\s?#]*)?", address):
        raise ValueError(f"{source} is {address!r}; expected an address that begins with https://, such as '{HUB}'")
    return address.rstrip("/")


def token_of(token: str | bool | None) -> str | bool | None:
    """`token`, but for one that the library would look for in the folder that HF_HOME named when it was imported."""
    if isinstance(token, str) or token is False or (token is None and is_set("HF_HUB_DISABLE_IMPLICIT_TOKEN")):
        return token
    if os.environ.get("HF_TOKEN"):
        return token  # this it reads at every call
    home = os.environ.get("HF_HOME")
    place = os.environ.get("HF_TOKEN_PATH") or (f"{home}/token" if home else "")
    stored = Path(os.path.expandvars(place)).expanduser()
    return (stored.read_text(encoding="utf-8").strip() if place and stored.is_file() else "") or token


def list_files(request: Request) -> Listing:
    """Ask for the names of a revision's files, and choose. One request.

    Raises:
        FileNotFoundError: the repository lacks what is needed. Else whatever the library raises: see `reason`.
    """
    from huggingface_hub import HfApi

    api = HfApi(endpoint=request.endpoint, token=request.token)
    found = api.model_info(request.name, revision=request.revision, timeout=LISTING_SECONDS)
    if found.sha is None or found.siblings is None:
        raise FileNotFoundError("the answer names no commit and no files, so this is no hub or an incomplete mirror")
    paths = [sibling.rfilename for sibling in found.siblings]
    prefix = f"{request.subfolder}/" if request.subfolder else ""
    names = [path.removeprefix(prefix) for path in paths if path.startswith(prefix)]
    if prefix and not names:
        raise FileNotFoundError(f"the repository has no folder {request.subfolder!r}")
    try:
        return Listing(found.sha, *request.want.chosen([name for name in names if "/" not in name]))
    except FileNotFoundError as error:
        inner = _folders_that_serve(request.want, names)
        raise FileNotFoundError(f"{error}{f'; the folder {inner} has it: give subfolder=' if inner else ''}") from None


def _folders_that_serve(want: Want, paths: Sequence[str]) -> str:
    folders: dict[str, list[str]] = {}
    for path in paths:
        folder, _, name = path.rpartition("/")
        folders.setdefault(folder, []).append(name)
    return ", ".join(repr(folder) for folder in sorted(folders) if folder and not want.lacking(folders[folder]))


def download(request: Request, listing: Listing, cache: Path, local_dir: Path | None = None) -> Path:
    """Fetch what is missing of the listing into the cache (or `local_dir`), and return the folder that holds it.

    Files that are there already are not fetched again, so a snapshot that was left half done is completed.

    Raises:
        FileNotFoundError: something is missing afterwards. Else whatever the library raises: see `reason`.
    """
    if listing.first and listing.then:
        _fetch(request, listing.commit, listing.first, cache, local_dir)
    # Under the revision's own name, so that the library writes refs/: what it then leads to has its settings already.
    root = _fetch(request, request.revision, listing.files, cache, local_dir)
    folder = root / request.subfolder
    names = plain_names(folder)
    absent = [name for name in listing.files if name not in names]
    lacking = request.want.lacking(names, folder)
    if absent or lacking:
        raise FileNotFoundError(
            f"after the download {folder} lacks {', '.join(absent) or lacking}: the model changed meanwhile, or its "
            "files do not belong together; try again"
        )
    return folder


def _fetch(request: Request, revision: str, filenames: Sequence[str], cache: Path, local_dir: Path | None) -> Path:
    from huggingface_hub import snapshot_download

    return Path(
        snapshot_download(
            request.name,
            revision=revision,
            cache_dir=cache,
            local_dir=local_dir,
            token=request.token,
            endpoint=request.endpoint,
            allow_patterns=[glob.escape(request.path(name)) for name in filenames],
        )
    )


# Classes of `huggingface_hub.errors` and of the two libraries that it was built on, by name: the more special first.
REASONS = {
    "GatedRepoError": "its owner grants access one by one: ask for it at {page}, then give token= or set HF_TOKEN",
    "RepositoryNotFoundError": "there is no such model at {endpoint}, or it is private: check the name; for a private "
    "one give token= or set HF_TOKEN",
    "RevisionNotFoundError": "the model has no revision {revision!r}: its branches and tags are listed at "
    "{page}/tree/main",
    "EntryNotFoundError": "a file of the listing is not there",
    "OfflineModeIsEnabled": "HF_HUB_OFFLINE was set when huggingface_hub was imported, and it keeps to that: unset it "
    "and start Python anew",
    "ProxyError": "the proxy refused",
    "ConnectError": "it cannot be reached",
    "ConnectionError": "it cannot be reached",
    "TimeoutException": "it did not answer in time",
    "Timeout": "it did not answer in time",
    "JSONDecodeError": "the answer is no JSON, so this is no hub, or a page stands before it (a login, a proxy)",
}
STATUSES = {
    401: "the token was refused",
    403: "the token does not allow it",
    404: "there is no such model or file",
    429: "too many requests: wait, or give token=",
}


def reason(error: BaseException, request: Request) -> str:
    """Why a download failed, in one line."""
    while type(error).__name__ in ("LocalEntryNotFoundError", "IncompleteSnapshotError") and error.__cause__:
        error = error.__cause__  # the library first says that the cache has nothing either
    text = str(error).strip()
    line = text.splitlines()[0][:300] if text else ""
    response = getattr(error, "response", None)
    status = getattr(response, "status_code", None)
    names = {kind.__name__ for kind in type(error).__mro__}
    known = next((words for name, words in REASONS.items() if name in names), None)
    if known is None and status is not None:
        known = STATUSES.get(status, "the server failed: try again later" if status >= 500 else None)
    if known is None:
        return f"{type(error).__name__}: {line}"
    page = f"{request.endpoint}/{request.name}"
    words = known.format(page=page, endpoint=request.endpoint, revision=request.revision)
    return f"{words} ({type(error).__name__}: {line})"
