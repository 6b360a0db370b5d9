"""Held-out bits per byte and its standard error."""

from __future__ import annotations

import math

import numpy as np
import pytest

from bytelm.lm import END
from bytelm.loss import Counts, counts_of
from bytelm.training.evaluate import evaluate


def run(nats_of_documents):
    """Evaluates documents given by the nats of their bytes and of their end (None: cut, no end)."""
    which, targets, nats = [], [], []
    for number, (of_bytes, end) in enumerate(nats_of_documents, 1):
        which += [number] * (len(of_bytes) + (end is not None))
        targets += [97] * len(of_bytes) + [END] * (end is not None)
        nats += [*of_bytes, *([] if end is None else [end])]
    pad = -len(which) % 5 + 5
    which, targets, nats = which + [0] * pad, targets + [0] * pad, nats + [1e6] * pad  # padding is loud
    rows = {"documents": np.array(which).reshape(-1, 5), "targets": np.array(targets).reshape(-1, 5)}
    rows["nats"] = np.array(nats).reshape(-1, 5)
    batches = [{name: x[i : i + 2] for name, x in rows.items()} for i in range(0, len(rows["nats"]), 2)]
    return evaluate(lambda batch: (batch["nats"], counts_of(batch)), batches, len(nats_of_documents))


def test_bits_of_bytes_and_of_ends():
    found = run([([1.0, 2.0, 3.0], 10.0), ([2.0] * 7, 20.0), ([5.0], None)])
    assert found["bits_per_byte"] == pytest.approx((6 + 14 + 5) / 11 / math.log(2))
    assert found["bits_per_end"] == pytest.approx(15 / math.log(2))
    assert (found["bytes"], found["documents"]) == (11, 3)


def test_one_document_has_no_standard_error():
    found = run([([1.0, 2.0], None)])
    assert math.isnan(found["standard_error"])
    assert math.isnan(found["bits_per_end"])
    assert found["bits_per_byte"] == pytest.approx(1.5 / math.log(2))


def test_no_byte_has_no_bits():
    found = run([([], 3.0)])
    assert math.isnan(found["bits_per_byte"])
    assert math.isnan(found["standard_error"])
    assert found["bits_per_end"] == pytest.approx(3.0 / math.log(2))
    assert found["bytes"] == 0


def test_standard_error_is_that_of_drawing_documents_again():
    random = np.random.default_rng(0)
    documents = [
        (random.gamma(2.0, random.gamma(4.0, 0.25), size), 3.0) for size in random.integers(5, 60, 300)
    ]
    found = run(documents)
    nats = np.array([x.sum() for x, _ in documents])
    size = np.array([len(x) for x, _ in documents])
    draws = random.integers(0, 300, (4000, 300))
    expected = (nats[draws].sum(1) / size[draws].sum(1)).std() / math.log(2)
    assert found["standard_error"] == pytest.approx(expected, rel=0.07)
    # Bytes are not independent within a document: as if they were, the error would be another.
    naive = np.concatenate([x for x, _ in documents]).std() / math.sqrt(size.sum()) / math.log(2)
    assert naive < 0.8 * expected


def test_targets_of_several_bytes_and_bytes_without_loss():
    """As of a tokenized model, and of one whose row ran out of words."""
    batch = {"documents": np.array([[1, 1, 1, 2, 2]])}
    nats = np.array([[3.0, 1.0, 2.0, 8.0, 1e6]])
    counts = Counts(
        np.array([[4.0, 1, 0, 3, 0]]), np.array([[0, 0, 1, 0, 0]], bool), np.array([[0, 0, 0, 0, 2.0]])
    )
    found = evaluate(lambda _: (nats, counts), [batch], 2)
    assert found["bits_per_byte"] == pytest.approx((3 + 1 + 8) / 8 / math.log(2))
    assert found["bits_per_end"] == pytest.approx(2 / math.log(2))
    assert found["lost_share"] == pytest.approx(0.2)
    assert found["bytes"] == 8


def test_hidden_words():
    """The share of right ones over all rows, and its error with rows as the unit."""
    batch = {"documents": np.array([[1, 1, 1], [2, 2, 2]])}
    counts = Counts(np.ones((2, 3)), np.zeros((2, 3), bool), np.zeros((2, 3)))
    right_BW = np.array([[True, False, False, False], [True, True, True, False]])
    asked_BW = np.array([[True, True, True, False], [True, True, True, False]])
    found = evaluate(lambda _: (np.ones((2, 3)), counts, right_BW, asked_BW), [batch, batch], 2)
    assert found["word_accuracy"] == pytest.approx(8 / 12)
    assert found["words"] == 12
    assert found["word_accuracy_error"] == pytest.approx(math.sqrt(4 * 1.0 * 4 / 3) / 12)
    assert "word_accuracy" not in evaluate(lambda _: (np.ones((2, 3)), counts), [batch], 2)
