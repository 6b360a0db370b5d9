"""The loop on the device: cutting at stop strings, and drawing as the host does."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from bytelm.continuing import Settings, cut_at_stop, draw
from bytelm.generate import adjusted
from bytelm.lm import Sampling


@pytest.mark.parametrize(
    ("text", "known", "stop", "cut"),
    [
        (b"abcabc", 0, (b"c",), b"ab"),
        (b"abcabc", 3, (b"c",), b"abcab"),
        (b"abcabc", 2, (b"bc",), b"a"),  # began before, ends among the new
        (b"abcd", 0, (b"d", b"bcd", b"cd"), b"a"),  # one byte completes several
        (b"abcd", 0, (b"d", b"ab"), b""),  # the first to end
        (b"abcd", 0, (b"x",), None),
        (b"abcd", 4, (b"d",), None),
    ],
)
def test_cut_at_stop(text, known, stop, cut):
    found = bytearray(text)
    assert cut_at_stop(found, known, stop) == (cut is not None)
    assert found == (text if cut is None else cut)


@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(0.7),
        Sampling(1.3, top_k=3),
        Sampling(1.0, top_p=0.6),
        Sampling(0.8, min_p=0.2),
        Sampling(0.9, 5, 0.8, 0.05),
    ],
    ids=str,
)
def test_draws_from_the_adjusted_law(sampling):
    """Frequencies of 40,000 draws, within 5 standard errors; what is cut off never comes."""
    law_V = np.log(np.random.default_rng(0).dirichlet(np.full(12, 0.7))).astype(np.float32)
    p_V = adjusted(law_V[None].astype(np.float64), sampling)[0]
    N = 40_000
    keys = jax.random.split(jax.random.key(0), N)
    filtered = sampling != Sampling(sampling.temperature)
    found = jax.jit(draw, static_argnums=3)(np.tile(law_V, (N, 1)), keys, Settings.of(sampling), filtered)
    share_V = np.bincount(found, minlength=12) / N
    assert (share_V[p_V == 0] == 0).all()
    np.testing.assert_array_less(np.abs(share_V - p_V), 5 * np.sqrt(p_V * (1 - p_V) / N) + 1e-9)
    plain_V = np.exp(law_V)
    assert np.abs(share_V - plain_V).max() > 0.01  # control: not the law as it was


@pytest.mark.parametrize("temperature", [1e-30, 1e-40, 5e-324])
@pytest.mark.parametrize("cut", [{}, {"top_k": 2}, {"top_p": 0.5}, {"min_p": 0.1}], ids=str)
def test_very_low_temperatures_take_the_likeliest(temperature, cut):
    law_BV = jax.nn.log_softmax(jax.random.normal(jax.random.key(1), (64, 12)))
    keys = jax.random.split(jax.random.key(0), 64)
    found = draw(law_BV, keys, Settings.of(Sampling(temperature, **cut)), bool(cut))
    np.testing.assert_array_equal(found, law_BV.argmax(axis=1))
