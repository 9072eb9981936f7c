"""`compare`: no false alarm on correct ports, every mistake at its own operation, errors that say what to do."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from torch.nn.functional import gelu

import minitf
from minitf.cli import main
from minitf.parity.compare import compare
from minitf.parity.dumps import write_dump
from minitf.parity.faults import faults_for
from minitf.parity.noise import Floor, difference, fitted, floor_of, last_place, ratio_of
from minitf.parity.report_html import comparison_page
from minitf.parity.runs import Call, in_dtype, observe, step_by_step
from tests.bench.cases import BERT, PORTED, Case, dumped, ported
from tests.bench.numpy_bert import NumpyBert
from tests.bench.numpy_gpt2 import NumpyGPT2
from tests.support import REPOSITORY, minilm_folder

B, G = "bert.encoder.layer.0.", "transformer.h.0."
ATTENTION, GPT2_ATTENTION = B + "attention.self.", G + "attn."

# mistake of the NumPy port -> the case that shows it, and the operation where it is made.
BERT_SHOWN: dict[str, tuple[str, str]] = {
    "token-types-not-added": ("words", "bert.embeddings.token_type_embeddings.output"),
    "positions-off-by-one": ("words", "bert.embeddings.position_embeddings.output"),
    "positions-with-robertas-offset": ("words", "bert.embeddings.position_embeddings.output"),
    "positions-skip-padding": ("words, left", "bert.embeddings.position_embeddings.output"),
    "word-embeddings-times-sqrt-of-width": ("words", "bert.embeddings.word_embeddings.output"),
    "embedding-layernorm-skipped": ("words", "bert.embeddings.output"),
    "query-and-key-bias-swapped": ("words", ATTENTION + "query.output"),
    "value-bias-dropped": ("words", ATTENTION + "value.output"),
    "attention-matrices-transposed": ("words", ATTENTION + "query.output"),
    "heads-split-as-size-by-heads": ("words", ATTENTION + "query"),
    "scores-not-scaled": ("words", ATTENTION + "scores"),
    "scores-scaled-by-layer-index": ("words", "bert.encoder.layer.1.attention.self.scores"),
    "padding-mask-ignored": ("words", ATTENTION + "scores"),
    "mask-inverted": ("words", ATTENTION + "scores"),
    "mask-of-minus-10000": ("words, large scores", ATTENTION + "scores"),
    "softmax-in-half-precision": ("words", ATTENTION + "probs"),
    "residual-around-attention-left-out": ("words", B + "attention.output.LayerNorm.input"),
    "gelu-by-tanh": ("words", B + "intermediate.output"),
    "layernorms-of-a-layer-confused": ("words", B + "attention.output.LayerNorm.output"),
    "layernorm-eps-1e-5": ("words", "bert.embeddings.LayerNorm.output"),
    "layernorm-before-residual": ("words", B + "attention.output.LayerNorm.input"),
    "last-layer-left-out": ("words", "cls.predictions.transform.dense.output"),
    "hidden-states-without-the-embeddings": ("words", "hidden_states.0"),
    "dropout-left-on": ("words", "bert.embeddings.output"),
    "pooler-left-out": ("classes", "bert.pooler.output"),
    "pooler-without-tanh": ("classes", "bert.pooler.output"),
    "prediction-bias-dropped": ("words", "cls.predictions.decoder.output"),
    "decoder-untied": ("words", "cls.predictions.decoder.output"),
    "masked-words-shifted": ("words", "loss"),
    "ignored-labels-scored": ("words", "loss"),
}
GPT2_SHOWN: dict[str, tuple[str, str]] = {
    "positions-off-by-one": ("next word", "transformer.wpe.output"),
    "positions-with-opts-offset": ("next word", "transformer.wpe.output"),
    "left-padding-without-shifted-positions": ("next word", "transformer.wpe.output"),
    "word-embeddings-times-sqrt-of-width": ("next word", "transformer.wte.output"),
    "c-attn-read-as-key-query-value": ("next word", GPT2_ATTENTION + "query"),
    "c-attn-read-head-by-head": ("next word", GPT2_ATTENTION + "query"),
    "heads-split-as-size-by-heads": ("next word", GPT2_ATTENTION + "query"),
    "attention-c-proj-bias-dropped": ("next word", GPT2_ATTENTION + "c_proj.output"),
    "c-proj-not-transposed": ("next word", GPT2_ATTENTION + "c_proj.output"),
    "scores-not-scaled": ("next word", GPT2_ATTENTION + "scores"),
    "scores-scaled-by-layer-index": ("next word", "transformer.h.1.attn.scores"),
    "padding-mask-ignored": ("next word", GPT2_ATTENTION + "scores"),
    "mask-inverted": ("next word", GPT2_ATTENTION + "scores"),
    "mask-of-minus-10000": ("next word, large scores", GPT2_ATTENTION + "scores"),
    "mask-added-twice": ("next word", GPT2_ATTENTION + "probs"),
    "softmax-in-half-precision": ("next word", GPT2_ATTENTION + "probs"),
    "causal-mask-missing": ("next word", GPT2_ATTENTION + "scores"),
    "causal-mask-sees-the-next-token": ("next word", GPT2_ATTENTION + "scores"),
    "gelu-by-erf": ("next word", G + "mlp.act.output"),
    "layernorm-eps-1e-12": ("next word", G + "ln_1.output"),
    "ln-1-and-ln-2-swapped": ("next word", G + "ln_1.output"),
    "ln-f-affine-skipped": ("next word", "transformer.ln_f.output"),
    "ln-f-left-out": ("next word", "hidden_states.2"),
    "hidden-states-before-ln-f": ("next word", "hidden_states.2"),
    "last-block-left-out": ("next word", "transformer.ln_f.output"),
    "post-norm": ("next word", G + "ln_1.output"),
    "attention-and-mlp-in-parallel": ("next word", G + "ln_2.output"),
    "dropout-left-on": ("next word", "transformer.drop.output"),
    "lm-head-untied": ("next word", "lm_head.output"),
    "label-shift-missing": ("next word", "loss"),
    "label-shift-twice": ("next word", "loss"),
    "causal-mask-off-by-one-with-cache": ("next word, cached", GPT2_ATTENTION + "scores"),
    "causal-mask-of-the-upper-left-with-cache": ("next word, cached", GPT2_ATTENTION + "scores"),
    "positions-not-advanced-with-cache": ("next word, cached", "transformer.wpe.output"),
    "cache-keys-and-values-swapped": ("next word, cached", GPT2_ATTENTION + "key"),
}
SHOWN = [("bert", *row) for row in BERT_SHOWN.items()] + [("gpt2", *row) for row in GPT2_SHOWN.items()]
# An encoder's query always sees its own token, so adding the smallest float twice changes nothing.
INVISIBLE = {"mask-added-twice"}


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


# --------------------------------------------------------------------------------------------------------------------
# Correct ports


@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16"])
@pytest.mark.parametrize("name", PORTED)
def test_a_correct_port_raises_no_alarm(name: str, dtype: str, tmp_path: Path) -> None:
    if "large" in name and dtype == "bfloat16":
        # Scores of thousands have no meaning in 8 bits: the softmax of the reference itself picks other keys.
        case = Case("BertForMaskedLM", padding="none")
    else:
        case = PORTED[name]
    model = case.model()
    found = compare(model, dumped(tmp_path / "port", case, ported(case, model, dtype=dtype), dtype=dtype))
    assert not found.diverges, str(found)
    assert found.dtype == dtype
    assert {row.status for row in found.rows} == {"ok"}
    assert len(found.rows) > 40
    if "large" not in name:
        assert max(row.ratio or 0.0 for row in found.rows) < 4


def added_one_by_one(x: Any, weight: Any, bias: Any) -> Any:
    """A matrix product in the order of a simple loop, `[..., K]` and `[N, K]`."""
    return np.cumsum(x[..., None, :] * weight, axis=-1, dtype=np.float32)[..., -1] + bias


def test_a_port_of_the_real_checkpoint_that_adds_number_by_number_raises_no_alarm(tmp_path: Path) -> None:
    """Sums in the order of a simple loop err more than torch's, which are added in blocks."""
    model = minitf.BertModel.from_pretrained(minilm_folder())
    inputs = {"input_ids": torch.tensor([[101, 1037, 4937, 7719, 2006, 1996, 13523, 102]])}
    weights = {name: value.numpy() for name, value in model.state_dict().items()}
    record: dict[str, torch.Tensor] = {}
    layers = [f"encoder.layer.{number}." for number in range(6)]
    wanted = [
        "embeddings.output",
        *(layer + name for layer in layers for name in ("attention.output.output", "output")),
    ]
    observe(model, Call(inputs), wanted, lambda name, value: record.update({name: value}))
    for layer in layers:
        x = record[layer + "attention.output.output"].numpy()
        path = layer + "intermediate.dense"
        wide = added_one_by_one(x, weights[path + ".weight"], weights[path + ".bias"])
        record[path + ".output"] = torch.from_numpy(wide)
        wide = gelu(record[path + ".output"]).numpy()
        path = layer + "output.dense"
        record[path + ".output"] = torch.from_numpy(
            added_one_by_one(wide, weights[path + ".weight"], weights[path + ".bias"])
        )
    write_dump(tmp_path / "port", {**inputs, **record})
    found = compare(model, tmp_path / "port")
    assert not found.diverges, str(found)
    assert len(found.rows) == 25


