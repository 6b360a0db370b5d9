"""Attention of every kind that the models use, as functions of arrays.

`attend` is for whole rows, in training and scoring; `attend_cached` for one new symbol a row over a
cache. Both are exact, causal, may be limited to a window, and keep documents apart.
"""

from __future__ import annotations

import functools
import math

import jax
import jax.numpy as jnp
from einops import rearrange

from bytelm import sharding

BLOCK = 128  # queries at a time on CPU: a block of scores stays in the cache of a core
_NEVER = -1e30  # the score of a masked pair: finite, so that a row of them is not NaN


def attend(
    q_BTNH: jax.Array,
    k_BTKH: jax.Array,
    v_BTKH: jax.Array,
    documents_BT: jax.Array | None = None,
    window: int | None = None,
) -> jax.Array:
    """Causal attention within rows: [B, T, N, H], of the type of `q_BTNH`.

    Args:
      q_BTNH, k_BTKH, v_BTKH: queries, keys and values; N is a multiple of K (grouped keys, Ainslie et
        al., arXiv 2305.13245). Scores are scaled by ``H**-0.5``.
      documents_BT: positions of different numbers do not see each other; None if they may.
      window: a position sees itself and the ``window - 1`` before it; None for all.

    On CPU the work runs a block of scores at a time (`_blocked`); elsewhere it is XLA's.
    """
    isolate = documents_BT is not None
    # Without documents a placeholder, so that there is one signature.
    documents = documents_BT if documents_BT is not None else jnp.zeros((1, 1), jnp.int32)
    rows, lines = ("batch", None, "heads", None), ("batch" if isolate else None, None)
    run = functools.partial(
        jax.lax.platform_dependent,
        cpu=functools.partial(_blocked, isolate=isolate, window=window),
        default=functools.partial(_whole, isolate=isolate, window=window),
    )
    return sharding.local(run, (rows, rows, rows, lines), rows)(q_BTNH, k_BTKH, v_BTKH, documents)


def attend_cached(q_BNH: jax.Array, k_BSKH: jax.Array, v_BSKH: jax.Array, visible_BS: jax.Array) -> jax.Array:
    """Attention of one query a row over a cache: [B, N, H]. `visible_BS` says which slots it sees."""
    K = k_BSKH.shape[2]
    q_BKGH = rearrange(q_BNH, "B (K G) H -> B K G H", K=K)
    score_BKGS = jnp.einsum(
        "BKGH,BSKH->BKGS", q_BKGH, k_BSKH, preferred_element_type=jnp.float32
    ) / math.sqrt(q_BNH.shape[-1])
    score_BKGS = jnp.where(visible_BS[:, None, None, :], score_BKGS, _NEVER)
    share_BKGS = jax.nn.softmax(score_BKGS, axis=-1).astype(v_BSKH.dtype)
    out_BKGH = jnp.einsum("BKGS,BSKH->BKGH", share_BKGS, v_BSKH)
    return rearrange(out_BKGH, "B K G H -> B (K G) H")


def _whole(q_BTNH, k_BTKH, v_BTKH, documents_BT, *, isolate: bool, window: int | None):
    """`attend` with the scores of whole rows in memory: the reference, and XLA's on GPU and TPU."""
    t = jnp.arange(q_BTNH.shape[1])
    mask = t[:, None] >= t[None, :]
    if window is not None:
        mask &= t[:, None] - t[None, :] < window
    mask = mask[None, None]
    if isolate:
        mask = mask & (documents_BT[:, None, :, None] == documents_BT[:, None, None, :])
    return jax.nn.dot_product_attention(q_BTNH, k_BTKH, v_BTKH, mask=mask)


# ---- blocks of scores ----------------------------------------------------------------------------------
# The scores of a row of 2,048 bytes are 16 MB a head: on CPU their way to memory and back costs more than
# the arithmetic. So one row and key head at a time, one block of queries at a time, over the keys that the
# block can see; backwards the scores are made again from the saved log-normaliser (Dao et al., arXiv
# 2205.14135, without its online softmax, since a block of queries sees all its keys at once).


def _blocked(q_BTNH, k_BTKH, v_BTKH, documents_BT, *, isolate: bool, window: int | None):
    B, K, H = q_BTNH.shape[0], k_BTKH.shape[2], q_BTNH.shape[3]
    q_UGTH = rearrange(q_BTNH, "B T (K G) H -> (B K) G T H", K=K) * jnp.asarray(H**-0.5, q_BTNH.dtype)
    k_UTH, v_UTH = (rearrange(x, "B T K H -> (B K) T H") for x in (k_BTKH, v_BTKH))
    documents_UT = jnp.repeat(documents_BT, K, axis=0) if isolate else jnp.zeros((B * K, 1), jnp.int32)
    out_UGTH = _blocks(isolate, window, q_UGTH, k_UTH, v_UTH, documents_UT)
    return rearrange(out_UGTH, "(B K) G T H -> B T (K G) H", K=K)


