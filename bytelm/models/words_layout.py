"""Where the words of packed rows lie: what a word-pooled model needs to know of its symbols.

A row's words are numbered from 0. Word i has room if i < W. At position t, where the symbol after t is
predicted, the words whose ends are known from symbols up to t are the first ``known[t]`` of the row: for a
rule that knows at once all that end at t or before, for others all that end before t.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bytelm.words import Rule


class Layout(NamedTuple):
    """The words of rows [B, T], as int32 arrays."""

    word_BT: Any  # the word of each symbol
    place_BT: Any  # its place in the word, from 0
    known_BT: Any  # words of the row whose ends are known
    newest_BT: Any  # the last of them if it is of this symbol's document, else -1
    part_BT: Any  # symbols read since it is known
    line_BT: Any  # symbols whose lines differ by less than the span see each other at byte level
    last_BW: Any  # where each word's last symbol is; words that the row does not have: at its end
    document_BW: Any  # documents of the words; None: not told apart
    states: Any  # of the rule, after each symbol


def read_layout(
    rule: Rule, symbols_BT: jax.Array, documents_BT: jax.Array | None, words: int, span: int
) -> Layout:
    """The layout of rows with room for `words` words; documents None: one a row."""
    T = symbols_BT.shape[1]
    ended_BT, states = rule.read(symbols_BT, documents_BT)
    t = jnp.arange(T, dtype=jnp.int32)
    ended_BT = ended_BT.at[:, 0].set(True)
    word_BT = jnp.cumsum(ended_BT, axis=1, dtype=jnp.int32) - 1
    place_BT = t - jax.lax.cummax(jnp.where(ended_BT, t, 0), axis=1)
    known_now_BT = rule.ended_after(states)
    known_BT = word_BT + known_now_BT
    line_BT, first_BT = word_BT, jnp.zeros_like(word_BT)
    if documents_BT is not None:
        new_BT = jnp.pad(documents_BT[:, 1:] != documents_BT[:, :-1], ((0, 0), (1, 0)))
        first_BT = jax.lax.cummax(jnp.where(new_BT, word_BT, 0), axis=1)
        line_BT = word_BT + (span - 1) * jnp.cumsum(new_BT, axis=1, dtype=jnp.int32)
    newest_BT = jnp.where(known_BT > first_BT, known_BT - 1, -1)
    find = jax.vmap(lambda word_T: jnp.searchsorted(word_T, jnp.arange(words), side="right"))
    last_BW = find(word_BT).astype(jnp.int32) - 1
    document_BW = None if documents_BT is None else jnp.take_along_axis(documents_BT, last_BW, axis=1)
    part_BT = place_BT + (0 if not rule.at_once else jnp.where(known_now_BT, -place_BT, 1))
    return Layout(word_BT, place_BT, known_BT, newest_BT, part_BT, line_BT, last_BW, document_BW, states)


def room(rule: Rule, symbols: np.ndarray, context: int, words: int) -> int:
    """How long a row that begins with `symbols` can surely get, in symbols.

    If that is less than ``len(symbols)``, exactly so many of them fit: more would exceed `context`, or need
    more than `words` words.
    """
    n = min(len(symbols), context)
    if n <= words:
        return min(words, context)
    ended = rule.ended_before(symbols[:context])
    known = np.cumsum(ended) - ended[0]
    if rule.at_once:  # ends before the next symbol, which does not matter
        after = rule.ended_before(np.append(symbols[:context], 0))[1:]
        known = known + after
    if known[n - 1] > words:
        return int(np.searchsorted(known, words, side="right"))
    if n < len(symbols):
        return n
    return min(context, n + words - int(known[n - 1]))
