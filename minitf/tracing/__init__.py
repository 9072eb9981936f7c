"""Read or replace any intermediate value of a model by its name.

    with capture(model, "layer.*.resid_post") as record:
        model(input_ids)
    record["layer.3.resid_post"]                                          # [B, T, C]

    with patch(model, {"layer.3.resid_post": torch.zeros_like}):
        model(input_ids)

It works on any `nn.Module`, transformers' own models included: names are module paths, and the two libraries share
their module trees. Names and patterns stand in `minitf.tracing.names`, how attention is looked into in
`minitf.tracing.hooks`.
"""

from minitf.tracing.names import names
from minitf.tracing.patching import patch, patched
from minitf.tracing.recording import Record, Step, capture, captured
from minitf.tracing.shapes import Outline, memory_cost, outline

__all__ = ["Outline", "Record", "Step", "capture", "captured", "memory_cost", "names", "outline", "patch", "patched"]
