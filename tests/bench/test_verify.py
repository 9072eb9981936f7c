"""`minitf.parity.verify`: no false alarm on any class, and every planted difference in the row where it belongs."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

import minitf
from minitf.parity import verify_models
from minitf.parity.faults import bert_faults, gpt2_faults
from minitf.parity.faults.injecting import Fault
from minitf.parity.verify import WrongCall, verify
from minitf.parity.verify_inputs import compare, floors_of, make_batch
from minitf.parity.verify_report import MULTIPLE, Row, VerifyReport
from tests.generation.pairs import centre_
from tests.parity.bert_pairs import CLASSES as BERT_CLASSES
from tests.parity.bert_pairs import TINY as BERT_TINY
from tests.parity.gpt2_pairs import CLASSES as GPT2_CLASSES
from tests.parity.gpt2_pairs import TINY as GPT2_TINY
from tests.support import minilm_folder, randomise_, shared_data
from weights_tools.mapping import into_dialect

SMALL: dict[str, Any] = {"tokens": 12, "dtypes": ("float64",)}


def saved(folder: Path, class_name: str, **settings: Any) -> Path:
    """A folder with a tiny model of this class, random in every place."""
    bert = class_name.startswith("Bert")
    decoder = {"is_decoder": True} if class_name == "BertLMHeadModel" else {}
    config = minitf.BertConfig if bert else minitf.GPT2Config
    model = getattr(minitf, class_name)(config(**{**(BERT_TINY if bert else GPT2_TINY), **decoder, **settings}))
    randomise_(model)
    if class_name in ("BertLMHeadModel", "GPT2LMHeadModel"):
        centre_(model.eval())
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(tmp_path_factory.mktemp("bert"), "BertForMaskedLM")


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(tmp_path_factory.mktemp("gpt2"), "GPT2LMHeadModel")


def results(report: VerifyReport, check: str) -> set[str]:
    return {row.result for row in report.rows if row.check == check}


def edited(source: Path, folder: Path, name: str, change: Any) -> Path:
    """A copy of a checkpoint in which one tensor is changed, or left out (None)."""
    folder.mkdir()
    tensors = load_file(source / "model.safetensors")
    changed = change(tensors.pop(name))
    if changed is not None:
        tensors[name] = changed
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_bytes((source / "config.json").read_bytes())
    return folder


def read_elsewhere(monkeypatch: pytest.MonkeyPatch, class_name: str, folder: Path) -> None:
    """transformers reads this class from another folder than it is told to."""
    original = getattr(transformers, class_name).from_pretrained
    other = classmethod(lambda cls, _, **settings: original.__func__(cls, folder, **settings))
    monkeypatch.setattr(getattr(transformers, class_name), "from_pretrained", other)


# --------------------------------------------------------------------------------------------------- no false alarm


@pytest.mark.parametrize("class_name", [*BERT_CLASSES, *GPT2_CLASSES])
def test_every_class_is_identical(class_name: str, tmp_path: Path) -> None:
    report = verify(saved(tmp_path, class_name), class_name=class_name, **SMALL)
    assert report.ok, str(report)
    assert report.settings["classes"] == [class_name]
    assert results(report, "weights") == {"identical"}
    forward = [row for row in report.rows if row.check == "forward"]
    assert {(row.attention, row.padding) for row in forward} == {
        (attention, padding) for attention in ("eager", "sdpa") for padding in ("none", "right", "left")
    }
    assert {row.result for row in forward} == {"identical"}
    decoder = class_name in ("GPT2Model", "GPT2LMHeadModel", "BertLMHeadModel")
    assert results(report, "cache") == ({"identical"} if decoder else {"not applicable"} & results(report, "cache"))
    assert results(report, "cache = whole") <= {"identical", "within"}
    generates = class_name in ("GPT2LMHeadModel", "BertLMHeadModel")
    assert results(report, "greedy") == results(report, "4 beams") == ({"identical"} if generates else set())


def test_all_dtypes_and_all_that_a_file_serves(gpt2: Path) -> None:
    report = verify(gpt2, tokens=12)
    assert report.ok, str(report)
    assert report.settings["classes"] == ["GPT2Model", "GPT2LMHeadModel"]  # no other head is in the file
    assert {row.dtype for row in report.rows if row.check == "forward"} == {"float32", "float64", "bfloat16"}
    assert sum(row.check == "forward" for row in report.rows) == 2 * 3 * 2 * 3
    assert sum(row.check == "cache = whole" for row in report.rows) == 2 * 3 * 2 * 2  # none and left
    assert {(row.check, row.dtype) for row in report.rows if row.padding == "left" and "cache" not in row.check} == {
        *(("forward", dtype) for dtype in ("float32", "float64", "bfloat16")),
        ("greedy", "float32"),
        ("4 beams", "float32"),
    }
    float64 = [row.floor for row in report.rows if row.check == "forward" and row.dtype == "float64"]
    assert all(floor is not None and 1e-17 < floor < 1e-12 for floor in float64)


def test_quick(gpt2: Path) -> None:
    report = verify(gpt2, quick=True)
    assert report.ok
    assert [(row.check, row.name, row.dtype, row.attention, row.padding) for row in report.rows[:-1]] == [
        ("weights", "GPT2LMHeadModel", "float32", "", ""),
        *(
            (check, "GPT2LMHeadModel", "float32", attention, "left")
            for attention in ("eager", "sdpa")
            for check in ("forward", "cache", "cache = whole")
        ),
        *(("greedy", "GPT2LMHeadModel", "float32", attention, "left") for attention in ("eager", "sdpa")),
    ]


@pytest.mark.slow
def test_the_real_checkpoints() -> None:
    report = verify(minilm_folder())
    assert report.ok, str(report)
    assert {row.result for row in report.rows if row.check != "cache"} == {"identical"}
    assert [row.name for row in report.rows if row.check == "tokenizer"] == ["BertTokenizerFast", "BertTokenizer"]
    for name in ("ticket-bert", "capp-gpt2", "bert-xsmall-dummy"):
        report = verify(shared_data("checkpoints", name), dtypes=("float32",))
        assert report.ok, str(report)


@pytest.mark.parametrize("settings", [{"safe_serialization": False}, {"max_shard_size": "20KB"}])
def test_other_containers_and_their_digests(settings: dict[str, Any], bert: Path, tmp_path: Path) -> None:
    minitf.BertForMaskedLM.from_pretrained(bert).save_pretrained(tmp_path, **settings)
    report = verify(tmp_path, quick=True)
    assert report.ok, str(report)
    weights = sorted(path for path in tmp_path.iterdir() if path.suffix in (".safetensors", ".bin"))
    assert len(weights) > 1 or "safe_serialization" in settings
    expected = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in weights}
    assert {name: report.files[name] for name in expected} == expected
    assert report.files["config.json"] in report.statement()


def test_a_trunk_without_pooler(bert: Path) -> None:
    report = verify(bert, **SMALL)
    assert report.ok, str(report)
    assert report.settings["classes"] == ["BertModel", "BertForMaskedLM"]
    assert "BertModel without its pooler, which the file does not hold" in report.notes


@pytest.mark.parametrize(
    ("class_name", "dialect", "given"),
    [("GPT2LMHeadModel", "nanogpt", "nanogpt"), ("BertForMaskedLM", "google-bert", None)],
)
def test_a_dialect_that_transformers_does_not_read(
    class_name: str, dialect: str, given: str | None, tmp_path: Path
) -> None:
    folder = saved(tmp_path, class_name)
    tensors = into_dialect(load_file(folder / "model.safetensors"), dialect)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / "model.safetensors")
    report = verify(folder, dialect=given, **SMALL)
    assert report.ok, str(report)
    assert class_name in report.settings["classes"]
    assert results(report, "weights") == {"not applicable"}
    assert results(report, "forward") == {"identical"}
    assert f"the names in the file are of the dialect '{dialect}'" in str(report)
    assert "note: transformers got the weights from minitf" in report.statement()


def test_gamma_and_beta(tmp_path: Path) -> None:
    """The names of 2018, which transformers still reads by itself."""
    folder = saved(tmp_path, "BertForMaskedLM")
    tensors = into_dialect(load_file(folder / "model.safetensors"), "hf-legacy")
    assert any(name.endswith("gamma") for name in tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    report = verify(folder, **SMALL)
    assert report.ok, str(report)
    assert results(report, "weights") == {"identical"}


def test_a_configuration_of_another_name(bert: Path, tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes((bert / "model.safetensors").read_bytes())
    (tmp_path / "other.json").write_bytes((bert / "config.json").read_bytes())
    with pytest.raises(FileNotFoundError, match=r"config\.json"):
        verify(tmp_path, quick=True)
    report = verify(tmp_path, quick=True, config=tmp_path / "other.json")
    assert report.ok
    assert "other.json" in report.files


def test_a_classifier_that_needs_a_padding_token_without_one(tmp_path: Path) -> None:
    folder = saved(tmp_path, "GPT2ForSequenceClassification", pad_token_id=None)
    report = verify(folder, class_name="GPT2ForSequenceClassification", **SMALL)
    assert report.ok, str(report)
    refused = [row for row in report.rows if row.check == "forward" and row.result == "not applicable"]
    assert {row.padding for row in refused} == {"right", "left"}
    assert all("pad_token_id is not set" in row.where for row in refused)


def test_a_bias_with_two_names(tmp_path: Path) -> None:
    """Untied, only `decoder.bias` has an effect: minitf reads that one, and the other is left out, which is said."""
    folder = saved(tmp_path / "a", "BertForMaskedLM", tie_word_embeddings=False)
    tensors = load_file(folder / "model.safetensors")
    tensors["cls.predictions.decoder.bias"] = tensors["cls.predictions.bias"] + 1
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    report = verify(folder, class_name="BertForMaskedLM", **SMALL)
    assert report.ok, str(report)
    assert any("without cls.predictions.bias" in note for note in report.notes)


# ------------------------------------------------------------------------------------------- planted differences


def test_another_weight(bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One number of one bias, by 1e-6: beyond every float64 row, and first seen behind the second layer."""
    name = "bert.encoder.layer.1.output.dense.bias"

    def change(tensor: torch.Tensor) -> torch.Tensor:
        tensor[5] += 1e-6
        return tensor

    read_elsewhere(monkeypatch, "BertForMaskedLM", edited(bert, tmp_path / "doctored", name, change))
    report = verify(bert, **SMALL)
    assert not report.ok
    by_class = {key: [row for row in report.rows if row.name == key] for key in ("BertModel", "BertForMaskedLM")}
    assert {row.result for row in by_class["BertModel"]} == {"identical", "not applicable"}
    weights, *others = by_class["BertForMaskedLM"]
    assert weights.check == "weights"
    assert weights.result == "differs"
    assert f"1 of {len(load_file(bert / 'model.safetensors')) + 2} tensors; {name} at [5]" in weights.where
    assert weights.difference == pytest.approx(1e-6, rel=0.2)
    assert {row.result for row in others} == {"differs"}
    assert all(row.where.startswith("first in hidden_states[2] at [0, 0") for row in others if row.padding == "none")
    assert report.worst in others
    assert report.statement().startswith("NO PARITY: ")


