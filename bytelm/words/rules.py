"""The boundary rules that ship, each as a `Definition`, and the kinds of characters they speak of."""

from __future__ import annotations

import operator
import string
from collections.abc import Mapping
from enum import Enum, auto
from functools import cache
from types import MappingProxyType
from typing import Any

from bytelm.words.compiling import CHARACTER, Definition, Word, compile_rule
from bytelm.words.machine import Rule

DEFAULT = "runs"
CAP = 20  # C of the rules where none is given
MOST = 2**20  # the highest C; far from where the counts of symbols end


class Kind(Enum):
    """Kinds of characters."""

    SPACE = auto()
    BLANK = auto()  # line breaks and tabs
    DIGIT = auto()
    LOWER = auto()  # a-z
    UPPER = auto()  # A-Z
    SYMBOL = auto()  # punctuation, emoji, control characters, and whatever is not UTF-8
    MARK = auto()  # accents that combine with the letter before
    LATIN = auto()  # Latin letters beyond A-Z
    GREEK = auto()
    CYRILLIC = auto()
    ARMENIAN = auto()
    HEBREW = auto()
    ARABIC = auto()
    INDIC = auto()
    HANGUL = auto()
    LETTER = auto()  # of other scripts with spaces: Georgian, Ethiopic, Cherokee, Mongolian, ...
    SPACELESS = auto()  # of scripts without: Thai, Lao, Tibetan, Myanmar, Khmer
    HAN = auto()  # Chinese characters, kana
    STOP = auto()  # the punctuation that goes with those
    SPECIAL = auto()  # symbols >= 256


K = Kind

# Each kind from its code point up to the next; finer than two bytes of UTF-8 tell would not help a rule.
_FROM = (
    (0x80, K.SYMBOL),
    (0xC0, K.LATIN),
    (0x300, K.MARK),
    (0x370, K.GREEK),
    (0x400, K.CYRILLIC),
    (0x530, K.ARMENIAN),
    (0x590, K.HEBREW),
    (0x600, K.ARABIC),  # also Syriac, Thaana, N'Ko
    (0x900, K.INDIC),  # Devanagari to Sinhala
    (0xE00, K.SPACELESS),  # Thai, Lao, Tibetan, Myanmar
    (0x1080, K.LETTER),  # Georgian
    (0x1100, K.HANGUL),
    (0x1200, K.LETTER),  # Ethiopic, Cherokee, Canadian syllabics, ...
    (0x1780, K.SPACELESS),  # Khmer
    (0x1800, K.LETTER),  # Mongolian, ...
    (0x1E00, K.LATIN),  # Vietnamese among others
    (0x1F00, K.GREEK),
    (0x2000, K.SYMBOL),
    (0x3000, K.STOP),
    (0x3040, K.HAN),
    (0xA000, K.LETTER),
    (0xAC00, K.HANGUL),
    (0xE000, K.SYMBOL),
    (0xF900, K.HAN),
    (0xFB00, K.ARABIC),
    (0xFE00, K.SYMBOL),
    (0xFF00, K.STOP),
    (0xFF40, K.HAN),
    (0xFFC0, K.SYMBOL),
    (0x20000, K.HAN),
    (0x40000, K.SYMBOL),
)

_LEAST = (0, 0x80, 0x800, 0x10000)  # the first code point that needs so many bytes after the first


def _ascii(byte: int) -> Kind:
    character = chr(byte)
    if character == " ":
        return K.SPACE
    if character in string.whitespace:
        return K.BLANK
    if character in string.digits:
        return K.DIGIT
    if character in string.ascii_lowercase:
        return K.LOWER
    return K.UPPER if character in string.ascii_uppercase else K.SYMBOL


@cache
def _kinds(first: bytes) -> tuple[Kind, ...]:
    """The kinds that a character with these first bytes may have, for `Definition.kinds`."""
    if not first:
        return (K.SPECIAL,)
    if first[0] < 0x80:
        return (_ascii(first[0]),)
    missing = (first[0] >= 0xC2) + (first[0] >= 0xE0) + (first[0] >= 0xF0)
    if not missing or first[0] >= 0xF5:
        return (K.SYMBOL,)
    code = first[0] & (0x3F >> missing)
    for byte in first[1:]:
        code = code << 6 | byte & 0x3F
    bits = 6 * (missing + 1 - len(first))
    # Code points below the least of so many bytes are not UTF-8, and those above the last no characters.
    low, high = max(code << bits, _LEAST[missing]), max((code + 1) << bits, _LEAST[missing] + 1)
    starts = [start for start, _ in _FROM[1:]] + [2**21]
    return tuple(dict.fromkeys(k for (a, k), b in zip(_FROM, starts, strict=True) if a < high and low < b))


# ---- the default, and its sister that knows at once -------------------------------------------------

_LATIN = (K.LOWER, K.UPPER, K.LATIN)
_LETTERS = (*_LATIN, K.MARK, K.GREEK, K.CYRILLIC, K.ARMENIAN, K.HEBREW, K.ARABIC, K.INDIC, K.HANGUL, K.LETTER)
_BLANKS = (K.SPACE, K.BLANK)
_HAN = (K.HAN, K.STOP)
_STRIDES = {K.DIGIT: 3, K.HAN: 6, K.STOP: 6, K.SPACELESS: 9}  # two Chinese characters, three Thai ones


