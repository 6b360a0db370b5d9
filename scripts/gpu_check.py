"""One command that says whether an accelerator computes what it should, and how fast: under ten minutes.

    python scripts/gpu_check.py [--out gpu_check] [--parts NAME ...] [--tiny] [--minutes 9.5]

Needs jax, flax, optax, orbax, einops and numpy only. Each part runs in a process of its own, so that one
that fails, or asks for too much memory, is written down and the rest goes on; what there is no time for is
named. First correctness: attention of every kind and its gradient against float64 on the host, by cuDNN's
kernel where training would take that, and a training step against the CPU's. Then speed: training with
AdamW (bytes a second, the share of the peak in operations of matrices by formula, the parts of a step, peak
memory); generation of given bytes; and what exact conversion asks of a tokenized model, a tree of tokens
and the masses of its vocabulary (device work only). Writes OUT.json and OUT.md. `--tiny` runs the same
parts at sizes for a CPU.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("gpu_check"))
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--minutes", type=float, default=9.5)
    parser.add_argument("--one", help=argparse.SUPPRESS)  # this is the process of a part
    args = parser.parse_args()
    if args.one:
        print("RESULT " + json.dumps(PARTS[args.one](args.tiny)), flush=True)
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


# ---- correctness ---------------------------------------------------------------------------------------


def attention(tiny: bool) -> dict[str, Any]:
    """The largest error against float64, over the largest entry, of outputs and of gradients; by which kernel
    (`bytelm.attention.kernels`), where it is not XLA's."""
    import jax
    import jax.numpy as jnp

    from bytelm.attention import attend

    T, H = (64, 8) if tiny else (1024, 64)
    random, found = np.random.default_rng(0), {}
    q, k, v, g = (random.standard_normal((2, T, n, H)) for n in (4, 2, 2, 4))
    documents = np.cumsum(random.random((2, T)) < 8 / T, axis=1)
    words = np.cumsum(random.random((2, T)) < 0.2, axis=1)
    kinds: dict[str, dict[str, Any]] = {
        "whole": {},
        "documents": {"documents_BT": documents},
        "long window": {"window": T // 2 + 1},
        "long window, documents": {"documents_BT": documents, "window": T // 2 + 1},
        "window": {"documents_BT": documents, "window": T // 8},
        "words": {"documents_BT": words, "window": 32, "span": 2},
    }
    for kind, how in kinds.items():
        expected = _attention_in_float64(q, k, v, g, **how)
        for dtype, limit in (("float32", 1e-4), ("bfloat16", 3e-2)):

            def both(q, k, v, g, how=how):
                out, back = jax.vjp(functools.partial(attend, **how), q, k, v)
                return out, *back(g)

            with jax.default_matmul_precision("highest"):
                ours = jax.jit(both)(*(jnp.asarray(x, dtype) for x in (q, k, v, g)))
            error = max(
                float(np.abs(np.asarray(a, np.float64) - b).max() / np.abs(b).max())
                for a, b in zip(ours, expected, strict=True)
            )
            found[f"{kind} {dtype}{_by(q, k, dtype, **how)}"] = error
            if not error < limit:
                raise AssertionError(f"attention, {kind}, {dtype}: error {error:.2g}, limit {limit:.0e}")
    return {"device": jax.devices()[0].device_kind, **found}


def _by(q, k, dtype: str, documents_BT=None, window=None, span=1) -> str:
    """The name of the kernel that attention of this kind runs on here; nothing for XLA's."""
    import jax

    from bytelm.attention import kernels

    q, k = (jax.ShapeDtypeStruct(x.shape, dtype) for x in (q, k))
    how = {"window": window, "causal": True, "isolated": documents_BT is not None}
    found = {} if span > 1 else kernels.of_backend(q, k, **how)
    return "".join(f", {kernel.func.__name__}" for kernel in found.values())


def _attention_in_float64(q, k, v, g, documents_BT=None, window=None, span=1):
    """Attention, and its gradients for queries, keys and values, by the formulas."""
    B, T, N, H = q.shape
    K, t = k.shape[2], np.arange(T)
    mask = np.broadcast_to((t[:, None] >= t) & (t[:, None] - t < (window or T)), (B, T, T))
    if documents_BT is not None:
        mask = mask & (np.abs(documents_BT[:, :, None] - documents_BT[:, None, :]) < span)
    k, v = (np.repeat(x, N // K, axis=2) for x in (k, v))
    score = np.where(mask[:, None], np.einsum("btnh,bsnh->bnts", q, k) * H**-0.5, -np.inf)
    share = np.exp(score - score.max(-1, keepdims=True))
    share /= share.sum(-1, keepdims=True)
    dshare = np.einsum("btnh,bsnh->bnts", g, v)
    dscore = share * (dshare - (dshare * share).sum(-1, keepdims=True)) * H**-0.5
    dk, dv = np.einsum("bnts,btnh->bsnh", dscore, q), np.einsum("bnts,btnh->bsnh", share, g)
    dk, dv = (x.reshape(B, T, K, N // K, H).sum(3) for x in (dk, dv))
    return np.einsum("bnts,bsnh->btnh", share, v), np.einsum("bnts,bsnh->btnh", dscore, k), dk, dv


def step_against_cpu(tiny: bool) -> dict[str, Any]:
    """Losses of three steps in float32, here and on the CPU; the largest relative difference."""
    import jax

    from bytelm.models import ByteTransformerConfig, WordPooledConfig

    size = {"layers": 2, "width": 64, "heads": 2, "dtype": "float32"}
    configs = {
        "flat": ByteTransformerConfig(**size),
        "words": WordPooledConfig(**size, words=96, byte_width=32),
    }
    found = {}
    for name, config in configs.items():
        losses = []
        for device in (jax.devices()[0], jax.devices("cpu")[0]):
            with jax.default_device(device), jax.default_matmul_precision("highest"):
                start, step, _ = _trainer(config)
                state, now = start(), []
                for i in range(3):
                    state, figures = step(state, _batch(4, 128, i), np.float32(0.01), None)
                    now.append(float(figures["nats"] / figures["bytes"]))
            losses.append(now)
        found[name] = float(np.abs(np.array(losses[0]) / losses[1] - 1).max())
        if not found[name] < 1e-4:
            raise AssertionError(f"{name}: losses {losses[0]} here, {losses[1]} on the CPU")
    return found


# ---- training ------------------------------------------------------------------------------------------


def _trainer(config: Any):
    """A function that makes a state, the compiled step, and the compiled loss of a batch."""
    import jax
    import jax.numpy as jnp
    import optax

    from bytelm import layers, models
    from bytelm.training.step import make_train_step, new_state

    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1.0, b2=0.95, weight_decay=0.1))
    make = lambda key: models.build(config, key)  # noqa: E731
    model = jax.eval_shape(make, jax.random.key(0))
    start = jax.jit(lambda key: new_state(make, optimizer, key, False))

    def loss(params, batch):
        return jnp.mean(layers.with_params(model, params).nats(batch))

    step = jax.jit(make_train_step(model, optimizer, 1, None), donate_argnums=0)
    return lambda: start(jax.random.key(0)), step, loss


def _batch(rows: int, row: int, seed: int, vocabulary: int | None = None) -> dict[str, np.ndarray]:
    """Rows of made-up text, words of 1 to 9 letters, documents of about 1,000 symbols; or of tokens."""
    random = np.random.default_rng(seed)
    shape = (rows, row + 1)
    documents = 1 + np.cumsum(random.random((rows, row)) < 1e-3, axis=1).astype(np.int32)
    if vocabulary is not None:
        tokens = random.integers(0, vocabulary, shape).astype(np.int32)
        sizes = np.full((rows, row), 4, np.uint16)
        batch = {"inputs": tokens[:, :-1], "targets": tokens[:, 1:], "documents": documents}
        return batch | {"bytes": sizes, "ends": np.zeros((rows, row), bool)}
    letters = random.integers(97, 123, shape)
    symbols = np.where(random.random(shape) < 0.18, 32, letters).astype(np.uint16)
    return {"inputs": symbols[:, :-1], "targets": symbols[:, 1:], "documents": documents}


def _training(config: Any, rows: int, row: int, bytes_a_token: float = 1.0) -> dict[str, Any]:
    """Speed of the step; with half the rows again and again where memory does not suffice."""
    import jax

    from bytelm import models
    from bytelm.devices import device_of

    while True:
        try:
            size, parts = _times(config, rows, row)
            break
        except jax.errors.JaxRuntimeError as error:
            if "RESOURCE_EXHAUSTED" not in str(error) or rows == 1:
                raise
            rows //= 2
    device = jax.devices()[0]
    known = device_of(device.device_kind)
    rate = rows * row / parts["step"]
    flops = 3 * models.flops(config, row)
    memory = (device.memory_stats() or {}).get("peak_bytes_in_use")
    return {
        "device": device.device_kind,
        "parameters": size,
        "rows": f"{rows} x {row}",
        "kB/s": rate * bytes_a_token / 1e3,
        "MFU": None if known is None else rate * flops / known.peak,
        "TFLOP/s": rate * flops / 1e12,
        **{f"{name} ms": 1e3 * seconds for name, seconds in parts.items()},
        "peak GB": None if memory is None else memory / 1e9,
    }


def _times(config: Any, rows: int, row: int) -> tuple[int, dict[str, float]]:
    """How many parameters, and the seconds of the parts of a step."""
    import jax

    start, step, loss = _trainer(config)
    batch = jax.device_put(_batch(rows, row, 0, getattr(config, "vocab_size", None)))
    box = [start()]
    size = sum(x.size for x in jax.tree.leaves(box[0].params))
    forward, backward = jax.jit(loss), jax.jit(jax.grad(loss))

    def whole():
        box[0], figures = step(box[0], batch, np.float32(1e-4), None)
        return figures

    return size, {
        "forward": _seconds(lambda: forward(box[0].params, batch)),
        "forward and backward": _seconds(lambda: backward(box[0].params, batch)),
        "step": _seconds(whole),
    }


def _seconds(work: Any, repeats: int = 3, at_least: float = 1.0) -> float:
    """Of one call, once compiled: the median of a few series."""
    import jax

    jax.block_until_ready(work())
    began = time.perf_counter()
    jax.block_until_ready(work())
    count = max(1, int(at_least / repeats / max(time.perf_counter() - began, 1e-6)))
    found = []
    for _ in range(repeats):
        began = time.perf_counter()
        for _ in range(count):
            last = work()
        jax.block_until_ready(last)
        found.append((time.perf_counter() - began) / count)
    return sorted(found)[repeats // 2]


def _flat(layers: int, width: int, **how: Any):
    from bytelm.models import ByteTransformerConfig

    return ByteTransformerConfig(layers=layers, width=width, heads=max(2, width // 64), **how)


def _words(tiny: bool, **how: Any):
    from bytelm.models import WordPooledConfig

    small = {"layers": 1, "width": 32, "heads": 2, "byte_width": 16, "byte_heads": 2, "words": 32}
    return WordPooledConfig(**(how | small if tiny else how))


WORDS_100M = {"words": 1792, "layers": 14, "width": 768, "heads": 12, "byte_width": 256, "byte_heads": 4,
              "encoder_layers": 2, "decoder_layers": 3}  # fmt: skip
WORDS_1B = {"words": 1792, "layers": 25, "width": 2048, "heads": 16, "byte_width": 512, "byte_heads": 8,
            "encoder_layers": 3, "decoder_layers": 3, "remat": "full"}  # fmt: skip


def train_flat_25m(tiny: bool) -> dict[str, Any]:
    return _training(_flat(1, 32), 2, 64) if tiny else _training(_flat(8, 512), 32, 2048)


def train_flat_100m(tiny: bool) -> dict[str, Any]:
    return _training(_flat(1, 32), 2, 64) if tiny else _training(_flat(14, 768), 32, 2048)


def train_words_100m(tiny: bool) -> dict[str, Any]:
    return _training(_words(tiny, **WORDS_100M), *((2, 128) if tiny else (32, 8192)))


def train_words_1b(tiny: bool) -> dict[str, Any]:
    return _training(_words(tiny, **WORDS_1B), *((2, 128) if tiny else (16, 8192)))


def train_bpe_100m(tiny: bool) -> dict[str, Any]:
    from bytelm.models import TokenLMConfig

    sizes = {"layers": 1, "width": 32, "heads": 2, "vocab_size": 300} if tiny else {
        "layers": 11, "width": 768, "heads": 12, "vocab_size": 32_768, "tied": True
    }  # fmt: skip
    return _training(
        TokenLMConfig(context=2048, **sizes), *((2, 64) if tiny else (16, 2048)), bytes_a_token=4.4
    )


# ---- generation ----------------------------------------------------------------------------------------


def generate(tiny: bool) -> dict[str, Any]:
    """Bytes a second of a batch, the 100M word-pooled model and the flat one, after prompts of 64 bytes."""
    from forced import PROMPT, forced

    length, found = (8, {}) if tiny else (512, {})
    models = {"words": _words(tiny, **WORDS_100M), "flat": _flat(1, 32) if tiny else _flat(14, 768)}
    for name, config in models.items():
        for batch in (1, 2) if tiny else (1, 64):
            text_BT = _batch(batch, PROMPT + length, 5)["inputs"].astype(np.int32)
            run = forced(config, text_BT, 128 if tiny else 2048)
            run()
            began = time.perf_counter()
            run()
            found[f"{name}, batch {batch}, B/s"] = batch * length / (time.perf_counter() - began)
    return found


def tree_gpt2(tiny: bool) -> dict[str, Any]:
    """Exact conversion's device work with GPT-2's vocabulary at 125M parameters."""
    if tiny:
        return _tree(1, 32, 300)
    return _tree(12, 768, 50_257)


def tree_7b(tiny: bool) -> dict[str, Any]:
    """The same with 128k tokens at the shape of a 7B model, in bfloat16."""
    if tiny:
        return _tree(2, 32, 512)
    return _tree(32, 4096, 128_256)


def _tree(depth: int, width: int, vocabulary: int) -> dict[str, Any]:
    """A tree of nodes scored in one pass with the masses of 257 ranges a node; and one node at a time."""
    import jax
    import jax.numpy as jnp

    from bytelm import layers
    from bytelm.exact import device
    from bytelm.models.token_lm_config import TokenLMConfig
    from bytelm.tokenized import TransformerLM, abstract

    config = TokenLMConfig(
        vocab_size=vocabulary,
        layers=depth,
        width=width,
        heads=max(2, width // 128),
        context=4096,
        dtype="bfloat16",
    )
    shapes = layers.params_of(abstract(config))
    make = jax.jit(lambda: jax.tree.map(lambda x: jnp.full(x.shape, 0.01, jnp.bfloat16), shapes))
    lm = TransformerLM(config, make())
    padded = -(-vocabulary // 256) * 256
    slots, nodes, found = (64, 8, {}) if width < 256 else (1024, 64, {})
    random = np.random.default_rng(0)
    allowed = jnp.full((1, padded // 8), 255, jnp.uint8)

    @jax.jit
    def masses(logits_RV):
        R = logits_RV.shape[0]
        logits_RP = jnp.pad(logits_RV.astype(jnp.float32), ((0, 0), (0, padded - vocabulary)))
        edge_S = jnp.linspace(0, vocabulary, 258).astype(jnp.int32)
        row_S, low_S = jnp.repeat(jnp.arange(R), 257), jnp.tile(edge_S[:-1], R)
        ranges = row_S, low_S, jnp.tile(edge_S[1:], R)
        none = jnp.zeros(1, jnp.int32), jnp.zeros(1, jnp.int32)
        packed_RO = jnp.broadcast_to(allowed, (R, padded // 8))
        return device.masses(logits_RP, packed_RO, None, none, ranges)[1]

    trunk = random.integers(0, vocabulary, (1, slots // 2)).astype(np.int32)
    tokens = random.integers(0, vocabulary, (1, nodes)).astype(np.int32)
    parents = np.maximum(np.arange(nodes) - 3, -1)[None].astype(np.int32)
    at = np.arange(nodes)[None].astype(np.int32)
    _, cache = lm.open(lm.params, trunk, np.array([slots // 2]), slots=slots, nodes=nodes)
    box = [cache]

    def tree():
        logits_BNV, box[0] = lm.grow(lm.params, box[0], tokens, parents, at)
        return masses(logits_BNV[0])

    def byte():
        logits_BNV, box[0] = lm.grow(lm.params, box[0], tokens[:, :1], parents[:, :1], at[:, :1])
        return masses(logits_BNV[0])

    found["parameters"] = sum(x.size for x in jax.tree.leaves(lm.params))
    found["tree scoring, nodes/s"] = nodes / _seconds(tree)
    found["byte mode, nodes/s"] = 1 / _seconds(byte)
    memory = (jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use")
    return found | {"peak GB": None if memory is None else memory / 1e9}


PARTS = {
    part.__name__: part
    for part in (
        attention, step_against_cpu, train_flat_25m, train_flat_100m, train_words_100m, train_words_1b,
        train_bpe_100m, generate, tree_gpt2, tree_7b,
    )
}  # fmt: skip

if __name__ == "__main__":
    main()
