"""Constrained beam search: beams that must contain given words.

The method is Hokamp & Liu's (2017, arXiv:1704.07138), with a fixed number of beams Post & Vilar's (2018,
arXiv:1804.06609). Ordinary beam search would drop a beam as soon as a forced word makes it improbable. So beams are
divided into *banks* by how much of the constraints they have fulfilled, and each bank keeps its own best:

    candidates     the best K continuations of all beams, as in ordinary beam search, and each beam with each token that
                   would bring its constraints forward, however improbable
    bank           of a candidate: (complete constraints) * (tokens of the longest) + (tokens of the one being written)
    the next K     the best of every bank, from the fullest to the emptiest, then the second best of every bank, ...

A sequence that ends is kept only if it fulfils all constraints. What else is kept, and when the search is over, stands
in `hypotheses.py`; how constraints are followed, in `constraints.py`.

As in transformers up to 4.49.0, the prompt is read as the beginning of the text: what it contains is fulfilled. And
nothing pushes a beam forward that has fulfilled everything: it goes on only if its continuations are among the best K,
so in a long text it may be lost again, and at the end a warning says that nothing was found. Few new tokens (none to
spare: the result always holds all words), or more beams, keep it. A forced token that a processor forbids is tried all
the same; such a sequence has the score -inf and comes last.

Deliberate differences: where fewer sequences fulfil the constraints than are to be returned, they go first, others fill
the places and a warning says so (4.49.0 lets them compete by their scores alone, so that a sequence which misses a word
can drive out one that has it); `scores` hold log-probabilities, as for every other search (in 4.49.0 their sums along
the beam); see also the other two files.

Dimension letters: B prompts, K beams, R rows (B x K), T positions so far, V vocabulary.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

import torch
from torch import Tensor

from minitf.generation.constraints import (
    Constraint,
    ConstraintListState,
    DisjunctiveConstraint,
    PhrasalConstraint,
    _Phrases,
)
from minitf.generation.hypotheses import (
    Beams,
    Candidate,
    Finished,
    Hypothesis,
    best_candidates,
    best_first,
    ending,
    output,
    split,
)
from minitf.generation.outputs import GenerateBeamDecoderOnlyOutput
from minitf.generation.run import Run

__all__ = ["constrained_beam_search"]

logger = logging.getLogger("minitf.generation")

BANK = 100.0  # what a bank is worth beside a sum of log-probabilities; 4.49.0's number


def constrained_beam_search(run: Run) -> GenerateBeamDecoderOnlyOutput:
    """Search for sequences that fulfil `constraints` and `force_words_ids`; see the head of this file.

    Raises:
        ValueError: a constraint that cannot be fulfilled, or that changes nothing; see `constraints_of`.
    """
    settings, prompts, width = run.settings, len(run.sequences), run.settings.num_beams
    rows = torch.arange(prompts * width, device=run.sequences.device).view(prompts, width)  # [B, K]
    states = [state for state in first_states(run, constraints_of(run)) for _ in range(width)]  # of each row
    finished = [Finished.of(run, width) for _ in range(prompts)]
    beams = Beams.first(run, [0])
    all_scores: list[Tensor] = []
    all_logits: list[Tensor] = []

    logits = run.steps.logits(run.sequences)  # [B, V]
    run.steps.repeat(width, prompts)
    logits = logits.repeat_interleave(width, dim=0)  # [R, V]
    while True:
        scores = run.processors(beams.sequences, torch.log_softmax(logits, dim=-1))  # [R, V]
        if settings.output_logits:
            all_logits.append(logits)
        if settings.output_scores:
            all_scores.append(scores)
        totals = scores + beams.totals[:, None]  # [R, V]
        candidates, over = best_candidates(run, beams, totals.view(prompts, width, -1), rows, scores)
        chosen: list[Candidate] = []  # what each row becomes
        for prompt, places in enumerate(rows.tolist()):
            if finished[prompt].done:
                chosen += [Candidate(0.0, run.pad, row) for row in places]
                continue
            run.steps.refuse_score(candidates[prompt][0].total, prompt)
            ended, going = split(candidates[prompt], width)
            for_progress = forced(run, beams, totals, states, going, places)
            for candidate in [*ended, *(one for one in for_progress if one.ends)]:
                if states[candidate.row].after(candidate.token).completed:
                    beams.finish(candidate, finished[prompt])
            chosen += spread(going, [one for one in for_progress if not one.ends], states)
            finished[prompt].close_if_settled(candidates[prompt][0].total, beams.origins.shape[1] + 1)
        beams = beams.extended(chosen)
        states = [states[candidate.row].after(candidate.token) for candidate in chosen]
        if over or beams.sequences.shape[1] >= run.max_length or all(one.done for one in finished):
            break
        run.steps.reorder(beams.origins[:, -1])
        logits = run.steps.logits(beams.sequences)  # [R, V]
    ranked = [rank(run, beams, states, finished[prompt], rows[prompt].tolist()) for prompt in range(prompts)]
    return output(run, ranked, all_scores, all_logits)


# --------------------------------------------------------------------------------------------------------------------
# One step


def forced(
    run: Run,
    beams: Beams,
    totals: Tensor,
    states: Sequence[ConstraintListState],
    going: Sequence[Candidate],
    places: Sequence[int],
) -> list[Candidate]:
    """The beams of one prompt, at the rows `places`, with each token that brings their constraints forward.

    Left out is what is among `going` already, or would come twice: in the first step all beams are equal.
    """
    written = {row: tuple(beams.written(row)[0]) for row in places}
    seen = {(*written[one.row], one.token) for one in going}
    found: list[tuple[int, int]] = []
    for row in places:
        for token in [] if states[row].completed else states[row].advance():
            if (*written[row], token) not in seen:
                seen.add((*written[row], token))
                found.append((row, token))
    if not found:
        return []
    where = torch.tensor(found, device=totals.device)  # [n, 2]
    sequences = torch.cat([beams.sequences[where[:, 0]], where[:, 1:]], dim=1)  # [n, T + 1]
    by_token, by_criterion = ending(run, sequences, totals)  # [n], [n]
    sums = totals[where[:, 0], where[:, 1]].tolist()
    ends = (by_token | by_criterion).tolist()
    return [Candidate(*one) for one in zip(sums, where[:, 1].tolist(), where[:, 0].tolist(), ends, strict=True)]


def spread(
    going: Sequence[Candidate], for_progress: Sequence[Candidate], states: Sequence[ConstraintListState]
) -> list[Candidate]:
    """As many as `going` of both kinds: the best of every bank, fullest bank first, then the second best, ..."""
    if not for_progress:
        return list(going)
    candidates = [*going, *for_progress]
    banks = [states[candidate.row].after(candidate.token).bank for candidate in candidates]
    # In float32, as 4.49.0 computes it: there candidates of a high bank can be equal that differ in their last digits.
    worth = torch.tensor(banks) * BANK + torch.tensor([candidate.total for candidate in candidates])  # [n]
    order = worth.sort(descending=True, stable=True).indices.tolist()
    places: list[int] = []  # in its bank
    for number, candidate in enumerate(order):
        same = number > 0 and banks[order[number - 1]] == banks[candidate]
        places.append(places[-1] + 1 if same else 0)
    by_place = sorted(range(len(order)), key=places.__getitem__)
    return [candidates[order[number]] for number in by_place[: len(going)]]


def rank(
    run: Run, beams: Beams, states: Sequence[ConstraintListState], finished: Finished, places: Sequence[int]
) -> list[Hypothesis]:
    """The finished sequences of one prompt, best first; running beams fill up what is missing at the maximum length."""
    if finished.done:
        return best_first(finished.kept)
    beams.give_all([row for row in places if states[row].completed], finished)
    missing = run.settings.num_return_sequences - len(finished.kept)
    if missing <= 0:
        return best_first(finished.kept)
    others = Finished.of(run, len(places))
    beams.give_all([row for row in places if not states[row].completed], others)
    logger.warning(
        "constrained beam search: %d of %d sequences of prompt %d miss a constraint: allow more beams, or less or more "
        "new tokens.",
        missing, run.settings.num_return_sequences, places[0] // len(places),
    )  # fmt: skip
    return best_first(finished.kept) + best_first(others.kept)


# --------------------------------------------------------------------------------------------------------------------
# The constraints of a call


def constraints_of(run: Run) -> list[Constraint]:
    """Those of `constraints`, then those of `force_words_ids`.

    Raises:
        TypeError: something that is no Constraint.
        ValueError: none; an id that is outside the vocabulary or an end token, or a phrase that may not be written.
    """
    settings = run.settings
    found = list(settings.constraints or [])
    for one in found:
        if not isinstance(one, Constraint):
            raise TypeError(f"constraints holds {one!r}: expected minitf.generation.Constraint objects.")
    for word in settings.force_words_ids or []:
        alternatives = isinstance(word[0], list)
        found.append(DisjunctiveConstraint(word) if alternatives else PhrasalConstraint(word))
    if not found:
        raise ValueError("constraints = [] asks for nothing: leave it out, or name what must be written.")
    for one in found:
        if isinstance(one, _Phrases):
            check_phrases(run, one)
    return found


def check_phrases(run: Run, constraint: _Phrases) -> None:
    """A constraint whose phrases can be written; for the errors see `constraints_of`."""
    settings, words = run.settings, run.steps.model.config.vocab_size
    for token in (token for phrase in constraint.phrases for token in phrase):
        if token >= words:
            raise ValueError(f"{constraint} holds the id {token}; expected 0 to {words - 1} (vocab_size is {words}).")
        if token in settings.ends():
            raise ValueError(f"{constraint} holds {token}, an end token: the text would be over there. Leave it out.")
    banned = {*(settings.suppress_tokens or []), *(ids[0] for ids in settings.bad_words_ids or [] if len(ids) == 1)}
    if all(banned.intersection(phrase) for phrase in constraint.phrases):
        raise ValueError(
            f"{constraint} cannot be fulfilled: suppress_tokens or bad_words_ids forbid {sorted(banned)}. "
            "Drop one of them."
        )


def first_states(run: Run, constraints: Sequence[Constraint]) -> list[ConstraintListState]:
    """The state of each prompt after its tokens (padding left out).

    Raises:
        ValueError: the constraints need more tokens than fit, or are fulfilled by every prompt.
    """
    room = run.max_length - run.sequences.shape[1]
    mask = torch.ones_like(run.sequences) if run.steps.mask is None else run.steps.mask[:, run.steps.offset :]  # [B, T]
    states = []
    for prompt, attended in zip(run.sequences.tolist(), mask.tolist(), strict=True):
        state = ConstraintListState.of(constraints)
        for token, is_token in zip(prompt, attended, strict=True):
            state = state.after(token) if is_token else state
        states.append(state)
        open_ones = [*state.pending, *([] if state.current is None else [state.current])]
        least = sum(one.least() if isinstance(one, _Phrases) else 1 for one in open_ones)
        if least > room:
            raise ValueError(
                f"the constraints need at least {least} tokens, and {room} new ones fit: raise max_new_tokens."
            )
    if all(state.completed for state in states):
        raise ValueError("the constraints have no effect: every prompt contains what they ask for, and that counts.")
    return states
