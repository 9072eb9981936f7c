"""Names to folders, without any network: paths, hand-made caches, and what happens when nothing is found."""

from __future__ import annotations

import json
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
        with pytest.raises(FileNotFoundError, match=r"holds config.json, vocab.txt: no weights\n"):
            resolve("org/name", cache_dir=tmp_path)

    def test_lost_blob_does_not_count(self, tmp_path: Path) -> None:
        snapshot = make_cache(tmp_path, links=True)
        (snapshot / "model.safetensors").resolve().unlink()
        with pytest.raises(FileNotFoundError, match=r"holds config.json: no weights\n"):
            resolve("org/name", cache_dir=tmp_path)


class TestRevisions:
    """Everything that can stand in refs/, and what a copy made by hand looks like."""

    @pytest.mark.parametrize("reference", ["refs/pr/7", "refs/refs/pr/7"])
    def test_pull_request(self, tmp_path: Path, reference: str) -> None:
        make_cache(tmp_path, commit="a" * 40)
        snapshot = make_cache(tmp_path, reference=reference)
        assert resolve("org/name", cache_dir=tmp_path, revision="refs/pr/7") == snapshot

    @pytest.mark.parametrize("branch", ["v1.0", "feature/x", "fp16"])
    def test_branches_and_tags(self, tmp_path: Path, branch: str) -> None:
        make_cache(tmp_path, commit="a" * 40)
        snapshot = make_cache(tmp_path, reference=f"refs/{branch}", newline=True)
        assert resolve("org/name", cache_dir=tmp_path, revision=branch) == snapshot
        assert resolve("org/name", cache_dir=tmp_path).name == "a" * 40

    @pytest.mark.parametrize("revision", ["main", "v1.0", "refs/pr/7"])
    def test_the_place_that_the_message_names(self, tmp_path: Path, revision: str) -> None:
        with pytest.raises(FileNotFoundError) as caught:
            resolve("org/name", cache_dir=tmp_path, revision=revision)
        place = Path(str(caught.value).rpartition(": ")[2])
        place.mkdir(parents=True)
        (place / "model.safetensors").write_text("")
        assert resolve("org/name", cache_dir=tmp_path, revision=revision) == place

    def test_no_reference_and_several_snapshots(self, tmp_path: Path) -> None:
        make_cache(tmp_path, reference=None)
        make_cache(tmp_path, reference=None, commit="a" * 40)
        with pytest.raises(FileNotFoundError, match=rf"no snapshot of revision 'main' \(snapshots: {HASH}, {'a' * 40}"):
            resolve("org/name", cache_dir=tmp_path)
        assert resolve("org/name", cache_dir=tmp_path, revision=HASH).name == HASH


class TestSubfolder:
    def test_of_a_folder(self, tmp_path: Path) -> None:
        place = tmp_path / "model" / "a" / "b"
        place.mkdir(parents=True)
        assert resolve(tmp_path / "model", subfolder="a/b") == place
        assert resolve(str(tmp_path / "model"), subfolder="a/b/") == place
        assert resolve(tmp_path / "model", subfolder="") == tmp_path / "model"

    @pytest.mark.parametrize("links", [False, True])
    def test_of_a_snapshot(self, tmp_path: Path, links: bool) -> None:
        snapshot = make_cache(tmp_path, files=("config.json",))
        (snapshot / "sub").mkdir()
        for name in ("config.json", "model.safetensors"):
            (tmp_path / name).write_text("{}")
            (snapshot / "sub" / name).symlink_to(tmp_path / name) if links else (snapshot / "sub" / name).write_text("")
        assert resolve("org/name", cache_dir=tmp_path, subfolder="sub") == snapshot / "sub"
        with pytest.raises(FileNotFoundError, match="has no folder 'other'"):
            resolve("org/name", cache_dir=tmp_path, subfolder="other")

    def test_that_is_not_there(self, tmp_path: Path) -> None:
        (tmp_path / "encoder").mkdir()
        with pytest.raises(FileNotFoundError, match=r"has no folder 'encodr'; did you mean '.*encoder'\?"):
            resolve(tmp_path, subfolder="encodr")

    @pytest.mark.parametrize("value", ["..", "a/../b", "/etc", ".", "a//b", "a\\b", "C:x", "a\0b", None, 3])
    def test_that_leads_out(self, tmp_path: Path, value: object) -> None:
        for name in (tmp_path, "org/name"):
            with pytest.raises(ValueError, match=r"subfolder is .*; expected the name of a folder inside"):
                resolve(name, subfolder=value)  # type: ignore[arg-type]

    def test_link_that_leads_out(self, tmp_path: Path) -> None:
        (tmp_path / "model").mkdir()
        (tmp_path / "outside").mkdir()
        (tmp_path / "model" / "sub").symlink_to(tmp_path / "outside")
        with pytest.raises(
            ValueError, match=r"subfolder 'sub' of .*model leads to .*outside; expected a folder inside"
        ):
            resolve(tmp_path / "model", subfolder="sub")
        snapshot = make_cache(tmp_path)
        (snapshot / "sub").symlink_to(tmp_path / "outside")
        with pytest.raises(ValueError, match=r"leads to .*outside"):
            resolve("org/name", cache_dir=tmp_path, subfolder="sub")

    @pytest.mark.parametrize("keyword", ["subfolder", "variant"])
    def test_beside_a_file(self, tmp_path: Path, keyword: str) -> None:
        (tmp_path / "m.bin").write_text("")
        with pytest.raises(ValueError, match=rf"{keyword} is 'sub', but .*m\.bin is a file: leave {keyword} out"):
            resolve(tmp_path / "m.bin", **{keyword: "sub"})


