"""From a checkpoint to a model: `PreTrainedModel.from_pretrained`, step by step.

1. a name becomes a folder, the folder a configuration and a list of tensors (only headers are read)
2. the model is built on the meta device: the whole tree, no memory
3. every name of the file is matched with a parameter; whatever does not fit is reported before anything is read
4. each tensor is read once, straight into memory that the model owns
5. parameters that the file does not hold are newly initialised, if the rules of `strict` allow it, and named
"""

from __future__ import annotations

import contextlib
import copy
import functools
import gc
import inspect
import logging
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from minitf.config import CONFIG_NAME, PretrainedConfig
from minitf.keywords import nearest_name
from weights_tools.common import overflows
from weights_tools.common import same_bits as same_bits
from weights_tools.files import PREFERENCE, Checkpoint, bundle_index, open_checkpoint
from weights_tools.hub import resolve
from weights_tools.mapping import CHOSEN, Plan, Source, plan
from weights_tools.memory_file import MemoryFile
from weights_tools.regular import escaped
from weights_tools.report import LoadReport, fold
from weights_tools.sentence_folder import followed, model_folder
from weights_tools.tables import recognise
from weights_tools.tables_gpt import layout_hint
from weights_tools.transaction import undisturbed

if TYPE_CHECKING:
    from minitf.pretrained import PreTrainedModel

__all__ = ["LoadError", "load_pretrained"]

logger = logging.getLogger("minitf.loading")

MAX_LAYERS = 10_000  # ten times the deepest published; building takes a millisecond for each
# The ends of names under which weights come, for the message alone.
WEIGHTS_SUFFIXES = (".safetensors", ".bin", ".pt", ".pth", ".h5", ".npz", ".index", ".index.json")


class LoadError(RuntimeError):
    """The checkpoint does not fit the model. The message: the reason and the folded report; `report` is the object."""

    def __init__(self, reason: str, report: LoadReport) -> None:
        report.refused = True
        super().__init__(f"{escaped(reason)}\n{report}")
        self.report = report


def load_pretrained(
    model_class: type[Any],
    name_or_path: str | os.PathLike[str] | None,
    *,
    config: PretrainedConfig | str | os.PathLike[str] | None,
    state_dict: Mapping[str, Tensor] | None,
    dtype: torch.dtype | str | None,
    attn_implementation: str | None,
    strict: bool | str,
    ignore_mismatched_sizes: bool,
    mmap: bool,
    dialect: str | None,
    hub: Mapping[str, Any],
    settings: dict[str, Any],
) -> Any:
    """See `PreTrainedModel.from_pretrained`, whose arguments these are."""
    if strict != "auto" and not isinstance(strict, bool):
        raise ValueError(f"strict = {strict!r}: expected 'auto', True or False.")
    refuse_idle(name_or_path, config, state_dict, hub)
    path = place_of(name_or_path, config, state_dict, hub)
    variant = hub["variant"]
    hub = {key: value for key, value in hub.items() if key not in ("subfolder", "variant")}  # `path` is that folder
    for_config, for_model = split_settings(model_class, settings)
    if attn_implementation is not None:
        for_config["attn_implementation"] = attn_implementation

    def load() -> PreTrainedModel:
        beside = config_beside(model_class, path) if config is None and path is not None else None
        final = resolve_config(model_class, beside or config, hub, for_config)
        weights = open_checkpoint(path, variant=variant) if state_dict is None and path else in_memory(state_dict)
        with weights as checkpoint:
            too_many_layers(model_class, final, checkpoint)
            final.dtype = str(choose_dtype(dtype, final, checkpoint)).removeprefix("torch.")
            model: PreTrainedModel = without_memory(model_class, final, for_model, checkpoint)
            parameters = dict(model.named_parameters())  # a tied parameter stands once, under its first name
            matched = match(model, parameters, checkpoint, dialect)
            report = make_report(model_class, path or checkpoint.path, checkpoint, matched, final)
            report.notes += place_notes(name_or_path, path, beside)
            judge(model, final, checkpoint, matched, report, strict, ignore_mismatched_sizes)
            refuse_numbers(checkpoint, matched, report)
            same_values(checkpoint, matched, final, report)
            read_parameters(model, checkpoint, matched, report, mmap)
        make_fresh(model, parameters, matched)
        model.tie_weights()
        model.check_ties()
        if path is not None:
            model.read_beside(path if path.is_dir() else path.parent)
        model.load_report = report
        return model.eval()

    with no_collection():
        return load() if path is None else undisturbed(path, load, (*PREFERENCE, CONFIG_NAME, "generation_config.json"))


