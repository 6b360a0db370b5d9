"""All tokenisations: against enumeration, and bounds that hold."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import tokenizer_zoo
from hypothesis import given, settings
from hypothesis import strategies as st
from token_models import HistoryLM

from bytelm.exact import canonical_of, convert
from bytelm.lm import END, LAW, ByteLM, Special

NAMES = (
    *("gpt2", "llama3", "right-digits", "ignore-merges", "neox", "falcon", "nfc"),
    *("sp-fallback", "sp-alphabet", "sp-first", "sp-plain", "unigram-bytes", "unigram-collapse"),
)


@pytest.fixture(scope="module")
def tiny():
    built = {}

    def get(name: str):
        if name not in built:
            built[name] = canonical_of(tokenizer_zoo.TINIES[name]())
        return built[name]

    return get


def build(canonical, seed: int = 0, **settings):
    """A token model, its ends and the byte model; everything is kept unless asked otherwise."""
    token_lm = HistoryLM(canonical.vocabulary.size + 2, seed)
    ends = [min(canonical.vocabulary.special.values()), token_lm.vocab_size - 1]
    settings = {"K": None, "eps": 0.0, **settings}
    return token_lm, ends, convert(token_lm, canonical, eos=ends, support="all", **settings)


def brute(canonical, token_lm, ends, text: bytes) -> np.ndarray:
    """P(text and then each symbol) `[257]`: every sequence of tokens, detokenised."""
    data, dummy = canonical.vocabulary.data, canonical.source.dummy
    law = np.zeros(LAW)

    def spelled(path) -> bytes:
        done = b"".join(data[t] for t in path)
        return done[1:] if dummy and done[:1] == b" " else done

    stack = [((), 1.0)]
    while stack:
        path, weight = stack.pop()
        p = np.exp(token_lm.law(path))
        if spelled(path) == text:
            law[END] += weight * p[ends].sum()
        for token, bytes_ in enumerate(data):
            if not bytes_ or token in ends:
                continue
            longer = (*path, token)
            done = spelled(longer)
            if done.startswith(text) and len(done) > len(text):
                law[done[len(text)]] += weight * p[token]
            elif text.startswith(done):
                stack.append((longer, weight * p[token]))
    return law


@pytest.mark.parametrize("name", NAMES)
def test_everything_kept_is_enumeration(tiny, name):
    canonical = tiny(name)
    token_lm, ends, lm = build(canonical)
    assert isinstance(lm, ByteLM)
    for text in (b"", b"a", b" a", b"  1", b"as's", "1é".encode(), b"11 a"):
        expected = brute(canonical, token_lm, ends, text)
        state = lm.start([text])
        law = lm.next_logprobs(state)[0]
        if expected.sum() == 0:
            assert (law == -np.inf).all()
            continue
        np.testing.assert_allclose(np.exp(law), expected / expected.sum(), rtol=1e-9, atol=1e-13)
        lower, upper = lm.intervals(state)
        before = brute(canonical, token_lm, ends, text[:-1])[text[-1]] if text else 1.0
        np.testing.assert_allclose(np.exp(lower[0]), expected / before, rtol=1e-9, atol=1e-13)
        np.testing.assert_allclose(upper, lower, atol=1e-9)
        np.testing.assert_allclose(lm.leak(state)[0], 1 - expected.sum() / before, atol=1e-9)


def test_the_definitions_differ(tiny):
    token_lm, ends, lm = build(tiny("gpt2"))
    law = lm.next_logprobs(lm.start([b"a "]))[0]
    for normalise in ("local", "joint"):
        other = convert(token_lm, tiny("gpt2"), eos=ends, normalise=normalise)
        assert np.abs(np.exp(law) - np.exp(other.next_logprobs(other.start([b"a "]))[0])).max() > 1e-3


@pytest.mark.parametrize("name", ["gpt2", "sp-fallback"])
def test_identities(tiny, name):
    _, _, lm = build(tiny(name), seed=2)
    texts = [b"as 1a", b"", b"1's"]
    laws, scores = lm.laws(texts), lm.score(texts)
    for text, law, score in zip(texts, laws, scores, strict=True):
        np.testing.assert_allclose(np.logaddexp.reduce(law, axis=1), 0, atol=1e-12)
        np.testing.assert_array_equal(score, law[np.arange(len(text) + 1), [*text, END]])
        np.testing.assert_allclose(lm.laws([text])[0], law, atol=1e-12)
        for cut in range(len(text) + 1):
            np.testing.assert_allclose(
                lm.score([text[cut:]], prompts=[text[:cut]])[0], score[cut:], atol=1e-11
            )
    assert (lm.score([b"a\xffa"])[0][1:] == -np.inf).all()
    state = lm.start([b"a", b"s"])
    twin = lm.fork(state)
    moved = lm.push(state, [ord("s"), None])
    with pytest.raises(ValueError, match="consumed"):
        lm.next_logprobs(state)
    np.testing.assert_array_equal(lm.next_logprobs(twin)[1], lm.next_logprobs(moved)[1])
    assert np.abs(np.exp(lm.next_logprobs(twin)[0]) - np.exp(lm.next_logprobs(moved)[0])).max() > 0


@pytest.mark.parametrize("name", ["gpt2", "sp-fallback", "neox"])
@settings(max_examples=15, deadline=None)
@given(
    text=st.text("as' 1", min_size=1, max_size=7),
    K=st.sampled_from([1, 2, 5, None]),
    eps=st.sampled_from([0.0, 0.03, 0.3]),
    seed=st.integers(0, 3),
)
def test_bounds_hold_whatever_is_dropped(name, text, K, eps, seed):
    canonical = CANONICAL[name]
    _, _, exact = build(canonical, seed)
    _, _, lm = build(canonical, seed, K=K, eps=eps)
    data = text.encode()
    (truth,), (found,) = exact.bounds([data]), lm.bounds([data])
    for low, true, high in (
        (found.lower, truth.lower, found.upper),
        (found.law_lower, truth.law_lower, found.law_upper),
    ):
        assert (low <= true + 1e-9).all()
        assert (true <= high + 1e-9).all()
    np.testing.assert_allclose(truth.lower, truth.upper, atol=1e-9)


CANONICAL = {name: canonical_of(tokenizer_zoo.TINIES[name]()) for name in ("gpt2", "sp-fallback", "neox")}


def test_bounds_are_of_use_and_tighten(tiny):
    widths = []
    for eps in (0.2, 0.01, 1e-4):
        _, _, lm = build(tiny("gpt2"), eps=eps)
        (found,) = lm.bounds([b"as 11 as's"])
        widths.append(found.upper[-2] - found.lower[-2])
    assert widths[0] > widths[1] > widths[2]
    assert widths[2] < 0.3
    _, _, lm = build(tiny("gpt2"), K=1)
    (loose,) = lm.bounds([b"as 11 as's"])
    assert loose.upper[-2] - loose.lower[-2] > 0.1  # the control: bounds that never open would pass the above


@pytest.mark.parametrize("name", ["gpt2", "sp-fallback"])
def test_the_estimate_is_within_its_error(tiny, name):
    _, _, lm = build(tiny(name))
    for text, prompt in itertools.product([b"as 1as", b""], [b"", b"a "]):
        (found,) = lm.bounds([text], prompts=[prompt], samples=3000)
        assert abs(found.estimate - found.lower[-1]) < 4 * found.error + 1e-9
        assert found.error < 0.6  # a random law, far from what the text wants
    assert np.isnan(lm.bounds([b"a"])[0].estimate)
    no_ends = convert(lm.token_lm, tiny(name), support="all", K=None, eps=0)
    (found,) = no_ends.bounds([b"as 1a"], samples=3000)
    assert abs(found.estimate - found.lower[-2]) < 4 * found.error
    again = no_ends.bounds([b"as 1a"], samples=3000)[0]
    assert again.estimate == found.estimate


def test_special_tokens_close_every_segmentation(tiny):
    canonical = tiny("gpt2")
    token_lm, ends, lm = build(canonical)
    special = canonical.vocabulary.named("<|end|>")
    data = canonical.vocabulary.data

    def covers(text, path=()):
        if not text:
            yield path
        for token, bytes_ in enumerate(data):
            if bytes_ and text.startswith(bytes_):
                yield from covers(text[len(bytes_) :], (*path, token))

    law = np.zeros(LAW)
    for path in covers(b"as"):
        log_p = sum(token_lm.law(path[:i])[t] for i, t in enumerate(path)) + token_lm.law(path)[special]
        p = np.exp(log_p + token_lm.law((*path, special)))
        for token, bytes_ in enumerate(data):
            if bytes_ and token not in ends:
                law[bytes_[0]] += p[token]
        law[END] += p[ends].sum()
    found = np.exp(lm.next_logprobs(lm.start([[b"as", Special("<|end|>")]]))[0])
    np.testing.assert_allclose(found, law / law.sum(), rtol=1e-9, atol=1e-13)


def test_refusals(tiny):
    canonical = tiny("gpt2")
    token_lm = HistoryLM(canonical.vocabulary.size)
    for bad, message in (
        ({"K": 0}, "K must be"),
        ({"eps": 1.0}, "eps must"),
        ({"normalise": "local"}, "as it is"),
    ):
        with pytest.raises(ValueError, match=message):
            convert(token_lm, canonical, support="all", **bad)
    with pytest.raises(ValueError, match="support must be"):
        convert(token_lm, canonical, support="some")
    token_lm.context = 2
    with pytest.raises(ValueError, match="the model sees 2"):
        convert(token_lm, canonical, support="all").score([b"as 1 as 1 as"])
