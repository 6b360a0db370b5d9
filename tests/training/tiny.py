"""A tiny run in pieces: rows of random documents, a step on any mesh."""

from __future__ import annotations

import jax
import numpy as np

from bytelm import models, sharding
from bytelm.config import Optimizer
from bytelm.lm import END
from bytelm.models import ByteTransformerConfig
from bytelm.parameters import matrices_of, specs_of
from bytelm.sharding import MeshShape
from bytelm.training.optimizer import make_optimizer
from bytelm.training.step import make_train_step, new_state, state_shardings

T = 16
WHOLE = MeshShape()
MODEL = ByteTransformerConfig(layers=2, width=16, heads=4, mlp_width=16, dtype="float32")


def batch(step, rows=8, length=T):
    """Packed documents, some padding, some sentinels as targets."""
    random = np.random.default_rng([7, step])
    symbols = random.integers(97, 103, (rows, length + 1))
    ends = random.random((rows, length + 1)) < 0.15
    symbols[ends] = END
    symbols[:, 5] = np.where(random.random(rows) < 0.3, 258, symbols[:, 5])
    documents = 1 + np.cumsum(ends[:, :-1], axis=1)
    documents[-1, -4:] = 0
    return {
        "inputs": symbols[:, :-1].astype(np.uint16),
        "targets": symbols[:, 1:].astype(np.uint16),
        "documents": documents.astype(np.int32),
    }


class Trainer:
    """A model and its compiled step on a mesh over `devices`."""

    def __init__(self, shape=WHOLE, devices=None, *, config=MODEL, optimizer=None, accumulate=1, ema=None):
        self.mesh = sharding.make_mesh(shape, devices=devices)
        model = jax.eval_shape(lambda: models.build(config, jax.random.key(0)))
        self.model = model
        self.optimizer = make_optimizer(
            optimizer or Optimizer(clip=100.0), matrices_of(model), specs=specs_of(model)
        )
        self.shardings = state_shardings(model, self.optimizer, self.mesh, ema is not None)
        self.by_row = sharding.named(self.mesh, "batch", None)

        def init(key):
            return new_state(lambda k: models.build(config, k), self.optimizer, key, ema is not None)

        self.abstract = jax.eval_shape(init, jax.random.key(0))
        self._init = jax.jit(init, out_shardings=self.shardings)
        self._step = jax.jit(
            make_train_step(model, self.optimizer, accumulate, ema), out_shardings=(self.shardings, None)
        )

    def start(self, seed=0):
        with jax.set_mesh(self.mesh):
            return self._init(jax.random.key(seed))

    def step(self, state, batch, rate=0.02, key=None):
        with jax.set_mesh(self.mesh):
            state, metrics = self._step(state, jax.device_put(batch, self.by_row), np.float32(rate), key)
        return state, {name: float(x) for name, x in metrics.items()}

    def losses(self, state, first, last):
        """Nats a byte of steps [first, last)."""
        found = []
        for i in range(first, last):
            state, metrics = self.step(state, batch(i))
            found.append(metrics["nats"] / metrics["bytes"])
        return state, found
