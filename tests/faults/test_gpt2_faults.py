"""The tests are tested: each known mistake is made in our GPT-2, and the parity tests must object.

A mistake is looked for by one of the parity tests themselves (`PROBES`), called with a model that has the mistake. The
same models tell how large a mistake shows: freshly initialised (where some show as exactly 0) and with all parameters
random. `pytest -s tests/faults/test_gpt2_faults.py` prints that table.
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
from minitf.parity.faults.gpt2_faults import BY_NAME, FAULTS, NOT_IN_GPT2
from minitf.parity.faults.injecting import Fault
from tests.faults.probing import Probe, difference, tensors
from tests.goldens import gpt2_runs
from tests.parity import test_gpt2, test_gpt2_cache, test_gpt2_goldens, test_gpt2_settings
from tests.parity.gpt2_pairs import TINY, attended, different, encoder_inputs, inputs_for, pair
from tests.support import randomise_

GOLDEN_CASES = test_gpt2_goldens.BY_NAME


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


# --------------------------------------------------------------------------------------------------------------------
# The probes


def built(class_name: str, dtype: torch.dtype = torch.float32, **settings: Any) -> Callable[[bool], Any]:
    def build(fresh: bool) -> Any:
        torch.manual_seed(0)
        model = getattr(minitf, class_name)(minitf.GPT2Config(**{**TINY, **settings}, attn_implementation="eager"))
        return (model if fresh else randomise_(model)).to(dtype).eval()

    return build


def ran(
    class_name: str, inputs: dict[str, Any], *, training: bool = False, **flags: Any
) -> Callable[[Any], list[Tensor]]:
    """What the model gives where there are tokens: at padding the libraries differ on purpose."""

    def run(model: Any) -> list[Tensor]:
        torch.manual_seed(11)
        with torch.no_grad():
            output = model.train(training)(**inputs, **flags)
        return tensors(attended(class_name, output, inputs["attention_mask"]))

    return run


def of_the_grid(class_name: str, *, padding: str = "right", training: bool = False) -> Probe:
    """Forward, loss and every gradient against transformers 5.x."""
    return Probe(
        lambda: test_gpt2.test_forward_loss_and_every_gradient_are_equal(
            class_name, "eager", padding, training, torch.float32
        ),
        built(class_name),
        ran(class_name, inputs_for(class_name, padding=padding), training=training),
    )


def of_the_settings(setting: str) -> Probe:
    """A configuration away from the defaults, against transformers 5.x."""
    return Probe(
        lambda: test_gpt2_settings.test_settings_that_change_the_numbers(setting, "eager", "GPT2LMHeadModel"),
        built("GPT2LMHeadModel", **test_gpt2_settings.SETTINGS[setting]),
        ran("GPT2LMHeadModel", inputs_for("GPT2LMHeadModel", padding="left")),
    )


def of_the_goldens(name: str) -> Probe:
    """A case recorded from transformers 4.49."""
    case = GOLDEN_CASES[name]

    def run(model: Any) -> list[Tensor]:
        with torch.no_grad():
            return tensors(model(**gpt2_runs.make_inputs(case)))

    def build(fresh: bool) -> Any:
        torch.manual_seed(0)
        return gpt2_runs.build(minitf, case, fill=not fresh)

    return Probe(lambda: test_gpt2_goldens.test_numbers_and_facts_are_those_of_4_49(case), build, run)


def of_sequence_losses(number: int, labels: Tensor) -> Probe:
    class_name = "GPT2ForSequenceClassification"
    inputs = {**inputs_for(class_name, labels=False), "labels": labels}
    return Probe(
        lambda: test_gpt2_settings.test_sequence_classification_losses_by_problem_type(
            {"num_labels": number}, labels, "right"
        ),
        built(class_name, num_labels=number),
        ran(class_name, inputs),
    )


def of_large_scores() -> Probe:
    """Fresh queries and keys are ten times smaller than random ones, so they are enlarged ten times more."""
    build = built("GPT2LMHeadModel")
    return Probe(
        lambda: test_gpt2_settings.test_what_is_hidden_stays_hidden_whatever_the_scores("right", "eager"),
        lambda fresh: test_gpt2_settings.enlarge_scores_(build(fresh), 2000.0 if fresh else 200.0),
        ran("GPT2LMHeadModel", inputs_for("GPT2LMHeadModel")),
    )


def of_upcasting() -> Probe:
    return Probe(
        test_gpt2_settings.test_upcasting_is_more_exact_in_half_precision,
        built("GPT2LMHeadModel", torch.bfloat16, reorder_and_upcast_attn=True),
        ran("GPT2LMHeadModel", inputs_for("GPT2LMHeadModel")),
    )


def of_decoding(setting: str, padding: str, *, positions: bool = True) -> Probe:
    """A text in pieces, cached, against the uncached numbers and transformers' cache."""
    inputs = test_gpt2_cache.text(padding, encoder=setting == "cross-attention")
    real = inputs["attention_mask"].bool()
    if not positions:
        del inputs["position_ids"]

    def run(model: Any) -> list[Tensor]:
        with torch.no_grad():
            return [test_gpt2_cache.decode(model, inputs, lengths)[0][real] for lengths in test_gpt2_cache.PIECES]

    def parity() -> None:
        if positions:
            test_gpt2_cache.test_cached_equals_uncached_and_the_oracle(setting, padding, "eager")
        else:
            test_gpt2_cache.test_positions_continue_after_the_cache_by_themselves(padding)

    return Probe(parity, built("GPT2LMHeadModel", **test_gpt2_cache.SETTINGS[setting]), run)


