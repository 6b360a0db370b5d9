"""The classifier: the mean of a document's states through a linear layer, for every backbone."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small

from bytelm import models
from bytelm.lm import END
from bytelm.models import ClassifierConfig
from bytelm.parameters import flat, params_of, with_params

T, EDGES, LABELS = 24, (9, 17), ("no", "yes", 3)
every_backbone = pytest.mark.parametrize("kind", models.BACKBONES, ids=lambda kind: kind.__name__)


def build(kind, **changes):
    own = {"vocab_size": 300} if kind is models.TokenLMConfig else {}
    config = ClassifierConfig(small.config(kind, **own), LABELS, **{"dropout": 0.0} | changes)
    return small.awake(jax.eval_shape(lambda: models.build(config, jax.random.key(0))))


def batch(rows=1):
    """Three documents a row, then padding; the second is cut, so without an end of text."""
    random = np.random.default_rng(0)
    inputs = random.integers(97, 120, (rows, T))
    inputs[:, [3, 6, 12, 19]] = 32
    inputs[:, [0, *EDGES]] = END
    documents = np.tile(np.digitize(np.arange(T), EDGES) + 1, (rows, 1))
    documents[:, -3:] = 0
    targets = np.roll(inputs, -1, axis=1)
    targets[:, EDGES[1] - 1] = 97
    targets[:, T - 4] = END
    labels = np.full((rows, T), -1)
    labels[:, [EDGES[0] - 1, EDGES[1] - 1, T - 4]] = random.integers(0, 3, (rows, 3))
    arrays = {"inputs": inputs, "targets": targets, "documents": documents, "labels": labels}
    return {name: jnp.asarray(x, jnp.int32) for name, x in arrays.items()}


@every_backbone
def test_the_definition(kind):
    """At every symbol: the mean of its document's states, alone in a row, through the linear layer."""
    model, data = build(kind, gain=20.0, centring=0.3), batch()
    run, states = jax.jit(model.__call__), jax.jit(model.backbone.states)
    found_TC = np.asarray(run(data["inputs"], data["documents"]))[0]
    for start, stop in ((0, EDGES[0]), EDGES, (EDGES[1], T - 3)):
        row_1T, alone_1T = np.zeros((2, 1, T), np.int32)
        row_1T[0, : stop - start], alone_1T[0, : stop - start] = data["inputs"][0, start:stop], 1
        z_1UD, document_1U = states(row_1T, alone_1T)
        mean_D = np.asarray(z_1UD)[np.asarray(document_1U) == 1].mean(axis=0)
        head_DC, offset_C = map(np.asarray, (model.head[...], model.bias[...] - model.center[...]))
        expected_C = 20.0 * mean_D @ head_DC + offset_C
        np.testing.assert_allclose(found_TC[start:stop], np.tile(expected_C, (stop - start, 1)), atol=4e-4)
    mixed_TC = np.asarray(run(data["inputs"], jnp.ones((1, T), jnp.int32)))[0]
    assert np.abs(mixed_TC - found_TC)[:-3].max() > 1e-2  # control: one document


@every_backbone
def test_states_are_what_the_language_model_predicts_from(kind):
    """Where units are symbols, the head over the states gives the logits; where they are words, one each.
    Other units stand in the order of their documents."""
    backbone, data = build(kind).backbone, batch()
    z_BUD, document_BU = jax.jit(backbone.states)(data["inputs"], data["documents"])
    assert z_BUD.shape[-1] == backbone.config.width
    if kind in (models.Byte2WordConfig, models.MaskedByte2WordConfig, models.BertConfig):
        order = [n for n in np.asarray(document_BU)[0] if n]
        assert sorted(order) == order
        assert set(order) == {1, 2, 3}
        return
    if kind is models.WordPooledConfig:
        at = small_layout(backbone.config, data)
        words = int(at.word_BT[0, -1]) + 1
        assert (np.asarray(document_BU[0, words:]) == 0).all()
        starts = np.flatnonzero(np.asarray(at.place_BT[0]) == 0)
        np.testing.assert_array_equal(document_BU[0, :words], data["documents"][0, starts])
        return
    np.testing.assert_array_equal(document_BU, data["documents"])
    logits_BTV = np.asarray(jax.jit(backbone.__call__)(data["inputs"], data["documents"]))
    np.testing.assert_allclose(np.asarray(z_BUD) @ np.asarray(backbone.head[...]), logits_BTV, atol=1e-4)


def small_layout(config, data):
    from bytelm.models.words_layout import read_layout

    return read_layout(config.boundaries, data["inputs"], data["documents"], T, config.span)


