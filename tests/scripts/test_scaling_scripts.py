"""scripts/plan.py, bench_scaling.py and chaos.py as they are used, at the smallest sizes."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def run(script, *arguments):
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}
    environment["XLA_FLAGS"] = "--xla_backend_optimization_level=0"
    command = [sys.executable, ROOT / "scripts" / script, *arguments]
    return subprocess.run([*map(str, command)], env=environment, capture_output=True, text=True, check=False)


def test_the_plan_of_a_config():
    done = run("plan.py", "words_1b", "--devices", 8, "--training.accumulate", 16, "--quick")
    assert done.returncode == 0, done.stderr
    said = dict(re.split(r"  +", line, maxsplit=1) for line in done.stdout.splitlines() if "  " in line)
    assert said["parameters"] == "1,289,749,504"
    assert said["mesh"] == "data 1, fsdp 8, tensor 1"
    assert "646 MB" in done.stdout  # of 5.16 GB; a 500th is whole on each


@pytest.mark.slow
def test_what_a_compiled_step_holds_and_sends_on_256_devices():
    tiny = ["--model.layers", 2, "--model.width", 256, "--model.words", 80, "--model.byte-width", 256,
            "--model.encoder-layers", 1, "--model.decoder-layers", 1, "--data.row", 320]  # fmt: skip
    done = run("plan.py", "words_1b", "--devices", 256, *tiny)
    assert done.returncode == 0, done.stderr
    assert "fsdp 256" in done.stdout
    assert "all-gather over fsdp" in done.stdout
    assert "activations  " not in done.stdout.partition("sent a step")[2]


def test_a_config_that_does_not_fit_is_refused():
    done = run("plan.py", "words_1b", "--devices", 8, "--training.accumulate", 64, "--quick")
    assert done.returncode == 2
    assert "training.rows / accumulate = 4 cannot be cut in 8" in done.stderr


@pytest.mark.slow
def test_curves(tmp_path):
    out = tmp_path / "curves.json"
    done = run("bench_scaling.py", "--row", 64, "--documents", 1, 8, "--lengths", 32, 64, 128, "--layers", 1,
               "--width", 16, "--repeats", 1, "--out", out)  # fmt: skip
    assert done.returncode == 0, done.stderr
    report = json.loads(out.read_text())
    assert {len(x) for x in report["documents"].values()} == {2}
    assert {len(x) for x in report["lengths"].values()} == {3}


@pytest.mark.slow
def test_chaos(tmp_path):
    done = run("chaos.py", "--kills", 5, "--steps", 60, "--folder", tmp_path / "chaos")
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads((tmp_path / "chaos" / "chaos.json").read_text())
    assert report["same parameters"]
    assert report["same metrics"]
