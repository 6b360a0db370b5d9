"""Where a pre-tokenizer cuts, when the text is known only up to here.

A pre-tokenizer is a sequence of *levels*; each cuts the pieces of the level before it at the matches of
a pattern. Patterns look ahead, so whether there is a cut before a character may depend on characters
that are still to come. Here the cuts are guessed, and a *hypothesis* holds what is left to check: for
every level the threads that still may end the current match, threads that must never match and sets of
threads of which one must. A character and a guess (cut before it, or not) take a hypothesis to others;
it is kept only where some text can still fulfil it. So a text with cuts is one that the pre-tokenizer
cuts like that, up to here, for some continuation, exactly if a hypothesis survives.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from bytelm.exact.cuts.guards import Guard
from bytelm.exact.cuts.patterns import Node
from bytelm.exact.cuts.program import EOF, NO_DUTY, Alphabet, Duty, Threads, compiled, move

Behaviour = Literal["isolated", "contiguous", "merged_with_previous", "merged_with_next"]
FRESH, MATCH, GAP, CLOSED = range(4)
"""What a level's current segment is: none yet; a match; text between matches; a match that ends here."""


@dataclass(frozen=True)
class Cut:
    """One level: cuts at the matches of `pattern`. An `atomic` match is a token and is cut no further.

    `behaviour` is the `tokenizers` library's: which of the cuts around a match are made. `space_as` is
    the character that the pattern sees where the text has a space.
    """

    pattern: Node
    behaviour: Behaviour = "isolated"
    inverted: bool = False
    atomic: bool = False
    space_as: str = " "


Part = tuple[int, Threads, Duty]
"""The hypothesis of one level: its segment, the threads of the match, and its duty."""

Hypothesis = tuple[Part | None, ...]
"""One part for each level; None below an atomic match."""

_START: Part = (FRESH, (), NO_DUTY)


def _part(mode: int, threads: Threads, duty: Duty) -> Part | None:
    """A part in its shortest form, or None where it contradicts itself."""
    if duty.never:
        threads = tuple(t for t in threads if t not in duty.never)
        some = frozenset(s - duty.never for s in duty.some)
        duty = Duty(duty.never, some)
    if (mode == MATCH and not threads) or frozenset() in duty.some:
        return None
    return mode, threads, duty


