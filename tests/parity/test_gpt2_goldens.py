"""minitf's GPT-2 against the golden numbers of transformers 4.49.0 (tests/goldens): what transformers 5.x dropped.

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
from tests.goldens.bert_cases import HEAD_MASKS
from tests.goldens.bert_runs import Case, Result
from tests.goldens.files import TOLERANCE, committed_folder, difference, differences, read, same_machine
from tests.goldens.gpt2_cases import CASES
from tests.goldens.gpt2_runs import build, make_inputs, run

DESCRIPTION, GOLDENS = read(committed_folder(), "gpt2")
EXACT = same_machine(DESCRIPTION["made with"])
BY_NAME = {case.name: case for case in CASES}
WHOLE_LAYER = "prune a whole layer"
WITH_CROSS_CACHE = ("tuple GPT2Model cross-attention", "tuple GPT2LMHeadModel cross-attention")


def cases_of(*runs: str) -> list[Any]:
    return [pytest.param(case, id=case.name) for case in CASES if case.run in runs and case.name != WHOLE_LAYER]


def assert_same_numbers(case: Case, result: Result, golden: Result) -> None:
    """`rounded`: 4.49 divides by sqrt(8), minitf multiplies by its inverse.

    Nor is it bit for bit where the call fills a cache: 4.49 multiplies by the keys as the projection left them, 5.x and
    minitf by the cache's contiguous copy, which torch's product may round otherwise.
    """
    exact = EXACT and not case.options.get("rounded") and not case.config.get("use_cache")
    assert result.tensors.keys() == golden.tensors.keys()
    for name, expected in golden.tensors.items():
        value = difference(result.tensors[name], expected)
        limit = 0.0 if exact else TOLERANCE[expected.dtype]
        assert value <= limit, f"{case.name}: {name} differs by {value:.3g} of its largest value, allowed {limit:.3g}"


@pytest.mark.parametrize("case", cases_of("forward", "pruned"))
def test_numbers_and_facts_are_those_of_4_49(case: Case) -> None:
    result, golden = run(minitf, case), GOLDENS[case.name]
    assert json.loads(json.dumps(result.facts)) == golden.facts
    assert_same_numbers(case, result, golden)


@pytest.mark.parametrize("case", cases_of("tuple"))
def test_plain_tuple_holds_the_fields_of_the_output_in_their_order(case: Case) -> None:
    """Fields, order, kinds, shapes and numbers are those of 4.49, but for what the two tests below name."""
    result, golden = run(minitf, case), GOLDENS[case.name]
    facts = json.loads(json.dumps(result.facts))
    assert facts["type"] == golden.facts["type"] == "tuple"
    assert facts["tuple"] == facts["fields of return_dict=True"] == golden.facts["fields of return_dict=True"]
    if case.name != "tuple GPT2ForQuestionAnswering":
        assert facts["tuple"] == golden.facts["tuple"]
    if case.name in WITH_CROSS_CACHE:
        facts["structure"]["past_key_values"] = [layer[:2] for layer in facts["structure"]["past_key_values"]]
    assert facts["structure"] == golden.facts["structure"]
    assert_same_numbers(case, result, golden)


def test_the_tuple_of_question_answering_loses_no_hidden_states() -> None:
    """4.49 cuts two values off the trunk's tuple, the second of which is the cache: or, without one, the states."""
    facts = GOLDENS["tuple GPT2ForQuestionAnswering"].facts
    assert "hidden_states" in facts["fields of return_dict=True"]
    assert "hidden_states" not in facts["tuple"]


@pytest.mark.parametrize("name", WITH_CROSS_CACHE)
def test_the_cache_holds_the_encoders_keys_too(name: str) -> None:
    """4.49 computes them again at every step; minitf keeps them, so a layer has four entries instead of two."""
    facts = run(minitf, BY_NAME[name]).facts
    assert [len(layer) for layer in facts["structure"]["past_key_values"]] == [4, 4]
    assert [len(layer) for layer in GOLDENS[name].facts["structure"]["past_key_values"]] == [2, 2]


def test_a_layer_without_heads_works() -> None:
    """4.49 prunes all heads of a layer and then fails in the forward; minitf gives the numbers of the masked model."""
    case, golden = BY_NAME[WHOLE_LAYER], GOLDENS[WHOLE_LAYER]
    result = run(minitf, case)
    assert golden.facts["error"] == "ValueError"
    for key in ("pruned_heads", "shapes"):
        assert result.facts[key] == golden.facts[key]
    assert result.facts["the model with these heads masked gives the same"] is True
    assert result.facts["a model built from the pruned config gives the same"] is True
    masked = golden.tensors["masked instead"]
    assert difference(result.tensors["last_hidden_state"], masked) <= TOLERANCE[masked.dtype]


