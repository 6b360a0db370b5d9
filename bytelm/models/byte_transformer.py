"""A flat causal Transformer over bytes: the baseline of the byte models.

Pre-norm blocks with RMSNorm, SwiGLU, rotary positions, normed queries and keys (Henry et al., arXiv
2010.04245) and grouped keys. Layers are stacked and scanned. 261 symbols in, a law of 257 out.
"""

from __future__ import annotations

import dataclasses
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from bytelm import layers, sharding
from bytelm.attention import attend, attend_cached
from bytelm.layers import Block
from bytelm.lm import LAW, NUM_SYMBOLS
from bytelm.loss import Batch, Counts, counts_of, nats_of
from bytelm.models.sizes import Stacked, check_rotary
from bytelm.parameters import param, stack


@dataclasses.dataclass(frozen=True)
class ByteTransformerConfig(Stacked):
    """Sizes of a flat byte Transformer; None takes the usual proportion."""

    layers: int = 8
    width: int = 512
    heads: int = 8
    key_heads: int | None = None  # default: as many as heads
    head_width: int | None = None  # default: width / heads
    mlp_width: int | None = None  # default: 8/3 width, rounded up to a multiple of 64
    window: int | None = None  # bytes that a position sees, itself included; default: the row
    isolate_documents: bool = True
    dropout: float = 0.0
    rope_base: float = 10_000.0
    remat: Literal["none", "dots", "full"] = "none"  # what is computed again in the backward pass
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"  # of the compute; auto: float32 on CPU

    def __post_init__(self) -> None:
        self.check_stack("window")
        check_rotary("head_width", self.H)


class Cache(NamedTuple):
    """Keys and values of the symbols read so far; slot ``p % S`` holds position p (a ring buffer)."""

    k_LBSKH: Any
    v_LBSKH: Any
    length_B: Any  # symbols read, int32


