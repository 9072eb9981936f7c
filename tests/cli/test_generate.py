"""`minitf generate`: what it prints and how, every setting as an option, its errors."""

from __future__ import annotations

import io
import json
import re
import shutil
import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import torch

from minitf import BertConfig, BertLMHeadModel, GenerationConfig, GPT2Config, GPT2LMHeadModel, cli
from minitf.cli_generate import generate_parser, tokenizer_of
from minitf.cli_settings import NOT_OPTIONS, SECTIONS, given_settings, option
from minitf.generation import STRATEGIES
from tests.support import REPOSITORY, minilm_folder, randomise_, shared_data

WORDS = ["the", "a", "cat", "dog", "bird", "sat", "ran", "sang", "on", "under", "mat", "tree", ".", "and", "then", "it"]
WORDS += ["was", "very", "old", "new"]
PIECES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS, "##s", "##ed"]
END = PIECES.index("[SEP]")
PROMPT = "the cat sat"


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def model() -> GPT2LMHeadModel:
    """Lively enough that texts differ and end at different lengths."""
    sizes = {"vocab_size": len(PIECES), "n_positions": 48, "n_embd": 16, "n_layer": 2, "n_head": 2}
    config = GPT2Config(**sizes, bos_token_id=2, eos_token_id=END, pad_token_id=0)
    found = randomise_(GPT2LMHeadModel(config), seed=3).eval()
    with torch.no_grad():
        found.transformer.wte.weight *= 1.5
    return found


