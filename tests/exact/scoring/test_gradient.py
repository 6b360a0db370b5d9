"""Scores and laws as functions of a model's parameters."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tokenizer_zoo
from token_models import both

from bytelm.lm import Special


@pytest.mark.parametrize("normalise", ["local", pytest.param("joint", marks=pytest.mark.slow)])
def test_values_and_gradients(small, normalise):
    with jax.enable_x64(True):
        tree, _ = both(small("llama3"), normalise, "float64", bos=0)
        texts = [tokenizer_zoo.TEXT[:60].encode(), b"it's 12", b"a\xffb"]
        prompts = [b"", b"the ca", b""]
        function = tree.differentiable(texts, prompts)
        scores = jax.jit(function)(tree.token_lm.params)
        for found, expected in zip(scores, tree.score(texts, prompts), strict=True):
            np.testing.assert_allclose(found[: len(expected)], expected, atol=1e-9)
            assert (found[len(expected) :] == 0).all()
        laws = tree.differentiable(texts[1:2], prompts[1:2], of="laws")(tree.token_lm.params)
        np.testing.assert_allclose(laws[0], tree.laws(texts[1:2], prompts[1:2])[0], atol=1e-9)

        two = tree.differentiable(texts[:2], prompts[:2])
        gradient = jax.jit(jax.grad(lambda params: two(params).sum()))(tree.token_lm.params)
        draw = np.random.default_rng(0)
        way = {name: draw.normal(size=x.shape) for name, x in tree.token_lm.params.items()}
        step = 1e-5

        here = tree.token_lm.params

        def total(sign):
            params = {name: x + sign * step * way[name] for name, x in here.items()}
            tree.token_lm.params = params
            return sum(s.sum() for s in tree.score(texts[:2], prompts[:2]))

        slope = (total(1) - total(-1)) / (2 * step)
        expected = sum(float(jnp.vdot(gradient[name], way[name])) for name in way)
        np.testing.assert_allclose(expected, slope, rtol=1e-6)
        assert abs(slope) > 1e-2


def test_refusals(small):
    tree, plain = both(small("llama3"))
    with pytest.raises(TypeError, match="no TreeLM"):
        plain.differentiable([b"a"])
    with pytest.raises(ValueError, match="prompt 1 is impossible"):
        tree.differentiable([b"a", b"a"], [b"", [b"\xff", Special("<|end|>")]])
    with pytest.raises(ValueError, match="of must be"):
        tree.differentiable([b"a"], of="bits")
