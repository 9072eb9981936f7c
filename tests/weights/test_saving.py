"""Saving is all or nothing: round trips, what is left behind, and a kill at every step."""

from __future__ import annotations

import functools
import io
import json
import os
import sys
import threading
import weakref
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import safetensors.torch
import torch

from tests.weights.forge import tensors
from weights_tools.atomic import write_atomically
from weights_tools.files import WeightsError, open_checkpoint, parse_size, save_checkpoint
from weights_tools.safetensors_file import DTYPES
from weights_tools.saving import Pending, write_safetensors
from weights_tools.transaction import transaction

SINGLE, SHARDS = 10**9, 100  # max_shard_size: everything in one file; three shards
KILLED = 9


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes die here, the machine does not: without flushing the tests are several times faster."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


def load(folder: Path) -> dict[str, torch.Tensor]:
    with open_checkpoint(folder) as checkpoint:
        return {name: checkpoint.read(name) for name in checkpoint}


def same(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> bool:
    return set(left) == set(right) and all(torch.equal(left[name], right[name]) for name in left)


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        (50_000, 50_000),
        ("50KB", 50_000),
        ("50kb", 50_000),
        ("50KiB", 51_200),
        ("50kiB", 51_200),
        ("5GB", 5 * 10**9),
        ("1.5 MB", 1_500_000),
        ("2MiB", 2 * 2**20),
        ("1TB", 10**12),
        ("123", 123),
        ("7B", 7),
    ],
)
def test_sizes(size: int | str, expected: int) -> None:
    assert parse_size(size) == expected


@pytest.mark.parametrize("size", [0, -1, "", "5 gigs", "-5GB", "GB", "0KB", "5iB", True, 1.5, None])
def test_wrong_sizes(size: object, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"max_shard_size is .*; expected a positive number of bytes or a text like"):
        save_checkpoint(tmp_path, tensors(), max_shard_size=size)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("format", ["safetensors", "pytorch"])
@pytest.mark.parametrize("limit", [SINGLE, SHARDS, 1])
def test_round_trip(tmp_path: Path, format: str, limit: int) -> None:
    files = save_checkpoint(tmp_path / "new" / "folder", tensors(), max_shard_size=limit, format=format)
    assert same(load(tmp_path / "new" / "folder"), tensors())
    assert sorted(files) == sorted((tmp_path / "new" / "folder").iterdir())
    stem, suffix = ("model", "safetensors") if format == "safetensors" else ("pytorch_model", "bin")
    count = {SINGLE: 1, SHARDS: 3, 1: 6}[limit]
    if count == 1:
        assert [file.name for file in files] == [f"{stem}.{suffix}"]
        return
    shards = [f"{stem}-{number:05d}-of-{count:05d}.{suffix}" for number in range(1, count + 1)]
    assert [file.name for file in files] == [*shards, f"{stem}.{suffix}.index.json"]
    index = json.loads(files[-1].read_text())
    assert index["metadata"] == {"total_size": 288}
    assert list(index["weight_map"]) == list(tensors())


def test_transformers_reads_what_is_written(tmp_path: Path) -> None:
    import transformers

    config = transformers.BertConfig(
        vocab_size=11, hidden_size=8, num_hidden_layers=2, num_attention_heads=2, intermediate_size=12
    )
    model = transformers.BertModel(config)
    config.save_pretrained(tmp_path)
    for limit, format in ((SINGLE, "safetensors"), ("1KB", "safetensors"), ("1KB", "pytorch"), (SINGLE, "pytorch")):
        save_checkpoint(tmp_path, model.state_dict(), max_shard_size=limit, format=format)
        read = transformers.BertModel.from_pretrained(tmp_path)
        assert same(read.state_dict(), model.state_dict())


def test_views_and_shared_memory(tmp_path: Path) -> None:
    base = torch.arange(12.0).view(3, 4)
    state = {"t": base.t(), "row": base[1], "whole": base, "again": base, "lazy": torch.nn.Parameter(base)}
    for format in ("safetensors", "pytorch"):
        (file,) = save_checkpoint(tmp_path, state, format=format)
        assert same(load(file), {name: tensor.detach() for name, tensor in state.items()})
    save_checkpoint(tmp_path / "row", {"row": torch.zeros(10**6)[:3]}, format="pytorch")
    assert (tmp_path / "row" / "pytorch_model.bin").stat().st_size < 10_000