# --------------------------------------------------------------------------------------------------------------------
# Ports with a mistake


def test_the_table_holds_every_mistake_of_the_ports() -> None:
    assert set(BERT_SHOWN) | INVISIBLE == NumpyBert.MISTAKES
    assert set(GPT2_SHOWN) == NumpyGPT2.MISTAKES


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "mistake", "shown"), SHOWN, ids=lambda value: value if isinstance(value, str) else "")
def test_a_mistake_of_a_port_is_found_where_it_is_made(
    kind: str, mistake: str, shown: tuple[str, str], tmp_path: Path
) -> None:
    case = PORTED[shown[0]]
    model = case.model()
    with np.errstate(over="ignore"):
        record = ported(case, model, mistakes={mistake})
    found = compare(model, dumped(tmp_path / "port", case, record))
    assert found.first is not None
    assert found.first.name == shown[1]
    assert found.diverges


@pytest.mark.parametrize("mistake", ["gelu-by-tanh", "value-bias-dropped", "padding-mask-ignored"])
def test_a_mistake_is_found_in_bfloat16_if_it_is_larger_than_rounding(mistake: str, tmp_path: Path) -> None:
    case = PORTED["words"]
    model = case.model()
    record = ported(case, model, dtype="bfloat16", mistakes={mistake})
    found = compare(model, dumped(tmp_path / "port", case, record, dtype="bfloat16"))
    assert found.diverges == (mistake != "gelu-by-tanh")


