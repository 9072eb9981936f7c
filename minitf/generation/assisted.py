"""Assisted (speculative) decoding: draft several tokens cheaply, check all of them in one call of the model.

A step of decoding reads every weight of the model to make one token, and takes hardly longer for ten positions than for
one. So someone cheaper drafts K tokens, and the model scores them together: it says what it would have chosen at
each place, keeps the draft as far as it agrees, and adds one token of its own. A round makes 1 to K + 1 tokens.

    draft model      generate(assistant_model=...): a smaller model of the same vocabulary
    prompt lookup    generate(prompt_lookup_num_tokens=10): what followed the last words earlier in the text, which is
                     good where text is repeated: summaries, corrections, code (Saxena 2023,
                     github.com/apoorvumang/prompt-lookup-decoding)

The result does not depend on the draft, only the time does:

    greedy        kept while it equals the highest score; then the highest score itself: the tokens of greedy search,
                  but for ties that the rounding of a call with several positions decides otherwise.
    sampling      (Leviathan et al. 2023, arXiv:2211.17192; Chen et al. 2023, arXiv:2302.01318) The draft's token x was
                  drawn with probability q(x), and the model gives it p(x). It is kept with probability

                      min(1, p(x) / q(x))

                  and where it is not, another is drawn from the residual max(0, p - q), divided by its sum. So x comes
                  with probability min(p, q) as a kept token and p - min(p, q) as one from the residual: p(x) in all,
                  whatever q is. p and q are what the processors leave (temperature, top-k, ...). After K kept tokens
                  one more is drawn from p.
    lookup +      nothing was drawn, so a token is drawn from p at each place, and kept as long as the draft has it.
    sampling

With the same seed the tokens are those of transformers, which draws the same numbers in the same order. Each token is
checked for the end as it is added, so whatever ends plain decoding (end tokens, stop strings, own criteria, the maximum
length) ends this at the same token; transformers asks its criteria once a round and may run past them. `attentions` and
`hidden_states` hold the entries of plain decoding; transformers' are those of other positions in the first round.

One sequence at a time: rows would accept different numbers of tokens. The cache is needed: without one every round
would read the whole text. Processors see tokens that are taken back later, so they must not remember what they saw.

Dimension letters: T positions so far, K tokens of a draft, N tokens kept in a round, V vocabulary, S keys, H heads,
C hidden size, R positions read in a call.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from minitf.generation.drafts import LookupDrafter, ModelDrafter, forget_after
from minitf.generation.outputs import GenerateDecoderOnlyOutput
from minitf.generation.run import Run
from minitf.generation.sampling import choose_tokens

__all__ = ["assisted_decoding", "matching", "residual", "speculative"]

Scored = list[tuple[Tensor, Tensor]]
"""Tokens `[1]`, each with the scores `[1, V]` that it was chosen by."""


def assisted_decoding(run: Run) -> GenerateDecoderOnlyOutput:
    """Continue one sequence with drafts; see the head of this file.

    Raises:
        TypeError, ValueError: several rows, no cache, or a draft model that does not fit (`check_draft_model`).
    """
    check(run)
    drafter: Any = LookupDrafter(run) if run.draft is None else ModelDrafter(run)
    settings, sequences = run.settings, run.sequences  # [1, T]
    start = sequences.shape[1]
    all_logits: list[Tensor] = []
    all_scores: list[Tensor] = []
    ended = False
    while not ended:
        length = sequences.shape[1]
        draft, draft_probs = drafter.draft(sequences)  # [K], [K, V] or None
        run.steps.count = length - start  # an error of the model names the token that it was asked for
        whole = torch.cat([sequences, draft[None]], dim=1)  # [1, T + K]
        logits = run.steps.last_logits(whole, len(draft) + 1)[0]  # [K + 1, V]
        chosen = checked(run, whole, length, draft, draft_probs, logits)
        for token, scores in chosen:
            sequences = torch.cat([sequences, token[:, None]], dim=1)  # [1, T + 1]
            if run.streamer is not None:
                run.streamer.put(token)
            if settings.output_scores:
                all_scores.append(scores)
            ended = bool(run.stopping and run.stopping(sequences, scores)) or sequences.shape[1] >= run.max_length
            if ended:
                break
        kept = sequences.shape[1] - length
        if settings.output_logits:
            all_logits += [logits[place : place + 1] for place in range(kept)]
        for name, record in run.steps.records.items():
            record += by_token(record.pop(), run.steps.offset + length, len(draft), kept, keys=name == "attentions")
        forget_after(run.steps, sequences)
        drafter.heard(kept - 1)
    if run.streamer is not None:
        run.streamer.end()
    return GenerateDecoderOnlyOutput(
        sequences=sequences,
        scores=tuple(all_scores) if settings.output_scores else None,
        logits=tuple(all_logits) if settings.output_logits else None,
        **run.collected(),
    )


def check(run: Run) -> None:
    """One sequence, and a cache to take tokens back from.

    Raises:
        ValueError: there are several, or none.
    """
    if len(run.sequences) > 1:
        raise ValueError(
            f"assisted decoding continues one sequence, and the prompt has {len(run.sequences)} rows, which would "
            "accept different numbers of drafted tokens: pass them one by one, or drop assistant_model or "
            "prompt_lookup_num_tokens."
        )
    if run.steps.cache is None:
        raise ValueError(
            "assisted decoding needs the cache, without which every draft would cost a reading of the whole text: drop "
            "use_cache=False, or assistant_model or prompt_lookup_num_tokens."
        )


def checked(run: Run, whole: Tensor, length: int, draft: Tensor, draft_probs: Tensor | None, logits: Tensor) -> Scored:
    """What is kept of a draft, and one token more.

    Args:
        whole: `[1, T + K]`, the text and the draft. length: T.
        draft: `[K]`. draft_probs: `[K, V]` that it was drawn with; None = it was not drawn.
        logits: `[K + 1, V]`, the model's scores after the text, after the first drafted token, ...
    """

    def scores_at(place: int) -> Tensor:
        scores = run.processors(whole[:, : length + place], logits[place : place + 1])  # [1, V]
        if run.processors:
            run.steps.count = length + place + 1 - run.sequences.shape[1]  # the token that an error is about
            run.steps.refuse_nothing(scores.amax(dim=-1))
        return scores

    if draft_probs is not None:
        return speculative(draft, draft_probs, scores_at, run.generator)
    return matching(draft, scores_at, run.settings.do_sample, run.generator)


def matching(draft: Tensor, scores_at: Callable[[int], Tensor], do_sample: bool, generator: Any = None) -> Scored:
    """The model's own tokens, up to the first that the draft `[K]` does not have."""
    places = range(len(draft) + 1)
    if do_sample:
        rows = [scores_at(place) for place in places]
        drawn = choose_tokens(torch.cat(rows), True, generator)  # [K + 1]
    kept: Scored = []
    for place in places:
        scores = rows[place] if do_sample else scores_at(place)  # [1, V]
        token = drawn[place : place + 1] if do_sample else scores.argmax(dim=-1)  # [1]
        kept.append((token, scores))
        if place == len(draft) or int(token) != int(draft[place]):
            break
    return kept


