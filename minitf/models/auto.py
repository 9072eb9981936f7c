"""Classes that choose a class: `AutoConfig`, `AutoModel`, `AutoModelFor...`.

What a checkpoint is, and which class it then gets, stands in the table of `minitf.architectures`. Nothing here imports
torch: the file of an architecture is imported when one of its classes is chosen.
"""

from __future__ import annotations

import copy
import importlib
import inspect
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn

from minitf.architectures import ARCHITECTURES, Architecture, described_type
from minitf.config import CONFIG_NAME, PretrainedConfig
from minitf.keywords import refuse_unknown, strict_keywords

if TYPE_CHECKING:
    import torch

__all__ = [
    "AutoClass",
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
]

REGISTERED_CONFIGS: dict[str, type[PretrainedConfig]] = {}
"""model_type -> configuration class, added by `AutoConfig.register`; goes before the table."""


# --------------------------------------------------------------------------------------------------------------------
# From names to classes


def config_class_named(model_type: str) -> type[PretrainedConfig] | None:
    """The configuration class of a `model_type`, or None."""
    if model_type in REGISTERED_CONFIGS:
        return REGISTERED_CONFIGS[model_type]
    if model_type not in ARCHITECTURES:
        return None
    module, _, name = ARCHITECTURES[model_type].config.partition(":")
    found: type[PretrainedConfig] = getattr(importlib.import_module(module), name)
    return found


def config_class_for(values: Mapping[str, Any], source: str) -> type[PretrainedConfig]:
    """The configuration class for the contents of a `config.json`.

    Args:
        values: the contents. source: what to call them in messages.

    Raises:
        ValueError: nothing in it names an architecture, or it names one that is not implemented.
    """
    chosen = config_class_named(described_type(values, source, REGISTERED_CONFIGS))
    assert chosen is not None  # `described_type` returns what is known
    return chosen


def row_of(config_class: type[PretrainedConfig]) -> Architecture | None:
    """The row of the table for a configuration class of minitf's own, or None."""
    name = f"{config_class.__module__}:{config_class.__qualname__}"
    return next((row for row in ARCHITECTURES.values() if row.config == name), None)


def choosing_only(name: str, ways: str) -> TypeError:
    """The error for an instance of a class that only chooses."""
    return TypeError(f"{name} chooses a class and has no instances: use {ways}.")


# --------------------------------------------------------------------------------------------------------------------
# Configurations