def of_cropping() -> Probe:
    inputs = test_gpt2_cache.text("none")
    del inputs["attention_mask"]  # all ones; its length is that of a cache that was cropped correctly

    def run(model: Any) -> list[Tensor]:
        with torch.no_grad():
            _, cache = test_gpt2_cache.decode(model, inputs, [2, 1, 1, 1, 1, 1])
            cache.crop(3)
            return [test_gpt2_cache.decode(model, inputs, [1, 2, 1], cache, start=3)[0]]

    return Probe(test_gpt2_cache.test_crop_forgets_positions, built("GPT2LMHeadModel"), run)


def of_reordering(setting: str, change: Callable[[Any], None]) -> Probe:
    inputs = test_gpt2_cache.text("none", encoder=setting == "cross-attention")

    def run(model: Any) -> list[Tensor]:
        with torch.no_grad():
            _, cache = test_gpt2_cache.decode(model, inputs, [3, 1])
            change(cache)
            rows = len(cache[0][0])
            chosen = {name: value[:1].expand(rows, *value.shape[1:]) for name, value in inputs.items()}
            return [test_gpt2_cache.decode(model, chosen, [1, 2], cache, start=4)[0]]

    return Probe(
        lambda: test_gpt2_cache.test_reorder_repeat_and_select_rows(setting, "none"),
        built("GPT2LMHeadModel", **test_gpt2_cache.SETTINGS[setting]),
        run,
    )


def of_fresh_weights() -> Probe:
    settings: dict[str, Any] = {}
    return Probe(
        lambda: test_gpt2.test_the_same_seed_draws_the_same_fresh_weights("GPT2LMHeadModel", 0, settings),
        built("GPT2LMHeadModel"),
        ran("GPT2LMHeadModel", inputs_for("GPT2LMHeadModel")),
        builds_itself=True,
    )


CROSS_INPUTS = {**inputs_for("GPT2LMHeadModel"), **encoder_inputs()}

