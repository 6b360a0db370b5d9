"""Learn Your Tokens as published (Thawani, Ghanekar, Zhu, Pujara; Findings of EMNLP 2023; arXiv 2310.11628).

P learned vectors stand before the bytes of a word; two post-norm layers run both ways within it, and what
they make of the P vectors is the word. A causal Transformer runs over P positions a word. What it makes of a
word stands before the bytes of the next, which two causal layers predict, and with them a symbol for the
word's end.

The words are those of a rule, so as a `ByteLM` the law of the next byte is renormalised: byte b follows the
text x either in x's last word or, if the rule says that a word ended between them, as the first of the next,
and gets p(b in this word) or p(end of word) p(b first in the next word), divided by the sum over the 257.
This takes one provisional step of the word level a byte. The loss in training, bytes and ends of words, is an
upper bound of that law's. docs/learn_your_tokens.md lists what was wrong in the released runs.
"""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from flax import nnx

from bytelm import layers, words
from bytelm.attention import attend_cached
from bytelm.lm import END, LAW, NUM_SYMBOLS
from bytelm.loss import Batch, Counts, counts_of
from bytelm.models import pooling
from bytelm.models.classic_block import Block, LayerNorm, run
from bytelm.models.sizes import Ruled, check_positive
from bytelm.models.words_layout import read_layout, room
from bytelm.parameters import param, stack
from bytelm.words import State

STOP = LAW  # the end of a word, the last of 258 outputs


@dataclasses.dataclass(frozen=True)
class LearnYourTokensConfig(Ruled):
    """The paper's sizes."""

    rule: str = "paper"
    cap: int = words.CAP
    words: int = 192  # W
    vectors: int = 4  # P
    layers: int = 8
    width: int = 512
    heads: int = 8
    mlp_width: int = 2048
    encoder_layers: int = 2
    encoder_heads: int = 4
    decoder_layers: int = 2
    dropout: float = 0.1
    dtype: str = "auto"  # of the compute; auto: float32 on CPU

    def __post_init__(self) -> None:
        names = ("words", "layers", "width", "heads", "mlp_width", "encoder_layers", "encoder_heads")
        check_positive(self, *names, "decoder_layers")
        self.check_rule()
        for name in ("heads", "encoder_heads"):
            if self.width % getattr(self, name):
                raise ValueError(
                    f"model.width {self.width} is no multiple of model.{name} {getattr(self, name)}"
                )
        if not 1 <= self.vectors <= 4:
            raise ValueError(f"model.vectors must be 1 to 4, got {self.vectors}")
        if not 0.0 <= self.dropout < 1.0:
            raise ValueError(f"model.dropout must be in [0, 1), got {self.dropout}")
        if self.boundaries.at_once:
            raise ValueError(
                f"model.rule {self.rule!r} knows ends at once, which leaves an end-of-word symbol nothing to "
                "say; use a rule that knows one byte later, or a WordPooledConfig"
            )


class Cache(NamedTuple):
    """Of rows that are one document each: the whole words, and the one that may go on."""

    length_B: Any
    node_B: Any
    since_B: Any
    symbols_BC: Any  # of the word so far
    size_B: Any
    words_B: Any  # whole words
    words: Any  # their keys and values [L, B, W P, N, H]
    next: Any  # keys and values [L, B, P, N, H] of the word so far, were it whole
    before_BPD: Any  # what stands before the word's bytes
    after_BPD: Any  # what would stand before the next word's, were it whole


