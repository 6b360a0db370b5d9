"""A word-pooled model one byte at a time: a ring of bytes, a cache of words, and steps of each level.

The word level steps only where a word's end becomes known. Shapes are fixed and each row does at its own time
what it has to, so a batch whose rows end words at different times is one compiled program.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from einops import rearrange

from bytelm.attention import attend_cached
from bytelm.models import byte_embedding
from bytelm.words import State

_NOWHERE = -(2**29)  # the line of a slot that holds nothing


class Cache(NamedTuple):
    """Of rows that are one document each."""

    length_B: Any  # symbols read, int32
    node_B: Any  # the rule's state after them
    since_B: Any
    waiting_B: Any  # bool: a word is to be read before the row goes on
    place_B: Any  # the last symbol's place in its word
    line_B: Any  # its word's number
    line_BR: Any  # of each slot of the ring; slot p % R holds position p
    encoder: Any  # keys and values [L, B, R, K, H], or None
    decoder: Any
    features_BCD: Any  # what the pooling reads of the last symbol's word
    x_B1D: Any  # the last symbol after the encoder
    words_B: Any  # words read, int32
    words: Any  # keys and values [L, B, W P, K, H]
    parts_BnD: Any  # what the newest word says
    recent_BS: Any  # the last 7 symbols, -1 for none


_LEVEL = (1, 1)
ROWS = Cache(0, 0, 0, 0, 0, 0, 0, _LEVEL, _LEVEL, 0, 0, 0, _LEVEL, 0, 0)  # the axis of the rows in each array


def prefill(model: Any, symbols_BT: jax.Array, length_B: jax.Array, context: int) -> tuple[jax.Array, Cache]:
    """See `WordPooled.prefill`."""
    c = model.config
    (B, T), C, P = symbols_BT.shape, c.cap, c.vectors
    tables = model._tables(B, None)
    read = model.read(symbols_BT, None, None, tables, keep=True)
    at = read.layout
    end_B1 = (length_B - 1)[:, None]

    def last(x_BT: jax.Array) -> jax.Array:
        return jnp.take_along_axis(x_BT, end_B1, axis=1)[:, 0]

    x_B1D = jnp.take_along_axis(read.x_BTD, end_B1[..., None], axis=1)
    R = min(c.reach, context)
    # The last position, before length_B, that falls on slot s; negative where there is none yet.
    slot_R = jnp.arange(R)
    at_BR = slot_R + (end_B1 - slot_R) // R * R
    index_BR = jnp.clip(at_BR, 0, T - 1)

    def ring(level: Any) -> Any:
        index_BR11 = index_BR[None, :, :, None, None]
        return jax.tree.map(lambda x_LBTKH: jnp.take_along_axis(x_LBTKH, index_BR11, axis=2), level)

    place_B, known_B = last(at.place_BT), last(at.known_BT)
    of_word_BC = jnp.clip(end_B1 - place_B[:, None] + jnp.arange(C), 0, T - 1)
    room = min(c.words, context) * P
    padded = jax.tree.map(
        lambda x: jnp.pad(x, ((0, 0), (0, 0), (0, room - x.shape[2]), (0, 0), (0, 0))), read.words
    )
    newest_B111 = jnp.clip(known_B - 1, 0, read.parts_BWnD.shape[1] - 1)[:, None, None, None]
    parts_BnD = jnp.take_along_axis(read.parts_BWnD, newest_B111, axis=1)[:, 0]
    before_BS = end_B1 - byte_embedding.HISTORY + 2 + jnp.arange(byte_embedding.HISTORY - 1)
    recent_BS = jnp.take_along_axis(symbols_BT.astype(jnp.int32), jnp.clip(before_BS, 0, T - 1), axis=1)
    cache = Cache(
        length_B=length_B.astype(jnp.int32),
        node_B=last(at.states.node),
        since_B=last(at.states.since),
        waiting_B=jnp.zeros(B, bool),
        place_B=place_B,
        line_B=last(at.word_BT),
        line_BR=jnp.where(at_BR >= 0, jnp.take_along_axis(at.word_BT, index_BR, axis=1), _NOWHERE),
        encoder=None if read.encoder is None else ring(read.encoder),
        decoder=ring(read.decoder),
        features_BCD=jnp.take_along_axis(read.features_BTD, of_word_BC[..., None], axis=1),
        x_B1D=x_B1D,
        words_B=known_B,
        words=padded,
        parts_BnD=jnp.where((known_B > 0)[:, None, None], parts_BnD, 0),
        recent_BS=jnp.where(before_BS >= 0, recent_BS, -1),
    )
    return model.logits(x_B1D, tables)[:, 0], cache


def advance(
    model: Any, cache: Cache, symbol_B: jax.Array, active_B: jax.Array, *, wait: bool
) -> tuple[jax.Array, Cache, jax.Array]:
    """Reads one more symbol in each row where `active_B`: logits [B, 257], the cache, which rows are done.

    With `wait` the word level steps when all active rows need it, once for all of them, and until then those
    that do are not done: they are to be asked again, with the same symbol. Without it all active rows are
    done.
    """
    rule = model.config.boundaries
    began_B, state = rule.step(State(cache.node_B, cache.since_B), symbol_B)
    fresh_B = active_B & ~cache.waiting_B
    if rule.at_once:  # the symbol is part of the word that ends, and already told by it
        cache = _read(model, cache, symbol_B, fresh_B, began_B, state)
        due_B = active_B & (cache.waiting_B | (fresh_B & rule.ended_after(state)))
    else:  # the word before the symbol ends
        due_B = active_B & (cache.waiting_B | began_B)
    step = jnp.any(due_B)
    if wait:
        step &= jnp.all(due_B | ~active_B)
    cache = jax.lax.cond(step, lambda cache: _step_words(model, cache, due_B), lambda cache: cache, cache)
    waiting_B = due_B & ~step
    done_B = active_B & ~waiting_B
    if not rule.at_once:
        cache = _read(model, cache, symbol_B, done_B, began_B, state)
    logits_BV, decoder = _decode(model, cache, done_B)
    waiting_B = jnp.where(active_B, waiting_B, cache.waiting_B)
    return logits_BV, cache._replace(decoder=decoder, waiting_B=waiting_B), done_B


def fits(model: Any, cache: Cache, symbol_B: jax.Array, context: int) -> jax.Array:
    """Whether each row has room for one more symbol: for itself, and for the words that it makes known."""
    rule = model.config.boundaries
    began_B, state = rule.step(State(cache.node_B, cache.since_B), symbol_B)
    more_B = rule.ended_after(state) if rule.at_once else began_B
    room = min(model.config.words, context)
    return (cache.length_B < context) & (cache.words_B + more_B <= room)


def _read(model, cache: Cache, symbol_B, which_B, began_B, state: State) -> Cache:
    """The symbol through the embedding and the encoder, in the rows of `which_B`."""
    c, at_B = model.config, cache.length_B
    R = cache.line_BR.shape[1]
    place_B = jnp.where(began_B, 0, cache.place_B + 1)
    line_B = cache.line_B + began_B
    line_BR = _put(cache.line_BR, at_B % R, line_B, which_B)
    x_B1D = model.embed(
        symbol_B[:, None], None, place_B[:, None], model._tables(len(symbol_B), None), cache.recent_BS
    )
    feature_B1D, encoder = x_B1D, cache.encoder
    if encoder is not None:
        x_B1D, encoder = _bytewise(model.encoder, x_B1D, encoder, at_B, line_B, line_BR, which_B, c.span)
        feature_B1D = x_B1D
    features_BCD = _put(cache.features_BCD, place_B, feature_B1D[:, 0], which_B)
    recent_BS = jnp.concatenate([cache.recent_BS[:, 1:], symbol_B[:, None].astype(jnp.int32)], axis=1)

    def choose(new, old):
        return jnp.where(which_B.reshape(-1, *[1] * (new.ndim - 1)), new, old)

    return cache._replace(
        length_B=at_B + which_B,
        node_B=choose(state.node, cache.node_B),
        since_B=choose(state.since, cache.since_B),
        place_B=choose(place_B, cache.place_B),
        line_B=choose(line_B, cache.line_B),
        line_BR=line_BR,
        encoder=encoder,
        features_BCD=features_BCD,
        x_B1D=choose(x_B1D, cache.x_B1D),
        recent_BS=choose(recent_BS, cache.recent_BS),
    )


def _decode(model, cache: Cache, which_B: jax.Array) -> tuple[jax.Array, Any]:
    """Logits after each row's last symbol, and the decoder's keys and values with it in rows of `which_B`."""
    c, rule = model.config, model.config.boundaries
    n = cache.parts_BnD.shape[1]
    part_B = cache.place_B
    if rule.at_once:
        ended_B = rule.ended_after(State(cache.node_B, cache.since_B))
        part_B = jnp.where(ended_B, 0, cache.place_B + 1)
    told_B1D = jnp.take_along_axis(cache.parts_BnD, jnp.minimum(part_B, n - 1)[:, None, None], axis=1)
    x_B1D, decoder = _bytewise(
        model.decoder, cache.x_B1D + told_B1D, cache.decoder, cache.length_B - 1, cache.line_B, cache.line_BR,
        which_B, c.span,
    )  # fmt: skip
    return model.logits(x_B1D, model._tables(len(which_B), None))[:, 0], decoder


def _step_words(model, cache: Cache, which_B: jax.Array) -> Cache:
    """The word of each row's last symbol through pooling and word level, in the rows of `which_B`."""
    P, M = model.config.vectors, cache.words[0].shape[2]
    u_BPD = model.lift(model.pool.one(cache.features_BCD, cache.place_B + 1))
    at_BP = cache.words_B[:, None] * P + jnp.arange(P)
    visible_BPM = jnp.arange(M) <= at_BP[..., None]
    row_B1 = jnp.arange(len(which_B))[:, None]
    write_BP11 = which_B[:, None, None, None]

    def layer(carry, per_layer):  # as in the flat model, written in place
        x_BPD, k_LBMKH, v_LBMKH = carry
        block, at = per_layer
        q_BPNH, k_BPKH, v_BPKH = block.project(x_BPD, at_BP)
        k_BPKH = jnp.where(write_BP11, k_BPKH, k_LBMKH[at, row_B1, at_BP])
        v_BPKH = jnp.where(write_BP11, v_BPKH, v_LBMKH[at, row_B1, at_BP])
        k_LBMKH, v_LBMKH = (x.at[at, row_B1, at_BP].set(y) for x, y in ((k_LBMKH, k_BPKH), (v_LBMKH, v_BPKH)))
        a_BPNH = jax.vmap(attend_cached, in_axes=(1, None, None, 1), out_axes=1)(
            q_BPNH, k_LBMKH[at], v_LBMKH[at], visible_BPM
        )
        return (block.finish(x_BPD, a_BPNH), k_LBMKH, v_LBMKH), None

    depth = jnp.arange(model.config.layers)
    (u_BPD, *words), _ = jax.lax.scan(layer, (u_BPD, *cache.words), (model.blocks, depth))
    parts_BnD = model.lower(rearrange(u_BPD, "B P D -> B 1 P D"))[:, 0]
    return cache._replace(
        words_B=cache.words_B + which_B,
        words=tuple(words),
        parts_BnD=jnp.where(which_B[:, None, None], parts_BnD, cache.parts_BnD),
    )


