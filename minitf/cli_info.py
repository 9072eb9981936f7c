"""`minitf info` and `minitf env`: what a checkpoint is, and what it runs on."""

from __future__ import annotations

import argparse
import os
import platform
import sys
from importlib import metadata
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from minitf import __version__
from minitf.cli_output import readable_bytes, table, to_json
from minitf.cli_run import checkpoint_folder

if TYPE_CHECKING:
    from minitf.models.bert import BertModel

PACKAGES = ("torch", "numpy", "tokenizers", "safetensors", "huggingface_hub", "transformers", "matplotlib", "tqdm")
SHAPE_KEYS = (
    "num_hidden_layers",
    "hidden_size",
    "num_attention_heads",
    "intermediate_size",
    "hidden_act",
    "vocab_size",
    "max_position_embeddings",
    "type_vocab_size",
)


def info(arguments: argparse.Namespace) -> None:
    """Carry out `minitf info`."""
    folder = checkpoint_folder(arguments.folder)
    from minitf.models.bert import BertModel

    model = BertModel.from_pretrained(folder)
    facts = checkpoint_facts(folder, model)
    print(to_json(facts) if arguments.json else "\n".join(info_text(facts, str(model.load_report))))


def checkpoint_facts(folder: Path, model: BertModel) -> dict[str, Any]:
    """Everything that `minitf info` knows, as plain values."""
    import torch

    config = model.config.to_dict()
    parameters = model.num_parameters()
    dtypes = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
    sizes = {str(dtype).removeprefix("torch."): parameters * dtype.itemsize for dtype in dtypes}
    report = model.load_report
    return {
        "minitf": __version__,
        "folder": str(folder),
        "class": type(model).__name__,
        "model_type": config.get("model_type"),
        "architectures": config.get("architectures") or [],
        "dtype": str(model.dtype).removeprefix("torch."),
        "shape": {key: config[key] for key in SHAPE_KEYS},
        "parameters": parameters,
        "parts": _parts(model),
        "heads_in_checkpoint": _heads(folder, model),
        "memory_bytes": {"as_loaded": model.get_memory_footprint(), **sizes},
        "tokenizer": _tokenizer(folder),
        "load_report": None if report is None else report.to_dict(),
    }


def _parts(model: BertModel) -> dict[str, int]:
    """Parameters of embeddings, every layer, and what else the model has, in the order of the model."""
    parts: dict[str, int] = {}
    for name, parameter in model.named_parameters():
        pieces = name.split(".")
        part = ".".join(pieces[:3]) if pieces[:2] == ["encoder", "layer"] else pieces[0]
        parts[part] = parts.get(part, 0) + parameter.numel()
    return parts


def _heads(folder: Path, model: BertModel) -> dict[str, int]:
    """Weights of task heads that the checkpoint holds and the bare model does not: head to number of parameters."""
    from weights_tools import open_checkpoint

    report = model.load_report
    names = [name for name, reason in report.dropped if "task head" in reason] if report is not None else []
    heads: dict[str, int] = {}
    if names:
        with open_checkpoint(folder) as checkpoint:
            for name in names:
                head = name.rsplit(".", 1)[0]
                heads[head] = heads.get(head, 0) + prod(checkpoint[name].shape)
    return heads


def _tokenizer(folder: Path) -> str:
    from minitf.tokenization import BertTokenizerFast

    try:
        return repr(BertTokenizerFast.from_pretrained(folder))
    except FileNotFoundError:
        return "none in the folder"


def info_text(facts: dict[str, Any], report: str) -> list[str]:
    """The lines that `minitf info` prints."""
    shape = facts["shape"]
    said = ", ".join(facts["architectures"])
    lines = [
        f"{facts['class']} (model_type {facts['model_type']}{f'; config.json names {said}' if said else ''})",
        f"  {shape['num_hidden_layers']} layers of width {shape['hidden_size']}, "
        f"{shape['num_attention_heads']} heads of "
        f"{shape['hidden_size'] // shape['num_attention_heads']}, feed-forward {shape['intermediate_size']} "
        f"({shape['hidden_act']})",
        f"  vocabulary {shape['vocab_size']:,}, {shape['max_position_embeddings']} positions, "
        f"{shape['type_vocab_size']} token types",
        f"  tokenizer: {facts['tokenizer']}",
        "",
        "parameters",
    ]
    rows = [[name, f"{count:,}", _percent(count, facts["parameters"])] for name, count in facts["parts"].items()]
    rows.append(["total", f"{facts['parameters']:,}", ""])
    rows += [[f"{name} (head, not loaded)", f"{count:,}", ""] for name, count in facts["heads_in_checkpoint"].items()]
    lines += ["  " + line for line in table(rows, right=[False, True, True])]
    memory = facts["memory_bytes"]
    lines += [
        "",
        f"memory of the weights: {readable_bytes(memory['as_loaded'])} as loaded ({facts['dtype']}); "
        + ", ".join(f"{name} {readable_bytes(memory[name])}" for name in ("float64", "float32", "bfloat16", "float16")),
        "",
        "load report",
        *[f"  {line}" for line in report.splitlines()],
    ]
    return lines


def _percent(count: int, total: int) -> str:
    return f"{100 * count / total:.1f} %"


def env(arguments: argparse.Namespace) -> None:
    """Carry out `minitf env`."""
    facts = environment()
    if arguments.json:
        print(to_json(facts))
        return
    rows = [
        ["minitf", facts["minitf"]],
        ["python", facts["python"]],
        *[[name, version or "not installed"] for name, version in facts["packages"].items()],
        ["threads", f"{facts['threads']} of {facts['cpus']} CPUs"],
        ["devices", ", ".join(facts["devices"])],
        ["platform", facts["platform"]],
    ]
    print("\n".join(table(rows, right=[False, False])))


def environment() -> dict[str, Any]:
    """Everything that `minitf env` knows, as plain values. Packages are looked up, not imported, except torch."""
    import torch

    devices = ["cpu"]
    devices += [f"cuda:{index} ({torch.cuda.get_device_name(index)})" for index in range(torch.cuda.device_count())]
    if torch.backends.mps.is_available():
        devices.append("mps")
    return {
        "minitf": __version__,
        "python": f"{platform.python_version()} ({platform.python_implementation()}, {sys.executable})",
        "packages": {name: _version(name) for name in PACKAGES},
        "threads": torch.get_num_threads(),
        "cpus": os.cpu_count(),
        "devices": devices,
        "platform": platform.platform(),
    }


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