class AutoConfig:
    """Chooses the configuration class of a checkpoint; see `minitf.architectures` for the rule."""

    def __init__(self, config: object = None) -> None:
        raise choosing_only("AutoConfig", "AutoConfig.from_pretrained(folder) or AutoConfig.for_model('bert', ...)")

    @classmethod
    def for_model(cls, model_type: str, **settings: Any) -> PretrainedConfig:
        """A configuration of this `model_type`; `settings` as in its constructor.

        Raises:
            ValueError: a type that is not implemented. TypeError: an unknown setting.
        """
        return config_class_for({"model_type": _typed(model_type)}, "the call")(**settings)

    @classmethod
    def from_dict(
        cls, config_dict: Mapping[str, Any], *, source: str = "the dictionary", **overrides: Any
    ) -> PretrainedConfig:
        """A configuration from the contents of a `config.json`, as `PretrainedConfig.from_dict`.

        Raises:
            ValueError: no architecture that is implemented; a value that is refused. TypeError: an unknown override.
        """
        return config_class_for(config_dict, source).from_dict(config_dict, source=source, **overrides)

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | os.PathLike[str],
        *,
        cache_dir: str | os.PathLike[str] | None = None,
        revision: str = "main",
        subfolder: str = "",
        local_files_only: bool = False,
        token: str | bool | None = None,
        endpoint: str | None = None,
        **overrides: Any,
    ) -> PretrainedConfig:
        """Read the configuration of a folder, a JSON file or a model name, as `PretrainedConfig.from_pretrained`.

        Args:
            pretrained_model_name_or_path: a folder that holds `config.json`, a JSON file of any name, or a name on the
                hub.
            subfolder: the folder inside, where the files are.
            cache_dir, revision, local_files_only, token, endpoint: for names, see `weights_tools.hub.resolve`.
            **overrides: settings of the chosen class, e.g. `num_hidden_layers=10`.

        Raises:
            FileNotFoundError: no such file. ValueError: no architecture that is implemented; a value that is refused.
            TypeError: an unknown override.
        """
        hub: dict[str, Any] = {
            "cache_dir": cache_dir,
            "revision": revision,
            "subfolder": subfolder,
            "local_files_only": local_files_only,
            "token": token,
            "endpoint": endpoint,
        }
        values, _ = PretrainedConfig.get_config_dict(pretrained_model_name_or_path, **hub)
        chosen = config_class_for(values, _config_source(pretrained_model_name_or_path))
        return chosen.from_pretrained(pretrained_model_name_or_path, **hub, **overrides)

    @classmethod
    @strict_keywords
    def register(cls, model_type: str, config_class: type[PretrainedConfig], exist_ok: bool = False) -> None:
        """Add a configuration class of your own.

        Args:
            model_type: the name that its files carry; must be `config_class.model_type`.
            config_class: a subclass of `PretrainedConfig`.
            exist_ok: replace a class that is there already.

        Raises:
            TypeError: not a configuration class of minitf. ValueError: another `model_type`, or one that is taken.
        """
        _check_config_class(config_class)
        if not model_type or config_class.model_type != model_type:
            raise ValueError(
                f"model_type is {model_type!r}, but {config_class.__name__}.model_type is "
                f"{config_class.model_type!r}: both must be the name that stands in config.json."
            )
        taken = config_class_named(model_type)
        if taken is not None and taken is not config_class and not exist_ok:
            raise ValueError(
                f"model_type {model_type!r} belongs to {taken.__name__}: give {config_class.__name__} a model_type of "
                "its own, or pass exist_ok=True to replace it."
            )
        REGISTERED_CONFIGS[model_type] = config_class


def _typed(model_type: object) -> str:
    if isinstance(model_type, str) and model_type:
        return model_type
    known = ", ".join(map(repr, sorted({*ARCHITECTURES, *REGISTERED_CONFIGS})))
    raise ValueError(f"model_type = {model_type!r}: expected one of {known}.")


def _config_source(name_or_path: str | os.PathLike[str]) -> str:
    """What the messages call it: the file, if the folder is at hand, else the name as it was given."""
    path = Path(name_or_path).expanduser()
    return str(path / CONFIG_NAME if path.is_dir() else name_or_path)


def _check_config_class(config_class: object) -> None:
    if not (isinstance(config_class, type) and issubclass(config_class, PretrainedConfig)):
        raise TypeError(f"config_class is {config_class!r}; expected a subclass of minitf.PretrainedConfig.")


# --------------------------------------------------------------------------------------------------------------------
# Models


