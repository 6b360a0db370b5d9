"""Small exact ByteLMs in numpy, for tests of everything that knows only the protocol."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from bytelm.lm import END, LAW, ByteLM, Prompt, as_bytes, symbols_of


@dataclass
class State:
    """Each row's symbols, prompt included; None once an impossible byte was pushed."""

    rows: list[list[int] | None]
    consumed: bool = False


class HistoryLM:
    """The model whose next law `[257]` is a function of the symbols so far."""

    def __init__(self, law: Callable[[Sequence[int]], np.ndarray]):
        self.law = law

    def start(self, prompts: Sequence[Prompt]) -> State:
        return State([symbols_of(prompt).tolist() for prompt in prompts])

    def next_logprobs(self, state: State) -> np.ndarray:
        assert not state.consumed, "a consumed state was used"
        return np.stack([np.full(LAW, -np.inf) if row is None else self.law(row) for row in state.rows])

    def push(self, state: State, symbols: Sequence[int | None]) -> State:
        law_BV = self.next_logprobs(state)
        assert len(symbols) == len(state.rows)
        state.consumed = True
        rows = state.rows
        for i, symbol in enumerate(symbols):
            if symbol is not None and (row := rows[i]) is not None:
                assert 0 <= symbol < END, f"{symbol} was pushed, which is not a byte"
                row.append(symbol)
                rows[i] = row if law_BV[i, symbol] > -np.inf else None
        return State(rows)

    def fork(self, state: State) -> State:
        assert not state.consumed, "a consumed state was forked"
        return State([None if row is None else list(row) for row in state.rows])

    def laws(self, texts: Sequence[bytes | str], prompts: Sequence[Prompt] | None = None) -> list[np.ndarray]:
        found = []
        for text, prompt in zip(texts, prompts or [b""] * len(texts), strict=True):
            state = self.start([prompt])
            law_TV = [self.next_logprobs(state)[0]]
            for byte in as_bytes(text):
                state = self.push(state, [byte])
                law_TV.append(self.next_logprobs(state)[0])
            found.append(np.stack(law_TV))
        return found

    def score(
        self, texts: Sequence[bytes | str], prompts: Sequence[Prompt] | None = None
    ) -> list[np.ndarray]:
        laws = self.laws(texts, prompts)
        return [
            law_TV[np.arange(len(law_TV)), [*as_bytes(text), END]]
            for law_TV, text in zip(laws, texts, strict=True)
        ]


def normalised(logit_V: np.ndarray) -> np.ndarray:
    return logit_V - np.logaddexp.reduce(logit_V)


def uniform() -> HistoryLM:
    """Every byte and the end of text alike."""
    return HistoryLM(lambda row: np.full(LAW, -np.log(LAW)))


def hashed(order: int = 2, seed: int = 0, scale: float = 2.0, among: bytes = bytes(range(256))) -> HistoryLM:
    """A random law for every last `order` symbols; only the bytes `among`, and the end, are possible."""
    laws: dict[tuple[int, ...], np.ndarray] = {}
    masked_V = np.full(LAW, -np.inf)
    masked_V[[*among, END]] = 0

    def law(row: Sequence[int]) -> np.ndarray:
        key = tuple(row[-order:]) if order else ()
        if key not in laws:
            random = np.random.default_rng([seed, len(key), *key])
            laws[key] = normalised(scale * random.standard_normal(LAW) + masked_V)
        return laws[key]

    return HistoryLM(law)


def repeating(text: bytes, p: float = 1.0) -> HistoryLM:
    """Says `text`, wherever it stands in it (counting all symbols), and ends; with p < 1 it may err."""

    def law(row: Sequence[int]) -> np.ndarray:
        rest = (1 - p) / (LAW - 1)
        law_V = np.full(LAW, np.log(rest) if rest else -np.inf)
        law_V[text[len(row)] if len(row) < len(text) else END] = np.log(p)
        return law_V

    return HistoryLM(law)


# ---- the contract ----------------------------------------------------------------------------------


def assert_byte_lm(
    lm: ByteLM, texts: Sequence[bytes], prompts: Sequence[Prompt], *, atol: float = 1e-9
) -> None:
    """What every ByteLM must satisfy, fake or real; the texts should differ in length."""
    laws, scores = lm.laws(texts, prompts), lm.score(texts, prompts)
    assert len(laws) == len(scores) == len(texts)
    state = lm.start(prompts)
    for offset in range(max(map(len, texts)) + 1):
        law_BV = np.asarray(lm.next_logprobs(state))
        assert law_BV.shape == (len(texts), LAW)
        assert not np.isnan(law_BV).any()
        for row, text in enumerate(texts):
            at = min(offset, len(text))  # a row that was pushed None stays as it is
            symbol = text[at] if at < len(text) else END
            np.testing.assert_allclose(law_BV[row], laws[row][at], atol=atol)
            if np.isfinite(scores[row][:at]).all():
                np.testing.assert_allclose(law_BV[row, symbol], scores[row][at], atol=atol)
                if law_BV[row].max() > -np.inf:
                    np.testing.assert_allclose(np.logaddexp.reduce(law_BV[row]), 0, atol=1e-5 + atol)
            else:  # an impossible byte came before
                assert law_BV[row].max() == scores[row][at] == -np.inf
        # A fork and its original do not touch each other, whichever is pushed first.
        if offset == 0:
            twin = lm.push(lm.fork(state), [ord("~")] * len(texts))
            np.testing.assert_allclose(lm.next_logprobs(state), law_BV, atol=atol)
            twin_BV = np.array(lm.next_logprobs(twin))
        state = lm.push(state, [text[offset] if offset < len(text) else None for text in texts])
    np.testing.assert_allclose(lm.next_logprobs(twin), twin_BV, atol=atol)
    for text, prompt, law_TV, score_T in zip(texts, prompts, laws, scores, strict=True):
        assert score_T.dtype == np.float64
        assert score_T.shape == (len(text) + 1,)
        assert law_TV.shape == (len(text) + 1, LAW)
        (alone_T,) = lm.score([text], [prompt])
        np.testing.assert_allclose(alone_T, score_T, atol=atol)
