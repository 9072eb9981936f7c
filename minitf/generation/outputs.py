"""What `generate(return_dict_in_generate=True)` returns; field names and order are those of transformers.

Dimension letters: B rows of the result (prompts x `num_return_sequences`), K beams, T prompt positions, N new tokens,
V vocabulary. Lists over steps are tuples of N entries. A step's scores belong to the rows that were computed: B, or
prompts x K with beams.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from minitf.outputs import ModelOutput

__all__ = [
    "BeamSampleDecoderOnlyOutput",
    "BeamSearchDecoderOnlyOutput",
    "ContrastiveSearchDecoderOnlyOutput",
    "GenerateBeamDecoderOnlyOutput",
    "GenerateDecoderOnlyOutput",
    "GreedySearchDecoderOnlyOutput",
    "SampleDecoderOnlyOutput",
]


@dataclass(eq=False)
class GenerateDecoderOnlyOutput(ModelOutput):
    """Of the strategies that keep one sequence a row.

    Attributes:
        sequences: `[B, T + N]`, prompt and new tokens; a row that ended early is filled with `pad_token_id`.
        scores: N tensors `[B, V]`, the scores after all processors, if `output_scores`.
        logits: N tensors `[B, V]`, the model's scores as they were, if `output_logits`.
        attentions: N tuples of L tensors `[B, H, T or 1, S]`, if `output_attentions`.
        hidden_states: N tuples of L + 1 tensors `[B, T or 1, C]`, if `output_hidden_states`.
        past_key_values: the cache, if `use_cache`; the last token is not in it yet.
    """

    sequences: Tensor | None = None
    scores: tuple[Tensor, ...] | None = None
    logits: tuple[Tensor, ...] | None = None
    attentions: tuple[tuple[Tensor, ...], ...] | None = None
    hidden_states: tuple[tuple[Tensor, ...], ...] | None = None
    past_key_values: Any = None


@dataclass(eq=False)
class GenerateBeamDecoderOnlyOutput(ModelOutput):
    """Of the strategies with beams.

    Attributes:
        sequences: `[B, T + N]`, the best first; what is shorter is filled with `pad_token_id`. (5.x takes a
            `pad_token_id` of 0 for none, and fills with the first end token.)
        sequences_scores: `[B]`, sum of the log-probabilities / length ** `length_penalty`, if `output_scores`.
        scores: N tensors `[prompts * K, V]`, log-probabilities after all processors, if `output_scores`.
        logits: N tensors `[prompts * K, V]`, the model's scores as they were, if `output_logits`.
        beam_indices: `[B, N]`, the row of `scores` that each token was chosen from; -1 beyond the end.
        attentions, hidden_states: as in GenerateDecoderOnlyOutput, with prompts * K rows.
        past_key_values: the cache of the beams that ran last, prompts * K rows, which are not those of `sequences`: do
            not go on from it. A cache of the caller's holds the prompts again.
    """

    sequences: Tensor | None = None
    sequences_scores: Tensor | None = None
    scores: tuple[Tensor, ...] | None = None
    logits: tuple[Tensor, ...] | None = None
    beam_indices: Tensor | None = None
    attentions: tuple[tuple[Tensor, ...], ...] | None = None
    hidden_states: tuple[tuple[Tensor, ...], ...] | None = None
    past_key_values: Any = None


# The names of transformers 4, one for each strategy.
GreedySearchDecoderOnlyOutput = GenerateDecoderOnlyOutput
SampleDecoderOnlyOutput = GenerateDecoderOnlyOutput
ContrastiveSearchDecoderOnlyOutput = GenerateDecoderOnlyOutput
BeamSearchDecoderOnlyOutput = GenerateBeamDecoderOnlyOutput
BeamSampleDecoderOnlyOutput = GenerateBeamDecoderOnlyOutput
