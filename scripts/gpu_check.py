"""One command that says whether an accelerator computes what it should, and how fast: under ten minutes.

    python scripts/gpu_check.py [--out gpu_check] [--parts NAME ...] [--tiny] [--minutes 9.5]

Needs jax, flax, optax, orbax, einops and numpy only, and tokenizers for exact conversion. Each part runs in a
process of its own, so that one that fails, or asks for too much memory, is written down and the rest goes on;
what there is no time for is named. First correctness: attention of every kind and its gradient against
float64 on the host, by cuDNN's kernel where training would take that, and a training step against the CPU's.
Then speed: training with AdamW (bytes a second, the share of the peak in operations of matrices by formula,
the parts of a step, peak memory); generation of given bytes; and what exact conversion asks of a tokenized
model, a tree of tokens and the masses of its vocabulary (device work only). Writes OUT.json and OUT.md.
`--tiny` runs the same parts at sizes for a CPU.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

# The parts, in order: a function of that name in a file of scripts/checking/, imported by its process alone.
PARTS = {
    "attention": "attention",
    "step_against_cpu": "training",
    "train_flat_25m": "training",
    "train_flat_100m": "training",
    "train_words_100m": "training",
    "train_words_1b": "training",
    "train_bpe_100m": "training",
    "generate": "generation",
    "tree_gpt2": "conversion",
    "tree_7b": "conversion",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("gpu_check"))
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--minutes", type=float, default=9.5)
    parser.add_argument("--one", help=argparse.SUPPRESS)  # this is the process of a part
    args = parser.parse_args()
    if args.one:
        part = getattr(importlib.import_module(f"checking.{PARTS[args.one]}"), args.one)
        print("RESULT " + json.dumps(part(args.tiny)), flush=True)
        return
    until, report = time.monotonic() + 60 * args.minutes, {}
    for name in args.parts:
        began = time.monotonic()
        report[name] = run_apart(name, args.tiny, until - began)
        report[name]["wall_seconds"] = round(time.monotonic() - began, 1)
        print(f"{name}: {json.dumps(report[name])}", flush=True)
        args.out.with_suffix(".json").write_text(json.dumps(report, indent=1) + "\n")
        args.out.with_suffix(".md").write_text(markdown(report))
    print(markdown(report))
    sys.exit(1 if any("error" in part for part in report.values()) else 0)


def run_apart(name: str, tiny: bool, seconds: float) -> dict[str, Any]:
    """A part's result, or ``error``."""
    if seconds < 5:
        return {"error": "not run: the time was used up"}
    command = [sys.executable, __file__, "--one", name, *(["--tiny"] if tiny else [])]
    environment = {"JAX_COMPILATION_CACHE_DIR": str(Path.cwd() / ".jax_cache"), **os.environ}
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=min(seconds, 150), env=environment, check=False
        )
    except subprocess.TimeoutExpired as late:
        return {"error": f"not over after {late.timeout:.0f} s"}
    found = [line for line in done.stdout.splitlines() if line.startswith("RESULT ")]
    if done.returncode or not found:
        return {
            "error": f"status {done.returncode}: " + " | ".join(done.stderr.strip().splitlines()[-4:])[-600:]
        }
    return json.loads(found[-1].removeprefix("RESULT "))


def markdown(report: dict[str, dict[str, Any]]) -> str:
    """A table: a line a part, whatever its columns are."""
    lines = ["| part | result |", "|---|---|"]
    for name, part in report.items():
        lines.append(f"| {name} | {'; '.join(f'{key} {_short(x)}' for key, x in part.items())} |")
    return "\n".join(lines) + "\n"


def _short(x: Any) -> str:
    return f"{x:,.4g}" if isinstance(x, float) else f"{x:,}" if isinstance(x, int) else str(x)


if __name__ == "__main__":
    main()
