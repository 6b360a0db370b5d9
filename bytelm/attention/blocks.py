"""Attention on CPU, a part of the scores at a time.

The scores of a row of 2,048 bytes are 16 MB a head: on CPU their way to memory and back costs more than the
arithmetic. So a unit, one row and one key head, at a time, or several where they are short.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from einops import rearrange

from bytelm.attention.xla import NEVER, band, units

BLOCK = 128  # queries and keys at a time: a block of scores stays in the cache of a core
AT_ONCE = 2**19  # scores at a time, where rows are short: fewer would be over before both cores have begun


def in_parts(q_BTNH, k_BTKH, v_BTKH, low_BT, high_BT, *, window: int | None, causal: bool):
    """`attend` over units, a few at a time."""
    B, T, N, _ = q_BTNH.shape
    parts = units(q_BTNH, k_BTKH, v_BTKH, low_BT, high_BT)
    if window is not None and window < T and window <= BLOCK // 2:
        run = jax.checkpoint(functools.partial(band, window=window, causal=causal))
        out_UGTH = _map(run, parts, scores=(2 if causal else 3) * window * T * N // k_BTKH.shape[2])
    else:
        out_UGTH = _blocks(k_BTKH.shape[2], *parts)
    return rearrange(out_UGTH, "(B K) G T H -> B T (K G) H", B=B)


def _map(one, parts, scores: int):
    """`one` over all units, as many at a time as `AT_ONCE` allows for so many scores a unit."""
    n = min(len(parts[0]), max(1, AT_ONCE // scores))
    while len(parts[0]) % n:
        n -= 1
    return jax.lax.map(one, parts, batch_size=n) if n > 1 else jax.lax.map(one, parts)


# Otherwise block by block of queries, over the blocks of keys from the first that any of them sees to the
# last: what lies in other documents is not computed. With a running maximum, and backwards from the saved
# log-normaliser (Dao et al., arXiv 2205.14135).


def _blocks(most: int, q_UGTH, k_UTH, v_UTH, low_UT, high_UT):
    """Attention of units, `most` at a time (a divisor of U) or fewer: [U, G, T, H]."""
    U, G, T, _ = q_UGTH.shape
    size = min(T, BLOCK)
    rest = -T % size  # queries that see nothing and that nobody sees
    q_UGTH, k_UTH, v_UTH = (_pad(x, rest, axis=-2) for x in (q_UGTH, k_UTH, v_UTH))
    low_UT, high_UT = _pad(low_UT, rest, -1, value=T), _pad(high_UT, rest, -1, value=-1)
    most = U if size == T else most  # of one row, where documents make a difference
    n = min(most, max(1, AT_ONCE // (G * size * size)))
    while most % n:
        n -= 1
    groups = (x.reshape(U // n, n, *x.shape[1:]) for x in (q_UGTH, k_UTH, v_UTH, low_UT, high_UT))
    return _attend_blocks(size, *groups).reshape(U, G, T + rest, -1)[:, :, :T]


def _pad(x, rest: int, axis: int, value=0):
    pad = [(0, 0)] * x.ndim
    pad[axis] = (0, rest)
    return jnp.pad(x, pad, constant_values=value) if rest else x


def _some(x, i, size: int, axis: int):
    """Block `i` of `x`."""
    return jax.lax.dynamic_slice_in_dim(x, i * size, size, axis % x.ndim)


def _put(x, block, i, size: int, axis: int):
    """`x` with `block` for its block `i`."""
    return jax.lax.dynamic_update_slice_in_dim(x, block.astype(x.dtype), i * size, axis % x.ndim)


def _reach(low_nT, high_nT, size: int):
    """For each block of queries the first block of keys that any of them sees, and the first past all."""
    low_nMt, high_nMt = (rearrange(x, "n (M t) -> n M t", t=size) for x in (low_nT, high_nT))
    return jnp.min(low_nMt, axis=(0, 2)) // size, jnp.max(high_nMt, axis=(0, 2)) // size + 1


def _scores(q_nGtH, k_nsH, low_nt, high_nt, j):
    """Masked scores of a block of queries and block `j` of keys, float32 [n, G, t, s]."""
    size = k_nsH.shape[1]
    score_nGts = jnp.einsum("nGtH,nsH->nGts", q_nGtH, k_nsH, preferred_element_type=jnp.float32)
    s = j * size + jnp.arange(size)
    seen_nts = (s >= low_nt[:, :, None]) & (s <= high_nt[:, :, None])
    return jnp.where(seen_nts[:, None], score_nGts, NEVER)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attend_blocks(size, q_gnGTH, k_gnTH, v_gnTH, low_gnT, high_gnT):
    return _blocks_forward(size, q_gnGTH, k_gnTH, v_gnTH, low_gnT, high_gnT)[0]


def _blocks_forward(size, *groups):
    def one(group):
        q_nGTH, k_nTH, v_nTH, low_nT, high_nT = group
        first_M, past_M = _reach(low_nT, high_nT, size)

        def block(i, found):
            q_nGtH, low_nt, high_nt = _some(q_nGTH, i, size, -2), *(_some(x, i, size, -1) for x in group[3:])

            def keys(j, sums):
                top_nGt1, sum_nGt1, out_nGtH = sums
                k_nsH, v_nsH = (_some(x, j, size, -2) for x in (k_nTH, v_nTH))
                score_nGts = _scores(q_nGtH, k_nsH, low_nt, high_nt, j)
                new_nGt1 = jnp.maximum(top_nGt1, jnp.max(score_nGts, axis=-1, keepdims=True))
                share_nGts, kept_nGt1 = jnp.exp(score_nGts - new_nGt1), jnp.exp(top_nGt1 - new_nGt1)
                more_nGtH = jnp.einsum(
                    "nGts,nsH->nGtH",
                    share_nGts.astype(v_nsH.dtype),
                    v_nsH,
                    preferred_element_type=jnp.float32,
                )
                sum_nGt1 = sum_nGt1 * kept_nGt1 + jnp.sum(share_nGts, axis=-1, keepdims=True)
                return new_nGt1, sum_nGt1, out_nGtH * kept_nGt1 + more_nGtH

            zero_nGt1, zero_nGtH = jnp.zeros((*q_nGtH.shape[:3], 1)), jnp.zeros(q_nGtH.shape)
            start = zero_nGt1 + NEVER, zero_nGt1, zero_nGtH
            top_nGt1, sum_nGt1, out_nGtH = jax.lax.fori_loop(first_M[i], past_M[i], keys, start)
            out_nGTH, norm_nGT1 = found
            return (
                _put(out_nGTH, out_nGtH / sum_nGt1, i, size, -2),
                _put(norm_nGT1, top_nGt1 + jnp.log(sum_nGt1), i, size, -2),
            )

        start = jnp.zeros_like(q_nGTH), jnp.zeros((*q_nGTH.shape[:3], 1), jnp.float32)
        return jax.lax.fori_loop(0, len(first_M), block, start)

    out_gnGTH, norm_gnGT1 = jax.lax.map(one, groups)
    return out_gnGTH, (*groups, out_gnGTH, norm_gnGT1)


def _blocks_backward(size, saved, grad_gnGTH):
    def one(group):
        q_nGTH, k_nTH, v_nTH, low_nT, high_nT, norm_nGT1, dot_nGT1, grad_nGTH = group
        first_M, past_M = _reach(low_nT, high_nT, size)
        dtype = v_nTH.dtype

        def block(i, found):
            q_nGtH, norm_nGt1, dot_nGt1, grad_nGtH = (
                _some(x, i, size, -2) for x in (q_nGTH, norm_nGT1, dot_nGT1, grad_nGTH)
            )
            low_nt, high_nt = (_some(x, i, size, -1) for x in (low_nT, high_nT))

            def keys(j, sums):
                dq_nGtH, dk_nHT, dv_nHT = sums
                k_nsH, v_nsH = (_some(x, j, size, -2) for x in (k_nTH, v_nTH))
                share_nGts = jnp.exp(_scores(q_nGtH, k_nsH, low_nt, high_nt, j) - norm_nGt1)
                dshare_nGts = jnp.einsum(
                    "nGtH,nsH->nGts", grad_nGtH, v_nsH, preferred_element_type=jnp.float32
                )
                dscore_nGts = (share_nGts * (dshare_nGts - dot_nGt1)).astype(dtype)
                dq_nGtH += jnp.einsum(
                    "nGts,nsH->nGtH", dscore_nGts, k_nsH, preferred_element_type=jnp.float32
                )
                # XLA transposes the first operand of a product: let it be the small one.
                onto = functools.partial(jnp.einsum, "nGtH,nGts->nHs", preferred_element_type=jnp.float32)
                dk_nHs = _some(dk_nHT, j, size, -1) + onto(q_nGtH, dscore_nGts)
                dv_nHs = _some(dv_nHT, j, size, -1) + onto(grad_nGtH, share_nGts.astype(dtype))
                return dq_nGtH, _put(dk_nHT, dk_nHs, j, size, -1), _put(dv_nHT, dv_nHs, j, size, -1)

            dq_nGTH, dk_nHT, dv_nHT = found
            start = jnp.zeros(q_nGtH.shape), dk_nHT, dv_nHT
            dq_nGtH, dk_nHT, dv_nHT = jax.lax.fori_loop(first_M[i], past_M[i], keys, start)
            return _put(dq_nGTH, dq_nGtH, i, size, -2), dk_nHT, dv_nHT

        zero_nHT = jnp.zeros(jnp.swapaxes(k_nTH, -1, -2).shape)
        start = jnp.zeros_like(q_nGTH), zero_nHT, zero_nHT
        dq_nGTH, dk_nHT, dv_nHT = jax.lax.fori_loop(0, len(first_M), block, start)
        return dq_nGTH, *(jnp.swapaxes(x, -1, -2).astype(dtype) for x in (dk_nHT, dv_nHT))

    *groups, out_gnGTH, norm_gnGT1 = saved
    # Not within `one`: under vmap, with grouped keys, XLA compiles that to wrong sums on CPU (jaxlib 0.10.2).
    dot_gnGT1 = jnp.sum((out_gnGTH * grad_gnGTH).astype(jnp.float32), axis=-1, keepdims=True)
    return *jax.lax.map(one, (*groups, norm_gnGT1, dot_gnGT1, grad_gnGTH)), None, None


_attend_blocks.defvjp(_blocks_forward, _blocks_backward)
