"""From the probabilities of tokens at the nodes of a tree to the laws of bytes.

  P(x[:j]) = sum over nodes i < j of w_i * m_i(x[i:j])

where w_i is the probability of node i's path and m_i(s) the sum of q(u | path_i) over the allowed tokens u
whose bytes start with s. In the sorted vocabulary those are a range, and its parts by next byte give the
law of the next byte. Masses are sums of segments, never differences of cumulative sums; weights are kept
as logarithms, in float64.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from bytelm.exact.tree import ROOT, Tree
from bytelm.lm import END, LAW


class _Kept(NamedTuple):
    """A node that may get children, or whose tokens may go on with the text: log w, and q over the rows."""

    weight: float
    q: np.ndarray


class Masses:
    """The unnormalised laws along the text of a tree, filled node by node.

    `joint`: token probabilities are taken as they are, else renormalised over what is allowed ("local").
    After the tree has grown call `grow`, then `take` for each of its new nodes, in order.
    """

    def __init__(self, tree: Tree, ends: Sequence[int], joint: bool):
        self.tree, self._ends, self._joint = tree, np.array(ends, np.int64), joint
        self._weight = {ROOT: 0.0}  # log w of nodes that were not taken yet
        self._kept: dict[int, _Kept] = {}
        self._children: dict[int, list[int]] = {}
        self._laws: dict[int, tuple[float, np.ndarray]] = {}  # offset -> a reference and exp(law - reference)
        self._seen = self._known = 0  # nodes and bytes of the tree that were grown over
        self.taken = 0
        self._settled, self._before = tree.lead, 0.0  # an offset, and log P of the text before it
        self.grow()

    def copy(self, tree: Tree) -> Masses:
        """An independent copy, for a copy of the tree."""
        twin = Masses.__new__(Masses)
        twin.__dict__.update(self.__dict__)
        twin.tree, twin._weight, twin._kept = tree, self._weight.copy(), self._kept.copy()
        twin._children = {node: kids.copy() for node, kids in self._children.items()}
        twin._laws = {offset: (at, sums.copy()) for offset, (at, sums) in self._laws.items()}
        return twin

    def waiting(self) -> range:
        """The nodes of the tree whose token probabilities are still wanted."""
        return range(self.taken, len(self.tree.token))

    def grow(self) -> None:
        """Takes notice of what the tree has gained: bytes, and nodes."""
        tree = self.tree
        for node in range(max(self._seen, 1), len(tree.token)):
            self._children.setdefault(tree.parent[node], []).append(node)
        for node, kept in list(self._kept.items()):
            self._spread(node, kept, self._known + 1)
            self._weigh_children(node, kept)
            if tree.offset[node] not in tree.open:
                del self._kept[node]
        self._seen, self._known = len(tree.token), len(tree.text)

    def take(self, logprobs_V: np.ndarray) -> None:
        """The token log probabilities `[V]` of the next of the nodes that are waiting."""
        node, tree = self.taken, self.tree
        self.taken += 1
        weight = self._weight.pop(node)
        if weight == -np.inf:
            self._children.pop(node, None)
            return
        q, end = self._probabilities(node, logprobs_V)
        kept = _Kept(weight, q)
        self._spread(node, kept, tree.offset[node])
        # The empty text ends before the dummy space that the tree begins with.
        self._add(max(tree.offset[node], tree.lead), weight, np.array([END]), np.array([end]))
        self._weigh_children(node, kept)
        if tree.offset[node] in tree.open:
            self._kept[node] = kept

    def law(self, offset: int) -> tuple[np.ndarray, float]:
        """log P(text[:offset] and then each of 257 symbols), float64 `[257]`, and the log of their sum."""
        if offset not in self._laws:
            return np.full(LAW, -np.inf), -np.inf
        reference, sums = self._laws[offset]
        with np.errstate(divide="ignore"):
            return np.log(sums) + reference, float(np.log(sums.sum()) + reference)

    def text_weight(self, offset: int) -> float:
        """log P(text[:offset]), from the law before its last byte."""
        if offset == self.tree.lead:
            return 0.0
        return float(
            self._before if offset == self._settled else self.law(offset - 1)[0][self.tree.text[offset - 1]]
        )

    def settle(self, offset: int) -> None:
        """Drops the laws before an offset that are not needed any more, and keeps log P(text[:offset])."""
        if offset != self._settled:
            self._before, self._settled = self.text_weight(offset), offset
        for old in [o for o in self._laws if o < offset]:
            del self._laws[old]

    def _probabilities(self, node: int, logprobs_V: np.ndarray) -> tuple[np.ndarray, float]:
        """q over the sorted vocabulary `[M]`, 0 where not allowed, and the probability of an end."""
        canonical, state = self.tree.canonical, self.tree.state[node]
        order = canonical.vocabulary.order
        logprobs = np.full(max(len(logprobs_V), int(order.max(initial=0)) + 1), -np.inf)
        logprobs[: len(logprobs_V)] = logprobs_V
        ends = float(np.exp(logprobs[self._ends]).sum()) if canonical.ends(state) else 0.0
        logprobs[self._ends] = -np.inf
        q = np.where(canonical.mask(self.tree.token[node], state), np.exp(logprobs[order]), 0.0)
        if self._joint:
            return q, ends
        total = q.sum() + ends
        return (q / total, ends / total) if total > 0 else (q, ends)

    def _weigh_children(self, node: int, kept: _Kept) -> None:
        row_of = self.tree.canonical.vocabulary.row_of
        for child in self._children.pop(node, ()):
            share = kept.q[row_of[self.tree.token[child]]]
            self._weight[child] = kept.weight + np.log(share) if share > 0 else -np.inf

    def _spread(self, node: int, kept: _Kept, first: int) -> None:
        """Adds the node's tokens to the laws at the offsets from `first` on."""
        text, start = self.tree.text, self.tree.offset[node]
        below = self.tree.canonical.vocabulary.below
        for offset in range(first, len(text) + 1):
            low, high, following, firsts = below(bytes(text[start:offset]))
            if low == high:
                return
            if len(firsts):
                stop = slice(int(firsts[0]), high)
                self._add(offset, kept.weight, following, np.add.reduceat(kept.q[stop], firsts - firsts[0]))

    def _add(self, offset: int, weight: float, symbols: np.ndarray, masses: np.ndarray) -> None:
        if offset not in self._laws:
            self._laws[offset] = (weight, np.zeros(LAW))
        reference, sums = self._laws[offset]
        if weight > reference:
            sums *= np.exp(reference - weight)
            reference = weight
            self._laws[offset] = (reference, sums)
        sums[symbols] += masses * np.exp(weight - reference)
