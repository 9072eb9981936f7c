"""GPT-2 models that others trained: the numbers and the behaviour that their authors recorded.

`capp-gpt2` is in the current format. `gpt-nano-sort` is minGPT: its names are GPT-2's, its layers are nn.Linear, its
scoring matrix is its own, and its author published every intermediate tensor of one forward.
"""

from __future__ import annotations

import base64
import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

import minitf
from minitf import attention
from minitf.masks import positions_from_mask
from tests.support import shared_data


@pytest.fixture(autouse=True)
def one_thread() -> Any:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def greedy(model: Any, ids: torch.Tensor, steps: int, stop: int | None = None) -> torch.Tensor:
    """The plain loop over the forward: the new tokens `[B, steps]`, ended early by `stop` in a batch of one."""
    cache, step, new = minitf.KVCache(), ids, []
    for _ in range(steps):
        step = model(step, cache, logits_to_keep=1).logits[:, -1].argmax(-1, keepdim=True)
        new.append(step)
        if stop is not None and step.item() == stop:
            break
    return torch.cat(new, 1)


# --------------------------------------------------------------------------------------------------------- capp-gpt2

PROMPT = [2, 8, 14, 17, 22, 25, 49]
CONTINUATION = [30, 45, 40, 42, 50, 32, 40, 37, 42, 50, 33, 40, 37, 42, 50, 51]


def capp() -> Path:
    return shared_data("checkpoints", "capp-gpt2")


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_logits_have_the_oracles_bits(implementation: str) -> None:
    ours = minitf.GPT2LMHeadModel.from_pretrained(capp(), attn_implementation=implementation, strict=True)
    theirs = transformers.GPT2LMHeadModel.from_pretrained(capp(), attn_implementation=implementation)
    assert ours.load_report.ok
    assert not ours.training
    generator = torch.Generator().manual_seed(0)
    batch = torch.randint(0, 52, (4, 60), generator=generator)
    mask = (torch.arange(60) >= torch.tensor([0, 7, 30, 59])[:, None]).long()
    with torch.no_grad():
        for ids in (torch.tensor([PROMPT]), torch.tensor([PROMPT + CONTINUATION]), batch):
            assert torch.equal(ours(ids).logits, theirs(ids).logits)
        padded = {"attention_mask": mask, "position_ids": positions_from_mask(mask)}
        real = mask.bool()
        assert torch.equal(ours(batch, **padded).logits[real], theirs(batch, **padded).logits[real])


def test_the_recorded_continuation() -> None:
    model = minitf.GPT2LMHeadModel.from_pretrained(capp())
    with torch.no_grad():
        last = model(torch.tensor([PROMPT])).logits[0, -1]
        assert last.argmax() == 30
        assert last[30].item() == pytest.approx(8.40386, abs=5e-6)
        stop = model.config.eos_token_id
        assert greedy(model, torch.tensor([PROMPT]), 40, stop)[0].tolist() == CONTINUATION


