"""Contrastive search: probable tokens that do not say again what was said (Su et al. 2022, arXiv:2202.06417).

At each step the `top_k` most probable tokens are candidates. Each is tried out, which gives the hidden state that the
model's last layer would have at its position, and the one is taken with the largest

    (1 - alpha) * probability  -  alpha * max over all earlier positions of cosine(its hidden state, theirs)

with alpha = `penalty_alpha`. The second term, the degeneration penalty, is large for a token that would put the model
into a state in which it has been. Padding of the prompt is no earlier position (as in transformers 4.49.0; before, it
was). There are no random numbers.

Where the processors leave fewer than k tokens, forbidden ones are among the candidates, and are never taken (in 4.49.0
they are if their state is unlike the earlier ones).

Trying out k candidates is one call of the model: they stand side by side as k further positions of the row, each with
the position id of the next token, and a mask lets each see the past and itself only. So nothing of the cache is copied;
of what it then holds, the winner's keys and values are kept. The winner's scores are those for the step after. Where k
positions do not fit (at the end of the model's positions), or where distances are counted in the cache (relative
positions), there is a call for every candidate.

Dimension letters: B rows, T positions so far, S key positions (T + candidates), V vocabulary, C hidden size, H heads,
D head size, k candidates, n candidates of one call.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from minitf.cache import KVCache
from minitf.generation.outputs import GenerateDecoderOnlyOutput
from minitf.generation.run import Run, Steps

__all__ = ["contrastive_search"]


def contrastive_search(run: Run) -> GenerateDecoderOnlyOutput:
    """Continue each row until it ends; see the head of this file.

    Raises:
        ValueError: without a cache, with one that holds positions already, or with more candidates than words.
    """
    settings, steps, cache = run.settings, run.steps, cache_of(run)
    records = dict(steps.records)  # what the caller wants to see
    sequences = run.sequences  # [B, T]
    logits, context = read_prompt(run)  # [B, V], [B, longest, C]
    unfinished = torch.ones(len(sequences), dtype=torch.bool, device=sequences.device)  # [B]
    all_logits: list[Tensor] = []
    all_scores: list[Tensor] = []
    while True:
        scores = run.processors(sequences, logits)  # [B, V]
        if run.processors:
            steps.refuse_nothing(scores.amax(dim=-1).masked_fill(~unfinished, 0.0))  # a row that ended chooses none
        if settings.output_logits:
            all_logits.append(logits)
        if settings.output_scores:
            all_scores.append(scores)
        probs, candidates = torch.softmax(scores, dim=-1).topk(settings.top_k)  # [B, k], [B, k]
        held = cache.get_seq_length()
        tried = try_out(steps, cache, candidates)
        states = tried.hidden_states[-1]  # [B, k, C]
        worth = contrast(probs, similarity(states, context[:, :held], steps.mask), settings.penalty_alpha or 0.0)
        worth = worth.masked_fill(scores.gather(1, candidates) == -math.inf, -math.inf)  # [B, k]
        best = worth.argmax(dim=-1)  # [B]

        tokens = torch.where(unfinished, candidates.gather(1, best[:, None])[:, 0], run.pad)  # [B]
        sequences = torch.cat([sequences, tokens[:, None]], dim=1)  # [B, T + 1]
        if run.streamer is not None:
            run.streamer.put(tokens)
        if run.stopping:
            unfinished = unfinished & ~run.stopping(sequences, scores)  # [B]
        if sequences.shape[1] >= run.max_length or not bool(unfinished.any()):
            break
        logits = tried.keep(best, cache, records)  # [B, V]
        context[:, held] = normalised(chosen(states, best)[:, 0])
    if run.streamer is not None:
        run.streamer.end()
    return GenerateDecoderOnlyOutput(
        sequences=sequences,
        scores=tuple(all_scores) if settings.output_scores else None,
        logits=tuple(all_logits) if settings.output_logits else None,
        **run.collected(),
    )


def cache_of(run: Run) -> KVCache:
    """The empty cache of this call; for the errors see `contrastive_search`."""
    cache, words = run.steps.cache, run.steps.model.config.vocab_size
    if cache is None:
        raise ValueError("contrastive_search tries candidates out on the cache: it needs use_cache=True.")
    if cache.get_seq_length():
        raise ValueError(
            f"past_key_values holds {cache.get_seq_length()} positions, but contrastive_search compares with the "
            "hidden states of all positions, which no cache holds: leave it out."
        )
    if run.settings.top_k > words:
        raise ValueError(f"top_k = {run.settings.top_k} candidates: expected at most vocab_size = {words}.")
    return cache


def read_prompt(run: Run) -> tuple[Tensor, Tensor]:
    """Scores after the prompt, `[B, V]`, and a buffer `[B, longest, C]` that begins with its normalised last states."""
    steps = run.steps
    wanted = steps.outputs["hidden_states"]
    steps.outputs["hidden_states"] = True
    states: list[Any] = steps.records.setdefault("hidden_states", [])
    logits = steps.logits(run.sequences)  # [B, V]
    last = states[-1][-1]  # [B, T, C]
    if not wanted:
        del steps.records["hidden_states"]
    context = last.new_empty(last.shape[0], steps.offset + run.max_length, last.shape[2])  # [B, longest, C]
    context[:, : last.shape[1]] = normalised(last)
    return logits, context


def normalised(states: Tensor) -> Tensor:
    """States of length 1: their products are cosines."""
    length: Tensor = states.norm(dim=-1, keepdim=True)
    return states / length


def similarity(states: Tensor, context: Tensor, mask: Tensor | None) -> Tensor:
    """The largest cosine of each candidate with an earlier position: `[B, k]`.

    Args:
        states: `[B, k, C]`. context: `[B, T, C]`, normalised. mask: `[B, >= T]`, 0 = padding.
    """
    cosines = normalised(states) @ context.transpose(1, 2)  # [B, k, T]
    if mask is not None:
        padding = mask[:, None, : cosines.shape[2]] == 0  # [B, 1, T]
        cosines = cosines.masked_fill(padding, torch.finfo(cosines.dtype).min)  # [B, k, T]
    return cosines.amax(dim=-1)  # [B, k]


def contrast(probs: Tensor, penalty: Tensor, alpha: float) -> Tensor:
    """What each candidate is worth, `[B, k]`."""
    return (1.0 - alpha) * probs - alpha * penalty


# --------------------------------------------------------------------------------------------------------------------
# Trying candidates out


@dataclass
class Tried:
    """What the model says to k candidates of the next token.

    Attributes:
        logits: `[B, k, V]`, the scores after each.
        hidden_states: L + 1 tensors `[B, k, C]`.
        attentions: L tensors `[B, H, k, T + 1]`, each candidate's own key last; None if they are not wanted.
        keys, values: L tensors `[B, H, k, D]`.
    """

    logits: Tensor
    hidden_states: tuple[Tensor, ...]
    attentions: tuple[Tensor, ...] | None
    keys: list[Tensor]
    values: list[Tensor]

    def keep(self, best: Tensor, cache: KVCache, records: dict[str, list[Any]]) -> Tensor:
        """Let the cache go on with the winners `[B]` and record what the caller wants to see.

        Returns:
            `[B, V]`, the scores after the winners.
        """
        for layer, (key, value) in enumerate(zip(self.keys, self.values, strict=True)):
            cache.update(layer, chosen(key, best, dim=2), chosen(value, best, dim=2))
        if "hidden_states" in records:
            records["hidden_states"].append(tuple(chosen(layer, best) for layer in self.hidden_states))
        if "attentions" in records and self.attentions is not None:
            records["attentions"].append(tuple(chosen(layer, best, dim=2) for layer in self.attentions))
        return chosen(self.logits, best)[:, 0]  # [B, V]


def chosen(values: Tensor, best: Tensor, dim: int = 1) -> Tensor:
    """Of k candidates along a dimension each row's best one; the dimension stays, with the size 1."""
    return torch.take_along_dim(values, best.view(-1, *(1,) * (values.dim() - 1)), dim=dim)


