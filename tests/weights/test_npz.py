"""numpy's archives: whatever numpy writes is read to the bit, whatever it never writes is refused."""

from __future__ import annotations

import io
import json
import os
import struct
import subprocess
import sys
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.support import REPOSITORY
from tests.weights.forge import tensors, torch_bytes, write
from weights_tools.__main__ import main
from weights_tools.files import WeightsError, open_checkpoint
from weights_tools.npz_file import DTYPES

NUMBERS = [np.dtype(text) for text in DTYPES]


def load(path: Path) -> dict[str, torch.Tensor]:
    with open_checkpoint(path) as checkpoint:
        return {name: checkpoint.read(name) for name in checkpoint}


def arrays(seed: int = 0) -> dict[str, np.ndarray]:
    return {name: tensor.numpy() for name, tensor in tensors(seed).items()}


def npz(content: dict[str, np.ndarray] | None = None, *, packed: bool = False) -> bytes:
    stream = io.BytesIO()
    (np.savez_compressed if packed else np.savez)(stream, **(arrays() if content is None else content))
    return stream.getvalue()


def npy(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.lib.format.write_array(stream, array, allow_pickle=array.dtype.hasobject)
    return stream.getvalue()


def zipped(records: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", compression) as archive:
        for name, data in records.items():
            archive.writestr(name, data)
    return stream.getvalue()


def header(text: str, data: bytes = b"", *, length: int | None = None, version: int = 1) -> bytes:
    """A `.npy` of any header text; `length` overrides the true length."""
    count = struct.pack("<H" if version == 1 else "<I", len(text) if length is None else length)
    return b"\x93NUMPY" + bytes([version, 0]) + count + text.encode("latin-1") + data


def described(descr: object = "<f4", order: object = False, shape: object = (2,)) -> str:
    return repr({"descr": descr, "fortran_order": order, "shape": shape})


class TestReads:
    @pytest.mark.parametrize("dtype", NUMBERS, ids=str)
    @pytest.mark.parametrize("swapped", [False, True], ids=["native", "swapped"])
    @pytest.mark.parametrize("packed", [False, True], ids=["stored", "deflated"])
    def test_every_dtype(self, tmp_path: Path, dtype: np.dtype, swapped: bool, packed: bool) -> None:
        raw = np.arange(1, 1 + 6 * dtype.itemsize, dtype=np.uint8)
        native = (raw % 2).astype(bool)[:6] if dtype.kind == "b" else raw.view(dtype)
        original = native.reshape(2, 3)
        stored = original.astype(original.dtype.newbyteorder()) if swapped else original
        content = {
            "matrix": stored,
            "transposed": stored.T,
            "cube": np.asfortranarray(stored.reshape(1, 3, 2)),
            "scalar": stored[1, 2],
            "empty": stored[:0],
            "empty columns": np.asfortranarray(stored[:, :0]),
        }
        path = write(tmp_path / "weights.npz", npz(content, packed=packed))
        expected = {
            "matrix": original,
            "transposed": original.T,
            "cube": original.reshape(1, 3, 2),
            "scalar": original[1, 2],
            "empty": original[:0],
            "empty columns": original[:, :0],
        }
        with open_checkpoint(path) as checkpoint:
            assert (checkpoint.format, checkpoint.files, checkpoint.notes) == ("npz", (path,), [])
            assert checkpoint.names() == list(expected)
            for name, array in expected.items():
                info, tensor = checkpoint[name], checkpoint.read(name)
                assert (info.dtype, info.shape, info.nbytes) == (DTYPES[dtype.str[1:]], array.shape, array.nbytes)
                assert (tensor.dtype, tuple(tensor.shape), tensor.is_contiguous()) == (info.dtype, info.shape, True)
                assert tensor.numpy().tobytes() == array.tobytes()

    @pytest.mark.parametrize("order", ["C", "F"])
    def test_out(self, tmp_path: Path, order: str) -> None:
        array = np.arange(6, dtype=">f4").reshape(2, 3).copy(order)
        path = write(tmp_path / "weights.npz", npz({"a": array}))
        with open_checkpoint(path) as checkpoint:
            for out in (torch.zeros(2, 3), torch.zeros(3, 2).t(), torch.nn.Parameter(torch.zeros(2, 3).double())):
                assert checkpoint.read("a", out=out) is out
                assert out.tolist() == array.tolist()

    def test_memory_is_the_callers(self, tmp_path: Path) -> None:
        with open_checkpoint(write(tmp_path / "weights.npz", npz())) as checkpoint:
            checkpoint.read("pooler.dense.bias").zero_()
            assert torch.equal(checkpoint.read("pooler.dense.bias"), tensors()["pooler.dense.bias"])

    def test_mapping_is_refused(self, tmp_path: Path) -> None:
        with (
            open_checkpoint(write(tmp_path / "weights.npz", npz())) as checkpoint,
            pytest.raises(WeightsError, match=r"'pooler\.dense\.bias': an \.npz archive; expected a safetensors file"),
        ):
            checkpoint.read_mapped("pooler.dense.bias")

    def test_names_with_folders_and_version_2(self, tmp_path: Path) -> None:
        text = described().ljust(100) + "\n"
        content = {"params/dense/kernel.npy": npy(np.ones(3)), "b.npy": header(text, bytes(8), version=2)}
        assert list(load(write(tmp_path / "weights.npz", zipped(content)))) == ["params/dense/kernel", "b"]

    def test_rewritten_while_open(self, tmp_path: Path) -> None:
        path = write(tmp_path / "weights.npz", npz())
        with open_checkpoint(path) as checkpoint:
            os.utime(path, ns=(1, 1))
            with pytest.raises(WeightsError, match="the file changed after it was opened"):
                checkpoint.read("pooler.dense.bias")


class TestPlaces:
    def test_folder(self, tmp_path: Path) -> None:
        write(tmp_path / "weights.npz", npz())
        write(tmp_path / "config.json", b"{}")
        with open_checkpoint(tmp_path) as checkpoint:
            assert (checkpoint.path, len(checkpoint)) == (tmp_path, 6)
            assert "weights.npz, the only weights file, is used" in checkpoint.notes[0]

    def test_any_other_container_comes_first(self, tmp_path: Path) -> None:
        write(tmp_path / "weights.npz", npz())
        write(tmp_path / "ckpt.pt", torch_bytes({"a": torch.ones(1)}))
        with open_checkpoint(tmp_path) as checkpoint:
            assert (checkpoint.format, checkpoint.names()) == ("pytorch", ["a"])

    def test_two(self, tmp_path: Path) -> None:
        write(tmp_path / "a.npz", npz())
        write(tmp_path / "b.index", b"")
        with pytest.raises(FileNotFoundError, match=r"several could be meant: 'a\.npz', 'b\.index'; give the file"):
            open_checkpoint(tmp_path)

    def test_misleading_names(self, tmp_path: Path) -> None:
        for name, content, format in (("model.bin", npz(), "npz"), ("x.npz", torch_bytes(tensors()), "pytorch")):
            with open_checkpoint(write(tmp_path / name, content)) as checkpoint:
                assert checkpoint.notes == [f"{name} is a {format} file in spite of its name"]
                assert torch.equal(checkpoint.read("pooler.dense.bias"), tensors()["pooler.dense.bias"])

    def test_link_out_of_the_folder(self, tmp_path: Path) -> None:
        (tmp_path / "sub").mkdir()
        real = write(tmp_path / "real.npz", npz())
        (tmp_path / "sub" / "weights.npz").symlink_to(real)
        with pytest.raises(WeightsError, match="this link leads out of the folder"):
            open_checkpoint(tmp_path / "sub")
        assert len(load(tmp_path / "sub" / "weights.npz")) == 6  # named by the caller, not by the folder

    def test_pipe(self, tmp_path: Path) -> None:
        os.mkfifo(tmp_path / "weights.npz")
        with pytest.raises(WeightsError, match="this is a named pipe"):
            open_checkpoint(tmp_path)

    def test_inspect(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        path = write(tmp_path / "weights.npz", npz())
        assert main(["inspect", str(path), "--json", "--values"]) == 0
        content = json.loads(capsys.readouterr().out)
        assert (content["format"], content["parameters"], content["problems"]) == ("npz", 72, [])


# ------------------------------------------------------------------------------------------------------ hostile files


def nested() -> bytes:
    """Two records, the second one inside the data of the first, its own header included."""
    inner = zipped({"b.npy": npy(np.ones(2, "<f4"))})
    payload = np.frombuffer(inner, np.uint8)
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("a.npy", npy(payload))
        with zipfile.ZipFile(io.BytesIO(inner)) as other:
            record = other.infolist()[0]
        record.header_offset = stream.getvalue().index(inner)
        archive.filelist.append(record)
        archive.NameToInfo["b.npy"] = record
    return stream.getvalue()


def twice(*, same_place: bool) -> bytes:
    import warnings

    stream = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(stream, "w") as archive:
        warnings.simplefilter("ignore")
        archive.writestr("a.npy", npy(np.ones(2)))
        if same_place:
            archive.filelist.append(archive.filelist[0])
        else:
            archive.writestr("a.npy", npy(np.zeros(2)))
    return stream.getvalue()


def patched(content: bytes, old: bytes, new: bytes, count: int = 1) -> bytes:
    assert content.count(old) == count
    return content.replace(old, new)


def one(data: bytes) -> bytes:
    return zipped({"a.npy": data})


DATA = np.arange(1.0, 5.0, dtype="<f4")
FAULTY = "tensor 'a': its header is damaged"
BROKEN = {
    "objects": (npz({"a": np.array([1, None])}), r"tensor 'a': its dtype is 'object', Python objects, .*numpy\.savez"),
    "object hidden": (one(header(described("|O"), bytes(16))), "its dtype is 'object', Python objects"),
    "text": (npz({"a": np.array(["x"])}), r"tensor 'a': its dtype is '<U1'; expected numbers"),
    "bytes": (npz({"a": np.array([b"x"])}), r"tensor 'a': its dtype is '\|S1'; expected numbers"),
    "void": (npz({"a": np.zeros(2, "V2")}), r"its dtype is '\|V2', bytes without a meaning \(bfloat16"),
    "record": (npz({"a": np.zeros(2, [("x", "<f4")])}), r"its dtype is \"\[\('x', '<f4'\)\]\", bytes without a mean"),
    "time": (npz({"a": np.zeros(2, "M8[s]")}), r"its dtype is 'datetime64\[s\]'; expected numbers"),
    "long double": (one(header(described("<f16"), bytes(32))), r"its dtype is 'float128'; expected numbers|" + FAULTY),
    "version 3": (one(header(described(), bytes(8), version=3)), r"it begins with b'.x93NUMPY.x03.x00'"),
    "no array": (one(b"hello"), "tensor 'a': it begins with b'hello'; expected a .npy array"),
    "empty record": (one(b""), "tensor 'a': it begins with b''"),
    "header cut": (one(header(described(), length=5000)), "its record ends inside the header"),
    "header bomb": (one(header(described(), length=2**32 - 1, version=2)), "its header claims 4294967295 bytes"),
    "code": (one(header("__import__('os').abort()", bytes(8))), FAULTY),
    "no literal": (one(header("{", bytes(8))), FAULTY),
    "nesting": (one(header("(" * 9000, bytes(8))), FAULTY),
    "list": (one(header("[1]", bytes(8))), FAULTY),
    "surplus key": (one(header(described()[:-1] + ", 'x': 1}", bytes(8))), FAULTY),
    "negative": (one(header(described(shape=(-2,)), bytes(8))), r"tensor 'a': its shape is \(-2,\)"),
    "truth as size": (one(header(described(shape=(True,)), bytes(4))), r"its shape is \(True,\)"),
    "float as size": (one(header(described(shape=(2.0,)), bytes(8))), FAULTY),
    "list as shape": (one(header(described(shape=[2]), bytes(8))), FAULTY),
    "enormous": (one(header(described(shape=(2**62, 2**62, 0)))), "tensor 'a': its shape is"),
    "65 dimensions": (one(header(described(shape=(1,) * 65), bytes(4))), "its shape is .* expected up to 64 sizes"),
    "order": (one(header(described(order=1), bytes(8))), FAULTY),
    "dtype": (one(header(described(descr="<q9"), bytes(8))), FAULTY),
    "too short": (
        one(header(described(shape=(3,)), bytes(8))),
        r"its record has \d+ bytes; expected \d+ for shape \(3",
    ),
    "too long": (one(header(described(shape=(1,)), bytes(8))), r"its record has \d+ bytes; expected \d+ for shape \(1"),
    "truth 2": (one(header(described("|b1"), b"\x01\x02")), "it holds truth values other than 0 and 1"),
    "other records": (zipped({"a.npy": npy(DATA), "b.txt": b""}), "something else than arrays: 'b.txt'; expected"),
    "no arrays": (npz({}), "it holds no arrays; expected names and arrays"),
    "doubled": (twice(same_place=False), r"record 'a\.npy' occurs more than once"),
    "doubled entry": (twice(same_place=True), r"record 'a\.npy' occurs more than once"),
    "overlap": (nested(), r"record 'b\.npy' overlaps the one before it"),
    "bzip2": (zipped({"a.npy": npy(DATA)}, zipfile.ZIP_BZIP2), r"record 'a\.npy' is compressed by method 12"),
    "lzma": (zipped({"a.npy": npy(DATA)}, zipfile.ZIP_LZMA), r"record 'a\.npy' is compressed by method 14"),
    "null in a name": (
        patched(zipped({"abcdef.npy": npy(DATA)}), b"abcdef.npy", b"a.npy\0.npy", 2),
        r"a record is named 'a\.npy\\x00\.npy'; expected a plain name",
    ),
    "two names": (
        zipped({"a.npy": npy(DATA)}).replace(b"a.npy", b"b.npy", 1),
        r"tensor 'a': the archive is damaged \(File name in directory 'a\.npy' and header b'b\.npy' differ",
    ),
    "bit rot": (patched(npz({"a": DATA}), DATA.tobytes(), (-DATA).tobytes()), r"tensor 'a': .*damaged \(Bad CRC-32"),
    "appended": (npz() + b"x", "the archive's directory is not at its end"),
    "comment": (npz()[:-2] + b"\x01\x00x", "the archive's directory is not at its end"),
    "prefix": (b"PK\x03\x04" + bytes(40) + npz(), "the archive begins inside the file"),
    "two archives": (npz() + npz(arrays(1)), "the archive begins inside the file"),
    "records forgotten": (
        (lambda end: end[:-12] + b"\x05\0" + end[-10:])(npz()),
        "its directory claims 5 records and has 6",
    ),
    "directory bomb": (
        (lambda end: end[:-10] + struct.pack("<I", 2**31) + end[-6:])(npz()),
        "its directory claims 2147483648 bytes; expected at most 8000000",
    ),
}


@pytest.mark.parametrize("kind", list(BROKEN))
@pytest.mark.filterwarnings("ignore")
def test_broken(tmp_path: Path, kind: str) -> None:
    content, message = BROKEN[kind]
    path = write(tmp_path / "weights.npz", content)
    with pytest.raises(WeightsError, match=rf"weights\.npz: (tensor .*: )?.*{message}"):
        load(path)


def test_encrypted(tmp_path: Path) -> None:
    content = bytearray(zipped({"a.npy": npy(DATA)}))
    content[6] |= 1
    content[content.index(b"PK\x01\x02") + 8] |= 1
    with pytest.raises(WeightsError, match=r"record 'a\.npy' is encrypted"):
        load(write(tmp_path / "weights.npz", bytes(content)))


@pytest.mark.parametrize("packed", [False, True], ids=["stored", "deflated"])
def test_cut_off_anywhere(tmp_path: Path, packed: bool) -> None:
    content = npz(packed=packed)
    lengths = {len(content) * percent // 100 for percent in range(100)} | {1, 4, 21, 22, 29, 30, len(content) - 1}
    for length in sorted(lengths):
        with pytest.raises(WeightsError, match=r"weights\.npz: "):
            load(write(tmp_path / "weights.npz", content[:length]))


# Runs in a process of its own, which may not take 400 MB more than it has after the imports.
LIMITED = """
import resource, sys, time, warnings
from collections import Counter
from pathlib import Path
import torch
from weights_tools.files import WeightsError, open_checkpoint

warnings.simplefilter("ignore")
torch.set_num_threads(1)

def load(path):
    with open_checkpoint(path) as checkpoint:
        return {name: checkpoint.read(name) for name in checkpoint}

folder = Path(sys.argv[1])
expected = load(folder / "good.npz")
used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 400_000_000, used + 400_000_000))
outcomes = Counter()
for path in sorted(folder.glob("bad*")):
    start = time.monotonic()
    try:
        found = load(path)
        same = list(found) == list(expected) and all(torch.equal(found[name], expected[name]) for name in found)
        outcomes["identical" if same else f"different: {path.name}"] += 1
    except WeightsError as error:
        outcomes["refused" if path.name in str(error) else f"nameless: {error}"] += 1
    if time.monotonic() - start > 10:
        outcomes[f"slow: {path.name}"] += 1
print(dict(outcomes))
"""


def outcomes(folder: Path) -> dict[str, int]:
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    result = subprocess.run(
        [sys.executable, "-c", LIMITED, str(folder)], capture_output=True, text=True, env=environment, timeout=300
    )
    assert (result.returncode, result.stderr) == (0, "")
    counts: dict[str, int] = eval(result.stdout, {"__builtins__": {}})
    return counts


def claiming(size: int) -> bytes:
    """A deflated array of zeros whose directory and header claim `size` bytes, of which few are there."""
    data = header(described(shape=(size // 4,)).ljust(100), b"")
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    packed = packer.compress(data + bytes(1000)) + packer.flush()
    total, checksum = len(data) + size, zlib.crc32(data + bytes(1000))  # of what is there
    record = zipfile.ZipInfo("a.npy")
    record.compress_type = zipfile.ZIP_DEFLATED
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr(record, b"x", compress_type=zipfile.ZIP_STORED)
        record.compress_type, record.file_size, record.compress_size = zipfile.ZIP_DEFLATED, total, len(packed)
        record.CRC = checksum
        stream.seek(0)
        stream.write(record.FileHeader() + packed)
        archive.start_dir = stream.tell()
    return stream.getvalue()


def test_bombs_under_a_memory_limit(tmp_path: Path) -> None:
    write(tmp_path / "good.npz", npz())
    write(tmp_path / "bad1.npz", npz({"a": np.zeros(10**8, np.uint8)}, packed=True))
    write(tmp_path / "bad2.npz", npz({f"a{index}": np.zeros(10**7, np.uint8) for index in range(20)}, packed=True))
    write(tmp_path / "bad3.npz", claiming(2**40))
    write(tmp_path / "bad4.npz", claiming(2**25))
    write(tmp_path / "bad5.npz", one(header(described(shape=(2**40,)), bytes(8))))
    write(tmp_path / "bad6.npz", zipped({"a.npy": header("(" * 2**24, length=2**24, version=2)}, zipfile.ZIP_DEFLATED))
    assert outcomes(tmp_path) == {"refused": 6}
    with pytest.raises(WeightsError, match=r"it would expand from \d+ to 100000\d+ bytes; expected at most 7\d+\. If"):
        load(tmp_path / "bad1.npz")
    with pytest.raises(WeightsError, match="tensor 'a': its data ends 33553432 bytes too early"):
        load(tmp_path / "bad4.npz")


def test_what_compresses_well_is_no_bomb(tmp_path: Path) -> None:
    content = {"zeros": np.zeros((500, 1000), np.float32)}
    (tensor,) = load(write(tmp_path / "weights.npz", npz(content, packed=True))).values()
    assert not tensor.any()
