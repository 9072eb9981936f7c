"""`minitf verify`: the user's own checkpoint, minitf beside the installed transformers, and a parity statement."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from minitf.cli import Parser, UsageError, _positive
from minitf.cli_output import escaped, to_json
from minitf.cli_run import checkpoint_folder

if TYPE_CHECKING:
    from minitf.parity.verify_report import Row


def verify_parser() -> Parser:
    """`minitf verify FOLDER`."""
    parser = Parser(
        "verify",
        "Compute a checkpoint with minitf and with the installed transformers, and compare: every class that the file\n"
        "serves, dtypes, attention functions, paddings, cache, generation, weights, tokenizer. The report ends with a\n"
        "statement that can be pasted in an issue.\n"
        "Exit code 0: all is identical or within the noise; 1: it is not, or nothing could be compared; 2: wrong call.",
        "examples:\n"
        "  minitf verify FOLDER\n"
        "  minitf verify FOLDER --quick --json\n"
        "  minitf verify FOLDER --class BertForMaskedLM --dtype float64 --tokens 128",
    )
    add = parser.add_argument
    add("folder", metavar="FOLDER", help="folder of the checkpoint, or a name in the local hub cache")
    add("--class", dest="class_name", metavar="NAME", help="only this class (default: every one that the file serves)")
    add(
        "--dtype",
        action="append",
        choices=("float32", "float64", "bfloat16", "float16"),
        help="compute in this dtype; may be repeated (default: float32, float64 and bfloat16)",
    )
    add("--quick", action="store_true", help="one class, float32, padding on the left, no beams")
    add("--json", action="store_true", help="print one JSON object with every row")
    add("--tokens", type=_positive, metavar="N", help="tokens in a row (default: 32, or what the model reads)")
    add("--batch", type=_positive, default=3, metavar="N", help="rows (default: 3)")
    add("--seed", type=_number, default=0, metavar="S", help="of the random tokens: the same S, the same (default: 0)")
    add(
        "--threads",
        type=_positive,
        default=1,
        metavar="N",
        help="of torch (default: 1, with which equal programs give equal bits)",
    )
    add("--config", metavar="FILE", help="the configuration, if the folder has no config.json")
    add("--dialect", metavar="NAME", help="whose names the weights have (default: recognised)")
    return parser


def _number(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of 0 or more")
    return int(text)


def verify(arguments: argparse.Namespace) -> None:
    """Carry out `minitf verify`.

    Raises:
        SystemExit: 1, after the report, if something differs or nothing could be compared.
        UsageError: arguments that do not fit this checkpoint.
    """
    checkpoint_folder(arguments.folder)  # its errors are shorter
    from minitf.parity.verify import WrongCall
    from minitf.parity.verify import verify as compared

    try:
        with _progress() as on_row:
            report = compared(
                arguments.folder,
                class_name=arguments.class_name,
                dtypes=arguments.dtype,
                quick=arguments.quick,
                tokens=arguments.tokens,
                batch=arguments.batch,
                seed=arguments.seed,
                threads=arguments.threads,
                config=arguments.config,
                dialect=arguments.dialect,
                on_row=on_row,
            )
    except WrongCall as error:
        raise UsageError(str(error)) from None
    if arguments.json:
        print(to_json(report.to_dict()))
    else:
        print("\n".join(map(escaped, str(report).splitlines())))
    sys.stdout.flush()
    if not report.ok:
        raise SystemExit(1)


@contextmanager
def _progress() -> Iterator[Callable[[Row], None] | None]:
    """What is called with each row: a line on stderr that counts them, if stderr is a terminal."""
    if not sys.stderr.isatty():
        yield None
        return
    from tqdm import tqdm

    with tqdm(unit=" rows", file=sys.stderr, leave=False, bar_format="{n} rows, {elapsed}: {desc}") as bar:

        def counted(row: Row) -> None:
            bar.set_description_str(" ".join(part for part in (row.name, row.check, row.dtype) if part))
            bar.update()

        yield counted
