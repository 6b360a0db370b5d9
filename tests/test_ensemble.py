"""Ensembles against sums over all texts written out, and their identities."""

from __future__ import annotations

import itertools

import fakes
import numpy as np
import pytest

import bytelm
from bytelm.ensemble import Ensemble
from bytelm.lm import END, LAW

AB = b"ab"
WEIGHTS = [0.5, 0.3, 0.2]
RULES = ["mean", "bayes", "switch", "product", "proxy"]
TEXTS = [bytes(t) for n in range(5) for t in itertools.product(AB, repeat=n)]


def members(n=3, among=AB):
    return [fakes.hashed(order=k, seed=k, among=among) for k in range(n)]


def weighed(rule):
    return None if rule == "proxy" else WEIGHTS


def total(lm, text):
    return lm.score([text])[0].sum()


@pytest.mark.parametrize("rule", RULES)
def test_contract(rule):
    lm = Ensemble(members(among=bytes(range(256))), rule, weighed(rule))
    fakes.assert_byte_lm(lm, [b"", b"abba", b"\x00\xff"], [b"", b"x", b"yy"])


def test_bayes_is_the_mixture_of_texts():
    parts = members()
    bayes = Ensemble(parts, "bayes", WEIGHTS)
    for text in TEXTS:
        by_hand = np.logaddexp.reduce(
            [np.log(w) + total(lm, text) for w, lm in zip(WEIGHTS, parts, strict=True)]
        )
        assert abs(total(bayes, text) - by_hand) < 1e-12


def test_bayes_insures():
    """At most the best member's probability of any text, and at least each one's times its weight."""
    parts = members()
    bayes = Ensemble(parts, "bayes", WEIGHTS)
    for text in TEXTS:
        each = [total(lm, text) for lm in parts]
        assert total(bayes, text) <= max(each) + 1e-12
        assert total(bayes, text) >= max(np.log(w) + x for w, x in zip(WEIGHTS, each, strict=True)) - 1e-12


def test_mean_and_switch_are_not_bayes_and_switch_at_rate_zero_is():
    parts, text = members(), b"abbabaab"
    bayes = Ensemble(parts, "bayes", WEIGHTS).laws([text])[0]
    np.testing.assert_allclose(Ensemble(parts, "switch", WEIGHTS, rate=0).laws([text])[0], bayes, atol=1e-12)
    for other in (Ensemble(parts, "mean", WEIGHTS), Ensemble(parts, "switch", WEIGHTS, rate=0.1)):
        distance = 0.5 * np.abs(np.exp(other.laws([text])[0]) - np.exp(bayes)).sum(axis=1)
        assert distance[0] < 1e-12  # before the first byte all weights are the prior
        assert distance.max() > 0.01


def test_switch_by_hand():
    """Fixed share is the mixture over all sequences of members, drawn anew from the prior at rate a."""
    parts, text, rate = members(2), b"abba", 0.3
    prior = np.array([0.7, 0.3])
    scores = np.exp([lm.score([text])[0] for lm in parts])
    p = 0.0
    for path in itertools.product(range(2), repeat=len(text) + 1):
        q = prior[path[0]] * scores[path[0], 0]
        for t in range(1, len(path)):
            q *= ((path[t] == path[t - 1]) * (1 - rate) + rate * prior[path[t]]) * scores[path[t], t]
        p += q
    found = total(Ensemble(parts, "switch", prior, rate=rate), text)
    assert abs(found - np.log(p)) < 1e-12


def test_products_by_hand():
    parts, text = members(), b"ab"
    laws = np.stack([lm.laws([text])[0] for lm in parts])
    with np.errstate(invalid="ignore"):
        product = np.exp(np.einsum("K,KTV->TV", WEIGHTS, laws))
        base, expert, anti = np.exp(laws)
        proxy = base * np.divide(expert, anti, out=np.ones_like(base), where=anti > 0) ** 0.5
    for lm, expected in (
        (Ensemble(parts, "product", WEIGHTS), product),
        (Ensemble(parts, "proxy", alpha=0.5), proxy),
    ):
        found = np.exp(lm.laws([text])[0])
        np.testing.assert_allclose(found, expected / expected.sum(axis=1, keepdims=True), atol=1e-12)


@pytest.mark.parametrize("rule", ["mean", "bayes", "switch", "product"])
def test_of_one_is_that_one(rule):
    (lm,) = members(1)
    for text in TEXTS[::3]:
        np.testing.assert_allclose(Ensemble([lm], rule).laws([text])[0], lm.laws([text])[0], atol=1e-12)


@pytest.mark.parametrize("rule", ["mean", "bayes"])
def test_nested_is_flat(rule):
    a, b, c = members()
    flat = Ensemble([a, b, c], rule, [0.5, 0.3, 0.2])
    nested = Ensemble([a, Ensemble([b, c], rule, [0.6, 0.4])], rule, [0.5, 0.5])
    for text in TEXTS[::3]:
        np.testing.assert_allclose(nested.laws([text])[0], flat.laws([text])[0], atol=1e-12)


def test_weight_zero_does_not_count():
    a, b, _ = members()
    only_b = fakes.hashed(among=b"b")
    for rule in ("mean", "bayes", "switch", "product"):
        found = Ensemble([a, b, only_b], rule, [0.5, 0.5, 0]).laws([b"ab"])[0]
        np.testing.assert_allclose(found, Ensemble([a, b], rule, [0.5, 0.5]).laws([b"ab"])[0], atol=1e-12)


