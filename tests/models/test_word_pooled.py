"""Word-pooled models: causality under every rule, packed against written out by words, decoding, limits."""

from __future__ import annotations

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small
from test_contract import assert_sees_only, influence

from bytelm import models, words
from bytelm.config import Optimizer
from bytelm.lm import END, LAW
from bytelm.models import WordPooledConfig
from bytelm.parameters import matrices_of, params_of, rates_of, with_params
from bytelm.training.optimizer import make_optimizer
from bytelm.words import RULES

T = 40
TEXT = "The quick (brown) fox's 12345 foo_bar\n    return x == y; café 你好 abc".encode() * 2
POOLINGS = {"last": 1, "mean": 1, "attention": 2, "prefix": 2}


def build(**changes):
    changes = {"words": T, "cap": 8, **changes}
    changes.setdefault("vectors", POOLINGS[changes.get("pooling", "last")])
    return small.build(WordPooledConfig, **changes)


def rows(B=4, seed=0):
    random = np.random.default_rng(seed)
    at_B = random.integers(0, len(TEXT) - T, B)
    symbols = np.stack([np.frombuffer(TEXT, np.uint8)[at : at + T] for at in at_B]).astype(np.int32)
    symbols[:, 0] = END
    return symbols


def documents(B=4):
    return np.repeat(np.digitize(np.arange(T), [13, 27])[None] + 1, B, axis=0)


# Every rule, and every pooling with either window under one rule of each kind; slow: all of it.
SOME = [(rule, "last", 1) for rule in RULES]
SOME += [(rule, pooling, span) for pooling in POOLINGS for rule, span in (("runs", 3), ("closing", 1))]
ALL = list(itertools.product(RULES, POOLINGS, (1, 3)))
every_variant = pytest.mark.parametrize(
    ("rule", "pooling", "span"),
    [pytest.param(*v, marks=[] if v in SOME else pytest.mark.slow) for v in ALL],
)


# ---- causality -----------------------------------------------------------------------------------------


def moved_by_changes(model, symbols_1T, documents_1T):
    """How far changing the symbol at s moves the logits at t, [t, s]; the most of several changes."""
    run = jax.jit(lambda x: model(x, jnp.broadcast_to(documents_1T, x.shape)))
    before_STV = run(np.repeat(symbols_1T, T, axis=0))  # row by row: rounding depends on the row
    moved_TS = np.zeros((T, T))
    for symbol in (ord(" "), ord("z"), ord("("), 0xE4, END):
        changed_ST = np.repeat(symbols_1T, T, axis=0)
        changed_ST[np.arange(T), np.arange(T)] = symbol
        moved_TS = np.maximum(moved_TS, np.abs(run(changed_ST) - before_STV).max(axis=-1).T)
    return moved_TS


def may_see(documents_1T):
    same = documents_1T[0][:, None] == documents_1T[0][None]
    return np.tril(same)


@every_variant
def test_causal_by_changing_bytes(rule, pooling, span):
    """To the bit no symbol moves an earlier logit, and up to rounding (since words are numbered along a row)
    none of another document; all others it does move."""
    model = build(rule=rule, pooling=pooling, span=span)
    symbols_1T, documents_1T = rows(1), documents(1)
    moved_TS, allowed_TS = moved_by_changes(model, symbols_1T, documents_1T), may_see(documents_1T)
    assert (moved_TS[np.triu_indices(T, 1)] == 0).all()
    assert moved_TS[~allowed_TS].max() < 2e-5 < 1e-3 < np.median(moved_TS[allowed_TS])
    assert (np.diagonal(moved_TS) > 1e-4).all()
    assert (moved_TS[allowed_TS] > 1e-5).mean() > 0.9


class ReadsAhead:
    """A rule that says of each symbol what is true of the one after it."""

    def __init__(self, rule):
        self.rule, self.at_once = rule, rule.at_once

    def read(self, symbols_BT, documents_BT=None):
        ended_BT, states = self.rule.read(symbols_BT, documents_BT)
        return jnp.roll(ended_BT, -1, axis=1), states

    def ended_after(self, states):
        return jnp.roll(self.rule.ended_after(states), -1, axis=1)


