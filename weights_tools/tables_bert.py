"""BERT under the names of curated-transformers (explosion).

Source: explosion/curated-transformers, models/bert/_hf.py of versions 1.x and 2.x: an encoder without heads, whose
layers are nn.Linear as Hugging Face's are; no number is changed. Version 0.x (0.1.1) has other
names and joins query, key and value: it is refused.
"""

from __future__ import annotations

from collections.abc import Iterable

from weights_tools.mapping import Dialect, Row, matching
from weights_tools.wrappers import unwrapped

LAYER = "layers.{layer}."
TARGET = "bert.encoder.layer.{layer}."

CURATED = (
    *(
        Row(f"embeddings.{source}_embeddings.weight", f"bert.embeddings.{target}_embeddings.weight")
        for source, target in (("piece", "word"), ("position", "position"), ("type", "token_type"))
    ),
    *(
        Row(f"{source}.{kind}", f"{target}.{kind}")
        for source, target in (
            ("embeddings.embed_output_layer_norm", "bert.embeddings.LayerNorm"),
            (f"{LAYER}mha.query", f"{TARGET}attention.self.query"),
            (f"{LAYER}mha.key", f"{TARGET}attention.self.key"),
            (f"{LAYER}mha.value", f"{TARGET}attention.self.value"),
            (f"{LAYER}mha.output", f"{TARGET}attention.output.dense"),
            (f"{LAYER}attn_residual_layer_norm", f"{TARGET}attention.output.LayerNorm"),
            (f"{LAYER}ffn.intermediate", f"{TARGET}intermediate.dense"),
            (f"{LAYER}ffn.output", f"{TARGET}output.dense"),
            (f"{LAYER}ffn_residual_layer_norm", f"{TARGET}output.LayerNorm"),
        )
        for kind in ("weight", "bias")
    ),
)


REMARK = (
    "the names do not tell BERT from RoBERTa, CamemBERT and ELECTRA, which curated-transformers calls the same: they "
    "compute differently (RoBERTa's positions begin at 2)"
)


def _curated(names: Iterable[str]) -> str | None:
    patterns = (
        "embeddings.piece_embeddings.weight",
        f"{LAYER}mha.{{rest}}",
        f"{LAYER}attn_residual_layer_norm.{{rest}}",
    )
    found = matching(patterns, names, unwrapped)
    return f"{found[0]!r} and {len(found) - 1} more names of its encoder" if found else None


def _joined(names: Iterable[str]) -> str | None:
    found = matching([f"{LAYER}mha.input.{{kind}}"], names, unwrapped)
    if not found:
        return None
    return (
        f"{found[0]!r} joins query, key and value, as curated-transformers 0.x did: only the names of 1.x and 2.x are "
        "read. Load the checkpoint that it was made from."
    )


DIALECTS = (
    Dialect(
        "curated-transformers",
        CURATED,
        "BERT as curated-transformers 1.x and 2.x hold it, without pooler and heads",
        _curated,
        unwrapped=unwrapped,
        remark=REMARK,
        refuses=_joined,
    ),
)
