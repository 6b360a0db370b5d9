"""Weights of an ensemble that make texts likeliest. Both problems are convex: what is found is the best."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bytelm.lm import LAW


def fit_mean(
    score_KN: np.ndarray, on_KN: np.ndarray | None = None, *, tolerance: float = 1e-9, most: int = 10_000
) -> np.ndarray:
    """Weights [K] of a mixture with fixed weights, by expectation and maximisation.

    Args:
      score_KN: what each member gives each symbol of the texts, in nats (`ByteLM.score`, joined). Symbols
        that all members find impossible say nothing of the weights and are left out.
      on_KN: which members still count there (see `going_on`); None: all. The weights of those that do are
        divided by their sum, as rule `mean` does. Such a symbol is a draw of which only the members that
        count were seen (Dempster, Laird and Rubin 1977, on truncated data); the problem is convex without.
      tolerance: stops when a round gains less than this many nats a symbol.
      most: rounds at most.

    Raises ValueError where no symbol is possible under any member.
    """
    score_KN = np.asarray(score_KN, np.float64)
    possible_N = score_KN.max(axis=0) > -np.inf
    on_KN = np.ones(score_KN.shape, bool) if on_KN is None else on_KN
    score_KN, on_KN = score_KN[:, possible_N], on_KN[:, possible_N]
    K, N = score_KN.shape
    if not N:
        raise ValueError("weights: no symbol of the texts is possible under any member")
    share_KN = np.exp(score_KN - score_KN.max(axis=0))
    weight_K, before = np.full(K, 1 / K), -np.inf
    for _ in range(most):
        mixed_N, counted_N = weight_K @ share_KN, weight_K @ on_KN
        gained = np.log(mixed_N / counted_N).mean()
        if gained - before < tolerance:
            break
        before = gained
        weight_K = weight_K * np.where(on_KN, share_KN / mixed_N, 1 / counted_N).mean(axis=1)
        weight_K /= weight_K.sum()
    return weight_K


def going_on(scores: Sequence[np.ndarray]) -> np.ndarray:
    """Of a member's scores of texts, joined: False where a byte was impossible before in the same text."""
    lost = [np.logical_or.accumulate(np.isneginf(score_T)) for score_T in scores]
    return ~np.concatenate([np.concatenate([[False], lost_T[:-1]]) for lost_T in lost])


def mean_nats(score_KN: np.ndarray, on_KN: np.ndarray, weight_K: np.ndarray) -> float:
    """Nats of all symbols under the mixture, as rule `mean` gives them."""
    with np.errstate(divide="ignore"):
        log_K1 = np.log(weight_K)[:, None]
        counted_N = np.log(weight_K @ on_KN)
        mixed_N = np.logaddexp.reduce(log_K1 + score_KN, axis=0)
    impossible_N = np.isneginf(mixed_N)
    return float(-(np.where(impossible_N, -np.inf, mixed_N - np.where(impossible_N, 0.0, counted_N))).sum())


def fit_product(law_KNV: np.ndarray, symbols_N: Sequence[int] | np.ndarray) -> np.ndarray:
    """Exponents [K], 0 or more, of a product of laws, by bounded quasi-Newton steps.

    Args:
      law_KNV: each member's law before each symbol, [K, N, 257]; a symbol that a member finds impossible at
        a place is impossible there under every product that counts the member.
      symbols_N: the symbols that came.

    Raises ValueError where a symbol that came is impossible under a member.
    """
    from scipy.optimize import minimize  # comes with jax

    law_KNV = np.asarray(law_KNV, np.float64)
    if (
        law_KNV.ndim != 3
        or law_KNV.shape[2] != LAW
        or law_KNV.shape[1] != len(symbols_N)
        or not len(symbols_N)
    ):
        raise ValueError(
            f"weights: laws [K, N, {LAW}] for N >= 1 symbols wanted, not {law_KNV.shape} for {len(symbols_N)}"
        )
    K, N, _ = law_KNV.shape
    came_KN = law_KNV[:, np.arange(N), symbols_N]
    if not np.isfinite(came_KN).all():
        k, n = np.argwhere(~np.isfinite(came_KN))[0]
        raise ValueError(
            f"weights: symbol {n} of the texts is impossible under member {k}; a product would be too"
        )
    law_KNV = np.maximum(law_KNV, -1e4)  # so that 0 times an impossible symbol's is 0

    def cost(weight_K: np.ndarray) -> tuple[float, np.ndarray]:
        sum_NV = np.tensordot(weight_K, law_KNV, axes=1)
        top_N1 = sum_NV.max(axis=1, keepdims=True)
        share_NV = np.exp(sum_NV - top_N1)
        total_N1 = share_NV.sum(axis=1, keepdims=True)
        expected_KN = np.einsum("KNV,NV->KN", law_KNV, share_NV / total_N1)
        nats = (np.log(total_N1) + top_N1)[:, 0] - weight_K @ came_KN
        return float(nats.mean()), (expected_KN - came_KN).mean(axis=1)

    found = minimize(cost, np.full(K, 1 / K), jac=True, method="L-BFGS-B", bounds=[(0, None)] * K)
    return found.x