def test_a_weight_that_transformers_did_not_find(bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = "bert.encoder.layer.0.output.dense.weight"
    read_elsewhere(monkeypatch, "BertForMaskedLM", edited(bert, tmp_path / "doctored", name, lambda _: None))
    (weights, *_) = verify(bert, quick=True).rows
    assert weights.result == "differs"
    assert f"transformers did not find {name}" in weights.where


@pytest.mark.parametrize("side", ["minitf", "transformers"])
def test_another_epsilon(side: str, bert: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The weights are the same; every forward differs from the embeddings on."""
    library = {"minitf": minitf, "transformers": transformers}[side]
    original = library.BertForMaskedLM.from_pretrained.__func__

    def other(cls: Any, folder: Any, **settings: Any) -> Any:
        settings = {name: value for name, value in settings.items() if value is not None}
        return original(cls, folder, **settings, layer_norm_eps=1e-5)

    monkeypatch.setattr(library.BertForMaskedLM, "from_pretrained", classmethod(other))
    report = verify(bert, class_name="BertForMaskedLM", dtypes=("float64", "float32"))
    assert results(report, "weights") == {"identical"}
    assert results(report, "forward") == {"differs"}
    assert all("first in hidden_states[0]" in row.where for row in report.rows if row.dtype == "float64")


def test_a_step_with_the_cache_at_the_wrong_position(gpt2: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    forward = minitf.GPT2LMHeadModel.forward

    @functools.wraps(forward)
    def wrong(self: Any, *args: Any, **inputs: Any) -> Any:
        if inputs.get("past_key_values") is not None and inputs.get("position_ids") is not None:
            inputs["position_ids"] = (inputs["position_ids"] - 1).clamp(min=0)
        return forward(self, *args, **inputs)

    monkeypatch.setattr(minitf.GPT2LMHeadModel, "forward", wrong)
    report = verify(gpt2, class_name="GPT2LMHeadModel", **SMALL)
    assert results(report, "weights") == results(report, "forward") == {"identical"}
    steps = [row for row in report.rows if row.check.startswith("cache")]
    assert {row.result for row in steps if row.padding == "none"} <= {"identical", "within"}  # no position_ids there
    wrong_steps = [row for row in steps if row.padding == "left"]
    assert {row.check for row in wrong_steps} == {"cache", "cache = whole"}
    for row in wrong_steps:
        assert row.result == "differs"
        assert row.where.startswith("first in logits at [0, 8, ")  # after a prompt of 8 of the 12 tokens


# What a mistake of the tables may need to show, and a quick `verify` does not do: see `Fault.needs`.
NOT_DONE = (
    "training mode", "loss", "head_mask", "differ by more than 10000", "eps that is not tiny", "no position_ids",
    "token_type_ids in the call", "is reordered", "rows are repeated", "is cropped", "left-padded decoder",
)  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(
    ("class_name", "faults"),
    [
        ("BertForPreTraining", bert_faults.FAULTS),
        ("BertLMHeadModel", bert_faults.FAULTS),
        ("GPT2LMHeadModel", gpt2_faults.FAULTS),
    ],
)
def test_every_known_mistake_is_a_row_that_differs(
    class_name: str, faults: tuple[Fault, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The project's tables of porting mistakes, each made in minitf's model: also quick says so."""
    folder = saved(tmp_path, class_name)
    model_class = getattr(minitf, class_name)
    load = model_class.from_pretrained.__func__
    seen, missed = [], []
    for fault in faults:
        with contextlib.ExitStack() as stack:

            def wrong(cls: Any, *args: Any, fault: Fault = fault, stack: Any = stack, **settings: Any) -> Any:
                return stack.enter_context(fault.inject(load(cls, *args, **settings)))

            monkeypatch.setattr(model_class, "from_pretrained", classmethod(wrong))
            try:
                report = verify(folder, quick=True, tokens=12)
            except ValueError as error:
                if "cannot be made in" not in str(error):
                    raise
                continue  # such a model has no such part
        (missed if report.ok else seen).append(fault)
    assert len(seen) > 20
    assert [fault.name for fault in missed if not any(words in fault.needs for words in NOT_DONE)] == []


def generating(monkeypatch: pytest.MonkeyPatch, when: Any) -> None:
    """minitf's third new token is another one, for the models that `when` chooses."""
    generate = minitf.GPT2LMHeadModel.generate

    @functools.wraps(generate)
    def wrong(self: Any, input_ids: torch.Tensor, **settings: Any) -> torch.Tensor:
        found = generate(self, input_ids, **settings)
        if when(self, settings["generation_config"]):
            found[0, input_ids.shape[1] + 2] += 1
        return found

    monkeypatch.setattr(minitf.GPT2LMHeadModel, "generate", wrong)


def test_another_token(gpt2: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    generating(monkeypatch, lambda model, settings: settings.num_beams == 4)
    report = verify(gpt2, class_name="GPT2LMHeadModel", dtypes=("float32",))
    assert results(report, "forward") == results(report, "greedy") == {"identical"}
    assert results(report, "4 beams") == {"differs"}
    beams = next(row for row in report.rows if row.check == "4 beams")
    assert beams.where.startswith("row 0, new token 2: ")
    assert report.worst is not None
    assert report.worst.check == "4 beams"


def test_a_near_tie_is_decided_in_float64(gpt2: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    generating(monkeypatch, lambda model, settings: model.dtype == torch.float32)
    report = verify(gpt2, quick=True)
    assert report.ok
    (row, _) = (row for row in report.rows if row.check == "greedy")
    assert row.result == "within"
    assert "in float64 all are equal: a near-tie" in row.where


def test_another_vocabulary(bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "here", "is", "some", "text", "to", "##s", ".", "it"]
    for name, words in (("ours", pieces), ("theirs", [*pieces[:7], "text", "some", *pieces[9:]])):
        minitf.BertTokenizer({piece: n for n, piece in enumerate(words)}).save_pretrained(tmp_path / name)
        for file in ("config.json", "model.safetensors"):
            (tmp_path / name / file).write_bytes((bert / file).read_bytes())
    same = verify(tmp_path / "ours", quick=True)
    assert [(row.name, row.result) for row in same.rows if row.check == "tokenizer"] == [
        ("BertTokenizerFast", "identical"),
        ("BertTokenizer", "identical"),
    ]
    original = transformers.AutoTokenizer.from_pretrained
    monkeypatch.setattr(
        transformers.AutoTokenizer, "from_pretrained", lambda _, **settings: original(tmp_path / "theirs", **settings)
    )
    report = verify(tmp_path / "ours", quick=True)
    assert results(report, "tokenizer") == {"differs"}
    assert results(report, "forward") == {"identical"}
    row = next(row for row in report.rows if row.check == "tokenizer")
    assert row.where == "'Here is some text to encode.', token 3: 7 in minitf, 8 in transformers"


def test_a_tokenizer_that_says_nothing_about_case(bert: Path, tmp_path: Path) -> None:
    """docs/tokenization.md: a deliberate difference, so no row that differs."""
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "Here", "here", "is", "some", "text", "to"]
    minitf.BertTokenizerFast({p: n for n, p in enumerate(pieces)}, do_lower_case=False).save_pretrained(tmp_path)
    for file in ("config.json", "model.safetensors"):
        (tmp_path / file).write_bytes((bert / file).read_bytes())
    assert results(verify(tmp_path, quick=True), "tokenizer") == {"identical"}
    settings = json.loads((tmp_path / "tokenizer_config.json").read_text())
    del settings["do_lower_case"]
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    report = verify(tmp_path, quick=True)
    assert report.ok, str(report)
    assert "no do_lower_case is stated" in str(report)
    assert "token 1: 5 in minitf, 6 in transformers" in str(report)


def test_an_error_on_one_side(bert: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: Any, *args: Any, **inputs: Any) -> Any:
        raise RuntimeError("planted")

    with monkeypatch.context() as patch:
        patch.setattr(minitf.BertForMaskedLM, "forward", broken)
        report = verify(bert, quick=True)
        assert results(report, "forward") == {"differs"}
        assert "minitf raises RuntimeError: planted" in str(report)
    monkeypatch.setattr(transformers.BertForMaskedLM, "forward", broken)
    report = verify(bert, quick=True)
    assert results(report, "forward") == {"not applicable"}
    assert not report.ok  # nothing was compared
    assert report.statement().startswith("NOTHING COMPARED: ")
    assert "transformers raises RuntimeError: planted" in str(report)


# --------------------------------------------------------------------------------- what cannot be, and wrong calls


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"position_embedding_type": "relative_key"}, "transformers 5 has absolute positions only"),
        ({"pruned_heads": {0: [1]}}, "transformers 5 cannot prune"),
    ],
)
def test_what_transformers_dropped(settings: dict[str, Any], reason: str, tmp_path: Path) -> None:
    report = verify(saved(tmp_path, "BertForMaskedLM", **settings), **SMALL)
    assert not report.ok
    assert {row.result for row in report.rows} == {"not applicable"}
    assert reason in str(report)
    assert "NOTHING COMPARED" in str(report)


