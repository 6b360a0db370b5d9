"""Small layers against their formulas."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bytelm import layers


def normal(*shape, seed=0):
    return jax.random.normal(jax.random.key(seed), shape)


@pytest.mark.parametrize(("I", "O"), [(6, 10), (10, 6), (7, 7)])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_linear_and_its_gradients_equal_a_product(I, O, dtype):
    x_BTI, w_IO, grad_BTO = normal(2, 5, I).astype(dtype), normal(I, O, seed=1), normal(2, 5, O, seed=2)
    found, back = jax.vjp(layers.linear, x_BTI, w_IO)
    expected, back_expected = jax.vjp(lambda x, w: x @ w.astype(x.dtype), x_BTI, w_IO)
    gradients = back(grad_BTO.astype(dtype))
    assert [g.dtype for g in (found, *gradients)] == [dtype, dtype, jnp.float32]
    tolerance = 1e-6 if dtype == jnp.float32 else 2e-2
    for a, b in zip((found, *gradients), (expected, *back_expected(grad_BTO.astype(dtype))), strict=True):
        a, b = (np.asarray(x, np.float32) for x in (a, b))
        np.testing.assert_allclose(a, b, atol=tolerance * np.abs(b).max())


def test_heads():
    x_BTD, w_DNH, w_NHD = normal(2, 3, 8), normal(8, 4, 6, seed=1), normal(4, 6, 8, seed=2)
    split_BTNH = layers.split_heads(x_BTD, w_DNH)
    np.testing.assert_allclose(split_BTNH, jnp.einsum("BTD,DNH->BTNH", x_BTD, w_DNH), rtol=1e-5, atol=1e-5)
    merged_BTD = layers.merge_heads(split_BTNH, w_NHD)
    np.testing.assert_allclose(
        merged_BTD, jnp.einsum("BTNH,NHD->BTD", split_BTNH, w_NHD), rtol=1e-5, atol=1e-4
    )


def test_norm():
    x_TD = normal(3, 8) * 100
    norm = layers.RMSNorm(8)
    np.testing.assert_allclose(jnp.mean(norm(x_TD) ** 2, axis=-1), 1.0, rtol=1e-4)
    np.testing.assert_allclose(norm(x_TD), norm(x_TD * 7), rtol=1e-4)
    assert norm(x_TD.astype(jnp.bfloat16)).dtype == jnp.bfloat16


def test_positions_are_relative():
    q_1TNH, k_1TNH = normal(1, 9, 2, 6), normal(1, 9, 2, 6, seed=1)

    def scores(offset):
        position_T = jnp.arange(9) + offset
        q, k = (layers.rope(x, position_T, 100.0) for x in (q_1TNH, k_1TNH))
        return jnp.einsum("BTNH,BSNH->BNTS", q, k)

    np.testing.assert_allclose(scores(0), scores(50), atol=2e-5)
    plain = jnp.einsum("BTNH,BSNH->BNTS", q_1TNH, k_1TNH)
    assert np.abs(scores(0) - plain).max() > 0.1  # they do turn
    np.testing.assert_allclose(  # but not a symbol against itself
        np.diagonal(scores(0), axis1=2, axis2=3), np.diagonal(plain, axis1=2, axis2=3), atol=2e-5
    )


def test_dropout():
    x = jnp.ones((100, 100))
    assert layers.dropout(x, 0.25, None) is x
    assert layers.dropout(x, 0.0, jax.random.key(0)) is x
    dropped = layers.dropout(x, 0.25, jax.random.key(0))
    assert set(np.unique(dropped)) == {np.float32(0), np.float32(1 / 0.75)}
    assert abs(float(dropped.mean()) - 1) < 0.03
    assert (dropped != layers.dropout(x, 0.25, jax.random.key(1))).any()
