"""What programs around a model put before and between the names of its tensors.

Sources: torch's own modules (torch.compile's OptimizedModule, DataParallel, DistributedDataParallel, FSDP, the
checkpoint wrapper), DeepSpeed's engine, Lightning (LightningModule with `self.model`, `_forward_module` of its
strategies).
"""

from __future__ import annotations

from collections.abc import Sequence

# Whole parts of a name that no module of a model is called by: taken out at any depth.
ANYWHERE = {
    "_orig_mod": "torch.compile",
    "_fsdp_wrapped_module": "FSDP",
    "_checkpoint_wrapped_module": "torch's checkpoint wrapper",
    "_forward_module": "Lightning",
}
# Words that a model may have inside as well: taken off the beginning only.
BEFORE = {
    "module": "DataParallel, DDP or DeepSpeed",
    "model": "a program that holds the model as self.model (Lightning)",
}


def unwrapped(name: str) -> str:
    """`name` without what such programs put there, in any order and number.

    >>> unwrapped("module._orig_mod.bert.encoder.layer.0._fsdp_wrapped_module.output.dense.bias")
    'bert.encoder.layer.0.output.dense.bias'
    """
    parts = [part for part in name.split(".") if part not in ANYWHERE]
    while len(parts) > 1 and parts[0] in BEFORE:
        parts.pop(0)
    return ".".join(parts)


def wrapping(names: Sequence[str]) -> str | None:
    """Why these are names in wrappers, or None: a part that only wrappers have, or one beginning of every name."""
    for name in names:
        found = next((part for part in name.split(".") if part in ANYWHERE), None)
        if found:
            return f"{name!r} holds {found!r}, which {ANYWHERE[found]} puts there"
    for word, program in BEFORE.items():
        if names and all(name.startswith(f"{word}.") for name in names):
            return f"every name begins with '{word}.', as {program} leaves it"
    return None
