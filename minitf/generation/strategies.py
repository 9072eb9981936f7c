"""Which decoding strategy the settings ask for, and which settings it uses: one table.

    strategy                   chosen by                                                  the loop stands in
    greedy_search              num_beams = 1, do_sample = False                           sampling.py
    sample                     num_beams = 1, do_sample = True                            sampling.py
    beam_search                num_beams > 1, do_sample = False                           beams.py
    beam_sample                num_beams > 1, do_sample = True                            beams.py
    group_beam_search          num_beams > 1, num_beam_groups > 1                         groups.py
    constrained_beam_search    constraints or force_words_ids                             constrained.py
    contrastive_search         penalty_alpha > 0, top_k > 1, num_beams = 1, not sampling  contrastive.py
    assisted_decoding          generate(assistant_model=...) or prompt_lookup_num_tokens  assisted.py

A setting of the call that its strategy does not use is an error that names it; the same in a model's own
`generation_config.json`, which was written for all strategies, is said once as a warning.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from minitf.generation.config import GenerationConfig

__all__ = ["STRATEGIES", "Strategy", "check_settings", "choose", "unused"]

logger = logging.getLogger("minitf.generation")

SAMPLING = frozenset(
    {"temperature", "top_k", "top_p", "min_p", "top_h", "typical_p", "epsilon_cutoff", "eta_cutoff"}
)  # fmt: skip
BEAMS = frozenset({"num_beams", "early_stopping", "length_penalty"})
DRAFTS = frozenset({"num_assistant_tokens", "num_assistant_tokens_schedule", "assistant_confidence_threshold"})
LOOKUP = frozenset({"prompt_lookup_num_tokens", "max_matching_ngram_size"})
GROUPS = frozenset({"num_beam_groups", "diversity_penalty"})
FORCED = frozenset({"constraints", "force_words_ids"})
SEVERAL = frozenset({"num_return_sequences"})
SPECIAL = SAMPLING | BEAMS | DRAFTS | LOOKUP | GROUPS | FORCED | SEVERAL | {"penalty_alpha", "do_sample"}
"""Settings that not every strategy uses; all others (lengths, scores, special tokens, outputs) hold for each."""


@dataclass(frozen=True)
class Strategy:
    """One row of the table: its name, the settings of `SPECIAL` that it uses, and where its loop stands."""

    name: str
    uses: frozenset[str]
    home: str

    @property
    def run(self) -> Callable[[Any], Any]:
        """The loop: takes a `minitf.generation.run.Run`, returns an output of `minitf.generation.outputs`."""
        module, function = self.home.split(":")
        loop: Callable[[Any], Any] = getattr(import_module(f"minitf.generation.{module}"), function)
        return loop


STRATEGIES: dict[str, Strategy] = {
    strategy.name: strategy
    for strategy in (
        Strategy("greedy_search", frozenset({"do_sample"}), "sampling:sample"),
        Strategy("sample", SAMPLING | SEVERAL | {"do_sample"}, "sampling:sample"),
        Strategy("beam_search", BEAMS | SEVERAL | {"do_sample"}, "beams:beam_search"),
        Strategy("beam_sample", BEAMS | SAMPLING | SEVERAL | {"do_sample"}, "beams:beam_search"),
        Strategy("group_beam_search", BEAMS | GROUPS | SEVERAL, "groups:group_beam_search"),
        Strategy("constrained_beam_search", BEAMS | FORCED | SEVERAL, "constrained:constrained_beam_search"),
        Strategy("contrastive_search", frozenset({"penalty_alpha", "top_k"}), "contrastive:contrastive_search"),
        Strategy("assisted_decoding", SAMPLING | DRAFTS | {"do_sample"}, "assisted:assisted_decoding"),
        Strategy("prompt_lookup", SAMPLING | LOOKUP | {"do_sample"}, "assisted:assisted_decoding"),
    )
}


def choose(settings: GenerationConfig, *, assisted: bool = False) -> Strategy:
    """The strategy that the settings ask for.

    Args:
        settings: all settings of the call, joined.
        assisted: whether a draft model was passed.

    Raises:
        ValueError: the settings ask for two strategies at once.
    """
    beams = settings.num_beams > 1
    asked = {
        "constrained_beam_search": settings.constraints is not None or settings.force_words_ids is not None,
        "group_beam_search": settings.num_beam_groups > 1,
        "contrastive_search": bool(settings.penalty_alpha) and settings.top_k > 1,
        "assisted_decoding": assisted,
        "prompt_lookup": settings.prompt_lookup_num_tokens is not None,
    }
    names = [name for name, wanted in asked.items() if wanted]
    if len(names) > 1:
        raise ValueError(f"the settings ask for {names[0]} and {names[1]} at once: drop the settings of one of them.")
    if not names:
        return STRATEGIES[("beam_sample" if beams else "sample") if settings.do_sample else
                          ("beam_search" if beams else "greedy_search")]  # fmt: skip
    name = names[0]
    needs_beams = name in ("constrained_beam_search", "group_beam_search")
    if needs_beams and not beams:
        raise ValueError(f"{name} needs num_beams > 1, and num_beams is {settings.num_beams}.")
    if not needs_beams and beams:
        raise ValueError(f"{name} keeps one sequence, but num_beams is {settings.num_beams}: drop one of them.")
    if settings.do_sample and (needs_beams or name == "contrastive_search"):
        raise ValueError(f"{name} draws no samples, but do_sample is True: drop one of them.")
    return STRATEGIES[name]


def unused(settings: GenerationConfig, strategy: Strategy) -> list[str]:
    """The given settings that this strategy would not use, those with the default value left out."""
    default = GenerationConfig()
    return [
        name
        for name, value in settings.given().items()
        if name in SPECIAL - strategy.uses and value != getattr(default, name)
    ]


_said: set[tuple[str, ...]] = set()  # warnings of this file that were given already


def check_settings(strategy: Strategy, of_the_call: GenerationConfig, of_the_model: GenerationConfig) -> None:
    """Nothing that was asked for stays without effect.

    Raises:
        ValueError: a setting of the call that the strategy does not use.
    """
    for name in unused(of_the_call, strategy):
        users = [other.name for other in STRATEGIES.values() if name in other.uses]
        raise ValueError(
            f"{name} = {getattr(of_the_call, name)!r} has no effect in {strategy.name}, the strategy that the other "
            f"settings ask for: it belongs to {', '.join(users)} (see minitf.generation.strategies). Drop it, or add "
            "what chooses one of those."
        )
    names = tuple(name for name in unused(of_the_model, strategy) if name not in of_the_call.given())
    if names and (strategy.name, *names) not in _said:
        _said.add((strategy.name, *names))
        listed = ", ".join(f"{name} = {getattr(of_the_model, name)!r}" for name in names)
        logger.warning("%s does not use these settings of the model's generation_config: %s", strategy.name, listed)
