"""Attention of every kind and its gradient against float64 on the host."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bytelm.attention import attend, kernels


def attention(tiny: bool) -> dict[str, Any]:
    """The largest error against float64, over the largest entry, of outputs and of gradients; by which kernel
    (`bytelm.attention.kernels`), where it is not XLA's."""
    T, H = (64, 8) if tiny else (1024, 64)
    random, found = np.random.default_rng(0), {}
    q, k, v, g = (random.standard_normal((2, T, n, H)) for n in (4, 2, 2, 4))
    documents = np.cumsum(random.random((2, T)) < 8 / T, axis=1)
    words = np.cumsum(random.random((2, T)) < 0.2, axis=1)
    kinds: dict[str, dict[str, Any]] = {
        "whole": {},
        "documents": {"documents_BT": documents},
        "long window": {"window": T // 2 + 1},
        "long window, documents": {"documents_BT": documents, "window": T // 2 + 1},
        "window": {"documents_BT": documents, "window": T // 8},
        "words": {"documents_BT": words, "window": 32, "span": 2},
    }
    for kind, how in kinds.items():
        expected = _in_float64(q, k, v, g, **how)
        for dtype, limit in (("float32", 1e-4), ("bfloat16", 3e-2)):

            def both(q, k, v, g, how=how):
                out, back = jax.vjp(functools.partial(attend, **how), q, k, v)
                return out, *back(g)

            with jax.default_matmul_precision("highest"):
                ours = jax.jit(both)(*(jnp.asarray(x, dtype) for x in (q, k, v, g)))
            error = max(
                float(np.abs(np.asarray(a, np.float64) - b).max() / np.abs(b).max())
                for a, b in zip(ours, expected, strict=True)
            )
            found[f"{kind} {dtype}{_by(q, k, dtype, **how)}"] = error
            if not error < limit:
                raise AssertionError(f"attention, {kind}, {dtype}: error {error:.2g}, limit {limit:.0e}")
    return {"device": jax.devices()[0].device_kind, **found}


def _by(q, k, dtype: str, documents_BT=None, window=None, span=1) -> str:
    """The name of the kernel that attention of this kind runs on here; nothing for XLA's."""
    q, k = (jax.ShapeDtypeStruct(x.shape, dtype) for x in (q, k))
    how = {"window": window, "causal": True, "isolated": documents_BT is not None}
    found = {} if span > 1 else kernels.of_backend(q, k, **how)
    return "".join(f", {kernel.func.__name__}" for kernel in found.values())


def _in_float64(q, k, v, g, documents_BT=None, window=None, span=1):
    """Attention, and its gradients for queries, keys and values, by the formulas."""
    B, T, N, H = q.shape
    K, t = k.shape[2], np.arange(T)
    mask = np.broadcast_to((t[:, None] >= t) & (t[:, None] - t < (window or T)), (B, T, T))
    if documents_BT is not None:
        mask = mask & (np.abs(documents_BT[:, :, None] - documents_BT[:, None, :]) < span)
    k, v = (np.repeat(x, N // K, axis=2) for x in (k, v))
    score = np.where(mask[:, None], np.einsum("btnh,bsnh->bnts", q, k) * H**-0.5, -np.inf)
    share = np.exp(score - score.max(-1, keepdims=True))
    share /= share.sum(-1, keepdims=True)
    dshare = np.einsum("btnh,bsnh->bnts", g, v)
    dscore = share * (dshare - (dshare * share).sum(-1, keepdims=True)) * H**-0.5
    dk, dv = np.einsum("bnts,btnh->bsnh", dscore, q), np.einsum("bnts,btnh->bsnh", share, g)
    dk, dv = (x.reshape(B, T, K, N // K, H).sum(3) for x in (dk, dv))
    return np.einsum("bnts,bsnh->btnh", share, v), np.einsum("bnts,bsnh->btnh", dscore, k), dk, dv
