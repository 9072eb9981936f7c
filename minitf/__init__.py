"""minitf: BERT and GPT-2 written out by hand in PyTorch. Exact, never silent, one page per idea.

Public names resolve on first use (PEP 562), so `import minitf` costs `import torch` and little more, and
`minitf --help` does not even import torch. `_HOMES` below is the whole index of the package.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_BERT = (
    "BertForMaskedLM",
    "BertForMultipleChoice",
    "BertForNextSentencePrediction",
    "BertForPreTraining",
    "BertForQuestionAnswering",
    "BertForSequenceClassification",
    "BertForTokenClassification",
    "BertLMHeadModel",
    "BertModel",
    "BertPreTrainedModel",
)

_GPT2 = (
    "GPT2DoubleHeadsModel",
    "GPT2ForQuestionAnswering",
    "GPT2ForSequenceClassification",
    "GPT2ForTokenClassification",
    "GPT2LMHeadModel",
    "GPT2Model",
    "GPT2PreTrainedModel",
)

_AUTO = (
    "AutoConfig",
    "AutoModel",
    "AutoModelForCausalLM",
    "AutoModelForMaskedLM",
    "AutoModelForMultipleChoice",
    "AutoModelForNextSentencePrediction",
    "AutoModelForPreTraining",
    "AutoModelForQuestionAnswering",
    "AutoModelForSequenceClassification",
    "AutoModelForTokenClassification",
)

_HOMES = {
    "BertConfig": "minitf.config",
    "GPT2Config": "minitf.config",
    "PretrainedConfig": "minitf.config",
    "PreTrainedModel": "minitf.pretrained",
    **dict.fromkeys(_AUTO, "minitf.models.auto"),
    **dict.fromkeys(_BERT, "minitf.models.bert"),
    **dict.fromkeys(_GPT2, "minitf.models.gpt2"),
    "KVCache": "minitf.cache",
    "GenerationConfig": "minitf.generation.config",
    "AutoTokenizer": "minitf.tokenization.auto",
    "BatchEncoding": "minitf.tokenization",
    "BertTokenizer": "minitf.tokenization",
    "BertTokenizerFast": "minitf.tokenization",
    "GPT2Tokenizer": "minitf.tokenization",
    "GPT2TokenizerFast": "minitf.tokenization",
    "PreTrainedTokenizerFast": "minitf.tokenization",
    "Tokenizer": "minitf.tokenization",
    "LoadError": "minitf.loading",
    "LoadReport": "weights_tools.report",
}

__all__ = ["__version__", *sorted(_HOMES)]

if TYPE_CHECKING:  # what editors and type checkers see; the running program resolves names in __getattr__
    from minitf.cache import KVCache as KVCache
    from minitf.config import BertConfig as BertConfig
    from minitf.config import GPT2Config as GPT2Config
    from minitf.config import PretrainedConfig as PretrainedConfig
    from minitf.generation.config import GenerationConfig as GenerationConfig
    from minitf.loading import LoadError as LoadError
    from minitf.models.auto import AutoConfig as AutoConfig
    from minitf.models.auto import AutoModel as AutoModel
    from minitf.models.auto import AutoModelForCausalLM as AutoModelForCausalLM
    from minitf.models.auto import AutoModelForMaskedLM as AutoModelForMaskedLM
    from minitf.models.auto import AutoModelForMultipleChoice as AutoModelForMultipleChoice
    from minitf.models.auto import AutoModelForNextSentencePrediction as AutoModelForNextSentencePrediction
    from minitf.models.auto import AutoModelForPreTraining as AutoModelForPreTraining
    from minitf.models.auto import AutoModelForQuestionAnswering as AutoModelForQuestionAnswering
    from minitf.models.auto import AutoModelForSequenceClassification as AutoModelForSequenceClassification
    from minitf.models.auto import AutoModelForTokenClassification as AutoModelForTokenClassification
    from minitf.models.bert import BertForMaskedLM as BertForMaskedLM
    from minitf.models.bert import BertForMultipleChoice as BertForMultipleChoice
    from minitf.models.bert import BertForNextSentencePrediction as BertForNextSentencePrediction
    from minitf.models.bert import BertForPreTraining as BertForPreTraining
    from minitf.models.bert import BertForQuestionAnswering as BertForQuestionAnswering
    from minitf.models.bert import BertForSequenceClassification as BertForSequenceClassification
    from minitf.models.bert import BertForTokenClassification as BertForTokenClassification
    from minitf.models.bert import BertLMHeadModel as BertLMHeadModel
    from minitf.models.bert import BertModel as BertModel
    from minitf.models.bert import BertPreTrainedModel as BertPreTrainedModel
    from minitf.models.gpt2 import GPT2DoubleHeadsModel as GPT2DoubleHeadsModel
    from minitf.models.gpt2 import GPT2ForQuestionAnswering as GPT2ForQuestionAnswering
    from minitf.models.gpt2 import GPT2ForSequenceClassification as GPT2ForSequenceClassification
    from minitf.models.gpt2 import GPT2ForTokenClassification as GPT2ForTokenClassification
    from minitf.models.gpt2 import GPT2LMHeadModel as GPT2LMHeadModel
    from minitf.models.gpt2 import GPT2Model as GPT2Model
    from minitf.models.gpt2 import GPT2PreTrainedModel as GPT2PreTrainedModel
    from minitf.pretrained import PreTrainedModel as PreTrainedModel
    from minitf.tokenization import BatchEncoding as BatchEncoding
    from minitf.tokenization import BertTokenizer as BertTokenizer
    from minitf.tokenization import BertTokenizerFast as BertTokenizerFast
    from minitf.tokenization import GPT2Tokenizer as GPT2Tokenizer
    from minitf.tokenization import GPT2TokenizerFast as GPT2TokenizerFast
    from minitf.tokenization import PreTrainedTokenizerFast as PreTrainedTokenizerFast
    from minitf.tokenization import Tokenizer as Tokenizer
    from minitf.tokenization.auto import AutoTokenizer as AutoTokenizer
    from weights_tools.report import LoadReport as LoadReport


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        from difflib import get_close_matches

        near = get_close_matches(name, _HOMES, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise AttributeError(f"module 'minitf' has no attribute {name!r}{hint}")
    value = getattr(importlib.import_module(home), name)
    globals()[name] = value  # the next access does not come here
    return value


def __dir__() -> list[str]:
    return __all__
