"""A causal Byte2Word one symbol at a time: what is kept of a row, and the law after one symbol more.

The last word, as far as it is read, takes a step of the word level at its own place in the cache, and again
with one symbol more, until it is whole: after each symbol for rules that know an end one symbol later, once
for those that know at once.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from bytelm import layers
from bytelm.attention import attend_cached
from bytelm.lm import LAW
from bytelm.models import byte2word_law
from bytelm.words import State


class Cache(NamedTuple):
    """Of rows that are one document each: the whole words, and the one that may go on."""

    length_B: Any  # symbols read
    node_B: Any  # the rule's state after them
    since_B: Any
    symbols_BC: Any  # of the last word
    size_B: Any  # how many
    words_B: Any  # words before it
    words: Any  # keys and values [L, B, W, K, H] of words, of the last one too
    before_BD: Any  # the state that predicts the last word
    after_BD: Any  # the state that predicts the next, were the last whole


ROWS = Cache(0, 0, 0, 0, 0, 0, (1, 1), 0, 0)  # the axis of the rows in each array


def start(model: Any, rows: int, context: int) -> Cache:
    """Of rows that have read nothing, with room for `context` symbols."""
    c, dtype, sizes = model.config, layers.compute_dtype(model.config.dtype), model.config.sizes
    zero_B = jnp.zeros(rows, jnp.int32)
    shape = (c.layers, rows, min(c.words, context), sizes.key_heads, sizes.head_width)
    words = jnp.zeros(shape, dtype), jnp.zeros(shape, dtype)
    start_BD = jnp.broadcast_to(model.start[...].astype(dtype), (rows, c.width))
    symbols_BC = jnp.zeros((rows, c.cap), jnp.int32)
    node_B, since_B = c.boundaries.start(rows)
    return Cache(
        zero_B, node_B, since_B, symbols_BC, zero_B, zero_B, words, before_BD=start_BD, after_BD=start_BD
    )


def prefill(model: Any, symbols_BT: jax.Array, length_B: jax.Array, context: int) -> tuple[jax.Array, Cache]:
    """See `Byte2Word.prefill`."""

    def step(carry: Any, symbol_and_at: Any) -> Any:
        cache, law_BV = carry
        symbol_B, at = symbol_and_at
        new_BV, cache = decode(model, cache, symbol_B, at < length_B)
        return (cache, jnp.where((at < length_B)[:, None], new_BV, law_BV)), None

    B, T = symbols_BT.shape
    nothing = start(model, B, context), jnp.zeros((B, LAW), jnp.float32)
    (cache, law_BV), _ = jax.lax.scan(step, nothing, (symbols_BT.T.astype(jnp.int32), jnp.arange(T)))
    return law_BV, cache


def one_by_one(model: Any, symbols_BT: jax.Array, documents_BT: jax.Array | None) -> jax.Array:
    """The law's logarithm after each symbol of whole rows [B, T, 257]; documents None: one a row."""
    B, T = symbols_BT.shape
    nothing, new_BT = start(model, B, T), jnp.zeros((B, T), bool)
    if documents_BT is not None:
        new_BT = jnp.pad(documents_BT[:, 1:] != documents_BT[:, :-1], ((0, 0), (1, 0)))

    def step(cache: Cache, symbol_and_new: Any) -> tuple[Cache, jax.Array]:
        symbol_B, new_B = symbol_and_new
        cache = jax.tree.map(functools.partial(_choose, new_B), ROWS, nothing, cache)
        law_BV, cache = decode(model, cache, symbol_B, jnp.ones(B, bool))
        return cache, jax.nn.log_softmax(law_BV)

    return jax.lax.scan(step, nothing, (symbols_BT.T.astype(jnp.int32), new_BT.T))[1].swapaxes(0, 1)


def decode(model: Any, cache: Cache, symbol_B: jax.Array, active_B: jax.Array) -> tuple[jax.Array, Cache]:
    """See `Byte2Word.decode`. The word level steps where some row's word has ended, or may have."""
    rule = model.config.boundaries
    began_B, state = rule.step(State(cache.node_B, cache.since_B), symbol_B)
    whole_B = began_B & (cache.length_B > 0)
    size_B = jnp.where(began_B, 0, cache.size_B) + 1
    read = cache._replace(
        length_B=cache.length_B + 1,
        node_B=state.node,
        since_B=state.since,
        symbols_BC=cache.symbols_BC.at[jnp.arange(len(symbol_B)), size_B - 1].set(symbol_B),
        size_B=size_B,
        words_B=cache.words_B + whole_B,
        before_BD=jnp.where(whole_B[:, None], cache.after_BD, cache.before_BD),
    )
    read = jax.tree.map(functools.partial(_choose, active_B), ROWS, read, cache)._replace(words=cache.words)
    ended_B = rule.ended_after(State(read.node_B, read.since_B))
    due_B = active_B & (ended_B if rule.at_once else True)
    read = jax.lax.cond(jnp.any(due_B), lambda x: _step_words(model, x, due_B), lambda x: x, read)
    return _law(model, read, ended_B), read


