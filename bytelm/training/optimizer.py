"""The optimizer: AdamW or Muon from optax, and the learning rate, which comes from numpy.

optax is given a rate of one; the step multiplies the update by the rate of `learning_rate`. So the rate is
an argument of the compiled step like the batch, and neither is state.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import jax
import numpy as np
import optax

from bytelm.parameters import Params
from bytelm.training.muon import scale_by_muon, scale_to_rms

if TYPE_CHECKING:
    from bytelm.config import Optimizer

MUON_RMS = (
    0.2  # of an update's entries, about AdamW's, so that one rate serves both (arXiv 2502.16982, eq. 4)
)


def make_optimizer(
    config: Optimizer, matrices: Params, rates: Params | None = None, specs: Params | None = None
) -> optax.GradientTransformation:
    """AdamW (Loshchilov and Hutter, arXiv 1711.05101), or Muon (Jordan 2024) for the matrices.

    Args:
      config: its rate and schedule are left to `learning_rate`.
      matrices: for each parameter the axes (inputs, outputs) of a matrix or None
        (`bytelm.parameters.matrices_of`). Only matrices decay; under Muon all else follows Adam with
        Nesterov's momentum, as optax has it.
      rates: for each parameter the multiple of the rate at which it moves (`bytelm.parameters.rates_of`);
        decay is multiplied too. None: 1.
      specs: how each parameter is cut over the mesh (`bytelm.parameters.specs_of`). Without, Muon computes
        what is right on a mesh too, but sends much.
    """

    def is_leaf(x):
        return x is None or isinstance(x, tuple)

    decays = jax.tree.map(lambda axes: axes is not None, matrices, is_leaf=is_leaf)
    if config.name == "adamw":
        moves = optax.adamw(
            1.0, b1=config.beta1, b2=config.beta2, weight_decay=config.weight_decay, mask=decays
        )
    else:
        moves = optax.partition(
            {
                "muon": optax.chain(
                    scale_by_muon(config.momentum, matrices, specs),
                    scale_to_rms(MUON_RMS, matrices),
                    optax.add_decayed_weights(config.weight_decay),
                    optax.scale_by_learning_rate(1.0),
                ),
                "adam": optax.adamw(1.0, config.beta1, config.beta2, weight_decay=0.0, nesterov=True),
            },
            jax.tree.map(lambda decay: "muon" if decay else "adam", decays),
        )
    parts = [optax.clip_by_global_norm(config.clip), moves]
    if rates is not None and any(rate != 1.0 for rate in jax.tree.leaves(rates)):
        parts.append(optax.stateless(lambda updates, _: jax.tree.map(lambda u, r: r * u, updates, rates)))
    return optax.chain(*parts)


def learning_rate(config: Optimizer, step: int, steps: int) -> np.float32:
    """The rate of step `step` (from 0) of `steps`: a linear rise, then the schedule.

    ``cosine`` falls to `final` of the highest along half a cosine; ``wsd`` (warm-up, stable, decay; Hu et
    al., arXiv 2404.06395) stays and falls linearly in the last `decay` of the steps.
    """
    warm = min(1.0, (step + 1) / config.warmup) if config.warmup else 1.0
    if config.schedule == "constant":
        share = 1.0
    elif config.schedule == "cosine":
        done = min(1.0, max(0, step - config.warmup) / max(1, steps - config.warmup))
        share = config.final + (1 - config.final) * (1 + math.cos(math.pi * done)) / 2
    else:
        left = (steps - step) / max(1.0, config.decay * steps)
        share = min(1.0, config.final + (1 - config.final) * left)
    return np.float32(config.learning_rate * warm * share)
