"""Eight fake CPU devices for every test, set before jax is first imported."""

import os

os.environ["JAX_PLATFORMS"] = "cpu"
# Tests compile much and compute little: without LLVM's optimisations they take half the time.
os.environ["XLA_FLAGS"] = " ".join(
    [
        os.environ.get("XLA_FLAGS", ""),
        "--xla_force_host_platform_device_count=8",
        "--xla_backend_optimization_level=0",
    ]
)
