"""Compute the golden numbers of decoding with transformers 4.49.0, and write or check the committed files.

    python -m tests.goldens.make_generation_goldens             # write generation_goldens.json and the tensors
    python -m tests.goldens.make_generation_goldens --check     # compute again, compare; exit code 1 where they differ
    python -m tests.goldens.make_generation_goldens --folder F  # either, in another folder

Runs from the repository's root in an environment of its own (requirements.txt); minitf is not imported.
"""

from __future__ import annotations

import sys

from tests.goldens.generation_cases import CASES
from tests.goldens.generation_runs import BASE_CONFIG, run
from tests.goldens.making import make

if __name__ == "__main__":
    sys.exit(make("generation", CASES, BASE_CONFIG, run))
