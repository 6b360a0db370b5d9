"""Generation that is made to draw given bytes: all of its work, on text whose words are as they are."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bytelm import continuing, models
from bytelm.parameters import params_of, with_params

PROMPT = 64


def forced(config: Any, data_BT: np.ndarray, context: int):
    """A function that generates the bytes of `data_BT` after the prompts, by the loop of `continue_`."""
    model = jax.eval_shape(functools.partial(models.build, config), jax.random.key(0))
    params = jax.jit(lambda key: params_of(models.build(config, key)))(jax.random.key(0))
    data = jnp.asarray(data_BT)
    B, T = data_BT.shape

    def advance(params, state, symbol_B, active_B):
        cache, at_B = state
        logits_BV, cache, done_B = with_params(model, params).advance(cache, symbol_B, active_B)
        at_B = at_B + done_B
        wanted_BV = jax.nn.one_hot(data[jnp.arange(B), jnp.minimum(at_B, T - 1)], logits_BV.shape[1])
        return logits_BV + 1e6 * wanted_BV, (cache, at_B), done_B  # the model's work is done and used

    def fits(params, state, symbol_B):
        return with_params(model, params).fits(state[0], symbol_B, context)

    @jax.jit
    def prefill(params):
        length_B = jnp.full(B, PROMPT)
        logits_BV, cache = with_params(model, params).prefill(data[:, :PROMPT], length_B, context)
        return logits_BV + 1e6 * jax.nn.one_hot(data[:, PROMPT], logits_BV.shape[1]), (cache, length_B)

    @functools.partial(jax.jit, donate_argnums=(1, 2))
    def grow(params, state, law_BV, size_B):
        loop = continuing.make_grow(functools.partial(advance, params), functools.partial(fits, params))
        settings = continuing.Settings(1.0, 0, 1.0, 0.0)
        live_B, left_B = jnp.ones(B, bool), T - PROMPT - size_B
        return loop(
            state, law_BV, live_B, left_B, jnp.uint32(0), size_B, settings, greedy=True, filtered=False
        )

    def run() -> None:
        logits_BV, state = prefill(params)
        size_B, text_BT = np.zeros(B, np.int32), data_BT[:, :PROMPT]
        while (size_B < T - PROMPT).any():
            grown = grow(params, state, logits_BV, size_B)
            logits_BV, state = grown.law_BV, grown.cache
            new_B = np.asarray(grown.size_B)
            text_BT = np.concatenate([text_BT, np.asarray(grown.out_BN)[:, : new_B[0]]], axis=1)
            size_B = size_B + new_B
        assert (text_BT == data_BT).all(), "the bytes were to be forced"

    return run
