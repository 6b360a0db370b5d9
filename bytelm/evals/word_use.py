"""How a boundary rule uses the rows of held-out data: bytes a word, and what a limit of words a row costs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import jax
import numpy as np

from bytelm.lm import END
from bytelm.words import Rule


class WordUse(NamedTuple):
    bytes: int  # real ones, predicted in the rows
    words: int  # that hold bytes; an end of text is a word of its own and not counted
    bytes_a_word: float
    p50: int  # bytes of a word
    p99: int
    longest: int
    fullest: int  # most words of a row, ends of text included
    lost_share: float  # of the bytes: predicted from a word that the row has no room for, so without loss


def word_use(rule: Rule, batches: Iterable[Mapping[str, np.ndarray]], words: int) -> WordUse:
    """Reads batches as a model with `words` words a row would (`bytelm.data.eval_rows`).

    A byte is predicted from all the words whose end is known before it, the first ones of the row's; where
    there are more than `words`, the byte carries no loss. Raises ValueError without any byte.
    """

    @jax.jit
    def read(symbols_BT: jax.Array, documents_BT: jax.Array) -> tuple[jax.Array, jax.Array]:
        ended_BT, states = rule.read(symbols_BT, documents_BT)
        return ended_BT, rule.ended_after(states)

    sizes, total, lost, fullest = np.zeros(1, np.int64), 0, 0, 0
    for batch in batches:
        inputs_BT, documents_BT = batch["inputs"], batch["documents"]
        ended_BT, ended_after_BT = (np.array(x) for x in read(inputs_BT, documents_BT))
        ended_BT[:, 0] = True
        word_BT = np.cumsum(ended_BT, axis=1) - 1
        known_BT = word_BT + ended_after_BT
        real_BT = documents_BT > 0
        bytes_BT = real_BT & (batch["targets"] < END)
        total += int(bytes_BT.sum())
        lost += int((bytes_BT & (known_BT > words)).sum())
        fullest = max(fullest, int((word_BT[real_BT] + 1).max(initial=0)))
        inside_BT = real_BT & (inputs_BT < END)
        rows, at = np.nonzero(inside_BT)
        _, length = np.unique(rows * (word_BT.shape[1] + 1) + word_BT[rows, at], return_counts=True)
        counted = np.bincount(length)
        if len(counted) > len(sizes):
            sizes = np.pad(sizes, (0, len(counted) - len(sizes)))
        sizes[: len(counted)] += counted
    if not total or not sizes.sum():
        raise ValueError("words: no byte in the held-out rows")
    below, n = np.cumsum(sizes), int(sizes.sum())
    p50, p99 = (int(np.searchsorted(below, share * n)) for share in (0.5, 0.99))
    mean = float(sizes @ np.arange(len(sizes)) / n)
    return WordUse(total, n, mean, p50, p99, len(sizes) - 1, fullest, lost / total)
