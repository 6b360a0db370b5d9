"""What both byte models ask of the batches that they are given, and say of wrong ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from bytelm.exact.tokenizer.vocabulary import Vocabulary
from bytelm.lm import END, Prompt, as_bytes


def check_open(state: Any) -> None:
    """Raises ValueError for a state that a push has consumed."""
    if state.consumed:
        raise ValueError("this state was consumed by push; fork it first to keep it")


def consumed(state: Any, symbols: Sequence[int | None]) -> None:
    """Marks a state that symbols are pushed on. ValueError if it was before, or for what is no byte."""
    check_open(state)
    if len(symbols) != len(state.rows):
        raise ValueError(f"{len(symbols)} symbols were pushed on {len(state.rows)} rows")
    for symbol in symbols:
        if symbol is not None and not 0 <= symbol < END:
            raise ValueError(f"{symbol} was pushed, which is not a byte")
    state.consumed = True


def texts_and_prompts(
    texts: Sequence[bytes | str], prompts: Sequence[Prompt] | None
) -> tuple[list[bytes], Sequence[Prompt]]:
    """Texts as bytes, and a prompt for each. ValueError for other numbers of prompts."""
    if prompts is None:
        prompts = [b""] * len(texts)
    if len(prompts) != len(texts):
        raise ValueError(f"{len(texts)} texts and {len(prompts)} prompts: give one for each, or none")
    return [as_bytes(text) for text in texts], prompts


def scores_along(law: np.ndarray, text: bytes) -> np.ndarray:
    """The scores `[n + 1]` of a text from its laws `[n + 1, 257]`: -inf from the first impossible byte on."""
    scores = law[np.arange(len(law)), [*text, END]]
    return np.where(np.logical_and.accumulate(scores > -np.inf), scores, -np.inf)


def special(vocabulary: Vocabulary, name: str) -> int:
    """The id of a special token of a prompt. ValueError, naming some, for one that the tokenizer lacks."""
    try:
        return vocabulary.named(name)
    except KeyError as error:
        raise ValueError(error.args[0]) from None