def speculative(
    draft: Tensor, draft_probs: Tensor, scores_at: Callable[[int], Tensor], generator: Any = None
) -> Scored:
    """Tokens of the model's distribution p, made from a draft `[K]` of the distributions q `[K, V]`."""
    chances = torch.rand(len(draft), generator=generator, device=draft.device, dtype=draft_probs.dtype)  # [K]
    kept: Scored = []
    for place in range(len(draft)):
        token, scores = draft[place : place + 1], scores_at(place)  # [1], [1, V]
        probs, drafted = torch.softmax(scores, dim=-1), draft_probs[place : place + 1]  # [1, V], [1, V]
        if not bool(chances[place] <= probs[0, token] / drafted[0, token]):
            other = torch.multinomial(residual(probs, drafted), num_samples=1, generator=generator)  # [1, 1]
            return [*kept, (other[:, 0], scores)]
        kept.append((token, scores))
    scores = scores_at(len(draft))  # [1, V]
    return [*kept, (choose_tokens(scores, True, generator), scores)]


def residual(probs: Tensor, drafted: Tensor) -> Tensor:
    """`[1, V]`: what the draft gives too little of, max(0, p - q) divided by its sum.

    p and q that differ by rounding only leave nothing; then p itself is as good.
    """
    lacking = torch.clamp(probs - drafted, min=0)  # [1, V]
    total = lacking.sum()
    return lacking / total if float(total) > 0 else probs


def by_token(
    found: tuple[Tensor, ...], length: int, drafted: int, kept: int, *, keys: bool
) -> list[tuple[Tensor, ...]]:
    """A round's attentions `[1, H, R, S]` or hidden states `[1, R, C]` of all layers as one entry for each kept token.

    The first entry holds all that was read before the draft: the prompt in the first round, else one position.

    Args:
        length: positions before the draft. drafted: K. kept: N. keys: whether the last dimension is S.
    """
    read = found[0].shape[-2] - drafted
    entries: list[tuple[Tensor, ...]] = []
    for number in range(kept):
        rows = slice(0, read) if number == 0 else slice(read + number - 1, read + number)
        columns = slice(0, length + number) if keys else slice(None)
        entries.append(tuple(layer[..., rows, columns] for layer in found))
    return entries
