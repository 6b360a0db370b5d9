"""A pattern as a program of threads over classes of characters.

The program is a prioritised automaton (Thompson's construction with ordered branches, as in Pike's
virtual machine): of all ways to match, the first in the order of the threads is the one that a
backtracking matcher finds. Lookaheads are *guessed*: a thread that passes one goes on under an
obligation, that some threads of the lookahead will match or that none will.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from bytelm.exact.cuts import characters
from bytelm.exact.cuts.patterns import MANY, Ahead, AtEnd, Chars, Concat, Either, Node, Repeat

EOF = -1  # in place of a class: the text ends here


class Alphabet:
    """Sets of characters in, classes of characters that no set tells apart out.

    `members(i)` of the i-th set added is an int whose bit c says whether class c lies in the set.
    """

    def __init__(self) -> None:
        self._sets: list[np.ndarray] = []
        self._index: dict[bytes, int] = {}
        self._members: list[int] = []
        self.of_slot = np.zeros(0, np.int16)
        self.size = 0

    def add(self, members: np.ndarray) -> int:
        """Adds a set, booleans `[SLOTS]`; returns its number."""
        key = np.packbits(members).tobytes()
        if key not in self._index:
            self._index[key] = len(self._sets)
            self._sets.append(members)
        return self._index[key]

    def close(self, texts: np.ndarray) -> None:
        """Finds the classes; characters outside the set `texts` get class -1, all sets lose them."""
        code = np.zeros(characters.SLOTS, np.int64)
        for members in self._sets:
            code = code * 2 + members
            if code.max() >= 1 << 40:
                code = np.unique(code, return_inverse=True)[1]
        starts = np.flatnonzero(np.diff(code, prepend=-1))  # a few thousand runs
        runs = np.unique(code[starts], return_inverse=True)[1]
        of_slot = np.repeat(runs, np.diff(starts, append=len(code)))
        used, first, of_text = np.unique(of_slot[texts], return_index=True, return_inverse=True)
        place = np.empty(len(used), of_text.dtype)
        place[np.argsort(first)] = np.arange(len(used))  # in the order of characters: ASCII's below 128
        of_slot[texts] = place[of_text]
        of_slot[~texts] = -1
        self.of_slot, self.size = of_slot.astype(np.int16), len(used)
        first = np.zeros(self.size, np.int64)
        slots = np.flatnonzero(texts)[::-1]
        first[of_slot[slots]] = slots
        self._members = [sum(1 << c for c in range(self.size) if s[first[c]]) for s in self._sets]

    def members(self, index: int) -> int:
        return self._members[index]

    def of_code(self, code: int) -> int:
        return int(self.of_slot[characters.slot(code)])


# ---- programs ---------------------------------------------------------------------------------------


@dataclass
class Program:
    """Instructions; a thread is the number of one. Kinds, with their arguments:

    "set" (set, next), "branch" (first, second), "ahead" (negative, start of the body, next), "end" (next),
    "match" ().
    """

    alphabet: Alphabet
    space_as: str = " "
    code: list[tuple] = field(default_factory=list)
    start: int = 0

    def emit(self, *instruction: object) -> int:
        self.code.append(instruction)
        return len(self.code) - 1


def compiled(node: Node, alphabet: Alphabet, space_as: str = " ") -> Program:
    """The program of a pattern; its sets are added to the alphabet.

    `space_as` is the character that the pattern sees where the text has a space.
    """
    program = Program(alphabet, space_as)
    program.start = _compile(program, node, program.emit("match"))
    return program


def _compile(program: Program, node: Node, then: int) -> int:
    """Instructions that match `node` and go on at `then`; returns the first."""
    if isinstance(node, Chars):
        members = node.members
        if program.space_as != " ":
            members = members.copy()
            members[ord(" ")] = members[ord(program.space_as)]
        return program.emit("set", program.alphabet.add(members), then)
    if isinstance(node, Concat):
        for part in reversed(node.parts):
            then = _compile(program, part, then)
        return then
    if isinstance(node, Either):
        starts = [_compile(program, part, then) for part in node.parts]
        first = starts[-1]
        for start in reversed(starts[:-1]):
            first = program.emit("branch", start, first)
        return first
    if isinstance(node, Ahead):
        body = _compile(program, node.body, program.emit("match"))
        return program.emit("ahead", node.negative, body, then)
    if isinstance(node, AtEnd):
        return program.emit("end", then)
    assert isinstance(node, Repeat)
    if node.high == MANY:
        loop = program.emit("branch", -1, then)
        program.code[loop] = ("branch", _compile(program, node.body, loop), then)
        then = loop
    else:
        end = then
        for _ in range(node.high - node.low):
            # Each optional copy, skipped, skips all that follow it.
            then = program.emit("branch", _compile(program, node.body, then), end)
    for _ in range(node.low):
        then = _compile(program, node.body, then)
    return then


# ---- running ----------------------------------------------------------------------------------------

Threads = tuple[int, ...]


@dataclass(frozen=True)
class Duty:
    """What the future owes: none of the threads `never` matches, of each set in `some` one does."""

    never: frozenset[int] = frozenset()
    some: frozenset[frozenset[int]] = frozenset()

    def __or__(self, other: Duty) -> Duty:
        return Duty(self.never | other.never, self.some | other.some)


NO_DUTY = Duty()


@dataclass(frozen=True)
class Moved:
    """Threads after a character (or at the end of the text).

    `threads` are ordered; `matched` is the number of them that stand before the first thread that had
    matched before the character, or None where none had.
    """

    threads: Threads
    matched: int | None
    duty: Duty


def _append(threads: list[int], more: Iterable[int]) -> None:
    threads.extend(t for t in more if t not in threads)


def move(program: Program, threads: Sequence[int], symbol: int) -> Iterator[Moved]:
    """What threads come to by a character's class or EOF: one result for each guess of lookaheads."""
    yield from _move(program, list(threads), symbol, (), None, NO_DUTY, frozenset())


def _move(
    program: Program,
    stack: list[int],
    symbol: int,
    done: Threads,
    matched: int | None,
    duty: Duty,
    seen: frozenset[int],
) -> Iterator[Moved]:
    stack = list(stack)
    found, visited = list(done), set(seen)
    while stack:
        thread = stack.pop(0)
        if thread in visited:
            continue
        visited.add(thread)
        kind, *arguments = program.code[thread]
        if kind == "match":
            if matched is None:
                matched = len(found)
        elif kind == "set":
            if symbol != EOF and program.alphabet.members(arguments[0]) >> symbol & 1:
                _append(found, [arguments[1]])
        elif kind == "branch":
            stack[:0] = arguments
        elif kind == "end":
            if symbol == EOF:
                stack.insert(0, arguments[0])
        else:
            negative, body, after = arguments
            for inner in move(program, [body], symbol):
                threads = frozenset(inner.threads)
                settled = inner.matched is not None or any(program.code[t][0] == "match" for t in threads)
                guesses = [settled] if settled or not threads else [True, False]
                for holds in guesses:
                    owed = NO_DUTY
                    if not settled and threads:
                        owed = Duty(some=frozenset([threads])) if holds else Duty(never=threads)
                    rest = [after, *stack] if holds != negative else stack
                    yield from _move(
                        program,
                        rest,
                        symbol,
                        tuple(found),
                        matched,
                        duty | inner.duty | owed,
                        frozenset(visited),
                    )
            return
    yield Moved(tuple(found), matched, duty)
