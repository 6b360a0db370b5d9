"""Byte2Word as a causal model: words from bytes by cross-attention, and each word predicted from the last.

After Lee, Guo, Qiu, "Word-Level Representation From Bytes For Language Modeling" (arXiv 2211.12677); what the
paper leaves open is our reading, which docs/byte2word.md states. Learned queries attend to the bytes of a
word and make its vector; a causal Transformer runs over words; its state at word i predicts the C slots of
word i + 1, each independently of the others: u_k = f(z_i + r_k). The first word of a document, or of a row
that begins inside one, is predicted from a learned state.

Slots hold bytes (`bytelm.models.byte2word_masked` predicts the same ones of a masked word). So slot k is a
law p_k over 258 outputs: the 256 bytes, end of text, and STOP, the end of the word before this slot. The
words are those of a rule, which is a function of the bytes, so as a `ByteLM` the model asks the rule. After n
symbols of the current word:

* A rule that knows at once (`bytelm.words`) says before the next symbol whether the word has ended. If not,
  the law is p_n without STOP, divided by the sum over the 257; if it has, STOP costs nothing and the law is
  p_0 of the next word, from the state that the word just ended has. End of text is an output like the bytes,
  in any slot. Training minimises this law's own cost.
* Of a rule that knows one symbol later, each of the 257 symbols b is asked for: b gets p_n(b) if the word
  goes on with it, and p_n(STOP) p_0'(b) if it ends before b, as it always does before end of text, where p_0'
  is of the state that the word so far would have. Divided by the sum over the 257. This takes a provisional
  step of the word level a byte, and its law is read symbol by symbol. In a word of C symbols, and after a
  sentinel, all b end the word and the factor cancels. The loss in training, of symbols and of STOP, is an
  upper bound.

STOP is never the first slot's.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from bytelm import layers
from bytelm.attention import attend_cached
from bytelm.layers import Block
from bytelm.lm import END, LAW
from bytelm.loss import Batch, Counts, counts_of, nats_of
from bytelm.models import byte2word_law, pieces
from bytelm.models.byte2word_parts import (
    STOP,
    Slots,
    WordEncoder,
    WordSizes,
    check_positive,
    documents_of_words,
    logits_of,
    run_stack,
)
from bytelm.models.pieces import Candidates, Targets, Vocabulary, vocabulary
from bytelm.models.words_layout import Layout, read_layout, room
from bytelm.words import State


@dataclasses.dataclass(frozen=True)
class Byte2WordConfig(WordSizes):
    """Sizes of a causal Byte2Word."""

    pieces: str = ""  # sub-words, in hex; a run with data.tokenizer fills it in. Empty: bytes
    predictions: int = 1024  # of sub-words, most of a row in training; bytes beyond carry no loss

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(self, "predictions")
        vocabulary(self.pieces)

    @property
    def vocabulary(self) -> Vocabulary:
        return vocabulary(self.pieces)


class Cache(NamedTuple):
    """Of rows that are one document each: the whole words, and the one that may go on."""

    length_B: Any  # symbols read
    node_B: Any  # the rule's state after them
    since_B: Any
    symbols_BC: Any  # of the last word
    size_B: Any  # how many
    words_B: Any  # words before it
    words: Any  # keys and values [L, B, W, K, H] of words; of the last one too, as far as it is read
    before_BD: Any  # the state that predicts the last word
    after_BD: Any  # the state that predicts the next, were the last whole


class Byte2Word(nnx.Module):
    """See the module. Made with a key; parameters are float32, cast at use."""

    rows_of_cache = Cache(0, 0, 0, 0, 0, 0, (1, 1), 0, 0)

    def __init__(self, config: Byte2WordConfig, key: jax.Array):
        c, D, F = config, config.width, config.hidden
        keys = jax.random.split(key, 4)
        self.reader = WordEncoder(c, keys[0])
        self.start = layers.param(keys[1], (D,), (None,))
        self.blocks = layers.stack(lambda k: Block(c.sizes, k), c.layers, keys[2])
        self.slots = Slots(D, F, c.cap, keys[3])
        self.head = layers.param(None, (F, c.vocabulary.outputs), (None, None), scale=0.0)
        self.config = config

    # ---- whole rows ------------------------------------------------------------------------------------

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
          key: for dropout, which a law that is read one by one cannot have; None for none.
        """
        if self.config.pieces or not self.config.boundaries.at_once:
            return self._one_by_one(symbols_BT, documents_BT)
        z_BWD, at = self._read(symbols_BT, documents_BT, key)
        slot_BT = jnp.minimum(at.part_BT, self.config.cap - 1)
        return self._logits(self._of_word(z_BWD, at.newest_BT), slot_BT)[..., :LAW]

    def states(
        self,
        symbols_BT: jax.Array,
        documents_BT: jax.Array | None = None,
        key: jax.Array | None = None,
    ) -> tuple[jax.Array, jax.Array]:
        """The states of words, [B, W, D], and the document of each, int32 [B, W], 0 where there is no
        word."""
        z_BWD, at = self._read(symbols_BT, documents_BT, key)
        return z_BWD, documents_of_words(at, documents_BT, z_BWD.shape[1])

    def nats(self, batch: Batch, key: jax.Array | None = None) -> jax.Array:
        """The cost of each target, float32 [B, T]: -log p of it, or for sub-words, and for rules that know
        one symbol later, an upper bound (see the module): of the canonical piece that begins at it, and of
        the STOP of the word before it if one ended; the key is for dropout."""
        rule, cap = self.config.boundaries, self.config.cap
        symbols_BT, documents_BT = batch["inputs"], batch["documents"]
        if rule.at_once and not self.config.pieces:
            return nats_of(self(symbols_BT, documents_BT, key), batch["targets"])
        z_BWD, at = self._read(symbols_BT, documents_BT, key)
        if self.config.pieces:
            of = self._targets(batch, at)
            nats_BM = self._cost(z_BWD, of.word_BM, of.slot_BM, of.output_BM)
            return pieces.costs(of, nats_BM, symbols_BT.shape[1])
        targets_BT = jnp.minimum(batch["targets"].astype(jnp.int32), END)
        began_BT, _ = jax.vmap(rule.step, in_axes=1, out_axes=1)(at.states, targets_BT)
        word_BT, slot_BT = (jnp.where(began_BT, x, y) for x, y in (
            (at.word_BT, at.newest_BT), (0, jnp.minimum(at.place_BT + 1, cap - 1))))  # fmt: skip
        nats_BT = self._cost(z_BWD, word_BT, slot_BT, targets_BT)
        stops_BT = began_BT & (at.place_BT < cap - 1) & (symbols_BT < END)
        # A stop is of a word, so its cost is computed once a word, and stands at the word's last symbol.
        W, last_BW = z_BWD.shape[1], at.last_BW
        before_BW, slot_BW = (
            jnp.take_along_axis(x, last_BW, axis=1)
            for x in (at.newest_BT, jnp.minimum(at.place_BT + 1, cap - 1))
        )
        stop_BW = self._cost(z_BWD, before_BW, slot_BW, jnp.full_like(slot_BW, STOP))
        stop_BT = jnp.take_along_axis(stop_BW, jnp.minimum(at.word_BT, W - 1), axis=1)
        return nats_BT + jnp.where(stops_BT, stop_BT, 0.0)

    def counts(self, batch: Batch) -> Counts:
        """What each target stands for. Those whose prediction may need a word beyond W carry no loss, nor do
        those beyond the limit of predictions."""
        counts, c = counts_of(batch), self.config
        W = min(c.words, batch["inputs"].shape[1])
        at = read_layout(c.boundaries, batch["inputs"], self._told_apart(batch["documents"]), W, 1)
        has_room_BT = (at.known_BT <= W) if c.boundaries.at_once else (at.word_BT < W)
        if c.pieces:
            limit_B1 = self._targets(batch, at).limit_B[:, None]
            has_room_BT &= jnp.arange(has_room_BT.shape[1]) < limit_B1
        lost_BT = jnp.where(has_room_BT, 0.0, counts.bytes)
        return Counts(counts.bytes - lost_BT, counts.ends & has_room_BT, lost_BT)

    # ---- the law, one symbol at a time -----------------------------------------------------------------

    def prefill(self, symbols_BT: jax.Array, length_B: jax.Array, context: int) -> tuple[jax.Array, Cache]:
        """As `WordPooled.prefill`."""

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
        """As `WordPooled.decode`. The word level steps where some row's word has ended, or may have."""
        c, rule, row_B = self.config, self.config.boundaries, jnp.arange(len(symbol_B))
        began_B, state = rule.step(State(cache.node_B, cache.since_B), symbol_B)
        whole_B = began_B & (cache.length_B > 0)
        size_B = jnp.where(began_B, 0, cache.size_B) + 1
        new = Cache(
            cache.length_B + 1, *state, cache.symbols_BC.at[row_B, size_B - 1].set(symbol_B), size_B,
            cache.words_B + whole_B, cache.words,
            jnp.where(whole_B[:, None], cache.after_BD, cache.before_BD), cache.after_BD,
        )  # fmt: skip
        new = jax.tree.map(
            lambda new, old: new if new is old else jnp.where(
                active_B.reshape(-1, *[1] * (new.ndim - 1)), new, old
            ), new, cache,
        )  # fmt: skip
        ended_B = rule.ended_after(State(new.node_B, new.since_B))
        due_B = active_B & (ended_B if rule.at_once else True)
        new = jax.lax.cond(jnp.any(due_B), lambda x: self._step_words(x, due_B), lambda x: x, new)
        slot_B = jnp.minimum(new.size_B, c.cap - 1)
        if rule.at_once and not c.pieces:
            z_BD = jnp.where(ended_B[:, None], new.after_BD, new.before_BD)
            return self._logits(z_BD, jnp.where(ended_B, 0, slot_B))[:, :LAW], new
        first_BV = jax.nn.log_softmax(self._logits(new.after_BD, jnp.zeros_like(slot_B)))
        if c.pieces:
            place_BK = jnp.broadcast_to(jnp.arange(c.cap), (len(row_B), c.cap))
            law_BKO = jax.nn.log_softmax(
                self._logits(jnp.repeat(new.before_BD[:, None], c.cap, axis=1), place_BK)
            )
            of_word = functools.partial(byte2word_law.masses, c.vocabulary)
            within_BV, stop_B = jax.vmap(of_word)(law_BKO, new.symbols_BC, new.size_B)
            first_BV = jax.vmap(functools.partial(byte2word_law.first, c.vocabulary))(first_BV)
            if rule.at_once:
                return jnp.where(ended_B[:, None], first_BV, within_BV), new
            within_BV = jnp.concatenate([within_BV, stop_B[:, None]], axis=1)
        else:
            within_BV = jax.nn.log_softmax(self._logits(new.before_BD, slot_B))
        symbol_BV = jnp.broadcast_to(jnp.arange(LAW), (len(row_B), LAW))
        states = State(*(jnp.repeat(x[:, None], LAW, axis=1) for x in (new.node_B, new.since_B)))
        ends_BV, _ = jax.vmap(rule.step, in_axes=1, out_axes=1)(states, symbol_BV)
        return jnp.where(ends_BV, within_BV[:, STOP:] + first_BV[:, :LAW], within_BV[:, :LAW]), new

    def advance(
        self, cache: Cache, symbol_B: jax.Array, active_B: jax.Array
    ) -> tuple[jax.Array, Cache, jax.Array]:
        """`decode`, and which rows are done: all that are active."""
        return *self.decode(cache, symbol_B, active_B), active_B

    def fits(self, cache: Cache, symbol_B: jax.Array, context: int) -> jax.Array:
        """Whether each row has room for one more symbol, bool [B]."""
        rule = self.config.boundaries
        began_B, state = rule.step(State(cache.node_B, cache.since_B), symbol_B)
        before_B = cache.words_B + (began_B & (cache.length_B > 0))
        more_B = rule.ended_after(state) if rule.at_once else 1
        return (cache.length_B < context) & (before_B + more_B <= min(self.config.words, context))

    def room(self, symbols: np.ndarray, context: int) -> int:
        """How long a row that begins with `symbols` can surely get; if that is less, how many of them fit."""
        rule = self.config.boundaries
        most = min(self.config.words, context) - (not rule.at_once)
        return room(rule, symbols, context, most)

    # ---- parts -----------------------------------------------------------------------------------------

    def _told_apart(self, documents_BT: jax.Array | None) -> jax.Array | None:
        return documents_BT if self.config.isolate_documents else None

    def _read(self, symbols_BT, documents_BT, key) -> tuple[jax.Array, Layout]:
        """The states of words [B, W, D]."""
        c, W = self.config, min(self.config.words, symbols_BT.shape[1])
        documents_BT = self._told_apart(documents_BT)
        with jax.named_scope("layout"):
            at = read_layout(c.boundaries, symbols_BT, documents_BT, W, 1)
        with jax.named_scope("encoder"):
            u_BWD = self.reader.packed(symbols_BT, at, W)
        with jax.named_scope("words"):
            z_BWD = run_stack(self.blocks, u_BWD, at.document_BW, key, remat=c.remat, causal=True)
        return z_BWD, at

    def _of_word(self, z_BWD: jax.Array, word_BT: jax.Array) -> jax.Array:
        """The states of some words, [B, T, D]; -1: the learned one."""
        at_BT1 = jnp.clip(word_BT, 0, z_BWD.shape[1] - 1)[..., None]
        start_D = self.start[...].astype(z_BWD.dtype)
        return jnp.where((word_BT >= 0)[..., None], jnp.take_along_axis(z_BWD, at_BT1, axis=1), start_D)

    def _logits(self, z_BD: jax.Array, slot_B: jax.Array) -> jax.Array:
        """Of all outputs; STOP is never the first slot's, nor any slot's where the rule knows at once."""
        logits_BV = logits_of(self.slots(z_BD, slot_B), self.head)
        never_B1 = (slot_B == 0)[..., None] | self.config.boundaries.at_once
        stop_V = jnp.arange(logits_BV.shape[-1]) == self.config.vocabulary.stop
        return jnp.where(never_B1 & stop_V, -1e30, logits_BV)

    def _targets(self, batch: Batch, at: Layout) -> Targets:
        """The canonical pieces of the targets' words, and a STOP where a word has ended before a target.

        A row that begins inside a word gives that word's first symbol as a piece of its own.
        """
        c, v, rule = self.config, self.config.vocabulary, self.config.boundaries
        documents_BT, targets_BT = batch["documents"], jnp.minimum(batch["targets"].astype(jnp.int32), END)
        t_T = jnp.arange(targets_BT.shape[1])
        began_BT, _ = jax.vmap(rule.step, in_axes=1, out_axes=1)(at.states, targets_BT)
        fresh_BT = jnp.pad(
            documents_BT[:, 1:] != documents_BT[:, :-1], ((0, 0), (1, 0)), constant_values=True
        )
        begins_BT = began_BT | fresh_BT
        cut = pieces.cut(v, targets_BT, begins_BT)
        first_BT = jax.lax.cummax(jnp.where(begins_BT, t_T, 0), axis=1)
        # Where the first symbol of the word is no target.
        inside_BT = jnp.take_along_axis(~began_BT, first_BT, axis=1)
        word_BT = jnp.where(began_BT, at.word_BT, at.newest_BT)
        slot_BT = jnp.minimum(cut.place_BT + inside_BT, c.cap - 1)
        # Pieces of the word that ended before each target.
        count_BT = jnp.pad((cut.count_BT + inside_BT)[:, :-1], ((0, 0), (1, 0)))
        count_BT = jnp.where(fresh_BT, 1, count_BT)
        stops_BT = began_BT & (batch["inputs"] < END) & (at.place_BT < c.cap - 1) & (count_BT < c.cap)
        stops_BT = jnp.zeros_like(stops_BT) if rule.at_once else stops_BT
        return pieces.pack(
            min(c.predictions, 2 * len(t_T)),
            Candidates(cut.starts_BT, word_BT, slot_BT, cut.piece_BT),
            Candidates(stops_BT, at.newest_BT, count_BT, jnp.full_like(targets_BT, v.stop)),
            first_BT,
        )

    def _cost(self, z_BWD, word_BT, slot_BT, output_BT) -> jax.Array:
        """-log p of an output in a slot of the word after some word, [B, T]."""
        law_BTV = jax.nn.log_softmax(self._logits(self._of_word(z_BWD, word_BT), slot_BT))
        return -jnp.take_along_axis(law_BTV, output_BT[..., None], axis=-1)[..., 0]

    def _one_by_one(self, symbols_BT: jax.Array, documents_BT: jax.Array | None) -> jax.Array:
        """The law's logarithm after each symbol [B, T, 257], read one by one."""
        B, T = symbols_BT.shape
        start = self._nothing(B, T)
        new_BT = jnp.zeros((B, T), bool)
        if self.config.isolate_documents and documents_BT is not None:
            new_BT = jnp.pad(documents_BT[:, 1:] != documents_BT[:, :-1], ((0, 0), (1, 0)))

        def step(cache: Cache, symbol_and_new: Any) -> tuple[Cache, jax.Array]:
            symbol_B, new_B = symbol_and_new

            def fresh(axis: int, a: jax.Array, b: jax.Array) -> jax.Array:
                return jnp.where(new_B.reshape(*[1] * axis, -1, *[1] * (a.ndim - axis - 1)), a, b)

            cache = jax.tree.map(fresh, self.rows_of_cache, start, cache)
            law_BV, cache = self.decode(cache, symbol_B, jnp.ones(B, bool))
            return cache, jax.nn.log_softmax(law_BV)

        columns = symbols_BT.T.astype(jnp.int32), new_BT.T
        return jax.lax.scan(step, start, columns)[1].swapaxes(0, 1)

    def _nothing(self, B: int, context: int) -> Cache:
        c, dtype, sizes = self.config, layers.compute_dtype(self.config.dtype), self.config.sizes
        zero_B = jnp.zeros(B, jnp.int32)
        room_ = min(c.words, context)
        words_ = tuple(
            jnp.zeros((c.layers, B, room_, sizes.key_heads, sizes.head_width), dtype) for _ in range(2)
        )
        start_BD = jnp.broadcast_to(self.start[...].astype(dtype), (B, c.width))
        symbols_BC = jnp.zeros((B, c.cap), jnp.int32)
        return Cache(zero_B, *c.boundaries.start(B), symbols_BC, zero_B, zero_B, words_, start_BD, start_BD)

    def _step_words(self, cache: Cache, which_B: jax.Array) -> Cache:
        """The last word, as far as it is read, through encoder and word level, in the rows of `which_B`."""
        u_BD = self.reader.one(cache.symbols_BC, cache.size_B)
        M = cache.words[0].shape[2]
        at_B, row_B = jnp.minimum(cache.words_B, M - 1), jnp.arange(len(which_B))
        visible_BM = jnp.arange(M) <= at_B[:, None]
        write_B11 = which_B[:, None, None]

        def layer(carry: Any, per_layer: Any) -> Any:  # as in the flat model, written in place
            x_B1D, k_LBMKH, v_LBMKH = carry
            block, at = per_layer
            q_B1NH, k_B1KH, v_B1KH = block.project(x_B1D, at_B[:, None])
            k_LBMKH, v_LBMKH = (
                x.at[at, row_B, at_B].set(jnp.where(write_B11, y[:, 0], x[at, row_B, at_B]))
                for x, y in ((k_LBMKH, k_B1KH), (v_LBMKH, v_B1KH))
            )
            a_BNH = attend_cached(q_B1NH[:, 0], k_LBMKH[at], v_LBMKH[at], visible_BM)
            return (block.finish(x_B1D, a_BNH[:, None]), k_LBMKH, v_LBMKH), None

        depth = jnp.arange(self.config.layers)
        (z_B1D, *words_), _ = jax.lax.scan(layer, (u_BD[:, None], *cache.words), (self.blocks, depth))
        after_BD = jnp.where(which_B[:, None], z_B1D[:, 0], cache.after_BD)
        return cache._replace(words=tuple(words_), after_BD=after_BD)

    # ---- sizes -----------------------------------------------------------------------------------------

    @staticmethod
    def cuts(config: Byte2WordConfig) -> dict[str, tuple[str, int]]:
        """Sizes that a mesh cuts: field of the config -> (name of `bytelm.sharding.RULES`, size)."""
        return config.cuts

    @staticmethod
    def flops(config: Byte2WordConfig, length: int) -> float:
        """Floating-point operations of the forward pass in training, a byte, in rows of `length` bytes.

        Counted as for the flat model, with all W words of a row, used or not.
        """
        c, W = config, min(config.words, length)
        predictions = 1.0 if c.boundaries.at_once else 1.0 + W / length
        if c.pieces:
            predictions = min(c.predictions, 2 * length) / length
        over_words = c.layers * c.sizes.flops(layers.seen(W))
        of_slots = predictions * c.slot_flops(c.vocabulary.outputs)
        return c.encoder_flops(length) + W / length * over_words + of_slots
