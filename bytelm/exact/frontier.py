"""The byte model of all tokenisations: a frontier of segmentations. The mathematics is in `bounds`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from bytelm.exact.bounds import Bounds, Law, interval, normalised, subtracted
from bytelm.exact.importance import estimate
from bytelm.exact.source import Source, read
from bytelm.exact.vocabulary import Vocabulary
from bytelm.lm import END, LAW, Prompt, Special, Text, TokenLM, as_bytes, segments

_BLOCK = 1 << 24  # token probabilities that are in memory at once
_NO_TEXT = Text(b"")


class _Node(NamedTuple):
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
class _Row:
    """A text after a trunk: `waiting` are (tokens, offset, log p, bare) to be evaluated."""

    text: bytes = b""
    lead: int = 0
    nodes: list[_Node] = field(default_factory=list)
    waiting: list[tuple[tuple[int, ...], int, float, bool]] = field(default_factory=list)
    mass: float = 0.0  # log B(text)
    lost: float = -np.inf
    lost_before: float = -np.inf
    dropped: float = -np.inf  # where the text ends
    dead: bool = False


@dataclass
class State:
    """A ragged batch: see `ByteLM`."""

    rows: list[_Row]
    consumed: bool = False


def all_lm(
    token_lm: TokenLM, tokenizer: Any, bos: int | None, ends: Iterable[int], K: int | None, eps: float
) -> AllLM:
    """From a tokenizer in any of its forms, or its `Canonical`. Raises `Unsupported`, ValueError."""
    source = tokenizer.source if isinstance(getattr(tokenizer, "source", None), Source) else read(tokenizer)
    return AllLM(token_lm, Vocabulary.of(source), source.dummy, bos, ends, K, eps)


class AllLM:
    """A `ByteLM` of all tokenisations, made by `convert(support="all")`; float64, on the host.

    Laws are B(xb), normalised; `bounds` and `intervals` say how far the truth may be from them, `leak` what
    tokens without bytes have. K: the most segmentations that may end at one byte, None for no limit; eps:
    the least share of P that one must have. The token model is asked once a byte for a batch.
    """

    def __init__(
        self,
        token_lm: TokenLM,
        vocabulary: Vocabulary,
        dummy: bool,
        bos: int | None = None,
        ends: Iterable[int] = (),
        K: int | None = 64,
        eps: float = 1e-6,
    ):
        if K is not None and K < 1:
            raise ValueError(f"K must be 1 or more, or None for no limit, not {K}")
        if not 0 <= eps < 1:
            raise ValueError(f"eps must lie in [0, 1), not {eps}")
        self.token_lm, self.vocabulary, self.dummy, self.bos = token_lm, vocabulary, dummy, bos
        self.ends, self.K, self.eps = np.array(sorted(ends), np.int64), K, eps
        self._spaced = np.array([row.startswith(b" ") for row in vocabulary.rows], bool)

    # ---- the protocol --------------------------------------------------------------------------

    def start(self, prompts: Sequence[Prompt]) -> State:
        """A state of a row for each prompt. ValueError for special tokens that the tokenizer lacks."""
        return State([self._start(prompt) for prompt in prompts])

    def next_logprobs(self, state: State) -> np.ndarray:
        """Log probabilities `[B, 257]` of the next byte or the end, of the segmentations that are kept."""
        _check(state)
        return np.array([normalised(self._law(row).law) for row in state.rows]).reshape(-1, LAW)

    def push(self, state: State, symbols: Sequence[int | None]) -> State:
        """A byte, or None, for each row; the old state is consumed."""
        _check(state)
        if len(symbols) != len(state.rows):
            raise ValueError(f"{len(symbols)} symbols were pushed on {len(state.rows)} rows")
        for symbol in symbols:
            if symbol is not None and not 0 <= symbol < END:
                raise ValueError(f"{symbol} was pushed, which is not a byte")
        state.consumed = True
        moved = [(row, s) for row, s in zip(state.rows, symbols, strict=True) if s is not None]
        for row, symbol in moved:
            self._push(row, symbol)
        self._evaluate([row for row, _ in moved])
        return State(state.rows)

    def fork(self, state: State) -> State:
        """An independent copy."""
        _check(state)
        twins = []
        for row in state.rows:
            twin = _Row(**row.__dict__)
            twin.nodes, twin.waiting = row.nodes.copy(), row.waiting.copy()
            twins.append(twin)
        return State(twins)

    def score(
        self, texts: Sequence[bytes | str], prompts: Sequence[Prompt] | None = None
    ) -> list[np.ndarray]:
        """For each text float64 `[len(text) + 1]`: log p(byte | prompt, bytes before); last, the end."""
        found = []
        for text, laws in zip(texts, self.laws(texts, prompts), strict=True):
            data = as_bytes(text)
            scores = laws[np.arange(len(data) + 1), [*data, END]]
            bad = np.flatnonzero(scores == -np.inf)
            if len(bad):
                scores[bad[0] :] = -np.inf
            found.append(scores)
        return found

    def laws(self, texts: Sequence[bytes | str], prompts: Sequence[Prompt] | None = None) -> list[np.ndarray]:
        """For each text `[len(text) + 1, 257]`: the whole law before each byte, and at the end."""
        return [np.stack([normalised(at.law) for at in all_of]) for all_of in self._walk(texts, prompts)]

    # ---- what is certain -----------------------------------------------------------------------

    def leak(self, state: State) -> np.ndarray:
        """For each row the share of P(text so far) that goes to tokens without bytes, `[B]`."""
        _check(state)
        found = []
        for row in state.rows:
            at = self._law(row)
            total = np.logaddexp.reduce(at.law)
            # What was dropped here is in P(text) and in no law after it.
            kept = subtracted(at.text, row.dropped)
            found.append(-np.expm1(total - kept) if total > -np.inf else 0.0)
        return np.array(found)

    def intervals(self, state: State) -> tuple[np.ndarray, np.ndarray]:
        """Certified lower and upper bounds `[B, 257]` of the log probability of the next byte or the end."""
        _check(state)
        both = [interval(self._law(row)) for row in state.rows]
        lower, upper = ([pair[i] for pair in both] for i in (0, 1))
        return np.array(lower).reshape(-1, LAW), np.array(upper).reshape(-1, LAW)

    def bounds(
        self,
        texts: Sequence[bytes | str],
        prompts: Sequence[Prompt] | None = None,
        samples: int = 0,
        seed: int = 0,
    ) -> list[Bounds]:
        """Certified bounds of each text, and with `samples` an estimate; prompts: see `score`."""
        found = []
        data = [as_bytes(text) for text in texts]
        walked = self._walk(data, prompts)
        for i, (text, laws) in enumerate(zip(data, walked, strict=True)):
            whole = np.logaddexp(laws[0].text, laws[0].lost)  # of the prompt
            lower = [0.0] + [at.text - whole for at in laws[1:]] + [laws[-1].law[END] - whole]
            upper = [np.logaddexp(at.text, at.lost) - whole for at in laws]
            upper.append(np.logaddexp(laws[-1].law[END], laws[-1].lost_after) - whole)
            both = [interval(at) for at in laws]
            guess = error = np.nan
            if samples:
                guess, error = self._estimate(text, b"" if prompts is None else prompts[i], samples, seed)
            found.append(
                Bounds(
                    np.array(lower),
                    np.minimum(np.array(upper), 0.0),
                    np.stack([pair[0] for pair in both]),
                    np.stack([pair[1] for pair in both]),
                    guess,
                    error,
                )
            )
        return found

    # ---- rows ----------------------------------------------------------------------------------

    def _start(self, prompt: Prompt) -> _Row:
        parts = segments(prompt)
        row = self._open([(() if self.bos is None else (self.bos,), 0.0)], _first(parts), -np.inf)
        for i, part in enumerate(parts):
            if isinstance(part, Text):
                for byte in part.data:
                    self._push(row, byte)
                    self._evaluate([row])
                continue
            token = self._special(part.name)
            at = [(node.tokens, node.weight) for node in row.nodes if self._closes(node, row)]
            if len(at) > 1:
                asked = self._ask([tokens for tokens, _ in at])
                at = [(tokens, w + asked[tokens][token]) for tokens, w in at]
            row = self._open([((*tokens, token), w) for tokens, w in at], _first(parts[i + 1 :]), row.lost)
        return row

    def _closes(self, node: _Node, row: _Row) -> bool:
        """Whether the text may end with this segmentation: it spells all of it, or nothing for no text."""
        if node.bare or len(row.text) > row.lead:
            return not node.bare and node.offset == len(row.text)
        return node.offset in (0, len(row.text))

    def _open(self, trunks: list[tuple[tuple[int, ...], float]], text: Text, lost: float) -> _Row:
        """A row after some trunks with their log p, before its text."""
        lead = int(self.dummy and text.dummy_prefix)
        row = _Row(text=b" " * lead, lead=lead, lost=lost, lost_before=lost, dead=not trunks)
        row.mass = float(np.logaddexp.reduce([w for _, w in trunks])) if trunks else -np.inf
        for tokens, weight in trunks:
            row.waiting.append((tokens, 0, weight, False))
            if lead:
                row.waiting.append((tokens, 1, weight, True))
        self._evaluate([row])
        if lead:  # tokens that are the dummy space alone
            for node in list(row.nodes):
                if node.offset == 0:
                    row.waiting += self._children(node, b" ", 1)
            self._evaluate([row])
        return row

    def _special(self, name: str) -> int:
        try:
            return self.vocabulary.named(name)
        except KeyError as error:
            raise ValueError(error.args[0]) from None

    def _children(self, node: _Node, text: bytes, end: int) -> list[tuple[tuple[int, ...], int, float, bool]]:
        found = []
        for token in self.vocabulary.prefixes.get(text, ()):
            share = node.q[self.vocabulary.row_of[token]]
            if share > 0:
                found.append(((*node.tokens, token), end, node.weight + float(np.log(share)), False))
        return found

    def _push(self, row: _Row, byte: int) -> None:
        """One more byte: the segmentations that end with it, less those that are dropped, are waiting."""
        mass = float(self._law(row).law[byte])
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

    def _law(self, row: _Row) -> Law:
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

    def _walk(self, texts: Sequence[bytes | str], prompts: Sequence[Prompt] | None) -> list[list[Law]]:
        if prompts is None:
            prompts = [b""] * len(texts)
        if len(prompts) != len(texts):
            raise ValueError(f"{len(texts)} texts and {len(prompts)} prompts: give one for each, or none")
        data = [as_bytes(text) for text in texts]
        rows = self.start(prompts).rows
        found = [[self._law(row)] for row in rows]
        for at in range(max(map(len, data), default=0)):
            moved = [i for i, text in enumerate(data) if at < len(text)]
            for i in moved:
                self._push(rows[i], data[i][at])
            self._evaluate([rows[i] for i in moved])
            for i in moved:
                found[i].append(self._law(rows[i]))
        return found

    # ---- the token model -----------------------------------------------------------------------

    def _evaluate(self, rows: list[_Row]) -> None:
        asked = self._ask([tokens for row in rows for tokens, _, _, _ in row.waiting])
        order = self.vocabulary.order
        for row in rows:
            for tokens, offset, weight, bare in row.waiting:
                logprobs = asked[tokens]
                end = float(np.exp(logprobs[self.ends]).sum()) if not bare else 0.0
                q = np.exp(logprobs)
                q[self.ends] = 0
                q = np.where(order < len(q), q[np.minimum(order, len(q) - 1)], 0)
                if bare:  # without the dummy space: what starts with a space would lose it
                    q[self._spaced] = 0
                row.nodes.append(_Node(tokens, offset, weight, q, end, bare))
            row.waiting = []

    def _ask(self, contexts: Sequence[tuple[int, ...]]) -> dict[tuple[int, ...], np.ndarray]:
        new = list(dict.fromkeys(contexts))
        limit = getattr(self.token_lm, "context", None)
        longest = max(map(len, new), default=0)
        if limit is not None and longest > limit:
            raise ValueError(
                f"a context of {longest} tokens, the model sees {limit}: shorten the prompt or the text"
            )
        size = max(1, _BLOCK // max(1, self.token_lm.vocab_size))
        found: dict[tuple[int, ...], np.ndarray] = {}
        for first in range(0, len(new), size):
            block = new[first : first + size]
            laws = np.asarray(self.token_lm.next_token_logprobs(block), np.float64)
            if laws.shape != (len(block), self.token_lm.vocab_size):
                raise ValueError(
                    f"next_token_logprobs gave {laws.shape}, not {(len(block), self.token_lm.vocab_size)}"
                )
            if np.isnan(laws).any():
                raise ValueError("next_token_logprobs gave NaN")
            found.update(zip(block, laws, strict=True))
        return found

    def _estimate(self, text: bytes, prompt: Prompt, samples: int, seed: int) -> tuple[float, float]:
        parts = segments(prompt)
        if any(isinstance(part, Text) and part.data for part in parts[:-1]):
            raise ValueError(
                "no estimate where text comes before a special token in the prompt: give samples=0"
            )
        trunk = () if self.bos is None else (self.bos,)
        trunk += tuple(self._special(part.name) for part in parts if isinstance(part, Special))
        last = parts[-1] if parts and isinstance(parts[-1], Text) else _NO_TEXT
        lead = int(self.dummy and last.dummy_prefix)

        def sample(data: bytes, ends: np.ndarray | None, seed: int) -> tuple[float, float]:
            return estimate(self._ask, self.vocabulary, trunk, data, lead, ends, samples, seed)

        of_text, error = sample(last.data + text, self.ends if len(self.ends) else None, seed)
        if not last.data:
            return of_text, error
        of_prompt, more = sample(last.data, None, seed + 1)
        return of_text - of_prompt, float(np.hypot(error, more))


def _first(parts: Sequence[Text | Special]) -> Text:
    """The text that comes first; none before a special token, where nothing is put before it."""
    if not parts:
        return _NO_TEXT
    return parts[0] if isinstance(parts[0], Text) else Text(b"", dummy_prefix=False)


def _check(state: State) -> None:
    if state.consumed:
        raise ValueError("this state was consumed by push; fork it first to keep it")
