"""Making a golden bundle; what it holds is described in `minitf.parity.golden`.

Everything is computed in evaluation mode (no dropout), with the attention function `eager`, on the CPU and by one
thread, first in float64, then in float32, from the same parameters.

**The objective**, whose gradients are taken, is the sum of the losses in the output. Where there is none (a trunk, or
no labels) it is the sum over the fields of the output of value times weight, at tokens, where the weights run evenly
from -1 to 1: `numpy.linspace(-1, 1, value.size).reshape(value.shape)`. (A plain sum would not do: after a LayerNorm it
hardly depends on anything.)

**The step** is the first one of AdamW (Loshchilov and Hutter, arXiv:1711.05101), without parameter groups. From zero
moments it is, with the gradient g:

    parameter * (1 - lr * weight_decay)  -  lr * g / (|g| + eps)

`eps` is large (1e-3), so that a gradient which is zero but for rounding, as that of a key bias, moves nothing, in
float32 either.
"""

from __future__ import annotations

import contextlib
import copy
import json
import platform
import shutil
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO, Any, cast

import numpy as np
import torch
from torch import Tensor

from minitf import __version__
from minitf.generation.config import GenerationConfig
from minitf.generation.mixin import GenerationMixin
from minitf.parity.dumps import INPUTS
from minitf.parity.golden import DESCRIPTION, DTYPES, FORMAT, PARTS, Array, Bundle, digest, is_bundle, load, sha256
from minitf.parity.golden_inputs import LABELS
from minitf.parity.noise import token_rows
from minitf.parity.runs import output_fields
from minitf.pretrained import PreTrainedModel
from minitf.tracing import capture
from minitf.tracing import names as names_of
from minitf.tracing.names import Names
from weights_tools.atomic import write_atomically
from weights_tools.npz_writing import write_npz
from weights_tools.transaction import transaction

__all__ = ["Settings", "computed", "machine", "make"]

OPTIMIZER: dict[str, Any] = {"lr": 1e-3, "betas": [0.9, 0.999], "eps": 1e-3, "weight_decay": 0.01}
NEW_TOKENS, BEAMS = 8, 3
PROMPT = ("input_ids", "attention_mask")
WITH_PROMPT = (*PROMPT, "token_type_ids", "position_ids", "encoder_hidden_states", "encoder_attention_mask")
"""With these inputs and labels alone a decoder can also generate."""

Parts = Iterator[tuple[str, dict[str, Tensor]]]


@dataclass(frozen=True)
class Settings:
    """How a bundle is computed, as far as it is a choice.

    Attributes:
        names: names or patterns of `minitf.tracing`: the activations.
        optimizer: lr, betas, eps, weight_decay of AdamW.
        new_tokens, beams: how many tokens greedy search and beam search add, and the width of the latter.
    """

    names: tuple[str, ...] = ("all",)
    optimizer: Mapping[str, Any] = field(default_factory=lambda: dict(OPTIMIZER))
    new_tokens: int = NEW_TOKENS
    beams: int = BEAMS


def machine() -> dict[str, str]:
    """What the last bits of a result depend on, beside minitf: libraries, and the kind of processor.

    Names of processors tell little (a cloud shows "AMD EPYC" for many), so there is a probe as well: the sha256 of some
    float32 results.
    """
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.is_file() else []
    model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    return {
        "torch": torch.__version__,
        "numpy": np.__version__,
        "machine": platform.machine(),
        "processor": model or platform.processor(),
        "vector instructions": torch.backends.cpu.get_cpu_capability(),
        "probe": _probe(),
    }


def _probe() -> str:
    """The sha256 of what the operations of a model make of fixed float32 numbers, by one thread."""
    found: dict[str, Array] = {}
    with _one_thread(), torch.no_grad():
        for width in (4, 8, 24, 64):
            numbers = np.sin(np.arange(1, 10 * width + width * width + 1)).astype(np.float32)
            x = torch.from_numpy(numbers[: 10 * width]).reshape(2, 5, width)  # [2, 5, width]
            matrix = torch.from_numpy(numbers[10 * width :]).reshape(width, width)
            product = torch.addmm(matrix[0], x.reshape(10, width), matrix).reshape(x.shape)
            scores = x @ product.transpose(1, 2)  # [2, 5, 5]
            normed = torch.nn.functional.layer_norm(product, (width,))
            results = (scores.softmax(-1) @ product, normed, torch.nn.functional.gelu(x), x.tanh(), matrix.T @ matrix)
            found.update({f"{width}.{number}": value.numpy() for number, value in enumerate(results)})
    return digest(found)


