"""Where the drafts of assisted decoding come from: a smaller model, or the text itself.

    drafter.draft(sequences)     [1, T] -> a draft of K >= 0 tokens, and the probabilities that it was drawn with
    drafter.heard(accepted)      how many of these K tokens were kept

What is done with a draft, and why the result does not depend on it, stands in `minitf.generation.assisted`.

Dimension letters: T positions so far, K tokens of a draft, V vocabulary, M matches.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from minitf.cache import KVCache
from minitf.generation.mixin import GenerationMixin
from minitf.generation.prepare import check_model, warpers_for
from minitf.generation.processors import LogitsProcessorList, UnbatchedClassifierFreeGuidanceLogitsProcessor
from minitf.generation.run import Run, Steps

__all__ = ["LookupDrafter", "ModelDrafter", "best_threshold", "check_draft_model", "forget_after"]


def forget_after(steps: Steps, sequences: Tensor) -> None:
    """Take back what a model read beyond `sequences` `[1, T]`, their last token included, which it reads next."""
    known = steps.offset + sequences.shape[1] - 1
    if steps.cache is not None and steps.held > known:
        steps.cache.crop(known)


def without_guidance(processors: LogitsProcessorList) -> list[Any]:
    """All but classifier-free guidance, which runs the large model at each call; a draft may do without it."""
    return [p for p in processors if not isinstance(p, UnbatchedClassifierFreeGuidanceLogitsProcessor)]


# --------------------------------------------------------------------------------------------------------------------
# A smaller model


class ModelDrafter:
    """Drafts with `run.draft`, a model of the same vocabulary with a cache of its own.

    A draft ends after `num_assistant_tokens`, one position before the maximum length (the large model adds a token),
    at an end token, or at a token of less probability than `assistant_confidence_threshold`, which is still drafted.
    These settings and `num_assistant_tokens_schedule` are those of the call or of the large model's generation_config
    if one of them was given, else those of the draft model's generation_config. All others are the call's.

    The schedule `"heuristic"` makes drafts longer by 2 tokens when a whole one was accepted, else shorter by 1, at
    least 1, and keeps the number for later calls in the draft model's generation_config; `"heuristic_transient"`
    forgets it. The threshold, unless it is 0, moves in the course of a call to the value that would have served best so
    far (`best_threshold`); transformers does this where scikit-learn is installed, and nothing where it is not.

    The scores pass the processors of the call and then, if sampling, those of temperature, top-k, top-p, ... a second
    time, because that is what transformers does: the same seed draws the same tokens. It costs some acceptance at a
    temperature other than 1 and changes nothing else, as any draft does.
    """

    def __init__(self, run: Run) -> None:
        draft, target, settings = run.draft, run.steps, run.settings
        check_draft_model(run)
        inputs = {"token_type_ids": target.types, "position_ids": target.positions}
        if getattr(draft.config, "add_cross_attention", False):
            for name in ("encoder_hidden_states", "encoder_attention_mask"):
                inputs[name] = target.inputs.get(name)
        moved = {name: value.to(draft.device) for name, value in inputs.items() if value is not None}
        mask = None if target.mask is None else target.mask.to(draft.device)  # [1, T]
        self.steps = Steps(draft, attention_mask=mask, cache=KVCache(), inputs=moved, check=target.check)
        self.do_sample, self.generator = settings.do_sample, run.generator
        self.max_length, self.ends = run.max_length, settings.ends()
        again = warpers_for(settings) if settings.do_sample else []
        self.processors = LogitsProcessorList([*without_guidance(run.processors), *again])

        def setting(name: str) -> Any:
            return getattr(settings if name in settings.given() else draft.generation_config, name)

        self.count: int = setting("num_assistant_tokens")
        self.schedule: str = setting("num_assistant_tokens_schedule")
        self.threshold: float = setting("assistant_confidence_threshold")
        self.latest: list[float] = []  # the probability that this model gave each token of the last draft
        self.sure: list[float] = []  # the same of all tokens that were judged so far,
        self.right: list[bool] = []  # and whether the large model kept them

    def draft(self, sequences: Tensor) -> tuple[Tensor, Tensor | None]:
        """`[1, T]` -> tokens `[K]` and, if sampling and K > 0, the probabilities `[K, V]` that each was drawn with.

        Raises:
            ValueError: the draft model's scores hold nan or inf.
        """
        start = sequences.shape[1]
        count = min(self.count, self.max_length - start - 1)
        all_probs: list[Tensor] = []
        self.latest = []
        forget_after(self.steps, sequences)
        while len(all_probs) < count:
            scores = self.processors(sequences, self.logits(sequences))  # [1, V]
            probs = torch.softmax(scores, dim=-1)  # [1, V]
            if self.do_sample:
                token = torch.multinomial(probs, num_samples=1, generator=self.generator)  # [1, 1]
            else:
                token = scores.argmax(dim=-1, keepdim=True)  # [1, 1]
            all_probs.append(probs)
            sequences = torch.cat([sequences, token], dim=1)  # [1, T + 1]
            self.latest.append(float(probs[0, int(token)]))
            if int(token) in self.ends or self.latest[-1] < self.threshold:
                break
        return sequences[0, start:], torch.cat(all_probs) if self.do_sample and all_probs else None

    def logits(self, sequences: Tensor) -> Tensor:
        """`[1, T]` -> `[1, V]`, the draft model's scores of the next token, where the large model is."""
        try:
            return self.steps.logits(sequences.to(self.steps.model.device)).to(sequences.device)
        except ValueError as error:
            raise ValueError(f"assistant_model ({type(self.steps.model).__name__}): {error}") from error

    def heard(self, accepted: int) -> None:
        """Follow the schedule, and move the threshold."""
        drafted = len(self.latest)
        if self.schedule != "constant":
            self.count = self.count + 2 if accepted == drafted else max(1, self.count - 1)
        if self.schedule == "heuristic":
            self.steps.model.generation_config.num_assistant_tokens = self.count
        judged = min(accepted + 1, drafted)  # what stands behind the first mistake was not judged
        self.sure += self.latest[:judged]
        self.right += [place < accepted for place in range(judged)]
        if self.threshold > 0 and len(self.sure) > 5 and len(set(self.right)) == 2:
            self.threshold = best_threshold(self.sure, self.right)


