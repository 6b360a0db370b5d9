"""scripts/compare.py: budgets, resuming, cores, and the figures that it reports, with runs that are faked."""

from __future__ import annotations

import dataclasses
import importlib
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]
CONFIG = """
from bytelm.config import Config, Data, Evaluation, Optimizer, Training
from bytelm.data import Files
from bytelm.models import ByteTransformerConfig

config = Config(
    model=ByteTransformerConfig(layers=1, width={width}, heads=2, mlp_width=16),
    data=Data(source=Files(train=({text!r},), valid=({text!r},)), row=64, piece=128),
    optimizer=Optimizer(name="adamw", learning_rate=1e-2, warmup=2),
    training=Training(rows=4),
    evaluation=Evaluation(rows=4),
)
"""
ROW = 4 * 64  # symbols of a step


@pytest.fixture(scope="module")
def modules():
    sys.path.insert(0, str(ROOT / "scripts"))
    names = ("compare", "comparison.runs", "comparison.figures", "comparison.report", "next_word")
    yield [importlib.import_module(name) for name in names]
    sys.path.remove(str(ROOT / "scripts"))


class World:
    """Configs in a folder, and a train.py that is faked: bits that tell the seed, `speed` bytes a second, and
    after the measurement `busy` times fewer."""

    def __init__(self, folder, modules, monkeypatch):
        self.folder, self.started = folder, []
        self.compare, self.runs, self.figures, self.report, self.next_word = modules
        text = folder / "text.txt"
        text.write_text("some words and more words here " * 40)
        for name, width in (("small", 16), ("large", 32)):
            (folder / f"{name}.py").write_text(CONFIG.format(text=str(text), width=width))
        self.speed, self.busy = {16: 1000.0, 32: 250.0}, 1.0
        self.fails = set()
        self.resolve = lambda config: config
        for module in (self.compare, self.runs):
            monkeypatch.setattr(module, "started", self.start)
        self.draw = self.report.draw  # which takes long
        monkeypatch.setattr(self.report, "draw", lambda *_: None)

    def start(self, run, pin, *command):
        self.started.append((run.name, "words" if command else "train", pin))
        if run.name in self.fails:
            return Process(run, 1, "it broke")
        if command:
            correct_N = np.arange(40) % 5 < 1 + run.config.model.width // 16
            found = self.next_word.NextWord(correct_N * 1.0, np.arange(40), np.arange(40) * 2, 63, 0)
            settings = dict(flag[2:].split("=") for flag in command[2:])
            settings = {"split": settings["split"], "max_bytes": int(settings["max-bytes"])}
            self.next_word.save(run.folder / self.next_word.FILE, found, settings)
            return Process(run)
        run.folder.mkdir(parents=True, exist_ok=True)
        from bytelm import config as configs

        (run.folder / "config.json").write_text(json.dumps(configs.to_dict(self.resolve(run.config))))
        (run.folder / "versions.json").write_text('{"jax": "0"}')
        (run.folder / "checkpoints" / str(run.config.training.steps)).mkdir(parents=True, exist_ok=True)
        (run.folder / "metrics.jsonl").write_text(
            "".join(json.dumps(x) + "\n" for x in self.lines(run.config))
        )
        return Process(run)

    def lines(self, config):
        measured = config.training.steps == 10**6
        speed = self.speed[config.model.width] / (1.0 if measured else self.busy)
        every = config.training.log_every
        steps = min(config.training.steps, 60)  # a calibration would go on until it is stopped
        before = clock = 0.0
        for step in range(1, steps + 1):
            evaluated = step % config.evaluation.every == 0 or step == steps
            if step % every and not evaluated:
                continue
            size = (step - before) * ROW
            slow = 10.0 if not before else 1.0  # the first line has the compilation
            clock += size / speed * slow + 5.0 * evaluated
            line = {"step": step, "bytes": size, "bytes_per_second": speed / slow, "seconds": clock}
            if evaluated:
                bits = 2 + 16 / config.model.width + 1 / step + 0.1 * config.training.seed
                line |= {"eval/bits_per_byte": bits, "eval/standard_error": 0.05, "eval/bytes": 500}
                line |= {"eval/documents": 3}
            before = step
            yield line

    def run(self, monkeypatch, *arguments):
        self.started.clear()
        paths = [str(self.folder / a) if str(a).endswith(".py") else str(a) for a in arguments]
        monkeypatch.setattr(sys, "argv", ["compare.py", *paths, "--out", str(self.folder / "out")])
        self.compare.main()
        return json.loads((self.folder / "out" / "comparison.json").read_text(), parse_constant=pytest.fail)