def test_metadata(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, tensors(), metadata={"format": "pt", "source": "test"})
    with open_checkpoint(tmp_path) as checkpoint:
        assert checkpoint.metadata == {"format": "pt", "source": "test"}
    with pytest.raises(TypeError, match=r"metadata is \{'a': 1\}; expected a dictionary of texts"):
        save_checkpoint(tmp_path, tensors(), metadata={"a": 1})


@pytest.mark.parametrize(
    ("state", "error", "message"),
    [
        ({}, ValueError, "tensors is empty"),
        ({"a": 3}, TypeError, r"a is a int; expected a torch\.Tensor"),
        ({3: torch.ones(1)}, TypeError, "the name 3 cannot be stored"),
        ({"__metadata__": torch.ones(1)}, TypeError, "cannot be stored"),
        ({"a": torch.eye(2).to_sparse()}, TypeError, "a is sparse or quantised; expected a dense tensor"),
        ({"a": torch.ones(2, device="meta")}, TypeError, "a is on the meta device"),
    ],
)
def test_what_cannot_be_saved(tmp_path: Path, state: dict, error: type[Exception], message: str) -> None:
    save_checkpoint(tmp_path, tensors())
    with pytest.raises(error, match=message):
        save_checkpoint(tmp_path, state)
    assert same(load(tmp_path), tensors())


def test_unknown_format(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="format is 'bin'; expected one of 'safetensors', 'pytorch'"):
        save_checkpoint(tmp_path, tensors(), format="bin")


def test_folder_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(FileExistsError, match="file"):
        save_checkpoint(tmp_path / "file", tensors())


# ------------------------------------------------------------------------------------------------ one save over another

STATES: dict[str, Callable[[Path], None]] = {
    "nothing": lambda folder: None,
    "single": lambda folder: void(save_checkpoint(folder, tensors(1), max_shard_size=SINGLE)),
    "shards": lambda folder: void(save_checkpoint(folder, tensors(1), max_shard_size=SHARDS)),
    "more shards": lambda folder: void(save_checkpoint(folder, tensors(1), max_shard_size=1)),
    "bin": lambda folder: void(save_checkpoint(folder, tensors(1), max_shard_size=SINGLE, format="pytorch")),
    "bin shards": lambda folder: void(save_checkpoint(folder, tensors(1), max_shard_size=SHARDS, format="pytorch")),
    # What an interrupted save leaves: a whole new sharded checkpoint beside the old file that is still preferred.
    "interrupted": lambda folder: interrupted(folder),
    "other name": lambda folder: other_name(folder),
}
SAVES = {
    "single": (SINGLE, "safetensors"),
    "shards": (SHARDS, "safetensors"),
    "bin": (SINGLE, "pytorch"),
    "bin shards": (SHARDS, "pytorch"),
}


def void(value: object) -> None:
    """Forget a value."""


def interrupted(folder: Path) -> None:
    save_checkpoint(folder, tensors(1), max_shard_size=SINGLE)
    (folder / "model.safetensors").rename(folder / "kept")
    save_checkpoint(folder, tensors(3), max_shard_size=SHARDS)
    (folder / "kept").rename(folder / "model.safetensors")


def other_name(folder: Path) -> None:
    save_checkpoint(folder, tensors(1), max_shard_size=SINGLE)
    (folder / "model.safetensors").rename(folder / "weights.safetensors")


def names(folder: Path) -> set[str]:
    return {entry.name for entry in folder.iterdir()}


@pytest.mark.parametrize("save", list(SAVES))
@pytest.mark.parametrize("state", list(STATES))
def test_one_save_over_another(tmp_path: Path, state: str, save: str) -> None:
    STATES[state](tmp_path)
    foreign = {name for name in names(tmp_path) if name.startswith("pytorch_model")} if "bin" not in save else set()
    (tmp_path / "config.json").write_text("{}")
    limit, format = SAVES[save]
    files = save_checkpoint(tmp_path, tensors(2), max_shard_size=limit, format=format)
    assert same(load(tmp_path), tensors(2))
    left = names(tmp_path) - {file.name for file in files} - {"config.json", "weights.safetensors"}
    assert left == foreign  # nothing of the same format, nothing that a reader would prefer, no temporary file


