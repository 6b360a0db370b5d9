"""Sub-words on the device: a vocabulary as a trie in sorted arrays, and words cut into its longest pieces.

The canonical pieces of a word are those of WordPiece (Wu et al., arXiv 1609.08144): the longest that the word
begins with, then the longest that the rest begins with, and so on, whatever trained the vocabulary. Every
byte is a piece, so there always is one. Nothing but symbols comes from the host.
"""

from __future__ import annotations

from functools import cache
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bytelm.lm import END


class Vocabulary(NamedTuple):
    """V pieces in the order of their bytes; then come two outputs more, end of text and the end of a word.

    A node of the trie is a beginning of pieces, numbered by length, then bytes; node 0 is the empty one. The
    edge to node n + 1 is number n, so that edges are sorted too.
    """

    spellings: tuple[bytes, ...]
    edges_E: np.ndarray  # int32: 256 times the parent, plus the byte
    piece_N: np.ndarray  # int32: the piece that a node spells, -1: none
    low_N: np.ndarray  # int32: pieces [low, high) begin with the node's bytes
    high_N: np.ndarray
    bytes_VL: np.ndarray  # int32: of the pieces, END after their last; L is one more than the longest

    @property
    def longest(self) -> int:
        return self.bytes_VL.shape[1] - 1

    @property
    def end(self) -> int:
        return len(self.spellings)

    @property
    def stop(self) -> int:
        return len(self.spellings) + 1

    @property
    def outputs(self) -> int:
        return len(self.spellings) + 2


def to_text(spellings: set[bytes]) -> str:
    """Spellings as a config holds them: in hex, with spaces between."""
    return " ".join(s.hex() for s in sorted(spellings))


@cache
def vocabulary(text: str = "") -> Vocabulary:
    """The vocabulary of a config; without pieces the 256 bytes. Raises ValueError for what is not hex."""
    try:
        given = {bytes.fromhex(word) for word in text.split()}
    except ValueError as error:
        raise ValueError(f"model.pieces: not spellings in hex with spaces between: {error}") from error
    pieces = sorted(given | {bytes([b]) for b in range(256)})
    nodes = sorted({p[:n] for p in pieces for n in range(len(p) + 1)}, key=lambda p: (len(p), p))
    number = {p: i for i, p in enumerate(nodes)}
    edges_E = np.array([256 * number[p[:-1]] + p[-1] for p in nodes[1:]], np.int32)
    of_piece = {p: i for i, p in enumerate(pieces)}
    piece_N = np.array([of_piece.get(p, -1) for p in nodes], np.int32)
    low_N, high_N = np.full(len(nodes), len(pieces), np.int32), np.zeros(len(nodes), np.int32)
    for i, p in enumerate(pieces):
        for n in range(len(p) + 1):
            node = number[p[:n]]
            low_N[node], high_N[node] = min(low_N[node], i), i + 1
    bytes_VL = np.full((len(pieces), 1 + max(map(len, pieces))), END, np.int32)
    for i, p in enumerate(pieces):
        bytes_VL[i, : len(p)] = list(p)
    return Vocabulary(tuple(pieces), edges_E, piece_N, low_N, high_N, bytes_VL)


def walk(v: Vocabulary, node_BT: jax.Array, symbol_BT: jax.Array) -> jax.Array:
    """The nodes after one more symbol, -1 where there is none; from -1 there is none."""
    key_BT = node_BT * 256 + symbol_BT
    edge_BT = jnp.searchsorted(v.edges_E, key_BT, method="scan_unrolled").astype(jnp.int32)
    found_BT = jnp.asarray(v.edges_E)[jnp.minimum(edge_BT, len(v.edges_E) - 1)] == key_BT
    return jnp.where(found_BT & (node_BT >= 0) & (symbol_BT < END), edge_BT + 1, -1)


class Cut(NamedTuple):
    """Words of rows [B, T] as their canonical pieces."""

    starts_BT: jax.Array  # bool: a piece begins at this symbol
    piece_BT: jax.Array  # int32: which, if one does; END's own for every symbol that is no byte
    place_BT: jax.Array  # int32: and its number in the word, from 0
    count_BT: jax.Array  # int32: pieces of the word that begin up to here
    number_BT: jax.Array  # int32: and of the row, less one


