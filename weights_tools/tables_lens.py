"""TransformerLens: GPT-2 as a HookedTransformer, BERT as a HookedEncoder. Every attention head has matrices of its own.

Source: TransformerLensOrg/TransformerLens 2.x (components/, pretrained/weight_conversions/gpt2.py and bert.py,
HookedTransformer.fold_layer_norm). A matrix multiplies from the right everywhere, as in GPT-2's Conv1D:
W_Q, W_K, W_V are [H, C, D], W_O is [H, D, C], b_Q, b_K, b_V are [H, D], W_in is [C, F], W_out [F, C], W_U [C, V].

`HookedTransformer.from_pretrained` changes the weights by default. What leaves names out is refused below. The rest
cannot be seen in names: W_E, W_pos, W_O, W_out and their biases centred over C (the residual stream then has mean 0,
and every LayerNorm computes what it did), b_V moved into b_O, W_U centred over V (every score of a position moves by
one number). After the first two, logits are the same but for rounding, hidden states are not; after the last, their
softmax is. A centred W_U is not W_E any more, and loading it as tied is an error.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch

from weights_tools.mapping import Dialect, Join, Row, matcher, matching
from weights_tools.ops import MERGE_HEADS, TRANSPOSE, Chain, MergeHeads
from weights_tools.report import fold
from weights_tools.wrappers import unwrapped

BLOCK = "blocks.{layer}."
GPT2_BLOCK = "transformer.h.{layer}."
BERT_BLOCK = "bert.encoder.layer.{layer}."

BUFFERS = (
    Row(f"{BLOCK}attn.mask", None, why="the causal mask, a constant"),
    Row(f"{BLOCK}attn.IGNORE", None, why="minus infinity, a constant"),
)

# The order in Hugging Face's c_attn: query, key, value.
QKV = tuple(
    Join(tuple(f"{BLOCK}attn.{kind}_{part}" for part in "QKV"), f"{BLOCK}attn.{kind}_Q+{kind}_K+{kind}_V")
    for kind in "Wb"
)


def _norm(source: str, target: str) -> tuple[Row, Row]:
    return Row(f"{source}.w", f"{target}.weight"), Row(f"{source}.b", f"{target}.bias")


GPT2 = (
    *BUFFERS,
    Row("embed.W_E", "transformer.wte.weight"),
    Row("pos_embed.W_pos", "transformer.wpe.weight"),
    *_norm(f"{BLOCK}ln1", f"{GPT2_BLOCK}ln_1"),
    Row(
        f"{BLOCK}attn.W_Q+W_K+W_V",
        f"{GPT2_BLOCK}attn.c_attn.weight",
        Chain((MergeHeads(parts=3, last=True), TRANSPOSE)),
    ),
    Row(f"{BLOCK}attn.b_Q+b_K+b_V", f"{GPT2_BLOCK}attn.c_attn.bias", MergeHeads(parts=3)),
    Row(f"{BLOCK}attn.W_O", f"{GPT2_BLOCK}attn.c_proj.weight", MERGE_HEADS),
    Row(f"{BLOCK}attn.b_O", f"{GPT2_BLOCK}attn.c_proj.bias"),
    *_norm(f"{BLOCK}ln2", f"{GPT2_BLOCK}ln_2"),
    *(
        Row(f"{BLOCK}mlp.{old}_{side}", f"{GPT2_BLOCK}mlp.{layer}.{new}")
        for side, layer in (("in", "c_fc"), ("out", "c_proj"))
        for old, new in (("W", "weight"), ("b", "bias"))
    ),
    *_norm("ln_final", "transformer.ln_f"),
    Row("unembed.W_U", "lm_head.weight", TRANSPOSE),
    Row("unembed.b_U", None, why="a bias of the scores, which GPT-2 does not have: all 0", only_zeros=True),
)

BERT = (
    *BUFFERS,
    Row("embed.embed.W_E", "bert.embeddings.word_embeddings.weight"),
    Row("embed.pos_embed.W_pos", "bert.embeddings.position_embeddings.weight"),
    Row("embed.token_type_embed.W_token_type", "bert.embeddings.token_type_embeddings.weight"),
    *_norm("embed.ln", "bert.embeddings.LayerNorm"),
    *(
        row
        for letter, part in (("Q", "query"), ("K", "key"), ("V", "value"))
        for row in (
            Row(f"{BLOCK}attn.W_{letter}", f"{BERT_BLOCK}attention.self.{part}.weight", MergeHeads(last=True)),
            Row(f"{BLOCK}attn.b_{letter}", f"{BERT_BLOCK}attention.self.{part}.bias", MERGE_HEADS),
        )
    ),
    Row(f"{BLOCK}attn.W_O", f"{BERT_BLOCK}attention.output.dense.weight", Chain((MERGE_HEADS, TRANSPOSE))),
    Row(f"{BLOCK}attn.b_O", f"{BERT_BLOCK}attention.output.dense.bias"),
    *_norm(f"{BLOCK}ln1", f"{BERT_BLOCK}attention.output.LayerNorm"),
    *(
        row
        for side, layer in (("in", "intermediate"), ("out", "output"))
        for row in (
            Row(f"{BLOCK}mlp.W_{side}", f"{BERT_BLOCK}{layer}.dense.weight", TRANSPOSE),
            Row(f"{BLOCK}mlp.b_{side}", f"{BERT_BLOCK}{layer}.dense.bias"),
        )
    ),
    *_norm(f"{BLOCK}ln2", f"{BERT_BLOCK}output.LayerNorm"),
    Row("pooler.W", "bert.pooler.dense.weight", TRANSPOSE),
    Row("pooler.b", "bert.pooler.dense.bias"),
    Row("mlm_head.W", "cls.predictions.transform.dense.weight", TRANSPOSE),
    Row("mlm_head.b", "cls.predictions.transform.dense.bias"),
    *_norm("mlm_head.ln", "cls.predictions.transform.LayerNorm"),
    Row("unembed.W_U", "cls.predictions.decoder.weight", TRANSPOSE),
    Row("unembed.b_U", "cls.predictions.bias"),
    Row("nsp_head.W", "cls.seq_relationship.weight", TRANSPOSE),
    Row("nsp_head.b", "cls.seq_relationship.bias"),
)

REMARK = (
    "names do not tell whether weights were centred, as HookedTransformer.from_pretrained does it by default: then "
    "logits are the original's but for one number a position, and hidden states are not (inspect --values sees it)"
)


def _bert(names: Iterable[str]) -> str | None:
    found = matching(("embed.embed.W_E", "embed.pos_embed.W_pos", "embed.token_type_embed.{rest}"), names, unwrapped)
    return f"{found[0]!r} and {len(found) - 1} more names: embeddings of a HookedEncoder" if found else None


def _gpt2(names: Iterable[str]) -> str | None:
    found = matching(("embed.W_E", "pos_embed.W_pos", f"{BLOCK}attn.W_{{letter}}"), names, unwrapped)
    return f"{found[0]!r} and {len(found) - 1} more names: matrices of a HookedTransformer" if found else None


def _folded(names: Iterable[str]) -> str | None:
    """The LayerNorms that are gone from between the matrices around them."""
    every = {unwrapped(name) for name in names}
    absent = []
    for name in every:
        for beside, norm in (("attn.W_Q", "ln1"), ("mlp.W_in", "ln2")):
            if match := matcher(BLOCK + beside)(name):
                absent += [f"blocks.{match['layer']}.{norm}.{kind}" for kind in "wb"]
    if "unembed.W_U" in every:
        absent += ["ln_final.w", "ln_final.b"]
    missing = [name for name in absent if name not in every]
    # A file that lacks some of them only is incomplete, and says so name by name.
    if not missing or len(missing) < len(absent):
        return None
    return (
        f"it has none of {', '.join(fold(sorted(missing)))}: LayerNorm was folded into the matrices (fold_ln=True, "
        "which HookedTransformer.from_pretrained does by default), and what is folded cannot be taken apart. Save the "
        "state dict of HookedTransformer.from_pretrained_no_processing(...), or load the original checkpoint."
    )


# What is centred -> over which axis, always the last, and by which option of HookedTransformer.from_pretrained.
CENTRED = (
    (
        ("embed.W_E", "pos_embed.W_pos", f"{BLOCK}attn.W_O", f"{BLOCK}mlp.W_out"),
        "center_writing_weights",
        "hidden states",
    ),
    (("unembed.W_U",), "center_unembed", "logits"),
)


def _centred(names: Iterable[str], read: Callable[[str], torch.Tensor]) -> list[str]:
    """Matrices whose rows have mean 0, far more exactly than by chance."""
    every = list(names)
    findings = []
    for patterns, option, changed in CENTRED:
        found = []
        for name in matching(patterns, every, unwrapped):
            tensor = read(name).to(torch.float64)
            # The mean of n random numbers is about 1/sqrt(n) of one; rounding after centring leaves 1/100 of that.
            spread = tensor.mean(-1).square().mean().sqrt() * tensor.shape[-1] ** 0.5
            if bool(tensor.any()) and spread < 0.05 * tensor.square().mean().sqrt():
                found.append(name)
        if found:
            findings.append(
                f"centred ({option}), so that {changed} are not those of the original: {', '.join(fold(found))}"
            )
    return findings


DIALECTS = (
    Dialect(
        "transformer-lens-bert",
        BERT,
        "BERT as TransformerLens holds it (HookedEncoder), every head apart",
        _bert,
        unwrapped=unwrapped,
    ),
    Dialect(
        "transformer-lens-gpt2",
        GPT2,
        "GPT-2 as TransformerLens holds it (HookedTransformer), every head apart",
        _gpt2,
        unwrapped=unwrapped,
        joins=QKV,
        remark=REMARK,
        refuses=_folded,
        look=_centred,
    ),
)
