"""Bits per byte of held-out documents, in the rows that the model was trained on."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from bytelm.lm import END


def evaluate(
    nats_of: Callable[[Mapping[str, np.ndarray]], np.ndarray],
    batches: Iterable[Mapping[str, np.ndarray]],
    documents: int,
) -> dict[str, float]:
    """Bits per byte over `documents` held-out documents, with its standard error.

    Args:
      nats_of: -log p of each target of this host's rows of a batch, [b, T].
      batches: this host's rows, ``documents`` numbering the documents from 1 (`bytelm.data.eval_rows`).
      documents: how many there are.

    Returns ``bits_per_byte`` over real bytes, ``standard_error`` of that ratio with documents as the
    sampling unit (Cochran 1977, eq. 6.9; NaN for one document), ``bits_per_end`` the mean cost of an end
    of text, which is not in the first, ``bytes`` and ``documents`` counted.
    """
    sums_D4 = np.zeros((documents + 1, 4))
    for batch in batches:
        nats_BT = np.asarray(nats_of(batch), np.float64)
        which_BT, ends_BT = batch["documents"], batch["targets"] == END
        for column, values in enumerate((nats_BT * ~ends_BT, ~ends_BT, nats_BT * ends_BT, ends_BT)):
            sums_D4[:, column] += np.bincount(
                which_BT.ravel(), np.asarray(values, np.float64).ravel(), documents + 1
            )
    sums_D4 = sums_D4[1:]  # document 0 is padding
    if jax.process_count() > 1:
        sums_D4 = np.asarray(multihost_utils.process_allgather(sums_D4)).sum(0)
    sums_D4 = sums_D4[sums_D4[:, 1] + sums_D4[:, 3] > 0]
    nats, size, end_nats, ends = sums_D4.sum(0)
    ratio, n = nats / max(size, 1.0), len(sums_D4)
    error = math.nan
    if n > 1:
        error = math.sqrt(((sums_D4[:, 0] - ratio * sums_D4[:, 1]) ** 2).sum() * n / (n - 1)) / max(size, 1.0)
    return {
        "bits_per_byte": ratio / math.log(2),
        "standard_error": error / math.log(2),
        "bits_per_end": end_nats / ends / math.log(2) if ends else math.nan,
        "bytes": int(size),
        "documents": n,
    }


def host_part(x: Any) -> np.ndarray:
    """This host's rows of a global [B, ...] array, in order."""
    if x.is_fully_addressable:
        return np.asarray(x)
    shards = {s.index[0].start or 0: s for s in x.addressable_shards}
    return np.concatenate([np.asarray(shards[start].data) for start in sorted(shards)])