def best_threshold(sure: list[float], right: list[bool]) -> float:
    """The probability below which a draft had best ended, judged by the tokens so far; both right and wrong ones.

    It makes `let through / wrong tokens + 3 * stopped / right tokens` least, where a threshold lets the wrong tokens
    through that are at least as probable, and stops the right ones that are less: a token that is missing from a draft
    costs a call of the large model, one too many only a call of the small one. Of equals the highest.

    Args:
        sure: the draft model's probability of each token. right: whether the large model kept it.
    """
    order = np.argsort(-np.array(sure), kind="stable")
    values, kept = np.array(sure)[order], np.array(right)[order]  # the most probable first
    last = np.flatnonzero(np.append(values[1:] != values[:-1], True))  # the last of each group of equals
    let_through, passed = np.cumsum(~kept)[last], np.cumsum(kept)[last]
    costs = let_through / let_through[-1] + 3 * (1 - passed / passed[-1])
    return float(values[last][np.argmin(costs)])


def check_draft_model(run: Run) -> None:
    """A model of this package that can continue the same text.

    Raises:
        TypeError: something else. ValueError: an encoder, another vocabulary, fewer positions than drafting may need,
            or a prompt of embeddings, which only the large model can read.
    """
    draft, model = run.draft, run.steps.model
    if not isinstance(draft, GenerationMixin):
        raise TypeError(
            f"assistant_model is a {type(draft).__module__}.{type(draft).__qualname__}; expected a model of minitf "
            "that scores next words, such as GPT2LMHeadModel."
        )
    check_model(draft)
    config = draft.config
    if config.vocab_size != model.config.vocab_size:
        raise ValueError(
            f"assistant_model has a vocabulary of {config.vocab_size} tokens and this model one of "
            f"{model.config.vocab_size}: a draft must be written in the same tokens. Take a smaller model of the same "
            "family (translating between two tokenizers, as transformers can, is not implemented)."
        )
    needed = run.max_length - 2  # the last token is never read, and the one before it never drafted from
    if config.max_position_embeddings < needed:
        raise ValueError(
            f"assistant_model has {config.max_position_embeddings} positions (max_position_embeddings) and would have "
            f"to read {needed}, for a maximum length of {run.max_length}: ask for fewer new tokens, or take another."
        )
    if run.steps.embeds is not None:
        raise ValueError(
            "inputs_embeds are embeddings of this model, which assistant_model cannot read: pass input_ids, or use "
            "prompt_lookup_num_tokens."
        )


# --------------------------------------------------------------------------------------------------------------------
# The text itself


class LookupDrafter:
    """Drafts what followed the last words when they stood in the text before (Saxena 2023, prompt lookup decoding).

    The last `max_matching_ngram_size` tokens are looked up, then one fewer, down to 1. The first place from the left
    with something behind it gives `prompt_lookup_num_tokens` tokens, as far as the text goes, cut before an end token
    and before a token that the processors forbid. They are asked with a score of 1 for every word, so that top-p or
    typical sampling forbid some words for no reason; as in transformers, so that the same seed draws the same tokens.
    """

    def __init__(self, run: Run) -> None:
        settings, config = run.settings, run.steps.model.config
        self.count: int = settings.prompt_lookup_num_tokens or 0
        self.longest = settings.max_matching_ngram_size
        self.ends, self.max_length = settings.ends(), run.max_length
        self.positions: int = config.max_position_embeddings - run.steps.offset
        self.vocabulary: int = config.vocab_size
        self.processors = LogitsProcessorList(without_guidance(run.processors))

    def draft(self, sequences: Tensor) -> tuple[Tensor, None]:
        """`[1, T]` -> tokens `[K]`; they were not drawn, so they have no probabilities."""
        text = sequences[0]  # [T]
        if len(text) + 1 >= self.max_length:
            return text[:0], None
        count = min(self.count, self.positions - len(text))
        for size in range(min(self.longest, len(text) - 1), 0, -1):
            matches = (text.unfold(0, size, 1) == text[-size:]).all(dim=1).nonzero()[:, 0]  # [M]
            for start in (matches + size).tolist():
                found = self.allowed(text, text[start : start + count])  # [K]
                if len(found):
                    return self.before_end(found), None
        return text[:0], None

    def allowed(self, text: Tensor, found: Tensor) -> Tensor:
        """The tokens of `found` `[K]` before the first one that may not follow `text` `[T]`."""
        forbidden = (-math.inf, torch.finfo(torch.float32).min)
        for place, token in enumerate(found.tolist() if self.processors else ()):
            before = torch.cat([text, found[:place]])[None]  # [1, T + place]
            scores = self.processors(before, torch.ones(1, self.vocabulary, device=text.device))  # [1, V]
            if float(scores[0, token]) in forbidden:
                return found[:place]
        return found

    def before_end(self, found: Tensor) -> Tensor:
        ends = torch.isin(found, found.new_tensor(self.ends)).nonzero()[:, 0].tolist()
        return found[: ends[0]] if ends else found

    def heard(self, accepted: int) -> None:
        """Nothing is learnt from it: there is no schedule of lookups."""