def _bytewise(blocks, x_B1D, level, at_B, line_B, line_BR, which_B, span):
    """One symbol a row through byte layers over the ring."""
    R = line_BR.shape[1]
    visible_BR = line_B[:, None] - line_BR < span

    def layer(x_B1D, per_layer):
        block, k_BRKH, v_BRKH = per_layer
        q_B1NH, k_B1KH, v_B1KH = block.project(x_B1D, at_B[:, None])
        k_BRKH = _put(k_BRKH, at_B % R, k_B1KH[:, 0], which_B)
        v_BRKH = _put(v_BRKH, at_B % R, v_B1KH[:, 0], which_B)
        a_BNH = attend_cached(q_B1NH[:, 0], k_BRKH, v_BRKH, visible_BR)
        return block.finish(x_B1D, a_BNH[:, None]), (k_BRKH, v_BRKH)

    return jax.lax.scan(layer, x_B1D, (blocks, *level))


def _put(x_BR, slot_B, value_B, which_B):
    """`x_BR` with a value in one slot of each row of `which_B`."""
    row_B = jnp.arange(len(slot_B))
    which_B = which_B.reshape(-1, *[1] * (value_B.ndim - 1))
    return x_BR.at[row_B, slot_B].set(jnp.where(which_B, value_B, x_BR[row_B, slot_B]))
