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

from bytelm.exact.canonical import Canonical

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
    """Characters whose UTF-8 begins with these bytes."""
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
    if last - first < 64:
        yield from (chr(c) for c in range(first, last + 1) if not 0xD800 <= c < 0xE000)
    else:
        yield from by_category(first, last)
        yield from (
            chr(c)
            for c in (*range(first, first + 64), *range(last - 63, last + 1))
            if c < 0xD800 or c > 0xDFFF
        )


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
    return any(
        _begins(canonical, start + char + end, tokens)
        for char in completions(text[cut:])
        for end in ("", "a", " ", "1", "\n", "é", " a")
    )


def _begins(canonical: Canonical, text: str, tokens: list[int]) -> bool:
    found = canonical.source.encode(text)
    return found[: len(tokens)] == tokens and survives(canonical, text, found)


def survives(canonical: Canonical, text: str, found: list[int]) -> bool:
    """Whether the bytes of the encoding are those of the text."""
    data = b"".join(canonical.vocabulary.data[t] for t in found)
    if canonical.source.dummy and text:
        text = " " + text
    return data == text.encode()
