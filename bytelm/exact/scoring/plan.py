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

_SLOTS = 1024  # of a trunk at first: longer texts double them as they need them


class Step(NamedTuple):
    """A block. R = B * N rows of logits, those of a text side by side.

    path_BM: places that join the trunk before it. new: tokens, parents and places `[B, N]`. pairs: R pairs
    (last token, state). kids: (row, column) of tokens; ranges: (row, low, high); both padded.
    rows: for each text its number, the nodes (children) that its kids are, where these are among the kids,
    and where its terms are: among its own and among the ranges.
    """

    path_BM: np.ndarray
    new: tuple[np.ndarray, np.ndarray, np.ndarray]
    pairs: list[tuple[int, int]]
    kids: tuple[np.ndarray, ...]
    ranges: tuple[np.ndarray, ...]
    rows: list[tuple[int, list[int], slice, tuple[slice, slice]]]
    wider: Wider | None


class Wider(NamedTuple):
    """A cache to be made anew with more slots, and what it holds: trunks, and nodes as in `Step.new`."""

    trunks: list[list[int]]
    slots: int
    held: tuple[np.ndarray, np.ndarray, np.ndarray]


@dataclass
class Plan:
    """B rows, padded to a power of two; `terms` and `parents` are those of the real ones.

    parents: for each row the parent of each node, as an index into the row's nodes. most: the tokens of the
    longest context.
    """

    trunk_BS: np.ndarray
    length_B: np.ndarray
    slots: int
    places: int
    terms: list[Terms]
    parents: list[list[int]]
    steps: list[Step]
    most: int


class _Block(NamedTuple):
    """A block of one row: places that join the trunk, the node it then ends in, and nodes as (index, parent's
    place, place): those held from before, and its own."""

    path: list[int]
    end: int
    held: list[tuple[int, int, int]]
    nodes: list[tuple[int, int, int]]


def planned(rows: Sequence[Row], terms: Sequence[Terms], at_once: int, widest: bool = False) -> Plan:
    """The plan of a batch, in blocks of about `at_once` nodes in all.

    widest: the cache has all its slots from the start, and is never made anew.
    """
    B = bucket(len(rows), 1)
    longest = max(len(t.nodes) for t in terms)
    N = min(max(1, at_once // B), bucket(longest - 1, 1))
    trunks = [row.path(row.base) for row in rows]
    parents, kids_of, blocks, used, depth = [], [], [], [], []
    for row, one in zip(rows, terms, strict=True):
        index = {node: k for k, node in enumerate(one.nodes)}
        parent = [-1, *(index[row.tree.parent[node]] for node in one.nodes[1:])]
        found, most = _blocks(parent, N)
        parents.append(parent)
        blocks.append(found)
        used.append(most)
        deep = [0] * len(parent)
        kids: list[list[int]] = [[] for _ in parent]
        for k in range(1, len(parent)):
            deep[k] = deep[parent[k]] + 1
            kids[parent[k]].append(k)
        kids_of.append(kids)
        depth.append(max(deep))
    most = max(len(trunk) + deep for trunk, deep in zip(trunks, depth, strict=True))
    trunk_BS, length_B = padded(trunks, B)
    places = -(-max(used) // 64) * 64 if max(used) else 1
    slots = first_slots = max(
        trunk_BS.shape[1], bucket(most if widest else min(most, _SLOTS), min(128, _SLOTS))
    )
    lengths, steps = [len(trunk) for trunk in trunks], []
    for s in range(max(map(len, blocks))):
        here = [one[s] if s < len(one) else None for one in blocks]
        lengths = [n + len(one.path) if one else n for n, one in zip(lengths, here, strict=True)]
        wider = None
        if max(lengths) > slots:
            slots = bucket(max(lengths) + 1, slots)
            ends = [one[min(s, len(one) - 1)].end for one in blocks]
            held = np.full((3, B, bucket(max(len(one.held) if one else 0 for one in here), 8)), -1, np.int32)
            for b, block in enumerate(here):
                for n, (k, parent_, place) in enumerate(block.held if block else ()):
                    held[:, b, n] = rows[b].tree.token[terms[b].nodes[k]], parent_, place
            wide = [row.path(t.nodes[end]) for row, t, end in zip(rows, terms, ends, strict=True)]
            wider = Wider(wide, slots, (held[0], held[1], held[2]))
        steps.append(_step(rows, terms, parents, kids_of, here, B, N if s else 1, places, wider))
    return Plan(trunk_BS, length_B, first_slots, places, list(terms), parents, steps, most)


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
    found, end = [_Block([], 0, [], [(0, -1, -1)])], 0
    alive: set[int] = set()
    for first in range(1, count, N):
        s = block[first]
        path = []
        at = trunk[first]
        while at != end:
            path.append(place[at])
            place[at] = -1
            alive.discard(at)
            at = parent[at]
        end = trunk[first]
        for place_ in path:
            heapq.heappush(free, place_)
        for k in ending.pop(s - 1, []):
            if place[k] >= 0:
                heapq.heappush(free, place[k])
                alive.discard(k)
        held = [(k, place[parent[k]], place[k]) for k in sorted(alive)]
        nodes = []
        for k in range(first, min(first + N, count)):
            if free:
                place[k] = heapq.heappop(free)
            else:
                place[k], most = most, most + 1
            ending.setdefault(last[k], []).append(k)
            alive.add(k)
            nodes.append((k, place[parent[k]], place[k]))
        found.append(_Block(path[::-1], end, held, nodes))
    return found, most


def _step(rows, terms, parents, kids_of, blocks, B: int, N: int, places: int, wider) -> Step:
    path_BM = np.full((B, places), -1, np.int32)
    new = np.full((3, B, N), -1, np.int32)
    pairs = [NOWHERE] * (B * N)
    kids: list[tuple[int, int]] = []
    ranges: list[np.ndarray] = []
    spans = []
    total = 0
    for b, block in enumerate(blocks):
        if block is None:
            continue
        row, one = rows[b], terms[b]
        tree, row_of = row.tree, row.tree.canonical.vocabulary.row_of
        if wider is None:  # else the path is in the new trunk already
            path_BM[b, : len(block.path)] = block.path
        first, stop = block.nodes[0][0], block.nodes[-1][0] + 1
        for n, (k, parent, place) in enumerate(block.nodes):
            node = one.nodes[k]
            pairs[b * N + n] = tree.token[node], tree.state[node]
            if k:
                new[:, b, n] = tree.token[node], parent, place
        # Children come in the order of their parents only roughly: sorted, each after its own parent.
        children = sorted(c for k in range(first, stop) for c in kids_of[b][k])
        begin = len(kids)
        kids += [(b * N + parents[b][c] - first, int(row_of[tree.token[one.nodes[c]]])) for c in children]
        low, high = np.searchsorted(one.by, [first, stop])
        ranges.append(np.stack([b * N + one.by[low:high] - first, one.low[low:high], one.high[low:high]]))
        spans.append(
            (b, children, slice(begin, len(kids)), (slice(low, high), slice(total, total + high - low)))
        )
        total += high - low
    return Step(
        path_BM,
        (new[0], new[1], new[2]),
        pairs,
        _filled(np.array(kids, np.int32).reshape(-1, 2).T, 2 * B * N),
        _filled(np.concatenate([np.zeros((3, 0), np.int32), *ranges], axis=1), 8 * B * N),
        spans,
        wider,
    )


def _filled(columns: np.ndarray, least: int) -> tuple[np.ndarray, ...]:
    size = bucket(columns.shape[1], least)
    return tuple(np.pad(columns, ((0, 0), (0, size - columns.shape[1]))).astype(np.int32))
