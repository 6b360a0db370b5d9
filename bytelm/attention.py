"""Attention of every kind that the models use, as functions of arrays.

`attend` is for whole rows, in training and scoring; `attend_cached` for one new symbol a row over a
cache. Both are exact, causal, may be limited to a window, and keep documents apart.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from einops import rearrange

from bytelm import sharding

BLOCK = 128  # queries at a time on CPU: a block of scores stays in the cache of a core
AT_ONCE = 2**19  # scores at a time, where rows are short: fewer would be over before both cores have begun
_NEVER = -1e30  # the score of a masked pair: finite, so that a row of them is not NaN


def attend(
    q_BTNH: jax.Array,
    k_BTKH: jax.Array,
    v_BTKH: jax.Array,
    documents_BT: jax.Array | None = None,
    window: int | None = None,
    span: int = 1,
    causal: bool = True,
) -> jax.Array:
    """Attention within rows: [B, T, N, H], of the type of `q_BTNH`.

    Args:
      q_BTNH, k_BTKH, v_BTKH: queries, keys and values; N is a multiple of K (grouped keys, Ainslie et
        al., arXiv 2305.13245). Scores are scaled by ``H**-0.5``.
      documents_BT: positions of different numbers do not see each other; None if they may.
      window: a position sees itself and the ``window - 1`` before it; None for all.
      causal: if False, positions see later ones too, as far away as `window`, which must be given, lets them.
      span: above 1, the numbers rise along a row, and positions see each other whose numbers differ by less.

    On CPU the work runs a part of the scores at a time (`_in_parts`); elsewhere it is XLA's, for narrow
    windows over bands.
    """
    isolate = documents_BT is not None
    # Without documents a placeholder, so that there is one signature.
    documents = documents_BT if documents_BT is not None else jnp.zeros((1, 1), jnp.int32)
    rows, lines = ("batch", None, "heads", None), ("batch" if isolate else None, None)
    how: dict[str, Any] = {"isolate": isolate, "window": window, "span": span, "causal": causal}
    banded = window is not None and 4 * window <= q_BTNH.shape[1]
    run = functools.partial(
        jax.lax.platform_dependent,
        cpu=functools.partial(_in_parts if causal or banded else _whole, **how),
        default=functools.partial(_in_parts, at_once=2**62, **how)
        if banded
        else functools.partial(_whole, **how),
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


def _near(documents_T, documents_S, span: int):
    return documents_T == documents_S if span == 1 else documents_T - documents_S < span


def _whole(
    q_BTNH, k_BTKH, v_BTKH, documents_BT, *, isolate: bool, window: int | None, span: int = 1, causal=True
):
    """`attend` with the scores of whole rows in memory: the reference, and XLA's on GPU and TPU."""
    t = jnp.arange(q_BTNH.shape[1])
    back = t[:, None] - t[None, :]
    mask = jnp.ones_like(back, bool)
    if window is not None:
        mask &= jnp.abs(back) < window
    if causal:
        mask &= back >= 0
    mask = mask[None, None]
    if isolate:
        mask = mask & _near(documents_BT[:, None, :, None], documents_BT[:, None, None, :], span)
    return jax.nn.dot_product_attention(q_BTNH, k_BTKH, v_BTKH, mask=mask)


# ---- on CPU --------------------------------------------------------------------------------------------
# The scores of a row of 2,048 bytes are 16 MB a head: on CPU their way to memory and back costs more than
# the arithmetic. So a unit, one row and one key head, at a time, or several where they are short.


