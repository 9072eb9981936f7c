"""How a golden case is computed, with either library: `transformers` 4.49.0 (the oracle) or `minitf`.

Both have the same class names, arguments and parameter names, so one function serves both; `library` is the module. No
parameter is stored in the golden files: both sides fill their models with `tests.support.random_value`, which depends
on the parameter's name, shape and a seed only.

Dimension letters: B batch, T positions, H heads, C hidden, V vocabulary, L layers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tests.support import padded_batch, random_value, randomise_

BASE_CONFIG: dict[str, Any] = {
    "vocab_size": 61,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 48,
    "max_position_embeddings": 24,
    "type_vocab_size": 2,
    "attn_implementation": "eager",
}

LENGTH = 5
ENCODER_LENGTH = 5
ENCODER_MASK = [[1, 1, 1, 1, 1], [1, 1, 1, 0, 0], [0, 0, 1, 1, 1]]


@dataclass(frozen=True)
class Case:
    """One golden case: everything that determines its numbers, as plain data that is also written to the JSON file."""

    name: str
    group: str  # the file that holds its numbers: bert_<group>.safetensors
    about: str
    model: str  # class name
    run: str  # key of RUNS
    config: dict[str, Any] = field(default_factory=dict)  # on top of BASE_CONFIG
    inputs: dict[str, Any] = field(default_factory=dict)  # see make_inputs
    options: dict[str, Any] = field(default_factory=dict)  # see the function in RUNS

    def description(self) -> dict[str, Any]:
        return asdict(self)


@dataclass
class Result:
    """`tensors` are compared as numbers; `facts` (names, shapes, lengths, yes/no) must be the same."""

    tensors: dict[str, np.ndarray] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)

    def add(self, name: str, value: Tensor) -> None:
        self.tensors[name] = value.detach().numpy()


# ---------------------------------------------------------------------------------------------- model and inputs


def build(library: Any, case: Case, *, fill: bool = True, **changes: Any) -> Any:
    """The case's model with every parameter random, in evaluation mode (dropout is 0 in training cases)."""
    config = library.BertConfig(**{**BASE_CONFIG, **case.config, **changes})
    model = getattr(library, case.model)(config, **case.options.get("constructor", {}))
    model = model.to(getattr(torch, case.options.get("dtype", "float32")))
    if fill:
        randomise_(model)
    return model.train(case.options.get("train", False))


def make_inputs(case: Case) -> dict[str, Any]:
    """Keyword arguments of the model.

    `case.inputs`: `padding` (side), `length`, `choices` (a [B, choices, T] batch), `encoder` (encoder_hidden_states and
    their mask), `labels` (kind), `head_mask` (nested list; gets a gradient), `flags` (passed on as they are).
    """
    spec = case.inputs
    dtype = getattr(torch, case.options.get("dtype", "float32"))
    inputs: dict[str, Any] = dict(padded_batch(padding=spec["padding"], length=spec.get("length", LENGTH)))
    if "choices" in spec:
        other = padded_batch(padding=spec["padding"], length=spec.get("length", LENGTH), seed=1)
        inputs = {name: torch.stack([value, other[name]], dim=1) for name, value in inputs.items()}
    if spec.get("encoder"):
        states = random_value("encoder_hidden_states", (3, ENCODER_LENGTH, BASE_CONFIG["hidden_size"]))
        inputs["encoder_hidden_states"] = torch.from_numpy(states).to(dtype)
        inputs["encoder_attention_mask"] = torch.tensor(ENCODER_MASK)
    for kind in spec.get("labels", ()):
        inputs.update(make_labels(kind, inputs))
    if "head_mask" in spec:
        inputs["head_mask"] = torch.tensor(spec["head_mask"], dtype=dtype, requires_grad=True)
    inputs.update(spec.get("flags", {}))
    return inputs


