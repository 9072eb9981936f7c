"""Every comment like `# [B, H, T, D]` is true: the models run, and each is compared with the real shape."""

from __future__ import annotations

import importlib.util
import itertools
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from minitf import BertConfig, GPT2Config, attention, cache, losses, masks, pretrained
from minitf.cache import KVCache, StaticKVCache
from minitf.generation import beams, sampling
from minitf.generation import run as generation_run
from minitf.models import bert, gpt2, gpt2_step
from tests.docs.shape_comments import Sizes, UnreadableComment, Watcher, comments_of, declared_letters

# All sizes differ from each other and from the numbers 1 and 2 that stand in comments.
SIZES: Sizes = {"B": 6, "T": 5, "H": 3, "D": 4, "C": 12, "F": 20, "V": 31, "L": 7, "N": 8, "S": 5}
PAST, ENCODER = 9, 11
DECODER = {**SIZES, "S": PAST + SIZES["T"]}
CROSS = {**SIZES, "S": ENCODER}
MINIMUM = {"bert": 45, "gpt2": 30, "attention": 12, "masks": 9, "losses": 4, "pretrained": 3, "cache": 1}
MINIMUM |= {"gpt2_step": 15, "run": 13, "sampling": 10, "beams": 25}

MODULES = [bert, gpt2, attention, masks, losses, pretrained, cache, gpt2_step, generation_run, sampling, beams]


def config(**settings: Any) -> BertConfig:
    sizes = {"vocab_size": 31, "hidden_size": 12, "num_attention_heads": 3, "intermediate_size": 20}
    others = {"num_hidden_layers": 7, "max_position_embeddings": 16, "num_labels": 8}
    return BertConfig(**{**sizes, **others, **settings})


def ids(batch: int = 6, length: int = 5) -> Tensor:
    return torch.randint(1, 31, (batch, length), generator=torch.Generator().manual_seed(0))


def padding(batch: int = 6, length: int = 5) -> Tensor:
    mask = torch.ones(batch, length, dtype=torch.long)
    mask[1:, -1] = 0
    return mask


def run_encoders(watcher: Watcher) -> None:
    """The encoder with every kind of position, mask, head mask and attention function."""
    full = torch.ones(6, 5, 5, dtype=torch.long).tril()
    head_masks = [
        torch.ones(3),
        torch.ones(7, 3),
        torch.ones(6, 7, 3),
        torch.ones(7, 1, 3, 1, 1),
        torch.ones(7, 6, 3, 5, 5),
    ]
    for kind, implementation in itertools.product(
        ["absolute", "relative_key", "relative_key_query"], ["eager", "sdpa"]
    ):
        model = bert.BertModel(config(position_embedding_type=kind, attn_implementation=implementation)).eval()
        with watcher.watching(SIZES):
            model(ids())
            model(ids(), attention_mask=padding(), output_attentions=True, output_hidden_states=True)
            model(inputs_embeds=torch.zeros(6, 5, 12), attention_mask=full)
            for head_mask in head_masks:
                model(ids(), head_mask=head_mask)
    with watcher.watching(SIZES):
        bert.BertModel(config(chunk_size_feed_forward=5, gradient_checkpointing=True)).train()(ids())


def run_decoders(watcher: Watcher) -> None:
    """The decoder that has a past, with an encoder beside it."""
    states = torch.zeros(6, ENCODER, 12)
    for kind in ("absolute", "relative_key_query"):
        settings = {"position_embedding_type": kind, "is_decoder": True, "add_cross_attention": True}
        model = bert.BertLMHeadModel(config(**settings)).eval()
        past = KVCache()
        with torch.no_grad(), watcher.watching({**SIZES, "T": PAST, "S": PAST}, {**SIZES, "T": PAST, "S": ENCODER}):
            model(ids(6, PAST), encoder_hidden_states=states, past_key_values=past)
        with torch.no_grad(), watcher.watching(DECODER, CROSS):
            model(
                ids(),
                attention_mask=padding(6, PAST + 5),
                encoder_hidden_states=states,
                encoder_attention_mask=padding(6, ENCODER),
                past_key_values=past,
                output_attentions=True,
                labels=ids(),
            )
        with watcher.watching(CROSS, {**SIZES, "S": 5}):
            model(ids(), encoder_hidden_states=states, encoder_attention_mask=torch.ones(6, 5, ENCODER).tril())


