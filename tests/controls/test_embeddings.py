"""The vocabulary: its embeddings and the matrix that scores it, tied or not, resized, replaced, saved."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import safetensors
import torch
from torch import nn

import minitf
from tests.controls.models import (
    CLASSES,
    SCORING,
    TRUNKS,
    build,
    config,
    inputs_for,
    is_gpt2,
    objective,
    scores,
    sizes,
    words,
)
from tests.support import padded_batch, randomise_

WORDS = words("BertForMaskedLM")
LANGUAGE_MODELS = ("BertForMaskedLM", "GPT2LMHeadModel")


def names_in(folder: Path) -> set[str]:
    with safetensors.safe_open(folder / "model.safetensors", "pt") as file:
        return set(file.keys())


# -------------------------------------------------------------------------------------------------------------- resize


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize(
    ("asked", "multiple", "rows"), [(70, None, 70), (50, None, 50), (62, 8, 64), (None, 32, 64), (64, 32, 64)]
)
@pytest.mark.parametrize("class_name", CLASSES)
def test_resizing_keeps_the_old_rows(
    class_name: str, asked: int | None, multiple: int | None, rows: int, tied: bool, tmp_path: Path
) -> None:
    model = build(class_name, tie_word_embeddings=tied)
    old = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    returned = model.resize_token_embeddings(asked, pad_to_multiple_of=multiple)
    assert returned is model.get_input_embeddings()
    assert (returned.num_embeddings, returned.weight.shape[0], model.config.vocab_size) == (rows, rows, rows)
    kept = min(rows, 61)
    changed = []
    for name, tensor in model.state_dict().items():
        if tensor.shape != old[name].shape:
            changed.append(name)
            assert torch.equal(tensor[:kept], old[name][:kept]), name
            assert tensor.shape[0] == rows
        else:
            assert torch.equal(tensor, old[name]), name
    assert sorted(changed) == sorted([words(class_name), *scores(class_name)])
    model.check_ties()
    if class_name in SCORING:
        assert (model.get_output_embeddings().weight is returned.weight) is tied
        assert model.get_output_embeddings().out_features == rows
        assert is_gpt2(class_name) or model.cls.predictions.decoder.bias is model.cls.predictions.bias
    inputs = inputs_for(class_name)
    for name in ("input_ids", "token_type_ids"):  # GPT-2's token types are words
        inputs[name] = inputs[name].clamp(max=rows - 1)
    if class_name in SCORING:
        inputs["labels"] = inputs["labels"].clamp(max=rows - 1)
    model.save_pretrained(tmp_path)
    loaded = getattr(minitf, class_name).from_pretrained(tmp_path, strict=True)
    with torch.no_grad():
        ours, theirs = model(**inputs), loaded(**inputs)
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True) if torch.is_tensor(a))


@pytest.mark.parametrize("rows", [75, 40])
@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize("class_name", [*TRUNKS, *SCORING])
def test_the_same_seed_draws_the_rows_of_transformers(class_name: str, tied: bool, rows: int) -> None:
    import transformers

    ours = build(class_name, tie_word_embeddings=tied)
    decoder = {"is_decoder": True} if class_name == "BertLMHeadModel" else {}
    config_class = transformers.GPT2Config if is_gpt2(class_name) else transformers.BertConfig
    theirs = getattr(transformers, class_name)(config_class(**sizes(class_name), **decoder, tie_word_embeddings=tied))
    randomise_(theirs)
    torch.manual_seed(4)
    ours.resize_token_embeddings(rows)
    torch.manual_seed(4)
    theirs.resize_token_embeddings(rows, mean_resizing=False)
    assert torch.equal(ours.get_input_embeddings().weight, theirs.get_input_embeddings().weight)
    if class_name in SCORING:
        assert torch.equal(ours.get_output_embeddings().weight, theirs.get_output_embeddings().weight)


@pytest.mark.parametrize("class_name", LANGUAGE_MODELS)
def test_new_rows_are_drawn_by_the_rule_of_initialisation(class_name: str) -> None:
    for spread in (0.02, 0.5):
        model = build(class_name, initializer_range=spread, tie_word_embeddings=False)
        model.resize_token_embeddings(61 + 2000)
        for weight in (model.get_input_embeddings().weight, model.get_output_embeddings().weight):
            assert weight[61:].mean().abs() < spread / 20
            assert abs(weight[61:].std().item() / spread - 1) < 0.02
        assert is_gpt2(class_name) or model.cls.predictions.bias[61:].abs().max() == 0


def test_the_tutorials_three_tokens() -> None:
    """Tokens <bos>, <eos>, <pad> for GPT-2's published vocabulary: 50257 rows become 50260, the scores follow."""
    model = minitf.GPT2LMHeadModel(minitf.GPT2Config(n_embd=768, n_layer=1, n_head=12, n_inner=8, n_positions=8))
    assert model.config.vocab_size == 50257
    before = model.get_input_embeddings().weight.detach().clone()
    embeddings = model.resize_token_embeddings(50260)
    assert embeddings is model.get_input_embeddings()
    assert repr(embeddings) == "Embedding(50260, 768)"
    scoring = model.get_output_embeddings()
    assert (scoring.in_features, scoring.out_features, scoring.bias) == (768, 50260, None)
    assert scoring.weight is embeddings.weight
    assert torch.equal(embeddings.weight[:50257], before)
    assert 0.015 < embeddings.weight[50257:].std() < 0.025  # fresh: they need training
    model.config.bos_token_id, model.config.eos_token_id, model.config.pad_token_id = 50257, 50258, 50259
    assert model(torch.tensor([[50257, 5, 50258]])).logits.shape == (1, 3, 50260)
    assert model.resize_token_embeddings(pad_to_multiple_of=64).num_embeddings == 50304 == model.config.vocab_size


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"pad_token_id": 60}, "60 rows would cut off config.pad_token_id = 60: set another one first"),
        ({"eos_token_id": [3, 60]}, r"60 rows would cut off config.eos_token_id = [3, 60]: set another one first"),
        ({"bos_token_id": 60}, "60 rows would cut off config.bos_token_id = 60"),
    ],
)
def test_special_tokens_are_not_cut_off(settings: dict[str, Any], message: str) -> None:
    model = build("GPT2LMHeadModel", **settings)
    with pytest.raises(ValueError) as caught:
        model.resize_token_embeddings(60)
    assert message in str(caught.value)
    assert model.config.vocab_size == model.get_input_embeddings().num_embeddings == 61
    for name in settings:
        setattr(model.config, name, 5)
    model.resize_token_embeddings(60)
    assert model.config.vocab_size == 60


