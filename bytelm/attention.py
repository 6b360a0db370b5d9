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
      documents_BT: a number for each position, the same all through a document and another in the next;
        positions of different documents do not see each other. None if they may.
      window: a position sees itself and the ``window - 1`` before it; None for all.
      span: above 1, the numbers rise along a row, and positions see each other whose numbers differ by less.
      causal: if False, positions see as far ahead as they see back.

    On CPU the work runs a part of the scores at a time (`_in_parts`); elsewhere it is XLA's, for narrow
    windows over bands.
    """
    T = q_BTNH.shape[1]
    low_BT, high_BT = _seen(documents_BT, window, span, causal, T)
    rows = ("batch", None, "heads", None)
    lines = (None if documents_BT is None else "batch", None)
    elsewhere = _whole
    if window is not None and 4 * window <= T:
        elsewhere = functools.partial(_in_bands, window=window, causal=causal)
    on_cpu = functools.partial(_in_parts, window=window, causal=causal)
    run = functools.partial(jax.lax.platform_dependent, cpu=on_cpu, default=elsewhere)
    return sharding.local(run, (rows, rows, rows, lines, lines), rows)(
        q_BTNH, k_BTKH, v_BTKH, low_BT, high_BT
    )


def _seen(documents_BT, window: int | None, span: int, causal: bool, T: int) -> tuple[jax.Array, jax.Array]:
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


def _whole(q_BTNH, k_BTKH, v_BTKH, low_BT, high_BT):
    """`attend` with the scores of whole rows in memory: the reference, and XLA's on GPU and TPU."""
    t = jnp.arange(q_BTNH.shape[1])
    mask_BTS = (t <= high_BT[:, :, None]) & (t >= low_BT[:, :, None])
    return jax.nn.dot_product_attention(q_BTNH, k_BTKH, v_BTKH, mask=mask_BTS[:, None])


# ---- on CPU --------------------------------------------------------------------------------------------
# The scores of a row of 2,048 bytes are 16 MB a head: on CPU their way to memory and back costs more than
# the arithmetic. So a unit, one row and one key head, at a time, or several where they are short.


