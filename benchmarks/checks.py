"""What the checks of the inputs cost: their share of a MiniLM-sized forward pass.

Every check of a call (ids, segments, mask, labels) is timed alone, on inputs that pass, and divided by the time of the
forward pass of the same batch: 6 layers, 384 wide, 8 texts of 32 tokens with padding. Both take turns in one process.
"""

from __future__ import annotations

import statistics
import sys
from typing import Any

from common import Report, interleaved, parser

MINI = {"hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12, "intermediate_size": 1536}
BOUND = 2.0


def main() -> int:
    options = parser(__doc__ or "", repeats=60)
    options.add_argument("--batch", type=int, default=8, help="texts (default 8)")
    options.add_argument("--length", type=int, default=32, help="tokens of each text (default 32)")
    arguments = options.parse_args()
    import torch

    import minitf
    from minitf import checks, losses

    torch.set_num_threads(arguments.threads)
    batch, length = arguments.batch, arguments.length
    report = Report(
        "checks of the inputs against the forward pass, MiniLM size, float32, CPU",
        {"threads": arguments.threads, "repeats": arguments.repeats, "batch": batch, "length": length},
    )
    config = minitf.BertConfig(**MINI)
    model = minitf.BertForTokenClassification(config).eval()
    ids = torch.randint(1, config.vocab_size, (batch, length))
    segments = torch.zeros_like(ids)
    mask = torch.ones_like(ids)
    mask[0, length // 2 :] = 0
    labels = torch.randint(0, 2, (batch, length))

    def checked() -> None:
        for _ in range(20):  # one round is too short for the clock
            checks.check_model_inputs(config, ids, segments, None, None, 0)
            checks.check_encoder_inputs(config, None, None)
            checks.check_attention_mask(mask, batch=batch, query_length=length, key_length=length)
            losses.check_labels(labels, labels.shape, 2, "labels", ignored=losses.IGNORED)

    def forward() -> Any:
        return model(ids, mask, segments, labels=labels)

    with torch.inference_mode():
        times = interleaved({"forward": forward, "checks": checked}, repeats=arguments.repeats, warmup=5)
    times["checks"] = [seconds / 20 for seconds in times["checks"]]
    report.times("one call", times, against="forward", unit="ms")
    share = 100 * statistics.median(times["checks"]) / statistics.median(times["forward"])
    report.require("share of the checks", share, at_most=BOUND, unit=" %")
    return report.finish(arguments)


if __name__ == "__main__":
    sys.exit(main())
