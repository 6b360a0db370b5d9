"""Trains under random SIGKILLs and damage to checkpoints, and compares with a run that nothing disturbs.

    python scripts/chaos.py [--kills 20] [--minutes 30] [--steps 600] [--seed 0] [--folder DIR]

A small word-pooled model, first undisturbed, then killed again and again: at any moment of its life, while it
starts, and while a checkpoint is being written. After every fifth kill the newest checkpoint, where there is
one before it, is damaged too: a file of it is cut short, emptied or removed. When kills or minutes are
used up the run may finish. Its parameters and its metrics must then be the undisturbed run's to the bit.
Prints a line a kill and a summary, writes chaos.json into the folder; exits with status 1 on a difference.
Twenty kills take about ten minutes on two cores.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).parents[1]
CONFIG = """
from bytelm.config import Checkpoints, Config, Data, Evaluation, Optimizer, Samples, Training
from bytelm.data import Files
from bytelm.models import WordPooledConfig

config = Config(
    model=WordPooledConfig(
        words=32, layers=1, width=32, heads=2, mlp_width=32, byte_width=16, byte_mlp_width=16,
        decoder_layers=1, dropout=0.1,
    ),
    data=Data(source=Files(train=({train!r},), valid=({valid!r},)), row=128, piece=256),
    optimizer=Optimizer(name="adamw", learning_rate=1e-2, warmup=10),
    training=Training(steps={steps}, rows=8, log_every=1, ema=0.9),
    evaluation=Evaluation(every={often}, max_bytes=1000, rows=8),
    samples=Samples(max_bytes=8),
    checkpoints=Checkpoints(every=5, keep_last=3),
)
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, help="where the runs are kept; default: a temporary folder")
    args = parser.parse_args()
    folder = args.folder or Path(tempfile.mkdtemp(prefix="chaos-"))
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("whole", "killed"):
        if (folder / name).exists():
            parser.error(f"--folder {folder} already holds a run; choose another")
    report = chaos(folder, args)
    (folder / "chaos.json").write_text(json.dumps(report, indent=1) + "\n")
    print(json.dumps(report, indent=1))
    sys.exit(0 if report["same parameters"] and report["same metrics"] else 1)


