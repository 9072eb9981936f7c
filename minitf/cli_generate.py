"""`minitf generate`: continue a text, as it is written or as one JSON object."""

from __future__ import annotations

import argparse
import secrets
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from minitf import __version__
from minitf.cli import Parser, UsageError
from minitf.cli_output import escaped, shortened, table, to_json
from minitf.cli_run import checkpoint_folder, device_of
from minitf.cli_settings import NOT_OPTIONS, add_settings, given_settings, option

if TYPE_CHECKING:
    import torch

    from minitf.generation.config import GenerationConfig
    from minitf.generation.strategies import Strategy

ONLY_IN_JSON = ("output_scores", "output_logits", "output_attentions", "output_hidden_states")
TOKEN_COLUMNS = 24


def generate_parser() -> Parser:
    """`minitf generate FOLDER [PROMPT]`, with an option for each setting of `GenerationConfig`."""
    parser = Parser(
        "generate",
        "Continue a text with a GPT-2 checkpoint, or with BERT as a decoder. One text without beams is written as it\n"
        "comes. The strategy follows from the settings:\n\n"
        "  greedy search             (no option)                     each time the most probable token\n"
        "  sampling                  --do-sample                     draw each token\n"
        "  beam search               --num-beams 4                   keep the most probable beginnings\n"
        "  beam sampling             --num-beams 4 --do-sample       draw the beginnings that are kept\n"
        "  diverse beam search       --num-beams 4 --num-beam-groups 2 --diversity-penalty 1.0\n"
        "  constrained beam search   --num-beams 4 --force-words-ids 5,6\n"
        "  contrastive search        --penalty-alpha 0.6 --top-k 4\n"
        "  assisted decoding         --assistant FOLDER, or --prompt-lookup-num-tokens 10\n\n"
        "A setting that the strategy would not use is an error.",
        "examples:\n"
        '  minitf generate FOLDER "Once upon a time" --max-new-tokens 50 --do-sample --top-p 0.9 --seed 1\n'
        '  minitf generate FOLDER "Once upon a time" --num-beams 4 --num-return-sequences 2 --show-probs\n'
        "  cat prompt.txt | minitf generate FOLDER - --json\n"
        "  minitf generate FOLDER --ids 2,8,14        (a checkpoint without a tokenizer)",
        missing=NOT_OPTIONS,
    )
    parser.usage = "minitf generate FOLDER [PROMPT] [options]"
    add = parser.add_argument
    add("folder", metavar="FOLDER", help="folder of the checkpoint, or a name in the local hub cache")
    add(
        "prompt", metavar="PROMPT", nargs="*",
        help='the text to continue, one; "-" reads it from stdin, without its last line break; without one the text '
        "starts from --bos-token-id",
    )  # fmt: skip
    add("--ids", metavar="IDS", type=_prompt_ids, help="the prompt as token ids, like 2,8,14, in place of PROMPT")
    add("--json", action="store_true", help="print one JSON object: ids, texts, settings, strategy")
    add("--show-probs", action="store_true", help="list each new token with its probability and rank")
    add("--skip-prompt", action="store_true", help="print new text only")
    add("--special-tokens", action="store_true", help="print special tokens too, like the end token")
    add("--seed", type=_whole, metavar="N", help="for sampling: the same seed draws the same text")
    add("--assistant", metavar="FOLDER", help="a smaller checkpoint of the same vocabulary that drafts tokens")
    add("--threads", type=_at_least_one, metavar="N", help="threads of one operation (default: torch's)")
    add("--device", metavar="NAME", default="cpu", help="torch device: cpu (default), cuda, cuda:1, mps")
    add(
        "--dtype", choices=("float32", "float64", "bfloat16", "float16"),
        help="compute in this dtype (default: the checkpoint's)",
    )  # fmt: skip
    add("--attn", choices=("sdpa", "eager"), help="attention function (default: sdpa)")
    add_settings(parser)
    return parser


def _whole(text: str) -> int:
    if not text.isdecimal() or int(text) >= 2**63:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 0 to 2**63 - 1")
    return int(text)


