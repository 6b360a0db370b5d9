"""What a text's laws are sums of: for every node, ranges of the sorted vocabulary and where they count."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from bytelm.exact.rows import Row
from bytelm.exact.scoring.columns import Columns
from bytelm.lm import END, LAW


class Terms(NamedTuple):
    """S terms: target[s] gains w * (mass of the columns low..high-1) of a node, an index into `nodes`.

    nodes: those of the row, `base` first. by: `[S]` ascending. targets: how many there are.
    """

    nodes: list[int]
    by: np.ndarray
    low: np.ndarray
    high: np.ndarray
    target: np.ndarray
    targets: int


def of_scores(row: Row, columns: Columns, joint: bool) -> Terms:
    """For log p(byte | before) of the n bytes from `row.offset` on, and of the end there.

    Targets are P(text[:offset + i]) for i in 0..n, then P(text, end), and under `joint` what next-byte laws
    sum to at each of those n + 1 offsets.
    """
    tree, first = row.tree, row.offset
    below, text, stop = tree.canonical.vocabulary.below, bytes(tree.text), len(tree.text)
    count = stop - first + 1
    found: list[tuple[int, int, int, int]] = []
    nodes = [row.base, *row.nodes]
    for k, node in enumerate(nodes):
        start = tree.offset[node]
        here = max(start, tree.lead)
        if tree.canonical.ends(tree.state[node]):
            if here == stop:
                found.append((k, *columns.ends, count))
            if joint and here >= first:
                found.append((k, *columns.ends, count + 1 + here - first))
        if joint and start >= first:
            found.append((k, 0, columns.rows, count + 1 + start - first))
        for end in range(max(start + 1, first), stop + 1):
            low, high, _, firsts = below(text[start:end])
            if low == high:
                break
            found.append((k, low, high, end - first))
            if joint and len(firsts):
                found.append((k, int(firsts[0]), high, count + 1 + end - first))
    table = np.array(found, np.int32).reshape(-1, 4)
    by, low_, high_, target = table.T
    return Terms(nodes, by, low_, high_, target, count + 1 + joint * count)


def scores_of(log_sums: np.ndarray, row: Row, joint: bool) -> np.ndarray:
    """The scores `[n + 1]` from the logarithms of the targets of `of_scores`; -inf after the impossible."""
    count = len(row.tree.text) - row.offset + 1
    text, end = log_sums[:count].copy(), log_sums[count]
    if row.offset == row.tree.lead:
        text[0] = 0.0  # nothing was written yet
    whole = log_sums[count + 1 :] if joint else text
    gained = np.append(text[1:], end)
    possible = np.logical_and.accumulate((gained > -np.inf) & (whole > -np.inf))
    return np.where(possible, gained - np.where(possible, whole, 0.0), -np.inf)


def of_laws(row: Row, columns: Columns) -> Terms:
    """For the whole law at each of the n + 1 offsets from `row.offset` on: 257 targets each."""
    tree, first = row.tree, row.offset
    below, text, stop = tree.canonical.vocabulary.below, bytes(tree.text), len(tree.text)
    parts: list[tuple[np.ndarray, ...]] = []
    nodes = [row.base, *row.nodes]
    for k, node in enumerate(nodes):
        start = tree.offset[node]
        here = max(start, tree.lead)
        if here >= first and tree.canonical.ends(tree.state[node]):
            low, high = columns.ends
            parts.append(tuple(np.array([x]) for x in (k, low, high, (here - first) * LAW + END)))
        for end in range(max(start, first), stop + 1):
            low, high, following, firsts = below(text[start:end])
            if low == high:
                break
            target = (end - first) * LAW + following.astype(np.int64)
            parts.append(
                (np.full(len(firsts), k), firsts, np.append(firsts[1:], high)[: len(firsts)], target)
            )
    empty = (np.zeros(0, np.int64),) * 4
    by, lows, highs, laws = (
        np.concatenate(column).astype(np.int32) for column in zip(*(parts or [empty]), strict=True)
    )
    return Terms(nodes, by, lows, highs, laws, (stop - first + 1) * LAW)


def laws_of(log_sums: np.ndarray) -> np.ndarray:
    """The laws `[n + 1, 257]` from the logarithms of the targets of `of_laws`."""
    law = log_sums.reshape(-1, LAW)
    top = law.max(axis=1, keepdims=True)
    top = np.where(top > -np.inf, top, 0.0)
    with np.errstate(divide="ignore"):
        total = top + np.log(np.exp(law - top).sum(axis=1, keepdims=True))
    return np.where(law > -np.inf, law - np.where(total > -np.inf, total, 0.0), -np.inf)


def log_sums(values: np.ndarray, target: np.ndarray, targets: int) -> np.ndarray:
    """log of the sums of exp(values) by target, float64 `[targets]`; -inf for none."""
    top = np.full(targets, -np.inf)
    np.maximum.at(top, target, values)
    top = np.where(top > -np.inf, top, 0.0)
    with np.errstate(divide="ignore"):
        return np.log(np.bincount(target, np.exp(values - top[target]), targets)) + top
