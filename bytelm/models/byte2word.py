"""Byte2Word as a causal model: words from bytes by cross-attention, and each word predicted from the last.

After Lee, Guo, Qiu, "Word-Level Representation From Bytes For Language Modeling" (arXiv 2211.12677); what the
paper leaves open is our reading, which docs/byte2word.md states. Learned queries attend to the bytes of a
word and make its vector; a causal Transformer runs over words; its state at word i predicts the C slots of
word i + 1, each independently of the others: u_k = f(z_i + r_k). The first word of a document, or of a row
that begins inside one, is predicted from a learned state.

Slots hold bytes, so that slot k is a law p_k over 258 outputs: the 256 bytes, end of text, and STOP, the end
of the word before this slot. The words are those of a rule, which is a function of the bytes, so as a
`ByteLM` the model asks the rule. After n symbols of the current word:

* A rule that knows at once (`bytelm.words`) says before the next symbol whether the word has ended. If not,
  the law is p_n without STOP, divided by the sum over the 257; if it has, STOP costs nothing and the law is
  p_0 of the next word, from the state that the word just ended has. End of text is an output like the bytes,
  in any slot. Training minimises this law's own cost; STOP has no part in it.
* Of a rule that knows one symbol later, each of the 257 symbols b is asked for: b gets p_n(b) if the word
  goes on with it, and p_n(STOP) p_0'(b) if it ends before b, as it always does before end of text, where p_0'
  is of the state that the word so far would have. Divided by the sum over the 257. This takes a provisional
  step of the word level a byte, and its law is read symbol by symbol. In a word of C symbols, and after a
  sentinel, all b end the word and the factor cancels. The loss in training, of symbols and of STOP, is an
  upper bound.

Or slots hold sub-words (`pieces`). Then p_n(b) is the probability that the slots, until STOP, spell a word
that begins with the n symbols and b, and p_n(STOP) that they spell exactly the n symbols: sums over all ways
to spell them (`bytelm.models.byte2word_law`), with the rule asked as above. This law too is read symbol by
symbol. The loss in training is that of the canonical pieces (`bytelm.models.pieces`), an upper bound but for
the word inside which a row begins.

STOP is never the first slot's.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from bytelm import layers
from bytelm.layers import Block
from bytelm.lm import END, LAW
from bytelm.loss import Batch, Counts, counts_of, nats_of
from bytelm.models import byte2word_cache, pieces
from bytelm.models.byte2word_parts import (
    STOP,
    Slots,
    WordEncoder,
    WordSizes,
    documents_of_words,
    logits_of,
    run_stack,
)
from bytelm.models.pieces import Candidates, Targets, Vocabulary, vocabulary
from bytelm.models.sizes import check_positive
from bytelm.models.words_layout import Layout, read_layout, room
from bytelm.parameters import param, stack


@dataclasses.dataclass(frozen=True)
class Byte2WordConfig(WordSizes):
    """Sizes of a causal Byte2Word."""

    pieces: str = ""  # sub-words, in hex; a run with data.tokenizer fills it in. Empty: bytes
    predictions: int = 1536  # of sub-words, most of a row in training; bytes beyond carry no loss

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(self, "predictions")
        vocabulary(self.pieces)

    @property
    def vocabulary(self) -> Vocabulary:
        return vocabulary(self.pieces)


class Byte2Word(nnx.Module):
    """See the module. Made with a key; parameters are float32, cast at use."""

    rows_of_cache = byte2word_cache.ROWS

    def __init__(self, config: Byte2WordConfig, key: jax.Array):
        c, D, F = config, config.width, config.hidden
        keys = jax.random.split(key, 4)
        self.reader = WordEncoder(c, keys[0])
        self.start = param(keys[1], (D,), (None,))
        self.blocks = stack(lambda k: Block(c.sizes, k), c.layers, keys[2])
        self.slots = Slots(D, F, c.cap, keys[3])
        self.head = param(None, (F, c.vocabulary.outputs), (None, None), scale=0.0)
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
            return byte2word_cache.one_by_one(self, symbols_BT, self._told_apart(documents_BT))
        z_BWD, at = self._read(symbols_BT, documents_BT, key)
        slot_BT = jnp.minimum(at.part_BT, self.config.cap - 1)
        return self.logits(self._of_word(z_BWD, at.newest_BT), slot_BT)[..., :LAW]

    def states(
        self,
        symbols_BT: jax.Array,
        documents_BT: jax.Array | None = None,
        key: jax.Array | None = None,
    ) -> tuple[jax.Array, jax.Array]:
        """The states of words, normed, [B, W, D], and the document of each, int32 [B, W].

        The document is 0 where there is no word. Arguments as above; nothing is predicted.
        """
        z_BWD, at = self._read(symbols_BT, documents_BT, key)
        return self.slots.norm(z_BWD), documents_of_words(at, documents_BT, z_BWD.shape[1])

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

    def prefill(self, symbols_BT: jax.Array, length_B: jax.Array, context: int) -> tuple[jax.Array, Any]:
        """As `WordPooled.prefill`."""
        return byte2word_cache.prefill(self, symbols_BT, length_B, context)

    def decode(self, cache: Any, symbol_B: jax.Array, active_B: jax.Array) -> tuple[jax.Array, Any]:
        """As `WordPooled.decode`."""
        return byte2word_cache.decode(self, cache, symbol_B, active_B)

    def advance(
        self, cache: Any, symbol_B: jax.Array, active_B: jax.Array
    ) -> tuple[jax.Array, Any, jax.Array]:
        """`decode`, and which rows are done: all that are active."""
        return *self.decode(cache, symbol_B, active_B), active_B

    def fits(self, cache: Any, symbol_B: jax.Array, context: int) -> jax.Array:
        """Whether each row has room for one more symbol, bool [B]."""
        return byte2word_cache.fits(self, cache, symbol_B, context)

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

    def logits(self, z_BD: jax.Array, slot_B: jax.Array) -> jax.Array:
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
        law_BTV = jax.nn.log_softmax(self.logits(self._of_word(z_BWD, word_BT), slot_BT))
        return -jnp.take_along_axis(law_BTV, output_BT[..., None], axis=-1)[..., 0]

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
