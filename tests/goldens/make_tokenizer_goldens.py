"""Compute the golden ids of the tokenizers with transformers 4.49.0, whose tokenizers were written in Python.

    python -m tests.goldens.make_tokenizer_goldens             # write tokenizer_goldens.json, here
    python -m tests.goldens.make_tokenizer_goldens --check     # compute again, compare; exit code 1 where they differ
    python -m tests.goldens.make_tokenizer_goldens --folder F  # either, in another folder

Runs from the repository's root in an environment of its own (requirements.txt); minitf is not imported. The
vocabularies (`vocabularies/`) are small ones, trained once on the test texts and this project's README.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
import unicodedata
from pathlib import Path
from typing import Any

from tests.tokenization.texts import PAIRS, TEXTS

REQUIRED = "4.49.0"
FILE = "tokenizer_goldens.json"
VOCABULARIES = Path(__file__).parent / "vocabularies"

# Class -> variant -> options of its constructor.
VARIANTS: dict[str, dict[str, dict[str, Any]]] = {
    "BertTokenizer": {
        "uncased": {"do_lower_case": True},
        "cased": {"do_lower_case": False},
        "cased without accents": {"do_lower_case": False, "strip_accents": True},
        "uncased with accents": {"do_lower_case": True, "strip_accents": False},
        "no CJK": {"do_lower_case": True, "tokenize_chinese_chars": False},
        "never_split": {"do_lower_case": True, "never_split": ["e-mail@x.org", "don''t", "BERT", "Héllò"]},
        "cased never_split": {"do_lower_case": False, "never_split": ["e-mail@x.org", "don''t", "BERT", "Héllò"]},
        "no basic": {"do_basic_tokenize": False},
    },
    "GPT2Tokenizer": {
        "plain": {},
        "prefix": {"add_prefix_space": True},
        "bos": {"add_bos_token": True},
    },
}
TRUNCATED = "one two three four five six seven eight", "a b c d e f g h i"


def tokenizer(library: Any, name: str, options: dict[str, Any]) -> Any:
    """The tokenizer of a library's class of that name on the small vocabulary."""
    files = {"vocab_file": "vocab.txt"}
    if name == "GPT2Tokenizer":
        files = {"vocab_file": "vocab.json", "merges_file": "merges.txt"}
    return getattr(library, name)(**{key: str(VOCABULARIES / file) for key, file in files.items()}, **options)


def texts_of(tok: Any) -> dict[str, Any]:
    """Ids, pieces and decoded texts of every text, and of the pairs the masks too."""
    found: dict[str, Any] = {}
    for name, text in TEXTS.items():
        ids = tok(text, verbose=False)["input_ids"]
        if name != "long":
            decoded = [tok.decode(ids, skip, clean_up_tokenization_spaces=True) for skip in (False, True)]
            found[name] = {"ids": ids, "tokens": tok.tokenize(text), "decoded": decoded}
    for number, pair in enumerate(PAIRS):
        found[f"pair {number}"] = dict(tok(*pair, return_token_type_ids=True, return_special_tokens_mask=True))
        ids = [tok.encode(text, add_special_tokens=False) for text in pair]
        found[f"pair {number} joined"] = {
            "ids": tok.build_inputs_with_special_tokens(*ids),
            "mask": tok.get_special_tokens_mask(*ids),
        }
    return found


def truncations_of(tok: Any) -> dict[str, Any]:
    """Ids of a pair cut to different lengths in every way that leaves something of both."""
    found: dict[str, Any] = {}
    for side in ("right", "left"):
        tok.truncation_side = side
        for order, kind in ((1, "first longer"), (-1, "second longer"), (0, "equal")):
            pair = TRUNCATED[::order] if order else (TRUNCATED[1], TRUNCATED[1])
            counts = [len(tok.encode(text, add_special_tokens=False)) for text in pair]
            added = tok.num_special_tokens_to_add(pair=True)
            for strategy in ("longest_first", "only_first", "only_second"):
                for length in range(added + 4, sum(counts) + added):
                    surplus = sum(counts) + added - length
                    if strategy != "longest_first" and surplus >= counts[strategy == "only_second"]:
                        continue
                    options = {"truncation": strategy, "max_length": length}
                    found[f"{kind}, {strategy} {length} {side}"] = tok(*pair, **options)["input_ids"]
    return found


def make(library: Any) -> dict[str, Any]:
    """The whole content of the golden file. library: has the classes by name."""
    return {
        "made by": "tests/goldens/make_tokenizer_goldens.py",
        "made with": {"transformers": library.__version__, "Unicode": unicodedata.unidata_version},
        "cases": {
            **{
                f"{name} {variant}": texts_of(tokenizer(library, name, options))
                for name, variants in VARIANTS.items()
                for variant, options in variants.items()
            },
            "BasicTokenizer": {
                name: [library.BasicTokenizer(do_lower_case=lower).tokenize(text) for lower in (True, False)]
                for name, text in TEXTS.items()
                if name != "long"
            },
            **{f"{name} truncation": truncations_of(tokenizer(library, name, {})) for name in VARIANTS},
        },
    }


def main(arguments: list[str] | None = None) -> int:
    import transformers

    parser = argparse.ArgumentParser(description=f"Golden ids of the Python tokenizers of transformers {REQUIRED}.")
    parser.add_argument("--check", action="store_true", help="compare with the file instead of writing it")
    parser.add_argument("--folder", type=Path, default=Path(__file__).parent, help="where the file is")
    options = parser.parse_args(arguments)
    if transformers.__version__ != REQUIRED:
        print(f"transformers is {transformers.__version__}, but these goldens are of {REQUIRED}: see README.md")
        return 2
    logging.disable()  # 4.49 warns of every equally long pair
    path = options.folder / FILE
    new = json.loads(json.dumps(make(transformers)))
    if not options.check:
        text = json.dumps({key: value for key, value in new.items() if key != "cases"})[:-1] + ', "cases": {\n'
        cases = [f"{json.dumps(name)}: {{\n{_lines(case)}}}" for name, case in new["cases"].items()]
        path.write_text(text + ",\n".join(cases) + "\n}}\n", encoding="utf-8")
        print(f"{len(new['cases'])} tokenizers, {path.stat().st_size} bytes in {path}")
        return 0
    old = json.loads(path.read_text(encoding="utf-8"))
    problems = [
        f"{name}, {text}: {old['cases'].get(name, {}).get(text)} became {value}"
        for name, case in new["cases"].items()
        for text, value in case.items()
        if old["cases"].get(name, {}).get(text) != value
    ]
    print(*problems, sep="\n", end="\n" if problems else "")
    print(f"{len(new['cases'])} tokenizers compared; {len(problems)} problems")
    return 1 if problems or old["cases"].keys() != new["cases"].keys() else 0


def _lines(case: dict[str, Any]) -> str:
    return (
        ",\n".join(f" {json.dumps(name)}: {json.dumps(value, ensure_ascii=False)}" for name, value in case.items())
        + "\n"
    )


if __name__ == "__main__":
    sys.exit(main())
