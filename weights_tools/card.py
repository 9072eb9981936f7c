"""The model card that a conversion writes: README.md with the hub's YAML head, and what was made from what.

Nothing in it depends on the machine or the day: names without their folders, checksums, versions, what was renamed,
changed and left out. The YAML head is the one that the hub asks for
(https://huggingface.co/docs/hub/model-cards#model-card-metadata).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from weights_tools.keys import fold_pairs
from weights_tools.regular import open_regular
from weights_tools.report import fold

BLOCK = 2**20
HEADING = "## Where these weights come from"
CONVERTED_BY = "Converted by `python -m weights_tools convert`"


@dataclass(frozen=True)
class FileFact:
    """A file of the source or of the result: name without folder, bytes, SHA-256 in hexadecimal digits."""

    name: str
    size: int
    sha256: str


@dataclass
class Provenance:
    """Where weights came from and what was done to them.

    Attributes:
        source: the name as it was given, without folders; `source_files`, `files`: what was read and written.
        container, dialect, reason: what the source was; `into`: the dialect of the result.
        renamed: (name in the source, name in the result, what happened to the numbers), for every tensor of the result.
        dropped: (name in the source, why it is not in the result).
        dtypes: (dtype in the source, dtype in the result, names in the result), where they differ.
        carried: names of files that were copied byte for byte.
        notes: anything else.
    """

    source: str
    container: str
    dialect: str
    reason: str
    into: str
    source_files: list[FileFact]
    files: list[FileFact]
    renamed: list[tuple[str, str, str]]
    dropped: list[tuple[str, str]]
    dtypes: list[tuple[str, str, list[str]]]
    carried: list[str]
    notes: list[str]


def file_fact(path: Path, name: str | None = None) -> FileFact:
    """Size and checksum of a file, read once; `name` where it will have another."""
    digest = hashlib.sha256()
    size = 0
    with open_regular(path) as file:
        while block := file.read(BLOCK):
            digest.update(block)
            size += len(block)
    return FileFact(name or path.name, size, digest.hexdigest())


def card(made: Provenance, *, model_type: str | None = None) -> str:
    """The text of README.md: the head, a title, and `provenance`.

    Args:
        made: what was done.
        model_type: of config.json ("bert", "gpt2"); a tag, if it is a plain word.
    """
    tags = [model_type] if model_type and re.fullmatch(r"[a-z0-9_-]+", model_type) else []
    head = ["---"]
    if made.into == "hf":
        head.append("library_name: transformers")
    else:
        tags.append(made.into)
    head += ["tags:", *(f"- {tag}" for tag in tags)] if tags else []
    head.append("---")
    return "\n".join([*head, "", f"# {_plain(made.source)}, converted", "", provenance(made)])


def provenance(made: Provenance) -> str:
    """The section that says where the weights came from and what was done to them: Markdown, ends with a newline."""
    rows = [("read", fact) for fact in made.source_files] + [("written", fact) for fact in made.files]
    lines = [
        HEADING,
        "",
        f"{CONVERTED_BY} (minitf {_version('minitf')}, torch {_version('torch')}).",
        "",
        "| | file | bytes | SHA-256 |",
        "|---|---|---|---|",
        *(f"| {verb} | {_code(fact.name)} | {fact.size:,} | `{fact.sha256}` |" for verb, fact in rows),
        "",
        f"- source: {_code(made.source)}, {made.container}",
        f"- names in the source: {made.dialect} ({_plain(made.reason)})",
        f"- names here: {made.into}",
    ]
    if made.carried:
        lines.append(f"- copied byte for byte: {', '.join(_code(name) for name in made.carried)}")
    changed = [pair for pair in made.renamed if pair[0] != pair[1] or pair[2]]
    lines += _section("Renamed or changed", [_change(*pair) for pair in fold_pairs(changed)])
    whys = dict.fromkeys(why for _, why in made.dropped)
    dropped = [(name, why) for why in whys for name in fold(name for name, other in made.dropped if other == why)]
    lines += _section("Left out", [f"{_code(name)}: {_plain(why)}" for name, why in dropped])
    lines += _section("Other dtypes", [f"{old} to {new}: {_all(names)}" for old, new, names in made.dtypes])
    lines += _section("Notes", [_plain(note) for note in made.notes])
    return "\n".join(lines) + "\n"


def is_ours(text: str) -> bool:
    """Whether a README.md is a card that `card` wrote, so that a later conversion may replace it."""
    return f"{HEADING}\n\n{CONVERTED_BY} (" in text


def _section(title: str, items: Sequence[str]) -> list[str]:
    return ["", f"### {title}", "", *(f"- {item}" for item in items)] if items else []


def _change(name: str, target: str, what: str) -> str:
    text = _code(name) if name else "(not in the source)"
    text += f" -> {_code(target)}" if target != name else ""
    return text + (f" ({_plain(what)})" if what else "")


def _all(names: Iterable[str]) -> str:
    return ", ".join(_code(name) for name in fold(names))


def _plain(text: str) -> str:
    """One line of text in which nothing is markup: names of files and tensors are whatever their authors chose."""
    return re.sub(r"([\\`*\[\]<>|])", r"\\\1", " ".join(text.split()))


def _code(text: str) -> str:
    """A name as code; what would end the code or the line is replaced."""
    harmless = re.sub(r"[`|\x00-\x1f\x7f]", "?", text)
    return f"`{harmless}`"


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "unknown"
