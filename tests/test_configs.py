"""The configs at real size fit the meshes that they name, and their steps trace at those sizes."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import jax
import numpy as np
import pytest

from bytelm import compiled, models, sharding
from bytelm.training.launch import read_config
from bytelm.training.step import make_train_step

CONFIGS = Path(__file__).parents[1] / "configs"
LARGE = [f"{kind}_{size}" for kind in ("words", "flat", "bpe") for size in ("100m", "1b", "7b")]
DEVICES = (1, 8, 256)
PARAMETERS = {"100m": (0.95e8, 1.1e8), "1b": (1.2e9, 1.4e9), "7b": (6.4e9, 7.1e9)}


def read(name):
    config = read_config(name, CONFIGS)
    if config.data.tokenizer is not None:
        model = dataclasses.replace(config.model, vocab_size=config.data.tokenizer.size)
        config = dataclasses.replace(config, model=model)
    return config


def parts(name):
    """--training.accumulate for 1, 8 and 256 devices, as the config's first lines give it."""
    text = " ".join((CONFIGS / f"{name}.py").read_text().split('"""')[1].split())
    assert "1, 8 or 256" in text
    return [int(n) for n in re.search(r"A = (\d+), (\d+), (\d+)", text).groups()]


def abstract_mesh(config, devices):
    shape = config.mesh
    sizes = [devices if n == -1 else n for n in (shape.data, shape.fsdp, shape.tensor)]
    assert np.prod(sizes) == devices
    return jax.sharding.AbstractMesh(
        tuple(sizes), sharding.AXES, axis_types=(jax.sharding.AxisType.Auto,) * 3
    )


@pytest.mark.parametrize("name", LARGE)
def test_fits_1_8_and_256_devices(name):
    config = read(name)
    for devices, accumulate in zip(DEVICES, parts(name), strict=True):
        rows = {
            "training.rows": config.training.rows // accumulate,
            "evaluation.rows": config.evaluation.rows,
        }
        models.check_mesh(config.model, abstract_mesh(config, devices), rows)
        assert config.training.rows % accumulate == 0
    mesh = abstract_mesh(config, 8)
    _, _, state = compiled.abstract_state(config, mesh)
    low, high = PARAMETERS[name.split("_")[1]]
    assert low < sum(x.size for x in jax.tree.leaves(state.params)) < high
    with pytest.raises(ValueError, match="cannot be cut"):  # control
        models.check_mesh(config.model, abstract_mesh(config, 8), {"training.rows": 7})


@pytest.mark.slow
@pytest.mark.parametrize("name", LARGE)
def test_a_step_traces_on_an_abstract_mesh_of_256(name):
    config = read(name)
    mesh = abstract_mesh(config, 256)
    model, optimizer, state = compiled.abstract_state(config, mesh)
    step = make_train_step(model, optimizer, 1, None)
    with jax.sharding.use_abstract_mesh(mesh):
        after, figures = jax.eval_shape(
            step, state, compiled.abstract_batch(config, mesh), jax.ShapeDtypeStruct((), np.float32), None
        )
    assert jax.tree.map(lambda x: x.shape, after) == jax.tree.map(lambda x: x.shape, state)
    assert all(x.shape == () for x in figures.values())
