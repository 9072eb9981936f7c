"""BERT as a decoder against transformers 5.x: cross-attention, and decoding with a cache in pieces of every kind.

Left-padded rows are compared where there are tokens: a padding query may attend to nothing, and there the two libraries
differ on purpose (see `minitf.attention`).
"""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.goldens.bert_runs import decode
from tests.parity.bert_pairs import TINY, different, gradients, inputs_for, pair
from tests.support import random_value

PADDINGS = ("none", "right", "left")
ENCODER_LENGTH = 5
DECODERS: dict[str, dict[str, Any]] = {
    "decoder": {"is_decoder": True},
    "cross-attention": {"is_decoder": True, "add_cross_attention": True},
}
# Pieces of several tokens are what tells a causal mask aligned to the lower right from one that is off by a position.
PIECES = ([1] * 7, [4, 1, 1, 1], [2, 5], [3, 2, 2])


@pytest.fixture(autouse=True)
def one_thread() -> Any:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def decoder_inputs(kind: str, *, padding: str = "right", labels: bool = True) -> dict[str, torch.Tensor]:
    """A batch for BertLMHeadModel; with cross-attention also an encoder's states, padded on the right."""
    inputs = inputs_for("BertLMHeadModel", padding=padding, labels=labels)
    if kind == "cross-attention":
        states = random_value("encoder_hidden_states", (3, ENCODER_LENGTH, TINY["hidden_size"]))
        inputs["encoder_hidden_states"] = torch.from_numpy(states).float()
        inputs["encoder_attention_mask"] = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0], [1, 0, 0, 0, 0]])
    return inputs


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("training", [False, True])
def test_cross_attention_has_the_oracles_loss_and_gradients(attention: str, padding: str, training: bool) -> None:
    ours, theirs = pair("BertLMHeadModel", attention=attention, **DECODERS["cross-attention"])
    inputs = decoder_inputs("cross-attention", padding=padding)
    real = inputs["attention_mask"].bool()
    results = []
    for model in (ours, theirs):
        model.train(training)
        torch.manual_seed(11)
        states = inputs["encoder_hidden_states"].clone().requires_grad_()
        output = model(**{**inputs, "encoder_hidden_states": states}, use_cache=False)
        output.loss.backward()
        results.append({"loss": output.loss, "logits": output.logits[real], "gradient of the encoder": states.grad})
    assert different(*results) == []
    expected = gradients(theirs)
    for name, gradient in gradients(ours).items():
        assert gradient is not None, name
        assert torch.equal(gradient, expected[name]), name


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("kind", DECODERS)
def test_decoding_with_a_cache_gives_the_oracles_and_the_uncached_logits(
    kind: str, padding: str, attention: str
) -> None:
    ours, theirs = pair("BertLMHeadModel", attention=attention, **DECODERS[kind])
    inputs = decoder_inputs(kind, padding=padding, labels=False)
    real = inputs["attention_mask"].bool()
    with torch.no_grad():
        whole = ours(**inputs, use_cache=False).logits[real]
        for lengths in PIECES:
            logits, expected = decode(ours, inputs, lengths)[real], decode(theirs, inputs, lengths)[real]
            if kind == "decoder":
                assert torch.equal(logits, expected), lengths
            # The oracle copies the encoder's keys into its cache, so a product over them may round differently.
            for other in (expected, whole):
                torch.testing.assert_close(logits, other, rtol=0, atol=1e-5 * whole.abs().max().item())


def test_cross_attentions_are_returned_equal() -> None:
    ours, theirs = pair("BertLMHeadModel", **DECODERS["cross-attention"])
    inputs = decoder_inputs("cross-attention")
    with torch.no_grad():
        mine = ours(**inputs, output_hidden_states=True, output_attentions=True, use_cache=False)
        other = theirs(**inputs, output_hidden_states=True, output_attentions=True, use_cache=False)
    assert len(mine.cross_attentions) == 2
    assert mine.cross_attentions[0].shape == (3, 4, 7, ENCODER_LENGTH)
    assert different(mine, other) == []
