"""`python -m weights_tools`: look at weights files without loading a model.

Results go to stdout, errors to stderr as one line. Exit codes: 0 fine, 1 a problem with the file, 2 a wrong call.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m weights_tools", description="Look at weights files.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    inspect = commands.add_parser(
        "inspect",
        help="names, shapes, dtypes, sizes, and what is unusual",
        description="Print what a checkpoint holds, layers folded into one line, and what is unusual about it. "
        "Exit code 1 if something is wrong with it.",
    )
    inspect.add_argument(
        "path",
        metavar="PATH",
        help="a folder, a weights file (safetensors, torch.save, .npz), an index JSON, a TensorFlow checkpoint "
        "(its .index, or the beginning of its files' names), or a name in the hub's cache",
    )
    inspect.add_argument("--json", action="store_true", help="print JSON")
    inspect.add_argument("--names", action="store_true", help="one line for every tensor, nothing folded")
    inspect.add_argument("--values", action="store_true", help="read every number: count NaN and infinity, find zeros")
    return parser


def _inspect(arguments: argparse.Namespace) -> int:
    # Imported here so that --help does not wait for torch.
    from weights_tools.files import bundle_index
    from weights_tools.hub import resolve
    from weights_tools.inspection import inspect

    place = bundle_index(arguments.path) or resolve(arguments.path, local_files_only=True)
    result = inspect(place, values=arguments.values)
    with result.checkpoint:
        print(json.dumps(result.to_dict(), indent=2) if arguments.json else result.to_text(every_name=arguments.names))
    return 1 if result.problems else 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code.

    Raises:
        SystemExit: a wrong call (2), or --help (0).
    """
    arguments = _parser().parse_args(argv)
    try:
        code = _inspect(arguments)
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        # The reader (`| head`) has seen enough; Python would complain once more when it closes stdout.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (OSError, ValueError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
