"""`minitf tokenize` and `minitf train-tokenizer`: tables, colours, JSON, files, errors."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import transformers

from minitf import __version__, cli
from minitf.cli_output import width
from minitf.tokenization import BertTokenizerFast, GPT2TokenizerFast
from minitf.tokenization.auto import AutoTokenizer
from tests.support import REPOSITORY, minilm_folder

TEXT = "Unbelievably, 遇 cafés [MASK]"
PAIR = ("Where is it?", "It is here.")


@pytest.fixture(scope="module")
def folder() -> str:
    return str(minilm_folder())


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> str:
    return shutil.copy(REPOSITORY / "README.md", tmp_path_factory.mktemp("corpus"))


def call(capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[int, str, str]:
    code = cli.main(argv)
    out, err = capsys.readouterr()
    assert "Traceback" not in out + err
    return code, out, err


def rows(out: str) -> list[list[str]]:
    """The cells of the tables: lines that begin with a number."""
    return [line.split() for line in out.splitlines() if re.match(r" *\d+  ", line)]


class Terminal(io.StringIO):
    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


# --------------------------------------------------------------------------------------------------------------------
# tokenize


def test_a_table(capsys: pytest.CaptureFixture[str], folder: str) -> None:
    code, out, err = call(capsys, "tokenize", folder, TEXT)
    assert (code, err) == (0, "")
    assert "\x1b" not in out
    lines = out.splitlines()
    assert lines[:4] == ["BertTokenizerFast: 30522 pieces", "", f"text: {TEXT}", lines[3]]
    assert lines[3] == "11 tokens, 3 special, 1 unknown to the vocabulary"
    assert lines[4].split() == ["piece", "id", "offsets", "text", "segment"]
    assert rows(out) == [
        ["0", "[CLS]", "101", "0", "special"],
        ["1", "un", "4895", "0:2", "|Un|", "0"],
        ["2", "##bel", "8671", "2:5", "|bel|", "0"],
        ["3", "##ie", "2666", "5:7", "|ie|", "0"],
        ["4", "##va", "3567", "7:9", "|va|", "0"],
        ["5", "##bly", "6321", "9:12", "|bly|", "0"],
        ["6", ",", "1010", "12:13", "|,|", "0"],
        ["7", "[UNK]", "100", "14:15", "|遇|", "0", "unknown"],
        ["8", "cafes", "23812", "16:21", "|cafés|", "0"],
        ["9", "[MASK]", "103", "22:28", "|[MASK]|", "0", "special"],
        ["10", "[SEP]", "102", "0", "special"],
    ]
    offsets = [line.index(":") for line in lines if re.search(r"\d:\d", line) and "遇" not in line]
    assert max(offsets) - min(offsets) <= 1  # aligned on the right


def test_a_pair(capsys: pytest.CaptureFixture[str], folder: str) -> None:
    code, out, _ = call(capsys, "tokenize", folder, *PAIR)
    assert code == 0
    assert "text: Where is it?\nsecond: It is here.\n11 tokens, 3 special\n" in out
    segments = [row[-2] if row[-1] == "special" else row[-1] for row in rows(out)]
    assert segments == list("000000" + "11111")
    assert rows(out)[6] == ["6", "it", "2009", "0:2", "|It|", "1"]  # offsets count in the second text


@pytest.mark.parametrize("more", [(), ("--slow",), ("--no-special-tokens",), ("--max-length", "5")])
def test_json_holds_what_transformers_computes(
    more: tuple[str, ...], capsys: pytest.CaptureFixture[str], folder: str
) -> None:
    code, out, err = call(capsys, "tokenize", folder, TEXT, PAIR[1], "--json", *more)
    assert (code, err) == (0, "")
    answer = json.loads(out)
    assert answer["minitf"] == __version__
    name = "BertTokenizer" if more == ("--slow",) else "BertTokenizerFast"
    assert answer["tokenizer"] == {"folder": folder, "class": name, "vocab_size": 30522}
    cut: dict[str, Any] = {"truncation": True, "max_length": 5} if "--max-length" in more else {}
    oracle = transformers.AutoTokenizer.from_pretrained(folder)
    theirs = oracle(
        TEXT, PAIR[1], add_special_tokens="--no-special-tokens" not in more, return_offsets_mapping=True, **cut
    )
    (one,) = answer["texts"]
    assert (one["text"], one["text_pair"]) == (TEXT, PAIR[1])
    assert one["left_out"] == (len(oracle(TEXT, PAIR[1])["input_ids"]) - 5 if cut else 0)
    tokens = one["tokens"]
    assert [token["id"] for token in tokens] == theirs["input_ids"]
    assert [token["segment"] for token in tokens] == theirs["token_type_ids"]
    assert [(token["start"], token["end"]) for token in tokens] == theirs["offset_mapping"]
    assert [token["word"] for token in tokens] == theirs.word_ids()
    texts = [None if n is None else (TEXT, PAIR[1])[n] for n in theirs.sequence_ids()]
    assert [token["text"] for token in tokens] == [
        None if text is None else text[start:end]
        for text, (start, end) in zip(texts, theirs["offset_mapping"], strict=True)
    ]


def test_cut_texts_say_how_much(capsys: pytest.CaptureFixture[str], folder: str) -> None:
    _, out, err = call(capsys, "tokenize", folder, TEXT, "--max-length", "5")
    assert "5 tokens, 2 special, 6 left out" in out
    assert err == ""
    _, out, _ = call(capsys, "tokenize", folder, TEXT, "--max-length", "50")
    assert "left out" not in out
    code, out, err = call(capsys, "tokenize", folder, TEXT, "--max-length", "1")
    assert (code, out, err.count("\n")) == (1, "", 1)
    assert "max_length" in err


def test_lines_of_stdin_and_of_a_file(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, folder: str, tmp_path: Path
) -> None:
    (tmp_path / "lines.txt").write_text("first one\n\nthird\n", encoding="utf-8")
    expected = ["first one", "", "third"]
    for argv in (("-",), ("--file", "-"), ("--file", str(tmp_path / "lines.txt"))):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO((tmp_path / "lines.txt").read_bytes())))
        code, out, _ = call(capsys, "tokenize", folder, *argv, "--json")
        assert code == 0
        assert [one["text"] for one in json.loads(out)["texts"]] == expected
        assert [len(one["tokens"]) for one in json.loads(out)["texts"]] == [4, 2, 3]


def test_colours(monkeypatch: pytest.MonkeyPatch, folder: str, capsys: pytest.CaptureFixture[str]) -> None:
    def printed(**environment: str) -> str:
        screen = Terminal()
        with monkeypatch.context() as patch:
            for name in ("NO_COLOR", "TERM"):
                patch.delenv(name, raising=False)
            for name, value in environment.items():
                patch.setenv(name, value)
            patch.setattr(sys, "stdout", screen)
            assert cli.main(["tokenize", folder, TEXT]) == 0
        return screen.getvalue()

    coloured = [re.fullmatch(r"\x1b\[(\d+)m(.*)\x1b\[0m", line) for line in printed(NO_COLOR="").splitlines()[5:]]
    assert all(coloured)
    colours = [found[1] for found in coloured if found]
    dim, first, second, red = "2", "36", "33", "31"
    # [CLS], the five pieces of one word, the comma, [UNK], another word, [MASK], [SEP]
    assert colours == [dim, *[first] * 5, second, red, first, dim, dim]
    _, plain, _ = call(capsys, "tokenize", folder, TEXT)
    assert [found[2] for found in coloured if found] == plain.splitlines()[5:]
    assert printed(NO_COLOR="1") == printed(TERM="dumb") == plain


def test_gpt2_pieces(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    vocabulary = GPT2TokenizerFast(
        {piece: n for n, piece in enumerate([*sorted(alphabet()), "<|endoftext|>", "Ġb"])}, ["Ġ b"]
    )
    vocabulary.save_pretrained(tmp_path)
    _, out, _ = call(capsys, "tokenize", str(tmp_path), "a b\né<|endoftext|>")
    assert [row[1:4] for row in rows(out)] == [
        ["a", "64", "0:1"],
        ["Ġb", "257", "1:3"],
        ["Ċ", "198", "3:4"],
        ["Ã", "127", "4:5"],
        ["©", "102", "4:5"],
        ["<|endoftext|>", "256", "5:18"],
    ]
    assert "| b|" in out
    assert r"|\n|" in out
    assert "unknown" not in out  # the end token is GPT-2's unknown token too
    assert rows(out)[-1][-1] == "special"


def alphabet() -> list[str]:
    from tokenizers.pre_tokenizers import ByteLevel

    return list(ByteLevel.alphabet())


def test_a_folder_that_does_not_say_which(capsys: pytest.CaptureFixture[str], folder: str, tmp_path: Path) -> None:
    shutil.copy(Path(folder) / "vocab.txt", tmp_path)
    code, _, err = call(capsys, "tokenize", str(tmp_path), "x")
    assert code == 1
    assert "nothing says which tokenizer it is" in err
    code, out, _ = call(capsys, "tokenize", str(tmp_path), "x", "--type", "bert")
    assert code == 0
    assert rows(out)[1][1:3] == ["x", "1060"]


def test_long_pieces_are_shortened_and_cannot_steer_the_terminal(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    vocabulary = [*("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"), "m" * 60]
    BertTokenizerFast({piece: n for n, piece in enumerate(vocabulary)}).save_pretrained(tmp_path)
    _, out, _ = call(capsys, "tokenize", str(tmp_path), "m" * 60 + " a\x1b[31mred\u202e")
    assert "\x1b" not in out
    assert "\u202e" not in out
    assert max(width(line) for line in out.splitlines()) < 110
    assert rows(out)[1][1] == "m" * 25 + "..."


@pytest.mark.parametrize(
    ("argv", "code", "words"),
    [
        ((), 2, "required: FOLDER"),
        (("F",), 2, "no text: give one, or two for a pair"),
        (("F", "a", "b", "c"), 2, "3 texts: expected one, or two for a pair"),
        (("F", "a", "-"), 2, "cannot be one of a pair"),
        (("F", "a", "--file", "x"), 2, "texts and --file: give one"),
        (("F", "a", "--max-length", "0"), 2, "'0' is not a number of 1 or more"),
        (("F", "a", "--no-special-token"), 2, "did you mean --no-special-tokens?"),
        (("F", "a", "--type", "xlnet"), 2, "invalid choice: 'xlnet'"),
        (("F", "--file", "gone.txt"), 1, "gone.txt: No such file or directory"),
        (("nofolder", "a"), 1, "'nofolder': no such folder, and no tokenizer of that name in the local hub cache"),
        (("./nofolder", "a"), 1, "no such file or folder"),
        ((".", "a"), 1, "no tokenizer in"),
    ],
)
def test_wrong_calls(
    argv: Sequence[str],
    code: int,
    words: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))
    found, out, err = call(capsys, "tokenize", *argv)
    assert (found, out, err.count("\n")) == (code, "", 1)
    assert err.startswith("error: ")
    assert words in err


def test_text_that_is_not_utf8(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, folder: str
) -> None:
    for content, words in ((b"fine\n\xff\n", "stdin, line 2: byte 0xff is not UTF-8"), (b"", "has no line")):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))
        code, out, err = call(capsys, "tokenize", folder, "-")
        assert (code, out) == (1, "")
        assert words in err


def test_neither_command_imports_torch(folder: str, corpus: str, tmp_path: Path) -> None:
    code = (
        "import sys; from minitf.cli import main\n"
        "assert main(['tokenize', '--help']) == main(['train-tokenizer', '--help']) == 0\n"
        "assert 'tokenizers' not in sys.modules\n"
        f"assert main(['tokenize', {folder!r}, 'x']) == 0\n"
        f"assert main(['train-tokenizer', {corpus!r}, '--kind', 'bpe', '--vocab-size', '300', '-o', 'new']) == 0\n"
        "assert 'torch' not in sys.modules\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, cwd=tmp_path, check=False
    )
    assert (result.returncode, result.stderr) == (0, "")  # no bars where stderr is no terminal


# --------------------------------------------------------------------------------------------------------------------
# train-tokenizer


def test_wordpiece_from_a_file(capsys: pytest.CaptureFixture[str], corpus: str, tmp_path: Path) -> None:
    target = tmp_path / "deep" / "bert"
    argv = ("train-tokenizer", corpus, "--kind", "wordpiece", "--vocab-size", "800", "-o", str(target))
    code, out, err = call(capsys, *argv, "--max-length", "128")
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[0] == "BertTokenizerFast: 800 pieces; special: [UNK] 1, [SEP] 3, [PAD] 0, [CLS] 2, [MASK] 4"
    assert re.fullmatch(r"first \d+ lines: \d+ tokens, \d\.\d\d characters a token, 0 unknown", lines[1])
    assert lines[3] == "first text (4 tokens): # minitf"
    assert lines[4].split() == ["pieces", "[CLS]", "#", "minitf", "[SEP]"]
    assert lines[-1].startswith(f"wrote {target}")
    tokenizer = AutoTokenizer.from_pretrained(target)
    assert (len(tokenizer), tokenizer.do_lower_case, tokenizer.model_max_length) == (800, True, 128)
    theirs = transformers.AutoTokenizer.from_pretrained(target)
    assert theirs.model_max_length == 128
    assert theirs("Hello tokenizer")["input_ids"] == tokenizer("Hello tokenizer")["input_ids"]


def test_bpe_as_json(capsys: pytest.CaptureFixture[str], corpus: str, tmp_path: Path) -> None:
    argv = ("train-tokenizer", corpus, corpus, "--kind", "bpe", "--vocab-size", "400", "--json")
    code, out, err = call(capsys, *argv, "-o", str(tmp_path), "--prefix-space", "--min-frequency", "3")
    assert (code, err) == (0, "")
    facts = json.loads(out)
    assert (facts["kind"], facts["class"], facts["vocab_size"]) == ("bpe", "GPT2TokenizerFast", 400)
    assert facts["special_tokens"] == {"<|endoftext|>": 399}
    names = {"vocab.json", "merges.txt", "special_tokens_map.json", "tokenizer_config.json", "tokenizer.json"}
    assert {Path(path).name for path in facts["files"]} == names == {path.name for path in tmp_path.iterdir()}
    assert facts["sample"]["unknown"] == 0
    assert 1 < facts["sample"]["characters"] / facts["sample"]["tokens"] < 5
    assert AutoTokenizer.from_pretrained(tmp_path).add_prefix_space is True


def test_options_of_wordpiece(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("Élan élan Élan 老师 老师\n" * 3 + "z", encoding="utf-8")
    base = ("train-tokenizer", str(tmp_path / "text.txt"), "--kind", "wordpiece", "--vocab-size", "40")
    for name, more, piece in (
        ("a", (), "elan"),
        ("b", ("--no-lowercase",), "Élan"),
        ("c", ("--no-strip-accents",), "élan"),
        ("d", ("--lowercase", "--no-chinese-chars"), "老师"),
    ):
        assert call(capsys, *base, *more, "-o", str(tmp_path / name))[0] == 0
        assert piece in AutoTokenizer.from_pretrained(tmp_path / name).get_vocab()
    _, out, err = call(capsys, *base, "--limit-alphabet", "4", "-o", str(tmp_path / "e"))
    assert "warning: limit_alphabet = 4 leaves out 3 of 7 characters" in err
    assert ", 13 unknown" in out


def test_a_tokenizer_that_is_there_stays(capsys: pytest.CaptureFixture[str], corpus: str, tmp_path: Path) -> None:
    argv = ("train-tokenizer", corpus, "--vocab-size", "700", "-o", str(tmp_path))
    assert call(capsys, *argv, "--kind", "wordpiece")[0] == 0
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    code, out, err = call(capsys, *argv, "--kind", "bpe")
    assert (code, out, err.count("\n")) == (1, "", 1)
    assert "holds a tokenizer (tokenizer.json, tokenizer_config.json, " in err
    assert "or --overwrite it" in err
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    (tmp_path / "config.json").write_text('{"model_type": "gpt2"}')
    (tmp_path / "added_tokens.json").write_text('{"old": 700}')
    assert call(capsys, *argv, "--kind", "bpe", "--overwrite")[0] == 0
    left = {path.name for path in tmp_path.iterdir()}
    assert not {"vocab.txt", "added_tokens.json"} & left  # what belonged to the other one
    assert {"vocab.json", "merges.txt", "config.json"} <= left
    assert type(AutoTokenizer.from_pretrained(tmp_path)) is GPT2TokenizerFast


def test_a_failed_training_leaves_what_was_there(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "empty.txt").write_text(" \n")
    target = tmp_path / "new"
    argv = ("train-tokenizer", str(tmp_path / "empty.txt"), "--kind", "bpe", "-o", str(target))
    code, _, err = call(capsys, *argv)
    assert code == 1
    assert err == "error: there is no text to learn from: every line is empty or holds only blanks\n"
    assert not target.exists()


@pytest.mark.parametrize(
    ("argv", "code", "words"),
    [
        (("--kind", "bpe", "-o", "new"), 2, "required: FILE"),
        (("text.txt", "-o", "new"), 2, "required: --kind"),
        (("text.txt", "--kind", "bpe"), 2, "required: -o/--output"),
        (("text.txt", "--kind", "unigram", "-o", "new"), 2, "invalid choice: 'unigram'"),
        (("text.txt", "--kind", "bpe", "-o", "new", "--vocab-size", "-3"), 2, "--vocab-size"),
        (("text.txt", "--kind", "bpe", "-o", "new", "--vocabsize", "3"), 2, "did you mean --vocab-size?"),
        (("text.txt", "--kind", "bpe", "-o", "new", "--lowercase"), 2, "--lowercase has no effect with --kind bpe"),
        (("text.txt", "--kind", "bpe", "-o", "new", "--no-strip-accents"), 2, "--strip-accents has no effect"),
        (("text.txt", "--kind", "bpe", "-o", "new", "--limit-alphabet", "9"), 2, "--limit-alphabet has no effect"),
        (("text.txt", "--kind", "wordpiece", "-o", "new", "--prefix-space"), 2, "--prefix-space has no effect"),
        (("text.txt", "--kind", "bpe", "-o", "new", "--vocab-size", "9"), 1, "vocab_size = 9 is too small"),
        (("text.txt", "--kind", "wordpiece", "-o", "new", "--vocab-size", "9"), 1, "vocab_size = 9 is too small"),
        (("gone.txt", "--kind", "bpe", "-o", "new"), 1, "gone.txt: No such file or directory"),
        ((".", "--kind", "bpe", "-o", "new"), 1, "this is a directory"),
        (("bad.txt", "--kind", "bpe", "-o", "new"), 1, "bad.txt, line 1: byte 0xff is not UTF-8"),
        (("text.txt", "--kind", "bpe", "-o", "text.txt"), 1, "text.txt is not a folder"),
        (("text.txt", "--kind", "bpe", "-o", "text.txt/new"), 1, "text.txt is not a folder"),
    ],
)
def test_wrong_calls_of_training(
    argv: Sequence[str],
    code: int,
    words: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("text.txt").write_text("the quick brown fox\n")
    Path("bad.txt").write_bytes(b"\xff\n")
    found, out, err = call(capsys, "train-tokenizer", *argv)
    assert (found, out, err.count("\n")) == (code, "", 1)
    assert err.startswith("error: ")
    assert words in err
    assert not Path("new").exists()


def test_a_bar_on_a_terminal(corpus: str, tmp_path: Path) -> None:
    """The library draws it, so it takes a terminal of the operating system."""
    import pty

    program = "import sys; from minitf.cli import main; sys.exit(main(sys.argv[1:]))"
    argv = ["train-tokenizer", corpus, "--kind", "wordpiece", "--vocab-size", "700", "-o", str(tmp_path / "new")]
    screen, terminal = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", program, *argv], stdout=subprocess.DEVNULL, stderr=terminal, cwd=REPOSITORY
    )
    os.close(terminal)
    drawn = b""
    try:
        while chunk := os.read(screen, 4096):
            drawn += chunk
    except OSError:  # Linux reports the end of a terminal so
        pass
    finally:
        os.close(screen)
    assert process.wait() == 0
    assert b"Compute merges" in drawn
