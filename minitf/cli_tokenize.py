"""`minitf tokenize`: what a tokenizer makes of a text, as a table."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from minitf import __version__
from minitf.architectures import ARCHITECTURES
from minitf.cli import Parser, UsageError, _positive
from minitf.cli_output import shortened, table, terminal_columns, to_json
from minitf.cli_run import _lines as lines_of

if TYPE_CHECKING:
    from minitf.tokenization import Tokenizer

PIECE_COLUMNS = 28
# ANSI: words alternate between two colours, so that the pieces of one word stand together.
WORDS, SPECIAL, UNKNOWN, OFF = ("\x1b[36m", "\x1b[33m"), "\x1b[2m", "\x1b[31m", "\x1b[0m"
HEADER = ("", "piece", "id", "offsets", "text", "segment", "")


@dataclass(frozen=True)
class Token:
    """One row: the piece, its id, the characters [start, end) of its text, token type, and what it is.

    text: these characters; None for a token that the tokenizer put there. word: the number of the word it belongs to.
    kind: "special" (also one that the text itself holds), "unknown" to the vocabulary, or "".
    """

    piece: str
    id: int
    start: int
    end: int
    text: str | None
    segment: int
    word: int | None
    kind: str


def tokenize_parser() -> Parser:
    """`minitf tokenize FOLDER TEXT [SECOND]`."""
    parser = Parser(
        "tokenize",
        "Pieces, ids, places in the text and segments, as the tokenizer of a checkpoint makes them. Needs no weights.",
        "examples:\n"
        '  minitf tokenize FOLDER "Where is it?" "It is here."\n'
        "  minitf tokenize FOLDER --slow --no-special-tokens unbelievable\n"
        "  cat sentences.txt | minitf tokenize FOLDER - --json",
    )
    parser.usage = "minitf tokenize FOLDER TEXT [SECOND] [options]"
    add = parser.add_argument
    add("folder", metavar="FOLDER", help="folder of a checkpoint or tokenizer, or a name in the local hub cache")
    add("texts", metavar="TEXT", nargs="*", help='a text, or the two of a pair; "-" reads texts from stdin, one a line')
    add("--file", metavar="PATH", help='file with one text a line, empty lines too; "-": stdin')
    add("--json", action="store_true", help="print one JSON object")
    add(
        "--special-tokens",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="put the special tokens around the text (default: yes)",
    )
    add("--max-length", metavar="N", type=_positive, help="cut to N tokens, special ones included")
    add("--slow", action="store_true", help="the tokenizer in plain Python instead of the one on `tokenizers`")
    add("--type", choices=tuple(ARCHITECTURES), help="which tokenizer it is, where the folder does not say so")
    return parser


def tokenize(arguments: argparse.Namespace) -> None:
    """Carry out `minitf tokenize`."""
    inputs = read_inputs(arguments)
    tokenizer = load_tokenizer(arguments)
    results = [
        (pair, *tokens_of(tokenizer, pair, special=arguments.special_tokens, max_length=arguments.max_length))
        for pair in inputs
    ]
    if arguments.json:
        print(to_json(as_json(tokenizer, arguments.folder, results)))
        return
    coloured = sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    lines = [f"{type(tokenizer).__name__}: {len(tokenizer)} pieces"]
    for pair, tokens, cut in results:
        lines += ["", *listing(pair, tokens, cut, coloured=coloured)]
    print("\n".join(lines))


def read_inputs(arguments: argparse.Namespace) -> list[tuple[str, str | None]]:
    """(text, second text or None) of the command line, or each line of stdin or --file as a text of its own.

    Raises:
        UsageError: more than two texts; texts beside a source of lines. ValueError: a line that is not UTF-8; no line.
    """
    texts = arguments.texts
    source = arguments.file if arguments.file is not None else "-" if texts == ["-"] else None
    if source is None:
        if not texts:
            raise UsageError("no text: give one, or two for a pair, or --file PATH, or - for stdin")
        if len(texts) > 2:
            raise UsageError(f"{len(texts)} texts: expected one, or two for a pair; several texts come by --file or -")
        if "-" in texts:
            raise UsageError('"-" reads whole texts from stdin and cannot be one of a pair')
        return [(texts[0], texts[1] if len(texts) == 2 else None)]
    if texts and arguments.file is not None:
        raise UsageError("texts and --file: give one of them")
    if source == "-":
        lines = lines_of(sys.stdin.buffer, "stdin")
    else:
        with Path(source).open("rb") as stream:
            lines = lines_of(stream, source)
    if not lines:
        raise ValueError("no text: the input has no line")
    return [(line, None) for line in lines]


def load_tokenizer(arguments: argparse.Namespace) -> Tokenizer:
    """The tokenizer of a folder, or of a name in the local cache. Never asks the network."""
    from minitf.tokenization.auto import AutoTokenizer

    try:
        tokenizer: Tokenizer = AutoTokenizer.from_pretrained(
            arguments.folder, use_fast=not arguments.slow, tokenizer_type=arguments.type, local_files_only=True
        )
    except FileNotFoundError as error:
        if "Tried" not in str(error).splitlines()[0]:
            raise
        raise FileNotFoundError(
            f"{arguments.folder!r}: no such folder, and no tokenizer of that name in the local hub cache"
        ) from error
    return tokenizer


def tokens_of(
    tokenizer: Tokenizer, pair: tuple[str, str | None], *, special: bool, max_length: int | None
) -> tuple[list[Token], int]:
    """(the tokens of a text or pair, how many more there would be without `max_length`)."""
    options: dict[str, Any] = {} if max_length is None else {"truncation": True, "max_length": max_length}
    encoding = tokenizer(
        *[text for text in pair if text is not None],
        add_special_tokens=special,
        return_offsets_mapping=True,
        return_token_type_ids=True,
        verbose=max_length is None,
        **options,
    )
    cut = 0
    if max_length is not None:
        everything = tokenizer(*[text for text in pair if text is not None], add_special_tokens=special, verbose=False)
        cut = len(everything["input_ids"]) - len(encoding["input_ids"])
    return list(_tokens(tokenizer, pair, encoding)), cut


def _tokens(tokenizer: Tokenizer, pair: tuple[str, str | None], encoding: Any) -> Iterator[Token]:
    pieces = tokenizer.convert_ids_to_tokens(encoding["input_ids"])
    specials = set(tokenizer.all_special_ids)
    sequences, words = encoding.sequence_ids(), encoding.word_ids()
    for place, number in enumerate(encoding["input_ids"]):
        start, end = encoding["offset_mapping"][place]
        text = None if sequences[place] is None else pair[sequences[place]]
        kind = "special" if text is None or number in specials else ""
        if text is not None and number == tokenizer.unk_token_id and pieces[place] != text[start:end]:
            kind = "unknown"
        yield Token(
            piece=pieces[place],
            id=number,
            start=start,
            end=end,
            text=None if text is None else text[start:end],
            segment=encoding["token_type_ids"][place],
            word=words[place],
            kind=kind,
        )


def as_json(
    tokenizer: Tokenizer, folder: str, results: list[tuple[tuple[str, str | None], list[Token], int]]
) -> dict[str, Any]:
    """The object that --json prints."""
    return {
        "minitf": __version__,
        "tokenizer": {"folder": folder, "class": type(tokenizer).__name__, "vocab_size": len(tokenizer)},
        "texts": [
            {"text": first, "text_pair": second, "left_out": cut, "tokens": [vars(token) for token in tokens]}
            for (first, second), tokens, cut in results
        ],
    }


def listing(pair: tuple[str, str | None], tokens: list[Token], cut: int, *, coloured: bool) -> list[str]:
    """The lines for one text or pair: the text, counts, and a table with a row for each token."""
    unknown = sum(token.kind == "unknown" for token in tokens)
    special = sum(token.kind == "special" for token in tokens)
    counts = [f"{len(tokens)} tokens", f"{special} special"]
    counts += [f"{unknown} unknown to the vocabulary"] if unknown else []
    counts += [f"{cut} left out"] if cut else []
    names = ("text: ", "second: ")
    lines = [
        name + shortened(text, max(terminal_columns() - len(name), 20))
        for name, text in zip(names, pair, strict=True)
        if text is not None
    ]
    lines.append(", ".join(counts))
    rows = [HEADER, *(_row(place, token) for place, token in enumerate(tokens))]
    printed = table(rows, right=[True, False, True, True, False, True, False])
    colours = ["", *_colours(tokens)] if coloured else [""] * len(printed)
    lines += [f"{colour}{line}{OFF}" if colour else line for colour, line in zip(colours, printed, strict=True)]
    return lines


def _row(place: int, token: Token) -> tuple[str, ...]:
    offsets = "" if token.text is None else f"{token.start}:{token.end}"
    text = "" if token.text is None else shortened(f"|{token.text}|", PIECE_COLUMNS)  # a blank at its edge is seen
    return (
        str(place),
        shortened(token.piece, PIECE_COLUMNS),
        str(token.id),
        offsets,
        text,
        str(token.segment),
        token.kind,
    )


def _colours(tokens: list[Token]) -> Iterator[str]:
    """A colour for each token: special ones dim, unknown ones red, words in turns of two."""
    turn, before = 0, None
    for token in tokens:
        word = (token.segment, token.word)
        if token.kind == "special":
            yield SPECIAL
        elif token.kind == "unknown":
            yield UNKNOWN
        else:
            turn += word != before and before is not None
            before = word
            yield WORDS[turn % 2]