@pytest.mark.parametrize("class_name", LANGUAGE_MODELS)
def test_the_size_that_is_there_changes_nothing(class_name: str) -> None:
    model = build(class_name)
    before, state = model.get_input_embeddings().weight, torch.get_rng_state()
    for settings in ({}, {"new_num_tokens": 61}, {"pad_to_multiple_of": 61}):
        assert model.resize_token_embeddings(**settings).weight is before
    assert torch.equal(torch.get_rng_state(), state)


def test_resizing_keeps_dtype_padding_and_freezing() -> None:
    model = build("BertForMaskedLM", pad_token_id=5).to(torch.float64)
    model.get_input_embeddings().weight.requires_grad = False
    embeddings = model.resize_token_embeddings(80)
    assert embeddings.weight.dtype == torch.float64
    assert embeddings.padding_idx == 5
    assert not embeddings.weight.requires_grad
    assert model.cls.predictions.bias.requires_grad


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"new_num_tokens": 0}, "new_num_tokens = 0: expected an integer >= 1"),
        ({"new_num_tokens": -3}, "new_num_tokens = -3"),
        ({"new_num_tokens": 70.0}, "new_num_tokens = 70.0"),
        ({"new_num_tokens": True}, "new_num_tokens = True"),
        ({"new_num_tokens": 70, "pad_to_multiple_of": 0}, "pad_to_multiple_of = 0: expected an integer >= 1"),
        ({"new_num_tokens": 9}, "9 rows would cut off "),
    ],
)
@pytest.mark.parametrize("trunk", TRUNKS)
def test_sizes_that_are_refused(trunk: str, settings: dict[str, Any], message: str) -> None:
    model = build(trunk, pad_token_id=9)
    with pytest.raises(ValueError) as caught:
        model.resize_token_embeddings(**settings)
    assert message in str(caught.value)
    assert model.config.vocab_size == 61


