"""Sizes in a config.json that no file can hold: each is an error within a second, in a process that has little memory.

A size that has no effect on any tensor (`chunk_size_feed_forward`, the ids of special words) is no danger and loads.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from minitf import BertConfig, BertForSequenceClassification, GPT2Config, GPT2ForSequenceClassification
from minitf.loading import LoadError
from tests.support import REPOSITORY

MODELS = {
    "bert": (
        BertForSequenceClassification,
        BertConfig(
            vocab_size=11,
            hidden_size=8,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=12,
            max_position_embeddings=9,
        ),
        (
            "vocab_size",
            "hidden_size",
            "num_hidden_layers",
            "num_attention_heads",
            "intermediate_size",
            "max_position_embeddings",
            "type_vocab_size",
            "num_labels",
        ),
    ),
    "gpt2": (
        GPT2ForSequenceClassification,
        GPT2Config(vocab_size=11, n_embd=8, n_layer=1, n_head=2, n_positions=9, pad_token_id=0),
        ("vocab_size", "n_embd", "n_layer", "n_head", "n_positions", "n_inner", "num_labels"),
    ),
}
SIZES = (10**7, 10**9, 2**31 - 1, 2**31, 2**40, 2**62, 2**63, 10**30, 1e300, -1, 0)
# Runs in a process of its own, which may not take 300 MB more than it has after the imports.
LIMITED = """
import json, logging, resource, sys, time
from collections import Counter
from pathlib import Path
import torch
import minitf
from minitf.loading import LoadError

torch.set_num_threads(1)
folder, name, keys, sizes = Path(sys.argv[1]), sys.argv[2], *map(json.loads, sys.argv[3:])
config = json.loads((folder / "config.json").read_text())
model_class = getattr(minitf, name)
model_class.from_pretrained(folder)
used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 300_000_000, used + 300_000_000))
outcomes = Counter()
for key in keys:
    for size in sizes:
        changed = {**config, key: size}
        if key == "num_labels":
            del changed["id2label"], changed["label2id"]
        (folder / "config.json").write_text(json.dumps(changed))
        start = time.process_time()
        try:
            model_class.from_pretrained(folder)
            outcomes[f"loaded: {key} = {size}"] += 1
        except (LoadError, ValueError) as error:
            outcomes["refused" if str(folder) in str(error) else f"nameless: {error}"] += 1
        if time.process_time() - start > 2:
            outcomes[f"slow: {key} = {size}"] += 1
print(json.dumps(outcomes))
"""


@pytest.mark.parametrize("model_type", list(MODELS))
def test_absurd_sizes(model_type: str, tmp_path: Path) -> None:
    model_class, config, keys = MODELS[model_type]
    model_class(config).save_pretrained(tmp_path)
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    arguments = [str(tmp_path), model_class.__name__, json.dumps(keys), json.dumps(SIZES)]
    result = subprocess.run(
        [sys.executable, "-c", LIMITED, *arguments], capture_output=True, text=True, env=environment, timeout=300
    )
    assert (result.returncode, result.stderr) == (0, "")
    assert json.loads(result.stdout) == {"refused": len(keys) * len(SIZES)}


def test_layers_that_the_file_pretends_to_have(tmp_path: Path) -> None:
    """Empty tensors cost an attacker a hundred bytes each, and a layer costs the reader a millisecond."""
    config = MODELS["bert"][1].to_dict() | {"num_hidden_layers": 20_000}
    (tmp_path / "config.json").write_text(json.dumps(config))
    save_file({f"encoder.layer.{layer}.x": torch.zeros(0) for layer in range(20_000)}, tmp_path / "model.safetensors")
    with pytest.raises(LoadError, match="num_hidden_layers = 20000: at most 10000 are loaded"):
        BertForSequenceClassification.from_pretrained(tmp_path)
