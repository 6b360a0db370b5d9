"""One step of training, and the cost of a batch: pure functions of arrays, compiled once.

A batch has ``inputs``, ``targets`` and ``documents``, each [B, T] (see `bytelm.data`). What its targets cost
and stand for the model says (`bytelm.loss`). Sentinels and padding (document 0) carry no loss.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from bytelm import sharding
from bytelm.loss import Batch, Counts, sums_of, with_loss
from bytelm.parameters import Params, params_of, specs_of, with_params


class TrainState(NamedTuple):
    """All that a run needs to go on, besides the place in its data; or where each part of it lies."""

    step: Any  # steps done, int32
    params: Params
    optimizer: Any
    ema: Params | None  # averaged parameters


def state_shardings(model: Any, optimizer: optax.GradientTransformation, mesh: jax.sharding.Mesh, ema: bool):
    """How a `TrainState` is cut over `mesh`: what the optimizer holds of a parameter, as the parameter."""
    specs = specs_of(model)
    shapes = params_of(model)
    whole = sharding.named(mesh)
    params = jax.tree.map(lambda s: jax.sharding.NamedSharding(mesh, s), specs)
    by_path = {_names(path): s for path, s in jax.tree_util.tree_flatten_with_path(params)[0]}
    held = jax.tree_util.tree_map_with_path(
        lambda path, _: by_path.get(_names(path), whole), jax.eval_shape(optimizer.init, shapes)
    )
    return TrainState(whole, params, held, params if ema else None)


def _names(path: tuple[Any, ...]) -> tuple[str, ...]:
    """The parameter that a leaf of a tree of parameters, or of an optimizer's moments, belongs to."""
    return tuple(
        k.key for k in path if isinstance(k, jax.tree_util.DictKey) and k.key not in ("muon", "adam")
    )


def new_state(
    make: Callable[[jax.Array], Any], optimizer: optax.GradientTransformation, key: jax.Array, ema: bool
) -> TrainState:
    """Step 0. Call under `jax.jit` with `state_shardings` as out_shardings: nothing is ever whole."""
    params = params_of(make(key))
    return TrainState(jnp.int32(0), params, optimizer.init(params), params if ema else None)


def make_train_step(model: Any, optimizer: optax.GradientTransformation, accumulate: int, ema: float | None):
    """The step ``(state, batch, rate, key) -> (state, metrics)``, to be compiled.

    The loss is the mean over all targets with loss, in nats. The batch is worked through in `accumulate`
    parts; the result is the same up to rounding. The key is for what is random in a step, such as dropout;
    None for nothing. Metrics are sums and norms, float32 scalars. A model with `nats_and_followers`
    sees a part at a time: where it takes means over documents, parts are not quite the batch.
    """

    def loss_of(params: Params, part: Batch, key: jax.Array | None, total: jax.Array):
        whole, followers = with_params(model, params), {}
        if hasattr(model, "nats_and_followers"):
            nats_BT, followers = whole.nats_and_followers(part, key)
        else:
            nats_BT = whole.nats(part, key)
        nats, sums = sums_of(nats_BT, model.counts(part))
        return nats / total, (sums, followers)

    def train_step(state: TrainState, batch: Batch, rate: jax.Array, key: jax.Array | None):
        if key is not None and hasattr(model, "draw"):
            batch = model.draw(batch, jax.random.fold_in(jax.random.fold_in(key, state.step), 1))
        total = jnp.maximum(jnp.sum(with_loss(model.counts(batch)), dtype=jnp.float32), 1.0)
        keys = None if key is None else jax.random.split(jax.random.fold_in(key, state.step), accumulate)

        def gradient(part: Batch, part_key: jax.Array | None):
            part = {name: sharding.constrain(x, "batch", None) for name, x in part.items()}
            (_, told), grads = jax.value_and_grad(loss_of, has_aux=True)(state.params, part, part_key, total)
            return told, grads

        if accumulate == 1:
            (sums, followers), grads = gradient(batch, None if keys is None else keys[0])
        else:
            # Part i takes rows i, i + accumulate, ...: each device works on rows that it already has.
            parts = jax.tree.map(lambda x: x.reshape(-1, accumulate, *x.shape[1:]).swapaxes(0, 1), batch)
            first = jax.eval_shape(gradient, jax.tree.map(lambda x: x[0], parts), key)
            zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), first)
            add = lambda carry, part: (jax.tree.map(jnp.add, carry, gradient(*part)), None)  # noqa: E731
            ((sums, followers), grads), _ = jax.lax.scan(add, zeros, (parts, keys))

        updates, held = optimizer.update(grads, state.optimizer, state.params)
        updates = jax.tree.map(lambda u: rate * u, updates)
        params = optax.apply_updates(state.params, updates)
        params |= {name: x / accumulate for name, x in followers.items()}  # the mean of what the parts say
        averaged = None
        if ema is not None:
            averaged = jax.tree.map(lambda e, p: e + (1.0 - ema) * (p - e), state.ema, params)
        metrics = {
            **sums,
            "gradient_norm": optax.tree.norm(grads),
            "update_norm": optax.tree.norm(updates),
            "parameter_norm": optax.tree.norm(params),
        }
        return TrainState(state.step + 1, params, held, averaged), metrics

    return train_step


def make_eval_step(model: Any):
    """``(params, batch) -> (nats, counts)``: the nats of each target [B, T], and a `bytelm.loss.Counts`; of
    models of hidden words also which are right, and which were asked for [B, W]."""

    def eval_step(params: Params, batch: Batch) -> tuple[Any, ...]:
        whole = with_params(model, params)
        found = whole.nats(batch), model.counts(batch)
        return (*found, *whole.right(batch)) if hasattr(model, "right") else found

    return eval_step


def make_judge_step(model: Any):
    """``(params, batch) -> (nats, choice, counts)`` of a classifier: what it makes of each target [B, T]."""

    def judge_step(params: Params, batch: Batch) -> tuple[jax.Array, jax.Array, Counts]:
        return *with_params(model, params).judge(batch), model.counts(batch)

    return judge_step