class _Level:
    def __init__(self, cut: Cut, alphabet: Alphabet):
        self.cut, self.program = cut, compiled(cut.pattern, alphabet, cut.space_as)
        self.atomic = cut.atomic
        self._alphabet = alphabet
        self._sets = {arguments[0] for kind, *arguments in self.program.code if kind == "set"}
        self._alike: dict[int, int] = {}  # which of its sets hold a class -> the first class like that
        self._same = functools.cache(self._find_same)
        self._known: dict[tuple[Part, int], list[tuple[bool, bool, Part]]] = {}
        self._ends: dict[Part, bool] = {}

    def _duties(self, duty: Duty, symbol: int) -> Iterator[Duty]:
        """The duty after a symbol, for every guess; nothing where it is broken."""
        options = [NO_DUTY]
        if duty.never:
            options = []
            for moved in move(self.program, sorted(duty.never), symbol):
                if moved.matched is None:
                    options.append(Duty(frozenset(moved.threads)) | moved.duty)
        for one in duty.some:
            further = []
            for moved in move(self.program, sorted(one), symbol):
                if moved.matched is not None:
                    further.append(moved.duty)
                elif moved.threads:
                    further.append(Duty(some=frozenset([frozenset(moved.threads)])) | moved.duty)
            options = [a | b for a in options for b in further]
        yield from options

    def _find_same(self, symbol: int) -> int:
        """The first class that this level cannot tell from `symbol`."""
        held = sum(1 << s for s in self._sets if self._alphabet.members(s) >> symbol & 1)
        return self._alike.setdefault(held, symbol)

    def steps(self, part: Part, symbol: int) -> list[tuple[bool, bool, Part]]:
        """Ways over a character: is there a cut before it, is it in a match, and the part after it."""
        key = part, self._same(symbol)
        if key not in self._known:
            self._known[key] = list(dict.fromkeys(self._steps(*key)))
        return self._known[key]

    def _steps(self, part: Part, symbol: int) -> Iterator[tuple[bool, bool, Part]]:
        mode, threads, duty = part
        starts = list(move(self.program, [self.program.start], symbol))
        for owed in self._duties(duty, symbol):
            if mode == GAP:
                for start in starts:
                    never = Duty(frozenset(start.threads))
                    if new := _part(GAP, (), owed | start.duty | never):
                        yield False, False, new
            if mode in (FRESH, GAP):
                yield from self._open(mode, owed, starts)
                continue
            for moved in move(self.program, threads, symbol):
                both, cut = owed | moved.duty, moved.matched
                if mode == MATCH and (new := _part(MATCH, moved.threads[:cut], both)):
                    yield False, True, new
                if cut is not None:
                    yield from self._open(mode, both | Duty(frozenset(moved.threads[:cut])), starts)

    def _open(self, before: int, owed: Duty, starts: Iterable) -> Iterator[tuple[bool, bool, Part]]:
        """A new segment with this character: a match, or where there was none before, a gap."""
        for start in starts:
            if new := _part(MATCH, start.threads, owed | start.duty):
                yield self._is_cut(before, MATCH), True, new
            if before != GAP:
                never = Duty(frozenset(start.threads))
                if new := _part(GAP, (), owed | start.duty | never):
                    yield self._is_cut(before, GAP), False, new

    def _is_cut(self, before: int, after: int) -> bool:
        left, right = (before != GAP) != self.cut.inverted, (after != GAP) != self.cut.inverted
        if before == FRESH or self.cut.behaviour == "isolated":
            return True
        if self.cut.behaviour == "contiguous":
            return left != right
        if self.cut.behaviour == "merged_with_previous":
            return left or not right
        return right or not left

    def ends(self, part: Part) -> bool:
        """Whether the text, or the piece of the level above, may end here."""
        if part not in self._ends:
            mode, threads, duty = part
            ends = any(True for _ in self._duties(duty, EOF))
            if ends and mode in (MATCH, CLOSED):
                ends = any(m.matched is not None for m in move(self.program, threads, EOF))
            self._ends[part] = ends
        return self._ends[part]


class _GuardLevel:
    """A guard as a level: it makes no cuts. Its part has the guard's state in place of a segment."""

    atomic = False

    def __init__(self, guard: Guard, alphabet: Alphabet):
        self._guard = guard
        guard.read_classes(alphabet)

    def steps(self, part: Part, symbol: int) -> list[tuple[bool, bool, Part]]:
        after = self._guard.after(part[0], symbol)
        return [] if after is None else [(False, False, (after, (), NO_DUTY))]

    def ends(self, part: Part) -> bool:
        return self._guard.ends(part[0])


