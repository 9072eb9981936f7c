"""Nothing is silent: what `generate` would not use, and what it cannot do, is an error that names it (or is said)."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import torch

import minitf
from minitf.cache import KVCache, StaticKVCache
from minitf.generation import prepare, strategies
from minitf.generation.config import GenerationConfig, UnknownSettingError
from minitf.generation.strategies import SPECIAL, STRATEGIES
from tests.generation.pairs import CLASSES, ENDS, PAD, POSITIONS, fresh, pair, prompts

IDS = torch.tensor([[3, 9, 4], [8, 7, 6]])

CHOOSING: dict[str, dict[str, Any]] = {
    "greedy_search": {},
    "sample": {"do_sample": True},
    "beam_search": {"num_beams": 4},
    "beam_sample": {"num_beams": 4, "do_sample": True},
    "group_beam_search": {"num_beams": 4, "num_beam_groups": 2, "diversity_penalty": 0.5},
    "constrained_beam_search": {"num_beams": 4, "force_words_ids": [[5]]},
    "contrastive_search": {"penalty_alpha": 0.6, "top_k": 4},
    "assisted_decoding": {"assistant_model": "a draft model"},
    "prompt_lookup": {"prompt_lookup_num_tokens": 3},
}
"""What chooses each strategy."""

SETTINGS: dict[str, Any] = {
    "temperature": 0.5, "top_k": 7, "top_p": 0.5, "min_p": 0.1, "top_h": 0.5, "typical_p": 0.5, "epsilon_cutoff": 0.1,
    "eta_cutoff": 0.1, "num_beams": 4, "early_stopping": True, "length_penalty": 2.0, "num_assistant_tokens": 4,
    "num_assistant_tokens_schedule": "heuristic", "assistant_confidence_threshold": 0.2, "prompt_lookup_num_tokens": 3,
    "max_matching_ngram_size": 3, "num_beam_groups": 2, "diversity_penalty": 0.5, "constraints": [object()],
    "force_words_ids": [[5]], "num_return_sequences": 2, "penalty_alpha": 0.6, "do_sample": True,
}  # fmt: skip
"""A value of every setting that not all strategies use, other than its default."""

CHOOSE_ANOTHER = {"num_beams", "num_beam_groups", "prompt_lookup_num_tokens", "constraints", "force_words_ids",
                  "do_sample"}  # fmt: skip
"""Settings that ask for a strategy themselves, so that beside another one they are a contradiction."""


def settings_of(choosing: dict[str, Any]) -> GenerationConfig:
    return GenerationConfig(**{name: value for name, value in choosing.items() if name != "assistant_model"})


def choice(config: GenerationConfig, *, assisted: bool = False) -> str:
    """The name of the strategy, or the error's message."""
    try:
        return strategies.choose(config, assisted=assisted).name
    except ValueError as error:
        return str(error)


@pytest.fixture(autouse=True)
def nothing_was_said() -> None:
    """Warnings that are given once in a process are given anew."""
    prepare._said.clear()
    strategies._said.clear()


def test_the_tables_are_whole() -> None:
    assert set(SETTINGS) == SPECIAL
    assert set(CHOOSING) == set(STRATEGIES)


@pytest.mark.parametrize("name", STRATEGIES)
def test_what_chooses_a_strategy(name: str) -> None:
    assisted = "assistant_model" in CHOOSING[name]
    assert strategies.choose(settings_of(CHOOSING[name]), assisted=assisted).name == name
    assert set(CHOOSING[name]) - {"assistant_model"} <= STRATEGIES[name].uses
    if name not in ("greedy_search", "assisted_decoding"):  # with the settings given in a config object too
        ours, _ = pair("GPT2LMHeadModel")
        found = ours.generate(
            IDS[:1] if "prompt" in name else IDS, generation_config=settings_of(CHOOSING[name]), max_new_tokens=3,
            pad_token_id=PAD,
        )  # fmt: skip
        assert found.shape[1] == 6


