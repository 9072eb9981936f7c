"""LoRA by its definition, `W + alpha / r * B A`, on nn.Linear and Conv1D, ours and transformers', and against peft."""

from __future__ import annotations

import copy
import io
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import torch.nn.functional as F
import transformers
from torch import Tensor, nn

import minitf
from minitf.surgery import (
    Bottleneck,
    Lora,
    add_adapter,
    delete_adapter,
    list_adapters,
    merge,
    set_active_adapters,
    train_adapter,
)
from minitf.surgery.adapters import pieces_named
from tests.support import minilm_folder
from tests.surgery.models import EVERY, base_state, batch, bert, gpt2, logits, stir


def trained(model: nn.Module, name: str, settings: Any, seed: int = 0) -> nn.Module:
    add_adapter(model, name, settings)
    stir(model, name, seed)
    return model


# --------------------------------------------------------------------------------------------------------------------
# The definition


def test_by_hand_on_a_linear_layer() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 5))
    x = torch.randn(4, 3, 6)
    plain = model(x)
    trained(model, "a", Lora(r=2, alpha=3, targets="0"))
    low = model[0].adapters["a"].low["whole"]
    assert [tuple(p.shape) for p in low.parameters()] == [(2, 6), (5, 2)]
    by_hand = F.linear(x, model[0].weight + 3 / 2 * low.B @ low.A, model[0].bias)
    torch.testing.assert_close(model(x), by_hand)
    assert not torch.allclose(model(x), plain, atol=1e-2)


def test_by_hand_on_a_square_conv1d() -> None:
    """`attn.c_proj` is square: a transposed update would raise no error."""
    model = gpt2()
    x = torch.randn(2, 3, 32)
    layer = model.transformer.h[1].attn.c_proj
    trained(model, "a", Lora(r=4, alpha=2, targets="transformer.h.1.attn.c_proj"))
    low = layer.adapters["a"].low["whole"]
    by_hand = x @ (layer.weight + 0.5 * (low.B @ low.A).t()) + layer.bias
    torch.testing.assert_close(layer(x), by_hand)


def test_by_hand_on_the_parts_of_c_attn() -> None:
    model = gpt2()
    x = torch.randn(2, 3, 32)
    layer = model.transformer.h[0].attn.c_attn
    query, key, value = layer(x).split(32, dim=-1)
    trained(model, "a", Lora(r=4, alpha=8))
    low = layer.adapters["a"].low
    assert set(low) == {"query", "value"}
    after = layer(x).split(32, dim=-1)
    torch.testing.assert_close(after[0], query + 2 * x @ low["query"].A.t() @ low["query"].B.t())
    torch.testing.assert_close(after[2], value + 2 * x @ low["value"].A.t() @ low["value"].B.t())
    assert torch.equal(after[1], key)
    assert not torch.allclose(after[0], query, atol=1e-2)


@pytest.mark.parametrize("parts", [("query",), ("key",), ("value",), ("value", "query"), ("query", "key", "value")])
def test_every_choice_of_parts_agrees_with_its_merged_form(parts: tuple[str, ...]) -> None:
    model = gpt2()
    plain = logits(model)
    trained(model, "a", Lora(r=3, parts=parts))
    assert list_adapters(model)[0].settings.parts == tuple(p for p in ("query", "key", "value") if p in parts)
    before, weight = logits(model), model.transformer.h[0].attn.c_attn.weight.clone()
    assert not torch.allclose(before, plain, atol=1e-3)
    merge(model)
    torch.testing.assert_close(logits(model), before, rtol=1e-5, atol=1e-5)
    changed = (model.transformer.h[0].attn.c_attn.weight != weight).view(32, 3, 32).any(dim=2).any(dim=0)
    assert changed.tolist() == [part in parts for part in ("query", "key", "value")]


