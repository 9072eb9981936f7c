"""TensorFlow's checkpoints: files that TensorFlow wrote, every dtype and layout by the book, and hostile ones."""

from __future__ import annotations

import json
import os
import random
import struct
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from tests.support import REPOSITORY, shared_data
from tests.weights.bundle_forge import (
    MAGIC,
    NUMBERS,
    Bundle,
    block,
    bundle,
    entry,
    header,
    masked,
    message,
    table,
    varint,
)
from tests.weights.bundle_forge import snappy as pack
from tests.weights.forge import tensors, write
from weights_tools.__main__ import main
from weights_tools.files import WeightsError, open_checkpoint
from weights_tools.tensorflow_table import Damaged, snappy

DATA = ".data-00000-of-00001"


def load(path: Path) -> dict[str, torch.Tensor]:
    with open_checkpoint(path) as checkpoint:
        return {name: checkpoint.read(name) for name in checkpoint}


def same(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> bool:
    def bits(tensor: torch.Tensor) -> list[int]:
        return tensor.reshape(-1).view(torch.uint8).tolist()

    return set(found) == set(expected) and all(
        (found[name].dtype, found[name].shape, bits(found[name])) == (value.dtype, value.shape, bits(value))
        for name, value in expected.items()
    )


class TestWrittenByTensorFlow:
    """The checksums in these files are TensorFlow's: of every block of the index and of every variable."""

    def test_google_bert(self) -> None:
        folder = shared_data("checkpoints", "keras-bert-toy-tf1")
        data = folder / f"bert_model.ckpt{DATA}"
        for place in (folder, folder / "bert_model.ckpt", folder / "bert_model.ckpt.index"):
            with open_checkpoint(place) as checkpoint:
                assert (len(checkpoint), checkpoint.format, checkpoint.files) == (139, "tensorflow", (data,))
                assert checkpoint.total_bytes == data.stat().st_size == 8420
                read = {name: checkpoint.read(name) for name in checkpoint}
        assert read["bert/embeddings/word_embeddings"].shape == (15, 4)
        assert read["bert/encoder/layer_0/attention/self/query/kernel"].shape == (4, 4)
        assert sum(name.endswith(("/adam_m", "/adam_v")) for name in read) == 92
        assert (read["global_step"].dtype, read["global_step"].shape) == (torch.int64, ())
        assert int(read["global_step"]) == 20
        gamma = read["bert/embeddings/LayerNorm/gamma"]
        assert torch.allclose(gamma, torch.ones(4), atol=0.1)
        assert all(tensor.isfinite().all() for tensor in read.values())

    def test_openai_gpt2(self) -> None:
        folder = shared_data("checkpoints", "keras-gpt2-toy-tf1")
        read = load(folder / "model.ckpt")
        assert len(read) == 40
        assert read["model/h0/attn/c_attn/w"].shape == (1, 15, 45)
        assert read["model/wte"].shape == (356, 15)
        assert sum(tensor.numel() for tensor in read.values()) * 4 == (folder / f"model.ckpt{DATA}").stat().st_size

    def test_index_alone(self) -> None:
        folder = shared_data("checkpoints", "tf1-index-only")
        with open_checkpoint(folder) as checkpoint:
            assert len(checkpoint) == 142
            assert checkpoint.files == (folder / "uncased_L-8_H-512_A-8.ckpt.index",)
            assert checkpoint["bert/embeddings/word_embeddings"].shape == (30522, 512)
            assert {info.dtype for info in checkpoint.values()} == {torch.float32}
            assert sum("/layer_7/" in name for name in checkpoint) == 16
            assert any(note.startswith("the data is not here ('uncased_L-8_H-512") for note in checkpoint.notes)
            with pytest.raises(
                WeightsError,
                match=r"tensor 'cls/seq_relationship/output_bias': its data is not here: uncased.*-00000-of-00001 is "
                r"missing; expected index and data together\. Put uncased_.* beside uncased_.*\.index",
            ):
                checkpoint.read("cls/seq_relationship/output_bias", out=torch.zeros(2))

    def test_inspect(self, capsys: pytest.CaptureFixture[str]) -> None:
        folder = shared_data("checkpoints", "keras-bert-toy-tf1")
        assert main(["inspect", str(folder / "bert_model.ckpt"), "--json", "--values"]) == 0
        content = json.loads(capsys.readouterr().out)
        assert (content["format"], content["parameters"], len(content["tensors"])) == ("tensorflow", 2104, 139)
        assert "whole numbers that count (steps, saves) and are no weights: 'global_step'" in content["remarks"]
        assert main(["inspect", str(shared_data("checkpoints", "tf1-index-only"))]) == 0
        assert "142 tensors, 41,668,412 numbers" in capsys.readouterr().out


# ------------------------------------------------------------------------------------------------------- round trips


def every_dtype() -> dict[str, torch.Tensor]:
    result = {}
    for dtype in NUMBERS:
        raw = torch.arange(1, 1 + 6 * dtype.itemsize, dtype=torch.uint8)
        matrix = (raw.remainder(2).bool()[:6] if dtype is torch.bool else raw.view(dtype)).view(2, 3)
        name = str(dtype).removeprefix("torch.")
        result |= {f"{name}/matrix": matrix, f"{name}/scalar": matrix[1, 2].clone(), f"{name}/empty": matrix[:0]}
    return result


@pytest.mark.parametrize("compress", [False, True], ids=["plain", "snappy"])
@pytest.mark.parametrize("per_block", [1, 7, 1000])
@pytest.mark.parametrize("shards", [1, 3])
def test_every_dtype_and_layout(tmp_path: Path, shards: int, per_block: int, compress: bool) -> None:
    made = bundle(every_dtype(), shards=shards, per_block=per_block, compress=compress, align=shards * 4)
    index = made.write(tmp_path / "model.ckpt")
    with open_checkpoint(tmp_path / "model.ckpt") as checkpoint:
        assert checkpoint.path == index
        assert [file.name[-14:] for file in checkpoint.files] == [f"{n:05}-of-{shards:05}" for n in range(shards)]
        assert checkpoint.names() == sorted(every_dtype())
        assert checkpoint.notes == []
        for name, tensor in every_dtype().items():
            info = checkpoint[name]
            assert (info.shape, info.dtype, info.nbytes) == (tensor.shape, tensor.dtype, tensor.nbytes)
        assert same({name: checkpoint.read(name) for name in checkpoint}, every_dtype())


def test_large_and_long(tmp_path: Path) -> None:
    """Lengths beyond one byte everywhere: a tensor of half a megabyte, names of 300 bytes, many blocks."""
    state = {f"model/{'x' * 300}/{index}": torch.full((3,), float(index)) for index in range(500)}
    generator = torch.Generator().manual_seed(0)
    state["größe/大"] = torch.randn(400, 301, generator=generator)
    path = bundle(state, per_block=13, compress=True).write(tmp_path / "ckpt-1")
    with open_checkpoint(path) as checkpoint:
        assert all(torch.equal(checkpoint.read(name), tensor) for name, tensor in state.items())


def test_what_is_not_numbers_is_listed(tmp_path: Path) -> None:
    entries = [
        (b"a", entry(1, [1], bytes(4))),
        (b"handle", entry(20, [], b"", offset=4)),
        (b"quantised", entry(11, [4], bytes(4), offset=4)),
        (b"w", entry(1, [4], more=message((7, message((1, message((1, 1), (2, 2)))))))),
    ]
    part = (b"\0\1w\0\1", entry(1, [2], bytes(8), offset=8))
    made = Bundle(table([[(b"", header()), part, *entries]]), [bytes(16)])
    path = made.write(tmp_path / "model.ckpt")
    with open_checkpoint(path) as checkpoint:
        assert checkpoint.names() == ["a", "w"]
        assert checkpoint.notes == [
            f"model.ckpt{DATA} has 8 bytes more than the index mentions",
            "left out: 'handle' (a handle, not numbers)",
            "left out: 'quantised' (a quantised type, which torch has not)",
            "stored in 1 part(s), which cannot be read here: 'w'",
        ]
        assert checkpoint["w"].shape == (4,)
        with pytest.raises(WeightsError, match=r"tensor 'w': it is a partitioned variable, stored in parts"):
            checkpoint.read("w")
    graph = bundle(tensors(), texts=("_CHECKPOINTABLE_OBJECT_GRAPH",)).write(tmp_path / "ckpt-1")
    with open_checkpoint(graph) as checkpoint:
        assert checkpoint.notes == ["left out: '_CHECKPOINTABLE_OBJECT_GRAPH' (text, not numbers)"]
        assert same({name: checkpoint.read(name) for name in checkpoint}, tensors())


class TestRead:
    @pytest.fixture
    def index(self, tmp_path: Path) -> Path:
        return bundle(tensors()).write(tmp_path / "model.ckpt")

    def test_out_and_memory(self, index: Path) -> None:
        name = "embeddings.word_embeddings.weight"
        with open_checkpoint(index) as checkpoint:
            for out in (torch.zeros(7, 4), torch.zeros(4, 7).t(), torch.zeros(7, 4, dtype=torch.float64)):
                assert checkpoint.read(name, out=out) is out
                assert torch.equal(out, tensors()[name].to(out.dtype))
            checkpoint.read(name).zero_()
            assert torch.equal(checkpoint.read(name), tensors()[name])
            with pytest.raises(WeightsError, match="a TensorFlow checkpoint; expected a safetensors file to map"):
                checkpoint.read_mapped(name)

    def test_data_rewritten_while_open(self, index: Path) -> None:
        with open_checkpoint(index) as checkpoint:
            os.utime(index.with_name(f"model.ckpt{DATA}"), ns=(1, 1))
            with pytest.raises(WeightsError, match="the file changed after it was opened"):
                checkpoint.read("pooler.dense.bias")

    def test_every_flipped_bit_of_the_data_is_found(self, index: Path) -> None:
        data = index.with_name(f"model.ckpt{DATA}")
        content = data.read_bytes()
        for place in range(0, len(content), 7):
            data.write_bytes(content[:place] + bytes([content[place] ^ 16]) + content[place + 1 :])
            with pytest.raises(WeightsError, match=rf"model\.ckpt{DATA}: tensor '.*': its data is damaged \(wrong"):
                load(index)


class TestPlaces:
    def test_path_itself_comes_first(self, tmp_path: Path) -> None:
        bundle({"a": torch.ones(1)}).write(tmp_path / "model.ckpt")
        (tmp_path / "model.ckpt").mkdir()
        with pytest.raises(FileNotFoundError, match="the folder is empty"):
            open_checkpoint(tmp_path / "model.ckpt")
        (tmp_path / "model.ckpt").rmdir()
        torch.save({"b": torch.ones(1)}, tmp_path / "model.ckpt")
        assert list(load(tmp_path / "model.ckpt")) == ["b"]

    def test_renamed_index(self, tmp_path: Path) -> None:
        """The content decides; the data is looked for under the name that the index has."""
        index = bundle(tensors()).write(tmp_path / "model.ckpt")
        data = index.with_name(f"model.ckpt{DATA}")
        index.rename(tmp_path / "weights.bin")
        data.rename(tmp_path / f"weights.bin{DATA}")
        with open_checkpoint(tmp_path / "weights.bin") as checkpoint:
            assert checkpoint.notes == ["weights.bin is a tensorflow file in spite of its name"]
            assert same({name: checkpoint.read(name) for name in checkpoint}, tensors())

    def test_several_steps(self, tmp_path: Path) -> None:
        for step in (1, 2):
            bundle(tensors(step)).write(tmp_path / f"ckpt-{step}")
        with pytest.raises(FileNotFoundError, match=r"several could be meant: 'ckpt-1\.index', 'ckpt-2\.index'; give"):
            open_checkpoint(tmp_path)
        assert same(load(tmp_path / "ckpt-2"), tensors(2))

    def test_data_given_in_place_of_the_index(self, tmp_path: Path) -> None:
        bundle({"a": torch.full((9,), -1e30)}).write(tmp_path / "model.ckpt")
        with pytest.raises(WeightsError, match=r"the data of a TensorFlow checkpoint, without its index; .*\.index\)"):
            open_checkpoint(tmp_path / f"model.ckpt{DATA}")

    def test_one_shard_is_missing(self, tmp_path: Path) -> None:
        index = bundle(tensors(), shards=3).write(tmp_path / "model.ckpt")
        (tmp_path / "model.ckpt.data-00001-of-00003").unlink()
        with pytest.raises(FileNotFoundError, match=r"data files are missing: 'model\.ckpt\.data-00001-of-00003'"):
            open_checkpoint(index)

    def test_link_out_of_the_folder(self, tmp_path: Path) -> None:
        (tmp_path / "sub").mkdir()
        index = bundle(tensors()).write(tmp_path / "sub" / "model.ckpt")
        data = index.with_name(f"model.ckpt{DATA}")
        data.rename(tmp_path / "elsewhere")
        data.symlink_to(tmp_path / "elsewhere")
        with pytest.raises(WeightsError, match="this link leads out of the folder"):
            open_checkpoint(index)
        data.unlink()
        data.symlink_to("nowhere")
        with pytest.raises(FileNotFoundError, match="this link leads to nowhere, which does not exist"):
            open_checkpoint(index)

    def test_hub_cache(self, tmp_path: Path) -> None:
        blobs, snapshot = tmp_path / "m" / "blobs", tmp_path / "m" / "snapshots" / "0123"
        blobs.mkdir(parents=True)
        snapshot.mkdir(parents=True)
        bundle(tensors()).write(blobs / "model.ckpt")
        for number, file in enumerate(sorted(blobs.iterdir())):
            (snapshot / file.name).symlink_to(f"../../blobs/{number}")
            file.rename(blobs / str(number))
        for place in (snapshot, snapshot / "model.ckpt"):
            assert same(load(place), tensors())

    @pytest.mark.parametrize("suffix", [".index", DATA])
    def test_pipe(self, tmp_path: Path, suffix: str) -> None:
        bundle(tensors()).write(tmp_path / "model.ckpt")
        (tmp_path / f"model.ckpt{suffix}").unlink()
        os.mkfifo(tmp_path / f"model.ckpt{suffix}")
        for place in (tmp_path, tmp_path / "model.ckpt"):
            with pytest.raises(WeightsError, match=rf"model\.ckpt{suffix}: this is a named pipe"):
                open_checkpoint(place)

    def test_nothing_there(self, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError, match="no such file or folder"):
            open_checkpoint(tmp_path / "model.ckpt")
        for text, kind in (("<!DOCTYPE html>", "this is an HTML"), ("version https://git-lfs", "a Git-LFS pointer")):
            write(tmp_path / "model.ckpt.index", text.encode())
            with pytest.raises(WeightsError, match=kind):
                open_checkpoint(tmp_path / "model.ckpt")


# ------------------------------------------------------------------------------------------------------------- snappy


@pytest.mark.parametrize(
    "data", [b"", b"x", bytes(5), bytes(1000), bytes(range(256)) * 3, b"ab" * 40 + bytes(64) + bytes(range(70))]
)
def test_snappy(data: bytes) -> None:
    assert snappy(pack(data), 10_000) == data


def test_snappy_by_hand() -> None:
    """Literals of all lengths, and copies that overlap themselves by more than one byte."""
    text = bytes(range(7)) * 10
    assert snappy(varint(70) + bytes([6 << 2]) + text[:7] + bytes([2 | 62 << 2, 7, 0]), 70) == text
    for count, extra in ((60, b""), (61, b"\x3c"), (300, b"\x2b\x01"), (70_000, b"\x6f\x11\x01")):
        tag = bytes([(count - 1) << 2]) if not extra else bytes([(59 + len(extra)) << 2]) + extra
        assert snappy(varint(count) + tag + bytes(count), 70_000) == bytes(count)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "a number is cut off"),
        (b"\x80" * 10, "more than 64 bits"),
        (varint(2**40), "would expand to 1099511627776 bytes"),
        (varint(5) + b"\x00a", "does not have the 5 bytes"),
        (varint(1) + b"\x04ab", "does not have the 1 bytes"),
        (varint(9) + b"\x10ab", "a snappy block is cut off"),
        (varint(9) + b"\xf0", "a snappy block is cut off"),
        (varint(9) + b"\x01\x01", "repeats what it does not have"),
        (varint(9) + b"\x00a\x01\x00", "repeats what it does not have"),
        (varint(9) + b"\x00a\x01\x02", "repeats what it does not have"),
        (varint(9) + b"\x00a\x03\x01\x00", "a snappy block is cut off"),
        (varint(2) + b"\x00a\xfe\x01\x00", "does not have the 2 bytes"),
    ],
)
def test_broken_snappy(data: bytes, message: str) -> None:
    with pytest.raises(Damaged, match=message):
        snappy(data, 100)


