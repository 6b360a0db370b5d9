"""The converted model against enumeration, and what must hold of every byte model."""

from __future__ import annotations

import random

import numpy as np
import pytest
import tokenizer_zoo
from enumeration import Enumeration, Membership
from token_models import HistoryLM

from bytelm.exact import convert
from bytelm.exact.canonical.canonical import Canonical, canonical_of, follow
from bytelm.lm import END, LAW, ByteLM, Special, Text

PADDED = 3  # columns of the model beyond the vocabulary


@pytest.fixture(scope="session")
def tiny():
    built = {}

    def get(name: str) -> Canonical:
        if name not in built:
            built[name] = canonical_of(tokenizer_zoo.TINIES[name]())
        return built[name]

    return get


@pytest.fixture(scope="session")
def members(tiny):
    built = {}

    def get(name: str) -> Membership:
        if name not in built:
            built[name] = Membership(tiny(name))
        return built[name]

    return get


def build(canonical: Canonical, normalise: str = "local", seed: int = 0, bos: int | None = None):
    """A token model, its ends (a special token and a padded column) and the byte model."""
    token_lm = HistoryLM(canonical.vocabulary.size + PADDED, seed)
    ends = [min(canonical.vocabulary.special.values()), token_lm.vocab_size - 1]
    return token_lm, ends, convert(token_lm, canonical, bos=bos, eos=ends, normalise=normalise)


@pytest.mark.parametrize("normalise", ["local", "joint"])
@pytest.mark.parametrize("name", tokenizer_zoo.TINIES)
def test_laws_are_those_of_enumeration(tiny, members, name, normalise):
    canonical = tiny(name)
    token_lm, ends, lm = build(canonical, normalise)
    brute = Enumeration(members(name), token_lm, ends, joint=normalise == "joint")
    draw = random.Random(1)
    compared = 0
    for text in (
        "",
        "a  1",
        "as's",
        " é\n",
        "1\u0301",
        "s\u0323",
        *("".join(draw.choices(tokenizer_zoo.TINY_CHARS, k=3)) for _ in range(5)),
    ):
        data = text.encode()[:4]
        laws = lm.laws([data])[0]
        state = lm.start([data])
        for i in range(len(data) + 1):
            expected = brute.law(data[:i])
            if expected.sum() == 0:
                assert (laws[i] == -np.inf).all()
                continue
            np.testing.assert_allclose(np.exp(laws[i]), expected / expected.sum(), rtol=1e-9, atol=1e-13)
            compared += 1
            if i == len(data) and i:
                before = brute.law(data[:-1])[data[-1]]
                np.testing.assert_allclose(lm.leak(state)[0], 1 - expected.sum() / before, atol=1e-9)
    assert compared > 12


def test_enumeration_tells_the_definitions_apart(tiny, members):
    canonical = tiny("gpt2")
    token_lm, ends, local = build(canonical, "local")
    brute = Enumeration(members("gpt2"), token_lm, ends, joint=True).law(b"a ")
    assert np.abs(np.exp(local.laws([b"a "])[0][2]) - brute / brute.sum()).max() > 1e-3


NAMES = ("gpt2", "llama3", "right-digits", "neox", "sp-fallback", "sp-always", "uncut")


@pytest.mark.parametrize("normalise", ["local", "joint"])
@pytest.mark.parametrize("name", NAMES)
def test_identities(tiny, name, normalise):
    canonical = tiny(name)
    _, _, lm = build(canonical, normalise, seed=3)
    assert isinstance(lm, ByteLM)
    texts = [b"a's  11 as", b"", b"1as ", b"a  a", b"s"]
    laws = lm.laws(texts)
    for law in laws:
        np.testing.assert_allclose(np.logaddexp.reduce(law, axis=1), 0, atol=1e-12)
    scores = lm.score(texts)
    for text, law, score in zip(texts, laws, scores, strict=True):
        np.testing.assert_array_equal(score, law[np.arange(len(text) + 1), [*text, END]])
        np.testing.assert_allclose(lm.laws([text])[0], law, atol=1e-12)  # batch = single
        state = lm.start([b""])
        for i, byte in enumerate(text):  # push after push = from scratch
            np.testing.assert_allclose(lm.next_logprobs(state)[0], law[i], atol=1e-11)
            np.testing.assert_allclose(lm.next_logprobs(lm.start([text[:i]]))[0], law[i], atol=1e-11)
            state = lm.push(state, [byte])
        np.testing.assert_allclose(lm.next_logprobs(state)[0], law[-1], atol=1e-11)
        for cut in range(len(text) + 1):  # a prompt split anywhere
            rest = lm.score([text[cut:]], prompts=[text[:cut]])[0]
            np.testing.assert_allclose(rest, score[cut:], atol=1e-11)


