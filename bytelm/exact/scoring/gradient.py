"""Scores and laws of texts as a pure function of a model's parameters, to be differentiated or compiled.

On the device everything is float32, where the weights of long paths would lose their digits. So at each
offset the nodes that count are weighed relative to their last common ancestor: a few tokens away, whatever
came before. What is done before the model runs is done here once, for all parameters.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bytelm.exact.asking import check_length
from bytelm.exact.rows import Row, common
from bytelm.exact.scoring import device
from bytelm.exact.scoring.passes import Passes
from bytelm.exact.scoring.plan import Plan, Step, planned
from bytelm.exact.scoring.terms import Terms
from bytelm.lm import LAW


class _Sums:
    """Sums over terms, each at a place among all masses, of a node relative to its offset's ancestor."""

    def __init__(self) -> None:
        self.mass: list[np.ndarray] = []
        self.pair: list[np.ndarray] = []
        self.target: list[np.ndarray] = []
        self.paths: list[list[int]] = []

    def add(self, parent: list[int], kid_at: np.ndarray, terms: Terms, mass_at: np.ndarray, groups) -> None:
        """Adds a row's terms, in groups: which, their targets, and whether they are relative to each other.

        Those that are not are relative to the row's base.
        """
        for chosen, targets, relative in groups:
            nodes, which = np.unique(terms.by[chosen], return_inverse=True)
            if not len(nodes):
                continue
            end = common(parent, nodes.tolist()) if relative else 0
            pairs = np.arange(len(nodes)) + len(self.paths)
            for node in nodes.tolist():
                path = []
                while node != end:
                    path.append(int(kid_at[node]))
                    node = parent[node]
                self.paths.append(path)
            self.mass.append(mass_at[chosen])
            self.pair.append(pairs[which])
            self.target.append(targets)

    def arrays(self, nowhere: int) -> tuple[np.ndarray, ...]:
        """The places of masses, pairs and targets, and of the steps of each pair's path `[Q, L]`."""
        longest = max(map(len, self.paths), default=0)
        paths_QL = np.full((len(self.paths), max(1, longest)), nowhere)
        for q, path in enumerate(self.paths):
            paths_QL[q, : len(path)] = path
        return (*map(np.concatenate, (self.mass, self.pair, self.target)), paths_QL)


def differentiable(
    passes: Passes, rows: Sequence[Row], asked: Sequence[Terms], joint: bool, laws: bool
) -> Callable[[Any], jax.Array]:
    """A function of the parameters: scores `[B, T + 1]` or laws `[B, T + 1, 257]`, padded with 0.

    rows: none of them dead. asked: their terms, as for the one or the other.
    """
    plan = planned(rows, asked, passes.nodes, widest=True)
    check_length(plan.most, passes.context)
    evaluate, kid_at, mass_at, counts = _evaluation(passes, plan)
    T = max(len(row.tree.text) - row.offset for row in rows) + 1
    sums = _Sums()
    for b, (row, terms) in enumerate(zip(rows, asked, strict=True)):
        groups = _laws(terms, b * T) if laws else _scores(row, terms, joint, len(rows) * T, b * T)
        sums.add(plan.parents[b], kid_at[b], terms, mass_at[b], groups)
    targets = len(rows) * T * (LAW if laws else 2)
    mass_S, pair_S, target_S, paths_QL = sums.arrays(counts[0])
    real_BT = np.arange(T) < np.array([[len(row.tree.text) - row.offset + 1] for row in rows])
    plain_BT = np.zeros((len(rows), T), bool)  # where the text before is empty: nothing to divide by
    plain_BT[:, 0] = [row.offset == row.tree.lead and not joint for row in rows]

    def function(params: Any) -> jax.Array:
        kids_C, masses_K = evaluate(params)
        weight_Q = jnp.append(kids_C, 0.0)[paths_QL].sum(axis=1)
        values_S = masses_K[mass_S] + weight_Q[pair_S]
        top_A = jax.ops.segment_max(jax.lax.stop_gradient(values_S), target_S, targets)
        top_A = jnp.where(jnp.isfinite(top_A), top_A, 0.0)
        log_A = (
            device.log(jax.ops.segment_sum(jnp.exp(values_S - top_A[target_S]), target_S, targets)) + top_A
        )
        if laws:
            law_BTV = log_A.reshape(len(rows), T, LAW)
            some_BT1 = (law_BTV > -jnp.inf).any(axis=2, keepdims=True)
            total_BT1 = jax.nn.logsumexp(jnp.where(some_BT1, law_BTV, 0.0), axis=2, keepdims=True)
            return jnp.where(real_BT[:, :, None], law_BTV - total_BT1, 0.0)
        gained_BT, whole_BT = log_A.reshape(2, len(rows), T)
        whole_BT = jnp.where(plain_BT | ~jnp.isfinite(whole_BT), 0.0, whole_BT)
        return jnp.where(real_BT, gained_BT - whole_BT, 0.0)

    return function


