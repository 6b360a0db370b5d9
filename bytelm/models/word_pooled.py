"""A word-pooled Transformer: bytes -> one vector a word -> a causal Transformer over words -> bytes.

A boundary rule (`bytelm.words`) cuts rows of bytes into words. A narrow encoder reads bytes, a pooling makes
P vectors of each word, the wide model runs over those, and a narrow decoder predicts the bytes, given the
newest word whose end is known. The rule is a function of the bytes, so the likelihood is exact and there is
no end-of-word symbol. After Learn Your Tokens (Thawani et al., arXiv 2310.11628), Byte2Word (Lee et al.,
arXiv 2211.12677) and SpaceByte (Slagle, arXiv 2404.14408); docs/word_pooled.md says what is whose.

Everything is packed: rows [B, T] of bytes, W words a row, nothing of [W, C] or [T, W].
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from flax import nnx

from bytelm import layers, sharding
from bytelm.attention import attend
from bytelm.layers import Block
from bytelm.lm import LAW, NUM_SYMBOLS
from bytelm.loss import Batch, Counts, counts_of, nats_of
from bytelm.models import byte_embedding, pooling, words_cache
from bytelm.models.word_pooled_config import WordPooledConfig
from bytelm.models.words_layout import Layout, read_layout, room
from bytelm.parameters import paced, param, stack


class Read(NamedTuple):
    """What is kept of a pass over rows for a cache."""

    layout: Layout
    features_BTD: Any  # what poolings read
    encoder: Any  # keys and values [L, B, T, K, H] of each level; None where the encoder is the pooling's
    words: Any
    decoder: Any
    u_BMD: Any  # the word level's stream, M = W P
    parts_BWnD: Any
    x_BTD: Any


class WordPooled(nnx.Module):
    """See the module. Made with a key; parameters are float32, cast at use."""

    rows_of_cache = words_cache.ROWS

    def __init__(self, config: WordPooledConfig, key: jax.Array):
        c, D, M = config, config.byte_width, config.width
        keys = jax.random.split(key, 10)
        bytes_, words_ = c.byte_rate, c.word_rate
        if c.embedding == "learned":
            self.table = param(keys[0], (NUM_SYMBOLS, D), (None, None), scale=0.02)
        if c.ngrams:
            shape = (len(byte_embedding.SIZES), c.ngrams, D)
            self.ngrams = param(keys[1], shape, (None, None, None), scale=0.02)
        if c.lexinvariant:
            self.lexical = param(keys[8], (D, D), (None, None), inputs=1)
        self.places = param(keys[2], (c.cap, D), (None, None), scale=0.02)
        if c.pooling == "prefix":
            self.pool: Any = pooling.Prefix(c.byte_sizes, c.vectors, c.encoder_layers, c.cap, keys[3])
        else:
            self.encoder = paced(stack(lambda k: Block(c.byte_sizes, k), c.encoder_layers, keys[4]), bytes_)
            if c.pooling == "attention":
                self.pool = pooling.Attention(c.byte_sizes, c.vectors, keys[3])
            else:
                self.pool = pooling.Last() if c.pooling == "last" else pooling.Mean()
        paced(self.pool, bytes_)
        self.norm_up = layers.RMSNorm(D)
        self.up = param(keys[5], (D, M), (None, "embed"), inputs=1)
        self.blocks = paced(stack(lambda k: Block(c.sizes, k), c.layers, keys[6]), words_)
        self.norm_down = layers.RMSNorm(M)
        self.down = param(keys[7], (c.vectors, M, c.parts, D), (None, "embed", None, None), inputs=2)
        self.decoder = paced(stack(lambda k: Block(c.byte_sizes, k), c.decoder_layers, keys[9]), bytes_)
        self.norm = layers.RMSNorm(D)
        self.head = param(None, (D, LAW), (None, None), scale=0.0)
        self.config = config

    def __call__(
        self,
        symbols_BT: jax.Array,
        documents_BT: jax.Array | None = None,
        key: jax.Array | None = None,
    ) -> jax.Array:
        """Logits of the next symbol, float32 [B, T, 257]; without meaning where `counts` finds no room.

        Args:
          symbols_BT: integers below 261.
          documents_BT: numbers; symbols of different numbers do not see each other if the config
            isolates documents. None: one document a row.
          key: for dropout and Gaussian tables; None for none.
        """
        tables = self._tables(symbols_BT.shape[0], key)
        return self.logits(self.read(symbols_BT, documents_BT, key, tables).x_BTD, tables)

    def nats(self, batch: Batch, key: jax.Array | None = None) -> jax.Array:
        """-log p of each target, float32 [B, T]; the key is for dropout and Gaussian tables."""
        return nats_of(self(batch["inputs"], batch["documents"], key), batch["targets"])

    def counts(self, batch: Batch) -> Counts:
        """What each target stands for. Those whose prediction needs a word beyond W carry no loss."""
        counts, c = counts_of(batch), self.config
        documents_BT = batch["documents"] if c.isolate_documents else None
        W = min(c.words, batch["inputs"].shape[1])
        known_BT = read_layout(c.boundaries, batch["inputs"], documents_BT, W, c.span).known_BT
        has_room_BT = known_BT <= W
        return Counts(
            jnp.where(has_room_BT, counts.bytes, 0.0),
            counts.ends & has_room_BT,
            jnp.where(has_room_BT, 0.0, counts.bytes),
        )

    def prefill(self, symbols_BT: jax.Array, length_B: jax.Array, context: int) -> tuple[jax.Array, Any]:
        """Reads ragged rows, ``symbols_BT[b, :length_B[b]]``, at least one symbol each and no more than fit.

        Returns the logits after each row's last symbol, float32 [B, 257], and a cache for rows of at
        most `context` symbols.
        """
        return words_cache.prefill(self, symbols_BT, length_B, context)

    def decode(self, cache: Any, symbol_B: jax.Array, active_B: jax.Array) -> tuple[jax.Array, Any]:
        """Reads one more symbol in each row where `active_B`; leaves the cache of the others as it is.

        Returns logits, float32 [B, 257] (without meaning where not active), and the cache.
        """
        logits_BV, cache, _ = words_cache.advance(self, cache, symbol_B, active_B, wait=False)
        return logits_BV, cache

    def advance(
        self, cache: Any, symbol_B: jax.Array, active_B: jax.Array
    ) -> tuple[jax.Array, Any, jax.Array]:
        """As `decode`, but rows that need the word level wait for each other, and say whether they are done.

        A row that is not done is to be asked again with the same symbol.
        """
        return words_cache.advance(self, cache, symbol_B, active_B, wait=True)

    def fits(self, cache: Any, symbol_B: jax.Array, context: int) -> jax.Array:
        """Whether each row has room for one more symbol, bool [B]."""
        return words_cache.fits(self, cache, symbol_B, context)

    def room(self, symbols: np.ndarray, context: int) -> int:
        """How long a row that begins with `symbols` can surely get; if that is less, how many of them fit."""
        return room(self.config.boundaries, symbols, context, self.config.words)

    def states(
        self,
        symbols_BT: jax.Array,
        documents_BT: jax.Array | None = None,
        key: jax.Array | None = None,
    ) -> tuple[jax.Array, jax.Array]:
        """The last hidden states of words, normed, [B, W P, D], and the document of each, int32 [B, W P].

        The document is 0 where there is no word. Args as above; nothing is decoded to bytes.
        """
        read = self._read_words(symbols_BT, documents_BT, key, self._tables(symbols_BT.shape[0], key))
        last_BW, word_BT = read.layout.last_BW, read.layout.word_BT
        documents_BT = layers.documents_or_one(documents_BT, symbols_BT)
        document_BW = jnp.take_along_axis(documents_BT, last_BW, axis=1)
        document_BW = jnp.where(jnp.arange(last_BW.shape[1]) <= word_BT[:, -1:], document_BW, 0)
        return self.norm_down(read.u_BMD), jnp.repeat(document_BW, self.config.vectors, axis=1)

    # ---- parts -----------------------------------------------------------------------------------------

    def read(self, symbols_BT, documents_BT, key, tables, keep: bool = False) -> Read:
        """A pass over rows up to the last layer of the decoder; if `keep`, with keys and values."""
        read = self._read_words(symbols_BT, documents_BT, key, tables, keep)
        at, key = read.layout, None if key is None else jax.random.split(key, 4)[3]
        parts_BWnD = self.lower(rearrange(read.u_BMD, "B (W P) D -> B W P D", P=self.config.vectors))
        with jax.named_scope("decoder"):
            x_BTD = read.x_BTD + _unpool(parts_BWnD, at.newest_BT, at.part_BT)
            x_BTD, decoder = self._run_bytes(self.decoder, x_BTD, at, key, keep)
        return read._replace(decoder=decoder, parts_BWnD=parts_BWnD, x_BTD=x_BTD)

    def _read_words(self, symbols_BT, documents_BT, key, tables, keep: bool = False) -> Read:
        """The part of `read` up to the word level; `x_BTD` is what the encoder makes of the bytes."""
        c = self.config
        documents_BT = documents_BT if c.isolate_documents else None
        W = min(c.words, symbols_BT.shape[1])
        keys = [None] * 4 if key is None else list(jax.random.split(key, 4))
        with jax.named_scope("layout"):
            at = read_layout(c.boundaries, symbols_BT, documents_BT, W, c.span)
        x_BTD = self.embed(symbols_BT, documents_BT, at.place_BT, tables)
        encoder = None
        with jax.named_scope("encoder"):
            features_BTD = x_BTD
            if c.pooling != "prefix":
                x_BTD, encoder = self._run_bytes(self.encoder, x_BTD, at, keys[0], keep)
                features_BTD = x_BTD
            u_BWPD = self.pool.packed(features_BTD, at, W, keys[1])
        with jax.named_scope("words"):
            u_BMD = rearrange(self.lift(u_BWPD), "B W P D -> B (W P) D")
            documents_BM = None if at.document_BW is None else jnp.repeat(at.document_BW, c.vectors, axis=1)
            position_1M = jnp.arange(u_BMD.shape[1])[None]
            u_BMD, of_words = self._run(
                self.blocks, u_BMD, position_1M, keys[2], keep, {"documents_BT": documents_BM}
            )
        return Read(at, features_BTD, encoder, of_words, None, u_BMD, None, x_BTD)

    def _run_bytes(self, blocks, x_BTD, at: Layout, key, keep):
        """A stack of layers at byte level."""
        position_1T = jnp.arange(x_BTD.shape[1])[None]
        window = {"documents_BT": at.line_BT, "window": max(self.config.reach, 32), "span": self.config.span}
        return self._run(blocks, x_BTD, position_1T, key, keep, window)

    def embed(self, symbols_BT, documents_BT, place_BT, tables, before_BS=None) -> jax.Array:
        """Vectors of symbols [B, T, D]. `before_BS`: the 7 symbols before them; None at the start of rows."""
        c, dtype = self.config, layers.compute_dtype(self.config.dtype)
        table = (
            self.table[...] if c.embedding == "learned" else 0.02 * byte_embedding.bits_table(c.byte_width)
        )
        x_BTD = jnp.asarray(table, dtype)[symbols_BT.astype(jnp.int32)]
        if tables is not None:
            chosen_B, tables_BVD = tables
            own_BTD = 0.02 * byte_embedding.look_up(tables_BVD, symbols_BT).astype(dtype)
            x_BTD = jnp.where(chosen_B[:, None, None], own_BTD, x_BTD)
        if c.ngrams:
            if before_BS is None:
                history_BS = byte_embedding.with_history(symbols_BT)
                documents_BS = None if documents_BT is None else byte_embedding.with_history(documents_BT)
            else:
                history_BS = jnp.concatenate([before_BS, symbols_BT.astype(jnp.int32)], axis=1)
                documents_BS = None
            row_BTn = byte_embedding.hashes(history_BS, documents_BS, c.ngrams)
            which_n = jnp.arange(len(byte_embedding.SIZES))
            x_BTD = x_BTD + jnp.sum(self.ngrams[...].astype(dtype)[which_n, row_BTn], axis=2)
        return x_BTD + self.places[...].astype(dtype)[place_BT]

    def lift(self, u_D: jax.Array) -> jax.Array:
        """From byte width to word width."""
        return layers.linear(self.norm_up(u_D), self.up[...])

    def lower(self, u_BWPD: jax.Array) -> jax.Array:
        """From a word's vectors to what the bytes after it are told, [B, W, parts, D of bytes]."""
        w = rearrange(self.down[...], "P M n D -> (P M) (n D)")
        y = layers.linear(rearrange(self.norm_down(u_BWPD), "B W P M -> B W (P M)"), w)
        return rearrange(y, "B W (n D) -> B W n D", n=self.config.parts)

    def logits(self, x_BTD: jax.Array, tables: Any) -> jax.Array:
        """[B, T, D] -> float32 [B, T, 257]."""
        x_BTD = self.norm(x_BTD)
        logits_BTV = jnp.matmul(x_BTD, self.head[...].astype(x_BTD.dtype), preferred_element_type=jnp.float32)
        if tables is None:
            return logits_BTV
        chosen_B, tables_BVD = tables
        own_BTV = byte_embedding.logits_of(tables_BVD, layers.linear(x_BTD, self.lexical[...]))
        return jnp.where(chosen_B[:, None, None], own_BTV, logits_BTV)

    def _tables(self, rows: int, key: jax.Array | None) -> Any:
        """Which rows have Gaussian tables, and those; None where no row can have one."""
        share = self.config.lexinvariant
        if share == 0.0 or (key is None and share < 1.0):
            return None
        if key is None:
            return jnp.ones(rows, bool), byte_embedding.fresh_tables(None, rows, self.config.byte_width)
        one, two = jax.random.split(jax.random.fold_in(key, 1))
        tables_BVD = byte_embedding.fresh_tables(one, rows, self.config.byte_width)
        return jax.random.bernoulli(two, share, (rows,)), tables_BVD

    def _run(self, blocks, x_BTD, position_1T, key, keep, how):
        """A stack of layers; if `keep`, with its keys and values."""

        def layer(x_BTD, per_layer):
            block, key = per_layer
            x_BTD = sharding.constrain(x_BTD, "batch", None, None)
            q, k, v = block.project(x_BTD, position_1T)
            a_BTNH = attend(q, k, v, **how)
            return block.finish(x_BTD, a_BTNH, key), (k, v) if keep else None

        depth = jax.tree.leaves(blocks)[0].shape[0]
        keys = None if key is None else jax.random.split(key, depth)
        return jax.lax.scan(layers.remat(layer, self.config.remat), x_BTD, (blocks, keys))

    # ---- sizes -----------------------------------------------------------------------------------------

    @staticmethod
    def cuts(config: WordPooledConfig) -> dict[str, tuple[str, int]]:
        """Sizes that a mesh cuts: field of the config -> (name of `bytelm.sharding.RULES`, size)."""
        return config.sizes.cuts | {f"byte_{name}": cut for name, cut in config.byte_sizes.cuts.items()}

    @staticmethod
    def flops(config: WordPooledConfig, length: int) -> float:
        """Floating-point operations of the forward pass, a byte, in rows of `length` bytes.

        Counted as for the flat model, with all W words of a row, used or not. A byte is taken to see all that
        the span lets it at most.
        """
        c, W, P = config, min(config.words, length), config.vectors
        D, M = c.byte_width, c.width
        byte_layer = c.byte_sizes.flops(layers.seen(length, c.reach))
        encoder = c.encoder_layers * byte_layer
        if c.pooling == "prefix":
            encoder = (length + P * W) * c.encoder_layers * c.byte_sizes.flops(c.cap + P)
            encoder /= length
        elif c.pooling == "attention":
            encoder += 2.0 * (2 * D * D + 2 * P * D + W / length * P * D * D)
        over_words = P * (c.layers * c.sizes.flops(layers.seen(W * P)) + 2.0 * D * M + 2.0 * M * c.parts * D)
        return encoder + c.decoder_layers * byte_layer + W / length * over_words + 2.0 * D * LAW


def _unpool(parts_BWnD: jax.Array, newest_BT: jax.Array, part_BT: jax.Array) -> jax.Array:
    """What each byte is told by the newest word: a gather, since attention to one vector has softmax 1."""
    n = parts_BWnD.shape[2]
    flat_BMD = rearrange(parts_BWnD, "B W n D -> B (W n) D")
    at_BT = jnp.clip(newest_BT, 0, parts_BWnD.shape[1] - 1) * n + jnp.minimum(part_BT, n - 1)
    told_BTD = jnp.take_along_axis(flat_BMD, at_BT[..., None], axis=1)
    return jnp.where((newest_BT >= 0)[..., None], told_BTD, 0)
