"""Passes over trees against one context at a time."""

from __future__ import annotations

import random

import jax
import numpy as np
import pytest
import tokenizer_zoo
from token_models import NAMES, Plain, agree, both

from bytelm.exact import convert
from bytelm.lm import Special, Text
from bytelm.parameters import params_of


def sample(seed: int = 0) -> list[bytes]:
    draw = random.Random(seed)
    texts = [
        tokenizer_zoo.TEXT[:150].encode(),
        b"",
        b"a",
        "é\n  's 11 111".encode(),
        b"a\xffb",
        "中文 😀".encode()[:-2],
    ]
    for _ in range(2):
        at = draw.randrange(200)
        texts.append(tokenizer_zoo.TEXT.encode()[at : at + draw.randrange(60)])
    return texts


SLOW = ("llama3", "right-digits", "neox")  # byte-level too, and enumerated in test_converter


@pytest.mark.parametrize("name", [pytest.param(x, marks=[pytest.mark.slow] * (x in SLOW)) for x in NAMES])
def test_scores_are_those_of_contexts(small, name):
    tree, plain = both(small(name))
    texts = sample()
    agree(tree.score(texts), plain.score(texts), 1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("normalise", ["local", "joint"])
def test_in_float64_they_agree_to_nine_digits(small, normalise):
    with jax.enable_x64(True):
        tree, plain = both(small("llama3"), normalise, "float64", bos=0)
        texts = sample(1)
        agree(tree.score(texts), plain.score(texts), 1e-9)
        agree(tree.laws(texts), plain.laws(texts), 1e-9)


def test_prompts(small):
    canonical = small("sp-fallback")
    tree, plain = both(canonical, bos=1)
    special = Special(next(iter(canonical.vocabulary.special)))
    prompts = [
        b"the ca",
        [b"the cat", special, Text(b"", dummy_prefix=False)],
        [b"isn't", special, b"12 and 3"],
        "中".encode()[:2],
        [b"\xff", special],
        b"\xff",
    ]
    texts = [b"t isn't", b"dog's", b"45", "中".encode()[2:] + b"a", b"a", b"ab"]
    agree(tree.score(texts, prompts), plain.score(texts, prompts), 1e-4)
    agree(tree.laws(texts, prompts), plain.laws(texts, prompts), 1e-4)
    assert (tree.score(texts, prompts)[-1] == -np.inf).all()


@pytest.mark.slow
def test_long_texts_outgrow_their_cache(small, monkeypatch):
    from bytelm.exact.scoring import plan

    texts = [tokenizer_zoo.TEXT.encode() * 2, tokenizer_zoo.TEXT[:300].encode()]
    tree, plain = both(small("gpt2"), bos=0)
    whole = tree.score(texts)
    monkeypatch.setattr(plan, "_SLOTS", 16)
    agree(tree.score(texts), whole, 1e-5)
    agree(whole[1:], plain.score(texts[1:]), 1e-4)


def test_a_context_that_is_too_long_is_refused(small):
    tree, _ = both(small("gpt2"))
    tree.trees.context = 20
    tree.score([b"the cat"])
    with pytest.raises(ValueError, match="the model sees 20"):
        tree.score([tokenizer_zoo.TEXT[:300]])
    with pytest.raises(ValueError, match="the model sees 20"):
        tree.start([tokenizer_zoo.TEXT[:300]])


@pytest.mark.parametrize("tied", [True, False])
def test_a_transformer(small, tied):
    from bytelm.models.token_lm_config import TokenLMConfig
    from bytelm.tokenized import TransformerLM, abstract

    canonical = small("gpt2")
    config = TokenLMConfig(
        vocab_size=canonical.vocabulary.size,
        layers=1,
        width=16,
        heads=2,
        mlp_width=16,
        tied=tied,
        context=512,
    )
    random = np.random.default_rng(0)
    params = jax.tree.map(
        lambda x: np.asarray(random.normal(size=x.shape) * 0.4, np.float32),
        params_of(abstract(config)),
    )
    token_lm = TransformerLM(config, params)
    assert hasattr(token_lm, "reordered")
    tree, plain = (convert(one, canonical, bos=0, eos=0) for one in (token_lm, Plain(token_lm)))
    texts = [tokenizer_zoo.TEXT[:100].encode(), b"it's  12"]
    expected = plain.score(texts)
    agree(tree.score(texts), expected, 1e-4)
    state = tree.start([texts[0][:20]])
    for i in range(20, 40):
        law = tree.next_logprobs(state)[0]
        np.testing.assert_allclose(law[texts[0][i]], expected[0][i], atol=1e-4)
        state = tree.push(state, [texts[0][i]])
