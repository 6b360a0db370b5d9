"""A tokenized language model as a model over bytes, exactly.

Phan et al., "Exact Byte-Level Probabilities from Tokenized Language Models for FIM-Tasks and Model
Ensembles" (arXiv 2410.09303), with the covers restricted to canonical sequences and, by default, the
token law renormalised over them (Vieira et al., arXiv 2412.03719 and 2506.07956).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from bytelm.exact.bounds import AllLM, Bounds, all_lm
from bytelm.exact.canonical import Canonical, canonical_of
from bytelm.exact.masses import Masses
from bytelm.exact.tree import Tree
from bytelm.lm import END, LAW, Prompt, Special, Text, TokenLM, as_bytes, segments

_BLOCK = 1 << 24  # token probabilities that are in memory at once
_NO_TEXT = Text(b"")


@dataclass
class _Row:
    """A row of a state: what comes before its text, the text's nodes and their masses.

    trunk: tokens before the text. offset: where the next byte goes, in the tree's text. dead: the row was
    given something impossible.
    """

    trunk: list[int]
    tree: Tree
    masses: Masses
    offset: int
    dead: bool = False


@dataclass
class State:
    """A ragged batch: see `ByteLM`."""

    rows: list[_Row]
    consumed: bool = False


def convert(
    token_lm: TokenLM,
    tokenizer: Any,
    bos: int | None = None,
    eos: int | Iterable[int] | None = None,
    support: Literal["canonical", "all"] = "canonical",
    normalise: Literal["local", "joint"] | None = None,
    K: int | None = 64,
    eps: float = 1e-6,
) -> ConvertedLM | AllLM:
    """The byte model that a tokenized model is.

    tokenizer: a `tokenizers.Tokenizer`, the path of a `tokenizer.json`, a `tiktoken.Encoding`, or a
    `Canonical`. bos: a token put first. eos: the tokens that end a text.

    `support="canonical"`: only prefixes of encodings count. With `normalise="local"` the token law is
    renormalised at each step over the tokens that keep the sequence one, and the byte law is proper; with
    "joint" it is taken as it is and P(x) leaks the mass of other sequences: next-byte laws are divided
    by their sum, and `leak` reports what was missing. `support="all"`: every cover counts, the token law is
    as it is, and a frontier of at most `K` new segmentations a byte is kept, of a share of at least `eps`
    (None and 0: all of them, exactly); see `AllLM`. Raises `Unsupported` for a tokenizer that cannot be
    converted, ValueError for tokens that the model does not have.
    """
    if support not in ("canonical", "all"):
        raise ValueError(f"support must be 'canonical' or 'all', not {support!r}")
    if normalise not in (None, "local", "joint"):
        raise ValueError(f"normalise must be 'local' or 'joint', not {normalise!r}")
    if support == "all" and normalise is not None:
        raise ValueError(f"normalise={normalise!r}: with support 'all' the token law is as it is")
    ends = [] if eos is None else sorted({eos} if isinstance(eos, int) else set(eos))
    for token in [*ends, *([] if bos is None else [bos])]:
        if not 0 <= token < token_lm.vocab_size:
            raise ValueError(f"bos or eos {token}: the model's tokens are 0..{token_lm.vocab_size - 1}")
    if support == "all":
        return all_lm(token_lm, tokenizer, bos, ends, K, eps)
    return ConvertedLM(token_lm, canonical_of(tokenizer), bos, ends, normalise == "joint")


class ConvertedLM:
    """A `ByteLM` over a `TokenLM`, made by `convert`; numpy, float64, on the host.

    The token model is asked once for a batch of contexts: all new nodes of all rows, in blocks. A context
    longer than its `context`, where it has one, is refused with ValueError; nothing is cut.
    """

    def __init__(
        self, token_lm: TokenLM, canonical: Canonical, bos: int | None, ends: list[int], joint: bool
    ):
        self.token_lm, self.canonical, self.bos, self.ends, self.joint = token_lm, canonical, bos, ends, joint

    # ---- the protocol --------------------------------------------------------------------------

    def start(self, prompts: Sequence[Prompt]) -> State:
        """A state of a row for each prompt. ValueError for special tokens that the tokenizer lacks."""
        rows = [self._row(prompt, b"") for prompt in prompts]
        self._evaluate(rows, [row.offset for row in rows])
        return State(rows)

    def next_logprobs(self, state: State) -> np.ndarray:
        """Log probabilities `[B, 257]` of the next byte or the end."""
        _check(state)
        return (
            np.stack([self._law(row, row.offset)[0] for row in state.rows])
            if state.rows
            else np.zeros((0, LAW))
        )

    def push(self, state: State, symbols: Sequence[int | None]) -> State:
        """A byte, or None, for each row; the old state is consumed."""
        _check(state)
        if len(symbols) != len(state.rows):
            raise ValueError(f"{len(symbols)} symbols were pushed on {len(state.rows)} rows")
        for symbol in symbols:
            if symbol is not None and not 0 <= symbol < END:
                raise ValueError(f"{symbol} was pushed, which is not a byte")
        state.consumed = True
        moved = []
        for row, symbol in zip(state.rows, symbols, strict=True):
            if symbol is None or row.dead:
                continue
            if self._law(row, row.offset)[0][symbol] == -np.inf:
                row.dead = True
                continue
            row.tree.extend([symbol])
            row.masses.grow()
            row.offset += 1
            moved.append(row)
        self._evaluate(moved, [row.offset for row in moved])
        return State(state.rows)

    def fork(self, state: State) -> State:
        """An independent copy."""
        _check(state)
        rows = []
        for row in state.rows:
            tree = row.tree.copy()
            rows.append(_Row(row.trunk, tree, row.masses.copy(tree), row.offset, row.dead))
        return State(rows)

    def score(
        self, texts: Sequence[bytes | str], prompts: Sequence[Prompt] | None = None
    ) -> list[np.ndarray]:
        """For each text float64 `[len(text) + 1]`: log p(byte | prompt, bytes before); last, the end."""
        found = []
        for text, laws in self._passes(texts, prompts):
            scores = np.full(len(text) + 1, -np.inf)
            for i, (law, symbol) in enumerate(zip(laws, [*text, END], strict=True)):
                scores[i] = law[symbol]
                if scores[i] == -np.inf:
                    scores[i:] = -np.inf
                    break
            found.append(scores)
        return found

    def laws(self, texts: Sequence[bytes | str], prompts: Sequence[Prompt] | None = None) -> list[np.ndarray]:
        """For each text `[len(text) + 1, 257]`: the whole law before each byte, and at the end."""
        return [np.stack(list(laws)) for _, laws in self._passes(texts, prompts)]

    def leak(self, state: State) -> np.ndarray:
        """For each row the share of P(text so far) that no next byte and no end inherits, `[B]`.

        Under "local" it is 0 up to rounding; NaN never: a row that is impossible leaks 0.
        """
        _check(state)
        return np.array([self._leak(row) for row in state.rows])

    def bounds(
        self,
        texts: Sequence[bytes | str],
        prompts: Sequence[Prompt] | None = None,
        K: int | None = 64,
        eps: float = 1e-6,
        samples: int = 0,
        seed: int = 0,
    ) -> list[Bounds]:
        """What all tokenisations of the texts have, certified and estimated; see `AllLM`."""
        vocabulary, dummy = self.canonical.vocabulary, self.canonical.source.dummy
        every = AllLM(self.token_lm, vocabulary, dummy, self.bos, self.ends, K, eps)
        return every.bounds(texts, prompts, samples, seed)

    # ---- rows ----------------------------------------------------------------------------------

    def _row(self, prompt: Prompt, text: bytes) -> _Row:
        """The row of a prompt and a text after it, nodes found, nothing evaluated."""
        trunk = [] if self.bos is None else [self.bos]
        parts = segments(prompt)
        last = _NO_TEXT
        if parts and isinstance(parts[-1], Text):
            last, parts = parts[-1], parts[:-1]
        dead = False
        for part in parts:
            if isinstance(part, Special):
                trunk.append(self._special(part.name))
                continue
            # A special token follows: the text before it is closed, as its encoding.
            tree = Tree(self.canonical, part.dummy_prefix)
            tree.extend(part.data)
            node = tree.ending()
            dead = dead or node is None
            trunk += tree.path(node or 0)
        tree = Tree(self.canonical, last.dummy_prefix)
        offset = tree.lead + len(last.data)
        tree.extend(last.data + text)
        return _Row(trunk, tree, Masses(tree, self.ends, self.joint), offset, dead)

    def _special(self, name: str) -> int:
        try:
            return self.canonical.vocabulary.named(name)
        except KeyError as error:
            raise ValueError(error.args[0]) from None

    def _law(self, row: _Row, offset: int) -> tuple[np.ndarray, float]:
        """The normalised law at an offset, and the log of what it was divided by; -inf if impossible."""
        if row.dead:
            return np.full(LAW, -np.inf), -np.inf
        law, total = row.masses.law(offset)
        return (law - total if total > -np.inf else law), total

    def _leak(self, row: _Row) -> float:
        _, total = self._law(row, row.offset)
        if total == -np.inf:
            return 0.0
        return float(-np.expm1(total - row.masses.text_weight(row.offset)))

    # ---- passes over the token model -----------------------------------------------------------

    def _passes(
        self, texts: Sequence[bytes | str], prompts: Sequence[Prompt] | None
    ) -> Iterator[tuple[bytes, Iterator[np.ndarray]]]:
        if prompts is None:
            prompts = [b""] * len(texts)
        if len(prompts) != len(texts):
            raise ValueError(f"{len(texts)} texts and {len(prompts)} prompts: give one for each, or none")
        data = [as_bytes(text) for text in texts]
        rows = [self._row(prompt, text) for prompt, text in zip(prompts, data, strict=True)]
        self._evaluate(rows, [row.offset for row in rows])
        for row, text in zip(rows, data, strict=True):
            yield text, (self._law(row, row.offset + i)[0] for i in range(len(text) + 1))

    def _evaluate(self, rows: list[_Row], needed: list[int]) -> None:
        """Takes the probabilities of all nodes that are waiting; laws before `needed` are dropped."""
        jobs = [row for row in rows if not row.dead for _ in row.masses.waiting()]
        size = max(1, _BLOCK // max(1, self.token_lm.vocab_size))
        for first in range(0, len(jobs), size):
            block = jobs[first : first + size]
            ahead: dict[int, int] = {}
            contexts: dict[tuple[int, ...], int] = {}
            wanted = []
            for row in block:
                node = row.masses.taken + ahead.get(id(row), 0)
                ahead[id(row)] = ahead.get(id(row), 0) + 1
                context = (*row.trunk, *row.tree.path(node))
                wanted.append(contexts.setdefault(context, len(contexts)))
            logprobs_NV = self._ask(list(contexts))
            for row, place in zip(block, wanted, strict=True):
                row.masses.take(logprobs_NV[place])
        for row, offset in zip(rows, needed, strict=True):
            row.masses.settle(offset)

    def _ask(self, contexts: list[tuple[int, ...]]) -> np.ndarray:
        limit = getattr(self.token_lm, "context", None)
        longest = max(map(len, contexts))
        if limit is not None and longest > limit:
            raise ValueError(
                f"a context of {longest} tokens, the model sees {limit}: shorten the prompt or the text"
            )
        found = np.asarray(self.token_lm.next_token_logprobs(contexts), np.float64)
        if found.shape != (len(contexts), self.token_lm.vocab_size):
            raise ValueError(
                f"next_token_logprobs gave {found.shape}, not {(len(contexts), self.token_lm.vocab_size)}"
            )
        if np.isnan(found).any():
            raise ValueError("next_token_logprobs gave NaN")
        return found


def _check(state: State) -> None:
    if state.consumed:
        raise ValueError("this state was consumed by push; fork it first to keep it")