def _at_least_one(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of 1 or more")
    return int(text)


def _prompt_ids(text: str) -> list[int]:
    parts = text.strip().strip("[]").split(",")
    if not all(part.strip().isdecimal() for part in parts):
        raise argparse.ArgumentTypeError(f"{text!r}: expected token ids, like 2,8,14")
    return [int(part) for part in parts]


# --------------------------------------------------------------------------------------------------------------------
# The work


@dataclass
class Call:
    """What the command line asks for, checked as far as that is possible without weights.

    Attributes:
        folder: of the checkpoint. tokenizer: its tokenizer; None = it has none, and `--ids` was given.
        settings: of the command line. joined: these over the model's own. strategy: what they choose.
        ids: the prompt; None = start from `bos_token_id`.
    """

    arguments: argparse.Namespace
    folder: Path
    tokenizer: Any
    settings: GenerationConfig
    joined: GenerationConfig
    strategy: Strategy
    ids: list[int] | None

    @property
    def streams(self) -> bool:
        """Whether the text is written as it comes."""
        several = self.joined.num_return_sequences > 1
        return not (self.arguments.json or several or "beam" in self.strategy.name)


def generate(arguments: argparse.Namespace) -> None:
    """Carry out `minitf generate`."""
    call = checked_call(arguments)
    import torch

    if arguments.threads is not None:
        torch.set_num_threads(arguments.threads)
    model = load_model(call.folder, arguments)
    draft = None if arguments.assistant is None else load_model(checkpoint_folder(arguments.assistant), arguments)
    seed = None
    if call.joined.do_sample:
        seed = secrets.randbelow(2**63) if arguments.seed is None else arguments.seed
    output, prompt = run_model(call, model, draft, seed)
    results = [result(call, output, row, prompt) for row in range(len(output.sequences))]
    if arguments.json:
        print(to_json(as_json(call, model, output, results, prompt, seed)))
    elif call.streams:
        if arguments.show_probs:
            print("\n".join(["", *probability_lines(results[0])]))
    else:
        print("\n".join(as_text(call, results, prompt)))


def checked_call(arguments: argparse.Namespace) -> Call:
    """The call, before torch is imported and weights are read.

    Raises:
        UsageError: options that exclude each other or would have no effect. FileNotFoundError: no such folder, or no
        tokenizer in it. ValueError: a folder whose model does not generate.
    """
    from minitf.generation.config import GenerationConfig
    from minitf.generation.strategies import check_settings, choose

    check_options(arguments)
    folder = checkpoint_folder(arguments.folder)
    defaults = settings_of(folder)
    settings = GenerationConfig(**given_settings(arguments))
    joined = GenerationConfig().joined(defaults, settings)
    try:
        strategy = choose(joined, assisted=arguments.assistant is not None)
        check_settings(strategy, settings, defaults)
    except ValueError as error:
        raise UsageError(in_options(str(error), settings)) from error
    if arguments.seed is not None and not joined.do_sample:
        raise UsageError(f"--seed {arguments.seed} has no effect in {strategy.name}, which draws nothing: add "
                         "--do-sample, or drop it")  # fmt: skip
    tokenizer = None
    try:
        tokenizer = tokenizer_of(folder)
    except FileNotFoundError as error:
        if arguments.prompt:
            raise FileNotFoundError(f"{error}; or pass the prompt as numbers: --ids 2,8,14") from error
        if joined.stop_strings is not None:
            raise UsageError(
                f"--stop compares text, and there is no tokenizer in {folder}: use --eos-token-id"
            ) from None
    return Call(arguments, folder, tokenizer, settings, joined, strategy, prompt_ids(arguments, tokenizer))


def in_options(message: str, settings: GenerationConfig) -> str:
    """An error about `top_p = 0.5` as one about `--top-p 0.5`, if it begins with a setting of the command line."""
    name, equals, rest = message.partition(" = ")
    return f"{option(name)} {rest}" if equals and name in settings.given() else message


def check_options(arguments: argparse.Namespace) -> None:
    """Options of the command that need or exclude each other.

    Raises:
        UsageError: they do; the message names them.
    """
    if len(arguments.prompt) > 1:
        raise UsageError(
            f"{len(arguments.prompt)} prompts: {arguments.prompt[0]!r}, {arguments.prompt[1]!r}; expected one: put a "
            "text with blanks in quotes"
        )
    if arguments.prompt and arguments.ids is not None:
        raise UsageError("PROMPT and --ids are both the prompt: drop one of them")
    if hasattr(arguments, "bos_token_id") and (arguments.prompt or arguments.ids is not None):
        raise UsageError("--bos-token-id has no effect with a prompt: drop one of them")
    for name in ONLY_IN_JSON:
        if getattr(arguments, name, False) and not arguments.json:
            raise UsageError(f"{option(name)} has no effect without --json")
    if arguments.skip_prompt and arguments.json:
        raise UsageError("--skip-prompt has no effect with --json, which holds both texts")


def settings_of(folder: Path) -> GenerationConfig:
    """The settings that a folder brings along, and a check that its model can generate at all.

    Raises:
        FileNotFoundError: no config.json. ValueError: an architecture that is not implemented; an encoder.
    """
    from minitf.config import PretrainedConfig
    from minitf.generation.config import GENERATION_CONFIG_NAME, GenerationConfig
    from minitf.models.auto import AutoConfig, config_class_for

    values, _ = PretrainedConfig.get_config_dict(folder)
    config_class = config_class_for(values, str(folder / "config.json"))
    if "is_decoder" in config_class.__dataclass_fields__ and not values.get("is_decoder"):
        raise ValueError(
            f"{folder}: config.json says model_type {config_class.model_type!r} without is_decoder, an encoder, in "
            "which every token sees those after it; expected gpt2, or bert with is_decoder true (`minitf run` embeds "
            "texts with this one)"
        )
    if (folder / GENERATION_CONFIG_NAME).is_file():
        return GenerationConfig.from_pretrained(folder)
    return GenerationConfig.from_model_config(AutoConfig.from_pretrained(folder))


def tokenizer_of(folder: Path) -> Any:
    """The tokenizer of a checkpoint, in its fast form, as `AutoTokenizer` chooses it.

    Raises:
        FileNotFoundError: none; the message says what was looked for.
    """
    from minitf.tokenization.auto import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder)


