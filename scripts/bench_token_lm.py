"""Prefill and decoding of tokenized models against transformers (PyTorch) on the same weights, in one run.

    pip install -e ".[torch]" && python scripts/bench_token_lm.py [--prompt 512] [--steps 64] [--repeats 5]

Two random models in float32: 18 million parameters of GPT-2's architecture with its vocabulary, and 110
million of Llama's. Prefill reads a prompt and gives the last logits and a cache; decoding goes on from it
greedily, a token at a time, in one row and in four. First checked: both say the same tokens. Each repeat
times both sides in turn; printed are medians, and the median of the ratios pair by pair.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bytelm import hub
from bytelm.tokenized import TransformerLM
from bytelm.training.launch import versions

MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "18M, GPT-2": ("gpt2", {"n_embd": 256, "n_layer": 6, "n_head": 4, "n_positions": 1024}),
    "110M, Llama": (
        "llama",
        {
            **{"hidden_size": 768, "intermediate_size": 2048, "num_hidden_layers": 12, "vocab_size": 32_000},
            **{"num_attention_heads": 12, "max_position_embeddings": 1024, "tie_word_embeddings": True},
        },
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--prompt", type=int, default=512)
    parser.add_argument("--steps", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--models", default=",".join(name.split(",")[0] for name in MODELS))
    args = parser.parse_args()
    try:
        import torch
        import transformers
    except ImportError:
        sys.exit('this compares with PyTorch: pip install -e ".[torch]"')
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    torch.set_num_threads(os.cpu_count() or 1)
    print({**versions(), "torch": torch.__version__, "transformers": transformers.__version__})
    print(f"threads {torch.get_num_threads()}, prompt {args.prompt}, steps {args.steps}")
    for name, (kind, sizes) in MODELS.items():
        if name.split(",")[0] not in args.models.split(","):
            continue
        torch.manual_seed(0)
        config = transformers.AutoConfig.for_model(kind, **sizes)
        model = transformers.AutoModelForCausalLM.from_config(config).eval()
        with torch.no_grad():  # weights large enough that the next token is not a matter of rounding
            for x in model.parameters():
                if x.ndim == 2:
                    x.mul_(3.0)
        with tempfile.TemporaryDirectory() as folder:
            model.save_pretrained(folder, safe_serialization=True)
            lm, _ = hub.read(folder, dtype="float32")
        for rows in (1, 4):
            compare(f"{name}, {rows} rows", lm, model, rows, args)


def compare(name: str, lm: TransformerLM, model: Any, rows: int, args: argparse.Namespace) -> None:
    random = np.random.default_rng(0)
    tokens_BT = random.integers(0, lm.vocab_size, (rows, args.prompt)).astype(np.int32)
    ours, theirs = sides_of_ours(lm, tokens_BT, args.steps), sides_of_theirs(model, tokens_BT, args.steps)
    for what in ("prefill", "decode"):
        same = np.mean(ours[what]() == theirs[what]())
        pairs = [(timed(ours[what]), timed(theirs[what])) for _ in range(args.repeats)]
        tokens = rows * (args.prompt if what == "prefill" else args.steps)
        us, them = (tokens / statistics.median(side) for side in zip(*pairs, strict=True))
        ratio = statistics.median(b / a for a, b in pairs)
        print(
            f"{name}, {what}: {us:,.0f} tokens/s, transformers {them:,.0f}, ratio {ratio:.2f}"
            f" (same tokens: {same:.1%})",
            flush=True,
        )


def timed(run: Callable[[], Any]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def sides_of_ours(lm: TransformerLM, tokens_BT: np.ndarray, steps: int) -> dict[str, Callable[[], Any]]:
    B, T = tokens_BT.shape
    length_B, one_B = np.full(B, T), np.ones(B, np.int32)

    @jax.jit
    def chosen(logits_BV):
        return jnp.argmax(logits_BV, axis=-1).astype(jnp.int32)[:, None]

    def read():
        logits_BV, cache = lm.open(lm.params, tokens_BT, length_B, slots=T + steps, nodes=0)
        return chosen(logits_BV), cache

    held: list[Any] = []

    def prefill():
        token_B1, cache = read()
        held[:] = [token_B1, jax.block_until_ready(cache)]
        return np.asarray(token_B1)

    def decode():
        token_B1, cache = held
        # The trunk is taken back to the prompt: what lies beyond its length is not seen.
        cache = cache._replace(length_B=jnp.full(B, T, jnp.int32))
        said = []
        for _ in range(steps):
            logits_B1V, cache = lm.extend(lm.params, cache, token_B1, one_B)
            token_B1 = chosen(logits_B1V[:, 0])
            said.append(np.asarray(token_B1))
        held[1] = cache
        return np.concatenate(said, axis=1)

    return {"prefill": prefill, "decode": decode}


def sides_of_theirs(model: Any, tokens_BT: np.ndarray, steps: int) -> dict[str, Callable[[], Any]]:
    import torch

    held: list[Any] = []

    def prefill():
        with torch.inference_mode():
            out = model(torch.from_numpy(tokens_BT).long(), use_cache=True, logits_to_keep=1)
            held[:] = [out.logits[:, -1].argmax(-1, keepdim=True), out.past_key_values]
        return held[0].numpy()

    def decode():
        token, cache = held
        if more := cache.get_seq_length() - tokens_BT.shape[1]:
            cache.crop(-more)  # back to the prompt
        said = []
        with torch.inference_mode():
            for _ in range(steps):
                out = model(token, past_key_values=cache, use_cache=True, logits_to_keep=1)
                token = out.logits[:, -1].argmax(-1, keepdim=True)
                said.append(token.numpy())
        return np.concatenate(said, axis=1)

    return {"prefill": prefill, "decode": decode}


if __name__ == "__main__":
    main()
