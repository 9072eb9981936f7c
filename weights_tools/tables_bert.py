"""BERT under the names of curated-transformers (explosion).

Source: explosion/curated-transformers, models/bert/_hf.py of versions 1.x and 2.x: an encoder without heads, whose
layers are nn.Linear as Hugging Face's are; no number is changed. (Version 0.x, which spaCy 3.7 uses, has other names
and joins query, key and value; it is not read.)
"""

from __future__ import annotations

from collections.abc import Iterable

from weights_tools.mapping import Dialect, Row, matcher
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
    found = [name for name in names if any(matcher(pattern)(unwrapped(name)) for pattern in patterns)]
    return f"{found[0]!r} and {len(found) - 1} more names of its encoder" if found else None


DIALECTS = (
    Dialect(
        "curated-transformers",
        CURATED,
        "BERT as curated-transformers 1.x and 2.x hold it, without pooler and heads",
        _curated,
        unwrapped=unwrapped,
        remark=REMARK,
    ),
)
