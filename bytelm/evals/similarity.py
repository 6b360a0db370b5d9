"""How like two answers are, and what samples say: rates with intervals, pass@k, paired differences."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

_Z = 1.959964  # of 95 %


def similarity(a: bytes, b: bytes) -> float:
    """1 - Levenshtein distance / the longer length, over bytes; 1 for two empty texts."""
    longest = max(len(a), len(b))
    return 1 - distance(a, b) / longest if longest else 1.0


def distance(a: bytes, b: bytes) -> int:
    """Levenshtein: insertions, deletions and substitutions of bytes."""
    other, steps = np.frombuffer(b, np.uint8), np.arange(len(b) + 1)
    row = steps.copy()
    for i, byte in enumerate(a, start=1):
        changed = np.minimum(row[1:] + 1, row[:-1] + (other != byte))
        # What an insertion costs runs along the row.
        row = np.minimum.accumulate(np.concatenate([[i], changed]) - steps) + steps
    return int(row[-1])


def pass_at_k(n: int, c: int, k: int) -> float:
    """1 - C(n - c, k) / C(n, k): that one of k is right, if c of n were (arXiv 2107.03374, equation 1)."""
    if not 0 <= c <= n or not 1 <= k <= n:
        raise ValueError(f"pass@{k} of {c} right in {n}: k is 1..n, and c is 0..n")
    return 1.0 - math.comb(n - c, k) / math.comb(n, k)


def mean_interval(
    values: Sequence[float], clusters: Sequence[str], share: bool
) -> tuple[float, float, float]:
    """A mean and its 95 % interval; values with one cluster's name are no independent samples.

    The standard error is that of cluster totals (Cochran, Sampling Techniques, 1977, equation 6.13). For
    shares the interval is Wilson's, with as many samples as would have that error, so that none of many is
    not certainly none.
    """
    value_N = np.asarray(values, np.float64)
    mean, n = float(value_N.mean()), len(value_N)
    names, index_N = np.unique(np.asarray(clusters), return_inverse=True)
    residual_C = np.bincount(index_N, value_N - mean)
    K = len(names)
    variance = K / (K - 1) * float((residual_C**2).sum()) / n**2 if K > 1 else float("inf")
    if not share:
        half = _Z * math.sqrt(variance)
        return mean, mean - half, mean + half
    plain = mean * (1 - mean) / n
    effective = n * min(1.0, plain / variance) if variance > 0 and K > 1 else (n if variance == 0 else 1)
    centre = (mean + _Z**2 / (2 * effective)) / (1 + _Z**2 / effective)
    half = (
        _Z * math.sqrt(mean * (1 - mean) / effective + _Z**2 / (4 * effective**2)) / (1 + _Z**2 / effective)
    )
    return mean, max(0.0, centre - half), min(1.0, centre + half)


def mcnemar(first: Sequence[bool], second: Sequence[bool]) -> tuple[int, int, float]:
    """How many only the first has right, how many only the second, and the two-sided exact p of McNemar."""
    only_first = sum(a and not b for a, b in zip(first, second, strict=True))
    only_second = sum(b and not a for a, b in zip(first, second, strict=True))
    n, least = only_first + only_second, min(only_first, only_second)
    tail = sum(math.comb(n, i) for i in range(least + 1)) / 2**n
    return only_first, only_second, min(1.0, 2 * tail)
