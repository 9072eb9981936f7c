"""`verify(folder)`: a checkpoint in minitf and in the installed transformers, side by side, and a parity statement.

For every class that the checkpoint serves, with the same inputs and on the same machine:

    weights        the state dicts, each library having read the file by itself
    forward        every hidden state and output, for each dtype, attention function and padding
    cache          decoders: a prompt and then tokens with its cache, against transformers doing the same
    cache = whole  the same, against transformers reading all tokens at once
    greedy, beams  decoders: the tokens
    tokenizer      the ids of some texts

A row passes if it is equal bit by bit, or if the difference is at most `MULTIPLE` times the noise floor, which is how
far transformers' own result is from its own result in float64 (`minitf.parity.noise`). The rows in float64 are the
sharpest: the floor is about 1e-15 there, and every mistake in the mathematics is far above it.

transformers is imported when this runs, by `verify_models`, and nowhere else in the library.
"""

from __future__ import annotations

import contextlib
import hashlib
import platform
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from minitf import __version__
from minitf.architectures import ARCHITECTURES, Architecture
from minitf.loading import LoadError, named_dtype
from minitf.models.auto import AutoConfig
from minitf.parity.noise import Floor
from minitf.parity.verify_inputs import Batch, by_steps, compare, floors_of, make_batch, of_tokens_only, outputs
from minitf.parity.verify_models import (
    ATTENTION,
    Pair,
    Plan,
    converted,
    decodes,
    first_line,
    import_transformers,
    known_difference,
    load_pair,
    quiet,
    use,
    weights_row,
)
from minitf.parity.verify_report import DIFFERS, NOT_APPLICABLE, Row, VerifyReport
from minitf.parity.verify_tokens import generation_rows, tokenizer_rows
from weights_tools import open_checkpoint, resolve

__all__ = ["DTYPES", "WrongCall", "verify"]

DTYPES = ("float32", "float64", "bfloat16")
TOKENS = 32
PADDINGS = ("none", "right", "left")
BEAMS = {"greedy": 1, "4 beams": 4}
STRICTLY = "strict=True, but "
"""How the error of a strict load begins; `strict` is nothing that the caller of `verify` has said."""


class WrongCall(ValueError):
    """An argument of `verify` that does not fit, or not this checkpoint; the command ends with exit code 2."""


def verify(
    folder: str | Path,
    *,
    class_name: str | None = None,
    dtypes: Sequence[str] | None = None,
    quick: bool = False,
    tokens: int | None = None,
    batch: int = 3,
    seed: int = 0,
    threads: int = 1,
    config: str | Path | None = None,
    dialect: str | None = None,
    on_row: Callable[[Row], None] | None = None,
) -> VerifyReport:
    """Compare a checkpoint in minitf with the installed transformers; see the head of this file.

    Args:
        folder: the checkpoint: a folder, or a name in the local hub cache. Nothing is downloaded.
        class_name: only this class; None = the classes that config.json names, the trunk, and every class whose head
            the file holds.
        dtypes: of "float32", "float64", "bfloat16", "float16"; None = the first three, of `quick` the first.
        quick: only the class that config.json names first, padding on the left, and no beams.
        tokens: length of the rows of each input; None = 32, or what the model reads if that is less. batch: their
            number. seed: of the random tokens: the same, the same.
        threads: of torch, while it runs. With one, sums are added in one order, and equal programs give equal bits.
        config: the file of the configuration, if the folder has no config.json.
        dialect: whose names the weights have, as in `from_pretrained`; None = recognised.
        on_row: called with each row as it is found.

    Returns:
        The report. `report.ok` says whether every row is identical or within the noise.

    Raises:
        WrongCall: a class that is unknown, or that the file does not serve; an unknown dtype; sizes that the model
            cannot read.
        ImportError: transformers is missing or older than 5.
        FileNotFoundError, ValueError, RuntimeError: minitf cannot load the checkpoint (as `from_pretrained`).
    """
    transformers = import_transformers()
    place = resolve(folder, local_files_only=True)
    found = AutoConfig.from_pretrained(place if config is None else config, local_files_only=True)
    row = ARCHITECTURES[found.model_type]
    tokens = min(TOKENS, found.max_position_embeddings) if tokens is None else tokens
    plan = Plan(
        folder=place,
        config=found,
        config_file=config,
        dialect=dialect,
        dtypes=tuple(dtypes or (DTYPES[:1] if quick else DTYPES)),
        paddings=PADDINGS[-1:] if quick else PADDINGS,  # on the left more mistakes show than on the right
        beams=dict(list(BEAMS.items())[: 1 if quick else None]),
        sizes={"rows": batch, "tokens": tokens, "seed": seed},
    )
    _check(plan, threads)
    names = _classes(row, found, class_name, quick)
    rows: list[Row] = []
    with _threads(threads), quiet(transformers):
        for one in _rows(transformers, row, names, plan):
            rows.append(one)
            if on_row is not None:
                on_row(one)
    return VerifyReport(
        rows=rows,
        versions=versions(transformers),
        checkpoint=Path(place).resolve().name if Path(str(folder)).expanduser().exists() else str(folder),
        files=digests(place, config),
        settings={
            "classes": list(
                dict.fromkeys(one.name for one in rows if one.check == "forward" and one.result != NOT_APPLICABLE)
            ),
            "dtypes": list(plan.dtypes),
            "attention": list(ATTENTION),
            "padding": list(plan.paddings),
            "tokens": tokens,
            "batch": batch,
            "seed": seed,
            "threads": threads,
        },
        notes=plan.notes,
    )


