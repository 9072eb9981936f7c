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
from tests.controls.models import SIZES, build, config
from tests.parity.bert_pairs import CLASSES, inputs_for
from tests.support import padded_batch, randomise_

SCORING = ("BertForPreTraining", "BertLMHeadModel", "BertForMaskedLM")
WORDS = "bert.embeddings.word_embeddings.weight"


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
    scores = ["cls.predictions.bias", "cls.predictions.decoder.bias", "cls.predictions.decoder.weight"]
    words = WORDS if class_name != "BertModel" else WORDS.removeprefix("bert.")
    assert sorted(changed) == [words, *(scores if class_name in SCORING else [])]
    model.check_ties()
    if class_name in SCORING:
        assert (model.get_output_embeddings().weight is returned.weight) is tied
        assert model.get_output_embeddings().out_features == rows
        assert model.cls.predictions.decoder.bias is model.cls.predictions.bias
    inputs = inputs_for(class_name)
    inputs["input_ids"] = inputs["input_ids"].clamp(max=rows - 1)
    if class_name in SCORING:
        inputs["labels"] = inputs["labels"].clamp(max=rows - 1)
    model.save_pretrained(tmp_path)
    loaded = getattr(minitf, class_name).from_pretrained(tmp_path, strict=True)
    with torch.no_grad():
        ours, theirs = model(**inputs), loaded(**inputs)
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True) if torch.is_tensor(a))


@pytest.mark.parametrize("rows", [75, 40])
@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize("class_name", ["BertModel", *SCORING])
def test_the_same_seed_draws_the_rows_of_transformers(class_name: str, tied: bool, rows: int) -> None:
    import transformers

    ours = build(class_name, tie_word_embeddings=tied)
    decoder = {"is_decoder": True} if class_name == "BertLMHeadModel" else {}
    theirs = getattr(transformers, class_name)(transformers.BertConfig(**SIZES, **decoder, tie_word_embeddings=tied))
    randomise_(theirs)
    torch.manual_seed(4)
    ours.resize_token_embeddings(rows)
    torch.manual_seed(4)
    theirs.resize_token_embeddings(rows, mean_resizing=False)
    assert torch.equal(ours.get_input_embeddings().weight, theirs.get_input_embeddings().weight)
    if class_name != "BertModel":
        assert torch.equal(ours.get_output_embeddings().weight, theirs.get_output_embeddings().weight)


def test_new_rows_are_drawn_by_the_rule_of_initialisation() -> None:
    for spread in (0.02, 0.5):
        model = build("BertForMaskedLM", initializer_range=spread, tie_word_embeddings=False)
        model.resize_token_embeddings(61 + 2000)
        for weight in (model.get_input_embeddings().weight, model.get_output_embeddings().weight):
            assert weight[61:].mean().abs() < spread / 20
            assert abs(weight[61:].std().item() / spread - 1) < 0.02
        assert model.cls.predictions.bias[61:].abs().max() == 0


def test_the_size_that_is_there_changes_nothing() -> None:
    model = build("BertForMaskedLM")
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
        ({"new_num_tokens": 9}, "9 rows would cut off the padding token 9"),
    ],
)
def test_sizes_that_are_refused(settings: dict[str, Any], message: str) -> None:
    model = build("BertModel", pad_token_id=9)
    with pytest.raises(ValueError) as caught:
        model.resize_token_embeddings(**settings)
    assert message in str(caught.value)
    assert model.config.vocab_size == 61


# ------------------------------------------------------------------------------------------------------- get and set


@pytest.mark.parametrize("class_name", CLASSES)
def test_where_the_embeddings_are(class_name: str) -> None:
    model = build(class_name)
    assert model.get_input_embeddings() is model.base_model.embeddings.word_embeddings
    scoring = model.get_output_embeddings()
    assert (scoring is not None) is (class_name in SCORING)
    assert scoring is None or scoring is model.cls.predictions.decoder


@pytest.mark.parametrize("class_name", CLASSES)
def test_replaced_input_embeddings_are_used_and_shared(class_name: str) -> None:
    model = build(class_name)
    inputs = inputs_for(class_name, labels=False)
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


def test_input_embeddings_of_another_size() -> None:
    model = build("BertForMaskedLM")
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


