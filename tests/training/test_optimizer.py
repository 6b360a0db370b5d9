"""AdamW by its formula, Muon by optax's and on a mesh, its geometry, decay, and rates at their key points."""

from __future__ import annotations

import contextlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from bytelm import compiled, sharding
from bytelm.config import Optimizer
from bytelm.training.optimizer import MUON_RMS, learning_rate, make_optimizer

# A stacked projection into heads, one out of heads, a plain matrix that is tall, a table, a vector.
MATRICES = {
    "query": ((-3,), (-2, -1)),
    "out": ((-3, -2), (-1,)),
    "up": ((-2,), (-1,)),
    "table": None,
    "scale": None,
}
SHAPES = {"query": (3, 8, 4, 6), "out": (3, 4, 6, 8), "up": (24, 8), "table": (10, 8), "scale": (3, 8)}


def tree(seed):
    random = np.random.default_rng(seed)
    return {name: jnp.asarray(random.standard_normal(shape), jnp.float32) for name, shape in SHAPES.items()}


def test_adamw_equals_its_formula():
    config = Optimizer(name="adamw", weight_decay=0.3, beta1=0.8, beta2=0.9, clip=5.0)
    optimizer, params = make_optimizer(config, MATRICES), tree(0)
    state, m, v = optimizer.init(params), dict.fromkeys(params, 0.0), dict.fromkeys(params, 0.0)
    for step in range(1, 4):
        grads = tree(step)
        updates, state = optimizer.update(grads, state, params)
        norm = np.sqrt(sum(float(jnp.sum(g**2)) for g in grads.values()))
        assert norm > config.clip  # so the clipping is at work
        for name, g in grads.items():
            g = np.asarray(g) * config.clip / norm
            m[name] = 0.8 * m[name] + 0.2 * g
            v[name] = 0.9 * v[name] + 0.1 * g**2
            move = m[name] / (1 - 0.8**step) / (np.sqrt(v[name] / (1 - 0.9**step)) + 1e-8)
            decay = 0.3 * np.asarray(params[name]) if MATRICES[name] else 0.0
            np.testing.assert_allclose(updates[name], -move - decay, rtol=2e-4, atol=1e-5)


def singular_values(name, x):
    """Of each layer's matrix, inputs by outputs."""
    n = len(MATRICES[name][0]) + len(MATRICES[name][1])
    lead = x.shape[: x.ndim - n]
    inputs = int(np.prod(x.shape[len(lead) : len(lead) + len(MATRICES[name][0])]))
    return np.linalg.svd(np.asarray(x).reshape(*lead, inputs, -1), compute_uv=False)


def test_muon_moves_are_orthogonal_in_every_layer():
    optimizer, params = make_optimizer(Optimizer(name="muon", weight_decay=0.0), MATRICES), tree(0)
    grads = tree(1)
    updates, _ = jax.jit(optimizer.update)(grads, optimizer.init(params), params)
    for name in ("query", "out", "up"):
        found = singular_values(name, updates[name])
        assert (found.max(-1) / found.min(-1) < 2.0).all()
        raw = singular_values(name, grads[name])
        assert (raw.max(-1) / raw.min(-1) > 2.5).all()  # the gradient itself is not
        rms = np.sqrt(np.mean(np.square(updates[name])))
        np.testing.assert_allclose(rms, MUON_RMS, rtol=0.3)
        assert (np.sum(np.asarray(updates[name] * grads[name])) < 0).all()
    b1 = Optimizer().beta1  # Adam's first move is the sign, and Nesterov's a little more of it
    for name in ("table", "scale"):
        expected = -(1 + b1 / (1 + b1)) * np.sign(grads[name])
        np.testing.assert_allclose(updates[name], expected, rtol=1e-3)


def moves(optimizer, steps=3, mesh=None):
    """The updates of some steps, with what was compiled for one."""
    params = tree(0)
    where = {name: NamedSharding(mesh, SPECS[name]) for name in params} if mesh else None
    with jax.set_mesh(mesh) if mesh else contextlib.nullcontext():
        place = (lambda x: jax.device_put(x, where)) if mesh else (lambda x: x)
        update = jax.jit(optimizer.update, out_shardings=(where, None))
        found, state, params = [], optimizer.init(place(params)), place(params)
        for step in range(1, steps + 1):
            updates, state = update(place(tree(step)), state, params)
            found.append(updates)
        return found, update.lower(place(tree(1)), state, params).compile().as_text()


