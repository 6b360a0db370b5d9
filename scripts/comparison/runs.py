"""The runs of a comparison: what each is, where it lies, and its process on cores of its own."""

from __future__ import annotations

import hashlib
import json
import os
import queue
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import next_word as words
from comparison.figures import HELD_OUT, lines_of

from bytelm import config as configs
from bytelm.config import Config
from bytelm.training.metrics import write_whole

ROOT = Path(__file__).resolve().parents[2]
_PIN = """import os, sys
os.sched_setaffinity(0, map(int, sys.argv[1].split(",")))
os.execv(sys.argv[2], sys.argv[2:])"""

_AS_CONFIG = """from pathlib import Path

from bytelm.config import read

config = read(Path(__file__).with_suffix(".json"))
"""


@dataclass(frozen=True)
class Run:
    """One config with one budget and one seed."""

    spec: str
    budget: float
    seed: int
    out: Path
    config: Config

    @property
    def name(self) -> str:
        return f"{slug(self.spec)}-{self.budget:g}-seed{self.seed}"

    @property
    def folder(self) -> Path:
        return self.out / "runs" / self.name

    @property
    def plan(self) -> Path:
        """Where its config is written down as asked for; the run may resolve it further."""
        return self.out / "configs" / f"{self.name}.json"

    def write_plan(self) -> None:
        """Also as a config that train.py takes. Raises ValueError where another of that name was planned."""
        if self.plan.exists():
            saved = configs.read(self.plan)
            if different := configs.differences(saved, self.config):
                field, old, new = different[0]
                raise ValueError(
                    f"{self.folder} has {field} = {old!r}, this comparison {new!r}; choose another --out"
                )
        self.plan.parent.mkdir(parents=True, exist_ok=True)
        write_whole(self.plan, json.dumps(configs.to_dict(self.config), indent=1) + "\n")
        self.plan.with_suffix(".py").write_text(_AS_CONFIG)

    def finished(self) -> bool:
        """Whether its last evaluation and its last checkpoint are written."""
        lines, steps = lines_of(self.folder), self.config.training.steps
        evaluated = bool(lines) and lines[-1]["step"] == steps and HELD_OUT in lines[-1]
        return evaluated and (self.folder / "checkpoints" / str(steps)).is_dir()


def slug(spec: str) -> str:
    """A name for folders: of a config given by its path, the file's name. Long ones end in a hash."""
    name, *flags = spec.split(" ", 1)
    plain = " ".join([Path(name).stem, *flags]).replace("--", "")
    found = re.sub(r"[^A-Za-z0-9_.=-]+", "_", plain).strip("_")
    if len(found) <= 120:
        return found
    return f"{found[:100]}-{hashlib.sha256(spec.encode()).hexdigest()[:12]}"


# ---- running -------------------------------------------------------------------------------------------


class Workers:
    """N at a time, each with an equal share of this process's cores (None: all of them)."""

    def __init__(self, jobs: int):
        """Raises ValueError where there are fewer cores than jobs, or they cannot be shared out."""
        self._shares: list[tuple[int, ...] | None] = [None]
        if jobs > 1:
            if not hasattr(os, "sched_getaffinity"):
                raise ValueError("--jobs: this system does not let a process choose its cores; use 1")
            cores = sorted(os.sched_getaffinity(0))
            size = len(cores) // jobs
            if not size:
                raise ValueError(f"--jobs {jobs}: there are {len(cores)} cores")
            self._shares = [tuple(cores[i * size : (i + 1) * size]) for i in range(jobs)]

    def each(self, work: Callable[[Any, tuple[int, ...] | None], None], items: Iterable[Any]) -> None:
        """`work(item, cores)` of every item; after an error no other is begun, and the error is raised."""
        free: queue.SimpleQueue = queue.SimpleQueue()
        for share in self._shares:
            free.put(share)
        over = threading.Event()

        def one(item: Any) -> None:
            if over.is_set():
                return
            share = free.get()
            try:
                work(item, share)
            except BaseException:
                over.set()
                raise
            finally:
                free.put(share)

        with ThreadPoolExecutor(len(self._shares)) as pool:
            try:
                for done in [pool.submit(one, item) for item in items]:
                    done.result()
            finally:
                over.set()  # an interrupt reaches this thread alone


def execute(run: Run, pin: tuple[int, ...] | None, settings: dict[str, Any] | None) -> None:
    """Trains, and asks for words with the flags `settings`, each unless it is done; None: asks for none."""
    run.write_plan()
    if not run.finished():
        say(f"{run.name}: {run.config.training.steps:,} steps")
        with started(run, pin) as process:
            process.wait()
        if process.returncode or not run.finished():
            fail(run, process.returncode)
    if settings is not None and words.read(run.folder / words.FILE, settings) is None:
        flags = [f"--{name.replace('_', '-')}={value}" for name, value in settings.items()]
        with started(run, pin, str(ROOT / "scripts/next_word.py"), str(run.folder), *flags) as process:
            process.wait()
        if process.returncode:
            fail(run, process.returncode)
    say(f"{run.name}: {lines_of(run.folder)[-1][HELD_OUT]:.4f} bits per byte")


def started(run: Run, pin: tuple[int, ...] | None, *command: str) -> subprocess.Popen:
    """`command`, or else train.py with the run's config, in a process on the cores `pin`."""
    if not command:
        command = (str(ROOT / "train.py"), str(run.plan.with_suffix(".py")), "--workdir", str(run.folder))
    log = run.out / "logs" / f"{run.name}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    pinned = [] if pin is None else [sys.executable, "-c", _PIN, ",".join(map(str, pin))]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    with log.open("a") as out:
        return subprocess.Popen(
            [*pinned, sys.executable, *command], stdout=out, stderr=subprocess.STDOUT, env=environment
        )


def fail(run: Run, status: int) -> None:
    log = run.out / "logs" / f"{run.name}.log"
    raise RuntimeError(
        f"{run.name} ended with status {status}:\n{log.read_text()[-2000:]}\n(all of it: {log})"
    )


def say(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')}  {text}", file=sys.stderr, flush=True)
