"""Writing an `.npz` file a tensor at a time, as `numpy.savez` writes it: one stored record `NAME.npy` for each tensor.

numpy.savez wants all arrays at once; a conversion should hold one. Format: `numpy.lib.format` (its docstring describes
`.npy`), in a zip archive without compression.
"""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from typing import BinaryIO

import numpy as np
import torch

from weights_tools.npz_file import DTYPES
from weights_tools.saving import Pending, blocks

NAMES = {dtype: name for name, dtype in DTYPES.items()}


def write_npz(file: BinaryIO, tensors: Mapping[str, torch.Tensor | Pending]) -> None:
    """Write what `numpy.load` reads.

    Args:
        file: open for writing, with a position that can be set.
        tensors: name -> tensor, or `Pending`.

    Raises:
        TypeError: a dtype that numpy has not. ValueError: a `Pending` tensor came with another shape.
        OSError: the disk is full.
    """
    for name, tensor in tensors.items():
        if tensor.dtype not in NAMES:
            raise TypeError(f"{name} has dtype {tensor.dtype}, which numpy has not: convert it first")
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for name, tensor in tensors.items():
            header = {
                "descr": np.dtype(NAMES[tensor.dtype]).newbyteorder("=").str,
                "fortran_order": False,
                "shape": tuple(tensor.shape),
            }
            with archive.open(f"{name}.npy", "w", force_zip64=True) as entry:
                np.lib.format.write_array_header_1_0(entry, header)
                # A loop variable would keep the last tensor alive while the next one is read.
                entry.writelines(block.view(torch.uint8).numpy().data for block in blocks(name, tensor))
