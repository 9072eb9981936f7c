"""Other programs' files, by hand: what each dialect looks like, written out a second time and without the tables.

So a mistake in a table cannot cancel itself on the way back.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn

import minitf
from tests.support import padded_batch, randomise_
from tests.weights.bundle_forge import bundle

Tensors = dict[str, torch.Tensor]

BERT = {
    "vocab_size": 61, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48,
    "max_position_embeddings": 16,
}  # fmt: skip
GPT2 = {
    "vocab_size": 61, "n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 16, "bos_token_id": None,
    "eos_token_id": None,
}  # fmt: skip


def bert(name: str = "BertForPreTraining", *, add_pooling_layer: bool = True, **settings: Any) -> Any:
    only = {} if add_pooling_layer else {"add_pooling_layer": False}
    return randomise_(getattr(minitf, name)(minitf.BertConfig(**{**BERT, **settings}), **only)).eval()


def gpt2(name: str = "GPT2LMHeadModel", **settings: Any) -> Any:
    return randomise_(getattr(minitf, name)(minitf.GPT2Config(**{**GPT2, **settings}))).eval()


def weights(model: nn.Module) -> Tensors:
    """Each parameter once, under Hugging Face's first name of it."""
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def same_outputs(one: Any, other: Any) -> bool:
    batch = padded_batch(length=9)
    if isinstance(one, minitf.GPT2PreTrainedModel):
        batch.pop("token_type_ids")
    with torch.no_grad():
        pairs = zip(one(**batch).to_tuple(), other(**batch).to_tuple(), strict=True)
        return all(torch.equal(a, b) for a, b in pairs if isinstance(a, torch.Tensor))


# --------------------------------------------------------------------------------- other programs' files, by hand


def google(tensors: Tensors) -> Tensors:
    """As google-research/bert names and stores them."""
    result = {}
    for name, tensor in tensors.items():
        scope = name.replace("encoder.layer.", "encoder/layer_").replace(".", "/")
        if name.endswith("_embeddings.weight"):
            scope = scope.removesuffix("/weight")
        elif "LayerNorm" in name:
            scope = scope.replace("LayerNorm/weight", "LayerNorm/gamma").replace("LayerNorm/bias", "LayerNorm/beta")
        elif re.match(r"cls.predictions.bias|cls.seq_relationship|classifier|qa_outputs", name):
            scope = re.sub("weight$", "output_weights", re.sub("bias$", "output_bias", scope))
            scope = scope.replace("classifier/", "").replace("qa_outputs", "cls/squad")
        elif name.endswith("weight"):
            scope, tensor = scope.removesuffix("weight") + "kernel", tensor.T.contiguous()
        result[scope] = tensor
    return result


def openai(tensors: Tensors) -> Tensors:
    """As openai/gpt-2 names and stores them."""
    result = {}
    for name, tensor in tensors.items():
        parts = re.sub(r"^transformer\.", "model.", name).replace("h.", "h", 1).split(".")
        if parts[1] in ("wte", "wpe"):
            parts.pop()
        else:
            parts[-1] = {"bias": "b", "weight": "g" if "ln_" in name else "w"}[parts[-1]]
        result["/".join(parts)] = tensor[None].contiguous() if parts[-1] == "w" else tensor
    return result


def is_linear(name: str) -> bool:
    return name.endswith((".c_attn.weight", ".c_proj.weight", ".c_fc.weight"))


def nano(tensors: Tensors) -> Tensors:
    """As nanoGPT, minGPT and build-nanogpt store them: nn.Linear, and the scoring matrix under its own name too."""
    result = {name: tensor.T.contiguous() if is_linear(name) else tensor for name, tensor in tensors.items()}
    head = tensors.get("lm_head.weight", tensors.get("transformer.wte.weight"))
    return result if head is None else {**result, "lm_head.weight": head}


