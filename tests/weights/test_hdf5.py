"""tf_model.h5 and its like: what h5py writes is read, what could harm or mislead is refused."""

from __future__ import annotations

import importlib.util
import os
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.weights.forge import tensors, torch_bytes, write
from weights_tools import hdf5_file, hdf5_listing
from weights_tools.__main__ import main
from weights_tools.files import WeightsError, open_checkpoint

h5py = pytest.importorskip("h5py")

DATA = np.arange(12, dtype=np.float32).reshape(4, 3)


def load(path: Path) -> dict[str, torch.Tensor]:
    with open_checkpoint(path) as checkpoint:
        return {name: checkpoint.read(name) for name in checkpoint}


def make(path: Path, fill: Callable[[Any], object], **settings: Any) -> Path:
    with h5py.File(path, "w", **settings) as file:
        fill(file)
    return path


def as_keras_writes(file: Any) -> None:
    """The groups and attributes of `save_weights`: lists of names, then one group per layer."""
    file.attrs.update({"backend": b"tensorflow", "keras_version": b"2.15.0", "layer_names": [b"bert", b"dropout"]})
    file.create_group("dropout").attrs["weight_names"] = np.array([], dtype="S1")
    names = []
    for name, tensor in tensors().items():
        names.append(f"tf_bert/bert/{name.replace('.', '/')}:0".encode())
        dataset = file.require_group("bert").create_dataset(names[-1], tensor.shape, dtype="float32")
        dataset[:] = tensor.numpy()
    file["bert"].attrs["weight_names"] = names
    file.create_group("top_level_model_weights").attrs["weight_names"] = np.array([], dtype="S1")


class TestReads:
    def test_what_keras_writes(self, tmp_path: Path) -> None:
        make(tmp_path / "tf_model.h5", as_keras_writes)
        for place in (tmp_path, tmp_path / "tf_model.h5"):
            with open_checkpoint(place) as checkpoint:
                assert (checkpoint.format, checkpoint.files) == ("hdf5", (tmp_path / "tf_model.h5",))
                assert set(checkpoint) == {f"bert/tf_bert/bert/{name.replace('.', '/')}:0" for name in tensors()}
                for name, tensor in tensors().items():
                    path = f"bert/tf_bert/bert/{name.replace('.', '/')}:0"
                    assert checkpoint[path].shape == tuple(tensor.shape)
                    assert torch.equal(checkpoint.read(path), tensor)

    @pytest.mark.parametrize("libver", ["earliest", "latest"])
    @pytest.mark.parametrize("dtype", ["<f2", "<f4", "<f8", ">f2", ">f4", ">f8"])
    def test_every_type_and_layout(self, tmp_path: Path, dtype: str, libver: str) -> None:
        layouts: dict[str, dict[str, Any]] = {
            "plain": {},
            "chunked": {"chunks": (3, 2)},
            "gzip": {"chunks": (3, 2), "compression": "gzip"},
            "shuffled": {"chunks": (2, 3), "compression": 9, "shuffle": True},
            "shuffled only": {"chunks": (5, 7), "maxshape": (None, None), "shuffle": True},
        }
        data = (DATA - 5.5).astype(dtype)

        def fill(file: Any) -> None:
            for name, settings in layouts.items():
                file.create_dataset(f"a/b/{name}", data=data, **settings)
            file.create_dataset("scalar", data=data[1, 2])
            file.create_dataset("empty", data=data[:0])

        read = load(make(tmp_path / "any.name", fill, libver=libver))
        assert set(read) == {*(f"a/b/{name}" for name in layouts), "scalar", "empty"}
        expected = torch.from_numpy(data.astype(dtype[1:]))
        for name in layouts:
            assert read[f"a/b/{name}"].dtype == expected.dtype
            assert torch.equal(read[f"a/b/{name}"], expected)
        assert torch.equal(read["scalar"], expected[1, 2])
        assert read["empty"].shape == (0, 3)

    def test_out_and_memory(self, tmp_path: Path) -> None:
        path = make(tmp_path / "a.h5", lambda file: file.create_dataset("x", data=DATA, chunks=(3, 3)))
        with open_checkpoint(path) as checkpoint:
            for out in (torch.zeros(4, 3), torch.zeros(3, 4).t(), torch.zeros(4, 3, dtype=torch.float64)):
                assert checkpoint.read("x", out=out) is out
                assert torch.equal(out, torch.from_numpy(DATA).to(out.dtype))
            checkpoint.read("x").zero_()
            assert float(checkpoint.read("x").sum()) == DATA.sum()
            with pytest.raises(WeightsError, match="an HDF5 file; expected a safetensors file to map"):
                checkpoint.read_mapped("x")
            os.utime(path, ns=(1, 1))
            with pytest.raises(WeightsError, match="the file changed after it was opened"):
                checkpoint.read("x")

    def test_what_is_no_number_is_noted(self, tmp_path: Path) -> None:
        def fill(file: Any) -> None:
            file.create_dataset("w", data=DATA)
            file.create_dataset("steps", data=3)
            file.create_dataset("words", data=["a", "b"])
            file.create_dataset("nothing", data=h5py.Empty("f4"))
            file["type"] = np.dtype("f4")

        with open_checkpoint(make(tmp_path / "a.h5", fill)) as checkpoint:
            assert checkpoint.names() == ["w"]
            assert checkpoint.notes == [
                "left out: 'nothing' (an empty data set)",
                "left out: 'steps', 'words' (no floating-point numbers)",
                "left out: 'type' (a type)",
            ]

    def test_other_containers_come_first(self, tmp_path: Path) -> None:
        make(tmp_path / "tf_model.h5", as_keras_writes)
        write(tmp_path / "pytorch_model.bin", torch_bytes(tensors()))
        with open_checkpoint(tmp_path) as checkpoint:
            assert checkpoint.format == "pytorch"

    def test_names_beyond_ascii_and_misleading(self, tmp_path: Path) -> None:
        path = make(tmp_path / "pytorch_model.bin", lambda file: file.create_dataset("größe/大:0", data=DATA))
        with open_checkpoint(path) as checkpoint:
            assert checkpoint.names() == ["größe/大:0"]
            assert checkpoint.notes == ["pytorch_model.bin is a hdf5 file in spite of its name"]


