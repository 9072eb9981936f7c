"""`minitf fetch`, against a hub on loopback: folder, addresses, JSON, errors."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import constants

from minitf import cli
from tests.support import REPOSITORY
from tests.weights.hub_server import COMMIT, Hub, Repository, running

FILES = {"config.json": b"{}", "vocab.txt": b"a\n", "model.safetensors": b"x" * 3000, "pytorch_model.bin": b"y"}
NEEDED = {name: len(FILES[name]) for name in ("config.json", "model.safetensors", "vocab.txt")}


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    for variable in ("HUGGINGFACE_HUB_CACHE", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_TOKEN", "MINITF_DEBUG"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)  # some other test may have been the first to import it
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    with running() as hub:
        hub.repositories["org/name"] = Repository(dict(FILES))
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        yield hub


def call(capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[int, str, str]:
    code = cli.main(["fetch", *argv])
    out, err = capsys.readouterr()
    assert "Traceback" not in out + err
    return code, out, err


def names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir() if not entry.name.startswith("."))


def test_prints_the_folder(capsys: pytest.CaptureFixture[str], hub: Hub, tmp_path: Path) -> None:
    code, out, err = call(capsys, "org/name")
    folder = tmp_path / "cache" / "models--org--name" / "snapshots" / COMMIT
    assert (code, out) == (0, f"{folder}\n")
    assert err.endswith(f"3 files, 3.0 kB, as {hub.url} has them\n")
    assert names(folder) == sorted(NEEDED)
    hub.asked.clear()
    assert call(capsys, "org/name") == (0, f"{folder}\n", "3 files, 3.0 kB, from the cache, without a request\n")
    assert hub.asked == []


def test_json(capsys: pytest.CaptureFixture[str], hub: Hub, tmp_path: Path) -> None:
    for endpoint in (hub.url, None):  # the second time nobody is asked
        code, out, _ = call(capsys, "org/name", "--json", "--cache-dir", "other")
        answer = json.loads(out)
        assert code == 0
        assert {file["name"]: file["bytes"] for file in answer["files"]} == NEEDED
        assert (answer["bytes"], answer["endpoint"]) == (sum(NEEDED.values()), endpoint)
        assert names(Path(answer["folder"])) == sorted(NEEDED)
        assert tmp_path / "other" in Path(answer["folder"]).parents


def test_options_reach_the_download(
    capsys: pytest.CaptureFixture[str], hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    files = {"sub/config.json": b"{}", "sub/model.fp16.safetensors": b"half", "sub/model.safetensors": b"full"}
    hub.repositories["org/private"] = Repository(files, {"v1": "b" * 40}, token="secret")
    options = ("--revision", "v1", "--subfolder", "sub", "--variant", "fp16", "--endpoint", hub.url)
    code, out, _ = call(capsys, "org/private", *options, "--token", "secret")
    assert code == 0
    assert names(Path(out.strip())) == ["config.json", "model.fp16.safetensors"]
    assert out.endswith(f"{'b' * 40}/sub\n")
    code, out, err = call(capsys, "org/private", "--endpoint", hub.url)
    assert (code, out) == (1, "")
    assert "or it is private" in err


def test_local_dir(
    capsys: pytest.CaptureFixture[str], hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, out, _ = call(capsys, "org/name", "--local-dir", "first")
    assert code == 0
    assert Path(out.strip()).resolve() == tmp_path / "first"
    assert names(tmp_path / "first") == sorted(NEEDED)
    assert not (tmp_path / "cache" / "models--org--name" / "snapshots").exists()
    assert not any((tmp_path / "first" / name).is_symlink() for name in NEEDED)
    call(capsys, "org/name")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert call(capsys, "org/name", "--local-dir", "second")[:2] == (0, f"{tmp_path / 'second'}\n")
    assert {name: (tmp_path / "second" / name).read_bytes() for name in NEEDED} == {
        name: FILES[name] for name in NEEDED
    }
    assert not any((tmp_path / "second" / name).is_symlink() for name in NEEDED)


def test_update(capsys: pytest.CaptureFixture[str], hub: Hub) -> None:
    call(capsys, "org/name")
    repository = hub.repositories["org/name"]
    repository.revisions["main"] = "e" * 40
    repository.files["config.json"] = b"{ }"
    assert call(capsys, "org/name")[1].strip().endswith(COMMIT)
    hub.asked.clear()
    folder = Path(call(capsys, "org/name", "--update")[1].strip())
    assert folder.name == "e" * 40
    assert (folder / "config.json").read_bytes() == b"{ }"
    assert hub.fetched() == ["config.json"]
    assert call(capsys, "org/name")[1].strip() == str(folder)


def test_addresses(capsys: pytest.CaptureFixture[str], hub: Hub, tmp_path: Path) -> None:
    code, out, err = call(capsys, "org/name", "--print-urls")
    assert (code, err) == (0, "")
    assert sorted(out.splitlines()) == [f"{hub.url}/org/name/resolve/{COMMIT}/{name}" for name in sorted(NEEDED)]
    assert hub.fetched() == []
    assert not (tmp_path / "cache").exists()
    code, out, _ = call(capsys, "org/name", "--print-urls", "--json")
    answer = json.loads(out)
    assert (len(answer["urls"]), answer["guessed"]) == (3, None)


@pytest.mark.parametrize("how", ["offline", "refused"])
def test_addresses_without_a_network(
    capsys: pytest.CaptureFixture[str], hub: Hub, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    monkeypatch.setenv(*(("HF_HUB_OFFLINE", "1") if how == "offline" else ("HF_ENDPOINT", "http://127.0.0.1:9")))
    code, out, err = call(capsys, "gpt2", "--print-urls", "--revision", "refs/pr/1", "--variant", "fp16")
    root = (hub.url if how == "offline" else "http://127.0.0.1:9") + "/gpt2/resolve/refs%2Fpr%2F1"
    assert code == 0
    assert f"{root}/config.json\n" in out
    assert out.endswith(f"{root}/model.fp16.safetensors\n")
    assert all(line.startswith(root) for line in out.splitlines())
    assert err.startswith("warning: the list of files was not read (")
    assert "HF_HUB_OFFLINE is set" in err if how == "offline" else "it cannot be reached" in err
    assert hub.asked == []


@pytest.mark.parametrize(
    ("argv", "code", "words"),
    [
        (("org/none",), 1, "error: 'org/none' was not found. Tried:\n"),
        (("org/none", "--print-urls"), 1, "error: 'org/none' at http"),
        (("org/name", "--revision", "v9"), 1, "the model has no revision 'v9'"),
        (("org/name", "--variant", "fp16"), 1, "the repository has no weights of variant 'fp16'; it has config.json"),
        (("org/name", "--variant", "a/b"), 1, "error: variant is 'a/b'; expected"),
        (("org/name", "--subfolder", "../x"), 1, "error: subfolder is '../x'; expected"),
        (("org/name", "--endpoint", "mirror"), 1, "error: endpoint is 'mirror'; expected an address"),
        (("./folder",), 1, "error: './folder' is no name of a model on the hub; expected 'organisation/name'"),
        (("org/name", "--local-dir", "a-file"), 1, "error: --local-dir a-file is a file; expected a folder"),
        (("org/name", "--local-dir", ""), 2, "error: --local-dir is empty"),
        (("org/name", "--print-urls", "--local-dir", "x"), 2, "error: --local-dir has no effect beside --print-urls"),
        (("org/name", "--print-urls", "--update"), 2, "error: --update has no effect beside --print-urls"),
        (("org/name", "--force-download"), 2, "error: no option --force-download: --update asks"),
        (("org/name", "--revison", "x"), 2, "error: no option --revison, did you mean --revision?"),
        ((), 2, "error: the following arguments are required: NAME"),
    ],
)
def test_wrong_calls(
    capsys: pytest.CaptureFixture[str], hub: Hub, tmp_path: Path, argv: tuple[str, ...], code: int, words: str
) -> None:
    (tmp_path / "a-file").write_text("")
    actual, out, err = call(capsys, *argv)
    assert (actual, out) == (code, "")
    assert words in err
    assert hub.fetched() == []


def test_folder_inside_that_holds_the_model_is_named(capsys: pytest.CaptureFixture[str], hub: Hub) -> None:
    hub.repositories["org/old"] = Repository(
        {"modules.json": b"", "0_T/config.json": b"", "0_T/model.safetensors": b""}
    )
    code, _, err = call(capsys, "org/old")
    assert code == 1
    assert "the repository has no weights; it has modules.json; the folder '0_T' has it: give subfolder=" in err


def test_neither_torch_nor_numpy_is_imported(hub: Hub) -> None:
    code = (
        "import sys; from minitf.cli import main\n"
        "assert main(['fetch', '--help']) == main(['fetch', 'org/name', '--print-urls']) == 0\n"
        "print([name for name in ('torch', 'numpy', 'transformers') if name in sys.modules])"
    )
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    assert result.stdout.endswith("\n[]\n")