def test_what_transformers_ignores_in_half_precision_under_sdpa(tmp_path: Path) -> None:
    folder = saved(tmp_path, "GPT2LMHeadModel", reorder_and_upcast_attn=True)
    report = verify(folder, class_name="GPT2LMHeadModel", tokens=12, dtypes=("float64", "bfloat16"))
    assert report.ok, str(report)
    refused = {(row.dtype, row.attention) for row in report.rows if "reorder_and_upcast_attn" in row.where}
    assert refused == {("bfloat16", "sdpa")}
    # and under eager it cannot compute in float64, so that there is nothing to measure against
    eager = [row for row in report.rows if row.attention == "eager"]
    assert {row.check for row in eager} == {"forward", "greedy", "4 beams"}
    assert {row.result for row in eager} == {"not applicable"}
    assert all("transformers raises RuntimeError: Error with upcasting" in row.where for row in eager)


def test_a_head_that_the_file_does_not_hold(tmp_path: Path) -> None:
    folder = saved(tmp_path, "BertModel")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "architectures": ["BertForMaskedLM", "BertForFun"]}))
    report = verify(folder, **SMALL)
    assert report.ok
    said = {row.name: (row.result, row.where) for row in report.rows if row.check == "weights"}
    assert said["BertModel"] == ("identical", "")
    assert said["BertForMaskedLM"][0] == said["BertForFun"][0] == "not applicable"
    assert said["BertForMaskedLM"][1].startswith("the file does not hold cls.predictions")
    assert said["BertForFun"][1] == "minitf and transformers: no such class"
    assert report.settings["classes"] == ["BertModel"]
    with pytest.raises(
        WrongCall, match=r"^class 'BertForMaskedLM': the file does not hold cls\.predictions[^=]*\. Choose a class"
    ):
        verify(folder, class_name="BertForMaskedLM")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"class_name": "GPT2Model"}, "class 'GPT2Model': this checkpoint is a bert; expected one of BertModel"),
        ({"dtypes": ("float8",)}, "float8"),
        ({"tokens": 41}, "tokens = 41, but this model reads 40"),
        ({"tokens": 1}, "tokens = 1: expected an integer of 2 or more"),
        ({"batch": 0}, "batch = 0: expected an integer of 1 or more"),
        ({"seed": -1}, "seed = -1: expected an integer of 0 or more"),
        ({"threads": True}, "threads = True"),
    ],
)
def test_wrong_calls(arguments: dict[str, Any], words: str, bert: Path) -> None:
    with pytest.raises(WrongCall) as caught:
        verify(bert, **arguments)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("installed", "words"),
    [
        (None, "pip install transformers"),
        (SimpleNamespace(__version__="4.49.0"), r"4\.49\.0 is installed: pip install --upgrade transformers"),
    ],
)
def test_without_transformers_or_with_an_old_one(
    installed: Any, words: str, bert: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "transformers", installed)
    with pytest.raises(ImportError, match=words):
        verify(bert)


