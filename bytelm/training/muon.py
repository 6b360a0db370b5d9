"""Muon (Jordan 2024): momentum whose matrices are made orthogonal.

optax's `scale_by_muon` but for where it computes: of matrices that a mesh cuts, each of the products in its
iteration would gather one. Here they are gathered once, and every device has other layers.
"""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import PartitionSpec as P
from optax.contrib import MuonState

from bytelm import sharding
from bytelm.parameters import Params

COEFFICIENTS = 3.4445, -4.7750, 2.0315  # of Newton-Schulz, steepest at zero, as in optax
STEPS = 5
EPSILON = 1e-8


def scale_by_muon(beta: float, matrices: Params, specs: Params | None) -> optax.GradientTransformation:
    """Nesterov's momentum, orthogonal: all singular values of each matrix near one.

    Args:
      beta: of the momentum.
      matrices: for each parameter the axes (inputs, outputs) of a matrix, from the end; others' are not read.
      specs: how each is cut over the mesh; None: not at all.
    """
    axes = _by_path(matrices, lambda x: x is None or isinstance(x, tuple))
    cuts = {} if specs is None else _by_path(specs, lambda x: isinstance(x, P))

    def init(params: Any) -> MuonState:
        zeros = optax.tree.zeros_like(params)
        return MuonState(jnp.zeros([], jnp.int32), zeros, jnp.asarray(COEFFICIENTS))

    def update(updates: Any, state: MuonState, params: Any = None) -> tuple[Any, MuonState]:
        momentum = optax.tree.update_moment(updates, state.mu, beta, 1)
        count = optax.safe_increment(state.count)
        ahead = jax.tree.map(
            lambda m, g: beta * m + (1 - beta) * g,
            optax.tree.bias_correction(momentum, beta, optax.safe_increment(count)),
            optax.tree.bias_correction(updates, beta, count),
        )
        moves = jax.tree_util.tree_map_with_path(
            lambda path, x: orthogonal(x, axes[path], cuts.get(path, P()), state.ns_coeffs), ahead
        )
        return moves, MuonState(count, momentum, state.ns_coeffs)

    return optax.GradientTransformation(init, update)


def scale_to_rms(rms: float, matrices: Params) -> optax.GradientTransformation:
    """Orthogonal moves, scaled so that their entries are `rms` large whatever the shape of the matrix
    (arXiv 2502.16982, eq. 4)."""
    axes = _by_path(matrices, lambda x: x is None or isinstance(x, tuple))

    def scaled(path: Any, x: jax.Array) -> jax.Array:
        return rms * math.sqrt(max(math.prod(x.shape[i] for i in side) for side in axes[path])) * x

    return optax.stateless(lambda updates, _: jax.tree_util.tree_map_with_path(scaled, updates))


def _by_path(tree: Any, is_leaf: Any) -> dict[Any, Any]:
    return dict(jax.tree_util.tree_flatten_with_path(tree, is_leaf=is_leaf)[0])


def orthogonal(
    x: jax.Array, axes: tuple[tuple[int, ...], tuple[int, ...]], cut: P, coefficients: jax.Array
) -> jax.Array:
    """`x`, of which each matrix has its singular values brought near one; its singular vectors stay.

    The last axes are a matrix's, inputs and outputs; those before them count layers. `cut` is by axis.
    """
    inputs, outputs = axes
    lead = x.ndim - len(inputs) - len(outputs)
    each = x.reshape(-1, *x.shape[lead:])
    rows = math.prod(x.shape[lead : lead + len(inputs)])

    def layers(x_L):
        x_LIO = x_L.reshape(len(x_L), rows, -1)
        return _newton_schulz(x_LIO, coefficients).reshape(x_L.shape)

    return sharding.by_item(layers, P(None, *tuple(cut)[lead:]))(each).reshape(x.shape)


def _newton_schulz(x_LIO: jax.Array, coefficients: jax.Array) -> jax.Array:
    """Five times c_0 X + (c_1 A + c_2 A A) X, where A = X X^T is the smaller of the two such products."""
    a, b, c = coefficients.astype(x_LIO.dtype)
    tall = x_LIO.shape[1] > x_LIO.shape[2]
    x = jnp.swapaxes(x_LIO, 1, 2) if tall else x_LIO
    x /= jnp.sqrt(jnp.sum(x**2, axis=(1, 2), keepdims=True)) + EPSILON
    for _ in range(STEPS):
        square = x @ jnp.swapaxes(x, 1, 2)
        x = a * x + (b * square + c * square @ square) @ x
    return jnp.swapaxes(x, 1, 2) if tall else x
