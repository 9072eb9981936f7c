"""Dumps: what is written is read; name maps; errors name what is wrong and the remedy."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file
from safetensors.torch import load_file

from minitf.parity.dump_writer import DumpWriter
from minitf.parity.dumps import Dump, NameMap, write_dump
from tests.support import REPOSITORY


def test_every_dtype_comes_back(tmp_path: Path) -> None:
    written = {
        **{f"x.{kind}": torch.tensor([[1.5, -2.0]], dtype=getattr(torch, kind)) for kind in ("float16", "bfloat16")},
        **{f"x.{kind}": torch.tensor([[1.5, -2.0]], dtype=getattr(torch, kind)) for kind in ("float32", "float64")},
        "x.scalar": torch.tensor(3.0),
        "x.empty": torch.zeros(0, 2),
        "input_ids": torch.tensor([[1, 2]]),
    }
    write_dump(tmp_path / "a.safetensors", written)
    assert all(torch.equal(value, written[name]) for name, value in load_file(tmp_path / "a.safetensors").items())
    with Dump(tmp_path / "a.safetensors") as dump:
        assert set(dump) == set(written) - {"input_ids"}
        assert all(torch.equal(dump.read(name), value) for name, value in written.items())
        assert dump["x.float32"] == (1, 2)
        assert dump.dtype == torch.float32  # the most frequent: with the scalar and the empty array there are three


def test_the_writer_takes_arrays_in_any_order_and_layout(tmp_path: Path) -> None:
    values = np.arange(6, dtype=np.float32).reshape(2, 3)
    with DumpWriter(tmp_path / "a.safetensors", dtype="float16") as dump:
        assert dump.add("plain.output", values) is values
        dump.add("turned.output", values.T)
        dump.add("big.output", values.astype(">f4"))
        dump.add("list.output", [1.0, 2.0])
        dump.add("yes.output", values > 2)
    with Dump(tmp_path / "a.safetensors") as read:
        assert torch.equal(read.read("plain.output"), torch.from_numpy(values))
        assert torch.equal(read.read("turned.output"), torch.from_numpy(values).t())
        assert torch.equal(read.read("big.output"), torch.from_numpy(values))
        assert read.read("list.output").tolist() == [1.0, 2.0]
        assert read.dtype == torch.float16  # as the writer said


def test_the_writer_needs_numpy_alone() -> None:
    code = (
        "import sys, runpy; runpy.run_path('minitf/parity/dump_writer.py');"
        "print(*[name for name in ('torch', 'minitf', 'safetensors') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_a_name_is_written_once_and_what_is_no_array_is_refused(tmp_path: Path) -> None:
    dump = DumpWriter(tmp_path / "a.safetensors")
    dump.add("x.output", np.zeros(2, np.float32))
    with pytest.raises(ValueError, match=r"'x\.output' is in the dump already"):
        dump.add("x.output", np.zeros(2, np.float32))
    with pytest.raises(TypeError, match="dtype <U3: expected one of bool"):
        dump.add("y.output", np.array(["one"]))
    with pytest.raises(ValueError, match="dtype = 'half': expected float32"):
        DumpWriter(tmp_path / "b.safetensors", dtype="half")
    dump.abandon()


def test_an_exception_leaves_no_half_dump(tmp_path: Path) -> None:
    def fails() -> None:
        with DumpWriter(tmp_path / "a.safetensors") as dump:
            dump.add("x.output", np.zeros(1 // len(list(dump.path.parent.glob("*.safetensors"))), np.float32))

    with pytest.raises(ZeroDivisionError):
        fails()
    assert list(tmp_path.iterdir()) == []


def test_npz_and_safetensors_of_others(tmp_path: Path) -> None:
    arrays = {"input_ids": np.array([[1, 2]], np.int32), "past_length": np.array(1), "x.output": np.ones((1, 2))}
    np.savez(tmp_path / "a.npz", **arrays)
    save_file(arrays, tmp_path / "b.safetensors", metadata={"dtype": "bfloat16"})
    for name, dtype in (("a.npz", torch.float64), ("b.safetensors", torch.bfloat16)):
        with Dump(tmp_path / name) as dump:
            assert dump.inputs["input_ids"].dtype == torch.int64
            assert dump.past_length == 1
            assert dump.dtype == dtype
            assert list(dump) == ["x.output"]
    save_file(arrays, tmp_path / "c.safetensors", metadata={"dtype": "fp8"})
    with pytest.raises(ValueError, match="its metadata say dtype 'fp8'; expected one of float64"):
        Dump(tmp_path / "c.safetensors")


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("input_ids", np.array([[1.0, 2.5]]), "'input_ids' holds numbers that are not whole; expected integers"),
        ("attention_mask", np.array([[1.0, np.nan]]), "'attention_mask' holds numbers that are not whole"),
        ("past_length", np.array(1.5), r"past_length is 1\.5; expected one whole number"),
        ("past_length", np.array([1, 2]), r"past_length is \[1, 2\]; expected one whole number"),
        ("logits", np.array([1j]), "'logits' holds complex numbers"),
    ],
)
def test_numbers_that_would_be_cut_are_refused(tmp_path: Path, name: str, value: np.ndarray, message: str) -> None:
    np.savez(tmp_path / "a.npz", **{"input_ids": np.array([[1.0, 2.0]]), name: value})
    with pytest.raises(ValueError, match=message):
        Dump(tmp_path / "a.npz")


def test_a_name_map_renames_numbers_and_transposes(tmp_path: Path) -> None:
    value = torch.arange(24.0).reshape(2, 3, 4)
    write_dump(tmp_path / "a.safetensors", {"b0/q": value, "b1/q": value, "time": torch.ones(1), "same.output": value})
    rows = {"b{}/q": {"name": "h.{}.attn.query", "axes": [2, 0, 1]}, "b1/q": "special.output", "time": None}
    (tmp_path / "names.json").write_text(json.dumps(rows))
    with Dump(tmp_path / "a.safetensors", tmp_path / "names.json") as dump:
        assert dict(dump) == {"h.0.attn.query": (4, 2, 3), "special.output": (2, 3, 4), "same.output": (2, 3, 4)}
        assert torch.equal(dump.read("h.0.attn.query"), value.permute(2, 0, 1))
        with pytest.raises(KeyError, match="no 'time'"):
            dump.read("time")


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ({"b0/k": "x.output"}, r"'b0/k' fits no array of the dump; did you mean 'b0/q'\?"),
        ({"b0/q": "x.output", "b1/q": "x.output"}, r"'b0/q' and 'b1/q' are both 'x\.output'"),
        ({"b{}/q": "x.output"}, "do not have the same number of {}"),
        ({"b0/q": {"name": "x.output", "axes": [0, 0, 1]}}, "each axis once"),
        ({"b0/q": {"name": "x.output", "axis": [0, 1, 2]}}, "expected"),
        ({"b0/q": {"name": "x.output", "axes": [0, 1]}}, r"has shape \(2, 3, 4\); the name map orders 2 axes"),
        ({"b0/q": 3}, "expected a name"),
    ],
)
def test_a_name_map_that_does_not_fit_is_an_error(tmp_path: Path, rows: dict[str, object], message: str) -> None:
    value = torch.zeros(2, 3, 4)
    write_dump(tmp_path / "a.safetensors", {"b0/q": value, "b1/q": value})
    with pytest.raises(ValueError, match=message):
        Dump(tmp_path / "a.safetensors", rows)


def test_a_file_that_is_no_name_map(tmp_path: Path) -> None:
    for text, message in (("{", "is not JSON"), ("[1]", "holds a JSON list")):
        (tmp_path / "names.json").write_text(text)
        with pytest.raises(ValueError, match=message):
            NameMap.read(tmp_path / "names.json")
