"""The flat model against the same written out layer by layer, and decoding against reading whole rows."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small

from bytelm import models
from bytelm.models import ByteTransformerConfig
from bytelm.parameters import params_of

T = 20


def symbols(B=1, seed=0):
    return np.random.default_rng(seed).integers(0, 261, (B, T))


def written_out(config, params, symbols_BT, documents_BT):
    """The model as a Python loop over layers, from its parameters; attention with a mask of pairs."""
    position_T = jnp.arange(symbols_BT.shape[1])
    gap_TS = position_T[:, None] - position_T[None]
    mask_BTS = (gap_TS >= 0) & (gap_TS < (config.window or T))
    mask_BTS = mask_BTS & (documents_BT[:, :, None] == documents_BT[:, None, :])

    def norm(x, scale):
        return x / jnp.sqrt(jnp.mean(x**2, axis=-1, keepdims=True) + 1e-6) * scale

    def turn(x_BTNH):
        half = config.H // 2
        angle_Th = position_T[:, None] * config.rope_base ** (-jnp.arange(half) / half)
        z = (x_BTNH[..., :half] + 1j * x_BTNH[..., half:]) * jnp.exp(1j * angle_Th)[:, None]
        return jnp.concatenate([z.real, z.imag], axis=-1)

    x_BTD = params["table"][symbols_BT]
    for i in range(config.layers):
        p = jax.tree.map(lambda x: x[i], params["blocks"])  # noqa: B023
        h_BTD = norm(x_BTD, p["norm_attention"]["scale"])
        q, k, v = (jnp.einsum("BTD,DNH->BTNH", h_BTD, p[name]) for name in ("query", "key", "value"))
        q, k = turn(norm(q, p["norm_query"]["scale"])), turn(norm(k, p["norm_key"]["scale"]))
        k, v = (jnp.repeat(x, config.heads // config.K, axis=2) for x in (k, v))
        score = jnp.where(mask_BTS[:, None], jnp.einsum("BTNH,BSNH->BNTS", q, k) / config.H**0.5, -jnp.inf)
        a = jnp.einsum("BNTS,BSNH->BTNH", jax.nn.softmax(score), v)
        x_BTD += jnp.einsum("BTNH,NHD->BTD", a, p["out"])
        h_BTD = norm(x_BTD, p["norm_mlp"]["scale"])
        gate = h_BTD @ p["mlp"]["gate"]
        x_BTD += (gate * jax.nn.sigmoid(gate) * (h_BTD @ p["mlp"]["up"])) @ p["mlp"]["down"]
    return norm(x_BTD, params["norm"]["scale"]) @ params["head"]


@pytest.mark.parametrize("window", [None, 5])
def test_scanned_equals_written_out(window):
    model = small.build(ByteTransformerConfig, layers=3, heads=4, key_heads=2, window=window)
    params = params_of(model)
    documents_BT = np.digitize(np.arange(T), [7, 13])[None].repeat(2, axis=0)
    found = jax.jit(model.__call__)(symbols(2), documents_BT)
    slow = jax.jit(functools.partial(written_out, model.config))
    expected = slow(params, symbols(2), documents_BT)
    np.testing.assert_allclose(found, expected, atol=5e-5)
    swapped = {**params, "blocks": jax.tree.map(lambda x: x[::-1], params["blocks"])}
    assert np.abs(slow(swapped, symbols(2), documents_BT) - expected).max() > 1e-2


# ---- decoding ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("window", [None, 5], ids=["whole", "ring"])
def test_cached_equals_whole_rows(window):
    """Ragged rows, pushed at different times, against the logits of whole rows; T wraps the ring thrice."""
    model = small.build(ByteTransformerConfig, layers=2, window=window)
    rows_BT, length_B = symbols(4), np.array([1, 4, 6, 13])
    whole_BTV = jax.jit(model.__call__)(rows_BT)
    logits_BV, cache = jax.jit(model.prefill, static_argnums=2)(rows_BT, length_B, T)
    assert cache.k_LBSKH.shape[2] == (window or T)
    np.testing.assert_allclose(logits_BV, whole_BTV[np.arange(4), length_B - 1], atol=3e-5)
    decode, random = jax.jit(model.decode), np.random.default_rng(0)
    read_B = length_B.copy()
    while (read_B < T).any():
        active_B = (random.random(4) < 0.6) & (read_B < T)
        symbol_B = rows_BT[np.arange(4), np.minimum(read_B, T - 1)]
        logits_BV, cache = decode(cache, symbol_B, active_B)
        np.testing.assert_allclose(
            logits_BV[active_B], whole_BTV[np.arange(4), np.minimum(read_B, T - 1)][active_B], atol=3e-5
        )
        read_B += active_B
        np.testing.assert_array_equal(cache.length_B, read_B)


def test_padding_does_not_reach_the_cache():
    model = small.build(ByteTransformerConfig, window=5)
    prefill = jax.jit(model.prefill, static_argnums=2)
    length_B = np.array([3, 11])
    rows_BT, other_BT = symbols(2), symbols(2, seed=1)
    mixed_BT = np.where(np.arange(T) < length_B[:, None], rows_BT, other_BT)
    a, b = prefill(rows_BT, length_B, T), prefill(mixed_BT, length_B, T)
    np.testing.assert_array_equal(a[0], b[0])
    next_a, next_b = (jax.jit(model.decode)(x[1], np.array([1, 2]), np.array([True] * 2))[0] for x in (a, b))
    np.testing.assert_array_equal(next_a, next_b)


# ---- counting and sizes --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("length", "width", "window", "tolerance"),
    # The compiler counts norms and softmax too, and masked scores: half of a row's only block, and under a
    # window, where a block sees itself and the one before, as many again as are seen.
    [(128, 256, None, 0.15), (2048, 32, 64, 0.7)],
)
def test_flops_are_what_the_compiler_counts(length, width, window, tolerance):
    """One layer, head and row: the compiler counts the body of a loop once."""
    config = ByteTransformerConfig(
        layers=1, width=width, heads=1, head_width=64, window=window, dtype="float32"
    )
    model = jax.eval_shape(lambda: models.build(config, jax.random.key(0)))
    row = jax.ShapeDtypeStruct((1, length), jnp.int32)
    compiled = jax.jit(type(model).__call__).lower(model, row).compile()
    counted = compiled.cost_analysis()["flops"] / length
    assert 1 - 0.02 < counted / models.flops(config, length) < 1 + tolerance


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"width": 0}, "model.width must be positive, got 0"),
        ({"width": 10, "heads": 4}, "model.width 10 is no multiple of model.heads 4"),
        ({"head_width": 5}, "model.head_width 5 must be even"),
        ({"heads": 4, "key_heads": 3}, "no multiple of model.key_heads 3"),
        ({"dropout": 1.0}, "model.dropout must be in"),
    ],
)
def test_sizes_that_do_not_fit(fields, message):
    with pytest.raises(ValueError, match=message):
        ByteTransformerConfig(**fields)


def test_prefill_of_other_rows_does_not_matter():
    model = small.build(ByteTransformerConfig)
    prefill = jax.jit(model.prefill, static_argnums=2)
    together = prefill(symbols(3), np.array([2, 9, T]), T)[0]
    for b, length in enumerate((2, 9, T)):
        alone = prefill(symbols(3)[b : b + 1], np.array([length]), T)[0]
        np.testing.assert_allclose(alone[0], together[b], atol=1e-5)
