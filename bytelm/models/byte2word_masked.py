"""Byte2Word as an encoder: words from bytes, a stack that sees both ways, hidden words predicted in one pass.

After Lee, Guo, Qiu (arXiv 2211.12677); docs/byte2word.md says what is our reading. In the place of a hidden
word's bytes one mask symbol is read. Its state z predicts all of its pieces, k = 0..K-1, and STOP after them:
u_k = f(z + r_k), a softmax over the vocabulary of sub-words, or over bytes. K is the cap of the rule, so that
every word can be spelled. The words of a row are those of a boundary rule.

It is trained and evaluated as other models are: the cost of a hidden word's pieces counts for its bytes, so
that "bits per byte" are bits a hidden byte. It is no `ByteLM`: it gives no law of texts.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx

from bytelm.layers import Block
from bytelm.lm import MASK
from bytelm.loss import Batch, Counts
from bytelm.models import masking
from bytelm.models.byte2word_parts import (
    Slots,
    WordEncoder,
    WordSizes,
    documents_of_words,
    logits_of,
    run_stack,
)
from bytelm.models.masking import Hidden, Masking
from bytelm.models.pieces import Targets
from bytelm.models.words_layout import Layout, read_layout
from bytelm.parameters import param, stack


@dataclasses.dataclass(frozen=True)
class MaskedByte2WordConfig(Masking, WordSizes):
    """Sizes of a Byte2Word that is an encoder."""


class MaskedByte2Word(nnx.Module):
    """See the module. Made with a key; parameters are float32, cast at use."""

    def __init__(self, config: MaskedByte2WordConfig, key: jax.Array):
        c, D, F = config, config.width, config.hidden
        keys = jax.random.split(key, 3)
        self.reader = WordEncoder(c, keys[0])
        self.blocks = stack(lambda k: Block(c.sizes, k), c.layers, keys[1])
        self.slots = Slots(D, F, c.cap, keys[2])
        self.head = param(None, (F, c.vocabulary.outputs), (None, None), scale=0.0)
        self.config = config

    def states(
        self,
        symbols_BT: jax.Array,
        documents_BT: jax.Array | None = None,
        key: jax.Array | None = None,
    ) -> tuple[jax.Array, jax.Array]:
        """The states of words, normed, [B, W, D], and the document of each, int32 [B, W], 0 where there is
        none.

        Args:
          symbols_BT: integers below 261.
          documents_BT: numbers, 0 for padding; symbols of different numbers do not see each other if the
            config isolates documents. None: each row is document 1.
          key: for dropout; None for none.
        """
        at = self._layout(symbols_BT, documents_BT)
        z_BWD, document_BW = self._states(symbols_BT, documents_BT, at, None, key)
        return self.slots.norm(z_BWD), document_BW

    def draw(self, batch: Batch, key: jax.Array | None) -> Batch:
        """The batch with the words that are hidden in it; see `bytelm.loss`."""
        at = self._layout(batch["inputs"], batch["documents"])
        return masking.draw(batch, at, self.config.share, self.config.mixed, key)

    def nats(self, batch: Batch, key: jax.Array | None = None) -> jax.Array:
        """The cost of hidden words, float32 [B, T]: of each piece at its first byte, of STOP at the last byte
        of the word, 0 elsewhere; the key is for dropout."""
        return masking.nats(*self._predict(batch, key), batch["inputs"].shape[1])

    def counts(self, batch: Batch) -> Counts:
        """The bytes of hidden words. Those beyond W words, or beyond the limit of predictions, are lost."""
        at, hidden = self._hidden(batch)
        limit_B = self._targets(batch, at, hidden).limit_B
        return masking.counts(batch, at, hidden, min(self.config.words, batch["inputs"].shape[1]), limit_B)

    def right(self, batch: Batch) -> tuple[jax.Array, jax.Array]:
        """Whether each word's most likely outputs are its pieces and STOP, and whether it was hidden and
        predicted at all; bool [B, W]."""
        targets, logits_BMV = self._predict(batch, None)
        W = min(self.config.words, batch["inputs"].shape[1])
        return masking.right(targets, jnp.argmax(logits_BMV, axis=-1), W)

    # ---- parts -----------------------------------------------------------------------------------------

    def _layout(self, symbols_BT: jax.Array, documents_BT: jax.Array | None) -> Layout:
        c = self.config
        documents_BT = documents_BT if c.isolate_documents else None
        return read_layout(c.boundaries, symbols_BT, documents_BT, min(c.words, symbols_BT.shape[1]), 1)

    def _hidden(self, batch: Batch) -> tuple[Layout, Hidden]:
        """Layout, and what `draw` left in the batch."""
        batch = batch if "chosen" in batch else self.draw(batch, None)
        return self._layout(batch["inputs"], batch["documents"]), masking.drawn(batch)

    def _targets(self, batch: Batch, at: Layout, hidden: Hidden) -> Targets:
        c, T = self.config, batch["inputs"].shape[1]
        return masking.targets(
            c.vocabulary, batch["inputs"], at, hidden,
            words=min(c.words, T), most=min(c.predictions, 2 * T), slots=c.cap,
        )  # fmt: skip

    def _predict(self, batch: Batch, key: jax.Array | None) -> tuple[Targets, jax.Array]:
        at, hidden = self._hidden(batch)
        targets = self._targets(batch, at, hidden)
        z_BWD, _ = self._states(batch["inputs"], batch["documents"], at, hidden, key)
        at_BM1 = jnp.minimum(targets.word_BM, z_BWD.shape[1] - 1)[..., None]
        u_BMF = self.slots(jnp.take_along_axis(z_BWD, at_BM1, axis=1), targets.slot_BM)
        logits_BMV = logits_of(u_BMF, self.head)
        stop = self.config.vocabulary.stop  # never the first slot's
        never_BMV = (targets.slot_BM == 0)[..., None] & (jnp.arange(logits_BMV.shape[-1]) == stop)
        return targets, jnp.where(never_BMV, -1e30, logits_BMV)

    def _states(self, symbols_BT, documents_BT, at: Layout, hidden: Hidden | None, key):
        """See `states`; hidden words are not read, or others in their place."""
        c, W = self.config, at.last_BW.shape[1]
        u_BWD = self.reader.packed(symbols_BT, at, W)
        if hidden is not None:
            read_BW1 = hidden.read_BT[:, :W, None]
            mask_1D = self.reader.one(jnp.full((1, 1), MASK), jnp.ones(1, jnp.int32))
            u_BWD = jnp.take_along_axis(u_BWD, jnp.clip(read_BW1, 0, W - 1), axis=1)
            u_BWD = jnp.where(read_BW1 == masking.MASKED, mask_1D, u_BWD)
        document_BW = documents_of_words(at, documents_BT, W)
        apart_BW = document_BW if c.isolate_documents else jnp.minimum(document_BW, 1)
        return run_stack(self.blocks, u_BWD, apart_BW, key, remat=c.remat, causal=False), document_BW

    # ---- sizes -----------------------------------------------------------------------------------------

    @staticmethod
    def cuts(config: MaskedByte2WordConfig) -> dict[str, tuple[str, int]]:
        """Sizes that a mesh cuts: field of the config -> (name of `bytelm.sharding.RULES`, size)."""
        return config.cuts

    @staticmethod
    def flops(config: MaskedByte2WordConfig, length: int) -> float:
        """Floating-point operations of the forward pass, a byte read, in rows of `length` bytes.

        Counted as for the flat model, with all W words of a row and all its predictions, used or not.
        """
        c, W = config, min(config.words, length)
        over_words = c.layers * c.sizes.flops(W)
        predictions = min(c.predictions, 2 * length) * c.slot_flops(c.vocabulary.outputs)
        return c.encoder_flops(length) + (W * over_words + predictions) / length
