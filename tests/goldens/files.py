"""Golden files of a family (bert, gpt2): a JSON file that describes every case, and a file of numbers per group.

**When are two numbers the same?** The order in which a processor adds up a matrix product depends on its vector units,
so float results are reproducible bit for bit only with the same torch, numpy and kind of processor. There they must be
equal. Elsewhere a tensor may differ by `TOLERANCE` of its own largest value. Integers, shapes and facts (names, tuple
orders, yes/no) must always be equal.
"""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import load_file, save_file

from tests.goldens.bert_runs import Case, Result

# Measured on one machine by switching its vector units off (ATEN_CPU_CAPABILITY, MKL_CBWR, ONEDNN_MAX_CPU_ISA): up to
# 5.6e-6 in float32 (the gradient of a head mask; outputs 2e-6) and 3e-15 in float64. The smallest
# porting mistake of the project's list shows as 2e-4.
TOLERANCE = {np.dtype(np.float32): 1e-5, np.dtype(np.float64): 1e-12}


def fingerprint() -> dict[str, str]:
    """What float rounding depends on: library versions and the kind of processor."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.is_file() else []
    model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    return {
        "torch": torch.__version__,
        "numpy": np.__version__,
        "machine": platform.machine(),
        "processor": model or platform.processor(),
        "vector instructions": torch.backends.cpu.get_cpu_capability(),
    }


def same_machine(made_with: dict[str, str]) -> bool:
    """Whether results are expected bit for bit here."""
    return all(made_with.get(key) == value for key, value in fingerprint().items())


def write(
    folder: Path, description: dict[str, Any], results: dict[str, Result], cases: Sequence[Case], family: str = "bert"
) -> int:
    """Write all files; returns their size in bytes. The same numbers give the same bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{family}_goldens.json"]
    paths[0].write_text(one_case_a_line(description), encoding="utf-8")
    for group in dict.fromkeys(case.group for case in cases):
        arrays = {
            f"{case.name}/{name}": value.copy(order="C")
            for case in cases
            if case.group == group
            for name, value in results[case.name].tensors.items()
        }
        paths.append(folder / f"{family}_{group}.safetensors")
        save_file(arrays, paths[-1])
    return sum(path.stat().st_size for path in paths)


def one_case_a_line(description: dict[str, Any]) -> str:
    """JSON in which a changed case is one changed line."""
    head = {key: value for key, value in description.items() if key != "cases"}
    lines = [f" {json.dumps(key)}: {json.dumps(value)}" for key, value in head.items()]
    cases = [f"  {json.dumps(name)}: {json.dumps(case)}" for name, case in description["cases"].items()]
    lines.append(' "cases": {\n' + ",\n".join(cases) + "\n }")
    return "{\n" + ",\n".join(lines) + "\n}\n"


def read(folder: Path, family: str = "bert") -> tuple[dict[str, Any], dict[str, Result]]:
    """The description and, for each case that it names, the numbers and facts."""
    description = json.loads((folder / f"{family}_goldens.json").read_text(encoding="utf-8"))
    results = {name: Result(facts=case["facts"]) for name, case in description["cases"].items()}
    for group in sorted({case["group"] for case in description["cases"].values()}):
        for key, value in load_file(folder / f"{family}_{group}.safetensors").items():
            case, _, name = key.rpartition("/")
            results[case].tensors[name] = value
    return description, results


def committed_folder() -> Path:
    """This folder, or the one that MINITF_GOLDENS names (made afresh on this machine: then equality is bit for bit)."""
    return Path(os.environ.get("MINITF_GOLDENS", Path(__file__).parent))


def difference(one: np.ndarray, other: np.ndarray) -> float:
    """Largest absolute difference in units of the largest absolute value of `other`; inf where that is undefined."""
    if one.shape != other.shape or one.dtype != other.dtype:
        return float("inf")
    if np.array_equal(one, other):
        return 0.0
    scale = float(np.abs(other).max())
    largest = float(np.abs(one.astype(np.float64) - other.astype(np.float64)).max())
    ratio = largest / scale if scale else float("inf")
    return ratio if np.isfinite(ratio) else float("inf")  # NaN is never within a tolerance


def differences(
    old: dict[str, Any], goldens: dict[str, Result], new: dict[str, Any], results: dict[str, Result], *, exact: bool
) -> tuple[list[str], float]:
    """Everything in which two sets of golden files disagree, in words; and the largest difference of any tensor."""
    problems = [f"{key!r} differs" for key in old.keys() | new.keys() if not same_entry(key, old, new)]
    largest = 0.0
    for name in sorted(old["cases"].keys() | new["cases"].keys()):
        if old["cases"].get(name) != new["cases"].get(name):
            problems.append(f"{name}: description or facts differ")
            continue
        for tensor, golden in goldens[name].tensors.items():
            value = difference(results[name].tensors[tensor], golden)
            largest = max(largest, value)
            if value > (0.0 if exact else TOLERANCE.get(golden.dtype, 0.0)):
                problems.append(f"{name}: {tensor} differs by {value:.3g} of its largest value")
    return problems, largest


def same_entry(key: str, old: dict[str, Any], new: dict[str, Any]) -> bool:
    """`made with` may differ (it decides how numbers are compared), `cases` are compared one by one."""
    return key in ("made with", "cases") or old.get(key) == new.get(key)