def test_the_whole_of_the_512_positions_and_no_more() -> None:
    model = minitf.GPT2LMHeadModel.from_pretrained(capp())
    theirs = transformers.GPT2LMHeadModel.from_pretrained(capp())
    ids = torch.randint(0, 52, (1, 512), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        output = model(ids)
        assert torch.equal(output.logits, theirs(ids).logits)
        with pytest.raises(ValueError, match=r"512 in the cache.*512 \(n_positions\)"):
            model(ids[:, :1], output.past_key_values)


def test_what_is_known_of_the_files_configuration() -> None:
    config = minitf.GPT2Config.from_pretrained(capp())
    assert (config.n_layer, config.n_embd, config.n_head, config.vocab_size) == (4, 64, 4, 53)
    assert config.unknown_keys == {"n_ctx": 512}  # a second name for n_positions that nothing ever read


# ------------------------------------------------------------------------------------------------------ gpt-nano-sort

# minGPT's name -> (ours, whether to transpose): nn.Linear is [outputs, inputs], Conv1D [inputs, outputs].
TRANSPOSED = {"attn.c_attn.weight", "attn.c_proj.weight", "mlp.c_fc.weight", "mlp.c_proj.weight"}
AS_THEY_ARE = {
    "ln_1.weight", "ln_1.bias", "ln_2.weight", "ln_2.bias",
    "attn.c_attn.bias", "attn.c_proj.bias", "mlp.c_fc.bias", "mlp.c_proj.bias",
}  # fmt: skip
OUTSIDE = (
    "transformer.wte.weight",
    "transformer.wpe.weight",
    "transformer.ln_f.weight",
    "transformer.ln_f.bias",
    "lm_head.weight",
)
MASK = "attn.bias"  # the causal triangle, which is no weight


def tensors_of(name: str) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """(tensors, config) of one of the author's files: base64 of little-endian float32."""
    contents = json.loads(shared_data("checkpoints", "gpt-nano-sort", name).read_text())
    tensors = {}
    for key, entry in contents.items():
        if key != "config":
            values = np.frombuffer(base64.b64decode(entry["data"]), dtype="<f4").reshape(entry["shape"])
            tensors[key] = torch.from_numpy(values.astype(np.float32))
    return tensors, contents["config"]


@pytest.fixture(scope="module")
def sorter() -> Any:
    tensors, config = tensors_of("gpt-nano-sort-model.json")
    model = minitf.GPT2LMHeadModel(
        minitf.GPT2Config(
            vocab_size=config["vocab_size"], n_positions=config["block_size"], n_embd=config["n_embd"],
            n_layer=config["n_layer"], n_head=config["n_head"], tie_word_embeddings=False,
            bos_token_id=None, eos_token_id=None,
        )
    )  # fmt: skip
    state = {name: tensors.pop(name) for name in OUTSIDE}
    for layer in range(config["n_layer"]):
        prefix = f"transformer.h.{layer}."
        triangle = tensors.pop(prefix + MASK)
        assert torch.equal(triangle[0, 0], torch.ones(11, 11).tril())
        state.update({prefix + name: tensors.pop(prefix + name) for name in AS_THEY_ARE})
        state.update({prefix + name: tensors.pop(prefix + name).t() for name in TRANSPOSED})
    assert tensors == {}  # every tensor of the file is accounted for
    model.load_state_dict(state, strict=True)
    return model.eval()


@pytest.fixture
def recording() -> Iterator[dict[str, torch.Tensor]]:
    """What the attention function `recording` saw in its first call: query, key, value, scores, probabilities."""
    seen: dict[str, torch.Tensor] = {}

    @attention.register("recording")
    def record(module: Any, query: Any, key: Any, value: Any, mask: Any, **options: Any) -> Any:
        context, probs = attention.eager(module, query, key, value, mask, **options)
        scores = torch.matmul(query, key.transpose(-1, -2)) * options["scale"]
        named = {"q": query, "k": key, "v": value, "att": scores.masked_fill(~mask, float("-inf")), "attSm": probs}
        for name, tensor in named.items():
            seen.setdefault(name, tensor)
        return context, probs

    yield seen
    del attention.ATTENTION["recording"]


OUTPUTS = {
    "tok_emb": "transformer.wte",
    "pos_emb": "transformer.wpe",
    "x": "transformer.drop",
    "ln1": "transformer.h.0.ln_1",
    "qkv": "transformer.h.0.attn.c_attn",
    "yProj": "transformer.h.0.attn.c_proj",
    "ln2": "transformer.h.0.ln_2",
    "fc": "transformer.h.0.mlp.c_fc",
    "gelu": "transformer.h.0.mlp.act",
    "mlp": "transformer.h.0.mlp.c_proj",
    "mlpResid": "transformer.h.0",
    "block0": "transformer.h.0",
    "block1": "transformer.h.1",
    "block2": "transformer.h.2",
    "ln_f": "transformer.ln_f",
    "lm_head": "lm_head",
}
INPUTS = {"y": "transformer.h.0.attn.c_proj", "attnResid": "transformer.h.0.ln_2"}


def test_the_authors_intermediate_tensors(sorter: Any, recording: dict[str, torch.Tensor]) -> None:
    """All 25, found at the module paths of GPT-2, to 2e-6."""
    partials, _ = tensors_of("gpt-nano-sort-t0-partials.json")
    ids = partials.pop("idx").long()
    found: dict[str, torch.Tensor] = {}

    def keeper(name: str) -> Any:
        return lambda *given: found.update({name: given[-1][0] if isinstance(given[-1], tuple) else given[-1]})

    hooks = [sorter.get_submodule(path).register_forward_hook(keeper(name)) for name, path in OUTPUTS.items()]
    hooks += [sorter.get_submodule(path).register_forward_pre_hook(keeper(name)) for name, path in INPUTS.items()]
    sorter.config.attn_implementation = "recording"
    try:
        with torch.no_grad():
            found["probs"] = sorter(ids, use_cache=False).logits.softmax(-1)
    finally:
        sorter.config.attn_implementation = "sdpa"
        for hook in hooks:
            hook.remove()
    found.update(recording)
    assert found.keys() == partials.keys()
    assert len(partials) + 1 == 25
    for name, expected in partials.items():
        visible = torch.isfinite(expected)
        assert found[name].shape == expected.shape, name
        assert torch.equal(torch.isfinite(found[name]), visible), name
        error = (found[name][visible] - expected[visible]).abs().max()
        assert error <= 2e-6, name


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_all_729_sequences_are_sorted(sorter: Any, implementation: str) -> None:
    """Six letters in, the six letters in order out: a prompt of 6 and 5 single steps fill the 11 positions."""
    sequences = torch.tensor(list(itertools.product(range(3), repeat=6)))
    assert len(sequences) == 729
    sorter.config.attn_implementation = implementation
    try:
        with torch.no_grad():
            answers = greedy(sorter, sequences, 6)
    finally:
        sorter.config.attn_implementation = "sdpa"
    assert torch.equal(answers, sequences.sort(1).values)


def test_a_transposed_projection_sorts_no_longer(sorter: Any) -> None:
    """The square `c_proj`, which nothing but the numbers can tell from its transpose."""
    sequences = torch.tensor(list(itertools.product(range(3), repeat=6)))
    weight = sorter.transformer.h[0].attn.c_proj.weight
    right = weight.detach().clone()
    try:
        with torch.no_grad():
            weight.copy_(right.t())
            answers = greedy(sorter, sequences, 6)
    finally:
        with torch.no_grad():
            weight.copy_(right)
    assert (answers == sequences.sort(1).values).all(1).float().mean() < 0.9


def test_the_sorter_saved_here_is_transformers_gpt2(sorter: Any, tmp_path: Path) -> None:
    sorter.save_pretrained(tmp_path)
    theirs = transformers.GPT2LMHeadModel.from_pretrained(tmp_path)
    ids = torch.tensor(list(itertools.product(range(3), repeat=6)))[::50]
    with torch.no_grad():
        assert torch.equal(sorter(ids).logits, theirs(ids).logits)
