"""`minitf run`: texts in, vectors out."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from minitf import __version__
from minitf.cli import UsageError
from minitf.cli_output import above_each_other, shortened, table, terminal_columns, to_json

if TYPE_CHECKING:
    import torch

    from minitf.models.bert import BertModel
    from minitf.tokenization import BertTokenizerFast

LISTED_TEXTS = 12  # printed one by one, and in the similarity matrix, of a longer list
LISTED_TOKENS = 32
FIRST_VALUES = 6
JSON_MATRIX = 256  # above, the matrix of similarities is left out of the JSON


@dataclass
class Result:
    """What was computed for N texts; T is the length of the longest.

    last_hidden_state [N, T, C] and pooler_output [N, C] are there when `keep` was asked for; pooled [N, C] unless the
    pooling is none; vectors: per text its unpadded token vectors [T_i, C], for pooling none.
    """

    texts: list[str]
    tokens: list[list[str]]
    input_ids: list[list[int]]
    pooled: torch.Tensor | None
    vectors: list[torch.Tensor]
    kept: dict[str, torch.Tensor]
    longest: int
    hidden_size: int
    unk_token: str | None


def run(arguments: argparse.Namespace) -> None:
    """Carry out `minitf run`."""
    folder = checkpoint_folder(arguments.folder)
    texts = read_texts(arguments)
    if arguments.npz:
        check_target(Path(arguments.npz))
    tokenizer, model = load(folder, arguments)
    encodings = encode(texts, tokenizer, model, truncate=arguments.truncate)
    result = compute(texts, encodings, tokenizer, model, arguments)
    if arguments.npz:
        write_npz(Path(arguments.npz), result)
    if arguments.json:
        print(to_json(as_json(result, model, arguments)))
    else:
        print("\n".join(as_text(result, model, arguments)))


def checkpoint_folder(name: str) -> Path:
    """The folder that `name` means: a path, or a model in the local hub cache. Never asks the network."""
    from weights_tools.hub import at_hand

    place = at_hand(name)
    if not place.is_dir():
        raise NotADirectoryError(f"{place} is a file; expected the folder with config.json, weights and tokenizer")
    return place


def read_texts(arguments: argparse.Namespace) -> list[str]:
    """The texts of the command line, "-" standing for the lines of stdin, then the lines of --file."""
    texts: list[str] = []
    for text in arguments.texts:
        texts += _lines(sys.stdin.buffer, "stdin") if text == "-" else [text]
    if arguments.file == "-":
        texts += _lines(sys.stdin.buffer, "stdin")
    elif arguments.file is not None:
        with Path(arguments.file).open("rb") as stream:
            texts += _lines(stream, arguments.file)
    if not texts:
        raise ValueError("no text: the input has no line")
    return texts


def _lines(stream: BinaryIO, name: str) -> list[str]:
    lines = []
    for number, line in enumerate(stream, start=1):
        try:
            lines.append(line.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n"))
        except UnicodeDecodeError as error:
            raise ValueError(
                f"{name}, line {number}: byte {line[error.start]:#04x} is not UTF-8; convert the file to UTF-8 first"
            ) from None
    return lines


def check_target(path: Path) -> None:
    """Fail before the work, not after it."""
    if path.is_dir():
        raise IsADirectoryError(f"--npz {path} is a folder; expected the name of a file")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"--npz {path}: the folder {path.parent} does not exist")


def load(folder: Path, arguments: argparse.Namespace) -> tuple[BertTokenizerFast, BertModel]:
    """Tokenizer and model; a folder that has neither is reported by its missing weights."""
    from minitf.tokenization import BertTokenizerFast

    tokenizer, missing = None, None
    try:
        tokenizer = BertTokenizerFast.from_pretrained(folder)
    except FileNotFoundError as error:
        missing = error
    from minitf.models.bert import BertModel

    device = device_of(arguments.device)
    model = BertModel.from_pretrained(folder, dtype=arguments.dtype, attn_implementation=arguments.attn)
    if tokenizer is None:
        assert missing is not None
        raise missing
    if model.load_report is not None and model.load_report.missing:
        names = ", ".join(model.load_report.missing)
        print(f"warning: not in the checkpoint, so random: {names}", file=sys.stderr)
    model.to(device)
    return tokenizer, model


def device_of(name: str) -> torch.device:
    """The torch device of that name, after a try.

    Raises:
        UsageError: there is no such name. RuntimeError: it cannot be used here.
    """
    import torch

    try:
        device = torch.device(name)
    except RuntimeError:
        raise UsageError(f"--device {name}: not a device; expected cpu, cuda, cuda:N or mps") from None
    try:
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise RuntimeError(f"--device {name} cannot be used here: {reason}") from None
    return device


def encode(texts: list[str], tokenizer: BertTokenizerFast, model: BertModel, *, truncate: bool) -> list[list[int]]:
    """Ids of each text. Without `truncate`, a text that is too long is an error that names it."""
    limit = min(tokenizer.model_max_length, model.config.max_position_embeddings)
    tokenizer.model_max_length = limit
    if truncate:
        ids: list[list[int]] = tokenizer(texts, truncation=True)["input_ids"]
        return ids
    tokenizer.model_max_length = sys.maxsize  # this function says it better than the tokenizer's warning
    ids = tokenizer(texts)["input_ids"]
    for number, row in enumerate(ids, start=1):
        if len(row) > limit:
            raise ValueError(
                f"text {number} ({shortened(texts[number - 1], 40)}) has {len(row)} tokens; this model reads {limit}: "
                "pass --truncate to cut it, or split it"
            )
    return ids


def batches(
    ids: list[list[int]], tokenizer: BertTokenizerFast, size: int, length: int | None
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """(input_ids, attention_mask) [B, T], padded on the tokenizer's side; T = `length`, or the longest of the batch."""
    import torch

    pad = tokenizer.pad_token_id or 0  # masked positions; their id has no effect on the others
    for start in range(0, len(ids), size):
        rows = ids[start : start + size]
        columns = length if length is not None else max(len(row) for row in rows)
        input_ids = torch.full((len(rows), columns), pad, dtype=torch.long)
        mask = torch.zeros_like(input_ids)
        for index, row in enumerate(rows):
            place = slice(columns - len(row), columns) if tokenizer.padding_side == "left" else slice(0, len(row))
            input_ids[index, place] = torch.tensor(row)
            mask[index, place] = 1
        yield input_ids, mask


