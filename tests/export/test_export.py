"""Every class leaves Python in one piece: traced, exported, compiled, copied, pickled, saved, and as ONNX.

Each graph is made with one batch and run with that one and with another of another size and length.
"""

from __future__ import annotations

import contextlib
import copy
import io
import logging
import pickle
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import minitf
from tests.controls import models
from tests.controls.models import CLASSES, DECODERS, TRUNKS, inputs_for, is_gpt2, objective
from tests.controls.models import SCORING as TIED
from tests.support import randomise_

DYNAMIC = torch.export.Dim.DYNAMIC
VARIANTS = [
    pytest.param(True, True, id="output object, mask"),
    pytest.param(False, False, id="tuple, no mask"),
    pytest.param(True, False, id="output object, no mask", marks=pytest.mark.slow),
    pytest.param(False, True, id="tuple, mask", marks=pytest.mark.slow),
]


@pytest.fixture(autouse=True)
def quiet_and_on_one_thread() -> Iterator[None]:
    """The tracer warns at each comparison of a shape, though the graph keeps nothing of it, as these tests show."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.compiler.reset()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", torch.jit.TracerWarning)
        warnings.filterwarnings("ignore", "`torch.jit.* is deprecated", DeprecationWarning)
        yield
    torch.set_num_threads(threads)


def build(class_name: str, **settings: Any) -> Any:
    """One layer, because compilers take their time; two where a cache must tell layers apart."""
    return models.build(class_name, **{"num_hidden_layers": 2 if class_name in DECODERS else 1, **settings})


def inputs(class_name: str, *, masked: bool = True, labels: bool = False) -> dict[str, torch.Tensor]:
    batch = inputs_for(class_name, labels=labels)
    if not masked:  # nor GPT-2's positions, so that the graph counts them
        batch.pop("attention_mask")
        batch.pop("position_ids", None)
    return batch


def larger(batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The same inputs with 5 rows instead of 3 and, where there are positions, 11 of them instead of 7."""
    result = {}
    for name, value in batch.items():
        value = torch.cat([value, value.flip(0)])[:5]
        result[name] = torch.cat([value, value], dim=-1)[..., :11] if value.shape[-1] == 7 else value
    return result


def all_dynamic(batch: dict[str, Any]) -> dict[str, dict[int, Any]]:
    return {name: dict.fromkeys(range(value.dim()), DYNAMIC) for name, value in batch.items()}


def flat(output: Any) -> list[torch.Tensor]:
    """The tensors of an output object or tuple, caches and nested tuples included."""
    if isinstance(output, torch.Tensor):
        return [output]
    return [tensor for part in output for tensor in flat(part)]


def assert_equal(one: Any, other: Any) -> None:
    first, second = flat(one), flat(other)
    assert len(first) == len(second) > 0
    assert [i for i, (a, b) in enumerate(zip(first, second, strict=True)) if not torch.equal(a, b)] == []


def assert_traced(one: Any, other: Any) -> None:
    """Equal up to rounding: TorchScript splits the product of a Conv1D, x W + b, into a product and a sum."""
    first, second = flat(one), flat(other)
    for a, b in zip(first, second, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-5 * max(1.0, b.abs().max().item()))


# ------------------------------------------------------------------------------------------------------ torch.jit.trace


@pytest.mark.parametrize("masked", [True, False], ids=["mask", "no mask"])
@pytest.mark.parametrize("class_name", CLASSES)
def test_traced(class_name: str, masked: bool) -> None:
    model = build(class_name, torchscript=True)
    batch = inputs(class_name, masked=masked)
    batch.pop("mc_token_ids", None)  # torch.jit.trace reaches positional arguments only
    with torch.no_grad():
        traced = torch.jit.trace(model, example_kwarg_inputs=batch)
        for given in (batch, larger(batch)):
            expected = model(**given)
            assert type(expected) is tuple
            assert_traced(traced(**given), expected)
        buffer = io.BytesIO()
        torch.jit.save(traced, buffer)
        buffer.seek(0)
        assert_traced(torch.jit.load(buffer)(**batch), model(**batch))