def test_cross_attention_has_other_parts() -> None:
    model = gpt2(add_cross_attention=True)
    with pytest.raises(ValueError, match=r"crossattention\.c_attn has key, value"):
        add_adapter(model, "a", Lora(r=2, targets="**.crossattention.c_attn", parts=("query",)))
    trained(model, "a", Lora(r=2, targets="**.crossattention.c_attn", parts=("value",)))
    layer = model.transformer.h[0].crossattention.c_attn
    x = torch.randn(1, 2, 32)
    with_adapter = layer(x)
    set_active_adapters(model, None)
    assert torch.equal(layer(x)[..., :32], with_adapter[..., :32])
    assert not torch.allclose(layer(x)[..., 32:], with_adapter[..., 32:], atol=1e-2)


@pytest.mark.parametrize("name", EVERY)
def test_a_new_adapter_changes_nothing_and_a_trained_one_does(name: str) -> None:
    model = EVERY[name]()
    before, tree = logits(model), base_state(model)
    add_adapter(model, "a")
    assert torch.equal(logits(model), before)
    stir(model, "a")
    assert not torch.allclose(logits(model), before, atol=1e-3)
    set_active_adapters(model, None)
    assert torch.equal(logits(model), before)
    set_active_adapters(model, "a")
    delete_adapter(model, "a")
    assert torch.equal(logits(model), before)
    assert model.state_dict().keys() == tree.keys()


def test_the_defaults_are_query_and_value_and_not_those_of_cross_attention() -> None:
    decoder = bert("BertLMHeadModel", is_decoder=True, add_cross_attention=True)
    info = add_adapter(decoder, "a")
    assert info.settings.targets == tuple(
        f"bert.encoder.layer.{i}.attention.self.{part}" for i in range(2) for part in ("query", "value")
    )
    assert info.parameters == 4 * 8 * (32 + 32)
    info = add_adapter(gpt2(), "a")
    assert info.settings.targets == ("transformer.h.0.attn.c_attn", "transformer.h.1.attn.c_attn")
    assert info.settings.parts == ("query", "value")


@pytest.mark.parametrize("kind", ["Roberta", "Electra"])
@pytest.mark.parametrize(("settings", "places"), [(Lora(), 4), (Bottleneck(4), 4)])
def test_the_defaults_fit_relatives(kind: str, settings: Any, places: int) -> None:
    sizes = {
        "vocab_size": 61,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "embedding_size": 32,
    }
    config = getattr(transformers, f"{kind}Config")(**sizes, intermediate_size=48)
    model = getattr(transformers, f"{kind}Model")(config).eval()
    assert len(add_adapter(model, "a", settings).settings.targets) == places


# --------------------------------------------------------------------------------------------------------------------
# peft as the oracle


@pytest.mark.parametrize(
    ("kind", "targets", "pattern"),
    [
        ("bert", ["query", "value"], "**.{query,value}"),
        ("gpt2", ["c_attn"], "**.c_attn"),
        ("gpt2", ["mlp.c_proj"], "**.mlp.c_proj"),
    ],
)
def test_the_numbers_are_those_of_peft(kind: str, targets: list[str], pattern: str) -> None:
    """The same A and B: outputs, gradients and the merged model agree with peft on the transformers model."""
    ours = {"bert": bert, "gpt2": gpt2}[kind]()
    theirs = {"bert": bert, "gpt2": gpt2}[kind](library=transformers)
    config = peft.LoraConfig(r=4, lora_alpha=6, target_modules=targets, fan_in_fan_out=kind == "gpt2")
    oracle = peft.get_peft_model(copy.deepcopy(theirs), config)
    for model in (ours, theirs):
        trained(model, "a", Lora(r=4, alpha=6, targets=pattern))
        for path, piece in pieces_named(model, "a").items():
            layer: Any = oracle.base_model.model.get_submodule(path)
            with torch.no_grad():
                layer.lora_A["default"].weight.copy_(piece.low["whole"].A)
                layer.lora_B["default"].weight.copy_(piece.low["whole"].B)
    assert torch.equal(logits(theirs), logits(oracle))
    torch.testing.assert_close(logits(ours), logits(oracle), rtol=1e-5, atol=1e-6)

    theirs(**batch(theirs)).logits.square().sum().backward()
    oracle(**batch(theirs)).logits.square().sum().backward()
    path, piece = next(iter(pieces_named(theirs, "a").items()))
    layer = oracle.base_model.model.get_submodule(path)
    assert torch.equal(piece.low["whole"].A.grad, layer.lora_A["default"].weight.grad)
    assert torch.equal(piece.low["whole"].B.grad, layer.lora_B["default"].weight.grad)

    merge(theirs)
    torch.testing.assert_close(logits(theirs), logits(oracle.merge_and_unload()), rtol=1e-5, atol=1e-6)


