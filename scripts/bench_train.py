"""Training speed of the flat model against the same architecture in PyTorch, step by step in turn.

    pip install -e ".[torch]" && python scripts/bench_train.py [--rows 8] [--row 2048] [--repeats 3]

Both sides do a whole step of AdamW in float32 on the same symbols: forward, cross entropy, backward,
clipping, update. Each is a process of its own, set up as its users have it (ours as `train.py`), and waits
while the other works. Three variants: documents isolated (the default of the configs; PyTorch gets them as an
attention mask), plain causal rows, and a sliding window. Prints a line a variant with bytes a second of both
and the median of the ratios pair by pair. First checked: both compute the same loss from the same
parameters. --kept-pages gives PyTorch's process our setting of the C library too.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
from steps import stepper

from bytelm import models
from bytelm.config import Config, Evaluation, Training
from bytelm.lm import END, LAW, NUM_SYMBOLS
from bytelm.models import ByteTransformerConfig
from bytelm.parameters import Params, flat, nested
from bytelm.training.launch import versions
from bytelm.training.processor import keep_pages, use_all_cores

MODEL = ByteTransformerConfig(layers=4, width=384, heads=6)
VARIANTS = {
    "documents isolated": MODEL,
    "plain causal": dataclasses.replace(MODEL, isolate_documents=False),
    "window 512, isolated": dataclasses.replace(MODEL, window=512),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rows", type=int, default=8)
    parser.add_argument("--row", type=int, default=2048)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--document", type=int, default=700, help="mean symbols of a document")
    parser.add_argument("--kept-pages", action="store_true", help="in PyTorch's process too")
    parser.add_argument("--side", choices=["ours", "theirs"], help=argparse.SUPPRESS)
    parser.add_argument("--variant", choices=VARIANTS, help=argparse.SUPPRESS)
    parser.add_argument("--parameters", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.side:
        return side(args)
    for name, config in VARIANTS.items():
        with tempfile.TemporaryDirectory() as folder:
            shared = [*sys.argv, "--variant", name, "--parameters", f"{folder}/parameters.npz"]
            ours, theirs = Side("ours", shared), Side("theirs", shared)
            with ours.process, theirs.process:
                a, b = ours.step()[1], theirs.step()[1]  # compiles, warms up, and checks
                if abs(a - b) > 1e-3:
                    sys.exit(f"{name}: the two sides differ: loss {a} here, {b} in PyTorch")
                times = [(ours.step()[0], theirs.step()[0]) for _ in range(args.repeats)]
                for one in (ours, theirs):
                    one.process.stdin.close()
        ratio = statistics.median(t / j for j, t in times)
        speeds = [args.rows * args.row / statistics.median(x) for x in zip(*times, strict=True)]
        flops = 3 * models.flops(config, args.row)
        print(
            f"{name:<22} {speeds[0]:>7,.0f} B/s  PyTorch {speeds[1]:>7,.0f} B/s  ratio {ratio:.2f}"
            f"  ({speeds[0] * flops / 1e9:.0f} and {speeds[1] * flops / 1e9:.0f} GFLOP/s)",
            flush=True,
        )


class Side:
    """One side's process: a step for each line it is sent, after which it says seconds and loss."""

    def __init__(self, side: str, arguments: list[str]):
        command = [sys.executable, *arguments, "--side", side]
        pipe = subprocess.PIPE
        self.process: Any = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True)
        print(self.process.stdout.readline().strip(), flush=True)  # versions, when it is set up

    def step(self) -> tuple[float, float]:
        self.process.stdin.write("step\n")
        self.process.stdin.flush()
        seconds, loss = self.process.stdout.readline().split()
        return float(seconds), float(loss)


def side(args: argparse.Namespace) -> None:
    config, batch = VARIANTS[args.variant], batch_of(args)
    if args.side == "ours":
        keep_pages()
        use_all_cores(
            Config(model=MODEL, training=Training(rows=args.rows), evaluation=Evaluation(rows=args.rows))
        )
        run, params = jax_side(config, batch)
        arrays = flat(params)
        np.savez(args.parameters, **arrays)
        print(versions(), f"{sum(x.size for x in arrays.values()) / 1e6:.1f}M parameters", flush=True)
    else:
        import torch

        if args.kept_pages:
            keep_pages()
        torch.set_num_threads(os.cpu_count() or 1)
        run = torch_side(config, batch, nested(dict(np.load(args.parameters))))
        print(f"torch {torch.__version__}, {torch.get_num_threads()} threads", flush=True)
    for _ in sys.stdin:
        start = time.perf_counter()
        loss = run()
        print(time.perf_counter() - start, loss, flush=True)