def test_nothing_is_left_changed(bert: Path) -> None:
    log = transformers.utils.logging
    before = torch.get_num_threads(), log.get_verbosity(), log.is_progress_bar_enabled(), torch.get_rng_state()
    torch.set_num_threads(2)
    seen: list[int] = []
    report = verify(bert, quick=True, on_row=lambda row: seen.append(torch.get_num_threads()))
    assert seen == [1] * len(report.rows)
    assert torch.get_num_threads() == 2
    torch.set_num_threads(before[0])
    assert (log.get_verbosity(), log.is_progress_bar_enabled()) == before[1:3]
    assert verify(bert, quick=True, threads=2).settings["threads"] == 2
    with pytest.raises(WrongCall):
        verify(bert, class_name="BertForTokenClassification")
    assert (torch.get_num_threads(), log.get_verbosity(), log.is_progress_bar_enabled()) == before[:3]


# ------------------------------------------------------------------------------------------------------- the parts


@pytest.mark.parametrize("padding", ["none", "right", "left"])
def test_the_same_seed_gives_the_same_batch(padding: str) -> None:
    model = minitf.GPT2LMHeadModel(minitf.GPT2Config(**{**GPT2_TINY, "pad_token_id": 7}))
    one, same, other = (make_batch(model, padding=padding, rows=5, tokens=12, seed=seed) for seed in (3, 3, 4))
    assert all(torch.equal(one.ours[name], same.ours[name]) for name in one.ours)
    assert not torch.equal(one.ours["input_ids"], other.ours["input_ids"])
    assert one.mask.sum(1).tolist() == ([12] * 5 if padding == "none" else [12, 9, 6, 3, 12])
    assert not bool((one.ours["input_ids"][one.mask] == 7).any())
    assert bool((one.ours["input_ids"][~one.mask] == 7).all())
    assert bool(one.mask[:, -1].all()) == (padding != "right")
    single = make_batch(model, padding=padding, rows=1, tokens=12, seed=0)
    assert bool(single.mask.all()) == (padding == "none")


