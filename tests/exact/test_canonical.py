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

from bytelm.exact.canonical import NOTHING, Canonical

ADVERSARIAL = (
    "",
    " ",
    "8a   274",
    "8a   ",
    "it's  we'll I'VE they'Re '' 's 'S 'ſ",
    "a\n\n  b\r\n\r\n c \n",
    "\t\t x\u00a0 \u3000 y\u2028 z",
    "1234567 12 3 1²3 ٣٤٥٦",
    "中文字中文 한국어 naïve e\u0301\u0301 \u0301",
    "😀😀👩‍👩‍👧 \U0001f1e6\U0001f1e7",
    "<|endoftext|> <s> <|end|> </s>",
    "ÀÁõö÷øùúûüýþÿ Führer",
    "        if x:\n            return   -1  # ok //\n/",
    "ABCdEF İstanbul ﬁ ſ K",
    "\x00\x01\x7f\ufeff\ufffd",
    " " * 70 + "x" + "-" * 70 + "\n" * 20,
)


def texts(count: int, seed: int = 0) -> list[str]:
    """Varied texts: slices of a sample, and characters of all kinds side by side."""
    draw = random.Random(seed)
    found = list(ADVERSARIAL)
    for _ in range(count):
        size = draw.randint(0, 30)
        at = draw.randrange(len(tokenizer_zoo.TEXT) - size)
        mixed = "".join(draw.choice(oracle.endings()) for _ in range(draw.randint(0, 7)))
        found.append(draw.choice([tokenizer_zoo.TEXT[at : at + size], mixed]))
    return found


def refused_prefixes(canonical: Canonical, samples: list[str]) -> tuple[int, list[str]]:
    """How many tokens of encodings were tried, and the texts with a prefix that we refuse."""
    tried, wrong = 0, []
    for text in samples:
        tokens = canonical.source.encode(text)
        if not oracle.survives(canonical, text, tokens):
            continue
        state, last = canonical.start, NOTHING
        for token in tokens:
            state, last, tried = canonical.step(last, state, token), token, tried + 1
            if not state:
                break
        if not state or not canonical.ends(state):
            wrong.append(text)
    return tried, wrong


def compared(canonical: Canonical, nodes: int, candidates: int, seed: int) -> tuple[int, int, list]:
    """Random nodes, and at each as many tokens that we accept as that we refuse: ours against the oracle."""
    draw = random.Random(seed)
    order, data = canonical.vocabulary.order, canonical.vocabulary.data
    accepted, refused, wrong = 0, 0, []
    for text in texts(nodes, seed)[-nodes:]:
        tokens = canonical.source.encode(text)
        if not oracle.survives(canonical, text, tokens):
            continue
        tokens = tokens[: draw.randint(0, len(tokens))]
        state, last = canonical.follow(tokens), tokens[-1] if tokens else NOTHING
        for _ in range(draw.randint(0, 2)):  # a few steps off the beaten track
            last = int(order[draw.choice(np.flatnonzero(canonical.mask(last, state)).tolist())])
            tokens, state = [*tokens, last], canonical.follow([*tokens, last])
        mask = canonical.mask(last, state)
        yes, no = np.flatnonzero(mask).tolist(), np.flatnonzero(~mask).tolist()
        assert yes, f"nothing may follow {tokens}, which is in pre(D)"
        half = candidates // 2
        for row in draw.sample(yes, min(len(yes), half)) + draw.sample(no, min(len(no), half)):
            token = int(order[row])
            ours = bool(mask[row])
            assert ours == bool(canonical.step(last, state, token)), (tokens, token)
            accepted, refused = accepted + ours, refused + (not ours)
            if ours != oracle.is_prefix(canonical, [*tokens, token]):
                wrong.append((ours, [data[t] for t in tokens], data[token]))
    return accepted, refused, wrong


@pytest.mark.parametrize("name", tokenizer_zoo.SMALL)
def test_small_tokenizers_agree_with_trying_continuations(small, name):
    canonical = small(name)
    tried, wrong = refused_prefixes(canonical, texts(150))
    assert tried > 20
    assert not wrong
    accepted, refused, wrong = compared(canonical, nodes=12, candidates=20, seed=1)
    print(f"{name}: {tried} tokens of encodings, {accepted} accepted, {refused} refused")
    assert not wrong
    assert accepted > 20


def test_accepting_everything_fails(small):
    class Everything:
        """Accepts all that has bytes, and hides half of it in its masks so that both kinds are tried."""

        def __init__(self, canonical: Canonical):
            self.vocabulary, self.source, self.start = canonical.vocabulary, canonical.source, canonical.start

        def follow(self, tokens):
            return 1

        def step(self, last, state, token):
            return 1

        def mask(self, last, state):
            return np.ones(len(self.vocabulary.rows), bool)

    accepted, refused, wrong = compared(Everything(small("gpt2")), nodes=12, candidates=20, seed=1)
    assert accepted > 60
    assert not refused
    assert len(wrong) > 20


@pytest.mark.parametrize("name", ["gpt2", "llama3", "sp-fallback", "neox", "right-digits"])
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.text(st.characters(exclude_categories=["Cs"]), max_size=12))
def test_every_prefix_of_an_encoding_is_accepted(small, name, text):
    assert not refused_prefixes(small(name), [text])[1]


def test_a_lookahead_makes_prefixes_that_are_not_canonical(small):
    canonical = small("llama3")
    tokens = canonical.source.encode("8a   274")
    prefix = tokens[:-3]
    assert b"".join(canonical.vocabulary.data[t] for t in prefix) == b"8a   "
    assert canonical.source.encode("8a   ") != prefix
    state = canonical.follow(prefix)
    assert state
    assert not canonical.ends(state)


def test_cuts_are_those_of_the_library(small):
    for name in tokenizer_zoo.SMALL:
        canonical = small(name)
        if canonical.source.added or not canonical.source.byte_level or name == "falcon":
            continue  # Falcon's cuts of bytes are in its merges
        library = tokenizer_zoo.SMALL[name]().pre_tokenizer
        for text in texts(60, seed=3):
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
    tried, wrong = refused_prefixes(real(name), texts(150))
    print(f"{name}: {tried} tokens of encodings")
    assert not wrong
    accepted, refused, wrong = compared(real(name), nodes=5, candidates=8, seed=2)
    print(f"{name}: {accepted} accepted, {refused} refused")
    assert not wrong


@pytest.mark.slow
@pytest.mark.parametrize("name", real_tokenizers.REAL)
def test_real_tokenizers_agree_with_trying_continuations(real, name):
    tried, wrong = refused_prefixes(real(name), texts(2000, seed=7))
    accepted, refused, more = compared(real(name), nodes=200, candidates=500, seed=8)
    print(f"{name}: {tried} tokens of encodings; {accepted} accepted, {refused} refused")
    assert not wrong
    assert not more