PROBES: dict[str, Probe] = {
    "words": of_the_grid("GPT2LMHeadModel", padding="left"),
    "words, right padding": of_the_grid("GPT2LMHeadModel"),
    "words, training": of_the_grid("GPT2LMHeadModel", training=True),
    "two heads": of_the_grid("GPT2DoubleHeadsModel"),
    "classes": of_the_grid("GPT2ForSequenceClassification"),
    "classes, left padding": of_the_grid("GPT2ForSequenceClassification", padding="left"),
    "token classes": of_the_grid("GPT2ForTokenClassification"),
    "questions": of_the_grid("GPT2ForQuestionAnswering"),
    "a number": of_sequence_losses(1, torch.tensor([0.3, -1.2, 2.0])),
    "several labels": of_sequence_losses(2, torch.tensor([[1.0, 0.0], [1.0, 1.0], [0.0, 0.0]])),
    "hidden states": Probe(
        lambda: test_gpt2.test_hidden_states_and_attentions_are_equal("GPT2Model", "none"),
        built("GPT2Model"),
        ran("GPT2Model", inputs_for("GPT2Model", padding="none"), output_hidden_states=True),
    ),
    "kept logits": Probe(
        lambda: test_gpt2.test_logits_to_keep(3),
        built("GPT2LMHeadModel"),
        lambda model: tensors(model(inputs_for("GPT2LMHeadModel")["input_ids"], logits_to_keep=3)),
    ),
    "large scores": of_large_scores(),
    "not scaled": of_the_settings("scale_attn_weights=False"),
    "scaled by layer": of_the_settings("scale_attn_by_inverse_layer_idx"),
    "large eps": of_the_settings("layer_norm_epsilon=0.25"),
    "upcasting": of_upcasting(),
    "head mask": of_the_goldens("head_mask [L, H] fractional trunk"),
    "fresh weights": of_fresh_weights(),
    "decoding": of_decoding("plain", "none"),
    "decoding, left padding": of_decoding("plain", "left"),
    "decoding without positions": of_decoding("plain", "none", positions=False),
    "decoding with an encoder": of_decoding("cross-attention", "none"),
    "cropping": of_cropping(),
    "reordering": of_reordering("plain", lambda cache: cache.reorder(test_gpt2_cache.ROWS)),
    "reordering with an encoder": of_reordering("cross-attention", lambda cache: cache.reorder(test_gpt2_cache.ROWS)),
    "repeating": of_reordering("plain", lambda cache: cache.batch_repeat(2)),
    "cross-attention": Probe(
        lambda: test_gpt2.test_cross_attention_has_the_oracles_loss_and_gradients("eager", "right", False),
        built("GPT2LMHeadModel", add_cross_attention=True),
        ran("GPT2LMHeadModel", CROSS_INPUTS, use_cache=False),
    ),
    "the encoder's keys": Probe(
        test_gpt2_cache.test_keys_of_the_encoder_are_computed_once,
        built("GPT2LMHeadModel", add_cross_attention=True),
        of_decoding("cross-attention", "none").run,
    ),
}