@pytest.mark.parametrize("rule", ["mean", "bayes", "switch"])
def test_an_impossible_byte_leaves_a_member_behind(rule):
    knows, does_not = fakes.hashed(among=AB), fakes.hashed(among=b"a", seed=3)
    both = Ensemble([knows, does_not], rule, [0.25, 0.75])
    fakes.assert_byte_lm(both, [b"aabab", b"", b"bb", b"ac", b"aba"], [b""] * 5)
    law_TV = both.laws([b"aabab"])[0]
    np.testing.assert_allclose(law_TV[3:], knows.laws([b"aabab"])[0][3:], atol=1e-12)
    assert not np.allclose(law_TV[2], knows.laws([b"aabab"])[0][2], atol=1e-3)


@pytest.mark.parametrize("rule", ["product", "proxy"])
def test_impossible_under_a_product(rule):
    parts = [fakes.hashed(among=b"a"), *members(2)]
    lm = Ensemble(parts, rule)
    fakes.assert_byte_lm(lm, [b"aa", b"ab", b"", b"c"], [b""] * 4)
    assert lm.laws([b""])[0][0, ord("b")] == -np.inf
    assert np.isfinite(lm.score([b"aaa"])[0]).all()


@pytest.mark.parametrize("lost", [1, 2])
def test_proxy_goes_on_with_the_base(lost):
    """The expert or the anti-expert found a byte impossible: what goes on is the base alone."""
    parts = members(3)
    parts[lost] = fakes.hashed(among=b"a", seed=5)
    law_TV = Ensemble(parts, "proxy").laws([b"aba"])[0]
    np.testing.assert_allclose(law_TV[2:], parts[0].laws([b"aba"])[0][2:], atol=1e-12)
    assert not np.allclose(law_TV[1], parts[0].laws([b"aba"])[0][1], atol=1e-3)


@pytest.mark.parametrize("rate", [1e-9, 0.02, 1.0])
def test_switch_scores_as_it_is_pushed(rate):
    """The fast recursion over a text against the one in log space, with members that come to their end."""
    parts = [*members(2), fakes.hashed(among=b"a", seed=4), fakes.repeating(b"abba" * 50, p=1 - 1e-12)]
    fakes.assert_byte_lm(
        Ensemble(parts, "switch", [4, 3, 2, 1], rate=rate), [b"abba" * 9, b"aab", b"c"], [b""] * 3
    )


def test_nested_products_are_flat():
    a, b, c = members()
    nested = Ensemble([a, Ensemble([b, c], "product", [0.6, 0.4])], "product", [0.5, 0.5])
    flat = Ensemble([a, b, c], "product", [0.5, 0.3, 0.2])
    np.testing.assert_allclose(nested.laws([b"ab"])[0], flat.laws([b"ab"])[0], atol=1e-12)


def test_members_are_asked_once_a_byte():
    asked = []
    lm = fakes.hashed()
    inner, lm.next_logprobs = lm.next_logprobs, lambda state: (asked.append(1), inner(state))[1]
    both = Ensemble([lm, fakes.uniform()])
    state = both.start([b"a", b"bc"])
    for byte in b"abc":
        both.next_logprobs(state)
        state = both.push(state, [byte, None])
    assert len(asked) == 2 * 3  # the fake asks itself once a push


def test_context_is_the_shortest():
    a, b = members(2)
    a.context, a.overlap, b.context, b.overlap = 64, 32, 16, 8
    assert (Ensemble([a, b]).context, Ensemble([a, b]).overlap) == (16, 8)
    assert Ensemble(members(2)).context is None
    unlimited = Ensemble([a, fakes.uniform()])
    assert (unlimited.context, unlimited.overlap) == (64, 32)


def test_generates():
    both = Ensemble([fakes.repeating(b"hello"), fakes.uniform()], "product")
    assert bytelm.generate(both, [b"he"], temperature=0) == [b"llo"]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda a, b: Ensemble([]), "at least one member"),
        (lambda a, b: Ensemble([a, b], "mean", [1.0]), "1 for 2 members"),
        (lambda a, b: Ensemble([a, b], "mean", [0, 0]), "sum to zero"),
        (lambda a, b: Ensemble([a, b], "mean", [1, -1]), "0 or more"),
        (lambda a, b: Ensemble([a, b], "mean", [1, float("nan")]), "finite"),
        (lambda a, b: Ensemble([a, b], "median"), "one of mean"),
        (lambda a, b: Ensemble([a, b], "proxy"), "three members"),
        (lambda a, b: Ensemble([a, b], "switch", rate=1.5), "rate"),
        (lambda a, b: Ensemble([a, b, a], "proxy", alpha=-1), "alpha"),
    ],
)
def test_bad_input(make, message):
    with pytest.raises(ValueError, match=message):
        make(*members(2))


def test_laws_of_other_symbols_are_refused():
    odd = fakes.HistoryLM(lambda row: np.full(LAW + 1, -np.log(LAW + 1)))
    both = Ensemble([fakes.uniform(), odd])
    with pytest.raises(ValueError):
        both.next_logprobs(both.start([b""]))


def test_scores_without_an_end_are_refused():
    odd = fakes.uniform()
    odd.score = lambda texts, prompts=None: [np.zeros(len(text)) for text in texts]
    with pytest.raises(ValueError, match="member 1 gives a text of 2 bytes"):
        Ensemble([fakes.uniform(), odd]).score([b"ab"])


def test_push_must_fit():
    both = Ensemble(members(2))
    with pytest.raises(ValueError, match="2 symbols for 1 rows"):
        both.push(both.start([b""]), [1, 2])


def test_end_is_one_of_the_symbols():
    law_V = Ensemble(members(), "mean", WEIGHTS).laws([b"a"])[0][1]
    parts = [lm.laws([b"a"])[0][1, END] for lm in members()]
    assert abs(np.exp(law_V[END]) - np.dot(WEIGHTS, np.exp(parts))) < 1e-12