# ------------------------------------------------------------------------------------------------------- get and set


@pytest.mark.parametrize("class_name", CLASSES)
def test_where_the_embeddings_are(class_name: str) -> None:
    model = build(class_name)
    trunk = model.base_model
    assert model.get_input_embeddings() is (trunk.wte if is_gpt2(class_name) else trunk.embeddings.word_embeddings)
    scoring = model.get_output_embeddings()
    assert (scoring is not None) is (class_name in SCORING)
    assert scoring is None or scoring is (model.lm_head if is_gpt2(class_name) else model.cls.predictions.decoder)


@pytest.mark.parametrize("class_name", CLASSES)
def test_replaced_input_embeddings_are_used_and_shared(class_name: str) -> None:
    model = build(class_name)
    inputs = inputs_for(class_name, labels=False, **({"padding": "none"} if is_gpt2(class_name) else {}))
    if is_gpt2(class_name):
        del inputs["token_type_ids"]  # rows of the embeddings that are replaced
    new = nn.Embedding(61, 64)
    with torch.no_grad():
        expected = model(
            inputs_embeds=new(inputs["input_ids"]), **{k: v for k, v in inputs.items() if k != "input_ids"}
        )
        model.set_input_embeddings(new)
        assert model.get_input_embeddings() is new
        replaced = model(**inputs)
    if class_name in SCORING:
        assert model.get_output_embeddings().weight is new.weight
        model.check_ties()
    else:
        assert torch.equal(replaced[0], expected[0])


@pytest.mark.parametrize("class_name", LANGUAGE_MODELS)
def test_input_embeddings_of_another_size(class_name: str) -> None:
    model = build(class_name)
    for wrong, numbers in ((nn.Embedding(60, 64), "60 rows of 64"), (nn.Embedding(61, 32), "61 rows of 32")):
        with pytest.raises(ValueError) as caught:
            model.set_input_embeddings(wrong)
        message = str(caught.value)
        assert numbers in message
        assert "vocab_size is 61 and hidden_size 64" in message
        assert "resize_token_embeddings" in message


def test_replaced_output_embeddings() -> None:
    model = build("BertForMaskedLM", tie_word_embeddings=False)
    new = nn.Linear(64, 61)
    model.set_output_embeddings(new)
    assert model.get_output_embeddings() is new
    assert model.cls.predictions.bias is new.bias
    inputs = padded_batch()
    with torch.no_grad():
        hidden = model.cls.predictions.transform(model.bert(**inputs).last_hidden_state)
        assert torch.equal(model(**inputs).logits, new(hidden))


def test_replaced_output_embeddings_of_gpt2() -> None:
    model = build("GPT2LMHeadModel", tie_word_embeddings=False)
    new = nn.Linear(64, 61, bias=False)
    model.set_output_embeddings(new)
    assert model.get_output_embeddings() is new
    inputs = padded_batch()
    with torch.no_grad():
        assert torch.equal(model(**inputs).logits, new(model.transformer(**inputs).last_hidden_state))
    tied = build("GPT2LMHeadModel")
    for wrong, parts in (
        (nn.Linear(64, 60, bias=False), ("[60, 64]", "[61, 64]")),
        (nn.Linear(64, 61), ("a bias", "no bias")),
        (nn.Linear(64, 61, bias=False), ("tied", "tie_word_embeddings = False", "get_input_embeddings()")),
    ):
        with pytest.raises(ValueError) as caught:
            tied.set_output_embeddings(wrong)
        assert all(part in str(caught.value) for part in parts), caught.value
    shared = nn.Linear(64, 61, bias=False)
    shared.weight = tied.get_input_embeddings().weight
    tied.set_output_embeddings(shared)
    tied.check_ties()


