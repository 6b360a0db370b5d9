"""From the bytes of each word to P vectors, packed: no canvas of [W, C], no matrix of [T, W].

A pooling offers ``packed(x_BTD, layout, words, key)``, [B, W, P, D], for whole rows, and ``one(x_BCD,
size_B)``, [B, P, D], for one word a row, whose first ``size_B`` places are filled. Both give the same.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from einops import rearrange
from flax import nnx

from bytelm import layers, sharding
from bytelm.attention import attend
from bytelm.layers import Block, Sizes
from bytelm.models.words_layout import Layout
from bytelm.parameters import param, stack

_NEVER = -1e30


class Last(nnx.Module):
    """A word is what the encoder makes of its last byte (as SpaceByte, Slagle, arXiv 2404.14408)."""

    def packed(self, x_BTD: jax.Array, layout: Layout, words: int, key: Any = None) -> jax.Array:
        return jnp.take_along_axis(x_BTD, layout.last_BW[..., None], axis=1)[:, :, None]

    def one(self, x_BCD: jax.Array, size_B: jax.Array) -> jax.Array:
        return jnp.take_along_axis(x_BCD, jnp.maximum(size_B - 1, 0)[:, None, None], axis=1)


class Mean(nnx.Module):
    """A word is the mean of its bytes."""

    def packed(self, x_BTD: jax.Array, layout: Layout, words: int, key: Any = None) -> jax.Array:
        sum_BWD = _segments(jax.ops.segment_sum, x_BTD.astype(jnp.float32), layout.word_BT, words)
        count_BW = _segments(jax.ops.segment_sum, jnp.ones_like(layout.word_BT), layout.word_BT, words)
        return (sum_BWD / jnp.maximum(count_BW, 1)[..., None]).astype(x_BTD.dtype)[:, :, None]

    def one(self, x_BCD: jax.Array, size_B: jax.Array) -> jax.Array:
        inside_BC = jnp.arange(x_BCD.shape[1]) < size_B[:, None]
        sum_BD = jnp.sum(jnp.where(inside_BC[..., None], x_BCD.astype(jnp.float32), 0.0), axis=1)
        return (sum_BD / jnp.maximum(size_B, 1)[:, None]).astype(x_BCD.dtype)[:, None]


class Attention(nnx.Module):
    """P learned queries attend to the bytes of a word: a softmax over its segment (Byte2Word, Lee et al.,
    arXiv 2211.12677, which fixes neither heads nor sizes; these are ours).

    Each query gives a vector of the bytes' width; with `width` all of them together give one, of that width.
    """

    def __init__(self, sizes: Sizes, vectors: int, key: jax.Array, width: int | None = None):
        D, N, H = sizes.width, sizes.heads, sizes.head_width
        one, two, three, four = jax.random.split(key, 4)
        self.norm = layers.RMSNorm(D)
        self.query = param(one, (vectors, N, H), (None, "heads", None))
        self.key = param(two, (D, N, H), ("embed", "heads", None), inputs=1)
        self.value = param(three, (D, N, H), ("embed", "heads", None), inputs=1)
        if width is None:
            self.out = param(four, (N, H, D), ("heads", None, "embed"), inputs=2)
        else:
            self.out = param(four, (vectors, N, H, width), (None, "heads", None, "embed"), inputs=3)
        self.joined = width is not None

    def packed(self, x_BTD: jax.Array, layout: Layout, words: int, key: Any = None) -> jax.Array:
        score_BTNP, v_BTNH = self._read(x_BTD)
        N, P = score_BTNP.shape[2:]
        word_BT = layout.word_BT
        within = jnp.minimum(word_BT, words - 1)[..., None]

        def spread(x_BWM: jax.Array) -> jax.Array:
            return jnp.take_along_axis(x_BWM, within, axis=1)

        score_BTM = rearrange(score_BTNP, "B T N P -> B T (N P)")
        top_BWM = _segments(jax.ops.segment_max, jax.lax.stop_gradient(score_BTM), word_BT, words)
        has_room = (word_BT < words)[..., None]
        share_BTM = jnp.exp(jnp.where(has_room, score_BTM - spread(top_BWM), 0.0))
        sum_BWM = _segments(jax.ops.segment_sum, share_BTM, word_BT, words)
        share_BTNP1 = rearrange(share_BTM, "B T (N P) -> B T N P 1", N=N)
        heard_BTNPH = share_BTNP1 * v_BTNH[:, :, :, None].astype(jnp.float32)
        heard_BTD = rearrange(heard_BTNPH, "B T N P H -> B T (N P H)")
        heard_BWD = _segments(jax.ops.segment_sum, heard_BTD, word_BT, words)
        a_BWNPH = rearrange(heard_BWD, "B W (N P H) -> B W N P H", N=N, P=P)
        sum_BWNP1 = rearrange(sum_BWM, "B W (N P) -> B W N P 1", N=N)
        return self._finish((a_BWNPH / jnp.maximum(sum_BWNP1, 1e-30)).astype(x_BTD.dtype))

    def one(self, x_BCD: jax.Array, size_B: jax.Array) -> jax.Array:
        score_BCNP, v_BCNH = self._read(x_BCD)
        inside_BC = jnp.arange(x_BCD.shape[1]) < size_B[:, None]
        share_BCNP = jax.nn.softmax(jnp.where(inside_BC[..., None, None], score_BCNP, _NEVER), axis=1)
        a_BNPH = jnp.einsum("BCNP,BCNH->BNPH", share_BCNP, v_BCNH.astype(jnp.float32))
        return self._finish(a_BNPH.astype(x_BCD.dtype))

    def _read(self, x_BTD: jax.Array) -> tuple[jax.Array, jax.Array]:
        x_BTD = self.norm(x_BTD)
        k_BTNH, v_BTNH = (layers.split_heads(x_BTD, w[...]) for w in (self.key, self.value))
        q_PNH = self.query[...] / math.sqrt(self.query.shape[-1])
        return jnp.einsum("BTNH,PNH->BTNP", k_BTNH.astype(jnp.float32), q_PNH), v_BTNH

    def _finish(self, a_NPH: jax.Array) -> jax.Array:
        # Heads before queries: what a mesh has cut by heads, it need not put together.
        if self.joined:
            a_1M = rearrange(a_NPH, "... N P H -> ... 1 (N P H)")
            return layers.linear(a_1M, rearrange(self.out[...], "P N H D -> (N P H) D"))
        a_PM = rearrange(a_NPH, "... N P H -> ... P (N H)")
        return layers.linear(a_PM, rearrange(self.out[...], "N H D -> (N H) D"))


class Prefix(nnx.Module):
    """P learned vectors stand before the bytes of a word, layers of attention run both ways within it, and
    what they make of the P vectors is the word (Learn Your Tokens, Thawani et al., arXiv 2310.11628).

    Rows are laid out anew with P more places a word, T + P W in all: still packed.
    """

    def __init__(self, sizes: Sizes, vectors: int, depth: int, cap: int, key: jax.Array):
        one, two = jax.random.split(key)
        self.vectors = param(one, (vectors, sizes.width), (None, None), scale=0.5)
        self.blocks = stack(lambda k: Block(sizes, k), depth, two)
        self.depth, self.reach = depth, cap + vectors

    def packed(self, x_BTD: jax.Array, layout: Layout, words: int, key: Any = None) -> jax.Array:
        (B, _, D), P = x_BTD.shape, self.vectors.shape[0]
        places = with_prefixes(layout, words, P)
        vectors_BWPD = jnp.broadcast_to(self.vectors[...].astype(x_BTD.dtype), (B, words, P, D))
        return places.prefixes(self._run(places.merge(x_BTD, vectors_BWPD), places.word_BS, key))

    def one(self, x_BCD: jax.Array, size_B: jax.Array) -> jax.Array:
        (B, C, D), P = x_BCD.shape, self.vectors.shape[0]
        prefix_BPD = jnp.broadcast_to(self.vectors[...].astype(x_BCD.dtype), (B, P, D))
        place_C = jnp.arange(P + C)
        word_BC = jnp.where(place_C < P + size_B[:, None], 0, place_C)
        return self._run(jnp.concatenate([prefix_BPD, x_BCD], axis=1), word_BC, None)[:, :P]

    def _run(self, x_BSD: jax.Array, word_BS: jax.Array, key: Any) -> jax.Array:
        position_1S = jnp.arange(x_BSD.shape[1])[None]

        def layer(x_BSD: jax.Array, per_layer: Any):
            block, key = per_layer
            x_BSD = sharding.constrain(x_BSD, "batch", None, None)
            q, k, v = block.project(x_BSD, position_1S)
            a_BSNH = attend(q, k, v, word_BS, max(self.reach, 32), causal=False)
            return block.finish(x_BSD, a_BSNH, key), None

        keys = None if key is None else jax.random.split(key, self.depth)
        return jax.lax.scan(layer, x_BSD, (self.blocks, keys))[0]


class Places(NamedTuple):
    """Rows laid out anew, P places before each word: what lies where, S = T + P W."""

    at_BT: Any  # where each symbol goes
    at_BWP: Any  # where the places before each word are
    from_BS: Any  # what comes where: of the symbols, and after those the places of all words
    word_BS: Any  # of which word

    def merge(self, x_BTD: jax.Array, before_BWPD: jax.Array) -> jax.Array:
        """Symbols and what stands before the words, [B, S, D]."""
        x_BSD = jnp.concatenate([x_BTD, rearrange(before_BWPD, "B W P D -> B (W P) D")], axis=1)
        return jnp.take_along_axis(x_BSD, self.from_BS[..., None], axis=1)

    def prefixes(self, x_BSD: jax.Array) -> jax.Array:
        """[B, W, P, D], of the places before the words."""
        B, W, P = self.at_BWP.shape
        return jnp.take_along_axis(x_BSD, self.at_BWP.reshape(B, -1, 1), axis=1).reshape(B, W, P, -1)

    def symbols(self, x_BSD: jax.Array) -> jax.Array:
        """[B, T, D], of the symbols."""
        return jnp.take_along_axis(x_BSD, self.at_BT[..., None], axis=1)


def with_prefixes(layout: Layout, words: int, P: int) -> Places:
    """Where all of it lies. Words that a row does not have begin at its end; each place is taken once."""
    B, T = layout.word_BT.shape
    start_BW = jnp.pad(layout.last_BW[:, :-1] + 1, ((0, 0), (1, 0)))
    at_BT = jnp.arange(T) + P * jnp.minimum(layout.word_BT + 1, words)
    at_BWP = start_BW[..., None] + P * jnp.arange(words)[:, None] + jnp.arange(P)
    at_BS = jnp.concatenate([at_BT, at_BWP.reshape(B, -1)], axis=1)
    # Row by row, and not by pairs of row and place, so that a mesh that cuts the batch has nothing to send.
    inverse = jax.vmap(lambda at_S: jnp.zeros_like(at_S).at[at_S].set(jnp.arange(T + P * words)))
    from_BS = inverse(at_BS)
    of_place_BM = jnp.broadcast_to(jnp.repeat(jnp.arange(words), P), (B, words * P))
    word_BS = jnp.take_along_axis(jnp.concatenate([layout.word_BT, of_place_BM], axis=1), from_BS, axis=1)
    return Places(at_BT, at_BWP, from_BS, word_BS)


def _segments(how: Any, x_BTD: jax.Array, word_BT: jax.Array, words: int) -> jax.Array:
    """A reduction over the symbols of each word: [B, W, ...]; words without room are left out."""
    run = jax.vmap(lambda x, word: how(x, word, words, indices_are_sorted=True))
    return run(x_BTD, word_BT)