class ByteTransformer(nnx.Module):
    """See the module. Made with a key; parameters are float32, cast at use."""

    rows_of_cache = Cache(1, 1, 0)  # the axis of the rows in each array of a cache

    def __init__(self, config: ByteTransformerConfig, key: jax.Array):
        table, blocks = jax.random.split(key)
        # In and out the table is replicated: 261 rows are the reward for being token-free.
        self.table = param(table, (NUM_SYMBOLS, config.width), (None, None), scale=0.02)
        self.blocks = stack(lambda k: Block(config.sizes, k), config.layers, blocks)
        self.norm = layers.RMSNorm(config.width)
        self.head = param(None, (config.width, LAW), (None, None), scale=0.0)
        self.config = config

    def __call__(
        self,
        symbols_BT: jax.Array,
        documents_BT: jax.Array | None = None,
        dropout_key: jax.Array | None = None,
    ) -> jax.Array:
        """Logits of the next symbol, float32 [B, T, 257].

        Args:
          symbols_BT: integers below 261.
          documents_BT: numbers; symbols of different numbers do not see each other if the config
            isolates documents. None: one document a row.
          dropout_key: None for no dropout.
        """
        return self._logits(self.states(symbols_BT, documents_BT, dropout_key)[0])

    def states(
        self,
        symbols_BT: jax.Array,
        documents_BT: jax.Array | None = None,
        dropout_key: jax.Array | None = None,
    ) -> tuple[jax.Array, jax.Array]:
        """The last hidden states, normed, [B, T, D], and the document of each, int32 [B, T]."""
        x_BTD, _ = self._read(symbols_BT, documents_BT, dropout_key)
        return self.norm(x_BTD), layers.documents_or_one(documents_BT, symbols_BT)

    def nats(self, batch: Batch, key: jax.Array | None = None) -> jax.Array:
        """-log p of each target, float32 [B, T]; the key is for dropout."""
        return nats_of(self(batch["inputs"], batch["documents"], key), batch["targets"])

    @staticmethod
    def counts(batch: Batch) -> Counts:
        """What each target stands for."""
        return counts_of(batch)

    def prefill(self, symbols_BT: jax.Array, length_B: jax.Array, context: int) -> tuple[jax.Array, Cache]:
        """Reads ragged rows, ``symbols_BT[b, :length_B[b]]``, at least one symbol each.

        Returns the logits after each row's last symbol, float32 [B, 257], and a cache for rows of at
        most `context` symbols.
        """
        x_BTD, (k_LBTKH, v_LBTKH) = self._read(symbols_BT, None, None, keep=True)
        x_BD = jnp.take_along_axis(x_BTD, (length_B - 1)[:, None, None], axis=1)[:, 0]
        slot_S = jnp.arange(min(context, self.config.window or context))
        S = len(slot_S)
        # The last position, before length_B, that falls on slot s; negative where there is none yet.
        at_BS = slot_S + (length_B[:, None] - 1 - slot_S) // S * S
        index_BS = jnp.clip(at_BS, 0, symbols_BT.shape[1] - 1)[None, :, :, None, None]
        k_LBSKH, v_LBSKH = (jnp.take_along_axis(x, index_BS, axis=2) for x in (k_LBTKH, v_LBTKH))
        return self._logits(self.norm(x_BD)), Cache(k_LBSKH, v_LBSKH, length_B)

    def decode(self, cache: Cache, symbol_B: jax.Array, active_B: jax.Array) -> tuple[jax.Array, Cache]:
        """Reads one more symbol in each row where `active_B`; leaves the cache of the others as it is.

        Returns logits, float32 [B, 257] (without meaning where not active), and the cache.
        """
        S, position_B = cache.k_LBSKH.shape[2], cache.length_B
        slot_B, row_B = position_B % S, jnp.arange(len(symbol_B))
        # Slot s holds position p - ((p - s) mod S): the last S of them, or those that exist.
        visible_BS = position_B[:, None] - (position_B[:, None] - jnp.arange(S)) % S >= 0
        write_B = active_B[:, None, None]

        # The caches are carried and written in place: handed out layer by layer they would be copied.
        def layer(carry: tuple[jax.Array, jax.Array, jax.Array], per_layer: tuple[Block, jax.Array]):
            x_B1D, k_LBSKH, v_LBSKH = carry
            block, at = per_layer
            q_B1NH, k_B1KH, v_B1KH = block.project(x_B1D, position_B[:, None])
            k_BKH = jnp.where(write_B, k_B1KH[:, 0], k_LBSKH[at, row_B, slot_B])
            v_BKH = jnp.where(write_B, v_B1KH[:, 0], v_LBSKH[at, row_B, slot_B])
            k_LBSKH = k_LBSKH.at[at, row_B, slot_B].set(k_BKH)
            v_LBSKH = v_LBSKH.at[at, row_B, slot_B].set(v_BKH)
            a_BNH = attend_cached(q_B1NH[:, 0], k_LBSKH[at], v_LBSKH[at], visible_BS)
            return (block.finish(x_B1D, a_BNH[:, None]), k_LBSKH, v_LBSKH), None

        start = self._embed(symbol_B[:, None]), cache.k_LBSKH, cache.v_LBSKH
        blocks = self.blocks, jnp.arange(self.config.layers)
        (x_B1D, k_LBSKH, v_LBSKH), _ = jax.lax.scan(layer, start, blocks)
        return self._logits(self.norm(x_B1D[:, 0])), Cache(k_LBSKH, v_LBSKH, position_B + active_B)

    def advance(
        self, cache: Cache, symbol_B: jax.Array, active_B: jax.Array
    ) -> tuple[jax.Array, Cache, jax.Array]:
        """`decode`, and which rows are done: all that are active."""
        return *self.decode(cache, symbol_B, active_B), active_B

    @staticmethod
    def fits(cache: Cache, symbol_B: jax.Array, context: int) -> jax.Array:
        """Whether each row has room for one more symbol, bool [B]."""
        return cache.length_B < context

    @staticmethod
    def room(symbols: np.ndarray, context: int) -> int:
        """How long a row that begins with `symbols` can surely get; if that is less, how many of them fit."""
        return context

    def _embed(self, symbols_BT: jax.Array) -> jax.Array:
        return self.table[...].astype(layers.compute_dtype(self.config.dtype))[symbols_BT.astype(jnp.int32)]

    def _logits(self, z_D: jax.Array) -> jax.Array:
        """Normed [..., D] -> float32 [..., 257]."""
        return jnp.matmul(z_D, self.head[...].astype(z_D.dtype), preferred_element_type=jnp.float32)

    def _read(self, symbols_BT, documents_BT, dropout_key, keep: bool = False):
        """The stream after all layers [B, T, D], and if `keep`, keys and values [L, B, T, K, H]."""
        config = self.config
        position_1T = jnp.arange(symbols_BT.shape[1])[None]
        documents_BT = documents_BT if config.isolate_documents else None

        def layer(x_BTD: jax.Array, per_layer: tuple[Block, jax.Array | None]):
            block, key = per_layer
            x_BTD = sharding.constrain(x_BTD, "batch", None, None)
            q_BTNH, k_BTKH, v_BTKH = block.project(x_BTD, position_1T)
            a_BTNH = attend(q_BTNH, k_BTKH, v_BTKH, documents_BT, config.window)
            return block.finish(x_BTD, a_BTNH, key), (k_BTKH, v_BTKH) if keep else None

        layer = layers.remat(layer, config.remat)
        keys = None if dropout_key is None else jax.random.split(dropout_key, config.layers)
        return jax.lax.scan(layer, self._embed(symbols_BT), (self.blocks, keys))

    @staticmethod
    def cuts(config: ByteTransformerConfig) -> dict[str, tuple[str, int]]:
        """Sizes that a mesh cuts: field of the config -> (name of `bytelm.sharding.RULES`, size)."""
        return config.sizes.cuts

    @staticmethod
    def flops(config: ByteTransformerConfig, length: int) -> float:
        """Floating-point operations of the forward pass, a byte, in rows of `length` bytes.

        Two for each multiply-add; matrices and attention (a position sees on average half a row, or its
        window); norms, positions and softmax are left out, as is the custom (Chowdhery et al., arXiv
        2204.02311, appendix B). A training step is three times this.
        """
        seen = layers.seen(length, config.window)
        return config.layers * config.sizes.flops(seen) + 2.0 * config.width * LAW