def external_numbers(file: Any) -> None:
    file.create_dataset("w", (4,), "f4", external=[("/etc/hostname", 0, 16)])


def virtual(file: Any) -> None:
    layout = h5py.VirtualLayout((4, 3), "f4")
    layout[:] = h5py.VirtualSource("other.h5", "w", shape=(4, 3))
    file.create_virtual_dataset("w", layout)


def compact(file: Any) -> None:
    settings = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    settings.set_layout(h5py.h5d.COMPACT)
    h5py.h5d.create(file.id, b"w", h5py.h5t.IEEE_F32LE, h5py.h5s.create_simple((3,)), dcpl=settings)


def odd_numbers(file: Any) -> None:
    kind = h5py.h5t.IEEE_F32LE.copy()
    kind.set_ebias(100)
    h5py.h5d.create(file.id, b"w", kind, h5py.h5s.create_simple((3,)))


def bfloat16(file: Any) -> None:
    kind = h5py.h5t.IEEE_F32LE.copy()
    kind.set_fields(15, 7, 8, 0, 7)
    kind.set_size(2)
    kind.set_ebias(127)
    h5py.h5d.create(file.id, b"w", kind, h5py.h5s.create_simple((3,)))


def nested(file: Any) -> None:
    for _ in range(100):
        file = file.create_group("g")
    file.create_dataset("w", data=DATA)


def one_chunk(file: Any) -> None:
    file.create_dataset("w", (4, 3), "f4", chunks=(2, 3))[:2] = 1


def bomb(file: Any) -> None:
    zeros = file.create_dataset("w", (30_000_000,), "f4", chunks=(3_000_000,), compression=1)
    for start in range(0, 30_000_000, 3_000_000):
        zeros[start : start + 3_000_000] = 0