def test_every_wrong_operation_is_named_not_only_the_first(tmp_path: Path) -> None:
    case = PORTED["words"]
    model = case.model()
    record = ported(case, model, mistakes={"gelu-by-tanh", "value-bias-dropped", "prediction-bias-dropped"})
    found = compare(model, dumped(tmp_path / "port", case, record))
    layers = [f"bert.encoder.layer.{i}." for i in (0, 1)]
    assert set(found.wrong) == {
        *(layer + "attention.self.value.output" for layer in layers),
        *(layer + "intermediate.output" for layer in layers),
        "cls.predictions.transform.transform_act_fn.output",
        "cls.predictions.decoder.output",
    }


def test_a_coarse_dump_says_between_which_values_and_what_to_dump_next(tmp_path: Path) -> None:
    case = PORTED["next word"]
    model = case.model()
    record = ported(case, model, mistakes={"gelu-by-erf"})
    names = ["transformer.drop.output", "transformer.h.0.output", "transformer.h.1.output", "logits"]
    found = compare(model, dumped(tmp_path / "port", case, record, only=names))
    assert found.first is not None
    assert (found.first.name, found.first.after) == ("transformer.h.0.output", "transformer.drop.output")
    assert len(found.first.between) == 8
    for name in found.first.between:
        assert name in str(found)
    closer = compare(model, dumped(tmp_path / "next", case, record, only=[*names, G + "mlp.c_fc.output"]))
    assert closer.first is not None
    assert closer.first.after == G + "mlp.c_fc.output"
    assert closer.first.between == (G + "mlp.act.output", G + "mlp.c_proj.output")


