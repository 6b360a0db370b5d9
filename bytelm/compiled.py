"""What a compiled training step sends between devices, and what it holds on each: read from the program.

Nothing here needs real arrays: a step is lowered from shapes and shardings (`lower_step`), and XLA compiles
it for as many devices as the process sees, fake ones too.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from bytelm import models, sharding
from bytelm.parameters import matrices_of, rates_of, specs_of
from bytelm.training.optimizer import make_optimizer
from bytelm.training.step import TrainState, make_train_step, new_state, state_shardings

if TYPE_CHECKING:
    from bytelm.config import Config


def abstract_batch(config: Config, mesh: jax.sharding.Mesh) -> dict[str, jax.ShapeDtypeStruct]:
    """A batch of training, as shapes that lie over `mesh`."""
    where = sharding.named(mesh, "batch", None)
    types: dict[str, Any] = {"inputs": np.uint16, "targets": np.uint16, "documents": np.int32}
    if config.data.tokenizer is not None:
        types |= {"inputs": np.int32, "targets": np.int32, "bytes": np.uint16, "ends": np.bool_}
    shape = (config.training.rows, config.data.row)
    return {name: jax.ShapeDtypeStruct(shape, dtype, sharding=where) for name, dtype in types.items()}


def abstract_state(config: Config, mesh: jax.sharding.Mesh) -> tuple[Any, Any, TrainState]:
    """The model, the optimizer and the state of a run, as shapes that lie over `mesh`."""
    model = jax.eval_shape(lambda: models.build(config.model, jax.random.key(0)))
    optimizer = make_optimizer(config.optimizer, matrices_of(model), rates_of(model), specs_of(model))
    ema = config.training.ema is not None
    shapes = jax.eval_shape(
        lambda: new_state(lambda k: models.build(config.model, k), optimizer, jax.random.key(0), ema)
    )
    placed = state_shardings(model, optimizer, mesh, ema)
    state = jax.tree.map(
        lambda x, where: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where), shapes, placed
    )
    return model, optimizer, state


def lower_step(config: Config, mesh: jax.sharding.Mesh) -> jax.stages.Lowered:
    """The training step of `train.py`, for XLA to compile; no array is made."""
    model, optimizer, state = abstract_state(config, mesh)
    step = jax.jit(
        make_train_step(model, optimizer, config.training.accumulate, config.training.ema),
        donate_argnums=0,
        out_shardings=(jax.tree.map(lambda x: x.sharding, state), None),
    )
    rate, key = jax.ShapeDtypeStruct((), np.float32), jax.eval_shape(lambda: jax.random.key(0))
    with jax.set_mesh(mesh):
        return step.lower(state, abstract_batch(config, mesh), rate, key)


# ---- what each device holds ----------------------------------------------------------------------------


def bytes_a_device(tree: Any) -> int:
    """Bytes on each device of a tree of `jax.ShapeDtypeStruct` with shardings; the mesh may be abstract."""
    return sum(math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize for x in jax.tree.leaves(tree))


# ---- what is sent --------------------------------------------------------------------------------------

KINDS = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")
_BITS = {"pred": 8, "bf16": 16, "c64": 64}  # others say theirs: f32, s32, u8


@dataclasses.dataclass(frozen=True)
class Collective:
    """One operation between devices; XLA puts several of a kind together."""

    kind: str  # of KINDS
    parts: tuple[tuple[tuple[int, ...], int], ...]  # of its results on a device: (shape, bytes)
    times: int  # a step: it may stand in a loop
    axes: tuple[str, ...]  # of the mesh, along which it sends
    name: str  # where in the program: the path of scopes and functions that jax gives

    @property
    def size(self) -> int:
        """Bytes of the results on a device, once."""
        return sum(size for _, size in self.parts)


def collectives(program: str, mesh: jax.sharding.Mesh) -> list[Collective]:
    """All of a compiled step's, given as text (``compiled.as_text()``), as often as they are run.

    Raises ValueError where a loop does not say how often it runs but sends something.
    """
    computations = dict(_computations(program))
    entry = next(name for name, (_, is_entry) in computations.items() if is_entry)
    found: list[Collective] = []

    def visit(name: str, times: int | None) -> None:
        for line in computations[name][0]:
            match = _OPERATION.match(line)
            if match is None:
                continue
            kind = match[2].removesuffix("-start")
            if kind in KINDS:
                if times is None:
                    raise ValueError(f"a loop of unknown length sends something: {line.strip()[:200]}")
                found.append(_collective(kind, match[1], line, times, mesh))
                continue  # what it calls is how two numbers are added
            inner = times
            if kind == "while":
                count = _TRIPS.search(line)
                inner = None if count is None or times is None else times * int(count[1])
            for called in _CALLED.findall(line):
                for one in called.strip("{}").split(","):
                    if (one := one.strip().lstrip("%")) in computations:
                        visit(one, inner)

    visit(entry, 1)
    return found


_HEAD = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{\s*$")
_OPERATION = re.compile(r"^\s+(?:ROOT )?%?[\w.\-]+ = (\(.*?\)|\S+) ([\w\-]+)\(")
_CALLED = re.compile(r"(?:body|condition|to_apply|calls|branch_computations)=(\{[^}]*\}|[^,\s]+)")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
_SHAPE = re.compile(r"([a-z]+\d*)\[([\d,]*)\]")
_LISTED = re.compile(r"(?:replica_groups|source_target_pairs)=\{\{([\d,]*)\}")
_IOTA = re.compile(r"replica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?")


def _computations(program: str) -> Iterator[tuple[str, tuple[list[str], bool]]]:
    """Name -> (lines, whether it is the whole program)."""
    name, lines, entry = "", list[str](), False
    for line in program.splitlines():
        if match := _HEAD.match(line):
            name, lines, entry = match[2], [], match[1] is not None
        elif line.startswith("}"):
            yield name, (lines, entry)
        else:
            lines.append(line)


def _collective(kind: str, result: str, line: str, times: int, mesh: jax.sharding.Mesh) -> Collective:
    parts = []
    for dtype, dims in _SHAPE.findall(result):
        shape = _numbers(dims)
        bits = _BITS.get(dtype) or int(re.sub(r"\D", "", dtype))
        parts.append((shape, math.prod(shape) * bits // 8))
    name = re.search(r'op_name="([^"]*)"', line)
    return Collective(kind, tuple(parts), times, _axes(line, mesh), name[1] if name else "")


def _axes(line: str, mesh: jax.sharding.Mesh) -> tuple[str, ...]:
    """The axes of the mesh along which the devices of the first group lie apart."""
    if match := _IOTA.search(line):
        ids = np.arange(math.prod(_numbers(match[2]))).reshape(_numbers(match[2]))
        ids = ids.transpose(_numbers(match[3])) if match[3] else ids
        group = ids.reshape(_numbers(match[1]))[0].tolist()
    else:
        listed = _LISTED.search(line)
        group = list(_numbers(listed[1])) if listed else list(range(mesh.size))
    places = np.array([np.unravel_index(i, tuple(mesh.shape.values())) for i in group])
    return tuple(axis for i, axis in enumerate(mesh.axis_names) if len(set(places[:, i].tolist())) > 1)


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(n) for n in text.split(",") if n)


def moved(
    found: list[Collective], config: Config, mesh: jax.sharding.Mesh
) -> dict[tuple[str, str, tuple[str, ...]], tuple[int, int]]:
    """What a step sends: (kind, what, axes of the mesh) -> (operations, bytes of their results a device).

    What is "activations", by a row's length among its sizes; "scalars"; else "gradients", if it is summed, or
    "parameters", among them gradients that are only laid out anew. Where a parameter has a size that is a
    row's length too, activations are those that have the rows of a device before it.
    """
    is_activation = _activations(config, mesh)
    sums: dict[tuple[str, str, tuple[str, ...]], list[int]] = defaultdict(lambda: [0, 0])
    for one in found:
        sizes: dict[str, int] = defaultdict(int)
        for shape, size in one.parts:
            what = "gradients" if one.kind in ("all-reduce", "reduce-scatter") else "parameters"
            what = "scalars" if math.prod(shape) == 1 else what
            sizes["activations" if is_activation(shape) else what] += size
        for what, size in sizes.items():
            entry = sums[one.kind, what, one.axes]
            entry[0] += one.times
            entry[1] += one.times * size
    return {key: (count, size) for key, (count, size) in sums.items()}


def _activations(config: Config, mesh: jax.sharding.Mesh) -> Callable[[tuple[int, ...]], bool]:
    """Whether an array of a shape is of positions of rows, by the config's sizes."""
    row, model = config.data.row, config.model
    words = min(getattr(model, "words", row), row)
    P = getattr(model, "vectors", 1)
    lengths = {row, words, words * P, row + words * P}
    leaves = jax.tree.leaves(abstract_state(config, mesh)[2].params)
    of_parameters = {n for x in leaves for shape in (x.shape, x.sharding.shard_shape(x.shape)) for n in shape}
    rows = config.training.rows // config.training.accumulate // (mesh.shape["data"] * mesh.shape["fsdp"])

    def found(shape: tuple[int, ...]) -> bool:
        if len(shape) >= 2 and (lengths - of_parameters) & set(shape):
            return True
        return len(shape) >= 3 and shape[0] == rows and shape[1] in lengths

    return found
