"""Files that are there but are no regular ones: reported as what they are, at once, by every reader."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from minitf.tokenization import BertTokenizer
from tests.support import REPOSITORY
from tests.weights.forge import tensors
from weights_tools.files import open_checkpoint, save_checkpoint
from weights_tools.inspection import inspect
from weights_tools.regular import WeightsError, is_there, open_regular, read_text

KINDS = {"directory": "this is a directory", "pipe": "this is a named pipe"}


def make(path: Path, kind: str) -> Path:
    path.mkdir() if kind == "directory" else os.mkfifo(path)
    return path


@pytest.mark.parametrize("kind", KINDS)
def test_not_regular(tmp_path: Path, kind: str) -> None:
    path = make(tmp_path / "it", kind)
    assert is_there(path)
    for read in (open_regular, lambda place: read_text(place, 10), open_checkpoint if kind == "pipe" else open_regular):
        with pytest.raises(WeightsError, match=f"it: {KINDS[kind]}; expected a regular file"):
            read(path)


def test_socket_and_device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # the path of a socket has at most 108 bytes
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("it")
        with pytest.raises(WeightsError, match="it: this is a socket"):
            read_text("it", 10)
    with pytest.raises(WeightsError, match="this is a device"):
        read_text(os.devnull, 10)


def test_text(tmp_path: Path) -> None:
    path = tmp_path / "it"
    path.write_bytes("a\r\nb\rc\nä\u2028".encode())
    assert read_text(path, 13) == "a\nb\nc\nä\u2028"
    with pytest.raises(WeightsError, match="it has 12 bytes; expected a list of at most 11 bytes"):
        read_text(path, 11, expected="a list")
    path.write_bytes(b"abc\xff")
    with pytest.raises(WeightsError, match="byte 0xff at offset 3 is not UTF-8 text; expected a list"):
        read_text(path, 12, expected="a list")


def test_missing(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_text(tmp_path / "it", 10)
    (tmp_path / "link").symlink_to("nowhere")
    assert is_there(tmp_path / "link")
    with pytest.raises(FileNotFoundError, match="link: this link leads to nowhere, which does not exist"):
        read_text(tmp_path / "link", 10)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["vocab.txt", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"])
def test_tokenizer_files(tmp_path: Path, name: str, kind: str) -> None:
    (tmp_path / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\na\n")
    (tmp_path / name).unlink(missing_ok=True)
    make(tmp_path / name, kind)
    with pytest.raises(ValueError, match=f"{name}: {KINDS[kind]}"):
        BertTokenizer.from_pretrained(tmp_path)


@pytest.mark.parametrize("kind", KINDS)
def test_weights_and_config(tmp_path: Path, kind: str) -> None:
    save_checkpoint(tmp_path, tensors())
    make(tmp_path / "config.json", kind)
    with (found := inspect(tmp_path)).checkpoint:
        assert KINDS[kind] in found.problems[0]
    (tmp_path / "model.safetensors").unlink()
    make(tmp_path / "model.safetensors", kind)
    with pytest.raises(WeightsError, match=rf"model\.safetensors: {KINDS[kind]}"):
        open_checkpoint(tmp_path)


def test_torch_is_not_imported() -> None:
    code = "import sys, weights_tools.regular; print('torch' in sys.modules or 'numpy' in sys.modules)"
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    assert result.stdout == "False\n"
