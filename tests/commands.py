"""The `bytelm` command in the process of a test, and Python in a process of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

from bytelm.cli import main

ROOT = Path(__file__).parents[1]


def bytelm(capture: Any, *args: object) -> tuple[Any, Any, Any]:
    """Exit code, standard output and standard error, the last two as `capture` (of pytest) has them."""
    try:
        code = main([str(arg) for arg in args])
    except SystemExit as exit_:
        code = exit_.code
    return code, *capture.readouterr()


def python(code: str, **how: Any) -> subprocess.CompletedProcess[str]:
    """Runs `code` from the repository; `how` as `subprocess.run` takes it."""
    command = [sys.executable, "-c", code]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, **how)
