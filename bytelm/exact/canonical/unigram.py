"""pre(D) of Unigram models: the beginnings of best paths.

A Unigram model cuts a pre-token into the pieces whose log probabilities have the greatest sum (Kudo,
arXiv 1804.10959, found by Viterbi's algorithm). Every beginning of a best path is the best path to where it
ends, so there is one sequence for each place. Whether a token may follow depends on the *window*: the
beginnings of tokens that reach over this place, and the scores of the best paths to where they start. A
token may follow if no other path to its end is better: none over this place, and none inside it.

Ties are the library's: of equal paths to a place the one with the longest last token wins, and sums are
made in the same order and precision, so that rounding agrees as well. Windows therefore hold sums from the
start of the pre-token; without a pre-tokenizer there are as many as there are places in all texts seen.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from bytelm.exact.canonical.parts import Parts
from bytelm.exact.canonical.states import AT_START, NOTHING, State, States
from bytelm.exact.canonical.trie import Trie, Window
from bytelm.exact.errors import Unsupported
from bytelm.exact.tokenizer.source import Source

FRESH = 0  # the window at the start of a pre-token
_MOST_TRIED = 300  # sequences, in the search for a continuation
_MASKS = 256


class UnigramCanonical:
    """pre(D) of a Unigram tokenizer, see `Canonical`. Raises `Unsupported`."""

    def __init__(self, source: Source):
        self.source = source
        self.parts = parts = Parts(source)
        self.vocabulary = parts.vocabulary
        self.trie = Trie(self.source)
        self._cuts = States(parts)
        self._windows: list[Window] = [(("", 0.0),)]
        self._window_number: dict[Window, int] = {self._windows[0]: FRESH}
        # A state is a set of ways to read the sequence: a state of the cuts and a window each.
        self._states: list[frozenset[tuple[int, int]]] = [frozenset()]
        self._number: dict[frozenset[tuple[int, int]], int] = {frozenset(): 0}
        self._steps: dict[tuple[int, int], dict[int, int]] = {}
        self._spelling = set(self.source.fallback.values())
        self._text = {t: text for text, t in self.trie.token.items() if self.vocabulary.row_of[t] >= 0}
        rows = parts.usable
        tokens = self.vocabulary.order[rows].tolist()
        self._node = np.array([self.trie.node_of(self._text[t]) if t in self._text else -1 for t in tokens])
        self._spells = np.array([t in self._spelling for t in tokens], bool)
        self.mask = functools.lru_cache(maxsize=_MASKS)(self._mask)
        self._allowed = functools.lru_cache(maxsize=_MASKS)(self._find_allowed)
        self.plain_start = self._intern([(self._cuts.intern(State(parts.splitter.start)), FRESH)])
        self.start = self.plain_start
        if self.source.dummy:
            self.start = self._intern(
                [(self._cuts.intern(State(parts.splitter.start, start=AT_START)), FRESH)]
            )

    # ---- the face of Canonical ------------------------------------------------------------------

    def ends(self, state: int) -> bool:
        """Whether a sequence in this state is itself in D: whether the text may end here."""
        return any(self._cuts.ending[cut] for cut, _ in self._states[state])

    def steps(self, last: int, state: int) -> dict[int, int]:
        """What `step` has answered so far, token -> state; to be read only."""
        return self._steps.setdefault((last, state), {})

    def step(self, last: int, state: int, token: int) -> int:
        """The state after one more token, 0 if it may not follow `last` in `state`."""
        known = self.steps(last, state)
        if token not in known:
            live = [way for way in self._reached(last, state, token) if self._is_live(way)]
            known[token] = self._intern(live)
        return known[token]

    def _mask(self, last: int, state: int) -> np.ndarray:
        """The rows that may follow: booleans `[M]`, read-only; cached as `mask`."""
        found = np.zeros(len(self.vocabulary.rows), bool)
        for rows, ends in self._successors(last, state):
            found[rows[ends]] = True
            for row in rows[~ends].tolist():
                if not found[row]:
                    found[row] = self.step(last, state, int(self.vocabulary.order[row])) > 0
        found.flags.writeable = False
        return found

    # ---- steps ---------------------------------------------------------------------------------

    def _intern(self, ways: Any) -> int:
        key = frozenset(ways)
        if key not in self._number:
            self._number[key] = len(self._states)
            self._states.append(key)
        return self._number[key]

    def _window(self, window: Window) -> int:
        if window not in self._window_number:
            self._window_number[window] = len(self._windows)
            self._windows.append(window)
        return self._window_number[window]

    def _unknown(self, window: int) -> int:
        """The window after a character that no piece has."""
        return self._window((("", self.trie.add(self._windows[window][-1][1], self.trie.unknown)),))

    def _reached(self, last: int, state: int, token: int) -> list[tuple[int, int]]:
        """The ways to read the sequence after one token; some may have no continuation."""
        if not 0 <= token < len(self.vocabulary.data) or not self.vocabulary.data[token]:
            return []
        parts, cuts = self.parts, self._cuts
        row = int(self.vocabulary.row_of[token])
        found: list[tuple[int, int]] = []
        for number, window in self._states[state]:
            at = cuts.states[number]
            ways: list[tuple[int, int]] = []
            if at.partial:
                place = self._place_of_finisher.get(row)
                after = int(cuts.finishing(number)[place]) if place is not None else 0
                ways.append((after, window if cuts.states[after].partial else self._unknown(window)))
            else:
                form = int(parts.forms.form[row])
                for way in (1, 0) if form >= 0 else ():
                    after = int(cuts.finals(at.cut, way)[form]) if way or last != NOTHING else 0
                    if not after:
                        continue
                    before = FRESH if way else window
                    if token in self._spelling:
                        ways.append((after, before if cuts.states[after].partial else self._unknown(before)))
                    elif token in self._text:
                        new, length = self.trie.advance(self._windows[before], self._text[token])
                        if length == len(self._text[token]):
                            ways.append((after, self._window(new)))
                if token in parts.added:
                    ways.append((cuts.added(at.cut, token), FRESH))
            if at.start:
                ways = [(cuts.started(at, self.vocabulary.rows[row], a), w) for a, w in ways if a]
            found += [(after, w) for after, w in ways if after]
        return found

    @functools.cached_property
    def _place_of_finisher(self) -> dict[int, int]:
        return {row: i for i, row in enumerate(self.parts.finishers.tolist())}

    def _find_allowed(self, window: int) -> np.ndarray:
        """Which usable rows may follow in a window, cuts aside: booleans `[U]`."""
        return (self.trie.allowed(self._windows[window])[self._node] & (self._node >= 0)) | self._spells

    def _successors(self, last: int, state: int) -> list[tuple[np.ndarray, np.ndarray]]:
        """Rows that may follow, continuations aside, and whether the text may end after them."""
        parts, cuts, found = self.parts, self._cuts, []
        for number, window in self._states[state]:
            at = cuts.states[number]
            if at.partial:
                found.append((parts.finishers, cuts.finishing(number)))
                continue
            ways = [(1, FRESH), (0, window)] if last != NOTHING else [(1, FRESH)]
            for way, before in ways:
                after = np.where(parts.form >= 0, cuts.finals(at.cut, way)[parts.form], 0)
                if after.any():
                    after = np.where(self._allowed(before), after, 0)
                if at.start:
                    after = after.copy()
                    for i in np.flatnonzero(after).tolist():
                        after[i] = cuts.started(at, self.vocabulary.rows[parts.usable[i]], int(after[i]))
                found.append((parts.usable, after))
            if parts.added:
                rows = self.vocabulary.row_of[parts.added]
                found.append((rows, np.array([cuts.added(at.cut, t) for t in parts.added], np.int32)))
        return [(rows[after > 0], cuts.ending[after[after > 0]]) for rows, after in found]

    def _is_live(self, way: tuple[int, int]) -> bool:
        """Whether some text continues a sequence that is read like this."""
        queue, seen = [way], {way}
        for at in queue:
            state = self._cuts.states[at[0]]
            if self._cuts.ending[at[0]]:
                return True
            if state.partial:
                # The characters that bytes spell are in no piece, so that any of them may follow.
                reach = self.parts.utf8.reach[state.partial - self.parts.utf8.size]
                if reach & self._cuts.endings(state.cut, state.ways):
                    return True
            if len(queue) > _MOST_TRIED:
                raise Unsupported(
                    "pre_tokenizer", self.source.pre_tokenizer, "no continuation of a text was found"
                )
            number = self._intern([at])
            for rows, ends in self._successors(-2, number):
                if ends.any():
                    return True
                for row in rows.tolist():
                    for new in self._reached(-2, number, int(self.vocabulary.order[row])):
                        if new not in seen:
                            seen.add(new)
                            queue.append(new)
        return False