def computed(model: PreTrainedModel, inputs: Mapping[str, Tensor], settings: Settings) -> Parts:
    """(part, its arrays), in the order of `minitf.parity.golden.PARTS`; the model itself is not changed.

    Args:
        model: of minitf, on any device. inputs: arguments of its forward.

    Raises:
        ValueError: names that the model does not have; inputs that it does not take, or that contradict each other.
    """
    inputs = dict(inputs)
    yield "inputs", inputs
    wide = model.dtype == torch.float64
    weights = {key: value.detach().cpu() for key, value in model.state_dict().items()}
    yield "weights", {key: value.double() if wide else value.float() for key, value in weights.items()}
    with _one_thread():
        for dtype in DTYPES:
            yield from _in_dtype(model, inputs, settings, dtype)
        if not reason_for_no_tokens(model, inputs, settings):
            yield "tokens", _tokens(_copy(model, "float64"), inputs, settings)


def _copy(model: PreTrainedModel, dtype: str) -> Any:
    twin = copy.deepcopy(model).cpu().to(getattr(torch, dtype)).eval()
    twin.config.attn_implementation = "eager"
    for parameter in twin.parameters():
        parameter.requires_grad_(True)
        parameter.grad = None
    return twin


def _in_dtype(model: PreTrainedModel, inputs: dict[str, Tensor], settings: Settings, dtype: str) -> Parts:
    twin = _copy(model, dtype)
    given = {name: value.to(twin.dtype) if value.is_floating_point() else value for name, value in inputs.items()}
    # Patterns are resolved here: "all" as such would announce its memory.
    wanted = names_of(twin, settings.names)
    with torch.enable_grad():
        with capture(twin, wanted) as record:
            output = twin(**given, return_dict=True)
        fields = dict(output_fields(output))
        torch.autograd.backward(objective(fields, inputs))
    # A module that runs twice in a call stands here with its first run, as in `minitf compare`.
    values = {name: value for name, value in record.items() if "#" not in name}
    yield f"activations.{dtype}", {**inputs, **values, **{name: value.detach() for name, value in fields.items()}}
    del record, values, output, fields
    gradients = {name: p.grad for name, p in twin.named_parameters() if p.grad is not None}
    yield f"gradients.{dtype}", gradients
    del gradients
    options = {**settings.optimizer, "betas": tuple(settings.optimizer["betas"]), "foreach": False}
    torch.optim.AdamW([p for p in twin.parameters() if p.grad is not None], **options).step()
    yield f"updated.{dtype}", {name: p.detach() for name, p in twin.named_parameters()}


def losses_of(fields: Iterable[str]) -> list[str]:
    """The fields of an output that are losses."""
    return [name for name in fields if name == "loss" or name.endswith("_loss")]


def objective(fields: Mapping[str, Tensor], inputs: Mapping[str, Tensor]) -> Tensor:
    """What gradients are taken of; see the head of this file."""
    losses = losses_of(fields)
    if losses:
        return cast(Tensor, sum(fields[name] for name in losses))
    total = torch.zeros((), dtype=next(iter(fields.values())).dtype)
    for name, value in fields.items():
        weights = torch.from_numpy(np.linspace(-1, 1, value.numel())).to(value.dtype).reshape(value.shape)
        tokens = token_rows(name, tuple(value.shape), inputs.get("attention_mask"))
        total = total + (value * (weights if tokens is None else weights * tokens)).sum()
    return total


# ------------------------------------------------------------------------------------------------------------- tokens


def reason_for_no_tokens(model: PreTrainedModel, inputs: Mapping[str, Tensor], settings: Settings) -> str:
    """Why there is nothing to generate; "" = there is."""
    if not isinstance(model, GenerationMixin) or not model.can_generate():
        return f"{type(model).__name__} does not predict the next token"
    if inputs.get("input_ids", torch.empty(0)).dim() != 2:
        return "a prompt is input_ids [B, T]"
    others = [name for name in inputs if name not in (*WITH_PROMPT, *LABELS)]
    if others:
        return f"generate() does not take {others[0]}"
    length = inputs["input_ids"].shape[1]
    room: int = model.config.max_position_embeddings - length
    if room < settings.new_tokens:
        return f"after {length} positions there is room for {max(room, 0)} tokens of {settings.new_tokens}"
    return ""


