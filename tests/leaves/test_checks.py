"""Bad inputs: every message names the thing, its value, what was expected and the remedy."""

from __future__ import annotations

import re
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from minitf import checks
from minitf.checks import (
    check_attention_mask,
    check_choices,
    check_embeds,
    check_encoder_inputs,
    check_ids,
    check_length,
    check_model_inputs,
    check_places,
    check_positions,
    tracing,
)

CONFIG = SimpleNamespace(
    vocab_size=10,
    hidden_size=8,
    max_position_embeddings=6,
    type_vocab_size=2,
    position_embedding_type="absolute",
    add_cross_attention=True,
)
RELATIVE = SimpleNamespace(**{**vars(CONFIG), "position_embedding_type": "relative_key"})
ENCODER = SimpleNamespace(**{**vars(CONFIG), "add_cross_attention": False})
IDS = torch.tensor([[1, 2, 3], [4, 5, 6]])
EMBEDS = torch.zeros(2, 3, 8)


def ids_(ids: Any) -> None:
    check_ids(ids, 10, "input_ids", "vocab_size")


def mask_(mask: Any, name: str = "attention_mask") -> Tensor | None:
    return check_attention_mask(mask, batch=2, query_length=3, key_length=5, name=name)


def inputs(
    ids: Any = None, types: Any = None, positions: Any = None, embeds: Any = None, past: int = 0, config: Any = CONFIG
) -> tuple[int, int]:
    return check_model_inputs(config, ids, types, positions, embeds, past)


def negative(place: tuple[int, int], value: int) -> Tensor:
    ids = IDS.clone()
    ids[place] = value
    return ids


def holding(value: float) -> Tensor:
    mask = torch.ones(2, 5)
    mask[1, 2] = value
    return mask


NOT_A_MASK = "expected only 1 (may be attended to) and 0 (may not). For an additive mask"
SHAPES = "this call has batch 2, 3 query and 5 key positions: expected one of [2, 5], [2, 3, 5], [2, 1, 3, 5]."

