"""`minitf fetch`: a model's files from the hub or a mirror into the cache or a folder, or only their addresses."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from minitf.cli import Parser, UsageError
from minitf.cli_output import readable_bytes, to_json

if TYPE_CHECKING:
    from weights_tools.hub_download import Request

MISSING = {
    "force_download": "--update asks whether the model has changed; to be rid of a damaged file, remove the model's "
    "folder from the cache",
    "local_files_only": "set HF_HUB_OFFLINE=1",
    "offline": "set HF_HUB_OFFLINE=1",
}


def fetch_parser() -> Parser:
    """`minitf fetch NAME`."""
    parser = Parser(
        "fetch",
        "Download the files of a model, those that are needed and not there yet, and print their folder.\n"
        "Weights come in one form: safetensors, else a pickle. What the cache has is not asked for again.",
        "examples:\n"
        "  minitf fetch bert-base-uncased\n"
        "  minitf fetch org/name --revision v1.0 --local-dir model\n"
        "  minitf fetch gpt2 --endpoint https://mirror.example\n"
        "  minitf fetch gpt2 --print-urls | wget -i -\n\n"
        "environment: HF_HOME, HF_HUB_CACHE, HF_ENDPOINT, HF_TOKEN, HF_HUB_OFFLINE,\n"
        "HF_HUB_DISABLE_PROGRESS_BARS.",
        missing=MISSING,
    )
    add = parser.add_argument
    add("name", metavar="NAME", help="the model's name on the hub: org/name, or name alone for the oldest ones")
    add("--revision", metavar="REV", default="main", help='branch, tag, "refs/pr/1" or full hash (default: main)')
    add("--subfolder", metavar="DIR", default="", help="folder inside the repository that holds the files")
    add("--variant", metavar="WORD", help="of the weights: fp16 takes model.fp16.safetensors")
    add("--cache-dir", metavar="DIR", help="the cache (default: HF_HUB_CACHE, HF_HOME/hub, ~/.cache/huggingface/hub)")
    add("--local-dir", metavar="DIR", help="put plain files into this folder, past the cache")
    add("--endpoint", metavar="URL", help="address to download from (default: HF_ENDPOINT, https://huggingface.co)")
    add("--token", metavar="TOKEN", help="access token; other users of this machine may see it here, HF_TOKEN not")
    add("--update", action="store_true", help="ask although the cache has it: a branch may have moved on")
    add(
        "--print-urls",
        action="store_true",
        help="download nothing: print the address of each file that is needed, one a line",
    )
    add("--json", action="store_true", help="print one JSON object")
    return parser


def fetch(arguments: argparse.Namespace) -> None:
    """Carry out `minitf fetch`."""
    from weights_tools.hub import make_request, obtain
    from weights_tools.hub_cache import cache_folder
    from weights_tools.hub_files import Want

    request = make_request(
        arguments.name,
        arguments.revision,
        arguments.subfolder,
        arguments.endpoint,
        arguments.token,
        Want(variant=arguments.variant),
    )
    if arguments.print_urls:
        print_urls(request, arguments)
        return
    cache = cache_folder(arguments.cache_dir)
    if arguments.local_dir == "":
        raise UsageError("--local-dir is empty; expected the name of a folder")
    local_dir = Path(arguments.local_dir).expanduser().absolute() if arguments.local_dir is not None else None
    if local_dir is not None and local_dir.exists() and not local_dir.is_dir():
        raise NotADirectoryError(
            f"--local-dir {arguments.local_dir} is a file; expected a folder, or a name that is free"
        )
    folder, asked = obtain(request, cache, local_dir=local_dir, update=arguments.update)
    report(request, folder, asked, arguments)


def print_urls(request: Request, arguments: argparse.Namespace) -> None:
    """The addresses on stdout; on stderr why they are only the usual ones, if the list could not be read."""
    from weights_tools.hub import wanted_urls

    for option in ("cache_dir", "local_dir", "update"):
        if getattr(arguments, option) not in (None, False):
            raise UsageError(f"--{option.replace('_', '-')} has no effect beside --print-urls: drop one of them")
    urls, why = wanted_urls(request)
    if arguments.json:
        print(to_json({"name": request.name, "revision": request.revision, "urls": urls, "guessed": why or None}))
    else:
        print("\n".join(urls))
    if why:
        print(
            f"warning: the list of files was not read ({why}): these are the usual names; a model has only some of "
            "them, and older ones have pytorch_model.bin in place of model.safetensors",
            file=sys.stderr,
        )


def report(request: Request, folder: Path, asked: bool, arguments: argparse.Namespace) -> None:
    """The folder on stdout, so that a script can use it; what is in it on stderr, or all of it as JSON."""
    from weights_tools.hub_files import plain_names

    first, then = request.want.chosen(plain_names(folder))
    sizes = {name: (folder / name).stat().st_size for name in sorted([*first, *then])}
    source = f"as {request.endpoint} has them" if asked else "from the cache, without a request"
    if arguments.json:
        answer: dict[str, Any] = {
            "name": request.name,
            "revision": request.revision,
            "folder": str(folder),
            "endpoint": request.endpoint if asked else None,
            "files": [{"name": name, "bytes": size} for name, size in sizes.items()],
            "bytes": sum(sizes.values()),
        }
        print(to_json(answer))
        return
    print(folder)
    print(f"{len(sizes)} files, {readable_bytes(sum(sizes.values()))}, {source}", file=sys.stderr)
