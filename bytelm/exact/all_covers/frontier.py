"""A frontier of segmentations of a text, byte by byte. The mathematics is in `bounds`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from bytelm.exact.all_covers.bounds import Law
from bytelm.exact.asking import asked, blocks
from bytelm.exact.batches import special
from bytelm.exact.tokenizer.vocabulary import Vocabulary
from bytelm.lm import END, LAW, Prompt, Special, Text, TokenLM, segments

NO_TEXT = Text(b"")


class Node(NamedTuple):
    """A segmentation: its tokens, where it ends in the text, log p; q over the rows; p of an end after it.

    bare: it has no tokens yet, and goes on without the dummy space.
    """

    tokens: tuple[int, ...]
    offset: int
    weight: float
    q: np.ndarray
    end: float
    bare: bool


@dataclass
class Row:
    """A text after a trunk: `waiting` are (tokens, offset, log p, bare) to be evaluated."""

    text: bytes = b""
    lead: int = 0
    nodes: list[Node] = field(default_factory=list)
    waiting: list[tuple[tuple[int, ...], int, float, bool]] = field(default_factory=list)
    mass: float = 0.0  # log B(text)
    lost: float = -np.inf
    lost_before: float = -np.inf
    dropped: float = -np.inf  # where the text ends
    dead: bool = False


class Frontier:
    """The segmentations of rows, float64, on the host; K and eps as in `AllLM`."""

    def __init__(
        self,
        token_lm: TokenLM,
        vocabulary: Vocabulary,
        dummy: bool,
        bos: int | None,
        ends: Iterable[int],
        K: int | None,
        eps: float,
    ):
        if K is not None and K < 1:
            raise ValueError(f"K must be 1 or more, or None for no limit, not {K}")
        if not 0 <= eps < 1:
            raise ValueError(f"eps must lie in [0, 1), not {eps}")
        self.token_lm, self.vocabulary, self.dummy, self.bos = token_lm, vocabulary, dummy, bos
        self.ends, self.K, self.eps = np.array(sorted(ends), np.int64), K, eps
        self._spaced = np.array([row.startswith(b" ") for row in vocabulary.rows], bool)

    def start(self, prompt: Prompt) -> Row:
        """A row for a prompt. ValueError for special tokens that the tokenizer lacks."""
        parts = segments(prompt)
        row = self._open([(() if self.bos is None else (self.bos,), 0.0)], first_text(parts), -np.inf)
        for i, part in enumerate(parts):
            if isinstance(part, Text):
                for byte in part.data:
                    self.push(row, byte)
                    self.evaluate([row])
                continue
            token = special(self.vocabulary, part.name)
            at = [(node.tokens, node.weight) for node in row.nodes if self._closes(node, row)]
            if len(at) > 1:
                laws = self.ask([tokens for tokens, _ in at])
                at = [(tokens, w + laws[tokens][token]) for tokens, w in at]
            row = self._open(
                [((*tokens, token), w) for tokens, w in at], first_text(parts[i + 1 :]), row.lost
            )
        return row

    def _closes(self, node: Node, row: Row) -> bool:
        """Whether the text may end with this segmentation: it spells all of it, or nothing for no text."""
        if node.bare or len(row.text) > row.lead:
            return not node.bare and node.offset == len(row.text)
        return node.offset in (0, len(row.text))

    def _open(self, trunks: list[tuple[tuple[int, ...], float]], text: Text, lost: float) -> Row:
        """A row after some trunks with their log p, before its text."""
        lead = int(self.dummy and text.dummy_prefix)
        row = Row(text=b" " * lead, lead=lead, lost=lost, lost_before=lost, dead=not trunks)
        row.mass = float(np.logaddexp.reduce([w for _, w in trunks])) if trunks else -np.inf
        for tokens, weight in trunks:
            row.waiting.append((tokens, 0, weight, False))
            if lead:
                row.waiting.append((tokens, 1, weight, True))
        self.evaluate([row])
        if lead:  # tokens that are the dummy space alone
            for node in list(row.nodes):
                if node.offset == 0:
                    row.waiting += self._children(node, b" ", 1)
            self.evaluate([row])
        return row

    def _children(self, node: Node, text: bytes, end: int) -> list[tuple[tuple[int, ...], int, float, bool]]:
        found = []
        for token in self.vocabulary.prefixes.get(text, ()):
            share = node.q[self.vocabulary.row_of[token]]
            if share > 0:
                found.append(((*node.tokens, token), end, node.weight + float(np.log(share)), False))
        return found

    def push(self, row: Row, byte: int) -> None:
        """One more byte: the segmentations that end with it, less those that are dropped, are waiting."""
        mass = float(self.law(row).law[byte])
        if mass == -np.inf:
            row.dead, row.lost_before, row.dropped = True, row.lost, -np.inf
        if row.dead:
            return
        row.lost_before, row.dropped = row.lost, -np.inf
        row.mass, row.text = mass, row.text + bytes([byte])
        end, kept = len(row.text), []
        new: list[tuple[tuple[int, ...], int, float, bool]] = []
        for node in row.nodes:
            text = row.text[node.offset :]
            new += self._children(node, text, end)
            _, _, following, _ = self.vocabulary.below(text)
            if len(following):
                kept.append(node)
        row.nodes = kept
        new.sort(key=lambda one: -one[2])
        least = mass + np.log(self.eps) if self.eps else -np.inf
        keep = sum(one[2] >= least for one in new[: self.K])
        for one in new[keep:]:
            row.dropped = float(np.logaddexp(row.dropped, one[2]))
        row.lost = float(np.logaddexp(row.lost, row.dropped))
        row.waiting = new[:keep]

    def law(self, row: Row) -> Law:
        """What the next symbol of a row has."""
        law = np.full(LAW, -np.inf)
        if row.dead or not row.nodes:
            return Law(law, -np.inf, row.lost_before, row.lost)
        sums, top = np.zeros(LAW), max(node.weight for node in row.nodes)
        for node in row.nodes:
            share = np.exp(node.weight - top)
            _, high, following, firsts = self.vocabulary.below(row.text[node.offset :])
            if len(firsts):
                part = node.q[int(firsts[0]) : high]
                sums[following] += share * np.add.reduceat(part, firsts - firsts[0])
            if self._closes(node, row):
                sums[END] += share * node.end
        with np.errstate(divide="ignore"):
            return Law(np.log(sums) + top, row.mass, row.lost_before, row.lost)

    def evaluate(self, rows: list[Row]) -> None:
        """Asks the token model about what is waiting in rows."""
        laws = self.ask([tokens for row in rows for tokens, _, _, _ in row.waiting])
        order = self.vocabulary.order
        for row in rows:
            for tokens, offset, weight, bare in row.waiting:
                logprobs = laws[tokens]
                end = float(np.exp(logprobs[self.ends]).sum()) if not bare else 0.0
                q = np.exp(logprobs)
                q[self.ends] = 0
                q = np.where(order < len(q), q[np.minimum(order, len(q) - 1)], 0)
                if bare:  # without the dummy space: what starts with a space would lose it
                    q[self._spaced] = 0
                row.nodes.append(Node(tokens, offset, weight, q, end, bare))
            row.waiting = []

    def ask(self, contexts: Sequence[tuple[int, ...]]) -> dict[tuple[int, ...], np.ndarray]:
        """The laws `[V]` of the tokens after contexts, each asked once."""
        new = list(dict.fromkeys(contexts))
        found: dict[tuple[int, ...], np.ndarray] = {}
        for part in blocks(self.token_lm, len(new)):
            found.update(zip(new[part], asked(self.token_lm, new[part]), strict=True))
        return found


def first_text(parts: Sequence[Text | Special]) -> Text:
    """The text that comes first; none before a special token, where nothing is put before it."""
    if not parts:
        return NO_TEXT
    return parts[0] if isinstance(parts[0], Text) else Text(b"", dummy_prefix=False)
