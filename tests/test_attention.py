"""Attention by blocks, over a cache and by XLA, against scores written out pair by pair."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bytelm.attention import attend, attend_cached, blocks, xla

BLOCK = 8
H = 4

# (T, N, K, window, documents): around the edges of blocks, windows of a part of a block to several.
CASES = [
    (1, 2, 2, None, False),
    (5, 2, 1, None, True),
    (BLOCK + 1, 4, 2, BLOCK, True),
    (2 * BLOCK, 4, 1, 1, False),
    (3 * BLOCK + 3, 4, 2, BLOCK + 1, False),
    (3 * BLOCK + 3, 2, 1, 2 * BLOCK, True),
    (3 * BLOCK, 2, 2, 100, True),
]


def arrays(T, N, K, seed=0, B=3):
    random = np.random.default_rng([T, N, K, seed])
    q_BTNH = random.standard_normal((B, T, N, H))
    k_BTKH, v_BTKH = random.standard_normal((2, B, T, K, H))
    documents_BT = np.cumsum(random.random((B, T)) < 0.2, axis=1).astype(np.int32)
    return (*(jnp.asarray(x, jnp.float32) for x in (q_BTNH, k_BTKH, v_BTKH)), documents_BT)


def visible(T, window, documents_BT):
    """Which keys a query sees, [B, T, S]."""
    t, s = np.mgrid[:T, :T]
    mask = (s <= t) & (t - s < (window or T))
    return mask & (documents_BT[:, :, None] == documents_BT[:, None, :])


def reference(q_BTNH, k_BTKH, v_BTKH, mask_BTS):
    groups = q_BTNH.shape[2] // k_BTKH.shape[2]
    k_BSNH, v_BSNH = (jnp.repeat(x, groups, axis=2) for x in (k_BTKH, v_BTKH))
    score_BNTS = jnp.einsum("BTNH,BSNH->BNTS", q_BTNH, k_BSNH) / H**0.5
    share_BNTS = jax.nn.softmax(jnp.where(mask_BTS[:, None], score_BNTS, -jnp.inf))
    return jnp.einsum("BNTS,BSNH->BTNH", share_BNTS, v_BSNH)


def value_and_gradients(f, *arrays):
    """What `f` gives, and the gradients of a sum of it with weights that differ everywhere."""

    def loss(*arrays):
        out = f(*arrays).astype(jnp.float32)
        return jnp.sum(out * jnp.cos(jnp.arange(out.size)).reshape(out.shape)), out

    gradients, out = jax.jit(jax.grad(loss, argnums=range(len(arrays)), has_aux=True))(*arrays)
    return jax.tree.map(lambda x: np.asarray(x, np.float32), (out, *gradients))


@pytest.fixture
def small_blocks(monkeypatch):
    monkeypatch.setattr(blocks, "BLOCK", BLOCK)


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize(("T", "N", "K", "window", "isolate"), CASES)
def test_blocked_equals_pair_by_pair(T, N, K, window, isolate):
    *qkv, documents_BT = arrays(T, N, K)
    documents_BT = documents_BT if isolate else np.zeros_like(documents_BT)
    mask_BTS = visible(T, window, documents_BT)
    expected = value_and_gradients(lambda *x: reference(*x, mask_BTS), *qkv)
    found = value_and_gradients(lambda *x: attend(*x, documents_BT if isolate else None, window), *qkv)
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, atol=2e-6)


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize(
    ("T", "window", "at_once"), [(21, None, 1), (21, 3, 1), (21, 3, 700), (7, None, 200)]
)
def test_units_one_or_a_few_at_a_time_are_all_at_once(monkeypatch, T, window, at_once):
    """Six units, one row and key head each: as many at a time as fit into so many scores."""
    *qkv, documents_BT = arrays(T, 4, 2)
    outs = []
    for scores in (2**19, at_once):
        monkeypatch.setattr(blocks, "AT_ONCE", scores)
        run = jax.jit(lambda *x: attend(*x, documents_BT, window))
        outs.append((run(*qkv), str(jax.make_jaxpr(run)(*qkv))))
    np.testing.assert_allclose(outs[0][0], outs[1][0], atol=1e-6)
    assert outs[0][1] != outs[1][1]


@pytest.mark.parametrize("how", ["whole", "bands"])
@pytest.mark.parametrize(("window", "isolate"), [(5, True), (4, False)])
def test_elsewhere_than_on_cpu(how, window, isolate):
    """What runs on GPU and TPU, here on CPU."""
    *qkv, documents_BT = arrays(21, 4, 2)
    seen = xla.seen(jnp.asarray(documents_BT) if isolate else None, window, 1, True, 21)
    run = {"whole": xla.whole, "bands": partial(xla.bands, window=window, causal=True)}[how]
    found = value_and_gradients(lambda *x: run(*x, *seen), *qkv)
    mask_BTS = visible(21, window, documents_BT if isolate else np.zeros_like(documents_BT))
    for a, b in zip(found, value_and_gradients(lambda *x: reference(*x, mask_BTS), *qkv), strict=True):
        np.testing.assert_allclose(a, b, atol=2e-6)


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize(("span", "window"), [(1, 3), (1, 9), (3, 4), (2, None)])
@pytest.mark.parametrize("causal", [True, False])
def test_words(span, window, causal):
    """Words instead of documents: the last few, and both ways."""
    *qkv, words_BT = arrays(21, 4, 2)
    t, s = np.mgrid[:21, :21]
    mask_BTS = np.abs(words_BT[:, :, None] - words_BT[:, None, :]) < span
    mask_BTS &= (np.abs(t - s) < (window or 21)) & ((s <= t) | (not causal))
    expected = value_and_gradients(lambda *x: reference(*x, mask_BTS), *qkv)
    found = value_and_gradients(lambda *x: attend(*x, jnp.asarray(words_BT), window, span, causal), *qkv)
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, atol=2e-6)


def test_gradients_under_vmap():
    """Of many cotangents at once as of each alone: here XLA's CPU code once went wrong, for grouped keys."""
    T, V = 40, 39
    q_BTNH, k_BTKH, v_BTKH, documents_BT = arrays(T, 2, 1, B=1)
    pull = jax.vjp(lambda *x: attend(*x, jnp.asarray(documents_BT)), q_BTNH, k_BTKH, v_BTKH)[1]
    grads_VBTNH = jnp.asarray(np.random.default_rng(0).standard_normal((V, *q_BTNH.shape)), jnp.float32)
    together = jax.jit(jax.vmap(pull))(grads_VBTNH)
    for i in (0, 13, V - 1):
        for a, b in zip(together, pull(grads_VBTNH[i]), strict=True):
            np.testing.assert_allclose(a[i], b, atol=1e-5)


