"""`tokenizer.pad`: bring encoded texts to one length, after the fact. For collators."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

# Column -> what fills it up, as a key of the plan or as a value.
_FILLERS: dict[str, Any] = {
    "input_ids": "pad_id",
    "attention_mask": 0,
    "token_type_ids": "pad_type_id",
    "special_tokens_mask": 1,
    "offset_mapping": (0, 0),
}


def pad_columns(
    given: Any, plan: Mapping[str, Any] | None, *, attention_mask: bool
) -> tuple[dict[str, list[Any]], bool]:
    """(columns of B rows each, whether several texts were given).

    given: a mapping of columns (flat for one text), or a sequence of mappings, one for each text. plan: as made by
    `call.make_plan`; None pads nothing. attention_mask: add that column if it is not there.

    Raises TypeError and ValueError for what is no encoding, and for columns of different lengths.
    """
    columns, batched = _columns(given)
    if "input_ids" not in columns:
        raise ValueError(
            f"pad() needs input_ids, and got {', '.join(columns) or 'nothing'}: give what the tokenizer returned"
        )
    lengths = [len(row) for row in columns["input_ids"]]
    for name in _FILLERS.keys() & columns.keys():
        other = [len(row) for row in columns[name]]
        if other != lengths:
            raise ValueError(f"pad(): {name} has rows of lengths {other}, but input_ids {lengths}; expected the same")
    if attention_mask and "attention_mask" not in columns:
        columns["attention_mask"] = [[1] * length for length in lengths]
    if plan is None:
        return columns, batched
    target = plan["length"] or max(lengths, default=0)
    multiple = plan["pad_to_multiple_of"] or 1
    target = -(-target // multiple) * multiple  # rounded up
    for name in _FILLERS.keys() & columns.keys():
        filler = _FILLERS[name]
        filler = plan[filler] if isinstance(filler, str) else filler
        columns[name] = [_filled(row, target, filler, plan["direction"]) for row in columns[name]]
    return columns, batched


def _filled(row: list[Any], target: int, filler: Any, side: str) -> list[Any]:
    padding = [filler] * max(0, target - len(row))
    return row + padding if side == "right" else padding + row


def _columns(given: Any) -> tuple[dict[str, list[Any]], bool]:
    if isinstance(given, Mapping):
        columns = {name: _plain(value) for name, value in given.items()}
        ids = columns.get("input_ids")
        one = isinstance(ids, list) and bool(ids) and not isinstance(ids[0], list)
        return ({name: [value] for name, value in columns.items()} if one else columns), not one
    if not isinstance(given, Sequence) or isinstance(given, str) or not all(isinstance(row, Mapping) for row in given):
        raise TypeError(
            f"pad() got {type(given).__name__}; expected what the tokenizer returned, or a list of such dictionaries"
        )
    names = list(given[0]) if given else ["input_ids"]
    for index, row in enumerate(given):
        if set(row) != set(names):
            raise ValueError(f"pad(): element {index} has {sorted(row)}, but element 0 has {sorted(names)}")
    return {name: [_plain(row[name]) for row in given] for name in names}, True


def _plain(value: Any) -> Any:
    """Lists in place of arrays and tensors, also inside a list."""
    if hasattr(value, "tolist"):
        return value.tolist()
    return [_plain(item) for item in value] if isinstance(value, list | tuple) and not _is_span(value) else value


def _is_span(value: Any) -> bool:
    return isinstance(value, tuple) and len(value) == 2