def steps_of(action: Callable[[], object], kill_at: int) -> bool:
    """Run `action` in a child that dies without any clean-up before its step number `kill_at`; True if it died.

    Steps are what changes the disk: opening for writing, renaming, linking, removing, flushing.
    """
    child = os.fork()
    if child:
        _, status = os.waitpid(child, 0)
        code = os.waitstatus_to_exitcode(status)
        assert code in (0, KILLED), code
        return code == KILLED
    count = 0

    def step() -> None:
        nonlocal count
        count += 1
        if count == kill_at:
            os._exit(KILLED)

    def watch(event: str, arguments: tuple) -> None:
        writes = event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)
        if event in ("os.rename", "os.remove", "os.symlink", "os.link", "os.mkdir", "os.rmdir") or writes:
            step()

    def fsync(descriptor: int) -> None:
        step()

    try:
        sys.addaudithook(watch)
        os.fsync = fsync
        action()
        os._exit(0)
    finally:
        os._exit(1)


@pytest.mark.parametrize("save", list(SAVES))
@pytest.mark.parametrize("state", list(STATES))
def test_killed_at_every_step(tmp_path: Path, state: str, save: str) -> None:
    limit, format = SAVES[save]
    outcomes = []
    for kill_at in range(1, 100):
        folder = tmp_path / str(kill_at)
        folder.mkdir()
        STATES[state](folder)
        save_new = functools.partial(save_checkpoint, folder, tensors(2), max_shard_size=limit, format=format)
        died = steps_of(save_new, kill_at)
        try:
            read = load(folder)
        except FileNotFoundError:
            assert state == "nothing"
            read = {}
        is_old = not read if state == "nothing" else same(read, tensors(1))
        assert is_old or same(read, tensors(2))
        outcomes.append("old" if is_old else "new")
        # Whatever the kill left behind, the next save works and is what is read.
        save_checkpoint(folder, tensors(4), max_shard_size=limit, format=format)
        assert same(load(folder), tensors(4))
        if not died:
            break
    assert outcomes[-1] == "new"
    assert outcomes[0] == "old"
    assert outcomes == sorted(outcomes, reverse=True)  # once new, always new


@pytest.mark.parametrize("save", list(SAVES))
@pytest.mark.parametrize("state", ["single", "shards", "bin shards"])
def test_disk_full_at_every_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, state: str, save: str) -> None:
    """A failing flush or rename is an error, the checkpoint stays whole, and no temporary file is left."""
    limit, format = SAVES[save]
    for fail_at in range(1, 100):
        folder = tmp_path / str(fail_at)
        folder.mkdir()
        STATES[state](folder)
        count = 0

        def counted(plain: Callable) -> Callable:
            def call(*arguments, **keywords):
                nonlocal count
                count += 1
                if count == fail_at:  # noqa: B023
                    raise OSError(28, "No space left on device")
                return plain(*arguments, **keywords)

            return call

        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", counted(os.fsync))
            patch.setattr(Path, "replace", counted(Path.replace))
            try:
                save_checkpoint(folder, tensors(2), max_shard_size=limit, format=format)
                failed = False
            except OSError:
                failed = True
        read = load(folder)
        assert same(read, tensors(1)) or same(read, tensors(2))
        assert not [name for name in names(folder) if name.endswith(".tmp")]
        if not failed:
            assert count >= 2
            return