# ------------------------------------------------------------------------------------------------------ hostile files

FLOATS = struct.pack("<4f", 1, 2, 3, 4)


def made(*pairs: tuple[bytes, bytes], head: bytes | None = None) -> bytes:
    """An index of one block with a valid header in front."""
    return table([[(b"", header() if head is None else head), *pairs]])


def variable(**changes: object) -> tuple[bytes, bytes]:
    arguments: dict = {"dtype": 1, "shape": [4], "data": FLOATS} | changes
    return b"a", entry(arguments.pop("dtype"), arguments.pop("shape"), arguments.pop("data"), **arguments)


def footer(*numbers: int) -> bytes:
    return b"".join(map(varint, numbers)).ljust(40, b"\0") + MAGIC


def raw_block(content: bytes, kind: int = 0) -> bytes:
    stored = content + bytes([kind])
    return stored + masked(stored)


def of_blocks(handles: list[tuple[bytes, bytes]], blocks: bytes) -> bytes:
    """A table whose block of blocks is `handles`."""
    index = block(handles, every=1)
    return blocks + raw_block(index) + footer(0, 0, len(blocks), len(index))


PLAIN = block([(b"", header()), variable()])
NO_RESTARTS = struct.pack("<2I", 0, 1)
BROKEN = {
    "no magic": (made(variable())[:-1] + b"\0", "it does not end as a TensorFlow table does"),
    "short": (MAGIC, "it does not end as a TensorFlow table does"),
    "no header": (table([[variable()]]), "its table has no header"),
    "nothing": (table([]), "its table has no header"),
    "first format": (made(head=message((1, b"meta"))), "its header is damaged .* before 0.12 must be written again"),
    "no shards": (made(head=header(0)), "its header claims 0 data files; expected 1 to 99999"),
    "many shards": (made(head=header(2**31 - 1)), "its header claims 2147483647 data files"),
    "big endian": (made(variable(), head=header(1, 1)), "a big-endian machine; expected little-endian"),
    "shard": (made(variable(shard=1)), "tensor 'a': it is in data file 1; expected 0 to 0"),
    "negative shard": (made(variable(shard=-1)), "tensor 'a': it is in data file 18446744073709551615"),
    "offset": (made(variable(offset=1)), "the file has 16 bytes; expected at least 17, as the index says"),
    "far away": (made(variable(offset=2**62)), r"the file has 16 bytes; expected at least \d+"),
    "negative offset": (made(variable(offset=-4)), r"the file has 16 bytes; expected at least \d+"),
    "overlap": (
        made(variable(), (b"b", entry(1, [2], FLOATS[8:], offset=8))),
        "tensor 'b': its data starts at 8 and overlaps the tensor before it; expected a start at 16",
    ),
    "same place": (made(variable(), (b"b", entry(1, [4], FLOATS))), "tensor 'b': .* overlaps the tensor before it"),
    "text overlaps": (made(variable(), (b"b", entry(7, [], FLOATS))), "tensor 'b': .* overlaps the tensor before it"),
    "size": (made(variable(size=12)), r"tensor 'a': its data has 12 bytes; expected 16 for shape \(4,\)"),
    "shape": (made(variable(shape=[5])), r"tensor 'a': its data has 16 bytes; expected 20 for shape \(5,\)"),
    "negative size": (made(variable(shape=[-4])), "tensor 'a': its entry is damaged .a size is negative"),
    "enormous": (made(variable(shape=[2**62, 2**62, 0], data=b"")), "tensor 'a': its shape is"),
    "dimensions": (made(variable(shape=[1] * 255)), "it has 255 dimensions"),
    "unknown rank": (made((b"a", message((1, 1), (2, message((3, 1)))))), "its shape is unknown"),
    "dtype": (made(variable(dtype=99)), "tensor 'a': its dtype has the number 99; expected one of 1 to 25"),
    "no dtype": (made(variable(dtype=0)), "its dtype has the number 0"),
    "truth 2": (made((b"a", entry(10, [4], FLOATS[:4]))), "tensor 'a': it holds truth values other than 0 and 1"),
    "unknown field": (made(variable(more=message((9, 1)))), "a message has field 9 of type 0"),
    "field twice": (made(variable(more=message((1, 1)))), "tensor 'a': its entry is damaged .field 1 occurs 2 times"),
    "two shapes": (made(variable(more=message((2, b"")))), "it has 2 shapes"),
    "field as bytes": (made((b"a", message((1, b"x")))), "a message has field 1 of type 2"),
    "message cut": (made((b"a", b"\x12\x7f")), "a message is cut off"),
    "message of one byte": (made((b"a", b"\x80")), "a number is cut off"),
    "name": (made((b"\xff", variable()[1])), r"a variable is named b'.xff'; expected names in UTF-8"),
    "doubled": (made(variable(), variable()), "the name 'a' occurs more than once"),
    "doubled in two blocks": (table([[(b"", header()), variable()], [variable()]]), "the name 'a' occurs more than"),
    "order": (made((b"b", variable()[1]), variable(), (b"c", variable()[1])), "the name 'a' is out of order"),
    "wrong block": (
        of_blocks([(b"A", varint(0) + varint(len(PLAIN)))], raw_block(PLAIN)),
        "the name 'a' is in the wrong block",
    ),
    "block twice": (
        of_blocks([(b"b", varint(0) + varint(len(PLAIN))), (b"c", varint(0) + varint(len(PLAIN)))], raw_block(PLAIN)),
        "the block before b'c' overlaps the one before it",
    ),
    "handle": (of_blocks([(b"b", varint(0) + varint(len(PLAIN)) + b"x")], raw_block(PLAIN)), "overlaps the one before"),
    "handle beyond": (of_blocks([(b"b", varint(0) + varint(2**62))], raw_block(PLAIN)), "reaches beyond the end"),
    "footer beyond": (made(variable())[:-48] + footer(0, 0, 2**63, 8), "reaches beyond the end"),
    "footer full": (made(variable())[:-48] + b"\xff" * 40 + MAGIC, "a number has more than 64 bits"),
    "method": (table([[(b"", header()), variable()]], kind=2), "is compressed by the unknown method 2"),
    "not snappy": (table([[(b"", header()), variable()]], kind=1), "snappy|does not have|expand"),
    "restarts": (of_blocks([(b"b", varint(0) + varint(4))], raw_block(b"\xff" * 4)), "too short for its own table"),
    "empty block": (of_blocks([(b"b", varint(0) + varint(0))], raw_block(b"")), "too short for its own table"),
    "shares too much": (
        of_blocks([(b"b", varint(0) + varint(12))], raw_block(b"\x05\x00\x00\0" + NO_RESTARTS)),
        "an entry of a block reaches beyond its end",
    ),
    "entry beyond": (
        of_blocks([(b"b", varint(0) + varint(12))], raw_block(b"\x00\x00\x7f\0" + NO_RESTARTS)),
        "an entry of a block reaches beyond its end",
    ),
}


