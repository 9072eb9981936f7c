"""How a golden case of GPT-2 is computed, with either library; the parts that it shares with BERT are in bert_runs.

A GPT-2 is a decoder, so its per-token outputs are compared at attended positions (see `bert_runs.attended`), and a
batch that is padded on the left comes with position ids. The cache is off but in the cases of tuples: a call that fills
one multiplies by keys in another layout in 4.49, which rounds otherwise.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from tests.goldens.bert_runs import (
    ENCODER_LENGTH,
    ENCODER_MASK,
    LENGTH,
    Case,
    Result,
    add_gradients,
    attended,
    close,
    make_labels,
    objective,
    same,
    structure,
)
from tests.support import padded_batch, random_value, randomise_

__all__ = ["BASE_CONFIG", "RUNS", "build", "make_inputs", "run"]

BASE_CONFIG: dict[str, Any] = {
    "vocab_size": 61,
    "n_positions": 24,
    "n_embd": 32,
    "n_layer": 2,
    "n_head": 2,
    "n_inner": 48,
    "bos_token_id": 60,
    "eos_token_id": 60,
    "pad_token_id": 0,
    "use_cache": False,
    "attn_implementation": "eager",
}


def build(library: Any, case: Case, *, fill: bool = True, **changes: Any) -> Any:
    """The case's model with every parameter random, in evaluation mode."""
    config = library.GPT2Config(**{**BASE_CONFIG, **case.config, **changes})
    model = getattr(library, case.model)(config).to(getattr(torch, case.options.get("dtype", "float32")))
    return (randomise_(model) if fill else model).eval()


def make_inputs(case: Case) -> dict[str, Any]:
    """Keyword arguments of the model.

    `case.inputs`: `padding` (side), `choices` (a [B, choices, T] batch), `encoder` (encoder_hidden_states and their
    mask), `labels` (kind), `head_mask` (nested list; gets a gradient), `flags` (passed on as they are).
    """
    spec = case.inputs
    dtype = getattr(torch, case.options.get("dtype", "float32"))
    inputs: dict[str, Any] = dict(padded_batch(padding=spec["padding"], length=LENGTH))
    if "choices" in spec:
        other = padded_batch(padding=spec["padding"], length=LENGTH, seed=1)
        inputs = {name: torch.stack([value, other[name]], dim=1) for name, value in inputs.items()}
        inputs["mc_token_ids"] = (torch.arange(LENGTH) * inputs["attention_mask"]).argmax(-1)
        inputs["mc_labels"] = torch.tensor([1, 0, 1])
    elif spec["padding"] == "left":
        inputs["position_ids"] = (inputs["attention_mask"].cumsum(-1) - 1).clamp(min=0)
    if spec.get("encoder"):
        states = random_value("encoder_hidden_states", (3, ENCODER_LENGTH, BASE_CONFIG["n_embd"]))
        inputs["encoder_hidden_states"] = torch.from_numpy(states).to(dtype)
        inputs["encoder_attention_mask"] = torch.tensor(ENCODER_MASK)
    for kind in spec.get("labels", ()):
        inputs.update(make_labels(kind, inputs))
    if "head_mask" in spec:
        inputs["head_mask"] = torch.tensor(spec["head_mask"], dtype=dtype, requires_grad=True)
    return {**inputs, **spec.get("flags", {})}


def named_tensors(outputs: Any, attention_mask: Tensor) -> dict[str, Tensor]:
    """The fields of an output as tensors, per-token ones at attended positions; tuples of layers numbered.

    A batch of choices is padded on the right, where every query attends to something: it stays as it is.
    """
    flat: dict[str, Tensor] = {}
    for name, value in outputs.items():
        if name == "past_key_values":
            continue
        layers = [value] if isinstance(value, Tensor) else list(value)
        for number, layer in enumerate(layers):
            if attention_mask.dim() == 2:
                layer = attended_queries(layer, attention_mask)
            flat[name if isinstance(value, Tensor) else f"{name}.{number}"] = layer
    return flat


def attended_queries(value: Tensor, attention_mask: Tensor) -> Tensor:
    """`attended` for `[B, H, T, S]`, `[B, T, C]` and `[B, T]`; a loss, and the scores of whole rows, as they are."""
    if value.dim() == 4:
        return attended(value, attention_mask, queries_in=2)
    return attended(value, attention_mask) if value.shape[:2] == attention_mask.shape else value


