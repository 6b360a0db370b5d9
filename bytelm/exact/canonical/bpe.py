"""pre(D) of byte-pair encoding.

Whether a token may follow depends on the last one, by the merges inside a pre-token, and on the state: the
hypotheses about where the pre-tokenizer cuts (`splits`), and the unfinished character. Lookaheads and
characters that cannot be finished are settled by looking for a continuation, token by token.
"""

from __future__ import annotations

import functools

import numpy as np

from bytelm.exact.canonical.parts import Parts
from bytelm.exact.canonical.states import AT_START, NOTHING, State, States
from bytelm.exact.tokenizer.source import Source

_CACHE_BYTES = 1 << 27  # of masks
_CACHE_STEPS = 1 << 18  # pairs of a last token and a state


class BpeCanonical:
    """pre(D) of a BPE tokenizer, see `Canonical`. Raises `Unsupported`."""

    def __init__(self, source: Source):
        self.source = source
        self.parts = parts = Parts(source)
        assert parts.merges is not None  # `canonical_of` has seen to it
        self.vocabulary, self.merges = parts.vocabulary, parts.merges
        self._states = states = States(parts)
        self._live: dict[tuple[int, int], bool] = {}
        self._steps: dict[tuple[int, int], dict[int, int]] = {}
        rows = max(64, _CACHE_BYTES // max(1, len(self.vocabulary.rows)))
        self.mask = functools.lru_cache(maxsize=rows)(self._mask)
        self._may_follow = functools.lru_cache(maxsize=256)(parts.follow.may_follow)
        self._may_finish = functools.lru_cache(maxsize=1 << 14)(parts.finish.may_follow)
        self._row = functools.cache(self._find_row)
        self._open_rows = functools.cache(self._find_open_rows)
        self._can_finish = functools.cache(self._find_can_finish)
        self.plain_start = states.intern(State(parts.splitter.start))
        self.start = self.plain_start
        if self.source.dummy:
            self.start = states.intern(State(parts.splitter.start, start=AT_START))

    # ---- the face of Canonical -----------------------------------------------------------------------

    def ends(self, state: int) -> bool:
        """Whether a sequence in this state is itself in D: whether the text may end here."""
        return bool(self._states.ending[state])

    def steps(self, last: int, state: int) -> dict[int, int]:
        """What `step` has answered so far, token -> state; to be read only."""
        known = self._steps.get((last, state))
        if known is None:
            if len(self._steps) >= _CACHE_STEPS:
                self._steps.clear()
            known = self._steps[last, state] = {}
        return known

    def step(self, last: int, state: int, token: int) -> int:
        """The state after one more token, 0 if it may not follow `last` in `state`."""
        known = self.steps(last, state)
        after = known.get(token)
        if after is None:
            live = [s for s in self._reached(last, state, token) if self._is_live(token, s)]
            after = known[token] = self._states.union(live)
        return after

    def _mask(self, last: int, state: int) -> np.ndarray:
        """The rows that may follow: booleans `[M]`, read-only; cached as `mask`."""
        found = np.zeros(len(self.vocabulary.rows), bool)
        at = self._states.states[state]
        if state and not (at.partial or at.start or self.parts.added):  # the common case, and the faster way
            if last != NOTHING:
                found |= self._open_rows(at.cut, 0)
                found[self.parts.usable[self.parts.follow.refused(last)]] = False
            found |= self._open_rows(at.cut, 1)
            found.flags.writeable = False
            return found
        for rows, states in self._successors(last, state, live=True):
            found[rows[states > 0]] = True
        found.flags.writeable = False
        return found

    def _find_open_rows(self, cut: int, way: int) -> np.ndarray:
        """`_find_row` as booleans `[M]`."""
        found = np.zeros(len(self.vocabulary.rows), bool)
        found[self.parts.usable] = self._row(cut, way) > 0
        return found

    # ---- steps over the whole vocabulary -------------------------------------------------------

    def _find_row(self, cut: int, way: int) -> np.ndarray:
        """For the usable rows `[U]` the state after the token if some continuation exists, else 0."""
        states = self._all(cut, way).copy()
        open_ = np.flatnonzero((states > 0) & ~self._states.ending[states])
        tokens = self.vocabulary.order[self.parts.usable[open_]].tolist()
        for i, token, state in zip(open_.tolist(), tokens, states[open_].tolist(), strict=True):
            if not self._is_live(token, state):
                states[i] = 0
        return states

    def _all(self, cut: int, way: int) -> np.ndarray:
        """For the usable rows `[U]` the state after the token, 0 for none."""
        return np.where(self.parts.form >= 0, self._states.finals(cut, way)[self.parts.form], 0)

    def _successors(self, last: int, state: int, live: bool) -> list[tuple[np.ndarray, np.ndarray]]:
        """Rows, and the states after them (0 for none), for each way to go on.

        `live`: states that no text continues are 0; else they may be there.
        """
        at, parts = self._states.states[state], self.parts
        found: list[tuple[np.ndarray, np.ndarray]] = []
        if not state:
            return found
        if at.partial:
            states = np.where(self._may_finish(last), self._states.finishing(state), 0)
            found.append((parts.finishers, states))
        else:
            for way in (1, 0):
                if way == 0 and last == NOTHING:
                    continue
                states = self._row(at.cut, way) if live else self._all(at.cut, way)
                if way == 0 and states.any():
                    states = np.where(self._may_follow(last), states, 0)
                found.append((parts.usable, states))
            if parts.added:
                rows = self.vocabulary.row_of[parts.added]
                found.append((rows, np.array([self._states.added(at.cut, t) for t in parts.added], np.int32)))
        if at.start:
            found = [(rows, self._at_start(at, rows, states)) for rows, states in found]
        if live and (at.partial or parts.added or at.start):
            order = self.vocabulary.order
            for rows, states in found:
                for i in np.flatnonzero((states > 0) & ~self._states.ending[states]).tolist():
                    if not self._is_live(int(order[rows[i]]), int(states[i])):
                        states[i] = 0
        return found

    def _at_start(self, at: State, rows: np.ndarray, states: np.ndarray) -> np.ndarray:
        """The states after the first tokens of a text with a dummy space."""
        states = states.copy()
        for i in np.flatnonzero(states).tolist():
            states[i] = self._states.started(at, self.vocabulary.rows[rows[i]], int(states[i]))
        return states

    # ---- single steps --------------------------------------------------------------------------

    def _reached(self, last: int, state: int, token: int) -> list[int]:
        """The states after one token, for each way to go on; some may have no continuation."""
        if not state or not 0 <= token < len(self.vocabulary.data) or not self.vocabulary.data[token]:
            return []
        at, parts = self._states.states[state], self.parts
        row = int(self.vocabulary.row_of[token])
        found = []
        if at.partial:
            place = self._place_of_finisher.get(row)
            if place is not None and self.merges.may_touch(last, token):
                found.append(int(self._states.finishing(state)[place]))
        else:
            form = int(parts.forms.form[row])
            if form >= 0:
                found.append(int(self._states.finals(at.cut, 1)[form]))
                inside = int(self._states.finals(at.cut, 0)[form]) if last != NOTHING else 0
                if inside and parts.is_made(last) and self.merges.may_touch(last, token):
                    found.append(inside)
            if token in parts.added:
                found.append(self._states.added(at.cut, token))
        if at.start:
            found = [self._states.started(at, self.vocabulary.rows[row], s) for s in found if s]
        return [s for s in found if s]

    @functools.cached_property
    def _place_of_finisher(self) -> dict[int, int]:
        return {row: i for i, row in enumerate(self.parts.finishers.tolist())}

    # ---- is there a continuation ---------------------------------------------------------------

    def _is_live(self, token: int, state: int) -> bool:
        """Whether a sequence that ends with `token` in `state` is in pre(D): some text continues it."""
        if self._states.ending[state]:
            return True
        known = self._live.get((token, state))
        if known is not None:
            return known
        at = self._states.states[state]
        if at.partial and self._can_finish(token, at.partial, self._states.endings(at.cut, at.ways)):
            self._live[token, state] = True
            return True
        return self._search(token, state)

    def _search(self, token: int, state: int) -> bool:
        came_from: dict[tuple[int, int], tuple[int, int] | None] = {(token, state): None}
        queue = [(token, state)]
        for pair in queue:
            further: list[tuple[int, int]] = []
            for rows, states in self._successors(*pair, live=False):
                go = np.flatnonzero(states)
                if self._live.get(pair) or self._states.ending[states[go]].any():
                    at: tuple[int, int] | None = pair
                    while at is not None:
                        self._live[at] = True
                        at = came_from[at]
                    return True
                further += zip(self.vocabulary.order[rows[go]].tolist(), states[go].tolist(), strict=True)
            for new in further:
                if new not in came_from and self._live.get(new, True):
                    came_from[new] = pair
                    queue.append(new)
        self._live.update(dict.fromkeys(came_from, False))
        return False

    def _find_can_finish(self, token: int, partial: int, endings: int) -> bool:
        """Whether tokens that hold nothing else can finish the character, as a class in `endings`."""
        utf8, follows = self.parts.utf8, self._may_finish(token)
        longer = []
        for i, (row, lead, form) in enumerate(self.parts.forms.leads):
            if form is None and follows[i]:
                code = utf8.walk(partial, lead)
                if 0 <= code < utf8.size and endings >> code & 1:
                    return True
                if code >= utf8.size and utf8.reach[code - utf8.size] & endings:
                    longer.append((int(self.vocabulary.order[row]), code))
        return any(self._can_finish(t, code, endings) for t, code in longer)