class Process:
    """One that is over, and said something."""

    def __init__(self, run, returncode=0, said=""):
        self.returncode = returncode
        log = run.out / "logs" / f"{run.name}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        log.write_text(said)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def wait(self):
        return self.returncode

    poll = wait


@pytest.fixture
def world(tmp_path, modules, monkeypatch):
    return World(tmp_path, modules, monkeypatch)


def trained(world):
    return [name for name, what, _ in world.started if what == "train"]


def steps_of(record):
    return {(s["config"].rpartition("/")[2], s["budget"]): s["steps"] for s in record["summary"]}


# ---- budgets ----


def test_flops(world, monkeypatch):
    from bytelm import models
    from bytelm.training import launch

    config = launch.read_config(str(world.folder / "small.py"), ROOT / "configs")
    one = 3 * models.flops(config.model, 64) * ROW
    assert world.figures.flops_of_a_step(config) == one
    record = world.run(monkeypatch, "small.py", "large.py", "--flops", 50.5 * one, "--seeds", 0)
    steps = steps_of(record)
    assert steps["small.py", 50.5 * one] == 50
    assert 10 < steps["large.py", 50.5 * one] < 26  # at least twice as dear
    assert len(world.started) == 4  # nothing was measured first
    for summary in record["summary"]:
        assert summary["flops"] <= 50.5 * one
        assert summary["flops_a_byte"] == pytest.approx(summary["flops"] / summary["bytes"])


def test_seconds(world, monkeypatch):
    """The slow config gets a quarter of the steps of the fast one, and both take the same time."""
    record = world.run(monkeypatch, "small.py", "large.py", "--seconds", 6, 12, "--seeds", 0)
    assert steps_of(record) == {
        ("small.py", 6): 23, ("small.py", 12): 46, ("large.py", 6): 5, ("large.py", 12): 11,
    }  # fmt: skip
    for summary in record["summary"]:
        assert summary["seconds"] == pytest.approx(summary["budget"], rel=0.15)
        assert summary["seconds"] <= summary["budget"]
    assert world.started[0][0] == "small-0-seed0"  # the measurement


def test_work_beside_the_runs_changes_no_curve(world, monkeypatch):
    """The x axis and the speed are by the steps timed before, not by a machine that others use since."""
    world.busy = 3.0
    record = world.run(monkeypatch, "small.py", "--seconds", 6, "--seeds", 0)
    (summary,), (run,) = record["summary"], record["runs"]
    assert 15 < summary["seconds"] < 21  # what passed is told
    assert 5 < run["curve"][-1]["seconds"] <= 6
    assert summary["bytes_per_second"] == pytest.approx(run["bytes"] / run["curve"][-1]["seconds"])


def test_bytes_are_those_that_the_log_tells(world, monkeypatch):
    record = world.run(monkeypatch, "small.py", "--bytes", 10 * ROW + 5, "--seeds", 0)
    assert steps_of(record) == {("small.py", 10 * ROW + 5): 10}
    assert record["summary"][0]["bytes"] == 10 * ROW


def test_a_budget_below_one_step(world, monkeypatch):
    with pytest.raises(SystemExit, match="a step takes 256 bytes, more than the budget 255"):
        world.run(monkeypatch, "small.py", "--bytes", 255)


# ---- resuming ----


def test_finished_runs_are_not_run_again(world, monkeypatch):
    arguments = ("small.py", "large.py", "--bytes", 20 * ROW, "--seeds", 0, 1)
    first = world.run(monkeypatch, *arguments)
    assert len(trained(world)) == 2 + 4  # two measurements
    assert world.run(monkeypatch, *arguments) == first
    assert world.started == []
    world.run(monkeypatch, *arguments, 2)
    assert sorted(trained(world)) == ["large-5120-seed2", "small-5120-seed2"]
    metrics = world.folder / "out" / "runs" / "small-5120-seed1" / "metrics.jsonl"
    metrics.write_text(metrics.read_text().rpartition('{"step": 20')[0])  # as if killed
    world.run(monkeypatch, *arguments)
    assert trained(world) == ["small-5120-seed1"]
    world.run(monkeypatch, *arguments, "--word-bytes", 1000)
    assert {what for _, what, _ in world.started} == {"words"}


