"""Replacing modules: where, with which weights, what stays tied, how it is undone, and what saving does then."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn

from minitf.models.bert import BertSelfAttention
from minitf.surgery import Lora, add_adapter, delete_adapter, list_adapters, replace
from tests.surgery.models import EVERY, base_state, bert, gpt2, logits

ATTENTION = {"bert": "bert.encoder.layer.{0..1}.attention.self", "gpt2": "transformer.h.*.attn"}


class Doubled(nn.Linear):
    """A linear layer whose output is doubled: a change that a test can compute."""

    def forward(self, input: Tensor) -> Tensor:
        return 2 * super().forward(input)


def doubled(old: Any) -> nn.Module:
    return Doubled(old.in_features, old.out_features)


def rebuilt(old: Any) -> nn.Module:
    """The same class anew, with fresh weights."""
    return type(old)(old.config, layer_idx=old.layer_idx)


@pytest.mark.parametrize("name", EVERY)
def test_the_same_class_anew_computes_the_same_and_undo_brings_the_old_modules_back(name: str) -> None:
    model = EVERY[name]()
    before, tree = logits(model), dict(model.named_modules())
    with replace(model, ATTENTION[model.config.model_type], rebuilt) as replaced:
        assert len(replaced.paths) == 2
        for path in replaced.paths:
            new = model.get_submodule(path)
            assert type(new) is type(tree[path])
            assert new is not tree[path]
            assert not new.training
            assert new.config is model.config
        assert torch.equal(logits(model), before)
        assert "Attention -> " in str(replaced)
    assert list(model.named_modules()) == list(tree.items())
    assert torch.equal(logits(model), before)
    assert "undone" in str(replaced)


def test_the_new_module_computes_on_the_old_weights() -> None:
    model, twice = bert(), bert()
    with torch.no_grad():
        for layer in twice.bert.encoder.layer:
            layer.attention.self.query.weight *= 2
            layer.attention.self.query.bias *= 2
    replaced = replace(model, "**.query", doubled)
    assert replaced.paths == [f"bert.encoder.layer.{i}.attention.self.query" for i in range(2)]
    torch.testing.assert_close(logits(model), logits(twice))
    replaced.undo()
    assert not torch.allclose(logits(model), logits(twice), atol=1e-3)


def test_only_the_layers_of_the_pattern_are_replaced() -> None:
    model = bert()
    replace(model, "bert.encoder.layer.{1}.attention.self.query", doubled)
    kinds = [type(layer.attention.self.query) for layer in model.bert.encoder.layer]
    assert kinds == [nn.Linear, Doubled]


def test_training_mode_dtype_frozen_weights_and_buffers_go_along() -> None:
    model = bert().double().train()
    model.bert.encoder.layer[0].attention.self.query.bias.requires_grad_(False)
    replace(model, "**.query", doubled)
    new = model.bert.encoder.layer[0].attention.self.query
    assert new.training
    assert new.weight.dtype == torch.float64
    assert new.weight.requires_grad
    assert not new.bias.requires_grad

    class Counted(nn.LayerNorm):
        def __init__(self, size: int) -> None:
            super().__init__(size)
            self.register_buffer("count", torch.zeros(()))

    first = nn.Sequential(Counted(4))
    first[0].count.fill_(3.0)
    replace(first, "0", lambda old: Counted(4))
    assert first[0].count == 3


def test_the_old_modules_return_in_the_present_mode() -> None:
    model = bert()
    replaced = replace(model, "**.query", doubled)
    model.train()
    replaced.undo()
    assert all(module.training for module in model.modules())


def test_the_old_weights_are_not_touched_by_training_the_new_ones() -> None:
    model = bert()
    state = base_state(model)
    replaced = replace(model, "**.query", doubled)
    with torch.no_grad():
        model.bert.encoder.layer[0].attention.self.query.weight.zero_()
    replaced.undo()
    assert all(torch.equal(tensor, state[name]) for name, tensor in base_state(model).items())


@pytest.mark.parametrize("path", ["bert.embeddings.word_embeddings", "cls.predictions.decoder"])
def test_ties_stay(path: str) -> None:
    model = bert("BertForMaskedLM")
    before, weight = logits(model), model.bert.embeddings.word_embeddings.weight
    with replace(model, path, copy.deepcopy):
        assert model.get_submodule(path).weight is weight
        model.check_ties()
        assert torch.equal(logits(model), before)
    model.check_ties()
    assert model.get_submodule(path).weight is weight


def test_a_tie_is_never_torn_apart_in_silence() -> None:
    model = bert("BertForMaskedLM")
    with pytest.raises(
        ValueError, match=r"word_embeddings\.weight and cls\.predictions\.decoder\.weight are one param"
    ):
        replace(model, "**.word_embeddings", lambda old: nn.Embedding(61, 32), carry=False)

    def sharing(old: Any) -> nn.Module:
        new = nn.Embedding(61, 32)
        new.weight = old.weight
        return new

    replace(model, "**.word_embeddings", sharing, carry=False)
    model.check_ties()


def test_without_carry_the_new_module_keeps_its_own_weights() -> None:
    model = bert()
    before = logits(model)
    wide = lambda old: nn.Sequential(old, nn.Dropout(0.5))  # noqa: E731  # a wrapper, whose names differ
    with pytest.raises(ValueError, match=r"weight is missing in the new module; bias is missing.*0\.weight is only in"):
        replace(model, "**.intermediate.dense", wide)
    assert torch.equal(logits(model), before)
    replaced = replace(model, "**.intermediate.dense", wide, carry=False)
    assert torch.equal(logits(model), before)  # dropout is off: the mode was taken over
    replaced.undo()
    own = nn.Linear(32, 48)
    replace(model, "bert.encoder.layer.0.intermediate.dense", lambda old: own, carry=False)
    assert model.bert.encoder.layer[0].intermediate.dense is own
    assert not torch.equal(logits(model), before)


@pytest.mark.parametrize(
    ("pattern", "builder", "error", "message"),
    [
        (
            "bert.encoder.layer.{0,2}.output",
            doubled,
            ValueError,
            r"'bert.encoder.layer.2.output' .* matches no name here",
        ),
        ("**.qurey", doubled, ValueError, "did you mean 'query'"),
        (
            "**.query",
            lambda old: nn.Linear(32, 31),
            ValueError,
            r"weight has the shape \[31, 32\], the old one \[32, 32\]",
        ),
        ("**.query", lambda old: nn.Linear(32, 32, bias=False), ValueError, "bias is missing in the new module"),
        ("**.query", lambda old: old, TypeError, "returned a module that stands in the model"),
        ("**.query", lambda old: None, TypeError, "the builder returned None; expected an nn.Module"),
        (
            "**.layer.0**",
            doubled,
            ValueError,
            "matches bert.encoder.layer.0 and, within it, bert.encoder.layer.0.attention",
        ),
        ("", doubled, ValueError, "the pattern matches the model itself"),
        (5, doubled, TypeError, "the pattern 5 is no text: expected a path such as"),
        ("**.query", nn.Identity(), TypeError, r"builder = Identity\(\): expected a function of the old module"),
        ("**.query", None, TypeError, "builder = None: expected a function"),
    ],
)
def test_errors_leave_the_model_as_it_was(pattern: Any, builder: Any, error: type, message: str) -> None:
    model = bert()
    tree = list(model.named_modules())
    with pytest.raises(error, match=message):
        replace(model, pattern, builder)
    assert list(model.named_modules()) == tree


def test_one_new_module_for_two_places_and_one_old_module_in_two_places() -> None:
    model, one = bert(), nn.Linear(32, 32)
    with pytest.raises(TypeError, match=r"layer\.1\.attention.*stands in the model"):
        replace(model, "**.query", lambda old: one)
    layer = nn.Linear(4, 4)
    shared = nn.Sequential(layer, nn.ReLU(), layer)
    with pytest.raises(ValueError, match="the module at 0 is also at 2"):
        replace(shared, "0", doubled)


def test_undo_twice_and_undo_out_of_order() -> None:
    model = bert()
    first = replace(model, "**.query", doubled)
    second = replace(model, "bert.encoder.layer.1.attention.self.query", doubled)
    with pytest.raises(RuntimeError, match=r"layer\.1\.attention\.self\.query was replaced once more since"):
        first.undo()
    second.undo()
    first.undo()
    with pytest.raises(RuntimeError, match="undone before"):
        first.undo()


def test_the_block_undoes_after_an_exception_too() -> None:
    model = bert()
    tree = list(model.named_modules())
    with pytest.raises(ZeroDivisionError), replace(model, "**.query", doubled):
        _ = 1 / 0
    assert list(model.named_modules()) == tree


@pytest.mark.parametrize("name", EVERY)
def test_saving_a_replaced_module_is_an_error_until_it_is_undone(name: str, tmp_path: Path) -> None:
    model = EVERY[name]()
    replaced = replace(model, ATTENTION[model.config.model_type], rebuilt)
    for part in (model, model.base_model):
        with pytest.raises(RuntimeError, match=r"Attention in the place of a .*Attention, which no file records: undo"):
            part.save_pretrained(tmp_path / "no")
    with pytest.raises(RuntimeError, match="which no file records"):
        copy.deepcopy(model).save_pretrained(tmp_path / "no")
    assert not (tmp_path / "no").exists()
    model.load_state_dict(model.state_dict())  # the classic way works: names and shapes are the old ones
    replaced.undo()
    assert "save_pretrained" not in vars(model)
    model.save_pretrained(tmp_path / "yes")
    assert torch.equal(logits(type(model).from_pretrained(tmp_path / "yes").eval()), logits(model))


def test_a_copy_that_was_undone_saves_itself_and_not_the_original(tmp_path: Path) -> None:
    model = bert()
    replace(model, "**.query", doubled, save_as_plain=True)
    other = copy.deepcopy(model)
    replace(other, "**.key", doubled)
    with pytest.raises(RuntimeError, match=r"key is a Doubled"):
        other.save_pretrained(tmp_path)
    model.save_pretrained(tmp_path)


def test_save_as_plain_writes_the_names_of_the_old_modules(tmp_path: Path) -> None:
    model = bert()
    plain = logits(model)
    replace(model, "**.query", doubled, save_as_plain=True)
    model.save_pretrained(tmp_path)
    loaded = type(model).from_pretrained(tmp_path)
    assert torch.equal(logits(loaded), plain)  # the old computation, as the docstring says
    replace(loaded, "**.query", doubled)
    assert torch.equal(logits(loaded), logits(model))
    transformers.BertForSequenceClassification.from_pretrained(tmp_path)
    with pytest.raises(ValueError, match="save_as_plain=True needs carry=True"):
        replace(model, "**.key", doubled, carry=False, save_as_plain=True)


def test_generate_steps_aside_from_its_fast_path() -> None:
    model = gpt2()
    prompt = torch.tensor([[5, 6, 7]])
    plain = model.generate(prompt, max_new_tokens=8, pad_token_id=0)

    class Silent(type(model.transformer.h[0].mlp)):  # type: ignore[misc]
        def forward(self, hidden_states: Tensor) -> Tensor:
            return 0 * super().forward(hidden_states)

    with replace(model, "**.mlp", lambda old: Silent(128, model.config)):
        ids = model.generate(prompt, max_new_tokens=8, pad_token_id=0)
        for length in range(3, 11):
            assert ids[0, length] == model(ids[:, :length]).logits[0, -1].argmax()
    assert not torch.equal(ids, plain)
    assert torch.equal(model.generate(prompt, max_new_tokens=8, pad_token_id=0), plain)


def test_gradients_reach_the_new_module_and_pruning_and_head_masks_go_on() -> None:
    class Mine(BertSelfAttention):
        pass

    model = bert()
    replace(model, "**.attention.self", lambda old: Mine(old.config, old.layer_idx))
    model(torch.tensor([[4, 5, 6]]), labels=torch.tensor([1])).loss.backward()
    assert model.bert.encoder.layer[1].attention.self.query.weight.grad.abs().sum() > 0
    masked = model(torch.tensor([[4, 5, 6]]), head_mask=torch.tensor([1.0, 0.0])).logits
    model.prune_heads({0: [1], 1: [1]})
    torch.testing.assert_close(model(torch.tensor([[4, 5, 6]])).logits, masked)


def test_an_adapter_is_not_lost_with_its_layer() -> None:
    model = bert()
    add_adapter(model, "a", Lora(r=2))
    with pytest.raises(ValueError, match=r"query has the adapters a, which the new module has not: merge or delete"):
        replace(model, "**.query", lambda old: nn.Linear(32, 32), carry=False)
    before = logits(model)
    replaced = replace(model, "**.query", copy.deepcopy)
    assert torch.equal(logits(model), before)
    add_adapter(model, "b", Lora(r=2))
    with pytest.raises(RuntimeError, match=r"query has the adapters b since, which would go"):
        replaced.undo()
    delete_adapter(model, "b")
    replaced.undo()
    assert [info.name for info in list_adapters(model)] == ["a"]
    own = nn.Sequential(nn.Linear(4, 4))
    own[0].adapters = nn.ModuleList()
    with pytest.raises(TypeError, match="0 has an attribute 'adapters' of its own"):
        add_adapter(own, "a", Lora(r=2, targets="0"))
