"""The columns of a model's logits in the order of the sorted vocabulary, and masks over them.

In this order the tokens that start with a string are a range of columns. The layout is that of the M rows
of `vocabulary.order`, then the end tokens, then every other column of the model (they count only where
probabilities are taken over all tokens), then padding to a multiple of `BLOCK`.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np

from bytelm.exact.canonical.canonical import Canonical

BLOCK = 256
_CACHE_BYTES = 1 << 28  # of packed masks


class Columns:
    """P columns: `order` `[P]` are the model's columns, `counted` `[P]` those that make up the whole law.

    rows: M, how many columns are tokens with bytes. ends: the range (start, stop) of the end tokens.
    A token with bytes that is an end, or that the model does not have, is never allowed as text.
    """

    def __init__(self, canonical: Canonical, vocab_size: int, ends: Sequence[int]):
        self.canonical = canonical
        rows = canonical.vocabulary.order
        self.rows, self.ends = len(rows), (len(rows), len(rows) + len(ends))
        self._usable = (rows < vocab_size) & ~np.isin(rows, ends)
        known = np.where(rows < vocab_size, rows, 0)
        others = np.setdiff1d(np.arange(vocab_size), np.concatenate([rows, np.array(ends, np.int64)]))
        real = np.concatenate([known, np.array(ends, np.int64), others])
        self.size = -(-len(real) // BLOCK) * BLOCK
        self.order = np.zeros(self.size, np.int32)
        self.order[: len(real)] = real
        self.counted = np.zeros(self.size, bool)
        self.counted[: len(real)] = True
        self.counted[: self.rows] = self._usable
        most = max(64, _CACHE_BYTES // (self.size // 8))
        self.mask = functools.lru_cache(maxsize=most)(self._mask)

    def _mask(self, last: int, state: int) -> np.ndarray:
        """What may follow `last` in `state`, ends too: uint8 `[P / 8]`, lowest bit first; `mask` caches."""
        allowed = np.zeros(self.size, bool)
        allowed[: self.rows] = self.canonical.mask(last, state) & self._usable
        allowed[slice(*self.ends)] = self.canonical.ends(state)
        return np.packbits(allowed, bitorder="little")

    def masks(self, pairs: Sequence[tuple[int, int]]) -> np.ndarray:
        """The masks `[len(pairs), P / 8]` of pairs (last, state)."""
        found = np.empty((len(pairs), self.size // 8), np.uint8)
        for i, pair in enumerate(pairs):
            found[i] = self.mask(*pair)
        return found
