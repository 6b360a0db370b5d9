"""A training step against the CPU's, and the speed of training."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from checking.models import WORDS_1B, WORDS_100M, batch, flat, words
from checking.timing import peak_gigabytes, seconds

from bytelm import models
from bytelm.devices import device_of
from bytelm.models import ByteTransformerConfig, TokenLMConfig, WordPooledConfig
from bytelm.parameters import with_params
from bytelm.training.step import make_train_step, new_state


def step_against_cpu(tiny: bool) -> dict[str, Any]:
    """Losses of three steps in float32, here and on the CPU; the largest relative difference."""
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
                    state, figures = step(state, batch(4, 128, i), np.float32(0.01), None)
                    now.append(float(figures["nats"] / figures["bytes"]))
            losses.append(now)
        found[name] = float(np.abs(np.array(losses[0]) / losses[1] - 1).max())
        if not found[name] < 1e-4:
            raise AssertionError(f"{name}: losses {losses[0]} here, {losses[1]} on the CPU")
    return found


def _trainer(config: Any):
    """A function that makes a state, the compiled step, and the compiled loss of a batch."""
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1.0, b2=0.95, weight_decay=0.1))
    make = lambda key: models.build(config, key)  # noqa: E731
    model = jax.eval_shape(make, jax.random.key(0))
    start = jax.jit(lambda key: new_state(make, optimizer, key, False))

    def loss(params, data):
        return jnp.mean(with_params(model, params).nats(data))

    step = jax.jit(make_train_step(model, optimizer, 1, None), donate_argnums=0)
    return lambda: start(jax.random.key(0)), step, loss


def _training(config: Any, rows: int, row: int, bytes_a_token: float = 1.0) -> dict[str, Any]:
    """Speed of the step; with half the rows again and again where memory does not suffice."""
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
    return {
        "device": device.device_kind,
        "parameters": size,
        "rows": f"{rows} x {row}",
        "kB/s": rate * bytes_a_token / 1e3,
        "MFU": None if known is None else rate * flops / known.peak,
        "TFLOP/s": rate * flops / 1e12,
        **{f"{name} ms": 1e3 * took for name, took in parts.items()},
        "peak GB": peak_gigabytes(),
    }


def _times(config: Any, rows: int, row: int) -> tuple[int, dict[str, float]]:
    """How many parameters, and the seconds of the parts of a step."""
    start, step, loss = _trainer(config)
    data = jax.device_put(batch(rows, row, 0, getattr(config, "vocab_size", None)))
    box = [start()]
    size = sum(x.size for x in jax.tree.leaves(box[0].params))
    forward, backward = jax.jit(loss), jax.jit(jax.grad(loss))

    def whole():
        box[0], figures = step(box[0], data, np.float32(1e-4), None)
        return figures

    return size, {
        "forward": seconds(lambda: forward(box[0].params, data)),
        "forward and backward": seconds(lambda: backward(box[0].params, data)),
        "step": seconds(whole),
    }


def train_flat_25m(tiny: bool) -> dict[str, Any]:
    return _training(flat(1, 32), 2, 64) if tiny else _training(flat(8, 512), 32, 2048)


def train_flat_100m(tiny: bool) -> dict[str, Any]:
    return _training(flat(1, 32), 2, 64) if tiny else _training(flat(14, 768), 32, 2048)


def train_words_100m(tiny: bool) -> dict[str, Any]:
    return _training(words(tiny, **WORDS_100M), *((2, 128) if tiny else (32, 8192)))


def train_words_1b(tiny: bool) -> dict[str, Any]:
    return _training(words(tiny, **WORDS_1B), *((2, 128) if tiny else (16, 8192)))


def train_bpe_100m(tiny: bool) -> dict[str, Any]:
    sizes = {"layers": 1, "width": 32, "heads": 2, "vocab_size": 300} if tiny else {
        "layers": 11, "width": 768, "heads": 12, "vocab_size": 32_768, "tied": True
    }  # fmt: skip
    return _training(
        TokenLMConfig(context=2048, **sizes), *((2, 64) if tiny else (16, 2048)), bytes_a_token=4.4
    )
