"""Several processes that train together, each with devices of its own: how they meet, agree and part.

Each reads its share of the data and writes its share of a checkpoint, into a folder that all see; process 0
writes everything else. What one of them decides, such as to stop, all must decide at the same step.
"""

from __future__ import annotations

import os
import sys
import traceback
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils

T = TypeVar("T")


@dataclass(frozen=True)
class Hosts:
    """The processes that train together; by default this one alone."""

    coordinator: str | None = None
    """host:port at which process 0 is found by the others (or JAX_COORDINATOR_ADDRESS)"""
    count: int | None = None
    """how many processes there are (or JAX_NUM_PROCESSES)"""
    index: int | None = None
    """which one this is, from 0 (or JAX_PROCESS_ID)"""
    auto: bool = False
    """ask the cluster: TPU pods, Open MPI, Kubernetes. Under Slurm, with several tasks, it is asked anyway"""
    patience: int = 30
    """seconds after which a process that gives no sign of life is lost, which ends the run everywhere"""


def connect(hosts: Hosts, environment: Mapping[str, str] = os.environ) -> None:
    """Meets the other processes, before anything is computed.

    Where to is said by flags, else by the environment, else by Slurm. Raises ValueError where it is said in
    part, RuntimeError where the others do not come.
    """
    given = settings(hosts, environment)
    if given is None:
        return
    jax.distributed.initialize(
        **given, heartbeat_timeout_seconds=hosts.patience, shutdown_timeout_seconds=2 * hosts.patience
    )


def settings(hosts: Hosts, environment: Mapping[str, str]) -> dict[str, Any] | None:
    """The arguments of `jax.distributed.initialize`; None for one process alone."""
    names = {
        "coordinator": "JAX_COORDINATOR_ADDRESS",
        "count": "JAX_NUM_PROCESSES",
        "index": "JAX_PROCESS_ID",
    }
    said = {
        name: getattr(hosts, name) if getattr(hosts, name) is not None else environment.get(variable)
        for name, variable in names.items()
    }
    if all(x is None for x in said.values()):
        in_slurm = "SLURM_PROCID" in environment and int(environment.get("SLURM_NTASKS", "1")) > 1
        if in_slurm:
            return {"cluster_detection_method": "slurm"}
        return {} if hosts.auto else None
    missing = [name for name, x in said.items() if x is None]
    if missing:
        raise ValueError(
            f"hosts: --hosts.{missing[0]} (or {names[missing[0]]}) is missing; coordinator, count and index "
            "are given together"
        )
    try:
        count, index = int(said["count"]), int(said["index"])  # type: ignore[arg-type]
    except ValueError:
        raise ValueError(
            f"hosts: count and index are numbers, not {said['count']!r}, {said['index']!r}"
        ) from None
    if not 0 <= index < count:
        raise ValueError(f"hosts: index is {index}; with count {count} it is 0 to {count - 1}")
    return {"coordinator_address": said["coordinator"], "num_processes": count, "process_id": index}


def several() -> bool:
    return jax.process_count() > 1


def leads() -> bool:
    """Whether this process writes what one alone must write."""
    return jax.process_index() == 0


def gather(x: np.ndarray) -> np.ndarray:
    """`x` of every process, [processes, ...], to the bit; of the same shape and type in each.

    As bytes: jax would make 32-bit numbers of 64-bit ones.
    """
    if not several():
        return x[None]
    raw = np.frombuffer(np.ascontiguousarray(x).tobytes(), np.uint8)
    return np.frombuffer(np.asarray(multihost_utils.process_allgather(raw)).tobytes(), x.dtype).reshape(
        -1, *x.shape
    )


def meet(where: str) -> None:
    """Returns when all processes have come to this call."""
    if several():
        multihost_utils.sync_global_devices(where)


def check_same(what: str, text: str) -> None:
    """Raises ValueError unless all processes have the same `text`."""
    marks = gather(np.array([zlib.crc32(text.encode())], np.int64))[:, 0]
    others = np.flatnonzero(marks != marks[0]).tolist()
    if others:
        raise ValueError(f"hosts: {what} of process {others[0]} is not that of process 0; start all alike")


def leader_first(make: Callable[[], T]) -> T:
    """`make()` in process 0, then in the others, who find what it wrote."""
    if leads():
        found = make()
        meet("leader first")
        return found
    meet("leader first")
    return make()


def rows_of_host(by_row: jax.sharding.NamedSharding, rows: int) -> list[int]:
    """The rows of a global batch that lie on this process's devices, in order."""
    spans = by_row.addressable_devices_indices_map((rows, 1)).values()
    return sorted({i for span in spans if span is not None for i in range(*span[0].indices(rows))})


def counted(by_row: jax.sharding.NamedSharding, rows: int) -> np.ndarray:
    """Of the rows of `rows_of_host` those that this process counts, bool: of copies only the first does."""
    first: dict[int, int] = {}
    for device, span in by_row.devices_indices_map((rows, 1)).items():
        assert span is not None
        for i in range(*span[0].indices(rows)):
            process = device.process_index  # type: ignore[attr-defined]
            first[i] = min(first.get(i, process), process)
    return np.array([first[i] == jax.process_index() for i in rows_of_host(by_row, rows)])


class Agreement:
    """Whether any process says yes, known to all a step later, so that no device waits for a host."""

    def __init__(self, mesh: jax.sharding.Mesh):
        axes = jax.sharding.PartitionSpec(mesh.axis_names)
        self._each, self._size = jax.sharding.NamedSharding(mesh, axes), mesh.size
        self._any = jax.jit(
            jnp.max, out_shardings=jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
        )
        self._pending: Any = None

    def __call__(self, mine: bool) -> bool:
        """To be called by all processes, equally often. The answer to what they said the time before."""
        if not several():
            return mine
        before = self._pending
        said = jax.make_array_from_callback((self._size,), self._each, lambda _: np.array([mine], np.int32))
        self._pending = self._any(said)
        return before is not None and bool(before)


def leave(error: BaseException) -> NoReturn:
    """Ends this process at once with status 1: Python's exit would wait for the others, perhaps in vain.

    They learn of it within `Hosts.patience`.
    """
    if isinstance(error, jax.errors.JaxRuntimeError):
        first = str(error).strip().splitlines()[0]
        message = f"the devices of all hosts no longer work together, perhaps one is lost ({first[:300]})"
        print(f"train.py: error: {message}; start all again", file=sys.stderr)
    elif isinstance(error, OSError | FloatingPointError):
        print(f"train.py: error: {error}", file=sys.stderr)
    elif not isinstance(error, SystemExit):
        traceback.print_exception(error)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(error.code if isinstance(error, SystemExit) and isinstance(error.code, int) else 1)
