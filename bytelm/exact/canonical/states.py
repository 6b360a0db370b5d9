"""States of token sequences, and the steps that tokens take between them, merges and futures aside."""

from __future__ import annotations

import functools
from typing import NamedTuple

import numpy as np

from bytelm.exact.canonical.forms import walk
from bytelm.exact.canonical.parts import Parts

NOTHING = -1
"""In place of the last token: the sequence is empty."""

AT_START, AFTER_DUMMY = 1, 2
"""Values of `State.start`."""


class State(NamedTuple):
    """What a sequence leaves open.

    cut: the splitter's state, before the unfinished character if there is one. ways: is there a cut before
    that character (bit 1), or not (bit 0); partial: what it is so far, 0 for none. start: 1 before a text
    with a dummy space, 2 after that space alone, else 0.
    """

    cut: int
    ways: int = 0
    partial: int = 0
    start: int = 0


class States:
    """The states met so far, as small ints; 0 is no state.

    ending `[states or more]`: whether the text may end in a state. The functions named `finals`, `finishing`,
    `added` and `endings` are cached, and described at `_find_...`.
    """

    def __init__(self, parts: Parts):
        self.parts, self._splitter = parts, parts.splitter
        self.states: list[State] = []
        self._number: dict[State, int] = {}
        self.ending = np.zeros(64, bool)
        self.finals = functools.cache(self._find_finals)
        self.finishing = functools.cache(self._find_finishing)
        self.added = functools.cache(self._find_added)
        self.endings = functools.cache(self._find_endings)
        self.intern(State(0))

    def intern(self, state: State) -> int:
        """The number of a state."""
        if state not in self._number:
            self._number[state] = len(self.states)
            self.states.append(state)
            ends = not state.partial and state.start != AFTER_DUMMY and self._splitter.ends(state.cut)
            if len(self.states) >= len(self.ending):
                self.ending = np.concatenate([self.ending, np.zeros_like(self.ending)])
            self.ending[self._number[state]] = ends
        return self._number[state]

    def union(self, states: list[int]) -> int:
        """The state of a sequence that is in several: hypotheses of all of them."""
        if len(set(states)) <= 1:
            return states[0] if states else 0
        several = [self.states[s] for s in states]
        cut = functools.reduce(self._splitter.union, (s.cut for s in several))
        ways = functools.reduce(int.__or__, (s.ways for s in several))
        # They differ in the guess before the unfinished character, or in what is before it, not in both.
        return self.intern(several[0]._replace(cut=cut, ways=ways))

    def started(self, at: State, data: bytes, after: int) -> int:
        """The state `after` a token of these bytes, where a text with a dummy space starts; 0: it may not."""
        spaceless = self.parts.source.spaceless
        if at.start == AFTER_DUMMY:
            return 0 if spaceless and data[:1] == b" " else after
        if data[:1] != b" " or (spaceless and data[1:2] == b" "):
            return 0
        return self.intern(self.states[after]._replace(start=AFTER_DUMMY)) if data == b" " else after

    def _unfinished(self, cut: int, ways: int, partial: int) -> int:
        """The state inside a character, 0 if no character can go on like this."""
        reach = self.parts.utf8.reach[partial - self.parts.utf8.size]
        for symbol in range(self.parts.utf8.size):
            if reach >> symbol & 1 and self._complete(cut, ways, symbol):
                return self.intern(State(cut, ways, partial))
        return 0

    def _complete(self, cut: int, ways: int, symbol: int) -> int:
        """The splitter's state after the unfinished character has turned out to be of class `symbol`."""
        after = [self._splitter.after(cut, symbol, bool(way)) for way in (0, 1) if ways >> way & 1]
        return functools.reduce(self._splitter.union, after)

    def _find_finals(self, cut: int, way: int) -> np.ndarray:
        """For every form `[F]` the state after its tokens, 0 for none; `way` 1: with a cut before them."""
        forms, tables = self.parts.forms, self.parts.after
        cuts = walk(forms, cut, tables[way], tables[0])[forms.node].astype(np.int64)
        alone = forms.node == 0  # only a beginning of a character: the cut before it is not used up
        key = (cuts << 32) | (forms.tail << 1) | alone
        kinds, which = np.unique(key, return_inverse=True)
        states = np.zeros(len(kinds), np.int32)
        for i, kind in enumerate(kinds.tolist()):
            after, tail, bare = kind >> 32, (kind >> 1) & 0x7FFFFFFF, kind & 1
            if after and tail:
                states[i] = self._unfinished(after, 1 << way if bare else 1, tail)
            elif after:
                states[i] = self.intern(State(after))
        return states[which]

    def _find_finishing(self, state: int) -> np.ndarray:
        """For the finishers `[C]` the state after them from inside a character, 0 for none."""
        at, utf8 = self.states[state], self.parts.utf8
        found = np.zeros(len(self.parts.finishers), np.int32)
        codes: dict[bytes, tuple[int, int]] = {}
        for i, (_, lead, form) in enumerate(self.parts.forms.leads):
            if lead not in codes:
                code = utf8.walk(at.partial, lead)
                done = self._complete(at.cut, at.ways, code) if 0 <= code < utf8.size else 0
                codes[lead] = code, done
            code, done = codes[lead]
            if done:
                found[i] = self.intern(State(done)) if form is None else self.finals(done, 0)[form]
            elif code >= utf8.size and form is None:
                found[i] = self._unfinished(at.cut, at.ways, code)
        return found

    def _find_added(self, cut: int, token: int) -> int:
        """The state after an added token that is text, 0 for none."""
        first = True
        for char in self.parts.vocabulary.data[token].decode():
            symbol = self.parts.splitter.alphabet.of_code(ord(char))
            cut = self._splitter.after(cut, symbol, cut=first, atomic=True) if symbol >= 0 else 0
            first = False
        cut = self._splitter.closed(cut)
        return self.intern(State(cut)) if cut else 0

    def _find_endings(self, cut: int, ways: int) -> int:
        """A bit set: the classes of the unfinished character after which the text may end."""
        symbols = range(self.parts.utf8.size)
        return sum(1 << c for c in symbols if self._splitter.ends(self._complete(cut, ways, c)))
