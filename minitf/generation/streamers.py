"""Streamers: text while it is being generated.

    streamer.put(ids)       the prompt [1, T] first, then each new token [1]
    streamer.end()          the sequence is complete
    streamer.fail(error)    generation stopped with this exception, which the caller of generate() gets as well

A streamer follows one sequence, so the batch is 1. Names and parameters are those of transformers 5.23, and so are the
pieces in which text comes; the options of `decode` are spelled out.

The text of a token is not final when it comes: a byte-level token can be half a character, and in WordPiece the next
token may continue the word. So text is held back until the last space, except that a line break or a Chinese,
Japanese or Korean ideograph is final at once.
"""

from __future__ import annotations

import queue
from collections.abc import Callable
from typing import Any, overload

from torch import Tensor

__all__ = ["BaseStreamer", "CallbackStreamer", "TextIteratorStreamer", "TextStreamer"]

# https://www.unicode.org/charts/: CJK ideographs, their extensions A to E, and compatibility ideographs
_IDEOGRAPHS = [
    (0x4E00, 0x9FFF), (0x3400, 0x4DBF), (0x20000, 0x2A6DF), (0x2A700, 0x2B73F), (0x2B740, 0x2B81F), (0x2B820, 0x2CEAF),
    (0xF900, 0xFAFF), (0x2F800, 0x2FA1F),
]  # fmt: skip


class BaseStreamer:
    """Base class of streamers, and the protocol: any object with `put` and `end` is one."""

    def put(self, value: Tensor) -> None:
        """Take ids: `[1, T]` of the prompt, then `[1]` of each new token, on the CPU."""
        raise NotImplementedError(f"{type(self).__name__} has no put(ids): every streamer needs one.")

    def end(self) -> None:
        """The sequence is complete."""
        raise NotImplementedError(f"{type(self).__name__} has no end(): every streamer needs one.")

    def fail(self, error: BaseException) -> None:
        """Generation stopped with this exception. Only streamers that another thread waits for need to do anything."""


class TextStreamer(BaseStreamer):
    """Prints text as soon as it is final.

    A subclass that does something else with the text overrides `on_finalized_text`.

    Args:
        tokenizer: has `decode(ids, skip_special_tokens=, ...)`.
        skip_prompt: leave out the prompt.
        skip_special_tokens: leave out special tokens.
        clean_up_tokenization_spaces: close spaces before punctuation; None = as the tokenizer does by default.

    Raises:
        ValueError: when called, a batch of more than one.
    """

    def __init__(
        self,
        tokenizer: Any,
        skip_prompt: bool = False,
        *,
        skip_special_tokens: bool = False,
        clean_up_tokenization_spaces: bool | None = None,
    ) -> None:
        self.tokenizer = tokenizer
        self.skip_prompt = skip_prompt
        self.decode_options = {"skip_special_tokens": skip_special_tokens}
        if clean_up_tokenization_spaces is not None:
            self.decode_options["clean_up_tokenization_spaces"] = clean_up_tokenization_spaces
        self._begin()

    def _begin(self) -> None:
        self._expects_prompt = True
        self._ids: list[int] = []  # of the current line
        self._shown = 0  # characters of its text that are out

    def put(self, value: Tensor) -> None:
        ids = _row(self, value)
        if self.skip_prompt and self._expects_prompt:
            self._expects_prompt = False
            return
        self._ids += ids
        text = self._text()
        if text.endswith("\n"):  # nothing that follows can change it, so decoding can begin anew
            self.on_finalized_text(text[self._shown :])
            self._ids, self._shown = [], 0
            return
        final = len(text) if text and _is_ideograph(text[-1]) else text.rfind(" ") + 1
        self.on_finalized_text(text[self._shown : final])
        self._shown = max(self._shown, final)

    def end(self) -> None:
        rest = self._text()[self._shown :]
        self._begin()
        self.on_finalized_text(rest, stream_end=True)

    def fail(self, error: BaseException) -> None:
        """Forget what was held back, so that the next generation begins anew."""
        self._begin()

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        """Take the next piece, possibly empty; `stream_end` says that it is the last."""
        print(text, flush=True, end="\n" if stream_end else "")

    def _text(self) -> str:
        return str(self.tokenizer.decode(self._ids, **self.decode_options)) if self._ids else ""


def _row(streamer: BaseStreamer, value: Tensor) -> list[int]:
    """The ids of the only row."""
    if value.dim() > 2 or (value.dim() == 2 and len(value) != 1):
        raise ValueError(
            f"{type(streamer).__name__} got ids of shape {list(value.shape)}: it follows one sequence, expected "
            "[1, T] or [T]. Generate one prompt at a time, without beams and with num_return_sequences=1."
        )
    return [int(i) for i in value.reshape(-1).tolist()]


