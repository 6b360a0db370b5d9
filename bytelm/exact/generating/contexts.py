"""A `TokenLM` asked context by context: what every tokenized model can do, in float64 on the host."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bytelm.exact.asking import asked, blocks
from bytelm.exact.generating.masses import Masses
from bytelm.exact.scoring.columns import Columns
from bytelm.lm import TokenLM


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
        for block in (jobs[part] for part in blocks(self._lm, len(jobs))):
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
