"""An iterator of text in one thread, `generate` in another: an error reaches both."""

from __future__ import annotations

from threading import Thread
from typing import Any

import pytest
import torch

from minitf import GPT2Config, GPT2LMHeadModel
from minitf.generation import TextIteratorStreamer
from tests.support import randomise_


class Letters:
    """A tokenizer as far as streamers need one."""

    def decode(self, ids: list[int], skip_special_tokens: bool = False) -> str:
        return "".join(f"{chr(97 + i)} " for i in ids)


@pytest.fixture
def model() -> GPT2LMHeadModel:
    torch.set_num_threads(1)
    config = GPT2Config(vocab_size=20, n_positions=16, n_embd=8, n_layer=1, n_head=2)
    return randomise_(GPT2LMHeadModel(config)).eval()


def listen(model: GPT2LMHeadModel, **settings: Any) -> tuple[list[str], BaseException | None, BaseException | None]:
    """The pieces that came, the error that the listener got, and the one that the caller of `generate` got."""
    streamer = TextIteratorStreamer(Letters(), timeout=20)
    caught: list[BaseException] = []

    def work() -> None:
        try:
            model.generate(torch.tensor([[1, 2]]), streamer=streamer, **settings)
        except Exception as error:
            caught.append(error)

    thread = Thread(target=work)
    thread.start()
    pieces, heard = [], None
    try:
        for piece in streamer:
            pieces.append(piece)
    except ValueError as error:
        heard = error
    thread.join()
    return pieces, heard, caught[0] if caught else None


def test_all_is_well(model: GPT2LMHeadModel) -> None:
    pieces, heard, caught = listen(model, max_new_tokens=5)
    assert (heard, caught) == (None, None)
    ids = model.generate(torch.tensor([[1, 2]]), max_new_tokens=5)[0].tolist()
    assert "".join(pieces) == Letters().decode(ids)


def test_an_error_before_the_first_token(model: GPT2LMHeadModel) -> None:
    pieces, heard, caught = listen(model, max_new_tokens=50)
    assert pieces == []
    assert heard is caught
    assert "at most 14 new tokens fit" in str(caught)


def test_an_error_between_tokens(model: GPT2LMHeadModel) -> None:
    def breaks(ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        if ids.shape[1] == 4:
            raise ValueError("out of ideas")
        return scores

    pieces, heard, caught = listen(model, max_new_tokens=5, logits_processor=[breaks])
    assert heard is caught
    assert str(caught) == "out of ideas"
    assert len("".join(pieces).split()) == 4
