"""GPT-2 outside of Python: onnxruntime decodes with the cache, and exported graphs have the oracle's numbers."""

from __future__ import annotations

import copy
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
from minitf.cache import StaticKVCache
from tests.parity.gpt2_pairs import CLASSES, attended, different, encoder_inputs, for_oracle, inputs_for, pair

DYNAMIC = torch.export.Dim.DYNAMIC


@pytest.fixture(autouse=True)
def quiet_and_on_one_thread() -> Iterator[None]:
    """The exporter logs the absence of torchvision, and warns of its own deprecated calls."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    logger = logging.getLogger("torch.onnx._internal.exporter._registration")
    level = logger.level
    logger.setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
    logger.setLevel(level)
    torch.set_num_threads(threads)


def step(model: Any, batch: int, held: int, new: int, cross: bool = False) -> dict[str, Any]:
    """A call that continues a cache: ids, their positions, a mask with left padding in the first row, and the cache."""
    generator = torch.Generator().manual_seed(held)
    ids = torch.randint(1, 60, (batch, held + new), generator=generator)
    mask = torch.ones(batch, held + new, dtype=torch.long)
    mask[0, :2] = 0
    positions = minitf.masks.positions_from_mask(mask)
    states = {"encoder_hidden_states": torch.randn(batch, 5, 64, generator=generator)} if cross else {}
    with torch.no_grad():
        first = {"attention_mask": mask[:, :held], "position_ids": positions[:, :held], **states}
        cache = model(ids[:, :held], **first).past_key_values
    rest = {"attention_mask": mask, "position_ids": positions[:, held:], **states}
    return {"input_ids": ids[:, held:], **rest, "past_key_values": cache}


def tensors(call: dict[str, Any]) -> list[torch.Tensor]:
    """What a graph takes: the tensors of a call in their order, those of the cache layer by layer."""
    plain = [value for value in call.values() if isinstance(value, torch.Tensor)]
    return plain + [tensor for entry in call["past_key_values"] for tensor in entry]


@pytest.mark.parametrize(("attention", "cross"), [("sdpa", False), pytest.param("eager", True, marks=pytest.mark.slow)])
def test_onnxruntime_decodes_with_the_cache(attention: str, cross: bool, tmp_path: Path) -> None:
    """Any batch, any number of positions in the cache and in the step: logits, and the longer cache."""
    import onnxruntime

    model, _ = pair("GPT2LMHeadModel", attention=attention, add_cross_attention=cross)
    first = step(model, 3, 6, 4, cross)
    two = {0: DYNAMIC, 1: DYNAMIC}
    entry: list[Any] = [{0: DYNAMIC, 2: DYNAMIC}] * 2 + ([{0: DYNAMIC}] * 2 if cross else [])
    shapes: dict[str, Any] = {"input_ids": two, "attention_mask": two, "position_ids": two}
    shapes |= {"encoder_hidden_states": {0: DYNAMIC}} if cross else {}
    shapes["past_key_values"] = [entry] * 2
    path = tmp_path / "decoder.onnx"
    with torch.no_grad():
        torch.onnx.export(model, (), path, kwargs=first, dynamo=True, dynamic_shapes=shapes, verbose=False)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [node.name for node in session.get_inputs()]
    for call in (step(model, 3, 6, 4, cross), step(model, 2, 9, 5, cross), step(model, 4, 20, 2, cross)):
        given = tensors(call)
        assert len(given) == len(names)
        computed = session.run(None, {name: tensor.numpy() for name, tensor in zip(names, given, strict=True)})
        with torch.no_grad():
            output = model(**call)
        expected = [output.logits, *(tensor for entry in output.past_key_values for tensor in entry)]
        assert len(computed) == len(expected)
        for one, other in zip(computed, expected, strict=True):
            np.testing.assert_allclose(one, other.numpy(), rtol=0, atol=2e-5)


@pytest.mark.parametrize(
    ("class_name", "attention"), [("GPT2LMHeadModel", "eager"), *((name, "sdpa") for name in CLASSES)]
)
def test_an_exported_graph_has_the_oracles_numbers(class_name: str, attention: str) -> None:
    """The graph of our model beside transformers' model as it is, bit by bit."""
    ours, theirs = pair(class_name, attention=attention, n_layer=1)
    example, inputs = inputs_for(class_name), inputs_for(class_name, padding="left", seed=1)
    dynamic = {name: dict.fromkeys(range(value.dim()), DYNAMIC) for name, value in example.items()}
    program = torch.export.export(ours, (), example, dynamic_shapes=dynamic).module()
    mask = inputs["attention_mask"]
    with torch.no_grad():
        output = program(**inputs)
        assert type(output) is type(ours(**inputs))
        assert output.keys() == ours(**inputs).keys()
        mine = attended(class_name, output, mask)
        other = attended(class_name, theirs(**for_oracle(inputs)), mask)
    if class_name == "GPT2ForQuestionAnswering":  # a softmax over padding too, where the libraries differ on purpose
        mine.pop("loss")
        other.pop("loss")
    assert different(mine, other) == []


