"""Damaging weights files at random or cutting them off, and reading what is left in a process with limits.

`python -m tests.weights.damage CONTAINER FOLDER COUNT SEED` makes and reads COUNT damaged copies (0: cut off at every
percent of the length) and prints how often which outcome came:

    identical   every tensor as it was
    refused     a WeightsError (or FileNotFoundError) that names the file
    visible     other names, shapes or dtypes than before: strict loading reports them
    data        names and shapes as before; only numbers whose own bytes were damaged differ (no checksums there)
    silent      names and shapes as before, and other numbers differ
    anything else is a failure
"""

from __future__ import annotations

import json
import os
import random
import resource
import subprocess
import sys
import time
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save

from tests.support import REPOSITORY
from tests.weights.bundle_forge import bundle
from tests.weights.forge import tensors, torch_bytes
from weights_tools import hdf5_file, hdf5_listing
from weights_tools.files import WeightsError, open_checkpoint

MEMORY = 300_000_000  # bytes more than after the imports
SLOW = 20  # seconds for one file


def hdf5_bytes(folder: Path) -> bytes:
    import h5py

    with h5py.File(folder / "made.h5", "w") as file:
        file.attrs["layer_names"] = [b"bert", b"packed"]
        for name, tensor in tensors().items():
            file.create_dataset("bert/bert/" + name.replace(".", "/") + ":0", data=tensor.numpy())
        packed = tensors(1)["embeddings.word_embeddings.weight"].numpy()
        file.create_dataset("packed/kernel:0", data=packed, chunks=(3, 2), compression="gzip", shuffle=True)
    return (folder / "made.h5").read_bytes()


def npz_bytes(folder: Path, packed: bool) -> bytes:
    import numpy as np

    arrays = {name: tensor.numpy() for name, tensor in tensors().items()}
    (np.savez_compressed if packed else np.savez)(folder / "made.npz", **arrays)
    return (folder / "made.npz").read_bytes()


def made(container: str, folder: Path) -> dict[str, bytes]:
    """The files of one good checkpoint: name -> content; the first is the one to open."""
    index, packed = bundle(tensors(), per_block=3), bundle(tensors(), compress=True)
    makers: dict[str, Any] = {
        "safetensors": lambda: {"model.safetensors": save(tensors())},
        "zip": lambda: {"pytorch_model.bin": torch_bytes(tensors())},
        "stream": lambda: {"pytorch_model.bin": torch_bytes(tensors(), old=True)},
        "npz": lambda: {"model.npz": npz_bytes(folder, packed=False)},
        "npz packed": lambda: {"model.npz": npz_bytes(folder, packed=True)},
        "bundle": lambda: {"model.ckpt.index": index.index, "model.ckpt.data-00000-of-00001": index.shards[0]},
        "bundle packed": lambda: {"model.ckpt.index": packed.index, "model.ckpt.data-00000-of-00001": packed.shards[0]},
        "hdf5": lambda: {"tf_model.h5": hdf5_bytes(folder)},
    }
    files: dict[str, bytes] = makers[container]()
    return files


def changed(content: bytes, generator: random.Random) -> bytes:
    """One to five places: a byte replaced, a few bytes removed or put in."""
    result = bytearray(content)
    for _ in range(generator.choice([1, 1, 1, 2, 5])):
        place = generator.randrange(len(result))
        kind = generator.random()
        if kind < 0.7:
            result[place] = generator.randrange(256)
        elif kind < 0.85:
            del result[place : place + generator.randrange(1, 9)]
        else:
            result[place:place] = generator.randbytes(generator.randrange(1, 9))
    return bytes(result)


def damaged(files: dict[str, bytes], count: int, seed: int) -> Iterator[dict[str, bytes]]:
    """`count` copies with one file changed at random, or (0) with each file cut off at every percent."""
    generator = random.Random(seed)
    for _ in range(count):
        name = generator.choice(list(files))
        yield {**files, name: changed(files[name], generator)}
    if not count:
        for name, content in files.items():
            for percent in range(100):
                yield {**files, name: content[: len(content) * percent // 100]}


Read = dict[str, tuple[Any, torch.Tensor]]


def read(path: Path) -> Read:
    with open_checkpoint(path) as checkpoint:
        facts = {name: (checkpoint[name].shape, checkpoint[name].dtype) for name in checkpoint}
        return {name: (facts[name], checkpoint.read(name)) for name in checkpoint}


def raw(tensor: torch.Tensor) -> bytes:
    return tensor.reshape(-1).view(torch.uint8).numpy().tobytes()


def outcome(path: Path, expected: Read, before: bytes, after: bytes) -> str:
    try:
        found = read(path)
    except (WeightsError, FileNotFoundError) as error:
        return "refused" if path.name.removesuffix(".index") in str(error) else f"nameless: {error}"
    if {name: fact for name, (fact, _) in found.items()} != {name: fact for name, (fact, _) in expected.items()}:
        return "visible"
    other = [name for name in found if raw(found[name][1]) != raw(expected[name][1])]
    if not other:
        return "identical"
    # Each changed tensor must be what now stands where its numbers stood (what is put in or removed moves the places).
    for name in other:
        start, size = before.find(raw(expected[name][1])), found[name][1].nbytes
        shifts = range(-40, 41) if len(before) != len(after) else (0,)
        if not any(raw(found[name][1]) == after[start + shift :][:size] for shift in shifts):
            return "silent"
    return "data"


def list_in_a_fork(source: Any) -> Any:
    """As hdf5_file's own child, which needs a quarter of a second to start: the same listing in a fork of this one."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        try:
            os.close(reading)
            resource.setrlimit(resource.RLIMIT_CPU, (3, 3))
            with source.path.open("rb", buffering=0) as file, os.fdopen(writing, "w") as target:
                json.dump(hdf5_listing.listing(file), target)
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as answer:
        text = answer.read()
    os.waitpid(child, 0)
    if not text:
        raise WeightsError(f"{source.path}: libhdf5 crashed")
    return json.loads(text)


def main(container: str, folder: Path, count: int, seed: int) -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")  # torch's, about the protocol of a damaged pickle
    files = made(container, folder)
    first = next(iter(files))
    for name, content in files.items():
        (folder / name).write_bytes(content)
    expected = read(folder / first)
    if container == "hdf5":
        import h5py  # noqa: F401 (before the fork)

        hdf5_file._listing = list_in_a_fork  # type: ignore[assignment]
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))
    outcomes: Counter[str] = Counter()
    for number, contents in enumerate(damaged(files, count, seed)):
        for name, content in contents.items():
            (folder / name).write_bytes(content)
        start = time.monotonic()
        found = outcome(folder / first, expected, b"".join(files.values()), b"".join(contents.values()))
        outcomes[found] += 1
        if time.monotonic() - start > SLOW:
            outcomes[f"slow: {number}"] += 1
    print(json.dumps(outcomes))


def outcomes(container: str, folder: Path, count: int = 0, seed: int = 0) -> dict[str, int]:
    """`main` in a process of its own."""
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "tests.weights.damage", container, str(folder), str(count), str(seed)]
    result = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=600, cwd=REPOSITORY)
    assert (result.returncode, result.stderr) == (0, ""), result.stderr
    counts: dict[str, int] = json.loads(result.stdout)
    return counts


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
