"""Streamers beside transformers' own: the same pieces of text, at the same tokens."""

from __future__ import annotations

import queue
import threading
from typing import Any

import pytest
import torch
import transformers
from transformers.generation import streamers as theirs

from minitf.generation.streamers import BaseStreamer, CallbackStreamer, TextIteratorStreamer, TextStreamer
from minitf.tokenization import BertTokenizer
from tests.support import shared_data

TEXTS = [
    "An increasing sequence: one, two, three. It's done",
    "First line\nsecond line\n\n  indented, end.\n",
    "中文文本：停止。继续，停止停 English 混合 text\n新行",
    "emoji 😀😃 and 👍🏽 flags 🇩🇪 end😀",
    "naïve café déjà vu — “quoted” … ça",
    "日本語のテキスト ひらがな 漢字 한국어",
    "<|endoftext|>special tokens<|endoftext|>",
    "x",
]


@pytest.fixture(scope="module")
def byte_level() -> Any:
    """OpenAI's byte-level BPE of 50,257 tokens."""
    return transformers.GPT2Tokenizer.from_pretrained(shared_data("vocab", "gpt2"))


@pytest.fixture(scope="module")
def wordpiece() -> tuple[Any, Any]:
    """Google's Chinese WordPiece, in transformers and in minitf."""
    folder = shared_data("vocab", "bert-base-chinese")
    return transformers.BertTokenizer.from_pretrained(folder), BertTokenizer(folder / "vocab.txt")


def recording(base: Any) -> Any:
    """A subclass of a text streamer that keeps its pieces."""

    class Recording(base):  # type: ignore[misc]
        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **options)
            self.pieces: list[tuple[str, bool]] = []

        def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
            self.pieces.append((text, stream_end))

    return Recording


def stream(streamer: Any, ids: list[int], prompt: int) -> None:
    """As generate() does: the prompt `[1, T]`, each token `[1]`, the end."""
    streamer.put(torch.tensor([ids[:prompt]]))
    for token in ids[prompt:]:
        streamer.put(torch.tensor([token]))
    streamer.end()


