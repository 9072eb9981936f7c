"""GPT-2 against transformers 5.x: equal bits in the forward pass, the loss, every gradient and ten optimiser steps.

Left-padded rows are compared where there are tokens (see `gpt2_pairs.attended`).
"""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
import transformers

import minitf
from minitf.losses import causal_language_model_loss
from tests.parity.gpt2_pairs import (
    CLASSES,
    HEADS,
    TINY,
    attended,
    different,
    encoder_inputs,
    for_oracle,
    gradients,
    inputs_for,
    objective,
    pair,
)

MASKS = ("none", "right", "left")
WORD_SCORES = ("GPT2LMHeadModel", "GPT2DoubleHeadsModel")


@pytest.fixture(autouse=True)
def one_thread() -> Any:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def both_results(class_name: str, ours: Any, theirs: Any, inputs: dict[str, torch.Tensor], **flags: Any) -> Any:
    """The two outputs at real tokens, without recording gradients."""
    with torch.no_grad():
        outputs = ours(**inputs, **flags), theirs(**for_oracle(inputs), **flags)
    return [attended(class_name, output, inputs["attention_mask"]) for output in outputs]


def run_backward(class_name: str, model: Any, inputs: dict[str, Any], training: bool) -> dict[str, Any]:
    """One step; the parameters have gradients afterwards, and the result holds the objective instead of the loss."""
    model.train(training)
    torch.manual_seed(11)
    output = model(**inputs)
    if class_name == "GPT2LMHeadModel" and output.logits.dtype == torch.float64:
        # The oracle rounds the logits to float32 before this one loss; ours keeps them, so both get ours.
        exact = causal_language_model_loss(output.logits, inputs["labels"])
        assert abs(output.loss.double() - exact) < 1e-6
        output.loss = exact
    total = objective(class_name, output, inputs["attention_mask"])
    total.backward()
    result = attended(class_name, output, inputs["attention_mask"])
    if class_name == "GPT2ForQuestionAnswering":
        result.pop("loss")  # it is the objective, or depends on what stands at padding
    return {**result, "objective": total}


def assert_same_gradients(ours: Any, theirs: Any) -> None:
    expected = gradients(theirs)
    for name, gradient in gradients(ours).items():
        assert (gradient is None) == (expected[name] is None), name
        assert gradient is None or torch.equal(gradient, expected[name]), name


GRID = list(itertools.product(CLASSES, ("eager", "sdpa"), MASKS, (False, True), (torch.float32, torch.float64)))


@pytest.mark.slow
@pytest.mark.parametrize(("class_name", "attention", "padding", "training", "dtype"), GRID)
def test_forward_loss_and_every_gradient_are_equal(
    class_name: str, attention: str, padding: str, training: bool, dtype: torch.dtype
) -> None:
    """Bitwise, dropout included (same seed)."""
    ours, theirs = pair(class_name, attention=attention, dtype=dtype)
    inputs = inputs_for(class_name, padding=padding)
    mine = run_backward(class_name, ours, inputs, training)
    other = run_backward(class_name, theirs, for_oracle(inputs), training)
    assert different(mine, other) == []
    assert_same_gradients(ours, theirs)


@pytest.mark.parametrize("class_name", CLASSES)
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("padding", MASKS)
def test_without_position_ids_the_numbers_are_the_oracles_too(class_name: str, attention: str, padding: str) -> None:
    ours, theirs = pair(class_name, attention=attention)
    inputs = inputs_for(class_name, padding=padding, positions=False)
    mine = run_backward(class_name, ours, inputs, False)
    other = run_backward(class_name, theirs, for_oracle(inputs), False)
    assert different(mine, other) == []
    assert_same_gradients(ours, theirs)
    with_positions = inputs_for(class_name, padding=padding)
    shifted = attended(class_name, ours(**with_positions), with_positions["attention_mask"])
    shifted.pop("loss", None)
    assert (different({**shifted, "objective": mine["objective"]}, without_loss(mine)) != []) == (padding == "left")


