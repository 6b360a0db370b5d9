"""Training speed of the flat model against the same architecture in PyTorch, in turn, in one process.

    pip install -e ".[torch]" && python scripts/bench_train.py [--rows 8] [--row 2048] [--repeats 3]

Both sides do a whole step of AdamW in float32 on the same symbols: forward, cross entropy, backward,
clipping, update. Three variants: documents isolated (the default of the configs; PyTorch gets them as an
attention mask), plain causal rows, and a sliding window. Prints a line a variant with bytes a second of
both and the median of the ratios pair by pair. First checked: both compute the same loss from the same
parameters.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import statistics
import sys
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from bytelm import layers, models
from bytelm.lm import END, LAW, NUM_SYMBOLS
from bytelm.models import ByteTransformerConfig
from bytelm.training.launch import keep_pages, versions
from bytelm.training.step import make_train_step, new_state

MODEL = ByteTransformerConfig(layers=4, width=384, heads=6)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rows", type=int, default=8)
    parser.add_argument("--row", type=int, default=2048)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--document", type=int, default=700, help="mean symbols of a document")
    args = parser.parse_args()
    try:
        import torch
    except ImportError:
        sys.exit('this compares with PyTorch: pip install -e ".[torch]"')
    torch.set_num_threads(os.cpu_count() or 1)

    random = np.random.default_rng(0)
    symbols_BT = random.integers(0, 256, (args.rows, args.row + 1))
    starts_BT = random.random((args.rows, args.row)) < 1 / args.document
    batch = {
        "inputs": np.where(starts_BT, END, symbols_BT[:, :-1]).astype(np.uint16),
        "targets": symbols_BT[:, 1:].astype(np.uint16),
        "documents": np.cumsum(starts_BT, axis=1, dtype=np.int32) + 1,
    }
    print({**versions(), "torch": torch.__version__, "threads": torch.get_num_threads()})
    variants = {
        "documents isolated": MODEL,
        "plain causal": dataclasses.replace(MODEL, isolate_documents=False),
        "window 512, isolated": dataclasses.replace(MODEL, window=512),
    }
    for name, config in variants.items():
        ours, params, size = jax_side(config, batch)
        theirs = torch_side(config, batch, params)
        a, b = ours(), theirs()  # compiles, warms up, and checks
        if abs(a - b) > 1e-3:
            sys.exit(f"{name}: the two sides differ: loss {a} here, {b} in PyTorch")
        times = [(timed(ours), timed(theirs)) for _ in range(args.repeats)]
        ratio = statistics.median(t / j for j, t in times)
        speeds = [args.rows * args.row / statistics.median(side) for side in zip(*times, strict=True)]
        flops = 3 * models.flops(config, args.row)
        print(
            f"{name:<22} {size / 1e6:.1f}M parameters  {speeds[0]:>7,.0f} B/s  PyTorch {speeds[1]:>7,.0f} B/s"
            f"  ratio {ratio:.2f}  ({speeds[0] * flops / 1e9:.0f} GFLOP/s)",
            flush=True,
        )


def timed(step) -> float:
    start = time.perf_counter()
    step()
    return time.perf_counter() - start


def jax_side(config: ByteTransformerConfig, batch: dict[str, np.ndarray]):
    """A function that does a step and returns its loss; the parameters at its start; how many."""
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1.0, b2=0.95, weight_decay=0.1))
    model = jax.eval_shape(lambda key: models.build(config, key), jax.random.key(0))
    # Jolted, since the start has zeros that would hide differences.
    jolt = lambda key: jax.tree.map(  # noqa: E731
        lambda p: p + 0.02 * jax.random.normal(jax.random.key(p.size), p.shape),
        layers.params_of(models.build(config, key)),
    )
    state = jax.jit(lambda key: new_state(lambda k: models.build(config, k), optimizer, key, False))(
        jax.random.key(0)
    )
    params = jax.jit(jolt)(jax.random.key(0))
    state = state._replace(params=params)
    copied = jax.tree.map(np.array, params)
    step = jax.jit(make_train_step(model, optimizer, 1, None), donate_argnums=0)
    box: list[Any] = [state]

    def run() -> float:
        box[0], figures = step(box[0], batch, np.float32(1e-4), None)
        return float(figures["nats"] / figures["bytes"])

    return run, copied, sum(x.size for x in jax.tree.leaves(copied))


def torch_side(config: ByteTransformerConfig, batch: dict[str, np.ndarray], params: layers.Params):
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
        return float(loss)

    return run


if __name__ == "__main__":
    jnp.zeros(())  # the backend starts before PyTorch's threads do
    keep_pages()  # as train.py does; PyTorch has the use of it too
    main()
