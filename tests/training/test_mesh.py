"""The same run on one device and on eight, cut in every way; checkpoints carried between meshes."""

from __future__ import annotations

import jax
import numpy as np
import pytest
from tiny import Trainer

from bytelm.config import Checkpoints as CheckpointsConfig
from bytelm.config import Optimizer
from bytelm.sharding import MeshShape
from bytelm.training.checkpoints import Checkpoints

STEPS = 4


ADAMW = Optimizer(name="adamw", clip=100.0)  # Muon, on the cut mesh, takes longer to compile


@pytest.fixture(scope="module")
def one():
    return Trainer(devices=jax.devices()[:1], optimizer=ADAMW)


@pytest.fixture(scope="module")
def expected(one):
    return one.losses(one.start(), 0, STEPS)


@pytest.fixture(scope="module")
def cut():
    return Trainer(MeshShape(2, 2, 2), optimizer=ADAMW)


def assert_same_run(trainer, expected):
    state, losses = trainer.losses(trainer.start(), 0, STEPS)
    np.testing.assert_allclose(losses, expected[1], rtol=1e-5)
    assert losses[-1] < losses[0] - 0.05  # it learns
    return state


def test_cut_along_all_axes(cut, expected):
    state = assert_same_run(cut, expected)
    query = state.params["blocks"]["query"]
    assert query.addressable_shards[0].data.shape == (2, 8, 2, 4)  # of (2, 16, 4, 4)
    moments = [
        x
        for path, x in jax.tree_util.tree_flatten_with_path(state.optimizer)[0]
        if "['query']" in jax.tree_util.keystr(path)
    ]
    assert moments
    assert all(x.sharding.is_equivalent_to(query.sharding, 4) for x in moments)


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(8, 1, 1), (1, 8, 1)])
def test_other_meshes(shape, expected):
    assert_same_run(Trainer(MeshShape(*shape), optimizer=ADAMW), expected)


@pytest.mark.slow
def test_muon_on_a_mesh():
    one, cut = Trainer(devices=jax.devices()[:1]), Trainer(MeshShape(2, 2, 2))
    assert_same_run(cut, one.losses(one.start(), 0, STEPS))


def test_accumulated_on_a_mesh(expected):
    assert_same_run(Trainer(MeshShape(1, 2, 4), optimizer=ADAMW, accumulate=4), expected)


def test_control_another_seed(one, expected):
    _, losses = one.losses(one.start(seed=1), 0, STEPS)
    assert np.abs(np.array(losses) / expected[1] - 1).max() > 1e-3


def test_a_checkpoint_of_eight_devices_goes_on_on_fewer(tmp_path, cut, one):
    state, _ = cut.losses(cut.start(), 0, 2)
    checkpoints = Checkpoints(tmp_path, CheckpointsConfig())
    checkpoints.save(2, state, {"place": [1, 2]}, {"type": "none"})
    checkpoints.wait()
    _, expected = cut.losses(state, 2, 5)
    for trainer in (one, Trainer(MeshShape(1, 2, 1), jax.devices()[:2], optimizer=ADAMW), cut):
        again, place = checkpoints.restore(2, trainer.abstract, trainer.shardings)
        assert place == {"place": [1, 2]}
        assert int(again.step) == 2
        jax.tree.map(np.testing.assert_array_equal, again.params, state.params)
        jax.tree.map(np.testing.assert_array_equal, again.optimizer, state.optimizer)
        assert again.params["blocks"]["query"].sharding.mesh.size == trainer.mesh.size
        _, losses = trainer.losses(again, 2, 5)
        np.testing.assert_allclose(losses, expected, rtol=1e-5)
    checkpoints.close()
