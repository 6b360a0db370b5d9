"""Checkpoints: which are kept, which count, what a damaged one says."""

from __future__ import annotations

import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bytelm.config import Checkpoints as CheckpointsConfig
from bytelm.training.checkpoints import Checkpoints
from bytelm.training.step import TrainState


def state(step, ema=True):
    params = {"a": {"b": jnp.arange(6.0).reshape(2, 3) + step}, "c": jnp.full(4, float(step))}
    averaged = jax.tree.map(lambda x: x - 100, params) if ema else None
    return TrainState(jnp.int32(step), params, (jax.tree.map(jnp.zeros_like, params),), averaged)


ABSTRACT = jax.eval_shape(lambda: state(0))
WHERE = jax.tree.map(lambda _: jax.sharding.SingleDeviceSharding(jax.devices()[0]), ABSTRACT)


def write(folder, steps, ema=True, **config):
    checkpoints = Checkpoints(folder, CheckpointsConfig(**config))
    for step in steps:
        checkpoints.save(step, state(step, ema), {"place": step}, {"type": "Config", "step": step})
        checkpoints.wait()
    return checkpoints


def test_restores_all_of_it_together(tmp_path):
    write(tmp_path, [3, 5]).close()
    checkpoints = Checkpoints(tmp_path)
    assert (checkpoints.steps(), checkpoints.latest()) == ([3, 5], 5)
    for step in (3, 5):
        found, place = checkpoints.restore(step, ABSTRACT, WHERE)
        jax.tree.map(np.testing.assert_array_equal, found, state(step))
        assert place == {"place": step}
        assert checkpoints.config(step)["step"] == step
    checkpoints.close()


def test_keeps_the_last_and_the_marked(tmp_path):
    checkpoints = write(tmp_path, [2, 4, 6, 8, 10], keep_last=2, keep_every=4)
    assert checkpoints.steps() == [4, 8, 10]
    checkpoints.save(10, state(10), {}, {})  # what is there is not written again
    checkpoints.close()


@pytest.mark.parametrize("ema", [True, False])
def test_averaged_parameters_are_the_ones_to_use(tmp_path, ema):
    checkpoints = write(tmp_path, [1], ema=ema)
    found = checkpoints.params(1, ABSTRACT.params, WHERE.params)
    expected = state(1, ema).ema if ema else state(1).params
    jax.tree.map(np.testing.assert_array_equal, found, expected)
    checkpoints.close()


def test_one_cut_short_does_not_count(tmp_path):
    write(tmp_path, [1, 2]).close()
    # What a crash leaves: orbax's temporary name, with all or some of the files in it.
    shutil.copytree(tmp_path / "2", tmp_path / "3.orbax-checkpoint-tmp")
    for checkpoints in (Checkpoints(tmp_path), Checkpoints(tmp_path, CheckpointsConfig())):
        assert checkpoints.latest() == 2
        checkpoints.close()
    assert not list(tmp_path.glob("*tmp*"))  # a run that writes there clears it away


def test_a_damaged_one_is_named(tmp_path):
    write(tmp_path, [1, 2]).close()
    for path in (tmp_path / "2" / "params").rglob("*"):
        if path.is_file():
            path.write_bytes(b"")
    checkpoints = Checkpoints(tmp_path)
    with pytest.raises(OSError, match=r"2: the checkpoint cannot be read"):
        checkpoints.restore(2, ABSTRACT, WHERE)
    found, _ = checkpoints.restore(1, ABSTRACT, WHERE)
    jax.tree.map(np.testing.assert_array_equal, found, state(1))
    checkpoints.close()
