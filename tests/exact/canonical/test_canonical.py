"""pre(D): ours against continuations tried one by one with the tokenizer itself."""

from __future__ import annotations

import random

import numpy as np
import oracle
import pytest
import real_tokenizers
import tokenizer_zoo
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bytelm.exact.canonical.canonical import Canonical, follow


@pytest.mark.parametrize("name", tokenizer_zoo.SMALL)
def test_small_tokenizers_agree_with_trying_continuations(small, name):
    canonical = small(name)
    tried, wrong = oracle.refused_prefixes(canonical, oracle.texts(150))
    assert tried > 20
    assert not wrong
    accepted, refused, wrong = oracle.compared(canonical, nodes=12, candidates=20, seed=1)
    print(f"{name}: {tried} tokens of encodings, {accepted} accepted, {refused} refused")
    assert not wrong
    assert accepted > 20


def test_accepting_everything_fails(small):
    class Everything:
        """Accepts all that has bytes, and hides half of it in its masks so that both kinds are tried."""

        def __init__(self, canonical: Canonical):
            self.vocabulary, self.source, self.start = canonical.vocabulary, canonical.source, canonical.start

        def step(self, last, state, token):
            return 1

        def mask(self, last, state):
            return np.ones(len(self.vocabulary.rows), bool)

    accepted, refused, wrong = oracle.compared(Everything(small("gpt2")), nodes=12, candidates=20, seed=1)
    assert accepted > 60
    assert not refused
    assert len(wrong) > 20


@pytest.mark.parametrize("name", ["gpt2", "llama3", "sp-fallback", "neox", "right-digits"])
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.text(st.characters(exclude_categories=["Cs"]), max_size=12))
def test_every_prefix_of_an_encoding_is_accepted(small, name, text):
    assert not oracle.refused_prefixes(small(name), [text])[1]


def test_a_lookahead_makes_prefixes_that_are_not_canonical(small):
    canonical = small("llama3")
    tokens = canonical.source.encode("8a   274")
    prefix = tokens[:-3]
    assert b"".join(canonical.vocabulary.data[t] for t in prefix) == b"8a   "
    assert canonical.source.encode("8a   ") != prefix
    state = follow(canonical, prefix)
    assert state
    assert not canonical.ends(state)


def test_cuts_are_those_of_the_library(small):
    for name in tokenizer_zoo.SMALL:
        canonical = small(name)
        if canonical.source.added or not canonical.source.byte_level or name == "falcon":
            continue  # Falcon's cuts of bytes are in its merges
        library = tokenizer_zoo.SMALL[name]().pre_tokenizer
        for text in oracle.texts(60, seed=3):
            if canonical.parts.splitter.alphabet.size and oracle.survives(
                canonical, text, canonical.source.encode(text)
            ):
                starts = [span[0] for _, span in library.pre_tokenize_str(text)]
                assert canonical.parts.splitter.pieces(text) == starts, (name, text)


def test_merged_neighbours_are_what_encoding_them_says(small):
    canonical = small("uncut")
    draw = random.Random(5)
    usable = canonical.parts.usable
    for _ in range(300):
        last = int(canonical.vocabulary.order[draw.choice(usable.tolist())])
        follows = canonical.parts.follow.may_follow(last)
        for place in draw.sample(range(len(usable)), 10):
            token = int(canonical.vocabulary.order[usable[place]])
            assert follows[place] == canonical.merges.may_touch(last, token)
            try:
                text = (canonical.vocabulary.data[last] + canonical.vocabulary.data[token]).decode()
            except UnicodeDecodeError:
                continue
            assert follows[place] == (canonical.source.encode(text) == [last, token])


@pytest.mark.parametrize("name", real_tokenizers.REAL)
def test_real_tokenizers_accept_their_encodings(real, name):
    tried, wrong = oracle.refused_prefixes(real(name), oracle.texts(150))
    print(f"{name}: {tried} tokens of encodings")
    assert not wrong
    accepted, refused, wrong = oracle.compared(real(name), nodes=5, candidates=8, seed=2)
    print(f"{name}: {accepted} accepted, {refused} refused")
    assert not wrong


@pytest.mark.slow
@pytest.mark.parametrize("name", real_tokenizers.REAL)
def test_real_tokenizers_agree_with_trying_continuations(real, name):
    tried, wrong = oracle.refused_prefixes(real(name), oracle.texts(2000, seed=7))
    accepted, refused, more = oracle.compared(real(name), nodes=200, candidates=500, seed=8)
    print(f"{name}: {tried} tokens of encodings; {accepted} accepted, {refused} refused")
    assert not wrong
    assert not more
