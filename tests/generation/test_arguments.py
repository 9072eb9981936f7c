"""Arguments of `generate` that it could not use: each is an error that names it, before anything is computed."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch

import minitf
from minitf.generation import prepare
from minitf.generation.config import GenerationConfig, UnknownSettingError
from tests.generation.pairs import ENDS, PAD, POSITIONS, VOCABULARY, pair

IDS = torch.tensor([[3, 9, 4], [8, 7, 6]])
ONE = IDS[:1]

REFUSED: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "half a token": ({"attention_mask": torch.tensor([[0.5, 1.0, 1.0]])}, ValueError, "attention_mask holds 0.5"),
    "a mask that counts": ({"attention_mask": torch.tensor([[2, 1, 1]])}, ValueError, "attention_mask holds 2"),
    "a negative mask": ({"attention_mask": torch.tensor([[-1, 1, 1]])}, ValueError, "attention_mask holds -1"),
    "a list as mask": ({"attention_mask": [[1, 1, 1]]}, TypeError, "attention_mask is a list; expected a tensor"),
    "a list of positions": ({"position_ids": [[0, 1, 2]]}, TypeError, "position_ids is a list"),
    "a list of types": ({"token_type_ids": [[0, 0, 0]]}, TypeError, "token_type_ids is a list"),
    "positions as floats": ({"position_ids": torch.zeros(1, 3)}, TypeError, "position_ids has dtype torch.float32"),
    "a negative position": ({"position_ids": torch.tensor([[-1, 0, 1]])}, ValueError, r"position_ids\[0, 0\] = -1"),
    "too late a position": (
        {"position_ids": torch.tensor([[0, 1, POSITIONS - 4]])}, ValueError,
        rf"position_ids end at {POSITIONS - 4}, and 5 new tokens go on to {POSITIONS}; this model has {POSITIONS} "
        r"\(max_position_embeddings\): at most 4 new tokens fit",
    ),
    "a seed as generator": ({"generator": 3, "do_sample": True}, TypeError, "generator is a int; expected a torch.Gen"),
    "a generator of nothing": (
        {"generator": torch.Generator()}, ValueError, "generator= has no effect without do_sample=True"
    ),
    "a processor alone": (
        {"logits_processor": lambda ids, scores: scores}, TypeError, "each entry a logits processor, and got a <lambda>"
    ),
    "a number as processor": ({"logits_processor": [3]}, TypeError, "logits processor 0 is 3: expected a function"),
    "a criterion alone": (
        {"stopping_criteria": minitf.generation.EosTokenCriteria(2)}, TypeError,
        "each entry a stopping criterion, and got a EosTokenCriteria: put it into a list",
    ),
    "a text as criterion": ({"stopping_criteria": ["\n"]}, TypeError, r"stopping criterion 0 is '\\n'"),
    "a function as streamer": ({"streamer": print}, TypeError, r"streamer is a \w+ without put\(\)"),
    "an end that cannot come": (
        {"eos_token_id": [2, VOCABULARY]}, ValueError, rf"eos_token_id = \[2, {VOCABULARY}\], but vocab_size is"
    ),
    "padding that cannot be": ({"pad_token_id": 99}, ValueError, f"pad_token_id = 99, but vocab_size is {VOCABULARY}"),
    "a second token that is there": (
        {"forced_bos_token_id": 9}, ValueError, "forced_bos_token_id = 9 has no effect: .* the prompt has 3"
    ),
    "a foreign negative prompt": (
        {"guidance_scale": 2.0, "negative_prompt_ids": torch.tensor([[500]])}, ValueError,
        r"negative_prompt_ids\[0, 0\] = 500",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_refused_before_anything_is_computed(case: str) -> None:
    call, kind, message = REFUSED[case]
    ours, _ = pair("GPT2LMHeadModel")

    def computed(*args: Any) -> None:
        raise AssertionError("the model was called")

    handle = ours.transformer.register_forward_pre_hook(computed)
    try:
        with pytest.raises(kind, match=message):
            ours.generate(ONE, max_new_tokens=5, **call)
    finally:
        handle.remove()


def test_guidance_of_embeddings_needs_a_negative_prompt() -> None:
    ours, _ = pair("GPT2LMHeadModel")
    call: dict[str, Any] = {"inputs_embeds": torch.zeros(1, 2, ours.config.hidden_size), "max_new_tokens": 3}
    with pytest.raises(ValueError, match=r"guidance_scale compares with the last token .* pass negative_prompt_ids"):
        ours.generate(guidance_scale=2.0, **call)
    assert ours.generate(guidance_scale=2.0, negative_prompt_ids=ONE, **call).shape == (1, 3)


def test_the_last_position_that_fits() -> None:
    """The last new token is not read, so its position need not exist."""
    ours, _ = pair("GPT2LMHeadModel")
    positions = torch.tensor([[0, 1, POSITIONS - 5]])
    assert ours.generate(ONE, max_new_tokens=5, position_ids=positions).shape == (1, 8)


def test_the_nearest_name_is_one_that_exists() -> None:
    ours, _ = pair("GPT2LMHeadModel")
    with pytest.raises(UnknownSettingError, match="no setting 'return_dict'; did you mean 'return_dict_in_generate'"):
        ours.generate(ONE, return_dict=True)


def test_padding_of_the_configuration_that_the_model_does_not_have() -> None:
    """A small vocabulary beside the default end token of GPT-2: refused only where a row could be filled with it."""
    config = minitf.GPT2Config(vocab_size=50, n_positions=32, n_embd=16, n_layer=1, n_head=2)
    model = minitf.GPT2LMHeadModel(config).eval()
    assert model.generation_config.eos_token_id == 50256
    assert model.generate(IDS, max_new_tokens=4).shape == (2, 7)  # no row can end early
    with pytest.raises(ValueError, match=r"filled with 50256 \(eos_token_id\), but vocab_size is 50: pass a pad_token"):
        model.generate(IDS, max_new_tokens=4, stopping_criteria=[lambda ids, scores: ids[:, -1] > 25])
    model.generation_config.pad_token_id = 70
    with pytest.raises(ValueError, match=r"filled with 70 \(pad_token_id\)"):
        model.generate(IDS, max_new_tokens=4, eos_token_id=7)
    assert model.generate(ONE, max_new_tokens=4, eos_token_id=7).shape[0] == 1  # one row is never filled up


def test_a_forced_token_of_the_models_own_is_said(caplog: pytest.LogCaptureFixture) -> None:
    prepare._said.clear()
    ours, _ = pair("GPT2LMHeadModel")
    ours.generation_config.forced_bos_token_id = 9
    try:
        with caplog.at_level(logging.WARNING, "minitf.generation"):
            for _ in range(2):
                ours.generate(ONE, max_new_tokens=2)
            assert ours.generate(ONE[:, :1], max_new_tokens=2)[0, 1] == 9
    finally:
        del ours.generation_config.__dict__["forced_bos_token_id"]
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == 1
    assert said[0].startswith("forced_bos_token_id = 9 has no effect")


def test_what_a_file_says_is_given_though_it_is_the_default(tmp_path: Path) -> None:
    """Saved and read again, settings are the same; `max_length` 20 is not "20 new tokens"."""
    settings = GenerationConfig(max_length=20, top_k=50, do_sample=False)
    settings.save_pretrained(tmp_path)
    assert GenerationConfig.from_pretrained(tmp_path) == settings
    ours, theirs = pair("GPT2LMHeadModel")
    found = ours.generate(ONE, generation_config=GenerationConfig.from_dict({"max_length": 20}))
    other = theirs.generate(ONE, generation_config=type(theirs.generation_config).from_dict({"max_length": 20}))
    assert found.shape == other.shape == (1, 20)


def test_a_misspelt_setting_of_a_file_is_said(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "minitf.generation"):
        GenerationConfig.from_dict({"max_new_tokenz": 5, "assistant_lookbehind": 10, "my_key": 1}, source="file.json")
    said = [record.getMessage() for record in caplog.records]
    assert said == [
        "file.json: max_new_tokenz = 5 has no effect: there is no such setting; did you mean 'max_new_tokens'?"
    ]


def test_settings_are_the_configs_own() -> None:
    """What the caller does to his list later changes nothing that was checked."""
    words, ends = [[5, 6]], list(ENDS)
    config = GenerationConfig(bad_words_ids=words, eos_token_id=ends, pad_token_id=PAD)
    words[0].append(-3)
    ends.append(-1)
    assert config.bad_words_ids == [[5, 6]]
    assert config.eos_token_id == ENDS


@pytest.mark.parametrize(
    "how",
    [{}, {"do_sample": True}, {"num_beam_groups": 2, "diversity_penalty": 1.0}, {"force_words_ids": [[7]]}],
    ids=["search", "sample", "groups", "constrained"],
)
@pytest.mark.parametrize("results", [1, 4])
def test_the_callers_cache_after_beams(how: dict[str, Any], results: int) -> None:
    """It holds the prompts, so the next turn has the scores that it has without a cache, or an error."""
    ours, _ = pair("GPT2LMHeadModel")
    call: dict[str, Any] = {"eos_token_id": None, "max_new_tokens": 5, "return_dict_in_generate": True}
    cache = minitf.KVCache()
    torch.manual_seed(0)
    found = ours.generate(IDS, num_beams=4, num_return_sequences=results, past_key_values=cache, **how, **call)
    torch.manual_seed(0)
    afresh = ours.generate(IDS, num_beams=4, num_return_sequences=results, **how, **call)
    assert torch.equal(found.sequences, afresh.sequences)
    assert cache.get_seq_length() == IDS.shape[1]
    text = torch.cat([found.sequences, IDS.repeat_interleave(results, dim=0)], dim=1)
    if results > 1:
        with pytest.raises(ValueError, match="the cache holds a batch of 2, but this call has a batch of 8"):
            ours.generate(text, past_key_values=cache, **call)
        cache.batch_repeat(results)
    second = ours.generate(text, past_key_values=cache, output_logits=True, **call)
    plain = ours.generate(text, output_logits=True, **call)
    assert torch.equal(second.sequences, plain.sequences)
    for one, other in zip(second.logits, plain.logits, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=2e-5)
