"""Attention by kernels that hold no scores of whole rows: cuDNN's on NVIDIA GPUs, splash attention on TPU.

| | cuDNN | splash |
|---|---|---|
| types | bfloat16, float16 | all |
| documents | by a mask of T x T a row, which all heads share | by their numbers |
| windows | causal ones: its own; others, or with documents: in the mask | its own |
| grouped keys; both ways (`causal` False) | yes | yes |
| `span` above 1 | no | no |

What they cannot do, short rows and narrow windows are XLA's. Each is tried in a small case before it is first
used, against XLA, and left alone where it fails.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bytelm.attention import xla

SHORT = 256  # rows shorter than this have few scores
NARROW = 256  # windows up to this, and a quarter of a row, have few scores in bands
TILE = 128  # splash attention works on multiples of this
TRIED = 512  # the length of the rows on which a kernel is tried
NEAR = 0.05  # of the largest entry: how far two ways to compute the same in bfloat16 may be apart


def of_backend(
    q_BTNH: jax.Array, k_BTKH: jax.Array, *, window: int | None, causal: bool, isolated: bool
) -> dict[str, Callable[..., jax.Array]]:
    """The kernel of this process's accelerator for attention of this kind, by its platform; or none.

    Args:
      window: less than a row, or None.
      isolated: whether there are documents.
    """
    (_, T, N, H), K, dtype = q_BTNH.shape, k_BTKH.shape[2], q_BTNH.dtype
    if T < SHORT or (window is not None and window <= NARROW and 4 * window <= T):
        return {}
    platform, kernel = {"gpu": ("cuda", cudnn), "tpu": ("tpu", splash)}.get(jax.default_backend(), ("", None))
    if kernel is None or k_BTKH.dtype != dtype:
        return {}
    if kernel is cudnn and (dtype.itemsize != 2 or T % 2):
        return {}
    how: dict[str, Any] = {"causal": causal, "isolated": isolated}
    if not works(kernel, N // K, H, dtype.name, window=None if window is None else TRIED // 2, **how):
        return {}
    return {platform: functools.partial(kernel, window=window, **how)}


def cudnn(q_BTNH, k_BTKH, v_BTKH, low_BT, high_BT, *, window: int | None, causal: bool, isolated: bool):
    """`attend` by cuDNN."""
    how: dict[str, Any] = {}
    if isolated or (window is not None and not causal):
        how["mask"] = xla.visible(low_BT, high_BT)[:, None]
    elif window is not None:
        how["local_window_size"] = (window - 1, 0)
    return jax.nn.dot_product_attention(
        q_BTNH, k_BTKH, v_BTKH, is_causal=causal, implementation="cudnn", **how
    )


def splash(
    q_BTNH,
    k_BTKH,
    v_BTKH,
    low_BT,
    high_BT,
    *,
    window: int | None,
    causal: bool,
    isolated: bool,
    interpret: bool = False,
):
    """`attend` by splash attention; `interpret` runs it on CPU, slowly."""
    from jax.experimental.pallas.ops.tpu import splash_attention as kernel

    B, T, N, H = q_BTNH.shape
    rest = -T % TILE
    size = next(n for n in (4 * TILE, 2 * TILE, TILE) if (T + rest) % n == 0)
    names = (f"block_{x}" for x in ("q", "kv", "q_dq", "kv_dq", "q_dkv", "kv_dkv"))
    blocks: dict[str, Any] = dict.fromkeys(names, size)
    shape = (T + rest, T + rest)
    mask: Any = kernel.CausalMask(shape) if causal else kernel.FullMask(shape)
    if window is not None:
        mask = kernel.LocalMask(shape, (window - 1, 0 if causal else window - 1), 0)
    run = kernel.make_splash_mha_single_device(
        kernel.MultiHeadMask([mask] * N),
        block_sizes=kernel.BlockSizes(**blocks),
        interpret=interpret,
    )

    def heads_first(x_BTNH):
        return jnp.swapaxes(jnp.pad(x_BTNH, ((0, 0), (0, rest), (0, 0), (0, 0))), 1, 2)

    # A position that sees none before it begins a document. What is added at the end is one too.
    begins_BT = jnp.broadcast_to(low_BT == jnp.arange(T), (B, T))
    number_BT = jnp.cumsum(begins_BT, axis=1, dtype=jnp.int32)
    number_BT = jnp.pad(number_BT, ((0, 0), (0, rest)))
    args = [heads_first(x) for x in (q_BTNH * jnp.asarray(H**-0.5, q_BTNH.dtype), k_BTKH, v_BTKH)]
    if isolated or (rest and not causal):
        out_BNTH = jax.vmap(run)(*args, kernel.SegmentIds(number_BT, number_BT))
    else:
        out_BNTH = jax.vmap(run)(*args)
    return jnp.swapaxes(out_BNTH, 1, 2)[:, :T].astype(q_BTNH.dtype)


# ---- a kernel tried before it is used ------------------------------------------------------------------


@functools.cache
def works(kernel: Callable[..., jax.Array], groups: int, H: int, dtype: str, **how: Any) -> bool:
    """Whether `kernel` gives what XLA gives on this machine, in a small case: values and gradients.

    Where it does not, a warning says why. In a thread of its own: the caller is being traced, and may be in
    a mesh.
    """
    with ThreadPoolExecutor(1) as thread:
        fault = thread.submit(_fault, kernel, groups, H, dtype, how).result()
    if fault is not None:
        warnings.warn(
            f"attention: {kernel.__name__} is not used for {dtype}, {groups} heads a key head of {H}, {how}: "
            f"{fault}; XLA's attention is",
            stacklevel=2,
        )
    return fault is None


def _fault(kernel: Callable[..., jax.Array], groups: int, H: int, dtype: str, how: dict) -> str | None:
    """What is wrong with `kernel`, if anything."""
    random, T, K = np.random.default_rng(0), TRIED, 2
    q_BTNH, k_BTKH, v_BTKH, g_BTNH = (
        jnp.asarray(random.standard_normal((2, T, n, H)), dtype) for n in (groups * K, K, K, groups * K)
    )
    documents_BT = jnp.asarray(np.cumsum(random.random((2, T)) < 0.02, axis=1)) if how["isolated"] else None
    seen = xla.seen(documents_BT, how["window"], 1, how["causal"], T)

    def both(run):
        """Attention and its gradients, on the host."""

        def f(q_BTNH, k_BTKH, v_BTKH, g_BTNH, *seen):
            out, back = jax.vjp(lambda *x: run(*x, *seen), q_BTNH, k_BTKH, v_BTKH)
            return jax.tree.map(lambda x: x.astype(jnp.float32), (out, *back(g_BTNH)))

        return jax.device_get(jax.jit(f)(q_BTNH, k_BTKH, v_BTKH, g_BTNH, *seen))

    try:
        ours = both(functools.partial(kernel, **how))
    except Exception as error:  # whatever stands in its way: versions, the device, shapes
        return f"{type(error).__name__}: {str(error)[:200]}"
    far = np.max(
        [np.max(np.abs(a - b)) / np.max(np.abs(b)) for a, b in zip(ours, both(xla.whole), strict=True)]
    )
    return None if far < NEAR else f"its results are {far:.2g} of the largest entry from XLA's"