def test_two_writers(tmp_path: Path) -> None:
    def save(seed: int, limit: int) -> None:
        for _ in range(5):
            save_checkpoint(tmp_path, tensors(seed), max_shard_size=limit)

    threads = [threading.Thread(target=save, args=arguments) for arguments in ((1, SINGLE), (2, SHARDS), (3, 1))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    read = load(tmp_path)
    assert any(same(read, tensors(seed)) for seed in (1, 2, 3))
    with open_checkpoint(tmp_path) as checkpoint:
        assert checkpoint.notes == []


def test_reader_during_saves(tmp_path: Path) -> None:
    """A reader sees one checkpoint, whole, while others replace it."""
    save_checkpoint(tmp_path, tensors(0), max_shard_size=SHARDS)
    stop = threading.Event()

    def save() -> None:
        for seed in range(1, 40):
            save_checkpoint(tmp_path, tensors(seed), max_shard_size=SINGLE if seed % 3 == 0 else SHARDS)
        stop.set()

    writer = threading.Thread(target=save)
    writer.start()
    reads = 0
    while not stop.is_set() or not reads:
        read = load(tmp_path)
        reads += 1
        assert any(same(read, tensors(seed)) for seed in range(40))
    writer.join()


def test_hub_cache_blob_is_not_overwritten(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "blobs", tensors(1))
    (tmp_path / "snapshot").mkdir()
    link = tmp_path / "snapshot" / "model.safetensors"
    link.symlink_to(tmp_path / "blobs" / "model.safetensors")
    save_checkpoint(tmp_path / "snapshot", tensors(2))
    assert same(load(tmp_path / "blobs"), tensors(1))
    assert same(load(tmp_path / "snapshot"), tensors(2))


def test_index_without_its_shards(tmp_path: Path) -> None:
    """The old index names files that are gone; the new shards get these names and must survive the clean-up."""
    for shard in save_checkpoint(tmp_path, tensors(1), max_shard_size=SHARDS)[:-1]:
        shard.unlink()
    save_checkpoint(tmp_path, tensors(2), max_shard_size=SHARDS)
    assert same(load(tmp_path), tensors(2))


def test_index_cannot_make_a_save_remove_other_files(tmp_path: Path) -> None:
    precious = tmp_path / "precious.txt"
    precious.write_text("x")
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "notes.txt").write_text("x")
    weight_map = {
        "a": "../precious.txt",
        "b": "notes.txt",
        "c": str(precious),
        "d": "../model-00001-of-00001.safetensors",
    }
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    save_checkpoint(folder, tensors())
    assert precious.exists()
    assert names(folder) == {"notes.txt", "model.safetensors"}


# --------------------------------------------------------------------------------------------------------- the writers


def of_every_dtype() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    values = torch.rand(6, 5, generator=generator) * 100
    made = {f"layer.{name}": values.to(dtype) for name, dtype in DTYPES.items()}
    made |= {'strange "name"\n\u2028é': values.t(), "scalar": torch.tensor(3.0), "empty": torch.zeros(2, 0)}
    return {**made, "row": values[2], "conjugate": torch.randn(3, dtype=torch.complex64).conj()}


@pytest.mark.parametrize("metadata", [None, {"format": "pt"}, {"note": "é"}])
def test_the_bytes_are_those_of_the_safetensors_library(tmp_path: Path, metadata: dict[str, str] | None) -> None:
    state = of_every_dtype()
    plain = {name: tensor.resolve_conj().contiguous().clone() for name, tensor in state.items()}
    safetensors.torch.save_file(plain, tmp_path / "library", metadata=metadata)
    with (tmp_path / "ours").open("wb") as file:
        write_safetensors(file, state, metadata)
    assert (tmp_path / "ours").read_bytes() == (tmp_path / "library").read_bytes()


def pending(tensor: torch.Tensor, dtype: torch.dtype, alive: list[int], most: list[int]) -> Pending:
    """A tensor that counts how many of its kind are alive at once."""

    def read() -> torch.Tensor:
        made = tensor.clone()
        alive[0] += 1
        most[0] = max(most[0], alive[0])
        weakref.finalize(made, lambda: alive.__setitem__(0, alive[0] - 1))
        return made

    return Pending(tuple(tensor.shape), dtype, read)