def _end_token(model: Any) -> int | None:
    """The first of the configuration's end tokens, or None."""
    end = model.config.eos_token_id
    first: int | None = end[0] if isinstance(end, list) else end
    return first


def _tokens(model: Any, inputs: Mapping[str, Tensor], settings: Settings) -> dict[str, Tensor]:
    """Prompts with their padding moved to the left, and the tokens of both searches after them."""
    ids = inputs["input_ids"]
    mask = inputs.get("attention_mask", torch.ones_like(ids)).long()
    order = mask.argsort(dim=1, stable=True)  # padding first, tokens in their order
    ids, mask = ids.gather(1, order), mask.gather(1, order)
    end, pad = _end_token(model), model.config.pad_token_id
    model.generation_config = GenerationConfig()  # the folder's own would choose another strategy
    encoder = {name: value for name, value in inputs.items() if name.startswith("encoder_")}
    encoder = {name: value.double() if value.is_floating_point() else value for name, value in encoder.items()}
    found = {}
    for beams in (1, settings.beams):
        choice = GenerationConfig(
            max_new_tokens=settings.new_tokens,
            num_beams=beams,
            do_sample=False,
            eos_token_id=end,
            pad_token_id=pad if pad is not None else end if end is not None else 0,
            return_dict_in_generate=True,
            output_scores=True,
        )
        found[beams] = model.generate(ids, attention_mask=mask, generation_config=choice, **encoder)
    return {
        "prompt_ids": ids,
        "prompt_mask": mask,
        "greedy": found[1].sequences,
        "beam": found[settings.beams].sequences,
        "beam_scores": found[settings.beams].sequences_scores,
    }


# ------------------------------------------------------------------------------------------------------------- writing


def make(
    model: PreTrainedModel,
    inputs: Mapping[str, Tensor],
    path: str | Path,
    *,
    settings: Settings | None = None,
    source: Mapping[str, Any] | None = None,
    weights: bool = True,
    overwrite: bool = False,
) -> Bundle:
    """Compute a bundle and write it, all or nothing.

    Args:
        model: of minitf; its parameters must be those that are meant (a fresh head would be random).
        inputs: arguments of the forward, labels included.
        path: the folder, or a name that ends in `.zip`.
        settings: None = `Settings()`. source: where the inputs come from, plain values for the description.
        weights: write the parameters too. overwrite: replace a bundle that is there.

    Raises:
        FileExistsError: something is there that is no bundle, or a bundle and `overwrite` is not set.
        TypeError: not a model of minitf. ValueError: inputs or names that do not fit.
    """
    place, settings = Path(path), settings or Settings()
    check_place(place, overwrite=overwrite)
    check_inputs(model, inputs)
    description = _description(model, inputs, settings, dict(source or {}))
    # Beside the target, because a bundle of a large model may be larger than the disk of temporary files.
    with TemporaryDirectory(dir=place.absolute().parent, prefix=f".{place.name}.") as temporary:
        folder = Path(temporary)
        for part, tensors in computed(model, inputs, settings):
            _complete(description, part, tensors, model, stored=weights)
            if part != "weights" or weights:
                description["files"][part] = _write_part(folder / f"{part}.npz", tensors)
        (_write_zip if place.suffix == ".zip" else _write_folder)(place, folder, json_text(description))
    return load(place)


def check_place(place: Path, *, overwrite: bool) -> None:
    """Find out before the work whether a bundle can be written there.

    Raises:
        FileExistsError: something is there that may not be replaced. FileNotFoundError: no folder to put it in.
    """
    if not place.absolute().parent.is_dir():
        raise FileNotFoundError(f"{place}: the folder {place.parent} does not exist")
    if not place.exists() or (place.is_dir() and not any(place.iterdir())):
        return
    if not is_bundle(place):
        raise FileExistsError(f"{place} is there and is no golden bundle: give another name")
    if place.is_dir() == (place.suffix == ".zip"):
        raise FileExistsError(f"{place}: a name that ends in .zip is a file, any other a folder; give another name")
    if not overwrite:
        raise FileExistsError(f"{place} is there: give another name, or overwrite it (overwrite=True, --overwrite)")


