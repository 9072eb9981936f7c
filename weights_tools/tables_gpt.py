"""GPT-2 of nn.Linear layers, where Hugging Face has Conv1D: nanoGPT, minGPT, build-nanogpt; LLMs-from-scratch.

Sources: karpathy/nanoGPT, karpathy/minGPT, karpathy/build-nanogpt; rasbt/LLMs-from-scratch (chapters 3 and 4), whose
names are its own. The first three have Hugging Face's names. Their weights of four layers are therefore the
transposes of Hugging Face's under the same names, and one of the four is square. So names decide where they can (biases
that are absent as a whole; gamma; torch.compile's prefix), the caller decides where they cannot (`dialect="nanogpt"`),
and nothing is concluded from a shape: a wrong choice ends at `c_attn`, which is [C, 3C] one way and [3C, C] the other.
"""

from __future__ import annotations

from collections.abc import Iterable

from weights_tools.mapping import Dialect, Join, Row, matching
from weights_tools.ops import TRANSPOSE, Shape
from weights_tools.wrappers import unwrapped

BLOCK = "transformer.h.{layer}."
LINEAR = ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")
BIASES = (*(f"{{path}}h.{{layer}}.{part}.bias" for part in ("ln_1", "ln_2", *LINEAR)), "{path}ln_f.bias")

REMARK = (
    "the file does not say which GELU it was trained with: nanoGPT computes activation_function='gelu', minGPT and "
    "build-nanogpt 'gelu_new'"
)


def _rows(scale: str, shift: str) -> tuple[Row, ...]:
    norms = [f"{BLOCK}ln_1", f"{BLOCK}ln_2", "transformer.ln_f"]
    return (
        Row(f"{BLOCK}attn.bias", None, why="the causal mask, a constant and not a bias"),
        Row("transformer.wte.weight", "transformer.wte.weight"),
        Row("transformer.wpe.weight", "transformer.wpe.weight"),
        *(Row(f"{norm}.{scale}", f"{norm}.weight") for norm in norms),
        *(Row(f"{norm}.{shift}", f"{norm}.bias") for norm in norms),
        *(Row(f"{BLOCK}{part}.weight", f"{BLOCK}{part}.weight", TRANSPOSE) for part in LINEAR),
        *(Row(f"{BLOCK}{part}.bias", f"{BLOCK}{part}.bias") for part in LINEAR),
        Row("lm_head.weight", "lm_head.weight"),
    )


TRF = "trf_blocks.{layer}."

# The order in Hugging Face's c_attn: query, key, value.
QKV = tuple(
    Join(
        tuple(f"{TRF}att.W_{part}.{kind}" for part in ("query", "key", "value")),
        f"{TRF}att.W_query+W_key+W_value.{kind}",
    )
    for kind in ("weight", "bias")
)

FROM_SCRATCH = (
    Row(f"{TRF}att.mask", None, why="the causal mask, a constant"),
    Row("tok_emb.weight", "transformer.wte.weight"),
    Row("pos_emb.weight", "transformer.wpe.weight"),
    *(
        Row(f"{source}.{old}", f"{target}.{new}")
        for source, target in (
            (f"{TRF}norm1", f"{BLOCK}ln_1"),
            (f"{TRF}norm2", f"{BLOCK}ln_2"),
            ("final_norm", "transformer.ln_f"),
        )
        for old, new in (("scale", "weight"), ("shift", "bias"))
    ),
    *(
        row
        for source, target in (
            ("att.W_query+W_key+W_value", "attn.c_attn"),
            ("att.out_proj", "attn.c_proj"),
            ("ff.layers.0", "mlp.c_fc"),
            ("ff.layers.2", "mlp.c_proj"),
        )
        for row in (
            Row(f"{TRF}{source}.weight", f"{BLOCK}{target}.weight", TRANSPOSE),
            Row(f"{TRF}{source}.bias", f"{BLOCK}{target}.bias"),
        )
    ),
    Row("out_head.weight", "lm_head.weight"),
)


def _from_scratch(names: Iterable[str]) -> str | None:
    found = matching((f"{TRF}att.{{rest}}",), names, unwrapped)
    return f"{found[0]!r} and {len(found) - 1} more names of its attention" if found else None


def _nanogpt_gamma(names: Iterable[str]) -> str | None:
    found = matching(("transformer.ln_f.gamma", BLOCK + "ln_1.gamma", BLOCK + "ln_2.gamma"), names, unwrapped)
    return f"{found[0]!r} and {len(found) - 1} more names: GPT-2 with gamma for a LayerNorm's scale" if found else None


def _nanogpt(names: Iterable[str]) -> str | None:
    every = list(names)
    found = matching((BLOCK + "attn.c_attn.weight",), every, unwrapped)
    if not found:
        return None
    if not matching(BIASES, every, unwrapped):
        return f"{found[0]!r} without {found[0].removesuffix('weight') + 'bias'!r}: GPT-2 written with bias=False"
    if all(name.startswith("_orig_mod.") for name in every):
        return f"{found[0]!r}: every name begins with '_orig_mod.', as nanoGPT's train.py leaves it"
    return None


def layout_hint(dialect: str, misshapen: Iterable[tuple[str, Shape, Shape]]) -> str:
    """What to say to a reader whose `c_attn` fits the other way round; "" if that is not so. Advice, never an action.

    Args:
        dialect: the name of the one that was used.
        misshapen: `Plan.misshapen`.
    """
    turned = [
        name for name, there, here in misshapen if name.endswith("attn.c_attn.weight") and there == tuple(here[::-1])
    ]
    if not turned:
        return ""
    if dialect.startswith("nanogpt"):
        return (
            f". {turned[0]} would fit as it stands: if Conv1D wrote it (Hugging Face), pass dialect='hf' ('hf-wrapped')"
        )
    return f". {turned[0]} would fit transposed: if nn.Linear wrote it (nanoGPT, minGPT), pass dialect='nanogpt'"


DIALECTS = (
    Dialect(
        "llms-from-scratch",
        FROM_SCRATCH,
        "GPT-2 as the book Build a Large Language Model (From Scratch) writes it",
        _from_scratch,
        unwrapped=unwrapped,
        zeros=("{path}h.{layer}.attn.c_attn.bias",),
        joins=QKV,
    ),
    Dialect(
        "nanogpt-gamma",
        _rows("gamma", "beta"),
        "GPT-2 of nn.Linear layers, LayerNorm.gamma and .beta (nanoGPT written by hand)",
        _nanogpt_gamma,
        unwrapped=unwrapped,
        zeros=BIASES,
        remark=REMARK,
    ),
    Dialect(
        "nanogpt",
        _rows("weight", "bias"),
        "GPT-2 of nn.Linear layers: nanoGPT, minGPT, build-nanogpt",
        _nanogpt,
        unwrapped=unwrapped,
        zeros=BIASES,
        remark=REMARK,
    ),
)
