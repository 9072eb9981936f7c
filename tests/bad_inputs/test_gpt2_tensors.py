"""What only GPT-2 takes: places to keep or to score, caches in every class; and what would have no effect."""

from __future__ import annotations

import functools
import logging
from typing import Any

import pytest
import torch

from minitf.cache import KVCache, StaticKVCache
from minitf.models import gpt2
from tests.controls.models import build, inputs_for
from tests.parity.gpt2_pairs import CLASSES, encoder_inputs

CACHED = tuple(name for name in CLASSES if name != "GPT2ForQuestionAnswering")
built = functools.cache(build)  # a refused call leaves the model as it is


def refused(model: Any, kind: type[Exception], *words: str, **inputs: Any) -> None:
    with pytest.raises(kind) as caught:
        model(**inputs)
    assert type(caught.value) is kind
    for word in words:
        assert word in str(caught.value), f"{word!r} is not in: {caught.value}"


def unpadded(class_name: str) -> dict[str, torch.Tensor]:
    """Ids alone, [3, 7] or [3, 3, 7]."""
    return {"input_ids": inputs_for(class_name, padding="none")["input_ids"]}


# ---------------------------------------------------------------------------------------------- which scores are wanted


@pytest.mark.parametrize(
    ("keep", "kind", "words"),
    [
        (-1, ValueError, "logits_to_keep = -1: expected 0 (all) to 7"),
        (8, ValueError, "logits_to_keep = 8: expected 0 (all) to 7"),
        (1.0, TypeError, "logits_to_keep = 1.0: expected a number, or a tensor of positions"),
        (True, TypeError, "logits_to_keep = True: expected a number"),
        (None, TypeError, "logits_to_keep = None: expected a number"),
        ([1], TypeError, "logits_to_keep = [1]: expected a number, or a tensor"),
        ("1", TypeError, "logits_to_keep = '1': expected a number"),
        (torch.tensor([2, 7]), ValueError, "logits_to_keep = [2, 7]: expected positions from -7 to 6"),
        (torch.tensor([-8]), ValueError, "logits_to_keep = [-8]: expected positions from -7 to 6"),
        (torch.tensor(1), ValueError, "logits_to_keep has shape []; expected [positions]"),
        (torch.tensor([[1]]), ValueError, "logits_to_keep has shape [1, 1]; expected [positions]"),
        (
            torch.tensor([], dtype=torch.long),
            ValueError,
            "logits_to_keep has shape [0]; expected [positions]",
        ),
        (torch.tensor([1.0]), TypeError, "logits_to_keep has dtype torch.float32"),
        (torch.ones(7, dtype=torch.bool), TypeError, "logits_to_keep has dtype torch.bool"),
    ],
    ids=str,
)
def test_logits_to_keep(keep: Any, kind: type[Exception], words: str) -> None:
    refused(built("GPT2LMHeadModel"), kind, words, **unpadded("GPT2LMHeadModel"), logits_to_keep=keep)


def place(value: int) -> torch.Tensor:
    places = torch.full((3, 3), 2)
    places[1, 2] = value
    return places


@pytest.mark.parametrize(
    ("places", "kind", "words"),
    [
        (place(7), ValueError, "mc_token_ids[1, 2] = 7, but the number of positions is 7: expected 0 to 6"),
        (place(-1), ValueError, "mc_token_ids[1, 2] = -1, but the number of positions is 7"),
        (place(2)[:1], ValueError, "mc_token_ids has shape [1, 3]; expected [3, 3], a position for each choice"),
        (place(2)[:2], ValueError, "mc_token_ids has shape [2, 3]; expected [3, 3]"),
        (place(2)[:, :2], ValueError, "mc_token_ids has shape [3, 2]; expected [3, 3]"),
        (place(2)[0], ValueError, "mc_token_ids has shape [3]; expected [3, 3]"),
        (place(2)[..., None], ValueError, "mc_token_ids has shape [3, 3, 1]; expected [3, 3]"),
        (place(2).float(), TypeError, "mc_token_ids has dtype torch.float32"),
        (place(2).bool(), TypeError, "mc_token_ids has dtype torch.bool"),
        (place(2).tolist(), TypeError, "mc_token_ids is a list"),
    ],
    ids=range(10),
)
def test_mc_token_ids(places: Any, kind: type[Exception], words: str) -> None:
    """Fewer rows than there are would be scored without a word, and the others not."""
    refused(built("GPT2DoubleHeadsModel"), kind, words, **unpadded("GPT2DoubleHeadsModel"), mc_token_ids=places)


