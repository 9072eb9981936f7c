"""The two sides that `minitf.parity.verify` compares: one class of minitf and the same of transformers, loaded.

Each library reads the file by itself, so that a difference in reading is found. Where transformers cannot read it (a
foreign dialect or container), its model gets minitf's state dict, and the report says so.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from minitf.architectures import Architecture
from minitf.loading import LoadError, named_dtype, same_bits
from minitf.parity.noise import difference
from minitf.parity.verify_report import DIFFERS, NOT_APPLICABLE, Row
from minitf.pretrained import PreTrainedModel

__all__ = [
    "ATTENTION",
    "Pair",
    "Plan",
    "converted",
    "decodes",
    "first_line",
    "import_transformers",
    "known_difference",
    "load_pair",
    "quiet",
    "use",
    "weights_row",
]

ATTENTION = ("eager", "sdpa")
UNUSED = "cls.predictions.bias"  # README, "Differences from transformers": the bias with two names

# What the installed transformers computes otherwise on purpose (README, "Differences from transformers"): the condition
# on the configuration, the dtype and the attention function, and the reason.
Condition = Callable[[Any, str, str], bool]
KNOWN_DIFFERENCES: tuple[tuple[Condition, str], ...] = (
    (
        lambda config, dtype, attention: getattr(config, "position_embedding_type", "absolute") != "absolute",
        "position_embedding_type: transformers 5 has absolute positions only, and ignores the key",
    ),
    (
        lambda config, dtype, attention: bool(config.pruned_heads),
        "pruned_heads: transformers 5 cannot prune, and ignores the key",
    ),
    (
        lambda config, dtype, attention: (
            bool(getattr(config, "reorder_and_upcast_attn", False))
            and attention == "sdpa"
            and dtype in ("bfloat16", "float16")
        ),
        "reorder_and_upcast_attn: transformers ignores it under sdpa",
    ),
)


@dataclass(frozen=True)
class Plan:
    """The arguments of `verify` as everything below needs them, and the notes that come up.

    config: what minitf makes of the configuration; config_file: its file, if it is not the folder's.
    """

    folder: Path
    config: Any
    config_file: str | Path | None
    dialect: str | None
    dtypes: tuple[str, ...]
    paddings: tuple[str, ...]
    beams: dict[str, int]
    sizes: dict[str, int]
    notes: list[str] = field(
        default_factory=lambda: ["compared at tokens: what stands at padding differs on purpose and is no result"]
    )

    def note(self, text: str) -> None:
        if text not in self.notes:
            self.notes.append(text)


def import_transformers() -> Any:
    """The installed transformers.

    Raises:
        ImportError: there is none, or one before 5.
    """
    try:
        import transformers
    except ImportError as error:
        raise ImportError(
            f"verify compares with the installed transformers, which cannot be imported ({error}): "
            "pip install transformers"
        ) from error
    if int(transformers.__version__.split(".")[0]) < 5:
        raise ImportError(
            f"verify compares with transformers 5 or newer, and {transformers.__version__} is installed: "
            "pip install --upgrade transformers"
        )
    return transformers


@contextlib.contextmanager
def quiet(transformers: Any) -> Iterator[None]:
    """transformers without its progress bars and warnings: what they say is a row here."""
    log = transformers.utils.logging
    level, bars = log.get_verbosity(), log.is_progress_bar_enabled()
    log.set_verbosity(log.CRITICAL)
    log.disable_progress_bar()
    try:
        yield
    finally:
        log.set_verbosity(level)
        if bars:
            log.enable_progress_bar()


@dataclass
class Pair:
    """One class in both libraries, in the dtype of the file.

    Attributes:
        ours, theirs: the models, in eval mode. missing: names that transformers did not find in the file.
        handed: why transformers' model got the weights from minitf's; "" = it has read them by itself.
    """

    ours: Any
    theirs: Any
    missing: list[str]
    handed: str = ""


def converted(model: Any, dtype: str) -> Any:
    """A copy of a model in another dtype, or the model itself if that is its own: what is set on it must be set again
    by whoever uses it next."""
    wanted = named_dtype(dtype)
    return model if model.dtype == wanted else copy.deepcopy(model).to(wanted)


def _load_ours(row: Architecture, name: str, plan: Plan) -> tuple[Any, dict[str, Any]]:
    """(the model, arguments of the constructor that both sides need)."""
    import minitf

    load = getattr(minitf, name).from_pretrained
    settings: dict[str, Any] = {"config": plan.config_file, "dialect": plan.dialect, "strict": True}
    try:
        return load(plan.folder, **settings), {}
    except LoadError as error:
        if name != row.classes["AutoModel"] or not error.report.missing:
            raise
        if not all(target.startswith("pooler.") for target in error.report.missing):
            raise
    plan.note(f"{name} without its pooler, which the file does not hold")
    return load(plan.folder, **settings, add_pooling_layer=False), {"add_pooling_layer": False}


def load_pair(transformers: Any, row: Architecture, name: str, plan: Plan) -> Pair:
    """Both models, each library reading the file by itself; where transformers cannot, it gets minitf's state dict.

    Raises:
        LoadError, ValueError: minitf does not find this class in the file, or not with this configuration.
    """
    ours, arguments = _load_ours(row, name, plan)
    their_class = getattr(transformers, name)
    dialect = ours.load_report.dialect
    why = f"the names in the file are of the dialect {dialect!r}"
    if dialect.startswith("hf"):
        try:
            theirs, info = their_class.from_pretrained(
                plan.folder, dtype="auto", local_files_only=True, output_loading_info=True, **arguments
            )
        except Exception as error:  # whatever it cannot read: the message is passed on
            why = f"{type(error).__name__}: {first_line(error)}"
        else:
            missing = sorted({*info["missing_keys"], *(entry[0] for entry in info["mismatched_keys"])})
            if dialect == "hf" or not missing:
                return Pair(ours, theirs.eval(), missing)
    values = {key: value for key, value in ours.config.to_dict().items() if key != "model_type"}
    theirs = their_class(transformers.AutoConfig.for_model(ours.config.model_type, **values), **arguments)
    theirs.to(ours.dtype).load_state_dict(ours.state_dict())
    return Pair(ours, theirs.eval(), [], why)


def first_line(error: Exception) -> str:
    """The first line of its message."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), "")


