"""Normalisers that are not one-to-one, as machines that read the texts they leave alone.

A text counts only if it survives encoding and decoding, and decoding undoes no normaliser, so of the texts
with one normal form that form alone counts. A *guard* reads a text character by character and dies where
no normalised text goes on like this; `Splitter` runs it as a level that makes no cuts.

Normal forms (Unicode Standard Annex 15). A text is in NFC exactly if, read from the left, no character c
changes by itself, none has a lower combining class than the mark before it, and none composes with the last
starter S: "S followed by c" is not in NFC and no mark of c's class stands between them. (Decomposing and
sorting puts c behind the marks of S of its class and lower ones, which have composed by then, and the marks
of higher classes that follow compose as before.) So the state is the last starter's row, that is the set
of characters it composes with, and the class of the last mark. All of it is asked from the `tokenizers`
library, whose Unicode is older than Python's; `unicodedata` only proposes one mark of each class.
"""

from __future__ import annotations

import functools
import unicodedata
from collections.abc import Callable, Iterable
from typing import Any, Protocol

import numpy as np
from tokenizers import normalizers

from bytelm.exact.cuts import characters
from bytelm.exact.cuts.program import Alphabet

_SEPARATOR = "\n"  # no normaliser here touches it or what is beside it
_HANGUL = range(0xAC00, 0xD7A4)


class Guard(Protocol):
    """Reads the texts that a normaliser leaves alone. State 0 is before the text."""

    dead: np.ndarray
    """The characters of no such text, booleans `[SLOTS]`."""

    def read_classes(self, alphabet: Alphabet) -> None:
        """Adds the sets that it tells apart; called before the alphabet is closed."""

    def after(self, state: int, symbol: int) -> int | None:
        """The state after a character of class `symbol`, None where no text goes on like this."""

    def ends(self, state: int) -> bool:
        """Whether a text may end here."""


class _Kinds:
    """Characters sorted into kinds, and the kind of each class of an alphabet."""

    def __init__(self, of_slot: np.ndarray):
        self._of_slot = of_slot
        self._bits = range(max(1, int(of_slot.max(initial=0)).bit_length()))
        self.of_class = functools.cache(self._find)

    def add(self, alphabet: Alphabet) -> None:
        self._alphabet = alphabet
        self._sets = [alphabet.add((self._of_slot >> bit & 1).astype(bool)) for bit in self._bits]

    def _find(self, symbol: int) -> int:
        members = (self._alphabet.members(s) >> symbol & 1 for s in self._sets)
        return sum(is_member << bit for bit, is_member in zip(self._bits, members, strict=True))


class Spaces:
    """No space at the start, at the end, or after another one, as asked."""

    def __init__(self, leading: bool, trailing: bool, runs: bool, dummy: bool = False):
        """`dummy`: the text comes with a space before it, which is not the text's own."""
        self.leading, self.trailing, self.runs, self.dummy = leading, trailing, runs, dummy
        self.dead = np.zeros(characters.SLOTS, bool)
        kinds = np.zeros(characters.SLOTS, np.int64)
        kinds[ord(" ")] = 1
        self._kinds = _Kinds(kinds)

    def read_classes(self, alphabet: Alphabet) -> None:
        self._kinds.add(alphabet)

    def after(self, state: int, symbol: int) -> int | None:
        """States: 0 before the text, 1 after a character, 2 after a space, 3 after the dummy space."""
        if not self._kinds.of_class(symbol):
            return 1
        if state == 0 and self.dummy:
            return 3
        if (state in (0, 3) and self.leading) or (state in (2, 3) and self.runs):
            return None
        return 2

    def ends(self, state: int) -> bool:
        return state != 2 or not self.trailing


class NormalForm:
    """The texts in one of Unicode's normal forms: "NFC", "NFD", "NFKC" or "NFKD"."""

    def __init__(self, form: str):
        self.dead, ranks, rows, self._composes = _tables(form)
        # A kind is a combining class, a row as a starter and a column as what is composed with one.
        _, kinds = np.unique(np.stack([ranks, rows]), axis=1, return_inverse=True)
        columns = np.zeros(characters.SLOTS, np.int64)
        numbers: dict[frozenset[int], int] = {}
        for slot, partners in self._composes.items():
            columns[slot] = numbers.setdefault(partners, len(numbers) + 1)
        combined = kinds.reshape(-1) * (len(numbers) + 1) + columns
        combined[self.dead] = -1
        _, first, kinds = np.unique(combined, return_index=True, return_inverse=True)
        self._first = first
        self._kinds = _Kinds(kinds)
        self._rank, self._row, self._dead_of = ranks[first], rows[first], self.dead[first]
        self._states: list[tuple[int, int]] = [
            (0, 0)
        ]  # the row of the last starter, the rank of the last mark
        self._number = {(0, 0): 0}

    def read_classes(self, alphabet: Alphabet) -> None:
        self._kinds.add(alphabet)

    def after(self, state: int, symbol: int) -> int | None:
        kind = self._kinds.of_class(symbol)
        slot = int(self._first[kind])
        rank, (row, last) = int(self._rank[kind]), self._states[state]
        if self._dead_of[kind] or 0 < rank < last:
            return None
        blocked = last > 0 and last >= rank
        if not blocked and row in self._composes.get(slot, ()):
            return None
        new = (row, rank) if rank else (int(self._row[kind]), 0)
        if new not in self._number:
            self._number[new] = len(self._states)
            self._states.append(new)
        return self._number[new]

    def ends(self, state: int) -> bool:
        return True


