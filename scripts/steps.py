"""A step of training as `train.py` compiles it, over all devices, for the scripts that measure it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
import optax

from bytelm import models, sharding
from bytelm.parameters import Params
from bytelm.training.step import TrainState, make_train_step, new_state, state_shardings


def stepper(
    config: models.ModelConfig,
    optimizer_of: Callable[[Any], optax.GradientTransformation],
    batch: Mapping[str, np.ndarray],
    changed: Callable[[Params], Params] = lambda params: params,
) -> tuple[Callable[[], dict[str, Any]], Params]:
    """A function that does a step on `batch` and returns its figures; and the parameters of the start.

    Args:
      config: the model's.
      optimizer_of: makes the optimizer of the (abstract) model.
      batch: whole rows, as `bytelm.data` gives them.
      changed: what is done to the parameters of the start.
    """

    def make(key):
        return models.build(config, key)

    model, mesh = jax.eval_shape(make, jax.random.key(0)), sharding.make_mesh()
    optimizer = optimizer_of(model)

    def start(key) -> TrainState:
        state = new_state(make, optimizer, key, False)
        return state._replace(params=changed(state.params))

    placed = state_shardings(model, optimizer, mesh, False)
    box: list[Any] = [jax.jit(start, out_shardings=placed)(jax.random.key(0))]
    params = jax.tree.map(np.array, box[0].params)
    step = jax.jit(make_train_step(model, optimizer, 1, None), donate_argnums=0, out_shardings=(placed, None))
    placed_batch = jax.device_put(dict(batch), sharding.named(mesh, "batch", None))

    def run() -> dict[str, Any]:
        with jax.set_mesh(mesh):
            box[0], figures = step(box[0], placed_batch, np.float32(1e-4), None)
        return jax.block_until_ready(figures)

    return run, params
