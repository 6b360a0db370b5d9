"""Attention of every kind that the models use, as functions of arrays.

`attend` is for whole rows, in training and scoring; `attend_cached` for one new symbol a row over a
cache. Both are exact, causal, may be limited to a window, and keep documents apart.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from einops import rearrange

from bytelm import sharding
from bytelm.attention import blocks, kernels, xla


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

    By the platform that it is compiled for: on CPU a part of the scores at a time (`blocks`); on NVIDIA GPUs
    cuDNN's kernel in half precision, on TPU splash attention, for what they can do (`kernels`); else XLA's,
    for windows of at most a quarter of a row over bands.
    """
    T = q_BTNH.shape[1]
    window = None if window is not None and window >= T else window
    low_BT, high_BT = xla.seen(documents_BT, window, span, causal, T)
    rows = ("batch", None, "heads", None)
    lines = (None if documents_BT is None else "batch", None)
    how: dict[str, Any] = {"window": window, "causal": causal}
    elsewhere: Callable[..., jax.Array] = xla.whole
    if window is not None and 4 * window <= T:
        elsewhere = functools.partial(xla.bands, **how)
    on: dict[str, Callable[..., jax.Array]] = {"cpu": functools.partial(blocks.in_parts, **how)}
    if span == 1:
        on |= kernels.of_backend(q_BTNH, k_BTKH, isolated=documents_BT is not None, **how)
    run = functools.partial(jax.lax.platform_dependent, default=elsewhere, **on)
    return sharding.local(run, (rows, rows, rows, lines, lines), rows)(
        q_BTNH, k_BTKH, v_BTKH, low_BT, high_BT
    )


def attend_cached(q_BNH: jax.Array, k_BSKH: jax.Array, v_BSKH: jax.Array, visible_BS: jax.Array) -> jax.Array:
    """Attention of one query a row over a cache: [B, N, H]. `visible_BS` says which slots it sees."""
    K = k_BSKH.shape[2]
    q_BKGH = rearrange(q_BNH, "B (K G) H -> B K G H", K=K)
    score_BKGS = jnp.einsum(
        "BKGH,BSKH->BKGS", q_BKGH, k_BSKH, preferred_element_type=jnp.float32
    ) / math.sqrt(q_BNH.shape[-1])
    score_BKGS = jnp.where(visible_BS[:, None, None, :], score_BKGS, xla.NEVER)
    share_BKGS = jax.nn.softmax(score_BKGS, axis=-1).astype(v_BSKH.dtype)
    out_BKGH = jnp.einsum("BKGS,BSKH->BKGH", share_BKGS, v_BSKH)
    return rearrange(out_BKGH, "B K G H -> B (K G) H")
