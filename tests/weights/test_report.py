"""The load report: folding, exact text, JSON."""

from __future__ import annotations

import itertools
import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from weights_tools.report import LoadReport, fold, fold_groups


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ([], []),
        (["a"], ["a"]),
        (["a", "b"], ["a", "b"]),
        (["x.weight", "x.bias"], ["x.{weight,bias}"]),
        (["x.bias", "x.weight", "x.bias"], ["x.{bias,weight}"]),
        (
            [f"bert.encoder.layer.{i}.attention.self.query.{kind}" for i in range(12) for kind in ("weight", "bias")],
            ["bert.encoder.layer.{0..11}.attention.self.query.{weight,bias}"],
        ),
        ([f"h.{i}.w" for i in (0, 1, 2, 5, 7, 8)], ["h.{0..2,5,7..8}.w"]),
        (["h.3.w"], ["h.3.w"]),
        (["h.0.w", "h.0.b", "h.1.w"], ["h.0.{w,b}", "h.1.w"]),
        (["blocks.0", "blocks.1"], ["blocks.{0..1}"]),
        ([f"h.{i}.e.{j}.w" for i in range(2) for j in range(3)], ["h.{0..1}.e.{0..2}.w"]),
        (["h.01.w", "h.1.w"], ["h.01.w", "h.1.w"]),
        (["z", "h.1.w", "a", "h.0.w"], ["z", "h.{0..1}.w", "a"]),
        (["a..b", "a.0..1"], ["a..b", "a.0..1"]),
        (
            [f"bert/encoder/layer_{i}/output/dense/{kind}" for i in range(12) for kind in ("kernel", "bias")],
            ["bert/encoder/layer_{0..11}/output/dense/{kernel,bias}"],
        ),
        ([f"model/h{i}/ln_{j}/g" for i in range(2) for j in (1, 2)], ["model/h{0..1}/ln_{1..2}/g"]),
        (["a/layer_._0/b:0", "a/layer_._1/b:0", "a/pooler"], ["a/layer_._{0..1}/b:0", "a/pooler"]),
        (["x/h0/w", "x.h0.w", "x/h1/w", "x.h1.w"], ["x/h{0..1}/w", "x.h0.w", "x.h1.w"]),
        (["x/0/w", "x.0.w", "x/1/w", "x.1.w"], ["x/{0..1}/w", "x.{0..1}.w"]),
        (["h/07/w", "h/08/w", "h/1/w"], ["h/0{7..8}/w", "h/1/w"]),
    ],
)
def test_fold(names: list[str], expected: list[str]) -> None:
    assert fold(names) == expected


def unfold(line: str) -> list[str]:
    """The names that a folded line stands for."""
    parts: list[list[str]] = []
    for part in re.split(r"(\{[^}]*\})", line):
        if not part.startswith("{"):
            parts.append([part])
            continue
        choices = []
        for item in part[1:-1].split(","):
            ends = re.fullmatch(r"(\d+)\.\.(\d+)", item)
            choices += [str(number) for number in range(int(ends[1]), int(ends[2]) + 1)] if ends else [item]
        parts.append(choices)
    return ["".join(pieces) for pieces in itertools.product(*parts)]


PARTS = st.lists(st.sampled_from(["0", "1", "2", "10", "a", "w", "b", "h0", "h1", "h01"]), min_size=1, max_size=4)


@given(st.sets(st.one_of(PARTS.map(".".join), PARTS.map("/".join))))
def test_a_fold_stands_for_exactly_its_names(names: set[str]) -> None:
    lines = fold(sorted(names))
    assert sorted(name for line in lines for name in unfold(line)) == sorted(names)
    groups = fold_groups(sorted(names))
    assert [line for line, _ in groups] == lines
    assert all(sorted(unfold(line)) == sorted(members) for line, members in groups)


def layers(kind: str) -> list[str]:
    return [f"bert.encoder.layer.{layer}.{kind}" for layer in range(2)]


def test_clean_report() -> None:
    report = LoadReport("folder", files=["model.safetensors"], format="safetensors", dialect="hf")
    assert report.ok
    assert str(report) == "folder (safetensors, names: hf): everything fits"
    assert str(LoadReport("folder")) == "folder: everything fits"