def without_loss(result: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in result.items() if name != "loss"}


@pytest.mark.parametrize("class_name", CLASSES)
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_two_threads_and_another_head_size_agree_closely(class_name: str, attention: str) -> None:
    """Beside the equality stands the tolerance: head size 12 (no power of two), two threads."""
    torch.set_num_threads(2)
    ours, theirs = pair(class_name, attention=attention, n_embd=48)
    mine, other = both_results(class_name, ours, theirs, inputs_for(class_name))
    assert different(mine, other, lambda a, b: torch.allclose(a, b, rtol=1e-5, atol=4e-5)) == []


@pytest.mark.parametrize("class_name", CLASSES)
def test_eager_and_sdpa_agree_in_float64(class_name: str) -> None:
    eager, _ = pair(class_name, dtype=torch.float64)
    sdpa, _ = pair(class_name, attention="sdpa", dtype=torch.float64)
    inputs = inputs_for(class_name, padding="left")
    with torch.no_grad():
        # also at padding queries: a row that may attend to nothing has one result
        assert different(eager(**inputs), sdpa(**inputs), lambda a, b: torch.allclose(a, b, rtol=0, atol=1e-10)) == []


@pytest.mark.parametrize("class_name", CLASSES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("padding", ["right", "left"])
def test_half_precision_is_as_close_to_float64_as_the_oracle(
    class_name: str, dtype: torch.dtype, attention: str, padding: str
) -> None:
    """The error against float64 is at most 1.5 times that of transformers in the same half precision."""
    exact, _ = pair(class_name, dtype=torch.float64, attention=attention)
    ours, theirs = pair(class_name, dtype=dtype, attention=attention)
    inputs = inputs_for(class_name, labels=False, padding=padding)
    with torch.no_grad():
        outputs = ours(**inputs)
        assert all(torch.isfinite(value).all() for value in outputs.to_tuple() if torch.is_tensor(value))
        reference = attended(class_name, exact(**inputs), inputs["attention_mask"])
    mine, other = both_results(class_name, ours, theirs, inputs)
    for name in mine.keys() - {"past_key_values"}:
        error = (mine[name].double() - reference[name]).abs().max()
        assert error <= 1.5 * (other[name].double() - reference[name]).abs().max(), name


@pytest.mark.parametrize("class_name", CLASSES)
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_weights_after_ten_adamw_steps_with_dropout_are_equal(class_name: str, attention: str) -> None:
    ours, theirs = pair(class_name, attention=attention)
    for model in (ours, theirs):
        model.train()
        torch.manual_seed(5)
        optimiser = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.01)
        for step in range(10):
            optimiser.zero_grad()
            inputs = inputs_for(class_name, seed=step, padding=("left", "right")[step % 2])
            objective(class_name, model(**for_oracle(inputs)) if model is theirs else model(**inputs),
                      inputs["attention_mask"]).backward()  # fmt: skip
            optimiser.step()
    expected = theirs.state_dict()
    assert [name for name, tensor in ours.state_dict().items() if not torch.equal(tensor, expected[name])] == []


@pytest.mark.parametrize("class_name", CLASSES)
@pytest.mark.parametrize("padding", ["none", "right"])
def test_hidden_states_and_attentions_are_equal(class_name: str, padding: str) -> None:
    """L inputs of the blocks and, last, the output of ln_f: not that of the last block, which nobody returns."""
    ours, theirs = pair(class_name)
    inputs = inputs_for(class_name, padding=padding)
    with torch.no_grad():
        mine = ours(**inputs, output_hidden_states=True, output_attentions=True)
        other = theirs(**for_oracle(inputs), output_hidden_states=True, output_attentions=True)
    assert len(mine.hidden_states) == 3
    assert len(mine.attentions) == 2
    assert different(mine, other) == []
    assert tuple(mine[-2:]) == (mine.hidden_states, mine.attentions)
    assert mine.attentions[0].shape[1:] == (4, 7, 7)
    last = mine.hidden_states[-1]
    blocks: list[torch.Tensor] = []
    ours.base_model.h[-1].register_forward_hook(lambda *given: blocks.append(given[2][0]))
    with torch.no_grad():
        ours(**inputs)
        assert torch.equal(last.view_as(blocks[0]), ours.base_model.ln_f(blocks[0]))
        assert not torch.allclose(last.view_as(blocks[0]), blocks[0])