def prompt_ids(arguments: argparse.Namespace, tokenizer: Any) -> list[int] | None:
    """The prompt of the command line as ids; None without one.

    A separator that the tokenizer puts behind a text (BERT's [SEP]) is left out: the text would be over.

    Raises:
        ValueError: a text without tokens.
    """
    if arguments.ids is not None or not arguments.prompt:
        found: list[int] | None = arguments.ids
        return found
    text = arguments.prompt[0]
    if text == "-":
        text = read_stdin()
    ids = list(tokenizer(text)["input_ids"])
    if ids and ids[-1] == getattr(tokenizer, "sep_token_id", None):
        ids.pop()
    if not ids:
        raise ValueError(f"the prompt {shortened(text, 40)!r} has no tokens; leave it out to start from bos_token_id")
    return ids


def read_stdin() -> str:
    """All of stdin without a last line break.

    Raises:
        ValueError: it is not UTF-8.
    """
    content = sys.stdin.buffer.read()
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"stdin, byte {error.start + 1}: {content[error.start]:#04x} is not UTF-8; convert the text to UTF-8 first"
        ) from None
    return text.removesuffix("\n").removesuffix("\r")


def load_model(folder: Path, arguments: argparse.Namespace) -> Any:
    """The model of a folder, on the device, with every weight from the checkpoint."""
    from minitf.models.auto import AutoModelForCausalLM

    settings_of(folder)
    device = device_of(arguments.device)
    model = AutoModelForCausalLM.from_pretrained(
        folder, dtype=arguments.dtype, attn_implementation=arguments.attn, strict=True
    )  # fmt: skip
    return model.to(device)


def run_model(call: Call, model: Any, draft: Any, seed: int | None) -> tuple[Any, list[int]]:
    """Generate; a text that is written as it comes is on stdout then. Returns the output and the prompt's ids."""
    import torch

    from minitf.generation.config import GenerationConfig

    wanted = {"return_dict_in_generate": True}
    if call.arguments.show_probs:
        wanted.update(output_scores=True, output_logits=True)
    if "beam" in call.strategy.name:
        wanted.update(output_scores=True)  # without them there are no sequences_scores
    generator = None if seed is None else torch.Generator(model.device).manual_seed(seed)
    ids = None if call.ids is None else torch.tensor([call.ids], device=model.device)
    streamer = streamer_for(call) if call.streams else None
    try:
        output = model.generate(
            ids,
            None if ids is None else torch.ones_like(ids),  # a pad token in the prompt is one that was asked for
            call.settings.joined(GenerationConfig(**wanted)),
            tokenizer=call.tokenizer if call.joined.stop_strings is not None else None,
            assistant_model=draft,
            generator=generator,
            streamer=streamer,
        )
    except BaseException:
        if streamer is not None and streamer.started:
            print(flush=True)  # the message stands on a line of its own
        raise
    prompt = call.ids
    if prompt is None:
        assert call.joined.bos_token_id is not None
        prompt = [call.joined.bos_token_id]
    return output, prompt