def test_full_report() -> None:
    report = LoadReport(
        "folder",
        format="pytorch",
        dialect="hf-legacy",
        renamed=[
            *[(f"{name}.LayerNorm.gamma", f"{name}.LayerNorm.weight") for name in layers("output")],
            *[(f"{name}.LayerNorm.beta", f"{name}.LayerNorm.bias") for name in layers("output")],
        ],
        dropped=[("bert.embeddings.position_ids", "a constant"), ("cls.a", "no head"), ("cls.b", "no head")],
        missing=["classifier.weight", "classifier.bias"],
        unexpected=["strange"],
        misshapen=[(name, (3, 4), (5, 4)) for name in layers("output.dense.weight")],
        converted=[(name, "float16", "float32") for name in layers("output.dense.bias")],
        config_unknown={"colour": "blue"},
        notes=["both formats are present"],
    )
    assert not report.ok
    assert str(report) == (
        "folder (pytorch, names: hf-legacy): not everything fits\n"
        "  missing, newly initialised (2):\n"
        "    classifier.{weight,bias}\n"
        "  misshapen, newly initialised (2):\n"
        "    bert.encoder.layer.{0..1}.output.dense.weight: [3, 4] in the checkpoint, [5, 4] in the model\n"
        "  unexpected (1):\n"
        "    strange\n"
        "  renamed (4):\n"
        "    bert.encoder.layer.{0..1}.output.LayerNorm.{gamma,beta} -> "
        "bert.encoder.layer.{0..1}.output.LayerNorm.{weight,bias}\n"
        "  dropped (3):\n"
        "    bert.embeddings.position_ids: a constant\n"
        "    cls.{a,b}: no head\n"
        "  converted (2):\n"
        "    bert.encoder.layer.{0..1}.output.dense.bias: float16 -> float32\n"
        "  unknown keys in config.json, kept (1):\n"
        "    colour = 'blue'\n"
        "  notes:\n"
        "    both formats are present"
    )


def test_renames_are_folded_only_where_both_sides_are() -> None:
    """Equal numbers of lines on both sides are not enough: here they would pair wrong names."""
    pairs = [("a.w", "x.w"), ("a.b", "y.b"), ("b.w", "x.b"), ("c.w", "z")]
    assert str(LoadReport("f", renamed=pairs)).endswith(
        "  renamed (4):\n    a.w -> x.w\n    a.b -> y.b\n    b.w -> x.b\n    c.w -> z"
    )
    layers = [(f"blocks.{layer}.attn.{old}", f"h.{layer}.{new}") for layer in range(3)
              for old, new in (("W_O", "c_proj.weight"), ("W_Q", "c_attn.weight"))]  # fmt: skip
    assert str(LoadReport("f", renamed=layers)).endswith(
        "  renamed (6):\n    blocks.{0..2}.attn.W_O -> h.{0..2}.c_proj.weight\n"
        "    blocks.{0..2}.attn.W_Q -> h.{0..2}.c_attn.weight"
    )
    tensorflow = [(f"model/h{layer}/ln_1/{old}", f"h.{layer}.ln_1.{new}") for layer in range(3)
                  for old, new in (("g", "weight"), ("b", "bias"))]  # fmt: skip
    assert str(LoadReport("f", renamed=tensorflow)).endswith("model/h{0..2}/ln_1/{g,b} -> h.{0..2}.ln_1.{weight,bias}")


def test_notes_and_drops_do_not_make_it_unfit() -> None:
    assert LoadReport("x", dropped=[("a", "b")], renamed=[("a", "b")], notes=["n"], converted=[("a", "b", "c")]).ok
    for section in ({"missing": ["a"]}, {"unexpected": ["a"]}, {"misshapen": [("a", (1,), (2,))]}):
        assert not LoadReport("x", **section).ok


def test_long_sections_are_cut_but_counted() -> None:
    text = str(LoadReport("x", unexpected=[f"name{index}" for index in range(100)]))
    assert "unexpected (100):" in text
    assert text.endswith("    name39\n    ... and 60 more lines")


def test_json() -> None:
    report = LoadReport("x", misshapen=[("a", (1,), (2, 3))], config_unknown={"k": [1]})
    assert json.loads(json.dumps(report.to_dict())) == {
        "checkpoint": "x",
        "files": [],
        "format": "",
        "dialect": "",
        "renamed": [],
        "dropped": [],
        "missing": [],
        "unexpected": [],
        "misshapen": [["a", [1], [2, 3]]],
        "converted": [],
        "config_unknown": {"k": [1]},
        "notes": [],
        "refused": False,
        "ok": False,
    }