def test_the_graph_that_transformers_exports_has_our_numbers() -> None:
    ours, theirs = pair("GPT2LMHeadModel", attention="sdpa")
    theirs.config.use_cache = False
    inputs = inputs_for("GPT2LMHeadModel", labels=False)
    with torch.no_grad():
        program = torch.export.export(theirs, (), inputs).module()
        exported, output = program(**inputs).logits, ours(**inputs).logits
    real = inputs["attention_mask"].bool()
    torch.testing.assert_close(output[real], exported[real], rtol=0, atol=1e-5 * output.abs().max().item())


@pytest.mark.parametrize("class_name", [name for name in CLASSES if name != "GPT2ForQuestionAnswering"])
def test_a_compiled_step_of_every_class_with_a_static_cache(class_name: str) -> None:
    """One graph for all steps, in the classes that the language model's own tests do not compile."""
    from torch._dynamo.testing import CompileCounterWithBackend

    model, _ = pair(class_name, attention="sdpa", n_layer=1)
    ids = inputs_for(class_name, padding="none")["input_ids"]
    rows = ids.flatten(0, -2).shape[0]
    static, growing = StaticKVCache(model.config, rows, max_length=12), minitf.KVCache()
    torch.compiler.reset()
    counter = CompileCounterWithBackend("eager")
    compiled = torch.compile(model, fullgraph=True, backend=counter)
    with torch.no_grad():
        for cache in (static, growing):
            model(ids[..., :4], past_key_values=cache)
        for place in range(4, 7):
            one = compiled(ids[..., place : place + 1], past_key_values=static)
            other = model(ids[..., place : place + 1], past_key_values=growing)
            for name in set(other.keys()) - {"past_key_values"}:
                torch.testing.assert_close(one[name], other[name], rtol=0, atol=1e-4)
    assert counter.frame_count == 1
    assert static.get_seq_length() == growing.get_seq_length() == 7


def test_caches_are_copied_and_pickled_with_what_they_hold() -> None:
    """Also the static one, and the encoder's part."""
    model, _ = pair("GPT2LMHeadModel", attention="sdpa", add_cross_attention=True)
    ids = inputs_for("GPT2LMHeadModel", padding="none")["input_ids"]
    plain, _ = pair("GPT2LMHeadModel", attention="sdpa")
    with torch.no_grad():
        static = StaticKVCache(plain.config, 3, max_length=9)
        plain(ids[:, :4], past_key_values=static)
        crossed = model(ids[:, :4], **encoder_inputs()).past_key_values
        for one, cache, more in ((plain, static, {}), (model, crossed, encoder_inputs())):
            for twin in (copy.deepcopy(cache), pickle.loads(pickle.dumps(cache))):
                assert type(twin) is type(cache)
                assert repr(twin) == repr(cache)
                expected = one(ids[:, 4:], past_key_values=copy.deepcopy(cache), **more).logits
                assert torch.equal(one(ids[:, 4:], past_key_values=twin, **more).logits, expected)
                assert (twin.get_seq_length(), cache.get_seq_length()) == (7, 4)
