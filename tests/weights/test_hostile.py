"""Files made to harm, and files that broke on the way: each is refused by a WeightsError, and nothing is executed.

What is where:

    pickle payloads (.bin, stream, shards, wrappers, optimizer files, bare), raw instructions: here
    sparse tensors (malformed ones too), quantised, nested, meta: here
    header bombs, sizes that are NaN, negative or too many, doubled and overlapping entries (safetensors): here
    recompressed, short, missing, doubled, bit-rotted records, big-endian, two archives in one (torch's zip): here
    bombs, small files that claim gigabytes, under a limit of memory: here, test_npz, test_tensorflow_bundle, test_hdf5
    the same faults of arrays, of TensorFlow's tables, of HDF5: test_npz, test_tensorflow_bundle, test_hdf5
    shards: absolute, "..", links, pipes, missing, doubled, of two saves; broken indexes: test_containers
    cut off at every percent, damaged at random, every container: test_damage
    files of another kind: test_mistaken
    absurd sizes in config.json: tests/loading/test_absurd_sizes
    tied heads that contradict each other, a file that shrinks under a loaded model: tests/loading/test_from_pretrained
"""

from __future__ import annotations

import os
import pickle
import struct
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch

from minitf import BertConfig, BertModel
from tests.support import REPOSITORY
from tests.weights.forge import rezip, safetensors_bytes, tensors, torch_bytes, write
from weights_tools.files import WeightsError, open_checkpoint, save_checkpoint


def load(path: Path) -> dict[str, torch.Tensor]:
    with open_checkpoint(path) as checkpoint:
        return {name: checkpoint.read(name) for name in checkpoint}


# ------------------------------------------------------------------------------------------------------ pickle payloads


class Gadget:
    """An object that calls `function(*arguments)` when it is unpickled in the ordinary way."""

    def __init__(self, function, *arguments) -> None:
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


def gadgets(marker: Path) -> dict[str, object]:
    touch = f"open({str(marker)!r}, 'w').close()"
    return {
        "os.system": Gadget(os.system, f"touch '{marker}'"),
        "eval": Gadget(eval, touch),
        "exec": Gadget(exec, touch),
        "popen": Gadget(subprocess.Popen, ["touch", str(marker)]),
        "open": Gadget(open, str(marker), "w"),
        "path": Gadget(Path.touch, marker),
        "torch.load": Gadget(torch.load, str(marker)),
        "torch.hub": Gadget(torch.hub.load_state_dict_from_url, "file:///nothing"),
        "getattr": Gadget(getattr, "x", "upper"),
    }


RAW_PICKLES = {
    # Instructions that Python's own unpickler knows besides REDUCE and that call something as well.
    "INST": b"(S'touch MARKER'\nios\nsystem\n.",
    "OBJ": b"(cos\nsystem\nS'touch MARKER'\no.",
    "STACK_GLOBAL": b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x0ctouch MARKER\x85R.",
    "NEWOBJ": b"\x80\x02csubprocess\nPopen\n(]X\x05\x00\x00\x00touchaX\x06\x00\x00\x00MARKERa\x85\x81.",
    "EXT1": b"\x80\x02\x82\x01.",
    "BUILD": b"\x80\x02ccollections\nOrderedDict\n)R}X\x01\x00\x00\x00acos\nsystem\nsb.",
    "PERSID": b"Pos.system\n.",
    "memo": b"\x80\x02r\xff\xff\xff\xff.",
    "underflow": b"\x80\x02RRR.",
    "empty": b"",
    "unfinished": b"\x80\x02}",
    "long": b"\x80\x02\x8b\xff\xff\xff\x7f.",
    "huge text": b"\x80\x02X\xff\xff\xff\xff.",
    "nesting": b"\x80\x02" + b"(" * 200_000 + b".",
}