SHARDS = ("model.fp16-00001-of-00002.safetensors", "model.fp16-00002-of-00002.safetensors")


class TestWeights:
    """Which snapshots serve."""

    def served(self, root: Path, files: tuple[str, ...], variant: str | None = None) -> bool:
        snapshot = make_cache(root, files=files)
        for index in snapshot.glob("*.index*.json"):
            shards = [name for name in SHARDS if ".fp16." in index.name] or ["model-00001-of-00001.safetensors"]
            index.write_text(json.dumps({"weight_map": {f"w{i}": name for i, name in enumerate(shards)}}))
        try:
            return resolve("org/name", cache_dir=root, variant=variant) == snapshot
        except FileNotFoundError:
            return False

    @pytest.mark.parametrize(
        "name",
        [
            *("model.safetensors", "pytorch_model.bin", "weights.pt", "tf_model.h5", "bert_model.ckpt.index", "m.npz"),
        ],
    )
    def test_any_format_serves(self, tmp_path: Path, name: str) -> None:
        assert self.served(tmp_path, ("config.json", name))
        assert not self.served(tmp_path / "v", ("config.json", name), "fp16")

    @pytest.mark.parametrize("name", ["training_args.bin", "optimizer.pt", "README.md", "model.fp16.safetensors"])
    def test_these_are_no_weights(self, tmp_path: Path, name: str) -> None:
        assert not self.served(tmp_path, ("config.json", name))

    @pytest.mark.parametrize("name", ["model.fp16.safetensors", "pytorch_model.fp16.bin"])
    def test_variant(self, tmp_path: Path, name: str) -> None:
        assert self.served(tmp_path, ("config.json", name), "fp16")
        assert not self.served(tmp_path / "other", ("config.json", name), "bf16")

    def test_shards_must_all_be_there(self, tmp_path: Path) -> None:
        index = "model.safetensors.index.fp16.json"
        assert not self.served(tmp_path / "1", (index, SHARDS[0]), "fp16")
        assert self.served(tmp_path / "2", (index, *SHARDS), "fp16")
        assert not self.served(tmp_path / "3", SHARDS, "fp16")
        assert not self.served(tmp_path / "4", ("model.safetensors.index.json", "pytorch_model.bin"))
        with pytest.raises(FileNotFoundError, match=rf"holds .*: {index}, but not {SHARDS[1]}\n"):
            resolve("org/name", cache_dir=tmp_path / "1", variant="fp16")

    def test_index_that_cannot_be_read_is_left_to_its_reader(self, tmp_path: Path) -> None:
        snapshot = make_cache(tmp_path, files=("model.safetensors.index.json",))
        for content in ("", "[]", '{"weight_map": 3}', '{"weight_map": {"a": 1}}', "[" * 10_000):
            (snapshot / "model.safetensors.index.json").write_text(content)
            assert resolve("org/name", cache_dir=tmp_path) == snapshot

    def test_another_variant_is_named(self, tmp_path: Path) -> None:
        make_cache(tmp_path, files=("config.json", SHARDS[0]))
        with pytest.raises(FileNotFoundError, match=r"no weights \(but of variant 'fp16': give variant=\)"):
            resolve("org/name", cache_dir=tmp_path)

    @pytest.mark.parametrize("variant", ["", "a/b", "../x", "a.b", 16])
    def test_variant_that_cannot_be_one(self, tmp_path: Path, variant: object) -> None:
        for name in (tmp_path, "org/name"):
            with pytest.raises(ValueError, match=r"variant is .*; expected what stands in the file's name"):
                resolve(name, variant=variant)  # type: ignore[arg-type]

    def test_essential_files(self, tmp_path: Path) -> None:
        snapshot = make_cache(tmp_path, files=("config.json", "vocab.json"))
        names = ("config.json", "tokenizer.json", "vocab.json", "merges.txt")
        essential = (("tokenizer.json",), ("vocab.json", "merges.txt"))
        with pytest.raises(FileNotFoundError, match=r"vocab.json: none of tokenizer.json, vocab.json with merges.txt"):
            resolve("org/name", cache_dir=tmp_path, filenames=names, essential=essential)
        (snapshot / "merges.txt").write_text("")
        assert resolve("org/name", cache_dir=tmp_path, filenames=names, essential=essential) == snapshot


