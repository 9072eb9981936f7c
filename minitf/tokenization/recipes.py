"""What a tokenizer is made of, as data: a recipe, from which the plain Python and the fast form are both built.

`WordPieceRecipe` is BERT's, `ByteLevelRecipe` GPT-2's. A recipe comes from vocabulary files and options, or from a
tokenizer.json that holds exactly such a pipeline; `backend()` gives the `tokenizers.Tokenizer` that does the same.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from minitf.tokenization.template import PLAIN, Slot, Template, bert_template


class NotThisPipeline(ValueError):
    """A tokenizer.json that is in order, but holds another pipeline than the recipe's."""


@dataclass(frozen=True)
class WordPieceRecipe:
    """BERT: clean, put blanks around CJK characters, strip accents, lower-case, split at blanks and punctuation, then
    cut each word greedily into the longest pieces.

    strip_accents None: as lower_case. never_split: words that are left as they are. basic=False: split at blanks only,
    without clean-up. cleanup: decoding removes blanks before punctuation.
    """

    vocabulary: Mapping[str, int]
    unk_token: str = "[UNK]"
    prefix: str = "##"
    longest_word: int = 100
    lower_case: bool = True
    strip_accents: bool | None = None
    chinese: bool = True
    clean: bool = True
    basic: bool = True
    never_split: tuple[str, ...] = ()
    cleanup: bool = True

    def backend(self) -> Tokenizer | None:
        """The same on the `tokenizers` library; None if that has nothing like it (basic=False, never_split)."""
        if not self.basic or self.never_split:
            return None
        model = models.WordPiece(
            dict(self.vocabulary),
            unk_token=self.unk_token,
            continuing_subword_prefix=self.prefix,
            max_input_chars_per_word=self.longest_word,
        )
        backend = Tokenizer(model)
        backend.normalizer = normalizers.BertNormalizer(
            clean_text=self.clean,
            handle_chinese_chars=self.chinese,
            strip_accents=self.strip_accents,
            lowercase=self.lower_case,
        )
        backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        backend.decoder = decoders.WordPiece(prefix=self.prefix, cleanup=self.cleanup)
        return backend

    @staticmethod
    def of_json(content: Mapping[str, Any]) -> WordPieceRecipe:
        """The recipe of a parsed tokenizer.json.

        Raises:
            NotThisPipeline: it holds anything else; the message names the part.
        """
        model, normalizer = content["model"], content.get("normalizer")
        _expect("model", model, "WordPiece")
        if normalizer is not None:
            _expect("normalizer", normalizer, "BertNormalizer")
        _expect("pre_tokenizer", content.get("pre_tokenizer"), "BertPreTokenizer")
        _expect("decoder", content.get("decoder"), "WordPiece")
        decoder = content["decoder"]
        if decoder["prefix"] != model["continuing_subword_prefix"]:
            raise NotThisPipeline(f"its decoder joins {decoder['prefix']!r}")
        off = {"clean_text": False, "handle_chinese_chars": False, "strip_accents": False, "lowercase": False}
        normalizer = normalizer or off
        return WordPieceRecipe(
            vocabulary=model["vocab"],
            unk_token=model["unk_token"],
            prefix=model["continuing_subword_prefix"],
            longest_word=model["max_input_chars_per_word"],
            lower_case=normalizer["lowercase"],
            strip_accents=normalizer["strip_accents"],
            chinese=normalizer["handle_chinese_chars"],
            clean=normalizer["clean_text"],
            cleanup=decoder["cleanup"],
        )

    def files(self) -> dict[str, str]:
        """vocab.txt, one piece a line; {} if a piece holds a line end, which such a file cannot say."""
        return wordpiece_files(self.vocabulary)


@dataclass(frozen=True)
class ByteLevelRecipe:
    """GPT-2: split by the published pattern, write each byte as a character, merge pairs by rank.

    unk_token: stands for bytes that the vocabulary lacks; None if it has all 256. errors: what decoding does with bytes
    that are no UTF-8 ("replace", "ignore", "strict").
    """

    vocabulary: Mapping[str, int]
    merges: Sequence[tuple[str, str]]
    unk_token: str | None = None
    add_prefix_space: bool = False
    errors: str = "replace"

    def backend(self) -> Tokenizer | None:
        """The same on the `tokenizers` library; None if that has nothing like it (errors other than "replace")."""
        if self.errors != "replace":
            return None
        backend = Tokenizer(models.BPE(dict(self.vocabulary), list(self.merges), unk_token=self.unk_token))
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=self.add_prefix_space)
        backend.decoder = decoders.ByteLevel()
        return backend

    @staticmethod
    def of_json(content: Mapping[str, Any]) -> ByteLevelRecipe:
        """The recipe of a parsed tokenizer.json.

        Raises:
            NotThisPipeline: it holds anything else; the message names the part.
        """
        model, splitter = content["model"], content.get("pre_tokenizer")
        _expect("model", model, "BPE")
        for name in ("dropout", "continuing_subword_prefix", "end_of_word_suffix", "byte_fallback", "ignore_merges"):
            if model.get(name):
                raise NotThisPipeline(f"its BPE model has {name}={model[name]!r}")
        if model.get("unk_token") and model.get("fuse_unk"):
            raise NotThisPipeline("its BPE model has fuse_unk=True")
        if content.get("normalizer") is not None:
            raise NotThisPipeline(f"its normalizer is {content['normalizer'].get('type')}, not none")
        _expect("pre_tokenizer", splitter, "ByteLevel")
        assert splitter is not None  # else the line before has raised
        _expect("decoder", content.get("decoder"), "ByteLevel")
        if not splitter.get("use_regex", True):
            raise NotThisPipeline("its ByteLevel pre_tokenizer has use_regex=False")
        merges = pairs_of(model["merges"])
        return ByteLevelRecipe(
            vocabulary=model["vocab"],
            merges=merges,
            unk_token=model.get("unk_token"),
            add_prefix_space=splitter["add_prefix_space"],
        )

    def files(self) -> dict[str, str]:
        """vocab.json and merges.txt."""
        return byte_level_files(self.vocabulary, self.merges)