@pytest.mark.parametrize("rule", ["runs", "spacebyte"])
def test_control_a_rule_that_reads_ahead(rule, monkeypatch):
    model = build(rule=rule)
    ahead = ReadsAhead(words.rule(rule, 8))
    monkeypatch.setattr(WordPooledConfig, "boundaries", ahead)
    documents_1T = np.ones((1, T), int)
    moved_TS = moved_by_changes(model, rows(1), documents_1T)
    assert (moved_TS[~may_see(documents_1T)] > 0).any()
    with pytest.raises(ValueError, match="reads the next symbol"):  # and the rule itself says so
        dataclasses.replace(words.rule("runs"), at_once=True)


@pytest.mark.parametrize(
    ("rule", "pooling", "span"),
    [pytest.param(*v, marks=[] if v in SOME[-2:] else pytest.mark.slow) for v in ALL],
)
def test_causal_by_gradient(rule, pooling, span):
    model = build(rule=rule, pooling=pooling, span=span)
    params, random = params_of(model), np.random.default_rng(0)
    symbols_1T = random.permutation(np.r_[32:127])[None, :T].astype(np.int32)  # all different
    documents_1T = documents(1)
    found_TS = influence(lambda p, s: with_params(model, p)(s, documents_1T), params, symbols_1T)
    allowed_TS = may_see(documents_1T)
    assert_sees_only(found_TS, allowed_TS)
    assert (found_TS[allowed_TS] > 0).mean() > 0.97
    leaking = influence(
        lambda p, s: jnp.roll(with_params(model, p)(s, documents_1T), -1, axis=1), params, symbols_1T
    )
    with pytest.raises(AssertionError, match="may not depend"):
        assert_sees_only(leaking, allowed_TS)


# ---- packed = written out ------------------------------------------------------------------------------


