"""`diagnose`: every known mistake is named first, in the NumPy ports and in PyTorch, and nothing is made up."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from torch import Tensor

from minitf.cli import main
from minitf.parity.compare import FIELDS, compare
from minitf.parity.diagnose import Diagnosis, diagnose
from minitf.parity.dumps import write_dump
from minitf.parity.faults import Fault, faults_for
from minitf.parity.faults.bert_faults import FAULTS as BERT_FAULTS
from minitf.parity.faults.gpt2_faults import FAULTS as GPT2_FAULTS
from minitf.parity.runs import observe
from minitf.tracing.names import Names
from tests.bench.cases import IGNORED, PORTED, Case, dumped, ported
from tests.bench.test_compare import BERT_SHOWN, GPT2_SHOWN, SHOWN
from tests.support import random_value

ENCODER: dict[str, Any] = {
    "encoder_hidden_states": torch.from_numpy(random_value("encoder", (3, 5, 32))).float(),
    "encoder_attention_mask": [[1, 1, 1, 1, 1], [1, 1, 1, 0, 0], [0, 0, 1, 1, 1]],
}
HEADS = {"head_mask": [[1.0, 0.5], [0.0, 1.0]]}
CACHED: dict[str, Any] = {"padding": "none", "past": 4}
DECODER = {"is_decoder": True}
SPANS = {"start_positions": [1, 0, 9], "end_positions": [3, 2, 9]}
SEVERAL = {"labels": [[1.0, 0.0], [1.0, 1.0], [0.0, 0.0]]}
CHOICE = {"input_ids": torch.arange(1, 43).view(3, 2, 7), "mc_token_ids": [[6, 5], [4, 6], [3, 6]]}
LATE = torch.tensor([[IGNORED] * 3 + [5, 9, 2, 7]] * 3)

# Each mistake is made in the first of these that it changes anything in.
BERT_CASES = (
    *(PORTED[name] for name in ("words", "words, left", "classes", "words, large scores")),
    Case("BertForMaskedLM", settings={"layer_norm_eps": 0.25}),
    Case("BertLMHeadModel", settings=DECODER, labels=True),
    Case("BertLMHeadModel", padding="left", settings=DECODER),
    Case("BertLMHeadModel", settings=DECODER, **CACHED),
    Case("BertLMHeadModel", settings={**DECODER, "add_cross_attention": True}, extra=ENCODER),
    Case("BertModel", settings={"position_embedding_type": "relative_key"}),
    Case("BertModel", settings={"position_embedding_type": "relative_key_query"}),
    Case("BertLMHeadModel", settings={**DECODER, "position_embedding_type": "relative_key"}, **CACHED),
    Case("BertModel", extra=HEADS),
    Case("BertForNextSentencePrediction", extra={"labels": [1, 0, 0]}),
    Case("BertForPreTraining", labels=True, extra={"next_sentence_label": [1, 0, 0]}),
    Case("BertForQuestionAnswering", extra=SPANS),
    Case("BertForSequenceClassification", settings={"num_labels": 1}, extra={"labels": [0.3, -1.2, 2.0]}),
    Case("BertForSequenceClassification", extra=SEVERAL),
)
GPT2_CASES = (
    *(PORTED[name] for name in ("next word", "next word, cached", "next word, large scores")),
    Case("GPT2LMHeadModel", settings={"layer_norm_epsilon": 0.05}),
    Case("GPT2LMHeadModel", padding="left", past=4),
    Case("GPT2LMHeadModel", extra={"token_type_ids": [[1, 1, 2, 2, 2, 1, 1]] * 3}),
    Case("GPT2LMHeadModel", settings={"scale_attn_weights": False}),
    Case("GPT2LMHeadModel", settings={"scale_attn_by_inverse_layer_idx": True}),
    Case("GPT2LMHeadModel", settings={"add_cross_attention": True}, extra=ENCODER),
    Case("GPT2LMHeadModel", settings={"add_cross_attention": True}, extra=ENCODER, **CACHED),
    Case("GPT2LMHeadModel", extra=HEADS),
    Case("GPT2DoubleHeadsModel", padding="none", extra=CHOICE, drop=("attention_mask", "position_ids")),
    Case("GPT2ForSequenceClassification", extra={"labels": [1, 0, 1]}),
    Case("GPT2ForSequenceClassification", padding="left", extra={"labels": [1, 0, 1]}),
    Case("GPT2ForSequenceClassification", settings={"num_labels": 1}, extra={"labels": [0.3, -1.2, 2.0]}),
    Case("GPT2ForSequenceClassification", extra=SEVERAL),
    Case("GPT2ForTokenClassification", padding="none", extra={"labels": LATE.clamp(max=1)}),
    Case("GPT2ForQuestionAnswering", extra=SPANS),
)
TABLE = [*(("bert", fault) for fault in BERT_FAULTS), *(("gpt2", fault) for fault in GPT2_FAULTS)]

# What one forward, or two with a cache, in evaluation mode cannot show, and why.
NOT_IN_A_DUMP = {
    "attention-dropout-missing": "training",
    "residual-dropout-missing": "training",
    "dropout-of-whole-embeddings": "training",
    "embedding-dropout-before-layernorm": "training",
    "upcasting-ignored": "a model in half precision; the reference computes in float64",
    "cache-reorder-forgotten": "beams",
    "cache-reordered-backwards": "beams",
    "cache-reordered-in-the-first-layer-only": "beams",
    "cache-values-not-reordered": "beams",
    "cache-of-the-encoder-not-reordered": "beams",
    "cache-tiled-instead-of-repeated": "beams",
    "cache-crop-off-by-one": "drafts",
    "cache-crop-keeps-the-end": "drafts",
    "cross-attention-computed-again": "only the work tells, not the numbers",
    "logits-of-the-first-positions-kept": "logits_to_keep, which is no tensor",
}


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def named(found: Diagnosis) -> set[str]:
    return {name for one in found.best for name in one.names}


# --------------------------------------------------------------------------------------------------------------------
# NumPy ports


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "mistake", "shown"), SHOWN, ids=lambda value: value if isinstance(value, str) else "")
def test_a_mistake_of_a_numpy_port_is_named(kind: str, mistake: str, shown: tuple[str, str], tmp_path: Path) -> None:
    case = PORTED[shown[0]]
    model = case.model()
    with np.errstate(over="ignore"):
        record = ported(case, model, mistakes={mistake})
    found = diagnose(model, dumped(tmp_path / "port", case, record))
    assert named(found) == {mistake}
    random = mistake in ("dropout-left-on", "decoder-untied", "lm-head-untied", "softmax-in-half-precision")
    assert found.verdict == ("likely" if random else "found")
    if random:
        assert found.best[0].mark
    else:
        assert found.ratio is not None
        assert found.ratio > 50, str(found)


@pytest.mark.parametrize("name", ["words", "next word", "next word, cached"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_correct_port_has_no_mistake(name: str, dtype: str, tmp_path: Path) -> None:
    case = PORTED[name]
    model = case.model()
    found = diagnose(model, dumped(tmp_path / "port", case, ported(case, model, dtype=dtype), dtype=dtype))
    assert found.verdict == "no mistake"
    assert found.best == ()
    assert "no mistake: the reference reproduces every value" in str(found)


@pytest.mark.parametrize("mistake", ["value-bias-dropped", "padding-mask-ignored"])
def test_a_bfloat16_port_is_diagnosed_in_its_own_noise(mistake: str, tmp_path: Path) -> None:
    case = PORTED["words"]
    model = case.model()
    record = ported(case, model, dtype="bfloat16", mistakes={mistake})
    found = diagnose(model, dumped(tmp_path / "port", case, record, dtype="bfloat16"))
    assert named(found) == {mistake}


def test_the_logits_alone_are_enough(tmp_path: Path) -> None:
    case = PORTED["words"]
    model = case.model()
    record = ported(case, model, mistakes={"layernorm-eps-1e-5"})
    found = diagnose(model, dumped(tmp_path / "port", case, record, only=["logits"]))
    assert named(found) == {"layernorm-eps-1e-5"}
    assert found.values == 1


def test_two_mistakes_at_once_are_found_after_no_single_one_is(tmp_path: Path) -> None:
    case = PORTED["words"]
    model = case.model()
    mistakes = {"gelu-by-tanh", "prediction-bias-dropped"}
    found = diagnose(model, dumped(tmp_path / "port", case, ported(case, model, mistakes=mistakes)))
    assert [set(one.names) for one in found.best] == [mistakes]
    assert "; and " in found.best[0].remedy


def test_what_no_mistake_explains_is_none_of_these(tmp_path: Path) -> None:
    case = PORTED["words"]
    model = case.model()
    record = ported(case, model)
    record["logits"] = record["logits"] * np.float32(1.01)
    found = diagnose(model, dumped(tmp_path / "port", case, record, only=["bert.embeddings.output", "logits"]))
    assert (found.verdict, found.best, found.ratio) == ("none of these", (), None)
    assert not any(one.reproduces for one in found.ranked)
    assert "none of these: no known mistake" in str(found)


def test_mistakes_that_compute_the_same_here_are_all_named(tmp_path: Path) -> None:
    """Of two tokens the first one sees one too many, whether the mask is missing or one step too wide."""
    two = {"input_ids": [[7, 8], [9, 3], [4, 5]]}
    case = Case("GPT2LMHeadModel", extra=two, drop=("attention_mask", "position_ids"))
    model = case.model()
    record = ported(case, model, mistakes={"causal-mask-missing"})
    found = diagnose(model, dumped(tmp_path / "port", case, record))
    assert {one.names for one in found.best} == {("causal-mask-missing",), ("causal-mask-sees-the-next-token",)}
    assert found.ratio is not None
    assert found.ratio > 1000
    assert "or mistake: causal-mask" in str(found)
    assert "these compute the same on this input" in str(found)


def test_mistakes_that_change_nothing_here_are_listed(tmp_path: Path) -> None:
    """A query with one key gives it the probability 1, whatever its score."""
    one = {"input_ids": [[7], [8], [9]]}
    case = Case("BertForSequenceClassification", extra=one, drop=("attention_mask", "token_type_ids"))
    model = case.model()
    record = ported(case, model, mistakes={"positions-off-by-one"})
    found = diagnose(model, dumped(tmp_path / "port", case, record, only=["logits"]))
    assert named(found) == {"positions-off-by-one"}
    assert {"scores-not-scaled", "padding-mask-ignored", "pooler-of-the-last-token"} <= set(found.unseen)


# --------------------------------------------------------------------------------------------------------------------
# The tables, in PyTorch


@cache
def model_of(case_number: int, kind: str) -> Any:
    """The model of a case, computed step by step as the reference is."""
    model = (BERT_CASES if kind == "bert" else GPT2_CASES)[case_number].model()
    model.config.attn_implementation = "eager"
    return model


def values_of(model: Any, case: Case) -> dict[str, Tensor]:
    layers = getattr(model.config, "num_hidden_layers", None) or model.config.n_layer
    names = [name for name in Names.of(model).names if not name.endswith(".input")]
    fields = [*FIELDS, *(f"hidden_states.{number}" for number in range(layers + 1))]
    values: dict[str, Tensor] = {}
    torch.manual_seed(5)
    observe(model, case.call(), [*names, *fields], lambda name, value: values.update({name: value.clone()}))
    return values


def made_in(kind: str, fault: Fault) -> tuple[Any, Case, dict[str, Tensor]] | None:
    """The first case in which a mistake changes what is not padding, and the values with the mistake."""
    for number, case in enumerate(BERT_CASES if kind == "bert" else GPT2_CASES):
        model = model_of(number, kind)
        if not list(fault.changes(model)):
            continue
        sound = values_of(model, case)
        with fault.inject(model):
            wrong = values_of(model, case)
        results = [name for name in wrong if name in FIELDS and name != "last_hidden_state"] or ["last_hidden_state"]
        results += [name for name in wrong if name.startswith("hidden_states")]
        mask = case.inputs().get("attention_mask")
        for name in results:
            apart = (wrong[name] - sound[name]).abs().nan_to_num(nan=1.0)
            if mask is not None and mask.dim() == 2 and apart.dim() == 3:
                apart = apart[mask[:, -apart.shape[1] :].bool()]
            if float(apart.max()) > 1e-4 * float(sound[name].abs().max()):
                return model, case, wrong
    return None


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "fault"), TABLE, ids=lambda value: getattr(value, "name", value))
def test_a_mistake_of_the_tables_is_found_and_named(kind: str, fault: Fault, tmp_path: Path) -> None:
    made = made_in(kind, fault)
    assert (made is None) == (fault.name in NOT_IN_A_DUMP)
    if made is None:
        return
    model, case, wrong = made
    inputs = {**case.inputs(), **({"past_length": torch.tensor(case.past)} if case.past else {})}
    write_dump(tmp_path / "port", {**inputs, **wrong})
    assert compare(model, tmp_path / "port").diverges
    found = diagnose(model, tmp_path / "port")
    assert found.verdict in ("found", "likely"), str(found)
    assert fault.name in named(found), str(found)
    assert all(len(one.names) == 1 for one in found.best)


def test_the_tables_of_this_file_are_those_of_the_mistakes() -> None:
    known = {fault.name for _, fault in TABLE}
    assert set(NOT_IN_A_DUMP) | set(BERT_SHOWN) | set(GPT2_SHOWN) <= known


# --------------------------------------------------------------------------------------------------------------------
# Errors and the command


def test_errors_say_what_is_needed(tmp_path: Path) -> None:
    case = PORTED["words"]
    model = case.model()
    path = dumped(tmp_path / "port", case, ported(case, model), only=["logits"])
    with pytest.raises(TypeError, match=r"diagnose needs a model .* and a dump, in this order"):
        diagnose(path, path)
    foreign = transformers.BertModel(transformers.BertConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=2))
    with pytest.raises(TypeError, match=r"a transformers\..*\.BertModel, and mistakes are made in models of minitf"):
        diagnose(foreign, path)
    with pytest.raises(ValueError, match="no table of known mistakes for a Linear"):
        faults_for(torch.nn.Linear(1, 1))


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    case = PORTED["words"]
    model = case.model()
    folder, port = str(tmp_path / "model"), str(tmp_path / "port.safetensors")
    model.save_pretrained(folder)
    record = ported(case, model, mistakes={"gelu-by-tanh"})
    dumped(Path(port), case, record, only=["bert.encoder.layer.0.output", "logits"])
    assert main(["diagnose", folder, port, "--top", "2"]) == 1
    shown = capsys.readouterr().out
    assert "mistake: gelu-by-tanh\n" in shown
    assert 'remedy: BERT\'s "gelu" is x * (1 + erf(x / sqrt 2)) / 2' in shown
    assert main(["diagnose", folder, port, "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert (found["verdict"], found["best"][0]["names"]) == ("found", ["gelu-by-tanh"])
    dumped(Path(port), case, ported(case, model), only=["logits"])
    assert main(["diagnose", folder, port]) == 0
    assert main(["diagnose", folder]) == 2
    assert main(["diagnose", folder, str(tmp_path / "none.npz")]) == 1
    assert "no such dump" in capsys.readouterr().err