@functools.cache
def _tables(form: str) -> tuple[np.ndarray, np.ndarray, np.ndarray, dict[int, frozenset[int]]]:
    """What changes alone `[SLOTS]`, ranks of combining classes `[SLOTS]` (0: a starter), rows of starters
    `[SLOTS]` (0: composes with nothing), and for each slot that composes the rows it does so with."""
    normalise = getattr(normalizers, form)().normalize_str
    decompose = normalizers.NFD().normalize_str
    chars = [chr(characters.code_of(s)) for s in range(characters.SLOTS) if not 0xD800 <= s < 0xE000]
    chars.remove(_SEPARATOR)
    slots = np.array([characters.slot(ord(c)) for c in chars])
    dead = np.zeros(characters.SLOTS, bool)
    dead[slots] = [c != f for c, f in zip(chars, _each(normalise, chars), strict=True)]
    whole = [c == d for c, d in zip(chars, _each(decompose, chars), strict=True)]
    ranks = _ranks([c for c, w in zip(chars, whole, strict=True) if w], decompose)
    rows = np.zeros(characters.SLOTS, np.int64)
    if form in ("NFD", "NFKD"):
        return dead, ranks, rows, {}
    alive = {c for c, d in zip(chars, dead[slots].tolist(), strict=True) if not d}
    made = [c for c, w in zip(chars, whole, strict=True) if not w and c in alive]
    pairs = {(normalise(d[:-1]), d[-1]) for d in _each(decompose, made)}
    partners: dict[str, set[str]] = {}
    for left, right in pairs:
        partners.setdefault(left, set()).add(right)
    # Hangul composes by arithmetic, without marks; of all others each pair is tried.
    rights = sorted({r for _, r in pairs if not 0x1100 <= ord(r) < 0x1200})
    lefts = [c for c in {*partners, *made} if ord(c) not in _HANGUL and not 0x1100 <= ord(c) < 0x1200]
    tried = [left + right for left in lefts for right in rights]
    for text, found in zip(tried, _each(normalise, tried), strict=True):
        if text != found and text[0] in alive:
            partners.setdefault(text[0], set()).add(text[1])
    numbers: dict[frozenset[str], int] = {}
    composes: dict[int, set[int]] = {}
    for left, those in partners.items():
        row = numbers.setdefault(frozenset(those), len(numbers) + 1)
        rows[characters.slot(ord(left))] = row
        for char in those:
            composes.setdefault(characters.slot(ord(char)), set()).add(row)
    return dead, ranks, rows, {s: frozenset(r) for s, r in composes.items()}


def _each(normalise: Callable[[str], str], texts: list[str]) -> list[str]:
    found = normalise(_SEPARATOR.join(texts)).split(_SEPARATOR)
    if len(found) != len(texts):
        raise RuntimeError(f"a normaliser changed the number of lines, from {len(texts)} to {len(found)}")
    return found


def _ranks(chars: list[str], decompose: Callable[[str], str]) -> np.ndarray:
    """For every slot the rank of its combining class among all classes, 0 for starters."""
    by_class: dict[int, str] = {}
    for c in chars:
        by_class.setdefault(unicodedata.combining(c), c)
    by_class.pop(0, None)
    low = by_class[min(by_class)]  # any mark but those of its own class goes behind it
    high = by_class[max(by_class)]
    swapped = zip(
        chars,
        _each(decompose, [c + low for c in chars]),
        _each(decompose, [high + c for c in chars]),
        strict=True,
    )
    marks = [c for c, a, b in swapped if a != c + low or b != high + c]
    others = [by_class[k] for k in sorted(by_class)]
    below = _each(decompose, [c + r for c in marks for r in others])
    above = _each(decompose, [r + c for c in marks for r in others])
    keys = []
    for i, c in enumerate(marks):
        part = slice(i * len(others), (i + 1) * len(others))
        lower = sum(text != c + r for text, r in zip(below[part], others, strict=True))
        higher = sum(text != r + c for text, r in zip(above[part], others, strict=True))
        keys.append((lower, -higher))
    order = {key: rank for rank, key in enumerate(sorted(set(keys)), 1)}
    ranks = np.zeros(characters.SLOTS, np.int64)
    ranks[[characters.slot(ord(c)) for c in marks]] = [order[key] for key in keys]
    return ranks


# ---- from a tokenizer.json ---------------------------------------------------------------------------


_SPACE_RULES = {r"\A +|[ ▁]+\z": (True, True, False), " {2,}": (False, False, True)}
"""Patterns whose matches are removed, or become one space: no space at the start, at the end, no runs."""


def guards_of(
    normalisers: Iterable[dict[str, Any]], dummy: bool
) -> tuple[list[Guard], list[dict[str, Any]], bool]:
    """The guards of some normalisers, the normalisers that are none, and whether a leading space is removed.

    Texts that each guard leaves alone are those that all of them in a row do: the only ones known here
    either bring a text into a normal form or remove spaces, and a text that had to be changed back by
    removing spaces would have had its other characters changed.
    """
    guards: list[Guard] = []
    left: list[dict[str, Any]] = []
    rules = [False, False, False]
    for n in normalisers:
        if n["type"] in ("NFC", "NFD", "NFKC", "NFKD"):
            guards.append(NormalForm(n["type"]))
        elif n["type"] == "Replace" and (rule := _SPACE_RULES.get(n["pattern"].get("Regex", ""))):
            if n["content"] != (" " if rule[2] else "") or left:
                left.append(n)
            rules = [a or b for a, b in zip(rules, rule, strict=True)]
        else:
            left.append(n)
    if any(rules):
        guards.append(Spaces(rules[0], rules[1], rules[2], dummy))
    return guards, left, rules[0]