def batch_of(args: argparse.Namespace) -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    symbols_BT = random.integers(0, 256, (args.rows, args.row + 1))
    starts_BT = random.random((args.rows, args.row)) < 1 / args.document
    return {
        "inputs": np.where(starts_BT, END, symbols_BT[:, :-1]).astype(np.uint16),
        "targets": symbols_BT[:, 1:].astype(np.uint16),
        "documents": np.cumsum(starts_BT, axis=1, dtype=np.int32) + 1,
    }


def jax_side(config: ByteTransformerConfig, batch: dict[str, np.ndarray]):
    """A function that does a step and returns its loss; the parameters at its start."""

    def jolted(params):
        """Since the start has zeros that would hide differences."""
        return jax.tree.map(lambda p: p + 0.02 * jax.random.normal(jax.random.key(p.size), p.shape), params)

    adam = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1.0, b2=0.95, weight_decay=0.1))
    step, params = stepper(config, lambda _: adam, batch, jolted)

    def run() -> float:
        figures = step()
        return float(figures["nats"] / figures["bytes"])

    return run, params


def torch_side(config: ByteTransformerConfig, batch: dict[str, np.ndarray], params: Params):
    """The same step in PyTorch, in its usual form: modules, scaled_dot_product_attention, fused AdamW."""
    import torch
    from torch import nn
    from torch.nn import functional as F

    D, N, K, H, T = config.width, config.heads, config.K, config.H, batch["inputs"].shape[1]
    half = H // 2
    angle = torch.arange(T)[:, None] * config.rope_base ** (-torch.arange(half) / half)
    cos, sin = angle.cos(), angle.sin()

    def rope(x):
        a, b = x.chunk(2, -1)
        return torch.cat([a * cos - b * sin, a * sin + b * cos], -1)

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.norms = nn.ModuleList([nn.RMSNorm(n, eps=1e-6) for n in (D, H, H, D)])
            shapes = {"query": (D, N * H), "key": (D, K * H), "value": (D, K * H), "out": (N * H, D)}
            shapes |= {"gate": (D, config.F), "up": (D, config.F), "down": (config.F, D)}
            self.w = nn.ModuleDict({name: nn.Linear(*shape, bias=False) for name, shape in shapes.items()})

        def forward(self, x, mask):
            B = x.shape[0]
            h = self.norms[0](x)
            q, k, v = (
                self.w[name](h).view(B, T, -1, H).transpose(1, 2) for name in ("query", "key", "value")
            )
            q, k = rope(self.norms[1](q)), rope(self.norms[2](k))
            a = F.scaled_dot_product_attention(
                q, k, v, attn_mask=mask, is_causal=mask is None, enable_gqa=K != N
            )
            x = x + self.w["out"](a.transpose(1, 2).reshape(B, T, N * H))
            h = self.norms[3](x)
            return x + self.w["down"](F.silu(self.w["gate"](h)) * self.w["up"](h))

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.table, self.norm = nn.Embedding(NUM_SYMBOLS, D), nn.RMSNorm(D, eps=1e-6)
            self.blocks = nn.ModuleList([Block() for _ in range(config.layers)])
            self.head = nn.Linear(D, LAW, bias=False)

        def forward(self, symbols, mask):
            x = self.table(symbols)
            for block in self.blocks:
                x = block(x, mask)
            return self.head(self.norm(x))

    model = Model()
    with torch.no_grad():
        model.table.weight.copy_(torch.tensor(params["table"]))
        model.norm.weight.copy_(torch.tensor(params["norm"]["scale"]))
        model.head.weight.copy_(torch.tensor(params["head"].T))
        for i, block in enumerate(model.blocks):
            ours = jax.tree.map(lambda x, i=i: torch.tensor(x[i]), params["blocks"])
            for norm, name in zip(block.norms, ("attention", "query", "key", "mlp"), strict=True):
                norm.weight.copy_(ours[f"norm_{name}"]["scale"])
            for name, linear in block.w.items():
                w = ours["mlp"][name] if name in ("gate", "up", "down") else ours[name]
                linear.weight.copy_(w.reshape(linear.in_features, linear.out_features).T)

    mask = None
    if config.isolate_documents or config.window is not None:
        t = torch.arange(T)
        distance = t[:, None] - t[None, :]
        mask = ((distance >= 0) & (distance < (config.window or T)))[None, None]
        if config.isolate_documents:
            document = torch.tensor(batch["documents"])
            mask = mask & (document[:, None, :, None] == document[:, None, None, :])
    symbols = torch.tensor(batch["inputs"].astype(np.int64))
    targets = torch.tensor(batch["targets"].astype(np.int64))
    optimizer = torch.optim.AdamW(model.parameters(), 1e-4, (0.9, 0.95), weight_decay=0.1, fused=True)

    def run() -> float:
        optimizer.zero_grad()
        loss = F.cross_entropy(model(symbols, mask).view(-1, LAW), targets.view(-1))
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        return loss.item()

    return run


if __name__ == "__main__":
    main()