# Where a mistake shows, if not in the words of a batch that is padded on the left.
SHOWS_IN: dict[str, str] = {
    **dict.fromkeys(
        ("attention-dropout-missing", "residual-dropout-missing", "dropout-of-whole-embeddings"), "words, training"
    ),
    "mask-of-minus-10000": "large scores",
    "layernorm-eps-outside-the-root": "large eps",
    "scale-attn-weights-ignored": "not scaled",
    **dict.fromkeys(("layer-scaling-ignored", "layer-scaling-counted-from-zero"), "scaled by layer"),
    "upcasting-ignored": "upcasting",
    **dict.fromkeys(("head-mask-ignored", "head-mask-before-the-softmax"), "head mask"),
    **dict.fromkeys(("hidden-states-before-ln-f", "hidden-states-without-the-embeddings"), "hidden states"),
    "residual-initialisation-forgotten": "fresh weights",
    "logits-of-the-first-positions-kept": "kept logits",
    **dict.fromkeys(("mc-token-ids-ignored", "choices-scored-by-the-wrong-row"), "two heads"),
    **dict.fromkeys(
        (
            "classifier-reads-the-last-position",
            "classifier-reads-the-token-before-the-last",
            "classifier-reads-the-first-padding",
            "classifier-reads-the-first-token",
        ),
        "classes",
    ),
    "classifier-counts-tokens": "classes, left padding",
    "squared-error-summed": "a number",
    "several-labels-by-softmax": "several labels",
    "token-labels-shifted": "token classes",
    **dict.fromkeys(
        ("answers-beyond-the-text-scored", "answer-losses-summed", "answer-start-and-end-exchanged"), "questions"
    ),
    **dict.fromkeys(
        (
            "causal-mask-off-by-one-with-cache",
            "causal-mask-of-the-upper-left-with-cache",
            "causal-mask-missing-with-cache",
            "cache-keys-and-values-swapped",
            "cache-of-the-first-layer-in-all",
            "cache-moved-by-one-position",
        ),
        "decoding",
    ),
    "positions-not-advanced-with-cache": "decoding without positions",
    **dict.fromkeys(("positions-count-padding-with-cache", "padding-forgotten-with-cache"), "decoding, left padding"),
    **dict.fromkeys(
        (
            "cache-reorder-forgotten",
            "cache-reordered-backwards",
            "cache-reordered-in-the-first-layer-only",
            "cache-values-not-reordered",
        ),
        "reordering",
    ),
    "cache-of-the-encoder-not-reordered": "reordering with an encoder",
    "cache-tiled-instead-of-repeated": "repeating",
    **dict.fromkeys(("cache-crop-off-by-one", "cache-crop-keeps-the-end"), "cropping"),
    **dict.fromkeys(
        (
            "cross-attention-to-the-decoder",
            "encoder-padding-ignored",
            "causal-mask-on-the-encoder",
            "cross-c-attn-read-as-value-key",
            "ln-cross-attn-and-ln-2-swapped",
        ),
        "cross-attention",
    ),
    "cross-attention-only-in-the-prompt": "decoding with an encoder",
    "cross-attention-computed-again": "the encoder's keys",
}

# Largest difference of the logits that is on record: (freshly initialised, all parameters random).
ON_RECORD: dict[str, tuple[float | None, float]] = {
    "ln-1-and-ln-2-swapped": (0.0, 10.4),
    "ln-f-affine-skipped": (0.0, 2.2),
    "attention-c-proj-bias-dropped": (0.0, 0.36),
    "gelu-by-erf": (1.2e-5, 1.5e-3),
    "c-attn-read-as-key-query-value": (4.5e-3, 9.8),
    "c-proj-not-transposed": (0.50, 14.0),
    "scores-not-scaled": (None, 1.5),
    "positions-off-by-one": (None, 2.9),
}

# A model that was only initialised cannot see these at all: its biases are 0 and its LayerNorms alike.
HIDDEN_BY_DEFAULT_INITIALISATION = {
    "c-attn-bias-dropped",
    "attention-c-proj-bias-dropped",
    "mlp-c-proj-bias-dropped",
    "ln-1-and-ln-2-swapped",
    "ln-f-affine-skipped",
    "ln-cross-attn-and-ln-2-swapped",
}

# And these pass a comparison with a tolerance of 1.5e-3 there.
ROUNDING_BY_DEFAULT_INITIALISATION = {
    "scores-scaled-by-layer-index",
    "layer-scaling-ignored",
    "layer-scaling-counted-from-zero",
    "softmax-in-half-precision",
    "gelu-by-erf",
}

# Honest limits: mistakes that no number shows, or none under sdpa, or none of a batch that is padded on the right.
UNSEEN_IN_NUMBERS = "cross-attention-computed-again"
UNSEEN_UNDER_SDPA = "mask-added-twice"  # where a row of nothing but -inf is NaN under eager, torch's kernel has 0
UNSEEN_WITH_PADDING_ON_THE_RIGHT = (
    "padding-mask-ignored",
    "left-padding-without-shifted-positions",
    "mask-added-twice",
    "mask-of-minus-10000",
)

