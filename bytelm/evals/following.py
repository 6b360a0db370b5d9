"""Following a program that runs: what it is given, what it writes, and how it ends."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

PASSED = 77
"""The exit status of a `checked` program that ran to its end; an early `exit()` is not one."""

Verdict = Literal["passed", "failed", "timeout", "output", "refused"]


@dataclass(frozen=True)
class Outcome:
    """How a program ended: `passed` if its status is `PASSED`, and what it wrote, cut at its limits."""

    verdict: Verdict
    status: int | None
    output: bytes
    errors: bytes
    seconds: float


def followed(
    command: Sequence[str | bytes], stdin: bytes, folder: str, *, seconds: float, output: int
) -> Outcome:
    """Runs a command in `folder`, feeds it and reads what it writes, until it ends or its time is over, or it
    has written more than `output` bytes."""
    began = time.monotonic()
    process = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={"PATH": "/usr/bin:/bin:/usr/sbin:/sbin"},
        cwd=folder,
        start_new_session=True,
        bufsize=0,
    )
    verdict: Verdict = "failed"
    written, errors = bytearray(), bytearray()
    try:
        verdict = _exchanged(process, stdin, written, errors, began + seconds, output)
    finally:
        # The leader's death ends the PID namespace; without one the group is all there is to end.
        for end in (lambda: os.killpg(process.pid, signal.SIGKILL), process.kill):
            with contextlib.suppress(ProcessLookupError, PermissionError):
                end()
        status = process.wait()
        for stream in (process.stdin, process.stdout, process.stderr):
            if stream is not None:
                stream.close()
    if verdict == "failed" and status == PASSED:
        verdict = "passed"
    return Outcome(
        verdict,
        status if verdict in ("passed", "failed") else None,
        bytes(written[:output]),
        bytes(errors[-4096:]),
        time.monotonic() - began,
    )


def _exchanged(
    process: subprocess.Popen[bytes],
    stdin: bytes,
    output: bytearray,
    errors: bytearray,
    until: float,
    most: int,
) -> Verdict:
    """Moves bytes until the program has ended ("failed", for now) or went too far."""
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None
    streams = {process.stdout.fileno(): output, process.stderr.fileno(): errors}
    to = process.stdin.fileno()
    os.set_blocking(to, False)
    waiting = memoryview(stdin)
    if not waiting:
        process.stdin.close()
    while streams or process.poll() is None:
        left = until - time.monotonic()
        if left <= 0:
            return "timeout"
        if not streams:  # it closed what it writes to, and goes on
            time.sleep(min(left, 0.01))
            continue
        writers = [to] if waiting else []
        ready, free, _ = select.select(list(streams), writers, [], left)
        if free:
            try:
                waiting = waiting[os.write(to, waiting[:65536]) :]
            except BlockingIOError:
                pass
            except BrokenPipeError:
                waiting = waiting[:0]
            if not waiting:
                process.stdin.close()
        for stream in ready:
            data = os.read(stream, 65536)
            streams[stream] += data
            if not data:
                del streams[stream]
            elif stream == process.stderr.fileno():
                del errors[:-4096]
        if len(output) > most:
            return "output"
    return "failed"
