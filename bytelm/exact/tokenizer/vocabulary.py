"""The bytes of every token, and the vocabulary sorted by them."""

from __future__ import annotations

import functools
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from bytelm.exact.cuts.pretokenizers import byte_alphabet
from bytelm.exact.tokenizer.read import read
from bytelm.exact.tokenizer.source import Source


@dataclass
class Vocabulary:
    """V tokens and their bytes.

    data: the bytes of every id, b"" for special tokens and ids without a piece. special: name -> id.
    added: the same for added tokens that are text.
    order: the M ids that have bytes, sorted by them (then by id); *rows* below are places in it.
    """

    data: list[bytes]
    special: dict[str, int]
    added: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        ids = sorted((t for t, b in enumerate(self.data) if b), key=lambda t: (self.data[t], t))
        self.order = np.array(ids, np.int64)
        self.rows = [self.data[t] for t in ids]
        self.row_of = np.full(len(self.data), -1, np.int64)
        self.row_of[self.order] = np.arange(len(ids))
        self.longest = max(map(len, self.rows), default=0)
        self._ends = np.cumsum([len(b) for b in self.rows], dtype=np.int64)
        self._starts = np.concatenate([[0], self._ends[:-1]])
        self._blob = np.frombuffer(b"".join(self.rows), np.uint8)
        self.below = functools.lru_cache(maxsize=65536)(self._below)

    @classmethod
    def read(cls, tokenizer: Any) -> Vocabulary:
        """From a tokenizer in any of its forms; raises `Unsupported`."""
        return cls.of(read(tokenizer))

    @classmethod
    def of(cls, source: Source) -> Vocabulary:
        """From a source."""
        size = 1 + max([len(source.pieces) - 1, *source.special.values()])
        data = [b""] * size
        byte_of = {char: byte for byte, char in byte_alphabet().items()}
        table = {ord(char): byte for char, byte in byte_of.items()}
        special = set(source.special.values())
        spelled = {token: bytes([byte]) for byte, token in source.fallback.items()}
        for token, piece in enumerate(source.pieces):
            if piece is None or token in special:
                continue
            if source.byte_level:
                try:
                    data[token] = piece.translate(table).encode("latin-1")
                except UnicodeEncodeError:  # no byte-level piece: no encoding ever holds it
                    data[token] = piece.encode()
            elif token in spelled:
                data[token] = spelled[token]
            else:
                data[token] = piece.replace(source.space, " ").encode()
        for group in source.added:
            for token, content in group.items():
                data[token] = content.encode()
        added = {content: token for group in source.added for token, content in group.items()}
        return cls(data, dict(source.special), added)

    @property
    def size(self) -> int:
        """V: one more than the largest id."""
        return len(self.data)

    def named(self, name: str) -> int:
        """The id of a special token, or of an added token that is text. Raises KeyError, naming some."""
        if name in self.special:
            return self.special[name]
        if name in self.added:  # Qwen's <|fim_prefix|> is text: a prompt may still ask for the token itself
            return self.added[name]
        known = ", ".join(sorted(self.special)[:12]) or "none"
        raise KeyError(f"the tokenizer has no special token {name!r}; it has {known}")

    def empty(self) -> list[int]:
        """Ids without bytes: special tokens and gaps. They are in no cover."""
        return [token for token, data in enumerate(self.data) if not data]

    def duplicates(self) -> dict[bytes, list[int]]:
        """Byte strings that several tokens share, with their ids."""
        found: dict[bytes, list[int]] = {}
        for row in range(1, len(self.rows)):
            if self.rows[row] == self.rows[row - 1]:
                found.setdefault(self.rows[row], [int(self.order[row - 1])]).append(int(self.order[row]))
        return found

    def _below(self, prefix: bytes) -> tuple[int, int, np.ndarray, np.ndarray]:
        """Rows that start with `prefix`: first, one past the last, their next bytes. `below` caches it.

        The last two arrays describe the rows longer than the prefix, which follow those equal to it:
        the bytes that come next, uint8 `[k]`, sorted, and the first row of each, int64 `[k]`.
        """
        from bisect import bisect_left

        low = bisect_left(self.rows, prefix)
        high = low
        if low < len(self.rows) and self.rows[low].startswith(prefix):
            high = bisect_left(self.rows, True, lo=low, key=lambda b: not b.startswith(prefix))
        longer = low
        while longer < high and len(self.rows[longer]) == len(prefix):
            longer += 1
        following = self._blob[self._starts[longer:high] + len(prefix)]
        firsts = np.flatnonzero(np.diff(following.astype(np.int16), prepend=-1))
        return low, high, following[firsts], longer + firsts

    @functools.cached_property
    def prefixes(self) -> dict[bytes, tuple[int, ...]]:
        """For every prefix of a token the ids whose bytes it is; most have none."""
        found: dict[bytes, tuple[int, ...]] = {}
        for token, data in zip(self.order.tolist(), self.rows, strict=True):
            for stop in range(len(data) - 1, 0, -1):
                if data[:stop] in found:
                    break
                found[data[:stop]] = ()
            found[data] = (*found.get(data, ()), token)
        return found