# Mistakes in parameters and modules alone, which are therefore made in the oracle in the same way.
ALSO_IN_THE_ORACLE = (
    "positions-off-by-one",
    "positions-with-opts-offset",
    "position-embeddings-not-added",
    "word-embeddings-times-sqrt-of-width",
    "c-attn-read-as-key-query-value",
    "c-attn-read-head-by-head",
    "heads-split-as-size-by-heads",
    "c-attn-bias-dropped",
    "attention-c-proj-bias-dropped",
    "mlp-c-proj-bias-dropped",
    "c-proj-not-transposed",
    "scores-not-scaled",
    "scores-scaled-by-width",
    "scores-scaled-by-layer-index",
    "gelu-by-erf",
    "layernorm-eps-1e-12",
    "layernorm-eps-outside-the-root",
    "ln-1-and-ln-2-swapped",
    "ln-f-affine-skipped",
    "ln-f-left-out",
    "lm-head-untied",
)


def shows_in(fault: Fault) -> str:
    return SHOWS_IN.get(fault.name, "words")


def probe_of(fault: Fault) -> Probe:
    return PROBES[shows_in(fault)]


@contextmanager
def models_with(fault: Fault, probe: Probe) -> Iterator[None]:
    """Every model of ours that the parity tests build has the mistake, if it has the part; at least one must."""
    made: list[Any] = []
    with ExitStack() as injections, pytest.MonkeyPatch.context() as patch:

        def injected(model: Any) -> Any:
            if not list(fault.changes(model)):
                return model
            made.append(model)
            return injections.enter_context(fault.inject(model))

        def of_pairs(before: Any) -> Any:
            def build(*args: Any, **settings: Any) -> Any:
                ours, theirs = before(*args, **settings)
                return injected(ours), theirs

            return build

        def of_ours(before: Any) -> Any:
            return lambda *args, **changes: injected(before(*args, **changes))

        if probe.builds_itself:
            patch.setattr(minitf, "GPT2LMHeadModel", of_ours(minitf.GPT2LMHeadModel))
        for module in (test_gpt2, test_gpt2_cache, test_gpt2_settings):
            patch.setattr(module, "pair", of_pairs(module.pair))
        patch.setattr(gpt2_runs, "build", of_ours(gpt2_runs.build))
        yield
        assert made, f"{fault.name} was made in no model"


def by_name(fault: Fault) -> str:
    return fault.name


# --------------------------------------------------------------------------------------------------------------------
# The tests


@pytest.mark.parametrize("name", PROBES)
def test_parity_does_not_object_to_a_sound_model(name: str) -> None:
    PROBES[name].parity()


@pytest.mark.parametrize("fault", FAULTS, ids=by_name)
def test_parity_objects(fault: Fault) -> None:
    probe = probe_of(fault)
    with models_with(fault, probe), pytest.raises(AssertionError):
        probe.parity()


def of_words_under_sdpa() -> None:
    test_gpt2.test_forward_loss_and_every_gradient_are_equal("GPT2LMHeadModel", "sdpa", "left", False, torch.float32)


UNDER_SDPA = [fault for fault in FAULTS if fault.name not in {*SHOWS_IN, UNSEEN_UNDER_SDPA}]


@pytest.mark.parametrize("fault", UNDER_SDPA, ids=by_name)
def test_parity_objects_under_sdpa(fault: Fault) -> None:
    with models_with(fault, PROBES["words"]), pytest.raises(AssertionError):
        of_words_under_sdpa()


def test_what_sdpa_does_not_show() -> None:
    with models_with(BY_NAME[UNSEEN_UNDER_SDPA], PROBES["words"]):
        of_words_under_sdpa()


WORD_LOSSES = ("label-shift-missing", "label-shift-twice", "loss-averaged-over-all-positions", "ignored-labels-scored")


