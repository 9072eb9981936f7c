"""Opening and reading what honest programs write, and what people mistake for it."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.support import minilm_folder, shared_data
from tests.weights.forge import tensors, torch_bytes, write
from weights_tools.files import WeightsError, open_checkpoint, save_checkpoint
from weights_tools.safetensors_file import DTYPES

ALL_DTYPES = [*DTYPES.values(), torch.complex128]


def values(dtype: torch.dtype) -> torch.Tensor:
    """[2, 3] of any dtype, every bit pattern different."""
    raw = torch.arange(1, 1 + 6 * dtype.itemsize, dtype=torch.uint8)
    return raw.remainder(2).bool()[:6].view(2, 3) if dtype is torch.bool else raw.view(dtype).view(2, 3)


def bits(tensor: torch.Tensor) -> list[int]:
    return tensor.reshape(-1).view(torch.uint8).tolist()


class TestRealFiles:
    def test_trained_classifier(self) -> None:
        folder = shared_data("checkpoints", "ticket-bert")
        with open_checkpoint(f"{folder}/") as checkpoint:
            expected = load_file(folder / "model.safetensors")
            assert (len(checkpoint), checkpoint.format) == (41, "safetensors")
            assert set(checkpoint) == set(expected)
            assert checkpoint.total_bytes == 4 * 215_910
            assert checkpoint.files == (folder / "model.safetensors",)
            assert checkpoint.metadata == {"format": "pt"}
            assert checkpoint.notes == []
            for name, tensor in expected.items():
                assert torch.equal(checkpoint.read(name), tensor)
                assert checkpoint[name].shape == tuple(tensor.shape)

    def test_old_stream_without_prefix(self) -> None:
        folder = shared_data("checkpoints", "bert-xsmall-dummy")
        expected = torch.load(folder / "pytorch_model.bin", weights_only=True)
        with open_checkpoint(folder) as checkpoint:
            assert checkpoint.format == "pytorch"
            assert checkpoint.names() == list(expected)
            assert all(torch.equal(checkpoint.read(name), tensor) for name, tensor in expected.items())
            assert checkpoint.notes == ["pytorch_model.bin has the form of torch before 1.6, which holds no checksums"]

    def test_training_checkpoint_with_cuda_storages(self) -> None:
        folder = shared_data("checkpoints", "gpt-by-hand-nanogpt")
        expected = torch.load(folder / "ckpt.pt", weights_only=True, map_location="cpu")["model"]
        with open_checkpoint(folder) as checkpoint:
            assert checkpoint.names() == list(expected)
            assert all(torch.equal(checkpoint.read(name), tensor) for name, tensor in expected.items())
            assert any("'model'" in note and "'optimizer'" in note for note in checkpoint.notes)

    def test_minilm(self) -> None:
        folder = minilm_folder()
        expected = load_file(folder / "model.safetensors")
        with open_checkpoint(folder) as checkpoint:
            assert set(checkpoint) == set(expected)
            assert all(torch.equal(checkpoint.read(name), tensor) for name, tensor in expected.items())


@pytest.mark.parametrize("dtype", ALL_DTYPES, ids=str)
@pytest.mark.parametrize("format", ["safetensors", "pytorch"])
def test_every_dtype_survives(tmp_path: Path, dtype: torch.dtype, format: str) -> None:
    original = {"a": values(dtype), "scalar": values(dtype)[0, 0].clone(), "empty": values(dtype)[:0].clone()}
    if format == "safetensors" and dtype is torch.complex128:
        with pytest.raises(TypeError, match=r"^a has dtype torch.complex128, which safetensors cannot hold"):
            save_checkpoint(tmp_path, original, format=format)
        return
    save_checkpoint(tmp_path, original, format=format)
    with open_checkpoint(tmp_path) as checkpoint:
        for name, tensor in original.items():
            read = checkpoint.read(name)
            assert (read.dtype, read.shape, bits(read)) == (dtype, tensor.shape, bits(tensor))


@pytest.mark.parametrize("old", [False, True], ids=["zip", "stream"])
@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: state,
        lambda state: {"state_dict": state, "epoch": 3},
        lambda state: {"model": state, "best": torch.tensor(1.0)},
        lambda state: {name: torch.nn.Parameter(tensor) for name, tensor in state.items()},
        lambda state: torch.nn.ModuleDict({"x": torch.nn.Linear(2, 2)}).state_dict() | state,
    ],
    ids=["plain", "state_dict", "model", "parameters", "ordered"],
)
def test_forms_of_bin(tmp_path: Path, old: bool, wrap) -> None:
    path = write(tmp_path / "anything.pt", torch_bytes(wrap(tensors()), old=old))
    with open_checkpoint(path) as checkpoint:
        for name, tensor in tensors().items():
            assert checkpoint[name].shape == tuple(tensor.shape)
            read = checkpoint.read(name)
            assert torch.equal(read, tensor)
            assert not read.requires_grad
        assert "best" not in checkpoint


def test_bin_views_are_whole_tensors_of_their_own(tmp_path: Path) -> None:
    base = torch.arange(12.0).view(3, 4)
    state = {"transposed": base.t(), "row": base[1], "whole": base}
    path = write(tmp_path / "views.bin", torch_bytes(state))
    with open_checkpoint(path) as checkpoint:
        read = {name: checkpoint.read(name) for name in state}
    for name, tensor in state.items():
        assert torch.equal(read[name], tensor)
        assert read[name].is_contiguous()
        assert read[name].untyped_storage().nbytes() == tensor.numel() * 4
    read["whole"].zero_()
    assert torch.equal(read["row"], base[1])


class TestRead:
    @pytest.fixture(params=["safetensors", "pytorch"])
    def checkpoint(self, request, tmp_path: Path):
        save_checkpoint(tmp_path, tensors(), format=request.param)
        with open_checkpoint(tmp_path) as checkpoint:
            yield checkpoint

    def test_memory_is_the_callers(self, checkpoint) -> None:
        name = "pooler.dense.bias"
        first = checkpoint.read(name)
        first.zero_()
        assert torch.equal(checkpoint.read(name), tensors()[name])

    def test_dtype(self, checkpoint) -> None:
        name = "pooler.dense.bias"
        assert torch.equal(checkpoint.read(name, dtype=torch.float64), tensors()[name].double())

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
    def test_out(self, checkpoint, dtype: torch.dtype) -> None:
        name = "embeddings.word_embeddings.weight"
        out = torch.nn.Parameter(torch.zeros(7, 4, dtype=dtype))
        assert checkpoint.read(name, out=out) is out
        assert torch.equal(out, tensors()[name].to(dtype))
        strided = torch.zeros(4, 7, dtype=dtype).t()
        assert checkpoint.read(name, out=strided) is strided
        assert torch.equal(strided, tensors()[name].to(dtype))

    def test_out_of_another_shape(self, checkpoint) -> None:
        with pytest.raises(ValueError, match=r"out has shape \(4, 7\); tensor 'embeddings.word_embeddings.weight'"):
            checkpoint.read("embeddings.word_embeddings.weight", out=torch.zeros(4, 7))
        with pytest.raises(ValueError, match=r"dtype=torch.float64 beside out of torch.float32"):
            checkpoint.read("pooler.dense.bias", out=torch.zeros(4), dtype=torch.float64)

    def test_unknown_name(self, checkpoint) -> None:
        with pytest.raises(KeyError, match=r"has no tensor 'pooler'; it has 'embeddings"):
            checkpoint.read("pooler")

    def test_mapping(self, checkpoint) -> None:
        assert list(checkpoint) == checkpoint.names()
        assert set(checkpoint) == set(tensors())
        assert "pooler.dense.bias" in checkpoint
        assert "pooler" not in checkpoint
        assert checkpoint["pooler.dense.bias"].nbytes == 16

    def test_mapped(self, checkpoint) -> None:
        name = "pooler.dense.bias"
        if checkpoint.format == "safetensors":
            assert torch.equal(checkpoint.read_mapped(name), tensors()[name])
        else:
            with pytest.raises(WeightsError, match="expected a safetensors file to map"):
                checkpoint.read_mapped(name)


def test_safetensors_pages_do_not_stay_mapped(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, {"a": torch.ones(1000)})
    with open_checkpoint(tmp_path) as checkpoint:
        tensor = checkpoint.read("a")
        maps = Path("/proc/self/maps")
        if maps.exists():
            assert str(tmp_path) not in maps.read_text()
        with (tmp_path / "model.safetensors").open("rb+") as file:
            file.truncate(0)
        assert float(tensor.sum()) == 1000
        with pytest.raises(WeightsError, match="the file ends 4000 bytes too early"):
            checkpoint.read("a")


@pytest.mark.parametrize("format", ["safetensors", "pytorch"])
def test_rewritten_while_open(tmp_path: Path, format: str) -> None:
    (file,) = save_checkpoint(tmp_path, tensors(), format=format)
    with open_checkpoint(tmp_path) as checkpoint:
        content = file.read_bytes()
        file.write_bytes(content)
        os.utime(file, ns=(1, 1))
        with pytest.raises(WeightsError, match=r"the file changed after it was opened"):
            checkpoint.read("pooler.dense.bias")


class TestFolder:
    def test_order_of_preference(self, tmp_path: Path) -> None:
        save_checkpoint(tmp_path, tensors(1), format="pytorch")
        save_checkpoint(tmp_path / "other", tensors(2))
        (tmp_path / "other" / "model.safetensors").rename(tmp_path / "model.safetensors")
        with open_checkpoint(tmp_path) as checkpoint:
            assert checkpoint.format == "safetensors"
            assert torch.equal(checkpoint.read("pooler.dense.bias"), tensors(2)["pooler.dense.bias"])
            assert checkpoint.notes == [
                "model.safetensors and pytorch_model.bin are present: model.safetensors is used"
            ]

    @pytest.mark.parametrize("name", ["weights.safetensors", "model.bin", "ckpt.pt"])
    def test_only_other_file(self, tmp_path: Path, name: str) -> None:
        content = safetensors_file() if name.endswith("safetensors") else torch_bytes(tensors())
        write(tmp_path / name, content)
        write(tmp_path / "training_args.bin", b"no weights")
        with open_checkpoint(tmp_path) as checkpoint:
            assert len(checkpoint) == 6
            assert f"{name}, the only weights file, is used" in checkpoint.notes[0]

    def test_two_others(self, tmp_path: Path) -> None:
        write(tmp_path / "a.safetensors", safetensors_file())
        write(tmp_path / "b.safetensors", safetensors_file())
        with pytest.raises(FileNotFoundError, match=r"several could be meant: 'a.safetensors', 'b.safetensors'"):
            open_checkpoint(tmp_path)

    def test_empty(self, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError) as caught:
            open_checkpoint(tmp_path)
        assert str(caught.value) == (
            f"{tmp_path}: no weights here; looked for model.safetensors, model.safetensors.index.json, "
            "pytorch_model.bin, pytorch_model.bin.index.json or one other *.safetensors, *.bin, *.pt, *.pth, "
            "else one *.h5, *.npz, *.index; the folder is empty"
        )

    def test_without_weights(self, tmp_path: Path) -> None:
        write(tmp_path / "config.json", b"{}")
        write(tmp_path / "vocab.txt", b"[PAD]")
        with pytest.raises(FileNotFoundError, match=r"there are: 'config.json', 'vocab.txt'$"):
            open_checkpoint(tmp_path)

    def test_shards_without_an_index(self, tmp_path: Path) -> None:
        write(tmp_path / "model-00001-of-00002.safetensors", safetensors_file())
        with pytest.raises(FileNotFoundError, match=r"shards but no index JSON beside them: 'model-00001-of-00002"):
            open_checkpoint(tmp_path)

    def test_missing_path(self, tmp_path: Path) -> None:
        for path in (tmp_path / "nothing", tmp_path / "nothing" / "model.safetensors", ""):
            with pytest.raises(FileNotFoundError, match=r"no such file or folder; expected a folder with weights"):
                open_checkpoint(path)

    def test_permission(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        path = write(tmp_path / "model.safetensors", safetensors_file())
        plain = os.open

        def refuse(name, *arguments, **keywords):
            if Path(name) == path:
                raise PermissionError(13, "Permission denied", str(name))
            return plain(name, *arguments, **keywords)

        monkeypatch.setattr(os, "open", refuse)
        with pytest.raises(PermissionError, match=r"model\.safetensors"):
            open_checkpoint(tmp_path)


def safetensors_file() -> bytes:
    from safetensors.torch import save

    return save(tensors())


WRONG_FILES = [
    (
        b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 440449768\n",
        "this is a Git-LFS pointer, not the file it points to; .*`git lfs pull`",
    ),
    (b"\n<!DOCTYPE html>\n<html><body>Not Found</body></html>", "this is an HTML or XML page .*`resolve` address"),
    (b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>', "this is an HTML or XML page"),
    (b"", "this is an empty file"),
    (b'{"model_type": "bert", "hidden_size": 768}', "this is a JSON file"),
    (b"Repository not found\n", "this is a text file"),
    ("模型".encode() * 300, "this is a text file"),
    (b"[PAD]\n[unused0]\n[UNK]\n", "this is a text file; .* Give the weights file itself"),
    (b"{\n}\n[UNK]\n", "this is a text file"),
    ("{\n模\n".encode(), "this is a text file"),
    (b"[[1.0]]", "this is a JSON file"),
    (b"\xff" * 1000, "this is a file of unknown kind"),
    (b"caf\xe9\n", "this is a file of unknown kind"),
    (b"\x1f\x8b\x08" + bytes(600), "this is a gzip archive"),
    (b"\x93NUMPY\x01\x00" + bytes(600), "this is a single NumPy array"),
    (bytes(range(256)) * 3, "this is a file of unknown kind"),
    (bytes(257) + b"ustar\x0000" + bytes(600), "this is a tar archive"),
]


@pytest.mark.parametrize(("content", "message"), WRONG_FILES, ids=[str(index) for index in range(len(WRONG_FILES))])
def test_wrong_files(tmp_path: Path, content: bytes, message: str) -> None:
    path = write(tmp_path / "pytorch_model.bin", content)
    for place in (path, tmp_path):
        with pytest.raises(WeightsError, match=rf"pytorch_model\.bin: {message}"):
            open_checkpoint(place)


@pytest.mark.parametrize("head", [b"\xff" * 8, b"\xff" * 7, b"\x80\x02\x00", b"ABCDEFGH", b"\x00" * 9])
def test_damaged_head_of_a_safetensors_file(tmp_path: Path, head: bytes) -> None:
    content = safetensors_file()
    path = write(tmp_path / "model.safetensors", head + content[len(head) :])
    for place in (path, tmp_path):
        with pytest.raises(WeightsError, match=r"model\.safetensors: .*(header|JSON).*damaged or not safetens"):
            open_checkpoint(place)


def test_directory_in_place_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").mkdir()
    with pytest.raises(WeightsError, match=r"model.safetensors: this is a directory; expected a regular file"):
        open_checkpoint(tmp_path)


def test_zip_of_the_folder(tmp_path: Path) -> None:
    import io
    import zipfile

    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("config.json", "{}")
        archive.writestr("model.safetensors", "x")
    path = write(tmp_path / "model.safetensors", stream.getvalue())
    with pytest.raises(WeightsError, match=r"zip archive of 'config.json', 'model.safetensors'; .* Unpack it"):
        open_checkpoint(path)


def test_torchscript(tmp_path: Path) -> None:
    write(tmp_path / "a.pt", b"")
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.trace(torch.nn.Linear(2, 2), torch.ones(1, 2)), tmp_path / "a.pt")
    with pytest.raises(WeightsError, match="this is a TorchScript program"):
        open_checkpoint(tmp_path / "a.pt")


def test_swapped_names(tmp_path: Path) -> None:
    first, second = tmp_path / "1", tmp_path / "2"
    first.mkdir()
    second.mkdir()
    write(first / "pytorch_model.bin", safetensors_file())
    write(second / "model.safetensors", torch_bytes(tensors()))
    for folder, format, note in (
        (first, "safetensors", "pytorch_model.bin is a safetensors file in spite of its name"),
        (second, "pytorch", "model.safetensors is a pytorch file in spite of its name"),
    ):
        with open_checkpoint(folder) as checkpoint:
            assert checkpoint.format == format
            assert checkpoint.notes == [note]
            assert torch.equal(checkpoint.read("pooler.dense.bias"), tensors()["pooler.dense.bias"])


class TestShards:
    @pytest.fixture(params=["safetensors", "pytorch"])
    def folder(self, request, tmp_path: Path) -> Path:
        save_checkpoint(tmp_path, tensors(), max_shard_size=100, format=request.param)
        return tmp_path

    @staticmethod
    def index_of(folder: Path) -> Path:
        (index,) = folder.glob("*.index.json")
        return index

    def rewrite(self, folder: Path, change) -> None:
        index = self.index_of(folder)
        content = json.loads(index.read_text())
        change(content)
        index.write_text(json.dumps(content))

    def test_reads_all(self, folder: Path) -> None:
        for place in (folder, self.index_of(folder)):
            with open_checkpoint(place) as checkpoint:
                assert len(checkpoint.files) == 3
                assert checkpoint.names() == list(tensors())
                assert checkpoint.notes == []
                for name, tensor in reversed(tensors().items()):
                    assert torch.equal(checkpoint.read(name), tensor)

    def test_one_shard_in_memory(self, folder: Path) -> None:
        with open_checkpoint(folder) as checkpoint:
            for name in checkpoint:
                checkpoint.read(name)
                loaded = [shard for shard in checkpoint._containers if getattr(shard, "_loaded", None)]
                assert len(loaded) <= 1

    def test_missing_shard(self, folder: Path) -> None:
        shard = sorted(folder.glob("*-00002-of-*"))[0]
        shard.unlink()
        with pytest.raises(FileNotFoundError, match=rf"the shard {shard.name} is missing; .*00001-of-00003"):
            open_checkpoint(folder)

    def test_name_that_no_shard_holds(self, folder: Path) -> None:
        shard = sorted(folder.glob("*-00002-of-*"))[0].name
        self.rewrite(folder, lambda content: content["weight_map"].update(ghost=shard))
        with pytest.raises(WeightsError, match=rf"tensor 'ghost': {shard} does not hold it"):
            open_checkpoint(folder)

    def test_tensor_that_the_index_forgets(self, folder: Path) -> None:
        self.rewrite(folder, lambda content: content["weight_map"].pop("pooler.dense.bias"))
        with pytest.raises(WeightsError, match=r"tensor 'pooler\.dense\.bias': the index does not name it"):
            open_checkpoint(folder)

    def test_tensor_in_two_shards(self, folder: Path) -> None:
        first, second = (shard.name for shard in sorted(folder.glob("*-of-*"))[:2])
        (folder / second).write_bytes((folder / first).read_bytes())
        with pytest.raises(
            WeightsError, match=f"tensor 'embeddings.word_embeddings.weight': the index has it in {first}"
        ):
            open_checkpoint(folder)

    @pytest.mark.parametrize(
        "name",
        ["../outside.safetensors", "/etc/passwd", "sub/file.safetensors", "..", "", ".", "a\\b", "C:x", "a\0b", "./x"],
    )
    def test_index_that_points_outside(self, folder: Path, name: str) -> None:
        save_checkpoint(folder.parent, tensors())
        (folder.parent / "model.safetensors").rename(folder.parent / "outside.safetensors")
        self.rewrite(folder, lambda content: content["weight_map"].update({"pooler.dense.bias": name}))
        with pytest.raises(WeightsError, match=r"the index names the file .* expected the plain name of a file"):
            open_checkpoint(folder)

    def test_link_that_leads_outside(self, folder: Path) -> None:
        shard = sorted(folder.glob("*-00002-of-*"))[0]
        outside = folder.parent / f"{folder.name}-outside"
        shard.rename(outside)
        shard.symlink_to(outside)
        with pytest.raises(WeightsError, match="this link leads out of the folder"):
            open_checkpoint(folder)

    def test_pipe_does_not_hang(self, folder: Path) -> None:
        shard = sorted(folder.glob("*-00002-of-*"))[0]
        shard.unlink()
        os.mkfifo(shard)
        with pytest.raises(WeightsError, match="this is a named pipe; expected a regular file"):
            open_checkpoint(folder)

    def test_wrong_total_is_noted(self, folder: Path) -> None:
        self.rewrite(folder, lambda content: content["metadata"].update(total_size=1))
        with open_checkpoint(folder) as checkpoint:
            assert checkpoint.notes == [f"{self.index_of(folder).name} says 1 bytes in all, the shards hold 288"]

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("{", "not JSON"),
            ("[]", "weight_map is None"),
            ('{"weight_map": {}}', "weight_map is {}"),
            ('{"weight_map": ["a"]}', r"weight_map is \['a'\]"),
            ('{"weight_map": {"a": 3}}', "weight_map is {'a': 3}"),
            ('{"weight_map": {"a": "x", "a": "y"}}', "the key 'a' stands twice"),
            ("[" * 100_000, "not JSON"),
            ('{"weight_map": {"a": ' + "9" * 5000 + "}}", "not JSON|weight_map is"),
            ("\xff", "not JSON"),
        ],
    )
    def test_broken_index(self, folder: Path, text: str, message: str) -> None:
        self.index_of(folder).write_bytes(text.encode("latin-1"))
        with pytest.raises(WeightsError, match=message):
            open_checkpoint(folder)

    def test_huge_index(self, folder: Path) -> None:
        with self.index_of(folder).open("wb") as file:
            file.truncate(10**9)
        with pytest.raises(WeightsError, match="the index has 1000000000 bytes; expected at most 64000000"):
            open_checkpoint(folder)


class TestHubCache:
    def make(self, root: Path, blob: Path) -> Path:
        snapshot = root / "models--org--name" / "snapshots" / "0123abcd"
        snapshot.mkdir(parents=True)
        blob.parent.mkdir(parents=True, exist_ok=True)
        blob.write_bytes(safetensors_file())
        (snapshot / "model.safetensors").symlink_to(os.path.relpath(blob, snapshot))
        return snapshot

    def test_own_blobs(self, tmp_path: Path) -> None:
        snapshot = self.make(tmp_path, tmp_path / "models--org--name" / "blobs" / "77aa")
        with open_checkpoint(snapshot) as checkpoint:
            assert len(checkpoint) == 6

    def test_anything_else(self, tmp_path: Path) -> None:
        snapshot = self.make(tmp_path, tmp_path / "models--org--other" / "blobs" / "77aa")
        with pytest.raises(WeightsError, match="this link leads out of the folder"):
            open_checkpoint(snapshot)

    def test_lost_blob(self, tmp_path: Path) -> None:
        blob = tmp_path / "models--org--name" / "blobs" / "77aa"
        snapshot = self.make(tmp_path, blob)
        blob.unlink()
        with pytest.raises(FileNotFoundError, match=r"this link leads to .*77aa, which does not exist"):
            open_checkpoint(snapshot)


def test_file_named_by_the_caller_may_be_a_link(tmp_path: Path) -> None:
    save_file(tensors(), tmp_path / "real.safetensors")
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "link").symlink_to(tmp_path / "real.safetensors")
    with open_checkpoint(tmp_path / "sub" / "link") as checkpoint:
        assert len(checkpoint) == 6


def test_what_is_read_in_two_halves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Above a size two threads read a tensor; a file that ends in either half is cut off, and says so."""
    monkeypatch.setattr("weights_tools.common.LARGE", 16)
    state = {"even": torch.randn(4, 4), "odd": torch.arange(37, dtype=torch.uint8)}
    (file,) = save_checkpoint(tmp_path, state)
    with open_checkpoint(file) as checkpoint:
        assert all(torch.equal(checkpoint.read(name), tensor) for name, tensor in state.items())
    for cut in (5, 25):
        with open_checkpoint(file) as checkpoint:
            content = file.read_bytes()
            file.write_bytes(content[:-cut])
            with pytest.raises(WeightsError, match=r"the file (ends \d+ bytes too early|changed)"):
                checkpoint.read("odd")
            file.write_bytes(content)