HARMFUL: dict[str, tuple[Callable[[Any], object], str]] = {
    "soft link": (lambda file: file.update({"w": DATA, "s": h5py.SoftLink("/w")}), "tensor 's': it is a soft link"),
    "soft link to nothing": (lambda file: file.update({"s": h5py.SoftLink("/etc")}), "tensor 's': it is a soft link"),
    "external link": (
        lambda file: file.update({"a/s": h5py.ExternalLink("/etc/hostname", "/")}),
        "tensor 'a/s': it is a link into another file; expected an object of this file",
    ),
    "two names": (lambda file: file.update({"w": DATA}) or file.update({"x": file["w"]}), "'x': it is the same object"),
    "loop": (lambda file: file.update({"g/h": file.create_group("g")}), "'g/h': it is the same object as 'g'"),
    "external numbers": (external_numbers, "tensor 'w': its numbers are in another file"),
    "virtual": (virtual, "tensor 'w': its layout is virtual"),
    "compact": (compact, "tensor 'w': its layout is compact"),
    "odd numbers": (odd_numbers, "tensor 'w': its numbers are of an unusual type"),
    "bfloat16": (bfloat16, "tensor 'w': its numbers are of an unusual type"),
    "nested": (nested, "its groups are nested more than 64 deep"),
    "never written": (lambda file: file.create_dataset("w", (4,), "f4"), "tensor 'w': its numbers were never written"),
    "huge": (lambda file: file.create_dataset("w", (2**40,), "f4"), "tensor 'w': its numbers were never written"),
    "enormous": (
        lambda file: file.create_dataset("w", (2**40, 2**40, 0), "f4", chunks=(1, 1, 1), maxshape=(None,) * 3),
        "tensor 'w': its shape is",
    ),
    "many pieces": (
        lambda file: file.create_dataset("w", (2**40,), "f4", chunks=(1,)),
        "tensor 'w': it is stored in 1099511627776 pieces; expected at most 500000",
    ),
    "half written": (one_chunk, "tensor 'w': 1 of its 2 pieces were written"),
    "lzf": (
        lambda file: file.create_dataset("w", data=DATA, compression="lzf"),
        "tensor 'w': it is stored with the filter lzf; expected gzip or shuffle. .*h5repack -f NONE",
    ),
    "fletcher32": (lambda file: file.create_dataset("w", data=DATA, fletcher32=True), "the filter fletcher32"),
    "scaleoffset": (lambda file: file.create_dataset("w", data=DATA, scaleoffset=2), "the filter scaleoffset"),
    "bomb": (bomb, r"tensor 'w': it would expand to 120000000 bytes, the file has \d+; expected at most"),
    "no numbers": (lambda file: file.update({"w": 3}), "it holds no floating-point arrays"),
    "nothing": (lambda file: None, "it holds no floating-point arrays"),
    "line end": (lambda file: file.update({"a\nb": DATA}), r"tensor 'a\\nb': its name is not a printable text"),
}


@pytest.mark.parametrize("kind", list(HARMFUL))
def test_harmful(tmp_path: Path, kind: str) -> None:
    fill, message = HARMFUL[kind]
    path = make(tmp_path / "tf_model.h5", fill)
    start = time.monotonic()
    with pytest.raises(WeightsError, match=rf"tf_model\.h5: .*{message}"):
        load(path)
    assert time.monotonic() - start < 60


def test_user_block(tmp_path: Path) -> None:
    """Text in front of an HDF5 file: what opens must begin as such a file does."""
    path = make(tmp_path / "tf_model.h5", lambda file: file.update({"w": DATA}), userblock_size=512)
    with pytest.raises(WeightsError, match="this is a file that begins with nothing but zeros"):
        load(path)


def patched(path: Path, old: bytes, new: bytes) -> Path:
    content = path.read_bytes()
    assert content.count(old) == 1
    return write(path, content.replace(old, new))