@pytest.mark.parametrize("format", ["safetensors", "pytorch"])
@pytest.mark.parametrize("limit", [SINGLE, SHARDS])
def test_pending_tensors_are_read_one_at_a_time(tmp_path: Path, format: str, limit: int) -> None:
    state = {**tensors(), "turned": torch.randn(3, 5).t(), "scalar": torch.tensor(2.0), "empty": torch.zeros(0, 3)}
    for dtype in (torch.float32, torch.bfloat16, torch.float64):
        alive, most = [0], [0]
        waiting = {name: pending(tensor, dtype, alive, most) for name, tensor in state.items()}
        save_checkpoint(tmp_path, waiting, format=format, max_shard_size=limit)
        assert same(load(tmp_path), {name: tensor.to(dtype) for name, tensor in state.items()})
        assert most == [1]
        assert alive == [0]


def test_blocks_smaller_than_the_tensor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("weights_tools.saving.BLOCK", 64)
    state = {"turned": torch.randn(7, 50).t(), "flat": torch.randn(1000), "deep": torch.randn(3, 4, 5, 6)}
    for format in ("safetensors", "pytorch"):
        save_checkpoint(
            tmp_path,
            {n: Pending(tuple(t.shape), torch.float16, lambda t=t: t) for n, t in state.items()},
            format=format,
        )
        assert same(load(tmp_path), {name: tensor.half() for name, tensor in state.items()})


@pytest.mark.parametrize("format", ["safetensors", "pytorch"])
def test_a_pending_tensor_of_another_shape(tmp_path: Path, format: str) -> None:
    save_checkpoint(tmp_path, tensors(1), format=format)
    wrong = {"a": torch.ones(3), "b": Pending((2, 3), torch.float32, lambda: torch.ones(3, 2))}
    with pytest.raises(ValueError, match=r"b has the shape \[3, 2\], announced was \[2, 3\]"):
        save_checkpoint(tmp_path, wrong, format=format)
    assert same(load(tmp_path), tensors(1))
    assert len(names(tmp_path)) == 1


def test_files_beside_the_weights_change_with_them(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, tensors(1), files={"config.json": b"1", "old.json": b"1"})

    def sizes(places: Mapping[str, Path]) -> bytes:
        return json.dumps({name: place.stat().st_size for name, place in places.items()}).encode()

    changed = {"config.json": b"2", "old.json": None, "never.json": None, "sizes.json": sizes}
    files = save_checkpoint(tmp_path, tensors(2), max_shard_size=SHARDS, files=changed)
    assert (tmp_path / "config.json").read_bytes() == b"2"
    assert names(tmp_path) == {"config.json", "sizes.json", *(file.name for file in files)}
    assert json.loads((tmp_path / "sizes.json").read_bytes()) == {file.name: file.stat().st_size for file in files}

    def fail(places: Mapping[str, Path]) -> bytes:
        raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        save_checkpoint(tmp_path, tensors(3), files={"config.json": b"3", "sizes.json": fail})
    assert (tmp_path / "config.json").read_bytes() == b"2"
    assert same(load(tmp_path), tensors(2))


@pytest.mark.parametrize("name", ["", "a/b", "../x", ".save-1234"])
def test_names_that_a_transaction_refuses(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match="expected the plain name of a file"):
        save_checkpoint(tmp_path, tensors(), files={name: b""})
    assert names(tmp_path) == set()


def test_links_of_an_interrupted_save_cannot_lead_elsewhere(tmp_path: Path) -> None:
    """A folder from a stranger may hold what looks like an interrupted save."""
    save_checkpoint(tmp_path / "secret", tensors(1))
    folder = tmp_path / "folder"
    (folder / ".save-00" / "old").mkdir(parents=True)
    (folder / ".save-00" / "current").symlink_to(tmp_path / "secret")
    (folder / "model.safetensors").symlink_to(".save-00/current/model.safetensors")
    with pytest.raises(WeightsError, match="this link leads out of the folder"):
        load(folder)


def test_what_only_looks_like_an_interrupted_save_is_not_finished(tmp_path: Path) -> None:
    """Else the clean-up of the next save would bring a file from elsewhere into the folder."""
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret" / "notes.txt").write_text("x")
    for number, link in enumerate(("current", "old")):
        folder = tmp_path / str(number)
        stage = folder / ".save-00"
        stage.mkdir(parents=True)
        if link == "old":
            (stage / "current").symlink_to("old")
        (stage / link).symlink_to(tmp_path / "secret")
        (folder / "notes.txt").symlink_to(".save-00/current/notes.txt")
        save_checkpoint(folder, tensors())
        assert (folder / "notes.txt").is_symlink()
    assert (tmp_path / "secret" / "notes.txt").stat().st_nlink == 1


