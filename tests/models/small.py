"""The models at sizes for tests, with all their parameters at work."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bytelm import models
from bytelm.parameters import params_of, with_params

SIZES = {
    **{"layers": 2, "width": 16, "heads": 2, "key_heads": 1, "mlp_width": 24, "rope_base": 100.0},
    "dtype": "float32",
    # Of word-pooled models: the words of the level above, and the narrow level.
    **{"words": 24, "cap": 6, "byte_width": 12, "byte_heads": 2, "byte_mlp_width": 16, "decoder_layers": 1},
}


def config(kind: type, **changes: Any) -> Any:
    """A small config of one of `models.CONSTRUCTORS`; sizes that it does not have are left out."""
    names = {f.name for f in dataclasses.fields(kind)}
    return kind(**{name: x for name, x in (SIZES | changes).items() if name in names})


def awake(model: Any, seed: int = 1) -> Any:
    """`model`, which may be abstract, with random parameters: what starts at zero would hide half of it."""
    random = np.random.default_rng(seed)

    def wake(path, x):
        scale = "scale" in jax.tree_util.keystr(path)  # of a norm
        fan_in = 1 if scale else (4, *x.shape)[-2]
        value = random.standard_normal(x.shape) * fan_in**-0.5 + scale
        return jnp.asarray(value, x.dtype)

    return with_params(model, jax.tree_util.tree_map_with_path(wake, params_of(model)))


def build(kind: type, **changes: Any) -> Any:
    return awake(jax.eval_shape(lambda: models.build(config(kind, **changes), jax.random.key(0))))
