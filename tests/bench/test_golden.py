"""Golden bundles: the ready-made ones against a second computation, transformers and NumPy; reading and checking."""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import shlex
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

import minitf
from minitf.cli import golden_parser
from minitf.parity import golden_check
from minitf.parity.compare import compare
from minitf.parity.dumps import Dump
from minitf.parity.golden import DESCRIPTION, PARTS, Bundle, BundleError, digest, load
from minitf.parity.golden_check import check
from minitf.parity.golden_inputs import labels_for, random_inputs
from minitf.parity.golden_making import Settings, json_text, machine, make, objective
from minitf.parity.runs import output_fields
from minitf.tracing import names as names_of
from tests.bench.make_bundles import BERT, CASES, FOLDER, GPT2, ROWS, write
from tests.support import REPOSITORY, randomise_

CAUSAL = ("BertLMHeadModel", "GPT2LMHeadModel", "GPT2DoubleHeadsModel")  # transformers rounds their loss to float32
DROPPED = ("bert-relative-key", "bert-relative-key-query", "bert-pruned", "gpt2-pruned")  # by transformers 5
COMMON = [name for name in CASES if name not in DROPPED]


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> None:
    torch.set_num_threads(1)


def ready(name: str) -> Bundle:
    return load(FOLDER / f"{name}.zip")


def tensors(arrays: dict[str, Any]) -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(value) for name, value in arrays.items()}


def unpacked(bundle: Bundle, folder: Path) -> Path:
    """The bundle as a folder."""
    zipfile.ZipFile(bundle.path).extractall(folder)
    return folder


def changed(folder: Path, part: str, change: Callable[[dict[str, Any]], Any]) -> Path:
    """Change arrays of a part, and the description with them: the bundle is whole, and says something else."""
    arrays = load(folder).part(part)
    change(arrays)
    np.savez(folder / f"{part}.npz", **arrays)
    description = json.loads((folder / DESCRIPTION).read_text())
    description["files"][part]["sha256"] = hashlib.sha256((folder / f"{part}.npz").read_bytes()).hexdigest()
    (folder / DESCRIPTION).write_text(json_text(description))
    return folder


# -------------------------------------------------------------------------------------------------- the ready-made ones


@pytest.mark.parametrize("name", CASES)
def test_a_ready_made_bundle_is_what_minitf_computes(name: str) -> None:
    found = check(ready(name))
    assert found.ok, found
    if found.same_machine:
        assert found.identical == found.compared


def test_the_folder_holds_these_bundles_and_is_small() -> None:
    assert sorted(path.name for path in FOLDER.iterdir()) == sorted(f"{name}.zip" for name in CASES)
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) < 800_000
    public = {name for name in minitf.__all__ if name.startswith(("BertFor", "BertLM", "BertModel", "GPT2For"))}
    public |= {"GPT2Model", "GPT2LMHeadModel", "GPT2DoubleHeadsModel"}
    assert {case.model for case in CASES.values()} == public


@pytest.mark.parametrize("name", ["bert-multiple-choice", "gpt2-lm"])
def test_the_same_versions_make_the_same_bytes(name: str, tmp_path: Path) -> None:
    first = write(name, tmp_path)
    data = first.path.read_bytes()
    assert write(name, tmp_path).path.read_bytes() == data
    committed, fresh = ready(name).description, first.description
    unlike = [key for key in fresh if fresh[key] != committed[key]]
    if all(committed["made with"][key] == value for key, value in fresh["made with"].items()):
        assert not unlike
    else:
        assert set(unlike) <= {"made with", "files"}


@pytest.mark.parametrize("name", CASES)
def test_a_bundle_holds_every_part_and_every_name(name: str) -> None:
    bundle = ready(name)
    said = bundle.description
    decodes = name in ("bert-decoder", "bert-decoder-cross-attention", "gpt2-lm", "gpt2-pruned")
    assert bundle.parts == [part for part in PARTS if part != "tokens" or decodes]
    assert ("none, because" in said["tokens"]) is not decodes
    model = golden_check.build(bundle)
    names = set(names_of(model))
    for dtype in ("float64", "float32"):
        values = bundle.part(f"activations.{dtype}")
        # What no call computes: token types of a model without, a dropout that another way goes around.
        assert len(names - set(values)) <= 0.1 * len(names), sorted(names - set(values))
        kinds = {array.dtype.name for key, array in values.items() if key in names and array.dtype.kind == "f"}
        assert kinds == {dtype}
    parameters = [key for key, _ in model.named_parameters()]
    unused = said["without gradient"]
    assert unused == [key for key in parameters if "position_embeddings" in key and "relative" in name]
    assert list(bundle.part("gradients.float64")) == [key for key in parameters if key not in unused]
    assert list(bundle.part("updated.float64")) == parameters
    assert said["objective"] == (
        {"weighted sum of": ["last_hidden_state", *(["pooler_output"] if "bert" in name else [])]}
        if CASES[name].model.endswith("tModel") or CASES[name].model == "GPT2Model"
        else {"sum of": ["loss", "mc_loss"] if "double" in name else ["loss"]}
    )