@pytest.mark.parametrize("setting", sorted(SPECIAL))
@pytest.mark.parametrize("name", STRATEGIES)
def test_a_setting_that_the_strategy_does_not_use(name: str, setting: str) -> None:
    """For every strategy and every such setting: it is used, it chooses another strategy, or it is an error."""
    ours, _ = pair("GPT2LMHeadModel")
    choosing = dict(CHOOSING[name])
    if setting in choosing or setting in STRATEGIES[name].uses:
        return
    if "assistant_model" in choosing:
        choosing["assistant_model"] = ours
    call = {**choosing, setting: SETTINGS[setting]}
    if setting in CHOOSE_ANOTHER:
        config = settings_of(call)
        chosen = choice(config, assisted=name == "assisted_decoding")
        if chosen in STRATEGIES:
            assert chosen != name
            assert not strategies.unused(config, STRATEGIES[chosen])
        else:
            assert any(part in chosen for part in ("at once", "needs num_beams > 1", "drop one of them")), chosen
        return
    if setting == "penalty_alpha":  # chooses contrastive search, since top_k is 50 by default
        assert "contrastive_search" in choice(settings_of({**call, "num_beams": 1, "prompt_lookup_num_tokens": None}))
        call = {**call, "top_k": 1} if "top_k" in STRATEGIES[name].uses else call
        if call.get("top_k", 50) > 1:
            return
    given = IDS[:1]
    with pytest.raises(ValueError, match=rf"^{setting} = .* has no effect in {name}, the strategy that .*belongs to"):
        ours.generate(given, max_new_tokens=3, pad_token_id=PAD, **call)


def test_defaults_may_be_written_down() -> None:
    """`top_p=1.0` is no request for sampling."""
    ours, _ = pair("GPT2LMHeadModel")
    defaults = {"temperature": 1.0, "top_k": 50, "top_p": 1.0, "length_penalty": 1.0, "early_stopping": False}
    assert torch.equal(ours.generate(IDS, max_new_tokens=4, pad_token_id=PAD, **defaults),
                       ours.generate(IDS, max_new_tokens=4, pad_token_id=PAD))  # fmt: skip


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"force_words_ids": [[5]], "num_beams": 4, "num_beam_groups": 2}, "constrained_beam_search and group_beam"),
        ({"penalty_alpha": 0.6, "prompt_lookup_num_tokens": 3}, "contrastive_search and prompt_lookup at once"),
        ({"num_beam_groups": 2}, "group_beam_search needs num_beams > 1, and num_beams is 1"),
        ({"force_words_ids": [[5]]}, "constrained_beam_search needs num_beams > 1"),
        ({"penalty_alpha": 0.6, "num_beams": 2}, "contrastive_search keeps one sequence, but num_beams is 2"),
        ({"prompt_lookup_num_tokens": 3, "num_beams": 2}, "prompt_lookup keeps one sequence, but num_beams is 2"),
        ({"num_beam_groups": 2, "num_beams": 4, "do_sample": True}, "group_beam_search draws no samples"),
        ({"penalty_alpha": 0.6, "do_sample": True}, "contrastive_search draws no samples"),
    ],
)
def test_contradictions(settings: dict[str, Any], message: str) -> None:
    ours, _ = pair("GPT2LMHeadModel")
    with pytest.raises(ValueError, match=message):
        ours.generate(IDS, max_new_tokens=3, pad_token_id=PAD, **settings)


def test_the_models_own_unused_settings_are_said_once(caplog: pytest.LogCaptureFixture) -> None:
    ours, _ = fresh("GPT2LMHeadModel")
    ours.generation_config = GenerationConfig(temperature=0.7, top_p=0.9, max_new_tokens=3, pad_token_id=PAD)
    with caplog.at_level(logging.WARNING, "minitf.generation"):
        ours.generate(IDS)
        ours.generate(IDS)
        ours.generate(IDS, num_beams=2)
        ours.generate(IDS, do_sample=True)
    assert [record.getMessage() for record in caplog.records] == [
        f"{name} does not use these settings of the model's generation_config: temperature = 0.7, top_p = 0.9"
        for name in ("greedy_search", "beam_search")
    ]
    with pytest.raises(ValueError, match=r"temperature = 0\.7 has no effect in greedy_search"):
        ours.generate(IDS, temperature=0.7)