def gamma(tensors: Tensors) -> Tensors:
    """nanoGPT with a LayerNorm of the author's own."""
    renames = {"weight": "gamma", "bias": "beta"}
    return {
        re.sub(r"(ln_\w+)\.(\w+)", lambda m: f"{m[1]}.{renames[m[2]]}", name): t for name, t in nano(tensors).items()
    }


def from_scratch(tensors: Tensors) -> Tensors:
    """As LLMs-from-scratch stores them: query, key and value apart, names of its own, nn.Linear."""
    names = {
        "transformer.wte.weight": "tok_emb.weight", "transformer.wpe.weight": "pos_emb.weight",
        "transformer.h.": "trf_blocks.", "transformer.ln_f": "final_norm", "ln_1": "norm1", "ln_2": "norm2",
        "attn.c_proj": "att.out_proj", "mlp.c_fc": "ff.layers.0", "mlp.c_proj": "ff.layers.2",
    }  # fmt: skip
    result = {}
    for name, tensor in nano(tensors).items():
        renamed = name.replace("lm_head", "out_head")
        for theirs, own in names.items():
            renamed = renamed.replace(theirs, own)
        if "norm" in renamed:
            renamed = renamed.replace("weight", "scale").replace("bias", "shift")
        if "c_attn" in renamed:
            for index, part in enumerate(("query", "key", "value")):
                result[renamed.replace("attn.c_attn", f"att.W_{part}")] = tensor[index * 32 : index * 32 + 32].clone()
        else:
            result[renamed] = tensor
    return result


def keras_bert(tensors: Tensors) -> Tensors:
    """As TFBertForPreTraining names and stores them, without the model before the names (safetensors, shards)."""
    result = {}
    for name, tensor in tensors.items():
        scope = name.replace(".", "/").replace("encoder/layer/", "encoder/layer_._")
        scope = re.sub("^cls/predictions", "mlm___cls/predictions", scope)
        scope = re.sub("^cls/seq", "nsp___cls/seq", scope)
        if "LayerNorm" in name:
            scope = scope.replace("LayerNorm/weight", "LayerNorm/gamma").replace("LayerNorm/bias", "LayerNorm/beta")
        elif name.endswith(("position_embeddings.weight", "token_type_embeddings.weight")):
            scope = scope.removesuffix("weight") + "embeddings"
        elif name.endswith(".weight") and "word_embeddings" not in name:
            scope, tensor = scope.removesuffix("weight") + "kernel", tensor.T.contiguous()
        result[f"{scope}:0"] = tensor
    return result


def keras_gpt2(tensors: Tensors) -> Tensors:
    """As TFGPT2LMHeadModel names and stores them: Conv1D with a bias of [1, n], everything else as Keras has it."""
    result = {}
    for name, tensor in tensors.items():
        scope = name.replace(".", "/").replace("transformer/h/", "transformer/h_._")
        if "/ln_" in scope:
            scope = scope.replace("/weight", "/gamma").replace("/bias", "/beta")
        elif "/wte" in scope or "/wpe" in scope:
            scope = scope.replace("/weight", "/embeddings")
        elif name.endswith(("score.weight", "summary.weight")):
            scope, tensor = scope.removesuffix("weight") + "kernel", tensor.T.contiguous()
        elif name.endswith("bias") and "summary" not in name:
            tensor = tensor[None].contiguous()
        result[f"{scope}:0"] = tensor
    return result


def hdf5(tensors: Tensors, model: str) -> Tensors:
    """The full paths of tf_model.h5: layer, model, variable; the layer of the words' scores repeats the embeddings."""
    result = {f"{name.partition('/')[0]}/{model}/{name}": tensor for name, tensor in tensors.items()}
    if any(name.startswith("mlm___cls/") for name in tensors):
        result |= {f"mlm___cls/{model}/{name}": t for name, t in tensors.items() if name.startswith("bert/embeddings/")}
    return result


