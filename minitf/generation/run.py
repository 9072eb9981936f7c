"""What a decoding loop works with: the model with its cache, seen as a function from sequences to scores.

    run.steps.logits(sequences)     [B, T] -> [B, V], the model's scores of the next token of each row

A loop passes the whole sequences every time. `Steps` feeds the model those positions that the cache does not hold yet
(all of them without a cache), with the mask and the position ids that belong to them. So a loop says nothing about
caches, except `reorder` when it gives rows another past.

Dimension letters: B rows, T positions so far, S key positions, H heads, C hidden size, V vocabulary, L layers.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from minitf.cache import KVCache
from minitf.generation.config import GenerationConfig
from minitf.generation.processors import LogitsProcessorList
from minitf.generation.stopping import StoppingCriteriaList
from minitf.masks import positions_from_mask

__all__ = ["Run", "Steps"]


class Steps:
    """The model, its cache, and the inputs that grow with the sequences.

    Args:
        model: anything with the forward protocol: `model(input_ids, attention_mask=, position_ids=, past_key_values=,
            use_cache=, ...)` returns an object with `logits` `[B, T, V]`.
        attention_mask: `[B, T]` of the prompt, 1 = token and 0 = padding on the left; None = no padding.
        cache: where keys and values are kept, possibly those of earlier turns; None = recompute everything each step.
        inputs: further arguments of the forward: `inputs_embeds` `[B, T, C]` in place of the prompt's ids;
            `token_type_ids` and `position_ids` `[B, T]`, which grow with the sequences; all others stay as they are.
        output_attentions, output_hidden_states: collect them in `records`.
        check: refuse nan and inf.
    """

    def __init__(
        self,
        model: Any,
        *,
        attention_mask: Tensor | None = None,
        cache: KVCache | None = None,
        inputs: dict[str, Any] | None = None,
        output_attentions: bool = False,
        output_hidden_states: bool = False,
        check: bool = True,
    ) -> None:
        self.model = model
        self.next_words = getattr(model, "next_words", model)  # what of a model with two heads is like the others
        self.cache = cache
        self.inputs = dict(inputs or {})
        self.embeds: Tensor | None = self.inputs.pop("inputs_embeds", None)  # [B, T, C]
        self.types: Tensor | None = self.inputs.pop("token_type_ids", None)  # [B, T]
        self.positions: Tensor | None = self.inputs.pop("position_ids", None)  # [B, T]
        self.mask = attention_mask if attention_mask is not None and not bool(attention_mask.all()) else None  # [B, T]
        self.offset = 0 if self.embeds is None else self.embeds.shape[1]  # positions that have no ids
        self.outputs = {"attentions": output_attentions, "hidden_states": output_hidden_states}
        self.records: dict[str, list[Any]] = {name: [] for name, wanted in self.outputs.items() if wanted}
        self.check = check
        self.count = 0
        absolute = vars(model.config).get("position_embedding_type", "absolute") == "absolute"
        self.has_positions = absolute  # else distances follow from the order of the tokens, and padding shifts nothing
        self.keeps_last = "logits_to_keep" in getattr(model, "forward_names", ())
        self.step: Callable[..., Tensor] | None = None  # one token through the model without its modules
        self.asked = False  # whether the model has been asked for one

    def logits(self, sequences: Tensor) -> Tensor:
        """`[B, T]` ids -> `[B, V]` float32, the scores of the token that comes next.

        Raises:
            ValueError: they hold nan or inf; the message names the step and the row.
        """
        return self.last_logits(sequences, 1)[:, -1]  # [B, V]

    def last_logits(self, sequences: Tensor, count: int) -> Tensor:
        """As `logits`, of the last `count` positions: `[B, count, V]`."""
        held = self.held
        fresh = held < self.offset or self.cache is None
        ids = sequences if fresh else sequences[:, held - self.offset :]  # [B, new]
        length = self.offset + sequences.shape[1]
        self.grow(length)
        if self.step is not None and ids.shape[1] == 1:
            found = self.step(ids, self.positions, self.mask)[:, None]  # [B, 1, V]
        else:
            found = self.forward(ids, length, count)  # [B, count, V]
        self.count += 1
        found = found.float()  # [B, count, V]
        if self.check:
            self.refuse_invalid(found)
        return found

    @property
    def held(self) -> int:
        """Positions that the cache holds."""
        return 0 if self.cache is None else self.cache.get_seq_length()

    def grow(self, length: int) -> None:
        """Mask, positions and types of `length` positions: a new one is a token, the next, of the last type."""
        if self.mask is None and self.positions is None and self.types is None:
            return
        for name, step in (("mask", None), ("positions", 1), ("types", 0)):
            held: Tensor | None = getattr(self, name)  # [B, T]
            if held is None or held.shape[1] == length:
                continue
            if held.shape[1] > length:  # tokens were taken back
                setattr(self, name, held[:, :length])
                continue
            more = torch.arange(1, length - held.shape[1] + 1, device=held.device)[None]  # [1, new]
            new = torch.ones_like(more) if step is None else held[:, -1:] + step * more
            longer = torch.cat([held, new.to(held.dtype).expand(held.shape[0], -1)], dim=1)  # [B, length]
            setattr(self, name, longer)
        if self.mask is not None and self.positions is None and self.has_positions:
            self.positions = positions_from_mask(self.mask)  # [B, length]

    def forward(self, ids: Tensor, length: int, count: int) -> Tensor:
        """One call of the model with the positions that it has not seen."""
        inputs: dict[str, Any] = {"input_ids": ids}
        new = ids.shape[1]
        if self.embeds is not None and self.held < self.offset:
            embeds = self.embeds
            if ids.shape[1]:
                embeds = torch.cat([embeds, self.model.get_input_embeddings()(ids)], dim=1)  # [B, length, C]
            inputs, new = {"inputs_embeds": embeds}, length
        if self.mask is not None:
            inputs["attention_mask"] = self.mask
        if self.positions is not None:
            inputs["position_ids"] = self.positions[:, length - new :]
        if self.types is not None:
            inputs["token_type_ids"] = self.types[:, length - new :]
        if self.keeps_last:
            inputs["logits_to_keep"] = count
        wanted = {f"output_{name}": True for name, asked in self.outputs.items() if asked}
        out = self.next_words(
            **inputs, **self.inputs, **wanted, past_key_values=self.cache, use_cache=self.cache is not None,
            return_dict=True,
        )  # fmt: skip
        for name, record in self.records.items():
            record.append(getattr(out, name))
        if self.cache is not None and not self.asked and self.types is None and not self.records:
            self.asked, build = True, getattr(self.model, "decoding_step", None)
            self.step = build(self.cache, self.inputs) if build is not None else None
        logits: Tensor = out.logits[:, -count:]  # [B, count, V]
        return logits

    def refuse_invalid(self, logits: Tensor) -> None:
        """One pass over the scores: if their sum is finite, all of them are."""
        if math.isfinite(logits.sum()) or bool(logits.isfinite().all()):  # a sum of large numbers may be inf, too
            return
        row = int((~logits.isfinite()).flatten(1).any(1).nonzero()[0])
        wrong = logits[row][~logits[row].isfinite()][0].item()
        raise ValueError(
            f"step {self.count} of generation: the model's scores of row {row} hold {wrong}, so no token can be "
            "chosen. Look for overflow (float16) or broken weights; remove_invalid_values=True goes on all the same."
        )

    def refuse_nothing(self, best: Tensor) -> None:
        """The best score of each row after the processors, `[B]`: one that can be chosen.

        Raises:
            ValueError: -inf, they forbid every token; nan or inf, unless invalid values are let through.
        """
        if bool(best.isfinite().all()):
            return
        for row, score in enumerate(best.tolist()):
            self.refuse_score(score, row)

    def refuse_score(self, best: float, row: int) -> None:
        """As `refuse_nothing`, of one row."""
        if best == -math.inf:
            raise ValueError(
                f"step {self.count} of generation: every token of row {row} is forbidden by the settings (bad words, "
                "suppressed tokens, minimum length, ...) or a processor of the call: leave one of them out."
            )
        if self.check and not math.isfinite(best):
            raise ValueError(
                f"step {self.count} of generation: the scores of row {row} hold {best} after the processors, though "
                "the model's own are finite, so no token can be chosen. Look at logits_processor, or for a temperature "
                "near 0."
            )

    def reorder(self, rows: Tensor) -> None:
        """Row i goes on from the past of the old row `rows[i]`; the number of rows may change."""
        if self.cache is not None:
            self.cache.reorder(rows, in_place=True)
        for name in ("mask", "positions", "types", "embeds"):
            if getattr(self, name) is not None:
                setattr(self, name, getattr(self, name).index_select(0, rows))
        for name in ("encoder_hidden_states", "encoder_attention_mask"):
            if self.inputs.get(name) is not None:
                self.inputs[name] = self.inputs[name].index_select(0, rows)
        head_mask: Tensor | None = self.inputs.get("head_mask")
        if head_mask is not None and head_mask.dim() == 3:  # one for each row
            self.inputs["head_mask"] = head_mask.index_select(0, rows)  # [B, L, H]

    def repeat(self, times: int, rows: int) -> None:
        """Each of `rows` rows becomes `times` neighbours."""
        if times == 1:
            return
        self.reorder(torch.arange(rows, device=self.model.device).repeat_interleave(times))
        for record in self.records.values():
            record[:] = [tuple(t.repeat_interleave(times, dim=0) for t in step) for step in record]


@dataclass
class Run:
    """Everything that a strategy's loop gets.

    Attributes:
        steps: the model; see `Steps`.
        sequences: `[B, T]`, the prompts (not repeated for beams or several results). With `inputs_embeds` T is 0.
        settings: all settings of the call, joined and checked.
        max_length: positions of `sequences` at which a row ends.
        pad: what fills a row that ended; an end token or `pad_token_id`.
        processors, stopping: those of the settings and the caller's. `stopping` holds no maximum length.
        generator: the random state that samples are drawn from; None = torch's own.
        streamer: gets the prompt first and each new token as it is chosen, or None.
        draft: the draft model of assisted decoding, or None.
        extras: what only one strategy needs.
    """

    steps: Steps
    sequences: Tensor
    settings: GenerationConfig
    max_length: int
    pad: int
    processors: LogitsProcessorList
    stopping: StoppingCriteriaList
    generator: torch.Generator | None = None
    streamer: Any = None
    draft: Any = None
    extras: dict[str, Any] = field(default_factory=dict)

    def collected(self) -> dict[str, Any]:
        """The fields of the output that hold one entry a step, and the cache."""
        records = {name: tuple(record) for name, record in self.steps.records.items()}
        return {**records, "past_key_values": self.steps.cache}
