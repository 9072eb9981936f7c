"""docs/tokenization.md is true: its Python prints what it says, its links exist."""

from __future__ import annotations

import io
import re
from contextlib import redirect_stdout

from tests.support import REPOSITORY

PAGE = (REPOSITORY / "docs" / "tokenization.md").read_text(encoding="utf-8")


def test_the_block_prints_what_its_comments_say() -> None:
    (block,) = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)
    printed = io.StringIO()
    with redirect_stdout(printed):
        exec(compile(block, "docs/tokenization.md", "exec"), {"__name__": "page"})
    said = re.findall(r"^print\(.*\) +# (.*)$", block, flags=re.MULTILINE)
    assert len(said) == 2
    assert printed.getvalue().splitlines() == said


def test_the_links_exist() -> None:
    links = re.findall(r"\]\(([^)#]+)", PAGE)
    assert len(links) > 12
    assert [link for link in links if not (REPOSITORY / "docs" / link).exists()] == []


def test_what_the_walk_names_exists() -> None:
    from minitf.tokenization import BasicTokenizer, Tokenizer, WordpieceTokenizer
    from minitf.tokenization.bpe import Merger, bytes_to_unicode, split_words
    from minitf.tokenization.engine import PythonEngine

    named = (BasicTokenizer.normalize, BasicTokenizer.words, WordpieceTokenizer._cut, Merger.merge, Tokenizer.__call__)
    names = [function.__qualname__ for function in (*named, bytes_to_unicode, split_words)]
    for name in [*names, PythonEngine.__name__]:
        assert name.rpartition(".")[2] in PAGE, name
