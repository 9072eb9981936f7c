"""Conversion of pytorch_model.bin to safetensors, and loading of both: time and peak memory.

transformers has no command for the conversion: its users load the model and save it again (`from_pretrained`,
`save_pretrained`), so that is what `convert` is measured against. The requirement is on what a user waits for, the
whole process from its start; the work without the imports is printed beside it. The two do not do the same work:
transformers maps both files and compares no checksum, so it has copied nothing when a load ends; minitf compares the
checksums of a .bin, reads into memory of its own (mmap=True maps), and a conversion waits until the disk has the result
and computes the SHA-256 of source and result. So loads are also compared at equal work: mapped in both, and in both
copied into memory of the model's own. Random weights in BERT-base size (440 MB), 1.8 GB of temporary disk.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from common import FreshProcess, Report, fresh_process, parser, processes, ratio, seconds_of
from load_memory import PEAK

BOUND = 1.1
WORD_EMBEDDINGS = 30522 * 768 * 4  # bytes of the largest tensor

# Arguments of each process: threads, source, destination. It answers with [seconds of the work, peak before, peak].
MEASURE = (
    PEAK
    + """
import shutil, time, torch
torch.set_num_threads(int(sys.argv[1]))
source, destination = sys.argv[2:]
{imports}
before = peak()
start = time.perf_counter()
{work}
seconds = time.perf_counter() - start
print("READY")
print([seconds, before, peak()])
shutil.rmtree(destination, ignore_errors=True)
"""
)
TOUCH = """
for parameter in model.parameters():  # one number of every page: a mapped file is read only when it is touched
    parameter.detach().numpy().reshape(-1)[::1024].sum()
"""
COPY = """
for parameter in model.parameters():  # into memory that no change of the file can reach
    parameter.data = parameter.data.clone()
"""
LOAD = "model = BertModel.from_pretrained(source{})" + TOUCH
CODES = {
    ("convert", "minitf"): ("from weights_tools.convert import convert", "convert(source, destination)"),
    ("convert", "transformers"): (
        "from transformers import BertModel",
        "BertModel.from_pretrained(source).save_pretrained(destination)",
    ),
    ("load", "minitf"): ("from minitf.models.bert import BertModel", LOAD.format("")),
    ("load", "minitf mmap=True"): ("from minitf.models.bert import BertModel", LOAD.format(", mmap=True")),
    ("load", "transformers"): ("from transformers import BertModel", LOAD.format("")),
    ("load", "transformers copied"): ("from transformers import BertModel", LOAD.format("") + COPY),
    ("to npz", "minitf"): ("from weights_tools.convert import convert", "convert(source, destination, to='npz')"),
}
TITLES = (
    ("bin to safetensors", "convert", "bin"),
    ("load .bin", "load", "bin"),
    ("load .safetensors", "load", "safetensors"),
)
WRITE = """
import sys, torch
from minitf import BertConfig, BertModel
model = BertModel(BertConfig(num_hidden_layers=int(sys.argv[2])))
model.save_pretrained(sys.argv[1] + "/safetensors")
model.save_pretrained(sys.argv[1] + "/bin", safe_serialization=False)
print("READY")
"""


def main() -> int:
    options = parser(__doc__ or "", repeats=5)
    options.add_argument("--layers", type=int, default=12, help="layers of the model (default 12, BERT-base)")
    arguments = options.parse_args()
    report = Report(
        "conversion of pytorch_model.bin to safetensors, and loading of both",
        {"threads": arguments.threads, "repeats": arguments.repeats, "layers": arguments.layers},
    )
    with tempfile.TemporaryDirectory() as temporary:
        fresh_process(WRITE, temporary, str(arguments.layers))
        measure(report, Path(temporary), arguments.threads, arguments.repeats)
    return report.finish(arguments)


def measure(report: Report, place: Path, threads: int, repeats: int) -> None:
    """Conversion and both loads in both libraries, taking turns; the streamed conversion for its memory alone."""

    def runs(kind: str, library: str, source: str) -> Callable[[], FreshProcess]:
        imports, work = CODES[kind, library]
        code = MEASURE.format(imports=imports, work=work)
        destination = str(place / f"{kind} by {library}")
        return lambda: fresh_process(code, str(threads), str(place / source), destination, threads=threads)

    contenders = {
        f"{title}, {library}": runs(kind, library, source)
        for title, kind, source in TITLES
        for library in ("minitf", "transformers")
    }
    contenders["load .safetensors, minitf mmap=True"] = runs("load", "minitf mmap=True", "safetensors")
    contenders["load .safetensors, transformers copied"] = runs("load", "transformers copied", "safetensors")
    contenders["load .bin, transformers copied"] = runs("load", "transformers copied", "bin")
    contenders["safetensors to npz, minitf"] = runs("to npz", "minitf", "safetensors")
    found = processes(contenders, repeats=repeats)
    for title, kind, source in TITLES:
        rows = {name: results for name, results in found.items() if name.startswith(title)}
        whole = {name.partition(", ")[2]: seconds_of(results) for name, results in rows.items()}
        work = {name.partition(", ")[2]: [run.answer[0] for run in results] for name, results in rows.items()}
        report.times(f"{title}, whole process", whole, against="minitf")
        report.times(f"{title}, without imports", work, against="minitf")
        bound = ratio(whole["transformers"], whole["minitf"])
        report.require(f"{title}, whole process, transformers / minitf", bound, at_least=1.0)
        if kind == "load" and source == "safetensors":  # of a .bin only minitf compares the checksums
            copied = ratio(work["transformers copied"], work["minitf"])
            report.require(f"{title}, without imports, own memory in both", copied, at_least=1.0)
            mapped = ratio(work["transformers"], work["minitf mmap=True"])
            report.require(f"{title}, without imports, mapped in both", mapped, at_least=1.0)
    answers = {name: [run.answer for run in results] for name, results in found.items()}
    memory(report, answers, (place / "bin" / "pytorch_model.bin").stat().st_size)


def memory(report: Report, answers: dict[str, list[list[float]]], size: int) -> None:
    """Peaks over what the imports take: a .bin is read whole, beside it 1.1 times the largest tensor is allowed."""
    rows = [("", "file MB", "peak MB", "over the imports", "/ file")]
    beyond: dict[str, float] = {}
    for name, found in answers.items():
        before, peak = (statistics.median(answer[index] for answer in found) for index in (1, 2))
        beyond[name] = peak - before
        report.measurements[f"peak bytes: {name}"] = [answer[2] for answer in found]
        figures = (size / 1e6, peak / 1e6, beyond[name] / 1e6)
        rows.append((name, *(f"{figure:.0f}" for figure in figures), f"{beyond[name] / size:.2f}"))
    report.table("peak memory", rows)
    whole = (beyond["bin to safetensors, minitf"] - size) / WORD_EMBEDDINGS
    report.require("bin to safetensors, peak beyond the file / largest tensor", whole, at_most=BOUND)
    streamed = beyond["safetensors to npz, minitf"] / WORD_EMBEDDINGS
    report.require("safetensors to npz, peak / largest tensor", streamed, at_most=BOUND)


if __name__ == "__main__":
    sys.exit(main())
