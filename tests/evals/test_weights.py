"""Fitted weights against a search over a grid."""

from __future__ import annotations

import fakes
import numpy as np
import pytest

from bytelm.ensemble import Ensemble
from bytelm.evals.weights import fit_mean, fit_product

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