def written_out(config, params, data):
    """The law after each symbol of one document, word by word, from padded canvases and masks of pairs."""
    c, rule = config, words.rule(config.rule, config.cap)
    n = len(data)
    bounds = [*np.flatnonzero(rule.ended_before(data)), n]
    spans = list(itertools.pairwise(bounds))  # of each word, the last perhaps unfinished

    def norm(x, scale):
        return x / np.sqrt(np.mean(x**2, axis=-1, keepdims=True) + 1e-6) * scale

    def softmax(x):
        e = np.exp(x - x.max(axis=-1, keepdims=True))
        return e / e.sum(axis=-1, keepdims=True)

    def turn(x_TNH, position_T):
        half = x_TNH.shape[-1] // 2
        angle = position_T[:, None] * c.rope_base ** (-np.arange(half) / half)
        z = (x_TNH[..., :half] + 1j * x_TNH[..., half:]) * np.exp(1j * angle)[:, None]
        return np.concatenate([z.real, z.imag], axis=-1)

    def stack(x_TD, blocks, mask_TT):
        position = np.arange(len(x_TD))
        for i in range(blocks["query"].shape[0]):
            p = jax.tree.map(lambda x: np.asarray(x[i], np.float64), blocks)  # noqa: B023
            h = norm(x_TD, p["norm_attention"]["scale"])
            q, k, v = (np.einsum("TD,DNH->TNH", h, p[name]) for name in ("query", "key", "value"))
            q, k = (turn(norm(x, p[s]["scale"]), position) for x, s in ((q, "norm_query"), (k, "norm_key")))
            k, v = (np.repeat(x, q.shape[1] // x.shape[1], axis=1) for x in (k, v))
            score = np.einsum("TNH,SNH->NTS", q, k) / q.shape[-1] ** 0.5
            a = np.einsum("NTS,SNH->TNH", softmax(np.where(mask_TT, score, -1e30)), v)
            x_TD = x_TD + np.einsum("TNH,NHD->TD", a, p["out"])
            h = norm(x_TD, p["norm_mlp"]["scale"])
            gate = h @ p["mlp"]["gate"]
            x_TD = x_TD + (gate / (1 + np.exp(-gate)) * (h @ p["mlp"]["up"])) @ p["mlp"]["down"]
        return x_TD

    word = np.zeros(n, int)
    for i, (a, b) in enumerate(spans):
        word[a:b] = i
    place = np.concatenate([np.arange(b - a) for a, b in spans])
    near = np.tril(np.ones((n, n), bool)) & (word[:, None] - word[None] < c.span)
    x = np.asarray(params["table"])[data] + np.asarray(params["places"])[place]
    read = x if c.pooling == "prefix" else stack(x, params["encoder"], near)
    vectors = []
    for a, b in spans:
        of_word, pool = read[a:b], params.get("pool", {})
        if c.pooling == "last":
            u = of_word[-1:]
        elif c.pooling == "mean":
            u = of_word.mean(axis=0, keepdims=True)
        elif c.pooling == "attention":
            h = norm(of_word, pool["norm"]["scale"])
            k, v = (np.einsum("CD,DNH->CNH", h, pool[name]) for name in ("key", "value"))
            share = softmax(np.einsum("CNH,PNH->PNC", k, pool["query"]) / k.shape[-1] ** 0.5)
            u = np.einsum("PNC,CNH,NHD->PD", share, v, pool["out"])
        else:
            inside = np.concatenate([pool["vectors"], of_word])
            u = stack(inside, pool["blocks"], np.ones((len(inside),) * 2, bool))[: c.vectors]
        vectors.append(norm(u, params["norm_up"]["scale"]) @ params["up"])
    z = np.concatenate(vectors)
    z = stack(z, params["blocks"], np.tril(np.ones((len(z),) * 2, bool)))
    z = norm(z, params["norm_down"]["scale"]).reshape(len(spans), c.vectors, -1)
    parts = np.einsum("WPM,PMnD->WnD", z, params["down"])
    for t in range(n):
        # Whether the word ends after t: the rule is asked, with a symbol that it must not look at.
        ended = rule.at_once and rule.ended_before(np.append(data[: t + 1], 97))[t + 1]
        known = word[t] + ended
        if known:
            since = t - (spans[known - 1][1] - 1) if rule.at_once else place[t]
            read[t] = read[t] + parts[known - 1, min(since, c.parts - 1)]
    out = stack(read, params["decoder"], near)
    return norm(out, params["norm"]["scale"]) @ params["head"]


@pytest.mark.parametrize(
    ("rule", "pooling", "span"),
    [("runs", p, 1) for p in POOLINGS] + [("spacebyte", "last", 3), ("closing", "attention", 2)],
)
def test_packed_equals_written_out(rule, pooling, span):
    """Three documents in a row, and each alone: the same as from canvases, document by document."""
    model = build(rule=rule, pooling=pooling, span=span, decoder_layers=2, key_heads=1)
    params = jax.tree.map(lambda x: np.asarray(x, np.float64), params_of(model))
    symbols_1T = rows(1, seed=5)
    symbols_1T[0, [13, 27]] = END
    found_TV = jax.jit(model.__call__)(symbols_1T, documents(1))[0]
    for a, b in ((0, 13), (13, 27), (27, T)):
        expected = written_out(model.config, params, symbols_1T[0, a:b])
        np.testing.assert_allclose(found_TV[a:b], expected, atol=2e-4)
    params["up"] = params["up"][::-1]
    assert np.abs(written_out(model.config, params, symbols_1T[0, :13]) - found_TV[:13]).max() > 1e-2


# ---- one byte at a time --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rule", "pooling", "span", "more"),
    [
        ("runs", "last", 1, {}),
        ("closing", "mean", 3, {}),
        ("runs", "attention", 1, {"lexinvariant": 1.0}),
        ("spacebyte", "prefix", 3, {"ngrams": 50, "embedding": "bits"}),
        ("runs", "prefix", 1, {}),
    ],
)
def test_cached_equals_whole_rows(rule, pooling, span, more):
    """Ragged rows that go on at different times, waiting for each other or not."""
    model = build(rule=rule, pooling=pooling, span=span, **more)
    rows_BT, length_B = rows(), np.array([1, 4, 9, 23])
    whole_BTV = jax.jit(model.__call__)(rows_BT)
    logits_BV, start = jax.jit(model.prefill, static_argnums=2)(rows_BT, length_B, T)
    np.testing.assert_allclose(logits_BV, whole_BTV[np.arange(4), length_B - 1], atol=1e-4)
    calls = {}
    for name, step in (("decode", jax.jit(model.decode)), ("advance", jax.jit(model.advance))):
        cache, read_B, random, calls[name] = start, length_B.copy(), np.random.default_rng(0), 0
        while (read_B < T).any():
            assert calls[name] < 5 * T, "rows wait for ever"
            active_B = (read_B < T) & ((random.random(4) < 0.7) | np.asarray(cache.waiting_B))
            at_B = np.minimum(read_B, T - 1)
            logits_BV, cache, *done = step(cache, rows_BT[np.arange(4), at_B], active_B)
            done_B = np.asarray(done[0]) if done else active_B
            expected_BV = whole_BTV[np.arange(4), at_B]
            np.testing.assert_allclose(logits_BV[done_B], expected_BV[done_B], atol=1e-4)
            read_B, calls[name] = read_B + done_B, calls[name] + 1
            np.testing.assert_array_equal(
                cache.length_B, read_B + (cache.waiting_B & model.config.boundaries.at_once)
            )
    assert calls["advance"] > calls["decode"]  # rows did wait


# ---- limits and bad input ------------------------------------------------------------------------------


def test_words_beyond_the_limit_lose_their_loss_and_are_counted():
    model, roomy = build(rule="runs", words=5), build(rule="runs")
    batch = {"inputs": rows(), "targets": np.roll(rows(), -1, axis=1), "documents": np.ones((4, T), int)}
    counts, all_of = model.counts(batch), roomy.counts(batch)
    known_BT = np.cumsum(words.rule("runs", 8).ended_before(batch["inputs"]), axis=1) - 1
    np.testing.assert_array_equal(counts.lost > 0, (known_BT > 5) & (batch["targets"] < END))
    np.testing.assert_array_equal(counts.bytes + counts.lost, all_of.bytes)
    assert not (counts.ends & (known_BT > 5)).any()
    assert np.asarray(counts.lost).sum() > 0 == np.asarray(all_of.lost).sum()
    nats = jax.jit(lambda m: m.nats(batch))
    kept = np.asarray(counts.bytes) > 0
    np.testing.assert_allclose(nats(model)[kept], nats(roomy)[kept], rtol=1e-5)
    grads = jax.jit(jax.grad(lambda m: jnp.sum(jnp.where(kept, m.nats(batch), 0.0))))(model)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(grads))


