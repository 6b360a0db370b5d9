"""A boundary rule as tables, and the three forms that read them.

A rule is a finite automaton over symbols, and a count of symbols since the last *anchor*: a place where the
automaton itself ends a word. What lies between two anchors may be long, so it is cut at the first edge of a
character at or after each multiple of a *stride* from the anchor. Cuts thus depend on anchors and never on
earlier cuts.

Rows are not read symbol by symbol. Every rule *forgets*: after `Tables.memory` symbols its state no longer
depends on the one before them. So a row is cut into pieces that are read side by side, each after a run-up
over the last symbols of the piece before it. `PIECE` + `memory` dependent steps do for a row of any length,
and a symbol costs ``1 + memory / PIECE`` look-ups in a small table.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from types import ModuleType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

FRESH = 0  # the state that has read nothing
OTHER = 256  # what stands, in the tables, for every symbol that is no byte
PIECE = 32  # symbols of a row that are read one after the other; at least any rule's memory

# A mark says what happens before a symbol. Bit 0: the automaton ends a word. Bit 1: an anchor, as every such
# end is. Bits 2..4: bytes of the character before the symbol. Bits 5..7: the number, from 1, of the stride; 0
# inside a character.
ENDS, ANCHOR, WIDTH_SHIFT, STRIDE_SHIFT, MARK_BITS = 1, 2, 2, 5, 8

_BLOCK = 2**18  # symbols that the NumPy form reads at a time, to bound its memory
_NEVER = -(2**30)


class State(NamedTuple):
    """What a rule remembers of the symbols it has read: two int32 arrays, [B] or [B, T]."""

    node: Any  # the automaton's state
    since: (
        Any  # symbols from the last anchor to the last symbol: 0 where a word begins at it, by the automaton
    )


@dataclass(frozen=True, eq=False)
class Tables:
    """The automaton, over K classes of symbols; a class counts twice, the second time for documents' starts.

    Attributes:
      classes: int32 [257], the class of each byte and of what is no byte.
      nodes, marks: int32 [S, 2K], the next state, and a mark, by state and class. The second K classes do in
        every state what the first do in `FRESH`.
      strides: in symbols; marks hold their numbers, from 1.
      memory: after so many symbols any two states have become one.

    Raises ValueError if that takes more than `PIECE` symbols.
    """

    classes: np.ndarray
    nodes: np.ndarray
    marks: np.ndarray
    strides: tuple[int, ...]
    memory: int = field(init=False)

    def __post_init__(self) -> None:
        apart_SS = ~np.eye(len(self.nodes), dtype=bool)
        for steps in range(1, PIECE + 1):
            apart_SS = np.any([apart_SS[np.ix_(column, column)] for column in self.nodes.T], axis=0)
            if not apart_SS.any():
                object.__setattr__(self, "memory", steps)
                return
        raise ValueError(
            f"words: two states may still differ after {PIECE} symbols; a rule must forget sooner"
        )

    @cached_property
    def steps(self) -> np.ndarray:
        """int32 [S, 2K]: next state and mark in one, so that a symbol takes one look-up."""
        return self.nodes << MARK_BITS | self.marks


@dataclass(frozen=True, eq=False)
class Rule:
    """Whether a word ended before each symbol, decided from that symbol and those before it.

    The first symbol of a row and of a document always begins a word, and a symbol >= 256 ends its own. No
    word has more than `cap` symbols. Appending text changes nothing that is decided.

    Attributes:
      name: one of `bytelm.words.RULES`.
      cap: C, the most symbols of a word.
      at_once: it knows before symbol t whether a word ended there; otherwise it needs to see symbol t.
        The start of a document is told, not decided, and so excepted.

    Raises ValueError for tables that read more than `at_once` declares.
    """

    name: str
    cap: int
    at_once: bool
    tables: Tables = field(repr=False)

    def __post_init__(self) -> None:
        inside_SK = self.tables.marks[:, : self.tables.marks.shape[1] // 2]
        if self.at_once and (inside_SK != inside_SK[:, :1]).any():
            raise ValueError(
                f"words: rule {self.name!r} declares that it knows at once, but reads the next symbol"
            )

    def ended_before(self, symbols: bytes | np.ndarray, documents: np.ndarray | None = None) -> np.ndarray:
        """Whether a word ended before each symbol, bool [T] or [B, T], with NumPy.

        Args:
          symbols: bytes, or integers >= 0 of shape [T] or [B, T].
          documents: numbers of that shape; where they change along a row, a document begins. A row may begin
            within one: what came before is not known, and its first symbol begins a word.

        Raises TypeError for symbols that are no integers, ValueError for negative ones and wrong shapes.
        """
        array = _checked(symbols)
        rows_BT = np.atleast_2d(array)
        first_BT = None
        if documents is not None:
            if np.shape(documents) != array.shape:
                raise ValueError(
                    f"words: documents have shape {list(np.shape(documents))}, symbols {list(array.shape)}; "
                    "give one number a symbol"
                )
            first_BT = _firsts(np, np.atleast_2d(documents))
        ended_BT = np.empty(rows_BT.shape, bool)
        state = State(*np.zeros((2, len(rows_BT)), np.int32))
        size = max(_BLOCK // max(len(rows_BT), 1), 1)
        for at in range(0, rows_BT.shape[1], size):
            block = np.s_[:, at : at + size]
            first = None if first_BT is None else first_BT[block]
            ended_BT[block], states = self._read(np, rows_BT[block], first, state)
            state = State(states.node[:, -1], states.since[:, -1])
        return ended_BT.reshape(array.shape)

    def cut(self, data: bytes) -> list[bytes]:
        """The words of `data`; joined they are `data`."""
        starts = np.flatnonzero(self.ended_before(data)).tolist()
        return [data[a:b] for a, b in pairwise([*starts, len(data)])]

    def read(self, symbols_BT: jax.Array, documents_BT: jax.Array | None = None) -> tuple[jax.Array, State]:
        """What `ended_before` says, bool [B, T], and the state after each symbol [B, T]; inside `jax.jit`.

        Arguments as for `ended_before`, arrays of jax. Values cannot be checked there: negative symbols give
        nonsense. `step` goes on from any of the states, so a prompt may be read at once and then continued.
        """
        first_BT = None if documents_BT is None else _firsts(jnp, documents_BT)
        return self._read(jnp, symbols_BT, first_BT, self.start(symbols_BT.shape[0]))

    def start(self, rows: int) -> State:
        """The state [B] of `rows` rows that have read nothing."""
        return State(jnp.full(rows, FRESH, jnp.int32), jnp.zeros(rows, jnp.int32))

    def step(self, state: State, symbol_B: jax.Array) -> tuple[jax.Array, State]:
        """Whether a word ended before one more symbol, bool [B], and the state after it; inside `jax.jit`."""
        ended_B1, states = self._read(jnp, symbol_B[:, None], None, state)
        return ended_B1[:, 0], State(states.node[:, 0], states.since[:, 0])

    def ended_after(self, state: State) -> jax.Array:
        """Whether the word of the last symbol is known to have ended, before the next one comes.

        A rule that knows at once gives its answer for the next symbol here; others always say False, as do
        all where nothing was read. Bool, of the shape of the state's arrays.
        """
        if not self.at_once:
            return jnp.zeros(jnp.shape(state.node), bool)
        mark = _look_up(jnp, self.tables.marks[:, 0], state.node)
        return self._ended(jnp, mark, state.since + 1) & (state.node != FRESH)

    def _read(self, xp: ModuleType, symbols_BT: Any, first_BT: Any, before_B: State) -> tuple[Any, State]:
        """The one computation behind all forms, with NumPy or jax.numpy as `xp`."""
        (B, T), (_, K2) = symbols_BT.shape, self.tables.nodes.shape
        if T == 0:
            return xp.zeros((B, 0), bool), State(*xp.zeros((2, B, 0), xp.int32))
        class_BT = _look_up(xp, self.tables.classes, xp.minimum(symbols_BT.astype(xp.int32), OTHER))
        if first_BT is not None:
            class_BT = class_BT + first_BT * np.int32(K2 // 2)
        L = min(T, PIECE)
        N = -(-T // L)  # pieces; the last is filled up, and the filling dropped again
        class_BT = xp.pad(class_BT, ((0, 0), (0, N * L - T)))
        class_LBN = class_BT.reshape(B, N, L).transpose(2, 0, 1)

        def advance(carry: Any, class_and_at: Any) -> tuple[Any, Any]:
            node_BN, anchor_BN = carry
            class_BN, at = class_and_at
            step_BN = _look_up(xp, self.tables.steps, node_BN * np.int32(K2) + class_BN)
            node_BN = step_BN >> MARK_BITS
            anchor_BN = xp.where(step_BN & ANCHOR != 0, at, anchor_BN)
            return (node_BN, anchor_BN), (step_BN, anchor_BN)

        at_L = xp.arange(L, dtype=xp.int32)
        node_BN = before_B.node[:, None]
        if N > 1:
            run_up = slice(L - self.tables.memory, L)
            nothing_BN = xp.zeros((B, N - 1), xp.int32)
            inputs = class_LBN[run_up, :, :-1], at_L[run_up]
            (past_BN, _), _ = _scan(xp, advance, (nothing_BN, nothing_BN), inputs)
            node_BN = xp.concatenate([node_BN, past_BN], axis=1)
        never_BN = xp.full((B, N), _NEVER, xp.int32)
        _, (step_LBN, anchor_LBN) = _scan(xp, advance, (node_BN, never_BN), (class_LBN, at_L))

        # So far anchors are places in their piece. Up to the first of a piece the last before it counts.
        at_N = xp.arange(N, dtype=xp.int32) * np.int32(L)
        earlier_BN = xp.concatenate(
            [-1 - before_B.since[:, None], anchor_LBN[-1, :, :-1] + at_N[:-1]], axis=1
        )
        running_maximum = np.maximum.accumulate if xp is np else lax.cummax
        anchor_LBN = xp.maximum(anchor_LBN + at_N, running_maximum(earlier_BN, axis=1))
        since_LBN = at_L[:, None, None] + at_N - anchor_LBN

        def rows(x_LBN: Any) -> Any:
            return x_LBN.transpose(1, 2, 0).reshape(B, N * L)[:, :T]

        ended_LBN = self._ended(xp, step_LBN, since_LBN)
        return rows(ended_LBN), State(rows(step_LBN >> MARK_BITS), rows(since_LBN))

    def _ended(self, xp: ModuleType, mark: Any, since: Any) -> Any:
        """Whether a word ended before a symbol, by its mark and the symbols from the last anchor to it."""
        stride, width = (mark >> STRIDE_SHIFT) & 7, (mark >> WIDTH_SHIFT) & 7
        since = since.astype(xp.uint32)  # divides faster, as do constants than an array of strides
        ended = mark & ENDS != 0
        for number, m in enumerate(self.tables.strides, start=1):
            # A multiple of the stride lies in the character that is complete here.
            past = since - since // np.uint32(m) * np.uint32(m)
            ended = ended | ((stride == number) & (since >= m) & (past < width.astype(xp.uint32)))
        return ended


def _look_up(xp: ModuleType, table: np.ndarray, index: Any) -> Any:
    if xp is np:
        return table.reshape(-1).take(index)
    return jnp.asarray(table.reshape(-1)).at[index].get(mode="promise_in_bounds")


def _scan(
    xp: ModuleType, body: Callable[[Any, Any], Any], carry: Any, inputs: tuple[Any, Any]
) -> tuple[Any, Any]:
    """`lax.scan`, or the same with NumPy."""
    if xp is not np:
        return lax.scan(body, carry, inputs)
    outputs = []
    for row in zip(*inputs, strict=True):
        carry, output = body(carry, row)
        outputs.append(output)
    return carry, tuple(np.stack(output) for output in zip(*outputs, strict=True))


def _firsts(xp: ModuleType, documents_BT: Any) -> Any:
    """Where a document begins after the start of its row; a row's start has nothing before it anyway."""
    return xp.pad(documents_BT[:, 1:] != documents_BT[:, :-1], ((0, 0), (min(1, documents_BT.shape[1]), 0)))


def _checked(symbols: bytes | np.ndarray) -> np.ndarray:
    if isinstance(symbols, bytes | bytearray | memoryview):
        return np.frombuffer(symbols, np.uint8)
    if not isinstance(symbols, np.ndarray) or symbols.dtype.kind not in "iu":
        kind = f"array of {symbols.dtype}" if isinstance(symbols, np.ndarray) else type(symbols).__name__
        raise TypeError(
            f"words: symbols must be bytes or an array of integers, not {kind}; encode text first"
        )
    if symbols.ndim not in (1, 2):
        raise ValueError(f"words: symbols must have shape [T] or [B, T], not {list(symbols.shape)}")
    if symbols.size and symbols.min() < 0:
        at = [int(i) for i in np.unravel_index(symbols.argmin(), symbols.shape)]
        raise ValueError(f"words: symbol {at} is {symbols.min()}; symbols are 0 or more")
    return symbols
