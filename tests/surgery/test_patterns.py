"""The pattern language of module paths: what each sign matches, and that nothing is matched by accident or in vain."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minitf import BertConfig, BertModel
from minitf.patterns import expand, matches

TREE = BertModel(
    BertConfig(
        vocab_size=11, hidden_size=4, num_hidden_layers=3, num_attention_heads=2, intermediate_size=4,
        max_position_embeddings=8,
    )
)  # fmt: skip
NAMES = [name for name, _ in TREE.named_modules()]


@pytest.mark.parametrize(
    ("pattern", "written_out"),
    [
        ("a.b", ["a.b"]),
        ("", [""]),
        ("a.{0,5}.b", ["a.0.b", "a.5.b"]),
        ("a.{0..2}", ["a.0", "a.1", "a.2"]),
        ("a.{7..7}", ["a.7"]),
        ("{query, value}", ["query", "value"]),
        ("{a,b}.{0..1}", ["a.0", "a.1", "b.0", "b.1"]),
        ("**.{a,b*}", ["**.a", "**.b*"]),
    ],
)
def test_braces(pattern: str, written_out: list[str]) -> None:
    assert expand(pattern) == written_out


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("a.{0,1", "brace without its partner"),
        ("a.0}", "brace without its partner"),
        ("a.{0,1}}", "brace without its partner"),
        ("a.{3..1}", r"counts backwards: expected \{1..3\}"),
        ("a.{}", "empty alternative"),
        ("a.{0,}", "empty alternative"),
        ("a.{b,{c}}", "brace within a brace"),
    ],
)
def test_broken_braces(pattern: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        expand(pattern)


def test_signs() -> None:
    assert matches("encoder.layer.*", NAMES) == [f"encoder.layer.{i}" for i in range(3)]
    assert matches("encoder.layer.{0,2}.attention.self", NAMES) == [f"encoder.layer.{i}.attention.self" for i in (0, 2)]
    assert matches("**.query", NAMES) == [f"encoder.layer.{i}.attention.self.query" for i in range(3)]
    assert matches("encoder.layer.1.*.dense", NAMES) == [
        "encoder.layer.1.intermediate.dense",
        "encoder.layer.1.output.dense",
    ]
    assert matches("**.layer.1.**.dense", NAMES) == [
        f"encoder.layer.1.{part}.dense" for part in ("attention.output", "intermediate", "output")
    ]
    assert matches("**", NAMES) == NAMES
    assert matches("", NAMES) == [""]


def test_a_dot_is_a_dot_and_a_part_is_whole() -> None:
    assert matches("a.b", ["a.b", "axb"]) == ["a.b"]
    with pytest.raises(ValueError, match="matches no name"):
        matches("query", NAMES)  # `**.query` is meant
    with pytest.raises(ValueError, match="matches no name"):
        matches("encoder.layer.1", ["encoder.layer.10", "encoder.layer.1.output"])


def test_several_patterns_give_each_name_once_in_the_order_of_the_names() -> None:
    assert matches(["**.layer.2", "**.layer.{0..2}"], NAMES) == [f"encoder.layer.{i}" for i in range(3)]
    assert matches((p for p in ["pooler", "embeddings"]), NAMES) == ["embeddings", "pooler"]


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("encoder.layers.0.attention", r"did you mean 'encoder.layer.0.attention'"),
        (
            "encoder.layer.{0,3}.attention",
            r"'encoder.layer.3.attention' \(of 'encoder.layer.\{0,3\}.attention'\) matches no",
        ),
        ("encoder.layer.7", r"below 'encoder.layer' there are 0, 1, 2"),
        ("encoder.layer.*.atention.self", r"below 'encoder.layer.\*' there are attention, .*did you mean 'attention'"),
        ("**.quary", r"the names end with .*did you mean 'query'"),
        ("zzz", r"the names begin with embeddings, encoder, pooler"),
        (["encoder", "decoder.*"], r"'decoder.\*' matches no name here: the names begin with .*did you mean 'encoder'"),
    ],
)
def test_a_pattern_in_vain_is_an_error_with_near_names(pattern: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        matches(pattern, NAMES)


def test_no_pattern_and_no_names() -> None:
    with pytest.raises(ValueError, match="no pattern is given"):
        matches([], NAMES)
    with pytest.raises(ValueError, match="matches no name"):
        matches("**", [])
    with pytest.raises(TypeError, match="the pattern 3 is no text"):
        matches(["encoder", 3], NAMES)  # type: ignore[list-item]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.text("ab.{}*+([\\ \n", min_size=1, max_size=6), min_size=1, max_size=5))
def test_any_name_without_signs_matches_itself_alone(names: list[str]) -> None:
    for name in names:
        if not set("{}*") & set(name):
            assert matches(name, dict.fromkeys(names)) == [name]
