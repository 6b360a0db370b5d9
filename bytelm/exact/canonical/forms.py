"""Tokens as the pre-tokenizer sees them: strings of classes, with unfinished characters at the ends.

Tokens of the same *form* take the machine of cuts from one state to the same state, so the walk over a
vocabulary is a walk over a tree of class strings, all tokens of a depth at once.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np

from bytelm.exact.canonical.utf8 import DEAD, Utf8

_IMPOSSIBLE = -1


class Forms:
    """The forms of N tokens.

    A token is `lead` (bytes that finish a character begun before it), whole characters, and a tail (an
    unfinished character). `form` `[N]` numbers the pairs (node of the class tree, tail); -1 for tokens
    that occur in no text. `node` and `tail` `[F]` describe the forms, tail 0 for none, else the code of a
    partial. `leads` is, for the tokens with one, a list of (token, lead, form or None if all is lead).

    `utf8` reads bytes that spell characters, `class_of` characters that tokens hold whole; they differ
    with byte fallback, where `spelling` are the tokens that are single bytes (None: the two are one).
    """

    def __init__(
        self,
        tokens: list[bytes | None],
        utf8: Utf8,
        class_of: Callable[[int], int],
        spelling: frozenset[int] | None = None,
    ):
        self._nodes: dict[str, int] = {"": 0}
        self._parent, self._symbol, self._depth = [-1], [0], [0]
        self._utf8, self._class_of = utf8, class_of
        known: dict[str, int] = {}
        ascii_classes = bytes(max(class_of(b), 0) for b in range(128)) + bytes(128)
        dead_ascii = frozenset(b for b in range(128) if class_of(b) < 0)
        numbers: dict[tuple[int, int], int] = {}
        form = np.full(len(tokens), _IMPOSSIBLE, np.int64)
        self.leads: list[tuple[int, bytes, int | None]] = []
        for i, data in enumerate(tokens):
            if data is None:
                continue
            spells = spelling is not None and i in spelling
            if data.isascii() and not spells:
                if dead_ascii and not dead_ascii.isdisjoint(data):
                    continue
                key = (self._node(data.translate(ascii_classes).decode("latin-1")), 0)
                form[i] = numbers.setdefault(key, len(numbers))
                continue
            lead = 0
            while lead < len(data) and 0x80 <= data[lead] < 0xC0:
                lead += 1
            rest = self._spell(data[lead:]) if spells else self._split(data[lead:], known)
            if rest is None:
                continue
            number = numbers.setdefault(rest, len(numbers))
            if lead:
                self.leads.append((i, data[:lead], number if lead < len(data) else None))
            else:
                form[i] = number
        self.form = form
        self.node = np.array([node for node, _ in numbers] or [0], np.int64)[: len(numbers)]
        self.tail = np.array([tail for _, tail in numbers] or [0], np.int64)[: len(numbers)]
        self._levels()

    def _spell(self, data: bytes) -> tuple[int, int] | None:
        """The same for the bytes of one character, or a part of it."""
        code = self._utf8.walk(None, data) if data else self._utf8.size
        if code == DEAD:
            return None
        return (self._node(chr(code)), 0) if code < self._utf8.size else (0, code if data else 0)

    def _split(self, data: bytes, known: dict[str, int]) -> tuple[int, int] | None:
        """The class node and the tail of bytes that start with a character, None if no text has them."""
        tail = 0
        try:
            text = data.decode()
        except UnicodeDecodeError as error:
            if error.reason != "unexpected end of data":
                return None
            code = self._utf8.walk(None, data[error.start :])
            if code == DEAD:
                return None
            tail, text = code, data[: error.start].decode()
        classes = []
        for char in text:
            if char not in known:
                known[char] = self._class_of(ord(char))
            if known[char] < 0:
                return None
            classes.append(known[char])
        return self._node("".join(map(chr, classes))), tail

    def _node(self, classes: str) -> int:
        if classes in self._nodes:
            return self._nodes[classes]
        parent = self._node(classes[:-1])
        self._nodes[classes] = node = len(self._parent)
        self._parent.append(parent)
        self._symbol.append(ord(classes[-1]))
        self._depth.append(len(classes))
        return node

    def _levels(self) -> None:
        depth = np.array(self._depth)
        order = np.argsort(depth, kind="stable")
        bounds = np.searchsorted(depth[order], np.arange(1, depth.max() + 2))
        parent, symbol = np.array(self._parent), np.array(self._symbol)
        self.levels = [
            (nodes, parent[nodes], symbol[nodes])
            for low, high in itertools.pairwise(bounds)
            for nodes in [order[low:high]]
        ]
        self.nodes = len(self._parent)


class Table:
    """A function from (state, class) to a state, filled as it is asked; state 0 is dead."""

    def __init__(self, function: Callable[[int, int], int], classes: int):
        self._function, self._classes = function, classes
        self._known = np.full((16, classes), -1, np.int32)
        self._known[0] = 0

    def __getitem__(self, at: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
        states, symbols = at
        top = int(states.max(initial=0))
        while top >= len(self._known):
            more = np.full_like(self._known, -1)
            self._known = np.concatenate([self._known, more])
        found = self._known[states, symbols]
        missing = found < 0
        if missing.any():
            for key in np.unique(
                states[missing].astype(np.int64) * self._classes + symbols[missing]
            ).tolist():
                state, symbol = divmod(key, self._classes)
                self._known[state, symbol] = self._function(state, symbol)
            found = self._known[states, symbols]
        return found


def walk(forms: Forms, start: int, first: Table, then: Table) -> np.ndarray:
    """The states `[nodes]` at every node of the class tree; the first character steps by `first`."""
    states = np.zeros(forms.nodes, np.int32)
    states[0] = start
    for depth, (nodes, parents, symbols) in enumerate(forms.levels):
        table = first if depth == 0 else then
        states[nodes] = table[states[parents], symbols]
    return states