def test_the_verdict() -> None:
    generator = torch.Generator().manual_seed(0)
    exact = {"hidden_states[0]": torch.randn(2, 5, 64, generator=generator, dtype=torch.float64)}
    own = {name: value.float() for name, value in exact.items()}
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]]).bool()
    floors = floors_of(own, exact, mask, torch.float32)
    floor = floors["hidden_states[0]"].max_abs
    assert 1e-8 < floor < 1e-6

    def verdict(place: tuple[int, int, int], value: float) -> Any:
        mine = {name: tensor.clone() for name, tensor in own.items()}
        mine["hidden_states[0]"][place] = value
        return compare(mine, own, floors, mask)

    was = own["hidden_states[0]"][1, 2, 3].item()
    assert verdict((1, 2, 3), was).result == "identical"
    near = verdict((1, 2, 3), was + (MULTIPLE - 1) * floor)
    assert (near.result, near.where) == ("within", "")
    assert near.times == pytest.approx(MULTIPLE - 1, rel=0.5)
    far = verdict((1, 2, 3), was + 2 * MULTIPLE * floor)
    assert far.result == "differs"
    assert far.where.startswith("first in hidden_states[0] at [1, 2, 3]: ")
    assert verdict((1, 3, 3), was + 1).result == "identical"  # padding
    for value in (float("nan"), float("inf")):
        assert verdict((0, 0, 0), value).result == "differs"
    assert compare({}, own, floors, mask).where == "only one side returns hidden_states[0]"
    cut = {name: value[:, :4] for name, value in own.items()}
    assert "is [2, 4, 64] float32 in minitf" in compare(cut, own, floors, mask).where


