"""Evaluating a tokenized decoder over a cache: steps, blocks, and trees of tokens.

A cache holds, for each row, a *trunk*, the tokens no longer in doubt, in slots 0..S-1, and *nodes*, in
places 0..M-1 after them. A node sees the trunk, its ancestors and itself; its position is the trunk's
length plus its depth, so that its logits are those of the sequence that leads to it. Keys of a layer are
one array, written in place: nothing is copied or gathered as a whole, whatever joins the trunk or dies.

The functions are pure and compiled by their callers, who donate the cache. `model` is a `TokenTransformer`
with its layers one by one.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from bytelm.models.token_block import attend_masked
from bytelm.models.token_lm import TokenTransformer


class TokenCache(NamedTuple):
    """See the module. Layers are tuples: each array is a buffer of its own."""

    keys: tuple[Any, ...]  # [B, K, S + M, H] each
    values: tuple[Any, ...]
    length_B: Any  # of the trunk, int32
    position_BM: Any  # of each node, int32
    sees_BMM: Any  # which places a node sees, itself included, bool

    @property
    def slots(self) -> int:
        return self.keys[0].shape[2] - self.position_BM.shape[1]


def open_trunk(
    model: TokenTransformer, tokens_BT: jax.Array, length_B: jax.Array, slots: int, nodes: int
) -> tuple[jax.Array, TokenCache]:
    """Reads ragged rows: logits after the last token of each, float32 [B, V], and the cache.

    Raises ValueError where there are fewer slots than columns of `tokens_BT`.
    """
    B, T = tokens_BT.shape
    if slots < T:
        raise ValueError(f"open: {slots} slots for rows padded to {T} tokens; give at least {T}")
    x_BTD, kept = model.read(tokens_BT, keep=True)
    x_BD = jnp.take_along_axis(x_BTD, jnp.maximum(length_B - 1, 0)[:, None, None], axis=1)[:, 0]
    room = ((0, 0), (0, 0), (0, slots + nodes - T), (0, 0))
    keys, values = (tuple(jnp.pad(x.swapaxes(1, 2), room) for x in kind) for kind in zip(*kept, strict=True))
    position_BM = jnp.zeros((B, nodes), jnp.int32)
    sees_BMM = jnp.zeros((B, nodes, nodes), bool)
    cache = TokenCache(keys, values, length_B.astype(jnp.int32), position_BM, sees_BMM)
    return model.logits(x_BD), cache


def extend(
    model: TokenTransformer, cache: TokenCache, tokens_BN: jax.Array, count_B: jax.Array
) -> tuple[jax.Array, TokenCache]:
    """Appends ``tokens_BN[b, :count_B[b]]`` to the trunk: logits float32 [B, N, V], and the cache.

    One token a row is a step of decoding, many are a block of a long text. What does not fit into the
    slots is not written: the caller makes room before (`widened`), as for `commit`.
    """
    step_N = jnp.arange(tokens_BN.shape[1])
    position_BN = cache.length_B[:, None] + step_N
    fits_BN = (step_N < count_B[:, None]) & (position_BN < cache.slots)
    slot_BN = jnp.where(fits_BN, position_BN, _nowhere(cache))
    trunk_BNS = jnp.arange(cache.slots) <= position_BN[:, :, None]
    nodes_BNM = jnp.zeros((*position_BN.shape, cache.position_BM.shape[1]), bool)
    logits_BNV, keys, values = _evaluate(model, cache, tokens_BN, position_BN, slot_BN, trunk_BNS, nodes_BNM)
    return logits_BNV, cache._replace(keys=keys, values=values, length_B=cache.length_B + count_B)


def grow(
    model: TokenTransformer,
    cache: TokenCache,
    tokens_BN: jax.Array,
    parents_BN: jax.Array,
    at_BN: jax.Array,
) -> tuple[jax.Array, TokenCache]:
    """Evaluates N new nodes a row: logits float32 [B, N, V] after each, and the cache with them.

    Args:
      tokens_BN: their tokens; -1 for no node.
      parents_BN: the place of each one's parent, -1 for the trunk's end; parents come before children.
      at_BN: the place that each is written to.
    """
    B, M = cache.position_BM.shape
    row_B, place_M = jnp.arange(B), jnp.arange(M)
    at_BN = jnp.where(tokens_BN < 0, M, at_BN)  # M is no place: what is written there is dropped

    def place(carry, node):
        """Positions and ancestors are found one node after the other: a parent may be new itself."""
        position_BM, sees_BMM = carry
        parent_B, at_B = node
        root_B, parent_B = parent_B < 0, jnp.maximum(parent_B, 0)
        position_B = jnp.where(root_B, cache.length_B, position_BM[row_B, parent_B] + 1)
        sees_BM = (sees_BMM[row_B, parent_B] & ~root_B[:, None]) | (place_M == at_B[:, None])
        position_BM = position_BM.at[row_B, at_B].set(position_B, mode="drop")
        sees_BMM = sees_BMM.at[row_B, at_B].set(sees_BM, mode="drop")
        return (position_BM, sees_BMM), (position_B, sees_BM)

    (position_BM, sees_BMM), (position_NB, sees_NBM) = jax.lax.scan(
        place, (cache.position_BM, cache.sees_BMM), (parents_BN.T, at_BN.T)
    )
    cache = cache._replace(position_BM=position_BM, sees_BMM=sees_BMM)
    slot_BN = jnp.where(at_BN < M, cache.slots + at_BN, _nowhere(cache))
    trunk_BNS = jnp.arange(cache.slots) < cache.length_B[:, None, None]
    trunk_BNS = jnp.broadcast_to(trunk_BNS, (*tokens_BN.shape, cache.slots))
    logits_BNV, keys, values = _evaluate(
        model, cache, tokens_BN, position_NB.T, slot_BN, trunk_BNS, sees_NBM.swapaxes(0, 1)
    )
    return logits_BNV, cache._replace(keys=keys, values=values)


def commit(cache: TokenCache, path_BP: jax.Array) -> TokenCache:
    """Moves a path of node places into the trunk, in order, -1 padded at the end.

    The nodes that descend from the path's last stay valid in their places; all others are dead. Only the
    path's slots are written.
    """
    B, M = cache.position_BM.shape
    row_B1, S = jnp.arange(B)[:, None], cache.slots
    real_BP = path_BP >= 0
    to_BP = jnp.where(real_BP, cache.length_B[:, None] + jnp.arange(path_BP.shape[1]), _nowhere(cache))
    to_BP = jnp.where(to_BP < S, to_BP, _nowhere(cache))
    from_BP = S + jnp.maximum(path_BP, 0)

    def move(x_BKSH):
        return _written(x_BKSH, to_BP, x_BKSH[row_B1, :, from_BP])

    gone_BM = jnp.zeros((B, M), bool).at[row_B1, jnp.where(real_BP, path_BP, M)].set(True, mode="drop")
    return cache._replace(
        keys=tuple(move(x) for x in cache.keys),
        values=tuple(move(x) for x in cache.values),
        length_B=cache.length_B + jnp.sum(real_BP, axis=1, dtype=jnp.int32),
        sees_BMM=cache.sees_BMM & ~gone_BM[:, None],
    )


def widened(cache: TokenCache, slots: int, nodes: int) -> TokenCache:
    """A copy with more room: for `slots` tokens of trunk and `nodes` nodes, in the same places."""
    S, M = cache.slots, cache.position_BM.shape[1]
    more = ((0, 0), (0, 0), (0, nodes - M), (0, 0))

    def wide(x_BKSH):
        trunk_BKSH = jnp.pad(x_BKSH[:, :, :S], ((0, 0), (0, 0), (0, slots - S), (0, 0)))
        return jnp.concatenate([trunk_BKSH, jnp.pad(x_BKSH[:, :, S:], more)], axis=2)

    return cache._replace(
        keys=tuple(wide(x) for x in cache.keys),
        values=tuple(wide(x) for x in cache.values),
        position_BM=jnp.pad(cache.position_BM, ((0, 0), (0, nodes - M))),
        sees_BMM=jnp.pad(cache.sees_BMM, ((0, 0), (0, nodes - M), (0, nodes - M))),
    )


def _nowhere(cache: TokenCache) -> int:
    """A slot that does not exist."""
    return cache.keys[0].shape[2]


def _written(x_BKSH: jax.Array, slot_BN: jax.Array, new_BNKH: jax.Array) -> jax.Array:
    """`x_BKSH` with `new_BNKH` in its slots; what belongs nowhere is dropped. In place, where donated."""
    if slot_BN.size == 1:
        # XLA turns a scatter of one index into a choice between copies of the whole: so one goes nowhere.
        slot_BN = jnp.concatenate([slot_BN, jnp.full_like(slot_BN, x_BKSH.shape[2])], axis=1)
        new_BNKH = jnp.concatenate([new_BNKH, new_BNKH], axis=1)
    return x_BKSH.at[jnp.arange(len(slot_BN))[:, None], :, slot_BN].set(new_BNKH, mode="drop")


def _evaluate(model, cache, tokens_BN, position_BN, slot_BN, trunk_BNS, nodes_BNM):
    """Logits of new tokens that see the given slots and places; their keys and values are written first."""
    c = model.config
    visible = jnp.concatenate([trunk_BNS, nodes_BNM], axis=-1)
    trunk_BS = jnp.broadcast_to(jnp.arange(cache.slots), (len(tokens_BN), cache.slots))
    back = position_BN[:, :, None] - jnp.concatenate([trunk_BS, cache.position_BM], axis=-1)[:, None]
    masks = {w: visible if w is None else visible & (back < w) for w in map(c.window_of, range(c.layers))}
    x_BND = model.embed(jnp.maximum(tokens_BN, 0), position_BN)
    cos_sin = model.turns(position_BN, 0)
    keys, values = [], []
    for i, block in enumerate(model.blocks):
        q_BNNH, k_BNKH, v_BNKH = block.project(x_BND, cos_sin)
        keys.append(_written(cache.keys[i], slot_BN, k_BNKH))
        values.append(_written(cache.values[i], slot_BN, v_BNKH))
        mask_BNS = masks[c.window_of(i)]
        a_BNNH = attend_masked(q_BNNH, keys[i], values[i], mask_BNS, c.scale, c.attention_softcap)
        x_BND = block.finish(x_BND, a_BNNH)
    return model.logits(x_BND), tuple(keys), tuple(values)