def run_heads(watcher: Watcher) -> None:
    """Every head with labels, in every problem type."""
    text = {"input_ids": ids(), "attention_mask": padding()}
    one = torch.arange(6) % 2
    several: dict[type[Any], list[dict[str, Any]]] = {
        bert.BertForPreTraining: [{"labels": ids(), "next_sentence_label": one}],
        bert.BertLMHeadModel: [{"labels": ids()}],
        bert.BertForMaskedLM: [{"labels": ids()}],
        bert.BertForNextSentencePrediction: [{"labels": one}],
        bert.BertForSequenceClassification: [{"labels": one}, {"labels": torch.ones(6, 8)}],
        bert.BertForTokenClassification: [{"labels": ids() % 8}],
        bert.BertForQuestionAnswering: [{"start_positions": one, "end_positions": one}],
    }
    for model_class, runs in several.items():
        labels = 2 if model_class is bert.BertForQuestionAnswering else 8
        model = model_class(config(num_labels=labels))
        with watcher.watching(SIZES):
            for given in runs:
                model(**text, **given)
    with watcher.watching({**SIZES, "N": 1}):
        bert.BertForSequenceClassification(config(num_labels=1))(**text, labels=torch.ones(6))
    choice = bert.BertForMultipleChoice(config())
    with watcher.watching(SIZES, {**SIZES, "B": 6 * 8}):
        choice(ids(48).view(6, 8, 5), attention_mask=padding(48).view(6, 8, 5), labels=one)
    problem = bert.BertForSequenceClassification(config(problem_type="multi_label_classification"))
    with watcher.watching(SIZES):
        problem(**text, labels=torch.ones(6, 8, dtype=torch.long))


def gpt2_config(**settings: Any) -> GPT2Config:
    sizes = {
        "vocab_size": 31,
        "n_embd": 12,
        "n_head": 3,
        "n_inner": 20,
        "n_layer": 7,
        "n_positions": 16,
        "num_labels": 8,
    }
    return GPT2Config(**{**sizes, "bos_token_id": 1, "eos_token_id": 1, "pad_token_id": 0, **settings})


def run_gpt2(watcher: Watcher) -> None:
    """GPT-2 with a past, beside an encoder, in half precision that is widened, and all of its heads."""
    model = gpt2.GPT2LMHeadModel(gpt2_config(add_cross_attention=True, reorder_and_upcast_attn=True)).eval().bfloat16()
    states = torch.zeros(6, ENCODER, 12, dtype=torch.bfloat16)
    encoder = {"encoder_hidden_states": states, "encoder_attention_mask": padding(6, ENCODER)}
    past = KVCache()
    with torch.no_grad(), watcher.watching({**SIZES, "T": PAST, "S": PAST}, {**SIZES, "T": PAST, "S": ENCODER}):
        model(ids(6, PAST), past_key_values=past, **encoder)
    with torch.no_grad(), watcher.watching(DECODER, CROSS):
        model(ids(), attention_mask=padding(6, PAST + 5), past_key_values=past, output_attentions=True, **encoder)
    static = StaticKVCache(gpt2_config(), batch=6, max_length=PAST + 5)
    with torch.no_grad(), watcher.watching(DECODER):
        gpt2.GPT2Model(gpt2_config()).eval()(ids(), past_key_values=static)
    one, text = torch.arange(6) % 2, {"input_ids": ids(), "attention_mask": padding()}
    with watcher.watching(SIZES):
        gpt2.GPT2Model(gpt2_config())(ids(), token_type_ids=ids(), attention_mask=torch.ones(6, 5, 5).tril())
        gpt2.GPT2LMHeadModel(gpt2_config())(**text, labels=ids())
        gpt2.GPT2ForSequenceClassification(gpt2_config())(**text, labels=one)
        gpt2.GPT2ForTokenClassification(gpt2_config())(**text, labels=ids() % 8)
        gpt2.GPT2ForQuestionAnswering(gpt2_config(num_labels=2))(**text, start_positions=one, end_positions=one)
    with watcher.watching(SIZES, {**SIZES, "B": 6 * 8}):
        choices = ids(48).view(6, 8, 5)
        gpt2.GPT2DoubleHeadsModel(gpt2_config())(
            choices, mc_token_ids=torch.ones(6, 8, dtype=torch.long), mc_labels=one, labels=choices
        )