class Splitter:
    """The levels together, as a machine whose states are sets of hypotheses.

    State 0 is dead, state `start` is before the text. `after` steps over a character's class.
    """

    def __init__(self, levels: Iterable[Cut | Guard], alphabet: Alphabet):
        self.alphabet = alphabet
        self._levels = [
            _Level(level, alphabet) if isinstance(level, Cut) else _GuardLevel(level, alphabet)
            for level in levels
        ]
        self._number: dict[frozenset[Hypothesis], int] = {frozenset(): 0}
        self.states: list[frozenset[Hypothesis]] = [frozenset()]
        self._steps: dict[tuple[Hypothesis, int], list[tuple[bool, bool, Hypothesis]]] = {}
        self._alive: dict[Hypothesis, bool] = {}
        self._ends: list[bool] = [False]
        self._after: dict[tuple[int, int, bool, bool], int] = {}
        self.start = self._state([tuple(_START for _ in self._levels)])

    def ends(self, state: int) -> bool:
        """Whether the text may end in this state."""
        return self._ends[state]

    def after(self, state: int, symbol: int, cut: bool, atomic: bool = False) -> int:
        """The state after a character of class `symbol`, with or without a cut before it.

        `atomic`: whether the character belongs to an atomic match.
        """
        key = state, symbol, cut, atomic
        if key not in self._after:
            ways = (way for h in self.states[state] for way in self._ways(h, symbol))
            self._after[key] = self._state(h for c, a, h in ways if c == cut and a == atomic)
        return self._after[key]

    def union(self, state: int, other: int) -> int:
        """The state with the hypotheses of both."""
        return self._state(self.states[state] | self.states[other])

    def closed(self, state: int) -> int:
        """The state in which the atomic match that is being spelled ends here."""
        found: list[Hypothesis] = []
        for hypothesis in self.states[state]:
            parts = list(hypothesis)
            for i, level in enumerate(self._levels):
                part = parts[i]
                if level.atomic and part is not None and part[0] == MATCH:
                    parts[i] = (CLOSED, part[1], part[2])
                    found.append(tuple(parts))
                    break
        return self._state(found)

    def pieces(self, text: str) -> list[int]:
        """Where the pieces of a whole text start, as indices of characters; for checks.

        Raises ValueError where the machine has no way through the text, or several.
        """
        ways: list[tuple[int, list[int]]] = [(self.start, [])]
        for i, char in enumerate(text):
            symbol = self.alphabet.of_code(ord(char))
            options = (
                (self.after(state, symbol, cut, atomic), starts + [i] * cut)
                for state, starts in ways
                for cut in (False, True)
                for atomic in (False, True)
            )
            ways = [way for way in options if way[0]]
        found = [starts for state, starts in ways if self.ends(state)]
        if len(found) != 1:
            raise ValueError(f"{text!r}: {len(found)} ways to cut it: {found[:4]}")
        return found[0]

    # ---- hypotheses ----------------------------------------------------------------------------

    def _state(self, hypotheses: Iterable[Hypothesis]) -> int:
        """The number of a set of hypotheses, without those that no text fulfils."""
        kept = frozenset(h for h in hypotheses if self._is_alive(h))
        if kept not in self._number:
            self._number[kept] = len(self.states)
            self.states.append(kept)
            self._ends.append(any(map(self._may_end, kept)))
        return self._number[kept]

    def _may_end(self, hypothesis: Hypothesis) -> bool:
        return all(p is None or level.ends(p) for level, p in zip(self._levels, hypothesis, strict=True))

    def _ways(self, hypothesis: Hypothesis, symbol: int) -> list[tuple[bool, bool, Hypothesis]]:
        """Ways over a character: cut before it, in an atomic match, hypothesis after it."""
        key = hypothesis, symbol
        if key not in self._steps:
            self._steps[key] = list(set(self._descend(hypothesis, symbol, 0, False)))
        return self._steps[key]

    def _descend(
        self, hypothesis: Hypothesis, symbol: int, i: int, cut: bool
    ) -> Iterator[tuple[bool, bool, Hypothesis]]:
        if i == len(self._levels):
            yield cut, False, ()
            return
        level, part = self._levels[i], hypothesis[i]
        if cut:  # above: this level starts again, as at the start of a text
            if part is not None and not level.ends(part):
                return
            part = _START
        assert part is not None
        for here, in_match, new in level.steps(part, symbol):
            if level.atomic and in_match:
                below = hypothesis[i + 1 :]
                rest = zip(self._levels[i + 1 :], below, strict=True)
                if not (cut or here) or all(p is None or lower.ends(p) for lower, p in rest):
                    yield cut or here, True, (new, *(None for _ in below))
            else:
                for below_cut, atomic, parts in self._descend(hypothesis, symbol, i + 1, cut or here):
                    yield below_cut, atomic, (new, *parts)

    def _is_alive(self, hypothesis: Hypothesis) -> bool:
        """Whether some text fulfils the hypothesis."""
        if hypothesis in self._alive:
            return self._alive[hypothesis]
        came_from: dict[Hypothesis, Hypothesis | None] = {hypothesis: None}
        queue = [hypothesis]
        for h in queue:
            if self._alive.get(h) or self._may_end(h):
                at: Hypothesis | None = h
                while at is not None:
                    self._alive[at] = True
                    at = came_from[at]
                return True
            for symbol in range(self.alphabet.size):
                for _, _, new in self._ways(h, symbol):
                    if new not in came_from and self._alive.get(new, True):
                        came_from[new] = h
                        queue.append(new)
        self._alive.update(dict.fromkeys(came_from, False))
        return False