class TestTensorFlowPrefix:
    def test_resolves_to_the_index(self, tmp_path: Path) -> None:
        index = tmp_path / "model.ckpt.index"
        index.write_text("")
        assert resolve(tmp_path / "model.ckpt") == index
        assert resolve(str(tmp_path / "model.ckpt")) == index
        (tmp_path / "model.ckpt").mkdir()
        assert resolve(tmp_path / "model.ckpt") == tmp_path / "model.ckpt"

    def test_without_an_index(self, tmp_path: Path) -> None:
        (tmp_path / "model.ckpt.data-00000-of-00001").write_text("")
        with pytest.raises(FileNotFoundError, match="no such file or folder"):
            resolve(tmp_path / "model.ckpt")


@pytest.mark.parametrize("source", ["endpoint", "HF_ENDPOINT"])
@pytest.mark.parametrize("address", ["mirror.example", "ftp://mirror.example", "https://", "https://a b", "http:///x"])
def test_endpoint_that_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, address: str) -> None:
    keywords = {"endpoint": address} if source == "endpoint" else {}
    monkeypatch.setenv("HF_ENDPOINT", address)
    with pytest.raises(ValueError, match=rf"^{source} is '{address}'; expected an address that begins with https://"):
        resolve("org/name", cache_dir=tmp_path, **keywords)


@pytest.mark.parametrize("token", ["", "secret\n", "se cret", "sécret"])
def test_token_that_cannot_be_sent(tmp_path: Path, token: str) -> None:
    with pytest.raises(ValueError, match=r"token is a text of \d characters with .*; expected a token") as caught:
        resolve("org/name", cache_dir=tmp_path, token=token)
    assert "cret" not in str(caught.value)


def test_relative_cache_gives_an_absolute_folder(tmp_path: Path) -> None:
    snapshot = make_cache(Path("cache"))
    assert resolve("org/name", cache_dir="cache") == snapshot.absolute()


@pytest.mark.parametrize("token", [3, b"x", ["x"]])
def test_token_that_is_none(tmp_path: Path, token: object) -> None:
    with pytest.raises(TypeError, match=r"token is a .*; expected a text, True, False or None"):
        resolve("org/name", cache_dir=tmp_path, token=token)  # type: ignore[arg-type]


class TestNotFound:
    def test_message(self, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError) as caught:
            resolve("org/name", cache_dir=tmp_path / "cache", filenames=("config.json",), revision="refs/pr/1")
        place = tmp_path / "cache" / "models--org--name" / "snapshots" / "refs" / "pr" / "1"
        assert str(caught.value) == (
            "'org/name' was not found. Tried:\n"
            f"  - a folder 'org/name' in {Path.cwd()}: there is none\n"
            f"  - the cache {tmp_path / 'cache'}: models--org--name is not there\n"
            "  - no download: HF_HUB_OFFLINE is set\n"
            "What helps:\n"
            "  - a mirror that can be reached: give endpoint= or set HF_ENDPOINT;\n"
            "  - a local folder in place of the name, with these files, downloaded by other means:\n"
            "      https://huggingface.co/org/name/resolve/refs%2Fpr%2F1/config.json\n"
            f"  - a copy of these files in the cache: {place}"
        )

    def test_addresses_of_a_whole_checkpoint(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("HF_ENDPOINT", "https://mirror.example/hub/")
        with pytest.raises(FileNotFoundError, match=r"older models have pytorch_model\.bin in place of") as caught:
            resolve("gpt2", cache_dir=tmp_path, subfolder="a/b", variant="fp16")
        lines = [line.strip() for line in str(caught.value).splitlines()]
        root = "https://mirror.example/hub/gpt2/resolve/main/a/b"
        for name in ("config.json", "tokenizer.json", "vocab.txt", "merges.txt", "model.fp16.safetensors"):
            assert f"{root}/{name}" in lines
        assert not any(line.startswith("https:") and not line.startswith(root) for line in lines)

    def test_the_named_place_works(self, tmp_path: Path) -> None:
        place = tmp_path / "cache" / "models--org--name" / "snapshots" / "main"
        place.mkdir(parents=True)
        (place / "pytorch_model.bin").write_text("")
        assert resolve("org/name", cache_dir=tmp_path / "cache") == place

    def test_local_files_only(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("HF_HUB_OFFLINE")
        with pytest.raises(FileNotFoundError, match="no download: local_files_only=True"):
            resolve("org/name", cache_dir=tmp_path, local_files_only=True)


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
