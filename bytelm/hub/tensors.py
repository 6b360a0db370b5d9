"""Their tensors in our layout and back, as views: a tensor is copied once, to where it is used."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import jax
import numpy as np

from bytelm.hub.families import Family, Source
from bytelm.models.token_lm_config import TokenLMConfig
from bytelm.parameters import flat, matrices_of, params_of, specs_of
from bytelm.tokenized import abstract


@dataclasses.dataclass(frozen=True)
class Leaf:
    """One parameter: its shape, that with its axes merged as theirs are, its partition, and its source.

    merged: [inputs, outputs] of a matrix, [n] of a vector, a table as it is.
    """

    shape: tuple[int, ...]
    merged: tuple[int, ...]
    spec: Any
    source: Source


def leaves(family: Family, config: TokenLMConfig) -> dict[str, Leaf]:
    """All parameters of a model by path. Raises KeyError where the family has no place for one."""
    model = abstract(config)
    shapes, specs = flat(params_of(model)), flat(specs_of(model))
    matrices = flat(matrices_of(model))
    found = {}
    for path, x in shapes.items():
        shape: tuple[int, ...] = tuple(x.shape)
        merged: tuple[int, ...] = (math.prod(shape),)
        if matrices[path] is not None:
            inputs = len(matrices[path][0])
            merged = (math.prod(shape[:inputs]), math.prod(shape[inputs:]))
        elif path in ("table", "positions", "head"):
            merged = shape
        found[path] = Leaf(shape, merged, specs[path], family.source(path, config))
    return found


def their_shape(leaf: Leaf, config: TokenLMConfig) -> list[int]:
    """The shape of the tensor that holds a parameter."""
    *lead, last = leaf.merged
    shape = [*lead, last if leaf.source.part is None else (config.heads + 2 * config.K) * config.H]
    return shape[::-1] if leaf.source.form == "linear" else shape


def ours(theirs: np.ndarray, leaf: Leaf, config: TokenLMConfig) -> np.ndarray:
    """A parameter, as a view of their tensor."""
    x, N, K, H = (
        (theirs.T if leaf.source.form == "linear" else theirs),
        *(config.heads, config.K, config.H),
    )
    if leaf.source.part is not None:
        how, which = leaf.source.part
        if how == "heads":
            x = x.reshape(*x.shape[:-1], N, 3, H)[..., which, :]
        else:
            start = (0, N * H, (N + K) * H)[which]
            x = x[..., start : start + (N, K, K)[which] * H]
    return x.reshape(leaf.shape)


def theirs(parts: list[tuple[Leaf, Any]], config: TokenLMConfig) -> np.ndarray:
    """A tensor of theirs from what it holds: one parameter, or queries, keys and values."""
    parts = sorted(parts, key=lambda part: part[0].source.part or ("", 0))  # queries, keys, values
    merged = [np.asarray(jax.device_get(x)).reshape(leaf.merged) for leaf, x in parts]
    source = parts[0][0].source
    if source.part is None:
        (x,) = merged
    elif source.part[0] == "blocks":
        x = np.concatenate(merged, axis=-1)
    else:
        heads = [x.reshape(*x.shape[:-1], -1, config.H) for x in merged]
        x = np.stack(heads, axis=-2).reshape(*merged[0].shape[:-1], -1)
    return np.ascontiguousarray(x.T if source.form == "linear" else x)
