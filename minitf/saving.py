"""From a model to a folder: `PreTrainedModel.save_pretrained`.

The configuration, the weights and the defaults of `generate` change in one step (`weights_tools.transaction`): a kill
at any moment leaves the whole old model or the whole new one.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor

from minitf.config import CONFIG_NAME, folder_to_write
from minitf.keywords import nearest_name
from weights_tools.common import same_bits
from weights_tools.files import parse_size, save_checkpoint
from weights_tools.memory_file import MemoryFile
from weights_tools.report import fold

if TYPE_CHECKING:
    from minitf.pretrained import PreTrainedModel

__all__ = ["save_model"]


def save_model(
    model: PreTrainedModel,
    save_directory: str | os.PathLike[str],
    *,
    state_dict: Mapping[str, Tensor] | None,
    max_shard_size: int | str,
    safe_serialization: bool,
) -> None:
    """See `PreTrainedModel.save_pretrained`, whose arguments these are."""
    from minitf.surgery.saving import check_plain

    folder = folder_to_write(save_directory)
    if not isinstance(safe_serialization, bool):
        raise TypeError(f"safe_serialization = {safe_serialization!r}: expected True or False.")
    parse_size(max_shard_size)  # an unreadable size is an error before anything is written
    model.check_ties()
    model.check_pruned_heads()
    check_plain(model)
    own = model.state_dict()
    tensors = own if state_dict is None else checked_state_dict(model, own, state_dict)
    config = copy.deepcopy(model.config)
    config.architectures = [type(model).__name__]
    config.dtype = str(next(tensor.dtype for tensor in tensors.values() if tensor.is_floating_point()))
    files: dict[str, bytes | None] = {CONFIG_NAME: config.to_json_string().encode(), **model.files_beside()}
    ties = model.ties()
    save_checkpoint(
        folder,
        {name: tensor for name, tensor in tensors.items() if name not in ties},
        max_shard_size=max_shard_size,
        metadata={"format": "pt"},
        format="safetensors" if safe_serialization else "pytorch",
        files=files,
    )


def checked_state_dict(
    model: PreTrainedModel, own: Mapping[str, Tensor], given: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """`given` in the order of the model's own state dict, after every name and shape was compared.

    Raises:
        ValueError: a name that the model does not have, one that is missing, another shape, or two names of one tied
            parameter that hold different values. TypeError: a value that is not a dense floating-point tensor.
    """
    what = f"state_dict of {type(model).__name__}.save_pretrained"
    MemoryFile(given, Path(what))  # its checks alone: a mapping of names to tensors with data
    for name, tensor in given.items():
        if name not in own:
            raise ValueError(f"{what} has the name {name!r}, which the model does not have{nearest_name(name, [*own])}")
        if not tensor.is_floating_point():
            raise TypeError(f"{what}: {name} has the dtype {tensor.dtype}; weights are floating point.")
        if tensor.shape != own[name].shape:
            raise ValueError(
                f"{what}: {name} has the shape {list(tensor.shape)}, in the model it has {list(own[name].shape)}: give "
                "weights that fit, or change the model first (resize_token_embeddings, prune_heads)."
            )
    ties = model.ties()
    complete = dict(given)
    for alias, canonical in ties.items():
        present = [given[name] for name in (alias, canonical) if name in given]
        if len(present) == 2 and not same_bits(*present):
            raise ValueError(f"{what}: {alias} and {canonical} are one parameter and hold different values: give one.")
        if present:
            complete[alias] = complete[canonical] = present[-1]
    missing = [name for name in own if name not in complete]
    if missing:
        raise ValueError(f"{what} lacks {', '.join(fold(missing))}: a folder holds a whole model.")
    return {name: complete[name] for name in own}
