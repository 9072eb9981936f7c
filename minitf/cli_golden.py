"""`minitf golden`: write or check what a checkpoint computes, step by step, to test another program against."""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from minitf.cli import Parser, UsageError, _positive
from minitf.cli_output import readable_bytes, table, to_json
from minitf.cli_run import checkpoint_folder
from minitf.cli_verify import _number

if TYPE_CHECKING:
    from minitf.parity.golden import Bundle
    from minitf.pretrained import PreTrainedModel

logger = logging.getLogger("minitf.golden")

SEED, BATCH, TOKENS, PADDING = 0, 3, 8, "right"
RANDOM = ("seed", "batch", "tokens", "padding")  # options of random inputs
MAKING = ("out", "class_name", "text", "inputs", *RANDOM, "labels", "names", "no_weights", "overwrite")


def golden_parser() -> Parser:
    """`minitf golden FOLDER -o OUT`."""
    parser = Parser(
        "golden",
        "Write a golden bundle: inputs, weights, every named activation in float64 and float32, logits, loss,\n"
        "gradients, one AdamW step, and a decoder's greedy and beam tokens, as NumPy archives with versions and\n"
        "sha256 (docs/golden.md). Or check one: compute it again here and compare.\n"
        "Exit code 0: it is written, or is what minitf computes here; 1: it is not, or the work failed; 2: wrong call.",
        "examples:\n"
        "  minitf golden FOLDER -o bundle\n"
        '  minitf golden FOLDER -o bundle.zip --text "A cat sat." --text "It slept." --no-weights\n'
        "  minitf golden FOLDER -o bundle --names 'layer.*.resid_post' --labels 1,0,1\n"
        "  minitf golden --check bundle\n"
        "  minitf golden --check bundle FOLDER",
    )
    add = parser.add_argument
    add("folder", metavar="FOLDER", nargs="?", help="folder of the checkpoint, or a name in the local hub cache")
    add("-o", "--out", metavar="OUT", help="what to write: a folder, or a file that ends in .zip")
    add(
        "--class", dest="class_name", metavar="NAME", help="compute this class (default: the one that config.json says)"
    )
    add("--text", metavar="TEXT", action="append", help="compute this text, read by the folder's tokenizer; repeatable")
    add("--inputs", metavar="FILE", help="safetensors or .npz file with input_ids ... and labels")
    add("--seed", type=_number, metavar="S", help=f"random tokens: the same S, the same (default: {SEED})")
    add("--batch", type=_positive, metavar="N", help=f"rows of random tokens (default: {BATCH})")
    add("--tokens", type=_positive, metavar="N", help=f"random tokens in a row (default: {TOKENS})")
    add("--padding", choices=("right", "left", "none"), help=f"of random tokens (default: {PADDING})")
    add(
        "--labels",
        metavar="L",
        help="one number a row, as in 1,0,2 (classes with such labels); none: no loss (default: those in --inputs, "
        "else made up for the class)",
    )
    add("--names", metavar="P", action="append", help="only these activations: a name or pattern; repeatable")
    add("--no-weights", action="store_true", help="leave the parameters out")
    add("--overwrite", action="store_true", help="replace a bundle that is there")
    add(
        "--check", metavar="BUNDLE", help="compare this bundle with what is computed here, from its weights or FOLDER's"
    )
    add("--json", action="store_true", help="print one JSON object")
    return parser


def golden(arguments: argparse.Namespace) -> None:
    """Carry out `minitf golden`.

    Raises:
        SystemExit: 1, after the report, if a bundle that is checked differs.
        UsageError: options that do not go together.
    """
    if arguments.check is not None:
        # Not `in (None, False)`: --seed 0 is given, and 0 == False.
        given = [name for name in MAKING if (value := getattr(arguments, name)) is not None and value is not False]
        if given:
            option = "-o" if given[0] == "out" else "--" + given[0].removesuffix("_name").replace("_", "-")
            raise UsageError(f"--check computes what the bundle says, so {option} has no effect: leave it out")
        _check(arguments)
        return
    for value, what in ((arguments.folder, "FOLDER, the checkpoint"), (arguments.out, "-o OUT, what to write")):
        if value is None:
            raise UsageError(f"{what}, is missing")
    _make(arguments)


def _check(arguments: argparse.Namespace) -> None:
    from minitf.parity.golden import load
    from minitf.parity.golden_check import check

    bundle = load(arguments.check)
    model = None if arguments.folder is None else load_model(arguments.folder, bundle.description["class"])
    found = check(bundle, model)
    print(to_json(found.to_dict()) if arguments.json else found)
    sys.stdout.flush()
    if not found.ok:
        raise SystemExit(1)


def _make(arguments: argparse.Namespace) -> None:
    given = [name for name in ("text", "inputs") if getattr(arguments, name) is not None]
    random = [name for name in RANDOM if getattr(arguments, name) is not None]
    if len(given) > 1 or (given and random):
        raise UsageError(f"--{given[0]} and --{[*given[1:], *random][0]} both say what to compute: give one of them")
    from minitf.parity.golden_making import Settings, check_place, make

    place = Path(arguments.out)
    check_place(place, overwrite=arguments.overwrite)
    model = load_model(arguments.folder, arguments.class_name)
    inputs, source = inputs_of(arguments, model)
    settings = Settings() if arguments.names is None else Settings(names=tuple(arguments.names))
    bundle = make(
        model,
        inputs,
        place,
        settings=settings,
        source=source,
        weights=not arguments.no_weights,
        overwrite=arguments.overwrite,
    )
    description = {"bundle": str(bundle.path), **bundle.description}
    print(to_json(description) if arguments.json else "\n".join(as_text(bundle)))