def head_by_head(matrix: torch.Tensor, heads: int) -> torch.Tensor:
    """[C, H * D] -> [H, C, D], one head after another."""
    size = matrix.shape[1] // heads
    return torch.stack([matrix[:, head * size : (head + 1) * size] for head in range(heads)])


def lens_gpt2(tensors: Tensors, heads: int = 2) -> Tensors:
    """As a HookedTransformer without processing holds them; each head's matrix multiplies from the right."""
    names = {
        "transformer.wte.weight": "embed.W_E", "transformer.wpe.weight": "pos_embed.W_pos",
        "transformer.h.": "blocks.", "transformer.ln_f": "ln_final", "ln_1.": "ln1.", "ln_2.": "ln2.",
        "mlp.c_fc.weight": "mlp.W_in", "mlp.c_fc.bias": "mlp.b_in",
        "mlp.c_proj.weight": "mlp.W_out", "mlp.c_proj.bias": "mlp.b_out", "attn.c_proj.bias": "attn.b_O",
        "lm_head.weight": "unembed.W_U",
    }  # fmt: skip
    result = {}
    for name, tensor in tensors.items():
        renamed = name
        for theirs, own in names.items():
            renamed = renamed.replace(theirs, own)
        block, _, last = renamed.rpartition(".")
        if ".ln" in renamed or renamed.startswith("ln_final"):
            result[f"{block}.{last[0]}"] = tensor
        elif renamed.endswith("c_attn.weight"):
            for letter, matrix in zip("QKV", tensor.split(tensor.shape[0], 1), strict=True):
                result[f"{block.removesuffix('.c_attn')}.W_{letter}"] = head_by_head(matrix, heads)
        elif renamed.endswith("c_attn.bias"):
            for letter, bias in zip("QKV", tensor.chunk(3), strict=True):
                result[f"{block.removesuffix('.c_attn')}.b_{letter}"] = torch.stack(bias.chunk(heads))
        elif renamed.endswith("c_proj.weight"):
            result[f"{block.removesuffix('.c_proj')}.W_O"] = torch.stack(tensor.chunk(heads))
        else:
            result[renamed] = tensor.T.contiguous() if renamed == "unembed.W_U" else tensor
    return result


def lens_bert(tensors: Tensors, heads: int = 2) -> Tensors:
    """As a HookedEncoder holds them."""
    names = {
        "bert.embeddings.word_embeddings.weight": "embed.embed.W_E",
        "bert.embeddings.position_embeddings.weight": "embed.pos_embed.W_pos",
        "bert.embeddings.token_type_embeddings.weight": "embed.token_type_embed.W_token_type",
        "bert.embeddings.LayerNorm": "embed.ln", "bert.encoder.layer.": "blocks.",
        "attention.output.LayerNorm": "ln1", "attention.output.dense.bias": "attn.b_O", "output.LayerNorm": "ln2",
        "intermediate.dense.weight": "mlp.W_in", "intermediate.dense.bias": "mlp.b_in",
        "bert.pooler.dense.weight": "pooler.W", "bert.pooler.dense.bias": "pooler.b",
        "cls.predictions.transform.dense.weight": "mlm_head.W", "cls.predictions.transform.dense.bias": "mlm_head.b",
        "cls.predictions.transform.LayerNorm": "mlm_head.ln", "cls.predictions.bias": "unembed.b_U",
        "cls.seq_relationship.weight": "nsp_head.W", "cls.seq_relationship.bias": "nsp_head.b",
    }  # fmt: skip
    result = {}
    for name, tensor in tensors.items():
        renamed = name
        for theirs, own in names.items():
            renamed = renamed.replace(theirs, own)
        block = renamed.partition("attention.")[0] + "attn."
        if "LayerNorm" in name:
            renamed = renamed.removesuffix("eight").removesuffix("ias")
        elif ".attention.self." in name:
            letter = name.rsplit(".", 2)[1][0].upper()
            is_bias = name.endswith("bias")
            renamed = f"{block}{'b' if is_bias else 'W'}_{letter}"
            tensor = torch.stack(tensor.chunk(heads)) if is_bias else head_by_head(tensor.T, heads)
        elif name.endswith("attention.output.dense.weight"):
            renamed, tensor = block + "W_O", torch.stack(tensor.T.chunk(heads))
        elif renamed.endswith("output.dense.weight"):
            renamed, tensor = renamed.replace("output.dense.weight", "mlp.W_out"), tensor.T
        elif renamed.endswith("output.dense.bias"):
            renamed = renamed.replace("output.dense.bias", "mlp.b_out")
        elif renamed.endswith(("W_in", "pooler.W", "mlm_head.W", "nsp_head.W")):
            tensor = tensor.T
        result[renamed] = tensor.contiguous()
    return result


