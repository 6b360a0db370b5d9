"""Speed of generation: a word-pooled model against the flat model as deep and wide as its word level.

    python scripts/bench_generate.py [--batch 1 16] [--bytes 300] [--context 2048] [--model.FIELD VALUE ...] \
        [--json FILE]

Both have random parameters, and the loop that generates (`bytelm.continuing`) is made to draw the bytes of
files of Python's standard library: of what is generated only the lengths of words matter to speed, and random
models would end words too often. Prints bytes a second of the whole batch after prompts of 64 bytes.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import time
from pathlib import Path

import numpy as np
from forced import PROMPT, forced

from bytelm.data import Stdlib
from bytelm.models import ByteTransformerConfig, WordPooledConfig
from bytelm.training.launch import versions


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 16])
    parser.add_argument("--bytes", type=int, default=300)
    parser.add_argument("--context", type=int, default=2048)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--width", type=int, default=384)
    parser.add_argument("--heads", type=int, default=6)
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    sizes = ("layers", "width", "heads", "dtype")
    fields = [f for f in dataclasses.fields(WordPooledConfig) if f.name not in sizes]
    for field in fields:
        kind = type(field.default) if field.default is not None else int
        parser.add_argument(f"--model.{field.name}", type=kind, default=field.default)
    args = vars(parser.parse_args())
    same = {name: args[name] for name in sizes}
    pooled = WordPooledConfig(**same, **{f.name: args[f"model.{f.name}"] for f in fields})
    print(versions())
    print(pooled)
    source = Stdlib().open("valid")
    texts = [source[i] for i in range(len(source))]
    texts = [text for text in texts if len(text) >= PROMPT + args["bytes"]]
    record = []
    for batch in args["batch"]:
        chosen = texts[:batch]
        data_BT = np.stack([np.frombuffer(t[: PROMPT + args["bytes"]], np.uint8) for t in chosen]).astype(
            np.int32
        )
        runs = {
            "flat": forced(ByteTransformerConfig(**same), data_BT, args["context"]),
            "pooled": forced(pooled, data_BT, args["context"]),
        }
        times: dict[str, list[float]] = {name: [] for name in runs}
        for run in runs.values():
            run()  # compiles
        for _ in range(args["repeats"]):
            for name, run in runs.items():
                start = time.perf_counter()
                run()
                times[name].append(time.perf_counter() - start)
        speed = {name: batch * args["bytes"] / sorted(t)[len(t) // 2] for name, t in times.items()}
        record.append({"batch": batch, **speed})
        print(f"batch {batch:>3}  flat {speed['flat']:>8,.0f} B/s  pooled {speed['pooled']:>8,.0f} B/s"
              f"  ratio {speed['pooled'] / speed['flat']:.2f}", flush=True)  # fmt: skip
    if args["json"]:
        args["json"].write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
