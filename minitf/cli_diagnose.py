"""`minitf diagnose`: which known mistake explains the numbers of a port."""

from __future__ import annotations

import argparse

from minitf.cli import Parser, _positive
from minitf.cli_compare import add_inputs, dtype_of, existing, inputs_of
from minitf.cli_output import to_json


def diagnose_parser() -> Parser:
    """`minitf diagnose REFERENCE DUMP`."""
    parser = Parser(
        "diagnose",
        "Run the reference with each known mistake, alone and in pairs, and say which gives the numbers of a dump.\n"
        "Exit code 0: the dump has no mistake; 1: it has one, known or unknown, or the search failed; 2: wrong call.",
        "examples:\n"
        "  minitf diagnose FOLDER port.safetensors\n"
        "  minitf diagnose FOLDER port.npz --map names.json --top 10",
    )
    add = parser.add_argument
    add("reference", metavar="REFERENCE", help="folder of the checkpoint, or a name in the local hub cache")
    add("dump", metavar="DUMP", help="what the port computed: a safetensors or .npz file (docs/dumps.md)")
    add("--map", metavar="FILE", help="JSON file: names of the dump -> names of the reference (docs/dumps.md)")
    add_inputs(parser)
    add("--top", type=_positive, default=5, metavar="N", help="list the N nearest mistakes (default: 5)")
    add("--json", action="store_true", help="print one JSON object with every candidate")
    return parser


def diagnose(arguments: argparse.Namespace) -> None:
    """Carry out `minitf diagnose`; SystemExit(1) if the port has a mistake."""
    from minitf.parity.diagnose import NO_MISTAKE
    from minitf.parity.diagnose import diagnose as search
    from minitf.parity.report_text import diagnosis_text

    found = search(
        arguments.reference,
        existing(arguments.dump),
        inputs=inputs_of(arguments, arguments.reference),
        map=arguments.map,
        dtype=dtype_of(arguments),
    )
    print(to_json(found.to_dict()) if arguments.json else "\n".join(diagnosis_text(found, arguments.top)))
    if found.verdict != NO_MISTAKE:
        raise SystemExit(1)