def test_output_embeddings_that_do_not_fit() -> None:
    model = build("BertForMaskedLM")
    for wrong, words in (
        (nn.Linear(64, 60), ("[60, 64]", "[61, 64]")),
        (nn.Linear(64, 61, bias=False), ("no bias", "a bias")),
        (nn.Linear(64, 61), ("tied", "tie_word_embeddings = False", "get_input_embeddings()")),
    ):
        with pytest.raises(ValueError) as caught:
            model.set_output_embeddings(wrong)
        assert all(word in str(caught.value) for word in words), caught.value
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
    assert WORDS in stored
    assert "cls.predictions.bias" in stored
    assert not {"cls.predictions.decoder.weight", "cls.predictions.decoder.bias"} & stored
    loaded = getattr(minitf, class_name).from_pretrained(tmp_path, strict=True)
    resized = copy.deepcopy(model)
    resized.resize_token_embeddings(80)
    half = getattr(minitf, class_name).from_pretrained(tmp_path, dtype="float16")
    for twin in (loaded, resized, half, copy.deepcopy(loaded).to(torch.float64)):
        twin.check_ties()
        assert twin.get_output_embeddings().weight is twin.get_input_embeddings().weight
        assert twin.cls.predictions.decoder.bias is twin.cls.predictions.bias
    loaded.train()(**inputs_for(class_name)).loss.backward()
    torch.optim.SGD(loaded.parameters(), lr=0.1).step()
    loaded.check_ties()
    assert not torch.equal(loaded.get_output_embeddings().weight, model.get_output_embeddings().weight)


def test_a_broken_tie_is_not_saved(tmp_path: Path) -> None:
    model = build("BertForMaskedLM")
    decoder = model.cls.predictions.decoder
    decoder.weight = nn.Parameter(decoder.weight.detach() + 1)
    with pytest.raises(RuntimeError) as caught:
        model.save_pretrained(tmp_path)
    assert all(word in str(caught.value) for word in ("cls.predictions.decoder.weight", WORDS, "tie_weights()"))
    assert not list(tmp_path.iterdir())
    model.config.tie_word_embeddings = False  # the other remedy of the message
    model.save_pretrained(tmp_path)
    loaded = minitf.BertForMaskedLM.from_pretrained(tmp_path)
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
    assert {WORDS, "cls.predictions.decoder.weight"} <= names_in(tmp_path)
    loaded = getattr(minitf, class_name).from_pretrained(tmp_path, strict=True)
    assert loaded.config.tie_word_embeddings is False
    assert torch.equal(loaded.get_output_embeddings().weight, model.get_output_embeddings().weight)
    assert torch.equal(loaded.get_input_embeddings().weight, model.get_input_embeddings().weight)
    assert loaded.cls.predictions.decoder.bias is loaded.cls.predictions.bias


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
            assert all(torch.equal(a, b) for a, b in zip(output, plain(**inputs), strict=True))
    if class_name in SCORING:
        assert model.get_output_embeddings().weight is not model.get_input_embeddings().weight
        assert model.cls.predictions.decoder.bias is model.cls.predictions.bias


def test_torchscript_begins_with_copies_and_keeps_what_is_trained(tmp_path: Path) -> None:
    fresh = minitf.BertForMaskedLM(config(torchscript=True))
    assert torch.equal(fresh.get_output_embeddings().weight, fresh.get_input_embeddings().weight)
    tied = build("BertForMaskedLM")
    tied.save_pretrained(tmp_path / "tied")
    model = minitf.BertForMaskedLM.from_pretrained(tmp_path / "tied", torchscript=True, strict=True)
    assert torch.equal(model.get_output_embeddings().weight, tied.get_input_embeddings().weight)
    assert model.get_output_embeddings().weight is not model.get_input_embeddings().weight
    with torch.no_grad():
        assert torch.equal(model(**padded_batch())[0], tied(**padded_batch()).logits)
        model.get_output_embeddings().weight.add_(1)
    model.save_pretrained(tmp_path / "trained")
    again = minitf.BertForMaskedLM.from_pretrained(tmp_path / "trained")
    assert torch.equal(again.get_output_embeddings().weight, tied.get_input_embeddings().weight + 1)
    again.resize_token_embeddings(70)
    assert torch.equal(again.get_output_embeddings().weight[:61], tied.get_input_embeddings().weight + 1)
