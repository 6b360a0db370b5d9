"""A tokenized decoder as a `TokenLM` and `TreeLM`: whole rows, steps, blocks and trees, all compiled."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bytelm.models import token_cache
from bytelm.models.token_cache import TokenCache
from bytelm.models.token_lm import TokenTransformer
from bytelm.models.token_lm_config import TokenLMConfig
from bytelm.parameters import Params, with_params

_SMALLEST = 16  # tokens that a row is padded to at least
_TOKENS_AT_ONCE = 4096  # of a batch of contexts
_TREE = 256  # contexts that differ in so few tokens share what they have in common, as one tree


class TransformerLM:
    """See the module.

    Args:
      config: what the model is.
      params: its parameters, layers one by one (`bytelm.models.token_lm.unstack`).

    Attributes: `vocab_size`, columns of the logits; `context`, the most tokens that it sees; `params`.
    Methods that take `params` are pure in them, differentiable, and may be called under `jax.jit`; a cache
    that is passed to one is consumed. What is asked is checked where it is on the host: ValueError for ids
    that the model does not have (numpy arrays), for node places that the cache does not have (the same), and
    for a trunk that would outgrow its slots or the context (all but traced lengths; a caller that compiles
    these methods makes room beforehand). The cache is then not consumed.
    """

    def __init__(self, config: TokenLMConfig, params: Params):
        self.config, self.params = config, params
        self.vocab_size, self.context = config.vocab_size, config.context
        model = abstract(config)

        def call(function):
            return lambda params, *args: function(with_params(model, params), *args)

        def last(model, tokens_BT, length_B):
            x_BTD = model.read(tokens_BT)[0]
            x_BD = jnp.take_along_axis(x_BTD, (length_B - 1)[:, None, None], axis=1)[:, 0]
            return model.logits(x_BD)

        self._whole = jax.jit(call(TokenTransformer.__call__))
        self._last = jax.jit(call(last))
        self._open = jax.jit(call(token_cache.open_trunk), static_argnums=(3, 4))
        self._extend = jax.jit(call(token_cache.extend), donate_argnums=1)
        self._grow = jax.jit(call(token_cache.grow), donate_argnums=1)
        self._commit = jax.jit(token_cache.commit, donate_argnums=0)
        self._widened = jax.jit(token_cache.widened, static_argnums=(1, 2))

    def with_params(self, params: Params) -> TransformerLM:
        """The same model with other parameters; it shares what is compiled."""
        other = copy.copy(self)
        other.params = params
        return other

    def reordered(self, columns_P: np.ndarray) -> tuple[TransformerLM, Callable[[Params], Params]]:
        """The model whose logits are these columns of this one's, in this order, and what makes its params.

        These hold a head of their own, so that sorting costs memory once instead of time in each pass.
        """
        config = dataclasses.replace(self.config, tied=False)

        def select(params: Params) -> Params:
            head_DV = params["table"].T if self.config.tied else params["head"]
            return {**params, "head": head_DV[:, columns_P]}

        return TransformerLM(config, self.params), select

    # ---- the forms of evaluation ----

    def logits(self, params: Params, tokens_BT: Any) -> jax.Array:
        """Logits after every token of whole rows, float32 [B, T, V]."""
        self._check(tokens_BT)
        rope, most = self.config.rope, self.context
        if rope is not None and rope.scaling == "dynamic":  # stretched as the row asks, and only whole rows
            most = int(most * rope.factor)
        if tokens_BT.shape[1] > most:
            raise ValueError(f"rows of {tokens_BT.shape[1]} tokens; the model sees {most}")
        return self._whole(params, tokens_BT)

    def open(
        self, params: Params, tokens_BS: Any, length_B: Any, *, slots: int, nodes: int
    ) -> tuple[jax.Array, TokenCache]:
        """See `TreeLM.open`. Slots beyond `context` are of no use to a model with learned positions."""
        self._check(tokens_BS)
        if isinstance(length_B, np.ndarray):
            longest, T = length_B.max(initial=0), tokens_BS.shape[1]
            if longest > self.context:
                raise ValueError(f"a trunk of {longest} tokens; the model sees {self.context}")
            if longest > T:
                raise ValueError(f"open: a trunk of {longest} tokens in rows of {T}")
        return self._open(params, jnp.asarray(tokens_BS), jnp.asarray(length_B), slots, nodes)

    def grow(
        self, params: Params, cache: TokenCache, tokens_BN: Any, parents_BN: Any, at_BN: Any
    ) -> tuple[jax.Array, TokenCache]:
        """See `TreeLM.grow`."""
        self._check(tokens_BN, least=-1)
        places = cache.position_BM.shape[1]
        if all(isinstance(x, np.ndarray) for x in (tokens_BN, parents_BN, at_BN)):
            named = int(np.where(tokens_BN < 0, -1, np.maximum(parents_BN, at_BN)).max(initial=-1))
            if named >= places:
                raise ValueError(f"grow: place {named}; the cache has {places} places: `widened` makes more")
        return self._grow(params, cache, *map(jnp.asarray, (tokens_BN, parents_BN, at_BN)))

    def extend(
        self, params: Params, cache: TokenCache, tokens_BN: Any, count_B: Any
    ) -> tuple[jax.Array, TokenCache]:
        """See `TreeLM.extend`: a step of decoding, or a block of a long text."""
        self._check(tokens_BN)
        self._check_room("extend", cache, count_B)
        return self._extend(params, cache, jnp.asarray(tokens_BN), jnp.asarray(count_B))

    def commit(self, cache: TokenCache, path_BM: Any) -> TokenCache:
        """See `TreeLM.commit`."""
        path_BM = jnp.asarray(path_BM)
        self._check_room("commit", cache, (path_BM >= 0).sum(axis=1))
        return self._commit(cache, path_BM)

    def widened(self, cache: TokenCache, *, slots: int, nodes: int) -> TokenCache:
        """See `TreeLM.widened`."""
        return self._widened(cache, slots, nodes)

    # ---- contexts, one law each ----

    def next_token_logprobs(self, contexts: Sequence[Sequence[int]]) -> np.ndarray:
        """Log probabilities of the token after each of N contexts, float32 [N, V].

        What all contexts begin with is read once, and if they differ in few tokens, these are one tree.
        Raises ValueError for a context that is empty, longer than the model's, or with ids that it does
        not have.
        """
        rows = [np.asarray(context, np.int32) for context in contexts]
        if not rows:
            return np.zeros((0, self.vocab_size), np.float32)
        for n, row in enumerate(rows):
            if not len(row):
                raise ValueError(f"context {n} is empty: begin it with the model's first token")
            if len(row) > self.context:
                raise ValueError(f"context {n} has {len(row)} tokens; the model sees {self.context}")
            self._check(row, where=f"context {n}: ")
        shared = _shared(rows)
        tokens, parents, ends = _trie([row[shared:] for row in rows])
        logits_NV = (
            self._as_tree(rows[0][:shared], tokens, parents, ends)
            if len(tokens) <= _TREE
            else self._as_rows(rows)
        )
        logits_NV = logits_NV.astype(np.float32)
        logits_NV -= logits_NV.max(axis=-1, keepdims=True)
        return logits_NV - np.log(np.exp(logits_NV).sum(axis=-1, keepdims=True))

    def _as_tree(self, trunk, tokens, parents, ends) -> np.ndarray:
        trunk_1S, n = _padded([trunk]), len(tokens)
        nodes = _bucket(n) if n else 0
        first_1V, cache = self.open(
            self.params, trunk_1S, np.array([len(trunk)]), slots=trunk_1S.shape[1], nodes=nodes
        )
        if not n:
            return np.asarray(first_1V)[[0] * len(ends)]
        new_1N = np.full((3, 1, nodes), -1, np.int32)
        new_1N[:, 0, :n] = tokens, parents, range(n)
        logits_1NV, _ = self.grow(self.params, cache, *new_1N)
        found_NV = np.concatenate([np.asarray(logits_1NV[0]), np.asarray(first_1V)])
        return found_NV[ends]  # -1, the trunk's end, is the last row

    def _as_rows(self, rows) -> np.ndarray:
        order = sorted(range(len(rows)), key=lambda n: -len(rows[n]))
        found_NV = np.empty((len(rows), self.vocab_size), np.float32)
        while order:
            count = max(1, _TOKENS_AT_ONCE // _bucket(len(rows[order[0]])))
            chosen, order = order[:count], order[count:]
            batch = [rows[n] for n in chosen] + [rows[chosen[0]]] * (_bucket(len(chosen), 1) - len(chosen))
            logits_BV = self._last(self.params, _padded(batch), np.array([len(row) for row in batch]))
            found_NV[chosen] = np.asarray(logits_BV)[: len(chosen)]
        return found_NV

    def _check(self, tokens: Any, least: int = 0, where: str = "") -> None:
        if isinstance(tokens, np.ndarray) and tokens.size:
            if tokens.dtype.kind not in "iu":
                raise ValueError(f"{where}tokens are integers, not {tokens.dtype}")
            low, high = int(tokens.min()), int(tokens.max())
            if low < least or high >= self.vocab_size:
                wrong = low if low < least else high
                raise ValueError(f"{where}token {wrong}: the model's tokens are 0..{self.vocab_size - 1}")

    def _check_room(self, what: str, cache: TokenCache, count_B: Any) -> None:
        """Tokens beyond the slots would be dropped, and those beyond the context stand nowhere."""
        if isinstance(cache.length_B, jax.core.Tracer) or isinstance(count_B, jax.core.Tracer):
            return
        after_B = np.asarray(cache.length_B) + np.asarray(count_B)
        if after_B.max(initial=0) > min(cache.slots, self.context):
            b = int(after_B.argmax())
            raise ValueError(
                f"{what}: row {b} would hold {after_B[b]} tokens; the cache has {cache.slots} slots "
                f"(`widened` makes more), the model sees {self.context}"
            )


def abstract(config: TokenLMConfig) -> TokenTransformer:
    """The model of `config` with layers one by one and shapes in place of parameters."""
    return jax.eval_shape(lambda: TokenTransformer(config, jax.random.key(0), stacked=False))


def _shared(rows: list[np.ndarray]) -> int:
    """How many tokens all rows begin with."""
    least = min(map(len, rows))
    same = np.all(np.stack([row[:least] for row in rows]) == rows[0][:least], axis=0)
    return least if same.all() else int(same.argmin())


def _trie(rows: list[np.ndarray]) -> tuple[list[int], list[int], list[int]]:
    """Rows as one tree: the nodes' tokens and parents, parents first, and the node where each row ends."""
    nodes: dict[tuple[int, int], int] = {}
    ends = []
    for row in rows:
        at = -1
        for token in row.tolist():
            at = nodes.setdefault((at, token), len(nodes))
        ends.append(at)
    return [token for _, token in nodes], [parent for parent, _ in nodes], ends


def _bucket(n: int, least: int = _SMALLEST) -> int:
    """A power of two that holds n: so that few shapes are compiled."""
    return max(least, 1 << (n - 1).bit_length()) if n else least


def _padded(rows: list[np.ndarray]) -> np.ndarray:
    tokens_BT = np.zeros((len(rows), _bucket(max(map(len, rows)))), np.int32)
    for b, row in enumerate(rows):
        tokens_BT[b, : len(row)] = row
    return tokens_BT
