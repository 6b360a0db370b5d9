"""Runs the commands of README.md and docs/*.md as they are written, in a copy of the repository.

    python scripts/check_docs.py [--quick] [--data DIR] [PAGE ...]

Every block of ```bash or ```console (there, the lines after `$ `) has a comment before it that says what to
do:

    <!-- run: quick -->                 seconds: always run
    <!-- run: long -->                  run unless --quick
    <!-- run: never, needs a GPU -->    never run, and why

Further lines of the comment are commands that go before, which the reader does not see. They and the block
may name `$DATA`, the folder of --data, without which such a block is not run. What is not run is checked:
scripts, configs and flags must exist, and take the values that they are given. All blocks of a page run in
one copy, in their order. Exits with 1 where a command fails, a flag is wrong, or a block has no comment.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "scripts")]

from documented.blocks import Block, blocks  # noqa: E402

NOT_COPIED = ("runs", ".venv", "build", "dist", "__pycache__", "*.egg-info", ".*_cache", ".hypothesis")
PATIENCE = {"quick": 600.0, "long": 4 * 3600.0}  # seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("pages", nargs="*", type=Path, help="(default: README.md and docs/*.md)")
    parser.add_argument("--quick", action="store_true", help="check what takes long, in place of running it")
    parser.add_argument("--data", type=Path, help="$DATA of the commands")
    args = parser.parse_args()
    pages = args.pages or [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
    problems = [problem for page in pages for problem in check(page, args.quick, args.data, ROOT)]
    for problem in problems:
        print(f"check_docs.py: {problem}", file=sys.stderr)
    sys.exit(1 if problems else 0)


def check(page: Path, quick: bool, data: Path | None, root: Path) -> list[str]:
    """Runs or checks the blocks of a page, and says so; the problems found."""
    try:
        found = blocks(page.read_text(encoding="utf-8"))
    except ValueError as error:
        return [f"{page.name}: {error}"]
    problems = []
    with tempfile.TemporaryDirectory(prefix="check_docs-") as folder:
        copy = Path(folder, "repository")
        for block in found:
            where, start = f"{page.name}:{block.line}", time.perf_counter()
            runs = block.kind == "quick" or (block.kind == "long" and not quick)
            if runs and block.needs_data and data is None:
                print(f"{where}  not run, needs --data")
                runs = False
            if runs:
                if not copy.exists():
                    shutil.copytree(root, copy, ignore=shutil.ignore_patterns(".git", *NOT_COPIED))
                problem = run(block, copy, data)
            else:
                from documented.usage import wrong

                problem = next(filter(None, (wrong(command, root) for command in block.commands)), None)
            said = "ran" if runs else "checked"
            took = f"{time.perf_counter() - start:.1f} s" if runs else block.kind
            print(f"{where}  {said} ({took}){': FAILED' if problem else ''}", flush=True)
            print("".join(f"    {command}\n" for command in block.commands), end="", flush=True)
            if problem:
                problems.append(f"{where}: {problem}")
    return problems


def run(block: Block, copy: Path, data: Path | None) -> str | None:
    """Runs a block in the folder `copy`; what went wrong, or None."""
    # `bytelm` and `python` are those of this interpreter, on the code of the copy.
    bin_ = copy.parent / "bin"
    bin_.mkdir(exist_ok=True)
    for name, module in (("bytelm", " -m bytelm.cli"), ("python", "")):
        (bin_ / name).write_text(f'#!/bin/sh\nexec {sys.executable}{module} "$@"\n')
        (bin_ / name).chmod(0o755)
    path = os.pathsep.join([str(bin_), str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    environment = {**os.environ, "PATH": path, "PYTHONPATH": str(copy), "BYTELM_TRACEBACK": "1"}
    if data is not None:
        environment["DATA"] = str(data.resolve())
    script = "\n".join(["set -euo pipefail", *block.setup, *block.commands])
    process = subprocess.Popen(
        ["bash", "-c", script], cwd=copy, env=environment, stdout=subprocess.PIPE, text=True,
        stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    try:
        said, _ = process.communicate(timeout=PATIENCE[block.kind])
    except subprocess.TimeoutExpired:
        return f"took longer than {PATIENCE[block.kind]:.0f} s"
    finally:  # with all that it started
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    return None if not process.returncode else f"status {process.returncode}\n{said[-2000:]}"


if __name__ == "__main__":
    main()