def test_the_bundles_are_padded_on_both_sides_and_every_row_counts() -> None:
    sides = set()
    for name, case in CASES.items():
        mask = ready(name).part("inputs")["attention_mask"]
        assert len(mask) == ROWS
        padded = mask.reshape(-1, mask.shape[-1])[-1]
        assert 0 < padded.sum() < len(padded)
        assert bool(padded[0]) is (case.padding == "right")
        sides.add((case.model.startswith("Bert"), case.padding))
    assert len(sides) == 4


# ------------------------------------------------------------------------------------------- against other computations


@pytest.mark.parametrize("name", COMMON)
def test_transformers_computes_every_activation(name: str, tmp_path: Path) -> None:
    """`minitf compare` takes the activations of a bundle for a dump."""
    theirs = CASES[name].build(transformers)
    theirs.set_attn_implementation("eager")
    folder = unpacked(ready(name), tmp_path)
    if "double" in name:  # transformers flattens the choices one call later, and not those of the positions
        shapes = {"position_ids": (4, 4), "transformer.input": (2, 2, 4), "transformer.output": (2, 2, 4, 4)}
        for part in ("activations.float64", "activations.float32"):
            changed(folder, part, lambda arrays: arrays.update({k: arrays[k].reshape(v) for k, v in shapes.items()}))
    for dtype in ("float64", "float32"):
        place = folder / f"activations.{dtype}.npz"
        with Dump(place) as dump:
            names = [key for key in dump if not (key == "loss" and dtype == "float64" and CASES[name].model in CAUSAL)]
        found = compare(theirs, place, names=names)
        assert not found.diverges, str(found)
        assert found.dtype == dtype
        assert [row.name for row in found.rows if row.status != "ok"] == []
        assert len(found.rows) == len(names) >= 40


