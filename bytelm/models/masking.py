"""Whole-word masking on the device: which words are hidden, what is predicted of them, at what cost.

A share of the words of a row is chosen (15 %; Devlin et al., BERT, arXiv 1810.04805), and the model predicts
their pieces. In training the choice is by a key, drawn once a step (`draw`, which adds it to the batch);
without one it is the same for every batch, so that evaluations compare.
"""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from bytelm.lm import END
from bytelm.loss import Batch, Counts
from bytelm.models import pieces
from bytelm.models.pieces import Candidates, Targets, Vocabulary, vocabulary
from bytelm.models.sizes import check_positive
from bytelm.models.words_layout import Layout

MASKED = -1  # what is read in the place of a word: nothing of it


@dataclasses.dataclass(frozen=True)
class Masking:
    """What the config of a model of hidden words has besides its sizes."""

    share: float = 0.15  # of the words, hidden
    mixed: bool = False  # in training leave a tenth of those as they are, and put other words for a tenth
    predictions: int = 512  # most of a row; the hidden bytes beyond carry no loss
    pieces: str = ""  # sub-words, in hex; a run with data.tokenizer fills it in. Empty: bytes

    def __post_init__(self) -> None:
        super().__post_init__()  # type: ignore[misc]  # of the sizes
        check_positive(self, "predictions")
        if not 0.0 < self.share < 1.0:
            raise ValueError(f"model.share must be in (0, 1), got {self.share}")
        vocabulary(self.pieces)

    @property
    def vocabulary(self) -> Vocabulary:
        return vocabulary(self.pieces)


class Hidden(NamedTuple):
    """The words of rows that are to be predicted, and what is read in their place; both [B, T], by word."""

    chosen_BT: Any  # bool
    read_BT: Any  # int32: the word that is read there, itself or another one's; or MASKED


def draw(batch: Batch, layout: Layout, share: float, mixed: bool, key: jax.Array | None) -> Batch:
    """The batch with a choice of words that hold bytes, for `drawn`. Without a key it is always the same, and
    nothing is read in their place.

    Args:
      share: of the words.
      mixed: of those chosen, a tenth stays as it is, and a tenth is another word of the row; in training.
    """
    shape = layout.word_BT.shape
    one, two, three = jax.random.split(jax.random.key(0) if key is None else key, 3)
    own_T = jnp.arange(shape[1], dtype=jnp.int32)
    count_B1 = layout.word_BT[:, -1:] + 1
    bytes_BT = (batch["inputs"] < END) & (batch["documents"] > 0)
    worth_BT = pieces.put(jnp.zeros(shape, bool), layout.word_BT, bytes_BT, "max")
    chosen_BT = worth_BT & (jax.random.uniform(one, shape) < share)
    instead_BT = jnp.full(shape, MASKED)
    if mixed and key is not None:
        other_BT = (jax.random.uniform(two, shape) * count_B1).astype(jnp.int32)
        kind_BT = jax.random.uniform(three, shape)
        instead_BT = jnp.where(kind_BT < 0.8, MASKED, jnp.where(kind_BT < 0.9, other_BT, own_T))
    return {**batch, "chosen": chosen_BT, "read": jnp.where(chosen_BT, instead_BT, own_T)}


def drawn(batch: Batch) -> Hidden:
    """What `draw` left in the batch."""
    return Hidden(batch["chosen"], batch["read"])


def targets(
    v: Vocabulary,
    symbols_BT: jax.Array,
    layout: Layout,
    hidden: Hidden,
    *,
    words: Any,
    most: int,
    slots: int | None,
) -> Targets:
    """At most `most` a row: the pieces of hidden ones of the first `words` words (a number, or [B, 1]), and a
    STOP after those that leave one of the `slots` (None: no STOP)."""
    T, begins_BT = symbols_BT.shape[1], layout.place_BT == 0
    cut = pieces.cut(v, symbols_BT, begins_BT)
    hidden_BT = jnp.take_along_axis(hidden.chosen_BT, layout.word_BT, axis=1) & (layout.word_BT < words)
    stops_BT = jnp.zeros_like(hidden_BT)
    if slots is not None:
        last_BT = jnp.pad(begins_BT[:, 1:], ((0, 0), (0, 1)), constant_values=True)
        stops_BT = hidden_BT & last_BT & (cut.count_BT < slots)
    return pieces.pack(
        most,
        Candidates(hidden_BT & cut.starts_BT, layout.word_BT, cut.place_BT, cut.piece_BT),
        Candidates(stops_BT, layout.word_BT, cut.count_BT, jnp.full_like(cut.piece_BT, v.stop)),
        jnp.arange(T) - layout.place_BT,
    )


def nats(targets: Targets, logits_BMV: jax.Array, T: int) -> jax.Array:
    """The cost of what is predicted, at the symbols that bear it, float32 [B, T]; 0 elsewhere."""
    law_BMV = jax.nn.log_softmax(logits_BMV)
    nats_BM = -jnp.take_along_axis(law_BMV, targets.output_BM[..., None], axis=-1)[..., 0]
    return pieces.costs(targets, nats_BM, T)


def counts(batch: Batch, layout: Layout, hidden: Hidden, words: Any, limit_B: jax.Array) -> Counts:
    """The bytes of hidden words; those beyond the first `words`, and beyond the limit of predictions, are
    lost."""
    hidden_BT = jnp.take_along_axis(hidden.chosen_BT, layout.word_BT, axis=1)
    bytes_BT = (hidden_BT & (batch["documents"] > 0) & (batch["inputs"] < END)).astype(jnp.float32)
    t_T = jnp.arange(bytes_BT.shape[1])
    kept_BT = (layout.word_BT < words) & (t_T < limit_B[:, None])
    return Counts(
        jnp.where(kept_BT, bytes_BT, 0.0), jnp.zeros_like(hidden_BT), jnp.where(kept_BT, 0.0, bytes_BT)
    )


def right(targets: Targets, guess_BM: jax.Array, words: int) -> tuple[jax.Array, jax.Array]:
    """Which words are predicted rightly, in all that is predicted of them, and which at all; bool [B, W]."""
    at_BM = jnp.minimum(targets.word_BM, words - 1)
    none_BW = jnp.zeros((len(guess_BM), words), bool)
    wrong_BW = pieces.put(none_BW, at_BM, targets.real_BM & (guess_BM != targets.output_BM), "max")
    asked_BW = pieces.put(none_BW, at_BM, targets.real_BM, "max")
    return asked_BW & ~wrong_BW, asked_BW