@pytest.mark.slow
def test_two_vectors_a_word_are_two_units():
    backbone = small.build(models.WordPooledConfig, pooling="attention", vectors=2)
    z_BUD, document_BU = jax.jit(backbone.states)(batch()["inputs"], batch()["documents"])
    assert z_BUD.shape[:2] == document_BU.shape == (1, 2 * T)
    np.testing.assert_array_equal(document_BU[:, ::2], document_BU[:, 1::2])


def test_counts_and_nats():
    model, data = build(models.ByteTransformerConfig), batch(2)
    nats_BT, choice_BT, counts = jax.jit(lambda b: (*model.judge(b), model.counts(b)))(data)
    np.testing.assert_array_equal(counts.labels, data["labels"] >= 0)
    assert counts.bytes[0].sum() == T - 3 - 2  # without padding and ends of text
    cut_BT = counts.labels & ~counts.ends
    np.testing.assert_array_equal(np.argwhere(cut_BT)[:, 1], [EDGES[1] - 1] * 2)
    logits_BTC = np.asarray(jax.jit(model.__call__)(data["inputs"], data["documents"]), np.float64)
    p_BTC = np.exp(logits_BTC) / np.exp(logits_BTC).sum(-1, keepdims=True)
    for b, t in np.argwhere(np.asarray(counts.labels)):
        assert nats_BT[b, t] == pytest.approx(-np.log(p_BTC[b, t, data["labels"][b, t]]), abs=1e-5)
        assert choice_BT[b, t] == p_BTC[b, t].argmax()


def test_training_centres_the_logits_over_documents():
    """Its nats are those in use once `center` is the mean of the batch's documents."""
    model, data = build(models.ByteTransformerConfig, gain=20.0, centring=1.0), batch(2)
    params, told_BT = params_of(model), np.asarray(data["labels"]) >= 0
    nats_BT, followers = jax.jit(model.nats_and_followers)(data)
    there = with_params(model, {**params, **followers})
    run = jax.jit(
        lambda model: (model.nats(data), model(data["inputs"], data["documents"]) - model.bias[...])
    )
    found_BT, logits_BTC = run(there)
    np.testing.assert_allclose(found_BT, nats_BT, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(logits_BTC[told_BT].mean(axis=0), 0, atol=1e-4)
    other_BT, logits_BTC = run(model)  # control: another centre
    assert np.abs(other_BT - nats_BT)[told_BT].max() > 1e-2
    assert np.abs(logits_BTC[told_BT].mean(axis=0)).max() > 1e-2


def test_one_document_teaches_unless_logits_are_centred():
    def moved(centring):
        model, data = build(models.ByteTransformerConfig, centring=centring), batch()
        data["labels"] = data["labels"].at[0, jnp.array([EDGES[1] - 1, T - 4])].set(-1)

        def loss(params):
            nats_BT, _ = with_params(model, params).nats_and_followers(data)
            return jnp.sum(nats_BT, where=data["labels"] >= 0)

        return np.abs(jax.jit(jax.grad(loss))(params_of(model))["head"]).max()

    assert moved(0.0) > 1e-3
    assert moved(0.3) == 0.0


def test_starts_at_the_uniform_law_and_drops_out():
    config = ClassifierConfig(small.config(models.ByteTransformerConfig), LABELS, dropout=0.5)
    fresh = jax.jit(lambda key: models.build(config, key))(jax.random.key(0))
    data, key = batch(), jax.random.key(2)
    run = jax.jit(lambda model, key: model.nats(data, key))
    np.testing.assert_allclose(run(fresh, None), np.log(3), rtol=1e-6)
    model = small.awake(fresh)
    assert np.abs(run(model, key) - run(model, None)).max() > 1e-2
    np.testing.assert_array_equal(run(model, key), run(model, key))


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"labels": ("a",)}, "two or more different"),
        ({"labels": ("a", "a")}, "two or more different"),
        ({"dropout": 1.0}, r"model\.dropout"),
        ({"backbone": models.ByteTransformerConfig(isolate_documents=False)}, "isolate_documents must be on"),
    ],
)
def test_bad_sizes(fields, said):
    with pytest.raises(ValueError, match=said):
        ClassifierConfig(**fields)


def test_gradients_reach_what_they_should_and_no_more():
    """All of the states' parameters, and none of the backbone's head."""
    model, data = build(models.WordPooledConfig), batch()
    params = params_of(model)

    def loss(params):
        counts = model.counts(data)
        return jnp.sum(jnp.where(counts.labels, with_params(model, params).nats(data), 0.0))

    grads = flat(jax.jit(jax.grad(loss))(params))
    rests = {name for name, g in grads.items() if not np.asarray(g).any()}
    unused = ("backbone/decoder/", "backbone/down", "backbone/norm/", "backbone/head")
    assert rests == {name for name in grads if name.startswith(unused)}
