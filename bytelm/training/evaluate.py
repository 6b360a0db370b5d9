"""Held-out documents, in the rows that the model was trained on: bits per byte, or accuracy on labels."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from bytelm.evals.classify import Classified
from bytelm.loss import Counts
from bytelm.training import hosts


def evaluate(
    costs_of: Callable[[Mapping[str, np.ndarray]], tuple[Any, ...]],
    batches: Iterable[Mapping[str, np.ndarray]],
    documents: int,
    counted: np.ndarray | None = None,
) -> dict[str, float]:
    """Bits per byte over `documents` held-out documents, with its standard error.

    Args:
      costs_of: -log p of each target of this host's rows of a batch, [b, T], and its counts (a
        `bytelm.loss.Counts`); of hidden words also which are right and which were asked for, [b, W].
      batches: this host's rows, ``documents`` numbering the documents from 1 (`bytelm.data.eval_rows`).
      documents: how many there are.
      counted: which of this host's rows it counts, bool [b]; None: all.

    Returns ``bits_per_byte`` over bytes (NaN of none), ``standard_error`` of that ratio with documents as
    the sampling unit (Cochran 1977, eq. 6.9; NaN for one document), ``bits_per_end`` the mean cost of an end
    of text, which is not in the first, ``bytes`` and ``documents`` counted. Of hidden words also
    ``word_accuracy``, the share of whole words that are right, and ``word_accuracy_error``, its standard
    error with rows as the sampling unit; NaN of no words, and the error of one row.
    """
    sums_D5 = np.zeros((documents + 1, 5))
    words_R2: list[np.ndarray] = []
    for batch in batches:
        nats_BT, counts, *right = costs_of(batch)
        mine_B1 = np.ones((len(nats_BT), 1), bool) if counted is None else counted[:, None]
        words_R2 += [np.stack([(x & mine_B1).sum(1) for x in right], axis=1).astype(float)] if right else []
        number_BT = np.where(mine_B1, batch["documents"], 0)
        bytes_BT, ends_BT, lost_BT = (np.asarray(x, np.float64) for x in counts[:3])
        byte_nats_BT, end_nats_BT = (np.where(x > 0, nats_BT, 0.0) for x in (bytes_BT, ends_BT))
        for column, values_BT in enumerate((byte_nats_BT, bytes_BT, end_nats_BT, ends_BT, lost_BT)):
            sums_D5[:, column] += np.bincount(number_BT.ravel(), values_BT.ravel(), documents + 1)
    sums_D5 = sums_D5[1:]  # document 0 is padding
    sums_D5 = hosts.gather(sums_D5).sum(0)
    sums_D5 = sums_D5[sums_D5[:, 1] + sums_D5[:, 3] > 0]
    nats, size, end_nats, ends, lost = sums_D5.sum(0)
    ratio, n = nats / size if size else math.nan, len(sums_D5)
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


def evaluate_labels(
    judged: Callable[[Mapping[str, np.ndarray]], tuple[np.ndarray, np.ndarray, Counts]],
    batches: Iterable[Mapping[str, np.ndarray]],
    counted: np.ndarray | None = None,
) -> dict[str, float]:
    """Accuracy on the labels of held-out documents.

    Args:
      judged: nats and choice of each target of this host's rows of a batch, [b, T], and its counts.
      batches: this host's rows, with ``labels``.
      counted: which of this host's rows it counts, bool [b]; None: all.

    Returns ``accuracy``, its 95 % interval ``accuracy_low`` to ``accuracy_high``, ``nats_per_label``,
    ``documents`` counted, ``cut_share`` of them that were not read to their end, and ``lost_share`` of bytes
    in the rows that no word had room for.
    """
    sums_6 = np.zeros(6)
    for batch in batches:
        nats_BT, choice_BT, counts = judged(batch)
        mine_B1 = np.ones((len(nats_BT), 1), bool) if counted is None else counted[:, None]
        at_BT = np.asarray(counts.labels) & mine_B1
        right_BT, cut_BT = choice_BT == batch["labels"], ~np.asarray(counts.ends)
        of_labels = (np.asarray(x, np.float64)[at_BT].sum() for x in (at_BT, right_BT, nats_BT, cut_BT))
        of_rows = (
            np.where(mine_B1, np.asarray(x, np.float64), 0.0).sum() for x in (counts.bytes, counts.lost)
        )
        sums_6 += [*of_labels, *of_rows]
    sums_6 = hosts.gather(sums_6).sum(0)
    documents, right, nats, cut, size, lost = sums_6.tolist()
    found = Classified(int(documents), int(right), nats)
    low, high = found.interval
    return {
        "accuracy": found.accuracy,
        "accuracy_low": low,
        "accuracy_high": high,
        "nats_per_label": found.nats_per_label,
        "documents": found.documents,
        "cut_share": cut / documents,
        "lost_share": lost / max(size + lost, 1.0),
    }


def _words(words_R2: list[np.ndarray]) -> dict[str, float]:
    """The accuracy over words, from the right ones and those asked for, by row."""
    if not words_R2:
        return {}
    sums_R2 = np.concatenate(words_R2)
    sums_R2 = np.concatenate(hosts.gather(sums_R2))
    right, asked = sums_R2.sum(0)
    if not asked:
        return {"word_accuracy": math.nan, "word_accuracy_error": math.nan, "words": 0}
    ratio, n, error = right / asked, len(sums_R2), math.nan
    if n > 1:
        residual = ((sums_R2[:, 0] - ratio * sums_R2[:, 1]) ** 2).sum() * n / (n - 1)
        error = math.sqrt(residual) / asked
    return {"word_accuracy": ratio, "word_accuracy_error": error, "words": int(asked)}


def host_part(x: Any) -> np.ndarray:
    """This host's rows of a global [B, ...] array, in order."""
    if x.is_fully_addressable:
        return np.asarray(x)
    shards = {s.index[0].start or 0: s for s in x.addressable_shards}
    return np.concatenate([np.asarray(shards[start].data) for start in sorted(shards)])