def test_output_embeddings_that_do_not_fit() -> None:
    model = build("BertForMaskedLM")
    for wrong, parts in (
        (nn.Linear(64, 60), ("[60, 64]", "[61, 64]")),
        (nn.Linear(64, 61, bias=False), ("no bias", "a bias")),
        (nn.Linear(64, 61), ("tied", "tie_word_embeddings = False", "get_input_embeddings()")),
    ):
        with pytest.raises(ValueError) as caught:
            model.set_output_embeddings(wrong)
        assert all(part in str(caught.value) for part in parts), caught.value
    shared = nn.Linear(64, 61)
    shared.weight = model.get_input_embeddings().weight
    model.set_output_embeddings(shared)
    model.check_ties()


# ---------------------------------------------------------------------------------------------------------------- ties


@pytest.mark.parametrize("class_name", SCORING)
def test_ties_after_everything_that_could_break_them(class_name: str, tmp_path: Path) -> None:
    model = build(class_name)
    model.save_pretrained(tmp_path)
    stored = names_in(tmp_path)
    assert words(class_name) in stored
    assert ("cls.predictions.bias" in stored) is not is_gpt2(class_name)
    assert not {"cls.predictions.decoder.weight", "cls.predictions.decoder.bias", "lm_head.weight"} & stored
    loaded = getattr(minitf, class_name).from_pretrained(tmp_path, strict=True)
    resized = copy.deepcopy(model)
    resized.resize_token_embeddings(80)
    half = getattr(minitf, class_name).from_pretrained(tmp_path, dtype="float16")
    for twin in (loaded, resized, half, copy.deepcopy(loaded).to(torch.float64)):
        twin.check_ties()
        assert twin.get_output_embeddings().weight is twin.get_input_embeddings().weight
        assert is_gpt2(class_name) or twin.cls.predictions.decoder.bias is twin.cls.predictions.bias
    objective(class_name, loaded.train()(**inputs_for(class_name))).backward()
    torch.optim.SGD(loaded.parameters(), lr=0.1).step()
    loaded.check_ties()
    assert not torch.equal(loaded.get_output_embeddings().weight, model.get_output_embeddings().weight)


@pytest.mark.parametrize("class_name", LANGUAGE_MODELS)
def test_a_broken_tie_is_not_saved(class_name: str, tmp_path: Path) -> None:
    model = build(class_name)
    decoder = model.get_output_embeddings()
    decoder.weight = nn.Parameter(decoder.weight.detach() + 1)
    with pytest.raises(RuntimeError) as caught:
        model.save_pretrained(tmp_path)
    names = (scores(class_name)[-1], words(class_name))
    assert all(word in str(caught.value) for word in (*names, "tie_weights()"))
    assert not list(tmp_path.iterdir())
    model.config.tie_word_embeddings = False  # the other remedy of the message
    model.save_pretrained(tmp_path)
    loaded = getattr(minitf, class_name).from_pretrained(tmp_path)
    assert torch.equal(loaded.get_output_embeddings().weight, decoder.weight)


def test_a_file_with_two_values_for_one_parameter(tmp_path: Path) -> None:
    """Both names may be stored; if they differ, one would be lost."""
    for name, other in (("decoder.bias", "bias"), ("decoder.weight", WORDS)):
        model = build("BertForMaskedLM", tie_word_embeddings=False)
        model.get_output_embeddings().weight = nn.Parameter(model.get_input_embeddings().weight.detach().clone())
        predictions = model.cls.predictions
        predictions.decoder.bias = nn.Parameter(predictions.bias.detach().clone())
        tensors = {key: tensor.clone() for key, tensor in model.state_dict().items()}
        folder = tmp_path / name
        config(tie_word_embeddings=True).save_pretrained(folder)
        safetensors.torch.save_file(tensors, folder / "model.safetensors", {"format": "pt"})
        minitf.BertForMaskedLM.from_pretrained(folder).check_ties()
        tensors[f"cls.predictions.{name}"][0] += 1
        safetensors.torch.save_file(tensors, folder / "model.safetensors", {"format": "pt"})
        with pytest.raises(ValueError) as caught:
            minitf.BertForMaskedLM.from_pretrained(folder)
        message = str(caught.value)
        assert all(word in message for word in (f"cls.predictions.{name}", other, "different values")), message


