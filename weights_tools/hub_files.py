"""Which files of a repository a call needs: names only, the same rules for a listing, a snapshot and a folder.

The names are those that `save_pretrained` of transformers writes. A variant stands before the last suffix
(`model.fp16.safetensors`, `model.safetensors.index.fp16.json`), shards carry it before their number
(`model.fp16-00001-of-00002.safetensors`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path

from weights_tools.regular import read_text

SETTINGS = (
    "config.json",
    "generation_config.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
)
# What the first releases of BERT and GPT-2 have in place of config.json.
ORIGINALS = ("bert_config.json", "hparams.json")
VOCABULARIES = ("tokenizer.json", "vocab.txt", "vocab.json", "merges.txt")
# The entry of each form of weights, the preferred one first: the order of `weights_tools.files`.
ENTRIES = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")

# Other weights count in this order too: torch's, and only for want of these the others.
TORCH_SUFFIXES, OTHER_SUFFIXES = (".safetensors", ".bin", ".pt", ".pth"), (".h5", ".hdf5", ".npz", ".index")
# Training leaves these beside the weights.
NO_WEIGHTS = re.compile(r"(training_args|optimizer|scheduler|scaler|rng_state.*)\.(bin|pt|pth)")
SHARD = re.compile(r"(?P<stem>.+)-\d{5}-of-\d{5}(?P<suffix>\.safetensors|\.bin)")
OF_A_VARIANT = re.compile(r"(model|pytorch_model)\.(?P<variant>[\w-]+?)(-\d{5}-of-\d{5})?\.(safetensors|bin)")
MAX_INDEX_BYTES = 64_000_000


def with_variant(name: str, variant: str | None) -> str:
    """The name that a weights file (or index) has in a variant: ("model.safetensors", "fp16") -> model.fp16.safetensors

    Raises:
        ValueError: `variant` is no word of letters, digits, "_" and "-".
    """
    if variant is None:
        return name
    if not isinstance(variant, str) or not re.fullmatch(r"[\w-]+", variant, re.ASCII):
        raise ValueError(f"variant is {variant!r}; expected what stands in the file's name, such as 'fp16', or None")
    stem, _, suffix = name.rpartition(".")
    return f"{stem}.{variant}.{suffix}"


def entries(variant: str | None) -> tuple[str, ...]:
    """The names of which the first that exists is the weights, or their index."""
    return tuple(with_variant(name, variant) for name in ENTRIES)


def is_index(entry: str) -> bool:
    """Whether it lists shards."""
    return entry.endswith(".json")


def shards_named(entry: str, variant: str | None, names: Iterable[str]) -> list[str]:
    """The shards among `names` that belong to an index of this name."""
    whole = next(name for name in ENTRIES if with_variant(f"{name}.index.json", variant) == entry)
    stem, _, suffix = with_variant(whole, variant).rpartition(".")
    found = ((name, SHARD.fullmatch(name)) for name in sorted(names))
    return [name for name, match in found if match and match["stem"] == stem and match["suffix"] == f".{suffix}"]


def shards_of(index: Path) -> list[str]:
    """The files that an index names. Of one that cannot be read none: whoever opens it says what is wrong with it."""
    try:
        weight_map = json.loads(read_text(index, MAX_INDEX_BYTES, expected="an index"))["weight_map"]
        return sorted({name for name in weight_map.values() if isinstance(name, str)})
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return []


def variants_in(names: Iterable[str]) -> list[str]:
    """The variants that there are weights of."""
    return sorted({match["variant"] for name in names if (match := OF_A_VARIANT.fullmatch(name))})


def other_weights(names: Iterable[str]) -> list[str]:
    """Weights files under a name of their own: no entry, no shard, no variant, nothing that training left."""
    left = [
        name
        for name in sorted(names)
        if not (NO_WEIGHTS.fullmatch(name) or SHARD.fullmatch(name) or OF_A_VARIANT.fullmatch(name))
    ]
    of_torch = [name for name in left if name.endswith(TORCH_SUFFIXES)]
    return of_torch or [name for name in left if name.endswith(OTHER_SUFFIXES)]


def plain_names(folder: Path) -> set[str]:
    """What is in `folder`. A link whose target is gone does not count."""
    return {entry.name for entry in folder.iterdir() if entry.exists()}


@dataclass(frozen=True)
class Want:
    """What a call needs.

    filenames: plain names, fetched where they exist; None = a whole checkpoint: settings, vocabularies and the weights
    in one form. essential: alternatives; a snapshot serves if it holds all names of one of them; empty = any file
    serves. variant: of the weights.
    """

    filenames: tuple[str, ...] | None = None
    essential: tuple[tuple[str, ...], ...] = ()
    variant: str | None = None

    def standard(self) -> list[str]:
        """The names to look for where no listing is at hand."""
        if self.filenames is not None:
            return list(self.filenames)
        return [*SETTINGS, *VOCABULARIES, with_variant(ENTRIES[0], self.variant)]

    def lacking(self, names: Collection[str], folder: Path | None = None) -> str:
        """What is missing among `names` (in `folder`, where the shards of an index are looked up); "" = it serves."""
        if self.filenames is not None:
            serves = self.essential or tuple((name,) for name in self.filenames)
            if any(all(name in names for name in alternative) for alternative in serves):
                return ""
            return "none of " + ", ".join(" with ".join(alternative) for alternative in serves)
        for entry in entries(self.variant):
            if entry in names:
                shards = shards_of(folder / entry) if folder is not None and is_index(entry) else []
                absent = [name for name in shards if name not in names]
                return f"{entry}, but not {', '.join(absent[:4])}{' ...' * (len(absent) > 4)}" if absent else ""
        if self.variant is None and other_weights(names):
            return ""
        there = variants_in(names)
        kind = "no weights" if self.variant is None else f"no weights of variant {self.variant!r}"
        return kind + (f" (but of variant {', '.join(map(repr, there))}: give variant=)" if there else "")

    def chosen(self, names: Collection[str]) -> tuple[list[str], list[str]]:
        """The names to fetch of a listing: those that must be there first, and those that make the snapshot serve.

        In this order an interrupted download leaves nothing that looks whole: no vocabulary without the settings that
        say how it is read, no weights without their configuration.

        Raises:
            FileNotFoundError: the listing lacks what is needed, or several files could be the weights.
        """
        lacking = self.lacking(names)
        if lacking:
            there = ", ".join(sorted(names)[:12]) + ("" if len(names) <= 12 else f" and {len(names) - 12} more")
            raise FileNotFoundError(f"the repository has {lacking}; it has {there or 'no files'}")
        if self.filenames is not None:
            late = {name for alternative in self.essential for name in alternative}
            wanted = [name for name in self.filenames if name in names]
            return [name for name in wanted if name not in late], [name for name in wanted if name in late]
        settings = SETTINGS if SETTINGS[0] in names else (*ORIGINALS, *SETTINGS)
        first = [name for name in settings if name in names]
        then = [name for name in VOCABULARIES if name in names]
        entry = next((name for name in entries(self.variant) if name in names), None)
        if entry is None:
            entry = _only(other_weights(names))
            # The index of a TensorFlow checkpoint is nothing without its data.
            stem = entry.removesuffix(".index")
            first += [name for name in sorted(names) if name.startswith(f"{stem}.data-")]
            return first, [*then, entry]
        if is_index(entry):
            return [*first, entry], then + shards_named(entry, self.variant, names)
        return first, [*then, entry]


def _only(weights: list[str]) -> str:
    if len(weights) > 1:
        raise FileNotFoundError(
            f"there is none of {', '.join(ENTRIES)}, and several files could be the weights: {', '.join(weights[:12])}"
        )
    return weights[0]
