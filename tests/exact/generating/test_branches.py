"""Byte by byte over a cache against one context at a time and against whole texts."""

from __future__ import annotations

import jax
import numpy as np
import pytest
import tokenizer_zoo
from token_models import NAMES, agree, both

from bytelm.lm import Special


@pytest.mark.parametrize("name", NAMES)
def test_push_after_push_is_from_scratch(small, name):
    with jax.enable_x64(True):
        tree, plain = both(small(name), dtype="float64", bos=0)
        text = "it's  12 345\n  é中 we".encode()
        laws = plain.laws([text, text])
        one, two = tree.start([b"", text[:7]]), tree.start([text[:7]])
        for i in range(len(text)):
            law = tree.next_logprobs(one)
            agree([law[0]], [laws[0][i]], 1e-9)
            if i >= 7:
                agree([law[1]], [laws[0][i]], 1e-9)
                if name == "gpt2":  # batch = single
                    agree([tree.next_logprobs(two)[0]], [law[1]], 1e-9)
                    two = tree.push(two, [text[i]])
            one = tree.push(one, [text[i], text[i] if i >= 7 else None])
        agree(tree.next_logprobs(one), [laws[0][-1]] * 2, 1e-9)
        agree(tree.laws([text]), laws[:1], 1e-9)


@pytest.mark.parametrize("normalise", ["local", "joint"])
def test_prompts_forks_and_leaks(small, normalise):
    canonical = small("sp-fallback")
    tree, plain = both(canonical, normalise, bos=1)
    special = Special(next(iter(canonical.vocabulary.special)))
    prompts = [b"", b"the ca", [b"it", special, b"12 and 3"], "中".encode()[:2], b"\xff", [special]]
    state, other = tree.start(prompts), plain.start(prompts)
    agree(tree.next_logprobs(state), plain.next_logprobs(other), 1e-4)
    np.testing.assert_allclose(tree.leak(state), plain.leak(other), atol=1e-5)
    twin = tree.fork(state)
    symbols = [ord("t"), None, ord("4"), "中".encode()[2], ord("a"), 0xFF]
    state, other = tree.push(state, symbols), plain.push(other, symbols)
    agree(tree.next_logprobs(state), plain.next_logprobs(other), 1e-4)
    np.testing.assert_allclose(tree.leak(state), plain.leak(other), atol=1e-5)
    agree(tree.next_logprobs(twin), plain.next_logprobs(plain.start(prompts)), 1e-4)
    again = tree.push(twin, symbols)
    agree(tree.next_logprobs(again), tree.next_logprobs(state), 1e-6)
    with pytest.raises(ValueError, match="consumed"):
        tree.next_logprobs(twin)
    assert tree.next_logprobs(tree.start([])).shape == (0, 257)


def test_caches_grow(small):
    tree, plain = both(small("gpt2"))
    text = tokenizer_zoo.TEXT[:260].encode() + b" " * 40
    state = tree.start([b""])
    for byte in text:
        state = tree.push(state, [byte])
    agree(tree.next_logprobs(state), plain.next_logprobs(plain.start([text])), 1e-4)
    assert state.model._slots > 64
