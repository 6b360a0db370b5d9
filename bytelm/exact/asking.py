"""A `TokenLM` asked for the laws after contexts, and what it answers checked."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from bytelm.lm import TokenLM

_BLOCK = 1 << 24  # token probabilities that are in memory at once


def blocks(token_lm: TokenLM, count: int) -> Iterator[slice]:
    """Slices of `count` contexts whose laws fit in memory together."""
    size = max(1, _BLOCK // max(1, token_lm.vocab_size))
    for first in range(0, count, size):
        yield slice(first, first + size)


def asked(token_lm: TokenLM, contexts: Sequence[Sequence[int]]) -> np.ndarray:
    """The laws `[N, V]` of the tokens after contexts, float64. ValueError for what makes no sense."""
    limit = getattr(token_lm, "context", None)
    check_length(max(map(len, contexts)), limit)
    found = np.asarray(token_lm.next_token_logprobs(contexts), np.float64)
    if found.shape != (len(contexts), token_lm.vocab_size):
        raise ValueError(
            f"next_token_logprobs gave {found.shape}, not {(len(contexts), token_lm.vocab_size)}"
        )
    if np.isnan(found).any():
        raise ValueError("next_token_logprobs gave NaN")
    return found


def check_length(tokens: int, limit: int | None) -> None:
    """Raises ValueError for a context longer than the model's: nothing is cut silently."""
    if limit is not None and tokens > limit:
        raise ValueError(
            f"a context of {tokens} tokens, the model sees {limit}: shorten the prompt or the text"
        )