@pytest.mark.parametrize("name", WORD_LOSSES)
def test_parity_of_two_heads_objects_to_a_wrong_loss_of_words(name: str) -> None:
    """Their labels are [B, N, T], which is another branch of the loss."""
    with models_with(BY_NAME[name], PROBES["two heads"]), pytest.raises(AssertionError):
        PROBES["two heads"].parity()


DECODING = {"decoding": "none", "decoding, left padding": "left"}


@pytest.mark.parametrize("fault", [f for f in FAULTS if shows_in(f) in DECODING], ids=by_name)
def test_parity_of_decoding_objects_under_sdpa(fault: Fault) -> None:
    with models_with(fault, probe_of(fault)), pytest.raises(AssertionError):
        test_gpt2_cache.test_cached_equals_uncached_and_the_oracle("plain", DECODING[shows_in(fault)], "sdpa")


@pytest.mark.parametrize("name", UNSEEN_WITH_PADDING_ON_THE_RIGHT)
def test_what_padding_on_the_right_does_not_show(name: str) -> None:
    """A token of GPT-2 never sees what stands to its right, so this is why the grid pads on the left too."""
    probe = PROBES["words, right padding"]
    with models_with(BY_NAME[name], probe):
        probe.parity()
    assert difference(BY_NAME[name], probe, fresh=True) == 0
    assert difference(BY_NAME[name], probe, fresh=False) == 0


def test_what_no_number_shows() -> None:
    """The work is counted instead: see the test of the encoder's keys."""
    fault = BY_NAME[UNSEEN_IN_NUMBERS]
    with models_with(fault, PROBES["decoding with an encoder"]):
        PROBES["decoding with an encoder"].parity()
    assert difference(fault, probe_of(fault), fresh=False) == 0


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
    shown = [f for f in FAULTS if f.name != UNSEEN_IN_NUMBERS]
    rows = {f.name: tuple(difference(f, probe_of(f), fresh=fresh) for fresh in (True, False)) for f in shown}
    print(f"\n\n{'mistake':<50}{'shows in':<30}{'fresh':>10}{'random':>10}")
    for name, (fresh, random) in rows.items():
        print(f"{name:<50}{SHOWS_IN.get(name, 'words'):<30}{fresh:>10.2g}{random:>10.2g}")
    assert {name for name, (fresh, _) in rows.items() if fresh == 0} == HIDDEN_BY_DEFAULT_INITIALISATION
    assert {name for name, (fresh, _) in rows.items() if 0 < fresh < 1.5e-3} == ROUNDING_BY_DEFAULT_INITIALISATION
    assert [name for name, (_, random) in rows.items() if random < 1e-4] == []
    for name, (fresh, random) in ON_RECORD.items():
        assert rows[name][1] >= random / 3, name
        assert fresh is None or (rows[name][0] == 0) == (fresh == 0), name
        assert fresh is None or rows[name][0] >= fresh / 10, name


@pytest.mark.parametrize("name", ALSO_IN_THE_ORACLE)
def test_the_same_mistake_in_transformers_gives_the_same_wrong_numbers(name: str) -> None:
    """So it is the mistake that its words say, and it can be made in any model with these module paths."""
    fault, inputs = BY_NAME[name], inputs_for("GPT2LMHeadModel", padding="left")
    ours, theirs = pair("GPT2LMHeadModel")
    with fault.inject(ours), fault.inject(theirs):
        mine, other = test_gpt2.both_results("GPT2LMHeadModel", ours, theirs, inputs)
    assert different(mine, other) == []
    _, sound = test_gpt2.both_results("GPT2LMHeadModel", ours, theirs, inputs)
    assert different(other, sound) == ["logits", "loss"]


