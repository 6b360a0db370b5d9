"""The parameters of models: how each is declared, and all of a model as a tree.

A model is a tree of `flax.nnx` modules, used as a plain pytree: `jax.jit`, `jax.grad` and `lax.scan` see
only arrays. Layers of one kind are stacked (`stack`) and scanned. Everything else in the project (the
optimizer, checkpoints, sharding) knows the parameters as a nested dictionary of arrays, which
`params_of` and `with_params` convert to and from.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from flax import nnx

from bytelm import sharding

Params = dict[str, Any]
M = TypeVar("M", bound=nnx.Module)


def param(
    key: jax.Array | None,
    shape: tuple[int, ...],
    names: tuple[str | None, ...],
    *,
    inputs: int | None = None,
    scale: float = 1.0,
) -> nnx.Param:
    """One declaration of a parameter: its shape, how it is cut over the mesh, how it starts.

    Args:
      key: for the random start; None for a constant one, `scale` everywhere.
      shape: float32 array of this shape.
      names: a name of `bytelm.sharding.RULES` for each axis.
      inputs: for a matrix, how many leading axes are summed over when it is applied: the start is normal
        with variance ``scale**2 / fan_in``, and the optimizer treats it as a matrix. None for tables
        (normal, standard deviation `scale`) and vectors.
      scale: see above.
    """
    if key is None:
        value = jnp.full(shape, scale, jnp.float32)
    else:
        fan_in = 1 if inputs is None else math.prod(shape[:inputs])
        value = jax.random.normal(key, shape, jnp.float32) * (scale / math.sqrt(fan_in))
    return nnx.Param(value, names=names, inputs=inputs, rate=1.0)


def stack(make: Callable[[jax.Array], M], layers: int, key: jax.Array) -> M:
    """`layers` modules as one whose parameters have a leading axis [L], for `lax.scan`."""
    return jax.vmap(make)(jax.random.split(key, layers))


def _declared(module: nnx.Module) -> list[tuple[tuple[str, ...], nnx.Variable]]:
    found = jax.tree_util.tree_flatten_with_path(module, is_leaf=lambda x: isinstance(x, nnx.Variable))[0]
    return [(tuple(_name(k) for k in path), v) for path, v in found]


def _name(key: Any) -> str:
    """The name of an attribute, or the place in a list."""
    return str(getattr(key, "name", getattr(key, "key", getattr(key, "idx", None))))


def _nested(flat: list[tuple[tuple[str, ...], Any]]) -> Params:
    tree: Params = {}
    for path, value in flat:
        node = tree
        for name in path[:-1]:
            node = node.setdefault(name, {})
        node[path[-1]] = value
    return tree


def flat(tree: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    """A nested dictionary as one whose keys are paths, ``blocks/3/mlp/up``."""
    found: dict[str, Any] = {}
    for name, value in tree.items():
        found |= flat(value, f"{before}{name}/") if isinstance(value, Mapping) else {f"{before}{name}": value}
    return found


def nested(paths: Mapping[str, Any]) -> Params:
    """The inverse of `flat`."""
    tree: Params = {}
    for path, value in paths.items():
        *outer, name = path.split("/")
        node = tree
        for part in outer:
            node = node.setdefault(part, {})
        node[name] = value
    return tree


def params_of(module: nnx.Module) -> Params:
    """The parameters of `module` as a nested dictionary of arrays (or of whatever stands in for them)."""
    return _nested([(path, v.get_value()) for path, v in _declared(module)])


def with_params(module: M, params: Params) -> M:
    """`module` with `params` in place of its own; the module's may be abstract."""

    def at(path: tuple[str, ...]) -> Any:
        node: Any = params
        for name in path:
            node = node[name]
        return node

    leaves = [at(path) for path, _ in _declared(module)]
    return jax.tree.unflatten(jax.tree.structure(module), leaves)


def specs_of(module: nnx.Module) -> Params:
    """How each parameter is cut over the mesh: `PartitionSpec`s in the shape of `params_of`."""
    return _nested(
        [
            (p, sharding.spec(v.get_metadata()["names"], len(v.get_value().shape)))
            for p, v in _declared(module)
        ]
    )


def matrices_of(module: nnx.Module) -> Params:
    """For each parameter the axes it sums over and those it makes, ``(inputs, outputs)``; None if no matrix.

    Axes count from the end (negative), so that they hold for stacked layers too.
    """

    def axes(v: nnx.Variable) -> tuple[tuple[int, ...], tuple[int, ...]] | None:
        meta = v.get_metadata()
        if meta["inputs"] is None:
            return None
        n = len(meta["names"])
        return tuple(range(-n, meta["inputs"] - n)), tuple(range(meta["inputs"] - n, 0))

    return _nested([(path, axes(v)) for path, v in _declared(module)])


def paced(module: M, rate: float) -> M:
    """`module`, whose parameters move at `rate` times the learning rate. Changes it in place."""
    for _, v in _declared(module):
        v.set_metadata(rate=rate)
    return module


def rates_of(module: nnx.Module) -> Params:
    """For each parameter the multiple of the learning rate at which it moves."""
    return _nested([(path, v.get_metadata()["rate"]) for path, v in _declared(module)])


def on_one_device(params: Params) -> Params:
    """A copy of `params` on this process's first device, for use outside a mesh."""
    return jax.device_put(params, jax.local_devices()[0])
