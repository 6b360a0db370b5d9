"""From independent slots of sub-words to the law of the next byte: a sum over all ways to spell a word.

The slots of a word are a random word: a piece from each in turn, until STOP or the last slot, spelled out. As
the slots are independent, sums over all sequences of pieces that spell the same are a dynamic programme over
(symbols spelled, slots used). The functions are of one word; `jax.vmap` makes them of a batch. Everything is
in logarithms, but for sums over pieces, which are taken relative to the likeliest way to get there.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from bytelm.lm import END, LAW
from bytelm.models.pieces import Vocabulary, walk

_LEAST = -80.0  # no piece is less likely than e to this, so that sums in float32 keep every byte possible


class Masses(NamedTuple):
    """Logarithms of probabilities under the slots of a word."""

    next_V: jax.Array  # that it begins with the symbols so far, and then each of the 257
    whole: jax.Array  # that it is exactly the symbols so far


def first(v: Vocabulary, law_O: jax.Array) -> jax.Array:
    """log p of a word's first symbol [257], from the law of its first slot over all outputs [V + 2]."""
    return _by_symbol(jnp.exp(jnp.maximum(law_O, _LEAST)), jnp.asarray(v.bytes_VL[:, 0]), jnp.bool_(True))


def masses(v: Vocabulary, law_KO: jax.Array, symbols_C: jax.Array, size: jax.Array) -> Masses:
    """Of a word that begins with ``symbols_C[:size]``, from the laws of its K slots over all outputs.

    K is at least C, so that every word can be spelled byte by byte.
    """
    (K, _), (C,) = law_KO.shape, symbols_C.shape
    law_KO, at_C = jnp.maximum(law_KO, _LEAST), jnp.arange(C + 1)
    symbols_C, L = jnp.pad(symbols_C.astype(jnp.int32), (0, 1)), v.longest

    # The node of the trie at the end of the 0, 1, ..., L symbols from each place.
    def further(node_C: jax.Array, depth: jax.Array) -> tuple[jax.Array, jax.Array]:
        there_C = at_C + depth
        node_C = walk(v, node_C, symbols_C[jnp.minimum(there_C, C)])
        node_C = jnp.where(there_C < size, node_C, -1)
        return node_C, node_C

    root_C = jnp.zeros(C + 1, jnp.int32)
    _, node_LC = jax.lax.scan(further, root_C, jnp.arange(L, dtype=jnp.int32))
    node_CL = jnp.concatenate([root_C[None], node_LC]).T  # [C + 1, L + 1]

    # way[j, k]: the first k slots spell the first j symbols.
    def spell(way_Ck: jax.Array, j: jax.Array) -> tuple[jax.Array, None]:
        depth_C = j - at_C
        node_C = jnp.take_along_axis(node_CL, jnp.clip(depth_C, 0, L)[:, None], axis=1)[:, 0]
        piece_C = jnp.where(node_C >= 0, jnp.asarray(v.piece_N)[node_C], -1)
        piece_C = jnp.where((depth_C == 1) & (symbols_C >= END), v.end, piece_C)
        real_C = (depth_C >= 1) & (depth_C <= L) & (piece_C >= 0)
        cost_CK = jnp.where(real_C[:, None], law_KO[:, piece_C].T, -jnp.inf)
        reached_K = jax.nn.logsumexp(way_Ck[:, :K] + cost_CK, axis=0)
        return jnp.where(j <= size, way_Ck.at[j, 1:].set(reached_K), way_Ck), None

    way_Ck = jnp.full((C + 1, K + 1), -jnp.inf).at[0, 0].set(0.0)
    way_Ck, _ = jax.lax.scan(spell, way_Ck, jnp.arange(1, C + 1))

    stop_k = jnp.append(law_KO[:, v.stop], 0.0)  # after the last slot nothing is left to stop
    whole = jax.nn.logsumexp(way_Ck[size] + stop_k)

    # The piece that holds the next symbol begins at some place i <= size, and goes on as the word does.
    depth_C = jnp.clip(size - at_C, 0, L)
    node_C = jnp.take_along_axis(node_CL, depth_C[:, None], axis=1)[:, 0]
    open_C = (at_C <= size) & (size - at_C <= L) & (node_C >= 0)
    way_CK = jnp.where(open_C[:, None], way_Ck[:, :K], -jnp.inf)
    top_C = jnp.max(way_CK, axis=1)
    share_CK = jnp.where(jnp.isfinite(top_C)[:, None], jnp.exp(way_CK - top_C[:, None]), 0.0)
    mass_CO = jnp.matmul(share_CK, jnp.exp(law_KO), precision="highest")
    piece_V = jnp.arange(v.end)
    low_C1, high_C1 = (jnp.asarray(x)[node_C][:, None] for x in (v.low_N, v.high_N))
    inside_CO = jnp.pad((piece_V >= low_C1) & (piece_V < high_C1), ((0, 0), (0, 2)), constant_values=True)
    symbol_CV = jnp.asarray(v.bytes_VL.T)[depth_C]
    log_CV = jax.vmap(_by_symbol)(jnp.where(inside_CO, mass_CO, 0.0), symbol_CV, depth_C == 0)
    return Masses(jax.nn.logsumexp(log_CV + top_C[:, None], axis=0), whole)


def _by_symbol(mass_O: jax.Array, symbol_V: jax.Array, begins: jax.Array) -> jax.Array:
    """The logarithm of the mass of the pieces that have each symbol at a place, [257]. End of text is an
    output of its own, at the place where pieces begin."""
    V = len(symbol_V)
    mass_V = jnp.zeros(LAW).at[symbol_V].add(mass_O[:V])
    return jnp.log(mass_V.at[END].set(jnp.where(begins, mass_O[V], 0.0)))
