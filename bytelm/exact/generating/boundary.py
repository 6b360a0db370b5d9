"""Generating token by token from the law of bytes: boundary mode.

One cover of the text so far is drawn from its exact posterior (a node, and the token that hangs over the
end), and goes on token by token under the mask of pre(D). What comes out has the distribution of byte mode,
at the speed of tokens; under "local" only, where the byte law is that of the masked tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from bytelm.exact.asking import asked, check_length
from bytelm.exact.canonical.canonical import Canonical
from bytelm.exact.generating.contexts import Contexts
from bytelm.exact.generating.masses import Masses
from bytelm.exact.scoring.columns import Columns
from bytelm.exact.scoring.plan import bucket
from bytelm.lm import TokenLM

if TYPE_CHECKING:
    from bytelm.exact.scoring.passes import Passes

_AHEAD = 256  # tokens that a cache has room for at first


@dataclass
class _Row:
    """A completion: its context in tokens, the last of them and the state after it, and its text.

    lead: bytes of the next token that are the dummy space, and not of the text.
    """

    random: np.random.Generator
    context: list[int]
    last: int
    state: int
    lead: int = 0
    text: bytearray = field(default_factory=bytearray)
    done: bool = False

    def add(self, data: bytes, max_bytes: int, stop: tuple[bytes, ...]) -> None:
        """Appends bytes until a stop string or `max_bytes` ends the text."""
        for byte in data:
            self.text.append(byte)
            found = [s for s in stop if self.text.endswith(s)]
            if found:
                del self.text[-max(map(len, found)) :]
            if found or len(self.text) == max_bytes:
                self.done = True
                return


def continued(
    token_lm: TokenLM,
    columns: Columns,
    passes: Passes | None,
    states: Sequence[Masses],
    *,
    max_bytes: int,
    temperature: float,
    stop: tuple[bytes, ...],
    seed: int,
) -> list[bytes]:
    """The completions of rows; see `FastGenerate.continue_`.

    passes: over a `TreeLM`; None for another model. `temperature` is that of tokens, and of the covers of
    the text so far, as wholes: 0 takes the likeliest.
    Raises RuntimeError for a row after which nothing is possible.
    """
    if not max_bytes:
        return [b""] * len(states)
    rows = []
    for i, masses in enumerate(states):
        row, overhang = _covered(columns.canonical, masses, np.random.default_rng([seed, i]), temperature, i)
        row.add(overhang, max_bytes, stop)
        rows.append(row)
    canonical, vocabulary = columns.canonical, columns.canonical.vocabulary
    model: Any = _ByContexts(token_lm, columns, temperature)
    if passes is not None:
        model = _ByCache(passes, temperature)
    while not all(row.done for row in rows):
        for i, (row, column) in enumerate(zip(rows, model.drawn(rows), strict=True)):
            if row.done:
                continue
            if column < 0:
                raise _nothing(i, len(row.text))
            if column >= columns.rows:
                row.done = True
                continue
            token = int(columns.order[column])
            row.state, row.last = canonical.step(row.last, row.state, token), token
            row.context.append(token)
            row.add(vocabulary.data[token][row.lead :], max_bytes, stop)
            row.lead = 0
    return [bytes(row.text) for row in rows]


def _covered(
    canonical: Canonical, masses: Masses, random: np.random.Generator, temperature: float, number: int
) -> tuple[_Row, bytes]:
    """A row at a cover of its text, drawn from the posterior, and the bytes that hang over."""
    row, tree = masses.row, masses.row.tree
    if row.dead:
        raise _nothing(number, 0)
    if row.offset == tree.lead:  # nothing is written yet: its cover is the empty sequence
        base = row.base
        return _Row(random, row.path(base), tree.token[base], tree.state[base], tree.lead), b""
    text = bytes(tree.text[: row.offset])
    nodes, shares = [], []
    for node, kept in masses.kept.items():
        start = tree.offset[node]
        low, high, _, _ = canonical.vocabulary.below(text[start:])
        if start < row.offset and low < high:
            with np.errstate(divide="ignore"):
                log_q = np.log(kept.q[low - kept.first : high - kept.first].astype(np.float64))
            nodes.append((node, low))
            shares.append(kept.weight + log_q)
    sizes = np.cumsum([len(s) for s in shares])
    log_p = np.concatenate(shares) if shares else np.full(1, -np.inf)
    if log_p.max() == -np.inf:
        raise _nothing(number, 0)
    chosen = drawn(log_p, temperature, random.random())
    which = int(np.searchsorted(sizes, chosen, side="right"))
    node, low = nodes[which]
    token = int(canonical.vocabulary.order[low + chosen - (sizes[which - 1] if which else 0)])
    state = canonical.step(tree.token[node], tree.state[node], token)
    found = _Row(random, [*row.path(node), token], token, state)
    return found, canonical.vocabulary.data[token][row.offset - tree.offset[node] :]


def _nothing(row: int, byte: int) -> RuntimeError:
    return RuntimeError(
        f"generate: row {row}, byte {byte} of its completion: no symbol is possible after the text so far"
    )


def drawn(log_p: np.ndarray, temperature: float, uniform: float) -> int:
    """A place drawn with chances exp(log_p / temperature), by a uniform number; the first likeliest for 0.

    -1 where nothing is possible.
    """
    top = log_p.max()
    if top == -np.inf:
        return -1
    if temperature == 0:
        return int(log_p.argmax())
    with np.errstate(over="ignore"):  # a very low temperature sends all but the likeliest to -inf
        p = np.exp((log_p - top) / temperature)
    until = np.cumsum(p)
    place = int(np.searchsorted(until, uniform * until[-1], side="right"))
    return min(place, int(np.flatnonzero(p)[-1]))


class _ByContexts:
    """The next tokens from a model that is asked context by context."""

    def __init__(self, token_lm: TokenLM, columns: Columns, temperature: float):
        self._lm, self._temperature = token_lm, temperature
        self._contexts = Contexts(token_lm, columns, joint=False)

    def drawn(self, rows: Sequence[_Row]) -> list[int]:
        """For each row a column, -1 where nothing is possible; without meaning where it is done."""
        active = [row for row in rows if not row.done]
        logprobs_NV = asked(self._lm, [row.context for row in active])
        found = {}
        for row, logprobs_V in zip(active, logprobs_NV, strict=True):
            with np.errstate(divide="ignore"):
                log_q = np.log(self._contexts.probabilities(logprobs_V, row.last, row.state))
            found[id(row)] = drawn(log_q, self._temperature, row.random.random())
        return [found.get(id(row), 0) for row in rows]


class _ByCache:
    """The next tokens from a `TreeLM`: a step of decoding and a draw in one pass."""

    def __init__(self, passes: Passes, temperature: float):
        self._passes, self._temperature = passes, temperature
        self._cache: Any = None
        self._slots = 0

    def drawn(self, rows: Sequence[_Row]) -> list[int]:
        """For each row a column, -1 where nothing is possible; without meaning where it is done."""
        longest = max(len(row.context) for row in rows if not row.done)
        check_length(longest, self._passes.context)
        uniform = [0.0 if row.done else row.random.random() for row in rows]
        pairs = [(row.last, row.state) for row in rows]
        if self._cache is None:
            self._slots = bucket(max(len(row.context) for row in rows) + _AHEAD, 64)
            found, self._cache = self._passes.begun(
                [row.context for row in rows], pairs, uniform, self._temperature, self._slots
            )
        else:
            if longest > self._slots:
                self._slots = bucket(longest, self._slots)
                self._cache = self._passes.model.widened(self._cache, slots=self._slots, nodes=1)
            tokens = [row.context[-1] if row.context else 0 for row in rows]
            going = [not row.done for row in rows]
            found, self._cache = self._passes.went_on(
                self._cache, tokens, going, pairs, uniform, self._temperature
            )
        return found
