"""Unigram models by their own rule, on random vocabularies, and tiktoken's objects."""

from __future__ import annotations

import itertools
import random

import numpy as np
import oracle
import pytest
import tokenizer_zoo
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers

from bytelm.exact import Unsupported, canonical_of
from bytelm.exact.canonical.canonical import follow
from bytelm.exact.canonical.states import NOTHING

CONTINUATIONS = ["".join(c) for n in range(5) for c in itertools.product("ab ", repeat=n)]


def agreement(canonical, texts: list[str]) -> tuple[int, int]:
    """Every token after every node of the texts: accepted and refused, or an AssertionError with the case."""
    data, order = canonical.vocabulary.data, canonical.vocabulary.order
    accepted = refused = 0
    for text in texts:
        tokens = canonical.source.encode(text)
        if not oracle.survives(canonical, text, tokens):
            continue
        assert canonical.ends(follow(canonical, tokens)), (text, tokens)
        for stop in range(len(tokens) + 1):
            path = tokens[:stop]
            state, last = follow(canonical, path), path[-1] if path else NOTHING
            assert state, (text, path)
            mask = canonical.mask(last, state)
            for row, token in enumerate(order.tolist()):
                longer = [*path, token]
                spelled = b"".join(data[t] for t in longer).decode()
                spelled = spelled[canonical.source.dummy :]
                found = False
                for more in CONTINUATIONS:
                    whole = canonical.source.encode(spelled + more)
                    found = whole[: len(longer)] == longer and oracle.survives(
                        canonical, spelled + more, whole
                    )
                    if found:
                        break
                assert bool(mask[row]) == found, (text, [data[t] for t in longer], bool(mask[row]))
                assert bool(canonical.step(last, state, token)) == found
                accepted, refused = accepted + found, refused + (not found)
    return accepted, refused


PIECES = st.lists(st.text("ab▁", min_size=2, max_size=4), min_size=1, max_size=7, unique=True)
SCORES = st.lists(st.sampled_from([-1.0, -1.5, -2.0, -2.1, -3.0, -4.0, -0.7]), min_size=10, max_size=10)


@settings(max_examples=15, deadline=None)
@given(pieces=PIECES, scores=SCORES, cut=st.booleans(), seed=st.integers(0, 9))
def test_random_vocabularies(pieces, scores, cut, seed):
    vocabulary = [("<unk>", 0.0), *zip(["a", "b", "▁", *pieces], scores, strict=False)]
    tokenizer = Tokenizer(models.Unigram(vocabulary, 0, False))
    tokenizer.add_special_tokens(["<unk>"])
    if cut:
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace("▁", "never")
        tokenizer.decoder = decoders.Metaspace("▁", "never")
    else:
        tokenizer.normalizer = normalizers.Replace(" ", "▁")
        tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.Fuse()])
    draw = random.Random(seed)
    accepted, _ = agreement(canonical_of(tokenizer), ["".join(draw.choices("ab ", k=6)) for _ in range(2)])
    assert accepted


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10_000), merges=st.integers(1, 9))
def test_random_merges(seed, merges):
    draw = random.Random(seed)
    pieces, pairs = ["a", "b", "Ġ"], []
    for _ in range(merges):
        pair = draw.choice(pieces), draw.choice(pieces)
        if len("".join(pair)) < 5 and "".join(pair) not in pieces:
            pieces.append("".join(pair))
            pairs.append(pair)
    tokenizer = Tokenizer(models.BPE({p: i for i, p in enumerate(pieces)}, pairs))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=bool(seed % 2))
    tokenizer.decoder = decoders.ByteLevel()
    accepted, _ = agreement(canonical_of(tokenizer), ["".join(draw.choices("ab ", k=6)) for _ in range(2)])
    assert accepted


def test_a_rule_that_only_looks_inside_tokens_fails(small):
    """The control: the window matters, a token that is its own best path may still be refused."""
    canonical = small("unigram-plain")
    source = canonical.source
    refused = 0
    for text in ("the cat isn't the dog's", "for i in range", "they're friend"):
        tokens = source.encode(text)
        for stop in range(1, len(tokens)):
            mask = canonical.mask(tokens[stop - 1], follow(canonical, tokens[:stop]))
            alone = [canonical.vocabulary.order[r] for r in np.flatnonzero(~mask)]
            refused += sum(source.encode(canonical.vocabulary.data[t].decode()) == [t] for t in alone)
    assert refused > 10


def test_ties_go_to_the_longer_last_token():
    vocabulary = [("<unk>", 0.0), ("a", -3.0), ("aa", -2.0), ("aaa", -2.5)]
    tokenizer = Tokenizer(models.Unigram(vocabulary, 0, False))
    tokenizer.add_special_tokens(["<unk>"])
    canonical = canonical_of(tokenizer)
    for n in range(1, 40):
        tokens = canonical.source.encode("a" * n)
        assert canonical.ends(follow(canonical, tokens)), tokens
    assert follow(canonical, [2, 3])
    assert not follow(canonical, [3, 2])


def test_the_names_of_control_pieces_are_in_no_text(small):
    canonical = small("unigram-bytes")
    assert canonical.source.encode("a<s>")[-1] == canonical.vocabulary.special["<s>"]
    tokens = [canonical.source.encode(c)[0] for c in "a<s>"]
    assert follow(canonical, tokens[:3])
    assert not follow(canonical, tokens)


def test_what_unigram_refuses():
    vocabulary = [("<unk>", 0.0), ("ab", -1.0), ("a", -2.0), *((f"<0x{b:02X}>", 0.0) for b in range(256))]
    tokenizer = Tokenizer(models.Unigram(vocabulary, 0, True))
    tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
    with pytest.raises(Unsupported, match="in pieces, but no pieces themselves"):
        canonical_of(tokenizer)


class FakeEncoding:
    """What `tiktoken.Encoding` has, made from a small tokenizer."""

    def __init__(self, tokenizer: Tokenizer, pattern: str):
        canonical = canonical_of(tokenizer)
        data = canonical.vocabulary.data
        self._mergeable_ranks = {data[t]: t for t in canonical.vocabulary.order.tolist()}
        self._special_tokens = dict(canonical.vocabulary.special)
        self._pat_str = pattern
        self.encode_ordinary = canonical.source.encode


def test_a_tiktoken_encoding_without_the_package():
    pattern = tokenizer_zoo.PATTERNS["cl100k"]
    tokenizer = tokenizer_zoo.byte_level("cl100k")
    canonical = canonical_of(FakeEncoding(tokenizer, pattern.replace(r"\z", "$")))
    assert canonical.vocabulary.data == canonical_of(tokenizer).vocabulary.data
    assert canonical.source.ignore_merges
    for text in ("the cat's  12 a", "for i in range", " 中文 x  "):
        assert canonical.ends(follow(canonical, canonical.source.encode(text)))
    broken = FakeEncoding(tokenizer, r"\$|\w+")
    with pytest.raises(Unsupported, match="dollar"):
        canonical_of(broken)
    del broken._mergeable_ranks[b"\xf5"]
    with pytest.raises(Unsupported, match="1 bytes without a token"):
        canonical_of(broken)
