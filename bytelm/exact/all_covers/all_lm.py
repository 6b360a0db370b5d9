"""The byte model of all tokenisations. The mathematics is in `bounds`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from bytelm.exact.all_covers.bounds import Bounds, Law, interval, normalised, subtracted
from bytelm.exact.all_covers.frontier import NO_TEXT, Frontier, Row
from bytelm.exact.all_covers.importance import estimate
from bytelm.exact.batches import check_open, consumed, scores_along, special, texts_and_prompts
from bytelm.exact.tokenizer.read import read
from bytelm.exact.tokenizer.source import Source
from bytelm.exact.tokenizer.vocabulary import Vocabulary
from bytelm.lm import END, LAW, Prompt, Special, Text, TokenLM, as_bytes, segments


@dataclass
class State:
    """A ragged batch: see `ByteLM`."""

    rows: list[Row]
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
        self.token_lm, self.vocabulary = token_lm, vocabulary
        self._frontier = Frontier(token_lm, vocabulary, dummy, bos, ends, K, eps)

    # ---- the protocol --------------------------------------------------------------------------

    def start(self, prompts: Sequence[Prompt]) -> State:
        """A state of a row for each prompt. ValueError for special tokens that the tokenizer lacks."""
        return State([self._frontier.start(prompt) for prompt in prompts])

    def next_logprobs(self, state: State) -> np.ndarray:
        """Log probabilities `[B, 257]` of the next byte or the end, of the segmentations that are kept."""
        check_open(state)
        return np.array([normalised(self._frontier.law(row).law) for row in state.rows]).reshape(-1, LAW)

    def push(self, state: State, symbols: Sequence[int | None]) -> State:
        """A byte, or None, for each row; the old state is consumed."""
        consumed(state, symbols)
        moved = [(row, s) for row, s in zip(state.rows, symbols, strict=True) if s is not None]
        for row, symbol in moved:
            self._frontier.push(row, symbol)
        self._frontier.evaluate([row for row, _ in moved])
        return State(state.rows)

    def fork(self, state: State) -> State:
        """An independent copy."""
        check_open(state)
        twins = []
        for row in state.rows:
            twin = Row(**row.__dict__)
            twin.nodes, twin.waiting = row.nodes.copy(), row.waiting.copy()
            twins.append(twin)
        return State(twins)

    def score(
        self, texts: Sequence[bytes | str], prompts: Sequence[Prompt] | None = None
    ) -> list[np.ndarray]:
        """For each text float64 `[len(text) + 1]`: log p(byte | prompt, bytes before); last, the end."""
        both = zip(self.laws(texts, prompts), texts, strict=True)
        return [scores_along(laws, as_bytes(text)) for laws, text in both]

    def laws(self, texts: Sequence[bytes | str], prompts: Sequence[Prompt] | None = None) -> list[np.ndarray]:
        """For each text `[len(text) + 1, 257]`: the whole law before each byte, and at the end."""
        return [np.stack([normalised(at.law) for at in all_of]) for all_of in self._walk(texts, prompts)]

    # ---- what is certain -----------------------------------------------------------------------

    def leak(self, state: State) -> np.ndarray:
        """For each row the share of P(text so far) that goes to tokens without bytes, `[B]`."""
        check_open(state)
        found = []
        for row in state.rows:
            at = self._frontier.law(row)
            total = np.logaddexp.reduce(at.law)
            # What was dropped here is in P(text) and in no law after it.
            kept = subtracted(at.text, row.dropped)
            found.append(-np.expm1(total - kept) if total > -np.inf else 0.0)
        return np.array(found)

    def intervals(self, state: State) -> tuple[np.ndarray, np.ndarray]:
        """Certified lower and upper bounds `[B, 257]` of the log probability of the next byte or the end."""
        check_open(state)
        both = [interval(self._frontier.law(row)) for row in state.rows]
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

    def _walk(self, texts: Sequence[bytes | str], prompts: Sequence[Prompt] | None) -> list[list[Law]]:
        data, prompts = texts_and_prompts(texts, prompts)
        rows = self.start(prompts).rows
        found = [[self._frontier.law(row)] for row in rows]
        for at in range(max(map(len, data), default=0)):
            moved = [i for i, text in enumerate(data) if at < len(text)]
            for i in moved:
                self._frontier.push(rows[i], data[i][at])
            self._frontier.evaluate([rows[i] for i in moved])
            for i in moved:
                found[i].append(self._frontier.law(rows[i]))
        return found

    def _estimate(self, text: bytes, prompt: Prompt, samples: int, seed: int) -> tuple[float, float]:
        parts = segments(prompt)
        if any(isinstance(part, Text) and part.data for part in parts[:-1]):
            raise ValueError(
                "no estimate where text comes before a special token in the prompt: give samples=0"
            )
        frontier = self._frontier
        trunk: tuple[int, ...] = () if frontier.bos is None else (frontier.bos,)
        trunk += tuple(special(frontier.vocabulary, part.name) for part in parts if isinstance(part, Special))
        last = parts[-1] if parts and isinstance(parts[-1], Text) else NO_TEXT
        lead = int(frontier.dummy and last.dummy_prefix)

        def sample(data: bytes, ends: np.ndarray | None, seed: int) -> tuple[float, float]:
            return estimate(frontier.ask, frontier.vocabulary, trunk, data, lead, ends, samples, seed)

        of_text, error = sample(last.data + text, frontier.ends if len(frontier.ends) else None, seed)
        if not last.data:
            return of_text, error
        of_prompt, more = sample(last.data, None, seed + 1)
        return of_text - of_prompt, float(np.hypot(error, more))
