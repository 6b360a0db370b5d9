"""Attention as XLA computes it: scores of whole rows, the reference, or of bands of them, for narrow windows.

A mask is two numbers a query, the first and the last position that it sees (`seen`).
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from einops import rearrange

NEVER = -1e30  # the score of a masked pair: finite, so that a row of them is not NaN


def seen(documents_BT, window: int | None, span: int, causal: bool, T: int) -> tuple[jax.Array, jax.Array]:
    """The first and the last position that each one sees, int32 [B, T]; [1, T] where all rows are alike.

    Causality, windows, documents and words are one mask by them, ``low[t] <= s <= high[t]``. Comparing with
    numbers of the queries costs half of comparing the documents of each pair.
    """
    t_T, reach = jnp.arange(T, dtype=jnp.int32), window or T
    low_BT = jnp.maximum(t_T - reach + 1, 0)[None]
    high_BT = t_T[None] if causal else jnp.minimum(t_T + reach - 1, T - 1)[None]
    if documents_BT is None:
        return low_BT, high_BT
    if span > 1:
        find = functools.partial(jnp.searchsorted, method="scan_unrolled")
        first_BT = jax.vmap(lambda x: find(x, x - span, side="right"))(documents_BT)
        past_BT = jax.vmap(lambda x: find(x, x + span, side="left"))(documents_BT)
    else:
        begins_BT = documents_BT[:, 1:] != documents_BT[:, :-1]
        first_BT = jax.lax.cummax(jnp.where(jnp.pad(begins_BT, ((0, 0), (1, 0))), t_T, 0), axis=1)
        begins_BT = jnp.pad(begins_BT, ((0, 0), (0, 1)), constant_values=True)
        past_BT = jax.lax.cummin(jnp.where(begins_BT, t_T + 1, T), axis=1, reverse=True)
    return (
        jnp.maximum(low_BT, first_BT.astype(jnp.int32)),
        jnp.minimum(high_BT, past_BT.astype(jnp.int32) - 1),
    )


def visible(low_BT: jax.Array, high_BT: jax.Array) -> jax.Array:
    """Which positions each one sees, bool [B, T, S]."""
    s = jnp.arange(low_BT.shape[1])
    return (s <= high_BT[:, :, None]) & (s >= low_BT[:, :, None])


def whole(q_BTNH, k_BTKH, v_BTKH, low_BT, high_BT):
    """`attend` with the scores of whole rows in memory: the reference."""
    mask_BTS = visible(low_BT, high_BT)
    return jax.nn.dot_product_attention(q_BTNH, k_BTKH, v_BTKH, mask=mask_BTS[:, None])


def bands(q_BTNH, k_BTKH, v_BTKH, low_BT, high_BT, *, window: int, causal: bool):
    """`attend` over bands of the rows, all of them at once, for windows much shorter than a row."""
    run = jax.vmap(jax.checkpoint(functools.partial(band, window=window, causal=causal)))
    out_UGTH = run(units(q_BTNH, k_BTKH, v_BTKH, low_BT, high_BT))
    return rearrange(out_UGTH, "(B K) G T H -> B T (K G) H", B=len(q_BTNH))


def units(q_BTNH, k_BTKH, v_BTKH, low_BT, high_BT):
    """Scaled queries [U, G, T, H], keys and values [U, T, H], what is seen [U, T]; U = B x K."""
    (B, T, _, H), K = q_BTNH.shape, k_BTKH.shape[2]
    q_UGTH = rearrange(q_BTNH, "B T (K G) H -> (B K) G T H", K=K) * jnp.asarray(H**-0.5, q_BTNH.dtype)
    k_UTH, v_UTH = (rearrange(x, "B T K H -> (B K) T H") for x in (k_BTKH, v_BTKH))
    low_UT, high_UT = (jnp.repeat(jnp.broadcast_to(x, (B, T)), K, axis=0) for x in (low_BT, high_BT))
    return q_UGTH, k_UTH, v_UTH, low_UT, high_UT


def band(unit, *, window: int, causal: bool):
    """Windowed attention of a unit, [G, T, H]: blocks of a window's length, each over itself and the last,
    and if not causal the next."""
    q_GTH, k_TH, v_TH, low_T, high_T = unit
    T, W = k_TH.shape[0], window
    M = -(-T // W)

    def blocks(x, axis=0):
        """[T, ...] -> [M, W, ...], padded at the end."""
        pad = [(0, 0)] * x.ndim
        pad[axis] = (0, M * W - T)
        return jnp.pad(x, pad).reshape(*x.shape[:axis], M, W, *x.shape[axis + 1 :])

    def around(x_MW):
        """[M, W, ...] -> [M, S, ...], each block after the one before it, and before the next."""
        after = [] if causal else [jnp.roll(x_MW, -1, axis=0)]
        return jnp.concatenate([jnp.roll(x_MW, 1, axis=0), x_MW, *after], axis=1)

    q_GMWH, k_MSH, v_MSH = blocks(q_GTH, axis=1), around(blocks(k_TH)), around(blocks(v_TH))
    score_GMWS = jnp.einsum("GMWH,MSH->GMWS", q_GMWH, k_MSH, preferred_element_type=jnp.float32)
    s_M1S = W * jnp.arange(M)[:, None, None] - W + jnp.arange(k_MSH.shape[1])
    mask_MWS = (s_M1S >= blocks(low_T)[:, :, None]) & (s_M1S <= blocks(high_T)[:, :, None])
    share_GMWS = jax.nn.softmax(jnp.where(mask_MWS, score_GMWS, NEVER), axis=-1).astype(v_TH.dtype)
    out_GMWH = jnp.einsum("GMWS,MSH->GMWH", share_GMWS, v_MSH)
    return rearrange(out_GMWH, "G M W H -> G (M W) H")[:, :T]