class LearnYourTokens(nnx.Module):
    """See the module. Made with a key; parameters are float32, cast at use."""

    rows_of_cache = Cache(0, 0, 0, 0, 0, 0, (1, 1), (1, 1), 0, 0)

    def __init__(self, config: LearnYourTokensConfig, key: jax.Array):
        c, D, P = config, config.width, config.vectors
        keys = jax.random.split(key, 8)

        def blocks(key: jax.Array, depth: int, heads: int, post: bool) -> Any:
            return stack(lambda k: Block(D, heads, c.mlp_width, c.dropout, post, k), depth, key)

        self.table = param(keys[0], (NUM_SYMBOLS, D), (None, None), scale=0.02)
        self.places = param(keys[1], (c.cap, D), (None, None), scale=0.02)
        self.vectors = param(keys[2], (P, D), (None, None), scale=0.02)
        self.start = param(keys[3], (P, D), (None, None), scale=0.02)  # before a document's first word
        self.positions = param(keys[4], (c.words * P, D), (None, None), scale=0.02)
        self.encoder = blocks(keys[5], c.encoder_layers, c.encoder_heads, True)
        self.blocks = blocks(keys[6], c.layers, c.heads, False)
        self.decoder = blocks(keys[7], c.decoder_layers, c.heads, False)
        self.norm_words, self.norm = LayerNorm(D), LayerNorm(D)
        self.head = param(None, (D, LAW + 1), (None, None), scale=0.0)
        self.config = config

    # ---- training --------------------------------------------------------------------------------------

    def nats(self, batch: Batch, key: jax.Array | None = None) -> jax.Array:
        """The cost of each target, float32 [B, T]: the byte, and the end of the word before it if one ended.

        An upper bound of -log p of the target under the law of `__call__`.
        """
        c, P = self.config, self.config.vectors
        symbols_BT, documents_BT = batch["inputs"].astype(jnp.int32), batch["documents"]
        B, W = symbols_BT.shape[0], min(c.words, symbols_BT.shape[1])
        keys = [None] * 3 if key is None else list(jax.random.split(key, 3))
        at = read_layout(c.boundaries, symbols_BT, documents_BT, W, 1)
        places = pooling.with_prefixes(at, W, P)
        x_BTD = self._embed(symbols_BT, at.place_BT)
        reach = max(c.cap + P, 32)

        inside_BSD = places.merge(x_BTD, jnp.broadcast_to(self._cast(self.vectors), (B, W, P, c.width)))
        inside_BSD = run(
            self.encoder, inside_BSD, keys[0], documents_BT=places.word_BS, window=reach, causal=False
        )
        u_BMD = rearrange(places.prefixes(inside_BSD), "B W P D -> B (W P) D")

        new_BW = jnp.pad(
            at.document_BW[:, 1:] != at.document_BW[:, :-1], ((0, 0), (1, 0)), constant_values=True
        )
        first_BW = jax.lax.cummax(jnp.where(new_BW, jnp.arange(W), 0), axis=1)
        position_BM = rearrange((jnp.arange(W) - first_BW)[..., None] * P + jnp.arange(P), "B W P -> B (W P)")
        u_BMD = u_BMD + self._cast(self.positions)[position_BM]
        u_BMD = run(self.blocks, u_BMD, keys[1], documents_BT=jnp.repeat(at.document_BW, P, axis=1))
        z_BWPD = rearrange(self.norm_words(u_BMD), "B (W P) D -> B W P D", P=P)

        shifted_BWPD = jnp.pad(z_BWPD[:, :-1], ((0, 0), (1, 0), (0, 0), (0, 0)))
        before_BWPD = jnp.where(new_BW[..., None, None], self._cast(self.start), shifted_BWPD)
        y_BSD = run(
            self.decoder, places.merge(x_BTD, before_BWPD), keys[2], documents_BT=places.word_BS, window=reach
        )
        within_BTV = jax.nn.log_softmax(self._logits(places.symbols(y_BSD)))
        # What follows a document's last word has no bytes in the row, so first bytes are read apart.
        opening_NPD = run(self.decoder, rearrange(z_BWPD, "B W P D -> (B W) P D"), keys[2])
        first_BWV = jax.nn.log_softmax(self._logits(opening_NPD[:, -1])).reshape(B, W, -1)

        targets_BT = jnp.minimum(batch["targets"].astype(jnp.int32), END)
        began_BT, _ = jax.vmap(c.boundaries.step, in_axes=1, out_axes=1)(at.states, targets_BT)
        in_word_BT = jnp.take_along_axis(within_BTV, targets_BT[..., None], axis=-1)[..., 0]
        of_next_BTV = jnp.take_along_axis(first_BWV, jnp.minimum(at.word_BT, W - 1)[..., None], axis=1)
        of_next_BT = jnp.take_along_axis(of_next_BTV, targets_BT[..., None], axis=-1)[..., 0]
        return -jnp.where(began_BT, within_BTV[..., STOP] + of_next_BT, in_word_BT)

    def counts(self, batch: Batch) -> Counts:
        """What each target stands for. Bytes after words beyond W carry no loss."""
        counts, W = counts_of(batch), min(self.config.words, batch["inputs"].shape[1])
        at = read_layout(self.config.boundaries, batch["inputs"], batch["documents"], W, 1)
        has_room_BT = at.word_BT < W
        lost_BT = jnp.where(has_room_BT, 0.0, counts.bytes)
        return Counts(counts.bytes - lost_BT, counts.ends & has_room_BT, lost_BT)

    # ---- the law, one symbol at a time -----------------------------------------------------------------

    def __call__(self, symbols_BT: jax.Array) -> jax.Array:
        """The law's logarithm after each symbol, float32 [B, T, 257], read one by one; rows are documents."""

        def step(cache: Cache, symbol_B: jax.Array) -> tuple[Cache, jax.Array]:
            law_BV, cache = self.decode(cache, symbol_B, jnp.ones(len(symbol_B), bool))
            return cache, law_BV

        start = self._nothing(symbols_BT.shape[0], symbols_BT.shape[1])
        return jax.lax.scan(step, start, symbols_BT.T.astype(jnp.int32))[1].swapaxes(0, 1)

    def prefill(self, symbols_BT: jax.Array, length_B: jax.Array, context: int) -> tuple[jax.Array, Cache]:
        """As `WordPooled.prefill`; the logits are a law's logarithm."""

        def step(carry: Any, symbol_and_at: Any) -> Any:
            cache, law_BV = carry
            symbol_B, at = symbol_and_at
            new_BV, cache = self.decode(cache, symbol_B, at < length_B)
            return (cache, jnp.where((at < length_B)[:, None], new_BV, law_BV)), None

        B, T = symbols_BT.shape
        start = self._nothing(B, context), jnp.zeros((B, LAW), jnp.float32)
        (cache, law_BV), _ = jax.lax.scan(step, start, (symbols_BT.T.astype(jnp.int32), jnp.arange(T)))
        return law_BV, cache

    def decode(self, cache: Cache, symbol_B: jax.Array, active_B: jax.Array) -> tuple[jax.Array, Cache]:
        """As `WordPooled.decode`; the logits are a law's logarithm."""
        c, P, B = self.config, self.config.vectors, len(symbol_B)
        row_B, rule = jnp.arange(B), c.boundaries
        began_B, state = rule.step(State(cache.node_B, cache.since_B), symbol_B)
        whole_B = began_B & (cache.length_B > 0)

        def choose(new: jax.Array, old: jax.Array, axis: int = 0) -> jax.Array:
            return jnp.where(active_B.reshape(*[1] * axis, -1, *[1] * (new.ndim - axis - 1)), new, old)

        at_BP = jnp.minimum(cache.words_B[:, None] * P + jnp.arange(P), cache.words[0].shape[2] - 1)
        write = (active_B & whole_B)[None, :, None, None, None]
        slots = np.s_[:, row_B[:, None], at_BP]
        kept = jax.tree.map(
            lambda x, new: x.at[slots].set(jnp.where(write, new, x[slots])), cache.words, cache.next
        )
        words_B = cache.words_B + whole_B
        before_BPD = jnp.where(whole_B[:, None, None], cache.after_BPD, cache.before_BPD)
        size_B = jnp.where(began_B, 0, cache.size_B) + 1
        symbols_BC = cache.symbols_BC.at[row_B, size_B - 1].set(symbol_B)

        place_C = jnp.arange(c.cap)
        x_BCD = self._embed(symbols_BC, jnp.broadcast_to(place_C, symbols_BC.shape))
        vectors_BPD = jnp.broadcast_to(self._cast(self.vectors), (B, P, c.width))
        # Places beyond the word are words of their own.
        of_word_BS = jnp.where(jnp.arange(P + c.cap) < P + size_B[:, None], 0, jnp.arange(P + c.cap))
        inside_BSD = run(
            self.encoder, jnp.concatenate([vectors_BPD, x_BCD], axis=1), None, documents_BT=of_word_BS,
            window=P + c.cap, causal=False,
        )  # fmt: skip
        after_BPD, following = self._step_words(inside_BSD[:, :P], words_B, kept)
        y_BSD = run(self.decoder, jnp.concatenate([before_BPD, x_BCD], axis=1), None)
        last_BD = jnp.take_along_axis(y_BSD, (P + size_B - 1)[:, None, None], axis=1)[:, 0]
        first_BD = run(self.decoder, after_BPD, None)[:, -1]
        within_BV, first_BV = (jax.nn.log_softmax(self._logits(x)) for x in (last_BD, first_BD))
        symbol_BV = jnp.broadcast_to(jnp.arange(LAW), (B, LAW))
        states = State(*(jnp.repeat(x[:, None], LAW, axis=1) for x in state))
        ends_BV, _ = jax.vmap(rule.step, in_axes=1, out_axes=1)(states, symbol_BV)
        joint_BV = jnp.where(ends_BV, within_BV[:, STOP:] + first_BV[:, :LAW], within_BV[:, :LAW])
        new = Cache(
            cache.length_B + 1, *state, symbols_BC, size_B, words_B, kept, following, before_BPD, after_BPD
        )
        mixed = jax.tree.map(lambda axis, a, b: choose(a, b, axis), self.rows_of_cache, new, cache)
        return jax.nn.log_softmax(joint_BV), mixed._replace(words=kept)

    def advance(
        self, cache: Cache, symbol_B: jax.Array, active_B: jax.Array
    ) -> tuple[jax.Array, Cache, jax.Array]:
        """`decode`, and which rows are done: all that are active."""
        return *self.decode(cache, symbol_B, active_B), active_B

    def fits(self, cache: Cache, symbol_B: jax.Array, context: int) -> jax.Array:
        """Whether each row has room for one more symbol, bool [B]."""
        began_B, _ = self.config.boundaries.step(State(cache.node_B, cache.since_B), symbol_B)
        return (cache.length_B < context) & (cache.words_B + began_B < min(self.config.words, context))

    def room(self, symbols: np.ndarray, context: int) -> int:
        """How long a row that begins with `symbols` can surely get; if that is less, how many of them fit."""
        return room(self.config.boundaries, symbols, context, min(self.config.words, context) - 1)

    # ---- parts -----------------------------------------------------------------------------------------

    def _cast(self, x: nnx.Param) -> jax.Array:
        return x[...].astype(layers.compute_dtype(self.config.dtype))

    def _embed(self, symbols_BT: jax.Array, place_BT: jax.Array) -> jax.Array:
        return self._cast(self.table)[symbols_BT] + self._cast(self.places)[place_BT]

    def _logits(self, x_D: jax.Array) -> jax.Array:
        x_D = self.norm(x_D)
        return jnp.matmul(x_D, self.head[...].astype(x_D.dtype), preferred_element_type=jnp.float32)

    def _nothing(self, B: int, context: int) -> Cache:
        c, dtype = self.config, layers.compute_dtype(self.config.dtype)
        P, N, H = c.vectors, c.heads, c.width // c.heads
        zero_B = jnp.zeros(B, jnp.int32)
        room_ = min(c.words, context) * P
        whole, following = (
            tuple(jnp.zeros((c.layers, B, M, N, H), dtype) for _ in range(2)) for M in (room_, P)
        )
        start_BPD = jnp.broadcast_to(self._cast(self.start), (B, P, c.width))
        node_B, since_B = c.boundaries.start(B)
        return Cache(
            zero_B, node_B, since_B, jnp.zeros((B, c.cap), jnp.int32), zero_B, zero_B, whole, following,
            start_BPD, jnp.zeros_like(start_BPD),
        )  # fmt: skip

    def _step_words(self, u_BPD: jax.Array, words_B: jax.Array, kept: Any) -> tuple[jax.Array, Any]:
        """The word level over one more word a row, which is not kept: what it says, its keys and values."""
        P, M = u_BPD.shape[1], kept[0].shape[2]
        at_BP = words_B[:, None] * P + jnp.arange(P)
        u_BPD = u_BPD + self._cast(self.positions)[at_BP]
        past_BPM = jnp.broadcast_to(jnp.arange(M) < words_B[:, None, None] * P, (len(words_B), P, M))
        visible_BPM = jnp.concatenate(
            [past_BPM, jnp.broadcast_to(jnp.tril(jnp.ones((P, P), bool)), (len(words_B), P, P))], axis=2
        )
        of_each = jax.vmap(attend_cached, in_axes=(1, None, None, 1), out_axes=1)

        def layer(x_BPD: jax.Array, per_layer: Any) -> Any:
            block, k_BMNH, v_BMNH = per_layer
            q, k, v = block.project(x_BPD)
            k_BSNH, v_BSNH = (jnp.concatenate(x, axis=1) for x in ((k_BMNH, k), (v_BMNH, v)))
            return block.finish(x_BPD, of_each(q, k_BSNH, v_BSNH, visible_BPM), None), (k, v)

        u_BPD, following = jax.lax.scan(layer, u_BPD, (self.blocks, *kept))
        return self.norm_words(u_BPD), following

    # ---- sizes -----------------------------------------------------------------------------------------

    @staticmethod
    def cuts(config: LearnYourTokensConfig) -> dict[str, tuple[str, int]]:
        """Sizes that a mesh cuts: field of the config -> (name of `bytelm.sharding.RULES`, size)."""
        return {
            "heads": ("heads", config.heads),
            "encoder_heads": ("heads", config.encoder_heads),
            "width": ("embed", config.width),
            "mlp_width": ("mlp", config.mlp_width),
        }

    @staticmethod
    def flops(config: LearnYourTokensConfig, length: int) -> float:
        """Operations of the forward pass in training, a byte, in rows of `length` bytes; W words of each."""
        c, W = config, min(config.words, length)
        P, D = c.vectors, c.width
        dense = 2.0 * (4 * D * D + 2 * D * c.mlp_width)
        near = dense + 4.0 * D * (c.cap + P)
        of_words = c.layers * (dense + 4.0 * D * layers.seen(W * P))
        inside = (c.encoder_layers + c.decoder_layers) * near
        total = (length + W * P) * inside + W * P * (of_words + c.decoder_layers * dense)
        return total / length + 2.0 * D * (LAW + 1) * (1 + W / length)
