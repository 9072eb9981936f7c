"""docs/surgery.md is true: its Python prints what it says, its links exist, its attention functions are right."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from contextlib import redirect_stdout
from typing import Any

import pytest
import torch

from minitf import attention
from tests.support import REPOSITORY
from tests.surgery.models import bert, gpt2

PAGE = (REPOSITORY / "docs" / "surgery.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)


@pytest.fixture(scope="module")
def page() -> Iterator[dict[str, Any]]:
    """What the page defines, after its blocks ran in order and printed what their comments say."""
    torch.set_num_threads(1)
    known = dict(attention.ATTENTION)
    scope: dict[str, Any] = {"__name__": "page", "checked": 0}
    for number, block in enumerate(BLOCKS):
        printed = io.StringIO()
        with redirect_stdout(printed):
            exec(compile(block, f"docs/surgery.md, block {number}", "exec"), scope)
        lines = printed.getvalue().splitlines()
        said = re.findall(r"^ *print\(.*\) {2,}# ([^\n]+)", block, flags=re.MULTILINE)
        said += [line.removeprefix("# ") for line in block.splitlines() if line.startswith("# ")]
        assert len(said) == len(lines), f"block {number} prints {lines}"
        for claim, line in zip(said, lines, strict=True):
            assert line.startswith(claim.removesuffix("...").rstrip()), f"block {number}: {line}"
            scope["checked"] += 1
    yield scope
    attention.ATTENTION.clear()
    attention.ATTENTION.update(known)


def test_the_blocks_print_what_their_comments_say(page: dict[str, Any]) -> None:
    assert len(BLOCKS) >= 9
    assert page["checked"] >= 14


def test_the_links_exist() -> None:
    links = [link for link in re.findall(r"\]\(([^)#]+)", PAGE) if "://" not in link]
    assert len(links) >= 8
    assert [link for link in links if not (REPOSITORY / "docs" / link).exists()] == []


def by_hand(query: Any, key: Any, value: Any, scale: float) -> torch.Tensor:
    """ALiBi in loops: the score of query i and key j loses the head's slope times i - j; causal."""
    context = torch.zeros_like(query)
    heads, length = query.shape[1], query.shape[2]
    for head in range(heads):
        slope = 2.0 ** (-8 * (head + 1) / heads)
        for i in range(length):
            scores = [scale * query[0, head, i] @ key[0, head, j] - slope * (i - j) for j in range(i + 1)]
            probs = torch.softmax(torch.stack(scores), dim=0)
            context[0, head, i] = sum(p * value[0, head, j] for j, p in enumerate(probs))
    return context


def test_alibi_by_hand(page: dict[str, Any]) -> None:
    torch.manual_seed(0)
    query, key, value = torch.randn(3, 1, 4, 6, 8)
    causal = torch.ones(6, 6, dtype=torch.bool).tril()[None, None]
    context, probs = page["alibi"](torch.nn.Identity(), query, key, value, causal, scale=0.3, dropout=0.0)
    torch.testing.assert_close(context, by_hand(query, key, value, 0.3))
    assert probs.shape == (1, 4, 6, 6)
    last, _ = page["alibi"](torch.nn.Identity(), query[:, :, 5:], key, value, None, scale=0.3, dropout=0.0)
    torch.testing.assert_close(last, context[:, :, 5:])  # a decoding step: one query, all keys


def test_alibi_in_a_model_does_not_depend_on_where_the_text_stands(page: dict[str, Any]) -> None:
    model = gpt2(attn_implementation="alibi")
    with torch.no_grad():
        model.transformer.wpe.weight.zero_()
    ids = torch.tensor([[5, 6, 7, 8]])
    padded = torch.tensor([[0, 0, 0, 5, 6, 7, 8]])
    shifted = model(padded, attention_mask=(padded != 0).long()).logits[:, 3:]
    torch.testing.assert_close(shifted, model(ids).logits, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(model(ids).logits, gpt2()(ids).logits, atol=1e-2)


def test_sharpened_is_softmax_at_half_the_temperature(page: dict[str, Any]) -> None:
    model, sharp = bert("BertModel"), bert("BertModel", attn_implementation="sharpened")
    with torch.no_grad():
        for layer in model.encoder.layer:
            layer.attention.self.query.weight *= 2
            layer.attention.self.query.bias *= 2
    ids = torch.tensor([[4, 5, 6, 7]])
    torch.testing.assert_close(sharp(ids).last_hidden_state, model(ids).last_hidden_state, rtol=1e-5, atol=1e-5)
    probs = sharp(ids, output_attentions=True, head_mask=torch.tensor([1.0, 0.0])).attentions[0]
    assert probs[:, 1].abs().max() == 0
