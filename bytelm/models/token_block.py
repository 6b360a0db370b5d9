"""The layers of the tokenized decoder: norms, attention's projections, feed-forward, residuals."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from einops import rearrange
from flax import nnx

from bytelm import layers
from bytelm.models import rotary
from bytelm.models.token_lm_config import Activation, TokenLMConfig
from bytelm.parameters import param

_ACTIVATIONS: dict[Activation, Callable[[jax.Array], jax.Array]] = {
    "silu": jax.nn.silu,
    "gelu": lambda x: jax.nn.gelu(x, approximate=False),
    "gelu_tanh": lambda x: jax.nn.gelu(x, approximate=True),
    "relu": jax.nn.relu,
}
_NEVER = -1e30  # the score of a masked pair: finite, so that a row of them is not NaN


class Norm(nnx.Module):
    """Norm over the last axis, in float32, of one of three kinds.

    ``rms`` (Zhang and Sennrich, arXiv 1910.07467); ``rms_plus_one``, which stores the scale less one
    (Gemma); ``layer``, with a bias (Ba et al., arXiv 1607.06450).
    """

    def __init__(self, width: int, config: TokenLMConfig, kind: str | None = None):
        self.kind = kind or config.norm
        self.scale = param(None, (width,), (None,), scale=0.0 if self.kind == "rms_plus_one" else 1.0)
        self.bias = param(None, (width,), (None,), scale=0.0) if self.kind == "layer" else None
        self.epsilon = config.norm_epsilon

    def __call__(self, x: jax.Array) -> jax.Array:
        x32 = x.astype(jnp.float32)
        if self.kind == "layer":
            x32 = x32 - jnp.mean(x32, axis=-1, keepdims=True)
        x32 = x32 * jax.lax.rsqrt(jnp.mean(x32 * x32, axis=-1, keepdims=True) + self.epsilon)
        scale = self.scale[...].astype(jnp.float32)
        x32 = x32 * (1.0 + scale if self.kind == "rms_plus_one" else scale)
        return (x32 if self.bias is None else x32 + self.bias[...].astype(jnp.float32)).astype(x.dtype)


class FeedForward(nnx.Module):
    """``act(x A) B``, or gated, ``(act(x G) * x A) B`` (Shazeer, arXiv 2002.05202); biases by choice."""

    def __init__(self, config: TokenLMConfig, key: jax.Array):
        D, F = config.width, config.F
        a, b = jax.random.split(key)
        self.gate = param(a, (D, F), ("embed", "mlp"), inputs=1) if config.gated else None
        self.up = param(b, (D, F), ("embed", "mlp"), inputs=1)
        self.down = param(None, (F, D), ("mlp", "embed"), inputs=1, scale=0.0)
        bias = config.mlp_bias
        self.gate_bias = _bias((F,), ("mlp",)) if bias and config.gated else None
        self.up_bias = _bias((F,), ("mlp",)) if bias else None
        self.down_bias = _bias((D,), (None,)) if bias else None
        self.activation = config.activation

    def __call__(self, x_BTD: jax.Array) -> jax.Array:
        act = _ACTIVATIONS[self.activation]
        h_BTF = _add(layers.linear(x_BTD, self.up[...]), self.up_bias)
        if self.gate is None:
            h_BTF = act(h_BTF)
        else:
            h_BTF = act(_add(layers.linear(x_BTD, self.gate[...]), self.gate_bias)) * h_BTF
        return _add(layers.linear(h_BTF, self.down[...]), self.down_bias)


class Block(nnx.Module):
    """One layer: attention and feed-forward, one after the other or side by side, added to the stream."""

    def __init__(self, config: TokenLMConfig, key: jax.Array):
        c, D, N, K, H = config, config.width, config.heads, config.K, config.H
        keys = jax.random.split(key, 4)
        self.norm_attention, self.norm_mlp = Norm(D, c), Norm(D, c)
        self.query = param(keys[0], (D, N, H), ("embed", "heads", None), inputs=1)
        self.key = param(keys[1], (D, K, H), ("embed", "heads", None), inputs=1)
        self.value = param(keys[2], (D, K, H), ("embed", "heads", None), inputs=1)
        # Starting at zero, a layer adds nothing to the stream until it has learned what to add.
        self.out = param(None, (N, H, D), ("heads", None, "embed"), inputs=2, scale=0.0)
        self.query_bias = _bias((N, H), ("heads", None)) if c.qkv_bias else None
        self.key_bias = _bias((K, H), ("heads", None)) if c.qkv_bias else None
        self.value_bias = _bias((K, H), ("heads", None)) if c.qkv_bias else None
        self.out_bias = _bias((D,), (None,)) if c.out_bias else None
        self.norm_query = Norm(H, c, "rms") if c.qk_norm else None
        self.norm_key = Norm(H, c, "rms") if c.qk_norm else None
        self.post_attention = Norm(D, c) if c.post_norms else None
        self.post_mlp = Norm(D, c) if c.post_norms else None
        self.mlp = FeedForward(c, keys[3])
        self.config = c

    def project(self, x_BTD: jax.Array, cos_sin) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Queries [B, T, N, H], keys and values [B, T, K, H] of normed inputs, positions applied."""
        h_BTD = self.norm_attention(x_BTD)
        q_BTNH = _add(layers.split_heads(h_BTD, self.query[...]), self.query_bias)
        k_BTKH = _add(layers.split_heads(h_BTD, self.key[...]), self.key_bias)
        v_BTKH = _add(layers.split_heads(h_BTD, self.value[...]), self.value_bias)
        if self.norm_query is not None and self.norm_key is not None:
            q_BTNH, k_BTKH = self.norm_query(q_BTNH), self.norm_key(k_BTKH)
        if cos_sin is not None:
            q_BTNH, k_BTKH = rotary.turn(q_BTNH, cos_sin), rotary.turn(k_BTKH, cos_sin)
        return q_BTNH, k_BTKH, v_BTKH

    def finish(self, x_BTD: jax.Array, a_BTNH: jax.Array, key: jax.Array | None = None) -> jax.Array:
        """The rest of the layer, given what attention found."""
        rate = self.config.dropout
        one, two = (None, None) if key is None else jax.random.split(key)
        a_BTD = _add(layers.merge_heads(a_BTNH, self.out[...]), self.out_bias)
        if self.post_attention is not None:
            a_BTD = self.post_attention(a_BTD)
        a_BTD = layers.dropout(a_BTD, rate, one)
        h_BTD = self.mlp(self.norm_mlp(x_BTD if self.config.parallel else x_BTD + a_BTD))
        if self.post_mlp is not None:
            h_BTD = self.post_mlp(h_BTD)
        return x_BTD + a_BTD + layers.dropout(h_BTD, rate, two)


