"""Running the commands of a section: one process group at a time, which ends with this process."""

from __future__ import annotations

import contextlib
import datetime
import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from reporting.plan import (
    ROOT,
    Command,
    Section,
    Settings,
    WorkError,
    left,
    machine,
    read_object,
    record_of,
    write,
)  # fmt: skip

NOTED = 30.0  # seconds between two notes of how long a command runs
GRACE = 30.0  # seconds that a command has for its last checkpoint when it is stopped


def execute(section: Section, settings: Settings, say: Callable[[str], None]) -> str | None:
    """Runs what is left of a section and records it; what went wrong, or None.

    What is left is no longer recorded when the first of it starts: it may write over what the others read.
    """
    path, waiting = settings.work / section.name / "record.json", left(section, settings)
    commands = [command.name for command in section.commands(settings)]
    kept = commands[: len(commands) - len(waiting)]
    record = {name: one for name, one in record_of(section.name, settings).items() if name in kept}
    if waiting:
        write(path, json.dumps(record, indent=1) + "\n")
    for command, key in waiting:
        say(f"{section.name}: {settings.clean(str(command))}")
        date = datetime.datetime.now(datetime.UTC).date().isoformat()
        log = path.with_name(f"{command.name}.log")
        status, seconds = attempt(command, key, log, settings)
        if status:
            tail = log.read_text(errors="replace")[-1500:]
            return f"{section.name}: {command.name} ended with status {status} (all of it: {log})\n{tail}"
        done = {"command": settings.clean(str(command)), "date": date, "seconds": seconds, **machine()}
        record[command.name] = {**done, "key": key, "ended": time.time()}
        write(path, json.dumps(record, indent=1) + "\n")
    return None


def attempt(command: Command, key: str, log: Path, settings: Settings) -> tuple[int, float]:
    """Exit status, and seconds with those of earlier attempts that did not end well.

    They are written down while it runs, so a kill of this process loses no more than NOTED seconds.
    """
    path = log.with_name("unfinished.json")
    earlier = read_object(path)
    before = float(earlier.get("seconds", 0)) if earlier.get("key") == key else 0.0
    start = time.perf_counter()

    def note() -> float:
        seconds = round(before + time.perf_counter() - start, 1)
        write(path, json.dumps({"key": key, "seconds": seconds}) + "\n")
        return seconds

    try:
        status = run(command, log, settings, note)
    finally:
        seconds = note()
    if not status:
        path.unlink()
    return status, seconds


def run(command: Command, log: Path, settings: Settings, note: Callable[[], object]) -> int:
    """The exit status of a command, run in the repository. Whatever is raised meanwhile also ends it."""
    python = {"python": [sys.executable], "bytelm": [sys.executable, "-m", "bytelm.cli"]}
    words = [part for word in command.words for part in python.get(word, [word])]
    paths = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]).strip(os.pathsep)
    environment = {**os.environ, "PYTHONPATH": paths}
    # The same programs are compiled again and again.
    environment.setdefault("JAX_COMPILATION_CACHE_DIR", str(settings.work / "compiled"))
    environment.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.5")
    with log.open("w") as said, (log.parent / (command.stdout or os.devnull)).open("w") as out:
        process = subprocess.Popen(
            words, cwd=ROOT, env=environment, stdout=out if command.stdout else said, stderr=said,
            stdin=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
        try:
            while True:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    return process.wait(NOTED)
                note()
        except BaseException:
            stop(process)
            raise


def stop(process: subprocess.Popen) -> None:
    """Ends a process and all that it started: asks them, and kills what is there after GRACE seconds."""
    with contextlib.suppress(ProcessLookupError, PermissionError):  # none is left
        try:
            os.killpg(process.pid, signal.SIGTERM)
            end = time.monotonic() + GRACE
            while time.monotonic() < end:
                process.poll()
                os.killpg(process.pid, 0)
                time.sleep(0.05)
        finally:
            os.killpg(process.pid, signal.SIGKILL)
    process.wait()


@contextlib.contextmanager
def alone(work: Path) -> Iterator[None]:
    """Nobody else works in `work` meanwhile, and SIGTERM and SIGHUP raise SystemExit. Raises WorkError."""

    def ended(number: int, _: object) -> None:
        sys.exit(128 + number)

    work.mkdir(parents=True, exist_ok=True)
    with (work / "lock").open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise WorkError(
                f"{work}: another call is at work there; wait, or choose another --work"
            ) from None
        heard = [n for n in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(n) != signal.SIG_IGN]  # nohup
        old = {number: signal.signal(number, ended) for number in heard}
        try:
            yield
        finally:
            for number, handler in old.items():
                signal.signal(number, handler)