# --------------------------------------------------------------------------------------------------------------------
# Merge


@pytest.mark.parametrize("name", EVERY)
def test_merged_equals_unmerged_within_the_noise_floor_and_undo_is_bitwise(name: str) -> None:
    model = EVERY[name]()
    state = base_state(model)
    trained(model, "a", Lora(r=4))
    separate = logits(model)
    exact = copy.deepcopy(model).double()
    floor = (logits(exact) - separate).abs().max()  # what float32 alone makes of the same function
    merged = merge(model)
    assert merged.names == ["a"]
    assert not list_adapters(model)
    assert model.state_dict().keys() == state.keys()
    assert (logits(model) - separate).abs().max() <= 10 * floor
    merge(exact)
    changed = [key for key, tensor in model.state_dict().items() if not torch.equal(tensor, state[key])]
    assert changed == [f"{path}.weight" for path in merged.paths]
    merged.undo()
    assert all(torch.equal(tensor, state[key]) for key, tensor in base_state(model).items())
    assert torch.equal(logits(model), separate)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_the_sum_is_rounded_once(dtype: torch.dtype) -> None:
    model = trained(nn.Sequential(nn.Linear(6, 5)), "a", Lora(r=2, targets="0")).to(dtype)
    weight, low = model[0].weight.clone(), model[0].adapters["a"].low["whole"]
    exact = weight.double() + 8 * low.B.double() @ low.A.double()
    merge(model)
    assert model[0].weight.dtype == dtype
    assert torch.equal(model[0].weight, exact.to(dtype))


def test_several_adapters_add_up_and_are_merged_together_or_one_by_one() -> None:
    model = gpt2()
    state = base_state(model)
    trained(trained(model, "a", Lora(r=2)), "b", Lora(r=3, alpha=1), seed=1)
    weight = model.transformer.h[0].attn.c_attn.weight
    deltas = {name: pieces_named(model, name)["transformer.h.0.attn.c_attn"].delta() for name in "ab"}
    set_active_adapters(model, ["a", "b"])
    both = logits(model)
    set_active_adapters(model, ["b"])
    only_b = logits(model)
    assert not torch.allclose(both, only_b, atol=1e-3)

    with merge(model, ["a", "b"]):
        torch.testing.assert_close(logits(model), both, rtol=1e-5, atol=1e-5)
        sum_of_both = state["transformer.h.0.attn.c_attn.weight"].double() + deltas["a"] + deltas["b"]
        torch.testing.assert_close(weight.double(), sum_of_both, rtol=1e-6, atol=1e-7)
    assert torch.equal(logits(model), only_b)
    with merge(model):  # what is active
        torch.testing.assert_close(logits(model), only_b, rtol=1e-5, atol=1e-5)
        assert [info.name for info in list_adapters(model)] == ["a"]
    assert [info.name for info in list_adapters(model)] == ["a", "b"]
    with merge(model, "a"), merge(model, "b"):
        torch.testing.assert_close(logits(model), both, rtol=1e-5, atol=1e-5)
    assert all(torch.equal(tensor, state[key]) for key, tensor in base_state(model).items())
    set_active_adapters(model, ["a", "b"])
    assert torch.equal(logits(model), both)  # the order of the pieces is as it was: the same rounding
    with merge(model, ["a", "a"]) as once:
        assert once.names == ["a"]


