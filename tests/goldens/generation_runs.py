"""How a golden case of text generation is computed, with either library: `transformers` 4.49.0 or `minitf`.

Every parameter is random, and the biases before the scores of the words are made smaller: they would make a random
model write one word for ever, and then all strategies agree. Prompts of different lengths are padded on the left.

Dimension letters: B rows of the result, T positions, N new tokens, R rows that are computed, V vocabulary.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from tests.goldens.bert_runs import Case, Result
from tests.support import randomise_

__all__ = ["BASE_CONFIG", "PAD", "build", "make_inputs", "run", "settings_of"]

PAD = 1
BASE_CONFIG: dict[str, Any] = {
    "vocab_size": 61,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 24,
    "pad_token_id": PAD,
    "bos_token_id": None,
    "eos_token_id": None,
}
OF_BERT = {"is_decoder": True, "intermediate_size": 48}
LAST_BIASES = ("transformer.ln_f.bias", "cls.predictions.transform.LayerNorm.bias", "cls.predictions.bias")


def build(library: Any, case: Case) -> Any:
    """The case's model, in evaluation mode."""
    kind, own = ("BertConfig", OF_BERT) if case.model.startswith("Bert") else ("GPT2Config", {"n_inner": 48})
    model = getattr(library, case.model)(getattr(library, kind)(**{**BASE_CONFIG, **own, **case.config}))
    randomise_(model, case.options.get("seed", 0))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name in LAST_BIASES:
                parameter.mul_(0.25)
    return model.eval()


def make_inputs(case: Case) -> dict[str, Tensor]:
    """`input_ids` and `attention_mask`, `[prompts, T]`, of `case.inputs["prompts"]`."""
    prompts: Sequence[list[int]] = case.inputs["prompts"]
    longest = max(map(len, prompts))
    return {
        "input_ids": torch.tensor([[PAD] * (longest - len(prompt)) + prompt for prompt in prompts]),
        "attention_mask": torch.tensor([[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts]),
    }


def settings_of(library: Any, case: Case) -> dict[str, Any]:
    """The settings of `generate`. `options["constraints"]` holds token ids; their objects are made here."""
    settings = dict(case.options["settings"])
    if "constraints" in case.options:
        home = importlib.import_module("minitf.generation.constraints") if library.__name__ == "minitf" else library
        settings["constraints"] = [
            home.DisjunctiveConstraint(word) if isinstance(word[0], list) else home.PhrasalConstraint(word)
            for word in case.options["constraints"]
        ]
    return settings


def run(library: Any, case: Case) -> Result:
    """One call of `generate`, in one thread.

    Options: `keep`, what is recorded of `sequences_scores`, `beam_indices`, `scores`, `logits` (`[N, R, V]`), and of
    `attentions`, `hidden_states` (the shapes of every step, and the last layer of every step's last position).
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        model, keep, result = build(library, case), case.options["keep"], Result()
        outputs = ("scores", "logits", "attentions", "hidden_states")
        wanted = {f"output_{name}": True for name in outputs if name in keep}
        if "sequences_scores" in keep or "beam_indices" in keep:
            wanted["output_scores"] = True
        out = model.generate(**make_inputs(case), **settings_of(library, case), **wanted, return_dict_in_generate=True)
    finally:
        torch.set_num_threads(threads)
    result.add("sequences", out.sequences)
    for name in keep:
        value = getattr(out, name)
        if name in ("scores", "logits"):
            value = torch.stack(value)  # [N, R, V]
        elif name == "beam_indices":
            value = value[:, : out.sequences.shape[1] - max(map(len, case.inputs["prompts"]))]  # 4.49.0 adds -1 behind
        elif name in ("attentions", "hidden_states"):
            result.facts[name] = [[list(layer.shape) for layer in step] for step in value]
            if name == "hidden_states":
                value = torch.stack([step[-1][:, -1] for step in value])  # [N, R, C]
            else:
                value = torch.cat([step[-1][..., -1, :] for step in value], dim=-1)  # [R, H, sum of key positions]
        result.add(name, value)
    return result