def attend_masked(
    q_BTNH: jax.Array,
    k_BKSH: jax.Array,
    v_BKSH: jax.Array,
    mask_BTS: jax.Array,
    scale: float,
    softcap: float | None,
) -> jax.Array:
    """Attention of queries over keys that a mask names, [B, T, N, H]; the general form.

    `mask_BTS` may have one row for all. Scores are multiplied by `scale`; with `softcap` c they become
    ``c tanh(score / c)`` (Gemma 2, arXiv 2408.00118). A query that sees nothing gives a number without
    meaning, not NaN.
    """
    T, K = q_BTNH.shape[1], k_BKSH.shape[1]
    q_BKRH = rearrange(q_BTNH, "B T (K G) H -> B K (G T) H", K=K)
    score_BKRS = jnp.einsum("BKRH,BKSH->BKRS", q_BKRH, k_BKSH, preferred_element_type=jnp.float32) * scale
    if softcap is not None:
        score_BKRS = softcap * jnp.tanh(score_BKRS / softcap)
    score_BKGTS = rearrange(score_BKRS, "B K (G T) S -> B K G T S", T=T)
    score_BKGTS = jnp.where(mask_BTS[:, None, None], score_BKGTS, _NEVER)
    share_BKRS = rearrange(jax.nn.softmax(score_BKGTS, axis=-1), "B K G T S -> B K (G T) S")
    out_BKRH = jnp.einsum("BKRS,BKSH->BKRH", share_BKRS.astype(v_BKSH.dtype), v_BKSH)
    return rearrange(out_BKRH, "B K (G T) H -> B T (K G) H", T=T)


def _bias(shape: tuple[int, ...], names: tuple[str | None, ...]) -> nnx.Param:
    return param(None, shape, names, scale=0.0)


def _add(x: jax.Array, bias: nnx.Param | None) -> jax.Array:
    return x if bias is None else x + bias[...].astype(x.dtype)
