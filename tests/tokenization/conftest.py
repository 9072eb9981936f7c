"""Both forms of a tokenizer, plain Python and on the library, stand every test that asks for `form`."""

from __future__ import annotations

from typing import Any

import pytest

from minitf.tokenization import BertTokenizer, BertTokenizerFast, GPT2Tokenizer, GPT2TokenizerFast


@pytest.fixture(scope="module", params=[BertTokenizer, BertTokenizerFast], ids=["python", "fast"])
def form(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.fixture(scope="module", params=[GPT2Tokenizer, GPT2TokenizerFast], ids=["python", "fast"])
def gpt2_form(request: pytest.FixtureRequest) -> Any:
    return request.param
