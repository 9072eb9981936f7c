"""Mistakes that people really make when they port BERT, as data: a name, what it is, the remedy, and how to make it.

`BY_NAME["value-bias-dropped"].inject(model)` is a context manager: inside, the given minitf model has the mistake;
outside, it is as before.

How the mistakes show, and that the parity tests object to each, is in tests/faults/test_bert_faults.py.
"""

from __future__ import annotations

from minitf.parity.faults import bert_decoder_faults, bert_head_faults, bert_trunk_faults
from minitf.parity.faults.injecting import Fault

FAULTS: tuple[Fault, ...] = (*bert_trunk_faults.FAULTS, *bert_head_faults.FAULTS, *bert_decoder_faults.FAULTS)
"""All mistakes: the trunk in the order of its forward pass, heads and losses, decoder, controls."""

BY_NAME: dict[str, Fault] = {entry.name: entry for entry in FAULTS}

NOT_IN_BERT: dict[str, str] = {
    "left padding without shifted position ids": (
        "BERT's positions are 0 ... T - 1 whatever the padding, so this is what it does; the mistake is the opposite "
        "one, positions-skip-padding. The parity tests pad on both sides."
    ),
    "hidden states before or after the final LayerNorm": (
        "BERT has no final LayerNorm: it is post-norm. Its form of the mistake is last-layer-left-out and "
        "hidden-states-without-the-embeddings."
    ),
}
"""Mistakes of the project's list that BERT cannot make, and why."""
