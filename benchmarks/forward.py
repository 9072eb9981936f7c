"""Forward pass: BERT-base size at batch 8 x 128 tokens, and MiniLM size on one short text, against transformers.

Both libraries hold the same random weights and compute the same batch in one process, taking turns; their outputs are
compared before anything is timed. The physical limit is the time that the matrix products alone would take at the
speed of the fastest single product measured right before.
"""

from __future__ import annotations

import argparse
import sys
from typing import Any

from common import Report, interleaved, parser, ratio

BASE = {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072}
MINI = {"hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12, "intermediate_size": 1536}
BOUND = 0.98


def main() -> int:
    options = parser(__doc__ or "", repeats=15)
    options.add_argument("--short-repeats", type=int, default=400, help="turns for the short text (default 400)")
    arguments = options.parse_args()
    import torch

    torch.set_num_threads(arguments.threads)
    report = Report(
        "forward pass, float32, CPU, no gradients",
        {"threads": arguments.threads, "repeats": arguments.repeats, "short repeats": arguments.short_repeats},
    )
    with torch.inference_mode():
        compare(report, "BERT-base, 8 x 128 tokens", BASE, 8, 128, arguments)
        compare(report, "MiniLM size, 1 x 12 tokens", MINI, 1, 12, arguments)
    return report.finish(arguments)


def fastest_product() -> float:
    """FLOP/s of the best of several runs of the largest product in a BERT-base layer, [1024, 768] x [768, 3072]."""
    import torch

    a, b = torch.randn(1024, 768), torch.randn(768, 3072)
    times = interleaved({"product": lambda: a @ b}, repeats=20, warmup=5)["product"]
    return 2 * 1024 * 768 * 3072 / min(times)


def flops(sizes: dict[str, int], batch: int, length: int) -> float:
    """Multiplications and additions in all matrix products: 2 for each weight and token, and attention."""
    hidden, inner, layers = sizes["hidden_size"], sizes["intermediate_size"], sizes["num_hidden_layers"]
    weights = 4 * hidden * hidden + 2 * hidden * inner
    attention = 2 * length * hidden  # scores and context, for each token
    return 2.0 * layers * batch * length * (weights + attention)


def models(sizes: dict[str, int], implementation: str) -> tuple[Any, Any]:
    """minitf's and transformers' BertModel with the same weights, in eval mode."""
    import torch
    import transformers

    import minitf

    torch.manual_seed(0)
    ours = minitf.BertModel(minitf.BertConfig(**sizes, attn_implementation=implementation)).eval()
    config = transformers.BertConfig(**sizes, attn_implementation=implementation)
    with torch.device("meta"):
        theirs = transformers.BertModel(config)
    theirs = theirs.to_empty(device="cpu").eval()
    # Buffers that are no weights (positions, segments) are not in the state dict, and to_empty left them unset.
    positions = torch.arange(config.max_position_embeddings)[None]
    for name, buffer in theirs.named_buffers():
        buffer.copy_(positions if name.endswith("position_ids") else torch.zeros_like(buffer))
    theirs.load_state_dict(ours.state_dict(), strict=True)
    return ours, theirs


def compare(
    report: Report,
    title: str,
    sizes: dict[str, int],
    batch: int,
    length: int,
    arguments: argparse.Namespace,
) -> None:
    """Time the four cases of one size: sdpa and eager, without and with padding (a single text has none)."""
    import torch

    repeats = arguments.repeats if batch > 1 else arguments.short_repeats
    work = flops(sizes, batch, length)
    generator = torch.Generator().manual_seed(1)
    input_ids = torch.randint(1, 30522, (batch, length), generator=generator)
    full = torch.ones_like(input_ids)
    padded = (torch.arange(length)[None] < length - torch.arange(batch)[:, None] * length // (2 * batch)).long()
    for implementation in ("sdpa", "eager"):
        ours, theirs = models(sizes, implementation)
        for name, mask in (("no padding", full), ("padding", padded)) if batch > 1 else (("no padding", full),):
            inputs = {"input_ids": input_ids, "attention_mask": mask}
            difference = (ours(**inputs)[0] - theirs(**inputs)[0])[mask.bool()].abs().max().item()
            if not difference < 1e-4:
                sys.exit(f"{title}, {implementation}, {name}: the outputs differ by {difference}; nothing to compare")
            peak = fastest_product()
            times = interleaved(
                {"minitf": lambda a=ours, i=inputs: a(**i), "transformers": lambda b=theirs, i=inputs: b(**i)},
                repeats=repeats,
                warmup=max(2, repeats // 10),
            )
            case = f"{title}, {implementation}, {name}"
            report.times(case, {**times, "products alone": [work / peak]}, against="minitf", unit="ms")
            print(f"  ({work / 1e9:.1f} GFLOP of products; the fastest one ran at {peak / 1e9:.0f} GFLOP/s)")
            report.require(
                f"{case}, transformers / minitf", ratio(times["transformers"], times["minitf"]), at_least=BOUND
            )


if __name__ == "__main__":
    sys.exit(main())
