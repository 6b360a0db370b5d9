"""Mixtures."""

from __future__ import annotations

import numpy as np
import pytest

from bytelm.data import Files, Mix, Mixture, train_stream


@pytest.fixture
def folders(tmp_path):
    for name, count, size in (("a", 300, 20), ("b", 20, 700)):
        (tmp_path / name).mkdir()
        for i in range(count):
            (tmp_path / name / f"{i}.txt").write_text(name * size)
    return tuple(Files(train=(str(tmp_path / name),), valid=(str(tmp_path / name),)) for name in "ab")


def share(source, rows, piece=None, batches=60):
    """The share of the bytes `a` among a's and b's, in each lane."""
    with train_stream(source, rows=rows, length=256, seed=1, piece=piece, prefetch=0) as stream:
        targets = np.concatenate([next(stream)["targets"] for _ in range(batches)], axis=1)
    a, b = (targets == ord("a")).sum(1), (targets == ord("b")).sum(1)
    return a / (a + b)


@pytest.mark.parametrize("piece", [None, 50])
@pytest.mark.parametrize(("weights", "expected"), [((), 0.5), ((3.0, 1.0), 0.75), ((1, 9), 0.1)])
def test_weights_are_shares_of_bytes(folders, weights, expected, piece):
    shares = share(Mix(folders, weights).open("train"), rows=8, piece=piece)
    assert shares.mean() == pytest.approx(expected, abs=0.05)


def test_no_lane_is_stuck_with_one_source(table):
    """Equal parts alternate strictly: unshuffled, each of an even number of lanes sees one of them."""
    source = Mixture((table([b"a" * 30] * 50), table([b"b" * 30] * 50)), (1.0, 1.0))
    assert np.abs(share(source, rows=4) - 0.5).max() < 0.2


def test_unknown_lengths_are_estimated(table, unmeasured):
    source = Mixture((unmeasured([b"a" * 20] * 300), table([b"b" * 700] * 20)), (1.0, 1.0))
    assert share(source, rows=8).mean() == pytest.approx(0.5, abs=0.05)


def test_held_out_splits_are_concatenated(folders):
    a, b = (source.open("valid") for source in folders)
    both = Mix(folders, (1, 100)).open("valid")
    assert len(both) == len(a) + len(b)
    assert both.lengths.tolist() == [*a.lengths, *b.lengths]
    assert (both[299], both[300], both[319]) == (b"a" * 20, b"b" * 700, b"b" * 700)
    assert both.read(300, 5, 8) == b"bbb"
    with pytest.raises(IndexError, match="document 320 of 320"):
        both[320]


def test_errors(folders, tmp_path):
    with pytest.raises(ValueError, match="2 sources but 1 weights"):
        Mix(folders, (1.0,))
    with pytest.raises(ValueError, match="weight 1 is 0"):
        Mix(folders, (1.0, 0))
    with pytest.raises(ValueError, match="no source given"):
        Mix().open("train")
    bare = Files(train=(str(tmp_path / "a"),))
    assert Mix((folders[0], bare)).splits == ("train",)
    with pytest.raises(ValueError, match="has no 'valid' split, only train"):
        Mix((folders[0], bare)).open("valid")
