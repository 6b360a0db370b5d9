"""The kernels of accelerators: what can be known of them on a CPU.

Splash attention runs in Pallas' interpreter. cuDNN's kernel cannot run: jax's own implementation of the
function that calls it stands in for it, so what is tested is that it is asked for the right thing.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_attention import arrays, reference, value_and_gradients

from bytelm.attention import attend, kernels, xla

# (T, window, documents, causal): whole tiles and parts of one, one tile and several.
QUICK = [(200, None, True, True), (256, 130, True, True)]
OTHERS = [
    (256, None, False, True),
    (300, 200, False, True),
    (200, None, True, False),
    (300, 90, False, False),
]
ALL = [*QUICK, *(pytest.param(*case, marks=pytest.mark.slow) for case in OTHERS)]


def seen(T, window, causal, documents_BT):
    """Which keys a query sees, [B, T, S]."""
    t, s = np.mgrid[:T, :T]
    mask = (np.abs(t - s) < (window or T)) & ((s <= t) | (not causal))
    return mask & (documents_BT[:, :, None] == documents_BT[:, None, :])


def both(kernel, T, window, isolate, causal, isolated=None):
    """What `kernel` gives and what it should, values and gradients: long documents, grouped keys."""
    *qkv, _ = arrays(T, 2, 1, B=2)
    documents_BT = np.cumsum(np.random.default_rng(T).random((2, T)) < 0.02, axis=1).astype(np.int32)
    documents_BT = documents_BT if isolate else np.zeros_like(documents_BT)
    low_BT, high_BT = xla.seen(jnp.asarray(documents_BT) if isolate else None, window, 1, causal, T)
    how = {"window": window, "causal": causal, "isolated": isolate if isolated is None else isolated}
    found = value_and_gradients(lambda *x: kernel(*x, low_BT, high_BT, **how), *qkv)
    mask_BTS = seen(T, window, causal, documents_BT)
    return found, value_and_gradients(lambda *x: reference(*x, mask_BTS), *qkv)


interpreted = functools.partial(kernels.splash, interpret=True)


@pytest.mark.parametrize(("T", "window", "isolate", "causal"), ALL)
def test_splash(T, window, isolate, causal):
    for a, b in zip(*both(interpreted, T, window, isolate, causal), strict=True):
        np.testing.assert_allclose(a, b, atol=5e-6)


def test_control_splash_without_the_numbers_of_documents():
    for a, b in zip(*both(interpreted, *QUICK[0], isolated=False), strict=True):
        assert np.abs(a - b).max() > 1e-2


def test_what_is_compiled_for_a_tpu(monkeypatch):
    """The kernel, forwards and backwards, where it can do what is asked; else none."""
    monkeypatch.setattr(jax, "default_backend", lambda: "tpu")
    monkeypatch.setattr(kernels, "works", lambda *_, **__: True)
    documents = jax.ShapeDtypeStruct((2, 300), jnp.int32)
    q, k = (jax.ShapeDtypeStruct((2, 300, n, 64), jnp.bfloat16) for n in (4, 2))

    def calls(**how):
        loss = lambda q, k, v, x: jnp.sum(attend(q, k, v, x, **how).astype(jnp.float32))  # noqa: E731
        program = jax.export.export(jax.jit(jax.grad(loss, argnums=(0, 1, 2))), platforms=["tpu"])
        return program(q, k, k, documents).mlir_module().count("custom_call @tpu_custom_call")

    assert calls() == 3  # forwards, and backwards for queries and for keys
    assert calls(span=2, window=280) == calls(window=32) == 0


# ---- cuDNN ---------------------------------------------------------------------------------------------


@pytest.fixture
def as_if_cudnn(monkeypatch):
    """A function that puts another way to compute in the place of cuDNN."""
    real = jax.nn.dot_product_attention
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(kernels, "TRIED", 32)
    kernels.works.cache_clear()

    def put(stand_in):
        def attention(*args, implementation=None, **how):
            return stand_in(*args, **how) if implementation == "cudnn" else real(*args, **how)

        monkeypatch.setattr(jax.nn, "dot_product_attention", attention)

    put(real)
    yield put
    kernels.works.cache_clear()


@pytest.mark.usefixtures("as_if_cudnn")
@pytest.mark.parametrize("isolate", [True, False])
@pytest.mark.parametrize(("window", "causal"), [(None, True), (7, True), (None, False), (7, False)])
def test_what_cudnn_is_asked_for(window, isolate, causal):
    for a, b in zip(*both(kernels.cudnn, 40, window, isolate, causal), strict=True):
        np.testing.assert_allclose(a, b, atol=5e-6)


def chosen(dtype="bfloat16", T=512, isolated=True, window=None):
    x = jax.ShapeDtypeStruct((2, T, 4, 8), dtype)
    return list(kernels.of_backend(x, x, window=window, causal=True, isolated=isolated))


def test_where_cudnn_is_taken(as_if_cudnn):
    assert chosen() == chosen(isolated=False) == chosen(window=300) == ["cuda"]
    assert chosen("float32") == chosen(T=100) == chosen(T=513) == chosen(window=64) == []


def test_a_kernel_that_computes_something_else_is_left_alone(as_if_cudnn):
    """Here one that forgets the mask: right without documents, wrong with them."""
    real = jax.nn.dot_product_attention
    as_if_cudnn(lambda *args, mask=None, **how: real(*args, **how))
    assert chosen(isolated=False) == ["cuda"]
    with pytest.warns(
        UserWarning, match=r"cudnn is not used for bfloat16, .*: its results are \d.* from XLA's"
    ):
        assert chosen() == []


def test_a_kernel_that_fails_is_left_alone(as_if_cudnn):
    def fail(*_, **__):
        raise RuntimeError("cuDNN is not detected.")

    as_if_cudnn(fail)
    with pytest.warns(UserWarning, match="RuntimeError: cuDNN is not detected"):
        assert chosen() == []