def test_another_run_in_the_folder(world, monkeypatch):
    world.run(monkeypatch, "small.py", "--bytes", 20 * ROW, "--seeds", 0)
    with pytest.raises(SystemExit, match=r"evaluation.max_bytes = 262144, this comparison 1000"):
        world.run(monkeypatch, "small.py", "--bytes", 20 * ROW, "--seeds", 0, "--eval-bytes", 1000)


def test_a_run_that_fails_ends_it_with_what_it_said(world, monkeypatch):
    world.fails.add("small-5120-seed1")
    with pytest.raises(SystemExit, match="small-5120-seed1 ended with status 1:\nit broke"):
        world.run(monkeypatch, "small.py", "--bytes", 20 * ROW)
    assert "small-5120-seed2" not in trained(world)


# ---- what is compared ----


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["small.py", "nonesuch", "--bytes", 9999], 2),
        (["small.py", "small.py", "--bytes", 9999], 2),
        (["small.py", "--bytes", 9999, "--flops", 1], 2),
        (["small.py", "--bytes", -1], 2),
        (["small.py", "--bytes", 9999, "--source", "nonesuch"], 2),
        (["small.py", "--bytes", 9999, "--jobs", 1000], "there are"),
        (["small.py", "default", "--bytes", 9999], "give --source"),
    ],
)
def test_bad_usage(world, monkeypatch, arguments, message):
    with pytest.raises(SystemExit) as caught:
        world.run(monkeypatch, *arguments)
    assert message in (caught.value.code, None) or str(message) in str(caught.value.code)
    assert world.started == []


def test_all_read_the_same_and_are_evaluated_alike(world):
    source = "files --data.source.train t.txt --data.source.test v.txt"
    arguments = ["a", "--bytes", "1", "--source", source, "--split", "test", "--eval-bytes", "777"]
    parsed = world.compare.parse(arguments)
    one, two = (world.compare.resolve(name, parsed) for name in ("default", "default --model.layers 1"))
    assert one.data.source == two.data.source
    assert (one.data.source.train, one.data.source.test) == (("t.txt",), ("v.txt",))
    assert two.model.layers == 1 != one.model.layers
    planned = world.compare.planned(one, 403, 5, parsed)
    assert (planned.training.steps, planned.training.seed) == (403, 5)
    evaluation = planned.evaluation
    assert evaluation.max_bytes == evaluation.final_max_bytes == 777
    assert (evaluation.split, math.ceil(403 / evaluation.every)) == ("test", 4)


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="cores cannot be chosen here")
def test_jobs_have_cores_of_their_own(world, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2, 3, 4})
    world.run(monkeypatch, "small.py", "large.py", "--bytes", 20 * ROW, "--jobs", 2)
    assert {pin for _, _, pin in world.started} == {(0, 1), (2, 3)}


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="cores cannot be chosen here")
def test_the_pin_holds():
    from comparison.runs import _PIN

    core = min(os.sched_getaffinity(0))
    code = "import os; print(sorted(os.sched_getaffinity(0)))"
    command = [sys.executable, "-c", _PIN, str(core), sys.executable, "-S", "-c", code]
    assert subprocess.check_output(command, text=True) == f"[{core}]\n"


# ---- figures ----


def lines(*rows):
    return [dict(zip(("step", "bytes", "bytes_per_second", "seconds"), row, strict=True)) for row in rows]


def test_seconds_without_compilation(world):
    found = lines((10, 1000, 5, 200), (20, 1000, 100, 210), (30, 1000, 50, 300), (40, 1000, 200, 305))
    assert world.figures.seconds_of(found) == pytest.approx([10, 20, 40, 45])  # the first at 100 a second
    assert world.figures.bytes_of(found) == [1000, 2000, 3000, 4000]
    assert world.figures.seconds_of(found[:1]) == [200]


def test_seconds_and_bytes_of_a_run_that_was_interrupted(world):
    """The second process went on from step 15, compiled again, and tells only of what it read itself."""
    found = lines((10, 1000, 5, 200), (20, 1000, 100, 210), (30, 400, 2, 205), (40, 1000, 100, 215))
    assert world.figures.bytes_of(found) == [1000, 2000, 3000, 4000]
    assert world.figures.seconds_of(found) == pytest.approx([10, 20, 30, 40])


