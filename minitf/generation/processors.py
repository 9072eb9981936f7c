"""Logits processors: each changes the scores of the next token before one is chosen.

    processor(input_ids, scores) -> scores

`input_ids` `[B, T]` are the tokens so far, padding of the prompt included; `scores` `[B, V]` are logits, or in beam
search log-probabilities. A processor never writes into its arguments; where it changes nothing it may return `scores`
itself, so what it returns is not to be written into either. The ones that only sampling uses are in `warpers.py`.

Classes, parameters and numbers are those of transformers 5.23; `HammingDiversityLogitsProcessor` is that of 4.49.0,
because 5.x no longer has it. A banned token has the score -inf. Where all tokens are banned the row is -inf throughout,
as there, except by `PrefixConstrainedLogitsProcessor`.

Deliberate differences: the parameter `device` does not exist, because it would have no effect; ids outside the
vocabulary and misspelt values are errors; see also `NoBadWordsLogitsProcessor`, `ExponentialDecayLengthPenalty` and
`UnbatchedClassifierFreeGuidanceLogitsProcessor`.

Not here: watermarks (they mark the origin of a text, which is a matter of serving models), and the processors of
encoder-decoders and of speech models.

Dimension letters: B rows (prompts x beams), T positions so far, V vocabulary, N tokens that are named.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence, Set
from functools import lru_cache
from inspect import isroutine, signature
from numbers import Integral, Real
from typing import Any, NoReturn, TypeAlias, TypeVar

import torch
from torch import Tensor

__all__ = [
    "ExponentialDecayLengthPenalty",
    "ForcedBOSTokenLogitsProcessor",
    "ForcedEOSTokenLogitsProcessor",
    "HammingDiversityLogitsProcessor",
    "InfNanRemoveLogitsProcessor",
    "LogitNormalization",
    "LogitsProcessor",
    "LogitsProcessorList",
    "MinLengthLogitsProcessor",
    "MinNewTokensLengthLogitsProcessor",
    "NoBadWordsLogitsProcessor",
    "NoRepeatNGramLogitsProcessor",
    "PrefixConstrainedLogitsProcessor",
    "RepetitionPenaltyLogitsProcessor",
    "SequenceBiasLogitsProcessor",
    "SuppressTokensAtBeginLogitsProcessor",
    "SuppressTokensLogitsProcessor",
    "UnbatchedClassifierFreeGuidanceLogitsProcessor",
    "merge_custom",
]

logger = logging.getLogger("minitf.generation")

TokenIds: TypeAlias = "int | Sequence[int] | Tensor"
ListOf = TypeVar("ListOf", bound="list[Any]")


# --------------------------------------------------------------------------------------------------------------------
# Checks of settings


def refuse(name: str, value: object, expected: str) -> NoReturn:
    """Raises ValueError: the setting `name` has this value, and what was expected."""
    raise ValueError(f"{name} = {value!r}: expected {expected}.")


def check_number(name: str, value: Any, expected: str, holds: Callable[[float], bool]) -> float:
    """A real number (no boolean, not nan) for which `holds` is true, as float; `refuse` otherwise."""
    if isinstance(value, bool) or not isinstance(value, Real) or math.isnan(value) or not holds(float(value)):
        refuse(name, value, expected)
    return float(value)


def check_count(name: str, value: Any, least: int = 0) -> int:
    """An integer (no boolean) of at least `least`; `refuse` otherwise."""
    if isinstance(value, bool) or not isinstance(value, Integral) or int(value) < least:
        refuse(name, value, f"an integer >= {least}")
    return int(value)


def check_ids(name: str, value: Any) -> list[int]:
    """One token id or several (sequence, set, tensor or array), at least one, as a list; `refuse` otherwise."""
    ids = as_list(value)
    if isinstance(ids, (str, bytes)) or not isinstance(ids, (Sequence, Set)) or not ids:
        refuse(name, value, "a token id or a list of at least one")
    if any(isinstance(i, bool) or not isinstance(i, Integral) or int(i) < 0 for i in ids):
        refuse(name, value, "token ids, integers >= 0")
    return [int(i) for i in ids]


def as_list(value: Any) -> Any:
    """A tensor, an array or a single number as a list; anything else as it is."""
    value = value.tolist() if hasattr(value, "tolist") else value
    return [value] if isinstance(value, Integral) else value


def columns(name: str, ids: list[int], scores: Tensor) -> Tensor:
    """The ids as an index `[N]` of the scores' columns.

    Raises:
        ValueError: an id that the vocabulary does not have.
    """
    check_vocabulary(name, max(ids), scores)
    return torch.tensor(ids, device=scores.device)


def check_vocabulary(name: str, highest: int, scores: Tensor) -> None:
    """Raises ValueError: the highest id is outside the vocabulary."""
    if highest >= scores.shape[-1]:
        raise ValueError(f"{name} holds the id {highest}, but the vocabulary ends at {scores.shape[-1] - 1}.")


def ban(name: str, ids: list[int], scores: Tensor) -> Tensor:
    """The scores with -inf for these tokens, in every row."""
    return scores.index_fill(1, columns(name, ids, scores), -math.inf)  # [B, V]


def only(name: str, ids: list[int], scores: Tensor) -> Tensor:
    """Score 0 for these tokens and -inf for all others."""
    return torch.full_like(scores, -math.inf).index_fill_(1, columns(name, ids, scores), 0.0)  # [B, V]


# --------------------------------------------------------------------------------------------------------------------
# The protocol


class LogitsProcessor:
    """Base class of processors. A plain function with the same two arguments is a processor as well."""

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """New scores from the tokens so far.

        Args:
            input_ids: `[B, T]` int64.
            scores: `[B, V]` float32, which must not be written into.

        Returns:
            `[B, V]`, -inf for a token that must not come.
        """
        raise NotImplementedError(
            f"{type(self).__name__} has no __call__(input_ids, scores): every processor needs one."
        )


class LogitsProcessorList(list[Callable[..., Tensor]]):
    """Processors that are applied one after the other."""

    def __call__(self, input_ids: Tensor, scores: Tensor, **extra: Any) -> Tensor:
        """As `LogitsProcessor`.

        Args:
            extra: further values by name. Each goes to the processors that have a parameter of that name: diverse beam
                search passes `current_tokens` and `beam_group_idx`, which `HammingDiversityLogitsProcessor` reads.

        Raises:
            TypeError: a further value that no processor takes; a result that is not a tensor.
            ValueError: a result of another shape than the scores.
        """
        if extra:
            taken = {name for processor in self for name in _further_parameters(processor)}
            if not taken.issuperset(extra):
                raise TypeError(f"no processor of this list takes {sorted(set(extra) - taken)}: leave it out.")
        for processor in self:
            given = {name: extra[name] for name in _further_parameters(processor) if name in extra} if extra else {}
            changed = processor(input_ids, scores, **given)  # [B, V]
            if not isinstance(changed, Tensor):
                raise TypeError(
                    f"{_name(processor)} returned a {type(changed).__name__}; expected the new scores, a tensor "
                    f"{list(scores.shape)}."
                )
            if changed.shape != scores.shape:
                raise ValueError(
                    f"{_name(processor)} returned scores of shape {list(changed.shape)}; expected {list(scores.shape)}."
                )
            scores = changed
        return scores


def _name(processor: Any) -> str:
    return str(getattr(processor, "__name__", type(processor).__name__))


def _further_parameters(processor: Any) -> tuple[str, ...]:
    if isroutine(processor):
        return _parameters(processor)[2:]
    return _parameters(type(processor).__call__)[3:]


@lru_cache(maxsize=256)
def _parameters(function: Any) -> tuple[str, ...]:
    return tuple(signature(function).parameters)


def merge_custom(default: ListOf, custom: Sequence[Any], kind: str) -> ListOf:
    """The processors or criteria that the settings made, then those that the caller passed.

    Args:
        default: made from the settings.
        custom: passed by the caller.
        kind: what they are, for the message: "logits processor" or "stopping criterion".

    Raises:
        TypeError: `custom` is no list or tuple of functions.
        ValueError: a class that is in both, as in transformers up to 4.49 (5.x drops the one from the settings), or
            the same object twice in `custom`. Both would be applied, which is hardly meant.
    """
    if not isinstance(custom, (list, tuple)):
        raise TypeError(f"expected a list, each entry a {kind}, and got a {_name(custom)}: put it into a list.")
    for position, given in enumerate(custom):
        if not callable(given):
            raise TypeError(
                f"{kind} {position} is {given!r}: expected a function (input_ids, scores) or an object like it."
            )
        for made in default:
            if type(given) is type(made):
                raise ValueError(
                    f"the {kind} {type(given).__name__} is given twice: {_values(made)} comes from the settings, "
                    f"{_values(given)} was passed. Leave one of them out."
                )
        if any(given is earlier for earlier in custom[:position]):
            raise ValueError(f"the same {kind}, {_values(given)}, is passed twice: leave one of them out.")
    return type(default)([*default, *custom])


def _values(thing: Any) -> str:
    """`Name(setting=value, ...)` of the plain settings of a processor or criterion."""
    plain = (bool, int, float, str, list, tuple, dict, type(None))
    settings = {name: value for name, value in getattr(thing, "__dict__", {}).items() if isinstance(value, plain)}
    return f"{_name(thing)}({', '.join(f'{k}={v!r}' for k, v in settings.items() if not k.startswith('_'))})"


# --------------------------------------------------------------------------------------------------------------------
# Repetition


class RepetitionPenaltyLogitsProcessor(LogitsProcessor):
    """Tokens that stand in `input_ids` get their score divided by `penalty` if positive, multiplied if negative.

    From CTRL (Keskar et al. 2019, arXiv:1909.05858, section 4.1), with the sign handled as transformers does.

    Args:
        penalty: > 0; more than 1 makes repetition less likely, less than 1 more.
        prompt_ignore_length: that many positions at the beginning do not count: an integer for all rows, or `[B]`, one
            number a row, which is how left padding is kept out. With beams each number holds for the rows of its
            prompt. None = all count.

    Raises:
        ValueError: a value outside these; when called, a number of rows that is no multiple of the numbers given.
    """

    def __init__(self, penalty: float, prompt_ignore_length: int | Tensor | None = None) -> None:
        self.penalty = check_number("penalty", penalty, "a finite number > 0", lambda v: 0 < v < math.inf)
        if isinstance(prompt_ignore_length, Tensor):
            whole = not prompt_ignore_length.is_floating_point() and prompt_ignore_length.dim() == 1
            if not whole or prompt_ignore_length.numel() == 0 or int(prompt_ignore_length.min()) < 0:
                refuse("prompt_ignore_length", prompt_ignore_length, "an integer >= 0 for each row, shape [B]")
        elif prompt_ignore_length is not None:
            check_count("prompt_ignore_length", prompt_ignore_length)
        self.prompt_ignore_length = prompt_ignore_length

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        ignored = self.prompt_ignore_length
        if not isinstance(ignored, Tensor):
            return self._penalised(input_ids[:, ignored or 0 :], scores)
        if len(input_ids) % len(ignored):
            raise ValueError(
                f"prompt_ignore_length has {len(ignored)} numbers, but input_ids {len(input_ids)} rows: expected one "
                "number for each row, or for each prompt."
            )
        ignored = ignored.to(input_ids.device).repeat_interleave(len(input_ids) // len(ignored))  # [B]
        if not bool(ignored.any()):
            return self._penalised(input_ids, scores)
        # what does not count is sent to a column that no token has
        outside = torch.arange(input_ids.shape[1], device=input_ids.device) < ignored[:, None]  # [B, T]
        counted = input_ids.masked_fill(outside, scores.shape[1])  # [B, T]
        wider = torch.nn.functional.pad(scores, (0, 1))  # [B, V + 1]
        return self._penalised(counted, wider)[:, :-1]  # [B, V]

    def _penalised(self, ids: Tensor, scores: Tensor) -> Tensor:
        seen = scores.gather(1, ids)  # [B, T]
        seen = torch.where(seen < 0, seen * self.penalty, seen / self.penalty)  # [B, T]
        return scores.scatter(1, ids, seen)  # a token that stands there twice gets the same value twice


class NoRepeatNGramLogitsProcessor(LogitsProcessor):
    """A token is banned where it would make a sequence of `ngram_size` tokens that `input_ids` already holds.

    From Paulus et al. 2017 (arXiv:1705.04304, section 2.5). Padding of the prompt counts like any other token, as in
    transformers: with `ngram_size=1` a row that was padded with the end token can no longer end.

    Args:
        ngram_size: >= 1.

    Raises:
        ValueError: another value.
    """

    def __init__(self, ngram_size: int) -> None:
        self.ngram_size = check_count("ngram_size", ngram_size, least=1)

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        length, size = input_ids.shape[1], self.ngram_size
        if length < size:
            return scores
        grams = input_ids.unfold(1, size, 1)  # [B, T - size + 1, size]
        begun = input_ids[:, length - size + 1 :]  # [B, size - 1], the gram that the next token completes
        rows, places = (grams[:, :, :-1] == begun[:, None]).all(dim=-1).nonzero(as_tuple=True)
        if len(rows) == 0:
            return scores
        banned = scores.clone()  # [B, V]
        banned[rows, grams[rows, places, -1]] = -math.inf
        return banned


# --------------------------------------------------------------------------------------------------------------------
# Words that are wanted or not


class SequenceBiasLogitsProcessor(LogitsProcessor):
    """Adds a number to the score of a token, everywhere or after certain tokens.

    The bias of a sequence of several ids is added to its last token where `input_ids` end with the others. Sequences
    that end in the same token add up.

    Args:
        sequence_bias: `{(id, id, ...): bias}`, or, as JSON can say it, `[[[id, id, ...], bias], ...]`. A bias is a
            finite number or -inf, which bans.

    Raises:
        ValueError: another form, or a sequence twice; when called, an id outside the vocabulary.
    """

    def __init__(self, sequence_bias: Mapping[tuple[int, ...], float] | Sequence[Sequence[Any]]) -> None:
        form = "{(id, ...): bias, ...} or [[[id, ...], bias], ...] with at least one entry"
        pairs: list[Any] = []
        if isinstance(sequence_bias, Mapping) and all(isinstance(key, tuple) for key in sequence_bias):
            pairs = list(sequence_bias.items())
        elif isinstance(sequence_bias, (list, tuple)):
            pairs = list(sequence_bias)
        if not pairs or not all(isinstance(pair, (list, tuple)) and len(pair) == 2 for pair in pairs):
            refuse("sequence_bias", sequence_bias, form)
        self.sequence_bias: dict[tuple[int, ...], float] = {}
        for ids, bias in pairs:
            key = tuple(check_ids(f"an entry of sequence_bias, {[ids, bias]}; its ids", ids))
            if key in self.sequence_bias:
                refuse("sequence_bias", sequence_bias, f"each sequence once, and {list(key)} stands there twice")
            limit = "a finite number or -inf"
            self.sequence_bias[key] = check_number(f"sequence_bias of {list(key)}", bias, limit, lambda v: v < math.inf)
        self._highest = max(token for ids in self.sequence_bias for token in ids)
        self._tables: dict[torch.device, _BiasTables] = {}

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        if scores.device not in self._tables:
            self._tables[scores.device] = _BiasTables(self.sequence_bias, scores.device)
        tables = self._tables[scores.device]
        check_vocabulary("sequence_bias", self._highest, scores)
        bias = tables.always.to(scores.dtype).repeat(len(scores), 1)  # [B, N]
        for begun, places, values in tables.after:
            if begun.shape[1] <= input_ids.shape[1]:
                matches = (input_ids[:, None, -begun.shape[1] :] == begun).all(dim=-1)  # [B, sequences]
                bias.index_add_(1, places, torch.where(matches, values, 0.0).to(bias.dtype))
        return scores.index_add(1, tables.last, bias)  # [B, V]


class _BiasTables:
    """The biases as tensors.

    Attributes:
        last: `[N]`, the tokens whose score may change.
        always: `[N]`, what each gets in any case.
        after: for each length of a beginning: beginnings `[sequences, length]`, the places of their last tokens
            in `last` `[sequences]`, and biases `[sequences]`.
    """

    def __init__(self, sequence_bias: dict[tuple[int, ...], float], device: torch.device) -> None:
        last = sorted({ids[-1] for ids in sequence_bias})
        place = {token: number for number, token in enumerate(last)}
        self.last = torch.tensor(last, device=device)  # [N]
        self.always = torch.tensor([sequence_bias.get((token,), 0.0) for token in last], device=device)  # [N]
        lengths = dict.fromkeys(len(ids) - 1 for ids in sequence_bias if len(ids) > 1)
        self.after: list[tuple[Tensor, Tensor, Tensor]] = []
        for length in lengths:
            group = {ids: bias for ids, bias in sequence_bias.items() if len(ids) - 1 == length}
            begun = torch.tensor([ids[:-1] for ids in group], device=device)  # [sequences, length]
            places = torch.tensor([place[ids[-1]] for ids in group], device=device)  # [sequences]
            self.after.append((begun, places, torch.tensor(list(group.values()), device=device)))


class NoBadWordsLogitsProcessor(SequenceBiasLogitsProcessor):
    """Bans sequences of tokens: the last token of each, where `input_ids` end with the others.

    Args:
        bad_words_ids: `[[id, ...], ...]`. Words look different after a space, so both forms have to be named.
        eos_token_id: the end token or tokens. They are never banned alone, as in transformers, or no row could end;
            such an entry is named in a warning.

    Raises:
        ValueError: another form, or no entry but end tokens; when called, an id outside the vocabulary.
    """

    def __init__(self, bad_words_ids: Sequence[Sequence[int]], eos_token_id: TokenIds | None = None) -> None:
        if not isinstance(bad_words_ids, (list, tuple)) or not bad_words_ids:
            refuse("bad_words_ids", bad_words_ids, "a list of at least one list of token ids")
        if not all(isinstance(word, (list, tuple)) for word in bad_words_ids):
            refuse("bad_words_ids", bad_words_ids, "a list of lists of token ids")
        words = [tuple(check_ids("an entry of bad_words_ids", word)) for word in bad_words_ids]
        ends = [] if eos_token_id is None else check_ids("eos_token_id", eos_token_id)
        kept = [word for word in words if len(word) > 1 or word[0] not in ends]
        if not kept:
            refuse("bad_words_ids", bad_words_ids, f"a word besides the end tokens {ends}, which are never banned")
        if len(kept) < len(words):
            logger.warning("bad_words_ids names end tokens (%s): they are not banned, or no sequence could end.", ends)
        super().__init__(dict.fromkeys(kept, -math.inf))


class SuppressTokensLogitsProcessor(LogitsProcessor):
    """Bans tokens at every step.

    Args:
        suppress_tokens: a token id or several.

    Raises:
        ValueError: no ids; when called, an id outside the vocabulary.
    """

    def __init__(self, suppress_tokens: TokenIds) -> None:
        self.suppress_tokens = check_ids("suppress_tokens", suppress_tokens)

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        return ban("suppress_tokens", self.suppress_tokens, scores)


class SuppressTokensAtBeginLogitsProcessor(LogitsProcessor):
    """Bans tokens at one step: the one at which `input_ids` have `begin_index` positions.

    Args:
        begin_suppress_tokens: a token id or several.
        begin_index: >= 0, usually the length of the prompt.

    Raises:
        ValueError: another value; when called, an id outside the vocabulary.
    """

    def __init__(self, begin_suppress_tokens: TokenIds, begin_index: int) -> None:
        self.begin_suppress_tokens = check_ids("begin_suppress_tokens", begin_suppress_tokens)
        self.begin_index = check_count("begin_index", begin_index)

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        if input_ids.shape[1] != self.begin_index:
            return scores
        return ban("begin_suppress_tokens", self.begin_suppress_tokens, scores)


class PrefixConstrainedLogitsProcessor(LogitsProcessor):
    """Only tokens that a function allows after the tokens so far.

    For decoding within a given set of names (De Cao et al. 2020, arXiv:2010.00904). Where earlier processors have
    banned all allowed tokens in every beam of a prompt, the function wins: they get the score 0, as in transformers.

    Args:
        prefix_allowed_tokens_fn: `(number of the prompt, its tokens [T]) -> ids of the allowed tokens`.
        num_beams: >= 1, rows of a prompt.

    Raises:
        ValueError: another value; when called, a function that allows nothing or an id outside the vocabulary, or a
            number of rows that is no multiple of `num_beams`.
    """

    def __init__(self, prefix_allowed_tokens_fn: Callable[[int, Tensor], Any], num_beams: int) -> None:
        if not callable(prefix_allowed_tokens_fn):
            refuse("prefix_allowed_tokens_fn", prefix_allowed_tokens_fn, "a function (prompt number, ids) -> ids")
        self.prefix_allowed_tokens_fn = prefix_allowed_tokens_fn
        self.num_beams = check_count("num_beams", num_beams, least=1)

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        beams, name = self.num_beams, "the result of prefix_allowed_tokens_fn"
        if len(input_ids) % beams:
            raise ValueError(f"input_ids has {len(input_ids)} rows; expected a multiple of num_beams = {beams}.")
        mask = torch.full_like(scores, -math.inf)  # [B, V]
        for row, ids in enumerate(input_ids):
            allowed = as_list(self.prefix_allowed_tokens_fn(row // beams, ids))
            if isinstance(allowed, (Sequence, Set)) and not allowed:
                raise ValueError(
                    f"prefix_allowed_tokens_fn allows no token after {ids.tolist()} (prompt {row // beams}): no "
                    "sequence can fulfil it. Return at least one id, the end token where a sequence is complete."
                )
            mask[row, columns(name, check_ids(name, allowed), scores)] = 0.0
        masked = scores + mask  # [B, V]
        nothing_left = masked.amax(dim=-1).isneginf().view(-1, beams).all(dim=-1)  # [prompts]
        return torch.where(nothing_left.repeat_interleave(beams)[:, None], mask, masked)  # [B, V]


# --------------------------------------------------------------------------------------------------------------------
# Beginning, length and end


class ForcedBOSTokenLogitsProcessor(LogitsProcessor):
    """The second position is this token: score 0 and -inf for all others where `input_ids` have one position.

    Args:
        bos_token_id: for example the language token of a translation model.

    Raises:
        ValueError: not an id; when called, outside the vocabulary.
    """

    def __init__(self, bos_token_id: int) -> None:
        self.bos_token_id = check_count("bos_token_id", bos_token_id)

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        return only("bos_token_id", [self.bos_token_id], scores) if input_ids.shape[1] == 1 else scores


class ForcedEOSTokenLogitsProcessor(LogitsProcessor):
    """The last position that fits is an end token: score 0 and -inf for all others at `max_length - 1` positions.

    Args:
        max_length: >= 1, positions of the longest sequence, the prompt included.
        eos_token_id: the end token or tokens.

    Raises:
        ValueError: another value; when called, an id outside the vocabulary.
    """

    def __init__(self, max_length: int, eos_token_id: TokenIds) -> None:
        self.max_length = check_count("max_length", max_length, least=1)
        self.eos_token_id = check_ids("eos_token_id", eos_token_id)

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        return only("eos_token_id", self.eos_token_id, scores) if input_ids.shape[1] == self.max_length - 1 else scores


class MinLengthLogitsProcessor(LogitsProcessor):
    """No end token while `input_ids` have fewer than `min_length` positions, the prompt included.

    Args:
        min_length: >= 0.
        eos_token_id: the end token or tokens.

    Raises:
        ValueError: another value; when called, an id outside the vocabulary.
    """

    def __init__(self, min_length: int, eos_token_id: TokenIds) -> None:
        self.min_length = check_count("min_length", min_length)
        self.eos_token_id = check_ids("eos_token_id", eos_token_id)

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        return ban("eos_token_id", self.eos_token_id, scores) if input_ids.shape[1] < self.min_length else scores


class MinNewTokensLengthLogitsProcessor(LogitsProcessor):
    """No end token before `min_new_tokens` tokens have followed the prompt.

    Args:
        prompt_length_to_skip: >= 0, positions of the prompt.
        min_new_tokens: >= 0.
        eos_token_id: the end token or tokens.

    Raises:
        ValueError: another value; when called, an id outside the vocabulary.
    """

    def __init__(self, prompt_length_to_skip: int, min_new_tokens: int, eos_token_id: TokenIds) -> None:
        self.prompt_length_to_skip = check_count("prompt_length_to_skip", prompt_length_to_skip)
        self.min_new_tokens = check_count("min_new_tokens", min_new_tokens)
        self.eos_token_id = check_ids("eos_token_id", eos_token_id)

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        new_tokens = input_ids.shape[1] - self.prompt_length_to_skip
        return ban("eos_token_id", self.eos_token_id, scores) if new_tokens < self.min_new_tokens else scores


class ExponentialDecayLengthPenalty(LogitsProcessor):
    """Makes the end token likelier with every token after a certain length.

    n tokens after that length its score grows by `|score| * (factor ** n - 1)`. A score of -inf stays. Where the growth
    is too large for the scores' type it is the largest number of that type; transformers then has inf, or fails.

    Args:
        exponential_decay_length_penalty: (new tokens after which it begins, factor > 0).
        eos_token_id: the end token or tokens.
        input_ids_seq_length: >= 0, positions of the prompt.

    Raises:
        ValueError: another value; when called, an id outside the vocabulary.
    """

    def __init__(
        self, exponential_decay_length_penalty: Sequence[float], eos_token_id: TokenIds, input_ids_seq_length: int
    ) -> None:
        name, given = "exponential_decay_length_penalty", exponential_decay_length_penalty
        if not isinstance(given, (tuple, list)) or len(given) != 2:
            refuse(name, given, "(tokens after which it begins, factor)")
        prompt = check_count("input_ids_seq_length", input_ids_seq_length)
        self.regulation_start = prompt + check_count(f"the beginning of {name}", given[0])
        self.regulation_factor = check_number(
            f"the factor of {name}", given[1], "a finite number > 0", lambda v: 0 < v < math.inf
        )
        self.eos_token_id = check_ids("eos_token_id", eos_token_id)

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        late = input_ids.shape[1] - self.regulation_start
        if late <= 0:
            return scores
        try:
            growth = self.regulation_factor**late - 1
        except OverflowError:
            growth = math.inf
        ends = columns("eos_token_id", sorted(set(self.eos_token_id)), scores)  # [N]
        score = scores.index_select(1, ends)  # [B, N]
        penalty = (score.abs() * growth).nan_to_num(nan=0.0)  # [B, N]
        return scores.index_add(1, ends, penalty)  # [B, V]


# --------------------------------------------------------------------------------------------------------------------
# Scores as numbers


class LogitNormalization(LogitsProcessor):
    """Log-probabilities in place of scores: `log_softmax`. After other processors scores no longer sum to 1."""

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        return scores.log_softmax(dim=-1)


class InfNanRemoveLogitsProcessor(LogitsProcessor):
    """nan becomes 0, inf and -inf the largest and smallest number of the scores' type."""

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        return scores.nan_to_num(nan=0.0)


