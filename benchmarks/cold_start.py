"""Cold start: from the creation of a process to the first embedding of the real MiniLM checkpoint.

Each measurement is a fresh interpreter that imports the library, loads model and tokenizer from the folder, embeds one
sentence and prints READY; minitf and transformers take turns. Three more contenders show where the time goes: Python
alone, `import torch` alone (the floor: nothing that uses torch starts faster), and the import of minitf on top of it.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Callable

from common import FreshProcess, Report, fresh_process, minilm_folder, parser, processes, ratio, seconds_of

SENTENCE = "A cold process embeds this sentence, and only this one."

EMBED = """
import json, sys, torch
torch.set_num_threads(int(sys.argv[2]))
{imports}
model = {model}.from_pretrained(sys.argv[1])
tokenizer = {tokenizer}.from_pretrained(sys.argv[1])
with torch.no_grad():
    embedding = model(**tokenizer(sys.argv[3], return_tensors="pt")).last_hidden_state.mean(dim=1)[0]
print("READY", flush=True)
print(json.dumps(embedding.tolist()))
"""
MINITF = EMBED.format(
    imports="from minitf.models.bert import BertModel\nfrom minitf.tokenization import BertTokenizerFast",
    model="BertModel",
    tokenizer="BertTokenizerFast",
)
TRANSFORMERS = EMBED.format(
    imports="from transformers import AutoModel, AutoTokenizer", model="AutoModel", tokenizer="AutoTokenizer"
)
PYTHON = "print('READY', flush=True)"
TORCH = "import torch\n" + PYTHON
IMPORT = "import torch, minitf\n" + PYTHON
IMPORT_CLASSES = "import torch\nfrom minitf import BertModel, BertTokenizerFast\n" + PYTHON
HELP = """
import contextlib, io, json, sys
sys.argv = ["minitf", "--help"]
from minitf.cli import main
code = 0
with contextlib.redirect_stdout(io.StringIO()) as text:
    try:
        code = main()
    except SystemExit as end:
        code = end.code
print("READY", flush=True)
assert not code and "run" in text.getvalue(), (code, text.getvalue())
print(json.dumps("torch" in sys.modules))
"""


def main() -> int:
    options = parser(__doc__ or "", repeats=7)
    arguments = options.parse_args()
    threads = arguments.threads
    folder = str(minilm_folder())
    report = Report(
        "cold start, fresh processes", {"threads": threads, "repeats": arguments.repeats, "warm-up rounds": 1}
    )

    def embed(code: str) -> Callable[[], FreshProcess]:
        return lambda: fresh_process(code, folder, str(threads), SENTENCE, threads=threads)

    def only(code: str) -> Callable[[], FreshProcess]:
        return lambda: fresh_process(code, threads=threads)

    results = processes(
        {
            "minitf": embed(MINITF),
            "transformers": embed(TRANSFORMERS),
            "python": only(PYTHON),
            "import torch": only(TORCH),
            "import torch, minitf": only(IMPORT),
            "... and its BERT classes": only(IMPORT_CLASSES),
            "minitf --help": only(HELP),
        },
        repeats=arguments.repeats,
    )
    times = {name: seconds_of(runs) for name, runs in results.items()}
    embedding = {"minitf": times["minitf"], "transformers": times["transformers"]}
    floor = {"import torch (the floor)": times["import torch"], "python alone": times["python"]}
    report.times("process start to first embedding", {**embedding, **floor}, against="minitf")
    names = ("import torch", "import torch, minitf", "... and its BERT classes", "minitf --help")
    report.times("imports", {name: times[name] for name in names}, against="import torch")

    ours, theirs = results["minitf"][0].answer, results["transformers"][0].answer
    difference = max(abs(a - b) for a, b in zip(ours, theirs, strict=True))
    over_torch = {
        name: statistics.median(times[name]) - statistics.median(times["import torch"])
        for name in ("import torch, minitf", "... and its BERT classes")
    }
    speed = ratio(times["transformers"], times["minitf"])
    report.require("first embedding, transformers / minitf", speed, at_least=2.5)
    report.require("largest difference between the two embeddings", difference, at_most=1e-6)
    report.require("import minitf over import torch", over_torch["import torch, minitf"], at_most=0.15, unit=" s")
    report.require(
        "import of the BERT classes over import torch", over_torch["... and its BERT classes"], at_most=0.15, unit=" s"
    )
    report.require("minitf --help imports torch (0 = no)", float(results["minitf --help"][0].answer), at_most=0)
    return report.finish(arguments)


if __name__ == "__main__":
    sys.exit(main())
