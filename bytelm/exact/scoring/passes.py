"""Whole texts by passes over their trees: all nodes are known before the model runs.

Rows of similar size go together, a block of nodes at a time. Before each block the nodes that all later
ones descend from join the trunk, so that memory is that of a block and of the cache: never nodes x V.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bytelm.exact.asking import check_length
from bytelm.exact.rows import Row
from bytelm.exact.scoring import device
from bytelm.exact.scoring.columns import Columns
from bytelm.exact.scoring.plan import NOWHERE, Plan, Step, Wider, bucket, padded, planned
from bytelm.exact.scoring.terms import Terms, log_sums
from bytelm.lm import TreeLM

_ROWS = 8  # texts of a batch
_CHUNK = 512  # tokens of a trunk that are read at a time when a cache is made anew


class Passes:
    """Passes over a model, compiled once.

    joint: q are the model's own probabilities; else they are renormalised over what is allowed.
    """

    def __init__(self, token_lm: TreeLM, columns: Columns, joint: bool):
        self._lm, self.columns = token_lm, columns
        self.context = token_lm.context
        self._counted = jnp.asarray(columns.counted) if joint else None
        self.nodes = 64 if jax.default_backend() == "cpu" else 512  # of a block, all rows together
        self.model, self.prepare = ordered(token_lm, columns)
        self._params: tuple[Any, Any] | None = None
        self._opened = jax.jit(self.open_step, static_argnames=("slots", "places"))
        self._stepped = jax.jit(self.step, donate_argnums=1)
        self._opened_q = jax.jit(self._open_q, static_argnames=("slots", "places"))
        self._reopened = jax.jit(
            lambda params, tokens, length, *, slots, places: self.model.open(
                params, tokens, length, slots=slots, nodes=places
            )[1],
            static_argnames=("slots", "places"),
        )
        self._appended = jax.jit(lambda *args: self.model.extend(*args)[1], donate_argnums=1)
        self._regrown = jax.jit(
            lambda params, cache, held: self.model.grow(params, cache, *held)[1], donate_argnums=1
        )
        self._began = jax.jit(self._begin, static_argnames="slots")
        self._went_on = jax.jit(self._go_on, donate_argnums=1)
        self._grown_q = jax.jit(self._grow_q, donate_argnums=1)

    # ---- on the device -------------------------------------------------------------------------

    def open_step(self, params, tokens_BS, length_B, first_P, packed, kids, ranges, *, slots, places):
        logits_BP, cache = self.model.open(params, tokens_BS, length_B, slots=slots, nodes=places)
        # What follows an empty context the model says itself.
        logits_BP = jnp.where((length_B > 0)[:, None], logits_BP, first_P)
        return device.masses(logits_BP, packed, self._counted, kids, ranges), cache

    def step(self, params, cache, path_BM, new, packed, kids, ranges):
        cache = self.model.commit(cache, path_BM)
        logits_BNP, cache = self.model.grow(params, cache, *new)
        logits_RP = logits_BNP.reshape(-1, logits_BNP.shape[-1])
        return device.masses(logits_RP, packed, self._counted, kids, ranges), cache

    def _open_q(self, params, tokens_BS, length_B, first_P, packed, *, slots, places):
        logits_BP, cache = self.model.open(params, tokens_BS, length_B, slots=slots, nodes=places)
        logits_BP = jnp.where((length_B > 0)[:, None], logits_BP, first_P)
        return device.probabilities(logits_BP, packed, self._counted), cache

    def _grow_q(self, params, cache, path_BM, new_3BN, packed):
        logits_BNP, cache = self.model.grow(params, self.model.commit(cache, path_BM), *new_3BN)
        logits_RP = logits_BNP.reshape(-1, logits_BNP.shape[-1])
        return device.probabilities(logits_RP, packed, self._counted), cache

    def _begin(self, params, tokens_BS, length_B, first_P, packed, uniform_B, temperature, *, slots):
        logits_BP, cache = self.model.open(params, tokens_BS, length_B, slots=slots, nodes=1)
        logits_BP = jnp.where((length_B > 0)[:, None], logits_BP, first_P)
        return device.drawn(logits_BP, packed, uniform_B, temperature), cache

    def _go_on(self, params, cache, token_B, going_B, packed, uniform_B, temperature):
        count_B = going_B.astype(jnp.int32)
        logits_B1P, cache = self.model.extend(params, cache, token_B[:, None], count_B)
        return device.drawn(logits_B1P[:, 0], packed, uniform_B, temperature), cache

    # ---- token by token ------------------------------------------------------------------------

    def begun(self, contexts, pairs, uniform, temperature: float, slots: int) -> tuple[list[int], Any]:
        """Reads contexts into a cache of at least `slots`, and draws a column after each."""
        B = bucket(len(contexts), 1)
        trunk_BS, length_B = padded(contexts, B)
        (masks, uniform_B), first_P = self._drawing(pairs, uniform, B), self.first(length_B)
        slots = bucket(max(slots, trunk_BS.shape[1]), 64)
        column_B, cache = self._began(
            self.params(), trunk_BS, length_B, first_P, masks, uniform_B, temperature, slots=slots
        )
        return np.asarray(column_B)[: len(contexts)].tolist(), cache

    def went_on(self, cache, tokens, going, pairs, uniform, temperature: float) -> tuple[list[int], Any]:
        """Appends a token to each of the rows that go on, and draws the next column."""
        B = bucket(len(tokens), 1)
        masks, uniform_B = self._drawing(pairs, uniform, B)
        token_B, going_B = np.zeros(B, np.int32), np.zeros(B, bool)
        token_B[: len(tokens)], going_B[: len(tokens)] = tokens, going
        column_B, cache = self._went_on(self.params(), cache, token_B, going_B, masks, uniform_B, temperature)
        return np.asarray(column_B)[: len(tokens)].tolist(), cache

    def _drawing(self, pairs, uniform, B: int) -> tuple[np.ndarray, np.ndarray]:
        uniform_B = np.zeros(B)
        uniform_B[: len(uniform)] = uniform
        return self.columns.masks([*pairs, *[NOWHERE] * (B - len(pairs))]), uniform_B

    # ---- byte by byte --------------------------------------------------------------------------

    def opened(self, trunk_BS, length_B, pairs, slots: int, places: int) -> tuple[np.ndarray, Any]:
        """A cache, and q `[B, P]` after the trunks, whose last tokens and states are `pairs`."""
        first_P, masks = self.first(length_B), self.columns.masks(pairs)
        q_BP, cache = self._opened_q(
            self.params(), trunk_BS, length_B, first_P, masks, slots=slots, places=places
        )
        return np.asarray(q_BP), cache

    def grown(self, cache: Any, path_BM, new_3BN, pairs) -> tuple[np.ndarray, Any]:
        """q `[B * N, P]` after new nodes, whose tokens and states are `pairs`, and the cache with them."""
        q_RP, cache = self._grown_q(self.params(), cache, path_BM, new_3BN, self.columns.masks(pairs))
        return np.asarray(q_RP), cache

    # ---- whole texts ---------------------------------------------------------------------------

    def sums(self, rows: Sequence[Row], terms: Sequence[Terms]) -> list[np.ndarray]:
        """For each row the logarithms of the targets of its terms, float64."""
        order = sorted(range(len(rows)), key=lambda i: -len(terms[i].nodes))
        found: list[np.ndarray] = [np.empty(0)] * len(rows)
        for first in range(0, len(order), _ROWS):
            batch = order[first : first + _ROWS]
            plan: Plan = planned([rows[i] for i in batch], [terms[i] for i in batch], self.nodes)
            check_length(plan.most, self.context)
            for i, one in zip(batch, self._run(self.params(), plan), strict=True):
                found[i] = one
        return found

    def params(self) -> Any:
        """The model's parameters, its logits in the order of the columns."""
        if self._params is None or self._params[0] is not self._lm.params:
            self._params = self._lm.params, jax.jit(self.prepare)(self._lm.params)
        return self._params[1]

    def _run(self, params: Any, plan: Plan) -> list[np.ndarray]:
        weights = [np.full(len(terms.nodes), -np.inf) for terms in plan.terms]
        values = [np.empty(len(terms.by)) for terms in plan.terms]
        for w in weights:
            w[0] = 0.0
        for step, found in self._evaluated(params, plan):
            kid_C, sum_S = (np.asarray(x, np.float64) for x in found)
            for b, nodes, kids, spans in step.rows:
                parents = plan.parents[b]
                w = weights[b]
                # Parents come first; those of a block may be new themselves.
                for node, share in zip(nodes, kid_C[kids].tolist(), strict=True):
                    w[node] = w[parents[node]] + share
                values[b][spans[0]] = sum_S[spans[1]]
        return [
            log_sums(v + w[t.by], t.target, t.targets)
            for t, w, v in zip(plan.terms, weights, values, strict=True)
        ]

    def _evaluated(self, params: Any, plan: Plan) -> Iterator[tuple[Step, tuple[jax.Array, jax.Array]]]:
        cache = None
        waiting = None
        for step in plan.steps:
            given = self.columns.masks(step.pairs), step.kids, step.ranges
            if cache is None:
                first_P = self.first(plan.length_B)
                result, cache = self._opened(
                    params,
                    plan.trunk_BS,
                    plan.length_B,
                    first_P,
                    *given,
                    slots=plan.slots,
                    places=plan.places,
                )
            else:
                if step.wider is not None:
                    cache = self._widened(params, step.wider, plan.places)
                result, cache = self._stepped(params, cache, step.path_BM, step.new, *given)
            if waiting is not None:  # one step behind, so that the host plans while the device works
                yield waiting
            waiting = step, result
        if waiting is not None:
            yield waiting

    def _widened(self, params: Any, wider: Wider, places: int) -> Any:
        """A cache with more slots, that holds the same."""
        B = wider.held[0].shape[0]
        tokens_BS, length_B = padded(wider.trunks, B)
        count_B = np.minimum(length_B, _CHUNK)
        cache = self._reopened(params, tokens_BS[:, :_CHUNK], count_B, slots=wider.slots, places=places)
        for first in range(_CHUNK, int(length_B.max()), _CHUNK):
            count_B = np.clip(length_B - first, 0, _CHUNK)
            chunk_BN = np.zeros((B, _CHUNK), np.int32)
            here_BN = tokens_BS[:, first : first + _CHUNK]
            chunk_BN[:, : here_BN.shape[1]] = here_BN
            cache = self._appended(params, cache, chunk_BN, count_B)
        return self._regrown(params, cache, wider.held)

    def first(self, length_B: np.ndarray) -> np.ndarray:
        """The law after the empty context `[P]`, where a row has one; the model itself must say it."""
        if length_B.all():
            return np.zeros(self.columns.size, np.float32)
        law_V = np.asarray(self._lm.next_token_logprobs([()]))[0]
        return law_V[self.columns.order]


def ordered(token_lm: TreeLM, columns: Columns) -> tuple[Any, Any]:
    """The model with its logits in the order of the columns, and what makes its parameters.

    A model that can (`reordered`) sorts its head once; of others the logits are sorted in each pass.
    """
    if hasattr(token_lm, "reordered"):
        return token_lm.reordered(columns.order)
    return _Sorted(token_lm, jnp.asarray(columns.order)), lambda params: params


class _Sorted:
    """A `TreeLM` whose logits are put into another order."""

    def __init__(self, token_lm: TreeLM, order_P: jax.Array):
        self._lm, self._order_P, self.commit = token_lm, order_P, token_lm.commit

    def open(self, *args: Any, **sizes: int) -> tuple[jax.Array, Any]:
        logits_BV, cache = self._lm.open(*args, **sizes)
        return logits_BV[..., self._order_P], cache

    def grow(self, *args: Any) -> tuple[jax.Array, Any]:
        logits_BNV, cache = self._lm.grow(*args)
        return logits_BNV[..., self._order_P], cache

    def extend(self, *args: Any) -> tuple[jax.Array, Any]:
        logits_BNV, cache = self._lm.extend(*args)
        return logits_BNV[..., self._order_P], cache
