"""The golden numbers of transformers 4.49.0 for the three searches that 5.x dropped, and how they are compared.

Tokens must be equal. Scores may differ by 1e-5 (of 1, or of the score if that is larger): minitf reads a prompt once
and repeats its cache, 4.49.0 reads it once for every beam, and a product of other rows is rounded otherwise.
"""

from __future__ import annotations

import functools
import json
from typing import Any

import numpy as np
import pytest

import minitf
from tests.goldens.bert_runs import Case, Result
from tests.goldens.files import committed_folder, read
from tests.goldens.generation_cases import CASES
from tests.goldens.generation_runs import run

TOLERANCE = 1e-5


@functools.cache
def goldens() -> dict[str, Result]:
    return read(committed_folder(), "generation")[1]


@functools.cache
def descriptions() -> dict[str, Any]:
    cases: dict[str, Any] = read(committed_folder(), "generation")[0]["cases"]
    return cases


def cases_of(group: str, *without: str) -> list[Any]:
    names = {f"{group} {name}" for name in without}
    found = [case for case in CASES if case.group == group and case.name not in names]
    return [pytest.param(case, id=case.name) for case in found]


def case_named(name: str) -> Case:
    return next(case for case in CASES if case.name == name)


@functools.cache
def result_of(name: str) -> Result:
    return run(minitf, case_named(name))


def new_tokens(case: Case, sequences: np.ndarray) -> np.ndarray:
    return sequences[:, max(map(len, case.inputs["prompts"])) :]


def with_the_first_end(case: Case, sequences: np.ndarray) -> np.ndarray:
    """Every end token as the first of the list: what the beam searches of 4.49.0 write, whichever was found."""
    ends = case.options["settings"].get("eos_token_id")
    if not isinstance(ends, list):
        return sequences
    new = new_tokens(case, sequences)
    start = sequences.shape[1] - new.shape[1]
    return np.concatenate([sequences[:, :start], np.where(np.isin(new, ends), ends[0], new)], axis=1)


def assert_close(case: Case, name: str, ours: np.ndarray, theirs: np.ndarray) -> None:
    assert ours.shape == theirs.shape, f"{case.name}: {name}"
    np.testing.assert_allclose(ours, theirs, rtol=TOLERANCE, atol=TOLERANCE, err_msg=f"{case.name}: {name}")


def assert_as_in_4_49(case: Case, *, beams: bool, without: tuple[str, ...] = ()) -> None:
    """Tokens, scores, shapes of the outputs; `without` names what a test of its own compares."""
    ours, theirs = result_of(case.name), goldens()[case.name]
    description = {**case.description(), "facts": theirs.facts}
    assert json.loads(json.dumps(description)) == descriptions()[case.name], "the golden files are of other cases"
    sequences = ours.tensors["sequences"]
    expected = theirs.tensors["sequences"]
    assert np.array_equal(with_the_first_end(case, sequences) if beams else sequences, expected), case.name
    assert json.loads(json.dumps(ours.facts)) == theirs.facts
    assert ours.tensors.keys() == theirs.tensors.keys()
    for name in theirs.tensors.keys() - {"sequences", *without}:
        assert_close(case, name, ours.tensors[name], theirs.tensors[name])