def test_names_choose_and_what_a_dump_lacks_is_missing(tmp_path: Path) -> None:
    case = PORTED["words"]
    model = case.model()
    path = dumped(tmp_path / "port", case, ported(case, model), only=[ATTENTION + "scores", "logits"])
    found = compare(model, path, names=["**.scores", "logits"])
    assert [(row.name, row.status) for row in found.rows] == [
        (ATTENTION + "scores", "ok"),
        ("logits", "ok"),
        ("bert.encoder.layer.1.attention.self.scores", "missing"),
    ]
    assert not found.diverges
    assert "missing on one side: 1 of 3 names" in str(found)


def test_shapes_that_differ_are_a_divergence_but_a_batch_axis_of_one_is_not(tmp_path: Path) -> None:
    case = PORTED["words"]
    model = case.model()
    record = ported(case, model)
    record["bert.embeddings.position_embeddings.output"] = record["bert.embeddings.position_embeddings.output"][0]
    assert not compare(model, dumped(tmp_path / "a", case, record)).diverges
    record[ATTENTION + "probs"] = record[ATTENTION + "probs"].swapaxes(0, 1)
    found = compare(model, dumped(tmp_path / "b", case, record))
    assert found.first is not None
    assert (found.first.name, [row.status for row in found.rows].count("shape")) == (ATTENTION + "probs", 1)
    rows = {ATTENTION + "probs": {"name": ATTENTION + "probs", "axes": [1, 0, 2, 3]}}
    assert not compare(model, tmp_path / "b", map=rows).diverges


def test_a_dump_of_residual_aliases_and_a_cache(tmp_path: Path) -> None:
    case = PORTED["next word, cached"]
    model = case.model()
    record = ported(case, model)
    renamed = {"layer.0.resid_mid": record[G + "resid_mid"], "layer.1.resid_post": record["transformer.h.1.output"]}
    found = compare(model, dumped(tmp_path / "port", case, renamed))
    assert [row.status for row in found.rows] == ["ok", "ok"]
    assert found.rows[0].shapes[0] == (3, 3, 32)  # 3 of 7 positions: 4 are in the cache


# --------------------------------------------------------------------------------------------------------------------
# Two models, two dumps


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "mistake", "first"),
    [
        ("words", "gelu-by-tanh", B + "intermediate.intermediate_act_fn.output"),
        ("words", "value-bias-dropped", ATTENTION + "value.output"),
        ("words", "prediction-bias-dropped", "cls.predictions.decoder.output"),
        ("words", "positions-off-by-one", "bert.embeddings.position_embeddings.output"),
        ("next word", "c-proj-not-transposed", GPT2_ATTENTION + "c_proj.output"),
        ("next word", "ln-f-affine-skipped", "transformer.ln_f.output"),
        ("next word", "scores-scaled-by-layer-index", "transformer.h.1.attn.scores"),
    ],
)
def test_two_models_are_compared_by_layers_and_then_inside_the_first_that_differs(
    name: str, mistake: str, first: str
) -> None:
    case = PORTED[name]
    model = case.model()
    other = copy.deepcopy(model)
    fault = next(fault for fault in faults_for(model) if fault.name == mistake)
    with fault.inject(other):
        found = compare(model, other, inputs=case.call())
    assert found.first is not None
    assert found.first.name == first
    assert not compare(model, other, inputs=case.call()).diverges


