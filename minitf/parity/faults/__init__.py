"""Mistakes that people make when they port these models, as tables: what each is, its remedy, and how to make it.

`faults_for(model)` is the table of an architecture. `minitf.parity.diagnose` searches through it, and the tests inject
every entry and assert that the parity tests object.
"""

from __future__ import annotations

from typing import Any

from minitf.parity.faults.injecting import Fault

__all__ = ["Fault", "faults_for"]


def faults_for(model: Any) -> tuple[Fault, ...]:
    """The known mistakes of this model's architecture, in the order of a forward pass.

    Raises:
        ValueError: there is no table for this `config.model_type`.
    """
    kind = getattr(getattr(model, "config", None), "model_type", None)
    if kind == "bert":
        from minitf.parity.faults.bert_faults import FAULTS as BERT

        return BERT
    if kind == "gpt2":
        from minitf.parity.faults.gpt2_faults import FAULTS as GPT2

        return GPT2
    raise ValueError(
        f"there is no table of known mistakes for a {type(model).__name__} (model_type {kind!r}); there is for: "
        "bert, gpt2."
    )
