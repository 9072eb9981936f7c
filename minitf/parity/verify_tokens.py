"""Tokens, for `minitf.parity.verify`: what both libraries generate, and what their tokenizers make of texts."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from minitf.generation.config import GenerationConfig
from minitf.parity.verify_inputs import make_batch
from minitf.parity.verify_models import ATTENTION, Pair, Plan, converted, first_line, known_difference, use
from minitf.parity.verify_report import DIFFERS, IDENTICAL, NOT_APPLICABLE, WITHIN, Row

__all__ = ["generation_rows", "tokenizer_rows"]

NEW_TOKENS = 16

TEXTS = (
    "Here is some text to encode.",
    "  Blanks,\ttabs\nand new lines  ",
    "naïve café, ÀÉÎ, straße, ΑΣ, İstanbul",
    "遇见被老师提问问题",
    "👩‍👩‍👧‍👦 and 🏳️‍🌈, e\u0301",
    "it's 3.14 (or 22/7)... #hash_tag @user https://example.org/?a=b&c",
    "unbelievably Supercalifragilisticexpialidocious " + "x" * 120,
    "\u00a0\u200b\u200d\ufeff\x00\x07",
    "",
)

SILENT = "on purpose, since no do_lower_case is stated: minitf takes tokenizer.json as it is, transformers lower-cases"


def generation_rows(transformers: Any, name: str, pair: Pair, plan: Plan) -> Iterator[Row]:
    """Greedy search and beams from left-padded prompts, in the first dtype.

    Tokens hang on which of two scores is larger. If they differ, both libraries try again in float64: tokens that are
    equal there were a near-tie, which rounding decides.
    """
    dtype = plan.dtypes[0]
    for attention in ATTENTION:
        for check, beams in plan.beams.items():
            row = Row(check, name, dtype, attention, "left")
            reason = known_difference(pair.ours.config, dtype, attention)
            if reason:
                yield replace(row, result=NOT_APPLICABLE, where=reason)
                continue
            yield _generated(row, transformers, pair, plan, beams)


def _generated(row: Row, transformers: Any, pair: Pair, plan: Plan, beams: int) -> Row:
    """`row` with its result."""
    mine, other = (_new_tokens(row, transformers, pair, plan, beams, ours=ours) for ours in (True, False))
    if isinstance(other, str):
        return replace(row, result=NOT_APPLICABLE, where=f"transformers raises {other}")
    if isinstance(mine, str):
        return replace(row, result=DIFFERS, where=f"minitf raises {mine}; transformers does not")
    if torch.equal(mine, other):
        return row
    if mine.shape != other.shape:
        where = f"{mine.shape[1]} new tokens in minitf, {other.shape[1]} in transformers"
    else:
        text, step = (mine != other).nonzero()[0].tolist()
        where = f"row {text}, new token {step}: {mine[text, step]} in minitf, {other[text, step]} in transformers"
    if row.dtype != "float64":
        exact = _generated(replace(row, dtype="float64"), transformers, pair, plan, beams)
        if exact.result == IDENTICAL:
            return replace(row, result=WITHIN, where=f"{where}; in float64 all are equal: a near-tie")
    return replace(row, result=DIFFERS, where=where)


def _new_tokens(row: Row, transformers: Any, pair: Pair, plan: Plan, beams: int, *, ours: bool) -> torch.Tensor | str:
    """The new tokens `[B, N]` of one library, or the text of its error."""
    model = converted(pair.ours if ours else pair.theirs, row.dtype)
    use(row.attention, model)
    length = plan.sizes["tokens"] // 2
    batch = make_batch(pair.ours, padding=row.padding, rows=plan.sizes["rows"], tokens=length, seed=plan.sizes["seed"])
    prompt = {name: batch.ours[name] for name in ("input_ids", "attention_mask")}
    # Two differences of the README stay outside: which of several end tokens is written, and padding token 0.
    end, pad = pair.ours.config.eos_token_id, pair.ours.config.pad_token_id
    settings = {
        "max_new_tokens": min(NEW_TOKENS, plan.sizes["tokens"] - length),
        "num_beams": beams,
        "do_sample": False,
        "eos_token_id": end[0] if isinstance(end, list) else end,
        "pad_token_id": pad or 1,
    }
    settings_class = GenerationConfig if ours else transformers.GenerationConfig
    model.generation_config = settings_class()  # the file's own settings would choose another strategy
    try:
        found: torch.Tensor = model.generate(**prompt, generation_config=settings_class(**settings))
    except Exception as error:  # whichever it is, it is the result of this row
        return f"{type(error).__name__}: {first_line(error)}"
    return found[:, length:]


def tokenizer_rows(transformers: Any, folder: Path) -> Iterator[Row]:
    """The ids of `TEXTS`, and of a pair, by both of minitf's tokenizers."""
    from minitf.tokenization.auto import AutoTokenizer

    for fast in (True, False):
        form = "fast" if fast else "plain Python"
        none = Row("tokenizer", form, result=NOT_APPLICABLE)
        try:
            ours = AutoTokenizer.from_pretrained(folder, use_fast=fast, local_files_only=True)
        except FileNotFoundError:
            yield replace(none, where="the folder holds no tokenizer")
            return
        except ValueError as error:
            yield replace(none, where=f"minitf: {first_line(error)}")
            continue
        row = Row("tokenizer", type(ours).__name__)
        try:
            theirs = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
        except Exception as error:  # whatever it cannot read: the message is passed on
            yield replace(
                row, result=NOT_APPLICABLE, where=f"transformers raises {type(error).__name__}: {first_line(error)}"
            )
            continue
        where = _tokenized(ours, theirs)
        if where and _silent_about_case(folder):
            yield replace(row, result=NOT_APPLICABLE, where=f"{SILENT}: {where}")
        else:
            yield replace(row, result=DIFFERS if where else IDENTICAL, where=where)


def _silent_about_case(folder: Path) -> bool:
    """The one difference of docs/tokenization.md that changes the ids of ordinary texts."""
    if not (folder / "tokenizer.json").is_file():
        return False
    settings = folder / "tokenizer_config.json"
    return not settings.is_file() or "do_lower_case" not in json.loads(settings.read_text(encoding="utf-8"))


def _tokenized(ours: Any, theirs: Any) -> str:
    """Where the ids differ; "" = nowhere."""
    special = " ".join(ours.all_special_tokens)
    for texts in (*((text,) for text in TEXTS), (special,), TEXTS[:2]):
        mine, other = (list(tokenizer(*texts)["input_ids"]) for tokenizer in (ours, theirs))
        if mine != other:
            place = next(
                (i for i, (a, b) in enumerate(zip(mine, other, strict=False)) if a != b), min(len(mine), len(other))
            )
            shown = [str(ids[place]) if place < len(ids) else "nothing" for ids in (mine, other)]
            return f"{' + '.join(map(ascii, texts))}, token {place}: {shown[0]} in minitf, {shown[1]} in transformers"
    return ""
