"""One step: what has a loss, parts of a batch, averaged parameters, dropout."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import MODEL, Trainer, batch

from bytelm.config import Optimizer
from bytelm.lm import END, LAW
from bytelm.loss import counts_of, nats_of
from bytelm.models import ClassifierConfig
from bytelm.parameters import with_params
from bytelm.training.step import make_eval_step

# An epsilon-free optimizer would turn rounding of tiny gradients into whole moves; two steps, small rate.
ADAMW = Optimizer(name="adamw", clip=100.0)
ONE = jax.devices()[:1]


@pytest.fixture(scope="module")
def trainer():
    return Trainer(devices=ONE, optimizer=ADAMW, ema=0.75)


def test_nats_are_those_of_the_law():
    logits_BTV = np.random.default_rng(0).standard_normal((2, 3, LAW)).astype(np.float32)
    targets_BT = np.array([[0, 255, END], [97, 98, 99]], np.uint16)
    p_BTV = np.exp(logits_BTV) / np.exp(logits_BTV).sum(-1, keepdims=True)
    expected = -np.log(np.take_along_axis(p_BTV, targets_BT[..., None].astype(int), -1)[..., 0])
    np.testing.assert_allclose(nats_of(logits_BTV, targets_BT), expected, rtol=1e-5)


def test_padding_and_sentinels_carry_no_loss(trainer):
    state, _ = trainer.step(trainer.start(), batch(0))
    one = batch(1)
    counts = counts_of(one)
    silent_BT = ~(np.asarray(counts.bytes > 0) | np.asarray(counts.ends))
    assert silent_BT[-1, -4:].all()  # padding
    assert (silent_BT & (one["targets"] > END)).any()  # sentinels
    _, expected = trainer.step(state, one)
    two = {**one, "targets": np.where(silent_BT & (one["targets"] > END), 260, one["targets"])}
    two["targets"][-1, -4:] = 97
    assert trainer.step(state, two)[1] == expected
    assert expected["bytes"] == np.asarray(counts.bytes).sum()
    heard = {**one, "targets": one["targets"].copy()}
    b, t = np.argwhere(np.asarray(counts.bytes))[0]
    heard["targets"][b, t] += 1  # control: a byte's is heard
    assert trainer.step(state, heard)[1]["nats"] != expected["nats"]


def test_metrics_are_those_of_the_batch(trainer):
    state, _ = trainer.step(trainer.start(), batch(0))
    after, metrics = trainer.step(state, batch(1), rate=0.01)
    eval_step = jax.jit(make_eval_step(trainer.model))
    nats_BT, counts = jax.tree.map(np.asarray, eval_step(state.params, jax.tree.map(jnp.asarray, batch(1))))
    bytes_BT, ends_BT, lost_BT, _ = counts
    assert metrics["lost"] == lost_BT.sum() == 0
    np.testing.assert_allclose(metrics["nats"], nats_BT[bytes_BT > 0].sum(), rtol=1e-5)
    np.testing.assert_allclose(metrics["end_nats"], nats_BT[ends_BT].sum(), rtol=1e-5)
    moved = jax.tree.map(lambda a, b: np.asarray(a) - np.asarray(b), after.params, state.params)
    norm = np.sqrt(sum((x**2).sum() for x in jax.tree.leaves(moved)))
    np.testing.assert_allclose(metrics["update_norm"], norm, rtol=1e-3)
    assert int(after.step) == 2


def test_the_rate_scales_the_update(trainer):
    state, _ = trainer.step(trainer.start(), batch(0))
    small, large = (trainer.step(state, batch(1), rate=rate)[1]["update_norm"] for rate in (0.01, 0.03))
    np.testing.assert_allclose(large, 3 * small, rtol=1e-5)
    assert trainer.step(state, batch(1), rate=0.0)[1]["update_norm"] == 0


def test_parts_of_a_batch_are_the_batch():
    whole, parts = (Trainer(devices=ONE, optimizer=ADAMW, accumulate=n) for n in (1, 4))
    # With the same state in: what is compared is a step, not what rounding grows to.
    state, _ = whole.step(whole.start(), batch(0))
    (one, expected), (two, found) = whole.step(state, batch(1)), parts.step(state, batch(1))
    for name in ("nats", "bytes", "end_nats", "gradient_norm"):
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-6)
    # The second moments are squares of the gradient: they tell of it where AdamW's move tells the sign.
    for a, b in zip(jax.tree.leaves(two.optimizer), jax.tree.leaves(one.optimizer), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)
    _, other = parts.step(state, batch(2))
    assert abs(other["nats"] / expected["nats"] - 1) > 1e-4  # control: another batch


def test_averaged_parameters(trainer):
    state = trainer.start()
    averaged = jax.tree.map(np.asarray, state.params)
    for i in range(3):
        state, _ = trainer.step(state, batch(i))
        averaged = jax.tree.map(lambda e, p: 0.75 * e + 0.25 * np.asarray(p), averaged, state.params)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), state.ema, averaged)
    assert np.abs(state.ema["head"] - state.params["head"]).max() > 1e-3


def test_dropout_depends_on_key_and_step():
    trainer = Trainer(devices=ONE, optimizer=ADAMW, config=dataclasses.replace(MODEL, dropout=0.5))
    state, _ = trainer.step(trainer.start(), batch(0), key=jax.random.key(0))
    state, _ = trainer.step(state, batch(1), key=jax.random.key(0))

    def nats(state, seed):
        return trainer.step(state, batch(2), key=jax.random.key(seed))[1]["nats"]

    assert nats(state, 0) == nats(state, 0)
    assert nats(state, 0) != nats(state, 1)
    assert nats(state, 0) != nats(state._replace(step=state.step + 1), 0)


def test_first_loss_is_the_uniform_law(trainer):
    _, metrics = trainer.step(trainer.start(), batch(0))
    np.testing.assert_allclose(metrics["nats"] / metrics["bytes"], np.log(LAW), rtol=1e-5)


@pytest.mark.parametrize("parts", [1, 2])
def test_a_mean_is_followed(parts):
    """The mean of what the parts say; and not moved by the optimizer."""
    config = ClassifierConfig(MODEL, ("no", "yes"), centring=0.25)
    trainer = Trainer(devices=ONE, optimizer=ADAMW, config=config, accumulate=parts)

    def labelled(step):
        one = batch(step)
        return {**one, "labels": np.where(one["targets"] == END, one["documents"] % 2, -1).astype(np.int32)}

    state, _ = trainer.step(trainer.start(), labelled(0))
    before = np.asarray(state.params["center"])
    model = with_params(trainer.model, state.params)
    told = [
        model.nats_and_followers({name: x[i::parts] for name, x in labelled(1).items()})[1]
        for i in range(parts)
    ]
    assert all(list(one) == ["center"] for one in told)
    expected = np.mean([one["center"] for one in told], axis=0)
    assert np.abs(expected - before).max() > 1e-4
    after, _ = trainer.step(state, labelled(1))
    np.testing.assert_allclose(after.params["center"], expected, rtol=1e-4, atol=1e-7)
