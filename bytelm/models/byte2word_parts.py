"""What the models of Byte2Word share: sizes, the encoder of words, a stack over words, slots."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import nnx

from bytelm import layers, sharding, words
from bytelm.attention import attend
from bytelm.layers import Block, Sizes
from bytelm.lm import LAW, NUM_SYMBOLS
from bytelm.models.pooling import Attention
from bytelm.models.sizes import Ruled, Stacked, check_heads, check_positive, check_rotary
from bytelm.models.words_layout import Layout
from bytelm.parameters import param

STOP = LAW  # the end of a word, the last of 258 outputs


@dataclasses.dataclass(frozen=True)
class StackSizes(Stacked, Ruled):
    """Sizes of words, and of a stack over vectors; None takes the usual proportion."""

    rule: str = "closing"
    cap: int = words.CAP  # C, most symbols of a word
    layers: int = 8
    width: int = 512
    heads: int = 8
    key_heads: int | None = None  # default: as many as heads
    head_width: int | None = None  # default: width / heads
    mlp_width: int | None = None  # default: 8/3 width, rounded up to a multiple of 64
    slot_width: int | None = None  # hidden width of what predicts an output; default: width
    isolate_documents: bool = True
    dropout: float = 0.0
    rope_base: float = 10_000.0
    remat: Literal["none", "dots", "full"] = "none"  # what is computed again in the backward pass
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"  # of the compute; auto: float32 on CPU

    def __post_init__(self) -> None:
        self.check_stack("slot_width")
        self.check_rule()
        check_rotary("head_width", self.H)

    @property
    def hidden(self) -> int:
        """F, the hidden width of what predicts an output."""
        return self.slot_width or self.width

    @property
    def cuts(self) -> dict[str, tuple[str, int]]:
        """Sizes that a mesh cuts: name -> (name of `bytelm.sharding.RULES`, size)."""
        return self.sizes.cuts | {"slot_width": ("mlp", self.hidden)}

    def slot_flops(self, outputs: int) -> float:
        """Of one prediction among `outputs`."""
        return 2.0 * (self.width * self.hidden + self.hidden * outputs)


@dataclasses.dataclass(frozen=True)
class WordSizes(StackSizes):
    """And of the encoder of words."""

    words: int = 512  # W, most words of a row; bytes that would need more carry no loss
    byte_width: int = 128
    byte_heads: int = 2
    queries: int = 1  # M, of the cross-attention that makes a word of its bytes

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(self, "words", "byte_width", "byte_heads", "queries")
        check_heads(self, "byte_")

    @property
    def byte_sizes(self) -> Sizes:
        """Of the cross-attention; it has no feed-forward layer."""
        D, N = self.byte_width, self.byte_heads
        return Sizes(D, N, N, D // N, 1, self.rope_base, 0.0)

    @property
    def cuts(self) -> dict[str, tuple[str, int]]:
        return super().cuts | {
            "byte_width": ("embed", self.byte_width),
            "byte_heads": ("heads", self.byte_heads),
        }

    def encoder_flops(self, length: int) -> float:
        """Of the encoder of words, a byte, in rows of `length` bytes with all W words."""
        D, M = self.byte_width, self.queries
        return 2.0 * (2 * D * D + 2 * M * D + min(self.words, length) / length * M * D * self.width)


class WordEncoder(nnx.Module):
    """The vector of a word from its bytes alone: e_j = E[b_j] + p_j, and learned queries that attend to them,
    with one output projection and no feed-forward layer (Byte2Word, Lee et al., arXiv 2211.12677)."""

    def __init__(self, config: WordSizes, key: jax.Array):
        c, D = config, config.byte_width
        one, two, three = jax.random.split(key, 3)
        self.table = param(one, (NUM_SYMBOLS, D), (None, None), scale=0.02)
        self.places = param(two, (c.cap, D), (None, None), scale=0.02)
        self.pool = Attention(c.byte_sizes, c.queries, three, width=c.width)
        self.dtype = c.dtype

    def packed(self, symbols_BT: jax.Array, layout: Layout, words: int) -> jax.Array:
        """The vectors of the words of whole rows, [B, W, D]."""
        return self.pool.packed(self.embed(symbols_BT, layout.place_BT), layout, words)[:, :, 0]

    def one(self, symbols_BC: jax.Array, size_B: jax.Array) -> jax.Array:
        """The vector of one word a row, its first `size_B` symbols, [B, D]."""
        return self.pool.one(self.embed(symbols_BC, jnp.arange(symbols_BC.shape[1])), size_B)[:, 0]

    def embed(self, symbols_BT: jax.Array, place_BT: jax.Array) -> jax.Array:
        dtype = layers.compute_dtype(self.dtype)
        # Whole on every device, and so are their gradients, which otherwise a mesh may cut by columns,
        # sending all activations for it.
        table_VD, place_CD = (
            sharding.constrain(x[...].astype(dtype), None, None) for x in (self.table, self.places)
        )
        x_BTD = table_VD[symbols_BT.astype(jnp.int32)] + place_CD[place_BT]
        return sharding.constrain(x_BTD, "batch", None, None)


class Slots(nnx.Module):
    """What the state z of a word says of slot k: u_k = f(z + r_k). The paper names no f; ours is a norm of z,
    one hidden layer, and a norm."""

    def __init__(self, width: int, hidden: int, slots: int, key: jax.Array):
        one, two = jax.random.split(key)
        self.norm = layers.RMSNorm(width)
        self.rows = param(one, (slots, width), (None, None), scale=0.5)
        # Not cut along "tensor": the norm and the outputs after it want whole vectors.
        self.wide = param(two, (width, hidden), ("embed", None), inputs=1)
        self.norm_out = layers.RMSNorm(hidden)

    def __call__(self, z_D: jax.Array, slot: jax.Array) -> jax.Array:
        """[..., D] and slots [...] -> [..., F]."""
        h_D = self.norm(z_D) + self.rows[...].astype(z_D.dtype)[slot]
        return self.norm_out(jax.nn.gelu(layers.linear(h_D, self.wide[...])))


def logits_of(u_F: jax.Array, head_FV: nnx.Param) -> jax.Array:
    """[..., F] -> float32 [..., V]."""
    return jnp.matmul(u_F, head_FV[...].astype(u_F.dtype), preferred_element_type=jnp.float32)


def run_stack(
    blocks: Block,
    x_BWD: jax.Array,
    documents_BW: jax.Array | None,
    key: jax.Array | None,
    *,
    remat: str,
    causal: bool,
) -> jax.Array:
    """A stack of layers over words, [B, W, D]; the key is for dropout."""
    position_1W = jnp.arange(x_BWD.shape[1])[None]

    def layer(x_BWD: jax.Array, per_layer: Any) -> Any:
        block, key = per_layer
        x_BWD = sharding.constrain(x_BWD, "batch", None, None)
        q_BWNH, k_BWKH, v_BWKH = block.project(x_BWD, position_1W)
        a_BWNH = attend(q_BWNH, k_BWKH, v_BWKH, documents_BW, causal=causal)
        return block.finish(x_BWD, a_BWNH, key), None

    depth = jax.tree.leaves(blocks)[0].shape[0]
    keys = None if key is None else jax.random.split(key, depth)
    return jax.lax.scan(layers.remat(layer, remat), x_BWD, (blocks, keys))[0]


def documents_of_words(layout: Layout, documents_BT: jax.Array | None, words: int) -> jax.Array:
    """The document of each word, int32 [B, W]; 0: there is no such word. None: each row is document 1."""
    last_BW = layout.last_BW
    found_BW = jnp.ones_like(last_BW)
    if documents_BT is not None:
        found_BW = jnp.take_along_axis(documents_BT.astype(jnp.int32), last_BW, axis=1)
    return jnp.where(jnp.arange(words) <= layout.word_BT[:, -1:], found_BW, 0)
