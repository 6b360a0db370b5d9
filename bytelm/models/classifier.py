"""A classifier of documents: any language model up to its last hidden states, their mean, a linear layer.

The units of the mean are the backbone's: bytes, words or tokens. The backbone is the whole language model, so
that its parameters are those of a run of it (``--init-from``); what it needs only to predict bytes rests.

The means of all documents have much in common, beside which what tells documents apart is small: over n units
it shrinks as 1 / sqrt(n), and chance in a batch's labels moves the parameters along the common part. For
models that begin from scratch and read long documents there are two remedies. `centring`: in training the
mean of a batch's logits is taken off, as batch normalization does (Ioffe and Szegedy, arXiv 1502.03167); in
use, a running mean of it, so that what is said of a document does not depend on others. `gain`: a factor of
the means.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx

from bytelm import layers
from bytelm.loss import Batch, Counts, counts_of
from bytelm.models.backbones import BACKBONES, BackboneConfig
from bytelm.models.byte_transformer import ByteTransformerConfig
from bytelm.parameters import param


@dataclasses.dataclass(frozen=True)
class ClassifierConfig:
    """A language model and what it is to tell apart."""

    backbone: BackboneConfig = dataclasses.field(default_factory=ByteTransformerConfig)
    labels: tuple[str | int, ...] = ()  # in the order of their probabilities; (): those of the training data
    dropout: float = 0.1  # of a document's mean
    gain: float = 1.0  # of a document's mean; about the inverse of how far the means spread
    # The share of the way that the running mean of logits goes to that of a batch; 0: logits are not centred.
    # For batches (parts, with training.accumulate) of many documents: of one nothing is left to learn from.
    # For labels about equally frequent: how frequent each is, the bias alone can learn, at the rate's pace.
    centring: float = 0.0

    def __post_init__(self) -> None:
        if not 0.0 <= self.dropout < 1.0:
            raise ValueError(f"model.dropout must be in [0, 1), got {self.dropout}")
        if not self.gain > 0.0:
            raise ValueError(f"model.gain must be above 0, got {self.gain}")
        if not 0.0 <= self.centring <= 1.0:
            raise ValueError(f"model.centring must be in [0, 1], got {self.centring}")
        if len(set(self.labels)) != len(self.labels) or len(self.labels) == 1:
            raise ValueError(f"model.labels must be two or more different ones, got {self.labels}")
        if not self.backbone.isolate_documents:
            raise ValueError("model.backbone.isolate_documents must be on: documents are classified apart")


class Classifier(nnx.Module):
    """See the module. Made with a key; parameters are float32, cast at use."""

    def __init__(self, config: ClassifierConfig, key: jax.Array):
        self.backbone = BACKBONES[type(config.backbone)](config.backbone, key)
        shape = (config.backbone.width, len(config.labels))
        self.head = param(None, shape, (None, None), scale=0.0)
        self.bias = param(None, shape[1:], (None,), scale=0.0)
        if config.centring:
            self.center = param(None, shape[1:], (None,), scale=0.0)  # the running mean of logits
        self.config = config

    def __call__(
        self, symbols_BT: jax.Array, documents_BT: jax.Array, key: jax.Array | None = None
    ) -> jax.Array:
        """Logits of the labels, float32 [B, T, labels]: at each symbol those of its document.

        Args:
          symbols_BT: what the backbone reads.
          documents_BT: whole documents, numbered from 1 in each row, at most T of them; 0: padding, where the
            logits mean nothing.
          key: for dropout; None for none.
        """
        center_C = self.center[...] if self.config.centring else 0.0
        return self._scores(symbols_BT, documents_BT, key) - center_C + self.bias[...]

    def _scores(self, symbols_BT: jax.Array, documents_BT: jax.Array, key: jax.Array | None) -> jax.Array:
        """The logits before they are centred and the bias added."""
        (B, T), rate = symbols_BT.shape, self.config.dropout
        inner, outer = (None, None) if key is None else jax.random.split(key)
        z_BUD, document_BU = self.backbone.states(symbols_BT, documents_BT, inner)
        # The mean is linear, so it is taken of the few logits of each unit. For that documents of a row share
        # what dropout leaves out.
        kept_B1D = layers.dropout(jnp.ones((B, 1, z_BUD.shape[-1]), z_BUD.dtype), rate, outer)
        head_DC = self.head[...].astype(z_BUD.dtype)
        y_BUC = self.config.gain * jnp.matmul(z_BUD * kept_B1D, head_DC, preferred_element_type=jnp.float32)
        sum_up = jax.vmap(lambda y_U, document_U: jax.ops.segment_sum(y_U, document_U, num_segments=T + 1))
        units_BN = sum_up(jnp.ones(document_BU.shape, jnp.float32), document_BU)
        mean_BNC = sum_up(y_BUC, document_BU) / jnp.maximum(units_BN, 1.0)[..., None]
        return jnp.take_along_axis(mean_BNC, documents_BT[..., None], axis=1)

    def nats(self, batch: Batch, key: jax.Array | None = None) -> jax.Array:
        """-log p of the label, float32 [B, T]; without meaning where a symbol has none (-1)."""
        return self.judge(batch, key)[0]

    def nats_and_followers(
        self, batch: Batch, key: jax.Array | None = None
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """In training: `nats`, with the logits centred over the documents of the batch where the config says
        so; and the parameters that no gradient moves, by name, as they are after this step."""
        if not self.config.centring:
            return self.nats(batch, key), {}
        scores_BTC = self._scores(batch["inputs"], batch["documents"], key)
        told_BT1 = (batch["labels"] >= 0)[..., None]
        mean_C = jnp.sum(scores_BTC, axis=(0, 1), where=told_BT1) / jnp.maximum(jnp.sum(told_BT1), 1)
        center_C = self.center[...] + self.config.centring * (mean_C - self.center[...])
        return _nats(scores_BTC - mean_C + self.bias[...], batch), {"center": center_C}

    def judge(self, batch: Batch, key: jax.Array | None = None) -> tuple[jax.Array, jax.Array]:
        """`nats`, and the most probable label, int32 [B, T]."""
        logits_BTC = self(batch["inputs"], batch["documents"], key)
        return _nats(logits_BTC, batch), jnp.argmax(logits_BTC, axis=-1).astype(jnp.int32)

    def counts(self, batch: Batch) -> Counts:
        """The labels, each at its document's last symbol. Bytes are those read, or lost for want of words; a
        document whose label is no end of text was cut."""
        # What a model of hidden words counts is hidden bytes.
        counts = counts_of(batch) if hasattr(self.backbone, "right") else self.backbone.counts(batch)
        return counts._replace(labels=batch["labels"] >= 0)

    @staticmethod
    def cuts(config: ClassifierConfig) -> dict[str, tuple[str, int]]:
        """Sizes that a mesh cuts: field of the config -> (name of `bytelm.sharding.RULES`, size)."""
        cuts = BACKBONES[type(config.backbone)].cuts(config.backbone)
        return {f"backbone.{name}": cut for name, cut in cuts.items()}

    @staticmethod
    def flops(config: ClassifierConfig, length: int) -> float:
        """Those of the backbone as a language model, an upper bound: no symbol is predicted."""
        return BACKBONES[type(config.backbone)].flops(config.backbone, length)


def _nats(logits_BTC: jax.Array, batch: Batch) -> jax.Array:
    label_BT1 = jnp.maximum(batch["labels"], 0)[..., None]
    return -jnp.take_along_axis(jax.nn.log_softmax(logits_BTC), label_BT1, axis=-1)[..., 0]
