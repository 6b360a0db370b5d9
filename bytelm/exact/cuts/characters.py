"""Sets of Unicode characters, as the `tokenizers` library has them.

Unicode versions differ between libraries, so nothing here comes from `unicodedata`: a set is found by
asking `tokenizers` itself which characters a regular expression matches.

Sets are boolean arrays over *slots*: one for each code point below U+40000, one for the unassigned
planes 4 to 14 (U+40000..U+DFFFF), one for plane 14 up to U+EFFFF code by code, and one for the private
planes 15 and 16. No property that patterns use tells the members of such a plane apart.
"""

from __future__ import annotations

import functools

import numpy as np
from tokenizers import Regex, pre_tokenizers

_LOW = 0x40000  # a slot for each code point below
_TAGS = 0xE0000  # plane 14 is partly assigned: a slot for each of its first 0x1000 code points
_TAG_SLOTS = 0x1000
UNASSIGNED = _LOW + _TAG_SLOTS  # the slot of all other code points below U+F0000
PRIVATE = UNASSIGNED + 1
SLOTS = PRIVATE + 1
_SURROGATES = slice(0xD800, 0xE000)
_CELLS = ("Lu", "Ll", "Lt", "Lm", "Lo", "M", "N", "P", "S", "Z", "C")  # a partition of all characters
_UNIONS = {"L": ("Lu", "Ll", "Lt", "Lm", "Lo")}


def slot(code: int) -> int:
    """The slot of a code point."""
    if code < _LOW:
        return code
    if _TAGS <= code < _TAGS + _TAG_SLOTS:
        return _LOW + code - _TAGS
    return UNASSIGNED if code < 0xF0000 else PRIVATE


def code_of(slot: int) -> int:
    """A code point of a slot."""
    if slot < _LOW:
        return slot
    return _TAGS + slot - _LOW if slot < UNASSIGNED else 0x50000 if slot == UNASSIGNED else 0xF0001


def slots_of_plane(plane: int) -> np.ndarray:
    """The slots `[65536]` int32 of a plane's code points, in order."""
    if plane < 4:
        return np.arange(plane << 16, (plane + 1) << 16, dtype=np.int32)
    slots = np.full(1 << 16, UNASSIGNED if plane < 15 else PRIVATE, np.int32)
    if plane == 14:
        slots[:_TAG_SLOTS] = np.arange(_LOW, _LOW + _TAG_SLOTS)
    return slots


@functools.cache
def _everything() -> tuple[str, np.ndarray]:
    """A string with a character for every slot but the surrogates', and their slots."""
    codes = [c for c in range(_LOW) if not 0xD800 <= c < 0xE000]
    codes += range(_TAGS, _TAGS + _TAG_SLOTS)
    codes += [0x50000, 0xF0001]
    return "".join(map(chr, codes)), np.array([slot(c) for c in codes], np.int32)


def _runs(pre_tokenizer: object, text: str) -> np.ndarray:
    """Where the pieces of `text` start, and its length: int64 `[pieces + 1]`."""
    pieces = pre_tokenizer.pre_tokenize_str(text)  # type: ignore[attr-defined]
    return np.array([span[0] for _, span in pieces] + [len(text)], np.int64)


def _matched(text: str, pattern: str) -> np.ndarray:
    """Which characters of `text` `[len(text)]` the one-character `pattern` matches."""
    # Each match is removed, and what is left tells where the matches were.
    left = pre_tokenizers.Split(Regex(pattern), "removed").pre_tokenize_str(text)
    matched = np.ones(len(text), bool)
    for _, (start, stop) in left:
        matched[start:stop] = False
    return matched


@functools.cache
def _cells() -> tuple[np.ndarray, str]:
    """For every slot the cell it is in (-1: a surrogate), and a character of each cell.

    A cell is a run of neighbouring characters of one general category, all of them white space or none.
    """
    text, slots = _everything()
    pattern = r"\s+|" + "|".join(rf"[\p{{{name}}}&&\S]+" for name in _CELLS)
    starts = _runs(pre_tokenizers.Split(Regex(pattern), "isolated"), text)
    cell = np.full(SLOTS, -1, np.int32)
    cell[slots] = np.repeat(np.arange(len(starts) - 1, dtype=np.int32), np.diff(starts))
    return cell, "".join(text[s] for s in starts[:-1])


@functools.cache
def matching(pattern: str) -> np.ndarray:
    r"""The characters that a one-character regular expression such as `\p{Lu}` or `\s` matches.

    Read-only booleans `[SLOTS]`; surrogates are in no set.
    """
    name = pattern[3:-1] if pattern.startswith((r"\p{", r"\P{")) else ""
    found = np.zeros(SLOTS, bool)
    if pattern in (r"\s", r"\S") or name in _CELLS or name in _UNIONS:
        cell, representatives = _cells()
        # A cell lies wholly inside or wholly outside a union of categories.
        found = np.append(_matched(representatives, pattern), False)[cell]
    else:
        text, slots = _everything()
        found[slots] = _matched(text, f"(?:{pattern})+")
    found.flags.writeable = False
    return found


@functools.cache
def ignoring_case(char: str) -> np.ndarray:
    """The characters that `(?i:char)` matches; `char` is ASCII. Read-only booleans `[SLOTS]`."""
    related = [
        c
        for c in map(chr, range(_LOW))
        if c.isascii() or c.lower() != c or c.upper() != c or c.casefold() != c
    ]
    found = np.zeros(SLOTS, bool)
    escaped = char if char.isalnum() else "\\" + char
    matched = _matched("".join(related), f"(?i:{escaped})")
    found[[slot(ord(c)) for c, yes in zip(related, matched, strict=True) if yes]] = True
    found.flags.writeable = False
    return found


@functools.cache
def of_library(kind: str) -> np.ndarray:
    """The characters that the pre-tokenizers `Digits` or `Punctuation` cut at. Booleans `[SLOTS]`."""
    text, slots = _everything()
    found = np.zeros(SLOTS, bool)
    if kind == "Digits":
        starts = _runs(pre_tokenizers.Digits(individual_digits=False), text)
        # Runs of digits and of other characters take turns, and U+0000 is no digit.
        flags = np.arange(len(starts) - 1) % 2 == 1
        found[slots] = np.repeat(flags, np.diff(starts))
    elif kind == "Punctuation":
        matched = np.ones(len(text), bool)
        for _, (start, stop) in pre_tokenizers.Punctuation("removed").pre_tokenize_str(text):
            matched[start:stop] = False
        found[slots] = matched
    else:
        raise ValueError(f"kind must be Digits or Punctuation, not {kind!r}")
    found.flags.writeable = False
    return found


def of_codes(first: int, last: int) -> np.ndarray:
    """The characters U+first..U+last, both included. Booleans `[SLOTS]`."""
    found = np.zeros(SLOTS, bool)
    if last >= _LOW:
        raise ValueError(f"U+{last:X}: a range beyond U+3FFFF cannot be told apart here")
    found[first : last + 1] = True
    found[_SURROGATES] = False
    return found


def valid() -> np.ndarray:
    """All characters: every slot but the surrogates'. Booleans `[SLOTS]`."""
    found = np.ones(SLOTS, bool)
    found[_SURROGATES] = False
    return found
