"""What the two `make_*_goldens` scripts share: compute every case with transformers 4.49.0, then write or compare."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import transformers

from tests.goldens.bert_runs import ENCODER_MASK, Case, Result
from tests.goldens.files import differences, fingerprint, read, same_machine, write

REQUIRED = "4.49.0"


def description(
    family: str, cases: Sequence[Case], base_config: dict[str, Any], results: dict[str, Result]
) -> dict[str, Any]:
    """What the JSON file says beside the numbers."""
    return {
        "made by": f"tests/goldens/make_{family}_goldens.py",
        "made with": {"transformers": transformers.__version__, **fingerprint()},
        "parameters": "tests.support.random_value(name, shape, seed=0)",
        "base config": base_config,
        "encoder_attention_mask": ENCODER_MASK,
        "cases": {case.name: {**case.description(), "facts": results[case.name].facts} for case in cases},
    }


def make(
    family: str,
    cases: Sequence[Case],
    base_config: dict[str, Any],
    run: Callable[[Any, Case], Result],
    arguments: list[str] | None = None,
) -> int:
    """The command line of a script; returns its exit code."""
    parser = argparse.ArgumentParser(description=f"Golden numbers of {family} with transformers {REQUIRED}.")
    parser.add_argument("--check", action="store_true", help="compare with the files instead of writing them")
    parser.add_argument("--folder", type=Path, default=Path(__file__).parent, help="where the files are")
    options = parser.parse_args(arguments)
    if transformers.__version__ != REQUIRED:
        print(f"transformers is {transformers.__version__}, but these goldens are of {REQUIRED}: see README.md")
        return 2
    transformers.logging.set_verbosity_error()
    results = {case.name: run(transformers, case) for case in cases}
    new = json.loads(json.dumps(description(family, cases, base_config, results)))
    if not options.check:
        size = write(options.folder, new, results, cases, family)
        print(f"{len(cases)} cases, {size} bytes in {options.folder} as {family}_*")
        return 0
    old, goldens = read(options.folder, family)
    exact = same_machine(old["made with"])
    problems, largest = differences(old, goldens, new, results, exact=exact)
    print(*problems, sep="\n", end="\n" if problems else "")
    made, here = old["made with"], new["made with"]
    how = "bit for bit (same torch, numpy and processor)" if exact else f"rounded; made with {made}, here {here}"
    print(f"{len(cases)} cases compared {how}; largest relative difference {largest:.3g}; {len(problems)} problems")
    return 1 if problems else 0
