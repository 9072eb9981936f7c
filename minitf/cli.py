"""The `minitf` command: what it accepts, and how errors end.

Results go to stdout; progress, warnings and errors to stderr. Exit codes: 0 it worked, 1 the work failed (`error: ...`,
with the lines that the message has; MINITF_DEBUG=1 shows the traceback), 2 a wrong call, 130 interrupted. The commands
import what they need when they run: `--help` and `--version` must not wait for torch.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from typing import IO, NoReturn

from minitf import __version__


class UsageError(Exception):
    """A wrong call that argparse cannot see; ends like its own errors, with exit code 2."""


class Parser(argparse.ArgumentParser):
    """No abbreviations (a new option must not change what an old call means); unknown options get a suggestion.

    `missing`: setting -> why there is no option for it, which is said instead.
    """

    def __init__(
        self, command: str, description: str, epilog: str | None = None, *, missing: Mapping[str, str] | None = None
    ) -> None:
        self.missing = dict(missing or {})
        super().__init__(
            prog=f"minitf {command}".strip(),
            description=description,
            epilog=epilog,
            allow_abbrev=False,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )

    def parse_strictly(self, argv: Sequence[str]) -> argparse.Namespace:
        """Options and texts in any order. SystemExit(2) for a wrong call, SystemExit(0) after --help."""
        arguments, unknown = self.parse_known_intermixed_args(argv)
        if unknown:
            name = unknown[0].split("=")[0]
            if name.lstrip("-").replace("-", "_") in self.missing:
                self.error(f"no option {name}: {self.missing[name.lstrip('-').replace('-', '_')]}")
            near = get_close_matches(name, [option for option in self._option_string_actions if option != "-h"], n=1)
            if near:
                self.error(f"no option {name}, did you mean {near[0]}?")
            self.error(f"no option {name} (a text that begins with a dash must come after --)")
        return arguments

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {message}; `{self.prog} --help` shows what there is\n")


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of 1 or more")
    return int(text)


def run_parser() -> Parser:
    """`minitf run FOLDER TEXT ...`."""
    parser = Parser(
        "run",
        "Embed texts with a BERT checkpoint: tokens, shapes, first values, cosine similarities.",
        "examples:\n"
        '  minitf run FOLDER "A man is eating." "Someone eats."\n'
        "  minitf run FOLDER --file sentences.txt --npz vectors.npz\n"
        "  cat sentences.txt | minitf run FOLDER - --json",
    )
    parser.add_argument("folder", metavar="FOLDER", help="folder of the checkpoint, or a name in the local hub cache")
    parser.add_argument(
        "texts", metavar="TEXT", nargs="*", help='texts to embed; "-" reads them from stdin, one a line'
    )
    parser.add_argument("--file", metavar="PATH", help='file with one text a line, empty lines too; "-": stdin')
    parser.add_argument(
        "--pooling",
        choices=("mean", "cls", "none"),
        default="mean",
        help="one vector a text: mean over its tokens (default), its first token, or none",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object with every number")
    parser.add_argument("--npz", metavar="OUT", help="also write all arrays to this NumPy file")
    parser.add_argument(
        "--device", metavar="NAME", default="cpu", help="torch device: cpu (default), cuda, cuda:1, mps"
    )
    parser.add_argument(
        "--dtype",
        choices=("float32", "float64", "bfloat16", "float16"),
        help="compute in this dtype (default: the checkpoint's)",
    )
    parser.add_argument("--attn", choices=("sdpa", "eager"), help="attention function (default: sdpa)")
    parser.add_argument(
        "--batch-size", type=_positive, default=32, metavar="N", help="texts computed at once (default: 32)"
    )
    parser.add_argument(
        "--truncate",
        action=argparse.BooleanOptionalAction,
        default=False,
        help="cut texts that are too long for the model (default: they are an error)",
    )
    return parser


def info_parser() -> Parser:
    """`minitf info FOLDER`."""
    parser = Parser("info", "Architecture, parameters by part, memory and the load report of a checkpoint.")
    parser.add_argument("folder", metavar="FOLDER", help="folder of the checkpoint, or a name in the local hub cache")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    return parser


def env_parser() -> Parser:
    """`minitf env`."""
    parser = Parser("env", "Versions, threads, devices and platform: what a bug report should hold.")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    return parser


def generate_parser() -> Parser:
    """`minitf generate FOLDER [PROMPT]`."""
    from minitf import cli_generate

    return cli_generate.generate_parser()


def tokenize_parser() -> Parser:
    """`minitf tokenize FOLDER TEXT [SECOND]`."""
    from minitf import cli_tokenize

    return cli_tokenize.tokenize_parser()


def train_tokenizer_parser() -> Parser:
    """`minitf train-tokenizer FILE ... --kind KIND -o FOLDER`."""
    from minitf import cli_train_tokenizer

    return cli_train_tokenizer.train_tokenizer_parser()


def verify_parser() -> Parser:
    """`minitf verify FOLDER`."""
    from minitf import cli_verify

    return cli_verify.verify_parser()


def fetch_parser() -> Parser:
    """`minitf fetch NAME`."""
    from minitf import cli_fetch

    return cli_fetch.fetch_parser()


def names_parser() -> Parser:
    """`minitf names FOLDER`."""
    from minitf import cli_names

    return cli_names.names_parser()


def compare_parser() -> Parser:
    """`minitf compare A B`."""
    from minitf import cli_compare

    return cli_compare.compare_parser()


def diagnose_parser() -> Parser:
    """`minitf diagnose REFERENCE DUMP`."""
    from minitf import cli_diagnose

    return cli_diagnose.diagnose_parser()


def golden_parser() -> Parser:
    """`minitf golden FOLDER -o OUT`."""
    from minitf import cli_golden

    return cli_golden.golden_parser()


def _run(arguments: argparse.Namespace) -> None:
    from minitf.cli_run import run

    run(arguments)


def _generate(arguments: argparse.Namespace) -> None:
    from minitf.cli_generate import generate

    generate(arguments)


def _tokenize(arguments: argparse.Namespace) -> None:
    from minitf.cli_tokenize import tokenize

    tokenize(arguments)


def _train_tokenizer(arguments: argparse.Namespace) -> None:
    from minitf.cli_train_tokenizer import train_tokenizer

    train_tokenizer(arguments)


def _verify(arguments: argparse.Namespace) -> None:
    from minitf.cli_verify import verify

    verify(arguments)


def _fetch(arguments: argparse.Namespace) -> None:
    from minitf.cli_fetch import fetch

    fetch(arguments)


def _names(arguments: argparse.Namespace) -> None:
    from minitf.cli_names import names

    names(arguments)


def _compare(arguments: argparse.Namespace) -> None:
    from minitf.cli_compare import compare

    compare(arguments)


def _diagnose(arguments: argparse.Namespace) -> None:
    from minitf.cli_diagnose import diagnose

    diagnose(arguments)


def _golden(arguments: argparse.Namespace) -> None:
    from minitf.cli_golden import golden

    golden(arguments)


def _info(arguments: argparse.Namespace) -> None:
    from minitf.cli_info import info

    info(arguments)


def _env(arguments: argparse.Namespace) -> None:
    from minitf.cli_info import env

    env(arguments)


COMMANDS: dict[str, tuple[Callable[[], Parser], Callable[[argparse.Namespace], None], str]] = {
    "run": (run_parser, _run, "embed texts with a BERT checkpoint"),
    "generate": (generate_parser, _generate, "continue a text, with every decoding strategy"),
    "tokenize": (tokenize_parser, _tokenize, "pieces, ids, offsets and segments of a text"),
    "train-tokenizer": (train_tokenizer_parser, _train_tokenizer, "learn a vocabulary from text files"),
    "fetch": (fetch_parser, _fetch, "download a model's files, or print their addresses"),
    "info": (info_parser, _info, "architecture, parameters, memory and load report of a checkpoint"),
    "names": (names_parser, _names, "what can be captured or patched in a checkpoint, with shapes"),
    "verify": (verify_parser, _verify, "a checkpoint in minitf beside the installed transformers"),
    "compare": (compare_parser, _compare, "where a port first diverges from the reference"),
    "diagnose": (diagnose_parser, _diagnose, "which known mistake explains a port's numbers"),
    "golden": (golden_parser, _golden, "what a checkpoint computes, step by step, as files to test a port against"),
    "env": (env_parser, _env, "versions, threads, devices and platform"),
}


def _top_parser() -> Parser:
    longest = max(map(len, COMMANDS))
    listed = "\n".join(f"  {name:<{longest}}  {summary}" for name, (_, _, summary) in COMMANDS.items())
    parser = Parser(
        "",
        "BERT and GPT-2 written out by hand in PyTorch.",
        f"commands:\n{listed}\n\n`minitf COMMAND --help` explains a command.",
    )
    parser.add_argument("--version", action="version", version=f"minitf {__version__}")
    parser.usage = "minitf COMMAND [options]"
    return parser


def _parse(argv: Sequence[str]) -> tuple[Callable[[argparse.Namespace], None], argparse.Namespace]:
    if argv and argv[0] in COMMANDS:
        make_parser, work, _ = COMMANDS[argv[0]]
        parser = make_parser()
        arguments = parser.parse_strictly(argv[1:])
        if argv[0] == "run" and not arguments.texts and arguments.file is None:
            parser.error("no text: give one or more, or --file PATH, or - for stdin")
        return work, arguments
    parser = _top_parser()
    if not argv:
        parser.error("no command")
    if not argv[0].startswith("-"):
        near = get_close_matches(argv[0], COMMANDS, n=1)
        hint = f", did you mean {near[0]}?" if near else ""
        parser.error(f"no command {argv[0]}{hint}")
    parser.parse_strictly(argv)
    return parser.error("the command comes first: minitf COMMAND [options]")


@contextlib.contextmanager
def _warnings_on_stderr() -> Iterator[None]:
    handler = logging.StreamHandler(sys.stderr)
    handler.setLevel(logging.WARNING)
    handler.setFormatter(logging.Formatter("warning: %(message)s"))
    loggers = [logging.getLogger(name) for name in ("minitf", "weights_tools")]
    for logger in loggers:
        logger.addHandler(handler)
    try:
        yield
    finally:
        for logger in loggers:
            logger.removeHandler(handler)


def _leave_stdout_alone(stream: IO[str]) -> None:
    # The reader (`| head`) has seen enough. Python would complain once more when it flushes stdout at exit.
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _as_lines(text: str) -> str:
    """`text` without blanks at its ends and without empty lines; what is left keeps its breaks and indents."""
    return "\n".join(line.rstrip() for line in text.strip().splitlines() if line.strip())


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; `argv` without the program's name, None = the process's own."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a terminal that cannot show a character gets its escape, not a traceback
            stream.reconfigure(errors="backslashreplace")
    try:
        work, arguments = _parse(sys.argv[1:] if argv is None else list(argv))
        with _warnings_on_stderr():
            work(arguments)
        sys.stdout.flush()
    except SystemExit as stop:  # argparse has printed the help or the mistake
        return stop.code if isinstance(stop.code, int) else 0
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        _leave_stdout_alone(sys.stdout)
        return 0
    except Exception as error:
        if os.environ.get("MINITF_DEBUG", "") not in ("", "0"):
            raise
        message = _as_lines(str(error))
        if isinstance(error, OSError) and error.strerror and error.filename is not None:
            message = f"{error.filename}: {error.strerror}"
        known = isinstance(error, OSError | ValueError | TypeError | RuntimeError | UsageError)
        shown = message if known and message else f"{type(error).__name__}: {message}"
        with contextlib.suppress(BrokenPipeError):
            print(f"error: {shown}", file=sys.stderr)
        return 2 if isinstance(error, UsageError) else 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
