"""The tests are tested: each known mistake is made in our BERT, and the parity tests must object.

A mistake is looked for by one of the parity tests themselves (`PROBES`), called with a model that has the mistake. The
same models tell how large a mistake shows: freshly initialised (where some show as exactly 0) and with all parameters
random. `pytest -s tests/faults/test_bert_faults.py` prints that table.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor

import minitf
from minitf.parity.faults.bert_faults import BY_NAME, FAULTS, NOT_IN_BERT
from minitf.parity.faults.injecting import Fault
from tests.faults.probing import Probe, difference, tensors
from tests.goldens import bert_runs
from tests.parity import test_bert, test_bert_decoder, test_bert_goldens, test_bert_settings
from tests.parity.bert_pairs import TINY, inputs_for
from tests.support import randomise_

GOLDEN_CASES = test_bert_goldens.BY_NAME


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def built(class_name: str, **settings: Any) -> Callable[[bool], Any]:
    def build(fresh: bool) -> Any:
        torch.manual_seed(0)
        model = getattr(minitf, class_name)(minitf.BertConfig(**{**TINY, **settings}, attn_implementation="eager"))
        return (model if fresh else randomise_(model)).eval()

    return build


def ran(inputs: dict[str, Any], *, training: bool = False, **flags: Any) -> Callable[[Any], list[Tensor]]:
    def run(model: Any) -> list[Tensor]:
        torch.manual_seed(11)
        with torch.no_grad():
            return tensors(model.train(training)(**inputs, **flags))

    return run


def of_the_grid(class_name: str, *, padding: str = "right", training: bool = False) -> Probe:
    """Forward, loss and every gradient against transformers 5.x."""
    settings = test_bert.is_causal(class_name)
    return Probe(
        lambda: test_bert.test_forward_loss_and_every_gradient_are_equal(
            class_name, "eager", padding, training, torch.float32
        ),
        built(class_name, **settings),
        ran(inputs_for(class_name, padding=padding), training=training),
    )


def of_the_goldens(name: str) -> Probe:
    """A case recorded from transformers 4.49."""
    case = GOLDEN_CASES[name]
    cached = case.run == "cached"
    test = (
        test_bert_goldens.test_every_way_of_decoding_gives_the_uncached_logits
        if cached
        else test_bert_goldens.test_numbers_and_facts_are_those_of_4_49
    )

    def run(model: Any) -> list[Tensor]:
        inputs = bert_runs.make_inputs(case)
        with torch.no_grad():
            if not cached:
                return tensors(model(**inputs))
            real = inputs["attention_mask"].bool()
            return [bert_runs.decode(model, inputs, lengths)[real] for lengths in case.options["pieces"]]

    def build(fresh: bool) -> Any:
        torch.manual_seed(0)
        return bert_runs.build(minitf, case, fill=not fresh)

    return Probe(lambda: test(case), build, run)


def of_sequence_losses(number: int, labels: Tensor) -> Probe:
    class_name = "BertForSequenceClassification"
    return Probe(
        lambda: test_bert.test_sequence_classification_losses_by_problem_type({"num_labels": number}, labels),
        built(class_name, num_labels=number),
        ran({**inputs_for(class_name, labels=False), "labels": labels}),
    )


def of_cached_decoding() -> Probe:
    inputs = test_bert_decoder.decoder_inputs("decoder", labels=False)
    real = inputs["attention_mask"].bool()

    def run(model: Any) -> list[Tensor]:
        with torch.no_grad():
            return [bert_runs.decode(model, inputs, lengths)[real] for lengths in test_bert_decoder.PIECES]

    return Probe(
        lambda: test_bert_decoder.test_decoding_with_a_cache_gives_the_oracles_and_the_uncached_logits(
            "decoder", "right", "eager"
        ),
        built("BertLMHeadModel", is_decoder=True),
        run,
    )


def of_large_scores() -> Probe:
    """Fresh queries and keys are ten times smaller than random ones, so they are enlarged ten times more."""
    build = built("BertForMaskedLM")
    return Probe(
        lambda: test_bert_settings.test_what_is_hidden_stays_hidden_whatever_the_scores(
            "BertForMaskedLM", "right", "eager"
        ),
        lambda fresh: test_bert_settings.enlarge_scores_(build(fresh), 2000.0 if fresh else 200.0),
        ran(inputs_for("BertForMaskedLM")),
    )


PROBES: dict[str, Probe] = {
    "masked words": of_the_grid("BertForMaskedLM"),
    "masked words, left padding": of_the_grid("BertForMaskedLM", padding="left"),
    "masked words, training": of_the_grid("BertForMaskedLM", training=True),
    "classes": of_the_grid("BertForSequenceClassification"),
    "pre-training": of_the_grid("BertForPreTraining"),
    "next sentence": of_the_grid("BertForNextSentencePrediction"),
    "questions": of_the_grid("BertForQuestionAnswering"),
    "left to right": of_the_grid("BertLMHeadModel"),
    "left to right, left padding": of_the_grid("BertLMHeadModel", padding="left"),
    "a number": of_sequence_losses(1, torch.tensor([0.3, -1.2, 2.0])),
    "several labels": of_sequence_losses(2, torch.tensor([[1.0, 0.0], [1.0, 1.0], [0.0, 0.0]])),
    "hidden states": Probe(
        lambda: test_bert.test_hidden_states_and_attentions_are_equal("BertModel"),
        built("BertModel"),
        ran(inputs_for("BertModel"), output_hidden_states=True),
    ),
    "large scores": of_large_scores(),
    "large eps": Probe(
        lambda: test_bert_settings.test_settings_that_change_the_numbers("layer_norm_eps=0.25", "BertForMaskedLM"),
        built("BertForMaskedLM", layer_norm_eps=0.25),
        ran(inputs_for("BertForMaskedLM")),
    ),
    "cached decoding": of_cached_decoding(),
    "cross-attention": Probe(
        lambda: test_bert_decoder.test_cross_attention_has_the_oracles_loss_and_gradients("eager", "right", False),
        built("BertLMHeadModel", is_decoder=True, add_cross_attention=True),
        ran(test_bert_decoder.decoder_inputs("cross-attention"), use_cache=False),
    ),
    "head mask": of_the_goldens("head_mask [L, H] fractional encoder"),
    "relative key": of_the_goldens("relative_key encoder right"),
    "relative key and query": of_the_goldens("relative_key_query encoder right"),
    "relative key, cached": of_the_goldens("relative_key decoder cached right"),
}

# Where a mistake shows, if not in masked words.
SHOWS_IN: dict[str, str] = {
    "positions-skip-padding": "masked words, left padding",
    "mask-of-minus-10000": "large scores",
    "mask-added-twice": "left to right, left padding",
    "layernorm-eps-outside-the-root": "large eps",
    "hidden-states-without-the-embeddings": "hidden states",
    **dict.fromkeys(
        ("pooler-left-out", "pooler-without-tanh", "pooler-of-the-last-token", "pooler-of-the-mean"), "classes"
    ),
    **dict.fromkeys(
        ("attention-dropout-missing", "dropout-of-whole-embeddings", "embedding-dropout-before-layernorm"),
        "masked words, training",
    ),
    **dict.fromkeys(("label-shift-missing", "label-shift-twice"), "left to right"),
    "next-sentence-labels-inverted": "next sentence",
    "pretraining-losses-averaged": "pre-training",
    **dict.fromkeys(
        ("answers-beyond-the-text-scored", "answer-losses-summed", "answer-start-and-end-exchanged"), "questions"
    ),
    "squared-error-summed": "a number",
    "several-labels-by-softmax": "several labels",
    **dict.fromkeys(
        ("causal-mask-missing", "causal-mask-sees-the-next-token", "causal-mask-hides-the-token-itself"),
        "left to right",
    ),
    **dict.fromkeys(
        (
            "causal-mask-off-by-one-with-cache",
            "causal-mask-of-the-upper-left-with-cache",
            "positions-not-advanced-with-cache",
        ),
        "cached decoding",
    ),
    **dict.fromkeys(("cross-attention-to-the-decoder", "encoder-padding-ignored"), "cross-attention"),
    **dict.fromkeys(("head-mask-ignored", "head-mask-before-the-softmax"), "head mask"),
    **dict.fromkeys(
        (
            "relative-positions-sign-flipped",
            "relative-positions-not-scaled",
            "relative-positions-ignored",
            "absolute-positions-added-to-relative-ones",
        ),
        "relative key",
    ),
    "relative-positions-of-the-query-only": "relative key and query",
    **dict.fromkeys(
        ("relative-positions-not-advanced-with-cache", "relative-positions-of-the-last-query-with-cache"),
        "relative key, cached",
    ),
}

# Largest difference of the logits that is on record for masked words: (freshly initialised, all parameters random).
ON_RECORD: dict[str, tuple[float | None, float]] = {
    "query-and-key-bias-swapped": (0.0, 1.1),
    "value-bias-dropped": (0.0, 1.3),
    "layernorms-of-a-layer-confused": (0.0, 7.1),
    "prediction-bias-dropped": (0.0, 0.41),
    "gelu-by-tanh": (3.8e-5, 3.6e-3),
    "layernorm-eps-1e-5": (4.0e-4, 2.1e-4),
    "padding-mask-ignored": (5.3e-3, 1.7),
    "token-types-not-added": (0.29, 7.4),
    "scores-not-scaled": (None, 1.5),
    "positions-off-by-one": (None, 2.9),
}

# A model that was only initialised cannot see these at all: its biases are 0 and its LayerNorms alike.
HIDDEN_BY_DEFAULT_INITIALISATION = {
    "query-and-key-bias-swapped",
    "value-bias-dropped",
    "layernorms-of-a-layer-confused",
    "prediction-bias-dropped",
}

# And these pass a comparison with a tolerance of 1e-3 there.
ROUNDING_BY_DEFAULT_INITIALISATION = {
    "scores-not-scaled",
    "scores-scaled-by-width",
    "scores-scaled-by-layer-index",
    "softmax-in-half-precision",
    "gelu-by-tanh",
    "layernorm-eps-1e-5",
    "relative-positions-not-advanced-with-cache",
    "relative-positions-of-the-last-query-with-cache",
}

# Honest limits: mistakes that an ordinary padded batch does not show, whatever the parameters.
UNSEEN_IN_MASKED_WORDS = ("mask-of-minus-10000", "mask-added-twice", "layernorm-eps-outside-the-root")


def probe_of(fault: Fault) -> Probe:
    return PROBES[SHOWS_IN.get(fault.name, "masked words")]


@contextmanager
def models_with(fault: Fault) -> Iterator[None]:
    """Every model of ours that the parity tests build has the mistake."""
    with ExitStack() as injections, pytest.MonkeyPatch.context() as patch:

        def of_pairs(before: Any) -> Any:
            def pair(*args: Any, **settings: Any) -> Any:
                ours, theirs = before(*args, **settings)
                return injections.enter_context(fault.inject(ours)), theirs

            return pair

        def of_goldens(before: Any) -> Any:
            def build(library: Any, case: Any, **changes: Any) -> Any:
                return injections.enter_context(fault.inject(before(library, case, **changes)))

            return build

        for module in (test_bert, test_bert_decoder, test_bert_settings):
            patch.setattr(module, "pair", of_pairs(module.pair))
        patch.setattr(bert_runs, "build", of_goldens(bert_runs.build))
        yield


def by_name(fault: Fault) -> str:
    return fault.name


@pytest.mark.parametrize("name", PROBES)
def test_parity_does_not_object_to_a_sound_model(name: str) -> None:
    PROBES[name].parity()


@pytest.mark.parametrize("fault", FAULTS, ids=by_name)
def test_parity_objects(fault: Fault) -> None:
    with models_with(fault), pytest.raises(AssertionError):
        probe_of(fault).parity()


@pytest.mark.parametrize("fault", [f for f in FAULTS if f.name not in SHOWS_IN], ids=by_name)
def test_parity_objects_under_sdpa(fault: Fault) -> None:
    with models_with(fault), pytest.raises(AssertionError):
        test_bert.test_forward_loss_and_every_gradient_are_equal(
            "BertForMaskedLM", "sdpa", "right", False, torch.float32
        )


@pytest.mark.parametrize("name", UNSEEN_IN_MASKED_WORDS)
def test_what_an_ordinary_batch_does_not_show(name: str) -> None:
    """Neither the forward pass nor a gradient: this is why the probes with large scores and a large eps exist."""
    with models_with(BY_NAME[name]):
        PROBES["masked words"].parity()
    assert difference(BY_NAME[name], PROBES["masked words"], fresh=True) == 0
    assert difference(BY_NAME[name], PROBES["masked words"], fresh=False) == 0


@pytest.mark.parametrize("fault", FAULTS, ids=by_name)
def test_a_mistake_is_taken_back_completely(fault: Fault) -> None:
    probe = probe_of(fault)
    model = probe.build(False)
    before = probe.run(model), list(model.state_dict()), [name for name, _ in model.named_modules()]
    with fault.inject(model):
        probe.run(model)
    after = probe.run(model)
    assert all(torch.equal(a, b) for a, b in zip(before[0], after, strict=True))
    assert list(model.state_dict()) == before[1]
    assert [name for name, _ in model.named_modules()] == before[2]


def test_how_large_the_mistakes_are_and_which_ones_default_initialisation_hides() -> None:
    rows = {f.name: tuple(difference(f, probe_of(f), fresh=fresh) for fresh in (True, False)) for f in FAULTS}
    print(f"\n\n{'mistake':<50}{'shows in':<30}{'fresh':>10}{'random':>10}")
    for name, (fresh, random) in rows.items():
        print(f"{name:<50}{SHOWS_IN.get(name, 'masked words'):<30}{fresh:>10.2g}{random:>10.2g}")
    assert {name for name, (fresh, _) in rows.items() if fresh == 0} == HIDDEN_BY_DEFAULT_INITIALISATION
    assert {name for name, (fresh, _) in rows.items() if 0 < fresh < 1e-3} == ROUNDING_BY_DEFAULT_INITIALISATION
    assert [name for name, (_, random) in rows.items() if random < 1e-4] == []
    for name, (fresh, random) in ON_RECORD.items():
        assert rows[name][1] >= random / 3, name
        assert fresh is None or (rows[name][0] == 0) == (fresh == 0), name
        assert fresh is None or rows[name][0] >= fresh / 10, name


def test_the_table_is_usable_by_a_reader_and_by_a_search() -> None:
    assert len(BY_NAME) == len({fault.what for fault in FAULTS}) == len(FAULTS)
    assert set(SHOWS_IN) | set(ON_RECORD) | set(UNSEEN_IN_MASKED_WORDS) <= set(BY_NAME)
    for fault in FAULTS:
        assert fault.name == fault.name.lower().replace(" ", "-")
        assert len(fault.what.split()) >= 4, fault.name
        assert len(fault.remedy.split()) >= 4, fault.name
    assert all(len(reason.split()) > 5 for reason in NOT_IN_BERT.values())


def test_two_mistakes_at_once_are_both_made_and_both_taken_back() -> None:
    probe = PROBES["masked words"]
    model = probe.build(False)
    sound = probe.run(model)[-1]
    first, second = BY_NAME["scores-not-scaled"], BY_NAME["padding-mask-ignored"]
    with first.inject(model):
        one = probe.run(model)[-1]
        with second.inject(model):
            both = probe.run(model)[-1]
        assert torch.equal(probe.run(model)[-1], one)
    assert torch.equal(probe.run(model)[-1], sound)
    assert not torch.equal(one, both)
    assert not torch.equal(one, sound)


def test_a_mistake_that_a_model_has_no_part_for_is_refused() -> None:
    model = built("BertForMaskedLM")(True)
    refused = [fault for fault in FAULTS if not list(fault.changes(model))]
    for fault in refused:
        assert fault.needs
        with pytest.raises(ValueError, match=re.escape(fault.needs)), fault.inject(model):
            pass
    names = {fault.name for fault in refused}
    assert {"pooler-left-out", "cross-attention-to-the-decoder", "relative-positions-ignored"} <= names
    assert names.isdisjoint(name for name in BY_NAME if SHOWS_IN.get(name, "masked words") == "masked words")
