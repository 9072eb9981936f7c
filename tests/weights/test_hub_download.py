"""Downloads by the real `huggingface_hub` from a hub on loopback (`hub_server`): what is asked for, how it fails."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import huggingface_hub
import pytest
from huggingface_hub import constants

from tests.support import REPOSITORY
from tests.weights.hub_server import COMMIT, Hub, Repository, running
from weights_tools.hub import resolve

WEIGHTS = bytes(range(256)) * 400
SMALL = {"config.json": b"{}", "tokenizer_config.json": b"{ }", "vocab.txt": b"a\n"}
PICKLES = {"pytorch_model.bin": b"pickle", "training_args.bin": b"x"}
OTHERS = {"README.md": b"", "tf_model.h5": b"x", "onnx/model.onnx": b"x", "onnx/config.json": b"x", "a.msgpack": b""}
FILES = {**SMALL, **PICKLES, **OTHERS, "model.safetensors": WEIGHTS}


@pytest.fixture(autouse=True)
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in (
        *("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_ENDPOINT", "XDG_CACHE_HOME", "HF_HOME", "HF_TOKEN"),
        *("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HUGGING_FACE_HUB_TOKEN", "HTTP_PROXY", "http_proxy", "ALL_PROXY"),
    ):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)  # some other test may have been the first to import it
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    monkeypatch.setattr(time, "sleep", lambda seconds: None)  # before every further try the library waits
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with running() as hub:
        hub.repositories["org/name"] = Repository(dict(FILES))
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        yield hub


def names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


class TestWhatIsAskedFor:
    def test_first_call_fetches_what_is_needed_and_the_second_asks_nothing(self, hub: Hub) -> None:
        folder = resolve("org/name")
        assert names(folder) == sorted([*SMALL, "model.safetensors"]) == hub.fetched()
        assert (folder / "model.safetensors").read_bytes() == WEIGHTS
        assert folder.name == COMMIT
        assert (folder.parent.parent / "refs" / "main").read_text() == COMMIT
        hub.asked.clear()
        assert resolve("org/name") == folder
        assert resolve("org/name", filenames=("config.json",)) == folder
        assert resolve("org/name", revision=COMMIT) == folder
        assert hub.asked == []

    def test_pickle_for_want_of_safetensors(self, hub: Hub) -> None:
        del hub.repositories["org/name"].files["model.safetensors"]
        assert names(resolve("org/name")) == sorted([*SMALL, "pytorch_model.bin"]) == hub.fetched()

    @pytest.mark.parametrize("name", ["tf_model.h5", "w.npz", "weights.pt", "my.safetensors"])
    def test_what_else_there_is(self, hub: Hub, name: str) -> None:
        hub.repositories["org/name"].files = {**SMALL, "README.md": b"", name: b"x", "optimizer.pt": b""}
        assert names(resolve("org/name")) == sorted([*SMALL, name])

    def test_tensorflow_checkpoint_comes_with_its_data(self, hub: Hub) -> None:
        files = {f"bert_model.ckpt.{end}": b"x" for end in ("index", "data-00000-of-00002", "data-00001-of-00002")}
        hub.repositories["org/name"].files = {**SMALL, **files, "bert_model.ckpt.meta": b""}
        assert names(resolve("org/name")) == sorted([*SMALL, *files])

    @pytest.mark.parametrize("variant", [None, "fp16"])
    @pytest.mark.parametrize(("whole", "suffix"), [("model", "safetensors"), ("pytorch_model", "bin")])
    def test_shards(self, hub: Hub, variant: str | None, whole: str, suffix: str) -> None:
        stem = whole if variant is None else f"{whole}.{variant}"
        shards = [f"{stem}-0000{number}-of-00002.{suffix}" for number in (1, 2)]
        index = f"{whole}.{suffix}.index{'' if variant is None else '.' + variant}.json"
        weight_map = json.dumps({"weight_map": dict(zip("ab", shards, strict=True))}).encode()
        other = f"{whole}-00001-of-00002.{suffix}" if variant else f"{whole}.fp16-00001-of-00002.{suffix}"
        files = {**SMALL, index: weight_map, **dict.fromkeys([*shards, other], b"x")}
        hub.repositories["org/name"].files = files
        folder = resolve("org/name", variant=variant)
        assert names(folder) == sorted([*SMALL, index, *shards])
        hub.asked.clear()
        assert resolve("org/name", variant=variant) == folder
        assert hub.asked == []

    def test_variant_beside_the_plain_weights(self, hub: Hub) -> None:
        hub.repositories["org/name"].files["model.fp16.safetensors"] = b"half"
        folder = resolve("org/name", variant="fp16")
        assert hub.fetched() == sorted([*SMALL, "model.fp16.safetensors"])
        assert resolve("org/name") == folder  # the plain weights are a download of their own
        assert (folder / "model.safetensors").read_bytes() == WEIGHTS

    def test_subfolder(self, hub: Hub) -> None:
        files = hub.repositories["org/name"].files
        files.update({"a/b/config.json": b"{}", "a/b/model.safetensors": b"sub", "a/b/c/config.json": b""})
        folder = resolve("org/name", subfolder="a/b")
        assert names(folder) == ["config.json", "model.safetensors"] == hub.fetched()
        assert (folder / "model.safetensors").read_bytes() == b"sub"
        assert folder.parent.parent.name == COMMIT
        hub.asked.clear()
        assert resolve("org/name", subfolder="a/b/") == folder
        assert hub.asked == []

    @pytest.mark.parametrize("revision", ["v1.0", "feature/x", "refs/pr/3", "d" * 40])
    def test_revisions(self, hub: Hub, revision: str) -> None:
        commit = "d" * 40
        hub.repositories["org/name"].revisions[revision] = commit
        folder = resolve("org/name", revision=revision)
        assert folder.name == commit
        hub.asked.clear()
        assert resolve("org/name", revision=revision) == folder
        assert hub.asked == []
        assert resolve("org/name").name == COMMIT

    def test_name_without_organisation(self, hub: Hub) -> None:
        hub.repositories["gpt2"] = Repository(dict(FILES))
        folder = resolve("gpt2")
        assert folder.parent.parent.name == "models--gpt2"
        assert resolve("gpt2", local_files_only=True) == folder

    def test_only_the_files_of_a_call(self, hub: Hub) -> None:
        folder = resolve("org/name", filenames=("config.json", "generation_config.json"))
        assert names(folder) == ["config.json"]

    def test_names_are_no_patterns(self, hub: Hub) -> None:
        hub.repositories["org/name"].files = {**SMALL, "w[1].pt": b"right", "1/w1.pt": b""}
        assert (resolve("org/name") / "w[1].pt").read_bytes() == b"right"


class TestCompletion:
    def test_snapshot_with_a_configuration_alone(self, hub: Hub) -> None:
        resolve("org/name", filenames=("config.json",))
        hub.asked.clear()
        folder = resolve("org/name")
        assert names(folder) == sorted([*SMALL, "model.safetensors"])
        assert "config.json" not in hub.fetched()

    def test_after_a_failure_the_rest_is_fetched(self, hub: Hub) -> None:
        hub.status["/model.safetensors"] = 503
        with pytest.raises(FileNotFoundError, match=r"the server failed: try again later \(\w+: .*503"):
            resolve("org/name")
        hub.status.clear()
        hub.asked.clear()
        assert names(resolve("org/name")) == sorted([*SMALL, "model.safetensors"])
        assert hub.fetched() == ["model.safetensors"]

    def test_settings_come_before_what_they_explain(self, hub: Hub) -> None:
        """A vocabulary without its settings would be read in another way, and nobody would notice."""
        hub.status["/tokenizer_config.json"] = 503
        with pytest.raises(FileNotFoundError):
            resolve("org/name")
        assert "vocab.txt" not in hub.fetched()
        assert "model.safetensors" not in hub.fetched()

    def test_cut_connections_go_on_where_they_were(self, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 1000)
        hub.cut["model.safetensors"] = [50_000, 30_000]
        folder = resolve("org/name")
        assert (folder / "model.safetensors").read_bytes() == WEIGHTS
        assert hub.ranges == ["bytes=50000-", "bytes=80000-"]

    def test_killed_in_the_middle(self, hub: Hub) -> None:
        hub.stall["model.safetensors"] = 40_000
        code = "from weights_tools.hub import resolve; resolve('org/name')"
        environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "HF_TOKEN": "t"}
        process = subprocess.Popen([sys.executable, "-c", code], env=environment, stderr=subprocess.DEVNULL)
        assert hub.stalled.wait(60)
        process.send_signal(signal.SIGKILL)
        process.wait()
        hub.stall.clear()
        hub.asked.clear()
        folder = resolve("org/name")
        assert (folder / "model.safetensors").read_bytes() == WEIGHTS
        assert "config.json" not in hub.fetched()

    def test_two_processes_at_once(self, hub: Hub) -> None:
        hub.stall["model.safetensors"] = 40_000
        code = (
            "from weights_tools.hub import resolve; folder = resolve('org/name'); "
            "print(len((folder / 'model.safetensors').read_bytes()))"
        )
        environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
        call = [sys.executable, "-c", code]
        processes = [
            subprocess.Popen(call, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
            for _ in range(2)
        ]
        assert hub.stalled.wait(60)  # the first is in the middle of the file
        hub.release.set()
        assert [process.communicate(timeout=60)[0] for process in processes] == [f"{len(WEIGHTS)}\n"] * 2

    def test_main_moves_on_during_the_download(self, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
        repository = hub.repositories["org/name"]
        download = huggingface_hub.snapshot_download

        def move(*arguments: object, **options: object) -> str:
            folder = download(*arguments, **options)
            repository.revisions["main"] = "e" * 40
            return folder

        monkeypatch.setattr(huggingface_hub, "snapshot_download", move)
        folder = resolve("org/name")
        assert folder.name == "e" * 40
        assert names(folder) == sorted([*SMALL, "model.safetensors"])

    def test_index_and_shards_that_do_not_belong_together(self, hub: Hub) -> None:
        index = json.dumps({"weight_map": {"a": "model-00002-of-00002.safetensors"}}).encode()
        files = {"model.safetensors.index.json": index, "model-00001-of-00002.safetensors": b"x"}
        hub.repositories["org/name"].files = {**SMALL, **files}
        with pytest.raises(
            FileNotFoundError, match=r"after the download .* lacks model.safetensors.index.json, but not model-00002-of"
        ):
            resolve("org/name")


class TestTokens:
    def test_argument_and_environment(self, hub: Hub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        hub.repositories["org/name"].token = "secret"
        resolve("org/name", token="secret")
        assert hub.tokens == {"secret"}
        monkeypatch.setenv("HF_TOKEN", "secret")  # after the library was imported
        resolve("org/name", cache_dir=tmp_path / "second")
        resolve("org/name", cache_dir=tmp_path / "third", token=True)
        assert hub.tokens == {"secret"}

    @pytest.mark.parametrize("variable", ["HF_HOME", "HF_TOKEN_PATH"])
    def test_stored(self, hub: Hub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, variable: str) -> None:
        (tmp_path / "home").mkdir()
        (tmp_path / "home" / "token").write_text("stored\n")
        monkeypatch.setenv(variable, str(tmp_path / "home" / ("token" if variable == "HF_TOKEN_PATH" else "")))
        resolve("org/name")
        assert hub.tokens == {"stored"}
        resolve("org/name", cache_dir=tmp_path / "second", token=False)
        assert hub.tokens == {"stored", None}
        hub.tokens.clear()
        monkeypatch.setenv("HF_HUB_DISABLE_IMPLICIT_TOKEN", "1")
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_IMPLICIT_TOKEN", True)
        resolve("org/name", cache_dir=tmp_path / "third")
        assert hub.tokens == {None}
        resolve("org/name", cache_dir=tmp_path / "fourth", token=True)
        assert hub.tokens == {None, "stored"}

    def test_false_sends_none(self, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("HF_TOKEN", "secret")
        resolve("org/name", token=False)
        assert hub.tokens == {None}

    def test_private(self, hub: Hub) -> None:
        hub.repositories["org/name"].token = "secret"
        with pytest.raises(FileNotFoundError, match=r"or it is private: .* give token= or set HF_TOKEN") as caught:
            resolve("org/name")
        assert "/resolve/main/model.safetensors" in str(caught.value)

    def test_wrong_token(self, hub: Hub) -> None:
        hub.repositories["org/name"].token = "secret"
        with pytest.raises(FileNotFoundError, match=r"the token was refused \(HfHubHTTPError") as caught:
            resolve("org/name", token="wrong-token")
        assert "wrong-token" not in str(caught.value)

    def test_gated(self, hub: Hub) -> None:
        hub.repositories["org/name"] = Repository(dict(FILES), token="secret", gated=True)
        with pytest.raises(FileNotFoundError, match=rf"ask for it at {hub.url}/org/name, then give token="):
            resolve("org/name", token="other")


class TestFailures:
    def test_missing_model(self, hub: Hub, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError) as caught:
            resolve("org/none")
        text = str(caught.value)
        assert f"download from {hub.url}: there is no such model at {hub.url}, or it is private" in text
        assert f"{hub.url}/org/none/resolve/main/config.json" in text
        assert str(tmp_path / "cache" / "models--org--none" / "snapshots" / "main") in text
        assert "endpoint= or set HF_ENDPOINT" in text

    def test_missing_revision(self, hub: Hub) -> None:
        with pytest.raises(
            FileNotFoundError, match=r"the model has no revision 'v9': .* listed at .*/org/name/tree/main"
        ):
            resolve("org/name", revision="v9")

    def test_missing_files(self, hub: Hub) -> None:
        with pytest.raises(
            FileNotFoundError, match=r"'org/name' at http.*: the repository has none of merges.txt; it h"
        ):
            resolve("org/name", filenames=("merges.txt",))
        hub.repositories["org/name"].files = {"README.md": b"", "config.json": b""}
        with pytest.raises(FileNotFoundError, match=r"the repository has no weights; it has README.md, config.json$"):
            resolve("org/name")
        with pytest.raises(FileNotFoundError, match=r"the repository has no folder 'sub'$"):
            resolve("org/name", subfolder="sub")
        hub.repositories["org/name"].files = {"a.pt": b"", "b.pt": b""}
        with pytest.raises(FileNotFoundError, match=r"several files could be the weights: a.pt, b.pt$"):
            resolve("org/name")

    def test_missing_variant(self, hub: Hub) -> None:
        with pytest.raises(FileNotFoundError, match=r"the repository has no weights of variant 'fp16'; it has"):
            resolve("org/name", variant="fp16")
        hub.repositories["org/name"].files = {**SMALL, "model.bf16.safetensors": b""}
        for variant in ("fp16", None):
            with pytest.raises(FileNotFoundError, match=r"\(but of variant 'bf16': give variant=\)"):
                resolve("org/name", variant=variant)

    def test_file_of_the_listing_that_is_not_there(self, hub: Hub) -> None:
        hub.status["/resolve/" + COMMIT + "/model.safetensors"] = 404
        with pytest.raises(FileNotFoundError, match="download from") as caught:
            resolve("org/name")
        assert "(those that exist" not in str(caught.value)  # the listing was read: these are its names
        assert f"{hub.url}/org/name/resolve/main/vocab.txt" in str(caught.value)
        assert "merges.txt" not in str(caught.value)

    @pytest.mark.parametrize("status", [500, 503])
    def test_server_error(self, hub: Hub, status: int) -> None:
        hub.status["/revision/main"] = status
        with pytest.raises(
            FileNotFoundError, match=rf"the server failed: try again later \(HfHubHTTPError: .*{status}"
        ):
            resolve("org/name")
        assert len(hub.asked) == 1

    def test_something_else_answers(self, hub: Hub) -> None:
        hub.page = b"<html>log in</html>"
        with pytest.raises(
            FileNotFoundError, match=r"the answer is no JSON, so this is no hub, or a page stands before"
        ):
            resolve("org/name")

    def test_refused_connections_fail_at_once(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.undo()
        with socket.socket() as place:
            place.bind(("127.0.0.1", 0))
            port = place.getsockname()[1]
        started = time.monotonic()
        with pytest.raises(FileNotFoundError, match=rf"download from http://127.0.0.1:{port}: it cannot be reached"):
            resolve("org/name-that-nobody-has", endpoint=f"http://127.0.0.1:{port}", token=False)
        assert time.monotonic() - started < 5

    def test_an_endpoint_that_never_answers(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("weights_tools.hub_download.LISTING_SECONDS", 0.2)
        with socket.socket() as silent:
            silent.bind(("127.0.0.1", 0))
            silent.listen()
            with pytest.raises(FileNotFoundError, match=r"it did not answer in time \(ReadTimeout"):
                resolve("org/name", endpoint=f"http://127.0.0.1:{silent.getsockname()[1]}")

    def test_the_argument_goes_before_the_environment(self, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
        assert names(resolve("org/name", endpoint=hub.url + "/"))

    def test_offline_in_the_library_alone(self, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
        with pytest.raises(FileNotFoundError, match=r"HF_HUB_OFFLINE was set when huggingface_hub was imported"):
            resolve("org/name")

    @pytest.mark.parametrize("variable", ["HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"])
    def test_offline_is_read_at_every_call(self, hub: Hub, monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
        monkeypatch.setenv(variable, "1")
        with pytest.raises(FileNotFoundError, match=f"no download: {variable} is set"):
            resolve("org/name")
        assert hub.asked == []
        monkeypatch.setenv(variable, "0")
        assert names(resolve("org/name"))


class TestOfTheLibrary:
    """Caches that `huggingface_hub` itself wrote are read without a request, and the reverse."""

    @pytest.mark.parametrize("revision", ["main", "refs/pr/3"])
    def test_its_cache_is_read(self, hub: Hub, tmp_path: Path, revision: str) -> None:
        hub.repositories["org/name"].revisions["refs/pr/3"] = "d" * 40
        folder = huggingface_hub.snapshot_download(
            "org/name", cache_dir=tmp_path / "cache", endpoint=hub.url, revision=revision
        )
        hub.asked.clear()
        assert resolve("org/name", revision=revision) == Path(folder)
        assert resolve("org/name", revision=revision, subfolder="onnx", filenames=("config.json",)) == Path(
            folder, "onnx"
        )
        assert hub.asked == []

    def test_it_reads_ours(self, hub: Hub, tmp_path: Path) -> None:
        folder = resolve("org/name")
        hub.asked.clear()
        found = huggingface_hub.try_to_load_from_cache("org/name", "model.safetensors", cache_dir=tmp_path / "cache")
        assert found == str(folder / "model.safetensors")
        assert hub.asked == []
