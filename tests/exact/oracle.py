"""Membership in pre(D), decided without the code under test: by trying continuations.

A sequence of tokens is a prefix of an encoding if, for some continuation of its text, the tokenizer's own
encoding of the whole begins with it. The list of continuations has characters of every general category,
common and rare ones, and short strings that settle the lookaheads of pre-tokenizers.
"""

from __future__ import annotations

import random
import unicodedata
from collections.abc import Iterator
from functools import cache

import numpy as np
import tokenizer_zoo

from bytelm.exact.canonical.canonical import Canonical, follow
from bytelm.exact.canonical.states import NOTHING

SHORT = (
    "",
    *"astdmervlSLAERVzZ190.'-/!(\"_=\n\r\t",
    *(" ", "  ", " a", "  a", " 1", " .", "   a", "\n ", " \n", "\r\n", "s ", "re", "ve", "ll", "RE", "'s"),
    *(
        "1a",
        "12",
        "12a",
        "123",
        "1234",
        "1 ",
        "ab",
        "Ab",
        "aB",
        "'a",
        ". ",
        ".\n",
        "/a",
        "//",
        "a ",
        "t ",
        "b",
        " b",
    ),
    *("中", "中a", "한", "é", "ü", "á", "😀", "²", "٣", "\u00a0", "\u3000", "\u3000a", "\u2028", "ſ", "İ"),
)


