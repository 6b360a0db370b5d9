"""From the probabilities of tokens at the nodes of a tree to the laws of bytes, node by node.

  P(x[:j]) = sum over nodes i < j of w_i * m_i(x[i:j])

where w_i is the probability of node i's path and m_i(s) the sum of q(u | path_i) over the allowed tokens u
whose bytes start with s. In the sorted vocabulary those are a range, and its parts by next byte give the
law of the next byte. Masses are sums of segments, never differences of cumulative sums; weights are kept
as logarithms, in float64, relative to that of the row's base.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from bytelm.exact.rows import Row
from bytelm.lm import END, LAW


class Kept(NamedTuple):
    """A node that may get children, or whose tokens may go on with the text: log w, and q from a row on."""

    weight: float
    q: np.ndarray
    first: int = 0


class Masses:
    """The unnormalised laws along a row's text, filled node by node.

    After the row's tree has grown call `grow`, then `take` for each of the `waiting` nodes, in order.
    """

    def __init__(self, row: Row):
        self.row = row
        self.kept: dict[int, Kept] = {}
        self._weight = {row.base: 0.0}  # log w of nodes that were not taken yet
        self._children: dict[int, list[int]] = {}
        self._laws: dict[int, tuple[float, np.ndarray]] = {}  # offset -> a reference and exp(law - reference)
        self._texts: dict[int, tuple[float, float]] = {}  # the same of P(text[:offset])
        self.waiting = deque([row.base])
        self._known = len(row.tree.text)
        self._wait(row.nodes)

    def copy(self, row: Row) -> Masses:
        """An independent copy, for a copy of the row."""
        twin = Masses.__new__(Masses)
        twin.__dict__.update(self.__dict__)
        twin.row, twin._weight, twin.kept = row, self._weight.copy(), self.kept.copy()
        twin._children = {node: kids.copy() for node, kids in self._children.items()}
        twin._laws = {offset: (at, sums.copy()) for offset, (at, sums) in self._laws.items()}
        twin._texts, twin.waiting = self._texts.copy(), self.waiting.copy()
        return twin

    def _wait(self, nodes: Sequence[int]) -> None:
        for node in nodes:
            self._children.setdefault(self.row.tree.parent[node], []).append(node)
        self.waiting += nodes

    def grow(self, nodes: Sequence[int]) -> None:
        """Takes notice of what the tree has gained: bytes, and these nodes."""
        tree = self.row.tree
        self._wait(nodes)
        for node, kept in list(self.kept.items()):
            self._spread(node, kept, self._known + 1)
            self._weigh_children(node, kept)
            if tree.offset[node] not in tree.open:
                del self.kept[node]
            else:
                self.kept[node] = self._cropped(node, kept)
        self._known = len(tree.text)

    def take(self, q: np.ndarray, end: float) -> None:
        """The probabilities of the rows `[M]`, and of an end, at the first of the nodes that are waiting."""
        tree = self.row.tree
        node = self.waiting.popleft()
        weight = self._weight.pop(node, -np.inf)
        if weight == -np.inf:
            self._children.pop(node, None)
            return
        kept = Kept(weight, q)
        self._spread(node, kept, max(tree.offset[node], self.row.offset))
        # The empty text ends before the dummy space that the tree begins with.
        if (here := max(tree.offset[node], tree.lead)) >= self.row.offset:
            self._add(here, weight, np.array([END]), np.array([end]))
        self._weigh_children(node, kept)
        if tree.offset[node] in tree.open:
            self.kept[node] = kept

    def law(self, offset: int) -> tuple[np.ndarray, float]:
        """log P(text[:offset] and then each of 257 symbols), float64 `[257]`, and the log of their sum."""
        if offset not in self._laws:
            return np.full(LAW, -np.inf), -np.inf
        reference, sums = self._laws[offset]
        with np.errstate(divide="ignore"):
            return np.log(sums) + reference, float(np.log(sums.sum()) + reference)

    def text_weight(self, offset: int) -> float:
        """log P(text[:offset])."""
        if offset == self.row.tree.lead:
            return 0.0
        reference, total = self._texts.get(offset, (0.0, 0.0))
        return float(reference + np.log(total)) if total > 0 else -np.inf

    def settle(self, offset: int) -> None:
        """Drops what is kept of offsets before this one."""
        for old in [o for o in self._laws if o < offset]:
            del self._laws[old]
        for old in [o for o in self._texts if o < offset]:
            del self._texts[old]

    def _cropped(self, node: int, kept: Kept) -> Kept:
        """The same with only the tokens that go on with the text, if that is much less."""
        tree = self.row.tree
        low, high, _, _ = tree.canonical.vocabulary.below(bytes(tree.text[tree.offset[node] :]))
        if 2 * (high - low) > len(kept.q):
            return kept
        return Kept(kept.weight, kept.q[low - kept.first : high - kept.first].copy(), low)

    def _weigh_children(self, node: int, kept: Kept) -> None:
        row_of = self.row.tree.canonical.vocabulary.row_of
        for child in self._children.pop(node, ()):
            share = float(kept.q[row_of[self.row.tree.token[child]] - kept.first])
            self._weight[child] = kept.weight + np.log(share) if share > 0 else -np.inf

    def _spread(self, node: int, kept: Kept, first: int) -> None:
        """Adds the node's tokens to the laws at the offsets from `first` on."""
        tree = self.row.tree
        text, start, below = tree.text, tree.offset[node], tree.canonical.vocabulary.below
        for offset in range(first, len(text) + 1):
            low, high, following, firsts = below(bytes(text[start:offset]))
            if low == high:
                return
            total = 0.0
            if len(firsts):
                begin = int(firsts[0])
                span = kept.q[begin - kept.first : high - kept.first]
                sums = np.add.reduceat(span, firsts - begin, dtype=np.float64)
                self._add(offset, kept.weight, following, sums)
                total = float(sums.sum())
                high = begin
            if offset > start:
                self._add_text(
                    offset, kept.weight, total + float(kept.q[low - kept.first : high - kept.first].sum())
                )

    def _add(self, offset: int, weight: float, symbols: np.ndarray, masses: np.ndarray) -> None:
        if offset not in self._laws:
            self._laws[offset] = (weight, np.zeros(LAW))
        reference, sums = self._laws[offset]
        if weight > reference:
            sums *= np.exp(reference - weight)
            reference = weight
            self._laws[offset] = (reference, sums)
        sums[symbols] += masses * np.exp(weight - reference)

    def _add_text(self, offset: int, weight: float, mass: float) -> None:
        reference, total = self._texts.get(offset, (weight, 0.0))
        if weight > reference:
            total *= np.exp(reference - weight)
            reference = weight
        self._texts[offset] = reference, total + mass * np.exp(weight - reference)