def streamer_for(call: Call) -> Any:
    """What writes each piece of text to stdout as soon as it is final; ids, if there is no tokenizer."""
    arguments = call.arguments
    if call.tokenizer is None:
        return IdStreamer(skip_prompt=arguments.skip_prompt)
    from minitf.generation import streamers

    class Printer(streamers.TextStreamer):
        started = False

        def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
            self.started = self.started or bool(text)
            print(shown(text), end="\n" if stream_end else "", flush=True)

    return Printer(
        call.tokenizer, skip_prompt=arguments.skip_prompt, skip_special_tokens=not arguments.special_tokens
    )  # fmt: skip


class IdStreamer:
    """Writes ids, separated by commas: the form that `--ids` reads."""

    def __init__(self, *, skip_prompt: bool) -> None:
        self.skip, self.started = skip_prompt, False

    def put(self, value: torch.Tensor) -> None:
        """`[1, T]` or `[1]` ids."""
        if self.skip:
            self.skip = False
            return
        print("," if self.started else "", ",".join(map(str, value.flatten().tolist())), sep="", end="", flush=True)
        self.started = True

    def end(self) -> None:
        """The text is over."""
        print(flush=True)


def shown(text: str) -> str:
    """`text` as it is; for a terminal with escapes in place of characters that would steer it, but for line breaks."""
    if not sys.stdout.isatty():
        return text
    return "".join(char if char in "\n\t" else escaped(char) for char in text)


# --------------------------------------------------------------------------------------------------------------------
# The result


@dataclass
class Result:
    """One text. `row` is its row in the output, `tokens` the table of --show-probs (else None)."""

    row: int
    new_ids: list[int]
    text: str | None
    new_text: str | None
    score: float | None
    tokens: list[dict[str, Any]] | None


def result(call: Call, output: Any, row: int, prompt: list[int]) -> Result:
    """The text in one row of the output, without what fills it up."""
    ids = new_ids(call, output, row, len(prompt))
    text = new_text = None
    if call.tokenizer is not None:
        text, before = decoded(call, prompt + ids), decoded(call, prompt)
        new_text = text[len(before) :] if text.startswith(before) else decoded(call, ids)
    scores = getattr(output, "sequences_scores", None)
    table_rows = token_rows(call, output, row, ids) if call.arguments.show_probs else None
    return Result(row, ids, text, new_text, None if scores is None else float(scores[row]), table_rows)


def decoded(call: Call, ids: list[int]) -> str:
    """The text of `ids`."""
    text: str = call.tokenizer.decode(ids, skip_special_tokens=not call.arguments.special_tokens)
    return text


def new_ids(call: Call, output: Any, row: int, start: int) -> list[int]:
    """The new tokens of one row, the end token included, what was filled up left out."""
    from minitf.generation.stopping import StopStringCriteria

    ids: list[int] = output.sequences[row, start:].tolist()
    origins = getattr(output, "beam_indices", None)
    if origins is not None:
        return ids[: int((origins[row] >= 0).sum())]
    ends = call.joined.ends()
    stop = None
    if call.joined.stop_strings is not None:
        stop = StopStringCriteria(call.tokenizer, call.joined.stop_strings)
    for place, token in enumerate(ids):
        if token in ends or (stop is not None and bool(stop(output.sequences[row : row + 1, : start + place + 1]))):
            return ids[: place + 1]
    return ids


def token_rows(call: Call, output: Any, row: int, ids: Sequence[int]) -> list[dict[str, Any]]:
    """For each new token: what the model gave it, and what it had after the settings.

    probability, rank (1 = most probable) and cumulative (the probability of all tokens up to that rank, which top_p
    compares) are the model's own; `after_settings` is the probability after all processors; `log_probability` is the
    sum of the logarithms of the model's probabilities up to this token.
    """
    rows, total = [], 0.0
    origins = getattr(output, "beam_indices", None)
    for step, token in enumerate(ids):
        at = row if origins is None else int(origins[row, step])
        logits = output.logits[step][at].double()  # [V]
        log_probs = logits.log_softmax(dim=-1)  # [V]
        before = log_probs > log_probs[token]  # [V]
        after = output.scores[step][at].double().softmax(dim=-1)  # [V]
        total += float(log_probs[token])
        rows.append(
            {
                "step": step + 1,
                "id": token,
                "token": None if call.tokenizer is None else call.tokenizer.convert_ids_to_tokens(token),
                "text": None if call.tokenizer is None else call.tokenizer.decode([token], skip_special_tokens=False),
                "probability": float(log_probs[token].exp()),
                "rank": int(before.sum()) + 1,
                "cumulative": float(log_probs[before].exp().sum() + log_probs[token].exp()),
                "after_settings": float(after[token]),
                "log_probability": total,
            }
        )
    return rows