# --------------------------------------------------------------------------------------------------------------------
# Names and lengths


@pytest.mark.parametrize("kind", [TypeError, ValueError, UnknownSettingError])
def test_unknown_settings(kind: type[Exception]) -> None:
    ours, _ = pair("GPT2LMHeadModel")
    with pytest.raises(kind, match=r"GPT2LMHeadModel\.generate\(\) has no setting 'max_new_token'.*max_new_tokens"):
        ours.generate(IDS, max_new_token=3)
    with pytest.raises(kind, match=r"no setting 'streamr'.*streamer"):
        ours.generate(IDS, streamr=None)
    with pytest.raises(kind, match=r"no setting 'labels'"):
        ours.generate(IDS, labels=None)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_length": 9, "max_new_tokens": 3}, r"max_length = 9 counts the prompt and max_new_tokens = 3 does not"),
        ({"min_length": 9, "min_new_tokens": 3}, r"min_length = 9 counts the prompt and min_new_tokens = 3 does not"),
        ({"max_new_tokens": 0}, r"max_new_tokens = 0: expected"),
        (
            {"max_length": 3},
            r"max_length = 3 leaves no room for new tokens after a prompt of 3 positions: pass",
        ),
        ({"max_length": 2}, r"max_length = 2 leaves no room"),
        ({"max_length": 41}, r"max_length = 41 would make 41 positions; this model has 40 .*at most 37 new tokens fit"),
        ({"max_new_tokens": 38}, r"a prompt of 3 and max_new_tokens = 38 would make 41 positions; .* at most 37 new"),
        (
            {"min_length": 9, "max_length": 8, "eos_token_id": 5},
            r"a minimum of 9 positions is more than the maximum, 8",
        ),
        ({"min_new_tokens": 4, "max_new_tokens": 3, "eos_token_id": 5}, r"a minimum of 7 positions is more than .*, 6"),
        ({"min_length": 5}, "min_length is about the end token, and there is none: pass eos_token_id"),
        ({"min_new_tokens": 5}, "min_new_tokens is about the end token, and there is none"),
        ({"exponential_decay_length_penalty": (2, 1.5)}, "exponential_decay_length_penalty is about the end token"),
        ({"encoder_no_repeat_ngram_size": 2}, r"encoder_no_repeat_ngram_size = 2 would have no effect: .*encoder-dec"),
        ({"watermarking_config": {}}, "watermarks are not implemented"),
        ({"num_beams": 2, "num_return_sequences": 3}, "num_return_sequences = 3 is more than num_beams = 2"),
        ({"output_scores": True}, "output_scores=True has no effect without return_dict_in_generate=True"),
        ({"output_logits": True}, "output_logits=True has no effect"),
        ({"output_attentions": True}, "output_attentions=True has no effect"),
        ({"output_hidden_states": True}, "output_hidden_states=True has no effect"),
        ({"eos_token_id": 5, "stop_strings": ["x"]}, r"generate\(\) needs tokenizer= as well"),
        ({"tokenizer": object()}, r"tokenizer= has no effect in generate\(\) without stop_strings"),
        ({"negative_prompt_ids": IDS}, "negative_prompt_ids has no effect without guidance_scale != 1"),
        (
            {"negative_prompt_attention_mask": IDS},
            "negative_prompt_attention_mask has no effect without",
        ),
        ({"negative_prompt_ids": IDS, "guidance_scale": 1.0}, "has no effect without guidance_scale != 1"),
        ({"negative_prompt_attention_mask": IDS, "guidance_scale": 2.0}, "without negative_prompt_ids"),
        ({"use_cache": False, "past_key_values": KVCache()}, "past_key_values has no effect with use_cache=False"),
    ],
)
def test_calls_that_cannot_be_meant(settings: dict[str, Any], message: str) -> None:
    ours, _ = pair("GPT2LMHeadModel")
    with pytest.raises(ValueError, match=message):
        ours.generate(IDS, **{"pad_token_id": PAD, **settings})


