"""The strategies of `generate` at the shape of GPT-2 124M: minitf against transformers.

Beam search and sampling take turns with the installed transformers; contrastive search, which transformers 5 moved out,
with transformers 4.49.0 in an environment of its own (`--old-python`, see tests/goldens/requirements.txt). Weights are
random and the same, and so are the tokens, which is asserted. Greedy search and the tiny model are in `decode.py`.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from common import Report, interleaved, parser, ratio
from decode import SMALL, models, prompts

STRATEGIES: dict[str, tuple[dict[str, Any], float]] = {
    "beam search, 4 beams": ({"num_beams": 4, "do_sample": False}, 1.3),
    "sampling, top-k 50 and top-p 0.9": ({"do_sample": True, "top_k": 50, "top_p": 0.9, "temperature": 0.8}, 1.3),
}
"""Title -> (settings of both libraries, how many times as long transformers must take)."""
CONTRASTIVE = {"penalty_alpha": 0.6, "top_k": 4}

WORKER = """
import json, sys, torch, transformers
torch.set_num_threads(int(sys.argv[1]))
from safetensors.torch import load_file
config = transformers.GPT2Config(**json.loads(sys.argv[3]), bos_token_id=None, eos_token_id=None)
model = transformers.GPT2LMHeadModel(config).eval()
model.load_state_dict(load_file(sys.argv[2]), strict=False)
model.tie_weights()
for line in sys.stdin:
    ids, settings = json.loads(line)
    ids = torch.tensor(ids)
    with torch.no_grad():
        out = model.generate(ids, attention_mask=torch.ones_like(ids), **settings)
    print("DONE " + json.dumps(out.tolist()), flush=True)
"""


def main() -> int:
    options = parser(__doc__ or "", repeats=3)
    options.add_argument("--new-tokens", type=int, default=64, help="tokens that are produced (default 64)")
    options.add_argument(
        "--old-python",
        type=Path,
        default=Path(".venv-goldens/bin/python"),
        help="an interpreter with transformers 4.49.0 (default %(default)s, which .ci/run makes)",
    )
    arguments = options.parse_args()
    import torch

    torch.set_num_threads(arguments.threads)
    settings = {name: getattr(arguments, name) for name in ("threads", "repeats", "new_tokens")}
    report = Report("GPT-2 124M shape, strategies of generate, CPU, float32, random weights", settings)
    ours, theirs = models(SMALL)
    ids = prompts(ours, 1, 32)
    for title, (chosen, required) in STRATEGIES.items():
        length = {"max_new_tokens": arguments.new_tokens, **chosen}
        contenders = {
            "minitf": lambda length=length: seeded(lambda: ours.generate(ids, **length)),
            "transformers": lambda length=length: seeded(
                lambda: theirs.generate(ids, attention_mask=torch.ones_like(ids), **length)
            ),
        }
        compare(report, title, contenders, arguments, required)
    contrastive(report, ours, ids, arguments)
    return report.finish(arguments)


def seeded(call: Callable[[], Any]) -> Any:
    """The call with the random state that every call begins with, so that all draw the same samples."""
    import torch

    torch.manual_seed(0)
    return call()


def compare(
    report: Report,
    title: str,
    contenders: dict[str, Callable[[], Any]],
    arguments: argparse.Namespace,
    required: float,
) -> None:
    """Check that the tokens are the same, time the contenders in turns, print the table."""
    import torch

    tokens = {name: call() for name, call in contenders.items()}
    other = next(name for name in contenders if name != "minitf")
    if not torch.equal(tokens["minitf"], tokens[other]):
        sys.exit(f"{title}: minitf and {other} produce different tokens; nothing to compare")
    if tokens["minitf"].unique().numel() < 8:
        sys.exit(f"{title}: the models repeat themselves; equal tokens would prove nothing")
    times = interleaved(contenders, repeats=arguments.repeats, warmup=0)
    report.times(title, times, against="minitf")
    report.require(f"{title}: {other} / minitf", ratio(times[other], times["minitf"]), at_least=required)


def contrastive(report: Report, ours: Any, ids: Any, arguments: argparse.Namespace) -> None:
    """Contrastive search against 4.49.0, which answers from a process of its own."""
    import torch
    from safetensors.torch import save_file

    if not arguments.old_python.exists():
        sys.exit(
            f"{arguments.old_python}: no such interpreter; contrastive search is compared with transformers 4.49.0: "
            "python -m venv .venv-goldens && .venv-goldens/bin/pip install -r tests/goldens/requirements.txt"
        )
    length = {"max_new_tokens": arguments.new_tokens, **CONTRASTIVE}
    with tempfile.TemporaryDirectory() as folder:
        weights = Path(folder) / "model.safetensors"
        save_file({name: t for name, t in ours.state_dict().items() if name != "lm_head.weight"}, weights)
        command = [str(arguments.old_python), "-c", WORKER, str(arguments.threads), str(weights), json.dumps(SMALL)]
        with subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        ) as worker:
            assert worker.stdin is not None
            assert worker.stdout is not None

            def asked() -> Any:
                worker.stdin.write(json.dumps([ids.tolist(), length]) + "\n")
                worker.stdin.flush()
                for line in worker.stdout:
                    if line.startswith("DONE "):
                        return torch.tensor(json.loads(line.removeprefix("DONE ")))
                return sys.exit("the process with transformers 4.49.0 ended without an answer")

            contenders = {"minitf": lambda: ours.generate(ids, **length), "transformers 4.49.0": asked}
            compare(report, "contrastive search, 4 candidates", contenders, arguments, required=1.0)
            worker.stdin.close()


if __name__ == "__main__":
    sys.exit(main())