def try_out(steps: Steps, cache: KVCache, candidates: Tensor) -> Tried:
    """Every candidate `[B, k]` as the next token; the cache is then as it was."""
    held, config = cache.get_seq_length(), steps.model.config
    relative = vars(config).get("position_embedding_type", "absolute") != "absolute"
    together = 1 if relative else min(candidates.shape[1], config.max_position_embeddings - held)
    steps.grow(held + 1)
    parts = []
    count = candidates.shape[1]
    for ids in (candidates,) if together == count else candidates.tensor_split(count, dim=1):
        out = steps.next_words(
            input_ids=ids, past_key_values=cache, use_cache=True, output_hidden_states=True,
            output_attentions=steps.outputs["attentions"], return_dict=True, **steps.inputs,
            **side_by_side(steps, held, len(ids), ids.shape[1], relative),
        )  # fmt: skip
        fresh = [(entry[0][:, :, held:].clone(), entry[1][:, :, held:].clone()) for entry in cache]  # [B, H, n, D] each
        cache.crop(held)
        attentions = tuple(own_key_last(layer, held) for layer in out.attentions) if out.attentions else None
        parts.append(Tried(out.logits.float(), out.hidden_states, attentions, *map(list, zip(*fresh, strict=True))))
    steps.count += 1
    tried = parts[0] if len(parts) == 1 else joined(parts)
    if steps.check:
        steps.refuse_invalid(tried.logits)
    return tried