def cut(v: Vocabulary, symbols_BT: jax.Array, begins_BT: jax.Array) -> Cut:
    """The pieces of words that begin where `begins_BT`, the first symbol of a row in any case."""
    T = symbols_BT.shape[1]
    symbols_BT, t_T = jnp.asarray(symbols_BT, jnp.int32), jnp.arange(T, dtype=jnp.int32)
    begins_BT = jnp.asarray(begins_BT).at[:, 0].set(True)
    word_BT = jnp.cumsum(begins_BT, axis=1, dtype=jnp.int32)

    def further(carry, depth):
        node_BT, size_BT, piece_BT = carry
        ahead_T = jnp.minimum(t_T + depth, T - 1)
        inside_BT = (word_BT[:, ahead_T] == word_BT) & (t_T + depth < T)
        node_BT = jnp.where(inside_BT, walk(v, node_BT, symbols_BT[:, ahead_T]), -1)
        of_node_BT = jnp.where(node_BT >= 0, jnp.asarray(v.piece_N)[node_BT], -1)
        size_BT = jnp.where(of_node_BT >= 0, depth + 1, size_BT)
        return (node_BT, size_BT, jnp.where(of_node_BT >= 0, of_node_BT, piece_BT)), None

    start = jnp.zeros_like(symbols_BT), jnp.ones_like(symbols_BT), jnp.full_like(symbols_BT, v.end)
    (_, size_BT, piece_BT), _ = jax.lax.scan(further, start, jnp.arange(v.longest, dtype=jnp.int32))

    # Pieces follow one another through the whole row, since none reaches beyond its word: those that begin a
    # piece are what the first symbol leads to, in 1, 2, 4, ... steps.
    begun_BS = jnp.zeros((len(symbols_BT), T + 1), bool).at[:, 0].set(True)
    next_BS = jnp.pad(t_T + size_BT, ((0, 0), (0, 1)), constant_values=T)

    def double(_: int, begun_and_next: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        begun_BS, next_BS = begun_and_next
        led_to_BS = put(jnp.zeros_like(begun_BS), next_BS, begun_BS, "max")
        return begun_BS | led_to_BS, jnp.take_along_axis(next_BS, next_BS, axis=1)

    begun_BS, _ = jax.lax.fori_loop(0, T.bit_length(), double, (begun_BS, next_BS))
    starts_BT = begun_BS[:, :T]
    number_BT = jnp.cumsum(starts_BT, axis=1, dtype=jnp.int32) - 1
    first_BT = jax.lax.cummax(jnp.where(begins_BT, number_BT, 0), axis=1)
    place_BT = number_BT - first_BT
    return Cut(starts_BT, piece_BT, place_BT, place_BT + 1, number_BT)


# ---- what is predicted ---------------------------------------------------------------------------------


class Candidates(NamedTuple):
    """What may be predicted, one at each symbol of rows [B, T]."""

    real_BT: jax.Array  # bool: there is one
    word_BT: jax.Array  # from the state of which word
    slot_BT: jax.Array
    output_BT: jax.Array


class Targets(NamedTuple):
    """What is predicted, at most M outputs a row: arrays [B, M], in the order of the row."""

    real_BM: jax.Array  # bool: there is a target
    at_BM: jax.Array  # the symbol that bears its cost
    word_BM: jax.Array
    slot_BM: jax.Array
    output_BM: jax.Array
    limit_B: jax.Array  # symbols from here on are beyond the limit


def pack(most: int, of_pieces: Candidates, of_stops: Candidates, first_BT: jax.Array) -> Targets:
    """The first `most` candidates of each row. Where there are more, those of the word of the first one too
    many are left out with it; `first_BT` is where the word of each symbol begins."""
    B, T = first_BT.shape
    both = [jnp.stack(pair, axis=-1).reshape(B, 2 * T) for pair in zip(of_stops, of_pieces, strict=True)]
    find = jax.vmap(lambda real_S: jnp.nonzero(real_S, size=most + 1, fill_value=2 * T)[0])
    found_BM = find(both[0])
    over_B1 = found_BM[:, -1:] // 2
    limit_B1 = jnp.take_along_axis(first_BT, jnp.minimum(over_B1, T - 1), axis=1)
    limit_B1 = jnp.where(over_B1 < T, limit_B1, T)
    at_BM = found_BM[:, :-1] // 2
    index_BM = jnp.minimum(found_BM[:, :-1], 2 * T - 1)
    word_BM, slot_BM, output_BM = (jnp.take_along_axis(x, index_BM, axis=1) for x in both[1:])
    real_BM, at_BM = at_BM < limit_B1, jnp.minimum(at_BM, T - 1)
    return Targets(real_BM, at_BM, word_BM, slot_BM, output_BM, limit_B1[:, 0])


def costs(targets: Targets, nats_BM: jax.Array, T: int) -> jax.Array:
    """The cost of all targets at the symbols that bear it, [B, T]."""
    zero_BT = jnp.zeros((len(nats_BM), T), nats_BM.dtype)
    return put(zero_BT, targets.at_BM, jnp.where(targets.real_BM, nats_BM, 0.0), "add")


def put(into_BT: jax.Array, at_BM: jax.Array, value_BM: jax.Array, how: Literal["add", "max"]) -> jax.Array:
    """Values added to the entries of their row, or the larger of both. Row by row, and not by pairs of row
    and place, so that a mesh that cuts the batch has nothing to send."""
    return jax.vmap(lambda into_T, at_M, value_M: getattr(into_T.at[at_M], how)(value_M))(
        into_BT, at_BM, value_BM
    )
