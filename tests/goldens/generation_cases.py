"""The cases of `generation_*.safetensors`: decoding that transformers 4.49.0 has and 5.x dropped.

Diverse beam search, constrained beam search, contrastive search, each with its own settings, those of all beam
searches, end tokens, processors, padded batches, prompts of one token and texts that fill the model. Names say what
differs.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tests.goldens.bert_runs import Case
from tests.goldens.generation_runs import PAD

RAGGED = [[7, 23, 41, 12, 5], [33, 8], [19]]
ONE, PAIR, SHORT = [[7, 23, 41, 12, 5]], [[7, 23, 41, 12], [33, 8, 50, 2]], [[19]]
GPT2 = ("GPT2LMHeadModel", 3)  # class, seed
BERT = ("BertLMHeadModel", 0)
END, ENDS = 32, [49, 32, 20]
COMMON, COMMON_ONES = 27, [27, 39, 32]
OUTPUTS = ("scores", "logits", "attentions", "hidden_states")


def beam_settings(end: int, ends: list[int]) -> dict[str, dict[str, Any]]:
    """The settings that all beam searches share."""
    return {
        "early stopping": {"early_stopping": True, "eos_token_id": end},
        "no early stopping": {"early_stopping": False, "eos_token_id": end},
        "never early": {"early_stopping": "never", "eos_token_id": end},
        "short ones": {"length_penalty": -1.0, "eos_token_id": ends},
        "short ones, never early": {"length_penalty": -1.5, "early_stopping": "never", "eos_token_id": end},
        "long ones": {"length_penalty": 2.0, "eos_token_id": ends},
        "long ones, never early": {"length_penalty": 3.0, "early_stopping": "never", "eos_token_id": ends},
        "sums": {"length_penalty": 0.0, "eos_token_id": ends, "early_stopping": True},
        "padding is an end": {"eos_token_id": end, "pad_token_id": end},
        "no end": {},
    }


def processors(end: int, ends: list[int]) -> dict[str, dict[str, Any]]:
    """Settings that change the scores."""
    return {
        "repetition penalty": {"repetition_penalty": 1.4},
        "n-grams": {"no_repeat_ngram_size": 2},
        "minimum": {"min_new_tokens": 5, "eos_token_id": ends},
        "bias": {"sequence_bias": [[[end], 2.0], [[11], -3.0]]},
        "renormalised": {"renormalize_logits": True, "suppress_tokens": [39, 11], "no_repeat_ngram_size": 3},
        "forced end": {"forced_eos_token_id": end, "eos_token_id": end},
    }


def case(
    group: str, name: str, about: str, prompts: list[list[int]], settings: dict[str, Any], *,
    model: tuple[str, int] = GPT2, keep: tuple[str, ...] = (), **options: Any,
) -> Case:  # fmt: skip
    settings = {"max_new_tokens": 10, "pad_token_id": PAD, **settings}
    kept = keep if group == "contrastive" else ("sequences_scores", *keep)
    options = {"seed": model[1], "keep": [*kept], "settings": settings, **options}
    return Case(f"{group} {name}", group, about, model[0], "generate", {}, {"prompts": prompts}, options)


def group_cases() -> Iterator[Case]:
    """Diverse beam search."""
    search = {"num_beams": 4, "num_beam_groups": 2, "diversity_penalty": 1.0, "num_return_sequences": 4}
    for name, settings in beam_settings(END, ENDS).items():
        yield case("groups", name, "settings of beam search", RAGGED, {**search, **settings})
    for name, settings in processors(END, ENDS).items():
        about = "a processor, which sees the scores after the penalty"
        yield case("groups", name, about, PAIR, {**search, "eos_token_id": END, **settings})
    shapes = {
        "three groups of one": {"num_beams": 3, "num_beam_groups": 3, "num_return_sequences": 2},
        "two groups of three": {"num_beams": 6, "num_beam_groups": 2, "diversity_penalty": 0.3},
        "strong penalty": {"diversity_penalty": 20.0},
        "best only": {"num_return_sequences": 1},
    }
    for name, settings in shapes.items():
        yield case("groups", name, "the groups", RAGGED, {**search, "eos_token_id": ENDS, **settings})
    long = {**search, "max_new_tokens": 23}
    yield case("groups", "one token", "a prompt of length 1, up to n_positions", SHORT, long)
    yield case("groups", "one new token", "a single step", RAGGED, {**search, "max_new_tokens": 1, "eos_token_id": END})
    yield case("groups", "BERT", "a decoder of the other kind", PAIR, {**search, "eos_token_id": 22}, model=BERT)
    yield case(
        "groups", "outputs", "scores, logits, attentions and hidden states", ONE,
        {**search, "num_return_sequences": 1, "max_new_tokens": 4}, keep=OUTPUTS,
    )  # fmt: skip


WORDS: dict[str, list[Any]] = {
    "a token": [[29]],
    "a phrase": [[29, 46, 3]],
    "two words": [[48], [13, 59]],
    "three words": [[48, 21], [13], [29, 46]],
    "the same word twice": [[48], [48]],
    "alternatives": [[[29, 46], [55], [3, 4, 6]]],
    "a word and alternatives": [[13, 59], [[29, 46], [18]]],
    "alternatives twice": [[[29], [46, 47]], [[3, 4], [18, 12]]],
}


def constrained_cases() -> Iterator[Case]:
    """Constrained beam search. `num_return_sequences` is 1 where more would bring sequences that miss a word."""
    search = {"num_beams": 4}
    for name, words in WORDS.items():
        about = "what must be written"
        yield case("constrained", name, about, RAGGED, {**search, "force_words_ids": words, "eos_token_id": COMMON})
        yield case(
            "constrained", f"{name}, as objects", about, PAIR, {**search, "num_beams": 6, "eos_token_id": COMMON_ONES},
            keep=("beam_indices",), constraints=words,
        )  # fmt: skip
    for name, settings in beam_settings(COMMON, COMMON_ONES).items():
        # the ends are made more probable, else few of the sequences that hold all forced words would end
        ends = COMMON_ONES if settings.get("eos_token_id") == COMMON_ONES else [COMMON]
        to_end = {"sequence_bias": [[[end], 4.0] for end in ends]}
        forced = {"force_words_ids": WORDS["a word and alternatives"], **to_end, **settings}
        yield case("constrained", name, "settings of beam search", RAGGED, {**search, **forced})
    for name, settings in processors(COMMON, COMMON_ONES).items():
        forced = {"force_words_ids": WORDS["two words"], "eos_token_id": COMMON, **settings}
        yield case("constrained", name, "a processor", PAIR, {**search, **forced})
    both = {**search, "force_words_ids": WORDS["alternatives"], "eos_token_id": COMMON_ONES}
    yield case("constrained", "objects and words", "both", PAIR, both, constraints=WORDS["a token"])
    begun = {**search, "force_words_ids": [[5, 29]], "eos_token_id": COMMON}
    yield case("constrained", "begun by the prompt", "the prompt counts: it ends with the phrase's 5", ONE, begun)
    twice = {**search, "num_return_sequences": 2, "force_words_ids": WORDS["a token"], "eos_token_id": COMMON_ONES}
    yield case("constrained", "two results", "both fulfil it", ONE, {**twice, "num_beams": 8})
    long = {**search, "force_words_ids": WORDS["three words"], "max_new_tokens": 23}
    yield case("constrained", "one token as prompt", "up to n_positions", SHORT, long)
    room = {**search, "force_words_ids": WORDS["three words"], "max_new_tokens": 5}
    yield case("constrained", "no room to spare", "as many new tokens as the constraints have", RAGGED, room)
    bert = {**search, "force_words_ids": WORDS["two words"], "eos_token_id": 22}
    yield case("constrained", "BERT", "a decoder of the other kind", PAIR, bert, model=BERT)
    yield case(
        "constrained", "outputs", "scores (4.49.0 adds the sums), logits, attentions and hidden states", ONE,
        {**search, "force_words_ids": [[29]], "max_new_tokens": 4}, keep=OUTPUTS,
    )  # fmt: skip
    missing = {**search, "num_return_sequences": 4, "force_words_ids": WORDS["a phrase"], "eos_token_id": COMMON_ONES}
    about = "4.49.0 returns some that miss the phrase, and fails if their origins are asked for"
    yield case("constrained", "four results", about, RAGGED, missing, misses=True)


def contrastive_cases() -> Iterator[Case]:
    """Contrastive search."""
    search = {"penalty_alpha": 0.6, "top_k": 4}
    strengths = {
        "weak": {"penalty_alpha": 0.1},
        "strong": {"penalty_alpha": 0.95},
        "two candidates": {"top_k": 2},
        "twelve candidates": {"top_k": 12},
        "one end": {"eos_token_id": 13},
        "several ends": {"eos_token_id": [46, 13, 48]},
        "padding is an end": {"eos_token_id": 13, "pad_token_id": 13},
    }
    for name, settings in strengths.items():
        yield case("contrastive", name, "its settings, and where rows end", RAGGED, {**search, **settings})
    for name, settings in processors(END, ENDS).items():
        yield case("contrastive", name, "a processor", PAIR, {**search, "eos_token_id": 13, **settings})
    yield case("contrastive", "one token", "up to n_positions", SHORT, {**search, "max_new_tokens": 23})
    yield case("contrastive", "ragged to the end", "up to n_positions", RAGGED, {**search, "max_new_tokens": 19})
    yield case("contrastive", "BERT", "the other kind", PAIR, {**search, "max_new_tokens": 20}, model=BERT)
    yield case(
        "contrastive", "outputs", "scores, logits, attentions and hidden states", RAGGED,
        {**search, "max_new_tokens": 4}, keep=OUTPUTS,
    )  # fmt: skip


CASES: tuple[Case, ...] = (*group_cases(), *constrained_cases(), *contrastive_cases())
