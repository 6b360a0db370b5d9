"""What a report is made of: sections, their commands, and what is kept of each command that ran."""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import json
import os
import platform
import re
import shlex
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from common.machine import processor

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("bytelm", "jax", "flax", "optax", "orbax-checkpoint", "grain", "numpy", "tokenizers")
FIELDS = {"command": str, "date": str, "seconds": int | float, "machine": str, "versions": dict}  # shown
T = TypeVar("T")


class WorkError(Exception):
    """WORK is in use, or a file in it is not what this program writes."""


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
        """`text` without what is this machine's: DATA, WORK, and paths from the repository on.

        Whole components of a path alone, and of folders in each other the inner one.
        """
        named = {str(ROOT): ".", str(self.work): "WORK"} | ({str(self.data): "DATA"} if self.data else {})
        folders = "|".join(re.escape(folder) for folder in sorted(named, key=len, reverse=True))
        alone = rf"(?<![\w.+@%~-])({folders})(?!\.*[\w+=@%~-])(/?)"
        return re.sub(alone, lambda found: f"{named[found[1]]}{found[2]}".removeprefix("./"), text)


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


# ---- records -------------------------------------------------------------------------------------------


def record_of(name: str, settings: Settings) -> dict[str, Any]:
    """Of each command of a section that has finished: FIELDS, its key, and when it ended.

    Raises WorkError where the file is not such a record.
    """
    path = settings.work / name / "record.json"
    record = read_object(path)
    for command, one in record.items():
        if not isinstance(one, dict) or not all(isinstance(one.get(f), t) for f, t in FIELDS.items()):
            raise WorkError(f"{path}: {command} has not {', '.join(FIELDS)}; mend the file or delete it")
    return record


def read_object(path: Path) -> dict[str, Any]:
    """What a JSON file holds; nothing where there is none. Raises WorkError."""
    if not path.exists():
        return {}
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise WorkError(f"{path} cannot be read: {error}; mend the file or delete it") from error
    if not isinstance(found, dict):
        raise WorkError(f"{path} holds no object of JSON; mend the file or delete it")
    return found


def published(record: dict[str, Any]) -> dict[str, Any]:
    """A record without what is only to compare."""
    return {name: {f: one[f] for f in FIELDS} for name, one in record.items()}


def left(section: Section, settings: Settings) -> list[tuple[Command, str]]:
    """The commands that have not finished, or not as they are now, and all that come after such a one.

    Each with its key, a hash of all that makes it another: the command with its paths but without --jobs, and
    what is recorded of the sections that its section reads.
    """
    record = record_of(section.name, settings)
    before = [record_of(name, settings) for name in section.after]
    keys = [
        hashlib.sha256(json.dumps([str(command), before], sort_keys=True).encode()).hexdigest()
        for command in section.commands(replace(settings, jobs=1))
    ]
    found = list(zip(section.commands(settings), keys, strict=True))
    for i, (command, key) in enumerate(found):
        if record.get(command.name, {}).get("key") != key:
            return found[i:]
    return []


def machine() -> dict[str, Any]:
    """Versions, that of the code too, and the processor."""
    versions = {"code": code(), "python": platform.python_version()}
    for name in PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = "not installed"
    return {"machine": f"{os.cpu_count()} x {processor()}", "versions": versions}


def code() -> str:
    """The beginning of a hash of all that trains and computes: records made by other code can be told."""
    files = [ROOT / "train.py", *(p for name in ("bytelm", "configs") for p in (ROOT / name).rglob("*.py"))]
    found = hashlib.sha256()
    for path in sorted(files):
        found.update(f"{path.relative_to(ROOT)}\0".encode() + path.read_bytes())
    return found.hexdigest()[:8]


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
    more = [part for flag, value in flags.items() for part in (f"--{flag.replace('_', '-')}", value)]
    return script(name, "excerpt.py", source, "--out", out, "--bytes", size, *more)