def _spans(T: int, window: int | None) -> list[tuple[int, int, int]]:
    """For each block of queries [start, stop), the first key that it can see, on a block's edge."""
    spans = []
    for start in range(0, T, BLOCK):
        first = 0 if window is None else max(0, (start - window + 1) // BLOCK * BLOCK)
        spans.append((first, start, min(start + BLOCK, T)))
    return spans


def _scores(q_GTH, k_TH, documents_T, span, isolate: bool, window: int | None):
    """Masked scores of one block of queries, float32 [G, queries, keys]."""
    first, start, stop = span
    score_Gts = jnp.einsum(
        "Gth,sh->Gts", q_GTH[:, start:stop], k_TH[first:stop], preferred_element_type=jnp.float32
    )
    t, s = jnp.arange(start, stop)[:, None], jnp.arange(first, stop)[None, :]
    mask = t >= s
    if window is not None:
        mask &= t - s < window
    if isolate:
        mask &= documents_T[start:stop, None] == documents_T[None, first:stop]
    return jnp.where(mask, score_Gts, _NEVER)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _blocks(isolate, window, q_UGTH, k_UTH, v_UTH, documents_UT):
    return _blocks_forward(isolate, window, q_UGTH, k_UTH, v_UTH, documents_UT)[0]


def _blocks_forward(isolate, window, q_UGTH, k_UTH, v_UTH, documents_UT):
    def one(unit):
        q_GTH, k_TH, v_TH, documents_T = unit
        outs, norms = [], []
        for span in _spans(q_GTH.shape[1], window):
            first, _, stop = span
            score_Gts = _scores(q_GTH, k_TH, documents_T, span, isolate, window)
            top_Gt1 = jnp.max(score_Gts, axis=-1, keepdims=True)
            share_Gts = jnp.exp(score_Gts - top_Gt1)
            sum_Gt1 = jnp.sum(share_Gts, axis=-1, keepdims=True)
            out_GtH = jnp.einsum("Gts,sh->Gth", share_Gts.astype(v_TH.dtype), v_TH[first:stop])
            outs.append(out_GtH / sum_Gt1.astype(v_TH.dtype))
            norms.append(top_Gt1 + jnp.log(sum_Gt1))
        return jnp.concatenate(outs, axis=1), jnp.concatenate(norms, axis=1)

    out_UGTH, norm_UGT1 = jax.lax.map(one, (q_UGTH, k_UTH, v_UTH, documents_UT))
    return out_UGTH, (q_UGTH, k_UTH, v_UTH, documents_UT, out_UGTH, norm_UGT1)


def _blocks_backward(isolate, window, saved, grad_UGTH):
    def one(unit):
        q_GTH, k_TH, v_TH, documents_T, out_GTH, norm_GT1, grad_GTH = unit
        dtype = v_TH.dtype
        dot_GT1 = jnp.sum((out_GTH * grad_GTH).astype(jnp.float32), axis=-1, keepdims=True)
        dq, dk_TH, dv_TH = [], jnp.zeros_like(k_TH), jnp.zeros_like(v_TH)
        for span in _spans(q_GTH.shape[1], window):
            first, start, stop = span
            q_GtH, grad_GtH = q_GTH[:, start:stop], grad_GTH[:, start:stop]
            score_Gts = _scores(q_GTH, k_TH, documents_T, span, isolate, window)
            share_Gts = jnp.exp(score_Gts - norm_GT1[:, start:stop])
            dshare_Gts = jnp.einsum(
                "Gth,sh->Gts", grad_GtH, v_TH[first:stop], preferred_element_type=jnp.float32
            )
            dscore_Gts = (share_Gts * (dshare_Gts - dot_GT1[:, start:stop])).astype(dtype)
            dq.append(jnp.einsum("Gts,sh->Gth", dscore_Gts, k_TH[first:stop]))
            dk_TH = dk_TH.at[first:stop].add(jnp.einsum("Gts,Gth->sh", dscore_Gts, q_GtH))
            dv_TH = dv_TH.at[first:stop].add(jnp.einsum("Gts,Gth->sh", share_Gts.astype(dtype), grad_GtH))
        return jnp.concatenate(dq, axis=1), dk_TH, dv_TH

    q_UGTH, k_UTH, v_UTH, documents_UT, out_UGTH, norm_UGT1 = saved
    units = (q_UGTH, k_UTH, v_UTH, documents_UT, out_UGTH, norm_UGT1, grad_UGTH)
    dq_UGTH, dk_UTH, dv_UTH = jax.lax.map(one, units)
    return dq_UGTH, dk_UTH, dv_UTH, None


_blocks.defvjp(_blocks_forward, _blocks_backward)
