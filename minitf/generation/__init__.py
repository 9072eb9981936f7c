"""Text generation: `model.generate(...)`, its settings, and each strategy as a loop of its own.

Names resolve on first use, so a model that is never asked to generate does not pay for this package.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from minitf.keywords import nearest_name

_NAMES = {
    "config": (
        "GenerationConfig", "UnknownSettingError",
    ),
    "mixin": (
        "GenerationMixin",
    ),
    "outputs": (
        "BeamSampleDecoderOnlyOutput", "BeamSearchDecoderOnlyOutput", "ContrastiveSearchDecoderOnlyOutput",
        "GenerateBeamDecoderOnlyOutput", "GenerateDecoderOnlyOutput", "GreedySearchDecoderOnlyOutput",
        "SampleDecoderOnlyOutput",
    ),
    "strategies": (
        "STRATEGIES",
    ),
    "processors": (
        "ExponentialDecayLengthPenalty", "ForcedBOSTokenLogitsProcessor", "ForcedEOSTokenLogitsProcessor",
        "HammingDiversityLogitsProcessor", "InfNanRemoveLogitsProcessor", "LogitNormalization", "LogitsProcessor",
        "LogitsProcessorList", "MinLengthLogitsProcessor", "MinNewTokensLengthLogitsProcessor",
        "NoBadWordsLogitsProcessor", "NoRepeatNGramLogitsProcessor", "PrefixConstrainedLogitsProcessor",
        "RepetitionPenaltyLogitsProcessor", "SequenceBiasLogitsProcessor", "SuppressTokensAtBeginLogitsProcessor",
        "SuppressTokensLogitsProcessor", "UnbatchedClassifierFreeGuidanceLogitsProcessor",
    ),
    "warpers": (
        "EpsilonLogitsWarper", "EtaLogitsWarper", "MinPLogitsWarper", "TemperatureLogitsWarper", "TopHLogitsWarper",
        "TopKLogitsWarper", "TopPLogitsWarper", "TypicalLogitsWarper",
    ),
    "stopping": (
        "EosTokenCriteria", "MaxLengthCriteria", "MaxTimeCriteria", "StopStringCriteria", "StoppingCriteria",
        "StoppingCriteriaList",
    ),
    "streamers": (
        "BaseStreamer", "CallbackStreamer", "TextIteratorStreamer", "TextStreamer",
    ),
    "constraints": (
        "Constraint", "DisjunctiveConstraint", "PhrasalConstraint",
    ),
}  # fmt: skip
_HOMES = {name: home for home, names in _NAMES.items() for name in names}

__all__ = [*sorted(_HOMES)]

if TYPE_CHECKING:  # what editors and type checkers see; the running program resolves names in __getattr__
    from minitf.generation.config import GenerationConfig as GenerationConfig
    from minitf.generation.config import UnknownSettingError as UnknownSettingError
    from minitf.generation.constraints import Constraint as Constraint
    from minitf.generation.constraints import DisjunctiveConstraint as DisjunctiveConstraint
    from minitf.generation.constraints import PhrasalConstraint as PhrasalConstraint
    from minitf.generation.mixin import GenerationMixin as GenerationMixin
    from minitf.generation.outputs import BeamSampleDecoderOnlyOutput as BeamSampleDecoderOnlyOutput
    from minitf.generation.outputs import BeamSearchDecoderOnlyOutput as BeamSearchDecoderOnlyOutput
    from minitf.generation.outputs import ContrastiveSearchDecoderOnlyOutput as ContrastiveSearchDecoderOnlyOutput
    from minitf.generation.outputs import GenerateBeamDecoderOnlyOutput as GenerateBeamDecoderOnlyOutput
    from minitf.generation.outputs import GenerateDecoderOnlyOutput as GenerateDecoderOnlyOutput
    from minitf.generation.outputs import GreedySearchDecoderOnlyOutput as GreedySearchDecoderOnlyOutput
    from minitf.generation.outputs import SampleDecoderOnlyOutput as SampleDecoderOnlyOutput
    from minitf.generation.processors import ExponentialDecayLengthPenalty as ExponentialDecayLengthPenalty
    from minitf.generation.processors import ForcedBOSTokenLogitsProcessor as ForcedBOSTokenLogitsProcessor
    from minitf.generation.processors import ForcedEOSTokenLogitsProcessor as ForcedEOSTokenLogitsProcessor
    from minitf.generation.processors import HammingDiversityLogitsProcessor as HammingDiversityLogitsProcessor
    from minitf.generation.processors import InfNanRemoveLogitsProcessor as InfNanRemoveLogitsProcessor
    from minitf.generation.processors import LogitNormalization as LogitNormalization
    from minitf.generation.processors import LogitsProcessor as LogitsProcessor
    from minitf.generation.processors import LogitsProcessorList as LogitsProcessorList
    from minitf.generation.processors import MinLengthLogitsProcessor as MinLengthLogitsProcessor
    from minitf.generation.processors import MinNewTokensLengthLogitsProcessor as MinNewTokensLengthLogitsProcessor
    from minitf.generation.processors import NoBadWordsLogitsProcessor as NoBadWordsLogitsProcessor
    from minitf.generation.processors import NoRepeatNGramLogitsProcessor as NoRepeatNGramLogitsProcessor
    from minitf.generation.processors import PrefixConstrainedLogitsProcessor as PrefixConstrainedLogitsProcessor
    from minitf.generation.processors import RepetitionPenaltyLogitsProcessor as RepetitionPenaltyLogitsProcessor
    from minitf.generation.processors import SequenceBiasLogitsProcessor as SequenceBiasLogitsProcessor
    from minitf.generation.processors import (
        SuppressTokensAtBeginLogitsProcessor as SuppressTokensAtBeginLogitsProcessor,
    )
    from minitf.generation.processors import SuppressTokensLogitsProcessor as SuppressTokensLogitsProcessor
    from minitf.generation.processors import (
        UnbatchedClassifierFreeGuidanceLogitsProcessor as UnbatchedClassifierFreeGuidanceLogitsProcessor,
    )
    from minitf.generation.stopping import EosTokenCriteria as EosTokenCriteria
    from minitf.generation.stopping import MaxLengthCriteria as MaxLengthCriteria
    from minitf.generation.stopping import MaxTimeCriteria as MaxTimeCriteria
    from minitf.generation.stopping import StoppingCriteria as StoppingCriteria
    from minitf.generation.stopping import StoppingCriteriaList as StoppingCriteriaList
    from minitf.generation.stopping import StopStringCriteria as StopStringCriteria
    from minitf.generation.strategies import STRATEGIES as STRATEGIES
    from minitf.generation.streamers import BaseStreamer as BaseStreamer
    from minitf.generation.streamers import CallbackStreamer as CallbackStreamer
    from minitf.generation.streamers import TextIteratorStreamer as TextIteratorStreamer
    from minitf.generation.streamers import TextStreamer as TextStreamer
    from minitf.generation.warpers import EpsilonLogitsWarper as EpsilonLogitsWarper
    from minitf.generation.warpers import EtaLogitsWarper as EtaLogitsWarper
    from minitf.generation.warpers import MinPLogitsWarper as MinPLogitsWarper
    from minitf.generation.warpers import TemperatureLogitsWarper as TemperatureLogitsWarper
    from minitf.generation.warpers import TopHLogitsWarper as TopHLogitsWarper
    from minitf.generation.warpers import TopKLogitsWarper as TopKLogitsWarper
    from minitf.generation.warpers import TopPLogitsWarper as TopPLogitsWarper
    from minitf.generation.warpers import TypicalLogitsWarper as TypicalLogitsWarper


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'minitf.generation' has no attribute {name!r}{nearest_name(name, _HOMES)}")
    value = getattr(importlib.import_module(f"minitf.generation.{home}"), name)
    globals()[name] = value  # the next access does not come here
    return value


def __dir__() -> list[str]:
    return __all__