@pytest.mark.parametrize("place", ["zip", "stream", "shard", "bare", "wrapper", "optimizer"])
@pytest.mark.parametrize("kind", list(gadgets(Path("x"))))
def test_payload_is_not_executed(tmp_path: Path, kind: str, place: str) -> None:
    marker = tmp_path / "executed"
    gadget = gadgets(marker)[kind]
    path = tmp_path / "pytorch_model.bin"
    if place == "bare":
        path.write_bytes(pickle.dumps({"weight": gadget}, protocol=2))
    elif place == "shard":
        save_checkpoint(tmp_path, tensors(), max_shard_size=100, format="pytorch")
        path = tmp_path / "pytorch_model-00002-of-00003.bin"
        path.write_bytes(torch_bytes({**tensors(), "payload": gadget}))
        path = tmp_path
    else:
        state = tensors()
        value = {"model": state, "optimizer": {"x": gadget}} if place == "wrapper" else {**state, "payload": gadget}
        path.write_bytes(torch_bytes(value, old=place == "stream"))
    if place == "optimizer":
        path = tmp_path / "optimizer.pt"
        path.write_bytes(torch_bytes({"state": {0: {"step": gadget}}, "param_groups": [{"lr": 0.1}]}))
    BertConfig().save_pretrained(tmp_path)
    for call in (load, BertModel.from_pretrained):
        with pytest.raises(WeightsError, match=r"pickle imports '|may run any program"):
            call(path)
    assert not marker.exists()


def test_the_payloads_are_real(tmp_path: Path) -> None:
    marker = tmp_path / "executed"
    for kind in ("eval", "open", "exec"):
        pickle.loads(pickle.dumps(gadgets(marker)[kind]))
        assert marker.exists()
        marker.unlink()


@pytest.mark.parametrize("kind", list(RAW_PICKLES))
def test_raw_instructions(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    content = rezip(
        torch_bytes(tensors()), change=lambda name, data: RAW_PICKLES[kind] if name.endswith("data.pkl") else data
    )
    path = write(tmp_path / "pytorch_model.bin", content)
    with pytest.raises(WeightsError, match=r"pytorch_model.bin: "):
        load(path)
    assert not (tmp_path / "MARKER").exists()


def malformed_sparse() -> dict[str, torch.Tensor]:
    """An element in row 5,000 of 3: what makes torch write outside of the tensor when it is made dense."""
    place, value = torch.tensor([[5000]]), torch.ones(1)
    return {"a": torch.sparse_coo_tensor(place, value, (3,), check_invariants=False)}


ODD_VALUES = {
    "sparse": (lambda: {"a": torch.eye(3).to_sparse()}, "it holds sparse tensors"),
    "malformed sparse": (malformed_sparse, "it holds sparse tensors"),
    "csr": (lambda: {"a": torch.eye(3).to_sparse_csr()}, "it holds sparse tensors"),
    "quantised": (
        lambda: {"a": torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8)},
        "it holds quantised tensors",
    ),
    "nested": (lambda: {"a": torch.nested.nested_tensor([torch.ones(2), torch.ones(3)])}, "it holds nested tensors"),
    "meta": (lambda: {"a": torch.ones(3, device="meta")}, "it holds tensors without data"),
    "tensor": (lambda: torch.ones(3), "it holds one tensor; expected a dictionary of names and tensors"),
    "list": (lambda: [torch.ones(3)], "it holds a list; expected a dictionary"),
    "no tensors": (lambda: {"epoch": 3}, r"it holds no tensors \(only 'epoch'\)"),
    "nothing": (dict, "it holds no tensors"),
    "number as name": (lambda: {1: torch.ones(3)}, "tensors are named 1; expected texts"),
    "two": (lambda: {"model": {"a": torch.ones(1)}, "state_dict": {"a": torch.ones(1)}}, "several state dicts"),
}


@pytest.mark.parametrize("kind", list(ODD_VALUES))
@pytest.mark.parametrize("old", [False, True], ids=["zip", "stream"])
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_not_a_plain_state_dict(tmp_path: Path, kind: str, old: bool) -> None:
    make, message = ODD_VALUES[kind]
    path = write(tmp_path / "x.bin", torch_bytes(make(), old=old))
    with pytest.raises(WeightsError, match=message):
        load(path)


# ------------------------------------------------------------------------------------------------------- safetensors


