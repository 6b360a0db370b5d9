"""Distances against the definition, pass@k against counting, intervals against simulation."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from bytelm.evals.similarity import distance, mcnemar, mean_interval, pass_at_k, similarity


def slow_distance(a, b):
    if not a or not b:
        return len(a) + len(b)
    return min(
        slow_distance(a[1:], b) + 1,
        slow_distance(a, b[1:]) + 1,
        slow_distance(a[1:], b[1:]) + (a[0] != b[0]),
    )


def test_distance_is_levenshteins():
    random = np.random.default_rng(0)
    for _ in range(40):
        a, b = (bytes(random.integers(97, 100, random.integers(0, 6)).tolist()) for _ in range(2))
        assert distance(a, b) == slow_distance(a, b), (a, b)
    assert similarity(b"", b"") == 1
    assert similarity(b"abcd", b"abc") == 0.75
    assert similarity(b"ab", b"xy") == 0


def test_pass_at_k_by_counting():
    """The share of the draws of k among n that hold a right one."""
    for n, c, k in itertools.product(range(1, 6), range(6), range(1, 6)):
        if c <= n and k <= n:
            draws = list(itertools.combinations(range(n), k))
            assert pass_at_k(n, c, k) == pytest.approx(sum(min(d) < c for d in draws) / len(draws))
    with pytest.raises(ValueError, match="pass@3"):
        pass_at_k(2, 1, 3)


def test_intervals_cover():
    """About 95 % of intervals hold the truth, with clusters; control: taken as independent they do not."""
    random = np.random.default_rng(1)
    held = {True: 0, False: 0}
    for _ in range(300):
        values, clusters = [], []
        for c in range(40):
            rate = random.choice([0.1, 0.7])
            values += (random.random(8) < rate).astype(float).tolist()
            clusters += [str(c)] * 8
        for clustered in held:
            names = clusters if clustered else [str(i) for i in range(len(values))]
            _, low, high = mean_interval(values, names, share=True)
            held[clustered] += low <= 0.4 <= high
    assert 270 <= held[True] <= 299
    assert held[False] < 240


def test_none_of_many_is_not_certainly_none():
    mean, low, high = mean_interval([0.0] * 164, [str(i) for i in range(164)], share=True)
    assert mean == low == 0
    assert 0.01 < high < 0.04
    mean, low, high = mean_interval([0.25, 0.75], ["a", "b"], share=False)
    assert low < mean == 0.5 < high


def test_mcnemar():
    """Against the binomial law; the same answers are no difference."""
    first, second = [True] * 8 + [False] * 2 + [True] * 5, [False] * 8 + [True] * 2 + [True] * 5
    only_first, only_second, p = mcnemar(first, second)
    assert (only_first, only_second) == (8, 2)
    assert p == pytest.approx(2 * (1 + 10 + 45) / 1024)
    assert mcnemar(first, first) == (0, 0, 1.0)
