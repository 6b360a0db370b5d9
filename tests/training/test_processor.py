"""What is set up for a CPU before JAX starts."""

from __future__ import annotations

import pytest

from bytelm.config import Config, Evaluation, Training
from bytelm.sharding import MeshShape
from bytelm.training import processor


@pytest.mark.parametrize(
    ("flags", "mesh", "rows", "devices"),
    [("", {}, 4, 2), ("", {}, 3, 1), ("", {"fsdp": 2}, 4, None),
     ("--xla_force_host_platform_device_count=8", {}, 4, None)],
)  # fmt: skip
def test_a_device_for_each_core_that_rows_can_be_shared_among(monkeypatch, flags, mesh, rows, devices):
    """Two cores. None: the number is left as it is, where a mesh or a number was chosen."""
    set_to = {}
    monkeypatch.setenv("XLA_FLAGS", flags)
    monkeypatch.setattr(processor.os, "sched_getaffinity", lambda _: {0, 1}, raising=False)
    monkeypatch.setattr(processor.jax.config, "update", set_to.__setitem__)
    training, evaluation = Training(rows=rows), Evaluation(rows=8)
    processor.use_all_cores(Config(training=training, evaluation=evaluation, mesh=MeshShape(**mesh)))
    assert set_to == ({} if devices is None else {"jax_num_cpu_devices": devices})
