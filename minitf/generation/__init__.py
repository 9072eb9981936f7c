"""Text generation: `model.generate(...)`, its settings, and each strategy as a loop of its own.

Names resolve on first use, so a model that is never asked to generate does not pay for this package.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from minitf.keywords import nearest_name

_HOMES = {
    "GenerationConfig": "config",
    "GenerationMixin": "mixin",
    "UnknownSettingError": "config",
    **dict.fromkeys(
        (
            "BeamSampleDecoderOnlyOutput", "BeamSearchDecoderOnlyOutput", "ContrastiveSearchDecoderOnlyOutput",
            "GenerateBeamDecoderOnlyOutput", "GenerateDecoderOnlyOutput", "GreedySearchDecoderOnlyOutput",
            "SampleDecoderOnlyOutput",
        ),
        "outputs",
    ),
    "STRATEGIES": "strategies",
}  # fmt: skip

__all__ = [*sorted(_HOMES)]

if TYPE_CHECKING:  # what editors and type checkers see; the running program resolves names in __getattr__
    from minitf.generation.config import GenerationConfig as GenerationConfig
    from minitf.generation.config import UnknownSettingError as UnknownSettingError
    from minitf.generation.mixin import GenerationMixin as GenerationMixin
    from minitf.generation.outputs import BeamSampleDecoderOnlyOutput as BeamSampleDecoderOnlyOutput
    from minitf.generation.outputs import BeamSearchDecoderOnlyOutput as BeamSearchDecoderOnlyOutput
    from minitf.generation.outputs import ContrastiveSearchDecoderOnlyOutput as ContrastiveSearchDecoderOnlyOutput
    from minitf.generation.outputs import GenerateBeamDecoderOnlyOutput as GenerateBeamDecoderOnlyOutput
    from minitf.generation.outputs import GenerateDecoderOnlyOutput as GenerateDecoderOnlyOutput
    from minitf.generation.outputs import GreedySearchDecoderOnlyOutput as GreedySearchDecoderOnlyOutput
    from minitf.generation.outputs import SampleDecoderOnlyOutput as SampleDecoderOnlyOutput
    from minitf.generation.strategies import STRATEGIES as STRATEGIES


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'minitf.generation' has no attribute {name!r}{nearest_name(name, _HOMES)}")
    value = getattr(importlib.import_module(f"minitf.generation.{home}"), name)
    globals()[name] = value  # the next access does not come here
    return value


def __dir__() -> list[str]:
    return __all__
