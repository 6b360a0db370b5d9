"""Trains several configs on the same documents, with the same budgets and seeds, and says what came of it.

    python scripts/compare.py default flat "flat --model.window 256" --seconds 120 240 --seeds 0 1 2
    python scripts/compare.py default flat --flops 1e13 --jobs 2 \\
        --source "files --data.source.train a.jsonl.gz --data.source.valid b.jsonl.gz"

Each argument is the name of a config with any flags of train.py. A budget is given as --flops (of training),
--bytes (read) or --seconds (of training alone, without compilation, evaluation and checkpoints); for the last
two a short run of each config measures a step first, and its number of steps is chosen so that the schedule
ends within the budget. Every run is `train.py` in a process of its own, in OUT/runs; started again, the same
command goes on where it stopped. All configs are evaluated on the same held-out bytes, and asked for the same
words (scripts/next_word.py). Writes OUT/comparison.md, .json, .png and .svg.

With --jobs N so many runs at a time have each a share of the cores to themselves.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import shlex
import shutil
import signal
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import jax

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "scripts")]

from comparison import report  # noqa: E402
from comparison.figures import flops_of_a_step, lines_of, read_run, seconds_of  # noqa: E402
from comparison.runs import Run, Workers, execute, fail, say, slug, started  # noqa: E402

from bytelm import config as configs  # noqa: E402
from bytelm.config import Config, Samples  # noqa: E402
from bytelm.training import launch  # noqa: E402
from bytelm.training.metrics import write_whole  # noqa: E402

# Seconds of training in which a step is measured, at most a fifth or half of the smallest budget. Documents
# are encoded as they are met: until most tokens are kept, that takes longer than the steps.
CALIBRATION, ENCODING = 12.0, 60.0


def main() -> None:
    args = parse(sys.argv[1:])
    jax.config.update("jax_platforms", "cpu")  # this process computes nothing; the runs keep their devices
    try:
        named = {spec: resolve(spec, args) for spec in args.configs}
        check_comparable(named)
        if args.context is None:  # a symbol is at least a byte, and one comes before the first
            args.context = min(config.data.row for config in named.values()) - 1
        workers = Workers(args.jobs)
        steps = Steps(args, workers)
        steps.calibrate(named)
        runs = [
            Run(spec, budget, seed, args.out, planned(config, steps.of(spec, budget), seed, args))
            for budget in args.budgets for seed in args.seeds for spec, config in named.items()
        ]  # fmt: skip
        workers.each(lambda run, pin: execute(run, pin, word_settings(args)), runs)
        found = [read_run(run, word_settings(args), steps.seconds(run.spec)) for run in runs]
        report.write(args.out, found, args)
    except (OSError, ValueError, RuntimeError) as error:
        sys.exit(f"compare.py: error: {error}")


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    add = parser.add_argument
    add("configs", nargs="+", help="name of a config, with flags, as one argument; the first is the baseline")
    budget = parser.add_mutually_exclusive_group(required=True)
    for unit in ("flops", "bytes", "seconds"):
        budget.add_argument(f"--{unit}", nargs="+", type=float, metavar="X")
    add("--seeds", nargs="+", type=int, default=[0, 1, 2])
    add("--out", type=Path, default=Path("runs/compare"))
    add(
        "--source", help="a config, with flags, as one argument: all read its documents in place of their own"
    )
    add("--flags", default="", help="flags of train.py for all configs, as one argument")
    add("--split", default="valid", choices=("valid", "test"))
    add("--eval-bytes", type=int, default=2**18, help="held-out bytes of every evaluation (default 262144)")
    add("--points", type=int, default=4, help="evaluations of a run, the last one included (default 4)")
    add("--word-bytes", type=int, default=2**18, help="held-out bytes of next-word accuracy; 0: none")
    add("--context", type=int, help="bytes of context of a word (default: the shortest row less 1)")
    add("--timings", type=int, default=3, help="times that each config's step is timed; the median counts")
    add("--jobs", type=int, default=1, help="runs at a time, each on its share of the cores")
    args = parser.parse_args(arguments)
    args.unit = next(unit for unit in ("flops", "bytes", "seconds") if getattr(args, unit) is not None)
    args.budgets = sorted(getattr(args, args.unit))
    args.command = shlex.join(["python", "scripts/compare.py", *arguments])
    for name in ("configs", "seeds"):
        if len(set(getattr(args, name))) < len(getattr(args, name)):
            parser.error(f"{name}: one is named twice")
    if args.budgets[0] <= 0 or min(args.points, args.eval_bytes, args.timings, args.jobs) < 1:
        parser.error("budgets are above 0; --points, --eval-bytes, --timings and --jobs at least 1")
    return args


# ---- what is run ---------------------------------------------------------------------------------------


def resolve(spec: str, args: argparse.Namespace) -> Config:
    """The config that `spec` names, with its flags, those of all, and the documents of the comparison."""
    arguments = [*shlex.split(spec), *shlex.split(args.flags)]
    config = launch.parse(arguments, ROOT / "configs")[1]
    if args.source is not None:
        source = launch.parse(shlex.split(args.source), ROOT / "configs")[1].data.source
        config = dataclasses.replace(config, data=dataclasses.replace(config.data, source=source))
    return config


def check_comparable(named: dict[str, Config]) -> None:
    """Raises ValueError where configs would read other documents, or could not be told apart."""
    (first, baseline), *others = named.items()
    for spec, config in others:
        if config.data.source != baseline.data.source:
            raise ValueError(
                f"{spec!r} reads {config.data.source}, {first!r} {baseline.data.source}; give --source"
            )
    if len({slug(spec) for spec in named}) < len(named):
        raise ValueError(f"configs {list(named)} would share folders; name them differently")


def planned(config: Config, steps: int, seed: int, args: argparse.Namespace) -> Config:
    """`config` for so many steps, evaluated `args.points` times, all on the same bytes."""
    every = math.ceil(steps / args.points)
    log_every = math.ceil(steps / 100)
    return dataclasses.replace(
        config,
        training=dataclasses.replace(config.training, steps=steps, seed=seed, log_every=log_every),
        evaluation=dataclasses.replace(
            config.evaluation, every=every, max_bytes=args.eval_bytes, final_max_bytes=args.eval_bytes,
            split=args.split, marks=False,
        ),
        samples=Samples(prompts=()),
        checkpoints=dataclasses.replace(config.checkpoints, every=every, keep_last=1, keep_every=None),
    )  # fmt: skip


class Steps:
    """How many steps a budget is, for each config."""

    def __init__(self, args: argparse.Namespace, workers: Workers):
        self._args, self._workers, self._path = args, workers, args.out / "calibration.json"
        self._known: dict[str, Any] = json.loads(self._path.read_text()) if self._path.exists() else {}

    def calibrate(self, named: dict[str, Config]) -> None:
        """Measures a step of each config, where the budget needs it and no earlier call has.

        Of seconds in rounds over all configs: other work on the machine comes and goes.
        """
        rounds = self._args.timings if self._args.unit == "seconds" else 1
        how = {"jobs": self._args.jobs, "timings": rounds, "seconds_of_one": [CALIBRATION, ENCODING]}
        wanted = {
            spec: {"config": configs.to_dict(config), **how}
            for spec, config in named.items()
            if self._args.unit != "flops" or getattr(config.data, "tokenizer", None)
        }
        # Through JSON, as the file was: tuples are lists there.
        wanted = json.loads(json.dumps(wanted))
        left = [s for s, x in wanted.items() if {k: self._known.get(s, {}).get(k) for k in x} != x]

        found: dict[str, list[dict[str, float]]] = {spec: [] for spec in left}

        def measure(item: tuple[int, str], pin: tuple[int, ...] | None) -> None:
            seed, spec = item
            found[spec].append(self._measure(spec, named[spec], seed, pin))

        self._workers.each(measure, [(i, spec) for i in range(rounds) for spec in left])
        for spec, measured in found.items():
            medians = {name: statistics.median(one[name] for one in measured) for name in measured[0]}
            timed = [one["seconds"] for one in measured]
            self._known[spec] = {**wanted[spec], **medians, "timed": timed}
        if left:
            write_whole(self._path, json.dumps(self._known, indent=1) + "\n")
        computed = {spec: {"flops": flops_of_a_step(config)} for spec, config in named.items()}
        self._of = {spec: self._known[spec] if spec in wanted else computed[spec] for spec in named}

    def _measure(self, spec: str, config: Config, seed: int, pin: tuple[int, ...] | None) -> dict[str, float]:
        """Seconds and bytes of a step, from the second half of a run that is stopped after a while."""
        wanted, share = (ENCODING, 1 / 2) if getattr(config.data, "tokenizer", None) else (CALIBRATION, 1 / 5)
        least = {"seconds": min(wanted, self._args.budgets[0] * share), "bytes": wanted}
        seconds = least.get(self._args.unit, 0.0)  # of FLOPs only the size of the vocabulary is asked for
        config = planned(config, 10**6, seed, self._args)
        config = dataclasses.replace(config, training=dataclasses.replace(config.training, log_every=1))
        run = Run(spec, 0, seed, self._args.out / "calibration", config)
        say(f"measuring a step of {spec!r}")
        shutil.rmtree(run.folder, ignore_errors=True)  # an earlier one would be gone on from
        run.plan.unlink(missing_ok=True)
        run.write_plan()
        with started(run, pin) as process:
            while process.poll() is None:
                lines = lines_of(run.folder)
                if len(lines) > 6 and seconds_of(lines)[-1] >= seconds:
                    process.send_signal(signal.SIGTERM)
                    break
                time.sleep(0.1)
        if process.wait():
            fail(run, process.returncode)
        lines = lines_of(run.folder)[1:]  # the first one has the compilation
        lines = lines[len(lines) // 2 :]
        time_of = sum(line["bytes"] / line["bytes_per_second"] for line in lines)
        return {
            "seconds": time_of / len(lines),
            "bytes": sum(line["bytes"] for line in lines) / len(lines),
            "flops": flops_of_a_step(configs.read(run.folder / "config.json")),  # now that all is resolved
        }

    def of(self, spec: str, budget: float) -> int:
        """The most steps within the budget. Raises ValueError where not one is."""
        one = self._of[spec][self._args.unit]
        if budget < one:
            raise ValueError(
                f"{spec!r}: a step takes {one:g} {self._args.unit}, more than the budget {budget:g}"
            )
        return int(budget / one + 1e-9)

    def seconds(self, spec: str) -> float | None:
        """What a step takes, where the number of steps was chosen by it."""
        return self._of[spec]["seconds"] if self._args.unit == "seconds" else None


def word_settings(args: argparse.Namespace) -> dict[str, Any] | None:
    """What the words are asked with; None: not at all."""
    settings = {"split": args.split, "max_bytes": args.word_bytes, "context": args.context}
    return settings if args.word_bytes else None


if __name__ == "__main__":
    main()
