"""What a batch costs a model: the loss, and what its targets stand for.

Every model that is trained offers ``nats(batch, key=None)``, -log p of each target, float32 [B, T], and
``counts(batch)``, a `Counts`. Where a target carries no loss its nats mean nothing, finite though. The flat
case, one byte a target and every byte with a loss, is here.

A model of hidden words offers two more: ``draw(batch, key)``, the batch with what chance chose to hide, as
further arrays [B, T], without which the model makes the same choice each time; and ``right(batch)``, bool
[B, W] twice: which words it gets right, and which it was asked for.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from bytelm.lm import END, LAW

Batch = dict[str, jax.Array]


class Counts(NamedTuple):
    """What each target stands for, three arrays [B, T]. Zero everywhere: padding, or a sentinel."""

    bytes: Any  # float32: real bytes whose cost the target's nats are
    ends: Any  # bool: it is an end of text, whose cost is stated apart
    lost: Any  # float32: real bytes that carry no loss, because the model's row has no room for them


def nats_of(logits_BTV: jax.Array, targets_BT: jax.Array) -> jax.Array:
    """-log p of each target, float32 [B, T]; without meaning where the target is a sentinel."""
    log_p_BTV = jax.nn.log_softmax(logits_BTV.astype(jnp.float32))
    target_BT = jnp.minimum(targets_BT.astype(jnp.int32), LAW - 1)
    return -jnp.take_along_axis(log_p_BTV, target_BT[..., None], axis=-1)[..., 0]


def counts_of(batch: Batch) -> Counts:
    """The counts of a batch of bytes all of which have a loss."""
    real_BT = batch["documents"] > 0
    bytes_BT = (real_BT & (batch["targets"] < END)).astype(jnp.float32)
    return Counts(bytes_BT, real_BT & (batch["targets"] == END), jnp.zeros_like(bytes_BT))


def with_loss(counts: Counts) -> jax.Array:
    """Which targets have a loss, bool [B, T]."""
    return (counts.bytes > 0) | counts.ends
