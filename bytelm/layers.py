"""The small layers that the models share, and the block of all our Transformers."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from einops import rearrange
from flax import nnx

from bytelm.parameters import param


@jax.custom_vjp
def linear(x_I: jax.Array, w_IO: jax.Array) -> jax.Array:
    """``x @ w``, [..., I] times [I, O], in the type of `x`.

    Its own rule for the gradient of `w` only chooses which of the two activations is transposed for the
    product: the narrower. XLA's CPU code transposes the first operand, together with all the arithmetic
    that made it, in strides of its width; for the hidden layer of a feed-forward block that took longer
    than the product itself.
    """
    return x_I @ w_IO.astype(x_I.dtype)


def _linear_forward(x_I, w_IO):
    return linear(x_I, w_IO), (x_I, w_IO)


def _linear_backward(saved, grad_O):
    x_I, w_IO = saved
    dx_I = grad_O @ w_IO.astype(grad_O.dtype).T
    x_RI, grad_RO = x_I.reshape(-1, x_I.shape[-1]), grad_O.reshape(-1, grad_O.shape[-1])
    narrow = w_IO.shape[0] <= w_IO.shape[1]
    dw_IO = jnp.einsum("RI,RO->IO", x_RI, grad_RO) if narrow else jnp.einsum("RO,RI->OI", grad_RO, x_RI).T
    return dx_I, dw_IO.astype(w_IO.dtype)


linear.defvjp(_linear_forward, _linear_backward)


def split_heads(x_BTD: jax.Array, w_DNH: jax.Array) -> jax.Array:
    """Projects into heads: [B, T, N, H]."""
    y_BTM = linear(x_BTD, rearrange(w_DNH, "D N H -> D (N H)"))
    return rearrange(y_BTM, "B T (N H) -> B T N H", H=w_DNH.shape[-1])


def merge_heads(x_BTNH: jax.Array, w_NHD: jax.Array) -> jax.Array:
    """Projects out of heads: [B, T, D]."""
    return linear(rearrange(x_BTNH, "B T N H -> B T (N H)"), rearrange(w_NHD, "N H D -> (N H) D"))


class RMSNorm(nnx.Module):
    """Root-mean-square norm over the last axis, in float32 (Zhang and Sennrich, arXiv 1910.07467)."""

    def __init__(self, width: int, epsilon: float = 1e-6):
        self.scale = param(None, (width,), (None,))
        self.epsilon = epsilon

    def __call__(self, x: jax.Array) -> jax.Array:
        x32 = x.astype(jnp.float32)
        x32 = x32 * jax.lax.rsqrt(jnp.mean(x32 * x32, axis=-1, keepdims=True) + self.epsilon)
        return (x32 * self.scale[...]).astype(x.dtype)


class SwiGLU(nnx.Module):
    """Gated feed-forward layer ``(silu(x A) * x B) C`` (Shazeer, arXiv 2002.05202, eq. 6)."""

    def __init__(self, width: int, hidden: int, key: jax.Array):
        a, b = jax.random.split(key)
        self.gate = param(a, (width, hidden), ("embed", "mlp"), inputs=1)
        self.up = param(b, (width, hidden), ("embed", "mlp"), inputs=1)
        self.down = param(None, (hidden, width), ("mlp", "embed"), inputs=1, scale=0.0)

    def __call__(self, x_BTD: jax.Array) -> jax.Array:
        h_BTF = jax.nn.silu(linear(x_BTD, self.gate[...])) * linear(x_BTD, self.up[...])
        return linear(h_BTF, self.down[...])


def dropout(x: jax.Array, rate: float, key: jax.Array | None) -> jax.Array:
    """`x` with a share `rate` of its entries zero and the rest scaled up; `x` itself without a key."""
    if key is None or rate == 0.0:
        return x
    return jnp.where(jax.random.bernoulli(key, 1.0 - rate, x.shape), x / (1.0 - rate), 0.0).astype(x.dtype)


def rope(x_BTNH: jax.Array, position_BT: jax.Array, base: float) -> jax.Array:
    """Rotary positions (Su et al., arXiv 2104.09864), halves of the head rotated against each other.

    `position_BT` may be [T] or [1, T] where rows share their positions.
    """
    half = x_BTNH.shape[-1] // 2
    frequency_h = base ** (-jnp.arange(half, dtype=jnp.float32) / half)
    angle_BT1h = position_BT[..., None, None].astype(jnp.float32) * frequency_h
    cos, sin = jnp.cos(angle_BT1h), jnp.sin(angle_BT1h)
    a, b = jnp.split(x_BTNH.astype(jnp.float32), 2, axis=-1)
    return jnp.concatenate([a * cos - b * sin, a * sin + b * cos], axis=-1).astype(x_BTNH.dtype)


# ---- the layer of all our Transformers -------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Sizes:
    """Sizes of a `Block`."""

    width: int  # D
    heads: int  # N
    key_heads: int  # K
    head_width: int  # H
    mlp_width: int  # F
    rope_base: float
    dropout: float

    @property
    def cuts(self) -> dict[str, tuple[str, int]]:
        """What a mesh cuts: name -> (name of `bytelm.sharding.RULES`, size)."""
        return {
            "heads": ("heads", self.heads),
            "key_heads": ("heads", self.key_heads),
            "width": ("embed", self.width),
            "mlp_width": ("mlp", self.mlp_width),
        }

    def flops(self, seen: float) -> float:
        """Operations of the forward pass, a position that sees `seen` positions on average."""
        D, N, K, H = self.width, self.heads, self.key_heads, self.head_width
        return 2.0 * (D * H * 2 * (N + K) + 3 * D * self.mlp_width + 2 * N * H * seen)


def seen(length: int, window: int | None = None) -> float:
    """How many positions one of `length` sees on average, itself and earlier ones, at most `window`."""
    w = min(window or length, length)
    return (w * (w + 1) / 2 + (length - w) * w) / length


class Block(nnx.Module):
    """One pre-norm layer: attention, then SwiGLU, each added to the stream."""

    def __init__(self, sizes: Sizes, key: jax.Array):
        D, N, K, H = sizes.width, sizes.heads, sizes.key_heads, sizes.head_width
        keys = jax.random.split(key, 4)
        self.norm_attention = RMSNorm(D)
        self.query = param(keys[0], (D, N, H), ("embed", "heads", None), inputs=1)
        self.key = param(keys[1], (D, K, H), ("embed", "heads", None), inputs=1)
        self.value = param(keys[2], (D, K, H), ("embed", "heads", None), inputs=1)
        # Starting at zero, a layer adds nothing to the stream until it has learned what to add.
        self.out = param(None, (N, H, D), ("heads", None, "embed"), inputs=2, scale=0.0)
        self.norm_query, self.norm_key = RMSNorm(H), RMSNorm(H)
        self.norm_mlp = RMSNorm(D)
        self.mlp = SwiGLU(D, sizes.mlp_width, keys[3])
        self.sizes = sizes

    def project(self, x_BTD: jax.Array, position_BT: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Queries [B, T, N, H], keys and values [B, T, K, H] of normed inputs, positions applied."""
        base, h_BTD = self.sizes.rope_base, self.norm_attention(x_BTD)
        q_BTNH, k_BTKH, v_BTKH = (split_heads(h_BTD, w[...]) for w in (self.query, self.key, self.value))
        q_BTNH = rope(self.norm_query(q_BTNH), position_BT, base)
        k_BTKH = rope(self.norm_key(k_BTKH), position_BT, base)
        return q_BTNH, k_BTKH, v_BTKH

    def finish(self, x_BTD: jax.Array, a_BTNH: jax.Array, key: jax.Array | None = None) -> jax.Array:
        """The rest of the layer, given what attention found."""
        rate = self.sizes.dropout
        one, two = (None, None) if key is None else jax.random.split(key)
        a_BTD = merge_heads(a_BTNH, self.out[...])
        x_BTD = x_BTD + dropout(a_BTD, rate, one)
        return x_BTD + dropout(self.mlp(self.norm_mlp(x_BTD)), rate, two)


def compute_dtype(name: str) -> Any:
    """The type that a config's ``dtype`` means; "auto" is float32 on CPU and bfloat16 elsewhere."""
    if name == "auto":
        return jnp.float32 if jax.default_backend() == "cpu" else jnp.bfloat16
    return jnp.dtype(name)


def documents_or_one(documents_BT: jax.Array | None, symbols_BT: jax.Array) -> jax.Array:
    """The documents of symbols, int32 [B, T]; 1 everywhere where they are not told apart."""
    return jnp.ones(symbols_BT.shape, jnp.int32) if documents_BT is None else documents_BT


def remat(layer: Callable[..., Any], what: str) -> Callable[..., Any]:
    """`layer`, of which the backward pass computes again all ("full"), all but products with weights
    ("dots"), or nothing ("none")."""
    if what == "none":
        return layer
    policy = jax.checkpoint_policies.dots_with_no_batch_dims_saveable
    return jax.checkpoint(layer, policy=policy if what == "dots" else None)