def load_model(name: str, class_name: str | None) -> PreTrainedModel:
    """The model of a folder, every parameter from its file.

    Args:
        class_name: None = the first of `architectures` in config.json, else the trunk.

    Raises:
        ValueError: no such class, or parameters that the file does not hold, which would be random numbers.
    """
    import minitf
    from minitf.parity.sides import load_model as load_by_config
    from minitf.pretrained import PreTrainedModel

    folder = checkpoint_folder(name)
    if class_name is None:
        model: PreTrainedModel = load_by_config(str(folder))
    else:
        kind = getattr(minitf, class_name, None)
        if not (isinstance(kind, type) and issubclass(kind, PreTrainedModel)):
            raise ValueError(f"--class {class_name}: no such class of models in minitf")
        model = kind.from_pretrained(folder)
    report = model.load_report
    missing = list(report.missing) if report is not None else []
    if missing and type(model) is minitf.BertModel and all(name.startswith("pooler.") for name in missing):
        logger.warning("computed without the pooler, which %s does not hold", name)
        model = minitf.BertModel.from_pretrained(folder, add_pooling_layer=False)
    elif missing:
        raise ValueError(
            f"{name} does not hold {', '.join(missing)} of {type(model).__name__}: the bundle would be of random "
            "numbers. Choose a class that the file serves (--class)."
        )
    return model


def inputs_of(arguments: argparse.Namespace, model: PreTrainedModel) -> tuple[dict[str, Any], dict[str, Any]]:
    """(arguments of the forward with labels, where they come from).

    Raises:
        UsageError: --labels beside labels in the file, or not numbers. ValueError: they do not fit the class.
    """
    from minitf.parity.golden_inputs import LABELS, labels_for, random_inputs
    from minitf.parity.sides import read_inputs

    source: dict[str, Any]
    if arguments.inputs is not None:
        call = read_inputs(arguments.inputs)
        if call.past_length:
            raise ValueError(f"{arguments.inputs} has past_length {call.past_length}; a bundle has no call before.")
        inputs, source = dict(call.inputs), {"file": Path(arguments.inputs).name}
    elif arguments.text is not None:
        inputs, source = read_texts(arguments.folder, arguments.text, model), {"texts": arguments.text}
    else:
        chosen: dict[str, Any] = {
            "seed": SEED if arguments.seed is None else arguments.seed,
            "rows": arguments.batch or BATCH,
            "tokens": arguments.tokens or TOKENS,
            "padding": arguments.padding or PADDING,
        }
        inputs, source = random_inputs(model, **chosen), {"random": chosen}
    there = [name for name in LABELS if name in inputs]
    if arguments.labels is not None and there:
        raise UsageError(f"{arguments.inputs} holds {there[0]} already: leave --labels out")
    if there or arguments.labels == "none":
        return inputs, {**source, "labels": "of the file" if there else "none"}
    numbers = None if arguments.labels is None else _numbers(arguments.labels)
    labels = labels_for(model, inputs, numbers)
    return {**inputs, **labels}, {**source, "labels": ("made up" if numbers is None else "given") if labels else "none"}


def read_texts(folder: str, texts: list[str], model: PreTrainedModel) -> dict[str, Any]:
    """What the folder's tokenizer makes of texts, padded as it pads.

    Raises:
        ValueError: a class that reads several texts a row.
    """
    from minitf import AutoTokenizer
    from minitf.parity.golden_inputs import BY_CHOICE

    if type(model).__name__ in BY_CHOICE:
        raise ValueError(f"{type(model).__name__} reads [rows, choices, tokens]: give --inputs FILE, or --seed.")
    tokenizer = AutoTokenizer.from_pretrained(checkpoint_folder(folder))
    return dict(tokenizer(texts, padding=len(texts) > 1, return_tensors="pt"))


def _numbers(text: str) -> list[int]:
    parts = text.split(",")
    if not all(part.strip().isdecimal() for part in parts):
        raise UsageError(f"--labels {text}: expected numbers as in 1,0,2, or none")
    return [int(part) for part in parts]


def as_text(bundle: Bundle) -> list[str]:
    """The lines that are printed for a bundle that was written."""
    said = bundle.description
    (kind, fields), tokens = next(iter(said["objective"].items())), said["tokens"]
    lines = [f"{bundle.path}: {said['class']}, {said['computed']}"]
    rows = [["part", "arrays", "size", "sha256"]]
    for part in bundle.parts:
        row = said["files"][part]
        rows.append([part, str(row["arrays"]), readable_bytes(row["bytes"]), row["sha256"][:16]])
    lines += ["", *table(rows, right=[False, True, True, False]), ""]
    lines.append(f"gradients of the {kind} {', '.join(fields)}")
    if said["without gradient"]:
        lines.append(f"without gradient: {', '.join(said['without gradient'])}")
    if "none, because" in tokens:
        lines.append(f"no tokens: {tokens['none, because']}")
    return lines
