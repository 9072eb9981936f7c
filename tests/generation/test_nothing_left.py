"""What stops a generation that cannot go on: every token forbidden, and who has to hear of it."""

from __future__ import annotations

import threading

import pytest
import torch

from minitf import GPT2Config, GPT2LMHeadModel
from minitf.generation import TextIteratorStreamer

VOCABULARY = 12


@pytest.fixture(scope="module")
def model() -> GPT2LMHeadModel:
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=VOCABULARY, n_embd=16, n_layer=1, n_head=1, n_positions=32, bos_token_id=1, eos_token_id=2
    )
    return GPT2LMHeadModel(config).eval()


@pytest.mark.parametrize(
    "how", [{}, {"do_sample": True}, {"num_beams": 2}, {"num_beams": 2, "do_sample": True}], ids=str
)
def test_every_token_forbidden_is_an_error_that_names_step_and_row(model: GPT2LMHeadModel, how: dict[str, int]) -> None:
    def all_but_one_then_none(ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        return scores if ids.shape[1] < 5 else torch.full_like(scores, float("-inf"))

    ids = torch.tensor([[3, 4, 5], [6, 7, 8]])
    with pytest.raises(ValueError, match="step 3 of generation: every token of row 0 is forbidden"):
        model.generate(
            ids, max_new_tokens=6, eos_token_id=0, pad_token_id=0, logits_processor=[all_but_one_then_none], **how
        )


class Words:
    """A tokenizer for a streamer: each id is a word."""

    def decode(self, ids: list[int], **options: object) -> str:
        return " ".join(map(str, ids)) + " "


def test_an_error_ends_the_loop_of_the_thread_that_reads(model: GPT2LMHeadModel) -> None:
    streamer = TextIteratorStreamer(Words(), timeout=20.0)
    failures: list[BaseException] = []

    def broken(ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        if ids.shape[1] > 4:
            raise RuntimeError("the processor broke")
        return scores

    def generate() -> None:
        try:
            model.generate(torch.tensor([[3, 4]]), max_new_tokens=9, logits_processor=[broken], streamer=streamer)
        except RuntimeError as error:
            failures.append(error)

    thread = threading.Thread(target=generate)
    thread.start()
    with pytest.raises(RuntimeError, match="the processor broke"):
        list(streamer)
    thread.join()
    assert len(failures) == 1
