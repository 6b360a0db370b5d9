"""Small tokenizers of every supported family, trained in a moment on a text that has a bit of everything."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache, partial

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

TEXT = (
    "the cat isn't the dog's  friend, they're 12 and 345 and 1000 years old;\n\n  we've said THE END.\r\n"
    "\tfor i in range(10):\n        print(i,  'a b')\n    x = y  \n it'll   be  ABCs aB  naïve café übel İs\n"
    "中文字 中文  字中\n한국 한국  الع 😀😀 ٣٤ ²³ e\u0301a\u0301  --- /* ok */ ///\n\n\n" * 3
)
TINY = "as's  1a 11 111  1111 é a\n\n  aé 's as\n 1s   as  a  éé 's's\n\n\n as sa as sa's 1as 'a\n a  \n" * 2
"""A text over TINY_CHARS only, for vocabularies small enough to enumerate."""
TINY_CHARS = "as' 1\né"
CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
PATTERNS = {
    "llama3": CONTRACTIONS
    + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    "qwen": CONTRACTIONS
    + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    "cl100k": r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}| ?[^\s\p{L}\p{N}]++[\r\n]*+"
    r"|\s++\z|\s*[\r\n]|\s+(?!\S)|\s",
    "o200k": r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
    + CONTRACTIONS
    + r"?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
    + CONTRACTIONS
    + r"?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    "tekken": r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    "right-digits": r"\p{N}{1,3}(?=(?:\p{N}{3})*(?!\p{N}))|[^\s\p{N}]+|\s+",
}


def _byte_level(*before: pre_tokenizers.PreTokenizer, regex: bool = False) -> pre_tokenizers.PreTokenizer:
    last = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=regex)
    return pre_tokenizers.Sequence([*before, last]) if before else last


def _trained(pre_tokenizer: pre_tokenizers.PreTokenizer, merges: int, more: str = "") -> Tokenizer:
    """`merges` below 50 asks for a tiny one: trained on TINY, with its bytes only."""
    tiny = merges < 50
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizer
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=merges + (9 if tiny else 257) + 2 * bool(more),
        special_tokens=["<|end|>"],
        initial_alphabet=[] if tiny else sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator([TINY if tiny else TEXT, more], trainer)
    return tokenizer


def byte_level(pattern: str | None = None, merges: int = 120) -> Tokenizer:
    """Byte-level BPE: GPT-2's cuts, or those of a pattern of PATTERNS."""
    if pattern is None:
        return _trained(_byte_level(regex=True), merges)
    split = pre_tokenizers.Split(Regex(PATTERNS[pattern]), "isolated")
    return _trained(_byte_level(split), merges)


def uncut(merges: int = 120) -> Tokenizer:
    """Byte-level BPE without cuts; the training text is cut, or one token would swallow it."""
    trained = json.loads(byte_level(merges=merges).to_str())
    trained["pre_tokenizer"]["use_regex"] = False
    return Tokenizer.from_str(json.dumps(trained))


def starcoder(merges: int = 120) -> Tokenizer:
    """Single digits, then GPT-2's cuts."""
    return _trained(_byte_level(pre_tokenizers.Digits(individual_digits=True), regex=True), merges)


def deepseek(merges: int = 120) -> Tokenizer:
    """Five cuts one after the other, most of which leave gaps."""
    patterns = ("[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", "[一-龥ࠀ-一가-\ud7ff]+")
    splits = [pre_tokenizers.Split(Regex(p), "isolated") for p in patterns]
    return _trained(_byte_level(*splits, pre_tokenizers.Digits(individual_digits=True)), merges)


def punctuation(merges: int = 120) -> Tokenizer:
    """Runs of punctuation and of digits, then cuts that merge with what is before or after."""
    cuts = [
        pre_tokenizers.Punctuation("contiguous"),
        pre_tokenizers.Digits(individual_digits=False),
        pre_tokenizers.Split(" ", "merged_with_next"),
        pre_tokenizers.Split(Regex(r"[\r\n]"), "merged_with_previous"),
    ]
    return _trained(_byte_level(*cuts), merges)


