"""What a harness asks, against sums written out; no harness is needed."""

from __future__ import annotations

import fakes
import numpy as np
import pytest

import bytelm
from bytelm.evals.answers import completions, documents, loglikelihoods, settings_of
from bytelm.lm import LAW

PAIRS = [("a", "b"), ("", "abc"), ("ab ", "a  "), ("ab", " a  "), ("é", "ü\n"), ("x", "")]


def uniform_bytes():
    """Every byte alike, and no end: log 256 nats a byte."""
    law_V = np.append(np.full(256, -np.log(256)), -np.inf)
    return fakes.HistoryLM(lambda row: law_V)


@pytest.mark.parametrize(("lm", "bits"), [(uniform_bytes(), 8.0), (fakes.uniform(), np.log2(LAW))])
def test_uniform(lm, bits):
    """8 bits where only bytes are possible, log2(257) where end of text is as likely as a byte."""
    for text, nats in zip(["abcd", "é" * 32], documents(lm, ["abcd", "é" * 32]), strict=True):
        assert abs(-nats / np.log(2) / len(text.encode()) - bits) < 1e-12
    ((nats, _),) = loglikelihoods(lm, [("context", "abcd")])
    assert abs(-nats / np.log(2) / 4 - bits) < 1e-12


@pytest.mark.parametrize("batch", [1, 3, 8])
def test_loglikelihood_is_the_difference_of_two_scores(batch):
    lm = fakes.hashed(order=3)
    done = []
    found = loglikelihoods(lm, PAIRS, batch=batch, progress=done.append)
    assert sum(done) == len(PAIRS)
    for (context, continuation), (nats, _) in zip(PAIRS, found, strict=True):
        whole, before = documents(lm, [context + continuation, context])
        assert abs(nats - (whole - before)) < 1e-12
    assert abs(found[2][0] - found[3][0]) > 0.1  # the control: where the space stands matters


def test_greedy_is_what_generate_writes():
    lm = fakes.hashed(order=2, among=b"abc", scale=3.0)
    (best,) = bytelm.generate(lm, [b"a"], temperature=0, max_bytes=6)
    best = best.decode()
    other = best[:-1] + next(c for c in "abc" if c != best[-1])
    found = [greedy for _, greedy in loglikelihoods(lm, [("a", best), ("a", other), ("a", best[:2])])]
    assert found == [True, False, True]


def test_impossible():
    ((nats, greedy),) = loglikelihoods(fakes.repeating(b"abc"), [("a", "bx")])
    assert (nats, greedy) == (-np.inf, False)
    assert documents(fakes.repeating(b"abc"), ["ab", "x"]) == [0.0, -np.inf]


def test_completions_keep_their_order_and_settings():
    lm = fakes.repeating(b"0123456789\nabc")
    requests = [
        ("01", {"until": ["\n"], "max_gen_toks": 64}),
        ("", {"until": "4"}),
        ("0123", {"until": ["", "7"], "max_gen_toks": 2, "temperature": 0.0}),
        ("012", {"until": ["\n"], "max_gen_toks": 64}),
    ]
    assert completions(lm, requests, batch=2) == ["23456789", "0123", "45", "3456789"]


def test_max_gen_toks_counts_bytes():
    lm = fakes.repeating("éé".encode())
    assert completions(lm, [("", {"max_gen_toks": 3})]) == ["é\ufffd"]


def test_sampling_differs_between_batches_and_repeats_by_seed():
    lm, ask = fakes.hashed(), {"do_sample": True, "temperature": 1.0, "max_gen_toks": 12}
    found = completions(lm, [("a", ask)] * 4, batch=1)
    assert len(set(found)) > 1
    assert completions(lm, [("a", ask)] * 4, batch=1) == found


def test_long_contexts_lose_their_beginning():
    seen = []

    class Spy(fakes.HistoryLM):
        def start(self, prompts):
            seen.extend(prompts)
            return super().start(prompts)

    lm = Spy(fakes.uniform().law)
    loglikelihoods(lm, [("abcéd", "xy"), ("ab", "xy"), ("abc", "uvwxyz")], room=5)  # é is two bytes
    assert sorted(seen) == [b"", b"ab", "éd".encode()]
    seen.clear()
    loglikelihoods(lm, [("abcéd", "xyz")], room=5)
    completions(lm, [("abcd", {"max_gen_toks": 2})], room=5)
    completions(lm, [("abcd", {"max_gen_toks": 2})])
    assert seen == [b"d", b"bcd", b"abcd"]


def test_settings():
    given = {"until": None, "do_sample": True, "temperature": 0.5, "top_p": 0.9, "top_k": 3, "seed": 2}
    assert settings_of(given, 7) == {
        **{"stop": [], "max_bytes": 7, "temperature": 0.5, "seed": 2},
        **{"top_p": 0.9, "top_k": 3},
    }
    assert settings_of({"temperature": 0.5, "top_p": 0.9})["temperature"] == 0
    with pytest.raises(ValueError, match="num_beams"):
        settings_of({"num_beams": 4})
    with pytest.raises(ValueError, match="batch"):
        documents(fakes.uniform(), ["a"], batch=0)