def test_a_prompt_that_fills_the_model() -> None:
    ours, _ = pair("GPT2LMHeadModel")
    with pytest.raises(ValueError, match=r"the prompt has 40 positions, as many as the model \(40\): shorten it"):
        ours.generate(prompts("none", length=POSITIONS)["input_ids"])


# --------------------------------------------------------------------------------------------------------------------
# The prompt


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"input_ids": IDS, "attention_mask": torch.ones(2, 4)}, r"attention_mask has shape \[2, 4\]; .*\[2, 3\]"),
        ({"input_ids": IDS, "attention_mask": torch.ones(1, 3)}, r"attention_mask has shape \[1, 3\]; .*\[2, 3\]"),
        ({"input_ids": IDS, "attention_mask": torch.ones(2, 3, 3)}, r"attention_mask has shape \[2, 3, 3\]"),
        ({"input_ids": IDS, "attention_mask": torch.tensor([[1, 1, 1], [1, 1, 0]])}, r"row 1 .* ends with padding"),
        ({"input_ids": IDS, "attention_mask": torch.tensor([[0, 0, 0], [1, 1, 1]])}, r"row 0 .* is all padding"),
        ({"input_ids": IDS, "position_ids": torch.ones(2, 4).long()}, r"position_ids has shape \[2, 4\]; .*\[2, 3\]"),
        ({"input_ids": IDS, "token_type_ids": torch.ones(2, 1).long()}, r"token_type_ids has shape \[2, 1\]"),
        ({"input_ids": IDS, "inputs_embeds": torch.zeros(2, 3, 64)}, "input_ids and inputs_embeds can be the prompt"),
        ({"inputs_embeds": torch.zeros(2, 3, 60)}, "60"),
        ({"input_ids": IDS + 60}, r"input_ids\[0, 0\] = 63, but vocab_size is 61"),
        ({"input_ids": IDS[:, :0]}, "empty|positions"),
        ({"input_ids": IDS[0]}, r"\[batch, positions\]|dimension"),
        ({"bos_token_id": 99}, "99"),
    ],
    ids=str,
)
def test_prompts_that_do_not_fit(given: dict[str, Any], message: str) -> None:
    ours, _ = pair("GPT2LMHeadModel")
    with pytest.raises((ValueError, TypeError), match=message):
        ours.generate(**given, max_new_tokens=2, pad_token_id=PAD)


def test_no_prompt_and_nothing_to_start_from() -> None:
    ours, _ = pair("GPT2LMHeadModel", bos_token_id=None)
    with pytest.raises(ValueError, match=r"generate\(\) has no prompt: pass input_ids, or bos_token_id="):
        ours.generate(max_new_tokens=3)


def test_a_cache_that_does_not_fit() -> None:
    ours, _ = pair("GPT2LMHeadModel")
    out = ours.generate(IDS, max_new_tokens=3, return_dict_in_generate=True, pad_token_id=PAD)
    with pytest.raises(ValueError, match=r"past_key_values holds 5 positions and the prompt has 3: pass the"):
        ours.generate(IDS, past_key_values=out.past_key_values, pad_token_id=PAD)
    with pytest.raises(ValueError, match=r"attention_mask has shape \[2, 1\]; .* \[2, 6\] \(with past_key_values"):
        ours.generate(
            out.sequences, attention_mask=torch.ones(2, 1), past_key_values=out.past_key_values, pad_token_id=PAD
        )
    with pytest.raises(ValueError, match="holds a batch of 2, but this call has a batch of 1"):
        ours.generate(out.sequences[:1], past_key_values=out.past_key_values, pad_token_id=PAD)
    static = StaticKVCache(ours.config, batch=2)
    with pytest.raises(ValueError, match="past_key_values is a StaticKVCache, which this model cannot use: pass a KV"):
        ours.generate(IDS, past_key_values=static, pad_token_id=PAD)
    other, _ = pair("GPT2LMHeadModel", n_layer=1)
    with pytest.raises(ValueError, match="holds 2 layers, but this model has 1"):
        other.generate(out.sequences, past_key_values=out.past_key_values, pad_token_id=PAD)