def test_transformers_own_model_is_a_side_too() -> None:
    case = PORTED["words"]
    model = case.model()
    theirs = transformers.BertForMaskedLM(transformers.BertConfig(**BERT, attn_implementation="eager")).eval()
    theirs.load_state_dict(model.state_dict())
    assert not compare(model, theirs, inputs=case.inputs()).diverges
    assert not compare(theirs, model, inputs=case.inputs()).diverges
    theirs.bert.encoder.layer[1].output.LayerNorm.eps = 1e-3
    found = compare(model, theirs, inputs=case.inputs())
    assert found.first is not None
    assert found.first.name == "bert.encoder.layer.1.output.LayerNorm.output"


def test_models_are_left_as_they_were() -> None:
    case = PORTED["words"]
    model = case.model().train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    compare(model, copy.deepcopy(model), inputs=case.inputs())
    assert model.training
    assert model.config.attn_implementation == "sdpa"
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_copies_share_what_they_can_and_leave_the_model_alone() -> None:
    model = PORTED["words"].model()
    model.config.attn_implementation = "sdpa"
    eager = step_by_step(model)
    assert (model.config.attn_implementation, eager.config.attn_implementation) == ("sdpa", "eager")
    assert [p.data_ptr() for p in eager.parameters()] == [p.data_ptr() for p in model.parameters()]
    wide = in_dtype(eager, torch.float64)
    assert {p.dtype for p in wide.parameters()} == {torch.float64}
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert [name for name, _ in wide.named_parameters()] == [name for name, _ in model.named_parameters()]
    assert wide.cls.predictions.decoder.weight is wide.bert.embeddings.word_embeddings.weight
    assert in_dtype(wide, torch.float64) is wide


def test_two_dumps_without_a_reference(tmp_path: Path) -> None:
    case = PORTED["words"]
    model = case.model()
    sound = dumped(tmp_path / "a", case, ported(case, model))
    other = dumped(tmp_path / "b", case, ported(case, model, mistakes={"value-bias-dropped"}))
    assert not compare(sound, dumped(tmp_path / "c", case, ported(case, model))).diverges
    found = compare(sound, other)
    assert found.first is not None
    assert found.first.name == ATTENTION + "value.output"
    assert "Two dumps" in str(found)


# --------------------------------------------------------------------------------------------------------------------
# Errors


def test_errors_say_what_to_do(tmp_path: Path) -> None:
    case = PORTED["words"]
    model = case.model()
    record = ported(case, model)
    write_dump(tmp_path / "bare", {"logits": torch.from_numpy(record["logits"])})
    with pytest.raises(ValueError, match="there are no inputs to run the reference on: put input_ids"):
        compare(model, tmp_path / "bare")
    assert not compare(model, tmp_path / "bare", inputs=case.inputs()).diverges
    write_dump(tmp_path / "inputs", case.inputs())
    with pytest.raises(ValueError, match=r"inputs holds inputs only \(input_ids, .*: add values that the port"):
        compare(model, tmp_path / "inputs")
    record["bert.encoder.layer.0.attention.scores"] = record.pop(ATTENTION + "scores")
    path = dumped(tmp_path / "port", case, record)
    with pytest.raises(
        ValueError, match=r"which the reference does not compute; near names are .*attention\.self\.scores"
    ):
        compare(model, path)
    own = "bert.encoder.layer.0.attention.scores"
    assert not compare(model, path, map={own: ATTENTION + "scores"}).diverges
    with pytest.raises(ValueError, match=r"input_ids is given, and stands in .* with other values"):
        compare(model, path, inputs={"input_ids": torch.tensor([[1]])}, map={own: None})
    with pytest.raises(ValueError, match=r"'token_types', which BertForMaskedLM\.forward does not take"):
        compare(model, model, inputs={**case.inputs(), "token_types": torch.zeros(1)})
    with pytest.raises(TypeError, match="3 is a int; expected a folder, a dump or a model"):
        compare(model, 3)  # type: ignore[arg-type]


