"""What a batch costs a model: the loss, and what its targets stand for.

Every model that is trained offers ``nats(batch, key=None)``, -log p of each target, float32 [B, T], and
``counts(batch)``, a `Counts`. Where a target carries no loss its nats mean nothing, finite though. The flat
case, one byte a target and every byte with a loss, is here. A classifier's targets are the labels of
documents, each at its document's last symbol; it also offers ``judge(batch)``: the nats, and its own choice;
and ``nats_and_followers(batch, key)``, which training takes in place of ``nats``: with the parameters that no
gradient moves, by name, as they are after the step.

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
    labels: Any = None  # bool: the target is a label; then none of the bytes carries a loss. None: no labels


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
    return (counts.bytes > 0) | counts.ends if counts.labels is None else counts.labels


def sums_of(nats_BT: jax.Array, counts: Counts) -> tuple[jax.Array, dict[str, jax.Array]]:
    """The nats of all targets that have a loss, and what a step tells of a batch: sums, float32."""
    sums = {"bytes": jnp.sum(counts.bytes), "lost": jnp.sum(counts.lost)}
    if counts.labels is not None:
        nats = jnp.sum(jnp.where(counts.labels, nats_BT, 0.0))
        sums |= {"labels": jnp.sum(counts.labels), "cut": jnp.sum(counts.labels & ~counts.ends)}
        return nats, {"label_nats": nats, **{name: x.astype(jnp.float32) for name, x in sums.items()}}
    byte_nats = jnp.sum(jnp.where(counts.bytes > 0, nats_BT, 0.0))
    end_nats = jnp.sum(jnp.where(counts.ends, nats_BT, 0.0))
    return byte_nats + end_nats, sums | {"nats": byte_nats, "end_nats": end_nats}