def test_what_cannot_be_merged_or_undone() -> None:
    model = gpt2()
    with pytest.raises(ValueError, match="no adapter is active, and none is named"):
        merge(model)
    trained(model, "low", Lora(r=2))
    trained(model, "neck", Bottleneck(3))
    state = model.state_dict()
    state = {key: tensor.clone() for key, tensor in state.items()}
    with pytest.raises(ValueError, match="'neck' is a bottleneck, which no matrix can hold"):
        merge(model, ["low", "neck"])
    with pytest.raises(ValueError, match="no adapter 'lo'; did you mean 'low'"):
        merge(model, "lo")
    assert all(torch.equal(tensor, state[key]) for key, tensor in model.state_dict().items())

    merged = merge(model, "low")
    with torch.no_grad():
        model.transformer.h[1].attn.c_attn.weight[0, 0] += 1
    with pytest.raises(RuntimeError, match=r"h\.1\.attn\.c_attn\.weight was changed after the merge"):
        merged.undo()
    again = merge(trained(gpt2(), "a", Lora(r=2)))
    again.undo()
    with pytest.raises(RuntimeError, match="undone before"):
        again.undo()
    other = merge(trained(gpt2(), "a", Lora(r=2)))
    add_adapter(other.model, "a", Lora(r=3))
    with pytest.raises(RuntimeError, match="has an adapter of the same name by now"):
        other.undo()
    half = merge(trained(gpt2(), "a", Lora(r=2)))
    half.model.bfloat16()
    with pytest.raises(RuntimeError, match="changed after the merge"):
        half.undo()


def test_a_tied_weight_is_not_merged() -> None:
    model = gpt2()
    trained(model, "a", Lora(r=2, targets="lm_head"))
    with pytest.raises(ValueError, match=r"lm_head\.weight is the same parameter as transformer\.wte\.weight"):
        merge(model)
    untied = gpt2(tie_word_embeddings=False)
    trained(untied, "a", Lora(r=2, targets="lm_head"))
    before = logits(untied)
    merge(untied)
    torch.testing.assert_close(logits(untied), before, rtol=1e-5, atol=1e-5)
    computed = nn.Sequential(torch.nn.utils.parametrizations.weight_norm(nn.Linear(4, 4)))
    add_adapter(computed, "a", Lora(r=2, targets="0"))
    with pytest.raises(ValueError, match=r"0\.weight is no parameter"):
        merge(computed)


@pytest.mark.parametrize("name", EVERY)
def test_a_merged_model_is_a_plain_checkpoint_and_an_unmerged_one_is_not_saved(name: str, tmp_path: Path) -> None:
    model = EVERY[name]()
    trained(model, "a", Lora(r=4))
    for part in (model, model.base_model):
        with pytest.raises(
            RuntimeError, match=r"has adapters, which no plain checkpoint holds: surgery\.merge\(model\)"
        ):
            part.save_pretrained(tmp_path / "no")
    assert not (tmp_path / "no").exists()
    merge(model)
    model.save_pretrained(tmp_path / "yes")
    for library in (minitf, transformers):
        loaded, report = getattr(library, type(model).__name__).from_pretrained(
            tmp_path / "yes", output_loading_info=True
        )
        assert not any(report[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
        torch.testing.assert_close(logits(loaded), logits(model), rtol=1e-5, atol=1e-6)
        expected = model.state_dict()
        assert all(torch.equal(tensor, expected[key]) for key, tensor in loaded.state_dict().items())


# --------------------------------------------------------------------------------------------------------------------
# Errors, and what happens to a model in use


def test_settings_are_checked() -> None:
    for wrong in (
        {"r": 0},
        {"r": 2.0},
        {"r": True},
        {"alpha": 0},
        {"alpha": float("inf")},
        {"dropout": 1.0},
        {"dropout": -0.1},
    ):
        with pytest.raises(ValueError, match=f"{next(iter(wrong))} = .*expected a p"):
            Lora(**wrong)
    with pytest.raises(ValueError, match="parts = 'query': expected names in a tuple"):
        Lora(parts="query")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="size = 0"):
        Bottleneck(size=0)
    assert Lora(targets=["a", "b"]) == Lora(targets=("a", "b"))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        (Lora(targets="**.qery"), ValueError, "did you mean 'query'"),
        (
            Lora(targets="**.LayerNorm"),
            TypeError,
            r"LayerNorm is a LayerNorm; LoRA changes nn.Linear and GPT-2's Conv1D",
        ),
        (Lora(targets="**.word_embeddings"), TypeError, "is a Embedding; LoRA changes"),
        (Lora(r=33), ValueError, r"r = 33: the update of .*query has at most rank 32"),
        (Lora(parts=("query",)), ValueError, "is one layer, not several side by side; leave parts out"),
        ("lora", TypeError, r"settings = 'lora': expected Lora\(...\) or Bottleneck\(...\)"),
    ],
)
def test_an_adapter_that_cannot_be_added(settings: Any, error: type, message: str) -> None:
    model = bert()
    with pytest.raises(error, match=message):
        add_adapter(model, "a", settings)
    assert not list_adapters(model)
    assert not any(module._forward_hooks for module in model.modules())


