"""The speed of what exact conversion asks of a tokenized model; work on the device alone."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from checking.timing import peak_gigabytes, seconds

from bytelm.exact.scoring import device
from bytelm.models import TokenLMConfig
from bytelm.parameters import params_of
from bytelm.tokenized import TransformerLM, abstract


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
    config = TokenLMConfig(
        vocab_size=vocabulary,
        layers=depth,
        width=width,
        heads=max(2, width // 128),
        context=4096,
        dtype="bfloat16",
    )
    shapes = params_of(abstract(config))
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
    found["tree scoring, nodes/s"] = nodes / seconds(tree)
    found["byte mode, nodes/s"] = 1 / seconds(byte)
    return found | {"peak GB": peak_gigabytes()}
