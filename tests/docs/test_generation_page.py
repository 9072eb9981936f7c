"""docs/generation.md is true: its Python runs, its table is `STRATEGIES`, its links exist."""

from __future__ import annotations

import io
import re
from contextlib import redirect_stdout
from typing import Any

import pytest
import torch

from minitf import GPT2Config, GPT2LMHeadModel
from minitf.generation import GenerationConfig
from minitf.generation.strategies import STRATEGIES, check_settings, choose
from tests.support import REPOSITORY, randomise_

PAGE = (REPOSITORY / "docs" / "generation.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)
ROWS = [
    [cell.strip() for cell in line.strip("|").split(" | ")]
    for line in PAGE.split("## The strategies")[1].split("\n\n")[1].splitlines()[2:]
]


def test_the_blocks_run_in_order_and_print_what_their_comments_say() -> None:
    torch.set_num_threads(1)
    scope: dict[str, Any] = {"__name__": "page"}
    checked = 0
    for number, block in enumerate(BLOCKS):
        printed = io.StringIO()
        with redirect_stdout(printed):
            exec(compile(block, f"docs/generation.md, block {number}", "exec"), scope)
        lines = printed.getvalue().splitlines()
        said = re.findall(r"^ *print\(.*\) {2,}# ([^:\n]+)", block, flags=re.MULTILINE)
        said += [line.removeprefix("# ") for line in block.splitlines() if line.startswith("# ")]
        assert len(said) == len(lines), f"block {number} prints {lines}"
        for claim, line in zip(said, lines, strict=True):
            assert line.startswith(claim.strip().removesuffix("...").rstrip()), f"block {number}"
            checked += 1
    assert len(BLOCKS) >= 8
    assert checked >= 8


def test_the_table_is_the_table_of_the_library() -> None:
    assert [row[0].strip("`") for row in ROWS] == list(STRATEGIES)
    for name, _, _, when, uses, home in ROWS:
        strategy = STRATEGIES[name.strip("`")]
        assert set(re.findall(r"`(\w+)`", uses)) == strategy.uses, name
        assert home.startswith(f"[{strategy.home.split(':')[0]}.py]("), name
        assert when


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0].strip("`"))
def test_the_settings_of_the_table_choose_the_strategy_and_it_runs(row: list[str]) -> None:
    name, trigger = row[0].strip("`"), row[1]
    small = randomise_(GPT2LMHeadModel(GPT2Config(vocab_size=20, n_positions=32, n_embd=8, n_layer=1, n_head=2))).eval()
    settings = {} if trigger == "nothing" else eval(f"dict({trigger.strip('`')})", {"small": small})
    draft = settings.pop("assistant_model", None)
    call = GenerationConfig(**settings)
    assert choose(call, assisted=draft is not None).name == name
    check_settings(STRATEGIES[name], call, GenerationConfig())
    ids = small.generate(
        torch.tensor([[3, 4]]), max_new_tokens=5, eos_token_id=1, pad_token_id=0, assistant_model=draft, **settings
    )
    assert ids.shape[0] == 1
    assert 2 < ids.shape[1] <= 7


def test_relative_links_exist() -> None:
    links = [link for link in re.findall(r"\]\(([^)#]+)", PAGE) if "://" not in link]
    assert len(links) > 8
    assert [link for link in links if not (REPOSITORY / "docs" / link).exists()] == []


def test_every_setting_that_the_page_names_exists() -> None:
    known = {*GenerationConfig.__dataclass_fields__, *GenerationConfig._REFUSED}
    table = " ".join(row[4] for row in ROWS)
    assert set(re.findall(r"`(\w+)`", table)) <= known
