"""How well documents are classified: accuracy with its interval, and the nats a label costs."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np


def wilson(right: int, of: int, z: float = 1.959964) -> tuple[float, float]:
    """The interval of a share, `right` of `of`; with the default z it has 95 % (Wilson, JASA 22, 1927).

    Raises ValueError where there is nothing to take a share of.
    """
    if not 0 <= right <= of or of < 1:
        raise ValueError(f"no share: {right} of {of}")
    p, n = right / of, of
    middle = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return max(0.0, middle - half), min(1.0, middle + half)


@dataclass(frozen=True)
class Classified:
    """What came of some documents with labels."""

    documents: int
    right: int
    nats: float  # -log p of their labels, summed

    @property
    def accuracy(self) -> float:
        return self.right / self.documents

    @property
    def interval(self) -> tuple[float, float]:
        """Of the accuracy, 95 %."""
        return wilson(self.right, self.documents)

    @property
    def nats_per_label(self) -> float:
        return self.nats / self.documents


def classified(law_NC: np.ndarray, labels_N: np.ndarray) -> Classified:
    """Of N documents, from log p of each of the C labels and the number of the right one.

    Raises ValueError for labels that are not among the C, and for shapes that do not pair up.
    """
    law_NC, labels_N = np.asarray(law_NC, np.float64), np.asarray(labels_N)
    if law_NC.ndim != 2 or labels_N.shape != law_NC.shape[:1] or not len(labels_N):
        raise ValueError(f"classified: a law of shape {law_NC.shape} and labels of {labels_N.shape}")
    if labels_N.min() < 0 or labels_N.max() >= law_NC.shape[1]:
        raise ValueError(f"classified: labels {labels_N.min()} to {labels_N.max()} of {law_NC.shape[1]}")
    nats = -np.take_along_axis(law_NC, labels_N[:, None], axis=1).sum()
    return Classified(len(labels_N), int((law_NC.argmax(axis=1) == labels_N).sum()), float(nats))