def run_functions(watcher: Watcher) -> None:
    """What no model reaches: the sliding window, an empty row under every function, a step in half precision."""
    with watcher.watching(DECODER):
        joined = masks.both(masks.window(5, 14, 3), masks.padding(padding(6, 14)))
        assert joined is not None
        joined[0, :, 2] = False
        masks.positions_from_mask(padding(6, 14))
        query, key = torch.zeros(6, 3, 5, 4), torch.zeros(6, 3, 14, 4)
        bias = torch.zeros(6, 3, 5, 14)
        for function in (attention.eager, attention.sdpa):
            function(nn.Identity(), query, key, key, joined, scale=0.5, dropout=0.0, bias=bias)
            function(nn.Identity(), query, key, key, None, scale=0.5, dropout=0.0, bias=bias)
    single, past = torch.zeros(6, 3, 1, 4).bfloat16(), key.bfloat16()
    with torch.no_grad(), watcher.watching({**DECODER, "T": 1}):
        attention.sdpa(nn.Identity(), single, past, past, None, scale=0.5, dropout=0.0, bias=bias[:, :, :1].bfloat16())


def run_generation(watcher: Watcher) -> None:
    """The loops over a prompt of 5, padded, that grows to 8; with a cache and without; half precision; embeddings."""
    model = gpt2.GPT2LMHeadModel(gpt2_config(n_layer=2)).eval()
    text = {"input_ids": ids(), "attention_mask": padding().flip(1)}
    settings: dict[str, Any] = {"max_new_tokens": 3, "eos_token_id": [1, 2], "pad_token_id": 0}
    lengths = [
        {"T": length, "S": length, "length": length, "count": 1, "n_positions": 16, "L": 2} for length in range(5, 9)
    ]
    rows = [{**SIZES, **one, "new": new} for one in lengths for new in (one["T"], 1)]
    with watcher.watching(*rows):
        for given in ({}, {"do_sample": True}, {"use_cache": False, "token_type_ids": ids()}):
            model.generate(**text, **settings, **given)
        model.generate(ids(), **settings)
    with watcher.watching(*rows, *({**one, "T": 1} for one in rows)):  # the attention of half precision has its own T
        model.bfloat16().generate(**text, **settings)
    without_ids = [{**one, "T": one["T"] - 5, "new": new} for one in rows for new in (0, 1, 2)]
    states = torch.randn(6, 5, 12, generator=torch.Generator().manual_seed(0))
    with watcher.watching(*rows, *without_ids):
        for given in ({"do_sample": True}, {"use_cache": False}):
            places = torch.arange(5).expand(6, -1)
            model.float().generate(
                inputs_embeds=states, position_ids=places, **{**settings, "eos_token_id": 30}, **given
            )
    every = [{**one, "B": batch, "T": time} for one in rows for batch in (6, 24) for time in (one["T"], 1)]
    searched = [{**SIZES, "B": 6, "K": 4, "C": 12, "T": one["T"], "N": 3, "results": 2} for one in lengths]
    with watcher.watching(*every, *searched):
        for given in ({"head_mask": torch.ones(6, 2, 3)}, {"do_sample": True}):
            model.generate(**text, **settings, **given, num_beams=4, num_return_sequences=2)


RUNS = [run_encoders, run_decoders, run_heads, run_gpt2, run_functions, run_generation]


@pytest.fixture(scope="module")
def watcher() -> Watcher:
    torch.manual_seed(0)
    watcher = Watcher(*MODULES)
    for run in RUNS:
        run(watcher)
    return watcher


def test_every_comment_is_true(watcher: Watcher) -> None:
    assert watcher.mistakes == {}


def test_every_comment_was_compared(watcher: Watcher) -> None:
    """A comment that no run reaches proves nothing: add a run above."""
    assert watcher.unseen() == []


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.__name__)
def test_there_are_comments_and_their_letters_are_declared(watcher: Watcher, module: ModuleType) -> None:
    comments = comments_of(Path(str(module.__file__)))
    name = module.__name__.rpartition(".")[2]
    assert len(comments) >= MINIMUM[name]
    if module is pretrained:
        return  # two lines; the docstring beside them says what the letters are
    used = set().union(*(comment.letters for comment in comments.values()))
    assert used <= declared_letters(module)


def test_the_models_are_themselves_again(watcher: Watcher) -> None:
    assert "__shape_comment__" not in bert.BertModel.forward.__code__.co_names


