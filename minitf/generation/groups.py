"""Diverse beam search: groups of beams that avoid each other's tokens (Vijayakumar et al. 2016, arXiv:1610.02424).

The K beams of ordinary beam search often differ in a word or two. Here they are divided into G groups of K / G. At each
step the groups choose one after the other, each by beam search among its own beams, with

    score(token) = log p(token | beam) - diversity_penalty * how many beams of earlier groups chose this token now

(the paper's Hamming diversity). The first group is ordinary beam search with K / G beams. At the end the finished
sequences of all groups compete by their scores, which contain the penalties.

What is kept, and when it is over, stands in `hypotheses.py`. As in transformers up to 4.49.0, a group that is done
writes the padding token, and that counts for later groups as a choice too. The penalty is applied where 4.49.0 has it:
after guidance and sequence bias, before all other processors. Processors may hold an entry for each row, so they are
always called with the rows of all groups, of which one group's are used.

Deliberate differences: `beam_indices` are right for every group (4.49.0 looks up those of later groups in the first);
see also `hypotheses.py`.

Dimension letters: B prompts, K beams, G groups, R rows (B x K), T positions so far, V vocabulary.
"""

from __future__ import annotations

import torch
from torch import Tensor

from minitf.generation.hypotheses import Beams, Candidate, Finished, best_candidates, best_first, output, split
from minitf.generation.outputs import GenerateBeamDecoderOnlyOutput
from minitf.generation.processors import HammingDiversityLogitsProcessor, LogitsProcessorList
from minitf.generation.run import Run

__all__ = ["group_beam_search"]


def group_beam_search(run: Run) -> GenerateBeamDecoderOnlyOutput:
    """Search with `num_beam_groups` groups; see the head of this file.

    Raises:
        ValueError: `num_beams` is no multiple of `num_beam_groups`; `diversity_penalty` is not > 0.
    """
    settings, prompts, width = run.settings, len(run.sequences), run.settings.num_beams
    check_groups(run)
    size = width // settings.num_beam_groups
    rows = torch.arange(prompts * width, device=run.sequences.device).view(prompts, width)  # [B, K]
    finished = [[Finished.of(run, size) for _ in range(settings.num_beam_groups)] for _ in range(prompts)]
    beams = Beams.first(run, range(0, width, size))
    penalised = Penalised(run)
    all_scores: list[Tensor] = []
    all_logits: list[Tensor] = []

    logits = run.steps.logits(run.sequences)  # [B, V]
    run.steps.repeat(width, prompts)
    logits = logits.repeat_interleave(width, dim=0)  # [R, V]
    while True:
        log_probs = penalised.before(beams.sequences, torch.log_softmax(logits, dim=-1))  # [R, V]
        chosen: dict[int, Candidate] = {}  # row -> what it becomes
        tokens = beams.sequences.new_zeros(prompts * width)  # [R]
        scores = torch.empty_like(log_probs)  # [R, V]
        over = beams.sequences.shape[1] + 1 >= run.max_length
        for group in range(settings.num_beam_groups):
            members = rows[:, group * size : (group + 1) * size]  # [B, K / G]
            own = penalised(beams.sequences, log_probs, tokens, group, members)  # [B * K / G, V]
            totals = own + beams.totals[members.flatten(), None]  # [B * K / G, V]
            candidates, stop = best_candidates(run, beams, totals.view(prompts, size, -1), members, own)
            over |= stop
            for prompt, places in enumerate(members.tolist()):
                going = choose(run, beams, candidates[prompt], finished[prompt][group], places)
                chosen.update(zip(places, going, strict=True))
            listed = [chosen[row].token for row in members.flatten().tolist()]
            tokens[members.flatten()] = torch.tensor(listed, device=tokens.device)
            scores[members.flatten()] = own
        if settings.output_logits:
            all_logits.append(logits)
        if settings.output_scores:
            all_scores.append(scores)
        beams = beams.extended([chosen[row] for row in range(prompts * width)])
        if over or all(one.done for groups in finished for one in groups):
            break
        run.steps.reorder(beams.origins[:, -1])
        logits = run.steps.logits(beams.sequences)  # [R, V]

    for prompt, groups in enumerate(finished):
        for one, places in zip(groups, rows[prompt].view(-1, size).tolist(), strict=True):
            if not one.done:
                beams.give_all(places, one)
    ranked = [best_first(hypothesis for one in groups for hypothesis in one.kept) for groups in finished]
    return output(run, ranked, all_scores, all_logits)


def check_groups(run: Run) -> None:
    """Groups of one size, and a penalty that makes them differ; for the errors see `group_beam_search`."""
    settings = run.settings
    if settings.num_beams % settings.num_beam_groups:
        raise ValueError(
            f"num_beams = {settings.num_beams} cannot be divided into num_beam_groups = {settings.num_beam_groups} "
            "groups of one size: make it a multiple."
        )
    if not settings.diversity_penalty > 0.0:
        raise ValueError(
            f"diversity_penalty = {settings.diversity_penalty}: expected a number > 0, because without it all "
            f"{settings.num_beam_groups} groups find the same sequences."
        )


def choose(
    run: Run, beams: Beams, candidates: list[Candidate], finished: Finished, places: list[int]
) -> list[Candidate]:
    """How the beams at the rows `places`, one group of one prompt, go on; the candidates that end are put away."""
    if finished.done:
        return [Candidate(0.0, run.pad, row) for row in places]
    run.steps.refuse_score(candidates[0].total, places[0] // run.settings.num_beams)
    ended, going = split(candidates, len(places))
    for candidate in ended:
        beams.finish(candidate, finished)
    finished.close_if_settled(candidates[0].total, beams.origins.shape[1] + 1)
    return going


class Penalised:
    """The processors of the call, with the diversity penalty at its place among them."""

    def __init__(self, run: Run) -> None:
        settings = run.settings
        count = (settings.guidance_scale not in (None, 1.0)) + (settings.sequence_bias is not None)
        self.before = LogitsProcessorList(run.processors[:count])
        self.after = LogitsProcessorList(run.processors[count:])
        self.diversity = HammingDiversityLogitsProcessor(
            float(settings.diversity_penalty), settings.num_beams, settings.num_beam_groups
        )

    def __call__(self, sequences: Tensor, scores: Tensor, tokens: Tensor, group: int, members: Tensor) -> Tensor:
        """The scores of one group's rows, `[B * K / G, V]`.

        Args:
            sequences: `[R, T]`. scores: `[R, V]`, through the processors `before`.
            tokens: `[R]`, what earlier groups chose at this step.
            members: `[B, K / G]`, the group's rows.
        """
        own = members.flatten()  # [B * K / G]
        penalised = self.diversity(sequences[own], scores[own], current_tokens=tokens, beam_group_idx=group)
        if not self.after:
            return penalised
        return self.after(sequences, scores.index_copy(0, own, penalised))[own]  # [B * K / G, V]
