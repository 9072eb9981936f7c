"""The names of the two TensorFlow programs that these models come from, as tables to Hugging Face's names.

Sources: google-research/bert (modeling.py, run_classifier.py, run_squad.py, optimization.py) and openai/gpt-2
(src/model.py). A kernel of TensorFlow is [inputs, outputs], the weight of torch's Linear [outputs, inputs]; GPT-2's
Conv1D kept TensorFlow's layout without its leading 1.
"""

from __future__ import annotations

from collections.abc import Iterable

from weights_tools.mapping import Dialect, Row, matching
from weights_tools.ops import SQUEEZE_FIRST, TRANSPOSE

MOMENT = "a moment of the optimizer, not a weight"
COUNTER = "the optimizer's own number, not a weight"

OPTIMIZER = (
    *(
        Row(f"{{rest}}/{slot}", None, why=MOMENT)
        for slot in ("adam_m", "adam_v", "Adam", "Adam_1", "AdamWeightDecayOptimizer", "AdamWeightDecayOptimizer_1")
    ),
    Row("global_step", None, why="the count of training steps, not a weight"),
    Row("beta1_power", None, why=COUNTER),
    Row("beta2_power", None, why=COUNTER),
)


def _dense(source: str, target: str) -> tuple[Row, Row]:
    return Row(f"{source}/kernel", f"{target}.weight", TRANSPOSE), Row(f"{source}/bias", f"{target}.bias")


def _norm(source: str, target: str) -> tuple[Row, Row]:
    return Row(f"{source}/gamma", f"{target}.weight"), Row(f"{source}/beta", f"{target}.bias")


def _same(path: str) -> tuple[str, str]:
    """A path of Google's and the same path in Hugging Face's spelling."""
    return path, path.replace("/layer_{", "/layer/{").replace("/", ".")


# The matrices that score ("output_weights") are [labels, hidden], as in torch: Google multiplies by their transpose.
GOOGLE_BERT = (
    *OPTIMIZER,
    *(
        Row(f"bert/embeddings/{kind}_embeddings", f"bert.embeddings.{kind}_embeddings.weight")
        for kind in ("word", "position", "token_type")
    ),
    *_norm(*_same("bert/embeddings/LayerNorm")),
    *(
        row
        for part in (
            "attention/self/query",
            "attention/self/key",
            "attention/self/value",
            "attention/output/dense",
            "intermediate/dense",
            "output/dense",
        )
        for row in _dense(*_same("bert/encoder/layer_{layer}/" + part))
    ),
    *_norm(*_same("bert/encoder/layer_{layer}/attention/output/LayerNorm")),
    *_norm(*_same("bert/encoder/layer_{layer}/output/LayerNorm")),
    *_dense(*_same("bert/pooler/dense")),
    *_dense(*_same("cls/predictions/transform/dense")),
    *_norm(*_same("cls/predictions/transform/LayerNorm")),
    Row("cls/predictions/output_bias", "cls.predictions.bias"),
    Row("cls/seq_relationship/output_weights", "cls.seq_relationship.weight"),
    Row("cls/seq_relationship/output_bias", "cls.seq_relationship.bias"),
    Row("cls/squad/output_weights", "qa_outputs.weight", why="run_squad.py"),
    Row("cls/squad/output_bias", "qa_outputs.bias", why="run_squad.py"),
    Row("output_weights", "classifier.weight", why="run_classifier.py"),
    Row("output_bias", "classifier.bias", why="run_classifier.py"),
)


def _openai_norm(source: str, target: str) -> tuple[Row, Row]:
    return Row(f"{source}/g", f"{target}.weight"), Row(f"{source}/b", f"{target}.bias")


OPENAI_GPT2 = (
    *OPTIMIZER,
    Row("model/wte", "transformer.wte.weight"),
    Row("model/wpe", "transformer.wpe.weight"),
    *(
        row
        for norm in ("ln_1", "ln_2")
        for row in _openai_norm(f"model/h{{layer}}/{norm}", f"transformer.h.{{layer}}.{norm}")
    ),
    *(
        row
        for part in ("attn/c_attn", "attn/c_proj", "mlp/c_fc", "mlp/c_proj")
        for row in (
            Row(
                f"model/h{{layer}}/{part}/w",
                f"transformer.h.{{layer}}.{part.replace('/', '.')}.weight",
                SQUEEZE_FIRST,
            ),
            Row(f"model/h{{layer}}/{part}/b", f"transformer.h.{{layer}}.{part.replace('/', '.')}.bias"),
        )
    ),
    *_openai_norm("model/ln_f", "transformer.ln_f"),
)


def _with(patterns: tuple[str, ...], names: Iterable[str]) -> str | None:
    found = matching(patterns, names)
    return f"{found[0]!r} and {len(found) - 1} more names" if found else None


def _google_bert(names: Iterable[str]) -> str | None:
    found = _with(("bert/embeddings/{rest}", "bert/encoder/{rest}", "bert/pooler/{rest}"), names)
    return f"{found} begin as Google's BERT names its variables" if found else None


def _openai_gpt2(names: Iterable[str]) -> str | None:
    found = _with(("model/wte", "model/wpe", "model/ln_f/{rest}", "model/h{layer}/{rest}"), names)
    return f"{found} begin as OpenAI's GPT-2 names its variables" if found else None


DIALECTS = (
    Dialect("google-bert", GOOGLE_BERT, "TensorFlow BERT: google-research/bert, keras-bert", _google_bert),
    Dialect("openai-gpt2", OPENAI_GPT2, "TensorFlow GPT-2: openai/gpt-2, keras-gpt-2", _openai_gpt2),
)