OPTIONS: list[dict[str, Any]] = [
    {},
    {"skip_prompt": True},
    {"skip_special_tokens": True},
    {"skip_prompt": True, "clean_up_tokenization_spaces": True},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_the_pieces_of_transformers_from_bytes(byte_level: Any, options: dict[str, Any]) -> None:
    """Also with two sequences through one streamer, and the prompt cut at each place."""
    for text in TEXTS:
        ids = byte_level(text)["input_ids"]
        expected = recording(theirs.TextStreamer)(byte_level, **options)
        found = recording(TextStreamer)(byte_level, **options)
        for prompt in range(1, len(ids) + 1):
            stream(expected, ids, prompt)
            stream(found, ids, prompt)
        assert found.pieces == expected.pieces, text
        assert len(found.pieces) == len(expected.pieces) >= len(ids)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_the_pieces_of_transformers_from_words(wordpiece: tuple[Any, Any], options: dict[str, Any]) -> None:
    for text in TEXTS:
        ids = wordpiece[0](text)["input_ids"]
        expected = recording(theirs.TextStreamer)(wordpiece[0], **options)
        for tokenizer in wordpiece:
            found = recording(TextStreamer)(tokenizer, **options)
            expected.pieces.clear()
            stream(expected, ids, 3)
            stream(found, ids, 3)
            assert found.pieces == expected.pieces, text


def test_no_piece_breaks_a_character_and_nothing_is_lost(byte_level: Any) -> None:
    for text in TEXTS:
        found = recording(TextStreamer)(byte_level)
        stream(found, byte_level(text)["input_ids"], 1)
        assert "".join(piece for piece, _ in found.pieces) == text
        assert not any("\ufffd" in piece for piece, _ in found.pieces)


def test_text_comes_as_soon_as_it_is_final(byte_level: Any) -> None:
    streamer = recording(TextStreamer)(byte_level)
    seen = []
    for token in byte_level("one two 中文\nx")["input_ids"]:
        streamer.put(torch.tensor([token]))
        seen.append("".join(piece for piece, _ in streamer.pieces))
    assert "one " in seen
    assert "one two 中" in seen
    assert "one two 中文\n" in seen
    assert seen[-1] == "one two 中文\n"


def test_printing(byte_level: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """The prompt, a space that shows that a word is complete, and a line break at the end."""
    for text in TEXTS:
        ids = byte_level(text)["input_ids"]
        stream(theirs.TextStreamer(byte_level), ids, 1)
        expected = capsys.readouterr().out
        stream(TextStreamer(byte_level), ids, 1)
        assert capsys.readouterr().out == expected == text + "\n"


def test_a_failed_generation_leaves_nothing_behind(byte_level: Any) -> None:
    streamer = recording(TextStreamer)(byte_level, skip_prompt=True)
    ids = byte_level("prompt held back")["input_ids"]
    streamer.put(torch.tensor([ids[:1]]))
    streamer.put(torch.tensor(ids[1:2]))
    streamer.fail(ValueError("broken"))
    streamer.pieces.clear()
    stream(streamer, ids, 1)
    assert "".join(piece for piece, _ in streamer.pieces) == byte_level.decode(ids[1:])


# --------------------------------------------------------------------------------------------------------------------
# Iterator


def test_iterating_in_another_thread(byte_level: Any) -> None:
    for text in TEXTS:
        ids = byte_level(text)["input_ids"]
        expected, found = (
            theirs.TextIteratorStreamer(byte_level, timeout=60),
            TextIteratorStreamer(byte_level, timeout=60),
        )
        stream(expected, ids, 1)
        thread = threading.Thread(target=stream, args=(found, ids, 1))
        thread.start()
        assert list(found) == list(expected)
        thread.join()
        with pytest.raises(StopIteration):
            next(found)


def test_each_loop_reads_one_sequence(byte_level: Any) -> None:
    streamer = TextIteratorStreamer(byte_level, timeout=60)
    for text in ("one two", "three"):
        stream(streamer, byte_level(text)["input_ids"], 1)
    assert "".join(streamer) == "one two"
    assert "".join(streamer) == "three"


def test_a_failure_in_the_other_thread_ends_the_loop(byte_level: Any) -> None:
    streamer = TextIteratorStreamer(byte_level, timeout=60)
    error = RuntimeError("the model is broken")

    def generate() -> None:
        streamer.put(torch.tensor([byte_level("one two")["input_ids"]]))
        streamer.fail(error)

    thread = threading.Thread(target=generate)
    thread.start()
    read = []
    with pytest.raises(RuntimeError, match="the model is broken") as caught:
        read.extend(iter(streamer))
    thread.join()
    assert caught.value is error
    with pytest.raises(StopIteration):
        next(streamer)
    stream(streamer, byte_level("three")["input_ids"], 1)
    assert "".join(streamer) == "three"


def test_waiting_is_limited_by_the_timeout(byte_level: Any) -> None:
    streamer = TextIteratorStreamer(byte_level, timeout=0.01)
    with pytest.raises(queue.Empty, match=r"no text came within timeout = 0.01 seconds"):
        next(streamer)


# --------------------------------------------------------------------------------------------------------------------
# Callback


def test_callback_with_ids() -> None:
    seen: list[int] = []
    streamer = CallbackStreamer(seen.append)
    for _ in range(2):
        stream(streamer, [5, 6, 7, 8], 2)
    assert seen == [7, 8, 7, 8]
    seen.clear()
    stream(CallbackStreamer(seen.append, skip_prompt=False), [5, 6, 7, 8], 2)
    assert seen == [5, 6, 7, 8]


def test_callback_with_text(byte_level: Any) -> None:
    for text in TEXTS:
        ids = byte_level(text)["input_ids"]
        for options in OPTIONS:
            seen: list[str] = []
            expected = recording(theirs.TextStreamer)(byte_level, **{"skip_prompt": True, **options})
            streamer = CallbackStreamer(seen.append, byte_level, **options)
            for _ in range(2):
                stream(expected, ids, 1)
                stream(streamer, ids, 1)
            assert seen == [piece for piece, _ in expected.pieces if piece]


def test_callback_after_a_failure(byte_level: Any) -> None:
    seen: list[Any] = []
    for streamer in (CallbackStreamer(seen.append), CallbackStreamer(seen.append, byte_level)):
        streamer.put(torch.tensor([[5, 6]]))
        streamer.put(torch.tensor([7]))
        streamer.fail(ValueError("broken"))
        seen.clear()
        stream(streamer, [5, 6, 7, 8], 2)
        assert seen in ([7, 8], [byte_level.decode([7, 8])])


# --------------------------------------------------------------------------------------------------------------------
# Errors


def test_a_batch_is_refused(byte_level: Any) -> None:
    for streamer in (TextStreamer(byte_level), TextIteratorStreamer(byte_level), CallbackStreamer(print)):
        for shape in ((2, 3), (1, 2, 3), (0, 3)):
            with pytest.raises(ValueError, match=rf"{type(streamer).__name__} got ids of shape .*Generate one prompt"):
                streamer.put(torch.zeros(shape, dtype=torch.long))


def test_options_without_a_tokenizer() -> None:
    for option in ({"skip_special_tokens": True}, {"clean_up_tokenization_spaces": False}):
        with pytest.raises(ValueError, match="have no effect on ids"):
            CallbackStreamer(print, **option)
    with pytest.raises(TypeError, match="skip_specials"):
        TextStreamer(None, skip_specials=True)


def test_the_base_class_is_the_protocol() -> None:
    streamer = BaseStreamer()
    with pytest.raises(NotImplementedError, match=r"BaseStreamer has no put\(ids\)"):
        streamer.put(torch.zeros(1))
    with pytest.raises(NotImplementedError, match=r"BaseStreamer has no end\(\)"):
        streamer.end()
    streamer.fail(ValueError())
