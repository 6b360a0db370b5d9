"""From what a rule says of characters to an automaton over bytes.

A rule is written as a `Definition`: given the word so far and the kind of the next character, it says what
the word is with that character, or that the character must begin a new one. Bytes bring a character
piecemeal: its first byte tells in part what kind it may be, its second fully.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, NamedTuple

import numpy as np

from bytelm.words.machine import ANCHOR, ENDS, OTHER, STRIDE_SHIFT, WIDTH_SHIFT, Rule, Tables

CHARACTER = 4  # the most bytes of a character in UTF-8


class Word(NamedTuple):
    """What a definition remembers of the word so far."""

    last: Enum  # the kind of its last character
    opening: bool = False  # it is one character that words of any kind may begin with
    closed: bool = False  # it has ended: the next character begins a word
    recount: bool = False  # the stride counts from its last character, not from its first


@dataclass(frozen=True)
class Definition:
    """A boundary rule in terms of characters, or of bytes.

    Attributes:
      at_once: `extend` never refuses, so that ends are known before the next character.
      extend: the word so far and a kind -> the word with one more character of this kind, or None if such a
        character begins a word of its own. The word so far is None where nothing was read, and may be
        closed: at-once rules then return the new word, which may depend on the last; others what they would
        had it not been closed.
      kinds: the first byte, or first two, of a character -> the kinds it may have, for two bytes only one;
        b"" is a symbol that is no byte.
      broken: the kind of a character whose bytes are not all there.
      strides: for runs of some kinds, the bytes after which they are cut, if that is before the cap. A word
        that mixes such kinds with others must be closed by the character that does.
      characters: False if `extend` is to read single bytes, so that words may end inside characters.
      exact: cut after exactly C bytes, wherever characters end.
    """

    at_once: bool
    extend: Callable[[Word | None, Any], Word | None]
    kinds: Callable[[bytes], tuple[Any, ...]]
    broken: Any = None
    strides: Mapping[Any, int] = field(default_factory=dict)
    characters: bool = True
    exact: bool = False


class _Node(NamedTuple):
    """A state of the automaton: the word, and how far its last character has come."""

    word: Word | None = None  # with its last character, if that one's kind is known; else without
    lead: int | None = None  # the first byte of a character whose kind is not known
    begins: bool = False  # that character begins a word; `word` is the one before, if it fits that one
    missing: int = 0  # bytes of the last character still to come
    width: int = 0  # bytes since the last edge of a character
    broke: bool = False  # a character broke off among those bytes (at-once rules only)


def compile_rule(name: str, definition: Definition, cap: int) -> Rule:
    """The rule of that name and definition, with words of at most `cap` symbols."""
    classes, symbols = _classes(definition)
    strides = _strides(definition, cap)
    lengths = sorted(set(strides.values()))
    numbers = {kind: lengths.index(stride) + 1 for kind, stride in strides.items()}
    found = [_Node()]  # FRESH comes first
    index = {found[0]: 0}
    nodes, marks = [], []
    for node in found:  # grows while it is read
        steps = [_advance(definition, cap, numbers, node, symbol) for symbol in symbols]
        for after, _ in steps:
            if after not in index:
                index[after] = len(found)
                found.append(after)
        nodes.append([index[after] for after, _ in steps])
        marks.append([mark for _, mark in steps])
    merged = _merged(np.array(nodes, np.int32), np.array(marks, np.int32))
    nodes_S2K, marks_S2K = (
        np.concatenate([table_SK, np.broadcast_to(table_SK[0], table_SK.shape)], axis=1)
        for table_SK in merged
    )
    tables = Tables(classes, nodes_S2K, marks_S2K, tuple(lengths))
    return Rule(name, cap, definition.at_once, tables)


def _strides(d: Definition, cap: int) -> dict[Any, int]:
    """The stride of each kind that has one of its own, and at None that of all others.

    A character of several bytes may lie across a multiple of the stride, and the cap must leave room for it.
    """
    longest = cap if d.exact else cap - CHARACTER + 1
    return {None: longest} | {kind: min(stride, longest) for kind, stride in d.strides.items()}


def _merged(nodes_SK: np.ndarray, marks_SK: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The same automaton with one state for all that no symbols tell apart (Moore's algorithm)."""
    groups, told_apart_by = 1, marks_SK
    while True:
        _, first, group_S = np.unique(told_apart_by, axis=0, return_index=True, return_inverse=True)
        group_S = np.argsort(np.argsort(first))[group_S.reshape(-1)].astype(np.int32)  # FRESH stays first
        if len(first) == groups:
            first = np.sort(first)
            return group_S[nodes_SK[first]], marks_SK[first]
        groups, told_apart_by = len(first), np.concatenate([group_S[:, None], group_S[nodes_SK]], axis=1)