@cache
def by_category(first: int, last: int) -> tuple[str, ...]:
    """Characters of every general category from a range of code points, up to six of each."""
    draw = random.Random(first)
    step = max(1, (last - first) // 3000)
    found: dict[str, list[str]] = {}
    for code in range(first, last + 1, step):
        code = min(last, code + draw.randrange(step))
        if not 0xD800 <= code < 0xE000:
            found.setdefault(unicodedata.category(chr(code)), []).append(chr(code))
    return tuple(c for chars in found.values() for c in draw.sample(chars, min(6, len(chars))))


def completions(partial: bytes) -> Iterator[str]:
    """Characters whose UTF-8 begins with these bytes: of each category first, then every other.

    Of the 4 bytes of the longest the last one is drawn where more than one is missing: there are 262,144.
    """
    lead = partial[0]
    length = 2 if lead < 0xE0 else 3 if lead < 0xF0 else 4
    missing = length - len(partial)
    bits = lead & (0x7F >> length)
    for byte in partial[1:]:
        bits = bits << 6 | byte & 0x3F
    first, last = bits << 6 * missing, (bits + 1 << 6 * missing) - 1
    first, last = max(first, {2: 0x80, 3: 0x800, 4: 0x10000}[length]), min(last, 0x10FFFF)
    if first > last:
        return
    if last - first >= 64:
        yield from by_category(first, last)
    step, draw = (64 if length == 4 and last - first >= 64 else 1), random.Random(first)
    for code in range(first, last + 1, step):
        code += draw.randrange(step)
        if not 0xD800 <= code < 0xE000:
            yield chr(code)


@cache
def endings() -> tuple[str, ...]:
    """What may come next: short strings, then a character of each category, alone and before a letter."""
    chars = dict.fromkeys(
        [*by_category(0x80, 0xFFFF), *by_category(0x10000, 0x1FFFF), "\U000e0100", "\U000f0000"]
    )
    return (*SHORT, *chars, *(c + "a" for c in chars), *(" " + c for c in chars))


def is_prefix(canonical: Canonical, tokens: list[int], plain: bool = False) -> bool:
    """Whether some continuation of the list makes `tokens` the beginning of an encoding."""
    source, data = canonical.source, canonical.vocabulary.data
    text = b"".join(data[t] for t in tokens)
    if any(not data[t] for t in tokens):
        return False
    if source.dummy and not plain:
        if not text.startswith(b" "):
            return False
        text = text[1:]
    cut = len(text)
    for back in range(1, min(4, len(text)) + 1):
        byte = text[-back]
        if byte >= 0xC0:
            need = 2 if byte < 0xE0 else 3 if byte < 0xF0 else 4
            cut = len(text) - back if back < need else len(text)
            break
        if byte < 0x80:
            break
    try:
        start = text[:cut].decode()
    except UnicodeDecodeError:
        return False
    if cut == len(text):
        return any(_begins(canonical, start + end, tokens) for end in endings())
    chars = list(completions(text[cut:]))
    after = ((char, end) for end in ("", "a", " ", "1", "\n", "é", " a") for char in chars)
    return any(_begins(canonical, start + char + end, tokens) for char, end in after)


def _begins(canonical: Canonical, text: str, tokens: list[int]) -> bool:
    found = canonical.source.encode(text)
    return found[: len(tokens)] == tokens and survives(canonical, text, found)


def survives(canonical: Canonical, text: str, found: list[int]) -> bool:
    """Whether the bytes of the encoding are those of the text."""
    data = b"".join(canonical.vocabulary.data[t] for t in found)
    if canonical.source.dummy and text:
        text = " " + text
    return data == text.encode()


ADVERSARIAL = (
    "",
    " ",
    "8a   274",
    "8a   ",
    "it's  we'll I'VE they'Re '' 's 'S 'ſ",
    "a\n\n  b\r\n\r\n c \n",
    "\t\t x\u00a0 \u3000 y\u2028 z",
    "1234567 12 3 1²3 ٣٤٥٦",
    "中文字中文 한국어 naïve e\u0301\u0301 \u0301",
    "😀😀👩‍👩‍👧 \U0001f1e6\U0001f1e7",
    "<|endoftext|> <s> <|end|> </s>",
    "ÀÁõö÷øùúûüýþÿ Führer",
    "        if x:\n            return   -1  # ok //\n/",
    "ABCdEF İstanbul ﬁ ſ K",
    "\x00\x01\x7f\ufeff\ufffd",
    " " * 70 + "x" + "-" * 70 + "\n" * 20,
)


def texts(count: int, seed: int = 0) -> list[str]:
    """Varied texts: slices of a sample, and characters of all kinds side by side."""
    draw = random.Random(seed)
    found = list(ADVERSARIAL)
    for _ in range(count):
        size = draw.randint(0, 30)
        at = draw.randrange(len(tokenizer_zoo.TEXT) - size)
        mixed = "".join(draw.choice(endings()) for _ in range(draw.randint(0, 7)))
        found.append(draw.choice([tokenizer_zoo.TEXT[at : at + size], mixed]))
    return found


def refused_prefixes(canonical: Canonical, samples: list[str]) -> tuple[int, list[str]]:
    """How many tokens of encodings were tried, and the texts with a prefix that we refuse."""
    tried, wrong = 0, []
    for text in samples:
        tokens = canonical.source.encode(text)
        if not survives(canonical, text, tokens):
            continue
        state, last = canonical.start, NOTHING
        for token in tokens:
            state, last, tried = canonical.step(last, state, token), token, tried + 1
            if not state:
                break
        if not state or not canonical.ends(state):
            wrong.append(text)
    return tried, wrong


def compared(canonical: Canonical, nodes: int, candidates: int, seed: int) -> tuple[int, int, list]:
    """Random nodes, and at each as many tokens that we accept as that we refuse: ours against the"""
    draw = random.Random(seed)
    order, data = canonical.vocabulary.order, canonical.vocabulary.data
    accepted, refused, wrong = 0, 0, []
    for text in texts(nodes, seed)[-nodes:]:
        tokens = canonical.source.encode(text)
        if not survives(canonical, text, tokens):
            continue
        tokens = tokens[: draw.randint(0, len(tokens))]
        state, last = follow(canonical, tokens), tokens[-1] if tokens else NOTHING
        for _ in range(draw.randint(0, 2)):  # a few steps off the beaten track
            last = int(order[draw.choice(np.flatnonzero(canonical.mask(last, state)).tolist())])
            tokens, state = [*tokens, last], follow(canonical, [*tokens, last])
        mask = canonical.mask(last, state)
        yes, no = np.flatnonzero(mask).tolist(), np.flatnonzero(~mask).tolist()
        assert yes, f"nothing may follow {tokens}, which is in pre(D)"
        half = candidates // 2
        for row in draw.sample(yes, min(len(yes), half)) + draw.sample(no, min(len(no), half)):
            token = int(order[row])
            ours = bool(mask[row])
            assert ours == bool(canonical.step(last, state, token)), (tokens, token)
            accepted, refused = accepted + ours, refused + (not ours)
            if ours != is_prefix(canonical, [*tokens, token]):
                wrong.append((ours, [data[t] for t in tokens], data[token]))
    return accepted, refused, wrong
