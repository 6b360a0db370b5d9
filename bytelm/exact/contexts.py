"""A `TokenLM` asked context by context: what every tokenized model can do, in float64 on the host."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bytelm.exact.columns import Columns
from bytelm.exact.masses import Masses
from bytelm.lm import TokenLM

_BLOCK = 1 << 24  # token probabilities that are in memory at once


class Contexts:
    """Evaluates the waiting nodes of rows: one call for all of them, in blocks."""

    def __init__(self, token_lm: TokenLM, columns: Columns, joint: bool):
        self._lm, self._columns, self._joint = token_lm, columns, joint

    def open(self, rows: Sequence[Masses]) -> None:
        """Evaluates what waits in new rows."""
        self.grow(rows)

    def copy(self, rows: Sequence[Masses]) -> Contexts:
        """Nothing is kept between calls."""
        return self

    def grow(self, rows: Sequence[Masses]) -> None:
        """Evaluates what waits in rows."""
        jobs = [(masses, node) for masses in rows if not masses.row.dead for node in masses.waiting]
        size = max(1, _BLOCK // max(1, self._lm.vocab_size))
        for first in range(0, len(jobs), size):
            block = jobs[first : first + size]
            contexts: dict[tuple[int, ...], int] = {}
            places = [contexts.setdefault(tuple(m.row.path(n)), len(contexts)) for m, n in block]
            logprobs_NV = asked(self._lm, list(contexts))
            for (masses, node), place in zip(block, places, strict=True):
                tree = masses.row.tree
                q_P = self.probabilities(logprobs_NV[place], tree.token[node], tree.state[node])
                masses.take(q_P[: self._columns.rows], float(q_P[slice(*self._columns.ends)].sum()))

    def probabilities(self, logprobs_V: np.ndarray, last: int, state: int) -> np.ndarray:
        """q of the columns `[P]` after a node, 0 where not allowed."""
        columns = self._columns
        allowed = np.unpackbits(columns.mask(last, state), bitorder="little").astype(bool)
        logprobs = np.where(allowed, logprobs_V[columns.order], -np.inf)
        if self._joint:
            return np.exp(logprobs)
        top = logprobs.max()
        if top == -np.inf:
            return np.zeros(columns.size)
        q = np.exp(logprobs - top)
        return q / q.sum()


def asked(token_lm: TokenLM, contexts: Sequence[Sequence[int]]) -> np.ndarray:
    """The laws `[N, V]` of the tokens after contexts, float64. ValueError for what makes no sense."""
    limit = getattr(token_lm, "context", None)
    check_length(max(map(len, contexts)), limit)
    found = np.asarray(token_lm.next_token_logprobs(contexts), np.float64)
    if found.shape != (len(contexts), token_lm.vocab_size):
        raise ValueError(
            f"next_token_logprobs gave {found.shape}, not {(len(contexts), token_lm.vocab_size)}"
        )
    if np.isnan(found).any():
        raise ValueError("next_token_logprobs gave NaN")
    return found


def check_length(tokens: int, limit: int | None) -> None:
    """Raises ValueError for a context longer than the model's: nothing is cut silently."""
    if limit is not None and tokens > limit:
        raise ValueError(
            f"a context of {tokens} tokens, the model sees {limit}: shorten the prompt or the text"
        )
