"""Training speed of a word-pooled model against the flat model as deep and wide as its word level.

    python scripts/bench_words.py [--rows 4] [--row 2048] [--steps 3] [--model.FIELD VALUE ...] [--json FILE]

Whole steps of Muon (forward, backward, clipping, update) on rows of Python's standard library, the two models
in turn. The pooled one has rule, words, byte layers and n-grams of configs/default.py.
Prints FLOPs a byte, bytes a second, and their ratios.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import jax
from steps import stepper

from bytelm import models
from bytelm.config import Config, Evaluation, Optimizer, Training
from bytelm.data import Stdlib, train_stream
from bytelm.models import ByteTransformerConfig, WordPooledConfig
from bytelm.parameters import matrices_of
from bytelm.training.launch import versions
from bytelm.training.optimizer import make_optimizer
from bytelm.training.processor import keep_pages, use_all_cores

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from configs.default import config as default  # noqa: E402

SHIPPED = ("rule", "words", "encoder_layers", "decoder_layers", "ngrams")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rows", type=int, default=4)
    parser.add_argument("--row", type=int, default=2048)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--width", type=int, default=384)
    parser.add_argument("--heads", type=int, default=6)
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--only", choices=["flat", "pooled"])
    parser.add_argument("--json", type=Path, help="also write the figures here")
    parser.add_argument("--trace", help="write a profile of one step of each to this folder")
    fields = [
        f for f in dataclasses.fields(WordPooledConfig) if f.name not in ("layers", "width", "heads", "dtype")
    ]
    for field in fields:
        kind = type(field.default) if field.default is not None else int
        value = getattr(default.model, field.name) if field.name in SHIPPED else field.default
        parser.add_argument(f"--model.{field.name}", type=kind, default=value)
    args = vars(parser.parse_args())
    keep_pages()
    use_all_cores(Config(training=Training(rows=args["rows"]), evaluation=Evaluation(rows=args["rows"])))
    sizes = {name: args[name] for name in ("layers", "width", "heads", "dtype")}
    configs: dict[str, Any] = {
        "flat": ByteTransformerConfig(**sizes),
        "pooled": WordPooledConfig(**sizes, **{f.name: args[f"model.{f.name}"] for f in fields}),
    }
    print(versions())
    print(configs["pooled"])
    length = args["row"]
    with train_stream(
        Stdlib().open("train"), rows=args["rows"], length=length, seed=0, piece=length
    ) as stream:
        batch = next(stream)
    names = [args["only"]] if args["only"] else list(configs)
    muon = lambda model: make_optimizer(Optimizer(), matrices_of(model))  # noqa: E731
    steps = {name: stepper(configs[name], muon, batch)[0] for name in names}
    times: dict[str, list[float]] = {name: [] for name in names}
    for step in steps.values():
        step()  # compiles
    if args["trace"]:
        with jax.profiler.trace(args["trace"]):
            for step in steps.values():
                step()
    for _ in range(args["steps"]):
        for name, step in steps.items():
            start = time.perf_counter()
            figures = step()
            times[name].append(time.perf_counter() - start)
    speed, record = {}, {}
    for name in names:
        speed[name] = args["rows"] * length / statistics.median(times[name])
        flops = models.flops(configs[name], length)
        record[name] = {"bytes_per_second": speed[name], "flops_a_byte_forward": flops}
        print(f"{name:<7} {flops / 1e6:>7.2f} MFLOPs a byte forward  {speed[name]:>9,.0f} B/s"
              f"  {speed[name] * 3 * flops / 1e9:,.0f} GFLOP/s", flush=True)  # fmt: skip
    if "pooled" in names:
        print(f"bytes without loss: {float(figures['lost'] / (figures['bytes'] + figures['lost'])):.2%}")
    if len(names) == 2:
        at = models.flops(configs["pooled"], length) / models.flops(configs["flat"], length)
        as_published = dataclasses.replace(configs["pooled"], words=192)
        ratio = models.flops(as_published, 940) / models.flops(configs["flat"], 940)
        print(f"FLOPs {at:.2f} of the flat model's, {ratio:.2f} at 940 bytes in 192 words; "
              f"speed {speed['pooled'] / speed['flat']:.2f} times")  # fmt: skip
    if args["json"]:
        args["json"].write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