@pytest.mark.parametrize("class_name", SCORING)
def test_untied_weights_survive_a_file(class_name: str, tmp_path: Path) -> None:
    model = build(class_name, tie_word_embeddings=False)
    assert not torch.equal(model.get_output_embeddings().weight, model.get_input_embeddings().weight)
    model.save_pretrained(tmp_path)
    assert {words(class_name), scores(class_name)[-1]} <= names_in(tmp_path)
    loaded = getattr(minitf, class_name).from_pretrained(tmp_path, strict=True)
    assert loaded.config.tie_word_embeddings is False
    assert torch.equal(loaded.get_output_embeddings().weight, model.get_output_embeddings().weight)
    assert torch.equal(loaded.get_input_embeddings().weight, model.get_input_embeddings().weight)
    assert is_gpt2(class_name) or loaded.cls.predictions.decoder.bias is loaded.cls.predictions.bias


# --------------------------------------------------------------------------------------------------------- torchscript


@pytest.mark.parametrize("class_name", CLASSES)
def test_torchscript_gives_plain_tuples_and_unties(class_name: str) -> None:
    model = build(class_name, torchscript=True)
    plain = build(class_name)
    inputs = inputs_for(class_name)
    with torch.no_grad():
        output = model(**inputs)
        assert type(output) is tuple
        assert not isinstance(model(**inputs, return_dict=True), tuple)
        if class_name not in SCORING:
            expected = plain(**inputs).to_tuple()
            assert len(output) == len(expected)
            for one, other in zip(output, expected, strict=True):
                assert type(one) is (torch.Tensor if torch.is_tensor(other) else tuple)  # a cache is the classic tuple
                pairs = zip(one, other, strict=True) if isinstance(one, tuple) else [((one,), (other,))]
                assert all(torch.equal(a, b) for x, y in pairs for a, b in zip(x, y, strict=True))
    if class_name in SCORING:
        assert model.get_output_embeddings().weight is not model.get_input_embeddings().weight
        assert is_gpt2(class_name) or model.cls.predictions.decoder.bias is model.cls.predictions.bias


@pytest.mark.parametrize("class_name", LANGUAGE_MODELS)
def test_torchscript_begins_with_copies_and_keeps_what_is_trained(class_name: str, tmp_path: Path) -> None:
    model_class = getattr(minitf, class_name)
    fresh = model_class(config(class_name, torchscript=True))
    assert torch.equal(fresh.get_output_embeddings().weight, fresh.get_input_embeddings().weight)
    tied = build(class_name)
    tied.save_pretrained(tmp_path / "tied")
    model = model_class.from_pretrained(tmp_path / "tied", torchscript=True, strict=True)
    assert torch.equal(model.get_output_embeddings().weight, tied.get_input_embeddings().weight)
    assert model.get_output_embeddings().weight is not model.get_input_embeddings().weight
    with torch.no_grad():
        assert torch.equal(model(**padded_batch())[0], tied(**padded_batch()).logits)
        model.get_output_embeddings().weight.add_(1)
    model.save_pretrained(tmp_path / "trained")
    again = model_class.from_pretrained(tmp_path / "trained")
    assert torch.equal(again.get_output_embeddings().weight, tied.get_input_embeddings().weight + 1)
    again.resize_token_embeddings(70)
    assert torch.equal(again.get_output_embeddings().weight[:61], tied.get_input_embeddings().weight + 1)
