"""What each generated token scored in the step that chose it.

Dimension letters: B rows of the result, N new tokens, V vocabulary, R rows that were computed (B, or prompts x beams).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["compute_transition_scores"]


def compute_transition_scores(
    sequences: Tensor,
    scores: Sequence[Tensor] | None,
    beam_indices: Tensor | None = None,
    normalize_logits: bool = False,
) -> Tensor:
    """The score that each new token had when it was chosen, as `compute_transition_scores` of transformers.

    With beams the scores are log-probabilities, so the sum of a row, divided by its number of new tokens to the power
    of `length_penalty`, is its `sequences_scores`.

    Args:
        sequences: `[B, T + N]`, or `[B, N]` where the prompt was `inputs_embeds`: the output's `sequences`.
        scores: N tensors `[R, V]`: the output's `scores`, or its `logits`.
        beam_indices: `[B, N]`: the output's `beam_indices`; None for the strategies without beams, where R is B.
        normalize_logits: take log_softmax of the scores first.

    Returns:
        `[B, N]`. Beyond the end of a row it is 0 with `beam_indices`; without them it is the score of the fill token.

    Raises:
        ValueError: there are no scores, or the three do not belong to one output.
    """
    if not scores:
        raise ValueError("scores is empty: pass output_scores=True and return_dict_in_generate=True to generate().")
    steps = torch.stack(list(scores), dim=1)  # [R, N, V]
    if beam_indices is None:
        if len(steps) != len(sequences):
            raise ValueError(
                f"sequences has {len(sequences)} rows and scores are of {len(steps)}: pass the output's beam_indices."
            )
        own = torch.arange(len(sequences), device=sequences.device)  # [B]
        beam_indices = own[:, None].expand(-1, steps.shape[1])  # [B, N]
    written = beam_indices >= 0  # [B, N]
    new = int(written.sum(dim=1).max())
    if len(beam_indices) != len(sequences) or not new <= min(steps.shape[1], sequences.shape[1]):
        raise ValueError(
            f"sequences {list(sequences.shape)}, {steps.shape[1]} steps of scores and beam_indices "
            f"{list(beam_indices.shape)} do not belong together: pass those of one output."
        )
    if normalize_logits:
        steps = steps.log_softmax(dim=-1)  # [R, N, V]
    rows, written, tokens = beam_indices[:, :new], written[:, :new], sequences[:, sequences.shape[1] - new :]
    if bool((tokens[written] >= steps.shape[2]).any()) or int(rows.max()) >= len(steps):
        raise ValueError(
            f"sequences or beam_indices name a token or row that scores [{len(steps)}, {steps.shape[2]}] do not have: "
            "pass those of one output."
        )
    step = torch.arange(new, device=sequences.device)  # [N]
    found = steps[rows.clamp(min=0), step, tokens.clamp(min=0)]  # [B, N]
    return found.masked_fill(~written, 0.0)  # [B, N]