# --------------------------------------------------------------------------------------------------------------------
# Groups of beams, and a second model


class HammingDiversityLogitsProcessor(LogitsProcessor):
    """In diverse beam search, tokens lose what earlier groups have chosen at the same step.

    Each time that one of a prompt's earlier beams has chosen a token, its score falls by `diversity_penalty`
    (Vijayakumar et al. 2016, arXiv:1610.02424). As in transformers 4.49.0.

    Args:
        diversity_penalty: > 0.
        num_beams: >= 2, beams of all groups.
        num_beam_groups: >= 2, a divisor of `num_beams`.

    Raises:
        ValueError: another value; when called, without what only diverse beam search knows.
    """

    def __init__(self, diversity_penalty: float, num_beams: int, num_beam_groups: int) -> None:
        limit = "a finite number > 0"
        self.diversity_penalty = check_number("diversity_penalty", diversity_penalty, limit, lambda v: 0 < v < math.inf)
        self.num_beams = check_count("num_beams", num_beams, least=2)
        self.num_beam_groups = check_count("num_beam_groups", num_beam_groups, least=2)
        if self.num_beams % self.num_beam_groups:
            refuse("num_beam_groups", num_beam_groups, f"a divisor of num_beams = {num_beams}")

    def __call__(
        self,
        input_ids: Tensor,
        scores: Tensor,
        current_tokens: Tensor | None = None,
        beam_group_idx: int | None = None,
    ) -> Tensor:
        """New scores of one group.

        Args:
            input_ids: `[prompts * beams of a group, T]`; scores: `[prompts * beams of a group, V]`.
            current_tokens: `[prompts * num_beams]`, what all beams have chosen at this step as far as it is known.
            beam_group_idx: which group this is, 0 ... num_beam_groups - 1.
        """
        if current_tokens is None or beam_group_idx is None:
            raise ValueError(
                "HammingDiversityLogitsProcessor needs current_tokens and beam_group_idx, which only diverse beam "
                "search (num_beam_groups > 1) gives it."
            )
        if not 0 <= beam_group_idx < self.num_beam_groups:
            refuse("beam_group_idx", beam_group_idx, f"0 to {self.num_beam_groups - 1} (num_beam_groups - 1)")
        prompts, size = len(current_tokens) // self.num_beams, self.num_beams // self.num_beam_groups
        if tuple(current_tokens.shape) != (prompts * self.num_beams,) or len(scores) != prompts * size:
            raise ValueError(
                f"current_tokens has shape {list(current_tokens.shape)} and scores {len(scores)} rows; expected "
                f"[prompts * {self.num_beams}] and prompts * {size} rows."
            )
        if beam_group_idx == 0:
            return scores
        earlier = current_tokens.view(prompts, -1)[:, : beam_group_idx * size]  # [prompts, earlier beams]
        times = scores.new_zeros(prompts, scores.shape[1])  # [prompts, V]
        times.scatter_add_(1, earlier, torch.ones_like(earlier, dtype=scores.dtype))
        return scores - self.diversity_penalty * times.repeat_interleave(size, dim=0)  # [prompts * size, V]