# call, type of the error, parts of its message: the thing, its value, what was expected, the remedy
CASES: list[tuple[Callable[[], Any], type[Exception], list[str]]] = [
    # ids
    (lambda: ids_([[1, 2]]), TypeError, ["input_ids is a list", "expected an integer tensor", "return_tensors='pt'"]),
    (lambda: ids_(IDS.float()), TypeError, ["input_ids has dtype torch.float32", "torch.int64 or torch.int32"]),
    (lambda: ids_(IDS.bool()), TypeError, ["input_ids has dtype torch.bool", "expected token ids as torch.int64"]),
    (lambda: ids_(IDS.to(torch.int16)), TypeError, ["input_ids has dtype torch.int16"]),
    (lambda: ids_(IDS[0]), ValueError, ["input_ids has shape [3]", "expected [batch, positions]", "ids.unsqueeze(0)"]),
    (lambda: ids_(IDS[None]), ValueError, ["input_ids has shape [1, 2, 3]", "expected [batch, positions]"]),
    (lambda: ids_(IDS[:0]), ValueError, ["input_ids is empty, shape [0, 3]", "there is nothing to compute"]),
    (lambda: ids_(IDS[:, :0]), ValueError, ["input_ids is empty, shape [2, 0]"]),
    (
        lambda: ids_(negative((1, 2), 10)),
        ValueError,
        ["input_ids[1, 2] = 10", "vocab_size is 10: expected 0 to 9", "Does the tokenizer belong to this checkpoint?"],
    ),
    (lambda: ids_(negative((0, 1), -100)), ValueError, ["input_ids[0, 1] = -100", "expected 0 to 9"]),
    # embeddings
    (lambda: check_embeds(IDS, 8), TypeError, ["inputs_embeds is not a floating-point tensor", "hidden_size]"]),
    (lambda: check_embeds([[0.1]], 8), TypeError, ["inputs_embeds is not a floating-point tensor"]),  # type: ignore[arg-type]
    (lambda: check_embeds(EMBEDS[0], 8), ValueError, ["has shape [3, 8]", "[batch, positions, hidden_size = 8]"]),
    (lambda: check_embeds(EMBEDS, 9, name="x"), ValueError, ["x has shape [2, 3, 8]", "hidden_size = 9"]),
    (lambda: check_embeds(EMBEDS[:, :0], 8), ValueError, ["inputs_embeds is empty, shape [2, 0, 8]"]),
    # lengths
    (
        lambda: check_length(600, 512, "input_ids"),
        ValueError,
        ["input_ids has 600 positions; this model has 512 (max_position_embeddings): truncate, or use a longer"],
    ),
    (
        lambda: check_length(2, 8, "inputs_embeds", "n_positions", past=7),
        ValueError,
        ["inputs_embeds has 2 positions after 7 in the cache; this model has 8 (n_positions)"],
    ),
    # positions
    (
        lambda: check_positions(IDS[:, :2], 2, 3, 10),
        ValueError,
        ["position_ids has shape [2, 2]; expected [3], [1, 3] or [2, 3]."],
    ),
    (lambda: check_positions(torch.arange(4), 2, 3, 10), ValueError, ["position_ids has shape [1, 4]; expected [3]"]),
    (lambda: check_positions(IDS, 2, 3, 6), ValueError, ["position_ids[1, 2] = 6", "max_position_embeddings is 6"]),
    (lambda: check_positions(IDS.float(), 2, 3, 9), TypeError, ["position_ids has dtype torch.float32"]),
    (lambda: check_positions([0, 1, 2], 2, 3, 9), TypeError, ["position_ids is a list"]),  # type: ignore[arg-type]
    # masks
    (lambda: mask_([[1] * 5] * 2), TypeError, ["attention_mask is a list; expected a tensor"]),
    *(
        (lambda shape=shape: mask_(torch.ones(shape)), ValueError, [f"attention_mask has shape {list(shape)}", SHAPES])
        for shape in [
            (2, 3),
            (5,),
            (1, 5),
            (2, 1),
            (2, 5, 5),
            (1, 3, 5),
            (2, 3, 1),
            (1, 1, 3, 5),
            (2, 1, 1, 5),
            (2, 4, 3, 5),
        ]
    ),
    (lambda: mask_(torch.ones(2, 4), name="encoder_attention_mask"), ValueError, ["encoder_attention_mask has shape"]),
    *(
        (lambda value=value: mask_(holding(value)), ValueError, [f"attention_mask holds {value}", NOT_A_MASK])
        for value in (-10000.0, 0.5, 2.0, float("nan"), float("inf"), float("-inf"))
    ),
    (lambda: mask_(torch.full((2, 5), 2)), ValueError, ["attention_mask holds 2", "minitf.masks.from_additive(mask)"]),
    # the inputs of a model together
    (lambda: inputs(), ValueError, ["exactly one of input_ids and inputs_embeds is needed, and neither is given"]),
    (lambda: inputs(IDS, embeds=EMBEDS), ValueError, ["exactly one of", "and both are given"]),
    (lambda: inputs(IDS + 5), ValueError, ["input_ids[1, 1] = 10", "vocab_size is 10"]),
    (lambda: inputs(IDS, past=4), ValueError, ["input_ids has 3 positions after 4 in the cache; this model has 6"]),
    (lambda: inputs(embeds=EMBEDS, past=4), ValueError, ["inputs_embeds has 3 positions after 4 in the cache"]),
    (lambda: inputs(embeds=EMBEDS[:, :, :7]), ValueError, ["inputs_embeds has shape [2, 3, 7]"]),
    (lambda: inputs(IDS, IDS), ValueError, ["token_type_ids[0, 1] = 2", "type_vocab_size is 2: expected 0 to 1"]),
    (lambda: inputs(IDS, IDS[:1] * 0), ValueError, ["token_type_ids has shape [1, 3]; input_ids has [2, 3]"]),
    (lambda: inputs(None, IDS[:1] * 0, embeds=EMBEDS), ValueError, ["[1, 3]; inputs_embeds has [2, 3]"]),
    (lambda: inputs(IDS, positions=IDS), ValueError, ["position_ids[1, 2] = 6", "max_position_embeddings is 6"]),
    (
        lambda: inputs(IDS, positions=IDS * 0, config=RELATIVE),
        ValueError,
        ["position_ids have no effect", "'relative_key'", "Leave them out"],
    ),
    # the encoder's side
    (
        lambda: check_encoder_inputs(CONFIG, None, torch.ones(2, 3)),
        ValueError,
        ["encoder_attention_mask is given without encoder_hidden_states: it would have no effect"],
    ),
    (
        lambda: check_encoder_inputs(ENCODER, EMBEDS, None),
        ValueError,
        ["encoder_hidden_states need a decoder with cross-attention", "config.add_cross_attention = True"],
    ),
    (lambda: check_encoder_inputs(CONFIG, EMBEDS[0], None), ValueError, ["encoder_hidden_states has shape [3, 8]"]),
    (lambda: check_encoder_inputs(CONFIG, IDS, None), TypeError, ["encoder_hidden_states is not a floating-point"]),
    (lambda: check_choices(IDS, None), ValueError, ["input_ids [batch, choices, positions]", "got [2, 3]"]),
    (lambda: check_choices(None, None), ValueError, ["input_ids [batch, choices, positions]", "got neither"]),
    (
        lambda: check_choices(IDS[None], None, IDS[:, None]),
        ValueError,
        ["attention_mask has shape [2, 1, 3]", "input_ids has batch 1 and 2 choices", "expected [1, 2, positions]"],
    ),
    # places in a sequence of 3
    *(
        (lambda value=value: check_places(torch.tensor(value), 3, "places"), error, [f"places {part}", expected])
        for value, error, part, expected in (
            ([0, 3], ValueError, "= [0, 3]", "expected positions from -3 to 2"),
            ([-4], ValueError, "= [-4]", "expected positions from -3 to 2"),
            (1, ValueError, "has shape []", "expected [positions], at least one"),
            ([[1]], ValueError, "has shape [1, 1]", "expected [positions], at least one"),
            ([1.0], TypeError, "has dtype torch.float32", "torch.int64 or torch.int32"),
            ([True], TypeError, "has dtype torch.bool", "torch.int64 or torch.int32"),
        )
    ),
    (
        lambda: check_places(torch.tensor([], dtype=torch.long), 3, "empty places"),
        ValueError,
        ["empty places has shape [0]", "at least one"],
    ),
]


