"""What a run says on the screen when it starts, and what came of it."""

from __future__ import annotations

import json
import math
from collections import Counter
from pathlib import Path
from typing import Any

import jax
import numpy as np

from bytelm import models
from bytelm.config import Config
from bytelm.training import hosts, metrics


def start(
    log: metrics.Log,
    config: Config,
    params: Any,
    mesh: Any,
    source: Any,
    held_out: Any,
    flops: float,
    note: str,
    a_target: float,
) -> None:
    """One table: parameters, mesh, batch, FLOPs, memory. `a_target`: bytes that a target stands for."""
    flat = jax.tree_util.tree_flatten_with_path(params)[0]
    sizes: dict[str, int] = {}
    for keys, x in flat:
        sizes[keys[0].key] = sizes.get(keys[0].key, 0) + int(np.prod(x.shape))
    total = sum(sizes.values())
    copies = 4 + (config.training.ema is not None)  # parameters, gradient, two of the optimizer's
    parts = ", ".join(f"{name} {n:,}" for name, n in sizes.items())
    batch = config.training.rows * config.data.row
    of = "bytes" if a_target == 1.0 else f"tokens, about {batch * a_target:,.0f} bytes,"
    rows = [
        ("parameters", f"{total:,} ({parts})"),
        ("mesh", ", ".join(f"{axis} {n}" for axis, n in mesh.shape.items())),
        ("batch", f"{config.training.rows} rows x {config.data.row} = {batch:,} {of} a step"),
        ("FLOPs", f"{flops / 1e6:,.1f} M a byte of training"),
        ("memory", f"about {total * 4 * copies / 1e6:,.0f} MB for parameters and optimizer, over the mesh"),
        ("data", _described(source)),
        ("held out", _described(held_out)),
        ("start", note),
    ]
    for name, text in rows:
        log.say(f"{name:<11} {text}")


def _described(source: Any) -> str:
    text = f"{source.name}: {len(source):,} documents"
    if labels := getattr(source, "labels", None):
        counts = Counter(label.value for label in labels).most_common()
        text += "; " + ", ".join(f"{count:,} {label!r}" for label, count in counts[:10])
        text += f" and {len(counts) - 10:,} labels more" if len(counts) > 10 else ""
    return text + "".join(f"; {count:,} skipped: {reason}" for reason, count in source.skipped.items())


def end(
    log: metrics.Log,
    folder: Path,
    config: Config,
    held_out: Any,
    a_target: float,
    *,
    step: int,
) -> None:
    """The result: bits per byte or accuracy, marks to hold against it, a sample, the run's folder.

    A tokenized model's figure is of the canonical tokens of the bytes, an upper bound of the bytes' own.
    """
    if not hosts.leads():
        return
    if step < config.training.steps:
        log.say(f"stopped and saved at step {step}; the same command goes on from there")
        return
    metrics.plot(folder)
    lines = [json.loads(x) for x in (folder / "metrics.jsonl").read_text().splitlines()]
    if judged := [line for line in lines if "eval/accuracy" in line]:
        last = judged[-1]
        low, high = last["eval/accuracy_low"], last["eval/accuracy_high"]
        print(
            f"accuracy {last['eval/accuracy']:.1%} (95 %: {low:.1%} to {high:.1%}) on "
            f"{last['eval/documents']:,} held-out documents, {last['eval/nats_per_label']:.3f} nats a label; "
            f"{last['eval/cut_share']:.0%} of them longer than a row of {config.data.row} and cut at its end"
        )
    if config.evaluation.marks:
        from bytelm.evals.compressors import marks

        row = round(config.data.row * a_target)
        documents = (held_out[i] for i in range(len(held_out)))
        for name, bits in marks(documents, row, config.evaluation.final_max_bytes).items():
            print(f"{name:<28} {bits:.3f} bits per byte")
    if evaluated := [line for line in lines if "eval/bits_per_byte" in line]:
        last = evaluated[-1]
        bits, error, end = (last[f"eval/{x}"] for x in ("bits_per_byte", "standard_error", "bits_per_end"))
        canonical = "eval/canonical_tokens_bits_per_byte" in last
        of = "this model, canonical tokens" if canonical else "this model"
        if not models.is_causal(config.model):
            of = "this model, hidden bytes"
        print(
            f"{of:<28} {math.nan if bits is None else bits:.3f} bits per byte"
            + (f" (standard error {error:.3f})" if error is not None else "")
            + f" on {last['eval/bytes']:,} held-out bytes in rows of {config.data.row}"
            + (f"; an end of text costs {end:.1f} bits more" if end is not None else "")
        )
    samples = folder / "samples.jsonl"
    if samples.exists() and (drawn := samples.read_text().splitlines()):
        print(f"sample:\n{json.loads(drawn[-1])['text']}\n")
    print(f"run: {folder}")
