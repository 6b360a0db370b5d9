"""Accuracy and its interval, by hand."""

from __future__ import annotations

import numpy as np
import pytest

from bytelm.evals.classify import Classified, classified, wilson


@pytest.mark.parametrize(("right", "of"), [(8, 10), (300, 389), (0, 10), (10, 10)])
def test_wilson(right, of):
    """Its ends are the shares from which the one found is just z standard deviations away."""
    for end in (ends := wilson(right, of, z=2.0)):
        assert (right / of - end) ** 2 == pytest.approx(4.0 * end * (1 - end) / of, abs=1e-12)
    assert 0 <= ends[0] <= right / of <= ends[1] + 1e-12 <= 1 + 1e-12
    assert ends[1] - ends[0] > 0.05  # where all are right, too
    assert wilson(8, 10) == pytest.approx((0.4902, 0.9433), abs=1e-4)


def test_wilson_covers():
    """Of shares drawn at 0.8 the interval holds the 0.8 in about 95 %; half as wide a one does not."""
    drawn = np.random.default_rng(0).binomial(100, 0.8, 4000).tolist()

    def covered(z):
        return np.mean([low <= 0.8 <= high for low, high in (wilson(right, 100, z) for right in drawn)])

    assert 0.93 < covered(1.959964) < 0.97
    assert covered(0.98) < 0.75


@pytest.mark.parametrize(("right", "of"), [(0, 0), (3, 2), (-1, 4)])
def test_no_share(right, of):
    with pytest.raises(ValueError, match="no share"):
        wilson(right, of)


def test_classified():
    law_NC = np.log([[0.7, 0.2, 0.1], [0.1, 0.5, 0.4], [0.3, 0.3, 0.4]])
    found = classified(law_NC, np.array([0, 2, 2]))
    assert found == Classified(3, 2, pytest.approx(-np.log(0.7 * 0.4 * 0.4)))
    assert found.accuracy == pytest.approx(2 / 3)
    assert found.interval == wilson(2, 3)
    assert found.nats_per_label == pytest.approx(found.nats / 3)


@pytest.mark.parametrize("labels", [[0, 1], [0, 1, 3], [0, 1, -1]])
def test_labels_that_do_not_fit(labels):
    with pytest.raises(ValueError, match="classified:"):
        classified(np.zeros((3, 3)), np.array(labels))
