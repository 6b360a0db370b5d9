"""Layers with LayerNorm and a plain feed-forward part: GPT-2's, and the original Transformer's."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from bytelm import layers, sharding
from bytelm.attention import attend
from bytelm.parameters import param


class Block(nnx.Module):
    """A layer as GPT-2's (pre-norm, GELU) or as the original Transformer's (post-norm, ReLU)."""

    def __init__(self, width: int, heads: int, hidden: int, rate: float, post: bool, key: jax.Array):
        D, N, H = width, heads, width // heads
        a, b, c, d, e, f = jax.random.split(key, 6)
        self.query, self.key, self.value = (
            param(k, (D, N, H), ("embed", "heads", None), inputs=1) for k in (a, b, c)
        )
        self.out = param(d, (N, H, D), ("heads", None, "embed"), inputs=2, scale=0.5)
        self.wide = param(e, (D, hidden), ("embed", "mlp"), inputs=1)
        self.bias = param(None, (hidden,), ("mlp",), scale=0.0)
        self.down = param(f, (hidden, D), ("mlp", "embed"), inputs=1, scale=0.5)
        self.norm_attention, self.norm_mlp = LayerNorm(D), LayerNorm(D)
        self.rate, self.post = rate, post

    def project(self, x_BTD: jax.Array) -> tuple[jax.Array, ...]:
        h_BTD = x_BTD if self.post else self.norm_attention(x_BTD)
        return tuple(layers.split_heads(h_BTD, w[...]) for w in (self.query, self.key, self.value))

    def finish(self, x_BTD: jax.Array, a_BTNH: jax.Array, key: jax.Array | None) -> jax.Array:
        one, two = (None, None) if key is None else jax.random.split(key)
        x_BTD = x_BTD + layers.dropout(layers.merge_heads(a_BTNH, self.out[...]), self.rate, one)
        x_BTD = self.norm_attention(x_BTD) if self.post else x_BTD
        h_BTD = x_BTD if self.post else self.norm_mlp(x_BTD)
        h_BTF = layers.linear(h_BTD, self.wide[...]) + self.bias[...].astype(h_BTD.dtype)
        h_BTF = jax.nn.relu(h_BTF) if self.post else jax.nn.gelu(h_BTF)
        x_BTD = x_BTD + layers.dropout(layers.linear(h_BTF, self.down[...]), self.rate, two)
        return self.norm_mlp(x_BTD) if self.post else x_BTD


class LayerNorm(nnx.Module):
    """Over the last axis, in float32 (Ba et al., arXiv 1607.06450)."""

    def __init__(self, width: int):
        self.scale, self.shift = param(None, (width,), (None,)), param(None, (width,), (None,), scale=0.0)

    def __call__(self, x: jax.Array) -> jax.Array:
        x32 = x.astype(jnp.float32)
        x32 = x32 - jnp.mean(x32, axis=-1, keepdims=True)
        x32 = x32 * jax.lax.rsqrt(jnp.mean(x32 * x32, axis=-1, keepdims=True) + 1e-5)
        return (x32 * self.scale[...] + self.shift[...]).astype(x.dtype)


def run(blocks: Any, x_BTD: jax.Array, key: jax.Array | None, **how: Any) -> jax.Array:
    """A stack of layers over rows; `how` is for `bytelm.attention.attend`."""

    def layer(x_BTD: jax.Array, per_layer: Any) -> Any:
        block, key = per_layer
        x_BTD = sharding.constrain(x_BTD, "batch", None, None)
        return block.finish(x_BTD, attend(*block.project(x_BTD), **how), key), None

    depth = jax.tree.leaves(blocks)[0].shape[0]
    keys = None if key is None else jax.random.split(key, depth)
    return jax.lax.scan(layer, x_BTD, (blocks, keys))[0]
