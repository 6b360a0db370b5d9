"""Rotary positions (Su et al., arXiv 2104.09864) and the ways in which models stretch them.

The halves of the rotated part of a head turn against each other, as all published checkpoints have it in
their Hugging Face form.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

SCALINGS = ("none", "linear", "dynamic", "llama3", "yarn")


@dataclasses.dataclass(frozen=True)
class Rope:
    """How positions turn queries and keys; all but the first two fields belong to a scaling.

    ``linear`` divides positions by `factor`. ``dynamic`` raises the base once a row is longer than
    `trained` ("NTK-aware"; its base depends on the row's length, so only whole rows go beyond `trained`).
    ``llama3`` divides low frequencies (Llama 3.1). ``yarn`` blends by frequency and scales the result (Peng
    et al., arXiv 2309.00071).
    """

    base: float = 10_000.0
    share: float = 1.0  # of a head's width that turns
    scaling: Literal["none", "linear", "dynamic", "llama3", "yarn"] = "none"
    factor: float = 1.0
    trained: int = 2048  # positions of the model before it was stretched
    low: float = 1.0  # llama3: what turns less often in `trained` positions is divided by `factor`
    high: float = 4.0  # llama3: what turns more often is left
    slow: float = 1.0  # yarn: as `low`, `high`
    fast: float = 32.0
    attention: float | None = None  # yarn: what queries and keys are multiplied by; default: the paper's
    truncate: bool = True  # yarn: the blend begins and ends at whole frequencies

    def __post_init__(self) -> None:
        if self.scaling not in SCALINGS:
            raise ValueError(f"rope.scaling must be one of {', '.join(SCALINGS)}, not {self.scaling!r}")
        if not (self.base > 0 and 0 < self.share <= 1 and self.factor > 0 and self.trained > 0):
            raise ValueError(
                f"rope: base, share, factor and trained must be positive, share at most 1: {self}"
            )
        if self.scaling == "llama3" and not self.low < self.high:
            raise ValueError(f"rope: low {self.low} must be below high {self.high}")


def frequencies(rope: Rope, width: int, length: int) -> tuple[np.ndarray, float]:
    """Radians a position for each pair, float32 [width * share / 2], and the factor of the result.

    Args:
      width: of a head.
      length: of the row; only "dynamic" asks.
    """
    n = int(width * rope.share)
    base = rope.base
    if rope.scaling == "dynamic":
        grown = rope.factor * max(length, rope.trained) / rope.trained - (rope.factor - 1)
        base = base * grown ** (n / (n - 2))
    f_h = 1.0 / base ** (np.arange(0, n, 2) / n)
    attention = 1.0
    if rope.scaling == "linear":
        f_h = f_h / rope.factor
    elif rope.scaling == "llama3":
        turns_h = f_h * rope.trained / (2 * math.pi)
        kept_h = np.clip((turns_h - rope.low) / (rope.high - rope.low), 0.0, 1.0)
        f_h = f_h * (kept_h + (1 - kept_h) / rope.factor)
    elif rope.scaling == "yarn":
        # The pair that turns so many times in the trained positions, a real number.
        first, last = (
            n * math.log(rope.trained / (turns * 2 * math.pi)) / (2 * math.log(base))
            for turns in (rope.fast, rope.slow)
        )
        if rope.truncate:
            first, last = math.floor(first), math.ceil(last)
        first, last = max(first, 0), min(last, n - 1)
        ramp_h = (np.arange(n // 2) - first) / (last - first if last != first else 0.001)
        kept_h = 1 - np.clip(ramp_h, 0.0, 1.0)
        f_h = f_h * (kept_h + (1 - kept_h) / rope.factor)
        attention = rope.attention or (0.1 * math.log(rope.factor) + 1.0 if rope.factor > 1 else 1.0)
    return f_h.astype(np.float32), attention


def turns(rope: Rope, width: int, position_BT: jax.Array, length: int) -> tuple[jax.Array, jax.Array]:
    """Cosines and sines for `turn`, float32 [B, T, 1, h]; made once for all layers."""
    f_h, attention = frequencies(rope, width, length)
    angle_BT1h = position_BT[..., None, None].astype(jnp.float32) * f_h
    return jnp.cos(angle_BT1h) * attention, jnp.sin(angle_BT1h) * attention


def turn(x_BTNH: jax.Array, cos_sin: tuple[jax.Array, jax.Array]) -> jax.Array:
    """The heads turned by their positions; what is beyond the turned share passes."""
    cos, sin = cos_sin
    h = cos.shape[-1]
    a, b = x_BTNH[..., :h].astype(jnp.float32), x_BTNH[..., h : 2 * h].astype(jnp.float32)
    turned = jnp.concatenate([a * cos - b * sin, a * sin + b * cos], axis=-1).astype(x_BTNH.dtype)
    return turned if 2 * h == x_BTNH.shape[-1] else jnp.concatenate([turned, x_BTNH[..., 2 * h :]], axis=-1)