def neox(merges: int = 120) -> Tokenizer:
    """GPT-2's cuts and added tokens that are text: runs of spaces, a letter, a word."""
    tokenizer = byte_level(merges=merges)
    texts = ["  ", "    ", "s1"] if merges < 50 else ["   ", "    ", "      ", "ü", "a b"]
    tokenizer.add_tokens([AddedToken(t, normalized=t not in ("a b", "s1"), special=False) for t in texts])
    return tokenizer


def ignore_merges(merges: int = 120) -> Tokenizer:
    """Whole pre-tokens are looked up first; every token is also made by merges."""
    described = json.loads(byte_level("llama3", merges).to_str())
    described["model"]["ignore_merges"] = True
    return Tokenizer.from_str(json.dumps(described))


def some_bytes(merges: int = 120) -> Tokenizer:
    """Without some bytes: characters that need them are in no text."""
    described = json.loads(byte_level(merges=merges).to_str())
    keep = {t for t in described["model"]["vocab"] if t not in ("ñ", "É", "Q")}  # bytes F1, C9 and 51
    described["model"]["merges"] = [m for m in described["model"]["merges"] if {*m, "".join(m)} <= keep]
    described["model"]["vocab"] = {t: i for i, t in enumerate(sorted(keep))}
    described["added_tokens"] = []
    return Tokenizer.from_str(json.dumps(described))


def falcon(merges: int = 120) -> Tokenizer:
    """Digits are cut after bytes are mapped, where some bytes of letters are digits too; then by three."""
    # Trained without these cuts, so that there are merges over them.
    tokenizer = _trained(_byte_level(regex=True), merges)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Punctuation("contiguous"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
            pre_tokenizers.Digits(individual_digits=False),
            pre_tokenizers.Split(Regex("[0-9][0-9][0-9]"), "isolated"),
        ]
    )
    return tokenizer


def normal_form(form: str, merges: int = 120) -> Tokenizer:
    """Qwen's cuts behind a normaliser: texts that are not in the normal form do not come back."""
    split = pre_tokenizers.Split(Regex(PATTERNS["qwen"]), "isolated")
    tokenizer = _trained(_byte_level(split), merges, "a\u0301 1\u0301 s\u0323\u0301 '\u0301" * (merges < 50))
    tokenizer.normalizer = getattr(normalizers, form)()
    texts = ["s1"] if merges < 50 else ["<tool>", "à "]
    tokenizer.add_tokens([AddedToken(t, normalized=False, special=False) for t in texts])
    return tokenizer


def sentencepiece(style: str = "prepend", fallback: bool = True, merges: int = 120) -> Tokenizer:
    """SentencePiece-like BPE; style, how spaces go: "prepend", "plain", "gemma", "first", "always"."""
    tiny = merges < 50
    trained = Tokenizer(models.BPE(unk_token="<unk>"))
    trained.normalizer = normalizers.Replace(" ", "▁")
    trained.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")
    trainer = trainers.BpeTrainer(
        vocab_size=merges + (7 if tiny else 60), special_tokens=["<unk>", "<s>"], show_progress=False
    )
    text = (TINY.replace("é", "") if tiny else TEXT).replace("\n", " ").replace("\t", " ").replace("\r", " ")
    for char in "中字한😀²":
        text = text.replace(char, "")  # these stay without a piece
    trained.train_from_iterator([text], trainer)
    model = json.loads(trained.to_str())["model"]
    names = [*model["vocab"]]
    if fallback:
        # Duplicates too: the byte pieces of characters that have a piece.
        spelled = {*"a1\né".encode(), 0xAA} if tiny else range(256)
        names[2:2] = [f"<0x{byte:02X}>" for byte in sorted(spelled)]
    vocabulary = {name: i for i, name in enumerate(names)}
    pairs = [tuple(m) for m in model["merges"]]
    tokenizer = Tokenizer(
        models.BPE(vocabulary, pairs, unk_token="<unk>", byte_fallback=fallback, fuse_unk=True)
    )
    tokenizer.add_special_tokens(["<unk>", "<s>"])
    undo = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    if style == "prepend":
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
        tokenizer.decoder = decoders.Sequence([*undo, decoders.Strip(" ", 1, 0)])
    elif style in ("plain", "gemma"):
        tokenizer.normalizer = normalizers.Replace(" ", "▁")
        tokenizer.decoder = decoders.Sequence(undo)
        if style == "gemma":
            tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    else:
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace("▁", style, split=style == "always")
        tokenizer.decoder = decoders.Sequence([*undo, decoders.Strip(" ", 1, 0)])
    return tokenizer


