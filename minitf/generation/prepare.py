"""From the arguments of `generate` to what a loop needs: prompt, lengths, padding, processors, stopping criteria.

Each function turns one part of the call into its checked form. Whatever would have no effect is an error here.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from minitf.cache import KVCache, as_cache
from minitf.checks import check_attention_mask, check_embeds, check_ids, check_positions
from minitf.generation import processors as P
from minitf.generation import stopping as S
from minitf.generation import warpers as W
from minitf.generation.config import GenerationConfig
from minitf.generation.run import Run, Steps

__all__ = ["Limits", "Prompt", "limits", "padding_token", "processors_for", "prompt", "stopping_for", "warpers_for"]

logger = logging.getLogger("minitf.generation")

_said: set[str] = set()  # warnings of this file that were given already


def warn_once(key: str, message: str) -> None:
    """Log a warning the first time in this process."""
    if key not in _said:
        _said.add(key)
        logger.warning(message)


# --------------------------------------------------------------------------------------------------------------------
# The model and the call


def say_old_settings(settings: GenerationConfig) -> None:
    """Name the settings that an old `config.json` brought along, because they change what `generate` does."""
    found = {k: v for k, v in settings.given().items() if k not in ("pad_token_id", "bos_token_id", "eos_token_id")}
    if found:
        listed = ", ".join(f"{name} = {value!r}" for name, value in found.items())
        warn_once(f"old settings {listed}", f"generation settings from config.json are in use: {listed}.")


def check_model(model: Any) -> None:
    """A decoder, in eval mode (else dropout acts, which is said once).

    Raises:
        ValueError: an encoder, in which every token would see those that come after it.
    """
    if not model.can_generate():
        raise ValueError(
            f"this {type(model).__name__} is an encoder (config.is_decoder is False): every token sees the ones after "
            "it, so it cannot continue a text. Build it with is_decoder=True."
        )
    if model.training:
        warn_once("training", "generate() runs a model in training mode: dropout acts. Call model.eval() first.")


def check_outputs(call: GenerationConfig, settings: GenerationConfig) -> None:
    """What the call asks to be returned can be returned.

    Raises:
        ValueError: outputs are asked for without `return_dict_in_generate`; more results than beams.
    """
    for name in ("output_scores", "output_logits", "output_attentions", "output_hidden_states"):
        if getattr(call, name) and not settings.return_dict_in_generate:
            raise ValueError(f"{name}=True has no effect without return_dict_in_generate=True.")
    if settings.num_return_sequences > settings.num_beams > 1:
        raise ValueError(
            f"num_return_sequences = {settings.num_return_sequences} is more than num_beams = {settings.num_beams}."
        )


def check_generator(settings: GenerationConfig, generator: Any) -> None:
    """A random state is one, and something is drawn from it.

    Raises:
        TypeError: something else. ValueError: nothing is drawn.
    """
    if generator is None:
        return
    if not isinstance(generator, torch.Generator):
        raise TypeError(
            f"generator is a {type(generator).__name__}; expected a torch.Generator (torch.Generator().manual_seed(0))."
        )
    if not settings.do_sample:
        raise ValueError("generator= has no effect without do_sample=True: nothing is drawn.")


def check_special_tokens(call: GenerationConfig, size: int) -> None:
    """The special tokens that the call names exist; those of a configuration may be defaults that nobody chose.

    Raises:
        ValueError: an id outside the vocabulary of `size` tokens, which no row could end with or be filled with.
    """
    for name in ("eos_token_id", "pad_token_id"):
        value = call.given().get(name)
        for token in value if isinstance(value, list) else [value]:
            if token is not None and token >= size:
                raise ValueError(f"{name} = {value!r}, but vocab_size is {size}: expected 0 to {size - 1}.")


def check_forced_bos(call: GenerationConfig, settings: GenerationConfig, start: int) -> None:
    """`forced_bos_token_id` is about the second position, which a prompt of `start` positions must leave free.

    Raises:
        ValueError: it does not, and the call asks for it. (A setting of the model's own is named in a warning.)
    """
    token = settings.forced_bos_token_id
    if token is None or start < 2:
        return
    message = (
        f"forced_bos_token_id = {token} has no effect: it is the token of the second position, and the prompt has "
        f"{start}. "
    )
    if "forced_bos_token_id" in call.given():
        raise ValueError(f"{message}Leave it out, or write the token into the prompt.")
    warn_once("forced bos", f"{message}It comes from the model's generation_config.")


def check_streamer(strategy: str, rows: int, streamer: Any) -> None:
    """A streamer writes one text, each token as soon as it is chosen.

    Raises:
        TypeError: no `put` or `end`. ValueError: several rows, or beams, whose tokens may still change.
    """
    if "beam" in strategy:
        raise ValueError(f"a streamer cannot follow {strategy}: its tokens may change until the end. Use num_beams=1.")
    if rows > 1:
        raise ValueError(f"a streamer follows one sequence, and this call makes {rows}.")
    for name in ("put", "end"):
        if not callable(getattr(streamer, name, None)):
            raise TypeError(
                f"streamer is a {type(streamer).__name__} without {name}(): expected a streamer, such as "
                "minitf.generation.TextStreamer(tokenizer) or CallbackStreamer(function)."
            )


def cache_for(
    model: Any, settings: GenerationConfig, past_key_values: KVCache | Sequence[Any] | None
) -> KVCache | None:
    """The caller's cache, a new one, or None without `use_cache`.

    Raises:
        ValueError: a cache is passed although `use_cache` is False, or one that cannot follow beams.
    """
    if past_key_values is not None and not settings.use_cache:
        raise ValueError("past_key_values has no effect with use_cache=False: drop one of them.")
    if past_key_values is None:
        return KVCache() if settings.use_cache else None
    return as_cache(past_key_values, model.config.num_hidden_layers, longest=model.config.max_position_embeddings)


# --------------------------------------------------------------------------------------------------------------------
# The prompt


@dataclass
class Prompt:
    """What the rows begin with.

    Attributes:
        ids: `[B, T]`; `[B, 0]` if the prompt is `inputs["inputs_embeds"]`.
        mask: `[B, positions]`, 0 = padding on the left; None = no padding.
        cache: where keys and values are kept; None = nowhere.
        inputs: further arguments of the forward.
        offset: positions that have no ids, those of `inputs_embeds`.
    """

    ids: Tensor
    mask: Tensor | None
    cache: KVCache | None
    inputs: dict[str, Any]
    offset: int = 0


def prompt(
    model: Any,
    settings: GenerationConfig,
    input_ids: Tensor | None,
    attention_mask: Tensor | None,
    past_key_values: KVCache | Sequence[Any] | None,
    inputs: dict[str, Any],
) -> Prompt:
    """The checked prompt.

    Without one, each sequence starts from `bos_token_id`. Without a mask, padding is recognised by `pad_token_id`, if
    that is not an end token too; that is said once.

    Raises:
        TypeError, ValueError: no prompt and no bos token; ids and embeddings at once; a mask of another shape, or one
            that pads on the right; a cache that holds the whole prompt already.
    """
    cache = cache_for(model, settings, past_key_values)
    inputs = {name: value for name, value in inputs.items() if value is not None}
    embeds = inputs.get("inputs_embeds")
    if embeds is not None:
        if input_ids is not None:
            raise ValueError("exactly one of input_ids and inputs_embeds can be the prompt, and both are given.")
        check_embeds(embeds, model.config.hidden_size)
        ids = torch.empty(embeds.shape[0], 0, dtype=torch.long, device=model.device)  # [B, 0]
    elif input_ids is None:
        if settings.bos_token_id is None:
            raise ValueError("generate() has no prompt: pass input_ids, or bos_token_id= to start from.")
        ids = torch.tensor([[settings.bos_token_id]], device=model.device)  # [1, 1]
        check_ids(ids, model.config.vocab_size, "bos_token_id", "vocab_size")
    else:
        check_ids(input_ids, model.config.vocab_size, "input_ids", "vocab_size")
        ids = input_ids.long()  # [B, T]
    offset = 0 if embeds is None else embeds.shape[1]
    mask = recognised_padding(settings, ids) if attention_mask is None else attention_mask  # [B, positions]
    if mask is not None:
        check_mask(mask, (len(ids), offset + ids.shape[1]))
        mask = mask.long()
    held = 0 if cache is None else cache.get_seq_length()
    if held >= offset + ids.shape[1]:
        raise ValueError(
            f"past_key_values holds {held} positions and the prompt has {offset + ids.shape[1]}: pass the whole "
            "conversation, the part that is in the cache included, and at least one token more."
        )
    for name in ("position_ids", "token_type_ids"):
        if name in inputs and not isinstance(inputs[name], Tensor):
            raise TypeError(
                f"{name} is a {type(inputs[name]).__name__}; expected an integer tensor of the prompt's shape."
            )
        if name in inputs and tuple(inputs[name].shape) != (len(ids), offset + ids.shape[1]):
            raise ValueError(
                f"{name} has shape {list(inputs[name].shape)}; expected that of the prompt, "
                f"{[len(ids), offset + ids.shape[1]]}."
            )
    return Prompt(ids, mask, cache, inputs, offset)


def back_to_prompt(given: Prompt, beams: int) -> None:
    """After a search with beams the caller's cache holds the prompts again.

    Its rows were those of the beams that ran last. Which of them a result came from, and whether that is still there,
    nobody could see from a cache with as many rows as there are results.
    """
    assert given.cache is not None
    given.cache.reorder(beams * torch.arange(len(given.ids), device=given.ids.device))
    given.cache.crop(given.offset + given.ids.shape[1])


def recognised_padding(settings: GenerationConfig, input_ids: Tensor) -> Tensor | None:
    """The mask of a prompt that was padded with `pad_token_id` and came without one, as transformers infers it."""
    pad = settings.pad_token_id
    if pad is None or pad in settings.ends() or not bool((input_ids == pad).any()):
        return None
    warn_once(
        "recognised padding",
        f"attention_mask is not given and the prompt holds pad_token_id = {pad}: these positions are taken for "
        "padding. Pass the attention_mask of the tokenizer.",
    )
    return (input_ids != pad).long()  # [B, T]


def check_mask(attention_mask: Tensor, shape: Sequence[int]) -> None:
    """A `[B, T]` mask of a prompt, padded on the left or not at all.

    Raises:
        TypeError: not a tensor.
        ValueError: another shape, other values than 0 and 1, a row of padding only, or padding at the end.
    """
    if isinstance(attention_mask, Tensor) and tuple(attention_mask.shape) != tuple(shape):
        raise ValueError(
            f"attention_mask has shape {list(attention_mask.shape)}; expected that of the prompt, {list(shape)} (with "
            "past_key_values: of the whole conversation)."
        )
    check_attention_mask(attention_mask, batch=shape[0], query_length=shape[1], key_length=shape[1])
    empty = ~attention_mask.bool().any(dim=1)  # [B]
    if bool(empty.any()):
        raise ValueError(f"row {int(empty.nonzero()[0])} of attention_mask is all padding: there is no prompt.")
    right = attention_mask[:, -1] == 0  # [B]
    if bool(right.any()):
        raise ValueError(
            f"row {int(right.nonzero()[0])} of the prompt ends with padding, and new tokens would follow that: pad on "
            "the left (tokenizer.padding_side = 'left')."
        )


# --------------------------------------------------------------------------------------------------------------------
# Lengths and the padding token


@dataclass
class Limits:
    """Positions of `ids`: of the prompt, and of the longest and shortest result; and how many must be new."""

    start: int
    maximum: int
    minimum: int
    minimum_new: int | None


def limits(call: GenerationConfig, defaults: GenerationConfig, given: Prompt, positions: int) -> Limits:
    """How far each row goes.

    Args:
        call: what the call was given. defaults: `model.generation_config`.
        positions: as many as the model has.

    Raises:
        ValueError: a length is given twice; there is no room for a new token; more than the model's positions.
    """
    for longest, new in (("max_length", "max_new_tokens"), ("min_length", "min_new_tokens")):
        if longest in call.given() and call.given().get(new) is not None:
            raise ValueError(
                f"{longest} = {getattr(call, longest)} counts the prompt and {new} = {getattr(call, new)} does not: "
                "give one of them."
            )
    start = given.offset + given.ids.shape[1]
    maximum, named = min(start + GenerationConfig.max_length, positions), "the default of 20 new tokens"
    for config in (without(defaults, call, "max_new_tokens"), call):
        if config.max_new_tokens is not None:
            maximum = start + config.max_new_tokens
            named = f"a prompt of {start} and max_new_tokens = {config.max_new_tokens}"
        elif "max_length" in config.given():
            maximum, named = config.max_length, f"max_length = {config.max_length}"
    if start >= positions:
        raise ValueError(f"the prompt has {start} positions, as many as the model ({positions}): shorten it.")
    if maximum > positions:
        raise ValueError(
            f"{named} would make {maximum} positions; this model has {positions} (max_position_embeddings): "
            f"at most {positions - start} new tokens fit."
        )
    if maximum <= start:
        raise ValueError(
            f"{named} leaves no room for new tokens after a prompt of {start} positions: pass max_new_tokens."
        )
    minimum, minimum_new = 0, None
    for config in (without(defaults, call, "min_new_tokens"), call):
        if config.min_new_tokens is not None:
            minimum, minimum_new = 0, config.min_new_tokens
        elif "min_length" in config.given():
            minimum, minimum_new = config.min_length, None
    check_last_position(given, maximum - start, positions)
    least = max(minimum, start + (minimum_new or 0))
    if least > maximum:
        raise ValueError(f"a minimum of {least} positions is more than the maximum, {maximum}.")
    return Limits(given.ids.shape[1], maximum - given.offset, minimum - given.offset, minimum_new)


def check_last_position(given: Prompt, new: int, positions: int) -> None:
    """The caller's `position_ids` go on by one for each new token but the last, which the model does not read.

    Raises:
        TypeError: not integers. ValueError: the model has no such position.
    """
    ids = given.inputs.get("position_ids")
    if ids is None:
        return
    check_positions(ids, len(given.ids), ids.shape[1], positions)
    last = int(ids[:, -1].max())
    if last + new - 1 >= positions:
        raise ValueError(
            f"position_ids end at {last}, and {new} new tokens go on to {last + new - 1}; this model has {positions} "
            f"(max_position_embeddings): at most {positions - last} new tokens fit."
        )


def without(defaults: GenerationConfig, call: GenerationConfig, name: str) -> GenerationConfig:
    """The defaults, without this setting if the call says something about it (None = it does not hold)."""
    return defaults.joined(GenerationConfig(**{name: None})) if name in call.given() else defaults


def padding_token(settings: GenerationConfig, rows: int, may_end: bool) -> int:
    """What fills rows that end early: `pad_token_id`, else the first end token.

    Raises:
        ValueError: rows may end at different lengths and there is neither.
    """
    if settings.pad_token_id is not None:
        return settings.pad_token_id
    if settings.ends():
        return settings.ends()[0]
    if rows > 1 and may_end:
        raise ValueError(
            "several rows are generated and may end at different lengths, but nothing says what to fill the shorter "
            "ones with: pass pad_token_id."
        )
    return 0  # never written: all rows have the same length


def check_padding(settings: GenerationConfig, pad: int, rows: int, stopping: S.StoppingCriteriaList, size: int) -> None:
    """What fills rows that end early is read by the model like any other token.

    Raises:
        ValueError: it is outside the vocabulary of `size` tokens, and a row can end before another one.
    """
    reachable = any(end < size for end in settings.ends())
    others = any(not isinstance(criterion, S.EosTokenCriteria) for criterion in stopping)
    if pad >= size and rows > 1 and (reachable or others):
        name = "eos_token_id" if settings.pad_token_id is None else "pad_token_id"
        raise ValueError(
            f"rows that end early are filled with {pad} ({name}), but vocab_size is {size}: pass a pad_token_id from 0 "
            f"to {size - 1}."
        )


# --------------------------------------------------------------------------------------------------------------------
# Processors and stopping criteria


def processors_for(
    settings: GenerationConfig,
    limits: Limits,
    attention_mask: Tensor | None,
    *,
    guidance: Any,
    prefix_allowed_tokens_fn: Any,
    custom: Sequence[Any] | None,
) -> P.LogitsProcessorList:
    """All processors that the settings ask for and the caller's own, in the order of transformers.

    Args:
        attention_mask: `[B, T]` of the prompt. guidance: the processor of classifier-free guidance, or None.

    Raises:
        ValueError: a setting that could have no effect; a processor that is both asked for and passed.
    """
    found: list[Any] = [] if guidance is None else [guidance]
    found += favouring(settings, attention_mask)
    found += ending(settings, limits)
    if prefix_allowed_tokens_fn is not None:
        found.append(P.PrefixConstrainedLogitsProcessor(prefix_allowed_tokens_fn, settings.num_beams))
    if settings.forced_bos_token_id is not None:
        found.append(P.ForcedBOSTokenLogitsProcessor(settings.forced_bos_token_id))
    if settings.forced_eos_token_id is not None:
        found.append(P.ForcedEOSTokenLogitsProcessor(limits.maximum, settings.forced_eos_token_id))
    if settings.remove_invalid_values:
        found.append(P.InfNanRemoveLogitsProcessor())
    decay = settings.exponential_decay_length_penalty
    if decay is not None:
        found.append(P.ExponentialDecayLengthPenalty(decay, settings.ends(), limits.start))
    if settings.suppress_tokens is not None:
        found.append(P.SuppressTokensLogitsProcessor(settings.suppress_tokens))
    if settings.begin_suppress_tokens is not None:
        begin = limits.start if limits.start > 1 or settings.forced_bos_token_id is None else limits.start + 1
        found.append(P.SuppressTokensAtBeginLogitsProcessor(settings.begin_suppress_tokens, begin))
    found = P.merge_custom(found, custom or [], "logits processor")
    if settings.do_sample:
        found += warpers_for(settings)
    if settings.renormalize_logits:
        found.append(P.LogitNormalization())
    return P.LogitsProcessorList(found)


def guidance_for(
    model: Any, settings: GenerationConfig, given: Prompt, negative_prompt_ids: Tensor | None,
    negative_mask: Tensor | None,
) -> Any:  # fmt: skip
    """The processor of classifier-free guidance, which runs the model a second time; None if it is not asked for.

    Raises:
        TypeError: a negative prompt that is no integer tensor.
        ValueError: one without a scale or with ids that the model does not have, or its mask without it; none beside a
            prompt of embeddings.
    """
    scale = settings.guidance_scale
    if scale is not None and scale != 1.0:
        if negative_mask is not None and negative_prompt_ids is None:
            raise ValueError("negative_prompt_attention_mask has no effect without negative_prompt_ids.")
        if negative_prompt_ids is not None:
            check_ids(negative_prompt_ids, model.config.vocab_size, "negative_prompt_ids", "vocab_size")
        elif given.ids.shape[1] == 0:
            raise ValueError(
                "guidance_scale compares with the last token of the prompt, and inputs_embeds has none: pass "
                "negative_prompt_ids."
            )
        return P.UnbatchedClassifierFreeGuidanceLogitsProcessor(
            scale, getattr(model, "next_words", model), unconditional_ids=negative_prompt_ids,
            unconditional_attention_mask=negative_mask, use_cache=settings.use_cache,
        )  # fmt: skip
    for name, value in (("ids", negative_prompt_ids), ("attention_mask", negative_mask)):
        if value is not None:
            raise ValueError(f"negative_prompt_{name} has no effect without guidance_scale != 1.")
    return None


def favouring(settings: GenerationConfig, attention_mask: Tensor | None) -> list[Any]:
    """The processors that favour or forbid tokens by what was written before."""
    found: list[Any] = []
    if settings.sequence_bias is not None:
        bias = settings.sequence_bias
        found.append(P.SequenceBiasLogitsProcessor(bias if isinstance(bias, dict) else [list(pair) for pair in bias]))
    if settings.repetition_penalty != 1.0:
        ignored = None if attention_mask is None else (attention_mask != 0).int().argmax(dim=1)  # [B]
        if ignored is not None:  # one entry for each row that is computed
            ignored = ignored.repeat_interleave(max(settings.num_beams, settings.num_return_sequences))
        found.append(P.RepetitionPenaltyLogitsProcessor(settings.repetition_penalty, prompt_ignore_length=ignored))
    if settings.no_repeat_ngram_size > 0:
        found.append(P.NoRepeatNGramLogitsProcessor(settings.no_repeat_ngram_size))
    if settings.bad_words_ids is not None:
        found.append(P.NoBadWordsLogitsProcessor(settings.bad_words_ids, settings.ends() or None))
    return found


def ending(settings: GenerationConfig, limits: Limits) -> list[Any]:
    """The processors that hold the end token back.

    Raises:
        ValueError: one is asked for, and there is no end token.
    """
    wanted = {
        "min_length": limits.minimum > 0,
        "min_new_tokens": bool(limits.minimum_new),
        "exponential_decay_length_penalty": settings.exponential_decay_length_penalty is not None,
    }
    for name, asked in wanted.items():
        if asked and not settings.ends():
            raise ValueError(f"{name} is about the end token, and there is none: pass eos_token_id.")
    found: list[Any] = []
    if limits.minimum > 0:
        found.append(P.MinLengthLogitsProcessor(limits.minimum, settings.ends()))
    if limits.minimum_new:
        found.append(P.MinNewTokensLengthLogitsProcessor(limits.start, limits.minimum_new, settings.ends()))
    return found


def warpers_for(settings: GenerationConfig) -> list[Any]:
    """The processors that cut and sharpen a distribution before a token is drawn from it."""
    # with beams more tokens must stay than can end a sequence, or there would be nothing to go on with
    least = (len(settings.ends()) or 1) + 1 if settings.num_beams > 1 else 1
    found: list[Any] = []
    if settings.temperature != 1.0:
        found.append(W.TemperatureLogitsWarper(settings.temperature))
    if settings.top_h is not None:
        found.append(W.TopHLogitsWarper(top_h=settings.top_h))
    if settings.top_k > 0:
        found.append(W.TopKLogitsWarper(top_k=settings.top_k, min_tokens_to_keep=least))
    if settings.top_p < 1.0:
        found.append(W.TopPLogitsWarper(top_p=settings.top_p, min_tokens_to_keep=least))
    if settings.min_p is not None:
        found.append(W.MinPLogitsWarper(min_p=settings.min_p, min_tokens_to_keep=least))
    if settings.typical_p < 1.0:
        found.append(W.TypicalLogitsWarper(mass=settings.typical_p, min_tokens_to_keep=least))
    if settings.epsilon_cutoff > 0.0:
        found.append(W.EpsilonLogitsWarper(epsilon=settings.epsilon_cutoff, min_tokens_to_keep=least))
    if settings.eta_cutoff > 0.0:
        found.append(W.EtaLogitsWarper(epsilon=settings.eta_cutoff, min_tokens_to_keep=least))
    return found


def stopping_for(settings: GenerationConfig, custom: Sequence[Any] | None, tokenizer: Any) -> S.StoppingCriteriaList:
    """The stopping criteria of the settings and the caller's own; the maximum length is the loops' business.

    Raises:
        ValueError: stop strings without a tokenizer; a criterion that is both asked for and passed.
    """
    found: list[Any] = []
    if settings.max_time is not None:
        found.append(S.MaxTimeCriteria(max_time=settings.max_time))
    if settings.stop_strings is not None:
        if tokenizer is None:
            raise ValueError("stop_strings are compared with text, so generate() needs tokenizer= as well.")
        found.append(S.StopStringCriteria(stop_strings=settings.stop_strings, tokenizer=tokenizer))
    elif tokenizer is not None:
        raise ValueError("tokenizer= has no effect in generate() without stop_strings.")
    if settings.ends():
        found.append(S.EosTokenCriteria(eos_token_id=settings.ends()))
    return S.StoppingCriteriaList(P.merge_custom(found, custom or [], "stopping criterion"))


def run_for(
    model: Any,
    settings: GenerationConfig,
    strategy: str,
    given: Prompt,
    limits: Limits,
    processors: P.LogitsProcessorList,
    stopping: S.StoppingCriteriaList,
    *,
    generator: torch.Generator | None,
    streamer: Any,
    draft: Any,
) -> Run:
    """Everything put together for the loop; the streamer gets the prompt.

    Raises:
        ValueError: a streamer that cannot follow; nothing to fill short rows with.
    """
    rows = len(given.ids) * max(settings.num_beams, settings.num_return_sequences)
    pad = padding_token(settings, rows, may_end=bool(stopping))
    check_padding(settings, pad, rows, stopping, model.config.vocab_size)
    if streamer is not None:
        check_streamer(strategy, rows, streamer)
        streamer.put(given.ids)
    steps = Steps(
        model,
        attention_mask=given.mask,
        cache=given.cache,
        inputs=given.inputs,
        output_attentions=settings.output_attentions,
        output_hidden_states=settings.output_hidden_states,
        check=not settings.remove_invalid_values,
    )
    return Run(
        steps=steps,
        sequences=given.ids,
        settings=settings,
        max_length=limits.maximum,
        pad=pad,
        processors=processors,
        stopping=stopping,
        generator=generator,
        streamer=streamer,
        draft=draft,
    )
