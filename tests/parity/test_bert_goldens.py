"""minitf against the golden numbers of transformers 4.49.0 (tests/goldens): what transformers 5.x dropped.

Bit for bit where the goldens were made with this torch, numpy and kind of processor and the head size is 16; elsewhere
to within `TOLERANCE` of a tensor's largest value (see tests/goldens/files.py). Where minitf means to differ from
4.49.0, a test here says so and says why.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch

import minitf
from tests.goldens.bert_cases import CASES, HEAD_MASKS
from tests.goldens.bert_runs import Case, Result, build, decode, make_inputs, run
from tests.goldens.files import TOLERANCE, committed_folder, difference, differences, read, same_machine

DESCRIPTION, GOLDENS = read(committed_folder())
EXACT = same_machine(DESCRIPTION["made with"])
BY_NAME = {case.name: case for case in CASES}


def ids(case: Case) -> str:
    return case.name


def cases_of(*runs: str) -> list[Case]:
    return [case for case in CASES if case.run in runs]


FILLS_A_CACHE = (
    "torchscript BertLMHeadModel",
    "tuple BertModel decoder",
    "tuple BertModel cross-attention decoder",
)


def equal_bit_for_bit(case: Case) -> bool:
    """Whether the arithmetic is the same operation by operation.

    It is not where the head size is 8 (`rounded`: 4.49 divides by sqrt(8), minitf multiplies by its inverse), nor for
    relative_key_query, where three scores are added up: (words + query) + key in 4.49, words + (query + key) in minitf,
    whose attention functions take one finished bias. Nor where the call fills a cache: 4.49 multiplies by the keys as
    the projection left them, 5.x and minitf by the cache's contiguous copy, which torch's product may round otherwise.
    """
    assert set(FILLS_A_CACHE) <= {case.name for case in CASES}
    if case.name in FILLS_A_CACHE:
        return False
    return not case.options.get("rounded") and case.config.get("position_embedding_type") != "relative_key_query"


def assert_same_numbers(case: Case, result: Result, golden: Result) -> None:
    exact = EXACT and equal_bit_for_bit(case)
    assert result.tensors.keys() == golden.tensors.keys()
    for name, expected in golden.tensors.items():
        value = difference(result.tensors[name], expected)
        limit = 0.0 if exact else TOLERANCE[expected.dtype]
        assert value <= limit, f"{case.name}: {name} differs by {value:.3g} of its largest value, allowed {limit:.3g}"


# ------------------------------------------------------------------------------------------------------ same numbers


@pytest.mark.parametrize("case", cases_of("forward", "memory", "pruned", "torchscript"), ids=ids)
def test_numbers_and_facts_are_those_of_4_49(case: Case) -> None:
    result, golden = run(minitf, case), GOLDENS[case.name]
    assert json.loads(json.dumps(result.facts)) == golden.facts
    assert_same_numbers(case, result, golden)


@pytest.mark.parametrize("case", cases_of("cached"), ids=ids)
def test_every_way_of_decoding_gives_the_uncached_logits(case: Case) -> None:
    result, golden = run(minitf, case), GOLDENS[case.name]
    uncached = golden.tensors["uncached"]
    assert len(result.tensors) == 4
    for name, value in result.tensors.items():
        assert difference(value, uncached) <= TOLERANCE[uncached.dtype], name


@pytest.mark.parametrize("case", cases_of("cached"), ids=ids)
def test_4_49_is_right_for_pieces_of_one_token_and_wrong_for_longer_ones(case: Case) -> None:
    """The known bug: with a cache, 4.49 gives every query of a piece the position of the last one."""
    golden = GOLDENS[case.name].tensors
    assert difference(golden["cached 2 1 1 1"], golden["uncached"]) <= TOLERANCE[golden["uncached"].dtype]
    assert difference(golden["cached 1 1 1 1 1"], golden["uncached"]) <= TOLERANCE[golden["uncached"].dtype]
    assert difference(golden["cached 2 3"], golden["uncached"]) > 0.01


# ------------------------------------------------------------------------------------------------------------ tuples


@pytest.mark.parametrize("case", cases_of("tuple"), ids=ids)
def test_plain_tuple_holds_the_fields_of_the_output_in_their_order(case: Case) -> None:
    """Fields, kinds, shapes and numbers are those of 4.49; so is the tuple's order, but for `REORDERED` and a None."""
    result, golden = run(minitf, case), GOLDENS[case.name]
    facts = json.loads(json.dumps(result.facts))
    assert facts["type"] == "tuple"
    assert facts["tuple"] == facts["fields of return_dict=True"] == golden.facts["fields of return_dict=True"]
    assert facts["structure"] == golden.facts["structure"]
    assert_same_numbers(case, result, golden)


REORDERED = {"tuple BertModel decoder", "tuple BertModel cross-attention decoder"}