def check_inputs(model: PreTrainedModel, inputs: Mapping[str, Tensor]) -> None:
    """Raises: TypeError: not a model of minitf. ValueError: arguments that its forward does not take, or none."""
    if not isinstance(model, PreTrainedModel):
        raise TypeError(f"{type(model).__name__} is no model of minitf; a bundle describes how to build it again.")
    takes = [name for name in INPUTS if name in model.forward_names]
    if not any(name in inputs for name in ("input_ids", "inputs_embeds")):
        raise ValueError(f"the inputs are {', '.join(inputs) or 'empty'}; expected input_ids, and what goes with them.")
    for name in inputs:
        if name not in takes:
            raise ValueError(
                f"the inputs hold {name!r}, which {type(model).__name__} does not take: leave it out. "
                f"It takes {', '.join(takes)}."
            )


def _description(
    model: PreTrainedModel, inputs: Mapping[str, Tensor], settings: Settings, source: dict[str, Any]
) -> dict[str, Any]:
    """`bundle.json`, as far as it is known beforehand."""
    reason = reason_for_no_tokens(model, inputs, settings)
    searches = {"new tokens": settings.new_tokens, "beams": settings.beams, "end token": _end_token(model)}
    return {
        "format": FORMAT,
        "class": type(model).__name__,
        "config": json.loads(model.config.to_json_string()),
        "inputs": source,
        "computed": "evaluation mode, attention eager, one thread, CPU",
        "names": list(settings.names),
        "objective": None,
        "without gradient": [],
        "optimizer": {"name": "AdamW, first step", **settings.optimizer},
        "tokens": {"none, because": reason} if reason else searches,
        "tied": model.ties(),
        "weights": None,
        "made with": {"minitf": __version__, "python": platform.python_version(), **machine()},
        "files": {},
    }


def _complete(
    description: dict[str, Any], part: str, tensors: Mapping[str, Tensor], model: PreTrainedModel, *, stored: bool
) -> None:
    """What a part tells about the whole."""
    if part == "weights":
        description["weights"] = {"stored": stored, "sha256": digest(as_arrays(tensors))}
    elif part == "activations.float64":
        known = {*Names.of(model).names, *Names.of(model).aliases, *INPUTS}
        fields = [name for name in tensors if name not in known]
        losses = losses_of(fields)
        description["objective"] = {"sum of": losses} if losses else {"weighted sum of": fields}
    elif part == "gradients.float64":
        description["without gradient"] = [name for name, _ in model.named_parameters() if name not in tensors]


def as_arrays(tensors: Mapping[str, Tensor]) -> dict[str, Array]:
    """Tensors on the CPU as NumPy arrays."""
    return {name: value.detach().numpy() for name, value in tensors.items()}


def json_text(description: Mapping[str, Any]) -> str:
    """JSON with one key a line, and one file a line."""
    rows = [f"  {json.dumps(part)}: {json.dumps(row)}" for part, row in description["files"].items()]
    lines = [f" {json.dumps(key)}: {json.dumps(value)}" for key, value in description.items() if key != "files"]
    return "{\n" + ",\n".join([*lines, ' "files": {\n' + ",\n".join(rows) + "\n }"]) + "\n}\n"


def _write_part(path: Path, tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    with path.open("wb") as file:
        write_npz(file, tensors)
    with path.open("rb") as file:
        return {"sha256": sha256(file), "bytes": path.stat().st_size, "arrays": len(tensors)}


def _write_folder(place: Path, made: Path, text: str) -> None:
    there = place.exists()
    try:
        with transaction(place) as change:
            for part in PARTS:
                name = f"{part}.npz"
                if (made / name).exists():
                    (made / name).replace(change.path(name))
                else:
                    change.remove(name)
            change.write(DESCRIPTION, text.encode())
    except BaseException:
        if not there:
            with contextlib.suppress(OSError):
                place.rmdir()
        raise


def _write_zip(place: Path, made: Path, text: str) -> None:
    """Deflated; entries are of 1980, so the same bundle is the same bytes."""

    def write(file: IO[bytes]) -> None:
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
            with archive.open(DESCRIPTION, "w") as target:
                target.write(text.encode())
            for part in PARTS:
                path = made / f"{part}.npz"
                if path.exists():
                    with path.open("rb") as source, archive.open(path.name, "w", force_zip64=True) as target:
                        shutil.copyfileobj(source, target)

    write_atomically(place, write)


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """With one thread equal programs give equal bits."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
