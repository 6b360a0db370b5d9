"""Held-out batches: every target once, in order, on every host the same number of batches."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from bytelm.data import eval_rows
from bytelm.data.documents import utf8_cut
from bytelm.lm import END


def flat(batches):
    """(inputs, targets, documents) in order, as one line each."""
    batches = list(batches)
    names = ("inputs", "targets", "documents")
    return [[x for batch in batches for x in batch[name].ravel().tolist()] for name in names]


def reference(texts, max_bytes=None):
    line, left = [], sum(map(len, texts)) if max_bytes is None else max_bytes
    for i, text in enumerate(texts):
        if left <= 0:
            break
        symbols = [END, *text, END]
        count = len(text) + 1 if len(text) <= left else utf8_cut(lambda a, b, t=text: t[a:b], left, len(text))
        line += [(symbols[t], symbols[t + 1], i + 1) for t in range(count)]
        left -= len(text)
    return line


TEXTS = st.lists(st.binary(min_size=1, max_size=30), min_size=1, max_size=6)


@example([b"\0\x80"], 1, 1, 1, True)  # nothing is left of it
@settings(deadline=None, max_examples=80)
@given(TEXTS, st.integers(1, 4), st.integers(1, 12), st.one_of(st.none(), st.integers(1, 90)), st.booleans())
def test_eval_is_the_reference(table, unmeasured, texts, rows, length, max_bytes, measured):
    source = (table if measured else unmeasured)(texts)
    batches = list(eval_rows(source, rows=rows, length=length, max_bytes=max_bytes))
    line = reference(texts, max_bytes)
    inputs, targets, documents = flat(batches)
    assert list(zip(inputs, targets, documents, strict=True))[: len(line)] == line
    assert set(documents[len(line) :]) <= {0}
    assert len(batches) == -(-len(line) // (rows * length))
    assert all(batch["targets"].shape == (rows, length) for batch in batches)
    if not measured:
        assert source.fetched <= len(texts)


def test_bytes_are_exactly_max_bytes(table):
    texts = [b"a" * 100, b"b" * 100]
    for max_bytes, ends in ((50, 0), (100, 1), (101, 1), (200, 2), (500, 2)):
        _, targets, documents = flat(eval_rows(table(texts), rows=2, length=7, max_bytes=max_bytes))
        real = [target for target, document in zip(targets, documents, strict=True) if document]
        assert (len(real) - ends, real.count(END)) == (min(max_bytes, 200), ends)


@pytest.mark.parametrize("measured", [True, False])
@pytest.mark.parametrize("hosts", [1, 2, 4])
def test_hosts_see_their_rows(hosts, measured, table, unmeasured):
    texts = [bytes([i]) * (i * 7) for i in range(1, 20)]
    source = (table if measured else unmeasured)(texts)
    whole = list(eval_rows(source, rows=4, length=13))
    for host in range(hosts):
        lanes = range(host * 4 // hosts, (host + 1) * 4 // hosts)
        own = list(eval_rows(source, rows=4, length=13, lanes=lanes))
        assert len(own) == len(whole)
        for mine, batch in zip(own, whole, strict=True):
            for name in batch:
                assert np.array_equal(mine[name], batch[name][list(lanes)]), name


def test_a_host_reads_its_own_rows_only(table, counted):
    source = counted(table([bytes(range(250)) * 40]))
    assert len(list(eval_rows(source, rows=4, length=100, lanes=(1,)))) == 26
    assert sum(source.asked) < 10_000 / 4 + 200


def test_empty_documents_have_no_target(unmeasured):
    _, targets, documents = flat(eval_rows(unmeasured([b"", b"a", b"", b"b"]), rows=1, length=4))
    assert (targets, documents) == ([97, END, 98, END], [2, 2, 4, 4])


def test_bad_arguments_are_refused_at_once(table):
    with pytest.raises(ValueError, match="max_bytes is 0"):
        eval_rows(table([b"a"]), rows=1, length=1, max_bytes=0)
    with pytest.raises(ValueError, match="rows is 0"):
        eval_rows(table([b"a"]), rows=0, length=1)
    with pytest.raises(ValueError, match="lanes are increasing"):
        eval_rows(table([b"a"]), rows=2, length=1, lanes=(2,))