def versions(transformers: Any) -> dict[str, str]:
    """What the numbers depend on."""
    return {
        "minitf": __version__,
        "transformers": transformers.__version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "cpu": f"{_processor()}, {torch.backends.cpu.get_cpu_capability()}",
    }


def digests(folder: Path, config: str | Path | None) -> dict[str, str]:
    """SHA-256 of the weights files that are read, and of the configuration."""
    with open_checkpoint(folder) as checkpoint:
        files = [Path(file) for file in checkpoint.files]
    files.append(Path(config) if config is not None else (folder if folder.is_dir() else folder.parent) / "config.json")
    found = {}
    for file in files:
        digest = hashlib.sha256()
        with file.open("rb") as stream:
            while piece := stream.read(1 << 20):
                digest.update(piece)
        found[file.name] = digest.hexdigest()
    return found


def _processor() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _check(plan: Plan, threads: int) -> None:
    for name in plan.dtypes:
        try:
            named_dtype(name)
        except ValueError as error:
            raise WrongCall(str(error)) from None
    numbers = {
        "tokens": (plan.sizes["tokens"], 2),
        "batch": (plan.sizes["rows"], 1),
        "seed": (plan.sizes["seed"], 0),
        "threads": (threads, 1),
    }
    for name, (value, least) in numbers.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise WrongCall(f"{name} = {value!r}: expected an integer of {least} or more.")
    longest = plan.config.max_position_embeddings
    if plan.sizes["tokens"] > longest:
        raise WrongCall(
            f"tokens = {plan.sizes['tokens']}, but this model reads {longest} (max_position_embeddings): ask for fewer."
        )


def _classes(row: Architecture, config: Any, wanted: str | None, quick: bool) -> dict[str, bool]:
    """Class name -> whether it was asked for by name (by the caller or by config.json): others may turn out not to be
    served."""
    known = list(dict.fromkeys([*row.classes.values(), *row.others]))
    if wanted is not None:
        if wanted not in known:
            raise WrongCall(
                f"class {wanted!r}: this checkpoint is a {config.model_type}; expected one of {', '.join(known)}."
            )
        return {wanted: True}
    named = dict.fromkeys(config.architectures or [], True)
    trunk = row.classes["AutoModel"]
    if quick:
        return {next(iter(named), trunk): True}
    # A BERT that sees every token predicts no next word, though its file fits that class.
    skipped = set() if decodes(config) else {row.classes["AutoModelForCausalLM"]}
    return {
        trunk: True,
        **named,
        **{name: False for name in known if name not in named and name not in {trunk} | skipped},
    }


