"""The baseline beside Byte2Word: a model of BERT's shape (Devlin et al., arXiv 1810.04805) over sub-words.

It reads the same rows of bytes. The same boundary rule cuts them into words, and the words are cut into the
longest pieces of a vocabulary, as BERT's are. A table makes the vectors of pieces, the stack over them is
Byte2Word's, and all pieces of a hidden word are hidden (whole-word masking), each predicted at its own place:
the model is told how many they are, which Byte2Word must say by STOP. Costs count for bytes as there.
"""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from bytelm import layers
from bytelm.layers import Block
from bytelm.loss import Batch, Counts
from bytelm.models import masking, pieces
from bytelm.models.byte2word_parts import Slots, StackSizes, logits_of, run_stack
from bytelm.models.masking import Hidden, Masking
from bytelm.models.pieces import Targets
from bytelm.models.sizes import check_positive
from bytelm.models.words_layout import Layout, read_layout
from bytelm.parameters import param, stack


@dataclasses.dataclass(frozen=True)
class BertConfig(Masking, StackSizes):
    """Sizes of a BERT over sub-words."""

    units: int = 1024  # most pieces of a row; words that would need more carry no loss

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(self, "units")


class Units(NamedTuple):
    """The pieces of rows, U of them."""

    layout: Layout  # of words
    number_BT: jax.Array  # the piece of each symbol
    piece_BU: jax.Array
    word_BU: jax.Array
    document_BU: jax.Array  # 0: there is no such piece
    first_BW: jax.Array  # the first piece of each word
    words_B1: jax.Array  # words all of whose pieces have room