def test_blocks_of_the_real_size():
    T = blocks.BLOCK * 2 + 5
    *qkv, documents_BT = arrays(T, 2, 1, B=1)
    mask_BTS = visible(T, blocks.BLOCK + 7, documents_BT)
    expected = value_and_gradients(lambda *x: reference(*x, mask_BTS), *qkv)
    found = value_and_gradients(lambda *x: attend(*x, documents_BT, blocks.BLOCK + 7), *qkv)
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, atol=5e-6)


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("shift", [-1, 1])
def test_control_one_wrong_pair_shows(shift):
    """The comparisons above would see a window wrong by one, in values and in gradients of every input."""
    *qkv, documents_BT = arrays(11, 2, 2)
    mask_BTS = visible(11, 10 + shift, np.zeros_like(documents_BT))  # 10 hides but the pair (10, 0)
    wrong = value_and_gradients(lambda *x: reference(*x, mask_BTS), *qkv)
    for a, b in zip(value_and_gradients(lambda *x: attend(*x, None, 10), *qkv), wrong, strict=True):
        assert np.abs(a - b).max() > 1e-3


@pytest.mark.usefixtures("small_blocks")
def test_bfloat16_is_near():
    *qkv, documents_BT = arrays(21, 4, 2)
    half = [x.astype(jnp.bfloat16) for x in qkv]
    found = value_and_gradients(lambda *x: attend(*x, documents_BT, 9), *half)
    mask_BTS = visible(21, 9, documents_BT)
    expected = value_and_gradients(lambda *x: reference(*x, mask_BTS), *(x.astype(jnp.float32) for x in half))
    assert attend(*half).dtype == jnp.bfloat16
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, atol=0.03 * np.abs(b).max())


def test_large_scores_stay_finite():
    *qkv, _ = arrays(21, 2, 2)
    for x in value_and_gradients(attend, qkv[0] * 1e4, qkv[1] * 1e4, qkv[2]):
        assert np.isfinite(x).all()


def test_cached_equals_a_whole_row():
    q_BTNH, k_BTKH, v_BTKH, documents_BT = arrays(12, 4, 2)
    seen_BTS = visible(12, None, documents_BT)
    expected = reference(q_BTNH, k_BTKH, v_BTKH, seen_BTS)
    for t in (0, 7, 11):
        found = attend_cached(q_BTNH[:, t], k_BTKH, v_BTKH, seen_BTS[:, t])
        np.testing.assert_allclose(found, expected[:, t], atol=2e-6)
    seen_BTS[0, 11, 11] ^= True
    wrong = attend_cached(q_BTNH[:, 11], k_BTKH, v_BTKH, seen_BTS[:, 11])
    assert np.abs(wrong - expected[:, 11]).max() > 1e-3