@pytest.mark.parametrize("kind", ["last", "first", "mean"])
def test_mc_token_ids_without_effect(kind: str) -> None:
    model = build("GPT2DoubleHeadsModel", summary_type=kind)
    words = f"mc_token_ids have no effect with summary_type {kind!r}: leave them out"
    refused(model, ValueError, words, **unpadded("GPT2DoubleHeadsModel"), mc_token_ids=place(2))
    assert model(**unpadded("GPT2DoubleHeadsModel")).mc_logits.shape == (3, 3)


@pytest.mark.parametrize("setting", ["summary_use_proj", "summary_proj_to_labels"])
def test_choices_without_a_score_have_no_loss(setting: str) -> None:
    model = build("GPT2DoubleHeadsModel", **{setting: False})
    inputs = unpadded("GPT2DoubleHeadsModel")
    words = ("mc_labels need a score for each choice", "config.summary_use_proj and config.summary_proj_to_labels")
    refused(model, ValueError, *words, **inputs, mc_labels=torch.tensor([0, 1, 2]))
    assert model(**inputs).mc_logits.shape == (3, 3, 64)


def test_neither_ids_nor_embeddings_are_named_even_beside_mc_token_ids() -> None:
    words = ("input_ids [batch, choices, positions]", "got neither")
    refused(built("GPT2DoubleHeadsModel"), ValueError, *words, mc_token_ids=place(2))


# --------------------------------------------------------------------------------------------------------------- caches


@pytest.mark.parametrize("class_name", CACHED)
def test_every_class_refuses_what_a_cache_does_not_fit(class_name: str) -> None:
    """Too many positions, a mask without the cached ones, another batch, another dtype; the cache stays as it was."""
    model = built(class_name)
    ids = unpadded(class_name)["input_ids"].repeat_interleave(6, dim=-1)  # 42 positions
    cache = KVCache()
    with torch.no_grad():
        model(ids[..., :38], cache)
        refused(model, ValueError, "3 positions after 38 in the cache", "40 (n_positions)", "truncate",
                input_ids=ids[..., :3], past_key_values=cache)  # fmt: skip
        rows = 9 if ids.dim() == 3 else 3
        short = torch.ones_like(ids[..., :2])
        words = f"[{rows}, 2], but this call has batch {rows}, 2 query and 40 key positions"
        refused(model, ValueError, words, input_ids=ids[..., :2], past_key_values=cache, attention_mask=short)
        fewer = rows // 3 * 2
        refused(model, ValueError, f"holds a batch of {rows}", f"has a batch of {fewer}", "cache.batch_repeat",
                input_ids=ids[:2, ..., :2], past_key_values=cache)  # fmt: skip
        double = build(class_name).double()
        refused(double, ValueError, "in torch.float32, but this call has 4 heads x 16 in torch.float64",
                input_ids=ids[..., :2], past_key_values=cache)  # fmt: skip
        assert cache.get_seq_length() == 38
        model(ids[..., :2], cache)
    assert cache.get_seq_length() == 40
    refused(model, ValueError, "1 positions after 40 in the cache", input_ids=ids[..., :1], past_key_values=cache)
    for wrong in ("cache", 3, {"key": 1}):
        refused(model, TypeError, f"past_key_values is a {type(wrong).__name__}", "KVCache",
                input_ids=ids[..., :2], past_key_values=wrong)  # fmt: skip


@pytest.mark.parametrize("class_name", CACHED)
def test_every_class_refuses_a_static_cache_that_does_not_fit(class_name: str) -> None:
    model = built(class_name)
    ids = unpadded(class_name)["input_ids"]
    rows = 9 if ids.dim() == 3 else 3
    with torch.no_grad():
        for cache, words in (
            (
                StaticKVCache(model.config, rows + 1),
                f"holds a batch of {rows + 1}, but this call has a batch of {rows}",
            ),
            (StaticKVCache(model.config, rows, dtype=torch.float16), "in torch.float16, but this call has"),
            (
                StaticKVCache(build("GPT2Model", num_hidden_layers=3).config, rows),
                "3 layers, but this model has 2 layers",
            ),
            (
                StaticKVCache(build("GPT2Model", num_attention_heads=2).config, rows),
                "2 heads x 32 in torch.float32, but this call",
            ),
            (StaticKVCache(model.config, rows, max_length=6), "7 positions after 0 in the cache do not fit"),
        ):
            refused(model, ValueError, words, input_ids=ids, past_key_values=cache)
            assert cache.get_seq_length() == 0
            assert cache.keys[0].abs().sum() == 0


def test_question_answering_takes_no_cache() -> None:
    inputs = unpadded("GPT2ForQuestionAnswering")
    for name in ("past_key_values", "use_cache"):
        refused(built("GPT2ForQuestionAnswering"), TypeError, f"has no argument '{name}'", **inputs, **{name: None})


