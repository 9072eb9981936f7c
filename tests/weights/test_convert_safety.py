"""Conversion is all or nothing, refuses what it should, and holds one tensor in memory."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from tests.support import REPOSITORY
from tests.weights.forge import tensors
from tests.weights.test_convert import load, names, same
from tests.weights.test_saving import steps_of
from weights_tools.__main__ import main
from weights_tools.calls import WrongCall
from weights_tools.convert import convert
from weights_tools.files import save_checkpoint

CONTENT = {"config.json": b'{"a": 1}', "vocab.txt": b"[PAD]\n"}


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "source"
    save_checkpoint(folder, tensors(), format="pytorch", files=CONTENT)
    return folder


def everything(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# ------------------------------------------------------------------------------------------------------------ refusals


def test_never_over_its_own_source(tmp_path: Path, source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "link").symlink_to(source)
    (tmp_path / "file.bin").symlink_to(source / "pytorch_model.bin")
    before = everything(source)
    for place in (source, tmp_path / "link", source / ".." / "source"):
        for what in (source, source / "pytorch_model.bin"):
            assert main(["convert", str(what), str(place), "--overwrite"]) == 1
            assert "is the source itself; expected another place" in capsys.readouterr().err
    for place in (source / "pytorch_model.bin", tmp_path / "file.bin"):
        assert main(["convert", str(source), str(place), "--overwrite"]) == 1
        assert "is the source itself; expected another place" in capsys.readouterr().err
    assert everything(source) == before


def test_what_exists_stays_unless_asked(tmp_path: Path, source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "b").mkdir()
    assert main(["convert", str(source), str(tmp_path / "b")]) == 0  # empty
    (tmp_path / "c.npz").write_text("precious")
    (tmp_path / "d").write_text("precious")
    for place, found in (("b", "is not empty (it holds 'README.md', 'config.json', 'model.safetensors', 'vocab.txt')"),
                         ("c.npz", "exists; expected a new name, or --overwrite"),
                         ("d", "exists; expected a new name, or --overwrite")):  # fmt: skip
        capsys.readouterr()
        assert main(["convert", str(source), str(tmp_path / place)]) == 1
        assert found in capsys.readouterr().err
    assert (tmp_path / "c.npz").read_text() == "precious"
    assert main(["convert", str(source), str(tmp_path / "c.npz"), "--overwrite"]) == 0
    assert same(load(tmp_path / "c.npz"), tensors())
    assert main(["convert", str(source), str(tmp_path / "d"), "--overwrite"]) == 1
    assert (tmp_path / "d").read_text() == "precious"


def test_overwriting_replaces_the_checkpoint_and_leaves_the_rest(tmp_path: Path, source: Path) -> None:
    place = tmp_path / "b"
    save_checkpoint(place, tensors(5), max_shard_size=100, files={"mine.txt": b"x", "merges.txt": b"of another"})
    found = convert(source, place, overwrite=True)
    assert names(place) == ["README.md", "config.json", "merges.txt", "mine.txt", "model.safetensors", "vocab.txt"]
    assert found.notes == ["already in b and left as they were: merges.txt"]
    assert same(load(place), tensors())


def test_weights_that_would_be_read_in_place_of_an_npz(tmp_path: Path, source: Path) -> None:
    save_checkpoint(tmp_path / "b", tensors(5))
    with pytest.raises(FileExistsError, match=r"holds other weights \('model.safetensors'\), which would be read"):
        convert(source, tmp_path / "b", to="npz", overwrite=True)
    assert same(load(tmp_path / "b"), tensors(5))


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["{s}", "{t}/x.npz", "--to", "bin"], "x.npz is a name for npz, but bin is asked for: change one of the two"),
        (["{s}", "{t}/x.pt"], "x.pt: .pt files are not written; expected a folder, or a file name that ends with"),
        (["{s}", "{t}/x.h5"], "x.h5: .h5 files are not written"),
        (["{s}", "{t}/x.npz", "--max-shard-size", "5GB"], "a shard size has no effect on a single file"),
        (["{s}", "{t}/x", "--to", "npz", "--max-shard-size", "5GB"], "a shard size has no effect on npz"),
        (["{s}", "{t}/x", "--max-shard-size", "5 gigs"], "max_shard_size is '5 gigs'; expected a positive number of"),
        (["{s}", "{t}/x", "--dialect", "keras"], "dialect is 'keras'; expected one of"),
        (["{s}", "{t}/x", "--to-dialect", "keras"], "dialect is 'keras'; expected one of"),
        (["{s}", ""], "the destination is an empty text"),
    ],
)  # fmt: skip
def test_wrong_calls(
    arguments: list[str], error: str, tmp_path: Path, source: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [text.format(s=source, t=tmp_path) for text in arguments]
    assert main(["convert", *given]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("error: ")
    assert error in printed.err
    assert printed.err.count("\n") == 1
    assert names(tmp_path) == ["source"]


@pytest.mark.parametrize(
    "arguments",
    [[], ["x"], ["x", "y", "--to", "pt"], ["x", "y", "--dtype", "int8"], ["x", "y", "--keep-unknown", "--drop-unknown"],
     ["x", "y", "--over"]],
)  # fmt: skip
def test_calls_that_argparse_refuses(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["convert", *arguments])
    assert stopped.value.code == 2


def test_wrong_arguments_of_the_function(tmp_path: Path, source: Path) -> None:
    for settings in ({"to": "pt"}, {"dtype": "int8"}, {"unknown": "ignore"}):
        ((name, value),) = settings.items()
        with pytest.raises(WrongCall, match=f"{name} is '{value}'; expected one of"):
            convert(source, tmp_path / "x", **settings)


def test_sources_that_are_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "cut.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0{")
    for name in ("nothing", "empty", "cut.safetensors"):
        assert main(["convert", str(tmp_path / name), str(tmp_path / "out")]) == 1
        printed = capsys.readouterr().err
        assert str(tmp_path / name) in printed
        assert printed.count("\n") == 1
    assert not (tmp_path / "out").exists()


# ------------------------------------------------------------------------------------------------------- all or nothing

PLACES: dict[str, dict[str, object]] = {
    "new": {},
    "shards": {"max_shard_size": 100},
    "bin": {"to": "bin"},
    "npz": {"to": "npz"},
    "file.safetensors": {},
    "file.bin": {},
    "file.npz": {},
}


def state_of(place: Path) -> dict[str, torch.Tensor] | None:
    try:
        return load(place)
    except FileNotFoundError:
        return None


@pytest.mark.parametrize(("name", "existing"), [("new", False), *((name, True) for name in PLACES)])
def test_killed(name: str, existing: bool, tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At each of the first steps, and at every seventh (test_saving.py kills a transaction at all of them)."""
    # The process dies here, the machine does not: without waiting for the disk the test is several times faster.
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    outcomes = []
    for kill_at in (*range(1, 10), *range(10, 400, 7)):
        folder = tmp_path / str(kill_at)
        folder.mkdir()
        place = folder / name
        if existing:
            save_file(tensors(7), folder / "old.safetensors")
            convert(folder / "old.safetensors", place, **PLACES[name])
        action = functools.partial(convert, source, place, overwrite=True, **PLACES[name])
        died = steps_of(action, kill_at)
        read = state_of(place)
        is_old = same(read, tensors(7)) if existing and read is not None else read is None
        assert is_old or (read is not None and same(read, tensors()))
        outcomes.append("old" if is_old else "new")
        if not is_old and place.is_dir():  # the files beside it changed in the same moment
            assert all((place / beside).read_bytes() == content for beside, content in CONTENT.items())
            assert "- source: `source`" in (place / "README.md").read_text()
        if not died:
            break
    assert not died
    assert len(outcomes) > 3
    assert (outcomes[0], outcomes[-1]) == ("old", "new")
    assert outcomes == sorted(outcomes, reverse=True)


