"""Which special tokens stand around a text or a pair, as data: `[CLS] A [SEP] B [SEP]`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple


class Slot(NamedTuple):
    """A place in a template: a special token with its id, or (token None) the first (0) or second (1) text."""

    type_id: int
    token: str | None = None
    id: int = 0
    sequence: int = 0


@dataclass(frozen=True)
class Template:
    """How special tokens are put around one text and around a pair."""

    single: tuple[Slot, ...]
    pair: tuple[Slot, ...]

    def slots(self, pair: bool) -> tuple[Slot, ...]:
        """The places, of one text or of a pair."""
        return self.pair if pair else self.single

    def added(self, pair: bool) -> int:
        """How many special tokens it puts in."""
        return sum(slot.token is not None for slot in self.slots(pair))


PLAIN = Template(single=(Slot(0),), pair=(Slot(0), Slot(1, sequence=1)))


def bert_template(cls: tuple[str, int] | None, sep: tuple[str, int] | None) -> Template:
    """`[CLS] A [SEP]` with token type 0, and `[CLS] A [SEP] B [SEP]` with 1 from B on; what is None is left out."""
    start = [Slot(0, *cls)] if cls else []
    first = [*start, Slot(0), *([Slot(0, *sep)] if sep else [])]
    second = [Slot(1, sequence=1), *([Slot(1, *sep)] if sep else [])]
    return Template(tuple(first), (*first, *second))


def gpt2_template(bos: tuple[str, int] | None) -> Template:
    """Nothing around a text, or (`add_bos_token`) the bos token before each."""
    if bos is None:
        return PLAIN
    single = (Slot(0, *bos), Slot(0))
    return Template(single, (*single, Slot(1, *bos), Slot(1, sequence=1)))
