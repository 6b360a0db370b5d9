"""Whole texts by passes over their trees: all nodes are known before the model runs.

Rows of similar size go together, a block of nodes at a time. Before each block the nodes that all later
ones descend from join the trunk, so that memory is that of a block and of the cache: never nodes x V.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bytelm.exact.asking import check_length
from bytelm.exact.rows import Row
from bytelm.exact.scoring import device
from bytelm.exact.scoring.columns import Columns
from bytelm.exact.scoring.plan import NOWHERE, Plan, Step, bucket, padded, planned
from bytelm.exact.scoring.terms import Terms, log_sums
from bytelm.lm import TreeLM

_AHEAD = 4  # steps that the device is given before their results are taken


class Passes:
    """Passes over a model, compiled once.

    joint: q are the model's own probabilities; else they are renormalised over what is allowed.
    """

    def __init__(self, token_lm: TreeLM, columns: Columns, joint: bool):
        self._lm, self.columns = token_lm, columns
        self.context = token_lm.context
        self._counted = jnp.asarray(columns.counted) if joint else None
        # Texts of a pass, and nodes of a block, all rows together. On a CPU a text fills a block by itself,
        # and the caches of several would only be more memory to read.
        self.rows, self.nodes = (1, 64) if jax.default_backend() == "cpu" else (8, 512)
        self.model, self.prepare = ordered(token_lm, columns)
        self._params: tuple[Any, Any] | None = None
        self._opened = jax.jit(self.open_step, static_argnames=("slots", "places"))
        self._stepped = jax.jit(self.step, donate_argnums=1)
        self._opened_q = jax.jit(self._open_q, static_argnames=("slots", "places"))
        self._began = jax.jit(self._begin, static_argnames="slots")
        self._went_on = jax.jit(self._go_on, donate_argnums=1)
        self._grown_q = jax.jit(self._grow_q, donate_argnums=1)

    # ---- on the device -------------------------------------------------------------------------

    def open_step(self, params, tokens_BS, length_B, first_P, packed, kids_2C, ranges_3S, *, slots, places):
        logits_BP, cache = self.model.open(params, tokens_BS, length_B, slots=slots, nodes=places)
        # What follows an empty context the model says itself.
        logits_BP = jnp.where((length_B > 0)[:, None], logits_BP, first_P)
        return device.masses(logits_BP, packed, self._counted, kids_2C, ranges_3S), cache

    def step(self, params, cache, path_BM, new_3BN, packed, kids_2C, ranges_3S):
        cache = self.model.commit(cache, path_BM)
        logits_BNP, cache = self.model.grow(params, cache, *new_3BN)
        logits_RP = logits_BNP.reshape(-1, logits_BNP.shape[-1])
        return device.masses(logits_RP, packed, self._counted, kids_2C, ranges_3S), cache

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
        """Reads contexts into a cache of `slots`, and draws a column after each."""
        B = bucket(len(contexts), 1)
        trunk_BS, length_B = padded(contexts, B)
        (masks, uniform_B), first_P = self._drawing(pairs, uniform, B), self.first(length_B)
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
        batches = [order[first : first + self.rows] for first in range(0, len(order), self.rows)]
        found: list[np.ndarray] = []
        plans = (planned([rows[i] for i in b], [terms[i] for i in b], self.nodes) for b in batches)
        for plan, results in itertools.groupby(self._evaluated(plans), key=lambda one: one[0]):
            found += _gathered(plan, (result[1:] for result in results))
        place = np.argsort([i for batch in batches for i in batch])
        return [found[i] for i in place]

    def params(self) -> Any:
        """The model's parameters, its logits in the order of the columns."""
        if self._params is None or self._params[0] is not self._lm.params:
            self._params = self._lm.params, jax.jit(self.prepare)(self._lm.params)
        return self._params[1]

    def _evaluated(self, plans: Iterable[Plan]) -> Iterator[tuple[Plan, Step, tuple[jax.Array, jax.Array]]]:
        """The steps of plans and their results, a few steps late: the host plans while the device works."""
        params, waiting = self.params(), deque[Any]()
        for plan in plans:
            check_length(plan.most, self.context)
            cache, slots, places = None, 0, plan.places
            for step in plan.steps:
                given = self.columns.masks(step.pairs), step.kids_2C, step.ranges_3S
                if cache is None:
                    trunk = plan.trunk_BS, plan.length_B, self.first(plan.length_B)
                    result, cache = self._opened(params, *trunk, *given, slots=step.slots, places=places)
                else:
                    if step.slots > slots:
                        cache = self.model.widened(cache, slots=step.slots, nodes=places)
                    result, cache = self._stepped(params, cache, step.path_BM, step.new_3BN, *given)
                slots = step.slots
                waiting.append((plan, step, result))
                if len(waiting) > _AHEAD:
                    yield waiting.popleft()
        yield from waiting

    def first(self, length_B: np.ndarray) -> np.ndarray:
        """The law after the empty context `[P]`, where a row has one; the model itself must say it."""
        if length_B.all():
            return np.zeros(self.columns.size, np.float32)
        law_V = np.asarray(self._lm.next_token_logprobs([()]))[0]
        return law_V[self.columns.order]


def _gathered(plan: Plan, results: Iterable[tuple[Step, tuple[jax.Array, jax.Array]]]) -> list[np.ndarray]:
    """For each row of a plan the logarithms of its targets, from the results of its steps."""
    weights = [[0.0, *[-np.inf] * (len(terms.nodes) - 1)] for terms in plan.terms]
    values = [np.empty(len(terms.by)) for terms in plan.terms]
    for step, found in results:
        kid_C, sum_S = (np.asarray(x, np.float64) for x in found)
        for b, nodes, kids, spans in step.rows:
            parents, w = plan.parents[b], weights[b]
            # Parents come first; those of a block may be new themselves.
            for node, share in zip(nodes, kid_C[kids].tolist(), strict=True):
                w[node] = w[parents[node]] + share
            values[b][spans[0]] = sum_S[spans[1]]
    return [
        log_sums(v + np.array(w)[t.by], t.target, t.targets)
        for t, w, v in zip(plan.terms, weights, values, strict=True)
    ]


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
        self.widened = token_lm.widened

    def open(self, *args: Any, **sizes: int) -> tuple[jax.Array, Any]:
        logits_BV, cache = self._lm.open(*args, **sizes)
        return logits_BV[..., self._order_P], cache

    def grow(self, *args: Any) -> tuple[jax.Array, Any]:
        logits_BNV, cache = self._lm.grow(*args)
        return logits_BNV[..., self._order_P], cache

    def extend(self, *args: Any) -> tuple[jax.Array, Any]:
        logits_BNV, cache = self._lm.extend(*args)
        return logits_BNV[..., self._order_P], cache
