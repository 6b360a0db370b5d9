"""Token models for tests: small, exact, and dependent on the whole history."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np


class HistoryLM:
    """A random law for every context, a function of it alone; float64. Counts what it was asked."""

    def __init__(self, vocab_size: int, seed: int = 0, spread: float = 1.5):
        self.vocab_size, self.seed, self.spread = vocab_size, seed, spread
        self.calls = self.contexts = 0

    def law(self, context: Sequence[int]) -> np.ndarray:
        key = hashlib.blake2b(repr((self.seed, *map(int, context))).encode(), digest_size=8).digest()
        logits = np.random.default_rng(int.from_bytes(key, "big")).normal(size=self.vocab_size) * self.spread
        return logits - np.logaddexp.reduce(logits)

    def next_token_logprobs(self, contexts: Sequence[Sequence[int]]) -> np.ndarray:
        self.calls, self.contexts = self.calls + 1, self.contexts + len(contexts)
        return np.stack([self.law(context) for context in contexts])