@pytest.mark.parametrize(("call", "error", "parts"), CASES, ids=[case[2][0][:60] for case in CASES])
def test_message(call: Callable[[], Any], error: type[Exception], parts: list[str]) -> None:
    with pytest.raises(error) as caught:
        call()
    assert type(caught.value) is error
    for part in parts:
        assert part in str(caught.value)


def test_every_public_check_has_its_cases() -> None:
    source = " ".join(str(case[0].__code__.co_names) for case in CASES)
    helpers = {"check_ids": "ids_", "check_attention_mask": "mask_", "check_model_inputs": "inputs"}
    for name in set(checks.__all__) - {"tracing", "merge_choices"}:
        assert helpers.get(name, name) in source


# --------------------------------------------------------------------------------------------------------------------
# What passes


def test_good_inputs_pass() -> None:
    for dtype in (torch.int64, torch.int32):
        ids_(IDS.to(dtype))
    ids_(torch.tensor([[0, 9]]))
    check_length(512, 512, "input_ids")
    check_length(1, 8, "input_ids", past=7)
    for positions in (torch.arange(3), torch.arange(3)[None], IDS, IDS.int()):
        check_positions(positions, 2, 3, 10)
    for dtype in (torch.float32, torch.float64, torch.bfloat16, torch.float16):
        check_embeds(EMBEDS.to(dtype), 8)
    assert inputs(IDS) == inputs(embeds=EMBEDS) == (2, 3)
    assert inputs(IDS, IDS * 0, torch.arange(3)) == (2, 3)
    assert inputs(IDS, past=3) == (2, 3)
    check_encoder_inputs(CONFIG, EMBEDS, torch.ones(2, 3))
    check_encoder_inputs(ENCODER, None, None)


@pytest.mark.parametrize("dtype", [torch.bool, torch.int64, torch.uint8, torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize("shape", [(2, 5), (2, 3, 5), (2, 1, 3, 5)])
def test_masks_of_every_kind_become_booleans_of_their_shape(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    expected = torch.rand(*shape, generator=torch.Generator().manual_seed(0)) < 0.5
    given = expected.to(dtype)
    kept = given.clone()
    checked = mask_(given)
    assert checked is not None
    assert checked.dtype == torch.bool
    assert torch.equal(checked, expected)
    assert torch.equal(given, kept)


def test_a_mask_that_hides_nothing_is_no_mask() -> None:
    assert mask_(None) is None
    for shape in [(2, 5), (2, 3, 5), (2, 1, 3, 5)]:
        assert mask_(torch.ones(shape)) is None
        hidden = mask_(torch.zeros(shape))
        assert hidden is not None
        assert not hidden.any()


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore:.*torch.jit.trace.*:DeprecationWarning")
def test_values_are_not_read_while_a_graph_is_recorded_but_shapes_are_checked() -> None:
    assert not tracing()
    seen = []

    def checked(ids: Tensor, mask: Tensor) -> Tensor:
        seen.append(tracing())
        check_ids(ids, 10, "input_ids", "vocab_size")
        joined = check_attention_mask(mask, batch=2, query_length=3, key_length=5)
        assert joined is not None  # not even "it hides nothing" is looked for
        return ids + joined.sum()

    example = (IDS, torch.ones(2, 5, dtype=torch.long))
    traced = torch.jit.trace(checked, example, check_trace=False)
    assert traced(*example).tolist() == (IDS + 10).tolist()
    compiled = torch.compile(checked, backend="eager", fullgraph=True)
    assert compiled(*example).tolist() == (IDS + 10).tolist()
    assert seen
    assert all(seen)
    with pytest.raises(ValueError, match=re.escape(SHAPES)):
        torch.jit.trace(checked, (IDS, torch.ones(2, 4)), check_trace=False)