def their_objective(name: str, output: Any, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    """The documented objective, from transformers' output."""
    if CASES[name].model in CAUSAL:
        shifted, labels = output.logits[..., :-1, :].flatten(0, -2), inputs["labels"][..., 1:].flatten()
        loss = torch.nn.functional.cross_entropy(shifted, labels)
        return loss + output.mc_loss if "double" in name else loss
    if "loss" in output:
        return output.loss  # type: ignore[no-any-return]
    total = torch.zeros((), dtype=torch.float64)
    for value in (output.last_hidden_state, output.get("pooler_output")):
        if value is not None:
            weight = torch.linspace(-1, 1, value.numel(), dtype=torch.float64).reshape(value.shape)
            total = (
                total + (value * (weight * inputs["attention_mask"][..., None] if value.dim() == 3 else weight)).sum()
            )
    return total


@pytest.mark.parametrize("name", COMMON)
def test_transformers_computes_the_gradients_and_the_step(name: str) -> None:
    bundle = ready(name)
    theirs = CASES[name].build(transformers).double()
    theirs.set_attn_implementation("eager")
    inputs = {key: x.double() if x.is_floating_point() else x for key, x in tensors(bundle.part("inputs")).items()}
    given = {**inputs, "position_ids": inputs["position_ids"].flatten(0, -2)} if "position_ids" in inputs else inputs
    their_objective(name, theirs(**given), inputs).backward()
    gradients = {key: p.grad.clone() for key, p in theirs.named_parameters() if p.grad is not None}
    torch.optim.AdamW(theirs.parameters(), lr=1e-3, betas=(0.9, 0.999), eps=1e-3, weight_decay=0.01).step()
    assert gradients.keys() == bundle.part("gradients.float64").keys()
    for key, expected in tensors(bundle.part("gradients.float64")).items():
        torch.testing.assert_close(gradients[key], expected, rtol=1e-10, atol=1e-14, msg=lambda m, k=key: f"{k}: {m}")
    updated = dict(theirs.named_parameters())
    for key, expected in tensors(bundle.part("updated.float64")).items():
        torch.testing.assert_close(updated[key].detach(), expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", ["bert-decoder", "gpt2-lm"])
def test_transformers_generates_the_tokens(name: str) -> None:
    bundle = ready(name)
    theirs = CASES[name].build(transformers).double()
    found, said = bundle.part("tokens"), bundle.description["tokens"]
    prompt = {"input_ids": found["prompt_ids"], "attention_mask": found["prompt_mask"]}
    for kind, beams in (("greedy", 1), ("beam", said["beams"])):
        made = theirs.generate(
            **tensors(prompt),
            max_new_tokens=said["new tokens"],
            num_beams=beams,
            do_sample=False,
            eos_token_id=said["end token"],
            pad_token_id=0,
        )
        ours, other = found[kind], made.numpy()
        ended = (ours[:, prompt["input_ids"].shape[1] :] == said["end token"]).cumsum(axis=1) > 0
        open_ = np.concatenate([np.ones_like(prompt["input_ids"], bool), ~ended], axis=1)
        # After an end transformers' beams are padded with something else, if the padding token is 0.
        np.testing.assert_array_equal(np.where(open_, other, 0), np.where(open_, ours, 0))
        assert other.shape == ours.shape


def test_the_tokens_tell_greedy_from_beams_and_an_end_from_none() -> None:
    found = ready("gpt2-lm").part("tokens")
    greedy, beam, end = found["greedy"], found["beam"], ready("gpt2-lm").description["tokens"]["end token"]
    width = min(greedy.shape[1], beam.shape[1])
    assert not np.array_equal(greedy[:, :width], beam[:, :width])
    assert (greedy[:, 5:] == end).any(axis=1).all()
    assert found["prompt_mask"][1].tolist() == [0, 1, 1, 1, 1]  # moved to the left


@pytest.mark.parametrize(
    ("name", "output"), [("bert-pruned", "attention.output.dense"), ("gpt2-pruned", "attn.c_proj")]
)
def test_a_pruned_head_is_one_whose_output_nobody_reads(name: str, output: str) -> None:
    """transformers 5 cannot prune; a whole model whose projection ignores the heads has the same numbers."""
    bundle, case = ready(name), CASES[name]
    theirs = case.build(transformers).double()
    size = theirs.config.hidden_size // theirs.config.num_attention_heads
    for layer, heads in case.prune.items():
        place = next(m for n, m in theirs.named_modules() if n.endswith(f"{layer}.{output}"))
        for head in heads:
            cut = slice(head * size, (head + 1) * size)
            with torch.no_grad():
                (place.weight[:, cut] if "bert" in name else place.weight[cut]).zero_()
    got = theirs(**tensors(bundle.part("inputs")))
    expected, mask = bundle.part("activations.float64"), bundle.part("inputs")["attention_mask"].astype(bool)
    field = "last_hidden_state" if "last_hidden_state" in expected else "logits"
    np.testing.assert_allclose(got[field].detach().numpy()[mask], expected[field][mask], rtol=1e-10)
    kept = list(bundle.description["config"]["pruned_heads"].values())
    assert kept == list(case.prune.values())


@pytest.mark.parametrize("name", ["bert-relative-key", "bert-relative-key-query"])
def test_relative_scores_by_their_formula(name: str) -> None:
    """Shaw et al. (arXiv:1803.02155) and Huang et al. (arXiv:2009.13658, method 4), in NumPy from the bundle alone."""
    bundle = ready(name)
    values, weights = bundle.part("activations.float64"), bundle.part("weights")
    path = next(key for key in values if key.endswith("attention.self.query")).removesuffix(".query")
    query, key, scores = (values[f"{path}.{what}"] for what in ("query", "key", "scores"))
    table = weights[f"{path}.distance_embedding.weight"].astype(np.float64)
    place = np.arange(query.shape[2])
    distance = table[place[:, None] - place[None, :] + (len(table) - 1) // 2]  # [T, S, D]
    raw = query @ key.swapaxes(-1, -2) + np.einsum("bhtd,tsd->bhts", query, distance)
    if name.endswith("query"):
        raw += np.einsum("bhsd,tsd->bhts", key, distance)
    seen = np.broadcast_to(bundle.part("inputs")["attention_mask"][:, None, None, :].astype(bool), scores.shape)
    np.testing.assert_allclose(scores[seen], (raw / np.sqrt(query.shape[-1]))[seen], rtol=1e-10)
    assert np.abs(np.einsum("bhtd,tsd->bhts", query, distance)).max() > 0.1


@pytest.mark.parametrize("name", CASES)
def test_the_step_by_its_formula(name: str) -> None:
    bundle = ready(name)
    said, weights = bundle.description["optimizer"], bundle.part("weights")
    gradients, updated = bundle.part("gradients.float64"), bundle.part("updated.float64")
    for key, after in updated.items():
        before = weights[key].astype(np.float64)
        if key in gradients:
            g = gradients[key]
            before = before * (1 - said["lr"] * said["weight_decay"]) - said["lr"] * g / (np.abs(g) + said["eps"])
        np.testing.assert_allclose(after, before, rtol=1e-12, atol=1e-15, err_msg=key)


# --------------------------------------------------------------------------------------------------------- what differs


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return unpacked(ready("gpt2-lm"), tmp_path / "bundle")


LAYER = "transformer.h.1.mlp.c_fc.output"


def test_a_changed_number_is_found_and_the_first_one_named(folder: Path) -> None:
    changed(folder, "gradients.float64", lambda arrays: arrays["transformer.ln_f.bias"].__imul__(1.01))
    changed(folder, "activations.float64", lambda arrays: arrays[LAYER].__imul__(1 + 1e-9))
    found = check(folder)
    assert [(row.part, row.name) for row in found.unlike] == [
        ("activations.float64", LAYER),
        ("gradients.float64", "transformer.ln_f.bias"),
    ]
    assert f"first: activations.float64 {LAYER}: at [" in str(found)
    assert "(and 1 more)" in str(found)
    assert found.compared - found.identical - found.within == 2
    assert ", 2 beyond it\n" in str(found)
    assert found.to_dict()["ok"] is False


def test_what_is_missing_or_strange_is_named(folder: Path) -> None:
    changed(folder, "activations.float32", lambda arrays: arrays.pop(LAYER))
    changed(folder, "updated.float64", lambda arrays: arrays.update(strange=np.zeros(2)))
    changed(folder, "tokens", lambda arrays: arrays.update(greedy=arrays["greedy"] + 1, beam=arrays["beam"][:1]))
    said = [str(row) for row in check(folder).unlike]
    assert said[0] == "updated.float64 strange: minitf does not compute it"
    assert said[1] == f"activations.float32 {LAYER}: the bundle does not have it"
    assert said[2].startswith("tokens greedy: at [0, 0]: 6 in the bundle, 5 computed")
    assert said[2].endswith("and they must be equal")
    assert said[3] == "tokens beam: [1, 8] int64 in the bundle, [2, 8] int64 computed"
    assert len(said) == 4
    whole = check(ready("gpt2-lm"))
    assert check(folder).compared == whole.compared - 1  # one array is missing; the strange one is no comparison
    assert check(folder).within == whole.within


def test_a_part_that_does_not_belong_is_named(tmp_path: Path) -> None:
    place = unpacked(ready("bert-token"), tmp_path / "bundle")
    np.savez(place / "tokens.npz", greedy=np.zeros(1))
    description = json.loads((place / DESCRIPTION).read_text())
    description["files"]["tokens"] = {"sha256": ""}
    (place / DESCRIPTION).write_text(json_text(description))
    assert [str(row) for row in check(place).unlike] == ["tokens : minitf computes no such part"]


def on_another_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(golden_check, "machine", lambda: {**machine(), "processor": "another"})


def test_elsewhere_rounding_is_allowed_and_no_more(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    noise = np.random.default_rng(0)

    def shake(arrays: dict[str, Any]) -> None:
        for name, value in arrays.items():
            if value.dtype.kind == "f" and not name.endswith(".scores"):
                eps = 4 * np.finfo(value.dtype).eps
                arrays[name] = (value * (1 + eps * noise.choice([-1, 1], value.shape))).astype(value.dtype)

    for part in ("activations.float64", "gradients.float64", "activations.float32", "gradients.float32", "tokens"):
        changed(folder, part, shake)
    here = check(folder)
    assert {row.part for row in here.unlike} == {"activations.float32", "gradients.float32", "tokens"} or (
        not here.same_machine
    )
    on_another_machine(monkeypatch)
    elsewhere = check(folder)
    assert elsewhere.ok, elsewhere
    assert elsewhere.identical < elsewhere.compared
    assert "made elsewhere" in str(elsewhere)
    changed(folder, "activations.float32", lambda arrays: arrays[LAYER].__imul__(np.float32(1 + 2e-4)))
    changed(folder, "tokens", lambda arrays: arrays["beam_scores"].__iadd__(np.float32(1e-3)))
    said = [str(row) for row in check(folder).unlike]
    assert len(said) == 2
    assert said[0].startswith(f"activations.float32 {LAYER}: ")
    assert "allowed is" in said[0]
    assert said[1].startswith("tokens beam_scores: ")


def test_a_gradient_that_is_zero_but_for_rounding_may_be_another_such(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = unpacked(ready("bert-masked-lm"), tmp_path / "bundle")
    bias = "bert.encoder.layer.0.attention.self.key.bias"
    assert np.abs(load(place).part("gradients.float64")[bias]).max() < 1e-16
    on_another_machine(monkeypatch)
    changed(place, "gradients.float64", lambda arrays: arrays[bias].__iadd__(3e-16))
    changed(place, "gradients.float32", lambda arrays: arrays[bias].__iadd__(np.float32(1e-7)))
    assert check(place).ok
    changed(place, "gradients.float64", lambda arrays: arrays[bias].__iadd__(1e-13))
    assert [row.name for row in check(place).unlike] == [bias]


def test_a_mistake_in_minitf_would_be_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tanh form of GELU for the exact one, the smallest of the known mistakes."""
    monkeypatch.setattr(torch.nn.functional, "gelu", lambda x, *a, **k: 0.5 * x * (1 + torch.erf(x / 1.41421)))
    on_another_machine(monkeypatch)
    found = check(ready("bert-masked-lm"))
    assert not found.ok
    assert ".intermediate." in found.unlike[0].name


# ------------------------------------------------------------------------------------------------------ weights, models


def test_without_weights_a_model_is_needed_and_must_be_the_one(tmp_path: Path) -> None:
    case = CASES["bert-sequence"]
    model = case.build()
    bundle = make(model, case.inputs(model), tmp_path / "bundle", weights=False)
    assert "weights" not in bundle.parts
    assert bundle.description["weights"] == {
        "stored": False,
        "sha256": digest({key: value.numpy() for key, value in model.state_dict().items()}),
    }
    with pytest.raises(BundleError, match="was made without weights: name the folder of the checkpoint too"):
        check(bundle)
    assert check(bundle, model).ok
    with torch.no_grad():
        model.classifier.bias[0] += 1e-3
    found = check(bundle, model)
    assert found.unlike[0].part == "weights"
    assert "another checkpoint" in found.unlike[0].what
    with pytest.raises(BundleError, match=r"is of BertForSequenceClassification, and the model is a BertModel\."):
        check(bundle, CASES["bert-model"].build())


def test_making_leaves_the_model_as_it_was(tmp_path: Path) -> None:
    model = CASES["gpt2-lm"].build().train()
    model.config.attn_implementation = "sdpa"
    before = {key: value.clone() for key, value in model.state_dict().items()}
    settings, threads = model.generation_config, torch.get_num_threads()
    make(model, CASES["gpt2-lm"].inputs(model), tmp_path / "bundle.zip")
    assert model.training
    assert model.config.attn_implementation == "sdpa"
    assert model.generation_config is settings
    assert torch.get_num_threads() == threads
    assert all(p.grad is None for p in model.parameters())
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_parameters_of_another_dtype_are_stored_exactly(dtype: torch.dtype, tmp_path: Path) -> None:
    model = CASES["gpt2-model"].build().to(dtype)
    bundle = make(model, CASES["gpt2-model"].inputs(model), tmp_path / "bundle")
    for key, value in bundle.part("weights").items():
        assert value.dtype == (np.float64 if dtype == torch.float64 else np.float32)
        assert torch.equal(torch.from_numpy(value).to(dtype), model.state_dict()[key])
    assert check(bundle).ok


def test_a_trunk_without_pooler_is_built_again(tmp_path: Path) -> None:
    model = randomise_(minitf.BertModel(minitf.BertConfig(**BERT), add_pooling_layer=False))
    inputs = random_inputs(model, seed=1, rows=2, tokens=4, padding="none")
    bundle = make(model, inputs, tmp_path / "bundle")
    assert check(bundle).ok
    assert bundle.description["objective"] == {"weighted sum of": ["last_hidden_state"]}


def test_a_folder_and_a_zip_hold_the_same(tmp_path: Path) -> None:
    model = CASES["bert-token"].build()
    inputs = CASES["bert-token"].inputs(model)
    one, other = make(model, inputs, tmp_path / "a"), make(model, inputs, tmp_path / "a.zip")
    assert one.description == other.description
    assert one.parts == other.parts
    for part in one.parts:
        left, right = one.part(part), other.part(part)
        assert list(left) == list(right)
        assert all(left[key].tobytes() == right[key].tobytes() for key in left)


def test_only_some_names_and_an_alias(tmp_path: Path) -> None:
    model = CASES["bert-model"].build()
    bundle = make(
        model, CASES["bert-model"].inputs(model), tmp_path / "b", settings=Settings(names=("layer.*.resid_post",))
    )
    assert list(bundle.part("activations.float64")) == [
        *("input_ids", "attention_mask", "token_type_ids", "layer.0.resid_post", "layer.1.resid_post"),
        *("last_hidden_state", "pooler_output"),
    ]
    assert check(bundle).ok
    assert not compare(model, tmp_path / "b" / "activations.float32.npz").diverges


def test_overwriting_removes_what_is_not_made_again(tmp_path: Path) -> None:
    model = CASES["gpt2-lm"].build()
    make(model, CASES["gpt2-lm"].inputs(model), tmp_path / "b")
    with pytest.raises(FileExistsError, match="give another name, or overwrite it"):
        make(model, CASES["gpt2-lm"].inputs(model), tmp_path / "b")
    trunk = CASES["gpt2-model"].build()
    make(trunk, CASES["gpt2-model"].inputs(trunk), tmp_path / "b", weights=False, overwrite=True)
    assert {path.name for path in (tmp_path / "b").iterdir()} == {
        DESCRIPTION,
        *(f"{part}.npz" for part in PARTS if part not in ("weights", "tokens")),
    }


def test_what_is_no_bundle_is_never_replaced(tmp_path: Path) -> None:
    model = CASES["gpt2-model"].build()
    inputs = CASES["gpt2-model"].inputs(model)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    (tmp_path / "mine.zip").write_bytes(b"not a zip")
    for name in ("mine", "mine.zip"):
        with pytest.raises(FileExistsError, match="is there and is no golden bundle"):
            make(model, inputs, tmp_path / name, overwrite=True)
    with pytest.raises(FileNotFoundError, match=r"the folder .* does not exist"):
        make(model, inputs, tmp_path / "nowhere" / "bundle")
    (tmp_path / "empty").mkdir()
    make(model, inputs, tmp_path / "empty")
    (tmp_path / "empty").rename(tmp_path / "folder.zip")
    with pytest.raises(FileExistsError, match=r"a name that ends in .zip is a file, any other a folder"):
        make(model, inputs, tmp_path / "folder.zip", overwrite=True)


def test_nothing_is_left_of_one_that_fails(tmp_path: Path) -> None:
    model = CASES["gpt2-model"].build()
    inputs = {**CASES["gpt2-model"].inputs(model), "attention_mask": torch.ones(1, 9)}
    with pytest.raises(ValueError, match="attention_mask"):
        make(model, inputs, tmp_path / "bundle")
    assert list(tmp_path.iterdir()) == []


def test_wrong_inputs_are_named(tmp_path: Path) -> None:
    model = CASES["gpt2-model"].build()
    ids = torch.tensor([[1, 2]])
    with pytest.raises(ValueError, match=r"hold 'labels', which GPT2Model does not take.*It takes input_ids"):
        make(model, {"input_ids": ids, "labels": ids}, tmp_path / "b")
    with pytest.raises(ValueError, match=r"the inputs are attention_mask; expected input_ids"):
        make(model, {"attention_mask": ids}, tmp_path / "b")
    with pytest.raises(TypeError, match="Linear is no model of minitf"):
        make(torch.nn.Linear(1, 1), {}, tmp_path / "b")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="matches no name"):
        make(model, {"input_ids": ids}, tmp_path / "b", settings=Settings(names=("nothing.*",)))
    assert list(tmp_path.iterdir()) == []


# -------------------------------------------------------------------------------------------------------------- labels


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"num_labels": 3}, torch.tensor([0, 1])),
        ({"num_labels": 1}, torch.tensor([0.0, 0.5])),
        ({"num_labels": 2, "problem_type": "regression"}, torch.tensor([[0.0, 1.0], [0.5, 1.5]])),
        ({"num_labels": 3, "problem_type": "multi_label_classification"}, torch.tensor([[0.0, 1, 0], [1, 0, 1]])),
    ],
)
def test_labels_follow_the_problem_type(settings: dict[str, Any], expected: torch.Tensor, tmp_path: Path) -> None:
    model = randomise_(minitf.BertForSequenceClassification(minitf.BertConfig(**BERT, **settings)))
    inputs = random_inputs(model, seed=0, rows=2, tokens=4, padding="right")
    labels = labels_for(model, inputs)
    torch.testing.assert_close(labels["labels"], expected)
    bundle = make(model, {**inputs, **labels}, tmp_path / "bundle")
    assert np.isfinite(bundle.part("activations.float64")["loss"])
    assert check(bundle).ok


@pytest.mark.parametrize(
    "name", [name for name, case in CASES.items() if not case.model.endswith(("Model", "Answering"))]
)
def test_no_loss_depends_on_padding(name: str) -> None:
    """But that of question answering, whose softmax is over all positions."""
    model = CASES[name].pruned() if CASES[name].prune else CASES[name].build()
    inputs = CASES[name].inputs(model)
    padding = inputs["attention_mask"] == 0
    # The classifier of GPT-2 finds the last token of a row by the padding token after it; here it stands before.
    other = {**inputs, "input_ids": inputs["input_ids"].masked_fill(padding, 3)}
    assert padding.any()
    torch.testing.assert_close(model(**inputs).loss, model(**other).loss)


def test_labels_by_hand() -> None:
    model = CASES["bert-sequence"].build()
    inputs = random_inputs(model, seed=0, rows=2, tokens=4, padding="right")
    assert labels_for(model, inputs, [2, 1])["labels"].tolist() == [2, 1]
    with pytest.raises(ValueError, match="3 labels for 2 rows: give one for each"):
        labels_for(model, inputs, [0, 1, 2])
    tagger = CASES["bert-token"].build()
    with pytest.raises(ValueError, match=r"does not take one label a row.*file of inputs \(labels\)"):
        labels_for(tagger, inputs, [0, 1])


def test_the_objective_without_a_loss_is_the_documented_one() -> None:
    model = CASES["bert-model"].build().double()
    inputs = CASES["bert-model"].inputs(model)
    fields = dict(output_fields(model(**inputs)))
    hidden, pooled = (fields[key].detach().numpy() for key in ("last_hidden_state", "pooler_output"))
    weights = [np.linspace(-1, 1, value.size).reshape(value.shape) for value in (hidden, pooled)]
    expected = (hidden * weights[0] * inputs["attention_mask"].numpy()[..., None]).sum() + (pooled * weights[1]).sum()
    assert objective(fields, inputs).item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"n_positions": 6}, "after 4 positions there is room for 2 tokens of 8"),
        ({"n_positions": 4}, "after 4 positions there is room for 0 tokens of 8"),
    ],
)
def test_why_there_are_no_tokens(change: dict[str, int], reason: str, tmp_path: Path) -> None:
    model = randomise_(minitf.GPT2LMHeadModel(minitf.GPT2Config(**{**GPT2, **change})))
    bundle = make(model, random_inputs(model, seed=0, rows=2, tokens=4, padding="none"), tmp_path / "b")
    assert bundle.description["tokens"] == {"none, because": reason}
    assert "tokens" not in bundle.parts


# ------------------------------------------------------------------------------------------------------------- reading


def test_reading_needs_no_torch() -> None:
    program = f"""
import sys
from minitf.parity.golden import load
bundle = load({str(FOLDER / "gpt2-lm.zip")!r})
print(bundle.part("activations.float64")["logits"].shape, bundle)
assert "torch" not in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=REPOSITORY)
    assert done.stdout.startswith("(2, 5, 11) Bundle(")


def test_a_damaged_file_is_named_before_it_is_read(folder: Path) -> None:
    path = folder / "weights.npz"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    bundle = load(folder)
    with pytest.raises(BundleError, match=r"weights\.npz has sha256 .* the file is damaged, or was changed"):
        bundle.part("weights")
    with pytest.raises(BundleError, match="damaged"):
        check(folder)
    assert bundle.part("inputs")


def test_python_objects_are_refused(folder: Path) -> None:
    class Evil:
        def __reduce__(self) -> Any:
            return print, ("opened",)

    changed(folder, "inputs", lambda arrays: arrays.update(input_ids=np.array([Evil()], dtype=object)))
    with pytest.raises(BundleError, match=r"inputs\.npz is no archive of plain arrays"):
        load(folder).part("inputs")


def rewritten(folder: Path, **changes: Any) -> Path:
    description = {**json.loads((folder / DESCRIPTION).read_text()), **changes}
    (folder / DESCRIPTION).write_text(json.dumps(description))
    return folder


def test_what_is_no_bundle_says_so(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no such bundle; expected a folder with bundle.json, or a .zip"):
        load(tmp_path / "nothing")
    (tmp_path / "text").write_text("hello")
    with pytest.raises(BundleError, match=r"is no bundle .*not a zip"):
        load(tmp_path / "text")
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("other.txt", "hello")
    (tmp_path / "other.zip").write_bytes(buffer.getvalue())
    for place in (tmp_path, tmp_path / "other.zip"):
        with pytest.raises(BundleError, match=r"is no whole bundle: it has no bundle.json"):
            load(place)
    with pytest.raises(BundleError, match=r"says format 'minitf golden bundle, version 9'; expected"):
        load(rewritten(folder, format="minitf golden bundle, version 9"))
    rewritten(folder, format=ready("gpt2-lm").description["format"])
    with pytest.raises(BundleError, match=r"lists '\.\./secret'; expected parts of inputs"):
        load(rewritten(folder, files={"../secret": {"sha256": ""}}))
    with pytest.raises(BundleError, match="has no 'files' with the sha256 of each"):
        load(rewritten(folder, files={"inputs": {}}))
    rewritten(folder, **ready("gpt2-lm").description)
    cut = {key: value for key, value in load(folder).description.items() if key != "optimizer"}
    (folder / DESCRIPTION).write_text(json.dumps(cut))
    with pytest.raises(BundleError, match=r"bundle\.json does not say 'optimizer'"):
        load(folder)
    (folder / DESCRIPTION).write_text("{")
    with pytest.raises(BundleError, match="is not JSON"):
        load(folder)


def test_a_missing_part_says_so(folder: Path) -> None:
    (folder / "tokens.npz").unlink()
    with pytest.raises(BundleError, match=r"is no whole bundle: it has no tokens.npz"):
        load(folder)
    with pytest.raises(BundleError, match="has no part 'tokens'; it has inputs, weights"):
        ready("bert-token").part("tokens")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"class": "Path"}, "is of 'Path', which is no class of minitf"),
        ({"config": {**GPT2, "model_type": "gpt2", "n_embd": 16, "n_head": 4}}, "weights and its configuration do not"),
        ({"config": {"model_type": "mamba"}}, "weights and its configuration do not fit"),
    ],
)
def test_a_description_that_does_not_fit_the_weights(folder: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(BundleError, match=message):
        check(rewritten(folder, **changes))


# ------------------------------------------------------------------------------------------------------------ the page

PAGE = REPOSITORY / "docs" / "golden.md"
TEXT = PAGE.read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", TEXT, flags=re.DOTALL)


@pytest.mark.parametrize("number", range(2))
def test_the_page_prints_what_it_says(number: int, tmp_path: Path) -> None:
    block = BLOCKS[number]
    before = "import sys; sys.modules['torch'] = None\n" if "torch" not in block else ""  # NumPy alone
    done = subprocess.run(
        [sys.executable, "-c", before + block],
        capture_output=True,
        text=True,
        cwd=REPOSITORY,
        env=with_temporary(tmp_path),
    )
    assert done.returncode == 0, done.stderr
    said = re.findall(r"print\(.*\)  # (.*)", block)
    assert len(said) == 2
    assert done.stdout.splitlines() == said


def with_temporary(folder: Path) -> dict[str, str]:
    return {**os.environ, "TMPDIR": str(folder), "PYTHONPATH": str(REPOSITORY)}


def test_the_page_reads_one_in_twenty_lines() -> None:
    assert len(BLOCKS) == 2
    assert len(BLOCKS[0].strip().splitlines()) <= 20
    assert "torch" not in BLOCKS[0]
    assert "minitf" not in BLOCKS[0]


def test_the_links_and_the_table_of_the_page() -> None:
    links = [link for link in re.findall(r"\]\(([^)#]+)", TEXT) if "://" not in link]
    assert len(links) >= 2
    assert [link for link in links if not (PAGE.parent / link).exists()] == []
    listed = re.findall(r"`((?:bert|gpt2)-[\w-]+)`", TEXT.partition("| bundle |")[2])
    assert sorted(listed) == sorted(CASES)
    parts = re.findall(
        r"`([\w.]+)`", "".join(re.findall(r"^\| (.*?) \|", TEXT.partition("## How")[0], flags=re.MULTILINE))
    )
    assert set(PARTS) <= set(parts)


def test_the_commands_of_the_page_are_ones() -> None:
    commands = re.findall(r"^    minitf (golden .*?)(?:  +#.*)?$", TEXT, flags=re.MULTILINE)
    assert len(commands) == 5
    for command in commands:
        golden_parser().parse_strictly(shlex.split(command)[1:])