class UnbatchedClassifierFreeGuidanceLogitsProcessor(LogitsProcessor):
    """Moves the scores away from what the model says without the prompt, or after a negative one.

    `unconditional + guidance_scale * (conditional - unconditional)` on log-probabilities (Sanchez et al. 2023,
    arXiv:2306.17806). The model is run a second time at every step, on the negative prompt and the new tokens.

    It knows where it stands from `input_ids`: rows that do not go on from those of the last call (beam search chose
    other ones, another generation began) are computed anew. transformers goes on with the old cache, which belongs
    to other tokens.

    Args:
        guidance_scale: a finite number. More than 1 follows the prompt more, 1 has no effect but log-probabilities.
        model: called as `model(ids, attention_mask=, use_cache=, past_key_values=)`; returns an object with `logits`
            `[B, T, V]` and, if `use_cache`, `past_key_values`.
        unconditional_ids: `[prompts, T]`, the negative prompt; None = the last token of the prompt.
        unconditional_attention_mask: `[prompts, T]`, 1 = token and 0 = padding; None = all ones.
        use_cache: keep keys and values of earlier steps.

    Raises:
        ValueError: another value, a mask without ids or of another shape; when called, a number of rows that is no
            multiple of the negative prompts.
    """

    def __init__(
        self,
        guidance_scale: float,
        model: Callable[..., Any],
        unconditional_ids: Tensor | None = None,
        unconditional_attention_mask: Tensor | None = None,
        use_cache: bool = True,
    ) -> None:
        limit = "a finite number"
        self.guidance_scale = check_number("guidance_scale", guidance_scale, limit, math.isfinite)
        if unconditional_ids is not None and (unconditional_ids.dim() != 2 or unconditional_ids.numel() == 0):
            refuse("the shape of unconditional_ids", list(unconditional_ids.shape), "[prompts, T], not empty")
        if unconditional_attention_mask is not None:
            if unconditional_ids is None:
                raise ValueError("unconditional_attention_mask has no effect without unconditional_ids: leave it out.")
            if unconditional_attention_mask.shape != unconditional_ids.shape:
                shape = list(unconditional_attention_mask.shape)
                refuse("the shape of unconditional_attention_mask", shape, f"{list(unconditional_ids.shape)}")
        self.model = model
        self.unconditional_ids = unconditional_ids
        self.unconditional_attention_mask = unconditional_attention_mask
        self.use_cache = use_cache
        self._prompt: Tensor | None = None  # [B, T] of the generation's first call
        self._seen: Tensor | None = None  # [B, new tokens] that the cache holds
        self._cache: Any = None

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        conditional = scores.log_softmax(dim=-1)  # [B, V]
        if self.guidance_scale == 1:
            return conditional
        with torch.no_grad():
            logits = self._unconditional_logits(input_ids)  # [B, V]
        unconditional = logits.to(scores.dtype).log_softmax(dim=-1)  # [B, V]
        return self.guidance_scale * (conditional - unconditional) + unconditional

    def _unconditional_logits(self, input_ids: Tensor) -> Tensor:
        if self._prompt is None or not _begins_with(input_ids, self._prompt):
            self._prompt, self._seen = input_ids, None
        new = input_ids[:, self._prompt.shape[1] :]  # [B, new tokens]
        ids, mask = self._context(new)
        goes_on = self._seen is not None and new.shape[1] == self._seen.shape[1] + 1 and _begins_with(new, self._seen)
        if self.use_cache and goes_on:
            ids = new[:, -1:]  # [B, 1]
        else:
            self._cache = None
        out = self.model(ids, attention_mask=mask, use_cache=self.use_cache, past_key_values=self._cache)
        if self.use_cache:
            self._cache, self._seen = out.past_key_values, new
        logits: Tensor = out.logits[:, -1]  # [B, V]
        return logits

    def _context(self, new: Tensor) -> tuple[Tensor, Tensor]:
        """Ids and mask `[B, T + new tokens]` of the negative prompt and the new tokens."""
        assert self._prompt is not None
        negative, mask = self.unconditional_ids, self.unconditional_attention_mask
        negative = self._prompt[:, -1:] if negative is None else negative.to(new.device)
        if len(new) % len(negative):
            raise ValueError(
                f"unconditional_ids has {len(negative)} rows, but {len(new)} rows are generated: expected one for each "
                "prompt."
            )
        mask = torch.ones_like(negative) if mask is None else mask.to(negative)
        negative, mask = (t.repeat_interleave(len(new) // len(negative), dim=0) for t in (negative, mask))
        return torch.cat([negative, new], dim=1), torch.cat([mask, torch.ones_like(new)], dim=1)


def _begins_with(ids: Tensor, beginning: Tensor) -> bool:
    length = beginning.shape[1]
    return ids.shape[1] >= length and torch.equal(ids[:, :length], beginning)