@pytest.mark.parametrize("case", cases_of("tuple"), ids=ids)
def test_where_the_tuple_of_4_49_differs(case: Case) -> None:
    """4.49 builds the tuple and the output class apart from one another, so the two orders disagree in two places:

    * a BertModel decoder puts past_key_values before hidden_states in the tuple, after it in the class;
    * a BertModel without pooler puts None in the pooler's place.

    minitf has one order, that of the class (as transformers 5.x has), and leaves out what is None.
    """
    facts = GOLDENS[case.name].facts
    fields, classic = facts["fields of return_dict=True"], facts["tuple"]
    if case.name in REORDERED:
        assert fields[2:4] == ["hidden_states", "past_key_values"]
        assert classic == [*fields[:2], "past_key_values", "hidden_states", *fields[4:]]
    elif case.name == "tuple BertModel without pooler":
        assert classic == [fields[0], None, *fields[1:]]
    else:
        assert classic == fields


# ---------------------------------------------------------------------------------- further differences, and controls


def test_chunks_need_not_divide_the_length() -> None:
    """4.49 refuses 5 positions in chunks of 2; minitf computes a shorter last chunk, to the same numbers."""
    case = BY_NAME["uneven chunks"]
    result, golden = run(minitf, case), GOLDENS[case.name]
    assert golden.facts == {"chunked": "ValueError"}
    assert result.facts == {"chunked": "equals plain: True"}
    assert_same_numbers(case, result, golden)


@pytest.mark.parametrize("form", HEAD_MASKS)
def test_head_mask_is_not_ignored(form: str) -> None:
    case = BY_NAME[f"head_mask {form} encoder"]
    masked = GOLDENS[case.name].tensors
    unmasked = GOLDENS[f"no head_mask {case.inputs['padding']}"].tensors
    assert difference(masked["last_hidden_state"], unmasked["last_hidden_state"]) > 0.01
    assert np.abs(masked["grad.head_mask"]).min() > 1e-4


def test_head_mask_per_example_has_two_forms() -> None:
    """The classic `[L, B, H, 1, 1]` and minitf's `[B, L, H]` say the same."""
    case = BY_NAME["head_mask [L, B, H, 1, 1] encoder"]
    model, inputs = build(minitf, case), make_inputs(case)
    classic = inputs.pop("head_mask").detach()
    with torch.no_grad():
        one = model(**inputs, head_mask=classic).last_hidden_state
        other = model(**inputs, head_mask=classic[..., 0, 0].transpose(0, 1)).last_hidden_state
    assert torch.equal(one, other)


def test_relative_positions_are_not_ignored() -> None:
    absolute = GOLDENS["no head_mask right"].tensors["last_hidden_state"]
    key = GOLDENS["relative_key encoder right"].tensors["last_hidden_state"]
    both = GOLDENS["relative_key_query encoder right"].tensors["last_hidden_state"]
    assert min(difference(key, absolute), difference(both, absolute), difference(both, key)) > 0.01


def test_a_cache_filled_by_one_piece_continues_with_relative_positions() -> None:
    """Beside the recorded pieces: every split of five tokens into two."""
    for case in cases_of("cached"):
        model, inputs = build(minitf, case), make_inputs(case)
        with torch.no_grad():
            whole = model(**inputs, use_cache=False).logits[inputs["attention_mask"].bool()]
            for first in (1, 2, 3, 4):
                logits = decode(model, inputs, [first, 5 - first])[inputs["attention_mask"].bool()]
                torch.testing.assert_close(logits, whole, rtol=0, atol=1e-5 * whole.abs().max().item())


# ----------------------------------------------------------------------------------------------------- the files


def test_files_are_of_the_cases_in_the_code() -> None:
    written = {
        name: {key: value for key, value in case.items() if key != "facts"}
        for name, case in DESCRIPTION["cases"].items()
    }
    assert written == json.loads(json.dumps({case.name: case.description() for case in CASES}))
    assert DESCRIPTION["made with"]["transformers"] == "4.49.0"


def changed_copy(factor: float) -> dict[str, Result]:
    """The goldens with one number of one tensor multiplied."""
    copies = {name: Result(dict(golden.tensors), golden.facts) for name, golden in GOLDENS.items()}
    tensors = copies["relative_key encoder right"].tensors
    values = tensors["last_hidden_state"].copy()
    place = np.unravel_index(np.abs(values).argmax(), values.shape)
    values[place] *= np.float32(factor)
    tensors["last_hidden_state"] = values
    return copies


@pytest.mark.parametrize(
    ("factor", "exact", "found"),
    [(1.0, True, 0), (1 + 2**-22, True, 1), (1 + 2**-22, False, 0), (1.001, False, 1), (float("nan"), False, 1)],
)
def test_the_comparison_finds_a_changed_number(factor: float, exact: bool, found: int) -> None:
    problems, _ = differences(DESCRIPTION, GOLDENS, DESCRIPTION, changed_copy(factor), exact=exact)
    assert len(problems) == found


def test_the_comparison_finds_a_changed_fact_and_a_missing_case() -> None:
    other: dict[str, Any] = json.loads(json.dumps(DESCRIPTION))
    other["cases"]["prune one head"]["facts"]["pruned_heads"] = {"0": [0]}
    del other["cases"]["uneven chunks"]
    problems, _ = differences(DESCRIPTION, GOLDENS, other, GOLDENS, exact=False)
    assert problems == ["prune one head: description or facts differ", "uneven chunks: description or facts differ"]
