"""Which architectures there are, as one table of names, and how a `config.json` says which one it is.

Read in this order:

1. `model_type`, as every version of transformers since 2.3 writes it;
2. else `architectures`, the name of the class that was saved;
3. else the keys, for the oldest files (Google's `bert_config.json`, and what the first versions of the library wrote):
   the one architecture whose keys are all there. This is logged as a warning, since it is a conclusion.

The name of the folder decides nothing, unlike in transformers 4, which searched it for a pattern: the published
"chinese-roberta-wwm-ext" is a BERT. transformers 5 refuses a file without `model_type`.

`minitf.models.auto` (configurations, models) and `minitf.tokenization.auto` choose by it. Nothing is imported here.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["ARCHITECTURES", "Architecture", "described_type"]

logger = logging.getLogger("minitf.architectures")


@dataclass(frozen=True)
class Architecture:
    """One row of the table.

    Attributes:
        config: its configuration class, "module:name".
        tokenizer: its tokenizer in `minitf.tokenization`; the same name with "Fast" is the one on `tokenizers`.
        home: the module of its model classes.
        classes: the choosing class -> the class of this architecture. What is not here, it has not.
        others: further classes of its, which only `architectures` can name.
        keys: an old `config.json` without `model_type` and `architectures` belongs here if it has all of these
        foreign: and none of these, which stand in relatives that share the names above.
    """

    config: str
    tokenizer: str
    home: str
    classes: Mapping[str, str]
    others: tuple[str, ...] = ()
    keys: tuple[str, ...] = ()
    foreign: tuple[str, ...] = ()


ARCHITECTURES: dict[str, Architecture] = {
    "bert": Architecture(
        config="minitf.config:BertConfig",
        tokenizer="BertTokenizer",
        home="minitf.models.bert",
        classes={
            "AutoModel": "BertModel",
            "AutoModelForPreTraining": "BertForPreTraining",
            "AutoModelForMaskedLM": "BertForMaskedLM",
            "AutoModelForCausalLM": "BertLMHeadModel",
            "AutoModelForNextSentencePrediction": "BertForNextSentencePrediction",
            "AutoModelForSequenceClassification": "BertForSequenceClassification",
            "AutoModelForMultipleChoice": "BertForMultipleChoice",
            "AutoModelForTokenClassification": "BertForTokenClassification",
            "AutoModelForQuestionAnswering": "BertForQuestionAnswering",
        },
        keys=("hidden_size", "intermediate_size", "num_attention_heads", "num_hidden_layers", "type_vocab_size"),
        foreign=("embedding_size", "attention_window", "relative_attention", "max_2d_position_embeddings"),
    ),
    "gpt2": Architecture(
        config="minitf.config:GPT2Config",
        tokenizer="GPT2Tokenizer",
        home="minitf.models.gpt2",
        classes={
            "AutoModel": "GPT2Model",
            "AutoModelForPreTraining": "GPT2LMHeadModel",
            "AutoModelForCausalLM": "GPT2LMHeadModel",
            "AutoModelForSequenceClassification": "GPT2ForSequenceClassification",
            "AutoModelForTokenClassification": "GPT2ForTokenClassification",
            "AutoModelForQuestionAnswering": "GPT2ForQuestionAnswering",
        },
        others=("GPT2DoubleHeadsModel",),
        keys=("n_embd", "n_head", "n_layer", "n_positions"),
        foreign=("afn", "n_special", "dff", "rotary_dim", "multi_query"),
    ),
}
"""model_type -> its row; the same choices as in transformers 5.23."""


REMEDY = "A class of your own is added by AutoConfig.register and AutoModel.register."


def described_type(values: Mapping[str, Any], source: str, registered: Iterable[str] = (), remedy: str = REMEDY) -> str:
    """The `model_type` of the contents of a `config.json`; see the head of this file for the rule.

    Args:
        values: the contents. source: what to call them in messages.
        registered: types of the caller's own, beside those of the table. remedy: the end of the error.

    Raises:
        ValueError: nothing in it names an architecture, or it names one that is not implemented; the message lists
            those that are.
    """
    known = sorted({*ARCHITECTURES, *registered})
    model_type = values.get("model_type")
    if model_type not in (None, ""):
        if isinstance(model_type, str) and model_type in known:
            return model_type
        plain = re.sub(r"\W|_", "", str(model_type).lower())  # "BERT", "gpt-2"; a relative's name is no misspelling
        near = f"; did you mean {plain!r}?" if plain in known else ";"
        raise _not_implemented(f"{source} has model_type {model_type!r}{near}", known, values, remedy)
    architectures = values.get("architectures")
    if architectures:
        types = {_type_of_class(name) for name in architectures} if isinstance(architectures, list) else {None}
        found = types.pop()
        if types or found is None:
            raise _not_implemented(
                f"{source} has no model_type and architectures {architectures!r};", known, values, remedy
            )
        return found
    fitting = [
        name
        for name, row in ARCHITECTURES.items()
        if all(key in values for key in row.keys) and not any(key in values for key in row.foreign)
    ]
    if len(fitting) != 1:
        raise _not_implemented(
            f"{source} has no model_type and no architectures, and its keys are not those of one architecture;",
            known,
            values,
            remedy,
        )
    logger.warning(
        "%s has no model_type: taken for %r because of its keys (%s); write model_type into it to say so",
        source,
        fitting[0],
        ", ".join(ARCHITECTURES[fitting[0]].keys),
    )
    return fitting[0]


def _type_of_class(name: object) -> str | None:
    for model_type, row in ARCHITECTURES.items():
        if name in (*row.classes.values(), *row.others):
            return model_type
    return None


def _not_implemented(what: str, known: list[str], values: Mapping[str, Any], remedy: str) -> ValueError:
    if "auto_map" in values:
        remedy = f"Code that comes with a checkpoint (auto_map) is never run here. {remedy}"
    return ValueError(f"{what} implemented are {', '.join(map(repr, known))}. {remedy}")
