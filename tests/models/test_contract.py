"""What every architecture must satisfy: all byte models of `models.CONSTRUCTORS` are tested here."""

from __future__ import annotations

import itertools
from dataclasses import fields

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small

from bytelm import models
from bytelm.lm import END, LAW, NUM_SYMBOLS
from bytelm.loss import nats_of
from bytelm.parameters import flat, nested, params_of, with_params

T = 24
EDGES = (9, 17)  # where documents begin
WINDOW = 4
# The published model's law comes one symbol at a time; test_learn_your_tokens.py holds it to the same. The
# decoder of tokens has other symbols: test_token_lm.py. Models of hidden words give no law of what comes
# next: test_byte2word_masked.py. The classifier has none: test_classifier.py.
OTHERS: tuple[type, ...] = (models.LearnYourTokensConfig, models.TokenLMConfig, models.ClassifierConfig)
OTHERS += (models.MaskedByte2WordConfig, models.BertConfig)
KINDS = [kind for kind in models.CONSTRUCTORS if kind not in OTHERS]
every_kind = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)


def kinds_with(cases):
    """Each architecture with those of `cases` that it has the fields for."""
    pairs = [
        (kind, name) for kind in KINDS for name in cases if {*CASES[name]} <= {f.name for f in fields(kind)}
    ]
    return pytest.mark.parametrize(
        ("kind", "case"),
        [(kind, CASES[name]) for kind, name in pairs],
        ids=[f"{kind.__name__}-{name}" for kind, name in pairs],
    )


CASES = {"whole": {}, "window": {"window": WINDOW}, "mixed": {"isolate_documents": False}}


def documents():
    return np.digitize(np.arange(T), EDGES)[None] + 1


def symbols(seed=0):
    """All different, so that the row of the table that a gradient reaches names the position."""
    row_T = np.random.default_rng(seed).permutation(256)[:T]
    row_T[list(EDGES)] = END if seed == 0 else row_T[list(EDGES)]
    row_T[EDGES[1]] = 255 if 255 not in row_T else 254
    return row_T[None]


def may_see(case, documents_T=None):
    """Which positions s the logits at t may depend on, [t, s]."""
    t, s = np.mgrid[:T, :T]
    allowed = s <= t
    if "window" in case:
        allowed &= t - s <= small.SIZES["layers"] * (case["window"] - 1)
    if case.get("isolate_documents", True):
        d = documents()[0]
        allowed &= d[:, None] == d[None]
    return allowed


def influence(f, params, symbols_1T):
    """How far the embedded input at s moves the logits at t: the norm of the gradient, [t, s].

    Through the tables of symbols: `symbols_1T` are all different, so each row of a table is one input.
    """
    arrays = flat(params)
    tables = {path: x for path, x in arrays.items() if x.shape[0] == NUM_SYMBOLS}
    assert tables, "the model has no table of symbols to look through"

    def at(t, tables):
        logits_TV = f(nested({**arrays, **tables}), symbols_1T)[0]
        return jnp.sum(logits_TV[t] * jnp.sin(jnp.arange(LAW)))

    grads = jax.jit(jax.vmap(jax.grad(at, argnums=1), in_axes=(0, None)))(
        jnp.arange(symbols_1T.shape[1]), tables
    )
    return sum(np.linalg.norm(g[:, symbols_1T[0]], axis=-1) for g in grads.values())


def assert_sees_only(influence_TS, allowed_TS):
    assert (influence_TS[~allowed_TS] == 0).all(), "a gradient reaches what the logits may not depend on"


@kinds_with(["whole", "window"])
def test_causal_by_gradient(kind, case):
    model = small.build(kind, **case)
    params = params_of(model)
    found_TS = influence(lambda p, s: with_params(model, p)(s, documents()), params, symbols())
    allowed_TS = may_see(case)
    assert_sees_only(found_TS, allowed_TS)
    near_TS = allowed_TS & (np.subtract.outer(np.arange(T), np.arange(T)) < 2)
    seen = (found_TS[near_TS] > 0).mean()  # the measure is not blind
    # Byte2Word predicts the symbols of a word independently: each hears of the words before it only.
    assert seen == 1.0 if kind is not models.Byte2WordConfig else 0.1 < seen < 1.0, seen

    leaking_TS = influence(  # a model that looks one symbol ahead
        lambda p, s: jnp.roll(with_params(model, p)(s, documents()), -1, axis=1), params, symbols()
    )
    with pytest.raises(AssertionError, match="may not depend"):
        assert_sees_only(leaking_TS, allowed_TS)


@kinds_with(["whole", "window", "mixed"])
def test_causal_by_changing_bytes(kind, case):
    """Changing the symbol at s leaves every earlier logit as it is, to the bit, and those of other documents
    too, but for the rounding of positions where words are numbered along a row."""
    model = small.build(kind, **case)
    run = jax.jit(lambda symbols_BT: model(symbols_BT, jnp.broadcast_to(documents(), symbols_BT.shape)))
    changed_ST = np.repeat(symbols(), T, axis=0)
    changed_ST[np.arange(T), np.arange(T)] = 258  # row s has another symbol at s
    moved_ST = np.abs(run(changed_ST) - run(np.repeat(symbols(), T, axis=0))).max(axis=-1)
    allowed_TS = may_see(case)
    assert (moved_ST.T[np.triu_indices(T, 1)] == 0).all()
    assert (moved_ST.T[~allowed_TS] < 1e-5).all()
    assert (np.diagonal(moved_ST) > 0).all()
    assert (moved_ST.T[allowed_TS] > 0).mean() > 0.9
    assert not (moved_ST[:-1].T[1:] < 1e-5)[~allowed_TS[:-1, 1:]].all()  # the same, off by one, does fail


