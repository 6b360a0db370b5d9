"""The trees of a batch of rows, grown over a `TreeLM`'s cache byte by byte.

The cache of a row holds its trunk, the tokens that are in no doubt any more, and the nodes that a later
byte may still descend from. A pushed byte adds a node or two a row, in one pass of fixed shape for all rows;
what all live nodes descend from joins the trunk. The cache is written in place and never copied, except
where it has to become larger.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from bytelm.exact.asking import check_length
from bytelm.exact.generating.masses import Masses
from bytelm.exact.rows import common
from bytelm.exact.scoring.plan import NOWHERE, bucket, padded

if TYPE_CHECKING:
    from bytelm.exact.scoring.passes import Passes

_SLOTS = 64  # of a trunk, at least, and free at the start
_PLACES = 16  # of nodes, at least


class Branch:
    """A row and its number: masses, the trunk's tokens, the node that it ends in, and the places of nodes."""

    def __init__(self, masses: Masses, number: int):
        self.masses, self.number = masses, number
        self.end = masses.row.base
        self.trunk = masses.row.path(self.end)
        self.place: dict[int, int] = {}

    def copy(self, masses: Masses) -> Branch:
        """An independent copy, for a copy of the masses."""
        twin = Branch.__new__(Branch)
        twin.masses, twin.number, twin.end = masses, self.number, self.end
        twin.trunk, twin.place = self.trunk.copy(), self.place.copy()
        return twin

    def advance(self) -> list[int]:
        """Moves the trunk's end to what all live nodes descend from: the places that join the trunk."""
        tree, parent = self.masses.row.tree, self.masses.row.tree.parent
        live = [*self.masses.kept, *self.masses.waiting]
        if not live:
            return []
        node = end = common(parent, live)
        path = []
        while node != self.end:
            path.append(node)
            node = parent[node]
        path.reverse()
        # The end may itself be new: it waits until the next byte.
        while path and path[-1] not in self.place:
            end = parent[path.pop()]
        self.end = end
        self.trunk += [tree.token[n] for n in path]
        places = [self.place[n] for n in path]
        alive: set[int] = set()
        for node in live:
            while node > end and node not in alive:
                alive.add(node)
                node = parent[node]
        self.place = {n: p for n, p in self.place.items() if n in alive}
        return places

    def settle(self, nodes: Sequence[int], places: int) -> list[tuple[int, int]]:
        """Gives new nodes places, of which there are enough: each one's parent's place and its own."""
        taken = set(self.place.values())
        free = [p for p in range(places) if p not in taken]
        found = []
        for node, place in zip(nodes, free, strict=False):
            self.place[node] = place
            found.append((self.place.get(self.masses.row.tree.parent[node], -1), place))
        return found

    def depth(self, node: int) -> int:
        """The tokens of a node's context."""
        parent, count = self.masses.row.tree.parent, len(self.trunk)
        while node != self.end:
            node, count = parent[node], count + 1
        return count


