"""`python -m weights_tools`: look at weights files, compare and convert them, without building a model.

Results go to stdout, errors to stderr as one line, progress bars to stderr where it is a terminal. Exit codes: 0 fine,
1 a problem with a file (for `diff`: they differ), 2 a wrong call, 130 interrupted. What the commands do is in plain
functions (`inspection.inspect`, `keys.keys`, `diff.diff`, `convert.convert`); here they are only called and printed.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence

from weights_tools.calls import WrongCall
from weights_tools.regular import escaped

SOURCE = (
    "a folder, a weights file (safetensors, torch.save, .npz, .h5), an index JSON, a TensorFlow checkpoint "
    "(its .index, or the beginning of its files' names), or a name in the hub's cache"
)
DIALECT = "whose names the file has, instead of what its names say"
INTO = "whose names and layout the result has (default: hf, Hugging Face's)"
HEADS = "number of attention heads, for a dialect that keeps each apart (default: as the source's config.json says)"
BAR_BYTES = 100_000_000  # what is smaller is done before a bar could be read


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m weights_tools",
        description="Look at weights files, compare and convert them.",
        allow_abbrev=False,
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def add(name: str, help: str, description: str) -> argparse.ArgumentParser:
        return commands.add_parser(name, help=help, description=description, allow_abbrev=False)

    _inspect_arguments(
        add(
            "inspect",
            "names, shapes, dtypes, sizes, and what is unusual",
            "Print what a checkpoint holds, layers folded into one line, and what is unusual about it. "
            "Exit code 1 if something is wrong with it.",
        )
    )
    _keys_arguments(
        add(
            "keys",
            "what every name becomes",
            "Print what every name of a checkpoint becomes under the names of another program, and why names are left "
            "out. Only headers are read.",
        )
    )
    _diff_arguments(
        add(
            "diff",
            "compare two checkpoints: names, shapes, dtypes, numbers",
            "Compare two checkpoints of any format and dialect under Hugging Face's names. Exit code 1 if they differ.",
        )
    )
    _convert_arguments(
        add(
            "convert",
            "write in another format, under other names, in another dtype",
            "Write a checkpoint anew, all or nothing, one tensor in memory at a time. A folder as destination also "
            "gets the configuration and tokenizer files beside the source, byte for byte, and a model card.",
        )
    )
    # For the list of commands alone: its arguments are minitf's, and go there as they are.
    commands.add_parser("verify", help="load in minitf and in transformers and compare (minitf verify --help)")
    return parser


def _output_arguments(command: argparse.ArgumentParser, *, names: bool = True, quiet: str = "") -> None:
    """How the result is printed: each of these would make the others say nothing."""
    forms = command.add_mutually_exclusive_group()
    forms.add_argument("--json", action="store_true", help="print JSON")
    if names:
        forms.add_argument("--names", action="store_true", help="one line for every tensor, nothing folded")
    if quiet:
        forms.add_argument("--quiet", action="store_true", help=quiet)


def _inspect_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument("path", metavar="PATH", help=SOURCE)
    _output_arguments(command)
    command.add_argument("--values", action="store_true", help="read every number: count NaN and infinity, find zeros")


def _keys_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument("path", metavar="PATH", help=SOURCE)
    command.add_argument("--dialect", metavar="NAME", help=DIALECT)
    command.add_argument("--to-dialect", metavar="NAME", default="hf", help=INTO)
    command.add_argument("--heads", type=int, metavar="N", help=HEADS)
    _output_arguments(command)


def _diff_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument("first", metavar="A", help=SOURCE)
    command.add_argument("second", metavar="B", help="the other one")
    command.add_argument(
        "--tolerance",
        type=float,
        metavar="X",
        help="numbers may differ by so much, and dtypes may differ (default: every bit counts)",
    )
    command.add_argument("--dialect", metavar="NAME", help=f"of A: {DIALECT}")
    command.add_argument("--dialect-b", metavar="NAME", help="of B")
    command.add_argument(
        "--raw", action="store_true", help="compare the files' own names, nothing translated or left out"
    )
    _output_arguments(command, quiet="print nothing: the exit code tells")


def _convert_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument("source", metavar="SRC", help=SOURCE)
    command.add_argument(
        "destination", metavar="DST", help="a folder, or a file name that ends with .safetensors, .bin or .npz"
    )
    command.add_argument("--to", choices=("safetensors", "bin", "npz"), help="default: by DST's name, else safetensors")
    command.add_argument("--dialect", metavar="NAME", help=DIALECT)
    command.add_argument("--to-dialect", metavar="NAME", default="hf", help=INTO)
    command.add_argument("--heads", type=int, metavar="N", help=HEADS)
    command.add_argument("--dtype", choices=("float32", "float16", "bfloat16", "float64"), help="default: the source's")
    command.add_argument("--max-shard-size", metavar="SIZE", help='split files larger than this (default "5GB")')
    unknown = command.add_mutually_exclusive_group()
    unknown.add_argument("--keep-unknown", action="store_true", help="keep names without a counterpart, as they are")
    unknown.add_argument("--drop-unknown", action="store_true", help="leave out names without a counterpart")
    command.add_argument("--overwrite", action="store_true", help="replace what is in DST")
    command.add_argument("--no-card", action="store_true", help="write no README.md with the provenance")
    _output_arguments(command, names=False, quiet="print nothing but errors")


# The commands import what they need when they run: --help does not wait for torch.


def _inspect(arguments: argparse.Namespace) -> int:
    from weights_tools.files import bundle_index
    from weights_tools.hub import at_hand
    from weights_tools.inspection import inspect

    place = bundle_index(arguments.path) or at_hand(arguments.path)
    result = inspect(place, values=arguments.values)
    with result.checkpoint:
        print(json.dumps(result.to_dict(), indent=2) if arguments.json else result.to_text(every_name=arguments.names))
    return 1 if result.problems else 0


def _keys(arguments: argparse.Namespace) -> int:
    from weights_tools.keys import keys

    result = keys(arguments.path, dialect=arguments.dialect, into=arguments.to_dialect, num_heads=arguments.heads)
    print(json.dumps(result.to_dict(), indent=2) if arguments.json else result.to_text(every_name=arguments.names))
    return 1 if any(key.state == "unknown" for key in result.keys) else 0


def _diff(arguments: argparse.Namespace) -> int:
    from weights_tools.diff import diff

    with _bar(arguments.first, arguments.quiet) as progress:
        result = diff(
            arguments.first,
            arguments.second,
            tolerance=arguments.tolerance,
            dialects=(arguments.dialect, arguments.dialect_b),
            raw=arguments.raw,
            progress=progress,
        )
    if not arguments.quiet:
        print(json.dumps(result.to_dict(), indent=2) if arguments.json else result.to_text(every_name=arguments.names))
    return 0 if result.same else 1


def _convert(arguments: argparse.Namespace) -> int:
    from weights_tools.convert import convert

    with _bar(arguments.source, arguments.quiet) as progress:
        result = convert(
            arguments.source,
            arguments.destination,
            to=arguments.to,
            dialect=arguments.dialect,
            into=arguments.to_dialect,
            num_heads=arguments.heads,
            dtype=arguments.dtype,
            max_shard_size=arguments.max_shard_size,
            unknown="keep" if arguments.keep_unknown else "drop" if arguments.drop_unknown else "refuse",
            overwrite=arguments.overwrite,
            write_card=not arguments.no_card,
            progress=progress,
        )
    if not arguments.quiet:
        print(json.dumps(result.to_dict(), indent=2) if arguments.json else result)
    return 0


def _verify(arguments: Sequence[str]) -> int:
    # The one import of minitf in this package: the command is minitf's, and is only found here as well.
    from minitf.cli import main as minitf

    return minitf(["verify", *arguments])


@contextlib.contextmanager
def _bar(path: str, quiet: bool) -> Iterator[Callable[[int], object] | None]:
    """A progress bar over the bytes of a large checkpoint, if anybody can see it."""
    if quiet or not sys.stderr.isatty():
        yield None
        return
    from weights_tools.translation import open_source

    with open_source(path) as checkpoint:
        total = checkpoint.total_bytes
    if total < BAR_BYTES:
        yield None
        return
    from tqdm import tqdm

    with tqdm(total=total, unit="B", unit_scale=True, file=sys.stderr, leave=False) as bar:
        yield bar.update


COMMANDS = {"inspect": _inspect, "keys": _keys, "diff": _diff, "convert": _convert}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code.

    Raises:
        SystemExit: a wrong call (2), or --help (0).
    """
    given = list(sys.argv[1:] if argv is None else argv)
    if given[:1] == ["verify"]:
        return _verify(given[1:])
    arguments = _parser().parse_args(given)
    try:
        code = COMMANDS[arguments.command](arguments)
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        # The reader (`| head`) has seen enough; Python would complain once more when it closes stdout.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except (OSError, ValueError, ImportError) as error:  # ImportError: an extra is not installed
        print(f"error: {escaped(' '.join(str(error).split()))}", file=sys.stderr)
        return 2 if isinstance(error, WrongCall) else 1


if __name__ == "__main__":
    sys.exit(main())
