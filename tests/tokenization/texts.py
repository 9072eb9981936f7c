"""The texts that every tokenizer is tried on. Imports nothing, because the golden script uses it too."""

from __future__ import annotations

TEXTS = {
    "english": "Here is some text to encode",
    "punctuation": "It's a nice day, isn't it? (Yes!) -- 3,000.50 $ a_b e-mail@x.org",
    "contractions": "I'm sure they'll've said 'S what's THAT'S we'd 'tis don''t '",
    "chinese": "遇见被老师提问问题",
    "mixed": "BERT是Google发布的model，2018年。",
    "japanese and korean": "日本語のテキスト 한국어 텍스트",
    "emoji with joiners": "family 👨‍👩‍👧‍👦 flag 🏳️‍🌈 wave 👋🏽!",
    "accents": "Héllò Çà va? naïve Zürich Ångström ĲSSELMEER İstanbul",
    "decomposed accents": "Cafe\u0301 n\u0303",
    "sigma at the end": "ΟΔΟΣ ΣΣ Σ.",
    "control characters": "a\x00b\x07c\u200bd\ufffde\u00adf",
    "blanks": "  a\t\tb\n\nc\u00a0d\u3000e\u2028f ",
    "many blanks": "a   b \n\n  c     ",
    "separators": "a\x1cb\x1fc\x85d\x0be",
    "right to left": "שלום עולם مرحبا بالعالم",
    "numbers": "12,345 ½ ² ٣ Ⅳ 7th x2y",
    "empty": "",
    "only spaces": "   \t \n ",
    "one very long word": "x" * 150,
    "word of 100 characters": "a" * 100,
    "word of 101 characters": "a" * 101,
    "special tokens inside": "a [SEP] b [MASK][CLS] c [pad] [PAD]x [UNK] <|endoftext|> y<|endoftext|>z",
    "continuation marks": "##ing a##b ##",
    "code": 'def f(x):\n    return {"a": x**2}  # Ġ Ċ é',
    "private and unassigned": "a\ue000b\U000e0041c\U00030000",
    "long": "the quick brown fox jumps over it " * 60,
}
PAIRS = [
    ("How are you?", "I am fine, thanks."),
    ("short", "a much longer second text, with many more words in it"),
    ("a", " "),
]