def test_an_encoder() -> None:
    ours, _ = pair("BertLMHeadModel", is_decoder=False)
    with pytest.raises(ValueError, match=r"this BertLMHeadModel is an encoder .* Build it with is_decoder=True"):
        ours.generate(IDS)


def test_heads_that_do_not_generate() -> None:
    config = minitf.GPT2Config(n_layer=1, n_embd=8, n_head=2, vocab_size=11)
    assert not hasattr(minitf.GPT2Model(config), "generate")
    assert not hasattr(minitf.GPT2ForSequenceClassification(config), "generate")


@pytest.mark.parametrize("class_name", CLASSES)
def test_encoder_states_without_cross_attention(class_name: str) -> None:
    ours, _ = pair(class_name)
    with pytest.raises((ValueError, TypeError), match=r"encoder_hidden_states|cross"):
        ours.generate(IDS, encoder_hidden_states=torch.zeros(2, 4, 64), max_new_tokens=2, pad_token_id=PAD)


def test_rows_of_different_lengths_need_a_filling() -> None:
    ours, _ = pair("GPT2LMHeadModel")
    with pytest.raises(ValueError, match="nothing says what to fill the shorter ones with: pass pad_token_id"):
        ours.generate(IDS, max_time=5.0)
    with pytest.raises(ValueError, match="pass pad_token_id"):
        ours.generate(IDS[:1], do_sample=True, num_return_sequences=2, max_time=5.0)
    assert ours.generate(IDS[:1], max_time=50.0).shape == (1, 23)
    assert ours.generate(IDS).shape == (2, 23)  # nothing ends early


# --------------------------------------------------------------------------------------------------------------------
# Streamers


class Recorder:
    def __init__(self) -> None:
        self.got: list[list[int]] = []
        self.ended = 0

    def put(self, tokens: torch.Tensor) -> None:
        self.got.append(tokens.flatten().tolist())

    def end(self) -> None:
        self.ended += 1


@pytest.mark.parametrize("settings", [{}, {"do_sample": True}])
def test_a_streamer_gets_the_prompt_and_each_token(settings: dict[str, Any]) -> None:
    ours, _ = pair("GPT2LMHeadModel")
    recorder = Recorder()
    found = ours.generate(IDS[:1], max_new_tokens=6, streamer=recorder, **settings)
    assert recorder.got == [IDS[0].tolist(), *([token] for token in found[0, 3:].tolist())]
    assert recorder.ended == 1


@pytest.mark.parametrize("name", [name for name in STRATEGIES if "beam" in name])
def test_no_streamer_with_beams(name: str) -> None:
    ours, _ = pair("GPT2LMHeadModel")
    recorder = Recorder()
    with pytest.raises(ValueError, match=rf"a streamer cannot follow {name}: its tokens may change until the end"):
        ours.generate(IDS[:1], max_new_tokens=3, streamer=recorder, **CHOOSING[name])
    assert recorder.got == []


def test_a_streamer_follows_one_row() -> None:
    ours, _ = pair("GPT2LMHeadModel")
    with pytest.raises(ValueError, match="a streamer follows one sequence, and this call makes 2"):
        ours.generate(IDS, max_new_tokens=3, streamer=Recorder(), pad_token_id=PAD)
    with pytest.raises(ValueError, match="a streamer follows one sequence, and this call makes 3"):
        ours.generate(IDS[:1], max_new_tokens=3, streamer=Recorder(), do_sample=True, num_return_sequences=3)


# --------------------------------------------------------------------------------------------------------------------
# nan and inf