@contextlib.contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


# --------------------------------------------------------------------------------------------------------------------
# The rows


def _rows(transformers: Any, row: Architecture, names: dict[str, bool], plan: Plan) -> Iterator[Row]:
    for name, asked in names.items():
        lacking = [
            library
            for library, there in (
                ("minitf", name in (*row.classes.values(), *row.others)),
                ("transformers", hasattr(transformers, name)),
            )
            if not there
        ]
        reason = f"{' and '.join(lacking)}: no such class" if lacking else known_difference(plan.config)
        if reason:
            yield Row("weights", name, result=NOT_APPLICABLE, where=reason)
            continue
        try:
            pair = load_pair(transformers, row, name, plan)
        except (LoadError, ValueError) as error:
            reason, trunk = first_line(error).removeprefix(STRICTLY), name == row.classes["AutoModel"]
            if len(names) == 1 and not trunk and reason != first_line(error):
                raise WrongCall(f"class {name!r}: {reason} Choose a class that the file serves.") from error
            if len(names) == 1 or trunk:
                raise  # then there is nothing to compare at all
            if asked:
                yield Row("weights", name, result=NOT_APPLICABLE, where=reason)
            continue
        yield weights_row(name, pair, plan)
        yield from _of_class(transformers, row, name, pair, plan)
    yield from tokenizer_rows(transformers, plan.folder)


def _of_class(transformers: Any, row: Architecture, name: str, pair: Pair, plan: Plan) -> Iterator[Row]:
    """Forward, cache and generation of one class."""
    decoder = decodes(pair.ours.config)
    cached = decoder and name in (row.classes["AutoModel"], row.classes["AutoModelForCausalLM"])
    cases: list[Case] = []
    for found in _cases(name, row, pair, cached, plan):
        if isinstance(found, Row):
            yield found
        else:
            cases.append(found)
    for dtype in plan.dtypes:
        ours, theirs = (converted(model, dtype) for model in (pair.ours, pair.theirs))
        for case in cases:
            blank = Row("forward", name, dtype, case.attention, case.padding)
            reason = known_difference(pair.ours.config, dtype, case.attention)
            if reason:
                yield replace(blank, result=NOT_APPLICABLE, where=reason)
                continue
            use(case.attention, ours, theirs)
            yield from _forward(blank, ours, theirs, case, plan)
    if cached and name == row.classes["AutoModelForCausalLM"]:
        yield from generation_rows(transformers, name, pair, plan)
    if not decoder and name == row.classes["AutoModel"]:
        yield Row("cache", name, result=NOT_APPLICABLE, where="an encoder has no cache and generates nothing")


Results = dict[str, Tensor]


@dataclass(frozen=True)
class Case:
    """One attention function and padding: the inputs, and what transformers computes with them in float64.

    floors: the noise floors in float64, which follow from transformers' errors in float32. step_floors: the same of a
    computation with the cache; None where there is none.
    """

    attention: str
    padding: str
    batch: Batch
    exact: dict[str, Tensor]
    floors: dict[str, Floor]
    step_floors: dict[str, Floor] | None