def test_names_and_unknown_architectures() -> None:
    model = bert()
    for name in ("", "a.b", "keys", "training", 3):
        with pytest.raises(ValueError, match=f"cannot have the name {name!r}"):
            add_adapter(model, name)
    add_adapter(model, "sst-2/try 1")
    with pytest.raises(ValueError, match="has an adapter 'sst-2/try 1' already"):
        add_adapter(model, "sst-2/try 1")
    with pytest.raises(ValueError, match="there are defaults for bert, roberta, electra, gpt2 only, not for None"):
        add_adapter(nn.Sequential(nn.Linear(2, 2)), "a")
    wrong = Lora(r=2, parts=("query", "quay"))
    with pytest.raises(ValueError, match=r"c_attn has query, key, value, each to be named once"):
        add_adapter(gpt2(), "a", wrong)


def test_a_layer_whose_weight_is_used_without_a_call_is_refused() -> None:
    model = nn.TransformerEncoderLayer(8, 2)
    with pytest.raises(TypeError, match=r"MultiheadAttention reads this layer's weight without calling it"):
        add_adapter(model, "a", Lora(r=2, targets="self_attn.out_proj"))


def test_an_input_that_the_hook_does_not_see_is_an_error() -> None:
    model = nn.Sequential(nn.Linear(4, 4))
    add_adapter(model, "a", Lora(r=2, targets="0"))
    with pytest.raises(RuntimeError, match="called with its input as a keyword, which adapters do not see"):
        model[0](input=torch.ones(1, 4))


@pytest.mark.parametrize("make", [bert, gpt2])
def test_pruning_beside_an_adapter_is_an_error_with_the_remedy(make: Any) -> None:
    model = trained(make(), "a", Lora(r=2))
    model.prune_heads({0: [1]})
    with pytest.raises(RuntimeError, match=r"when the adapter was added, .* merge or delete adapters before pruning"):
        logits(model)
    with pytest.raises(RuntimeError, match="merge or delete adapters before pruning"):
        merge(model)
    merged = trained(make(), "a", Lora(r=2))
    masked = merged(**batch(merged), head_mask=torch.tensor([[1.0, 0.0], [1.0, 1.0]])).logits
    merge(merged)
    merged.prune_heads({0: [1]})
    torch.testing.assert_close(logits(merged), masked, rtol=1e-5, atol=1e-5)


def test_a_copy_has_adapters_of_its_own() -> None:
    model = trained(gpt2(), "a", Lora(r=2))
    before = logits(model)
    other = copy.deepcopy(model)
    assert torch.equal(logits(other), before)
    stir(other, "a", seed=5)
    assert torch.equal(logits(model), before)
    assert not torch.allclose(logits(other), before, atol=1e-3)
    delete_adapter(other, "a")
    assert not any(module._forward_hooks for module in other.modules())
    assert torch.equal(logits(model), before)
    assert len(list_adapters(model)) == 1

    file = io.BytesIO()
    torch.save(model, file)  # the whole object, by pickle
    file.seek(0)
    read = torch.load(file, weights_only=False)
    assert torch.equal(logits(read), before)
    with pytest.raises(RuntimeError, match="has adapters"):
        read.save_pretrained("anywhere")
    delete_adapter(read, "a")
    assert not any(module._forward_hooks for module in read.modules())


