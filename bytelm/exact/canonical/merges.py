"""Byte-pair merges: which tokens survive, and which may stand side by side inside a pre-token.

The encoder merges, again and again, the neighbouring pair of lowest rank, leftmost first. What happens
inside a stretch of text does not depend on the outside until a merge crosses its border, hence:

* the encoding of a token's own text is that token alone, or it never occurs ("unreachable");
* where it occurs, it was made by one and the same last merge, so all other merges to it are idle;
* a sequence is canonical exactly if each token is reachable and no merge crosses the border of any two
  neighbours encoded by themselves (Vieira et al., "Language Models over Canonical Byte-Pair Encodings",
  arXiv 2506.07956, prove it for merges in training order).

A border between tokens a|u is crossed by a merge (x, y) of rank k, x a piece that stood at the right edge
of a while it was built and y one at the left edge of u, if neither edge had been merged away before rank
k came up. For a fixed y those u are a contiguous range of a tree in which the children of a token are the
tokens that begin with it, the latest merge first. So all forbidden u of a token are a few ranges.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from bytelm.exact.canonical import disk
from bytelm.exact.errors import Unsupported

_NEVER = 1 << 60


class Merges:
    """The merges of a vocabulary of V tokens.

    base: ids that the encoder starts from (characters or bytes). candidates: (left, right, result, rank),
    ids and a number; lower ranks go first. length: the number of base symbols of every token. key: a name
    for all of these, to keep on disk what is found about them; None: not kept.
    """

    def __init__(
        self,
        size: int,
        base: Iterable[int],
        candidates: Iterable[tuple[int, int, int, int]],
        length: list[int],
        key: str | None = None,
    ):
        self.size = size
        self.left, self.right = [-1] * size, [-1] * size
        self.rank = [_NEVER] * size
        self._fires: dict[int, int] = {}  # left * V + right -> rank
        for token in base:
            self.rank[token] = -1
        if key is None:
            self._resolve(candidates, length)
        else:
            kept = disk.kept(key, lambda: self._resolved(candidates, length))
            self._restore(**kept)
        self.reachable = np.array(self.rank) < _NEVER
        self._lay_out()

    def _resolved(self, candidates: Iterable, length: list[int]) -> dict[str, np.ndarray]:
        self._resolve(candidates, length)
        return {"left": np.array(self.left), "right": np.array(self.right), "rank": np.array(self.rank)}

    def _restore(self, left: np.ndarray, right: np.ndarray, rank: np.ndarray) -> None:
        """Takes the one merge of each token from arrays `[V]`."""
        made = np.flatnonzero(left >= 0)
        self.left, self.right, self.rank = left.tolist(), right.tolist(), rank.tolist()
        pairs = left[made].astype(np.int64) * self.size + right[made]
        self._fires = dict(zip(pairs.tolist(), rank[made].tolist(), strict=True))

    def _resolve(self, candidates: Iterable[tuple[int, int, int, int]], length: list[int]) -> None:
        """Finds the one merge of each reachable token, shorter tokens first."""
        of_result: dict[int, list[tuple[int, int, int]]] = {}
        for left, right, result, rank in candidates:
            of_result.setdefault(result, []).append((rank, left, right))
        ranks = self.rank
        for result in sorted(of_result, key=length.__getitem__):
            if ranks[result] < 0:
                continue
            options = of_result[result]
            if len(options) > 1:  # the true one tends to be the one that can happen first
                options.sort(key=lambda o: (max(ranks[o[1]], ranks[o[2]]), o[0]))
            for rank, left, right in options:
                if ranks[left] < _NEVER and ranks[right] < _NEVER and self.may_touch(left, right):
                    if max(ranks[left], ranks[right]) > rank:
                        raise Unsupported(
                            "model", f"merge {rank}", "it stands before the merges that make its parts"
                        )
                    self.left[result], self.right[result], ranks[result] = left, right, rank
                    self._fires[left * self.size + right] = rank
                    break

    def may_touch(self, a: int, u: int) -> bool:
        """Whether no merge crosses the border of a|u: whether [a, u] is the encoding of its text."""
        ranks, fires, size = self.rank, self._fires, self.size
        until_a, until_u = _NEVER, _NEVER
        while True:
            rank = fires.get(a * size + u)
            # Of equal ranks the leftmost goes first: a's own, then the crossing, then u's own.
            if rank is not None and rank < until_a and rank <= until_u:
                return False
            # Back in time: the later of the two was put together last.
            if ranks[a] > ranks[u]:
                until_a, a = ranks[a], self.right[a]
            elif ranks[u] >= 0:
                until_u, u = ranks[u], self.left[u]
            else:
                return True

    def _lay_out(self) -> None:
        """Positions of the tokens in the left tree, and of each merge its range of forbidden tokens."""
        left, rank = np.array(self.left), np.array(self.rank)
        depth = np.where(self.reachable, np.where(left < 0, 0, -1), -2)
        levels = [np.flatnonzero(depth == 0)]
        made = np.flatnonzero(depth == -1)
        while len(made):
            here = depth[left[made]] == len(levels) - 1
            levels.append(made[here])
            depth[made[here]] = len(levels) - 1
            made = made[~here]
        weight = np.ones(self.size, np.int64)
        for level in reversed(levels[1:]):
            np.add.at(weight, left[level], weight[level])
        self.position = np.full(self.size, -1, np.int64)
        self.position[levels[0]] = np.cumsum(weight[levels[0]]) - weight[levels[0]]
        self.count = int(weight[levels[0]].sum())
        for level in levels[1:]:
            # Siblings side by side, the latest merge first.
            level = level[np.lexsort((-rank[level], left[level]))]
            before = np.cumsum(weight[level]) - weight[level]
            first = np.flatnonzero(np.diff(left[level], prepend=-1))
            before -= np.repeat(before[first], np.diff(first, append=len(level)))
            self.position[level] = self.position[left[level]] + 1 + before
        self._lay_out_ranges(left, rank, self.position + weight)

    def _lay_out_ranges(self, left: np.ndarray, rank: np.ndarray, stops: np.ndarray) -> None:
        made = np.flatnonzero(self.reachable & (left >= 0))
        made = made[np.lexsort((rank[made], left[made]))]
        right = np.array(self.right)[made]
        self._starts = self.position[right]
        self._stops = self._starts + 1
        if len(made):
            # The last child of `right` that was merged at this rank or later, in the order of the tree.
            base = int(rank[made].max()) + 1
            children = made[np.lexsort((-rank[made], left[made]))]
            key = left[children] * base + (base - 1 - rank[children])
            last = np.searchsorted(key, right * base + (base - 1 - rank[made]), side="right") - 1
            last = np.maximum(last, 0)
            found = (left[children[last]] == right) & (rank[children[last]] >= rank[made])
            self._stops = np.where(found, stops[children[last]], self._stops)
        self._of_rank = rank[made]
        self._offset = np.searchsorted(left[made], np.arange(self.size + 1)).tolist()

    def forbidden_ranges(self, a: int) -> tuple[np.ndarray, np.ndarray]:
        """Starts and stops of the ranges of positions of the tokens that may not follow `a`."""
        starts, stops = [], []
        until = _NEVER
        while a >= 0:
            low, high = self._offset[a], self._offset[a + 1]
            high = low + int(np.searchsorted(self._of_rank[low:high], until))
            starts.append(self._starts[low:high])
            stops.append(self._stops[low:high])
            until, a = self.rank[a], self.right[a]
        return np.concatenate(starts), np.concatenate(stops)

    def subset(self, tokens: np.ndarray) -> Subset:
        """Some tokens, for asking quickly which of them may follow another."""
        return Subset(self, tokens)


class Subset:
    """Some reachable tokens `[n]` of a vocabulary."""

    def __init__(self, merges: Merges, tokens: np.ndarray):
        self._merges = merges
        position = merges.position[tokens]
        self._order = order = np.argsort(position)
        # How many of these tokens stand before each position of the whole tree.
        self._before = np.searchsorted(position[order], np.arange(merges.count + 1))

    def may_follow(self, a: int) -> np.ndarray:
        """Which of the tokens may follow `a` inside a pre-token: booleans `[n]`, in their order."""
        found = np.ones(len(self._order), bool)
        found[self.refused(a)] = False
        return found

    def refused(self, a: int) -> np.ndarray:
        """Places of the tokens that may not follow `a` inside a pre-token, int64; some may be there twice."""
        starts, stops = self._merges.forbidden_ranges(a)
        order = self._order
        # Some dozens of ranges, most of them short.
        lows, highs = self._before[starts].tolist(), self._before[stops].tolist()
        return np.concatenate(
            [order[:0], *[order[low:high] for low, high in zip(lows, highs, strict=True) if low < high]]
        )
