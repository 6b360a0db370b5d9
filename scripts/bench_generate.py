"""Speed of generation: a word-pooled model against the flat model as deep and wide as its word level.

    python scripts/bench_generate.py [--batch 1 16] [--bytes 300] [--context 2048] [--model.FIELD VALUE ...]

Both have random parameters, and the loop that generates (`bytelm.continuing`) is made to draw the bytes of
files of Python's standard library: of what is generated only the lengths of words matter to speed, and random
models would end words too often. Prints bytes a second of the whole batch after prompts of 64 bytes.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bytelm import continuing, layers, models
from bytelm.data import Stdlib
from bytelm.models import ByteTransformerConfig, WordPooledConfig
from bytelm.training.launch import versions

PROMPT = 64


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
        print(f"batch {batch:>3}  flat {speed['flat']:>8,.0f} B/s  pooled {speed['pooled']:>8,.0f} B/s"
              f"  ratio {speed['pooled'] / speed['flat']:.2f}", flush=True)  # fmt: skip


def forced(config: Any, data_BT: np.ndarray, context: int):
    """A function that generates the bytes of `data_BT` after the prompts, by the loop of `continue_`."""
    model = jax.eval_shape(functools.partial(models.build, config), jax.random.key(0))
    params = jax.jit(lambda key: layers.params_of(models.build(config, key)))(jax.random.key(0))
    data = jnp.asarray(data_BT)
    B, T = data_BT.shape

    def advance(params, state, symbol_B, active_B):
        cache, at_B = state
        logits_BV, cache, done_B = layers.with_params(model, params).advance(cache, symbol_B, active_B)
        at_B = at_B + done_B
        wanted_BV = jax.nn.one_hot(data[jnp.arange(B), jnp.minimum(at_B, T - 1)], logits_BV.shape[1])
        return logits_BV + 1e6 * wanted_BV, (cache, at_B), done_B  # the model's work is done and used

    def fits(params, state, symbol_B):
        return layers.with_params(model, params).fits(state[0], symbol_B, context)

    @jax.jit
    def prefill(params):
        length_B = jnp.full(B, PROMPT)
        logits_BV, cache = layers.with_params(model, params).prefill(data[:, :PROMPT], length_B, context)
        return logits_BV + 1e6 * jax.nn.one_hot(data[:, PROMPT], logits_BV.shape[1]), (cache, length_B)

    @functools.partial(jax.jit, donate_argnums=(1, 2))
    def grow(params, state, law_BV, size_B):
        loop = continuing.make_grow(functools.partial(advance, params), functools.partial(fits, params))
        settings = continuing.Settings(1.0, 0, 1.0, 0.0)
        live_B, left_B = jnp.ones(B, bool), T - PROMPT - size_B
        return loop(
            state, law_BV, live_B, left_B, jnp.uint32(0), size_B, settings, greedy=True, filtered=False
        )

    def run() -> None:
        logits_BV, state = prefill(params)
        size_B, text_BT = np.zeros(B, np.int32), data_BT[:, :PROMPT]
        while (size_B < T - PROMPT).any():
            grown = grow(params, state, logits_BV, size_B)
            logits_BV, state = grown.law_BV, grown.cache
            new_B = np.asarray(grown.size_B)
            text_BT = np.concatenate([text_BT, np.asarray(grown.out_BN)[:, : new_B[0]]], axis=1)
            size_B = size_B + new_B
        assert (text_BT == data_BT).all(), "the bytes were to be forced"

    return run


if __name__ == "__main__":
    main()