def weights_row(name: str, pair: Pair, plan: Plan) -> Row:
    """Every tensor of the two state dicts: name, shape, dtype, bits."""
    row = Row("weights", name, str(pair.ours.dtype).removeprefix("torch."))
    if pair.handed:
        plan.note("transformers got the weights from minitf, by state dict, because it cannot read the file")
        return replace(row, result=NOT_APPLICABLE, where=f"handed over, not read by transformers: {pair.handed}")
    ours, theirs = pair.ours.state_dict(), pair.theirs.state_dict()
    if UNUSED in ours and not pair.ours.config.tie_word_embeddings:
        plan.note(f"weights: without {UNUSED}, which has no effect in transformers when the embeddings are not tied")
        del ours[UNUSED], theirs[UNUSED]
    absent = f"; transformers did not find {', '.join(pair.missing)}" if pair.missing else ""
    if ours.keys() != theirs.keys():
        only = ", ".join(sorted({*ours} ^ {*theirs}))
        return replace(row, result=DIFFERS, where=f"on one side only: {only}{absent}")
    unlike = [key for key, value in ours.items() if not same_bits(value.contiguous(), theirs[key].contiguous())]
    if not unlike:
        return row
    for key in unlike:
        mine, other = (f"{list(x.shape)} {str(x.dtype).removeprefix('torch.')}" for x in (ours[key], theirs[key]))
        if mine != other:
            where = f"{key} is {mine} in minitf, {other} in transformers{absent}"
            return replace(row, result=DIFFERS, where=where)
    apart = {key: difference(key, ours[key], theirs[key], ours[key].dtype) for key in unlike}
    key, worst = max(apart.items(), key=lambda entry: entry[1].max_abs)
    where = (
        f"{len(unlike)} of {len(ours)} tensors; {key} at {list(worst.position)}: {worst.found:.7g} in minitf, "
        f"{worst.expected:.7g} in transformers{absent}"
    )
    return replace(row, result=DIFFERS, difference=worst.max_abs, where=where)


def known_difference(config: Any, dtype: str = "", attention: str = "") -> str:
    """Why transformers computes something else on purpose; "" = it does not."""
    return next((reason for condition, reason in KNOWN_DIFFERENCES if condition(config, dtype, attention)), "")


def use(attention: str, *models: Any) -> None:
    """Let the models, of either library, compute with this attention function."""
    for model in models:
        if isinstance(model, PreTrainedModel):
            model.config.attn_implementation = attention
        else:
            model.set_attn_implementation(attention)


def decodes(config: Any) -> bool:
    """Whether a token sees only those before it."""
    return config.model_type == "gpt2" or bool(config.is_decoder)