# --------------------------------------------------------------------------------------------------------------------
# The check is checked

SOURCE = '''"""Dimension letters: B batch, T positions."""
import torch
def right(x):
    y = x[:, None]  # [B, 1, T]
    return x, y  # [B, T], [B, 1, T]
def wrong(x):
    y = x.transpose(0, 1)  # [B, T]
    return y, x  # [T, B], [T, B]
def too_few(x):
    return x, x, x  # [B, T], [B, T]
class Module:
    def __init__(self, size):
        self.size = size
    @property
    def wide(self):
        return torch.zeros(2 * self.size, 1)  # [2B, 1]
    @staticmethod
    def several(x, many):
        a = [x] * 3  # [B, T] each
        b, c = x, "text"  # [B, T], ...
        d = x[:1] if many else x  # [1 or B, T]; whatever
        e = x[0] if many else x  # [B, T] or broadcastable
        f: torch.Tensor = x if many else x.T  # [B, T] or [T, B]
        a += [
            x,
        ]  # [B, T]
        return a
def never(x):
    return x  # [B, T]
def reads_a_list(x):
    y = x  # see the table
    return y[0]  # noqa: X  # [T]
'''


def load(folder: Path, source: str) -> Any:
    path = folder / "sample.py"
    path.write_text(source, encoding="utf-8")
    spec = importlib.util.spec_from_file_location("sample", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_wrong_comments_are_caught_and_right_ones_are_not(tmp_path: Path) -> None:
    module = load(tmp_path, SOURCE)
    watcher, x = Watcher(module), torch.zeros(3, 4)
    with watcher.watching({"B": 3, "T": 4}):
        module.right(x)
        module.Module(3).wide  # noqa: B018
        module.Module.several(x, True)
        module.Module.several(x, False)
        module.reads_a_list(x)
        assert watcher.mistakes == {}
        assert module.wrong(x)[1] is x
        module.too_few(x)
    assert {mistake.partition(": ")[0]: shapes for mistake, shapes in watcher.mistakes.items()} == {
        "sample.py:7": "[4, 3] with [{'B': 3, 'T': 4}]",
        "sample.py:8": "[4, 3], [3, 4] with [{'B': 3, 'T': 4}]",
        "sample.py:10": "3 values",
    }
    assert [text.partition(": ")[0] for text in watcher.unseen()] == [f"sample.py:{n}" for n in (7, 8, 10, 29)]
    assert declared_letters(module) == {"B", "T"}
    before = len(watcher.mistakes)
    module.wrong(x)  # outside of the watch nothing is compared
    assert len(watcher.mistakes) == before


def test_unreadable_comment_is_an_error(tmp_path: Path) -> None:
    for comment in ("[B T]x", "shape [B, T]", "[B, T] and so on", "[B, [T]]"):
        module = load(tmp_path, f"def f(x):\n    return x  # {comment}\n")
        with pytest.raises(UnreadableComment, match=r"sample\.py:2: cannot read the shapes in '# "):
            Watcher(module)


def test_sizes_are_not_mixed_from_two_alternatives(tmp_path: Path) -> None:
    module = load(tmp_path, "def f(x):\n    return x, x.T  # [B, S], [S, B]\n")
    for shape, right in [((3, 4), True), ((3, 5), True), ((4, 5), False), ((3, 3), False)]:
        watcher = Watcher(module)
        with watcher.watching({"B": 3, "S": 4}, {"B": 3, "S": 5}):
            module.f(torch.zeros(shape))
        assert (watcher.mistakes == {}) is right


@pytest.mark.parametrize("line", ["foo(x)  # [B, T]", "if x.any():  # [B, T]\n        pass"])
def test_comment_that_belongs_to_no_value(tmp_path: Path, line: str) -> None:
    module = load(tmp_path, f"def f(x):\n    {line}\n")
    watcher = Watcher(module)
    with pytest.raises(UnreadableComment, match="end no assignment or return, lines 2"), watcher.watching({"B": 1}):
        pass


def test_unknown_letters_do_not_fit_anything(tmp_path: Path) -> None:
    module = load(tmp_path, "def f(x):\n    return x  # [B, Q]\n")
    watcher = Watcher(module)
    with watcher.watching({"B": 3}):
        module.f(torch.zeros(3, 3))
    assert len(watcher.mistakes) == 1
