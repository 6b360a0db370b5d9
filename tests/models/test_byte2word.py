"""Byte2Word, causal: the law by its definition, causality, packed against written out, limits."""

from __future__ import annotations

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small
from fakes import assert_byte_lm

from bytelm import words
from bytelm.generate import generate
from bytelm.lm import END, LAW
from bytelm.models import Byte2WordConfig, cost
from bytelm.models.byte2word_cache import start as model_start
from bytelm.models.byte2word_parts import STOP
from bytelm.parameters import params_of
from bytelm.trained import TrainedLM

T = 40
TEXT = "The quick (brown) fox's 12345 foo_bar\n    return x == y; café 你好 abc".encode() * 2
RULES = {"closing": True, "runs": False}  # one that knows at once, one that knows a symbol later
every_rule = pytest.mark.parametrize("rule", RULES)


def build(**changes):
    return small.build(Byte2WordConfig, **{"words": T, "cap": 8, "queries": 2, "width": 16, **changes})


def rows(B=2, seed=0):
    random = np.random.default_rng(seed)
    at_B = random.integers(0, len(TEXT) - T, B)
    symbols_BT = np.stack([np.frombuffer(TEXT, np.uint8)[at : at + T] for at in at_B]).astype(np.int32)
    symbols_BT[:, [0, 13, 27]] = END
    return symbols_BT


def documents(B=2):
    return np.repeat(np.digitize(np.arange(T), [13, 27])[None] + 1, B, axis=0)


# ---- packed = written out ------------------------------------------------------------------------------


def norm(x, scale):
    return x / np.sqrt(np.mean(x**2, axis=-1, keepdims=True) + 1e-6) * scale


def softmax(x):
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def encoded(params, data):
    """The vector of one word, by itself."""
    p = params["reader"]
    h = norm(p["table"][data] + p["places"][: len(data)], p["pool"]["norm"]["scale"])
    k, v = (np.einsum("CD,DNH->CNH", h, p["pool"][name]) for name in ("key", "value"))
    share = softmax(np.einsum("CNH,MNH->MNC", k, p["pool"]["query"]) / k.shape[-1] ** 0.5)
    heard = np.einsum("MNC,CNH->MNH", share, v)
    return np.einsum("MNH,MNHD->D", heard, p["pool"]["out"])