@pytest.mark.parametrize("kind", list(BROKEN))
def test_broken(tmp_path: Path, kind: str) -> None:
    content, message = BROKEN[kind]
    path = Bundle(content, [FLOATS]).write(tmp_path / "model.ckpt")
    with pytest.raises(WeightsError, match=rf"model\.ckpt\.(index|data-.....-of-.....): .*{message}"):
        load(path)


def test_the_broken_ones_are_broken_in_one_place_only(tmp_path: Path) -> None:
    assert load(Bundle(made(variable()), [FLOATS]).write(tmp_path / "a"))["a"].tolist() == [1, 2, 3, 4]
    whole = of_blocks([(b"b", varint(0) + varint(len(PLAIN)))], raw_block(PLAIN))
    assert load(Bundle(whole, [FLOATS]).write(tmp_path / "b"))["a"].tolist() == [1, 2, 3, 4]


@pytest.mark.parametrize("suffix", [".index", DATA])
def test_cut_off_anywhere(tmp_path: Path, suffix: str) -> None:
    path = bundle(tensors(), per_block=3).write(tmp_path / "model.ckpt")
    file = tmp_path / f"model.ckpt{suffix}"
    content = file.read_bytes()
    lengths = {len(content) * percent // 100 for percent in range(100)} | {1, 7, 47, 48, len(content) - 1}
    for length in sorted(length for length in lengths if length < len(content)):
        file.write_bytes(content[:length])
        with pytest.raises(WeightsError, match=rf"model\.ckpt{suffix}: "):
            load(path)


# Runs in a process of its own, which may not take 300 MB more than it has after the imports.
LIMITED = """
import resource, sys, time
from collections import Counter
from pathlib import Path
import torch
from weights_tools.files import WeightsError, open_checkpoint

torch.set_num_threads(1)

def load(path):
    with open_checkpoint(path) as checkpoint:
        return {name: checkpoint.read(name) for name in checkpoint}

folder = Path(sys.argv[1])
expected = load(folder / "good.index")
used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 300_000_000, used + 300_000_000))
outcomes = Counter()
for path in sorted(folder.glob("bad*.index")):
    start = time.monotonic()
    try:
        found = load(path)
        same = list(found) == list(expected) and all(torch.equal(found[name], expected[name]) for name in found)
        outcomes["identical" if same else f"different: {path.name}"] += 1
    except WeightsError as error:
        outcomes["refused" if path.stem in str(error) else f"nameless: {error}"] += 1
    if time.monotonic() - start > 20:
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


def with_checksum_again(content: bytes, change: int, generator: random.Random) -> bytes:
    """`change` random bytes of a block, the block's checksum made right again: the parsers are on their own."""
    damaged_block = bytearray(content)
    for _ in range(change):
        damaged_block[generator.randrange(len(content))] = generator.randrange(256)
    return of_blocks([(b"\xff", varint(0) + varint(len(content)))], raw_block(bytes(damaged_block)))


def test_random_damage_with_right_checksums(tmp_path: Path) -> None:
    """Nothing protects against a forger who computes checksums; still only errors of ours, and values that fit."""
    generator = random.Random(1)
    content = block([(b"", header()), *((name.encode(), entry(1, [1], FLOATS[:4])) for name in "abc")])
    for number in range(500):
        path = Bundle(with_checksum_again(content, 1 + number % 3, generator), [FLOATS]).write(tmp_path / "x")
        try:
            for tensor in load(path).values():
                assert tensor.nbytes <= len(FLOATS)
        except WeightsError:
            continue


def bombs() -> dict[str, bytes]:
    many = [(struct.pack(">I", number).hex().encode(), b"") for number in range(250_000)]
    long = [(b"a" * 1_000_000 + struct.pack(">H", number).hex().encode(), variable()[1]) for number in range(60)]
    packed = raw_block(varint(2**31) + b"\x00a" + bytes([2 | 63 << 2, 1, 0]) * 300_000, kind=1)
    return {
        "many names": made(*many),
        "long names": made(*long),
        "snappy": of_blocks([(b"b", varint(0) + varint(len(packed) - 5))], packed),
        "tensor": made(variable(shape=[2**40], size=2**42)),
        "restarts": of_blocks([(b"b", varint(0) + varint(4))], raw_block(struct.pack("<I", 2**31))),
    }


def test_bombs_under_a_memory_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.weights import bundle_forge
    from weights_tools import crc32c

    # The definition bit by bit would take minutes for these; test_crc32c.py shows that both are the same.
    monkeypatch.setattr(bundle_forge, "crc32c", crc32c.crc32c)
    bundle(tensors()).write(tmp_path / "good")
    files = bombs()
    for number, content in enumerate(files.values()):
        Bundle(content, [FLOATS]).write(tmp_path / f"bad{number}")
    sparse = tmp_path / "bad9.index"
    with sparse.open("wb") as file:
        file.seek(10**11)
        file.write(MAGIC)
    assert outcomes(tmp_path) == {"refused": len(files) + 1}


def test_a_large_index_is_read_in_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten times the variables of the largest published models."""
    from tests.weights import bundle_forge
    from weights_tools import crc32c

    monkeypatch.setattr(bundle_forge, "crc32c", crc32c.crc32c)
    state = {f"bert/encoder/layer_{number:05}/kernel": torch.zeros(1) for number in range(10_000)}
    index = bundle(state, per_block=60).write(tmp_path / "model.ckpt")
    start = time.process_time()
    with open_checkpoint(index) as checkpoint:
        assert len(checkpoint) == 10_000
    assert time.process_time() - start < 5