def fits(model: Any, cache: Cache, symbol_B: jax.Array, context: int) -> jax.Array:
    """See `Byte2Word.fits`."""
    rule = model.config.boundaries
    began_B, state = rule.step(State(cache.node_B, cache.since_B), symbol_B)
    before_B = cache.words_B + (began_B & (cache.length_B > 0))
    more_B = rule.ended_after(state) if rule.at_once else 1
    return (cache.length_B < context) & (before_B + more_B <= min(model.config.words, context))


def _law(model: Any, cache: Cache, ended_B: jax.Array) -> jax.Array:
    """Logits of the next symbol [B, 257], as `bytelm.models.byte2word` defines its law."""
    c, rule, B = model.config, model.config.boundaries, len(ended_B)
    slot_B = jnp.minimum(cache.size_B, c.cap - 1)
    if rule.at_once and not c.pieces:
        z_BD = jnp.where(ended_B[:, None], cache.after_BD, cache.before_BD)
        return model.logits(z_BD, jnp.where(ended_B, 0, slot_B))[:, :LAW]
    first_BV = jax.nn.log_softmax(model.logits(cache.after_BD, jnp.zeros_like(slot_B)))
    if c.pieces:
        first_BV = jax.vmap(functools.partial(byte2word_law.first, c.vocabulary))(first_BV)
        before_BKD = jnp.repeat(cache.before_BD[:, None], c.cap, axis=1)
        law_BKO = jax.nn.log_softmax(
            model.logits(before_BKD, jnp.broadcast_to(jnp.arange(c.cap), (B, c.cap)))
        )
        of_word = functools.partial(byte2word_law.masses, c.vocabulary)
        within_BV, stop_B = jax.vmap(of_word)(law_BKO, cache.symbols_BC, cache.size_B)
        if rule.at_once:
            return jnp.where(ended_B[:, None], first_BV, within_BV)
    else:
        within_BV = jax.nn.log_softmax(model.logits(cache.before_BD, slot_B))
        stop_B = within_BV[:, c.vocabulary.stop]
    symbol_BV = jnp.broadcast_to(jnp.arange(LAW), (B, LAW))
    states = State(*(jnp.repeat(x[:, None], LAW, axis=1) for x in (cache.node_B, cache.since_B)))
    ends_BV, _ = jax.vmap(rule.step, in_axes=1, out_axes=1)(states, symbol_BV)
    return jnp.where(ends_BV, stop_B[:, None] + first_BV[:, :LAW], within_BV[:, :LAW])


def _step_words(model: Any, cache: Cache, which_B: jax.Array) -> Cache:
    """The last word, as far as it is read, through encoder and word level, in the rows of `which_B`."""
    u_BD = model.reader.one(cache.symbols_BC, cache.size_B)
    M = cache.words[0].shape[2]
    at_B, row_B = jnp.minimum(cache.words_B, M - 1), jnp.arange(len(which_B))
    visible_BM = jnp.arange(M) <= at_B[:, None]
    write_B11 = which_B[:, None, None]

    def layer(carry: Any, per_layer: Any) -> Any:  # as in the flat model, written in place
        x_B1D, k_LBMKH, v_LBMKH = carry
        block, at = per_layer
        q_B1NH, k_B1KH, v_B1KH = block.project(x_B1D, at_B[:, None])
        k_LBMKH, v_LBMKH = (
            x.at[at, row_B, at_B].set(jnp.where(write_B11, y[:, 0], x[at, row_B, at_B]))
            for x, y in ((k_LBMKH, k_B1KH), (v_LBMKH, v_B1KH))
        )
        a_BNH = attend_cached(q_B1NH[:, 0], k_LBMKH[at], v_LBMKH[at], visible_BM)
        return (block.finish(x_B1D, a_BNH[:, None]), k_LBMKH, v_LBMKH), None

    depth = jnp.arange(model.config.layers)
    (z_B1D, *words), _ = jax.lax.scan(layer, (u_BD[:, None], *cache.words), (model.blocks, depth))
    after_BD = jnp.where(which_B[:, None], z_B1D[:, 0], cache.after_BD)
    return cache._replace(words=tuple(words), after_BD=after_BD)


def _choose(which_B: jax.Array, axis: int, new: jax.Array, old: jax.Array) -> jax.Array:
    """`new` in the rows of `which_B`, which lie along that axis."""
    return jnp.where(which_B.reshape(*[1] * axis, -1, *[1] * (new.ndim - axis - 1)), new, old)