def _scores(row: Row, terms: Terms, joint: bool, size: int, first: int):
    """Groups of terms offset by offset: what is gained there, and what it is divided by."""
    n = len(row.tree.text) - row.offset
    order = np.argsort(terms.target, kind="stable")
    bounds = np.searchsorted(terms.target[order], np.arange(terms.targets + 1))
    of = [order[low:high] for low, high in itertools.pairwise(bounds)]
    for i in range(n + 1):
        gained = of[i + 1] if i < n else of[n + 1]
        start = i == 0 and row.offset == row.tree.lead
        whole = of[n + 2 + i] if joint else of[i]
        chosen = np.concatenate([gained, whole])
        target = np.concatenate([np.full(len(gained), first + i), np.full(len(whole), size + first + i)])
        yield chosen, target, joint or not start


def _laws(terms: Terms, first: int):
    """Groups of terms offset by offset."""
    offset = terms.target // LAW
    for i in range(terms.targets // LAW):
        chosen = np.flatnonzero(offset == i)
        yield chosen, first * LAW + terms.target[chosen].astype(np.int64), True


def _evaluation(passes: Passes, plan: Plan):
    """All steps as one function of the parameters, and where its results are.

    Gives the function: to log q of all kids `[C]` and of all ranges `[K]`; for each row the place of each
    node among the kids, and of each term among the ranges; and (C, K).
    """
    first, *others = plan.steps
    kid_at = [np.zeros(len(t.nodes), np.int64) for t in plan.terms]
    mass_at = [np.zeros(len(t.by), np.int64) for t in plan.terms]
    sizes = [
        max((s.kids_2C.shape[1] for s in others), default=0),
        max((s.ranges_3S.shape[1] for s in others), default=0),
    ]
    at = [0, 0]
    for step in plan.steps:
        for b, nodes, kids, (own, spans) in step.rows:
            kid_at[b][nodes] = np.arange(kids.start, kids.stop) + at[0]
            mass_at[b][own] = np.arange(spans.start, spans.stop) + at[1]
        here = (first.kids_2C.shape[1], first.ranges_3S.shape[1]) if step is first else sizes
        at = [at[0] + here[0], at[1] + here[1]]

    def given(step: Step, kids: int, ranges: int):
        sizes = (step.kids_2C, kids), (step.ranges_3S, ranges)
        wide = (np.pad(x, ((0, 0), (0, size - x.shape[1]))) for x, size in sizes)
        return passes.columns.masks(step.pairs), *wide

    opened = given(first, first.kids_2C.shape[1], first.ranges_3S.shape[1])
    stacked = None
    if others:
        each = [(s.path_BM, s.new_3BN, *given(s, *sizes)) for s in others]
        stacked = jax.tree.map(lambda *x: np.stack(x), *each)
    first_P = passes.first(plan.length_B)

    def evaluate(params: Any) -> tuple[jax.Array, jax.Array]:
        params = passes.prepare(params)
        (kid_C, sum_K), cache = passes.open_step(
            params, plan.trunk_BS, plan.length_B, first_P, *opened, slots=first.slots, places=plan.places
        )
        if stacked is None:
            return kid_C, sum_K

        @jax.checkpoint
        def step(cache, arrays):
            found, cache = passes.step(params, cache, *arrays)
            return cache, found

        _, (kid_SC, sum_SK) = jax.lax.scan(step, cache, stacked)
        return jnp.append(kid_C, kid_SC), jnp.append(sum_K, sum_SK)

    return evaluate, kid_at, mass_at, at