def _in_parts(q_BTNH, k_BTKH, v_BTKH, documents_BT, *, isolate, window, span, causal, at_once=None):
    """`attend` over units U = B x K, a few at a time."""
    (B, T, N, H), K = q_BTNH.shape, k_BTKH.shape[2]
    q_UGTH = rearrange(q_BTNH, "B T (K G) H -> (B K) G T H", K=K) * jnp.asarray(H**-0.5, q_BTNH.dtype)
    k_UTH, v_UTH = (rearrange(x, "B T K H -> (B K) T H") for x in (k_BTKH, v_BTKH))
    documents_UT = jnp.repeat(documents_BT, K, axis=0) if isolate else jnp.zeros((B * K, 1), jnp.int32)
    units = (q_UGTH, k_UTH, v_UTH, documents_UT)
    if window is not None and window < T:
        band = jax.checkpoint(
            functools.partial(_band, isolate=isolate, window=window, span=span, causal=causal)
        )
        out_UGTH = _map(band, units, (2 if causal else 3) * window * T * N // K, at_once)
    else:
        out_UGTH = _causal(span if isolate else None, *units)
    return rearrange(out_UGTH, "(B K) G T H -> B T (K G) H", K=K)


def _map(one, units, scores: int, at_once: int | None = None):
    """`one` over all units, as many at a time as `at_once` allows for so many scores a unit."""
    n = min(len(units[0]), max(1, (at_once or AT_ONCE) // scores))
    while len(units[0]) % n:
        n -= 1
    return jax.lax.map(one, units, batch_size=n) if n > 1 else jax.lax.map(one, units)


def _band(unit, *, isolate: bool, window: int, span: int, causal: bool):
    """Windowed attention of a unit, [G, T, H]: blocks of a window's length, each over itself and the last,
    and if not causal the next."""
    q_GTH, k_TH, v_TH, documents_T = unit
    T, W = k_TH.shape[0], window
    M = -(-T // W)

    def blocks(x, axis=0):
        """[T, ...] -> [M, W, ...], padded at the end."""
        pad = [(0, 0)] * x.ndim
        pad[axis] = (0, M * W - T)
        return jnp.pad(x, pad).reshape(*x.shape[:axis], M, W, *x.shape[axis + 1 :])

    def around(x_MW):
        """[M, W, ...] -> [M, S, ...], each block after the one before it (and before the next)."""
        after = [] if causal else [jnp.roll(x_MW, -1, axis=0)]
        return jnp.concatenate([jnp.roll(x_MW, 1, axis=0), x_MW, *after], axis=1)

    q_GMWH, k_MSH, v_MSH = blocks(q_GTH, axis=1), around(blocks(k_TH)), around(blocks(v_TH))
    score_GMWS = jnp.einsum("GMWH,MSH->GMWS", q_GMWH, k_MSH, preferred_element_type=jnp.float32)
    S = k_MSH.shape[1]
    back_WS = jnp.arange(W)[:, None] + W - jnp.arange(S)[None, :]  # how far back a key lies
    mask_MWS = (back_WS > (-1 if causal else -W)) & (back_WS < W)
    at_MS = jnp.arange(M)[:, None] * W - W + jnp.arange(S)
    mask_MWS = mask_MWS & ((at_MS >= 0) & (at_MS < T))[:, None, :]
    if isolate:
        documents_MW = blocks(documents_T)
        mask_MWS &= _near(documents_MW[:, :, None], around(documents_MW)[:, None, :], span)
    share_GMWS = jax.nn.softmax(jnp.where(mask_MWS, score_GMWS, _NEVER), axis=-1).astype(v_TH.dtype)
    out_GMWH = jnp.einsum("GMWS,MSH->GMWH", share_GMWS, v_MSH)
    return rearrange(out_GMWH, "G M W H -> G (M W) H")[:, :T]


# Without a window, one block of queries after another over all the keys before its end. Backwards the scores
# are made again from the saved log-normaliser (Dao et al., arXiv 2205.14135, without its online softmax,
# since a block of queries sees all its keys at once).


def _spans(T: int) -> list[tuple[int, int]]:
    """The blocks of queries, [start, stop)."""
    return [(start, min(start + BLOCK, T)) for start in range(0, T, BLOCK)]


def _scores(q_GTH, k_TH, documents_T, start: int, stop: int, span: int | None):
    """Masked scores of one block of queries, float32 [G, queries, keys]."""
    score_Gts = jnp.einsum(
        "Gth,sh->Gts", q_GTH[:, start:stop], k_TH[:stop], preferred_element_type=jnp.float32
    )
    mask = jnp.arange(start, stop)[:, None] >= jnp.arange(stop)[None, :]
    if span is not None:
        mask &= _near(documents_T[start:stop, None], documents_T[None, :stop], span)
    return jnp.where(mask, score_Gts, _NEVER)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _causal(span, q_UGTH, k_UTH, v_UTH, documents_UT):
    return _causal_forward(span, q_UGTH, k_UTH, v_UTH, documents_UT)[0]


def _causal_forward(span, q_UGTH, k_UTH, v_UTH, documents_UT):
    def one(unit):
        q_GTH, k_TH, v_TH, documents_T = unit
        outs, norms = [], []
        for start, stop in _spans(q_GTH.shape[1]):
            score_Gts = _scores(q_GTH, k_TH, documents_T, start, stop, span)
            top_Gt1 = jnp.max(score_Gts, axis=-1, keepdims=True)
            share_Gts = jnp.exp(score_Gts - top_Gt1)
            sum_Gt1 = jnp.sum(share_Gts, axis=-1, keepdims=True)
            out_GtH = jnp.einsum("Gts,sh->Gth", share_Gts.astype(v_TH.dtype), v_TH[:stop])
            outs.append(out_GtH / sum_Gt1.astype(v_TH.dtype))
            norms.append(top_Gt1 + jnp.log(sum_Gt1))
        return jnp.concatenate(outs, axis=1), jnp.concatenate(norms, axis=1)

    units = (q_UGTH, k_UTH, v_UTH, documents_UT)
    out_UGTH, norm_UGT1 = _map(one, units, _scores_of_a_block(q_UGTH))
    return out_UGTH, (*units, out_UGTH, norm_UGT1)


def _causal_backward(span, saved, grad_UGTH):
    def one(unit):
        q_GTH, k_TH, v_TH, documents_T, out_GTH, norm_GT1, grad_GTH = unit
        dtype = v_TH.dtype
        dot_GT1 = jnp.sum((out_GTH * grad_GTH).astype(jnp.float32), axis=-1, keepdims=True)
        dq, dk_HT, dv_HT = [], jnp.zeros_like(k_TH.T), jnp.zeros_like(v_TH.T)
        for start, stop in _spans(q_GTH.shape[1]):
            q_GtH, grad_GtH = q_GTH[:, start:stop], grad_GTH[:, start:stop]
            score_Gts = _scores(q_GTH, k_TH, documents_T, start, stop, span)
            share_Gts = jnp.exp(score_Gts - norm_GT1[:, start:stop])
            dshare_Gts = jnp.einsum("Gth,sh->Gts", grad_GtH, v_TH[:stop], preferred_element_type=jnp.float32)
            dscore_Gts = (share_Gts * (dshare_Gts - dot_GT1[:, start:stop])).astype(dtype)
            dq.append(jnp.einsum("Gts,sh->Gth", dscore_Gts, k_TH[:stop]))
            # XLA transposes the first operand of a product: let it be the small one.
            dk_HT = dk_HT.at[:, :stop].add(jnp.einsum("Gth,Gts->hs", q_GtH, dscore_Gts))
            dv_HT = dv_HT.at[:, :stop].add(jnp.einsum("Gth,Gts->hs", grad_GtH, share_Gts.astype(dtype)))
        return jnp.concatenate(dq, axis=1), dk_HT.T, dv_HT.T

    dq_UGTH, dk_UTH, dv_UTH = _map(one, (*saved, grad_UGTH), _scores_of_a_block(grad_UGTH))
    return dq_UGTH, dk_UTH, dv_UTH, None


def _scores_of_a_block(q_UGTH) -> int:
    G, T = q_UGTH.shape[1:3]
    return G * min(T, BLOCK) * T


_causal.defvjp(_causal_forward, _causal_backward)