def test_a_mistake_that_needs_minitf_is_refused_elsewhere() -> None:
    _, theirs = pair("GPT2LMHeadModel", add_cross_attention=True)
    refused = {fault.name for fault in FAULTS if not list(fault.changes(theirs))}
    assert {"mask-inverted", "token-types-not-added", "last-block-left-out", "cache-reorder-forgotten"} <= refused
    assert refused.isdisjoint(ALSO_IN_THE_ORACLE)


def test_only_the_caches_of_the_model_with_the_mistake_are_changed() -> None:
    wrong, sound = built("GPT2LMHeadModel")(False), built("GPT2LMHeadModel")(False)
    ids = inputs_for("GPT2LMHeadModel", padding="none")["input_ids"]
    rows = torch.tensor([2, 0, 1])
    with torch.no_grad(), BY_NAME["cache-reorder-forgotten"].inject(wrong):
        caches = [model(ids).past_key_values for model in (wrong, sound)]
        before = [cache[0][0].clone() for cache in caches]
        given = minitf.KVCache()  # the caller's own
        wrong(ids, given)
        for cache in (*caches, given):
            cache.reorder(rows)
        assert torch.equal(caches[0][0][0], before[0])
        assert torch.equal(given[0][0], before[0])
        assert torch.equal(caches[1][0][0], before[1][rows])
    caches[0].reorder(rows)
    assert torch.equal(caches[0][0][0], before[0][rows])


@pytest.mark.parametrize("second", ["causal-mask-missing-with-cache", "cache-moved-by-one-position"])
def test_two_mistakes_at_once_are_both_made_and_both_taken_back(second: str) -> None:
    """Also of one method of the same cache, which outlives both."""
    first, other = BY_NAME["cache-keys-and-values-swapped"], BY_NAME[second]
    model = built("GPT2LMHeadModel")(False)
    cache = model(torch.ones(1, 3, dtype=torch.long)).past_key_values

    def run() -> Tensor:
        cache.crop(3)
        with torch.no_grad():
            return model(torch.tensor([[5, 6, 7]]), cache).logits

    sound = run()
    with first.inject(model):
        one = run()
        with other.inject(model):
            both = run()
        assert torch.equal(run(), one)
    assert torch.equal(run(), sound)
    assert not torch.equal(one, both)
    assert not torch.equal(one, sound)
    with other.inject(model):
        alone = run()
    assert len({tuple(logits.flatten().tolist()) for logits in (sound, one, both, alone)}) == 4


def test_the_table_is_usable_by_a_reader_and_by_a_search() -> None:
    assert len(BY_NAME) == len({fault.what for fault in FAULTS}) == len(FAULTS)
    named = {
        *SHOWS_IN,
        *ON_RECORD,
        *WORD_LOSSES,
        *UNSEEN_WITH_PADDING_ON_THE_RIGHT,
        UNSEEN_IN_NUMBERS,
        *ALSO_IN_THE_ORACLE,
    }
    assert named <= set(BY_NAME)
    assert set(SHOWS_IN.values()) | {"words", "words, right padding"} == set(PROBES)
    for fault in FAULTS:
        assert fault.name == fault.name.lower().replace(" ", "-")
        assert len(fault.what.split()) >= 4, fault.name
        assert len(fault.remedy.split()) >= 3, fault.name
    assert all(len(reason.split()) > 4 for reason in NOT_IN_GPT2.values())


def test_a_mistake_that_a_model_has_no_part_for_is_refused() -> None:
    model = built("GPT2LMHeadModel")(True)
    refused = [fault for fault in FAULTS if not list(fault.changes(model))]
    for fault in refused:
        assert fault.needs
        with pytest.raises(ValueError, match=re.escape(fault.needs)), fault.inject(model):
            pass
    names = {fault.name for fault in refused}
    assert {"scale-attn-weights-ignored", "cross-attention-to-the-decoder", "mc-token-ids-ignored"} <= names
    assert {"upcasting-ignored", "layer-scaling-ignored", "classifier-counts-tokens"} <= names
    assert names.isdisjoint(name for name in BY_NAME if name not in SHOWS_IN)
