"""The pieces of a Unigram model as a trie, and best paths in it: for a token, or all of them at once."""

from __future__ import annotations

import functools
from bisect import bisect_left
from typing import Any

import numpy as np

from bytelm.exact.tokenizer.source import Source

Window = tuple[tuple[str, float], ...]
"""Beginnings of tokens before a place, the longest first, and the best score to where each starts."""


class Trie:
    """The strings that pieces match and their beginnings; best paths, for a token or a whole vocabulary."""

    def __init__(self, source: Source):
        unigram = source.unigram
        assert unigram is not None
        self.precision: Any = np.float32 if unigram.single else np.float64
        self.unknown = float(self.precision(unigram.unknown))
        self.token = {text: t for t, text in unigram.matched.items()}  # of equal ones the last
        self.score = {text: float(self.precision(unigram.scores[t])) for text, t in self.token.items()}
        self.begins = {text[:i] for text in self.token for i in range(len(text))}
        self._nodes: list[str] = sorted({*self.token, *self.begins}, key=lambda x: (len(x), x))
        self._number = {text: i for i, text in enumerate(self._nodes)}
        self._over = functools.lru_cache(maxsize=1024)(self._find_over)
        self._sorted = sorted(self.token)
        self._lay_out()

    def add(self, a: float, b: float) -> float:
        """A sum, rounded as the tokenizer rounds it."""
        return float(self.precision(a) + self.precision(b)) if self.precision is np.float32 else a + b

    def advance(self, window: Window, text: str) -> tuple[Window, int]:
        """The window after some more characters, and how long the last token of the best path to there is.

        The length counts from the window's place: it is len(text) where the path ends with all of `text` as
        one token, and more where a token reaches over the place.
        """
        opens = list(window)
        start, back = len(opens) - 1, 0
        for i, char in enumerate(text):
            best: float | None = None
            single = char in self.score
            further = []
            for k, (begun, score) in enumerate(opens):
                longer = begun + char
                here = self.score.get(longer)
                if here is None and not begun and not single:
                    here = self.unknown
                if here is not None:
                    total = self.add(score, here)
                    if best is None or total > best:
                        best, back = total, k
                further.append((longer, score))
            assert best is not None
            opens = [*further, ("", best)]
            if i < len(text) - 1:
                continue
            kept = tuple((b, s) for b, s in opens[:-1] if b in self.begins)
            return (*kept, ("", best)), len(text) - (back - start)
        return window, 0

    def _lay_out(self) -> None:
        """Arrays over nodes: depth, and for each the ways to end it with a token that starts inside it."""
        depth = np.array([len(x) for x in self._nodes])
        bounds = np.searchsorted(depth, np.arange(1, depth.max(initial=0) + 2))
        self.levels = []
        for low, high in zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True):
            nodes, froms, scores = [], [], []
            for node in range(low, high):
                text = self._nodes[node]
                for i in range(1, len(text)):
                    score = self.score.get(text[i:])
                    if score is None and i == len(text) - 1:
                        score = self.unknown
                    if score is not None:
                        nodes.append(node - low)
                        froms.append(self._number[text[:i]])
                        scores.append(score)
            own = [self.score.get(self._nodes[n]) for n in range(low, high)]
            if low < high and len(self._nodes[low]) == 1:
                own = [self.unknown if s is None else s for s in own]
            self.levels.append(
                (
                    slice(low, high),
                    np.array(nodes, np.int64),
                    np.array(froms, np.int64),
                    np.array(scores, self.precision),
                    np.array([-np.inf if s is None else s for s in own], self.precision),
                )
            )

    def node_of(self, text: str) -> int:
        """The number of a string, -1 if it is none here."""
        return self._number.get(text, -1)

    def _find_over(self, begun: str) -> tuple[np.ndarray, np.ndarray]:
        """The tokens that begin with `begun`: the nodes of the rests that are nodes, and their scores."""
        nodes, scores = [], []
        for at in range(bisect_left(self._sorted, begun), len(self._sorted)):
            text = self._sorted[at]
            if not text.startswith(begun):
                break
            node = self._number.get(text[len(begun) :], -1)
            if node > 0:
                nodes.append(node)
                scores.append(self.score[text])
        return np.array(nodes, np.int64), np.array(scores, self.precision)

    def allowed(self, window: Window) -> np.ndarray:
        """Which nodes, as tokens, end the best path to their end: booleans `[nodes]`."""
        over = np.full(len(self._nodes), -np.inf, self.precision)
        for begun, score in window[:-1]:
            nodes, scores = self._over(begun)
            np.maximum.at(over, nodes, self.precision(score) + scores)
        best = np.full(len(self._nodes), -np.inf, self.precision)
        best[0] = window[-1][1]
        found = np.zeros(len(self._nodes), bool)
        for here, nodes, froms, scores, own in self.levels:
            inside = np.full(here.stop - here.start, -np.inf, self.precision)
            np.maximum.at(inside, nodes, best[froms] + scores)
            whole = best[0] + own
            found[here] = (own > -np.inf) & (whole >= inside) & (whole > over[here])
            best[here] = np.maximum(np.maximum(whole, inside), over[here])
        return found