def test_masks_of_three_and_four_dimensions() -> None:
    """[B, S], [B, T, S] and [B, 1, T, S] with the same content give the same bits; the oracle takes the last form."""
    ours, theirs = pair("GPT2Model", attention="sdpa")
    inputs = inputs_for("GPT2Model")
    padding = inputs.pop("attention_mask").bool()
    square = torch.rand(3, 7, 7, generator=torch.Generator().manual_seed(3)) > 0.3
    square = (square | torch.eye(7).bool()) & padding[:, None]
    square[..., 0] = True
    with torch.no_grad():
        three = ours(**inputs, attention_mask=square)
        assert different(three, ours(**inputs, attention_mask=square[:, None].long())) == []
        plain = ours(**inputs, attention_mask=padding)
        assert different(plain, ours(**inputs, attention_mask=padding[:, None].expand_as(square))) == []
        assert different(plain, three) != []
        causal = square[:, None] & torch.ones(7, 7).tril().bool()  # the oracle adds no triangle to a finished mask
        assert different(three, theirs(**inputs, attention_mask=causal)) == []


def test_inputs_embeds_position_ids_and_token_types() -> None:
    ours, theirs = pair("GPT2Model")
    inputs = inputs_for("GPT2Model", positions=False)
    ids, types = inputs.pop("input_ids"), inputs.pop("token_type_ids")
    positions = torch.arange(ids.shape[1]).flip(0) + 3
    with torch.no_grad():
        embeds = ours.get_input_embeddings()(ids)
        for position_ids in (positions, positions[None], positions[None].repeat(3, 1)):
            mine = ours(inputs_embeds=embeds, position_ids=position_ids, token_type_ids=types, **inputs)
            other = theirs(inputs_embeds=embeds, position_ids=positions[None], token_type_ids=types, **inputs)
            assert different(mine, other) == []
        assert different(ours(ids, position_ids=positions, token_type_ids=types, **inputs), mine) == []
        without = ours(ids, position_ids=positions, **inputs)
        assert different(without, theirs(ids, position_ids=positions[None], **inputs)) == []
        assert different(without, mine) == ["last_hidden_state"]
        # token types are rows of the word embeddings: adding them by hand is the same up to the order of the sum
        added = ours(inputs_embeds=embeds + ours.wte(types), position_ids=positions, **inputs)
    torch.testing.assert_close(added.last_hidden_state, mine.last_hidden_state, rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    "keep", [0, 1, 3, 7, torch.tensor([0, 4]), torch.tensor([-1]), torch.tensor([6, 0, 6])], ids=str
)
def test_logits_to_keep(keep: Any) -> None:
    ours, theirs = pair("GPT2LMHeadModel", attention="sdpa")
    inputs = inputs_for("GPT2LMHeadModel", labels=False)
    with torch.no_grad():
        mine, other = ours(**inputs, logits_to_keep=keep).logits, theirs(**inputs, logits_to_keep=keep).logits
        whole = ours(**inputs).logits
    assert torch.equal(mine, other)
    rows = whole[:, keep] if torch.is_tensor(keep) else whole[:, -keep:]
    torch.testing.assert_close(mine, rows, rtol=0, atol=1e-4)
    assert mine.shape[1] == (len(keep) if torch.is_tensor(keep) else keep or 7)


def test_logits_to_keep_beside_labels_is_refused() -> None:
    ours, _ = pair("GPT2LMHeadModel")
    inputs = inputs_for("GPT2LMHeadModel")
    for keep in (1, torch.tensor([0])):
        with pytest.raises(ValueError, match="logits_to_keep must be 0"):
            ours(**inputs, logits_to_keep=keep)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("padding", MASKS)