def test_an_interrupted_save_is_told(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, tensors(1))
    assert steps_of(lambda: save_checkpoint(tmp_path, tensors(2)), 12)
    with open_checkpoint(tmp_path) as checkpoint:
        (note,) = checkpoint.notes
    (stage,) = (name for name in names(tmp_path) if name.startswith(".save-"))
    assert note.startswith("a save into this folder was interrupted, or is under way: " + stage)


def test_a_destination_that_leads_nowhere(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("gone")
    with pytest.raises(FileNotFoundError, match=r"link: this link leads to gone, .*Make that folder"):
        save_checkpoint(tmp_path / "link", tensors())
    (tmp_path / "gone").mkdir()
    save_checkpoint(tmp_path / "link", tensors())
    assert same(load(tmp_path / "gone"), tensors())


def test_a_file_system_with_symbolic_links_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """gcsfuse and others; found out before anything in the folder has changed, also if nothing is replaced."""

    def refuse(self: Path, target: Path) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(Path, "hardlink_to", refuse)
    for seed in (1, 2):
        save_checkpoint(tmp_path, tensors(seed))
        assert same(load(tmp_path), tensors(seed))
        assert names(tmp_path) == {"model.safetensors"}


def test_permissions_stay(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        (file,) = save_checkpoint(tmp_path, tensors(1))
        assert file.stat().st_mode & 0o777 == 0o640
        file.chmod(0o400)
        save_checkpoint(tmp_path, tensors(2))
        write_atomically(file, file.read_bytes())
    finally:
        os.umask(before)
    assert file.stat().st_mode & 0o777 == 0o400
    assert same(load(tmp_path), tensors(2))


def test_waiting_for_another_save_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with transaction(tmp_path):
        second = threading.Thread(target=save_checkpoint, args=(tmp_path, tensors(2)))
        second.start()
        while "another save into this folder is under way" not in caplog.text:
            assert second.is_alive()
    second.join()
    assert same(load(tmp_path), tensors(2))


class FullDisk(io.FileIO):
    """A file of which the system takes the first 200 bytes; then it says what Linux says."""

    def write(self, data) -> int:
        if self.tell() + memoryview(data).nbytes > 200:
            raise OSError(28, "No space left on device")
        return super().write(data)


@pytest.mark.parametrize("format", ["safetensors", "pytorch"])
def test_a_full_disk_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, format: str) -> None:
    """torch's writer turns the system's error into one of its own, about positions."""
    save_checkpoint(tmp_path, tensors(1), format=format)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", lambda self, mode="r": FullDisk(self, mode.replace("b", "")))
        with pytest.raises(OSError, match=r"No space left on device: '.*test_a_full_disk"):
            save_checkpoint(tmp_path, tensors(2), format=format)
    assert same(load(tmp_path), tensors(1))
    assert len(names(tmp_path)) == 1


class TestWriteAtomically:
    def test_bytes_and_function(self, tmp_path: Path) -> None:
        path = tmp_path / "config.json"
        write_atomically(path, b"one")
        assert path.read_bytes() == b"one"
        write_atomically(str(path), lambda file: void(file.write(b"two")))
        assert path.read_bytes() == b"two"
        assert names(tmp_path) == {"config.json"}

    def test_failure_leaves_the_old_file(self, tmp_path: Path) -> None:
        path = tmp_path / "config.json"
        write_atomically(path, b"one")

        def fail(file) -> None:
            file.write(b"half")
            raise RuntimeError("stop")

        with pytest.raises(RuntimeError, match="stop"):
            write_atomically(path, fail)
        assert path.read_bytes() == b"one"
        assert names(tmp_path) == {"config.json"}

    def test_missing_folder(self, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError):
            write_atomically(tmp_path / "nowhere" / "a", b"")
