"""Speed of the input pipeline: documents in memory -> shuffled, packed batches, by size of document.

    python scripts/bench_input.py [--rows 64] [--length 4096] [--piece 8192] [--seconds 2]

`one core` takes batches with the process bound to one core, the reading thread included: what it costs.
`prefetch` lets the thread have a core of its own: what a training step sees. MB/s are 10^6 targets a
second. `resume` is the time from opening a stream at a saved place to its first batch.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import time
from importlib.metadata import version

import numpy as np
from common.machine import processor

from bytelm.data import Documents, Mixture, Stdlib, train_stream
from bytelm.data.documents import TableBuilder

CORPUS = 32_000_000  # bytes of each made corpus


def made(size: int) -> Documents:
    """A corpus in memory of documents of about `size` random bytes."""
    rng = np.random.default_rng(size)
    builder, left = TableBuilder(), CORPUS
    while left > 0:
        builder.add(rng.bytes(int(rng.integers(size // 2, size + size // 2))))
        left -= size
    return builder.build(f"{size:,} B", "")


def measure(source: Documents, seconds: float, **stream) -> tuple[float, float, float]:
    """(targets a second on one core, on all, seconds to resume)."""
    cores = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else None
    rates = []
    for bound in (True, False):
        if cores:
            os.sched_setaffinity(0, {min(cores)} if bound else cores)
        with train_stream(source, seed=0, **stream) as batches:
            next(batches)
            start, targets = time.perf_counter(), 0
            while time.perf_counter() - start < seconds:
                targets += next(batches)["targets"].size
            rates.append(targets / (time.perf_counter() - start))
            state = batches.get_state()
    start = time.perf_counter()
    with train_stream(source, seed=0, **stream) as batches:
        batches.set_state(state)
        next(batches)
        resume = time.perf_counter() - start
    return rates[0], rates[1], resume


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=64)
    parser.add_argument("--length", type=int, default=4096)
    parser.add_argument("--piece", type=int, default=8192)
    parser.add_argument("--seconds", type=float, default=2.0, help="of each measurement")
    args = parser.parse_args()

    packages = ", ".join(f"{name} {version(name)}" for name in ("grain", "numpy"))
    print(
        f"{platform.machine()} {processor()}, {os.cpu_count()} cores, "
        f"Python {platform.python_version()}, {packages}"
    )
    print(f"rows {args.rows}, length {args.length:,}, batches of {args.rows * args.length / 1e6:.2f} MB")
    print(f"{'documents':24} {'pieces':>7} {'one core':>13} {'prefetch':>13} {'resume':>9}")
    made_up = {size: made(size) for size in (200, 2_000, 20_000, 200_000)}
    sources = {f"{size:,} B": source for size, source in made_up.items()}
    sources["mix of 2,000 and 20,000 B"] = Mixture((made_up[2_000], made_up[20_000]), (1.0, 1.0))
    sources["standard library"] = Stdlib().open("train")
    for name, source in sources.items():
        for piece in (None, args.piece):
            one, all_, resume = measure(source, args.seconds, rows=args.rows, length=args.length, piece=piece)
            print(
                f"{name:24} {piece or 'whole':>7} {one / 1e6:8.1f} MB/s {all_ / 1e6:8.1f} MB/s "
                f"{resume * 1e3:6.1f} ms"
            )
            sys.stdout.flush()


if __name__ == "__main__":
    main()