def _is_ideograph(character: str) -> bool:
    return any(first <= ord(character) <= last for first, last in _IDEOGRAPHS)


class TextIteratorStreamer(TextStreamer):
    """An iterator over the pieces of text, for another thread than the one that generates.

        streamer = TextIteratorStreamer(tokenizer)
        Thread(target=model.generate, kwargs={**inputs, "streamer": streamer}).start()
        for piece in streamer:
            ...

    A loop ends with the sequence; another loop waits for the next one. If generation fails, the loop raises the
    same exception.

    Args:
        tokenizer, skip_prompt, skip_special_tokens, clean_up_tokenization_spaces: as `TextStreamer`.
        timeout: seconds to wait for a piece; None = without limit.

    Raises:
        queue.Empty: while iterating, no piece came within `timeout`.
    """

    def __init__(
        self,
        tokenizer: Any,
        skip_prompt: bool = False,
        timeout: float | None = None,
        *,
        skip_special_tokens: bool = False,
        clean_up_tokenization_spaces: bool | None = None,
    ) -> None:
        super().__init__(
            tokenizer,
            skip_prompt,
            skip_special_tokens=skip_special_tokens,
            clean_up_tokenization_spaces=clean_up_tokenization_spaces,
        )
        self.timeout = timeout
        self._queue: queue.Queue[str | BaseException | None] = queue.Queue()  # None = the sequence is complete
        self._finished = False

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        self._queue.put(text)
        if stream_end:
            self._queue.put(None)

    def fail(self, error: BaseException) -> None:
        super().fail(error)
        self._queue.put(error)

    def __iter__(self) -> TextIteratorStreamer:
        self._finished = False
        return self

    def __next__(self) -> str:
        if self._finished:
            raise StopIteration
        try:
            piece = self._queue.get(timeout=self.timeout)
        except queue.Empty:
            raise queue.Empty(
                f"no text came within timeout = {self.timeout} seconds: is generate(streamer=...) running in another "
                "thread?"
            ) from None
        if isinstance(piece, str):
            return piece
        self._finished = True
        if piece is None:
            raise StopIteration
        raise piece


class CallbackStreamer(BaseStreamer):
    """Calls a function with each new token, or with each piece of text.

    Args:
        function: called with an id, or, with a tokenizer, with a piece of text that is final and not empty.
        tokenizer: turns ids into text; None = ids.
        skip_prompt: leave out the prompt, whose ids would otherwise come first.
        skip_special_tokens, clean_up_tokenization_spaces: as `TextStreamer`; only with a tokenizer.

    Raises:
        ValueError: an option of decoding without a tokenizer; when called, a batch of more than one.
    """

    @overload
    def __init__(self, function: Callable[[int], object], *, skip_prompt: bool = True) -> None: ...
    @overload
    def __init__(
        self,
        function: Callable[[str], object],
        tokenizer: Any,
        skip_prompt: bool = True,
        *,
        skip_special_tokens: bool = False,
        clean_up_tokenization_spaces: bool | None = None,
    ) -> None: ...
    def __init__(
        self,
        function: Callable[[Any], object],
        tokenizer: Any = None,
        skip_prompt: bool = True,
        *,
        skip_special_tokens: bool = False,
        clean_up_tokenization_spaces: bool | None = None,
    ) -> None:
        if tokenizer is None and (skip_special_tokens or clean_up_tokenization_spaces is not None):
            raise ValueError(
                "skip_special_tokens and clean_up_tokenization_spaces have no effect on ids: pass the tokenizer as "
                "well, or leave them out."
            )
        self.function = function
        self.skip_prompt = skip_prompt
        self._expects_prompt = True
        self._text: TextStreamer | None = None
        if tokenizer is not None:
            self._text = _PiecesTo(
                function,
                tokenizer,
                skip_prompt,
                skip_special_tokens=skip_special_tokens,
                clean_up_tokenization_spaces=clean_up_tokenization_spaces,
            )

    def put(self, value: Tensor) -> None:
        ids = _row(self, value)
        if self._text is not None:
            self._text.put(value)
        elif not (self.skip_prompt and self._expects_prompt):
            for token in ids:
                self.function(token)
        self._expects_prompt = False

    def end(self) -> None:
        self._expects_prompt = True
        if self._text is not None:
            self._text.end()

    def fail(self, error: BaseException) -> None:
        self._expects_prompt = True
        if self._text is not None:
            self._text.fail(error)


class _PiecesTo(TextStreamer):
    """Hands the pieces that are not empty to a function."""

    def __init__(self, function: Callable[[str], object], *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.function = function

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        if text:
            self.function(text)