def side_by_side(steps: Steps, held: int, rows: int, count: int, relative: bool) -> dict[str, Tensor]:
    """The inputs that make `count` new positions alternatives of one: same position, same past, blind to each other."""
    device = steps.model.device
    inputs: dict[str, Tensor] = {}
    if steps.positions is not None:
        inputs["position_ids"] = steps.positions[:, -1:].expand(-1, count)  # [B, n]
    elif not relative:
        inputs["position_ids"] = torch.full((rows, count), held, device=device)  # [B, n]
    if steps.types is not None:
        inputs["token_type_ids"] = steps.types[:, -1:].expand(-1, count)  # [B, n]
    if steps.mask is not None or count > 1:
        past = steps.mask[:, :held] if steps.mask is not None else torch.ones(rows, held, device=device)  # [B, T]
        own = torch.eye(count, device=device, dtype=past.dtype).expand(rows, -1, -1)  # [B, n, n]
        mask = torch.cat([past[:, None].expand(-1, count, -1), own], dim=2)  # [B, n, S]
        inputs["attention_mask"] = mask.bool()
    return inputs


def own_key_last(probs: Tensor, held: int) -> Tensor:
    """`[B, H, n, T + n]`, n candidates side by side -> `[B, H, n, T + 1]`: each saw the past and itself."""
    own = probs[..., held:].diagonal(dim1=2, dim2=3)[..., None]  # [B, H, n, 1]
    return torch.cat([probs[..., :held], own], dim=3)  # [B, H, n, T + 1]


def joined(parts: list[Tried]) -> Tried:
    """Candidates that were tried out in several calls, as of one."""

    def layers(name: str, dim: int) -> list[Tensor]:
        return [torch.cat(layer, dim=dim) for layer in zip(*(getattr(part, name) for part in parts), strict=True)]

    return Tried(
        torch.cat([part.logits for part in parts], dim=1),  # [B, k, V]
        tuple(layers("hidden_states", 1)),
        tuple(layers("attentions", 2)) if parts[0].attentions is not None else None,
        layers("keys", 2),
        layers("values", 2),
    )
