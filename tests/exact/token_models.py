"""Token models for tests: small, exact, and dependent on the whole history."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from bytelm.exact import convert
from bytelm.lm import TreeLM

NAMES = ("gpt2", "llama3", "right-digits", "sp-fallback", "neox", "uncut")
"""Small tokenizers that between them have what passes over trees may trip over."""


class HistoryLM:
    """A random law for every context, a function of it alone; float64. Counts what it was asked."""

    def __init__(self, vocab_size: int, seed: int = 0, spread: float = 1.5):
        self.vocab_size, self.seed, self.spread = vocab_size, seed, spread
        self.calls = self.contexts = 0

    def law(self, context: Sequence[int]) -> np.ndarray:
        key = hashlib.blake2b(repr((self.seed, *map(int, context))).encode(), digest_size=8).digest()
        logits = np.random.default_rng(int.from_bytes(key, "big")).normal(size=self.vocab_size) * self.spread
        return logits - np.logaddexp.reduce(logits)

    def next_token_logprobs(self, contexts: Sequence[Sequence[int]]) -> np.ndarray:
        self.calls, self.contexts = self.calls + 1, self.contexts + len(contexts)
        return np.stack([self.law(context) for context in contexts])


class RecurrentLM:
    """A random `TreeLM` that carries one vector along each path; of the precision of its parameters.

    Places of dead nodes hold NaN, so that a use of one shows. Without `reordered`, as other people's models.
    """

    context = None

    def __init__(self, vocab_size: int, seed: int = 0, width: int = 8, spread: float = 1.5, dtype="float32"):
        draw = np.random.default_rng(seed)
        shapes = {"table": (vocab_size, width), "mix": (width, width), "head": (width, vocab_size)}
        self.vocab_size = vocab_size
        self.params = {
            name: jnp.asarray(draw.normal(size=shape) * spread / width**0.5, dtype)
            for name, shape in shapes.items()
        }

    @staticmethod
    def _next(params, hidden_BD, token_B):
        return jnp.tanh(hidden_BD @ params["mix"] + params["table"][token_B])

    def open(self, params, tokens_BS, length_B, *, slots, nodes):
        assert tokens_BS.shape[1] <= slots
        B, S = tokens_BS.shape
        hidden_BD = jnp.zeros((B, params["mix"].shape[0]), params["mix"].dtype)
        for s in range(S):
            new_BD = self._next(params, hidden_BD, tokens_BS[:, s])
            hidden_BD = jnp.where((s < length_B)[:, None], new_BD, hidden_BD)
        nodes_BMD = jnp.full((B, nodes, hidden_BD.shape[1]), jnp.nan, hidden_BD.dtype)
        parents_BM = jnp.full((B, nodes), -1)
        return hidden_BD @ params["head"], (hidden_BD, nodes_BMD, parents_BM)

    def grow(self, params, cache, tokens_BN, parents_BN, at_BN):
        hidden_BD, nodes_BMD, parents_BM = cache
        row_B = jnp.arange(tokens_BN.shape[0])

        def one(carry, node):
            nodes_BMD, parents_BM = carry
            token_B, parent_B, at_B = node
            before_BD = jnp.where((parent_B < 0)[:, None], hidden_BD, nodes_BMD[row_B, parent_B])
            new_BD = self._next(params, before_BD, jnp.maximum(token_B, 0))
            at_B = jnp.where(token_B < 0, nodes_BMD.shape[1], at_B)
            nodes_BMD = nodes_BMD.at[row_B, at_B].set(new_BD, mode="drop")
            parents_BM = parents_BM.at[row_B, at_B].set(parent_B, mode="drop")
            return (nodes_BMD, parents_BM), jnp.where((token_B < 0)[:, None], 0.0, new_BD)

        new = jnp.asarray(tokens_BN).T, jnp.asarray(parents_BN).T, jnp.asarray(at_BN).T
        (nodes_BMD, parents_BM), found_NBD = jax.lax.scan(one, (nodes_BMD, parents_BM), new)
        return found_NBD.swapaxes(0, 1) @ params["head"], (hidden_BD, nodes_BMD, parents_BM)

    def extend(self, params, cache, tokens_BN, count_B):
        hidden_BD, nodes_BMD, parents_BM = cache
        found = []
        for n in range(tokens_BN.shape[1]):
            new_BD = self._next(params, hidden_BD, tokens_BN[:, n])
            hidden_BD = jnp.where((n < count_B)[:, None], new_BD, hidden_BD)
            found.append(hidden_BD)
        nodes_BMD = jnp.where((count_B > 0)[:, None, None], jnp.nan, nodes_BMD)
        return jnp.stack(found, 1) @ params["head"], (hidden_BD, nodes_BMD, parents_BM)

    def commit(self, cache, path_BM):
        hidden_BD, nodes_BMD, parents_BM = cache
        row_B, count_B = jnp.arange(path_BM.shape[0]), (path_BM >= 0).sum(axis=1)
        last_B = path_BM[row_B, jnp.maximum(count_B - 1, 0)]
        some_B = count_B > 0
        hidden_BD = jnp.where(some_B[:, None], nodes_BMD[row_B, last_B], hidden_BD)
        # What does not descend from the path's last node is dead.
        alive_BM = (parents_BM == last_B[:, None]) & ~jnp.isnan(nodes_BMD[:, :, 0])
        for _ in range(nodes_BMD.shape[1]):
            up_BM = jnp.take_along_axis(alive_BM, jnp.maximum(parents_BM, 0), axis=1) & (parents_BM >= 0)
            alive_BM = alive_BM | up_BM
        alive_BM = alive_BM & (jnp.arange(nodes_BMD.shape[1]) != last_B[:, None])
        kept_BMD = jnp.where(alive_BM[:, :, None], nodes_BMD, jnp.nan)
        parents_BM = jnp.where(some_B[:, None] & (parents_BM == last_B[:, None]), -1, parents_BM)
        return hidden_BD, jnp.where(some_B[:, None, None], kept_BMD, nodes_BMD), parents_BM

    def widened(self, cache, *, slots, nodes):
        hidden_BD, nodes_BMD, parents_BM = cache
        more = nodes - nodes_BMD.shape[1]
        nodes_BMD = jnp.pad(nodes_BMD, ((0, 0), (0, more), (0, 0)), constant_values=jnp.nan)
        return hidden_BD, nodes_BMD, jnp.pad(parents_BM, ((0, 0), (0, more)), constant_values=-1)

    def next_token_logprobs(self, contexts):
        p = {name: np.asarray(x) for name, x in self.params.items()}
        found = []
        for context in contexts:
            hidden = np.zeros(p["mix"].shape[0], p["mix"].dtype)
            for token in context:
                hidden = np.tanh(hidden @ p["mix"] + p["table"][token])
            found.append(hidden @ p["head"])
        logits = np.stack(found).astype(np.float64)
        return logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)


class Plain:
    """The same model, asked context by context."""

    def __init__(self, token_lm):
        self.vocab_size, self.next_token_logprobs = token_lm.vocab_size, token_lm.next_token_logprobs


def both(canonical, normalise="local", dtype="float32", bos=None, **settings):
    """The byte model of a tree model, and of the same model asked context by context."""
    size = canonical.vocabulary.size + 3
    token_lm = RecurrentLM(size, dtype=dtype, **settings)
    assert isinstance(token_lm, TreeLM)
    ends = [min(canonical.vocabulary.special.values()), size - 1] if canonical.vocabulary.special else [0]
    return tuple(
        convert(one, canonical, bos=bos, eos=ends, normalise=normalise) for one in (token_lm, Plain(token_lm))
    )


def agree(found, expected, tolerance):
    for one, other in zip(found, expected, strict=True):
        assert one.shape == other.shape
        assert not np.isnan(one).any()
        np.testing.assert_array_equal(one == -np.inf, other == -np.inf)
        np.testing.assert_allclose(one, other, atol=tolerance)
