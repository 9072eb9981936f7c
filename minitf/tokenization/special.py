"""The special tokens of a tokenizer as attributes, and adding tokens to its vocabulary."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from tokenizers import AddedToken

from minitf.keywords import nearest_name
from minitf.tokenization.engine import Engine
from minitf.tokenization.options import SPECIAL_TOKENS, added_token, checked, content_of
from minitf.tokenization.template import Template


class SpecialToken:
    """Attribute `pad_token`: the token or None. Setting it checks that the vocabulary has it (ValueError if not)."""

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, tokenizer: SpecialTokens, owner: type) -> str | None:
        return tokenizer._special[self.name]

    def __set__(self, tokenizer: SpecialTokens, value: str | AddedToken | None) -> None:
        tokenizer._set_special(self.name, checked(self.name, value, type(tokenizer).__name__))


class SpecialTokenId:
    """Attribute `pad_token_id`: the id of `pad_token`, or None. Setting it sets the token."""

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name.removesuffix("_id")

    def __get__(self, tokenizer: SpecialTokens, owner: type) -> int | None:
        token = tokenizer._special[self.name]
        return None if token is None else tokenizer._id_of(token)

    def __set__(self, tokenizer: SpecialTokens, value: int | None) -> None:
        tokenizer._set_special(self.name, None if value is None else tokenizer._tokens_of([value])[0])


class SpecialTokens:
    """The part of a tokenizer that knows its special and its added tokens. A token that is None does not exist."""

    DEFAULTS: ClassVar[Mapping[str, Any]]

    bos_token, bos_token_id = SpecialToken(), SpecialTokenId()
    eos_token, eos_token_id = SpecialToken(), SpecialTokenId()
    unk_token, unk_token_id = SpecialToken(), SpecialTokenId()
    sep_token, sep_token_id = SpecialToken(), SpecialTokenId()
    pad_token, pad_token_id = SpecialToken(), SpecialTokenId()
    cls_token, cls_token_id = SpecialToken(), SpecialTokenId()
    mask_token, mask_token_id = SpecialToken(), SpecialTokenId()

    _engine: Engine
    _special: dict[str, str | None]
    _extra: list[str]
    _keep_template: bool

    def _make_template(self) -> Template:
        """What the family puts around texts, from the special tokens as they are now."""
        raise NotImplementedError

    def _refresh_template(self) -> None:
        if not self._keep_template:
            self._engine.template = self._make_template()

    def _with_id(self, token: str | None) -> tuple[str, int] | None:
        return None if token is None else (token, self._id_of(token))

    def _id_of(self, token: str) -> int:
        if not isinstance(token, str):
            raise TypeError(f"a token is of type {type(token).__name__}, expected str: {token!r}")
        number = self._engine.token_to_id(token)
        if number is None and self.unk_token is not None:
            number = self._engine.token_to_id(self.unk_token)
        if number is None:
            raise ValueError(f"{token!r} is not in the vocabulary and there is no unk_token to stand for it")
        return number

    def _tokens_of(self, ids: Sequence[int]) -> list[str]:
        tokens = []
        for position, number in enumerate(ids):
            token = self._engine.id_to_token(number) if number >= 0 else None
            if token is None:
                last = self._engine.size(added=True) - 1
                raise ValueError(f"id {number} at position {position} is outside the vocabulary (0 to {last})")
            tokens.append(token)
        return tokens

    def _set_special(self, name: str, token: str | None) -> None:
        fixed = self._engine.model_unk
        if name == "unk_token" and fixed is not None and token != self._special[name]:
            raise ValueError(f"unk_token is {fixed!r} inside the model and cannot change to {token!r} after loading")
        if token is not None:
            if self._engine.token_to_id(token) is None:
                size = self._engine.size(added=True)
                raise ValueError(
                    f"{name} {token!r} is not in the vocabulary of {size} tokens; set one that it has, or add it with "
                    f"add_special_tokens({{{name!r}: {token!r}}}) and resize the model's embedding"
                )
            self._add([added_token(token, special=True)])
        self._special[name] = token
        self._refresh_template()

    def _add(self, tokens: Sequence[AddedToken]) -> int:
        """Add what is not there yet, or with other flags; the number of new ids."""
        present = {token.content: token for token in self._engine.added_tokens().values()}
        new = [
            token for token in tokens if token.content not in present or token.special > present[token.content].special
        ]
        before = self._engine.size(added=True)
        self._engine.add(new)
        return self._engine.size(added=True) - before

    def add_tokens(
        self,
        new_tokens: str | AddedToken | Sequence[str | AddedToken],
        special_tokens: bool = False,
    ) -> int:
        """Add tokens to the vocabulary; they are found in a text before it is split, and are never cut into pieces.

        new_tokens: one or several, as text or as `tokenizers.AddedToken` (which says whether blanks around it belong to
            it, whether it must be a word of its own, and whether it is looked for in the normalized text).
        special_tokens: they are special: left out by `decode(skip_special_tokens=True)`. Default False. A token that is
            special already stays so.

        Returns the number of new ids (0 for what the vocabulary has already): `len(tokenizer)` grows by it, and the
        model needs `resize_token_embeddings(len(tokenizer))`.

        Raises TypeError for what is no token, ValueError for an empty one.
        """
        several = [new_tokens] if isinstance(new_tokens, str | AddedToken) else list(new_tokens)
        present = {token.content for token in self._engine.added_tokens().values() if token.special}
        tokens = [added_token(token, special=special_tokens or content_of(token) in present) for token in several]
        before = self._engine.size(added=True)
        self._engine.add(tokens)
        return self._engine.size(added=True) - before

    def add_special_tokens(
        self,
        special_tokens_dict: Mapping[str, Any],
        replace_additional_special_tokens: bool = True,
    ) -> int:
        """Set special tokens, and add those that the vocabulary lacks.

        special_tokens_dict: attribute name ("pad_token", ...) to token, and "additional_special_tokens" to a list.
        replace_additional_special_tokens: the list replaces the one that was there (whose tokens stay in the
            vocabulary); False appends. Default True.

        Returns the number of new ids: `len(tokenizer)` grows by it, and the model needs
        `resize_token_embeddings(len(tokenizer))`. Raises TypeError for what is no mapping or no token, ValueError for a
        name that is no special token, and for another unk_token where the model has one inside.
        """
        if not isinstance(special_tokens_dict, Mapping):
            raise TypeError(
                f"add_special_tokens() takes a dict such as {{'pad_token': '[PAD]'}}, got "
                f"{type(special_tokens_dict).__name__}; for a list of tokens: add_tokens(..., special_tokens=True)"
            )
        names = (*SPECIAL_TOKENS, *_EXTRA_NAMES)
        for name in special_tokens_dict:
            if name not in names:
                hint = nearest_name(str(name), names) or f"; known are {', '.join(names)}"
                raise ValueError(f"add_special_tokens(): {name!r} is no special token{hint}")
        named = {name: value for name, value in special_tokens_dict.items() if name in SPECIAL_TOKENS}
        unk = content_of(named.get("unk_token", self.unk_token))
        if self._engine.model_unk is not None and unk != self.unk_token:
            self._set_special("unk_token", unk)  # raises
        tokens = [added_token(value, special=True) for value in named.values()]
        extra: list[AddedToken] = []
        for name in _EXTRA_NAMES:
            values = special_tokens_dict.get(name, ())
            if isinstance(values, str) or not isinstance(values, Sequence):
                raise TypeError(f"add_special_tokens(): {name} is {values!r}, expected a list of tokens")
            extra += [added_token(value, special=True) for value in values]
        number = self._add([*tokens, *extra])
        for name, token in zip(named, tokens, strict=True):
            self._special[name] = token.content
        if any(name in special_tokens_dict for name in _EXTRA_NAMES):
            kept = [] if replace_additional_special_tokens else self._extra
            self._extra = list(dict.fromkeys([*kept, *(token.content for token in extra)]))
        self._refresh_template()
        return number

    @property
    def additional_special_tokens(self) -> list[str]:
        """The special tokens that have no attribute of their own (a copy)."""
        return list(self._extra)

    @property
    def extra_special_tokens(self) -> list[str]:
        """`additional_special_tokens` by the name that transformers 5 gave it."""
        return list(self._extra)

    @property
    def additional_special_tokens_ids(self) -> list[int]:
        """The ids of `additional_special_tokens`."""
        return [self._id_of(token) for token in self._extra]

    @property
    def special_tokens_map(self) -> dict[str, str]:
        """Attribute name to token, for the special tokens that there are."""
        return {name: token for name, token in self._special.items() if token is not None}

    @property
    def all_special_tokens(self) -> list[str]:
        """The named special tokens, then the additional ones, each once."""
        return list(dict.fromkeys([*self.special_tokens_map.values(), *self._extra]))

    @property
    def all_special_ids(self) -> list[int]:
        """The ids of `all_special_tokens`."""
        return [self._id_of(token) for token in self.all_special_tokens]

    @property
    def added_tokens_decoder(self) -> dict[int, AddedToken]:
        """Id to token, of all tokens that are found in a text before it is split; special tokens are among them."""
        return self._engine.added_tokens()

    @property
    def added_tokens_encoder(self) -> dict[str, int]:
        """Token to id, of the same tokens."""
        return {token.content: number for number, token in self._engine.added_tokens().items()}

    def get_added_vocab(self) -> dict[str, int]:
        """The same as `added_tokens_encoder`."""
        return self.added_tokens_encoder


_EXTRA_NAMES = ("additional_special_tokens", "extra_special_tokens")
