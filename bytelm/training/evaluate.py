"""Bits per byte of held-out documents, in the rows that the model was trained on."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils


def evaluate(
    costs_of: Callable[[Mapping[str, np.ndarray]], tuple[Any, ...]],
    batches: Iterable[Mapping[str, np.ndarray]],
    documents: int,
) -> dict[str, float]:
    """Bits per byte over `documents` held-out documents, with its standard error.

    Args:
      costs_of: -log p of each target of this host's rows of a batch, [b, T], and its counts (a
        `bytelm.loss.Counts`); of hidden words also which are right and which were asked for, [b, W].
      batches: this host's rows, ``documents`` numbering the documents from 1 (`bytelm.data.eval_rows`).
      documents: how many there are.

    Returns ``bits_per_byte`` over real bytes, ``standard_error`` of that ratio with documents as the
    sampling unit (Cochran 1977, eq. 6.9; NaN for one document), ``bits_per_end`` the mean cost of an end
    of text, which is not in the first, ``bytes`` and ``documents`` counted. Of hidden words also
    ``word_accuracy``, the share of whole words that are right, and ``word_accuracy_error``, its standard
    error with rows as the sampling unit.
    """
    sums_D5 = np.zeros((documents + 1, 5))
    words_R2: list[np.ndarray] = []
    for batch in batches:
        nats_BT, counts, *right = costs_of(batch)
        words_R2 += [np.stack([x.sum(1) for x in right], axis=1).astype(np.float64)] if right else []
        bytes_BT, ends_BT, lost_BT = (np.asarray(x, np.float64) for x in counts)
        byte_nats_BT, end_nats_BT = (np.where(x > 0, nats_BT, 0.0) for x in (bytes_BT, ends_BT))
        for column, values_BT in enumerate((byte_nats_BT, bytes_BT, end_nats_BT, ends_BT, lost_BT)):
            sums_D5[:, column] += np.bincount(batch["documents"].ravel(), values_BT.ravel(), documents + 1)
    sums_D5 = sums_D5[1:]  # document 0 is padding
    if jax.process_count() > 1:
        sums_D5 = np.asarray(multihost_utils.process_allgather(sums_D5)).sum(0)
    sums_D5 = sums_D5[sums_D5[:, 1] + sums_D5[:, 3] > 0]
    nats, size, end_nats, ends, lost = sums_D5.sum(0)
    ratio, n = nats / max(size, 1.0), len(sums_D5)
    error = math.nan
    if n > 1:
        error = math.sqrt(((sums_D5[:, 0] - ratio * sums_D5[:, 1]) ** 2).sum() * n / (n - 1)) / max(size, 1.0)
    return _words(words_R2) | {
        "bits_per_byte": ratio / math.log(2),
        "standard_error": error / math.log(2),
        "bits_per_end": end_nats / ends / math.log(2) if ends else math.nan,
        "bytes": int(size),
        "documents": n,
        "lost_share": lost / max(size + lost, 1.0),
    }


def _words(words_R2: list[np.ndarray]) -> dict[str, float]:
    """The accuracy over words, from the right ones and those asked for, by row."""
    if not words_R2:
        return {}
    sums_R2 = np.concatenate(words_R2)
    if jax.process_count() > 1:
        sums_R2 = np.concatenate(list(multihost_utils.process_allgather(sums_R2)))
    right, asked = sums_R2.sum(0)
    ratio, n = right / max(asked, 1.0), len(sums_R2)
    residual = ((sums_R2[:, 0] - ratio * sums_R2[:, 1]) ** 2).sum() * n / max(n - 1, 1)
    error = math.sqrt(residual) / max(asked, 1.0)
    return {"word_accuracy": ratio, "word_accuracy_error": error, "words": int(asked)}


def host_part(x: Any) -> np.ndarray:
    """This host's rows of a global [B, ...] array, in order."""
    if x.is_fully_addressable:
        return np.asarray(x)
    shards = {s.index[0].start or 0: s for s in x.addressable_shards}
    return np.concatenate([np.asarray(shards[start].data) for start in sorted(shards)])