@pytest.fixture(scope="module")
def folder(model: GPT2LMHeadModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """GPT-2 with a vocabulary of words."""
    place = tmp_path_factory.mktemp("tiny")
    model.save_pretrained(place)
    (place / "vocab.txt").write_text("\n".join(PIECES) + "\n", encoding="utf-8")
    (place / "tokenizer_config.json").write_text('{"tokenizer_class": "BertTokenizer"}')
    return place


def ids_of(text: str) -> list[int]:
    """As the tokenizer makes them, without the [SEP] that would end the text."""
    return [PIECES.index("[CLS]"), *[PIECES.index(word) for word in text.split()]]


def call(capsys: pytest.CaptureFixture[str], *argv: str | Path) -> tuple[int, str, str]:
    code = cli.main(["generate", *map(str, argv)])
    out, err = capsys.readouterr()
    assert "Traceback" not in out + err
    return code, out, err


def answer(capsys: pytest.CaptureFixture[str], *argv: str | Path) -> dict[str, Any]:
    code, out, err = call(capsys, *argv, "--json")
    assert (code, err) == (0, "")
    found: dict[str, Any] = json.loads(out)
    return found


# --------------------------------------------------------------------------------------------------------------------
# What is printed


def test_the_recorded_continuation_of_a_model_without_a_tokenizer(capsys: pytest.CaptureFixture[str]) -> None:
    place = shared_data("checkpoints", "capp-gpt2")
    prompt = [2, 8, 14, 17, 22, 25, 49]
    new = [30, 45, 40, 42, 50, 32, 40, 37, 42, 50, 33, 40, 37, 42, 50, 51]
    given = ",".join(map(str, prompt))
    assert call(capsys, place, "--ids", given) == (0, ",".join(map(str, prompt + new)) + "\n", "")
    for options in (("--num-beams", "3"), ("--prompt-lookup-num-tokens", "4"), ("--assistant", place)):
        code, out, _ = call(capsys, place, "--ids", given, "--skip-prompt", *options)
        assert (code, out) == (0, ",".join(map(str, new)) + "\n"), options
    found = answer(capsys, place, "--ids", str(prompt), "--num-beams", "3", "--show-probs")
    assert found["sequences"][0]["new_ids"] == new
    assert (found["prompt"], found["sequences"][0]["text"]) == (None, None)
    assert found["sequences"][0]["tokens"][0]["token"] is None


def test_one_text_is_written_as_it_comes(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, folder: Path, model: GPT2LMHeadModel
) -> None:
    ids = model.generate(torch.tensor([ids_of(PROMPT)]), max_new_tokens=9)[0]
    text = tokenizer_of(folder).decode(ids, skip_special_tokens=True)
    assert call(capsys, folder, PROMPT, "--max-new-tokens", "9") == (0, text + "\n", "")
    code, out, _ = call(capsys, folder, PROMPT, "--max-new-tokens", "9", "--special-tokens")
    assert (code, out) == (0, tokenizer_of(folder).decode(ids, skip_special_tokens=False) + "\n")
    code, out, _ = call(capsys, folder, PROMPT, "--max-new-tokens", "9", "--skip-prompt")
    assert (code, PROMPT + " " + out.lstrip()) == (0, text + "\n")

    class Terminal(io.StringIO):
        flushed: list[str]

        def flush(self) -> None:
            self.flushed = [*getattr(self, "flushed", []), self.getvalue()]

    screen = Terminal()
    monkeypatch.setattr(sys, "stdout", screen)
    assert cli.main(["generate", str(folder), PROMPT, "--max-new-tokens", "9"]) == 0
    pieces = list(dict.fromkeys(screen.flushed))
    assert len(pieces) > 6, "the text came in one piece"
    assert all(text.startswith(piece.rstrip("\n")) for piece in pieces)


def test_json_says_what_was_done(capsys: pytest.CaptureFixture[str], folder: Path, model: GPT2LMHeadModel) -> None:
    found = answer(capsys, folder, PROMPT, "--max-new-tokens", "5", "--repetition-penalty", "1.3")
    ids = model.generate(torch.tensor([ids_of(PROMPT)]), max_new_tokens=5, repetition_penalty=1.3)[0].tolist()
    assert found["prompt_ids"] == ids_of(PROMPT)
    assert found["prompt"] == PROMPT
    assert found["strategy"] == "greedy_search"
    assert (found["seed"], found["assistant"]) == (None, None)
    special = {"pad_token_id": 0, "bos_token_id": 2, "eos_token_id": END}
    assert found["settings"] == {"max_new_tokens": 5, "repetition_penalty": 1.3, **special}
    assert found["model"] == {
        "folder": str(folder),
        "class": "GPT2LMHeadModel",
        "layers": 2,
        "hidden_size": 16,
        "parameters": model.num_parameters(),
        "dtype": "float32",
        "device": "cpu",
        "attention": "sdpa",
    }
    (one,) = found["sequences"]
    assert ids_of(PROMPT) + one["new_ids"] == ids
    assert one["text"] == PROMPT + one["new_text"]
    assert set(one) == {"new_ids", "text", "new_text"}


def test_sampling_by_seed(capsys: pytest.CaptureFixture[str], folder: Path, model: GPT2LMHeadModel) -> None:
    options = ("--do-sample", "--top-p", "0.9", "--temperature", "1.5", "--max-new-tokens", "12")
    first = answer(capsys, folder, PROMPT, *options, "--seed", "7")
    assert answer(capsys, folder, PROMPT, *options, "--seed", "7") == first
    assert first["seed"] == 7
    torch.manual_seed(7)
    ids = model.generate(
        torch.tensor([ids_of(PROMPT)]), do_sample=True, top_p=0.9, temperature=1.5, max_new_tokens=12
    )  # fmt: skip
    assert ids_of(PROMPT) + first["sequences"][0]["new_ids"] == ids[0].tolist()
    free = answer(capsys, folder, PROMPT, *options)
    again = answer(capsys, folder, PROMPT, *options, "--seed", str(free["seed"]))
    assert again == free, "the seed that was drawn repeats the text"
    seeds = {answer(capsys, folder, PROMPT, *options)["seed"] for _ in range(3)}
    assert len(seeds) == 3


def test_several_texts_and_where_each_ends(
    capsys: pytest.CaptureFixture[str], folder: Path, model: GPT2LMHeadModel
) -> None:
    options = ("--do-sample", "--num-return-sequences", "8", "--seed", "5", "--max-new-tokens", "14")
    found = answer(capsys, folder, PROMPT, *options)
    rows = [one["new_ids"] for one in found["sequences"]]
    assert len(rows) == 8
    assert len({len(row) for row in rows}) > 2, "choose a seed with which rows end at different lengths"
    for row in rows:
        assert row.index(END) == len(row) - 1 if END in row else len(row) == 14
    code, out, _ = call(capsys, folder, PROMPT, *options)
    assert code == 0
    assert re.findall(r"^--- (\d) of 8$", out, flags=re.MULTILINE) == list("12345678")
    assert all(f"\n{one['text']}\n" in out for one in found["sequences"])


def test_texts_end_with_a_stop_string(capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    options = ("--do-sample", "--seed", "5", "--max-new-tokens", "14", "--stop", "cat", "--stop", "the")
    found = answer(capsys, folder, "a dog", *options, "--num-return-sequences", "8")
    assert found["settings"]["stop_strings"] == ["cat", "the"]
    stopped = 0
    for one in found["sequences"]:
        words = [PIECES[number] for number in one["new_ids"]]
        places = [place for place, word in enumerate(words) if word in ("cat", "the", "[SEP]")]
        assert places == ([len(words) - 1] if places else [])
        stopped += bool(places) and words[-1] != "[SEP]"
    assert stopped > 2


def test_beams(capsys: pytest.CaptureFixture[str], folder: Path, model: GPT2LMHeadModel) -> None:
    options = ("--num-beams", "4", "--num-return-sequences", "3", "--max-new-tokens", "8", "--early-stopping", "never")
    found = answer(capsys, folder, PROMPT, *options)
    expected = model.generate(
        torch.tensor([ids_of(PROMPT)]), num_beams=4, num_return_sequences=3, max_new_tokens=8, early_stopping="never",
        return_dict_in_generate=True, output_scores=True,
    )  # fmt: skip
    scores = [one["score"] for one in found["sequences"]]
    assert scores == expected.sequences_scores.tolist() == sorted(scores, reverse=True)
    for one, ids, origins in zip(found["sequences"], expected.sequences, expected.beam_indices, strict=True):
        row = ids_of(PROMPT) + one["new_ids"]
        assert row == ids[: len(row)].tolist()
        assert one["beam_indices"] == origins[: len(one["new_ids"])].tolist()
    code, out, _ = call(capsys, folder, PROMPT, *options)
    assert code == 0
    assert f"--- 1 of 3, score {scores[0]:.4f}\n{found['sequences'][0]['text']}\n" in out


def naive_table(model: GPT2LMHeadModel, prompt: list[int], new: list[int]) -> list[tuple[float, int, float, float]]:
    """(probability, rank, cumulative, log-probability) of each token, from one forward over the whole text."""
    logits = model(torch.tensor([prompt + new])).logits[0].double()
    rows, total = [], 0.0
    for place, token in enumerate(new):
        probs = logits[len(prompt) + place - 1].softmax(-1).tolist()
        above = [p for p in probs if p > probs[token]]
        total += float(torch.tensor(probs[token]).double().log())
        rows.append((probs[token], len(above) + 1, sum(above) + probs[token], total))
    return rows


@pytest.mark.parametrize(
    "options",
    [
        (),
        ("--do-sample", "--seed", "11", "--top-k", "3", "--temperature", "2"),
        ("--num-beams", "3"),
        ("--num-beams", "4", "--num-beam-groups", "2", "--diversity-penalty", "0.5"),
        ("--num-beams", "3", "--force-words-ids", "9"),
        ("--penalty-alpha", "0.6", "--top-k", "4"),
        ("--prompt-lookup-num-tokens", "3"),
    ],
    ids=lambda options: options[0] if options else "greedy",
)
@torch.no_grad()
def test_table_of_probabilities(
    options: tuple[str, ...], capsys: pytest.CaptureFixture[str], folder: Path, model: GPT2LMHeadModel
) -> None:
    found = answer(capsys, folder, PROMPT, "--max-new-tokens", "8", "--show-probs", *options)
    (one,) = found["sequences"]
    table = one["tokens"]
    assert [row["id"] for row in table] == one["new_ids"]
    assert [row["step"] for row in table] == list(range(1, len(table) + 1))
    assert [row["token"] for row in table] == [PIECES[number] for number in one["new_ids"]]
    for row, (probability, rank, cumulative, total) in zip(
        table, naive_table(model, ids_of(PROMPT), one["new_ids"]), strict=True
    ):
        assert row["probability"] == pytest.approx(probability, abs=1e-5)
        assert row["rank"] == rank
        assert row["cumulative"] == pytest.approx(cumulative, abs=1e-5)
        assert row["log_probability"] == pytest.approx(total, abs=1e-4)
        if not options:
            assert row["after_settings"] == pytest.approx(probability, abs=1e-5)
        if "--top-k" in options and "--do-sample" in options:
            assert row["rank"] <= 3
            assert row["after_settings"] > probability

    code, out, _ = call(capsys, folder, PROMPT, "--max-new-tokens", "8", "--show-probs", *options)
    lines = out.splitlines()
    head = next(number for number, line in enumerate(lines) if line.split()[:2] == ["step", "id"])
    assert code == 0
    assert lines[head - 1] == ""
    assert lines[0] == one["text"]
    for line, row in zip(lines[head + 1 :], table, strict=False):
        assert line.split()[:2] == [str(row["step"]), str(row["id"])]
        assert line.endswith(f"{row['log_probability']:.4f}")
        assert len(line) == len(lines[head])  # aligned
        assert f'"{row["text"]}"' in line


def test_outputs_in_json(capsys: pytest.CaptureFixture[str], folder: Path, model: GPT2LMHeadModel) -> None:
    names = ("scores", "logits", "attentions", "hidden_states")
    options = [option(f"output_{name}") for name in names]
    found = answer(
        capsys, folder, PROMPT, "--max-new-tokens", "3", "--min-new-tokens", "3", "--attn", "eager", *options
    )
    wanted = {f"output_{name}": True for name in names}
    expected = model.generate(
        torch.tensor([ids_of(PROMPT)]), max_new_tokens=3, min_new_tokens=3, return_dict_in_generate=True, **wanted
    )
    assert found["logits"] == [step.tolist() for step in expected.logits]
    assert found["scores"][0][0][END] is None  # -inf, which JSON does not have
    assert [len(step) for step in found["attentions"]] == [2, 2, 2]  # layers
    assert torch.tensor(found["attentions"][0]).shape == (2, 1, 2, 4, 4)
    assert torch.tensor(found["hidden_states"][1]).shape == (3, 1, 1, 16)
    assert not {"scores", "logits"} & set(answer(capsys, folder, PROMPT, "--show-probs"))


def test_prompt_from_stdin_and_none(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, folder: Path, model: GPT2LMHeadModel
) -> None:
    def feed(content: bytes) -> None:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))

    feed(b"the cat\nsat\r\n")
    assert answer(capsys, folder, "-")["prompt_ids"] == ids_of(PROMPT)
    feed(b"fine\n\xff")
    code, out, err = call(capsys, folder, "-")
    assert (code, out) == (1, "")
    assert err == "error: stdin, byte 6: 0xff is not UTF-8; convert the text to UTF-8 first\n"
    found = answer(capsys, folder)
    assert found["prompt_ids"] == [2]
    assert [2, *found["sequences"][0]["new_ids"]] == model.generate()[0].tolist()
    assert answer(capsys, folder, "--bos-token-id", "9")["prompt_ids"] == [9]