def curated(tensors: Tensors) -> Tensors:
    """As the BERTEncoder of curated-transformers 2 holds them."""
    names = {
        "embeddings.word_embeddings": "embeddings.piece_embeddings",
        "embeddings.token_type_embeddings": "embeddings.type_embeddings",
        "embeddings.LayerNorm": "embeddings.embed_output_layer_norm", "encoder.layer.": "layers.",
        "attention.self.": "mha.", "attention.output.dense": "mha.output",
        "attention.output.LayerNorm": "attn_residual_layer_norm", "intermediate.dense": "ffn.intermediate",
        "output.LayerNorm": "ffn_residual_layer_norm", "output.dense": "ffn.output",
    }  # fmt: skip
    result = {}
    for name, tensor in tensors.items():
        renamed = name
        for theirs, own in names.items():
            renamed = renamed.replace(theirs, own)
        result[renamed] = tensor
    return result


@dataclass(frozen=True)
class Foreign:
    """One dialect as the tests make it: the model, its file, and what `into_dialect` and `from_pretrained` are told."""

    make: Callable[..., Any]
    by_hand: Callable[[Tensors], Tensors]
    num_heads: int | None = None
    base: str = ""  # what the model's names lack of the prefix that the table writes
    settings: dict[str, Any] = field(default_factory=dict)


FOREIGN = {
    "keras-bert": Foreign(bert, keras_bert),
    "keras-gpt2": Foreign(gpt2, keras_gpt2),
    "google-bert": Foreign(bert, google),
    "openai-gpt2": Foreign(gpt2, openai),
    "transformer-lens-bert": Foreign(bert, lens_bert, num_heads=2),
    "transformer-lens-gpt2": Foreign(gpt2, lens_gpt2, num_heads=2),
    "curated-transformers": Foreign(
        lambda: bert("BertModel", add_pooling_layer=False), curated,
        base="bert.", settings={"add_pooling_layer": False},
    ),
    "llms-from-scratch": Foreign(gpt2, from_scratch),
    "nanogpt-gamma": Foreign(gpt2, gamma),
    "nanogpt": Foreign(gpt2, nano),
    "sentence-transformers": Foreign(
        lambda: bert("BertModel"), lambda tensors: {f"0.auto_model.{name}": t for name, t in tensors.items()}
    ),
    "hf-wrapped": Foreign(bert, lambda tensors: {f"module.{name}": t for name, t in tensors.items()}),
    "hf-legacy": Foreign(
        bert,
        lambda tensors: {
            name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): t
            for name, t in tensors.items()
        },
    ),
    "hf": Foreign(bert, dict),
}  # fmt: skip


def written(tensors: Tensors, folder: Path, config: Any) -> Path:
    """A file as the dialect's program has it: a TensorFlow checkpoint for names with slashes, else safetensors."""
    if any("/" in name and not name.endswith(":0") for name in tensors):
        return bundle(tensors).write(folder / "model.ckpt")
    save_file({name: tensor.clone() for name, tensor in tensors.items()}, folder / "model.safetensors")
    config.save_pretrained(folder)
    return folder
