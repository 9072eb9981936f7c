"""From files to a `tokenizers.Tokenizer`: finding them, reading them, and checking the vocabulary."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, normalizers, pre_tokenizers, processors
from tokenizers.models import WordPiece

from minitf.tokenization.options import read_json
from weights_tools import regular
from weights_tools.regular import is_there

BACKEND_FILE, VOCABULARY_FILE = "tokenizer.json", "vocab.txt"
TOKENIZER_FILES = (
    BACKEND_FILE,
    VOCABULARY_FILE,
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
)
MAX_FILE_BYTES = 256 * 2**20  # the largest published tokenizer.json has about 40 MB


def find_file(folder: Path) -> Path:
    """tokenizer.json or else vocab.txt in `folder`; FileNotFoundError that says what was looked for."""
    for name in (BACKEND_FILE, VOCABULARY_FILE):
        if is_there(folder / name):  # a pipe or a directory is there too, and reading it says what it is
            return folder / name
    held = sorted(entry.name for entry in folder.iterdir())
    listing = ", ".join(held[:8]) + (f" and {len(held) - 8} more" if len(held) > 8 else "") if held else "nothing"
    raise FileNotFoundError(
        f"no tokenizer in {folder}: looked for {BACKEND_FILE} and {VOCABULARY_FILE}, the folder holds {listing}. "
        f"Copy the checkpoint's {BACKEND_FILE} or {VOCABULARY_FILE} there, or give the path of a vocabulary file"
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
    """Piece to id (its line, counted from 0) of a vocabulary file; ValueError if it is empty or a piece stands
    twice.
    """
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


def wordpiece_backend(vocabulary: Mapping[str, int], options: Mapping[str, Any]) -> Tokenizer:
    """BERT's pipeline around `vocabulary`: clean, lower-case, split at punctuation and CJK, then longest match
    first.
    """
    if options["unk_token"] is None:
        raise ValueError("unk_token is None; WordPiece needs a token for words that it cannot spell, such as '[UNK]'")
    backend = Tokenizer(WordPiece(dict(vocabulary), unk_token=options["unk_token"]))
    backend.normalizer = bert_normalizer(options)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece(prefix="##")
    return backend


def bert_normalizer(options: Mapping[str, Any]) -> normalizers.BertNormalizer:
    """Normalizer for `do_lower_case`, `strip_accents` (None: strip when lower-casing) and `tokenize_chinese_chars`."""
    return normalizers.BertNormalizer(
        clean_text=True,
        handle_chinese_chars=options["tokenize_chinese_chars"],
        strip_accents=options["strip_accents"],
        lowercase=options["do_lower_case"],
    )


def bert_template(cls: tuple[str, int] | None, sep: tuple[str, int] | None) -> processors.TemplateProcessing:
    """`[CLS] A [SEP]` with token type 0, and `[CLS] A [SEP] B [SEP]` with 1 from B on; a token that is None is left
    out.
    """
    start = [f"{cls[0]}:0"] if cls else []
    end = [f"{sep[0]}:{{}}"] if sep else []
    first = [*start, "$A:0", *[part.format(0) for part in end]]
    second = ["$B:1", *[part.format(1) for part in end]]
    return processors.TemplateProcessing(
        single=first, pair=[*first, *second], special_tokens=[token for token in (cls, sep) if token]
    )


def read_backend(path: Path) -> Tokenizer:
    """The pipeline of a tokenizer.json, without the padding and truncation stored in it.

    Published files carry settings of somebody's last call (the MiniLM checkpoint: truncate to 128 and pad to 128).
    Acting on them would change every result without a word, so they are reset: padding and truncation come from the
    call only. Raises ValueError for a file that is not one, for a model other than WordPiece or WordLevel, and for ids
    with gaps.
    """
    text = read_text(path)
    try:
        backend = Tokenizer.from_str(text)
    except Exception as error:  # the library raises plain Exception
        raise ValueError(f"{path} is not a tokenizer.json ({error})") from None
    backend.no_truncation()
    backend.no_padding()
    kind = type(backend.model).__name__
    if kind not in ("WordPiece", "WordLevel"):
        raise ValueError(f"{path} holds a {kind} model; BertTokenizer reads WordPiece and WordLevel")
    missing = [number for number in range(backend.get_vocab_size()) if backend.id_to_token(number) is None]
    if missing:
        raise ValueError(
            f"{path}: no piece has the id {missing[0]} though the vocabulary has {backend.get_vocab_size()} pieces; "
            "ids must run without gaps, and no piece may stand twice"
        )
    return backend


def add_tokens(backend: Tokenizer, folder: Path, config: Mapping[str, Any], *, from_vocabulary: bool) -> list[str]:
    """Append the added tokens that `folder` states: added_tokens_decoder, added_tokens.json, additional_special_tokens.

    Returns the additional special tokens. Raises ValueError when a token's stated id is not the one it would get.
    """
    stated: dict[int, AddedToken] = {}
    for key, value in (config.get("added_tokens_decoder") or {}).items():
        if not (key.isdecimal() and isinstance(value, Mapping) and isinstance(value.get("content"), str)):
            raise ValueError(f"{folder}: added_tokens_decoder has {key!r}: {value!r}; expected an id and its 'content'")
        flags = {name: bool(value.get(name, False)) for name in ("single_word", "lstrip", "rstrip", "special")}
        normalized = bool(value.get("normalized", not flags["special"]))
        stated[int(key)] = AddedToken(value["content"], normalized=normalized, **flags)
    if from_vocabulary:  # tokenizer.json has its added tokens inside
        for content, number in read_json(folder / "added_tokens.json").items():
            stated.setdefault(int(number), AddedToken(content, normalized=True))
    for number, token in sorted(stated.items()):
        # For a piece of the vocabulary this only sets the flags (special: never split, skipped by decode).
        (backend.add_special_tokens if token.special else backend.add_tokens)([token])
        actual = backend.token_to_id(token.content)
        if actual != number:
            raise ValueError(
                f"{folder}: added token {token.content!r} is stated with id {number}, but would get id {actual}"
            )
    stated_extra = config.get("extra_special_tokens") or config.get("additional_special_tokens") or ()
    values = stated_extra.values() if isinstance(stated_extra, Mapping) else stated_extra
    extra = [str(value["content"] if isinstance(value, Mapping) else value) for value in values]
    backend.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in extra])
    return extra
