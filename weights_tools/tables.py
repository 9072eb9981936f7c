"""The dialects as data. A further program's names are a further table, here or beside, and nothing else.

Order matters: the first dialect that recognises a checkpoint's names is used, and within a table the first row that
matches a name. The last dialect, Hugging Face's current names, is what everything else is translated to; it
recognises all.
"""

from __future__ import annotations

from collections.abc import Iterable

from weights_tools import tables_bert, tables_gpt, tables_keras, tables_lens, tables_tensorflow
from weights_tools.mapping import Dialect, Row, matcher
from weights_tools.wrappers import unwrapped, wrapping

# Buffers: constants that older versions of transformers wrote among the weights and that every model recomputes.
BUFFERS = (
    Row("{path}position_ids", None, why="a constant (0, 1, 2, ...), not a weight"),
    Row("{path}embeddings.token_type_ids", None, why="a constant (zeros), not a weight"),
    Row("{path}h.{layer}.attn.bias", None, why="GPT-2's causal mask, a constant and not a bias"),
    Row("{path}h.{layer}.attn.masked_bias", None, why="the number that GPT-2's mask put in, not a weight"),
    Row("{path}h.{layer}.crossattention.bias", None, why="GPT-2's causal mask, a constant and not a bias"),
    Row("{path}h.{layer}.crossattention.masked_bias", None, why="the number that GPT-2's mask put in, not a weight"),
)

CURRENT = (*BUFFERS, Row("{rest}", "{rest}"))

# Google's TensorFlow code calls LayerNorm's scale gamma and its shift beta (https://arxiv.org/abs/1607.06450 has
# them as g and b); the first PyTorch conversions of BERT kept these names, and such files are still published.
SCALE_AND_SHIFT = (("gamma", "weight"), ("beta", "bias"))
LEGACY = (
    *BUFFERS,
    *(Row(f"{{path}}LayerNorm.{old}", f"{{path}}LayerNorm.{new}") for old, new in SCALE_AND_SHIFT),
    Row("{rest}", "{rest}"),
)
# Behind wrappers both occur; the current ones are written.
WRAPPED = (
    *BUFFERS,
    *(Row(f"{{path}}LayerNorm.{old}", f"{{path}}LayerNorm.{new}", read_only=True) for old, new in SCALE_AND_SHIFT),
    Row("{rest}", "{rest}"),
)

# The state dict of a SentenceTransformer: its first module holds the model, as `auto_model` until version 5 and as
# `model` in version 6. The folder that such a program saves has Hugging Face's own names.
SENTENCE_TRANSFORMERS = (
    *BUFFERS,
    Row("0.auto_model.{rest}", "{rest}"),
    Row("0.model.{rest}", "{rest}", read_only=True),
)


def _sentence_transformers(names: Iterable[str]) -> str | None:
    for beginning in ("0.auto_model.", "0.model."):
        found = [name for name in names if name.startswith(beginning)]
        if found:
            return f"{found[0]!r} and {len(found) - 1} more names begin with {beginning!r}"
    return None


def _wrapped(names: Iterable[str]) -> str | None:
    return wrapping(list(names))


def _legacy(names: Iterable[str]) -> str | None:
    old = [name for name in names if matcher("{path}LayerNorm.gamma")(name) or matcher("{path}LayerNorm.beta")(name)]
    return f"{old[0]!r} and {len(old) - 1} more names say gamma or beta" if old else None


def _current(names: Iterable[str]) -> str | None:
    return "no name is of another dialect"


DIALECTS: tuple[Dialect, ...] = (
    *tables_keras.DIALECTS,
    *tables_tensorflow.DIALECTS,
    *tables_lens.DIALECTS,
    *tables_bert.DIALECTS,
    *tables_gpt.DIALECTS,
    Dialect(
        "sentence-transformers",
        SENTENCE_TRANSFORMERS,
        "the state dict of a SentenceTransformer, its model under 0.auto_model or 0.model",
        _sentence_transformers,
    ),
    Dialect(
        "hf-wrapped",
        WRAPPED,
        "Hugging Face, as torch.compile, DataParallel, FSDP, DeepSpeed or Lightning wrap it",
        _wrapped,
        unwrapped=unwrapped,
    ),
    Dialect("hf-legacy", LEGACY, "Hugging Face BERT before 2019: LayerNorm.gamma and LayerNorm.beta", _legacy),
    Dialect("hf", CURRENT, "Hugging Face, current names", _current),
)


def named(name: str) -> Dialect:
    """The dialect of this name.

    Raises:
        ValueError: there is none (lists those that exist).
    """
    for dialect in DIALECTS:
        if dialect.name == name:
            return dialect
    raise ValueError(f"dialect is {name!r}; expected one of {', '.join(repr(table.name) for table in DIALECTS)}")


def recognise(names: Iterable[str]) -> tuple[Dialect, str]:
    """The first dialect that recognises these names, and its reason."""
    every = list(names)
    for dialect in DIALECTS:
        reason = dialect.recognise(every)
        if reason is not None:
            return dialect, reason
    raise AssertionError("the last dialect recognises everything")