@pytest.mark.parametrize("training", [False, True])
def test_cross_attention_has_the_oracles_loss_and_gradients(attention: str, padding: str, training: bool) -> None:
    ours, theirs = pair("GPT2LMHeadModel", attention=attention, add_cross_attention=True)
    inputs = {**inputs_for("GPT2LMHeadModel", padding=padding), **encoder_inputs()}
    results = []
    for model in (ours, theirs):
        states = inputs["encoder_hidden_states"].clone().requires_grad_()
        step = {**inputs, "encoder_hidden_states": states, "use_cache": False}
        result = run_backward("GPT2LMHeadModel", model, step, training)
        results.append({**result, "gradient of the encoder": states.grad})
    assert different(*results) == []
    assert_same_gradients(ours, theirs)
    assert all(gradient is not None for gradient in gradients(ours).values())


@pytest.mark.parametrize("mask", [True, False])
def test_cross_attentions_are_returned_equal(mask: bool) -> None:
    ours, theirs = pair("GPT2Model", add_cross_attention=True)
    inputs = {**inputs_for("GPT2Model"), **encoder_inputs()}
    if not mask:
        del inputs["encoder_attention_mask"]
    with torch.no_grad():
        mine = ours(**inputs, output_hidden_states=True, output_attentions=True, use_cache=False)
        other = theirs(**inputs, output_hidden_states=True, output_attentions=True, use_cache=False)
    assert [probs.shape for probs in mine.cross_attentions] == [(3, 4, 7, 5)] * 2
    assert different(mine, other) == []


def test_cross_attention_layers_without_an_encoder_do_nothing() -> None:
    ours, theirs = pair("GPT2Model", add_cross_attention=True)
    plain, _ = pair("GPT2Model")
    inputs = inputs_for("GPT2Model")
    with torch.no_grad():
        assert different(ours(**inputs), theirs(**inputs)) == []
        assert different(ours(**inputs), plain(**inputs)) == []


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("class_name", CLASSES)
@pytest.mark.parametrize("settings", [{}, {"add_cross_attention": True}, {"tie_word_embeddings": False}], ids=str)
def test_the_same_seed_draws_the_same_fresh_weights(class_name: str, seed: int, settings: dict[str, Any]) -> None:
    torch.manual_seed(seed)
    ours = getattr(minitf, class_name)(minitf.GPT2Config(**TINY, **settings))
    torch.manual_seed(seed)
    theirs = getattr(transformers, class_name)(transformers.GPT2Config(**TINY, **settings))
    expected = theirs.state_dict()
    for name, tensor in ours.state_dict().items():
        assert torch.equal(tensor, expected[name]), name


def test_fresh_layers_that_write_into_the_residual_stream_are_smaller() -> None:
    """1 / sqrt(2 L) of `initializer_range`, the paper's rule; the next draws are not affected by it."""
    torch.manual_seed(0)
    model = minitf.GPT2Model(minitf.GPT2Config(**{**TINY, "n_layer": 8}))
    for block in model.h:
        for written, other in ((block.attn.c_proj, block.attn.c_attn), (block.mlp.c_proj, block.mlp.c_fc)):
            assert written.weight.std().item() == pytest.approx(0.02 / 4, rel=0.1)
            assert other.weight.std().item() == pytest.approx(0.02, rel=0.1)
            assert not written.bias.any()


@pytest.mark.parametrize("class_name", HEADS)
def test_untied_weights(class_name: str) -> None:
    ours, theirs = pair(class_name, tie_word_embeddings=False)
    if class_name in WORD_SCORES:
        assert ours.get_output_embeddings().weight is not ours.get_input_embeddings().weight
        assert not torch.equal(ours.lm_head.weight, ours.transformer.wte.weight)
    mine, other = both_results(class_name, ours, theirs, inputs_for(class_name))
    assert different(mine, other) == []
