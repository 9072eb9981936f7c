"""`minitf train-tokenizer`: a vocabulary learnt from text files, saved as the folder of a tokenizer."""

from __future__ import annotations

import argparse
import os
import sys
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from minitf import __version__
from minitf.cli import Parser, UsageError, _positive
from minitf.cli_output import above_each_other, shortened, terminal_columns, to_json

if TYPE_CHECKING:
    from minitf.tokenization import Tokenizer
    from minitf.tokenization.training import TextFiles

KINDS = {"wordpiece": 30522, "bpe": 50257}  # and the size of the published vocabulary, which is the default
WITHOUT_EFFECT = {  # option -> (the kind that does not know it, why)
    "lowercase": ("bpe", "byte-level BPE keeps every byte"),
    "strip_accents": ("bpe", "byte-level BPE keeps every byte"),
    "chinese_chars": ("bpe", "byte-level BPE keeps every byte"),
    "limit_alphabet": ("bpe", "its alphabet is the 256 bytes"),
    "prefix_space": ("wordpiece", "WordPiece drops blanks"),
}
TOKENIZER_FILES = (
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
    *("vocab.txt", "vocab.json", "merges.txt"),
)
SAMPLE_LINES = 1000
SHOWN_TOKENS = 24


def train_tokenizer_parser() -> Parser:
    """`minitf train-tokenizer FILE ... --kind KIND -o FOLDER`."""
    parser = Parser(
        "train-tokenizer",
        "Learn a vocabulary from UTF-8 text files: WordPiece for BERT, byte-level BPE for GPT-2. The folder opens in\n"
        "minitf and in transformers. The same files and options give the same vocabulary, always.",
        "examples:\n"
        "  minitf train-tokenizer corpus.txt --kind wordpiece --vocab-size 8000 -o my-bert\n"
        "  minitf train-tokenizer a.txt b.txt --kind bpe --vocab-size 16000 --max-length 1024 -o my-gpt2",
    )
    parser.usage = "minitf train-tokenizer FILE [FILE ...] --kind KIND -o FOLDER [options]"
    add = parser.add_argument
    add("files", metavar="FILE", nargs="+", help="text files, one text a line")
    add("--kind", choices=tuple(KINDS), required=True, help="wordpiece (as BERT's) or bpe (byte-level, as GPT-2's)")
    add("-o", "--output", metavar="FOLDER", required=True, help="where to save; made if it is not there")
    add("--overwrite", action="store_true", help="replace a tokenizer that the folder holds (default: an error)")
    sizes = ", ".join(f"{size} for {kind}" for kind, size in KINDS.items())
    add("--vocab-size", metavar="N", type=_positive, help=f"pieces, special tokens included (default: {sizes})")
    add("--min-frequency", metavar="N", type=_positive, default=2, help="join pairs that stand this often (default: 2)")
    add("--max-length", metavar="N", type=_positive, help="longest text of the model, written to tokenizer_config.json")
    either = argparse.BooleanOptionalAction
    add("--lowercase", action=either, help="wordpiece: lower-case the text (default: yes)")
    add("--strip-accents", action=either, help="wordpiece: é becomes e (default: as --lowercase)")
    add("--chinese-chars", action=either, help="wordpiece: each Chinese character is a word (default: yes)")
    add("--limit-alphabet", metavar="N", type=_positive, help="wordpiece: keep only the N most frequent characters")
    add("--prefix-space", action=either, help="bpe: the first word counts as one behind a blank (default: no)")
    add("--json", action="store_true", help="print one JSON object")
    return parser


def train_tokenizer(arguments: argparse.Namespace) -> None:
    """Carry out `minitf train-tokenizer`."""
    for name, (kind, why) in WITHOUT_EFFECT.items():
        if arguments.kind == kind and getattr(arguments, name) is not None:
            option = "--" + name.replace("_", "-")
            raise UsageError(f"{option} has no effect with --kind {kind}: {why}; leave it out")
    folder = Path(arguments.output)
    check_output(folder, overwrite=arguments.overwrite)
    from minitf.tokenization.training import TextFiles

    texts = TextFiles(arguments.files)
    tokenizer = _trained(texts, arguments)
    if arguments.max_length is not None:
        tokenizer.model_max_length = arguments.max_length
    written = [Path(path) for path in tokenizer.save_pretrained(folder)]
    for name in TOKENIZER_FILES:  # what belonged to the tokenizer that was there
        if folder / name not in written:
            (folder / name).unlink(missing_ok=True)
    facts = _facts(tokenizer, texts, arguments, written)
    print(to_json(facts) if arguments.json else "\n".join(_lines(facts, tokenizer, texts)))