def entry(begin: int, end: int, shape: list | None = None, dtype: str = "F32") -> dict:
    return {"dtype": dtype, "shape": [(end - begin) // 4] if shape is None else shape, "data_offsets": [begin, end]}


BROKEN_HEADERS = {
    "overlap": (
        safetensors_bytes({"a": entry(0, 8), "b": entry(4, 12)}, bytes(12)),
        "tensor 'b': its data starts at 4 and overlaps the tensor before it; expected a start at 8",
    ),
    "same place": (safetensors_bytes({"a": entry(0, 8), "b": entry(0, 8)}, bytes(8)), "tensor '.': .* overlaps"),
    "hole": (safetensors_bytes({"a": entry(4, 8)}, bytes(8)), "tensor 'a': .* leaves 4 bytes unused"),
    "beyond the end": (safetensors_bytes({"a": entry(0, 80)}, bytes(8)), r"the file has \d+ bytes; expected \d+ bytes"),
    "too long": (safetensors_bytes({"a": entry(0, 8)}, bytes(9)), r"the file has \d+ bytes; expected \d+ bytes"),
    "doubled": (
        safetensors_bytes(
            b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}',
            bytes(4),
        ),
        "the header names 'a' more than once",
    ),
    "doubled key": (
        safetensors_bytes(b'{"a":{"dtype":"F32","shape":[1],"shape":[1],"data_offsets":[0,4]}}', bytes(4)),
        "the header names 'shape' more than once",
    ),
    "shape": (
        safetensors_bytes({"a": entry(0, 8, [3])}, bytes(8)),
        "tensor 'a': its data has 8 bytes; expected 12 bytes",
    ),
    "negative": (safetensors_bytes({"a": entry(0, 8, [-2])}, bytes(8)), r"its shape is \[-2\]"),
    "dimensions": (safetensors_bytes({"a": entry(0, 4, [1] * 65)}, bytes(4)), "expected a list of at most 64 sizes"),
    "endless product": (safetensors_bytes({"a": entry(0, 4, [2**62] * 10**6)}, bytes(4)), "at most 64 sizes"),
    "digits": (safetensors_bytes(b'{"a":' + b"9" * 5000 + b"}"), r"the header is not JSON \(.*digits|the entry is 9"),
    "float": (safetensors_bytes({"a": entry(0, 8, [2.0])}, bytes(8)), r"its shape is \[2.0\]"),
    "true": (safetensors_bytes({"a": entry(0, 4, [True])}, bytes(4)), r"its shape is \[True\]"),
    "nan": (safetensors_bytes(b'{"a":{"dtype":"F32","shape":[NaN],"data_offsets":[0,4]}}', bytes(4)), "the number NaN"),
    "overflow": (safetensors_bytes({"a": entry(0, 0, [2**62, 2**62, 0])}), "refuses it"),
    "enormous": (safetensors_bytes({"a": entry(0, 2**62, [2**60])}), r"the file has \d+ bytes"),
    "dtype": (safetensors_bytes({"a": entry(0, 8, [2], "F33")}, bytes(8)), "tensor 'a': its dtype is 'F33'"),
    "backwards": (safetensors_bytes({"a": entry(8, 0, [0])}, bytes(8)), r"its data_offsets are \[8, 0\]"),
    "entry": (safetensors_bytes({"a": 3}), "tensor 'a': the entry is 3"),
    "surplus key": (safetensors_bytes({"a": {**entry(0, 8), "x": 1}}, bytes(8)), "tensor 'a': the entry is"),
    "metadata": (safetensors_bytes({"__metadata__": {"a": 1}}), "__metadata__ is {'a': 1}"),
    "list": (safetensors_bytes(b"[]"), "the header is a JSON list"),
    "not json": (safetensors_bytes(b"{nonsense"), "the header is not JSON"),
    "not text": (safetensors_bytes(b'{"\xff\xfe"'), "the header is not JSON"),
    "nesting": (safetensors_bytes(b'{"a":' * 50_000), "the header is not JSON"),
    "bomb": (
        safetensors_bytes(b"{}", length=2**40),
        r"the header claims 1099511627776 bytes; expected at most 100000000",
    ),
    "past the end": (safetensors_bytes(b"{}", length=1000), r"the header claims 1000 bytes, the file has 10"),
    "short": (b"\x01", "1 bytes in all; expected at least 8 bytes"),
}


@pytest.mark.parametrize("kind", list(BROKEN_HEADERS))
def test_broken_safetensors(tmp_path: Path, kind: str) -> None:
    content, message = BROKEN_HEADERS[kind]
    path = write(tmp_path / "model.safetensors", content)
    with pytest.raises(WeightsError, match=rf"model\.safetensors: {message}" if "tensor" in message[:7] else message):
        load(path)


# ---------------------------------------------------------------------------------------------------------------- zip


def replace_record(name: str, change) -> bytes:
    return rezip(torch_bytes(tensors()), change=lambda record, data: change(data) if record.endswith(name) else data)


def in_pickle(content: bytes, change) -> bytes:
    return rezip(content, change=lambda name, data: change(data) if name.endswith("data.pkl") else data)


def flip(content: bytes, needle: bytes) -> bytes:
    """One bit of `needle` inside `content` flipped."""
    place = content.index(needle)
    return content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]