# --------------------------------------------------------------------------------------------------------------------
# The measures


def test_the_measures_by_hand() -> None:
    expected = torch.tensor([[3.0, 4.0], [0.0, 0.0]])
    found = torch.tensor([[3.0, 4.5], [0.0, 0.0]])
    apart = difference("x.output", found, expected, torch.float32)
    assert (apart.max_abs, apart.relative_l2, apart.position, apart.count) == (0.5, 0.1, (0, 1), 4)
    assert apart.ulp == 0.5 / (4 * 2.0**-23)
    assert Floor(0.1, 0.1).ratio(apart) == 5.0
    assert ratio_of("x.output", found.double(), expected.double(), Floor(0.1, 0.1)) == 5.0
    assert floor_of(difference("x", expected, expected, torch.float32), torch.float32) == Floor(4 * 2.0**-24, 2.0**-24)
    assert last_place(1.0, torch.bfloat16) == 2.0**-7


def test_nan_and_infinity_count_unless_both_have_them() -> None:
    numbers, broken = torch.tensor([1.0, 2.0]), torch.tensor([1.0, float("nan")])
    assert difference("x", broken, numbers, torch.float32).max_abs == float("inf")
    assert difference("x", numbers, broken, torch.float32).max_abs == float("inf")
    assert difference("x", broken, broken, torch.float32).max_abs == 0
    assert ratio_of("x", broken.double(), broken.double(), Floor(1, 1)) == 0
    assert ratio_of("x", broken.double(), numbers.double(), Floor(1, 1)) == float("inf")


def test_padding_is_not_compared_but_its_nan_is() -> None:
    mask = torch.tensor([[1, 1, 0]])
    expected, found = torch.ones(1, 3, 4), torch.ones(1, 3, 4)
    found[0, 2] = 9.0
    for measure in (
        lambda: difference("x.output", found, expected, torch.float32, mask).max_abs,
        lambda: ratio_of("x.output", found.double(), expected.double(), Floor(1, 1), mask),
    ):
        found[0, 2] = 9.0
        assert measure() == 0
        found[0, 2, 1] = float("nan")
        assert measure() == float("inf")
    scores = torch.zeros(1, 2, 3, 3)
    other = scores.clone()
    other[:, :, 2] = 5.0  # the query at padding
    assert difference("a.scores", other, scores, torch.float32, mask).max_abs == 0
    other[:, :, 1, 0] = 5.0
    assert difference("a.scores", other, scores, torch.float32, mask).position == (0, 0, 1, 0)


def test_how_negative_a_hidden_score_is_does_not_matter_but_that_it_is_hidden() -> None:
    expected = torch.tensor([1.0, torch.finfo(torch.float32).min])
    for hidden in (-1e4, -1e9, -float("inf")):
        assert difference("a.scores", torch.tensor([1.0, hidden]), expected, torch.float32).max_abs == 0
    assert difference("a.scores", torch.tensor([1.0, 2.0]), expected, torch.float32).max_abs > 1000


def test_only_a_batch_axis_of_one_is_filled_in() -> None:
    value = torch.zeros(4, 5)
    assert fitted(value, (1, 4, 5)) is not None
    assert fitted(value[None].repeat(3, 1, 1), (1, 4, 5)) is not None
    assert fitted(value[None], (4, 5)) is not None
    assert fitted(value, (4, 1)) is None
    assert fitted(value.t(), (4, 5)) is None


