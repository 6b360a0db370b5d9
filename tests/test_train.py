"""train.py as it is used: killed, stopped, gone on with, out of disk, out of range, used wrongly."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import resource
import shutil
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
        # As on a machine without torch, which tensorboardX would import.
        (folder / "without").mkdir()
        (folder / "without" / "torch.py").write_text("raise ImportError")
        self.config = folder / "tiny.py"
        self.config.write_text(CONFIG.format(**paths, steps=STEPS))

    def start(self, run, *flags, config=None, extra=(), **options):
        flags_of_xla = "--xla_backend_optimization_level=0"
        environment = {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags_of_xla, **dict(extra)}
        environment |= {
            "JAX_COMPILATION_CACHE_DIR": str(self.folder / "cache"),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
            "PYTHONPATH": os.pathsep.join([str(self.folder / "without"), str(ROOT)]),
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
def test_interrupted_three_times_is_uninterrupted_to_the_bit(place):
    """Stopped by SIGTERM, killed twice, at steps that differ from run to run, and gone on with each time."""
    steps = np.sort(np.random.default_rng().choice(np.arange(2, STEPS - 5), 3, replace=False)).tolist()
    status, error = place.signal_at("cut", steps[0], signal.SIGTERM)
    assert status == 0, (steps, error)
    (saved,) = re.findall(r"stopped and saved at step (\d+)", error)
    assert steps[0] < int(saved) < STEPS
    for step in steps[1:]:
        status, error = place.signal_at("cut", step, signal.SIGKILL)
        assert status == -signal.SIGKILL, (steps, error)
    assert place.lines("cut")[-1]["step"] < STEPS  # it was not over
    status, _, error = place.run("cut")
    assert status == 0, (steps, error)
    assert "going on from step" in error
    assert place.same_lines("cut") == place.same_lines("whole"), steps
    assert_equal_params(place.params("cut"), place.params("whole"))
    assert len({(place.folder / run / "samples.jsonl").read_text() for run in ("cut", "whole")}) == 1


@pytest.mark.usefixtures("whole")
def test_full_disk(place):
    """No file may grow beyond 8 kB: the next checkpoint does not fit, and the one before is as it was."""
    shutil.copytree(place.folder / "whole", place.folder / "full")
    for small in ("metrics.jsonl", "samples.jsonl"):
        (place.folder / "full" / small).write_text("")
    shutil.rmtree(place.folder / "full" / "tensorboard")
    process = place.start("full", "--training.steps", STEPS + 8)
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (8192, 8192))
    _, error = process.communicate(timeout=300)
    assert process.returncode == 1, error
    # The storage library's own threads may print around it.
    said = [line for line in error.splitlines() if line.startswith("train.py: error: ")]
    assert len(said) == 1, error
    assert "could not be written" in said[0]
    assert "File too large" in said[0]
    assert_equal_params(place.params("full"), place.params("whole"))


@pytest.mark.usefixtures("whole")
def test_loss_that_is_not_finite(place):
    status, _, error = place.run(
        "wild", "--init-from", place.folder / "whole", "--optimizer.learning-rate", 1e30,
        "--optimizer.warmup", 0, "--optimizer.schedule", "constant", "--checkpoints.every", 1,
    )  # fmt: skip
    assert status == 1
    assert "error: step 1: not all is finite" in error
    assert "Traceback" not in error
    assert not list((place.folder / "wild" / "checkpoints").glob("[0-9]*"))


# ---- in this process, on eight devices -----------------------------------------------------------------


@pytest.fixture
def train(place, monkeypatch, capsys):
    """train.py called from here: (exit status, standard output, standard error)."""
    spec = importlib.util.spec_from_file_location("train", ROOT / "train.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)

    def call(run, *flags, config=None):
        arguments = [config or place.config, "--workdir", place.folder / run, *flags]
        monkeypatch.setattr(sys, "argv", ["train.py", *map(str, arguments)])
        status = 0
        try:
            module.main()
        except SystemExit as exit:
            status = exit.code
        return status, *capsys.readouterr()

    return call


@pytest.mark.usefixtures("whole")
def test_finished_says_so(place, train):
    before = place.same_lines("whole")
    status, out, error = train("whole")
    assert status == 0
    assert f"finished: {place.folder / 'whole'} is at step {STEPS}" in error
    assert "run: " in out
    assert place.same_lines("whole") == before


@pytest.mark.usefixtures("whole")
def test_resume_from_another_run_onto_a_mesh(place, train):
    mesh = ["--mesh.data", 2, "--mesh.fsdp", 2, "--mesh.tensor", 2]
    status, _, error = train(
        "resumed", "--resume", place.folder / "whole", "--training.steps", STEPS + 1, *mesh
    )
    assert status == 0, error
    assert f"going on from step {STEPS} in {place.folder / 'whole'}" in error
    (line,) = place.lines("resumed")
    assert line["step"] == STEPS + 1
    assert line["train/bits_per_byte"] < place.lines("whole")[0]["train/bits_per_byte"] - 1


@pytest.mark.slow
@pytest.mark.usefixtures("whole")
def test_loaded_onto_a_mesh_it_scores_and_generates_the_same(place):
    import jax

    from bytelm.sharding import MeshShape, make_mesh

    run, texts = place.folder / "whole", [b"alpha beta", b"gamma", b"x" * 90]
    one = bytelm.load(run)
    mesh = make_mesh(MeshShape(1, 1, 2), devices=jax.devices()[:2])
    cut = bytelm.load(run, mesh=mesh)
    assert cut._params["blocks"]["query"].addressable_shards[0].data.shape == (1, 16, 1, 8)
    with jax.set_mesh(mesh):
        scores = cut.score(texts)
        written = bytelm.generate(cut, ["al", "be"], max_bytes=20, seed=1)
    for a, b in zip(scores, one.score(texts), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
    assert written == bytelm.generate(one, ["al", "be"], max_bytes=20, seed=1)
    with pytest.raises(ValueError, match=r"model\.heads = 2 cannot be cut in 8"):
        bytelm.load(run, mesh=make_mesh(MeshShape(1, 1, 8)))


@pytest.mark.usefixtures("whole")
def test_a_damaged_checkpoint_is_passed_over(place, train):
    """Damaged newest: the run goes on from the one before, and says so."""
    shutil.copytree(place.folder / "whole", place.folder / "damaged")
    for path in (place.folder / "damaged" / "checkpoints" / str(STEPS) / "optimizer").rglob("*"):
        if path.is_file():
            os.truncate(path, path.stat().st_size // 2)
    status, _, error = train("damaged")
    assert status == 0, error
    assert f"{STEPS}: the checkpoint cannot be read" in error
    assert f"using that of step {STEPS - 4}" in error
    assert f"going on from step {STEPS - 4}" in error
    ours, expected = (place.lines(run)[-1]["train/bits_per_byte"] for run in ("damaged", "whole"))
    np.testing.assert_allclose(ours, expected, rtol=1e-4)


@pytest.mark.slow
def test_a_file_of_data_that_vanishes(place):
    """The run ends and says what is gone; what it had saved is whole, and it goes on when that is back."""
    moved = place.folder / "vanishing.txt"
    shutil.copy(place.folder / "train.txt", moved)
    config = place.folder / "vanishing.py"
    config.write_text(place.config.read_text().replace("train.txt", "vanishing.txt"))
    process = place.start("vanishing", "--training.steps", 4000, config=config)
    file = place.folder / "vanishing" / "metrics.jsonl"
    while not (file.exists() and '"step": 9,' in file.read_text()):
        assert process.poll() is None
        time.sleep(0.01)
    moved.rename(place.folder / "away.txt")
    _, error = process.communicate(timeout=120)
    assert process.returncode == 1
    assert "train.py: error: " in error
    assert "vanishing.txt" in error
    assert "Traceback" not in error
    (place.folder / "away.txt").rename(moved)
    there = (place.folder / "vanishing" / "checkpoints").iterdir()
    last = max(int(p.name) for p in there if p.name.isdigit())
    status, _, error = place.run("vanishing", "--training.steps", last + 2, config=config)
    assert status == 0, error
    assert f"going on from step {last}" in error


SLOW_AND_JUMPING = """
import time