def progress(steps: Iterator[Any], count: int) -> Any:
    """`steps` with a bar on stderr, if stderr is a terminal and there is more than one step."""
    if count < 2 or not sys.stderr.isatty():
        return steps
    from tqdm import tqdm

    return tqdm(steps, total=count, unit="batch", file=sys.stderr, leave=False)


def pool(hidden: torch.Tensor, mask: torch.Tensor, pooling: str) -> torch.Tensor:
    """[B, T, C] and [B, T] to [B, C], in float32 or better: the mean over real tokens, or the first real token."""
    import torch

    hidden = hidden.to(torch.promote_types(hidden.dtype, torch.float32))
    if pooling == "cls":
        first = mask.argmax(dim=1)  # not column 0 when padding is on the left
        return hidden[torch.arange(len(hidden), device=hidden.device), first]
    weights = mask[:, :, None].to(hidden.dtype)  # [B, T, 1]
    return (hidden * weights).sum(dim=1) / weights.sum(dim=1)


def compute(
    texts: list[str],
    ids: list[list[int]],
    tokenizer: BertTokenizerFast,
    model: BertModel,
    arguments: argparse.Namespace,
) -> Result:
    """Run the model over all batches."""
    import torch

    longest = max(len(row) for row in ids)
    keep = bool(arguments.npz)  # then every batch is padded to the longest text of all, so that the arrays fit together
    steps = batches(ids, tokenizer, arguments.batch_size, longest if keep else None)
    pooled: list[torch.Tensor] = []
    vectors: list[torch.Tensor] = []
    kept: dict[str, list[torch.Tensor]] = {}
    with torch.inference_mode():
        for input_ids, mask in progress(steps, -(-len(ids) // arguments.batch_size)):
            output = model(input_ids=input_ids.to(model.device), attention_mask=mask.to(model.device))
            hidden = output.last_hidden_state  # [B, T, C]
            if arguments.pooling == "none":
                vectors += [row[place.bool()].cpu() for row, place in zip(hidden, mask.to(hidden.device), strict=True)]
            else:
                pooled.append(pool(hidden, mask.to(hidden.device), arguments.pooling).cpu())
            if keep:
                arrays = {
                    "input_ids": input_ids,
                    "attention_mask": mask,
                    "last_hidden_state": hidden,
                    "pooler_output": output.pooler_output,
                }
                for name, value in arrays.items():
                    if value is not None:
                        kept.setdefault(name, []).append(value.cpu())
    result = Result(
        texts=texts,
        tokens=[tokenizer.convert_ids_to_tokens(row) for row in ids],
        input_ids=ids,
        pooled=torch.cat(pooled) if pooled else None,
        vectors=vectors,
        kept={name: torch.cat(values) for name, values in kept.items()},
        longest=longest,
        hidden_size=model.config.hidden_size,
        unk_token=tokenizer.unk_token,
    )
    _warn_if_not_finite(result)
    return result


def _warn_if_not_finite(result: Result) -> None:
    rows = result.vectors if result.pooled is None else list(result.pooled)
    bad = [number for number, row in enumerate(rows, start=1) if not row.isfinite().all()]
    if bad:
        listed = ", ".join(map(str, bad[:8])) + (" ..." if len(bad) > 8 else "")
        print(f"warning: NaN or infinite values for text {listed}; try --dtype float32", file=sys.stderr)


def similarities(pooled: torch.Tensor) -> torch.Tensor:
    """Cosine of the angle between every two of N vectors: [N, N]."""
    import torch

    unit = torch.nn.functional.normalize(pooled, dim=1)
    return unit @ unit.T


def write_npz(path: Path, result: Result) -> None:
    """All arrays, atomically. bfloat16, which NumPy does not have, is written as float32."""
    import numpy as np
    import torch

    from weights_tools import write_atomically

    tensors = dict(result.kept)
    if result.pooled is not None:
        tensors["pooled"] = result.pooled
    arrays = {name: (t.float() if t.dtype == torch.bfloat16 else t).numpy() for name, t in tensors.items()}
    arrays["texts"] = np.array(result.texts)

    def write(stream: BinaryIO) -> None:
        np.savez(stream, **arrays)  # type: ignore[arg-type]

    write_atomically(path, write)


def _shapes(result: Result, pooling: str) -> dict[str, list[int]]:
    count, width = len(result.texts), result.hidden_size
    shapes = {"last_hidden_state": [count, result.longest, width], "pooler_output": [count, width]}
    if pooling != "none":
        shapes["pooled"] = [count, width]
    return shapes


def _model_facts(model: BertModel, arguments: argparse.Namespace) -> dict[str, Any]:
    return {
        "folder": arguments.folder,
        "class": type(model).__name__,
        "layers": model.config.num_hidden_layers,
        "hidden_size": model.config.hidden_size,
        "parameters": model.num_parameters(),
        "dtype": str(model.dtype).removeprefix("torch."),
        "device": str(model.device),
        "attention": model.config.attn_implementation,
    }


def as_json(result: Result, model: BertModel, arguments: argparse.Namespace) -> dict[str, Any]:
    """The object that --json prints. Every float is the shortest text that reads back as the same number."""
    rows = []
    for index, text in enumerate(result.texts):
        row: dict[str, Any] = {"text": text, "tokens": result.tokens[index], "input_ids": result.input_ids[index]}
        if result.pooled is None:
            row["token_vectors"] = result.vectors[index].tolist()  # [T_i, C]
        else:
            row["pooled"] = result.pooled[index].tolist()  # [C]
        rows.append(row)
    matrix = None
    if result.pooled is not None and 1 < len(rows) <= JSON_MATRIX:
        matrix = similarities(result.pooled).tolist()
    return {
        "minitf": __version__,
        "model": _model_facts(model, arguments),
        "pooling": arguments.pooling,
        "shapes": _shapes(result, arguments.pooling),
        "texts": rows,
        "cosine_similarity": matrix,
    }


def as_text(result: Result, model: BertModel, arguments: argparse.Namespace) -> list[str]:
    """The lines that are printed without --json."""
    facts = _model_facts(model, arguments)
    lines = [
        f"{facts['class']}: {facts['layers']} layers, {facts['parameters']:,} parameters, {facts['dtype']} on "
        f"{facts['device']}, {facts['attention']} attention",
        "  ".join(f"{name} {shape}" for name, shape in _shapes(result, arguments.pooling).items()),
    ]
    for index in range(min(len(result.texts), LISTED_TEXTS)):
        lines += ["", *_one_text(result, index, arguments.pooling)]
    if len(result.texts) > LISTED_TEXTS:
        lines += ["", f"... and {len(result.texts) - LISTED_TEXTS} more texts (--json or --npz hold them all)"]
    if result.pooled is not None and len(result.texts) > 1:
        lines += ["", *_matrix(result.texts[:LISTED_TEXTS], result.pooled[:LISTED_TEXTS])]
    if arguments.npz:
        lines += ["", f"wrote {arguments.npz}"]
    return lines


def _one_text(result: Result, index: int, pooling: str) -> list[str]:
    tokens, ids = result.tokens[index], [str(number) for number in result.input_ids[index]]
    unknown = sum(token == result.unk_token for token in tokens)
    count = f"{len(tokens)} tokens" + (f", {unknown} unknown to the vocabulary" if unknown else "")
    if len(tokens) > LISTED_TOKENS:
        first = LISTED_TOKENS - 6
        tokens = [*tokens[:first], "...", *tokens[-5:]]
        ids = [*ids[:first], f"({len(ids) - first - 5} more)", *ids[-5:]]
        count += ", shortened"
    label = f"text {index + 1} ({count}): "
    lines = [label + shortened(result.texts[index], max(terminal_columns() - len(label), 20))]
    lines += above_each_other([shortened(token, 24) for token in tokens], ids, names=("pieces", "ids"), indent="  ")
    if result.pooled is not None:
        values = result.pooled[index]
        name = "mean of the tokens" if pooling == "mean" else "vector of the first token"
        lines.append(f"  {name}: {_values(values)}, length {float(values.norm()):.4f}")
    else:
        lines.append(f"  vector of the first token: {_values(result.vectors[index][0])}")
    return lines


def _values(vector: torch.Tensor) -> str:
    shown = " ".join(f"{value:+.4f}" for value in vector[:FIRST_VALUES].tolist())
    rest = len(vector) - FIRST_VALUES
    return shown + (f" ... ({rest} more)" if rest > 0 else "")


def _matrix(texts: list[str], pooled: torch.Tensor) -> list[str]:
    numbers = [str(number + 1) for number in range(len(texts))]
    room = max(terminal_columns() - 4 - 8 * len(texts), 16)
    rows = [["", "", *numbers]]
    for number, text, values in zip(numbers, texts, similarities(pooled).tolist(), strict=True):
        rows.append([number, shortened(text, room), *[f"{value:.3f}" for value in values]])
    lines = table(rows, right=[True, False, *[True] * len(texts)])
    return ["cosine similarity", *["  " + line for line in lines]]