def stacked(params, x_WD, base, causal):
    """The stack over the words of one document."""
    W = len(x_WD)
    mask_WW = np.tril(np.ones((W, W), bool)) if causal else np.ones((W, W), bool)

    def turn(x_WNH):
        half = x_WNH.shape[-1] // 2
        angle = np.arange(W)[:, None] * base ** (-np.arange(half) / half)
        z = (x_WNH[..., :half] + 1j * x_WNH[..., half:]) * np.exp(1j * angle)[:, None]
        return np.concatenate([z.real, z.imag], axis=-1)

    for i in range(len(params["blocks"]["query"])):
        p = jax.tree.map(lambda x: x[i], params["blocks"])  # noqa: B023
        h = norm(x_WD, p["norm_attention"]["scale"])
        q, k, v = (np.einsum("WD,DNH->WNH", h, p[name]) for name in ("query", "key", "value"))
        q, k = (turn(norm(x, p[s]["scale"])) for x, s in ((q, "norm_query"), (k, "norm_key")))
        k, v = (np.repeat(x, q.shape[1] // x.shape[1], axis=1) for x in (k, v))
        score = np.einsum("WNH,SNH->NWS", q, k) / q.shape[-1] ** 0.5
        a = np.einsum("NWS,SNH->WNH", softmax(np.where(mask_WW, score, -1e30)), v)
        x_WD = x_WD + np.einsum("WNH,NHD->WD", a, p["out"])
        h = norm(x_WD, p["norm_mlp"]["scale"])
        gate = h @ p["mlp"]["gate"]
        x_WD = x_WD + (gate / (1 + np.exp(-gate)) * (h @ p["mlp"]["up"])) @ p["mlp"]["down"]
    return x_WD


def slot_law(params, z_D, slot):
    """The law of a slot over all outputs."""
    p = params["slots"]
    h = (norm(z_D, p["norm"]["scale"]) + p["rows"][slot]) @ p["wide"]
    h = 0.5 * h * (1 + np.tanh(np.sqrt(2 / np.pi) * (h + 0.044715 * h**3)))
    logits = norm(h, p["norm_out"]["scale"]) @ params["head"]
    return softmax(logits)


def cut(config, symbols):
    starts = np.flatnonzero(words.rule(config.rule, config.cap).ended_before(np.asarray(symbols, np.int32)))
    return [symbols[a:b] for a, b in itertools.pairwise([*starts, len(symbols)])]


def float64(model):
    return jax.tree.map(lambda x: np.asarray(x, np.float64), params_of(model))


@every_rule
def test_packed_states_equal_written_out(rule):
    """Three documents in a row: the same as each word by itself and each document by itself."""
    model, symbols_BT = build(rule=rule), rows()
    z_BWD, document_BW = jax.jit(model.states)(symbols_BT, documents())
    params = float64(model)
    for b, symbols in enumerate(symbols_BT):
        expected, numbers = [], []
        for number, (a, e) in enumerate(itertools.pairwise([0, 13, 27, T]), start=1):
            u = np.stack([encoded(params, word) for word in cut(model.config, symbols[a:e])])
            expected.append(stacked(params, u, model.config.rope_base, causal=True))
            numbers += [number] * len(u)
        expected = np.concatenate(expected)
        expected = norm(expected, params["slots"]["norm"]["scale"])
        np.testing.assert_allclose(z_BWD[b, : len(expected)], expected, atol=2e-4)
        np.testing.assert_array_equal(document_BW[b], numbers + [0] * (T - len(numbers)))
    params["reader"]["places"] = params["reader"]["places"][::-1]
    assert np.abs(encoded(params, symbols[:3]) - u[0]).max() > 1e-2  # control


# ---- the law -------------------------------------------------------------------------------------------


def defined(config, params, symbols):
    """The law after `symbols`, one document: as the docstring defines it, asking the rule for each of 257."""
    rule = words.rule(config.rule, config.cap)
    u = np.stack([encoded(params, word) for word in cut(config, symbols)])
    z = stacked(params, u, config.rope_base, causal=True)
    last = cut(config, symbols)[-1]
    before = z[-2] if len(z) > 1 else params["start"]
    slot = min(len(last), config.cap - 1)
    within, first = slot_law(params, before, slot), slot_law(params, z[-1], 0)[:LAW]
    law = np.zeros(LAW)
    for b in range(LAW):
        ends = rule.ended_before(np.append(symbols, b).astype(np.int32))[-1]
        stop = 1.0 if rule.at_once else within[STOP]
        law[b] = stop * first[b] / first.sum() if ends else within[b]
    return law / law.sum()


@pytest.fixture(scope="module", params=RULES)
def both(request):
    model = build(rule=request.param, words=32)
    return model, TrainedLM(model, params_of(model), 32)


def test_law_is_the_one_defined(both):
    model, lm = both
    params = float64(model)
    for data in (b"The fox's 12345", "café 你".encode(), b"\xff\x80 \x00\x00\xc3", b""):
        (found,) = lm.laws([data])
        for n in range(len(data) + 1):
            expected = defined(model.config, params, np.array([END, *data[:n]]))
            np.testing.assert_allclose(np.exp(found[n]), expected, atol=1e-5, rtol=1e-3)


def test_contract_of_byte_lms(both):
    """Ragged, empty, binary, multilingual, and longer than a window."""
    texts = [b"", "naïve 你好, мир".encode(), bytes(range(120, 144)), TEXT[:37]]
    assert_byte_lm(both[1], texts, [b"x = ", b"", "é", TEXT[:40]], atol=1e-4)


@pytest.mark.slow
def test_generates_its_greedy_law(both):
    _, lm = both
    (found,) = generate(lm, [b"The "], max_bytes=12, temperature=0)
    out = b""
    while len(out) < 12 and (best := int(lm.laws([out], [b"The "])[0][-1].argmax())) != END:
        out += bytes([best])
    assert found == out


@every_rule
def test_training_cost_against_the_law(rule):
    """At once: the same. Later: an upper bound, of a word by a word."""
    model = build(rule=rule)
    symbols_BT = rows()
    batch = {"inputs": symbols_BT[:, :-1], "targets": symbols_BT[:, 1:], "documents": documents()[:, :-1]}
    nats_BT = np.asarray(jax.jit(model.nats)(batch))
    law_BTV = jax.jit(lambda x, d: jax.nn.log_softmax(model(x, d)))(batch["inputs"], batch["documents"])
    exact_BT = -np.take_along_axis(np.asarray(law_BTV), batch["targets"][..., None], axis=-1)[..., 0]
    if RULES[rule]:
        np.testing.assert_allclose(nats_BT, exact_BT, atol=1e-4)
        return
    for number in (1, 2, 3):
        mine = (batch["documents"] == number) & (batch["targets"] < END)
        assert (np.sum(nats_BT * mine, axis=1) > np.sum(exact_BT * mine, axis=1)).all()


# ---- causality -----------------------------------------------------------------------------------------


def test_causal_by_changing_bytes():
    """Of a rule that knows at once test_contract.py says it."""
    model, symbols_1T, documents_1T = build(rule="runs"), rows(1), documents(1)
    run = jax.jit(lambda x: jax.nn.log_softmax(model(x, jnp.broadcast_to(documents_1T, x.shape))))
    same_STV = run(np.repeat(symbols_1T, T, axis=0))
    moved_TS = np.zeros((T, T))
    for symbol in (ord(" "), ord("z"), 0xE4):
        changed_ST = np.repeat(symbols_1T, T, axis=0)
        changed_ST[np.arange(T), np.arange(T)] = symbol
        moved_TS = np.maximum(moved_TS, np.abs(run(changed_ST) - same_STV).max(axis=-1).T)
    allowed_TS = np.tril(documents_1T[0][:, None] == documents_1T[0][None])
    assert moved_TS[~allowed_TS].max() < 2e-5
    assert (moved_TS[allowed_TS] > 1e-4).mean() > 0.7
    with pytest.raises(AssertionError):  # control: a law that looks one symbol ahead
        assert np.roll(moved_TS, -1, axis=0)[~allowed_TS].max() < 2e-5


# ---- limits and sizes ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("rule", "data"), [("closing", TEXT[:64]), ("runs", TEXT[:64])])
def test_room_is_what_fits(rule, data):
    """`room` and the cache's `fits` against counting words of every beginning."""
    config = small.config(Byte2WordConfig, rule=rule, cap=8, words=11)
    bounds, symbols = config.boundaries, np.r_[END, np.frombuffer(data, np.uint8).astype(np.int32)]
    model = small.build(Byte2WordConfig, rule=rule, cap=8, words=11)
    needed = []
    for n in range(1, len(symbols) + 1):
        ended = bounds.ended_before(np.append(symbols[:n], 97))
        needed.append(ended[:n].sum() - 1 + (ended[n] if bounds.at_once else 1))
    for context in (20, 64):
        fit = min(context, len(symbols), int(np.searchsorted(needed, 11, side="right")))
        for n in (1, 5, fit - 1, fit, fit + 1, len(symbols)):
            room = model.room(symbols[:n], context)
            assert room == fit if n > fit else n <= room <= fit, (n, room, fit)
    cache, fits = model_start(model, 1, 64), jax.jit(lambda c, s: model.fits(c, s, 64))
    step, read = jax.jit(model.decode), 0
    while read < len(symbols) and fits(cache, symbols[read : read + 1])[0]:
        _, cache = step(cache, symbols[read : read + 1].astype(np.int32), np.array([True]))
        read += 1
    assert read == model.room(symbols, 64)


@pytest.mark.slow
@every_rule
def test_words_beyond_the_limit_lose_their_loss_and_are_counted(rule):
    model, roomy = build(rule=rule, words=5), build(rule=rule)
    batch = {"inputs": rows(), "targets": np.roll(rows(), -1, axis=1), "documents": documents()}
    counts, all_of = (jax.jit(m.counts)(batch) for m in (model, roomy))
    np.testing.assert_array_equal(counts.bytes + counts.lost, all_of.bytes)
    assert np.asarray(counts.lost).sum() > 0 == np.asarray(all_of.lost).sum()
    nats, kept = jax.jit(lambda m: m.nats(batch)), np.asarray(counts.bytes) > 0
    np.testing.assert_allclose(nats(model)[kept], nats(roomy)[kept], rtol=1e-4)
    grads = jax.jit(jax.grad(lambda m: jnp.sum(jnp.where(kept, m.nats(batch), 0.0))))(model)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(grads))


def test_embedding_is_a_tenth_of_a_table():
    """At the widths of BERT, against its table (30,522 x 768); a narrower byte level costs less still."""
    bert = {"vocabulary": 30_522, "width": 768}
    wide = Byte2WordConfig(layers=1, width=768, heads=12, byte_width=768, byte_heads=12)
    narrow = Byte2WordConfig(layers=1, width=768, heads=12, byte_width=256, byte_heads=4)
    assert cost.embedding_share(narrow, **bert) < 0.02 < cost.embedding_share(wide, **bert) < 0.12
    by_hand = 261 * 768 + 20 * 768 + 3 * 768 * 768 + 768 + 768
    assert cost.embedding_parameters(wide) == by_hand


def test_flops_are_what_the_compiler_counts():
    config = Byte2WordConfig(layers=2, width=256, heads=2, byte_width=128, words=64, dtype="float32")
    found = cost.flops(config, 256)
    assert 0.95 < found.compiler / found.analytic < 1.3


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"cap": 3}, "model.rule, model.cap: words: the cap of rule 'closing' is 3; it must be 4"),
        ({"rule": "spaces"}, "no rule 'spaces'"),
        ({"queries": 0}, "model.queries must be positive, got 0"),
        ({"width": 10, "heads": 4}, "model.width 10 is no multiple of model.heads 4"),
        ({"byte_width": 10, "byte_heads": 4}, "model.byte_width 10 is no multiple of model.byte_heads 4"),
        ({"width": 6, "heads": 2}, "head_width 3 must be even"),
        ({"heads": 4, "key_heads": 3}, "model.heads 4 is no multiple of model.key_heads 3"),
        ({"dropout": 1.0}, "model.dropout must be in"),
    ],
)
def test_sizes_that_do_not_fit(fields, message):
    with pytest.raises(ValueError, match=message):
        Byte2WordConfig(**fields)
