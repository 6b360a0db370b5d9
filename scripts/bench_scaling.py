"""How the time of a training step grows: with the documents in a row, and with the length of rows.

    python scripts/bench_scaling.py [--rows 2] [--row 2048] [--documents 1 4 16 64 256] \
        [--lengths 512 1024 2048 4096 8192] [--repeats 5] [--out FILE.json]

Documents: one row length, cut into more and more documents of one size; a flat model whose attention sees the
document, one with a window, and a word-pooled one. The time should not grow. Lengths: the same number of
symbols in fewer and longer rows; a model whose attention sees the row pays for each symbol more and more, a
window and a byte level do not. Prints tables of milliseconds a step, the median of repeats in turn, and the
slope of log(time a symbol) against log(T) over the longer half: 0 is linear in T, 1 quadratic.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax

from bytelm import models
from bytelm.lm import END
from bytelm.models import ByteTransformerConfig, WordPooledConfig
from bytelm.training.launch import versions
from bytelm.training.processor import keep_pages
from bytelm.training.step import make_train_step, new_state


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rows", type=int, default=2, help="of the first table")
    parser.add_argument("--row", type=int, default=2048, help="of the first table")
    parser.add_argument("--documents", type=int, nargs="+", default=[1, 4, 16, 64, 256])
    parser.add_argument("--lengths", type=int, nargs="+", default=[512, 1024, 2048, 4096, 8192])
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    if max(args.documents) > args.row:
        parser.error(f"--documents {max(args.documents)}: a row of {args.row} does not hold so many")
    keep_pages()
    print(versions())
    report: dict[str, Any] = {"documents": {}, "lengths": {}}
    for name, make in kinds(args).items():
        batches = [made_up(args.rows, args.row, count) for count in args.documents]
        report["documents"][name] = milliseconds(stepper(make(args.row)), batches, args.repeats)
        table(name, "documents", args.documents, report["documents"][name])
    symbols = max(args.lengths)
    for name, make in kinds(args).items():
        found = []
        for length in args.lengths:
            batch = made_up(symbols // length, length, documents=1)
            found += milliseconds(stepper(make(length)), [batch], args.repeats)
        report["lengths"][name] = found
        half = len(found) // 2
        slope = float(np.polyfit(np.log(args.lengths[half:]), np.log(found[half:]), 1)[0])
        table(name, "T", args.lengths, found, f"  slope {slope:+.2f}")
    if args.out:
        args.out.write_text(json.dumps(vars(args) | report, indent=1, default=str) + "\n")


def kinds(args: argparse.Namespace) -> dict[str, Any]:
    """Models by name, as functions of the row's length."""
    size = {"layers": args.layers, "width": args.width, "heads": max(1, args.width // 64)}
    byte = {"byte_width": max(16, args.width // 2), "byte_heads": 1, "decoder_layers": 1}
    return {
        "flat": lambda T: ByteTransformerConfig(**size),
        "window 128": lambda T: ByteTransformerConfig(**size, window=128),
        # Of the words of a row only as many as are in the text, so that its work is of their number.
        "words": lambda T: WordPooledConfig(**size, **byte, words=max(1, T // 4)),
        # The byte level alone: few words, whatever the row.
        "byte level": lambda T: WordPooledConfig(**size, **byte, words=64),
    }


def made_up(rows: int, length: int, documents: int) -> dict[str, np.ndarray]:
    """Rows of so many documents of one size each, of words of random letters."""
    random = np.random.default_rng(0)
    letters = random.integers(97, 123, (rows, length + 1))
    symbols = np.where(random.random((rows, length + 1)) < 0.18, 32, letters).astype(np.uint16)
    number = np.arange(length) * documents // length
    begins = np.flatnonzero(np.diff(number, prepend=-1))
    symbols[:, begins] = END
    return {
        "inputs": symbols[:, :-1],
        "targets": symbols[:, 1:],
        "documents": np.broadcast_to(number + 1, (rows, length)).astype(np.int32),
    }


def stepper(config: Any) -> Any:
    """A compiled step of AdamW, as a function of a batch that returns when it is done."""
    optimizer = optax.adamw(1.0)
    make = lambda key: models.build(config, key)  # noqa: E731
    model = jax.eval_shape(make, jax.random.key(0))
    step = jax.jit(make_train_step(model, optimizer, 1, None), donate_argnums=0)
    box = [jax.jit(lambda key: new_state(make, optimizer, key, False))(jax.random.key(0))]

    def run(batch: dict[str, np.ndarray]) -> None:
        box[0], figures = step(box[0], batch, np.float32(1e-4), None)
        jax.block_until_ready(figures)

    return run


def milliseconds(step: Any, batches: list[dict[str, np.ndarray]], repeats: int) -> list[float]:
    """The median for each batch, which take turns."""
    step(batches[0])  # compiles
    times: list[list[float]] = [[] for _ in batches]
    for _ in range(repeats):
        for batch, found in zip(batches, times, strict=True):
            began = time.perf_counter()
            step(batch)
            found.append(1e3 * (time.perf_counter() - began))
    return [statistics.median(found) for found in times]


def table(name: str, what: str, values: list[int], found: list[float], note: str = "") -> None:
    cells = "  ".join(f"{value}: {ms:,.1f} ms" for value, ms in zip(values, found, strict=True))
    print(f"{name:<12} {what:<10} {cells}{note}", flush=True)


if __name__ == "__main__":
    main()
