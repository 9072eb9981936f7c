"""`minitf names`: what `minitf.tracing` can capture or patch in a checkpoint, with shapes."""

from __future__ import annotations

import argparse
import re
from math import prod
from typing import TYPE_CHECKING, Any

from minitf import __version__
from minitf.cli import Parser, _positive
from minitf.cli_output import readable_bytes, table, to_json
from minitf.cli_run import checkpoint_folder

if TYPE_CHECKING:
    from minitf.tracing import Outline

LETTERS = {"B": "batch", "T": "tokens", "S": "key positions (T and the cache's)", "E": "encoder positions"}


def names_parser() -> Parser:
    """`minitf names FOLDER`."""
    parser = Parser(
        "names",
        "The values that `minitf.tracing` can capture or patch, in the order of execution, with shapes. Layers whose\n"
        "shapes agree are one line; a line is also the pattern that finds them.",
        "examples:\n"
        "  minitf names FOLDER\n"
        "  minitf names FOLDER --pattern '**.{scores,probs}' --tokens 128\n"
        "  minitf names FOLDER --pattern 'layer.*.resid_post' --json",
    )
    add = parser.add_argument
    add("folder", metavar="FOLDER", help="folder of the checkpoint, or a name in the local hub cache")
    add("--pattern", metavar="P", default="all", help="only these names; aliases too (default: all names)")
    add(
        "--tokens",
        metavar="N",
        type=_positive,
        help="numbers for one text of N tokens, with bytes, in place of letters",
    )
    add("--json", action="store_true", help="print one JSON object, a line for every name")
    return parser


def names(arguments: argparse.Namespace) -> None:
    """Carry out `minitf names`.

    Raises:
        ValueError: the pattern finds nothing, or --tokens is more than the model has positions for.
    """
    folder = checkpoint_folder(arguments.folder)
    from minitf.parity.sides import load_model
    from minitf.tracing import outline
    from minitf.tracing.names import Names

    model = load_model(str(folder))
    longest = model.config.max_position_embeddings
    if arguments.tokens is not None and arguments.tokens > longest:
        raise ValueError(f"--tokens {arguments.tokens}: this model has {longest} positions (max_position_embeddings)")
    facts = {
        "minitf": __version__,
        "folder": str(folder),
        "class": type(model).__name__,
        "tokens": arguments.tokens,
        "names": [as_row(name, value, arguments.tokens) for name, value in outline(model, arguments.pattern).items()],
        "aliases": Names.of(model).aliases,
    }
    print(to_json(facts) if arguments.json else "\n".join(as_text(facts, with_aliases=arguments.pattern == "all")))


def as_row(name: str, value: Outline, tokens: int | None) -> dict[str, Any]:
    """One name: shape in letters, or in numbers with its bytes."""
    if tokens is None:
        return {"name": name, "shape": list(value.dims)}
    shape = value.shape(batch=1, tokens=tokens, encoder=tokens)
    return {"name": name, "shape": list(shape), "bytes": prod(shape) * value.itemsize}


def as_text(facts: dict[str, Any], *, with_aliases: bool) -> list[str]:
    """The lines that `minitf names` prints."""
    rows, tokens = facts["names"], facts["tokens"]
    call = "one text" if tokens is None else f"one text of {tokens} tokens"
    used = {letter for row in rows for dim in row["shape"] if isinstance(dim, str) for letter in dim}
    meaning = [f"{letter} {word}" for letter, word in LETTERS.items() if letter in used]
    count = "1 name" if len(rows) == 1 else f"{len(rows)} names"
    lines = [f"{facts['class']}: {count}, in the order of execution of {call}"]
    lines += [", ".join(meaning)] * bool(meaning) + [""]
    cells = []
    for label, members in folded(rows):
        shape = f"[{', '.join(map(str, members[0]['shape']))}]"
        total = sum(row.get("bytes", 0) for row in members)
        cells.append([label, shape] if tokens is None else [label, shape, readable_bytes(total)])
    if tokens is not None:
        cells.append(["together", "", readable_bytes(sum(row["bytes"] for row in rows))])
    lines += table(cells, right=[False, False] if tokens is None else [False, False, True])
    if with_aliases and facts["aliases"]:
        aliases = [{"name": alias, "shape": template(name)} for alias, name in facts["aliases"].items()]
        pairs = [
            [label, f"= {whole([facts['aliases'][row['name']] for row in members])}"]
            for label, members in folded(aliases)
        ]
        lines += ["", "aliases", *table(pairs, right=[False, False])]
    return lines


def folded(rows: list[dict[str, Any]]) -> list[tuple[str, list[dict[str, Any]]]]:
    """Rows that differ in the number of a layer only, under one label, in the order of the first of them."""
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault((template(row["name"]), str(row["shape"])), []).append(row)
    return [(whole([row["name"] for row in members]), members) for members in groups.values()]


def template(name: str) -> str:
    """`h.3.attn.query` -> `h.{}.attn.query`."""
    return re.sub(r"(?<=\.)\d+(?=\.)", "{}", name)


def whole(names: list[str]) -> str:
    """`["h.0.output", "h.1.output"]` -> `h.{0..1}.output`."""
    from weights_tools.report import fold

    return names[0] if len(names) == 1 else ", ".join(fold(names))