def _cases(name: str, row: Architecture, pair: Pair, cached: bool, plan: Plan) -> Iterator[Case | Row]:
    """The cases of a class; a row for each that cannot be."""
    one_by_one = name == "GPT2ForSequenceClassification" and pair.ours.config.pad_token_id is None
    choices = name == row.classes.get("AutoModelForMultipleChoice") or "mc_token_ids" in pair.ours.forward_names
    sizes = {**plan.sizes, "rows": 1} if one_by_one else plan.sizes
    models = [converted(pair.theirs, dtype) for dtype in ("float32", "float64")]
    for attention in ATTENTION:
        for padding in plan.paddings:
            none = Row("forward", name, attention=attention, padding=padding, result=NOT_APPLICABLE)
            if one_by_one and padding != "none":
                yield replace(none, where="config.pad_token_id is not set: the last token of padded rows is not known")
                continue
            batch = make_batch(pair.ours, padding=padding, choices=choices, **sizes)
            use(attention, *models)
            rough, exact = (_attempt(outputs, model, batch.theirs) for model in models)
            if isinstance(rough, str) or isinstance(exact, str):
                yield replace(none, where=f"transformers raises {rough if isinstance(rough, str) else exact}")
                continue
            floors, step_floors = floors_of(rough, exact, batch.mask, torch.float64), None
            if cached and padding != "right":  # decoding goes on after the last token, so padding stands on the left
                steps = _attempt(by_steps, models[0], batch.theirs)
                step_floors = floors if isinstance(steps, str) else _step_floors(steps, exact, batch, torch.float64)
            yield Case(attention, padding, batch, exact, floors, step_floors)


def _step_floors(steps: Results, exact: Results, batch: Batch, dtype: torch.dtype) -> dict[str, Floor]:
    """The noise floors of a computation with the cache, from that of transformers: sums of other lengths, and more."""
    return floors_of(steps, {name: exact[name] for name in steps}, batch.mask, dtype)


def _attempt(run: Callable[[Any, Results], Results], model: Any, inputs: Results) -> Results | str:
    """What `run` returns, or the text of its error."""
    try:
        return run(model, inputs)
    except Exception as error:  # whichever it is, it is the result of this row
        return f"{type(error).__name__}: {first_line(error)}"


def _forward(row: Row, ours: Any, theirs: Any, case: Case, plan: Plan) -> Iterator[Row]:
    """The rows "forward", "cache" and "cache = whole" of one dtype and case."""
    batch, mask, dtype = case.batch, case.batch.mask, named_dtype(row.dtype)
    whole = _attempt(outputs, theirs, batch.theirs)
    if isinstance(whole, str):
        yield replace(row, result=NOT_APPLICABLE, where=f"transformers raises {whole}")
        return
    floors = case.floors if dtype == torch.float64 else floors_of(whole, case.exact, mask, dtype)
    mine = _attempt(outputs, ours, batch.ours)
    if _reads_padding(ours, case.padding) and not isinstance(mine, str):
        plan.note("left-padded decoders: without the results that are read off the first position, which is padding")
        yield _judged(row, of_tokens_only(mine, mask), of_tokens_only(whole, mask), floors, mask)
    else:
        yield _judged(row, mine, whole, floors, mask)
    if case.step_floors is None:
        return
    mine, other = _attempt(by_steps, ours, batch.ours), _attempt(by_steps, theirs, batch.theirs)
    if isinstance(other, str):
        yield replace(row, check="cache", result=NOT_APPLICABLE, where=f"transformers raises {other}")
        return
    by_step = case.step_floors if dtype == torch.float64 else _step_floors(other, case.exact, batch, dtype)
    larger = {name: _larger(floor, floors[name]) for name, floor in by_step.items()}
    yield _judged(replace(row, check="cache"), mine, other, larger, mask)
    yield _judged(replace(row, check="cache = whole"), mine, {name: whole[name] for name in other}, larger, mask)


def _larger(one: Floor, other: Floor) -> Floor:
    return Floor(max(one.max_abs, other.max_abs), max(one.relative_l2, other.relative_l2))


def _reads_padding(ours: Any, padding: str) -> bool:
    """Whether a result is read off the first position although padding stands there, which attends to nothing."""
    by_token = ours.always_decodes and ours.config.summary_type in ("cls_index", "last")
    return padding == "left" and decodes(ours.config) and not by_token


def _judged(row: Row, mine: Results | str, other: Results, floors: dict[str, Floor], mask: Tensor) -> Row:
    if isinstance(mine, str):
        return replace(row, result=DIFFERS, where=f"minitf raises {mine}; transformers does not")
    return replace(row, **vars(compare(mine, other, floors, mask)))