def broken_zips() -> dict[str, tuple[bytes, str]]:
    good = torch_bytes(tensors())
    weights = tensors()["embeddings.word_embeddings.weight"].numpy().tobytes()
    end = "the archive's directory is not at its end"
    return {
        "recompressed": (
            rezip(good, compression=zipfile.ZIP_DEFLATED),
            "record 'archive/[^']*' is compressed by method 8; expected stored",
        ),
        "short record": (replace_record("data/0", lambda data: data[:-4]), "data/0 has 108 bytes; expected 112"),
        "long record": (replace_record("data/0", lambda data: data + b"more"), "data/0 has 116 bytes; expected 112"),
        "missing record": (replace_record("data/0", lambda data: None), "record data/0 is missing"),
        "bit rot": (
            flip(good, weights),
            r"tensor 'embeddings\.word.*': its record data/0 is damaged \(wrong checksum\)",
        ),
        "big endian": (replace_record("byteorder", lambda data: b"big"), "its byte order is 'big'; expected little"),
        "doubled record": (rezip(good, extra={"ARCHIVE/data/0": bytes(112)}), "occurs more than once"),
        "appended archive": (good + rezip(torch_bytes(tensors(1))), "the archive begins inside the file"),
        "comment": (good[:-2] + b"\x05\x00hello", end),
        "appended text": (good + b"trailing", end),
        "no data.pkl": (replace_record("data.pkl", lambda data: None), "this is a zip archive of"),
    }


@pytest.mark.parametrize("kind", list(broken_zips()))
def test_broken_zip(tmp_path: Path, kind: str) -> None:
    content, message = broken_zips()[kind]
    path = write(tmp_path / "pytorch_model.bin", content)
    with pytest.raises(WeightsError, match=message):
        load(path)


def test_claims_more_than_there_is(tmp_path: Path) -> None:
    """Sizes in the pickle alone decide what torch allocates and reads: here they exceed the record."""

    def enlarge(data: bytes) -> bytes:
        # The word embeddings have 28 elements; their storage shall have 200, their shape stays.
        assert data.count(b"K\x1c") == 1
        return data.replace(b"K\x1c", b"K\xc8")

    path = write(tmp_path / "a.bin", replace_record("data.pkl", enlarge))
    with pytest.raises(WeightsError, match="record data/0 has 112 bytes; expected 800, as the pickle says"):
        load(path)


@pytest.mark.parametrize("old", [False, True], ids=["zip", "stream"])
def test_shape_larger_than_storage(tmp_path: Path, old: bool) -> None:
    content = torch_bytes({"a": torch.ones(7, 4)}, old=old)
    shape, strides = b"K\x07K\x04\x86", b"K\x04K\x01\x86"

    def enlarge(data: bytes) -> bytes:
        assert data.count(shape) == 1
        return data.replace(shape, b"K\x09K\x04\x86")

    def repeat(data: bytes) -> bytes:
        assert data.count(strides) == 1
        return data.replace(shape, b"K\xffK\x04\x86").replace(strides, b"K\x00K\x01\x86")

    def stride(data: bytes) -> bytes:
        return data.replace(strides, b"K\x08K\x01\x86")

    for change in (enlarge, repeat, stride):
        broken = change(content) if old else in_pickle(content, change)
        path = write(tmp_path / "a.bin", broken)
        with pytest.raises(WeightsError, match="needs more than its storage"):
            load(path)


def test_elements_that_overlap(tmp_path: Path) -> None:
    """One flipped bit in a stride would give other numbers in a tensor of the right shape."""
    content = torch_bytes({"a": torch.ones(7, 4)})
    for strides in (b"K\x03K\x01\x86", b"K\x00K\x01\x86", b"K\x01K\x01\x86"):
        broken = in_pickle(content, lambda data, strides=strides: data.replace(b"K\x04K\x01\x86", strides))
        with pytest.raises(WeightsError, match=r"strides \(\d, 1\), so that its elements overlap"):
            load(write(tmp_path / "a.bin", broken))


def test_protocol_that_does_not_exist(tmp_path: Path) -> None:
    broken = in_pickle(torch_bytes(tensors()), lambda data: b"\x80\x06" + data[2:])
    with pytest.raises(WeightsError, match="the pickle has the protocol 6; expected 2"):
        load(write(tmp_path / "a.bin", broken))