@pytest.mark.parametrize("pooling", POOLINGS)
def test_gradients_are_finite_where_words_have_no_room(pooling):
    model = build(words=3, pooling=pooling)
    batch = {"inputs": 9 * rows() % 256, "targets": rows() % 256, "documents": np.ones((4, T), int)}
    counts = model.counts(batch)
    loss = lambda m: jnp.sum(jnp.where(counts.bytes > 0, m.nats(batch), 0.0))  # noqa: E731
    grads = jax.jit(jax.grad(loss))(model)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(grads))


@pytest.mark.parametrize("rule", ["runs", "closing", "byte", "stride"])
@pytest.mark.parametrize(
    "data", [TEXT, b"a" * 70, bytes(range(256)) * 2], ids=["text", "no boundary", "binary"]
)
def test_room_is_what_fits(rule, data):
    """`room` against counting the words of every beginning; the cache's `fits` says the same."""
    config = small.config(WordPooledConfig, rule=rule, cap=8, words=11)
    bounds, symbols = config.boundaries, np.r_[END, np.frombuffer(data, np.uint8).astype(np.int32)]
    model = jax.eval_shape(lambda: models.build(config, jax.random.key(0)))
    for context in (20, 64):
        ended_BT, states = bounds.read(jnp.asarray(symbols[None]))
        known = np.cumsum(ended_BT[0]) - 1 + np.asarray(bounds.ended_after(states))[0]
        fit = min(context, len(symbols), int(np.searchsorted(known, 11, side="right")))
        for n in (1, 5, fit - 1, fit, fit + 1, len(symbols)):
            room = model.room(symbols[:n], context)
            assert room == fit if n > fit else n <= room <= fit, (n, room, fit)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"cap": 3}, "model.rule, model.cap: words: the cap of rule 'closing' is 3; it must be 4"),
        ({"rule": "spaces"}, "no rule 'spaces'"),
        ({"words": 0}, "model.words must be positive, got 0"),
        ({"width": 10, "heads": 4}, "model.width 10 is no multiple of model.heads 4"),
        ({"byte_width": 10, "byte_heads": 4}, "model.byte_width 10 is no multiple of model.byte_heads 4"),
        ({"byte_width": 6, "byte_heads": 2}, "byte_width / byte_heads 3 must be even"),
        ({"vectors": 2}, "model.vectors 2: pooling 'last' makes 1"),
        ({"pooling": "prefix", "vectors": 5}, "model.vectors 5: pooling 'prefix' makes 1 to 4"),
        ({"lexinvariant": 1.5}, "model.lexinvariant must be in"),
        ({"byte_rate": 0.0}, "model.byte_rate must be positive"),
    ],
)
def test_sizes_that_do_not_fit(fields, message):
    with pytest.raises(ValueError, match=message):
        WordPooledConfig(**fields)