class AutoClass:
    """Base of the classes that choose a model class: one task each, see `minitf.architectures`."""

    registered: ClassVar[dict[type[PretrainedConfig], type[Any]]] = {}
    """Configuration class -> model class, added by `register`; goes before the table."""

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        cls.registered = {}

    def __init__(self, config: object = None) -> None:
        name = type(self).__name__
        raise choosing_only(name, f"{name}.from_pretrained(folder) or {name}.from_config(config)")

    @classmethod
    @strict_keywords
    def model_class(cls, config_class: type[PretrainedConfig]) -> type[Any]:
        """The class that is chosen for configurations of this class.

        Raises:
            ValueError: the architecture has no such head (the message names those that it has), or is not known.
        """
        if config_class in cls.registered:
            return cls.registered[config_class]
        row = row_of(config_class)
        if row is not None and cls.__name__ in row.classes:
            found: type[Any] = getattr(importlib.import_module(row.home), row.classes[cls.__name__])
            return found
        own = {auto.__name__: auto.registered[config_class] for auto in _all() if config_class in auto.registered}
        has = {**(row.classes if row else {}), **{name: found.__name__ for name, found in own.items()}}
        if not has:
            raise ValueError(
                f"{cls.__name__} knows no model class for {config_class.__name__} (model_type "
                f"{config_class.model_type!r}): add one by {cls.__name__}.register({config_class.__name__}, YourModel)."
            )
        listed = ", ".join(f"{name} ({found})" for name, found in has.items())
        raise ValueError(
            f"{cls.__name__}: the architecture {config_class.model_type!r} has no such class. It has {listed}."
        )

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | os.PathLike[str],
        *,
        config: PretrainedConfig | str | os.PathLike[str] | None = None,
        cache_dir: str | os.PathLike[str] | None = None,
        revision: str = "main",
        subfolder: str = "",
        variant: str | None = None,
        local_files_only: bool = False,
        token: str | bool | None = None,
        endpoint: str | None = None,
        **settings: Any,
    ) -> Any:
        """The model of a checkpoint, by the `from_pretrained` of the class that its configuration chooses.

        Args:
            pretrained_model_name_or_path: a folder, one weights file, or a name on the hub.
            config: a configuration object (copied) or the path of one; None = `config.json` beside the weights.
            subfolder, variant: the folder inside where the files are; "fp16" = the weights in model.fp16.safetensors.
            cache_dir, revision, local_files_only, token, endpoint: for names, see `weights_tools.hub.resolve`.
            **settings: everything else that `PreTrainedModel.from_pretrained` takes: `dtype`, `attn_implementation`,
                `strict`, `ignore_mismatched_sizes`, `output_loading_info`, ..., keys of the configuration to replace
                (`num_labels=5`), arguments of the model's constructor.

        Raises:
            FileNotFoundError: no such place, or no `config.json` and no weights in it.
            ValueError: an architecture that is not implemented, or one without this head.
            TypeError: an unknown setting, or a configuration of another library.
            RuntimeError: the weights do not fit the model.
        """
        hub: dict[str, Any] = {
            "cache_dir": cache_dir,
            "revision": revision,
            "local_files_only": local_files_only,
            "token": token,
            "endpoint": endpoint,
        }
        from weights_tools.hub import resolve

        path = resolve(pretrained_model_name_or_path, subfolder=subfolder, variant=variant, **hub)
        chosen = cls.model_class(_config_class_of(path, config, hub))
        return chosen.from_pretrained(path, config=config, variant=variant, **hub, **settings)

    @classmethod
    def from_config(
        cls,
        config: PretrainedConfig,
        *,
        dtype: torch.dtype | str | None = None,
        torch_dtype: torch.dtype | str | None = None,
        attn_implementation: str | None = None,
        **arguments: Any,
    ) -> Any:
        """A model with fresh weights, in training mode; `config` is copied.

        Args:
            config: of an architecture that has this head.
            dtype, torch_dtype: of the weights, drawn in it; None = `config.dtype`, else float32.
            attn_implementation: "sdpa", "eager" or a registered name; None = what `config` says.
            **arguments: further arguments of the chosen class's constructor (`add_pooling_layer=False`).

        Raises:
            TypeError: not a configuration of minitf; an unknown argument. ValueError: no such head; a bad value.
        """
        if not isinstance(config, PretrainedConfig):
            _refuse_config(config)
        if dtype is not None and torch_dtype is not None:
            raise TypeError("dtype and torch_dtype are two names of one argument: give one.")
        chosen = cls.model_class(type(config))
        known = [name for name in inspect.signature(chosen.__init__).parameters if name not in ("self", "config")]
        refuse_unknown(f"{chosen.__name__}", arguments, [*known, "dtype", "torch_dtype", "attn_implementation"])
        config = copy.deepcopy(config)
        if attn_implementation is not None:
            config.attn_implementation = attn_implementation
        return _built(chosen, config, dtype if dtype is not None else torch_dtype, arguments)

    @classmethod
    @strict_keywords
    def register(cls, config_class: type[PretrainedConfig], model_class: type[Any], exist_ok: bool = False) -> None:
        """Let configurations of this class choose a model class of your own, for this task.

        `config_class.model_type` is registered with `AutoConfig` too, if it is new. `config_class` may be one of
        minitf's own: `AutoModel.register(BertConfig, MyBertModel, exist_ok=True)` replaces `BertModel`.

        Args:
            config_class: a subclass of `PretrainedConfig` with a `model_type`.
            model_class: a subclass of `PreTrainedModel` whose `config_class` is that class.
            exist_ok: replace a class that is there already.

        Raises:
            TypeError: not such classes. ValueError: they do not belong together; or a class is there already.
        """
        from minitf.pretrained import PreTrainedModel

        _check_config_class(config_class)
        if not (isinstance(model_class, type) and issubclass(model_class, PreTrainedModel)):
            raise TypeError(f"model_class is {model_class!r}; expected a subclass of minitf.PreTrainedModel.")
        if model_class.config_class is not config_class:
            raise ValueError(
                f"{model_class.__name__}.config_class is {model_class.config_class.__name__}, but it is registered for "
                f"{config_class.__name__}: set config_class = {config_class.__name__} in the class."
            )
        row = row_of(config_class)
        there = cls.registered.get(config_class)
        taken = there.__name__ if there is not None else row.classes.get(cls.__name__) if row is not None else None
        if taken is not None and there is not model_class and not exist_ok:
            raise ValueError(
                f"{cls.__name__} chooses {taken} for {config_class.__name__} already: pass exist_ok=True to replace it."
            )
        if config_class_named(config_class.model_type) is not config_class:
            AutoConfig.register(config_class.model_type, config_class)
        cls.registered[config_class] = model_class


