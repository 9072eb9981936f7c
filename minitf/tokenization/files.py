"""The files of a tokenizer: finding them, reading them, checking them, writing them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tokenizers import AddedToken

from minitf.tokenization.options import added_token, read_json
from weights_tools import regular
from weights_tools.regular import is_there

BACKEND_FILE = "tokenizer.json"
CONFIG_FILE = "config.json"
SETTINGS_FILES = ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")
MAX_FILE_BYTES = 256 * 2**20  # the largest published tokenizer.json has about 40 MB


def find_files(folder: Path, vocabulary_files: Sequence[str]) -> list[Path]:
    """[tokenizer.json], or else the vocabulary files in `folder`; FileNotFoundError that says what was looked for."""
    # `is_there` also for a pipe or a directory: reading it says what it is.
    if is_there(folder / BACKEND_FILE):
        return [folder / BACKEND_FILE]
    if all(is_there(folder / name) for name in vocabulary_files):
        return [folder / name for name in vocabulary_files]
    held = sorted(entry.name for entry in folder.iterdir())
    listing = ", ".join(held[:8]) + (f" and {len(held) - 8} more" if len(held) > 8 else "") if held else "nothing"
    classic = " with ".join(vocabulary_files)
    raise FileNotFoundError(
        f"no tokenizer in {folder}: looked for {BACKEND_FILE} and {classic}, the folder holds {listing}. "
        f"Copy the checkpoint's {BACKEND_FILE} or {classic} there, or give the path of a vocabulary file"
    )


def read_text(path: Path) -> str:
    """The text of a regular UTF-8 file of sane size, line ends unified; ValueError that names the file otherwise."""
    text = regular.read_text(
        path, MAX_FILE_BYTES, expected="a vocabulary (UTF-8, one piece a line) or a tokenizer.json"
    )
    if text.startswith("\ufeff"):
        raise ValueError(f"{path} begins with a byte-order mark, which would become part of its first piece: remove it")
    return text


def read_vocabulary(path: Path) -> dict[str, int]:
    """Piece to id (its line, counted from 0) of a vocab.txt; ValueError if it is empty or a piece stands twice."""
    # Not splitlines(): bert-base-chinese has U+2028 as a piece. Blanks at the end go, as in the original and
    # transformers (that piece becomes "", which no text can reach either way).
    lines = [line.rstrip() for line in read_text(path).split("\n")]
    if lines[-1] == "":
        lines.pop()
    if not lines:
        raise ValueError(f"{path} is empty; expected a vocabulary with one piece a line")
    vocabulary: dict[str, int] = {}
    for number, piece in enumerate(lines):
        first = vocabulary.setdefault(piece, number)
        if first != number:
            raise ValueError(
                f"{path}: {piece!r} stands on line {first + 1} and again on line {number + 1}; every piece needs one id"
            )
    return vocabulary


def read_json_vocabulary(path: Path) -> dict[str, int]:
    """Piece to id of a vocab.json; ValueError for anything but an object of whole numbers, and for doubled pieces."""
    try:
        content = json.loads(read_text(path), object_pairs_hook=regular.unique_keys)
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not valid JSON ({error})") from None
    except (ValueError, RecursionError) as error:
        if isinstance(error, regular.WeightsError) or str(path) in str(error):
            raise
        raise ValueError(f"{path}: {error}") from None
    if not isinstance(content, dict) or not content:
        raise ValueError(f"{path} holds no vocabulary; expected a JSON object from piece to id")
    for piece, number in content.items():
        if not isinstance(number, int) or isinstance(number, bool):
            raise ValueError(f"{path}: the id of {piece!r} is {number!r}, expected a whole number")
    return content


def read_merges(path: Path) -> list[tuple[str, str]]:
    """The pairs of a merges.txt, in order; ValueError for a line that is no pair. A first line "#version" is none."""
    lines = read_text(path).split("\n")
    merges = []
    for number, line in enumerate(lines, start=1):
        if not line or (number == 1 and line.startswith("#version")):
            continue
        parts = line.split(" ")
        if len(parts) != 2 or not all(parts):
            raise ValueError(f"{path}: line {number} is {line[:80]!r}; expected two pieces with one blank between")
        merges.append((parts[0], parts[1]))
    return merges


def check_ids(vocabulary: Mapping[str, int], origin: str) -> None:
    """ValueError unless the ids are 0, 1, ... without gaps, one for each piece; it names the first that is wrong."""
    if sorted(vocabulary.values()) == list(range(len(vocabulary))):
        return
    pieces: dict[int, str] = {}
    for piece, number in vocabulary.items():
        if pieces.setdefault(number, piece) != piece:
            problem = f"{pieces[number]!r} and {piece!r} both have the id {number}"
            break
    else:
        missing = next(number for number in range(len(vocabulary)) if number not in pieces)
        problem = f"no piece has the id {missing}"
    raise ValueError(
        f"{origin}: ids must be 0 .. {len(vocabulary) - 1}, one each, as there are {len(vocabulary)} pieces; {problem}"
    )


def check_gap(missing: int | None, count: int, origin: str) -> None:
    """ValueError that names the first id without a piece, if there is one."""
    if missing is not None:
        raise ValueError(
            f"{origin}: no piece has the id {missing} though the vocabulary has {count} pieces; ids must run without "
            "gaps, and no piece may stand twice"
        )


def check_merges(merges: Sequence[tuple[str, str]], vocabulary: Mapping[str, int], origin: str) -> None:
    """ValueError for a merge whose parts or whole are no pieces of the vocabulary, and for one that stands twice."""
    seen: dict[tuple[str, str], int] = {}
    for number, pair in enumerate(merges):
        for piece in (*pair, "".join(pair)):
            if piece not in vocabulary:
                raise ValueError(
                    f"{origin}: merge {number} ({' '.join(pair)}) names {piece!r}, which is not in the vocabulary; do "
                    "the two files belong together?"
                )
        if seen.setdefault(pair, number) != number:
            raise ValueError(f"{origin}: merge {number} ({' '.join(pair)}) stands already at {seen[pair]}")


def parse_backend(path: Path, text: str) -> dict[str, Any]:
    """The content of a tokenizer.json; ValueError if it is none."""
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not a tokenizer.json ({error})") from None
    if not isinstance(content, dict) or not isinstance(content.get("model"), dict):
        raise ValueError(f"{path} is not a tokenizer.json (it has no 'model')")
    if not isinstance(content["model"].get("vocab"), dict | list):  # a list: of pairs, in a Unigram model
        raise ValueError(f"{path} is not a tokenizer.json (its model has no 'vocab')")
    return content


def stated_tokens(folder: Path, config: Mapping[str, Any], *, from_vocabulary: bool) -> dict[int, AddedToken]:
    """Id to token: what added_tokens_decoder and, beside a vocabulary file, added_tokens.json state.

    ValueError for entries of another form. (A tokenizer.json has its added tokens inside.)
    """
    stated: dict[int, AddedToken] = {}
    for key, value in (config.get("added_tokens_decoder") or {}).items():
        if not (key.isdecimal() and isinstance(value, Mapping) and isinstance(value.get("content"), str)):
            raise ValueError(f"{folder}: added_tokens_decoder has {key!r}: {value!r}; expected an id and its 'content'")
        stated[int(key)] = added_token(value, special=False)
    if from_vocabulary:
        path = folder / "added_tokens.json"
        for content, number in read_json(path).items():
            if not isinstance(number, int) or isinstance(number, bool):
                raise ValueError(f"{path}: the id of {content!r} is {number!r}, expected a whole number")
            stated.setdefault(number, added_token(content, special=False))
    return dict(sorted(stated.items()))


def write_all(folder: Path, texts: Mapping[str, str]) -> tuple[str, ...]:
    """Write files into a folder, which is made if need be, all or nothing. Returns their paths."""
    from weights_tools.transaction import write_together

    if folder.exists() and not folder.is_dir():
        raise NotADirectoryError(f"{folder} is a file; expected a folder to save the tokenizer in")
    write_together(folder, {name: text.encode("utf-8") for name, text in texts.items()})
    return tuple(str(folder / name) for name in texts)
