"""Counts of parameters and operations: by hand, by formula, by the compiler."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import pytest

from bytelm import models
from bytelm.lm import LAW, NUM_SYMBOLS
from bytelm.models import ByteTransformerConfig, cost

MODEL = ByteTransformerConfig(layers=3, width=128, heads=2, mlp_width=256)


def test_parameters_by_hand():
    D, F, L = 128, 256, 3
    found = cost.parameters(MODEL)
    assert found.tables == D * (NUM_SYMBOLS + LAW)
    assert found.body == L * (4 * D * D + 3 * D * F + 2 * D + 2 * 64) + D
    assert found.total == found.tables + found.body


def test_embedding_share():
    share = cost.embedding_share(MODEL, vocabulary=8192, width=256)
    assert share == pytest.approx(NUM_SYMBOLS / 8192 * 128 / 256)


def test_the_compiler_counts_every_turn_of_a_loop():
    x = jax.ShapeDtypeStruct((8, 64), jnp.float32)
    w = jax.ShapeDtypeStruct((5, 64, 64), jnp.float32)

    def nested(x, w):
        return jax.jit(lambda x: jax.lax.scan(jax.checkpoint(lambda x, w: (x @ w, None)), x, w)[0])(x)

    assert cost.compiler_flops(nested, x, w) == 5 * 2 * 8 * 64 * 64
    once = jax.jit(nested).lower(x, w).cost_analysis()["flops"]
    assert once < 2 * 2 * 8 * 64 * 64  # control: its own analysis alone does not


@pytest.mark.parametrize("changes", [{}, {"layers": 6}, {"window": 64}, {"key_heads": 1}])
def test_formula_and_compiler_agree(changes):
    config = dataclasses.replace(MODEL, dtype="float32", **changes)
    found = cost.flops(config, 256)
    assert found.analytic == models.flops(config, 256)
    assert 1.0 < found.compiler / found.analytic < 1.25  # norms and softmax weigh more in small models
    other = cost.flops(dataclasses.replace(config, width=256), 256)  # control: not the same for all
    assert other.compiler > 1.8 * found.compiler
