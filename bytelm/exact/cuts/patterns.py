r"""Regular expressions of pre-tokenizers, parsed into trees of character sets.

The syntax is that of Oniguruma (Ruby), which `tokenizers` uses, as far as pre-tokenizers need it:
alternatives, groups, classes, `\p{..}`, greedy and possessive repeats, `(?i:..)`, lookaheads, `\z`, `$`.
What is not known here is refused with the pattern printed. Possessive repeats are accepted only where
they match what the greedy ones do.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bytelm.exact.cuts import characters
from bytelm.exact.errors import Unsupported

_FOLDED_PAIRS = ("ss", "ff", "fi", "fl", "st")  # one character may match these two when case is ignored
_PLAIN = {"r": "\r", "n": "\n", "t": "\t", "f": "\f", "v": "\v"}
_SET_ESCAPES = "sSdDwW"
MANY = -1  # no upper limit of a repeat


@dataclass(frozen=True, eq=False)
class Chars:
    """One character of a set, booleans `[SLOTS]`. `folded`: the letter, where case is ignored."""

    members: np.ndarray
    folded: str = ""


@dataclass(frozen=True)
class Concat:
    parts: tuple[Node, ...]


@dataclass(frozen=True)
class Either:
    """Alternatives, the first that leads to a match wins."""

    parts: tuple[Node, ...]


@dataclass(frozen=True)
class Repeat:
    body: Node
    low: int
    high: int
    possessive: bool = False


@dataclass(frozen=True)
class Ahead:
    """A lookahead: `body` matches here (or, `negative`, does not)."""

    body: Node
    negative: bool


@dataclass(frozen=True)
class AtEnd:
    r"""The end of the text (`\z`)."""


Node = Chars | Concat | Either | Repeat | Ahead | AtEnd


def literal(text: str) -> Node:
    """The text itself."""
    return Concat(tuple(Chars(characters.of_codes(ord(c), ord(c))) for c in text))


def parse(pattern: str) -> Node:
    """The tree of a regular expression. Raises `Unsupported` for what is not known."""
    parser = _Parser(pattern)
    tree = parser.either()
    if parser.at < len(pattern):
        parser.refuse(f"unexpected {pattern[parser.at]!r}")
    if nullable(tree):
        parser.refuse("the pattern matches the empty text")
    for part in tree.parts if isinstance(tree, Either) else (tree,):
        _check_possessive(part, pattern, outermost=True)
    return tree


def nullable(node: Node) -> bool:
    """Whether the node can match without consuming a character, in some context."""
    return _empty(node, asserted=True)


def _always_empty(node: Node) -> bool:
    """Whether the node can match without consuming a character, in every context."""
    return _empty(node, asserted=False)


def _empty(node: Node, asserted: bool) -> bool:
    """Whether the node can match without consuming a character, where assertions hold or do not."""
    if isinstance(node, Chars):
        return False
    if isinstance(node, Concat):
        return all(_empty(part, asserted) for part in node.parts)
    if isinstance(node, Either):
        return any(_empty(part, asserted) for part in node.parts)
    if isinstance(node, Repeat):
        return node.low == 0 or _empty(node.body, asserted)
    return asserted


def _first(node: Node) -> np.ndarray:
    """The characters that can be consumed first. Booleans `[SLOTS]`."""
    if isinstance(node, Chars):
        return node.members
    found = np.zeros(characters.SLOTS, bool)
    if isinstance(node, Repeat):
        return _first(node.body)
    if isinstance(node, Either):
        for part in node.parts:
            found = found | _first(part)
    if isinstance(node, Concat):
        for part in node.parts:
            found = found | _first(part)
            if not nullable(part):
                break
    return found


def _check_possessive(node: Node, pattern: str, outermost: bool) -> None:
    """Refuses possessive repeats that could differ from greedy ones.

    Giving characters back changes nothing where what follows can match the empty text at once (then
    nothing is given back), or can match neither before a character of the repeat nor without one.
    """
    parts = node.parts if isinstance(node, Concat) else (node,)
    for i, part in enumerate(parts):
        if isinstance(part, Repeat) and part.possessive:
            rest = Concat(parts[i + 1 :])
            simple = isinstance(part.body, Chars)
            # At the end of the text nothing was given back, so `\z` cannot match after giving back.
            ends = isinstance(rest.parts[-1] if rest.parts else None, AtEnd)
            blocked = (not nullable(rest) or ends) and not (_first(rest) & _first(part)).any()
            if not (simple and outermost and (_always_empty(rest) or blocked)):
                raise Unsupported("pre_tokenizer", pattern, "a possessive repeat that is more than greedy")
        elif isinstance(part, Repeat | Ahead):
            _check_possessive(part.body, pattern, outermost=False)
        elif isinstance(part, Either | Concat):
            for inner in part.parts:
                _check_possessive(inner, pattern, outermost=False)


class _Parser:
    def __init__(self, pattern: str):
        self.pattern, self.at, self.ignore_case = pattern, 0, False

    def refuse(self, why: str) -> None:
        raise Unsupported("pre_tokenizer", self.pattern, f"{why}, at character {self.at} of the pattern")

    def peek(self, text: str) -> bool:
        return self.pattern.startswith(text, self.at)

    def take(self, text: str) -> bool:
        if self.peek(text):
            self.at += len(text)
            return True
        return False

    def next(self) -> str:
        if self.at >= len(self.pattern):
            self.refuse("the pattern ends too early")
        self.at += 1
        return self.pattern[self.at - 1]

    def either(self) -> Node:
        parts = [self.concat()]
        while self.take("|"):
            parts.append(self.concat())
        return parts[0] if len(parts) == 1 else Either(tuple(parts))

    def concat(self) -> Node:
        parts: list[Node] = []
        while self.at < len(self.pattern) and not self.peek("|") and not self.peek(")"):
            parts.append(self.repeats(self.atom()))
        folded = "".join(p.folded if isinstance(p, Chars) and p.folded else "\0" for p in parts)
        if any(pair in folded for pair in _FOLDED_PAIRS):
            self.refuse("letters that one character may match when case is ignored")
        return parts[0] if len(parts) == 1 else Concat(tuple(parts))

    def repeats(self, node: Node) -> Node:
        while self.at < len(self.pattern):
            if self.peek("{"):
                node, counted = self.counted(node), True
            elif self.pattern[self.at] in "*+?":
                sign = self.next()
                node, counted = Repeat(node, int(sign == "+"), 1 if sign == "?" else MANY), False
            else:
                break
            if isinstance(node.body, Ahead | AtEnd) or (node.high == MANY and nullable(node.body)):
                self.refuse("a repeat of something empty")
            if self.peek("?"):
                self.refuse("a lazy repeat")
            # After {n,m} a plus is a second repeat, in this syntax.
            if not counted and self.take("+"):
                node = Repeat(node.body, node.low, node.high, possessive=True)
        return node

    def counted(self, node: Node) -> Repeat:
        stop = self.pattern.find("}", self.at)
        low, comma, high = self.pattern[self.at + 1 : max(stop, 0)].partition(",")
        if not low.isdigit() or (high and not high.isdigit()):
            self.refuse("a brace that is no repeat")
        self.at = stop + 1
        return Repeat(node, int(low), int(high) if high else MANY if comma else int(low))

    def atom(self) -> Node:
        if self.take("("):
            return self.group()
        if self.take("["):
            return Chars(self.klass())
        if self.take("."):
            return Chars(characters.matching("."))
        if self.take("$"):  # the end of a line
            return Either((AtEnd(), Ahead(literal("\n"), negative=False)))
        if self.take(r"\z"):
            return AtEnd()
        if self.pattern[self.at] in "^*+?{":
            self.refuse(f"{self.pattern[self.at]!r} here")
        char, members = self.character()
        if members is not None:
            return Chars(members)
        folded = char.lower() if self.ignore_case and char.isalpha() else ""
        return Chars(self.single(char), folded)

    def group(self) -> Node:
        before = self.ignore_case
        ahead: bool | None = None
        if self.take("?:"):
            pass
        elif self.take("?i:"):
            self.ignore_case = True
        elif self.take("?="):
            ahead = False
        elif self.take("?!"):
            ahead = True
        elif self.peek("?"):
            self.refuse("a group of an unknown kind")
        body = self.either()
        if not self.take(")"):
            self.refuse("a parenthesis is not closed")
        self.ignore_case = before
        return body if ahead is None else Ahead(body, ahead)

    def single(self, char: str) -> np.ndarray:
        if not self.ignore_case:
            return characters.of_codes(ord(char), ord(char))
        if not char.isascii():
            self.refuse("a letter beyond ASCII with case ignored")
        return characters.ignoring_case(char)

    def character(self) -> tuple[str, np.ndarray | None]:
        """One character, or the set of an escape."""
        char = self.next()
        if char != "\\":
            return char, None
        char = self.next()
        if char in _SET_ESCAPES:
            return "", characters.matching("\\" + char)
        if char in "pP":
            stop = self.pattern.find("}", self.at)
            if not self.peek("{") or stop < 0:
                self.refuse("a property without braces")
            name, self.at = self.pattern[self.at : stop + 1], stop + 1
            return "", characters.matching(f"\\{char}{name}")
        if char == "u" or char == "x":
            width = 4 if char == "u" else 2
            digits, self.at = self.pattern[self.at : self.at + width], self.at + width
            if len(digits) < width or any(d not in "0123456789abcdefABCDEF" for d in digits):
                self.refuse("an escape that is no code point")
            return chr(int(digits, 16)), None
        if char.isalnum():
            if char not in _PLAIN:
                self.refuse(f"the escape \\{char}")
            return _PLAIN[char], None
        return char, None

    def klass(self) -> np.ndarray:
        """A bracketed class, after its opening bracket; brackets inside it are unions."""
        negated, found = self.take("^"), np.zeros(characters.SLOTS, bool)
        while not self.take("]"):
            if self.peek("&&") or self.peek("[:"):
                self.refuse("an intersection or a named class")
            if self.take("["):
                found = found | self.klass()
                continue
            low, members = self.character()
            if members is not None:
                if self.ignore_case:
                    self.refuse("a class of properties with case ignored")
                found = found | members
            elif self.peek("-") and not self.peek("-]"):
                self.at += 1
                high, members = self.character()
                if members is not None or self.ignore_case or ord(high) < ord(low):
                    self.refuse("a range of this kind")
                found = found | characters.of_codes(ord(low), ord(high))
            else:
                found = found | self.single(low)
        return characters.valid() & ~found if negated else found