def _expect(part: str, found: Mapping[str, Any] | None, kind: str) -> None:
    actual = "none" if found is None else model_kind(found)
    if actual != kind:
        raise NotThisPipeline(f"its {part} is {actual}, not {kind}")


def model_kind(part: Mapping[str, Any]) -> str:
    """The type of a part of a tokenizer.json. Old files name none for the model: WordPiece and BPE differ in merges."""
    return str(part.get("type") or ("BPE" if "merges" in part else "WordPiece"))


def pairs_of(merges: Sequence[Any]) -> list[tuple[str, str]]:
    """The merges of a tokenizer.json, "a b" in old files and ["a", "b"] in new ones."""
    parts = (pair.split(" ") if isinstance(pair, str) else pair for pair in merges)
    return [(first, second) for first, second in parts]


def wordpiece_files(vocabulary: Mapping[str, int]) -> dict[str, str]:
    """vocab.txt, one piece a line; {} if a piece holds a line end, which such a file cannot say."""
    if any("\n" in piece or "\r" in piece for piece in vocabulary):
        return {}
    return {"vocab.txt": "".join(f"{piece}\n" for piece in sorted(vocabulary, key=vocabulary.__getitem__))}


def byte_level_files(vocabulary: Mapping[str, int], merges: Sequence[tuple[str, str]]) -> dict[str, str]:
    """vocab.json, and merges.txt with its classic first line."""
    in_order = {piece: vocabulary[piece] for piece in sorted(vocabulary, key=vocabulary.__getitem__)}
    lines = ["#version: 0.2", *(" ".join(pair) for pair in merges)]
    return {
        "vocab.json": json.dumps(in_order, ensure_ascii=False) + "\n",
        "merges.txt": "".join(f"{line}\n" for line in lines),
    }


def added_tokens_of(content: Mapping[str, Any]) -> dict[int, AddedToken]:
    """Id to token, of the added tokens in a parsed tokenizer.json."""
    flags = ("single_word", "lstrip", "rstrip", "normalized", "special")
    return {
        int(entry["id"]): AddedToken(entry["content"], **{flag: bool(entry.get(flag, False)) for flag in flags})
        for entry in content.get("added_tokens") or ()
    }


def template_of(content: Mapping[str, Any]) -> Template | None:
    """What a parsed tokenizer.json puts around texts; None for post-processors other than the common ones."""
    processor = content.get("post_processor")
    kind = None if processor is None else processor["type"]
    if processor is None or (kind == "ByteLevel" and not processor.get("trim_offsets", True)):
        return PLAIN
    if kind == "BertProcessing":
        (sep, sep_id), (cls, cls_id) = processor["sep"], processor["cls"]
        return bert_template((cls, cls_id), (sep, sep_id))
    if kind != "TemplateProcessing":
        return None
    tables = processor["special_tokens"]
    if any(len(entry["ids"]) != 1 for entry in tables.values()):
        return None

    def slot(piece: Mapping[str, Any]) -> Slot:
        if "Sequence" in piece:
            return Slot(piece["Sequence"]["type_id"], sequence=int(piece["Sequence"]["id"] == "B"))
        entry = tables[piece["SpecialToken"]["id"]]
        return Slot(piece["SpecialToken"]["type_id"], entry["tokens"][0], entry["ids"][0])

    return Template(tuple(map(slot, processor["single"])), tuple(map(slot, processor["pair"])))


def processor_of(template: Template) -> processors.TemplateProcessing:
    """The post-processor of the `tokenizers` library that does what a template says."""

    def piece(slot: Slot) -> str:
        return f"{slot.token if slot.token is not None else '$' + 'AB'[slot.sequence]}:{slot.type_id}"

    specials = {(slot.token, slot.id) for slot in (*template.single, *template.pair) if slot.token is not None}
    return processors.TemplateProcessing(
        single=[piece(slot) for slot in template.single],
        pair=[piece(slot) for slot in template.pair],
        special_tokens=sorted(specials),
    )
