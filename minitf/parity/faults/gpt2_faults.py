"""Mistakes that people really make when they port GPT-2, as data: a name, what it is, the remedy, and how to make it.

`BY_NAME["c-proj-not-transposed"].inject(model)` is a context manager: inside, the given model has the mistake; outside,
it is as before.

How the mistakes show, and that the parity tests object to each, is in tests/faults/test_gpt2_faults.py.
"""

from __future__ import annotations

from minitf.parity.faults import gpt2_cache_faults, gpt2_head_faults, gpt2_trunk_faults
from minitf.parity.faults.injecting import Fault

FAULTS: tuple[Fault, ...] = (*gpt2_trunk_faults.FAULTS, *gpt2_head_faults.FAULTS, *gpt2_cache_faults.FAULTS)
"""All mistakes: the trunk in the order of its forward pass, heads and losses, cache and cross-attention."""

BY_NAME: dict[str, Fault] = {entry.name: entry for entry in FAULTS}

NOT_IN_GPT2: dict[str, str] = {
    "pooler or its tanh left out": (
        "GPT-2 has no pooler. Its classifier reads the last token, and the mistakes with that are classifier-reads-the-"
        "last-position and the four after it; the second head's is mc-token-ids-ignored."
    ),
    "RoBERTa's position offset of 2": (
        "RoBERTa is a BERT. The decoder with the same offset is OPT: positions-with-opts-offset."
    ),
    "cls.predictions.bias dropped": "GPT-2's lm_head has no bias.",
}
"""Mistakes of the project's list that GPT-2 cannot make, and why."""
