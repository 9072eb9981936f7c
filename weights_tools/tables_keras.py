"""The names of the TensorFlow 2 classes that transformers had until version 5: TFBertModel, TFGPT2Model, their heads.

Sources: transformers 4.49 (modeling_tf_bert.py, modeling_tf_gpt2.py, modeling_tf_utils.py,
modeling_tf_pytorch_utils.py) and files that these classes wrote. One variable has two spellings:

- `tf_model.h5`: `bert/tf_bert_model/bert/pooler/dense/kernel:0`, the layer of the model and the model before it. A
  layer that uses another's variable repeats it: `mlm___cls/tf_bert_for_pre_training/bert/embeddings/...`;
- shards of it, and safetensors written by these classes: `bert/pooler/dense/kernel:0`.

Lists are written `layer_._0`, and `mlm___cls` is `cls` of the head for masked words. A kernel is [inputs, outputs], as
everywhere in TensorFlow; GPT-2's Conv1D is Hugging Face's own and has a bias of [1, outputs].
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from weights_tools.mapping import Dialect, Row
from weights_tools.ops import SQUEEZE_FIRST, TRANSPOSE

# The layer, and the model as Keras names classes: TFBertModel -> tf_bert_model, TFGPT2Model -> tfgpt2_model.
BEFORE = re.compile(r"[^/]+/tf[^/]*/(?=.)")

# An embedding's matrix is called "weight" where the class makes it itself and "embeddings" where Keras does; which of
# the two has changed from version to version.
MATRICES = ("weight", "embeddings")


def unwrapped(name: str) -> str:
    """`name` without the layer and the model that an HDF5 file has before it."""
    return BEFORE.sub("", name, count=1) if BEFORE.match(name) else name


def _dense(source: str, target: str) -> tuple[Row, Row]:
    return Row(f"{source}/kernel:0", f"{target}.weight", TRANSPOSE), Row(f"{source}/bias:0", f"{target}.bias")


def _norm(source: str, target: str) -> tuple[Row, Row]:
    return Row(f"{source}/gamma:0", f"{target}.weight"), Row(f"{source}/beta:0", f"{target}.bias")


def _embedding(source: str, target: str, written: str) -> tuple[Row, ...]:
    rows = (Row(f"{source}/{kind}:0", f"{target}.weight", read_only=kind != written) for kind in MATRICES)
    return tuple(rows)


def _same(path: str) -> tuple[str, str]:
    """A path of Keras and the same path in Hugging Face's spelling."""
    target = path.replace("layer_._{", "layer/{").replace("h_._{", "h/{").replace("/", ".")
    return path, target.replace("mlm___cls", "cls").replace("nsp___cls", "cls")


BERT_LAYER = "bert/encoder/layer_._{layer}/"

KERAS_BERT = (
    *_embedding(*_same("bert/embeddings/word_embeddings"), written="weight"),
    *_embedding(*_same("bert/embeddings/position_embeddings"), written="embeddings"),
    *_embedding(*_same("bert/embeddings/token_type_embeddings"), written="embeddings"),
    *_norm(*_same("bert/embeddings/LayerNorm")),
    *(
        row
        for attention in ("attention", "crossattention")
        for part in ("self/query", "self/key", "self/value", "output/dense")
        for row in _dense(*_same(f"{BERT_LAYER}{attention}/{part}"))
    ),
    *(row for part in ("intermediate/dense", "output/dense") for row in _dense(*_same(BERT_LAYER + part))),
    *(
        row
        for part in ("attention/output", "crossattention/output", "output")
        for row in _norm(*_same(f"{BERT_LAYER}{part}/LayerNorm"))
    ),
    *_dense(*_same("bert/pooler/dense")),
    *_dense(*_same("mlm___cls/predictions/transform/dense")),
    *_norm(*_same("mlm___cls/predictions/transform/LayerNorm")),
    Row("mlm___cls/predictions/bias:0", "cls.predictions.bias"),
    *_dense(*_same("nsp___cls/seq_relationship")),
    *_dense(*_same("classifier")),
    *_dense(*_same("qa_outputs")),
)


def _conv(path: str) -> tuple[Row, Row]:
    source, target = _same(path)
    return Row(f"{source}/weight:0", f"{target}.weight"), Row(f"{source}/bias:0", f"{target}.bias", SQUEEZE_FIRST)


GPT2_LAYER = "transformer/h_._{layer}/"

KERAS_GPT2 = (
    *_embedding(*_same("transformer/wte"), written="embeddings"),
    *_embedding(*_same("transformer/wpe"), written="embeddings"),
    *(row for norm in ("ln_1", "ln_2", "ln_cross_attn") for row in _norm(*_same(GPT2_LAYER + norm))),
    *(
        row
        for part in (
            "attn/c_attn",
            "attn/c_proj",
            "crossattention/c_attn",
            "crossattention/q_attn",
            "crossattention/c_proj",
            "mlp/c_fc",
            "mlp/c_proj",
        )
        for row in _conv(GPT2_LAYER + part)
    ),
    *_norm(*_same("transformer/ln_f")),
    Row("score/kernel:0", "score.weight", TRANSPOSE),
    *_dense(*_same("multiple_choice_head/summary")),
)


def _begins(scope: str, names: Iterable[str]) -> str | None:
    found = [name for name in names if unwrapped(name).startswith(f"{scope}/") and name.endswith(":0")]
    return f"{found[0]!r} and {len(found) - 1} more names, as TensorFlow 2 names variables" if found else None


DIALECTS = (
    Dialect(
        "keras-bert",
        KERAS_BERT,
        "TensorFlow 2 BERT: TFBertModel of transformers and its heads (tf_model.h5)",
        lambda names: _begins("bert", names),
        unwrapped=unwrapped,
        repeats=True,
    ),
    Dialect(
        "keras-gpt2",
        KERAS_GPT2,
        "TensorFlow 2 GPT-2: TFGPT2Model of transformers and its heads (tf_model.h5)",
        lambda names: _begins("transformer", names),
        unwrapped=unwrapped,
        repeats=True,
    ),
)
