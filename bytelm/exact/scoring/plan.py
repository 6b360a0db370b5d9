"""How the nodes of a batch of rows are evaluated: in which blocks, at which places, and what is asked.

Everything here is known before the model runs. The first step is the end of the trunk, each row's base; each
further one commits what its nodes all descend from, and evaluates the next block of every row.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from bytelm.exact.canonical.states import NOTHING
from bytelm.exact.rows import Row, common
from bytelm.exact.scoring.terms import Terms

NOWHERE = (NOTHING, 0)
"""A (last token, state) after which nothing may follow."""

_SLOTS = 128  # of a trunk at first: longer texts double them as they need them


class Step(NamedTuple):
    """A block. R = B * N rows of logits, those of a text side by side.

    path_BM: places that join the trunk before it. new_3BN: tokens, parents and places. pairs: R pairs (last
    token, state). kids_2C: (row, column) of tokens; ranges_3S: (row, low, high); both padded. rows: for each
    text its number, the nodes (children) that its kids are, where these are among the kids, and where its
    terms are: among its own and among the ranges. slots: of the trunk in the cache; more than before, where
    it has grown.
    """

    path_BM: np.ndarray
    new_3BN: np.ndarray
    pairs: list[tuple[int, int]]
    kids_2C: np.ndarray
    ranges_3S: np.ndarray
    rows: list[tuple[int, list[int], slice, tuple[slice, slice]]]
    slots: int


@dataclass(eq=False)
class Plan:
    """B rows, padded to a power of two; `terms` and `parents` are those of the real ones.

    parents: for each row the parent of each node, as an index into the row's nodes. most: the tokens of the
    longest context.
    """

    trunk_BS: np.ndarray
    length_B: np.ndarray
    places: int
    terms: list[Terms]
    parents: list[list[int]]
    steps: list[Step]
    most: int


class _Block(NamedTuple):
    """A block of one row: places that join the trunk, its first node, and for each its parent's place and its
    own; -1 for what is no node."""

    path: list[int]
    first: int
    parents: list[int]
    places: list[int]


class _Nodes(NamedTuple):
    """The nodes of a row: pairs (last token, state), tokens, the columns of these, and parents.

    kids: all but the base, in the order of their parents' blocks, and then their own; those whose parents are
    in block s are ``kids[bounds[s] : bounds[s + 1]]``.
    """

    pairs: list[tuple[int, int]]
    token: np.ndarray
    column: np.ndarray
    parent: np.ndarray
    kids: np.ndarray
    bounds: np.ndarray


def planned(rows: Sequence[Row], terms: Sequence[Terms], at_once: int, widest: bool = False) -> Plan:
    """The plan of a batch, in blocks of about `at_once` nodes in all.

    widest: the cache has all its slots from the start, and does not grow.
    """
    B = bucket(len(rows), 1)
    longest = max(len(t.nodes) for t in terms)
    N = min(max(1, at_once // B), bucket(longest - 1, 16))
    trunks = [row.path(row.base) for row in rows]
    parents, nodes, blocks, used, depth = [], [], [], [], []
    for row, one in zip(rows, terms, strict=True):
        index = {node: k for k, node in enumerate(one.nodes)}
        up = row.tree.parent
        parent = [-1, *(index[up[node]] for node in one.nodes[1:])]
        found, most = _blocks(parent, N)
        parents.append(parent)
        nodes.append(_nodes(row, one.nodes, parent, N))
        blocks.append(found)
        used.append(most)
        deep = [0] * len(parent)
        for k in range(1, len(parent)):
            deep[k] = deep[parent[k]] + 1
        depth.append(max(deep))
    most = max(len(trunk) + deep for trunk, deep in zip(trunks, depth, strict=True))
    trunk_BS, length_B = padded(trunks, B)
    places = -(-max(used) // 64) * 64 if max(used) else 1
    slots = bucket(max(trunk_BS.shape[1], most if widest else 0), _SLOTS)
    lengths, steps = [len(trunk) for trunk in trunks], []
    for s in range(max(map(len, blocks))):
        here = [one[s] if s < len(one) else None for one in blocks]
        lengths = [n + len(one.path) if one else n for n, one in zip(lengths, here, strict=True)]
        slots = bucket(max(lengths), slots)
        steps.append(_step(s, terms, nodes, here, B, N if s else 1, places, slots))
    return Plan(trunk_BS, length_B, places, list(terms), parents, steps, most)


def bucket(count: int, least: int) -> int:
    """A power of two times `least` that holds `count`: so that few shapes are compiled."""
    size = least
    while size < count:
        size *= 2
    return size


def padded(rows: Sequence[Sequence[int]], B: int) -> tuple[np.ndarray, np.ndarray]:
    """Ragged rows of tokens as `[B, S]` and their lengths `[B]`; rows beyond them have length 1."""
    length_B = np.array([len(row) for row in rows] + [1] * (B - len(rows)), np.int32)
    tokens_BS = np.zeros((B, bucket(int(length_B.max()), 16)), np.int32)
    for b, row in enumerate(rows):
        tokens_BS[b, : len(row)] = row
    return tokens_BS, length_B


def _blocks(parent: list[int], N: int) -> tuple[list[_Block], int]:
    """The blocks of a row whose nodes have these parents, and how many places they need."""
    count = len(parent)
    block = [0, *(1 + (k - 1) // N for k in range(1, count))]
    last = block.copy()  # the last block with a descendant
    trunk = [0] * (count + 1)  # for each node what it and all later ones descend from
    trunk[-1] = -1
    for k in range(count - 1, 0, -1):
        last[parent[k]] = max(last[parent[k]], last[k])
        later = trunk[k + 1]
        trunk[k] = parent[k] if later < 0 else common(parent, [parent[k], later])
    place, most = [-1] * count, 0
    free: list[int] = []
    ending: dict[int, list[int]] = {}
    found, end = [_Block([], 0, [-1], [-1])], 0
    for first in range(1, count, N):
        s = block[first]
        path = []
        at = trunk[first]
        while at != end:
            path.append(place[at])
            place[at] = -1
            at = parent[at]
        end = trunk[first]
        for place_ in path:
            heapq.heappush(free, place_)
        for k in ending.pop(s - 1, []):
            if place[k] >= 0:
                heapq.heappush(free, place[k])
        here = range(first, min(first + N, count))
        for k in here:
            if free:
                place[k] = heapq.heappop(free)
            else:
                place[k], most = most, most + 1
            ending.setdefault(last[k], []).append(k)
        found.append(_Block(path[::-1], first, [place[parent[k]] for k in here], [place[k] for k in here]))
    return found, most


def _nodes(row: Row, nodes: list[int], parent: list[int], N: int) -> _Nodes:
    tree = row.tree
    pairs = [(tree.token[node], tree.state[node]) for node in nodes]
    token, up = np.array([token for token, _ in pairs]), np.array(parent)
    block = (up[1:] + N - 1) // N  # of the parent
    order = np.argsort(block, kind="stable")
    bounds = np.searchsorted(block[order], np.arange(-(-len(nodes) // N) + 2))
    return _Nodes(pairs, token, tree.canonical.vocabulary.row_of[token], up, order + 1, bounds)


def _step(s: int, terms, nodes: list[_Nodes], blocks, B: int, N: int, places: int, slots: int) -> Step:
    path_BM = np.full((B, places), -1, np.int32)
    new_3BN = np.full((3, B, N), -1, np.int32)
    pairs = [NOWHERE] * (B * N)
    kids, ranges, spans, begin, total = [], [], [], 0, 0
    for b, block in enumerate(blocks):
        if block is None:
            continue
        one, of = terms[b], nodes[b]
        first, count = block.first, len(block.places)
        path_BM[b, : len(block.path)] = block.path
        pairs[b * N : b * N + count] = of.pairs[first : first + count]
        if s:
            new_3BN[:, b, :count] = of.token[first : first + count], block.parents, block.places
        children = of.kids[of.bounds[s] : of.bounds[s + 1]]
        kids.append(np.stack([b * N + of.parent[children] - first, of.column[children]]))
        low, high = np.searchsorted(one.by, [first, first + count])
        ranges.append(np.stack([b * N + one.by[low:high] - first, one.low[low:high], one.high[low:high]]))
        end = begin + len(children)
        where = slice(low, high), slice(total, total + high - low)
        spans.append((b, children.tolist(), slice(begin, end), where))
        begin, total = end, total + high - low
    return Step(
        path_BM,
        new_3BN,
        pairs,
        _filled(kids, 2, max(16, 2 * B * N)),
        _filled(ranges, 3, max(64, 8 * B * N)),
        spans,
        slots,
    )


def _filled(parts: list[np.ndarray], height: int, least: int) -> np.ndarray:
    """Columns side by side, and zeros up to one of few sizes."""
    filled = np.zeros((height, bucket(sum(part.shape[1] for part in parts), least)), np.int32)
    at = 0
    for part in parts:
        filled[:, at : at + part.shape[1]] = part
        at += part.shape[1]
    return filled