def chaos(folder: Path, args: argparse.Namespace) -> dict[str, Any]:
    """Both runs, and how they compare."""
    chance = random.Random(args.seed)
    words = ["alpha", "beta", "gamma", "delta", "epsilon"]
    for name, size in (("train", 20_000), ("valid", 400)):
        (folder / f"{name}.txt").write_text(" ".join(chance.choices(words, k=size)))
    paths = {name: str(folder / f"{name}.txt") for name in ("train", "valid")}
    config = folder / "config.py"
    config.write_text(CONFIG.format(**paths, steps=args.steps, often=max(1, args.steps // 4)))

    began = time.monotonic()
    if finish(start(folder, "whole")):
        sys.exit("the undisturbed run failed")
    whole = time.monotonic() - began
    training = lines(folder / "whole")[-1]["seconds"]
    print(f"undisturbed: {whole:.0f} s, of which {training:.0f} s are training", flush=True)
    life = 1.5 * training / max(1, args.kills)  # on average three quarters of the run's length in all
    until, kinds, damaged, seen_damage = time.monotonic() + 60 * args.minutes, Counter[str](), 0, 0
    while kinds.total() < args.kills and time.monotonic() < until:
        kind = chance.choice(["any moment", "any moment", "start", "checkpoint", "checkpoint"])
        process = start(folder, "killed")
        if not kill_at(process, folder / "killed", kind, whole - training, life, chance):
            if process.returncode:
                sys.exit(f"the run failed by itself: {said(folder)}")
            print("it finished before the kills were used up; give it more --steps", flush=True)
            break
        kinds[kind] += 1
        note = ""
        if kinds.total() % 5 == 0:
            note = damage(folder / "killed" / "checkpoints", chance)
            damaged += bool(note)
        step = (lines(folder / "killed") or [{"step": 0}])[-1]["step"]
        seen_damage += said(folder).count("cannot be read")
        print(f"kill {kinds.total():>3} at {kind:<11} step {step:>5}  {note}", flush=True)
    status = finish(start(folder, "killed"))
    seen_damage += said(folder).count("cannot be read")
    if status:
        sys.exit(f"the killed run did not finish: {said(folder)}")
    return {
        "kills": dict(kinds),
        "checkpoints damaged": damaged,
        "damaged checkpoints passed over with a warning": seen_damage,
        "steps": args.steps,
        "seconds": round(time.monotonic() - began),
        "same parameters": same_parameters(folder),
        "same metrics": lines(folder / "whole", bare=True) == lines(folder / "killed", bare=True),
    }


def start(folder: Path, run: str) -> subprocess.Popen:
    environment = {
        **os.environ,
        "JAX_PLATFORMS": os.environ.get("JAX_PLATFORMS", "cpu"),
        "JAX_COMPILATION_CACHE_DIR": str(folder / "cache"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "PYTHONPATH": str(ROOT),
    }
    command = [sys.executable, ROOT / "train.py", folder / "config.py", "--workdir", folder / run]
    with (folder / f"{run}.log").open("a") as log:
        log.write("---- start\n")
        log.flush()
        return subprocess.Popen([*map(str, command)], env=environment, cwd=folder, stdout=log, stderr=log)


def finish(process: subprocess.Popen) -> int:
    return process.wait(timeout=3600)


def said(folder: Path) -> str:
    """What the killed run said since it was last started."""
    return (folder / "killed.log").read_text().rpartition("---- start\n")[2]


def lines(run: Path, bare: bool = False) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl; `bare` without what may differ between equal runs."""
    from bytelm.training.metrics import TIMINGS

    path, found = run / "metrics.jsonl", []
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            found.append(json.loads(line))
        except json.JSONDecodeError:
            break  # a kill cut it short
    return [{k: x for k, x in line.items() if not (bare and k in TIMINGS)} for line in found]


def kill_at(
    process: subprocess.Popen, run: Path, kind: str, starting: float, life: float, chance: random.Random
) -> bool:
    """Kills the process at a moment of a kind; False if it ended before."""
    if kind == "checkpoint":
        for _ in range(chance.randint(1, 3)):  # the first, second or third that is written from now on
            while not list((run / "checkpoints").glob("*orbax-checkpoint-tmp*")):
                if process.poll() is not None:
                    return False
                time.sleep(0.001)
            if chance.random() < 0.5:
                break
            time.sleep(0.05)
        time.sleep(chance.random() * 0.03)
    else:
        longest = starting if kind == "start" else starting + 2 * life
        stop = time.monotonic() + chance.random() * longest
        while time.monotonic() < stop:
            if process.poll() is not None:
                return False
            time.sleep(0.001)
    if process.poll() is not None:
        return False
    process.kill()
    process.wait()
    return True


def damage(checkpoints: Path, chance: random.Random) -> str:
    """Damages a file of the newest checkpoint, if there is another; says what it did."""
    steps = sorted((p for p in checkpoints.glob("*") if p.name.isdigit()), key=lambda p: int(p.name))
    if len(steps) < 2:
        return ""
    files = [p for p in (steps[-1] / "params").rglob("*") if p.is_file() and p.stat().st_size]
    largest = max(files, key=lambda p: p.stat().st_size)
    how = chance.choice(["cut short", "emptied", "removed"])
    if how == "removed":
        largest.unlink()
    else:
        with largest.open("r+b") as file:
            file.truncate(0 if how == "emptied" else largest.stat().st_size // 2)
    return f"checkpoint {steps[-1].name}: {largest.name} {how}"


def same_parameters(folder: Path) -> bool:
    import jax

    from bytelm.load import parameters

    one, two = (jax.tree.leaves(parameters(folder / run)[1]) for run in ("whole", "killed"))
    return all(np.array_equal(a, b) for a, b in zip(one, two, strict=True))


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    main()
