"""All tokenisations: the law of "sample tokens, then detokenise", with certified bounds.

  P(x) = sum over all covers t of x of p(t)

There are exponentially many covers, so a frontier of segmentations is kept: at each byte at most K new ones,
none below a share eps of P. Those that are dropped still agree with the text when they are, so with B the
mass of what is kept and L that of all that was dropped, B(x) <= P(x) <= B(x) + L(x). For the next byte,
what is dropped of x may go on with any byte, and only what agrees with x can agree with xb:

  B(xb) / (B(x) + L(x)) <= P(b|x) <= (B(xb) + L(x) + d) / (B(x) + L(x)),  d: dropped where x ends

(P(x) = B(x) + l and P(xb) <= B(xb) + d + l for some l <= L(x), and B(xb) + d <= B(x)).

With K and eps off nothing is dropped and both ends meet. L does not shrink while B does, so an interval is
worth something for about log2(1/eps) bits after a drop; for whole texts there is the estimate by importance
sampling: tokens are drawn in the proportions of p among those that agree with the text, and the product of
what they had in all is an unbiased estimate of P.

Detokenising drops one leading space where the tokenizer adds one, so a text comes also from sequences that
lack it, if it does not start with a space itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from bytelm.lm import LAW


@dataclass(frozen=True)
class Bounds:
    """What is certain, and what is estimated, of P(text) under all tokenisations; natural logarithms.

    lower, upper: float64 `[len(text) + 2]`, for texts that begin with its first 0, 1, ... bytes, given the
    prompt, and last for the text and then the end. law_lower, law_upper: `[len(text) + 1, 257]`, for the next
    byte or the end. estimate: of log P(text, then the end), or of P(text ...) for a model without ends;
    error: its standard error. Both are NaN where no samples were asked for.
    """

    lower: np.ndarray
    upper: np.ndarray
    law_lower: np.ndarray
    law_upper: np.ndarray
    estimate: float = np.nan
    error: float = np.nan


class Law(NamedTuple):
    """log B of the text and then each symbol `[257]`, log B(text), log L before and after the last drop."""

    law: np.ndarray
    text: float
    lost: float
    lost_after: float


def normalised(law: np.ndarray) -> np.ndarray:
    total = np.logaddexp.reduce(law)
    return law - total if total > -np.inf else law


def subtracted(log_a: float, log_b: float) -> float:
    """log(a - b), for b <= a up to rounding."""
    return log_a + float(np.log1p(-min(np.exp(log_b - log_a), 1 - 1e-16)))


def interval(at: Law) -> tuple[np.ndarray, np.ndarray]:
    """Bounds of the log probability of each symbol, as in the module's docstring."""
    whole = np.logaddexp(at.text, at.lost)
    if whole == -np.inf:
        return np.full(LAW, -np.inf), np.full(LAW, -np.inf)
    return at.law - whole, np.minimum(np.logaddexp(at.law, at.lost_after) - whole, 0.0)