def test_endless_product_of_sizes(tmp_path: Path) -> None:
    """Two bytes an axis: a file of a few megabytes would keep Python multiplying for hours."""
    content = torch_bytes({"a": torch.ones(7, 4)})
    shape = b"(" + b"\x8a\x08" + b"\xff" * 7 + b"\x3fq\xfe" + b"h\xfe" * 200_000 + b"t"
    broken = in_pickle(content, lambda data: data.replace(b"K\x07K\x04\x86", shape).replace(b"K\x04K\x01\x86", shape))
    with pytest.raises(WeightsError, match=r"a tensor of 200001 dimensions"):
        load(write(tmp_path / "a.bin", broken))


def test_doubled_names_in_a_pickle(tmp_path: Path) -> None:
    content = torch_bytes({"ab": torch.ones(2), "cd": torch.zeros(2)})
    broken = in_pickle(content, lambda data: data.replace(b"cd", b"ab"))
    with pytest.raises(WeightsError, match="the name 'ab' occurs more than once"):
        load(write(tmp_path / "a.bin", broken))


# ------------------------------------------------------------------------------------------------------------- stream


def test_broken_stream(tmp_path: Path) -> None:
    good = torch_bytes(tensors(), old=True)
    path = write(tmp_path / "a.bin", good + b"x")
    with pytest.raises(WeightsError, match=rf"the file has {len(good) + 1} bytes; expected {len(good)}"):
        load(path)
    little = b"little_endianq\x02\x88"
    assert good.count(little) == 1
    with pytest.raises(WeightsError, match="big-endian machine"):
        load(write(path, good.replace(little, little[:-1] + b"\x89")))
    weights = tensors()["embeddings.word_embeddings.weight"].numpy().tobytes()
    assert good.count(struct.pack("<q", 28) + weights) == 1
    with pytest.raises(WeightsError, match="has 27 elements in its place; expected 28"):
        load(write(path, good.replace(struct.pack("<q", 28) + weights, struct.pack("<q", 27) + weights)))


# ---------------------------------------------------------------------------------------- too large

BOMBS = """
import resource, sys, time
import torch
from pathlib import Path
from weights_tools.files import WeightsError, open_checkpoint
used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 300_000_000, used + 300_000_000))
for path in sys.argv[1:]:
    start = time.monotonic()
    try:
        with open_checkpoint(path) as checkpoint:
            for name in checkpoint:
                checkpoint.read(name)
        print(path, "opened")
    except WeightsError as error:
        assert time.monotonic() - start < 5
        print("refused")
"""


def sparse_archive(path: Path) -> Path:
    """Ten gigabytes that take no room on the disk: a record, a hole, and a directory as long as the hole."""
    with path.open("wb") as file:
        file.write(torch_bytes({"a": torch.ones(28)})[:1000])
        file.seek(10**10)
        file.write(b"PK\x05\x06" + bytes(4) + struct.pack("<HHIIH", 1, 1, 4 * 10**9, 1000, 0))
    return path


def test_bombs_under_a_memory_limit(tmp_path: Path) -> None:
    """Small files that claim gigabytes are refused before anything is allocated."""
    stream = torch_bytes({"a": torch.ones(28)}, old=True)
    packed = rezip(torch_bytes({"a": torch.zeros(10**7)}), compression=zipfile.ZIP_DEFLATED)
    claims = b"K\x1c", b"\x8a\x05\x00\x00\x00\x00\x10"  # 28 -> 2**36 elements
    archive = rezip(
        torch_bytes({"a": torch.ones(28)}),
        change=lambda name, data: data.replace(*claims) if name.endswith("data.pkl") else data,
    )
    paths = [
        write(tmp_path / "1.safetensors", safetensors_bytes(b"{}", length=99_999_999)),
        write(tmp_path / "2.safetensors", safetensors_bytes({"a": entry(0, 2**40)})),
        write(tmp_path / "3.bin", stream.replace(*claims)),
        write(tmp_path / "4.bin", archive),
        write(tmp_path / "5.bin", packed),
        write(tmp_path / "6.safetensors", safetensors_bytes(b'{"a":' * 10_000)),
        write(tmp_path / "7.bin", stream[: stream.index(b"X")] + b"X\xff\xff\xff\xff" + bytes(100)),
        sparse_archive(tmp_path / "8.bin"),
    ]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    result = subprocess.run(
        [sys.executable, "-c", BOMBS, *map(str, paths)], capture_output=True, text=True, env=environment, timeout=120
    )
    assert result.stderr == ""
    assert result.stdout.split() == ["refused"] * len(paths)
