"""Bits per byte of tokenized models on the same texts: of their canonical tokens, and exactly of the bytes.

    python scripts/exact_bits.py MODEL [MODEL ...] --data FILE [--size 1000] [--json OUT]

The file is cut into texts of --size bytes, and each is scored with its end: as the canonical encoding, by the
token law as it is, and as bytes by exact conversion (canonical, local). Prints a line a model.
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import bytelm


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("models", nargs="+")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--size", type=int, default=1000, help="bytes of a text")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    args = parser.parse_args()
    data = args.data.read_bytes()
    pieces = [
        data[i : i + args.size].decode("utf-8", "ignore").encode() for i in range(0, len(data), args.size)
    ]
    texts = [piece for piece in pieces if piece]
    size = sum(map(len, texts))
    runs = []
    for path in args.models:
        lm: Any = bytelm.load(path)
        if not hasattr(lm, "canonical"):
            parser.error(f"{path}: reads bytes; this is about models of tokens")
        nats = {"canonical": canonical(lm, texts), "exact": -sum(score.sum() for score in lm.score(texts))}
        runs.append({"model": Path(path).name, **{name: x / math.log(2) / size for name, x in nats.items()}})
        shown = ", ".join(f"{name} {runs[-1][name]:.4f}" for name in nats)
        print(f"{runs[-1]['model']}: bits per byte: {shown}", flush=True)
    if args.json:
        args.json.write_text(json.dumps({"bytes": size, "size": args.size, "runs": runs}, indent=1) + "\n")


def canonical(lm: Any, texts: list[bytes]) -> float:
    """-log p of the canonical encodings of all texts and of their ends, in nats."""

    @jax.jit
    def scored(params: Any, tokens_BT: jax.Array) -> jax.Array:
        return jax.nn.log_softmax(lm.token_lm.logits(params, tokens_BT).astype(jnp.float32), axis=-1)

    total = 0.0
    for text in texts:
        row = [lm.bos, *lm.canonical.source.encode(text.decode())]
        tokens_1T = np.zeros((1, -(-len(row) // 128) * 128), np.int32)
        tokens_1T[0, : len(row)] = row
        law_TV = np.asarray(scored(lm.token_lm.params, tokens_1T))[0].astype(np.float64)
        total -= law_TV[np.arange(len(row) - 1), row[1:]].sum()
        total -= np.logaddexp.reduce(law_TV[len(row) - 1, list(lm.ends)])
    return float(total)


if __name__ == "__main__":
    main()
