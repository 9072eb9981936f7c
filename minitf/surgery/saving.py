"""A changed model must not be saved as if it were a plain one: `save_pretrained` asks first.

A module that a plain checkpoint cannot hold says so with a text, its attribute `not_saved`: the pieces of an adapter,
and a module that stands in the place of another. While a model has one, its `save_pretrained` (minitf's or
transformers') is an error with that text; `state_dict()` and `torch.save` work as ever.
"""

from __future__ import annotations

from typing import Any

from torch import nn

__all__ = ["CheckedSave", "check_plain", "guard"]


def check_plain(model: nn.Module) -> None:
    """No module of the model says that a plain checkpoint could not hold it.

    Raises:
        RuntimeError: one does; the message has its path, the reason and the remedy.
    """
    for path, module in model.named_modules():
        reason = getattr(module, "not_saved", None)
        if reason:
            raise RuntimeError(f"{type(model).__name__}.save_pretrained: {path.removesuffix('.adapters')} {reason}")


class CheckedSave:
    """What stands before a model's `save_pretrained`: `check_plain`, then the method of its class."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model

    def __call__(self, *args: Any, **settings: Any) -> Any:
        check_plain(self.model)
        kind: Any = type(self.model)
        return kind.save_pretrained(self.model, *args, **settings)


def guard(model: nn.Module) -> None:
    """Put a `CheckedSave` before `save_pretrained` of the model and of every model inside it; once plain, take it away.

    A model that *contains* the given one is not reached: minitf's ask for themselves (`minitf.saving`), for another
    library's surgery is done on the model that will be saved.
    """
    for module in model.modules():
        if not hasattr(type(module), "save_pretrained"):
            continue
        if any(getattr(part, "not_saved", None) for part in module.modules()):
            checked: Any = CheckedSave(module)
            module.save_pretrained = checked  # an attribute of the object goes before the method of its class
        elif isinstance(vars(module).get("save_pretrained"), CheckedSave):
            del module.save_pretrained