def test_figures_over_seeds(world, monkeypatch):
    monkeypatch.setattr(world.report, "draw", world.draw)
    record = world.run(monkeypatch, "small.py", "large.py", "--bytes", 20 * ROW, "--seeds", 0, 1, 2)
    small, large = record["summary"]
    bits = [2 + 1 + 1 / 20 + 0.1 * seed for seed in range(3)]
    assert small["bits_per_byte"] == pytest.approx(np.mean(bits))
    assert small["standard_error_seeds"] == pytest.approx(np.std(bits, ddof=1) / np.sqrt(3))
    assert small["standard_error_documents"] == pytest.approx(0.05)
    assert small["seeds"] == [0, 1, 2]
    assert small["parameters"] - small["parameters_without_tables"] == 16 * (261 + 257)
    accuracy = {x["name"]: x for x in small["next_word"]}
    assert accuracy["all"]["value"] == pytest.approx(0.4)
    assert {name: x["words"] for name, x in accuracy.items()} == {
        **{"all": 40, "0": 1, "1-10": 5, "11-45": 17, "> 45": 17}
    }
    gain = record["gains"][0]
    assert gain["config"] == large["config"]
    assert gain["accuracy"][0]["value"] == pytest.approx(0.2)
    for name in ("png", "svg"):
        assert (world.folder / "out" / f"comparison.{name}").stat().st_size > 5000
    page = (world.folder / "out" / "comparison.md").read_text()
    assert f"| **{small['bits_per_byte']:.4f}** | {small['standard_error_seeds']:.4f} | 0.0500 |" in page
    assert "40.0 [" in page
    assert "--seeds 0 1 2" in page


def test_figures_are_of_the_config_as_the_run_resolved_it(world, monkeypatch):
    """As a tokenized run does, which learns the size of its vocabulary from its tokenizer."""
    arguments = ("small.py", "--bytes", 20 * ROW, "--seeds", 0)
    world.resolve = lambda c: dataclasses.replace(c, model=dataclasses.replace(c.model, mlp_width=24))
    record = world.run(monkeypatch, *arguments)
    assert record["summary"][0]["parameters"] == 16 * (261 + 257) + 4 * 16**2 + 3 * 16 * 24 + 3 * 16 + 2 * 8
    assert world.run(monkeypatch, *arguments) == record
    assert world.started == []


def test_one_seed_has_no_error_over_seeds(world, monkeypatch):
    record = world.run(monkeypatch, "small.py", "--bytes", 20 * ROW, "--seeds", 3, "--word-bytes", 0)
    assert record["summary"][0]["standard_error_seeds"] is None
    assert record["summary"][0]["next_word"] is None
    assert "| - | 0.0500 |" in (world.folder / "out" / "comparison.md").read_text()


def test_what_is_not_equal_is_said(world):
    one = {
        "config": "a",
        "budget": 10.0,
        "seconds": 9.9,
        "lost_share": 0.0,
        "eval_bytes": 500,
        "word_use": None,
    }
    one |= {"embedding_parameters": 100, "vocabulary_parameters": 0, "canonical": False}
    args = world.compare.parse(["a", "--seconds", "10"])
    assert world.report.notes([one], args) == []
    two = {**one, "config": "b", "seconds": 12.0, "lost_share": 0.01, "eval_bytes": 495}
    said = " / ".join(
        world.report.notes([one, two, {**one, "config": "t", "vocabulary_parameters": 400}], args)
    )
    for part in ("+20% of its budget", "1.000% of the held-out bytes", "495 and 500", "25.0% of the 400"):
        assert part in said


# ---- for real ----


@pytest.mark.slow
def test_a_comparison_for_real(tmp_path):
    text = tmp_path / "text.txt"
    text.write_text("alpha beta gamma delta alpha beta " * 200)
    (tmp_path / "small.py").write_text(CONFIG.format(text=str(text), width=16))
    command = [sys.executable, ROOT / "scripts/compare.py", tmp_path / "small.py", "--bytes", 40 * ROW]
    command += ["--seeds", 0, "--out", tmp_path / "out", "--word-bytes", 1000, "--eval-bytes", 1000]
    flags = {"XLA_FLAGS": "--xla_backend_optimization_level=0", "JAX_PLATFORMS": "cpu"}
    subprocess.run([*map(str, command)], check=True, env={**os.environ, **flags}, cwd=tmp_path)
    (summary,) = json.loads((tmp_path / "out" / "comparison.json").read_text())["summary"]
    assert 38 <= summary["steps"] <= 41
    assert 0 < summary["bits_per_byte"] < 8
    assert summary["seconds"] > 0
    assert summary["next_word"][0]["words"] > 100
