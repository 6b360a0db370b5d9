"""The mesh, and what each of its axes means.

One mesh, made in one function, whose three axes are always there, at size 1 too:

* ``data``    copies of the parameters, each with its own rows of the batch;
* ``fsdp``    rows of the batch as well, and the parameters are cut along their ``embed`` axis;
* ``tensor``  attention heads and feed-forward units are cut.

A parameter names its axes where it is declared (`bytelm.parameters.param`); `RULES` says on which axis of
the mesh each name lies. `jax.jit` does the rest.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

AXES = ("data", "fsdp", "tensor")

RULES: dict[str | None, str | tuple[str, ...] | None] = {
    "batch": ("data", "fsdp"),
    "embed": "fsdp",
    "heads": "tensor",
    "mlp": "tensor",
    None: None,
}


@dataclasses.dataclass(frozen=True)
class MeshShape:
    """Devices along each axis of the mesh; at most one of them may be -1, which takes what is left."""

    data: int = -1
    fsdp: int = 1
    tensor: int = 1


def make_mesh(shape: MeshShape = MeshShape(), devices: Sequence[Any] | None = None) -> Mesh:
    """The mesh over `devices` (default: all of them).

    Raises ValueError where the sizes do not multiply to the number of devices.
    """
    n = len(devices) if devices is not None else jax.device_count()
    sizes = [shape.data, shape.fsdp, shape.tensor]
    if sizes.count(-1) > 1 or any(s == 0 or s < -1 for s in sizes):
        raise ValueError(f"mesh: sizes must be positive and at most one of them -1, got {shape}")
    known = int(np.prod([s for s in sizes if s != -1]))
    if -1 in sizes and n % known == 0:
        sizes[sizes.index(-1)] = n // known
    if int(np.prod(sizes)) != n:
        raise ValueError(
            f"mesh: {dict(zip(AXES, sizes, strict=True))} does not fit {n} devices; "
            "the sizes must multiply to the number of devices (-1 takes what is left)"
        )
    return jax.make_mesh(tuple(sizes), AXES, axis_types=(AxisType.Auto,) * 3, devices=devices)


def spec(names: Sequence[str | None], ndim: int | None = None) -> P:
    """The partition of an array whose last axes bear `names`; leading axes (stacked layers) are whole."""
    lead = 0 if ndim is None else ndim - len(names)
    return P(*([None] * lead), *(RULES[name] for name in names))


def named(mesh: Mesh, *names: str | None) -> NamedSharding:
    """The sharding over `mesh` of an array whose axes bear `names`."""
    return NamedSharding(mesh, spec(names))


def in_mesh() -> bool:
    """Whether a mesh of more than one device is set (`jax.set_mesh`) around this computation."""
    return not jax.sharding.get_abstract_mesh().empty and jax.sharding.get_abstract_mesh().size > 1


def constrain(x: jax.Array, *names: str | None) -> jax.Array:
    """`x`, laid out over the mesh in force as `names` say; without a mesh, `x` itself."""
    return jax.lax.with_sharding_constraint(x, spec(names)) if in_mesh() else x


def local(f: Callable[..., Any], in_names: Sequence[Sequence[str | None]], out_names: Sequence[str | None]):
    """`f` applied to each device's own part: for kernels that never look across the cut axes.

    The partitioner cannot see that a loop over rows and heads needs nothing from the other devices; this
    says so. Without a mesh, `f` itself.
    """
    if not in_mesh():
        return f
    return jax.shard_map(
        f, in_specs=tuple(spec(names) for names in in_names), out_specs=spec(out_names), check_vma=False
    )


def by_item(f: Callable[[jax.Array], jax.Array], cut: P) -> Callable[[jax.Array], jax.Array]:
    """`f` of arrays [L, ...], whose L items it computes each by itself, where the mesh cuts them by `cut`.

    Each device has some items whole instead of a part of all: they change places before and after, an
    all-to-all for each axis that cuts. With fewer items than devices some devices compute with zeros. Without
    a mesh that cuts, `f` itself.
    """
    sizes = jax.sharding.get_abstract_mesh().shape if in_mesh() else {}
    cuts = [(i, axis) for i, axis in enumerate(cut) if axis is not None and sizes.get(axis, 1) > 1]
    if not cuts:
        return f
    devices = math.prod(sizes[axis] for _, axis in cuts)

    def local(x):
        y = jnp.pad(x, ((0, -len(x) % devices), *((0, 0),) * (x.ndim - 1)))
        for i, axis in cuts:
            y = jax.lax.all_to_all(y, axis, split_axis=0, concat_axis=i, tiled=True)
        y = f(y)
        for i, axis in reversed(cuts):
            y = jax.lax.all_to_all(y, axis, split_axis=i, concat_axis=0, tiled=True)
        return y[: len(x)]

    return jax.shard_map(local, in_specs=cut, out_specs=cut, check_vma=False)


def check_fits(mesh: Mesh, sizes: Mapping[str, tuple[str, int]]) -> None:
    """Raises ValueError where a size cannot be cut evenly over `mesh`.

    `sizes` holds, by the name that the user knows it by, ``(axis name of RULES, size)``.
    """
    for name, (rule, size) in sizes.items():
        axes = RULES[rule]
        axes = (axes,) if isinstance(axes, str) else (axes or ())
        parts = int(np.prod([mesh.shape[axis] for axis in axes]))
        if size % parts:
            raise ValueError(
                f"mesh: {name} = {size} cannot be cut in {parts} equal parts along {'+'.join(axes)}; "
                f"make it a multiple of {parts} or change the mesh"
            )
