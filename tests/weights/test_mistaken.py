"""Files that people take for weights: each error says what the file is and what to do, on every way in.

The ways: `open_checkpoint` of the file and of the folder, `BertModel.from_pretrained` of the file and of the folder.
"""

from __future__ import annotations

import io
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save

from minitf import BertConfig, BertModel
from tests.support import randomise_
from tests.weights.bundle_forge import message, table
from tests.weights.forge import torch_bytes, write
from weights_tools.files import WeightsError, open_checkpoint

SMALL = {
    "vocab_size": 11,
    "hidden_size": 8,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 12,
    "max_position_embeddings": 9,
}


@pytest.fixture(scope="module")
def model() -> BertModel:
    made = BertModel(BertConfig(**SMALL))
    randomise_(made)
    return made.eval()


class TrainingArguments:
    """Stands for transformers' class of this name, which training_args.bin holds."""


def optimizer_state() -> dict[str, object]:
    layer = torch.nn.Linear(2, 2)
    optimizer = torch.optim.AdamW(layer.parameters())
    layer(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    return optimizer.state_dict()


def archive_of_the_folder() -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("model/config.json", "{}")
        archive.writestr("model/model.safetensors", "x")
    return stream.getvalue()


def tar(compression: str = "") -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode=f"w:{compression}") as archive:
        record = tarfile.TarInfo("config.json")
        record.size = 2
        archive.addfile(record, io.BytesIO(b"{}"))
    return stream.getvalue()


def one_array() -> bytes:
    stream = io.BytesIO()
    np.save(stream, np.ones(3))
    return stream.getvalue()


LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a21\nsize 440449768\n"
PAGE = b"<!DOCTYPE html>\n<html><body>Sign in to continue</body></html>"
# What it is -> (the content, the name that it usually comes with, what the message says of it and of the remedy)
MISTAKEN: dict[str, tuple[Callable[[], bytes], str, str]] = {
    "Git-LFS pointer, bin": (lambda: LFS, "pytorch_model.bin", "a Git-LFS pointer, .* Run `git lfs pull`"),
    "Git-LFS pointer": (lambda: LFS, "model.safetensors", "a Git-LFS pointer, .* Run `git lfs pull`"),
    "page, bin": (lambda: PAGE, "pytorch_model.bin", "an HTML or XML page .* the `resolve` address"),
    "page": (lambda: PAGE, "model.safetensors", "an HTML or XML page .* the `resolve` address"),
    "page, index": (lambda: PAGE, "model.safetensors.index.json", "an HTML or XML page .* the `resolve` address"),
    "pointer, index": (lambda: LFS, "pytorch_model.bin.index.json", "a Git-LFS pointer, .* Run `git lfs pull`"),
    "refusal": (lambda: b'{"error": "Repository not found"}', "model.safetensors", "a JSON file; .* Give the weights"),
    "zip": (archive_of_the_folder, "pytorch_model.bin", "a zip archive of 'model/config.json', .* Unpack it and give"),
    "gzip": (lambda: tar("gz"), "pytorch_model.bin", "a gzip archive; .* Unpack it first"),
    "bzip2": (lambda: tar("bz2"), "pytorch_model.bin", "a compressed archive; .* Unpack it first"),
    "xz": (lambda: tar("xz"), "pytorch_model.bin", "a compressed archive; .* Unpack it first"),
    "tar": (tar, "pytorch_model.bin", r"a tar archive .* torch\.save\(torch\.load\(old, weights_only=False\), new\)"),
    "GGUF": (lambda: b"GGUF\x03\0\0\0" + bytes(90), "model.bin", "a GGUF file .* Load the safetensors or .bin file"),
    "Flax": (lambda: b"\x81\xa6params\x81\xa4bert\x80", "pytorch_model.bin", "a msgpack file .*Flax.* from_flax=True"),
    "ONNX": (lambda: b"\x08\x08\x12\x07pytorch\x1a\x052.1.0:", "model.bin", "an ONNX model .* exported from"),
    "SavedModel": (lambda: b"\x08\x01\x12\xff\x01\n\x00", "model.bin", "a TensorFlow SavedModel's program .*variables"),
    "array": (one_array, "model.bin", r"a single NumPy array; .* numpy\.savez"),
    "zeros": (lambda: bytes(5000), "pytorch_model.bin", "nothing but zeros .* Download or copy the file again"),
    "zeros, safetensors": (lambda: bytes(5000), "model.safetensors", "nothing but zeros .* Download or copy"),
    "nothing": (lambda: b"", "pytorch_model.bin", "an empty file; .* Download or copy the file again"),
    "optimizer": (lambda: torch_bytes(optimizer_state()), "model.bin", "the state of an optimizer; .* saved beside"),
    "arguments": (
        lambda: torch_bytes(TrainingArguments()),
        "model.bin",
        r"the arguments of a training run .*TrainingArguments.*Nothing was executed",
    ),
    "checkpoint of TensorFlow 0.11": (
        lambda: table([[(b"", message((1, b"meta")))]]),
        "model.ckpt",
        "its header is damaged .* TensorFlow before 0.12 must be written again by tf.train.Saver",
    ),
}