@pytest.mark.parametrize("trunk", TRUNKS)
def test_traced_as_the_tutorial_does(trunk: str, tmp_path: Path) -> None:
    """from_pretrained(name, torchscript=True), then torch.jit.trace(model, (input_ids,))."""
    build(trunk).save_pretrained(tmp_path)
    model = getattr(minitf, trunk).from_pretrained(tmp_path, torchscript=True)
    ids = inputs(trunk)["input_ids"]
    with torch.no_grad():
        traced = torch.jit.trace(model, (ids,))
        for given in (ids, ids[:1, :3]):
            assert_traced(traced(given), model(given))


@pytest.mark.parametrize("class_name", DECODERS)
def test_a_traced_decoder_takes_and_returns_the_cache_as_a_tuple(class_name: str) -> None:
    """torch.jit.trace reaches positional arguments only; a small module in front reaches the others."""
    model = build(class_name, torchscript=True)

    class Step(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, input_ids: torch.Tensor, past: Any) -> Any:
            return self.model(input_ids, past_key_values=past)

    step = Step()
    prompt, piece = inputs(class_name)["input_ids"], torch.tensor([[7, 8], [9, 1], [2, 3]])
    with torch.no_grad():
        past = model(prompt)[1]
        assert type(past) is tuple
        assert [len(entry) for entry in past] == [2, 2]
        traced = torch.jit.trace(step, (piece, past))
        long = model(prompt.repeat(2, 2))[1]
        given = (torch.randint(1, 60, (6, 5)), long)
        assert_traced(traced(*given), step(*given))
        logits = step(*given)[0]
        whole = model(torch.cat([prompt.repeat(2, 2), given[0]], dim=1))[0]
        torch.testing.assert_close(logits, whole[:, 14:], rtol=0, atol=1e-4)


@pytest.mark.parametrize("trunk", TRUNKS)
def test_the_tracer_refuses_an_output_object_with_a_clear_message(trunk: str) -> None:
    with torch.no_grad(), pytest.raises(RuntimeError, match="tuples of tensors"):
        torch.jit.trace(build(trunk, use_cache=False), example_kwarg_inputs=inputs(trunk))


# --------------------------------------------------------------------------------------------------------- torch.export


# GPT-2 with a mask and an output object: test_an_exported_graph_has_the_oracles_numbers
EXPORTED = [
    pytest.param(class_name, *variant.values, marks=variant.marks, id=f"{class_name}, {variant.id}")
    for class_name in CLASSES
    for variant in (VARIANTS[1:2] if is_gpt2(class_name) else VARIANTS)
]


@pytest.mark.parametrize(("class_name", "return_dict", "masked"), EXPORTED)
def test_exported(class_name: str, return_dict: bool, masked: bool) -> None:
    model = build(class_name, return_dict=return_dict)
    batch = inputs(class_name, masked=masked, labels=masked)
    program = torch.export.export(model, (), batch, dynamic_shapes=all_dynamic(batch)).module()
    for given in (batch, larger(batch)):
        exported, plain = program(**given), model(**given)
        assert type(exported) is type(plain) is (tuple if not return_dict else type(plain))
        assert_equal(exported, plain)
        if return_dict:
            assert exported.keys() == plain.keys()


@pytest.mark.parametrize("class_name", DECODERS)
def test_an_exported_program_is_saved_and_loaded(class_name: str) -> None:
    """The names of output objects and caches stand in the file."""
    model = build(class_name)
    batch = inputs(class_name)
    program = torch.export.export(model, (), batch, dynamic_shapes=all_dynamic(batch))
    buffer = io.BytesIO()
    torch.export.save(program, buffer)
    buffer.seek(0)
    with torch.no_grad():
        output = torch.export.load(buffer).module()(**batch)
        assert_equal(output, model(**batch))
    assert isinstance(output, type(model(**batch)))
    assert isinstance(output.past_key_values, minitf.KVCache)