def _runs(word: Word | None, kind: Kind) -> Word | None:
    """A run of one kind, with at most one space, line break or symbol before it."""
    if word is None:
        return Word(kind, opening=kind in (*_BLANKS, K.SYMBOL), closed=kind is K.SPECIAL)
    last = word.last
    if kind is K.SPECIAL:
        return None
    if kind in _BLANKS:  # a line break goes with the punctuation before it, indentation with the line break
        joins = last in _BLANKS or (kind is K.BLANK and last in (K.SYMBOL, K.STOP))
    elif kind is K.SYMBOL:
        joins = last is K.SYMBOL or (word.opening and last in _BLANKS)
    elif word.opening:
        return Word(kind, recount=kind is K.DIGIT)
    elif kind in _LETTERS:
        joins = last in _LETTERS and _one_script(last, kind) and (last, kind) != (K.LOWER, K.UPPER)
    elif kind in _HAN:
        joins = last is K.HAN
    else:
        joins = last is kind
    return Word(kind) if joins else None


def _one_script(a: Kind, b: Kind) -> bool:
    return a is b or K.MARK in (a, b) or (a in _LATIN and b in _LATIN)


def _closing(word: Word | None, kind: Kind) -> Word:
    """A word ends with the first of its closing characters; further ones open the next word."""
    last = word.last if word else None
    closers = (*_BLANKS, K.SYMBOL, K.STOP, K.SPECIAL)
    if kind in (K.STOP, K.SPECIAL):
        closed = True
    elif kind is K.BLANK:
        closed = last is not K.BLANK
    else:
        closed = kind in closers and last not in closers
    # A word has one stride, so a character of another one must be its last.
    begins = word is None or (word.closed and last in closers)
    return Word(kind, closed=closed or (not begins and _group(last) != _group(kind)))


def _group(kind: Any) -> Kind | None:
    return K.HAN if kind in _HAN else kind if kind is K.SPACELESS else None


# ---- published rules --------------------------------------------------------------------------------


def _split_kinds(first: bytes) -> tuple[Kind, ...]:
    if not first:
        return (K.SPECIAL,)
    character = chr(first[0])
    if character in string.whitespace:
        return (K.SPACE,)
    return (K.SYMBOL if character in string.punctuation else K.LETTER,)


def _paper(word: Word | None, kind: Kind) -> Word | None:
    """Split at white space, which goes with what follows; punctuation is isolated."""
    if word is None:
        return Word(kind, closed=kind in (K.SYMBOL, K.SPECIAL))
    if word.last is K.SPACE and kind is not K.SPECIAL:
        return Word(kind, closed=kind is K.SYMBOL)
    return Word(kind) if word.last is K.LETTER and kind is K.LETTER else None


def _spacelike_kinds(first: bytes) -> tuple[Kind, ...]:
    if not first:
        return (K.SPECIAL,)
    letter = chr(first[0]).isalnum() if first[0] < 0x80 else first[0] < 0xC0
    return (K.LETTER if letter else K.SYMBOL,)


def _spacebyte(word: Word | None, kind: Kind) -> Word:
    """A word ends with a spacelike byte that follows none: no letter, digit or continuation of UTF-8."""
    spacelike = kind is not K.LETTER
    return Word(kind, closed=kind is K.SPECIAL or (spacelike and (word is None or word.last is K.LETTER)))


def _any_kinds(first: bytes) -> tuple[Kind, ...]:
    return (K.LETTER if first else K.SPECIAL,)


def _stride(word: Word | None, kind: Kind) -> Word:
    return Word(kind, closed=kind is K.SPECIAL)


def _byte(word: Word | None, kind: Kind) -> Word:
    return Word(kind, closed=True)


RULES: Mapping[str, Definition] = MappingProxyType(
    {
        "runs": Definition(False, _runs, _kinds, K.SYMBOL, _STRIDES),
        "closing": Definition(
            True, _closing, _kinds, K.SYMBOL, {k: v for k, v in _STRIDES.items() if k is not K.DIGIT}
        ),
        "paper": Definition(False, _paper, _split_kinds, characters=False),
        "spacebyte": Definition(True, _spacebyte, _spacelike_kinds, characters=False),
        "stride": Definition(True, _stride, _any_kinds, characters=False, exact=True),
        "byte": Definition(True, _byte, _any_kinds, characters=False, exact=True),
    }
)


@cache
def rule(name: str = DEFAULT, cap: int = CAP) -> Rule:
    """The boundary rule of that name, with words of at most `cap` symbols; the same object each time.

    Raises ValueError for an unknown name, and for a cap that does not hold a character of 4 bytes ("stride"
    and "byte", which cut characters anyway, take any from 1) or is above 1,048,576.
    """
    if name not in RULES:
        raise ValueError(f"words: no rule {name!r}; there are {', '.join(RULES)}")
    definition, cap = RULES[name], operator.index(cap)
    least = 1 if definition.exact else CHARACTER
    if not least <= cap <= MOST:
        why = "" if definition.exact else f", because a character has up to {CHARACTER} bytes"
        raise ValueError(f"words: the cap of rule {name!r} is {cap}; it must be {least} to {MOST:,}{why}")
    return compile_rule(name, definition, cap)
