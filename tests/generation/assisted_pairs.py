"""Models, draft models and the two libraries' calls for the tests of assisted decoding."""

from __future__ import annotations

import math
import sys
import types
from functools import cache
from importlib.machinery import ModuleSpec
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor
from transformers.generation import candidate_generator

from minitf.generation import drafts
from tests.parity import gpt2_pairs
from tests.support import random_value, randomise_

PROMPT = torch.tensor([[5, 9, 33, 5, 9, 12]])
REPEATED = torch.tensor([[7, 8, 9, 10, 11, 12, 30, 7, 8, 9, 10, 11, 12, 31, 7, 8]])
PADDED = torch.tensor([[0, 0, 0, 5, 9, 33, 5, 9, 12]])
PADDED_MASK = (PADDED != 0).long()
NO_END: dict[str, Any] = {"eos_token_id": None, "pad_token_id": None, "bos_token_id": None}
MODELS = (transformers.GPT2LMHeadModel, transformers.BertLMHeadModel)  # imported before scikit-learn is replaced
DRAFTS = ("same", "near", "stranger")


def literal_roc_curve(right: list[int], sure: list[float]) -> tuple[Any, Any, Any]:
    """What scikit-learn's function of this name returns, by its definition; transformers calls it if it is there."""
    thresholds = [math.inf, *sorted(set(sure), reverse=True)]
    share = [
        [
            sum(p >= limit for p, r in zip(sure, right, strict=True) if r == kind) / right.count(kind)
            for limit in thresholds
        ]
        for kind in (0, 1)
    ]
    return (*(torch.tensor(values, dtype=torch.float64).numpy() for values in share), thresholds)


def pretend_scikit_learn(monkeypatch: pytest.MonkeyPatch) -> None:
    """transformers moves the confidence threshold only where scikit-learn is installed: here it always seems to be."""
    for name in ("sklearn", "sklearn.metrics"):
        module = types.ModuleType(name)
        module.__spec__ = ModuleSpec(name, None)
        monkeypatch.setitem(sys.modules, name, module)
    module.roc_curve = literal_roc_curve  # type: ignore[attr-defined]
    monkeypatch.setattr(candidate_generator, "is_sklearn_available", lambda: True)


def prepared(pair: tuple[Any, Any], seed: int, noise: float = 0.0) -> tuple[Any, Any]:
    """Parameters of a seed, positions that matter (so that greedy search does not repeat itself), and noise."""
    for model in pair:
        randomise_(model, seed)
        with torch.no_grad():
            model.transformer.wpe.weight.mul_(3.0)
            for name, parameter in model.named_parameters():
                parameter.add_(noise * torch.from_numpy(random_value(name, tuple(parameter.shape), seed + 50)).float())
    return pair


@cache
def target(attention: str = "sdpa") -> tuple[Any, Any]:
    """The model whose tokens are made, and transformers' one."""
    return prepared(gpt2_pairs.pair("GPT2LMHeadModel", attention=attention, **NO_END), 5)


@cache
def draft_pair(which: str) -> tuple[Any, Any]:
    """The same model once more, one with noise in its parameters (which often agrees), one with nothing in common."""
    sizes = {"n_embd": 32, "n_head": 2, "n_layer": 1} if which == "stranger" else {}
    pair = gpt2_pairs.pair("GPT2LMHeadModel", attention="sdpa", **NO_END, **sizes)
    return prepared(pair, 1 if which == "stranger" else 5, 0.1 if which == "near" else 0.0)


def ours(ids: Tensor = PROMPT, *, seed: int = 0, model: Any = None, **call: Any) -> Any:
    torch.manual_seed(seed)
    return (model or target()[0]).generate(ids, **call)


def theirs(
    ids: Tensor = PROMPT, *, seed: int = 0, model: Any = None, drafting: dict[str, Any] | None = None, **call: Any
) -> Any:
    """transformers takes the settings of drafting from the draft model's generation_config only."""
    if "assistant_model" in call:
        call["assistant_model"].generation_config = transformers.GenerationConfig(**(drafting or {}))
    torch.manual_seed(seed)
    call = {"do_sample": False, "attention_mask": torch.ones_like(ids), **call}
    return (model or target()[1]).generate(ids, **call)


def drafters() -> list[dict[str, Any]]:
    return [*({"assistant_model": draft_pair(which)[0]} for which in DRAFTS), {"prompt_lookup_num_tokens": 4}]


def spied(monkeypatch: pytest.MonkeyPatch) -> tuple[list[tuple[int, list[int]]], list[tuple[int, list[int]]]]:
    """(length of the text, draft) of every round: ours and transformers'."""
    mine: list[tuple[int, list[int]]] = []
    other: list[tuple[int, list[int]]] = []
    draft, candidates = drafts.ModelDrafter.draft, candidate_generator.AssistedCandidateGenerator.get_candidates

    def my_draft(self: Any, sequences: Tensor) -> Any:
        found = draft(self, sequences)
        mine.append((sequences.shape[1], found[0].tolist()))
        return found

    def other_draft(self: Any, input_ids: Tensor, **more: Any) -> Any:
        found = candidates(self, input_ids, **more)
        other.append((input_ids.shape[1], found[0][0, input_ids.shape[1] :].tolist()))
        return found

    monkeypatch.setattr(drafts.ModelDrafter, "draft", my_draft)
    monkeypatch.setattr(candidate_generator.AssistedCandidateGenerator, "get_candidates", other_draft)
    return mine, other
