"""The sequence of pieces: exactly once an epoch, fresh cuts, orders by seed."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bytelm.data import Mixture, pieces
from bytelm.data.documents import TableBuilder
from bytelm.data.pieces import Pieces, hash_order, piece_sequence


def built(sizes):
    builder = TableBuilder()
    for size in sizes:
        builder.add(bytes(size))
    return builder.build("test", "")


def epoch(sequence, length, number):
    found = [sequence[i] for i in range(number * length, (number + 1) * length)]
    return [(one.document, one.start, one.stop) for one in found if one is not None]


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.integers(1, 60), min_size=1, max_size=8),
    st.integers(1, 25),
    st.integers(0, 5),
    st.integers(0, 3),
)
def test_every_target_once_an_epoch(sizes, piece, seed, number):
    documents = built(sizes)
    sequence = piece_sequence(documents, piece=piece, seed=seed)
    found = epoch(sequence, len(Pieces(documents, piece, seed)), number)
    targets = Counter((document, t) for document, start, stop in found for t in range(start, stop))
    assert targets == Counter((i, t) for i, size in enumerate(sizes) for t in range(size + 1))
    assert max(stop - start for _, start, stop in found) <= piece
    short = {i for i, size in enumerate(sizes) if size + 1 <= piece}
    assert {i: (a, b) for i, a, b in found if i in short} == {i: (0, sizes[i] + 1) for i in short}


def test_a_single_long_document_is_cut_elsewhere_each_epoch():
    documents = built([100_000])
    length = len(Pieces(documents, 1000, 0))
    sequence = piece_sequence(documents, piece=1000, seed=0)
    cuts = [{start for _, start, _ in epoch(sequence, length, n) if start} for n in range(4)]
    assert not set.intersection(*cuts)
    other = piece_sequence(documents, piece=1000, seed=1)
    assert cuts[0] != {start for _, start, _ in epoch(other, length, 0) if start}


@pytest.mark.parametrize("table_limit", [2**20, 1])
def test_order_by_seed_and_epoch(monkeypatch, table_limit):
    monkeypatch.setattr(pieces, "TABLE_LIMIT", table_limit)  # 1: by grain's shuffle
    documents = built([5] * 30)
    orders = {
        (seed, n): tuple(epoch(piece_sequence(documents, piece=None, seed=seed), 30, n))
        for seed in range(3)
        for n in range(3)
    }
    assert len(set(orders.values())) == 9  # also: seed 1 is not seed 0 an epoch later
    assert all(sorted(order) == sorted(orders[0, 0]) for order in orders.values())
    assert orders[2, 1] == tuple(epoch(piece_sequence(documents, piece=None, seed=2), 30, 1))


def test_order_is_pinned():
    """Resumed runs rely on it: change this only with a note that old iterator states are void."""
    assert hash_order(0, 0, 10).tolist() == [4, 8, 0, 1, 7, 6, 2, 5, 3, 9]


def test_shuffles_are_even():
    first = np.bincount([int(hash_order(seed, 0, 8)[0]) for seed in range(4000)], minlength=8)
    assert np.abs(first - 500).max() < 5 * np.sqrt(500)


def test_mixture_keeps_every_parts_epochs():
    documents = built([3] * 10), built([30] * 4)
    sequence = piece_sequence(Mixture(documents, (1.0, 1.0)), piece=None, seed=0)
    taken = Counter()
    for i in range(pieces.MIX_WINDOW):
        one = sequence[i]
        taken[documents.index(one.documents), one.document] += 1
    for part, size in ((0, 10), (1, 4)):
        counts = [taken[part, i] for i in range(size)]
        assert max(counts) - min(counts) <= 1


def test_bad_arguments():
    with pytest.raises(ValueError, match="piece is 0"):
        piece_sequence(built([3]), piece=0, seed=0)
    with pytest.raises(ValueError, match="seed is -1"):
        piece_sequence(built([3]), piece=None, seed=-1)