def _in_parts(q_BTNH, k_BTKH, v_BTKH, low_BT, high_BT, *, window: int | None, causal: bool):
    """`attend` over units, a few at a time."""
    B, T, N, _ = q_BTNH.shape
    units = _units(q_BTNH, k_BTKH, v_BTKH, low_BT, high_BT)
    if window is not None and window < T and window <= BLOCK // 2:
        band = jax.checkpoint(functools.partial(_band, window=window, causal=causal))
        out_UGTH = _map(band, units, scores=(2 if causal else 3) * window * T * N // k_BTKH.shape[2])
    else:
        out_UGTH = _blocks(window, causal, *units)
    return rearrange(out_UGTH, "(B K) G T H -> B T (K G) H", B=B)


def _in_bands(q_BTNH, k_BTKH, v_BTKH, low_BT, high_BT, *, window: int, causal: bool):
    """`attend` over bands of the rows, all of them at once."""
    units = _units(q_BTNH, k_BTKH, v_BTKH, low_BT, high_BT)
    out_UGTH = jax.vmap(jax.checkpoint(functools.partial(_band, window=window, causal=causal)))(units)
    return rearrange(out_UGTH, "(B K) G T H -> B T (K G) H", B=len(q_BTNH))


def _units(q_BTNH, k_BTKH, v_BTKH, low_BT, high_BT):
    """Scaled queries [U, G, T, H], keys and values [U, T, H], what is seen [U, T]; U = B x K."""
    (B, T, _, H), K = q_BTNH.shape, k_BTKH.shape[2]
    q_UGTH = rearrange(q_BTNH, "B T (K G) H -> (B K) G T H", K=K) * jnp.asarray(H**-0.5, q_BTNH.dtype)
    k_UTH, v_UTH = (rearrange(x, "B T K H -> (B K) T H") for x in (k_BTKH, v_BTKH))
    low_UT, high_UT = (jnp.repeat(jnp.broadcast_to(x, (B, T)), K, axis=0) for x in (low_BT, high_BT))
    return q_UGTH, k_UTH, v_UTH, low_UT, high_UT


def _map(one, units, scores: int):
    """`one` over all units, as many at a time as `AT_ONCE` allows for so many scores a unit."""
    n = min(len(units[0]), max(1, AT_ONCE // scores))
    while len(units[0]) % n:
        n -= 1
    return jax.lax.map(one, units, batch_size=n) if n > 1 else jax.lax.map(one, units)


def _band(unit, *, window: int, causal: bool):
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
    share_GMWS = jax.nn.softmax(jnp.where(mask_MWS, score_GMWS, _NEVER), axis=-1).astype(v_TH.dtype)
    out_GMWH = jnp.einsum("GMWS,MSH->GMWH", share_GMWS, v_MSH)
    return rearrange(out_GMWH, "G M W H -> G (M W) H")[:, :T]


# Otherwise one block of queries after another, over all the keys that any of them may see. Backwards the
# scores are made again from the saved log-normaliser (Dao et al., arXiv 2205.14135, without its online
# softmax, since a block of queries sees all its keys at once).


def _spans(T: int, window: int | None, causal: bool) -> list[tuple[slice, slice]]:
    """The blocks of queries, and for each the keys that they may see."""
    reach, found = window or T, []
    for start in range(0, T, BLOCK):
        stop = min(start + BLOCK, T)
        last = stop if causal else min(stop + reach - 1, T)
        found.append((slice(start, stop), slice(max(0, start - reach + 1), last)))
    return found


def _scores(q_GTH, k_TH, low_T, high_T, block: slice, keys: slice):
    """Masked scores of one block of queries, float32 [G, queries, keys]."""
    score_Gts = jnp.einsum("Gth,sh->Gts", q_GTH[:, block], k_TH[keys], preferred_element_type=jnp.float32)
    s = jnp.arange(keys.start, keys.stop)
    return jnp.where((s >= low_T[block, None]) & (s <= high_T[block, None]), score_Gts, _NEVER)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _blocks(window, causal, q_UGTH, k_UTH, v_UTH, low_UT, high_UT):
    return _blocks_forward(window, causal, q_UGTH, k_UTH, v_UTH, low_UT, high_UT)[0]


def _blocks_forward(window, causal, q_UGTH, k_UTH, v_UTH, low_UT, high_UT):
    def one(unit):
        q_GTH, k_TH, v_TH, low_T, high_T = unit
        outs, norms = [], []
        for block, keys in _spans(q_GTH.shape[1], window, causal):
            score_Gts = _scores(q_GTH, k_TH, low_T, high_T, block, keys)
            top_Gt1 = jnp.max(score_Gts, axis=-1, keepdims=True)
            share_Gts = jnp.exp(score_Gts - top_Gt1)
            sum_Gt1 = jnp.sum(share_Gts, axis=-1, keepdims=True)
            out_GtH = jnp.einsum("Gts,sh->Gth", share_Gts.astype(v_TH.dtype), v_TH[keys])
            outs.append(out_GtH / sum_Gt1.astype(v_TH.dtype))
            norms.append(top_Gt1 + jnp.log(sum_Gt1))
        return jnp.concatenate(outs, axis=1), jnp.concatenate(norms, axis=1)

    units = (q_UGTH, k_UTH, v_UTH, low_UT, high_UT)
    out_UGTH, norm_UGT1 = _map(one, units, _scores_of_a_block(q_UGTH))
    return out_UGTH, (*units, out_UGTH, norm_UGT1)


def _blocks_backward(window, causal, saved, grad_UGTH):
    def one(unit):
        q_GTH, k_TH, v_TH, low_T, high_T, norm_GT1, dot_GT1, grad_GTH = unit
        dtype = v_TH.dtype
        dq, dk_HT, dv_HT = [], jnp.zeros_like(k_TH.T), jnp.zeros_like(v_TH.T)
        for block, keys in _spans(q_GTH.shape[1], window, causal):
            q_GtH, grad_GtH = q_GTH[:, block], grad_GTH[:, block]
            share_Gts = jnp.exp(_scores(q_GTH, k_TH, low_T, high_T, block, keys) - norm_GT1[:, block])
            dshare_Gts = jnp.einsum("Gth,sh->Gts", grad_GtH, v_TH[keys], preferred_element_type=jnp.float32)
            dscore_Gts = (share_Gts * (dshare_Gts - dot_GT1[:, block])).astype(dtype)
            dq.append(jnp.einsum("Gts,sh->Gth", dscore_Gts, k_TH[keys]))
            # XLA transposes the first operand of a product: let it be the small one.
            dk_HT = dk_HT.at[:, keys].add(jnp.einsum("Gth,Gts->hs", q_GtH, dscore_Gts))
            dv_HT = dv_HT.at[:, keys].add(jnp.einsum("Gth,Gts->hs", grad_GtH, share_Gts.astype(dtype)))
        return jnp.concatenate(dq, axis=1), dk_HT.T, dv_HT.T

    *units, out_UGTH, norm_UGT1 = saved
    # Not within `one`: under vmap, with grouped keys, XLA compiles that to wrong sums on CPU (jaxlib 0.10.2).
    dot_UGT1 = jnp.sum((out_UGTH * grad_UGTH).astype(jnp.float32), axis=-1, keepdims=True)
    units = (*units, norm_UGT1, dot_UGT1, grad_UGTH)
    dq_UGTH, dk_UTH, dv_UTH = _map(one, units, _scores_of_a_block(grad_UGTH))
    return dq_UGTH, dk_UTH, dv_UTH, None, None


def _scores_of_a_block(q_UGTH) -> int:
    G, T = q_UGTH.shape[1:3]
    return G * min(T, BLOCK) * T


_blocks.defvjp(_blocks_forward, _blocks_backward)
