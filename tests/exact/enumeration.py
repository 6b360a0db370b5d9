"""P(x) by brute force: every sequence of tokens that covers x, each kept if it is in pre(D).

Membership is decided by the tokenizer itself: a sequence counts if the encoding of some continuation of
its text, up to four more characters of a small alphabet, begins with it.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import oracle
from tokenizer_zoo import TINY_CHARS

from bytelm.exact.canonical.canonical import Canonical
from bytelm.lm import END, LAW

CONTINUATIONS = ["".join(chars) for size in range(4) for chars in itertools.product(TINY_CHARS, repeat=size)]
MARKS = "\u0301\u0323"  # both compose with a and s, the second stands before the first


class Membership:
    """Which tokens may follow a sequence, and whether it is an encoding; remembered."""

    def __init__(self, canonical: Canonical):
        self.canonical, self.data = canonical, canonical.vocabulary.data
        self._known: dict[tuple[int, ...], tuple[list[int], bool]] = {}

    def __call__(self, path: tuple[int, ...]) -> tuple[list[int], bool]:
        if path not in self._known:
            tokens = [t for t, data in enumerate(self.data) if data and self._is_prefix([*path, t])]
            text = self._text(list(path))
            whole = text is not None and tuple(self.canonical.source.encode(text)) == path
            self._known[path] = tokens, whole and oracle.survives(self.canonical, text, list(path))
        return self._known[path]

    def _text(self, tokens: list[int], more: bytes = b"") -> str | None:
        data = b"".join(self.data[t] for t in tokens) + more
        if self.canonical.source.dummy and tokens:
            if data[:1] != b" ":
                return None
            data = data[1:]
        try:
            return data.decode()
        except UnicodeDecodeError:
            return None

    def _is_prefix(self, tokens: list[int]) -> bool:
        # As it is, or with what finishes "é" or, where there is a normal form, a combining mark.
        marks = ("", *MARKS) if self.canonical.source.guards else ("",)
        for tail in (b"", "é".encode()[1:], *(mark.encode()[1:] for mark in marks[1:])):
            text = self._text(tokens, tail)
            for whole in () if text is None else (text + m + c for m in marks for c in CONTINUATIONS):
                found = self.canonical.source.encode(whole)
                if found[: len(tokens)] == tokens and oracle.survives(self.canonical, whole, found):
                    return True
        return False


class Enumeration:
    """Laws of bytes from a token model, by definition. `dummy`: the text starts with the dummy space."""

    def __init__(
        self, members: Membership, token_lm, ends: Sequence[int], joint: bool, bos: Sequence[int] = ()
    ):
        canonical, self.members = members.canonical, members
        self.source, self.vocabulary = canonical.source, canonical.vocabulary
        self.lm, self.ends, self.joint, self.bos = token_lm, ends, joint, tuple(bos)
        self.lead = b" " if self.source.dummy else b""
        self._allowed: dict[tuple[int, ...], dict[int, float]] = {}

    def bytes_of(self, tokens: Sequence[int]) -> bytes:
        return b"".join(self.vocabulary.data[t] for t in tokens)

    def allowed(self, path: tuple[int, ...]) -> dict[int, float]:
        """Token -> q for all tokens that keep the path in pre(D), and END -> q(end) where it is in D."""
        if path not in self._allowed:
            tokens, whole = self.members(path)
            p = np.exp(self.lm.law((*self.bos, *path)))
            found = {token: p[token] for token in tokens if token not in self.ends}
            if whole:
                found[-1] = sum(p[e] for e in self.ends)
            if not self.joint:
                total = sum(found.values())
                found = {token: q / total for token, q in found.items()}
            self._allowed[path] = found
        return self._allowed[path]

    def law(self, text: bytes) -> np.ndarray:
        """P(text and then each of 257 symbols), `[257]`; probabilities, not normalised."""
        target = self.lead + text
        law = np.zeros(LAW)
        stack: list[tuple[tuple[int, ...], float]] = [((), 1.0)]
        while stack:
            path, weight = stack.pop()
            done = self.bytes_of(path)
            for token, q in self.allowed(path).items():
                if token == -1:
                    if done == target or (not text and not path):
                        law[END] += weight * q
                    continue
                longer = done + self.vocabulary.data[token]
                if target.startswith(longer):
                    stack.append(((*path, token), weight * q))
                elif longer.startswith(target):
                    law[longer[len(target)]] += weight * q
        return law
