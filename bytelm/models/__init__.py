"""Architectures, one file each, and the one place that knows them by name."""

from __future__ import annotations

from typing import Any

import jax

from bytelm import sharding
from bytelm.models.byte_transformer import ByteTransformer, ByteTransformerConfig

ModelConfig = ByteTransformerConfig

CONSTRUCTORS: dict[type, Any] = {ByteTransformerConfig: ByteTransformer}


def build(config: ModelConfig, key: jax.Array) -> Any:
    """A new model with parameters from `key`."""
    return CONSTRUCTORS[type(config)](config, key)


def flops(config: ModelConfig, length: int) -> float:
    """Operations of the forward pass, a byte, in rows of `length` bytes."""
    return CONSTRUCTORS[type(config)].flops(config, length)


def check_mesh(config: ModelConfig, mesh: jax.sharding.Mesh, rows: int) -> None:
    """Raises ValueError where the model, or `rows` rows at once, cannot be cut evenly over `mesh`."""
    sharding.check_fits(
        mesh, rows=rows, heads=config.heads, key_heads=config.K,
        width=("embed", config.width), mlp_width=("mlp", config.F),
    )  # fmt: skip
