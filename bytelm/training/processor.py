"""What makes training on a CPU fast: a device a core, and memory that is kept."""

from __future__ import annotations

import ctypes
import importlib.metadata
import importlib.util
import math
import os
import platform

import jax

from bytelm.config import Config
from bytelm.sharding import MeshShape


def use_all_cores(config: Config) -> None:
    """On CPU, a device for each core that the rows can be shared among. Call before JAX has devices.

    XLA gives the operations of one device to all cores, but cuts only the large ones, and waits after each.
    Leaves alone a mesh that the config cuts, several processes, and a number of devices that was set from
    outside.
    """
    chosen = "xla_force_host_platform_device_count" in os.environ.get("XLA_FLAGS", "")
    chosen = chosen or getattr(jax.config, "jax_num_cpu_devices", -1) > 0 or jax.distributed.is_initialized()
    if _on_cpu() and not chosen and config.mesh == MeshShape():
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        rows = config.training.rows // config.training.accumulate
        jax.config.update("jax_num_cpu_devices", math.gcd(cores, rows, config.evaluation.rows))


def keep_pages() -> None:
    """On CPU, lets the C library keep the memory that XLA frees after each step. Call before JAX has threads.

    Given back, it would come again as fresh pages, which the kernel must clear: a tenth of a step. A thread
    that has an arena of its own would map and unmap it, whatever the limits. Elsewhere than on glibc this
    does nothing.
    """
    if _on_cpu() and platform.libc_ver()[0] == "glibc":
        m_trim_threshold, m_top_pad, m_mmap_max, m_arena_max = -1, -2, -4, -8  # <malloc.h>
        libc = ctypes.CDLL(None)
        for option, value in ((m_arena_max, 1), (m_mmap_max, 0), (m_trim_threshold, -1), (m_top_pad, 2**26)):
            libc.mallopt(option, value)


def _on_cpu() -> bool:
    """Whether JAX will run on CPU, known before it has started."""
    platforms = getattr(jax.config, "jax_platforms", None)
    if platforms:
        return platforms.split(",")[0] == "cpu"
    return not importlib.metadata.entry_points(group="jax_plugins") and not importlib.util.find_spec("libtpu")