def test_dtype_and_threads(capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    found = answer(capsys, folder, PROMPT, "--dtype", "float64", "--attn", "eager", "--threads", "2")
    assert (found["model"]["dtype"], found["model"]["attention"]) == ("float64", "eager")
    assert torch.get_num_threads() == 2


def test_bert_as_a_decoder(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    sizes = {"vocab_size": len(PIECES), "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = BertConfig(**sizes, intermediate_size=16, max_position_embeddings=32, is_decoder=True)
    model = randomise_(BertLMHeadModel(config)).eval()
    model.save_pretrained(tmp_path)
    (tmp_path / "vocab.txt").write_text("\n".join(PIECES) + "\n", encoding="utf-8")
    found = answer(capsys, tmp_path, PROMPT, "--max-new-tokens", "4")
    ids = model.generate(torch.tensor([ids_of(PROMPT)]), max_new_tokens=4)[0].tolist()
    assert ids_of(PROMPT) + found["sequences"][0]["new_ids"] == ids
    (tmp_path / "config.json").write_text(json.dumps({**config.to_dict(), "model_type": "bert", "is_decoder": False}))
    code, out, err = call(capsys, tmp_path, PROMPT)
    assert (code, out) == (1, "")
    assert "model_type 'bert' without is_decoder, an encoder" in err


def test_byte_level_tokens(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    for name in ("vocab.json", "merges.txt"):
        shutil.copy(shared_data("vocab", "gpt2") / name, tmp_path)
    config = GPT2Config(n_positions=32, n_embd=8, n_layer=1, n_head=2)
    model = randomise_(GPT2LMHeadModel(config)).eval()
    model.save_pretrained(tmp_path)
    rain = tokenizer_of(tmp_path).encode(" 遇🌧 rain")  # its first tokens are parts of characters
    bias = json.dumps([[[token], 9000.0 - 100 * place] for place, token in enumerate(rain)])
    options = ("--sequence-bias", bias, "--no-repeat-ngram-size", "1", "--max-new-tokens", str(len(rain)))
    code, out, err = call(capsys, tmp_path, "Hello world", *options, "--show-probs")
    assert (code, err) == (0, "")
    assert out.startswith("Hello world 遇🌧 rain\n\nstep")
    lines = out.splitlines()[3 : 3 + len(rain)]
    assert '" rain"' in lines[-1]
    assert "\ufffd" not in out
    assert re.search(r" \d\.\de-\d\d +\d+ ", lines[0]), "a small probability says how small"
    found = answer(capsys, tmp_path, "Hello world", *options, "--stop", "🌧")
    assert found["prompt_ids"] == [15496, 995]
    assert found["sequences"][0]["new_ids"] == rain[:-1]
    assert found["sequences"][0]["new_text"] == " 遇🌧"


def test_a_text_cannot_steer_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    from minitf.cli_generate import shown

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    assert shown("a\x1b[31mb\nc\td\u202e") == "a\x1b[31mb\nc\td\u202e"  # a file gets what was generated
    monkeypatch.setattr(sys, "stdout", Terminal())
    assert shown("a\x1b[31mb\nc\td\u202e 中👍") == "a\\x1b[31mb\nc\td\\u202e 中👍"


# --------------------------------------------------------------------------------------------------------------------
# Every setting

VALUES: dict[str, tuple[str, Any, str]] = {
    # setting: what is written, its value, what is refused
    "max_length": ("30", 30, "0"),
    "max_new_tokens": ("9", 9, "1.5"),
    "min_length": ("4", 4, "-1"),
    "min_new_tokens": ("2", 2, "x"),
    "max_time": ("2.5", 2.5, "0"),
    "stop_strings": ("old", ["old"], ""),
    "do_sample": ("", True, "=1"),
    "num_beams": ("3", 3, "0"),
    "num_beam_groups": ("2", 2, "two"),
    "penalty_alpha": ("0.6", 0.6, "1.1"),
    "force_words_ids": ("[[5, 6], [[7], [8, 9]]]", [[5, 6], [[7], [8, 9]]], "[5]"),
    "prompt_lookup_num_tokens": ("3", 3, "0"),
    "early_stopping": ("never", "never", "always"),
    "length_penalty": ("-1.5", -1.5, "nan"),
    "diversity_penalty": ("0.5", 0.5, "x"),
    "temperature": ("0.7", 0.7, "0"),
    "top_k": ("0", 0, "-1"),
    "top_p": ("0.9", 0.9, "1.1"),
    "min_p": ("0.1", 0.1, "2"),
    "top_h": ("0.4", 0.4, "0"),
    "typical_p": ("0.9", 0.9, "0"),
    "epsilon_cutoff": ("0.01", 0.01, "1"),
    "eta_cutoff": ("0.01", 0.01, "-0.1"),
    "repetition_penalty": ("1.2", 1.2, "0"),
    "no_repeat_ngram_size": ("2", 2, "-2"),
    "bad_words_ids": ("5,6", [[5, 6]], "[5, 6]"),
    "sequence_bias": ("[[[5, 6], -2.0]]", [[[5, 6], -2.0]], "[[5, 6]]"),
    "suppress_tokens": ("5,6", [5, 6], "5,-6"),
    "begin_suppress_tokens": ("[5]", [5], "[]"),
    "forced_bos_token_id": ("5", 5, "-1"),
    "forced_eos_token_id": ("5,6", [5, 6], "5 6"),
    "exponential_decay_length_penalty": ("3,1.05", (3, 1.05), "3"),
    "guidance_scale": ("1.5", 1.5, "0"),
    "remove_invalid_values": ("", True, "=yes"),
    "renormalize_logits": ("", True, "=yes"),
    "num_assistant_tokens": ("4", 4, "0"),
    "num_assistant_tokens_schedule": ("heuristic", "heuristic", "linear"),
    "assistant_confidence_threshold": ("0.3", 0.3, "7"),
    "max_matching_ngram_size": ("3", 3, "0"),
    "pad_token_id": ("1", 1, "-1"),
    "bos_token_id": ("2", 2, "1.0"),
    "eos_token_id": ("5", 5, "null"),
    "num_return_sequences": ("3", 3, "0"),
    "use_cache": ("", True, "=0"),
    "output_scores": ("", True, "=0"),
    "output_logits": ("", True, "=0"),
    "output_attentions": ("", True, "=0"),
    "output_hidden_states": ("", True, "=0"),
}


def test_every_setting_is_an_option_in_the_sections_of_its_file() -> None:
    source = (REPOSITORY / "minitf" / "generation" / "config.py").read_text(encoding="utf-8")
    settings = source.split("-- how long")[1].split("_REFUSED")[0]
    titles = ["how long", *re.findall(r"^    # -- (.+?) -+$", settings, flags=re.MULTILINE)]
    names = re.findall(r"^    (\w+): [^=\n]+ = ", settings, flags=re.MULTILINE)
    assert [title.split(" (")[0] for title in titles if title not in ("how long",)] == list(SECTIONS)[1:]
    listed = [name for section in SECTIONS.values() for name in section]
    assert [name for name in names if name not in NOT_OPTIONS] == listed
    assert {field.name for field in fields(GenerationConfig)} == {*listed, *NOT_OPTIONS} == set(names)
    assert set(VALUES) == set(listed)


@pytest.mark.parametrize("name", VALUES)
def test_each_option_is_read_and_checked(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    text, value, wrong = VALUES[name]
    parser = generate_parser()
    arguments = parser.parse_strictly(["F", "p", option(name), *([text] if text else [])])
    assert given_settings(arguments) == {name: value}
    assert getattr(GenerationConfig(**given_settings(arguments)), name) == value
    if value is True:
        negative = parser.parse_strictly(["F", "--no-" + name.replace("_", "-")])
        assert given_settings(negative) == {name: False}
    glued = f"{option(name)}{wrong}" if wrong.startswith("=") else f"{option(name)}={wrong}"
    code, out, err = call(capsys, "F", "p", glued)
    assert (code, out) == (2, "")
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert option(name) in err or "--stop" in err


def test_help_names_everything(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = call(capsys, "--help")
    assert code == 0
    for section, settings in SECTIONS.items():
        assert f"\n{section}:\n" in out
        assert all(f"{option(name)}" in out for name in settings)
    for name, default in (("top-k", "50"), ("temperature", "1.0"), ("num-assistant-tokens", "20")):
        assert re.search(rf"--{name} .*?\(default:\s+{re.escape(default)}\)", out, flags=re.DOTALL), name
    assert max(map(len, out.splitlines())) <= 120
    assert set(given_settings(generate_parser().parse_strictly(["F"]))) == set()


def test_options_follow_every_strategy_of_the_help(
    capsys: pytest.CaptureFixture[str], folder: Path, tmp_path: Path
) -> None:
    """The table at the head of --help is true."""
    _, out, _ = call(capsys, "--help")
    rows = re.findall(r"^  (greedy search|sampling|\w+ (?:beam )?(?:search|sampling|decoding)) {2,}(.*)$", out, re.M)
    assert len(rows) == 8
    seen = set()
    for name, rest in rows:
        options = re.split(r" {3,}", rest.split(", or")[0])[0].replace("FOLDER", str(folder)).split()
        options = [] if options[0] == "(no" else options
        strategy = answer(capsys, folder, PROMPT, "--max-new-tokens", "6", *options)["strategy"]
        aliases = {"sampling": "sample", "beam sampling": "beam_sample", "diverse beam search": "group_beam_search"}
        assert strategy == aliases.get(name, name.replace(" ", "_"))
        seen.add(strategy)
    assert seen == set(STRATEGIES) - {"prompt_lookup"}
    lookup = answer(capsys, folder, PROMPT, "--prompt-lookup-num-tokens", "10")
    assert lookup["strategy"] == "prompt_lookup"


def test_help_and_usage_errors_do_not_import_torch(folder: Path) -> None:
    code = (
        "import sys; from minitf.cli import main\n"
        f"folder = {str(folder)!r}\n"
        "assert main(['generate', '--help']) == 0\n"
        "assert main(['generate', folder, 'x', '--top-p', '0.5']) == 2\n"
        "assert main(['generate', folder, 'x', '--seed', '1']) == 2\n"
        "assert main(['generate', folder + 'gone', 'x']) == 1\n"
        "assert 'torch' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=REPOSITORY, check=False)
    assert done.returncode == 0, done.stderr


# --------------------------------------------------------------------------------------------------------------------
# Errors


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ((), "required: FOLDER"),
        (("TINY", "a", "b"), "2 prompts: 'a', 'b'; expected one: put a text with blanks in quotes"),
        (("TINY", "a", "--ids", "5"), "PROMPT and --ids are both the prompt"),
        (("TINY", "--ids", "5,x"), "argument --ids: '5,x': expected token ids, like 2,8,14"),
        (("TINY", "--ids", ""), "expected token ids"),
        (("TINY", "a", "--topp", "0.5"), "no option --topp, did you mean --top-p?"),
        (("TINY", "a", "--constraints", "x"), "no option --constraints: constraints are Python objects"),
        (("TINY", "a", "--return-dict-in-generate"), "no option --return-dict-in-generate: the command prints text"),
        (("TINY", "a", "--top-p", "0.5"), "--top-p 0.5 has no effect in greedy_search"),
        (("TINY", "a", "--length-penalty", "2"), "--length-penalty 2.0 has no effect in greedy_search"),
        (("TINY", "a", "--do-sample", "--early-stopping", "true"), "--early-stopping True has no effect in sample"),
        (("TINY", "a", "--num-assistant-tokens", "5"), "it belongs to assisted_decoding"),
        (("TINY", "a", "--num-beams", "2", "--penalty-alpha", "0.5"), "contrastive_search keeps one sequence"),
        (("TINY", "a", "--num-beam-groups", "2"), "group_beam_search needs num_beams > 1"),
        (("TINY", "a", "--seed", "1"), "--seed 1 has no effect in greedy_search, which draws nothing"),
        (("TINY", "a", "--do-sample", "--seed", "x"), "argument --seed: 'x' is not a number from 0"),
        (("TINY", "a", "--output-scores"), "--output-scores has no effect without --json"),
        (("TINY", "a", "--json", "--skip-prompt"), "--skip-prompt has no effect with --json"),
        (("TINY", "a", "--bos-token-id", "5"), "--bos-token-id has no effect with a prompt"),
        (("TINY", "a", "--threads", "0"), "argument --threads: '0' is not a number of 1 or more"),
        (("TINY", "a", "--device", "abacus"), "--device abacus: not a device"),
        (("TINY", "a", "--dtype", "int8"), "invalid choice: 'int8'"),
    ],
)
def test_wrong_calls(options: tuple[str, ...], words: str, capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    code, out, err = call(capsys, *[str(folder) if word == "TINY" else word for word in options])
    assert (code, out) == (2, "")
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert words in err


def test_failures(capsys: pytest.CaptureFixture[str], folder: Path, tmp_path: Path) -> None:
    bare = tmp_path / "bare"
    shutil.copytree(folder, bare)
    (bare / "vocab.txt").unlink()
    other = tmp_path / "t5"
    shutil.copytree(folder, other)
    (other / "config.json").write_text('{"model_type": "t5"}')
    plain = tmp_path / "plain"  # BERT's tokenizer without [CLS] and [SEP], so that no text has no tokens
    shutil.copytree(folder, plain)
    (plain / "tokenizer_config.json").write_text(
        '{"tokenizer_class": "BertTokenizer", "cls_token": null, "sep_token": null}'
    )
    (tmp_path / "empty").mkdir()
    small = tmp_path / "small"
    GPT2LMHeadModel(GPT2Config(vocab_size=9, n_positions=8, n_embd=8, n_layer=1, n_head=2)).save_pretrained(small)
    for argv, words in (
        (("nofolder", "x"), "'nofolder': no such folder, and no model of that name"),
        ((tmp_path / "empty", "x"), "holds no config.json (it holds: nothing)"),
        (
            (minilm_folder(), "x"),
            "an encoder, in which every token sees those after it; expected gpt2",
        ),
        ((other, "x"), "has model_type 't5'; implemented are 'bert', 'gpt2'"),
        ((bare, "x"), "or pass the prompt as numbers: --ids 2,8,14"),
        ((plain, ""), "the prompt '' has no tokens"),
        ((folder, "--ids", "5,99"), "input_ids[0, 1] = 99, but vocab_size is 27"),
        ((folder, "--bos-token-id", "27"), "bos_token_id[0, 0] = 27, but vocab_size is 27"),
        ((folder, "cat " * 47), "the prompt has 48 positions, as many as the model (48)"),
        ((folder, "cat", "--max-new-tokens", "47"), "at most 46 new tokens fit"),
        ((folder, "cat", "--max-length", "2"), "leaves no room for new tokens"),
        ((folder, "cat", "--max-length", "9", "--max-new-tokens", "9"), "give one of them"),
        ((folder, "cat", "--num-beams", "2", "--num-return-sequences", "3"), "is more than num_beams = 2"),
        ((folder, "cat", "--assistant", tmp_path / "gone"), "no such file or folder"),
        ((folder, "cat", "--assistant", minilm_folder()), "an encoder"),
        ((folder, "cat", "--assistant", small), "vocab"),
        ((folder, "cat", "--device", "cuda:99"), "--device cuda:99 cannot be used here"),
    ):
        code, out, err = call(capsys, *argv)
        assert (code, out) == (1, ""), argv
        assert err.startswith("error: "), argv
        assert err.count("\n") == 1, argv
        assert words in err, argv
    code, out, err = call(capsys, bare, "--ids", "5,6", "--stop", "x")
    assert (code, out) == (2, "")
    assert "--stop compares text, and there is no tokenizer in" in err


def test_a_head_that_is_not_in_the_checkpoint_is_not_made_up(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """A BERT trunk as a decoder: the head would be random, and so would be the text."""
    for name in ("tokenizer.json", "tokenizer_config.json", "model.safetensors"):
        shutil.copy(minilm_folder() / name, tmp_path)
    config = json.loads((minilm_folder() / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "is_decoder": True}))
    code, out, err = call(capsys, tmp_path, "x")
    assert (code, out) == (1, "")
    assert "cls.predictions" in err


def test_what_was_written_before_an_error_stands_on_a_line_of_its_own(
    capsys: pytest.CaptureFixture[str], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forward = GPT2LMHeadModel.forward

    def broken(self: Any, *args: Any, **kwargs: Any) -> Any:
        output = forward(self, *args, **kwargs)
        if kwargs["past_key_values"].get_seq_length() > 6:
            output.logits[..., 3] = float("nan")
        return output

    monkeypatch.setattr(GPT2LMHeadModel, "forward", broken)
    code, out, err = call(capsys, folder, PROMPT, "--max-new-tokens", "9", "--suppress-tokens", str(END))
    assert code == 1
    assert out.startswith(PROMPT)
    assert out.endswith("\n")
    assert err.startswith("error: step 4 of generation: the model's scores of row 0 hold nan")
