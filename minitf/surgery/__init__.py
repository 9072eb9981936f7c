"""Change a model without editing the package: replace modules, add LoRA and bottleneck adapters. Any `nn.Module`.

    replacing.py   replace(model, pattern, builder): other modules on the old weights, and back
    pieces.py      Lora, Bottleneck: what an adapter adds to one layer
    adapters.py    add, choose, train, delete adapters by name
    merging.py     LoRA into the weights, and out again
    files.py       save and load an adapter alone
    heads.py       AdapterModel: the same as methods, with heads by name
    saving.py      why a changed model refuses save_pretrained

Attention functions of your own need no surgery: `minitf.attention.register`. `docs/surgery.md` has examples of all.
"""

from minitf.surgery.adapters import (
    AdapterInfo,
    Trainable,
    add_adapter,
    delete_adapter,
    list_adapters,
    set_active_adapters,
    train_adapter,
)
from minitf.surgery.files import AdapterFile, load_adapter, read_adapter, save_adapter
from minitf.surgery.heads import AdapterModel, ClassificationHead
from minitf.surgery.merging import Merged, merge
from minitf.surgery.pieces import Bottleneck, Lora
from minitf.surgery.replacing import Replaced, replace

__all__ = [
    "AdapterFile",
    "AdapterInfo",
    "AdapterModel",
    "Bottleneck",
    "ClassificationHead",
    "Lora",
    "Merged",
    "Replaced",
    "Trainable",
    "add_adapter",
    "delete_adapter",
    "list_adapters",
    "load_adapter",
    "merge",
    "read_adapter",
    "replace",
    "save_adapter",
    "set_active_adapters",
    "train_adapter",
]
