"""Seconds of a call, and what memory was used at most."""

from __future__ import annotations

import time
from typing import Any

import jax


def seconds(work: Any, repeats: int = 3, at_least: float = 1.0) -> float:
    """Of one call, once compiled: the median of a few series."""
    jax.block_until_ready(work())
    began = time.perf_counter()
    jax.block_until_ready(work())
    count = max(1, int(at_least / repeats / max(time.perf_counter() - began, 1e-6)))
    found = []
    for _ in range(repeats):
        began = time.perf_counter()
        for _ in range(count):
            last = work()
        jax.block_until_ready(last)
        found.append((time.perf_counter() - began) / count)
    return sorted(found)[repeats // 2]


def peak_gigabytes() -> float | None:
    """Of the first device, since the process began; None where it does not tell."""
    memory = (jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use")
    return None if memory is None else memory / 1e9