@pytest.mark.parametrize("form", HEAD_MASKS)
def test_head_mask_is_not_ignored(form: str) -> None:
    case = BY_NAME[f"head_mask {form} trunk"]
    masked, unmasked = GOLDENS[case.name].tensors, GOLDENS[f"no head_mask {case.inputs['padding']}"].tensors
    assert difference(masked["last_hidden_state"], unmasked["last_hidden_state"]) > 0.01
    assert np.abs(masked["grad.head_mask"]).min() > 1e-4


@pytest.mark.parametrize("case", cases_of("forward"))
def test_sdpa_gives_the_same_numbers(case: Case) -> None:
    """A head mask, and every scaling, under the other attention function: 4.49 ignored two of them there."""
    model, inputs = build(minitf, case, attn_implementation="sdpa"), make_inputs(case)
    inputs.pop("output_attentions", None)
    golden = GOLDENS[case.name].tensors
    name = next(name for name in ("loss", "mc_logits", "last_hidden_state") if name in golden)
    with torch.no_grad():
        value = model(**inputs)[name]
    if value.shape != golden[name].shape:  # per token: recorded at attended positions
        value = value[inputs["attention_mask"].bool()]
    assert difference(value.numpy(), golden[name]) <= TOLERANCE[golden[name].dtype]


def test_head_mask_per_example_has_two_forms() -> None:
    """The classic `[L, B, H, 1, 1]` and minitf's `[B, L, H]` say the same."""
    case = BY_NAME["head_mask [L, B, H, 1, 1] trunk"]
    model, inputs = build(minitf, case), make_inputs(case)
    classic = inputs.pop("head_mask").detach()
    with torch.no_grad():
        one = model(**inputs, head_mask=classic).last_hidden_state
        other = model(**inputs, head_mask=classic[..., 0, 0].transpose(0, 1)).last_hidden_state
    assert torch.equal(one, other)


def test_head_masks_beside_pruned_heads_count_the_unpruned_heads() -> None:
    """4.49 cannot mask a pruned model; here the mask keeps its numbers, pruned heads' factors are without use."""
    case = BY_NAME["prune two layers"]
    model, inputs = build(minitf, case), make_inputs(case)
    mask = torch.tensor([[0.5, 1.0, 0.25, 1.0], [1.0, 0.0, 1.0, 2.0]])
    pruned = mask.clone()
    pruned[0, [1, 3]] = pruned[1, 0] = 0.0
    with torch.no_grad():
        masked = model(**inputs, head_mask=pruned).last_hidden_state
        model.prune_heads({0: [1, 3], 1: [0]})
        result = model(**inputs, head_mask=mask).last_hidden_state
    assert difference(result.numpy(), masked.numpy()) <= TOLERANCE[np.dtype(np.float32)]


# ----------------------------------------------------------------------------------------------------- the files


def test_files_are_of_the_cases_in_the_code() -> None:
    written = {
        name: {key: value for key, value in case.items() if key != "facts"}
        for name, case in DESCRIPTION["cases"].items()
    }
    assert written == json.loads(json.dumps({case.name: case.description() for case in CASES}))
    assert DESCRIPTION["made with"]["transformers"] == "4.49.0"
    assert {case.model for case in CASES} >= {
        "GPT2Model", "GPT2LMHeadModel", "GPT2DoubleHeadsModel", "GPT2ForSequenceClassification",
        "GPT2ForTokenClassification", "GPT2ForQuestionAnswering",
    }  # fmt: skip


@pytest.mark.parametrize(("factor", "exact", "found"), [(1.0, True, 0), (1 + 2**-22, True, 1), (1.001, False, 1)])
def test_the_comparison_finds_a_changed_number(factor: float, exact: bool, found: int) -> None:
    copies = {name: Result(dict(golden.tensors), golden.facts) for name, golden in GOLDENS.items()}
    tensors = copies["no head_mask right"].tensors
    values = tensors["last_hidden_state"].copy()
    values[np.unravel_index(np.abs(values).argmax(), values.shape)] *= np.float32(factor)
    tensors["last_hidden_state"] = values
    problems, _ = differences(DESCRIPTION, GOLDENS, DESCRIPTION, copies, exact=exact)
    assert len(problems) == found