def _classes(definition: Definition) -> tuple[np.ndarray, list[int]]:
    """The class of each symbol (those the definition cannot tell apart have one), a symbol of each class."""
    kinds = definition.kinds
    told = [lead for lead in range(0xC2, 0xF5) if definition.characters and len(kinds(bytes([lead]))) > 1]

    def signature(symbol: int) -> tuple[Any, ...]:
        if symbol == OTHER:
            return ()
        byte = bytes([symbol])
        continues = 0x80 <= symbol < 0xC0
        second = [kinds(bytes([lead]) + byte) for lead in told] if continues else []
        return (kinds(byte), symbol if symbol in told else None, _missing(symbol), continues, *second)

    index: dict[tuple[Any, ...], int] = {}
    classes = [index.setdefault(signature(symbol), len(index)) for symbol in range(OTHER + 1)]
    return np.array(classes, np.int32), [classes.index(c) for c in range(len(index))]


def _missing(symbol: int) -> int:
    """How many bytes should follow this first one of a character."""
    return 0 if symbol < 0xC2 or symbol >= 0xF5 else 1 if symbol < 0xE0 else 2 if symbol < 0xF0 else 3


def _advance(d: Definition, cap: int, numbers: dict[Any, int], node: _Node, symbol: int) -> tuple[_Node, int]:
    """The state after `symbol`, and the mark of what happens before it.

    No word is longer than the cap: it begins at or after a multiple of the stride from the anchor, and ends
    at the first edge at or after the next multiple, which is at most 3 bytes further. In what is not UTF-8
    too: there an at-once rule, which must know of an edge before `symbol`, sees one at every byte from the
    fourth on that makes no character with those before it.
    """
    continues = node.missing > 0 and 0x80 <= symbol < 0xC0
    stuck = d.at_once and node.missing > 0 and node.width == CHARACTER
    edge = d.exact or stuck or (node.missing == 0 if d.at_once else not continues)
    last = node.word.last if node.word and not node.missing else None

    if stuck and d.characters:
        ends, after = True, _read(d, _closed(node), symbol, continues)[1]
    else:
        ends, after = _read(d, node, symbol, continues)
    recounts = False
    if not ends and after.word is not None and after.word.recount:
        # The character that opened the word is left out of the count only if the cap allows for both.
        recounts = node.width + d.strides[after.word.last] + CHARACTER - 1 <= cap
    mark = ENDS * ends | ANCHOR * (ends or recounts) | node.width << WIDTH_SHIFT
    mark |= (numbers.get(last, numbers[None]) if edge else 0) << STRIDE_SHIFT
    missing = 0 if d.exact else node.missing - 1 if continues else _missing(symbol)
    width = CHARACTER if stuck and missing else 1 if edge else min(node.width + 1, CHARACTER)
    return after._replace(missing=missing, width=width), mark


def _closed(node: _Node) -> _Node:
    return node._replace(word=node.word and node.word._replace(closed=True), broke=False)


def _read(d: Definition, node: _Node, symbol: int, continues: bool) -> tuple[bool, _Node]:
    """Whether the word ends before `symbol`, and the state after it, `missing` and `width` aside."""
    if continues and d.characters:
        if node.lead is None:
            return False, node
        kinds = d.kinds(bytes([node.lead, symbol]))
        return False, _Node(_extended(d, node.word, kinds[0], node.begins, node.broke))

    kinds, word, broke = d.kinds(b"" if symbol == OTHER else bytes([symbol])), node.word, False
    late = d.characters and node.missing > 0
    if late:  # the last character broke off
        word, broke = Word(d.broken, closed=True), d.at_once
    fits = word is not None and any(d.extend(word, kind) is not None for kind in kinds)
    begins = not fits or word is None or word.closed
    before = word if fits else None
    ends = begins and not (late and d.at_once)  # such rules learn it with this symbol, too late
    if len(kinds) > 1:
        return ends, _Node(before, symbol, begins, broke=broke)
    return ends, _Node(_extended(d, before, kinds[0], begins, broke))


def _extended(d: Definition, before: Word | None, kind: Any, begins: bool, broke: bool) -> Word:
    """The word with one more character, which `begins` it or else joins the word before.

    A character that was let in and now does not fit closes its word. To forget, a rule must not depend on
    where words began, only on the last few characters; so one that would have been let in, had the word
    before not been closed, closes its word likewise, and opens none.
    """
    joined = None if before is None else d.extend(before, kind)
    alone = d.extend(None, kind)
    assert alone is not None
    if d.at_once:
        word = joined or alone
    elif before is None:
        word = alone
    else:
        word = alone if begins or joined is None else joined
        word = word._replace(
            opening=joined is not None and joined.opening, closed=word.closed or joined is None
        )
    return word._replace(closed=word.closed or broke)