@pytest.mark.parametrize("kind", list(MISTAKEN))
def test_mistaken(kind: str, tmp_path: Path) -> None:
    content, name, expected = MISTAKEN[kind]
    path = write(tmp_path / name, content())
    BertConfig(**SMALL).save_pretrained(tmp_path)
    ways = [path] if name == "model.ckpt" else [path, tmp_path]
    for place in ways:
        with pytest.raises(WeightsError, match=rf"{name}: .*{expected}"):
            open_checkpoint(place)
        with pytest.raises(WeightsError, match=rf"{name}: .*{expected}"):
            BertModel.from_pretrained(place)


@pytest.mark.parametrize("name", ["optimizer.pt", "training_args.bin"])
def test_neighbours_given_as_the_weights(name: str, tmp_path: Path, model: BertModel) -> None:
    """Beside real weights they are passed over; named, they are refused."""
    model.save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").rename(tmp_path / "weights.safetensors")
    path = write(tmp_path / name, torch_bytes(optimizer_state() if "opt" in name else TrainingArguments()))
    assert BertModel.from_pretrained(tmp_path).load_report.files == [str(tmp_path / "weights.safetensors")]
    with pytest.raises(WeightsError, match=r"the state of an optimizer|the arguments of a training run"):
        BertModel.from_pretrained(path)


@pytest.mark.parametrize("suffix", [".incomplete", ".part", ".crdownload"])
def test_unfinished_download(suffix: str, tmp_path: Path, model: BertModel) -> None:
    model.save_pretrained(tmp_path)
    content = (tmp_path / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").unlink()
    path = write(tmp_path / f"model.safetensors{suffix}", content[:1000])
    with pytest.raises(WeightsError, match=r"this is an unfinished download, .* Finish the download, or delete it"):
        BertModel.from_pretrained(path)
    with pytest.raises(FileNotFoundError, match="a download is unfinished: finish or repeat it"):
        BertModel.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("saved_model.pb", "this is a TensorFlow SavedModel: give its folder `variables`"),
        ("flax_model.msgpack", "Flax weights are not read"),
        ("model-q4_0.gguf", "GGUF files are not read"),
        ("model.onnx", "ONNX models are not read"),
    ],
)
def test_folder_that_holds_only_that(name: str, hint: str, tmp_path: Path) -> None:
    write(tmp_path / name, b"x")
    BertConfig(**SMALL).save_pretrained(tmp_path)
    for call in (open_checkpoint, BertModel.from_pretrained):
        with pytest.raises(FileNotFoundError, match=hint):
            call(tmp_path)


@pytest.mark.parametrize(("content", "message"), [(PAGE, "an HTML or XML page"), (LFS, "a Git-LFS pointer")])
def test_configuration_that_is_none(content: bytes, message: str, tmp_path: Path, model: BertModel) -> None:
    model.save_pretrained(tmp_path)
    write(tmp_path / "config.json", content)
    with pytest.raises(ValueError, match=rf"config\.json: this is {message}.*expected a configuration in JSON"):
        BertModel.from_pretrained(tmp_path)


def test_swapped_names_load_with_a_note(tmp_path: Path, model: BertModel) -> None:
    state = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    for name, content, format in (
        ("pytorch_model.bin", save(state), "safetensors"),
        ("model.safetensors", torch_bytes(state), "pytorch"),
    ):
        folder = tmp_path / format
        model.config.save_pretrained(folder)
        path = write(folder / name, content)
        for place in (folder, path):
            loaded = BertModel.from_pretrained(place)
            assert loaded.load_report.notes[0] == f"{name} is a {format} file in spite of its name"
            assert all(torch.equal(value, state[key]) for key, value in loaded.state_dict().items())
