"""The law of bytes from slots of sub-words: against all sequences of pieces, and as a `ByteLM`."""

from __future__ import annotations

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from fakes import assert_byte_lm
from test_byte2word import build, cut, documents, encoded, float64, rows, slot_law, stacked

from bytelm import words
from bytelm.generate import generate
from bytelm.lm import END, LAW
from bytelm.models import byte2word_law, pieces
from bytelm.parameters import params_of
from bytelm.trained import TrainedLM

PIECES = pieces.to_text(
    {b"the", b"The", b" fo", b"ox", b"fo", b" =", b"12", b"123", "é".encode(), b"ab", b"e "}
)
RULES = {"closing": True, "runs": False}  # one that knows at once, one that knows a symbol later


# ---- all sequences -------------------------------------------------------------------------------------

SLOTS = 4


@pytest.fixture(scope="module")
def tiny():
    """Four slots whose laws are on five pieces, end of text and STOP, and every sequence of them."""
    v = pieces.vocabulary(pieces.to_text({b"ab", b"ba", b"aba"}))
    spelled = {v.spellings.index(p): tuple(p) for p in (b"a", b"b", b"ab", b"ba", b"aba")} | {v.end: (END,)}
    law_KO = np.zeros((SLOTS, v.outputs))
    law_KO[:, [*spelled, v.stop]] = np.random.default_rng(0).dirichlet(np.ones(len(spelled) + 1), SLOTS)
    strings = {}
    for sequence in itertools.product([*spelled, v.stop], repeat=SLOTS):
        used = sequence[: sequence.index(v.stop)] if v.stop in sequence else sequence
        string = sum((spelled[o] for o in used), ())
        p = np.prod([law_KO[k, o] for k, o in enumerate(used)])
        p *= law_KO[len(used), v.stop] if len(used) < SLOTS else 1.0
        strings[used] = string, p  # once for all that comes after STOP
    return v, law_KO, list(strings.values())


def test_masses_are_sums_over_all_sequences(tiny):
    v, law_KO, strings = tiny
    assert sum(p for _, p in strings) == pytest.approx(1.0)
    with np.errstate(divide="ignore"):
        log_KO = jnp.asarray(np.log(law_KO), jnp.float32)
    masses = jax.jit(lambda law, x, n: byte2word_law.masses(v, law, x, n))
    for n in range(SLOTS):
        for x in itertools.product(b"ab", repeat=n):
            found = masses(log_KO, jnp.array([*x, *[ord("b")] * (SLOTS - n)]), jnp.int32(n))
            whole = sum(p for string, p in strings if string == x)
            np.testing.assert_allclose(np.exp(found.whole), whole, rtol=1e-4, atol=1e-30)
            for b in (*b"abc", END):
                expected = sum(p for string, p in strings if string[: n + 1] == (*x, b))
                np.testing.assert_allclose(np.exp(found.next_V[b]), expected, rtol=1e-4, atol=1e-30)
    first = np.exp(byte2word_law.first(v, log_KO[0]))
    for b in (*b"ab", END):
        expected = sum(law_KO[0, o] for o in range(v.end) if v.spellings[o][0] == b)
        np.testing.assert_allclose(first[b], expected if b < END else law_KO[0, v.end], rtol=1e-5)
    shorter = [(string, p) for string, p in strings if len(string) < 3]  # control: not all sequences
    assert sum(p for s, p in shorter if s[:1] == (97,)) < 0.9 * sum(p for s, p in strings if s[:1] == (97,))


def test_every_byte_stays_possible(tiny):
    """In a word that only single bytes can spell, each as unlikely as can be."""
    v, C = tiny[0], SLOTS
    law_KO = jnp.full((C, v.outputs), -200.0).at[:, v.stop].set(0.0)
    found = jax.jit(lambda *x: byte2word_law.masses(v, *x))(law_KO, jnp.full(C, 255), jnp.int32(C - 1))
    assert np.isfinite(found.next_V).all()


# ---- as a ByteLM ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=["runs", pytest.param("closing", marks=pytest.mark.slow)])
def both(request):
    model = build(rule=request.param, words=32, pieces=PIECES)
    return model, TrainedLM(model, params_of(model), 32)


def spelled_by(v, laws, x):
    """{slots used: probability} of the sequences of pieces that spell x, by going through them."""
    if not len(x):
        return {0: 1.0}
    found = {}
    for o, piece in enumerate(v.spellings):
        if len(piece) <= len(x) and tuple(piece) == tuple(x[len(x) - len(piece) :]):
            for k, p in spelled_by(v, laws, x[: len(x) - len(piece)]).items():
                if k < len(laws):
                    found[k + 1] = found.get(k + 1, 0.0) + p * laws[k][o]
    return found