@contextlib.contextmanager
def no_collection() -> Iterator[None]:
    """Loading makes many objects and no garbage: Python's collector would look through all of torch for none."""
    on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if on:
            gc.enable()


def refuse_idle(name_or_path: object, config: object, state_dict: object, hub: Mapping[str, Any]) -> None:
    """Refuse what says where to look for weights that are given.

    Raises:
        TypeError: such an argument; the message names it.
    """
    if state_dict is None:
        return
    searching = name_or_path is not None or isinstance(config, str | os.PathLike)  # for a configuration
    idle = [
        name
        for name, parameter in inspect.signature(resolve).parameters.items()
        if name in hub and hub[name] != parameter.default and (not searching or name == "variant")
    ]
    if idle:
        raise TypeError(f"{', '.join(idle)} would have no effect: the weights are given (state_dict=). Leave it out.")


def place_of(
    name_or_path: str | os.PathLike[str] | None, config: object, state_dict: object, hub: Mapping[str, Any]
) -> Path | None:
    """The local folder or file of a name; None without a name, if configuration and weights are given.

    Raises:
        TypeError: no name, and not both of `config` and `state_dict` either. FileNotFoundError: as `resolve`.
    """
    if name_or_path is None:
        if config is None or state_dict is None:
            raise TypeError("pretrained_model_name_or_path is None: give a name or a path, or config= and state_dict=.")
        return None
    is_path = isinstance(name_or_path, str | os.PathLike)
    return (bundle_index(name_or_path) if is_path else None) or resolve(name_or_path, **hub)


def match(
    model: PreTrainedModel, parameters: Mapping[str, Tensor], checkpoint: Checkpoint, dialect: str | None
) -> Plan:
    """What becomes of every name of the checkpoint and of every parameter."""
    matched = plan(
        checkpoint,
        {name: tuple(parameter.shape) for name, parameter in parameters.items()},
        dialect=dialect,
        base_prefix=model.base_model_prefix,
        other_heads=[part + "{rest}" for part in (*model.head_parts, *model.fresh_parts)],
        aliases=model.ties(),
        model_name=type(model).__name__,
    )
    for target, source in model.copies().items():  # a parameter of its own that begins as a copy: read twice
        if target in matched.missing and source in matched.sources:
            matched.missing.remove(target)
            matched.sources[target] = matched.sources[source]
    return matched


def place_notes(name_or_path: str | os.PathLike[str] | None, path: Path | None, beside: Path | None) -> list[str]:
    """What the report says of a place that is not simply the folder that was named."""
    notes = []
    if beside is not None and beside.is_file():
        notes.append(f"the configuration is {beside.name}, the form of the model's first release")
    outer = Path(name_or_path).expanduser() if name_or_path is not None else None
    if outer is not None and path is not None and outer.is_dir() and model_folder(outer) == path:
        notes.append(followed(outer, path))
    return notes


def in_memory(state_dict: Mapping[str, Tensor] | None) -> Checkpoint:
    """The given weights, to be matched and judged as those of a file are."""
    return Checkpoint(Path("state_dict"), [MemoryFile(state_dict or {})])


def without_memory(
    model_class: type[Any], config: PretrainedConfig, settings: Mapping[str, Any], checkpoint: Checkpoint
) -> Any:
    """The model on the meta device: the whole tree, no memory.

    Raises:
        LoadError: the configuration asks for a tensor that is larger than anything that can be counted.
    """
    try:
        with torch.device("meta"), WithoutFilling():
            return model_class(config, **settings)
    except (RuntimeError, TypeError) as error:  # torch has no class of its own for this
        if "overflow" not in str(error).lower():
            raise
        text = str(error).partition("\n")[0]
        reason = f"the configuration asks for a tensor of more bytes than can be counted ({text})."
        raise LoadError(reason, LoadReport(checkpoint=str(checkpoint.path))) from None