def test_the_report_as_text_and_as_json() -> None:
    rows = [
        *(
            Row("forward", "M", "float32", a, p, "identical", 0.0, 1e-6)
            for a in ("eager", "sdpa")
            for p in ("none", "left")
        ),
        Row("cache", "M", "float32", "eager", "none", "within", 2e-6, 1e-6, 2.0),
        Row("cache", "M", "float32", "sdpa", "none", "differs", 5e-5, 1e-6, 50.0, "first in logits at [0, 1]: 1 in a"),
    ]
    settings = {
        "classes": ["M"], "dtypes": ["float32"], "attention": ["eager", "sdpa"], "padding": ["none", "left"],
        "tokens": 8, "batch": 2, "seed": 0, "threads": 1,
    }  # fmt: skip
    versions = dict.fromkeys(("minitf", "transformers", "torch", "python", "cpu"), "1.0")
    report = VerifyReport(rows, versions, "folder", {"model.safetensors": "abc"}, settings, ["said"])
    lines = str(report).splitlines()
    assert len(lines) == 1 + 1 + 1 + 2 + 1 + len(report.statement().splitlines())
    assert " ".join(lines[1].split()) == "forward M float32 eager, sdpa none, left identical 0.0e+00 1.0e-06"
    assert lines[4] == "    first in logits at [0, 1]: 1 in a"
    assert "rows: 6 compared, 4 identical, 1 within 4 times the noise floor, 1 differ; 0 not applicable" in lines
    assert "worst row: M cache float32 sdpa none: differs, max difference 5.0e-05 = 50 times the noise floor" in str(
        report
    )
    assert lines[-1] == "note: said"
    again = json.loads(json.dumps(report.to_dict()))
    assert again["ok"] is False
    assert [Row(**row) for row in again["rows"]] == rows
    passed = dataclasses.replace(report, rows=rows[:5])
    assert passed.ok
    assert "worst row: M cache float32 eager none: within" in passed.statement()
    assert "every compared row is identical" in dataclasses.replace(report, rows=rows[:4]).statement()
    assert not dataclasses.replace(report, rows=[]).ok


def test_the_table_of_known_differences_is_about_keys_that_exist() -> None:
    for config in (minitf.BertConfig(), minitf.GPT2Config()):
        for dtype in ("float32", "bfloat16"):
            assert verify_models.known_difference(config, dtype, "sdpa") == ""


def test_a_model_of_few_positions(tmp_path: Path) -> None:
    """Without `tokens=` a row is as long as the model reads."""
    sizes = {"vocab_size": 20, "n_positions": 12, "n_embd": 16, "n_layer": 1, "n_head": 2}
    config = minitf.GPT2Config(**sizes, bos_token_id=0, eos_token_id=0)
    randomise_(minitf.GPT2LMHeadModel(config).eval()).save_pretrained(tmp_path)
    report = verify(tmp_path, quick=True)
    assert report.ok
    assert report.settings["tokens"] == 12
    with pytest.raises(WrongCall, match=r"tokens = 13, but this model reads 12"):
        verify(tmp_path, quick=True, tokens=13)
