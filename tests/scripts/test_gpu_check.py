"""scripts/gpu_check.py at sizes for a CPU, on a machine that has only what it says it needs."""

from __future__ import annotations

import json
import os
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NOT_NEEDED = ("grain", "tensorflow_datasets", "array_record", "safetensors", "tyro", "pyarrow", "matplotlib",
              "tensorboardX", "tqdm", "torch", "transformers")  # fmt: skip
TREES = ("tree_gpt2", "tree_7b")  # of exact conversion, which needs tokenizers
PARTS = runpy.run_path(str(ROOT / "scripts" / "gpu_check.py"))["PARTS"]
OTHERS = tuple(name for name in PARTS if name not in TREES)


def check(folder, *parts):
    folder.mkdir()
    for name in (*NOT_NEEDED, *(() if parts == TREES else ("tokenizers",))):
        (folder / f"{name}.py").write_text("raise ImportError")
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(folder)}
    environment["XLA_FLAGS"] = "--xla_backend_optimization_level=0"
    command = [sys.executable, ROOT / "scripts/gpu_check.py", "--tiny", "--out", folder / "report"]
    command += ["--parts", *parts]
    done = subprocess.run(
        [*map(str, command)], env=environment, cwd=folder, capture_output=True, text=True, check=False
    )
    return done, json.loads((folder / "report.json").read_text())


@pytest.mark.slow
def test_every_part(tmp_path):
    report = {}
    for parts in (OTHERS, TREES):
        done, found = check(tmp_path / parts[0], *parts)
        assert {name: part["error"] for name, part in found.items() if "error" in part} == {}
        assert done.returncode == 0, done.stderr
        assert (tmp_path / parts[0] / "report.md").read_text().count("\n") == 2 + len(parts)
        report |= found
    assert all(report[name]["kB/s"] > 0 for name in report if name.startswith("train"))
    assert max(report["step_against_cpu"]["flat"], report["step_against_cpu"]["words"]) < 1e-4


@pytest.mark.slow
def test_a_part_that_fails_is_written_down_and_the_rest_goes_on(tmp_path):
    (tmp_path / "forced.py").write_text("raise RuntimeError('nothing here')")
    script = ROOT / "scripts" / "gpu_check.py"
    shutil.copytree(script.parent / "checking", tmp_path / "checking")
    (tmp_path / "gpu_check.py").write_text(
        script.read_text().replace("Path(__file__).parents[1]", f"Path({str(ROOT)!r})")
    )
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, tmp_path / "gpu_check.py", "--tiny", "--parts", "generate", "train_flat_25m"]
    done = subprocess.run(
        [*map(str, command)], env=environment, cwd=tmp_path, capture_output=True, check=False
    )
    report = json.loads((tmp_path / "gpu_check.json").read_text())
    assert done.returncode == 1
    assert "nothing here" in report["generate"]["error"]
    assert report["train_flat_25m"]["kB/s"] > 0