def run_forward(library: Any, case: Case) -> Result:
    """One call. Options: `backward` (digests of all gradients, that of the head mask in full), `keep`."""
    model, inputs, result = build(library, case), make_inputs(case), Result()
    flat = named_tensors(model(**inputs), inputs["attention_mask"])
    if case.options.get("backward"):
        loss = objective(flat)
        if "mc_loss" in flat:
            loss = loss + flat["mc_loss"]
        loss.backward()
        add_gradients(result, model, case)
        if "head_mask" in inputs:
            result.add("grad.head_mask", inputs["head_mask"].grad)
    keep = case.options.get("keep", tuple(flat))
    for name, value in flat.items():
        if name in keep:
            result.add(name, value)
    return result


def attention_shapes(model: Any) -> dict[str, str]:
    """Of every parameter in the attention modules."""
    return {
        name: str(list(value.shape))
        for name, value in model.named_parameters()
        if "attn." in name or "attention." in name
    }


def run_pruned(library: Any, case: Case) -> Result:
    """Options: `prune`, a list of `{layer: heads}`, applied one after another.

    Recorded: outputs and shapes after pruning; whether the unpruned model with those heads masked gives the same
    numbers; whether a model built from the pruned config takes the pruned weights and gives the same. A layer without
    any head is an error in 4.49, whose kind is recorded.
    """
    model, inputs, result = build(library, case), make_inputs(case), Result()
    mask = torch.ones(model.config.n_layer, model.config.n_head)
    for step in case.options["prune"]:
        for layer, pruned in step.items():
            mask[layer, list(pruned)] = 0.0
        model.prune_heads({layer: list(pruned) for layer, pruned in step.items()})
    pruned_heads = {str(layer): sorted(heads) for layer, heads in model.config.pruned_heads.items()}
    result.facts["pruned_heads"] = dict(sorted(pruned_heads.items()))
    result.facts["shapes"] = attention_shapes(model)
    rebuilt = build(library, case, fill=False, pruned_heads=model.config.pruned_heads)
    rebuilt.load_state_dict(model.state_dict())
    with torch.no_grad():
        masked = named_tensors(build(library, case)(**inputs, head_mask=mask), inputs["attention_mask"])
        main = next(name for name in ("last_hidden_state", "logits") if name in masked)
        result.add("masked instead", masked[main])
        try:
            flat = named_tensors(model(**inputs, output_attentions=True), inputs["attention_mask"])
        except (ValueError, RuntimeError) as error:
            result.facts["error"] = type(error).__name__
            return result
        again = named_tensors(rebuilt(**inputs), inputs["attention_mask"])
    result.facts["the model with these heads masked gives the same"] = close(masked[main], flat[main])
    result.facts["a model built from the pruned config gives the same"] = close(again[main], flat[main])
    for name, value in flat.items():
        result.add(name, value)
    return result


def run_tuple(library: Any, case: Case) -> Result:
    """The plain tuple of `return_dict=False`: which field each element is (found by its value), kinds and shapes.

    Numbers: the tensors; of logits over the vocabulary those of the batch's last row.
    """
    model, inputs, result = build(library, case), make_inputs(case), Result()
    inputs.update(output_hidden_states=True, output_attentions=True)
    with torch.no_grad():
        fields = dict(model(**inputs, return_dict=True).items())
        classic = model(**inputs, return_dict=False)
    matching = [[name for name, value in fields.items() if same(value, element)] for element in classic]
    result.facts["type"] = type(classic).__name__
    result.facts["fields of return_dict=True"] = list(fields)
    result.facts["tuple"] = [names[0] if names else None for names in matching]
    result.facts["structure"] = {name: structure(value) for name, value in fields.items()}
    for name, value in fields.items():
        if isinstance(value, Tensor):
            rows = slice(-1, None) if value.shape[-1:] == (BASE_CONFIG["vocab_size"],) else slice(None)
            part = {name: value[rows] if value.dim() else value}
            result.add(name, named_tensors(part, inputs["attention_mask"][rows])[name])
    return result


RUNS: dict[str, Callable[[Any, Case], Result]] = {"forward": run_forward, "pruned": run_pruned, "tuple": run_tuple}


def run(library: Any, case: Case) -> Result:
    """Compute one case, in one thread (the order of a sum depends on the number of threads)."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return RUNS[case.run](library, case)
    finally:
        torch.set_num_threads(threads)