def test_a_cache_that_nobody_would_see() -> None:
    """Token classification returns none: to ask for one has no effect, to give one has."""
    model, inputs = built("GPT2ForTokenClassification"), unpadded("GPT2ForTokenClassification")
    words = ("use_cache=True has no effect", "past_key_values=minitf.KVCache()")
    refused(model, ValueError, *words, **inputs, use_cache=True)
    cache = KVCache()
    with torch.no_grad():
        assert torch.equal(model(**inputs, past_key_values=cache, use_cache=True).logits, model(**inputs).logits)
        assert model(**inputs, use_cache=False).logits.shape == (3, 7, 2)
    assert cache.get_seq_length() == 7


def test_a_static_cache_holds_no_encoder() -> None:
    model = build("GPT2LMHeadModel", add_cross_attention=True)
    cache = StaticKVCache(model.config, 3)
    inputs = {**unpadded("GPT2LMHeadModel"), **encoder_inputs()}
    with torch.no_grad():
        refused(model, ValueError, "holds no keys of an encoder: use KVCache", **inputs, past_key_values=cache)
    assert cache.get_seq_length() == 0


# ----------------------------------------------------------------------------------------------------------- embeddings


def test_embeddings_and_the_padding_at_the_end(caplog: pytest.LogCaptureFixture, monkeypatch: Any) -> None:
    """They do not say which token is the last, so the last position is classified, as the oracle does; said once."""
    monkeypatch.setattr(gpt2, "_said", set())
    model = built("GPT2ForSequenceClassification")
    calls = {}
    with torch.no_grad(), caplog.at_level(logging.WARNING, logger="minitf.models.gpt2"):
        for padding in ("left", "right"):
            inputs = inputs_for("GPT2ForSequenceClassification", labels=False, padding=padding)
            ids = model(**inputs).logits
            embeds = model.get_input_embeddings()(inputs.pop("input_ids"))
            for _ in range(2):
                calls[padding] = torch.equal(model(inputs_embeds=embeds, **inputs).logits, ids)
            assert len(caplog.records) == (padding == "right")
    assert calls == {"left": True, "right": False}
    assert "the padding is classified. Pad on the left, or pass input_ids" in caplog.text


@pytest.mark.parametrize("class_name", CLASSES)
def test_embeddings_that_are_no_numbers(class_name: str) -> None:
    """Booleans are refused. NaN is not searched for, which would read every embedding; it is not hidden either."""
    model = built(class_name)
    shape = (*unpadded(class_name)["input_ids"].shape, 64)
    words = "inputs_embeds is not a floating-point tensor"
    refused(model, TypeError, words, inputs_embeds=torch.ones(shape, dtype=torch.bool))
    with torch.no_grad():
        output = model(inputs_embeds=torch.full(shape, float("nan")))
    assert output[0].isnan().all()


# ------------------------------------------------------------------------------------------------------------- keywords


@pytest.mark.parametrize(
    ("class_name", "wrong", "right"),
    [
        ("GPT2Model", "past_key_value", "past_key_values"),
        ("GPT2Model", "head_masks", "head_mask"),
        ("GPT2LMHeadModel", "logits_to_kep", "logits_to_keep"),
        ("GPT2LMHeadModel", "label", "labels"),
        ("GPT2DoubleHeadsModel", "mc_token_id", "mc_token_ids"),
        ("GPT2ForSequenceClassification", "position_id", "position_ids"),
        ("GPT2ForTokenClassification", "input_embeds", "inputs_embeds"),
        ("GPT2ForQuestionAnswering", "start_position", "start_positions"),
    ],
)
def test_a_misspelt_argument_names_the_nearest(class_name: str, wrong: str, right: str) -> None:
    words = (f"{class_name}.forward", f"'{wrong}'", f"did you mean '{right}'")
    refused(built(class_name), TypeError, *words, **unpadded(class_name), **{wrong: None})


@pytest.mark.parametrize("class_name", CLASSES)
def test_cross_attention_arguments_of_classes_without_it(class_name: str) -> None:
    """The language model and the trunk have them; elsewhere they are no arguments at all."""
    model, states = built(class_name), torch.zeros(3, 5, 64)
    if class_name in ("GPT2Model", "GPT2LMHeadModel"):
        words = ("encoder_hidden_states", "config.add_cross_attention = True")
        refused(model, ValueError, *words, **unpadded(class_name), encoder_hidden_states=states)
    else:
        words = ("has no argument 'encoder_hidden_states'",)
        refused(model, TypeError, *words, **unpadded(class_name), encoder_hidden_states=states)
