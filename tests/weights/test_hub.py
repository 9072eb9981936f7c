"""Names to folders, without any network: paths, hand-made caches, and what happens when nothing is found."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import REPOSITORY
from weights_tools.hub import resolve

HASH = "86b5e0934494bd15c9632b12f734a8a67f723594"


@pytest.fixture(autouse=True)
def no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_ENDPOINT", "XDG_CACHE_HOME", "HF_HOME"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")

    def refuse(*arguments: object) -> None:
        raise AssertionError("a connection was attempted")

    monkeypatch.setattr(socket.socket, "connect", refuse)


def make_cache(
    root: Path,
    name: str = "org/name",
    files: tuple[str, ...] = ("config.json", "model.safetensors"),
    *,
    reference: str | None = "refs/main",
    newline: bool = False,
    links: bool = False,
    commit: str = HASH,
) -> Path:
    home = root / f"models--{name.replace('/', '--')}"
    snapshot = home / "snapshots" / commit
    snapshot.mkdir(parents=True)
    for file in files:
        if links:
            (home / "blobs").mkdir(exist_ok=True)
            (home / "blobs" / f"blob-{file}").write_text("{}")
            (snapshot / file).symlink_to(f"../../blobs/blob-{file}")
        else:
            (snapshot / file).write_text("{}")
    if reference:
        (home / reference).parent.mkdir(parents=True, exist_ok=True)
        (home / reference).write_text(commit + ("\n" if newline else ""))
    return snapshot


PATHS = [
    *("./model", "../model", "/nowhere/model", "~/model", "a/b/c", "model/", "pytorch_model.bin", "x/m.safetensors"),
    *("parent/model", "with space", "a\\b", "org/..", "a..b"),
]


class TestPaths:
    def test_existing_ones(self, tmp_path: Path) -> None:
        (tmp_path / "work" / "file.bin").write_text("")
        assert resolve(tmp_path) == tmp_path
        assert resolve(str(tmp_path) + "/") == tmp_path
        assert resolve("file.bin") == Path("file.bin")

    def test_folder_named_like_a_model(self, tmp_path: Path) -> None:
        make_cache(tmp_path / "cache", "gpt2")
        make_cache(tmp_path / "cache", "org/name")
        for name in ("gpt2", "org/name"):
            Path(name).mkdir(parents=True)
            assert resolve(name, cache_dir=tmp_path / "cache") == Path(name)

    def test_home(self, tmp_path: Path) -> None:
        (tmp_path / "home" / "model").mkdir(parents=True)
        assert resolve("~/model") == tmp_path / "home" / "model"

    @pytest.mark.parametrize("text", PATHS)
    def test_plain_paths_that_do_not_exist(self, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("HF_HUB_OFFLINE")
        Path("parent").mkdir()
        with pytest.raises(FileNotFoundError, match=r"no such file or folder.* Give a folder that exists, or a model"):
            resolve(text)

    def test_names_that_look_alike(self, tmp_path: Path) -> None:
        for name in ("bert-base", "bert-base-cased", "unrelated", "another"):
            Path(name).mkdir()
        with pytest.raises(FileNotFoundError) as caught:
            resolve("./bert-bas")
        work = Path.cwd()
        assert str(caught.value) == (
            "'./bert-bas': no such file or folder; "
            f"did you mean '{work / 'bert-base'}' or '{work / 'bert-base-cased'}'? "
            "Give a folder that exists, or a model's name on the hub, such as 'bert-base-uncased'."
        )
        with pytest.raises(FileNotFoundError) as caught:
            resolve("./bert-bas/model")
        assert f"; there is no 'bert-bas' in {work}; did you mean '{work / 'bert-base'}'" in str(caught.value)
        with pytest.raises(FileNotFoundError) as caught:
            resolve("./zzz")
        assert "did you mean" not in str(caught.value)
        assert not any(name in str(caught.value) for name in ("unrelated", "another", "bert-base-cased"))

    def test_a_file_on_the_way(self, tmp_path: Path) -> None:
        Path("file.bin").write_text("")
        with pytest.raises(FileNotFoundError, match=r"no such file or folder; .*file\.bin is a file\. Give"):
            resolve("./file.bin/model")

    @pytest.mark.parametrize("text", ["", " ", "\n"])
    def test_empty(self, text: str) -> None:
        Path("neighbour").mkdir()
        with pytest.raises(
            FileNotFoundError, match=r"pretrained_model_name_or_path is '.*', an empty text; .* Give the f"
        ) as e:
            resolve(text)
        assert "neighbour" not in str(e.value)

    @pytest.mark.parametrize("text", ["x" * 5000, "x/" * 2500, "./" + "x" * 5000])
    def test_long(self, text: str) -> None:
        with pytest.raises(
            FileNotFoundError, match=r"no such file or folder.* It has 5,00\d characters: give"
        ) as caught:
            resolve(text)
        assert len(str(caught.value)) < 1000

    def test_null_character(self) -> None:
        with pytest.raises(FileNotFoundError, match=r"'a\\x00b': no such file or folder"):
            resolve("a\0b")

    def test_path_objects_are_paths(self) -> None:
        with pytest.raises(FileNotFoundError, match=r"'gpt2': no such file or folder\. .* give the text 'gpt2'"):
            resolve(Path("gpt2"))

    @pytest.mark.parametrize(
        ("value", "words"),
        [
            (None, "is a NoneType; .* Give the folder"),
            ({"a": 1}, "is a dict; .* model from it"),
            (b"x", "is a bytes; "),
        ],
    )
    def test_other_types(self, value: object, words: str) -> None:
        Path("neighbour").mkdir()
        with pytest.raises(TypeError, match=f"pretrained_model_name_or_path {words}") as caught:
            resolve(value)  # type: ignore[arg-type]
        assert "neighbour" not in str(caught.value)


class TestCache:
    @pytest.mark.parametrize("newline", [False, True])
    @pytest.mark.parametrize("links", [False, True])
    @pytest.mark.parametrize("name", ["org/name", "gpt2"])
    def test_snapshot(self, tmp_path: Path, name: str, links: bool, newline: bool) -> None:
        snapshot = make_cache(tmp_path, name, links=links, newline=newline)
        assert resolve(name, cache_dir=tmp_path) == snapshot

    def test_without_offline_there_is_still_no_request(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("HF_HUB_OFFLINE")
        snapshot = make_cache(tmp_path)
        assert resolve("org/name", cache_dir=tmp_path) == snapshot

    def test_environment_is_read_at_call_time(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        places = {
            "HOME": tmp_path / "h" / ".cache" / "huggingface" / "hub",
            "XDG_CACHE_HOME": tmp_path / "x" / "huggingface" / "hub",
            "HF_HOME": tmp_path / "hf" / "hub",
            "HF_HUB_CACHE": tmp_path / "hub",
        }
        values = {"HOME": "h", "XDG_CACHE_HOME": "x", "HF_HOME": "hf", "HF_HUB_CACHE": "hub"}
        for variable, place in places.items():
            snapshot = make_cache(place)
            monkeypatch.setenv(variable, str(tmp_path / values[variable]))
            assert resolve("org/name") == snapshot

    @pytest.mark.parametrize(
        ("revision", "reference"),
        [("main", None), ("v1.0", "refs/v1.0"), ("refs/pr/7", "refs/refs/pr/7"), (HASH, None)],
    )
    def test_revisions(self, tmp_path: Path, revision: str, reference: str | None) -> None:
        snapshot = make_cache(tmp_path, reference=reference)
        assert resolve("org/name", cache_dir=tmp_path, revision=revision) == snapshot

    def test_the_reference_decides_among_snapshots(self, tmp_path: Path) -> None:
        make_cache(tmp_path, commit="a" * 40, reference=None)
        snapshot = make_cache(tmp_path, commit="b" * 40)
        assert resolve("org/name", cache_dir=tmp_path) == snapshot

    def test_unknown_revision(self, tmp_path: Path) -> None:
        make_cache(tmp_path)
        with pytest.raises(FileNotFoundError, match=rf"no snapshot of revision 'v2' \(snapshots: {HASH}\)"):
            resolve("org/name", cache_dir=tmp_path, revision="v2")

    @pytest.mark.parametrize("revision", ["", "../x", "a//b", "a\\b", "..", "/etc"])
    def test_revision_that_is_a_path(self, tmp_path: Path, revision: str) -> None:
        with pytest.raises(ValueError, match=r"revision is .*; expected a branch"):
            resolve("org/name", cache_dir=tmp_path, revision=revision)

    @pytest.mark.parametrize("content", ["../../other", "..", "", "a b"])
    def test_reference_that_points_elsewhere(self, tmp_path: Path, content: str) -> None:
        snapshot = make_cache(tmp_path)
        (snapshot.parent.parent / "refs" / "main").write_text(content)
        with pytest.raises(FileNotFoundError, match="which is no hash"):
            resolve("org/name", cache_dir=tmp_path)

    def test_snapshot_without_weights(self, tmp_path: Path) -> None:
        snapshot = make_cache(tmp_path, files=("config.json", "vocab.txt"))
        assert resolve("org/name", cache_dir=tmp_path, filenames=("config.json",)) == snapshot
        with pytest.raises(FileNotFoundError, match=r"holds config.json, vocab.txt, but none of what is wanted"):
            resolve("org/name", cache_dir=tmp_path)

    def test_lost_blob_does_not_count(self, tmp_path: Path) -> None:
        snapshot = make_cache(tmp_path, links=True)
        (snapshot / "model.safetensors").resolve().unlink()
        with pytest.raises(FileNotFoundError, match="none of what is wanted"):
            resolve("org/name", cache_dir=tmp_path)


class TestNotFound:
    def test_message(self, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError) as caught:
            resolve("org/name", cache_dir=tmp_path / "cache", filenames=("config.json",))
        assert str(caught.value) == (
            "'org/name' was not found. Tried:\n"
            f"  - a folder 'org/name' in {Path.cwd()}: there is none\n"
            f"  - the cache {tmp_path / 'cache'}: models--org--name is not there\n"
            "  - no download: HF_HUB_OFFLINE is set\n"
            "What helps:\n"
            "  - give a local folder that holds the files (config.json);\n"
            "  - set HF_ENDPOINT to a mirror that can be reached;\n"
            f"  - copy the files into the cache: {tmp_path / 'cache' / 'models--org--name' / 'snapshots' / 'main'}"
        )

    def test_the_named_place_works(self, tmp_path: Path) -> None:
        place = tmp_path / "cache" / "models--org--name" / "snapshots" / "main"
        place.mkdir(parents=True)
        (place / "pytorch_model.bin").write_text("")
        assert resolve("org/name", cache_dir=tmp_path / "cache") == place

    def test_local_files_only(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("HF_HUB_OFFLINE")
        with pytest.raises(FileNotFoundError, match="no download: local_files_only=True"):
            resolve("org/name", cache_dir=tmp_path, local_files_only=True)


class TestDownload:
    @pytest.fixture
    def calls(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[dict]:
        """A stand-in for the library's download: remembers its arguments, makes the files of `there`."""
        import huggingface_hub

        monkeypatch.delenv("HF_HUB_OFFLINE")
        made: list[dict] = []

        def download(name: str, **options: object) -> str:
            made.append({"name": name, **options})
            import fnmatch

            folder = tmp_path / "downloaded"
            folder.mkdir(exist_ok=True)
            for file in self.there:
                if any(fnmatch.fnmatch(file, pattern) for pattern in options["allow_patterns"]):
                    (folder / file).write_text("")
            return str(folder)

        monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
        return made

    there: tuple[str, ...] = ()

    def test_safetensors_alone(self, tmp_path: Path, calls: list[dict], monkeypatch: pytest.MonkeyPatch) -> None:
        self.there = ("config.json", "model.safetensors", "pytorch_model.bin", "tf_model.h5")
        monkeypatch.setenv("HF_ENDPOINT", "http://mirror.example")
        folder = resolve("org/name", cache_dir=tmp_path / "c", token="secret", revision="v1")
        assert sorted(entry.name for entry in folder.iterdir()) == ["config.json", "model.safetensors"]
        (call,) = calls
        assert (call["name"], call["revision"], call["token"]) == ("org/name", "v1", "secret")
        assert (call["endpoint"], call["cache_dir"]) == ("http://mirror.example", tmp_path / "c")

    def test_pickle_for_want_of_safetensors(self, tmp_path: Path, calls: list[dict]) -> None:
        self.there = ("config.json", "pytorch_model.bin")
        folder = resolve("org/name", cache_dir=tmp_path / "c")
        assert (folder / "pytorch_model.bin").exists()
        assert len(calls) == 2

    def test_nothing_useful_there(self, tmp_path: Path, calls: list[dict]) -> None:
        self.there = ("config.json",)
        with pytest.raises(
            FileNotFoundError, match=r"download from https://huggingface.co: .*the repository has none of"
        ):
            resolve("org/name", cache_dir=tmp_path / "c")

    def test_failure_of_the_network(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        import huggingface_hub

        monkeypatch.delenv("HF_HUB_OFFLINE")

        def fail(*arguments: object, **options: object) -> str:
            raise ConnectionError("no route to host\nand more")

        monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
        with pytest.raises(FileNotFoundError, match=r"ConnectionError: no route to host\nWhat helps"):
            resolve("org/name", cache_dir=tmp_path / "c")


def test_neither_torch_nor_the_hub_library_is_imported(tmp_path: Path) -> None:
    make_cache(tmp_path)
    code = (
        "import sys; from weights_tools.hub import resolve; "
        f"resolve('org/name', cache_dir={str(tmp_path)!r}); "
        "print([name for name in ('torch', 'huggingface_hub', 'numpy') if name in sys.modules])"
    )
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    assert result.stdout == "[]\n"