def test_moving_to_another_dtype_moves_the_adapter() -> None:
    model = trained(bert(), "a", Lora(r=2)).double()
    assert logits(model).dtype == torch.float64
    assert add_adapter(model, "b", Lora(r=2)).parameters
    assert {p.dtype for p in model.parameters()} == {torch.float64}


def test_generate_steps_aside_from_its_fast_path_and_returns_to_it() -> None:
    from minitf.cache import KVCache
    from minitf.models.gpt2_step import why_not

    model = gpt2()
    prompt = torch.tensor([[5, 6, 7]])
    settings: dict[str, Any] = {"max_new_tokens": 10, "pad_token_id": 0}
    plain = model.generate(prompt, **settings)
    trained(model, "a", Lora(r=4))
    with torch.no_grad():
        assert why_not(model, KVCache()) == "a hook on transformer.h.0.attn.c_attn"
    ids = model.generate(prompt, **settings)
    assert not torch.equal(ids, plain)
    for length in range(3, 13):  # each token is the best one of a forward of the whole text with the adapter
        assert ids[0, length] == model(ids[:, :length]).logits[0, -1].argmax()
    merge(model)
    with torch.no_grad():
        assert why_not(model, KVCache()) is None
    assert torch.equal(model.generate(prompt, **settings), ids)


def test_tracing_and_checkpointing_see_the_adapter() -> None:
    model = trained(bert(torchscript=True), "a", Lora(r=4))
    inputs = batch(model)
    traced = torch.jit.trace(model, (inputs["input_ids"], inputs["attention_mask"]), check_trace=False)
    expected = model(inputs["input_ids"], inputs["attention_mask"])[0]
    torch.testing.assert_close(traced(inputs["input_ids"], inputs["attention_mask"])[0], expected)

    gradients = []
    for checkpointing in (False, True):
        model = trained(gpt2(resid_pdrop=0.1, attn_pdrop=0.0), "a", Lora(r=4, dropout=0.2))
        train_adapter(model, "a")
        if checkpointing:
            model.gradient_checkpointing_enable()
        torch.manual_seed(3)
        model(**batch(model), labels=batch(model)["input_ids"]).loss.backward()
        gradients.append([p.grad for p in model.parameters() if p.requires_grad])
    assert len(gradients[0]) == 8
    assert all(torch.equal(one, two) for one, two in zip(*gradients, strict=True))
    assert all(one.abs().sum() > 0 for one in gradients[0])


def test_a_real_checkpoint() -> None:
    """merged == unmerged at the noise floor of a real model of 22.7 million parameters."""
    model = minitf.BertModel.from_pretrained(minilm_folder())
    ids = torch.tensor([[101, 1037, 4937, 7719, 2006, 1996, 13523, 1012, 102]])
    add_adapter(model, "a", Lora(r=4))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for piece in pieces_named(model, "a").values():
            piece.low["whole"].B.copy_(0.02 * torch.randn(384, 4, generator=generator))

    def hidden(of: Any) -> Tensor:
        with torch.no_grad():
            result: Tensor = of(ids).last_hidden_state
        return result

    separate = hidden(model)
    floor = (hidden(copy.deepcopy(model).double()) - separate).abs().max()
    merge(model)
    assert (hidden(model) - separate).abs().max() <= 4 * floor
    assert floor < 1e-5


@pytest.mark.slow
def test_the_compiler_and_the_exporter_see_the_adapter() -> None:
    model = trained(bert("BertModel"), "a", Lora(r=4))
    ids = torch.tensor([[3, 4, 5]])
    expected = model(ids).last_hidden_state
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(ids).last_hidden_state, expected)
    exported = torch.export.export(model, (ids,))
    torch.testing.assert_close(exported.module()(ids).last_hidden_state, expected)