# ---- options -------------------------------------------------------------------------------------------


def test_levels_move_at_their_own_rates():
    updates = {}
    for rate in (1.0, 0.25):
        model = build(byte_rate=rate, pooling="attention")
        optimizer = make_optimizer(Optimizer(name="adamw"), matrices_of(model), rates_of(model))
        params = params_of(model)
        grads = jax.tree.map(jnp.ones_like, params)
        updates[rate], _ = jax.jit(lambda g, p, o=optimizer: o.update(g, o.init(p), p))(grads, params)
    ratio = jax.tree.map(lambda a, b: float(jnp.mean(a / b)), updates[0.25], updates[1.0])
    of_bytes = {"encoder", "decoder", "pool"}
    for name, parts in ratio.items():
        for found in jax.tree.leaves(parts):
            assert found == pytest.approx(0.25 if name in of_bytes else 1.0, rel=1e-4), name


def test_embeddings():
    """Bits: no table; n-grams: more is known of the past; a fresh table: another law for each key and row."""
    symbols = rows(2)
    symbols[1] = symbols[0]
    assert "table" not in params_of(build(embedding="bits"))
    model = build(lexinvariant=1.0)
    run = jax.jit(model.__call__)
    one, two = run(symbols, None, jax.random.key(0)), run(symbols, None, jax.random.key(1))
    assert np.abs(one[0] - one[1]).max() > 1e-2
    assert np.abs(one - two).max() > 1e-2
    fixed = run(symbols)
    np.testing.assert_array_equal(fixed[0], fixed[1])
    half = jax.jit(build(lexinvariant=0.5).__call__)(np.repeat(symbols, 8, axis=0), None, jax.random.key(2))
    same = [np.allclose(half[i], half[j], atol=1e-5) for i in range(16) for j in range(i)]
    assert 0 < sum(same) < len(same)


@pytest.mark.parametrize("pooling", POOLINGS)
def test_flops_are_what_the_compiler_counts(pooling):
    """One layer of each kind and one row: the compiler counts the body of a loop once, in-word attention in
    whole blocks, and norms too."""
    config = WordPooledConfig(
        layers=1, width=256, heads=1, byte_width=128, byte_heads=1, encoder_layers=1, decoder_layers=1,
        words=64, pooling=pooling, dtype="float32",
    )  # fmt: skip
    model = jax.eval_shape(lambda: models.build(config, jax.random.key(0)))
    row = jax.ShapeDtypeStruct((1, 256), jnp.int32)
    counted = jax.jit(type(model).__call__).lower(model, row).compile().cost_analysis()["flops"] / 256
    assert 0.98 < counted / models.flops(config, 256) < 1.25


def test_flops_at_most_a_third_of_the_flat_model():
    """The default, at 940 bytes in 192 words, against a flat model of the same depth and width."""
    for layers_, width, heads in ((8, 512, 8), (4, 384, 6)):
        pooled = WordPooledConfig(layers=layers_, width=width, heads=heads, words=192)
        flat = models.ByteTransformerConfig(layers=layers_, width=width, heads=heads)
        assert models.flops(pooled, 940) < 0.35 * models.flops(flat, 940)
    assert LAW == 257