def test_local_leaks_nothing_and_joint_leaks(tiny):
    for normalise in ("local", "joint"):
        _, _, lm = build(tiny("gpt2"), normalise)
        leak = lm.leak(lm.start([b"a ", b"as", b"1"]))
        if normalise == "local":
            np.testing.assert_allclose(leak, 0, atol=1e-12)
        else:
            assert (leak > 1e-3).all()


def test_states_are_consumed_and_forks_are_not(tiny):
    _, _, lm = build(tiny("gpt2"))
    state = lm.start([b"a", b"s"])
    twin = lm.fork(state)
    before = lm.next_logprobs(twin)
    moved = lm.push(state, [ord("s"), None])
    with pytest.raises(ValueError, match="consumed"):
        lm.next_logprobs(state)
    np.testing.assert_array_equal(lm.next_logprobs(twin), before)
    np.testing.assert_array_equal(lm.next_logprobs(moved)[1], before[1])
    other = lm.push(twin, [ord("s"), ord("1")])
    np.testing.assert_array_equal(lm.next_logprobs(other)[0], lm.next_logprobs(moved)[0])


def test_impossible_bytes(tiny):
    for name in ("gpt2", "sp-fallback"):
        _, _, lm = build(tiny(name))
        score = lm.score([b"a\xffa"])[0]
        assert np.isfinite(score[0])
        assert (score[1:] == -np.inf).all()
        state = lm.push(lm.start([b"a", b"a"]), [0xFF, None])
        assert (lm.next_logprobs(state)[0] == -np.inf).all()
        state = lm.push(state, [ord("a"), ord("s")])
        law = lm.next_logprobs(state)
        assert (law[0] == -np.inf).all()
        assert np.isfinite(law[1].max())
        assert (lm.laws([b"\xff\xfe"], prompts=[b"a"])[0][1:] == -np.inf).all()


def test_special_tokens_close_the_text_before_them(tiny, members):
    canonical = tiny("gpt2")
    token_lm, ends, lm = build(canonical, bos=0)
    special = canonical.vocabulary.named("<|end|>")
    tokens = canonical.source.encode("as 11")
    brute = Enumeration(members("gpt2"), token_lm, ends, joint=False, bos=[0, *tokens, special])
    expected = brute.law(b"a")
    law = lm.next_logprobs(lm.start([[b"as 11", Special("<|end|>"), b"a"]]))[0]
    np.testing.assert_allclose(np.exp(law), expected / expected.sum(), rtol=1e-9, atol=1e-13)
    with pytest.raises(ValueError, match="no special token '<nope>'"):
        lm.start([[Special("<nope>")]])
    closed_inside_a_character = lm.start([["é".encode()[:1], Special("<|end|>"), b"a"]])
    assert (lm.next_logprobs(closed_inside_a_character) == -np.inf).all()


def test_a_segment_may_refuse_the_dummy_space(tiny):
    canonical = tiny("sp-fallback")
    _, _, lm = build(canonical)
    tokens = canonical.source.encode("as")
    with_space, without = lm.next_logprobs(lm.start([b"as", [Text(b"as", dummy_prefix=False)]]))
    assert np.abs(np.exp(with_space) - np.exp(without)).max() > 1e-6
    assert canonical.vocabulary.data[tokens[0]].startswith(b" ")
    assert np.isfinite(lm.score([b"as 1"], prompts=[[Text(b"", dummy_prefix=False)]])[0]).all()


def test_one_call_a_pass_and_no_context_twice(tiny):
    canonical = tiny("llama3")
    token_lm, _, lm = build(canonical)
    text = b"as's  11 as 1a as"
    lm.score([text, text])
    assert token_lm.calls == 1
    assert token_lm.contexts <= 1.3 * len(text)
    state = lm.start([text])
    token_lm.calls = token_lm.contexts = 0
    for byte in b" as":
        state = lm.push(state, [byte])
    assert token_lm.contexts <= 6


def test_refusals(tiny):
    canonical = tiny("gpt2")
    token_lm = HistoryLM(canonical.vocabulary.size)
    with pytest.raises(ValueError, match="bos or eos 999"):
        convert(token_lm, canonical, eos=999)
    with pytest.raises(ValueError, match="normalise must be"):
        convert(token_lm, canonical, normalise="global")  # type: ignore[arg-type]
    token_lm.context = 4
    lm = convert(token_lm, canonical, eos=0)
    with pytest.raises(ValueError, match="the model sees 4"):
        lm.score([b"as 11 as 11 as 11 as 11"])