@cache  # training is not deterministic
def _unigram_vocabulary(text: str, split: bool, size: int) -> tuple[tuple[str, float], ...]:
    trained = Tokenizer(models.Unigram())
    trained.pre_tokenizer = pre_tokenizers.Metaspace("▁", "always" if split else "never")
    trainer = trainers.UnigramTrainer(
        vocab_size=size,
        special_tokens=["<unk>", "<s>"],
        unk_token="<unk>",
        show_progress=False,
        max_piece_length=6,
    )
    trained.train_from_iterator([*text.splitlines(), text], trainer)
    return tuple((piece, score) for piece, score in json.loads(trained.to_str())["model"]["vocab"])


def unigram(style: str = "metaspace", fallback: bool = False, merges: int = 120) -> Tokenizer:
    """Unigram; style: "metaspace" cuts at spaces, "collapse" normalises and removes some, or "plain"."""
    tiny = merges < 50
    text = (TINY if tiny else TEXT).replace("\t", " ").replace("\r", " ")
    for char in "中字한😀²é\n" if fallback else "中字한😀²":
        text = text.replace(char, "")  # these have no piece
    vocabulary = list(_unigram_vocabulary(text, style == "metaspace", merges // 2 + (12 if tiny else 60)))
    named = {*"<unk>", *"<0x123456789ABCDEF>"} if fallback else set()  # a piece's name is matched, too
    missing = sorted(({c.replace(" ", "▁") for c in text} | named) - {p for p, _ in vocabulary})
    vocabulary += [(c, -6.5) for c in missing]
    if tiny:
        vocabulary += [(p, -2.0) for p in ("as▁", "11", "111") if p not in dict(vocabulary)]  # ties
    if fallback:
        spelled = {*"\né".encode(), 0xAA} if tiny else range(256)
        vocabulary += [(f"<0x{byte:02X}>", 0.0) for byte in sorted(spelled)]
    tokenizer = Tokenizer(models.Unigram(vocabulary, 0, fallback))
    tokenizer.add_special_tokens(["<unk>", "<s>"])
    undo = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    if style == "metaspace":
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace("▁", "always")
        tokenizer.decoder = decoders.Metaspace("▁", "always")
    elif style == "collapse":
        tokenizer.normalizer = normalizers.Sequence(
            [
                normalizers.NFKC(),
                normalizers.Replace(Regex(r"\A +|[ ▁]+\z"), ""),
                normalizers.Replace(Regex(" {2,}"), " "),
                normalizers.Prepend("▁"),
                normalizers.Replace(" ", "▁"),
            ]
        )
        tokenizer.decoder = decoders.Sequence([*undo, decoders.Strip(" ", 1, 0)])
    else:
        tokenizer.normalizer = normalizers.Replace(" ", "▁")
        tokenizer.decoder = decoders.Sequence(undo)
    return tokenizer


SMALL: dict[str, Callable[[], Tokenizer]] = {
    "gpt2": byte_level,
    "uncut": uncut,
    **{name: partial(byte_level, name) for name in PATTERNS},
    "starcoder": starcoder,
    "deepseek": deepseek,
    "punctuation": punctuation,
    "neox": neox,
    "falcon": falcon,
    "nfc": partial(normal_form, "NFC"),
    "nfkd": partial(normal_form, "NFKD"),
    "ignore-merges": ignore_merges,
    "some-bytes": some_bytes,
    "sp-fallback": sentencepiece,
    "sp-alphabet": partial(sentencepiece, fallback=False),
    "sp-plain": partial(sentencepiece, "plain"),
    "sp-gemma": partial(sentencepiece, "gemma"),
    "sp-first": partial(sentencepiece, "first"),
    "sp-always": partial(sentencepiece, "always"),
    "unigram": unigram,
    "unigram-plain": partial(unigram, "plain"),
    "unigram-bytes": partial(unigram, "plain", fallback=True),
    "unigram-collapse": partial(unigram, "collapse"),
}
"""The small tokenizers by name."""

TINIES: dict[str, Callable[[], Tokenizer]] = {
    name: partial(make, merges=14) for name, make in SMALL.items() if name not in ("some-bytes",)
}
"""The same families with a few dozen tokens."""
