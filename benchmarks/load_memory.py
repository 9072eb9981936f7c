"""Peak memory of loading a checkpoint, divided by the checkpoint's size.

Each measurement is a fresh process that loads a model, touches every weight (a library that maps the file would
otherwise be measured before it has read it) and reports the peak of its resident memory (VmHWM). Two baselines are
subtracted: the interpreter with torch alone, and the interpreter with the library and its model class imported.
The BERT-base size checkpoint has random weights and is written to a temporary folder, about 900 MB for both forms.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from common import FreshProcess, Report, fresh_process, minilm_folder, parser, processes

BOUND = 1.1

PEAK = """
import sys
def peak():
    try:
        with open("/proc/self/status") as status:
            return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM"))
    except OSError:
        import resource
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
"""
MEASURE = (
    PEAK
    + """
import torch
torch.set_num_threads(int(sys.argv[1]))
{imports}
if len(sys.argv) > 2:
    model = BertModel.from_pretrained(sys.argv[2])
    for parameter in model.parameters():  # one number of every page, by NumPy: no kernel of torch, no further thread
        parameter.detach().numpy().reshape(-1)[::1024].sum()
print("READY")
print(peak())
"""
)
CODES = {
    "torch": MEASURE.format(imports=""),
    "minitf": MEASURE.format(imports="from minitf.models.bert import BertModel"),
    "transformers": MEASURE.format(imports="from transformers import BertModel"),
}
WRITE = """
import sys, torch
from minitf import BertConfig, BertModel
model = BertModel(BertConfig())
model.save_pretrained(sys.argv[1] + "/safetensors")
model.save_pretrained(sys.argv[1] + "/bin", safe_serialization=False)
print("READY")
"""


def main() -> int:
    arguments = parser(__doc__ or "", repeats=3).parse_args()
    report = Report(
        "peak memory of loading over the checkpoint's size",
        {"threads": arguments.threads, "repeats": arguments.repeats},
    )
    with tempfile.TemporaryDirectory() as temporary:
        fresh_process(WRITE, temporary)
        checkpoints = {
            "MiniLM .safetensors": minilm_folder() / "model.safetensors",
            "BERT-base .safetensors": Path(temporary, "safetensors", "model.safetensors"),
            "BERT-base .bin": Path(temporary, "bin", "pytorch_model.bin"),
        }
        measure(report, checkpoints, arguments.threads, arguments.repeats)
    return report.finish(arguments)


def measure(report: Report, checkpoints: dict[str, Path], threads: int, repeats: int) -> None:
    """Every checkpoint in both libraries, and the baselines without a checkpoint."""

    def runs(name: str, *folder: str) -> Callable[[], FreshProcess]:
        return lambda: fresh_process(CODES[name], str(threads), *folder, threads=threads)

    contenders = {name: runs(name) for name in CODES}
    for title, file in checkpoints.items():
        for library in ("minitf", "transformers"):
            contenders[f"{library}, {title}"] = runs(library, str(file.parent))
    results = processes(contenders, repeats=repeats, warmup=0)
    peaks = {name: [float(run.answer) for run in found] for name, found in results.items()}
    report.measurements.update({f"peak bytes: {name}": values for name, values in peaks.items()})
    medians = {name: statistics.median(values) for name, values in peaks.items()}

    baselines = [(f"{name} imported", f"{medians[name] / 1e6:.0f}") for name in CODES]
    report.table("baselines", [("", "peak MB"), *baselines])
    rows = [("", "file MB", "peak MB", "over torch", "over its import")]
    for title, file in checkpoints.items():
        size = file.stat().st_size
        for library in ("minitf", "transformers"):
            total = medians[f"{library}, {title}"]
            over_torch, over_import = (total - medians["torch"]) / size, (total - medians[library]) / size
            figures = (f"{size / 1e6:.0f}", f"{total / 1e6:.0f}", f"{over_torch:.3f}", f"{over_import:.3f}")
            rows.append((f"{title}, {library}", *figures))
            if library == "minitf":
                report.require(f"{title}, peak over torch / file", over_torch, at_most=BOUND)
                report.require(f"{title}, peak over the import / file", over_import, at_most=BOUND)
    report.table("loading, in multiples of the file", rows)


if __name__ == "__main__":
    sys.exit(main())