class WithoutFilling(TorchFunctionMode):
    """While active in this thread, tensors are not filled: on the meta device there is nothing to fill.

    Not only for speed: filling a meta tensor with `normal_` makes torch import its compiler, which takes a second.
    """

    IN_PLACE = (torch.Tensor.normal_, torch.Tensor.uniform_, torch.Tensor.zero_, torch.Tensor.fill_)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in self.IN_PLACE or getattr(func, "__module__", "") == "torch.nn.init":
            return args[0] if args else kwargs["tensor"]
        return func(*args, **kwargs)


def split_settings(model_class: type[Any], settings: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Keywords of `from_pretrained` that are keys of the configuration, and those that are the constructor's.

    Raises:
        TypeError: a keyword that is neither; the message names the nearest one.
    """
    from minitf.pretrained import unknown_setting

    config_class = model_class.config_class
    keys = {*config_class._fields(), *config_class._aliases(), "num_labels"}
    arguments = set(inspect.signature(model_class.__init__).parameters) - {"self", "config"}
    for name in settings:
        if name not in keys | arguments:
            loading = inspect.signature(model_class.from_pretrained).parameters
            raise unknown_setting(model_class, name, sorted({*keys, *arguments, *loading} - {"settings"}))
    return (
        {name: value for name, value in settings.items() if name in keys},
        {name: value for name, value in settings.items() if name not in keys},
    )


def resolve_config(
    model_class: type[Any],
    config: PretrainedConfig | str | os.PathLike[str] | None,
    hub: Mapping[str, Any],
    settings: Mapping[str, Any],
) -> PretrainedConfig:
    """The configuration to build with: a copy of the given one, or what the given path or name leads to."""
    if isinstance(config, PretrainedConfig):
        config = copy.deepcopy(config)
        for name, value in settings.items():
            setattr(config, name, value)
        return config
    if not isinstance(config, str | os.PathLike):
        raise TypeError(
            f"config is a {type(config).__module__}.{type(config).__qualname__}; expected a "
            f"{model_class.config_class.__name__} of minitf or a path. Another library's configuration becomes one by "
            f"{model_class.config_class.__name__}.from_dict(config.to_dict())."
        )
    loaded: PretrainedConfig = model_class.config_class.from_pretrained(config, **hub, **settings)
    return loaded


def config_beside(model_class: type[Any], path: Path) -> Path:
    """The folder, if it holds a `config.json`; else what the model's first release had in its place.

    Raises:
        FileNotFoundError: there is none.
    """
    folder = path if path.is_dir() else path.parent
    if (folder / CONFIG_NAME).exists():
        return folder
    original = folder / (model_class.config_class.original_file[0] or CONFIG_NAME)
    if original.is_file():
        return original
    if path.is_dir():
        raise no_model_in(folder)
    raise FileNotFoundError(
        f"{path} is a weights file without a {CONFIG_NAME} beside it: pass config=, an object or the path of a JSON "
        "file."
    )


def no_model_in(folder: Path) -> FileNotFoundError:
    """The error for a folder without `config.json`: what was looked for, what is there, what to do."""
    present = sorted(entry.name + ("" if entry.exists() else " (a link to nothing)") for entry in folder.iterdir())
    weights = [name for name in present if name.endswith(WEIGHTS_SUFFIXES)]
    found = f"it holds {', '.join(present[:12])}" if present else "it is empty"
    return FileNotFoundError(
        f"{folder} holds no {CONFIG_NAME}{'' if weights else ' and no weights'} ({found}): looked for {CONFIG_NAME} "
        f"and one of {', '.join(PREFERENCE)}. Name the folder that holds them, or a weights file and config=."
    )


def too_many_layers(model_class: type[Any], config: PretrainedConfig, checkpoint: Checkpoint) -> None:
    """Refuse a layer count that the file cannot hold before such a model is built: each layer has at least one tensor.

    Raises:
        LoadError: the configuration counts more layers than the file has tensors, or than `MAX_LAYERS`.
    """
    key = model_class.layers_rule[1]
    if not key:
        return
    wanted, report = getattr(config, key), LoadReport(checkpoint=str(checkpoint.path))
    if wanted > len(checkpoint):
        raise LoadError(
            f"the configuration has {key} = {wanted}, but the file holds only {len(checkpoint)} tensors.", report
        )
    if wanted > MAX_LAYERS:
        raise LoadError(f"the configuration has {key} = {wanted}: at most {MAX_LAYERS} are loaded.", report)


def choose_dtype(dtype: torch.dtype | str | None, config: PretrainedConfig, checkpoint: Checkpoint) -> torch.dtype:
    """The dtype asked for; by default that of the configuration, else of the first floating-point tensor.

    Raises:
        ValueError: not a floating-point dtype.
    """
    if dtype is None or dtype == "auto":
        if config.dtype is not None:
            return named_dtype(config.dtype)
        floating = (checkpoint[name].dtype for name in checkpoint if checkpoint[name].dtype.is_floating_point)
        return next(floating, torch.float32)
    return named_dtype(dtype)


def named_dtype(dtype: torch.dtype | str) -> torch.dtype:
    name = str(dtype).removeprefix("torch.")
    found = getattr(torch, name, None)
    if found not in (torch.float32, torch.float64, torch.float16, torch.bfloat16):
        raise ValueError(f"dtype = {dtype!r}: expected float32, float64, float16, bfloat16 or 'auto'.")
    assert isinstance(found, torch.dtype)
    return found


def make_report(
    model_class: type[Any], path: Path, checkpoint: Checkpoint, matched: Plan, config: PretrainedConfig
) -> LoadReport:
    """Everything there is to say about the match, before it is judged."""
    notes = [*checkpoint.notes, *matched.notes()]
    if config.architectures and model_class.__name__ not in config.architectures:
        # heads of two classes can have one name and another meaning (`classifier`), so the reader should know
        notes.append(f"saved as {', '.join(config.architectures)}, loaded as {model_class.__name__}")
    return LoadReport(
        checkpoint=str(path),
        files=[str(file) for file in checkpoint.files],
        format=checkpoint.format,
        dialect=matched.dialect,
        renamed=list(matched.renamed),
        dropped=list(matched.dropped),
        missing=list(matched.missing),
        unexpected=list(matched.unexpected),
        misshapen=list(matched.misshapen),
        config_unknown=config.unknown_keys,
        notes=notes,
    )


def judge(
    model: PreTrainedModel,
    config: PretrainedConfig,
    checkpoint: Checkpoint,
    matched: Plan,
    report: LoadReport,
    strict: bool | str,
    ignore_mismatched_sizes: bool,
) -> None:
    """Apply the rules of `strict`; log one line about what is newly initialised or left out.

    Raises:
        LoadError: the file does not fit by these rules.
    """
    name = type(model).__name__
    if matched.fits == 0:
        hint = dialect_hint(checkpoint, matched) or ": it is a checkpoint of something else."
        raise LoadError(f"no tensor of this file fits {name}{hint}", report)
    integers = [
        target
        for target, source in matched.sources.items()
        if not all(checkpoint[part].dtype.is_floating_point for part in matched.parts(source.name))
    ]
    if integers:
        raise LoadError(f"{fold(integers)[0]} is stored as integers; weights are floating point.", report)
    misshapen_trunk = [entry for entry in matched.misshapen if in_trunk(model, entry[0])]
    if misshapen_trunk or (matched.misshapen and not ignore_mismatched_sizes):
        raise LoadError(explain_shapes(model, config, matched, misshapen_trunk), report)
    refuse_heads(config, matched, report)
    missing_trunk = [target for target in matched.missing if in_trunk(model, target)]
    lines = []
    if matched.unexpected:
        lines.append(
            f"{len(matched.unexpected)} names in the file are not explained: {'; '.join(fold(matched.unexpected))}"
        )
    if missing_trunk:
        lines.append(f"{len(missing_trunk)} weights are missing in the file: {'; '.join(fold(missing_trunk))}")
    if lines and strict is not False:
        hint = dialect_hint(checkpoint, matched) or layer_hint(model, config, matched)
        raise LoadError(f"{name} cannot be loaded: " + ". ".join(lines) + hint, report)
    fresh = [*matched.missing, *(target for target, _, _ in matched.misshapen)]
    if fresh and strict is True:
        raise LoadError(f"strict=True, but the file does not hold {', '.join(fold(fresh))}.", report)
    elsewhere = getattr(model, "settings_of_generation", ())  # what an old config.json says to generate()
    for key, value in config.unknown_keys.items():
        near = nearest_name(key, config._fields())
        if near and value is not None and key not in elsewhere:
            logger.warning("config.json has the key %r, which has no effect%s", key, near)
    if matched.unexpected:
        left_out = escaped("; ".join(fold(matched.unexpected)))
        logger.warning("%s: left out, because no rule explains them: %s", name, left_out)
    if fresh:
        logger.warning(
            "%s: %s newly initialised: train before use.", name, ", ".join(fresh if len(fresh) < 9 else fold(fresh))
        )


def dialect_hint(checkpoint: Checkpoint, matched: Plan) -> str:
    """What the names say where the caller said something else; "" where he did not."""
    table, reason = recognise(checkpoint)
    if matched.reason != CHOSEN or table.name == matched.dialect:
        return ""
    return f". By its names the file is of the dialect {table.name!r} ({reason}), not {matched.dialect!r} as asked."


def refuse_heads(config: PretrainedConfig, matched: Plan, report: LoadReport) -> None:
    """A layout with an axis for the heads says how many there are; merged, any number has the same shape.

    Raises:
        LoadError: another number than the configuration's.
    """
    for heads, name in matched.heads.items():
        expected = config.num_attention_heads
        if heads != expected:
            raise LoadError(
                f"{name} has {heads} attention heads, but the configuration has num_attention_heads = {expected}.",
                report,
            )


def refuse_numbers(checkpoint: Checkpoint, matched: Plan, report: LoadReport) -> None:
    """Tensors that may only be left out because they change nothing.

    Raises:
        LoadError: one of them holds a number other than 0.
    """
    for name in matched.must_be_zero:
        if bool(checkpoint.read(name).any()):
            why = dict(matched.dropped)[name]
            raise LoadError(f"{name} holds numbers other than 0, and this model has no place for them ({why}).", report)


def in_trunk(model: PreTrainedModel, target: str) -> bool:
    """Whether a parameter belongs to the trunk, which a checkpoint must hold, and not to a head."""
    prefix = f"{model.base_model_prefix}." if model.base_model is not model else ""
    inner = target.removeprefix(prefix)
    return target.startswith(prefix) and not inner.startswith(model.fresh_parts)


def explain_shapes(
    model: PreTrainedModel,
    config: PretrainedConfig,
    matched: Plan,
    trunk: list[tuple[str, tuple[int, ...], tuple[int, ...]]],
) -> str:
    """The first misfit in the words of the configuration, if one of `size_rules` names it."""
    prefix = f"{model.base_model_prefix}." if model.base_model is not model else ""
    for target, on_disk, _ in trunk:
        keys = model.size_rules.get(target.removeprefix(prefix), ())
        for key, size in zip(keys, on_disk, strict=False):
            if getattr(config, key) != size:
                return (
                    f"the configuration has {key} = {getattr(config, key)}, but {target} in the file has the shape "
                    f"{list(on_disk)}: expected {key} = {size}."
                )
    target, on_disk, expected = (trunk or matched.misshapen)[0]
    hint = "" if trunk else " (ignore_mismatched_sizes=True initialises it anew)"
    layout = layout_hint(matched.dialect, matched.misshapen)
    return f"{target} has the shape {list(on_disk)} in the file and {list(expected)} in the model{hint}{layout}."


def layer_hint(model: PreTrainedModel, config: PretrainedConfig, matched: Plan) -> str:
    """What to do: another number of layers, another kind of positions, or a file that is incomplete."""
    layer, key = model.layers_rule
    start = layer.partition("{}")[0]

    def layers(names: Iterable[str]) -> set[str]:
        """The numbers of the layers that these names speak of."""
        return {name.partition(start)[2].partition(".")[0] for name in names if start and start in name}

    left_over, lacking = layers(matched.unexpected) - layers(matched.sources), layers(matched.missing)
    if left_over:
        return (
            f". The file has more layers than {key} = {getattr(config, key)}: if fewer are wanted, pass strict=False, "
            "which leaves the others out."
        )
    if lacking and not lacking & layers(matched.sources):
        return f". The file has fewer layers than {key} = {getattr(config, key)}."
    if any("distance_embedding" in name for name in (*matched.missing, *matched.unexpected)):
        return ". Compare position_embedding_type in config.json with the one that the file was trained with."
    return ". Is the file complete?" if matched.missing else "."


def same_values(checkpoint: Checkpoint, matched: Plan, config: PretrainedConfig, report: LoadReport) -> None:
    """Two names of one tied parameter must hold the same bits, or one of them would be lost without a word.

    One difference has a right answer: transformers 5.x unties the two names of the word scores' bias together with the
    matrix, and then only `decoder.bias` has an effect (and is trained). So that one is read, and the report says so.

    Raises:
        ValueError: they differ.
    """
    for alias, canonical in matched.duplicates:
        if same_bits(matched.numbers(alias, checkpoint.read), matched.numbers(canonical, checkpoint.read)):
            continue
        if not config.tie_word_embeddings and alias.endswith("decoder.bias"):
            target = next(target for target, source in matched.sources.items() if source.name == canonical)
            matched.sources[target] = Source(alias, matched.ops[alias])
            report.notes.append(f"{alias} is used: {canonical} holds other values, which have no effect when untied")
            continue
        raise ValueError(
            f"{checkpoint.path}: {alias} and {canonical} hold different values, but they are one parameter in this "
            "model" + (": load with tie_word_embeddings=False to keep both." if config.tie_word_embeddings else ".")
        )


def read_parameters(
    model: PreTrainedModel, checkpoint: Checkpoint, matched: Plan, report: LoadReport, mmap: bool
) -> None:
    """Replace the parameters on the meta device by the tensors of the file."""
    dtype = named_dtype(model.config.dtype)
    for target, (source, op) in matched.sources.items():
        parts = matched.parts(source)
        stored = checkpoint[parts[0]].dtype
        if stored != dtype:
            report.converted.append((target, str(stored).removeprefix("torch."), model.config.dtype))
        if mmap and stored != dtype:
            raise ValueError(
                f"mmap=True shares the file's own memory, which holds {stored}, but the model's dtype is {dtype}: "
                f"pass dtype={str(stored).removeprefix('torch.')!r} or mmap=False."
            )
        if mmap and (op.text or len(parts) > 1):
            raise ValueError(
                f"mmap=True shares the file's own memory, but {target} has another layout there (dialect "
                f"{matched.dialect!r}): pass mmap=False."
            )
        read = checkpoint.read_mapped if mmap else functools.partial(checkpoint.read, dtype=dtype)
        numbers = matched.numbers(source, read)
        if torch.finfo(dtype).max < torch.finfo(stored).max and bool(numbers.isinf().any()):
            refuse_overflow(matched.numbers(source, checkpoint.read), target, dtype, report)
        set_parameter(model, target, numbers)


def refuse_overflow(stored: Tensor, target: str, dtype: torch.dtype, report: LoadReport) -> None:
    """Numbers that became infinite in a smaller dtype; those that are infinite in the file stay so.

    Raises:
        LoadError: `stored` has finite numbers beyond `dtype`.
    """
    if overflows(stored, dtype):
        found, largest = str(stored.dtype).removeprefix("torch."), torch.finfo(dtype).max
        raise LoadError(
            f"{target} holds numbers of {found} that are infinite in {str(dtype).removeprefix('torch.')} (largest: "
            f"{largest:g}): pass dtype={found!r}" + (" or 'bfloat16'." if dtype is torch.float16 else "."),
            report,
        )


def make_fresh(model: PreTrainedModel, parameters: Mapping[str, nn.Parameter], matched: Plan) -> None:
    """Memory and fresh values for what the file does not hold, in the order of the module tree; zeros by a dialect."""
    fresh = {*matched.missing, *(target for target, _, _ in matched.misshapen)}
    dtype = named_dtype(model.config.dtype)
    for name in (*fresh, *matched.zeros):
        set_parameter(model, name, torch.zeros(parameters[name].shape, dtype=dtype, device="cpu"))
    model._fill(model, fresh)


def set_parameter(model: nn.Module, name: str, tensor: Tensor) -> None:
    owner, _, attribute = name.rpartition(".")
    setattr(model.get_submodule(owner), attribute, nn.Parameter(tensor))