@pytest.mark.parametrize("cross", [False, True], ids=["decoder", "decoder with cross-attention"])
@pytest.mark.parametrize("class_name", DECODERS)
def test_an_exported_step_takes_a_cache_and_returns_a_longer_one(class_name: str, cross: bool) -> None:
    model = build(class_name, add_cross_attention=cross)

    def call(batch: int, held: int, new: int) -> dict[str, Any]:
        generator = torch.Generator().manual_seed(held)
        ids = torch.randint(1, 60, (batch, held + new), generator=generator)
        states = {"encoder_hidden_states": torch.randn(batch, 4, 64, generator=generator)} if cross else {}
        with torch.no_grad():
            cache = model(ids[:, :held], **states).past_key_values
        mask = torch.ones(batch, held + new, dtype=torch.long)
        mask[0, 0] = 0
        return {"input_ids": ids[:, held:], "attention_mask": mask, **states, "past_key_values": cache}

    first = call(3, 6, 4)
    shapes: dict[str, Any] = {name: {0: DYNAMIC, 1: DYNAMIC} for name in ("input_ids", "attention_mask")}
    if cross:
        shapes["encoder_hidden_states"] = {0: DYNAMIC}
    own = [{0: DYNAMIC, 2: DYNAMIC}] * 2
    shapes["past_key_values"] = [own + ([{0: DYNAMIC}] * 2 if cross else [])] * 2
    with torch.no_grad():
        program = torch.export.export(model, (), first, dynamic_shapes=shapes).module()
        for given in (call(3, 6, 4), call(2, 9, 5)):
            held = given["past_key_values"].get_seq_length()
            exported = program(**given)
            assert given["past_key_values"].get_seq_length() == held  # a graph leaves its inputs as they are
            assert_equal(exported, model(**given))
            assert exported.past_key_values.get_seq_length() == held + given["input_ids"].shape[1]


# -------------------------------------------------------------------------------------------------------- torch.compile


QUICK = ("BertModel", *DECODERS)
# test_compiled_for_training compiles every class too, for one shape
COMPILED = [
    pytest.param(name, True, True, marks=() if name in QUICK else pytest.mark.slow, id=f"{name}, output object, mask")
    for name in CLASSES
    if name in (*QUICK, "GPT2DoubleHeadsModel") or not is_gpt2(name)
] + [
    pytest.param(name, False, False, marks=pytest.mark.slow, id=f"{name}, tuple, no mask")
    for name in CLASSES
    if name == "GPT2Model" or not is_gpt2(name)
]


@pytest.mark.parametrize(("class_name", "return_dict", "masked"), COMPILED)
def test_compiled_in_one_graph(class_name: str, return_dict: bool, masked: bool) -> None:
    model = build(class_name, return_dict=return_dict)
    compiled = torch.compile(model, fullgraph=True, backend="eager", dynamic=True)
    batch = inputs(class_name, masked=masked)
    with torch.no_grad():
        for given in (batch, larger(batch)):
            output = compiled(**given)
            assert type(output) is type(model(**given))
            assert_equal(output, model(**given))


