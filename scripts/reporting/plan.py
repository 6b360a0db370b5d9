"""What a report is made of: sections, their commands, and what is kept of each command that ran."""

from __future__ import annotations

import datetime
import importlib.metadata
import importlib.util
import json
import os
import platform
import shlex
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("bytelm", "jax", "flax", "optax", "orbax-checkpoint", "grain", "numpy", "tokenizers")
T = TypeVar("T")


@dataclass(frozen=True)
class Settings:
    """Of a whole report. `work` and `data` are absolute."""

    quick: bool
    work: Path
    data: Path | None = None
    jobs: int = 1

    def of(self, full: T, quick: T) -> T:
        return quick if self.quick else full

    def at(self, *parts: str) -> str:
        """A path in the data."""
        return str((self.data or Path("DATA")).joinpath(*parts))

    def clean(self, text: str) -> str:
        """`text` without what is this machine's: DATA for the data's folder, paths from the repository on."""
        if self.data is not None:
            text = text.replace(str(self.data), "DATA")
        return text.replace(f"{self.work}", "WORK").replace(f"{ROOT}/", "")


@dataclass(frozen=True)
class Command:
    """One process. stdout: the file, under the section's folder, that its standard output is written to."""

    name: str
    words: tuple[str, ...]
    stdout: str | None = None

    def __str__(self) -> str:
        return shlex.join(self.words) + (f" > {self.stdout}" if self.stdout else "")


@dataclass
class Found:
    """What a section says: Markdown without its heading, figures for JSON, and plots by name.

    A plot is a function that draws a matplotlib Figure, or the path of a picture without its suffix.
    """

    markdown: str
    figures: dict[str, Any]
    plots: dict[str, Callable[[], Any] | Path] = field(default_factory=dict)


@dataclass(frozen=True)
class Section:
    """needs: paths in the data; modules: packages that may be missing; after: sections that it reads."""

    name: str
    title: str
    commands: Callable[[Settings], list[Command]]
    gather: Callable[[Settings], Found]
    needs: tuple[str, ...] = ()
    modules: tuple[str, ...] = ()
    after: tuple[str, ...] = ()

    def missing(self, settings: Settings) -> str | None:
        """Why it cannot be made here, or None."""
        if self.needs and settings.data is None:
            return f"needs --data with {', '.join(self.needs)}"
        absent = [path for path in self.needs if not Path(settings.at(path)).exists()]
        if absent:
            return f"--data has no {', '.join(absent)}"
        absent = [name for name in self.modules if not installed(name)]
        return f"needs the package {', '.join(absent)}" if absent else None


def installed(package: str) -> bool:
    return importlib.util.find_spec(package) is not None


# ---- running -------------------------------------------------------------------------------------------


def record_of(section: Section, settings: Settings) -> dict[str, Any]:
    """Of each command that has finished: itself, machine, versions, date, seconds."""
    path = settings.work / section.name / "record.json"
    return json.loads(path.read_text()) if path.is_file() else {}


def left(section: Section, settings: Settings) -> list[Command]:
    """The commands that have not finished, or not as they are now, and all that come after such a one."""
    record = record_of(section, settings)
    commands = section.commands(settings)
    for i, command in enumerate(commands):
        if record.get(command.name, {}).get("command") != settings.clean(str(command)):
            return commands[i:]
    return []


def execute(section: Section, settings: Settings, say: Callable[[str], None]) -> str | None:
    """Runs what is left of a section and records it; what went wrong, or None."""
    folder = settings.work / section.name
    folder.mkdir(parents=True, exist_ok=True)
    for command in left(section, settings):
        say(f"{section.name}: {settings.clean(str(command))}")
        log, start = folder / f"{command.name}.log", time.perf_counter()
        date = datetime.datetime.now(datetime.UTC).date().isoformat()
        status = run(command, folder, log, settings)
        if status:
            tail = log.read_text(errors="replace")[-1500:]
            return f"{section.name}: {command.name} ended with status {status} (all of it: {log})\n{tail}"
        seconds = round(time.perf_counter() - start, 1)
        done = {"command": settings.clean(str(command)), "date": date, "seconds": seconds, **machine()}
        record = {**record_of(section, settings), command.name: done}
        write(folder / "record.json", json.dumps(record, indent=1) + "\n")
    return None


def run(command: Command, folder: Path, log: Path, settings: Settings) -> int:
    """The exit status of a command, run in the repository."""
    python = {"python": [sys.executable], "bytelm": [sys.executable, "-m", "bytelm.cli"]}
    words = [part for word in command.words for part in python.get(word, [word])]
    paths = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]).strip(os.pathsep)
    environment = {**os.environ, "PYTHONPATH": paths}
    # The same programs are compiled again and again.
    environment.setdefault("JAX_COMPILATION_CACHE_DIR", str(settings.work / "compiled"))
    environment.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.5")
    with log.open("w") as said, (folder / (command.stdout or os.devnull)).open("w") as out:
        return subprocess.run(
            words, cwd=ROOT, env=environment, stdout=out if command.stdout else said, stderr=said,
            stdin=subprocess.DEVNULL, check=False,
        ).returncode  # fmt: skip


def machine() -> dict[str, Any]:
    """Versions, and the processor."""
    versions = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = "not installed"
    return {"machine": f"{os.cpu_count()} x {_cpu()}", "versions": versions}


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(": ", 1)[1] for line in lines if line.startswith("model name"))
    except (OSError, StopIteration, IndexError):
        return platform.processor() or platform.machine()


def write(path: Path, text: str) -> None:
    """Whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"part-{path.name}")
    part.write_text(text, encoding="utf-8")
    part.replace(path)


# ---- commands that several sections have -----------------------------------------------------------------


def script(name: str, script_: str, *words: object, stdout: str | None = None) -> Command:
    return Command(name, ("python", f"scripts/{script_}", *map(str, words)), stdout)


def excerpt(name: str, source: str, out: Path, size: int, **flags: int) -> Command:
    """The first bytes of the texts of a file, as a text file."""
    more = [part for flag, value in flags.items() for part in (f"--{flag}", value)]
    return script(name, "excerpt.py", source, "--out", out, "--bytes", size, *more)