from bytelm.data.documents import Table

read, real = Table.read, time.time


def slowly(self, *where):
    time.sleep(0.05)
    return read(self, *where)


Table.read = slowly
time.time = lambda: real() + (300.0, -300.0, 0.0)[int(time.monotonic()) % 3]
"""


@pytest.mark.slow
@pytest.mark.usefixtures("whole")
def test_a_slow_source_and_a_clock_that_jumps(place):
    """Each read takes long and the wall clock is set every second, by minutes: the same run, waits told.

    Set forward by more than 20 minutes in the middle of a checkpoint, it would end the run: orbax gives up.
    """
    config = place.folder / "slow.py"
    config.write_text(place.config.read_text() + SLOW_AND_JUMPING)
    began = time.perf_counter()
    status, _, error = place.run("slow", "--data.prefetch", 0, config=config)
    took = time.perf_counter() - began
    assert status == 0, error
    assert place.same_lines("slow") == place.same_lines("whole")
    assert_equal_params(place.params("slow"), place.params("whole"))
    slow, whole = place.lines("slow"), place.lines("whole")
    waits = [sum(line["data_wait_seconds"] for line in lines[2:]) for lines in (slow, whole)]
    assert waits[0] > waits[1] + 1.0
    seconds = [line["seconds"] for line in slow]
    assert seconds == sorted(seconds)
    assert 0 < seconds[-1] < took
    assert all(line["bytes_per_second"] > 0 for line in slow)


@pytest.mark.slow
@pytest.mark.usefixtures("whole")
def test_init_from_takes_the_parameters_only(place, train):
    status, _, error = train("begun", "--init-from", place.folder / "whole", "--training.steps", 2)
    assert status == 0, error
    first, scratch = (place.lines(run)[0]["train/bits_per_byte"] for run in ("begun", "whole"))
    assert first < scratch - 1
    assert [line["step"] for line in place.lines("begun")] == [1, 2]


@pytest.mark.slow
@pytest.mark.usefixtures("whole")
def test_control_another_seed_is_another_run(place):
    status, _, error = place.run("seed", "--training.seed", 1, "--training.steps", 2)
    assert status == 0, error
    assert place.lines("seed")[1]["train/bits_per_byte"] != place.lines("whole")[1]["train/bits_per_byte"]


@pytest.mark.usefixtures("whole")
@pytest.mark.parametrize(
    ("run", "flags", "message"),
    [
        ("whole", ["--model.width", 32], "model.width = 16, this run has 32"),
        ("bad", ["--training.stepz", 3], "--training.stepz"),
        ("bad", ["--training.rows", 0], "training.rows must be at least 1"),
        ("bad", ["--mesh.tensor", 3], "does not fit 8 devices"),
        ("bad", ["--mesh.tensor", 4], "model.heads = 2 cannot be cut in 4 equal parts"),
        ("bad", ["--training.rows", 4], "training.rows / accumulate = 4 cannot be cut in 8"),
        ("bad", ["--evaluation.rows", 4], "evaluation.rows = 4 cannot be cut in 8"),
        ("bad", ["--evaluation.split", "test"], "test"),
        ("bad", ["--resume", "nowhere"], "nowhere: not a run"),
        ("bad", ["--init-from", "nowhere"], "nowhere: not a run"),
    ],
)
def test_bad_usage(train, run, flags, message):
    status, _, error = train(run, *flags)
    assert status == 2, error
    assert message in re.sub(r"\s+", " ", error)


def test_unknown_config(train):
    status, _, error = train("bad", config="nonesuch")
    assert status == 2
    assert "no config 'nonesuch'" in error
    assert "default" in error