@every_kind
def test_packed_is_padded_is_alone(kind):
    """Documents packed in a row are read as if each had a row, padded or not."""
    model = small.build(kind)
    run = jax.jit(model.__call__)
    packed_TV = run(symbols(), documents())[0]
    starts = (0, *EDGES, T)
    for start, stop in itertools.pairwise(starts):
        row_1T = np.zeros((1, T), int)
        row_1T[0, : stop - start] = symbols()[0, start:stop]
        numbers_1T = (np.arange(T) < stop - start)[None].astype(int)
        padded_TV = run(row_1T, numbers_1T)[0, : stop - start]
        np.testing.assert_allclose(padded_TV, packed_TV[start:stop], atol=2e-5)
        alone_TV = run(row_1T[:, : stop - start])[0]
        np.testing.assert_allclose(alone_TV, packed_TV[start:stop], atol=2e-5)
    mixed_TV = run(symbols(), np.ones((1, T), int))[0]
    assert np.abs(mixed_TV - packed_TV)[EDGES[0] :].max() > 1e-2  # control: one document


@every_kind
def test_starts_at_the_uniform_law(kind):
    @jax.jit
    def nats(model):
        return nats_of(model(symbols()), np.minimum(symbols(3), END))

    model = jax.jit(lambda key: models.build(small.config(kind), key))(jax.random.key(0))
    np.testing.assert_allclose(nats(model), np.log(LAW), rtol=1e-6)
    assert np.std(nats(small.awake(model))) > 0.1


@every_kind
def test_logits(kind):
    model = small.build(kind, dtype="bfloat16")
    logits = jax.eval_shape(model.__call__, symbols().astype(np.uint16), documents())
    assert (logits.shape, logits.dtype) == ((1, T, LAW), jnp.float32)
    assert {x.dtype for x in jax.tree.leaves(model)} == {jnp.dtype("float32")}


@every_kind
def test_bfloat16_is_near(kind):
    half, full = (
        jax.jit(small.build(kind, dtype=dtype).__call__)(symbols(), documents())
        for dtype in ("bfloat16", "float32")
    )
    gap = np.abs(half - full).mean() / np.abs(full).mean()
    assert 1e-5 < gap < 0.05


@pytest.mark.parametrize(
    "kind",
    [pytest.param(kind, marks=[pytest.mark.slow] if i else []) for i, kind in enumerate(KINDS)],
    ids=lambda kind: kind.__name__,
)
def test_remat_changes_the_program_but_not_the_result(kind):
    """Values and gradients agree; what is computed again differs, or this would compare nothing."""
    model = small.build(kind)
    params, programs, results = params_of(model), {}, {}
    for remat in ("none", "dots", "full"):
        one = small.build(kind, remat=remat)

        def loss(params, one=one):
            return jnp.mean(nats_of(with_params(one, params)(symbols(), documents()), symbols(3)))

        programs[remat] = str(jax.make_jaxpr(jax.grad(loss))(params))
        results[remat] = jax.jit(jax.value_and_grad(loss))(params)
    assert len(set(programs.values())) == 3
    for remat in ("dots", "full"):
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6),
            results[remat], results["none"],
        )  # fmt: skip
    assert max(float(jnp.abs(g).max()) for g in jax.tree.leaves(results["none"][1])) > 1e-2


@every_kind
def test_dropout(kind):
    model, off = small.build(kind, dropout=0.5), small.build(kind)
    run = jax.jit(model.__call__)
    plain, key = run(symbols(), documents()), jax.random.key(3)
    np.testing.assert_array_equal(plain, jax.jit(off.__call__)(symbols(), documents()))
    dropped = run(symbols(), documents(), key)
    np.testing.assert_array_equal(dropped, run(symbols(), documents(), key))
    assert np.abs(dropped - plain).max() > 1e-2
    assert np.abs(dropped - run(symbols(), documents(), jax.random.key(4))).max() > 1e-2
    np.testing.assert_array_equal(plain, jax.jit(off.__call__)(symbols(), documents(), key))


@every_kind
def test_flops_grow_with_the_row_only_where_attention_does(kind):
    """What a model has of windows is narrow, of words a fixed share."""
    near, far = (
        models.flops(small.config(kind, window=8, words=length // 4), length) for length in (512, 1024)
    )
    attention = 0.0 if "window" in {f.name for f in fields(kind)} else 1.0  # over words, of whole rows
    assert 1.0 <= far / near < 1.02 + attention
    assert models.flops(small.config(kind), 1024) > 1.5 * models.flops(small.config(kind), 64) or attention
