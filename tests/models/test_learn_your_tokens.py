"""The published model: its law against enumeration, its loss against its law, causality, documents."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small

from bytelm import models
from bytelm.lm import END, LAW
from bytelm.models import LearnYourTokensConfig
from bytelm.models.learn_your_tokens import STOP
from bytelm.parameters import params_of

SIZES = {"words": 30, "cap": 5, "layers": 2, "width": 16, "heads": 2, "mlp_width": 24, "encoder_layers": 1}
T = 24
TEXT = b"ab, cd  a(b) dcb abcdabcd a."


def build(vectors=2, **changes):
    config = LearnYourTokensConfig(**SIZES | {"encoder_heads": 2, "decoder_layers": 1, "dtype": "float32"}
                                   | {"vectors": vectors, **changes})  # fmt: skip
    return small.awake(jax.eval_shape(lambda: models.build(config, jax.random.key(0))))


@pytest.fixture(scope="module", params=[1, 2])
def model(request):
    return build(request.param)


def row(data):
    return np.r_[END, np.frombuffer(data, np.uint8).astype(np.int32)][None]


def batch(rows_BT, documents_BT):
    """Rows whose targets are the next symbols, and END where a document ends."""
    targets_BT = np.roll(rows_BT, -1, axis=1)
    targets_BT[:, -1] = END
    return {"inputs": rows_BT, "targets": targets_BT, "documents": documents_BT}


def test_law_sums_to_one(model):
    law_TV = jax.jit(model.__call__)(row(TEXT[: T - 1]))[0]
    assert law_TV.shape == (T, LAW)
    np.testing.assert_allclose(np.exp(law_TV).sum(axis=-1), 1.0, rtol=1e-5)


def test_law_is_that_of_enumeration(model):
    """Each continuation by each of the 257 symbols, its cost from the training loss of a row of its own.

    By the loss p(symbol) is p(byte in its word), or p(end of word) p(first of the next); the law is that
    divided by its sum over the 257.
    """
    data = TEXT[:14]
    nats = jax.jit(model.nats)  # END fills the rows: it leaves the words before it as they are
    law_TV = jax.jit(model.__call__)(row(data))[0]
    for t in (0, 1, 3, 5, 9, 13):
        rows_VT = np.repeat(row(data[:t]), LAW, axis=0)
        found_VT = nats(
            {
                "inputs": np.pad(rows_VT, ((0, 0), (0, 14 - t)), constant_values=END),
                "targets": np.pad(
                    np.concatenate([rows_VT[:, 1:], np.arange(LAW)[:, None]], axis=1), ((0, 0), (0, 14 - t))
                ),
                "documents": np.ones((LAW, 15), int),
            }
        )
        joint_V = -np.asarray(found_VT)[:, t].astype(np.float64)
        expected_V = joint_V - np.logaddexp.reduce(joint_V)
        np.testing.assert_allclose(law_TV[t], expected_V, atol=2e-4)
        assert np.logaddexp.reduce(joint_V) < -1e-4  # what the division adds is not nothing


def test_loss_is_an_upper_bound_of_the_law(model):
    rows_BT = row(TEXT[: T - 1])
    one = batch(rows_BT, np.ones((1, T), int))
    law_TV = np.asarray(jax.jit(model.__call__)(rows_BT)[0])
    nats_T = np.asarray(jax.jit(model.nats)(one)[0])
    exact_T = -law_TV[np.arange(T), one["targets"][0]]
    assert (nats_T > exact_T - 1e-5).all()
    assert (nats_T > exact_T + 1e-3).any()


def test_packed_documents_cost_what_they_cost_alone(model):
    a, b = row(TEXT[:9]), row(TEXT[9:22])
    packed = batch(np.concatenate([a, b], axis=1), np.r_[np.ones(10), np.full(14, 2)].astype(int)[None])
    nats = jax.jit(model.nats)
    together_T = nats(packed)[0]
    for rows_BT, part in ((a, np.s_[:10]), (b, np.s_[10:])):
        alone_T = nats(batch(rows_BT, np.ones(rows_BT.shape, int)))[0]
        np.testing.assert_allclose(together_T[part], alone_T, atol=1e-4)
    mixed_T = nats({**packed, "documents": np.ones((1, T), int)})[0]
    assert np.abs(mixed_T - together_T).max() > 1e-2  # control: one document


def test_causal(model):
    """No symbol changes an earlier law, to the bit; the cost of a target moves with those before it."""
    run = jax.jit(model.__call__)
    rows_ST = np.repeat(row(TEXT[: T - 1]), T, axis=0)
    changed_ST = rows_ST.copy()
    changed_ST[np.arange(T), np.arange(T)] = ord("(")
    moved_TS = np.abs(run(changed_ST) - run(rows_ST)).max(axis=-1).T
    late_TS = np.tril(np.ones((T, T), bool)) & (rows_ST[0] != ord("("))[None]
    assert (moved_TS[~np.tril(np.ones((T, T), bool))] == 0).all()
    assert (moved_TS[late_TS] > 0).all()
    nats = jax.jit(model.nats)
    cost = {
        "targets": np.repeat(batch(rows_ST[:1], 1)["targets"], T, axis=0),
        "documents": np.ones((T, T), int),
    }
    spent_TS = np.abs(nats({"inputs": changed_ST, **cost}) - nats({"inputs": rows_ST, **cost})).T
    assert (spent_TS[~np.tril(np.ones((T, T), bool))] == 0).all()


def test_cached_equals_whole_rows(model):
    rows_BT = np.concatenate([row(TEXT[i : i + T - 1]) for i in range(3)])
    length_B = np.array([1, 6, 11])
    whole_BTV = jax.jit(model.__call__)(rows_BT)
    law_BV, cache = jax.jit(model.prefill, static_argnums=2)(rows_BT, length_B, T)
    np.testing.assert_allclose(law_BV, whole_BTV[np.arange(3), length_B - 1], atol=1e-4)
    decode, read_B, random = jax.jit(model.decode), length_B.copy(), np.random.default_rng(0)
    while (read_B < T).any():
        active_B = (random.random(3) < 0.6) & (read_B < T)
        at_B = np.minimum(read_B, T - 1)
        law_BV, cache = decode(cache, rows_BT[np.arange(3), at_B], active_B)
        np.testing.assert_allclose(law_BV[active_B], whole_BTV[np.arange(3), at_B][active_B], atol=1e-4)
        read_B += active_B


def test_words_beyond_the_limit_lose_their_loss():
    model = build(words=4)
    one = batch(row(TEXT[: T - 1]), np.ones((1, T), int))
    counts = model.counts(one)
    word_T = np.cumsum(model.config.boundaries.ended_before(one["inputs"])[0]) - 1
    np.testing.assert_array_equal(counts.lost[0] > 0, (word_T >= 4) & (one["targets"][0] < END))
    np.testing.assert_array_equal(counts.bytes + counts.lost, one["targets"] < END)
    symbols = one["inputs"][0]
    fit = model.room(symbols, T)
    assert fit == (word_T < 4).sum()


def test_every_parameter_is_used(model):
    one = batch(row(TEXT[: T - 1]), np.ones((1, T), int))
    grads = jax.jit(jax.grad(lambda m: jnp.mean(m.nats(one))))(model)
    for name, part in params_of(grads).items():
        assert all(np.abs(g).max() > 0 for g in jax.tree.leaves(part)), name
    assert STOP == LAW


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"rule": "spacebyte"}, "knows ends at once"),
        ({"vectors": 5}, "model.vectors must be 1 to 4"),
        ({"width": 10, "heads": 3}, "no multiple of model.heads 3"),
        ({"words": 0}, "model.words must be positive"),
    ],
)
def test_sizes_that_do_not_fit(fields, message):
    with pytest.raises(ValueError, match=message):
        LearnYourTokensConfig(**fields)
