"""Rows of symbols, against a slow reference that works symbol by symbol."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bytelm.data import packing, train_stream
from bytelm.data.pieces import piece_sequence
from bytelm.lm import END


def reference(texts, source, *, rows, length, seed, piece, batches):
    """The stream's definition, one symbol at a time."""
    sequence = piece_sequence(source, piece=piece, seed=seed)
    out = {name: np.zeros((batches, rows, length), int) for name in ("inputs", "targets", "documents")}
    for lane in range(rows):
        line, element = [], 0
        while len(line) < batches * length:
            one = sequence[lane + element * rows]
            if one is not None:
                symbols = [END, *texts[one.document], END]
                stop = len(symbols) - 1 if one.stop is None else one.stop
                line += [(symbols[t], symbols[t + 1], element) for t in range(one.start, stop)]
            element += 1
        for batch in range(batches):
            row = line[batch * length : (batch + 1) * length]
            runs = [0, *np.cumsum([a[2] != b[2] for a, b in pairwise(row)])]
            out["inputs"][batch, lane] = [x for x, _, _ in row]
            out["targets"][batch, lane] = [y for _, y, _ in row]
            out["documents"][batch, lane] = [run + 1 for run in runs]
    return out


TEXTS = st.lists(st.binary(min_size=1, max_size=30), min_size=1, max_size=6)


@settings(deadline=None, max_examples=60)
@given(
    TEXTS,
    st.integers(1, 4),
    st.integers(1, 20),
    st.integers(0, 9),
    st.one_of(st.none(), st.integers(1, 12)),
    st.sampled_from([1, 5, 2**16]),
    st.booleans(),
)
def test_stream_is_the_reference(table, unmeasured, texts, rows, length, seed, piece, block, measured):
    source = (table if measured else unmeasured)(texts)
    expected = reference(texts, source, rows=rows, length=length, seed=seed, piece=piece, batches=6)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(packing, "BLOCK", block)  # a document read in many small blocks
        stream = train_stream(source, rows=rows, length=length, seed=seed, piece=piece, prefetch=0)
        for step in range(6):
            batch = next(stream)
            assert {name: array.dtype for name, array in batch.items()} == {
                "inputs": np.uint16,
                "targets": np.uint16,
                "documents": np.int32,
            }
            for name, array in batch.items():
                assert array.tolist() == expected[name][step].tolist(), name


@pytest.mark.parametrize("piece", [None, 7])
def test_an_epoch_holds_every_pair_of_neighbours_once(table, piece):
    texts = [bytes(np.random.default_rng(i).integers(0, 256, 3 + 5 * i, np.uint8)) for i in range(12)]
    total = sum(len(text) + 1 for text in texts)
    stream = train_stream(table(texts), rows=1, length=total, seed=3, piece=piece, prefetch=0)
    expected = Counter()
    for text in texts:
        symbols = [END, *text, END]
        expected.update(pairwise(symbols))
    for _ in range(3):
        batch = next(stream)
        pairs = Counter(zip(batch["inputs"][0].tolist(), batch["targets"][0].tolist(), strict=True))
        assert pairs == expected
    # The control: an inputs row that is only the targets shifted has wrong symbols before the pieces.
    row = batch["targets"][0]
    assert Counter(zip(row[:-1].tolist(), row[1:].tolist(), strict=True)) != expected


def test_adjacent_pieces_differ_even_of_one_document(table):
    """One document in pieces: without a new number each, attention would join two strange neighbours."""
    stream = train_stream(table([bytes(range(200))]), rows=1, length=100, seed=0, piece=10, prefetch=0)
    for _ in range(20):
        batch = next(stream)
        jumps = batch["inputs"][0][1:] != batch["targets"][0][:-1]
        changes = batch["documents"][0][1:] != batch["documents"][0][:-1]
        assert (changes >= jumps).all()
        assert changes.sum() >= 9


def test_a_long_document_is_read_once(table, counted):
    """Rows of 50 symbols over one document of 100 kB: nothing is read again for each row."""
    source = counted(table([bytes(100_000)]))
    with train_stream(source, rows=1, length=50, seed=0, prefetch=0) as stream:
        for _ in range(1999):
            next(stream)
    assert sum(source.asked) < 100_000 + 100


def test_an_unmeasured_document_is_fetched_once(unmeasured):
    source = unmeasured([bytes(100_000)])
    with train_stream(source, rows=1, length=50, seed=0, prefetch=0) as stream:
        for _ in range(1999):
            next(stream)
    assert source.fetched == 1


def test_empty_documents_are_passed_over(unmeasured):
    stream = train_stream(unmeasured([b"", b"ab", b""]), rows=2, length=6, seed=0, prefetch=0)
    assert next(stream)["targets"].tolist() == [[97, 98, END] * 2] * 2
    with pytest.raises(ValueError, match=r"unmeasured: 10,000 empty documents in a row"):
        next(train_stream(unmeasured([b""]), rows=1, length=6, seed=0, prefetch=0))
