"""Compute the golden numbers of BERT with transformers 4.49.0, and write or check the committed files.

    python -m tests.goldens.make_bert_goldens             # write bert_*.safetensors and bert_goldens.json, here
    python -m tests.goldens.make_bert_goldens --check     # compute again, compare; exit code 1 where they differ
    python -m tests.goldens.make_bert_goldens --folder F  # either, in another folder

Runs from the repository's root in an environment of its own (requirements.txt); minitf is not imported.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import transformers

from tests.goldens.bert_cases import CASES
from tests.goldens.bert_runs import BASE_CONFIG, ENCODER_MASK, Result, run
from tests.goldens.files import DESCRIPTION, differences, fingerprint, read, same_machine, write

REQUIRED = "4.49.0"


def description(results: dict[str, Result]) -> dict[str, Any]:
    """What the JSON file says beside the numbers."""
    cases = {case.name: {**case.description(), "facts": results[case.name].facts} for case in CASES}
    return {
        "made by": "tests/goldens/make_bert_goldens.py",
        "made with": {"transformers": transformers.__version__, **fingerprint()},
        "parameters": "tests.support.random_value(name, shape, seed=0)",
        "base config": BASE_CONFIG,
        "encoder_attention_mask": ENCODER_MASK,
        "cases": cases,
    }


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--check", action="store_true", help="compare with the files instead of writing them")
    parser.add_argument("--folder", type=Path, default=Path(__file__).parent, help="where the files are")
    options = parser.parse_args(arguments)
    if transformers.__version__ != REQUIRED:
        print(f"transformers is {transformers.__version__}, but these goldens are of {REQUIRED}: see README.md")
        return 2
    transformers.logging.set_verbosity_error()
    results = {case.name: run(transformers, case) for case in CASES}
    new = json.loads(json.dumps(description(results)))
    if not options.check:
        size = write(options.folder, new, results)
        print(f"{len(CASES)} cases, {size} bytes in {options.folder / DESCRIPTION} and its bert_*.safetensors files")
        return 0
    old, goldens = read(options.folder)
    exact = same_machine(old["made with"])
    problems, largest = differences(old, goldens, new, results, exact=exact)
    print(*problems, sep="\n", end="\n" if problems else "")
    made, here = old["made with"], new["made with"]
    how = "bit for bit (same torch, numpy and processor)" if exact else f"rounded; made with {made}, here {here}"
    print(f"{len(CASES)} cases compared {how}; largest relative difference {largest:.3g}; {len(problems)} problems")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