class Bert(nnx.Module):
    """See the module. Made with a key; parameters are float32, cast at use."""

    def __init__(self, config: BertConfig, key: jax.Array):
        c, D, V = config, config.width, config.vocabulary.outputs
        keys = jax.random.split(key, 3)
        self.table = param(keys[0], (V, D), (None, None), scale=0.02)  # that of STOP is the mask's
        self.blocks = stack(lambda k: Block(c.sizes, k), c.layers, keys[1])
        self.slots = Slots(D, c.hidden, 1, keys[2])
        self.head = param(None, (c.hidden, V), (None, None), scale=0.0)
        self.config = config

    def states(
        self,
        symbols_BT: jax.Array,
        documents_BT: jax.Array | None = None,
        key: jax.Array | None = None,
    ) -> tuple[jax.Array, jax.Array]:
        """As `MaskedByte2Word.states`, of pieces: [B, U, D] and int32 [B, U]."""
        units = self._units(symbols_BT, documents_BT)
        return self.slots.norm(self._states(units, None, key)), units.document_BU

    def draw(self, batch: Batch, key: jax.Array | None) -> Batch:
        """The batch with the words that are hidden in it; see `bytelm.loss`."""
        at = self._layout(batch["inputs"], batch["documents"])
        return masking.draw(batch, at, self.config.share, self.config.mixed, key)

    def nats(self, batch: Batch, key: jax.Array | None = None) -> jax.Array:
        """The cost of the pieces of hidden words, each at its first byte, float32 [B, T]; 0 elsewhere."""
        return masking.nats(*self._predict(batch, key), batch["inputs"].shape[1])

    def counts(self, batch: Batch) -> Counts:
        """The bytes of hidden words. Those beyond U pieces, or beyond the limit of predictions, are lost."""
        units, hidden = self._hidden(batch)
        limit_B = self._targets(batch, units, hidden).limit_B
        return masking.counts(batch, units.layout, hidden, units.words_B1, limit_B)

    def right(self, batch: Batch) -> tuple[jax.Array, jax.Array]:
        """Whether all pieces of each word are the most likely ones, and whether it was hidden and predicted
        at all; bool [B, T], by word."""
        targets, logits_BMV = self._predict(batch, None)
        return masking.right(targets, jnp.argmax(logits_BMV, axis=-1), batch["inputs"].shape[1])

    # ---- parts -----------------------------------------------------------------------------------------

    def _layout(self, symbols_BT: jax.Array, documents_BT: jax.Array | None) -> Layout:
        documents_BT = documents_BT if self.config.isolate_documents else None
        return read_layout(self.config.boundaries, symbols_BT, documents_BT, symbols_BT.shape[1], 1)

    def _units(self, symbols_BT: jax.Array, documents_BT: jax.Array | None) -> Units:
        at, T = self._layout(symbols_BT, documents_BT), symbols_BT.shape[1]
        U = min(self.config.units, T)
        cut = pieces.cut(self.config.vocabulary, symbols_BT, at.place_BT == 0)
        find = jax.vmap(lambda starts_T: jnp.nonzero(starts_T, size=U + 1, fill_value=T)[0])
        start_BU = find(cut.starts_BT)
        over_B1 = start_BU[:, -1:]
        words_B1 = jnp.take_along_axis(at.word_BT, jnp.minimum(over_B1, T - 1), axis=1)
        words_B1 = jnp.where(over_B1 < T, words_B1, T)
        start_BU = start_BU[:, :-1]
        at_BU = jnp.minimum(start_BU, T - 1)
        document_BT = jnp.ones_like(at.word_BT) if documents_BT is None else documents_BT.astype(jnp.int32)
        piece_BU, word_BU, document_BU = (
            jnp.take_along_axis(x, at_BU, axis=1) for x in (cut.piece_BT, at.word_BT, document_BT)
        )
        first_BW = jax.vmap(lambda word_U: jnp.searchsorted(word_U, jnp.arange(T)))(word_BU)
        document_BU = jnp.where(start_BU < T, document_BU, 0)
        return Units(at, cut.number_BT, piece_BU, word_BU, document_BU, first_BW, words_B1)

    def _hidden(self, batch: Batch) -> tuple[Units, Hidden]:
        batch = batch if "chosen" in batch else self.draw(batch, None)
        return self._units(batch["inputs"], batch["documents"]), masking.drawn(batch)

    def _targets(self, batch: Batch, units: Units, hidden: Hidden) -> Targets:
        c = self.config
        return masking.targets(
            c.vocabulary, batch["inputs"], units.layout, hidden,
            words=units.words_B1, most=min(c.predictions, batch["inputs"].shape[1]), slots=None,
        )  # fmt: skip

    def _predict(self, batch: Batch, key: jax.Array | None) -> tuple[Targets, jax.Array]:
        units, hidden = self._hidden(batch)
        targets = self._targets(batch, units, hidden)
        z_BUD = self._states(units, hidden, key)
        number_BM = jnp.take_along_axis(units.number_BT, targets.at_BM, axis=1)
        at_BM1 = jnp.minimum(number_BM, z_BUD.shape[1] - 1)[..., None]
        z_BMD = jnp.take_along_axis(z_BUD, at_BM1, axis=1)
        return targets, logits_of(self.slots(z_BMD, jnp.zeros_like(targets.slot_BM)), self.head)

    def _states(self, units: Units, hidden: Hidden | None, key: jax.Array | None) -> jax.Array:
        c, piece_BU = self.config, units.piece_BU
        if hidden is not None:
            read_BU = jnp.take_along_axis(hidden.read_BT, units.word_BU, axis=1)
            first_BU = jnp.take_along_axis(units.first_BW, jnp.maximum(read_BU, 0), axis=1)
            of_other_BU = jnp.take_along_axis(piece_BU, jnp.minimum(first_BU, piece_BU.shape[1] - 1), axis=1)
            piece_BU = jnp.where(read_BU == units.word_BU, piece_BU, of_other_BU)
            piece_BU = jnp.where(read_BU == masking.MASKED, c.vocabulary.stop, piece_BU)
        x_BUD = self.table[...].astype(layers.compute_dtype(c.dtype))[piece_BU]
        apart_BU = units.document_BU if c.isolate_documents else jnp.minimum(units.document_BU, 1)
        return run_stack(self.blocks, x_BUD, apart_BU, key, remat=c.remat, causal=False)

    # ---- sizes -----------------------------------------------------------------------------------------

    @staticmethod
    def cuts(config: BertConfig) -> dict[str, tuple[str, int]]:
        """Sizes that a mesh cuts: field of the config -> (name of `bytelm.sharding.RULES`, size)."""
        return config.cuts

    @staticmethod
    def flops(config: BertConfig, length: int) -> float:
        """Floating-point operations of the forward pass, a byte read, in rows of `length` bytes.

        Counted as for the flat model, with all U pieces of a row and all its predictions, used or not.
        """
        c, U = config, min(config.units, length)
        predictions = min(c.predictions, length) * c.slot_flops(c.vocabulary.outputs)
        return (U * c.layers * c.sizes.flops(U) + predictions) / length
