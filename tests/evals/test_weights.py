"""Fitted weights against a search over a grid."""

from __future__ import annotations

import fakes
import numpy as np
import pytest

from bytelm.ensemble import Ensemble
from bytelm.evals.weights import fit_mean, fit_product, going_on, mean_nats

TEXT = b"abbaabababba" * 5
PARTS = [fakes.hashed(order=1, seed=1, among=b"abc"), fakes.hashed(order=0, seed=2, among=b"abc")]


def test_mean_is_the_best_on_a_grid():
    score_KN = np.stack([lm.score([TEXT])[0] for lm in PARTS])
    weights = fit_mean(score_KN)
    assert abs(weights.sum() - 1) < 1e-12
    cost = lambda w: -Ensemble(PARTS, "mean", [w, 1 - w]).score([TEXT])[0].sum()  # noqa: E731
    best = min(np.linspace(0, 1, 201), key=cost)
    assert abs(weights[0] - best) < 0.01
    assert cost(weights[0]) <= cost(best) + 1e-3


def test_mean_where_members_come_to_their_end():
    """Cost and fit are those of the ensemble, which shares out the weight of members that are lost."""
    parts = [*PARTS, fakes.hashed(order=1, seed=7, among=b"a")]
    texts = [b"aaaa", b"abab", b"aaab", b"caab", b"aa"] * 3
    scores = [lm.score(texts) for lm in parts]
    score_KN = np.stack([np.concatenate(s) for s in scores])
    on_KN = np.stack([going_on(s) for s in scores])
    cost = lambda w: -sum(s.sum() for s in Ensemble(parts, "mean", w).score(texts))  # noqa: E731
    for w in ([0.2, 0.3, 0.5], [0.6, 0.4, 0.0]):
        assert abs(mean_nats(score_KN, on_KN, np.array(w)) - cost(w)) < 1e-9
    found = fit_mean(score_KN, on_KN)
    grid = [(a / 40, b / 40, (40 - a - b) / 40) for a in range(41) for b in range(40 - a)]
    best = min(mean_nats(score_KN, on_KN, np.array(w)) for w in grid)
    assert cost(found) <= best + 1e-3
    assert cost(fit_mean(score_KN)) > cost(found) + 0.01  # the control: as if they had gone on


def test_product_is_the_best_on_a_grid():
    law_KNV = np.stack([lm.laws([TEXT])[0] for lm in PARTS])
    weights = fit_product(law_KNV, [*TEXT, 256])
    cost = lambda a, b: -Ensemble(PARTS, "product", [a, b]).score([TEXT])[0].sum()  # noqa: E731
    found, grid = cost(*weights), np.linspace(0.05, 3, 24)
    assert found <= min(cost(a, b) for a in grid for b in grid) + 1e-6
    assert found < cost(0.5, 0.5) - 0.1


def test_a_useless_member_gets_nothing():
    score_KN = np.stack([PARTS[0].score([TEXT])[0], PARTS[0].score([TEXT])[0] - 3.0])
    assert fit_mean(score_KN)[1] < 1e-3


def test_impossible_symbols():
    score_KN = np.array([[-1.0, -np.inf, -2.0], [-np.inf, -np.inf, -1.0]])
    assert np.isfinite(fit_mean(score_KN)).all()
    with pytest.raises(ValueError, match="no symbol"):
        fit_mean(np.full((2, 3), -np.inf))
    law_KNV = np.stack([lm.laws([b"z"])[0] for lm in PARTS])
    with pytest.raises(ValueError, match="impossible under member 0"):
        fit_product(law_KNV, [ord("z"), 256])
