"""Every container cut off at each percent and damaged at random, read in a process with a limit of memory.

What may come out is in the head of `damage.py`. Where the container has checksums (zip, npz, TensorFlow's bundle) the
tensors are identical or the file is refused. Where it has none (safetensors, torch's old stream, HDF5) a flipped bit of
a number *is* another number: nobody can notice, and what is proved is that nothing else changes: the tensor is exactly
what the damaged bytes say, its name and shape are as before, and damage to a name or a shape is visible to the
report of a strict load.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.weights.damage import outcomes

WITH_CHECKSUMS = ("zip", "npz", "npz packed", "bundle", "bundle packed")
WITHOUT = ("safetensors", "stream")
QUICK, MANY = 300, 2000


@pytest.mark.parametrize("container", [*WITH_CHECKSUMS, *WITHOUT])
def test_cut_off_at_every_percent(container: str, tmp_path: Path) -> None:
    counts = outcomes(container, tmp_path)
    assert set(counts) == {"refused"}
    assert counts["refused"] in (100, 200)  # a bundle has two files


def test_hdf5_cut_off_at_every_percent(tmp_path: Path) -> None:
    pytest.importorskip("h5py")
    assert outcomes("hdf5", tmp_path) == {"refused": 100}


@pytest.mark.parametrize("count", [100, pytest.param(MANY, marks=pytest.mark.slow)])
def test_hdf5_damaged(count: int, tmp_path: Path) -> None:
    """Most of such a file is room that nothing uses, so half of the damage does nothing."""
    pytest.importorskip("h5py")
    counts = outcomes("hdf5", tmp_path, count)
    assert sum(counts.values()) == count, counts
    assert set(counts) <= {"identical", "refused", "visible", "data"}, counts
    assert counts["refused"] > count // 3, counts


def judge(container: str, counts: dict[str, int], total: int) -> None:
    assert sum(counts.values()) == total, counts
    allowed = {"identical", "refused"} if container in WITH_CHECKSUMS else {"identical", "refused", "visible", "data"}
    assert set(counts) <= allowed, counts
    assert counts["refused"] > total // 2, counts


@pytest.mark.parametrize("container", [*WITH_CHECKSUMS, *WITHOUT])
def test_random_damage(container: str, tmp_path: Path) -> None:
    judge(container, outcomes(container, tmp_path, QUICK, seed=1), QUICK)


@pytest.mark.slow
@pytest.mark.parametrize("container", [*WITH_CHECKSUMS, *WITHOUT])
def test_much_random_damage(container: str, tmp_path: Path) -> None:
    judge(container, outcomes(container, tmp_path, MANY), MANY)
