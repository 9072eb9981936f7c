"""`minitf compare`: where two implementations of a model first diverge."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from minitf.cli import Parser, UsageError
from minitf.cli_output import to_json

if TYPE_CHECKING:
    import torch

    from minitf.parity.runs import Call

DTYPES = ("float32", "float64", "bfloat16", "float16")
SIDES = "a checkpoint's folder (transformers:FOLDER for transformers' own class) or a dump (docs/dumps.md)"


def compare_parser() -> Parser:
    """`minitf compare A B`."""
    parser = Parser(
        "compare",
        "Compare two implementations of a model value by value, and name the first operation that differs.\n"
        "The reference is A, or the model if only one of the two is one. Differences are measured in noise floors:\n"
        "the reference's own error in the port's dtype against float64.\n"
        "Exit code 0: all values agree; 1: they diverge, or the comparison failed; 2: wrong call.",
        "examples:\n"
        "  minitf compare FOLDER port.safetensors\n"
        "  minitf compare FOLDER port.npz --map names.json --html report.html\n"
        '  minitf compare FOLDER transformers:FOLDER --text "A cat sat."\n'
        '  minitf compare FOLDER port.safetensors --names "**.scores" "**.probs"',
    )
    add = parser.add_argument
    add("a", metavar="A", help=SIDES)
    add("b", metavar="B", help="the same")
    add("--map", metavar="FILE", help="JSON file: names of the dump -> names of the reference (docs/dumps.md)")
    add("--names", metavar="NAME", nargs="+", help="compare only these names or patterns (`minitf names` lists them)")
    add_inputs(parser)
    add("--json", action="store_true", help="print one JSON object with every row")
    add("--html", metavar="OUT", help="also write a page with every row")
    return parser


def add_inputs(parser: Parser) -> None:
    """Options that `compare` and `diagnose` share: what the reference runs on, and the port's dtype."""
    add = parser.add_argument
    add("--inputs", metavar="FILE", help="safetensors or .npz file with input_ids ... (default: those in the dump)")
    add("--text", metavar="TEXT", action="append", help="run on this text instead; may be repeated")
    add("--dtype", choices=DTYPES, help="what the port computed in (default: as the dump or the model says)")


def compare(arguments: argparse.Namespace) -> None:
    """Carry out `minitf compare`; SystemExit(1) if the two diverge."""
    if arguments.html and Path(arguments.html).is_dir():
        raise IsADirectoryError(f"--html {arguments.html} is a folder; expected the name of a file")
    if arguments.html and not Path(arguments.html).absolute().parent.is_dir():
        raise FileNotFoundError(f"--html {arguments.html}: there is no such folder to write to; make it first")
    from minitf.parity.compare import compare as compare_sides

    found = compare_sides(
        existing(arguments.a),
        existing(arguments.b),
        inputs=inputs_of(arguments, arguments.a, arguments.b),
        names=arguments.names,
        map=arguments.map,
        dtype=dtype_of(arguments),
    )
    if arguments.html:
        from minitf.parity.report_html import comparison_page
        from weights_tools import write_atomically

        write_atomically(arguments.html, comparison_page(found).encode("utf-8"))
    print(to_json(found.to_dict()) if arguments.json else found)
    if found.diverges:
        raise SystemExit(1)


def existing(side: str) -> str:
    """`side`, if it can be a path or a checkpoint's name.

    Raises:
        FileNotFoundError: a file name without a file, which would otherwise be looked for among checkpoints.
    """
    if Path(side).suffix in (".safetensors", ".npz") and not Path(side).exists():
        raise FileNotFoundError(f"{side}: no such dump")
    return side


def dtype_of(arguments: argparse.Namespace) -> torch.dtype | None:
    """The dtype that --dtype names."""
    import torch

    return None if arguments.dtype is None else getattr(torch, arguments.dtype)


def inputs_of(arguments: argparse.Namespace, *sides: str) -> str | Call | dict[str, Any] | None:
    """What --inputs or --text gives; a text is read with the tokenizer of the first side that is a folder.

    Raises:
        UsageError: both options, or no folder with a tokenizer.
    """
    if arguments.text is None:
        return None if arguments.inputs is None else os.fspath(arguments.inputs)
    if arguments.inputs is not None:
        raise UsageError("--text and --inputs both say what to run on: give one of them")
    folder = next((side for side in sides if not Path(side).is_file()), None)
    if folder is None:
        raise UsageError("--text needs the tokenizer of a folder, and both sides are dumps")
    from minitf import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder.removeprefix("transformers:"))
    return dict(tokenizer(arguments.text, padding=len(arguments.text) > 1, return_tensors="pt"))