# --------------------------------------------------------------------------------------------------------------------
# The command and the page


class Counter(HTMLParser):
    """Checks that tags are closed in order, and counts them."""

    VOID = frozenset({"meta", "br", "!doctype"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[str] = []

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.seen.append(tag)
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    case = PORTED["words"]
    model = case.model()
    folder, port = str(tmp_path / "model"), str(tmp_path / "port.safetensors")
    model.save_pretrained(folder)
    dumped(Path(port), case, ported(case, model, mistakes={"gelu-by-tanh"}))
    assert main(["compare", folder, port, "--html", str(tmp_path / "page.html"), "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert found["first"]["name"] == B + "intermediate.output"
    assert len(found["rows"]) == 58
    page = Counter()
    page.feed((tmp_path / "page.html").read_text(encoding="utf-8"))
    assert page.open == []
    assert page.seen.count("tr") == 59
    assert "script" not in page.seen
    assert main(["compare", folder, port, "--names", "bert.embeddings.output"]) == 0
    assert "no divergence: 1 of 1 values agree" in capsys.readouterr().out
    assert main(["compare", folder, folder, "--inputs", port, "--dtype", "float32"]) == 0
    capsys.readouterr()
    assert main(["compare", folder]) == 2
    assert main(["compare", folder, port, "--inputs", port, "--text", "a"]) == 2
    assert main(["compare", folder, str(tmp_path / "none.npz")]) == 1
    assert "none.npz: no such dump" in capsys.readouterr().err
    assert main(["compare", folder, port, "--html", str(tmp_path)]) == 1
    assert "is a folder; expected the name of a file" in capsys.readouterr().err
    assert main(["compare", folder, folder]) == 1
    assert "there are no inputs" in capsys.readouterr().err


def test_a_text_is_read_with_the_folders_tokenizer(capsys: pytest.CaptureFixture[str]) -> None:
    folder = str(minilm_folder())
    assert main(["compare", folder, f"transformers:{folder}", "--text", "A cat sat.", "--text", "No."]) == 0
    assert "encoder.layer.5.output" in capsys.readouterr().out


def test_the_page_escapes_what_it_shows(tmp_path: Path) -> None:
    case = PORTED["words"]
    model = case.model()
    path = dumped(tmp_path / "<b>.safetensors", case, ported(case, model), only=["logits"])
    assert "<b>" not in comparison_page(compare(model, path))


STREAMED = """
import resource, sys, torch
from pathlib import Path
import minitf
from minitf.parity.compare import compare
from minitf.parity.runs import Call, recorded
from minitf.tracing.names import Names

torch.set_num_threads(1)
model = minitf.BertModel(minitf.BertConfig(vocab_size=9, hidden_size=32, num_hidden_layers=24, num_attention_heads=4,
                                           intermediate_size=64, max_position_embeddings=512)).eval()
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
folder = Path(sys.argv[1])
small, large = (Call({"input_ids": torch.ones(2, length, dtype=torch.long)}) for length in (8, 320))
for call, file in ((small, "small"), (large, "large")):
    with recorded(model, call, ["all"], folder / file):
        pass
before = compare(model, folder / "small", inputs=small) and peak()
assert not compare(model, folder / "large", inputs=large).diverges
layer = 2 * 4 * 320 * 320 * 8  # scores of one layer in float64
print((peak() - before) / layer, (folder / "large").stat().st_size / layer)
"""


@pytest.mark.slow
def test_a_comparison_takes_the_memory_of_a_layer_not_of_the_dump(tmp_path: Path) -> None:
    command = [sys.executable, "-c", STREAMED, str(tmp_path)]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True)
    used, dump = map(float, done.stdout.split())
    assert dump > 24  # scores and probabilities of 24 layers in float32, and the rest
    assert used < dump / 2, f"{used:.1f} tensors of scores, where the dump holds {dump:.1f}"