@pytest.mark.parametrize("settings", [{}, {"do_sample": True}, {"num_beams": 3}, {"num_beams": 2, "do_sample": True}],
                         ids=str)  # fmt: skip
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("class_name", ["GPT2LMHeadModel", "BertLMHeadModel"])
def test_scores_that_are_no_numbers(class_name: str, value: float, settings: dict[str, Any]) -> None:
    """A position whose embedding is broken is reached in the third step: by row 1 only, for row 0 is shorter."""
    ours, _ = fresh(class_name)
    table = ours.transformer.wpe if class_name.startswith("GPT2") else ours.bert.embeddings.position_embeddings
    with torch.no_grad():
        table.weight[8] = value
    made = {name: tensor.flip(0) for name, tensor in prompts(batch=2).items()}
    row = settings.get("num_beams", 1)  # the first of the second prompt
    with pytest.raises(ValueError, match=rf"step 3 of generation: the model's scores of row {row} hold nan, so no"):
        ours.generate(**made, max_new_tokens=8, pad_token_id=PAD, **settings)
    for use_cache in (True, False):
        found = ours.generate(
            **made, max_new_tokens=8, pad_token_id=PAD, remove_invalid_values=True, use_cache=use_cache, **settings
        )
        assert found.shape == (2, 15)
        assert 0 <= int(found.min()) <= int(found.max()) < 61


@pytest.mark.parametrize("value", [float("inf"), float("-inf")])
def test_infinite_scores_are_named(value: float) -> None:
    ours, _ = fresh("BertLMHeadModel")
    with torch.no_grad():
        ours.cls.predictions.bias[9] = value
    with pytest.raises(ValueError, match=rf"step 1 of generation: the model's scores of row 0 hold {value}"):
        ours.generate(IDS, max_new_tokens=3, pad_token_id=PAD)


def test_minus_inf_of_a_processor_is_no_fault() -> None:
    ours, _ = pair("GPT2LMHeadModel")
    found = ours.generate(IDS, max_new_tokens=5, suppress_tokens=list(range(60)), pad_token_id=PAD)
    assert set(found[:, 3:].flatten().tolist()) == {60}


# --------------------------------------------------------------------------------------------------------------------
# Said once


def test_training_mode_is_said(caplog: pytest.LogCaptureFixture) -> None:
    ours, _ = fresh("GPT2LMHeadModel")
    ours.train()
    with caplog.at_level(logging.WARNING, "minitf.generation"):
        torch.manual_seed(0)
        results = {str(ours.generate(IDS, max_new_tokens=8, pad_token_id=PAD)) for _ in range(4)}
    assert len(results) > 1  # dropout acts
    assert [record.getMessage() for record in caplog.records] == [
        "generate() runs a model in training mode: dropout acts. Call model.eval() first."
    ]


def test_recognised_padding_is_said(caplog: pytest.LogCaptureFixture) -> None:
    ours, theirs = pair("GPT2LMHeadModel")
    made = prompts()
    settings = {"max_new_tokens": 8, "pad_token_id": PAD, "eos_token_id": ENDS}
    with caplog.at_level(logging.WARNING, "minitf.generation"):
        found = ours.generate(made["input_ids"], **settings)
        ours.generate(made["input_ids"], **settings)
    assert torch.equal(found, ours.generate(**made, **settings))
    assert torch.equal(found, theirs.generate(made["input_ids"], **settings))
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == 1
    assert said[0].startswith("attention_mask is not given and the prompt holds pad_token_id = 1: these positions are ")


def test_padding_that_is_an_end_token_is_not_recognised(caplog: pytest.LogCaptureFixture) -> None:
    """GPT-2's padding token usually is its end token, which may stand in a text: all positions are tokens then."""
    ours, theirs = pair("GPT2LMHeadModel")
    ids = prompts()["input_ids"]
    settings = {"max_new_tokens": 8, "pad_token_id": PAD, "eos_token_id": [PAD, *ENDS]}
    with caplog.at_level(logging.WARNING, "minitf.generation"):
        found = ours.generate(ids, **settings)
    assert caplog.records == []
    assert torch.equal(found, theirs.generate(ids, attention_mask=torch.ones_like(ids), **settings))