def as_json(
    call: Call, model: Any, output: Any, results: Sequence[Result], prompt: list[int], seed: int | None
) -> dict[str, Any]:
    """The object that --json prints. Numbers that JSON does not have, like the score -inf, are null."""
    arguments = call.arguments
    facts: dict[str, Any] = {
        "minitf": __version__,
        "model": {
            "folder": arguments.folder,
            "class": type(model).__name__,
            "layers": model.config.num_hidden_layers,
            "hidden_size": model.config.hidden_size,
            "parameters": model.num_parameters(),
            "dtype": str(model.dtype).removeprefix("torch."),
            "device": str(model.device),
            "attention": model.config.attn_implementation,
        },
        "assistant": arguments.assistant,
        "strategy": call.strategy.name,
        "settings": call.joined.given(),
        "seed": seed,
        "prompt": None if call.tokenizer is None else decoded(call, prompt),
        "prompt_ids": prompt,
        "sequences": [],
    }
    for one in results:
        entry: dict[str, Any] = {"new_ids": one.new_ids, "text": one.text, "new_text": one.new_text}
        if one.score is not None:
            entry["score"] = one.score
        if one.tokens is not None:
            entry["tokens"] = one.tokens
        if getattr(output, "beam_indices", None) is not None:
            entry["beam_indices"] = output.beam_indices[one.row, : len(one.new_ids)].tolist()
        facts["sequences"].append(entry)
    for name in ONLY_IN_JSON:
        if getattr(call.joined, name):
            facts[name.removeprefix("output_")] = nested(getattr(output, name.removeprefix("output_")))
    return facts


def nested(value: Any) -> Any:
    """Tensors inside tuples as lists of numbers."""
    if isinstance(value, tuple | list):
        return [nested(item) for item in value]
    return value.tolist()


def as_text(call: Call, results: Sequence[Result], prompt: list[int]) -> list[str]:
    """The lines of texts that were not written as they came."""
    lines: list[str] = []
    for number, one in enumerate(results, start=1):
        if len(results) > 1:
            score = "" if one.score is None else f", score {one.score:.4f}"
            lines += [*([""] if number > 1 else []), f"--- {number} of {len(results)}{score}"]
        ids = one.new_ids if call.arguments.skip_prompt else prompt + one.new_ids
        text = one.new_text if call.arguments.skip_prompt else one.text
        lines.append(",".join(map(str, ids)) if text is None else shown(text))
        if one.tokens is not None:
            lines += ["", *probability_lines(one)]
    return lines


def probability_lines(one: Result) -> list[str]:
    """The table of --show-probs."""
    assert one.tokens is not None
    named = one.text is not None
    names = ["token"] if named else []
    rows = [["step", "id", *names, "probability", "rank", "cumulative", "after settings", "log-probability"]]
    for entry in one.tokens:
        text = entry["text"]
        if named:
            whole = f'"{text}"' if "\ufffd" not in text else entry["token"]  # else only some bytes of a character
            names = [shortened(whole, TOKEN_COLUMNS)]
        own, together, after = (_probability(entry[key]) for key in ("probability", "cumulative", "after_settings"))
        log_prob = f"{entry['log_probability']:.4f}"
        rows.append([str(entry["step"]), str(entry["id"]), *names, own, str(entry["rank"]), together, after, log_prob])
    lines = table(rows, right=[True, True, *[False] * named, *[True] * 5])
    return [
        *lines,
        "probability, rank: the model's own; cumulative: of all tokens up to this rank; after settings: what it was",
        "chosen from (temperature, top-k, penalties, ...); log-probability: the model's own, of the new text so far",
    ]


def _probability(value: float) -> str:
    """Four decimals, or a power of ten where they would say nothing."""
    return f"{value:.4f}" if value >= 0.001 or value == 0 else f"{value:.1e}"
