"""Masses of ranges of the sorted vocabulary, on the device: pure functions of logits in `Columns` order.

Nothing here is a difference of cumulative sums: a range is summed from the parts of a hierarchy of block
sums, at most two runs of `_FAN` parts a level. R are rows of logits, P columns.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

_FAN = 16
_SHIFT = 40.0
"""Added to the exponents: float32 sums then reach down to e^-127 of the likeliest token."""


def unpacked(packed_RO: jax.Array) -> jax.Array:
    """The bits of bytes `[R, P / 8]`, lowest first: booleans `[R, P]`."""
    bits_RO8 = (packed_RO[:, :, None] >> jnp.arange(8, dtype=jnp.uint8)) & 1
    return bits_RO8.reshape(packed_RO.shape[0], -1) > 0


def reference(logits_RP: jax.Array, allowed_RP: jax.Array, counted_P: jax.Array | None) -> jax.Array:
    """Per row the largest logit of those that are normalised over, `[R, 1]`; 0 where there is none."""
    over_RP = allowed_RP if counted_P is None else counted_P[None]
    top_R1 = jnp.where(over_RP, logits_RP, -jnp.inf).max(axis=1, keepdims=True)
    return jax.lax.stop_gradient(jnp.where(jnp.isfinite(top_R1), top_R1, 0.0))


def exponents(
    logits_RP: jax.Array, packed_RO: jax.Array, counted_P: jax.Array | None
) -> tuple[jax.Array, jax.Array]:
    """exp(logit - z) of the allowed columns `[R, P]`, 0 elsewhere, and log of the sum of what is counted.

    z is a reference of the row's own, and the logarithm `[R]` is relative to it. `counted_P` None: over what
    is allowed ("local"); else over these columns ("joint").
    """
    allowed_RP = unpacked(packed_RO)
    logits_RP = logits_RP - (reference(logits_RP, allowed_RP, counted_P) - _SHIFT)
    # The choice is made before exp: what is not allowed may be large, and must not spoil the gradient.
    e_RP = jnp.exp(jnp.where(allowed_RP, logits_RP, -jnp.inf))
    if counted_P is None:
        return e_RP, log(_blocks(e_RP).sum(axis=1))
    whole_RP = jnp.exp(jnp.where(counted_P[None], logits_RP, -jnp.inf))
    return e_RP, log(_blocks(whole_RP).sum(axis=1))


def log(x: jax.Array) -> jax.Array:
    """The logarithm, -inf at 0, where its gradient is 0."""
    return jnp.where(x > 0, jnp.log(jnp.where(x > 0, x, 1.0)), -jnp.inf)


def _blocks(e_RP: jax.Array) -> jax.Array:
    return e_RP.reshape(e_RP.shape[0], -1, _FAN).sum(axis=2)


def levels(e_RP: jax.Array) -> list[jax.Array]:
    """The columns, the sums of every `_FAN` of them, of every `_FAN` of those, down to a few."""
    found = [e_RP]
    while found[-1].shape[1] > 2 * _FAN:
        last_RK = found[-1]
        short = -last_RK.shape[1] % _FAN
        found.append(_blocks(jnp.pad(last_RK, ((0, 0), (0, short))) if short else last_RK))
    return found


def sums(levels_: list[jax.Array], row_S: jax.Array, low_S: jax.Array, high_S: jax.Array) -> jax.Array:
    """The sums `[S]` over columns low..high-1 of a row."""
    total_S = jnp.zeros(row_S.shape, levels_[0].dtype)
    for i, level_RK in enumerate(levels_):
        run = jnp.arange(_FAN if i + 1 < len(levels_) else level_RK.shape[1])
        up_S = jnp.minimum(-(-low_S // _FAN) * _FAN, high_S)
        down_S = jnp.maximum(high_S // _FAN * _FAN, up_S)
        runs = [(low_S, up_S), (down_S, high_S)] if i + 1 < len(levels_) else [(low_S, high_S)]
        for first_S, stop_S in runs:
            at_SF = first_S[:, None] + run
            part_SF = level_RK[row_S[:, None], jnp.minimum(at_SF, level_RK.shape[1] - 1)]
            total_S = total_S + jnp.where(at_SF < stop_S[:, None], part_SF, 0.0).sum(axis=1)
        low_S = -(-low_S // _FAN)
        high_S = jnp.maximum(down_S // _FAN, low_S)
    return total_S


def masses(
    logits_RP: jax.Array,
    packed_RO: jax.Array,
    counted_P: jax.Array | None,
    kids_2C: jax.Array,
    ranges_3S: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    """log q of single columns, (row, column), and of ranges (row, low, high): `[C]` and `[S]`."""
    e_RP, whole_R = exponents(logits_RP, packed_RO, counted_P)
    row_C, column_C = kids_2C
    top_R1 = reference(logits_RP, unpacked(packed_RO), counted_P)
    kid_C = logits_RP[row_C, column_C] - top_R1[row_C, 0] + _SHIFT - whole_R[row_C]
    row_S, low_S, high_S = ranges_3S
    return kid_C, log(sums(levels(e_RP), row_S, low_S, high_S)) - whole_R[row_S]


def probabilities(logits_RP: jax.Array, packed_RO: jax.Array, counted_P: jax.Array | None) -> jax.Array:
    """q `[R, P]`, 0 where not allowed."""
    e_RP, whole_R = exponents(logits_RP, packed_RO, counted_P)
    return e_RP * jnp.exp(-whole_R)[:, None]


def drawn(
    logits_RP: jax.Array, packed_RO: jax.Array, uniform_R: jax.Array, temperature: jax.Array
) -> jax.Array:
    """Allowed columns `[R]` by uniform numbers in [0, 1): where the cumulative sum of exp(logit / t) passes.

    Temperature 0 takes the first likeliest. Where nothing is possible the column is -1.
    """
    row_R = jnp.arange(len(logits_RP))

    def likeliest() -> jax.Array:
        allowed_RP = jnp.where(unpacked(packed_RO), logits_RP, -jnp.inf)
        found_R = jnp.argmax(allowed_RP, axis=1)
        return jnp.where(allowed_RP[row_R, found_R] > -jnp.inf, found_R, -1)

    def sampled() -> jax.Array:
        # Divided last: at a low temperature the rounding of what is large would decide.
        allowed_RP = unpacked(packed_RO)
        below_RP = (logits_RP - reference(logits_RP, allowed_RP, None)) * (1 / temperature)
        q_RP = jnp.exp(jnp.where(allowed_RP, below_RP.astype(logits_RP.dtype) + _SHIFT, -jnp.inf))
        blocks_RK = q_RP.reshape(len(q_RP), -1, 256).sum(axis=2)
        until_RK = jnp.cumsum(blocks_RK, axis=1)
        goal_R = uniform_R.astype(q_RP.dtype) * until_RK[:, -1]
        block_R = _passed(until_RK, blocks_RK, goal_R)
        before_R = jnp.where(block_R > 0, until_RK[row_R, block_R - 1], 0.0)
        inside_RC = q_RP[row_R[:, None], block_R[:, None] * 256 + jnp.arange(256)]
        inner_R = _passed(jnp.cumsum(inside_RC, axis=1), inside_RC, goal_R - before_R)
        return jnp.where(until_RK[:, -1] > 0, block_R * 256 + inner_R, -1)

    # One or the other: argmax alone takes a CPU longer than the draw.
    return jax.lax.cond(temperature == 0, likeliest, sampled)


def _passed(until_RK: jax.Array, part_RK: jax.Array, goal_R: jax.Array) -> jax.Array:
    # Rounding can carry a goal past the end: the last part that is not empty then.
    count: Any = part_RK.shape[1]
    last_R = count - 1 - jnp.argmax(part_RK[:, ::-1] > 0, axis=1)
    return jnp.minimum((until_RK <= goal_R[:, None]).sum(axis=1), last_R)