def make_labels(kind: str, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """`next_token` (the ids), `tokens` (random ids), `tags`, `class`, `next`, `span`; padding is -100, ignored."""
    generator = np.random.Generator(np.random.PCG64([5, 5]))
    shape, mask = inputs["input_ids"].shape, inputs["attention_mask"]
    if kind == "next_token":
        before = torch.cat([mask[:, :1], mask[:, :-1]], dim=1)  # no token is predicted from padding (see attended)
        return {"labels": inputs["input_ids"].masked_fill(mask * before == 0, -100)}
    if kind == "tokens":
        labels = torch.from_numpy(generator.integers(0, BASE_CONFIG["vocab_size"], shape))
        return {"labels": labels.masked_fill(mask == 0, -100)}
    if kind == "tags":
        return {"labels": torch.from_numpy(generator.integers(0, 4, shape)).masked_fill(mask == 0, -100)}
    if kind == "class":
        return {"labels": torch.tensor([1, 0, 1])}
    if kind == "next":
        return {"next_sentence_label": torch.tensor([1, 0, 0])}
    if kind == "span":  # position 9 is beyond the 5 tokens: ignored
        return {"start_positions": torch.tensor([1, 0, 9]), "end_positions": torch.tensor([3, 2, 9])}
    raise ValueError(f"unknown kind of labels {kind!r}")


# ------------------------------------------------------------------------------------------------ what is recorded


def attended(value: Tensor, attention_mask: Tensor, *, queries_in: int = 1) -> Tensor:
    """The rows of `value` at attended positions, `[N, ...]`.

    Under a causal mask the padding of a left-padded row may attend to nothing. 4.49 gives such a query the mean of all
    values, minitf gives it 0; neither reaches an attended position. So decoders are compared where there are tokens.
    """
    return value.transpose(1, queries_in)[attention_mask.bool()]


def named_tensors(outputs: Any, case: Case, attention_mask: Tensor) -> dict[str, Tensor]:
    """The fields of an output as tensors; a tuple of equal shapes is stacked `[L, ...]`, of unequal ones numbered.

    The cache is left out (see run_cached). Decoders: attended positions only.
    """
    flat: dict[str, Tensor] = {}
    for name, value in outputs.items():
        if name == "past_key_values":
            continue
        layers = [value] if isinstance(value, Tensor) else list(value)
        if case.config.get("is_decoder"):
            layers = [attended_queries(layer, attention_mask) for layer in layers]
        if isinstance(value, Tensor):
            flat[name] = layers[0]
        elif len({layer.shape for layer in layers}) == 1:
            flat[name] = torch.stack(layers)
        else:
            flat.update({f"{name}.{number}": layer for number, layer in enumerate(layers)})
    return flat


def attended_queries(value: Tensor, attention_mask: Tensor) -> Tensor:
    """`attended` for `[B, H, T, S]`, `[B, T, C]` and the pooled first position `[B, C]`; a loss stays as it is."""
    if value.dim() == 4:
        return attended(value, attention_mask, queries_in=2)
    if value.dim() == 2:
        return value[attention_mask[:, 0].bool()]
    return attended(value, attention_mask) if value.dim() == 3 else value


def objective(flat: dict[str, Tensor]) -> Tensor:
    """The model's loss, or else the sum of its first two-dimensional outputs times fixed random weights."""
    if "loss" in flat:
        return flat["loss"]
    total = torch.zeros((), dtype=torch.float64)
    for name in ("last_hidden_state", "pooler_output", "logits"):
        if name in flat:
            weights = torch.from_numpy(random_value(f"weights of {name}", tuple(flat[name].shape))).to(flat[name].dtype)
            total = total + (flat[name] * weights).sum()
    return total


def add_gradients(result: Result, model: nn.Module, case: Case) -> None:
    """Named gradients in full, and of every parameter the product with a fixed random tensor (a one-number digest)."""
    wanted = case.options.get("gradients", ())
    digests, without = [], []
    dtype = next(model.parameters()).dtype
    for name, parameter in model.named_parameters():
        if parameter.grad is None:
            without.append(name)
            continue
        gradient = parameter.grad.detach().double().numpy()
        digests.append(float((gradient * random_value(f"digest of {name}", gradient.shape)).sum()))
        if any(name.endswith(end) for end in wanted):
            result.add(f"grad.{name}", rows_in_use(name, parameter.grad, case))
    result.facts["parameters without a gradient"] = without
    result.add("gradient digests", torch.tensor(digests, dtype=dtype))


def rows_in_use(name: str, gradient: Tensor, case: Case) -> Tensor:
    """Of an embedding's gradient the rows that the batch uses; all others must be 0.

    Those are the ids of the batch in ascending order, or the distances -(T - 1) ... T - 1.
    """
    if name.endswith("word_embeddings.weight"):
        rows = gradient[make_inputs(case)["input_ids"].unique()]
    elif name.endswith("distance_embedding.weight"):
        middle, reach = len(gradient) // 2, case.inputs.get("length", LENGTH) - 1
        rows = gradient[middle - reach : middle + reach + 1]
    else:
        return gradient
    if gradient.count_nonzero() != rows.count_nonzero():
        raise ValueError(f"{case.name}: the gradient of {name} is not 0 in rows that the batch does not use")
    return rows


# ------------------------------------------------------------------------------------------------------------ runs


def run_forward(library: Any, case: Case) -> Result:
    """One call. Options: `backward` (gradients of all parameters and of the head mask), `gradients`, `keep`."""
    model, inputs, result = build(library, case), make_inputs(case), Result()
    flat = named_tensors(model(**inputs), case, inputs["attention_mask"])
    if case.options.get("backward"):
        objective(flat).backward()
        add_gradients(result, model, case)
        if "head_mask" in inputs:
            result.add("grad.head_mask", inputs["head_mask"].grad)
    keep = case.options.get("keep", tuple(flat))
    for name, value in flat.items():
        if name in keep:
            result.add(name, value)
    return result


def decode(model: Any, inputs: dict[str, Any], lengths: list[int]) -> Tensor:
    """Logits `[B, T, V]` of the batch fed in pieces of these lengths, each with the cache of the pieces before it."""
    cache, start, logits = None, 0, []
    for length in lengths:
        piece = slice(start, start + length)
        step = {name: inputs[name][:, piece] for name in ("input_ids", "token_type_ids")}
        step["attention_mask"] = inputs["attention_mask"][:, : start + length]
        step.update({name: value for name, value in inputs.items() if name.startswith("encoder_")})
        if cache is not None:
            step["past_key_values"] = cache
        outputs = model(**step, use_cache=True)
        cache, start = outputs.past_key_values, start + length
        logits.append(outputs.logits)
    return torch.cat(logits, dim=1)


def run_cached(library: Any, case: Case) -> Result:
    """Options: `pieces`, lists of lengths, each decoded with a cache; `first`, the first position recorded."""
    model, inputs, result = build(library, case), make_inputs(case), Result()
    late = slice(case.options["first"], None)
    mask = inputs["attention_mask"][:, late]
    with torch.no_grad():
        result.add("uncached", attended(model(**inputs, use_cache=False).logits[:, late], mask))
        for lengths in case.options["pieces"]:
            logits = decode(model, inputs, lengths)
            result.add("cached " + " ".join(map(str, lengths)), attended(logits[:, late], mask))
    return result


def close(one: Tensor, other: Tensor) -> bool:
    """Equal up to rounding in float32: no difference above 1e-5 of the largest value."""
    return bool((one - other).abs().max() <= 1e-5 * other.abs().max())


def attention_shapes(model: nn.Module) -> dict[str, str]:
    """Of every matrix in the attention modules, and of the query's bias."""
    shapes = {name: str(list(value.shape)) for name, value in model.state_dict().items() if ".attention." in name}
    return {name: shape for name, shape in shapes.items() if shape.count(",") == 1 or name.endswith("query.bias")}


def run_pruned(library: Any, case: Case) -> Result:
    """Options: `prune`, a list of `{layer: heads}`, applied one after another.

    Recorded: outputs and shapes after pruning; whether the unpruned model with those heads masked gives the same
    numbers; whether a model built from the pruned config takes the pruned weights and gives the same.
    """
    model, inputs, result = build(library, case), make_inputs(case), Result()
    mask = torch.ones(model.config.num_hidden_layers, model.config.num_attention_heads)
    for step in case.options["prune"]:
        for layer, pruned in step.items():
            mask[layer, list(pruned)] = 0.0
        model.prune_heads({layer: list(pruned) for layer, pruned in step.items()})
    pruned_heads = {str(layer): sorted(heads) for layer, heads in model.config.pruned_heads.items()}
    rebuilt = build(library, case, fill=False, pruned_heads=model.config.pruned_heads)
    rebuilt.load_state_dict(model.state_dict())
    with torch.no_grad():
        flat = named_tensors(model(**inputs, output_attentions=True), case, inputs["attention_mask"])
        masked = named_tensors(build(library, case)(**inputs, head_mask=mask), case, inputs["attention_mask"])
        again = named_tensors(rebuilt(**inputs), case, inputs["attention_mask"])
    main = next(name for name in ("last_hidden_state", "logits") if name in flat)
    result.facts["pruned_heads"] = dict(sorted(pruned_heads.items()))
    result.facts["shapes"] = attention_shapes(model)
    result.facts["the model with these heads masked gives the same"] = close(masked[main], flat[main])
    result.facts["a model built from the pruned config gives the same"] = close(again[main], flat[main])
    for name, value in flat.items():
        result.add(name, value)
    return result


def structure(value: Any) -> Any:
    """Kinds and shapes of a nested output, as plain data. A cache is read as a tuple of layers."""
    if isinstance(value, Tensor):
        return f"{str(value.dtype).removeprefix('torch.')} {list(value.shape)}"
    if value is None:
        return None
    return [structure(element) for element in value]


def same(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor) or isinstance(other, Tensor):
        return isinstance(one, Tensor) and isinstance(other, Tensor) and torch.equal(one, other)
    if one is None or other is None:
        return one is other
    one, other = list(one), list(other)
    return len(one) == len(other) and all(same(a, b) for a, b in zip(one, other, strict=True))


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
    result.facts["length"] = len(classic)
    result.facts["fields of return_dict=True"] = list(fields)
    result.facts["tuple"] = [names[0] if names else None for names in matching]
    result.facts["structure"] = {name: structure(value) for name, value in fields.items()}
    for name, value in fields.items():
        if isinstance(value, Tensor):
            rows = slice(-1, None) if value.shape[-1:] == (BASE_CONFIG["vocab_size"],) else slice(None)
            flat = named_tensors({name: value[rows] if value.dim() else value}, case, inputs["attention_mask"][rows])
            result.add(name, flat[name])
    return result


def run_torchscript(library: Any, case: Case) -> Result:
    """`torchscript=True`: plain tuples, no shared word-embedding matrix; the same class without it for comparison."""
    result = Result()
    for torchscript in (False, True):
        model, inputs = build(library, case, torchscript=torchscript), make_inputs(case)
        with torch.no_grad():
            outputs = model(**inputs)
        groups: dict[int, list[str]] = {}
        for name, value in model.state_dict(keep_vars=True).items():
            groups.setdefault(id(value), []).append(name)
        result.facts[f"torchscript={torchscript}"] = {
            "returns a tuple": type(outputs) is tuple,
            "shared": [names for names in groups.values() if len(names) > 1],
            "parameters": len(list(model.parameters())),
            "state dict without the layers": [name for name in model.state_dict() if ".layer." not in name],
        }
    first = attended(outputs[0], inputs["attention_mask"]) if model.config.is_decoder else outputs[0]
    result.add("first output", first)
    return result


def run_memory(library: Any, case: Case) -> Result:
    """Gradient checkpointing and chunked feed-forward give the numbers of the plain model. Options: as run_forward."""
    parts: dict[str, Result] = {}
    for name in ("plain", "checkpointed", "chunked"):
        model = build(library, case, chunk_size_feed_forward=2 if name == "chunked" else 0)
        if name == "checkpointed":
            model.gradient_checkpointing_enable()
        inputs = make_inputs(case)
        part = parts[name] = Result()
        flat = named_tensors(model(**inputs), case, inputs["attention_mask"])
        objective(flat).backward()
        add_gradients(part, model, case)
        for key, value in flat.items():
            part.add(key, value)
    result = parts["plain"]
    for name in ("checkpointed", "chunked"):
        other = parts[name].tensors
        result.facts[f"{name} equals plain"] = all(
            close(torch.from_numpy(other[key]), torch.from_numpy(value)) for key, value in result.tensors.items()
        )
    return result


def run_uneven_chunks(library: Any, case: Case) -> Result:
    """A length that chunks of 2 do not divide."""
    model, inputs, result = build(library, case, chunk_size_feed_forward=2), make_inputs(case), Result()
    with torch.no_grad():
        plain = build(library, case)(**inputs).last_hidden_state
        result.add("plain last_hidden_state", plain)
        try:
            result.facts["chunked"] = f"equals plain: {close(model(**inputs).last_hidden_state, plain)}"
        except ValueError as error:
            result.facts["chunked"] = type(error).__name__
    return result


RUNS: dict[str, Callable[[Any, Case], Result]] = {
    "forward": run_forward,
    "cached": run_cached,
    "pruned": run_pruned,
    "tuple": run_tuple,
    "torchscript": run_torchscript,
    "memory": run_memory,
    "uneven_chunks": run_uneven_chunks,
}


def run(library: Any, case: Case) -> Result:
    """Compute one case, in one thread (the order of a sum depends on the number of threads)."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return RUNS[case.run](library, case)
    finally:
        torch.set_num_threads(threads)