def assert_same_moves(found, expected):
    for ours, theirs in zip(found, expected, strict=True):
        for name, x in ours.items():
            np.testing.assert_allclose(x, theirs[name], rtol=1e-4, atol=1e-5, err_msg=name)


CONFIG = Optimizer(name="muon", weight_decay=0.1, clip=5.0)
SPECS = {
    "query": P(None, "fsdp", "tensor", None),
    "out": P(None, "tensor", None, "fsdp"),
    "up": P("fsdp", "tensor"),
    "table": P(None, "fsdp"),
    "scale": P(None, None),
}


def test_muon_is_optax_own():
    axes = {name: x and optax.contrib.MuonDimensionNumbers(*x) for name, x in MATRICES.items()}
    theirs = optax.contrib.muon(
        1.0, beta=CONFIG.momentum, weight_decay=CONFIG.weight_decay, adam_b1=CONFIG.beta1,
        adam_b2=CONFIG.beta2, muon_weight_dimension_numbers=axes, consistent_rms=MUON_RMS,
    )  # fmt: skip
    expected, _ = moves(optax.chain(optax.clip_by_global_norm(CONFIG.clip), theirs))
    assert_same_moves(moves(make_optimizer(CONFIG, MATRICES))[0], expected)
    with pytest.raises(AssertionError):  # the comparison would see another momentum
        assert_same_moves(moves(make_optimizer(CONFIG, MATRICES))[0][:1], expected[1:2])


def test_muon_on_a_mesh_gathers_no_matrix():
    """Three layers and one on eight devices: the same moves, for which layers change places."""
    mesh = sharding.make_mesh(sharding.MeshShape(1, 4, 2))
    expected, _ = moves(make_optimizer(CONFIG, MATRICES))

    def kinds(specs):
        found, program = moves(make_optimizer(CONFIG, MATRICES, specs=specs), mesh=mesh)
        assert_same_moves(found, expected)
        return {one.kind for one in compiled.collectives(program, mesh) if one.size > 64}

    assert kinds(SPECS) == {"all-to-all"}
    assert "all-gather" in kinds(None)  # the control: matrices where they lie


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_only_matrices_decay(name):
    optimizer, params = make_optimizer(Optimizer(name=name, weight_decay=0.3), MATRICES), tree(0)
    zeros = jax.tree.map(jnp.zeros_like, params)
    updates, _ = jax.jit(optimizer.update)(zeros, optimizer.init(params), params)
    for key, axes in MATRICES.items():
        np.testing.assert_allclose(updates[key], -0.3 * params[key] if axes else zeros[key], atol=1e-6)


def rates(**fields):
    config = Optimizer(learning_rate=2.0, **fields)
    return np.array([learning_rate(config, step, 100) for step in range(100)])


def test_rates_rise_linearly():
    found = rates(warmup=10, schedule="constant")
    np.testing.assert_allclose(found[:10], 0.2 * np.arange(1, 11), rtol=1e-6)
    assert (found[10:] == 2.0).all()
    assert rates(warmup=0, schedule="constant")[0] == 2.0
    assert found.dtype == np.float32


def test_cosine():
    found = rates(warmup=10, schedule="cosine", final=0.1)
    assert found[10] == found.max() == 2.0
    np.testing.assert_allclose(found[55], (2.0 + 0.2) / 2, rtol=1e-5)  # half way down
    np.testing.assert_allclose(found[99], 0.2, atol=2e-3)
    assert (np.diff(found[10:]) < 0).all()


def test_warm_up_stable_decay():
    found = rates(warmup=10, schedule="wsd", decay=0.2, final=0.1)
    assert (found[10:81] == 2.0).all()
    np.testing.assert_allclose(np.diff(found[80:]), -0.09, rtol=1e-4)
    np.testing.assert_allclose(found[99], 0.2 + 0.09, rtol=1e-5)