def defined(config, params, symbols):
    """The law after `symbols`, one document, as the modules define it."""
    v, rule, at_once = config.vocabulary, words.rule(config.rule, config.cap), RULES[config.rule]
    spans = cut(config, symbols)
    u = np.stack([encoded(params, word) for word in spans])
    z = stacked(params, u, config.rope_base, causal=True)
    x, before = spans[-1], z[-2] if len(z) > 1 else params["start"]

    def law_of(z_D, slot):
        law = slot_law(params, z_D, slot)
        law[v.stop] *= slot > 0 and not at_once
        return law / law.sum()

    laws = [law_of(before, k) for k in range(config.cap)]
    next_, opening = law_of(z[-1], 0), np.zeros(LAW)
    for o, piece in enumerate(v.spellings):
        opening[piece[0]] += next_[o]
    opening[END] = next_[v.end]
    inside, whole = np.zeros(LAW), 1.0
    if x[0] < END:
        for i in range(len(x) + 1):
            for k, p in spelled_by(v, laws, x[:i]).items():
                for o, piece in enumerate(v.spellings):
                    if (
                        k < config.cap
                        and len(piece) > len(x) - i
                        and tuple(piece[: len(x) - i]) == tuple(x[i:])
                    ):
                        inside[piece[len(x) - i]] += p * laws[k][o]
                if k < config.cap and i == len(x):
                    inside[END] += p * laws[k][v.end]
        whole = sum(
            p * (laws[k][v.stop] if k < config.cap else 1.0) for k, p in spelled_by(v, laws, x).items()
        )
    law = np.zeros(LAW)
    for b in range(LAW):
        ends = rule.ended_before(np.append(symbols, b).astype(np.int32))[-1]
        law[b] = (opening[b] * (1.0 if at_once else whole)) if ends else inside[b]
    return law / law.sum()


def test_law_is_the_one_defined(both):
    model, lm = both
    params = float64(model)
    for data in (b"The fox = 12345 abb", b"\xff\xc3\xa9 \x00"):
        (found,) = lm.laws([data])
        for n in range(len(data) + 1):
            expected = defined(model.config, params, np.array([END, *data[:n]]))
            np.testing.assert_allclose(np.exp(found[n]), expected, atol=1e-5, rtol=1e-3)


def test_contract_of_byte_lms(both):
    """Ragged, empty, binary, multilingual, and longer than a window."""
    texts = [b"", "naïve 你好, мир".encode(), bytes(range(120, 157)), b"a"]
    assert_byte_lm(both[1], texts, [b"", b"The ", "é", b""], atol=1e-4)


@pytest.mark.slow
def test_generates_its_greedy_law(both):
    _, lm = both
    (found,) = generate(lm, [b"The "], max_bytes=8, temperature=0)
    out = b""
    while len(out) < 8 and (best := int(lm.laws([out], [b"The "])[0][-1].argmax())) != END:
        out += bytes([best])
    assert found == out


@pytest.mark.parametrize("rule", ["runs", pytest.param("closing", marks=pytest.mark.slow)])
def test_training_cost_is_an_upper_bound(rule):
    """Document by document, of canonical pieces (and STOP)."""
    model, symbols_BT = build(rule=rule, pieces=PIECES), rows()
    batch = {"inputs": symbols_BT[:, :-1], "targets": symbols_BT[:, 1:], "documents": documents()[:, :-1]}
    nats_BT = np.asarray(jax.jit(model.nats)(batch))
    law_BTV = jax.jit(lambda x, d: jax.nn.log_softmax(model(x, d)))(batch["inputs"], batch["documents"])
    exact_BT = -np.take_along_axis(np.asarray(law_BTV), batch["targets"][..., None], axis=-1)[..., 0]
    for number in (1, 2, 3):
        mine = (batch["documents"] == number) & (batch["targets"] < END)
        assert (np.sum(nats_BT * mine, axis=1) > np.sum(exact_BT * mine, axis=1) - 1e-4).all()


@pytest.mark.slow
@pytest.mark.parametrize("rule", RULES)
def test_the_limit_of_predictions_loses_whole_words(rule):
    symbols_BT = rows()
    batch = {"inputs": symbols_BT[:, :-1], "targets": symbols_BT[:, 1:], "documents": documents()[:, :-1]}
    found = []
    for limit in ({"predictions": 12}, {}):
        model = build(rule=rule, pieces=PIECES, **limit)
        found.append(jax.jit(lambda m: (m.nats(batch), m.counts(batch)))(model))
    (nats_BT, counts), (all_nats_BT, all_of) = found
    np.testing.assert_array_equal(counts.bytes + counts.lost, all_of.bytes)
    assert np.asarray(counts.lost).sum() > 0 == np.asarray(all_of.lost).sum()
    kept_BT = np.asarray(counts.bytes) > 0
    np.testing.assert_allclose(nats_BT[kept_BT], all_nats_BT[kept_BT], rtol=1e-4)