class TestPlaces:
    """The places of the numbers changed in a file that libhdf5 itself finds whole."""

    @pytest.fixture
    def path(self, tmp_path: Path) -> Path:
        return make(tmp_path / "a.h5", lambda file: file.update({"w": DATA, "x": DATA + 1}))

    def offsets(self, path: Path) -> tuple[int, int]:
        with h5py.File(path) as file:
            return file["w"].id.get_offset(), file["x"].id.get_offset()

    def layout(self, offset: int) -> bytes:
        return b"\x03\x01" + offset.to_bytes(8, "little") + DATA.nbytes.to_bytes(8, "little")

    def test_overlap(self, path: Path) -> None:
        first, second = self.offsets(path)
        patched(path, self.layout(second), self.layout(first + 4))
        with pytest.raises(WeightsError, match=rf"tensor 'x': its data starts at {first + 4} and overlaps other data"):
            load(path)

    def test_beyond_the_end(self, path: Path) -> None:
        patched(path, self.layout(self.offsets(path)[1]), self.layout(2**40))
        with pytest.raises(WeightsError, match=r"tensor 'x': its data ends at|libhdf5 cannot read it"):
            load(path)

    def test_damaged_gzip(self, tmp_path: Path) -> None:
        settings = {"chunks": (4, 3), "compression": "gzip"}
        path = make(tmp_path / "b.h5", lambda file: file.create_dataset("w", data=DATA, **settings))
        with h5py.File(path) as file:
            piece = file["w"].id.get_chunk_info(0)
        content = path.read_bytes()
        for place in range(piece.byte_offset, piece.byte_offset + piece.size, 9):
            write(path, content[:place] + bytes([content[place] ^ 64]) + content[place + 1 :])
            with pytest.raises(WeightsError, match=r"tensor 'w': (its data is damaged|a piece has)"):
                load(path)


class TestTheChild:
    """libhdf5 runs in a process of its own: what happens there does not happen here."""

    @pytest.fixture
    def path(self, tmp_path: Path) -> Path:
        return make(tmp_path / "tf_model.h5", as_keras_writes)

    @pytest.mark.parametrize(
        ("program", "seconds", "message"),
        [
            ("import os; os.abort()", 60, r"libhdf5 crashed, exit code -6"),
            ("import sys; sys.exit('out of reach')", 60, "libhdf5 crashed, exit code 1 'out of reach'"),
            ("while True: pass", 1, "libhdf5 did not finish within 1 s"),
        ],
    )
    def test_crash_and_hang(
        self, path: Path, monkeypatch: pytest.MonkeyPatch, program: str, seconds: int, message: str
    ) -> None:
        monkeypatch.setattr(hdf5_file, "PROGRAM", program)
        monkeypatch.setattr(hdf5_file, "MAX_SECONDS", seconds)
        with pytest.raises(WeightsError, match=rf"tf_model\.h5: {message}.*; expected a whole HDF5 file"):
            open_checkpoint(path)

    def test_limits(self, tmp_path: Path) -> None:
        import subprocess

        program = (
            "from weights_tools.hdf5_listing import limit_this_process\nlimit_this_process()\n"
            "import resource\nprint(resource.getrlimit(resource.RLIMIT_CPU), resource.getrlimit(resource.RLIMIT_AS))\n"
            "try:\n    bytearray(3_000_000_000)\nexcept MemoryError:\n    print('refused')"
        )
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
        seconds, memory = hdf5_listing.MAX_SECONDS, hdf5_listing.MAX_MEMORY
        assert done.stdout.splitlines() == [f"{(seconds, seconds)} {(memory, memory)}", "refused"]

    def test_modules_of_the_working_folder_are_not_run(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in ("h5py", "json", "numpy", "weights_tools"):
            write(path.parent / f"{name}.py", b"import pathlib; pathlib.Path('executed').touch()")
        monkeypatch.chdir(path.parent)
        monkeypatch.setenv("PYTHONPATH", str(path.parent))
        monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
        assert len(load(path)) == len(tensors())
        assert not (path.parent / "executed").exists()

    def test_without_h5py(
        self, path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        find = importlib.util.find_spec
        monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "h5py" else find(name))
        message = r"tf_model\.h5 is an HDF5 file; reading it needs h5py: pip install 'minitf\[tf\]'"
        with pytest.raises(ImportError, match=message):
            open_checkpoint(path)
        assert main(["inspect", str(path)]) == 1
        assert re.search(message, capsys.readouterr().err)

    def test_h5py_is_not_imported_here(self, path: Path) -> None:
        import subprocess

        program = f"import sys; from weights_tools.files import open_checkpoint; open_checkpoint({str(path)!r})\n"
        done = subprocess.run(
            [sys.executable, "-c", program + "print('h5py' in sys.modules)"], capture_output=True, text=True
        )
        assert (done.stdout, done.stderr) == ("False\n", "")
