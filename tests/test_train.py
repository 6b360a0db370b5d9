"""train.py as it is used: killed, stopped, gone on with, out of disk, out of range, used wrongly."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import bytelm
from bytelm.training.metrics import TIMINGS

ROOT = Path(__file__).parents[1]
STEPS = 24
CONFIG = """
from bytelm.config import Checkpoints, Config, Data, Evaluation, Optimizer, Samples, Training
from bytelm.data import Files
from bytelm.models import ByteTransformerConfig

config = Config(
    model=ByteTransformerConfig(layers=1, width=16, heads=2, mlp_width=16, dropout=0.1),
    data=Data(source=Files(train=({train!r},), valid=({valid!r},)), row=64, piece=128),
    optimizer=Optimizer(name="adamw", learning_rate=1e-2, warmup=2),
    training=Training(steps={steps}, rows=8, log_every=1, ema=0.9),
    evaluation=Evaluation(every=10, max_bytes=1000, rows=8),
    samples=Samples(max_bytes=8),
    checkpoints=Checkpoints(every=4),
)
"""


class Place:
    """A config file, its data, a compilation cache that the processes share, and runs of train.py."""

    def __init__(self, folder):
        self.folder = folder
        random = np.random.default_rng(0)
        words = np.array(["alpha", "beta", "gamma", "delta"])
        for name, size in (("train", 5000), ("valid", 400)):
            (folder / f"{name}.txt").write_text(" ".join(random.choice(words, size)))
        paths = {name: str(folder / f"{name}.txt") for name in ("train", "valid")}
        self.config = folder / "tiny.py"
        self.config.write_text(CONFIG.format(**paths, steps=STEPS))

    def start(self, run, *flags, config=None, **options):
        flags_of_xla = "--xla_backend_optimization_level=0"
        environment = {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags_of_xla}
        environment |= {
            "JAX_COMPILATION_CACHE_DIR": str(self.folder / "cache"),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.1",
        }
        command = [sys.executable, ROOT / "train.py", config or self.config, "--workdir", self.folder / run]
        return subprocess.Popen(
            [*map(str, command), *map(str, flags)], env=environment, cwd=self.folder,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options,
        )  # fmt: skip

    def run(self, *arguments, **options):
        """(exit status, standard output, standard error)."""
        process = self.start(*arguments, **options)
        out, error = process.communicate(timeout=300)
        return process.returncode, out, error

    def signal_at(self, run, step, number):
        """Sends a signal once the line of step `step` is written; (exit status, standard error)."""
        process, file = self.start(run), self.folder / run / "metrics.jsonl"
        while process.poll() is None:
            if file.exists() and f'"step": {step},' in file.read_text():
                process.send_signal(number)
                break
            time.sleep(0.002)
        return process.wait(timeout=120), process.stderr.read()

    def lines(self, run):
        text = (self.folder / run / "metrics.jsonl").read_text()
        return [json.loads(line, parse_constant=pytest.fail) for line in text.splitlines()]

    def same_lines(self, run):
        """The metrics without what may differ between equal runs."""
        return [{k: x for k, x in line.items() if k not in TIMINGS} for line in self.lines(run)]

    def params(self, run):
        return bytelm.load(self.folder / run)._params


def assert_equal_params(a, b):
    import jax

    jax.tree.map(np.testing.assert_array_equal, a, b)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return Place(tmp_path_factory.mktemp("train"))


@pytest.fixture(scope="module")
def whole(place):
    """The run that nothing interrupts."""
    status, out, error = place.run("whole")
    assert status == 0, error
    return out, error


def test_trains_and_says_what_came_out(place, whole):
    out, error = whole
    lines = place.lines("whole")
    assert [line["step"] for line in lines] == list(range(1, STEPS + 1))
    wanted = {"train/bits_per_byte", "bytes_per_second", "mfu", "data_wait_seconds", "learning_rate"}
    assert all(wanted <= line.keys() for line in lines)
    assert [line["step"] for line in lines if "eval/bits_per_byte" in line] == [10, 20, STEPS]
    assert lines[-1]["train/bits_per_byte"] < lines[0]["train/bits_per_byte"] - 1
    assert lines[-1]["eval/standard_error"] is None  # one document: unknown, not NaN
    assert f"{lines[-1]['eval/bits_per_byte']:.3f} bits per byte" in out
    assert "sample:" in out
    assert f"run: {place.folder / 'whole'}" in out
    assert "Traceback" not in error
    files = {"config.json", "versions.json", "metrics.jsonl", "samples.jsonl", "curve.png", "tensorboard"}
    assert files <= {path.name for path in (place.folder / "whole").iterdir()}
    lm = bytelm.load(place.folder / "whole")
    assert np.isfinite(lm.score([b"alpha beta"])[0]).all()
    assert lm.score([b"alpha beta"])[0].sum() > lm.score([b"zzzzz zzzz"])[0].sum()


@pytest.mark.usefixtures("whole")
def test_killed_twice_is_uninterrupted_to_the_bit(place):
    random = np.random.default_rng()
    kills = sorted(random.choice(np.arange(2, STEPS - 4), 2, replace=False).tolist())
    for step in kills:
        status, error = place.signal_at("killed", step, signal.SIGKILL)
        assert status == -signal.SIGKILL, (kills, error)
    status, _, error = place.run("killed")
    assert status == 0, (kills, error)
    assert place.same_lines("killed") == place.same_lines("whole"), kills
    assert_equal_params(place.params("killed"), place.params("whole"))
    samples = [(place.folder / run / "samples.jsonl").read_text() for run in ("killed", "whole")]
    assert samples[0] == samples[1]


@pytest.mark.usefixtures("whole")
def test_stopped_saves_and_goes_on(place):
    status, error = place.signal_at("stopped", 6, signal.SIGTERM)
    assert status == 0, error
    step = bytelm.load.__globals__["_open"](place.folder / "stopped", None)[2]
    assert f"stopped and saved at step {step}" in error
    assert 6 < step < STEPS
    status, _, error = place.run("stopped")
    assert status == 0
    assert f"going on from step {step}" in error
    assert place.same_lines("stopped") == place.same_lines("whole")
    assert_equal_params(place.params("stopped"), place.params("whole"))


@pytest.mark.usefixtures("whole")
def test_control_another_seed_is_another_run(place):
    status, _, error = place.run("seed", "--training.seed", 1)
    assert status == 0, error
    assert place.same_lines("seed") != place.same_lines("whole")


@pytest.mark.usefixtures("whole")
def test_finished_says_so(place):
    before = place.same_lines("whole")
    status, out, error = place.run("whole")
    assert status == 0
    assert f"finished: {place.folder / 'whole'} is at step {STEPS}" in error
    assert "run: " in out
    assert place.same_lines("whole") == before


def test_full_disk(place):
    """Files may have no more than 8 kB: the first checkpoint does not fit, but what was before it loads."""
    status, _, error = place.run("full", "--training.steps", 4)
    assert status == 0, error

    def small():
        resource.setrlimit(resource.RLIMIT_FSIZE, (8192, 8192))

    status, _, error = place.run("full", "--training.steps", 12, preexec_fn=small)
    assert status == 1, error
    # The storage library's own threads may print before it; the last word is ours.
    last = error.strip().splitlines()[-1]
    assert last.startswith("train.py: error: ")
    assert "could not be written" in last
    assert np.isfinite(bytelm.load(place.folder / "full").score([b"alpha"])[0]).all()
    status, _, error = place.run("full", "--training.steps", 12)  # there is room again
    assert status == 0
    assert "going on from step 4" in error


def test_loss_that_is_not_finite(place):
    status, _, error = place.run("wild", "--training.steps", 5, "--checkpoints.every", 1)
    assert status == 0, error
    status, _, error = place.run(
        "wild2", "--init-from", place.folder / "wild", "--optimizer.learning-rate", 1e30,
        "--checkpoints.every", 1, "--optimizer.warmup", 0,
    )  # fmt: skip
    assert status == 1
    assert "error: step 1: not all is finite" in error
    assert "Traceback" not in error
    assert not list((place.folder / "wild2" / "checkpoints").glob("[0-9]*"))


@pytest.mark.usefixtures("whole")
def test_other_runs_to_start_from(place):
    """--resume goes on, --init-from takes the parameters only."""
    status, _, error = place.run("resumed", "--resume", place.folder / "whole", "--training.steps", STEPS + 2)
    assert status == 0, error
    assert f"going on from step {STEPS} in {place.folder / 'whole'}" in error
    assert [line["step"] for line in place.lines("resumed")] == [STEPS + 1, STEPS + 2]
    status, _, error = place.run("begun", "--init-from", place.folder / "whole", "--training.steps", 2)
    assert status == 0, error
    first, scratch = (place.lines(run)[0]["train/bits_per_byte"] for run in ("begun", "whole"))
    assert first < scratch - 1
    assert [line["step"] for line in place.lines("begun")] == [1, 2]


@pytest.mark.usefixtures("whole")
@pytest.mark.parametrize(
    ("run", "flags", "message"),
    [
        ("whole", ["--model.width", 32], "model.width = 16, this run has 32"),
        ("bad", ["--training.stepz", 3], "--training.stepz"),
        ("bad", ["--training.rows", 0], "training.rows must be at least 1"),
        ("bad", ["--mesh.tensor", 3], "does not fit"),
        ("bad", ["--resume", "nowhere"], "nowhere: not a run"),
        ("bad", ["--init-from", "nowhere"], "nowhere: not a run"),
    ],
)
def test_bad_usage(place, run, flags, message):
    status, _, error = place.run(run, *flags)
    assert status == 2, error
    assert message in error
    assert "Traceback" not in error


def test_unknown_config(place):
    status, _, error = place.run("bad", config="nonesuch")
    assert status == 2
    assert "no config 'nonesuch'" in error
    assert "default" in error