@pytest.mark.parametrize("class_name", CLASSES)
def test_compiled_for_training(class_name: str) -> None:
    """Loss and every gradient through AOTAutograd, labels checked by shape only."""
    model = build(class_name)
    batch = inputs(class_name, labels=True)
    gradients = []
    for call in (model, torch.compile(model, fullgraph=True, backend="aot_eager")):
        model.zero_grad()
        output = call(**batch)
        objective(class_name, output).backward()
        gradients.append({name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, rtol=1e-5, atol=1e-6, msg=name)


@pytest.mark.parametrize("trunk", TRUNKS)
def test_compiled_with_head_mask_and_probabilities(trunk: str) -> None:
    model = build(trunk)
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    given = {
        **inputs(trunk),
        "head_mask": torch.tensor([1.0, 0.0, 0.5, 1.0]),
        "output_attentions": True,
        "output_hidden_states": True,
    }
    with torch.no_grad():
        assert_equal(compiled(**given), model(**given))


@pytest.mark.parametrize("class_name", DECODERS)
def test_compiled_decoding_extends_the_callers_cache(class_name: str) -> None:
    model = build(class_name)
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    ids = inputs(class_name)["input_ids"]
    cache = minitf.KVCache()
    with torch.no_grad():
        logits = [compiled(ids[:, :4], past_key_values=cache).logits]
        logits += [compiled(ids[:, i : i + 1], past_key_values=cache).logits for i in range(4, 7)]
        torch.testing.assert_close(torch.cat(logits, dim=1), model(ids).logits, rtol=0, atol=1e-4)
    assert cache.get_seq_length() == 7


@pytest.mark.slow
@pytest.mark.parametrize("trunk", TRUNKS)
def test_inductor_compiles_the_trunk(trunk: str) -> None:
    model = build(trunk)
    compiled = torch.compile(model, fullgraph=True)
    batch = inputs(trunk)
    with torch.no_grad():
        output, plain = compiled(**batch), model(**batch)
    for one, other in zip(flat(output), flat(plain), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-4)


# --------------------------------------------------------------------------------------------------------------- ONNX


@contextlib.contextmanager
def quiet_exporter() -> Iterator[None]:
    """The exporter logs the absence of torchvision, and warns of its own deprecated calls."""
    logger = logging.getLogger("torch.onnx._internal.exporter._registration")
    level = logger.level
    logger.setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
    logger.setLevel(level)


@pytest.mark.parametrize(
    ("class_name", "attention"),
    [
        ("BertModel", "sdpa"),
        ("BertModel", "eager"),
        ("BertForTokenClassification", "sdpa"),
        ("GPT2LMHeadModel", "sdpa"),
        ("GPT2ForSequenceClassification", "eager"),
    ],
)
def test_onnxruntime_computes_the_model_for_any_batch_and_length(
    class_name: str, attention: str, tmp_path: Path
) -> None:
    import onnxruntime

    model = build(class_name, attn_implementation=attention, use_cache=False)
    batch = inputs(class_name)
    path = tmp_path / "encoder.onnx"
    with quiet_exporter(), torch.no_grad():
        torch.onnx.export(model, (), path, kwargs=batch, dynamo=True, dynamic_shapes=all_dynamic(batch), verbose=False)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    assert [node.name for node in session.get_inputs()] == list(batch)
    for given in (batch, larger(batch)):
        with torch.no_grad():
            expected = model(**given).to_tuple()
        computed = session.run(None, {name: value.numpy() for name, value in given.items()})
        assert len(computed) == len(expected)
        for one, other in zip(computed, expected, strict=True):
            np.testing.assert_allclose(one, other.numpy(), rtol=0, atol=2e-5)


# ---------------------------------------------------------------------------------------------- copies, pickles, files


def assert_same_model(one: Any, other: Any, class_name: str) -> None:
    assert type(one) is type(other)
    assert one.config == other.config
    assert one.training == other.training
    assert list(one.state_dict()) == list(other.state_dict())
    one.check_ties()
    batch = inputs(class_name)
    with torch.no_grad():
        assert_equal(one(**batch), other(**batch))


@pytest.mark.parametrize("class_name", CLASSES)
def test_copied_and_pickled(class_name: str) -> None:
    model = build(class_name)
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert_same_model(twin, model, class_name)
        twin.config.output_hidden_states = True
        assert not model.config.output_hidden_states
        with torch.no_grad():
            for parameter in twin.parameters():
                parameter.zero_()
        assert all(parameter.abs().sum() > 0 for parameter in model.parameters())


@pytest.mark.parametrize("class_name", CLASSES)
def test_state_dict_through_a_file(class_name: str) -> None:
    model = build(class_name)
    buffer = io.BytesIO()
    torch.save(model.state_dict(), buffer)
    buffer.seek(0)
    other = build(class_name)
    randomise_(other, seed=1)
    other.load_state_dict(torch.load(buffer, weights_only=True))
    assert_same_model(other, model, class_name)


@pytest.mark.parametrize("class_name", TIED)
def test_ties_survive_copies_and_conversions(class_name: str) -> None:
    model = build(class_name)
    copies = [
        copy.deepcopy(model),
        pickle.loads(pickle.dumps(model)),
        copy.deepcopy(model).to(torch.float64),
        copy.deepcopy(model).half(),
        copy.deepcopy(model).to("cpu", dtype=torch.bfloat16),
        copy.deepcopy(model).bfloat16().float(),
        copy.deepcopy(model).to_empty(device="cpu"),
    ]
    for twin in copies:
        twin.check_ties()
        assert twin.get_output_embeddings().weight is twin.get_input_embeddings().weight
        assert is_gpt2(class_name) or twin.cls.predictions.decoder.bias is twin.cls.predictions.bias
        assert twin.num_parameters() == model.num_parameters()


@pytest.mark.parametrize("class_name", DECODERS)
def test_outputs_and_caches_are_copied_and_pickled(class_name: str) -> None:
    model = build(class_name)
    with torch.no_grad():
        output = model(**inputs(class_name), output_hidden_states=True)
    for twin in (copy.deepcopy(output), pickle.loads(pickle.dumps(output))):
        assert twin.keys() == output.keys()
        assert_equal(twin, output)
        twin.past_key_values.crop(2)
        assert output.past_key_values.get_seq_length() == 7
