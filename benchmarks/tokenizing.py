"""Tokenizing 10,000 sentences: minitf's fast classes against transformers' fast classes, and the Python forms.

The sentences are those of Python's own documentation (`pydoc_data.topics`), the vocabularies the real one of MiniLM
(WordPiece) and a byte-level one that is trained on the same text. All contenders give the same ids, which is asserted.
The Python forms are compared with the slow classes of transformers 4.49.0, which run in an environment of their own
(`--old-python`, see tests/goldens/requirements.txt); a fresh tokenizer each turn, so that no words are remembered.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from common import Report, interleaved, minilm_folder, parser, ratio

WORKER = """
import json, sys, transformers
for line in sys.stdin:
    name, folder, file = json.loads(line)
    with open(file, encoding="utf-8") as sentences:
        texts = json.load(sentences)
    print("DONE " + json.dumps(getattr(transformers, name).from_pretrained(folder)(texts)["input_ids"]), flush=True)
"""


def main() -> int:
    options = parser(__doc__ or "", repeats=7)
    options.add_argument("--sentences", type=int, default=10_000, help="how many (default %(default)s)")
    options.add_argument(
        "--old-python",
        type=Path,
        default=Path(".venv-goldens/bin/python"),
        help="an interpreter with transformers 4.49.0 (default %(default)s, which .ci/run makes)",
    )
    arguments = options.parse_args()
    texts = sentences(arguments.sentences)
    settings = {"threads": arguments.threads, "repeats": arguments.repeats, "sentences": len(texts)}
    report = Report("tokenizing a batch, CPU", settings)
    with tempfile.TemporaryDirectory() as folder:
        bytelevel = trained(texts, Path(folder) / "bytelevel")
        for name, where in (("BertTokenizer", minilm_folder()), ("GPT2Tokenizer", bytelevel)):
            fast(report, name, where, texts, arguments)
            slow(report, name, where, texts, arguments, Path(folder) / "sentences.json")
    return report.finish(arguments)


def sentences(count: int) -> list[str]:
    """So many sentences of Python's documentation, from the beginning again if it has fewer."""
    from pydoc_data.topics import topics

    text = " ".join(topics[name] for name in sorted(topics))
    found = [sentence.strip() for sentence in re.split(r"(?<=[.:!?])\s+", re.sub(r"\s+", " ", text))]
    found = [sentence for sentence in found if len(sentence) > 20]
    return (found * (count // len(found) + 1))[:count]


def trained(texts: list[str], folder: Path) -> Path:
    """A byte-level vocabulary of 8,000 pieces."""
    from minitf.tokenization.training import train_bpe

    train_bpe(texts, vocab_size=8000).save_pretrained(folder)
    return folder


def fast(report: Report, name: str, folder: Path, texts: list[str], arguments: argparse.Namespace) -> None:
    """The classes on the `tokenizers` library."""
    import transformers

    import minitf

    ours = getattr(minitf, f"{name}Fast").from_pretrained(folder)
    theirs = getattr(transformers, name).from_pretrained(folder)
    contenders: dict[str, Callable[[], Any]] = {"minitf": lambda: ours(texts), "transformers": lambda: theirs(texts)}
    if contenders["minitf"]()["input_ids"] != contenders["transformers"]()["input_ids"]:
        sys.exit(f"{name}Fast: minitf and transformers give different ids; nothing to compare")
    times = interleaved(contenders, repeats=arguments.repeats)
    report.times(f"{name}Fast", times, against="minitf")
    speed = ratio(times["transformers"], times["minitf"])
    report.require(f"{name}Fast: transformers / minitf", speed, at_least=1.0)


def slow(report: Report, name: str, folder: Path, texts: list[str], arguments: argparse.Namespace, file: Path) -> None:
    """The Python forms against 4.49.0's, which answer from a process of their own."""
    import minitf

    if not arguments.old_python.exists():
        sys.exit(
            f"{arguments.old_python}: no such interpreter; the Python forms are compared with transformers 4.49.0: "
            "python -m venv .venv-goldens && .venv-goldens/bin/pip install -r tests/goldens/requirements.txt"
        )
    file.write_text(json.dumps(texts), encoding="utf-8")
    with subprocess.Popen(
        [str(arguments.old_python), "-c", WORKER], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL, text=True,
    ) as worker:  # fmt: skip

        def old() -> Any:
            assert worker.stdin is not None
            assert worker.stdout is not None
            worker.stdin.write(json.dumps([name, str(folder), str(file)]) + "\n")
            worker.stdin.flush()
            for line in worker.stdout:
                if line.startswith("DONE "):
                    return json.loads(line.removeprefix("DONE "))
            return sys.exit("the process with transformers 4.49.0 ended without an answer")

        contenders: dict[str, Callable[[], Any]] = {
            "minitf": lambda: getattr(minitf, name).from_pretrained(folder)(texts)["input_ids"],
            "transformers 4.49.0": old,
        }
        if contenders["minitf"]() != contenders["transformers 4.49.0"]():
            sys.exit(f"{name}: minitf and transformers 4.49.0 give different ids; nothing to compare")
        times = interleaved(contenders, repeats=max(3, arguments.repeats // 2), warmup=0)
        assert worker.stdin is not None
        worker.stdin.close()
    report.times(f"{name}, in Python", times, against="minitf")
    speed = ratio(times["transformers 4.49.0"], times["minitf"])
    report.require(f"{name}: transformers 4.49.0 / minitf", speed, at_least=1.0)


if __name__ == "__main__":
    sys.exit(main())