class AutoModel(AutoClass):
    """Chooses the trunk, without a head."""


class AutoModelForPreTraining(AutoClass):
    """Chooses the class with the heads of the original pre-training."""


class AutoModelForMaskedLM(AutoClass):
    """Chooses the class that fills in masked words."""


class AutoModelForCausalLM(AutoClass):
    """Chooses the class that predicts the next word."""


class AutoModelForNextSentencePrediction(AutoClass):
    """Chooses the class that says whether B follows A."""


class AutoModelForSequenceClassification(AutoClass):
    """Chooses the class that gives one label to a sequence."""


class AutoModelForMultipleChoice(AutoClass):
    """Chooses the class that scores several continuations."""


class AutoModelForTokenClassification(AutoClass):
    """Chooses the class that gives a label to each token."""


class AutoModelForQuestionAnswering(AutoClass):
    """Chooses the class that marks the start and the end of an answer."""


def _all() -> list[type[AutoClass]]:
    return AutoClass.__subclasses__()


def _refuse_config(config: object) -> NoReturn:
    raise TypeError(
        f"config is a {type(config).__module__}.{type(config).__qualname__}; expected a configuration of minitf or a "
        "path. Another library's configuration becomes one by AutoConfig.from_dict(config.to_dict())."
    )


def _config_class_of(path: Path, config: object, hub: Mapping[str, Any]) -> type[PretrainedConfig]:
    """The configuration class of a checkpoint at `path`, given the `config` argument of `from_pretrained`."""
    if isinstance(config, PretrainedConfig):
        return type(config)
    if config is not None and not isinstance(config, (str, os.PathLike)):
        _refuse_config(config)
    if config is None:
        config = path if path.is_dir() else path.parent
        if not (config / CONFIG_NAME).exists():
            from minitf.loading import no_model_in

            if path.is_dir():
                raise no_model_in(path)
            raise FileNotFoundError(
                f"{path} is a weights file without a {CONFIG_NAME} beside it: pass config=, an object or the path of a "
                "JSON file."
            )
    values, _ = PretrainedConfig.get_config_dict(config, **hub)
    return config_class_for(values, _config_source(config))


def _built(
    model_class: type[Any],
    config: PretrainedConfig,
    dtype: torch.dtype | str | None,
    arguments: Mapping[str, Any],
) -> Any:
    import torch

    from minitf.loading import named_dtype

    wanted = dtype if dtype is not None else config.dtype
    if wanted is None:
        return model_class(config, **arguments)
    chosen = named_dtype(wanted)
    config.dtype = str(chosen)
    before = torch.get_default_dtype()
    torch.set_default_dtype(chosen)  # drawn in this dtype, as transformers does: rounding later gives other weights
    try:
        return model_class(config, **arguments)
    finally:
        torch.set_default_dtype(before)