class Branches:
    """See the module."""

    def __init__(self, passes: Passes):
        self._passes = passes
        self.branches: list[Branch] = []
        self.cache: Any = None
        self._slots = self._places = 0

    def copy(self, rows: Sequence[Masses]) -> Branches:
        """An independent copy, for copies of the rows; the only place where a cache is copied."""
        twin = Branches(self._passes)
        twin.branches = [b.copy(masses) for b, masses in zip(self.branches, rows, strict=True)]
        twin.cache = jax.tree.map(jnp.copy, self.cache)
        twin._slots, twin._places = self._slots, self._places
        return twin

    def open(self, rows: Sequence[Masses]) -> None:
        """Reads the trunks of new rows, and what waits in them."""
        self.branches = [Branch(masses, b) for b, masses in enumerate(rows)]
        if not rows:
            return
        self._check()
        q_BP = self._read()
        for branch, q_P in zip(self.branches, q_BP, strict=False):
            if not branch.masses.row.dead:
                self._take(branch, q_P)
        self._grow([b for b in self.branches if not b.masses.row.dead], [])

    def grow(self, rows: Sequence[Masses]) -> None:
        """Evaluates what waits in some of the rows."""
        chosen = {id(masses) for masses in rows}
        moved = [b for b in self.branches if id(b.masses) in chosen and b.masses.waiting]
        if moved:
            self._check()
            self._grow(moved, [(b, b.advance()) for b in moved])

    # ---- passes --------------------------------------------------------------------------------

    def _check(self) -> None:
        for branch in self.branches:
            for node in branch.masses.waiting:
                check_length(branch.depth(node), self._passes.context)

    def _rows(self) -> int:
        return bucket(len(self.branches), 1)

    def _read(self) -> np.ndarray:
        """Opens a cache that has room, and evaluates the ends of the trunks: q `[B, P]`."""
        B, longest = self._rows(), max(len(b.trunk) for b in self.branches)
        self._slots = bucket(longest + _SLOTS, _SLOTS)
        self._places = bucket(2 * max(len(b.masses.row.nodes) for b in self.branches), _PLACES)
        # A row that is dead may have no trunk, and has no use for one.
        trunk_BS, length_B = padded([[0] if b.masses.row.dead else b.trunk for b in self.branches], B)
        pairs = [NOWHERE] * B
        for b, branch in enumerate(self.branches):
            tree = branch.masses.row.tree
            pairs[b] = tree.token[branch.end], tree.state[branch.end]
        q_BP, self.cache = self._passes.opened(trunk_BS, length_B, pairs, self._slots, self._places)
        return q_BP

    def _make_room(self, moved: Sequence[Branch]) -> None:
        """Widens the cache, where trunks or nodes outgrow it."""
        slots = bucket(max(len(b.trunk) for b in self.branches), self._slots)
        held = max((len(b.place) + len(b.masses.waiting) for b in moved), default=0)
        places = self._places if held <= self._places else bucket(2 * held, self._places)
        if (slots, places) != (self._slots, self._places):
            self._slots, self._places = slots, places
            self.cache = self._passes.model.widened(self.cache, slots=slots, nodes=places)

    def _grow(self, moved: Sequence[Branch], advanced: list[tuple[Branch, list[int]]]) -> None:
        self._make_room(moved)
        jobs = []
        for branch in moved:
            nodes = list(branch.masses.waiting)
            jobs.append((branch, nodes, branch.settle(nodes, self._places)))
        q_RP, N = self._evaluate(jobs, advanced)
        for branch, nodes, _ in jobs:
            row = branch.number * N
            for n in range(len(nodes)):
                self._take(branch, q_RP[row + n])

    def _evaluate(
        self,
        jobs: Sequence[tuple[Branch, list[int], list[tuple[int, int]]]],
        advanced: list[tuple[Branch, list[int]]],
    ) -> tuple[np.ndarray, int]:
        """Joins paths to the trunks and evaluates nodes: q `[B * N, P]`, and N."""
        B, N = self._rows(), bucket(max((len(nodes) for _, nodes, _ in jobs), default=0), 1)
        path_BM = np.full((B, bucket(max([len(p) for _, p in advanced], default=0), 4)), -1, np.int32)
        new = np.full((3, B, N), -1, np.int32)
        pairs = [NOWHERE] * (B * N)
        for branch, path in advanced:
            path_BM[branch.number, : len(path)] = path
        for branch, nodes, settled in jobs:
            b, tree = branch.number, branch.masses.row.tree
            for n, (node, (parent, place)) in enumerate(zip(nodes, settled, strict=True)):
                new[:, b, n] = tree.token[node], parent, place
                pairs[b * N + n] = tree.token[node], tree.state[node]
        q_RP, self.cache = self._passes.grown(self.cache, path_BM, new, pairs)
        return q_RP, N

    def _take(self, branch: Branch, q_P: np.ndarray) -> None:
        columns = self._passes.columns
        branch.masses.take(q_P[: columns.rows], float(q_P[slice(*columns.ends)].sum()))