def check_output(folder: Path, *, overwrite: bool) -> None:
    """Fail before the work, not after it.

    Raises:
        FileExistsError: the folder holds a tokenizer, and it is not to be overwritten. NotADirectoryError,
        PermissionError: no folder can be there.
    """
    there = next(place for place in (folder.absolute(), *folder.absolute().parents) if os.path.lexists(place))
    if not there.is_dir():
        raise NotADirectoryError(f"--output {folder}: {there} is not a folder")
    if not os.access(there, os.W_OK):
        raise PermissionError(f"--output {folder}: no permission to write in {there}")
    held = [name for name in TOKENIZER_FILES if os.path.lexists(folder / name)]
    if held and not overwrite:
        raise FileExistsError(
            f"--output {folder} holds a tokenizer ({', '.join(held)}): give another folder, or --overwrite it"
        )


def _trained(texts: TextFiles, arguments: argparse.Namespace) -> Tokenizer:
    from minitf.tokenization.training import train_bpe, train_wordpiece

    options: dict[str, Any] = {
        "vocab_size": arguments.vocab_size or KINDS[arguments.kind],
        "min_frequency": arguments.min_frequency,
        "show_progress": sys.stderr.isatty(),
    }
    if arguments.kind == "bpe":
        return train_bpe(texts, add_prefix_space=bool(arguments.prefix_space), **options)
    return train_wordpiece(
        texts,
        do_lower_case=arguments.lowercase is not False,
        strip_accents=arguments.strip_accents,
        tokenize_chinese_chars=arguments.chinese_chars is not False,
        limit_alphabet=arguments.limit_alphabet,
        **options,
    )


def _facts(
    tokenizer: Tokenizer, texts: TextFiles, arguments: argparse.Namespace, written: list[Path]
) -> dict[str, Any]:
    """What --json prints. The sample are the first lines of the text: how well the vocabulary fits them."""
    lines = list(islice(texts, SAMPLE_LINES))
    rows = tokenizer(lines, add_special_tokens=False, verbose=False)["input_ids"] if lines else []
    unknown = tokenizer.unk_token_id if arguments.kind == "wordpiece" else None
    return {
        "minitf": __version__,
        "kind": arguments.kind,
        "class": type(tokenizer).__name__,
        "vocab_size": len(tokenizer),
        "special_tokens": dict(zip(tokenizer.all_special_tokens, tokenizer.all_special_ids, strict=True)),
        "files": [str(path) for path in written],
        "sample": {
            "lines": len(lines),
            "characters": sum(map(len, lines)),
            "tokens": sum(map(len, rows)),
            "unknown": sum(row.count(unknown) for row in rows),
        },
    }


def _lines(facts: dict[str, Any], tokenizer: Tokenizer, texts: TextFiles) -> list[str]:
    sample = facts["sample"]
    specials = ", ".join(f"{token} {number}" for token, number in facts["special_tokens"].items())
    rate = sample["characters"] / max(sample["tokens"], 1)
    first = next(text.rstrip("\n") for text in texts if text.strip())
    ids = tokenizer(first, verbose=False)["input_ids"]
    shown = [shortened(token, 24) for token in tokenizer.convert_ids_to_tokens(ids[:SHOWN_TOKENS])]
    more = f", the first {SHOWN_TOKENS} shown" if len(ids) > SHOWN_TOKENS else ""
    label = f"first text ({len(ids)} tokens{more}): "
    return [
        f"{facts['class']}: {facts['vocab_size']} pieces; special: {specials}",
        f"first {sample['lines']} lines: {sample['tokens']} tokens, {rate:.2f} characters a token, "
        f"{sample['unknown']} unknown",
        "",
        label + shortened(first, max(terminal_columns() - len(label), 20)),
        *above_each_other(shown, [str(number) for number in ids[:SHOWN_TOKENS]], names=("pieces", "ids"), indent="  "),
        "",
        f"wrote {', '.join(facts['files'])}",
    ]