@pytest.mark.parametrize("name", list(PLACES))
def test_a_full_disk(name: str, tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = tmp_path / name
    save_file(tensors(7), tmp_path / "old.safetensors")
    convert(tmp_path / "old.safetensors", place, **PLACES[name])
    before = everything(tmp_path)
    for fail_at in range(1, 100):
        count = 0

        def counted(plain: Callable) -> Callable:
            def call(*arguments, **keywords):
                nonlocal count
                count += 1
                if count == fail_at:  # noqa: B023
                    raise OSError(28, "No space left on device")
                return plain(*arguments, **keywords)

            return call

        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", counted(os.fsync))
            code = main(["convert", str(source), str(place), "--overwrite", "--quiet", *options(PLACES[name])])
        if code == 0:
            break
        assert everything(tmp_path) == before or same(load(place), tensors())
        if same(load(place), tensors()):
            before = everything(tmp_path)
    assert fail_at > 1
    assert same(load(place), tensors())


def options(settings: dict[str, object]) -> list[str]:
    return [text for name, value in settings.items() for text in (f"--{name.replace('_', '-')}", str(value))]


def test_a_source_that_is_damaged_in_the_middle(tmp_path: Path, source: Path) -> None:
    """The checksum of a .bin is compared when its turn comes: the destination is what it was."""
    file = source / "pytorch_model.bin"
    content = bytearray(file.read_bytes())
    at = content.index(tensors()["pooler.dense.bias"].numpy().tobytes())
    content[at] ^= 1
    file.write_bytes(content)
    for place in ("b", "c.npz"):
        assert main(["convert", str(source), str(tmp_path / place)]) == 1
        assert names(tmp_path) == ["source"]


# --------------------------------------------------------------------------------------------------------------- memory

PEAK = """
import sys
from weights_tools.convert import convert
import torch
torch.set_num_threads(1)
def peak():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM"))
convert("small.safetensors", "first." + sys.argv[2], **eval(sys.argv[3]))  # imports, and what they hold
before = peak()
convert("large." + sys.argv[1], "result." + sys.argv[2], **eval(sys.argv[3]))
print(peak() - before)
"""


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="reads the peak of the memory from /proc")  # noqa: PTH110
# Tensors above 32 MB, because memory of such blocks goes back to the system at once when it is freed.
def test_one_tensor_in_memory_at_a_time(tmp_path: Path) -> None:
    """A file of 120 MB whose largest tensor has 40: at most 1.1 times that, beyond what is mapped."""
    largest = 40_000_000
    large = {f"bert.encoder.layer.{n}.output.dense.weight": torch.full((4000, 2500), float(n)) for n in range(3)}
    save_file(large, tmp_path / "large.safetensors")
    save_file({name: tensor[:10, :10].clone() for name, tensor in large.items()}, tmp_path / "small.safetensors")
    convert(tmp_path / "large.safetensors", tmp_path / "large.npz")

    def beyond(read: str, write: str, **settings: str) -> float:
        command = [sys.executable, "-c", PEAK, read, write, repr(settings)]
        environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
        result = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment)
        assert result.returncode == 0, result.stderr
        for file in (*tmp_path.glob("result.*"), *tmp_path.glob("first.*")):
            file.unlink()
        return int(result.stdout) / largest

    assert beyond("safetensors", "safetensors") <= 1.1
    assert beyond("safetensors", "npz") <= 1.1
    assert beyond("npz", "safetensors") <= 1.1
    mapped = 3  # all of the file, because what is transposed is read from the mapped file
    assert beyond("safetensors", "safetensors", into="google-bert") <= 1.1 + mapped
