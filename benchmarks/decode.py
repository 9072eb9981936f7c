"""Greedy decoding with GPT-2 and a cache: `generate` of minitf against that of transformers.

Both libraries hold the same random weights and produce the same tokens, which is asserted in float32; whole
continuations take turns. Both run twice: by `generate`, which the requirements compare, and by one and the same plain
loop over the forward. The physical limit is the time to read every weight of a step once at the speed of a plain read,
measured in the same rounds.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

from common import Report, fresh_process, interleaved, parser, ratio

SMALL = {"n_embd": 768, "n_layer": 12, "n_head": 12}  # the shape of GPT-2 124M, the other keys as they are
TINY = {"n_embd": 64, "n_layer": 2, "n_head": 4, "vocab_size": 1000}
READ = 2**28  # bytes of the buffer that is read: far more than any cache of a processor
SLACK = 1.1

MEMORY = """
import json, sys, torch, minitf
from minitf.cache import KVCache
torch.set_num_threads(int(sys.argv[1]))
sizes, length = json.loads(sys.argv[2]), int(sys.argv[3])

def status(field):
    with open("/proc/self/status") as lines:
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))

def decode(model, length):
    cache = KVCache()
    model.generate(torch.arange(1, 33)[None], max_length=length, past_key_values=cache)
    return cache

tiny = minitf.GPT2Config(n_embd=64, n_layer=1, n_head=1, vocab_size=5000, eos_token_id=None)
decode(minitf.GPT2LMHeadModel(tiny).eval(), 40)  # what the libraries allocate once belongs to nobody
before = status("VmRSS")
model = minitf.GPT2LMHeadModel(minitf.GPT2Config(**sizes, n_positions=length, eos_token_id=None)).eval()
with open("/proc/self/clear_refs", "w") as file:
    file.write("5")  # forget the peak so far