def test_markov_chain_is_recovered_and_naive_conversion_fails(tiny):
    canonical = tiny("uncut")
    draw = np.random.default_rng(0)
    symbols = b"as1 "
    chain = draw.dirichlet(np.ones(len(symbols) + 1), size=len(symbols) + 1)  # last: start, and end

    class Chain:
        """The law of the tokens of encodings of a Markov chain's texts (no cuts: maximal merges by pairs)."""

        vocab_size = canonical.vocabulary.size

        def next_token_logprobs(self, contexts):
            return np.stack([self.law(c) for c in contexts])

        def law(self, context):
            # By definition: of all texts that the chain makes, the share whose encoding goes on like this.
            mass = np.zeros(self.vocab_size)
            for text, p in texts:
                tokens = text
                if tokens[: len(context)] == list(context):
                    mass[tokens[len(context)] if len(tokens) > len(context) else 0] += p
            with np.errstate(divide="ignore"):
                return np.log(mass / mass.sum())

    def chain_texts(limit):
        found, stack = [], [("", 1.0, len(symbols))]
        while stack:
            text, p, at = stack.pop()
            stop = 1.0 if len(text) == limit else chain[at, -1]
            found.append((canonical.source.encode(text), p * stop))
            if len(text) < limit:
                for i, byte in enumerate(symbols):
                    stack.append((text + chr(byte), p * chain[at, i], i))
        return found

    texts = chain_texts(6)
    lm = convert(Chain(), canonical, eos=0)
    for text in (b"", b"a", b"as", b"1 as", b"  "):
        law = np.exp(lm.next_logprobs(lm.start([text]))[0])
        row = chain[symbols.index(text[-1]) if text else -1]
        np.testing.assert_allclose(law[[*symbols, END]], row, atol=1e-9)
    # Naive: encode the prompt, and sum the next tokens' first bytes.
    naive = np.zeros(LAW)
    for token, p in enumerate(np.exp(Chain().law(canonical.source.encode("a")))):
        naive[canonical.vocabulary.data[token][0] if canonical.vocabulary.data[token] else END] += p
    assert np.abs(naive[[*symbols, END]] - chain[0]).max() > 0.05


def test_sampled_bytes_are_detokenised_tokens_and_naive_ones_are_not(tiny):
    canonical = tiny("gpt2")
    token_lm, ends, lm = build(canonical, seed=5)
    prompt, more = b"a", 2
    generator = np.random.default_rng(0)
    # Every continuation of three bytes (or an end before), and its probability under the byte model.
    expected: dict[bytes, float] = {}
    level = {b"": 1.0}
    for _ in range(more):
        laws = np.exp([lm.next_logprobs(lm.start([prompt + c]))[0] for c in level])
        longer = {}
        for (text, p), law in zip(level.items(), laws, strict=True):
            expected[text + b"$"] = p * law[END]
            longer |= {text + bytes([b]): p * law[b] for b in np.flatnonzero(law[:256]).tolist()}
        level = longer
    expected |= level
    np.testing.assert_allclose(sum(expected.values()), 1)

    laws_of: dict[tuple[tuple[int, ...], bool], np.ndarray] = {}

    def cumulative(path: tuple[int, ...], masked: bool) -> np.ndarray:
        if (path, masked) not in laws_of:
            p = np.exp(token_lm.law(path))
            if masked:
                state = follow(canonical, list(path))
                allowed = np.zeros(len(p), bool)
                allowed[canonical.vocabulary.order[canonical.mask(path[-1] if path else -1, state)]] = True
                allowed[ends] = canonical.ends(state)
                p = np.where(allowed, p, 0)
            laws_of[path, masked] = np.cumsum(p) / p.sum()
        return laws_of[path, masked]

    def sample(path: tuple[int, ...], masked: bool) -> bytes:
        """Tokens until there are enough bytes, as bytes; "$" for the end."""
        data = b"".join(canonical.vocabulary.data[t] for t in path)
        while len(data) < len(prompt) + more:
            token = int(np.searchsorted(cumulative(path, masked), generator.random(), side="right"))
            if token >= canonical.vocabulary.size or not canonical.vocabulary.data[token]:
                return data + b"$"
            path, data = (*path, token), data + canonical.vocabulary.data[token]
        return data[: len(prompt) + more]

    def chi_square(samples: list[bytes]) -> tuple[float, int]:
        counts: dict[bytes, int] = {}
        for one in samples:
            counts[one[len(prompt) :]] = counts.get(one[len(prompt) :], 0) + 1
        big = {c: p * len(samples) for c, p in expected.items() if p * len(samples) >= 5}
        rest = len(samples) - sum(big.values())
        seen = len(samples) - sum(counts.get(c, 0) for c in big)
        parts = [(counts.get(c, 0) - e) ** 2 / e for c, e in big.items()] + [
            (seen - rest) ** 2 / max(rest, 5)
        ]
        return sum(parts), len(parts) - 1

    tried = (sample((), masked=True) for _ in range(150_000))
    exact = [one for one in tried if one.startswith(prompt)]
    encoded = tuple(canonical.source.encode(prompt.decode()))
    naive = [sample(encoded, masked=False) for _ in exact]
    assert len(exact) > 500
    statistic, freedom = chi_square(exact)
    assert statistic < freedom + 4 * (2 * freedom) ** 0.5
    statistic, freedom = chi_square(naive)
    assert statistic > freedom + 10 * (2 * freedom) ** 0.5