cache = decode(model, length)
peak = status("VmHWM") - before
print("READY")
print(json.dumps({"peak": peak, "weights": model.get_memory_footprint(), "cache": cache.nbytes()}))
"""


def main() -> int:
    options = parser(__doc__ or "", repeats=3)
    options.add_argument("--new-tokens", type=int, default=128, help="tokens that are produced (default 128)")
    options.add_argument("--length", type=int, default=1024, help="positions of the memory case (default 1024)")
    arguments = options.parse_args()
    import torch

    torch.set_num_threads(arguments.threads)
    settings = {name: getattr(arguments, name) for name in ("threads", "repeats", "new_tokens", "length")}
    report = Report("GPT-2, greedy decoding, CPU, no gradients, random weights", settings)
    with torch.no_grad():
        small = models(SMALL)
        batch_one(report, small, arguments)
        compare(report, "124M, batch 8, prompt 32", small, 8, 32, arguments, required=1.2)
        prompt(report, small, arguments)
        compare(report, "2 layers x 64, batch 1, prompt 32", models(TINY), 1, 32, arguments, required=3.0)
    memory(report, arguments)
    return report.finish(arguments)


# ---------------------------------------------------------------------------------------------------------- contenders


def models(sizes: dict[str, int]) -> tuple[Any, Any]:
    """minitf's and transformers' GPT2LMHeadModel with the same weights, in eval mode."""
    import torch
    import transformers

    import minitf

    torch.manual_seed(0)
    ours = minitf.GPT2LMHeadModel(minitf.GPT2Config(**sizes, bos_token_id=None, eos_token_id=None)).eval()
    with torch.no_grad():  # livelier than as initialised, where one word is repeated for ever
        for name, parameter in ours.named_parameters():
            if parameter.dim() == 2:
                parameter.normal_(std=0.05 if ".h." not in name else 2.0 * parameter.shape[0] ** -0.5)
    config = transformers.GPT2Config(**sizes, attn_implementation="sdpa", bos_token_id=None, eos_token_id=None)
    theirs = transformers.GPT2LMHeadModel(config).eval()
    theirs.load_state_dict(ours.state_dict(), strict=True)
    theirs.tie_weights()
    return ours, theirs


def prompts(model: Any, batch: int, length: int) -> Any:
    """`[batch, length]` random token ids."""
    import torch

    generator = torch.Generator().manual_seed(1)
    return torch.randint(1, model.config.vocab_size, (batch, length), generator=generator)


def greedy(model: Any, cache: Any, token: Any, new: int) -> Any:
    """The same plain loop for both: the next token is the one with the largest score. `[batch, new]`."""
    import torch

    tokens = []
    for _ in range(new):
        logits = model(token, past_key_values=cache, use_cache=True, logits_to_keep=1).logits
        token = logits[:, -1].argmax(-1, keepdim=True)
        tokens.append(token)
    return torch.cat(tokens, 1)


def contenders_for(ours: Any, theirs: Any, ids: Any, new: int) -> dict[str, Callable[[], Any]]:
    """Both libraries, by `generate` and by the plain loop: each call is one whole continuation of `ids`."""
    import torch
    from transformers import DynamicCache

    from minitf.cache import KVCache

    mask, start = torch.ones_like(ids), ids.shape[1]
    length = {"max_new_tokens": new, "do_sample": False}
    return {
        "minitf": lambda: ours.generate(ids, attention_mask=mask, **length)[:, start:],
        "transformers": lambda: theirs.generate(ids, attention_mask=mask, **length)[:, start:],
        "minitf, plain loop": lambda: greedy(ours, KVCache(), ids, new),
        "transformers, plain loop": lambda: greedy(theirs, DynamicCache(config=theirs.config), ids, new),
    }


# --------------------------------------------------------------------------------------------------------------- limits


def read_bytes(model: Any) -> int:
    """Bytes of weights that one step reads: all but the embeddings of positions; those of words as scoring matrix."""
    step = [p for name, p in model.named_parameters() if not name.endswith("wpe.weight")]
    return sum(p.numel() * p.element_size() for p in step)


def plain_read() -> Callable[[], Any]:
    """A call that reads a buffer of READ bytes once, with all threads."""
    import torch

    buffer = torch.ones(READ // 4)
    return lambda: buffer.sum()


def limit(report: Report, name: str, seconds: float, model: Any, bandwidth: float) -> None:
    """Print what a step takes, and what reading its weights would take."""
    floor = read_bytes(model) / bandwidth
    report.figures[f"{name}: ms per token"] = seconds * 1000
    report.figures[f"{name}: limit, ms per token"] = floor * 1000
    print(
        f"  {name}: {seconds * 1000:.3f} ms a step; {read_bytes(model) / 1e6:.1f} MB of weights at "
        f"{bandwidth / 1e9:.1f} GB/s (plain read) are {floor * 1000:.3f} ms: {floor / seconds:.0%} of the limit"
    )


# ---------------------------------------------------------------------------------------------------------------- cases


def run(report: Report, title: str, contenders: dict[str, Callable[[], Any]], repeats: int) -> dict[str, list[float]]:
    """Check the tokens, time the contenders in turns together with the plain read, print the table."""
    import torch

    tokens = {name: call() for name, call in contenders.items()}
    for name, found in tokens.items():
        if name != "minitf, bfloat16" and not torch.equal(found, tokens["minitf"]):
            sys.exit(f"{title}: minitf and {name} produce different tokens; nothing to compare")
    if tokens["minitf"].unique().numel() < 4:
        sys.exit(f"{title}: the models repeat themselves; equal tokens would prove nothing")
    times = interleaved({**contenders, "plain read": plain_read()}, repeats=repeats, warmup=0)
    report.times(title, {name: times[name] for name in contenders}, against="minitf")
    report.measurements[f"{title}: plain read of {READ} bytes"] = times["plain read"]
    return times


def compare(
    report: Report,
    title: str,
    pair: tuple[Any, Any],
    batch: int,
    length: int,
    arguments: argparse.Namespace,
    *,
    required: float,
) -> None:
    """One case against both forms of transformers."""
    new, ours = arguments.new_tokens, pair[0]
    times = run(report, title, contenders_for(*pair, prompts(ours, batch, length), new), arguments.repeats)
    limit(report, title, statistics.median(times["minitf"]) / new, ours, READ / statistics.median(times["plain read"]))
    speeds(report, title, times, required)


def speeds(report: Report, title: str, times: dict[str, list[float]], required: float) -> None:
    """The ratio that is required, and beside it the one of the plain loops."""
    report.figures[f"{title}: plain loops, transformers / minitf"] = ratio(
        times["transformers, plain loop"], times["minitf, plain loop"]
    )
    report.require(f"{title}: transformers / minitf", ratio(times["transformers"], times["minitf"]), at_least=required)


def batch_one(report: Report, pair: tuple[Any, Any], arguments: argparse.Namespace) -> None:
    """Batch 1 in float32 against transformers, the share of the bandwidth that it reaches, and bfloat16."""
    import copy

    import torch

    from minitf.cache import KVCache

    title, new, ours = "124M, batch 1, prompt 32", arguments.new_tokens, pair[0]
    ids = prompts(ours, 1, 32)
    half = copy.deepcopy(ours).to(torch.bfloat16)
    contenders = contenders_for(*pair, ids, new)
    contenders["minitf, bfloat16"] = lambda: half.generate(ids, max_new_tokens=new)
    times = run(report, title, contenders, arguments.repeats)
    speeds(report, title, times, 1.3)
    steps = {"read": [], "float32": [], "bfloat16": []}  # type: dict[str, list[float]]
    caches = {"float32": (ours, KVCache()), "bfloat16": (half, KVCache())}
    one = {}
    for name, (model, cache) in caches.items():
        model(ids, past_key_values=cache, logits_to_keep=1)
        one[name] = model.decoding_step(cache, {})  # what generate repeats
    read = plain_read()
    for _ in range(new // 2):  # single steps right beside the read that they are measured by
        steps["read"].append(timed(read))
        for name, step in one.items():
            steps[name].append(timed(lambda step=step: step(ids[:, :1], None, None)))
    bandwidth = READ / statistics.median(steps["read"])
    for name, (model, _) in caches.items():
        limit(report, f"{title}, {name}", statistics.median(steps[name]), model, bandwidth)
        report.measurements[f"{title}: step, {name}"] = steps[name]
    report.measurements[f"{title}: read beside the steps"] = steps["read"]
    share = read_bytes(ours) / statistics.median(steps["float32"]) / bandwidth
    report.require(f"{title}: share of the read bandwidth, float32", share, at_least=0.7)
    report.require(f"{title}: float32 / bfloat16", ratio(steps["float32"], steps["bfloat16"]), at_least=1.0)


def timed(call: Callable[[], Any]) -> float:
    """Seconds of one call."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def prompt(report: Report, pair: tuple[Any, Any], arguments: argparse.Namespace) -> None:
    """A prompt of 512 tokens: arithmetic, not memory, so the limit is the speed of the fastest product."""
    import torch

    title = "124M, prompt of 512 tokens"
    loop = contenders_for(*pair, prompts(pair[0], 1, 512), 1)
    if not torch.equal(loop["minitf"](), loop["transformers"]()):
        sys.exit(f"{title}: the two produce different tokens; nothing to compare")
    left, right = torch.randn(512, 768), torch.randn(768, 3072)
    times = interleaved({**loop, "product": lambda: left @ right}, repeats=5 * arguments.repeats, warmup=2)
    weights = sum(p.numel() for name, p in pair[0].named_parameters() if ".h." in name and p.dim() == 2)
    peak = 2 * left.numel() * right.shape[1] / min(times.pop("product"))
    floor = 2 * 512 * weights / peak
    report.times(title, {**times, "products alone": [floor]}, against="minitf")
    speeds(report, title, times, 1.0)


def memory(report: Report, arguments: argparse.Namespace) -> None:
    """The peak of a decode to the last position, in a process of its own."""
    import json

    result = fresh_process(MEMORY, str(arguments.threads), json.dumps(SMALL), str(arguments.length)).answer
    limit_bytes = result["weights"] + result["cache"]
    title = f"124M, decode of {arguments.length} positions"
    rows = [("", "MB"), *((name, f"{result[name] / 1e6:.1f}") for name in ("weights", "cache", "peak"))]
    report.table(title, rows)
    report.require(f"{title}: peak / (weights + cache)", result["peak"] / limit_bytes, at_most=SLACK)


if __name__ == "__main__":
    sys.exit(main())
